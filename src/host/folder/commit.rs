//! Writing down what an operation has made of a folder: all of it or nothing.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::book::{Book, Owned, encode};
use super::{Folder, OWN, nothing_there, place};
use crate::change::failpoint::{self, Point};
use crate::host::model::Attributes;
use crate::host::overlay::{Node, State};
use crate::host::{Error, Result};

const STAGED: &str = "staged";
const PENDING: &str = "pending.json";

/// One thing to do to the folder. Each may be done twice: a step whose work is done already does nothing.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Step {
    /// A staged file or link goes to its place.
    Put { staged: usize, path: String },
    /// What is there goes aside, to be deleted with the staging area.
    Aside { path: String, staged: usize },
    /// A folder, made where it is missing.
    Folder { path: String, mode: u32 },
    /// Permission bits.
    Mode { path: String, mode: u32 },
    /// The staged `machine.json` goes to its place.
    Book { staged: usize },
}

/// Writes down a state; answers what `machine.json` says now.
pub(super) fn commit(folder: &Folder, state: State) -> Result<Book> {
    commit_until(folder, state, usize::MAX)
}

#[cfg(test)]
pub(super) fn killed_after(folder: &Folder, state: State, steps: usize) {
    commit_until(folder, state, steps).unwrap();
}

/// `steps`: after how many of them the process is killed, in tests.
fn commit_until(folder: &Folder, state: State, steps: usize) -> Result<Book> {
    let root = &folder.root;
    let own = root.join(OWN);
    fs::create_dir_all(&own).map_err(|e| failed("make", &own, &e))?;
    let _lock = lock(&own)?;
    finish_locked(root)?;
    let old = Book::load(root)?;
    let mut book = old.clone();
    let mut stage = Stage { area: own.join(STAGED), steps: Vec::new(), next: 0 };
    for (path, node) in state.nodes {
        stage.node(root, &path, node, &mut book)?;
    }
    for (name, package) in state.packages {
        match package {
            Some(package) => book.packages.insert(name, package.version),
            None => book.packages.remove(&name),
        };
    }
    book.units.extend(state.units.into_iter().map(|(name, unit)| (name, unit.into())));
    for ((kind, name), virt) in state.virts {
        match virt {
            Some(virt) => book.virts_mut(kind).insert(name, virt.into()),
            None => book.virts_mut(kind).remove(&name),
        };
    }
    if book != old {
        let staged = stage.file(book.to_text()?.as_bytes(), 0o644)?;
        stage.steps.push(Step::Book { staged });
    }
    failpoint::hit(Point::Written);
    if stage.steps.len() > 1 {
        let list = serde_json::to_vec(&stage.steps).map_err(|e| Error::failed(format!("can't note the steps: {e}")))?;
        let staged = stage.file(&list, 0o644)?;
        rename(&stage.area.join(staged.to_string()), &own.join(PENDING))?;
    }
    let steps_now = stage.steps.get(..steps).unwrap_or(&stage.steps);
    let (first, rest) = steps_now.split_at(steps_now.len().min(1));
    do_steps(root, first)?;
    failpoint::hit(Point::Renamed);
    do_steps(root, rest)?;
    if steps == usize::MAX {
        clear(&own)?;
    }
    Ok(book)
}

/// Finishes what a killed process began.
pub(super) fn finish(root: &Path) -> Result<()> {
    let own = root.join(OWN);
    if !own.join(PENDING).exists() && !own.join(STAGED).exists() {
        return Ok(());
    }
    let _lock = lock(&own)?;
    finish_locked(root)
}

fn finish_locked(root: &Path) -> Result<()> {
    let own = root.join(OWN);
    let pending = own.join(PENDING);
    match fs::read(&pending) {
        Ok(list) => {
            let steps: Vec<Step> = serde_json::from_slice(&list)
                .map_err(|e| Error::failed(format!("can't read {}: {e}", pending.display())))?;
            do_steps(root, &steps)?;
        }
        Err(e) if nothing_there(&e) => {}
        Err(e) => return Err(failed("read", &pending, &e)),
    }
    clear(&own)
}

/// Held while the folder changes; two runs on one sandbox take turns.
fn lock(own: &Path) -> Result<fs::File> {
    let path = own.join("lock");
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|e| failed("open", &path, &e))?;
    file.lock().map_err(|e| failed("lock", &path, &e))?;
    Ok(file)
}

fn clear(own: &Path) -> Result<()> {
    for (path, result) in [
        (own.join(PENDING), fs::remove_file(own.join(PENDING))),
        (own.join(STAGED), fs::remove_dir_all(own.join(STAGED))),
    ] {
        match result {
            Err(e) if !nothing_there(&e) => return Err(failed("remove", &path, &e)),
            _ => {}
        }
    }
    Ok(())
}

fn do_steps(root: &Path, steps: &[Step]) -> Result<()> {
    let area = root.join(OWN).join(STAGED);
    let at = |path: &str| place(root, path).ok_or_else(|| own_business(path));
    for step in steps {
        match step {
            Step::Put { staged, path } => move_if_there(&area.join(staged.to_string()), &at(path)?)?,
            Step::Book { staged } => {
                move_if_there(&area.join(staged.to_string()), &root.join(OWN).join("machine.json"))?;
            }
            Step::Aside { path, staged } => {
                let aside = area.join(staged.to_string());
                if !exists(&aside)? {
                    move_if_there(&at(path)?, &aside)?;
                }
            }
            Step::Folder { path, mode } => {
                let place = at(path)?;
                match fs::create_dir(&place) {
                    Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(failed("make", &place, &e)),
                    _ => set_mode(&place, *mode)?,
                }
            }
            Step::Mode { path, mode } => set_mode(&at(path)?, *mode)?,
        }
    }
    Ok(())
}

