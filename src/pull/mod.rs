//! A machine's own copy of a git repository: fetched, checked out at exactly one commit, and what of it was applied.
//!
//! The real `git` does the work, so that its URLs, credentials and signatures are what people know. The copy is this
//! program's own: where somebody has changed it, nothing is applied.

mod git;

use std::fs;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::diag::Diagnostic;
use crate::inventory::Inventory;
use git::Git;

/// What a repository's inventory may be called.
const INVENTORIES: [&str; 5] = ["inventory", "inventory.yml", "inventory.yaml", "inventory.ini", "hosts"];

/// A run writes it beside the inventory, so it is no change by somebody else.
const LOCK_FILE: &str = "vfio-provision.lock";

/// Why nothing was applied.
#[derive(Debug)]
pub enum Trouble {
    /// The repository can't be reached.
    Fetch(Diagnostic),
    /// Anything else.
    Wrong(Vec<Diagnostic>),
}

impl Trouble {
    /// One sentence.
    pub fn wrong(message: impl Into<String>) -> Trouble {
        Trouble::Wrong(vec![Diagnostic::error(message)])
    }

    fn with_help(message: impl Into<String>, help: impl Into<String>) -> Trouble {
        Trouble::Wrong(vec![Diagnostic::error(message).help(help)])
    }
}

/// Which commit is wanted.
#[derive(Clone, Debug)]
pub struct Source {
    /// A URL or a path.
    pub url: String,
    /// A branch, tag or commit.
    pub reference: String,
    /// Only with a good signature.
    pub verify_signatures: bool,
    /// With its submodules.
    pub submodules: bool,
}

/// What was fetched.
#[derive(Debug)]
pub struct Fetched {
    /// The commit.
    pub commit: String,
    /// The first line of its message.
    pub subject: String,
    /// Was exactly this applied last, without an error?
    pub is_applied: bool,
    /// What the user should know.
    pub warnings: Vec<String>,
}

impl Fetched {
    /// For people: `3f2a9c0d1e4b (The bridge gets a VLAN)`.
    pub fn title(&self) -> String {
        format!("{} ({})", self.commit.get(..12).unwrap_or(&self.commit), self.subject)
    }
}

/// What is applied, and where.
#[derive(Debug)]
pub struct Work {
    /// The playbook.
    pub playbook: PathBuf,
    /// The repository's inventories, and one that says that the host is this machine.
    pub inventories: Vec<PathBuf>,
    /// This machine's name there.
    pub host: String,
}

/// What is remembered between two pulls.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct State {
    url: String,
    #[serde(rename = "ref")]
    reference: String,
    /// What the work tree holds.
    checked_out: Option<String>,
    /// What it was about to hold when the program ended.
    pending: Option<String>,
    /// What was applied without an error.
    applied: Option<String>,
}

/// The folder that all this is kept in. Nobody else pulls into it as long as this lives.
pub struct Place {
    folder: PathBuf,
    git: Git,
    _lock: fs::File,
}

