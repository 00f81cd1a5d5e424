//! What the readers of INI and YAML put together: hosts, groups, and who is whose child.

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Arc;

use indexmap::{IndexMap, IndexSet};
use serde_json::{Map, Value};

use super::graph;
use super::range;
use super::{ALL, Group, Host, Parts, UNGROUPED};
use crate::diag::{Diagnostic, Span};
use crate::playbook::is_identifier;

/// The place of a group in the order of definition; `all` is 0, `ungrouped` 1.
pub(super) type GroupId = usize;
/// The place of a host in the order of definition.
pub(super) type HostId = usize;

/// Why a group is named although it is not defined there.
#[derive(Clone, Copy)]
pub(super) enum Mention {
    /// In `[x:children]`.
    Child,
    /// As `[x:vars]`.
    Vars,
}

/// A group as far as it is known.
#[derive(Default)]
struct Draft {
    vars: Map<String, Value>,
    priority: i64,
    hosts: IndexSet<HostId>,
    children: IndexSet<GroupId>,
    defined: bool,
    mentions: Vec<(Span, Mention)>,
}

/// A host as far as it is known.
struct HostDraft {
    vars: Map<String, Value>,
    groups: IndexSet<GroupId>,
    file: PathBuf,
}

/// Groups and hosts while files are being read.
pub(super) struct Builder {
    /// All mistakes so far.
    pub errors: Vec<Diagnostic>,
    /// What the user should know and nothing stops for.
    pub warnings: Vec<Diagnostic>,
    groups: IndexMap<String, Draft>,
    hosts: IndexMap<String, HostDraft>,
    /// Where each pair of parent and child was first written.
    edges: Vec<(GroupId, GroupId, Span)>,
    file: PathBuf,
}

impl Builder {
    pub fn new() -> Builder {
        let mut builder = Builder {
            errors: Vec::new(),
            warnings: Vec::new(),
            groups: IndexMap::new(),
            hosts: IndexMap::new(),
            edges: Vec::new(),
            file: PathBuf::new(),
        };
        builder.group(ALL);
        builder.group(UNGROUPED);
        builder
    }

    /// What comes now is from this file.
    pub fn begin(&mut self, file: PathBuf) {
        self.file = file;
    }

    /// The group of this name, defined from now on.
    pub fn group(&mut self, name: &str) -> GroupId {
        let id = self.named(name);
        if let Some((_, draft)) = self.groups.get_index_mut(id) {
            draft.defined = true;
        }
        id
    }

    /// The group of this name, which must be defined somewhere.
    pub fn mention(&mut self, name: &str, span: Span, why: Mention) -> GroupId {
        let id = self.named(name);
        if let Some((_, draft)) = self.groups.get_index_mut(id).filter(|(_, draft)| !draft.defined) {
            draft.mentions.push((span, why));
        }
        id
    }

    fn named(&mut self, name: &str) -> GroupId {
        match self.groups.get_index_of(name) {
            Some(id) => id,
            None => self.groups.insert_full(name.to_string(), Draft::default()).0,
        }
    }

    /// Is this a good name for a group? If not, that is an error.
    pub fn check_group_name(&mut self, name: &str, span: &Span) -> bool {
        let bad = name.chars().find(|c| c.is_whitespace() || c.is_control() || ",:!&~*?[]{}@".contains(*c));
        let problem = match bad {
            _ if name.is_empty() => "a group needs a name".to_string(),
            None => return true,
            Some(bad) => format!("a group's name can't hold {bad:?}: `{name}`"),
        };
        self.errors.push(Diagnostic::error(problem).at(span));
        false
    }

    /// Makes one group a child of another.
    pub fn child(&mut self, parent: GroupId, child: GroupId, span: Span) {
        let new = self.groups.get_index_mut(parent).is_some_and(|(_, draft)| draft.children.insert(child));
        if new {
            self.edges.push((parent, child, span));
        }
    }

