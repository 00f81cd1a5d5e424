//! From parameters to libvirt's XML: what is stated, and the defaults that a new guest needs.

use super::params::{Cpu, Disk, Features, Firmware, Graphics, Interface, LibvirtDomain, Pci, Usb, Video, usb_id};
use crate::diag::nearest;
use crate::host::{Error, Result};
use crate::modules::libvirt::values::{PciAddress, Size};
use crate::modules::libvirt::xml::{self, Element, Node};
use crate::modules::params::Flag;

/// A firmware as chosen on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenFirmware {
    /// The code file.
    pub loader: String,
    /// The file that new variables are copied from.
    pub nvram_template: Option<String>,
    /// `raw` or `qcow2`.
    pub format: String,
}

/// What rendering must know of the machine; all of it read before.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The guest as it is defined now.
    pub current: Option<Element>,
    /// QEMU's path on this distribution.
    pub emulator: Option<String>,
    /// What `firmware: ovmf` means on this machine.
    pub firmware: Option<ChosenFirmware>,
    /// All functions of the cards in `gpus`, sorted.
    pub gpu_functions: Vec<PciAddress>,
}

/// What must hold.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Everything stated here must be so.
    pub xml: Element,
    /// And these must not be there: ways such as `os/loader` or `os@firmware`.
    pub absent: Vec<&'static str>,
    /// What of `xml` the user said: without what was chosen for a new guest or kept of an old one.
    pub intent: Element,
}

/// Where libvirt itself keeps UEFI variables.
pub fn default_nvram(name: &str) -> String {
    format!("/var/lib/libvirt/qemu/nvram/{name}_VARS.fd")
}

/// Is this machine type of the i440fx sort (with IDE, without PCI Express)?
pub fn is_i440fx(machine: &str) -> bool {
    machine == "pc" || machine.starts_with("pc-i440fx") || machine.starts_with("pc-0.") || machine.starts_with("pc-1.")
}

/// The XML that these parameters state.
///
/// # Errors
/// Parameters that libvirt would refuse, or swallow without doing what they say.
pub fn render(domain: &LibvirtDomain, context: &Context) -> Result<Wanted> {
    let mut absent = Vec::new();
    let current = context.current.as_ref();
    let machine = match (&domain.machine, current.and_then(|c| c.at(&["os", "type"]))) {
        (Some(machine), _) => machine.clone(),
        (None, Some(old)) => old.attribute("machine").unwrap_or("q35").to_string(),
        (None, None) => "q35".to_string(),
    };
    let kind = match (&domain.kind, current.and_then(|c| c.attribute("type"))) {
        (Some(kind), _) => kind.clone(),
        (None, old) => old.unwrap_or("kvm").to_string(),
    };
    let mut root = Element::new("domain").with("type", kind).child(leaf("name", &*domain.name));
    for (name, value) in [("uuid", &domain.uuid), ("title", &domain.title), ("description", &domain.description)] {
        root = root.child_some(value.as_ref().map(|value| leaf(name, value)));
    }
    root = root.child_some(domain.memory.map(|size| memory("memory", size)));
    root = root.child_some(domain.current_memory.map(|size| memory("currentMemory", size)));
    if let (Some(memory), Some(current)) = (domain.memory, domain.current_memory)
        && current > memory
    {
        return Err(Error::parameters(format!("current_memory ({current}) is more than memory ({memory})")));
    }
    root = root.child_some(vcpus(domain)?.map(|count| leaf("vcpu", count.to_string())));
    root = root.child(os(domain, context, &machine, &mut absent)?);
    root = root.child(features(&domain.features, domain.firmware, &mut absent)?);
    root = root.child_some(cpu(domain)?);
    root = root.child_some(clock(domain)?);
    for (name, value) in
        [("on_poweroff", &domain.on_poweroff), ("on_reboot", &domain.on_reboot), ("on_crash", &domain.on_crash)]
    {
        if let Some(value) = value {
            let known = ["destroy", "restart", "preserve", "rename-restart", "coredump-destroy", "coredump-restart"];
            root = root.child(leaf(name, one_of(name, value, &known)?));
        }
    }
    root = root.child(devices(domain, context, &machine)?);
    if let Some(text) = &domain.xml {
        merge_extra(&mut root, text)?;
    }
    check_legal(&root)?;
    let intent = intent(domain, &root);
    Ok(Wanted { xml: root, absent, intent })
}

