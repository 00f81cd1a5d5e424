//! One way of writing each domain: two documents that mean the same domain to libvirt become equal.
//!
//! What libvirt fills in by itself, always and everywhere, is left out of both; what it only chooses (addresses, MACs,
//! UUIDs, models) stays, because another time it may choose otherwise. The facts are from libvirt's documentation of the
//! format and from what libvirt 9.0 and later print after `define`.

mod devices;

pub use devices::target_index;

use std::collections::BTreeMap;

use crate::modules::libvirt::domain::{devices as known, intent, normal};
use crate::modules::libvirt::values::{number, unit};
use crate::modules::libvirt::xml::{Element, Node};

/// What kind of machine it is: much of what is filled in depends on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// A PC of either kind.
    pub x86: bool,
    /// `pc`: IDE, no PCI Express.
    pub i440fx: bool,
    /// `q35`.
    pub q35: bool,
}

impl Machine {
    /// Of a domain.
    pub fn of(domain: &Element) -> Machine {
        let kind = domain.at(&["os", "type"]);
        let arch = kind.and_then(|kind| kind.attribute("arch")).unwrap_or("x86_64");
        let machine = kind.and_then(|kind| kind.attribute("machine")).unwrap_or("pc");
        let x86 = matches!(arch, "x86_64" | "i686");
        Machine {
            x86,
            i440fx: x86 && crate::modules::libvirt::domain::render::is_i440fx(machine),
            q35: x86 && (machine == "q35" || machine.starts_with("pc-q35")),
        }
    }
}

/// The canonical form of a domain.
pub fn canonical(domain: &Element) -> Element {
    let mut copy = domain.clone();
    let machine = Machine::of(&copy);
    copy.unset("id");
    let uses = |prefix: &str| has_prefix(&copy, prefix);
    let unused: Vec<String> = copy
        .attributes
        .iter()
        .filter_map(|(name, _)| name.strip_prefix("xmlns:"))
        .filter(|prefix| !uses(prefix))
        .map(|prefix| format!("xmlns:{prefix}"))
        .collect();
    unused.iter().for_each(|name| copy.unset(name));
    metadata(&mut copy);
    general(&mut copy);
    top(&mut copy, machine);
    if let Some(os) = copy.get_mut("os") {
        firmware(os);
    }
    boot(&mut copy);
    processor(&mut copy, machine);
    clock(&mut copy);
    if let Some(all) = copy.get_mut("devices") {
        devices::canonical(all, machine);
    }
    drop_empty(&mut copy, &["features", "hyperv", "kvm", "cputune", "memoryBacking", "devices", "cpu", "metadata"]);
    sort(&mut copy);
    copy
}

/// The canonical form of one device alone.
pub fn device(device: &Element, machine: Machine) -> Option<Element> {
    let mut all = Element::new("devices").child(device.clone());
    general(&mut all);
    devices::each(&mut all, machine);
    let mut only = all.elements().next()?.clone();
    sort(&mut only);
    Some(only)
}

fn has_prefix(element: &Element, prefix: &str) -> bool {
    let begins = |name: &str| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with(':'));
    begins(&element.name)
        || element.attributes.iter().any(|(name, _)| begins(name))
        || element.elements().any(|child| has_prefix(child, prefix))
}

/// Our own notes in a domain are no part of what it is.
fn metadata(domain: &mut Element) {
    if let Some(metadata) = domain.get_mut("metadata") {
        metadata.retain(|child| !intent::is_ours(child));
    }
}

