//! One run at a time on a machine.
//!
//! `STATE/lock` is a file whose flock(2) says that a run is going on and whose text says which. Who gets it alone writes
//! down who it is and goes on with a shared lock, so that other agents of the same run (other users', other connections')
//! can hold it too. The kernel lets go of it when a process dies, however it dies: text without a lock is a run that was
//! cut.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::host::{Error, Result};

/// Between two looks at a lock that somebody else has.
const PAUSE: Duration = Duration::from_millis(100);
/// How long two that come at the same moment may be in each other's way.
const SETTLE: Duration = Duration::from_millis(500);
/// More than anybody writes there.
const LONGEST: u64 = 64 << 10;

/// Who works on a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The run's name.
    pub run: String,
    /// Who asks, and from where: `user@machine`.
    pub from: String,
    /// What is done: playbooks, or a rollback.
    pub what: String,
    /// When it began, seconds since 1970.
    pub since: u64,
    /// The agent's process on this machine.
    pub pid: u32,
    /// The machine, as it calls itself: a state folder may be on a file system that many share.
    pub machine: String,
    /// The boot in which this was, from `/proc/sys/kernel/random/boot_id`.
    pub boot: String,
}

/// The right to change a machine; gone when dropped.
#[derive(Debug)]
pub struct Lock {
    file: File,
    /// What an earlier run left behind that did not come to its end.
    pub left: Option<Holder>,
}

impl Holder {
    /// This process, for this run.
    pub fn this(run: &str, from: &str, what: &str) -> Holder {
        let first_line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_string();
        Holder {
            run: run.into(),
            from: from.into(),
            what: what.into(),
            since: super::journal::now(),
            pid: std::process::id(),
            machine: first_line("/proc/sys/kernel/hostname"),
            boot: first_line("/proc/sys/kernel/random/boot_id"),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the run {} of {}, since {} ({}, process {} on {})",
            self.run,
            if self.from.is_empty() { "somebody" } else { &self.from },
            super::journal::time(self.since),
            if self.what.is_empty() { "nobody knows what" } else { &self.what },
            self.pid,
            self.machine
        )
    }
}

