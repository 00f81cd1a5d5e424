//! A dry run that asks no machine: the tasks of one module, on each host, with finished parameters, from files alone.
//!
//! The way through the plays is the same as in any run. What a machine would say is unknown; what depends on that is unknown
//! too, and is said: a task whose condition can't be decided is come to all the same, with the doubt noted, and what such a
//! part of a play sets is unknown from there on.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

use super::host::{Context, Flow, HostRun};
use super::render::{self, Trouble};
use super::task::{Ended, skipped};
use super::{PlayRun, Prepared, tags};
use crate::agent::protocol::{Mode, Status};
use crate::diag::{Diagnostic, Span};
use crate::modules::Side;
use crate::playbook::{Item, Task};
use crate::report::{End, Event, Finished, Mask, Recap, Reporter, Sink, TaskId};
use crate::template::Var;
use crate::yaml::Node;

/// What is looked for, and what was come to.
pub(super) struct Scan {
    /// The module.
    module: &'static str,
    inside: Mutex<Inside>,
}

#[derive(Default)]
struct Inside {
    met: Vec<Met>,
    /// The places of tasks that some host came to, whether their conditions held or not.
    seen: HashSet<String>,
}

/// What one host does not know of its way.
#[derive(Default)]
pub(super) struct Unseen {
    /// All of these must be so for the way to lead here.
    doubts: Vec<String>,
    /// Variables may be defined of which nothing is known: why.
    pub fog: Option<String>,
}

/// A task of the module that a host came to, or one item of its loop.
#[derive(Clone, Debug)]
pub struct Met {
    /// The host where it is done.
    pub host: String,
    /// What people call it.
    pub task: String,
    /// Where it stands.
    pub span: Span,
    /// Its parameters as they are written.
    pub node: Node,
    /// What came of it.
    pub found: Found,
    /// It is done only if all of these are so.
    pub doubts: Vec<String>,
    /// It has `no_log`.
    pub hidden: bool,
}

/// What came of a task.
#[derive(Clone, Debug)]
pub enum Found {
    /// Its finished parameters.
    Parameters(Map<String, Value>),
    /// Why they can't be had without the machine.
    Unknown(String),
}

/// A task at which a host's run would end before any machine has a say.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The host.
    pub host: String,
    /// What people call the task.
    pub task: String,
    /// What is wrong.
    pub error: String,
}

/// All that was come to, in the order of hosts and plays.
#[derive(Debug, Default)]
pub struct Scanned {
    /// Tasks of the module, and what may hold such.
    pub met: Vec<Met>,
    /// What is wrong.
    pub failures: Vec<Failure>,
    /// Tasks of the module that no host comes to.
    pub missed: Vec<Span>,
    /// Warnings of the run.
    pub warnings: Vec<String>,
}

impl Scan {
    fn inside(&self) -> std::sync::MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens to what goes wrong.
#[derive(Default)]
struct Heard {
    failures: Vec<(TaskId, String)>,
    warnings: Vec<String>,
}

struct Listener(Arc<Mutex<Heard>>);

impl Reporter for Listener {
    fn event(&mut self, event: &Event) {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Finished(finished) if finished.status == Status::Failed && !finished.ignored => {
                let Finished { id, error, .. } = &**finished;
                heard.failures.push((id.clone(), error.clone().unwrap_or_default()));
            }
            Event::Warning(text) => heard.warnings.push(text.clone()),
            _ => {}
        }
    }

    fn recap(&mut self, _: &Recap) {}
}

