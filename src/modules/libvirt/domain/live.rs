//! A guest that runs: what of its definition it does not run with yet, and what of that can be changed while it runs.
//!
//! The definition and what runs are two documents. `virsh define` changes the first; the second follows when the guest is
//! started anew, or by commands of its own for what QEMU can plug, unplug or change.

mod plug;
mod tuning;

use super::compare::{Change, holds, merge};
use super::devices::{self, Takeover};
use super::normal::{amount, cpu_set};
use super::render::Wanted;
use super::words::{describe, words};
use crate::modules::libvirt::xml::Element;

/// libvirt's documents keep a limit on CPU time that was lifted as one that limits nothing.
const UNLIMITED: &str = "-1";
/// What the kernel counts CPU time in, where nobody says otherwise, in microseconds (cpu.cfs_period_us, cpu.max).
const PERIOD: &str = "100000";

/// A command that changes the running guest.
#[derive(Clone, Debug)]
pub struct Step {
    /// virsh's arguments.
    pub argv: Vec<String>,
    /// The device, for commands that read one.
    pub stdin: Option<String>,
    /// What it changes.
    pub changes: Vec<Change>,
    /// What runs afterwards.
    pub live: Element,
    /// It only gives the guest time: how it ends says nothing.
    pub patient: bool,
}

/// What is between a definition and what runs.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    /// What can be changed now, in order.
    pub steps: Vec<Step>,
    /// What waits for a restart even when the steps are done; all of it where they are not.
    pub waiting: Vec<Change>,
}

/// Compares a definition with what runs. `hot`: may the running guest be changed? `cpus`: the machine's, as the kernel lists
/// them; where they are not known, a pin stays until the guest is started anew.
pub fn pending(name: &str, defined: &Element, live: &Element, hot: bool, cpus: Option<&str>) -> Pending {
    let anywhere = defined.get("vcpu").and_then(|vcpu| vcpu.attribute("cpuset")).or(cpus);
    let mut now = settled(live, defined, anywhere);
    let mut steps = Vec::new();
    if hot {
        let mut planner = Planner { name, live: &mut now, steps: &mut steps, anywhere };
        planner.domain(defined);
        planner.devices(defined);
    }
    Pending { steps, waiting: differences(defined, &now) }
}

/// What runs without limits that limit nothing, and that nobody defined. `anywhere`: where a virtual CPU without a pin runs.
fn settled(live: &Element, defined: &Element, anywhere: Option<&str>) -> Element {
    let mut live = live.clone();
    let anywhere = anywhere.and_then(cpu_set);
    if let Some(tune) = live.get_mut("cputune") {
        let wanted = defined.get("cputune");
        tune.retain(|child| {
            let there = wanted.is_some_and(|tune| tune.elements().any(|other| same_part(child, other)));
            let everywhere = match (child.attribute("cpuset").and_then(cpu_set), &anywhere) {
                (Some(set), Some(anywhere)) => child.name.ends_with("pin") && set.is_superset(anywhere),
                _ => false,
            };
            !limits_nothing(child) && (there || !(everywhere || is_usual_period(child)))
        });
    }
    live
}

/// A quota that is none.
fn limits_nothing(part: &Element) -> bool {
    part.name.ends_with("quota") && part.text().starts_with('-')
}

fn is_usual_period(part: &Element) -> bool {
    part.name.ends_with("period") && part.text() == PERIOD
}

/// Are these one part of `<cputune>`, `<memtune>` or `<blkiotune>`?
fn same_part(one: &Element, other: &Element) -> bool {
    let key = |part: &Element| -> Vec<Option<String>> {
        let of = |name: &&str| part.attribute(name).map(str::to_string);
        let mut key: Vec<_> = ["vcpu", "iothread", "vcpus", "iothreads"].iter().map(of).collect();
        key.push(part.text_at(&["path"]));
        key
    };
    one.name == other.name && key(one) == key(other)
}

/// What of a definition does not hold in what runs, and what runs and is not defined.
pub fn differences(defined: &Element, live: &Element) -> Vec<Change> {
    let stated = comparable(defined, live);
    let mut running = live.clone();
    // Whatever libvirt writes into the running one only (addresses, aliases, seclabels) is no difference.
    let extra: Vec<Change> = only_in_live(&stated, live);
    if let Some(devices) = running.get_mut("devices") {
        for device in devices.elements_mut() {
            device.retain(|child| !matches!(child.name.as_str(), "alias"));
        }
    }
    let wanted = Wanted { intent: stated.clone(), xml: stated, absent: Vec::new() };
    let mut changes = merge(&wanted, &running, None).changes;
    changes.extend(extra);
    changes
}

