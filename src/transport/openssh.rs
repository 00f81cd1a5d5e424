//! An agent at the far end of the user's own `ssh`: what libssh2 can't do (FIDO keys, Kerberos, host certificates,
//! post-quantum key exchange), OpenSSH's client does.
//!
//! It reads its own configuration, so only what the inventory says goes on its command line. It asks nothing at first
//! (`BatchMode`), as many may log in at the same time; where a login fails that a person could help, it gets the terminal
//! for itself and tries once more.

use std::io::{self, Read};
use std::path::PathBuf;
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Pipe;
use super::ask::Ask;
use super::far_end::{self, AfterPut, Noise};
use crate::agent::frame;
use crate::agent::protocol::{Reply, Request};
use crate::host::Error;

/// As much of what `ssh` says on standard error is kept.
const WORDS: usize = 4096;
/// How long is waited for `ssh` to end by itself once its input is closed, and for its last words.
const LINGER: Duration = Duration::from_secs(2);
/// The exit code of `ssh` for its own troubles.
const SSH_FAILED: i32 = 255;
/// The key exchanges that a quantum computer does not break, as OpenSSH calls them.
const POST_QUANTUM: [&str; 3] =
    ["mlkem768x25519-sha256", "sntrup761x25519-sha512", "sntrup761x25519-sha512@openssh.com"];

/// A host for the user's own `ssh`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The name or address to log in to; `~/.ssh/config` may know it.
    pub address: String,
    /// `ansible_port`.
    pub port: Option<u16>,
    /// `ansible_user`.
    pub user: Option<String>,
    /// `ansible_ssh_private_key_file`.
    pub key_file: Option<PathBuf>,
    /// `ansible_host_key_checking`.
    pub check_host_key: Option<bool>,
    /// `ansible_timeout`.
    pub connect_timeout: Option<Duration>,
    /// `ansible_ssh_retries` and one.
    pub attempts: Option<u32>,
    /// `ansible_ssh_common_args` and `ansible_ssh_extra_args`, in words.
    pub arguments: Vec<String>,
    /// `ssh_post_quantum`.
    pub post_quantum: bool,
    /// The `ssh` to run.
    pub program: PathBuf,
}

impl Target {
    /// A host of which nothing is known but its address.
    pub fn new(address: impl Into<String>) -> Target {
        Target {
            address: address.into(),
            port: None,
            user: None,
            key_file: None,
            check_host_key: None,
            connect_timeout: None,
            attempts: None,
            arguments: Vec::new(),
            post_quantum: false,
            program: PathBuf::from("ssh"),
        }
    }

    /// The whole command line.
    fn command(&self, remote: &str, batch: bool) -> Result<Command, Error> {
        if self.address.is_empty() || self.address.starts_with('-') {
            return Err(Error::refused(format!("`{}` is no name of a host", self.address)));
        }
        let mut command = Command::new(&self.program);
        command.arg("-T");
        let mut option = |text: String| {
            command.arg("-o").arg(text);
        };
        // Whatever the configuration asks for besides a login: none of it belongs to a channel that carries frames.
        for text in ["ClearAllForwardings=yes", "RemoteCommand=none", "PermitLocalCommand=no", "EscapeChar=none"] {
            option(text.into());
        }
        if batch {
            option("BatchMode=yes".into());
        }
        if let Some(check) = self.check_host_key {
            option(format!("StrictHostKeyChecking={}", if check { "yes" } else { "no" }));
        }
        if let Some(timeout) = self.connect_timeout {
            option(format!("ConnectTimeout={}", timeout.as_secs().max(1)));
        }
        if let Some(attempts) = self.attempts {
            option(format!("ConnectionAttempts={}", attempts.max(1)));
        }
        if self.post_quantum {
            option(format!("KexAlgorithms={}", self.post_quantum_exchanges()?));
        }
        if let Some(user) = &self.user {
            command.arg("-l").arg(user);
        }
        if let Some(port) = self.port {
            command.arg("-p").arg(port.to_string());
        }
        if let Some(file) = &self.key_file {
            command.arg("-i").arg(file);
        }
        command.args(&self.arguments).arg("--").arg(&self.address).arg(remote);
        Ok(command)
    }

