//! `libvirt_volume`: a disk image, made if it is missing, grown if it is too small, and otherwise never touched.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::values::Size;
use super::virsh;
use super::xml::{self, Element};
use crate::change::{Diff, Effect, Op, Plan, Run};
use crate::host::{Error, FileKind, Host, Result, Stat, VirtKind};
use crate::modules::Module;
use crate::modules::params::{Flag, yes};
use crate::modules::system::make_folders;

/// Makes a disk image for a guest: an empty one, one on top of another, or a copy of another in any format. One that is there
/// keeps what is in it; it is made larger when `capacity` says so, never smaller.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LibvirtVolume {
    /// The image's path. Or give `pool` and `name`.
    path: Option<String>,
    /// The storage pool it is in, a folder or a volume group; `default` is /var/lib/libvirt/images where libvirt has no such
    /// pool.
    pool: Option<String>,
    /// Its name in the pool.
    name: Option<String>,
    /// Its size with a unit, such as "60 GiB". Not needed with a backing file or a source. Less than it has is refused.
    capacity: Option<Size>,
    /// `qcow2` (default, grows as it is filled) or `raw`. A volume group has only `raw`.
    format: Option<Format>,
    /// The image it begins as a copy of; what is written goes to the new one alone (qcow2 only).
    backing_file: Option<String>,
    /// Format of `backing_file`; `qcow2` by default.
    backing_format: Option<Format>,
    /// An image of any format on this machine, whose content the new one gets (`qemu-img convert`). It stays as it is.
    source: Option<String>,
    /// Format of `source`: `qcow2`, `raw`, `vmdk`, `vdi`, `vhdx`, `vpc`, …; by default QEMU finds out.
    source_format: Option<String>,
    /// How much of a new image is taken from the disk at once: `off` (default), `metadata`, `falloc` or `full`.
    preallocation: Option<Preallocation>,
    /// Make one that is there larger when `capacity` is more than it has? Yes by default; with `no`, its size is nobody's
    /// business.
    #[serde(default = "yes")]
    resize: Flag,
}

/// A format of disk images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Format {
    /// Grows as it is filled, knows snapshots.
    Qcow2,
    /// As it is.
    Raw,
}

impl Format {
    fn name(self) -> &'static str {
        match self {
            Format::Qcow2 => "qcow2",
            Format::Raw => "raw",
        }
    }
}

/// How much of a new image is taken from the disk at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Preallocation {
    /// Nothing.
    Off,
    /// The tables of a qcow2 image.
    Metadata,
    /// All of it, without writing it.
    Falloc,
    /// All of it, written with zeros.
    Full,
}

impl Preallocation {
    fn option(self) -> &'static str {
        match self {
            Preallocation::Off => "preallocation=off",
            Preallocation::Metadata => "preallocation=metadata",
            Preallocation::Falloc => "preallocation=falloc",
            Preallocation::Full => "preallocation=full",
        }
    }
}

/// Where an image is.
struct Place {
    path: String,
    /// The pool that must look again when something in it changed.
    refresh: Option<String>,
    /// The volume group and its pool, for a logical volume.
    group: Option<(String, String)>,
}

/// What `qemu-img info` says.
struct Info {
    size: u64,
    format: String,
    backing: Option<String>,
}

/// More than this a logical volume is not larger than it was asked to be: it ends with a whole extent.
const EXTENT: u64 = 32 << 20;

/// Copying a large image takes longer than other commands may.
const COPY_TIME: u64 = 24 * 3600;

impl Module for LibvirtVolume {
    const NAME: &'static str = "libvirt_volume";
    const SUMMARY: &'static str = "Make or enlarge a guest's disk image";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let place = self.place(host)?;
        let format = self.format(&place)?;
        let mut plan = Plan::nothing();
        plan.set("path", place.path.as_str());
        plan.set("format", format.name());
        match host.stat(&place.path)? {
            Some(stat) if stat.kind == FileKind::Folder => {
                return Err(Error::failed(format!("{} is a folder, not a disk image", place.path)));
            }
            Some(stat) => self.plan_there(host, &mut plan, &place, &stat)?,
            None if place.group.is_some() => self.plan_logical(host, &mut plan, &place)?,
            None => self.plan_new(host, &mut plan, &place, format)?,
        }
        if !plan.actions.is_empty()
            && let Some(pool) = &place.refresh
        {
            plan.push(Op::Run(virsh(&["pool-refresh", pool], Vec::new())), Vec::new());
        }
        Ok(plan)
    }
}

