//! Which value a name has, for one host at one task: Ansible's order of precedence.

use std::collections::BTreeSet;
use std::path::PathBuf;

use indexmap::IndexMap;
use serde_json::{Map, Value};

use crate::template::{Lookup, Var};
use crate::yaml::{Key, Node};

/// Variables as a user wrote them; strings in them may be templates.
pub type Raw = Map<String, Value>;

/// One source of variables.
#[derive(Clone, Copy)]
pub enum Layer<'a> {
    /// As the user wrote them: rendered when used.
    Raw(&'a Raw),
    /// Straight from a playbook.
    Nodes(&'a [(Key, Node)]),
    /// Never rendered: facts, what machines said.
    Final(&'a Map<String, Value>),
    /// Each of its own kind.
    Vars(&'a IndexMap<String, Var>),
}

impl Layer<'_> {
    fn get(&self, name: &str) -> Option<Var> {
        match self {
            Layer::Raw(map) => map.get(name).cloned().map(Var::template),
            Layer::Nodes(nodes) => {
                nodes.iter().rev().find(|(key, _)| key.name == name).map(|(_, node)| Var::template(node.to_json()))
            }
            Layer::Final(map) => map.get(name).cloned().map(Var::fixed),
            Layer::Vars(map) => map.get(name).cloned(),
        }
    }

    fn names(&self) -> Vec<String> {
        match self {
            Layer::Raw(map) | Layer::Final(map) => map.keys().cloned().collect(),
            Layer::Nodes(nodes) => nodes.iter().map(|(key, _)| key.name.clone()).collect(),
            Layer::Vars(map) => map.keys().cloned().collect(),
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
    pub inventory: Raw,
    /// `inventory_hostname`, `groups`, …; nobody can override these.
    pub magic: Map<String, Value>,
    /// What `setup` found.
    pub facts: Map<String, Value>,
    /// What `set_fact` set and `register` kept.
    pub set: IndexMap<String, Var>,
    /// What `include_vars` read.
    pub included: Raw,
    /// What the play's `vars_files` hold.
    pub vars_files: Raw,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_strongest_source_wins() {
        let weak = json!({"a": 1, "b": 2});
        let strong = json!({"b": 3});
        let mut scope = Scope::default();
        scope.push(Layer::Final(strong.as_object().unwrap()));
        scope.push(Layer::Raw(weak.as_object().unwrap()));
        assert!(matches!(scope.get("b"), Some(Var::Final(v)) if *v == json!(3)));
        assert!(matches!(scope.get("a"), Some(Var::Template(v)) if *v == json!(1)));
        assert_eq!(scope.names(), ["a", "b"]);
        let item = json!({"a": 9});
        assert!(
            matches!(scope.under(Layer::Final(item.as_object().unwrap())).get("a"), Some(Var::Final(v)) if *v == json!(9))
        );
    }
}