/// What holds for every element: numbers, units, sets, white space.
fn general(element: &mut Element) {
    let leaf = element.elements().next().is_none();
    if leaf && !matches!(element.name.as_str(), "title" | "description") {
        let text = element.text();
        element.set_text(text);
    }
    if element.name == "metadata" {
        return;
    }
    amounts(element);
    let name = element.name.clone();
    for (attribute, value) in &mut element.attributes {
        let fixed = match (name.as_str(), attribute.as_str()) {
            (_, "cpuset" | "nodeset" | "cpus" | "hostNodes") => cpu_set(value),
            ("mac", "address") => Some(value.to_ascii_lowercase()),
            ("vendor" | "product", "id") => number(value).map(|n| n.to_string()),
            (
                "address",
                "domain" | "bus" | "slot" | "function" | "controller" | "target" | "unit" | "device" | "cssid" | "ssid"
                | "devno" | "iobase" | "irq" | "reg" | "base",
            )
            | ("target", "chassis" | "port" | "index" | "chassisNr" | "busNr")
            | ("controller", "index" | "ports" | "vectors")
            | ("model", "vram" | "ram" | "vgamem" | "heads" | "vram64")
            | ("cid", "address") => number(value).map(|n| n.to_string()),
            _ => None,
        };
        if let Some(fixed) = fixed {
            *value = fixed;
        }
    }
    if name == "uuid" && leaf {
        let plain = element.text().replace('-', "").to_ascii_lowercase();
        element.set_text(plain);
    }
    if matches!(name.as_str(), "vcpupin" | "emulatorpin" | "iothreadpin") {
        element.attributes.sort();
    }
    if name == "address" {
        let zero = |element: &Element, name: &str| element.attribute(name) == Some("0");
        for attribute in ["domain", "function"] {
            if zero(element, attribute) {
                element.unset(attribute);
            }
        }
        if element.attribute("multifunction") == Some("off") {
            element.unset("multifunction");
        }
    }
    element.elements_mut().for_each(general);
}

/// Memory in KiB, as libvirt counts it.
fn amounts(element: &mut Element) {
    let kib = |count: &str, unit_name: &str| -> Option<u64> {
        Some(count.trim().parse::<u64>().ok()?.checked_mul(unit(unit_name)?)?.div_ceil(1024))
    };
    if matches!(element.name.as_str(), "memory" | "currentMemory" | "maxMemory") && element.elements().next().is_none()
    {
        if let Some(amount) = kib(&element.text(), element.attribute("unit").unwrap_or("KiB")) {
            element.unset("unit");
            element.set_text(amount.to_string());
        }
        return;
    }
    let Some(name) = element.attribute("unit").map(str::to_string) else { return };
    for attribute in ["memory", "size"] {
        if let Some(amount) = element.attribute(attribute).and_then(|count| kib(count, &name)) {
            element.set(attribute, amount.to_string());
            element.set("unit", "KiB");
            return;
        }
    }
    if element.elements().next().is_none()
        && let Some(amount) = kib(&element.text(), &name)
    {
        element.set("unit", "KiB");
        element.set_text(amount.to_string());
    }
}

/// `0-3,^2,8` as single numbers.
fn cpu_set(text: &str) -> Option<String> {
    let set = normal::cpu_set(text)?;
    Some(set.into_iter().map(|cpu| cpu.to_string()).collect::<Vec<_>>().join(","))
}

fn top(domain: &mut Element, machine: Machine) {
    if domain.text_at(&["currentMemory"]) == domain.text_at(&["memory"]) {
        domain.retain(|child| child.name != "currentMemory");
    }
    if let Some(vcpu) = domain.get_mut("vcpu") {
        if vcpu.attribute("placement") == Some("static") {
            vcpu.unset("placement");
        }
        if vcpu.attribute("current").is_some_and(|current| current == vcpu.text()) {
            vcpu.unset("current");
        }
    } else {
        domain.nodes.push(Node::Element(Element::new("vcpu").containing("1")));
    }
    for (name, default) in [("on_poweroff", "destroy"), ("on_reboot", "restart"), ("on_crash", "destroy")] {
        if domain.text_at(&[name]).as_deref() == Some(default) {
            domain.retain(|child| child.name != name);
        }
    }
    domain.retain(|child| {
        !(child.name == "resource" && child.text_at(&["partition"]).is_some_and(|partition| partition == "/machine"))
    });
    if let Some(hyperv) = domain.get_mut("features").and_then(|features| features.get_mut("hyperv"))
        && hyperv.attribute("mode") == Some("custom")
    {
        hyperv.unset("mode");
    }
    if machine.x86
        && let Some(kind) = domain.get_mut("os").and_then(|os| os.get_mut("type"))
    {
        // What libvirt takes on a PC when nothing is said.
        if kind.attribute("arch").is_none() {
            kind.set("arch", "x86_64");
        }
        if kind.attribute("machine").is_none() {
            kind.set("machine", "pc");
        }
    }
    if let Some(tune) = domain.get_mut("cputune") {
        tune.nodes.sort_by_key(|node| match node {
            Node::Element(pin) => {
                let order = ["vcpu", "iothread"].iter().find_map(|key| pin.attribute(key)).and_then(number);
                (pin.name.clone(), order)
            }
            Node::Text(_) => (String::new(), None),
        });
    }
}

