//! The loader: files, imports, and what is already read.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use super::model::{Block, Common, Item, Origin, Play, Role, RoleUse, Site, Task, Vars};
use super::role::RoleFrom;
use super::{check, keys};
use crate::diag::{Diagnostic, Source, Span};
use crate::vault::{self, Vault};
use crate::yaml::{self, Node, Spanned};

/// How to load.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Folders of roles, besides `roles/` beside the playbook and beside its folder.
    pub roles_path: Vec<PathBuf>,
}

/// Reads playbooks, and later what they include. Each file is read once.
#[derive(Debug, Default)]
pub struct Loader {
    pub(super) roles_path: Vec<PathBuf>,
    pub(super) errors: Vec<Diagnostic>,
    pub(super) warnings: Vec<Diagnostic>,
    /// Roles by folder, files meant and folder of the playbook.
    pub(super) roles: HashMap<(PathBuf, RoleFrom, PathBuf), Arc<Role>>,
    /// How deep blocks and imports are nested here.
    pub(super) depth: usize,
    /// How many tasks were made.
    pub(super) tasks: usize,
    files: HashMap<PathBuf, Result<Arc<Node>, Diagnostic>>,
    /// Included task files by file, role and folder of the playbook.
    included: HashMap<(PathBuf, Option<PathBuf>, PathBuf), Vec<Item>>,
    /// Decrypts files that are encrypted.
    vault: Arc<Vault>,
    /// What is being read: kind, file or folder, name.
    trail: Vec<(&'static str, PathBuf, String)>,
}

impl Loader {
    /// A loader that has read nothing yet.
    pub fn new(options: LoadOptions) -> Loader {
        Loader { roles_path: options.roles_path, ..Loader::default() }
    }

    /// The same, with the passwords of files that are encrypted.
    pub fn with_vault(self, vault: Arc<Vault>) -> Loader {
        Loader { vault, ..self }
    }

    /// Reads playbooks with all they import, and checks what they include under fixed names.
    ///
    /// # Errors
    /// All mistakes that were found.
    pub fn load(&mut self, playbooks: &[PathBuf]) -> Result<Site, Vec<Diagnostic>> {
        let mut plays: Vec<Play> = Vec::new();
        for path in playbooks {
            plays.extend(self.playbook(path, None, &Common::default()));
        }
        for play in &plays {
            check::ahead(self, play);
        }
        self.finish(())?;
        Ok(Site { plays, warnings: self.take_warnings() })
    }

    /// The tasks of a file that `like` includes: beside the including file, then in the role's `tasks/`, then beside
    /// the playbook.
    ///
    /// # Errors
    /// All mistakes in it, and a file that is not there.
    pub fn tasks_file(&mut self, file: &Path, like: &Task) -> Result<Vec<Item>, Vec<Diagnostic>> {
        let span = like.params.get("file").map_or(&like.span, |node| &node.span);
        let file = Spanned::new(file.to_string_lossy().into_owned(), span);
        let items = self.included_tasks(&file, &like.origin);
        self.finish(items)
    }

    /// A role that a task includes.
    ///
    /// # Errors
    /// All mistakes in it, and a role that is not there.
    pub fn role(&mut self, name: &str, from: &RoleFrom, like: &Task) -> Result<Arc<Role>, Vec<Diagnostic>> {
        let span = like.params.get("name").map_or(&like.span, |node| &node.span);
        let role = self.role_of(&Spanned::new(name.to_string(), span), from, &like.origin);
        match self.finish(role)? {
            Some(role) => Ok(role),
            None => Err(vec![Diagnostic::error(format!("the role `{name}` can't be read")).at(span)]),
        }
    }

    /// The variables of a file (`vars_files`, `include_vars`).
    ///
    /// # Errors
    /// What is wrong in it.
    pub fn vars_file(&mut self, path: &Path, at: Option<&Span>) -> Result<Vars, Vec<Diagnostic>> {
        let vars = self.vars_of(path, at);
        self.finish(vars)
    }

    /// All files that were read so far.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }

    /// Warnings since the last time.
    pub fn take_warnings(&mut self) -> Vec<Diagnostic> {
        let mut seen: Vec<Diagnostic> = Vec::new();
        for warning in std::mem::take(&mut self.warnings) {
            if !seen.contains(&warning) {
                seen.push(warning);
            }
        }
        seen
    }

