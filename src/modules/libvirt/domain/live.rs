//! A guest that runs: what of its definition it does not run with yet, and what of that can be changed while it runs.
//!
//! The definition and what runs are two documents. `virsh define` changes the first; the second follows when the guest is
//! started anew, or by commands of its own for what QEMU can plug, unplug or change.

use super::compare::{Change, holds, merge};
use super::devices::{self, Takeover};
use super::normal::{amount, same_attribute, says_only_defaults, set_amount};
use super::render::Wanted;
use super::words::{describe, source, words};
use crate::modules::libvirt::xml::{Element, Node};

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
}

/// What is between a definition and what runs.
#[derive(Clone, Debug, Default)]
pub struct Pending {
    /// What can be changed now, in order.
    pub steps: Vec<Step>,
    /// What waits for a restart even when the steps are done; all of it where they are not.
    pub waiting: Vec<Change>,
}

/// Compares a definition with what runs. `hot`: may the running guest be changed?
pub fn pending(name: &str, defined: &Element, live: &Element, hot: bool) -> Pending {
    let mut now = live.clone();
    let mut steps = Vec::new();
    if hot {
        let mut planner = Planner { name, live: &mut now, steps: &mut steps };
        planner.domain(defined);
        planner.devices(defined);
    }
    Pending { steps, waiting: differences(defined, &now) }
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
    for parent in ["features", "clock", "memoryBacking", "qemu:commandline"] {
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
    for (label, device) in unmatched(live, stated) {
        changes.push(gone(label, device));
    }
    changes
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
}

impl Planner<'_> {
    fn step(&mut self, arguments: &[&str], stdin: Option<String>, changes: Vec<Change>, live: Element) {
        *self.live = live.clone();
        let argv = arguments.iter().map(|word| (*word).to_string()).collect();
        self.steps.push(Step { argv, stdin, changes, live });
    }

    /// What has a command of its own.
    fn domain(&mut self, defined: &Element) {
        self.memory(defined);
        for (element, action) in [("on_poweroff", "poweroff"), ("on_reboot", "reboot"), ("on_crash", "crash")] {
            let (Some(new), Some(old)) = (defined.get(element), self.live.get(element)) else { continue };
            let (new, old) = (new.text(), old.text());
            if new == old || action == "crash" && new.starts_with("coredump") {
                continue;
            }
            let mut live = self.live.clone();
            if let Some(there) = live.get_mut(element) {
                there.set_text(new.as_str());
            }
            let change = Change { path: element.to_string(), before: Some(old), after: Some(new.clone()) };
            let name = self.name;
            self.step(&["set-lifecycle-action", name, action, &new, "--live"], None, vec![change], live);
        }
        self.pins(defined);
    }

    /// Memory can shrink and grow below its limit, where there is a balloon.
    fn memory(&mut self, defined: &Element) {
        let of = |domain: &Element, name: &str| domain.get(name).and_then(amount);
        let (Some(new), Some(old)) = (of(defined, "currentMemory"), of(self.live, "currentMemory")) else { return };
        let most = of(self.live, "memory");
        if new == old || of(defined, "memory") != most || most.is_none_or(|most| new > most) {
            return;
        }
        let balloon = self.live.at(&["devices", "memballoon"]).and_then(|b| b.attribute("model"));
        if balloon.is_none_or(|model| model == "none") {
            return;
        }
        let mut live = self.live.clone();
        if let (Some(there), Some(new)) = (live.get_mut("currentMemory"), defined.get("currentMemory")) {
            set_amount(there, new);
        }
        let change =
            Change { path: "current memory".into(), before: Some(old.to_string()), after: Some(new.to_string()) };
        let (name, kib) = (self.name, new.kib().to_string());
        self.step(&["setmem", name, &kib, "--live"], None, vec![change], live);
    }

    fn pins(&mut self, defined: &Element) {
        for pin in defined.get("cputune").into_iter().flat_map(Element::elements) {
            let (command, key) = match pin.name.as_str() {
                "vcpupin" => ("vcpupin", pin.attribute("vcpu")),
                "iothreadpin" => ("iothreadpin", pin.attribute("iothread")),
                "emulatorpin" => ("emulatorpin", None),
                _ => continue,
            };
            let Some(cpus) = pin.attribute("cpuset") else { continue };
            let same_key = |e: &Element| {
                e.name == pin.name
                    && e.attribute("vcpu") == pin.attribute("vcpu")
                    && e.attribute("iothread") == pin.attribute("iothread")
            };
            let old = self.live.get("cputune").into_iter().flat_map(Element::elements).find(|e| same_key(e)).cloned();
            let before = old.as_ref().and_then(|e| e.attribute("cpuset")).map(str::to_string);
            if before.as_deref().is_some_and(|before| same_attribute(&pin.name, "cpuset", cpus, before)) {
                continue;
            }
            let mut live = self.live.clone();
            if live.get("cputune").is_none() {
                live.nodes.push(Node::Element(Element::new("cputune")));
            }
            if let Some(tune) = live.get_mut("cputune") {
                tune.retain(|e| !same_key(e));
                tune.nodes.push(Node::Element(pin.clone()));
            }
            let path = [Some(pin.name.as_str()), key].into_iter().flatten().collect::<Vec<_>>().join(" ");
            let change = Change { path, before, after: Some(cpus.to_string()) };
            let mut arguments = vec![command, self.name];
            arguments.extend(key);
            arguments.extend([cpus, "--live"]);
            self.step(&arguments, None, vec![change], live);
        }
    }

    fn devices(&mut self, defined: &Element) {
        let stated = comparable(defined, self.live);
        // First what goes: a target or an address may be needed again.
        let going: Vec<(String, Element)> =
            unmatched(self.live, &stated).into_iter().map(|(label, device)| (label, device.clone())).collect();
        for (label, device) in going.into_iter().filter(|(_, device)| can_be_plugged(device)) {
            let change = Change { path: label, before: Some(describe(&plain(&device))), after: None };
            let mut live = self.live.clone();
            if let Some(all) = live.get_mut("devices") {
                all.retain(|other| *other != device);
            }
            let name = self.name;
            self.step(&["detach-device", name, "/dev/stdin", "--live"], Some(device.print()), vec![change], live);
        }
        self.updates(&stated);
        let coming: Vec<(String, Element)> =
            unmatched(defined, self.live).into_iter().map(|(label, device)| (label, device.clone())).collect();
        for (label, device) in coming.into_iter().filter(|(_, device)| can_be_plugged(device)) {
            let device = self.placed(&device);
            let change = Change { path: label, before: None, after: Some(describe(&plain(&device))) };
            let mut live = self.live.clone();
            if let Some(all) = live.get_mut("devices") {
                all.nodes.push(Node::Element(device.clone()));
            }
            let name = self.name;
            self.step(&["attach-device", name, "/dev/stdin", "--live"], Some(device.print()), vec![change], live);
        }
    }

    /// The device with the address that its definition has, if what it is on runs too and nothing else is there.
    fn placed(&self, device: &Element) -> Element {
        let mut device = device.clone();
        let Some(address) = device.get("address").cloned() else { return device };
        let Some(running) = self.live.get("devices") else { return device };
        let taken = running.elements().filter_map(|other| other.get("address")).any(|other| holds(&address, other));
        let kind = match address.attribute("type") {
            Some("pci") => Some("pci"),
            Some("usb") => Some("usb"),
            Some("drive") => Some("scsi"),
            Some("virtio-serial") => Some("virtio-serial"),
            _ => None,
        };
        let index = match kind {
            Some("pci" | "usb") => address.attribute("bus"),
            _ => address.attribute("controller"),
        };
        let number = crate::modules::libvirt::values::number;
        let there = kind.is_some_and(|kind| {
            running.named("controller").any(|controller| {
                controller.attribute("type") == Some(kind)
                    && controller.attribute("index").and_then(number) == index.and_then(number)
            })
        });
        if taken || !there {
            device.retain(|child| child.name != "address");
        }
        device
    }

    /// What QEMU can change of a device that stays: a medium, the other end of a network cable, a display's password.
    fn updates(&mut self, stated: &Element) {
        for wanted in stated.get("devices").into_iter().flat_map(Element::elements) {
            let Some(running) = self.live.get("devices") else { return };
            let there: Vec<&Element> = running.named(&wanted.name).collect();
            let place = devices::assign(&[wanted], &there, Takeover::None, &holds);
            let Some(position) = place.first().copied().flatten() else { continue };
            let Some(old) = there.get(position).copied().cloned() else { continue };
            let Some(fresh) = updated(wanted, &old) else { continue };
            let label = devices::label(&old, position);
            let mut live = self.live.clone();
            if let Some(all) = live.get_mut("devices")
                && let Some(slot) = all.elements_mut().filter(|e| e.name == wanted.name).nth(position)
            {
                *slot = fresh.clone();
            }
            let changes = device_changes(&label, &old, &fresh);
            let name = self.name;
            self.step(&["update-device", name, "/dev/stdin", "--live"], Some(fresh.print()), changes, live);
        }
    }
}

