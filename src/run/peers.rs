//! What hosts know of each other: `hostvars`, and hosts where a task of another one is done (`delegate_to`).

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use indexmap::IndexMap;

use super::link::Link;
use super::vars::{Delta, Layer, Scope, Stored};
use super::{HostStart, Shared, host_start, render::Render};
use crate::host::Error;
use crate::inventory::Inventory;
use crate::template::{Lookup, Scopes, Var};

/// Up to so many hosts all that became known of them is kept; of more only where something asks for it.
const FEW: usize = 200;
/// Files larger than this hold no templates.
const LARGEST: u64 = 1 << 20;

/// A host where tasks of others are done; one task at a time.
pub(super) type Delegate = Arc<Mutex<Option<Link>>>;

/// What is known of a run's hosts in one place.
pub(super) struct Peers {
    inventory: Arc<Inventory>,
    playbook_folder: Option<PathBuf>,
    extra_vars: Stored,
    render: Render,
    /// Does anything ask for facts of other hosts?
    kept: bool,
    /// No machine is asked for anything.
    unseen: bool,
    starts: Mutex<HashMap<String, Option<Arc<HostStart>>>>,
    known: RwLock<HashMap<String, Arc<Delta>>>,
    /// What tasks of other hosts set for hosts that have not seen it yet.
    given: Mutex<HashMap<String, Delta>>,
    delegates: Mutex<HashMap<String, Delegate>>,
}

impl Peers {
    pub fn new(
        inventory: Arc<Inventory>,
        playbook_folder: Option<PathBuf>,
        extra_vars: Stored,
        kept: bool,
        unseen: bool,
    ) -> Arc<Peers> {
        Arc::new(Peers {
            inventory,
            playbook_folder,
            extra_vars,
            render: Render::default(),
            kept,
            unseen,
            starts: Mutex::default(),
            known: RwLock::default(),
            given: Mutex::default(),
            delegates: Mutex::default(),
        })
    }

    /// `hostvars` as a variable of every host.
    pub fn words(self: &Arc<Peers>) -> IndexMap<String, Var> {
        IndexMap::from([("hostvars".to_string(), Var::Scopes(Arc::new(Hostvars(Arc::clone(self)))))])
    }

    /// Is kept what becomes known of hosts?
    pub fn kept(&self) -> bool {
        self.kept
    }

    /// All that is known of a host now.
    pub fn publish(&self, host: &str, all: Delta) {
        self.known.write().unwrap_or_else(PoisonError::into_inner).insert(host.to_string(), Arc::new(all));
    }

    /// A task of another host set something for this one (`delegate_facts`).
    pub fn add(&self, host: &str, delta: &Delta) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        Arc::make_mut(known.entry(host.to_string()).or_default()).add(delta);
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        given.entry(host.to_string()).or_default().add(delta);
    }

    /// What tasks of other hosts set for this one since it was asked last.
    pub fn given(&self, host: &str) -> Option<Delta> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).remove(host)
    }

    /// What was published of a host.
    pub fn known(&self, host: &str) -> Option<Arc<Delta>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(host).cloned()
    }

    /// What the inventory says of a host; `None` if there is none of that name.
    fn start(&self, host: &str) -> Option<Arc<HostStart>> {
        let mut starts = self.starts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = starts.get(host) {
            return known.clone();
        }
        let start = host_start(host, self.playbook_folder.as_deref(), &self.inventory, &self.extra_vars, &self.render)
            .ok()
            .map(Arc::new);
        starts.insert(host.to_string(), start.clone());
        start
    }

    /// The host where a task is to be done instead, reached by its own connection variables.
    ///
    /// # Errors
    /// When the inventory knows no such host.
    pub fn delegate(&self, host: &str, shared: &Shared) -> Result<(Arc<HostStart>, Delegate), Error> {
        let start = self.start(host).ok_or_else(|| {
            let known = self.inventory.hosts().chain(["localhost"]);
            let near = crate::diag::nearest(host, known).map(|near| format!("; did you mean `{near}`?"));
            Error::failed(format!("`delegate_to` names no host: `{host}`{}", near.unwrap_or_default()))
                .hint("add it to the inventory; how it is reached is said there")
        })?;
        start.connection.secrets().for_each(|secret| shared.sink.hide(secret));
        let mut delegates = self.delegates.lock().unwrap_or_else(PoisonError::into_inner);
        Ok((start, Arc::clone(delegates.entry(host.to_string()).or_default())))
    }
}

