//! `initramfs`: made anew for the kernels that boot when what goes into it has changed, and then surely.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::loader::{self, Boot, BootEntry};
use super::{room, trial};
use crate::change::{Content, Diff, Effect, Op, Plan, Run};
use crate::host::{Error, Family, FileKind, Host, Result};
use crate::modules::Module;
use crate::modules::params::{List, Text};
use crate::modules::vfio::persist::{self, Tool};

/// Makes the initramfs of the kernels that boot anew when a file that goes into it has changed since, or it is missing.
///
/// The kernel that boots next counts, not the one that runs. dracut, initramfs-tools and mkinitcpio are known. A new image is
/// made beside the old one and takes its place when it is whole; the old one is kept as `.bak` where there is room.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Initramfs {
    /// Which kernels: `default` (the one that boots next; the default), `all` in the boot menu except the rescue kernel, or a
    /// list of releases such as "4.9.2-1.el7.elrepo.x86_64".
    #[serde(default)]
    kernels: List<Text>,
}

/// Where this program notes from which files an image was made.
const NOTES: &str = "/var/lib/vfio-provision/initramfs";

/// What the tools read when they make an image.
const INPUTS: &[&str] = &[
    "/etc/dracut.conf",
    "/etc/dracut.conf.d",
    "/etc/driverctl.d",
    "/etc/initramfs-tools",
    "/etc/mkinitcpio.conf",
    "/etc/mkinitcpio.conf.d",
    "/etc/modprobe.d",
    "/etc/modules-load.d",
];

/// From which files an image was made.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    kernel: String,
    image: String,
    /// Path and SHA-256.
    inputs: BTreeMap<String, String>,
}

/// An image that is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    release: String,
    image: String,
}

impl Module for Initramfs {
    const NAME: &'static str = "initramfs";
    const SUMMARY: &'static str = "Make the initramfs of the kernels that boot anew when what goes into it has changed";
    const FREE_FORM: Option<&'static str> = Some("kernels");

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let tool = persist::tool(host)?.ok_or_else(|| {
            Error::failed("no tool that makes an initramfs was found")
                .hint("known: dracut, initramfs-tools and mkinitcpio")
        })?;
        let boot = loader::read(host)?;
        let inputs = inputs(host)?;
        let mut plan = Plan::nothing();
        let mut told = Vec::new();
        for target in self.targets(host, &boot)? {
            let reason = stale(host, &target, &inputs)?;
            told.push(
                serde_json::json!({"kernel": target.release, "image": target.image, "current": reason.is_none()}),
            );
            match reason {
                Some(reason) => build(host, tool, &target, &inputs, &reason, &mut plan)?,
                None => look_inside(host, tool, &target, &mut plan)?,
            }
        }
        plan.set("images", told);
        Ok(plan)
    }
}

impl Initramfs {
    fn targets(&self, host: &dyn Host, boot: &Boot) -> Result<Vec<Target>> {
        let names: Vec<&str> = match &*self.kernels {
            [] => vec!["default"],
            some => some.iter().map(|name| name.0.as_str()).collect(),
        };
        let mut found: Vec<Target> = Vec::new();
        let mut add = |target: Target| {
            if !found.contains(&target) {
                found.push(target);
            }
        };
        for name in names {
            match name {
                "default" => {
                    add(of_entry(boot, boot.default_entry()?)?);
                    // What is set to boot once is what boots next.
                    if let Some(next) = boot.next().filter(|next| !next.is_rescue_kernel()) {
                        add(of_entry(boot, next)?);
                    }
                }
                "all" => {
                    for entry in boot.entries.iter().filter(|entry| !entry.is_rescue_kernel()) {
                        add(of_entry(boot, entry)?);
                    }
                }
                release => {
                    if !host.exists(&format!("/lib/modules/{release}"))? {
                        let known = host.list("/lib/modules")?;
                        return Err(Error::parameters(format!(
                            "no kernel {release} is installed: /lib/modules has no such folder"
                        ))
                        .hint(format!("installed: {}", known.join(", "))));
                    }
                    match boot.entries.iter().find(|entry| entry.version.as_deref() == Some(release)) {
                        Some(entry) => add(of_entry(boot, entry)?),
                        None => add(Target { release: release.into(), image: usual_image(boot, release)? }),
                    }
                }
            }
        }
        Ok(found)
    }
}

