//! One run on one machine: the only place where a plan becomes deeds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};

use super::domains;
use super::guard::{self, Armed};
use super::inbox::Inbox;
use super::journal::Journal;
use super::protocol::{Mode, Outcome, Reply, Status, Task};
use super::spool;
use super::stop::Stop;
use crate::change::action::Pin;
use crate::change::{Action, Effect, Op, Plan, Run, SENT};
use crate::host::{Error, Host, Machine, Output, Result};
use crate::modules::{self, Side};

/// A module that needs more stages than this does not know what it wants.
const MOST_STAGES: usize = 8;

/// One run on one machine.
pub struct Session {
    machine: Box<dyn Machine>,
    mode: Mode,
    journal: Option<Journal>,
    pins: BTreeMap<String, String>,
    /// A recorded machine that was unpacked only for this dry run; removed at its end.
    unpacked: Option<PathBuf>,
    inbox: Inbox,
    stop: Stop,
    /// The watch over the task under way.
    armed: Option<Armed>,
    /// It has been said here how one ended, so its files can go.
    guarded: bool,
    /// What is done goes on over another connection, to another agent.
    handed_over: bool,
    /// When the task under way is stopped.
    until: Option<Instant>,
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(folder) = &self.unpacked {
            // Nothing depends on it, and the system clears its temporary folder anyhow.
            let _ = std::fs::remove_dir_all(folder);
        }
    }
}

impl Session {
    /// A session on this machine; in a dry run the machine is an overlay already.
    pub(super) fn new(
        machine: Box<dyn Machine>,
        mode: Mode,
        journal: Option<Journal>,
        pins: BTreeMap<String, String>,
        unpacked: Option<PathBuf>,
        inbox: Inbox,
        stop: Stop,
    ) -> Session {
        Session {
            machine,
            mode,
            journal,
            pins,
            unpacked,
            inbox,
            stop,
            armed: None,
            guarded: false,
            handed_over: false,
            until: None,
        }
    }

    /// Which boot of the machine this is.
    pub(super) fn boot(&self) -> Option<String> {
        self.machine.read_line("/proc/sys/kernel/random/boot_id").ok().flatten()
    }

    /// What another agent of this machine foresaw. What can't be foreseen here (it was there) changes nothing.
    pub fn assume(&mut self, ops: &[Op]) {
        for op in ops {
            let _ = self.machine.perform(op, &mut |_| ());
        }
    }

    /// The controller says that the run is over.
    pub fn end(&mut self) {
        // Who has handed the run over may hear this long after the one that ended it.
        if let Some(journal) = self.journal.as_mut().filter(|_| !self.handed_over) {
            journal.end();
        }
        if let Some(state) = self.machine.state_folder().filter(|_| self.mode == Mode::Apply && self.guarded) {
            guard::forget(&state);
        }
    }

    /// Plans a task, tells the diffs, does the actions, and asks again until nothing is left.
    pub fn task(&mut self, task: &Task, tell: &mut dyn FnMut(Reply)) -> Outcome {
        let mut outcome = Outcome::default();
        self.until = task.timeout.filter(|seconds| *seconds > 0).map(|s| Instant::now() + Duration::from_secs(s));
        if task.module == guard::CONFIRM {
            return self.confirm(&task.parameters);
        }
        let said = match self.journal.as_mut().map(Journal::hold).transpose() {
            Ok(said) => said.flatten(),
            Err(error) => return Outcome { status: Status::Failed, error: Some(error), ..outcome },
        };
        self.asked(task, &mut outcome, tell);
        outcome.warnings.extend(said);
        if let Some(armed) = self.armed.take()
            && let Err(error) = armed.acted(&mut outcome)
        {
            (outcome.status, outcome.error) = (Status::Failed, Some(error));
        }
        self.handed_over = outcome.guard.is_some();
        if outcome.status == Status::Failed
            && let Some(journal) = &mut self.journal
        {
            journal.failed();
        }
        outcome
    }

    fn asked(&mut self, task: &Task, outcome: &mut Outcome, tell: &mut dyn FnMut(Reply)) {
        if let Err(error) = self.stages(task, outcome, tell) {
            outcome.status =
                if error.is_unknown() && outcome.actions.is_empty() { Status::Unknown } else { Status::Failed };
            if error.is_unknown() && outcome.status == Status::Failed {
                // What the first stage would do is known; what follows from it is not.
                outcome.status = Status::WouldChange;
                outcome.notes.push(error.to_string());
                outcome.result.insert("changed".into(), Value::Bool(true));
                return;
            }
            // The message has the end of it only.
            if let Some(output) = &error.output {
                keep_output(output, &mut outcome.result);
            }
            outcome.error = Some(error);
        }
    }

