//! Runs commands that only read.

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::host::{Error, Output, Result};

/// What a shell answers for a program that is not there; used for the same here.
pub const NOT_FOUND: i32 = 127;

/// Where tools of the administrator are, which not every login shell has in its path.
const PLACES: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The search path of this process, with the places for administrators in it.
pub fn search_path() -> String {
    let mut path = std::env::var("PATH").unwrap_or_default();
    for place in PLACES {
        if !path.split(':').any(|part| part == place) {
            if !path.is_empty() {
                path.push(':');
            }
            path.push_str(place);
        }
    }
    path
}

/// Runs a command without input, in a known language, and waits for it at most so long. A program that is not there
/// answers code 127.
///
/// # Errors
/// When it can't be started for another reason, or takes too long (it is killed then, with all that it started).
pub fn run(argv: &[&str], time: Duration) -> Result<Output> {
    let Some((program, arguments)) = argv.split_first() else {
        return Err(Error::failed("there is no command to run"));
    };
    let spawned = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .env("PATH", search_path())
        .env_remove("LANGUAGE")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Output { code: NOT_FOUND, stdout: String::new(), stderr: format!("{program}: not found") });
        }
        Err(error) => return Err(Error::failed(format!("can't run {program}: {error}"))),
    };
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let end = Instant::now() + time;
    let status = wait(&mut child, end);
    // A grandchild that stays behind may keep the pipe open: what has come until then is all that counts.
    let rest = if status.is_some() { Duration::from_secs(2) } else { Duration::ZERO };
    let text = |pipe: mpsc::Receiver<Vec<u8>>| collect(&pipe, rest);
    match status {
        Some(status) => Ok(Output { code: code(status), stdout: text(stdout), stderr: text(stderr) }),
        None => {
            kill_group(&child);
            let _ = child.wait();
            Err(Error::failed(format!(
                "`{}` took longer than {} seconds and was stopped",
                argv.join(" "),
                time.as_secs()
            )))
        }
    }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    if let Some(mut pipe) = pipe {
        std::thread::spawn(move || {
            let mut buffer = vec![0; 64 * 1024];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                if sender.send(buffer.get(..length).unwrap_or_default().to_vec()).is_err() {
                    break;
                }
            }
        });
    }
    receiver
}

fn collect(pipe: &mpsc::Receiver<Vec<u8>>, patience: Duration) -> String {
    let end = Instant::now() + patience;
    let mut bytes = Vec::new();
    while let Ok(more) = pipe.recv_timeout(end.saturating_duration_since(Instant::now())) {
        bytes.extend(more);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn wait(child: &mut Child, end: Instant) -> Option<ExitStatus> {
    let mut pause = Duration::from_micros(200);
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() >= end {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

fn kill_group(child: &Child) {
    let pid = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
    }
}

fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// How far up to look for the process that sshd started.
const MAX_PARENTS: usize = 32;

/// The address of the SSH client at the other end. sudo clears the environment, so the parents are asked too.
pub fn ssh_connection() -> Option<String> {
    let client = |value: &str| value.split_whitespace().next().map(str::to_string);
    if let Ok(value) = std::env::var("SSH_CONNECTION") {
        return client(&value);
    }
    let mut pid = std::process::id();
    for _ in 0..MAX_PARENTS {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let found = environment.split(|b| *b == 0).find_map(|entry| entry.strip_prefix(b"SSH_CONNECTION="));
        if let Some(value) = found {
            return client(&String::from_utf8_lossy(value));
        }
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        pid = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok())?;
        if pid <= 1 {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_output_and_code() {
        let output = run(&["sh", "-c", "echo $LC_ALL; echo bad >&2; exit 3"], Duration::from_secs(10)).unwrap();
        assert_eq!(output, Output { code: 3, stdout: "C.UTF-8\n".into(), stderr: "bad\n".into() });
    }

    #[test]
    fn much_output_does_not_block() {
        let output = run(&["sh", "-c", "head -c 300000 /dev/zero | tr '\\0' x"], Duration::from_secs(20)).unwrap();
        assert_eq!(output.stdout.len(), 300_000);
    }

    #[test]
    fn a_missing_program_is_an_answer_and_a_slow_one_an_error() {
        assert_eq!(run(&["no-such-program-at-all"], Duration::from_secs(1)).unwrap().code, NOT_FOUND);
        let started = Instant::now();
        let error = run(&["sh", "-c", "sleep 60 & sleep 60"], Duration::from_millis(200)).unwrap_err();
        assert!(error.message.contains("took longer"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn a_process_killed_by_a_signal_says_so() {
        assert_eq!(run(&["sh", "-c", "kill -9 $$"], Duration::from_secs(10)).unwrap().code, 137);
    }
}