fn of_entry(boot: &Boot, entry: &BootEntry) -> Result<Target> {
    let Some(release) = entry.version.clone() else {
        return Err(Error::failed(format!(
            "which release the kernel {} of `{}` is can't be told",
            entry.kernel, entry.title
        ))
        .hint("name it: `kernels: [\"6.7.1-arch1-1\"]`"));
    };
    let image = match &entry.image {
        Some(image) => image.clone(),
        None => usual_image(boot, &release)?,
    };
    Ok(Target { release, image })
}

/// Where a kernel's initramfs usually is.
pub(super) fn usual_image(boot: &Boot, release: &str) -> Result<String> {
    match boot.os.family {
        Family::El | Family::Fedora => Ok(format!("/boot/initramfs-{release}.img")),
        Family::Debian | Family::Ubuntu => Ok(format!("/boot/initrd.img-{release}")),
        Family::Suse => Ok(format!("/boot/initrd-{release}")),
        Family::Arch => Err(Error::failed(format!("no boot entry names an initramfs for {release}"))),
    }
}

/// All files that go into an image, by what is in them and whether they may be run.
fn inputs(host: &dyn Host) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for path in INPUTS {
        collect(host, path, 0, &mut found)?;
    }
    for name in host.list("/etc/udev/rules.d")?.iter().filter(|name| name.contains("vfio-provision")) {
        collect(host, &format!("/etc/udev/rules.d/{name}"), 0, &mut found)?;
    }
    Ok(found)
}

/// Nobody nests these folders deeper.
const DEEPEST: usize = 6;

fn collect(host: &dyn Host, path: &str, depth: usize, found: &mut BTreeMap<String, String>) -> Result<()> {
    match host.stat(path)? {
        Some(stat) if stat.kind == FileKind::Folder && depth < DEEPEST => {
            for name in host.list(path)? {
                collect(host, &format!("{path}/{name}"), depth + 1, found)?;
            }
        }
        Some(stat) if stat.kind == FileKind::File => {
            if let Some(hash) = host.sha256(path)? {
                let runs = if stat.mode & 0o111 == 0 { "" } else { " executable" };
                found.insert(path.to_string(), format!("{hash}{runs}"));
            }
        }
        _ => {}
    }
    Ok(())
}

fn note_path(release: &str) -> String {
    format!("{NOTES}/{release}.json")
}

/// Why the image must be made anew; `None` when it need not.
fn stale(host: &dyn Host, target: &Target, inputs: &BTreeMap<String, String>) -> Result<Option<String>> {
    let Some(image) = host.stat(&target.image)? else { return Ok(Some("missing".into())) };
    let path = note_path(&target.release);
    let note: Option<Note> = host.read(&path)?.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(note) = note.filter(|note| note.kernel == target.release && note.image == target.image) else {
        return Ok(Some("made from files that are not known".into()));
    };
    let mut changes = Vec::new();
    for path in inputs.keys().filter(|path| !note.inputs.contains_key(*path)) {
        changes.push(format!("without {path}"));
    }
    for (path, hash) in &note.inputs {
        match inputs.get(path) {
            None => changes.push(format!("with {path}, which is gone")),
            Some(new) if new != hash => changes.push(format!("with another {path}")),
            Some(_) => {}
        }
    }
    if !changes.is_empty() {
        changes.sort();
        return Ok(Some(format!("made {}", changes.join(", "))));
    }
    // Somebody else has made it since; from what, nobody knows.
    let newer = host.stat(&path)?.is_some_and(|note| image.mtime > note.mtime);
    Ok(newer.then(|| "made anew by somebody else".into()))
}

