//! Intent against reality: what is stated must hold in the domain as libvirt has it; and the domain that results when
//! only that is changed.
//!
//! Three documents meet, as in `kubectl apply`: what is asked for now, what is there, and what was asked for last time. What was
//! asked for last time and is not any more goes away; everything else that is there and not stated stays as it is.

use super::devices;
use super::normal::{amount, is_default, same_attribute, same_machine, same_text};
use super::render::{Wanted, is_i440fx};
use crate::modules::libvirt::xml::{Element, Node};

/// One thing that is not as stated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What, in words: `disk vda: cache`.
    pub path: String,
    /// As it is.
    pub before: Option<String>,
    /// As it should be.
    pub after: Option<String>,
}

/// What comparing answers.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The domain with everything stated in it: what to define.
    pub xml: Element,
    /// What differs; empty when all that is stated holds.
    pub changes: Vec<Change>,
    /// Devices that nobody stated: they stay.
    pub left_alone: Vec<String>,
}

/// Compares and merges. `last` is what was asked for last time, where that is known.
pub fn merge(wanted: &Wanted, current: &Element, last: Option<&Element>) -> Merged {
    let mut merger = Merger { changes: Vec::new(), left_alone: Vec::new() };
    let mut xml = current.clone();
    forget_places_of_another_machine(&wanted.xml, &mut xml);
    merger.domain(&wanted.xml, &mut xml, last);
    for way in &wanted.absent {
        merger.absent(way, &mut xml);
    }
    Merged { xml, changes: merger.changes, left_alone: merger.left_alone }
}

/// What is shown of an element: its text when that is all, its XML otherwise; passwords never.
pub fn describe(element: &Element) -> String {
    if element.attributes.is_empty() && element.elements().next().is_none() {
        return if element.nodes.is_empty() { "yes".to_string() } else { element.text() };
    }
    if let Some(size) = amount(element) {
        return size.to_string();
    }
    masked(element).print().trim_end().to_string()
}

/// The element with every password hidden.
pub fn masked(element: &Element) -> Element {
    let mut copy = element.clone();
    if copy.attribute("passwd").is_some() {
        copy.set("passwd", HIDDEN);
    }
    for child in copy.elements_mut() {
        *child = masked(child);
    }
    copy
}

const HIDDEN: &str = "********";

/// Addresses and controllers of one chipset mean nothing on another: libvirt lays them out anew.
fn forget_places_of_another_machine(wanted: &Element, xml: &mut Element) {
    let machine = |domain: &Element| {
        domain.at(&["os", "type"]).and_then(|e| e.attribute("machine")).unwrap_or_default().to_string()
    };
    let (new, old) = (machine(wanted), machine(xml));
    if new.is_empty() || same_machine(&new, &old) || is_i440fx(&new) == is_i440fx(&old) {
        return;
    }
    if let Some(devices) = xml.get_mut("devices") {
        devices.retain(|device| device.name != "controller");
        for device in devices.elements_mut() {
            device.retain(|child| child.name != "address");
        }
    }
}

struct Merger {
    changes: Vec<Change>,
    left_alone: Vec<String>,
}

impl Merger {
    fn change(&mut self, path: &str, before: Option<String>, after: Option<String>) {
        self.changes.push(Change { path: path.to_string(), before, after });
    }

