//! Whoever provisions: a folder with an inventory, known hosts and playbooks, and the program, on the fleet's bridge.

use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{Far, Fleet, Host, PATIENCE};

/// A folder from which hosts are provisioned.
pub struct Controller {
    fleet: &'static Fleet,
    folder: tempfile::TempDir,
}

/// What a run printed.
pub struct Said {
    /// The exit code.
    pub code: Option<i32>,
    /// How it ended.
    pub status: ExitStatus,
    /// How long it took.
    pub took: Duration,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// The most memory it had at once, in kilobytes, as far as anybody looked.
    pub memory: u64,
}

/// A run that goes on.
pub struct Running {
    child: Child,
    begun: Instant,
    out: Option<JoinHandle<String>>,
    err: Option<JoinHandle<String>>,
    memory: u64,
}

impl Controller {
    /// A controller that knows these hosts: root logs in with the fleet's key.
    pub fn of(fleet: &'static Fleet, hosts: &[Host]) -> Controller {
        let controller = Controller { fleet, folder: tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap() };
        let mut inventory = String::from("[workstations]\n");
        let mut known = String::new();
        for host in hosts {
            writeln!(inventory, "{} ansible_host={}", host.name(), host.address()).unwrap();
            known += &host.known();
        }
        controller.write("inventory", &(inventory + &controller.common("root")));
        controller.write("known_hosts", &known);
        fs::create_dir(controller.path("home")).unwrap();
        controller
    }

    /// The same hosts, at a distance.
    pub fn far(fleet: &'static Fleet, hosts: &[Host], far: &[Far]) -> Controller {
        let controller = Controller::of(fleet, &[]);
        let mut inventory = String::from("[workstations]\n");
        let mut known = String::new();
        for (host, far) in hosts.iter().zip(far) {
            writeln!(inventory, "{} ansible_host={} ansible_port={}", host.name(), far.address(), far.port()).unwrap();
            known += &host.known_as(&far.known_as());
        }
        controller.write("inventory", &(inventory + &controller.common("root")));
        controller.write("known_hosts", &known);
        controller
    }

    /// What the inventory says of all hosts.
    pub fn common(&self, user: &str) -> String {
        format!(
            "[all:vars]\nansible_connection=ssh\nansible_user={user}\nansible_ssh_private_key_file={}\n\
             ansible_ssh_common_args='-o UserKnownHostsFile={}'\n",
            self.fleet.key().display(),
            self.path("known_hosts").display()
        )
    }

    /// A file of the controller.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file of the controller.
    pub fn write(&self, name: &str, text: &str) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        self
    }

    /// Changes a file of the controller.
    pub fn edit(&self, name: &str, edit: impl FnOnce(String) -> String) -> &Self {
        let text = fs::read_to_string(self.path(name)).unwrap();
        self.write(name, &edit(text))
    }

    /// Any program, in the controller's folder.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        // Who enters a mount namespace stands at its root.
        let mut command = self.fleet.enter("env");
        command.arg("-C").arg(self.folder.path()).arg(program.as_ref());
        command.env("HOME", self.path("home")).stdin(Stdio::null());
        command
    }

    /// The program with these arguments; the inventory is added.
    pub fn start(&self, arguments: &[&str]) -> Running {
        self.start_with(arguments, &[])
    }

    /// The same, with environment variables.
    pub fn start_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Running {
        let mut command = self.command(self.fleet.program());
        command.args(arguments).args(["-i", "inventory"]).envs(variables.iter().copied());
        Running::of(command)
    }

    /// Runs the program to its end, which must come within a minute.
    pub fn run(&self, arguments: &[&str]) -> Said {
        self.start(arguments).end(Duration::from_secs(60))
    }

    /// `apply PLAYBOOK --output json`, ten hosts at a time unless the arguments say otherwise.
    pub fn apply(&self, playbook: &str, more: &[&str]) -> Said {
        self.start_apply(playbook, more).end(Duration::from_secs(60))
    }

    /// The same, and it goes on.
    pub fn start_apply(&self, playbook: &str, more: &[&str]) -> Running {
        let mut arguments = vec!["apply", playbook, "--output", "json"];
        if !more.iter().any(|argument| argument.starts_with("--forks")) {
            arguments.push("--forks=10");
        }
        arguments.extend(more);
        self.start(&arguments)
    }
}