impl LibvirtVolume {
    fn format(&self, place: &Place) -> Result<Format> {
        match self.format {
            Some(Format::Qcow2) if place.group.is_some() => {
                Err(Error::parameters("a volume group has raw volumes only: leave `format` out"))
            }
            None if place.group.is_some() => Ok(Format::Raw),
            format => Ok(format.unwrap_or(Format::Qcow2)),
        }
    }

    /// One that is there: what is in it stays, its size may grow.
    fn plan_there(&self, host: &dyn Host, plan: &mut Plan, place: &Place, stat: &Stat) -> Result<()> {
        let path = &place.path;
        let Some(info) = info(host, path, None)? else { return Ok(()) };
        // A file that is only foreseen has no size yet; what is on the disk below it is not what it will be.
        if stat.kind == FileKind::File && stat.size == 0 && info.size != 0 {
            return Ok(());
        }
        plan.set("capacity", info.size);
        if let Some(format) = self.format.filter(|format| format.name() != info.format && info.size != 0) {
            plan.warnings.push(format!("{path} is of format {}, not {}, and stays so", info.format, format.name()));
        }
        if let Some(backing) = self.backing_file.as_ref().filter(|backing| info.backing.as_ref() != Some(backing)) {
            let has = info.backing.as_ref().map_or("stands alone".to_string(), |has| format!("is on {has}"));
            plan.warnings.push(format!("{path} {has}, not on {backing}, and stays so"));
        }
        let Some(Size(wanted)) = self.capacity.filter(|_| self.resize.0) else { return Ok(()) };
        // Disks end with a whole sector.
        let wanted = wanted.div_ceil(512) * 512;
        let spare = if place.group.is_some() { EXTENT } else { 0 };
        if wanted == info.size || (info.size > wanted && info.size - wanted < spare) {
            return Ok(());
        }
        let (has, should) = (Size(info.size), Size(wanted));
        if info.size > wanted {
            return Err(Error::refused(format!(
                "{path} has {has}, and capacity says {should}: making it smaller would cut off what is in it"
            ))
            .hint(format!("say `capacity: \"{has}\"`, or `resize: false` to leave its size alone")));
        }
        let grown = || vec![Effect::File { path: path.clone(), content: None, mode: None }];
        let bytes = wanted.to_string();
        let mut diffs = vec![Diff::changed("volume", format!("{path}: capacity"), has.to_string(), should.to_string())];
        let user = running_user(host, path)?;
        if place.group.is_some() {
            let size = format!("{bytes}b");
            let run = Run::new(["lvextend", "-q", "-L", size.as_str(), path.as_str()], grown());
            plan.push(Op::Run(run), std::mem::take(&mut diffs));
        }
        match user {
            // QEMU has the image open: it must be told, and does it itself.
            Some(domain) => {
                let size = format!("{bytes}B");
                plan.push(Op::Run(virsh(&["blockresize", &domain, path, "--size", &size], grown())), diffs);
            }
            None if place.group.is_none() => {
                let argv = ["qemu-img", "resize", "-q", "-f", info.format.as_str(), path.as_str(), bytes.as_str()];
                plan.push(Op::Run(Run::new(argv, grown())), diffs);
            }
            None => {}
        }
        Ok(())
    }

