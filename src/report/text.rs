//! Text that people like to read: a heading per play, a line per task, diffs before they are made, the sum at the end.

use std::io::Write;
use std::time::{Duration, Instant};

use anstyle::{AnsiColor, Style};
use sha2::Digest;

use super::fold::{Block, Fold, Group, Hash};
use super::recap::{self, Troubles};
use super::{Event, Finished, Recap, Reporter, TaskId, ranges};
use crate::agent::protocol::Status;
use crate::change::Diff;
use crate::change::diff::Sort;

/// What is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Diffs at all?
    pub diff: bool,
    /// 0: what matters; 1: skipped tasks and notes of unchanged ones too; 2: results; 3: facts.
    pub verbose: u8,
}

/// Writes text. Colour is decided by the stream: `out` is told styles and strips them where nobody sees them.
pub struct Text<W> {
    out: W,
    options: Options,
    /// The task whose heading was printed because its diffs came before its end.
    open: Option<TaskId>,
    /// More than one host is on the way: what they do is gathered by task.
    fold: Option<Fold>,
    troubles: Troubles,
}

pub(super) const BOLD: Style = Style::new().bold();
pub(super) const DIM: Style = Style::new().dimmed();
pub(super) const GREEN: Style = AnsiColor::Green.on_default();
pub(super) const YELLOW: Style = AnsiColor::Yellow.on_default();
pub(super) const RED: Style = AnsiColor::Red.on_default();
pub(super) const CYAN: Style = AnsiColor::Cyan.on_default();

impl Options {
    /// Is such an end worth a line?
    fn says(self, status: Status) -> bool {
        status != Status::Skipped || self.verbose > 0
    }
}

impl<W: Write + Send> Text<W> {
    /// A reporter that writes here.
    pub fn new(out: W, options: Options) -> Text<W> {
        Text { out, options, open: None, fold: None, troubles: Troubles::default() }
    }

    fn print(&mut self, text: &str) {
        // A reader that went away must not stop changes half-way; the exit code still tells.
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }

