//! An agent in a child process, as another user: this same program, started through sudo, su or doas.

use std::io::{self, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::Pipe;
use crate::agent::frame;
use crate::agent::protocol::{Reply, Request};
use crate::host::Error;

/// How to become another user on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Become {
    /// The user.
    pub user: String,
    /// sudo's password, where it wants one.
    pub password: Option<String>,
}

pub(super) struct Process {
    child: Child,
    input: ChildStdout,
    output: Option<ChildStdin>,
}

pub(super) fn start(user: &Become) -> Result<Process, Error> {
    let program =
        std::env::current_exe().map_err(|e| Error::failed(format!("can't tell which program this is: {e}")))?;
    let mut command = Command::new("sudo");
    match &user.password {
        Some(_) => command.args(["-S", "-p", "", "-k"]),
        None => command.arg("-n"),
    };
    command.args(["-u", &user.user, "--"]).arg(program).arg("agent");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| {
        Error::failed(format!("can't become {}: sudo does not start: {e}", user.user))
            .hint("install sudo, or run this program as that user")
    })?;
    let (Some(mut output), Some(input)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Error::failed("sudo has no pipes"));
    };
    if let Some(password) = &user.password {
        // sudo reads one line and leaves the rest of the pipe to the agent.
        output
            .write_all(format!("{password}\n").as_bytes())
            .map_err(|e| Error::failed(format!("sudo does not take the password: {e}")))?;
    }
    Ok(Process { child, input, output: Some(output) })
}

impl Pipe for Process {
    fn send(&mut self, request: &Request) -> io::Result<()> {
        match &mut self.output {
            Some(output) => frame::write(output, request),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
    fn receive(&mut self) -> io::Result<Option<Reply>> {
        frame::read(&mut self.input)
    }
    fn last_words(&mut self) -> String {
        self.output = None;
        let mut words = String::new();
        if let Some(mut errors) = self.child.stderr.take() {
            // Whatever can be read is better than nothing.
            let _ = errors.by_ref().take(4096).read_to_string(&mut words);
        }
        let _ = self.child.wait();
        if words.contains("a password is required") {
            words.push_str("give sudo's password: -K asks for it, ansible_become_password holds it");
        }
        words
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.output = None;
        let _ = self.child.wait();
    }
}
