//! A dead man's switch: a machine that is about to change the very network it is reached over puts the old one back by
//! itself, unless the controller comes back over a new connection in time and says that it is fine.
//!
//! A process of its own keeps watch, as the agent may end with the connection that it serves. Who renames the file `armed`
//! decides: the controller to `confirmed`, or the watch to `reverting`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lock::{Holder, Lock};
use super::protocol::{Outcome, Status};
use crate::change::undo::{Restoring, State, Subject, Thing, Touched, touched};
use crate::change::{Action, Guard, Op, Run};
use crate::host::{Error, Live, Machine, Result};

/// The question to an agent whether a change that is watched is to stay.
pub const CONFIRM: &str = "vfio_provision_confirm";

const PLAN: &str = "plan.json";
const WATCHING: &str = "watching";
const ARMED: &str = "armed";
const CONFIRMED: &str = "confirmed";
const REVERTING: &str = "reverting";
const REVERTED: &str = "reverted.json";
const OUTCOME: &str = "outcome.json";
/// How a task ended that failed by itself.
const FAILED: &str = "failed.json";
/// What the agent asks for when its actions failed: the old state, now.
const NOW: &str = "revert-now";

const TICK: Duration = Duration::from_millis(50);
/// Until the watch must say that it watches.
const START: Duration = Duration::from_secs(10);
/// Until systemd must have started it; where it may not (SELinux, a home that services can't see), this agent does.
const UNIT: Duration = Duration::from_secs(3);
/// Looks whether there is a watch are over by then.
const LOOKS: Duration = Duration::from_millis(500);
/// Until a watch that is over must be gone.
const GONE: Duration = Duration::from_secs(2);
/// Longest that putting back may take.
const REVERT: Duration = Duration::from_secs(180);
/// Longest for one command that brings the old state into force.
const COMMAND: Duration = Duration::from_secs(60);

/// What the watch needs to know.
#[derive(Debug, Serialize, Deserialize)]
struct Watch {
    seconds: u64,
    things: Vec<(String, State)>,
    back: Vec<Vec<String>>,
    /// The run that it belongs to: no other may change the machine until it is known what stays.
    holder: Holder,
}

/// A watch that is kept over the actions of one task.
pub(super) struct Armed {
    folder: PathBuf,
    /// Names it.
    pub token: String,
    until: Instant,
}

fn trouble(what: &str, path: &Path, error: &io::Error) -> Error {
    Error::failed(format!("can't {what} {}: {error}", path.display()))
        .hint("without a guard the network is not touched; make room or make the folder writable, then run it again")
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(|e| trouble("write", path, &e))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| trouble("write", path, &e))
}

fn json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::failed(format!("can't write down the guard: {e}")))
}

fn folder_of(state: &Path, token: &str) -> Result<PathBuf> {
    let fine = !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    if fine { Ok(state.join("guard").join(token)) } else { Err(Error::parameters("this is no guard's name")) }
}

/// Keeps what is there now and starts the watch. Nothing may be done before this came back.
///
/// # Errors
/// When it can't be kept or no watch can be started.
pub(super) fn arm(
    state: &Path,
    token: &str,
    guard: &Guard,
    actions: &[Action],
    machine: &dyn Machine,
    holder: Holder,
) -> Result<Armed> {
    let folder = folder_of(state, token)?;
    forget(state);
    let copies = folder.join("before");
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&copies).map_err(|e| trouble("make", &copies, &e))?;
    let mut count = 0;
    let mut keep = |bytes: &[u8]| {
        count += 1;
        write(&copies.join(count.to_string()), bytes)?;
        Ok(count.to_string())
    };
    let mut things: Vec<(String, State)> = Vec::new();
    for action in actions.iter().filter(|action| !matches!(action.op, Op::Run(_) | Op::Poke { .. } | Op::Wait(_))) {
        for Touched { subject, before } in touched(machine, &action.op, &mut keep)? {
            if let Subject::Path(path) = subject
                && !things.iter().any(|(known, _)| *known == path)
            {
                things.push((path, before));
            }
        }
    }
    let watch = Watch { seconds: guard.seconds, things, back: guard.back.clone(), holder };
    write(&folder.join(PLAN), &json(&watch)?)?;
    write(&folder.join(ARMED), b"")?;
    if !start(&folder, token)? {
        // Whoever comes late must not put anything back.
        let _ = fs::remove_file(folder.join(ARMED));
        return Err(Error::failed("the process that would put the old network back does not start")
            .hint("without it the network is not touched"));
    }
    Ok(Armed { folder, token: token.to_string(), until: Instant::now() + Duration::from_secs(guard.seconds) })
}

/// Guards that are over are of no use any more.
pub(super) fn forget(state: &Path) {
    let Ok(entries) = fs::read_dir(state.join("guard")) else { return };
    for folder in entries.flatten().map(|entry| entry.path()) {
        if !is_watched(&folder) {
            // That some can't be removed stops nobody.
            let _ = fs::remove_dir_all(&folder);
        }
    }
}