fn intent(domain: &LibvirtDomain, root: &Element) -> Element {
    let mut intent = root.clone();
    if domain.kind.is_none() {
        intent.unset("type");
    }
    if let Some(os) = intent.get_mut("os") {
        if domain.machine.is_none()
            && let Some(kind) = os.get_mut("type")
        {
            kind.unset("machine");
        }
        if domain.loader.is_none() {
            os.retain(|child| child.name != "loader" && child.name != "nvram");
            os.unset("firmware");
        }
    }
    if let Some(devices) = intent.get_mut("devices")
        && domain.emulator.is_none()
    {
        devices.retain(|device| device.name != "emulator");
    }
    intent
}

fn leaf(name: &str, text: impl Into<String>) -> Element {
    Element::new(name).containing(text)
}

fn memory(name: &str, size: Size) -> Element {
    leaf(name, size.kib().to_string()).with("unit", "KiB")
}

fn on_off(flag: Flag) -> &'static str {
    if flag.0 { "on" } else { "off" }
}

fn yes_no(flag: Flag) -> &'static str {
    if flag.0 { "yes" } else { "no" }
}

/// libvirt takes some wrong words without a sound, so words are checked here.
fn one_of(what: &str, value: &str, known: &[&str]) -> Result<String> {
    if known.contains(&value) {
        return Ok(value.to_string());
    }
    let error = Error::parameters(format!("{what}: `{value}` is not one of {}", known.join(", ")));
    Err(match nearest(value, known.iter().copied()) {
        Some(name) => error.hint(format!("did you mean `{name}`?")),
        None => error,
    })
}

fn vcpus(domain: &LibvirtDomain) -> Result<Option<u32>> {
    let product = match &domain.topology {
        Some(t) => Some(
            t.sockets
                .checked_mul(t.cores)
                .and_then(|n| n.checked_mul(t.threads))
                .filter(|n| *n > 0)
                .ok_or_else(|| Error::parameters("topology: sockets, cores and threads must each be at least 1"))?,
        ),
        None => None,
    };
    match (domain.vcpus, product) {
        (Some(0), _) => Err(Error::parameters("vcpus must be at least 1")),
        (Some(stated), Some(product)) if stated != product => Err(Error::parameters(format!(
            "vcpus is {stated}, and topology has room for {product} (sockets × cores × threads)"
        ))),
        (stated, product) => Ok(stated.or(product)),
    }
}

