//! `libvirt_pool`: a place for disk images that libvirt knows by name.

use schemars::JsonSchema;
use serde::Deserialize;

use super::threeway::{self, Identity, Rules, keep, state_file};
use super::xml::{self, Element};
use super::{URI, virsh};
use crate::change::{Diff, Effect, Op, Plan};
use crate::host::{Error, Host, Result, Virt, VirtKind};
use crate::modules::Module;
use crate::modules::params::{Flag, List, Mode, Text, yes};

/// The folder of our own for pools. (libvirt keeps no metadata of pools.)
const KIND: &str = "pools";

/// Defines a storage pool of libvirt's, makes its folder, starts it, and lets it start with the host. What is in a pool is
/// never deleted, not even with `state: absent`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LibvirtPool {
    /// Its name.
    name: String,
    /// `present` (default) or `absent` (stopped and forgotten; what is in it stays).
    #[serde(default)]
    state: State,
    /// `dir` (default, a folder), `fs` (a file system that libvirt mounts), `netfs` (one of a server) or `logical` (a volume
    /// group of LVM).
    #[serde(rename = "type", default)]
    kind: Kind,
    /// The folder, or where the file system is mounted; for `logical` it is /dev and the group's name.
    path: Option<String>,
    /// `fs`: the device with the file system. `logical`: the devices that the group is made of, when it is not there yet.
    #[serde(default)]
    devices: List<String>,
    /// `netfs`: the server.
    host: Option<String>,
    /// `netfs`: the folder that the server exports.
    export: Option<String>,
    /// `logical`: the volume group; the pool's own name by default.
    group_name: Option<String>,
    /// The file system, such as `ext4` or `xfs` (`fs`), `nfs`, `glusterfs` or `cifs` (`netfs`); `auto` by default.
    format: Option<String>,
    /// `netfs`: the protocol's version, such as "4.2".
    protocol_version: Option<Text>,
    /// Mode of the folder, such as "0711"; applied when it is made.
    mode: Option<Mode>,
    /// Number of the folder's owner; applied when it is made.
    owner: Option<u32>,
    /// Number of the folder's group; applied when it is made.
    group: Option<u32>,
    /// Make what is missing when the pool is new? By default the folder is made (`dir`, `fs`, `netfs`), and a volume group is
    /// not. With `true` a group is made of `devices`; one of them that holds something already is refused.
    build: Option<Flag>,
    /// UUID; libvirt makes one for a new pool, and it is never changed.
    uuid: Option<String>,
    /// Does it run? Yes by default.
    #[serde(default = "yes")]
    active: Flag,
    /// Does it start with the host? Yes by default.
    #[serde(default = "yes")]
    autostart: Flag,
}

/// Should there be such a pool?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Yes.
    #[default]
    Present,
    /// No. What is in it stays.
    Absent,
}

/// What a pool is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// A folder.
    #[default]
    Dir,
    /// A file system that libvirt mounts.
    Fs,
    /// A file system of a server.
    Netfs,
    /// A volume group of LVM.
    Logical,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Dir => "dir",
            Kind::Fs => "fs",
            Kind::Netfs => "netfs",
            Kind::Logical => "logical",
        }
    }
}

/// What a pool's document means (<https://libvirt.org/formatstorage.html>).
struct Pool;

