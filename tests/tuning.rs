//! The site on the sandbox workstation with what is off by default switched on: huge pages, isolated processors, tuned,
//! Looking Glass, evdev, hooks.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
        for name in ["inventory.example", "host_vars"] {
            let copied = Command::new("cp").arg("-r").arg(repository.join(name)).arg(folder.path()).status().unwrap();
            assert!(copied.success());
        }
        let nothing = "- {hosts: all, gather_facts: no, tasks: [{ping: }]}\n";
        fs::write(folder.path().join("nothing.yml"), nothing).unwrap();
        Place { folder }
    }

    fn run(&self, arguments: &[&str], more: &Value) -> Output {
        Command::new(env!("CARGO_BIN_EXE_vfio-provision"))
            .args(arguments)
            .args(["--output", "json", "-e", &more.to_string(), "-i"])
            .arg(self.folder.path().join("inventory.example"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap()
    }

    fn told(&self, arguments: &[&str], more: &Value) -> Vec<Value> {
        let output = self.run(arguments, more);
        let lines = String::from_utf8(output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(0), "{}\n{lines}", String::from_utf8_lossy(&output.stderr));
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join(".sandbox/ws01")
    }

    fn text(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    fn etc(&self) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        walk(&self.root(), &self.root().join("etc"), &mut found);
        found
    }
}

fn walk(root: &Path, folder: &Path, found: &mut BTreeMap<String, Vec<u8>>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            walk(root, &path, found);
        } else if meta.is_symlink() {
            found.insert(name, fs::read_link(&path).unwrap().display().to_string().into_bytes());
        } else {
            found.insert(name, fs::read(&path).unwrap());
        }
    }
}

fn shown(events: &[Value]) -> Vec<String> {
    events
        .iter()
        .filter(|event| event["event"] == "task")
        .map(|event| format!("{} : {} {}", event["role"], event["task"], event["diffs"]))
        .collect()
}

fn everything() -> Value {
    json!({
        "hugepages": [
            {"size": "1 GiB", "memory": "16 GiB", "near": "0000:82:00.0"},
            {"count": 512, "node": 0},
        ],
        "cpu_isolation": {"near": "0000:82:00.0", "method": "kernel"},
        "tuned_profile": "virtual-host",
        "looking_glass": {"user": "admin"},
        "evdev_devices": ["/dev/input/by-id/usb-Keyboard-event-kbd"],
        "evdev_allow_missing": true,
        "evdev_user": "qemu",
        "libvirt_hooks": [{"guest": "win8", "scripts": [
            {"event": "started/begin", "name": "10-note", "content": "#!/bin/sh\nlogger started\n"},
        ]}],
    })
}

#[test]
fn what_is_off_by_default_is_planned_done_and_taken_back() {
    let place = Place::new();
    place.told(&["apply", place.folder.path().join("nothing.yml").to_str().unwrap()], &json!({}));
    // The repositories of packages stay after an undo, and so do those accounts that packages made.
    let before = place.etc();
    let plan = place.told(&["plan", "playbooks/site.yml"], &everything());
    let apply = place.told(&["apply", "playbooks/site.yml"], &everything());
    assert_eq!(shown(&plan), shown(&apply));
    let again = place.told(&["apply", "playbooks/site.yml"], &everything());
    assert_eq!(again.last().unwrap()["hosts"]["ws01"]["changed"], 0, "{:#?}", shown(&again));

    // It has booted into it.
    let pages = |node: u32, kib: u32| {
        place
            .text(&format!("sys/devices/system/node/node{node}/hugepages/hugepages-{kib}kB/nr_hugepages"))
            .trim()
            .to_string()
    };
    assert_eq!([pages(1, 1_048_576), pages(0, 2048), pages(0, 1_048_576), pages(1, 2048)], ["16", "512", "0", "0"]);
    let line = place.text("proc/cmdline");
    assert!(line.contains("isolcpus=1,3,5,7,9,11,13,15,17,19,21,23 nohz_full=1,3"), "{line}");
    assert_eq!(place.text("etc/tuned/active_profile"), "virtual-host\n");
    let conf = place.text("etc/libvirt/qemu.conf");
    assert!(conf.contains("/dev/input/by-id/usb-Keyboard-event-kbd"), "{conf}");
    assert!(place.text("etc/libvirt/hooks/qemu.d/win8/started/begin/10-note").contains("logger"));
    assert!(place.text("etc/tmpfiles.d/10-looking-glass.conf").contains("0660 admin kvm"));
    assert!(place.text("etc/group").lines().any(|line| line.starts_with("input:") && line.ends_with(":qemu")));

    place.told(&["apply", "playbooks/undo.yml"], &everything());
    let after = place.etc();
    for (path, content) in before.iter().filter(|(path, _)| !path.starts_with("etc/yum.repos.d")) {
        assert!(after.get(path) == Some(content), "{path} is not as it was");
    }
    let left: Vec<&String> = after
        .keys()
        .filter(|path| !before.contains_key(*path))
        .filter(|path| ["vfio-provision", "looking-glass", "hooks"].iter().any(|ours| path.contains(ours)))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    let nothing = place.told(&["plan", "playbooks/undo.yml"], &everything());
    assert_eq!(nothing.last().unwrap()["hosts"]["ws01"]["changed"], 0, "{:#?}", shown(&nothing));
}

#[test]
fn more_than_the_machine_has_is_refused_and_nothing_changes() {
    let place = Place::new();
    place.told(&["apply", place.folder.path().join("nothing.yml").to_str().unwrap()], &json!({}));
    let before = place.etc();
    for (more, tag, why) in [
        (json!({"hugepages": [{"memory": "32 GiB", "near": "0000:82:00.0"}]}), "hugepages", "node 1 has"),
        (json!({"cpu_isolation": {"cpus": "0-23", "method": "kernel"}}), "cpu_isolation", "none for the host"),
        (json!({"cpu_isolation": {"cpus": "1,13"}}), "cpu_isolation", "no control groups of version 2"),
        (json!({"swtpm": true}), "swtpm", "Enterprise Linux 7 has no swtpm"),
        (json!({"looking_glass": {"user": "nobody-here"}}), "looking_glass", "no account nobody-here"),
        (
            json!({"acs_override": {"what": ["downstream"]}}),
            "weaker_isolation",
            "isolation that the hardware does not have",
        ),
    ] {
        let output = place.run(&["apply", "playbooks/site.yml", "--tags", tag], &more);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_ne!(output.status.code(), Some(0), "{said}");
        assert!(said.contains(why), "{why}: {said}");
        assert_eq!(place.etc(), before, "{tag}");
    }
}