/// The definition without what a running guest shows in another way.
fn comparable(defined: &Element, live: &Element) -> Element {
    let mut stated = defined.clone();
    let same_memory = stated.get("currentMemory").and_then(amount) == stated.get("memory").and_then(amount);
    stated.retain(|child| match child.name.as_str() {
        "name" | "uuid" | "metadata" | "title" | "description" | "seclabel" | "genid" | "resource" => false,
        // A balloon breathes; only less than all of it is somebody's wish.
        "currentMemory" => !same_memory,
        _ => true,
    });
    if let Some(os) = stated.get_mut("os") {
        os.unset("firmware");
        os.retain(|child| child.name != "firmware");
        if let Some(nvram) = os.get_mut("nvram") {
            nvram.attributes.clear();
        }
        if let Some(loader) = os.get_mut("loader") {
            loader.attributes.clear();
        }
    }
    if let Some(cpu) = stated.get_mut("cpu") {
        cpu_as_it_runs(cpu);
    }
    if let Some(vcpu) = stated.get_mut("vcpu") {
        vcpu.unset("placement");
        // All of them, where nobody says how many are in use.
        if vcpu.attribute("current").is_none() && live.get("vcpu").is_some_and(|live| live.text() == vcpu.text()) {
            let all = vcpu.text();
            vcpu.set("current", all);
        }
    }
    // Which of them can be taken away again, and in which order they came, is QEMU's to say.
    for vcpu in stated.get_mut("vcpus").into_iter().flat_map(Element::elements_mut) {
        vcpu.unset("hotpluggable");
        vcpu.unset("order");
    }
    if let Some(tune) = stated.get_mut("cputune") {
        tune.retain(|child| !limits_nothing(child));
    }
    if let Some(all) = stated.get_mut("devices") {
        all.retain(|device| !is_libvirts_own(device));
        for device in all.elements_mut() {
            device.retain(|child| !matches!(child.name.as_str(), "address" | "alias" | "backingStore"));
            as_it_runs(device, counterpart(device, live));
        }
    }
    stated
}

/// The running device that this one is.
fn counterpart<'a>(device: &Element, live: &'a Element) -> Option<&'a Element> {
    let all: Vec<&Element> = live.get("devices")?.elements().filter(|other| other.name == device.name).collect();
    let at = *devices::assign(&[device], &all, Takeover::None, &holds).first()?;
    at.and_then(|at| all.get(at)).copied()
}

/// Devices that follow from others, and that differ for reasons of libvirt's.
fn is_libvirts_own(device: &Element) -> bool {
    match device.name.as_str() {
        "controller" => !matches!(device.attribute("type"), Some("scsi" | "usb")),
        "console" | "hub" | "audio" => true,
        "input" => device.attribute("bus") == Some("ps2"),
        _ => false,
    }
}

/// `host-model` runs as a custom model with a list of features, and `check` as `full`.
fn cpu_as_it_runs(cpu: &mut Element) {
    cpu.unset("check");
    cpu.unset("match");
    cpu.unset("migratable");
    let model = cpu.attribute("mode") == Some("host-model");
    if model {
        cpu.unset("mode");
    }
    cpu.retain(|child| match child.name.as_str() {
        "model" | "vendor" | "maxphysaddr" | "cache" => !model && child.name == "model",
        "feature" => !model && matches!(child.attribute("policy"), None | Some("require" | "disable")),
        _ => true,
    });
    if let Some(model) = cpu.get_mut("model") {
        model.unset("fallback");
    }
}

/// What of a device shows otherwise while it runs.
fn as_it_runs(device: &mut Element, live: Option<&Element>) {
    match device.name.as_str() {
        "interface" => {
            device.retain(|child| child.name != "target");
            // A network that is a bridge shows as that bridge.
            let network = |e: &Element| e.get("source").and_then(|s| s.attribute("network")).map(str::to_string);
            if let Some(live) = live
                && network(device).is_some()
                && network(device) == network(live)
                && let Some(kind) = live.attribute("type")
            {
                device.set("type", kind);
            }
        }
        "graphics" => {
            if device.attribute("autoport") == Some("yes") {
                device.unset("port");
                device.unset("tlsPort");
                device.unset("websocket");
            }
            device.retain(|child| child.name != "listen");
        }
        "serial" | "parallel" | "channel" => {
            // Where its other end is, is found when the guest starts.
            if matches!(device.attribute("type"), Some("pty" | "unix" | "spicevmc" | "dbus")) {
                device.retain(|child| child.name != "source");
            }
        }
        "disk" => {
            let lost = device.get("source").is_some_and(|source| source.attribute("startupPolicy").is_some())
                && live.is_some_and(|live| live.get("source").is_none());
            if lost {
                device.retain(|child| child.name != "source");
            }
            // A drive without a medium has no format while it runs.
            if device.get("source").is_none()
                && let Some(driver) = device.get_mut("driver")
            {
                driver.unset("type");
            }
        }
        _ => {}
    }
}

