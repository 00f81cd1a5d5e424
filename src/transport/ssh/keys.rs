//! Key files: what can be told of one without its passphrase, and passphrases, asked for once a run.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Ask;

/// The first bytes of what is in an OpenSSH private key (PROTOCOL.key in OpenSSH's sources).
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// A private key as it lies in its file.
pub(super) struct KeyFile {
    pub path: PathBuf,
    /// PEM or OpenSSH's own format.
    pub text: String,
    /// A passphrase is needed to use it.
    pub encrypted: bool,
    /// `TYPE BASE64`, where it can be told without the passphrase.
    pub public: Option<String>,
    /// Its certificates: that beside it, and those of the given ones that are for it.
    pub certificates: Vec<String>,
}

/// Reads a private key; `Ok(None)` when there is none.
///
/// # Errors
/// Says why it can't be used.
pub(super) fn read(path: &Path, certificates: &[PathBuf]) -> Result<Option<KeyFile>, String> {
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.to_string()),
    };
    // As ssh has it: a key that others can read is no secret.
    if meta.mode() & 0o077 != 0 && meta.uid() == rustix::process::getuid().as_raw() {
        return Err(format!("others can read it (mode {:04o}): chmod 600", meta.mode() & 0o7777));
    }
    let text = std::fs::read_to_string(path).map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => "it is not a private key".to_string(),
        _ => error.to_string(),
    })?;
    let beside = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        std::fs::read_to_string(name).ok().map(|text| text.trim().to_string()).filter(|text| !text.is_empty())
    };
    let (encrypted, public) = look(&text)?;
    let public = public.or_else(|| beside(".pub"));
    let mut certificates: Vec<String> = certificates
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok())
        .map(|text| text.trim().to_string())
        .filter(|text| public.as_deref().is_some_and(|public| is_for(text, public)))
        .collect();
    certificates.extend(beside("-cert.pub"));
    certificates.dedup();
    Ok(Some(KeyFile { path: path.to_path_buf(), encrypted, public, certificates, text }))
}

/// Is the certificate for this key? It has the key's own parts behind its kind and a random number (PROTOCOL.certkeys in
/// OpenSSH's sources).
fn is_for(certificate: &str, public: &str) -> bool {
    let (Some(certificate), Some(public)) = (blob(certificate), blob(public)) else { return false };
    let parts = |bytes| string(bytes).map(|(_, rest)| rest);
    let (Some(key), Some(certified)) = (parts(&public), parts(&certificate).and_then(parts)) else { return false };
    !key.is_empty() && certified.starts_with(key)
}

/// Is it encrypted, and what is its public part?
fn look(text: &str) -> Result<(bool, Option<String>), String> {
    let first = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    let kind = first.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----"));
    match kind {
        Some("OPENSSH PRIVATE KEY") => {
            let body: String = text.lines().map(str::trim).filter(|line| !line.starts_with("-----")).collect();
            let bytes = STANDARD.decode(body).map_err(|_| "the key is damaged".to_string())?;
            let (cipher, public) = opened(&bytes).ok_or("the key is damaged")?;
            let name = self::kind(public).ok_or("the key is damaged")?;
            if name.starts_with("sk-") {
                return Err("it is on a security key, which ansible_connection=openssh can ask".into());
            }
            Ok((cipher != b"none", Some(format!("{name} {}", STANDARD.encode(public)))))
        }
        Some("ENCRYPTED PRIVATE KEY") => Ok((true, None)),
        Some(kind) if kind.ends_with("PRIVATE KEY") => Ok((text.contains("Proc-Type: 4,ENCRYPTED"), None)),
        _ => Err("it is not a private key".into()),
    }
}

/// The cipher and the public part in an OpenSSH private key.
fn opened(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let rest = bytes.strip_prefix(MAGIC)?;
    let (cipher, rest) = string(rest)?;
    let (_derivation, rest) = string(rest)?;
    let (_options, rest) = string(rest)?;
    let (_number, rest) = rest.split_at_checked(4)?;
    let (public, _) = string(rest)?;
    Some((cipher, public))
}

/// SSH's `string`: four bytes of length, then that many.
pub(super) fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(usize::try_from(u32::from_be_bytes(*length)).ok()?)
}

/// The kind of a public key, which is its first part.
pub(super) fn kind(key: &[u8]) -> Option<&str> {
    let (name, _) = string(key)?;
    std::str::from_utf8(name).ok().filter(|name| !name.is_empty() && name.chars().all(|c| c.is_ascii_graphic()))
}

/// The bytes of `TYPE BASE64 …`.
pub(super) fn blob(public: &str) -> Option<Vec<u8>> {
    STANDARD.decode(public.split_whitespace().nth(1)?).ok()
}

/// Passphrases that opened their keys, until the program ends.
static PASSPHRASES: Mutex<BTreeMap<PathBuf, Option<String>>> = Mutex::new(BTreeMap::new());

/// Gives a key's passphrase to `works` until it says yes. It is asked for once, whatever the number of hosts; who needs
/// it meanwhile waits. `None` when nobody gave one that works; an error of `works` says nothing about the passphrase.
pub(super) fn with_passphrase<T, E>(
    path: &Path,
    ask: &dyn Ask,
    mut works: impl FnMut(&str) -> Result<Option<T>, E>,
) -> Result<Option<T>, E> {
    let mut passphrases = PASSPHRASES.lock().unwrap_or_else(PoisonError::into_inner);
    match passphrases.get(path).cloned() {
        Some(Some(passphrase)) => {
            drop(passphrases);
            works(&passphrase)
        }
        // It was asked for in vain.
        Some(None) => Ok(None),
        None => {
            for number in 0..3 {
                let again = if number > 0 { "That did not open it. " } else { "" };
                let Some(passphrase) = ask.secret(&format!("{again}Passphrase for {}: ", path.display())) else {
                    break;
                };
                if passphrase.is_empty() {
                    break;
                }
                if let Some(done) = works(&passphrase)? {
                    passphrases.insert(path.to_path_buf(), Some(passphrase));
                    return Ok(Some(done));
                }
            }
            passphrases.insert(path.to_path_buf(), None);
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_are_told_apart() {
        assert_eq!(look("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n"), Ok((true, None)));
        assert_eq!(look("-----BEGIN RSA PRIVATE KEY-----\nMII\n"), Ok((false, None)));
        assert_eq!(look("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMII\n"), Ok((true, None)));
        assert!(look("ssh-ed25519 AAAA me").is_err());
        let mut key = MAGIC.to_vec();
        let mut public = 11u32.to_be_bytes().to_vec();
        public.extend(b"ssh-ed25519");
        for part in [b"aes256-ctr".as_slice(), b"bcrypt", b""] {
            key.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
            key.extend(part);
        }
        key.extend([0, 0, 0, 1, 0, 0, 0, 15]);
        key.extend(&public);
        let text = format!(
            "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----",
            STANDARD.encode(&key)
        );
        let (encrypted, shown) = look(&text).unwrap();
        assert!(encrypted);
        assert_eq!(blob(&shown.unwrap()), Some(public));
        key.truncate(key.len() - 1);
        assert!(look(&format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{}", STANDARD.encode(&key))).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, text: String) {
            let _ = opened(&bytes);
            let _ = opened(&[MAGIC, &bytes].concat());
            let _ = kind(&bytes);
            let _ = blob(&text);
            let _ = look(&text);
            let _ = look(&format!("-----BEGIN OPENSSH PRIVATE KEY-----\n{}", STANDARD.encode([MAGIC, &bytes].concat())));
        }
    }
}
