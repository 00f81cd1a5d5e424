//! This program as a file to be sent, and its hash.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::host::Error;

/// A program that is put on the far end and started there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentProgram {
    /// Its file here.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size: u64,
    /// Hex SHA-256 of it.
    pub sha256: String,
}

impl AgentProgram {
    /// This program itself. Its hash is remembered in `~/.cache/vfio-provision/self`, so that it is not read whole on
    /// every run.
    ///
    /// # Errors
    /// When the program's own file can't be read.
    pub fn current() -> Result<AgentProgram, Error> {
        // The kernel's own link leads to what runs, also when the file was replaced or removed since.
        AgentProgram::with_cache(Path::new("/proc/self/exe"), cache_file().as_deref())
    }

    /// A program at `path`.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn at(path: &Path) -> Result<AgentProgram, Error> {
        AgentProgram::with_cache(path, None)
    }

    fn with_cache(path: &Path, cache: Option<&Path>) -> Result<AgentProgram, Error> {
        let trouble = |e: io::Error| Error::io("read", &path.display().to_string(), &e);
        let mut file = File::open(path).map_err(trouble)?;
        let meta = file.metadata().map_err(trouble)?;
        let size = meta.len();
        // Whatever replaces the file changes one of these.
        let key = format!(
            "{} {} {} {}.{:09} {}.{:09} {}",
            meta.dev(),
            meta.ino(),
            size,
            meta.mtime(),
            meta.mtime_nsec(),
            meta.ctime(),
            meta.ctime_nsec(),
            path.display()
        );
        if let Some(sha256) = cache.and_then(|cache| remembered(&std::fs::read_to_string(cache).ok()?, &key)) {
            return Ok(AgentProgram { path: path.to_path_buf(), size, sha256 });
        }
        let mut hash = Sha256::new();
        let mut bytes = vec![0; 1 << 18];
        loop {
            match file.read(&mut bytes).map_err(trouble)? {
                0 => break,
                count => hash.update(bytes.get(..count).unwrap_or_default()),
            }
        }
        let sha256: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        if let Some(cache) = cache {
            // Without it the next run takes a little longer.
            let _ = remember(cache, &format!("{sha256} {key}\n"));
        }
        Ok(AgentProgram { path: path.to_path_buf(), size, sha256 })
    }
}

fn cache_file() -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache")))?;
    Some(folder.join("vfio-provision/self"))
}

/// The hash in the cache's line, if the line is about this very file.
fn remembered(line: &str, key: &str) -> Option<String> {
    let (sha256, of) = line.trim_end_matches('\n').split_once(' ')?;
    (of == key && sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit())).then(|| sha256.to_string())
}

/// Written beside and renamed: runs go side by side.
fn remember(cache: &Path, line: &str) -> io::Result<()> {
    use std::io::Write;
    let Some(folder) = cache.parent() else { return Ok(()) };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let fresh = cache.with_extension(format!("{}", std::process::id()));
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(line.as_bytes())?;
    std::fs::rename(&fresh, cache)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_is_remembered_for_that_very_file_only() {
        let folder = tempfile::tempdir().unwrap();
        let (program, cache) = (folder.path().join("program"), folder.path().join("cache/vfio/self"));
        std::fs::write(&program, "abc").unwrap();
        let first = AgentProgram::with_cache(&program, Some(&cache)).unwrap();
        assert_eq!(first.sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(first.size, 3);
        // A cache that says something else is believed: it was not read again.
        let line = std::fs::read_to_string(&cache).unwrap().replace("ba7816bf", "00000000");
        std::fs::write(&cache, line).unwrap();
        assert!(AgentProgram::with_cache(&program, Some(&cache)).unwrap().sha256.starts_with("00000000"));
        std::fs::write(&program, "abd").unwrap();
        assert!(AgentProgram::with_cache(&program, Some(&cache)).unwrap().sha256.starts_with("a52d159f"));
        std::fs::write(&cache, "nonsense").unwrap();
        assert!(AgentProgram::with_cache(&program, Some(&cache)).unwrap().sha256.starts_with("a52d159f"));
    }
}
