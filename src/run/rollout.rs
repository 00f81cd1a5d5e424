//! The way of a run: plays in order, each batch by batch, a batch's hosts side by side at their own pace; where it stops,
//! and what is said of each host at the end.
//!
//! A host is made when its turn comes and dropped when no later play has it: what waits costs next to nothing.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Value, json};

use super::batch::Batch;
use super::host::HostRun;
use super::resume::Pending;
use super::saved::{SavedHost, SavedTask};
use super::{Finish, PlayRun, Prepared, Shared, host_start};
use crate::agent::protocol::{Mode, Status};
use crate::diag::Diagnostic;
use crate::report::{End, Event, Finished, HostRecap, Recap, Sink, TaskId};

/// So many hosts keep their connection between two plays of an apply; further ones log in again.
const KEPT_OPEN: usize = 200;

/// A host's part of a run.
#[derive(Default)]
struct Slot<'a> {
    /// It has begun and will go on in a later play.
    run: Option<Box<HostRun<'a>>>,
    /// It has begun.
    begun: bool,
    /// It failed or was lost.
    given_up: bool,
    recap: HostRecap,
    saved: Vec<SavedTask>,
    unsavable: Vec<String>,
}

struct Rollout<'a> {
    prepared: &'a Prepared,
    shared: &'a Shared,
    slots: Vec<Mutex<Slot<'a>>>,
    /// By host, the last play that it is in.
    last_play: Vec<usize>,
    /// How many hosts that are between two plays have an open connection.
    open: AtomicUsize,
}

impl Prepared {
    /// What `--shard` leaves, in a line for people.
    pub fn shard(&self) -> Option<String> {
        let shard = self.settings.shard?;
        let word = super::shard::fingerprint(self.inventory.hosts());
        let (mine, all) = (shard.hosts(self.inventory.hosts()).len(), self.inventory.hosts().count());
        Some(format!("shard {shard}: {mine} of the inventory's {all} hosts (inventory {word})"))
    }

    /// Which shard of how many, counted from 1.
    pub fn shard_of(&self) -> Option<(usize, usize)> {
        self.settings.shard.map(|shard| (shard.index, shard.count))
    }

    /// The run that this one goes on after, in a line for people.
    pub fn goes_on(&self) -> Option<String> {
        let resume = self.resume.as_ref()?;
        let owed: usize = resume.hosts.values().map(|left| left.handlers.len()).sum();
        let handlers = match owed {
            0 => String::new(),
            1 => ", 1 handler is owed".to_string(),
            many => format!(", {many} handlers are owed"),
        };
        Some(format!("going on with {} of run {}{handlers}", hosts(resume.hosts.len()), resume.run()))
    }

    /// Plans or applies; all that happens goes to the sink.
    ///
    /// # Errors
    /// When the lock file can't be read or no threads can be had; nothing was touched then.
    pub fn execute(&self, mode: Mode, sink: &Arc<Sink>) -> Result<Finish, Diagnostic> {
        self.execute_with(&self.shared(mode, sink, None)?, sink)
    }

    /// The same, all that hosts share being there.
    pub(super) fn execute_with(&self, shared: &Shared, sink: &Arc<Sink>) -> Result<Finish, Diagnostic> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.settings.forks.clamp(1, self.hosts.len().max(1)))
            .build()
            .map_err(|e| Diagnostic::error(format!("can't start threads: {e}")))?;
        if let Some(ledger) = &shared.ledger {
            let ledger = Arc::clone(ledger);
            // There is nobody left who could be told that this failed.
            shared.interrupt.on_second(Some(Box::new(move || drop(ledger.write()))));
        }
        let mut last_play = vec![0; self.hosts.len()];
        for (index, play) in self.plays.iter().enumerate() {
            let known = play.hosts.iter().filter_map(|name| self.hosts.get_index_of(name));
            known.for_each(|host| last_play.iter_mut().skip(host).take(1).for_each(|last| *last = index));
        }
        let slots = (0..self.hosts.len()).map(|_| Mutex::default()).collect();
        let rollout = Rollout { prepared: self, shared, slots, last_play, open: AtomicUsize::new(0) };
        for (index, play) in self.plays.iter().enumerate() {
            if !rollout.play(index, play, &pool) {
                break;
            }
        }
        let finish = rollout.finish();
        shared.interrupt.on_second(None);
        sink.recap(&finish.recap);
        Ok(finish)
    }
}