    /// Hosts begin; what the ones before did is over.
    fn hosts(&mut self, hosts: &[String]) {
        self.flush();
        self.fold = (hosts.len() > 1).then(|| Fold::new(hosts));
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Play { name, hosts } => {
                self.hosts(hosts);
                let on = if hosts.len() > 4 { ranges::hosts(hosts.len()) } else { hosts.join(", ") };
                self.print(&format!("\n{BOLD}PLAY  {name}{BOLD:#}  {DIM}({on}){DIM:#}\n"));
            }
            Event::Batch { number, of, hosts } => {
                self.hosts(hosts);
                let on = ranges::compact(hosts.iter().map(String::as_str));
                self.print(&format!("\n{BOLD}BATCH  {number} of {of}{BOLD:#}  {DIM}{on}{DIM:#}\n"));
            }
            Event::Shown { id, diffs } => {
                if self.open.as_ref() != Some(id) {
                    self.print(&format!("\n  {BOLD}{}{BOLD:#}\n", id.title()));
                    self.open = Some(id.clone());
                }
                if self.options.diff {
                    let text: String = diffs.iter().map(diff_text).collect();
                    self.print(&text);
                }
            }
            Event::Finished(finished) => self.finished(finished),
            Event::Warning(text) => anstream::eprintln!("{YELLOW}warning:{YELLOW:#} {text}"),
            Event::Run { .. }
            | Event::HostBegun { .. }
            | Event::Started { .. }
            | Event::Progress { .. }
            | Event::HostDone { .. } => {}
        }
    }

    fn finished(&mut self, finished: &Finished) {
        let opened = self.open.take_if(|id| *id == finished.id).is_some();
        if !self.options.says(finished.status) {
            return;
        }
        let (style, word) = word(finished.status, finished.ignored);
        let took = took(finished.duration, 1);
        let head = if opened {
            format!("    {style}{word}{style:#}{took}\n")
        } else {
            format!("  {style}{word}{style:#}  {}{took}\n", finished.id.title())
        };
        let text = details(self.options, head, finished);
        self.print(&text);
    }

    /// The same for many hosts.
    fn gather(&mut self, fold: &mut Fold, event: &Event) {
        match event {
            Event::HostBegun { host } => fold.begun(host),
            Event::Started { id } => fold.begun(&id.host),
            Event::Shown { id, diffs } => fold.shown(id, diffs),
            Event::Finished(finished) => {
                let shown = fold.take_shown(&finished.id);
                // Of a host that was lost in the middle of a task no more is known than what it was about to do.
                let whole;
                let finished = if finished.diffs.is_empty() && !shown.is_empty() {
                    whole = Finished { diffs: shown, ..Finished::clone(finished) };
                    &whole
                } else {
                    &**finished
                };
                let bad = matches!(finished.status, Status::Failed | Status::Unreachable) && !finished.ignored;
                let mut at_once = None;
                if let Some((id, group)) = fold.finished(finished, hash(self.options, finished))
                    && bad
                    && group.sample.is_some()
                {
                    at_once = Some((id.clone(), group.taken()));
                }
                if let Some((id, group)) = at_once {
                    self.print_groups(fold, &id, vec![group]);
                }
            }
            Event::HostDone { host } => fold.done(host),
            _ => return,
        }
        while let Some(block) = fold.next_passed() {
            self.print_block(fold, block);
        }
        for block in fold.overdue(Instant::now()) {
            self.print_block(fold, block);
        }
    }

    fn print_block(&mut self, fold: &Fold, block: Block) {
        self.print_groups(fold, &block.id, block.groups);
    }

    fn print_groups(&mut self, fold: &Fold, id: &TaskId, mut groups: Vec<Group>) {
        let options = self.options;
        groups.retain(|group| !group.pending.is_empty() && options.says(group.status));
        let with_diffs =
            |group: &Group| options.diff && group.sample.as_ref().is_some_and(|sample| !sample.diffs.is_empty());
        let first = |group: &Group| group.pending.iter().min().copied();
        groups.sort_by_key(|group| (!with_diffs(group), first(group)));
        let headed = groups.first().is_some_and(with_diffs);
        let title = id.title();
        let mut text = String::new();
        if headed {
            text.push_str(&format!("\n  {BOLD}{title}{BOLD:#}\n"));
        }
        for (n, group) in groups.iter().enumerate() {
            let hosts = ranges::compact(fold.names(&group.pending));
            let (style, word) = word(group.status, group.ignored);
            let took = took(group.longest, group.pending.len());
            match &group.sample {
                Some(sample) if with_diffs(group) => {
                    if n > 0 {
                        text.push('\n');
                    }
                    let same = if group.pending.len() > 1 { ": the same change" } else { "" };
                    text.push_str(&format!("    {DIM}{hosts}{same}{DIM:#}\n"));
                    text.extend(sample.diffs.iter().map(diff_text));
                    text.push_str(&format!("    {style}{word}{style:#}{took}\n"));
                }
                _ => {
                    let what = match group.status {
                        _ if group.sample.is_some() => None,
                        _ if group.diffs => Some("change"),
                        Status::Failed | Status::Unreachable => Some("error"),
                        _ => None,
                    };
                    let on: String = fold.names(&[group.first]).collect();
                    let same = what.map(|what| format!(": the same {what} as on {on}")).unwrap_or_default();
                    let (indent, title) = if headed { ("    ", String::new()) } else { ("  ", format!("  {title}")) };
                    text.push_str(&format!("{indent}{style}{word}{style:#}{title}  {DIM}{hosts}{same}{DIM:#}{took}\n"));
                }
            }
            if let Some(sample) = &group.sample {
                text = details(options, text, sample);
            }
        }
        self.print(&text);
    }

    /// What many hosts did and was not printed yet.
    fn flush(&mut self) {
        if let Some(mut fold) = self.fold.take() {
            while let Some(block) = fold.rest() {
                self.print_block(&fold, block);
            }
        }
    }
}

impl<W: Write + Send> Reporter for Text<W> {
    fn event(&mut self, event: &Event) {
        self.troubles.note(event);
        match self.fold.take() {
            Some(mut fold) if event.host().is_some() => {
                self.gather(&mut fold, event);
                self.fold = Some(fold);
            }
            fold => {
                self.fold = fold;
                self.show(event);
            }
        }
    }

    fn recap(&mut self, recap: &Recap) {
        self.flush();
        let troubles = std::mem::take(&mut self.troubles);
        self.print(&recap::text(recap, &troubles));
    }
}

/// How a task ended, in people's words.
pub(super) fn word(status: Status, ignored: bool) -> (Style, &'static str) {
    match status {
        Status::Ok => (GREEN, "ok"),
        Status::Changed => (YELLOW, "changed"),
        Status::WouldChange => (YELLOW, "would change"),
        Status::Failed if ignored => (YELLOW, "failed, ignored"),
        Status::Failed => (RED, "failed"),
        Status::Skipped => (CYAN, "skipped"),
        Status::Unreachable => (RED, "unreachable"),
        Status::Unknown => (CYAN, "unknown until applied"),
    }
}

/// How long it took, if long.
fn took(duration: Duration, hosts: usize) -> String {
    let up_to = if hosts > 1 { "up to " } else { "" };
    match duration.as_secs_f64() {
        seconds if seconds >= 1.0 => format!(" {DIM}{up_to}{seconds:.1} s{DIM:#}"),
        _ => String::new(),
    }
}