/// Does the watch live? It holds this file until its end, however it ends.
fn is_watched(folder: &Path) -> bool {
    File::open(folder.join(WATCHING))
        .is_ok_and(|file| flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK))
}

fn is_soon(longest: Duration, holds: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !holds() {
        if begun.elapsed() > longest {
            return false;
        }
        std::thread::sleep(TICK);
    }
    true
}

/// A process that outlasts this agent: a unit of its own under systemd, as a session's processes may end with it.
/// Answers whether it watches.
fn start(folder: &Path, token: &str) -> Result<bool> {
    let own = |command: &mut Command| {
        command.arg("agent").arg("--watch").arg(folder);
        command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    };
    if Path::new("/run/systemd/system").is_dir() {
        let mut command = Command::new("systemd-run");
        command.args(["--quiet", "--collect", &format!("--unit=vfio-provision-guard-{token}")]).arg(program(folder)?);
        own(&mut command);
        if command.status().is_ok_and(|status| status.success()) && is_soon(UNIT, || is_watched(folder)) {
            return Ok(true);
        }
    }
    // This very program, even where its file is gone.
    let mut command = Command::new("/proc/self/exe");
    own(&mut command);
    let child = command.spawn().map_err(|e| Error::failed(format!("can't start the guard: {e}")))?;
    // It goes on when this process has ended; who waits for it then is init.
    drop(child);
    Ok(is_soon(START, || is_watched(folder)))
}

/// A file with this program. An agent may have been started from a temporary copy that is gone by now.
fn program(folder: &Path) -> Result<PathBuf> {
    match std::env::current_exe() {
        Ok(path) if path.exists() => Ok(path),
        _ => {
            let copy = folder.join("program");
            let copied = fs::copy("/proc/self/exe", &copy)
                .and_then(|_| fs::set_permissions(&copy, fs::Permissions::from_mode(0o700)));
            copied.map_err(|e| trouble("write", &copy, &e))?;
            Ok(copy)
        }
    }
}

impl Armed {
    /// How the watched task ended. A failed one has the old state put back at once, and that is waited for.
    ///
    /// # Errors
    /// When it can't be written down.
    pub(super) fn acted(&self, outcome: &mut Outcome) -> Result<()> {
        if outcome.status != Status::Failed {
            outcome.guard = Some(self.token.clone());
            return write(&self.folder.join(OUTCOME), &json(outcome)?);
        }
        // The connection may be lost: whoever comes over a new one is to hear it too.
        write(&self.folder.join(FAILED), &json(outcome)?)?;
        write(&self.folder.join(NOW), b"")?;
        is_soon(REVERT, || self.folder.join(REVERTED).exists());
        outcome.notes.push(said(&self.folder, "it failed"));
        Ok(())
    }

    /// What is to be done instead of an action: no command goes on when the machine puts everything back.
    ///
    /// # Errors
    /// When the machine does that already.
    pub(super) fn within(&self, op: &Op) -> Result<Option<Op>> {
        let left = self.until.saturating_duration_since(Instant::now()).as_secs();
        if left == 0 || !self.folder.join(ARMED).exists() {
            return Err(Error::failed("the time in which it had to be confirmed is over before it was done")
                .hint("give it more: `confirm_timeout`"));
        }
        let Op::Run(run) = op else { return Ok(None) };
        let timeout = Some(run.timeout.map_or(left, |timeout| timeout.min(left)));
        Ok(Some(Op::Run(Run { timeout, ..run.clone() })))
    }

    /// Seconds in which the controller must be back.
    pub(super) fn seconds(&self) -> u64 {
        self.until.saturating_duration_since(Instant::now()).as_secs()
    }
}

/// What the watch did, in words.
fn said(folder: &Path, why: &str) -> String {
    let left: Vec<String> = fs::read(folder.join(REVERTED))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_else(|| vec!["the machine is still at it, or was cut: look at it".into()]);
    let mut text = format!("{why}: the machine has put its old network back by itself");
    for one in left {
        text.push_str(&format!("\n{one}"));
    }
    text
}

