//! A machine as it would be after actions that were only planned.

use std::cell::{RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::accounts::{Group, User};
use super::live::units;
use super::model::{Attributes, Body, Model};
use super::{Available, Error, FileKind, Host, Output, Package, Result, Stat, Unit, Virt, VirtKind};

/// What actions have made of one path.
#[derive(Clone, Debug)]
pub(super) enum Node {
    Gone,
    File(Body, Attributes),
    /// `fresh`: what the machine below has in it is not seen any more.
    Folder {
        attributes: Attributes,
        fresh: bool,
    },
    Link(String),
    /// Only owner or mode changed; the rest is as below.
    Attributes(Attributes),
}

#[derive(Default)]
pub(super) struct State {
    pub(super) nodes: BTreeMap<String, Node>,
    pub(super) packages: BTreeMap<String, Option<Package>>,
    pub(super) units: BTreeMap<String, Unit>,
    pub(super) virts: BTreeMap<(VirtKind, String), Option<Virt>>,
}

/// A machine below, and on top of it what planned actions would have done.
pub struct Overlay<H> {
    below: H,
    state: RefCell<State>,
    /// What `state` makes of folders, as far as that was asked: every part of every path is, again and again.
    folders: RefCell<HashMap<String, Around>>,
}

/// What is foreseen about the things in one folder.
#[derive(Clone, Copy)]
struct Around {
    /// What the machine below has in it is not seen, because a folder on the way went or was made anew.
    hidden: bool,
    /// Something in it, or further down, is foreseen.
    touched: bool,
}

impl<H: Host> Overlay<H> {
    /// Nothing changed yet.
    pub fn new(below: H) -> Overlay<H> {
        Overlay { below, state: RefCell::default(), folders: RefCell::default() }
    }

    /// The machine below, as it really is.
    pub fn below(&self) -> &H {
        &self.below
    }

    /// Forgets everything that was foreseen.
    pub fn reset(&self) {
        *self.change() = State::default();
    }

    fn change(&self) -> RefMut<'_, State> {
        self.folders.borrow_mut().clear();
        self.state.borrow_mut()
    }

    /// All that was foreseen, for who writes it down.
    pub(super) fn into_state(self) -> State {
        self.state.into_inner()
    }

    /// The units whose files or links were touched, as they are then.
    pub(super) fn units_of_files(&self) -> Result<Vec<(String, Unit)>> {
        let touched: BTreeSet<String> = self
            .state
            .borrow()
            .nodes
            .keys()
            .filter(|path| path.contains("/systemd/system/"))
            .filter_map(|path| path.rsplit('/').next())
            .filter(|name| units::full_name(name) == **name)
            .map(str::to_string)
            .collect();
        touched.into_iter().map(|name| self.unit(&name).map(|unit| (name, unit))).collect()
    }

    fn node(&self, path: &str) -> Option<Node> {
        if !self.around(path).touched {
            return None;
        }
        self.state.borrow().nodes.get(path).cloned()
    }

    /// Is this path not seen of the machine below, because a folder above it went or was made anew?
    fn hidden(&self, path: &str) -> bool {
        self.around(path).hidden
    }

    /// What is foreseen about the folder that a path is in.
    fn around(&self, path: &str) -> Around {
        let folder = &path[..path.rfind('/').unwrap_or(0)];
        if let Some(known) = self.folders.borrow().get(folder) {
            return *known;
        }
        let state = self.state.borrow();
        let prefix = format!("{folder}/");
        let next = state.nodes.range(prefix.clone()..).next();
        let touched = next.is_some_and(|(first, _)| first.starts_with(&prefix));
        let hides = |path: &str| {
            !matches!(state.nodes.get(path), None | Some(Node::Folder { fresh: false, .. } | Node::Attributes(_)))
        };
        let ends = folder.match_indices('/').map(|(end, _)| end).chain([folder.len()]);
        let hidden = ends.map(|end| &folder[..end]).any(hides);
        self.folders.borrow_mut().insert(folder.to_string(), Around { hidden, touched });
        Around { hidden, touched }
    }

    fn foreseen_unit(&self, name: &str) -> Option<Unit> {
        self.state.borrow().units.get(name).cloned()
    }

    /// A unit that nothing was said of here, by what the machine below says of it.
    fn unit_over(&self, name: &str, below: Unit) -> Result<Unit> {
        // Where what is below only follows from its unit files, what is here follows from those that are here.
        let files = units::from_files(&self.below, name)?;
        if (below.exists, &below.enabled) != (files.exists, &files.enabled) {
            return Ok(below);
        }
        let here = units::from_files(self, name)?;
        Ok(Unit { active: below.active && here.exists, ..here })
    }

    fn below_lstat(&self, path: &str) -> Result<Option<Stat>> {
        if self.hidden(path) { Ok(None) } else { self.below.raw_lstat(path) }
    }
}

