//! Removing, never through a link and never into another mount.

use std::os::fd::AsFd;

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::explain;
use super::failpoint::{self, Point};
use super::folder::Folder;
use crate::host::{Error, Result};

/// Removes what stands at this name. A folder is renamed away first, so that it goes in one step.
pub fn remove(folder: &Folder, name: &str) -> Result<()> {
    let shown = folder.shown(name);
    let stat = match fs::statat(folder.fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(explain("examine", &shown, &error.into())),
    };
    folder.remove_leftovers(name)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        refuse_mounts(folder, name)?;
        let away = folder.temporary_name(name);
        match fs::renameat(folder.fd(), name, folder.fd(), away.as_str()) {
            Ok(()) => {
                failpoint::hit(Point::Renamed);
                folder.sync()?;
                clear(folder, &away)?;
            }
            // Overlay file systems can't rename a folder of a lower layer: it goes piece by piece then.
            Err(Errno::XDEV) => clear(folder, name)?,
            Err(error) => return Err(explain("remove", &shown, &error.into())),
        }
    } else {
        fs::unlinkat(folder.fd(), name, AtFlags::empty()).map_err(|e| explain("remove", &shown, &e.into()))?;
        failpoint::hit(Point::Renamed);
    }
    folder.sync()
}

/// Deletes a name with all below it.
pub fn clear(folder: &Folder, name: &str) -> Result<()> {
    let stat = match fs::statat(folder.fd(), name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(()),
        Err(error) => return Err(explain("examine", &folder.shown(name), &error.into())),
    };
    refuse_mounts(folder, name)?;
    delete(folder.fd(), name.as_bytes(), stat.st_dev, &folder.shown(name))
}

fn delete(parent: impl AsFd, name: &[u8], device: u64, shown: &str) -> Result<()> {
    let failed = |error: Errno| explain("remove", shown, &error.into());
    match fs::unlinkat(parent.as_fd(), name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        // unlink(2) of a folder: EISDIR on Linux, EPERM where POSIX is followed.
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(failed(error)),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = match fs::openat(parent.as_fd(), name, flags, Mode::empty()) {
        Ok(folder) => folder,
        // Not a folder after all, so the first refusal stands.
        Err(Errno::NOTDIR | Errno::LOOP) => return Err(failed(Errno::PERM)),
        Err(error) => return Err(failed(error)),
    };
    if fs::fstat(&folder).map_err(failed)?.st_dev != device {
        return Err(mounted(shown));
    }
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(&folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            names.push(name.to_vec());
        }
    }
    for name in names {
        let below = format!("{shown}/{}", String::from_utf8_lossy(&name));
        delete(&folder, &name, device, &below)?;
    }
    match fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(failed(error)),
    }
}

/// A bind mount has the same device as what is around it, so the list of mounts is asked before anything is touched.
fn refuse_mounts(folder: &Folder, name: &str) -> Result<()> {
    let place =
        std::fs::canonicalize(folder.place_of(".")).map_err(|e| explain("find", &folder.shown(name), &e))?.join(name);
    // Where /proc is missing, the comparison of devices and the kernel's EBUSY still hold.
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // proc(5): the fifth field is the mount point, with spaces and the like as octal escapes.
    let below = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescape)
        .any(|mount| std::path::Path::new(&mount).starts_with(&place));
    if below { Err(mounted(&folder.shown(name))) } else { Ok(()) }
}

fn mounted(shown: &str) -> Error {
    Error::refused(format!("{shown} is or holds a mount point: nothing was removed there")).hint("unmount it first")
}

/// `\040` and the like, as in /proc/self/mountinfo.
fn unescape(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let code = tail.get(..3).and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    #[test]
    fn mount_points_with_spaces_are_read() {
        assert_eq!(super::unescape(r"/mnt/my\040disk"), "/mnt/my disk");
        assert_eq!(super::unescape(r"/mnt/a\"), r"/mnt/a\");
        assert_eq!(super::unescape("/mnt/123"), "/mnt/123");
    }
}