fn os(domain: &LibvirtDomain, context: &Context, machine: &str, absent: &mut Vec<&'static str>) -> Result<Element> {
    let arch = domain.arch.as_deref().unwrap_or("x86_64");
    let mut os =
        Element::new("os").child(Element::new("type").with("arch", arch).with("machine", machine).containing("hvm"));
    if domain.loader.is_some() && domain.firmware.is_some() {
        return Err(Error::parameters("firmware and loader are both given: one of them says which firmware it is"));
    }
    let nvram_path = || domain.nvram.clone().unwrap_or_else(|| default_nvram(&domain.name));
    let current_os = context.current.as_ref().and_then(|c| c.get("os"));
    match (&domain.loader, domain.firmware) {
        (Some(loader), _) => {
            absent.push("os@firmware");
            os = os.child(
                leaf("loader", loader)
                    .with("readonly", "yes")
                    .with_some("secure", domain.loader_secure.map(yes_no))
                    .with("type", "pflash"),
            );
            os = os.child(leaf("nvram", nvram_path()).with_some("template", domain.nvram_template.as_ref()));
        }
        (None, Some(Firmware::Bios)) => {
            absent.extend(["os@firmware", "os/firmware", "os/loader", "os/nvram"]);
        }
        (None, Some(_)) => {
            // A guest that has UEFI keeps the firmware it was installed with: its variables belong to that build.
            match current_os.filter(|os| has_uefi(os)) {
                Some(old) => {
                    os = os.child_some(old.get("loader").cloned());
                    os = os.child_some(old.get("nvram").cloned());
                    if let Some(auto) = old.attribute("firmware") {
                        os.set("firmware", auto);
                    }
                }
                None => {
                    let chosen = context.firmware.as_ref().ok_or_else(|| {
                        Error::parameters("`firmware: ovmf` needs a machine to find it on")
                            .hint("give `loader` and `nvram_template`")
                    })?;
                    let secure = domain.firmware == Some(Firmware::OvmfSecureboot);
                    let format = (chosen.format != "raw").then_some(chosen.format.as_str());
                    os = os.child(
                        leaf("loader", &chosen.loader)
                            .with("readonly", "yes")
                            .with_some("secure", secure.then_some("yes"))
                            .with("type", "pflash")
                            .with_some("format", format),
                    );
                    os = os.child(
                        leaf("nvram", nvram_path())
                            .with_some("template", chosen.nvram_template.as_ref())
                            .with_some("templateFormat", format.filter(|_| chosen.nvram_template.is_some()))
                            .with_some("format", format),
                    );
                }
            }
        }
        (None, None) => {
            if domain.nvram.is_some() || domain.nvram_template.is_some() {
                return Err(Error::parameters("nvram only makes sense with `loader` or `firmware: ovmf`"));
            }
        }
    }
    if domain.firmware == Some(Firmware::OvmfSecureboot) && is_i440fx(machine) {
        return Err(Error::parameters(format!("Secure Boot needs machine q35, and this guest has `{machine}`")));
    }
    for device in domain.boot.iter() {
        os = os.child(Element::new("boot").with("dev", one_of("boot", device, &["hd", "cdrom", "network", "fd"])?));
    }
    Ok(os)
}

/// Does a domain's `<os>` boot by UEFI?
pub fn has_uefi(os: &Element) -> bool {
    os.attribute("firmware") == Some("efi")
        || os.get("loader").is_some_and(|loader| loader.attribute("type") == Some("pflash"))
}

fn features(features: &Features, firmware: Option<Firmware>, absent: &mut Vec<&'static str>) -> Result<Element> {
    let mut element = Element::new("features");
    for (name, way, flag) in [
        ("acpi", "features/acpi", features.acpi.or(Some(Flag(true)))),
        ("apic", "features/apic", features.apic.or(Some(Flag(true)))),
        ("pae", "features/pae", features.pae),
    ] {
        match flag {
            Some(Flag(true)) => element = element.child(Element::new(name)),
            Some(Flag(false)) => absent.push(way),
            None => {}
        }
    }
    if !features.hyperv.is_empty() {
        element = element.child(hyperv(features)?);
    }
    if let Some(hidden) = features.kvm_hidden {
        element = element.child(Element::new("kvm").child(Element::new("hidden").with("state", on_off(hidden))));
    }
    if let Some(vmport) = features.vmport {
        element = element.child(Element::new("vmport").with("state", on_off(vmport)));
    }
    let smm = features.smm.or((firmware == Some(Firmware::OvmfSecureboot)).then_some(Flag(true)));
    if let Some(smm) = smm {
        element = element.child(Element::new("smm").with("state", on_off(smm)));
    }
    if let Some(driver) = &features.ioapic {
        element = element.child(Element::new("ioapic").with("driver", one_of("ioapic", driver, &["kvm", "qemu"])?));
    }
    Ok(element)
}

