//! One task on one host: conditions, loops, retries, results.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::ahead::{Asked, Results, State, Step, What, is_template, must_be_waited_for};
use super::host::{Context, Flow, HostRun};
use super::render::{self, Trouble};
use super::vars::{Layer, Scope};
use super::{PlayRun, tags};
use crate::agent::protocol::{Mode, Outcome, Status};
use crate::change::Diff;
use crate::host::Error;
use crate::playbook::Task;
use crate::report::{Event, Finished, TaskId};
use crate::template::Var;

/// As often a task with `until` is tried again, and that many seconds apart, unless it says otherwise (Ansible's numbers).
const RETRIES: u64 = 3;
const DELAY: u64 = 5;

/// How one item of a task ended.
pub(super) struct Ended {
    pub outcome: Outcome,
    /// It is for the agent to do, and has not been asked for.
    pub asked: Option<Box<Asked>>,
    /// Where the way goes on, for tasks that are about the way (`meta`, `include_tasks`, …).
    pub flow: Flow,
    /// Said already by the tasks it brought; it is no line of its own.
    pub silent: bool,
}

impl Ended {
    pub(super) fn new(outcome: Outcome) -> Ended {
        Ended { outcome, asked: None, flow: Flow::Next, silent: false }
    }

    pub(super) fn failed(trouble: Trouble) -> Ended {
        let mut outcome = Outcome::default();
        match trouble {
            Trouble::Unknown(reason) => {
                outcome.status = Status::Unknown;
                outcome.notes.push(reason);
            }
            Trouble::Failed(message) => {
                outcome.status = Status::Failed;
                outcome.error = Some(Error::failed(message));
            }
        }
        Ended::new(outcome)
    }
}

