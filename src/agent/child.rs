//! An agent in a child process, as another user: this same program, started through sudo.
//!
//! The agent greets before anything is said to it. Until then what goes in is sudo's: a password where it asks for one.
//! sudo may ask or not (it asks nobody who needs none), and may ask again, so it gets a password only for its prompt.

use std::io::{self, Read, Write};
use std::process::{self, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::protocol::{Become, Reply, Request};
use super::{GREETING, frame};
use crate::host::Error;

/// What sudo says when it wants a password; nothing else on its standard error looks so.
const PROMPT: &str = "[vfio-provision asks for sudo's password]";
/// As much of what the child says on standard error is kept.
const WORDS: usize = 4096;
/// How long is waited for the rest of it after the child ended: something that it left behind may hold the pipe.
const LINGER: Duration = Duration::from_secs(1);

/// Tells a child to stop, from any thread.
pub(super) struct Stopper(Output);

impl Stopper {
    pub(super) fn stop(&self) {
        if let Some(output) = &mut *locked(&self.0) {
            // A child that is gone has stopped.
            let _ = frame::write(output, &Request::Stop);
        }
    }
}

/// The way to the child; gone when it is closed.
type Output = Arc<Mutex<Option<ChildStdin>>>;

/// An agent of this machine that runs as another user.
pub(super) struct Child {
    child: process::Child,
    input: ChildStdout,
    output: Output,
    words: Arc<Mutex<String>>,
    errors: Option<JoinHandle<()>>,
}

pub(super) fn start(user: &Become) -> Result<Child, Error> {
    let trouble = |why: String| Error::failed(format!("can't become {}: {why}", user.user));
    let program =
        std::env::current_exe().map_err(|e| Error::failed(format!("can't tell which program this is: {e}")))?;
    let mut command = Command::new("sudo");
    match &user.password {
        // Whatever was typed in some terminal before: this password counts.
        Some(_) => command.args(["-S", "-k", "-p", PROMPT]),
        None => command.arg("-n"),
    };
    command.args(["-u", &user.user, "--"]).arg(program).arg("agent");
    // What sudo says is read here.
    command.env("LC_ALL", "C.UTF-8").current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|e| {
        trouble(format!("sudo does not start: {e}")).hint("install sudo, or run this program as that user")
    })?;
    let (Some(output), Some(input), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Err(trouble("sudo has no pipes".into()));
    };
    let (output, words): (Output, _) = (Arc::new(Mutex::new(Some(output))), Arc::default());
    let listener = Listener { output: Arc::clone(&output), words: Arc::clone(&words), password: user.password.clone() };
    let errors = std::thread::Builder::new()
        .name("sudo".into())
        .spawn(move || listener.listen(errors))
        .map_err(|e| trouble(format!("no thread can be started: {e}")))?;
    let mut process = Child { child, input, output, words, errors: Some(errors) };
    let mut greeting = [0; GREETING.len()];
    match process.input.read_exact(&mut greeting) {
        Ok(()) if greeting == *GREETING.as_bytes() => Ok(process),
        Ok(()) => Err(trouble("what was started is not this program".into())),
        Err(_) => {
            let words = process.last_words();
            let lines: Vec<&str> = words.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
            let error = trouble(lines.join("\n"));
            Err(match (words.contains("a password is required"), &user.password) {
                (true, None) => error.hint("give sudo's password: -K asks for it, ansible_become_password holds it"),
                (_, Some(_)) if words.contains("incorrect password") || words.contains("no password was provided") => {
                    error.hint("sudo's password is wrong: it is your own, not that of the user to become")
                }
                _ => error,
            })
        }
    }
}

/// Reads what the child says on standard error, and gives sudo its password.
struct Listener {
    output: Output,
    words: Arc<Mutex<String>>,
    password: Option<String>,
}

impl Listener {
    fn listen(mut self, mut errors: impl Read) {
        let mut bytes = [0; 1024];
        // A pipe that breaks ends it as its end does: nothing more is said.
        while let Ok(count @ 1..) = errors.read(&mut bytes) {
            let words = Arc::clone(&self.words);
            let mut words = locked(&words);
            words.push_str(&String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()));
            while let Some(place) = words.find(PROMPT) {
                words.replace_range(place..place + PROMPT.len(), "");
                self.answer();
            }
            let surplus = words.len().saturating_sub(WORDS);
            let surplus = (surplus..words.len()).find(|at| words.is_char_boundary(*at)).unwrap_or(0);
            words.drain(..surplus);
        }
    }

    /// A second question means that the password was wrong; no answer then makes sudo give up.
    fn answer(&mut self) {
        let mut output = locked(&self.output);
        let taken = match (self.password.take(), output.as_mut()) {
            (Some(password), Some(output)) => output.write_all(format!("{password}\n").as_bytes()).is_ok(),
            _ => false,
        };
        if !taken {
            *output = None;
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Child {
    pub(super) fn send(&mut self, request: &Request) -> io::Result<()> {
        match &mut *locked(&self.output) {
            Some(output) => frame::write(output, request),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }
    pub(super) fn receive(&mut self) -> io::Result<Option<Reply>> {
        frame::read(&mut self.input)
    }
    /// What stops it in the middle of a task.
    pub(super) fn stopper(&self) -> Stopper {
        Stopper(Arc::clone(&self.output))
    }
    pub(super) fn last_words(&mut self) -> String {
        *locked(&self.output) = None;
        let _ = self.child.wait();
        let ended = Instant::now();
        while self.errors.as_ref().is_some_and(|errors| !errors.is_finished()) && ended.elapsed() < LINGER {
            std::thread::sleep(Duration::from_millis(5));
        }
        locked(&self.words).clone()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        *locked(&self.output) = None;
        let _ = self.child.wait();
    }
}
