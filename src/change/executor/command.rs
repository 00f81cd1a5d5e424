//! Running a command: argv, bounded output, a time limit, and no shell.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::io::{Read, Write};
use std::net::IpAddr;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};

use super::explain;
use crate::change::Run;
use crate::host::{Error, Output, Result};

/// How much of each stream is kept: the end, where the trouble is told.
const KEPT: usize = 1 << 20;
const DEFAULT_TIMEOUT: u64 = 3600;
/// Between the request to end and the kill.
const GRACE: Duration = Duration::from_secs(5);
/// How long is waited for output after the command ended: a daemon that it left behind may hold the pipe for ever.
const LINGER: Duration = Duration::from_secs(2);
/// strerror(ENOSPC).
const FULL: &str = "No space left on device";
const SBIN: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Runs a command and judges its exit code.
pub fn run(root: &Path, run: &Run, progress: &mut dyn FnMut(&str)) -> Result<Output> {
    let shown = shown(&run.argv);
    let cwd = root.join(run.cwd.as_deref().unwrap_or("/").trim_start_matches('/'));
    if !cwd.is_dir() {
        return Err(Error::failed(format!("can't run `{shown}`: the folder {} does not exist", cwd.display())));
    }
    let timeout = Duration::from_secs(run.timeout.unwrap_or(DEFAULT_TIMEOUT));
    let (output, in_time) = execute(&run.argv, run.stdin.as_deref(), &run.env, &cwd, timeout, progress)?;
    if !in_time {
        let mut error = Error::failed(format!("`{shown}` was ended after {} seconds", timeout.as_secs()));
        error.output = Some(output);
        return Err(error.hint("it took longer than its time limit"));
    }
    let fine = run.any_code || run.ok_codes.contains(&output.code) || (run.ok_codes.is_empty() && output.code == 0);
    if fine { Ok(output) } else { Err(failed(&shown, output)) }
}

/// Runs a check on a file under its temporary name; `%s` stands for that.
pub fn validate(argv: &[String], temporary: &str, path: &str) -> Result<()> {
    let argv: Vec<String> = argv.iter().map(|part| part.replace("%s", temporary)).collect();
    let (output, in_time) = execute(&argv, None, &[], Path::new("/"), Duration::from_secs(300), &mut |_| {})?;
    if in_time && output.code == 0 {
        return Ok(());
    }
    let mut error = failed(&shown(&argv), output);
    error.message =
        format!("the new content of {path} did not pass its check, so the file is as it was: {}", error.message);
    Err(error)
}

/// What a small tool prints, if it is there and succeeds.
pub fn answer(program: &str, arguments: &[&str]) -> Option<String> {
    let argv: Vec<String> = std::iter::once(program).chain(arguments.iter().copied()).map(str::to_string).collect();
    let (output, in_time) = execute(&argv, None, &[], Path::new("/"), Duration::from_secs(30), &mut |_| {}).ok()?;
    (in_time && output.code == 0).then(|| output.stdout.trim().to_string())
}

/// The addresses of a host, from `getent`: a static binary must not load the machine's own NSS libraries into itself.
pub fn addresses(host: &str) -> Vec<IpAddr> {
    if let Ok(address) = host.trim_matches(['[', ']']).parse() {
        return vec![address];
    }
    let answer = answer("getent", &["ahosts", host]).unwrap_or_default();
    answer
        .lines()
        .filter(|line| line.contains("STREAM"))
        .filter_map(|line| line.split_whitespace().next()?.parse().ok())
        .collect()
}

fn failed(shown: &str, output: Output) -> Error {
    let how = match output.code {
        code @ 129..=192 => format!("was ended by signal {}", code - 128),
        code => format!("ended with exit code {code}"),
    };
    let mut error = Error::failed(format!("`{shown}` {how}"));
    // Often said far above what a program says last, which is what is shown.
    if [&output.stdout, &output.stderr].iter().any(|said| said.contains(FULL)) {
        error = error.hint(format!(
            "it said \"{FULL}\": a file system was full. `df -h` and `df -i` say which; make room, then run this again"
        ));
    }
    error.output = Some(output);
    error
}

