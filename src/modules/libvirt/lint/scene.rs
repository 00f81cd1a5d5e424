//! What every rule looks at, and how places and devices are called.

use super::about::About;
use super::rules::Rule;
use super::{Finding, os};
use crate::modules::libvirt::domain::devices::{pci_source, usb_source};
use crate::modules::libvirt::xml::Element;

/// A device with its name.
#[derive(Clone, Debug)]
pub struct Device<'a> {
    /// Where it is: `domain/devices/disk[vda]`.
    pub place: String,
    /// How people call it: `disk vda`.
    pub label: String,
    /// It.
    pub element: &'a Element,
}

impl Device<'_> {
    /// Its sort.
    pub fn is(&self, name: &str) -> bool {
        self.element.name == name
    }
    /// An attribute of one of its children.
    pub fn of(&self, child: &str, attribute: &str) -> Option<&str> {
        self.element.get(child)?.attribute(attribute)
    }
}

/// A guest, what is known around it, and what has been found.
pub struct Scene<'a> {
    /// The guest.
    pub domain: &'a Element,
    /// What is known around it.
    pub about: &'a About,
    /// Its devices.
    pub devices: Vec<Device<'a>>,
    /// What Windows it probably runs.
    pub windows: Option<os::Windows>,
    /// What has been found.
    pub found: Vec<Finding>,
}

impl<'a> Scene<'a> {
    /// Before anything was looked at.
    pub fn new(domain: &'a Element, about: &'a About) -> Scene<'a> {
        let devices = devices(domain);
        let windows = os::windows(domain, about.os.as_deref());
        Scene { domain, about, devices, windows, found: Vec::new() }
    }

    /// Notes a finding.
    pub fn say(&mut self, rule: &Rule, place: impl Into<String>, message: impl Into<String>, fix: impl Into<String>) {
        let name = super::rules::find(rule.name).map_or("", |rule| rule.name);
        self.found.push(Finding {
            rule: name,
            severity: rule.severity,
            place: place.into(),
            message: message.into(),
            fix: fix.into(),
        });
    }

    /// Devices of this sort.
    pub fn all(&self, name: &str) -> Vec<Device<'a>> {
        self.devices.iter().filter(|device| device.is(name)).cloned().collect()
    }

    /// The architecture; libvirt takes the host's where none is given.
    pub fn is_x86(&self) -> bool {
        matches!(self.os("type", "arch"), None | Some("x86_64" | "i686"))
    }

    /// Is QEMU its hypervisor?
    pub fn is_qemu(&self) -> bool {
        matches!(self.domain.attribute("type"), None | Some("kvm" | "qemu" | "hvf"))
    }

    /// The machine type, where it is given.
    pub fn machine(&self) -> Option<&'a str> {
        self.os("type", "machine")
    }

    /// An attribute of one of the children of `<os>`.
    pub fn os(&self, child: &str, attribute: &str) -> Option<&'a str> {
        self.domain.at(&["os", child])?.attribute(attribute)
    }
}

/// Is this machine type of the q35 sort?
pub fn is_q35(machine: &str) -> bool {
    machine == "q35" || machine.starts_with("pc-q35")
}

/// The devices of a guest with their names. What has none of its own is counted, where there are several.
pub fn devices(domain: &Element) -> Vec<Device<'_>> {
    let all: Vec<&Element> = domain.get("devices").into_iter().flat_map(Element::elements).collect();
    let mut counts: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    let mut devices = Vec::with_capacity(all.len());
    for element in &all {
        let name = element.name.as_str();
        let at = counts.entry(name).or_default();
        *at += 1;
        let several = || all.iter().filter(|other| other.name == element.name).nth(1).is_some();
        let own = own_name(element).or_else(|| several().then(|| at.to_string()));
        let (place, label) = match own {
            Some(own) => (format!("domain/devices/{name}[{own}]"), format!("{name} {own}")),
            None => (format!("domain/devices/{name}"), name.to_string()),
        };
        devices.push(Device { place, label, element });
    }
    devices
}

/// What tells a device from others of its sort, in a word.
fn own_name(device: &Element) -> Option<String> {
    let child = |name: &str, attribute: &str| device.get(name)?.attribute(attribute).map(str::to_string);
    match device.name.as_str() {
        "disk" => child("target", "dev"),
        "hostdev" => pci_source(device)
            .map(|address| address.to_string())
            .or_else(|| usb_source(device))
            .or_else(|| device.at(&["source", "address"])?.attribute("uuid").map(str::to_string)),
        "graphics" => device.attribute("type").map(str::to_string),
        "controller" => Some(format!("{}.{}", device.attribute("type")?, device.attribute("index").unwrap_or("0"))),
        "filesystem" => child("target", "dir"),
        "shmem" => device.attribute("name").map(str::to_string),
        _ => None,
    }
}

/// A truth value as libvirt writes it.
pub fn is_on(value: Option<&str>) -> bool {
    matches!(value, Some("on" | "yes"))
}
