//! One host among others: tasks that one host does for all, tasks that few do at a time, tasks that are done on another
//! host, and when none is begun any more.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError};

use indexmap::IndexSet;
use serde_json::json;

use super::ahead::Asked;
use super::batch::{Answer, Batch, Turn};
use super::host::{Context, Flow, Handler, HostRun, is_called};
use super::peers::Delegate;
use super::render::{self, Trouble};
use super::resume::Pending;
use super::task::Ended;
use super::{HostStart, PlayRun};
use crate::agent::protocol::Outcome;
use crate::playbook::Task;
use crate::report::TaskId;

/// What a host knows of its place among the others, in one play.
#[derive(Default)]
pub(super) struct Own {
    pub batch: Option<Arc<Batch>>,
    /// Its place in the batch.
    pub place: usize,
    /// Which play it is.
    pub play: usize,
    /// The task that is not to go on before it has answered: others wait for it.
    pub alone: bool,
    /// The first task that was not begun because the rollout stops.
    pub stopped: Option<String>,
    /// The task that failed last.
    pub failed_at: Option<String>,
    /// Why that failure is everybody's.
    pub fatal: Option<&'static str>,
    /// How often a task that runs once was met here.
    times: HashMap<String, usize>,
    /// By handler, the place of the task that notified it.
    from: BTreeMap<usize, String>,
    /// Handlers that are being run, and not over yet.
    pub flushing: Vec<usize>,
    /// Handlers that failed.
    owed: BTreeSet<usize>,
    /// Handlers of tasks whose answers will never come: nobody knows whether those changed something.
    lost: Vec<Pending>,
    /// Handlers that an earlier run notified and did not run.
    pub again: Vec<Pending>,
    /// How many variables of each sort the others know of.
    published: [usize; 3],
}

/// Another host where a task is done.
#[derive(Clone)]
pub(super) struct Away {
    name: String,
    start: Arc<HostStart>,
    link: Delegate,
    /// Facts that it finds are that host's.
    facts: bool,
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

    fn stop_before(&mut self, task: &Task, play: &PlayRun) -> Flow {
        // What was sent is under way.
        match self.catch_up(play) {
            Flow::Next => self.not_begun(task.title()),
            flow => flow,
        }
    }

    /// The run stopped before this task was begun, though it may have been sent.
    pub(super) fn not_begun(&mut self, title: &str) -> Flow {
        self.crowd.stopped.get_or_insert_with(|| title.to_string());
        Flow::EndPlay
    }

    /// Does a task, if the others let it.
    pub(super) fn among_others(&mut self, task: &Arc<Task>, context: Context, play: &PlayRun) -> Flow {
        if self.must_stop() {
            return self.stop_before(task, play);
        }
        let crowd = &context.common.crowd;
        let plain = [&crowd.run_once, &crowd.throttle, &crowd.delegate_to, &crowd.ignore_unreachable];
        // Tasks about the way only bring others, and those are asked one by one.
        let about_the_way = matches!(task.module.name, "include_tasks" | "include_role" | "meta");
        if about_the_way || plain.iter().all(|setting| setting.is_none()) {
            return self.run_task(task, context, play);
        }
        // Others wait for the answer, or for the place of this host in the task.
        let flow = self.catch_up(play);
        if flow != Flow::Next {
            return flow;
        }
        let before = std::mem::replace(&mut self.crowd.alone, true);
        let flow = match self.once_or_each(task, context, play) {
            Flow::Next => self.catch_up(play),
            flow => flow,
        };
        self.crowd.alone = before;
        flow
    }

    /// A setting of the crowd's is wrong.
    fn wrong(&mut self, task: &Arc<Task>, context: &Context, play: &PlayRun, trouble: Trouble) -> Flow {
        match self.id(task, context, play, None) {
            Ok(id) => self.give_up(id, trouble),
            Err(flow) => flow,
        }
    }

