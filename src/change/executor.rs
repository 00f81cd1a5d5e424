//! Does one operation for real, on a live file system.
//!
//! Whatever interrupts it (a kill, a full disk, a power cut), a file has its old content or its new one. The old file's
//! owner, mode, ACL and labels stay unless the operation says otherwise.

mod attributes;
mod command;
mod download;
mod folder;
mod remove;
#[cfg(test)]
mod tests;
mod wait;

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;

use super::failpoint::{self, Point};
use super::{Content, Op};
use crate::host::{Error, Host, Output, Result, accounts};
use attributes::Wanted;
use folder::Folder;

/// Does `op` on the machine that this process runs on. `host` reads that same machine: it follows links and knows accounts.
///
/// # Errors
/// What was tried, what came back, what to do. The machine is unchanged then, except by a command that failed half-way.
pub fn perform(host: &dyn Host, op: &Op, progress: &mut dyn FnMut(&str)) -> Result<Option<Output>> {
    perform_in(Path::new("/"), host, op, progress)
}

/// The same below another root folder; `host` must see that folder as `/`. Commands run outside of it.
///
/// # Errors
/// As [`perform`].
pub fn perform_in(root: &Path, host: &dyn Host, op: &Op, progress: &mut dyn FnMut(&str)) -> Result<Option<Output>> {
    failpoint::hit(Point::Before);
    let output = Executor { root, host }.perform(op, progress)?;
    failpoint::hit(Point::After);
    Ok(output)
}

/// The extended attributes of a file or folder on this process's file system, as a rollback needs them.
///
/// # Errors
/// When they are there and can't be read.
pub fn xattrs(path: &str) -> Result<Vec<(String, Vec<u8>)>> {
    attributes::xattrs(Path::new(path), path)
}

/// Where operations are done.
struct Executor<'a> {
    root: &'a Path,
    host: &'a dyn Host,
}

