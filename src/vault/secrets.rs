//! Where passwords come from: files, programs, the terminal.

use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::diag::Diagnostic;

/// The id of passwords that were given without one.
pub const DEFAULT_ID: &str = "default";
/// What stands for the terminal in `--vault-id LABEL@prompt`.
const PROMPTS: [&str; 2] = ["prompt", "prompt_ask_vault_pass"];

/// A password with its id.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    /// The vault id, `default` where none was given.
    pub id: String,
    password: Vec<u8>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({})", self.id)
    }
}

impl Secret {
    /// A password; white space around it does not count, as for Ansible.
    ///
    /// # Errors
    /// When nothing is left, and when the id can't stand in a first line.
    pub fn new(id: &str, password: &[u8]) -> Result<Secret, String> {
        let password = password.trim_ascii();
        if password.is_empty() {
            return Err("the vault password is empty".into());
        }
        if id.is_empty() || id.contains(|c: char| c == ';' || c.is_whitespace() || c.is_control()) {
            return Err(format!("`{}` can't be a vault id", id.escape_debug()));
        }
        Ok(Secret { id: id.to_string(), password: password.to_vec() })
    }

    /// The same password under another id.
    ///
    /// # Errors
    /// As [`Secret::new`].
    pub fn called(self, id: &str) -> Result<Secret, String> {
        Secret::new(id, &self.password)
    }

    pub(super) fn password(&self) -> &[u8] {
        &self.password
    }
}

/// What the command line and the environment say about passwords.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// `--vault-password-file`.
    pub files: Vec<PathBuf>,
    /// `--vault-id`, as given: `[LABEL@]SOURCE`.
    pub ids: Vec<String>,
    /// `--ask-vault-pass`.
    pub ask: bool,
}

impl Sources {
    /// These, and those of the environment (`ANSIBLE_VAULT_IDENTITY_LIST`, `ANSIBLE_VAULT_PASSWORD_FILE`). As for Ansible,
    /// the command line's file replaces the environment's.
    pub fn with_environment(mut self) -> Sources {
        let get = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let Some(list) = get("ANSIBLE_VAULT_IDENTITY_LIST") {
            let listed: Vec<String> = list.split(',').map(|id| id.trim().to_string()).collect();
            self.ids.splice(0..0, listed.into_iter().filter(|id| !id.is_empty()));
        }
        if self.files.is_empty() && !self.ask {
            self.files.extend(get("ANSIBLE_VAULT_PASSWORD_FILE").map(|path| at_home(&path)));
        }
        self
    }

    /// Are there none?
    pub fn is_empty(&self) -> bool {
        self.files.is_empty() && self.ids.is_empty() && !self.ask
    }

    /// Reads files, runs programs and asks, in that order: ids, files, the terminal.
    ///
    /// # Errors
    /// What can't be read, and empty passwords; `ask` may fail too.
    pub fn load(&self, ask: &dyn Fn(&str) -> Result<String, String>) -> Result<Vec<Secret>, Diagnostic> {
        let mut secrets = Vec::new();
        let asked = |id: &str| {
            let shown = if id == DEFAULT_ID { "vault password: ".into() } else { format!("vault password ({id}): ") };
            let password = ask(&shown).map_err(Diagnostic::error)?;
            Secret::new(id, password.as_bytes()).map_err(Diagnostic::error)
        };
        for given in &self.ids {
            let (id, source) = given.split_once('@').unwrap_or((DEFAULT_ID, given));
            let id = if id.is_empty() { DEFAULT_ID } else { id };
            secrets.push(if PROMPTS.contains(&source) { asked(id)? } else { from_file(&at_home(source), id)? });
        }
        for file in &self.files {
            secrets.push(from_file(file, DEFAULT_ID)?);
        }
        if self.ask {
            secrets.push(asked(DEFAULT_ID)?);
        }
        Ok(secrets)
    }
}

fn at_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => PathBuf::from(path),
    }
}

/// A file holds the password, or prints it if it is a program. One that is called `…-client` is told the id.
fn from_file(path: &Path, id: &str) -> Result<Secret, Diagnostic> {
    let shown = path.display();
    let wrong = |why: String| Diagnostic::error(format!("the vault password file {shown}: {why}"));
    let about = std::fs::metadata(path).map_err(|e| {
        let error = wrong(format!("it can't be read: {e}"));
        if e.kind() == std::io::ErrorKind::NotFound {
            error.help("`prompt` instead of a file asks on the terminal: --vault-id LABEL@prompt")
        } else {
            error
        }
    })?;
    if !about.is_file() {
        return Err(wrong("it is not a file".into()));
    }
    let password = if about.permissions().mode() & 0o111 == 0 {
        let content = std::fs::read(path).map_err(|e| wrong(format!("it can't be read: {e}")))?;
        if super::is_vaulted(&content) {
            return Err(wrong("it is encrypted itself".into()));
        }
        content
    } else {
        let path = std::path::absolute(path).map_err(|e| wrong(e.to_string()))?;
        let mut command = Command::new(&path);
        let client = path.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("-client"));
        if client {
            command.args(["--vault-id", id]);
        }
        // A program may ask on the terminal; what it says is shown, what it prints is the password.
        command.stdin(Stdio::inherit()).stderr(Stdio::inherit());
        let output = command.output().map_err(|e| {
            wrong(format!("it is executable, and can't be run: {e}"))
                .help("take the execute permission away (`chmod a-x`) if it holds the password itself")
        })?;
        if !output.status.success() {
            return Err(wrong(format!("it was run, and ended with {}", output.status)));
        }
        output.stdout
    };
    Secret::new(id, &password).map_err(wrong)
}
