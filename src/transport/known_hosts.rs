//! Host keys: what known_hosts says of a key that a host showed, and taking down a new one. The format is that of
//! sshd(8), "SSH_KNOWN_HOSTS FILE FORMAT".
//!
//! A key counts as known only if a line names the host and holds exactly this key. libssh2 can't check host certificates,
//! so a `@cert-authority` line never makes a key known. Differences to what the files say are refused, with both
//! fingerprints; nothing here ever removes a line.

mod file;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sha2::{Digest, Sha256};

use super::ssh_config::{HostOptions, Policy};
use crate::diag::Diagnostic;
use crate::host::Error;
use file::{Entry, KnownFile, Marker};

/// A public key as it travels: the bytes that known_hosts has in base64.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HostKey(pub Vec<u8>);

impl HostKey {
    /// The name of its algorithm, `ssh-ed25519` for example: the blob begins with it.
    pub fn algorithm(&self) -> Option<&str> {
        let (length, rest) = self.0.split_first_chunk::<4>()?;
        let name = rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
        std::str::from_utf8(name)
            .ok()
            .filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_graphic()))
    }

    /// `SHA256:…`, as `ssh-keygen -l` shows it.
    pub fn fingerprint(&self) -> String {
        format!("SHA256:{}", STANDARD_NO_PAD.encode(Sha256::digest(&self.0)))
    }

    /// The algorithm in the short word that people know: ED25519.
    fn kind(&self) -> String {
        match self.algorithm() {
            Some("ssh-rsa") => "RSA".into(),
            Some("ssh-dss") => "DSA".into(),
            Some("ssh-ed25519") => "ED25519".into(),
            Some(name) if name.starts_with("ecdsa-sha2-") => "ECDSA".into(),
            Some(name) => name.into(),
            None => "unreadable".into(),
        }
    }
}

impl fmt::Debug for HostKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind(), self.fingerprint())
    }
}

/// Where a line stands: a file and its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// What the files say of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is this host's.
    Known,
    /// The host has no key in the files.
    Unknown,
    /// The host has only a line for the authority that signs its certificates.
    Authority(Place),
    /// The host has other keys: that of the same kind, or any.
    Changed {
        /// The key in the file.
        old: HostKey,
        /// Where it stands.
        place: Place,
    },
    /// The key itself is revoked.
    Revoked(Place),
}

/// The files' lines, each file read once for a run.
#[derive(Debug, Default)]
pub struct KnownHosts {
    files: Mutex<HashMap<PathBuf, Arc<KnownFile>>>,
    warnings: Mutex<Vec<Diagnostic>>,
}

impl KnownHosts {
    /// None read yet.
    pub fn new() -> KnownHosts {
        KnownHosts::default()
    }

    /// What the files say of the key that a host showed.
    ///
    /// # Errors
    /// A file that is there and can't be read.
    pub fn verdict(&self, options: &HostOptions, key: &HostKey) -> Result<Verdict, Error> {
        let files = self.files(options)?;
        let verdict = look(&files, &options.known_as(), key);
        // As OpenSSH: a host with a port of its own may stand there without it. That only ever says yes,
        // or that the key is revoked.
        let plain = options.host_key_alias.is_none() && options.port != 22;
        match plain.then(|| look(&files, &options.hostname, key)) {
            Some(Verdict::Revoked(place)) => Ok(Verdict::Revoked(place)),
            Some(Verdict::Known) if verdict == Verdict::Unknown => Ok(Verdict::Known),
            _ => Ok(verdict),
        }
    }

    /// The algorithms of the keys that are known of a host, in the order of the files: what to offer first, so that the
    /// server shows a key that can be compared. Empty when none is known.
    ///
    /// # Errors
    /// A file that is there and can't be read.
    pub fn algorithms(&self, options: &HostOptions) -> Result<Vec<String>, Error> {
        let files = self.files(options)?;
        let mut found: Vec<String> = Vec::new();
        let with_port = options.known_as();
        let plain = options.host_key_alias.is_none() && options.port != 22;
        for name in std::iter::once(with_port.as_str()).chain(plain.then_some(options.hostname.as_str())) {
            if !found.is_empty() {
                break;
            }
            for entry in entries(&files, name).filter(|(_, entry)| entry.marker == Marker::None) {
                if let Some(algorithm) = entry.1.key.algorithm()
                    && !found.iter().any(|known| known == algorithm)
                {
                    found.push(algorithm.to_string());
                }
            }
        }
        Ok(found)
    }

