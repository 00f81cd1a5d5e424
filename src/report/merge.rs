//! Reports of the shards of one run, joined to what the run as a whole would have said.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use indexmap::IndexMap;

use super::files::{self, LINES, PARTIAL};
use super::json::{CountsLine, Line, RecapLine, RunLine, StatusWord, TaskLine};
use super::recap::Troubles;
use super::{Recap, junit, ranges};
use crate::change::Diff;
use crate::change::diff::Sort;
use crate::diag::Diagnostic;

/// Reports that belong together.
#[derive(Debug, Default)]
pub struct Merged {
    files: Vec<PathBuf>,
    run: Option<RunLine>,
    time: String,
    /// Counts and all, over all hosts.
    pub recap: Recap,
    /// What went wrong, by host.
    pub troubles: Troubles,
    /// What makes this less than the whole: runs that were killed, shards that are not there.
    pub missing: Vec<String>,
}

/// The reports that are meant: files, folders of `--report`, and folders of such folders or files.
///
/// # Errors
/// When there is none.
pub fn find(given: &[PathBuf]) -> Result<Vec<PathBuf>, Diagnostic> {
    let mut found = Vec::new();
    for path in given {
        let wrong = |error: io::Error| Diagnostic::error(format!("can't read {}: {error}", path.display()));
        if !fs::metadata(path).map_err(wrong)?.is_dir() {
            found.push(path.clone());
            continue;
        }
        if let Some(report) = report_in(path) {
            found.push(report);
            continue;
        }
        let mut entries: Vec<PathBuf> = fs::read_dir(path)
            .map_err(wrong)?
            .map(|entry| entry.map(|e| e.path()))
            .collect::<Result<_, _>>()
            .map_err(wrong)?;
        entries.sort();
        let before = found.len();
        for entry in entries {
            if entry.is_dir() {
                found.extend(report_in(&entry));
            } else if entry.extension().is_some_and(|extension| extension == "jsonl") {
                found.push(entry);
            }
        }
        if found.len() == before {
            let error = format!("there is no report in {}", path.display());
            return Err(Diagnostic::error(error)
                .help(format!("looked for {LINES} in it and in its folders, and for files *.jsonl")));
        }
    }
    Ok(found)
}

fn report_in(folder: &Path) -> Option<PathBuf> {
    [LINES, PARTIAL].iter().map(|name| folder.join(name)).find(|path| path.is_file())
}

impl Merged {
    /// Reads reports.
    ///
    /// # Errors
    /// When one can't be read, or two tell of the same host.
    pub fn read(reports: Vec<PathBuf>) -> Result<Merged, Vec<Diagnostic>> {
        let mut merged = Merged { files: reports, ..Merged::default() };
        let mut errors = Vec::new();
        let mut owners: HashMap<String, PathBuf> = HashMap::new();
        let mut shards = Vec::new();
        for file in merged.files.clone() {
            let one = match One::read(&file) {
                Ok(one) => one,
                Err(error) => {
                    errors.push(error);
                    continue;
                }
            };
            if let Some(shard) = one.run.as_ref().and_then(|run| run.shard) {
                shards.push(shard);
            }
            if !one.whole {
                let file = file.display();
                merged.missing.push(format!("the run of {file} did not end: it tells only what was done until then"));
            }
            let never = one.recap.never_begun.iter().filter(|name| !one.recap.hosts.contains_key(*name));
            let mut twice: IndexMap<PathBuf, Vec<&str>> = IndexMap::new();
            for name in one.recap.hosts.keys().chain(never) {
                if let Some(other) = owners.insert(name.clone(), file.clone()) {
                    twice.entry(other).or_default().push(name);
                }
            }
            for (other, hosts) in twice {
                let are = if hosts.len() == 1 { "is" } else { "are" };
                let hosts = ranges::complete(hosts);
                let error = format!("{hosts} {are} in two reports: {} and {}", other.display(), file.display());
                errors.push(Diagnostic::error(error).help("shards of one inventory have no host in common"));
            }
            merged.take(one);
        }
        merged.check_shards(shards);
        if errors.is_empty() { Ok(merged) } else { Err(errors) }
    }

    fn take(&mut self, one: One) {
        let recap: Recap = (&one.recap).into();
        self.recap.plan |= recap.plan;
        self.recap.hosts.extend(recap.hosts);
        self.recap.never_begun.extend(recap.never_begun);
        for (host, (task, error)) in one.troubles {
            self.troubles.add(&host, task, &error);
        }
        self.time = std::mem::take(&mut self.time).max(one.recap.time);
        if let Some(run) = one.run {
            match &mut self.run {
                Some(first) if first.time <= run.time => {}
                first => *first = Some(run),
            }
        }
    }

