//! The whole site on the sandbox workstation: what issue the product stands or falls with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// In memory where there is such a place: a run syncs every file that it writes, and this test makes hundreds of runs.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// A folder with the site's inventory and a sandbox that is not there yet.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = folder();
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        for name in ["inventory.example", "host_vars"] {
            let copied = Command::new("cp").arg("-r").arg(repository.join(name)).arg(folder.path()).status().unwrap();
            assert!(copied.success());
        }
        Place { folder }
    }

    /// The same place with the same machine, for itself.
    fn copy(&self) -> Place {
        let folder = folder();
        let copied =
            Command::new("cp").arg("-a").arg(self.folder.path().join(".")).arg(folder.path()).status().unwrap();
        assert!(copied.success());
        Place { folder }
    }

    /// How many actions the journal of the only run counts.
    fn actions(&self) -> usize {
        let runs = self.machine().join(".vfio-provision/state/runs");
        let journals: Vec<PathBuf> =
            fs::read_dir(runs).unwrap().map(|entry| entry.unwrap().path().join("journal.jsonl")).collect();
        journals.iter().map(|path| fs::read_to_string(path).unwrap().matches("{\"begin\"").count()).max().unwrap()
    }

    fn run(&self, arguments: &[&str], failpoint: Option<&str>) -> Output {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_vfio-provision"));
        command.args(arguments).arg("-i").arg(self.folder.path().join("inventory.example"));
        command.current_dir(repository).env_remove("VFIO_PROVISION_FAILPOINT");
        if let Some(failpoint) = failpoint {
            command.env("VFIO_PROVISION_FAILPOINT", failpoint);
        }
        command.output().unwrap()
    }

    fn site(&self, arguments: &[&str]) -> Vec<Value> {
        let mut all = arguments.to_vec();
        all.extend(["playbooks/site.yml", "--output", "json"]);
        let output = self.run(&all, None);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        let lines = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{errors}\n{lines}");
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn machine(&self) -> PathBuf {
        self.folder.path().join(".sandbox/ws01")
    }

    /// Every file and link of the machine with its content; our own records aside.
    fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let root = self.machine();
        walk(&root, &root, &mut files);
        files
    }
}

fn walk(root: &Path, folder: &Path, files: &mut BTreeMap<String, Vec<u8>>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        if name.starts_with("var/lib/vfio-provision/runs") || name.starts_with(".vfio-provision") {
            continue;
        }
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            walk(root, &path, files);
        } else if meta.is_symlink() {
            files.insert(name, fs::read_link(&path).unwrap().display().to_string().into_bytes());
        } else {
            let mut content = fs::read(&path).unwrap();
            content.extend(format!("mode {:o}", meta.mode()).into_bytes());
            files.insert(name, content);
        }
    }
}