    /// The controller is back over a new connection, so this agent goes on with what an earlier one began.
    fn confirm(&mut self, parameters: &Value) -> Outcome {
        if let Some(Err(error)) = self.journal.as_mut().map(Journal::hold) {
            return Outcome { status: Status::Failed, error: Some(error), ..Outcome::default() };
        }
        let state = self.machine.state_folder().ok_or_else(|| Error::failed("there is no guard of this user"));
        let outcome = state.and_then(|state| guard::confirm(&state, parameters)).unwrap_or_else(|error| Outcome {
            status: Status::Failed,
            error: Some(error),
            ..Outcome::default()
        });
        self.guarded = outcome.status != Status::Skipped;
        if self.guarded
            && let Some(journal) = &mut self.journal
        {
            // How the run ends is for this agent to say now. What can't be written counts as cut.
            let _ = journal.open();
            if outcome.status == Status::Failed {
                journal.failed();
            }
        }
        outcome
    }

    /// Keeps the way back open where actions could cut the machine off.
    fn arm(&mut self, task: &Task, plan: &Plan, tell: &mut dyn FnMut(Reply)) -> Result<()> {
        let Some(wanted) = plan.guard.as_ref().filter(|_| self.mode == Mode::Apply && !self.machine.is_recorded())
        else {
            return Ok(());
        };
        if self.armed.is_some() {
            return Ok(());
        }
        let state = self
            .machine
            .state_folder()
            .ok_or_else(|| Error::failed("there is no place for what would be put back").hint("become root"))?;
        let token = format!("{}-{}-{}", super::journal::now(), std::process::id(), task.id);
        let holder = self.journal.as_ref().map(Journal::holder).unwrap_or_default();
        let armed = guard::arm(&state, &token, wanted, &plan.actions, self.machine.as_ref(), holder)?;
        tell(Reply::Guard { id: task.id, token, seconds: armed.seconds() });
        self.armed = Some(armed);
        Ok(())
    }

    fn ask(&mut self, task: &Task) -> Result<Plan> {
        if Journal::is_asked(&task.module) {
            return match &mut self.journal {
                Some(journal) => journal.ask(&task.module, &task.parameters, self.machine.as_ref()),
                None => Err(Error::failed("this user has no place for records of runs on this machine")),
            };
        }
        if task.module == domains::DOMAINS {
            return domains::ask(&task.parameters, self.machine.as_ref());
        }
        match modules::find(&task.module).map(|entry| &entry.side) {
            Some(Side::Machine(ask)) => ask(task.parameters.clone(), self.machine.as_ref()),
            _ => Err(Error::parameters(format!("this machine's program has no module `{}`", task.module))),
        }
    }

    fn stages(&mut self, task: &Task, outcome: &mut Outcome, tell: &mut dyn FnMut(Reply)) -> Result<()> {
        let mut staged = false;
        let mut warned = Vec::new();
        let mut pins = Vec::new();
        for stage in 0..=MOST_STAGES {
            if stage == MOST_STAGES {
                return Err(Error::failed(format!(
                    "after {MOST_STAGES} rounds there is still something to do: this does not come to an end"
                )));
            }
            let mut plan = self.ask(task)?;
            self.pin(&mut plan, outcome)?;
            pins.extend(plan.pins.iter().filter(|pin| !pins.contains(*pin)).cloned().collect::<Vec<_>>());
            if stage > 0 && !staged && !plan.actions.is_empty() && self.mode == Mode::Apply {
                return Err(did_not_converge(&plan.actions));
            }
            let last = plan.actions.is_empty() || (stage > 0 && !staged);
            if stage == 0 || staged || last {
                warned.extend(plan.warnings.iter().filter(|w| !warned.contains(*w)).cloned().collect::<Vec<_>>());
            }
            outcome.result.extend(plan.result.clone());
            outcome.reboot = plan.reboot.clone();
            for note in &plan.notes {
                if !outcome.notes.contains(note) {
                    outcome.notes.push(note.clone());
                }
            }
            outcome.warnings = warned.clone();
            outcome.act |= plan.act;
            if last {
                self.seen(&pins, outcome)?;
                break;
            }
            if let Some(expected) = &task.expect {
                let have = outcome.actions.len();
                let same = expected.get(have..have + plan.actions.len()).is_some_and(|planned| {
                    plan.actions.iter().zip(planned).all(|(now, planned)| now.is_as_planned(planned, true))
                });
                if !same {
                    return Err(Error::refused(
                        "the machine has moved on since the plan was made: it would take other actions now",
                    )
                    .hint("make a new plan, look at it, and apply that one"));
                }
            }
            self.do_actions(task, &plan, outcome, tell)?;
            // What follows a boot is asked of the agent that the new boot starts.
            if plan.act || (outcome.rebooted && self.mode == Mode::Apply && !self.machine.is_recorded()) {
                break;
            }
            staged = plan.staged;
        }
        // Waiting changes nothing, and a stamp of our own is nobody's change; acts count even if they show nothing.
        let counts = |action: &Action| !matches!(action.op, Op::Wait(_)) && (outcome.act || !action.diffs.is_empty());
        let changed = outcome.actions.iter().any(counts);
        outcome.result.insert("changed".into(), Value::Bool(changed));
        outcome.status = match (changed, self.mode) {
            (false, _) => Status::Ok,
            (true, Mode::Plan) => Status::WouldChange,
            (true, Mode::Apply) => Status::Changed,
        };
        Ok(())
    }

