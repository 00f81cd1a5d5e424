//! One host among others: tasks that one host does for all, tasks that few do at a time, and when none is begun any more.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::json;

use super::PlayRun;
use super::batch::{Answer, Batch, Turn};
use super::host::{Context, Flow, HostRun};
use super::render;
use super::resume::Pending;
use crate::playbook::Task;

/// What a host knows of its place among the others, in one play.
#[derive(Default)]
pub(super) struct Own {
    pub batch: Option<Arc<Batch>>,
    /// Its place in the batch.
    pub place: usize,
    /// Which play it is.
    pub play: usize,
    /// The first task that was not begun because the rollout stops.
    pub stopped: Option<String>,
    /// The task that failed last.
    pub failed_at: Option<String>,
    /// That failure is everybody's.
    pub fatal: bool,
    /// How often a task that runs once was met here.
    times: HashMap<String, usize>,
    /// By handler, the place of the task that notified it.
    from: BTreeMap<usize, String>,
    /// How many variables of each sort the others know of.
    published: [usize; 3],
    /// Handlers that an earlier run notified and did not run.
    pub again: Vec<Pending>,
}

impl HostRun<'_> {
    /// Takes its place in a batch.
    pub(super) fn take_place(&mut self, batch: &Arc<Batch>, place: usize, play: usize, again: Vec<Pending>) {
        self.crowd = Own { batch: Some(Arc::clone(batch)), place, play, again, ..Own::default() };
    }

    /// The play's magic variables, as they are for this host.
    pub(super) fn play_magic(&mut self, play: &PlayRun) {
        let magic = &mut self.vars.magic;
        magic.share("ansible_play_hosts_all", Arc::clone(&play.host_names));
        if let Some(batch) = &self.crowd.batch {
            magic.share("ansible_play_hosts", Arc::clone(&batch.play));
            magic.share("ansible_play_batch", Arc::clone(&batch.names));
            magic.share("play_hosts", Arc::clone(&batch.names));
        }
    }

    /// Is no new task to be begun here?
    pub(super) fn must_stop(&self) -> bool {
        self.shared.interrupt.is_raised() || self.crowd.batch.as_ref().is_some_and(|batch| batch.is_stopped())
    }

    /// Does a task, if the others let it.
    pub(super) fn among_others(&mut self, task: &Task, context: &Context, play: &PlayRun) -> Flow {
        if self.must_stop() {
            self.crowd.stopped.get_or_insert_with(|| task.title().to_string());
            return Flow::EndPlay;
        }
        // Tasks about the way only bring others, and those are asked one by one.
        let about_the_way = matches!(task.module.name, "include_tasks" | "include_role" | "meta");
        self.publish(false);
        let before = self.notified.clone();
        let flow = match about_the_way {
            true => self.run_task(task, context, play),
            false => self.once_or_each(task, context, play),
        };
        if self.crowd.stopped.is_none() {
            self.remember_notified(task, &before);
        }
        let failed = matches!(flow, Flow::Failed { .. }) || self.given_up;
        if failed && !about_the_way {
            self.crowd.failed_at = Some(task.title().to_string());
            let fatal = context.common.crowd.any_errors_fatal.as_ref();
            self.crowd.fatal |=
                fatal.is_some_and(|node| self.shared.render.truth(node, &self.scope(play, context)).unwrap_or(false));
        }
        let sets = matches!(task.module.name, "set_fact" | "setup" | "include_vars");
        self.publish(sets || task.register.is_some());
        flow
    }

    fn once_or_each(&mut self, task: &Task, context: &Context, play: &PlayRun) -> Flow {
        self.crowd.fatal = false;
        let once = match &context.common.crowd.run_once {
            Some(node) => self.shared.render.truth(node, &self.scope(play, context)),
            None => Ok(false),
        };
        let batch = match (once, &self.crowd.batch) {
            (Err(trouble), _) => {
                let id = self.id(task, context, play, None);
                return self.give_up(id, trouble);
            }
            (Ok(true), Some(batch)) => Arc::clone(batch),
            _ => return self.throttled(task, context, play),
        };
        let place = task.span.place();
        let times = self.crowd.times.entry(place.clone()).or_default();
        let once = (place, *times);
        *times += 1;
        let interrupt = &self.shared.interrupt;
        match batch.turn(&once, self.crowd.place, &|| interrupt.is_raised()) {
            Turn::Stop => {
                self.crowd.stopped.get_or_insert_with(|| task.title().to_string());
                Flow::EndPlay
            }
            Turn::Mine => {
                let mark = self.vars.mark();
                let flow = self.throttled(task, context, play);
                let failed = match &flow {
                    Flow::Failed { .. } => Some(format!("failed on `{}`, for all hosts", self.name)),
                    _ if self.given_up => Some(format!("`{}`, which was to do it for all, is lost", self.name)),
                    _ => None,
                };
                self.crowd.fatal |= failed.is_some();
                let delta = Arc::new(self.vars.since(&mark));
                let answer = Answer { host: self.name.clone(), flow: flow.clone(), delta, failed };
                batch.answer(once, answer);
                flow
            }
            Turn::Done(answer) => {
                self.vars.take(&answer.delta);
                match answer.failed {
                    None => answer.flow,
                    Some(why) => {
                        self.crowd.fatal = true;
                        let result = json!({"failed": true, "changed": false, "msg": why, "run_once": answer.host});
                        Flow::Failed { task: task.title().to_string(), result }
                    }
                }
            }
        }
    }

    fn throttled(&mut self, task: &Task, context: &Context, play: &PlayRun) -> Flow {
        let most = match &context.common.crowd.throttle {
            Some(node) => self.shared.render.node(node, &self.scope(play, context)),
            None => return self.run_task(task, context, play),
        };
        let most = most.and_then(|value| {
            render::number(&value).ok_or_else(|| {
                render::Trouble::Failed(format!("`throttle` must be a number and is {}", render::short(&value)))
            })
        });
        match most {
            Ok(0) => self.run_task(task, context, play),
            Ok(most) => {
                let shared = self.shared;
                let _place = shared.throttles.enter(&task.span.place(), usize::try_from(most).unwrap_or(usize::MAX));
                self.run_task(task, context, play)
            }
            Err(trouble) => {
                let id = self.id(task, context, play, None);
                self.give_up(id, trouble)
            }
        }
    }

    /// Tells the others what is known of this host, if there may be news.
    fn publish(&mut self, news: bool) {
        if !self.shared.peers.kept() {
            return;
        }
        let sizes = self.vars.sizes();
        if news || self.crowd.published != sizes {
            self.crowd.published = sizes;
            self.shared.peers.publish(&self.name, self.vars.all());
        }
    }

    /// Which task notified which handler: a run that goes on after this one must know.
    fn remember_notified(&mut self, task: &Task, before: &indexmap::IndexSet<usize>) {
        if self.notified.is_empty() && self.crowd.again.is_empty() && self.crowd.from.is_empty() {
            return;
        }
        let place = task.span.place();
        let again: Vec<Pending>;
        (again, self.crowd.again) =
            std::mem::take(&mut self.crowd.again).into_iter().partition(|pending| pending.task == place);
        self.notify_again(&again);
        let notified = &self.notified;
        self.crowd.from.retain(|handler, _| notified.contains(handler));
        let new: Vec<usize> = self.notified.iter().filter(|handler| !before.contains(*handler)).copied().collect();
        for handler in new {
            self.crowd.from.insert(handler, place.clone());
        }
        if let Some(ledger) = &self.shared.ledger {
            ledger.pending(&self.name, self.crowd.play, self.pending());
        }
    }

    fn notify_again(&mut self, again: &[Pending]) {
        for pending in again {
            let handler = self.handlers.iter().position(|(_, handler)| handler.span.place() == pending.handler);
            self.notified.extend(handler);
        }
    }

    /// Goes through a play; handlers that an earlier run still owes are run at its end at the latest.
    pub(super) fn play_to_the_end(&mut self, play: &PlayRun) -> Flow {
        let flow = self.whole_play(play);
        let again = std::mem::take(&mut self.crowd.again);
        if flow != Flow::Next || self.crowd.stopped.is_some() {
            self.crowd.again = again;
            return flow;
        }
        self.notify_again(&again);
        let context = Context { common: play.play.common(), ..Context::default() };
        self.flush_handlers(play, &context)
    }

    /// Handlers that were notified and have not run.
    pub(super) fn pending(&self) -> Vec<Pending> {
        let mut all = self.crowd.again.clone();
        for index in &self.notified {
            let Some((_, handler)) = self.handlers.get(*index) else { continue };
            let task = self.crowd.from.get(index).cloned().unwrap_or_default();
            let (handler, name) = (handler.span.place(), handler.title().to_string());
            all.push(Pending { play: self.crowd.play, task, handler, name });
        }
        all
    }
}