    fn domain(&mut self, wanted: &Element, xml: &mut Element, last: Option<&Element>) {
        for (name, value) in &wanted.attributes {
            if name.starts_with("xmlns") {
                if xml.attribute(name).is_none() {
                    xml.set(name, value.as_str());
                }
            } else if xml.attribute(name) != Some(value.as_str()) {
                self.change(name, xml.attribute(name).map(str::to_string), Some(value.clone()));
                xml.set(name, value.as_str());
            }
        }
        self.boot_order(wanted, xml, last);
        let memory_before = xml.get("memory").and_then(amount);
        let children = |domain: Option<&Element>| -> Vec<Element> {
            let own = ["name", "uuid", "devices"];
            domain
                .into_iter()
                .flat_map(Element::elements)
                .filter(|e| !own.contains(&e.name.as_str()))
                .cloned()
                .collect()
        };
        // As one element, so that singles, lists and removals are treated alike at every depth; `boot` is done already.
        let strip = |list: Vec<Element>| {
            let mut all = Element::new("domain");
            for mut element in list {
                if element.name == "os" {
                    element.retain(|child| child.name != "boot");
                }
                all = all.child(element);
            }
            all
        };
        let (stated, before) = (strip(children(Some(wanted))), last.map(|last| strip(children(Some(last)))));
        self.children(&[], &stated, xml, before.as_ref());
        // Current memory follows memory unless it is stated by itself; libvirt refuses more than memory.
        if wanted.get("currentMemory").is_none()
            && xml.get("memory").and_then(amount) != memory_before
            && let Some(memory) = xml.get("memory").cloned()
            && let Some(current) = xml.get_mut("currentMemory")
        {
            current.attributes = memory.attributes;
            current.nodes = memory.nodes;
        }
        self.devices(wanted.get("devices"), xml, last.and_then(|last| last.get("devices")));
    }

    /// A list of `<boot dev>` or an order on devices: libvirt refuses both at once, so that what is stated drops the other.
    fn boot_order(&mut self, wanted: &Element, xml: &mut Element, last: Option<&Element>) {
        let list = |domain: &Element| -> Vec<String> {
            let boots = domain.get("os").into_iter().flat_map(|os| os.named("boot"));
            boots.filter_map(|boot| boot.attribute("dev")).map(str::to_string).collect()
        };
        let on_devices = |domain: &Element| {
            domain.get("devices").is_some_and(|devices| devices.elements().any(|device| device.get("boot").is_some()))
        };
        let (new, old) = (list(wanted), list(xml));
        if !new.is_empty() && new != old {
            self.change("boot order", (!old.is_empty()).then(|| old.join(", ")), Some(new.join(", ")));
        }
        let by_device = on_devices(wanted);
        let given_up = new.is_empty() && last.is_some_and(|last| !list(last).is_empty()) && !old.is_empty();
        if by_device && !old.is_empty() || given_up {
            self.change("boot order", Some(old.join(", ")), None);
        }
        let Some(os) = xml.get_mut("os") else { return };
        if by_device || given_up || (!new.is_empty() && new != old) {
            os.retain(|child| child.name != "boot");
            for device in &new {
                os.nodes.push(Node::Element(Element::new("boot").with("dev", device.as_str())));
            }
        }
        if !new.is_empty()
            && let Some(devices) = xml.get_mut("devices")
        {
            for device in devices.elements_mut() {
                device.retain(|child| child.name != "boot");
            }
        }
    }

    fn absent(&mut self, way: &str, xml: &mut Element) {
        let words = words(&way.split(['/', '@']).collect::<Vec<_>>(), None);
        let (way, attribute) = way.split_once('@').map_or((way, None), |(way, name)| (way, Some(name)));
        let mut steps: Vec<&str> = way.split('/').collect();
        let last = if attribute.is_none() { steps.pop() } else { None };
        let Some(parent) = steps.iter().try_fold(xml, |element, name| element.get_mut(name)) else { return };
        match (attribute, last) {
            (Some(name), _) => {
                if let Some(value) = parent.attribute(name).map(str::to_string) {
                    self.change(&words, Some(value), None);
                    parent.unset(name);
                }
            }
            (None, Some(name)) => {
                if let Some(child) = parent.get(name) {
                    self.change(&words, Some(describe(child)), None);
                    parent.retain(|child| child.name != name);
                }
            }
            (None, None) => {}
        }
    }

