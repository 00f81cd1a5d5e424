//! Which value a name has, for one host at one task: Ansible's order of precedence.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use crate::template::{AWAITED, Lookup, UNSEEN, Var};
use crate::yaml::{Key, Node};

/// Variables that many tasks look at: looking costs no copy.
#[derive(Clone, Debug, Default)]
pub struct Stored(IndexMap<String, Arc<Value>>);

impl Stored {
    /// Sets one.
    pub fn insert(&mut self, name: impl Into<String>, value: impl Into<Value>) {
        self.share(name, Arc::new(value.into()));
    }
    /// Sets one that is kept elsewhere too.
    pub fn share(&mut self, name: impl Into<String>, value: Arc<Value>) {
        self.0.insert(name.into(), value);
    }
    /// One, to change it.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        self.0.get_mut(name).map(Arc::make_mut)
    }
    /// All names.
    pub fn keys(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }
    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }
    fn get(&self, name: &str) -> Option<Arc<Value>> {
        self.0.get(name).map(Arc::clone)
    }
    fn since(&self, before: &Stored) -> Stored {
        let new = |name: &str, value: &Arc<Value>| !before.0.get(name).is_some_and(|old| Arc::ptr_eq(old, value));
        let changed = self.0.iter().filter(|(name, value)| new(name, value));
        Stored(changed.map(|(name, value)| (name.clone(), Arc::clone(value))).collect())
    }
    /// Takes over the other's, which count more.
    fn merge(&mut self, other: &Stored) {
        match self.0.get_mut("ansible_facts").map(Arc::make_mut) {
            // Facts are also members of `ansible_facts`, and those of two tasks belong together.
            Some(Value::Object(all)) => {
                if let Some(Value::Object(more)) = other.0.get("ansible_facts").map(Arc::as_ref) {
                    all.extend(more.iter().map(|(name, value)| (name.clone(), value.clone())));
                }
            }
            _ => self.0.extend(other.0.get_key_value("ansible_facts").map(|(n, v)| (n.clone(), Arc::clone(v)))),
        }
        let others = other.0.iter().filter(|(name, _)| *name != "ansible_facts");
        self.0.extend(others.map(|(name, value)| (name.clone(), Arc::clone(value))));
    }
}

impl Extend<(String, Value)> for Stored {
    fn extend<T: IntoIterator<Item = (String, Value)>>(&mut self, values: T) {
        self.0.extend(values.into_iter().map(|(name, value)| (name, Arc::new(value))));
    }
}

impl FromIterator<(String, Value)> for Stored {
    fn from_iter<T: IntoIterator<Item = (String, Value)>>(values: T) -> Stored {
        let mut stored = Stored::default();
        stored.extend(values);
        stored
    }
}