    /// The hosts that a line or key stands for, put into a group, with these variables.
    pub fn add_hosts(&mut self, group: GroupId, pattern: &str, span: &Span, vars: Map<String, Value>) {
        let (names, port) = match host_names(pattern, span) {
            Ok(names) => names,
            Err(error) => return self.errors.push(error),
        };
        let mut vars = vars;
        if let Some(port) = port {
            vars.entry("ansible_port").or_insert_with(|| port.into());
        }
        let last = names.len().saturating_sub(1);
        for (at, name) in names.into_iter().enumerate() {
            let file = &self.file;
            let entry = self.hosts.entry(name);
            let id = entry.index();
            let draft =
                entry.or_insert_with(|| HostDraft { vars: Map::new(), groups: IndexSet::new(), file: file.clone() });
            draft.groups.insert(group);
            let own = if at == last { std::mem::take(&mut vars) } else { vars.clone() };
            if draft.vars.is_empty() {
                draft.vars = own;
            } else {
                draft.vars.extend(own);
            }
            if let Some((_, draft)) = self.groups.get_index_mut(group) {
                draft.hosts.insert(id);
            }
        }
    }

    /// Gives a group a variable.
    pub fn group_var(&mut self, group: GroupId, name: &str, value: Value, span: &Span) {
        let Some((_, draft)) = self.groups.get_index_mut(group) else { return };
        if name != PRIORITY {
            draft.vars.insert(name.to_string(), value);
            return;
        }
        let number = value.as_i64().or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()));
        match number {
            Some(number) => draft.priority = number,
            None => self.errors.push(Diagnostic::error(format!("`{PRIORITY}` must be a whole number")).at(span)),
        }
    }

    /// Can a variable have this name? If not, that is an error.
    pub fn check_variable_name(&mut self, name: &str, span: &Span) -> bool {
        let bad = bad_variable_name(name, span);
        let good = bad.is_none();
        self.errors.extend(bad);
        good
    }

    /// Everything put together and in order.
    ///
    /// # Errors
    /// All mistakes, those of the files included.
    pub fn finish(mut self) -> Result<(Parts, Vec<Diagnostic>), Vec<Diagnostic>> {
        self.undefined_groups();
        // What has no other parent is a child of `all`.
        let mut has_parent: HashSet<GroupId> = self.edges.iter().map(|(_, child, _)| *child).collect();
        has_parent.insert(0);
        let orphans: Vec<GroupId> = (0..self.groups.len()).filter(|id| !has_parent.contains(id)).collect();
        let mut children: Vec<Vec<GroupId>> =
            self.groups.values().map(|draft| draft.children.iter().copied().collect()).collect();
        if let Some(all) = children.first_mut() {
            all.extend(orphans);
        }
        let depths = match graph::depths(&children) {
            Ok(depths) => depths,
            Err(cycles) => {
                for cycle in cycles {
                    let error = self.cycle(&cycle);
                    self.errors.push(error);
                }
                return Err(self.errors);
            }
        };
        if !self.errors.is_empty() {
            return Err(self.errors);
        }
        self.same_names();
        // Hosts of no real group are those of `ungrouped`, wherever they were written.
        for (id, host) in self.hosts.values_mut().enumerate() {
            let grouped = host.groups.iter().any(|group| *group > 1);
            if let Some((_, ungrouped)) = self.groups.get_index_mut(1) {
                if grouped {
                    ungrouped.hosts.shift_remove(&id);
                    host.groups.shift_remove(&1);
                } else {
                    ungrouped.hosts.insert(id);
                    host.groups.insert(1);
                }
            }
        }
        if let Some((_, ungrouped)) = self.groups.get_index_mut(1) {
            ungrouped.hosts.sort_unstable();
        }
        let members = graph::members(&children, &self.groups.values().map(|draft| &draft.hosts).collect::<Vec<_>>());
        let order: Vec<(usize, i64, &str)> = self
            .groups
            .iter()
            .zip(&depths)
            .map(|((name, draft), depth)| (*depth, draft.priority, name.as_str()))
            .collect();
        let mut chains = graph::Chains::new(&children, &order);
        let chains: Vec<Arc<[GroupId]>> = self.hosts.values().map(|host| chains.of(&host.groups)).collect();
        let groups = self
            .groups
            .into_iter()
            .zip(members)
            .map(|((name, draft), hosts)| (name, Group { vars: draft.vars, hosts }))
            .collect();
        let hosts = self
            .hosts
            .into_iter()
            .zip(chains)
            .map(|((name, draft), chain)| (name, Host { vars: draft.vars, groups: chain, file: draft.file }))
            .collect();
        Ok((Parts { groups, hosts }, self.warnings))
    }

    fn undefined_groups(&mut self) {
        let defined: Vec<&str> =
            self.groups.iter().filter(|(_, draft)| draft.defined).map(|(name, _)| name.as_str()).collect();
        for (name, draft) in self.groups.iter().filter(|(_, draft)| !draft.defined) {
            for (span, why) in &draft.mentions {
                let error = Diagnostic::error(format!("the group `{name}` is nowhere defined")).at(span);
                let error = match why {
                    Mention::Child if self.hosts.contains_key(name) => error
                        .help(format!("`{name}` is a host; hosts stand in `[NAME]`, only groups in `[NAME:children]`")),
                    Mention::Child => error.help(format!("define it by a section `[{name}]`, even an empty one")),
                    Mention::Vars => error.help(format!("define it by a section `[{name}]` that holds its hosts")),
                };
                self.errors.push(error.nearest(name, defined.iter().copied()));
            }
        }
    }

    fn cycle(&self, cycle: &[GroupId]) -> Diagnostic {
        let name = |id: &GroupId| self.groups.get_index(*id).map_or("", |(name, _)| name.as_str());
        let first = cycle.first().copied().unwrap_or_default();
        let way: Vec<&str> = cycle.iter().chain([&first]).map(name).collect();
        let error = Diagnostic::error(format!("the group `{}` is its own ancestor: {}", name(&first), way.join(" > ")));
        // The last edge written is most likely the wrong one.
        let edge = self.edges.iter().rev().find(|(parent, child, _)| {
            cycle.iter().zip(cycle.iter().skip(1).chain([&first])).any(|(a, b)| a == parent && b == child)
        });
        match edge {
            Some((_, child, span)) if *child == 0 => {
                error.at(span).help("every group is within `all`, so `all` can't be a child")
            }
            Some((_, _, span)) => error.at(span),
            None => error,
        }
    }

    fn same_names(&mut self) {
        for (name, host) in &self.hosts {
            if self.groups.contains_key(name) {
                self.warnings.push(
                    Diagnostic::warning(format!("`{name}` is a group and also a host of {}", host.file.display()))
                        .help("a pattern of that name means the group and the host; better rename one of them"),
                );
            }
        }
    }
}