/// Has a missing initramfs made, as the kernel's package would have done.
pub(super) fn make(host: &dyn Host, release: &str, image: &str, plan: &mut Plan) -> Result<()> {
    let tool = persist::tool(host)?.ok_or_else(|| {
        Error::failed("no tool that makes an initramfs was found").hint("known: dracut, initramfs-tools and mkinitcpio")
    })?;
    let target = Target { release: release.into(), image: image.into() };
    build(host, tool, &target, &inputs(host)?, "missing", plan)
}

fn build(
    host: &dyn Host,
    tool: Tool,
    target: &Target,
    inputs: &BTreeMap<String, String>,
    reason: &str,
    plan: &mut Plan,
) -> Result<()> {
    let Target { release, image } = target;
    let old = host.stat(image)?;
    make_room(host, target, old.as_ref().map(|old| old.size), plan)?;
    make_folders(host, plan)?;
    let after = format!("made anew for {release}");
    let diff = match (&old, reason) {
        (Some(_), reason) => Diff::changed("initramfs", image, reason, after),
        (None, _) => Diff::added("initramfs", image, format!("made for {release}")),
    };
    let fresh = format!("{NOTES}/{release}.img");
    let unknown = |path: &str| vec![Effect::File { path: path.to_string(), content: None, mode: Some(0o600) }];
    let in_place = match tool {
        // It makes the image beside the old one and moves it by itself, and expects that nobody else does.
        Tool::InitramfsTools => {
            let verb = if old.is_some() { "-u" } else { "-c" };
            let mut run = Run::new(["update-initramfs", verb, "-k", release], unknown(image));
            // Made once more when what goes into it is as it was; one that was not there is deleted.
            let undo = if old.is_some() { "-u" } else { "-d" };
            run.undo = Some(["update-initramfs", undo, "-k", release].map(String::from).to_vec());
            plan.push(Op::Run(run), vec![diff]);
            None
        }
        Tool::Dracut => {
            plan.push(Op::Run(Run::new(["dracut", "--force", &fresh, release], unknown(&fresh))), Vec::new());
            Some((diff, "lsinitrd"))
        }
        Tool::Mkinitcpio => {
            plan.push(Op::Run(Run::new(["mkinitcpio", "-k", release, "-g", &fresh], unknown(&fresh))), Vec::new());
            Some((diff, "lsinitcpio"))
        }
    };
    if let Some((diff, lister)) = in_place {
        // An image that its own tool can't list would not boot.
        let validate =
            if loader::has_program(host, lister)? { vec![vec![lister.into(), "%s".into()]] } else { Vec::new() };
        plan.push(copy(&fresh, image, validate), vec![diff]);
        plan.push(Op::Remove { path: fresh }, Vec::new());
    }
    // The boot loader reads the disk itself, without the file system's journal.
    plan.actions.push(trial::sync());
    let note = Note { kernel: release.clone(), image: image.clone(), inputs: inputs.clone() };
    let text = serde_json::to_string_pretty(&note).map_err(|e| Error::failed(format!("can't write a note: {e}")))?;
    plan.push(
        Op::WriteFile {
            path: note_path(release),
            content: Content::Bytes(format!("{text}\n").into_bytes()),
            mode: Some(0o644),
            owner: None,
            group: None,
            validate: Vec::new(),
        },
        Vec::new(),
    );
    Ok(())
}

fn copy(from: &str, to: &str, validate: Vec<Vec<String>>) -> Op {
    Op::WriteFile {
        path: to.to_string(),
        content: Content::CopyOf(from.to_string()),
        mode: Some(0o600),
        owner: None,
        group: None,
        validate,
    }
}

