//! Tasks that have been asked for and have not answered yet, and those that are over and wait for their turn to be told.
//!
//! The way through a play goes on while machines work: what comes next is sent before the answers to earlier tasks are
//! back, until something depends on a result that is not there. Everything is told, counted and registered in the order
//! of the play.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::PlayRun;
use super::crowd::Away;
use super::guarded::Watched;
use super::host::{Context, Flow, HostRun};
use super::link::Link;
use super::saved::SavedTask;
use super::task::{Ended, censor};
use crate::agent::protocol::{self, Mode, Outcome, Reply, Status};
use crate::change::TRIAL_BOOT;
use crate::host::Error;
use crate::inventory::ConnectionKind;
use crate::playbook::Task;
use crate::report::{Event, TaskId};
use crate::template::{AWAITED, Var};
use crate::yaml::{Node, NodeValue};

/// No more tasks than this are on their way: their parameters are kept until they have answered.
const MOST: usize = 200;

/// How often it is asked whether the run is to stop, while a machine works.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// A task that its own machine has not stopped so long after its time hangs.
const HANGS: Duration = Duration::from_secs(15);

/// The results of a loop's items.
pub(super) type Results = Arc<Mutex<Vec<Value>>>;

/// One task, or one item of one, on its way.
pub(super) struct Step {
    pub what: What,
    pub context: Context,
    pub id: TaskId,
    pub begun: Instant,
    pub state: State,
}

/// What it is that is on its way.
pub(super) enum What {
    /// What the machine is.
    Facts,
    /// A task without a loop.
    Task(Arc<Task>),
    /// One item of a loop, under the name of the loop's variable.
    Item { task: Arc<Task>, results: Results, name: String, item: Value },
    /// All items are over.
    LoopEnd { task: Arc<Task>, results: Results },
}

/// How far it is.
pub(super) enum State {
    /// The agent has been asked, or is about to be.
    Asked(Box<Asked>),
    /// Over, and not told yet.
    Over(Box<Ended>),
}

/// A finished question to the agent.
#[derive(Clone)]
pub(super) struct Asked {
    pub request: protocol::Task,
    /// Its words are secret.
    pub hidden: bool,
    /// A saved plan must hold it.
    pub keep: bool,
    /// It is done on another host.
    pub away: Option<Away>,
    /// A large file that it is about, by its SHA-256.
    pub file: Option<(String, PathBuf)>,
}

impl What {
    fn task(&self) -> Option<&Arc<Task>> {
        match self {
            What::Facts => None,
            What::Task(task) | What::Item { task, .. } | What::LoopEnd { task, .. } => Some(task),
        }
    }
}

impl Step {
    /// The task that the agent was asked to do and has not answered.
    pub(super) fn asked_task(&self) -> Option<&Task> {
        self.what.task().filter(|_| matches!(self.state, State::Asked(_))).map(AsRef::as_ref)
    }

    /// May its answer notify a handler?
    pub(super) fn may_notify(&self) -> bool {
        self.what.task().is_some_and(|task| !task.notify.is_empty())
    }
}