    /// Everything stated in `wanted` must be so in `current`; what `last` stated and `wanted` does not goes away.
    fn element(&mut self, way: &[&str], wanted: &Element, current: &mut Element, last: Option<&Element>) {
        if let (Some(new), Some(old)) = (amount(wanted), amount(current)) {
            if new != old {
                self.change(&words(way, None), Some(old.to_string()), Some(new.to_string()));
                current.attributes = wanted.attributes.clone();
                current.nodes = wanted.nodes.clone();
            }
            return;
        }
        if wanted.name == "cpu" && self.cpu_mode(way, wanted, current, last) {
            return;
        }
        let dynamic_port = wanted.attribute("autoport") == Some("yes") && current.attribute("autoport") == Some("yes");
        for (name, value) in &wanted.attributes {
            let before = current.attribute(name).map(str::to_string);
            let same = match &before {
                Some(before) => same_attribute(&wanted.name, name, value, before),
                None => is_default(&wanted.name, name, value),
            };
            if same || (name == "port" && dynamic_port) {
                continue;
            }
            let shown = |value: String| if name == "passwd" { HIDDEN.to_string() } else { value };
            self.change(&words(way, Some(name)), before.map(shown), Some(shown(value.clone())));
            current.set(name, value.as_str());
            after_attribute(current, name);
        }
        for (name, _) in last.iter().flat_map(|last| &last.attributes) {
            if wanted.attribute(name).is_none()
                && !is_kept(&wanted.name, name)
                && let Some(before) = current.attribute(name).map(str::to_string)
            {
                let shown = if name == "passwd" { HIDDEN.to_string() } else { before };
                self.change(&words(way, Some(name)), Some(shown), None);
                current.unset(name);
                after_attribute(current, name);
            }
        }
        if wanted.elements().next().is_none() {
            let (new, old) = (wanted.text(), current.text());
            if !new.is_empty() && !same_text(&wanted.name, &new, &old) {
                self.change(&words(way, None), (!old.is_empty()).then_some(old), Some(new.clone()));
                current.set_text(new);
            }
        }
        self.children(way, wanted, current, last);
    }

    /// A CPU of another mode shares nothing with the one before but its arrangement.
    fn cpu_mode(&mut self, way: &[&str], wanted: &Element, current: &mut Element, last: Option<&Element>) -> bool {
        let (Some(new), Some(old)) = (wanted.attribute("mode"), current.attribute("mode")) else { return false };
        if new == old {
            return false;
        }
        let model = |cpu: &Element, mode: &str| match cpu.text_at(&["model"]) {
            Some(model) => format!("{mode} ({model})"),
            None => mode.to_string(),
        };
        self.change(&words(way, Some("mode")), Some(model(current, old)), Some(model(wanted, new)));
        let mut fresh = wanted.clone();
        fresh.retain(|child| !matches!(child.name.as_str(), "topology" | "numa"));
        for name in ["topology", "numa"] {
            let given_up = wanted.get(name).is_none() && last.is_some_and(|last| last.get(name).is_some());
            if let Some(old) = current.get(name)
                && !given_up
            {
                fresh = fresh.child(old.clone());
            }
        }
        *current = fresh;
        // Whatever of the arrangement differs is compared as always.
        for name in ["topology", "numa"] {
            if let Some(stated) = wanted.get(name) {
                let mut only = Element::new("cpu");
                only = only.child(stated.clone());
                self.children(way, &only, current, None);
            }
        }
        true
    }