/// Refuses when the new image would not fit beside the old one; keeps the old one as `.bak` when that fits too.
fn make_room(host: &dyn Host, target: &Target, old: Option<u64>, plan: &mut Plan) -> Result<()> {
    let new = old.map_or(32 << 20, |old| old + old / 4);
    // What a cut update-initramfs has left is written over.
    let half = host.stat(&format!("{}.new", target.image))?.map_or(0, |half| half.size);
    room::need(host, new.saturating_sub(half), &format!("a new {}", target.image))?;
    let Some(old) = old else { return Ok(()) };
    let backup = format!("{}.bak", target.image);
    // The one that the machine has booted with is what a trial boot that fails goes back to. One that was made since has
    // never booted anything, so it is not kept, least of all in that one's place.
    if trial::is_of_this_boot(host, &target.image)? {
        return Ok(());
    }
    // After a trial that has failed the one kept is what the machine has booted with, and what has its place has failed.
    if let Ok(boot) = loader::read(host)
        && trial::keeps(host, &boot, &backup)?
    {
        return Ok(());
    }
    // What is kept now takes the place of what was kept before.
    let gained = host.stat(&backup)?.map_or(0, |stat| stat.size);
    match room::free(host, "/boot")? {
        Some(free) if free + gained < new + old => {
            plan.warnings.push(format!("no room in /boot to keep the old initramfs as {backup}"));
        }
        _ => plan.push(copy(&target.image, &backup, Vec::new()), vec![kept(host, &backup, &target.image)?]),
    }
    Ok(())
}

fn kept(host: &dyn Host, backup: &str, image: &str) -> Result<Diff> {
    let after = format!("a copy of {image}");
    Ok(if host.exists(backup)? {
        Diff::changed("initramfs", backup, "an older one", after)
    } else {
        Diff::added("initramfs", backup, after)
    })
}

fn make_folders(host: &dyn Host, plan: &mut Plan) -> Result<()> {
    for (at, _) in NOTES.match_indices('/').filter(|(at, _)| *at > 0).chain([(NOTES.len(), "")]) {
        let Some(folder) = NOTES.get(..at) else { continue };
        let planned = plan.actions.iter().any(|a| matches!(&a.op, Op::MakeFolder { path, .. } if path == folder));
        if !planned && !host.exists(folder)? {
            let op = Op::MakeFolder { path: folder.into(), mode: Some(0o755), owner: None, group: None };
            plan.push(op, Vec::new());
        }
    }
    Ok(())
}

/// Is vfio-pci really in the image, where the files say that it shall be? Only a live machine can say.
fn look_inside(host: &dyn Host, tool: Tool, target: &Target, plan: &mut Plan) -> Result<()> {
    if !asks_for_vfio(host)? {
        return Ok(());
    }
    // What an earlier action of a dry run would have made has no time, and is not there to be looked into.
    if host.stat(&target.image)?.is_none_or(|image| image.mtime == 0) {
        return Ok(());
    }
    let folder = format!("/lib/modules/{}", target.release);
    let built_in = host.read_text(&format!("{folder}/modules.builtin"))?.unwrap_or_default();
    if built_in.lines().any(|line| line.ends_with("/vfio-pci.ko")) {
        return Ok(());
    }
    let lister = match tool {
        Tool::Dracut => "lsinitrd",
        Tool::InitramfsTools => "lsinitramfs",
        Tool::Mkinitcpio => "lsinitcpio",
    };
    if !loader::has_program(host, lister)? {
        return Ok(());
    }
    if let Some(output) = host.query(&[lister, &target.image])? {
        if output.code != 0 {
            plan.warnings.push(format!("{lister} can't read {}", target.image));
        } else if !output.stdout.contains("vfio-pci.ko") {
            plan.warnings.push(format!(
                "{} does not hold vfio-pci, although the configuration asks for it: is the module in {folder}?",
                target.image
            ));
        }
    }
    Ok(())
}