impl HostRun<'_> {
    /// Is anything on its way?
    pub(super) fn is_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Are facts on their way?
    pub(super) fn facts_are_ahead(&self) -> bool {
        self.ahead.iter().any(|step| matches!(step.what, What::Facts))
    }

    /// May tasks be sent before earlier ones have answered? Not where what a task does on the machine can change what
    /// this program reads here, and not where a failure is caught, as what follows is not yet known then.
    pub(super) fn may_go_ahead(&self) -> bool {
        self.one_by_one == 0
            && !self.crowd.alone
            && self.reach.as_ref().is_none_or(|reach| reach.kind != ConnectionKind::Local)
    }

    /// Takes a task on its way, and asks for it if it must be asked for.
    pub(super) fn push(&mut self, mut step: Step, play: &PlayRun) -> Flow {
        if matches!(step.state, State::Asked(_)) && self.must_stop() {
            return match self.catch_up(play) {
                Flow::Next => self.not_begun(&step.id.task),
                flow => flow,
            };
        }
        if let State::Asked(asked) = &step.state
            && let Err(error) = self.send(asked)
        {
            let outcome = Outcome { status: Status::Unreachable, error: Some(error), ..Outcome::default() };
            step.state = State::Over(Box::new(Ended::new(outcome)));
        }
        let ends = match &step.state {
            State::Asked(_) => false,
            State::Over(ended) => {
                ended.flow != Flow::Next || matches!(ended.outcome.status, Status::Failed | Status::Unreachable)
            }
        };
        if !matches!(step.what, What::Item { .. })
            && let Some(name) = step.what.task().and_then(|task| task.register.as_ref())
        {
            self.vars.set.insert(name.value.clone(), Var::Unknown(AWAITED.into()));
        }
        self.ahead.push_back(step);
        if self.ahead.back().is_some_and(Step::may_notify) {
            self.note_pending();
        }
        let told_at_once = matches!(self.ahead.front(), Some(Step { state: State::Over(_), .. }));
        if ends {
            self.catch_up(play)
        } else if told_at_once || self.ahead.len() > MOST {
            self.tell_next(play)
        } else {
            Flow::Next
        }
    }

    /// Waits until all that was sent has answered.
    pub(super) fn catch_up(&mut self, play: &PlayRun) -> Flow {
        while self.is_ahead() {
            let flow = self.tell_next(play);
            if flow != Flow::Next {
                return flow;
            }
        }
        Flow::Next
    }

    /// Waits for the oldest that is on its way, and tells it.
    fn tell_next(&mut self, play: &PlayRun) -> Flow {
        let Some(step) = self.ahead.pop_front() else { return Flow::Next };
        let (ended, broken) = match step.state {
            State::Over(ended) => (*ended, false),
            State::Asked(asked) => {
                let Some(mut outcome) = self.answer(&asked, &step.id) else {
                    self.ahead.clear();
                    return self.not_begun(&step.id.task);
                };
                let broken = outcome.status.breaks_chain(self.shared.mode) || outcome.guard.is_some();
                if let Some(task) = step.what.task() {
                    self.judge(task, &step.context, play, &mut outcome);
                }
                (Ended::new(outcome), broken)
            }
        };
        let begun = self.told_at.map_or(step.begun, |told_at| told_at.max(step.begun));
        let flow = self.tell(step.what, &step.context, step.id, begun, ended, play);
        self.told_at = Some(Instant::now());
        if flow != Flow::Next || self.given_up {
            self.ahead.clear();
            if let Some(link) = &mut self.link {
                link.new_chain();
            }
        } else if broken {
            self.send_again();
        }
        flow
    }

    /// What was dropped because an earlier task failed is to be done all the same.
    fn send_again(&mut self) {
        let mut ahead = std::mem::take(&mut self.ahead);
        if let Some(link) = &mut self.link {
            link.new_chain();
        }
        for step in &mut ahead {
            if let State::Asked(asked) = &step.state
                && let Err(error) = self.send(asked)
            {
                let outcome = Outcome { status: Status::Unreachable, error: Some(error), ..Outcome::default() };
                step.state = State::Over(Box::new(Ended::new(outcome)));
            }
        }
        self.ahead = ahead;
    }

    fn tell(
        &mut self,
        what: What,
        context: &Context,
        id: TaskId,
        begun: Instant,
        ended: Ended,
        play: &PlayRun,
    ) -> Flow {
        let finished = self.finished(id, &ended.outcome, begun.elapsed());
        let flow = ended.flow.clone();
        let (task, before) = (what.task().cloned(), self.notified.clone());
        let flow = match what {
            What::Facts => {
                let ignored = ended.outcome.status == Status::Unreachable && self.ignores_unreachable(context, play);
                self.facts_gathered(ended.outcome, finished, ignored)
            }
            What::Task(task) => {
                let result = self.settle(&task, context, play, ended, finished);
                self.register(&task, result.clone());
                self.way_on(&task, result, flow)
            }
            What::Item { task, results, name, item } => {
                let mut result = self.settle(&task, context, play, ended, finished);
                if let Value::Object(map) = &mut result {
                    map.insert(name, item);
                }
                results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
                if self.given_up { Flow::EndPlay } else { flow }
            }
            What::LoopEnd { task, results } => {
                let results = std::mem::take(&mut *results.lock().unwrap_or_else(PoisonError::into_inner));
                let result = all_items(results);
                self.register(&task, result.clone());
                self.way_on(&task, result, Flow::Next)
            }
        };
        self.told(task.as_ref(), context, play, &before, &flow);
        flow
    }

    /// Keeps a result under its registered name, unless a later task that is on its way will.
    fn register(&mut self, task: &Task, result: Value) {
        let Some(name) = &task.register else { return };
        if !self.awaits_result(&name.value) {
            self.keep_result(task, result);
        }
    }

    /// Will a task that is on its way register a result of this name?
    pub(super) fn awaits_result(&self, name: &str) -> bool {
        self.ahead.iter().any(|step| {
            step.what.task().and_then(|task| task.register.as_ref()).is_some_and(|registered| registered.value == name)
        })
    }

    fn send(&mut self, asked: &Asked) -> Result<(), Error> {
        let link = self.link()?;
        if let Some((sha256, path)) = &asked.file {
            link.offer(sha256, path);
        }
        link.send(asked.request.clone())
    }

    /// Asks and waits; nothing else is on its way.
    /// `None`: the run stopped before it was begun.
    pub(super) fn ask_now(&mut self, asked: &Asked, id: &TaskId) -> Option<Outcome> {
        match &asked.away {
            Some(away) => self.ask_away(asked, away, id),
            None => self.ask_here(asked, id),
        }
    }

    pub(super) fn ask_here(&mut self, asked: &Asked, id: &TaskId) -> Option<Outcome> {
        if self.must_stop() {
            return None;
        }
        if let Some(link) = &mut self.link {
            link.new_chain();
        }
        match self.send(asked) {
            Ok(()) => self.answer(asked, id),
            Err(error) => {
                // Whoever does not give this host up begins anew.
                self.link = None;
                Some(Outcome { status: Status::Unreachable, error: Some(error), ..Outcome::default() })
            }
        }
    }

    /// Waits for an answer, tells what comes on the way, and keeps what outlasts the task.
    fn answer(&mut self, asked: &Asked, id: &TaskId) -> Option<Outcome> {
        let sink = Arc::clone(&self.shared.sink);
        sink.event(Event::Started { id: id.clone() });
        let mut begun = false;
        let mut on_trial = false;
        let mut tell = |reply: Reply| match reply {
            Reply::Shown { mut diffs, .. } => {
                begun = true;
                on_trial |= diffs.iter().any(|diff| diff.kind == TRIAL_BOOT);
                if asked.hidden {
                    diffs.iter_mut().for_each(censor);
                }
                sink.event(Event::Shown { id: id.clone(), diffs });
            }
            Reply::Progress { text, .. } => sink.event(Event::Progress { id: id.clone(), text }),
            _ => {}
        };
        let mut stopping = false;
        let allowed = asked.request.timeout.filter(|seconds| *seconds > 0);
        let until = allowed.map(|seconds| Instant::now() + Duration::from_secs(seconds) + HANGS);
        let answer = loop {
            if until.is_some_and(|until| Instant::now() > until) {
                break Err(Error::failed("the task took longer than its `timeout` allows, and nothing stops it there"));
            }
            let stop = !stopping && self.must_stop();
            let next = match &mut self.link {
                Some(link) => {
                    if stop {
                        stopping = true;
                        link.stop();
                    }
                    link.next(Some(Instant::now() + BETWEEN_LOOKS))
                }
                None => Err(Error::failed("the connection is gone")),
            };
            match next {
                Ok(Some(Reply::Done { outcome, .. })) if outcome.not_begun => {
                    self.link = None;
                    return None;
                }
                Ok(Some(Reply::Done { outcome, .. })) => break Ok(*outcome),
                Ok(Some(Reply::Guard { token, seconds, .. })) => {
                    let until = Instant::now() + Duration::from_secs(seconds);
                    break self.guarded(&Watched { token, until }, asked, id, &mut tell);
                }
                // The agent has dropped it with all that was sent ahead, and takes no more.
                Ok(Some(Reply::Stopped)) => {
                    self.link = None;
                    return None;
                }
                Ok(Some(reply)) => tell(reply),
                Ok(None) => {}
                Err(error) => break Err(error),
            }
        };
        let mut outcome = match answer {
            Ok(outcome) => outcome,
            // A machine that goes down takes its connections with it.
            Err(_) if begun && asked.request.module == "reboot" && self.shared.mode == Mode::Apply => {
                Outcome { status: Status::Changed, act: true, rebooted: true, ..Outcome::default() }
            }
            Err(error) => {
                self.link = None;
                return Some(Outcome { status: Status::Unreachable, error: Some(error), ..Outcome::default() });
            }
        };
        if outcome.rebooted {
            let boot = self.link.as_ref().and_then(Link::known_boot);
            self.come_back(boot, on_trial, asked, id, &mut outcome);
        }
        if asked.keep {
            self.saved.push(SavedTask::new(id, &asked.request).with(&outcome));
        }
        let key = format!("{}|{}|{}", id.role.as_deref().unwrap_or(""), id.task, id.item.as_deref().unwrap_or(""));
        self.remember_reboot(key, std::mem::take(&mut outcome.reboot), outcome.rebooted);
        self.keep_facts(&outcome);
        self.keep_pins(&outcome.pins);
        Some(outcome)
    }
}