impl Executor<'_> {
    fn perform(&self, op: &Op, progress: &mut dyn FnMut(&str)) -> Result<Option<Output>> {
        match op {
            Op::WriteFile { path, content, mode, owner, group, validate } => {
                let wanted = self.wanted(*mode, owner.as_deref(), group.as_deref())?;
                self.write(path, content, wanted, validate)?;
            }
            Op::SetAttributes { path, mode, owner, group } => {
                let wanted = self.wanted(*mode, owner.as_deref(), group.as_deref())?;
                attributes::set(&self.place(&self.host.real_path(path)?), path, wanted)?;
            }
            Op::MakeFolder { path, mode, owner, group } => {
                let wanted = self.wanted(*mode, owner.as_deref(), group.as_deref())?;
                self.make_folder(path, wanted)?;
            }
            Op::Link { path, target } => {
                let (folder, name) = self.folder_of(&self.in_real_parent(path)?)?;
                folder.remove_leftovers(&name)?;
                folder.link(&name, target)?;
                self.label_new(path);
                folder.sync()?;
            }
            Op::Remove { path } => {
                let (folder, name) = match self.folder_of(&self.in_real_parent(path)?) {
                    Ok(found) => found,
                    // Gone with its folder: that is what was asked for.
                    Err(_) if self.host.lstat(path)?.is_none() => return Ok(None),
                    Err(error) => return Err(error),
                };
                remove::remove(&folder, &name)?;
            }
            Op::Download { url, path, sha256, mode } => {
                let wanted = Wanted { mode: *mode, ..Wanted::default() };
                let real = self.host.real_path(path)?;
                let (folder, name) = self.folder_of(&real)?;
                let local = |path: &str| {
                    let from = self.place(&self.host.real_path(path)?);
                    File::open(from).map_err(|e| explain("read", path, &e))
                };
                let patience = &download::PATIENCE;
                let fetched = download::fetch(&folder, &name, url, sha256.as_deref(), patience, &local, progress)?;
                self.put_in_place(&folder, fetched, &name, &real, wanted, &[])?;
                download::forget(&folder, &name, None)?;
            }
            Op::SetXattrs { path, xattrs } => {
                attributes::set_xattrs(&self.place(&self.in_real_parent(path)?), path, xattrs)?;
            }
            Op::Poke { path, value, .. } => poke(&self.place(&self.host.real_path(path)?), path, value)?,
            Op::Run(run) => return command::run(self.root, run, progress).map(Some),
            Op::Wait(wait) => wait::wait(self.root, self.host, wait, progress)?,
        }
        Ok(None)
    }

    /// The path on this process's file system of a path on the machine; links have been followed already.
    fn place(&self, real: &str) -> PathBuf {
        self.root.join(real.trim_start_matches('/'))
    }

    fn wanted(&self, mode: Option<u32>, owner: Option<&str>, group: Option<&str>) -> Result<Wanted> {
        Ok(Wanted {
            mode,
            uid: owner.map(|owner| accounts::uid(self.host, owner)).transpose()?,
            gid: group.map(|group| accounts::gid(self.host, group)).transpose()?,
        })
    }

    /// The path with its parents' links followed, its own last part not.
    fn in_real_parent(&self, path: &str) -> Result<String> {
        match path.trim_end_matches('/').rsplit_once('/') {
            Some((parent, name)) if !matches!(name, "" | "." | "..") => {
                let parent = self.host.real_path(if parent.is_empty() { "/" } else { parent })?;
                Ok(format!("{}/{name}", parent.trim_end_matches('/')))
            }
            _ => Err(Error::failed(format!("`{path}` can't be replaced or removed"))),
        }
    }

    /// The folder that a path stands in, opened, and the path's name in it.
    fn folder_of(&self, real: &str) -> Result<(Folder, String)> {
        let (parent, name) = real.rsplit_once('/').unwrap_or(("", real));
        if name.is_empty() {
            return Err(Error::failed(format!("`{real}` can't be replaced or removed")));
        }
        let parent = if parent.is_empty() { "/" } else { parent };
        Ok((Folder::open(&self.place(parent), parent)?, name.to_string()))
    }

    fn write(&self, path: &str, content: &Content, wanted: Wanted, validate: &[Vec<String>]) -> Result<()> {
        let real = self.host.real_path(path)?;
        let (folder, name) = self.folder_of(&real)?;
        folder.remove_leftovers(&name)?;
        let staged = folder.stage(&name)?;
        match content {
            Content::Bytes(bytes) => {
                staged.file().write_all(bytes).map_err(|e| explain("write", &real, &e))?;
            }
            Content::CopyOf(source) => {
                let from = self.place(&self.host.real_path(source)?);
                let mut from = File::open(from).map_err(|e| explain("read", source, &e))?;
                copy_all(&mut from, staged.file(), source, &real)?;
            }
        }
        self.put_in_place(&folder, staged, &name, &real, wanted, validate)
    }

    /// The end of every new content: attributes, checks, sync, rename, sync.
    fn put_in_place(
        &self,
        folder: &Folder,
        staged: folder::Staged<'_>,
        name: &str,
        real: &str,
        wanted: Wanted,
        validate: &[Vec<String>],
    ) -> Result<()> {
        let old = folder.open_old(name)?;
        match &old {
            Some(old) => attributes::like_old(staged.file(), old, wanted, real)?,
            None => {
                attributes::as_new(staged.file(), 0o644, wanted, real)?;
                self.label_staged(&staged, real);
            }
        }
        for command in validate {
            command::validate(command, &folder.path_of(staged.name()), real)?;
        }
        staged.sync()?;
        failpoint::hit(Point::Written);
        staged.rename_to(name)?;
        failpoint::hit(Point::Renamed);
        if old.is_none() {
            self.label_new(real);
        }
        folder.sync()
    }

    fn make_folder(&self, path: &str, wanted: Wanted) -> Result<()> {
        let real = self.host.real_path(path)?;
        let (folder, name) = self.folder_of(&real)?;
        if self.host.lstat(&real)?.is_some_and(|stat| stat.kind == crate::host::FileKind::Folder) {
            return attributes::set(&self.place(&real), path, wanted);
        }
        folder.remove_leftovers(&name)?;
        folder.make_folder(&name, |made| attributes::as_new(made, 0o755, wanted, &real))?;
        failpoint::hit(Point::Renamed);
        self.label_new(&real);
        folder.sync()
    }

    fn has_selinux(&self) -> bool {
        self.root == Path::new("/") && Path::new("/sys/fs/selinux/enforce").exists()
    }

    /// Gives a file that is new the label that the policy has for its path, while it still has its temporary name.
    fn label_staged(&self, staged: &folder::Staged<'_>, real: &str) {
        if self.has_selinux()
            && let Some(label) = command::answer("matchpathcon", &["-n", real])
            && label.contains(':')
        {
            let _ = attributes::set_label(staged.file(), &label);
        }
    }

    /// The policy's own tool has the last word on what is new. Where it is missing, the label that the kernel gave stays.
    fn label_new(&self, real: &str) {
        if self.has_selinux() {
            let _ = command::answer("restorecon", &[real]);
        }
    }
}

