//! What a run did on a machine, kept on that machine: `runs/ID/journal.jsonl`, and what was there before in `runs/ID/before/N`.
//!
//! Written before each action, so that a run that was killed has left what is needed to put things back. New contents are
//! not in it: they may be secret, and they are on the machine anyhow.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::change::Op;
use crate::host::{Error, FileKind, Host, Result, Stat};

/// As many runs are kept.
const KEPT_RUNS: usize = 50;
/// Larger files are not copied: they are images and ISOs, which modules never overwrite.
const LARGEST_COPY: u64 = 256 << 20;

/// One line of the journal.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// About to be done.
    Begin {
        /// Counts from 1.
        action: usize,
        /// What people call the task.
        task: String,
        /// `write_file`, `run`, …
        op: String,
        /// The path or the command.
        subject: String,
        /// What was at the path.
        before: Option<Before>,
        /// The command that undoes a command, where there is one.
        undo: Option<Vec<String>>,
    },
    /// Has been done.
    Done {
        /// The number it began with.
        action: usize,
    },
}

/// What was at a path before.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Before {
    /// Kind, owner, permission bits; `None`: there was nothing.
    pub stat: Option<Stat>,
    /// A link's target.
    pub target: Option<String>,
    /// Is the content in `before/N`?
    pub content: bool,
}

/// The journal of one run; its folder is made with the first action.
pub struct Journal {
    runs: PathBuf,
    folder: PathBuf,
    file: Option<File>,
    actions: usize,
}

impl Journal {
    /// A journal for the run of this name below `state/runs`.
    pub fn new(state: &Path, run: &str) -> Journal {
        let runs = state.join("runs");
        let folder = runs.join(run);
        Journal { runs, folder, file: None, actions: 0 }
    }

    /// Writes down what is about to be done and what is there before.
    ///
    /// # Errors
    /// When it can't be written: the action must not be done then.
    pub fn record(&mut self, host: &dyn Host, task: &str, secret: bool, op: &Op) -> Result<()> {
        self.actions += 1;
        let (name, mut subject, mut undo) = describe(op);
        if secret && matches!(op, Op::Run(_)) {
            (subject, undo) = ("a command that is not logged".to_string(), None);
        }
        let before = match op {
            Op::Run(_) | Op::Poke { .. } | Op::Wait(_) => None,
            _ => Some(self.before(host, &subject)?),
        };
        self.write(&Line::Begin { action: self.actions, task: task.into(), op: name.into(), subject, before, undo })
    }

    /// Writes down that it has been done.
    pub fn done(&mut self) -> Result<()> {
        self.write(&Line::Done { action: self.actions })
    }

    fn before(&mut self, host: &dyn Host, path: &str) -> Result<Before> {
        let stat = host.lstat(path)?;
        let target = host.read_link(path)?;
        let keep = matches!(&stat, Some(stat) if stat.kind == FileKind::File && stat.size <= LARGEST_COPY);
        // A recorded machine's unknown contents can't be read, and need not be: nothing real is lost.
        let content = match keep.then(|| host.read(path)).transpose() {
            Ok(content) => content.flatten(),
            Err(error) if error.is_unknown() => None,
            Err(error) => return Err(error),
        };
        if let Some(bytes) = &content {
            self.open()?;
            let copy = self.folder.join("before").join(self.actions.to_string());
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&copy)
                .map_err(|e| trouble(&copy, &e))?;
            file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| trouble(&copy, &e))?;
        }
        Ok(Before { stat, target, content: content.is_some() })
    }

    fn write(&mut self, line: &Line) -> Result<()> {
        let mut text =
            serde_json::to_string(line).map_err(|e| Error::failed(format!("can't write the journal: {e}")))?;
        text.push('\n');
        let path = self.folder.join("journal.jsonl");
        let file = self.open()?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_data()).map_err(|e| trouble(&path, &e))
    }

    fn open(&mut self) -> Result<&mut File> {
        if self.file.is_none() {
            let before = self.folder.join("before");
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&before).map_err(|e| trouble(&before, &e))?;
            let path = self.folder.join("journal.jsonl");
            let file =
                OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(|e| trouble(&path, &e))?;
            self.file = Some(file);
            self.prune();
        }
        self.file.as_mut().ok_or_else(|| Error::failed("the journal is not open"))
    }

    /// Old runs go; that some can't be removed stops nobody.
    fn prune(&self) {
        let Ok(entries) = fs::read_dir(&self.runs) else { return };
        let mut names: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        names.sort();
        let many = names.len().saturating_sub(KEPT_RUNS);
        for old in names.iter().take(many).filter(|old| **old != self.folder) {
            let _ = fs::remove_dir_all(old);
        }
    }
}

fn trouble(path: &Path, error: &std::io::Error) -> Error {
    Error::failed(format!("can't write the journal {}: {error}", path.display()))
        .hint("without a journal nothing is changed: make room or make the folder writable, then run it again")
}

fn describe(op: &Op) -> (&'static str, String, Option<Vec<String>>) {
    match op {
        Op::WriteFile { path, .. } => ("write_file", path.clone(), None),
        Op::SetAttributes { path, .. } => ("set_attributes", path.clone(), None),
        Op::MakeFolder { path, .. } => ("make_folder", path.clone(), None),
        Op::Link { path, .. } => ("link", path.clone(), None),
        Op::Remove { path } => ("remove", path.clone(), None),
        Op::Download { path, .. } => ("download", path.clone(), None),
        Op::Poke { path, .. } => ("poke", path.clone(), None),
        Op::Run(run) => ("run", run.argv.join(" "), run.undo.clone()),
        Op::Wait(_) => ("wait", String::new(), None),
    }
}
