//! The machine this process runs on: real files, and real tools for what is not a file.

mod command;
mod packages;
pub mod units;
mod virt;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::accounts::{self, Group, User};
use super::{Available, Error, FileKind, Host, Machine, Output, Package, Result, Stat, Unit, VirtKind};
use crate::change::{Op, executor};

pub use command::run;
pub use units::{from_files as unit_from_files, full_name as unit_name};

/// Longest that a command which only reads may take.
const QUERY_TIME: Duration = Duration::from_secs(60);

/// The machine this process runs on. What tools answered is remembered until something is changed.
#[derive(Default)]
pub struct Live {
    cache: RefCell<Cache>,
    remote: bool,
}

#[derive(Default)]
struct Cache {
    packages: Option<HashMap<String, Package>>,
    units: HashMap<String, Unit>,
    virt: HashMap<VirtKind, virt::Listing>,
    virts: HashMap<(VirtKind, String), Option<super::Virt>>,
}

impl Live {
    /// The machine this process runs on.
    pub fn new() -> Live {
        Live::default()
    }

    /// Says whether who asks is reached over a network, and so can be cut off.
    pub fn reached_over_network(self, remote: bool) -> Live {
        Live { remote, ..self }
    }

    /// Forgets what tools answered, after something was changed behind this object's back.
    pub fn forget(&self) {
        *self.cache.borrow_mut() = Cache::default();
    }
}

fn io(tried: &str, path: &str) -> impl FnOnce(std::io::Error) -> Error {
    let (tried, path) = (tried.to_string(), path.to_string());
    move |error| Error::io(&tried, &path, &error)
}

/// Only regular files are read: a pipe would block for ever, a device may have no end.
fn open_regular(path: &str) -> Result<fs::File> {
    let metadata = fs::symlink_metadata(path).map_err(io("read", path))?;
    if !metadata.is_file() {
        return Err(Error::failed(format!("{path} is not a regular file")));
    }
    fs::File::open(path).map_err(io("read", path))
}

