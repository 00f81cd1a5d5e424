//! One agent for all users of a machine: it serves its own user itself and starts children of itself for the others.

use std::collections::HashMap;
use std::io;

use super::child::{self, Child};
use super::inbox::Inbox;
use super::protocol::{Become, Hello, MachineKind, Mode, Outcome, Reply, Request, Status, Task};
use super::session::Session;
use super::stop::Stop;
use crate::change::Op;
use crate::host::{Error, Result};

pub(super) struct Hub {
    hello: Hello,
    session: Session,
    children: HashMap<Become, Child>,
    /// In a dry run, all that was foreseen: a child that is started later must know it.
    foreseen: Vec<Op>,
    /// The chain in which a task failed: what was sent ahead of that answer is not done.
    broken: Option<u64>,
    inbox: Inbox,
    stop: Stop,
}

impl Hub {
    pub(super) fn new(hello: Hello, session: Session, inbox: Inbox, stop: Stop) -> Hub {
        Hub { hello, session, children: HashMap::new(), foreseen: Vec::new(), broken: None, inbox, stop }
    }

    /// The controller says that the run is over. After a stop it is not: what was sent ahead was dropped.
    pub(super) fn end(&mut self) {
        if !self.stop.asked() {
            self.session.end();
            for child in self.children.values_mut() {
                // One that is gone has no more to say.
                let _ = child.send(&Request::End);
            }
        }
    }

    /// What another agent of this machine foresaw.
    pub(super) fn assume(&mut self, ops: &[Op]) {
        self.session.assume(ops);
        self.foreseen.extend(ops.iter().cloned());
    }

    /// Does a task and answers, unless it is not to be done any more.
    ///
    /// # Errors
    /// When the controller can't be answered. The task is over then: a controller that goes away stops no action half-way.
    pub(super) fn task(&mut self, mut task: Task, answer: &mut dyn FnMut(Reply) -> io::Result<()>) -> io::Result<()> {
        if self.stop.asked() || self.broken == Some(task.chain) {
            return Ok(());
        }
        let (id, chain) = (task.id, task.chain);
        let user = task.user.take().filter(|user| self.is_another(user));
        let mut lost = None;
        let mut tell = |reply: Reply| {
            if lost.is_none() {
                lost = answer(reply).err();
            }
        };
        let mut outcome = match &user {
            None => self.session.task(&task, &mut tell),
            Some(user) => self.by_child(user, task, &mut tell).unwrap_or_else(|error| {
                self.children.remove(user);
                Outcome { status: Status::Unreachable, error: Some(error), ..Outcome::default() }
            }),
        };
        if let Some(error) = lost {
            return Err(error);
        }
        match self.hello.mode {
            Mode::Plan => self.spread(user.as_ref(), &outcome)?,
            Mode::Apply => outcome.actions.clear(),
        }
        if outcome.status.breaks_chain(self.hello.mode) || outcome.guard.is_some() {
            self.broken = Some(chain);
        }
        answer(Reply::Done { id, outcome: Box::new(outcome) })
    }

    /// A folder belongs to whoever runs this; root needs nobody to become root.
    fn is_another(&self, user: &Become) -> bool {
        let root = rustix::process::geteuid().is_root();
        matches!(self.hello.machine, MachineKind::Live) && (!root || user.user != "root")
    }

    fn by_child(&mut self, user: &Become, task: Task, tell: &mut dyn FnMut(Reply)) -> Result<Outcome> {
        if !self.children.contains_key(user) {
            let mut child = child::start(user)?;
            self.stop.also(child.stopper());
            send(&mut child, &Request::Hello(self.hello.clone()))?;
            match receive(&mut child)? {
                Reply::Ready { .. } => {}
                Reply::Refused { error } => return Err(error),
                _ => return Err(Error::failed("the agent did not greet back")),
            }
            if !self.foreseen.is_empty() {
                send(&mut child, &Request::Assume { ops: self.foreseen.clone() })?;
            }
            self.children.insert(user.clone(), child);
        }
        let Some(child) = self.children.get_mut(user) else { return Err(Error::failed("the agent is gone")) };
        send(child, &Request::Task(Box::new(task)))?;
        loop {
            match receive(child)? {
                Reply::Done { outcome, .. } => return Ok(*outcome),
                Reply::Stopped => {}
                Reply::Want { sha256, from } => {
                    tell(Reply::Want { sha256, from });
                    send(child, &Request::Blob(self.inbox.blob()?))?;
                }
                reply => tell(reply),
            }
        }
    }

    /// In a dry run all agents of a machine must know what one of them foresaw.
    fn spread(&mut self, from: Option<&Become>, outcome: &Outcome) -> io::Result<()> {
        if outcome.actions.is_empty() || !matches!(self.hello.machine, MachineKind::Live) {
            return Ok(());
        }
        let ops: Vec<Op> = outcome.actions.iter().map(|action| action.op.clone()).collect();
        if from.is_some() {
            self.session.assume(&ops);
        }
        for (user, child) in &mut self.children {
            if Some(user) != from {
                child.send(&Request::Assume { ops: ops.clone() })?;
            }
        }
        self.foreseen.extend(ops);
        Ok(())
    }
}

fn send(child: &mut Child, request: &Request) -> Result<()> {
    child.send(request).map_err(|error| gone(child, &error.to_string()))
}

fn receive(child: &mut Child) -> Result<Reply> {
    match child.receive() {
        Ok(Some(reply)) => Ok(reply),
        Ok(None) => Err(gone(child, "it closed the connection")),
        Err(error) => Err(gone(child, &error.to_string())),
    }
}

fn gone(child: &mut Child, why: &str) -> Error {
    let words = child.last_words();
    let words = words.trim();
    let line = if words.is_empty() { "" } else { "\n" };
    Error::failed(format!("lost the agent: {why}{line}{words}"))
}
