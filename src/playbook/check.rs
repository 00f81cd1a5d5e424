//! What is checked when a play is whole: what it includes under fixed names, and whether handlers exist.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::load::{Loader, not_found};
use super::model::{Item, Play, Role, Task};
use super::role::RoleFrom;
use crate::diag::{Diagnostic, Source, nearest};
use crate::yaml::{Node, Spanned};

/// Reads ahead what the play includes under fixed names, and checks all notifications.
pub(super) fn ahead(loader: &mut Loader, play: &Play) {
    let mut found = Found::default();
    for items in [&play.pre_tasks, &play.tasks, &play.post_tasks] {
        found.items(items);
    }
    play.handlers.iter().for_each(|handler| found.handler(handler));
    play.roles.iter().for_each(|use_| found.role(&use_.role));
    while let Some(task) = found.includes.pop() {
        include(loader, &task, &mut found);
    }
    // Handlers that come with a template's choice, or go by one, can't be known.
    if found.open {
        return;
    }
    for task in &found.tasks {
        for name in task.notify.iter().filter(|name| !name.is_templated()) {
            let wanted = name.as_str().unwrap_or_default();
            if !found.names.contains(wanted) {
                let error = Diagnostic::error(format!("there is no handler `{wanted}`")).at(&name.span);
                let near = nearest(wanted, found.names.iter().map(String::as_str));
                loader.errors.push(match near {
                    Some(near) => error.help(format!("did you mean `{near}`?")),
                    None => error.help("handlers stand under `handlers:` of the play or in a role's handlers/main.yml"),
                });
            }
        }
    }
}

/// What a walk over a play has seen.
#[derive(Default)]
struct Found {
    /// Tasks and handlers, for their `notify`.
    tasks: Vec<Arc<Task>>,
    /// What handlers are called.
    names: HashSet<String>,
    /// Includes yet to be read.
    includes: Vec<Arc<Task>>,
    /// Is anything chosen by a template?
    open: bool,
    /// The roles walked already, held so that no other takes their address.
    roles: HashMap<*const Role, Arc<Role>>,
    /// The tasks seen already, by their place and role: a file with mistakes is made anew each time it is included.
    seen: HashSet<(*const Source, usize, Option<PathBuf>)>,
}

impl Found {
    fn items(&mut self, items: &[Item]) {
        for item in items {
            match item {
                Item::Task(task) => self.task(task),
                Item::Block(block) => {
                    for part in [&block.block, &block.rescue, &block.always] {
                        self.items(part);
                    }
                }
                Item::Role(use_) => self.role(&use_.role),
            }
        }
    }

    fn task(&mut self, task: &Arc<Task>) {
        let role = task.origin.role.as_ref().map(|role| role.path.clone());
        if !self.seen.insert((Arc::as_ptr(&task.span.source), task.span.start, role)) {
            return;
        }
        if !task.notify.is_empty() {
            self.tasks.push(Arc::clone(task));
        }
        if task.module.name.starts_with("include_") {
            self.includes.push(Arc::clone(task));
        }
    }

    fn handler(&mut self, handler: &Arc<Task>) {
        self.task(handler);
        for name in handler.name.iter().chain(&handler.listen) {
            self.open |= name.is_templated();
            let name = name.as_str().unwrap_or_default();
            self.names.insert(name.to_string());
            if let Some(role) = &handler.origin.role {
                self.names.insert(format!("{} : {name}", role.name));
            }
        }
    }

    fn role(&mut self, role: &Arc<Role>) {
        if self.roles.insert(Arc::as_ptr(role), Arc::clone(role)).is_some() {
            return;
        }
        role.dependencies.iter().for_each(|use_| self.role(&use_.role));
        role.handlers.iter().for_each(|handler| self.handler(handler));
        self.items(&role.tasks);
    }
}

fn include(loader: &mut Loader, task: &Arc<Task>, found: &mut Found) {
    let fixed = |key: &str| task.params.get(key).filter(|node| !node.is_templated());
    let file = |key: &str| fixed(key).and_then(Node::as_str).map(str::to_string);
    match task.module.name {
        "include_tasks" => match fixed("file") {
            Some(name) => {
                let path = Spanned::new(name.as_str().unwrap_or_default().to_string(), &name.span);
                let items = loader.included_tasks(&path, &task.origin);
                found.items(&items);
            }
            None => found.open = true,
        },
        "include_role" => {
            let from = RoleFrom {
                tasks: file("tasks_from"),
                vars: file("vars_from"),
                defaults: file("defaults_from"),
                handlers: file("handlers_from"),
            };
            let given = |key: &str| task.params.get(key).is_none_or(|node| !node.is_templated());
            let known = ["tasks_from", "vars_from", "defaults_from", "handlers_from"].into_iter().all(given);
            match fixed("name") {
                Some(name) if known => {
                    let name = Spanned::new(name.as_str().unwrap_or_default().to_string(), &name.span);
                    if let Some(role) = loader.role_of(&name, &from, &task.origin) {
                        found.role(&role);
                    }
                }
                _ => found.open = true,
            }
        }
        "include_vars" => {
            if let Some(name) = fixed("file")
                && let Err(tried) = task.origin.find("vars", name.as_str().unwrap_or_default())
            {
                loader.errors.push(not_found("the file of variables", &name.span, &tried));
            }
        }
        _ => {}
    }
}
