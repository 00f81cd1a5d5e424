//! Devices: which stated one is which of those that are there, and what goes with what.

use super::{Merger, holds};
use crate::modules::libvirt::domain::devices;
use crate::modules::libvirt::domain::words::{describe, source};
use crate::modules::libvirt::xml::{Element, Node};

impl Merger {
    pub(super) fn devices(&mut self, wanted: Option<&Element>, xml: &mut Element, last: Option<&Element>) {
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
            if name == "controller" {
                self.usb_companions(&stated, current);
            }
            self.devices_of_a_sort(&name, &stated, current, before.as_deref());
        }
    }

    fn devices_of_a_sort(&mut self, name: &str, stated: &[&Element], current: &mut Element, last: Option<&[&Element]>) {
        let there: Vec<Element> = current.named(name).cloned().collect();
        if there.is_empty() && stated.is_empty() {
            return;
        }
        let there_refs: Vec<&Element> = there.iter().collect();
        let devices::Assigned { now: assigned, then: last_of } =
            devices::assign_since(stated, &there_refs, last, &holds);
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
                None if before.is_some() && !devices::is_always_there(old) => {
                    self.change(&label, Some(describe(old)), None);
                }
                None => {
                    if devices::is_somebodys(old) {
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

    /// A USB 2 controller of Intel's has up to three companions with the same index; with another model in its place they
    /// mean nothing, and libvirt refuses them.
    fn usb_companions(&mut self, stated: &[&Element], current: &mut Element) {
        for wanted in stated.iter().filter(|c| c.attribute("type") == Some("usb")) {
            let Some(model) = wanted.attribute("model").filter(|model| !devices::is_companion(model)) else { continue };
            let index = |c: &Element| c.attribute("index").unwrap_or("0").to_string();
            let same = |c: &Element| c.attribute("type") == Some("usb") && index(c) == index(wanted);
            let old: Vec<String> = current
                .named("controller")
                .filter(|c| same(c))
                .filter_map(|c| c.attribute("model"))
                .filter(|model| devices::is_companion(model))
                .map(str::to_string)
                .collect();
            if old.is_empty() {
                continue;
            }
            current.retain(|device| {
                !(device.name == "controller"
                    && same(device)
                    && device.attribute("model").is_some_and(devices::is_companion))
            });
            let label = format!("controller usb {}: model", index(wanted));
            self.change(&label, Some(old.join(", ")), Some(model.to_string()));
            current.nodes.push(Node::Element((*wanted).clone()));
        }
    }

    fn device(&mut self, label: &str, wanted: &Element, current: &mut Element, last: Option<&Element>) {
        let kind = |device: &Element| device.attribute("type").map(str::to_string);
        let (new, old) = (kind(wanted), kind(current));
        let differs = new.is_some() && old.is_some() && new != old;
        let model = |device: &Element| device.get("model").and_then(|m| m.attribute("type")).map(str::to_string);
        match wanted.name.as_str() {
            "graphics" | "audio" if differs => {
                self.change(&format!("{label}: type"), old, new);
                *current = wanted.clone();
                return;
            }
            // Sources of another sort have other attributes; none of the old ones may stay.
            "disk" | "interface" | "filesystem" if differs => {
                self.change(
                    &format!("{label}: source"),
                    source(current).or(old),
                    source(wanted).or_else(|| new.clone()),
                );
                replace(current, wanted, "source");
                set_some(current, "type", new);
            }
            "serial" | "parallel" | "console" | "channel" | "redirdev" | "smartcard" | "rng" if differs => {
                self.change(&format!("{label}: type"), old, new.clone());
                for part in ["source", "protocol"] {
                    replace(current, wanted, part);
                }
                set_some(current, "type", new);
            }
            // The memory of one model means nothing to another, and libvirt refuses it.
            "video" if model(wanted).is_some() && model(current).is_some() && model(wanted) != model(current) => {
                self.change(&format!("{label}: model"), model(current), model(wanted));
                current.retain(|child| child.name != "address");
                replace(current, wanted, "model");
            }
            // One model stands where another can't.
            "controller" | "input"
                if wanted.attribute("model").is_some()
                    && current.attribute("model").is_some()
                    && wanted.attribute("model") != current.attribute("model") =>
            {
                current.retain(|child| child.name != "address" && child.name != "target");
            }
            _ => {}
        }
        let bus = |device: &Element| device.get("target").and_then(|e| e.attribute("bus")).map(str::to_string);
        if wanted.name == "disk" && bus(wanted).is_some() && bus(wanted) != bus(current) {
            current.retain(|child| child.name != "address");
        }
        let listen = current.get("listen").cloned();
        self.element(&[label], wanted, current, last);
        // libvirt refuses two listen addresses that differ: the one that is not stated follows.
        if wanted.name == "graphics" && wanted.attribute("listen").is_none() && current.get("listen").cloned() != listen
        {
            current.unset("listen");
        }
    }
}

fn set_some(element: &mut Element, name: &str, value: Option<String>) {
    if let Some(value) = value {
        element.set(name, value);
    }
}

/// Puts what is wanted of a part in the place of what is there.
fn replace(current: &mut Element, wanted: &Element, name: &str) {
    current.retain(|child| child.name != name);
    current.nodes.extend(wanted.named(name).cloned().map(Node::Element));
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
