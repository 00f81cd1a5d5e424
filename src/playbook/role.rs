//! Roles: where they are, and what is in them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::arguments::{self, ArgumentSpec};
use super::keys::{self, Keys};
use super::load::{Loader, canonical, not_found, tidy};
use super::model::{Origin, Role, RoleHead, RoleUse, Vars};
use crate::diag::{Diagnostic, Span, nearest};
use crate::yaml::{Node, NodeValue, Spanned};

/// Which files of a role are meant, where not `main`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct RoleFrom {
    /// `tasks_from`.
    pub tasks: Option<String>,
    /// `vars_from`.
    pub vars: Option<String>,
    /// `defaults_from`.
    pub defaults: Option<String>,
    /// `handlers_from`.
    pub handlers: Option<String>,
}

const USE: Keys = Keys {
    what: "a role's entry",
    known: &[
        "role",
        "name",
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
        ("environment", ""),
        ("src", "roles are not downloaded; put the role in a folder `roles/`"),
        ("scm", "roles are not downloaded; put the role in a folder `roles/`"),
        ("version", "roles are not downloaded; put the role in a folder `roles/`"),
        ("collections", "leave it out: modules are found by their short names"),
        ("become_method", "set `ansible_become_method` in the inventory"),
    ],
};

const META: Keys = Keys {
    what: "the meta of a role",
    known: &["dependencies", "allow_duplicates", "galaxy_info", "argument_specs", "standalone"],
    later: &[("collections", "leave it out: modules are found by their short names")],
};

const SPECS: Keys = Keys { what: "a file of argument specs", known: &["argument_specs"], later: &[] };

/// The endings a role's files may have.
const ENDINGS: [&str; 4] = ["yml", "yaml", "json", ""];

impl Loader {
    /// `roles:` or `dependencies:`.
    pub(super) fn role_uses(&mut self, what: &str, node: &Node, origin: &Arc<Origin>) -> Vec<Arc<RoleUse>> {
        let nodes = keys::list(what, node, &mut self.errors);
        nodes.iter().filter_map(|node| self.role_use(node, origin)).collect()
    }

    fn role_use(&mut self, node: &Node, origin: &Arc<Origin>) -> Option<Arc<RoleUse>> {
        if let NodeValue::Map(entries) = &node.value {
            let Some(name) = node.get("role").or_else(|| node.get("name")) else {
                self.errors.extend(entries.iter().filter_map(|(key, _)| USE.problem(key)));
                self.errors.push(Diagnostic::error("this entry names no role").at(&node.span).help("add `role: NAME`"));
                return None;
            };
            let name = self.fixed_name("a role", name)?;
            let mut common = self.common(node);
            let role = self.role_of(&name, &RoleFrom::default(), origin);
            // What the role says it takes may stand beside the other keys, as in Ansible; anything else is a mistake.
            for (key, value) in entries.iter().filter(|(key, _)| !USE.known.contains(&key.name.as_str())) {
                let declared = role.as_ref().is_some_and(|role| declares(&role.head, &key.name));
                if declared {
                    common.vars.push((key.clone(), value.clone()));
                } else if let Some(problem) = USE.problem(key) {
                    let help = "variables for the role go under `vars:`".to_string();
                    self.errors.push(if problem.help.is_none() { problem.help(help) } else { problem });
                }
            }
            return Some(Arc::new(RoleUse { role: role?, common, span: name.span, again: false }));
        }
        let name = self.fixed_name("a role", node)?;
        let role = self.role_of(&name, &RoleFrom::default(), origin)?;
        Some(Arc::new(RoleUse { role, common: super::Common::default(), span: name.span, again: false }))
    }

    /// The role of a name, read whole; `None` after an error.
    pub(super) fn role_of(
        &mut self,
        name: &Spanned<String>,
        from: &RoleFrom,
        origin: &Arc<Origin>,
    ) -> Option<Arc<Role>> {
        let path = self.find_role(name, origin)?;
        let key = (canonical(&path), from.clone(), origin.playbook_folder.clone());
        let label = path.file_name().map_or_else(|| name.value.clone(), |n| n.to_string_lossy().into_owned());
        if !self.enter("role", &path, &label, Some(&name.span)) {
            return None;
        }
        let role = match self.roles.get(&key) {
            Some(role) => Some(Arc::clone(role)),
            None => {
                let before = self.errors.len();
                let role = Arc::new(self.read_role(label, &path, from, origin, &name.span));
                if self.errors.len() == before {
                    self.roles.insert(key, Arc::clone(&role));
                }
                Some(role)
            }
        };
        self.leave();
        role
    }

