//! stub
use crate::diag::Diagnostic;
use indexmap::IndexMap;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionKind {
    Local,
    Sandbox,
    Ssh,
    OpenSsh,
}
#[derive(Clone, Debug)]
pub struct Connection {
    pub kind: ConnectionKind,
    pub sandbox_root: Option<PathBuf>,
    pub sandbox_machine: Option<String>,
    pub become_: bool,
    pub become_user: Option<String>,
    pub become_password: Option<String>,
}
impl Connection {
    pub fn of(_: &str, vars: &Map<String, Value>) -> Result<Connection, Diagnostic> {
        Ok(Connection {
            kind: if vars.get("sandbox_root").is_some() { ConnectionKind::Sandbox } else { ConnectionKind::Local },
            sandbox_root: vars.get("sandbox_root").and_then(|v| v.as_str()).map(Into::into),
            sandbox_machine: vars.get("sandbox_machine").and_then(|v| v.as_str()).map(Into::into),
            become_: false,
            become_user: None,
            become_password: None,
        })
    }
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        self.become_password.as_deref().into_iter()
    }
}
pub struct Inventory {
    hosts: IndexMap<String, Map<String, Value>>,
}
impl Inventory {
    pub fn load(paths: &[PathBuf]) -> Result<Inventory, Vec<Diagnostic>> {
        let mut hosts = IndexMap::new();
        for p in paths {
            for line in std::fs::read_to_string(p).unwrap().lines() {
                let mut w = line.split_whitespace();
                if let Some(n) = w.next() {
                    if n.starts_with('#') {
                        continue;
                    }
                    let m: Map<String, Value> =
                        w.filter_map(|kv| kv.split_once('=')).map(|(k, v)| (k.to_string(), v.into())).collect();
                    hosts.insert(n.to_string(), m);
                }
            }
        }
        Ok(Inventory { hosts })
    }
    pub fn matching(&self, _: &str, _: Option<&str>) -> Result<Vec<&str>, Diagnostic> {
        Ok(self.hosts.keys().map(|s| s.as_str()).collect())
    }
    pub fn vars_of(&self, n: &str, _: Option<&Path>) -> Result<IndexMap<String, Value>, Diagnostic> {
        Ok(self.hosts[n].clone().into_iter().collect())
    }
    pub fn magic_of(&self, n: &str) -> Map<String, Value> {
        let mut m = Map::new();
        m.insert("inventory_hostname".into(), n.into());
        m
    }
    pub fn folder_of(&self, _: &str) -> PathBuf {
        PathBuf::new()
    }
}
