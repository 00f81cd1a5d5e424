//! The guard of a trial boot that comes up and can't be reached: a timer of systemd restarts it unless it is confirmed.

use super::{remove as gone, write};
use crate::change::{Action, Diff, Effect, Op, Run};
use crate::host::{Host, Result};

/// What restarts the machine.
pub const SERVICE: &str = "vfio-provision-trial.service";
/// What waits before it does.
pub const TIMER: &str = "vfio-provision-trial.timer";
const FOLDER: &str = "/etc/systemd/system";
/// As early as systemd starts anything: where a mount fails and the machine ends in emergency mode, later ones never come.
const WANTS: &str = "/etc/systemd/system/sysinit.target.wants";

fn path(name: &str) -> String {
    format!("{FOLDER}/{name}")
}

fn link() -> String {
    format!("{WANTS}/{TIMER}")
}

/// Both units; the condition on the kernel's command line keeps them from doing anything in any other boot.
fn texts(token: &str, seconds: u64) -> [(&'static str, String); 2] {
    let head = |what: &str| {
        format!(
            "# Written by vfio-provision for one trial boot; removed when that is confirmed or over.\n[Unit]\n\
             Description={what}\nDefaultDependencies=no\nConditionKernelCommandLine={}={token}\n",
            super::TOKEN
        )
    };
    let service = format!(
        "{}\n[Service]\nType=oneshot\nTimeoutStartSec=0\nExecStart=/bin/systemctl --no-block reboot\n\
         ExecStart=/bin/sleep 120\nExecStart=/bin/systemctl --force reboot\n",
        head("Trial boot that nobody has confirmed: the machine returns to what it had")
    );
    let timer = format!(
        "{}Conflicts=shutdown.target\nBefore=shutdown.target\n\n[Timer]\nOnBootSec={seconds}s\nAccuracySec=1s\n",
        head("Time within which a trial boot must be confirmed")
    );
    [(SERVICE, service), (TIMER, timer)]
}

/// Puts them where the next boot finds them.
///
/// # Errors
/// When the machine can't be read.
pub fn install(host: &dyn Host, token: &str, seconds: u64) -> Result<Vec<Action>> {
    let mut actions = Vec::new();
    for (name, text) in texts(token, seconds) {
        let path = path(name);
        let old = host.read(&path)?;
        if old.as_deref() != Some(text.as_bytes()) {
            let diff = Diff::file(&path, old.as_deref(), Some(text.as_bytes()));
            actions.push(write(&path, &text, Some(0o644), Vec::new(), vec![diff]));
        }
    }
    if !host.exists(WANTS)? {
        let op = Op::MakeFolder { path: WANTS.into(), mode: None, owner: None, group: None };
        actions.push(Action { op, diffs: vec![Diff::added("folder", WANTS, "0755 root:root")] });
    }
    let target = format!("../{TIMER}");
    if host.read_link(&link())?.as_ref() != Some(&target) {
        let diff = Diff::added("link", link(), target.clone());
        actions.push(Action { op: Op::Link { path: link(), target }, diffs: vec![diff] });
    }
    Ok(actions)
}

/// Stops the timer and takes all of it away.
///
/// # Errors
/// When the machine can't be read.
pub fn remove(host: &dyn Host) -> Result<Vec<Action>> {
    let mut actions = Vec::new();
    if host.read_link(&link())?.is_some() {
        let effect = Effect::Unit { name: TIMER.into(), exists: None, enabled: None, active: Some(false) };
        let mut stop = Run::new(["systemctl", "stop", TIMER], vec![effect]);
        // A boot that was not told of it does not know it.
        stop.any_code = true;
        actions.push(Action { op: Op::Run(stop), diffs: Vec::new() });
        let was = host.read_link(&link())?.unwrap_or_default();
        actions.push(gone(&link(), vec![Diff::removed("link", link(), was)]));
    }
    for name in [TIMER, SERVICE] {
        let path = path(name);
        if let Some(old) = host.read(&path)? {
            actions.push(gone(&path, vec![Diff::file(&path, Some(&old), None)]));
        }
    }
    if !actions.is_empty() {
        actions.push(Action { op: Op::Run(Run::new(["systemctl", "daemon-reload"], Vec::new())), diffs: Vec::new() });
    }
    Ok(actions)
}