    fn do_actions(
        &mut self,
        task: &Task,
        plan: &Plan,
        outcome: &mut Outcome,
        tell: &mut dyn FnMut(Reply),
    ) -> Result<()> {
        if self.stop.asked() && self.armed.is_none() && !plan.actions.is_empty() {
            outcome.not_begun = outcome.actions.is_empty();
            return Err(stopped());
        }
        let diffs: Vec<_> = plan.actions.iter().flat_map(|action| action.diffs.clone()).collect();
        if !diffs.is_empty() {
            tell(Reply::Shown { id: task.id, diffs: diffs.clone() });
        }
        outcome.diffs.extend(diffs);
        if !plan.actions.is_empty() {
            self.arm(task, plan, tell)?;
        }
        for action in &plan.actions {
            let limited = match &self.armed {
                Some(armed) => armed.within(&action.op)?,
                None => within(&action.op, self.until)?,
            };
            // Half a network is worse than either: what is guarded is done to its end, whoever went away.
            if self.stop.asked() && self.armed.is_none() {
                outcome.not_begun = outcome.actions.is_empty();
                return Err(stopped());
            }
            if let Some(journal) = &mut self.journal {
                journal.record(self.machine.as_ref(), &task.title, task.no_log, action)?;
            }
            let sent = self.have_sent(&action.op, tell)?;
            let op = sent.as_ref().map(|(op, _)| op).or(limited.as_ref()).unwrap_or(&action.op);
            let done = self.machine.perform(op, &mut |text| {
                tell(Reply::Progress { id: task.id, text: text.to_string() });
            });
            if let (Some((_, spooled)), Ok(_)) = (&sent, &done) {
                // What stays behind is only in the way.
                let _ = std::fs::remove_file(spooled);
            }
            if let (Op::Run(Run { capture: true, .. }), Some(output)) = (&action.op, &done?) {
                keep_output(output, &mut outcome.result);
            }
            if let Some(journal) = &mut self.journal {
                journal.done(self.machine.as_ref())?;
            }
            outcome.rebooted |= reboots(&action.op);
            outcome.actions.push(action.clone());
        }
        Ok(())
    }

    /// Has a file of the controller sent, where an action is about one: the action that then puts it in place, and where
    /// it is until then.
    fn have_sent(&self, op: &Op, tell: &mut dyn FnMut(Reply)) -> Result<Option<(Op, PathBuf)>> {
        let Op::Download { url, path, sha256: Some(sha256), mode } = op else { return Ok(None) };
        if !url.starts_with(SENT) || self.mode == Mode::Plan || self.machine.is_recorded() {
            return Ok(None);
        }
        let folder = match self.machine.state_folder() {
            Some(state) => state.join("spool"),
            None => spool::of_a_user_without_a_home()?,
        };
        let spooled = spool::fetch(&folder, sha256, &self.inbox, tell)?;
        let url = format!("file://{}", spooled.display());
        let op = Op::Download { url, path: path.clone(), sha256: Some(sha256.clone()), mode: *mode };
        Ok(Some((op, spooled)))
    }