/// The variable that orders groups of equal depth.
pub(super) const PRIORITY: &str = "ansible_group_priority";

/// What is wrong with a variable's name, if anything.
pub(super) fn bad_variable_name(name: &str, span: &Span) -> Option<Diagnostic> {
    (!is_identifier(name)).then(|| {
        let error = Diagnostic::error(format!("`{name}` can't be the name of a variable")).at(span);
        error.help("a name is letters, digits and `_`, and does not begin with a digit")
    })
}

/// The names that a host's line or key stands for, and the port.
fn host_names(pattern: &str, span: &Span) -> Result<(Vec<String>, Option<u16>), Diagnostic> {
    let wrong = |message: String| Diagnostic::error(message).at(span);
    let (pattern, port) = range::split_port(pattern).map_err(wrong)?;
    let help = |bad: char| match bad {
        '=' => "variables of a group stand in a section `[NAME:vars]`, those of a host behind its name",
        '@' => "the user goes into the variable `ansible_user`",
        ',' => "write one host a line",
        _ => "a host's name is what the network calls it; give another address by `ansible_host`",
    };
    let bad = pattern.chars().find(|c| c.is_whitespace() || c.is_control() || ",=!&~*?{}@/\\\"'|;#".contains(*c));
    if let Some(bad) = bad {
        return Err(wrong(format!("a host's name can't hold {bad:?}: `{pattern}`")).help(help(bad)));
    }
    if pattern.is_empty() {
        return Err(wrong("a host needs a name".into()));
    }
    if pattern.starts_with('-') {
        let error = wrong(format!("a host's name can't begin with `-`: `{pattern}`"));
        return Err(error.help("a YAML inventory needs a name that ends in .yml or .yaml"));
    }
    let names = range::expand(pattern)
        .map_err(|problem| wrong(problem).help("ranges are written [01:40], [1:10:2] or [a:f]"))?;
    Ok((names, port))
}