fn stat(kind: FileKind, attributes: Attributes, size: u64) -> Stat {
    Stat { kind, mode: attributes.mode, uid: attributes.uid, gid: attributes.gid, size, mtime: 0 }
}

pub(super) fn absent(path: &str) -> Error {
    Error::failed(format!("{path} does not exist"))
}

pub(super) fn unit_name(name: &str) -> String {
    if name.rsplit_once('.').is_some() { name.to_string() } else { format!("{name}.service") }
}

impl<H: Host> Host for Overlay<H> {
    fn raw_lstat(&self, path: &str) -> Result<Option<Stat>> {
        if !self.around(path).touched {
            return self.below_lstat(path);
        }
        Ok(match self.state.borrow().nodes.get(path) {
            None => self.below_lstat(path)?,
            Some(Node::Gone) => None,
            Some(Node::File(body, attributes)) => {
                let size = if let Body::Bytes(bytes) = body { bytes.len() as u64 } else { 0 };
                Some(stat(FileKind::File, *attributes, size))
            }
            Some(Node::Folder { attributes, .. }) => Some(stat(FileKind::Folder, *attributes, 0)),
            Some(Node::Link(target)) => {
                Some(stat(FileKind::Link, Attributes { mode: 0o777, uid: 0, gid: 0 }, target.len() as u64))
            }
            Some(Node::Attributes(a)) => {
                self.below_lstat(path)?.map(|old| Stat { mode: a.mode, uid: a.uid, gid: a.gid, ..old })
            }
        })
    }

    fn raw_read_link(&self, path: &str) -> Result<String> {
        match self.node(path) {
            Some(Node::Link(target)) => Ok(target),
            None if !self.hidden(path) => self.below.raw_read_link(path),
            _ => Err(absent(path)),
        }
    }

    fn raw_link(&self, path: &str) -> Result<Option<String>> {
        let around = self.around(path);
        match self.state.borrow().nodes.get(path).filter(|_| around.touched) {
            Some(Node::Link(target)) => return Ok(Some(target.clone())),
            Some(Node::Gone | Node::File(..) | Node::Folder { .. }) => return Ok(None),
            Some(Node::Attributes(_)) | None => {}
        }
        if around.hidden { Ok(None) } else { self.below.raw_link(path) }
    }

    fn raw_read(&self, path: &str) -> Result<Vec<u8>> {
        match self.node(path) {
            Some(Node::File(body, _)) => body.into_bytes(path),
            None | Some(Node::Attributes(_)) if !self.hidden(path) => self.below.raw_read(path),
            _ => Err(absent(path)),
        }
    }

    fn raw_body(&self, path: &str) -> Result<Body> {
        self.body(path)
    }

    fn raw_list(&self, path: &str) -> Result<Vec<String>> {
        let fresh = matches!(self.node(path), Some(Node::Folder { fresh: true, .. })) || self.hidden(path);
        let mut names: BTreeSet<String> = match self.below.raw_lstat(path) {
            Ok(Some(Stat { kind: FileKind::Folder, .. })) if !fresh => self.below.raw_list(path)?.into_iter().collect(),
            _ => BTreeSet::new(),
        };
        let prefix = format!("{}/", path.trim_end_matches('/'));
        let state = self.state.borrow();
        for (child, node) in state.nodes.range(prefix.clone()..).take_while(|(child, _)| child.starts_with(&prefix)) {
            let name = &child[prefix.len()..];
            if name.is_empty() || name.contains('/') {
                continue;
            }
            match node {
                Node::Gone => names.remove(name),
                _ => names.insert(name.to_string()),
            };
        }
        Ok(names.into_iter().collect())
    }

