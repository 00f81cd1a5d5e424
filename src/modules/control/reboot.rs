//! `reboot`: restarts the machine, when there is a reason to.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::change::{Diff, Effect, Op, Plan, Run};
use crate::host::{Error, Host, Result, VirtKind};
use crate::modules::Module;
use crate::modules::params::{List, Text};

/// What becomes of running guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Guests {
    /// The machine is not restarted while guests run.
    #[default]
    Refuse,
    /// They are asked to shut down first, and given three minutes each.
    Shutdown,
    /// They are left to what the host does with them when it goes down.
    Ignore,
}

/// Restarts the machine if a reason is given, and waits until it is back.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reboot {
    /// Why. Without a reason nothing is done.
    #[serde(default)]
    reasons: List<Text>,
    /// What users who are logged in are told.
    #[serde(alias = "msg")]
    message: Option<String>,
    /// Seconds within which the machine must be back. Default: 600.
    #[serde(default = "timeout", alias = "reboot_timeout")]
    timeout: u64,
    /// A command that must succeed before the machine counts as back. Default: that it answers.
    test_command: Option<String>,
    /// What becomes of running guests. Default: `refuse`.
    #[serde(default)]
    guests: Guests,
}

fn timeout() -> u64 {
    600
}

/// The event "Shutdown", and then "Stopped", as `virsh event` waits for them.
const PATIENCE: [&str; 2] = ["180", "10"];

impl Reboot {
    fn shut_down(plan: &mut Plan, host: &dyn Host, running: &[String]) -> Result<()> {
        const VIRSH: [&str; 3] = ["virsh", "--connect", "qemu:///system"];
        for name in running {
            let diff = Diff::changed("domain", format!("{name}: state"), "running", "shut off");
            let ask = Run::new(VIRSH.into_iter().chain(["shutdown", name]), Vec::new());
            plan.push(Op::Run(ask), vec![diff]);
            let state = host.virt(VirtKind::Domain, name)?.map(|virt| crate::host::Virt { active: false, ..virt });
            for (at, seconds) in PATIENCE.into_iter().enumerate() {
                let event = ["event", "--domain", name, "--event", "lifecycle", "--timeout", seconds];
                let effect = Effect::Virt { kind: VirtKind::Domain, name: name.clone(), state: state.clone() };
                let effects = if at + 1 == PATIENCE.len() { vec![effect] } else { Vec::new() };
                let wait = Run { any_code: true, ..Run::new(VIRSH.into_iter().chain(event), effects) };
                plan.push(Op::Run(wait), Vec::new());
            }
        }
        plan.staged = true;
        Ok(())
    }
}

impl Module for Reboot {
    const NAME: &'static str = "reboot";
    const SUMMARY: &'static str = "Restart the machine, when there is a reason to";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan::nothing();
        let mut reasons: Vec<&str> = Vec::new();
        for reason in self.reasons.iter().map(|reason| reason.trim()).filter(|reason| !reason.is_empty()) {
            if !reasons.contains(&reason) {
                reasons.push(reason);
            }
        }
        if reasons.is_empty() {
            return Ok(plan);
        }
        if self.guests != Guests::Ignore {
            let mut running = Vec::new();
            for name in host.virt_names(VirtKind::Domain)? {
                if host.virt(VirtKind::Domain, &name)?.is_some_and(|virt| virt.active) {
                    running.push(name);
                }
            }
            if !running.is_empty() && self.guests == Guests::Refuse {
                return Err(Error::refused(format!(
                    "the machine is not restarted while guests run: {}",
                    running.join(", ")
                ))
                .hint("shut them down, or set `guests: shutdown`, or `guests: ignore`"));
            }
            if !running.is_empty() {
                Self::shut_down(&mut plan, host, &running)?;
                return Ok(plan);
            }
        }
        plan.act = true;
        plan.set("timeout", self.timeout);
        if let Some(command) = &self.test_command {
            plan.set("test_command", command.clone());
        }
        let kernel = host.read_line("/proc/sys/kernel/osrelease")?.unwrap_or_else(|| "an unknown kernel".into());
        let name = host.read_line("/proc/sys/kernel/hostname")?.unwrap_or_else(|| "the machine".into());
        let diff =
            Diff::changed("reboot", name, format!("running {kernel}"), format!("boots again: {}", reasons.join("; ")));
        let argv = match self.message.as_deref().map(str::trim).filter(|message| !message.is_empty()) {
            Some(message) => vec!["shutdown", "-r", "now", message],
            None => vec!["systemctl", "reboot"],
        };
        plan.push(Op::Run(Run::new(argv, vec![Effect::Reboot])), vec![diff]);
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::change::{Effect, Op, Run};
    use crate::host::model::predict;
    use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};
    use crate::host::{Virt, VirtKind};

    fn with_guest() -> Machine {
        let m = machine(&[("/proc/sys/kernel/osrelease", "3.10.0-1160\n"), ("/proc/sys/kernel/hostname", "ws1\n")]);
        let state = Some(Virt { xml: "<domain/>".into(), active: true, autostart: false });
        let effect = Effect::Virt { kind: VirtKind::Domain, name: "win8".into(), state };
        predict(&m, &Op::Run(Run::new(["test"], vec![effect]))).unwrap();
        m
    }

    #[test]
    fn only_for_a_reason() {
        let m = machine(&[]);
        assert!(plan(&m, "reboot", json!({})).unwrap().actions.is_empty());
        assert!(plan(&m, "reboot", json!({"reasons": ["", " "]})).unwrap().actions.is_empty());
    }

    #[test]
    fn running_guests_are_not_pulled_down() {
        let m = with_guest();
        let error = plan(&m, "reboot", json!({"reasons": "new kernel"})).unwrap_err();
        assert!(error.message.contains("while guests run: win8"), "{error}");
        let done =
            plan(&m, "reboot", json!({"reasons": ["new kernel", "iommu", "iommu"], "guests": "ignore"})).unwrap();
        assert!(done.act);
        assert_eq!(shown(&done.actions), "reboot ws1\nrunning 3.10.0-1160 → boots again: new kernel; iommu\n");
        let done = apply(&m, "reboot", json!({"reasons": "x", "guests": "shutdown", "message": "back soon"})).unwrap();
        assert!(shown(&done).starts_with("domain win8: state\nrunning → shut off\nreboot ws1\n"), "{}", shown(&done));
        let Some(Op::Run(run)) = done.last().map(|action| &action.op) else { panic!() };
        assert_eq!(run.argv, ["shutdown", "-r", "now", "back soon"]);
        assert_eq!(run.effects, [Effect::Reboot]);
    }
}