fn firmware(os: &mut Element) {
    for (name, attribute, default) in [
        ("loader", "secure", "no"),
        ("loader", "format", "raw"),
        ("nvram", "format", "raw"),
        ("nvram", "templateFormat", "raw"),
        ("smbios", "mode", "emulate"),
        ("bootmenu", "enable", "no"),
    ] {
        if let Some(element) = os.get_mut(name)
            && element.attribute(attribute) == Some(default)
        {
            element.unset(attribute);
        }
    }
    os.retain(|child| {
        !(matches!(child.name.as_str(), "smbios" | "bootmenu") && child.attributes.is_empty() && child.nodes.is_empty())
    });
}

/// Without any order libvirt writes down that the first disk is booted from.
fn boot(domain: &mut Element) {
    let by_device =
        domain.get("devices").is_some_and(|devices| devices.elements().any(|device| device.get("boot").is_some()));
    let Some(os) = domain.get_mut("os") else { return };
    let direct = os.get("kernel").is_some();
    let only_disk = {
        let list: Vec<&str> = os.named("boot").filter_map(|boot| boot.attribute("dev")).collect();
        list == ["hd"]
    };
    if only_disk && !by_device && !direct {
        os.retain(|child| child.name != "boot");
    }
}

fn processor(domain: &mut Element, machine: Machine) {
    let Some(cpu) = domain.get_mut("cpu") else { return };
    if cpu.attribute("match") == Some("exact") {
        cpu.unset("match");
    }
    let model = cpu.text_at(&["model"]);
    if cpu.attribute("mode").is_none() && model.is_some() {
        cpu.set("mode", "custom");
    }
    let mode = cpu.attribute("mode").unwrap_or_default().to_string();
    // What a PC gets that says nothing of its CPU.
    let fallback = cpu.get("model").and_then(|model| model.attribute("fallback")).unwrap_or("allow").to_string();
    if machine.x86
        && mode == "custom"
        && model.as_deref() == Some("qemu64")
        && cpu.attribute("check") == Some("none")
        && fallback == "forbid"
        && cpu.get("feature").is_none()
    {
        cpu.unset("mode");
        cpu.unset("check");
        cpu.retain(|child| child.name != "model");
    }
    let check = match mode.as_str() {
        "host-passthrough" | "maximum" => Some("none"),
        "host-model" | "custom" => Some("partial"),
        _ => None,
    };
    if check.is_some() && cpu.attribute("check") == check {
        cpu.unset("check");
    }
    if matches!(mode.as_str(), "host-passthrough" | "maximum") && cpu.attribute("migratable") == Some("on") {
        cpu.unset("migratable");
    }
    for child in cpu.elements_mut() {
        match child.name.as_str() {
            "model" if child.attribute("fallback") == Some("allow") => child.unset("fallback"),
            "feature" if child.attribute("policy").is_none() => child.set("policy", "require"),
            "topology" => {
                for part in ["dies", "clusters"] {
                    if child.attribute(part) == Some("1") {
                        child.unset(part);
                    }
                }
            }
            _ => {}
        }
    }
    cpu.retain(|child| !(child.name == "model" && child.attributes.is_empty() && child.nodes.is_empty()));
}

fn clock(domain: &mut Element) {
    domain.retain(|child| {
        let default = child.name == "clock"
            && child.nodes.is_empty()
            && child.attributes.iter().all(|(name, value)| name == "offset" && value == "utc");
        !default
    });
}

/// Takes out elements of these names that say nothing, the inner ones first.
fn drop_empty(element: &mut Element, names: &[&str]) {
    element.elements_mut().for_each(|child| drop_empty(child, names));
    element.retain(|child| {
        !(names.contains(&child.name.as_str()) && child.attributes.is_empty() && child.nodes.is_empty())
    });
}

