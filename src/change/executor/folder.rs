//! A folder held open, in which things are made under a temporary name and then renamed.
//!
//! Everything goes through the open folder, so that nobody can exchange it between the writing and the renaming.

use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::explain;
use crate::host::{Error, Result};

const MARK: &str = ".vfio-provision-";
const NAME_MAX: usize = 255;

/// A folder held open.
pub struct Folder {
    fd: OwnedFd,
    /// Where it is for this process.
    place: PathBuf,
    /// Its path on the machine, for messages.
    path: String,
}

/// A file under a temporary name; removed when dropped before it was renamed.
pub struct Staged<'a> {
    folder: &'a Folder,
    file: File,
    name: String,
    /// What it is written for, as people know it.
    shown: String,
    armed: bool,
}

impl Folder {
    /// Opens a folder; `path` is its name for people.
    pub fn open(place: &Path, path: &str) -> Result<Folder> {
        match fs::open(place, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
            Ok(fd) => Ok(Folder { fd, place: place.to_path_buf(), path: path.to_string() }),
            Err(Errno::NOENT) => Err(Error::failed(format!("the folder {path} does not exist"))
                .hint("make it first, with `file: {path: …, state: directory}`")),
            Err(Errno::NOTDIR) => Err(Error::failed(format!("{path} is not a folder"))),
            Err(error) => Err(explain("open the folder", path, &error.into())),
        }
    }

    /// The open folder itself.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Where a name in it is for this process.
    pub fn place_of(&self, name: &str) -> PathBuf {
        self.place.join(name)
    }

    /// The same as text, as commands get it.
    pub fn path_of(&self, name: &str) -> String {
        self.place_of(name).to_string_lossy().into_owned()
    }

    /// The path on the machine of a name in it.
    pub fn shown(&self, name: &str) -> String {
        format!("{}/{name}", self.path.trim_end_matches('/'))
    }

    /// A new name beside `name` that nobody else has.
    pub fn temporary_name(&self, name: &str) -> String {
        let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
        format!("{}{random:016x}", prefix(name))
    }

    /// Removes what earlier runs left behind that were killed while they wrote this very name.
    pub fn remove_leftovers(&self, name: &str) -> Result<()> {
        let prefix = prefix(name);
        for other in self.names()? {
            let ours = other
                .strip_prefix(&prefix)
                .is_some_and(|rest| rest.len() == 16 && rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
            if ours {
                super::remove::clear(self, &other)?;
            }
        }
        Ok(())
    }

    /// The names in it.
    pub fn names(&self) -> Result<Vec<String>> {
        let failed = |error: Errno| explain("list the folder", &self.path, &error.into());
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.fd).map_err(failed)? {
            names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
        }
        names.retain(|name| name != "." && name != "..");
        Ok(names)
    }

    /// A new, empty file under a temporary name, closed to others until it has its attributes.
    pub fn stage(&self, name: &str) -> Result<Staged<'_>> {
        let temporary = self.temporary_name(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = fs::openat(&self.fd, temporary.as_str(), flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| explain("write", &self.shown(name), &e.into()))?;
        Ok(Staged { folder: self, file: File::from(fd), name: temporary, shown: self.shown(name), armed: true })
    }

