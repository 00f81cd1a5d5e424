//! The runs of a machine: listing them, and taking them back.
//!
//! Both are asked for like tasks, under names that no playbook can use, so that they come through every connection and
//! as every user that tasks come through; a rollback is planned, shown, journalled, done and checked like a task.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::journal::{Journal, Line, time};
use super::lock::Lock;
use crate::change::Plan;
use crate::change::undo::{self, Chosen, Deed, Origin, Scene};
use crate::host::{Error, Host, Result};

/// Lists the runs.
pub const RUNS: &str = "vfio-provision:runs";
/// Takes runs back.
pub const ROLLBACK: &str = "vfio-provision:rollback";

/// As many runs are kept.
const KEPT_RUNS: usize = 50;

/// Which runs are to be taken back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rollback {
    /// This one; the last one where `None`.
    pub run: Option<String>,
    /// And everything after it.
    pub through: bool,
    /// Also what was changed by somebody else since.
    pub force: bool,
    /// Packages too.
    pub packages: bool,
}

/// How a run came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// All went well.
    Whole,
    /// A task failed.
    Failed,
}

/// `run.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunInfo {
    /// The run's name.
    pub id: String,
    /// The program's version.
    pub version: String,
    /// Who asked, and from where: `user@machine`.
    pub from: String,
    /// The playbooks; of a rollback, what it took back.
    pub what: String,
    /// The runs that it took back, where it is a rollback.
    pub takes_back: Vec<String>,
    /// Seconds since 1970.
    pub start: u64,
    /// Likewise; `None`: it did not come to its end, or not yet.
    pub end: Option<u64>,
    /// How it ended.
    pub ended: Option<Ended>,
}

/// What has become of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Whole,
    Failed,
    Cut,
    GoingOn,
    TakenBack { by: String },
}

struct Record {
    info: RunInfo,
    deeds: Vec<Deed>,
    fate: Fate,
}

impl Record {
    fn id(&self) -> &str {
        &self.info.id
    }
    fn is_rollback(&self) -> bool {
        !self.info.takes_back.is_empty()
    }
    fn is_taken_back(&self) -> bool {
        matches!(self.fate, Fate::TakenBack { .. })
    }
    /// A rollback that was begun and not finished.
    fn is_half_a_rollback(&self) -> bool {
        self.is_rollback() && matches!(self.fate, Fate::Failed | Fate::Cut | Fate::GoingOn)
    }
    /// Does the machine still show what it did?
    fn counts(&self) -> bool {
        !self.is_taken_back() && (!self.is_rollback() || self.is_half_a_rollback())
    }
    fn chosen(&self) -> Chosen {
        Chosen { run: self.info.id.clone(), deeds: self.deeds.clone() }
    }
}

pub(super) fn read_info(folder: &Path) -> Option<RunInfo> {
    serde_json::from_slice(&fs::read(folder.join("run.json")).ok()?).ok()
}

fn read_deeds(folder: &Path) -> Vec<Deed> {
    let text = fs::read(folder.join("journal.jsonl")).unwrap_or_default();
    let mut deeds: Vec<Deed> = Vec::new();
    // A run that was killed may have left half a line; nothing was done on its word.
    for line in String::from_utf8_lossy(&text).lines() {
        match serde_json::from_str::<Line>(line) {
            Ok(Line::Begin(deed)) => deeds.push(*deed),
            Ok(Line::Done { action, after }) => {
                if let Some(deed) = deeds.iter_mut().rfind(|deed| deed.action == action) {
                    deed.after = Some(after);
                }
            }
            Err(_) => {}
        }
    }
    deeds
}

