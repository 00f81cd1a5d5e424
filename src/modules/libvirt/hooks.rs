//! `libvirt_hooks`: scripts that libvirt runs when a guest starts and ends (https://libvirt.org/hooks.html).

use schemars::JsonSchema;
use serde::Deserialize;

use super::daemon::PENDING;
use crate::change::{Content, Diff, Op, Plan, Run};
use crate::host::{Error, FileKind, Host, Result};
use crate::modules::Module;
use crate::modules::params::List;
use crate::modules::system::sefcontext::selinux;
use crate::modules::system::steps::Steps;

/// Has libvirt run scripts when a guest starts and ends.
///
/// /etc/libvirt/hooks/qemu runs what is in /etc/libvirt/hooks/qemu.d/GUEST/OPERATION/STEP, the layout that many guides
/// use: `prepare/begin` before anything is done for a guest (a script that fails there keeps it from starting),
/// `started/begin`, `stopped/end`, and `release/end` when all is given back. The list is the whole truth of a guest's
/// scripts that this module wrote; scripts of others stay.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LibvirtHooks {
    /// The guest. Without it only the dispatcher is put there, or taken away.
    guest: Option<String>,
    /// Its scripts.
    #[serde(default)]
    scripts: List<Script>,
    /// `present` or `absent`, which takes away all scripts of the guest that this module wrote; without `guest`, the
    /// dispatcher. Default: present.
    #[serde(default)]
    state: State,
}

/// One script.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Script {
    /// When: operation and step, such as `prepare/begin` or `release/end`.
    event: String,
    /// The name of its file, such as `10-governor.sh`; they run in the order of their names.
    name: String,
    /// The script itself, with its `#!` line.
    content: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// They are there.
    #[default]
    Present,
    /// They are not.
    Absent,
}

const FOLDER: &str = "/etc/libvirt/hooks";
const DISPATCHER: &str = "/etc/libvirt/hooks/qemu";
const TEXT: &str = include_str!("hooks/qemu.sh");
const OURS: &str = "# Written by vfio-provision (libvirt_hooks)";
/// What libvirt calls the hook for, with the step that belongs to it.
const EVENTS: [&str; 9] = [
    "prepare/begin",
    "start/begin",
    "started/begin",
    "stopped/end",
    "release/end",
    "migrate/begin",
    "restore/begin",
    "reconnect/begin",
    "attach/begin",
];

/// A script with its place.
pub(crate) struct Wanted {
    /// Operation and step.
    pub(crate) event: String,
    /// The file's name.
    pub(crate) name: String,
    /// What is in it.
    pub(crate) content: String,
}

impl Module for LibvirtHooks {
    const NAME: &'static str = "libvirt_hooks";
    const SUMMARY: &'static str = "Have libvirt run scripts when a guest starts and ends";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut steps = Steps::new(host);
        match (&self.guest, self.state) {
            (None, _) if !self.scripts.is_empty() => {
                return Err(Error::parameters("`guest` is missing: whose scripts are these?"));
            }
            (None, State::Present) => dispatcher(&mut steps)?,
            (None, State::Absent) => no_dispatcher(&mut steps)?,
            (Some(guest), State::Present) => {
                let scripts = self.scripts.iter().map(|script| Wanted {
                    event: script.event.clone(),
                    name: script.name.clone(),
                    content: script.content.clone(),
                });
                put(&mut steps, "libvirt_hooks", guest, scripts.collect())?;
            }
            (Some(guest), State::Absent) => put(&mut steps, "libvirt_hooks", guest, Vec::new())?,
        }
        Ok(steps.finish())
    }
}

/// Names that are one part of a path.
fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with(['.', '-']) && !name.contains(|c: char| c == '/' || c.is_control())
}

/// Plans that a guest has these scripts, and no others that were written in the same `owner`'s name.
///
/// # Errors
/// Names, events and scripts that can't be right.
pub(crate) fn put(steps: &mut Steps, owner: &str, guest: &str, scripts: Vec<Wanted>) -> Result<()> {
    if !is_plain(guest) {
        return Err(Error::parameters(format!("`{guest}` is not the name of a guest")));
    }
    let mut wanted: Vec<(String, Wanted)> = Vec::new();
    for script in scripts {
        if !EVENTS.contains(&script.event.as_str()) {
            return Err(Error::parameters(format!("libvirt has no event `{}`", script.event))
                .hint(format!("it has: {}", EVENTS.join(", "))));
        }
        if !is_plain(&script.name) {
            return Err(Error::parameters(format!("`{}` is not the name of a file", script.name)));
        }
        if !script.content.starts_with("#!/") {
            return Err(Error::parameters(format!(
                "{}: the script does not begin with `#!/bin/sh` or its like",
                script.name
            )));
        }
        if script.content.lines().any(calls_libvirt) {
            return Err(Error::refused(format!(
                "{}: the script calls virsh, and libvirt waits for the script",
                script.name
            ))
            .hint("hooks must not call libvirt; use sysfs and systemctl, or a unit that waits for the guest"));
        }
        let path = format!("{FOLDER}/qemu.d/{guest}/{}/{}", script.event, script.name);
        if wanted.iter().any(|(other, _)| *other == path) {
            return Err(Error::parameters(format!("the script {} is given twice", script.name)));
        }
        wanted.push((path, script));
    }
    let record = format!("hooks-{owner}-{guest}");
    let old = steps.kept(&record)?.unwrap_or_default();
    let list =
        |paths: &[&str]| (!paths.is_empty()).then(|| paths.iter().map(|path| format!("{path}\n")).collect::<String>());
    let new: Vec<&str> = wanted.iter().map(|(path, _)| path.as_str()).collect();
    let mut both = new.clone();
    both.extend(old.lines().filter(|path| !new.contains(path)));
    steps.keep(&record, list(&both).as_deref())?;
    if !wanted.is_empty() {
        dispatcher(steps)?;
    }
    for (path, script) in &wanted {
        let first = script.content.lines().next().unwrap_or("");
        let shell = ["bash", "dash", "sh"].into_iter().find(|shell| first.split(['/', ' ']).any(|word| word == *shell));
        let validate = shell.map(|shell| vec![vec![shell.to_string(), "-n".into(), "%s".into()]]).unwrap_or_default();
        steps.checked_file(path, Some(&script.content), Some(0o755), validate)?;
    }
    for path in old.lines().filter(|path| !new.contains(path)) {
        if path.starts_with(&format!("{FOLDER}/qemu.d/")) {
            steps.file(path, None, None)?;
            empty_folders(steps, path)?;
        }
    }
    steps.keep(&record, list(&new).as_deref())
}

