//! A folder as a machine: the sandbox, and recorded machines to plan against.
//!
//! `DIR/etc/fstab` is the machine's `/etc/fstab`. What a folder of an unprivileged user can't hold is written down in
//! `DIR/.vfio-provision/machine.json`: owners, packages, units, domains. Nothing is run and nothing is fetched: an
//! operation does what it says it does ([`predict`]), so a sandbox becomes exactly what a plan foresees.
//!
//! **Kills.** An operation is foreseen in memory first; trouble shows up there, before anything is touched. What it makes
//! of the machine is then staged in `DIR/.vfio-provision/staged/` (the new files, the new `machine.json`) with a list of
//! steps. Renaming that list into place is the moment at which the operation has happened: whoever opens the folder next
//! finishes the steps of a killed process, each of which may be done twice. An operation that is one rename needs no list.
//! Nothing is synced to disk: a power cut may cost a sandbox, never a machine.

mod book;
mod commit;
mod txtar;

use std::cell::RefCell;
use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use std::os::unix::fs::PermissionsExt;

use sha2::{Digest, Sha256};

use super::live::units;
use super::model::{Attributes, Body, Machine, predict};
use super::overlay::{Overlay, absent, unit_name};
use super::{Available, Error, FileKind, Host, Output, Package, Result, Stat, Unit, Virt, VirtKind};
use crate::change::{Op, failpoint};
use book::Book;

pub use txtar::unpack;

/// Where a folder keeps what is no file of the machine.
const OWN: &str = ".vfio-provision";

/// Recorded machines that are part of this program: name and text.
const EMBEDDED: [(&str, &str); 1] = [("centos7-seed", include_str!("../../machines/centos7-seed.txt"))];

/// A folder served as a machine.
pub struct Folder {
    root: PathBuf,
    book: RefCell<Book>,
    /// Links with their targets, and folders (`None`): what is on the way to almost everything, as far as it was looked
    /// at since the last operation.
    ways: RefCell<HashMap<String, Option<String>>>,
}

/// The names of the recorded machines that are part of this program.
pub fn embedded() -> impl Iterator<Item = &'static str> {
    EMBEDDED.iter().map(|(name, _)| *name)
}

impl Folder {
    /// Serves an existing folder. Steps that a killed process left are finished first.
    ///
    /// # Errors
    /// When there is no such folder, it is `/`, or its `machine.json` can't be read.
    pub fn open(root: impl AsRef<Path>) -> Result<Folder> {
        let given = root.as_ref();
        let root = fs::canonicalize(given).map_err(|e| {
            Error::io("open the sandbox", &given.display().to_string(), &e)
                .hint("`sandbox_machine: centos7-seed` fills a new folder with a recorded machine")
        })?;
        if root == Path::new("/") {
            return Err(Error::refused("the root of this machine can't be a sandbox")
                .hint("`ansible_connection: local` works on this machine itself"));
        }
        if !root.is_dir() {
            return Err(Error::failed(format!("the sandbox {} is not a folder", root.display())));
        }
        commit::finish(&root)?;
        let book = RefCell::new(Book::load(&root)?);
        Ok(Folder { root, book, ways: RefCell::default() })
    }

    /// Serves a folder; one that is empty or not there yet is first filled with the recorded machine of this name.
    ///
    /// # Errors
    /// As [`Folder::open`]; and when there is no such recorded machine or it can't be unpacked.
    pub fn open_or_unpack(root: impl AsRef<Path>, machine: Option<&str>) -> Result<Folder> {
        let root = root.as_ref();
        let empty = match fs::read_dir(root) {
            Ok(mut entries) => entries.next().is_none(),
            Err(e) => e.kind() == std::io::ErrorKind::NotFound,
        };
        if let (true, Some(name)) = (empty, machine) {
            let Some((_, text)) = EMBEDDED.iter().find(|(known, _)| *known == name) else {
                let known: Vec<&str> = embedded().collect();
                return Err(Error::parameters(format!("there is no recorded machine `{name}`"))
                    .hint(format!("`sandbox_machine` can be: {}", known.join(", "))));
            };
            unpack(text, root)?;
        }
        Folder::open(root)
    }

