//! Which machines there are: INI and YAML inventories, groups, variables, patterns.
//!
//! What a group says is kept once and shared; a host's variables are put together when they are asked for.

mod connection;
mod files;
mod ini;
mod literal;
mod names;
mod pattern;
mod tree;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use indexmap::IndexMap;
use rayon::prelude::*;
use serde_json::{Map, Value};

use crate::diag::{Diagnostic, Source, Span};
pub use connection::{Connection, ConnectionKind, Secret};
use files::Folder;

/// A variable and where the user wrote it.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    /// As written: texts in it may be templates.
    pub value: Arc<Value>,
    /// Where.
    pub span: Span,
}

/// Variables by name.
pub type Vars = IndexMap<String, Variable>;

/// A machine.
#[derive(Debug)]
struct Host {
    vars: Vars,
    /// The groups that name it.
    direct: Vec<usize>,
    /// All its groups, weakest first.
    groups: Vec<usize>,
    /// The source that named it first.
    origin: usize,
}

/// A group of machines.
#[derive(Debug)]
struct Group {
    vars: Vars,
    /// In the order in which the group names them.
    hosts: Vec<usize>,
    /// Child groups, with the place that says so.
    children: Vec<(usize, Span)>,
    /// `ansible_group_priority`; 1 if not said.
    priority: i64,
    /// How far from `all`, by the longest way.
    depth: usize,
}

impl Default for Group {
    fn default() -> Group {
        Group { vars: Vars::new(), hosts: Vec::new(), children: Vec::new(), priority: 1, depth: 0 }
    }
}

/// Where hosts came from.
#[derive(Debug)]
struct Origin {
    /// The file; none for a list on the command line.
    file: Option<PathBuf>,
    /// The folder whose `group_vars` and `host_vars` count.
    folder: Option<PathBuf>,
}

/// The place of `all` and `ungrouped` among the groups.
const ALL: usize = 0;
const UNGROUPED: usize = 1;

/// Names under which this machine is known without being in an inventory.
const THIS_MACHINE: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// All machines that a run can reach.
pub struct Inventory {
    hosts: IndexMap<String, Host>,
    groups: IndexMap<String, Group>,
    origins: Vec<Origin>,
    warnings: Vec<Diagnostic>,
    /// `groups` as templates see it.
    membership: Arc<Value>,
    /// `group_vars` and `host_vars` that have been looked at.
    folders: Mutex<HashMap<PathBuf, Arc<Folder>>>,
    /// The place of what nobody wrote.
    nowhere: Span,
}

impl std::fmt::Debug for Inventory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inventory").field("hosts", &self.hosts).field("groups", &self.groups).finish_non_exhaustive()
    }
}

impl Inventory {
    /// Reads inventories: files, folders of files, and lists such as `ws01,ws02` or `localhost,`. What later ones say counts
    /// more. Without any, there is only this machine, as `localhost`.
    pub fn load(paths: &[impl AsRef<Path>]) -> Result<Inventory, Vec<Diagnostic>> {
        let mut builder = Builder::new();
        for path in paths {
            builder.add(path.as_ref());
        }
        builder.finish()
    }

    /// Reads one text, as if it were a file of that name; for tests and for what comes from elsewhere.
    pub fn of_text(name: &str, text: &str) -> Result<Inventory, Vec<Diagnostic>> {
        let mut builder = Builder::new();
        builder.origins.push(Origin { file: None, folder: None });
        builder.read(&Source::new(name, text), Path::new(name));
        builder.finish()
    }