    fn children(&mut self, way: &[&str], wanted: &Element, current: &mut Element, last: Option<&Element>) {
        let mut names: Vec<&str> = Vec::new();
        for child in wanted.elements().chain(last.into_iter().flat_map(Element::elements)) {
            if !names.contains(&child.name.as_str()) {
                names.push(&child.name);
            }
        }
        for name in names {
            let stated: Vec<&Element> = wanted.named(name).collect();
            let before: Vec<&Element> = last.into_iter().flat_map(|last| last.named(name)).collect();
            let there = current.named(name).count();
            let mut inner: Vec<&str> = way.to_vec();
            inner.push(name);
            match (stated.as_slice(), there) {
                ([], 0) => {}
                // libvirt prints no container that nothing is in.
                ([only], 0) if is_container(name) && only.nodes.is_empty() && only.attributes.is_empty() => {}
                ([], 1) => {
                    self.change(&words(&inner, None), current.get(name).map(describe), None);
                    current.retain(|child| child.name != name);
                }
                ([only], 0 | 1) if key_attribute(name).is_none() && before.len() <= 1 => match current.get_mut(name) {
                    Some(child) => self.element(&inner, only, child, before.first().copied()),
                    None => {
                        self.change(&words(&inner, None), None, Some(describe(only)));
                        current.nodes.push(Node::Element((*only).clone()));
                    }
                },
                _ => match key_attribute(name) {
                    Some(key) => self.keyed(&inner, key, &stated, current, &before),
                    None => self.whole_list(&inner, &stated, current),
                },
            }
        }
    }

    /// Elements that an attribute tells apart, such as `<feature name=…>`.
    fn keyed(&mut self, way: &[&str], key: &str, stated: &[&Element], current: &mut Element, last: &[&Element]) {
        let Some(name) = way.last() else { return };
        let find =
            |list: &[&Element], value: Option<&str>| list.iter().copied().find(|e| e.attribute(key) == value).cloned();
        for wanted in stated {
            let value = wanted.attribute(key);
            let label = value.unwrap_or_default().to_string();
            let mut inner = way.to_vec();
            inner.push(&label);
            let child = current.elements_mut().find(|e| e.name == **name && e.attribute(key) == value);
            if let Some(child) = child {
                self.element(&inner, wanted, child, find(last, value).as_ref());
                continue;
            }
            self.change(&words(&inner, None), None, Some(describe(wanted)));
            current.nodes.push(Node::Element((*wanted).clone()));
        }
        for gone in last.iter().filter(|gone| find(stated, gone.attribute(key)).is_none()) {
            let value = gone.attribute(key).unwrap_or_default();
            let mut inner = way.to_vec();
            inner.push(value);
            let old = current.named(name).find(|e| e.attribute(key) == Some(value)).map(describe);
            if let Some(old) = old {
                self.change(&words(&inner, None), Some(old), None);
                current.retain(|e| !(e.name == **name && e.attribute(key) == Some(value)));
            }
        }
    }

    /// Elements whose order means something, such as `<qemu:arg>`.
    fn whole_list(&mut self, way: &[&str], stated: &[&Element], current: &mut Element) {
        let Some(name) = way.last() else { return };
        let there: Vec<Element> = current.named(name).cloned().collect();
        let same = there.len() == stated.len() && there.iter().zip(stated).all(|(there, stated)| holds(stated, there));
        if same {
            return;
        }
        let print = |list: &mut dyn Iterator<Item = &Element>| {
            let text: String = list.map(|e| masked(e).print()).collect();
            Some(text.trim_end().to_string()).filter(|text| !text.is_empty())
        };
        self.change(&words(way, None), print(&mut there.iter()), print(&mut stated.iter().copied()));
        current.retain(|e| e.name != **name);
        current.nodes.extend(stated.iter().map(|e| Node::Element((*e).clone())));
    }

    fn devices(&mut self, wanted: Option<&Element>, xml: &mut Element, last: Option<&Element>) {
        if xml.get("devices").is_none() {
            xml.nodes.push(Node::Element(Element::new("devices")));
        }
        let Some(current) = xml.get_mut("devices") else { return };
        let mut names: Vec<String> = Vec::new();
        let all = [wanted, last].into_iter().flatten().flat_map(Element::elements);
        for device in all.chain(current.elements()) {
            if !names.contains(&device.name) {
                names.push(device.name.clone());
            }
        }
        for name in names {
            let stated: Vec<&Element> = wanted.into_iter().flat_map(|all| all.named(&name)).collect();
            let before: Option<Vec<&Element>> = last.map(|all| all.named(&name).collect());
            self.devices_of_a_sort(&name, &stated, current, before.as_deref());
        }
    }