impl HostRun<'_> {
    pub(super) fn task(&mut self, task: &Arc<Task>, context: &Context, play: &PlayRun) -> Flow {
        if self.given_up {
            return Flow::EndPlay;
        }
        let options = &self.shared.options;
        let common = task.common.under(&context.common);
        if !tags::wanted(&common.tags, &options.tags, &options.skip_tags) {
            return Flow::Next;
        }
        if !self.started {
            if options.start_at_task.as_deref() != Some(task.title()) {
                return Flow::Next;
            }
            self.started = true;
        }
        self.among_others(task, context.with(common), play)
    }

    /// A handler runs whatever the tags are: it was notified.
    pub(super) fn handler(&mut self, task: &Arc<Task>, context: &Context, play: &PlayRun) -> Flow {
        self.among_others(task, context.under(&task.common), play)
    }

    pub(super) fn run_task(&mut self, task: &Arc<Task>, context: Context, play: &PlayRun) -> Flow {
        self.note_unseen(task);
        let Some(loop_) = &task.loop_ else {
            let begun = Instant::now();
            let (id, state) = match self.begin(task, &context, play, None) {
                Ok(begun) => begun,
                Err(flow) => return flow,
            };
            let wait = must_be_waited_for(task, &context);
            let step = Step { what: What::Task(Arc::clone(task)), context, id, begun, state };
            return match self.push(step, play) {
                Flow::Next if wait => self.catch_up(play),
                flow => flow,
            };
        };
        let mut items = self.loop_items(loop_, &context, play);
        if matches!(items, Err(Trouble::Unknown(_))) && self.is_ahead() {
            match self.catch_up(play) {
                Flow::Next => items = self.loop_items(loop_, &context, play),
                flow => return flow,
            }
        }
        let items = match items {
            Ok(items) => items,
            Err(trouble) => {
                // A condition that is false anyway spares its task the list, which may not exist then.
                let mut skip = self.conditions(&context.common.when, &self.scope(play, &context));
                if matches!(skip, Err(Trouble::Unknown(_))) && self.is_ahead() {
                    match self.catch_up(play) {
                        Flow::Next => skip = self.conditions(&context.common.when, &self.scope(play, &context)),
                        flow => return flow,
                    }
                }
                let id = match self.id(task, &context, play, None) {
                    Ok(id) => id,
                    Err(flow) => return flow,
                };
                let ended = match skip {
                    Ok(false) => Ended::new(skipped()),
                    skip => Ended::failed(self.list_unseen(task, &context, &id, trouble, &skip)),
                };
                let state = State::Over(Box::new(ended));
                let what = What::Task(Arc::clone(task));
                return self.push(Step { what, context, id, begun: Instant::now(), state }, play);
            }
        };
        self.run_loop(task, context, play, items)
    }

    fn run_loop(&mut self, task: &Arc<Task>, context: Context, play: &PlayRun, items: Vec<Value>) -> Flow {
        let loop_var = task.loop_control.loop_var.clone().unwrap_or_else(|| "item".into());
        let results = Results::default();
        let wait = must_be_waited_for(task, &context);
        for (index, item) in items.into_iter().enumerate() {
            let mut words = Map::new();
            words.insert(loop_var.clone(), item.clone());
            words.insert("ansible_loop_var".into(), loop_var.clone().into());
            if let Some(index_var) = &task.loop_control.index_var {
                words.insert(index_var.clone(), index.into());
            }
            let begun = Instant::now();
            let context = self.with_words(&context, &words);
            let (id, state) = match self.begin(task, &context, play, Some(&words)) {
                Ok(begun) => begun,
                Err(flow) => return flow,
            };
            let what =
                What::Item { task: Arc::clone(task), results: Arc::clone(&results), name: loop_var.clone(), item };
            let flow = match self.push(Step { what, context, id, begun, state }, play) {
                Flow::Next if wait => self.catch_up(play),
                flow => flow,
            };
            if flow != Flow::Next {
                return flow;
            }
        }
        let id = match self.id(task, &context, play, None) {
            Ok(id) => id,
            Err(flow) => return flow,
        };
        let what = What::LoopEnd { task: Arc::clone(task), results };
        let state = State::Over(Box::new(Ended::new(Outcome::default())));
        self.push(Step { what, context, id, begun: Instant::now(), state }, play)
    }

    pub(super) fn way_on(&self, task: &Task, result: Value, flow: Flow) -> Flow {
        let failed = result.get("failed") == Some(&Value::Bool(true));
        let ignored = result.get("ignored") == Some(&Value::Bool(true))
            || result["results"]
                .as_array()
                .is_some_and(|results| results.iter().filter(|r| r["failed"] == true).all(|r| r["ignored"] == true));
        if failed && !ignored { Flow::Failed { task: task.title().to_string(), result } } else { flow }
    }

    fn loop_items(&self, loop_: &crate::yaml::Node, context: &Context, play: &PlayRun) -> Result<Vec<Value>, Trouble> {
        let scope = self.scope(play, context);
        match self.shared.render.node(loop_, &scope).map_err(|trouble| self.judged(trouble))? {
            Value::Array(items) => Ok(items),
            other => Err(Trouble::Failed(format!(
                "`loop` must be a list and is {}: {}",
                render::kind(&other),
                loop_.span.place()
            ))),
        }
    }

    /// Begins one item (or the whole task where there is no loop): what needs no agent is over then, what does is ready to
    /// be asked. What depends on results that are on their way waits for them; `Err` when one of those ends the way.
    fn begin(
        &mut self,
        task: &Arc<Task>,
        context: &Context,
        play: &PlayRun,
        words: Option<&Map<String, Value>>,
    ) -> Result<(TaskId, State), Flow> {
        let retried = !task.until.is_empty() || task.retries.is_some();
        let may_hide = context.common.no_log.as_ref().is_some_and(is_template);
        if self.is_ahead() && (retried || may_hide || !self.may_go_ahead()) {
            self.caught_up(play)?;
        }
        let id = self.id(task, context, play, words)?;
        let mut ended = self.attempt(task, context, play, &id);
        if ended.outcome.status == Status::Unknown && ended.asked.is_none() && self.is_ahead() {
            self.caught_up(play)?;
            ended = self.attempt(task, context, play, &id);
        }
        if !retried
            && self.may_go_ahead()
            && let Some(asked) = ended.asked.take()
        {
            return Ok((id, State::Asked(asked)));
        }
        let mut left = match self.retries(task, context, play) {
            Ok(left) => left,
            Err(trouble) => return Ok((id, State::Over(Box::new(Ended::failed(trouble))))),
        };
        let mut attempts = 1;
        let mut was_asked = false;
        loop {
            if let Some(asked) = ended.asked.take() {
                was_asked = true;
                let Some(outcome) = self.ask_now(&asked, &id) else { return Err(self.not_begun(&id.task)) };
                ended.outcome = outcome;
            }
            self.judge(task, context, play, &mut ended.outcome);
            let again = left > 0
                && self.shared.mode == Mode::Apply
                && matches!(ended.outcome.status, Status::Ok | Status::Changed | Status::Failed)
                && !self.given_up
                && !matches!(self.until(task, context, play, &ended.outcome), Ok(true));
            if !again {
                break;
            }
            left -= 1;
            attempts += 1;
            if !self.shared.interrupt.sleep(self.delay(task, context, play)) {
                left = 0;
                break;
            }
            ended = self.attempt(task, context, play, &id);
        }
        let tried_all = attempts > 1 && left == 0 && !task.until.is_empty();
        if tried_all && !matches!(self.until(task, context, play, &ended.outcome), Ok(true)) {
            ended.outcome.status = Status::Failed;
            ended
                .outcome
                .error
                .get_or_insert_with(|| Error::failed(format!("tried {attempts} times, and `until` does not hold")));
        }
        if attempts > 1 {
            ended.outcome.result.insert("attempts".into(), attempts.into());
        }
        // What a machine was asked can be asked again; what could not even be asked is in no plan.
        if ended.outcome.status == Status::Unknown && !was_asked && task.module.name != "debug" {
            self.unsavable.push(id.task.clone());
        }
        Ok((id, State::Over(Box::new(ended))))
    }

    /// One attempt: skipped, done here, or a question to the agent.
    fn attempt(&mut self, task: &Task, context: &Context, play: &PlayRun, id: &TaskId) -> Ended {
        if let Some(scan) = &self.shared.scan {
            return self.attempt_unseen(scan, task, context, play, id);
        }
        match self.conditions(&context.common.when, &self.scope(play, context)) {
            Ok(true) => self.dispatch(task, context, play, id),
            Ok(false) => Ended::new(skipped()),
            Err(trouble) => Ended::failed(trouble),
        }
    }

    /// As [`HostRun::catch_up`], for where a value is wanted otherwise.
    pub(super) fn caught_up(&mut self, play: &PlayRun) -> Result<(), Flow> {
        match self.catch_up(play) {
            Flow::Next => Ok(()),
            flow => Err(flow),
        }
    }

    fn retries(&self, task: &Task, context: &Context, play: &PlayRun) -> Result<u64, Trouble> {
        if task.until.is_empty() && task.retries.is_none() {
            return Ok(0);
        }
        let Some(node) = &task.retries else { return Ok(RETRIES) };
        let value = self.shared.render.node(node, &self.scope(play, context))?;
        render::number(&value)
            .ok_or_else(|| Trouble::Failed(format!("`retries` must be a number: {}", node.span.place())))
    }

    fn delay(&self, task: &Task, context: &Context, play: &PlayRun) -> Duration {
        let node = task.delay.as_ref();
        let value = node.and_then(|node| self.shared.render.node(node, &self.scope(play, context)).ok());
        Duration::from_secs(value.as_ref().and_then(render::number).unwrap_or(DELAY))
    }

    fn until(&self, task: &Task, context: &Context, play: &PlayRun, outcome: &Outcome) -> Result<bool, Trouble> {
        if task.until.is_empty() {
            return Ok(outcome.status != Status::Failed);
        }
        let words = result_words(task, outcome);
        let scope = self.scope(play, context);
        self.conditions(&task.until, &scope.under(Layer::Final(&words)))
    }

    /// `changed_when` and `failed_when`.
    pub(super) fn judge(&self, task: &Task, context: &Context, play: &PlayRun, outcome: &mut Outcome) {
        let known = matches!(outcome.status, Status::Ok | Status::Changed | Status::WouldChange | Status::Failed);
        if !known || (task.changed_when.is_empty() && task.failed_when.is_empty()) {
            return;
        }
        // What an act would say is not known in a dry run; a truth value needs nothing of it.
        let foreseen = outcome.status == Status::WouldChange && outcome.act;
        let words = result_words(task, outcome);
        let scope = self.scope(play, context);
        let scope = scope.under(Layer::Final(&words));
        let judged = |conditions: &[crate::yaml::Node]| -> Option<Result<bool, Trouble>> {
            if conditions.is_empty() {
                return None;
            }
            match self.conditions(conditions, &scope) {
                Err(_) if foreseen => None,
                other => Some(other),
            }
        };
        match judged(&task.failed_when) {
            Some(Ok(true)) => {
                outcome.status = Status::Failed;
                outcome.error.get_or_insert_with(|| Error::failed("`failed_when` says that it failed"));
            }
            Some(Ok(false)) if outcome.status == Status::Failed => {
                outcome.error = None;
                let changed = !outcome.diffs.is_empty() || outcome.act;
                outcome.status = if changed { Status::Changed } else { Status::Ok };
            }
            Some(Err(trouble)) => *outcome = Ended::failed(trouble).outcome,
            _ => {}
        }
        let changed = match self.shared.mode {
            Mode::Plan => Status::WouldChange,
            Mode::Apply => Status::Changed,
        };
        if matches!(outcome.status, Status::Ok | Status::Changed | Status::WouldChange) {
            match judged(&task.changed_when) {
                Some(Ok(true)) => outcome.status = changed,
                Some(Ok(false)) => outcome.status = Status::Ok,
                Some(Err(trouble)) => *outcome = Ended::failed(trouble).outcome,
                None => {}
            }
        }
    }

    /// Counts, tells, notifies; answers what `register` sees.
    pub(super) fn settle(
        &mut self,
        task: &Task,
        context: &Context,
        play: &PlayRun,
        ended: Ended,
        mut finished: Finished,
    ) -> Value {
        let Ended { mut outcome, silent, .. } = ended;
        let status = outcome.status;
        let lost = status == Status::Unreachable && !self.ignores_unreachable(context, play);
        let ignored = (status == Status::Unreachable && !lost)
            || status == Status::Failed && {
                let scope = self.scope(play, context);
                context
                    .common
                    .ignore_errors
                    .as_ref()
                    .is_some_and(|node| self.shared.render.truth(node, &scope).unwrap_or(false))
            };
        self.count(status, ignored, silent);
        if !silent {
            self.recap.count(&outcome.diffs);
        }
        if matches!(status, Status::Changed | Status::WouldChange) {
            let scope = self.scope(play, context);
            let names: Result<Vec<Vec<String>>, Trouble> = task
                .notify
                .iter()
                .map(|node| self.shared.render.node(node, &scope).map(|v| render::strings(&v)))
                .collect();
            let told = names.and_then(|names| {
                names.into_iter().flatten().try_for_each(|name| self.notify(&name).map_err(Trouble::Failed))
            });
            if let Err(trouble) = told {
                finished.warnings.push(trouble.to_string());
            }
        }
        let mut result = std::mem::take(&mut outcome.result);
        result.insert("changed".into(), matches!(status, Status::Changed | Status::WouldChange).into());
        result.insert("failed".into(), (status == Status::Failed || status == Status::Unreachable).into());
        result.insert("skipped".into(), (status == Status::Skipped).into());
        if status == Status::Unreachable {
            result.insert("unreachable".into(), true.into());
        }
        if ignored {
            result.insert("ignored".into(), true.into());
        }
        if status == Status::Unknown {
            result.insert("unknown".into(), true.into());
        }
        if self.shared.mode == Mode::Plan && outcome.act && !outcome.actions.is_empty() {
            // Of an act only this much is known before it is done, whatever `changed_when` says of it.
            result.insert("unknown_rest".into(), true.into());
        }
        if let Some(error) = &outcome.error {
            result.entry("msg").or_insert_with(|| error.message.clone().into());
        }
        finished.ignored = ignored;
        finished.result = Value::Object(result.clone());
        if self.hidden(context, play) {
            finished.result = json!({"censored": "the task has `no_log: true`"});
            finished.diffs.iter_mut().for_each(censor);
            if finished.error.is_some() {
                finished.error = Some("hidden: the task has `no_log: true`".into());
            }
            finished.notes.clear();
            finished.warnings.clear();
        }
        if let Value::Object(map) = &mut finished.result {
            map.remove("unknown_rest");
        }
        if !silent {
            self.shared.sink.event(Event::Finished(Box::new(finished)));
        }
        if lost {
            self.given_up = true;
        }
        Value::Object(result)
    }

    fn count(&mut self, status: Status, ignored: bool, silent: bool) {
        let counts = &mut self.recap.counts;
        match status {
            _ if silent => {}
            Status::Ok => counts.ok += 1,
            Status::Changed | Status::WouldChange => {
                counts.ok += 1;
                counts.changed += 1;
            }
            Status::Failed | Status::Unreachable if ignored => {
                counts.ok += 1;
                counts.ignored += 1;
            }
            Status::Failed => counts.failed += 1,
            Status::Skipped => counts.skipped += 1,
            Status::Unreachable => counts.unreachable = 1,
            Status::Unknown => self.recap.unknown += 1,
        }
    }

    /// Keeps what `register` asks for.
    pub(super) fn keep_result(&mut self, task: &Task, mut result: Value) {
        let Some(name) = &task.register else { return };
        let name = name.value.clone();
        self.partial.remove(&name);
        let title = task.title().to_string();
        let unknown = result.get("unknown") == Some(&Value::Bool(true));
        if let Value::Object(map) = &mut result {
            if map.remove("unknown_rest").is_some() {
                self.partial
                    .insert(name.clone(), format!("what the task `{title}` will say is known only when it has run"));
            }
            map.remove("ansible_facts");
        }
        let var = if unknown {
            Var::Unknown(format!("the result of the task `{title}` is not known yet"))
        } else {
            Var::fixed(result)
        };
        self.vars.set.insert(name, var);
    }

    /// Do all conditions hold?
    pub(super) fn conditions(&self, conditions: &[crate::yaml::Node], scope: &Scope<'_>) -> Result<bool, Trouble> {
        for condition in conditions {
            if !self.shared.render.condition(condition, scope).map_err(|trouble| self.judged(trouble))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A result of which only `changed` is known makes what asks for more unknown, not wrong.
    pub(super) fn judged(&self, trouble: Trouble) -> Trouble {
        match trouble {
            Trouble::Failed(message) => {
                let missing = self
                    .partial
                    .iter()
                    .find(|(name, _)| message.contains(&format!("`{name}.")) || message.contains(&format!("`{name}[")));
                match (missing, &self.unseen.fog) {
                    (Some((_, why)), _) => Trouble::Unknown(why.clone()),
                    (None, Some(why)) if message.contains("is undefined") => Trouble::Unknown(why.clone()),
                    (None, _) => Trouble::Failed(message),
                }
            }
            unknown => unknown,
        }
    }

    fn with_words(&self, context: &Context, words: &Map<String, Value>) -> Context {
        let mut all = context.words.as_deref().cloned().unwrap_or_default();
        all.extend(words.clone());
        Context { words: Some(std::sync::Arc::new(all)), ..context.clone() }
    }

    fn hidden(&self, context: &Context, play: &PlayRun) -> bool {
        let scope = self.scope(play, context);
        // A `no_log` that can't be made out hides rather than shows.
        context.common.no_log.as_ref().is_some_and(|node| self.shared.render.truth(node, &scope).unwrap_or(true))
    }

    pub(super) fn is_hidden(&self, context: &Context, play: &PlayRun) -> bool {
        self.hidden(context, play)
    }

    /// Which task this is, for people. Its name may want results that are on their way; `Err` when one of those ends the way.
    pub(super) fn id(
        &mut self,
        task: &Task,
        context: &Context,
        play: &PlayRun,
        words: Option<&Map<String, Value>>,
    ) -> Result<TaskId, Flow> {
        let label = task.loop_control.label.as_ref().filter(|_| words.is_some());
        let awaits = [task.name.as_ref(), label].into_iter().flatten().any(|node| {
            is_template(node)
                && matches!(self.shared.render.node(node, &self.scope(play, context)), Err(Trouble::Unknown(_)))
        });
        if awaits {
            self.caught_up(play)?;
        }
        let scope = self.scope(play, context);
        let title = match &task.name {
            Some(node) => match self.shared.render.node(node, &scope) {
                Ok(Value::String(name)) => name,
                Ok(other) => other.to_string(),
                Err(_) => task.title().to_string(),
            },
            None => task.module.name.to_string(),
        };
        let item = words.map(|words| {
            let label = label.and_then(|label| self.shared.render.node(label, &scope).ok());
            let loop_var = task.loop_control.loop_var.as_deref().unwrap_or("item");
            let value = label.or_else(|| words.get(loop_var).cloned()).unwrap_or(Value::Null);
            render::short(&value)
        });
        Ok(TaskId {
            host: self.name.clone(),
            play: play.title.clone(),
            role: task.origin.role.as_ref().map(|role| role.name.clone()),
            task: title,
            module: task.module.name.to_string(),
            item,
        })
    }

    pub(super) fn finished(&self, id: TaskId, outcome: &Outcome, duration: Duration) -> Finished {
        Finished {
            id,
            status: outcome.status,
            diffs: outcome.diffs.clone(),
            result: Value::Null,
            notes: outcome.notes.clone(),
            warnings: outcome.warnings.clone(),
            error: outcome.error.as_ref().map(ToString::to_string),
            ignored: false,
            duration,
        }
    }
}

pub(super) fn skipped() -> Outcome {
    Outcome { status: Status::Skipped, ..Outcome::default() }
}

/// The result under its registered name, as `until`, `changed_when` and `failed_when` see it.
fn result_words(task: &Task, outcome: &Outcome) -> Map<String, Value> {
    let mut result = outcome.result.clone();
    result.insert("changed".into(), matches!(outcome.status, Status::Changed | Status::WouldChange).into());
    result.insert("failed".into(), (outcome.status == Status::Failed).into());
    result.insert("skipped".into(), (outcome.status == Status::Skipped).into());
    if let Some(error) = &outcome.error {
        result.entry("msg").or_insert_with(|| error.message.clone().into());
    }
    let mut words = Map::new();
    if let Some(name) = &task.register {
        words.insert(name.value.clone(), Value::Object(result.clone()));
    }
    words.insert("result".into(), Value::Object(result));
    words
}

/// The diff of a task with `no_log`: that something changes is no secret, what it is may be one.
pub(super) fn censor(diff: &mut Diff) {
    for side in [&mut diff.before, &mut diff.after].into_iter().flatten() {
        let end = if side.ends_with('\n') { "\n" } else { "" };
        *side = format!("(hidden: no_log){end}");
    }
}