    /// Those that this `ssh` knows; it refuses names that it does not know.
    fn post_quantum_exchanges(&self) -> Result<String, Error> {
        let output = Command::new(&self.program).args(["-Q", "kex"]).stdin(Stdio::null()).output();
        let output = output.map_err(|error| self.no_ssh(&error))?;
        let known = String::from_utf8_lossy(&output.stdout);
        let mut found = Vec::new();
        found.extend(POST_QUANTUM.into_iter().filter(|name| known.lines().any(|line| line.trim() == *name)));
        if found.is_empty() {
            return Err(Error::refused(format!(
                "`ssh_post_quantum` is set, and {} knows no post-quantum key exchange",
                self.program.display()
            ))
            .hint("OpenSSH 8.5 and later know one"));
        }
        Ok(found.join(","))
    }

    fn no_ssh(&self, error: &io::Error) -> Error {
        Error::failed(format!("can't start {}: {error}", self.program.display()))
            .hint("ansible_connection=openssh needs OpenSSH's client; ansible_connection=ssh does not")
    }
}

/// The program that is to run at the far end.
#[derive(Clone, Debug)]
pub struct Program {
    /// Where it is here.
    pub path: PathBuf,
    /// The hash of its content, in hexadecimal digits.
    pub sha256: String,
    /// Its length.
    pub size: u64,
}

/// What comes from the child.
enum Event {
    Greeted,
    Offset(u64),
    Reply(Box<Reply>),
    Broken(io::Error),
}

/// What the reading thread reads first.
#[derive(Clone, Copy)]
enum First {
    Greeting,
    Offset,
}

/// A running `ssh`, with the agent behind it.
pub struct Process {
    child: Child,
    output: Option<ChildStdin>,
    events: Receiver<Event>,
    words: Arc<Mutex<String>>,
}

/// Why there is none.
struct Failure {
    /// Its exit code; `None` when it was stopped because it took too long.
    code: Option<i32>,
    words: String,
}

/// Starts the agent on a host, and puts it there first if it is not. `until`: how long all of it may take; putting it there
/// may take longer, as long as it goes on.
///
/// # Errors
/// When it can't be reached, or no agent can run there.
pub fn connect(target: &Target, program: &Program, ask: &dyn Ask, until: Instant) -> Result<Process, Error> {
    let (mut skip, mut tries, mut batch, mut sent) = (0, 0, true, false);
    loop {
        let failure = match start(target, &program.sha256, batch, until)? {
            Ok(process) => return Ok(process),
            Err(failure) => failure,
        };
        match failure.code {
            Some(far_end::MISSING | far_end::NOT_EXECUTABLE) if !sent => {}
            Some(SSH_FAILED) if batch && a_person_can_help(&failure.words) => {
                // The person answers to `ssh` itself, one host at a time; from then on it may have to ask again.
                let mut done = None;
                if ask.lend(&mut || done = Some(start(target, &program.sha256, false, until))) {
                    match done {
                        Some(Ok(Ok(process))) => return Ok(process),
                        Some(Ok(Err(again))) if again.code == Some(far_end::MISSING) => batch = false,
                        Some(Ok(Err(again))) => return Err(unreachable(target, &again)),
                        Some(Err(error)) => return Err(error),
                        None => return Err(unreachable(target, &failure)),
                    }
                } else {
                    return Err(unreachable(target, &failure));
                }
            }
            _ => return Err(unreachable(target, &failure)),
        }
        // It is not there.
        while !sent {
            let failure = send(target, program, skip, batch, ask)?;
            tries += 1;
            match far_end::after_put(failure.code.unwrap_or(SSH_FAILED), skip, tries) {
                AfterPut::Start => sent = true,
                AfterPut::Again => {}
                AfterPut::Elsewhere => (skip, tries) = (skip + 1, 0),
                AfterPut::GiveUp => return Err(unreachable(target, &failure)),
            }
        }
    }
}

/// Would it have asked something?
fn a_person_can_help(words: &str) -> bool {
    ["Permission denied", "Host key verification failed", "Too many authentication failures"]
        .iter()
        .any(|part| words.contains(part))
}

fn start(
    target: &Target,
    sha256: &str,
    batch: bool,
    until: Instant,
) -> Result<std::result::Result<Process, Failure>, Error> {
    let mut process = Process::spawn(target, &far_end::start(sha256), batch, First::Greeting)?;
    match process.next(Some(until)) {
        Ok(Some(Event::Greeted)) => Ok(Ok(process)),
        Ok(_) => Ok(Err(process.end())),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(Err(process.stop())),
        Err(error) => {
            Err(Error::failed(format!("{}: {error}", target.address))
                .hint("what that machine says is no agent's greeting"))
        }
    }
}

