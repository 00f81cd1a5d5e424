//! `apply FILE`: exactly the saved plan, host by host; a host that has moved on since is refused before it is touched.

use std::sync::Arc;
use std::time::Instant;

use rayon::prelude::*;
use serde_json::Value;

use super::ahead::Asked;
use super::host::HostRun;
use super::link::{Link, become_user, is_remote};
use super::saved::{SavedHost, SavedPlan};
use super::{Finish, HostStart, Settings, Shared, host_start, run_name, ways_of};
use crate::agent::protocol::{Become, Mode, Outcome, Status};
use crate::change::Action;
use crate::diag::Diagnostic;
use crate::host::Error;
use crate::inventory::Inventory;
use crate::report::{End, Event, Sink};

/// What came of one host's check: nothing, or the task that would be different now and why.
type Moved = Option<(usize, Error)>;

/// Does a saved plan.
///
/// # Errors
/// When the inventory is not what it was, or does not know a host; nothing was touched then.
pub fn execute(plan: &SavedPlan, settings: &Settings, sink: &Arc<Sink>) -> Result<Finish, Vec<Diagnostic>> {
    let inventories =
        if settings.inventories.is_empty() { plan.inventories.clone() } else { settings.inventories.clone() };
    let inventory = Inventory::load_with(&inventories, Arc::clone(&settings.vault))?;
    let render = super::render::Render::with(&settings.vault);
    let none = super::vars::Stored::default();
    let mut starts = Vec::new();
    let mut errors = Vec::new();
    for host in &plan.hosts {
        match host_start(&host.name, None, &inventory, &none, &render) {
            Ok(start) => starts.push((host, start)),
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    for (_, start) in &starts {
        start.connection.secrets().for_each(|secret| sink.hide(secret));
    }
    let lock = super::Lock::beside(inventories.first().map(std::path::PathBuf::as_path)).map_err(|e| vec![e])?;
    let shared = Shared {
        options: settings.clone(),
        mode: Mode::Apply,
        run: run_name(),
        from: super::who(),
        loader: Arc::new(std::sync::Mutex::new(crate::playbook::Loader::new(Default::default()))),
        render,
        sink: Arc::clone(sink),
        lock,
        ways: ways_of(settings, sink),
        hashes: super::Hashes::default(),
        extra_vars: none,
        shared_magic: inventory.shared_magic().clone().into_iter().collect(),
        words: Default::default(),
        peers: super::peers::Peers::new(std::sync::Arc::new(inventory), None, Default::default(), false, false),
        throttles: Default::default(),
        interrupt: settings.interrupt.clone(),
        ledger: None,
        scan: None,
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(settings.forks.clamp(1, starts.len().max(1)))
        .build()
        .map_err(|e| vec![Diagnostic::error(format!("can't start threads: {e}"))])?;
    let names = starts.iter().map(|(host, _)| host.name.clone()).collect();
    sink.event(Event::Play { name: "the saved plan".into(), hosts: names });
    let runs: Vec<HostRun<'_>> =
        pool.install(|| starts.par_iter().map(|(host, start)| one_host(host, start, &shared)).collect());
    let mut finish = Finish { interrupted: settings.interrupt.is_raised(), ..Finish::default() };
    for run in runs {
        finish.recap.hosts.insert(run.name.clone(), run.recap);
    }
    sink.recap(&finish.recap);
    Ok(finish)
}

fn one_host<'a>(saved: &SavedHost, start: &HostStart, shared: &'a Shared) -> HostRun<'a> {
    let mut host = start.begin(&saved.name, shared);
    shared.sink.event(Event::HostBegun { host: saved.name.clone() });
    match moved_on(saved, start, shared) {
        Err(error) => {
            tell(&mut host, saved, 0, Outcome { status: Status::Unreachable, error: Some(error), ..Outcome::default() })
        }
        Ok(Some((task, error))) => {
            tell(&mut host, saved, task, Outcome { status: Status::Failed, error: Some(error), ..Outcome::default() });
        }
        Ok(None) => {
            for (index, task) in saved.tasks.iter().enumerate() {
                let begun = Instant::now();
                let user = user_of(task.user.as_deref(), start, shared);
                let request = task.request(user, true);
                let asked = Asked { request, hidden: task.no_log, keep: false, file: None, away: None };
                let outcome =
                    if shared.interrupt.is_raised() { None } else { host.ask_now(&asked, &task.id(&saved.name)) };
                let Some(outcome) = outcome else {
                    host.recap.end = End::Stopped { before: Some(task.task.clone()) };
                    break;
                };
                let over = matches!(outcome.status, Status::Failed | Status::Unreachable | Status::Unknown);
                tell_after(&mut host, saved, index, outcome, begun);
                if over {
                    break;
                }
            }
        }
    }
    shared.sink.event(Event::HostDone { host: saved.name.clone() });
    host
}

fn user_of(user: Option<&str>, start: &HostStart, shared: &Shared) -> Option<Become> {
    let password = shared.options.become_password.as_ref();
    user.map(|user| become_user(Some(&start.connection), user.to_string(), password))
}

/// Would the machine take the same actions now as when the plan was made? Asked in a dry run, before anything is done.
fn moved_on(saved: &SavedHost, start: &HostStart, shared: &Shared) -> Result<Moved, Error> {
    let machine = Link::machine(&start.connection, &start.folder)?;
    let hello = shared.hello(machine, Mode::Plan, is_remote(&start.connection));
    let mut link = Link::open(&saved.name, &start.connection, hello, &shared.ways)?;
    for (index, task) in saved.tasks.iter().enumerate() {
        let user = user_of(task.user.as_deref(), start, shared);
        let outcome = link.task(task.request(user, false), &mut |_| ())?;
        let Some(expected) = &task.actions else { continue };
        let error = match (outcome.status, outcome.error) {
            (Status::Failed, Some(error)) => error,
            _ if is_as_planned(&outcome.actions, expected) => continue,
            _ => {
                let mut message = String::from("the machine has moved on since the plan was made. Planned:");
                let list = |actions: &[Action]| -> String {
                    let diffs: Vec<_> = actions.iter().flat_map(|action| &action.diffs).collect();
                    if diffs.is_empty() {
                        return "\n  nothing".into();
                    }
                    diffs.iter().map(|diff| format!("\n  {} {}", diff.kind, diff.path)).collect()
                };
                message.push_str(&list(expected));
                message.push_str("\nnow it would be:");
                message.push_str(&list(&outcome.actions));
                Error::refused(message)
                    .hint("nothing was changed on this host; make a new plan, look at it, and apply that one")
            }
        };
        return Ok(Some((index, error)));
    }
    Ok(None)
}

/// Would the same be done?
fn is_as_planned(now: &[Action], planned: &[Action]) -> bool {
    now.len() == planned.len() && now.iter().zip(planned).all(|(now, planned)| now.is_as_planned(planned, false))
}

fn tell(host: &mut HostRun<'_>, saved: &SavedHost, index: usize, outcome: Outcome) {
    tell_after(host, saved, index, outcome, Instant::now());
}

fn tell_after(host: &mut HostRun<'_>, saved: &SavedHost, index: usize, mut outcome: Outcome, begun: Instant) {
    let Some(task) = saved.tasks.get(index) else { return };
    let counts = &mut host.recap.counts;
    match outcome.status {
        Status::Failed => counts.failed += 1,
        Status::Unreachable => counts.unreachable = 1,
        Status::Changed => {
            counts.ok += 1;
            counts.changed += 1;
        }
        Status::Unknown => host.recap.unknown += 1,
        _ => counts.ok += 1,
    }
    host.recap.count(&outcome.diffs);
    let mut finished = host.finished(task.id(&saved.name), &outcome, begun.elapsed());
    finished.result = Value::Object(std::mem::take(&mut outcome.result));
    if task.no_log {
        finished.diffs.iter_mut().for_each(super::task::censor);
        finished.result = serde_json::json!({"censored": "the task has `no_log: true`"});
    }
    host.shared.sink.event(Event::Finished(Box::new(finished)));
}
