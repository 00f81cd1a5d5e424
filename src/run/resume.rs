//! `--resume`: a run that left hosts undone writes down which and why; another run goes on with exactly those.
//!
//! The file is `.vfio-provision/resume/RUN.json` beside the inventory. Which handlers were notified and did not run is
//! known by the places of the tasks and handlers in their files, so playbook and inventory must be those of that run.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Settings;
use crate::diag::Diagnostic;
use crate::report::End;

/// Changes with the meaning of the file.
const FORMAT: u32 = 1;
/// So many files are kept.
const KEPT: usize = 20;
/// While a rollout goes on the file is written at most that often.
const EVERY: Duration = Duration::from_secs(5);

/// A handler that was notified and did not run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// In which play, counted from 0.
    pub play: usize,
    /// The place of the task that notified it.
    pub task: String,
    /// The handler's place.
    pub handler: String,
    /// The handler's name.
    pub name: String,
}

/// A host that is not done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Left {
    /// How it ended.
    pub end: End,
    /// Handlers that it still owes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub handlers: Vec<Pending>,
}

/// What a run was: of other files or with other flags the places and hosts would mean something else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Playbooks and what they load: path -> SHA-256.
    playbook: BTreeMap<String, String>,
    /// Inventories with their variables: path -> SHA-256.
    inventory: BTreeMap<String, String>,
    /// Flags that choose hosts or tasks, and variables: flag -> SHA-256 (extra variables may be secret).
    flags: BTreeMap<String, String>,
}

/// What a resume file says.
#[derive(Debug, Serialize, Deserialize)]
pub struct State {
    format: u32,
    version: String,
    /// The run's name.
    run: String,
    origin: Origin,
    /// Hosts that are not done.
    pub hosts: BTreeMap<String, Left>,
    /// The file it was read from.
    #[serde(skip)]
    path: PathBuf,
}

/// The folder of resume files.
fn folder(inventories: &[PathBuf]) -> PathBuf {
    let beside = match inventories.first() {
        Some(path) if path.is_dir() => path.clone(),
        Some(path) => path.parent().unwrap_or(Path::new("")).to_path_buf(),
        None => PathBuf::new(),
    };
    beside.join(".vfio-provision/resume")
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn add_files(path: &Path, depth: usize, found: &mut BTreeMap<String, String>) {
    const DEEPEST: usize = 16;
    if path.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten().filter(|_| depth < DEEPEST);
        for entry in entries.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".")) {
            add_files(&entry.path(), depth + 1, found);
        }
    } else if let Ok(bytes) = fs::read(path) {
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
        found.insert(path.display().to_string(), hash(&bytes));
    }
}

impl Origin {
    /// What this run is, as it is now.
    pub(super) fn of<'a>(settings: &Settings, loaded: impl Iterator<Item = &'a Path>) -> Origin {
        let mut origin = Origin::default();
        loaded.for_each(|path| add_files(path, 0, &mut origin.playbook));
        let mut beside: Vec<PathBuf> = Vec::new();
        for path in &settings.inventories {
            match path.is_dir() {
                // What lies beside the inventories there is read, the lock file is written by runs.
                true => add_files(path, 0, &mut origin.inventory),
                false => {
                    add_files(path, 0, &mut origin.inventory);
                    beside.push(path.parent().unwrap_or(Path::new("")).to_path_buf());
                }
            }
        }
        beside.extend(settings.playbooks.iter().map(|path| path.parent().unwrap_or(Path::new("")).to_path_buf()));
        for folder in beside {
            add_files(&folder.join("group_vars"), 0, &mut origin.inventory);
            add_files(&folder.join("host_vars"), 0, &mut origin.inventory);
        }
        origin.inventory.retain(|path, _| !path.ends_with("/vfio-provision.lock"));
        let flags: [(&str, String); 7] = [
            ("--limit", format!("{:?}", settings.limit)),
            ("--extra-vars", format!("{:?}", settings.extra_vars)),
            ("--tags", format!("{:?}", settings.tags)),
            ("--skip-tags", format!("{:?}", settings.skip_tags)),
            ("--start-at-task", format!("{:?}", settings.start_at_task)),
            ("--shard", format!("{:?}", settings.shard)),
            ("--become", format!("{:?}", settings.become_)),
        ];
        origin.flags = flags.into_iter().map(|(flag, value)| (flag.to_string(), hash(value.as_bytes()))).collect();
        origin
    }

    /// What differs, in words.
    fn differs(&self, now: &Origin) -> Vec<String> {
        let mut all = Vec::new();
        for (what, then, now) in
            [("playbook", &self.playbook, &now.playbook), ("inventory", &self.inventory, &now.inventory)]
        {
            for path in then.keys().chain(now.keys().filter(|path| !then.contains_key(*path))) {
                match (then.get(path), now.get(path)) {
                    (Some(a), Some(b)) if a == b => {}
                    (Some(_), Some(_)) => all.push(format!("{path} has changed")),
                    (Some(_), None) => all.push(format!("{path} was part of that run's {what} and is not now")),
                    (None, _) => all.push(format!("{path} was not part of that run's {what} and is now")),
                }
            }
        }
        let flags = self.flags.iter().filter(|(flag, value)| now.flags.get(*flag) != Some(value));
        all.extend(flags.map(|(flag, _)| format!("{flag} is not what it was")));
        all
    }
}

