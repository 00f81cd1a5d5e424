//! What a run did on a machine, kept on that machine: `runs/ID/run.json` (who, when, from where, how it ended),
//! `runs/ID/journal.jsonl` (what each action touched, what that was before and after), and what was there before in
//! `runs/ID/before/ACTION/N`.
//!
//! Written before each action, so that a run that was killed has left what is needed to put things back. New contents are
//! not in it, only their hashes: they may be secret, and they are on the machine anyhow.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::history::{self, RunInfo};
use super::lock::{Holder, Lock};
use super::protocol::{Hello, Mode};
use crate::change::undo::{Deed, Origin, State, Touched, look, touched};
use crate::change::{Action, Content, Effect, Op};
use crate::host::{Error, Host, Result};

/// One line of the journal.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// About to be done.
    Begin(Box<Deed>),
    /// Has been done.
    Done {
        /// The number it began with.
        action: usize,
        /// What it touched, as it is then.
        after: Vec<State>,
    },
}

/// The records of one machine, as one run sees and writes them; its own folder is made with its first action.
pub struct Journal {
    pub(super) state: PathBuf,
    pub(super) info: RunInfo,
    apply: bool,
    wait: Duration,
    lock: Option<Lock>,
    asked: bool,
    file: Option<File>,
    /// The action under way and what it touches.
    current: (usize, Vec<Touched>),
    /// In a rollback: whose inverse each of the next actions is.
    pub(super) origins: VecDeque<Option<Origin>>,
    failed: bool,
}

impl Journal {
    /// The records in this folder, for the run that a controller announced. A dry run only reads them.
    pub fn new(state: &Path, hello: &Hello) -> Journal {
        let info = RunInfo {
            id: hello.run.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            from: hello.from.clone(),
            what: hello.what.clone(),
            start: now(),
            ..RunInfo::default()
        };
        Journal {
            state: state.to_path_buf(),
            info,
            apply: hello.mode == Mode::Apply,
            wait: Duration::from_secs(hello.wait_for_lock),
            lock: None,
            asked: false,
            file: None,
            current: (0, Vec::new()),
            origins: VecDeque::new(),
            failed: false,
        }
    }

    /// Before a task: takes the machine's lock for an apply, and looks who has it for a dry run. Answers what people
    /// should know.
    ///
    /// # Errors
    /// When another run has it: the task must not be done.
    pub fn hold(&mut self) -> Result<Option<String>> {
        if std::mem::replace(&mut self.asked, true) {
            return Ok(None);
        }
        if !self.apply {
            return Ok(Lock::holder(&self.state).map(|holder| {
                format!("another run is working on this machine, so this may be outdated soon: {holder}")
            }));
        }
        let lock = Lock::take(&self.state, &self.holder(), self.wait).inspect_err(|_| self.asked = false)?;
        let note = lock.left.as_ref().map(|left| format!("an earlier run was cut before its end: {left}"));
        self.lock = Some(lock);
        Ok(note)
    }

    /// Who works on the machine when this run does.
    pub(super) fn holder(&self) -> Holder {
        Holder::this(&self.info.id, &self.info.from, &self.info.what)
    }

    /// Writes down what is about to be done and what is there before.
    ///
    /// # Errors
    /// When it can't be written: the action must not be done then.
    pub fn record(&mut self, host: &dyn Host, task: &str, secret: bool, action: &Action) -> Result<()> {
        if !self.apply {
            return Ok(());
        }
        let number = self.begin()?;
        let folder = self.folder().join("before").join(number.to_string());
        let mut copies = 0;
        let mut keep = |bytes: &[u8]| {
            copies += 1;
            let path = folder.join(copies.to_string());
            write_new(&path, bytes).map_err(|e| trouble(&path, &e))?;
            Ok(format!("{number}/{copies}"))
        };
        let found = touched(host, &action.op, &mut keep)?;
        if copies > 0 {
            sync_folder(&folder);
            sync_folder(&self.folder().join("before"));
        }
        let (op, mut subject, mut argv, mut undo) = describe(&action.op);
        if secret && matches!(action.op, Op::Run(_)) {
            (subject, argv, undo) = ("a command that is not logged".to_string(), None, None);
        }
        let deed = Deed {
            action: number,
            task: task.into(),
            op: op.into(),
            subject,
            touched: found.clone(),
            will: will(host, &action.op),
            argv,
            undo,
            quiet: action.diffs.is_empty(),
            secret,
            reboot: matches!(&action.op, Op::Run(run) if run.effects.contains(&Effect::Reboot)),
            undoes: self.origins.pop_front().flatten(),
            after: None,
        };
        self.current = (number, found);
        self.write(&Line::Begin(Box::new(deed)))
    }