impl Rules for Pool {
    fn identity(&self, way: &[&str], element: &Element) -> Identity {
        match way {
            ["source", "device"] => Identity::Key(element.attribute("path").unwrap_or_default().to_string()),
            _ => Identity::Single,
        }
    }
    fn is_default(&self, way: &[&str], attribute: &str, value: &str) -> bool {
        matches!((way, attribute, value), (["source", "format"], "type", "auto" | "unknown"))
    }
    fn is_kept(&self, way: &[&str], attribute: Option<&str>) -> bool {
        matches!((way, attribute), (["source", "format"] | ["source", "name"] | ["target", ..], _))
    }
    fn words(&self, way: &[String], attribute: Option<&str>) -> String {
        let names: Vec<&str> = way.iter().map(String::as_str).collect();
        match (names.as_slice(), attribute) {
            (["source", "format"], Some("type")) => "format".to_string(),
            (["source", "host"], Some("name")) => "host".to_string(),
            (["source", "dir"], Some("path")) => "export".to_string(),
            (["source", "name"], None) => "volume group".to_string(),
            (["source", "protocol"], Some("ver")) => "protocol version".to_string(),
            (["source", device], None) => (*device).to_string(),
            (["target", "path"], None) => "path".to_string(),
            (["target", "permissions", name], None) => (*name).to_string(),
            (names, attribute) => names.iter().copied().chain(attribute).collect::<Vec<_>>().join(" "),
        }
    }
}

/// Amounts that libvirt counts: they are never stated.
fn bare(pool: &Element) -> Element {
    let mut pool = pool.clone();
    pool.retain(|child| !matches!(child.name.as_str(), "capacity" | "allocation" | "available"));
    pool
}

impl LibvirtPool {
    fn check(&self) -> Result<()> {
        let wrong = |message: &str| Err(Error::parameters(message));
        let network = self.kind == Kind::Netfs;
        if network != self.host.is_some() || network != self.export.is_some() {
            return wrong("host and export go with type netfs, which needs both");
        }
        if self.kind == Kind::Fs && self.devices.len() != 1 {
            return wrong("type fs needs one device: give `devices`");
        }
        if !matches!(self.kind, Kind::Fs | Kind::Logical) && !self.devices.is_empty() {
            return wrong("devices go with the types fs and logical");
        }
        if self.group_name.is_some() && self.kind != Kind::Logical {
            return wrong("group_name goes with type logical");
        }
        if self.protocol_version.is_some() && !network {
            return wrong("protocol_version goes with type netfs");
        }
        if self.path.is_none() && self.kind != Kind::Logical {
            return wrong("path is missing: give the folder, such as path: /srv/images");
        }
        if self.path.is_some() && self.kind == Kind::Logical {
            return wrong("a volume group is at /dev and its name: leave path out");
        }
        let folders = [&self.path, &self.export].into_iter().flatten().chain(self.devices.iter());
        for path in folders {
            let relative = !path.starts_with('/') && !matches!(self.format.as_deref(), Some("cifs" | "glusterfs"));
            if relative || path.contains(['\n', '\0']) {
                return Err(Error::parameters(format!("the path `{path}` must begin with a slash")));
            }
        }
        let formats: &[&str] = match self.kind {
            Kind::Fs => &["auto", "ext2", "ext3", "ext4", "xfs", "vfat", "gfs2", "ocfs2", "iso9660", "udf"],
            Kind::Netfs => &["auto", "nfs", "glusterfs", "cifs"],
            Kind::Dir | Kind::Logical => &[],
        };
        match &self.format {
            Some(format) if !formats.contains(&format.as_str()) => Err(Error::parameters(format!(
                "format: type {} has {}",
                self.kind.name(),
                if formats.is_empty() { "none".to_string() } else { formats.join(", ") }
            ))),
            _ => Ok(()),
        }
    }

    fn group(&self) -> &str {
        self.group_name.as_deref().unwrap_or(&self.name)
    }

    /// Where it is.
    fn place(&self) -> String {
        match &self.path {
            Some(path) if path.len() > 1 => path.trim_end_matches('/').to_string(),
            Some(path) => path.clone(),
            None => format!("/dev/{}", self.group()),
        }
    }