    /// Checks the key that a host showed, and takes it down where the policy says so.
    ///
    /// `confirm` asks the person (`None` where there is nobody to ask); it is only called where the policy is
    /// [`Policy::Ask`]. What comes back is what to warn of.
    ///
    /// # Errors
    /// The key is refused: why, and what to do.
    pub fn check(
        &self,
        options: &HostOptions,
        policy: Policy,
        key: &HostKey,
        confirm: &dyn Fn(&str) -> Option<bool>,
    ) -> Result<Option<String>, Error> {
        let verdict = self.verdict(options, key)?;
        let (name, shown) = (options.known_as(), format!("{} {}", key.kind(), key.fingerprint()));
        match (&verdict, policy) {
            (Verdict::Known, _) => Ok(None),
            (Verdict::Revoked(place), _) => Err(Error::refused(format!(
                "the key that {name} showed is revoked at {place}: {shown}"
            ))
            .hint("somebody may hold this key who should not: do not go on before you know why it was revoked")),
            (_, Policy::No) => Ok(Some(format!(
                "the key of {name} is not checked ({shown}{}): whoever stands between can read and change everything",
                if matches!(verdict, Verdict::Changed { .. }) { ", and another one is known" } else { "" }
            ))),
            (Verdict::Changed { old, place }, _) => Err(changed(options, key, old, place)),
            (Verdict::Authority(place), _) => Err(Error::refused(format!(
                "{name} is only known by the authority that signs its certificate ({place}), and libssh2 can't check one"
            ))
            .hint(
                "ansible_connection=openssh checks certificates; or take down the host's own key once you have \
                 compared it",
            )),
            (Verdict::Unknown, Policy::AcceptNew) => {
                self.add(options, key)?;
                Ok(Some(format!("took down the key of {name}: {shown}")))
            }
            (Verdict::Unknown, Policy::Ask) => {
                let question = format!(
                    "The key of {name} is not known yet: {shown}\n\
                     Compare it with what that machine says (ssh-keygen -lf /etc/ssh/ssh_host_{}_key.pub).\n\
                     Is it right, and shall it be taken down?",
                    key.kind().to_lowercase()
                );
                match confirm(&question) {
                    Some(true) => {
                        self.add(options, key)?;
                        Ok(None)
                    }
                    Some(false) => Err(Error::refused(format!("the key of {name} was not accepted: {shown}"))),
                    None => Err(unknown(options, key)),
                }
            }
            (Verdict::Unknown, Policy::Strict) => Err(unknown(options, key)),
        }
    }