    /// Gives downloads whose hash nobody gave the one that the lock file has.
    fn pin(&self, plan: &mut Plan, outcome: &mut Outcome) -> Result<()> {
        for action in &mut plan.actions {
            let Op::Download { url, sha256, .. } = &mut action.op else { continue };
            if url.starts_with(SENT) {
                continue;
            }
            if sha256.is_none() {
                *sha256 = self.pins.get(url).cloned();
            }
            let known = match sha256 {
                Some(sha256) => format!("by its SHA-256 {sha256}"),
                None => "its SHA-256 is not known yet".into(),
            };
            let note = match (self.machine.is_recorded(), &sha256) {
                (true, _) => format!("nothing is downloaded here: {url} is recorded as fetched, {known}"),
                (false, None) => format!("{url}: the SHA-256 of what comes is pinned in vfio-provision.lock"),
                (false, Some(_)) => continue,
            };
            if !outcome.notes.contains(&note) {
                outcome.notes.push(note);
            }
        }
        for pin in &plan.pins {
            let Some(expected) = self.pins.get(&pin.url) else { continue };
            match self.machine.sha256(&pin.path) {
                Ok(Some(found)) if found != *expected => {
                    return Err(Error::refused(format!(
                        "{} has the SHA-256 {found}, but the lock file says {expected} for {}",
                        pin.path, pin.url
                    ))
                    .hint("if the new content is right, remove that line from vfio-provision.lock; if not, remove the file"));
                }
                Err(error) if !error.is_unknown() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Content that is there now and that the lock file does not know yet.
    fn seen(&self, pins: &[Pin], outcome: &mut Outcome) -> Result<()> {
        if self.mode == Mode::Plan {
            return Ok(());
        }
        for pin in pins.iter().filter(|pin| !self.pins.contains_key(&pin.url)) {
            match self.machine.sha256(&pin.path) {
                Ok(Some(sha256)) => {
                    outcome.pins.insert(pin.url.clone(), sha256);
                }
                Err(error) if !error.is_unknown() => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

fn stopped() -> Error {
    Error::failed("stopped before its next action").hint("run it once more: it goes on from here")
}

/// A command may not take longer than its task has left; `Some` where that is less than it would have.
fn within(op: &Op, until: Option<Instant>) -> Result<Option<Op>> {
    let Some(until) = until else { return Ok(None) };
    let left = until.saturating_duration_since(Instant::now()).as_secs();
    if left == 0 {
        return Err(Error::failed(
            "the task took longer than its `timeout` allows, and was stopped before its next action",
        ));
    }
    match op {
        Op::Run(run) if run.timeout.is_none_or(|own| own > left) => {
            Ok(Some(Op::Run(Run { timeout: Some(left), ..run.clone() })))
        }
        _ => Ok(None),
    }
}

fn did_not_converge(left: &[Action]) -> Error {
    let mut message = String::from("did not converge: after the actions were done, this is still to do");
    for diff in left.iter().flat_map(|action| &action.diffs) {
        message.push_str(&format!("\n{} {}\n{}", diff.kind, diff.path, diff.unified().trim_end()));
    }
    Error::failed(message)
        .hint("something on the machine puts it back, or this program is wrong about it: please report it")
}

fn keep_output(output: &Output, result: &mut Map<String, Value>) {
    let lines = |text: &str| text.lines().map(Value::from).collect::<Vec<_>>();
    result.insert("rc".into(), output.code.into());
    result.insert("stdout".into(), output.stdout.trim_end_matches('\n').into());
    result.insert("stdout_lines".into(), lines(&output.stdout).into());
    result.insert("stderr".into(), output.stderr.trim_end_matches('\n').into());
    result.insert("stderr_lines".into(), lines(&output.stderr).into());
}

fn reboots(op: &Op) -> bool {
    matches!(op, Op::Run(run) if run.effects.contains(&Effect::Reboot))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_no_more_time_than_its_task() {
        let slow = |timeout| Op::Run(Run { timeout, ..Run::new(["sleep", "9"], Vec::new()) });
        let limit = |op: &Op, seconds| match within(op, Some(Instant::now() + Duration::from_secs(seconds))) {
            Ok(Some(Op::Run(run))) => run.timeout,
            Ok(None) => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(within(&slow(None), None).unwrap(), None);
        assert!(matches!(limit(&slow(None), 60), Some(58..=60)));
        assert!(matches!(limit(&slow(Some(600)), 60), Some(58..=60)));
        assert_eq!(limit(&slow(Some(5)), 60), None, "its own is shorter");
        assert_eq!(limit(&Op::Remove { path: "/a".into() }, 60), None);
        let error = within(&Op::Remove { path: "/a".into() }, Some(Instant::now())).unwrap_err();
        assert!(error.message.contains("longer than its `timeout`"), "{error}");
    }

    #[test]
    fn a_failed_task_has_all_that_its_command_said() {
        let dir = tempfile::tempdir().unwrap();
        let (_sender, requests) = std::sync::mpsc::channel();
        let (inbox, stop) = (Inbox::new(requests), Stop::default());
        let machine = Box::new(crate::host::Live::new());
        let mut session = Session::new(machine, Mode::Apply, None, BTreeMap::new(), None, inbox, stop);
        // What fails is the check of a file, and no command that was asked for.
        let dest = dir.path().join("file");
        let task = serde_json::json!({
            "id": 1, "chain": 1, "user": null, "module": "copy", "title": "copy", "no_log": false, "expect": null,
            "parameters": {"dest": dest, "content": "x", "validate": "sh -c 'seq 30; exit 3' %s"},
        });
        let outcome = session.task(&serde_json::from_value(task).unwrap(), &mut |_| ());
        assert_eq!(outcome.status, Status::Failed);
        assert!(outcome.error.unwrap().to_string().contains("(the last 20 of 30 lines"));
        assert_eq!(outcome.result["rc"], 3);
        assert_eq!(outcome.result["stdout_lines"].as_array().unwrap().len(), 30);
        assert!(!dest.exists());
    }
}
