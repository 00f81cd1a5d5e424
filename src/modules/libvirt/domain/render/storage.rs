//! Disks, drives, folders of the host.

use super::*;
use crate::modules::libvirt::domain::params::{Disk, DiskLimits, NetworkDisk};

impl Build<'_> {
    /// `disks` and `cdroms`, then `filesystems`.
    pub(super) fn drives(&mut self) -> Result<()> {
        let domain = self.domain;
        let disks = domain.disks.iter().flat_map(|list| list.iter()).enumerate();
        let cdroms = domain.cdroms.iter().flat_map(|list| list.iter()).enumerate();
        let drives: Vec<(&Disk, &str, String)> = disks
            .map(|(at, disk)| (&disk.0, "disk", format!("disks[{at}]")))
            .chain(cdroms.map(|(at, disk)| (&disk.0, "cdrom", format!("cdroms[{at}]"))))
            .collect();
        let mut targets = Targets::default();
        for (disk, _, _) in &drives {
            if let Some(target) = &disk.target {
                targets.claim(target)?;
            }
        }
        // A disk that the guest has keeps its name, whatever comes or goes beside it.
        let there: Vec<Element> = self
            .context
            .current
            .iter()
            .filter_map(|c| c.get("devices"))
            .flat_map(|devices| devices.named("disk"))
            .cloned()
            .collect();
        let mut names: Vec<Option<Element>> = Vec::new();
        for (disk, device, what) in &drives {
            let found = match (&disk.target, source(disk, disk.device.as_deref().unwrap_or(device), what)?) {
                (None, (_, Some(source))) => there.iter().find(|old| {
                    let name = old.get("target").and_then(|target| target.attribute("dev")).unwrap_or_default();
                    old.attribute("device").unwrap_or("disk") == disk.device.as_deref().unwrap_or(device)
                        && same_source(old, &source)
                        && !name.is_empty()
                        && !targets.has(name)
                }),
                _ => None,
            };
            let target = found.and_then(|old| old.get("target")).cloned();
            if let Some(name) = target.as_ref().and_then(|target| target.attribute("dev")) {
                targets.claim(name)?;
            }
            names.push(target);
        }
        let (mut disks, mut cdroms) = (Vec::new(), Vec::new());
        for ((disk, device, what), old) in drives.into_iter().zip(names) {
            let list = if device == "cdrom" { &mut cdroms } else { &mut disks };
            list.push((what.clone(), self.drive(disk, device, &what, old.as_ref(), &mut targets)?));
        }
        // libvirt keeps the drives of one bus together, in the order in which buses come up first; those to install from
        // come first, as in what people write by hand. Names are still given to disks first.
        for (what, (stated, chosen)) in cdroms.into_iter().chain(disks) {
            let why = self.preset_name();
            match chosen {
                Some(chosen) => self.device_with(&what, stated, &why, chosen),
                None => self.device(&what, stated),
            }
        }
        self.filesystems()
    }

    fn drive(
        &self,
        disk: &Disk,
        default_device: &str,
        what: &str,
        old: Option<&Element>,
        targets: &mut Targets,
    ) -> Result<(Element, Option<Element>)> {
        let device = disk.device.as_deref().unwrap_or(default_device);
        let device = one_of(&format!("{what}.device"), device, &["disk", "cdrom", "lun", "floppy"])?;
        let of_preset = self.preset.map_or("virtio", |preset| preset.disk_bus);
        let default_bus = match (device.as_str(), &disk.target) {
            (_, Some(target)) if target.starts_with("vd") => "virtio",
            (_, Some(target)) if target.starts_with("hd") => "ide",
            ("floppy", _) => "fdc",
            ("cdrom", None) if is_i440fx(&self.machine) => "ide",
            ("cdrom", _) => "sata",
            (_, Some(target)) if target.starts_with("sd") => "sata",
            ("disk", None) if of_preset == "sata" && is_i440fx(&self.machine) => "ide",
            ("lun", None) => "scsi",
            ("disk", _) => of_preset,
            _ => "virtio",
        };
        let kept = old.and_then(|old| old.attribute("bus"));
        let bus = disk.bus.as_deref().or(kept).unwrap_or(default_bus);
        let bus = one_of(&format!("{what}.bus"), bus, &["virtio", "sata", "ide", "scsi", "usb", "fdc", "sd"])?;
        if bus == "ide" && is_q35(&self.machine) {
            return Err(Error::parameters("machine q35 has no IDE: put the drive on sata (target sda, sdb, …)"));
        }
        let target = match (&disk.target, old.and_then(|old| old.attribute("dev"))) {
            (Some(target), _) => target.clone(),
            (None, Some(kept)) if disk.bus.is_none() || Some(&*bus) == old.and_then(|o| o.attribute("bus")) => {
                kept.to_string()
            }
            _ => targets.next(&bus)?,
        };
        let (kind, source) = source(disk, &device, &target)?;
        let mut stated_target = Element::new("target").with("dev", &*target);
        let mut chosen = Element::new("disk");
        if disk.bus.is_some() || self.preset.is_none() {
            stated_target.set("bus", &*bus);
        } else {
            chosen = chosen.child(Element::new("target").with("bus", &*bus));
        }
        let needs = |name: &str, buses: &[&str]| match buses.contains(&&*bus) {
            true => Ok(()),
            false => Err(Error::parameters(format!(
                "disk {target}: {name} is for disks on {}, and this one is on {bus}",
                buses.join(", ")
            ))),
        };
        if let Some(rate) = disk.rotation_rate {
            needs("rotation_rate", &["sata", "scsi", "ide"])?;
            if rate != 1 && !(1025..65535).contains(&rate) {
                return Err(Error::parameters(format!(
                    "disk {target}: rotation_rate is 1 (no rotation) or 1025 to 65534"
                )));
            }
            stated_target.set("rotation_rate", rate.to_string());
        }
        if let Some(removable) = disk.removable {
            needs("removable", &["usb"])?;
            stated_target.set("removable", on_off(removable));
        }
        let driver = self.driver(disk, &device, &target, &needs)?;
        if self.preset.is_some() && device == "disk" && disk.discard.is_none() && disk.readonly.is_none_or(|r| !r.0) {
            chosen = chosen.child(Element::new("driver").with("discard", "unmap"));
        }
        let flag = |name: &str, flag: Option<Flag>| flag.filter(|flag| flag.0).map(|_| Element::new(name));
        let text =
            |name: &str, text: &Option<crate::modules::params::Text>| text.as_ref().map(|text| leaf(name, &*text.0));
        if let Some(wwn) = &disk.wwn
            && (wwn.len() != 16 || !wwn.bytes().all(|b| b.is_ascii_hexdigit()))
        {
            return Err(Error::parameters(format!("disk {target}: wwn `{}` is not 16 hexadecimal digits", wwn.0)));
        }
        for (name, value, most) in [("vendor", &disk.vendor, 8), ("product", &disk.product, 16)] {
            if value.as_ref().is_some_and(|value| value.chars().count() > most) {
                return Err(Error::parameters(format!("disk {target}: {name} has at most {most} characters")));
            }
        }
        let blocks = (disk.logical_block_size.is_some() || disk.physical_block_size.is_some()).then(|| {
            Element::new("blockio")
                .with_some("logical_block_size", disk.logical_block_size.map(|n| n.to_string()))
                .with_some("physical_block_size", disk.physical_block_size.map(|n| n.to_string()))
        });
        for size in [disk.logical_block_size, disk.physical_block_size].into_iter().flatten() {
            if size < 512 || !size.is_power_of_two() {
                return Err(Error::parameters(format!(
                    "disk {target}: a block of {size} bytes can't be: 512, 4096, …"
                )));
            }
        }
        let element = Element::new("disk")
            .with("type", kind)
            .with("device", device)
            .child_some(Some(driver).filter(|driver| !driver.attributes.is_empty()))
            .child_some(source)
            .child_some(blocks)
            .child(stated_target)
            .child_some(disk.limits.as_ref().and_then(limits))
            .child_some(flag("readonly", disk.readonly))
            .child_some(flag("shareable", disk.shareable))
            .child_some(text("serial", &disk.serial))
            .child_some(text("wwn", &disk.wwn))
            .child_some(text("vendor", &disk.vendor))
            .child_some(text("product", &disk.product))
            .child_some(boot_order(disk.boot)?);
        let element = with_xml(element, what, disk.xml.as_ref())?;
        Ok((element, (!chosen.nodes.is_empty()).then_some(chosen)))
    }

    fn driver(
        &self,
        disk: &Disk,
        device: &str,
        target: &str,
        needs: &dyn Fn(&str, &[&str]) -> Result<()>,
    ) -> Result<Element> {
        let known =
            ["raw", "qcow2", "qed", "vmdk", "vdi", "vhdx", "vpc", "luks", "qcow", "cow", "dmg", "bochs", "cloop"];
        let format = match (&disk.format, &disk.path, &disk.network) {
            (Some(format), _, _) => Some(one_of("disks.format", format, &known)?),
            // libvirt takes an ISO for raw by itself, and a disk too: but a qcow2 image is not to be read as raw.
            (None, Some(path), _) if device == "disk" => {
                Some(if path.ends_with(".qcow2") { "qcow2" } else { "raw" }.to_string())
            }
            (None, None, Some(_)) => Some("raw".to_string()),
            _ => None,
        };
        let mut driver = Element::new("driver");
        if let Some(format) = format {
            driver = driver.with("name", "qemu").with("type", format);
        }
        let caches = ["default", "none", "writeback", "writethrough", "directsync", "unsafe"];
        for (name, value, known) in [
            ("cache", disk.cache.as_deref(), &caches[..]),
            ("error_policy", disk.error_policy.as_deref(), &["stop", "report", "ignore", "enospace"][..]),
            ("io", disk.io.as_deref(), &["native", "threads", "io_uring"][..]),
            ("discard", disk.discard.as_deref(), &["unmap", "ignore"][..]),
            ("detect_zeroes", disk.detect_zeroes.as_deref(), &["on", "off", "unmap"][..]),
        ] {
            if let Some(value) = value {
                driver.set(name, one_of(&format!("disks.{name}"), value, known)?);
            }
        }
        if disk.io.as_deref() == Some("native")
            && matches!(disk.cache.as_deref(), Some("writeback" | "unsafe" | "writethrough"))
        {
            return Err(Error::parameters(format!(
                "disk {target}: io native needs cache none or directsync, and this disk has {}",
                disk.cache.as_deref().unwrap_or_default()
            )));
        }
        if let Some(copy) = disk.copy_on_read {
            driver.set("copy_on_read", on_off(copy));
        }
        if let Some(thread) = disk.iothread {
            needs("iothread", &["virtio"])?;
            let has = self.domain.iothreads.unwrap_or(0);
            if thread == 0 || (thread > has && self.domain.definition.is_none()) {
                return Err(Error::parameters(format!("disk {target}: there is no I/O thread {thread}"))
                    .hint(format!("the guest has {has} of them: give `iothreads`")));
            }
            driver.set("iothread", thread.to_string());
        }
        if let Some(queues) = disk.queues {
            needs("queues", &["virtio"])?;
            driver.set("queues", queues.to_string());
        }
        Ok(driver)
    }

    fn filesystems(&mut self) -> Result<()> {
        for (at, fs) in self.domain.filesystems.iter().flat_map(|list| list.iter()).enumerate() {
            let what = format!("filesystems[{at}]");
            let kind = one_of(&format!("{what}.type"), fs.kind.as_deref().unwrap_or("virtiofs"), &["virtiofs", "9p"])?;
            let virtiofs = kind == "virtiofs";
            let modes: &[&str] = if virtiofs { &["passthrough"] } else { &["passthrough", "mapped", "squash"] };
            let mode = fs.accessmode.as_deref().unwrap_or("passthrough");
            let mode = one_of(&format!("{what}.accessmode"), mode, modes)?;
            if !virtiofs && (fs.cache.is_some() || fs.xattr.is_some() || fs.queue.is_some() || fs.binary.is_some()) {
                return Err(Error::parameters(format!("{what}: cache, xattr, queue and binary are virtiofs's")));
            }
            let source = match (&fs.source, &fs.socket) {
                (Some(path), None) => Element::new("source").with("dir", absolute(&what, path)?),
                (None, Some(path)) if virtiofs => Element::new("source").with("socket", absolute(&what, path)?),
                _ => return Err(Error::parameters(format!("{what}: give a source (the folder on the host)"))),
            };
            let cache = some_of(&format!("{what}.cache"), fs.cache.as_deref(), &["none", "auto", "always"])?;
            let binary = (fs.binary.is_some() || fs.xattr.is_some() || cache.is_some()).then(|| {
                Element::new("binary")
                    .with_some("path", fs.binary.as_ref())
                    .with_some("xattr", fs.xattr.map(on_off))
                    .child_some(cache.map(|cache| Element::new("cache").with("mode", cache)))
            });
            let mut element = Element::new("filesystem").with("type", "mount");
            if fs.socket.is_none() {
                element.set("accessmode", mode);
            }
            if virtiofs {
                let queue = fs.queue.map(|queue| queue.to_string());
                element = element.child(Element::new("driver").with("type", "virtiofs").with_some("queue", queue));
            }
            element = element
                .child_some(binary)
                .child(source)
                .child(Element::new("target").with("dir", &*fs.target))
                .child_some(fs.readonly.filter(|flag| flag.0).map(|_| Element::new("readonly")));
            let element = with_xml(element, &what, fs.xml.as_ref())?;
            self.device(&what, element);
        }
        Ok(())
    }
}