impl Prepared {
    /// What the tasks of a module come to, on each host, without asking any machine.
    ///
    /// # Errors
    /// When no threads can be had.
    pub fn scan(&self, module: &'static str, mask: Mask) -> Result<Scanned, Diagnostic> {
        let heard = Arc::new(Mutex::new(Heard::default()));
        let sink = Arc::new(Sink::new(Box::new(Listener(Arc::clone(&heard))), mask));
        let scan = Scan { module, inside: Mutex::default() };
        let shared = self.shared(Mode::Plan, &sink, Some(scan))?;
        let finish = self.execute_with(&shared, &sink)?;
        let Inside { met, seen } = match &shared.scan {
            Some(scan) => std::mem::take(&mut *scan.inside()),
            None => Inside::default(),
        };
        let heard = std::mem::take(&mut *heard.lock().unwrap_or_else(PoisonError::into_inner));
        let mut failures = Vec::new();
        for (host, recap) in &finish.recap.hosts {
            let End::Failed { task } = &recap.end else { continue };
            // What a `rescue` takes care of is no failure; the last one is.
            let own = || heard.failures.iter().filter(|(id, _)| id.host == *host);
            let last = own().next_back().map(|(id, _)| id.task.clone());
            let Some(last) = last else {
                failures.push(Failure { host: host.clone(), task: task.clone(), error: "it failed".into() });
                continue;
            };
            let all = own().filter(|(id, _)| id.task == last);
            failures.extend(all.map(|(id, error)| Failure {
                host: host.clone(),
                task: id.title(),
                error: error.clone(),
            }));
        }
        let mut all = Scanned { met, failures, missed: self.missed(module, &seen), warnings: heard.warnings };
        // Hosts go side by side; each keeps its own order.
        all.met.sort_by_key(|met| self.hosts.get_index_of(&met.host).unwrap_or(usize::MAX));
        Ok(all)
    }

    /// Tasks of the module that are meant and that no host came to.
    fn missed(&self, module: &str, seen: &HashSet<String>) -> Vec<Span> {
        let mut missed = BTreeMap::new();
        let mut look = |task: &Task| {
            let place = task.span.place();
            if task.module.name == module && !seen.contains(&place) {
                missed.insert((task.span.source.name.clone(), task.span.start), task.span.clone());
            }
        };
        for run in self.plays.iter().filter(|run| !run.hosts.is_empty()) {
            run.play.visit(&mut |visit| {
                if tags::wanted(&visit.common.tags, &self.settings.tags, &self.settings.skip_tags) {
                    look(visit.task);
                }
            });
            run.play.all_handlers().iter().for_each(|(_, handler)| look(handler));
        }
        missed.into_values().collect()
    }
}

/// The outcome of what only a machine could answer.
fn unknown(why: impl Into<String>) -> Ended {
    Ended::failed(Trouble::Unknown(why.into()))
}

