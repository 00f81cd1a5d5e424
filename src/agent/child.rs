//! Agents of other users: this same program, started by the agent of the host through sudo, su or doas.
//!
//! A child greets before anything is said to it. Until then what goes in is meant for the tool that asks for a password, and
//! what comes out (a banner, the words of a profile) is nobody's. sudo asks with words that we gave it. su and doas ask in
//! whatever language the machine speaks, so for them a line that stays open behind a colon is the question.
//!
//! Frames go through pipes even where a tool wants a terminal: the terminal is only its controlling one. su alone must have
//! its standard input there, so the terminal is in raw mode from the beginning and hands every byte on as it is.

mod place;
mod terminal;
#[cfg(test)]
mod tests;
mod words;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::protocol::{Reply, Request};
use super::{GREETING, frame};
use crate::host::Error;
use place::{Copied, Program};
use terminal::Terminal;
use words::{Failure, Verdict, Voice};

/// What sudo says when it wants a password; nothing else on its standard error looks so.
const PROMPT: &str = "[vfio-provision asks for sudo's password]";
/// As much may come before the greeting.
const MOST_NOISE: usize = 256 << 10;
/// How long a child may take to greet: long enough for slow directories, short enough for a question nobody understands.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long is waited for the rest of its words when it is gone.
const LINGER: Duration = Duration::from_secs(1);
/// Where administrators' tools are, whatever `PATH` a login that is no shell was given.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A start is tried again in another way so often: on a terminal, from another place, by su, after a busy file.
const MOST_TRIES: usize = 8;

/// By which tool one becomes another user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// `sudo`: asks for the password of who calls it.
    #[default]
    Sudo,
    /// `su`: asks for the password of the user to become; root needs none.
    Su,
    /// `doas`: asks for the password of who calls it.
    Doas,
}

impl Method {
    /// The tool's name, which is also what `ansible_become_method` says.
    pub fn name(self) -> &'static str {
        match self {
            Method::Sudo => "sudo",
            Method::Su => "su",
            Method::Doas => "doas",
        }
    }

    /// The method of that name (`ansible_become_method`), if it is one of ours.
    pub fn of(name: &str) -> Option<Method> {
        [Method::Sudo, Method::Su, Method::Doas].into_iter().find(|method| method.name() == name)
    }
}

/// How to become another user on a machine.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Become {
    /// The user.
    pub user: String,
    /// The tool.
    #[serde(default)]
    pub method: Method,
    /// The password that the tool wants, where it wants one.
    #[serde(default)]
    pub password: Option<String>,
    /// More flags for the tool (`ansible_become_flags`); sudo's are `-H` where none are given.
    #[serde(default)]
    pub flags: Option<String>,
    /// Another program for the tool (`ansible_become_exe`).
    #[serde(default)]
    pub exe: Option<String>,
}

impl Become {
    /// Becoming a user by sudo, which asks for nothing.
    pub fn sudo(user: impl Into<String>) -> Become {
        Become { user: user.into(), method: Method::Sudo, password: None, flags: None, exe: None }
    }
}

impl fmt::Debug for Become {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Become");
        shown.field("user", &self.user).field("method", &self.method);
        shown.field("password", &self.password.as_ref().map(|_| "********"));
        shown.field("flags", &self.flags).field("exe", &self.exe).finish()
    }
}

/// The way to the child; gone when it is closed.
type Output = Arc<Mutex<Option<File>>>;

/// An agent of another user.
pub struct Child {
    process: Process,
    replies: mpsc::Receiver<io::Result<Option<Reply>>>,
    output: Output,
    voice: Arc<Voice>,
    /// Its standard input is a terminal, which has no end of input other than hanging up.
    hangs_up: bool,
    /// Nothing more will come.
    over: bool,
}

/// Tells a child to stop, from any thread.
#[derive(Clone)]
pub struct Stopper {
    output: Output,
}

impl Stopper {
    /// Asks the child to finish the action under way and to begin no other. It does not wait for that.
    ///
    /// # Errors
    /// When the child is gone.
    pub fn stop(&self) -> io::Result<()> {
        write(&self.output, &Request::Stop)
    }
}