fn move_if_there(from: &Path, to: &Path) -> Result<()> {
    match fs::rename(from, to) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !exists(from)? => Ok(()),
        Err(e) => Err(failed("replace", to, &e)),
        Ok(()) => Ok(()),
    }
}

fn exists(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(e) if nothing_there(&e) => Ok(false),
        Err(e) => Err(failed("look at", path, &e)),
    }
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|e| failed("replace", to, &e))
}

fn set_mode(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(|e| failed("set the mode of", path, &e))
}

fn failed(tried: &str, path: &Path, error: &std::io::Error) -> Error {
    Error::io(tried, &path.display().to_string(), error)
}

fn own_business(path: &str) -> Error {
    Error::refused(format!("{path} is where the sandbox keeps its own records"))
}

/// What is about to become of the folder.
struct Stage {
    area: PathBuf,
    steps: Vec<Step>,
    next: usize,
}

impl Stage {
    fn number(&mut self) -> Result<usize> {
        if self.next == 0 {
            fs::create_dir_all(&self.area).map_err(|e| failed("make", &self.area, &e))?;
        }
        self.next += 1;
        Ok(self.next)
    }

    fn file(&mut self, bytes: &[u8], mode: u32) -> Result<usize> {
        let number = self.number()?;
        let path = self.area.join(number.to_string());
        let write = || -> std::io::Result<()> {
            fs::File::create(&path)?.write_all(bytes)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
        };
        write().map_err(|e| failed("write", &path, &e))?;
        Ok(number)
    }

    fn node(&mut self, root: &Path, path: &str, node: Node, book: &mut Book) -> Result<()> {
        let place = place(root, path).ok_or_else(|| own_business(path))?;
        let there = match fs::symlink_metadata(&place) {
            Ok(meta) => Some(meta),
            Err(e) if nothing_there(&e) => None,
            Err(e) => return Err(failed("look at", &place, &e)),
        };
        let folder_there = there.as_ref().is_some_and(fs::Metadata::is_dir);
        match node {
            Node::Gone => {
                book.forget(path);
                self.aside(path, there.is_some())
            }
            Node::File(body, attributes) => {
                book.forget(path);
                let mode = self.attributes(path, attributes, 0o600, book);
                let bytes = encode(body)?;
                let same = there.as_ref().is_some_and(|meta| meta.is_file() && meta.len() == bytes.len() as u64)
                    && fs::read(&place).map_err(|e| failed("read", &place, &e))? == bytes;
                if same {
                    return self.mode(path, there.as_ref(), mode);
                }
                self.aside(path, folder_there)?;
                let staged = self.file(&bytes, mode)?;
                self.steps.push(Step::Put { staged, path: path.to_string() });
                Ok(())
            }
            Node::Link(target) => {
                book.forget(path);
                self.aside(path, folder_there)?;
                let staged = self.number()?;
                let link = self.area.join(staged.to_string());
                std::os::unix::fs::symlink(&target, &link).map_err(|e| failed("make", &link, &e))?;
                self.steps.push(Step::Put { staged, path: path.to_string() });
                Ok(())
            }
            Node::Folder { attributes, fresh } => {
                let replaced = fresh || !folder_there;
                if replaced {
                    book.forget(path);
                    self.aside(path, there.is_some())?;
                }
                let mode = self.attributes(path, attributes, 0o700, book);
                if replaced {
                    self.steps.push(Step::Folder { path: path.to_string(), mode });
                    return Ok(());
                }
                self.mode(path, there.as_ref(), mode)
            }
            Node::Attributes(attributes) => {
                let least = if folder_there { 0o700 } else { 0o600 };
                let mode = self.attributes(path, attributes, least, book);
                self.mode(path, there.as_ref(), mode)
            }
        }
    }

    fn aside(&mut self, path: &str, there: bool) -> Result<()> {
        if there {
            let staged = self.number()?;
            self.steps.push(Step::Aside { path: path.to_string(), staged });
        }
        Ok(())
    }

    fn mode(&mut self, path: &str, there: Option<&fs::Metadata>, mode: u32) -> Result<()> {
        if there.is_some_and(|meta| meta.permissions().mode() & 0o7777 != mode) {
            self.steps.push(Step::Mode { path: path.to_string(), mode });
        }
        Ok(())
    }

    /// The permission bits that the file really gets: the user of the sandbox must stay able to read and replace it, and
    /// must not get a setuid program. What differs from them is noted.
    fn attributes(&self, path: &str, attributes: Attributes, least: u32, book: &mut Book) -> u32 {
        let real = (attributes.mode & 0o777) | least;
        if attributes == (Attributes { mode: real, uid: 0, gid: 0 }) {
            book.attributes.remove(path);
        } else {
            book.attributes.insert(path.to_string(), Owned::new(attributes));
        }
        real
    }
}