    fn find_role(&mut self, name: &Spanned<String>, origin: &Origin) -> Option<PathBuf> {
        let book = &origin.playbook_folder;
        let mut folders = vec![book.join("roles"), tidy(&book.join("../roles"))];
        folders.extend(self.roles_path.iter().cloned());
        folders.extend(origin.role.as_ref().and_then(|role| role.path.parent().map(Path::to_path_buf)));
        folders.push(book.clone());
        if name.value.is_empty() || name.value == "." || name.value == ".." {
            self.errors.push(Diagnostic::error("this names no role").at(&name.span));
            return None;
        }
        if let Some(found) = folders.iter().map(|folder| tidy(&folder.join(&name.value))).find(|path| path.is_dir()) {
            return Some(found);
        }
        let mut searched: Vec<PathBuf> = Vec::new();
        for folder in folders {
            if !searched.contains(&folder) {
                searched.push(folder);
            }
        }
        let mut error = not_found(&format!("the role `{}`", name.value), &name.span, &searched);
        searched.pop(); // the playbook's own folder holds more than roles
        let known: Vec<String> = searched
            .iter()
            .filter_map(|folder| std::fs::read_dir(folder).ok())
            .flat_map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()))
            .collect();
        if let (Some(near), Some(places)) = (nearest(&name.value, known.iter().map(String::as_str)), &error.help) {
            let help = format!("did you mean `{near}`? {places}");
            error = error.help(help);
        }
        self.errors.push(error);
        None
    }

    fn read_role(&mut self, name: String, path: &Path, from: &RoleFrom, origin: &Arc<Origin>, at: &Span) -> Role {
        let defaults = self.role_vars(&path.join("defaults"), from.defaults.as_deref(), at);
        let vars = self.role_vars(&path.join("vars"), from.vars.as_deref(), at);
        let meta = self.role_file(&path.join("meta"), None, at).and_then(|file| self.yaml(&file, Some(at)));
        let meta = meta.filter(|meta| !meta.is_null());
        if let Some(meta) = &meta {
            let _ = keys::map(meta, &META, &mut self.errors);
        }
        let specs = self.specs_file(path).and_then(|file| self.yaml(&file, Some(at)));
        if let Some(specs) = specs.as_ref().filter(|specs| !specs.is_null()) {
            let _ = keys::map(specs, &SPECS, &mut self.errors);
        }
        let entry_point = from.tasks.as_deref().unwrap_or("main");
        let entry_point = entry_point.rsplit_once('.').map_or(entry_point, |(stem, _)| stem);
        let specs = [&specs, &meta].into_iter().flatten().find_map(|file| arguments::specs_of(file));
        let argument_spec = specs.and_then(|specs| ArgumentSpec::read(specs, entry_point, &mut self.errors));
        let duplicates = meta.as_ref().and_then(|meta| meta.get("allow_duplicates"));
        let head = Arc::new(RoleHead {
            name,
            path: path.to_path_buf(),
            defaults,
            vars,
            argument_spec,
            allow_duplicates: duplicates
                .and_then(|node| keys::truth("`allow_duplicates`", node, &mut self.errors)?.as_bool())
                .unwrap_or(false),
        });
        let inside = |folder: &str| {
            Arc::new(Origin {
                folder: path.join(folder),
                playbook_folder: origin.playbook_folder.clone(),
                role: Some(Arc::clone(&head)),
            })
        };
        let dependencies = match meta.as_ref().and_then(|meta| meta.get("dependencies")) {
            Some(node) => self.role_uses("`dependencies`", node, &inside("meta")),
            None => Vec::new(),
        };
        let tasks = self.role_file(&path.join("tasks"), from.tasks.as_deref(), at);
        let tasks = match tasks.and_then(|file| self.yaml(&file, Some(at))) {
            Some(node) => self.items("a file of tasks", &node, &inside("tasks"), false),
            None => Vec::new(),
        };
        let handlers = self.role_file(&path.join("handlers"), from.handlers.as_deref(), at);
        let handlers = match handlers.and_then(|file| self.yaml(&file, Some(at))) {
            Some(node) => self.handlers(&node, &inside("handlers")),
            None => Vec::new(),
        };
        Role { head, tasks, handlers, dependencies }
    }

    /// `main` or the file that is asked for, in one folder of a role. That `main` is missing is fine.
    fn role_file(&mut self, folder: &Path, from: Option<&str>, at: &Span) -> Option<PathBuf> {
        let found = file_in(folder, from.unwrap_or("main"));
        if let (None, Some(from)) = (&found, from) {
            self.errors.push(not_found(&format!("the file `{from}` of the role"), at, &[folder.to_path_buf()]));
        }
        found
    }

    /// Variables of a role: a file, or a folder `main/` of which all files count.
    fn role_vars(&mut self, folder: &Path, from: Option<&str>, at: &Span) -> Vars {
        let parts = folder.join(from.unwrap_or("main"));
        if parts.is_dir() {
            let mut files: Vec<PathBuf> = std::fs::read_dir(&parts)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.extension().is_some_and(|e| e == "yml" || e == "yaml" || e == "json"))
                .collect();
            files.sort();
            return files.iter().flat_map(|file| self.vars_of(file, Some(at))).collect();
        }
        self.role_file(folder, from, at).map_or_else(Vec::new, |file| self.vars_of(&file, Some(at)))
    }

    fn specs_file(&self, path: &Path) -> Option<PathBuf> {
        file_in(&path.join("meta"), "argument_specs")
    }
}

/// A file by its name with or without its ending.
fn file_in(folder: &Path, name: &str) -> Option<PathBuf> {
    let path =
        |ending: &str| folder.join(if ending.is_empty() { name.to_string() } else { format!("{name}.{ending}") });
    ENDINGS.into_iter().map(path).find(|path| path.is_file())
}

/// Does the role say that it takes this variable?
fn declares(head: &RoleHead, name: &str) -> bool {
    let in_spec = head.argument_spec.as_ref().is_some_and(|spec| spec.options.iter().any(|(known, _)| known == name));
    in_spec || head.defaults.iter().any(|(key, _)| key.name == name)
}
