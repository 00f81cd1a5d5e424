//! What a task does: on the controller for tasks about the play, through an agent for all others.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::PlayRun;
use super::ahead::Asked;
use super::host::{Context, Flow, HostRun};
use super::link::Link;
use super::render::{self, Trouble};
use super::task::Ended;
use crate::agent::protocol::{self, Become, Outcome, Status};
use crate::diag::{Diagnostic, Source};
use crate::host::Error;
use crate::inventory::ConnectionKind;
use crate::modules::Side;
use crate::playbook::{Common, RoleFrom, RoleUse, Task};
use crate::report::{Event, TaskId};
use crate::template::Var;
use crate::vault::{self, Vault};
use crate::yaml::{self, Node, NodeValue};

/// Files that are larger, in bytes, do not go along with their task.
const LARGE: u64 = 1 << 20;

/// Includes that nest deeper than this include themselves.
const DEEPEST_INCLUDE: usize = 50;

impl HostRun<'_> {
    pub(super) fn dispatch_here(&mut self, task: &Task, context: &Context, play: &PlayRun, id: &TaskId) -> Ended {
        let ended = match (task.module.name, &task.module.side) {
            ("debug", _) => self.debug(task, context, play),
            ("assert", _) => self.assert(task, context, play),
            ("fail", _) => self.fail(task, context, play),
            ("set_fact", _) => self.set_fact(task, context, play),
            ("include_vars", _) => self.include_vars(task, context, play),
            ("include_tasks", _) => self.include_tasks(task, context, play),
            ("include_role", _) => self.include_role(task, context, play),
            ("meta", _) => self.meta(task, context, play),
            ("template", _) => self.template(task, context, play, id),
            (_, Side::Machine(_)) => self.on_machine(task, context, play, id),
            (name, Side::Controller) => Err(Trouble::Failed(format!("`{name}` can't stand here"))),
        };
        ended.unwrap_or_else(|trouble| Ended::failed(self.judged(trouble)))
    }

    pub(super) fn parameters(
        &self,
        task: &Task,
        context: &Context,
        play: &PlayRun,
    ) -> Result<Map<String, Value>, Trouble> {
        match self.shared.render.node(&task.params, &self.scope(play, context)).map_err(|t| self.judged(t))? {
            Value::Object(mut map) => {
                render::leave_out_omitted(&mut map);
                Ok(map)
            }
            _ => Ok(Map::new()),
        }
    }

    fn debug(&mut self, task: &Task, context: &Context, play: &PlayRun) -> Result<Ended, Trouble> {
        let mut outcome = Outcome::default();
        if let Some(node) = task.params.get("var") {
            let text = node.as_str().unwrap_or_default();
            let value = self.shared.render.expression(text, node, &self.scope(play, context))?;
            outcome.result.insert("msg".into(), json!({ text: value }));
            return Ok(Ended::new(outcome));
        }
        let parameters = self.parameters(task, context, play)?;
        let level = parameters.get("verbosity").and_then(render::number).unwrap_or(0);
        if u64::from(self.shared.options.verbose) < level {
            return Ok(Ended::new(super::task::skipped()));
        }
        let message = parameters.get("msg").cloned().unwrap_or_else(|| "Hello world!".into());
        outcome.result.insert("msg".into(), message);
        Ok(Ended::new(outcome))
    }

    fn assert(&mut self, task: &Task, context: &Context, play: &PlayRun) -> Result<Ended, Trouble> {
        let scope = self.scope(play, context);
        let that = task.params.get("that");
        let conditions: &[Node] = match that {
            Some(node) => node.as_list().unwrap_or(std::slice::from_ref(node)),
            None => &[],
        };
        let say = |key: &str| -> Result<Option<String>, Trouble> {
            let node = task.params.get(key).or_else(|| task.params.get("msg").filter(|_| key == "fail_msg"));
            let value = node.map(|node| self.shared.render.node(node, &scope)).transpose()?;
            Ok(value.map(|value| render::strings(&value).join("\n")))
        };
        for condition in conditions {
            if !self.shared.render.condition(condition, &scope)? {
                let text = condition.as_str().unwrap_or("a condition");
                let place = condition.span.place();
                return Err(Trouble::Failed(match say("fail_msg")? {
                    Some(message) => format!("{message}\n({text} does not hold: {place})"),
                    None => format!("{text} does not hold ({place})"),
                }));
            }
        }
        let mut outcome = Outcome::default();
        if let Some(message) = say("success_msg")? {
            outcome.result.insert("msg".into(), message.into());
        }
        Ok(Ended::new(outcome))
    }

    fn fail(&mut self, task: &Task, context: &Context, play: &PlayRun) -> Result<Ended, Trouble> {
        let parameters = self.parameters(task, context, play)?;
        let message = parameters.get("msg").map(|value| render::strings(value).join("\n"));
        Err(Trouble::Failed(message.unwrap_or_else(|| "failed, as the task asks".into())))
    }

    fn set_fact(&mut self, task: &Task, context: &Context, play: &PlayRun) -> Result<Ended, Trouble> {
        let Some(map) = task.params.as_map() else { return Ok(Ended::new(Outcome::default())) };
        if map.iter().any(|(key, _)| self.awaits_result(&key.name)) {
            let flow = self.catch_up(play);
            if flow != Flow::Next {
                return Ok(Ended { silent: true, flow, ..Ended::new(Outcome::default()) });
            }
        }
        let mut facts = Vec::new();
        for (key, node) in map.iter().filter(|(key, _)| key.name != "cacheable") {
            let value = match self.shared.render.node(node, &self.scope(play, context)).map_err(|t| self.judged(t)) {
                Ok(value) => Var::fixed(value),
                Err(Trouble::Unknown(reason)) => Var::Unknown(reason),
                Err(trouble) => return Err(trouble),
            };
            facts.push((key.name.clone(), value));
        }
        let unknown: Vec<&str> =
            facts.iter().filter(|(_, v)| matches!(v, Var::Unknown(_))).map(|(name, _)| name.as_str()).collect();
        let mut outcome = Outcome::default();
        if !unknown.is_empty() {
            outcome.status = Status::Unknown;
            outcome.notes.push(format!("unknown until applied: {}", unknown.join(", ")));
        }
        self.vars.set.extend(facts);
        Ok(Ended::new(outcome))
    }

    fn include_vars(&mut self, task: &Task, context: &Context, play: &PlayRun) -> Result<Ended, Trouble> {
        let parameters = self.parameters(task, context, play)?;
        let text = |key: &str| parameters.get(key).and_then(Value::as_str);
        let find = |name: &str| task.origin.find("vars", name).map_err(|tried| not_found(name, &tried, task));
        let mut files = Vec::new();
        match (text("file"), text("dir")) {
            (Some(file), None) => files.push(find(file)?),
            (None, Some(dir)) => {
                let folder = find(dir)?;
                let entries = std::fs::read_dir(&folder)
                    .map_err(|e| Trouble::Failed(format!("can't read {}: {e}", folder.display())))?;
                files.extend(
                    entries
                        .flatten()
                        .map(|entry| entry.path())
                        .filter(|path| path.extension().is_some_and(|e| e == "yml" || e == "yaml" || e == "json")),
                );
                files.sort();
            }
            _ => return Err(Trouble::Failed("include_vars takes either `file` or `dir`".into())),
        }
        let mut all = Map::new();
        for file in files {
            all.extend(read_vars(&file, &self.shared.options.vault)?);
        }
        match text("name") {
            Some(name) => {
                self.vars.included.insert(name, Value::Object(all));
            }
            None => self.vars.included.extend(all),
        }
        Ok(Ended::new(Outcome::default()))
    }

    fn include_tasks(&mut self, task: &Task, context: &Context, play: &PlayRun) -> Result<Ended, Trouble> {
        let parameters = self.parameters(task, context, play)?;
        let name = parameters.get("file").and_then(Value::as_str).unwrap_or_default();
        let items = {
            let mut loader = self.shared.loader.lock().unwrap_or_else(|broken| broken.into_inner());
            loader.tasks_file(Path::new(name), task).map_err(all_of)?
        };
        let context = self.below(task, context)?;
        self.nested(|this| this.items(&items, &context, play))
    }

    fn include_role(&mut self, task: &Task, context: &Context, play: &PlayRun) -> Result<Ended, Trouble> {
        let parameters = self.parameters(task, context, play)?;
        let text = |key: &str| parameters.get(key).and_then(Value::as_str).map(str::to_string);
        let name = text("name").unwrap_or_default();
        let from = RoleFrom {
            tasks: text("tasks_from"),
            vars: text("vars_from"),
            defaults: text("defaults_from"),
            handlers: text("handlers_from"),
        };
        let role = {
            let mut loader = self.shared.loader.lock().unwrap_or_else(|broken| broken.into_inner());
            loader.role(&name, &from, task).map_err(all_of)?
        };
        let again = match parameters.get("allow_duplicates") {
            Some(Value::String(word)) => crate::yaml::truth(word).unwrap_or(true),
            other => other.and_then(Value::as_bool).unwrap_or(true),
        };
        let context = self.below(task, context)?;
        let use_ = Arc::new(RoleUse { role, common: Common::default(), span: task.span.clone(), again });
        for handler in &use_.role.handlers {
            if !self.handlers.iter().any(|(_, known)| Arc::ptr_eq(known, handler)) {
                self.handlers.push((Some(Arc::clone(&use_)), Arc::clone(handler)));
            }
        }
        self.nested(|this| this.role(&use_, &context, play))
    }

    /// What is handed down to included tasks: variables and loop items, and what `apply` says; an include's own
    /// conditions and tags decided about the include.
    fn below(&self, task: &Task, context: &Context) -> Result<Context, Trouble> {
        let mut below = context.clone();
        below.params.extend(context.common.vars.iter().cloned());
        below.common.when.clear();
        below.common.tags.clear();
        if let Some(apply) = task.params.get("apply") {
            let list = |key: &str| match apply.get(key) {
                Some(node) => node.as_list().map_or_else(|| vec![node.clone()], <[Node]>::to_vec),
                None => Vec::new(),
            };
            let inner = Common {
                when: list("when"),
                tags: list("tags").iter().filter_map(|node| node.as_str().map(str::to_string)).collect(),
                vars: apply.get("vars").and_then(Node::as_map).map(<[_]>::to_vec).unwrap_or_default(),
                become_: crate::playbook::Become {
                    become_: apply.get("become").cloned(),
                    user: apply.get("become_user").cloned(),
                },
                ignore_errors: apply.get("ignore_errors").cloned(),
                no_log: apply.get("no_log").cloned(),
                crowd: Default::default(),
            };
            below.common = inner.under(&below.common);
        }
        Ok(below)
    }

    fn nested(&mut self, inside: impl FnOnce(&mut Self) -> Flow) -> Result<Ended, Trouble> {
        if self.depth >= DEEPEST_INCLUDE {
            return Err(Trouble::Failed(format!("includes are nested more than {DEEPEST_INCLUDE} deep")));
        }
        self.depth += 1;
        let flow = inside(self);
        self.depth -= 1;
        Ok(Ended { silent: true, flow, ..Ended::new(Outcome::default()) })
    }

    fn meta(&mut self, task: &Task, context: &Context, play: &PlayRun) -> Result<Ended, Trouble> {
        let parameters = self.parameters(task, context, play)?;
        let action = parameters.values().next().and_then(Value::as_str).unwrap_or("noop");
        if matches!(action, "clear_facts" | "reset_connection") {
            let flow = self.catch_up(play);
            if flow != Flow::Next {
                return Ok(Ended { silent: true, flow, ..Ended::new(Outcome::default()) });
            }
        }
        let flow = match action {
            "flush_handlers" => {
                let outer = Context { common: play.play.common(), ..Context::default() };
                self.flush_handlers(play, &outer)
            }
            "end_play" | "end_host" => Flow::EndPlay,
            "end_role" => Flow::EndRole,
            "clear_facts" => {
                self.vars.facts.clear();
                Flow::Next
            }
            "reset_connection" => {
                self.link = None;
                Flow::Next
            }
            _ => Flow::Next,
        };
        Ok(Ended { silent: true, flow, ..Ended::new(Outcome::default()) })
    }

    fn template(&mut self, task: &Task, context: &Context, play: &PlayRun, id: &TaskId) -> Result<Ended, Trouble> {
        let mut parameters = self.parameters(task, context, play)?;
        let name = parameters.remove("src");
        let name = name.as_ref().and_then(Value::as_str).unwrap_or_default();
        let (content, secret) = self.rendered(name, task, context, play)?;
        add_name(&mut parameters, name);
        parameters.insert("content".into(), content.into());
        let mut ended = self.ask(context, play, id, "copy", parameters, task)?;
        hide_if(secret, &mut ended);
        Ok(ended)
    }

    /// What comes of a template of the controller, and whether it is a secret.
    fn rendered(&self, name: &str, task: &Task, context: &Context, play: &PlayRun) -> Result<(String, bool), Trouble> {
        let path = task.origin.find("templates", name).map_err(|tried| not_found(name, &tried, task))?;
        let text = std::fs::read_to_string(&path)
            .map_err(|e| Trouble::Failed(format!("can't read the template {}: {e}", path.display())))?;
        let opened = self.shared.options.vault.text(&path, text);
        let (text, secret) = opened.map_err(|error| Trouble::Failed(error.to_string()))?;
        let content = {
            let scope = self.scope(play, context);
            self.shared.render.templar.render_file(&text, &scope).map_err(|error| match error.unknown() {
                Some(reason) => Trouble::Unknown(reason.to_string()),
                None => {
                    let source = Source::new(path.display().to_string(), text.clone());
                    let span = crate::diag::Span::new(&source, 0, text.len());
                    self.judged(Trouble::Failed(error.diagnostic(&text, &span).to_string()))
                }
            })?
        };
        Ok((content, secret))
    }

    /// Parameters that only the controller can fill in: its files and templates, the host's name in the inventory.
    pub(super) fn fill_in(
        &self,
        task: &Task,
        context: &Context,
        play: &PlayRun,
        parameters: &mut Map<String, Value>,
    ) -> Result<bool, Trouble> {
        let mut secret = false;
        for (from, into) in task.module.files.iter().chain(task.module.templates) {
            let name = match parameters.remove(*from) {
                Some(Value::String(name)) => name,
                Some(Value::Null) | None => continue,
                Some(other) => {
                    let place = task.params.span.place();
                    let what = render::kind(&other);
                    return Err(Trouble::Failed(format!("`{from}` must be a path and is {what}: {place}")));
                }
            };
            if parameters.contains_key(*into) {
                let place = task.params.span.place();
                return Err(Trouble::Failed(format!("`{from}` gives `{into}`, which is given already: {place}")));
            }
            let (text, hidden) = if task.module.templates.iter().any(|(template, _)| template == from) {
                self.rendered(&name, task, context, play)?
            } else {
                let path = task.origin.find("files", &name).map_err(|tried| not_found(&name, &tried, task))?;
                let text = std::fs::read_to_string(&path)
                    .map_err(|e| Trouble::Failed(format!("can't read {}: {e}", path.display())))?;
                self.shared.options.vault.text(&path, text).map_err(|error| Trouble::Failed(error.to_string()))?
            };
            secret |= hidden;
            parameters.insert((*into).to_string(), text.into());
        }
        if let Some(parameter) = task.module.inventory_name
            && !parameters.contains_key(parameter)
        {
            parameters.insert(parameter.to_string(), self.name.clone().into());
        }
        Ok(secret)
    }

    fn on_machine(&mut self, task: &Task, context: &Context, play: &PlayRun, id: &TaskId) -> Result<Ended, Trouble> {
        let mut parameters = self.parameters(task, context, play)?;
        let remote = parameters.get("remote_src").and_then(render::truth).unwrap_or(false);
        let (mut file, mut secret) = (None, false);
        if task.module.name == "copy" && !remote && parameters.contains_key("src") {
            (file, secret) = self.copy_source(task, &mut parameters)?;
        }
        secret |= self.fill_in(task, context, play, &mut parameters)?;
        self.checked(task, &parameters)?;
        let mut ended = self.ask(context, play, id, task.module.name, parameters, task)?;
        if let Some(asked) = &mut ended.asked {
            asked.file = file;
        }
        hide_if(secret, &mut ended);
        Ok(ended)
    }

    /// Are finished parameters right? Secret ones are masked from here on.
    pub(super) fn checked(&self, task: &Task, parameters: &Map<String, Value>) -> Result<(), Trouble> {
        for secret in task.module.secret {
            if let Some(Value::String(text)) = parameters.get(*secret) {
                self.shared.sink.hide(text);
            }
        }
        (task.module.check)(Value::Object(parameters.clone())).map_err(|(path, why)| {
            let place = if path == "." { &task.params } else { task.params.near_path(&path) };
            let what = if path == "." { String::new() } else { format!("parameter `{path}`: ") };
            let message = format!("`{}`: {what}{why}", task.module.name);
            Trouble::Failed(Diagnostic::error(message).at(&place.span).to_string())
        })
    }

    /// A file of the controller goes along with the task; a large one only if the machine asks for it, by its hash.
    fn copy_source(
        &self,
        task: &Task,
        parameters: &mut Map<String, Value>,
    ) -> Result<(Option<(String, PathBuf)>, bool), Trouble> {
        let name = match parameters.remove("src") {
            Some(Value::String(name)) => name,
            other => {
                let what = other.as_ref().map_or("nothing", render::kind);
                return Err(Trouble::Failed(format!(
                    "`src` must be a path and is {what}: {}",
                    task.params.span.place()
                )));
            }
        };
        let path = task.origin.find("files", &name).map_err(|tried| not_found(&name, &tried, task))?;
        if path.is_dir() {
            let message = format!("`src` is a folder ({}); name a file, or loop over the files in it", path.display());
            return Err(Trouble::Failed(message));
        }
        let unreadable = |e| Trouble::Failed(format!("can't read {}: {e}", path.display()));
        add_name(parameters, &name);
        if std::fs::metadata(&path).map_err(unreadable)?.len() > LARGE && !vaulted(&path).map_err(unreadable)? {
            let sha256 = self.shared.hashes.of(&path).map_err(unreadable)?;
            parameters.insert("content_sha256".into(), sha256.clone().into());
            parameters.insert("src".into(), name.into());
            return Ok((Some((sha256, path)), false));
        }
        let bytes = std::fs::read(&path).map_err(unreadable)?;
        let opened = self.shared.options.vault.file(&path, bytes);
        let (bytes, secret) = opened.map_err(|error| Trouble::Failed(error.to_string()))?;
        match String::from_utf8(bytes) {
            Ok(text) => parameters.insert("content".into(), text.into()),
            Err(binary) => parameters.insert("content_base64".into(), STANDARD.encode(binary.as_bytes()).into()),
        };
        Ok((None, secret))
    }

    /// Asks an agent, as the user that the task wants.
    fn ask(
        &mut self,
        context: &Context,
        play: &PlayRun,
        id: &TaskId,
        module: &str,
        parameters: Map<String, Value>,
        task: &Task,
    ) -> Result<Ended, Trouble> {
        let local = self.reach.as_ref().is_some_and(|reach| reach.kind == ConnectionKind::Local);
        if module == "reboot" && local {
            let mut outcome = Outcome::default();
            let due = parameters.get("reasons").is_none_or(|reasons| !render::strings(reasons).is_empty());
            if due {
                outcome.notes.push(
                    "this program runs on the machine that should boot again: do that yourself, then run it once more"
                        .into(),
                );
            }
            return Ok(Ended::new(outcome));
        }
        let hidden = self.is_hidden(context, play);
        let request = protocol::Task {
            id: 0,
            chain: 0,
            user: self.user(context, play)?,
            module: module.to_string(),
            parameters: Value::Object(parameters),
            title: id.task.clone(),
            no_log: hidden,
            timeout: self.timeout(task, context, play)?,
            expect: None,
        };
        let asked = Some(Box::new(Asked { request, hidden, keep: true, file: None, away: None }));
        Ok(Ended { asked, ..Ended::new(Outcome::default()) })
    }

    pub(super) fn open_link(&self) -> Result<Link, Error> {
        self.open_link_to(self.reach.as_ref().ok_or_else(|| Error::failed("the host has no connection"))?)
    }

    /// The same, by a way that the inventory says otherwise.
    pub(super) fn open_link_to(&self, reach: &crate::inventory::Connection) -> Result<Link, Error> {
        let machine = Link::machine(reach, &self.inventory_folder)?;
        let hello = self.shared.hello(machine, self.shared.mode, super::link::is_remote(reach));
        Link::open(&self.name, reach, hello, &self.shared.ways)
    }

    fn timeout(&self, task: &Task, context: &Context, play: &PlayRun) -> Result<Option<u64>, Trouble> {
        let Some(node) = &task.timeout else { return Ok(None) };
        let value = self.shared.render.node(node, &self.scope(play, context))?;
        let seconds = render::number(&value);
        seconds
            .map(Some)
            .ok_or_else(|| Trouble::Failed(format!("`timeout` must be a number of seconds: {}", node.span.place())))
    }

    /// The way to the host's agent, which is started when it is first wanted.
    pub(super) fn link(&mut self) -> Result<&mut Link, Error> {
        if self.link.is_none() {
            self.link = Some(self.open_link()?);
        }
        self.link.as_mut().ok_or_else(|| Error::failed("the host has no connection"))
    }

    pub(super) fn keep_facts(&mut self, outcome: &Outcome) {
        let Some(Value::Object(facts)) = outcome.result.get("ansible_facts") else { return };
        let mut plain = Map::new();
        for (name, value) in facts {
            plain.insert(name.strip_prefix("ansible_").unwrap_or(name).to_string(), value.clone());
            self.vars.facts.insert(name.clone(), value.clone());
        }
        match self.vars.facts.get_mut("ansible_facts") {
            Some(Value::Object(known)) => known.extend(plain),
            _ => {
                self.vars.facts.insert("ansible_facts", Value::Object(plain));
            }
        }
    }

    pub(super) fn keep_pins(&self, pins: &BTreeMap<String, String>) {
        if let Err(error) = self.shared.lock.add(pins) {
            self.shared.sink.event(Event::Warning(format!("can't write the lock file: {error}")));
        }
    }

    /// The user that a task is done as; `None` is who the connection belongs to.
    fn user(&self, context: &Context, play: &PlayRun) -> Result<Option<Become>, Trouble> {
        let scope = self.scope(play, context);
        let reach = self.reach.as_ref();
        let wanted = match &context.common.become_.become_ {
            Some(node) => self.shared.render.truth(node, &scope)?,
            None => self.shared.options.become_ || reach.is_some_and(|reach| reach.become_),
        };
        if !wanted {
            return Ok(None);
        }
        let user = match &context.common.become_.user {
            Some(node) => render::strings(&self.shared.render.node(node, &scope)?).concat(),
            None => reach.and_then(|reach| reach.become_user.clone()).unwrap_or_else(|| "root".into()),
        };
        Ok(Some(super::link::become_user(reach, user, self.shared.options.become_password.as_ref())))
    }
}