fn calls_libvirt(line: &str) -> bool {
    let code = line.split('#').next().unwrap_or("");
    code.split(|c: char| c.is_whitespace() || ";&|()`$".contains(c))
        .any(|word| word == "virsh" || word.ends_with("/virsh"))
}

/// Folders that held nothing but what went go too.
fn empty_folders(steps: &mut Steps, path: &str) -> Result<()> {
    let mut at = path;
    while let Some((folder, _)) = at.rsplit_once('/') {
        if folder == FOLDER || !folder.starts_with(FOLDER) || !steps.host().list(folder)?.is_empty() {
            return Ok(());
        }
        if steps.host().exists(folder)? {
            steps.act(Op::Remove { path: folder.into() }, vec![Diff::removed("folder", folder, "empty")])?;
        }
        at = folder;
    }
    Ok(())
}

/// Plans the dispatcher. One of someone else's that reads the same folders is as good.
fn dispatcher(steps: &mut Steps) -> Result<()> {
    if !steps.host().exists("/etc/libvirt")? {
        return Err(Error::unknown(FOLDER, "libvirt's package brings it"));
    }
    let there = steps.host().lstat(DISPATCHER)?;
    if there.is_some_and(|stat| stat.kind == FileKind::Folder) {
        return Err(Error::refused(format!("{DISPATCHER} is a folder, where libvirt looks for a script")));
    }
    let now = steps.host().read_text(DISPATCHER)?;
    match &now {
        Some(text) if !text.contains(OURS) => {
            if text.contains("qemu.d") {
                steps.plan().notes.push(format!("{DISPATCHER} was there before and runs what is in qemu.d: it stays"));
                return Ok(());
            }
            return Err(Error::refused(format!("{DISPATCHER} is a script of someone else's, and libvirt knows only one"))
                .hint(format!(
                    "give what it does to this module (`scripts`), or let it run what is in {FOLDER}/qemu.d/GUEST/OPERATION/STEP"
                )));
        }
        _ => {}
    }
    let restart = now.is_none() && !steps.host().exists(PENDING)?;
    if restart {
        // libvirt looks for hooks when it starts; a run that is killed before the restart is made up for.
        pending(steps)?;
    }
    let check = vec![vec!["sh".into(), "-n".into(), "%s".into()]];
    steps.checked_file(DISPATCHER, Some(TEXT), Some(0o755), check)?;
    if steps.host().exists(PENDING)? {
        for name in ["libvirtd.service", "virtqemud.service"] {
            if steps.host().unit(name)?.active {
                let run = Run::new(["systemctl", "try-restart", "--", name], Vec::new());
                steps.act(Op::Run(run), vec![Diff::changed("unit", name, "running", "restarted")])?;
            }
        }
        steps.act(Op::Remove { path: PENDING.into() }, Vec::new())?;
    }
    let modular = steps.host().unit("virtqemud.socket")?;
    if modular.exists && selinux(steps.host())?.mode == "enforcing" {
        steps.plan().notes.push(
            "SELinux lets hooks of virtqemud do what they like only with the boolean virt_hooks_unconfined (setsebool -P \
             virt_hooks_unconfined on; policies of 2024 and later have it)"
                .into(),
        );
    }
    Ok(())
}

fn pending(steps: &mut Steps) -> Result<()> {
    let mut folders = Plan::nothing();
    crate::modules::system::make_folders(steps.host(), &mut folders, "/var/lib/vfio-provision")?;
    for action in folders.actions {
        steps.act(action.op, Vec::new())?;
    }
    let op = Op::WriteFile {
        path: PENDING.into(),
        content: Content::Bytes(Vec::new()),
        mode: None,
        owner: None,
        group: None,
        validate: Vec::new(),
    };
    steps.act(op, Vec::new())
}

fn no_dispatcher(steps: &mut Steps) -> Result<()> {
    let Some(text) = steps.host().read_text(DISPATCHER)? else { return Ok(()) };
    if !text.contains(OURS) {
        steps.plan().notes.push(format!("{DISPATCHER} is not ours: it stays"));
        return Ok(());
    }
    let left = steps.host().list(&format!("{FOLDER}/qemu.d"))?;
    if !left.is_empty() {
        steps.plan().notes.push(format!("scripts of {} are there: {DISPATCHER} stays", left.join(", ")));
        return Ok(());
    }
    steps.file(DISPATCHER, None, None)?;
    Ok(())
}

#[cfg(test)]
mod tests;
