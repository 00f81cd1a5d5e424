//! JSON lines: one event a line, a `task` for every task that is over and a `recap` at the end. `docs/events.schema.json`
//! is made from these structs.

use std::io::Write;

use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;

use super::{Event, Finished, Recap, Reporter};

/// One line of the output of `--output json`.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Line {
    /// A task that is over, once for every item of a loop.
    Task(TaskLine),
    /// The last line.
    Recap {
        /// Counts by host.
        hosts: indexmap::IndexMap<String, CountsLine>,
    },
}

/// A task that is over.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TaskLine {
    /// The machine's name in the inventory.
    host: String,
    /// The play's name.
    play: String,
    /// The role it stands in, if any.
    role: Option<String>,
    /// Its name, or its module's.
    task: String,
    /// Its module's name.
    module: String,
    /// The loop's item, as `loop_control.label` says; null outside loops.
    item: Option<String>,
    /// How it ended.
    status: StatusWord,
    /// What was changed, or would be, in order.
    diffs: Vec<DiffLine>,
    /// What `register` sees; for a failed task `msg` says why.
    result: Value,
    /// How long it took, in milliseconds.
    duration_ms: u64,
}

/// How a task ended.
#[derive(Debug, Serialize, JsonSchema)]
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
#[derive(Debug, Serialize, JsonSchema)]
pub struct DiffLine {
    /// What sort of thing: `file`, `package`, `domain`, …
    kind: String,
    /// Which one: a path or a name.
    path: String,
    /// As it is; null when there is nothing yet.
    before: Option<String>,
    /// As it will be; null when it goes away.
    after: Option<String>,
    /// A unified diff, or `before → after` for one-line things.
    unified: String,
}

/// A host's counts.
#[derive(Debug, Serialize, JsonSchema)]
#[allow(missing_docs, reason = "Ansible's words")]
pub struct CountsLine {
    ok: usize,
    changed: usize,
    failed: usize,
    skipped: usize,
    unreachable: usize,
    rescued: usize,
    ignored: usize,
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

    fn line(&mut self, line: &Line) {
        // A reader that went away must not stop changes half-way; the exit code still tells.
        let _ = serde_json::to_writer(&mut self.out, line).map_err(std::io::Error::from).and_then(|()| {
            self.out.write_all(b"\n")?;
            self.out.flush()
        });
    }
}

impl<W: Write + Send> Reporter for Json<W> {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Finished(finished) => self.line(&Line::Task(task_line(finished))),
            Event::Warning(text) => eprintln!("warning: {text}"),
            _ => {}
        }
    }

    fn recap(&mut self, recap: &Recap) {
        let hosts = recap
            .hosts
            .iter()
            .map(|(host, recap)| {
                let c = &recap.counts;
                let line = CountsLine {
                    ok: c.ok,
                    changed: c.changed,
                    failed: c.failed,
                    skipped: c.skipped,
                    unreachable: c.unreachable,
                    rescued: c.rescued,
                    ignored: c.ignored,
                };
                (host.clone(), line)
            })
            .collect();
        self.line(&Line::Recap { hosts });
    }
}

fn task_line(finished: &Finished) -> TaskLine {
    use crate::agent::protocol::Status;
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