    /// Warnings about lines that can't be read; each is given out once.
    pub fn warnings(&self) -> Vec<Diagnostic> {
        std::mem::take(&mut *self.warnings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes down a key in the user's first file, unless somebody else did meanwhile.
    ///
    /// # Errors
    /// When the file can't be written, or by now holds another key of the host.
    pub fn add(&self, options: &HostOptions, key: &HostKey) -> Result<(), Error> {
        let Some(path) = options.user_known_hosts.first() else {
            return Err(Error::refused(format!("the key of {} can't be taken down", options.known_as()))
                .hint("UserKnownHostsFile is `none`: name a file"));
        };
        let name = options.known_as();
        let algorithm = key.algorithm().ok_or_else(|| Error::failed(format!("the key of {name} is unreadable")))?;
        let line = format!("{algorithm} {}", STANDARD.encode(&key.0));
        let hashed = options.hash_known_hosts;
        file::append(path, |current| {
            let now = [Arc::new(current)];
            match look(&now, &name, key) {
                Verdict::Known => Ok(None),
                Verdict::Changed { old, place } => Err(changed(options, key, &old, &place)),
                Verdict::Revoked(place) => {
                    Err(Error::refused(format!("the key of {name} was just revoked at {place}")))
                }
                Verdict::Unknown | Verdict::Authority(_) => {
                    let name = if hashed { file::hash(&name)? } else { name.clone() };
                    Ok(Some(format!("{name} {line}\n")))
                }
            }
        })?;
        // It is read anew when next asked for.
        self.files.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
        Ok(())
    }

    fn files(&self, options: &HostOptions) -> Result<Vec<Arc<KnownFile>>, Error> {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        for path in options.user_known_hosts.iter().chain(&options.global_known_hosts) {
            let file = match files.get(path) {
                Some(file) => Arc::clone(file),
                None => {
                    let (file, warnings) = KnownFile::read(path)?;
                    self.warnings.lock().unwrap_or_else(PoisonError::into_inner).extend(warnings);
                    let file = Arc::new(file);
                    files.insert(path.clone(), Arc::clone(&file));
                    file
                }
            };
            found.push(file);
        }
        Ok(found)
    }
}

fn entries<'a>(files: &'a [Arc<KnownFile>], name: &'a str) -> impl Iterator<Item = (&'a Path, &'a Entry)> {
    files.iter().flat_map(move |file| file.of(name).map(move |entry| (file.path.as_path(), entry)))
}

fn look(files: &[Arc<KnownFile>], name: &str, key: &HostKey) -> Verdict {
    let place = |path: &Path, entry: &Entry| Place { file: path.to_path_buf(), line: entry.line };
    let (mut known, mut changed, mut authority) = (false, None::<(HostKey, Place)>, None);
    for (path, entry) in entries(files, name) {
        match entry.marker {
            Marker::Revoked if entry.key == *key => return Verdict::Revoked(place(path, entry)),
            Marker::Revoked => {}
            Marker::Authority => {
                authority.get_or_insert_with(|| place(path, entry));
            }
            Marker::None if entry.key == *key => known = true,
            Marker::None => {
                // One of the same kind says more than another.
                let same = entry.key.algorithm() == key.algorithm();
                let better = |(old, _): &(HostKey, Place)| same && old.algorithm() != key.algorithm();
                if changed.as_ref().is_none_or(better) {
                    changed = Some((entry.key.clone(), place(path, entry)));
                }
            }
        }
    }
    match (known, changed, authority) {
        (true, ..) => Verdict::Known,
        (_, Some((old, place)), _) => Verdict::Changed { old, place },
        (_, _, Some(place)) => Verdict::Authority(place),
        _ => Verdict::Unknown,
    }
}

fn unknown(options: &HostOptions, key: &HostKey) -> Error {
    let name = options.known_as();
    let port = if options.port == 22 { String::new() } else { format!(" -p {}", options.port) };
    let file = options.user_known_hosts.first().map_or("~/.ssh/known_hosts".into(), |path| path.display().to_string());
    let scan = match &options.host_key_alias {
        Some(_) => format!("log in once with `ssh {}`", options.alias),
        None => format!("ssh-keyscan{port} {} >> {file}", options.hostname),
    };
    Error::refused(format!("the key of {name} is not known: {} {}", key.kind(), key.fingerprint())).hint(format!(
        "compare the fingerprint with what the machine itself says (ssh-keygen -lf /etc/ssh/ssh_host_*_key.pub); then \
         {scan}, or run with ansible_ssh_common_args='-o StrictHostKeyChecking=accept-new'"
    ))
}

fn changed(options: &HostOptions, key: &HostKey, old: &HostKey, place: &Place) -> Error {
    let name = options.known_as();
    let what = if old.algorithm() == key.algorithm() {
        format!("the key of {name} has changed")
    } else {
        format!("{name} shows a key of another kind than the known one")
    };
    Error::refused(format!(
        "{what}: it shows {} {}, and {place} holds {} {}",
        key.kind(),
        key.fingerprint(),
        old.kind(),
        old.fingerprint()
    ))
    .hint(format!(
        "somebody may stand between; if the machine was set up anew and its own ssh-keygen -l shows the new fingerprint: \
         ssh-keygen -R '{name}' -f {}",
        place.file.display()
    ))
}
