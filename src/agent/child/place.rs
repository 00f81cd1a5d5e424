//! Where the program is, and where another user can run it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;

use crate::host::Error;

/// The program that a child is.
pub(super) struct Program {
    path: PathBuf,
    /// Where its bytes are for certain: the path may be gone, or in somebody's memory only.
    bytes: PathBuf,
}

impl Program {
    /// This one.
    pub fn this() -> Result<Program, Error> {
        let path =
            std::env::current_exe().map_err(|e| Error::failed(format!("can't tell which program this is: {e}")))?;
        Ok(Program { path, bytes: "/proc/self/exe".into() })
    }

    pub fn at(path: &Path) -> Program {
        Program { path: path.to_path_buf(), bytes: path.to_path_buf() }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Can a user run it where it is, as far as modes say? Root can, but for the odd network file system.
    pub fn is_open_to(&self, user: &str) -> bool {
        fs::metadata(&self.path).is_ok_and(|about| about.is_file() && (user == "root" || about.mode() & 0o001 != 0))
            && (user == "root" || is_open(self.path.parent()))
    }

    /// A copy that everybody can run and only we can change; it goes away with the value.
    pub fn copy(&self) -> io::Result<Copied> {
        let mut wrong = io::Error::other("no folder for it");
        let places = [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into(), "/dev/shm".into(), "/run".into()];
        for place in places.iter().filter(|place| can_run_in(place)) {
            let mut random = [0; 8];
            getrandom::fill(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
            let folder = place.join(format!(".vfio-provision-{:016x}", u64::from_ne_bytes(random)));
            // One that is there already is somebody else's: nobody but us may write in it.
            if let Err(error) = DirBuilder::new().mode(0o700).create(&folder) {
                wrong = error;
                continue;
            }
            let copied = Copied { path: folder.join("agent"), folder };
            match copied.fill(&self.bytes) {
                Ok(()) => return Ok(copied),
                Err(error) => wrong = error,
            }
        }
        Err(wrong)
    }
}

/// May everybody go through all these folders?
fn is_open(folder: Option<&Path>) -> bool {
    folder.is_some_and(|folder| {
        folder.ancestors().all(|folder| fs::metadata(folder).is_ok_and(|about| about.mode() & 0o001 != 0))
    })
}

/// Open to all, and not mounted `noexec`.
fn can_run_in(folder: &Path) -> bool {
    folder.is_absolute()
        && is_open(Some(folder))
        && rustix::fs::statvfs(folder).is_ok_and(|about| !about.f_flag.contains(StatVfsMountFlags::NOEXEC))
}

/// A copy of the program.
pub(super) struct Copied {
    folder: PathBuf,
    path: PathBuf,
}

impl Copied {
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn fill(&self, from: &Path) -> io::Result<()> {
        let mut from = File::open(from)?;
        let mut to = OpenOptions::new().write(true).create_new(true).mode(0o700).open(&self.path)?;
        io::copy(&mut from, &mut to)?;
        to.set_permissions(fs::Permissions::from_mode(0o755))?;
        drop(to);
        fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o711))
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        // Nothing depends on it, and the system clears these folders anyhow.
        let _ = fs::remove_dir_all(&self.folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_folder_is_left_by_a_copy_that_all_can_run_and_none_can_change() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("agent");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let program = Program::at(&path);
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).unwrap();
        assert!(program.is_open_to("nobody") == is_open(home.path().parent()) && program.is_open_to("root"));
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
        assert!(!program.is_open_to("nobody") && program.is_open_to("root"));
        let copied = program.copy().unwrap();
        assert!(Program::at(copied.path()).is_open_to("nobody"));
        assert_eq!(fs::read(copied.path()).unwrap(), b"#!/bin/sh\n");
        assert_eq!(fs::metadata(copied.path()).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(fs::metadata(&copied.folder).unwrap().mode() & 0o7777, 0o711);
        let folder = copied.folder.clone();
        drop(copied);
        assert!(!folder.exists());
    }
}
