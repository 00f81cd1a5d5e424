//! What ansible-vault encrypted: whole files, and single values in YAML (`!vault |`).
//!
//! A single value stays encrypted in the tree of a YAML text: it becomes a template that asks for the plain text, so it is
//! decrypted when it is used, and a value that nobody uses needs no password. Whole files are decrypted when they are read.
//! What comes out is a secret: the mask learns it before anybody else does.

mod cipher;
mod envelope;
mod secrets;
mod shred;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde_json::Value;

use crate::diag::{Diagnostic, Source, Span};
use crate::report::Mask;
use crate::template::{Unlock, has_template};
use cipher::Keys;
use envelope::Envelope;

pub use envelope::is_vaulted;
pub use secrets::{DEFAULT_ID, Secret, Sources};
pub use shred::Private;

/// What was decrypted and the keys of so many salts are remembered.
const MOST_KEPT: usize = 10_000;
/// Values longer than this are decrypted each time.
const LONGEST_KEPT: usize = 64 << 10;
/// Shorter lines of a secret text say nothing by themselves.
const SHORTEST_LINE: usize = 8;

/// Why something can't be decrypted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Locked {
    /// It is not what ansible-vault writes.
    Broken(String),
    /// There is no password to try.
    NoPassword,
    /// None of the passwords fits; the ids that were tried, and the one that it was encrypted for.
    WrongPassword {
        /// The ids that were tried, in order.
        tried: Vec<String>,
        /// The id in its first line.
        meant: Option<String>,
    },
}

impl fmt::Display for Locked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Locked::Broken(why) => write!(f, "this is not what ansible-vault writes: {why}"),
            Locked::NoPassword => f.write_str("this is encrypted by ansible-vault, and no vault password was given"),
            Locked::WrongPassword { tried, meant } => {
                let tried: Vec<String> = tried.iter().map(|id| format!("`{id}`")).collect();
                write!(f, "no vault password fits (tried: {}", tried.join(", "))?;
                match meant {
                    Some(meant) => write!(f, "; it was encrypted for the id `{meant}`)"),
                    None => f.write_str(")"),
                }
            }
        }
    }
}

impl Locked {
    /// What to do about it.
    pub fn help(&self) -> &'static str {
        match self {
            Locked::Broken(_) => "put back what `ansible-vault encrypt` or `vfio-provision vault encrypt` wrote",
            Locked::NoPassword => "give --vault-password-file FILE, --vault-id LABEL@FILE, or --ask-vault-pass",
            Locked::WrongPassword { .. } => {
                "check the file behind --vault-password-file or --vault-id; `vfio-provision vault view` tries one alone"
            }
        }
    }
}

/// The passwords of a run, and what they have opened.
#[derive(Default)]
pub struct Vault {
    secrets: Vec<Secret>,
    mask: Mask,
    keys: Mutex<Derived>,
    open: Mutex<HashMap<String, String>>,
}

/// Keys by salt and password's number; each is made once, by whoever wants it first.
type Derived = HashMap<(Vec<u8>, usize), Arc<OnceLock<Keys>>>;

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("secrets", &self.secrets).finish_non_exhaustive()
    }
}

impl Vault {
    /// A vault with these passwords, tried in this order; what it opens is masked.
    pub fn new(secrets: Vec<Secret>, mask: Mask) -> Vault {
        Vault { secrets, mask, ..Vault::default() }
    }

    /// The passwords.
    pub fn secrets(&self) -> &[Secret] {
        &self.secrets
    }

    /// The plain bytes of an envelope, and the password that opened it.
    ///
    /// # Errors
    /// When it is broken, or no password fits.
    pub fn open(&self, envelope: &[u8]) -> Result<(Vec<u8>, &Secret), Locked> {
        let envelope = Envelope::read(envelope).map_err(Locked::Broken)?;
        if self.secrets.is_empty() {
            return Err(Locked::NoPassword);
        }
        // The one whose name it bears first, as Ansible does; then any other, since names are only names.
        let named = |secret: &Secret| envelope.id.as_ref() == Some(&secret.id);
        let mut order: Vec<(usize, &Secret)> = self.secrets.iter().enumerate().collect();
        order.sort_by_key(|(_, secret)| !named(secret));
        for (at, secret) in &order {
            let keys = self.keys(&envelope.salt, *at);
            let keys = keys.get_or_init(|| Keys::derive(secret.password(), &envelope.salt));
            if keys.fits(&envelope) {
                let plain = keys.decrypt(&envelope).map_err(Locked::Broken)?;
                return Ok((plain, secret));
            }
        }
        let tried = order.iter().map(|(_, secret)| secret.id.clone()).collect();
        Err(Locked::WrongPassword { tried, meant: envelope.id })
    }

