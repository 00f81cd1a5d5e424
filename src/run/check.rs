//! Variables that no host, play or role defines, found before any host is touched.

use std::collections::HashSet;
use std::ops::Range;

use indexmap::IndexMap;

use super::render::Render;
use super::vars::Stored;
use super::{HostPlan, PlayRun};
use crate::diag::{Diagnostic, nearest};
use crate::playbook::{Common, Task};
use crate::template::TemplateError;
use crate::yaml::{Node, NodeValue};

/// Names that the program itself sets while it runs.
const OURS: &[&str] = &[
    "vfio_provision_reboot_reasons",
    "hostvars",
    "groups",
    "group_names",
    "inventory_hostname",
    "inventory_hostname_short",
    "inventory_dir",
    "inventory_file",
    "playbook_dir",
    "role_path",
    "role_name",
    "omit",
    "play_hosts",
    "environment",
    "lookup",
    "query",
    "q",
    "range",
    "now",
    "undef",
    "vars",
    "result",
];

/// One error for every use of a variable that is defined nowhere for some host of the play.
pub(super) fn undefined_variables(
    plays: &[PlayRun],
    hosts: &IndexMap<String, HostPlan>,
    extra_vars: &Stored,
    render: &Render,
) -> Vec<Diagnostic> {
    let mut errors = Vec::new();
    // What any task of any play sets is taken as set everywhere: whether it ran can't be known here.
    let mut set_by_tasks: HashSet<String> = HashSet::new();
    let mut unknowable = false;
    for run in plays {
        let mut see = |task: &Task| {
            set_by_tasks.extend(task.register.iter().map(|name| name.value.clone()));
            set_by_tasks.extend(task.loop_control.index_var.clone());
            set_by_tasks.insert(task.loop_control.loop_var.clone().unwrap_or_else(|| "item".into()));
            match task.module.name {
                "set_fact" => set_by_tasks.extend(keys(&task.params)),
                "include_vars" | "include_role" | "include_tasks" => unknowable = true,
                _ => {}
            }
        };
        run.play.visit(&mut |visit| see(visit.task));
        run.play.all_handlers().iter().for_each(|(_, handler)| see(handler));
        unknowable |= !run.play.vars_files.is_empty();
    }
    if unknowable {
        // Files read during the run may define anything; what is missing is found when it is used.
        return errors;
    }
    for run in plays {
        let mut known: HashSet<String> = set_by_tasks.clone();
        known.extend(OURS.iter().map(|name| name.to_string()));
        known.extend(extra_vars.keys().cloned());
        known.extend(run.play.vars.iter().map(|(key, _)| key.name.clone()));
        for use_ in &run.roles {
            let head = &use_.role.head;
            known.extend(head.defaults.iter().chain(&head.vars).map(|(key, _)| key.name.clone()));
            known.extend(use_.common.vars.iter().map(|(key, _)| key.name.clone()));
            if let Some(spec) = &head.argument_spec {
                // An option that is not given is the spec's to complain about, with a better message.
                known.extend(spec.options.iter().map(|(name, _)| name.clone()));
            }
        }
        let mut uses = Uses { render, found: Vec::new(), broken: Vec::new(), seen: HashSet::new() };
        uses.vars(&run.play.vars);
        for use_ in &run.roles {
            uses.vars(&use_.role.head.vars);
        }
        run.play.visit(&mut |visit| uses.task(visit.task, &visit.common));
        for (_, handler) in run.play.all_handlers() {
            uses.task(&handler, &handler.common);
        }
        errors.append(&mut uses.broken);
        for Use { name, range, node, local } in uses.found {
            if known.contains(&name) || local.contains(&name) || name.starts_with("ansible_") {
                continue;
            }
            let lacking =
                run.hosts.iter().find(|host| hosts.get(*host).is_some_and(|plan| !plan.names.contains(&name)));
            let Some(host) = lacking else { continue };
            let everybody_lacks =
                !run.hosts.iter().any(|host| hosts.get(host).is_some_and(|plan| plan.names.contains(&name)));
            let message = if everybody_lacks {
                format!("`{name}` is undefined")
            } else {
                format!("`{name}` is undefined for the host `{host}`")
            };
            let mut names: Vec<&str> = known.iter().map(String::as_str).collect();
            if let Some(plan) = hosts.get(host) {
                names.extend(plan.names.iter().map(String::as_str));
            }
            names.sort_unstable();
            let nearest = nearest(&name, names).map(str::to_string);
            let text = node.as_str().unwrap_or_default();
            let mut error =
                TemplateError::Undefined { name, nearest, offset: Some(range) }.diagnostic(text, &node.span);
            error.message = message;
            if !errors.contains(&error) {
                errors.push(error);
            }
        }
    }
    errors
}

