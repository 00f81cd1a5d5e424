//! A byte pipe to an agent. The agent is the same everywhere; only the pipe differs.

pub mod ask;
pub mod far_end;
pub mod known_hosts;
pub mod openssh;
pub mod ssh;
pub mod ssh_config;
#[cfg(test)]
mod testing;
mod thread;

use std::io;
use std::time::{Duration, Instant};

use crate::agent::protocol::{Hello, Mode, Reply, Request, Status};
use crate::host::Error;

/// What carries requests to an agent and its replies back.
pub trait Pipe: Send {
    /// Sends a request. It never waits for a far end that itself waits to be read: what comes meanwhile is kept.
    ///
    /// # Errors
    /// When the far end is gone.
    fn send(&mut self, request: &Request) -> io::Result<()>;

    /// The next reply; `None` when the far end closed the conversation.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] when none came until then; anything else when the far end is gone.
    fn receive(&mut self, until: Option<Instant>) -> io::Result<Option<Reply>>;

    /// What to say when the other end is gone.
    fn last_words(&mut self) -> String;
}

/// A conversation with one agent.
pub struct Connection {
    pipe: Box<dyn Pipe>,
    /// What it said when it greeted back.
    ready: Option<Ready>,
    mode: Mode,
    /// Something was done there that the machine's journal tells of: it also has to tell how the run ended.
    begun: bool,
    /// Why the agent refused the machine: whatever is asked of it after that has the same answer.
    refused: Option<Error>,
}

/// As long is waited for a machine to write down how the run ended.
const LAST_LINE: Duration = Duration::from_secs(3);

/// What an agent says of its machine when it greets back.
#[derive(Clone, Debug, Default)]
pub struct Ready {
    /// Which boot of the machine this is.
    pub boot: Option<String>,
}

impl Connection {
    /// Greets an agent in this process.
    ///
    /// # Errors
    /// When it can't be started.
    pub fn here(hello: Hello) -> Result<Connection, Error> {
        Connection::over(thread::start()?, hello)
    }

    /// Greets an agent that has been started. What is sent next need not wait until it greets back;
    /// [`Connection::receive`] says if it refuses.
    ///
    /// # Errors
    /// When it is gone already: the host is unreachable then.
    pub fn over(pipe: impl Pipe + 'static, hello: Hello) -> Result<Connection, Error> {
        let pipe: Box<dyn Pipe> = Box::new(pipe);
        let mut connection = Connection { pipe, ready: None, mode: hello.mode, begun: false, refused: None };
        connection.send(&Request::Hello(hello))?;
        Ok(connection)
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When the agent is gone.
    pub fn send(&mut self, request: &Request) -> Result<(), Error> {
        if let Some(error) = &self.refused {
            return Err(error.clone());
        }
        match self.pipe.send(request) {
            Ok(()) => Ok(()),
            // An agent that refused says why before it goes.
            Err(_) if self.ready.is_none() => match self.pipe.receive(None) {
                Ok(Some(Reply::Refused { error })) => Err(self.refused(error)),
                _ => Err(self.gone("it closed the connection")),
            },
            Err(error) => Err(self.gone(&error.to_string())),
        }
    }

    /// Waits for the next reply; `None` when there was none until then.
    ///
    /// # Errors
    /// When the agent is gone, or refuses the machine.
    pub fn receive(&mut self, until: Option<Instant>) -> Result<Option<Reply>, Error> {
        if let Some(error) = &self.refused {
            return Err(error.clone());
        }
        loop {
            match self.pipe.receive(until) {
                Ok(Some(Reply::Ready { boot, .. })) => self.ready = Some(Ready { boot }),
                Ok(Some(Reply::Refused { error })) => return Err(self.refused(error)),
                Ok(Some(reply)) => {
                    if let Reply::Done { outcome, .. } = &reply {
                        let done = matches!(outcome.status, Status::Changed | Status::Failed);
                        // A machine that goes down, or away, hears nothing more over this connection.
                        let stays = !outcome.rebooted && outcome.guard.is_none();
                        self.begun = stays && (self.begun || (done && self.mode == Mode::Apply));
                    }
                    return Ok(Some(reply));
                }
                Ok(None) => return Err(self.gone("it closed the connection")),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(None),
                Err(error) => return Err(self.gone(&error.to_string())),
            }
        }
    }

    /// Waits until it greets back, where it has not yet. Nothing may have been sent that is answered.
    ///
    /// # Errors
    /// When it is gone, refuses the machine, or says nothing until then.
    pub fn ready(&mut self, until: Instant) -> Result<&Ready, Error> {
        while self.ready.is_none() {
            match self.pipe.receive(Some(until)) {
                Ok(Some(Reply::Ready { boot, .. })) => self.ready = Some(Ready { boot }),
                Ok(Some(Reply::Refused { error })) => return Err(self.refused(error)),
                Ok(Some(_)) => return Err(Error::failed("the agent did not greet back")),
                Ok(None) => return Err(self.gone("it closed the connection")),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(Error::failed("the agent is there and says nothing"));
                }
                Err(error) => return Err(self.gone(&error.to_string())),
            }
        }
        self.ready.as_ref().ok_or_else(|| Error::failed("the agent did not greet back"))
    }

    /// What it said when it greeted back, where it has.
    pub fn greeted(&self) -> Option<&Ready> {
        self.ready.as_ref()
    }

    fn refused(&mut self, error: Error) -> Error {
        self.refused = Some(error.clone());
        error
    }

    /// Nobody waits for it any more when it is dropped: a new connection takes its place, and this one may be dead.
    pub fn forsake(&mut self) {
        self.begun = false;
    }

    fn gone(&mut self, why: &str) -> Error {
        self.begun = false;
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
        // The agent also ends when the pipe closes, and one that did nothing need not be waited for. But what closes at
        // once behind a word may take it along (sshd throws away what it holds for a command when the connection ends):
        // then a run that went well would stand in the machine's journal as one that was cut.
        if self.pipe.send(&Request::End).is_ok() && self.begun {
            let until = Instant::now() + LAST_LINE;
            while let Ok(Some(_)) = self.pipe.receive(Some(until)) {}
        }
    }
}