/// One write to an attribute of the kernel.
fn poke(place: &Path, path: &str, value: &str) -> Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(place)
        .map_err(|e| explain_poke(path, value, &e))?;
    match file.write(value.as_bytes()) {
        Ok(written) if written == value.len() => Ok(()),
        Ok(written) => {
            Err(Error::failed(format!("the kernel took only {written} of {} bytes written to {path}", value.len())))
        }
        Err(error) => Err(explain_poke(path, value, &error)),
    }
}

fn explain_poke(path: &str, value: &str, error: &std::io::Error) -> Error {
    let tried = Error::failed(format!("can't write `{}` to {path}: {error}", value.trim_end()));
    match Errno::from_io_error(error) {
        Some(Errno::BUSY) => {
            tried.hint("something still uses the device: stop it, or make the change at the next boot")
        }
        Some(Errno::INVAL) => tried.hint("the kernel does not know this value here"),
        Some(Errno::NODEV | Errno::NXIO) => tried
            .hint("no such device for this driver: its id may not be known to the driver, or it is bound elsewhere"),
        Some(Errno::NOENT) => {
            tried.hint("the kernel has no such attribute: the module may not be loaded, or the device is gone")
        }
        Some(Errno::PERM | Errno::ACCESS) => tried.hint(
            "it takes root (become: true); under kernel lockdown (Secure Boot) some attributes are closed to root too",
        ),
        _ => tried,
    }
}

/// A system error in words, with what to do where that is known.
fn explain(tried: &str, path: &str, error: &std::io::Error) -> Error {
    let said = Error::io(tried, path, error);
    match Errno::from_io_error(error) {
        Some(Errno::NOSPC) => Error::failed(format!("can't {tried} {path}: the disk is full; the file is as it was"))
            .hint("make room and run again"),
        Some(Errno::DQUOT) => {
            Error::failed(format!("can't {tried} {path}: the disk quota is used up; the file is as it was"))
                .hint("make room and run again")
        }
        Some(Errno::ROFS) => said.hint("the file system is mounted read-only"),
        Some(Errno::ACCESS) => said.hint("this user may not; does the task need `become: true`?"),
        Some(Errno::PERM) => said.hint("needs root (become: true), or the file is immutable (see lsattr)"),
        Some(Errno::BUSY) => said.hint("it is a mount point or in use: a file that is mounted over can't be replaced"),
        _ => said,
    }
}

/// Copies until the end; says which side failed.
fn copy_all(from: &mut impl Read, mut to: &File, source: &str, target: &str) -> Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let length = match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(explain("read", source, &error)),
        };
        to.write_all(buffer.get(..length).unwrap_or_default()).map_err(|e| explain("write", target, &e))?;
    }
}

/// Permission bits for the system.
fn bits(mode: u32) -> Mode {
    Mode::from_raw_mode(mode & 0o7777)
}