    fn render(&self) -> Result<Element> {
        self.check()?;
        let leaf = |name: &str, text: &str| Element::new(name).containing(text);
        let mut source = Element::new("source");
        source = source.child_some(self.host.as_ref().map(|host| Element::new("host").with("name", host)));
        source = source.child_some(self.export.as_ref().map(|path| Element::new("dir").with("path", path)));
        for device in self.devices.iter() {
            source = source.child(Element::new("device").with("path", device));
        }
        if self.kind == Kind::Logical {
            source = source.child(leaf("name", self.group())).child(Element::new("format").with("type", "lvm2"));
        }
        source = source.child_some(self.format.as_ref().map(|format| Element::new("format").with("type", format)));
        let version = self.protocol_version.as_ref().map(|ver| Element::new("protocol").with("ver", &**ver));
        source = source.child_some(version);
        let number = |name: &str, value: Option<u32>| value.map(|value| leaf(name, &value.to_string()));
        let permissions = Element::new("permissions")
            .child_some(self.mode.map(|mode| leaf("mode", &format!("0{:o}", mode.0))))
            .child_some(number("owner", self.owner))
            .child_some(number("group", self.group));
        Ok(Element::new("pool")
            .with("type", self.kind.name())
            .child(leaf("name", &self.name))
            .child_some(self.uuid.as_ref().map(|uuid| leaf("uuid", uuid)))
            .child_some(Some(source).filter(|source| !source.nodes.is_empty()))
            .child(
                Element::new("target")
                    .child(leaf("path", &self.place()))
                    .child_some(Some(permissions).filter(|permissions| !permissions.nodes.is_empty())),
            ))
    }

    fn effect(&self, state: Option<&Virt>) -> Vec<Effect> {
        vec![Effect::Virt { kind: VirtKind::Pool, name: self.name.clone(), state: state.cloned() }]
    }

    fn path_of(&self, what: &str) -> String {
        format!("{}: {what}", self.name)
    }

    fn read(&self, text: &str) -> Result<Element> {
        xml::parse(text).map(|pool| bare(&pool)).map_err(|why| {
            Error::failed(format!("can't read the XML that libvirt has of the pool {}: {why}", self.name))
        })
    }

    fn plan_definition(&self, host: &dyn Host, plan: &mut Plan, old: Option<&Virt>) -> Result<Virt> {
        let wanted = self.render()?;
        let stamp = state_file(KIND, &self.name, "xml");
        let mut state = old.cloned().unwrap_or_default();
        match old {
            None => {
                state.xml = wanted.print();
                let mut run = virsh(&["pool-define", "/dev/stdin"], self.effect(Some(&state)));
                run.stdin = Some(wanted.print());
                run.undo = Some(virsh(&["pool-undefine", &self.name], Vec::new()).argv);
                plan.push(Op::Run(run), vec![Diff::added("pool", &self.name, wanted.print())]);
            }
            Some(old) => {
                let current = self.read(&old.xml)?;
                self.same(&current)?;
                let last = host.read_text(&stamp)?.and_then(|text| xml::parse(&text).ok());
                let merged = threeway::merge(&Pool, &wanted, &current, last.as_ref());
                if !merged.changes.is_empty() {
                    state.xml = merged.xml.print();
                    let before = state_file(KIND, &self.name, "before.xml");
                    keep(host, plan, KIND, &before, &old.xml)?;
                    let mut run = virsh(&["pool-define", "/dev/stdin"], self.effect(Some(&state)));
                    run.stdin = Some(merged.xml.print());
                    run.undo = Some(virsh(&["pool-define", &before], Vec::new()).argv);
                    let diffs = merged.changes.into_iter().map(|change| Diff {
                        kind: "pool".to_string(),
                        path: self.path_of(&change.path),
                        before: change.before,
                        after: change.after,
                    });
                    plan.push(Op::Run(run), diffs.collect());
                }
            }
        }
        keep(host, plan, KIND, &stamp, &wanted.print())?;
        Ok(state)
    }

