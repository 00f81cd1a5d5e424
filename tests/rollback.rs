//! Rollback of the whole site on the sandbox workstation, killed at every point too, and two runs at once.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A folder with an inventory and a sandbox.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// The site's inventory; the workstation is unpacked and nothing else.
    fn site() -> Place {
        let folder = folder();
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        for name in ["inventory.example", "host_vars"] {
            let copied = Command::new("cp").arg("-r").arg(repository.join(name)).arg(folder.path()).status().unwrap();
            assert!(copied.success());
        }
        fs::rename(folder.path().join("inventory.example"), folder.path().join("inventory")).unwrap();
        let place = Place { folder };
        let play = place.write("nothing.yml", "- {hosts: all, gather_facts: no, tasks: [{ping: }]}\n");
        place.fine(&["apply", &play]);
        place
    }

    fn copy(&self) -> Place {
        let folder = folder();
        let copied =
            Command::new("cp").arg("-a").arg(self.folder.path().join(".")).arg(folder.path()).status().unwrap();
        assert!(copied.success());
        Place { folder }
    }

    /// An empty machine called `m`.
    fn empty() -> Place {
        let folder = folder();
        let place = Place { folder };
        place.write("inventory", "m ansible_connection=sandbox sandbox_root=m\n");
        fs::create_dir_all(place.machine().join("etc")).unwrap();
        fs::write(place.machine().join("etc/os-release"), "ID=debian\nVERSION_ID=12\n").unwrap();
        place
    }

    fn write(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vfio-provision"));
        command.args(arguments).arg("-i").arg(self.folder.path().join("inventory"));
        command.current_dir(env!("CARGO_MANIFEST_DIR")).env_remove("VFIO_PROVISION_FAILPOINT").stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn fine(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let text = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
        text
    }

    fn machine(&self) -> PathBuf {
        let site = self.folder.path().join(".sandbox/ws01");
        if site.exists() { site } else { self.folder.path().join("m") }
    }

    fn runs(&self) -> Vec<Value> {
        let text = self.fine(&["runs", "all", "--output", "json"]);
        let answer: Value = serde_json::from_str(text.trim()).unwrap();
        answer["runs"].as_array().unwrap().clone()
    }

    /// Every file, link and folder of the machine with content and mode; our own records aside.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let root = self.machine();
        walk(&root, &root, &mut files);
        files
    }
}

fn walk(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        if name.starts_with(".vfio-provision") {
            continue;
        }
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_symlink() {
            files.insert(name, fs::read_link(&path).unwrap().display().to_string().into_bytes());
            continue;
        }
        let mut content = format!("mode {:o}\n", meta.mode()).into_bytes();
        if meta.is_dir() {
            walk(root, &path, files);
        } else {
            content.extend(fs::read(&path).unwrap());
        }
        files.insert(name, content);
    }
}

/// What differs, but for what the kernel shows (which follows at the next boot) and what packages brought (which stay).
fn differences(before: &BTreeMap<String, Vec<u8>>, after: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    before
        .keys()
        .chain(after.keys())
        .filter(|path| before.get(*path) != after.get(*path))
        .filter(|path| !["proc", "sys", "dev", "run"].iter().any(|top| path.split('/').next() == Some(top)))
        .cloned()
        .collect()
}

