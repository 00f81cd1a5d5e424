//! Progress on a terminal: a line for each running host and one for the fleet, on standard error, drawn over again in place.
//! Finished text goes to standard output above it. Without a terminal: now and then one plain line.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use indexmap::IndexMap;
use unicode_width::UnicodeWidthChar;

use super::{Event, clock, lock};
use crate::agent::protocol::Status;

/// What is over sooner needs no progress.
const FIRST: Duration = Duration::from_millis(300);
/// Drawn again as often as this.
const EVERY: Duration = Duration::from_millis(200);
/// After text was printed above, not more often than this: a burst of text would flicker.
const AFTER_TEXT: Duration = Duration::from_millis(50);
/// Without a terminal, one line each.
const PLAIN: Duration = Duration::from_secs(60);

/// Where progress is shown; clones are the same.
#[derive(Clone)]
pub struct Screen {
    shown: Option<Arc<Mutex<Shown>>>,
}

struct Shown {
    /// A terminal, which takes control characters.
    terminal: bool,
    fleet: Fleet,
    /// So many lines stand there now.
    lines: usize,
    suspended: bool,
    drawn: Instant,
}

/// Who does what.
#[derive(Default)]
struct Fleet {
    began: Option<Instant>,
    total: usize,
    running: IndexMap<String, Running>,
    /// Hosts that are over with this play.
    done: usize,
    changed: usize,
    failed: usize,
    unreachable: usize,
    /// The time that these hosts took together.
    took: Duration,
}

struct Running {
    since: Instant,
    task: String,
    task_since: Instant,
    word: String,
    changed: bool,
    failed: bool,
    unreachable: bool,
}

impl Screen {
    /// Nothing is shown.
    pub fn off() -> Screen {
        Screen { shown: None }
    }

    /// Standard error.
    pub fn stderr() -> Screen {
        Screen::new(io::stderr().is_terminal())
    }

    fn new(terminal: bool) -> Screen {
        let shown = Arc::new(Mutex::new(Shown {
            terminal,
            fleet: Fleet::default(),
            lines: 0,
            suspended: false,
            drawn: Instant::now(),
        }));
        let weak = Arc::downgrade(&shown);
        // Without the thread there is less to see, and nothing else is lost.
        let _ = std::thread::Builder::new().name("progress".into()).spawn(move || tick(&weak));
        Screen { shown: Some(shown) }
    }

    /// A stream on the same terminal: what stands there makes room for what is written.
    pub fn above<W: Write>(&self, out: W) -> Above<W> {
        Above { out, screen: self.clone() }
    }

    pub(super) fn note(&self, event: &Event) {
        if let Some(shown) = &self.shown {
            lock(shown).fleet.note(event, Instant::now());
        }
    }

    /// Draws again what text has taken away.
    pub(super) fn refresh(&self) {
        if let Some(shown) = &self.shown {
            let mut shown = lock(shown);
            if shown.terminal && shown.lines == 0 && shown.drawn.elapsed() >= AFTER_TEXT {
                shown.draw();
            }
        }
    }

    pub(super) fn suspend(&self, suspended: bool) {
        if let Some(shown) = &self.shown {
            let mut shown = lock(shown);
            shown.clear();
            shown.suspended = suspended;
        }
    }

    /// All is over.
    pub(super) fn finish(&self) {
        if let Some(shown) = &self.shown {
            let mut shown = lock(shown);
            shown.clear();
            shown.fleet = Fleet::default();
        }
    }
}

fn tick(shown: &Weak<Mutex<Shown>>) {
    loop {
        std::thread::sleep(EVERY);
        let Some(shown) = shown.upgrade() else { return };
        let mut shown = lock(&shown);
        let every = if shown.terminal { EVERY / 2 } else { PLAIN };
        if shown.drawn.elapsed() >= every {
            shown.draw();
        }
    }
}

impl Shown {
    fn clear(&mut self) {
        if self.lines > 0 {
            // Up to the first line, then everything below goes.
            let _ = write!(io::stderr(), "\r\x1b[{}A\x1b[J", self.lines);
            self.lines = 0;
        }
    }

    fn draw(&mut self) {
        let now = Instant::now();
        if self.suspended || self.fleet.began.is_none_or(|began| now.duration_since(began) < FIRST) {
            return;
        }
        self.drawn = now;
        if !self.terminal {
            if self.fleet.total > 1 {
                let _ = writeln!(io::stderr(), "{}", self.fleet.line(now));
            }
            return;
        }
        let (width, height) = match terminal_size::terminal_size_of(io::stderr()) {
            Some((width, height)) => (usize::from(width.0), usize::from(height.0)),
            None => (80, 24),
        };
        // Half of the screen is left to the text above.
        let lines = self.fleet.lines(now, (height / 2).max(3));
        let mut text = String::new();
        if self.lines > 0 {
            let _ = write!(text, "\r\x1b[{}A", self.lines);
        }
        for line in &lines {
            // The rest of the line goes, whatever stood there; a full line must not wrap.
            let _ = writeln!(text, "{}\x1b[K", cut(line, width.saturating_sub(1)));
        }
        text.push_str("\x1b[J");
        let _ = io::stderr().write_all(text.as_bytes());
        self.lines = lines.len();
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.clear();
    }
}

impl Fleet {
    fn running(&mut self, host: &str, now: Instant) -> &mut Running {
        self.running.entry(host.to_string()).or_insert_with(|| Running {
            since: now,
            task: String::new(),
            task_since: now,
            word: String::new(),
            changed: false,
            failed: false,
            unreachable: false,
        })
    }