impl Lock {
    /// Takes the lock of the machine whose records are in this folder, and waits at most so long for another run.
    ///
    /// # Errors
    /// When another run has it, or it can't be had at all: nothing may be changed then.
    pub fn take(state: &Path, who: &Holder, wait: Duration) -> Result<Lock> {
        let path = state.join("lock");
        fs::DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(|e| trouble(state, &e))?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| trouble(&path, &e))?;
        let begun = Instant::now();
        loop {
            let other = match attempt(&mut file, &path, who)? {
                Attempt::Held(left) => return Ok(Lock { file, left }),
                Attempt::Other(other) => other,
            };
            let waited = begun.elapsed();
            if waited >= wait && (other.is_some() || waited >= wait + SETTLE) {
                return Err(held(other.as_ref(), wait));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Who works on the machine just now, if anybody.
    pub fn holder(state: &Path) -> Option<Holder> {
        let mut file = File::open(state.join("lock")).ok()?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => None,
            Err(Errno::WOULDBLOCK) => read(&mut file),
            // Without locks only the text can tell.
            Err(_) => read(&mut file).filter(is_alive),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The last one of a run wipes its name off; text that stays is that of a run which was cut.
        for _ in 0..5 {
            if flock(&self.file, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let _ = self.file.set_len(0);
                return;
            }
            // Another agent of the run, or somebody who only looks.
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

enum Attempt {
    Held(Option<Holder>),
    Other(Option<Holder>),
}

fn attempt(file: &mut File, path: &Path, who: &Holder) -> Result<Attempt> {
    match flock(&*file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            let left = read(file).filter(|left| left.run != who.run);
            write(file, who).map_err(|e| trouble(path, &e))?;
            // flock(2): a change of the lock is not atomic, somebody else may get it in between.
            match flock(&*file, FlockOperation::NonBlockingLockShared) {
                Ok(()) if read(file).is_some_and(|now| now.run == who.run) => Ok(Attempt::Held(left)),
                Ok(()) | Err(Errno::WOULDBLOCK) => {
                    let _ = flock(&*file, FlockOperation::NonBlockingUnlock);
                    Ok(Attempt::Other(None))
                }
                Err(error) => Err(trouble(path, &error.into())),
            }
        }
        Err(Errno::WOULDBLOCK) => match flock(&*file, FlockOperation::NonBlockingLockShared) {
            // Whoever writes its name has it alone: under a shared lock the text is whole.
            Ok(()) => {
                let holder = read(file);
                if holder.as_ref().is_some_and(|holder| holder.run == who.run) {
                    return Ok(Attempt::Held(None));
                }
                let _ = flock(&*file, FlockOperation::NonBlockingUnlock);
                Ok(Attempt::Other(holder))
            }
            Err(Errno::WOULDBLOCK) => Ok(Attempt::Other(None)),
            Err(error) => Err(trouble(path, &error.into())),
        },
        // Some network file systems have no locks. What is written there must do.
        Err(Errno::NOLCK | Errno::NOTSUP | Errno::NOSYS) => match read(file) {
            Some(other) if other.run != who.run && is_alive(&other) => Ok(Attempt::Other(Some(other))),
            left => {
                write(file, who).map_err(|e| trouble(path, &e))?;
                Ok(Attempt::Held(left.filter(|left| left.run != who.run)))
            }
        },
        Err(error) => Err(trouble(path, &error.into())),
    }
}

/// Does the process that wrote this still run? Of another machine nobody can tell, so it is believed.
fn is_alive(holder: &Holder) -> bool {
    let here = Holder::this("", "", "");
    if holder.machine != here.machine {
        return true;
    }
    holder.boot == here.boot && PathBuf::from(format!("/proc/{}", holder.pid)).exists()
}

fn read(file: &mut File) -> Option<Holder> {
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).ok()?;
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn write(file: &mut File, who: &Holder) -> std::io::Result<()> {
    let mut text = serde_json::to_string(who)?;
    text.push('\n');
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    file.write_all(text.as_bytes())?;
    file.sync_data()
}

fn held(other: Option<&Holder>, wait: Duration) -> Error {
    let who = other.map_or_else(|| "a run that did not say who it is".to_string(), Holder::to_string);
    let waited = match wait.as_secs() {
        0 => String::new(),
        seconds => format!(" after {seconds} s of waiting"),
    };
    Error::failed(format!("another run is working on this machine{waited}: {who}"))
        .hint("wait for it (`--wait-for-lock SECONDS` does), or stop it; nothing was changed here")
}

fn trouble(path: &Path, error: &std::io::Error) -> Error {
    Error::failed(format!("can't take the lock {}: {error}", path.display()))
        .hint("without it nothing is changed, as another run might be at work: make the folder writable")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(run: &str) -> Holder {
        Holder { from: "ops@control".into(), what: "site.yml".into(), ..Holder::this(run, "", "") }
    }

    #[test]
    fn one_run_at_a_time_and_agents_of_one_run_together() {
        let state = tempfile::tempdir().unwrap();
        let first = Lock::take(state.path(), &holder("r1"), Duration::ZERO).unwrap();
        let same = Lock::take(state.path(), &holder("r1"), Duration::ZERO).unwrap();
        let error = Lock::take(state.path(), &holder("r2"), Duration::ZERO).unwrap_err();
        assert!(error.message.contains("the run r1 of ops@control"), "{error}");
        assert_eq!(Lock::holder(state.path()).unwrap().run, "r1");
        drop(first);
        let error = Lock::take(state.path(), &holder("r2"), Duration::ZERO).unwrap_err();
        assert!(error.message.contains("the run r1"), "the second agent of r1 is still there: {error}");
        drop(same);
        assert_eq!(Lock::holder(state.path()), None);
        let next = Lock::take(state.path(), &holder("r2"), Duration::ZERO).unwrap();
        assert_eq!(next.left, None, "r1 said goodbye");
    }

    #[test]
    fn waiting_ends_when_the_other_is_done() {
        let state = tempfile::tempdir().unwrap();
        let first = Lock::take(state.path(), &holder("r1"), Duration::ZERO).unwrap();
        let folder = state.path().to_path_buf();
        let waiter = std::thread::spawn(move || Lock::take(&folder, &holder("r2"), Duration::from_secs(20)).map(drop));
        std::thread::sleep(Duration::from_millis(300));
        assert!(!waiter.is_finished());
        drop(first);
        waiter.join().unwrap().unwrap();
    }

    #[test]
    fn what_a_dead_run_left_is_said() {
        let state = tempfile::tempdir().unwrap();
        let text = serde_json::to_string(&holder("dead")).unwrap();
        fs::write(state.path().join("lock"), text).unwrap();
        assert_eq!(Lock::holder(state.path()), None);
        let lock = Lock::take(state.path(), &holder("r2"), Duration::ZERO).unwrap();
        assert_eq!(lock.left.as_ref().unwrap().run, "dead");
        drop(lock);
        // What is no holder at all is nobody.
        fs::write(state.path().join("lock"), "\0\0 garbage").unwrap();
        assert_eq!(Lock::take(state.path(), &holder("r3"), Duration::ZERO).unwrap().left, None);
    }

    #[test]
    fn of_many_at_once_exactly_one_gets_it() {
        let state = tempfile::tempdir().unwrap();
        let start = std::sync::Barrier::new(6);
        let taken: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..6)
                .map(|n| {
                    let (state, start) = (state.path(), &start);
                    scope.spawn(move || {
                        start.wait();
                        Lock::take(state, &holder(&format!("r{n}")), Duration::ZERO)
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(taken.iter().filter(|lock| lock.is_ok()).count(), 1);
    }

    #[test]
    fn without_flock_the_text_tells_whether_the_holder_lives() {
        assert!(is_alive(&holder("r")));
        assert!(!is_alive(&Holder { boot: "another".into(), ..holder("r") }));
        assert!(!is_alive(&Holder { pid: u32::MAX, ..holder("r") }));
        assert!(is_alive(&Holder { machine: "elsewhere".into(), pid: u32::MAX, ..holder("r") }));
    }
}
