//! Owner, mode, ACL and labels.

use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Gid, Uid, XattrFlags, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat};
use rustix::io::Errno;

use super::{bits, explain};
use crate::host::{Error, Result};

/// What was asked for; `None` is kept.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner's number.
    pub uid: Option<u32>,
    /// Group's number.
    pub gid: Option<u32>,
}

const LABEL: &str = "security.selinux";
/// Hashes of the content: the kernel makes them anew, and those of the old content would make the file unreadable.
const NOT_COPIED: [&str; 2] = ["security.ima", "security.evm"];

/// Gives a new content all that the old file had, and what was asked for on top.
pub fn like_old(new: &File, old: &File, wanted: Wanted, path: &str) -> Result<()> {
    let was = fstat(old).map_err(|e| explain("examine", path, &e.into()))?;
    own(new, wanted.uid.unwrap_or(was.st_uid), wanted.gid.unwrap_or(was.st_gid), path)?;
    // After the owner (chown drops file capabilities), before the mode (an ACL's mask is the mode's group part).
    copy_xattrs(new, old, path)?;
    fchmod(new, bits(wanted.mode.unwrap_or(was.st_mode))).map_err(|e| explain("set the mode of", path, &e.into()))
}

/// Owner and mode of something that was not there before: root's, or of the user who runs this. What nobody asked for may
/// be impossible: FAT, on which EFI system partitions are, has neither owners nor modes.
pub fn as_new(new: impl AsFd, mode: u32, wanted: Wanted, path: &str) -> Result<()> {
    let uid = wanted.uid.unwrap_or(rustix::process::geteuid().as_raw());
    let gid = wanted.gid.unwrap_or(rustix::process::getegid().as_raw());
    let owned = own(new.as_fd(), uid, gid, path);
    if wanted.uid.is_some() || wanted.gid.is_some() {
        owned?;
    }
    match fchmod(new, bits(wanted.mode.unwrap_or(mode))) {
        Err(Errno::PERM) if wanted.mode.is_none() => Ok(()),
        other => other.map_err(|e| explain("set the mode of", path, &e.into())),
    }
}

fn own(file: impl AsFd, uid: u32, gid: u32, path: &str) -> Result<()> {
    let is = fstat(file.as_fd()).map_err(|e| explain("examine", path, &e.into()))?;
    if (is.st_uid, is.st_gid) == (uid, gid) {
        return Ok(());
    }
    fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
        .map_err(|e| explain(&format!("set owner {uid} and group {gid} of"), path, &e.into()))
}

fn copy_xattrs(new: &File, old: &File, path: &str) -> Result<()> {
    for name in names(old).map_err(|e| explain("read the extended attributes of", path, &e.into()))? {
        if NOT_COPIED.contains(&name.as_str()) {
            continue;
        }
        let value = match value(old, &name) {
            Ok(value) => value,
            Err(Errno::NODATA) => continue,
            Err(error) => return Err(explain(&format!("read the attribute {name} of"), path, &error.into())),
        };
        if self::value(new, &name).as_ref() != Ok(&value) {
            fsetxattr(new, name.as_str(), &value, XattrFlags::empty())
                .map_err(|e| explain(&format!("keep the attribute {name} of"), path, &e.into()))?;
        }
    }
    Ok(())
}

fn names(file: &File) -> rustix::io::Result<Vec<String>> {
    let mut buffer = vec![0u8; 64 * 1024];
    let length = match flistxattr(file, buffer.as_mut_slice()) {
        Ok(length) => length,
        // A file system without extended attributes.
        Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let all = buffer.get(..length).unwrap_or_default();
    Ok(all
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect())
}

fn value(file: &File, name: &str) -> rustix::io::Result<Vec<u8>> {
    let mut buffer = vec![0u8; 64 * 1024];
    let length = fgetxattr(file, name, buffer.as_mut_slice())?;
    buffer.truncate(length);
    Ok(buffer)
}

/// All extended attributes that a copy of it would keep.
pub fn xattrs(place: &Path, path: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let Some(file) = open_plain(place) else { return Ok(Vec::new()) };
    let trouble = |e: Errno| explain("read the extended attributes of", path, &e.into());
    let mut found = Vec::new();
    for name in names(&file).map_err(trouble)? {
        if NOT_COPIED.contains(&name.as_str()) {
            continue;
        }
        match value(&file, &name) {
            Ok(value) => found.push((name, value)),
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            Err(error) => return Err(trouble(error)),
        }
    }
    Ok(found)
}

/// Sets extended attributes, each given in base64. A label that the policy does not know any more, or that this user may
/// not set, is no reason to have nothing: the file keeps what the policy gave it when it was made.
pub fn set_xattrs(place: &Path, path: &str, xattrs: &[(String, String)]) -> Result<()> {
    use base64::Engine;
    let Some(file) = open_plain(place) else {
        return Err(Error::failed(format!("{path} is not there, so it can't have attributes")));
    };
    for (name, text) in xattrs {
        let wanted = base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(|_| Error::failed(format!("the attribute {name} of {path} is not base64")))?;
        if value(&file, name).as_ref() == Ok(&wanted) {
            continue;
        }
        match fsetxattr(&file, name.as_str(), &wanted, XattrFlags::empty()) {
            Ok(()) => {}
            Err(_) if name == LABEL => {}
            Err(error) => return Err(explain(&format!("set the attribute {name} of"), path, &error.into())),
        }
    }
    Ok(())
}

/// A regular file or a folder, for reading; never a pipe or device, on which an open could block.
fn open_plain(place: &Path) -> Option<File> {
    let meta = fs::symlink_metadata(place).ok()?;
    (meta.is_file() || meta.is_dir()).then(|| File::open(place).ok()).flatten()
}

/// Sets the SELinux label.
pub fn set_label(file: &File, label: &str) -> rustix::io::Result<()> {
    let mut value = label.trim_end().as_bytes().to_vec();
    value.push(0);
    fsetxattr(file, LABEL, &value, XattrFlags::empty())
}

/// Changes owner and mode of what stands at `place`; all or nothing.
pub fn set(place: &Path, path: &str, wanted: Wanted) -> Result<()> {
    let was = fs::symlink_metadata(place).map_err(|e| explain("examine", path, &e))?;
    if was.is_symlink() {
        return Err(Error::failed(format!("{path} became a link meanwhile")));
    }
    let (uid, gid) = (wanted.uid.unwrap_or(was.uid()), wanted.gid.unwrap_or(was.gid()));
    let owns = (uid, gid) == (was.uid(), was.gid());
    if !owns {
        std::os::unix::fs::lchown(place, Some(uid), Some(gid))
            .map_err(|e| explain(&format!("set owner {uid} and group {gid} of"), path, &e))?;
    }
    let old = was.mode() & 0o7777;
    let mode = wanted.mode.unwrap_or(old);
    // chown(2) drops the set-uid and set-gid bits, so the mode is set again behind it.
    if (mode != old || !owns)
        && let Err(error) = fs::set_permissions(place, Permissions::from_mode(mode))
    {
        if !owns {
            let _ = std::os::unix::fs::lchown(place, Some(was.uid()), Some(was.gid()));
            let _ = fs::set_permissions(place, Permissions::from_mode(old));
        }
        return Err(explain("set the mode of", path, &error));
    }
    if (was.is_file() || was.is_dir())
        && let Ok(file) = File::open(place)
    {
        file.sync_all().map_err(|e| explain("sync", path, &e))?;
    }
    Ok(())
}