fn write(output: &Output, request: &Request) -> io::Result<()> {
    match &mut *locked(output) {
        Some(output) => frame::write(output, request),
        None => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

impl Child {
    /// Starts this same program as another user.
    ///
    /// # Errors
    /// When the tool is missing or refuses, with its words and what to do.
    pub fn start(user: &Become) -> Result<Child, Error> {
        Starter { program: Program::this()?, patience: PATIENCE }.start(user)
    }

    /// Starts another program that speaks as an agent does; for tests.
    ///
    /// # Errors
    /// As [`Child::start`].
    #[doc(hidden)]
    pub fn start_program(user: &Become, program: &Path, patience: Duration) -> Result<Child, Error> {
        Starter { program: Program::at(program), patience }.start(user)
    }

    /// Sends a request.
    ///
    /// # Errors
    /// When the child is gone.
    pub fn send(&mut self, request: &Request) -> io::Result<()> {
        write(&self.output, request)
    }

    /// Waits for the next reply; `None` when the child has closed.
    ///
    /// # Errors
    /// When what came is no frame.
    pub fn receive(&mut self) -> io::Result<Option<Reply>> {
        if self.over {
            return Ok(None);
        }
        // A reader that is gone without a word has nothing more to say.
        let reply = self.replies.recv().unwrap_or(Ok(None));
        self.over = !matches!(reply, Ok(Some(_)));
        reply
    }

    /// As [`Child::receive`], but not after a moment.
    ///
    /// # Errors
    /// `TimedOut` at that moment; otherwise as [`Child::receive`].
    pub fn receive_until(&mut self, until: Instant) -> io::Result<Option<Reply>> {
        if self.over {
            return Ok(None);
        }
        let reply = match self.replies.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(reply) => reply,
            Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::TimedOut.into()),
            Err(RecvTimeoutError::Disconnected) => Ok(None),
        };
        self.over = !matches!(reply, Ok(Some(_)));
        reply
    }

    /// What stops it from another thread.
    pub fn stopper(&self) -> Stopper {
        Stopper { output: Arc::clone(&self.output) }
    }

    /// What it last said on standard error; closes the way to it.
    pub fn last_words(&mut self) -> String {
        self.close();
        self.process.wait_until(Instant::now() + LINGER);
        self.voice.finish(Instant::now() + LINGER);
        self.voice.said()
    }

    fn close(&mut self) {
        if self.hangs_up {
            // Hanging up would also be heard by what the agent has started; a word is enough where it still listens.
            let _ = write(&self.output, &Request::End);
        } else {
            *locked(&self.output) = None;
        }
    }
}

impl Drop for Child {
    /// Waits until the action under way is finished: nobody may think before that that the machine is at rest.
    fn drop(&mut self) {
        self.close();
        while !self.over {
            self.over = !matches!(self.replies.recv(), Ok(Ok(Some(_))));
        }
        *locked(&self.output) = None;
        self.voice.hush();
        self.process.wait_until(Instant::now() + LINGER);
    }
}

/// A process that is never left as a zombie, and never waited for without end.
struct Process(Option<std::process::Child>);

impl Process {
    fn wait_until(&mut self, until: Instant) {
        while let Some(child) = &mut self.0 {
            match child.try_wait() {
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
                Ok(None) => return,
                _ => self.0 = None,
            }
        }
    }

