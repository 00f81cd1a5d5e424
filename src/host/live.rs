//! The machine this process runs on: real files, and real tools for what is not a file.

mod command;
mod packages;
pub mod units;
mod virt;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::accounts::{self, Group, User};
use super::{Available, Error, FileKind, Host, Machine, Output, Package, Result, Stat, Unit, VirtKind};
use crate::change::{Op, executor};

pub use command::{run, search_path};
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

fn stat_of(metadata: &fs::Metadata) -> Stat {
    let kind = match metadata.file_type() {
        kind if kind.is_file() => FileKind::File,
        kind if kind.is_dir() => FileKind::Folder,
        kind if kind.is_symlink() => FileKind::Link,
        _ => FileKind::Other,
    };
    Stat {
        kind,
        mode: metadata.mode() & 0o7777,
        uid: metadata.uid(),
        gid: metadata.gid(),
        size: metadata.len(),
        mtime: metadata.mtime(),
    }
}

/// What the kernel says of a path; that nothing is there is no error.
fn looked(path: &str, answer: std::io::Result<fs::Metadata>) -> Result<Option<Stat>> {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    match answer {
        Ok(metadata) => Ok(Some(stat_of(&metadata))),
        Err(error) if matches!(error.kind(), NotFound | NotADirectory) => Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            Err(Error::failed(format!("too many links on the way to {path}")))
        }
        Err(error) => Err(Error::io("look at", path, &error)),
    }
}

fn utf8_link(path: &str, target: std::path::PathBuf) -> Result<String> {
    target
        .into_os_string()
        .into_string()
        .map_err(|_| Error::failed(format!("the link {path} points to a name that is not UTF-8")))
}

fn names(path: &str, entries: fs::ReadDir) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in entries {
        // A name that is not UTF-8 can't be said in a playbook either, so nothing here asks for it.
        if let Ok(name) = entry.map_err(io("list", path))?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn is_folder(path: &str) -> Error {
    Error::failed(format!("{path} is a folder, not a file"))
}

/// A file of sysfs, where nothing but folders, links and regular files can be: nobody needs to look before opening. What
/// fits into a page comes at one read (kernel: Documentation/filesystems/sysfs.rst).
fn attribute(path: &str) -> Result<Option<Vec<u8>>> {
    let mut file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) => {
            // What is there and can't be opened is an error, whatever the kernel calls it.
            return match looked(path, fs::metadata(path))? {
                None => Ok(None),
                Some(_) => Err(Error::io("read", path, &error)),
            };
        }
    };
    let mut bytes = vec![0; 4096];
    match file.read(&mut bytes) {
        Ok(read) if read < bytes.len() => bytes.truncate(read),
        Ok(_) => {
            file.read_to_end(&mut bytes).map_err(io("read", path))?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => return Err(is_folder(path)),
        Err(error) => return Err(Error::io("read", path, &error)),
    }
    Ok(Some(bytes))
}

/// Where the kernel comes to when it follows this path, if it tells.
fn opened_path(path: &str) -> Option<String> {
    use rustix::fs::{Mode, OFlags};
    let opened = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let real =
        fs::read_link(format!("/proc/self/fd/{}", opened.as_raw_fd())).ok()?.into_os_string().into_string().ok()?;
    // Something that is gone by now, or stands outside of this root, has a name that is no path.
    (real.starts_with('/') && !real.ends_with(" (deleted)")).then_some(real)
}

/// A path that means the same wherever this process stands.
fn absolute(path: &str) -> Result<&str> {
    if path.starts_with('/') { Ok(path) } else { Err(Error::failed(format!("`{path}` is not an absolute path"))) }
}

/// Without a slash or a dot at its end: the kernel would follow a link there, and would mind a file.
fn without_end(path: &str) -> &str {
    let mut rest = path;
    while let Some(shorter) = rest.strip_suffix('/').or_else(|| rest.strip_suffix("/.")) {
        rest = shorter;
    }
    if rest.is_empty() { "/" } else { rest }
}

impl Host for Live {
    fn raw_lstat(&self, path: &str) -> Result<Option<Stat>> {
        looked(path, fs::symlink_metadata(path))
    }

    fn raw_link(&self, path: &str) -> Result<Option<String>> {
        use std::io::ErrorKind::{InvalidInput, NotADirectory, NotFound};
        match fs::read_link(path) {
            Ok(target) => utf8_link(path, target).map(Some),
            // EINVAL: something that is no link.
            Err(error) if matches!(error.kind(), InvalidInput | NotADirectory | NotFound) => Ok(None),
            Err(error) => Err(Error::io("read the link", path, &error)),
        }
    }

    // Here the kernel follows links, at once; facts alone ask for more than a thousand files.
    fn stat(&self, path: &str) -> Result<Option<Stat>> {
        let path = without_end(absolute(path)?);
        looked(path, fs::metadata(path))
    }

    fn lstat(&self, path: &str) -> Result<Option<Stat>> {
        self.raw_lstat(without_end(absolute(path)?))
    }

    fn read_link(&self, path: &str) -> Result<Option<String>> {
        self.raw_link(without_end(absolute(path)?))
    }