impl HostRun<'_> {
    /// A host has come to this task.
    pub(super) fn note_unseen(&self, task: &Task) {
        if let Some(scan) = self.shared.scan.as_ref().filter(|scan| scan.module == task.module.name) {
            scan.inside().seen.insert(task.span.place());
        }
    }

    /// Handlers of the module are come to as well; whether they are notified is not known.
    pub(super) fn notify_unseen(&mut self) {
        let Some(scan) = &self.shared.scan else { return };
        let handlers = self.handlers.iter().enumerate();
        let ours = handlers.filter(|(_, (_, handler))| handler.module.name == scan.module).map(|(at, _)| at);
        let ours: Vec<usize> = ours.collect();
        self.notified.extend(ours);
    }

    /// What is done if a block fails, which is not known.
    pub(super) fn rescue_unseen(&mut self, rescue: &[Item], context: &Context, play: &PlayRun) -> Flow {
        if self.shared.scan.is_none() || rescue.is_empty() {
            return Flow::Next;
        }
        self.unseen.doubts.push("its block fails".into());
        let flow = self.items(rescue, context, play);
        self.unseen.doubts.pop();
        flow
    }

    /// Is it uncertain whether the way leads here?
    pub(super) fn is_doubtful(&self) -> bool {
        !self.unseen.doubts.is_empty()
    }

    /// What becomes of a loop whose list can't be had; `skip` is what its conditions say.
    pub(super) fn list_unseen(
        &self,
        task: &Task,
        context: &Context,
        id: &TaskId,
        trouble: Trouble,
        skip: &Result<bool, Trouble>,
    ) -> Trouble {
        let Some(scan) = &self.shared.scan else { return trouble };
        let trouble = match trouble {
            Trouble::Failed(why) if self.is_doubtful() || matches!(skip, Err(Trouble::Unknown(_))) => {
                Trouble::Unknown(why)
            }
            other => other,
        };
        if let Trouble::Unknown(why) = &trouble
            && (task.module.name == scan.module || is_include(task))
        {
            let doubts = self.unseen.doubts.clone();
            let why = format!("what it loops over can't be told: {why}");
            self.keep(scan, task, self.name.clone(), id, Found::Unknown(why), doubts, context);
        }
        trouble
    }

    /// One attempt, where no machine is asked.
    pub(super) fn attempt_unseen(
        &mut self,
        scan: &Scan,
        task: &Task,
        context: &Context,
        play: &PlayRun,
        id: &TaskId,
    ) -> Ended {
        let before = self.unseen.doubts.len();
        match self.undecided(&context.common.when, context, play) {
            Ok(None) => return Ended::new(skipped()),
            Ok(Some(doubts)) => self.unseen.doubts.extend(doubts),
            Err(trouble) if self.is_doubtful() => return unknown(trouble.to_string()),
            Err(trouble) => return Ended::failed(trouble),
        }
        if self.handlers.iter().any(|(_, handler)| std::ptr::eq(Arc::as_ptr(handler), task)) {
            self.unseen.doubts.push("it is notified".into());
        }
        let mut ended = self.come_to(scan, task, context, play, id);
        if self.is_doubtful() && ended.outcome.status == Status::Failed {
            ended = unknown(ended.outcome.error.map(|error| error.to_string()).unwrap_or_default());
        }
        self.unseen.doubts.truncate(before);
        ended
    }

    /// The conditions that can't be decided; `None` if one does not hold.
    fn undecided(&self, when: &[Node], context: &Context, play: &PlayRun) -> Result<Option<Vec<String>>, Trouble> {
        let scope = self.scope(play, context);
        let mut doubts = Vec::new();
        for condition in when {
            match self.conditions(std::slice::from_ref(condition), &scope) {
                Ok(true) => {}
                Ok(false) => return Ok(None),
                Err(Trouble::Unknown(_)) => {
                    doubts.push(format!("`{}` holds", condition.as_str().unwrap_or("its condition")));
                }
                // An earlier condition may be there to spare this one.
                Err(Trouble::Failed(_)) if !doubts.is_empty() => {}
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(Some(doubts))
    }

    fn come_to(&mut self, scan: &Scan, task: &Task, context: &Context, play: &PlayRun, id: &TaskId) -> Ended {
        let name = task.module.name;
        if name == scan.module {
            return self.meet(scan, task, context, play, id);
        }
        if matches!(task.module.side, Side::Machine(_)) || name == "template" {
            return unknown(format!("what the task `{}` says {UNSEEN_HERE}", id.task));
        }
        match name {
            "set_fact" | "include_vars" => self.set_unseen(task, context, play, id),
            "include_tasks" | "include_role" => {
                let ended = self.dispatch(task, context, play, id);
                let outcome = &ended.outcome;
                let why = match outcome.status {
                    Status::Unknown if !ended.silent => outcome.notes.join(", "),
                    Status::Failed if self.is_doubtful() => {
                        outcome.error.as_ref().map(ToString::to_string).unwrap_or_default()
                    }
                    _ => return ended,
                };
                // What it holds may set anything, and may hold tasks of the module.
                let why = format!("what it includes can't be told: {why}");
                self.unseen.fog.get_or_insert_with(|| why.clone());
                self.keep(scan, task, self.name.clone(), id, Found::Unknown(why), self.unseen.doubts.clone(), context);
                ended
            }
            _ if self.is_doubtful() => unknown("it is not certain that it is done"),
            _ => self.dispatch(task, context, play, id),
        }
    }

    /// Variables are set: where it is not certain that they are, their values are unknown from here on.
    fn set_unseen(&mut self, task: &Task, context: &Context, play: &PlayRun, id: &TaskId) -> Ended {
        let doubt = self.unseen.doubts.last().cloned();
        let mark = self.vars.mark();
        let ended = self.dispatch(task, context, play, id);
        let lost = matches!(ended.outcome.status, Status::Unknown | Status::Failed);
        if task.module.name == "include_vars" && lost && (doubt.is_some() || ended.outcome.status == Status::Unknown) {
            let why = format!("what {} reads can't be told", task.span.place());
            self.unseen.fog.get_or_insert(why);
        }
        let Some(doubt) = doubt else { return ended };
        let mut names = self.vars.since(&mark).names();
        self.vars.back_to(mark);
        if task.module.name == "set_fact" {
            names.extend(task.params.as_map().unwrap_or_default().iter().map(|(key, _)| key.name.clone()));
        }
        for name in names {
            let why = format!("`{name}` is set only if {doubt} ({})", task.span.place());
            self.vars.set.insert(name, Var::Unknown(why));
        }
        unknown("it is not certain that it is done")
    }

    /// A task of the module.
    fn meet(&self, scan: &Scan, task: &Task, context: &Context, play: &PlayRun, id: &TaskId) -> Ended {
        let found = match self.finished_unseen(task, context, play) {
            Ok(parameters) => Found::Parameters(parameters),
            Err(Trouble::Unknown(why)) => Found::Unknown(why),
            Err(Trouble::Failed(why)) if self.is_doubtful() => Found::Unknown(why),
            Err(trouble) => return Ended::failed(trouble),
        };
        let (host, found) = match self.elsewhere(context, play) {
            Ok(host) => (host.unwrap_or_else(|| self.name.clone()), found),
            Err(trouble) => (self.name.clone(), Found::Unknown(format!("`delegate_to`: {trouble}"))),
        };
        self.keep(scan, task, host, id, found, self.unseen.doubts.clone(), context);
        unknown(format!("what the task `{}` says {UNSEEN_HERE}", id.task))
    }

    /// The other host where a task is done.
    fn elsewhere(&self, context: &Context, play: &PlayRun) -> Result<Option<String>, Trouble> {
        let Some(node) = &context.common.crowd.delegate_to else { return Ok(None) };
        let name = render::strings(&self.shared.render.node(node, &self.scope(play, context))?).concat();
        Ok(Some(name).filter(|name| !name.is_empty() && name != render::OMIT))
    }

    fn finished_unseen(&self, task: &Task, context: &Context, play: &PlayRun) -> Result<Map<String, Value>, Trouble> {
        let mut parameters = self.parameters(task, context, play).map_err(|trouble| match trouble {
            Trouble::Unknown(why) => Trouble::Unknown(match self.unknown_parameter(task, context, play) {
                Some(name) => format!("`{name}`: {why}"),
                None => why,
            }),
            failed => failed,
        })?;
        self.fill_in(task, context, play, &mut parameters)?;
        self.checked(task, &parameters)?;
        Ok(parameters)
    }

    /// The first parameter that can't be had without the machine.
    fn unknown_parameter(&self, task: &Task, context: &Context, play: &PlayRun) -> Option<String> {
        let scope = self.scope(play, context);
        let is_unknown = |node: &Node| matches!(self.shared.render.node(node, &scope), Err(Trouble::Unknown(_)));
        task.params.as_map()?.iter().find(|(_, node)| is_unknown(node)).map(|(key, _)| key.name.clone())
    }

    #[allow(clippy::too_many_arguments, reason = "all of it is one thing that was met")]
    fn keep(
        &self,
        scan: &Scan,
        task: &Task,
        host: String,
        id: &TaskId,
        found: Found,
        doubts: Vec<String>,
        context: &Context,
    ) {
        // A `no_log` that is no plain truth value hides rather than shows.
        let hidden = context.common.no_log.as_ref().is_some_and(|node| node.as_bool() != Some(false));
        let (span, node) = (task.span.clone(), task.params.clone());
        scan.inside().met.push(Met { host, task: id.title(), span, node, found, doubts, hidden });
    }
}

/// The end of a sentence about a task's result.
const UNSEEN_HERE: &str = "is known only on the machine";

fn is_include(task: &Task) -> bool {
    matches!(task.module.name, "include_tasks" | "include_role")
}