impl State {
    /// Reads a resume file, or the newest one for `last`.
    ///
    /// # Errors
    /// When there is none, when it can't be read, and when playbook, inventory or flags are not those of that run.
    pub(super) fn read(which: &str, settings: &Settings, now: &Origin) -> Result<State, Diagnostic> {
        let path = match which {
            "last" => newest(&folder(&settings.inventories))?,
            path => PathBuf::from(path),
        };
        let shown = path.display();
        let text =
            fs::read_to_string(&path).map_err(|e| Diagnostic::error(format!("--resume: can't read {shown}: {e}")))?;
        let mut state: State = serde_json::from_str(&text)
            .map_err(|e| Diagnostic::error(format!("--resume: {shown} is not a resume file: {e}")))?;
        if state.format != FORMAT || state.version != env!("CARGO_PKG_VERSION") {
            return Err(Diagnostic::error(format!("--resume: version {} wrote {shown}", state.version))
                .help("start a new run without --resume: hosts that are done are not changed again"));
        }
        let differs = state.origin.differs(now);
        if !differs.is_empty() {
            return Err(Diagnostic::error(format!("--resume: this is not what run {} was", state.run)).help(format!(
                "{}\nput that back, or start a new run without --resume: hosts that are done are not changed again",
                differs.join("\n")
            )));
        }
        state.path = path;
        Ok(state)
    }

    /// The run's name.
    pub fn run(&self) -> &str {
        &self.run
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> =
        entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|end| end == "json")).collect();
    files.sort();
    files
}

fn newest(folder: &Path) -> Result<PathBuf, Diagnostic> {
    files(folder).pop().ok_or_else(|| {
        Diagnostic::error(format!("--resume: no run left anything undone: there is nothing in {}", folder.display()))
            .help("runs that leave hosts undone write there what is left, beside the inventory")
    })
}

struct Inside {
    hosts: BTreeMap<String, Left>,
    written: Option<Instant>,
}

/// The hosts of a run that are not done, kept up to date while it goes on.
pub(super) struct Ledger {
    run: String,
    origin: Origin,
    folder: PathBuf,
    /// The file that this run goes on from.
    resumed: Option<PathBuf>,
    inside: Mutex<Inside>,
}