fn hyperv(features: &Features) -> Result<Element> {
    use serde_json::Value;
    // https://libvirt.org/formatdomain.html#hypervisor-features
    const KNOWN: [&str; 17] = [
        "relaxed",
        "vapic",
        "spinlocks",
        "vpindex",
        "runtime",
        "synic",
        "stimer",
        "reset",
        "vendor_id",
        "frequencies",
        "reenlightenment",
        "tlbflush",
        "ipi",
        "evmcs",
        "avic",
        "emsr_bitmap",
        "xmm_input",
    ];
    let mut element = Element::new("hyperv");
    for (name, value) in &features.hyperv {
        let name = one_of("features.hyperv", name, &KNOWN)?;
        let on = Element::new(&name).with("state", "on");
        let wrong = |what: &str| Error::parameters(format!("features.hyperv.{name}: {what} is expected, not {value}"));
        element = element.child(match (name.as_str(), value) {
            ("spinlocks", Value::Number(retries)) => {
                let retries = retries.as_u64().filter(|n| *n >= 4095);
                let retries = retries.ok_or_else(|| wrong("a number of retries of at least 4095"))?;
                on.with("retries", retries.to_string())
            }
            ("vendor_id", Value::String(id)) => {
                if id.is_empty() || id.len() > 12 || id.contains(',') {
                    return Err(wrong("one to twelve characters without a comma"));
                }
                on.with("value", id)
            }
            ("vendor_id", _) => return Err(wrong("a string in quotes")),
            (_, Value::Bool(true)) if name != "spinlocks" => on,
            (_, Value::Bool(false)) => Element::new(&name).with("state", "off"),
            _ => return Err(wrong("true or false")),
        });
    }
    Ok(element)
}

fn cpu(domain: &LibvirtDomain) -> Result<Option<Element>> {
    if domain.cpu.is_none() && domain.topology.is_none() {
        return Ok(None);
    }
    let mut element = Element::new("cpu");
    if let Some(cpu) = &domain.cpu {
        let Cpu { mode, model, check, migratable, features, .. } = &cpu.0;
        let mode = mode.as_deref().unwrap_or(if model.is_some() { "custom" } else { "host-passthrough" });
        let mode = one_of("cpu.mode", mode, &["host-passthrough", "host-model", "maximum", "custom"])?;
        if (mode == "custom") != model.is_some() {
            return Err(Error::parameters("cpu: a model goes with mode custom, and only with it"));
        }
        element.set("mode", mode.as_str());
        if mode == "custom" {
            element.set("match", "exact");
        }
        if let Some(check) = check {
            element.set("check", one_of("cpu.check", check, &["none", "partial", "full"])?);
        }
        if let Some(migratable) = migratable {
            element.set("migratable", on_off(*migratable));
        }
        element = element.child_some(model.as_ref().map(|model| leaf("model", model)));
        for (name, policy) in features {
            let policy = one_of("cpu.features", policy, &["require", "disable", "force", "optional", "forbid"])?;
            element = element.child(Element::new("feature").with("policy", policy).with("name", name));
        }
    }
    if let Some(t) = &domain.topology {
        element = element.child(
            Element::new("topology")
                .with("sockets", t.sockets.to_string())
                .with("cores", t.cores.to_string())
                .with("threads", t.threads.to_string()),
        );
    }
    Ok(Some(element))
}

fn clock(domain: &LibvirtDomain) -> Result<Option<Element>> {
    let Some(clock) = &domain.clock else { return Ok(None) };
    let offset = one_of("clock", &clock.offset, &["utc", "localtime", "timezone", "variable"])?;
    if (offset == "timezone") != clock.timezone.is_some() {
        return Err(Error::parameters("clock: timezone goes with offset timezone, and only with it"));
    }
    let mut element = Element::new("clock").with("offset", offset).with_some("timezone", clock.timezone.as_ref());
    for timer in clock.timers.iter() {
        let known = ["rtc", "pit", "hpet", "kvmclock", "hypervclock", "tsc", "platform"];
        element = element.child(
            Element::new("timer")
                .with("name", one_of("clock.timers", &timer.name, &known)?)
                .with_some("tickpolicy", timer.tickpolicy.as_ref())
                .with_some("present", timer.present.map(yes_no)),
        );
    }
    Ok(Some(element))
}