    /// What can't become another one under the same name.
    fn same(&self, current: &Element) -> Result<()> {
        let has = current.attribute("type").unwrap_or("dir");
        let way_out = "remove it first (`state: absent`: what is in it stays), or give another name";
        if has != self.kind.name() {
            let name = &self.name;
            let wanted = self.kind.name();
            return Err(Error::refused(format!(
                "the pool {name} is of type {has}, and can't become one of type {wanted}"
            ))
            .hint(way_out));
        }
        let plain = |uuid: &str| uuid.replace('-', "").to_ascii_lowercase();
        match (&self.uuid, current.text_at(&["uuid"])) {
            (Some(stated), Some(has)) if plain(stated) != plain(&has) => Err(Error::refused(format!(
                "the pool {} has the UUID {has}, and that can't be changed to {stated}",
                self.name
            ))
            .hint(format!("leave `uuid` out, or {way_out}"))),
            _ => Ok(()),
        }
    }

    /// Makes what a new pool stands on.
    fn plan_build(&self, host: &dyn Host, plan: &mut Plan) -> Result<()> {
        let place = self.place();
        if self.kind != Kind::Logical {
            if self.build.is_none_or(|build| build.0) && !host.exists(&place)? {
                let argv = ["pool-build", &self.name];
                let mut run = virsh(&argv, vec![Effect::Folder { path: place.clone() }]);
                run.undo = Some(["rmdir", "--", &place].map(String::from).to_vec());
                let mode = self.mode.map_or("0711".to_string(), |mode| format!("0{:o}", mode.0));
                plan.push(Op::Run(run), vec![Diff::added("folder", &place, mode)]);
            }
            return Ok(());
        }
        let group = self.group();
        let build = self.build.is_some_and(|build| build.0);
        let there = match host.query(&["vgs", "--noheadings", "-o", "vg_name", group])? {
            Some(output) => output.code == 0,
            // Only LVM knows; a group that nobody asks to be made is believed to be there.
            None => !build || host.exists(&place)?,
        };
        // One that shall not run needs no group yet.
        if there || (!build && !self.active.0) {
            return Ok(());
        }
        if !build {
            return Err(Error::failed(format!("there is no volume group {group} on this machine"))
                .hint("make it first, or give `devices` and `build: true`"));
        }
        if self.devices.is_empty() {
            return Err(Error::parameters("a volume group is made of devices: give `devices`"));
        }
        // Without this flag libvirt would write over whatever is on the devices.
        let run = virsh(&["pool-build", &self.name, "--no-overwrite"], vec![Effect::Folder { path: place.clone() }]);
        plan.push(Op::Run(run), vec![Diff::added("volume group", group, self.devices.join(", "))]);
        Ok(())
    }

    /// Does a running pool run with something else than its definition?
    fn waits(&self, host: &dyn Host, old: &Virt, defined: &Element) -> Result<Vec<String>> {
        let ask = |arguments: &[&str]| -> Result<Option<String>> {
            let argv: Vec<&str> = ["virsh", "-q", "-c", URI, "pool-dumpxml"].iter().chain(arguments).copied().collect();
            Ok(host.query(&argv)?.filter(|output| output.code == 0).map(|output| output.stdout))
        };
        let differs = |running: &str| -> Result<Vec<String>> {
            let running = self.read(running)?;
            Ok(threeway::merge(&Pool, defined, &running, None).changes.into_iter().map(|change| change.path).collect())
        };
        let Some(running) = ask(&[&self.name])? else { return differs(&old.xml) };
        let waits = differs(&running)?;
        // In a dry run the definition may be one that is only foreseen; then what runs is foreseen with it.
        if waits.is_empty() || ask(&["--inactive", &self.name])?.is_some_and(|text| text == old.xml) {
            return Ok(waits);
        }
        differs(&old.xml)
    }

