//! The program, run from outside against a machine, as a person would.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::image::{self, Kind};
use super::machine::{Machine, nice};

/// How long one run of the program may take: package managers and dracut work under emulation.
const LIMIT: Duration = Duration::from_secs(3600);

/// How long copies of other builds stay.
const KEPT: Duration = Duration::from_secs(24 * 3600);

/// A place from which one machine is provisioned: an inventory, host variables, a home folder.
pub struct Controller {
    folder: PathBuf,
    program: PathBuf,
    runs: std::cell::Cell<u32>,
}

/// What came of one task.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// The item, in a loop.
    pub item: Value,
    /// `ok`, `changed`, `would_change`, `skipped`, `unknown`, `failed`, `unreachable`.
    pub status: String,
    /// What was shown: kind, path, text.
    pub diffs: Vec<[String; 3]>,
    /// The whole line.
    pub line: Value,
}

/// What a run of the program said.
#[derive(Debug)]
pub struct Said {
    /// The exit code.
    pub code: Option<i32>,
    /// The tasks in order.
    pub tasks: Vec<Task>,
    /// The recap of the only host.
    pub recap: Value,
    /// Everything, for people.
    pub text: String,
}

/// The program without its debugging information, which would only travel.
fn program() -> PathBuf {
    let built = Path::new(env!("CARGO_BIN_EXE_vfio-provision"));
    let meta = fs::metadata(built).unwrap();
    let stamp = format!("{:?} {}", meta.modified().unwrap(), meta.len());
    let folder = image::folder().join("program");
    fs::create_dir_all(&folder).unwrap();
    // The two machines' scenarios run at the same time.
    let lock = fs::File::create(image::folder().join("program.lock")).unwrap();
    lock.lock().unwrap();
    let done = folder.join(format!("vfio-provision-{}", image::hash(stamp.as_bytes())));
    if !done.exists() {
        // Another run of the lab may still use a recent one.
        let old = |meta: fs::Metadata| meta.modified().is_ok_and(|at| at.elapsed().is_ok_and(|age| age > KEPT));
        for file in fs::read_dir(&folder).unwrap().flatten() {
            if file.metadata().is_ok_and(old) {
                let _ = fs::remove_file(file.path());
            }
        }
        let begun = folder.join("begun");
        image::run(Command::new("strip").arg("--strip-all").arg("-o").arg(&begun).arg(built));
        fs::rename(&begun, &done).unwrap();
    }
    done
}

/// What tells one build of the program, and of the site, from another.
pub fn stamp() -> String {
    let mut text = program().display().to_string();
    for file in ["site.yml", "debian.yml", "el.yml"] {
        text += &fs::read_to_string(image::recipes().join(file)).unwrap_or_default();
    }
    image::hash(text.as_bytes())
}

impl Controller {
    /// A controller in this folder that knows this machine as `ws`, with the host variables of its kind.
    pub fn new(folder: &Path, kind: Kind, machine: &Machine) -> Controller {
        let home = folder.join("home");
        fs::create_dir_all(&home).unwrap();
        let controller = Controller { folder: folder.to_path_buf(), program: program(), runs: Default::default() };
        controller.reach(machine);
        let variables = fs::read_to_string(image::recipes().join(format!("{}.yml", kind.name()))).unwrap();
        fs::create_dir_all(folder.join("host_vars")).unwrap();
        fs::write(folder.join("host_vars/ws.yml"), variables).unwrap();
        controller
    }

    /// The machine may be another one by now: its port is.
    pub fn reach(&self, machine: &Machine) {
        let inventory = format!(
            "[workstations]\nws ansible_host=127.0.0.1 ansible_port={} ansible_user=root ansible_timeout=120 \
             ansible_ssh_private_key_file={}\n",
            machine.port(),
            image::key().display()
        );
        fs::write(self.folder.join("inventory"), inventory).unwrap();
    }

    /// The next machine at the same address has another key.
    pub fn forget_keys(&self) {
        let _ = fs::remove_file(self.folder.join("home/.ssh/known_hosts"));
    }

    /// A playbook of the project, or of the lab.
    pub fn playbook(name: &str) -> PathBuf {
        let own = image::recipes().join(name);
        if own.exists() { own } else { Path::new(env!("CARGO_MANIFEST_DIR")).join("playbooks").join(name) }
    }

