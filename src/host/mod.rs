//! The machine as modules see it.
//!
//! A module only ever reads, and only through [`Host`]. Three machines stand behind it: the live one, a folder that
//! holds a recorded one (the sandbox), and an overlay that remembers what earlier actions of a dry run would have done.
//! Paths are absolute, `/`-separated UTF-8 strings as seen on that machine.

pub mod accounts;
pub mod error;
pub mod folder;
pub mod live;
pub mod model;
pub mod os;
pub mod overlay;
mod reboot;
pub mod version;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

pub use error::{Error, Result};
pub use folder::Folder;
pub use live::Live;
pub use model::{Body, Machine, Model};
pub use os::{Family, Os};
pub use overlay::{Empty, Overlay};

/// What a path is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// A device, socket or pipe.
    Other,
}

/// What `lstat` tells of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, `0o7777` at most.
    pub mode: u32,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Last change of the content, seconds since 1970.
    pub mtime: i64,
}

/// An installed package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Package {
    /// The name, without version and architecture.
    pub name: String,
    /// The version as the package manager prints it (`4.9.2-1.el7.elrepo`); `None` when an action of this dry run would
    /// install it and the version can't be known before.
    pub version: Option<String>,
}

/// What installing a package would bring, where that can be known before (a recorded machine knows it).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Available {
    /// Its version.
    pub version: String,
    /// Path and text of the files that matter to other modules; a path that ends in `/` is a folder.
    #[serde(default)]
    pub files: indexmap::IndexMap<String, String>,
    /// Units it brings, with their full names (`libvirtd.service`).
    #[serde(default)]
    pub units: Vec<String>,
    /// Other packages that come with it.
    #[serde(default)]
    pub requires: Vec<String>,
}

/// A systemd unit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unit {
    /// Is there such a unit at all?
    pub exists: bool,
    /// As `systemctl is-enabled` prints it: `enabled`, `disabled`, `static`, `masked`, `indirect`, …
    pub enabled: String,
    /// Does it run?
    pub active: bool,
}

/// A libvirt domain, network or pool.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Virt {
    /// The inactive (persistent) XML, with security info.
    pub xml: String,
    /// Does it run?
    pub active: bool,
    /// Does it start with the host?
    pub autostart: bool,
    /// Of a domain that runs: its live XML, with security info. `None` where it runs as it is defined: on a recorded
    /// machine, until its definition changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub live: Option<String>,
    /// Of a domain that is active and does not simply run: how `virsh domstate` calls it (`paused`, `crashed`, …).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domstate: Option<String>,
}

/// What kind of thing libvirt manages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VirtKind {
    /// A guest.
    Domain,
    /// A virtual network.
    Network,
    /// A storage pool.
    Pool,
}

/// What a command printed and how it ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Exit code; 128 + N when signal N ended it.
    pub code: i32,
    /// Standard output, invalid UTF-8 replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

/// A machine that can be read.
///
/// The `raw_…` functions are for those who implement a machine: they are given paths whose parent folders contain no
/// links any more. Modules call the others, which follow links inside the machine (an absolute link in a sandbox folder
/// never leads out of it).
///
/// Every function answers [`Error`] of kind `Unknown` when an earlier action of this dry run makes the answer unknowable;
/// modules pass that on with `?`.
pub trait Host {
    /// What stands at this path, links not followed; `None` when nothing does.
    fn raw_lstat(&self, path: &str) -> Result<Option<Stat>>;
    /// Where the link at this path points, as written in it.
    fn raw_read_link(&self, path: &str) -> Result<String>;
    /// Where the link at this path points; `None` when what stands there, if anything, is no link. Every part of every
    /// path is asked for this, so a machine that knows it more cheaply than by looking twice should say it itself.
    fn raw_link(&self, path: &str) -> Result<Option<String>> {
        match self.raw_lstat(path)? {
            Some(Stat { kind: FileKind::Link, .. }) => self.raw_read_link(path).map(Some),
            _ => Ok(None),
        }
    }
    /// The content of the regular file at this path.
    fn raw_read(&self, path: &str) -> Result<Vec<u8>>;
    /// The names in the folder at this path, sorted.
    fn raw_list(&self, path: &str) -> Result<Vec<String>>;
    /// What is in the regular file at this path, as far as a written-down machine knows it; a copy takes this, so that
    /// a file that was only foreseen can be copied too.
    fn raw_body(&self, path: &str) -> Result<Body> {
        self.raw_read(path).map(Body::Bytes)
    }
    /// Hex SHA-256 of the regular file at this path, without holding it in memory.
    fn raw_sha256(&self, path: &str) -> Result<String>;
    /// Extended attributes (SELinux label, ACL, capabilities) of the file or folder at this path. A written-down machine
    /// has none.
    fn raw_xattrs(&self, _: &str) -> Result<Vec<(String, Vec<u8>)>> {
        Ok(Vec::new())
    }

