use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use super::*;

/// A terminal, and the person at it.
struct Desk {
    person: File,
    path: PathBuf,
    _held: OwnedFd,
}

fn desk() -> Desk {
    let person = rustix::pty::openpt(rustix::pty::OpenptFlags::RDWR | rustix::pty::OpenptFlags::NOCTTY).unwrap();
    rustix::pty::unlockpt(&person).unwrap();
    let path = PathBuf::from(rustix::pty::ptsname(&person, Vec::new()).unwrap().to_str().unwrap());
    let held = rustix::fs::open(&path, OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
    Desk { person: File::from(person), path, _held: held }
}

impl Desk {
    fn terminal(&self) -> Terminal {
        Terminal { path: self.path.clone(), ..Terminal::default() }
    }
    /// Waits until this stands on the screen; gives back all that came.
    fn see(&mut self, part: &str) -> String {
        let (mut seen, mut bytes) = (String::new(), [0; 256]);
        let began = Instant::now();
        while !seen.contains(part) {
            assert!(began.elapsed() < Duration::from_secs(10), "{seen}");
            let mut ready = [rustix::event::PollFd::new(&self.person, rustix::event::PollFlags::IN)];
            let timeout = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
            if rustix::event::poll(&mut ready, Some(&timeout)).unwrap() > 0 {
                let count = self.person.read(&mut bytes).unwrap();
                seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        }
        seen
    }
    fn echoes(&self) -> bool {
        termios::tcgetattr(&self.person).unwrap().local_modes.contains(LocalModes::ECHO)
    }
}

#[test]
fn a_secret_is_asked_for_without_echo_and_yes_or_no_with() {
    let mut desk = desk();
    let (before, after) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (b, a) = (Arc::clone(&before), Arc::clone(&after));
    let hooks = Terminal::new(
        move || {
            b.fetch_add(1, Ordering::SeqCst);
        },
        move || {
            a.fetch_add(1, Ordering::SeqCst);
        },
    );
    let terminal = Terminal { path: desk.path.clone(), ..hooks };
    std::thread::scope(|scope| {
        let asked = scope.spawn(|| terminal.secret("pass\u{7}phrase: "));
        desk.see("pass?phrase: ");
        assert!(!desk.echoes());
        assert_eq!((before.load(Ordering::SeqCst), after.load(Ordering::SeqCst)), (1, 0));
        desk.person.write_all("geheim ü\n".as_bytes()).unwrap();
        assert_eq!(asked.join().unwrap().as_deref(), Some("geheim ü"));
        assert_eq!(after.load(Ordering::SeqCst), 1);
        let asked = scope.spawn(|| terminal.confirm("right?"));
        let seen = desk.see("right? [yes/no] ");
        assert!(!seen.contains("geheim"), "{seen}");
        assert!(desk.echoes());
        desk.person.write_all(b"perhaps\n").unwrap();
        desk.see("right? [yes/no] ");
        desk.person.write_all(b"YES\n").unwrap();
        assert_eq!(asked.join().unwrap(), Some(true));
    });
}

#[test]
fn an_empty_answer_is_one_and_the_end_is_none() {
    let mut desk = desk();
    let terminal = desk.terminal();
    std::thread::scope(|scope| {
        for (typed, answer) in [(&b"\n"[..], Some("")), (b"\x04", None)] {
            let asked = scope.spawn(|| terminal.secret("p: "));
            desk.see("p: ");
            desk.person.write_all(typed).unwrap();
            assert_eq!(asked.join().unwrap().as_deref(), answer);
            assert!(desk.echoes());
        }
    });
}

#[test]
fn nobody_is_asked_where_there_is_no_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "answer\n").unwrap();
    for path in [file, folder.path().join("missing")] {
        let terminal = Terminal { path, ..Terminal::default() };
        assert_eq!((terminal.secret("p"), terminal.confirm("c")), (None, None));
        assert!(!terminal.lend(&mut || panic!("nothing to lend")));
    }
}

#[test]
fn questions_wait_for_each_other() {
    let mut desk = desk();
    let terminal = desk.terminal();
    std::thread::scope(|scope| {
        let lent = scope.spawn(|| {
            let mut done = false;
            assert!(terminal.lend(&mut || {
                sleep(Duration::from_millis(100));
                (&File::options().write(true).open(&desk.path).unwrap()).write_all(b"[lent]").unwrap();
                done = true;
            }));
            done
        });
        sleep(Duration::from_millis(30));
        let asked = scope.spawn(|| terminal.secret("mine: "));
        assert!(lent.join().unwrap());
        let mut person = desk.person.try_clone().unwrap();
        let mut seen = String::new();
        let mut bytes = [0; 64];
        while !seen.contains("mine: ") {
            let count = person.read(&mut bytes).unwrap();
            seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
        assert!(seen.starts_with("[lent]"), "{seen}");
        person.write_all(b"x\n").unwrap();
        assert_eq!(asked.join().unwrap().as_deref(), Some("x"));
    });
    desk.see("\n");
}

struct Counted {
    asked: AtomicUsize,
    answers: Vec<Option<&'static str>>,
}

impl Ask for Counted {
    fn secret(&self, _: &str) -> Option<String> {
        let count = self.asked.fetch_add(1, Ordering::SeqCst);
        sleep(Duration::from_millis(5));
        self.answers.get(count).copied().flatten().map(str::to_string)
    }
    fn confirm(&self, _: &str) -> Option<bool> {
        None
    }
    fn lend(&self, _: &mut dyn FnMut()) -> bool {
        false
    }
}

#[test]
fn twenty_hosts_ask_once() {
    let ask = Counted { asked: AtomicUsize::new(0), answers: vec![Some("wrong"), Some("right"), Some("late")] };
    let secrets = Secrets::default();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                let answer = secrets.get(&ask, "key", "p", 3, &mut |secret| secret == "right");
                assert_eq!(answer.as_deref(), Some("right"));
            });
        }
    });
    assert_eq!(ask.asked.load(Ordering::SeqCst), 2);
    // One that turned out wrong is asked for again, but only by the first that says so.
    secrets.forget("key", "right");
    assert_eq!(secrets.get(&ask, "key", "p", 1, &mut |_| true).as_deref(), Some("late"));
    secrets.forget("key", "right");
    assert_eq!(secrets.get(&ask, "key", "p", 1, &mut |_| true).as_deref(), Some("late"));
    // Nobody answers: nobody is asked again.
    for _ in 0..2 {
        assert_eq!(secrets.get(&ask, "other", "p", 3, &mut |_| true), None);
    }
    assert_eq!(ask.asked.load(Ordering::SeqCst), 4);
}
