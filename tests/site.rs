//! The whole site on the sandbox workstation: what issue the product stands or falls with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// A folder with the site's inventory and a sandbox that is not there yet.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        for name in ["inventory.example", "host_vars"] {
            let copied = Command::new("cp").arg("-r").arg(repository.join(name)).arg(folder.path()).status().unwrap();
            assert!(copied.success());
        }
        Place { folder }
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
    // A first apply that changes nothing unpacks the machine.
    place.run(&["apply", "playbooks/site.yml", "--tags", "nothing"], None);
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

/// Kills the program at each action of the site in turn, at four points inside of it. After every kill each file is as it
/// was at some moment of an undisturbed run, and the next run goes on; in the end the machine is the same.
#[test]
fn killed_at_every_action_each_file_is_old_or_new_and_a_rerun_converges() {
    let undisturbed = Place::new();
    undisturbed.site(&["apply"]);
    let want = undisturbed.files();

    // Killed after each first action: every state that an undisturbed run goes through.
    let (after, mut moments) = chain("1:after");
    assert_eq!(after.files(), want, "killed after each action, the machine ends differently");
    for (path, content) in &want {
        moments.entry(path.clone()).or_default().insert(Some(content.clone()));
    }
    std::thread::scope(|scope| {
        for point in ["2:before", "2:written", "2:renamed"] {
            let (want, moments) = (&want, &moments);
            scope.spawn(move || {
                let (place, seen) = chain(point);
                for (path, contents) in &seen {
                    let known = moments.get(path);
                    for content in contents {
                        let fine = known.is_some_and(|known| known.contains(content)) || content.is_none();
                        assert!(fine, "killed at {point}: {path} was neither old nor new");
                    }
                }
                assert_eq!(place.files().keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>(), "{point}");
                assert!(place.files() == *want, "killed at {point}, the machine ends differently");
            });
        }
    });
}

type Moments = BTreeMap<String, BTreeSet<Option<Vec<u8>>>>;

/// Runs the site again and again, each time killed at this point, until a run comes through.
fn chain(point: &str) -> (Place, Moments) {
    let place = Place::new();
    let mut moments = Moments::new();
    for kills in 0.. {
        assert!(kills < 400, "killed at {point}, the site never comes to its end");
        let output = place.run(&["apply", "playbooks/site.yml"], Some(point));
        for (path, content) in place.files() {
            moments.entry(path).or_default().insert(Some(content));
        }
        match (output.status.code(), output.status.signal()) {
            (Some(0), _) => {
                assert!(kills > 20, "killed at {point} only {kills} times");
                return (place, moments);
            }
            (None, Some(9)) => {}
            _ => panic!(
                "killed at {point} {kills} times, then: {}\n{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    }
    unreachable!("the loop returns or panics")
}