    fn check_new(&self, host: &dyn Host, format: Format) -> Result<()> {
        if self.capacity.is_none() && self.backing_file.is_none() && self.source.is_none() {
            return Err(Error::parameters("capacity is missing: give for example capacity: \"60 GiB\""));
        }
        if self.backing_file.is_some() && format == Format::Raw {
            return Err(Error::parameters("a raw image can't have a backing file: leave `format` out"));
        }
        if self.backing_file.is_some() && self.source.is_some() {
            return Err(Error::parameters("backing_file and source are both given: an image begins as one of them"));
        }
        if format == Format::Raw && self.preallocation == Some(Preallocation::Metadata) {
            return Err(Error::parameters("a raw image has no metadata: preallocation may be off, falloc or full"));
        }
        for (what, file) in [("backing file", &self.backing_file), ("source", &self.source)] {
            if let Some(file) = file
                && !host.exists(file)?
            {
                return Err(Error::failed(format!("the {what} {file} does not exist")));
            }
        }
        if let (Some(source), Some(Size(wanted))) = (&self.source, self.capacity)
            && let Some(info) = info(host, source, self.source_format.as_deref())?
            && info.size > wanted
        {
            let (has, wanted) = (Size(info.size), Size(wanted));
            return Err(Error::refused(format!(
                "{source} has {has}, and capacity says {wanted}: making it smaller would cut off what is in it"
            )));
        }
        Ok(())
    }

    fn plan_new(&self, host: &dyn Host, plan: &mut Plan, place: &Place, format: Format) -> Result<()> {
        let path = &place.path;
        let (folder, name) = path
            .rsplit_once('/')
            .filter(|(_, name)| !name.is_empty())
            .ok_or_else(|| Error::parameters(format!("`{path}` can't be a disk image: give an absolute path")))?;
        self.check_new(host, format)?;
        if !folder.is_empty() {
            make_folders(host, plan, folder)?;
        }
        // Made beside its place and moved there whole, never over another: a killed run leaves nothing half.
        let part = format!("{folder}/.{name}.part");
        let made = || vec![Effect::File { path: part.clone(), content: None, mode: None }];
        let size = self.capacity.map(|size| size.0.to_string());
        let diff = vec![Diff::added("volume", path, self.words(format))];
        let options = self.preallocation.map(|preallocation| ["-o", preallocation.option()]);
        match &self.source {
            Some(source) => {
                plan.push(Op::Run(self.copy(source, format, &part, made(), &options.unwrap_or_default())), diff);
                if let Some(size) = size {
                    let argv = ["qemu-img", "resize", "-q", "-f", format.name(), part.as_str(), size.as_str()];
                    plan.push(Op::Run(Run::new(argv, made())), Vec::new());
                }
            }
            None => {
                let mut argv: Vec<&str> = vec!["qemu-img", "create", "-q", "-f", format.name()];
                argv.extend(options.iter().flatten());
                if let Some(backing) = &self.backing_file {
                    let backing_format = self.backing_format.unwrap_or(Format::Qcow2).name();
                    argv.extend(["-b", backing, "-F", backing_format]);
                }
                argv.push(&part);
                argv.extend(size.as_deref());
                let mut run = Run::new(argv, made());
                run.timeout = self.preallocation.map(|_| COPY_TIME);
                plan.push(Op::Run(run), diff);
            }
        }
        let effects =
            vec![Effect::Gone { path: part.clone() }, Effect::File { path: path.clone(), content: None, mode: None }];
        let argv = ["mv", "-T", "-n", "--", part.as_str(), path.as_str()];
        plan.push(Op::Run(Run::new(argv, effects)), Vec::new());
        Ok(())
    }

    /// What a new image is, for people.
    fn words(&self, format: Format) -> String {
        let size = self.capacity.map(|size| size.to_string());
        let on = self.backing_file.as_ref().map(|backing| format!("on {backing}"));
        let from = self.source.as_ref().map(|source| format!("copied from {source}"));
        let words: Vec<String> = [Some(format.name().to_string()), size, on, from].into_iter().flatten().collect();
        words.join(", ")
    }

