//! Devices of a running guest: plugged, unplugged, changed.

use super::super::compare::{Change, holds, merge};
use super::super::devices::{self, Takeover};
use super::super::intent;
use super::super::normal::says_only_defaults;
use super::super::render::Wanted;
use super::super::words::{describe, source};
use super::{Planner, comparable, unmatched};
use crate::modules::libvirt::xml::{Element, Node};

impl Planner<'_> {
    pub(super) fn devices(&mut self, defined: &Element) {
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
        let said = intent::last(defined);
        let mut coming: Vec<(String, Element, String)> = unmatched(defined, self.live)
            .into_iter()
            .filter(|(_, device)| can_be_plugged(device) && !comes_along(device, said.as_ref()))
            .map(|(label, device)| (label, device.clone(), described(device, defined, said.as_ref())))
            .collect();
        // What others are plugged into comes first.
        coming.sort_by_key(|(_, device, _)| (device.name != "controller", place(device)));
        for (label, device, description) in coming {
            let device = self.placed(&device);
            let change = Change { path: label, before: None, after: Some(description) };
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
        let mut all: Vec<&Element> = stated.get("devices").into_iter().flat_map(Element::elements).collect();
        all.sort_by_key(|device| place(device));
        for wanted in all {
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

/// In this order devices are plugged and changed: one that does not depend on where libvirt puts them in its document, since
/// a dry run does not know that. (It sorts disks by target, and keeps the others of a sort as they come.)
fn place(device: &Element) -> (String, usize, String) {
    let target = device.get("target").and_then(|target| target.attribute("dev")).unwrap_or_default();
    let target = if device.name == "disk" { target } else { "" };
    (device.name.clone(), target.len(), target.to_string())
}

/// A controller that libvirt added for a disk comes with that disk.
fn comes_along(device: &Element, said: Option<&Element>) -> bool {
    let Some(said) = said.filter(|_| device.name == "controller") else { return false };
    let identity = devices::identity(device);
    !said.get("devices").is_some_and(|all| all.named("controller").any(|other| devices::identity(other) == identity))
}

/// A device in words: as it was stated, where that is known. What libvirt made of it is not known in a dry run.
fn described(device: &Element, defined: &Element, said: Option<&Element>) -> String {
    let twin = said.and_then(|said| {
        let stated: Vec<&Element> = said.get("devices")?.named(&device.name).collect();
        let there: Vec<&Element> = defined.get("devices")?.named(&device.name).collect();
        let at = there.iter().position(|other| std::ptr::eq(*other, device))?;
        let slots = devices::assign(&stated, &there, Takeover::Any, &holds);
        stated.get(slots.iter().position(|slot| *slot == Some(at))?).copied()
    });
    describe(&plain(twin.unwrap_or(device)))
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
