//! Plans made of other modules' plans: every step sees the machine as the steps before it leave it.

use serde_json::Value;

use super::make_folders;
use crate::change::{Content, Diff, Op, Plan};
use crate::host::model::predict;
use crate::host::{Host, Overlay, Result};
use crate::modules::Module;

/// Where a module keeps what it must know to take back what it did.
const KEPT: &str = "/var/lib/vfio-provision/kept";
/// The same, but only until the next boot.
const THIS_BOOT: &str = "/run/vfio-provision";

/// A plan in the making.
pub(crate) struct Steps<'a> {
    after: Overlay<&'a dyn Host>,
    plan: Plan,
}

impl<'a> Steps<'a> {
    /// Nothing planned yet.
    pub(crate) fn new(host: &'a dyn Host) -> Steps<'a> {
        Steps { after: Overlay::new(host), plan: Plan::nothing() }
    }

    /// The machine as it will be after what is planned so far.
    pub(crate) fn host(&self) -> &dyn Host {
        &self.after
    }

    /// For notes, warnings, reasons to reboot and results; actions go through the other functions.
    pub(crate) fn plan(&mut self) -> &mut Plan {
        &mut self.plan
    }

    /// Plans an action.
    pub(crate) fn act(&mut self, op: Op, diffs: Vec<Diff>) -> Result<()> {
        predict(&self.after, &op)?;
        self.plan.push(op, diffs);
        Ok(())
    }

    /// Plans what another module answers. False when that has to be done before anything further can be told.
    pub(crate) fn module<M: Module>(&mut self, parameters: Value) -> Result<bool> {
        let plan = crate::modules::plan::<M>(parameters, &self.after)?;
        self.extend(plan)
    }

    /// Plans what is planned elsewhere. False when that has to be done before anything further can be told.
    pub(crate) fn extend(&mut self, plan: Plan) -> Result<bool> {
        for action in &plan.actions {
            predict(&self.after, &action.op)?;
        }
        let go_on = !plan.staged || plan.actions.is_empty();
        self.plan.extend(plan);
        Ok(go_on)
    }

    /// Plans a file with this content; `None`: there is none. A new one gets its folder. Tells whether anything changes.
    pub(crate) fn file(&mut self, path: &str, content: Option<&str>, mode: Option<u32>) -> Result<bool> {
        self.checked_file(path, content, mode, Vec::new())
    }

    /// The same, with commands that must succeed on the new file before it counts.
    pub(crate) fn checked_file(
        &mut self,
        path: &str,
        content: Option<&str>,
        mode: Option<u32>,
        validate: Vec<Vec<String>>,
    ) -> Result<bool> {
        let now = self.after.read(path)?;
        let Some(content) = content else {
            let Some(now) = now else { return Ok(false) };
            self.act(Op::Remove { path: path.into() }, vec![Diff::file(path, Some(&now), None)])?;
            return Ok(true);
        };
        if now.as_deref() == Some(content.as_bytes()) {
            let Some((stat, mode)) = self.after.stat(path)?.zip(mode).filter(|(stat, mode)| stat.mode != *mode) else {
                return Ok(false);
            };
            let diff = Diff::changed("attributes", path, format!("mode {:04o}", stat.mode), format!("mode {mode:04o}"));
            self.act(Op::SetAttributes { path: path.into(), mode: Some(mode), owner: None, group: None }, vec![diff])?;
            return Ok(true);
        }
        self.folders_above(path, true)?;
        let diff = Diff::file(path, now.as_deref(), Some(content.as_bytes()));
        self.act(write(path, content, mode, validate), vec![diff])?;
        Ok(true)
    }

    fn folders_above(&mut self, path: &str, said: bool) -> Result<()> {
        let Some((folder, _)) = path.rsplit_once('/').filter(|(folder, _)| !folder.is_empty()) else { return Ok(()) };
        let mut folders = Plan::nothing();
        make_folders(&self.after, &mut folders, folder)?;
        for action in folders.actions {
            self.act(action.op, if said { action.diffs } else { Vec::new() })?;
        }
        Ok(())
    }

    /// What was kept under this name.
    pub(crate) fn kept(&self, name: &str) -> Result<Option<String>> {
        self.after.read_text(&format!("{KEPT}/{name}"))
    }

    /// Keeps this under this name, `None` forgets it: our own record, not shown.
    pub(crate) fn keep(&mut self, name: &str, text: Option<&str>) -> Result<()> {
        self.record(&format!("{KEPT}/{name}"), text)
    }

    /// What was noted in this boot of the machine.
    pub(crate) fn noted(&self, name: &str) -> Result<Option<String>> {
        self.after.read_text(&format!("{THIS_BOOT}/{name}"))
    }

    /// Notes this until the next boot.
    pub(crate) fn note_for_this_boot(&mut self, name: &str, text: Option<&str>) -> Result<()> {
        self.record(&format!("{THIS_BOOT}/{name}"), text)
    }

    fn record(&mut self, path: &str, text: Option<&str>) -> Result<()> {
        let now = self.after.read_text(path)?;
        match text {
            _ if now.as_deref() == text => Ok(()),
            None => self.act(Op::Remove { path: path.into() }, Vec::new()),
            Some(text) => {
                self.folders_above(path, false)?;
                self.act(write(path, text, Some(0o644), Vec::new()), Vec::new())
            }
        }
    }

    /// The plan.
    pub(crate) fn finish(self) -> Plan {
        self.plan
    }
}

/// The record of one boot, for who foresees the next one.
pub(crate) fn note_path(name: &str) -> String {
    format!("{THIS_BOOT}/{name}")
}

fn write(path: &str, content: &str, mode: Option<u32>, validate: Vec<Vec<String>>) -> Op {
    Op::WriteFile {
        path: path.to_string(),
        content: Content::Bytes(content.as_bytes().to_vec()),
        mode,
        owner: None,
        group: None,
        validate,
    }
}

/// Has systemd read a unit, where it is installed; fails on anything it complains about.
#[cfg(test)]
pub(crate) fn verified(name: &str, text: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap();
    let Ok(output) = std::process::Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&path).output()
    else {
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let about = |line: &&str| line.contains(name);
    assert!(said.lines().find(about).is_none(), "{said}");
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::overlay::testing::{machine, shown};
    use crate::modules::system::service::Service;

    #[test]
    fn a_later_step_sees_what_an_earlier_one_does() {
        let host = machine(&[("/etc/systemd/system/", "")]);
        let mut steps = Steps::new(&host);
        assert!(Steps::new(&host).module::<Service>(json!({"name": "x", "enabled": true})).is_err());
        let unit = "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n";
        assert!(steps.file("/etc/systemd/system/x.service", Some(unit), None).unwrap());
        assert!(steps.module::<Service>(json!({"name": "x", "enabled": true})).unwrap());
        steps.keep("x", Some("1\n")).unwrap();
        assert_eq!(steps.kept("x").unwrap().as_deref(), Some("1\n"));
        let plan = steps.finish();
        assert!(shown(&plan.actions).ends_with("unit x.service\ndisabled → enabled\n"), "{}", shown(&plan.actions));
        assert!(!host.exists("/etc/systemd/system/x.service").unwrap());
    }
}
