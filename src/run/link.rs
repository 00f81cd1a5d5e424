//! The way to one host's agent. Tasks are sent ahead of the answers to earlier ones: a run costs about one round trip,
//! however many tasks it has.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Instant;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::ways::Ways;
use crate::agent::child::Method;
use crate::agent::protocol::{BLOB, Become, Blob, Hello, MachineKind, Outcome, Reply, Request, Task};
use crate::host::Error;
use crate::inventory::{Connection as Reach, ConnectionKind};
use crate::transport::Connection;

/// The way to one host's agent.
pub struct Link {
    connection: Connection,
    tasks: u64,
    chain: u64,
    /// Files that the agent may ask for, by their SHA-256.
    files: HashMap<String, PathBuf>,
}

impl Link {
    /// Starts the agent. That it greets back is not waited for.
    ///
    /// # Errors
    /// When the inventory asks for a connection that can't be had, or the host can't be reached.
    pub fn open(name: &str, reach: &Reach, hello: Hello, ways: &Ways) -> Result<Link, Error> {
        Ok(Link { connection: ways.open(name, reach, hello)?, tasks: 0, chain: 0, files: HashMap::new() })
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

    /// Which boot of the machine this is; waits until the agent greets back.
    ///
    /// # Errors
    /// When the agent is lost, or says nothing until then.
    pub fn boot(&mut self, until: Instant) -> Result<Option<String>, Error> {
        self.connection.ready(until).map(|ready| ready.boot.clone())
    }

    /// Which boot of the machine this is, where the agent has said it already.
    pub fn known_boot(&self) -> Option<String> {
        self.connection.greeted().and_then(|ready| ready.boot.clone())
    }

    /// A file that a task is about; it is sent only if the machine asks for it.
    pub fn offer(&mut self, sha256: &str, path: &Path) {
        self.files.insert(sha256.to_string(), path.to_path_buf());
    }

    fn part(&self, sha256: String, from: u64) -> Blob {
        let read = || -> io::Result<(String, bool)> {
            let path = self.files.get(&sha256).ok_or(io::ErrorKind::NotFound)?;
            let mut file = File::open(path)?;
            file.seek(SeekFrom::Start(from))?;
            let mut bytes = Vec::new();
            file.take(BLOB as u64).read_to_end(&mut bytes)?;
            Ok((STANDARD.encode(&bytes), bytes.len() < BLOB))
        };
        match read() {
            Ok((bytes, last)) => Blob { sha256, bytes, last, error: None },
            Err(error) => {
                let name = self.files.get(&sha256).map_or_else(|| sha256.clone(), |path| path.display().to_string());
                Blob { sha256, error: Some(format!("the controller can't read {name}: {error}")), ..Blob::default() }
            }
        }
    }

    /// Has the agent finish the action under way and begin no other. A link that is broken shows it at the next reply.
    pub fn stop(&mut self) {
        let _ = self.connection.send(&Request::Stop);
    }

    /// Nobody waits for this connection any more when it is dropped: a new one takes its place.
    pub fn forsake(&mut self) {
        self.connection.forsake();
    }

    /// What is sent from now on is not part of what was dropped.
    pub fn new_chain(&mut self) {
        self.chain += 1;
    }

    /// The next reply; `None` when there was none until then. Files that the agent asks for are sent.
    ///
    /// # Errors
    /// When the agent is lost: the host is unreachable then.
    pub fn next(&mut self, until: Option<Instant>) -> Result<Option<Reply>, Error> {
        loop {
            match self.connection.receive(until)? {
                Some(Reply::Want { sha256, from }) => {
                    let blob = self.part(sha256, from);
                    self.connection.send(&Request::Blob(blob))?;
                }
                other => return Ok(other),
            }
        }
    }

    /// The outcome of the oldest task that has none yet.
    ///
    /// # Errors
    /// When the agent is lost: the host is unreachable then.
    pub fn outcome(&mut self, tell: &mut dyn FnMut(Reply)) -> Result<Outcome, Error> {
        loop {
            match self.next(None)? {
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

/// How a user is become on a host; `password` is what `-K` was told.
pub fn become_user(reach: Option<&Reach>, user: String, password: Option<&String>) -> Become {
    let method = reach.and_then(|reach| reach.become_method.as_deref()).and_then(Method::of);
    Become {
        user,
        method: method.unwrap_or_default(),
        password: password.or(reach.and_then(|reach| reach.become_password.as_ref())).cloned(),
        flags: reach.and_then(|reach| reach.become_flags.clone()),
        exe: reach.and_then(|reach| reach.become_exe.clone()),
    }
}

/// Is the host reached over a network, so that it could be cut off and come back to?
pub fn is_remote(reach: &Reach) -> bool {
    matches!(reach.kind, ConnectionKind::Ssh | ConnectionKind::OpenSsh)
}