/// `hostvars`: what the inventory says of each host, and what became known of it in this run.
struct Hostvars(Arc<Peers>);

impl Scopes for Hostvars {
    fn get(&self, name: &str) -> Option<Arc<dyn Lookup + Send + Sync>> {
        let start = self.0.start(name)?;
        let known = self.0.known(name).unwrap_or_default();
        Some(Arc::new(Peer { start, known, peers: Arc::clone(&self.0) }))
    }

    fn names(&self) -> Vec<String> {
        self.0.inventory.hosts().map(str::to_string).collect()
    }
}

/// One host of `hostvars`. As in Ansible a play's variables are not among those.
struct Peer {
    start: Arc<HostStart>,
    known: Arc<Delta>,
    peers: Arc<Peers>,
}

impl Peer {
    fn scope(&self) -> Scope<'_> {
        let mut scope = Scope::default();
        scope.push(Layer::Known(&self.start.magic));
        scope.push(Layer::Final(self.peers.inventory.shared_magic()));
        scope.push(Layer::Raw(&self.peers.extra_vars));
        self.known.layers().into_iter().for_each(|layer| scope.push(layer));
        scope.push(Layer::Raw(&self.start.inventory));
        if self.peers.unseen {
            scope.push(Layer::UnseenFacts);
        }
        scope
    }
}

impl Lookup for Peer {
    fn get(&self, name: &str) -> Option<Var> {
        self.scope().get(name)
    }

    fn names(&self) -> Vec<String> {
        self.scope().names()
    }
}

/// Should facts of hosts be kept for others? They are where there are few hosts, or where some file says `hostvars`.
pub(super) fn worth_keeping(hosts: usize, files: &[PathBuf]) -> bool {
    hosts <= FEW || files.iter().any(|path| mentions(path, b"hostvars", 0))
}

/// Does a file, or one in this folder, hold this word?
fn mentions(path: &Path, word: &[u8], depth: usize) -> bool {
    const DEEPEST: usize = 8;
    let Ok(about) = std::fs::metadata(path) else { return false };
    if about.is_dir() {
        let Ok(entries) = std::fs::read_dir(path) else { return false };
        return depth < DEEPEST
            && entries
                .flatten()
                .filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."))
                .any(|entry| mentions(&entry.path(), word, depth + 1));
    }
    about.is_file()
        && about.len() <= LARGEST
        && std::fs::read(path).is_ok_and(|text| text.windows(word.len()).any(|window| window == word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn hostvars_hold_the_inventory_and_what_became_known() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("inventory");
        std::fs::write(&path, "a port=22 url='http://{{ inventory_hostname }}:{{ port }}'\nb port=23\n").unwrap();
        let inventory = Arc::new(Inventory::load(&[path]).unwrap());
        let peers = Peers::new(inventory, None, Stored::default(), true, false);
        let words = peers.words();
        let mut scope = Scope::default();
        scope.push(Layer::Vars(&words));
        let templar = crate::template::Templar::default();
        let value = |text: &str| templar.render(text, &scope).map_err(|error| error.to_string());
        assert_eq!(value("{{ hostvars['a'].url }}"), Ok(json!("http://a:22")), "rendered as that host sees it");
        assert_eq!(value("{{ hostvars.b.port }}"), Ok(json!(23)));
        assert_eq!(value("{{ hostvars | list | length }}"), Ok(json!(2)));
        assert!(value("{{ hostvars.c.port }}").is_err());
        assert!(value("{{ hostvars.b.seen }}").is_err());
        let mut vars = super::super::vars::HostVars::default();
        vars.set.insert("seen".into(), Var::fixed(json!({"x": [5]})));
        vars.facts.insert("port", 2222);
        peers.publish("b", vars.all());
        assert_eq!(value("{{ hostvars.b.seen.x[0] }}"), Ok(json!(5)));
        assert_eq!(value("{{ hostvars.b.port }}"), Ok(json!(2222)), "facts are stronger than the inventory");
    }

    #[test]
    fn facts_of_many_hosts_are_kept_only_if_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("templates")).unwrap();
        std::fs::write(folder.path().join("templates/x.j2"), "nothing\n").unwrap();
        let files = [folder.path().to_path_buf(), folder.path().join("not there")];
        assert!(worth_keeping(3, &files));
        assert!(!worth_keeping(3000, &files));
        std::fs::write(folder.path().join("templates/y.j2"), "{{ hostvars['a'] }}\n").unwrap();
        assert!(worth_keeping(3000, &files));
    }
}