    fn check_shards(&mut self, mut shards: Vec<super::json::ShardLine>) {
        shards.sort_unstable();
        let Some(of) = shards.iter().map(|shard| shard.of).max() else { return };
        if shards.iter().any(|shard| shard.of != of) {
            self.missing.push("the reports are of runs with different numbers of shards".into());
        }
        for index in (1..=of).filter(|index| !shards.iter().any(|shard| shard.index == *index)) {
            self.missing.push(format!("the report of shard {index}/{of} is missing"));
        }
    }

    /// Writes all as one report.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write(&self, to: &Path) -> io::Result<()> {
        files::replace(to, |out| {
            let mut line = |line: &Line| -> io::Result<()> {
                serde_json::to_writer(&mut *out, line)?;
                out.write_all(b"\n")
            };
            if let Some(run) = &self.run {
                line(&Line::Run(RunLine { shard: None, ..run.clone() }))?;
            }
            for file in &self.files {
                lines(file, |read| if matches!(read, Line::Task(_)) { line(&read) } else { Ok(()) })?;
            }
            line(&Line::Recap(RecapLine { time: self.time.clone(), ..(&self.recap).into() }))
        })
    }

    /// Writes all as one JUnit file.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn write_junit(&self, to: &Path) -> io::Result<()> {
        let files: Vec<&Path> = self.files.iter().map(PathBuf::as_path).collect();
        junit::write(&files, to)
    }
}

/// One report.
#[derive(Default)]
struct One {
    run: Option<RunLine>,
    recap: RecapLine,
    whole: bool,
    troubles: HashMap<String, (String, String)>,
}

impl One {
    fn read(file: &Path) -> Result<One, Diagnostic> {
        let mut one = One::default();
        // What a run without a recap did can still be counted.
        let mut counted = RecapLine::default();
        let read = lines(file, |line| {
            match line {
                Line::Run(run) => one.run = Some(run),
                Line::Recap(recap) => {
                    one.recap = recap;
                    one.whole = true;
                }
                Line::Task(task) => {
                    one.whole = false;
                    count(&mut counted, &task);
                    if matches!(task.status, StatusWord::Failed | StatusWord::Unreachable) && !task.ignored {
                        let error = task.result["msg"].as_str().unwrap_or("").to_string();
                        one.troubles.insert(task.host.clone(), (junit::title(&task), error));
                    }
                }
            }
            Ok(())
        });
        read.map_err(|error| Diagnostic::error(format!("can't read the report {}: {error}", file.display())))?;
        if !one.whole {
            counted.plan = one.run.as_ref().is_some_and(|run| run.plan);
            one.recap = counted;
        }
        Ok(one)
    }
}

fn count(recap: &mut RecapLine, task: &TaskLine) {
    let counts: &mut CountsLine = recap.hosts.entry(task.host.clone()).or_default();
    match task.status {
        StatusWord::Ok => counts.ok += 1,
        StatusWord::Changed | StatusWord::WouldChange => {
            counts.ok += 1;
            counts.changed += 1;
        }
        StatusWord::Failed if task.ignored => counts.ignored += 1,
        StatusWord::Failed => counts.failed += 1,
        StatusWord::Skipped => counts.skipped += 1,
        StatusWord::Unreachable => counts.unreachable = 1,
        StatusWord::Unknown => counts.unknown += 1,
    }
    for diff in &task.diffs {
        let (before, after) = (diff.before.clone(), diff.after.clone());
        match (Diff { kind: String::new(), path: String::new(), before, after }).sort() {
            Sort::Added => counts.things_added += 1,
            Sort::Changed => counts.things_changed += 1,
            Sort::Removed => counts.things_removed += 1,
        }
    }
}

/// All lines of a report. The last one may be cut, where a run was killed; lines of a newer version are passed over.
fn lines(file: &Path, mut each: impl FnMut(Line) -> io::Result<()>) -> io::Result<()> {
    let mut reader = BufReader::new(File::open(file)?);
    let mut text = Vec::new();
    let mut number = 0;
    loop {
        text.clear();
        if reader.read_until(b'\n', &mut text)? == 0 {
            return Ok(());
        }
        number += 1;
        match serde_json::from_slice(&text) {
            Ok(line) => each(line)?,
            Err(_) if text.last() != Some(&b'\n') => return Ok(()),
            Err(error) => {
                let value: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
                let known = ["run", "task", "recap"];
                if value["event"].as_str().is_none_or(|event| known.contains(&event)) {
                    return Err(io::Error::other(format!("line {number} is none of a report: {error}")));
                }
            }
        }
    }
}