fn devices(domain: &LibvirtDomain, context: &Context, machine: &str) -> Result<Element> {
    let mut devices = Element::new("devices");
    let current = context.current.as_ref().and_then(|c| c.text_at(&["devices", "emulator"]));
    let emulator = domain.emulator.clone().or(current).or_else(|| context.emulator.clone());
    devices = devices.child_some(emulator.map(|path| leaf("emulator", path)));
    let mut targets = Targets::default();
    let drives = || {
        let disks = domain.disks.iter().flat_map(|list| list.iter()).map(|disk| (&disk.0, "disk"));
        disks.chain(domain.cdroms.iter().flat_map(|list| list.iter()).map(|disk| (&disk.0, "cdrom")))
    };
    for (disk, _) in drives() {
        if let Some(target) = &disk.target {
            targets.claim(target)?;
        }
    }
    let (mut disks, mut cdroms) = (Vec::new(), Vec::new());
    for (disk, device) in drives() {
        let list = if device == "cdrom" { &mut cdroms } else { &mut disks };
        list.push(drive(disk, device, machine, &mut targets)?);
    }
    // libvirt keeps the drives of one bus together, in the order in which buses come up first; those to install from
    // come first, as in what people write by hand. Names are still given to disks first.
    for drive in cdroms.into_iter().chain(disks) {
        devices = devices.child(drive);
    }
    for interface in domain.interfaces.iter().flat_map(|list| list.iter()) {
        devices = devices.child(network_card(interface)?);
    }
    for input in domain.inputs.iter().flat_map(|list| list.iter()) {
        let kind = one_of("inputs", &input.kind, &["tablet", "mouse", "keyboard", "passthrough"])?;
        let bus = one_of("inputs.bus", input.bus.as_deref().unwrap_or("usb"), &["usb", "virtio", "ps2"])?;
        devices = devices.child(Element::new("input").with("type", kind).with("bus", bus));
    }
    for graphics in domain.graphics.iter().flat_map(|list| list.iter()) {
        devices = devices.child(display(graphics)?);
    }
    for video in domain.video.iter().flat_map(|list| list.iter()) {
        devices = devices.child(card(video)?);
    }
    for element in host_devices(domain, context)? {
        devices = devices.child(element);
    }
    if let Some(model) = &domain.memballoon {
        let known = ["none", "virtio", "virtio-transitional", "virtio-non-transitional"];
        devices = devices.child(Element::new("memballoon").with("model", one_of("memballoon", model, &known)?));
    }
    Ok(devices)
}

/// Names of disks in use, and the next free one of each prefix.
#[derive(Default)]
struct Targets(std::collections::BTreeSet<String>);

impl Targets {
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
        let free = ('a'..='z').map(|letter| format!("{prefix}{letter}")).find(|name| self.0.insert(name.clone()));
        free.ok_or_else(|| Error::parameters(format!("there are more disks on {bus} than letters: give each a target")))
    }
}