impl Ledger {
    pub fn new<'a>(
        run: &str,
        settings: &Settings,
        origin: Origin,
        resumed: Option<&State>,
        hosts: impl Iterator<Item = &'a str>,
    ) -> Ledger {
        let of = |host: &str| {
            let owed = resumed.and_then(|state| state.hosts.get(host)).map(|left| left.handlers.clone());
            Left { end: End::NeverBegun, handlers: owed.unwrap_or_default() }
        };
        let hosts = hosts.map(|host| (host.to_string(), of(host))).collect();
        Ledger {
            run: run.to_string(),
            origin,
            folder: folder(&settings.inventories),
            resumed: resumed.map(|state| state.path.clone()),
            inside: Mutex::new(Inside { hosts, written: None }),
        }
    }

    fn inside(&self) -> std::sync::MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A host is done with everything.
    pub fn done(&self, host: &str) {
        self.inside().hosts.remove(host);
    }

    /// How a host stands now; `play` is the play it is in, and handlers that it owes in later ones stay owed.
    pub fn stands(&self, host: &str, end: End, play: usize, handlers: Vec<Pending>) {
        if let Some(left) = self.inside().hosts.get_mut(host) {
            left.end = end;
            left.handlers.retain(|pending| pending.play > play);
            left.handlers.extend(handlers);
        }
    }

    /// Which handlers a host in the middle of a play owes.
    pub fn pending(&self, host: &str, play: usize, handlers: Vec<Pending>) {
        self.stands(host, End::Stopped { before: None }, play, handlers);
    }

    /// How many hosts are not done.
    pub fn left(&self) -> usize {
        self.inside().hosts.len()
    }

    /// Writes the file while the run goes on, now and then.
    pub fn write_sometimes(&self) -> std::io::Result<()> {
        if self.inside().written.is_some_and(|written| written.elapsed() < EVERY) {
            return Ok(());
        }
        self.write()
    }

    /// Writes the file, all or nothing, readable by its owner only; where nothing is left, there is none.
    pub fn write(&self) -> std::io::Result<()> {
        let mut inside = self.inside();
        let path = self.folder.join(format!("{}.json", self.run));
        let gone = |path: &Path| match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        if inside.hosts.is_empty() {
            gone(&path)?;
        } else {
            inside.written = Some(Instant::now());
            let state = State {
                format: FORMAT,
                version: env!("CARGO_PKG_VERSION").into(),
                run: self.run.clone(),
                origin: self.origin.clone(),
                hosts: inside.hosts.clone(),
                path: PathBuf::new(),
            };
            fs::create_dir_all(&self.folder)?;
            let temporary = path.with_extension("part");
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            serde_json::to_writer(&mut file, &state)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&temporary, &path)?;
            fs::File::open(&self.folder)?.sync_all()?;
            let all = files(&self.folder);
            for old in all.iter().take(all.len().saturating_sub(KEPT)) {
                gone(old)?;
            }
        }
        // What this run went on from is now said by its own file.
        self.resumed.as_deref().filter(|resumed| *resumed != path).map_or(Ok(()), gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_left_is_written_read_and_gone_when_nothing_is() {
        let folder = tempfile::tempdir().unwrap();
        let inventory = folder.path().join("inventory");
        let playbook = folder.path().join("site.yml");
        fs::write(&inventory, "ws01\nws02\nws03\n").unwrap();
        fs::write(&playbook, "- hosts: all\n").unwrap();
        fs::create_dir(folder.path().join("group_vars")).unwrap();
        fs::write(folder.path().join("group_vars/all.yml"), "a: 1\n").unwrap();
        let settings =
            Settings { inventories: vec![inventory.clone()], playbooks: vec![playbook.clone()], ..Settings::default() };
        let origin = |settings: &Settings| Origin::of(settings, [playbook.as_path()].into_iter());
        let none = State::read("last", &settings, &origin(&settings)).unwrap_err();
        assert!(none.message.contains("nothing in"), "{}", none.message);

        let ledger = Ledger::new("0001", &settings, origin(&settings), None, ["ws01", "ws02", "ws03"].into_iter());
        let owed = Pending { play: 0, task: "a:1:1".into(), handler: "b:2:2".into(), name: "restart".into() };
        ledger.done("ws01");
        ledger.stands("ws02", End::Failed { task: "x".into() }, 0, vec![owed.clone()]);
        ledger.write().unwrap();
        let file = folder.path().join(".vfio-provision/resume/0001.json");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

        let state = State::read("last", &settings, &origin(&settings)).unwrap();
        assert_eq!(state.hosts.keys().collect::<Vec<_>>(), ["ws02", "ws03"]);
        assert_eq!(state.hosts["ws02"], Left { end: End::Failed { task: "x".into() }, handlers: vec![owed.clone()] });
        assert_eq!(state.hosts["ws03"].end, End::NeverBegun);

        // Going on: what is owed stays owed until it is done, and the old file goes once there is a new one.
        let ledger = Ledger::new("0002", &settings, origin(&settings), Some(&state), ["ws02", "ws03"].into_iter());
        ledger.done("ws03");
        ledger.write().unwrap();
        assert!(!file.exists());
        let state = State::read("last", &settings, &origin(&settings)).unwrap();
        assert_eq!(state.hosts["ws02"].handlers, [owed]);
        ledger.done("ws02");
        ledger.write().unwrap();
        assert!(files(&folder.path().join(".vfio-provision/resume")).is_empty());
    }

    #[test]
    fn another_playbook_inventory_or_flag_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let inventory = folder.path().join("inventory");
        let playbook = folder.path().join("site.yml");
        fs::write(&inventory, "ws01\n").unwrap();
        fs::write(&playbook, "- hosts: all\n").unwrap();
        let mut settings =
            Settings { inventories: vec![inventory.clone()], playbooks: vec![playbook.clone()], ..Settings::default() };
        let origin = |settings: &Settings| Origin::of(settings, [playbook.as_path()].into_iter());
        Ledger::new("1", &settings, origin(&settings), None, ["ws01"].into_iter()).write().unwrap();
        let refused = |settings: &Settings| -> String {
            State::read("last", settings, &origin(settings)).map_or_else(|e| e.to_string(), |_| "taken".into())
        };
        assert_eq!(refused(&settings), "taken");
        settings.tags.push("net".into());
        assert!(refused(&settings).contains("--tags is not what it was"));
        settings.tags.clear();
        fs::create_dir(folder.path().join("host_vars")).unwrap();
        fs::write(folder.path().join("host_vars/ws01.yml"), "a: 1\n").unwrap();
        assert!(refused(&settings).contains("was not part of that run's inventory"), "{}", refused(&settings));
        fs::remove_file(folder.path().join("host_vars/ws01.yml")).unwrap();
        fs::write(&playbook, "- hosts: ws01\n").unwrap();
        let said = refused(&settings);
        assert!(said.contains("site.yml has changed") && said.contains("without --resume"), "{said}");
    }
}
