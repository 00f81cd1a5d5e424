//! The site on a machine that boots: plan, apply with one reboot, and what the machine is then. And what the plan foresaw.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::image::{self, Kind};
use super::machine::{ADDRESS, Hardware, MAC, Machine, overlay};
use super::passed;
use super::program::{Controller, Said, Task};
use crate::Lab;

/// A script that runs on the machine.
pub fn script(name: &str) -> String {
    fs::read_to_string(image::recipes().join(name)).unwrap()
}

/// A machine's state, as probe.sh tells it.
pub fn probe(machine: &Machine) -> BTreeMap<String, String> {
    read_probe(&machine.ssh(&script("probe.sh")))
}

/// From its text.
pub fn read_probe(text: &str) -> BTreeMap<String, String> {
    text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.into(), v.trim().into())).collect()
}

/// As manifest.sh tells it.
fn manifest_text(machine: &Machine) -> String {
    machine.ssh(&script("manifest.sh"))
}

/// Path to what is in it, of a machine's files.
pub fn manifest(machine: &Machine) -> BTreeMap<String, String> {
    read_manifest(&manifest_text(machine))
}

/// From its text.
pub fn read_manifest(text: &str) -> BTreeMap<String, String> {
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    for line in text.lines() {
        let found = [" mode ", " content "].iter().find_map(|word| line.split_once(word));
        if let Some((path, what)) = found {
            let old = all.entry(path.to_string()).or_default();
            *old = format!("{old} {}", what.trim()).trim().to_string();
        }
    }
    all
}

