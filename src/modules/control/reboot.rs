//! `reboot`: restarts the machine, when there is a reason to.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::change::{Diff, Effect, Op, Plan, Run, Wait};
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
    /// They are asked to shut down first. If one does not within `guests_timeout`, the machine is not restarted.
    Shutdown,
    /// They are left alone, and waited for until somebody has shut them down. If one still runs after `guests_timeout`,
    /// the machine is not restarted.
    Wait,
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
    /// Seconds within which running guests must be shut off (`guests: shutdown` and `guests: wait`). Default: 180.
    #[serde(default = "three_minutes")]
    guests_timeout: u64,
}

fn timeout() -> u64 {
    600
}

fn three_minutes() -> u64 {
    180
}

impl Reboot {
    /// Shuts guests down, or waits for those who do. One that still runs at the end fails this.
    fn stop(&self, plan: &mut Plan, host: &dyn Host, running: &[String]) -> Result<()> {
        const VIRSH: [&str; 3] = ["virsh", "--connect", "qemu:///system"];
        let seconds = self.guests_timeout;
        let diff = |name: &str, how: &str| Diff::changed("domain", format!("{name}: state"), "running", how);
        if self.guests == Guests::Shutdown {
            for name in running {
                let ask = Run::new(VIRSH.into_iter().chain(["shutdown", name]), Vec::new());
                plan.push(Op::Run(ask), vec![diff(name, "shut off")]);
            }
        }
        for name in running {
            plan.push(
                Op::Wait(Wait {
                    // libvirt's QEMU driver keeps it there while a guest runs.
                    path: Some(format!("/run/libvirt/qemu/{name}.pid")),
                    timeout: seconds,
                    pause: 1,
                    message: Some(format!(
                        "the guest {name} still runs after {seconds} s, so the machine is not restarted"
                    )),
                    ..Wait::default()
                }),
                Vec::new(),
            );
            let state = host.virt(VirtKind::Domain, name)?.map(|virt| crate::host::Virt {
                active: false,
                live: None,
                domstate: None,
                ..virt
            });
            let effect = Effect::Virt { kind: VirtKind::Domain, name: name.clone(), state };
            let look = Run { any_code: true, ..Run::new(VIRSH.into_iter().chain(["domstate", name]), vec![effect]) };
            let shown = match self.guests {
                Guests::Wait => vec![diff(name, &format!("shut off by others within {seconds} s"))],
                _ => Vec::new(),
            };
            plan.push(Op::Run(look), shown);
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
                .hint("shut them down, or set `guests: shutdown`, `guests: wait` or `guests: ignore`"));
            }
            if !running.is_empty() {
                self.stop(&mut plan, host, &running)?;
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
        let state = Some(Virt { xml: "<domain/>".into(), active: true, ..Virt::default() });
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

    #[test]
    fn a_guest_that_does_not_stop_is_no_reason_to_pull_it_down() {
        for (guests, first) in [("shutdown", "shut off"), ("wait", "shut off by others within 7 s")] {
            let m = with_guest();
            let asked = plan(&m, "reboot", json!({"reasons": "x", "guests": guests, "guests_timeout": 7})).unwrap();
            // Nothing goes down in the round in which a guest runs, and the wait for it fails by itself.
            assert!(asked.staged && !asked.act);
            assert!(!asked.actions.iter().any(|action| shown(std::slice::from_ref(action)).starts_with("reboot")));
            let waits: Vec<_> = asked
                .actions
                .iter()
                .filter_map(|action| if let Op::Wait(wait) = &action.op { Some(wait) } else { None })
                .collect();
            let [wait] = waits.as_slice() else { panic!("{waits:?}") };
            assert_eq!(
                (wait.path.as_deref(), wait.present, wait.timeout),
                (Some("/run/libvirt/qemu/win8.pid"), false, 7)
            );
            let said = wait.message.clone().unwrap();
            assert!(said.contains("the guest win8 still runs after 7 s"), "{said}");
            let asks = |action: &crate::change::Action| matches!(&action.op, Op::Run(run) if run.argv[3] == "shutdown");
            assert_eq!(asked.actions.iter().any(asks), guests == "shutdown");
            let done = apply(&m, "reboot", json!({"reasons": "x", "guests": guests, "guests_timeout": 7})).unwrap();
            let text = shown(&done);
            assert!(text.starts_with(&format!("domain win8: state\nrunning → {first}\nreboot ws1\n")), "{text}");
        }
    }
}