/// The controller is back over a new connection: the change stays, if it is not too late. Answers how the task ended.
///
/// # Errors
/// When the machine has put the old state back, or knows no such guard.
pub(super) fn confirm(state: &Path, parameters: &Value) -> Result<Outcome> {
    let token = parameters.get("token").and_then(Value::as_str).unwrap_or_default();
    let folder = folder_of(state, token)?;
    if !folder.join(PLAN).exists() {
        return Err(Error::failed(format!("this machine has no guard `{token}`")));
    }
    // An agent whose controller is gone finishes the actions; what this connection shows counts only after that.
    let over = folder.join(OUTCOME).exists();
    let watched = is_watched(&folder);
    if !over && watched && !folder.join(REVERTED).exists() {
        return Ok(Outcome { status: Status::Skipped, ..Outcome::default() });
    }
    if !over || (fs::rename(folder.join(ARMED), folder.join(CONFIRMED)).is_err() && !folder.join(CONFIRMED).exists()) {
        let reverted = folder.join(REVERTED).exists();
        if !reverted && watched {
            return Ok(Outcome { status: Status::Skipped, ..Outcome::default() });
        }
        if !reverted {
            return Err(Error::failed("the process that would put the old network back was ended before its time")
                .hint("whether the machine was restarted or ran out of memory: the network is as it was left then"));
        }
        is_soon(GONE, || !is_watched(&folder));
        return match fs::read(folder.join(FAILED)).ok().and_then(|bytes| serde_json::from_slice::<Outcome>(&bytes).ok())
        {
            Some(mut outcome) => {
                outcome.notes.push(said(&folder, "it failed"));
                Ok(outcome)
            }
            None => Err(Error::failed(said(&folder, "it was not confirmed in time"))),
        };
    }
    // Until it is gone it holds the machine's lock, and the next run would be refused.
    is_soon(GONE, || !is_watched(&folder));
    let bytes = fs::read(folder.join(OUTCOME)).map_err(|e| trouble("read", &folder, &e))?;
    let outcome = serde_json::from_slice(&bytes)
        .map_err(|e| Error::failed(format!("what the guard has kept of the task can't be read: {e}")))?;
    // The copies are in the run's journal as well; the watch ends when it sees that it is confirmed.
    let _ = fs::remove_dir_all(folder.join("before"));
    Ok(outcome)
}

/// Keeps watch over one change; the program's own subcommand, started by [`arm`].
///
/// # Errors
/// When the folder can't be read.
pub fn watch(folder: &Path) -> io::Result<()> {
    // Not the agent's session: what ends with that must not end this.
    let _ = rustix::process::setsid();
    let watch: Watch = serde_json::from_reader(io::BufReader::new(File::open(folder.join(PLAN))?))?;
    let until = Instant::now() + Duration::from_secs(watch.seconds);
    let watching = File::create(folder.join(WATCHING))?;
    // Who only looks has it for a moment; who has it for longer is another watch over this.
    if !is_soon(LOOKS, || flock(&watching, FlockOperation::NonBlockingLockExclusive) != Err(Errno::WOULDBLOCK)) {
        return Ok(());
    }
    // The agent has the lock, and gives it to all of its run. Without it the watch is still better than none.
    let state = folder.parent().and_then(Path::parent);
    let holder = Holder { pid: std::process::id(), ..watch.holder.clone() };
    let lock = state.and_then(|state| Lock::take(state, &holder, Duration::ZERO).ok());
    while Instant::now() < until && !folder.join(NOW).exists() {
        if !folder.join(ARMED).exists() {
            return Ok(());
        }
        std::thread::sleep(TICK);
    }
    if fs::rename(folder.join(ARMED), folder.join(REVERTING)).is_err() {
        return Ok(());
    }
    let left = revert(folder, &watch);
    let text = serde_json::to_vec(&left)?;
    let part = folder.join("reverted.part");
    fs::write(&part, text)?;
    drop(lock);
    fs::rename(part, folder.join(REVERTED))
}

/// Puts everything back, and answers what did not work; one failure keeps nothing else from being put back.
fn revert(folder: &Path, watch: &Watch) -> Vec<String> {
    let machine = Live::new();
    let mut left = Vec::new();
    let mut restoring = Restoring::default();
    // What was made goes, a folder after what was put into it; then what went comes back, a folder before what was in it.
    let (made, others): (Vec<_>, Vec<_>) = watch.things.iter().partition(|(_, state)| *state == State::Nothing);
    for (path, state) in made.into_iter().rev().chain(others) {
        restoring.want(Thing { path, run: "", state, secret: false, attribute: false });
    }
    let copy = |_: &str, name: &str| {
        let path = folder.join("before").join(name);
        fs::read(&path).map_err(|e| Error::failed(format!("can't read {}: {e}", path.display())))
    };
    for wanted in restoring.in_order() {
        match wanted.steps(&machine, &copy) {
            Ok(steps) => {
                left.extend(steps.warning);
                for action in steps.actions {
                    if let Err(error) = machine.perform(&action.op, &mut |_| ()) {
                        left.push(error.to_string());
                    }
                }
            }
            Err(error) => left.push(error.to_string()),
        }
    }
    let mut trouble = Vec::new();
    for argv in &watch.back {
        let words: Vec<&str> = argv.iter().map(String::as_str).collect();
        match crate::host::live::run(&words, COMMAND) {
            // Those before only prepare the last one, such as taking down what may not be there.
            Ok(output) if output.code == 0 => trouble.clear(),
            Ok(output) => {
                trouble.push(format!("{} ended with {}: {}", argv.join(" "), output.code, output.stderr.trim()));
            }
            Err(error) => trouble.push(error.to_string()),
        }
    }
    left.extend(trouble);
    left
}
