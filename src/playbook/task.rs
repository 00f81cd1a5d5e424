//! Tasks and blocks.

use std::sync::Arc;

use super::keys::{self, Keys};
use super::load::Loader;
use super::model::{Become, Block, Common, Crowd, Item, LoopControl, Origin, Task};
use super::parameters;
use crate::diag::{Diagnostic, Span, nearest};
use crate::modules;
use crate::yaml::{Key, Node, NodeValue};

/// How deep blocks and imports may be nested in each other.
const MAX_DEPTH: usize = 64;
/// How many tasks a site may have; imports that double at each level stop here.
const MAX_TASKS: usize = 100_000;

const TASK: Keys = Keys {
    what: "a task",
    known: &[
        "name",
        "when",
        "loop",
        "loop_control",
        "register",
        "notify",
        "listen",
        "tags",
        "vars",
        "args",
        "changed_when",
        "failed_when",
        "ignore_errors",
        "until",
        "retries",
        "timeout",
        "delay",
        "become",
        "become_user",
        "no_log",
        "throttle",
        "run_once",
        "delegate_to",
        "delegate_facts",
        "any_errors_fatal",
        "ignore_unreachable",
    ],
    later: &[
        ("action", "write the module's name as the key: `copy: …`"),
        ("local_action", ""),
        ("environment", ""),
        ("async", ""),
        ("poll", ""),
        ("check_mode", ""),
        ("diff", ""),
        ("connection", "set `ansible_connection` in the inventory"),
        ("port", "set `ansible_port` in the inventory"),
        ("remote_user", "set `ansible_user` in the inventory"),
        ("become_method", "set `ansible_become_method` in the inventory"),
        ("become_flags", ""),
        ("become_exe", ""),
        ("module_defaults", ""),
        ("collections", "leave it out: modules are found by their short names"),
        ("debugger", ""),
    ],
};

const BLOCK: Keys = Keys {
    what: "a block",
    known: &[
        "name",
        "block",
        "rescue",
        "always",
        "when",
        "tags",
        "vars",
        "become",
        "become_user",
        "ignore_errors",
        "no_log",
        "throttle",
        "run_once",
        "delegate_to",
        "delegate_facts",
        "any_errors_fatal",
        "ignore_unreachable",
    ],
    later: &[
        ("loop", "put the tasks in a file and loop over `include_tasks`"),
        ("register", "put it in the tasks"),
        ("notify", "put it in the tasks"),
        ("environment", ""),
        ("check_mode", ""),
        ("become_method", "set `ansible_become_method` in the inventory"),
        ("connection", "set `ansible_connection` in the inventory"),
        ("remote_user", "set `ansible_user` in the inventory"),
        ("module_defaults", ""),
        ("collections", "leave it out: modules are found by their short names"),
    ],
};

const LOOP_CONTROL: Keys = Keys {
    what: "loop_control",
    known: &["label", "index_var", "loop_var"],
    later: &[("pause", ""), ("extended", ""), ("extended_allitems", ""), ("break_when", "")],
};

/// What an `import_*` can have besides its parameters: it is gone before anything could be registered or retried.
const BESIDE_IMPORT: [&str; 15] = [
    "name",
    "when",
    "tags",
    "vars",
    "args",
    "become",
    "become_user",
    "ignore_errors",
    "no_log",
    "throttle",
    "run_once",
    "delegate_to",
    "delegate_facts",
    "any_errors_fatal",
    "ignore_unreachable",
];

impl Loader {
    /// The tasks of a list.
    pub(super) fn items(&mut self, what: &str, node: &Node, origin: &Arc<Origin>, handlers: bool) -> Vec<Item> {
        let nodes = keys::list(what, node, &mut self.errors);
        if self.depth >= MAX_DEPTH {
            self.errors.push(
                Diagnostic::error(format!("blocks and imports are nested deeper than {MAX_DEPTH} levels"))
                    .at(&node.span),
            );
            return Vec::new();
        }
        self.depth += 1;
        let items = nodes.iter().filter_map(|node| self.item(node, origin, handlers)).collect();
        self.depth -= 1;
        items
    }

