//! Running, paused, shut off, gone: the ways from one to the other.

use super::{LibvirtDomain, State, unreadable, virt_effect};
use crate::change::{Diff, Op, Plan, Run, Wait};
use crate::host::{Error, Host, Result, Virt};
use crate::modules::libvirt::virsh;
use crate::modules::libvirt::xml::{self, Element};

/// How long a guest has to shut down by itself unless told otherwise, in seconds.
const PATIENCE: u64 = 180;
/// How long libvirt may take to notice that QEMU has ended.
const NOTICE: u64 = 30;
/// The first libvirt whose `undefine` can be told what becomes of a TPM's state.
const KEEP_TPM_SINCE: (u32, u32) = (8, 9);

/// Where libvirt keeps the memory of a guest that was saved with the host.
pub fn managed_save(name: &str) -> String {
    format!("/var/lib/libvirt/qemu/save/{name}.save")
}

/// How a guest is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Now {
    Off,
    Running,
    Paused,
    /// Suspended by itself, as a laptop is when its lid closes.
    Asleep,
    /// It has crashed, and its memory is kept for a look.
    Crashed,
    /// It is about to end.
    Ending,
}

impl Now {
    fn of(state: &Virt) -> Now {
        match (state.active, state.domstate.as_deref()) {
            (false, _) => Now::Off,
            (true, Some("paused")) => Now::Paused,
            (true, Some("pmsuspended")) => Now::Asleep,
            (true, Some("crashed")) => Now::Crashed,
            (true, Some("in shutdown")) => Now::Ending,
            (true, _) => Now::Running,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Now::Off => "shut off",
            Now::Running => "running",
            Now::Paused => "paused",
            Now::Asleep => "suspended by itself",
            Now::Crashed => "crashed",
            Now::Ending => "shutting down",
        }
    }
}

/// One way from a state to another: commands, of which the first carries the diff.
struct Way<'a> {
    name: &'a str,
    plan: &'a mut Plan,
    diff: Option<Diff>,
    state: &'a mut Virt,
}

impl Way<'_> {
    /// A virsh command after which the guest is so.
    fn virsh(&mut self, arguments: &[&str], active: bool, domstate: Option<&str>, undo: Option<&str>) {
        self.state.active = active;
        self.state.domstate = domstate.map(str::to_string);
        if !active || arguments.first() == Some(&"start") {
            self.state.live = None;
        }
        let mut run = virsh(arguments, vec![virt_effect(self.name, Some(self.state))]);
        run.undo = undo.map(|verb| virsh(&[verb, self.name], Vec::new()).argv);
        self.push(Op::Run(run));
    }

    fn push(&mut self, op: Op) {
        self.plan.push(op, self.diff.take().into_iter().collect());
    }

    /// Until QEMU has ended and libvirt knows; an error after that many seconds.
    fn ended(&mut self, seconds: u64, message: String) {
        self.push(Op::Wait(Wait {
            // libvirt's QEMU driver keeps it there while a guest runs.
            path: Some(pid_file(self.name)),
            timeout: seconds,
            pause: 1,
            message: Some(message),
            ..Wait::default()
        }));
    }
}

fn pid_file(name: &str) -> String {
    format!("/run/libvirt/qemu/{name}.pid")
}

impl LibvirtDomain {
    pub(super) fn plan_state(&self, host: &dyn Host, name: &str, state: &mut Virt, plan: &mut Plan) -> Result<()> {
        let now = Now::of(state);
        let wanted = match (self.state, now) {
            (State::Running, Now::Running) | (State::Paused, Now::Paused) | (State::Shutdown, Now::Off) => {
                return Ok(());
            }
            (State::Running, _) => Now::Running,
            (State::Paused, _) => Now::Paused,
            (State::Shutdown, _) => Now::Off,
            (State::Present | State::Absent, _) => return Ok(()),
        };
        if now == Now::Crashed && !self.force.0 {
            return Err(Error::refused(format!("{name} has crashed, and its memory is kept for a look")).hint(
                format!("`force: true` ends it; `virsh dump {name} FILE --memory-only` keeps what there is to see"),
            ));
        }
        let force = wanted == Now::Off && self.force.0;
        let patience = self.shutdown_timeout.unwrap_or(PATIENCE);
        let after = match (wanted, force, now) {
            (Now::Off, true, Now::Crashed) => "shut off, by force".to_string(),
            (Now::Off, true, _) => format!("shut off, by force after {patience} s"),
            _ => wanted.words().to_string(),
        };
        let diff = Some(Diff::changed("domain", format!("{name}: state"), now.words(), after));
        let mut way = Way { name, plan, diff, state };
        if now == Now::Crashed {
            way.virsh(&["destroy", name], false, None, None);
        }
        if now == Now::Ending {
            way.ended(patience, format!("{name} began to shut down, and has not ended after {patience} s"));
            way.state.active = false;
        }
        if now == Now::Asleep {
            way.virsh(&["dompmwakeup", name], true, None, None);
        }
        match (wanted, Now::of(way.state)) {
            (Now::Running, Now::Off) => {
                if host.exists(&managed_save(name))? {
                    way.plan.notes.push(format!("{name} resumes from its saved state"));
                }
                way.virsh(&["start", name], true, None, None);
            }
            (Now::Paused, Now::Off) => way.virsh(&["start", name, "--paused"], true, Some("paused"), None),
            (Now::Running, Now::Paused) => way.virsh(&["resume", name], true, None, Some("suspend")),
            (Now::Paused, Now::Running) => way.virsh(&["suspend", name], true, Some("paused"), Some("resume")),
            (Now::Off, Now::Off | Now::Ending) | (_, Now::Crashed | Now::Asleep) => {}
            (Now::Off, before) => {
                if before == Now::Paused {
                    // Who stands still hears no power button.
                    way.virsh(&["resume", name], true, None, Some("suspend"));
                }
                shut_down(host, &mut way, patience, force)?;
            }
            _ => {}
        }
        Ok(())
    }