    /// The errors since the last time, each once; or the value.
    fn finish<T>(&mut self, value: T) -> Result<T, Vec<Diagnostic>> {
        self.trail.clear();
        self.depth = 0;
        let mut seen: Vec<Diagnostic> = Vec::new();
        for error in std::mem::take(&mut self.errors) {
            if !seen.contains(&error) {
                seen.push(error);
            }
        }
        in_reading_order(&mut seen);
        if seen.is_empty() { Ok(value) } else { Err(seen) }
    }

    /// The file as YAML; `None` after an error.
    pub(super) fn yaml(&mut self, path: &Path, at: Option<&Span>) -> Option<Arc<Node>> {
        let vault = &self.vault;
        let read = self.files.entry(path.to_path_buf()).or_insert_with(|| read(path, vault).map(Arc::new));
        match read {
            Ok(node) => Some(Arc::clone(node)),
            Err(error) => {
                let error = error.clone();
                self.errors.push(match at {
                    Some(at) => error.at_if_unknown(at),
                    None => error,
                });
                None
            }
        }
    }

    /// The variables in a file.
    pub(super) fn vars_of(&mut self, path: &Path, at: Option<&Span>) -> Vars {
        match self.yaml(path, at) {
            Some(node) => keys::vars("a file of variables", &node, &mut self.errors),
            None => Vec::new(),
        }
    }

    /// Begins to read something that others may import; false, with an error, if it is being read already.
    pub(super) fn enter(&mut self, kind: &'static str, path: &Path, name: &str, at: Option<&Span>) -> bool {
        let path = canonical(path);
        let again = self.trail.iter().position(|(k, p, _)| *k == kind && *p == path);
        if let Some(first) = again {
            let mut names: Vec<&str> =
                self.trail.iter().skip(first).filter(|(k, ..)| *k == kind).map(|(_, _, name)| name.as_str()).collect();
            names.push(name);
            let error = Diagnostic::error(format!("this {kind} ends in itself: {}", names.join(" → ")));
            self.errors.push(match at {
                Some(at) => error.at(at),
                None => error,
            });
            return false;
        }
        self.trail.push((kind, path, name.to_string()));
        true
    }

    /// Ends what [`Loader::enter`] began.
    pub(super) fn leave(&mut self) {
        self.trail.pop();
    }

    /// A name that must be known before the run, so no template.
    pub(super) fn fixed_name(&mut self, what: &str, node: &Node) -> Option<Spanned<String>> {
        let name = keys::text(&format!("the name of {what}"), node, &mut self.errors)?;
        if node.is_templated() {
            let help = match what {
                "import_tasks" => "use `include_tasks`, which is done during the run",
                "import_role" | "a role" => "use `include_role`, which is done during the run",
                _ => "write the name out",
            };
            let error =
                Diagnostic::error("this name is needed before any variable is known, so it can't be a template");
            self.errors.push(error.at(&node.span).help(help));
            return None;
        }
        Some(name)
    }

    /// What takes the place of an `import_tasks` or `import_role`.
    pub(super) fn import(
        &mut self,
        module: &str,
        node: &Node,
        params: &Node,
        common: Common,
        origin: &Arc<Origin>,
        handlers: bool,
    ) -> Option<Item> {
        let name = node.get("name").and_then(|name| keys::title("`name`", name, &mut Vec::new()));
        if module == "import_role" {
            if handlers {
                let error = Diagnostic::error("`import_role` among the handlers is not supported yet");
                self.errors.push(error.at(&params.span).help("the handlers of a role come with the role"));
                return None;
            }
            let role = self.fixed_name("import_role", params.get("name")?)?;
            let mut part = |key: &str| match params.get(key) {
                Some(part) => self.fixed_name("import_role", part).map(|name| name.value),
                None => None,
            };
            let from = RoleFrom {
                tasks: part("tasks_from"),
                vars: part("vars_from"),
                defaults: part("defaults_from"),
                handlers: part("handlers_from"),
            };
            let again = match params.get("allow_duplicates") {
                Some(word) => keys::truth("`allow_duplicates`", word, &mut self.errors)?.as_bool().unwrap_or(true),
                None => true,
            };
            let span = role.span.clone();
            let role = self.role_of(&role, &from, origin)?;
            return Some(Item::Role(Arc::new(RoleUse { role, common, span, again })));
        }
        let file = self.fixed_name("import_tasks", params.get("file")?)?;
        let path = self.find_tasks(&file, origin)?;
        if !self.enter("task file", &path, &path.display().to_string(), Some(&file.span)) {
            return None;
        }
        let block = self.tasks_of(&path, origin, Some(&file.span), handlers);
        self.leave();
        let span = file.span;
        Some(Item::Block(Arc::new(Block { name, block, rescue: Vec::new(), always: Vec::new(), common, span })))
    }