    /// Writes down that it has been done, and what has become of what it touched.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn done(&mut self, host: &dyn Host) -> Result<()> {
        if !self.apply {
            return Ok(());
        }
        let (action, touched) = std::mem::take(&mut self.current);
        // What can't be read right after a command (a network that comes up) will show itself as changed since.
        let after = touched.iter().map(|one| look(host, &one.subject).unwrap_or(State::Other)).collect();
        self.write(&Line::Done { action, after })
    }

    /// A task of this run failed.
    pub fn failed(&mut self) {
        self.failed = true;
    }

    /// The controller says that the run is over. What ends without that was cut.
    pub fn end(&mut self) {
        if self.file.is_some() {
            self.info.end = Some(now());
            self.info.ended = Some(if self.failed { history::Ended::Failed } else { history::Ended::Whole });
            // A run whose end can't be written counts as cut, which it may well have been.
            let _ = self.write_info();
        }
        self.lock = None;
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.state.join("runs").join(&self.info.id)
    }

    /// Claims the next number: several agents may write down the same run, and one may go on where another was lost.
    fn begin(&mut self) -> Result<usize> {
        self.open()?;
        let before = self.folder().join("before");
        let mut number = self.current.0.max(last_number(&before)) + 1;
        loop {
            match fs::DirBuilder::new().mode(0o700).create(before.join(number.to_string())) {
                Ok(()) => return Ok(number),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(trouble(&before, &error)),
            }
        }
    }

    fn write(&mut self, line: &Line) -> Result<()> {
        let mut text =
            serde_json::to_string(line).map_err(|e| Error::failed(format!("can't write the journal: {e}")))?;
        text.push('\n');
        let path = self.folder().join("journal.jsonl");
        self.open()?;
        let Some(file) = &mut self.file else { return Err(Error::failed("the journal is not open")) };
        file.write_all(text.as_bytes()).and_then(|()| file.sync_data()).map_err(|e| trouble(&path, &e))
    }

    /// Makes the run's folder, or goes on in it.
    pub(super) fn open(&mut self) -> Result<()> {
        if self.file.is_some() || !self.apply {
            return Ok(());
        }
        let folder = self.folder();
        let before = folder.join("before");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&before).map_err(|e| trouble(&before, &e))?;
        if let Some(known) = history::read_info(&folder) {
            self.info.start = known.start;
            self.failed |= known.ended == Some(history::Ended::Failed);
        }
        let path = folder.join("journal.jsonl");
        let file =
            OpenOptions::new().append(true).create(true).mode(0o600).open(&path).map_err(|e| trouble(&path, &e))?;
        // A line that was cut in the middle must not swallow the next one.
        let cut = fs::read(&path).is_ok_and(|text| text.last().is_some_and(|byte| *byte != b'\n'));
        if cut {
            (&file).write_all(b"\n").map_err(|e| trouble(&path, &e))?;
        }
        self.file = Some(file);
        self.write_info()?;
        sync_folder(&folder);
        sync_folder(&self.state.join("runs"));
        history::prune(&self.state, &self.info.id);
        Ok(())
    }

    fn write_info(&self) -> Result<()> {
        let path = self.folder().join("run.json");
        let fresh = self.folder().join(format!(".run.json.{}", std::process::id()));
        let text = serde_json::to_string_pretty(&self.info)
            .map_err(|e| Error::failed(format!("can't write the journal: {e}")))?;
        let _ = fs::remove_file(&fresh);
        write_new(&fresh, format!("{text}\n").as_bytes()).map_err(|e| trouble(&path, &e))?;
        fs::rename(&fresh, &path).map_err(|e| trouble(&path, &e))
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes names in a folder survive a power cut; where a file system can't, it does so by itself.
fn sync_folder(path: &Path) {
    let _ = File::open(path).and_then(|folder| folder.sync_all());
}

fn last_number(folder: &Path) -> usize {
    let names = fs::read_dir(folder).into_iter().flatten().flatten();
    names.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).max().unwrap_or(0)
}

fn trouble(path: &Path, error: &std::io::Error) -> Error {
    Error::failed(format!("can't write the journal {}: {error}", path.display()))
        .hint("without a journal nothing is changed: make room or make the folder writable, then run it again")
}

/// Name, what it is done to, and of a command its words and those of its inverse.
fn describe(op: &Op) -> (&'static str, String, Option<Vec<String>>, Option<Vec<String>>) {
    let plain = |name, path: &String| (name, path.clone(), None, None);
    match op {
        Op::WriteFile { path, .. } => plain("write_file", path),
        Op::SetAttributes { path, .. } => plain("set_attributes", path),
        Op::MakeFolder { path, .. } => plain("make_folder", path),
        Op::Link { path, .. } => plain("link", path),
        Op::Remove { path } => plain("remove", path),
        Op::Download { path, .. } => plain("download", path),
        Op::SetXattrs { path, .. } => plain("set_xattrs", path),
        Op::Poke { path, .. } => plain("poke", path),
        Op::Run(run) => {
            // A command that needs more than its words can't be done again from them.
            let whole = run.stdin.is_none() && run.env.is_empty() && run.cwd.is_none();
            ("run", run.argv.join(" "), whole.then(|| run.argv.clone()), run.undo.clone())
        }
        Op::Wait(_) => plain("wait", &String::new()),
    }
}

/// Hash of what a file or link will be, where it is known before.
fn will(host: &dyn Host, op: &Op) -> Option<String> {
    let hash = |bytes: &[u8]| Some(format!("{:x}", Sha256::digest(bytes)));
    match op {
        Op::WriteFile { content: Content::Bytes(bytes), .. } => hash(bytes),
        Op::WriteFile { content: Content::CopyOf(source), .. } => host.sha256(source).ok().flatten(),
        Op::Download { sha256, .. } => sha256.clone(),
        Op::Link { target, .. } => hash(target.as_bytes()),
        _ => None,
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A time as people read it: UTC, as on all machines the same.
pub fn time(seconds: u64) -> String {
    let (days, rest) = (seconds / 86400, seconds % 86400);
    // The civil calendar from the number of days, with years that begin in March so that leap days come last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        assert_eq!(time(0), "1970-01-01 00:00:00");
        assert_eq!(time(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(time(1_735_689_599), "2024-12-31 23:59:59");
        assert_eq!(time(1_795_372_080), "2026-11-22 18:28:00");
    }
}
