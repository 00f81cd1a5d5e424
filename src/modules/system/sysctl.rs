//! `sysctl`: a setting of the kernel, now and from the next boot on.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{put_text, with_line};
use crate::change::{Diff, Effect, Op, Plan};
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::params::{Flag, Text, yes};

/// Sets a kernel setting in a file of /etc/sysctl.d and in the running kernel.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sysctl {
    /// The setting, such as `vm.nr_hugepages`.
    #[serde(alias = "key")]
    name: String,
    /// Its value. Needed unless `state: absent`.
    #[serde(alias = "val")]
    value: Option<Text>,
    /// `present` writes it to the file, `absent` takes it out of the file (the running kernel keeps its value).
    #[serde(default)]
    state: State,
    /// The file. Default: /etc/sysctl.d/99-vfio-provision.conf.
    #[serde(default = "default_file")]
    sysctl_file: String,
    /// Set it in the running kernel too. Default: yes.
    #[serde(default = "yes")]
    reload: Flag,
    /// The same as `reload`, for playbooks that say `reload: no` and this.
    #[serde(default)]
    sysctl_set: Flag,
    /// Say nothing when the running kernel has no such setting. Default: no.
    #[serde(default)]
    ignoreerrors: Flag,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It has this value.
    #[default]
    Present,
    /// The file does not mention it.
    Absent,
}

fn default_file() -> String {
    "/etc/sysctl.d/99-vfio-provision.conf".into()
}

/// The setting with slashes between its parts, as below /proc/sys. sysctl.d(5): whichever of `.` and `/` comes first is
/// the separator, and the other one then stands for itself the other way round.
fn path_of(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.get(at..).is_some_and(|rest| rest.starts_with('.')) => name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_string(),
    }
}

/// The setting and value of a line; `None` for comments and what is no setting.
fn parse(line: &str) -> Option<(String, &str)> {
    let line = line.trim();
    if line.starts_with(['#', ';']) {
        return None;
    }
    let (name, value) = line.split_once('=')?;
    Some((path_of(name.trim().trim_start_matches('-').trim()), value.trim()))
}

/// Values that differ only in blanks are the same: the kernel prints tabs.
fn same(a: &str, b: &str) -> bool {
    a.split_whitespace().eq(b.split_whitespace())
}

/// The text with this setting in it: where it was set last, or at the end.
fn set(text: &str, path: &str, name: &str, value: &str) -> String {
    let last = text.lines().enumerate().filter(|(_, line)| parse(line).is_some_and(|(p, _)| p == path)).last();
    match last {
        None => with_line(text, &format!("{name} = {value}")),
        Some((_, line)) if parse(line).is_some_and(|(_, old)| same(old, value)) => text.to_string(),
        Some((number, _)) => text
            .split_inclusive('\n')
            .enumerate()
            .map(|(n, line)| match line.split_once('=') {
                Some((left, right)) if n == number => {
                    let blanks: String = right.chars().take_while(|c| *c == ' ' || *c == '\t').collect();
                    format!("{left}={blanks}{value}\n")
                }
                _ => line.to_string(),
            })
            .collect(),
    }
}

fn unset(text: &str, path: &str) -> String {
    text.split_inclusive('\n').filter(|line| parse(line).is_none_or(|(p, _)| p != path)).collect()
}

impl Module for Sysctl {
    const NAME: &'static str = "sysctl";
    const SUMMARY: &'static str = "Set a kernel setting, now and from the next boot on";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let name = self.name.trim();
        let path = path_of(name);
        let odd = |c: char| c.is_whitespace() || c.is_control() || c == '=' || c == '#';
        if name.is_empty() || name.contains(odd) || path.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(Error::parameters(format!("`{}` is not the name of a kernel setting", self.name)));
        }
        let mut plan = Plan::nothing();
        let before = host.read_text(&self.sysctl_file)?;
        let text = before.as_deref().unwrap_or("");
        if self.state == State::Absent {
            let after = unset(text, &path);
            put_text(host, &mut plan, &self.sysctl_file, before.as_deref(), before.as_ref().map(|_| after.as_str()))?;
            return Ok(plan);
        }
        let value = self.value.as_deref().map(str::trim).unwrap_or("");
        if value.is_empty() || value.contains('\n') {
            return Err(Error::parameters(format!("`value` of {name} is missing or has more than one line")));
        }
        let after = set(text, &path, name, value);
        put_text(host, &mut plan, &self.sysctl_file, before.as_deref(), Some(&after))?;
        self.warn_of_later_files(host, &mut plan, &path, value)?;
        if !(self.reload.0 || self.sysctl_set.0) {
            return Ok(plan);
        }
        let live = format!("/proc/sys/{path}");
        match host.read(&live)? {
            Some(now) => {
                let now = String::from_utf8_lossy(&now).trim().to_string();
                if !same(&now, value) {
                    let effect = Effect::File { path: live.clone(), content: Some(format!("{value}\n")), mode: None };
                    let op = Op::Poke { path: live, value: value.to_string(), effects: vec![effect] };
                    plan.push(op, vec![Diff::changed("sysctl", name, now, value)]);
                }
            }
            None if !self.ignoreerrors.0 && host.exists("/proc/sys/kernel")? => plan.warnings.push(format!(
                "the running kernel has no {name}: the value counts once the module that brings it is loaded"
            )),
            None => {}
        }
        Ok(plan)
    }
}

