//! `reboot`: restarts the machine, when there is a reason to.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};

use crate::change::{Diff, Effect, Op, Plan, Run, Wait};
use crate::host::{Error, Host, Result, VirtKind};
use crate::modules::Module;
use crate::modules::boot::loader::{self, Boot};
use crate::modules::boot::trial::{self, State};
use crate::modules::params::{List, Text};

/// Whether a changed kernel or command line is booted once on trial.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Trial {
    /// Where kernel, command line or initramfs have changed and the boot loader is one that is known.
    #[default]
    Auto,
    /// Also where the boot loader is not known: then it is refused.
    Yes,
    /// Never.
    No,
    /// Also what has failed already.
    Again,
}

impl<'de> Deserialize<'de> for Trial {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Trial, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Trial;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or `again`")
            }
            fn visit_bool<E>(self, value: bool) -> std::result::Result<Trial, E> {
                Ok(if value { Trial::Yes } else { Trial::No })
            }
            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Trial, E> {
                match text.to_ascii_lowercase().as_str() {
                    "again" => Ok(Trial::Again),
                    "yes" | "true" | "on" | "1" => Ok(Trial::Yes),
                    "no" | "false" | "off" | "0" => Ok(Trial::No),
                    _ => Err(E::custom(format!("`{text}` is neither true nor false nor `again`"))),
                }
            }
        }
        deserializer.deserialize_any(V)
    }
}

impl JsonSchema for Trial {
    fn schema_name() -> Cow<'static, str> {
        "Trial".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"enum": [true, false, "again"]})
    }
}

/// What becomes of running guests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, JsonSchema)]
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
///
/// Where the next boot would have another kernel, command line or initramfs than the running one, it is a trial: booted
/// once, and the default only when the machine is back and this program has said so over a new connection. Otherwise the
/// machine returns by itself to what ran before, and the task fails. See docs/boot.md.
#[derive(Debug, serde::Deserialize, JsonSchema)]
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
    /// Whether a changed kernel or command line is booted once on trial. By default wherever the boot loader is one that
    /// this program knows; `true` refuses others. `false` boots it without a way back. `again` tries once more what has
    /// failed already. A trial needs as much time as `timeout` says to come up and be confirmed.
    #[serde(default)]
    trial: Trial,
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

/// What was on trial becomes the default.
fn confirm(host: &dyn Host, boot: &Boot, state: &State, marks: &trial::Marks, plan: &mut Plan) -> Result<()> {
    if let Some(why) = trial::mismatch(host, marks)? {
        return Err(Error::failed(format!("the trial boot is not what was asked for: {why}"))
            .hint("it is not confirmed, so the next boot is what the machine had before"));
    }
    if trial::is_too_late(host)? {
        return Err(Error::failed(
            "the time in which the trial boot had to be confirmed is over, and the machine goes back",
        )
        .hint("give it more: `timeout`; then say `trial: again`"));
    }
    plan.actions.extend(trial::end(host, boot, marks, true)?);
    // Reasons that are given are from before it; what is still one after it is for the next run to say.
    plan.act = true;
    plan.set("trial", "confirmed");
    if matches!(state, State::PassedBy(_)) {
        plan.warnings.push(
            "the machine runs what was to be tried, but its boot loader did not go by the entry on trial: somebody chose \
             in the menu, or another boot loader started it"
                .into(),
        );
    }
    Ok(())
}

impl Reboot {
    /// Nothing asks for a boot: what a trial has left behind is told, or put away where it is of no more use.
    fn without_reason(&self, host: &dyn Host, boot: &Boot, state: &State) -> Result<Plan> {
        let mut plan = Plan::nothing();
        match state {
            State::Nothing => plan.actions.extend(trial::leftovers(host, Some(boot))?),
            State::Returned { marks, why } => {
                plan.set("trial", "failed");
                plan.set("trial_message", why.clone());
                // With another default than what runs, putting it away would make that other one boot untried.
                if matches!(trial::change(host, boot), Ok(None)) {
                    plan.notes.push(format!("{why}; nothing waits for a boot any more, so its entries go"));
                    plan.actions.extend(trial::end(host, boot, marks, false)?);
                } else {
                    plan.warnings.push(why.clone());
                }
            }
            State::Armed(_) => {
                plan.warnings.push("a trial boot is armed, and the machine has not been restarted".into())
            }
            State::Running(_) | State::PassedBy(_) => {}
        }
        Ok(plan)
    }