    /// Deriving keys costs milliseconds by intention, so nobody does it twice, not even at the same time.
    fn keys(&self, salt: &[u8], at: usize) -> Arc<OnceLock<Keys>> {
        let mut keys = locked(&self.keys);
        if keys.len() >= MOST_KEPT {
            keys.clear();
        }
        Arc::clone(keys.entry((salt.to_vec(), at)).or_default())
    }

    /// The content of a file: decrypted if it is encrypted, and otherwise as it is. The flag says which.
    ///
    /// # Errors
    /// When it is encrypted and can't be decrypted; the error has the file's name.
    pub fn file(&self, path: &Path, content: Vec<u8>) -> Result<(Vec<u8>, bool), Diagnostic> {
        if !is_vaulted(&content) {
            return Ok((content, false));
        }
        match self.open(&content) {
            Ok((plain, _)) => Ok((plain, true)),
            Err(locked) => {
                let source = Source::new(path.display().to_string(), String::from_utf8_lossy(&content));
                let line = source.text.find(['\n', '\r']).unwrap_or(source.text.len());
                Err(Diagnostic::error(locked.to_string()).at(&Span::new(&source, 0, line)).help(locked.help()))
            }
        }
    }

    /// The text of a file of variables, an inventory or a playbook.
    ///
    /// # Errors
    /// As [`Vault::file`]; and when what was encrypted is not UTF-8 text.
    pub fn text(&self, path: &Path, text: String) -> Result<(String, bool), Diagnostic> {
        if !is_vaulted(text.as_bytes()) {
            return Ok((text, false));
        }
        let (plain, secret) = self.file(path, text.into_bytes())?;
        let text = String::from_utf8(plain)
            .map_err(|_| Diagnostic::error(format!("what {} holds, decrypted, is not UTF-8 text", path.display())))?;
        Ok((text, secret))
    }

    /// Hides a secret text: all of it, and each line that could be shown alone.
    pub fn hide(&self, secret: &str) {
        self.mask.add(secret);
        self.mask.add(secret.trim());
        if secret.trim().contains('\n') {
            let lines = secret.lines().map(str::trim).filter(|line| line.chars().count() >= SHORTEST_LINE);
            lines.for_each(|line| self.mask.add(line));
        }
    }

    /// Hides all texts in a value from an encrypted file. Templates are not secrets, and what they give is not known yet;
    /// numbers and truth values are no secrets that could be hidden.
    pub fn hide_values(&self, value: &Value) {
        match value {
            Value::String(text) if !has_template(text) => self.hide(text),
            Value::Array(list) => list.iter().for_each(|one| self.hide_values(one)),
            Value::Object(map) => map.values().for_each(|one| self.hide_values(one)),
            _ => {}
        }
    }
}

impl Unlock for Vault {
    fn unlock(&self, envelope: &str, place: &str) -> Result<String, String> {
        if let Some(known) = locked(&self.open).get(envelope) {
            return Ok(known.clone());
        }
        let plain = self.open(envelope.as_bytes()).map_err(|why| format!("{place}: {why}; {}", why.help()));
        let plain = String::from_utf8(plain?.0)
            .map_err(|_| format!("{place}: the decrypted value is not UTF-8 text; keep it in a file of its own"))?;
        self.hide(&plain);
        if envelope.len() <= LONGEST_KEPT {
            let mut open = locked(&self.open);
            if open.len() >= MOST_KEPT {
                open.clear();
            }
            open.insert(envelope.to_string(), plain.clone());
        }
        Ok(plain)
    }
}

/// Encrypts; what comes out is a whole file, ending with a newline. An id other than `default` is written into it.
///
/// # Errors
/// When the system gives no random bytes.
pub fn encrypt(plain: &[u8], secret: &Secret) -> Result<String, String> {
    let mut salt = [0; 32];
    getrandom::fill(&mut salt).map_err(|e| format!("the system gives no random bytes: {e}"))?;
    let keys = Keys::derive(secret.password(), &salt);
    let id = (secret.id != DEFAULT_ID).then(|| secret.id.clone());
    Ok(keys.encrypt(plain, &salt, id).write())
}

/// An error in a decrypted text says where it is, but does not show the line.
pub fn discreet(error: Diagnostic) -> Diagnostic {
    match error.span {
        Some(span) => Diagnostic {
            message: format!("{}: {} (the file is encrypted, so the line is not shown)", span.place(), error.message),
            span: None,
            label: None,
            ..error
        },
        None => error,
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