    /// An installed package; `None` when it is not installed.
    fn package(&self, name: &str) -> Result<Option<Package>>;
    /// What would come with a package, where the machine knows before installing it; `None` otherwise.
    fn available(&self, name: &str) -> Result<Option<Available>>;
    /// A systemd unit; a name without a suffix means `.service`.
    fn unit(&self, name: &str) -> Result<Unit>;
    /// The states of many units, in the order of their names. A live machine answers them with few commands, where
    /// [`Host::unit`] costs one each.
    fn units(&self, names: &[&str]) -> Result<Vec<Unit>> {
        names.iter().map(|name| self.unit(name)).collect()
    }
    /// A domain, network or pool that libvirt has; `None` when it has none of this name or is not there at all.
    fn virt(&self, kind: VirtKind, name: &str) -> Result<Option<Virt>>;
    /// The names of all domains, networks or pools.
    fn virt_names(&self, kind: VirtKind) -> Result<Vec<String>>;
    /// Runs a command that only reads (`rpm -qp`, `restorecon -n`, `virsh domcapabilities`). A recorded machine has no
    /// commands: it answers `None`, and the module decides from files or says what it can't know.
    fn query(&self, argv: &[&str]) -> Result<Option<Output>>;
    /// The address of the controller's end of the control connection, where the machine is reached over a network.
    fn control_peer(&self) -> Option<String> {
        None
    }
    /// The IOMMU groups (PCI address to number) that this machine would show if it booted with its IOMMU turned on. Only
    /// a recorded machine knows that before; a live one tells after the reboot.
    fn groups_with_iommu(&self) -> std::collections::BTreeMap<String, u32> {
        std::collections::BTreeMap::new()
    }
    /// Is this a recorded machine (a folder)? Only for words that people read, never for deciding what to do.
    fn is_recorded(&self) -> bool {
        false
    }

    /// The path with every link followed, whether or not its last part exists.
    fn real_path(&self, path: &str) -> Result<String> {
        resolve(self, path, true)
    }
    /// What stands at this path, a link at its end not followed.
    fn lstat(&self, path: &str) -> Result<Option<Stat>> {
        self.raw_lstat(&resolve(self, path, false)?)
    }
    /// What stands at this path, links followed; `None` when nothing does or a link leads nowhere.
    fn stat(&self, path: &str) -> Result<Option<Stat>> {
        self.raw_lstat(&resolve(self, path, true)?)
    }
    /// Is there anything at this path (links followed)?
    fn exists(&self, path: &str) -> Result<bool> {
        Ok(self.stat(path)?.is_some())
    }
    /// Where the link at this path points, as written in it; `None` when there is no link.
    fn read_link(&self, path: &str) -> Result<Option<String>> {
        self.raw_link(&resolve(self, path, false)?)
    }
    /// The content of a file, links followed; `None` when there is none.
    fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let path = resolve(self, path, true)?;
        match self.raw_lstat(&path)? {
            None => Ok(None),
            Some(Stat { kind: FileKind::Folder, .. }) => Err(Error::failed(format!("{path} is a folder, not a file"))),
            Some(_) => self.raw_read(&path).map(Some),
        }
    }
    /// The content of a text file; `None` when there is none. Anything but UTF-8 is an error that names the file.
    fn read_text(&self, path: &str) -> Result<Option<String>> {
        match self.read(path)? {
            None => Ok(None),
            Some(bytes) => {
                String::from_utf8(bytes).map(Some).map_err(|_| Error::failed(format!("{path} is not UTF-8 text")))
            }
        }
    }
    /// The first line of a small file such as those of sysfs, trimmed; `None` when there is none.
    fn read_line(&self, path: &str) -> Result<Option<String>> {
        Ok(self
            .read(path)?
            .map(|bytes| String::from_utf8_lossy(&bytes).lines().next().unwrap_or("").trim().to_string()))
    }
    /// The names in a folder, sorted; empty when there is no such folder.
    fn list(&self, path: &str) -> Result<Vec<String>> {
        let path = resolve(self, path, true)?;
        match self.raw_lstat(&path)? {
            Some(Stat { kind: FileKind::Folder, .. }) => self.raw_list(&path),
            _ => Ok(Vec::new()),
        }
    }
    /// Hex SHA-256 of a file, links followed; `None` when there is none.
    fn sha256(&self, path: &str) -> Result<Option<String>> {
        let path = resolve(self, path, true)?;
        match self.raw_lstat(&path)? {
            Some(Stat { kind: FileKind::File, .. }) => self.raw_sha256(&path).map(Some),
            _ => Ok(None),
        }
    }
    /// A user's account, from `/etc/passwd`; a live machine asks `getent`, so that those of a directory service are found.
    fn user(&self, name: &str) -> Result<Option<accounts::User>> {
        accounts::user_in_file(self, name)
    }
    /// A group, from `/etc/group`; likewise.
    fn group(&self, name: &str) -> Result<Option<accounts::Group>> {
        accounts::group_in_file(self, name)
    }
    /// The operating system, from `/etc/os-release` (and `/etc/redhat-release` on the oldest).
    fn os(&self) -> Result<Os> {
        os::detect(self)
    }
}