    fn note(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Play { hosts, .. } => {
                *self = Fleet { began: Some(now), total: hosts.len(), ..Fleet::default() };
            }
            Event::HostBegun { host } => {
                self.running(host, now);
            }
            Event::Started { id } | Event::Shown { id, .. } | Event::Progress { id, .. } => {
                let title = id.title();
                let running = self.running(&id.host, now);
                if running.task != title {
                    (running.task, running.task_since) = (title, now);
                    running.word.clear();
                }
                if let Event::Progress { text, .. } = event {
                    running.word = text.lines().next_back().unwrap_or("").to_string();
                }
            }
            Event::Finished(finished) => {
                let running = self.running(&finished.id.host, now);
                running.changed |= matches!(finished.status, Status::Changed | Status::WouldChange);
                running.failed |= finished.status == Status::Failed && !finished.ignored;
                running.unreachable |= finished.status == Status::Unreachable;
                // What comes next is told by `Started`; until then nothing is known.
                running.task.clear();
                running.word.clear();
                running.task_since = now;
            }
            Event::HostDone { host } => {
                self.done += 1;
                if let Some(running) = self.running.shift_remove(host) {
                    self.took += now.duration_since(running.since);
                    self.changed += usize::from(running.changed);
                    self.failed += usize::from(running.failed);
                    self.unreachable += usize::from(running.unreachable);
                }
            }
            Event::Run { .. } | Event::Batch { .. } | Event::Warning(_) => {}
        }
    }

    /// The hosts that run longest stand first: they hold up the rest.
    fn lines(&self, now: Instant, most: usize) -> Vec<String> {
        let many = self.total > 1;
        let room = most - usize::from(many);
        let shown = if self.running.len() > room { room.saturating_sub(1) } else { self.running.len() };
        let names: HashMap<&str, usize> =
            self.running.keys().take(shown).map(|name| (name.as_str(), width(name))).collect();
        let widest = names.values().copied().max().unwrap_or(0).min(30);
        let mut lines: Vec<String> = self
            .running
            .iter()
            .take(shown)
            .map(|(name, running)| {
                let pad = " ".repeat(widest.saturating_sub(names.get(name.as_str()).copied().unwrap_or(0)));
                let took = clock::spoken(now.duration_since(running.task_since));
                let task = if running.task.is_empty() { "…" } else { &running.task };
                let word = if running.word.is_empty() { String::new() } else { format!(": {}", running.word) };
                format!("  {name}{pad}  {took:>5}  {task}{word}")
            })
            .collect();
        if shown < self.running.len() {
            lines.push(format!("  +{} more", self.running.len() - shown));
        }
        if many {
            lines.push(self.line(now));
        }
        lines
    }

    /// The fleet in one line.
    fn line(&self, now: Instant) -> String {
        let mut line = format!("{} of {} hosts done", self.done, self.total);
        for (count, word) in [(self.changed, "changed"), (self.failed, "failed"), (self.unreachable, "unreachable")] {
            if count > 0 {
                let _ = write!(line, ", {count} {word}");
            }
        }
        let waiting = self.total.saturating_sub(self.done + self.running.len());
        for (count, word) in [(self.running.len(), "running"), (waiting, "waiting")] {
            if count > 0 {
                let _ = write!(line, ", {count} {word}");
            }
        }
        if let Some(left) = self.left(now) {
            let _ = write!(line, ", about {} left", clock::spoken(left));
        }
        line
    }

    /// What is left, if the other hosts take as long as those that are over did.
    fn left(&self, now: Instant) -> Option<Duration> {
        let each = self.took.checked_div(u32::try_from(self.done).ok()?)?;
        let side_by_side = u32::try_from(self.running.len()).ok()?;
        let waiting = u32::try_from(self.total.saturating_sub(self.done + self.running.len())).ok()?;
        let begun: Duration =
            self.running.values().map(|host| each.saturating_sub(now.duration_since(host.since))).sum();
        let left = (each * waiting + begun).checked_div(side_by_side)?;
        (left >= Duration::from_secs(1)).then_some(left)
    }
}

fn width(text: &str) -> usize {
    text.chars().map(|c| c.width().unwrap_or(0)).sum()
}

/// The line as far as it fits; control characters of whoever sent it do not reach the terminal.
fn cut(line: &str, most: usize) -> String {
    let clean = |c: &char| !c.is_control();
    let mut used = 0;
    let mut text = String::new();
    for c in line.chars().filter(clean) {
        let wide = c.width().unwrap_or(0);
        if used + wide > most.saturating_sub(1) && width(line) > most {
            text.push('…');
            break;
        }
        used += wide;
        text.push(c);
    }
    text
}

/// A stream above progress.
pub struct Above<W> {
    out: W,
    screen: Screen,
}

impl<W: Write> Above<W> {
    /// Nothing is drawn while it writes.
    fn clear<R>(&mut self, write: impl FnOnce(&mut W) -> R) -> R {
        let mut shown = self.screen.shown.as_ref().map(|shown| lock(shown));
        if let Some(shown) = &mut shown {
            shown.clear();
        }
        write(&mut self.out)
    }
}

impl<W: Write> Write for Above<W> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.clear(|out| out.write(text))
    }
    fn write_all(&mut self, text: &[u8]) -> io::Result<()> {
        self.clear(|out| out.write_all(text))
    }
    fn flush(&mut self) -> io::Result<()> {
        self.clear(Write::flush)
    }
}