/// All runs, the oldest first.
fn records(state: &Path) -> Vec<Record> {
    let entries = fs::read_dir(state.join("runs")).into_iter().flatten().flatten();
    let mut all: Vec<Record> = entries
        .filter_map(|entry| {
            let mut info = read_info(&entry.path())?;
            // The folder's name is what people and other runs call it.
            info.id = entry.file_name().into_string().ok()?;
            Some(Record { info, deeds: read_deeds(&entry.path()), fate: Fate::Cut })
        })
        .collect();
    all.sort_by(|a, b| (a.info.start, &a.info.id).cmp(&(b.info.start, &b.info.id)));
    let working = Lock::holder(state).map(|holder| holder.run);
    let mut taken_back: Vec<(String, String)> = Vec::new();
    // A rollback that was itself taken back counts no more, so the newest come first.
    for record in all.iter_mut().rev() {
        let by = taken_back.iter().find(|(run, _)| *run == record.info.id).map(|(_, by)| by.clone());
        record.fate = match (by, record.info.ended) {
            (Some(by), _) => Fate::TakenBack { by },
            (None, _) if working.as_ref() == Some(&record.info.id) => Fate::GoingOn,
            (None, Some(Ended::Whole)) => Fate::Whole,
            (None, Some(Ended::Failed)) => Fate::Failed,
            (None, None) => Fate::Cut,
        };
        if record.fate == Fate::Whole {
            taken_back.extend(record.info.takes_back.iter().map(|run| (run.clone(), record.info.id.clone())));
        }
    }
    all
}

/// Removes the oldest runs beyond what is kept; what a rollback may still need stays.
pub(super) fn prune(state: &Path, own: &str) {
    let all = records(state);
    let many = all.len().saturating_sub(KEPT_RUNS);
    if many == 0 {
        return;
    }
    let mut needed: BTreeSet<&str> = BTreeSet::from([own]);
    needed.extend(all.iter().rfind(|record| record.counts() && !record.is_rollback()).map(Record::id));
    for half in all.iter().filter(|record| record.is_half_a_rollback() || record.id() == own) {
        needed.insert(half.id());
        needed.extend(half.info.takes_back.iter().map(String::as_str));
    }
    for old in all.iter().take(many).filter(|old| !needed.contains(old.id())) {
        // That some can't be removed stops nobody.
        let _ = fs::remove_dir_all(state.join("runs").join(old.id()));
    }
}

impl Journal {
    /// Is this asked of the records rather than of a module?
    pub fn is_asked(module: &str) -> bool {
        matches!(module, RUNS | ROLLBACK)
    }

    /// The plan for one of the questions of this file.
    ///
    /// # Errors
    /// When the runs can't be taken back: nothing is changed then.
    pub fn ask(&mut self, module: &str, parameters: &Value, host: &dyn Host) -> Result<Plan> {
        if module == RUNS {
            let mut plan = Plan::nothing();
            plan.set("runs", records(&self.state).iter().map(listed).collect::<Vec<_>>());
            return Ok(plan);
        }
        let wish: Rollback = serde_json::from_value(parameters.clone())
            .map_err(|e| Error::parameters(format!("this is no rollback that this program knows: {e}")))?;
        self.rollback(&wish, host)
    }