    fn item(&mut self, node: &Node, origin: &Arc<Origin>, handlers: bool) -> Option<Item> {
        self.tasks += 1;
        if self.tasks > MAX_TASKS {
            if self.tasks == MAX_TASKS + 1 {
                self.errors.push(Diagnostic::error(format!("more than {MAX_TASKS} tasks")).at(&node.span));
            }
            return None;
        }
        let entries = keys::plain_map(node, "a task", &mut self.errors)?;
        if ["block", "rescue", "always"].iter().any(|key| node.get(key).is_some()) {
            return self.block(node, origin, handlers);
        }
        let (key, value, module) = self.module(node, entries)?;
        let before = self.errors.len();
        let params = parameters::gather(module, key, value, node.get("args"), &mut self.errors);
        let readable = self.errors.len() == before;
        if module.name == "import_playbook" {
            self.errors
                .push(Diagnostic::error("`import_playbook` stands among the plays, not among the tasks").at(&key.span));
            return None;
        }
        // What could not be read can't be missed either.
        if readable {
            parameters::check(module, &params, &key.span, &mut self.errors);
        }
        if module.name == "set_fact" {
            let facts = params.as_map().unwrap_or_default().iter();
            let bad = facts.filter(|(key, _)| !key.name.contains("{{") && !super::is_identifier(&key.name));
            self.errors.extend(bad.map(|(key, _)| keys::no_variable(&key.name, &key.span)));
        }
        if module.name == "assert"
            && let Some(that) = params.get("that")
        {
            keys::conditions("`that`", that, &mut self.errors, &mut self.warnings);
        }
        let good = self.errors.len() == before;
        if module.name.starts_with("import_") {
            for (key, _) in entries {
                if TASK.has(&key.name) && !BESIDE_IMPORT.contains(&key.name.as_str()) {
                    let include = module.name.replace("import", "include");
                    self.errors.push(
                        Diagnostic::error(format!("`{}` means nothing with `{}`", key.name, module.name))
                            .at(&key.span)
                            .help(format!("an import is gone before the run; use `{include}`")),
                    );
                }
            }
            let common = self.common(node);
            return if good { self.import(module.name, node, &params, common, origin, handlers) } else { None };
        }
        Some(Item::Task(Arc::new(self.task(node, module, params, origin, handlers))))
    }

