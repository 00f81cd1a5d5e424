//! What controller and agent say to each other.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use super::child::Become;
use crate::change::{Action, Diff, Op};
use crate::host::Error;

/// Whether actions are only foreseen or really done. Modules never learn which.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Actions go into an overlay through which later tasks read.
    Plan,
    /// Actions are done.
    Apply,
}

/// Which machine the agent serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineKind {
    /// The one it runs on.
    Live,
    /// A folder that holds one.
    Folder {
        /// Where it is.
        root: PathBuf,
        /// The recorded machine that it becomes when it is not there yet.
        recorded: Option<String>,
    },
}

/// The first thing a controller says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The controller's version; another one is refused.
    pub version: String,
    /// The machine.
    pub machine: MachineKind,
    /// Foresee or do.
    pub mode: Mode,
    /// The run's name; the journal's folder is called so.
    pub run: String,
    /// URL -> hex SHA-256, from the lock file beside the inventory.
    pub pins: BTreeMap<String, String>,
    /// Can the controller come back over a new connection? Only over a network it can.
    pub remote: bool,
    /// Who asks, and from where: `user@machine`.
    #[serde(default)]
    pub from: String,
    /// What it is about: the playbooks.
    #[serde(default)]
    pub what: String,
    /// As many seconds an apply waits for another run on the machine to end.
    #[serde(default)]
    pub wait_for_lock: u64,
}

/// One task with finished parameters.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Task {
    /// Comes back in the replies.
    pub id: u64,
    /// Tasks are sent before the answers to earlier ones are back. Where one fails, the rest of its chain is dropped.
    pub chain: u64,
    /// As whom; `None`: as the user whom the connection belongs to.
    pub user: Option<Become>,
    /// The module's name in the table.
    pub module: String,
    /// Its parameters.
    pub parameters: Value,
    /// What people call it; goes into the journal.
    pub title: String,
    /// Its words are secret: the journal names it only.
    pub no_log: bool,
    /// Seconds after which it is stopped and has failed.
    #[serde(default)]
    pub timeout: Option<u64>,
    /// Exactly these actions may be done (a saved plan); anything else is refused.
    pub expect: Option<Vec<Action>>,
}

/// A part of a file of the controller.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Blob {
    /// The whole file's SHA-256 in hex.
    pub sha256: String,
    /// At most [`BLOB`] bytes, in base64.
    pub bytes: String,
    /// It is the last part.
    pub last: bool,
    /// Why there is none.
    pub error: Option<String>,
}

/// As much of a file is sent at once, in bytes.
pub const BLOB: usize = 4 << 20;

/// What a controller says.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// First.
    Hello(Hello),
    /// Do (or foresee) this.
    Task(Box<Task>),
    /// In a dry run another agent of the same machine (another user's) foresaw these.
    Assume {
        /// What it foresaw.
        ops: Vec<Op>,
    },
    /// Finish the action under way and begin no other; tasks that were sent ahead are dropped.
    Stop,
    /// What [`Reply::Want`] asked for.
    Blob(Blob),
    /// Last.
    End,
}

/// What an agent says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// The machine is there.
    Ready {
        /// The agent's version.
        version: String,
        /// Which boot of the machine this is (`/proc/sys/kernel/random/boot_id`).
        boot: Option<String>,
    },
    /// It is not, and why.
    Refused {
        /// Why.
        error: Error,
    },
    /// What is about to be changed; said before it is.
    Shown {
        /// The task.
        id: u64,
        /// The diffs of the actions that come next.
        diffs: Vec<Diff>,
    },
    /// Something that takes long goes on.
    Progress {
        /// The task.
        id: u64,
        /// One line.
        text: String,
    },
    /// A task is over.
    Done {
        /// The task.
        id: u64,
        /// How it ended.
        outcome: Box<Outcome>,
    },
    /// What comes next may cut this connection. The controller must come back over a new one and say the word.
    Guard {
        /// The task.
        id: u64,
        /// The word.
        token: String,
        /// Seconds until the machine puts the old state back by itself.
        seconds: u64,
    },
    /// The content of this SHA-256 is needed, from this byte on.
    Want {
        /// In hex.
        sha256: String,
        /// What is here already.
        from: u64,
    },
    /// As [`Request::Stop`] asked: nothing goes on any more.
    Stopped,
}

/// How a task ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// As asked already.
    #[default]
    Ok,
    /// Made so.
    Changed,
    /// An apply would make it so.
    WouldChange,
    /// Did not work, or was refused.
    Failed,
    /// Its conditions did not hold.
    Skipped,
    /// The machine can't be reached.
    Unreachable,
    /// Can't be known before an earlier task has really been done.
    Unknown,
}

impl Status {
    /// Is what was sent ahead after a task that ended so dropped? A dry run goes on after what can't be known.
    pub fn breaks_chain(self, mode: Mode) -> bool {
        match self {
            Status::Ok | Status::Changed | Status::WouldChange | Status::Skipped => false,
            Status::Unknown => mode == Mode::Apply,
            Status::Failed | Status::Unreachable => true,
        }
    }

    /// As it stands in JSON.
    pub fn word(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Changed => "changed",
            Status::WouldChange => "would_change",
            Status::Failed => "failed",
            Status::Skipped => "skipped",
            Status::Unreachable => "unreachable",
            Status::Unknown => "unknown",
        }
    }
}

/// All about a task that is over.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// How it ended.
    pub status: Status,
    /// Everything it changed, or would.
    pub diffs: Vec<Diff>,
    /// What `register` sees.
    pub result: Map<String, Value>,
    /// For the person.
    pub notes: Vec<String>,
    /// For the person, who should act on it.
    pub warnings: Vec<String>,
    /// Why the machine must boot again.
    pub reboot: Vec<String>,
    /// The machine has been told to boot again: earlier reasons hold no more.
    pub rebooted: bool,
    /// What went wrong.
    pub error: Option<Error>,
    /// In a dry run: what would be done, for a saved plan and for agents of other users. An apply sends none back.
    pub actions: Vec<Action>,
    /// An act: of its result only `changed` is known in a dry run.
    pub act: bool,
    /// Content seen for the first time: URL -> hex SHA-256.
    pub pins: BTreeMap<String, String>,
    /// It was stopped before its first action: nothing was done.
    #[serde(default)]
    pub not_begun: bool,
    /// The machine takes it back by itself unless the controller comes back over a new connection and says this word.
    pub guard: Option<String>,
}