impl Place {
    /// Makes the folder where it is missing, and takes its lock.
    ///
    /// # Errors
    /// When the folder can't be used, or another pull is under way.
    pub fn open(folder: &Path) -> Result<Place, Trouble> {
        let failed = |what: &str, e: &std::io::Error| Trouble::wrong(format!("can't {what} {}: {e}", folder.display()));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|e| failed("make", &e))?;
        let folder = fs::canonicalize(folder).map_err(|e| failed("open", &e))?;
        let lock = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(folder.join("lock"))
            .map_err(|e| failed("lock", &e))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let message = format!("another pull into {} is under way", folder.display());
                return Err(Trouble::with_help(message, "it applies what it has fetched; try again when it has ended"));
            }
            Err(fs::TryLockError::Error(e)) => return Err(failed("lock", &e)),
        }
        let git = Git::new(folder.join("repository"));
        Ok(Place { folder, git, _lock: lock })
    }

    fn state(&self) -> Result<State, Trouble> {
        let path = self.folder.join("state.json");
        match fs::read(&path) {
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|e| Trouble::wrong(format!("can't read {}: {e}", path.display())))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(State::default()),
            Err(e) => Err(Trouble::wrong(format!("can't read {}: {e}", path.display()))),
        }
    }

    fn keep(&self, state: &State) -> Result<(), Trouble> {
        let mut text =
            serde_json::to_vec_pretty(state).map_err(|e| Trouble::wrong(format!("can't note a pull: {e}")))?;
        text.push(b'\n');
        write(&self.folder, "state.json", &text)
    }

    /// Fetches, and says which commit it is. What was applied before is not touched.
    ///
    /// # Errors
    /// When the repository can't be had, its commit is not signed as it should be, or somebody has changed the copy.
    pub fn fetch(&self, source: &Source) -> Result<Fetched, Trouble> {
        git::check_words(source)?;
        let mut state = self.state()?;
        if (&state.url, &state.reference) != (&source.url, &source.reference) {
            // Another repository: what was applied of the old one says nothing about this one.
            state.applied = None;
        }
        if self.git.exists() {
            self.unchanged(&state)?;
        } else {
            self.git.begin()?;
        }
        self.git.fetch(source)?;
        let commit = self.git.line(&["rev-parse", "--verify", "FETCH_HEAD^{commit}"])?;
        if source.verify_signatures {
            self.git.verify(&commit)?;
        }
        let subject = self.git.line(&["log", "-1", "--format=%s", &commit])?;
        let mut warnings = Vec::new();
        if let Some(old) = state.applied.as_deref().filter(|old| **old != *commit)
            && !self.git.leads_to(old, &commit)
        {
            warnings.push(format!(
                "{} does not come after {old}, which was applied last: the history was rewritten, or this is an older state",
                source.reference
            ));
        }
        let is_applied = state.applied.as_ref() == Some(&commit) && state.pending.is_none();
        Ok(Fetched { commit, subject, is_applied, warnings })
    }

    /// Is the copy as the last pull left it?
    fn unchanged(&self, state: &State) -> Result<(), Trouble> {
        if state.pending.is_some() {
            // The last pull was killed in the middle of a checkout; the next one puts everything right.
            return self.git.remove_stale_lock();
        }
        let at = self.git.folder().display();
        let refused = |why: String| {
            let help = format!("see what it is with `git -C {at} status`; to start over, remove the folder {at}");
            Trouble::with_help(why, help)
        };
        let head = self.git.line(&["rev-parse", "--verify", "-q", "HEAD"]).ok();
        if head != state.checked_out {
            let is = head.unwrap_or_else(|| "no commit".into());
            let was = state.checked_out.clone().unwrap_or_else(|| "no commit".into());
            return Err(refused(format!("somebody has moved the copy in {at}: it is at {is}, and was left at {was}")));
        }
        // What a run keeps beside its inventory is nobody's change.
        let own = [":/", ":(exclude,glob)**/.vfio-provision/**", ":(exclude,glob)**/vfio-provision.lock"];
        let ask = ["status", "--porcelain", "--untracked-files=all", "--"];
        let changes = self.git.text(&[&ask[..], &own[..]].concat())?;
        let changed = |line: &&str| line.get(3..).is_some_and(|path| path.rsplit('/').next() != Some(LOCK_FILE));
        match changes.lines().find(changed) {
            None => Ok(()),
            Some(line) => {
                Err(refused(format!("somebody has changed the copy in {at}: {}", line.get(3..).unwrap_or_default())))
            }
        }
    }

    /// Checks out exactly this commit.
    ///
    /// # Errors
    /// When git can't.
    pub fn check_out(&self, source: &Source, fetched: &Fetched) -> Result<(), Trouble> {
        let mut state = self.state()?;
        if (&state.url, &state.reference) != (&source.url, &source.reference) {
            state = State { url: source.url.clone(), reference: source.reference.clone(), ..State::default() };
        }
        state.pending = Some(fetched.commit.clone());
        self.keep(&state)?;
        self.git.check_out(&fetched.commit, source.submodules)?;
        state.checked_out = Some(fetched.commit.clone());
        state.pending = None;
        self.keep(&state)
    }

    /// Remembers that this was applied.
    ///
    /// # Errors
    /// When that can't be written.
    pub fn applied(&self, source: &Source, fetched: &Fetched) -> Result<(), Trouble> {
        self.keep(&State {
            url: source.url.clone(),
            reference: source.reference.clone(),
            checked_out: Some(fetched.commit.clone()),
            pending: None,
            applied: Some(fetched.commit.clone()),
        })
    }

    /// Finds the playbook, the inventories and this machine in them.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn inventories(&self, playbook: &Path, given: &[PathBuf], limit: Option<&str>) -> Result<Work, Trouble> {
        let tree = self.git.folder();
        let playbook = tree.join(playbook);
        if !playbook.is_file() {
            let message = format!("the repository has no playbook {}", playbook.display());
            return Err(Trouble::with_help(message, "`--playbook PATH` names another"));
        }
        let mut inventories: Vec<PathBuf> = given.iter().map(|path| tree.join(path)).collect();
        if inventories.is_empty() {
            let usual = INVENTORIES.iter().map(|name| tree.join(name)).find(|path| path.exists());
            inventories.extend(Some(usual.ok_or_else(|| {
                let message = format!("the repository has none of {}", INVENTORIES.join(", "));
                Trouble::with_help(message, "`-i PATH` names the inventory")
            })?));
        }
        let inventory = Inventory::load(&inventories).map_err(Trouble::Wrong)?;
        let host = this_machine(&inventory, limit)?;
        let beside = playbook.parent();
        let reached = |inventory: &Inventory| -> Result<Option<String>, Trouble> {
            let vars = inventory.vars_of(&host, beside).map_err(|error| Trouble::Wrong(vec![error]))?;
            Ok(vars.get("ansible_connection").and_then(|value| value.as_str()).map(str::to_string))
        };
        let is_here = |connection: Option<String>| matches!(connection.as_deref(), Some("local" | "sandbox"));
        if !is_here(reached(&inventory)?) {
            inventories.push(self.say_local(&host)?);
            let both = Inventory::load(&inventories).map_err(Trouble::Wrong)?;
            if !is_here(reached(&both)?) {
                let message = format!("host `{host}`: `ansible_connection` is set beside the playbook, which wins");
                return Err(Trouble::with_help(
                    message,
                    "set it beside the inventory; `pull` works on this machine alone",
                ));
            }
        }
        Ok(Work { playbook, inventories, host })
    }

    /// An inventory with one line: this host is this machine. Others, to which a task may be delegated, stay as they are.
    fn say_local(&self, host: &str) -> Result<PathBuf, Trouble> {
        let folder = self.folder.join("local");
        let host_vars = folder.join("host_vars");
        let _ = fs::remove_dir_all(&folder);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&host_vars)
            .map_err(|e| Trouble::wrong(format!("can't make {}: {e}", host_vars.display())))?;
        write(&folder, "inventory.ini", format!("{host}\n").as_bytes())?;
        write(&host_vars, &format!("{host}.yml"), b"ansible_connection: local\n")?;
        Ok(folder.join("inventory.ini"))
    }
}