    fn once_or_each(&mut self, task: &Arc<Task>, context: Context, play: &PlayRun) -> Flow {
        let once = match &context.common.crowd.run_once {
            Some(node) => self.shared.render.truth(node, &self.scope(play, &context)),
            None => Ok(false),
        };
        let batch = match (once, &self.crowd.batch) {
            (Err(trouble), _) => return self.wrong(task, &context, play, trouble),
            (Ok(true), Some(batch)) => Arc::clone(batch),
            _ => return self.throttled(task, context, play),
        };
        let place = task.span.place();
        let times = self.crowd.times.entry(place.clone()).or_default();
        let once = (place, *times);
        *times += 1;
        let interrupt = &self.shared.interrupt;
        match batch.turn(&once, self.crowd.place, &|| interrupt.is_raised()) {
            Turn::Stop => self.stop_before(task, play),
            Turn::Mine => {
                let mark = self.vars.mark();
                let flow = match self.throttled(task, context, play) {
                    Flow::Next => self.catch_up(play),
                    flow => flow,
                };
                let failed = if self.given_up {
                    Some(format!("`{}`, which was to do it for all, is lost", self.name))
                } else {
                    matches!(flow, Flow::Failed { .. }).then(|| format!("it failed on `{}`, for all hosts", self.name))
                };
                if failed.is_some() {
                    self.crowd.fatal = Some("the task was to run once for all");
                }
                let delta = Arc::new(self.vars.since(&mark));
                batch.answer(once, Answer { host: self.name.clone(), flow: flow.clone(), delta, failed });
                flow
            }
            Turn::Done(answer) => {
                self.vars.take(&answer.delta);
                self.publish(true);
                let Some(why) = answer.failed else { return answer.flow };
                self.crowd.fatal = Some("the task was to run once for all");
                self.crowd.failed_at = Some(task.title().to_string());
                let result = json!({"failed": true, "changed": false, "msg": why, "run_once": answer.host});
                Flow::Failed { task: task.title().to_string(), result }
            }
        }
    }

    fn throttled(&mut self, task: &Arc<Task>, context: Context, play: &PlayRun) -> Flow {
        let most = match &context.common.crowd.throttle {
            Some(node) => self.shared.render.node(node, &self.scope(play, &context)),
            None => return self.run_task(task, context, play),
        };
        let most = most.and_then(|value| {
            render::number(&value)
                .ok_or_else(|| Trouble::Failed(format!("`throttle` must be a number and is {}", render::short(&value))))
        });
        match most {
            Ok(0) => self.run_task(task, context, play),
            Ok(most) => {
                let shared = self.shared;
                let _place = shared.throttles.enter(&task.span.place(), usize::try_from(most).unwrap_or(usize::MAX));
                match self.run_task(task, context, play) {
                    Flow::Next => self.catch_up(play),
                    flow => flow,
                }
            }
            Err(trouble) => self.wrong(task, &context, play, trouble),
        }
    }

    /// A task was told: what others should know of it.
    pub(super) fn told(
        &mut self,
        task: Option<&Arc<Task>>,
        context: &Context,
        play: &PlayRun,
        before: &IndexSet<usize>,
        flow: &Flow,
    ) {
        let failed = matches!(flow, Flow::Failed { .. }) || self.given_up;
        if failed {
            self.crowd.failed_at =
                Some(task.map_or_else(|| "Gathering facts".to_string(), |task| task.title().to_string()));
            let fatal = match &context.common.crowd.any_errors_fatal {
                Some(node) => self.shared.render.truth(node, &self.scope(play, context)).unwrap_or(true),
                None => false,
            };
            self.crowd.fatal = fatal.then_some("`any_errors_fatal` is set");
        }
        if self.given_up {
            // What was sent to a host that is lost may have been done.
            let sent = self.ahead.iter().filter_map(|step| step.asked_task());
            let lost = sent.chain(task.map(AsRef::as_ref)).flat_map(|task| self.may_notify(task)).collect();
            self.crowd.lost = lost;
        }
        let Some(task) = task else { return self.publish(true) };
        let is_this = |index: &usize| self.handlers.get(*index).is_some_and(|(_, handler)| Arc::ptr_eq(handler, task));
        if let Some(at) = self.crowd.flushing.iter().position(is_this) {
            let handler = self.crowd.flushing.remove(at);
            if failed {
                self.crowd.owed.insert(handler);
            }
        }
        self.remember_notified(task, before);
        let sets = matches!(task.module.name, "set_fact" | "setup" | "include_vars");
        self.publish(sets || task.register.is_some());
    }