    /// The one module of a task.
    fn module<'a>(
        &mut self,
        node: &Node,
        entries: &'a [(Key, Node)],
    ) -> Option<(&'a Key, &'a Node, &'static modules::Entry)> {
        let mut found: Option<(&Key, &Node, &'static modules::Entry)> = None;
        let mut unknown = Vec::new();
        let mut later = false;
        for (key, value) in entries {
            if TASK.has(&key.name) {
                later |= matches!(key.name.as_str(), "action" | "local_action");
                self.errors.extend(TASK.problem(key));
            } else if let Some(module) = modules::find(&key.name) {
                match found {
                    None => found = Some((key, value, module)),
                    Some((first, ..)) => self.errors.push(
                        Diagnostic::error(format!("two modules in one task: `{}` and `{}`", first.name, key.name))
                            .at(&key.span)
                            .help("each task has one module; begin the second task with `- `"),
                    ),
                }
            } else if key.name.starts_with("with_") {
                self.errors.push(
                    Diagnostic::error(format!("`{}` in a task is not supported", key.name))
                        .at(&key.span)
                        .help("write `loop:` with a list or a template"),
                );
            } else {
                unknown.push(key);
            }
        }
        let missing = found.is_none() && !later;
        // Without a module, the unknown key that is not simply a misspelt `when` is the module.
        let mut module_seen = false;
        for key in &unknown {
            let of_task = nearest(&key.name, TASK.known.iter().copied());
            let short = key.name.rsplit('.').next().unwrap_or(&key.name);
            let of_module = nearest(short, modules::names());
            if missing && !module_seen && (of_task.is_none() || of_module.is_some() || unknown.len() == 1) {
                module_seen = true;
                let error = Diagnostic::error(format!("unknown module `{}`", key.name)).at(&key.span);
                self.errors.push(match (of_module, of_task) {
                    (Some(near), _) | (None, Some(near)) => error.help(format!("did you mean `{near}`?")),
                    (None, None) => error,
                });
            } else {
                self.errors.extend(TASK.problem(key));
            }
        }
        if missing && !module_seen {
            self.errors.push(
                Diagnostic::error("this task has no module")
                    .at(&first_line(node))
                    .help("a task names what to do, such as `copy:` with its parameters"),
            );
        }
        found
    }

    /// What tasks, blocks and uses of roles have in common.
    pub(super) fn common(&mut self, node: &Node) -> Common {
        let errors = &mut self.errors;
        let mut common = Common::default();
        for (key, value) in node.as_map().unwrap_or_default() {
            match key.name.as_str() {
                "when" => common.when = keys::conditions("`when`", value, errors, &mut self.warnings),
                "tags" => common.tags = keys::tags(value, errors),
                "vars" => common.vars = keys::vars("`vars`", value, errors),
                "ignore_errors" => common.ignore_errors = keys::truth("`ignore_errors`", value, errors),
                "no_log" => common.no_log = keys::truth("`no_log`", value, errors),
                _ => {}
            }
        }
        common.become_ = self.become_(node);
        common.crowd = self.crowd(node);
        common
    }

    /// `run_once`, `throttle`, `delegate_to` and their like.
    pub(super) fn crowd(&mut self, node: &Node) -> Crowd {
        let errors = &mut self.errors;
        let mut truth = |key: &str| node.get(key).and_then(|value| keys::truth(&format!("`{key}`"), value, errors));
        Crowd {
            run_once: truth("run_once"),
            delegate_facts: truth("delegate_facts"),
            any_errors_fatal: truth("any_errors_fatal"),
            ignore_unreachable: truth("ignore_unreachable"),
            throttle: node.get("throttle").and_then(|value| keys::number("`throttle`", value, errors)),
            delegate_to: node.get("delegate_to").and_then(|value| keys::title("`delegate_to`", value, errors)),
        }
    }

    /// `become` and `become_user`.
    pub(super) fn become_(&mut self, node: &Node) -> Become {
        Become {
            become_: node.get("become").and_then(|value| keys::truth("`become`", value, &mut self.errors)),
            user: node.get("become_user").and_then(|value| keys::title("`become_user`", value, &mut self.errors)),
        }
    }

    fn block(&mut self, node: &Node, origin: &Arc<Origin>, handlers: bool) -> Option<Item> {
        if handlers {
            self.errors
                .push(Diagnostic::error("blocks among the handlers are not supported yet").at(&first_line(node)));
            return None;
        }
        let entries = keys::plain_map(node, "a block", &mut self.errors)?;
        for (key, _) in entries {
            match modules::find(&key.name) {
                Some(module) if !BLOCK.has(&key.name) => self.errors.push(
                    Diagnostic::error(format!("a block can't have a module (`{}`) too", module.name))
                        .at(&key.span)
                        .help("make it a task of the block"),
                ),
                _ => self.errors.extend(BLOCK.problem(key)),
            }
        }
        if node.get("block").is_none() {
            let part = if node.get("rescue").is_some() { "rescue" } else { "always" };
            self.errors.push(Diagnostic::error(format!("`{part}` without a `block`")).at(&first_line(node)));
        }
        let name = node.get("name").and_then(|name| keys::title("`name`", name, &mut self.errors));
        let common = self.common(node);
        let mut part = |key: &str| match node.get(key) {
            Some(items) => self.items(&format!("`{key}`"), items, origin, false),
            None => Vec::new(),
        };
        let (block, rescue, always) = (part("block"), part("rescue"), part("always"));
        Some(Item::Block(Arc::new(Block { name, block, rescue, always, common, span: node.span.clone() })))
    }

    fn task(
        &mut self,
        node: &Node,
        module: &'static modules::Entry,
        params: Node,
        origin: &Arc<Origin>,
        handler: bool,
    ) -> Task {
        let common = self.common(node);
        let mut task = Task {
            name: None,
            module,
            params,
            common,
            loop_: None,
            loop_control: LoopControl::default(),
            register: None,
            notify: Vec::new(),
            listen: Vec::new(),
            changed_when: Vec::new(),
            failed_when: Vec::new(),
            until: Vec::new(),
            timeout: None,
            retries: None,
            delay: None,
            span: first_line(node),
            origin: Arc::clone(origin),
        };
        let (errors, warnings) = (&mut self.errors, &mut self.warnings);
        for (key, value) in node.as_map().unwrap_or_default() {
            match key.name.as_str() {
                "name" => task.name = keys::title("`name`", value, errors),
                "loop" => match &value.value {
                    NodeValue::List(_) => task.loop_ = Some(value.clone()),
                    NodeValue::String(_) if value.is_templated() => task.loop_ = Some(value.clone()),
                    _ => errors.push(
                        keys::kind("`loop`", "a list or a template of one", value)
                            .help("a variable is written as \"{{ name }}\""),
                    ),
                },
                "loop_control" => task.loop_control = loop_control(value, errors),
                "register" => task.register = keys::variable("`register`", value, errors),
                "notify" => task.notify = keys::texts("`notify`", value, errors),
                "listen" if handler => task.listen = keys::texts("`listen`", value, errors),
                "listen" => errors.push(
                    Diagnostic::error("only handlers listen")
                        .at(&key.span)
                        .help("move the task to `handlers`, or use `notify`"),
                ),
                "changed_when" => task.changed_when = keys::conditions("`changed_when`", value, errors, warnings),
                "failed_when" => task.failed_when = keys::conditions("`failed_when`", value, errors, warnings),
                "until" => task.until = keys::conditions("`until`", value, errors, warnings),
                "timeout" => task.timeout = keys::number("`timeout`", value, errors),
                "retries" => task.retries = keys::number("`retries`", value, errors),
                "delay" => task.delay = keys::number("`delay`", value, errors),
                _ => {}
            }
        }
        if task.loop_.is_none()
            && let Some(control) = node.get("loop_control")
        {
            errors.push(Diagnostic::error("`loop_control` without a `loop`").at(&control.span));
        }
        task
    }
}

fn loop_control(node: &Node, errors: &mut keys::Errors) -> LoopControl {
    let mut control = LoopControl::default();
    for (key, value) in keys::map(node, &LOOP_CONTROL, errors).unwrap_or_default() {
        match key.name.as_str() {
            "label" => control.label = keys::title("`label`", value, errors),
            "index_var" => control.index_var = keys::variable("`index_var`", value, errors).map(|v| v.value),
            "loop_var" => control.loop_var = keys::variable("`loop_var`", value, errors).map(|v| v.value),
            _ => {}
        }
    }
    control
}

/// The first line of a map, which is where a person looks for a task.
fn first_line(node: &Node) -> Span {
    let text = node.span.source.text.get(node.span.start..node.span.end).unwrap_or_default();
    let line = text.split('\n').next().unwrap_or_default().trim_end();
    Span::new(&node.span.source, node.span.start, node.span.start + line.len())
}
