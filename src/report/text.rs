//! Text that people like to read: a heading per play, a line per task, diffs before they are made, the sum at the end.

use std::collections::VecDeque;
use std::io::Write;

use anstyle::{AnsiColor, Style};

use super::{End, Event, Finished, HostRecap, Recap, Reporter, TaskId};
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
    /// May a line on standard error be drawn over again (a terminal)?
    pub live: bool,
}

/// Writes text. Colour is decided by the stream: `out` is told styles and strips them where nobody sees them.
pub struct Text<W> {
    out: W,
    options: Options,
    /// The task whose heading was printed because its diffs came before its end.
    open: Option<TaskId>,
    /// Hosts run at their own pace; one is shown as it goes, the others wait their turn.
    showing: Option<String>,
    waiting: VecDeque<(String, Vec<Event>, bool)>,
    hosts: usize,
    progress: bool,
}

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GREEN: Style = AnsiColor::Green.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const RED: Style = AnsiColor::Red.on_default();
const CYAN: Style = AnsiColor::Cyan.on_default();

impl<W: Write + Send> Text<W> {
    /// A reporter that writes here.
    pub fn new(out: W, options: Options) -> Text<W> {
        Text { out, options, open: None, showing: None, waiting: VecDeque::new(), hosts: 0, progress: false }
    }

    fn print(&mut self, text: &str) {
        self.clear_progress();
        // A reader that went away must not stop changes half-way; the exit code still tells.
        let _ = self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush());
    }

    fn clear_progress(&mut self) {
        if std::mem::take(&mut self.progress) {
            eprint!("\r\x1b[K");
        }
    }

    fn title(&self, id: &TaskId) -> String {
        let mut title = match &id.role {
            Some(role) => format!("{role} : {}", id.task),
            None => id.task.clone(),
        };
        if let Some(item) = &id.item {
            title.push_str(&format!(" ({item})"));
        }
        title
    }

    /// An event's host, for those that belong to one.
    fn host(event: &Event) -> Option<&str> {
        match event {
            Event::Shown { id, .. } | Event::Progress { id, .. } => Some(&id.host),
            Event::Finished(finished) => Some(&finished.id.host),
            Event::HostDone { host } => Some(host),
            Event::Play { .. } | Event::Warning(_) => None,
        }
    }

    fn show(&mut self, event: &Event) {
        match event {
            Event::Play { name, hosts } => {
                self.hosts = hosts.len();
                let on = if hosts.len() > 4 { format!("{} hosts", hosts.len()) } else { hosts.join(", ") };
                self.print(&format!("\n{BOLD}PLAY  {name}{BOLD:#}  {DIM}({on}){DIM:#}\n"));
            }
            Event::Shown { id, diffs } => {
                if self.open.as_ref() != Some(id) {
                    let title = self.title(id);
                    self.print(&format!("\n  {BOLD}{title}{BOLD:#}\n"));
                    self.open = Some(id.clone());
                }
                if self.options.diff {
                    let text: String = diffs.iter().map(diff_text).collect();
                    self.print(&text);
                }
            }
            Event::Progress { id, text } => {
                if self.options.live {
                    eprint!("\r\x1b[K    {DIM}{}: {text}{DIM:#}", id.host);
                    self.progress = true;
                }
            }
            Event::Finished(finished) => self.finished(finished),
            Event::HostDone { .. } => {}
            Event::Warning(text) => {
                self.clear_progress();
                anstream::eprintln!("{YELLOW}warning:{YELLOW:#} {text}");
            }
        }
    }

    fn finished(&mut self, finished: &Finished) {
        let opened = self.open.take().is_some_and(|id| id == finished.id);
        let verbose = self.options.verbose;
        let silent = match finished.status {
            Status::Skipped => verbose == 0,
            _ => false,
        };
        if silent {
            return;
        }
        let (style, word) = match finished.status {
            Status::Ok => (GREEN, "ok"),
            Status::Changed => (YELLOW, "changed"),
            Status::WouldChange => (YELLOW, "would change"),
            Status::Failed if finished.ignored => (YELLOW, "failed, ignored"),
            Status::Failed => (RED, "failed"),
            Status::Skipped => (CYAN, "skipped"),
            Status::Unreachable => (RED, "unreachable"),
            Status::Unknown => (CYAN, "unknown until applied"),
        };
        let took = match finished.duration.as_secs_f64() {
            seconds if seconds >= 1.0 => format!(" {DIM}{seconds:.1} s{DIM:#}"),
            _ => String::new(),
        };
        let mut text = if opened {
            format!("    {style}{word}{style:#}{took}\n")
        } else {
            let title = self.title(&finished.id);
            format!("  {style}{word}{style:#}  {title}{took}\n")
        };
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
            let result = pretty(&finished.result);
            text.push_str(&indent(&format!("{DIM}{result}{DIM:#}"), "    "));
        }
        self.print(&text);
    }

    fn show_or_keep(&mut self, event: Event, host: String) {
        let done = matches!(event, Event::HostDone { .. });
        if self.showing.is_none() {
            self.begin(&host);
        }
        if self.showing.as_deref() != Some(&host) {
            if matches!(event, Event::Progress { .. }) {
                return;
            }
            match self.waiting.iter_mut().find(|(name, ..)| *name == host) {
                Some((_, events, over)) => {
                    events.push(event);
                    *over |= done;
                }
                None => self.waiting.push_back((host, vec![event], done)),
            }
            return;
        }
        self.show(&event);
        if done {
            self.showing = None;
            self.next_waiting();
        }
    }

    /// Hosts that were over before their turn are shown as a whole; then one that still runs is shown as it goes.
    fn next_waiting(&mut self) {
        while let Some(at) =
            self.waiting.iter().position(|(_, _, over)| *over).or(Some(0).filter(|_| !self.waiting.is_empty()))
        {
            let Some((host, events, over)) = self.waiting.remove(at) else { return };
            self.begin(&host);
            for event in &events {
                self.show(event);
            }
            if !over {
                return;
            }
            self.showing = None;
        }
    }

    fn begin(&mut self, host: &str) {
        if self.hosts > 1 {
            self.print(&format!("\n{BOLD}HOST  {host}{BOLD:#}\n"));
        }
        self.showing = Some(host.to_string());
    }
}

