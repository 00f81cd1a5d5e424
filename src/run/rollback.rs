//! `runs` and `rollback`: what was done on machines, and taking it back. The machines' own agents do it; here hosts are
//! chosen and asked side by side.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use indexmap::IndexMap;
use rayon::prelude::*;
use serde_json::{Map, Value};

use super::link::Link;
use super::ways::Ways;
use super::{HostStart, host_start, run_name};
use crate::agent::history::{ROLLBACK, RUNS, Rollback};
use crate::agent::protocol::{Become, Hello, Mode, Outcome, Reply, Status, Task};
use crate::diag::Diagnostic;
use crate::host::Error;
use crate::inventory::Inventory;
use crate::report::{Event, Finished, HostRecap, Recap, Sink, TaskId};
use crate::transport::ask::Terminal;
use crate::vault::Vault;

/// Which hosts are asked, and as whom.
#[derive(Clone, Debug, Default)]
pub struct Machines {
    /// Inventories.
    pub inventories: Vec<PathBuf>,
    /// Hosts or patterns.
    pub patterns: Vec<String>,
    /// Hosts at a time.
    pub forks: usize,
    /// `--become`.
    pub become_: bool,
    /// What `-K` was told.
    pub become_password: Option<String>,
    /// The vaults' passwords.
    pub vault: Arc<Vault>,
    /// `--wait-for-lock`.
    pub wait_for_lock: u64,
}

/// The hosts, found and ready to be asked.
pub struct Asked {
    machines: Machines,
    hosts: IndexMap<String, HostStart>,
    ways: Ways,
}

/// What one host answered: its runs, the oldest first, or why it did not.
pub type Runs = Result<Vec<Value>, String>;

/// What one host answered to several questions, or why it did not.
pub type Answers = Result<Vec<Outcome>, String>;

impl Asked {
    /// Finds the hosts.
    ///
    /// # Errors
    /// Everything that is wrong with the inventory or the patterns; no host was touched.
    pub fn prepare(machines: Machines) -> Result<Asked, Vec<Diagnostic>> {
        let inventory = Inventory::load_with(&machines.inventories, Arc::clone(&machines.vault))?;
        let names = inventory.matching(&machines.patterns.join(":"), None).map_err(|error| vec![error])?;
        let render = super::render::Render::with(&machines.vault);
        let none = super::vars::Stored::default();
        let mut hosts = IndexMap::new();
        let mut errors = Vec::new();
        for name in names {
            match host_start(name, None, &inventory, &none, &render) {
                Ok(start) => {
                    hosts.insert(name.to_string(), start);
                }
                Err(error) if errors.contains(&error) => {}
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(Asked {
                machines,
                hosts,
                ways: Ways::new(Arc::new(Terminal::default()), false, |text| anstream::eprintln!("warning: {text}")),
            })
        } else {
            Err(errors)
        }
    }

    /// How many hosts there are.
    pub fn count(&self) -> usize {
        self.hosts.len()
    }

    /// The runs of every host.
    ///
    /// # Errors
    /// When no threads can be had.
    pub fn runs(&self) -> Result<IndexMap<String, Runs>, Diagnostic> {
        let run = run_name();
        let answers: Vec<(String, Runs)> = self.each(|name, start| {
            let outcome = self.ask((name, start), Mode::Plan, &run, (RUNS, Value::Object(Map::new())), &mut |_| ());
            let runs = match outcome {
                Ok(Outcome { error: Some(error), .. }) | Err(error) => Err(error.to_string()),
                Ok(mut outcome) => match outcome.result.remove("runs") {
                    Some(Value::Array(runs)) => Ok(runs),
                    _ => Err("the machine did not say which runs it knows".into()),
                },
            };
            (name.to_string(), runs)
        })?;
        Ok(answers.into_iter().collect())
    }

    /// What every host answers to these questions (a module and its parameters each), in a dry run: nothing is changed.
    ///
    /// # Errors
    /// When no threads can be had.
    pub fn answers(&self, questions: &[(String, Value)]) -> Result<IndexMap<String, Answers>, Diagnostic> {
        let run = run_name();
        let answers: Vec<(String, Answers)> = self.each(|name, start| {
            let ask = || -> Result<Vec<Outcome>, Error> {
                let mut link = self.open((name, start), Mode::Plan, &run, "domain import")?;
                let mut outcomes = Vec::new();
                for (module, parameters) in questions {
                    outcomes.push(link.task(self.task(start, module, parameters.clone()), &mut |_| ())?);
                }
                Ok(outcomes)
            };
            (name.to_string(), ask().map_err(|error| error.to_string()))
        })?;
        Ok(answers.into_iter().collect())
    }

    /// Shows what taking back would change, or does it.
    ///
    /// # Errors
    /// When no threads can be had; nothing was touched then.
    pub fn rollback(&self, wish: &Rollback, mode: Mode, sink: &Arc<Sink>) -> Result<Recap, Diagnostic> {
        for start in self.hosts.values() {
            start.connection.secrets().for_each(|secret| sink.hide(secret));
        }
        self.machines.become_password.iter().for_each(|password| sink.hide(password));
        let run = run_name();
        let parameters = serde_json::to_value(wish)
            .map_err(|e| Diagnostic::error(format!("can't say what is to be rolled back: {e}")))?;
        sink.event(Event::Play { name: "rollback".into(), hosts: self.hosts.keys().cloned().collect() });
        let recaps: Vec<(String, HostRecap)> = self.each(|name, start| {
            let id = TaskId {
                host: name.to_string(),
                play: "rollback".into(),
                role: None,
                task: match &wish.run {
                    Some(run) if wish.through => format!("take back {run} and what came after it"),
                    Some(run) => format!("take back {run}"),
                    None => "take back the last run".into(),
                },
                module: "rollback".into(),
                item: None,
            };
            let begun = Instant::now();
            let mut tell = |reply: Reply| match reply {
                Reply::Shown { diffs, .. } => sink.event(Event::Shown { id: id.clone(), diffs }),
                Reply::Progress { text, .. } => sink.event(Event::Progress { id: id.clone(), text }),
                _ => {}
            };
            let outcome =
                self.ask((name, start), mode, &run, (ROLLBACK, parameters.clone()), &mut tell).unwrap_or_else(
                    |error| Outcome { status: Status::Unreachable, error: Some(error), ..Outcome::default() },
                );
            let recap = recap(&outcome);
            sink.event(Event::Finished(Box::new(finished(id, outcome, begun))));
            sink.event(Event::HostDone { host: name.to_string() });
            (name.to_string(), recap)
        })?;
        let recap = Recap { plan: mode == Mode::Plan, hosts: recaps.into_iter().collect(), ..Recap::default() };
        sink.recap(&recap);
        Ok(recap)
    }

    fn each<T: Send>(&self, ask: impl Fn(&str, &HostStart) -> T + Sync) -> Result<Vec<T>, Diagnostic> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(self.machines.forks.clamp(1, self.hosts.len().max(1)))
            .build()
            .map_err(|e| Diagnostic::error(format!("can't start threads: {e}")))?;
        let hosts: Vec<(&String, &HostStart)> = self.hosts.iter().collect();
        Ok(pool.install(|| hosts.par_iter().map(|(name, start)| ask(name, start)).collect()))
    }

