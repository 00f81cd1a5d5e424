//! Which value a name has, for one host at one task: Ansible's order of precedence.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use crate::template::{AWAITED, Lookup, Var};
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
    /// Is there one of this name?
    pub fn contains_key(&self, name: &str) -> bool {
        self.0.contains_key(name)
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
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Layer::Raw(map) | Layer::Known(map) => map.keys().cloned().collect(),
            Layer::Final(map) => map.keys().cloned().collect(),
            Layer::Nodes(nodes) => nodes.iter().map(|(key, _)| key.name.clone()).collect(),
            Layer::Vars(map) => map.keys().cloned().collect(),
            Layer::Awaited(_) | Layer::AwaitedFacts => Vec::new(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

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