impl<W: Write + Send> Reporter for Text<W> {
    fn event(&mut self, event: &Event) {
        match Self::host(event).map(str::to_string) {
            Some(host) => self.show_or_keep(event.clone(), host),
            None => self.show(event),
        }
    }

    fn recap(&mut self, recap: &Recap) {
        let mut text = String::from("\n");
        let (never, others): (Vec<_>, Vec<_>) = recap.hosts.iter().partition(|(_, recap)| recap.end == End::NeverBegun);
        for (host, recap_of_host) in others {
            text.push_str(&host_line(host, recap_of_host, recap.plan));
        }
        if !never.is_empty() {
            let names: Vec<&str> = never.iter().map(|(host, _)| host.as_str()).collect();
            text.push_str(&format!("{YELLOW}never begun{YELLOW:#}: {}\n", some_of(&names)));
        }
        self.print(&text);
    }
}

/// A host's last line: what was added, changed and removed, what went wrong, and what needs a reboot.
fn host_line(host: &str, recap: &HostRecap, plan: bool) -> String {
    let counts = &recap.counts;
    let mut parts = Vec::new();
    let things = recap.added + recap.modified + recap.removed;
    if things > 0 {
        let to = if plan { "to " } else { "" };
        let words = if plan { ["add", "change", "remove"] } else { ["added", "changed", "removed"] };
        let [add, change, remove] = words;
        parts.push(format!(
            "{} {to}{add}, {} {to}{change}, {} {to}{remove}",
            recap.added, recap.modified, recap.removed
        ));
    } else if counts.changed > 0 {
        parts.push(format!("{} {}", tasks(counts.changed), if plan { "would act" } else { "acted" }));
    } else if counts.failed == 0 && counts.unreachable == 0 && recap.unknown == 0 && recap.end == End::Done {
        parts.push(format!("{GREEN}nothing to change{GREEN:#}"));
    }
    if recap.unknown > 0 {
        parts.push(format!("{} unknown until applied", tasks(recap.unknown)));
    }
    if counts.failed > 0 {
        parts.push(format!("{RED}{} failed{RED:#}", tasks(counts.failed)));
    }
    match &recap.end {
        // A host that fails with another one has no failed task of its own.
        End::Failed { task } if counts.failed == 0 && counts.unreachable == 0 => {
            parts.push(format!("{RED}failed{RED:#} with the other hosts at: {task}"));
        }
        End::Stopped { before: Some(task) } => parts.push(format!("{YELLOW}stopped{YELLOW:#} before: {task}")),
        End::Stopped { before: None } => parts.push(format!("{YELLOW}stopped{YELLOW:#}")),
        _ => {}
    }
    if counts.unreachable > 0 {
        parts.push(format!("{RED}unreachable{RED:#}"));
    }
    if counts.rescued + counts.ignored > 0 {
        parts.push(format!("{} rescued, {} ignored", counts.rescued, counts.ignored));
    }
    let mut line = format!("{BOLD}{host}{BOLD:#}: {}\n", parts.join("; "));
    for (n, reason) in recap.reboot.iter().enumerate() {
        let lead = if n == 0 { "needs a reboot: " } else { "                " };
        line.push_str(&format!("  {YELLOW}{lead}{YELLOW:#}{reason}\n"));
    }
    line
}

/// A list of names that stays readable with ten thousand of them.
fn some_of(names: &[&str]) -> String {
    const SHOWN: usize = 10;
    let mut text = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    if names.len() > SHOWN {
        text.push_str(&format!(" and {} more", names.len() - SHOWN));
    }
    text
}

fn pretty(value: &serde_json::Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

fn tasks(n: usize) -> String {
    if n == 1 { "1 task".into() } else { format!("{n} tasks") }
}

fn indent(text: &str, by: &str) -> String {
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