impl Host for Live {
    fn raw_lstat(&self, path: &str) -> Result<Option<Stat>> {
        use std::io::ErrorKind::{NotADirectory, NotFound};
        let metadata = match fs::symlink_metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if matches!(error.kind(), NotFound | NotADirectory) => return Ok(None),
            Err(error) => return Err(Error::io("look at", path, &error)),
        };
        let kind = match metadata.file_type() {
            kind if kind.is_file() => FileKind::File,
            kind if kind.is_dir() => FileKind::Folder,
            kind if kind.is_symlink() => FileKind::Link,
            _ => FileKind::Other,
        };
        Ok(Some(Stat {
            kind,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            size: metadata.len(),
            mtime: metadata.mtime(),
        }))
    }

    fn raw_read_link(&self, path: &str) -> Result<String> {
        let target = fs::read_link(path).map_err(io("read the link", path))?;
        target
            .into_os_string()
            .into_string()
            .map_err(|_| Error::failed(format!("the link {path} points to a name that is not UTF-8")))
    }

    fn raw_read(&self, path: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        open_regular(path)?.read_to_end(&mut bytes).map_err(io("read", path))?;
        Ok(bytes)
    }

    fn raw_list(&self, path: &str) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path).map_err(io("list", path))? {
            // A name that is not UTF-8 can't be said in a playbook either, so nothing here asks for it.
            if let Ok(name) = entry.map_err(io("list", path))?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn raw_xattrs(&self, path: &str) -> Result<Vec<(String, Vec<u8>)>> {
        executor::xattrs(path)
    }

    fn raw_sha256(&self, path: &str) -> Result<String> {
        let mut file = open_regular(path)?;
        let mut hasher = Sha256::new();
        std::io::copy(&mut file, &mut hasher).map_err(io("read", path))?;
        Ok(format!("{:x}", hasher.finalize()))
    }

    fn package(&self, name: &str) -> Result<Option<Package>> {
        if let Some(known) = &self.cache.borrow().packages {
            return Ok(known.get(name).cloned());
        }
        let all = packages::installed(self)?;
        let found = all.get(name).cloned();
        self.cache.borrow_mut().packages = Some(all);
        Ok(found)
    }

    fn available(&self, _: &str) -> Result<Option<Available>> {
        Ok(None)
    }

    fn unit(&self, name: &str) -> Result<Unit> {
        let name = units::full_name(name);
        if let Some(known) = self.cache.borrow().units.get(&name) {
            return Ok(known.clone());
        }
        let unit = units::unit(self, &name)?;
        self.cache.borrow_mut().units.insert(name, unit.clone());
        Ok(unit)
    }

    fn virt(&self, kind: VirtKind, name: &str) -> Result<Option<super::Virt>> {
        let key = (kind, name.to_string());
        if let Some(known) = self.cache.borrow().virts.get(&key) {
            return Ok(known.clone());
        }
        let listing = self.listing(kind)?;
        let found = virt::one(self, &listing, kind, name)?;
        self.cache.borrow_mut().virts.insert(key, found.clone());
        Ok(found)
    }

    fn virt_names(&self, kind: VirtKind) -> Result<Vec<String>> {
        Ok(self.listing(kind)?.names.into_iter().collect())
    }

    fn query(&self, argv: &[&str]) -> Result<Option<Output>> {
        command::run(argv, QUERY_TIME).map(Some)
    }

    fn control_peer(&self) -> Option<String> {
        self.remote.then(command::ssh_connection).flatten()
    }

    // The program is linked statically, and a static glibc can't load the plug-ins of nsswitch.conf: getent can.
    fn user(&self, name: &str) -> Result<Option<User>> {
        if let Some(user) = accounts::user_in_file(self, name)? {
            return Ok(Some(user));
        }
        Ok(getent("passwd", name)?.and_then(|line| User::parse(&line)))
    }

    fn group(&self, name: &str) -> Result<Option<Group>> {
        if let Some(group) = accounts::group_in_file(self, name)? {
            return Ok(Some(group));
        }
        Ok(getent("group", name)?.and_then(|line| Group::parse(&line)))
    }
}

impl Live {
    fn listing(&self, kind: VirtKind) -> Result<virt::Listing> {
        if let Some(known) = self.cache.borrow().virt.get(&kind) {
            return Ok(known.clone());
        }
        let listing = virt::list(self, kind)?;
        self.cache.borrow_mut().virt.insert(kind, listing.clone());
        Ok(listing)
    }
}

impl Machine for Live {
    fn perform(&self, op: &Op, progress: &mut dyn FnMut(&str)) -> Result<Option<Output>> {
        let done = executor::perform(self, op, progress);
        // What failed may have changed something too. Files change neither packages nor guests, but unit files are files.
        match op {
            Op::Run(run) if run.argv.first().is_none_or(|program| program != "systemctl") => self.forget(),
            _ => self.cache.borrow_mut().units.clear(),
        }
        done
    }

    fn state_folder(&self) -> Option<std::path::PathBuf> {
        if rustix::process::geteuid().is_root() {
            return Some("/var/lib/vfio-provision".into());
        }
        // XDG base directories; a user without a home (nobody) has no place for a journal.
        let folder =
            |name: &str| std::env::var_os(name).map(std::path::PathBuf::from).filter(|path| path.is_absolute());
        let home = folder("HOME").filter(|home| home.is_dir() && home.parent().is_some());
        let state = folder("XDG_STATE_HOME").or_else(|| home.map(|home| home.join(".local/state")))?;
        Some(state.join("vfio-provision"))
    }
}

fn getent(database: &str, name: &str) -> Result<Option<String>> {
    let output = command::run(&["getent", "--", database, name], QUERY_TIME)?;
    Ok((output.code == 0).then(|| output.stdout.lines().next().unwrap_or("").to_string()))
}
