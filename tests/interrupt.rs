//! Ctrl-C, SIGTERM and SIGHUP: once finishes what is under way and begins nothing new, twice stops now.
//!
//! What is under way here is a `copy` whose source is a pipe: it lasts until this test writes to it.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const LONG: Duration = Duration::from_secs(60);

const SITE: &str = "
- name: Slow
  hosts: all
  gather_facts: no
  serial: 1
  handlers:
    - name: owed
      copy: {dest: /etc/handled, content: yes}
  tasks:
    - name: Begin
      copy: {dest: /etc/begun, content: yes}
      notify: owed
    - name: Not asked yet
      copy: {src: pipe, dest: /etc/slow}
    - name: Never begun
      copy: {dest: /etc/never, content: yes}
";

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        for host in ["ws01", "ws02"] {
            fs::create_dir_all(folder.path().join(host).join("etc")).unwrap();
            fs::write(folder.path().join(host).join("etc/os-release"), "ID=debian\nVERSION_ID=\"12\"\n").unwrap();
        }
        let inventory = "ws[01:02] ansible_connection=sandbox sandbox_root=\"{{ inventory_hostname }}\"\n";
        fs::write(folder.path().join("inventory"), inventory).unwrap();
        fs::write(folder.path().join("site.yml"), SITE).unwrap();
        assert!(Command::new("mkfifo").arg(folder.path().join("pipe")).status().unwrap().success());
        Place { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, more: &[&str]) -> Child {
        // Whoever started this test with nohup has it ignore a hangup, as the program then would too, and rightly.
        let mut command = Command::new("env");
        command.args(["--default-signal=HUP,INT,TERM", env!("CARGO_BIN_EXE_vfio-provision")]);
        command.args(["apply", "site.yml", "-i", "inventory"]).args(more).current_dir(self.folder.path());
        command.env("NO_COLOR", "1").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn resume_files(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.path(".vfio-provision/resume")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < LONG, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn there(path: &Path) -> bool {
    path.exists()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// Waits for the end, and answers what was printed.
fn end(mut child: Child) -> (ExitStatus, String) {
    let mut status = None;
    let begun = Instant::now();
    while status.is_none() && begun.elapsed() < LONG {
        status = child.try_wait().unwrap();
        std::thread::sleep(Duration::from_millis(10));
    }
    if status.is_none() {
        child.kill().unwrap();
    }
    let mut text = String::new();
    child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (status.unwrap_or_else(|| panic!("it did not end:\n{text}")), text)
}

#[test]
fn once_begins_nothing_new() {
    for kind in [Signal::INT, Signal::TERM, Signal::HUP] {
        let place = Place::new();
        let child = place.start(&[]);
        until("it is under way", || there(&place.path("ws01/etc/begun")));
        // Its next task waits for the pipe by now, or will: it is not on the machine yet. (What an action that is under way
        // there does, tests/fleet.rs shows.)
        std::thread::sleep(Duration::from_millis(200));
        signal(&child, kind);
        std::thread::sleep(Duration::from_millis(200));
        fs::write(place.path("pipe"), "slow\n").unwrap();
        let (status, text) = end(child);
        assert_eq!(status.code(), Some(130), "{text}");
        assert!(!there(&place.path("ws01/etc/slow")), "{text}");
        assert!(!there(&place.path("ws01/etc/never")) && !there(&place.path("ws01/etc/handled")), "{text}");
        assert!(!there(&place.path("ws02/etc/begun")), "{text}");
        assert!(text.contains("stopped before: Not asked yet") && text.contains("never begun: ws02"), "{text}");
        assert_eq!(place.resume_files().len(), 1, "{text}");
    }
}

#[test]
fn twice_stops_now_and_resume_knows_where() {
    let place = Place::new();
    let child = place.start(&[]);
    until("it is under way", || there(&place.path("ws01/etc/begun")));
    std::thread::sleep(Duration::from_millis(200));
    signal(&child, Signal::INT);
    std::thread::sleep(Duration::from_millis(200));
    signal(&child, Signal::INT);
    let (status, text) = end(child);
    assert_eq!(status.code(), Some(130), "{text}");
    assert_eq!(status.signal(), None);
    assert!(!there(&place.path("ws01/etc/slow")), "{text}");
    assert_eq!(place.resume_files().len(), 1, "{text}");

    // The handler is owed although its task changes nothing this time.
    fs::remove_file(place.path("pipe")).unwrap();
    fs::write(place.path("pipe"), "slow\n").unwrap();
    let (status, text) = end(place.start(&["--resume"]));
    assert_eq!(status.code(), Some(0), "{text}");
    assert!(text.contains("1 handler is owed"), "{text}");
    for host in ["ws01", "ws02"] {
        assert!(there(&place.path(&format!("{host}/etc/handled"))), "{host}: {text}");
    }
    assert!(place.resume_files().is_empty());
}