    /// Arms a trial where the next boot is another one than the last.
    fn prepare(&self, host: &dyn Host, boot: &Boot, state: &State, plan: &mut Plan) -> Result<()> {
        let wanted = if self.trial == Trial::No { None } else { trial::change(host, boot)? };
        let Some(change) = wanted else {
            // A plain boot: nothing of an earlier trial may stand in its way.
            match state {
                State::Returned { marks, why } => {
                    plan.notes.push(why.clone());
                    plan.actions.extend(trial::end(host, boot, marks, false)?);
                }
                State::Armed(marks) => plan.actions.extend(trial::end(host, boot, marks, false)?),
                _ => plan.actions.extend(trial::leftovers(host, Some(boot))?),
            }
            return Ok(());
        };
        if let State::Returned { marks, why } = state {
            if self.trial != Trial::Again && change.is_again(host, boot, marks)? {
                return Err(Error::refused(format!(
                    "{why}; nothing about it has changed since, so it is not tried again"
                ))
                .hint(
                    "find out what is wrong with it (its console, `journalctl -b -1`) and change that; `trial: again` \
                         tries the same once more; `kernel_cmdline` with `absent:` takes an argument back",
                ));
            }
            plan.warnings.push(why.clone());
        }
        plan.warnings.extend(change.warnings.iter().cloned());
        // Only who came over a network can come back over it by himself.
        let seconds = host.control_peer().map(|_| self.timeout);
        plan.actions.extend(change.arm(host, boot, seconds)?);
        plan.set("trial", "armed");
        if seconds.is_none() && !host.is_recorded() {
            plan.notes.push(
                "nobody comes back by himself to confirm this trial boot, as the run is on the machine itself: run it \
                 again after the boot; until then the boot after that is what the machine had before"
                    .into(),
            );
        }
        // Asked again in the new boot, it confirms.
        (plan.act, plan.staged) = (false, true);
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
        let boot = match loader::read(host) {
            Ok(boot) => Some(boot),
            Err(error) if error.is_unknown() => return Err(error),
            Err(error) if self.trial != Trial::Auto && self.trial != Trial::No && !reasons.is_empty() => {
                return Err(Error::refused(format!("nothing can be booted on trial here: {}", error.message))
                    .hint("`trial: false` restarts the machine all the same"));
            }
            Err(_) => None,
        };
        let state = match &boot {
            Some(boot) => trial::state(host, boot)?,
            None => State::Nothing,
        };
        if let (Some(boot), State::Running(marks) | State::PassedBy(marks)) = (&boot, &state) {
            confirm(host, boot, &state, marks, &mut plan)?;
            return Ok(plan);
        }
        if reasons.is_empty() {
            return match boot {
                Some(boot) => self.without_reason(host, &boot, &state),
                None => Ok(plan),
            };
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
        plan.set("trial", "none");
        if let Some(command) = &self.test_command {
            plan.set("test_command", command.clone());
        }
        let kernel = host.read_line("/proc/sys/kernel/osrelease")?.unwrap_or_else(|| "an unknown kernel".into());
        let name = host.read_line("/proc/sys/kernel/hostname")?.unwrap_or_else(|| "the machine".into());
        let diff =
            Diff::changed("reboot", name, format!("running {kernel}"), format!("boots again: {}", reasons.join("; ")));
        if let Some(boot) = &boot {
            self.prepare(host, boot, &state, &mut plan)?;
        }
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