/// A command as people would type it.
pub fn shown(argv: &[String]) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,+@%^".contains(c);
    let quoted: Vec<String> = argv
        .iter()
        .map(|part| {
            if !part.is_empty() && part.chars().all(plain) {
                part.clone()
            } else {
                format!("'{}'", part.replace('\'', r"'\''"))
            }
        })
        .collect();
    quoted.join(" ")
}

/// The folders where programs are looked for: the caller's, and those of the system that a plain user's shell lacks.
fn search_path() -> OsString {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    folders.retain(|folder| folder.is_absolute());
    for folder in SBIN {
        if !folders.iter().any(|known| known == Path::new(folder)) {
            folders.push(folder.into());
        }
    }
    std::env::join_paths(folders).unwrap_or_else(|_| SBIN.join(":").into())
}

fn find(program: &str, path: &OsStr) -> Result<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let runs = |place: &Path| place.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    let found = if program.contains('/') {
        Some(PathBuf::from(program)).filter(|place| runs(place))
    } else {
        std::env::split_paths(path).map(|folder| folder.join(program)).find(|place| runs(place))
    };
    found.ok_or_else(|| {
        Error::failed(format!("the program `{program}` is not on this machine"))
            .hint("install the package that brings it, or give its full path")
    })
}

fn execute(
    argv: &[String],
    stdin: Option<&str>,
    env: &[(String, String)],
    cwd: &Path,
    timeout: Duration,
    progress: &mut dyn FnMut(&str),
) -> Result<(Output, bool)> {
    let (program, arguments) = argv.split_first().ok_or_else(|| Error::parameters("the command is empty"))?;
    let path = env.iter().rev().find(|(key, _)| key == "PATH").map_or_else(search_path, |(_, value)| value.into());
    let mut command = Command::new(find(program, &path)?);
    command
        .arg0(program)
        .args(arguments)
        .env("PATH", &path)
        .env_remove("LANGUAGE")
        .env_remove(crate::change::failpoint::VARIABLE)
        .env("LC_ALL", "C.UTF-8")
        .envs(env.iter().map(|(key, value)| (key, value)))
        .current_dir(cwd)
        .stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command.spawn().map_err(|e| explain("run", &shown(argv), &e))?;
    let (done, ends) = channel();
    if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
        let text = text.as_bytes().to_vec();
        // A command that does not read its input closes the pipe: its own matter.
        std::thread::spawn(move || drop(pipe.write_all(&text)));
    }
    let out = Tail::follow(child.stdout.take(), done.clone());
    let err = Tail::follow(child.stderr.take(), done);
    let held_up = || waits_for(program, &out.text()).or_else(|| waits_for(program, &err.text()));
    let (status, in_time) =
        wait(&mut child, timeout, progress, program, &held_up).map_err(|e| explain("wait for", program, &e))?;
    linger(&ends);
    let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok((Output { code, stdout: out.text(), stderr: err.text() }, in_time))
}