    fn raw_sha256(&self, path: &str) -> Result<String> {
        match self.node(path) {
            Some(Node::File(body, _)) => body.sha256(path),
            None | Some(Node::Attributes(_)) if !self.hidden(path) => self.below.raw_sha256(path),
            _ => Err(absent(path)),
        }
    }

    fn package(&self, name: &str) -> Result<Option<Package>> {
        let known = self.state.borrow().packages.get(name).cloned();
        known.map_or_else(|| self.below.package(name), Ok)
    }

    fn available(&self, name: &str) -> Result<Option<Available>> {
        self.below.available(name)
    }

    fn unit(&self, name: &str) -> Result<Unit> {
        let name = unit_name(name);
        match self.foreseen_unit(&name) {
            Some(known) => Ok(known),
            None => self.unit_over(&name, self.below.unit(&name)?),
        }
    }

    fn units(&self, names: &[&str]) -> Result<Vec<Unit>> {
        let names: Vec<String> = names.iter().map(|name| unit_name(name)).collect();
        let asked: Vec<&str> =
            names.iter().filter(|name| self.foreseen_unit(name).is_none()).map(String::as_str).collect();
        let mut below = self.below.units(&asked)?.into_iter();
        names
            .iter()
            .map(|name| match self.foreseen_unit(name) {
                Some(known) => Ok(known),
                None => self.unit_over(name, below.next().unwrap_or_default()),
            })
            .collect()
    }

    fn virt(&self, kind: VirtKind, name: &str) -> Result<Option<Virt>> {
        let known = self.state.borrow().virts.get(&(kind, name.to_string())).cloned();
        known.map_or_else(|| self.below.virt(kind, name), Ok)
    }

    fn virt_names(&self, kind: VirtKind) -> Result<Vec<String>> {
        let mut names: BTreeSet<String> = self.below.virt_names(kind)?.into_iter().collect();
        for ((other, name), virt) in &self.state.borrow().virts {
            if *other == kind {
                match virt {
                    Some(_) => names.insert(name.clone()),
                    None => names.remove(name),
                };
            }
        }
        Ok(names.into_iter().collect())
    }

    fn query(&self, argv: &[&str]) -> Result<Option<Output>> {
        self.below.query(argv)
    }

    fn control_peer(&self) -> Option<String> {
        self.below.control_peer()
    }

    fn groups_with_iommu(&self) -> BTreeMap<String, u32> {
        self.below.groups_with_iommu()
    }

    fn is_recorded(&self) -> bool {
        self.below.is_recorded()
    }

    // An account that a planned action makes is in the predicted /etc/passwd; only the machine below knows a directory service.
    fn user(&self, name: &str) -> Result<Option<User>> {
        match super::accounts::user_in_file(self, name)? {
            Some(user) => Ok(Some(user)),
            None if self.node("/etc/passwd").is_none() => self.below.user(name),
            None => Ok(None),
        }
    }

    fn group(&self, name: &str) -> Result<Option<Group>> {
        match super::accounts::group_in_file(self, name)? {
            Some(group) => Ok(Some(group)),
            None if self.node("/etc/group").is_none() => self.below.group(name),
            None => Ok(None),
        }
    }
}

impl<H: Host> Model for Overlay<H> {
    fn put_file(&self, path: &str, body: Body, attributes: Attributes) -> Result<()> {
        self.change().nodes.insert(path.to_string(), Node::File(body, attributes));
        Ok(())
    }

    fn put_folder(&self, path: &str, attributes: Attributes) -> Result<()> {
        let fresh =
            matches!(self.node(path), Some(Node::Folder { fresh: true, .. })) || self.raw_lstat(path)?.is_none();
        self.change().nodes.insert(path.to_string(), Node::Folder { attributes, fresh });
        Ok(())
    }

    fn put_link(&self, path: &str, target: &str) -> Result<()> {
        self.change().nodes.insert(path.to_string(), Node::Link(target.to_string()));
        Ok(())
    }

