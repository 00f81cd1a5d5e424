//! Intent against reality: what is stated must hold in the domain as libvirt has it; and the domain that results when
//! only that is changed.
//!
//! Three documents meet, as in `kubectl apply`: what is asked for now, what is there, and what was asked for last time. What was
//! asked for last time and is not any more goes away; everything else that is there and not stated stays as it is.

mod lists;
mod parts;
mod tree;

#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;

use super::normal::{amount, same_machine, set_amount};
use super::render::{Wanted, is_i440fx};
use super::words::{describe, words};
use crate::modules::libvirt::xml::{Element, Node};

pub use super::words::masked;

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
    /// The domain with everything stated in it: what to define. `<metadata>` of others is in it, and ours as it was.
    pub xml: Element,
    /// What differs; empty when all that is stated holds.
    pub changes: Vec<Change>,
    /// What people added by hand and nobody stated: it stays.
    pub left_alone: Vec<String>,
}

/// Compares and merges. `last` is what was asked for last time, where that is known (see
/// [`intent::last`](super::intent::last)).
pub fn merge(wanted: &Wanted, current: &Element, last: Option<&Element>) -> Merged {
    let mut merger = Merger::default();
    let mut xml = current.clone();
    merger.another_chipset(&wanted.xml, &mut xml);
    merger.domain(&wanted.xml, &mut xml, last);
    for way in &wanted.absent {
        merger.absent(way, &mut xml);
    }
    Merged { xml, changes: merger.changes, left_alone: merger.left_alone }
}

/// Does everything stated here hold there?
pub(super) fn holds(stated: &Element, there: &Element) -> bool {
    let mut merger = Merger::default();
    merger.element(&[], stated, &mut there.clone(), None);
    merger.changes.is_empty()
}

/// Walks through wanted and current together, changes what is current and writes down what it changed.
#[derive(Default)]
pub(super) struct Merger {
    pub(super) changes: Vec<Change>,
    pub(super) left_alone: Vec<String>,
}

/// Children of `<domain>` that are compared by themselves, or never.
const APART: [&str; 3] = ["name", "uuid", "devices"];

impl Merger {
    pub(super) fn change(&mut self, path: &str, before: Option<String>, after: Option<String>) {
        self.changes.push(Change { path: path.to_string(), before, after });
    }

    /// Addresses and controllers of one chipset mean nothing on another: libvirt lays them out anew.
    fn another_chipset(&mut self, wanted: &Element, xml: &mut Element) {
        let machine = |domain: &Element| {
            domain.at(&["os", "type"]).and_then(|e| e.attribute("machine")).unwrap_or_default().to_string()
        };
        let (new, old) = (machine(wanted), machine(xml));
        if new.is_empty() || same_machine(&new, &old) || is_i440fx(&new) == is_i440fx(&old) {
            return;
        }
        let Some(devices) = xml.get_mut("devices") else { return };
        let count = devices.nodes.len();
        devices.retain(|device| !matches!(device.name.as_str(), "controller" | "hub"));
        let mut moved = devices.nodes.len() != count;
        for device in devices.elements_mut() {
            let count = device.nodes.len();
            device.retain(|child| child.name != "address");
            moved |= device.nodes.len() != count;
        }
        if moved {
            self.change("addresses of devices", Some(format!("those of {old}")), Some(format!("new ones of {new}")));
        }
    }

    fn domain(&mut self, wanted: &Element, xml: &mut Element, last: Option<&Element>) {
        self.boot_order(wanted, xml, last);
        let memory_before = xml.get("memory").and_then(amount);
        // Without what is compared by itself, so that singles, lists and removals are treated alike at every depth.
        let strip = |domain: &Element| {
            let mut domain = domain.clone();
            domain.retain(|child| !APART.contains(&child.name.as_str()));
            if let Some(os) = domain.get_mut("os") {
                os.retain(|child| child.name != "boot");
            }
            domain
        };
        for (name, value) in wanted.attributes.iter().filter(|(name, _)| name.starts_with("xmlns")) {
            if xml.attribute(name).is_none() {
                xml.set(name, value.as_str());
            }
        }
        let mut stated = strip(wanted);
        stated.attributes.retain(|(name, _)| !name.starts_with("xmlns"));
        let before = last.map(|last| {
            let mut last = strip(last);
            last.attributes.clear();
            last
        });
        self.element(&[], &stated, xml, before.as_ref());
        self.follow(wanted, xml, memory_before);
        self.devices(wanted.get("devices"), xml, last.and_then(|last| last.get("devices")));
        self.boot_on_devices(wanted, xml);
    }

    /// What libvirt refuses when it is not brought along: current memory above memory, more virtual CPUs in use than there are.
    fn follow(
        &mut self,
        wanted: &Element,
        xml: &mut Element,
        memory_before: Option<crate::modules::libvirt::values::Size>,
    ) {
        let memory = xml.get("memory").and_then(amount);
        if wanted.get("currentMemory").is_none()
            && memory != memory_before
            && let Some(memory) = xml.get("memory").cloned()
            && let Some(current) = xml.get_mut("currentMemory")
        {
            set_amount(current, &memory);
        }
        let stated = wanted.get("vcpu").is_some_and(|vcpu| vcpu.attribute("current").is_some());
        if let Some(vcpu) = xml.get_mut("vcpu").filter(|_| !stated) {
            let count: Option<u64> = vcpu.text().parse().ok();
            let in_use: Option<u64> = vcpu.attribute("current").and_then(|text| text.parse().ok());
            if in_use > count {
                self.change("vcpus in use", vcpu.attribute("current").map(str::to_string), None);
                vcpu.unset("current");
            }
        }
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
    }

    /// A place in the boot order belongs to one device only, and none has one where the list says it all.
    fn boot_on_devices(&mut self, wanted: &Element, xml: &mut Element) {
        let by_list = wanted.get("os").is_some_and(|os| os.get("boot").is_some());
        let order = |device: &Element| device.get("boot").and_then(|boot| boot.attribute("order")).map(str::to_string);
        let stated: Vec<(Option<String>, String)> = wanted
            .get("devices")
            .into_iter()
            .flat_map(Element::elements)
            .filter_map(|device| Some((super::devices::identity(device), order(device)?)))
            .collect();
        let Some(devices) = xml.get_mut("devices") else { return };
        let mut positions: std::collections::BTreeMap<String, usize> = std::collections::BTreeMap::new();
        let mut gone = Vec::new();
        for device in devices.elements_mut() {
            let position = positions.entry(device.name.clone()).or_default();
            let at = *position;
            *position += 1;
            let Some(has) = order(device) else { continue };
            let identity = super::devices::identity(device);
            let taken = stated.iter().any(|(_, order)| *order == has);
            let own = stated.iter().any(|(who, order)| *order == has && *who == identity);
            if by_list || (taken && !own) {
                gone.push((super::devices::label(device, at), has));
                device.retain(|child| child.name != "boot");
            }
        }
        for (label, order) in gone {
            self.change(&format!("{label}: boot order"), Some(order), None);
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
}