/// Names of disks in use, and the next free one of each prefix.
#[derive(Default)]
struct Targets(std::collections::BTreeSet<String>);

impl Targets {
    fn has(&self, target: &str) -> bool {
        self.0.contains(target)
    }

    fn claim(&mut self, target: &str) -> Result<()> {
        if self.0.insert(target.to_string()) {
            Ok(())
        } else {
            Err(Error::parameters(format!("two disks have the target `{target}`")))
        }
    }

    fn next(&mut self, bus: &str) -> Result<String> {
        let prefix = match bus {
            "virtio" => "vd",
            "ide" => "hd",
            "fdc" => "fd",
            _ => "sd",
        };
        let letters = || 'a'..='z';
        let short = letters().map(|letter| format!("{prefix}{letter}"));
        let long = letters().flat_map(|first| letters().map(move |second| format!("{prefix}{first}{second}")));
        let free = short.chain(long).find(|name| self.0.insert(name.clone()));
        free.ok_or_else(|| Error::parameters(format!("there are more disks on {bus} than names: give each a target")))
    }
}

/// Is this where the disk is that the guest has?
fn same_source(old: &Element, wanted: &Element) -> bool {
    let Some(source) = old.get("source") else { return false };
    let names = ["file", "dev", "pool", "volume", "protocol", "name"];
    names.iter().all(|name| wanted.attribute(name) == source.attribute(name))
}

