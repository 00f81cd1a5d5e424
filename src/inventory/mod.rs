//! Inventories: INI, YAML and folders to hosts, groups and variables; host patterns; and how a host is reached.
//!
//! What is read is Ansible's, and where Ansible would go on without a word (a pattern that names nothing, a group that
//! is nowhere defined, an unknown key), it is an error here.

mod build;
mod connection;
mod graph;
mod ini;
mod literal;
mod load;
mod pattern;
mod range;
mod var_files;
mod yaml_file;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use crate::diag::Diagnostic;
use crate::vault::Vault;
use build::{Builder, GroupId, HostId};
use pattern::Pick;
use var_files::{VarFiles, Whose};

pub use connection::{Connection, ConnectionKind};

/// The group of all hosts.
const ALL: &str = "all";
/// The group of hosts that are in no other.
const UNGROUPED: &str = "ungrouped";
/// This machine's names, which need no inventory.
const LOOPBACK: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

fn is_loopback(name: &str) -> bool {
    LOOPBACK.contains(&name)
}

/// A group.
struct Group {
    /// Its variables in the inventory files.
    vars: Map<String, Value>,
    /// Its hosts and those of the groups in it.
    hosts: Vec<HostId>,
}

/// A host.
struct Host {
    /// Its variables in the inventory files.
    vars: Map<String, Value>,
    /// All its groups, the weakest first; the first is `all`.
    groups: Arc<[GroupId]>,
    /// The file that defines it; empty if it came from the command line.
    file: PathBuf,
}

/// What a [`Builder`] makes.
struct Parts {
    groups: IndexMap<String, Group>,
    hosts: IndexMap<String, Host>,
}

/// All hosts and groups, and their variables.
pub struct Inventory {
    groups: IndexMap<String, Group>,
    hosts: IndexMap<String, Host>,
    /// The folders beside whose group_vars and host_vars are, in the order of `-i`.
    folders: Vec<PathBuf>,
    /// The file of the first `-i`, for the implicit localhost.
    first: Option<PathBuf>,
    var_files: VarFiles,
    shared: Map<String, Value>,
    warnings: Vec<Diagnostic>,
}

impl Inventory {
    /// Reads inventories: INI or YAML files, folders of them, or lists such as `ws01,ws02`. Of what is said twice the
    /// later counts. Without any there is only the implicit localhost.
    ///
    /// # Errors
    /// All mistakes, each with its place.
    pub fn load(paths: &[PathBuf]) -> Result<Inventory, Vec<Diagnostic>> {
        Inventory::load_with(paths, Arc::default())
    }

    /// The same, with the passwords of files that are encrypted.
    ///
    /// # Errors
    /// All mistakes, each with its place.
    pub fn load_with(paths: &[PathBuf], vault: Arc<Vault>) -> Result<Inventory, Vec<Diagnostic>> {
        let mut build = Builder::new();
        let mut folders: Vec<PathBuf> = Vec::new();
        for path in paths {
            let folder = load::read(path, &mut build, &vault);
            folders.extend(folder.filter(|folder| !folders.contains(folder)));
        }
        let (Parts { groups, hosts }, warnings) = build.finish()?;
        let members = |group: &Group| -> Value {
            group.hosts.iter().filter_map(|id| hosts.get_index(*id)).map(|(name, _)| name.as_str()).collect()
        };
        let all: Map<String, Value> = groups.iter().map(|(name, group)| (name.clone(), members(group))).collect();
        let shared = Map::from_iter([("groups".to_string(), Value::Object(all))]);
        let first = paths.first().cloned();
        Ok(Inventory { groups, hosts, folders, first, var_files: VarFiles::new(vault), shared, warnings })
    }

