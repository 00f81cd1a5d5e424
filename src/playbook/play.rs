//! Playbooks and plays.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::keys::{self, Keys};
use super::load::Loader;
use super::model::{Common, Item, Order, Origin, Play, Rollout, Task};
use crate::diag::{Diagnostic, Span};
use crate::yaml::{Node, NodeValue, Spanned};

const PLAY: Keys = Keys {
    what: "a play",
    known: &[
        "name",
        "hosts",
        "vars",
        "vars_files",
        "roles",
        "pre_tasks",
        "tasks",
        "post_tasks",
        "handlers",
        "become",
        "become_user",
        "gather_facts",
        "tags",
        "serial",
        "max_fail_percentage",
        "order",
        "any_errors_fatal",
        "ignore_unreachable",
        "run_once",
        "throttle",
    ],
    later: &[
        ("strategy", ""),
        ("ignore_errors", "put it in the tasks"),
        ("force_handlers", ""),
        ("environment", ""),
        ("vars_prompt", "give the value by `-e name=value`"),
        ("module_defaults", ""),
        ("check_mode", ""),
        ("diff", ""),
        ("no_log", "put it in the tasks"),
        ("timeout", ""),
        ("gather_subset", "use `gather_facts: false` and a `setup` task"),
        ("gather_timeout", "use `gather_facts: false` and a `setup` task"),
        ("fact_path", "use `gather_facts: false` and a `setup` task"),
        ("connection", "set `ansible_connection` in the inventory"),
        ("port", "set `ansible_port` in the inventory"),
        ("remote_user", "set `ansible_user` in the inventory"),
        ("become_method", "set `ansible_become_method` in the inventory"),
        ("become_flags", ""),
        ("become_exe", ""),
        ("collections", "leave it out: modules are found by their short names"),
        ("debugger", ""),
        ("when", "put it in the tasks"),
    ],
};

const IMPORT: Keys = Keys {
    what: "an import of a playbook",
    known: &["import_playbook", "ansible.builtin.import_playbook", "name", "when", "tags", "vars"],
    later: &[],
};

impl Loader {
    /// The plays of a playbook, under what an `import_playbook` hands down.
    pub(super) fn playbook(&mut self, path: &Path, at: Option<&Span>, outer: &Common) -> Vec<Play> {
        if !self.enter("playbook", path, &path.display().to_string(), at) {
            return Vec::new();
        }
        let mut plays = Vec::new();
        if let Some(node) = self.yaml(path, at) {
            let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
            match &node.value {
                NodeValue::Null => self.errors.push(
                    Diagnostic::error(format!("the playbook {} is empty", path.display()))
                        .help("a playbook is a list of plays: `- hosts: …`"),
                ),
                NodeValue::List(nodes) => {
                    for node in nodes {
                        self.play_or_import(node, &folder, outer, &mut plays);
                    }
                }
                _ => self.errors.push(
                    keys::kind("a playbook", "a list of plays", &node).help("begin each play with `- `: `- hosts: …`"),
                ),
            }
        }
        self.leave();
        plays
    }

    fn play_or_import(&mut self, node: &Node, folder: &Path, outer: &Common, plays: &mut Vec<Play>) {
        let import = node.get("import_playbook").or_else(|| node.get("ansible.builtin.import_playbook"));
        let Some(file) = import else {
            plays.extend(self.play(node, folder, outer));
            return;
        };
        let _ = keys::map(node, &IMPORT, &mut self.errors);
        let common = self.common(node).under(outer);
        if let Some(file) = self.fixed_name("import_playbook", file) {
            let path = super::load::tidy(&folder.join(&file.value));
            plays.extend(self.playbook(&path, Some(&file.span), &common));
        }
    }

