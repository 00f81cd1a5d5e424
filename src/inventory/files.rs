//! Inventories and variables on disk: files, folders, lists; YAML inventories; `group_vars` and `host_vars`.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::{Builder, Origin, UNGROUPED, Variable, Vars, ini};
use crate::diag::{Diagnostic, Source, Span, nearest};
use crate::yaml::{self, Node, NodeValue};

/// Files of a folder that are no inventories.
const IGNORED: [&str; 14] = [
    "~", ".orig", ".cfg", ".retry", ".pyc", ".pyo", ".swp", ".bak", ".rpm", ".md", ".txt", ".rst", ".lock", ".rpmsave",
];

impl Builder {
    /// Reads a file, a folder or a list.
    pub(super) fn add(&mut self, path: &Path) {
        let shown = path.to_string_lossy();
        if shown.contains(',') && !path.exists() {
            self.list(&shown);
            return;
        }
        match std::fs::metadata(path) {
            Ok(found) if found.is_dir() => self.folder(path, path, 0),
            Ok(_) => {
                let folder =
                    path.parent().map(|parent| if parent.as_os_str().is_empty() { Path::new(".") } else { parent });
                self.file(path, folder);
            }
            Err(error) => {
                let message = format!("the inventory {shown} can't be read: {}", plain(&error));
                self.errors.push(Diagnostic::error(message));
            }
        }
    }

    /// `ws01,ws02:2222`
    fn list(&mut self, text: &str) {
        self.origins.push(Origin { file: None, folder: None });
        let source = Source::new("<command line>", text);
        let mut start = 0;
        for part in text.split(',') {
            let name = part.trim();
            if !name.is_empty() {
                let at = start + (part.len() - part.trim_start().len());
                ini::add(self, UNGROUPED, name, &[], &Span::new(&source, at, at + name.len()));
            }
            start += part.len() + 1;
        }
    }

    fn folder(&mut self, path: &Path, root: &Path, depth: usize) {
        if depth > 8 {
            return;
        }
        let names = match sorted(path) {
            Ok(names) => names,
            Err(error) => {
                let message = format!("the inventory folder {} can't be read: {}", path.display(), plain(&error));
                self.errors.push(Diagnostic::error(message));
                return;
            }
        };
        for name in names {
            let inner = path.join(&name);
            if name.starts_with('.') || IGNORED.iter().any(|end| name.ends_with(end)) {
                continue;
            }
            if inner.is_dir() {
                if !matches!(name.as_str(), "group_vars" | "host_vars") {
                    self.folder(&inner, root, depth + 1);
                }
            } else {
                self.file(&inner, Some(root));
            }
        }
    }

    fn file(&mut self, path: &Path, folder: Option<&Path>) {
        self.origins.push(Origin { file: Some(path.to_path_buf()), folder: folder.map(Path::to_path_buf) });
        match source(path, "the inventory") {
            Ok(source) => self.read(&source, path),
            Err(error) => self.errors.push(error),
        }
    }

    /// Reads a text as what it looks like.
    pub(super) fn read(&mut self, source: &Arc<Source>, path: &Path) {
        if source.text.starts_with("#!") {
            self.errors.push(
                Diagnostic::error("this inventory is a program, and programs are not run as inventories")
                    .at(&Span::new(source, 0, source.text.find('\n').unwrap_or(source.text.len())))
                    .help("save what it prints as a YAML inventory, and give that file"),
            );
            return;
        }
        if looks_like_yaml(&source.text, path) { yaml_inventory(self, source) } else { ini::read(self, source) }
    }
}

/// By the ending; with any other, by the first line that says something.
fn looks_like_yaml(text: &str, path: &Path) -> bool {
    match path.extension().and_then(|end| end.to_str()) {
        Some("yml" | "yaml" | "json") => return true,
        Some("ini") => return false,
        _ => {}
    }
    let mut lines =
        text.lines().map(str::trim_end).filter(|line| !line.is_empty() && !line.trim_start().starts_with(['#', ';']));
    match lines.next() {
        Some(first) => {
            let bare = first.split(" #").next().unwrap_or(first).trim_end();
            bare == "---" || first.starts_with('{') || (bare.ends_with(':') && !first.contains(['[', '=', ' ']))
        }
        None => false,
    }
}