    /// What the user should know although nothing stops for it.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// All hosts, in the order in which the inventories define them.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.keys().map(String::as_str)
    }

    /// All groups with their hosts, those of the groups in them included; `all` and `ungrouped` come first.
    pub fn groups(&self) -> impl Iterator<Item = (&str, Vec<&str>)> {
        self.groups
            .iter()
            .map(|(name, group)| (name.as_str(), group.hosts.iter().filter_map(|id| self.name(*id)).collect()))
    }

    fn name(&self, id: HostId) -> Option<&str> {
        self.hosts.get_index(id).map(|(name, _)| name.as_str())
    }

    /// The hosts that a pattern means, within `--limit`, in the inventory's order.
    ///
    /// Patterns: `all` and `*`; a host; a group; globs and `~regex` for both; `a:b` and `a,b` for either; `a:&b` for
    /// both; `a:!b` for one and not the other; `a[0]`, `a[-1]`, `a[0:2]`, `a[3:]` for some hosts of a group (the last
    /// included). In a limit also `@FILE`, with a pattern a line. `localhost` needs no inventory, but must be named.
    ///
    /// # Errors
    /// A bad pattern, and a name that is no host or group: Ansible only warns, but a misspelt name must not do nothing
    /// without a word. Errors about the pattern have no place, those about the limit do.
    pub fn matching(&self, pattern: &str, limit: Option<&str>) -> Result<Vec<&str>, Diagnostic> {
        let mut hosts = pattern::evaluate(self, pattern)?;
        if let Some(limit) = limit {
            let within = pattern::limit(self, limit)?;
            hosts.retain(|host| within.contains(host));
        }
        hosts.sort_unstable();
        let name = |pick| match pick {
            Pick::Host(id) => self.name(id),
            Pick::Implicit(name) => Some(name),
        };
        Ok(hosts.into_iter().filter_map(name).collect())
    }

    /// The variables of a host, merged in Ansible's order: the groups of the inventory files, then group_vars (`all`
    /// beside the inventory, beside the playbook, then the others likewise), then the host's own of the inventory
    /// files, host_vars beside the inventory, and host_vars beside the playbook.
    ///
    /// # Errors
    /// An unknown host, and files of variables that are wrong.
    pub fn vars_of(&self, host: &str, playbook_folder: Option<&Path>) -> Result<IndexMap<String, Value>, Diagnostic> {
        let (own, groups): (Option<&Host>, &[GroupId]) = match self.hosts.get(host) {
            Some(own) => (Some(own), &own.groups),
            None if is_loopback(host) => (None, &[0]),
            None => {
                let known = self.hosts.keys().map(String::as_str).chain(["localhost"]);
                return Err(Diagnostic::error(format!("no host is called `{host}`")).nearest(host, known));
            }
        };
        let mut vars: IndexMap<String, Value> = IndexMap::new();
        let mut merge = |from: &Map<String, Value>| {
            vars.extend(from.iter().map(|(name, value)| (name.clone(), value.clone())));
        };
        let named: Vec<(&String, &Group)> = groups.iter().filter_map(|id| self.groups.get_index(*id)).collect();
        named.iter().for_each(|(_, group)| merge(&group.vars));
        let folders = || self.folders.iter().map(PathBuf::as_path).chain(playbook_folder);
        let (all, others) = named.split_at(named.len().min(1));
        for groups in [all, others] {
            for folder in folders() {
                for (name, _) in groups {
                    if let Some(more) = self.var_files.of(folder, Whose::Groups, name)? {
                        merge(&more);
                    }
                }
            }
        }
        match own {
            Some(own) => merge(&own.vars),
            None => merge(&Map::from_iter([("ansible_connection".to_string(), "local".into())])),
        }
        for folder in folders() {
            if let Some(more) = self.var_files.of(folder, Whose::Hosts, host)? {
                merge(&more);
            }
        }
        Ok(vars)
    }

    /// What Ansible calls magic: `inventory_hostname`, `inventory_hostname_short`, `group_names`, `inventory_dir`,
    /// `inventory_file` and `groups`. The last is large and the same for all hosts: where there are many hosts, take
    /// [`Inventory::own_magic_of`] and [`Inventory::shared_magic`].
    pub fn magic_of(&self, host: &str) -> Map<String, Value> {
        let mut magic = self.own_magic_of(host);
        magic.extend(self.shared.iter().map(|(name, value)| (name.clone(), value.clone())));
        magic
    }

    /// The magic variables that are the same for all hosts: `groups`.
    pub fn shared_magic(&self) -> &Map<String, Value> {
        &self.shared
    }

    /// The magic variables that each host has for itself: all but `groups`.
    pub fn own_magic_of(&self, host: &str) -> Map<String, Value> {
        let own = self.hosts.get(host);
        let groups = own.map_or(&[][..], |own| &own.groups);
        let mut names: Vec<&str> =
            groups.iter().filter_map(|id| self.groups.get_index(*id)).map(|(name, _)| name.as_str()).collect();
        names.retain(|name| *name != ALL);
        names.sort_unstable();
        let file = own.map(|own| &own.file).or(self.first.as_ref()).filter(|file| !file.as_os_str().is_empty());
        let absolute = file.map(|file| std::path::absolute(file).unwrap_or_else(|_| file.clone()));
        let folder = match &absolute {
            Some(path) if own.is_none() && path.is_dir() => Some(path.as_path()),
            Some(path) => path.parent(),
            None => None,
        };
        let text = |path: Option<&Path>| path.map_or(Value::Null, |path| path.display().to_string().into());
        Map::from_iter([
            ("inventory_hostname".to_string(), host.into()),
            ("inventory_hostname_short".to_string(), host.split('.').next().unwrap_or(host).into()),
            ("group_names".to_string(), names.into_iter().collect()),
            ("inventory_dir".to_string(), text(folder)),
            ("inventory_file".to_string(), text(absolute.as_deref())),
        ])
    }

    /// The folder of the file that defines a host, from which its relative paths start; "" for the implicit localhost
    /// and for hosts of the command line.
    pub fn folder_of(&self, host: &str) -> PathBuf {
        self.hosts.get(host).and_then(|host| host.file.parent()).unwrap_or(Path::new("")).to_path_buf()
    }
}

#[cfg(test)]
mod tests;