fn wait(
    child: &mut Child,
    timeout: Duration,
    progress: &mut dyn FnMut(&str),
    program: &str,
    held_up: &dyn Fn() -> Option<String>,
) -> std::io::Result<(ExitStatus, bool)> {
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let signal = |signal| group.map(|group| kill_process_group(group, signal));
    let start = Instant::now();
    let (mut pause, mut told) = (Duration::from_millis(1), 0);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, true));
        }
        let elapsed = start.elapsed();
        if elapsed >= timeout {
            break;
        }
        if elapsed.as_secs() / 10 > told {
            told = elapsed.as_secs() / 10;
            let why = held_up().map_or_else(String::new, |line| format!(": {line}"));
            progress(&format!("{program} has been running for {} s{why}", told * 10));
        }
        std::thread::sleep(pause.min(timeout - elapsed));
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    signal(Signal::TERM);
    let asked = Instant::now();
    while asked.elapsed() < GRACE {
        if let Some(status) = child.try_wait()? {
            signal(Signal::KILL);
            return Ok((status, false));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    signal(Signal::KILL);
    Ok((child.wait()?, false))
}

/// The line in which a package manager says that it waits for another one, which holds its lock. What other programs
/// print is not repeated before they have ended: it may be secret.
fn waits_for(program: &str, said: &str) -> Option<String> {
    let name = program.rsplit('/').next().unwrap_or_default();
    if !["apt-get", "dnf", "yum"].contains(&name) {
        return None;
    }
    let waits = |line: &&str| line.starts_with("Waiting for ") || line.starts_with("Another app is currently holding");
    // yum says a few lines about the other one behind it.
    said.lines().rev().map(str::trim).take(6).find(waits).map(str::to_string)
}

/// Waits until both streams have ended, but not for ever.
fn linger(ends: &Receiver<()>) {
    let until = Instant::now() + LINGER;
    for _ in 0..2 {
        if let Err(RecvTimeoutError::Timeout) = ends.recv_timeout(until.saturating_duration_since(Instant::now())) {
            return;
        }
    }
}

/// The end of a stream, read by a thread of its own.
struct Tail(Arc<Mutex<Kept>>);

#[derive(Default)]
struct Kept {
    bytes: VecDeque<u8>,
    dropped: usize,
}

impl Tail {
    fn follow(stream: Option<impl Read + Send + 'static>, done: Sender<()>) -> Tail {
        let kept = Arc::new(Mutex::new(Kept::default()));
        if let Some(mut stream) = stream {
            let shared = Arc::clone(&kept);
            std::thread::spawn(move || {
                let mut buffer = [0; 8192];
                loop {
                    match stream.read(&mut buffer) {
                        Ok(0) => break,
                        Ok(length) => shared
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .push(buffer.get(..length).unwrap_or_default()),
                        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                        Err(_) => break,
                    }
                }
                let _ = done.send(());
            });
        }
        Tail(kept)
    }

    fn text(&self) -> String {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (front, back) = kept.bytes.as_slices();
        let text = String::from_utf8_lossy(&[front, back].concat()).into_owned();
        if kept.dropped == 0 { text } else { format!("[the first {} bytes are left out]\n{text}", kept.dropped) }
    }
}

impl Kept {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
        let over = self.bytes.len().saturating_sub(KEPT);
        self.bytes.drain(..over);
        self.dropped += over;
    }
}

#[cfg(test)]
mod tests {
    use super::waits_for;

    #[test]
    fn who_waits_for_a_lock_says_so() {
        // apt 2.6 and dnf 4.14 as they print it; yum 3.4 (cli.py, utils.py).
        let apt = "Waiting for cache lock: Could not get lock /var/lib/dpkg/lock-frontend. \
                   It is held by process 81 (perl)...";
        assert_eq!(waits_for("apt-get", &format!("{apt}\n{apt}\n")).as_deref(), Some(apt));
        let dnf = "Last metadata expiration check: 0:01:02 ago.\nWaiting for process with pid 81 to finish.\n";
        assert_eq!(waits_for("/usr/bin/dnf", dnf).as_deref(), Some("Waiting for process with pid 81 to finish."));
        let yum = "Another app is currently holding the yum lock; waiting for it to exit...\n\
                   \x20 The other application is: yum\n\
                   \x20   Memory :  31 M RSS (349 MB VSZ)\n    State  : Sleeping, pid: 81\n";
        assert!(waits_for("yum", yum).unwrap().starts_with("Another app is currently holding the yum lock"));
        let over = format!("{dnf}Dependencies resolved.\n1\n2\n3\n4\n5\n");
        assert_eq!(waits_for("dnf", &over), None);
        assert_eq!(waits_for("cat", "Waiting for the password hunter2\n"), None);
    }
}
