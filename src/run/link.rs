//! The way to one host's agent. Tasks are sent ahead of the answers to earlier ones: a run costs about one round trip,
//! however many tasks it has.

use std::path::{Path, PathBuf};

use crate::agent::protocol::{Hello, MachineKind, Outcome, Reply, Request, Task};
use crate::host::Error;
use crate::inventory::{Connection as Reach, ConnectionKind};
use crate::transport::{Connection, Route};

/// The way to one host's agent.
pub struct Link {
    connection: Connection,
    tasks: u64,
    chain: u64,
}

impl Link {
    /// Starts the agent. That it greets back is not waited for.
    ///
    /// # Errors
    /// When the inventory asks for a connection that can't be had, or the host can't be reached.
    pub fn open(reach: &Reach, hello: Hello) -> Result<Link, Error> {
        let route = match reach.kind {
            ConnectionKind::Local | ConnectionKind::Sandbox => Route::InProcess,
            ConnectionKind::Ssh | ConnectionKind::OpenSsh => {
                return Err(Error::failed(
                    "this version reaches machines by `local` and `sandbox` only; SSH comes next",
                )
                .hint("run it on the workstation itself with ansible_connection=local"));
            }
        };
        Ok(Link { connection: Connection::open(&route, hello)?, tasks: 0, chain: 0 })
    }

    /// Which machine the agent serves.
    ///
    /// # Errors
    /// When the inventory does not say where a sandbox is.
    pub fn machine(reach: &Reach, folder: &Path) -> Result<MachineKind, Error> {
        if reach.kind != ConnectionKind::Sandbox {
            return Ok(MachineKind::Live);
        }
        let root: PathBuf = match &reach.sandbox_root {
            Some(root) => folder.join(root),
            None => {
                return Err(Error::failed("the host has ansible_connection=sandbox and no sandbox_root")
                    .hint("set sandbox_root to the folder that holds the machine"));
            }
        };
        Ok(MachineKind::Folder { root, recorded: reach.sandbox_machine.clone() })
    }

    /// Sends a task; answers come in the order of sending. Where a task fails, the agent drops what was sent after it,
    /// until [`Link::new_chain`].
    ///
    /// # Errors
    /// When the agent is lost: the host is unreachable then.
    pub fn send(&mut self, mut task: Task) -> Result<(), Error> {
        self.tasks += 1;
        (task.id, task.chain) = (self.tasks, self.chain);
        self.connection.send(&Request::Task(Box::new(task)))
    }

    /// What is sent from now on is not part of what was dropped.
    pub fn new_chain(&mut self) {
        self.chain += 1;
    }

    /// The outcome of the oldest task that has none yet.
    ///
    /// # Errors
    /// When the agent is lost: the host is unreachable then.
    pub fn outcome(&mut self, tell: &mut dyn FnMut(Reply)) -> Result<Outcome, Error> {
        loop {
            match self.connection.receive(None)? {
                Some(Reply::Done { outcome, .. }) => return Ok(*outcome),
                Some(reply) => tell(reply),
                None => {}
            }
        }
    }

    /// Has a task done and waits for it; nothing may be on its way.
    ///
    /// # Errors
    /// When the agent is lost: the host is unreachable then.
    pub fn task(&mut self, task: Task, tell: &mut dyn FnMut(Reply)) -> Result<Outcome, Error> {
        self.new_chain();
        self.send(task)?;
        self.outcome(tell)
    }
}