/// The sort of disk and its `<source>`.
fn source(disk: &Disk, device: &str, what: &str) -> Result<(&'static str, Option<Element>)> {
    let given = [disk.path.is_some(), disk.pool.is_some() || disk.volume.is_some(), disk.network.is_some()];
    if given.iter().filter(|given| **given).count() > 1 {
        return Err(Error::parameters(format!("disk {what}: give one of path, pool and volume, network")));
    }
    let policies = ["mandatory", "requisite", "optional"];
    let policy = some_of("disks.startup_policy", disk.startup_policy.as_deref(), &policies)?;
    let (kind, source) = match (&disk.path, &disk.pool, &disk.volume, &disk.network) {
        (Some(path), _, _, _) if path.starts_with("/dev/") => ("block", Element::new("source").with("dev", path)),
        (Some(path), _, _, _) if path.starts_with('/') => ("file", Element::new("source").with("file", path)),
        (Some(path), _, _, _) => {
            return Err(Error::parameters(format!("disk {what}: the path `{path}` must begin with a slash")));
        }
        (None, Some(pool), Some(volume), _) => {
            ("volume", Element::new("source").with("pool", pool).with("volume", &*volume.0))
        }
        (None, None, None, Some(network)) => ("network", network_source(network)?),
        (None, None, None, None) if device == "cdrom" || device == "floppy" => return Ok(("file", None)),
        _ => return Err(Error::parameters(format!("disk {what}: give either a path, or a pool and a volume"))),
    };
    Ok((kind, Some(source.with_some("startupPolicy", policy))))
}

