//! One host: its namespaces, its files, and what can go wrong with it.

use std::fs::{self, File};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use super::{Fleet, PATIENCE, expect};

/// A host of the fleet. It is gone when this is dropped.
pub struct Host {
    number: usize,
    fleet: u32,
    child: Child,
    alive: Option<ChildStdin>,
    says: BufReader<ChildStdout>,
    process: u32,
}

impl Host {
    pub(super) fn begin(fleet: &Fleet, number: usize) -> Host {
        let (name, address) = (name(number), address(number));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fleet/host.sh");
        let middle = fleet.middle.id();
        let mut child = Command::new("nsenter")
            .args(["-t", &middle.to_string(), "--mount", "--"])
            .args(["unshare", "-m", "-n", "-p", "-u", "-i", "--fork", "--kill-child", "bash", script])
            .arg(&fleet.folder)
            .args([&name, &address, SIZE])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let alive = child.stdin.take();
        let says = BufReader::new(child.stdout.take().unwrap());
        Host { number, fleet: middle, child, alive, says, process: 0 }
    }

    /// Waits until its root stands.
    pub(super) fn settle(&mut self) {
        expect(&mut self.says, "ready", &name(self.number));
        let parent = self.child.id();
        self.process = child_of(parent).expect("unshare has a child");
    }

    pub(super) fn plug(&mut self) {
        self.alive.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    pub(super) fn up(&mut self) {
        expect(&mut self.says, "up", &name(self.number));
    }

    pub fn number(&self) -> usize {
        self.number
    }

    /// Its process 1, as this process sees it.
    pub(super) fn process(&self) -> u32 {
        self.process
    }

    /// `ws01` …
    pub fn name(&self) -> String {
        name(self.number)
    }

    /// Its address on the bridge.
    pub fn address(&self) -> String {
        address(self.number)
    }

    /// The fleet's end of its cable.
    pub(super) fn link(&self) -> String {
        format!("v{}", self.number)
    }

    /// A file of the host, as it can be looked at from here. Absolute links would lead astray: `read` follows them right.
    pub fn path(&self, path: &str) -> PathBuf {
        Path::new("/proc").join(self.process.to_string()).join("root").join(path.trim_start_matches('/'))
    }

    /// What a file holds; nothing where there is none. Links lead where they lead on the host.
    pub fn read(&self, path: &str) -> Option<String> {
        let root = File::open(self.path("/")).unwrap();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT).ok()?;
        let mut bytes = Vec::new();
        File::from(file).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Writes a file there.
    pub fn write(&self, path: &str, text: &str) {
        let mut command = self.command("sh");
        command.args(["-c", "mkdir -p \"$(dirname \"$0\")\" && cat > \"$0\"", path]).stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let status = child.wait().unwrap();
        assert!(status.success(), "{}: writing {path}: {status}", self.name());
    }

    /// A command as root on the host, outside of SSH.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.process.to_string(), "-m", "-n", "-p", "-u", "-i", "-r", "-w", "--", program]);
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root").env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::null());
        command
    }

    /// A shell script as root on the host, which must succeed; what it printed.
    pub fn sh(&self, script: &str) -> String {
        let output = self.try_sh(script);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {script}: {}\n{said}", self.name(), output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The same, and it may fail.
    pub fn try_sh(&self, script: &str) -> Output {
        self.command("sh").args(["-c", script]).output().unwrap()
    }

    /// Its line for known_hosts.
    pub fn known(&self) -> String {
        self.known_as(&self.address())
    }

    /// The same, under another name: `[10.77.0.1]:2201`.
    pub fn known_as(&self, name: &str) -> String {
        let key = self.read("/etc/ssh/ssh_host_ed25519_key.pub").unwrap();
        let mut words = key.split(' ');
        format!("{name} {} {}\n", words.next().unwrap(), words.next().unwrap())
    }

    /// Pulls the cable.
    pub fn unplug(&self) {
        self.cable("down");
    }

    /// Puts the cable back.
    pub fn replug(&self) {
        self.cable("up");
    }

    fn cable(&self, state: &str) {
        let status = Command::new("nsenter")
            .args(["-t", &self.fleet.to_string(), "-n", "ip", "link", "set", &self.link(), state])
            .status()
            .unwrap();
        assert!(status.success(), "ip link set {} {state}: {status}", self.link());
    }

    /// Kills everything there whose name begins so; answers how many there were.
    pub fn kill(&self, name: &str) -> usize {
        let script = format!(
            "for p in /proc/[0-9]*; do case $(cat $p/comm 2>/dev/null) in '{name}'*) kill -9 ${{p#/proc/}} && echo;; esac; done; true"
        );
        self.sh(&script).lines().count()
    }

    /// How many processes there have a name that begins so.
    pub fn count(&self, name: &str) -> usize {
        self.sh(&format!("cat /proc/[0-9]*/comm 2>/dev/null | grep -c '^{name}' || true")).trim().parse().unwrap()
    }

    /// As if the program had never been here.
    pub fn forget_agent(&self) {
        self.sh("rm -rf /root/.cache /home/*/.cache");
    }

    /// Starts sshd anew.
    pub fn start_sshd(&self) {
        self.sh("/usr/local/sbin/start-sshd");
    }

    /// A new host key, as if another machine stood there.
    pub fn change_host_key(&self) {
        self.sh("cd /etc/ssh && rm ssh_host_ed25519_key* && ssh-keygen -q -t ed25519 -N '' -f ssh_host_ed25519_key");
        self.kill("sshd");
        self.start_sshd();
    }

    /// A small file system there, filled to the last block but this many kilobytes.
    pub fn fill(&self, folder: &str, left: usize) {
        self.sh(&format!(
            "mkdir -p {folder} && mount -t tmpfs -o size=1m,mode=1777 tmpfs {folder} && \
             dd if=/dev/zero of={folder}/ballast bs=1k count={} 2>/dev/null",
            1024 - left
        ));
    }

    /// Paths below a folder, except what a run leaves by design, that look half-written or forgotten.
    pub fn leftovers(&self, folder: &str) -> Vec<String> {
        let found = self.sh(&format!(
            "find {folder} -xdev -name '.*vfio*' -o -xdev -name '*.vfio-provision*' -o -xdev -name '.*.tmp*'"
        ));
        found.lines().map(str::to_string).collect()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.alive.take());
        let begun = std::time::Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) {
            if begun.elapsed() > PATIENCE {
                let _ = self.child.kill();
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
}

/// Memory that a host's files may take.
const SIZE: &str = "512m";

fn name(number: usize) -> String {
    format!("ws{number:02}")
}

fn address(number: usize) -> String {
    format!("10.77.{}.{}", 1 + number / 200, 1 + number % 200)
}

/// The only child of a process.
fn child_of(parent: u32) -> Option<u32> {
    let processes = fs::read_dir("/proc").ok()?;
    processes.flatten().find_map(|entry| {
        let number: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // The name stands in brackets and may hold anything; after it: the state, the parent.
        let after = stat.rsplit_once(") ")?.1;
        (after.split(' ').nth(1)?.parse::<u32>().ok()? == parent).then_some(number)
    })
}
