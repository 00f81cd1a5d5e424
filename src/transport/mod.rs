//! A byte pipe to an agent. The agent is the same everywhere; only the pipe differs.

pub mod ask;
mod child;
pub mod far_end;
pub mod known_hosts;
pub mod openssh;
pub mod ssh_config;
mod thread;

use std::io;

use crate::agent::protocol::{Hello, Reply, Request};
use crate::host::Error;

pub use child::Become;

/// Where an agent is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// In this process.
    InProcess,
    /// In a child of this process, as another user.
    Child(Become),
}

/// A conversation with one agent.
pub struct Connection {
    pipe: Box<dyn Pipe>,
}

/// What carries the frames.
trait Pipe: Send {
    fn send(&mut self, request: &Request) -> io::Result<()>;
    fn receive(&mut self) -> io::Result<Option<Reply>>;
    /// What to say when the other end is gone.
    fn last_words(&mut self) -> String;
}

impl Connection {
    /// Starts an agent and greets it.
    ///
    /// # Errors
    /// When it can't be started or refuses the machine: the host is unreachable then.
    pub fn open(route: &Route, hello: Hello) -> Result<Connection, Error> {
        let pipe: Box<dyn Pipe> = match route {
            Route::InProcess => Box::new(thread::start()?),
            Route::Child(user) => Box::new(child::start(user)?),
        };
        let mut connection = Connection { pipe };
        connection.send(&Request::Hello(hello))?;
        match connection.receive()? {
            Reply::Ready { .. } => Ok(connection),
            Reply::Refused { error } => Err(error),
            _ => Err(Error::failed("the agent did not greet back")),
        }
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When the agent is gone.
    pub fn send(&mut self, request: &Request) -> Result<(), Error> {
        self.pipe.send(request).map_err(|error| self.gone(&error.to_string()))
    }

    /// Waits for the next reply.
    ///
    /// # Errors
    /// When the agent is gone.
    pub fn receive(&mut self) -> Result<Reply, Error> {
        match self.pipe.receive() {
            Ok(Some(reply)) => Ok(reply),
            Ok(None) => Err(self.gone("it closed the connection")),
            Err(error) => Err(self.gone(&error.to_string())),
        }
    }

    fn gone(&mut self, why: &str) -> Error {
        let words = self.pipe.last_words();
        let words = words.trim();
        if words.is_empty() {
            Error::failed(format!("lost the agent: {why}"))
        } else {
            Error::failed(format!("lost the agent: {why}\n{words}"))
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // The agent also ends when the pipe closes.
        let _ = self.pipe.send(&Request::End);
    }
}