fn network_source(network: &NetworkDisk) -> Result<Element> {
    // https://libvirt.org/formatdomain.html#hard-drives-floppy-disks-cdroms
    const PROTOCOLS: &[&str] =
        &["rbd", "iscsi", "nbd", "gluster", "nfs", "http", "https", "ftp", "ftps", "ssh", "sheepdog", "tftp", "vxhs"];
    let protocol = one_of("disks.network.protocol", &network.protocol, PROTOCOLS)?;
    let mut source = Element::new("source").with("protocol", &*protocol).with_some("name", network.name.as_deref());
    if network.name.is_none() && protocol != "nbd" {
        return Err(Error::parameters(format!("disks.network: {protocol} needs a name")));
    }
    for host in network.hosts.iter() {
        source = source.child(match (&host.name, &host.socket) {
            (Some(name), None) => {
                Element::new("host").with("name", &*name.0).with_some("port", host.port.map(|port| port.to_string()))
            }
            (None, Some(socket)) => Element::new("host").with("transport", "unix").with("socket", socket),
            _ => return Err(Error::parameters("disks.network.hosts: give each either a name or a socket")),
        });
    }
    if network.hosts.is_empty() && protocol != "rbd" && protocol != "sheepdog" {
        return Err(Error::parameters(format!("disks.network: {protocol} needs hosts")));
    }
    let secret = Element::new("secret")
        .with("type", if protocol == "rbd" { "ceph" } else { "iscsi" })
        .with_some("uuid", network.secret_uuid.as_deref().map(|id| uuid("disks.network.secret_uuid", id)).transpose()?)
        .with_some("usage", network.secret_usage.as_deref());
    match (&network.username, network.secret_uuid.is_some() || network.secret_usage.is_some()) {
        (Some(user), true) if protocol == "rbd" || protocol == "iscsi" => {
            source = source.child(Element::new("auth").with("username", &*user.0).child(secret));
        }
        (None, false) => {}
        (Some(_), true) => return Err(Error::parameters("disks.network: libvirt logs in to rbd and iscsi only")),
        _ => return Err(Error::parameters("disks.network: a username and a secret go together")),
    }
    Ok(source)
}

fn limits(limits: &DiskLimits) -> Option<Element> {
    let mut element = Element::new("iotune");
    for (name, value) in [
        ("total_bytes_sec", limits.total_bytes.map(|size| size.0)),
        ("read_bytes_sec", limits.read_bytes.map(|size| size.0)),
        ("write_bytes_sec", limits.write_bytes.map(|size| size.0)),
        ("total_iops_sec", limits.total_iops),
        ("read_iops_sec", limits.read_iops),
        ("write_iops_sec", limits.write_iops),
    ] {
        element = element.child_some(value.map(|value| leaf(name, value.to_string())));
    }
    (!element.nodes.is_empty()).then_some(element)
}
