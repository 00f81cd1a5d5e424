//! What a run tells: text for people, JSON lines for programs, files that stay. `run/` only knows [`Event`]s.
//!
//! ```text
//! run/ ── Event ──> Sink: masks secrets ──> Screen (progress on standard error)
//!                                      ├──> Text or Json (standard output)
//!                                      └──> Files (--report: JSON lines, JUnit, a log per host)
//! ```

pub mod clock;
pub mod files;
mod fold;
pub mod json;
pub mod junit;
mod log;
pub mod mask;
pub mod merge;
pub mod ranges;
pub mod recap;
pub mod screen;
pub mod text;

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::protocol::Status;
use crate::change::Diff;
use crate::change::diff::Sort;

pub use files::Files;
pub use mask::Mask;
pub use screen::Screen;

/// Which task, where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskId {
    /// The machine's name in the inventory.
    pub host: String,
    /// The play's name.
    pub play: String,
    /// The role it stands in.
    pub role: Option<String>,
    /// Its name, or its module's.
    pub task: String,
    /// Its module.
    pub module: String,
    /// The loop's item, as its label says.
    pub item: Option<String>,
}

impl TaskId {
    /// What people call it: `role : task (item)`.
    pub fn title(&self) -> String {
        let mut title = match &self.role {
            Some(role) => format!("{role} : {}", self.task),
            None => self.task.clone(),
        };
        if let Some(item) = &self.item {
            title.push_str(&format!(" ({item})"));
        }
        title
    }
}

/// A task that is over.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Which.
    pub id: TaskId,
    /// How it ended.
    pub status: Status,
    /// What it changed, or would.
    pub diffs: Vec<Diff>,
    /// What `register` sees; not shown as a whole.
    pub result: Value,
    /// For the person.
    pub notes: Vec<String>,
    /// For the person, who should act on it.
    pub warnings: Vec<String>,
    /// What went wrong, with its hint.
    pub error: Option<String>,
    /// It failed, and the play goes on all the same.
    pub ignored: bool,
    /// How long it took.
    pub duration: Duration,
}

/// What happens in a run. Only `Play`, `Finished` and `HostDone` are needed; the others make what is shown better.
#[derive(Clone, Debug)]
pub enum Event {
    /// A run begins.
    Run {
        /// Is it a dry run?
        plan: bool,
        /// Which part of the inventory this run has, from 1, and of how many.
        shard: Option<(usize, usize)>,
    },
    /// A play begins on these hosts.
    Play {
        /// Its name.
        name: String,
        /// On which.
        hosts: Vec<String>,
    },
    /// A batch of the play's hosts begins, where a play has more than one (`serial`).
    Batch {
        /// From 1.
        number: usize,
        /// How many there are.
        of: usize,
        /// Its hosts.
        hosts: Vec<String>,
    },
    /// A host begins with a play: a connection to it is being made, if there is none yet.
    HostBegun {
        /// Which.
        host: String,
    },
    /// A task begins on a host.
    Started {
        /// Which task.
        id: TaskId,
    },
    /// A task is about to change this.
    Shown {
        /// Which task.
        id: TaskId,
        /// What comes next.
        diffs: Vec<Diff>,
    },
    /// A task takes long.
    Progress {
        /// Which task.
        id: TaskId,
        /// One line.
        text: String,
    },
    /// A task is over.
    Finished(Box<Finished>),
    /// A host is done with a play, or given up.
    HostDone {
        /// Which.
        host: String,
    },
    /// A word that belongs to no task.
    Warning(String),
}

impl Event {
    /// The host of an event that belongs to one.
    pub fn host(&self) -> Option<&str> {
        match self {
            Event::Started { id } | Event::Shown { id, .. } | Event::Progress { id, .. } => Some(&id.host),
            Event::Finished(finished) => Some(&finished.id.host),
            Event::HostBegun { host } | Event::HostDone { host } => Some(host),
            Event::Run { .. } | Event::Play { .. } | Event::Batch { .. } | Event::Warning(_) => None,
        }
    }
}

/// A host's counts, as Ansible counts them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Tasks that went well, those that changed something included.
    pub ok: usize,
    /// Tasks that changed something, or would.
    pub changed: usize,
    /// Tasks that failed, unless ignored or rescued.
    pub failed: usize,
    /// Tasks whose conditions did not hold.
    pub skipped: usize,
    /// 1 when it could not be reached.
    pub unreachable: usize,
    /// Failures that a `rescue` took care of.
    pub rescued: usize,
    /// Failures that were ignored.
    pub ignored: usize,
}

