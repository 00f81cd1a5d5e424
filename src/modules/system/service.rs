//! `service`: a systemd unit runs, starts with the machine, is masked.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::change::{Diff, Effect, Op, Plan, Run};
use crate::host::live::unit_name;
use crate::host::{Error, Host, Result, Unit};
use crate::modules::Module;
use crate::modules::params::Flag;

/// Starts, stops, enables or masks a systemd unit.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// The unit; without a suffix it is a service. May be left out where only `daemon_reload` is wanted.
    name: Option<String>,
    /// What it should do now. `restarted` and `reloaded` are done every time, which is what handlers are for.
    state: Option<State>,
    /// Does it start with the machine?
    enabled: Option<Flag>,
    /// Is it kept from being started at all, by anyone?
    masked: Option<Flag>,
    /// Let systemd read its unit files again first, if they have changed. Default: no.
    #[serde(default, alias = "daemon-reload")]
    daemon_reload: Flag,
}

/// What a unit should do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It runs.
    #[serde(alias = "running")]
    Started,
    /// It does not run.
    Stopped,
    /// Stopped if it runs, and started.
    Restarted,
    /// Reads its configuration again; started if it does not run.
    Reloaded,
}

/// States of a unit file in which `systemctl enable` has nothing (more) to do: see systemctl(1), is-enabled.
const AS_GOOD_AS_ENABLED: [&str; 7] =
    ["enabled", "enabled-runtime", "static", "alias", "indirect", "generated", "transient"];

/// Without a running systemd (in a chroot) units can be enabled, but nothing can be started.
pub(crate) fn is_offline(host: &dyn Host) -> Result<bool> {
    let output = host.query(&["systemctl", "is-system-running"])?;
    Ok(output.is_some_and(|output| output.code == 127 || output.stdout.trim() == "offline"))
}

fn shows(host: &dyn Host, property: &str, unit: &str) -> Result<Option<String>> {
    let output = host.query(&["systemctl", "show", "-p", property, "--", unit])?;
    Ok(output.filter(|output| output.code == 0).map(|output| output.stdout))
}

/// A service of libvirt's that ends by itself when nobody talks to it, and whose socket starts it again.
fn waits_behind_its_socket(host: &dyn Host, name: &str) -> Result<bool> {
    match name.strip_suffix(".service") {
        Some(base) if base == "libvirtd" || base.starts_with("virt") => {
            Ok(host.unit(&format!("{base}.socket"))?.active)
        }
        _ => Ok(false),
    }
}

fn push(plan: &mut Plan, name: &str, verb: &str, undo: Option<&str>, words: (&str, &str), effect: Effect) {
    let mut run = Run::new(["systemctl", verb, "--", name], vec![effect]);
    run.undo = undo.map(|undo| ["systemctl", undo, "--", name].map(String::from).to_vec());
    plan.push(Op::Run(run), vec![Diff::changed("unit", name, words.0, words.1)]);
}

fn effect(name: &str, enabled: Option<&str>, active: Option<bool>) -> Effect {
    Effect::Unit { name: name.to_string(), exists: None, enabled: enabled.map(str::to_string), active }
}

impl Service {
    fn reload_manager(&self, host: &dyn Host, plan: &mut Plan, unit: &str) -> Result<()> {
        let Some(shown) = shows(host, "NeedDaemonReload", unit)? else { return Ok(()) };
        if shown.lines().any(|line| line.trim() == "NeedDaemonReload=yes") {
            let mut run = Run::new(["systemctl", "daemon-reload"], Vec::new());
            run.undo = Some(run.argv.clone());
            plan.push(Op::Run(run), Vec::new());
        }
        Ok(())
    }

    fn mask(&self, plan: &mut Plan, name: &str, unit: &mut Unit) {
        match self.masked {
            Some(Flag(true)) if unit.enabled != "masked" => {
                push(
                    plan,
                    name,
                    "mask",
                    Some("unmask"),
                    ("not masked", "masked"),
                    Effect::Unit {
                        name: name.to_string(),
                        exists: Some(true),
                        enabled: Some("masked".into()),
                        active: None,
                    },
                );
                unit.enabled = "masked".into();
            }
            Some(Flag(false)) if unit.enabled == "masked" => {
                let words = ("masked", "not masked");
                push(plan, name, "unmask", Some("mask"), words, effect(name, Some("disabled"), None));
                unit.enabled = "disabled".into();
            }
            _ => {}
        }
    }