    fn end(&mut self) {
        if let Some(child) = &mut self.0 {
            // sudo belongs to root and hears only its pipes; they are closed by now.
            let _ = child.kill();
        }
        self.wait_until(Instant::now() + LINGER);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.wait_until(Instant::now());
        if let Some(mut child) = self.0.take() {
            // Something that does not end is waited for by a thread that nobody waits for.
            let _ = std::thread::Builder::new().name("reaper".into()).spawn(move || child.wait());
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is started, and how long it may take.
struct Starter {
    program: Program,
    patience: Duration,
}

/// How one start is tried.
struct Try<'a> {
    user: &'a Become,
    method: Method,
    program: &'a Path,
    terminal: bool,
}

impl Starter {
    fn start(&self, user: &Become) -> Result<Child, Error> {
        if user.user.is_empty() || user.user.starts_with('-') || user.user.contains(['\0', '\n']) {
            return Err(Error::failed(format!("`{}` is not the name of a user", user.user.escape_debug())));
        }
        let root = rustix::process::geteuid().is_root();
        let (mut method, mut terminal, mut copied) = (user.method, user.method == Method::Su && !root, None);
        if !self.program.is_open_to(&user.user) {
            copied = self.program.copy().ok();
        }
        terminal |= method == Method::Doas && !root && user.password.is_some();
        let mut tries = 0;
        loop {
            tries += 1;
            let program = copied.as_ref().map_or(self.program.path(), Copied::path).to_path_buf();
            let one = Try { user, method, program: &program, terminal };
            let failure = match one.start(self.patience) {
                // The program runs, and what runs needs no name: a copy goes away here.
                Ok(child) => return Ok(child),
                Err(failure) => failure,
            };
            let again = tries < MOST_TRIES
                && if root && method != Method::Su && (failure.verdict == Verdict::NoTool || failure.is_forbidden()) {
                    // Root needs nobody's permission, and su is everywhere.
                    method = Method::Su;
                    true
                } else if failure.wants_terminal() && !terminal {
                    terminal = true;
                    true
                } else if failure.is_busy() {
                    std::thread::sleep(Duration::from_millis(50));
                    true
                } else if failure.cannot_execute(&program) && copied.is_none() {
                    // Its folder is closed to that user although its mode says otherwise (NFS, an access list).
                    copied = self.program.copy().ok();
                    copied.is_some()
                } else {
                    false
                };
            if !again {
                return Err(failure.error(user, method, &program, self.patience));
            }
        }
    }
}

/// Flags of the user's, without those about asking, which are ours.
fn flags(text: &str, method: Method) -> Vec<String> {
    let mut flags = shlex::split(text).unwrap_or_else(|| vec![text.to_string()]);
    if method == Method::Su {
        return flags;
    }
    flags.retain(|flag| flag != "--non-interactive" && flag != "--stdin");
    for flag in &mut flags {
        let letters = |flag: &str| flag.starts_with('-') && flag[1..].chars().all(|c| "AbEHiKknPSs".contains(c));
        if letters(flag) {
            flag.retain(|c| c != 'S' && c != 'n');
        }
    }
    flags.retain(|flag| flag != "-");
    flags
}

impl Try<'_> {
    /// The tool with its arguments.
    fn argv(&self) -> Vec<OsString> {
        let Become { user, password, exe, .. } = self.user;
        let own = exe.as_deref().filter(|_| self.method == self.user.method);
        let tool = own.map_or_else(
            || vec![self.method.name().to_string()],
            |exe| shlex::split(exe).filter(|words| !words.is_empty()).unwrap_or_else(|| vec![exe.to_string()]),
        );
        let mut argv: Vec<OsString> = tool.into_iter().map(OsString::from).collect();
        let given = self.user.flags.as_deref().filter(|_| self.method == self.user.method);
        let mut add = |words: &[&str]| argv.extend(words.iter().map(OsString::from));
        match given {
            Some(text) => flags(text, self.method).iter().for_each(|flag| add(&[flag])),
            None if self.method == Method::Sudo => add(&["-H"]),
            None => {}
        }
        match (self.method, password) {
            // Whatever was typed in some terminal before: this password counts.
            (Method::Sudo, Some(_)) => add(&["-S", "-k", "-p", PROMPT]),
            (Method::Sudo, None) => add(&["-n"]),
            (Method::Doas, None) => add(&["-n"]),
            _ => {}
        }
        if self.method == Method::Su {
            // One's own shell may be /usr/sbin/nologin. A terminal that hangs up must not stop an action half-way.
            let trap = if self.terminal { "trap '' HUP; " } else { "" };
            add(&["-s", "/bin/sh", "-c"]);
            let mut script = OsString::from(format!("{trap}exec "));
            script.push(quoted(self.program));
            script.push(" agent");
            argv.push(script);
            argv.push(user.into());
        } else {
            add(&["-u", user, "--"]);
            argv.extend([self.program.as_os_str(), OsStr::new("agent")].map(OsStr::to_os_string));
        }
        argv
    }

    fn start(&self, patience: Duration) -> Result<Child, Failure> {
        let until = Instant::now() + patience;
        let argv = self.argv();
        let path = search_path();
        let tool = argv.first().cloned().unwrap_or_default();
        if !is_there(&tool, &path) {
            return Err(Failure::new(Verdict::NoTool, format!("there is no `{}`", tool.display())));
        }
        let trouble = |what: &str| {
            let what = what.to_string();
            move |error: io::Error| Failure::new(Verdict::Other, format!("{what}: {error}"))
        };
        let terminal = self.terminal.then(Terminal::open).transpose().map_err(trouble("no terminal can be had"))?;
        let mut command = match &terminal {
            Some(terminal) => terminal.command(self.method == Method::Su),
            None => Command::new(&tool),
        };
        command.args(if terminal.is_some() { &argv[..] } else { argv.get(1..).unwrap_or_default() });
        // What the tools say is read here; `LANGUAGE` would win over `LC_ALL`.
        command.env("LC_ALL", "C.UTF-8").env_remove("LANGUAGE").env("PATH", &path).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(trouble("it does not start"))?;
        let (Some(input), Some(output), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(Failure::new(Verdict::Other, "it has no pipes".into()));
        };
        let mut process = Process(Some(child));
        let pipe = File::from(OwnedFd::from(input));
        let master = terminal.as_ref().map(Terminal::master).transpose().map_err(trouble("the terminal is lost"))?;
        let hangs_up = self.method == Method::Su && master.is_some();
        let (output_to, answer_to) = match (self.method, master) {
            (Method::Su, Some(master)) => (master, None),
            (Method::Doas, Some(master)) => (pipe, Some(master)),
            _ => (pipe, None),
        };
        let to_child: Output = Arc::new(Mutex::new(Some(output_to)));
        let asks = if self.method == Method::Sudo { Some(PROMPT) } else { None };
        let (voice, listener) = Voice::new(Arc::clone(&to_child), answer_to, self.user.password.clone(), asks)
            .map_err(trouble("no pipe can be made"))?;
        listener.listen(OwnedFd::from(errors)).map_err(trouble("no thread can be started"))?;
        if let Some(terminal) = &terminal {
            let master = terminal.master().map_err(trouble("the terminal is lost"))?;
            listener.listen(OwnedFd::from(master)).map_err(trouble("no thread can be started"))?;
        }
        let slave = terminal.map(Terminal::let_go);
        let (sender, replies) = mpsc::channel();
        let (greet, greeted) = mpsc::channel();
        let heard = Arc::clone(&voice);
        std::thread::Builder::new()
            .name("child".into())
            .spawn(move || read(output, &greet, &sender, &heard))
            .map_err(trouble("no thread can be started"))?;
        let greeted = greeted.recv_timeout(until.saturating_duration_since(Instant::now()));
        drop(slave);
        match greeted {
            Ok(()) => Ok(Child { process, replies, output: to_child, voice, hangs_up, over: false }),
            Err(why) => {
                *locked(&to_child) = None;
                if why == RecvTimeoutError::Timeout {
                    voice.hush();
                    process.end();
                    return Err(Failure::new(Verdict::Silent, voice.said()));
                }
                process.wait_until(Instant::now() + LINGER);
                voice.finish(Instant::now() + LINGER);
                process.end();
                Err(Failure::new(voice.verdict(), voice.said()))
            }
        }
    }
}

/// Reads what comes from the child: noise, the greeting, then frames.
fn read(
    output: ChildStdout,
    greet: &mpsc::Sender<()>,
    replies: &mpsc::Sender<io::Result<Option<Reply>>>,
    voice: &Voice,
) {
    let mut output = BufReader::new(output);
    let (mut noise, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let limit = u64::try_from(MOST_NOISE.saturating_sub(noise)).unwrap_or_default();
        match (&mut output).take(limit).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(count) => noise += count,
        }
        if line.ends_with(GREETING.as_bytes()) {
            break;
        }
        voice.hear(&line);
    }
    voice.greeted();
    let _ = greet.send(());
    loop {
        let next = frame::read(&mut output);
        let over = !matches!(next, Ok(Some(_)));
        if replies.send(next).is_err() || over {
            return;
        }
    }
}

/// In single quotes, for `sh`.
fn quoted(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut out = vec![b'\''];
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'\'' => out.extend_from_slice(b"'\\''"),
            other => out.push(*other),
        }
    }
    out.push(b'\'');
    OsString::from_vec(out)
}

fn search_path() -> OsString {
    let mut path = std::env::var_os("PATH").filter(|path| !path.is_empty()).unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push(SYSTEM_PATH);
    path
}

fn is_there(tool: &OsStr, path: &OsStr) -> bool {
    if Path::new(tool).components().count() > 1 {
        return Path::new(tool).exists();
    }
    std::env::split_paths(path).map(|folder: PathBuf| folder.join(tool)).any(|path| path.is_file())
}
