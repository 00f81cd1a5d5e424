//! `sefcontext`: which SELinux type files get, and what SELinux does on a machine.

use schemars::JsonSchema;
use serde::Deserialize;

use super::with_line;
use crate::change::{Diff, Effect, Op, Plan, Run};
use crate::host::{Error, Host, Result};
use crate::modules::Module;

/// What SELinux does on a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selinux {
    /// `enforcing`, `permissive`, or `disabled` where it is off or not there at all.
    pub mode: String,
    /// What /etc/selinux/config says for the next boot.
    pub configured: String,
    /// The policy, such as `targeted`; empty where there is none.
    pub policy: String,
}

/// What SELinux does on this machine.
///
/// # Errors
/// When its files can't be read.
pub fn selinux(host: &dyn Host) -> Result<Selinux> {
    let config = host.read_text("/etc/selinux/config")?.unwrap_or_default();
    let field = |key: &str| {
        let found = config.lines().filter_map(|line| line.trim().split_once('=')).find(|(k, _)| k.trim() == key);
        found.map(|(_, value)| value.trim().to_lowercase()).unwrap_or_default()
    };
    let configured = match field("SELINUX") {
        mode if mode.is_empty() => "disabled".to_string(),
        mode => mode,
    };
    let mode = match host.read_line("/sys/fs/selinux/enforce")?.as_deref() {
        Some("1") => "enforcing".to_string(),
        Some(_) => "permissive".to_string(),
        // A recorded machine may lack /sys/fs: then what is configured is the best that is known.
        None if host.exists("/sys/fs")? => "disabled".to_string(),
        None => configured.clone(),
    };
    Ok(Selinux { mode, configured, policy: field("SELINUXTYPE") })
}

/// Sets the SELinux type of the files that match a pattern, for restorecon and for new ones. Does nothing where there is no
/// SELinux.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sefcontext {
    /// A regular expression for whole paths, such as `/srv/guests(/.*)?`.
    #[serde(alias = "path")]
    target: String,
    /// The type, such as `virt_image_t`. Needed unless `state: absent`.
    setype: Option<String>,
    /// Which files: `a` all, `f` regular files, `d` folders, `l` links, `c` `b` devices, `s` sockets, `p` pipes. Default: a.
    #[serde(default)]
    ftype: FileType,
    /// `present` or `absent`. Default: present.
    #[serde(default)]
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// There is such a rule.
    #[default]
    Present,
    /// There is none.
    Absent,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum FileType {
    /// All.
    #[default]
    A,
    /// Regular files.
    F,
    /// Folders.
    D,
    /// Links.
    L,
    /// Character devices.
    C,
    /// Block devices.
    B,
    /// Sockets.
    S,
    /// Pipes.
    P,
}

impl FileType {
    /// How `semanage fcontext -f` and file_contexts(5) write it.
    fn words(self) -> (&'static str, &'static str) {
        match self {
            FileType::A => ("a", ""),
            FileType::F => ("f", "--"),
            FileType::D => ("d", "-d"),
            FileType::L => ("l", "-l"),
            FileType::C => ("c", "-c"),
            FileType::B => ("b", "-b"),
            FileType::S => ("s", "-s"),
            FileType::P => ("p", "-p"),
        }
    }
}

/// Pattern, kind and type of a line of file_contexts(5).
fn parse(line: &str) -> Option<(&str, &str, &str)> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (target, kind, context) = match words.as_slice() {
        [target, context] => (*target, "", *context),
        [target, kind, context] => (*target, *kind, *context),
        _ => return None,
    };
    (!target.starts_with('#')).then(|| (target, kind, context.split(':').nth(2).unwrap_or(context)))
}