    fn copy(&self, source: &str, format: Format, to: &str, effects: Vec<Effect>, options: &[&str]) -> Run {
        let mut argv: Vec<&str> = vec!["qemu-img", "convert", "-q"];
        if let Some(source_format) = &self.source_format {
            argv.extend(["-f", source_format]);
        }
        argv.extend(["-O", format.name()]);
        argv.extend(options.iter().filter(|option| !option.is_empty()));
        argv.extend([source, to]);
        Run { timeout: Some(COPY_TIME), ..Run::new(argv, effects) }
    }

    /// A new volume of a volume group.
    fn plan_logical(&self, host: &dyn Host, plan: &mut Plan, place: &Place) -> Result<()> {
        let Some((group, pool)) = &place.group else { return Ok(()) };
        self.check_new(host, Format::Raw)?;
        let path = &place.path;
        let name = path.rsplit('/').next().unwrap_or_default();
        let size = match (self.capacity, &self.source) {
            (Some(size), _) => size.0,
            (None, Some(source)) => match info(host, source, self.source_format.as_deref())? {
                Some(info) => info.size,
                None => return Err(Error::parameters("capacity is missing: a volume group needs to know it")),
            },
            (None, None) => return Err(Error::parameters("capacity is missing: a volume group needs to know it")),
        };
        let size = size.div_ceil(512) * 512;
        let diff = vec![Diff::added("volume", path, self.words(Format::Raw))];
        let made = |path: &str| vec![Effect::File { path: path.to_string(), content: None, mode: None }];
        let create = |name: &str, effects| {
            let size = size.to_string();
            virsh(&["vol-create-as", pool, name, &size, "--format", "raw"], effects)
        };
        let Some(source) = &self.source else {
            let mut run = create(name, made(path));
            run.undo = Some(virsh(&["vol-delete", name, "--pool", pool], Vec::new()).argv);
            plan.push(Op::Run(run), diff);
            return Ok(());
        };
        // Filled under another name, so that a killed run leaves nothing half.
        let part_name = format!("{name}.part");
        let part = format!("/dev/{group}/{part_name}");
        if host.exists(&part)? {
            let gone = vec![Effect::Gone { path: part.clone() }];
            let run = virsh(&["vol-delete", &part_name, "--pool", pool], gone);
            plan.push(Op::Run(run), vec![Diff::removed("volume", &part, "left by a run that was cut off")]);
        }
        plan.push(Op::Run(create(&part_name, made(&part))), diff);
        plan.push(Op::Run(self.copy(source, Format::Raw, &part, Vec::new(), &["-n"])), Vec::new());
        let mut effects = made(path);
        effects.push(Effect::Gone { path: part });
        plan.push(Op::Run(Run::new(["lvrename", "-q", group, &part_name, name], effects)), Vec::new());
        Ok(())
    }

    fn place(&self, host: &dyn Host) -> Result<Place> {
        match (&self.path, &self.pool, &self.name) {
            (Some(path), None, None) if path.starts_with('/') => {
                Ok(Place { path: path.clone(), refresh: None, group: None })
            }
            (Some(path), None, None) => Err(Error::parameters(format!("the path `{path}` must begin with a slash"))),
            (None, pool, Some(name)) if !name.is_empty() && !name.contains('/') && !name.starts_with('.') => {
                let pool = pool.as_deref().unwrap_or("default");
                let Some(virt) = host.virt(VirtKind::Pool, pool)? else {
                    if pool == "default" {
                        return Ok(Place {
                            path: format!("/var/lib/libvirt/images/{name}"),
                            refresh: None,
                            group: None,
                        });
                    }
                    return Err(Error::failed(format!("libvirt has no pool {pool}")));
                };
                let refresh = virt.active.then(|| pool.to_string());
                let xml = xml::parse(&virt.xml).map_err(|why| {
                    Error::failed(format!("can't read the XML that libvirt has of the pool {pool}: {why}"))
                })?;
                place_in(pool, &xml, name, refresh)
            }
            _ => Err(Error::parameters("give either path, or name (and pool)")),
        }
    }
}