/// Old content or new, never half.
fn write(folder: &Path, name: &str, content: &[u8]) -> Result<(), Trouble> {
    let (path, new) = (folder.join(name), folder.join(format!(".{name}.new")));
    let written = (|| {
        use std::io::Write;
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&new, &path)
    })();
    written.map_err(|e: std::io::Error| Trouble::wrong(format!("can't write {}: {e}", path.display())))
}

/// The one host that this machine is.
fn this_machine(inventory: &Inventory, limit: Option<&str>) -> Result<String, Trouble> {
    if let Some(limit) = limit {
        let hosts = inventory.matching(limit, None).map_err(|error| Trouble::Wrong(vec![error]))?;
        return match hosts.as_slice() {
            [one] => Ok((*one).to_string()),
            _ => Err(Trouble::wrong(format!("--limit {limit} means {} hosts, and this machine is one", hosts.len()))),
        };
    }
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    named(&name, &inventory.hosts().collect::<Vec<_>>()).ok_or_else(|| {
        let message = format!("the inventory has no host that is called as this machine is: `{name}`");
        Trouble::with_help(message, "`--limit HOST` says which one this machine is")
    })
}

/// The host of this name: the same name, or the only one with the same first part.
fn named(name: &str, hosts: &[&str]) -> Option<String> {
    let first = |name: &str| name.split('.').next().unwrap_or_default().to_ascii_lowercase();
    if let Some(same) = hosts.iter().find(|host| host.eq_ignore_ascii_case(name)) {
        return Some((*same).to_string());
    }
    let mut alike = hosts.iter().filter(|host| host.parse::<std::net::IpAddr>().is_err() && first(host) == first(name));
    match (alike.next(), alike.next()) {
        (Some(one), None) if !(one.contains('.') && name.contains('.')) => Some((*one).to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_finds_itself_and_nobody_else() {
        let hosts = ["ws01", "ws02.example.org", "ws03.a.org", "ws03.b.org", "10.0.0.1"];
        let found = |name: &str| named(name, &hosts);
        assert_eq!(found("ws01").as_deref(), Some("ws01"));
        assert_eq!(found("WS01.example.org").as_deref(), Some("ws01"));
        assert_eq!(found("ws02").as_deref(), Some("ws02.example.org"));
        assert_eq!(found("ws02.elsewhere.org"), None, "another machine with the same first name");
        assert_eq!(found("ws03"), None, "it could be either");
        assert_eq!(found("ws03.b.org").as_deref(), Some("ws03.b.org"));
        assert_eq!(found("10"), None);
    }

    #[test]
    fn words_that_git_would_misread_are_refused() {
        let source = |url: &str, reference: &str, verify_signatures| Source {
            url: url.into(),
            reference: reference.into(),
            verify_signatures,
            submodules: false,
        };
        let fine = |url: &str, reference: &str, signed| git::check_words(&source(url, reference, signed)).is_ok();
        assert!(fine("https://example.org/site.git", "main", false) && fine("/srv/site.git", "v1.2", false));
        assert!(fine("git@example.org:site.git", "release/1", false) && fine("ssh://example.org/site", "main", false));
        for url in [
            "--upload-pack=/tmp/x",
            "ext::sh -c id",
            "ext::ssh://x",
            "",
            "http://example.org/x",
            "git://example.org/x",
            "a\nb",
        ] {
            assert!(!fine(url, "main", false), "{url}");
        }
        assert!(fine("http://example.org/x", "main", true), "a signature is as good as a safe way");
        for reference in ["-x", "", "a:b", "+main", "a b", "a..b", "*"] {
            assert!(!fine("/srv/x", reference, false), "{reference}");
        }
    }
}