impl Running {
    /// Starts a command; what it prints is gathered.
    pub fn of(mut command: Command) -> Running {
        let begun = Instant::now();
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let out = Some(gather(child.stdout.take().unwrap()));
        let err = Some(gather(child.stderr.take().unwrap()));
        Running { child, begun, out, err, memory: 0 }
    }

    /// Sends a signal to the program: `INT`, `KILL`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.child.id())]).status().unwrap();
        assert!(sent.success(), "kill -{name}");
    }

    /// How long it runs already.
    pub fn since(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Has it ended?
    pub fn over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits until something holds, which must come before it ends; says what it printed where it did not.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut holds: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !holds() {
            let over = self.over();
            if (over && !holds()) || begun.elapsed() > PATIENCE {
                let (out, err) = self.stop();
                let when = if over { "when it ended".to_owned() } else { format!("after {PATIENCE:?}") };
                panic!("{what}: not {when}\n--- stdout\n{out}\n--- stderr\n{err}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills it; what it printed until then.
    fn stop(&mut self) -> (String, String) {
        let _ = self.child.kill();
        self.child.wait().unwrap();
        (self.out.take().unwrap().join().unwrap(), self.err.take().unwrap().join().unwrap())
    }

    /// Waits for its end, which must come in time.
    pub fn end(mut self, longest: Duration) -> Said {
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            self.memory = self.memory.max(peak(self.child.id()));
            if self.begun.elapsed() > longest {
                let (out, err) = self.stop();
                panic!("not done after {longest:?}\n--- stdout\n{out}\n--- stderr\n{err}");
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        let took = self.begun.elapsed();
        let (out, err) = (self.out.take().unwrap().join().unwrap(), self.err.take().unwrap().join().unwrap());
        Said { code: status.code(), status, took, out, err, memory: self.memory }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.out.is_some() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

fn gather(mut from: impl Read + Send + 'static) -> JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// The most memory that a process ever had at once, in kilobytes.
fn peak(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

impl Said {
    /// Fails with all that was said unless the exit code is this.
    #[track_caller]
    pub fn code(&self, code: i32) -> &Said {
        assert_eq!(self.code, Some(code), "exit code\n{}", self.all());
        self
    }

    /// All that was said.
    pub fn all(&self) -> String {
        format!("{} after {:?}\n--- stdout\n{}\n--- stderr\n{}", self.status, self.took, self.out, self.err)
    }

    /// The lines of `--output json`.
    #[track_caller]
    pub fn lines(&self) -> Vec<Value> {
        let parsed = self.out.lines().map(serde_json::from_str).collect::<Result<Vec<Value>, _>>();
        parsed.unwrap_or_else(|error| panic!("{error}\n{}", self.all()))
    }

    /// A host's counts in the recap.
    #[track_caller]
    pub fn count(&self, host: &str, what: &str) -> u64 {
        let lines = self.lines();
        let recap = lines.iter().rfind(|line| line["event"] == "recap");
        let recap = recap.unwrap_or_else(|| panic!("no recap\n{}", self.all()));
        let counted = recap["hosts"][host][what].as_u64();
        counted.unwrap_or_else(|| panic!("the recap has no {what} of {host}\n{}", self.all()))
    }

    /// The tasks of a host that ended so, with their results' messages.
    #[track_caller]
    pub fn ended(&self, host: &str, status: &str) -> Vec<String> {
        let lines = self.lines();
        let tasks = lines.iter().filter(|l| l["event"] == "task" && l["host"] == host && l["status"] == status);
        tasks.map(|line| format!("{}: {}", line["task"].as_str().unwrap_or(""), line["result"]["msg"])).collect()
    }

    /// Fails unless it took at most so long.
    #[track_caller]
    pub fn within(&self, longest: Duration) -> &Said {
        assert!(self.took <= longest, "took more than {longest:?}: {}", self.all());
        self
    }
}