    /// The folder it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where a path of the machine is; `None` for what the sandbox keeps to itself.
    fn place(&self, path: &str) -> Option<PathBuf> {
        place(&self.root, path)
    }

    /// What a file that holds no plain bytes stands for; `None` for plain bytes. Reads no more than it must.
    fn stands_for(place: &Path, size: u64) -> std::io::Result<Option<Body>> {
        if size < book::MARK.len() as u64 {
            return Ok(None);
        }
        let mut file = fs::File::open(place)?;
        let mut begin = vec![0; book::MARK.len()];
        file.read_exact(&mut begin)?;
        if begin != book::MARK.as_bytes() {
            return Ok(None);
        }
        file.read_to_end(&mut begin)?;
        Ok(Some(book::decode(begin)))
    }

    fn file(&self, path: &str) -> Result<(PathBuf, u64)> {
        let place = self.place(path).ok_or_else(|| absent(path))?;
        match fs::symlink_metadata(&place) {
            Ok(meta) if meta.is_file() => Ok((place, meta.len())),
            Ok(_) => Err(Error::failed(format!("{path} is not a regular file"))),
            Err(e) if nothing_there(&e) => Err(absent(path)),
            Err(e) => Err(Error::io("read", path, &e)),
        }
    }
}

fn place(root: &Path, path: &str) -> Option<PathBuf> {
    let relative = path.trim_start_matches('/');
    let mut parts = relative.split('/');
    if relative.split('/').any(|part| part == "..") || parts.next() == Some(OWN) {
        return None;
    }
    Some(if relative.is_empty() { root.to_path_buf() } else { root.join(relative) })
}

fn nothing_there(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory)
}

impl Host for Folder {
    fn raw_lstat(&self, path: &str) -> Result<Option<Stat>> {
        let Some(place) = self.place(path) else { return Ok(None) };
        let meta = match fs::symlink_metadata(&place) {
            Ok(meta) => meta,
            Err(e) if nothing_there(&e) => return Ok(None),
            Err(e) => return Err(Error::io("look at", path, &e)),
        };
        let kind = meta.file_type();
        let (kind, size) = if kind.is_symlink() {
            (FileKind::Link, meta.len())
        } else if kind.is_dir() {
            (FileKind::Folder, 0)
        } else if kind.is_file() {
            let size = match Self::stands_for(&place, meta.len()).map_err(|e| Error::io("read", path, &e))? {
                None => meta.len(),
                Some(Body::Bytes(bytes)) => bytes.len() as u64,
                Some(_) => 0,
            };
            (FileKind::File, size)
        } else {
            (FileKind::Other, 0)
        };
        let real = Attributes { mode: meta.permissions().mode() & 0o7777, uid: 0, gid: 0 };
        let Attributes { mode, uid, gid } = match kind {
            FileKind::Link => Attributes { mode: 0o777, uid: 0, gid: 0 },
            _ => self.book.borrow().attributes(path).unwrap_or(real),
        };
        // A folder that was copied or unpacked has no times worth telling.
        Ok(Some(Stat { kind, mode, uid, gid, size, mtime: 0 }))
    }

    fn raw_read_link(&self, path: &str) -> Result<String> {
        let place = self.place(path).ok_or_else(|| absent(path))?;
        let target = fs::read_link(&place).map_err(|e| Error::io("read the link", path, &e))?;
        target.into_os_string().into_string().map_err(|_| Error::failed(format!("the link {path} is not UTF-8")))
    }