/// A task's line with what is said below it: notes, messages, warnings, errors, results.
pub(super) fn details(options: Options, head: String, finished: &Finished) -> String {
    let verbose = options.verbose;
    let mut text = head;
    let say_notes = verbose > 0 || finished.status != Status::Ok || !finished.diffs.is_empty();
    for note in finished.notes.iter().filter(|_| say_notes) {
        text.push_str(&indent(note, "    "));
    }
    if finished.id.module == "debug" && finished.status == Status::Ok {
        let message = finished.result.get("msg").cloned().unwrap_or_else(|| finished.result.clone());
        let message = match message {
            serde_json::Value::String(text) => text,
            serde_json::Value::Object(map) if map.len() == 1 => {
                map.iter().map(|(name, value)| format!("{name}: {}", pretty(value))).collect()
            }
            other => pretty(&other),
        };
        text.push_str(&indent(&message, "    "));
    }
    // What is as asked was warned of when it was made so.
    let warnings = finished.warnings.len();
    if !say_notes && warnings > 0 {
        let many = if warnings == 1 { "1 warning".into() } else { format!("{warnings} warnings") };
        text = format!("{} {DIM}({many}, -v shows){DIM:#}\n", text.trim_end());
    }
    for warning in finished.warnings.iter().filter(|_| say_notes) {
        text.push_str(&indent(&format!("{YELLOW}warning:{YELLOW:#} {warning}"), "    "));
    }
    if let Some(error) = &finished.error {
        text.push_str(&indent(error, "    "));
    }
    let facts = finished.result.get("ansible_facts").is_some();
    if verbose > 2 || (verbose > 1 && !facts) {
        let mut result = finished.result.clone();
        // A guest's XML, whose diff was said in words.
        if let Some(serde_json::Value::String(diff)) = result.as_object_mut().and_then(|all| all.remove("xml_diff")) {
            text.push_str(&indent(&diff, "    "));
        }
        let result = pretty(&result);
        text.push_str(&indent(&format!("{DIM}{result}{DIM:#}"), "    "));
    }
    text
}

/// Two outcomes with the same hash are shown once. How long they took is no part of it, and neither is a host's own name
/// in an error.
fn hash(options: Options, finished: &Finished) -> Hash {
    let mut hasher = sha2::Sha256::new();
    let mut add = |text: &str| {
        hasher.update(text.len().to_le_bytes());
        hasher.update(text);
    };
    add(finished.status.word());
    add(if finished.ignored { "ignored" } else { "" });
    if options.diff {
        for diff in &finished.diffs {
            add(&diff.kind);
            add(&diff.path);
            for side in [&diff.before, &diff.after] {
                add(if side.is_some() { "+" } else { "-" });
                add(side.as_deref().unwrap_or(""));
            }
        }
    }
    let details = details(options, String::new(), finished);
    match finished.error {
        Some(_) => add(&recap::nameless(&details, &finished.id.host)),
        None => add(&details),
    }
    hasher.finalize().into()
}

fn pretty(value: &serde_json::Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

pub(super) fn indent(text: &str, by: &str) -> String {
    text.lines().map(|line| format!("{by}{line}\n")).collect()
}

/// One diff as people read it.
pub fn diff_text(diff: &Diff) -> String {
    let kind = &diff.kind;
    if !diff.is_text() {
        let before = diff.before.as_deref().unwrap_or("");
        let after = diff.after.as_deref().unwrap_or("");
        return match diff.sort() {
            Sort::Added => format!("    {GREEN}+{GREEN:#} {kind} {}: {GREEN}{after}{GREEN:#}\n", diff.path),
            Sort::Removed => format!("    {RED}-{RED:#} {kind} {}: {RED}{before}{RED:#}\n", diff.path),
            Sort::Changed => {
                format!(
                    "    {YELLOW}~{YELLOW:#} {kind} {}: {RED}{before}{RED:#} → {GREEN}{after}{GREEN:#}\n",
                    diff.path
                )
            }
        };
    }
    let (style, sign) = match diff.sort() {
        Sort::Added => (GREEN, "+"),
        Sort::Removed => (RED, "-"),
        Sort::Changed => (YELLOW, "~"),
    };
    let mut text = format!("    {style}{sign}{style:#} {kind} {}\n", diff.path);
    // The two lines of the header say again what stands above.
    for line in diff.unified().lines().skip(2) {
        let style = match line.as_bytes().first() {
            Some(b'+') => GREEN,
            Some(b'-') => RED,
            Some(b'@') => CYAN,
            _ => Style::new(),
        };
        text.push_str(&format!("      {style}{line}{style:#}\n"));
    }
    text
}