/// What `register` sees of a loop.
fn all_items(results: Vec<Value>) -> Value {
    let any = |key: &str| results.iter().any(|result| result.get(key) == Some(&Value::Bool(true)));
    let all_skipped = !results.is_empty() && results.iter().all(|r| r.get("skipped") == Some(&Value::Bool(true)));
    let mut result = json!({
        "changed": any("changed"),
        "failed": any("failed"),
        "skipped": all_skipped,
    });
    if any("unknown") {
        result["unknown"] = Value::Bool(true);
    }
    result["results"] = Value::Array(results);
    result
}

/// Must what follows wait for this task's answer, because what is made of the answer is for this program to say?
pub(super) fn must_be_waited_for(task: &Task, context: &Context) -> bool {
    let constant = |node: &Node| matches!(node.value, NodeValue::Bool(_));
    !task.failed_when.is_empty()
        || !task.changed_when.iter().all(constant)
        || task.notify.iter().any(is_template)
        || context.common.ignore_errors.as_ref().is_some_and(is_template)
        || context.common.no_log.as_ref().is_some_and(is_template)
        || matches!(task.module.name, "reboot" | "setup")
}

/// Does a node's text hold a template?
pub(super) fn is_template(node: &Node) -> bool {
    match node.as_list() {
        Some(list) => list.iter().any(is_template),
        None => node.as_str().is_some_and(|text| text.contains("{{") || text.contains("{%")),
    }
}