/// Each task with its diffs, as they were shown.
fn shown(events: &[Value]) -> Vec<String> {
    events
        .iter()
        .filter(|event| event["event"] == "task")
        .map(|event| {
            let diffs: Vec<String> = event["diffs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|diff| format!("{} {}\n{}", diff["kind"], diff["path"], diff["unified"].as_str().unwrap()))
                .collect();
            format!("{} : {} ({})\n{}", event["role"], event["task"], event["item"], diffs.join(""))
        })
        .collect()
}

fn statuses(events: &[Value]) -> BTreeSet<&str> {
    events.iter().filter_map(|event| event["status"].as_str()).collect()
}

#[test]
fn a_plan_shows_what_an_apply_does_and_a_second_run_changes_nothing() {
    let place = Place::new();
    let plan = place.site(&["plan"]);
    assert!(!place.machine().exists(), "a plan touched something");
    let apply = place.site(&["apply"]);
    assert_eq!(shown(&plan), shown(&apply));
    assert!(!statuses(&plan).contains("unknown"), "something of the site is unknown until applied: {plan:#?}");
    assert!(shown(&apply).iter().filter(|task| task.contains('+')).count() > 8, "the site hardly does anything");

    let again = place.site(&["apply"]);
    assert_eq!(again.last().unwrap()["hosts"]["ws01"]["changed"], 0, "{:#?}", shown(&again));
    let output = place.run(&["plan", "--detailed-exitcode", "playbooks/site.yml"], None);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(String::from_utf8_lossy(&output.stdout).contains("ws01: nothing to change"));

    // What the issue names, read from the machine itself.
    let root = place.machine();
    let text = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
    assert!(text("proc/sys/kernel/osrelease").starts_with("4.9.2-1.el7.elrepo"));
    assert!(text("proc/cmdline").contains("intel_iommu=on"), "{}", text("proc/cmdline"));
    assert!(text("etc/default/grub").contains("intel_iommu=on"));
    for function in ["0000:82:00.0", "0000:82:00.1"] {
        let driver = fs::read_link(root.join(format!("sys/bus/pci/devices/{function}/driver")))
            .or_else(|_| fs::read_link(root.join("sys/devices/pci0000:80/0000:80:02.0").join(function).join("driver")))
            .unwrap();
        assert!(driver.ends_with("vfio-pci"), "{function} has the driver {}", driver.display());
    }
    assert!(root.join("sys/class/net/br0").exists(), "br0 is not up");
    let machine: Value = serde_json::from_str(&text(".vfio-provision/machine.json")).unwrap();
    let written = machine.to_string();
    for guest in ["win8", "win7"] {
        assert!(written.contains(&format!("<name>{guest}</name>")), "{guest} is not defined");
    }
}

#[test]
fn undo_takes_the_workstation_back() {
    let place = Place::new();
    unpack(&place);
    let unpacked = place.run(&["apply", "playbooks/undo.yml"], None);
    assert_eq!(unpacked.status.code(), Some(0), "{}", String::from_utf8_lossy(&unpacked.stdout));
    let before = place.files();
    place.site(&["apply"]);
    assert_ne!(place.files(), before);
    let undo = place.run(&["apply", "playbooks/undo.yml"], None);
    assert_eq!(undo.status.code(), Some(0), "{}", String::from_utf8_lossy(&undo.stdout));
    let after = place.files();
    // Packages, images and what a boot makes of /proc and /sys stay; the configuration is as it was, byte for byte.
    for (path, content) in &before {
        if path.starts_with("etc/") && !path.starts_with("etc/yum.repos.d") {
            assert!(after.get(path) == Some(content), "{path} is not as it was");
        }
    }
    let again = place.run(&["plan", "--detailed-exitcode", "playbooks/undo.yml"], None);
    assert_eq!(again.status.code(), Some(0), "{}", String::from_utf8_lossy(&again.stdout));
}

/// Kills the program at each action of the site in turn, at each point inside of it. After every kill each file is as it
/// was at some moment of an undisturbed run, and the next run brings the machine to where an undisturbed one brings it.
#[test]
fn killed_at_every_action_each_file_is_old_or_new_and_a_rerun_converges() {
    let fresh = Place::new();
    unpack(&fresh);
    let undisturbed = fresh.copy();
    undisturbed.site(&["apply"]);
    let want = undisturbed.files();
    let actions = undisturbed.actions();
    assert!(actions > 30, "the site has only {actions} actions");

    // Killed after each action: all states that an undisturbed run goes through (and killed before an action is killed
    // after the one before it).
    let mut moments: BTreeMap<String, BTreeSet<Vec<u8>>> = BTreeMap::new();
    let mut remember = |files: BTreeMap<String, Vec<u8>>| {
        for (path, content) in files {
            moments.entry(path).or_default().insert(content);
        }
    };
    remember(fresh.files());
    remember(want.clone());
    let numbers: Vec<usize> = (1..=actions).collect();
    let halves = numbers.split_at(actions / 2);
    let states: Vec<BTreeMap<String, Vec<u8>>> = std::thread::scope(|scope| {
        let threads = [halves.0, halves.1].map(|half| {
            let (fresh, want) = (&fresh, &want);
            scope.spawn(move || half.iter().map(|n| killed(fresh, &format!("{n}:after"), want)).collect::<Vec<_>>())
        });
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    states.into_iter().for_each(&mut remember);
    std::thread::scope(|scope| {
        for half in [halves.0, halves.1] {
            let (fresh, want, moments) = (&fresh, &want, &moments);
            scope.spawn(move || {
                for (n, point) in half.iter().flat_map(|n| [(n, "written"), (n, "renamed")]) {
                    for (path, content) in killed(fresh, &format!("{n}:{point}"), want) {
                        let known = moments.get(&path).is_some_and(|known| known.contains(&content));
                        assert!(known, "killed at {n}:{point}: {path} is neither old nor new");
                    }
                }
            });
        }
    });
}

/// A run that unpacks the machine and does nothing else.
fn unpack(place: &Place) {
    let play = place.folder.path().join("nothing.yml");
    fs::write(&play, "- {hosts: all, gather_facts: no, tasks: [{ping: }]}\n").unwrap();
    let output = place.run(&["apply", play.to_str().unwrap()], None);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Kills a run at this point and answers what the machine's files were then; a second run must come through, to the same
/// end. Not every action has every point: where the run is not killed it must come through itself.
fn killed(fresh: &Place, point: &str, want: &BTreeMap<String, Vec<u8>>) -> BTreeMap<String, Vec<u8>> {
    let place = fresh.copy();
    let output = place.run(&["apply", "playbooks/site.yml"], Some(point));
    let files = place.files();
    let ended = output.status.signal() == Some(9);
    assert!(ended || !point.ends_with("after"), "{point}: was not killed");
    if ended {
        place.site(&["apply"]);
    } else {
        assert_eq!(output.status.code(), Some(0), "{point}: {}", String::from_utf8_lossy(&output.stdout));
    }
    let have = place.files();
    // The fallback of an initramfs is what stood there before the last build, and there was one build more.
    let counts = |path: &&String| !path.ends_with(".img.bak") && want.get(*path) != have.get(*path);
    let differ: Vec<&String> = want.keys().chain(have.keys()).filter(counts).collect();
    assert!(differ.is_empty(), "killed at {point}, a second run ends differently: {differ:?}");
    files
}