/// What the last lines say of one host.
#[derive(Clone, Debug, Default)]
pub struct HostRecap {
    /// The counts.
    pub counts: Counts,
    /// Things that came, changed and went.
    pub added: usize,
    /// Likewise.
    pub modified: usize,
    /// Likewise.
    pub removed: usize,
    /// Tasks whose outcome can't be known before an apply.
    pub unknown: usize,
    /// Why it must boot again.
    pub reboot: Vec<String>,
}

impl HostRecap {
    /// Counts the things in these diffs.
    pub fn count(&mut self, diffs: &[Diff]) {
        for diff in diffs {
            match diff.sort() {
                Sort::Added => self.added += 1,
                Sort::Changed => self.modified += 1,
                Sort::Removed => self.removed += 1,
            }
        }
    }
}

/// How it all ended.
#[derive(Clone, Debug, Default)]
pub struct Recap {
    /// Was it a dry run?
    pub plan: bool,
    /// Host by host, in the inventory's order.
    pub hosts: indexmap::IndexMap<String, HostRecap>,
    /// Hosts that the run was meant for and that it never came to. They may stand in `hosts` too, with nothing counted.
    pub never_begun: Vec<String>,
}

/// Takes events.
pub trait Reporter: Send {
    /// Something happened.
    fn event(&mut self, event: &Event);
    /// All is over. (`apply --ask` has two runs, and so this comes twice.)
    fn recap(&mut self, recap: &Recap);
}

/// The way from `run/` to the reporters: one event at a time, secrets masked.
pub struct Sink {
    told: Mutex<Told>,
    mask: Mask,
    screen: Screen,
    /// One question at a time.
    asking: Mutex<()>,
}

struct Told {
    reporters: Vec<Box<dyn Reporter>>,
    /// What happened while a question stands on the screen: hosts go on meanwhile, and nothing is printed into it.
    held: Option<Vec<Event>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|broken| broken.into_inner())
}

impl Sink {
    /// A sink for this reporter.
    pub fn new(reporter: Box<dyn Reporter>, mask: Mask) -> Sink {
        Sink {
            told: Mutex::new(Told { reporters: vec![reporter], held: None }),
            mask,
            screen: Screen::off(),
            asking: Mutex::new(()),
        }
    }

    /// Another reporter that is told the same.
    #[must_use]
    pub fn and(self, reporter: Box<dyn Reporter>) -> Sink {
        lock(&self.told).reporters.push(reporter);
        self
    }

    /// Progress is drawn here.
    #[must_use]
    pub fn on(self, screen: Screen) -> Sink {
        Sink { screen, ..self }
    }

    /// Adds a secret that must not be shown.
    pub fn hide(&self, secret: &str) {
        self.mask.add(secret);
    }

    /// Passes an event on.
    pub fn event(&self, mut event: Event) {
        self.mask.event(&mut event);
        let mut told = lock(&self.told);
        match &mut told.held {
            Some(held) => held.push(event),
            None => self.tell(&mut told, &event),
        }
    }

    fn tell(&self, told: &mut Told, event: &Event) {
        self.screen.note(event);
        // A warning goes to standard error, where progress stands.
        let warning = matches!(event, Event::Warning(_));
        if warning {
            self.screen.suspend(true);
        }
        told.reporters.iter_mut().for_each(|reporter| reporter.event(event));
        if warning {
            self.screen.suspend(false);
        }
        self.screen.refresh();
    }

    /// Does something that needs the terminal for itself, such as a question with its answer: progress vanishes, events
    /// wait (their hosts do not), and others who want to ask wait too.
    pub fn suspend<R>(&self, ask: impl FnOnce() -> R) -> R {
        let _turn = lock(&self.asking);
        lock(&self.told).held = Some(Vec::new());
        self.screen.suspend(true);
        let answer = ask();
        self.screen.suspend(false);
        let mut told = lock(&self.told);
        for event in told.held.take().into_iter().flatten() {
            self.tell(&mut told, &event);
        }
        answer
    }

    /// Passes the recap on.
    pub fn recap(&self, recap: &Recap) {
        let mut recap = recap.clone();
        for host in recap.hosts.values_mut() {
            host.reboot.iter_mut().for_each(|reason| self.mask.text(reason));
        }
        self.screen.finish();
        let mut told = lock(&self.told);
        told.reporters.iter_mut().for_each(|reporter| reporter.recap(&recap));
    }
}

#[cfg(test)]
mod tests;