#[test]
fn a_rollback_of_the_site_ends_where_it_began_but_for_what_it_names() {
    let place = Place::site();
    let before = place.files();
    let first: Value = machine_json(&place);
    place.fine(&["apply", "playbooks/site.yml"]);
    let applied = place.files();
    assert!(differences(&before, &applied).len() > 20);

    let check = place.fine(&["rollback", "all", "--check"]);
    assert_eq!(place.files(), applied, "--check changed something");
    let done = place.fine(&["rollback", "all", "--yes"]);
    let lines = |text: &str, from: &str| -> Vec<String> {
        text.lines().take_while(|line| !line.contains(from)).map(str::to_string).collect()
    };
    assert_eq!(lines(&check, "would change"), lines(&done, "changed"), "what was done is not what was shown");
    let after = place.files();
    let left = differences(&before, &after);
    let named = |path: &String| {
        // The packages stay, with their files; where an image's first content was never known it is named.
        path.starts_with("usr/")
            || path.starts_with("lib/")
            || path.starts_with("boot/")
            || path.starts_with("var/")
            || ["etc/yum.repos.d", "etc/libvirt", "etc/pki", "etc/sysconfig/libvirtd"]
                .iter()
                .any(|p| path.starts_with(p))
            || path.ends_with(".qcow2")
    };
    let wrong: Vec<&String> = left.iter().filter(|path| !named(path)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}\nall that is left: {left:#?}\n{done}");
    for word in ["packages stay as they are", "yum -y install", "needs a reboot", "/home/img/win7.qcow2`"] {
        assert!(done.contains(word), "{word} is not in\n{done}");
    }
    // Guests and units are as they were.
    let last = machine_json(&place);
    assert_eq!(first["domains"], last["domains"]);

    let runs = place.runs();
    assert_eq!(runs.len(), 2, "{runs:#?}");
    assert_eq!(runs[0]["ended"], "rolled back");
    assert_eq!(runs[1]["ended"], "whole");
    assert_eq!(runs[0]["rolled_back_by"], runs[1]["id"]);
    let nothing = place.fine(&["rollback", "all", "--yes", "-v"]);
    assert!(nothing.contains("there is no run on this machine to take back"), "{nothing}");

    // The rollback is a run like any other.
    place.fine(&["rollback", "all", "--yes", "--run", runs[1]["id"].as_str().unwrap()]);
    let again = place.files();
    // What a written-down machine never held (downloads, images that a tool makes) can't come back, and is named.
    let differ: Vec<String> = differences(&applied, &again)
        .into_iter()
        .filter(|path| ![".iso", ".rpm", ".img.bak"].iter().any(|end| path.ends_with(end)))
        .collect();
    assert!(differ.is_empty(), "{differ:#?}");
    assert_eq!(place.runs()[0]["ended"], "whole");
}

fn machine_json(place: &Place) -> Value {
    let text = fs::read_to_string(place.machine().join(".vfio-provision/machine.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

const PLAY: &str = "
- hosts: all
  gather_facts: no
  tasks:
    - copy: {dest: /etc/a, content: \"new\\n\", mode: '0600'}
    - copy: {dest: /etc/new, content: \"new\\n\"}
    - lineinfile: {path: /etc/a, line: second}
    - file: {path: /etc/tree, state: absent}
    - file: {path: /etc/made, state: directory}
    - copy: {dest: /etc/made/x, content: \"x\\n\"}
    - file: {path: /etc/link, src: a, state: link}
    - user: {name: alice, system: yes}
    - file: {path: /etc/b, mode: '0600'}
";

fn small() -> Place {
    let place = Place::empty();
    let etc = place.machine().join("etc");
    fs::write(etc.join("a"), "old\n").unwrap();
    fs::write(etc.join("b"), "b\n").unwrap();
    fs::write(etc.join("passwd"), "root:x:0:0:root:/root:/bin/bash\n").unwrap();
    fs::write(etc.join("group"), "root:x:0:\n").unwrap();
    fs::write(etc.join("shadow"), "root:*:1:0:99999:7:::\n").unwrap();
    fs::create_dir_all(etc.join("tree/below")).unwrap();
    fs::write(etc.join("tree/one"), "1\n").unwrap();
    fs::write(etc.join("tree/below/two"), [0, 159, 146, 150]).unwrap();
    std::os::unix::fs::symlink("one", etc.join("tree/link")).unwrap();
    place.write("site.yml", PLAY);
    place
}

fn apply(place: &Place) {
    let play = place.folder.path().join("site.yml").display().to_string();
    place.fine(&["apply", &play]);
}

#[test]
fn a_rollback_that_is_killed_anywhere_is_finished_by_the_next() {
    let start = small();
    let before = start.files();
    apply(&start);
    let applied = start.files();
    let probe = start.copy();
    probe.fine(&["rollback", "m", "--yes"]);
    assert_eq!(probe.files(), before);
    let actions = probe.runs()[1]["actions"].as_u64().unwrap();
    assert!(actions >= 12, "{actions}");
    for action in 1..=actions {
        for point in ["before", "written", "renamed", "after"] {
            let place = start.copy();
            let output = place
                .command(&["rollback", "m", "--yes"])
                .env("VFIO_PROVISION_FAILPOINT", format!("{action}:{point}"))
                .output()
                .unwrap();
            let killed = output.status.signal() == Some(9);
            assert!(killed || !matches!(point, "before" | "after"), "{action}:{point} was not killed");
            for (path, content) in place.files() {
                let old = before.get(&path) == Some(&content);
                let new = applied.get(&path) == Some(&content);
                assert!(old || new, "killed at {action}:{point}: {path} is neither old nor new");
            }
            if killed {
                place.fine(&["rollback", "m", "--yes"]);
            }
            assert_eq!(place.files(), before, "killed at {action}:{point}");
            let runs = place.runs();
            assert_eq!(runs.len(), 2, "killed at {action}:{point}: {runs:#?}");
            assert_eq!(runs[0]["ended"], "rolled back", "killed at {action}:{point}: {runs:#?}");
            // And taken back as a whole, whatever piece was done when.
            place.fine(&["rollback", "m", "--yes", "--run", runs[1]["id"].as_str().unwrap()]);
            let differ = differences(&applied, &place.files());
            assert!(differ.is_empty(), "killed at {action}:{point}, and rolled forward: {differ:?}");
        }
    }
}

#[test]
fn an_apply_that_is_killed_anywhere_can_be_taken_back() {
    let start = small();
    let before = start.files();
    let probe = start.copy();
    apply(&probe);
    let actions = probe.runs()[0]["actions"].as_u64().unwrap();
    for action in 1..=actions {
        for point in ["before", "renamed", "after"] {
            let place = start.copy();
            let play = place.folder.path().join("site.yml").display().to_string();
            let mut command = place.command(&["apply", &play]);
            let output = command.env("VFIO_PROVISION_FAILPOINT", format!("{action}:{point}")).output().unwrap();
            if output.status.signal() != Some(9) {
                continue;
            }
            assert_eq!(place.runs()[0]["ended"], "cut", "{action}:{point}");
            place.fine(&["rollback", "m", "--yes"]);
            assert_eq!(place.files(), before, "killed at {action}:{point}");
        }
    }
}

#[test]
fn a_second_run_is_told_who_works_there_or_waits() {
    use vfio_provision::agent::lock::{Holder, Lock};

    let place = small();
    let play = place.folder.path().join("site.yml").display().to_string();
    let state = place.machine().join(".vfio-provision/state");
    let who = Holder::this("001795373375-000042", "carla@control", "other.yml");
    let lock = Lock::take(&state, &who, Duration::ZERO).unwrap();
    let begun = Instant::now();
    let second = place.run(&["apply", &play]);
    let text = String::from_utf8_lossy(&second.stdout).into_owned();
    assert_eq!(second.status.code(), Some(2), "{text}");
    assert!(
        text.contains("another run is working on this machine: the run 001795373375-000042 of carla@control"),
        "{text}"
    );
    assert!(begun.elapsed() < Duration::from_secs(5), "it waited");
    assert_eq!(fs::read_to_string(place.machine().join("etc/a")).unwrap(), "old\n");
    let plan = place.fine(&["plan", &play]);
    assert!(plan.contains("another run is working on this machine"), "{plan}");
    let rollback = place.run(&["rollback", "m", "--yes", "--wait-for-lock", "1"]);
    assert_eq!(rollback.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&rollback.stdout).contains("after 1 s of waiting"));

    let waiting = place.command(&["apply", &play, "--wait-for-lock", "60"]).stdout(Stdio::null()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(1500));
    drop(lock);
    assert!(waiting.wait_with_output().unwrap().status.success());
    assert_eq!(fs::read_to_string(place.machine().join("etc/a")).unwrap(), "new\nsecond\n");

    // A run that died has left its name and no lock.
    fs::write(state.join("lock"), serde_json::to_string(&who).unwrap()).unwrap();
    let next = place.fine(&["rollback", "m", "--yes"]);
    assert!(next.contains("an earlier run was cut before its end: the run 001795373375-000042"), "{next}");
}