/// Devices that run and are not defined any more, and features that were taken away.
fn only_in_live(stated: &Element, live: &Element) -> Vec<Change> {
    let mut changes = Vec::new();
    let gone = |path: String, what: &Element| Change { path, before: Some(describe(what)), after: None };
    for parent in ["features", "clock", "memoryBacking", "numatune", "qemu:commandline"] {
        let here = stated.get(parent);
        for child in live.get(parent).into_iter().flat_map(Element::elements) {
            // A firmware that libvirt chooses at the start may need it, and brings it along.
            if child.name != "smm" && !here.is_some_and(|here| here.elements().any(|e| e.name == child.name)) {
                changes.push(gone(words(&[parent, &child.name], None), child));
            }
        }
    }
    for child in ["hyperv", "kvm"] {
        let of = |domain: &Element| -> Vec<Element> {
            domain.at(&["features", child]).into_iter().flat_map(Element::elements).cloned().collect()
        };
        if stated.at(&["features", child]).is_none() {
            continue;
        }
        for part in of(live).iter().filter(|part| !of(stated).iter().any(|e| e.name == part.name)) {
            changes.push(gone(words(&["features", child, &part.name], None), part));
        }
    }
    for parent in ["cputune", "memtune", "blkiotune"] {
        let here = stated.get(parent);
        for child in live.get(parent).into_iter().flat_map(Element::elements) {
            if !here.is_some_and(|here| here.elements().any(|other| same_part(child, other))) {
                let own = ["vcpu", "iothread"].iter().find_map(|key| child.attribute(key)).map(str::to_string);
                let own = own.or_else(|| child.text_at(&["path"]));
                let way: Vec<&str> = [parent, child.name.as_str()].into_iter().chain(own.as_deref()).collect();
                changes.push(gone(words(&way, None), child));
            }
        }
    }
    if let (Some(threads), None) = (live.get("iothreads"), stated.get("iothreads")) {
        changes.push(gone("iothreads".to_string(), threads));
    }
    for (label, disk) in disks(live) {
        let Some(limits) = disk.get("iotune") else { continue };
        let target = |disk: &Element| disk.get("target").and_then(|target| target.attribute("dev")).map(str::to_string);
        let twin = disks(stated).into_iter().find(|(_, other)| target(other) == target(disk));
        let Some((_, twin)) = twin else { continue };
        for limit in limits.elements().filter(|limit| twin.at(&["iotune", &limit.name]).is_none()) {
            changes.push(gone(words(&[&label, "iotune", &limit.name], None), limit));
        }
    }
    for (label, device) in unmatched(live, stated) {
        changes.push(gone(label, device));
    }
    changes
}

/// All disks, with their labels.
fn disks(domain: &Element) -> Vec<(String, &Element)> {
    let all = domain.get("devices").into_iter().flat_map(|devices| devices.named("disk"));
    all.enumerate().map(|(at, disk)| (devices::label(disk, at), disk)).collect()
}

/// Devices of one domain that another has not, with their labels.
fn unmatched<'a>(of: &'a Element, other: &Element) -> Vec<(String, &'a Element)> {
    let mut found = Vec::new();
    let Some(devices) = of.get("devices") else { return found };
    let mut names: Vec<&str> = Vec::new();
    for device in devices.elements().filter(|device| !is_libvirts_own(device)) {
        if !names.contains(&device.name.as_str()) {
            names.push(&device.name);
        }
    }
    for name in names {
        let here: Vec<&Element> = devices.named(name).filter(|device| !is_libvirts_own(device)).collect();
        let there: Vec<&Element> = other.get("devices").into_iter().flat_map(|all| all.named(name)).collect();
        // What is there decides which one each of these is: those that are left over are gone.
        let assigned = devices::assign(&there, &here, Takeover::None, &|_, _| true);
        for (at, device) in here.iter().enumerate() {
            if !assigned.contains(&Some(at)) {
                found.push((devices::label(device, at), *device));
            }
        }
    }
    found
}

struct Planner<'a> {
    name: &'a str,
    live: &'a mut Element,
    steps: &'a mut Vec<Step>,
    /// Where a virtual CPU without a pin runs.
    anywhere: Option<&'a str>,
}

impl Planner<'_> {
    fn step(&mut self, arguments: &[&str], stdin: Option<String>, changes: Vec<Change>, live: Element) {
        *self.live = live.clone();
        let argv = arguments.iter().map(|word| (*word).to_string()).collect();
        self.steps.push(Step { argv, stdin, changes, live, patient: false });
    }
}