/// An empty folder for a scenario.
pub fn scratch(lab: &Lab) -> PathBuf {
    let folder = image::folder().join("run").join(lab.name.replace('/', "-"));
    if folder.exists() {
        fs::remove_dir_all(&folder).unwrap();
    }
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// A freshly built machine, up, and who provisions it.
pub fn fresh(lab: &mut Lab, hardware: &Hardware) -> (Machine, Controller) {
    let base = image::disk(lab.kind);
    let folder = scratch(lab);
    over(lab, &base, &folder, hardware)
}

/// A machine over a disk that stays as it is.
pub fn over(lab: &mut Lab, base: &Path, folder: &Path, hardware: &Hardware) -> (Machine, Controller) {
    overlay(base, &folder.join("disk.qcow2"));
    let mut machine = Machine::on(folder, hardware);
    lab.report.boots += 1;
    machine.wait_until_up();
    let controller = Controller::new(folder, lab.kind, &machine);
    (machine, controller)
}

/// Is this what the site makes of the machine?
pub fn assert_provisioned(kind: Kind, before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) {
    let is = |key: &str, wanted: &str| {
        assert_eq!(after.get(key).map(String::as_str), Some(wanted), "{key} is not what it shall be: {after:#?}");
    };
    is("gpu", "vfio-pci");
    is("audio", "vfio-pci");
    is("node", "1");
    is("boot_vga", "1");
    for same in ["display", "disk"] {
        assert_eq!(after[same], before[same], "{same} has another driver");
    }
    for word in ["intel_iommu=on", "iommu=pt", "rd.driver.pre=vfio-pci"] {
        assert!(after["cmdline"].split_whitespace().any(|w| w == word), "{word} is not in {}", after["cmdline"]);
    }
    assert!(after["vfio"].split_whitespace().any(|name| name == after["group"]), "no /dev/vfio/N: {after:#?}");
    is("br0.mac", MAC);
    is("br0.address", ADDRESS);
    is("br0.state", "up");
    is("ports", "enp1s0");
    is("enp1s0.address", "");
    // A network without a way out has no default route, before or after.
    assert_eq!(after["route"], before["route"].replace("enp1s0", "br0"), "another default route");
    is("guests", "win7 win8");
    // `inactive` is none.
    assert!(after["libvirtd"].split_whitespace().any(|word| word == "active"), "libvirtd does not run: {after:#?}");
    match kind {
        Kind::Debian => assert_eq!(after["kernel"], before["kernel"]),
        Kind::El => assert!(after["kernel"].ends_with(".el9.elrepo.x86_64"), "not on kernel-ml: {}", after["kernel"]),
    }
}

/// The whole scenario, and prediction with it.
pub fn site(lab: &mut Lab) {
    let (mut machine, controller) = fresh(lab, &Hardware::default());
    let before = probe(&machine);
    let files = manifest_text(&machine);
    assert_eq!((before["enp1s0.mac"].as_str(), before["enp1s0.address"].as_str()), (MAC, ADDRESS), "{before:#?}");
    assert_ne!(before["gpu"], "vfio-pci");

    let planned = controller.play("plan", "site.yml", &[]).well("the plan");
    let looked = manifest_text(&machine);
    let touched: Vec<&str> = looked.lines().filter(|line| !files.lines().any(|old| old == *line)).collect();
    assert!(touched.is_empty() && looked.len() == files.len(), "the plan has touched files: {touched:#?}");
    let boot = machine.boot_id();
    let done = controller.play("apply", "site.yml", &[]).well("the apply");
    machine.wait_until_up();
    assert_ne!(machine.boot_id(), boot, "the machine has not booted again");
    assert_eq!(machine.resets(), 1, "the machine shall boot again exactly once");
    let after = probe(&machine);
    assert_provisioned(lab.kind, &before, &after);
    compare(lab, &planned, &done);

    let boot = machine.boot_id();
    let again = controller.play("apply", "site.yml", &[]).well("the second apply");
    assert!(again.changes().is_empty(), "a second time there is nothing to change:\n{}", again.in_short());
    assert_eq!((machine.boot_id(), machine.resets()), (boot, 1), "the second apply has rebooted the machine");
    lab.report.reboots += machine.resets();
    if !after["failed"].is_empty() {
        lab.report.notes.push(format!("units that failed: {}", after["failed"]));
    }
    if lab.options.keep {
        machine.keep();
        return;
    }
    let folder = machine.folder().to_path_buf();
    machine.power_off();
    keep_for_others(lab.kind, &folder, &files, &before);
}

fn provisioned_folder(kind: Kind) -> PathBuf {
    image::folder().join(format!("provisioned-{}", passed::stamp(kind)))
}

/// The provisioned machine is where other scenarios begin.
fn keep_for_others(kind: Kind, folder: &Path, files: &str, state: &BTreeMap<String, String>) {
    let place = provisioned_folder(kind);
    for old in fs::read_dir(image::folder()).unwrap().flatten() {
        if old.file_name().to_string_lossy().starts_with(&format!("provisioned-{}-", kind.name())) {
            fs::remove_dir_all(old.path()).unwrap();
        }
    }
    let begun = image::folder().join(format!("provisioning-{}", kind.name()));
    let _ = fs::remove_dir_all(&begun);
    fs::create_dir(&begun).unwrap();
    fs::rename(folder.join("disk.qcow2"), begun.join("disk.qcow2")).unwrap();
    fs::write(begun.join("before.txt"), files).unwrap();
    fs::write(begun.join("probe.txt"), state.iter().map(|(k, v)| format!("{k}={v}\n")).collect::<String>()).unwrap();
    fs::rename(begun, place).unwrap();
}

/// A machine that the site was applied to by this very program.
pub struct Provisioned {
    /// Its disk.
    pub disk: PathBuf,
    /// Its files from before that, as `manifest` reads them.
    pub files: BTreeMap<String, String>,
    /// Its state from before that, as `probe` reads it.
    pub state: BTreeMap<String, String>,
}

/// Such a machine, made where there is none yet.
pub fn provisioned(lab: &mut Lab) -> Provisioned {
    let place = provisioned_folder(lab.kind);
    if !place.exists() {
        let (mut machine, controller) = fresh(lab, &Hardware::default());
        let state = probe(&machine);
        let files = manifest_text(&machine);
        controller.play("apply", "site.yml", &[]).well("the apply");
        machine.wait_until_up();
        lab.report.reboots += machine.resets();
        let folder = machine.folder().to_path_buf();
        machine.power_off();
        keep_for_others(lab.kind, &folder, &files, &state);
    }
    let read = |name: &str| fs::read_to_string(place.join(name)).unwrap();
    Provisioned {
        disk: place.join("disk.qcow2"),
        files: read_manifest(&read("before.txt")),
        state: read_probe(&read("probe.txt")),
    }
}

/// Holds what a plan said against what the apply did, task by task.
pub fn compare(lab: &mut Lab, planned: &Said, done: &Said) {
    let name = |task: &Task| {
        format!("{} {}", task.name, if task.item.is_null() { "" } else { task.item.as_str().unwrap_or("?") })
    };
    let names = |said: &Said| said.tasks.iter().map(name).collect::<Vec<_>>();
    assert_eq!(names(planned), names(done), "the plan has other tasks than the apply");
    for (before, after) in planned.tasks.iter().zip(&done.tasks) {
        lab.report.compared += 1;
        let expected = match before.status.as_str() {
            "would_change" => "changed",
            other => other,
        };
        if expected == after.status && before.diffs == after.diffs {
            lab.report.predicted += 1;
            continue;
        }
        let mut why = format!("{}: planned {}, was {}", name(before).trim(), before.status, after.status);
        let only = |a: &Task, b: &Task| {
            a.diffs.iter().filter(|d| !b.diffs.contains(d)).map(|d| format!("{} {}", d[0], d[1])).collect::<Vec<_>>()
        };
        let (planned_only, done_only) = (only(before, after), only(after, before));
        if !planned_only.is_empty() || !done_only.is_empty() {
            why += &format!("; only planned: {planned_only:?}; only done: {done_only:?}");
            differences(&mut why, before, after);
        }
        if before.status == "unknown" {
            why += &format!("; {}", before.line["result"]["msg"].as_str().unwrap_or("unknown until applied"));
        }
        lab.report.notes.push(why);
    }
}

/// The first lines that differ, of diffs of the same thing.
fn differences(why: &mut String, before: &Task, after: &Task) {
    for a in &before.diffs {
        let Some(b) = after.diffs.iter().find(|b| b[..2] == a[..2] && b[2] != a[2]) else { continue };
        let lines = |text: &str| text.lines().map(String::from).collect::<Vec<_>>();
        let (a, b) = (lines(&a[2]), lines(&b[2]));
        for line in a.iter().filter(|line| !b.contains(line)).take(3) {
            why.push_str(&format!("\n    planned: {line}"));
        }
        for line in b.iter().filter(|line| !a.contains(line)).take(3) {
            why.push_str(&format!("\n    done:    {line}"));
        }
    }
}