    fn plan_absent(&self, host: &dyn Host, current: Option<Virt>) -> Result<Plan> {
        let mut plan = Plan::nothing();
        plan.set("name", self.name.as_str());
        let Some(mut state) = current else { return Ok(plan) };
        let shown = self.read(&state.xml)?.print();
        let before = state_file(KIND, &self.name, "before.xml");
        keep(host, &mut plan, KIND, &before, &state.xml)?;
        if state.active {
            state.active = false;
            // `destroy` is libvirt's word for stopping: what is in the pool stays.
            let mut run = virsh(&["pool-destroy", &self.name], self.effect(Some(&state)));
            run.undo = Some(virsh(&["pool-start", &self.name], Vec::new()).argv);
            plan.push(Op::Run(run), vec![Diff::changed("pool", self.path_of("state"), "running", "stopped")]);
        }
        let mut run = virsh(&["pool-undefine", &self.name], self.effect(None));
        run.undo = Some(virsh(&["pool-define", &before], Vec::new()).argv);
        plan.push(Op::Run(run), vec![Diff::removed("pool", &self.name, shown)]);
        let stamp = state_file(KIND, &self.name, "xml");
        if host.exists(&stamp)? {
            plan.push(Op::Remove { path: stamp }, Vec::new());
        }
        Ok(plan)
    }
}