    fn enable(&self, plan: &mut Plan, name: &str, unit: &Unit) -> Result<()> {
        match self.enabled {
            Some(Flag(true)) if unit.enabled == "masked" => {
                Err(Error::refused(format!("{name} is masked, so it can't be enabled"))
                    .hint("someone did that on purpose: add `masked: false` if it shall be undone"))
            }
            Some(Flag(true)) if !AS_GOOD_AS_ENABLED.contains(&unit.enabled.as_str()) => {
                push(
                    plan,
                    name,
                    "enable",
                    Some("disable"),
                    ("disabled", "enabled"),
                    effect(name, Some("enabled"), None),
                );
                Ok(())
            }
            Some(Flag(false)) if matches!(unit.enabled.as_str(), "enabled" | "enabled-runtime") => {
                push(
                    plan,
                    name,
                    "disable",
                    Some("enable"),
                    ("enabled", "disabled"),
                    effect(name, Some("disabled"), None),
                );
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn run(&self, host: &dyn Host, plan: &mut Plan, name: &str, unit: &Unit) -> Result<()> {
        let now = if unit.active { "running" } else { "stopped" };
        let starts = match self.state {
            None => return Ok(()),
            Some(State::Stopped) => {
                if unit.active {
                    let words = ("running", "stopped");
                    push(plan, name, "stop", Some("start"), words, effect(name, None, Some(false)));
                }
                return Ok(());
            }
            Some(State::Started) if unit.active || waits_behind_its_socket(host, name)? => return Ok(()),
            Some(State::Started | State::Restarted | State::Reloaded) => true,
        };
        if starts && unit.enabled == "masked" {
            return Err(Error::refused(format!("{name} is masked, so it can't be started"))
                .hint("someone did that on purpose: add `masked: false` if it shall be undone"));
        }
        if is_offline(host)? {
            return match self.state {
                Some(State::Started) => {
                    Err(Error::refused(format!("{name} can't be started: systemd does not run here"))
                        .hint("in a chroot, ask for `enabled: true` only; it starts when the machine boots"))
                }
                _ => {
                    plan.notes.push(format!("{name} was not {now}, and systemd does not run here: nothing to restart"));
                    Ok(())
                }
            };
        }
        let running = effect(name, None, Some(true));
        match self.state {
            Some(State::Restarted) => {
                push(plan, name, "restart", None, (now, "restarted"), running);
                plan.act = true;
            }
            Some(State::Reloaded) if unit.active => {
                push(plan, name, "reload", None, (now, "reloaded"), running);
                plan.act = true;
            }
            _ => {
                push(plan, name, "start", Some("stop"), (now, "running"), running);
                // A oneshot service has done its work and ended by the time it could be asked again.
                let shown = shows(host, "Type,RemainAfterExit", name)?.unwrap_or_default();
                plan.act = shown.contains("Type=oneshot") && shown.contains("RemainAfterExit=no");
            }
        }
        Ok(())
    }
}

impl Module for Service {
    const NAME: &'static str = "service";
    const SUMMARY: &'static str = "Start, stop, enable or mask a systemd unit";
    const ALIASES: &'static [&'static str] = &["systemd", "systemd_service"];

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan::nothing();
        let Some(name) = self.name.as_deref().map(unit_name) else {
            if !self.daemon_reload.0 || self.state.is_some() || self.enabled.is_some() || self.masked.is_some() {
                return Err(Error::parameters("`name` is missing: which unit?"));
            }
            self.reload_manager(host, &mut plan, "*")?;
            return Ok(plan);
        };
        if name.starts_with('-') || name.contains(|c: char| c.is_whitespace() || c == '/') {
            return Err(Error::parameters(format!("`{name}` is not the name of a unit")));
        }
        let mut unit = host.unit(&name)?;
        if self.daemon_reload.0 && unit.exists {
            self.reload_manager(host, &mut plan, &name)?;
        }
        self.mask(&mut plan, &name, &mut unit);
        if !unit.exists && self.masked != Some(Flag(true)) {
            let wants = self.enabled == Some(Flag(true)) || !matches!(self.state, None | Some(State::Stopped));
            if wants {
                return Err(Error::failed(format!("there is no unit {name} on this machine")).hint(
                    "install the package that has it first; if a task before this one does, name the unit there under `units:`, \
                     so that a plan knows it too",
                ));
            }
            plan.notes.push(format!("there is no unit {name}, so it neither runs nor starts with the machine"));
            return Ok(plan);
        }
        self.enable(&mut plan, &name, &unit)?;
        self.run(host, &mut plan, &name, &unit)?;
        plan.set("name", name);
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::change::Action;
    use crate::host::model::predict;
    use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};

    fn with(units: &[(&str, &str, bool)]) -> Machine {
        let machine = machine(&[]);
        let effects = units
            .iter()
            .map(|(name, enabled, active)| Effect::Unit {
                name: name.to_string(),
                exists: Some(true),
                enabled: Some(enabled.to_string()),
                active: Some(*active),
            })
            .collect();
        predict(&machine, &Op::Run(Run::new(["test"], effects))).unwrap();
        machine
    }

    fn verbs(actions: &[Action]) -> Vec<String> {
        actions
            .iter()
            .filter_map(|action| match &action.op {
                Op::Run(run) => run.argv.get(1).cloned(),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn enabled_and_started_once() {
        let machine = with(&[("libvirtd.service", "disabled", false)]);
        let done =
            apply(&machine, "systemd", json!({"name": "libvirtd", "enabled": true, "state": "started"})).unwrap();
        assert_eq!(verbs(&done), ["enable", "start"]);
        assert_eq!(
            shown(&done),
            "unit libvirtd.service\ndisabled → enabled\nunit libvirtd.service\nstopped → running\n"
        );
        let done =
            apply(&machine, "service", json!({"name": "libvirtd", "enabled": false, "state": "stopped"})).unwrap();
        assert_eq!(verbs(&done), ["disable", "stop"]);
    }

    #[test]
    fn static_units_and_sleeping_libvirt_daemons_are_left_alone() {
        let machine = with(&[
            ("a.service", "static", true),
            ("virtqemud.service", "enabled", false),
            ("virtqemud.socket", "enabled", true),
        ]);
        assert!(apply(&machine, "service", json!({"name": "a", "enabled": true})).unwrap().is_empty());
        assert!(apply(&machine, "service", json!({"name": "virtqemud", "state": "started"})).unwrap().is_empty());
    }

    #[test]
    fn restart_is_an_act_and_masks_are_respected() {
        let machine = with(&[("a.service", "enabled", true), ("m.service", "masked", false)]);
        let restart = plan(&machine, "service", json!({"name": "a", "state": "restarted"})).unwrap();
        assert!(restart.act);
        assert_eq!(verbs(&restart.actions), ["restart"]);
        for state in [json!({"name": "m", "state": "started"}), json!({"name": "m", "enabled": true})] {
            assert!(plan(&machine, "service", state).unwrap_err().to_string().contains("masked: false"));
        }
        let done = apply(&machine, "service", json!({"name": "m", "masked": false, "enabled": true})).unwrap();
        assert_eq!(verbs(&done), ["unmask", "enable"]);
        let done = apply(&machine, "service", json!({"name": "a", "masked": true, "state": "stopped"})).unwrap();
        assert_eq!(verbs(&done), ["mask", "stop"]);
    }

    #[test]
    fn a_unit_that_is_not_there() {
        let machine = with(&[]);
        assert!(plan(&machine, "service", json!({"name": "x", "state": "started"})).is_err());
        assert!(
            apply(&machine, "service", json!({"name": "x", "state": "stopped", "enabled": false})).unwrap().is_empty()
        );
        assert_eq!(verbs(&apply(&machine, "service", json!({"name": "x", "masked": true})).unwrap()), ["mask"]);
        assert!(plan(&machine, "service", json!({"state": "started"})).is_err());
        assert!(plan(&machine, "service", json!({"name": "--now"})).is_err());
    }
}
