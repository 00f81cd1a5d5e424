//! What a run tells, as text for people or as JSON lines for programs. `run/` only knows [`Event`]s.

pub mod json;
pub mod mask;
pub mod text;

use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::protocol::Status;
use crate::change::Diff;
use crate::change::diff::Sort;

pub use mask::Mask;

/// Which task, where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskId {
    /// The machine's name in the inventory.
    pub host: String,
    /// The play's name.
    pub play: String,
    /// The role it stands in.
    pub role: Option<String>,
    /// Its name, or its module's.
    pub task: String,
    /// Its module.
    pub module: String,
    /// The loop's item, as its label says.
    pub item: Option<String>,
}

/// A task that is over.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Which.
    pub id: TaskId,
    /// How it ended.
    pub status: Status,
    /// What it changed, or would.
    pub diffs: Vec<Diff>,
    /// What `register` sees; not shown as a whole.
    pub result: Value,
    /// For the person.
    pub notes: Vec<String>,
    /// For the person, who should act on it.
    pub warnings: Vec<String>,
    /// What went wrong, with its hint.
    pub error: Option<String>,
    /// It failed, and the play goes on all the same.
    pub ignored: bool,
    /// How long it took.
    pub duration: Duration,
}

/// What happens in a run.
#[derive(Clone, Debug)]
pub enum Event {
    /// A play begins on these hosts.
    Play {
        /// Its name.
        name: String,
        /// On which.
        hosts: Vec<String>,
    },
    /// A task is about to change this.
    Shown {
        /// Which task.
        id: TaskId,
        /// What comes next.
        diffs: Vec<Diff>,
    },
    /// A task takes long.
    Progress {
        /// Which task.
        id: TaskId,
        /// One line.
        text: String,
    },
    /// A task is over.
    Finished(Box<Finished>),
    /// A host is done with a play, or given up.
    HostDone {
        /// Which.
        host: String,
    },
    /// A word that belongs to no task.
    Warning(String),
}

/// A host's counts, as Ansible counts them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Tasks that went well, those that changed something included.
    pub ok: usize,
    /// Tasks that changed something, or would.
    pub changed: usize,
    /// Tasks that failed, unless ignored or rescued.
    pub failed: usize,
    /// Tasks whose conditions did not hold.
    pub skipped: usize,
    /// 1 when it could not be reached.
    pub unreachable: usize,
    /// Failures that a `rescue` took care of.
    pub rescued: usize,
    /// Failures that were ignored.
    pub ignored: usize,
}

/// How far a host came.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// All that was to be done there was done.
    #[default]
    Done,
    /// A task failed there.
    Failed {
        /// Which.
        task: String,
    },
    /// It could not be reached, or was lost.
    Unreachable,
    /// It was left in the middle because the run stopped.
    Stopped {
        /// The first task that was not begun, if that is known.
        before: Option<String>,
    },
    /// The run stopped before its turn.
    NeverBegun,
}

/// What the last lines say of one host.
#[derive(Clone, Debug, Default)]
pub struct HostRecap {
    /// The counts.
    pub counts: Counts,
    /// Things that came, changed and went.
    pub added: usize,
    /// Likewise.
    pub modified: usize,
    /// Likewise.
    pub removed: usize,
    /// Tasks whose outcome can't be known before an apply.
    pub unknown: usize,
    /// Why it must boot again.
    pub reboot: Vec<String>,
    /// How far it came.
    pub end: End,
}

impl HostRecap {
    /// Counts the things in these diffs.
    pub fn count(&mut self, diffs: &[Diff]) {
        for diff in diffs {
            match diff.sort() {
                Sort::Added => self.added += 1,
                Sort::Changed => self.modified += 1,
                Sort::Removed => self.removed += 1,
            }
        }
    }
}

/// How it all ended.
#[derive(Clone, Debug, Default)]
pub struct Recap {
    /// Was it a dry run?
    pub plan: bool,
    /// Host by host, in the inventory's order.
    pub hosts: indexmap::IndexMap<String, HostRecap>,
}

/// Takes events; one of the two forms.
pub trait Reporter: Send {
    /// Something happened.
    fn event(&mut self, event: &Event);
    /// All is over.
    fn recap(&mut self, recap: &Recap);
}

/// The way from `run/` to a reporter: one event at a time, secrets masked.
pub struct Sink {
    reporter: Mutex<Box<dyn Reporter>>,
    mask: Mask,
}

impl Sink {
    /// A sink for this reporter.
    pub fn new(reporter: Box<dyn Reporter>, mask: Mask) -> Sink {
        Sink { reporter: Mutex::new(reporter), mask }
    }

    /// Adds a secret that must not be shown.
    pub fn hide(&self, secret: &str) {
        self.mask.add(secret);
    }

    /// Passes an event on.
    pub fn event(&self, mut event: Event) {
        self.mask.event(&mut event);
        self.reporter.lock().unwrap_or_else(|broken| broken.into_inner()).event(&event);
    }

    /// Passes the recap on.
    pub fn recap(&self, recap: &Recap) {
        self.reporter.lock().unwrap_or_else(|broken| broken.into_inner()).recap(recap);
    }
}