    fn read(&self, path: &str) -> Result<Option<Vec<u8>>> {
        let path = without_end(absolute(path)?);
        if path.starts_with("/sys/") {
            return attribute(path);
        }
        match self.stat(path)? {
            None => Ok(None),
            Some(Stat { kind: FileKind::Folder, .. }) => Err(is_folder(path)),
            // A pipe would block for ever, a device may have no end.
            Some(Stat { kind: FileKind::Other, .. }) => Err(Error::failed(format!("{path} is not a regular file"))),
            Some(_) => fs::read(path).map(Some).map_err(io("read", path)),
        }
    }

    fn list(&self, path: &str) -> Result<Vec<String>> {
        use std::io::ErrorKind::{NotADirectory, NotFound};
        match fs::read_dir(absolute(path)?) {
            Ok(entries) => names(path, entries),
            Err(error) if matches!(error.kind(), NotADirectory | NotFound) => Ok(Vec::new()),
            Err(error) => match self.stat(path)? {
                Some(Stat { kind: FileKind::Folder, .. }) => Err(Error::io("list", path, &error)),
                _ => Ok(Vec::new()),
            },
        }
    }

    fn real_path(&self, path: &str) -> Result<String> {
        // The kernel only knows paths to something that is there.
        match opened_path(absolute(path)?) {
            Some(real) => Ok(real),
            None => super::resolve(self, path, true),
        }
    }

    fn raw_read_link(&self, path: &str) -> Result<String> {
        utf8_link(path, fs::read_link(path).map_err(io("read the link", path))?)
    }

    fn raw_read(&self, path: &str) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        open_regular(path)?.read_to_end(&mut bytes).map_err(io("read", path))?;
        Ok(bytes)
    }

    fn raw_list(&self, path: &str) -> Result<Vec<String>> {
        names(path, fs::read_dir(path).map_err(io("list", path))?)
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

    fn units(&self, names: &[&str]) -> Result<Vec<Unit>> {
        let names: Vec<String> = names.iter().map(|name| units::full_name(name)).collect();
        let known = |name: &String| self.cache.borrow().units.get(name).cloned();
        let new: Vec<String> = names.iter().filter(|name| known(name).is_none()).cloned().collect();
        let found = units::units(self, &new)?;
        self.cache.borrow_mut().units.extend(new.into_iter().zip(found));
        Ok(names.iter().map(|name| known(name).unwrap_or_default()).collect())
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::host::Overlay;

    /// The kernel's way through links is the one that a plan's overlay takes by itself.
    #[test]
    fn links_lead_where_they_lead_in_a_plan() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        fs::create_dir_all(at("real/deep")).unwrap();
        fs::write(at("real/deep/file"), "one\ntwo\n").unwrap();
        for (target, name) in [
            ("real", "short"),
            ("deep/file", "real/inner"),
            ("../short/deep", "real/round"),
            ("nowhere", "dangling"),
            ("loop", "loop"),
            ("/dev/null", "device"),
        ] {
            symlink(target, at(name)).unwrap();
        }
        let (live, plan) = (Live::new(), Overlay::new(Live::new()));
        for way in [
            "real",
            "real/",
            "real/.",
            "short",
            "short/",
            "short/deep/..",
            "short/inner",
            "short/inner/",
            "real/round",
            "real/round/file",
            "short/round/../deep/file",
            "dangling",
            "dangling/x",
            "loop",
            "loop/x",
            "device",
            "real/deep/file/x",
            "real/deep/file/",
            "missing",
            "missing/x",
            "",
            ".",
            "//real//deep",
        ] {
            let path = format!("{}/{way}", folder.path().display());
            assert_eq!(live.stat(&path).ok(), plan.stat(&path).ok(), "stat {path}");
            assert_eq!(live.read(&path).ok(), plan.read(&path).ok(), "read {path}");
            assert_eq!(live.lstat(&path).ok(), plan.lstat(&path).ok(), "lstat {path}");
            assert_eq!(live.read_link(&path).ok(), plan.read_link(&path).ok(), "read_link {path}");
            assert_eq!(live.list(&path).ok(), plan.list(&path).ok(), "list {path}");
            assert_eq!(live.real_path(&path).ok(), plan.real_path(&path).ok(), "real_path {path}");
        }
        let looped = format!("{}/loop", folder.path().display());
        assert!(live.stat(&looped).unwrap_err().to_string().contains("too many links"));
        assert!(live.stat("etc/passwd").is_err() && live.read("etc/passwd").is_err());
    }

    #[test]
    fn attributes_are_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name).display().to_string();
        for size in [0, 1, 4095, 4096, 4097, 9000] {
            let content: Vec<u8> = (0..size).map(|n| (n % 251) as u8).collect();
            fs::write(at("file"), &content).unwrap();
            assert_eq!(attribute(&at("file")).unwrap(), Some(content), "{size}");
        }
        assert_eq!(attribute(&at("missing")).unwrap(), None);
        assert_eq!(attribute(&at("file/below")).unwrap(), None);
        assert!(attribute(&at("")).unwrap_err().to_string().contains("is a folder"));
    }
}