impl<'a> Rollout<'a> {
    fn slot(&self, host: usize) -> Option<std::sync::MutexGuard<'_, Slot<'a>>> {
        self.slots.get(host).map(|slot| slot.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn name(&self, host: usize) -> &'a str {
        self.prepared.hosts.get_index(host).map_or("", |(name, _)| name.as_str())
    }

    /// Goes through a play, batch by batch; answers whether the run goes on.
    fn play(&self, index: usize, play: &PlayRun, pool: &rayon::ThreadPool) -> bool {
        let sink = &self.shared.sink;
        let going = |hosts: &mut Vec<usize>| hosts.retain(|host| self.slot(*host).is_some_and(|slot| !slot.given_up));
        let mut all: Vec<usize> = play.hosts.iter().filter_map(|name| self.prepared.hosts.get_index_of(name)).collect();
        going(&mut all);
        play.pace.order(&mut all, &|host| self.name(host).to_string());
        let sizes = play.pace.sizes(all.len());
        if sizes.is_empty() {
            sink.event(Event::Play { name: play.title.clone(), hosts: Vec::new() });
        }
        let mut names: Option<Arc<Value>> = None;
        let mut begin = 0;
        for (number, size) in sizes.iter().enumerate() {
            if self.shared.interrupt.is_raised() {
                return false;
            }
            let hosts = all.get(begin..begin + size).unwrap_or_default();
            begin += size;
            let of_batch: Vec<String> = hosts.iter().map(|host| self.name(*host).to_string()).collect();
            // Made anew only when a host has failed: with many batches this list is what is large.
            let gone = |name: &Value| {
                let host = name.as_str().and_then(|name| self.prepared.hosts.get_index_of(name));
                host.and_then(|host| self.slot(host)).is_some_and(|slot| slot.given_up)
            };
            let still = match names.take() {
                Some(names) if !names.as_array().is_some_and(|names| names.iter().any(gone)) => names,
                _ => {
                    let mut still = all.clone();
                    going(&mut still);
                    Arc::new(still.iter().map(|host| self.name(*host)).collect())
                }
            };
            names = Some(Arc::clone(&still));
            let batch = Arc::new(Batch::new(json!(of_batch), still, &play.pace));
            let name = match sizes.len() {
                1 => play.title.clone(),
                many => format!("{}, batch {} of {many}", play.title, number + 1),
            };
            sink.event(Event::Play { name, hosts: of_batch });
            let next = AtomicUsize::new(0);
            pool.scope(|scope| {
                for _ in 0..hosts.len().min(pool.current_num_threads()) {
                    scope.spawn(|_| {
                        // In their order: tasks that run once count on it.
                        while let Some((place, host)) = {
                            let place = next.fetch_add(1, Ordering::SeqCst);
                            hosts.get(place).map(|host| (place, *host))
                        } {
                            self.host(host, &batch, place, index, play);
                            batch.over(place);
                        }
                    });
                }
            });
            if let Some(ledger) = self.shared.ledger.as_ref().filter(|_| sizes.len() > 1)
                && let Err(error) = ledger.write_sometimes()
            {
                sink.event(Event::Warning(format!("can't write what --resume would need: {error}")));
            }
            if let Some(why) = batch.why() {
                let more = self.prepared.plays.len() > index + 1 || sizes.len() > number + 1;
                if more || batch.is_stopped() && size > &1 && !self.all_failed(hosts) {
                    sink.event(Event::Warning(format!("the run stops here: {why}")));
                }
                return false;
            }
        }
        !self.shared.interrupt.is_raised()
    }

    fn all_failed(&self, hosts: &[usize]) -> bool {
        hosts.iter().all(|host| self.slot(*host).is_some_and(|slot| slot.given_up))
    }

    /// One host's way through a play.
    fn host(&self, host: usize, batch: &Arc<Batch>, place: usize, index: usize, play: &PlayRun) {
        let shared = self.shared;
        let name = self.name(host);
        if batch.is_stopped() || shared.interrupt.is_raised() {
            return;
        }
        let Some(mut slot) = self.slot(host) else { return };
        let mut run = match slot.run.take() {
            Some(run) => {
                if run.link.is_some() {
                    self.open.fetch_sub(1, Ordering::SeqCst);
                }
                run
            }
            None => match self.begin(host) {
                Ok(run) => Box::new(run),
                Err(error) => {
                    // It could be read when all was checked.
                    slot.given_up = true;
                    slot.recap.counts.failed += 1;
                    slot.recap.end = End::Failed { task: "its variables".into() };
                    shared.sink.event(Event::Finished(Box::new(broken(name, play, &error))));
                    if shared.scan.is_none() {
                        batch.failed(name, "its variables", None);
                    }
                    return;
                }
            },
        };
        slot.begun = true;
        // From here on others may look at the slot.
        drop(slot);
        if let Some(given) = shared.peers.given(name) {
            run.vars.take(&given);
        }
        run.take_place(batch, place, index, self.owed(name, index));
        run.play(play);
        let failed = run.given_up || run.recap.counts.unreachable > 0;
        let end = if run.recap.counts.unreachable > 0 {
            End::Unreachable
        } else if run.given_up {
            End::Failed { task: run.crowd.failed_at.clone().unwrap_or_default() }
        } else if let Some(before) = &run.crowd.stopped {
            End::Stopped { before: Some(before.clone()) }
        } else if self.last_play.get(host) == Some(&index) {
            End::Done
        } else {
            End::Stopped { before: None }
        };
        if let Some(ledger) = &shared.ledger {
            match &end {
                End::Done => ledger.done(name),
                end => ledger.stands(name, end.clone(), index, run.pending()),
            }
        }
        // Where no machine is asked, one host's mistake is no reason not to look at the next.
        if failed && shared.scan.is_none() {
            batch.failed(name, run.crowd.failed_at.as_deref().unwrap_or_default(), run.crowd.fatal);
        }
        let Some(mut slot) = self.slot(host) else { return };
        slot.given_up = failed;
        run.recap.end = end;
        if failed || self.last_play.get(host) == Some(&index) {
            let HostRun { recap, saved, unsavable, .. } = *run;
            (slot.recap, slot.saved, slot.unsavable) = (recap, saved, unsavable);
            return;
        }
        if run.link.is_some() {
            // In a dry run the agent knows what was foreseen.
            if shared.mode == Mode::Apply && self.open.load(Ordering::SeqCst) >= KEPT_OPEN {
                run.link = None;
            } else {
                self.open.fetch_add(1, Ordering::SeqCst);
            }
        }
        slot.recap = run.recap.clone();
        slot.run = Some(run);
    }

    fn begin(&self, host: usize) -> Result<HostRun<'a>, Diagnostic> {
        let prepared = self.prepared;
        let (name, plan) = prepared.hosts.get_index(host).ok_or_else(|| Diagnostic::error("no such host"))?;
        let folder = prepared.plays.get(plan.play).map(|play| play.play.origin.playbook_folder.as_path());
        let start = host_start(name, folder, &prepared.inventory, &prepared.extra_vars, &self.shared.render)?;
        Ok(start.begin(name, self.shared))
    }