impl Module for Sefcontext {
    const NAME: &'static str = "sefcontext";
    const SUMMARY: &'static str = "Set the SELinux type of files by a pattern of their paths";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        if !self.target.starts_with('/') || self.target.contains(char::is_whitespace) {
            return Err(Error::parameters(format!("`{}` is not a pattern for whole paths", self.target)));
        }
        let mut plan = Plan::nothing();
        let state = selinux(host)?;
        if state.mode == "disabled" && state.configured == "disabled" || state.policy.is_empty() {
            plan.notes.push("there is no SELinux on this machine, so there is nothing to set".into());
            return Ok(plan);
        }
        let path = format!("/etc/selinux/{}/contexts/files/file_contexts.local", state.policy);
        let text = host.read_text(&path)?.unwrap_or_default();
        let (option, kind) = self.ftype.words();
        let is_ours = |line: &str| parse(line).is_some_and(|(t, k, _)| t == self.target && k == kind);
        let before = text.lines().rfind(|line| is_ours(line)).and_then(parse).map(|(_, _, setype)| setype);
        let without: String = text.split_inclusive('\n').filter(|line| !is_ours(line)).collect();
        let name = if kind.is_empty() { self.target.clone() } else { format!("{} ({kind})", self.target) };
        let effect = |content: String| vec![Effect::File { path: path.clone(), content: Some(content), mode: None }];
        match (self.state, &self.setype, before) {
            (State::Absent, _, None) => {}
            (State::Absent, _, Some(old)) => {
                let mut run = Run::new(["semanage", "fcontext", "-d", "-f", option, &self.target], effect(without));
                run.undo = Some(
                    ["semanage", "fcontext", "-a", "-f", option, "-t", old, &self.target].map(String::from).to_vec(),
                );
                plan.push(Op::Run(run), vec![Diff::removed("sefcontext", name, old)]);
            }
            (State::Present, None, _) => {
                return Err(Error::parameters("`setype` is missing: which type shall these files have?"));
            }
            (State::Present, Some(setype), Some(old)) if setype == old => {}
            (State::Present, Some(setype), before) => {
                if setype.is_empty() || !setype.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.') {
                    return Err(Error::parameters(format!("`{setype}` is not an SELinux type")));
                }
                let verb = if before.is_some() { "-m" } else { "-a" };
                let middle = if kind.is_empty() { String::new() } else { format!("{kind}    ") };
                let line = format!("{}    {middle}system_u:object_r:{setype}:s0", self.target);
                let argv = ["semanage", "fcontext", verb, "-f", option, "-t", setype, &self.target];
                let mut run = Run::new(argv, effect(with_line(&without, &line)));
                let undo = match before {
                    Some(old) => vec!["semanage", "fcontext", "-m", "-f", option, "-t", old, &self.target],
                    None => vec!["semanage", "fcontext", "-d", "-f", option, &self.target],
                };
                run.undo = Some(undo.into_iter().map(String::from).collect());
                let diff = match before {
                    Some(old) => Diff::changed("sefcontext", name, old, setype),
                    None => Diff::added("sefcontext", name, setype),
                };
                plan.push(Op::Run(run), vec![diff]);
            }
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::host::overlay::testing::{apply, machine, plan, shown};

    const CONFIG: (&str, &str) = ("/etc/selinux/config", "# x\nSELINUX=enforcing\nSELINUXTYPE=targeted\n");

    #[test]
    fn set_changed_and_removed() {
        let machine = machine(&[CONFIG, ("/sys/fs/selinux/enforce", "1")]);
        let target = "/srv/guests(/.*)?";
        let done = apply(&machine, "sefcontext", json!({"target": target, "setype": "virt_image_t"})).unwrap();
        assert_eq!(shown(&done), "sefcontext /srv/guests(/.*)?\n+ virt_image_t\n");
        let Op::Run(run) = &done[0].op else { panic!() };
        assert_eq!(run.argv.join(" "), format!("semanage fcontext -a -f a -t virt_image_t {target}"));
        let done = apply(&machine, "sefcontext", json!({"target": target, "setype": "svirt_t"})).unwrap();
        assert_eq!(shown(&done), "sefcontext /srv/guests(/.*)?\nvirt_image_t → svirt_t\n");
        // Folders are another rule than all files.
        assert_eq!(
            apply(&machine, "sefcontext", json!({"target": target, "setype": "a_t", "ftype": "d"})).unwrap().len(),
            1
        );
        assert_eq!(apply(&machine, "sefcontext", json!({"target": target, "state": "absent"})).unwrap().len(), 1);
        let left = machine.read_text("/etc/selinux/targeted/contexts/files/file_contexts.local").unwrap();
        assert_eq!(left.as_deref(), Some("/srv/guests(/.*)?    -d    system_u:object_r:a_t:s0\n"));
    }

    #[test]
    fn nothing_where_there_is_no_selinux() {
        for machine in
            [machine(&[("/etc/os-release", "ID=debian\n")]), machine(&[("/etc/selinux/config", "SELINUX=disabled\n")])]
        {
            let answer = plan(&machine, "sefcontext", json!({"target": "/srv", "setype": "x_t"})).unwrap();
            assert_eq!((answer.actions.len(), answer.notes.len()), (0, 1));
        }
        let machine = machine(&[CONFIG]);
        assert_eq!(selinux(&machine).unwrap().mode, "enforcing");
        assert!(plan(&machine, "sefcontext", json!({"target": "srv", "setype": "x_t"})).is_err());
        assert!(plan(&machine, "sefcontext", json!({"target": "/srv"})).is_err());
    }
}