fn place_in(pool: &str, xml: &Element, name: &str, refresh: Option<String>) -> Result<Place> {
    match xml.attribute("type") {
        Some("dir" | "fs" | "netfs") => {
            let folder = xml.text_at(&["target", "path"]).filter(|path| path.starts_with('/'));
            let folder = folder.ok_or_else(|| Error::failed(format!("the pool {pool} has no folder")))?;
            Ok(Place { path: format!("{}/{name}", folder.trim_end_matches('/')), refresh, group: None })
        }
        Some("logical") => {
            if refresh.is_none() {
                return Err(Error::failed(format!("the pool {pool} is not running, and a volume group needs it"))
                    .hint("a `libvirt_pool` task starts it"));
            }
            let group = xml.text_at(&["source", "name"]).unwrap_or_else(|| pool.to_string());
            Ok(Place { path: format!("/dev/{group}/{name}"), refresh, group: Some((group, pool.to_string())) })
        }
        _ => Err(Error::failed(format!("the pool {pool} is neither a folder of images nor a volume group"))),
    }
}

/// Size and format of an image, where the machine can be asked. One that a guest uses is looked at too (`-U`).
fn info(host: &dyn Host, path: &str, format: Option<&str>) -> Result<Option<Info>> {
    let mut argv = vec!["qemu-img", "info", "-U", "--output=json"];
    argv.extend(format.iter().flat_map(|format| ["-f", format]));
    argv.push(path);
    let Some(output) = host.query(&argv)?.filter(|output| output.code == 0) else { return Ok(None) };
    let Ok(said) = serde_json::from_str::<Value>(&output.stdout) else { return Ok(None) };
    let text = |name: &str| said.get(name).and_then(Value::as_str).map(str::to_string);
    let (Some(size), Some(format)) = (said.get("virtual-size").and_then(Value::as_u64), text("format")) else {
        return Ok(None);
    };
    Ok(Some(Info { size, format, backing: text("backing-filename") }))
}

