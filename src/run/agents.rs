//! The agents of one host: one for every user that its tasks run as.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use crate::agent::protocol::{Hello, MachineKind, Mode, Outcome, Reply, Request, Task};
use crate::change::Op;
use crate::host::Error;
use crate::inventory::{Connection as Reach, ConnectionKind};
use crate::transport::{Become, Connection, Route};

/// The agents of one host.
pub struct Agents {
    hello: Hello,
    sandbox: bool,
    open: HashMap<Option<Become>, Connection>,
    /// In a dry run, all that was foreseen: an agent that is started later must know it.
    foreseen: Vec<Op>,
    tasks: u64,
}

impl Agents {
    /// No agent is started yet.
    ///
    /// # Errors
    /// When the inventory asks for a connection that can't be had.
    pub fn new(
        reach: &Reach,
        folder: &Path,
        mode: Mode,
        run: &str,
        pins: BTreeMap<String, String>,
    ) -> Result<Agents, Error> {
        let machine = match reach.kind {
            ConnectionKind::Local => MachineKind::Live,
            ConnectionKind::Sandbox => MachineKind::Folder {
                root: match &reach.sandbox_root {
                    Some(root) => folder.join(root),
                    None => {
                        return Err(Error::failed("the host has ansible_connection=sandbox and no sandbox_root")
                            .hint("set sandbox_root to the folder that holds the machine"));
                    }
                },
                recorded: reach.sandbox_machine.clone(),
            },
            ConnectionKind::Ssh | ConnectionKind::OpenSsh => {
                return Err(Error::failed(
                    "this version reaches machines by `local` and `sandbox` only; SSH comes next",
                )
                .hint("run it on the workstation itself with ansible_connection=local"));
            }
        };
        let sandbox = reach.kind == ConnectionKind::Sandbox;
        let hello = Hello {
            version: env!("CARGO_PKG_VERSION").into(),
            machine,
            mode,
            run: run.into(),
            pins,
            from: String::new(),
            what: String::new(),
            wait_for_lock: 0,
        };
        Ok(Agents { hello, sandbox, open: HashMap::new(), foreseen: Vec::new(), tasks: 0 })
    }

    /// Who asks, what it is about, and how long an apply waits for another run on the machine.
    pub fn announced(mut self, from: String, what: String, wait_for_lock: u64) -> Agents {
        (self.hello.from, self.hello.what, self.hello.wait_for_lock) = (from, what, wait_for_lock);
        self
    }

    /// Has a task done (or foreseen) by the agent of this user; `None` is who runs this program.
    ///
    /// # Errors
    /// When the agent can't be started or is lost: the host is unreachable then.
    pub fn task(
        &mut self,
        user: Option<Become>,
        mut task: Task,
        tell: &mut dyn FnMut(Reply),
    ) -> Result<Outcome, Error> {
        // A folder belongs to whoever runs this; root needs nobody to become root.
        let root = rustix::process::geteuid().is_root();
        let user = user.filter(|user| !self.sandbox && (!root || user.user != "root"));
        if !self.open.contains_key(&user) {
            let route = user.clone().map_or(Route::InProcess, Route::Child);
            let mut connection = Connection::open(&route, self.hello.clone())?;
            if !self.foreseen.is_empty() {
                connection.send(&Request::Assume { ops: self.foreseen.clone() })?;
            }
            self.open.insert(user.clone(), connection);
        }
        let Some(connection) = self.open.get_mut(&user) else {
            return Err(Error::failed("the agent is gone"));
        };
        self.tasks += 1;
        task.id = self.tasks;
        let sent = connection.send(&Request::Task(Box::new(task)));
        let outcome = match sent.and_then(|()| last_reply(connection, tell)) {
            Ok(outcome) => outcome,
            Err(error) => {
                self.open.remove(&user);
                return Err(error);
            }
        };
        if self.hello.mode == Mode::Plan && !outcome.actions.is_empty() && !self.sandbox {
            let ops: Vec<Op> = outcome.actions.iter().map(|action| action.op.clone()).collect();
            for (other, connection) in &mut self.open {
                if *other != user {
                    connection.send(&Request::Assume { ops: ops.clone() })?;
                }
            }
            self.foreseen.extend(ops);
        }
        Ok(outcome)
    }
}

fn last_reply(connection: &mut Connection, tell: &mut dyn FnMut(Reply)) -> Result<Outcome, Error> {
    loop {
        match connection.receive()? {
            Reply::Done { outcome, .. } => return Ok(*outcome),
            reply => tell(reply),
        }
    }
}
