//! A saved plan: what `plan -o FILE` writes and `apply FILE` does, exactly.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::protocol::{self, Become, Outcome, Status};
use crate::change::Action;
use crate::diag::Diagnostic;
use crate::report::TaskId;

/// Changes with the meaning of the file.
const FORMAT: u32 = 1;

/// A saved plan.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedPlan {
    /// See [`FORMAT`].
    format: u32,
    /// The program that wrote it; actions of another version may mean something else.
    version: String,
    /// The inventories it was made with; hosts are reached as they say.
    pub inventories: Vec<PathBuf>,
    /// Host by host.
    pub hosts: Vec<SavedHost>,
}

/// What is to be done on one host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedHost {
    /// Its name in the inventory.
    pub name: String,
    /// In order.
    pub tasks: Vec<SavedTask>,
}

/// A task with finished parameters and what it would do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedTask {
    /// The play's name.
    pub play: String,
    /// The role's.
    pub role: Option<String>,
    /// The task's.
    pub task: String,
    /// The module's, as the user wrote it.
    pub module: String,
    /// The loop's item.
    pub item: Option<String>,
    /// As whom.
    pub user: Option<String>,
    /// Its words are secret.
    pub no_log: bool,
    /// The module that the agent is asked.
    pub asks: String,
    /// Its parameters.
    pub parameters: Value,
    /// Seconds after which it is stopped.
    #[serde(default)]
    pub timeout: Option<u64>,
    /// What it would do; `None`: unknown until applied.
    pub actions: Option<Vec<Action>>,
}

impl SavedTask {
    pub(super) fn new(id: &TaskId, request: &protocol::Task) -> SavedTask {
        SavedTask {
            play: id.play.clone(),
            role: id.role.clone(),
            task: id.task.clone(),
            module: id.module.clone(),
            item: id.item.clone(),
            user: request.user.as_ref().map(|user| user.user.clone()),
            no_log: request.no_log,
            asks: request.module.clone(),
            parameters: request.parameters.clone(),
            timeout: request.timeout,
            actions: None,
        }
    }

    pub(super) fn with(mut self, outcome: &Outcome) -> SavedTask {
        self.actions = (outcome.status != Status::Unknown).then(|| outcome.actions.clone());
        self
    }

    pub(super) fn id(&self, host: &str) -> TaskId {
        TaskId {
            host: host.to_string(),
            play: self.play.clone(),
            role: self.role.clone(),
            task: self.task.clone(),
            module: self.module.clone(),
            item: self.item.clone(),
        }
    }

    pub(super) fn request(&self, user: Option<Become>, exactly: bool) -> protocol::Task {
        protocol::Task {
            id: 0,
            chain: 0,
            user,
            module: self.asks.clone(),
            parameters: self.parameters.clone(),
            title: self.task.clone(),
            no_log: self.no_log,
            timeout: self.timeout,
            expect: if exactly { self.actions.clone() } else { None },
        }
    }
}

impl SavedPlan {
    /// A plan to be written.
    pub fn new(inventories: Vec<PathBuf>, hosts: Vec<SavedHost>) -> SavedPlan {
        SavedPlan { format: FORMAT, version: env!("CARGO_PKG_VERSION").into(), inventories, hosts }
    }

    /// Writes it, readable by its owner only: parameters may be secret.
    ///
    /// # Errors
    /// When the file can't be written.
    pub fn write(&self, path: &Path) -> Result<(), Diagnostic> {
        let trouble = |e: std::io::Error| Diagnostic::error(format!("can't write the plan {}: {e}", path.display()));
        let temporary = path.with_extension(format!("part-{}", std::process::id()));
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(trouble)?;
        let text = serde_json::to_string(self).map_err(|e| trouble(e.into()))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(trouble)?;
        fs::rename(&temporary, path).map_err(trouble)
    }

    /// Is this file a saved plan (and not a playbook)?
    pub fn is_one(path: &Path) -> bool {
        use std::io::Read;
        let mut start = [0; 11];
        fs::File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && &start == b"{\"format\":1"
    }

    /// Reads one.
    ///
    /// # Errors
    /// When it can't be read, or another version of this program wrote it.
    pub fn read(path: &Path) -> Result<SavedPlan, Diagnostic> {
        let name = path.display();
        let text =
            fs::read_to_string(path).map_err(|e| Diagnostic::error(format!("can't read the plan {name}: {e}")))?;
        let plan: SavedPlan =
            serde_json::from_str(&text).map_err(|e| Diagnostic::error(format!("{name} is not a saved plan: {e}")))?;
        if plan.version != env!("CARGO_PKG_VERSION") {
            return Err(Diagnostic::error(format!(
                "the plan {name} was made by version {}, and this is {}",
                plan.version,
                env!("CARGO_PKG_VERSION")
            ))
            .help("make it again"));
        }
        Ok(plan)
    }
}
