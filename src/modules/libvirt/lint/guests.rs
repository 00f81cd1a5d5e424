//! What guests of one machine take from each other: devices of the host, images, names.

use super::about::{About, Other};
use super::rules::{
    DEVICE_SHARED, DEVICE_SHARED_AUTOSTART, DEVICE_TWICE, DUPLICATE_MAC, DUPLICATE_NAME, IMAGE_SHARED, Rule,
};
use super::scene::Scene;
use super::{Finding, check as check_one};
use crate::modules::libvirt::domain::devices::{pci_source, usb_source};
use crate::modules::libvirt::values::{PciAddress, number};
use crate::modules::libvirt::xml::{self, Element};

/// A device of the host that a guest claims.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// A PCI function.
    Pci(PciAddress),
    /// A USB device, by vendor and product.
    Usb(u16, u16),
    /// A USB device, by bus and device number.
    UsbPort(u64, u64),
    /// A mediated device.
    Mdev(String),
}

impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Claim::Pci(address) => write!(f, "{address}"),
            Claim::Usb(vendor, product) => write!(f, "{vendor:04x}:{product:04x}"),
            Claim::UsbPort(bus, device) => write!(f, "USB bus {bus} device {device}"),
            Claim::Mdev(uuid) => write!(f, "mdev {uuid}"),
        }
    }
}

impl Claim {
    /// The PCI function, if it is one.
    pub fn pci(&self) -> Option<PciAddress> {
        if let Claim::Pci(address) = self { Some(*address) } else { None }
    }

    /// Could a text that is not parsed claim it? Never `false` where it does.
    pub fn may_be_in(&self, xml: &str) -> bool {
        let hex = |number: u64, width: usize| {
            let (lower, upper) = (format!("{number:0width$x}"), format!("{number:0width$X}"));
            xml.contains(&lower) || xml.contains(&upper) || xml.contains(&number.to_string())
        };
        let sort = xml.contains("hostdev");
        sort && match self {
            Claim::Pci(address) => hex(address.bus.into(), 1),
            Claim::Usb(vendor, product) => hex((*vendor).into(), 1) && hex((*product).into(), 1),
            Claim::UsbPort(..) => xml.contains("usb"),
            Claim::Mdev(uuid) => xml.contains(uuid.as_str()),
        }
    }
}

fn claim(device: &Element) -> Option<Claim> {
    if device.name == "interface" && device.attribute("type") == Some("hostdev") {
        let mut as_hostdev = Element::new("hostdev").with("type", "pci");
        as_hostdev.nodes.clone_from(&device.nodes);
        return pci_source(&as_hostdev).map(Claim::Pci);
    }
    if device.name != "hostdev" {
        return None;
    }
    if device.attribute("type") == Some("mdev") {
        return device.at(&["source", "address"])?.attribute("uuid").map(|uuid| Claim::Mdev(uuid.to_ascii_lowercase()));
    }
    if let Some(address) = pci_source(device) {
        return Some(Claim::Pci(address));
    }
    usb_source(device)?;
    let source = device.get("source")?;
    let id = |name: &str| source.get(name)?.attribute("id").and_then(number).and_then(|id| u16::try_from(id).ok());
    if let (Some(vendor), Some(product)) = (id("vendor"), id("product")) {
        return Some(Claim::Usb(vendor, product));
    }
    let part = |name: &str| source.get("address")?.attribute(name).and_then(number);
    Some(Claim::UsbPort(part("bus")?, part("device")?))
}

/// What a guest claims of the host, in the order of its devices.
pub fn claims(domain: &Element) -> Vec<Claim> {
    domain.get("devices").into_iter().flat_map(Element::elements).filter_map(claim).collect()
}

/// The same of a guest's XML that is only text: just what can be a claim is parsed.
pub fn claims_in(text: &str) -> Vec<Claim> {
    // What was stated last time, which is kept in the metadata, claims nothing.
    let text = text.rsplit_once("</metadata>").map_or(text, |(_, devices)| devices);
    let mut found = Vec::new();
    for (start, end) in [("<hostdev", "</hostdev>"), ("<interface", "</interface>")] {
        let mut rest = text;
        while let Some(at) = rest.find(start) {
            rest = rest.get(at..).unwrap_or_default();
            let Some(length) = rest.find(end).map(|at| at + end.len()) else { break };
            let (one, after) = rest.split_at_checked(length).unwrap_or((rest, ""));
            found.extend(xml::parse(one).ok().as_ref().and_then(claim));
            rest = after;
        }
    }
    found
}

