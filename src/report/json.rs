//! JSON lines: a `run` at the beginning, a `task` for every task that is over and a `recap` at the end.
//! `docs/events.schema.json` is made from these structs; `merge-reports` reads them back.

use std::io::Write;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Counts, Event, Finished, HostRecap, Recap, Reporter, clock};
use crate::agent::protocol::Status;

/// One line of the output of `--output json`.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Line {
    /// The first line, where the run says how it was started.
    Run(RunLine),
    /// A task that is over, once for every item of a loop.
    Task(Box<TaskLine>),
    /// The last line.
    Recap(RecapLine),
}

/// How a run was started.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct RunLine {
    /// When, as RFC 3339 in UTC.
    #[serde(default)]
    pub time: String,
    /// Is it a dry run?
    pub plan: bool,
    /// The program's version.
    #[serde(default)]
    pub version: String,
    /// Which part of the inventory it has (`--shard`).
    #[serde(default)]
    pub shard: Option<ShardLine>,
}

/// A part of an inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub struct ShardLine {
    /// Which, from 1.
    pub index: usize,
    /// Of how many.
    pub of: usize,
}

/// A task that is over.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct TaskLine {
    /// When it was over, as RFC 3339 in UTC.
    #[serde(default)]
    pub time: String,
    /// The machine's name in the inventory.
    pub host: String,
    /// The play's name.
    pub play: String,
    /// The role it stands in, if any.
    pub role: Option<String>,
    /// Its name, or its module's.
    pub task: String,
    /// Its module's name.
    pub module: String,
    /// The loop's item, as `loop_control.label` says; null outside loops.
    pub item: Option<String>,
    /// How it ended.
    pub status: StatusWord,
    /// It failed, and the play went on all the same.
    #[serde(default)]
    pub ignored: bool,
    /// What was changed, or would be, in order.
    pub diffs: Vec<DiffLine>,
    /// What `register` sees; for a failed task `msg` says why.
    pub result: Value,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// How a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[allow(missing_docs, reason = "the words are documented in docs/output.md")]
pub enum StatusWord {
    Ok,
    Changed,
    WouldChange,
    Failed,
    Skipped,
    Unreachable,
    Unknown,
}

/// One diff.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub struct DiffLine {
    /// What sort of thing: `file`, `package`, `domain`, …
    pub kind: String,
    /// Which one: a path or a name.
    pub path: String,
    /// As it is; null when there is nothing yet.
    pub before: Option<String>,
    /// As it will be; null when it goes away.
    pub after: Option<String>,
    /// A unified diff, or `before → after` for one-line things.
    pub unified: String,
}

/// The sum of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct RecapLine {
    /// When the run was over, as RFC 3339 in UTC.
    #[serde(default)]
    pub time: String,
    /// Was it a dry run?
    #[serde(default)]
    pub plan: bool,
    /// Counts by host.
    pub hosts: IndexMap<String, CountsLine>,
    /// Hosts that the run was meant for and that it never came to.
    #[serde(default)]
    pub never_begun: Vec<String>,
}

/// A host's counts.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[allow(missing_docs, reason = "Ansible's words")]
pub struct CountsLine {
    pub ok: usize,
    pub changed: usize,
    pub failed: usize,
    pub skipped: usize,
    pub unreachable: usize,
    pub rescued: usize,
    pub ignored: usize,
    /// Things (files, packages, units …) that came, or would.
    #[serde(default)]
    pub things_added: usize,
    /// Things that became different, or would.
    #[serde(default)]
    pub things_changed: usize,
    /// Things that went, or would.
    #[serde(default)]
    pub things_removed: usize,
    /// Tasks whose outcome only an apply knows.
    #[serde(default)]
    pub unknown: usize,
    /// Why the machine must boot again.
    #[serde(default)]
    pub reboot: Vec<String>,
}

impl From<&HostRecap> for CountsLine {
    fn from(host: &HostRecap) -> CountsLine {
        let Counts { ok, changed, failed, skipped, unreachable, rescued, ignored } = host.counts;
        CountsLine {
            ok,
            changed,
            failed,
            skipped,
            unreachable,
            rescued,
            ignored,
            things_added: host.added,
            things_changed: host.modified,
            things_removed: host.removed,
            unknown: host.unknown,
            reboot: host.reboot.clone(),
        }
    }
}