fn drive(disk: &Disk, default_device: &str, machine: &str, targets: &mut Targets) -> Result<Element> {
    let device = disk.device.as_deref().unwrap_or(default_device);
    let device = one_of("disks.device", device, &["disk", "cdrom", "lun", "floppy"])?;
    let default_bus = match (device.as_str(), &disk.target) {
        (_, Some(target)) if target.starts_with("vd") => "virtio",
        (_, Some(target)) if target.starts_with("hd") => "ide",
        ("floppy", _) => "fdc",
        ("cdrom", _) if is_i440fx(machine) && disk.target.is_none() => "ide",
        ("cdrom", _) => "sata",
        (_, Some(target)) if target.starts_with("sd") => "sata",
        _ => "virtio",
    };
    let bus = disk.bus.as_deref().unwrap_or(default_bus);
    let bus = one_of("disks.bus", bus, &["virtio", "sata", "ide", "scsi", "usb", "fdc", "sd"])?;
    if bus == "ide" && (machine == "q35" || machine.starts_with("pc-q35")) {
        return Err(Error::parameters("machine q35 has no IDE: put the drive on sata (target sda, sdb, …)"));
    }
    let target = match &disk.target {
        Some(target) => target.clone(),
        None => targets.next(&bus)?,
    };
    let (kind, source) = match (&disk.path, &disk.pool, &disk.volume) {
        (Some(path), None, None) if path.starts_with("/dev/") => {
            ("block", Some(Element::new("source").with("dev", path)))
        }
        (Some(path), None, None) if path.starts_with('/') => ("file", Some(Element::new("source").with("file", path))),
        (Some(path), None, None) => {
            return Err(Error::parameters(format!("disk {target}: the path `{path}` must begin with a slash")));
        }
        (None, Some(pool), Some(volume)) => {
            ("volume", Some(Element::new("source").with("pool", pool).with("volume", &**volume)))
        }
        (None, None, None) if device == "cdrom" || device == "floppy" => ("file", None),
        _ => return Err(Error::parameters(format!("disk {target}: give either a path, or a pool and a volume"))),
    };
    let format = match (&disk.format, &disk.path) {
        (Some(format), _) => {
            Some(one_of("disks.format", format, &["raw", "qcow2", "qed", "vmdk", "vdi", "vhdx", "vpc", "luks"])?)
        }
        // libvirt takes an ISO for raw by itself, and a disk too: but a qcow2 image is not to be read as raw.
        (None, Some(path)) if device == "disk" => {
            Some(if path.ends_with(".qcow2") { "qcow2" } else { "raw" }.to_string())
        }
        _ => None,
    };
    let mut driver = Element::new("driver");
    if let Some(format) = format {
        driver = driver.with("name", "qemu").with("type", format);
    }
    let caches = ["default", "none", "writeback", "writethrough", "directsync", "unsafe"];
    for (name, value, known) in [
        ("cache", disk.cache.as_deref(), &caches[..]),
        ("io", disk.io.as_deref(), &["native", "threads", "io_uring"][..]),
        ("discard", disk.discard.as_deref(), &["unmap", "ignore"][..]),
        ("detect_zeroes", disk.detect_zeroes.as_deref(), &["on", "off", "unmap"][..]),
    ] {
        if let Some(value) = value {
            driver.set(name, one_of(&format!("disks.{name}"), value, known)?);
        }
    }
    let flag = |name: &str, flag: Option<Flag>| flag.filter(|flag| flag.0).map(|_| Element::new(name));
    Ok(Element::new("disk")
        .with("type", kind)
        .with("device", device)
        .child_some(Some(driver).filter(|driver| !driver.attributes.is_empty()))
        .child_some(source)
        .child(Element::new("target").with("dev", target).with("bus", bus))
        .child_some(flag("readonly", disk.readonly))
        .child_some(flag("shareable", disk.shareable))
        .child_some(disk.serial.as_ref().map(|serial| leaf("serial", &**serial)))
        .child_some(boot_order(disk.boot)?))
}

fn boot_order(order: Option<u32>) -> Result<Option<Element>> {
    match order {
        Some(0) => Err(Error::parameters("boot: the order of devices begins with 1")),
        order => Ok(order.map(|order| Element::new("boot").with("order", order.to_string()))),
    }
}

fn network_card(interface: &Interface) -> Result<Element> {
    let (kind, source) = match (&interface.bridge, &interface.network, &interface.direct) {
        (Some(bridge), None, None) => ("bridge", Element::new("source").with("bridge", &**bridge)),
        (None, Some(network), None) => ("network", Element::new("source").with("network", &**network)),
        (None, None, Some(dev)) => ("direct", Element::new("source").with("dev", &**dev).with("mode", "bridge")),
        _ => return Err(Error::parameters("interfaces: give each exactly one of bridge, network, direct")),
    };
    let mac = match &interface.mac {
        Some(mac) => Some(Element::new("mac").with("address", mac_address(mac)?)),
        None => None,
    };
    // https://www.qemu.org/docs/master: the models QEMU has on x86; libvirt takes any word.
    const MODELS: [&str; 11] = [
        "virtio",
        "virtio-transitional",
        "virtio-non-transitional",
        "e1000",
        "e1000e",
        "igb",
        "rtl8139",
        "ne2k_pci",
        "pcnet",
        "vmxnet3",
        "i82551",
    ];
    let model = one_of("interfaces.model", interface.model.as_deref().unwrap_or("virtio"), &MODELS)?;
    Ok(Element::new("interface")
        .with("type", kind)
        .child_some(mac)
        .child(source)
        .child(Element::new("model").with("type", model))
        .child_some(boot_order(interface.boot)?))
}