    fn put_attributes(&self, path: &str, new: Attributes) -> Result<()> {
        let mut state = self.change();
        match state.nodes.get_mut(path) {
            Some(Node::File(_, attributes) | Node::Folder { attributes, .. } | Node::Attributes(attributes)) => {
                *attributes = new;
            }
            Some(Node::Link(_) | Node::Gone) => {}
            None => {
                state.nodes.insert(path.to_string(), Node::Attributes(new));
            }
        }
        Ok(())
    }

    fn remove(&self, path: &str) -> Result<()> {
        let prefix = format!("{path}/");
        let mut state = self.change();
        state.nodes.retain(|other, _| !other.starts_with(&prefix));
        state.nodes.insert(path.to_string(), Node::Gone);
        Ok(())
    }

    fn body(&self, path: &str) -> Result<Body> {
        match self.node(path) {
            Some(Node::File(body, _)) => Ok(body),
            None | Some(Node::Attributes(_)) if !self.hidden(path) => self.below.raw_body(path),
            _ => Err(absent(path)),
        }
    }

    fn put_package(&self, name: &str, package: Option<Package>) -> Result<()> {
        self.change().packages.insert(name.to_string(), package);
        Ok(())
    }

    fn put_unit(&self, name: &str, unit: Unit) -> Result<()> {
        self.change().units.insert(unit_name(name), unit);
        Ok(())
    }

    fn put_virt(&self, kind: VirtKind, name: &str, virt: Option<Virt>) -> Result<()> {
        self.change().virts.insert((kind, name.to_string()), virt);
        Ok(())
    }
}

/// A machine with nothing on it but a root folder: what tests and libraries build one on.
pub struct Empty;

impl Host for Empty {
    fn raw_lstat(&self, path: &str) -> Result<Option<Stat>> {
        let root = Attributes { mode: 0o755, uid: 0, gid: 0 };
        Ok((path == "/").then(|| stat(FileKind::Folder, root, 0)))
    }
    fn raw_read_link(&self, path: &str) -> Result<String> {
        Err(absent(path))
    }
    fn raw_read(&self, path: &str) -> Result<Vec<u8>> {
        Err(absent(path))
    }
    fn raw_list(&self, _: &str) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn raw_sha256(&self, path: &str) -> Result<String> {
        Err(absent(path))
    }
    fn package(&self, _: &str) -> Result<Option<Package>> {
        Ok(None)
    }
    fn available(&self, _: &str) -> Result<Option<Available>> {
        Ok(None)
    }
    fn unit(&self, _: &str) -> Result<Unit> {
        Ok(Unit::default())
    }
    fn virt(&self, _: VirtKind, _: &str) -> Result<Option<Virt>> {
        Ok(None)
    }
    fn virt_names(&self, _: VirtKind) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn query(&self, _: &[&str]) -> Result<Option<Output>> {
        Ok(None)
    }
}

/// What unit tests of modules use: a machine made of a few files, and the round "plan, do, plan again".
#[cfg(test)]
pub mod testing {
    use super::*;
    use crate::change::{Action, Effect, Op, Plan, Run};
    use crate::host::model::predict;
    use crate::modules::{self, Side};

    /// A machine in memory.
    pub type Machine = Overlay<Empty>;

    /// A machine with these files; a path that ends in `/` is a folder, a content that begins with `-> ` a link.
    pub fn machine(files: &[(&str, &str)]) -> Machine {
        let machine = Overlay::new(Empty);
        let effects = files
            .iter()
            .map(|(path, content)| match (path.ends_with('/'), content.strip_prefix("-> ")) {
                (true, _) => Effect::Folder { path: path.to_string() },
                (_, Some(target)) => Effect::Link { path: path.to_string(), target: target.to_string() },
                _ => Effect::File { path: path.to_string(), content: Some(content.to_string()), mode: None },
            })
            .collect();
        predict(&machine, &Op::Run(Run::new(["test"], effects))).unwrap();
        machine
    }

    /// Asks the module that is registered under this name.
    pub fn plan(machine: &dyn Host, name: &str, parameters: serde_json::Value) -> Result<Plan> {
        match &modules::find(name).unwrap_or_else(|| panic!("no module {name}")).side {
            Side::Machine(plan) => plan(parameters, machine),
            Side::Controller => panic!("{name} runs on the controller"),
        }
    }