    pub(super) fn plan_absent(&self, host: &dyn Host, name: &str, current: Option<Virt>) -> Result<Plan> {
        let mut plan = Plan::nothing();
        plan.set("name", name);
        plan.set("state", "absent");
        let Some(current) = current else { return Ok(plan) };
        if current.active {
            return Err(Error::refused(format!("{name} is running: undefining it now would lose it when it stops"))
                .hint("shut it down first (`state: shutdown`)"));
        }
        let definition = xml::parse(&current.xml).map_err(|why| unreadable(name, &why))?;
        may_go(host, name)?;
        let mut arguments = vec!["undefine", name, if self.remove_nvram.0 { "--nvram" } else { "--keep-nvram" }];
        if has_tpm_state(&definition) {
            arguments.extend(self.tpm_flag(host, name)?);
        }
        let mut run = virsh(&arguments, vec![virt_effect(name, None)]);
        run.undo = Some(virsh(&["define", "/dev/stdin"], Vec::new()).argv);
        let shown = super::intent::without(&super::compare::masked(&definition)).print();
        plan.push(Op::Run(run), vec![Diff::removed("domain", name, shown)]);
        super::forget_stamp(host, &mut plan, &format!("{}/{name}.xml", super::STAMPS), name)?;
        Ok(plan)
    }

    /// What becomes of an emulated TPM's state. libvirt removes it unless it is told, and before 8.9 it can't be told.
    fn tpm_flag(&self, host: &dyn Host, name: &str) -> Result<Option<&'static str>> {
        let version = host.query(&["virsh", "--version"])?.map(|output| output.stdout).unwrap_or_default();
        let mut parts = version.trim().split('.').map(|part| part.parse::<u32>().ok());
        let old =
            matches!((parts.next().flatten(), parts.next().flatten()), (Some(a), Some(b)) if (a, b) < KEEP_TPM_SINCE);
        match (old, self.remove_tpm.0) {
            (false, true) => Ok(Some("--tpm")),
            (false, false) => Ok(Some("--keep-tpm")),
            (true, true) => Ok(None),
            (true, false) => Err(Error::refused(format!(
                "libvirt {} can't undefine {name} without removing the state of its TPM",
                version.trim()
            ))
            .hint("`remove_tpm: true` says that it may go; a copy of /var/lib/libvirt/swtpm keeps it")),
        }
    }
}

/// Asks for a shutdown and waits; then, where that is said, pulls the plug.
fn shut_down(host: &dyn Host, way: &mut Way<'_>, patience: u64, force: bool) -> Result<()> {
    let name = way.name;
    way.virsh(&["shutdown", name], false, None, None);
    if !force {
        way.ended(
            patience,
            format!("{name} was asked to shut down and still runs after {patience} s (`force: true` pulls the plug)"),
        );
        return Ok(());
    }
    // Ends when QEMU does: a wait that may end without success.
    let seconds = patience.to_string();
    let argv: Vec<String> = match host.read_line(&pid_file(name))?.filter(|pid| pid.parse::<u32>().is_ok()) {
        Some(pid) => ["timeout", &seconds, "tail", "--pid", &pid, "-f", "/dev/null"].map(str::to_string).to_vec(),
        None => virsh(&["event", "--domain", name, "--event", "lifecycle", "--timeout", &seconds], Vec::new()).argv,
    };
    let mut wait = Run::new(argv, Vec::new());
    wait.any_code = true;
    wait.timeout = Some(patience.saturating_add(NOTICE));
    way.push(Op::Run(wait));
    // Whoever has shut down by then is not there to be forced.
    let mut destroy = virsh(&["destroy", name], vec![virt_effect(name, Some(way.state))]);
    destroy.any_code = true;
    way.push(Op::Run(destroy));
    way.ended(NOTICE, format!("{name} still runs after the plug was pulled"));
    Ok(())
}

/// What libvirt refuses to leave behind without saying what to do about it.
fn may_go(host: &dyn Host, name: &str) -> Result<()> {
    if host.exists(&managed_save(name))? {
        return Err(Error::refused(format!("{name} has a saved state, which would be lost with it"))
            .hint(format!("start it and shut it down, or discard the state with `virsh managedsave-remove {name}`")));
    }
    for (what, command) in [("snapshot", "snapshot-delete"), ("checkpoint", "checkpoint-delete")] {
        let found: Vec<String> = host
            .list(&format!("/var/lib/libvirt/qemu/{what}/{name}"))?
            .iter()
            .filter_map(|file| file.strip_suffix(".xml"))
            .map(str::to_string)
            .collect();
        if !found.is_empty() {
            return Err(Error::refused(format!(
                "{name} has {what}s, of which libvirt would lose track: {}",
                found.join(", ")
            ))
            .hint(format!("`virsh {command} {name} NAME` merges one, `--metadata` only forgets it")));
        }
    }
    Ok(())
}

/// Does its TPM live in a folder of libvirt's?
fn has_tpm_state(domain: &Element) -> bool {
    let tpms = domain.get("devices").into_iter().flat_map(|devices| devices.named("tpm"));
    tpms.filter_map(|tpm| tpm.get("backend")).any(|backend| backend.attribute("type") == Some("emulator"))
}