    /// Running handlers ended before all of them ran: the others are still notified.
    pub(super) fn flush_broken(&mut self) {
        self.notified.extend(std::mem::take(&mut self.crowd.flushing));
        let owed = &self.crowd.owed;
        self.notified.retain(|handler| !owed.contains(handler));
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
    fn remember_notified(&mut self, task: &Task, before: &IndexSet<usize>) {
        let own = &self.crowd;
        if self.notified.is_empty() && own.again.is_empty() && own.from.is_empty() && task.notify.is_empty() {
            return;
        }
        let place = task.span.place();
        let again: Vec<Pending>;
        (again, self.crowd.again) =
            std::mem::take(&mut self.crowd.again).into_iter().partition(|pending| pending.task == place);
        self.notify_again(&again);
        let (notified, flushing) = (&self.notified, &self.crowd.flushing);
        self.crowd.from.retain(|handler, _| notified.contains(handler) || flushing.contains(handler));
        let new: Vec<usize> = self.notified.iter().filter(|handler| !before.contains(*handler)).copied().collect();
        for handler in new {
            self.crowd.from.insert(handler, place.clone());
        }
        self.note_pending();
    }

    /// Has written down which handlers this host owes, should the run end here.
    pub(super) fn note_pending(&self) {
        if let Some(ledger) = &self.shared.ledger {
            ledger.pending(&self.name, self.crowd.play, self.pending());
        }
    }

    /// The handlers that a task would notify if it changed something.
    fn may_notify(&self, task: &Task) -> Vec<Pending> {
        let names: Vec<&str> = task.notify.iter().filter_map(crate::yaml::Node::as_str).collect();
        if names.is_empty() {
            return Vec::new();
        }
        let called = |handler: &Handler| names.iter().any(|name| is_called(handler, name));
        let handlers = self.handlers.iter().filter(|handler| called(handler));
        handlers.map(|(_, handler)| self.pending_of(handler, task.span.place())).collect()
    }

    fn pending_of(&self, handler: &Task, task: String) -> Pending {
        let (handler, name) = (handler.span.place(), handler.title().to_string());
        Pending { play: self.crowd.play, task, handler, name }
    }

    fn notify_again(&mut self, again: &[Pending]) {
        for pending in again {
            let handler = self.handlers.iter().position(|(_, handler)| handler.span.place() == pending.handler);
            self.notified.extend(handler);
        }
    }

    /// Goes through a play; handlers that an earlier run still owes are run at its end at the latest.
    pub(super) fn play_to_the_end(&mut self, play: &PlayRun) -> Flow {
        let mut flow = self.whole_play(play);
        if flow == Flow::Next && self.crowd.stopped.is_none() && !self.crowd.again.is_empty() {
            let again = std::mem::take(&mut self.crowd.again);
            self.notify_again(&again);
            let context = Context { common: play.play.common(), ..Context::default() };
            flow = self.flush_handlers(play, &context);
        }
        self.publish(true);
        flow
    }

    /// Handlers that were notified and have not run to their end.
    pub(super) fn pending(&self) -> Vec<Pending> {
        let mut all = self.crowd.again.clone();
        let indexes: BTreeSet<usize> =
            self.notified.iter().chain(&self.crowd.owed).chain(&self.crowd.flushing).copied().collect();
        for index in indexes {
            let Some((_, handler)) = self.handlers.get(index) else { continue };
            let task = self.crowd.from.get(&index).cloned().unwrap_or_default();
            all.push(self.pending_of(handler, task));
        }
        // To run a handler once more is harmless, to leave one out is not.
        let sent = self.ahead.iter().filter_map(|step| step.asked_task()).flat_map(|task| self.may_notify(task));
        for maybe in sent.chain(self.crowd.lost.iter().cloned()) {
            if !all.contains(&maybe) {
                all.push(maybe);
            }
        }
        all
    }

    /// Is a host that can't be reached no reason to give it up?
    pub(super) fn ignores_unreachable(&self, context: &Context, play: &PlayRun) -> bool {
        let setting = context.common.crowd.ignore_unreachable.as_ref();
        setting.is_some_and(|node| self.shared.render.truth(node, &self.scope(play, context)).unwrap_or(false))
    }

    /// Where a task is done, if not here.
    fn away(&self, context: &Context, play: &PlayRun) -> Result<Option<Away>, Trouble> {
        let crowd = &context.common.crowd;
        let Some(node) = &crowd.delegate_to else { return Ok(None) };
        let scope = self.scope(play, context);
        let name = render::strings(&self.shared.render.node(node, &scope)?).concat();
        let facts = match &crowd.delegate_facts {
            Some(node) => self.shared.render.truth(node, &scope)?,
            None => false,
        };
        // The host itself is no other one.
        if name == self.name || name.is_empty() || name == render::OMIT {
            return Ok(None);
        }
        let (start, link) =
            self.shared.peers.delegate(&name, self.shared).map_err(|error| Trouble::Failed(error.to_string()))?;
        Ok(Some(Away { name, start, link, facts }))
    }

    /// What a task does, here or on another host: there it is reached and becomes other users as that host's variables
    /// say; all else is as this host sees it.
    pub(super) fn dispatch(&mut self, task: &Task, context: &Context, play: &PlayRun, id: &TaskId) -> Ended {
        let away = match self.away(context, play) {
            Ok(Some(away)) => away,
            Ok(None) => return self.dispatch_here(task, context, play, id),
            Err(trouble) => return Ended::failed(trouble),
        };
        let reach = self.reach.replace(away.start.connection.clone());
        let mark = (away.facts && task.module.name == "set_fact").then(|| self.vars.mark());
        let mut ended = self.dispatch_here(task, context, play, id);
        self.reach = reach;
        if let Some(mark) = mark {
            self.shared.peers.add(&away.name, &self.vars.since(&mark));
            self.vars.back_to(mark);
        }
        if let Some(asked) = &mut ended.asked {
            // A saved plan is done host by host, and knows nothing of this.
            self.unsavable.push(format!("{} (done on `{}`)", id.task, away.name));
            asked.keep = false;
            asked.away = Some(away);
        }
        ended
    }

    /// Asks the agent of another host; one task at a time is done there for others.
    pub(super) fn ask_away(&mut self, asked: &Asked, away: &Away, id: &TaskId) -> Option<Outcome> {
        let mut link = away.link.lock().unwrap_or_else(PoisonError::into_inner);
        let reach = self.reach.replace(away.start.connection.clone());
        let folder = std::mem::replace(&mut self.inventory_folder, away.start.folder.clone());
        // The name is an address too, where the inventory has no other.
        let name = std::mem::replace(&mut self.name, away.name.clone());
        std::mem::swap(&mut self.link, &mut *link);
        let reboot = std::mem::take(&mut self.reboot);
        let mark = self.vars.mark();
        let answer = self.ask_here(asked, id);
        let due = std::mem::replace(&mut self.reboot, reboot);
        std::mem::swap(&mut self.link, &mut *link);
        self.name = name;
        self.inventory_folder = folder;
        self.reach = reach;
        if away.facts {
            self.shared.peers.add(&away.name, &self.vars.since(&mark));
        }
        if away.facts || answer.as_ref().is_some_and(|outcome| outcome.rebooted) {
            self.vars.back_to(mark);
        }
        // Only what the user asked for is known of that host here, so its reasons to boot again are told and not kept.
        let Some(mut outcome) = answer else {
            self.tell_reboot();
            return None;
        };
        outcome.notes.extend(due.into_values().flatten().map(|why| format!("`{}` needs a reboot: {why}", away.name)));
        self.tell_reboot();
        Some(outcome)
    }
}