/// A running guest that has this image.
fn running_user(host: &dyn Host, path: &str) -> Result<Option<String>> {
    for name in host.virt_names(VirtKind::Domain)? {
        let Some(virt) = host.virt(VirtKind::Domain, &name)?.filter(|virt| virt.active) else { continue };
        let Ok(domain) = xml::parse(&virt.xml) else { continue };
        let uses = |disk: &Element| {
            let source = disk.get("source");
            ["file", "dev"].iter().any(|kind| source.and_then(|source| source.attribute(kind)) == Some(path))
        };
        if domain.get("devices").is_some_and(|devices| devices.named("disk").any(uses)) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::change::{Action, Op};
    use crate::host::overlay::testing::{apply, machine, plan, shown};
    use crate::host::{Model, Virt, VirtKind};

    #[test]
    fn made_once_and_never_overwritten() {
        let host = machine(&[("/srv/there.qcow2", "precious")]);
        let parameters = json!({"path": "/srv/img/win8.qcow2", "capacity": "60 GiB"});
        let done = apply(&host, "libvirt_volume", parameters).unwrap();
        assert!(shown(&done).ends_with("volume /srv/img/win8.qcow2\n+ qcow2, 60 GiB\n"), "{}", shown(&done));
        let there = json!({"path": "/srv/there.qcow2", "capacity": "1 GiB", "format": "raw"});
        assert!(apply(&host, "libvirt_volume", there).unwrap().is_empty());
        let over = json!({"path": "/srv/new.qcow2", "backing_file": "/srv/there.qcow2"});
        let done = apply(&host, "libvirt_volume", over).unwrap();
        assert!(shown(&done).contains("+ qcow2, on /srv/there.qcow2"), "{}", shown(&done));
        for (wrong, why) in [
            (json!({"path": "/srv/x"}), "capacity is missing"),
            (json!({"path": "x", "capacity": "1 GiB"}), "begin with a slash"),
            (json!({"path": "/x", "capacity": "1 GiB", "backing_file": "/none"}), "does not exist"),
            (json!({"path": "/x", "format": "raw", "backing_file": "/srv/there.qcow2"}), "can't have a backing file"),
            (json!({"path": "/srv", "capacity": "1 GiB"}), "is a folder"),
            (json!({"pool": "none", "name": "x", "capacity": "1 GiB"}), "has no pool none"),
            (json!({"capacity": "1 GiB"}), "give either"),
        ] {
            let error = plan(&host, "libvirt_volume", wrong).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn copies_and_volume_groups() {
        let host = machine(&[("/srv/a.vmdk", "x")]);
        let parameters = json!({"path": "/srv/a.qcow2", "source": "/srv/a.vmdk", "source_format": "vmdk",
            "capacity": "60 GiB", "preallocation": "metadata"});
        let done = apply(&host, "libvirt_volume", parameters).unwrap();
        assert!(shown(&done).contains("+ qcow2, 60 GiB, copied from /srv/a.vmdk"), "{}", shown(&done));
        let ran = |done: &[Action]| -> Vec<String> {
            let argv = |action: &Action| match &action.op {
                Op::Run(run) => Some(run.argv.join(" ").replace("virsh -c qemu:///system ", "")),
                _ => None,
            };
            done.iter().filter_map(argv).collect()
        };
        assert_eq!(
            ran(&done),
            [
                "qemu-img convert -q -f vmdk -O qcow2 -o preallocation=metadata /srv/a.vmdk /srv/.a.qcow2.part",
                "qemu-img resize -q -f qcow2 /srv/.a.qcow2.part 64424509440",
                "mv -T -n -- /srv/.a.qcow2.part /srv/a.qcow2",
            ]
        );
        let xml = "<pool type='logical'><name>fast</name><source><name>vg0</name></source></pool>".to_string();
        let pool = |active| Some(Virt { xml: xml.clone(), active, ..Virt::default() });
        host.put_virt(VirtKind::Pool, "fast", pool(true)).unwrap();
        let done = apply(&host, "libvirt_volume", json!({"pool": "fast", "name": "a", "capacity": "1 GiB"})).unwrap();
        assert_eq!(ran(&done), ["vol-create-as fast a 1073741824 --format raw", "pool-refresh fast"]);
        let copy = json!({"pool": "fast", "name": "b", "source": "/srv/a.vmdk", "capacity": "1 GiB"});
        let done = apply(&host, "libvirt_volume", copy).unwrap();
        assert_eq!(
            ran(&done),
            [
                "vol-create-as fast b.part 1073741824 --format raw",
                "qemu-img convert -q -O raw -n /srv/a.vmdk /dev/vg0/b.part",
                "lvrename -q vg0 b.part b",
                "pool-refresh fast",
            ]
        );
        for (wrong, why) in [
            (json!({"pool": "fast", "name": "x", "capacity": "1 GiB", "format": "qcow2"}), "raw volumes only"),
            (json!({"pool": "fast", "name": "x", "source": "/srv/a.vmdk"}), "needs to know"),
            (json!({"path": "/srv/x", "source": "/srv/none"}), "source /srv/none does not exist"),
            (json!({"path": "/srv/x", "source": "/srv/a.vmdk", "backing_file": "/srv/a.vmdk"}), "both given"),
        ] {
            let error = plan(&host, "libvirt_volume", wrong).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        host.put_virt(VirtKind::Pool, "fast", pool(false)).unwrap();
        let stopped = plan(&host, "libvirt_volume", json!({"pool": "fast", "name": "c", "capacity": "1 GiB"}));
        assert!(stopped.unwrap_err().to_string().contains("is not running"));
    }

    #[test]
    fn a_pools_folder_is_libvirts() {
        let host = machine(&[]);
        let xml = "<pool type='dir'><name>img</name><target><path>/data/img</path></target></pool>".to_string();
        host.put_virt(VirtKind::Pool, "img", Some(Virt { xml, ..Virt::default() })).unwrap();
        let place = |parameters| plan(&host, "libvirt_volume", parameters).unwrap().result["path"].clone();
        assert_eq!(place(json!({"pool": "img", "name": "a.qcow2", "capacity": "1 GiB"})), "/data/img/a.qcow2");
        assert_eq!(place(json!({"name": "a", "capacity": "1 GiB"})), "/var/lib/libvirt/images/a");
    }
}