/// What this guest takes from others.
pub fn check(scene: &mut Scene) {
    let own = claims(scene.domain);
    for (at, claim) in own.iter().enumerate() {
        // Two equal sticks are two devices: libvirt gives the second USB claim the second of them.
        let twice = own.iter().skip(at + 1).any(|other| other == claim);
        if twice && !matches!(claim, Claim::Usb(..)) {
            let fix = "take one of them away";
            scene.say(DEVICE_TWICE, "domain/devices", format!("{claim} is given to it twice"), fix);
        }
    }
    macs(scene);
    let Some(others) = &scene.about.others else { return };
    let autostart = scene.about.autostart.unwrap_or(false);
    for other in others {
        let mut both: Vec<String> =
            own.iter().filter(|claim| other.claims.contains(claim)).map(ToString::to_string).collect();
        both.dedup();
        if both.is_empty() {
            continue;
        }
        let (name, both) = (&other.name, both.join(", "));
        if autostart && other.autostart {
            scene.say(
                DEVICE_SHARED_AUTOSTART,
                "domain/devices",
                format!("{name} claims {both} too, and both would start with the host"),
                "only one of them can have `autostart: true`",
            );
        } else {
            scene.say(
                DEVICE_SHARED,
                "domain/devices",
                format!("{name} claims {both} too, so only one of them can run at a time"),
                "give each guest devices of its own, or start only one of them",
            );
        }
    }
}

fn macs(scene: &mut Scene) {
    let all: Vec<(String, String)> = scene
        .all("interface")
        .iter()
        .filter_map(|device| Some((device.place.clone(), device.of("mac", "address")?.to_ascii_lowercase())))
        .collect();
    for (at, (place, mac)) in all.iter().enumerate() {
        if all.iter().take(at).any(|(_, other)| other == mac) {
            let message = format!("two of its interfaces have the MAC address {mac}");
            scene.say(DUPLICATE_MAC, format!("{place}/mac@address"), message, "leave it out in one of them");
        }
    }
}

/// A guest among others.
#[derive(Clone, Copy, Debug)]
pub struct Guest<'a> {
    /// Where it comes from, for people: a file's name.
    pub source: &'a str,
    /// Its XML.
    pub domain: &'a Element,
    /// Does it start with the host?
    pub autostart: bool,
    /// The `os` that its playbook names.
    pub os: Option<&'a str>,
}

/// Checks guests of one machine, each by itself and all against each other. Answers them with their sources.
pub fn guests(all: &[Guest]) -> Vec<(String, Vec<Finding>)> {
    let name = |guest: &Guest| guest.domain.text_at(&["name"]).unwrap_or_else(|| guest.source.to_string());
    let mut answers = Vec::new();
    for (at, guest) in all.iter().enumerate() {
        let rest = || all.iter().enumerate().filter(|(other, _)| *other != at).map(|(_, other)| other);
        let others = rest()
            .map(|other| Other { name: name(other), autostart: other.autostart, claims: claims(other.domain) })
            .collect();
        let about = About {
            os: guest.os.map(str::to_string),
            autostart: Some(guest.autostart),
            others: Some(others),
            ..About::default()
        };
        let mut found = check_one(guest.domain, &about);
        for other in rest() {
            between(guest, other, &name(other), &mut found);
        }
        found.sort_by_key(|finding| finding.severity);
        answers.push((guest.source.to_string(), found));
    }
    answers
}

fn between(guest: &Guest, other: &Guest, other_name: &str, found: &mut Vec<Finding>) {
    let mut say = |rule: &'static Rule, place: String, message: String, fix: &str| {
        let fix = fix.to_string();
        found.push(Finding { rule: rule.name, severity: rule.severity, place, message, fix });
    };
    for what in ["name", "uuid"] {
        let text = |guest: &Guest| guest.domain.text_at(&[what]).map(|t| t.replace('-', "").to_ascii_lowercase());
        let same = if what == "name" {
            guest.domain.text_at(&[what]).is_some() && guest.domain.text_at(&[what]) == other.domain.text_at(&[what])
        } else {
            text(guest).is_some() && text(guest) == text(other)
        };
        if same {
            let message = format!("{other_name} ({}) has the same {what}", other.source);
            say(DUPLICATE_NAME, format!("domain/{what}"), message, "give each guest one of its own");
        }
    }
    let scene = super::scene::devices(guest.domain);
    let others = super::scene::devices(other.domain);
    for device in &scene {
        if let Some(mac) = device.of("mac", "address").filter(|_| device.is("interface"))
            && others.iter().any(|o| o.of("mac", "address").is_some_and(|own| own.eq_ignore_ascii_case(mac)))
        {
            let message = format!("{other_name} has the MAC address {mac} too");
            say(DUPLICATE_MAC, format!("{}/mac@address", device.place), message, "leave it out in one of them");
        }
        if let Some(image) = written(device)
            && others.iter().any(|other| written(other) == Some(image))
        {
            let message = format!("{}: {other_name} writes {image} too", device.label);
            say(IMAGE_SHARED, format!("{}/source", device.place), message, "give each guest an image of its own");
        }
    }
}

/// The image that a disk writes.
fn written<'a>(device: &'a super::scene::Device) -> Option<&'a str> {
    let element = device.element;
    let kind = element.attribute("device").unwrap_or("disk");
    if !device.is("disk") || kind == "cdrom" || element.get("readonly").is_some() || element.get("shareable").is_some()
    {
        return None;
    }
    ["file", "dev"].iter().find_map(|name| device.of("source", name))
}