impl Module for LibvirtPool {
    const NAME: &'static str = "libvirt_pool";
    const SUMMARY: &'static str = "Define, change and start a storage pool of libvirt's";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        if self.name.is_empty() || self.name.starts_with(['-', '.']) || self.name.contains(['/', '\n']) {
            return Err(Error::parameters(format!("`{}` can't be the name of a pool", self.name)));
        }
        let current = host.virt(VirtKind::Pool, &self.name)?;
        if self.state == State::Absent {
            return self.plan_absent(host, current);
        }
        let mut plan = Plan::nothing();
        let mut state = self.plan_definition(host, &mut plan, current.as_ref())?;
        let defined = self.read(&state.xml)?;
        let mut restart_required = false;
        match &current {
            None => self.plan_build(host, &mut plan)?,
            // A folder that went away keeps a pool from starting; what was on it is not ours to know.
            Some(old) if !old.active && self.active.0 && self.kind != Kind::Logical => {
                self.plan_build(host, &mut plan)?
            }
            Some(old) if old.active && self.active.0 => {
                let waits = self.waits(host, old, &defined)?;
                restart_required = !waits.is_empty();
                if restart_required {
                    plan.warnings.push(format!(
                        "the pool {} is running: {} takes effect when it is stopped and started again",
                        self.name,
                        waits.join(", ")
                    ));
                }
            }
            Some(_) => {}
        }
        if self.active.0 != state.active {
            state.active = self.active.0;
            let (verb, undo, before, after) = if state.active {
                ("pool-start", "pool-destroy", "stopped", "running")
            } else {
                ("pool-destroy", "pool-start", "running", "stopped")
            };
            let mut run = virsh(&[verb, &self.name], self.effect(Some(&state)));
            run.undo = Some(virsh(&[undo, &self.name], Vec::new()).argv);
            plan.push(Op::Run(run), vec![Diff::changed("pool", self.path_of("state"), before, after)]);
        }
        if self.autostart.0 != state.autostart {
            state.autostart = self.autostart.0;
            let (before, after) = if state.autostart { ("no", "yes") } else { ("yes", "no") };
            let argv = |on: bool| {
                let mut argv = vec!["pool-autostart", self.name.as_str()];
                argv.extend((!on).then_some("--disable"));
                argv
            };
            let mut run = virsh(&argv(state.autostart), self.effect(Some(&state)));
            run.undo = Some(virsh(&argv(!state.autostart), Vec::new()).argv);
            plan.push(Op::Run(run), vec![Diff::changed("pool", self.path_of("autostart"), before, after)]);
        }
        plan.set("name", self.name.as_str());
        plan.set("path", defined.text_at(&["target", "path"]));
        plan.set("restart_required", restart_required);
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::host::overlay::testing::{apply, machine, plan, shown};
    use crate::host::{Host, Model, VirtKind};

    #[test]
    fn made_once_and_changed_by_name() {
        let host = machine(&[]);
        let mut parameters = json!({"name": "img", "path": "/srv/img/", "mode": "0751"});
        let done = shown(&apply(&host, "libvirt_pool", parameters.clone()).unwrap());
        for part in [
            "+  <target>",
            "<mode>0751</mode>",
            "folder /srv/img\n+ 0751",
            "img: state\nstopped → running",
            "img: autostart",
        ] {
            assert!(done.contains(part), "{part} in {done}");
        }
        assert!(host.exists("/srv/img").unwrap());
        // What libvirt adds is left alone.
        let mut virt = host.virt(VirtKind::Pool, "img").unwrap().unwrap();
        virt.xml = virt.xml.replace("<target>", "<capacity unit='bytes'>1</capacity><source/><target>");
        host.put_virt(VirtKind::Pool, "img", Some(virt)).unwrap();
        assert!(apply(&host, "libvirt_pool", parameters.clone()).unwrap().is_empty());
        parameters["path"] = json!("/srv/other");
        let next = plan(&host, "libvirt_pool", parameters.clone()).unwrap();
        assert_eq!((next.warnings.len(), &next.result["restart_required"]), (1, &json!(true)));
        let done = shown(&apply(&host, "libvirt_pool", parameters.clone()).unwrap());
        assert_eq!(done, "pool img: path\n/srv/img → /srv/other\n");
        let done = apply(&host, "libvirt_pool", json!({"name": "img", "state": "absent"})).unwrap();
        assert!(shown(&done).contains("pool img: state\nrunning → stopped\n"));
        assert!(host.exists("/srv/img").unwrap() && host.virt(VirtKind::Pool, "img").unwrap().is_none());
        let ran = format!("{done:?}");
        assert!(!ran.contains("pool-delete") && ran.contains("pool-undefine"), "{ran}");
    }

    #[test]
    fn of_every_type() {
        let host = machine(&[]);
        for (parameters, part) in [
            (
                json!({"name": "n", "type": "netfs", "host": "nas", "export": "/e", "path": "/m", "format": "nfs",
                    "protocol_version": "4.2"}),
                "<protocol ver='4.2'/>",
            ),
            (json!({"name": "f", "type": "fs", "devices": "/dev/sdx1", "path": "/m2"}), "<device path='/dev/sdx1'/>"),
            (
                json!({"name": "l", "type": "logical", "group_name": "vg0", "devices": ["/dev/sdy"], "build": true}),
                "<name>vg0</name>",
            ),
        ] {
            let name = parameters["name"].as_str().unwrap().to_string();
            let done = format!("{:?}", apply(&host, "libvirt_pool", parameters).unwrap());
            let xml = host.virt(VirtKind::Pool, &name).unwrap().unwrap().xml;
            assert!(xml.contains(part), "{xml}");
            assert_eq!(done.contains("--no-overwrite"), name == "l", "{done}");
        }
        let path = plan(&host, "libvirt_pool", json!({"name": "l", "type": "logical", "group_name": "vg0"})).unwrap();
        assert_eq!(path.result["path"], "/dev/vg0");
        let error = plan(&host, "libvirt_pool", json!({"name": "l", "path": "/x"})).unwrap_err().to_string();
        assert!(error.contains("can't become one of type dir"), "{error}");
        for (parameters, why) in [
            (json!({"name": "a"}), "path is missing"),
            (json!({"name": "a", "path": "srv"}), "begin with a slash"),
            (json!({"name": "a", "type": "netfs", "path": "/m", "host": "nas"}), "needs both"),
            (json!({"name": "a", "type": "fs", "path": "/m"}), "one device"),
            (json!({"name": "a", "path": "/m", "format": "ext4"}), "type dir has none"),
            (json!({"name": "a", "type": "logical", "build": true}), "give `devices`"),
        ] {
            let error = plan(&host, "libvirt_pool", parameters).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