fn mac_address(text: &str) -> Result<String> {
    let bytes: Vec<&str> = text.split(':').collect();
    let hex = |part: &&str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
    let first = bytes.first().and_then(|first| u8::from_str_radix(first, 16).ok());
    match first {
        Some(first) if bytes.len() == 6 && bytes.iter().all(hex) => {
            if first & 1 == 1 {
                return Err(Error::parameters(format!(
                    "mac: {text} is a multicast address; its first byte must be even"
                )));
            }
            Ok(text.to_ascii_lowercase())
        }
        _ => Err(Error::parameters(format!("mac: `{text}` is not a MAC address, such as 52:54:00:12:34:56"))),
    }
}

fn display(graphics: &Graphics) -> Result<Element> {
    let kinds = ["vnc", "spice", "sdl", "egl-headless", "dbus", "rdp"];
    let kind = one_of("graphics.type", &graphics.kind, &kinds)?;
    let mut element = Element::new("graphics").with("type", &*kind);
    if kind == "vnc" || kind == "spice" {
        match graphics.port {
            Some(port) => element = element.with("port", port.to_string()).with("autoport", "no"),
            None if kind == "vnc" => element = element.with("port", "-1").with("autoport", "yes"),
            None => element = element.with("autoport", "yes"),
        }
        element = element
            .with_some("listen", graphics.listen.as_deref())
            .with_some("keymap", graphics.keymap.as_ref())
            .with_some("passwd", graphics.passwd.as_deref());
    }
    Ok(element)
}

fn card(video: &Video) -> Result<Element> {
    let known = ["virtio", "qxl", "cirrus", "vga", "bochs", "ramfb", "vmvga", "none"];
    let model = one_of("video.model", &video.model, &known)?;
    let kib = |size: Option<Size>| size.map(|size| size.kib().to_string());
    Ok(Element::new("video").child(
        Element::new("model")
            .with("type", model)
            .with_some("ram", kib(video.ram))
            .with_some("vram", kib(video.vram))
            .with_some("vgamem", kib(video.vgamem))
            .with_some("heads", video.heads.map(|heads| heads.to_string())),
    ))
}

fn host_devices(domain: &LibvirtDomain, context: &Context) -> Result<Vec<Element>> {
    let mut elements = Vec::new();
    let mut seen = std::collections::BTreeSet::new();
    let gpus: Vec<Pci> = domain
        .gpus
        .iter()
        .flat_map(|list| list.iter())
        .filter_map(|gpu| {
            let (rom_file, rom_bar) = (gpu.rom_file.clone(), gpu.rom_bar);
            Some(Pci { address: gpu.address?, managed: gpu.managed, rom_file, rom_bar, boot: gpu.boot, xml: None })
        })
        .collect();
    let gpus = gpus.iter();
    let pci = domain.pci.iter().flat_map(|list| list.iter()).map(|pci| &pci.0);
    let stated: Vec<&Pci> = gpus.clone().chain(pci).collect();
    for device in &stated {
        if !seen.insert(device.address.0) {
            return Err(Error::parameters(format!("the PCI device {} is given twice", device.address.0)));
        }
        elements.push(pci_device(device, device.address.0)?);
    }
    for gpu in gpus {
        for function in context.gpu_functions.iter().filter(|f| f.same_card(&gpu.address.0)) {
            if seen.insert(*function) {
                let plain = Pci { rom_file: None, rom_bar: None, boot: None, ..gpu.clone() };
                elements.push(pci_device(&plain, *function)?);
            }
        }
    }
    for usb in domain.usb.iter().flat_map(|list| list.iter()) {
        elements.push(usb_device(usb)?);
    }
    Ok(elements)
}