/// One source of variables.
#[derive(Clone, Copy)]
pub enum Layer<'a> {
    /// As the user wrote them: rendered when used.
    Raw(&'a Stored),
    /// Straight from a playbook.
    Nodes(&'a [(Key, Node)]),
    /// Never rendered: facts, what machines said.
    Known(&'a Stored),
    /// Likewise; a few that one task alone looks at.
    Final(&'a Map<String, Value>),
    /// Each of its own kind.
    Vars(&'a IndexMap<String, Var>),
    /// One that a task on its way may change.
    Awaited(&'a str),
    /// Facts that are on their way.
    AwaitedFacts,
    /// Facts of a machine that nobody asks.
    UnseenFacts,
}

/// Variables that begin as facts do, and are none: how a host is reached, and what a run says of itself.
const NO_FACTS: [&str; 18] = [
    "ansible_check_mode",
    "ansible_connection",
    "ansible_host",
    "ansible_index_var",
    "ansible_limit",
    "ansible_loop_var",
    "ansible_parent_role_names",
    "ansible_password",
    "ansible_play_name",
    "ansible_port",
    "ansible_private_key_file",
    "ansible_python_interpreter",
    "ansible_role_name",
    "ansible_run_tags",
    "ansible_skip_tags",
    "ansible_timeout",
    "ansible_user",
    "ansible_version",
];

/// Could a variable of this name be a fact, or another thing that only a machine can say?
fn may_be_fact(name: &str) -> bool {
    name.starts_with("ansible_")
        && !NO_FACTS.contains(&name)
        && !["ansible_become", "ansible_ssh_", "ansible_sudo_", "ansible_su_"].iter().any(|way| name.starts_with(way))
}

impl Layer<'_> {
    fn get(&self, name: &str) -> Option<Var> {
        match self {
            Layer::Raw(map) => map.get(name).map(Var::Template),
            Layer::Known(map) => map.get(name).map(Var::Final),
            Layer::Nodes(nodes) => {
                nodes.iter().rev().find(|(key, _)| key.name == name).map(|(_, node)| Var::template(node.to_json()))
            }
            Layer::Final(map) => map.get(name).cloned().map(Var::fixed),
            Layer::Vars(map) => map.get(name).cloned(),
            Layer::Awaited(awaited) => (*awaited == name).then(|| Var::Unknown(AWAITED.into())),
            Layer::AwaitedFacts => name.starts_with("ansible_").then(|| Var::Unknown(AWAITED.into())),
            Layer::UnseenFacts => may_be_fact(name).then(|| Var::Unknown(UNSEEN.into())),
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Layer::Raw(map) | Layer::Known(map) => map.keys().cloned().collect(),
            Layer::Final(map) => map.keys().cloned().collect(),
            Layer::Nodes(nodes) => nodes.iter().map(|(key, _)| key.name.clone()).collect(),
            Layer::Vars(map) => map.keys().cloned().collect(),
            Layer::Awaited(_) | Layer::AwaitedFacts | Layer::UnseenFacts => Vec::new(),
        }
    }
}

/// All sources, the strongest first.
#[derive(Clone, Default)]
pub struct Scope<'a> {
    layers: Vec<Layer<'a>>,
    folders: Vec<PathBuf>,
}

impl<'a> Scope<'a> {
    /// Adds a source that is weaker than all before it.
    pub fn push(&mut self, layer: Layer<'a>) {
        self.layers.push(layer);
    }

    /// The same with one source that is stronger than all others.
    pub fn under(&self, layer: Layer<'a>) -> Scope<'a> {
        let mut layers = Vec::with_capacity(self.layers.len() + 1);
        layers.push(layer);
        layers.extend_from_slice(&self.layers);
        Scope { layers, folders: self.folders.clone() }
    }

    /// Where the value of a name stands, if a playbook or a role says it; the inventory's places are not kept.
    pub fn written(&self, name: &str) -> Option<&'a Node> {
        let layer = self.layers.iter().find(|layer| layer.get(name).is_some())?;
        match layer {
            Layer::Nodes(nodes) => nodes.iter().rev().find(|(key, _)| key.name == name).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The same, and `lookup('file', …)` looks in these folders.
    pub fn in_folders(mut self, folders: Vec<PathBuf>) -> Scope<'a> {
        self.folders = folders;
        self
    }
}

impl Lookup for Scope<'_> {
    fn get(&self, name: &str) -> Option<Var> {
        self.layers.iter().find_map(|layer| layer.get(name))
    }

    fn names(&self) -> Vec<String> {
        self.layers.iter().flat_map(Layer::names).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn folders(&self) -> Vec<PathBuf> {
        self.folders.clone()
    }
}

/// What is known of one host while a run goes on.
#[derive(Default)]
pub struct HostVars {
    /// From the inventory, with group_vars and host_vars.
    pub inventory: Arc<Stored>,
    /// `inventory_hostname`, `groups`, …; nobody can override these.
    pub magic: Stored,
    /// What `setup` found.
    pub facts: Stored,
    /// What `set_fact` set and `register` kept.
    pub set: IndexMap<String, Var>,
    /// What `include_vars` read.
    pub included: Stored,
    /// What the play's `vars_files` hold.
    pub vars_files: Stored,
}

/// What was known of a host at some time; values are shared, not copied.
pub struct Mark {
    facts: Stored,
    set: IndexMap<String, Var>,
    included: Stored,
}

/// What came to be known of a host since then.
#[derive(Clone, Default)]
pub struct Delta {
    facts: Stored,
    set: IndexMap<String, Var>,
    included: Stored,
}

impl HostVars {
    /// What is known now.
    pub fn mark(&self) -> Mark {
        Mark { facts: self.facts.clone(), set: self.set.clone(), included: self.included.clone() }
    }

    /// What came since.
    pub fn since(&self, mark: &Mark) -> Delta {
        Delta {
            facts: self.facts.since(&mark.facts),
            set: self
                .set
                .iter()
                .filter(|(name, var)| !mark.set.get(*name).is_some_and(|before| same(before, var)))
                .map(|(name, var)| (name.clone(), var.clone()))
                .collect(),
            included: self.included.since(&mark.included),
        }
    }

    /// Takes over what another host came to know.
    pub fn take(&mut self, delta: &Delta) {
        self.facts.merge(&delta.facts);
        self.included.merge(&delta.included);
        self.set.extend(delta.set.iter().map(|(name, var)| (name.clone(), var.clone())));
    }

    /// How many variables of each sort there are.
    pub fn sizes(&self) -> [usize; 3] {
        [self.facts.0.len(), self.set.len(), self.included.0.len()]
    }

    /// All of it that is there already, to be kept elsewhere.
    pub fn all(&self) -> Delta {
        let there = |var: &Var| !matches!(var, Var::Unknown(why) if why == AWAITED);
        let set = self.set.iter().filter(|(_, var)| there(var)).map(|(name, var)| (name.clone(), var.clone()));
        Delta { facts: self.facts.clone(), set: set.collect(), included: self.included.clone() }
    }

    /// Goes back to how it was.
    pub fn back_to(&mut self, mark: Mark) {
        self.facts = mark.facts;
        self.set = mark.set;
        self.included = mark.included;
    }
}

impl Delta {
    /// The layers, the strongest first.
    pub fn layers(&self) -> [Layer<'_>; 3] {
        [Layer::Vars(&self.set), Layer::Raw(&self.included), Layer::Known(&self.facts)]
    }

    /// The names of what was set.
    pub fn names(&self) -> Vec<String> {
        let all = self.facts.0.keys().chain(self.set.keys()).chain(self.included.0.keys());
        all.cloned().collect()
    }

    /// Is there nothing new?
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty() && self.set.is_empty() && self.included.is_empty()
    }

    /// Adds what is newer.
    pub fn add(&mut self, newer: &Delta) {
        self.facts.merge(&newer.facts);
        self.included.merge(&newer.included);
        self.set.extend(newer.set.iter().map(|(name, var)| (name.clone(), var.clone())));
    }
}

/// The very same value?
fn same(a: &Var, b: &Var) -> bool {
    match (a, b) {
        (Var::Template(a), Var::Template(b)) | (Var::Final(a), Var::Final(b)) => Arc::ptr_eq(a, b),
        (Var::Unknown(a), Var::Unknown(b)) => a == b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_one_host_came_to_know_another_takes_over() {
        let mut first = HostVars::default();
        first.facts.insert("a", 1);
        first.facts.insert("ansible_facts", json!({"a": 1}));
        first.set.insert("old".into(), Var::fixed(1));
        let mark = first.mark();
        assert!(first.since(&mark).is_empty());
        first.set.insert("new".into(), Var::fixed(2));
        first.facts.insert("b", 2);
        first.facts.insert("ansible_facts", json!({"a": 1, "b": 2}));
        let delta = first.since(&mark);
        assert_eq!(delta.set.keys().collect::<Vec<_>>(), ["new"]);
        assert_eq!(delta.facts.keys().collect::<Vec<_>>(), ["ansible_facts", "b"]);
        let mut second = HostVars::default();
        second.facts.insert("c", 3);
        second.facts.insert("ansible_facts", json!({"c": 3}));
        second.take(&delta);
        assert_eq!(*second.facts.get("ansible_facts").unwrap(), json!({"c": 3, "a": 1, "b": 2}));
        assert!(second.set.contains_key("new") && !second.set.contains_key("old"));
        first.back_to(mark);
        assert!(!first.set.contains_key("new") && first.facts.get("b").is_none());
    }

    #[test]
    fn the_strongest_source_wins() {
        let weak = json!({"a": 1, "b": 2});
        let strong = json!({"b": 3});
        let weak: Stored = weak.as_object().unwrap().clone().into_iter().collect();
        let mut scope = Scope::default();
        scope.push(Layer::Final(strong.as_object().unwrap()));
        scope.push(Layer::Raw(&weak));
        assert!(matches!(scope.get("b"), Some(Var::Final(v)) if *v == json!(3)));
        assert!(matches!(scope.get("a"), Some(Var::Template(v)) if *v == json!(1)));
        assert_eq!(scope.names(), ["a", "b"]);
        let item = json!({"a": 9});
        assert!(
            matches!(scope.under(Layer::Final(item.as_object().unwrap())).get("a"), Some(Var::Final(v)) if *v == json!(9))
        );
    }
}