    /// The program with these arguments, ready to be started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = nice();
        command.arg(&self.program).args(arguments);
        command.current_dir(&self.folder).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("HOME", self.folder.join("home")).stdin(Stdio::null());
        command
    }

    /// `plan` or `apply` of a playbook, with JSON lines.
    pub fn play(&self, verb: &str, playbook: &str, more: &[&str]) -> Said {
        let playbook = Controller::playbook(playbook).display().to_string();
        let mut arguments =
            vec![verb, playbook.as_str(), "-i", "inventory", "--accept-new-host-keys", "--output", "json"];
        arguments.extend(more);
        self.run(&arguments)
    }

    /// Starts it; its output goes into files of the controller's folder, which are given.
    pub fn start(&self, arguments: &[&str]) -> (std::process::Child, PathBuf, PathBuf) {
        let number = self.runs.get() + 1;
        self.runs.set(number);
        let out = self.folder.join(format!("{number}-{}.out", arguments[0]));
        let err = out.with_extension("err");
        let child = self
            .command(arguments)
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&err).unwrap())
            .spawn()
            .unwrap();
        (child, out, err)
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &[&str]) -> Said {
        let begun = Instant::now();
        let (mut child, out, err) = self.start(arguments);
        if !super::machine::wait_for_exit(&mut child, LIMIT) {
            let _ = child.kill();
        }
        let code = child.wait().unwrap().code();
        let said = Said::read(code, &out, &err);
        println!(
            "lab:   {}: {} {}: exit code {:?} after {} s",
            self.folder.file_name().unwrap_or_default().to_string_lossy(),
            arguments[0],
            arguments.get(1).map_or("", |name| name.rsplit('/').next().unwrap_or("")),
            code,
            begun.elapsed().as_secs()
        );
        said
    }
}

impl Said {
    /// From the files that a run wrote.
    pub fn read(code: Option<i32>, out: &Path, err: &Path) -> Said {
        let out = String::from_utf8_lossy(&fs::read(out).unwrap()).into_owned();
        let err = String::from_utf8_lossy(&fs::read(err).unwrap()).into_owned();
        let lines: Vec<Value> = out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let tasks = lines.iter().filter(|line| line["event"] == "task").map(|line| Task {
            name: text(&line["task"]),
            item: line["item"].clone(),
            status: text(&line["status"]),
            diffs: line["diffs"]
                .as_array()
                .map(|all| all.iter().map(|d| [text(&d["kind"]), text(&d["path"]), text(&d["unified"])]).collect())
                .unwrap_or_default(),
            line: line.clone(),
        });
        let recap = lines.iter().find(|line| line["event"] == "recap").map(|line| line["hosts"]["ws"].clone());
        Said { code, tasks: tasks.collect(), recap: recap.unwrap_or(Value::Null), text: format!("{out}\n{err}") }
    }

    /// Fails unless the run went well.
    pub fn well(self, what: &str) -> Said {
        assert_eq!(self.code, Some(0), "{what} did not go well:\n{}", self.in_short());
        self
    }

    /// What matters when something went wrong.
    pub fn in_short(&self) -> String {
        let mut text = String::new();
        for task in &self.tasks {
            text += &format!(
                "  {:12} {} {}\n",
                task.status,
                task.name,
                if task.item.is_null() { String::new() } else { task.item.to_string() }
            );
            if matches!(task.status.as_str(), "failed" | "unreachable") {
                text += &format!("{:#}\n", task.line);
            }
        }
        if self.tasks.is_empty() || self.recap.is_null() {
            text += &super::machine::tail(&self.text, 60);
        }
        text
    }

    /// Tasks that changed something or would.
    pub fn changes(&self) -> Vec<&Task> {
        self.tasks
            .iter()
            .filter(|task| matches!(task.status.as_str(), "changed" | "would_change" | "unknown"))
            .collect()
    }

    /// What the failed tasks said.
    pub fn failures(&self) -> String {
        self.tasks
            .iter()
            .filter(|task| matches!(task.status.as_str(), "failed" | "unreachable"))
            .map(|task| format!("{}: {}\n", task.name, task.line["result"]["msg"].as_str().unwrap_or_default()))
            .collect()
    }
}