fn pci_device(pci: &Pci, address: PciAddress) -> Result<Element> {
    let rom = (pci.rom_bar.is_some() || pci.rom_file.is_some()).then(|| {
        Element::new("rom").with_some("bar", pci.rom_bar.map(on_off)).with_some("file", pci.rom_file.as_ref())
    });
    Ok(Element::new("hostdev")
        .with("mode", "subsystem")
        .with("type", "pci")
        .with("managed", yes_no(pci.managed))
        .child(Element::new("driver").with("name", "vfio"))
        .child(
            Element::new("source").child(
                Element::new("address")
                    .with("domain", format!("0x{:04x}", address.domain))
                    .with("bus", format!("0x{:02x}", address.bus))
                    .with("slot", format!("0x{:02x}", address.slot))
                    .with("function", format!("0x{:x}", address.function)),
            ),
        )
        .child_some(boot_order(pci.boot)?)
        .child_some(rom))
}

fn usb_device(usb: &Usb) -> Result<Element> {
    let id = |name: &str, text: &str| -> Result<Element> {
        let id = usb_id(text).map_err(|why| Error::parameters(format!("usb: {why}")))?;
        Ok(Element::new(name).with("id", format!("0x{id:04x}")))
    };
    let mut source = Element::new("source").with_some("startupPolicy", usb.startup_policy.as_ref());
    source = match (&usb.vendor, &usb.product, usb.bus, usb.device) {
        (Some(vendor), Some(product), None, None) => source.child(id("vendor", vendor)?).child(id("product", product)?),
        (None, None, Some(bus), Some(device)) => {
            source.child(Element::new("address").with("bus", bus.to_string()).with("device", device.to_string()))
        }
        _ => return Err(Error::parameters("usb: give each vendor and product, or bus and device")),
    };
    Ok(Element::new("hostdev")
        .with("mode", "subsystem")
        .with("type", "usb")
        .with("managed", yes_no(usb.managed))
        .child(source)
        .child_some(boot_order(usb.boot)?))
}

/// The namespace of `<qemu:commandline>`.
const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

fn merge_extra(root: &mut Element, text: &str) -> Result<()> {
    let extra = xml::parse(&format!("<domain>{text}</domain>"))
        .map_err(|why| Error::parameters(format!("parameter `xml`: {why}")))?;
    let mut elements: Vec<&Element> = extra.elements().collect();
    // Somebody may paste a whole <domain>.
    if let [only] = elements.as_slice()
        && only.name == "domain"
    {
        elements = only.elements().collect();
    }
    for element in elements {
        if element.name.starts_with("qemu:") {
            root.set("xmlns:qemu", QEMU);
        }
        match root.get_mut(&element.name) {
            Some(old) if old.name == "devices" => old.nodes.extend(element.nodes.iter().cloned()),
            Some(old) => merge_element(old, element),
            None => root.nodes.push(Node::Element(element.clone())),
        }
    }
    Ok(())
}

fn merge_element(into: &mut Element, from: &Element) {
    for (name, value) in &from.attributes {
        into.set(name, value.as_str());
    }
    if from.elements().next().is_none() {
        if !from.nodes.is_empty() {
            into.nodes = from.nodes.clone();
        }
        return;
    }
    for child in from.elements() {
        match into.get_mut(&child.name) {
            Some(old) => merge_element(old, child),
            None => into.nodes.push(Node::Element(child.clone())),
        }
    }
}

fn check_legal(element: &Element) -> Result<()> {
    let texts =
        element.attributes.iter().map(|(_, value)| value.as_str()).chain(element.nodes.iter().filter_map(|node| {
            match node {
                Node::Text(text) => Some(text.as_str()),
                Node::Element(_) => None,
            }
        }));
    for text in texts {
        if let Some(c) = text.chars().find(|c| !xml::is_legal(*c)) {
            let code = u32::from(c);
            return Err(Error::parameters(format!(
                "<{}>: the character U+{code:04X} can't stand in XML",
                element.name
            )));
        }
    }
    element.elements().try_for_each(check_legal)
}