    /// One question to one host's agent.
    fn ask(
        &self,
        (name, start): (&str, &HostStart),
        mode: Mode,
        run: &str,
        (module, parameters): (&str, Value),
        tell: &mut dyn FnMut(Reply),
    ) -> Result<Outcome, Error> {
        self.open((name, start), mode, run, "rollback")?.task(self.task(start, module, parameters), tell)
    }

    fn open(&self, (name, start): (&str, &HostStart), mode: Mode, run: &str, what: &str) -> Result<Link, Error> {
        let hello = Hello {
            version: env!("CARGO_PKG_VERSION").into(),
            machine: Link::machine(&start.connection, &start.folder)?,
            mode,
            run: run.to_string(),
            pins: BTreeMap::new(),
            remote: super::link::is_remote(&start.connection),
            from: super::who(),
            what: what.into(),
            wait_for_lock: self.machines.wait_for_lock,
        };
        Link::open(name, &start.connection, hello, &self.ways)
    }

    fn task(&self, start: &HostStart, module: &str, parameters: Value) -> Task {
        Task {
            id: 0,
            chain: 0,
            user: self.user(start),
            module: module.to_string(),
            parameters,
            title: "rollback".into(),
            no_log: false,
            timeout: None,
            expect: None,
        }
    }

    /// Records are those of a user: root's, where the hosts' tasks become root.
    fn user(&self, start: &HostStart) -> Option<Become> {
        let reach = &start.connection;
        let user = reach.become_user.clone().unwrap_or_else(|| "root".into());
        let password = self.machines.become_password.as_ref();
        (self.machines.become_ || reach.become_).then(|| super::link::become_user(Some(reach), user, password))
    }
}

fn recap(outcome: &Outcome) -> HostRecap {
    let mut recap = HostRecap { reboot: outcome.reboot.clone(), ..HostRecap::default() };
    recap.count(&outcome.diffs);
    match outcome.status {
        Status::Failed => recap.counts.failed = 1,
        Status::Unreachable => recap.counts.unreachable = 1,
        Status::Changed | Status::WouldChange => (recap.counts.ok, recap.counts.changed) = (1, 1),
        Status::Unknown => recap.unknown = 1,
        Status::Ok | Status::Skipped => recap.counts.ok = 1,
    }
    recap
}

fn finished(id: TaskId, outcome: Outcome, begun: Instant) -> Finished {
    Finished {
        id,
        status: outcome.status,
        diffs: outcome.diffs,
        result: Value::Object(outcome.result),
        notes: outcome.notes,
        warnings: outcome.warnings,
        error: outcome.error.map(|error| error.to_string()),
        ignored: false,
        duration: begun.elapsed(),
    }
}
