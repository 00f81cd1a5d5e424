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
mod seen;
mod txtar;

use std::cell::RefCell;
use std::fs;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::live::units;
use super::model::{Attributes, Body, Machine, predict};
use super::overlay::{Overlay, absent, unit_name};
use super::{Available, Error, FileKind, Host, Output, Package, Result, Stat, Unit, Virt, VirtKind};
use crate::change::{Op, failpoint};
use crate::packed::{CENTOS7_SEED, Packed};
use book::Book;
use seen::{SMALL, Seen, There};

pub use txtar::unpack;

/// Where a folder keeps what is no file of the machine.
const OWN: &str = ".vfio-provision";

/// Recorded machines that are part of this program: name and text.
static EMBEDDED: [(&str, &Packed); 1] = [("centos7-seed", &CENTOS7_SEED)];

/// A folder served as a machine.
pub struct Folder {
    root: PathBuf,
    book: RefCell<Book>,
    /// What was looked at since the last operation.
    seen: RefCell<Seen>,
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
        Ok(Folder { root, book, seen: RefCell::default() })
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
            unpack(text.text(), root)?;
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

    /// Whatever was looked at may be something else now.
    fn forget(&self) {
        self.seen.take();
    }

    /// What stands at a path.
    fn there(&self, path: &str) -> Result<There> {
        if let Some(known) = self.seen.borrow_mut().fresh().there(path) {
            return Ok(known.clone());
        }
        let there = self.look(path)?;
        self.seen.borrow_mut().keep_there(path, &there);
        Ok(there)
    }

    fn look(&self, path: &str) -> Result<There> {
        let Some(place) = self.place(path) else { return Ok(There::Nothing) };
        let meta = match fs::symlink_metadata(&place) {
            Ok(meta) => meta,
            Err(e) if nothing_there(&e) => return Ok(There::Nothing),
            Err(e) => return Err(Error::io("look at", path, &e)),
        };
        let (kind, mode) = (meta.file_type(), meta.permissions().mode() & 0o7777);
        Ok(if kind.is_symlink() {
            There::Link { target: read_link(&place, path)? }
        } else if kind.is_dir() {
            There::Folder { mode }
        } else if kind.is_file() {
            There::File { mode, len: meta.len() }
        } else {
            There::Other { mode }
        })
    }

    /// What is in the file of this length at a path.
    fn content<T>(&self, path: &str, len: u64, ask: impl FnOnce(&Body) -> T) -> Result<T> {
        if let Some(known) = self.seen.borrow_mut().fresh().body(path) {
            return Ok(ask(known));
        }
        let place = self.place(path).ok_or_else(|| absent(path))?;
        let body = read_whole(&place, len).map(book::decode).map_err(|e| Error::io("read", path, &e))?;
        let answer = ask(&body);
        self.seen.borrow_mut().keep_body(path, body, len);
        Ok(answer)
    }

    /// What a file of this length stands for, if it holds no plain bytes; `None` for plain bytes. Reads no more of a large
    /// file than it must.
    fn stands_for(&self, path: &str, len: u64) -> Result<Option<Body>> {
        if len < book::MARK.len() as u64 {
            return Ok(None);
        }
        if len > SMALL && !self.is_marked(path)? {
            return Ok(None);
        }
        self.content(path, len, |body| match body {
            Body::Bytes(bytes) if bytes.len() as u64 == len => None,
            body => Some(body.clone()),
        })
    }

    fn is_marked(&self, path: &str) -> Result<bool> {
        let place = self.place(path).ok_or_else(|| absent(path))?;
        let mut begin = vec![0; book::MARK.len()];
        fs::File::open(place)
            .and_then(|mut file| file.read_exact(&mut begin))
            .map_err(|e| Error::io("read", path, &e))?;
        Ok(begin == book::MARK.as_bytes())
    }

    /// How long the regular file at a path is.
    fn file(&self, path: &str) -> Result<u64> {
        match self.there(path)? {
            There::File { len, .. } => Ok(len),
            There::Nothing => Err(absent(path)),
            _ => Err(Error::failed(format!("{path} is not a regular file"))),
        }
    }
}

/// A file that is about this long, with as few calls as that takes.
fn read_whole(place: &Path, len: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or_default().saturating_add(1));
    fs::File::open(place)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn read_link(place: &Path, path: &str) -> Result<String> {
    let target = fs::read_link(place).map_err(|e| Error::io("read the link", path, &e))?;
    target.into_os_string().into_string().map_err(|_| Error::failed(format!("the link {path} is not UTF-8")))
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
        let (kind, mode, size) = match self.there(path)? {
            There::Nothing => return Ok(None),
            There::Link { target } => (FileKind::Link, 0o777, target.len() as u64),
            There::Folder { mode } => (FileKind::Folder, mode, 0),
            There::Other { mode } => (FileKind::Other, mode, 0),
            There::File { mode, len } => {
                let size = match self.stands_for(path, len)? {
                    None => len,
                    Some(Body::Bytes(bytes)) => bytes.len() as u64,
                    Some(_) => 0,
                };
                (FileKind::File, mode, size)
            }
        };
        let real = Attributes { mode, uid: 0, gid: 0 };
        let Attributes { mode, uid, gid } = match kind {
            FileKind::Link => real,
            _ => self.book.borrow().attributes(path).unwrap_or(real),
        };
        // A folder that was copied or unpacked has no times worth telling.
        Ok(Some(Stat { kind, mode, uid, gid, size, mtime: 0 }))
    }

    fn raw_read_link(&self, path: &str) -> Result<String> {
        match self.there(path)? {
            There::Link { target } => Ok(target),
            There::Nothing => Err(absent(path)),
            _ => Err(Error::failed(format!("{path} is not a link"))),
        }
    }

    fn raw_link(&self, path: &str) -> Result<Option<String>> {
        Ok(match self.there(path)? {
            There::Link { target } => Some(target),
            _ => None,
        })
    }

    fn raw_read(&self, path: &str) -> Result<Vec<u8>> {
        self.raw_body(path)?.into_bytes(path)
    }

    fn raw_body(&self, path: &str) -> Result<Body> {
        let len = self.file(path)?;
        self.content(path, len, Body::clone)
    }

    fn raw_list(&self, path: &str) -> Result<Vec<String>> {
        if let Some(known) = self.seen.borrow_mut().fresh().list(path) {
            return Ok(known.clone());
        }
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
        self.seen.borrow_mut().keep_list(path, &names);
        Ok(names)
    }

    fn raw_sha256(&self, path: &str) -> Result<String> {
        let len = self.file(path)?;
        if let Some(body) = self.stands_for(path, len)? {
            return body.sha256(path);
        }
        let io = |e: std::io::Error| Error::io("read", path, &e);
        let place = self.place(path).ok_or_else(|| absent(path))?;
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
        self.forget();
        let foreseen = Overlay::new(self);
        predict(&foreseen, op)?;
        let units = foreseen.units_of_files()?;
        let mut state = foreseen.into_state();
        for (name, unit) in units {
            state.units.entry(name).or_insert(unit);
        }
        let done = commit::commit(self, state);
        self.forget();
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