    /// The hosts, in the order of the inventory.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.hosts.keys().map(String::as_str)
    }

    /// The groups and their hosts, children's included; `all` and `ungrouped` first.
    pub fn groups(&self) -> impl Iterator<Item = (&str, Vec<&str>)> {
        self.groups.keys().enumerate().map(|(at, name)| {
            let hosts = self.members(at).into_iter().filter_map(|host| self.host_name(host));
            (name.as_str(), hosts.collect())
        })
    }

    /// What is strange, but no reason to stop.
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// The hosts of a pattern (`all`, `web:&lab:!ws03`, `ws[01:09]*`, `~regex`, `group[0:2]`), those of the limit only, in the
    /// order of the inventory. A limit may also be `@file`, with a pattern in each line. The error has no place yet.
    pub fn matching(&self, pattern: &str, limit: Option<&str>) -> Result<Vec<&str>, Diagnostic> {
        pattern::matching(self, pattern, limit)
    }

    /// The groups of a host, weakest first, `all` included; empty for `localhost` that is in no inventory.
    pub fn groups_of(&self, host: &str) -> impl Iterator<Item = &str> {
        let groups = self.hosts.get(host).map(|host| host.groups.as_slice()).unwrap_or_default();
        groups.iter().filter_map(|group| self.groups.get_index(*group)).map(|(name, _)| name.as_str())
    }

    /// A host's variables, in Ansible's order of weight: groups of the inventory, `group_vars/all` beside the inventory and the
    /// playbook, the other `group_vars`, the host in the inventory, `host_vars`. Magic variables are [`Self::magic`].
    pub fn vars_of(&self, host: &str, playbook_dir: Option<&Path>) -> Result<Vars, Diagnostic> {
        let known = self.hosts.get(host);
        // This machine, when no inventory names it, is in no group, but what counts for all counts for it.
        let groups: &[usize] = known.map_or(&[ALL], |host| &host.groups);
        let mut vars = Vars::new();
        let mut add = |more: &Vars| vars.extend(more.iter().map(|(name, variable)| (name.clone(), variable.clone())));
        let group = |at: &usize| self.groups.get_index(*at);
        groups.iter().filter_map(group).for_each(|(_, group)| add(&group.vars));
        let folders = self.variable_folders(playbook_dir);
        for folder in &folders {
            add(&*folder.group("all")?);
        }
        for folder in &folders {
            for (name, _) in groups.iter().filter(|at| **at != ALL).filter_map(group) {
                add(&*folder.group(name)?);
            }
        }
        match known {
            Some(known) => add(&known.vars),
            None => {
                let variable = Variable { value: Arc::new("local".into()), span: self.nowhere.clone() };
                add(&Vars::from([("ansible_connection".to_string(), variable)]));
            }
        }
        for folder in &folders {
            add(&*folder.host(host)?);
        }
        Ok(vars)
    }

    /// Reads all `group_vars` and `host_vars` at once, and gives everything that is wrong with them.
    pub fn prepare(&self, playbook_dir: Option<&Path>) -> Result<(), Vec<Diagnostic>> {
        let groups: Vec<&String> = self.groups.keys().collect();
        let hosts: Vec<&String> = self.hosts.keys().collect();
        let mut errors = Vec::new();
        for folder in self.variable_folders(playbook_dir) {
            let names = groups.par_iter().map(|name| folder.group(name));
            errors.extend(names.filter_map(Result::err).collect::<Vec<_>>());
            let names = hosts.par_iter().map(|name| folder.host(name));
            errors.extend(names.filter_map(Result::err).collect::<Vec<_>>());
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// The variables that every host has: `inventory_hostname`, `inventory_hostname_short`, `group_names`, `groups`,
    /// `inventory_dir`, `inventory_file`. The last two are missing for hosts of a list on the command line.
    pub fn magic(&self, host: &str) -> IndexMap<&'static str, Arc<Value>> {
        let mut names: Vec<&str> = self.groups_of(host).filter(|name| *name != "all").collect();
        names.sort_unstable();
        let is_address = host.parse::<std::net::IpAddr>().is_ok();
        let short = if is_address { host } else { host.split('.').next().unwrap_or(host) };
        let mut magic = IndexMap::from([
            ("inventory_hostname", Arc::new(host.into())),
            ("inventory_hostname_short", Arc::new(short.into())),
            ("group_names", Arc::new(names.into())),
            ("groups", Arc::clone(&self.membership)),
        ]);
        if let Some(origin) = self.hosts.get(host).and_then(|host| self.origins.get(host.origin)) {
            let paths = [("inventory_dir", &origin.folder), ("inventory_file", &origin.file)];
            for (name, path) in paths {
                if let Some(path) = path {
                    magic.insert(name, Arc::new(path.to_string_lossy().into()));
                }
            }
        }
        magic
    }

    /// Folders with `group_vars` and `host_vars`, weakest first, each once.
    fn variable_folders(&self, playbook_dir: Option<&Path>) -> Vec<Arc<Folder>> {
        let own = self.origins.iter().filter_map(|origin| origin.folder.as_deref());
        let mut paths: Vec<&Path> = Vec::new();
        for path in own.chain(playbook_dir) {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
        let mut folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        paths
            .into_iter()
            .map(|path| {
                let open = || Arc::new(Folder::open(path));
                Arc::clone(folders.entry(path.to_path_buf()).or_insert_with(open))
            })
            .collect()
    }

    fn host_name(&self, at: usize) -> Option<&str> {
        self.hosts.get_index(at).map(|(name, _)| name.as_str())
    }

    /// A group's own hosts, then those of its children, then those of theirs; each once.
    fn members(&self, group: usize) -> Vec<usize> {
        if group == ALL {
            return (0..self.hosts.len()).collect();
        }
        let mut seen = vec![false; self.hosts.len()];
        let mut visited = vec![false; self.groups.len()];
        let mut members = Vec::new();
        let mut open = VecDeque::from([group]);
        while let Some(at) = open.pop_front() {
            if visited.get_mut(at).is_none_or(|visited| std::mem::replace(visited, true)) {
                continue;
            }
            let Some((_, group)) = self.groups.get_index(at) else { continue };
            for host in &group.hosts {
                if seen.get_mut(*host).is_some_and(|seen| !std::mem::replace(seen, true)) {
                    members.push(*host);
                }
            }
            open.extend(group.children.iter().map(|(child, _)| *child));
        }
        members
    }
}

/// An inventory in the making.
struct Builder {
    hosts: IndexMap<String, Host>,
    groups: IndexMap<String, Group>,
    origins: Vec<Origin>,
    errors: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
}

impl Builder {
    fn new() -> Builder {
        let groups = ["all", "ungrouped"].map(|name| (name.to_string(), Group::default()));
        Builder {
            hosts: IndexMap::new(),
            groups: groups.into(),
            origins: Vec::new(),
            errors: Vec::new(),
            warnings: Vec::new(),
        }
    }

    /// A group by name; a new one if there is none.
    fn group(&mut self, name: &str) -> usize {
        match self.groups.get_index_of(name) {
            Some(at) => at,
            None => self.groups.insert_full(name.to_string(), Group::default()).0,
        }
    }

    /// A host by name, in a group.
    fn host(&mut self, name: &str, group: usize) -> usize {
        let origin = self.origins.len().saturating_sub(1);
        let at = match self.hosts.get_index_of(name) {
            Some(at) => at,
            None => {
                let host = Host { vars: Vars::new(), direct: Vec::new(), groups: Vec::new(), origin };
                self.hosts.insert_full(name.to_string(), host).0
            }
        };
        if let Some((_, host)) = self.hosts.get_index_mut(at)
            && !host.direct.contains(&group)
        {
            host.direct.push(group);
            if let Some((_, group)) = self.groups.get_index_mut(group) {
                group.hosts.push(at);
            }
        }
        at
    }

    fn host_var(&mut self, host: usize, name: &str, variable: Variable) {
        if let Some((_, host)) = self.hosts.get_index_mut(host) {
            host.vars.insert(name.to_string(), variable);
        }
    }

    fn group_var(&mut self, group: usize, name: &str, variable: Variable) {
        let Some((_, group)) = self.groups.get_index_mut(group) else { return };
        if name != "ansible_group_priority" {
            group.vars.insert(name.to_string(), variable);
            return;
        }
        let number = match &*variable.value {
            Value::String(text) => text.trim().parse().ok(),
            value => value.as_i64(),
        };
        match number {
            Some(number) => group.priority = number,
            None => {
                let message = "`ansible_group_priority` must be a whole number";
                self.errors.push(Diagnostic::error(message).at(&variable.span));
            }
        }
    }

    fn child(&mut self, parent: usize, child: usize, place: &Span) {
        if let Some((_, group)) = self.groups.get_index_mut(parent)
            && !group.children.iter().any(|(known, _)| *known == child)
        {
            group.children.push((child, place.clone()));
        }
    }

    fn finish(mut self) -> Result<Inventory, Vec<Diagnostic>> {
        let nowhere = Span::new(&Source::new("<this machine>", ""), 0, 0);
        // Hosts that no group names are the ungrouped ones, wherever they were named first.
        let mut ungrouped = Vec::new();
        for (at, host) in self.hosts.values_mut().enumerate() {
            host.direct.retain(|group| *group != UNGROUPED);
            if host.direct.is_empty() {
                host.direct.push(UNGROUPED);
                ungrouped.push(at);
            }
        }
        if let Some((_, group)) = self.groups.get_index_mut(UNGROUPED) {
            group.hosts = ungrouped;
        }
        let parents = tree::parents(&self.groups);
        if let Err(cycle) = tree::depths(&mut self.groups, &parents) {
            self.errors.push(cycle);
        }
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        for name in self.groups.keys().filter(|name| self.hosts.contains_key(*name)) {
            self.warnings.push(Diagnostic::warning(format!("`{name}` is the name of a host and of a group")));
        }
        let ancestors = tree::ancestors(&self.groups, &parents);
        for host in self.hosts.values_mut() {
            let mut all: Vec<usize> =
                host.direct.iter().filter_map(|group| ancestors.get(*group)).flatten().copied().collect();
            all.push(ALL);
            all.sort_unstable();
            all.dedup();
            // Ansible's order: far from `all` counts more, then the priority, then the name.
            all.sort_by_key(|at| self.groups.get_index(*at).map(|(name, group)| (group.depth, group.priority, name)));
            host.groups = all;
        }
        let mut inventory = Inventory {
            hosts: self.hosts,
            groups: self.groups,
            origins: self.origins,
            warnings: self.warnings,
            membership: Arc::new(Value::Null),
            folders: Mutex::default(),
            nowhere,
        };
        let membership: Map<String, Value> =
            inventory.groups().map(|(name, hosts)| (name.to_string(), hosts.into())).collect();
        inventory.membership = Arc::new(Value::Object(membership));
        Ok(inventory)
    }
}