/// Attributes by name, and elements too where their order means nothing; those of one name keep theirs.
fn sort(element: &mut Element) {
    element.attributes.sort();
    if element.name == "metadata" {
        return;
    }
    element.elements_mut().for_each(sort);
    let only_elements = element.nodes.iter().all(|node| matches!(node, Node::Element(_)));
    // Arguments of QEMU are a list.
    if only_elements && !element.name.contains(':') {
        element.nodes.sort_by_key(|node| match node {
            Node::Element(child) => (child.name.clone(), order_of(child)),
            Node::Text(_) => (String::new(), String::new()),
        });
    }
}

/// What the order of elements of one name goes by, where they are a set.
fn order_of(element: &Element) -> String {
    match element.name.as_str() {
        "feature" | "timer" => element.attribute("name").unwrap_or_default().to_string(),
        _ => String::new(),
    }
}

/// One thing that two domains don't agree about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What: `disk vda`, `features`, `cpu`.
    pub what: String,
    /// The element; empty where it is about the whole.
    pub element: String,
    /// As it is in the first; `None` when it is not there.
    pub first: Option<String>,
    /// As it is in the second.
    pub second: Option<String>,
}

/// Where two domains differ as libvirt means it. What the second has and the first leaves to chance (a UUID, MAC
/// addresses) is no difference.
pub fn differences(first: &Element, second: &Element) -> Vec<Difference> {
    let (first, mut second) = (canonical(first), canonical(second));
    leave_to_chance(&first, &mut second);
    if first == second {
        return Vec::new();
    }
    let mut found = Vec::new();
    let root = |domain: &Element| {
        let mut copy = domain.clone();
        copy.nodes.clear();
        copy
    };
    compare("domain", Some(&root(&first)), Some(&root(&second)), &mut found);
    let (one, other) = (parts(&first), parts(&second));
    for (label, element) in &one {
        compare(label, Some(element), other.get(label).copied(), &mut found);
    }
    for (label, element) in other.iter().filter(|(label, _)| !one.contains_key(*label)) {
        compare(label, None, Some(element), &mut found);
    }
    if found.is_empty() {
        // Equal part by part, and yet not as a whole: the order of devices.
        found.push(Difference {
            what: "order of devices".into(),
            element: String::new(),
            first: Some(first.print()),
            second: Some(second.print()),
        });
    }
    found
}

/// What libvirt makes up where nothing is said.
fn leave_to_chance(first: &Element, second: &mut Element) {
    if first.get("uuid").is_none() {
        second.retain(|child| child.name != "uuid");
    }
    let cards: Vec<bool> = first
        .get("devices")
        .into_iter()
        .flat_map(|devices| devices.named("interface"))
        .map(|card| card.get("mac").is_some())
        .collect();
    let Some(devices) = second.get_mut("devices") else { return };
    for (at, card) in devices.elements_mut().filter(|device| device.name == "interface").enumerate() {
        if cards.get(at) == Some(&false) {
            card.retain(|child| child.name != "mac");
        }
    }
}

fn compare(what: &str, first: Option<&Element>, second: Option<&Element>, found: &mut Vec<Difference>) {
    if first != second {
        let shown = |element: Option<&Element>| element.map(|element| element.print().trim_end().to_string());
        let element = first.or(second).map(|element| element.name.clone()).unwrap_or_default();
        found.push(Difference { what: what.to_string(), element, first: shown(first), second: shown(second) });
    }
}

/// Everything in a domain under a name of its own.
fn parts(domain: &Element) -> BTreeMap<String, &Element> {
    let mut all = BTreeMap::new();
    let mut add = |label: String, element| {
        let mut unique = label.clone();
        let mut count = 1;
        while all.contains_key(&unique) {
            count += 1;
            unique = format!("{label} ({count})");
        }
        all.insert(unique, element);
    };
    for element in domain.elements().filter(|element| element.name != "devices") {
        add(element.name.clone(), element);
    }
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for device in domain.get("devices").into_iter().flat_map(Element::elements) {
        let count = counts.entry(&device.name).or_default();
        add(known::label(device, *count), device);
        *count += 1;
    }
    all
}