    fn devices_of_a_sort(&mut self, name: &str, stated: &[&Element], current: &mut Element, last: Option<&[&Element]>) {
        let there: Vec<Element> = current.named(name).cloned().collect();
        let there_refs: Vec<&Element> = there.iter().collect();
        // Which of those there did the last run state?
        let last_of: Vec<Option<usize>> = match last {
            Some(last) => {
                let assigned = devices::assign(last, &there_refs, None);
                let find = |at: usize| assigned.iter().position(|slot| *slot == Some(at));
                (0..there.len()).map(find).collect()
            }
            None => vec![None; there.len()],
        };
        let ours: Option<Vec<bool>> = last.map(|_| last_of.iter().map(Option::is_some).collect());
        let assigned = devices::assign(stated, &there_refs, ours.as_deref());
        let mut result: Vec<Element> = Vec::new();
        for (at, old) in there.iter().enumerate() {
            let before = last_of.get(at).copied().flatten().and_then(|n| last.and_then(|last| last.get(n))).copied();
            let position = assigned.iter().position(|slot| *slot == Some(at));
            let label = devices::label(old, at);
            match position.and_then(|n| stated.get(n)) {
                Some(wanted) => {
                    let mut device = old.clone();
                    self.device(&label, wanted, &mut device, before);
                    result.push(device);
                }
                None if before.is_some() && name != "emulator" => {
                    self.change(&label, Some(describe(old)), None);
                }
                None => {
                    if matches!(name, "disk" | "interface" | "hostdev" | "graphics" | "filesystem") {
                        self.left_alone.push(label);
                    }
                    result.push(old.clone());
                }
            }
        }
        for (wanted, _) in stated.iter().zip(&assigned).filter(|(_, slot)| slot.is_none()) {
            let label = devices::label(wanted, result.len());
            self.change(&label, None, Some(describe(wanted)));
            result.push((*wanted).clone());
        }
        put_back(current, name, result);
    }

    fn device(&mut self, label: &str, wanted: &Element, current: &mut Element, last: Option<&Element>) {
        let kind = |device: &Element| device.attribute("type").map(str::to_string);
        let (new, old) = (kind(wanted), kind(current));
        let differs = new.is_some() && old.is_some() && new != old;
        match wanted.name.as_str() {
            "graphics" if differs => {
                self.change(&format!("{label}: type"), old, new);
                *current = wanted.clone();
                return;
            }
            // Sources of another sort have other attributes; none of the old ones may stay.
            "disk" | "interface" if differs => {
                let source = |device: &Element| device.get("source").map(describe);
                if source(wanted) != source(current) {
                    self.change(&format!("{label}: source"), source(current), source(wanted));
                }
                current.retain(|child| child.name != "source");
                if let Some(source) = wanted.get("source") {
                    current.nodes.push(Node::Element(source.clone()));
                }
            }
            "video" => {
                let model = |device: &Element| {
                    device.get("model").and_then(|model| model.attribute("type")).map(str::to_string)
                };
                if let (Some(new), Some(old)) = (model(wanted), model(current))
                    && new != old
                {
                    // The memory of one model means nothing to another, and libvirt refuses it.
                    self.change(&format!("{label}: model"), Some(old), Some(new));
                    current.retain(|child| child.name != "model" && child.name != "address");
                    current.nodes.extend(wanted.get("model").cloned().map(Node::Element));
                }
            }
            _ => {}
        }
        let bus = |device: &Element| device.get("target").and_then(|e| e.attribute("bus")).map(str::to_string);
        if wanted.name == "disk" && bus(wanted).is_some() && bus(wanted) != bus(current) {
            current.retain(|child| child.name != "address");
        }
        self.element(&[label], wanted, current, last);
    }
}

