//! Files of the controller on their way into place: kept by their hash, gone on with where they were cut.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::inbox::Inbox;
use super::protocol::Reply;
use crate::host::{Error, Result};

/// Has the content of this hash sent into the spool folder; answers its path.
///
/// # Errors
/// When it can't be written, the controller has no such content, or what came is not it.
pub(super) fn fetch(folder: &Path, sha256: &str, inbox: &Inbox, tell: &mut dyn FnMut(Reply)) -> Result<PathBuf> {
    let trouble =
        |path: &Path, e: std::io::Error| Error::failed(format!("can't keep what is sent in {}: {e}", path.display()));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| trouble(folder, e))?;
    let path = folder.join(sha256);
    let mut file =
        OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(|e| trouble(&path, e))?;
    // A part that an earlier run left may be damaged: then there is one honest try from the start.
    let mut fresh = file.metadata().map_err(|e| trouble(&path, e))?.len() == 0;
    loop {
        loop {
            let from = file.metadata().map_err(|e| trouble(&path, e))?.len();
            tell(Reply::Want { sha256: sha256.to_string(), from });
            let blob = inbox.blob()?;
            if let Some(error) = blob.error {
                return Err(Error::failed(error));
            }
            let bytes = STANDARD.decode(&blob.bytes).unwrap_or_default();
            if blob.sha256 != sha256 || (bytes.is_empty() && !blob.last) {
                return Err(Error::failed("the controller sent another file than the one that was asked for"));
            }
            file.write_all(&bytes)
                .map_err(|e| trouble(&path, e).hint("make room, then run it once more: it goes on from here"))?;
            if blob.last {
                break;
            }
        }
        if hash(&path).map_err(|e| trouble(&path, e))? == sha256 {
            return Ok(path);
        }
        file.set_len(0).map_err(|e| trouble(&path, e))?;
        if fresh {
            return Err(
                Error::failed("the file was changed on the controller while it was sent").hint("run it once more")
            );
        }
        fresh = true;
    }
}

/// Where a user without a home keeps what is sent: a folder of its own among the temporary files, which nobody else has
/// made.
///
/// # Errors
/// When somebody else has, or it can't be made.
pub(super) fn of_a_user_without_a_home() -> Result<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let folder = std::env::temp_dir().join(format!("vfio-provision-spool-{uid}"));
    let trouble = |why: String| Error::failed(format!("can't keep what is sent in {}: {why}", folder.display()));
    match fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(trouble(error.to_string())),
        _ => {}
    }
    let stat = fs::symlink_metadata(&folder).map_err(|error| trouble(error.to_string()))?;
    if !stat.is_dir() || stat.uid() != uid || stat.mode() & 0o077 != 0 {
        return Err(trouble("somebody else has made it".into()).hint("remove it, then run this once more"));
    }
    Ok(folder)
}

/// The SHA-256 of a file, in hex.
///
/// # Errors
/// When it can't be read.
pub fn hash(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut bytes = vec![0; 1 << 17];
    loop {
        match file.read(&mut bytes)? {
            0 => return Ok(format!("{:x}", digest.finalize())),
            count => digest.update(bytes.get(..count).unwrap_or_default()),
        }
    }
}