impl Sysctl {
    /// Files are read in the order of their names, whatever their folder, and the last one wins (sysctl.d(5)).
    fn warn_of_later_files(&self, host: &dyn Host, plan: &mut Plan, path: &str, value: &str) -> Result<()> {
        let own = self.sysctl_file.rsplit('/').next().unwrap_or("");
        if !self.sysctl_file.starts_with("/etc/sysctl.d/") {
            return Ok(());
        }
        for folder in ["/etc/sysctl.d", "/run/sysctl.d", "/usr/lib/sysctl.d"] {
            for file in host.list(folder)?.into_iter().filter(|file| file.as_str() > own && file.ends_with(".conf")) {
                let text = host.read(&format!("{folder}/{file}"))?.unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                if let Some((_, other)) = text.lines().filter_map(parse).rfind(|(p, _)| p == path)
                    && !same(other, value)
                {
                    plan.warnings.push(format!(
                        "{folder}/{file} sets {} to {other} after {own} has been read: at the next boot that wins",
                        self.name
                    ));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::host::overlay::testing::{apply, machine, plan, shown};

    #[test]
    fn file_and_running_kernel() {
        let machine = machine(&[("/proc/sys/vm/nr_hugepages", "0\n")]);
        let done = apply(&machine, "sysctl", json!({"name": "vm.nr_hugepages", "value": 8192})).unwrap();
        assert_eq!(
            shown(&done),
            "folder /etc\n+ 0755\nfolder /etc/sysctl.d\n+ 0755\n\
             file /etc/sysctl.d/99-vfio-provision.conf\n--- /dev/null\n+++ /etc/sysctl.d/99-vfio-provision.conf\n\
             @@ -0,0 +1 @@\n+vm.nr_hugepages = 8192\nsysctl vm.nr_hugepages\n0 → 8192\n"
        );
        assert_eq!(machine.read_line("/proc/sys/vm/nr_hugepages").unwrap().as_deref(), Some("8192"));
        let parameters = json!({"name": "vm.nr_hugepages", "value": "1", "reload": false});
        assert_eq!(apply(&machine, "sysctl", parameters).unwrap().len(), 1);
        apply(&machine, "sysctl", json!({"name": "vm/nr_hugepages", "state": "absent"})).unwrap();
        assert_eq!(machine.read_text("/etc/sysctl.d/99-vfio-provision.conf").unwrap().as_deref(), Some(""));
    }

    #[test]
    fn other_lines_stay_as_they_are() {
        let text = "# net\n-net.ipv4.ip_forward=0\nkernel.x = 1";
        assert_eq!(set(text, "net/ipv4/ip_forward", "n", "1"), "# net\n-net.ipv4.ip_forward=1\nkernel.x = 1");
        assert_eq!(set(text, "kernel/x", "kernel.x", "1"), text);
        assert_eq!(set(text, "a/b", "a.b", "2"), format!("{text}\na.b = 2\n"));
        assert_eq!(path_of("net/ipv4/conf/enp3s0.200/forwarding"), "net/ipv4/conf/enp3s0.200/forwarding");
        assert_eq!(path_of("net.ipv4.conf.enp3s0/200.forwarding"), "net/ipv4/conf/enp3s0.200/forwarding");
    }

    #[test]
    fn blanks_are_no_difference_and_a_later_file_is_named() {
        let machine = machine(&[
            ("/proc/sys/net/ipv4/ip_local_port_range", "32768\t60999\n"),
            ("/etc/sysctl.d/zz.conf", "net.ipv4.ip_local_port_range = 1 2\n"),
        ]);
        let parameters = json!({"name": "net.ipv4.ip_local_port_range", "value": "32768 60999"});
        let answer = plan(&machine, "sysctl", parameters).unwrap();
        assert_eq!(answer.actions.len(), 1);
        assert!(answer.warnings[0].contains("/etc/sysctl.d/zz.conf"), "{:?}", answer.warnings);
    }

    #[test]
    fn a_setting_the_kernel_lacks_is_a_warning() {
        let machine = machine(&[("/proc/sys/kernel/osrelease", "6.1\n"), ("/etc/sysctl.d/", "")]);
        let parameters = json!({"name": "net.bridge.bridge-nf-call-iptables", "value": 0});
        let answer = plan(&machine, "sysctl", parameters).unwrap();
        assert_eq!((answer.actions.len(), answer.warnings.len()), (1, 1));
        for wrong in ["", "a..b", "../x", "a b", "x=1"] {
            assert!(plan(&machine, "sysctl", json!({"name": wrong, "value": 1})).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn setting_twice_is_setting_once(text in "([ -~]{0,12}\n){0,5}[ -~]{0,6}", value in "[0-9a-z]{1,4}") {
            let once = set(&text, "vm/x", "vm.x", &value);
            prop_assert_eq!(set(&once, "vm/x", "vm.x", &value), once.clone());
            prop_assert!(!unset(&once, "vm/x").lines().any(|l| parse(l).is_some_and(|(p, _)| p == "vm/x")));
        }
    }
}