/// The names in a folder, sorted.
fn sorted(path: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// An error of the system without the words that Rust adds.
fn plain(error: &std::io::Error) -> String {
    let shown = error.to_string();
    shown.split(" (os error").next().unwrap_or(&shown).to_lowercase()
}

fn source(path: &Path, what: &str) -> Result<Arc<Source>, Diagnostic> {
    let failed = |why: &str| Diagnostic::error(format!("{what} {} can't be read: {why}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| failed(&plain(&error)))?;
    let text = String::from_utf8(bytes).map_err(|_| failed("it is not text (UTF-8)"))?;
    let source = Source::new(path.to_string_lossy(), text);
    if source.text.starts_with("$ANSIBLE_VAULT") {
        let end = source.text.find('\n').unwrap_or(source.text.len());
        return Err(Diagnostic::error(format!("{what} is encrypted with ansible-vault, which is not supported"))
            .at(&Span::new(&source, 0, end))
            .help("decrypt it: `ansible-vault decrypt FILE`"));
    }
    Ok(source)
}

fn yaml_inventory(builder: &mut Builder, source: &Arc<Source>) {
    let node = match yaml::parse_one(source) {
        Ok(node) => node,
        Err(error) => {
            builder.errors.push(error);
            return;
        }
    };
    match &node.value {
        NodeValue::Null => {}
        NodeValue::Map(groups) => {
            for (key, group) in groups {
                if key.name == "plugin" {
                    builder.errors.push(
                        Diagnostic::error("inventory plugins are not supported")
                            .at(&key.span)
                            .help("write the hosts down: `all: {hosts: {ws01: {}}}`"),
                    );
                    return;
                }
                yaml_group(builder, &key.name, &key.span, group, 0);
            }
        }
        _ => {
            let message = format!("an inventory is a map of groups, this is {}", node.kind_name());
            builder
                .errors
                .push(Diagnostic::error(message).at(&node.span).help("begin with `all:` and `hosts:` below it"));
        }
    }
}

fn yaml_group(builder: &mut Builder, name: &str, place: &Span, node: &Node, depth: usize) {
    if depth > 50 {
        builder.errors.push(Diagnostic::error("the groups are nested too deeply").at(place));
        return;
    }
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || "[],!&:=".contains(c)) {
        builder.errors.push(Diagnostic::error(format!("`{name}` can't be the name of a group")).at(place));
        return;
    }
    let group = builder.group(name);
    let keys = match &node.value {
        NodeValue::Null => return,
        NodeValue::Map(keys) => keys,
        _ => {
            let message = format!("a group is a map with `hosts`, `vars` and `children`, this is {}", node.kind_name());
            builder.errors.push(Diagnostic::error(message).at(&node.span));
            return;
        }
    };
    for (key, value) in keys {
        match (key.name.as_str(), &value.value) {
            ("hosts" | "vars" | "children", NodeValue::Null) => {}
            ("hosts", NodeValue::Map(hosts)) => {
                let group = if group == super::ALL { UNGROUPED } else { group };
                for (host, vars) in hosts {
                    if let Some(vars) = variables(builder, vars, "a host's variables") {
                        ini::add(builder, group, &host.name, &vars, &host.span);
                    }
                }
            }
            ("hosts", NodeValue::String(host)) => {
                let group = if group == super::ALL { UNGROUPED } else { group };
                ini::add(builder, group, host, &[], &value.span);
            }
            ("vars", _) => {
                for (name, variable) in variables(builder, value, "`vars`").unwrap_or_default() {
                    builder.group_var(group, &name, variable);
                }
            }
            ("children", NodeValue::Map(children)) => {
                for (child, node) in children {
                    let at = builder.group(&child.name);
                    if at == super::ALL || at == group {
                        let message = format!("the group `{}` can't be a child of `{name}`", child.name);
                        builder.errors.push(Diagnostic::error(message).at(&child.span));
                        continue;
                    }
                    builder.child(group, at, &child.span);
                    yaml_group(builder, &child.name, &child.span, node, depth + 1);
                }
            }
            ("hosts" | "children", _) => {
                let message = format!("`{}` is a map whose keys are names, this is {}", key.name, value.kind_name());
                let error = Diagnostic::error(message).at(&value.span);
                builder.errors.push(error.help("write each name with a colon: `ws01:`"));
            }
            (other, _) => {
                let error = Diagnostic::error(format!("a group has no key `{other}`")).at(&key.span);
                let error = match nearest(other, ["hosts", "vars", "children"]) {
                    Some(near) => error.help(format!("did you mean `{near}`?")),
                    None => error.help("groups within a group stand below `children:`, hosts below `hosts:`"),
                };
                builder.errors.push(error);
            }
        }
    }
}

fn variables(builder: &mut Builder, node: &Node, what: &str) -> Option<Vec<(String, Variable)>> {
    match &node.value {
        NodeValue::Null => Some(Vec::new()),
        NodeValue::Map(entries) => Some(entries.iter().map(|(key, node)| (key.name.clone(), variable(node))).collect()),
        _ => {
            let message = format!("{what} are a map, this is {}", node.kind_name());
            builder.errors.push(Diagnostic::error(message).at(&node.span));
            None
        }
    }
}

fn variable(node: &Node) -> Variable {
    Variable { value: Arc::new(node.to_json()), span: node.span.clone() }
}

/// Files by the name of the group or host that they are for.
type Found = HashMap<String, Vec<PathBuf>>;

/// What was read.
type Read = HashMap<String, Result<Arc<Vars>, Diagnostic>>;

/// A folder with `group_vars` and `host_vars` in it. Files are read when they are first needed, once.
pub(super) struct Folder {
    groups: Part,
    hosts: Part,
}

struct Part {
    found: Found,
    /// The folder could not be listed.
    error: Option<Diagnostic>,
    read: Mutex<Read>,
    nothing: Arc<Vars>,
}

impl Folder {
    pub fn open(path: &Path) -> Folder {
        Folder { groups: Part::open(&path.join("group_vars")), hosts: Part::open(&path.join("host_vars")) }
    }

    pub fn group(&self, name: &str) -> Result<Arc<Vars>, Diagnostic> {
        self.groups.get(name)
    }

    pub fn host(&self, name: &str) -> Result<Arc<Vars>, Diagnostic> {
        self.hosts.get(name)
    }
}

impl Part {
    fn open(path: &Path) -> Part {
        let mut part = Part { found: Found::new(), error: None, read: Mutex::default(), nothing: Arc::default() };
        let names = match sorted(path) {
            Ok(names) => names,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return part,
            Err(error) => {
                part.error =
                    Some(Diagnostic::error(format!("the folder {} can't be read: {}", path.display(), plain(&error))));
                return part;
            }
        };
        for name in names.iter().filter(|name| !hidden(name)) {
            let stem = [".yml", ".yaml", ".json"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
            part.found.entry(stem.to_string()).or_default().push(path.join(name));
        }
        part
    }

    fn get(&self, name: &str) -> Result<Arc<Vars>, Diagnostic> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let Some(paths) = self.found.get(name) else { return Ok(Arc::clone(&self.nothing)) };
        if let Some(known) = self.read.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            return known.clone();
        }
        let read = read_all(paths).map(Arc::new);
        let mut cache = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        cache.entry(name.to_string()).or_insert(read).clone()
    }
}

fn hidden(name: &str) -> bool {
    name.starts_with('.') || name.ends_with('~') || name.ends_with(".swp") || name.ends_with(".bak")
}

fn read_all(paths: &[PathBuf]) -> Result<Vars, Diagnostic> {
    if let [first, second, ..] = paths {
        let message = format!("both {} and {} exist", first.display(), second.display());
        return Err(Diagnostic::error(message).help("Ansible reads only one of them; join them, or make a folder"));
    }
    let mut vars = Vars::new();
    for path in paths {
        read_path(path, &mut vars, 0)?;
    }
    Ok(vars)
}

fn read_path(path: &Path, vars: &mut Vars, depth: usize) -> Result<(), Diagnostic> {
    if path.is_dir() {
        if depth > 8 {
            return Err(Diagnostic::error(format!("the folders in {} are nested too deeply", path.display())));
        }
        let names = sorted(path).map_err(|error| {
            Diagnostic::error(format!("the folder {} can't be read: {}", path.display(), plain(&error)))
        })?;
        for name in names.iter().filter(|name| !hidden(name)) {
            let inner = path.join(name);
            let known = matches!(inner.extension().and_then(|end| end.to_str()), None | Some("yml" | "yaml" | "json"));
            if inner.is_dir() || known {
                read_path(&inner, vars, depth + 1)?;
            }
        }
        return Ok(());
    }
    let source = source(path, "the file of variables")?;
    let node = yaml::parse_one(&source)?;
    match &node.value {
        NodeValue::Null => Ok(()),
        NodeValue::Map(entries) => {
            vars.extend(entries.iter().map(|(key, node)| (key.name.clone(), variable(node))));
            Ok(())
        }
        _ => {
            let message = format!("a file of variables is a map of names to values, this is {}", node.kind_name());
            Err(Diagnostic::error(message).at(&node.span))
        }
    }
}