/// Sends the program. A "failure" with exit code 0 is none.
fn send(target: &Target, program: &Program, skip: usize, batch: bool, ask: &dyn Ask) -> Result<Failure, Error> {
    if !batch {
        let mut done = None;
        ask.lend(&mut || done = Some(send_now(target, program, skip, false)));
        return done
            .unwrap_or_else(|| Err(Error::failed(format!("{}: there is no terminal any more", target.address))));
    }
    send_now(target, program, skip, true)
}

fn send_now(target: &Target, program: &Program, skip: usize, batch: bool) -> Result<Failure, Error> {
    let here = |error: io::Error| Error::io("read", &program.path.display().to_string(), &error);
    let remote = far_end::put(&program.sha256, program.size, skip);
    let mut process = Process::spawn(target, &remote, batch, First::Offset)?;
    let wait = target.connect_timeout.unwrap_or(Duration::from_secs(30)) + Duration::from_secs(30);
    let offset = match process.next(Some(Instant::now() + wait)) {
        Ok(Some(Event::Offset(offset))) => offset,
        Ok(_) => return Ok(process.end()),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(process.stop()),
        Err(error) => return Err(Error::failed(format!("{}: {error}", target.address))),
    };
    let mut file = std::fs::File::open(&program.path).map_err(here)?;
    io::Seek::seek(&mut file, io::SeekFrom::Start(offset)).map_err(here)?;
    let mut file = file.take(program.size.saturating_sub(offset));
    if let Some(output) = &mut process.output {
        // When it breaks, the exit code and the last words say why.
        let _ = io::copy(&mut file, output);
    }
    process.output = None;
    // What takes long now is checking the hash.
    match process.next(Some(Instant::now() + Duration::from_secs(120))) {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(process.stop()),
        _ => Ok(process.end()),
    }
}

fn unreachable(target: &Target, failure: &Failure) -> Error {
    let (name, words) = (&target.address, failure.words.trim());
    match failure.code {
        None => Error::failed(format!("{name} did not answer in time{}", after(words)))
            .hint("ansible_timeout is how long connecting may take"),
        Some(SSH_FAILED) => {
            let error = Error::failed(format!("ssh can't reach {name}{}", after(words)));
            if words.contains("no matching key exchange method") && target.post_quantum {
                error.hint("`ssh_post_quantum` is set, and that machine's sshd knows no post-quantum key exchange")
            } else if words.contains("Host key verification failed") {
                error.hint(format!("log in once with `ssh {name}`, and compare the fingerprint that it shows"))
            } else if words.contains("Permission denied") {
                error.hint(format!("`ssh {name} true` must work; passwords are given by ansible_connection=ssh only"))
            } else {
                error
            }
        }
        Some(code) => {
            let (message, hint) = far_end::explain(code, words);
            let error = Error::failed(format!("{name}: {message}"));
            match hint {
                Some(hint) => error.hint(hint),
                None => error,
            }
        }
    }
}

fn after(words: &str) -> String {
    if words.is_empty() { String::new() } else { format!(": {words}") }
}

impl Process {
    fn spawn(target: &Target, remote: &str, batch: bool, first: First) -> Result<Process, Error> {
        let mut command = target.command(remote, batch)?;
        // What ssh says is read here.
        command.env("LC_ALL", "C").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| target.no_ssh(&error))?;
        let (output, input, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (sender, events) = channel();
        let words: Arc<Mutex<String>> = Arc::default();
        let mut process = Process { child, output, events, words: Arc::clone(&words) };
        let (Some(input), Some(errors)) = (input, errors) else {
            process.kill();
            return Err(Error::failed("ssh has no pipes"));
        };
        let threads =
            std::thread::Builder::new().name("ssh".into()).spawn(move || listen(input, first, &sender)).and_then(
                |_| std::thread::Builder::new().name("ssh's words".into()).spawn(move || overhear(errors, &words)),
            );
        match threads {
            Ok(_) => Ok(process),
            Err(error) => {
                process.kill();
                Err(Error::failed(format!("no thread can be started: {error}")))
            }
        }
    }

