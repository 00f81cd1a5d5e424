//! `vfio-provision.lock` beside the inventory: the SHA-256 of every download whose hash nobody gave, as first seen.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::diag::Diagnostic;

const HEAD: &str = "# The SHA-256 of what was downloaded, as first seen. Keep it under version control; remove a line to accept new content.\n";

/// The lock file.
pub struct Lock {
    path: PathBuf,
    pins: Mutex<BTreeMap<String, String>>,
}

impl Lock {
    /// Reads the lock file beside this inventory; none is an empty one.
    ///
    /// # Errors
    /// When it is there and can't be read.
    pub fn beside(inventory: Option<&Path>) -> Result<Lock, Diagnostic> {
        let folder = match inventory {
            Some(path) if path.is_dir() => path,
            Some(path) => path.parent().unwrap_or(Path::new("")),
            None => Path::new(""),
        };
        let path = folder.join("vfio-provision.lock");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(Diagnostic::error(format!("can't read {}: {error}", path.display()))),
        };
        let mut pins = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            match line.split_once(char::is_whitespace) {
                Some((sha256, url)) if sha256.len() == 64 && sha256.bytes().all(|b| b.is_ascii_hexdigit()) => {
                    pins.insert(url.trim().to_string(), sha256.to_ascii_lowercase());
                }
                _ => {
                    let place = format!("{}:{}", path.display(), number + 1);
                    return Err(Diagnostic::error(format!("{place}: not a line of SHA-256 and URL")));
                }
            }
        }
        Ok(Lock { path, pins: Mutex::new(pins) })
    }

    /// URL -> hex SHA-256.
    pub fn pins(&self) -> BTreeMap<String, String> {
        self.pins.lock().unwrap_or_else(|broken| broken.into_inner()).clone()
    }

    /// Adds what was seen for the first time and writes the file, all or nothing.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn add(&self, seen: &BTreeMap<String, String>) -> std::io::Result<()> {
        let mut pins = self.pins.lock().unwrap_or_else(|broken| broken.into_inner());
        let before = pins.len();
        for (url, sha256) in seen {
            pins.entry(url.clone()).or_insert_with(|| sha256.clone());
        }
        if pins.len() == before {
            return Ok(());
        }
        let mut text = String::from(HEAD);
        for (url, sha256) in pins.iter() {
            text.push_str(&format!("{sha256}  {url}\n"));
        }
        let temporary = self.path.with_extension(format!("lock.{}", std::process::id()));
        let mut file = fs::File::create(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_first_stays() {
        let folder = tempfile::tempdir().unwrap();
        let inventory = folder.path().join("inventory");
        let lock = Lock::beside(Some(&inventory)).unwrap();
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        lock.add(&BTreeMap::from([("https://x/y z.iso".to_string(), a.clone())])).unwrap();
        lock.add(&BTreeMap::from([("https://x/y z.iso".to_string(), b)])).unwrap();
        let again = Lock::beside(Some(&inventory)).unwrap();
        assert_eq!(again.pins(), BTreeMap::from([("https://x/y z.iso".to_string(), a)]));
        fs::write(folder.path().join("vfio-provision.lock"), "nonsense\n").unwrap();
        assert!(Lock::beside(Some(&inventory)).is_err_and(|e| e.message.contains("vfio-provision.lock:1")));
    }
}
