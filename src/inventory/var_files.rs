//! `group_vars/` and `host_vars/`: which files are there, and what is in them. Each is read once, when asked for.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};

use super::build::{self, PRIORITY};
use crate::diag::{Diagnostic, Source};
use crate::vault::{self, Vault};
use crate::yaml::{self, NodeValue};

/// Folders in folders may go so deep; a link to a folder above never ends.
const MAX_DEPTH: usize = 16;

/// Whose variables a file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Groups,
    Hosts,
}

type Vars = Arc<Map<String, Value>>;

/// All that was read of these folders so far.
#[derive(Default)]
pub(super) struct VarFiles {
    vault: Arc<Vault>,
    groups: Mutex<Opened>,
    hosts: Mutex<Opened>,
}

/// By the folder beside which they are.
type Opened = HashMap<PathBuf, Result<Arc<Folder>, Diagnostic>>;

/// One `group_vars/` or `host_vars/`.
struct Folder {
    whose: Whose,
    /// The files and folders of each name, the weakest first.
    entries: HashMap<String, Vec<Entry>>,
    read: Mutex<HashMap<String, Result<Option<Vars>, Diagnostic>>>,
}

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    strength: usize,
    path: PathBuf,
    folder: bool,
}

impl VarFiles {
    /// Files that this vault decrypts.
    pub fn new(vault: Arc<Vault>) -> VarFiles {
        VarFiles { vault, ..VarFiles::default() }
    }

    /// What `group_vars/` or `host_vars/` in this folder says about a group or host.
    ///
    /// # Errors
    /// What can't be read, or is not a map of variables.
    pub fn of(&self, beside: &Path, whose: Whose, name: &str) -> Result<Option<Vars>, Diagnostic> {
        let opened = match whose {
            Whose::Groups => &self.groups,
            Whose::Hosts => &self.hosts,
        };
        let folder = {
            let mut opened = opened.lock().unwrap_or_else(PoisonError::into_inner);
            match opened.get(beside) {
                Some(known) => known.clone()?,
                None => {
                    let folder = Folder::open(beside, whose).map(Arc::new);
                    opened.insert(beside.to_path_buf(), folder.clone());
                    folder?
                }
            }
        };
        folder.of(name, &self.vault)
    }
}

impl Folder {
    fn open(beside: &Path, whose: Whose) -> Result<Folder, Diagnostic> {
        let path = beside.join(match whose {
            Whose::Groups => "group_vars",
            Whose::Hosts => "host_vars",
        });
        let mut entries: HashMap<String, Vec<Entry>> = HashMap::new();
        for (name, path, folder) in list(&path)? {
            if folder {
                // Ansible reads the folder only, where a file of that name is beside it. Here both count, and where
                // they say different things, the folder wins.
                entries.entry(name).or_default().push(Entry { strength: 4, path, folder });
                continue;
            }
            for (strength, extension) in ["", ".yml", ".yaml", ".json"].into_iter().enumerate() {
                if let Some(name) = name.strip_suffix(extension) {
                    let entry = Entry { strength, path: path.clone(), folder };
                    entries.entry(name.to_string()).or_default().push(entry);
                }
            }
        }
        entries.values_mut().for_each(|entries| entries.sort());
        Ok(Folder { whose, entries, read: Mutex::new(HashMap::new()) })
    }

    fn of(&self, name: &str, vault: &Vault) -> Result<Option<Vars>, Diagnostic> {
        let Some(entries) = self.entries.get(name) else {
            return Ok(None);
        };
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = read.get(name) {
            return known.clone();
        }
        let mut vars = Map::new();
        let mut answer = Ok(());
        for entry in entries {
            let one = if entry.folder {
                read_folder(&entry.path, self.whose, &mut vars, vault, 0)
            } else {
                read_file(&entry.path, self.whose, &mut vars, vault)
            };
            answer = answer.and(one);
        }
        let answer = answer.map(|()| Some(Arc::new(vars)));
        read.insert(name.to_string(), answer.clone());
        answer
    }
}

/// What a folder holds, by name, with whether it is a folder; a folder that is not there holds nothing.
pub(super) fn list(path: &Path) -> Result<Vec<(String, PathBuf, bool)>, Diagnostic> {
    let wrong =
        |problem: std::io::Error| Diagnostic::error(format!("can't read the folder {}: {problem}", path.display()));
    let listing = match fs::read_dir(path) {
        Ok(listing) => listing,
        Err(problem) if problem.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(problem) => return Err(wrong(problem)),
    };
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry.map_err(wrong)?;
        // A name that is not UTF-8 can't be the name of a group or host.
        let Ok(name) = entry.file_name().into_string() else { continue };
        let kind = entry.file_type().map_err(wrong)?;
        // A link that leads nowhere (an editor's lock, for example) is taken as a file, and is an error when it is read.
        let folder = kind.is_dir() || kind.is_symlink() && entry.path().is_dir();
        found.push((name, entry.path(), folder));
    }
    found.sort();
    Ok(found)
}

fn read_folder(
    path: &Path,
    whose: Whose,
    vars: &mut Map<String, Value>,
    vault: &Vault,
    depth: usize,
) -> Result<(), Diagnostic> {
    if depth > MAX_DEPTH {
        return Err(Diagnostic::error(format!("folders are nested too deeply: {}", path.display())));
    }
    for (name, path, folder) in list(path)? {
        if name.starts_with('.') || name.ends_with('~') {
            continue;
        }
        if folder {
            read_folder(&path, whose, vars, vault, depth + 1)?;
        } else if path
            .extension()
            .is_none_or(|extension| ["yml", "yaml", "json"].iter().any(|known| extension == *known))
        {
            read_file(&path, whose, vars, vault)?;
        }
    }
    Ok(())
}

fn read_file(path: &Path, whose: Whose, vars: &mut Map<String, Value>, vault: &Vault) -> Result<(), Diagnostic> {
    let name = path.display().to_string();
    let text =
        fs::read_to_string(path).map_err(|problem| Diagnostic::error(format!("can't read {name}: {problem}")))?;
    let (text, secret) = vault.text(path, text)?;
    let source = Source::new(name, text);
    if !secret {
        return take(&source, whose, vars);
    }
    let mut secrets = Map::new();
    take(&source, whose, &mut secrets).map_err(vault::discreet)?;
    secrets.values().for_each(|value| vault.hide_values(value));
    vars.extend(secrets);
    Ok(())
}

/// The variables of a text.
fn take(source: &Arc<Source>, whose: Whose, vars: &mut Map<String, Value>) -> Result<(), Diagnostic> {
    let root = yaml::parse_one(source)?;
    let entries = match root.value {
        NodeValue::Null => return Ok(()),
        NodeValue::Map(entries) => entries,
        _ => {
            let error = format!("a file of variables must be a map, and this is {}", root.kind_name());
            return Err(Diagnostic::error(error).at(&root.span));
        }
    };
    for (key, value) in entries {
        if let Some(error) = build::bad_variable_name(&key.name, &key.span) {
            return Err(error);
        }
        if whose == Whose::Groups && key.name == PRIORITY {
            let error = Diagnostic::error(format!("`{PRIORITY}` does nothing in group_vars")).at(&key.span);
            return Err(error.help("set it in the inventory file, among the variables of the group"));
        }
        vars.insert(key.name, value.to_json());
    }
    Ok(())
}