    /// A file that is in it already and shall be renamed; kept when dropped.
    pub fn adopt(&self, file: File, name: &str) -> Staged<'_> {
        Staged { folder: self, file, name: name.to_string(), shown: self.shown(name), armed: false }
    }

    /// The regular file that stands at this name now.
    pub fn open_old(&self, name: &str) -> Result<Option<File>> {
        let shown = self.shown(name);
        let stat = match fs::statat(&self.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(explain("examine", &shown, &error.into())),
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {}
            FileType::Directory => return Err(Error::failed(format!("{shown} is a folder, not a file"))),
            FileType::Symlink => return Err(Error::failed(format!("{shown} became a link meanwhile"))),
            _ => {
                return Err(Error::refused(format!("{shown} is a device, socket or pipe"))
                    .hint("it is not replaced by a file; remove it first if that is meant"));
            }
        }
        fs::openat(
            &self.fd,
            name,
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map(|fd| Some(File::from(fd)))
        .map_err(|e| explain("open", &shown, &e.into()))
    }

    /// Makes a link, or replaces what is there, in one step.
    pub fn link(&self, name: &str, target: &str) -> Result<()> {
        let temporary = self.temporary_name(name);
        let shown = self.shown(name);
        fs::symlinkat(target, &self.fd, temporary.as_str()).map_err(|e| explain("make the link", &shown, &e.into()))?;
        super::failpoint::hit(super::Point::Written);
        match fs::renameat(&self.fd, temporary.as_str(), &self.fd, name) {
            Ok(()) => {
                super::failpoint::hit(super::Point::Renamed);
                Ok(())
            }
            Err(error) => {
                let _ = fs::unlinkat(&self.fd, temporary.as_str(), AtFlags::empty());
                match error {
                    Errno::ISDIR => Err(Error::failed(format!("{shown} is a folder: a link can't take its place"))
                        .hint("remove the folder first")),
                    _ => Err(explain("make the link", &shown, &error.into())),
                }
            }
        }
    }

    /// Makes a folder, gives it its attributes by `prepare`, and only then its name.
    pub fn make_folder(&self, name: &str, prepare: impl FnOnce(&OwnedFd) -> Result<()>) -> Result<()> {
        let temporary = self.temporary_name(name);
        let shown = self.shown(name);
        let failed = |error: Errno| explain("make the folder", &shown, &error.into());
        fs::mkdirat(&self.fd, temporary.as_str(), Mode::RWXU).map_err(failed)?;
        let made = || -> Result<()> {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = fs::openat(&self.fd, temporary.as_str(), flags, Mode::empty()).map_err(failed)?;
            prepare(&fd)?;
            super::failpoint::hit(super::Point::Written);
            match self.rename_new(&temporary, name) {
                Err(Errno::EXIST) => Err(Error::failed(format!("{shown} is there already and is not a folder"))),
                other => other.map_err(failed),
            }
        };
        made().inspect_err(|_| {
            let _ = fs::unlinkat(&self.fd, temporary.as_str(), AtFlags::REMOVEDIR);
        })
    }

    fn rename_new(&self, from: &str, to: &str) -> rustix::io::Result<()> {
        match fs::renameat_with(&self.fd, from, &self.fd, to, RenameFlags::NOREPLACE) {
            // Old kernels and some file systems don't know the flag.
            Err(Errno::INVAL | Errno::NOSYS) => match fs::statat(&self.fd, to, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => fs::renameat(&self.fd, from, &self.fd, to),
                Err(error) => Err(error),
                Ok(_) => Err(Errno::EXIST),
            },
            other => other,
        }
    }

    /// Makes sure that what was renamed or removed in it survives a power cut.
    pub fn sync(&self) -> Result<()> {
        match fs::fsync(&self.fd) {
            // Some file systems can't sync a folder; they write its changes at once or with the file.
            Ok(()) | Err(Errno::INVAL | Errno::NOTSUP) => Ok(()),
            Err(error) => Err(explain("sync the folder", &self.path, &error.into())),
        }
    }
}

impl Staged<'_> {
    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Its temporary name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Makes sure that its content is on the disk.
    pub fn sync(&self) -> Result<()> {
        fs::fsync(self.file.as_fd()).map_err(|e| explain("write", &self.shown, &e.into()))
    }

    /// Gives it its final name, in place of what had it.
    pub fn rename_to(mut self, name: &str) -> Result<()> {
        fs::renameat(&self.folder.fd, self.name.as_str(), &self.folder.fd, name)
            .map_err(|e| explain("replace", &self.folder.shown(name), &e.into()))?;
        self.armed = false;
        Ok(())
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if self.armed {
            let _ = fs::unlinkat(&self.folder.fd, self.name.as_str(), AtFlags::empty());
        }
    }
}

/// What all temporary names beside `name` begin with. A very long name is cut so that the temporary one is still allowed.
fn prefix(name: &str) -> String {
    let mut end = name.len().min(NAME_MAX - MARK.len() - 1 - 16);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!(".{}{MARK}", name.get(..end).unwrap_or(name))
}
