//! What a host does before a play's tasks: variable files, facts, the arguments of roles.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value, json};

use super::PlayRun;
use super::ahead::{Asked, State, Step, What};
use super::dispatch::read_vars;
use super::host::{Context, Flow, HostRun};
use super::render::{self, Trouble};
use super::vars::Scope;
use crate::agent::protocol::{self, Outcome, Status};
use crate::playbook::RoleUse;
use crate::report::{Event, Finished, TaskId};
use crate::template::Lookup;

impl HostRun<'_> {
    fn own_id(&self, play: &PlayRun, task: &str, module: &str, role: Option<&str>) -> TaskId {
        TaskId {
            host: self.name.clone(),
            play: play.title.clone(),
            role: role.map(str::to_string),
            task: task.to_string(),
            module: module.to_string(),
            item: None,
        }
    }

    /// Something that no task of the user's does has failed.
    pub(super) fn give_up(&mut self, id: TaskId, trouble: Trouble) -> Flow {
        self.give_up_with(id, trouble, Map::new())
    }

    /// The same, and the result has more to say than the message.
    fn give_up_with(&mut self, id: TaskId, trouble: Trouble, mut result: Map<String, Value>) -> Flow {
        let message = trouble.to_string();
        let outcome = Outcome {
            status: Status::Failed,
            error: Some(crate::host::Error::failed(message.clone())),
            ..Outcome::default()
        };
        for (key, value) in
            [("changed", false.into()), ("failed", true.into()), ("skipped", false.into()), ("msg", message.into())]
        {
            result.insert(key.into(), value);
        }
        let result = Value::Object(result);
        self.recap.counts.failed += 1;
        let task = id.task.clone();
        self.crowd.failed_at = Some(task.clone());
        let mut finished = self.finished(id, &outcome, std::time::Duration::ZERO);
        finished.result = result.clone();
        self.shared.sink.event(Event::Finished(Box::new(finished)));
        Flow::Failed { task, result }
    }

    /// Reads the play's `vars_files`; `Some` when the play can't go on.
    pub(super) fn read_vars_files(&mut self, play: &PlayRun, context: &Context) -> Option<Flow> {
        self.vars.vars_files.clear();
        for node in &play.play.vars_files {
            // A list means: the first that is there.
            let names: Result<Vec<String>, Trouble> = {
                let scope = self.scope(play, context);
                self.shared.render.node(node, &scope).map(|value| render::strings(&value))
            };
            let read = names.and_then(|names| {
                let found =
                    names.iter().map(|name| play.play.origin.playbook_folder.join(name)).find(|path| path.exists());
                match found {
                    Some(path) => read_vars(&path, &self.shared.options.vault),
                    None => Err(Trouble::Failed(format!(
                        "there is no file of variables {}: {}",
                        names.join(" or "),
                        node.span.place()
                    ))),
                }
            });
            match read {
                Ok(vars) => self.vars.vars_files.extend(vars),
                Err(trouble) => {
                    let id = self.own_id(play, "vars_files", "include_vars", None);
                    return Some(self.give_up(id, trouble));
                }
            }
        }
        None
    }

    /// Facts, once for a host in a run and again after it has booted.
    pub(super) fn gather_facts(&mut self, play: &PlayRun, context: &Context) -> Flow {
        if !self.vars.facts.is_empty() || self.shared.scan.is_some() {
            return Flow::Next;
        }
        let wanted = match &play.play.gather_facts {
            Some(node) => self.shared.render.truth(node, &self.scope(play, context)),
            None => Ok(true),
        };
        let id = self.own_id(play, "Gathering facts", "setup", None);
        match wanted {
            Ok(true) => {}
            Ok(false) => return Flow::Next,
            Err(trouble) => return self.give_up(id, trouble),
        }
        let request = protocol::Task {
            id: 0,
            chain: 0,
            user: None,
            module: "setup".into(),
            parameters: json!({}),
            title: id.task.clone(),
            no_log: false,
            timeout: None,
            expect: None,
        };
        let state = State::Asked(Box::new(Asked { request, hidden: false, keep: false, file: None, away: None }));
        let step = Step { what: What::Facts, context: context.clone(), id, begun: Instant::now(), state };
        match self.push(step, play) {
            Flow::Next if !self.may_go_ahead() => self.catch_up(play),
            flow => flow,
        }
    }

    /// Facts have come, or have not.
    pub(super) fn facts_gathered(&mut self, mut outcome: Outcome, mut finished: Finished, ignored: bool) -> Flow {
        finished.ignored = ignored;
        finished.result = Value::Object(std::mem::take(&mut outcome.result));
        let task = finished.id.task.clone();
        self.shared.sink.event(Event::Finished(Box::new(finished)));
        match outcome.status {
            Status::Ok => {
                self.recap.counts.ok += 1;
                Flow::Next
            }
            Status::Unreachable if ignored => {
                self.recap.counts.ignored += 1;
                Flow::Next
            }
            Status::Unreachable => {
                self.recap.counts.unreachable = 1;
                self.given_up = true;
                Flow::EndPlay
            }
            _ => {
                self.recap.counts.failed += 1;
                Flow::Failed { task, result: json!({"failed": true}) }
            }
        }
    }

    /// Checks what a role was given against what its `meta/argument_specs.yml` says; `Some` when it is wrong.
    pub(super) fn check_arguments(&mut self, use_: &Arc<RoleUse>, context: &Context, play: &PlayRun) -> Option<Flow> {
        let spec = use_.role.head.argument_spec.as_ref()?;
        let awaits = self.is_ahead() && {
            let scope = self.scope(play, context);
            let unknown = |option: &String| {
                let value = self.shared.render.templar.evaluate(option, &scope);
                value.is_err_and(|error| error.unknown().is_some())
            };
            spec.options.iter().any(|(option, _)| unknown(option))
        };
        if awaits && let Err(flow) = self.caught_up(play) {
            return Some(flow);
        }
        if self.is_doubtful() {
            return None;
        }
        let mut given = Map::new();
        let mut wrong = Vec::new();
        {
            let scope = self.scope(play, context);
            let mut later = Vec::new();
            for (option, _) in &spec.options {
                if scope.get(option).is_none() {
                    continue;
                }
                match self.shared.render.templar.evaluate(option, &scope) {
                    Ok(value) => {
                        given.insert(option.clone(), value);
                    }
                    // What can't be known yet can't be wrong yet either.
                    Err(error) if error.unknown().is_some() => later.push(option.as_str()),
                    Err(error) => {
                        match self.judged(Trouble::Failed(format!("`{option}`: {error}"))) {
                            Trouble::Unknown(_) => {}
                            Trouble::Failed(message) => wrong.push(Wrong::new(option, message, &scope)),
                        }
                        // That it is missing is not to be said as well.
                        later.push(option.as_str());
                    }
                }
            }
            let problems = spec.check(&given).into_iter();
            let problems = problems.filter(|problem| !later.contains(&option_of(&problem.path)));
            wrong.extend(problems.map(|problem| Wrong::new(&problem.path, problem.message, &scope)));
        }
        if wrong.is_empty() {
            return None;
        }
        if let Err(flow) = self.caught_up(play) {
            return Some(flow);
        }
        let name = use_.role.head.name.clone();
        let id = self.own_id(play, "Check the role's arguments", "assert", Some(&name));
        let used_at = use_.span.place();
        let lines: Vec<String> = wrong.iter().map(Wrong::line).collect();
        let message = format!("the role `{name}` was given wrong arguments\n{}\n(used at {used_at})", lines.join("\n"));
        let mut result = Map::new();
        result.insert("role".into(), name.into());
        result.insert("used_at".into(), used_at.into());
        result.insert("argument_errors".into(), wrong.iter().map(Wrong::told).collect());
        Some(self.give_up_with(id, Trouble::Failed(message), result))
    }
}

/// What is wrong with an argument of a role.
struct Wrong {
    /// Which: `vms[0].memory`.
    argument: String,
    message: String,
    /// Where it is written, if that is in a playbook or a role.
    place: Option<String>,
}

impl Wrong {
    fn new(path: &str, message: String, scope: &Scope<'_>) -> Wrong {
        let option = option_of(path);
        let written = scope.written(option).map(|node| node.near_path(path.get(option.len()..).unwrap_or_default()));
        Wrong { argument: path.to_string(), message, place: written.map(|node| node.span.place()) }
    }

    /// In a line for people.
    fn line(&self) -> String {
        match &self.place {
            Some(place) => format!("{} ({place})", self.message),
            None => self.message.clone(),
        }
    }

    /// For programs.
    fn told(&self) -> Value {
        json!({"argument": self.argument, "msg": self.message, "place": self.place})
    }
}

/// The option of a path: `vms` of `vms[0].memory`.
fn option_of(path: &str) -> &str {
    path.split(['.', '[']).next().unwrap_or(path)
}