/// What is between two states of one device.
fn device_changes(label: &str, old: &Element, fresh: &Element) -> Vec<Change> {
    let alone = |device: &Element| Element::new("domain").child(Element::new("devices").child(device.clone()));
    let wanted = Wanted { intent: alone(fresh), xml: alone(fresh), absent: Vec::new() };
    let mut changes = merge(&wanted, &alone(old), None).changes;
    if changes.is_empty() {
        // Something went away: a medium.
        changes.push(Change { path: format!("{label}: source"), before: source(old), after: source(fresh) });
    }
    changes
}

/// The running device with what can be changed of it; `None` when nothing of that differs.
fn updated(wanted: &Element, live: &Element) -> Option<Element> {
    let mut fresh = live.clone();
    let parts: &[&str] = match wanted.name.as_str() {
        "disk" if matches!(wanted.attribute("device"), Some("cdrom" | "floppy")) => &["source"],
        "interface" if wanted.attribute("type") == live.attribute("type") => {
            &["source", "link", "bandwidth", "filterref", "vlan"]
        }
        "graphics" => &[],
        _ => return None,
    };
    let mut changed = false;
    for part in parts {
        // A drive whose medium was taken out keeps an empty `<source index='3'/>`.
        let is_there =
            |old: &&Element| old.attributes.iter().any(|(name, _)| name != "index") || old.elements().next().is_some();
        let (new, old) = (wanted.get(part), live.get(part).filter(is_there));
        let same = match (new, old) {
            (Some(new), Some(old)) => holds(new, old),
            (Some(new), None) => says_only_defaults(new),
            (None, None) => true,
            // A network's own part in it is not ours.
            (None, Some(_)) => wanted.name == "interface" && *part != "link",
        };
        if same {
            continue;
        }
        changed = true;
        fresh.retain(|child| child.name != *part);
        if let Some(new) = new {
            fresh.nodes.push(Node::Element(new.clone()));
        }
        if *part == "source" {
            fresh.retain(|child| {
                child.name != "backingStore" && !(wanted.name == "interface" && child.name == "target")
            });
            if let Some(kind) = wanted.attribute("type") {
                fresh.set("type", kind);
            }
        }
    }
    if wanted.name == "graphics" && wanted.attribute("passwd") != live.attribute("passwd") {
        let passwd = wanted.attribute("passwd")?;
        fresh.set("passwd", passwd);
        changed = true;
    }
    changed.then_some(fresh)
}

/// Can QEMU plug it while the guest runs? (libvirt's `virDomainAttachDeviceFlags` for QEMU.)
fn can_be_plugged(device: &Element) -> bool {
    let bus = || device.get("target").and_then(|target| target.attribute("bus"));
    match device.name.as_str() {
        "disk" => {
            matches!(device.attribute("device"), None | Some("disk" | "lun"))
                && matches!(bus(), Some("virtio" | "scsi" | "usb"))
        }
        "interface" | "hostdev" | "rng" | "memory" | "shmem" | "redirdev" | "vsock" | "lease" => true,
        "input" => matches!(device.attribute("bus"), Some("usb" | "virtio")),
        "channel" => device.get("target").and_then(|target| target.attribute("type")) == Some("virtio"),
        "controller" => device.attribute("type") == Some("scsi"),
        "watchdog" => device.attribute("model") != Some("itco"),
        _ => false,
    }
}

/// Without what only libvirt cares about.
fn plain(device: &Element) -> Element {
    let mut plain = device.clone();
    plain.retain(|child| !matches!(child.name.as_str(), "alias" | "address" | "backingStore"));
    plain
}