impl From<&CountsLine> for HostRecap {
    fn from(line: &CountsLine) -> HostRecap {
        let CountsLine { ok, changed, failed, skipped, unreachable, rescued, ignored, .. } = *line;
        HostRecap {
            counts: Counts { ok, changed, failed, skipped, unreachable, rescued, ignored },
            added: line.things_added,
            modified: line.things_changed,
            removed: line.things_removed,
            unknown: line.unknown,
            reboot: line.reboot.clone(),
        }
    }
}

impl From<&Recap> for RecapLine {
    fn from(recap: &Recap) -> RecapLine {
        RecapLine {
            time: clock::now(),
            plan: recap.plan,
            hosts: recap.hosts.iter().map(|(host, recap)| (host.clone(), recap.into())).collect(),
            never_begun: recap.never_begun.clone(),
        }
    }
}

impl From<&RecapLine> for Recap {
    fn from(line: &RecapLine) -> Recap {
        Recap {
            plan: line.plan,
            hosts: line.hosts.iter().map(|(host, counts)| (host.clone(), counts.into())).collect(),
            never_begun: line.never_begun.clone(),
        }
    }
}

/// Writes JSON lines.
pub struct Json<W> {
    out: W,
}

impl<W: Write + Send> Json<W> {
    /// A reporter that writes here.
    pub fn new(out: W) -> Json<W> {
        Json { out }
    }

    /// Writes one line.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn line(&mut self, line: &Line) -> std::io::Result<()> {
        let mut text = serde_json::to_vec(line)?;
        text.push(b'\n');
        self.out.write_all(&text)?;
        self.out.flush()
    }

    /// Gives the stream back.
    pub fn into_inner(self) -> W {
        self.out
    }
}

/// The line of an event that has one.
pub fn line_of(event: &Event) -> Option<Line> {
    match event {
        Event::Run { plan, shard } => Some(Line::Run(RunLine {
            time: clock::now(),
            plan: *plan,
            version: env!("CARGO_PKG_VERSION").into(),
            shard: shard.map(|(index, of)| ShardLine { index, of }),
        })),
        Event::Finished(finished) => Some(Line::Task(Box::new(task_line(finished)))),
        _ => None,
    }
}

impl<W: Write + Send> Reporter for Json<W> {
    fn event(&mut self, event: &Event) {
        if let Event::Warning(text) = event {
            eprintln!("warning: {text}");
        }
        if let Some(line) = line_of(event) {
            // A reader that went away must not stop changes half-way; the exit code still tells.
            let _ = self.line(&line);
        }
    }

    fn recap(&mut self, recap: &Recap) {
        let _ = self.line(&Line::Recap(recap.into()));
    }
}

fn task_line(finished: &Finished) -> TaskLine {
    let id = &finished.id;
    let mut result = finished.result.clone();
    if let Value::Object(map) = &mut result {
        // Facts are long and are not what the task did.
        map.remove("ansible_facts");
        if let Some(error) = &finished.error {
            map.insert("msg".into(), error.clone().into());
        }
        for (key, list) in [("warnings", &finished.warnings), ("notes", &finished.notes)] {
            if !list.is_empty() {
                map.insert(key.into(), list.clone().into());
            }
        }
    }
    TaskLine {
        time: clock::now(),
        host: id.host.clone(),
        play: id.play.clone(),
        role: id.role.clone(),
        task: id.task.clone(),
        module: id.module.clone(),
        item: id.item.clone(),
        status: match finished.status {
            Status::Ok => StatusWord::Ok,
            Status::Changed => StatusWord::Changed,
            Status::WouldChange => StatusWord::WouldChange,
            Status::Failed => StatusWord::Failed,
            Status::Skipped => StatusWord::Skipped,
            Status::Unreachable => StatusWord::Unreachable,
            Status::Unknown => StatusWord::Unknown,
        },
        ignored: finished.ignored,
        diffs: finished
            .diffs
            .iter()
            .map(|diff| DiffLine {
                kind: diff.kind.clone(),
                path: diff.path.clone(),
                before: diff.before.clone(),
                after: diff.after.clone(),
                unified: diff.unified(),
            })
            .collect(),
        result,
        duration_ms: u64::try_from(finished.duration.as_millis()).unwrap_or(u64::MAX),
    }
}

/// The JSON Schema of one line, as `docs/events.schema.json` has it.
pub fn schema() -> schemars::Schema {
    schemars::schema_for!(Line)
}
