//! The last lines of a run: host by host for a few; for many by how it went, and what went wrong at the very end.

use std::collections::HashSet;

use indexmap::IndexMap;

use super::ranges;
use super::text::{BOLD, DIM, GREEN, RED, YELLOW};
use super::{End, Event, HostRecap, Recap};
use crate::agent::protocol::Status;

/// Up to so many hosts have a line each.
const FEW: usize = 4;
/// Errors are cut there; the whole stands above and in the report.
const WIDEST: usize = 300;

/// What went wrong on a host last: that ended its run.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// The task.
    pub task: String,
    /// The error's first line.
    pub error: String,
}

/// What went wrong, by host.
#[derive(Clone, Debug, Default)]
pub struct Troubles {
    hosts: IndexMap<String, Trouble>,
}

impl Troubles {
    /// Remembers failures.
    pub fn note(&mut self, event: &Event) {
        let Event::Finished(finished) = event else { return };
        if matches!(finished.status, Status::Failed | Status::Unreachable) && !finished.ignored {
            self.add(&finished.id.host, finished.id.title(), finished.error.as_deref().unwrap_or(""));
        }
    }

    /// Remembers this one.
    pub fn add(&mut self, host: &str, task: String, error: &str) {
        let error: String = error.lines().next().unwrap_or("").trim_end_matches(':').chars().take(WIDEST).collect();
        self.hosts.insert(host.to_string(), Trouble { task, error });
    }
}

/// The text without the host's own name: what differs by nothing else is the same.
pub(super) fn nameless(text: &str, host: &str) -> String {
    if host.len() < 2 { text.to_string() } else { text.replace(host, "…") }
}

/// The last lines.
pub fn text(recap: &Recap, troubles: &Troubles) -> String {
    let mut text = String::from("\n");
    let never: HashSet<&str> = recap.never_begun.iter().map(String::as_str).collect();
    let begun: Vec<(&str, &HostRecap)> = recap
        .hosts
        .iter()
        .map(|(host, of_host)| (host.as_str(), of_host))
        .filter(|(host, _)| !never.contains(host))
        .collect();
    if begun.len() + recap.never_begun.len() <= FEW {
        for (host, recap_of_host) in begun {
            text.push_str(&host_line(host, recap_of_host, recap.plan));
        }
        if !recap.never_begun.is_empty() {
            text.push_str(&never_begun(recap));
        }
        return text;
    }
    many(&mut text, &begun, recap, troubles);
    text
}

fn never_begun(recap: &Recap) -> String {
    let names = ranges::complete(recap.never_begun.iter().map(String::as_str));
    format!("{YELLOW}never begun:{YELLOW:#} {names}\n")
}

/// How a host's run went, the best first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Went {
    NothingToChange,
    Changed,
    Unknown,
    Stopped,
    Failed,
    Unreachable,
}

fn went(recap: &HostRecap) -> Went {
    match &recap.counts {
        counts if counts.unreachable > 0 => Went::Unreachable,
        counts if counts.failed > 0 || matches!(recap.end, End::Failed { .. }) => Went::Failed,
        _ if matches!(recap.end, End::Stopped { .. }) => Went::Stopped,
        counts if counts.changed > 0 => Went::Changed,
        _ if recap.unknown > 0 => Went::Unknown,
        _ => Went::NothingToChange,
    }
}

fn many(text: &mut String, begun: &[(&str, &HostRecap)], recap: &Recap, troubles: &Troubles) {
    let changed = if recap.plan { "would change" } else { "changed" };
    let of = |which: Went| begun.iter().filter(move |(_, host)| went(host) == which);
    let mut sum = Vec::new();
    for (which, words) in [
        (Went::NothingToChange, "nothing to change"),
        (Went::Changed, changed),
        (Went::Unknown, "unknown until applied"),
        (Went::Stopped, "stopped"),
    ] {
        let count = of(which).count();
        if count == 0 {
            continue;
        }
        let style = if which == Went::NothingToChange { GREEN } else { YELLOW };
        let names = ranges::compact(of(which).map(|(host, _)| *host));
        text.push_str(&format!("{style}{words}:{style:#} {names}"));
        let total = |part: fn(&HostRecap) -> usize| of(which).map(|(_, host)| part(host)).sum::<usize>();
        let (added, modified, removed) = (total(|h| h.added), total(|h| h.modified), total(|h| h.removed));
        if added + modified + removed > 0 {
            text.push_str(&format!("; in all {}", things(added, modified, removed, recap.plan)));
        }
        text.push('\n');
        sum.push(format!("{count} {words}"));
    }
    let mut reasons: IndexMap<&str, Vec<&str>> = IndexMap::new();
    for (host, of_host) in begun {
        of_host.reboot.iter().for_each(|reason| reasons.entry(reason).or_default().push(host));
    }
    for (reason, hosts) in reasons {
        let names = ranges::compact(hosts.iter().copied());
        text.push_str(&format!("{YELLOW}needs a reboot:{YELLOW:#} {names}: {reason}\n"));
    }
    if !recap.never_begun.is_empty() {
        text.push_str(&never_begun(recap));
    }
    let bad = [(Went::Failed, "failed"), (Went::Unreachable, "unreachable")];
    for (which, words) in bad {
        let count = of(which).count();
        if count > 0 {
            sum.push(format!("{count} {words}"));
        }
    }
    if !recap.never_begun.is_empty() {
        sum.push(format!("{} never begun", recap.never_begun.len()));
    }
    let all = ranges::hosts(begun.len() + recap.never_begun.len());
    text.push_str(&format!("{BOLD}{all}:{BOLD:#} {}\n", sum.join(", ")));
    for (which, words) in bad {
        let mut alike: IndexMap<(String, String), (Vec<&str>, &str)> = IndexMap::new();
        for (host, _) in of(which) {
            let (task, error) = troubles.hosts.get(*host).map_or(("", ""), |t| (t.task.as_str(), t.error.as_str()));
            let key = (task.to_string(), nameless(error, host));
            alike.entry(key).or_insert_with(|| (Vec::new(), error)).0.push(host);
        }
        if !alike.is_empty() {
            text.push_str(&format!("\n{RED}{words}:{RED:#}\n"));
        }
        for ((task, without_name), (hosts, error)) in alike {
            let error = if hosts.len() > 1 { without_name.as_str() } else { error };
            let names = ranges::complete(hosts.iter().copied());
            text.push_str(&format!("  {BOLD}{names}{BOLD:#}"));
            if !task.is_empty() {
                text.push_str(&format!("  {DIM}{task}:{DIM:#} {error}"));
            }
            text.push('\n');
        }
    }
}

fn things(added: usize, modified: usize, removed: usize, plan: bool) -> String {
    let to = if plan { "to " } else { "" };
    let [add, change, remove] = if plan { ["add", "change", "remove"] } else { ["added", "changed", "removed"] };
    format!("{added} {to}{add}, {modified} {to}{change}, {removed} {to}{remove}")
}

/// A host's last line: what was added, changed and removed, what went wrong, and what needs a reboot.
pub(super) fn host_line(host: &str, recap: &HostRecap, plan: bool) -> String {
    let counts = &recap.counts;
    let mut parts = Vec::new();
    if recap.added + recap.modified + recap.removed > 0 {
        parts.push(things(recap.added, recap.modified, recap.removed, plan));
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

fn tasks(n: usize) -> String {
    if n == 1 { "1 task".into() } else { format!("{n} tasks") }
}