/// What comes out of a vault is not shown.
fn hide_if(secret: bool, ended: &mut Ended) {
    if let Some(asked) = ended.asked.as_mut().filter(|_| secret) {
        asked.hidden = true;
        asked.request.no_log = true;
    }
}

/// Does the file hold what only a vault's password opens? Its first bytes tell.
fn vaulted(path: &Path) -> std::io::Result<bool> {
    let mut start = Vec::new();
    std::fs::File::open(path)?.take(64).read_to_end(&mut start)?;
    Ok(vault::is_vaulted(&start))
}

/// `dest: /etc/x/` means a file in that folder, called as the source is.
fn add_name(parameters: &mut Map<String, Value>, source: &str) {
    if let Some(Value::String(dest)) = parameters.get_mut("dest")
        && dest.ends_with('/')
    {
        let name = Path::new(source).file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        dest.push_str(name.strip_suffix(".j2").unwrap_or(&name));
    }
}

/// Variables from a YAML or JSON file.
pub(super) fn read_vars(path: &Path, vault: &Vault) -> Result<Map<String, Value>, Trouble> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Trouble::Failed(format!("can't read variables from {}: {e}", path.display())))?;
    let (text, secret) = vault.text(path, text).map_err(|error| Trouble::Failed(error.to_string()))?;
    let source = Source::new(path.display().to_string(), text);
    let node = yaml::parse_one(&source).map_err(|error| {
        let error = if secret { vault::discreet(error) } else { error };
        Trouble::Failed(error.to_string())
    })?;
    let value = node.to_json();
    if secret {
        vault.hide_values(&value);
    }
    match (&node.value, value) {
        (_, Value::Object(map)) => Ok(map),
        (NodeValue::Null, _) => Ok(Map::new()),
        _ => {
            let message = format!("a file of variables must hold a map, and this is {}", node.kind_name());
            Err(Trouble::Failed(Diagnostic::error(message).at(&node.span).to_string()))
        }
    }
}

pub(super) fn not_found(name: &str, tried: &[std::path::PathBuf], task: &Task) -> Trouble {
    let tried: Vec<String> = tried.iter().map(|path| path.display().to_string()).collect();
    let error = Diagnostic::error(format!("there is no file `{name}`")).at(&task.params.span);
    Trouble::Failed(error.help(format!("looked for {}", tried.join(", "))).to_string())
}

pub(super) fn all_of(errors: Vec<Diagnostic>) -> Trouble {
    Trouble::Failed(errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}