    fn rollback(&mut self, wish: &Rollback, host: &dyn Host) -> Result<Plan> {
        let all = records(&self.state);
        // While this very rollback goes on, what it has begun is half done as well.
        let half = all.iter().rfind(|record| record.is_half_a_rollback());
        let mut goes_on = None;
        let chosen: Vec<&Record> = match (half, &wish.run) {
            (Some(half), Some(run)) if run == half.id() && self.info.id != half.id() => vec![half],
            (Some(half), wanted) => {
                let same = wanted.as_ref().is_none_or(|run| half.info.takes_back.contains(run) || run == half.id());
                if !same {
                    return Err(Error::refused(format!("the rollback {} was cut before its end", half.id())).hint(
                        format!(
                            "finish it first (`rollback` without `--run`), or take back what it did with `--run {}`",
                            half.id()
                        ),
                    ));
                }
                goes_on = Some(half);
                let mut found = Vec::new();
                for run in &half.info.takes_back {
                    found.push(all.iter().find(|record| record.id() == run).ok_or_else(|| gone(run, &all))?);
                }
                found
            }
            (None, None) => all.iter().rfind(|record| record.counts()).into_iter().collect(),
            (None, Some(run)) => {
                let at = all.iter().position(|record| record.id() == run).ok_or_else(|| gone(run, &all))?;
                let first = all.get(at).ok_or_else(|| gone(run, &all))?;
                if let Fate::TakenBack { by } = &first.fate {
                    return Err(Error::refused(format!("the run {run} was taken back already, by {by}"))
                        .hint(format!("`--run {by}` takes that back")));
                }
                let later = all.iter().skip(at + 1).filter(|record| wish.through && record.counts());
                std::iter::once(first).chain(later).collect()
            }
        };
        let Some(first) = chosen.first() else {
            let mut plan = Plan::nothing();
            plan.notes.push("there is no run on this machine to take back".into());
            return Ok(plan);
        };
        let ids: Vec<String> = chosen.iter().map(|record| record.info.id.clone()).collect();
        let from = all.iter().position(|record| record.id() == first.id()).unwrap_or(0);
        let later = all
            .iter()
            .skip(from + 1)
            .filter(|record| record.counts() && !ids.contains(&record.info.id))
            .filter(|record| goes_on.is_none_or(|half| half.id() != record.id()));
        let done: BTreeSet<Origin> = goes_on
            .iter()
            .flat_map(|half| &half.deeds)
            .filter(|deed| deed.after.is_some())
            .filter_map(|deed| deed.undoes.clone())
            .collect();
        let runs = self.state.join("runs");
        let copy = |run: &str, name: &str| {
            let path = runs.join(run).join("before").join(name);
            fs::read(&path).map_err(|e| {
                Error::failed(format!("can't read what was there before, {}: {e}", path.display()))
                    .hint("without it that file can't be put back; nothing was changed")
            })
        };
        let scene = Scene {
            chosen: chosen.iter().map(|record| record.chosen()).collect(),
            later: later.map(Record::chosen).collect(),
            done,
            begun: goes_on.is_some(),
            force: wish.force,
            packages: wish.packages,
            copy: &copy,
        };
        let undoing = undo::plan(host, &scene)?;
        let mut plan = undoing.plan;
        plan.set("runs", ids.clone());
        for record in &chosen {
            plan.notes.push(format!(
                "takes back {} ({}, {}, {})",
                record.info.id,
                time(record.info.start),
                record.info.from,
                record.info.what
            ));
        }
        if let Some(half) = goes_on {
            if self.info.id != half.info.id {
                plan.notes.push(format!("goes on with the rollback {}, which was cut", half.id()));
            }
            self.info.id = half.info.id.clone();
        }
        self.info.what = format!("rollback of {}", ids.join(", "));
        self.info.takes_back = ids;
        self.origins = undoing.origins.into();
        // Also where nothing is left to do: the runs count as taken back from now on.
        self.open()?;
        Ok(plan)
    }
}

fn gone(run: &str, all: &[Record]) -> Error {
    let error = Error::parameters(format!("there is no run {run} on this machine"));
    match all.last() {
        Some(last) => error.hint(format!("the last one is {}; `vfio-provision runs` lists them", last.id())),
        None => error.hint("nothing was ever applied there, as this user"),
    }
}

fn listed(record: &Record) -> Value {
    let (ended, by) = match &record.fate {
        Fate::Whole => ("whole", None),
        Fate::Failed => ("failed", None),
        Fate::Cut => ("cut", None),
        Fate::GoingOn => ("going on", None),
        Fate::TakenBack { by } => ("rolled back", Some(by)),
    };
    json!({
        "id": record.info.id,
        "start": record.info.start,
        "end": record.info.end,
        "from": record.info.from,
        "what": record.info.what,
        "version": record.info.version,
        "actions": record.deeds.iter().filter(|deed| deed.after.is_some()).count(),
        "ended": ended,
        "rolled_back_by": by,
        "takes_back": record.info.takes_back,
    })
}