/// A machine behind a pointer is that machine.
macro_rules! machine_behind {
    ($pointer:ty) => {
        impl<H: Host + ?Sized> Host for $pointer {
            fn raw_lstat(&self, path: &str) -> Result<Option<Stat>> {
                (**self).raw_lstat(path)
            }
            fn raw_read_link(&self, path: &str) -> Result<String> {
                (**self).raw_read_link(path)
            }
            fn raw_link(&self, path: &str) -> Result<Option<String>> {
                (**self).raw_link(path)
            }
            fn raw_read(&self, path: &str) -> Result<Vec<u8>> {
                (**self).raw_read(path)
            }
            fn raw_list(&self, path: &str) -> Result<Vec<String>> {
                (**self).raw_list(path)
            }
            fn raw_body(&self, path: &str) -> Result<Body> {
                (**self).raw_body(path)
            }
            fn raw_sha256(&self, path: &str) -> Result<String> {
                (**self).raw_sha256(path)
            }
            fn raw_xattrs(&self, path: &str) -> Result<Vec<(String, Vec<u8>)>> {
                (**self).raw_xattrs(path)
            }
            fn package(&self, name: &str) -> Result<Option<Package>> {
                (**self).package(name)
            }
            fn available(&self, name: &str) -> Result<Option<Available>> {
                (**self).available(name)
            }
            fn unit(&self, name: &str) -> Result<Unit> {
                (**self).unit(name)
            }
            fn units(&self, names: &[&str]) -> Result<Vec<Unit>> {
                (**self).units(names)
            }
            fn virt(&self, kind: VirtKind, name: &str) -> Result<Option<Virt>> {
                (**self).virt(kind, name)
            }
            fn virt_names(&self, kind: VirtKind) -> Result<Vec<String>> {
                (**self).virt_names(kind)
            }
            fn query(&self, argv: &[&str]) -> Result<Option<Output>> {
                (**self).query(argv)
            }
            fn control_peer(&self) -> Option<String> {
                (**self).control_peer()
            }
            fn groups_with_iommu(&self) -> std::collections::BTreeMap<String, u32> {
                (**self).groups_with_iommu()
            }
            fn is_recorded(&self) -> bool {
                (**self).is_recorded()
            }
            fn user(&self, name: &str) -> Result<Option<accounts::User>> {
                (**self).user(name)
            }
            fn group(&self, name: &str) -> Result<Option<accounts::Group>> {
                (**self).group(name)
            }
        }
    };
}

machine_behind!(&H);
machine_behind!(Box<H>);

/// As many links as the kernel follows in one path (`MAXSYMLINKS`, path_resolution(7)).
const MAX_LINKS: usize = 40;

fn resolve<H: Host + ?Sized>(host: &H, path: &str, follow_last: bool) -> Result<String> {
    if !path.starts_with('/') {
        return Err(Error::failed(format!("`{path}` is not an absolute path")));
    }
    let mut todo: Vec<Cow<'_, str>> = path.split('/').rev().map(Cow::Borrowed).collect();
    // What is resolved so far; "" stands for the root.
    let mut done = String::with_capacity(path.len());
    let parent = |done: &mut String| done.truncate(done.rfind('/').unwrap_or(0));
    let mut links = 0;
    while let Some(part) = todo.pop() {
        match part.as_ref() {
            "" | "." => continue,
            ".." => {
                parent(&mut done);
                continue;
            }
            name => {
                done.push('/');
                done.push_str(name);
            }
        }
        let last = todo.iter().all(|rest| rest.is_empty() || rest == ".");
        if last && !follow_last {
            continue;
        }
        if let Some(target) = host.raw_link(&done)? {
            links += 1;
            if links > MAX_LINKS {
                return Err(Error::failed(format!("too many links on the way to {path}")));
            }
            if target.starts_with('/') {
                done.clear();
            } else {
                parent(&mut done);
            }
            todo.extend(target.split('/').rev().map(|part| Cow::Owned(part.to_string())));
        }
    }
    Ok(if done.is_empty() { "/".into() } else { done })
}