    /// Plans, does, and plans again, as an apply does (stages included): answers all actions that were done, and fails
    /// when it does not converge.
    pub fn apply(machine: &Machine, name: &str, parameters: serde_json::Value) -> Result<Vec<Action>> {
        let mut done = Vec::new();
        for _ in 0..8 {
            let next = plan(machine, name, parameters.clone())?;
            if next.actions.is_empty() {
                return Ok(done);
            }
            assert!(done.is_empty() || next.staged || done.len() < 100, "{name} did not converge");
            let (staged, act) = (next.staged, next.act);
            for action in next.actions {
                predict(machine, &action.op)?;
                done.push(action);
            }
            if act {
                return Ok(done);
            }
            if !staged {
                let left = plan(machine, name, parameters.clone())?;
                assert!(left.actions.is_empty(), "{name} did not converge: {:#?}", left.actions);
                return Ok(done);
            }
        }
        panic!("{name} goes on for ever");
    }

    /// The diffs of these actions as a run shows them.
    pub fn shown(actions: &[Action]) -> String {
        actions
            .iter()
            .flat_map(|action| &action.diffs)
            .map(|diff| format!("{} {}\n{}", diff.kind, diff.path, diff.unified()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::testing::*;
    use super::*;
    use crate::change::{Content, Op};
    use crate::host::model::predict;

    #[test]
    fn later_reads_see_earlier_actions_and_the_machine_below_stays() {
        let below = machine(&[("/etc/a", "1\n"), ("/etc/link", "-> a"), ("/srv/x/y", "z\n")]);
        let over = Overlay::new(below);
        let write = Op::WriteFile {
            path: "/etc/link".into(),
            content: Content::Bytes(b"2\n".to_vec()),
            mode: Some(0o600),
            owner: None,
            group: None,
            validate: vec![],
        };
        predict(&over, &write).unwrap();
        predict(&over, &Op::Remove { path: "/srv/x".into() }).unwrap();
        assert_eq!(over.read_text("/etc/a").unwrap().as_deref(), Some("2\n"));
        assert_eq!(over.read_link("/etc/link").unwrap().as_deref(), Some("a"));
        assert_eq!(over.stat("/etc/a").unwrap().map(|s| s.mode), Some(0o600));
        assert!(!over.exists("/srv/x/y").unwrap());
        assert_eq!(over.list("/srv").unwrap(), Vec::<String>::new());
        predict(&over, &Op::MakeFolder { path: "/srv/x".into(), mode: None, owner: None, group: None }).unwrap();
        assert_eq!(over.list("/srv/x").unwrap(), Vec::<String>::new());
        assert_eq!(over.below().read_text("/srv/x/y").unwrap().as_deref(), Some("z\n"));
    }

    #[test]
    fn what_a_command_writes_is_unknown_until_applied() {
        let over = machine(&[]);
        let run = crate::change::Run::new(
            ["mkimage"],
            vec![crate::change::Effect::File { path: "/boot/x".into(), content: None, mode: None }],
        );
        predict(&over, &Op::Run(run)).unwrap();
        assert!(over.exists("/boot/x").unwrap());
        assert!(over.read("/boot/x").unwrap_err().is_unknown());
    }

    #[test]
    fn a_link_never_leads_out_and_never_for_ever() {
        let over = machine(&[("/etc/a", "-> /etc/b"), ("/etc/b", "-> a"), ("/up", "-> ../../../etc"), ("/etc/c", "x")]);
        assert!(over.read("/etc/a").is_err());
        assert_eq!(over.read_text("/up/c").unwrap().as_deref(), Some("x"));
    }

    #[test]
    fn a_folder_made_anew_stays_empty_and_the_root_lists_no_nameless_child() {
        let over = Overlay::new(machine(&[("/srv/x/y", "z\n")]));
        let folder = |path: &str| Op::MakeFolder { path: path.into(), mode: Some(0o700), owner: None, group: None };
        predict(&over, &Op::Remove { path: "/srv/x".into() }).unwrap();
        for op in [folder("/srv/x"), folder("/srv/x"), folder("/")] {
            predict(&over, &op).unwrap();
        }
        assert_eq!(over.list("/srv/x").unwrap(), Vec::<String>::new());
        assert_eq!(over.list("/").unwrap(), ["srv"]);
    }
}