fn keys(node: &Node) -> Vec<String> {
    node.as_map().unwrap_or_default().iter().map(|(key, _)| key.name.clone()).collect()
}

/// A name that a template needs, its place, and the names that are defined right there.
struct Use {
    name: String,
    range: Range<usize>,
    node: Node,
    local: HashSet<String>,
}

/// All names that templates need, and templates that can't be read.
struct Uses<'a> {
    render: &'a Render,
    found: Vec<Use>,
    broken: Vec<Diagnostic>,
    seen: HashSet<(String, usize, usize)>,
}

impl Uses<'_> {
    fn task(&mut self, task: &Task, common: &Common) {
        let local: HashSet<String> = common.vars.iter().map(|(key, _)| key.name.clone()).collect();
        // What a false condition spares is never rendered: a name that the conditions ask about is theirs to guard.
        let mut guarded = local;
        for condition in &common.when {
            if let Some(text) = condition.as_str() {
                guarded.extend(asked_about(text));
            }
        }
        for (_, node) in &common.vars {
            self.template(node, &guarded);
        }
        common.when.iter().for_each(|node| self.expression(node, &guarded));
        match task.module.name {
            "assert" => {
                let that = task.params.get("that");
                let list = that.map(|node| node.as_list().unwrap_or(std::slice::from_ref(node))).unwrap_or_default();
                list.iter().for_each(|node| self.expression(node, &guarded));
            }
            "debug" => {
                if let Some(node) = task.params.get("var") {
                    self.expression(node, &guarded);
                }
                if let Some(node) = task.params.get("msg") {
                    self.template(node, &guarded);
                }
            }
            _ => self.template(&task.params, &guarded),
        }
        common.crowd.nodes().for_each(|node| self.template(node, &guarded));
        let others = task.loop_.iter().chain(&task.notify).chain(&task.loop_control.label);
        others.chain(&task.name).for_each(|node| self.template(node, &guarded));
    }

    fn vars(&mut self, vars: &[(crate::yaml::Key, Node)]) {
        for (_, node) in vars {
            self.template(node, &HashSet::new());
        }
    }

    fn template(&mut self, node: &Node, local: &HashSet<String>) {
        match &node.value {
            NodeValue::String(text) => self.add(text, false, node, local),
            NodeValue::List(list) => list.iter().for_each(|one| self.template(one, local)),
            NodeValue::Map(map) => map.iter().for_each(|(_, one)| self.template(one, local)),
            _ => {}
        }
    }

    fn expression(&mut self, node: &Node, local: &HashSet<String>) {
        if let NodeValue::String(text) = &node.value {
            self.add(text, true, node, local);
        }
    }

    fn add(&mut self, text: &str, expression: bool, node: &Node, local: &HashSet<String>) {
        let templar = &self.render.templar;
        let used = match expression {
            true => templar.free_variables_of_expression(text),
            false => templar.free_variables(text),
        };
        let used = match used {
            Ok(used) => used,
            Err(error) => {
                let error = error.diagnostic(text, &node.span);
                if !self.broken.contains(&error) {
                    self.broken.push(error);
                }
                return;
            }
        };
        for used in used.into_iter().filter(|used| used.needed) {
            if self.seen.insert((used.name.clone(), node.span.start, node.span.end)) {
                self.found.push(Use { name: used.name, range: used.range, node: node.clone(), local: local.clone() });
            }
        }
    }
}

/// Names that a condition tests with `is defined` and the like.
fn asked_about(condition: &str) -> Vec<String> {
    let words: Vec<&str> =
        condition.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')).filter(|w| !w.is_empty()).collect();
    words
        .windows(2)
        .enumerate()
        .filter(|(at, pair)| {
            pair[1] == "is" && words.iter().skip(at + 2).take(2).any(|word| *word == "defined" || *word == "undefined")
        })
        .map(|(_, pair)| pair[0].split('.').next().unwrap_or_default().to_string())
        .collect()
}