/// What an attribute drags along.
fn after_attribute(element: &mut Element, name: &str) {
    match (element.name.as_str(), name) {
        // libvirt prints the address twice and refuses it when the two differ.
        ("graphics", "listen") => element.retain(|child| child.name != "listen"),
        ("clock", "offset") => {
            for stale in ["adjustment", "basis", "timezone", "start"] {
                if !(stale == "timezone" && element.attribute("offset") == Some("timezone")) {
                    element.unset(stale);
                }
            }
        }
        _ => {}
    }
}

/// Attributes that don't go away because they are not stated any more: libvirt would only write its default again.
fn is_kept(element: &str, attribute: &str) -> bool {
    matches!(
        (element, attribute),
        ("disk" | "interface" | "hostdev" | "graphics" | "video", "type" | "device" | "managed" | "mode")
            | ("graphics", "port" | "autoport")
            | ("type", _)
            | ("cpu", "mode" | "match" | "check")
            | ("memory" | "currentMemory", "unit")
    )
}

/// Elements that say nothing when they are empty.
fn is_container(name: &str) -> bool {
    matches!(name, "features" | "hyperv" | "kvm" | "cputune" | "memoryBacking" | "driver" | "devices")
}

/// The attribute that tells apart elements of this name which may stand side by side.
fn key_attribute(name: &str) -> Option<&'static str> {
    Some(match name {
        "feature" | "timer" => "name",
        "vcpupin" => "vcpu",
        "iothreadpin" => "iothread",
        "cell" => "id",
        "memnode" => "cellid",
        _ => return None,
    })
}

/// Does everything stated here hold there?
fn holds(stated: &Element, there: &Element) -> bool {
    let mut merger = Merger { changes: Vec::new(), left_alone: Vec::new() };
    merger.element(&[], stated, &mut there.clone(), None);
    merger.changes.is_empty()
}

/// Puts devices of one sort where the first of them stood, or at the end.
fn put_back(devices: &mut Element, name: &str, list: Vec<Element>) {
    let place = devices
        .nodes
        .iter()
        .position(|node| matches!(node, Node::Element(element) if element.name == name))
        .unwrap_or(devices.nodes.len());
    let rest = devices.nodes.split_off(place);
    devices.nodes.extend(list.into_iter().map(Node::Element));
    devices
        .nodes
        .extend(rest.into_iter().filter(|node| !matches!(node, Node::Element(element) if element.name == name)));
}

/// A way through the document in the words that people use.
fn words(way: &[&str], attribute: Option<&str>) -> String {
    let mut way = way.to_vec();
    let device = way.first().copied().filter(|first| first.contains(' ') || matches!(*first, "video" | "memballoon"));
    if device.is_some() {
        way.remove(0);
    }
    let inner = match (way.as_slice(), attribute) {
        (["os", "type"], Some(name @ ("machine" | "arch"))) => name.to_string(),
        (["os", rest @ ..], name) if !rest.is_empty() => join(rest, name),
        (["vcpu"], None) => "vcpus".to_string(),
        (["currentMemory"], None) => "current memory".to_string(),
        (["driver"], Some("type")) => "format".to_string(),
        (["driver"], Some("name")) => "driver".to_string(),
        (["driver"], Some(name)) => name.to_string(),
        (["source"], Some("file" | "dev" | "bridge" | "network")) => "source".to_string(),
        (["target"], Some("bus")) => "bus".to_string(),
        (["model"], Some("type")) => "model".to_string(),
        (["model"], Some(name)) => name.to_string(),
        (["mac"], Some("address")) => "mac".to_string(),
        (rest, Some("state" | "value")) if !rest.is_empty() => join(rest, None),
        (rest, name) => join(rest, name),
    };
    match device {
        Some(device) if inner.is_empty() => device.to_string(),
        Some(device) => format!("{device}: {inner}"),
        None => inner,
    }
}

fn join(way: &[&str], attribute: Option<&str>) -> String {
    way.iter().copied().chain(attribute).collect::<Vec<_>>().join(" ")
}