    /// What comes next; `None` when nothing more comes.
    fn next(&mut self, until: Option<Instant>) -> io::Result<Option<Event>> {
        let event = match until {
            None => self.events.recv().ok(),
            Some(until) => match self.events.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Disconnected) => None,
                Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::TimedOut.into()),
            },
        };
        match event {
            Some(Event::Broken(error)) => Err(error),
            event => Ok(event),
        }
    }

    fn said(&self) -> String {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).trim().to_string()
    }

    /// Closes its input and waits a little; then it must go.
    fn finish(&mut self) -> Option<ExitStatus> {
        self.output = None;
        let ended = Instant::now();
        let mut status = None;
        while status.is_none() && ended.elapsed() < LINGER {
            status = self.child.try_wait().ok().flatten();
            if status.is_none() {
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        if status.is_none() {
            self.kill();
        }
        // The thread that listens ends with the child, unless a master connection (ControlPersist) holds the pipe: that one
        // is not waited for.
        let ended = Instant::now();
        while Arc::strong_count(&self.words) > 1 && ended.elapsed() < Duration::from_millis(200) {
            std::thread::sleep(Duration::from_millis(1));
        }
        status
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// It ended by itself.
    fn end(mut self) -> Failure {
        let code = self.finish().and_then(|status| status.code());
        Failure { code, words: self.said() }
    }

    /// It took too long.
    fn stop(mut self) -> Failure {
        self.kill();
        self.finish();
        Failure { code: None, words: self.said() }
    }
}

impl Pipe for Process {
    /// What comes meanwhile is read by a thread of its own, so this never waits for itself.
    fn send(&mut self, request: &Request) -> io::Result<()> {
        match &mut self.output {
            Some(output) => frame::write(output, request),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn receive(&mut self, until: Option<Instant>) -> io::Result<Option<Reply>> {
        loop {
            match self.next(until)? {
                Some(Event::Reply(reply)) => return Ok(Some(*reply)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }

    fn last_words(&mut self) -> String {
        self.finish();
        self.said()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Reads what the far end says and hands it on: there is room for all of it, so the far end never waits for us.
fn listen(mut input: impl Read, first: First, events: &Sender<Event>) {
    let mut rest = match skip_noise(&mut input, first, events) {
        Ok(Some(rest)) => io::Cursor::new(rest).chain(input),
        Ok(None) => return,
        Err(error) => {
            let _ = events.send(Event::Broken(error));
            return;
        }
    };
    loop {
        let event = match frame::read::<Reply>(&mut rest) {
            Ok(Some(reply)) => Event::Reply(Box::new(reply)),
            Ok(None) => return,
            Err(error) => Event::Broken(error),
        };
        let over = matches!(event, Event::Broken(_));
        if events.send(event).is_err() || over {
            return;
        }
    }
}

/// Skips what stands before the answer; what followed it already is given back.
fn skip_noise(input: &mut impl Read, first: First, events: &Sender<Event>) -> io::Result<Option<Vec<u8>>> {
    let too_much = |noise: &Noise| {
        let words = noise.words();
        let end = words.lines().last().unwrap_or_default().chars().take(200).collect::<String>();
        io::Error::new(io::ErrorKind::InvalidData, format!("no agent answers there, but much else does: {end}"))
    };
    let (mut noise, mut bytes) = (Noise::default(), [0; 8192]);
    loop {
        let count = match input.read(&mut bytes) {
            Ok(0) => return Ok(None),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let bytes = bytes.get(..count).unwrap_or_default();
        match first {
            First::Greeting => {
                if let Some(rest) = noise.greeting(bytes).map_err(|_| too_much(&noise))? {
                    let _ = events.send(Event::Greeted);
                    return Ok(Some(rest));
                }
            }
            First::Offset => {
                if let Some(offset) = noise.offset(bytes).map_err(|_| too_much(&noise))? {
                    let _ = events.send(Event::Offset(offset));
                    // Nothing more is expected; its end is.
                    return io::copy(input, &mut io::sink()).map(|_| None);
                }
            }
        }
    }
}

fn overhear(mut errors: ChildStderr, words: &Mutex<String>) {
    let mut bytes = [0; 1024];
    while let Ok(count @ 1..) = errors.read(&mut bytes) {
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        words.push_str(&String::from_utf8_lossy(bytes.get(..count).unwrap_or_default()));
        let surplus = words.len().saturating_sub(WORDS);
        let surplus = (surplus..words.len()).find(|at| words.is_char_boundary(*at)).unwrap_or(0);
        words.drain(..surplus);
    }
}

#[cfg(test)]
mod tests;