    fn raw_link(&self, path: &str) -> Result<Option<String>> {
        if let Some(known) = self.ways.borrow().get(path) {
            return Ok(known.clone());
        }
        let Some(place) = self.place(path) else { return Ok(None) };
        let target = match fs::symlink_metadata(&place) {
            Ok(meta) if meta.is_symlink() => Some(self.raw_read_link(path)?),
            Ok(meta) if meta.is_dir() => None,
            Ok(_) => return Ok(None),
            Err(e) if nothing_there(&e) => return Ok(None),
            Err(e) => return Err(Error::io("look at", path, &e)),
        };
        self.ways.borrow_mut().insert(path.to_string(), target.clone());
        Ok(target)
    }

    fn raw_read(&self, path: &str) -> Result<Vec<u8>> {
        self.raw_body(path)?.into_bytes(path)
    }

    fn raw_body(&self, path: &str) -> Result<Body> {
        let (place, _) = self.file(path)?;
        fs::read(&place).map(book::decode).map_err(|e| Error::io("read", path, &e))
    }

    fn raw_list(&self, path: &str) -> Result<Vec<String>> {
        let place = self.place(path).ok_or_else(|| absent(path))?;
        let entries = fs::read_dir(&place).map_err(|e| Error::io("list", path, &e))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| Error::io("list", path, &e))?;
            names.extend(entry.file_name().into_string().ok());
        }
        if path == "/" {
            names.retain(|name| name != OWN);
        }
        names.sort();
        Ok(names)
    }

    fn raw_sha256(&self, path: &str) -> Result<String> {
        let (place, size) = self.file(path)?;
        let io = |e: std::io::Error| Error::io("read", path, &e);
        if let Some(body) = Self::stands_for(&place, size).map_err(io)? {
            return body.sha256(path);
        }
        let mut hasher = Sha256::new();
        std::io::copy(&mut fs::File::open(&place).map_err(io)?, &mut hasher).map_err(io)?;
        Ok(format!("{:x}", hasher.finalize()))
    }

    fn package(&self, name: &str) -> Result<Option<Package>> {
        let book = self.book.borrow();
        Ok(book.packages.get(name).map(|version| Package { name: name.to_string(), version: version.clone() }))
    }

    fn available(&self, name: &str) -> Result<Option<Available>> {
        let Some(offer) = self.book.borrow().available.get(name).cloned() else { return Ok(None) };
        let files = book::files_of(&self.root, name)?;
        Ok(Some(Available { version: offer.version, files, units: offer.units, requires: offer.requires }))
    }

    fn unit(&self, name: &str) -> Result<Unit> {
        let name = unit_name(name);
        match self.book.borrow().units.get(&name) {
            Some(known) => Ok(known.clone().into()),
            None => units::from_files(self, &name),
        }
    }

    fn virt(&self, kind: VirtKind, name: &str) -> Result<Option<Virt>> {
        Ok(self.book.borrow().virts(kind).get(name).cloned().map(Virt::from))
    }

    fn virt_names(&self, kind: VirtKind) -> Result<Vec<String>> {
        Ok(self.book.borrow().virts(kind).keys().cloned().collect())
    }

    fn query(&self, _: &[&str]) -> Result<Option<Output>> {
        Ok(None)
    }

    fn groups_with_iommu(&self) -> std::collections::BTreeMap<String, u32> {
        self.book.borrow().with_iommu.clone()
    }

    fn is_recorded(&self) -> bool {
        true
    }
}

impl Machine for Folder {
    fn perform(&self, op: &Op, _: &mut dyn FnMut(&str)) -> Result<Option<Output>> {
        failpoint::hit(failpoint::Point::Before);
        let foreseen = Overlay::new(self);
        predict(&foreseen, op)?;
        let units = foreseen.units_of_files()?;
        let mut state = foreseen.into_state();
        for (name, unit) in units {
            state.units.entry(name).or_insert(unit);
        }
        let done = commit::commit(self, state);
        self.ways.borrow_mut().clear();
        self.book.replace(done?);
        failpoint::hit(failpoint::Point::After);
        Ok(None)
    }

    fn state_folder(&self) -> Option<PathBuf> {
        Some(self.root.join(OWN).join("state"))
    }
}

#[cfg(test)]
mod tests;