fn asks_for_vfio(host: &dyn Host) -> Result<bool> {
    let mut paths =
        vec!["/etc/dracut.conf".to_string(), "/etc/initramfs-tools/modules".into(), "/etc/mkinitcpio.conf".into()];
    for folder in ["/etc/dracut.conf.d", "/etc/mkinitcpio.conf.d"] {
        paths.extend(host.list(folder)?.into_iter().map(|name| format!("{folder}/{name}")));
    }
    for path in paths {
        let text = String::from_utf8_lossy(&host.read(&path)?.unwrap_or_default()).replace('-', "_");
        if text.lines().any(|line| !line.trim_start().starts_with('#') && line.contains("vfio_pci")) {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Action;
    use crate::host::model::predict;
    use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};
    use crate::modules::boot::grubenv;
    use crate::modules::boot::samples::{self, os};
    use serde_json::json;

    const OLD: &str = "3.10.0-514.el7.x86_64";
    const NEW: &str = "4.9.2-1.el7.elrepo.x86_64";

    /// EL7 whose next kernel is not the running one.
    fn el7() -> Machine {
        let text = samples::EL7_GRUB_CFG;
        let cfg = super::super::grub_cfg::parse(text);
        let text = super::super::grub_cfg::add_kernel(text, &cfg, &cfg.items[0], OLD, NEW).unwrap();
        let env = grubenv::set("", "saved_entry", Some("0")).unwrap();
        machine(&[
            ("/etc/os-release", os("centos", "7")),
            ("/boot/grub2/grub.cfg", &text),
            ("/boot/grub2/grubenv", &env),
            ("/proc/sys/kernel/osrelease", OLD),
            (&format!("/boot/initramfs-{OLD}.img"), "old image"),
            (&format!("/boot/initramfs-{NEW}.img"), "new image"),
            (&format!("/lib/modules/{OLD}/modules.dep"), ""),
            (&format!("/lib/modules/{NEW}/modules.dep"), ""),
            ("/etc/dracut.conf.d/vfio.conf", "force_drivers+=\" vfio_pci \"\n"),
            ("/etc/modprobe.d/vfio.conf", "softdep nouveau pre: vfio-pci\n"),
            ("/var/lib/", ""),
        ])
    }

    fn runs(actions: &[Action]) -> Vec<String> {
        let said = |a: &Action| if let Op::Run(run) = &a.op { Some(run.argv.join(" ")) } else { None };
        actions.iter().filter_map(said).filter(|argv| argv != "sync").collect()
    }

    fn put(host: &Machine, path: &str, text: &str) {
        let effect = Effect::File { path: path.into(), content: Some(text.into()), mode: None };
        predict(host, &Op::Run(Run::new(["test"], vec![effect]))).unwrap();
    }

    #[test]
    fn the_kernel_that_boots_next_and_no_other() {
        let host = el7();
        let done = apply(&host, "initramfs", json!({})).unwrap();
        assert_eq!(runs(&done), [format!("dracut --force /var/lib/vfio-provision/initramfs/{NEW}.img {NEW}")]);
        assert_eq!(host.read_text(&format!("/boot/initramfs-{OLD}.img")).unwrap().as_deref(), Some("old image"));
        assert_eq!(host.read_text(&format!("/boot/initramfs-{NEW}.img.bak")).unwrap().as_deref(), Some("new image"));
        assert!(host.read(&format!("/boot/initramfs-{NEW}.img")).unwrap_err().is_unknown());
        assert!(!host.exists(&format!("/var/lib/vfio-provision/initramfs/{NEW}.img")).unwrap());
        assert!(apply(&host, "initramfs", json!({"kernels": "default"})).unwrap().is_empty());
        let all = apply(&host, "initramfs", json!("all").as_str().map(|all| json!({"kernels": all})).unwrap()).unwrap();
        assert_eq!(runs(&all), [format!("dracut --force /var/lib/vfio-provision/initramfs/{OLD}.img {OLD}")]);
    }

    #[test]
    fn only_when_an_input_changed_and_then_surely() {
        let host = el7();
        apply(&host, "initramfs", json!({})).unwrap();
        put(&host, "/etc/hosts", "x");
        assert!(apply(&host, "initramfs", json!({})).unwrap().is_empty());
        let mut changes = Vec::new();
        for path in [
            "/etc/modprobe.d/vfio.conf",
            "/etc/driverctl.d/pci-0000:82:00.0",
            "/etc/udev/rules.d/10-vfio-provision.rules",
        ] {
            put(&host, path, "changed\n");
            changes.push(shown(&apply(&host, "initramfs", json!({})).unwrap()));
        }
        predict(&host, &Op::Remove { path: "/etc/driverctl.d/pci-0000:82:00.0".into() }).unwrap();
        changes.push(shown(&apply(&host, "initramfs", json!({})).unwrap()));
        predict(
            &host,
            &Op::SetAttributes {
                path: "/etc/modprobe.d/vfio.conf".into(),
                mode: Some(0o755),
                owner: None,
                group: None,
            },
        )
        .unwrap();
        changes.push(shown(&apply(&host, "initramfs", json!({})).unwrap()));
        for (shown, why) in changes.iter().zip([
            "made with another /etc/modprobe.d/vfio.conf",
            "made without /etc/driverctl.d/pci-0000:82:00.0",
            "made without /etc/udev/rules.d/10-vfio-provision.rules",
            "made with /etc/driverctl.d/pci-0000:82:00.0, which is gone",
            "made with another /etc/modprobe.d/vfio.conf",
        ]) {
            assert!(shown.contains(why), "{why}: {shown}");
        }
    }

    #[test]
    fn a_missing_image_is_made_and_a_note_of_another_kernel_counts_for_nothing() {
        let host = el7();
        apply(&host, "initramfs", json!({})).unwrap();
        let note = host.read_text(&note_path(NEW)).unwrap().unwrap();
        predict(&host, &Op::Remove { path: format!("/boot/initramfs-{NEW}.img") }).unwrap();
        assert_eq!(runs(&apply(&host, "initramfs", json!({})).unwrap()).len(), 1);
        put(&host, &note_path(OLD), &note);
        assert_eq!(runs(&apply(&host, "initramfs", json!({"kernels": [OLD]})).unwrap()).len(), 1);
        put(&host, &note_path(OLD), "{ broken");
        assert_eq!(runs(&apply(&host, "initramfs", json!({"kernels": [OLD]})).unwrap()).len(), 1);
    }

    #[test]
    fn debian_and_arch_have_their_own_tools() {
        let debian = machine(&[
            ("/etc/os-release", os("debian", "12")),
            ("/boot/grub/grub.cfg", samples::DEBIAN_GRUB_CFG),
            ("/boot/initrd.img-6.1.0-18-amd64", "image"),
            ("/etc/initramfs-tools/modules", "vfio_pci\n"),
            ("/var/lib/", ""),
        ]);
        let done = apply(&debian, "initramfs", json!({"kernels": "all"})).unwrap();
        assert_eq!(runs(&done), ["update-initramfs -u -k 6.1.0-18-amd64"]);
        let arch = machine(&[
            ("/etc/os-release", os("arch", "")),
            ("/etc/mkinitcpio.conf", "MODULES=()\n"),
            (
                "/boot/loader/entries/arch.conf",
                "linux /vmlinuz-linux\ninitrd /initramfs-linux.img\noptions root=/dev/sda2\n",
            ),
            ("/boot/vmlinuz-linux", ""),
            ("/usr/lib/modules/6.7.1-arch1-1/pkgbase", "linux\n"),
            ("/var/lib/", ""),
        ]);
        let done = apply(&arch, "initramfs", json!({})).unwrap();
        assert_eq!(runs(&done), ["mkinitcpio -k 6.7.1-arch1-1 -g /var/lib/vfio-provision/initramfs/6.7.1-arch1-1.img"]);
        assert!(arch.exists("/boot/initramfs-linux.img").unwrap());
    }

    /// A machine whose files have a time, and whose lsinitrd answers.
    struct Listing {
        files: Machine,
        /// When everything on it was written; 0 is what a dry run foresees.
        mtime: i64,
        code: i32,
        names: &'static str,
        asked: std::cell::RefCell<Vec<String>>,
    }

    impl Host for Listing {
        fn raw_lstat(&self, path: &str) -> Result<Option<crate::host::Stat>> {
            let stat = self.files.raw_lstat(path)?;
            Ok(stat.map(|stat| crate::host::Stat { mtime: self.mtime, ..stat }))
        }
        fn raw_read_link(&self, path: &str) -> Result<String> {
            self.files.raw_read_link(path)
        }
        fn raw_read(&self, path: &str) -> Result<Vec<u8>> {
            self.files.raw_read(path)
        }
        fn raw_list(&self, path: &str) -> Result<Vec<String>> {
            self.files.raw_list(path)
        }
        fn raw_sha256(&self, path: &str) -> Result<String> {
            self.files.raw_sha256(path)
        }
        fn package(&self, name: &str) -> Result<Option<crate::host::Package>> {
            self.files.package(name)
        }
        fn available(&self, name: &str) -> Result<Option<crate::host::Available>> {
            self.files.available(name)
        }
        fn unit(&self, name: &str) -> Result<crate::host::Unit> {
            self.files.unit(name)
        }
        fn virt(&self, kind: crate::host::VirtKind, name: &str) -> Result<Option<crate::host::Virt>> {
            self.files.virt(kind, name)
        }
        fn virt_names(&self, kind: crate::host::VirtKind) -> Result<Vec<String>> {
            self.files.virt_names(kind)
        }
        fn query(&self, argv: &[&str]) -> Result<Option<crate::host::Output>> {
            self.asked.borrow_mut().push(argv.join(" "));
            let (code, stdout) = (self.code, self.names.to_string());
            Ok(Some(crate::host::Output { code, stdout, stderr: String::new() }))
        }
    }

    #[test]
    fn an_image_is_looked_into_only_where_it_is_there() {
        const WITHOUT: &str = "drwxr-xr-x   1 root root 0 Jan  1 kernel/drivers/vfio\n";
        const WITH: &str =
            "-rw-r--r--   1 root root 9 Jan  1 usr/lib/modules/x/kernel/drivers/vfio/pci/vfio-pci.ko.xz\n";
        let look = |mtime, code, names, built_in: &str| {
            let files = el7();
            put(&files, "/usr/bin/lsinitrd", "x");
            put(&files, &format!("/lib/modules/{NEW}/modules.builtin"), built_in);
            apply(&files, "initramfs", json!({})).unwrap();
            let host = Listing { files, mtime, code, names, asked: Default::default() };
            let plan = plan(&host, "initramfs", json!({})).unwrap();
            assert!(plan.actions.is_empty(), "{:?}", plan.actions);
            (plan.warnings, host.asked.into_inner())
        };
        let asked = format!("lsinitrd /boot/initramfs-{NEW}.img");
        let (said, queries) = look(100, 0, WITHOUT, "");
        assert!(said[0].contains("does not hold vfio-pci") && said.len() == 1, "{said:?}");
        assert_eq!(queries, [asked.as_str()]);
        assert_eq!(look(100, 0, WITH, "").0, Vec::<String>::new());
        assert!(look(100, 1, WITH, "").0[0].contains("lsinitrd can't read"));
        // What an earlier action would have made is not on the disk: whatever stands there by that name is the old one.
        assert_eq!(look(0, 0, WITHOUT, ""), (Vec::new(), Vec::new()));
        let built_in = look(100, 0, WITHOUT, "kernel/drivers/vfio/pci/vfio-pci.ko\n");
        assert_eq!(built_in, (Vec::new(), Vec::new()));
    }

    #[test]
    fn a_kernel_that_is_not_there_is_said() {
        let error = plan(&el7(), "initramfs", json!({"kernels": ["9.9"]})).unwrap_err().to_string();
        assert!(error.contains("no kernel 9.9") && error.contains(NEW), "{error}");
        let bare = machine(&[("/etc/os-release", os("debian", "12"))]);
        assert!(plan(&bare, "initramfs", json!({})).unwrap_err().to_string().contains("no tool"));
    }
}
