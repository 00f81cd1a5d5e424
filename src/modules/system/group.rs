//! `group`: a group of users is there, or not.

use schemars::JsonSchema;
use serde::Deserialize;

use super::accounts::{free_id, id_range, is_name, replace_line};
use super::with_line;
use crate::change::{Diff, Effect, Op, Plan, Run};
use crate::host::accounts::{Group as Entry, User};
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::params::Flag;

/// Makes, changes or removes a group.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Its name.
    name: String,
    /// `present` or `absent`. Default: present.
    #[serde(default)]
    state: State,
    /// Its number. Default: the next free one.
    gid: Option<u32>,
    /// A group of the system, with a low number. Default: no.
    #[serde(default)]
    system: Flag,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It is there.
    #[default]
    Present,
    /// It is not.
    Absent,
}

const FILE: &str = "/etc/group";

fn effect(content: String) -> Vec<Effect> {
    vec![Effect::File { path: FILE.into(), content: Some(content), mode: None }]
}

impl Module for Group {
    const NAME: &'static str = "group";
    const SUMMARY: &'static str = "Make, change or remove a group of users";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let name = self.name.as_str();
        if !is_name(name) {
            return Err(Error::parameters(format!("`{name}` is not the name of a group")));
        }
        let mut plan = Plan::nothing();
        let text = host.read_text(FILE)?.unwrap_or_default();
        let local = text.lines().filter_map(Entry::parse).find(|group| group.name == name);
        let found = match &local {
            Some(group) => Some(group.clone()),
            None => host.group(name)?,
        };
        match (self.state, found) {
            (State::Absent, Some(group)) => {
                if local.is_none() {
                    return Err(not_local(name));
                }
                let passwd = host.read_text("/etc/passwd")?.unwrap_or_default();
                if let Some(user) = passwd.lines().filter_map(User::parse).find(|user| user.gid == group.gid) {
                    return Err(Error::refused(format!("{name} is the primary group of the user {}", user.name))
                        .hint("remove the user first, or give it another group"));
                }
                let run = Run::new(["groupdel", "--", name], effect(replace_line(&text, name, None)));
                plan.push(Op::Run(run), vec![Diff::removed("group", name, format!("gid {}", group.gid))]);
            }
            (State::Absent, None) => {}
            (State::Present, Some(group)) => {
                plan.set("gid", self.gid.unwrap_or(group.gid));
                if let Some(gid) = self.gid.filter(|gid| *gid != group.gid) {
                    if local.is_none() {
                        return Err(not_local(name));
                    }
                    let line = format!("{name}:x:{gid}:{}", group.members.join(","));
                    let number = gid.to_string();
                    let argv = ["groupmod", "-g", &number, "--", name];
                    let mut run = Run::new(argv, effect(replace_line(&text, name, Some(&line))));
                    let old = group.gid.to_string();
                    run.undo = Some(["groupmod", "-g", &old, "--", name].map(String::from).to_vec());
                    let words = (format!("gid {}", group.gid), format!("gid {gid}"));
                    plan.push(Op::Run(run), vec![Diff::changed("group", name, words.0, words.1)]);
                }
            }
            (State::Present, None) => {
                let used: Vec<u32> = text.lines().filter_map(Entry::parse).map(|group| group.gid).collect();
                let gid = match self.gid {
                    Some(gid) if used.contains(&gid) => {
                        return Err(Error::refused(format!("the number {gid} belongs to another group already")));
                    }
                    Some(gid) => gid,
                    None => free_id(&used, id_range(host, "GID", self.system.0)?, self.system.0),
                };
                let mut argv = vec!["groupadd".to_string()];
                if self.system.0 {
                    argv.push("-r".into());
                }
                if let Some(gid) = self.gid {
                    argv.extend(["-g".to_string(), gid.to_string()]);
                }
                argv.extend(["--".to_string(), name.to_string()]);
                let mut run = Run::new(argv, effect(with_line(&text, &format!("{name}:x:{gid}:"))));
                run.undo = Some(["groupdel", "--", name].map(String::from).to_vec());
                let after = self.gid.map_or("present".to_string(), |gid| format!("gid {gid}"));
                plan.push(Op::Run(run), vec![Diff::added("group", name, after)]);
            }
        }
        Ok(plan)
    }
}

pub(super) fn not_local(name: &str) -> Error {
    Error::refused(format!("{name} comes from a directory service, not from the files in /etc"))
        .hint("change it where it is kept")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::host::Host;
    use crate::host::overlay::testing::{apply, machine, plan, shown};

    #[test]
    fn made_changed_removed() {
        let machine =
            machine(&[("/etc/group", "root:x:0:\nkvm:x:36:qemu\nann:x:1000:\n"), ("/etc/passwd", "root:x:0:0::/:\n")]);
        assert!(apply(&machine, "group", json!({"name": "kvm"})).unwrap().is_empty());
        assert_eq!(shown(&apply(&machine, "group", json!({"name": "vfio"})).unwrap()), "group vfio\n+ present\n");
        assert_eq!(machine.group("vfio").unwrap().unwrap().gid, 1001);
        apply(&machine, "group", json!({"name": "daemons", "system": true})).unwrap();
        assert_eq!(machine.group("daemons").unwrap().unwrap().gid, 999);
        apply(&machine, "group", json!({"name": "kvm", "gid": 992})).unwrap();
        let kvm = machine.group("kvm").unwrap().unwrap();
        assert_eq!((kvm.gid, kvm.members), (992, vec!["qemu".to_string()]));
        apply(&machine, "group", json!({"name": "vfio", "state": "absent"})).unwrap();
        assert!(machine.group("vfio").unwrap().is_none());
    }

    #[test]
    fn what_would_do_harm_is_refused() {
        let machine = machine(&[("/etc/group", "root:x:0:\nann:x:1000:\n"), ("/etc/passwd", "ann:x:1000:1000::/:\n")]);
        for parameters in [
            json!({"name": "ann", "state": "absent"}),
            json!({"name": "x", "gid": 1000}),
            json!({"name": "-x"}),
            json!({"name": "a:b"}),
            json!({"name": ""}),
        ] {
            assert!(plan(&machine, "group", parameters.clone()).is_err(), "{parameters}");
        }
    }
}