    fn play(&mut self, node: &Node, folder: &Path, outer: &Common) -> Option<Play> {
        let entries = keys::map(node, &PLAY, &mut self.errors)?;
        let origin =
            Arc::new(Origin { folder: folder.to_path_buf(), playbook_folder: folder.to_path_buf(), role: None });
        let mut play = Play {
            name: None,
            hosts: Spanned::new(String::new(), &node.span),
            vars: Vec::new(),
            vars_files: Vec::new(),
            pre_tasks: Vec::new(),
            roles: Vec::new(),
            tasks: Vec::new(),
            post_tasks: Vec::new(),
            handlers: Vec::new(),
            become_: self.become_(node),
            gather_facts: None,
            tags: outer.tags.clone(),
            when: outer.when.clone(),
            rollout: self.rollout(node),
            crowd: self.crowd(node),
            span: node.span.clone(),
            origin: Arc::clone(&origin),
        };
        if node.get("hosts").is_none() {
            let at = entries.first().map_or(&node.span, |(key, _)| &key.span);
            self.errors.push(
                Diagnostic::error("a play needs `hosts`").at(at).help("name hosts or groups, such as `hosts: all`"),
            );
        }
        for (key, value) in entries {
            match key.name.as_str() {
                "name" => play.name = keys::title("`name`", value, &mut self.errors),
                "hosts" => {
                    let patterns = keys::texts("`hosts`", value, &mut self.errors);
                    if patterns.is_empty() {
                        self.errors.push(Diagnostic::error("`hosts` names no host").at(&value.span));
                    }
                    let patterns: Vec<&str> = patterns.iter().filter_map(Node::as_str).collect();
                    play.hosts = Spanned::new(patterns.join(","), &value.span);
                }
                "vars" => play.vars = keys::vars("`vars`", value, &mut self.errors),
                "vars_files" => play.vars_files = self.vars_files(value, &origin),
                "gather_facts" => play.gather_facts = keys::truth("`gather_facts`", value, &mut self.errors),
                "tags" => {
                    let tags = keys::tags(value, &mut self.errors);
                    play.tags.extend(tags.into_iter().filter(|tag| !outer.tags.contains(tag)));
                }
                "roles" => play.roles = self.role_uses("`roles`", value, &origin),
                "pre_tasks" => play.pre_tasks = self.items("`pre_tasks`", value, &origin, false),
                "tasks" => play.tasks = self.items("`tasks`", value, &origin, false),
                "post_tasks" => play.post_tasks = self.items("`post_tasks`", value, &origin, false),
                "handlers" => play.handlers = self.handlers(value, &origin),
                _ => {}
            }
        }
        play.vars.extend(outer.vars.iter().cloned());
        Some(play)
    }

    /// `serial`, `max_fail_percentage` and `order`.
    fn rollout(&mut self, node: &Node) -> Rollout {
        let errors = &mut self.errors;
        let mut rollout = Rollout::default();
        if let Some(value) = node.get("serial") {
            let sizes = match &value.value {
                NodeValue::List(sizes) => sizes.as_slice(),
                NodeValue::Null => &[],
                _ => std::slice::from_ref(value),
            };
            rollout.serial = sizes.iter().filter_map(|size| keys::share("`serial`", size, errors)).collect();
        }
        if let Some(value) = node.get("max_fail_percentage") {
            rollout.max_fail_percentage = keys::share("`max_fail_percentage`", value, errors);
        }
        if let Some(value) = node.get("order")
            && let Some(order) = keys::text("`order`", value, errors)
        {
            match Order::NAMES.iter().find(|(name, _)| *name == order.value) {
                Some((_, known)) => rollout.order = *known,
                None => errors.push(
                    Diagnostic::error(format!("there is no order `{}`", order.value))
                        .at(&order.span)
                        .nearest(&order.value, Order::NAMES.iter().map(|(name, _)| *name)),
                ),
            }
        }
        rollout
    }

    /// Handlers, with imports resolved and what they hand down written into each.
    pub(super) fn handlers(&mut self, node: &Node, origin: &Arc<Origin>) -> Vec<Arc<Task>> {
        fn flatten(items: Vec<Item>, outer: &Common, flat: &mut Vec<Arc<Task>>) {
            for item in items {
                match item {
                    Item::Task(task) => {
                        flat.push(Arc::new(Task { common: task.common.under(outer), ..(*task).clone() }));
                    }
                    Item::Block(block) => flatten(block.block.clone(), &block.common.under(outer), flat),
                    Item::Role(_) => {}
                }
            }
        }
        let before = self.errors.len();
        let items = self.items("`handlers`", node, origin, true);
        let readable = self.errors.len() == before;
        let mut flat = Vec::new();
        flatten(items, &Common::default(), &mut flat);
        for handler in flat.iter().filter(|_| readable) {
            if handler.name.is_none() && handler.listen.is_empty() {
                self.errors
                    .push(Diagnostic::error("a handler needs a `name`, or nobody can notify it").at(&handler.span));
            }
        }
        flat
    }

    /// `vars_files`: those whose names are known must be there and readable.
    fn vars_files(&mut self, node: &Node, origin: &Arc<Origin>) -> Vec<Node> {
        let nodes = match &node.value {
            NodeValue::String(_) => std::slice::from_ref(node),
            _ => keys::list("`vars_files`", node, &mut self.errors),
        };
        for node in nodes {
            let alternatives = keys::texts("an entry of `vars_files`", node, &mut self.errors);
            if alternatives.iter().any(Node::is_templated) {
                continue;
            }
            let mut tried: Vec<PathBuf> = Vec::new();
            let mut found = None;
            for name in alternatives.iter().filter_map(Node::as_str) {
                match origin.find("vars", name) {
                    Ok(path) => {
                        found = Some(path);
                        break;
                    }
                    Err(places) => tried.extend(places),
                }
            }
            match found {
                Some(path) => {
                    self.vars_of(&path, Some(&node.span));
                }
                None => self.errors.push(super::load::not_found("the file of variables", &node.span, &tried)),
            }
        }
        nodes.to_vec()
    }
}
