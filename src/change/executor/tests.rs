//! On real files in temporary folders.

mod commands;
mod downloads;
mod files;
mod interrupted;
mod modules;
mod waits;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::*;
use crate::host::{Available, FileKind, Package, Stat, Unit, Virt, VirtKind};

/// A folder as a machine.
struct Disk(PathBuf);

impl Disk {
    fn at(&self, path: &str) -> PathBuf {
        self.0.join(path.trim_start_matches('/'))
    }
}

impl Host for Disk {
    fn raw_lstat(&self, path: &str) -> Result<Option<Stat>> {
        let Ok(m) = std::fs::symlink_metadata(self.at(path)) else { return Ok(None) };
        let kind = match m.file_type() {
            t if t.is_symlink() => FileKind::Link,
            t if t.is_dir() => FileKind::Folder,
            t if t.is_file() => FileKind::File,
            _ => FileKind::Other,
        };
        let mode = m.permissions().mode() & 0o7777;
        Ok(Some(Stat { kind, mode, uid: m.uid(), gid: m.gid(), size: m.len(), mtime: m.mtime() }))
    }
    fn raw_read_link(&self, path: &str) -> Result<String> {
        Ok(std::fs::read_link(self.at(path)).unwrap().to_string_lossy().into_owned())
    }
    fn raw_read(&self, path: &str) -> Result<Vec<u8>> {
        Ok(std::fs::read(self.at(path)).unwrap())
    }
    fn raw_list(&self, path: &str) -> Result<Vec<String>> {
        Ok(names(&self.at(path)))
    }
    fn raw_sha256(&self, path: &str) -> Result<String> {
        use sha2::{Digest, Sha256};
        Ok(format!("{:x}", Sha256::digest(self.raw_read(path)?)))
    }
    fn package(&self, _: &str) -> Result<Option<Package>> {
        Ok(None)
    }
    fn available(&self, _: &str) -> Result<Option<Available>> {
        Ok(None)
    }
    fn unit(&self, _: &str) -> Result<Unit> {
        Ok(Unit::default())
    }
    fn virt(&self, _: VirtKind, _: &str) -> Result<Option<Virt>> {
        Ok(None)
    }
    fn virt_names(&self, _: VirtKind) -> Result<Vec<String>> {
        Ok(Vec::new())
    }
    fn query(&self, _: &[&str]) -> Result<Option<Output>> {
        Ok(None)
    }
}

fn disk() -> (tempfile::TempDir, Disk) {
    let dir = tempfile::tempdir().unwrap();
    let disk = Disk(dir.path().to_path_buf());
    (dir, disk)
}

fn done(disk: &Disk, op: &Op) -> Result<Option<Output>> {
    perform_in(&disk.0, disk, op, &mut |_| {})
}

fn write(path: &str, text: &str) -> Op {
    Op::WriteFile {
        path: path.into(),
        content: Content::Bytes(text.into()),
        mode: None,
        owner: None,
        group: None,
        validate: vec![],
    }
}

fn names(place: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(place).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn mode(place: &Path) -> u32 {
    std::fs::symlink_metadata(place).unwrap().permissions().mode() & 0o7777
}