    /// The tasks of a file that is included, kept for the next time.
    pub(super) fn included_tasks(&mut self, file: &Spanned<String>, origin: &Arc<Origin>) -> Vec<Item> {
        let Some(path) = self.find_tasks(file, origin) else { return Vec::new() };
        let role = origin.role.as_ref().map(|role| role.path.clone());
        let key = (canonical(&path), role, origin.playbook_folder.clone());
        if let Some(items) = self.included.get(&key) {
            return items.clone();
        }
        let before = self.errors.len();
        let items = self.tasks_of(&path, origin, Some(&file.span), false);
        if self.errors.len() == before {
            self.included.insert(key, items.clone());
        }
        items
    }

    fn tasks_of(&mut self, path: &Path, origin: &Arc<Origin>, at: Option<&Span>, handlers: bool) -> Vec<Item> {
        let Some(node) = self.yaml(path, at) else { return Vec::new() };
        let inner = Arc::new(Origin {
            folder: path.parent().unwrap_or(Path::new("")).to_path_buf(),
            playbook_folder: origin.playbook_folder.clone(),
            role: origin.role.clone(),
        });
        self.items("a file of tasks", &node, &inner, handlers)
    }

    /// Beside the including file, in the role's `tasks/`, beside the playbook.
    fn find_tasks(&mut self, file: &Spanned<String>, origin: &Origin) -> Option<PathBuf> {
        let mut tried: Vec<PathBuf> = Vec::new();
        let role = origin.role.as_ref().map(|role| role.path.join("tasks"));
        for folder in [Some(origin.folder.clone()), role, Some(origin.playbook_folder.clone())].into_iter().flatten() {
            let path = tidy(&folder.join(&file.value));
            if path.is_file() {
                return Some(path);
            }
            if !tried.contains(&path) {
                tried.push(path);
            }
        }
        self.errors.push(not_found("the file of tasks", &file.span, &tried));
        None
    }
}

/// File by file as they came up, and in each from top to bottom.
fn in_reading_order(errors: &mut [Diagnostic]) {
    let mut files: Vec<*const Source> = Vec::new();
    for span in errors.iter().filter_map(|error| error.span.as_ref()) {
        if !files.contains(&Arc::as_ptr(&span.source)) {
            files.push(Arc::as_ptr(&span.source));
        }
    }
    errors.sort_by_key(|error| {
        error.span.as_ref().map(|span| (files.iter().position(|file| *file == Arc::as_ptr(&span.source)), span.start))
    });
}

fn read(path: &Path, vault: &Vault) -> Result<Node, Diagnostic> {
    let bytes = std::fs::read(path).map_err(|error| {
        Diagnostic::error(match error.kind() {
            std::io::ErrorKind::NotFound => format!("there is no file {}", path.display()),
            _ => format!("{} can't be read: {error}", path.display()),
        })
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes().iter().take(error.utf8_error().valid_up_to()).filter(|b| **b == b'\n').count() + 1;
        Diagnostic::error(format!("{} is not UTF-8 text (line {line})", path.display()))
    })?;
    let (text, secret) = vault.text(path, text)?;
    let node = yaml::parse_one(&Source::new(path.display().to_string(), text));
    if !secret {
        return node;
    }
    // Variables are secret; tasks and plays, which are lists, are read by people in every line that is printed.
    node.map_err(vault::discreet).inspect(|node| {
        if node.as_map().is_some() {
            vault.hide_values(&node.to_json());
        }
    })
}

/// "not found", with where it was looked for.
pub(super) fn not_found(what: &str, at: &Span, searched: &[PathBuf]) -> Diagnostic {
    let places: Vec<String> = searched
        .iter()
        .map(|path| if path.as_os_str().is_empty() { ".".to_string() } else { path.display().to_string() })
        .collect();
    Diagnostic::error(format!("{what} is not there")).at(at).help(format!("searched: {}", places.join(", ")))
}

/// The path without `.`, and without `x/..` where x is no symbolic link; for messages that people can read.
pub(super) fn tidy(path: &Path) -> PathBuf {
    let mut tidy = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir
                if matches!(tidy.components().next_back(), Some(Component::Normal(_))) && !tidy.is_symlink() =>
            {
                tidy.pop();
            }
            other => tidy.push(other),
        }
    }
    tidy
}

/// The one true path of a file, if it has one.
pub(super) fn canonical(path: &Path) -> PathBuf {
    std::fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf())
}
