//! What a run did, in words from which it can be taken back: what each action touched, what that was before and after.

mod look;
mod plan;
mod restore;

use serde::{Deserialize, Serialize};

use crate::host::{Unit, VirtKind};

pub use look::{look, touched};
pub use plan::{Chosen, Origin, Scene, Undoing, plan};
pub use restore::{Restoring, Thing};

/// A thing that an action touches.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// A path, with the links of its parents followed.
    Path(String),
    /// A systemd unit.
    Unit(String),
    /// A package.
    Package(String),
    /// Something of libvirt's.
    Virt {
        /// Domain, network or pool.
        kind: VirtKind,
        /// Its name.
        name: String,
    },
}

/// What a subject is at some moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not there.
    Nothing,
    /// A regular file.
    File {
        /// Permission bits.
        mode: u32,
        /// Owner's number.
        uid: u32,
        /// Group's number.
        gid: u32,
        /// What tells its content from another: a hash, for very large files length and time.
        content: String,
        /// The name of its copy in the run's folder, where one was kept.
        copy: Option<String>,
        /// Extended attributes (labels, ACLs, capabilities): name and value in base64.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        xattrs: Vec<(String, String)>,
    },
    /// A folder.
    Folder {
        /// Permission bits.
        mode: u32,
        /// Owner's number.
        uid: u32,
        /// Group's number.
        gid: u32,
        /// Extended attributes.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        xattrs: Vec<(String, String)>,
    },
    /// A symbolic link.
    Link {
        /// What is written in it.
        target: String,
    },
    /// A device, socket or pipe.
    Other,
    /// A unit's state.
    Unit(Unit),
    /// An installed package.
    Package {
        /// Its version.
        version: Option<String>,
    },
    /// Something that libvirt knows.
    Virt {
        /// Does it run?
        active: bool,
        /// Does it start with the host?
        autostart: bool,
        /// Hash of its XML.
        content: String,
        /// The name of the XML's copy in the run's folder.
        copy: Option<String>,
    },
}

/// One thing that an action touches, and what it was before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Touched {
    /// Which.
    pub subject: Subject,
    /// What it was.
    pub before: State,
}

/// One action of a run, as the journal has it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deed {
    /// Counts from 1 within its run.
    pub action: usize,
    /// What people call the task.
    pub task: String,
    /// `write_file`, `run`, …
    pub op: String,
    /// The path or the command, for people.
    pub subject: String,
    /// What it touched.
    pub touched: Vec<Touched>,
    /// Hash of the content that a file was to have, where it was known before: what a killed run may have left.
    pub will: Option<String>,
    /// The command, where it may be kept and needs no more than its words.
    pub argv: Option<Vec<String>>,
    /// The command that undoes a command, where there is one. The same command: it is to be run again once what it reads
    /// is as it was.
    pub undo: Option<Vec<String>>,
    /// It showed nothing: nobody misses it.
    pub quiet: bool,
    /// The task has `no_log`: what its files hold is not shown.
    pub secret: bool,
    /// The machine booted again.
    pub reboot: bool,
    /// In a rollback: whose command this one undoes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<Origin>,
    /// What the touched things were afterwards, in the same order; `None` where it did not come to its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Vec<State>>,
}

impl State {
    /// The same thing, whatever copies were kept of it?
    pub fn same(&self, other: &State) -> bool {
        self.bare() == other.bare()
    }

    /// Without copies and extended attributes, which say nothing of what a person changed.
    fn bare(&self) -> State {
        match self.clone() {
            State::File { mode, uid, gid, content, .. } => {
                State::File { mode, uid, gid, content, copy: None, xattrs: Vec::new() }
            }
            State::Folder { mode, uid, gid, .. } => State::Folder { mode, uid, gid, xattrs: Vec::new() },
            State::Virt { active, autostart, content, .. } => State::Virt { active, autostart, content, copy: None },
            other => other,
        }
    }
}

impl Deed {
    /// What a subject was after it, where that is known.
    fn after(&self, subject: &Subject) -> Option<&State> {
        let at = self.touched.iter().position(|touched| touched.subject == *subject)?;
        self.after.as_ref()?.get(at)
    }

    /// Is it a command or a write to the kernel, whose paths are not restored as files?
    fn is_command(&self) -> bool {
        matches!(self.op.as_str(), "run" | "poke")
    }
}