    /// Handlers that the run before this one owes a host in this play.
    fn owed(&self, name: &str, play: usize) -> Vec<Pending> {
        let left = self.prepared.resume.as_ref().and_then(|resume| resume.hosts.get(name));
        let owed = left.into_iter().flat_map(|left| &left.handlers).filter(|pending| pending.play == play);
        owed.cloned().collect()
    }

    fn finish(self) -> Finish {
        let plan = self.shared.mode == Mode::Plan;
        let mut finish = Finish {
            recap: Recap { plan, ..Recap::default() },
            interrupted: self.shared.interrupt.is_raised(),
            ..Finish::default()
        };
        for (slot, name) in self.slots.into_iter().zip(self.prepared.hosts.keys()) {
            let mut slot = slot.into_inner().unwrap_or_else(PoisonError::into_inner);
            if let Some(run) = slot.run {
                (slot.recap, slot.saved, slot.unsavable) = (run.recap, run.saved, run.unsavable);
            }
            if !slot.begun && !slot.given_up {
                slot.recap.end = End::NeverBegun;
                finish.recap.never_begun.push(name.clone());
            }
            finish.unsavable.extend(slot.unsavable.iter().map(|task| format!("{name}: {task}")));
            finish.hosts.push(SavedHost { name: name.clone(), tasks: slot.saved });
            finish.recap.hosts.insert(name.clone(), slot.recap);
        }
        if let Some(ledger) = &self.shared.ledger {
            finish.left = ledger.left();
            if let Err(error) = ledger.write() {
                self.shared.sink.event(Event::Warning(format!("can't write what --resume would need: {error}")));
            }
        }
        finish
    }
}

/// The line for a host whose variables can't be read any more.
fn broken(name: &str, play: &PlayRun, error: &Diagnostic) -> Finished {
    let id = TaskId {
        host: name.to_string(),
        play: play.title.clone(),
        role: None,
        task: "its variables".into(),
        module: "include_vars".into(),
        item: None,
    };
    Finished {
        id,
        status: Status::Failed,
        diffs: Vec::new(),
        result: Value::Null,
        notes: Vec::new(),
        warnings: Vec::new(),
        error: Some(error.to_string()),
        ignored: false,
        duration: std::time::Duration::ZERO,
    }
}

fn hosts(count: usize) -> String {
    if count == 1 { "1 host".into() } else { format!("{count} hosts") }
}
