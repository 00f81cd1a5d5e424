//! Which device is which: what libvirt's devices are called, and how a stated one is found among those that are there.

use crate::modules::libvirt::values::{PciAddress, number};
use crate::modules::libvirt::xml::Element;

/// The host's PCI function that a hostdev gives away.
pub fn pci_source(hostdev: &Element) -> Option<PciAddress> {
    if hostdev.attribute("type") != Some("pci") {
        return None;
    }
    let address = hostdev.at(&["source", "address"])?;
    let part = |name: &str, missing: Option<u64>| address.attribute(name).map_or(missing, number);
    Some(PciAddress {
        domain: u32::try_from(part("domain", Some(0))?).ok()?,
        bus: u8::try_from(part("bus", None)?).ok()?,
        slot: u8::try_from(part("slot", None)?).ok()?,
        function: u8::try_from(part("function", Some(0))?).ok()?,
    })
}

/// The host's USB device that a hostdev gives away, as `vendor:product` or `bus N device M`.
pub fn usb_source(hostdev: &Element) -> Option<String> {
    if hostdev.attribute("type") != Some("usb") {
        return None;
    }
    let source = hostdev.get("source")?;
    let id = |name: &str| source.get(name).and_then(|e| e.attribute("id")).and_then(number);
    if let (Some(vendor), Some(product)) = (id("vendor"), id("product")) {
        return Some(format!("{vendor:04x}:{product:04x}"));
    }
    let address = source.get("address")?;
    let part = |name: &str| address.attribute(name).and_then(number);
    Some(format!("bus {} device {}", part("bus")?, part("device")?))
}

/// What tells a device from the others of its sort, where something does.
pub fn identity(device: &Element) -> Option<String> {
    let child =
        |name: &str, attribute: &str| device.get(name).and_then(|child| child.attribute(attribute)).map(str::to_string);
    let own = |name: &str| device.attribute(name).map(str::to_string);
    match device.name.as_str() {
        "disk" => child("target", "dev"),
        "hostdev" => pci_source(device)
            .map(|address| format!("pci {address}"))
            .or_else(|| usb_source(device).map(|usb| format!("usb {usb}")))
            .or_else(|| other_source(device)),
        "interface" => interface_source(device),
        "graphics" => own("type"),
        "input" => {
            let kind = own("type")?;
            let bus = own("bus").unwrap_or_else(|| {
                let default = match kind.as_str() {
                    "tablet" => "usb",
                    "evdev" | "passthrough" => "",
                    _ => "ps2",
                };
                default.to_string()
            });
            let source = child("source", "dev").or_else(|| child("source", "evdev")).unwrap_or_default();
            let words: Vec<&str> = [kind.as_str(), &bus, &source].into_iter().filter(|word| !word.is_empty()).collect();
            Some(words.join(" "))
        }
        "controller" => {
            let index = device.attribute("index").unwrap_or("0");
            let companion = device.attribute("model").filter(|model| is_companion(model));
            let words: Vec<&str> = [device.attribute("type")?, index].into_iter().chain(companion).collect();
            Some(words.join(" "))
        }
        "filesystem" => child("target", "dir"),
        "channel" => child("target", "name").or_else(|| {
            let target = device.get("target")?;
            match (target.attribute("address"), target.attribute("port")) {
                (Some(address), Some(port)) => Some(format!("{address}:{port}")),
                _ => own("type"),
            }
        }),
        "serial" | "parallel" => Some(format!("port {}", child("target", "port")?)),
        // libvirt numbers consoles anew by their places, each time it reads them.
        "console" => Some(child("target", "type").unwrap_or_else(|| "serial".to_string())),
        "shmem" => own("name"),
        "audio" => own("id"),
        "sound" | "watchdog" | "panic" => own("model"),
        "hub" => own("type"),
        "smartcard" => own("mode"),
        "lease" => device.text_at(&["key"]),
        _ => None,
    }
}

/// Controllers that stand beside others of the same index.
pub fn is_companion(model: &str) -> bool {
    model.starts_with("ich9-")
}

/// Mediated devices, SCSI devices and whatever else can be given away.
fn other_source(hostdev: &Element) -> Option<String> {
    let source = hostdev.get("source")?;
    let kind = hostdev.attribute("type").unwrap_or_default();
    let address = source.get("address");
    if let Some(uuid) = address.and_then(|address| address.attribute("uuid")) {
        return Some(format!("{kind} {}", uuid.to_ascii_lowercase()));
    }
    if let Some(wwpn) = source.attribute("wwpn") {
        return Some(format!("{kind} {}", wwpn.to_ascii_lowercase()));
    }
    let adapter = source.get("adapter").and_then(|adapter| adapter.attribute("name"));
    match (adapter, address) {
        (Some(adapter), Some(address)) => {
            let part = |name: &str| address.attribute(name).unwrap_or("0").to_string();
            Some(format!("{kind} {adapter} {}:{}:{}", part("bus"), part("target"), part("unit")))
        }
        _ => {
            let inner = source.elements().next().map(Element::text).unwrap_or_default();
            let name = source.attribute("name").unwrap_or_default();
            Some(format!("{kind} {name}{inner}").trim_end().to_string())
        }
    }
}

fn interface_source(interface: &Element) -> Option<String> {
    let kind = interface.attribute("type")?;
    let Some(source) = interface.get("source") else { return Some(kind.to_string()) };
    if kind == "hostdev" {
        let address = source.get("address")?;
        let part = |name: &str| address.attribute(name).and_then(number).unwrap_or(0);
        let place = (part("domain"), part("bus"), part("slot"), part("function"));
        return Some(format!("hostdev {:04x}:{:02x}:{:02x}.{:x}", place.0, place.1, place.2, place.3));
    }
    let name = ["bridge", "network", "dev", "path"].iter().find_map(|name| source.attribute(name));
    Some(name.map_or_else(|| kind.to_string(), |name| format!("{kind} {name}")))
}

/// The MAC address of an interface, in small letters.
pub fn mac(device: &Element) -> Option<String> {
    device.get("mac").and_then(|mac| mac.attribute("address")).map(str::to_ascii_lowercase)
}

/// How people call it: `disk vda`, `hostdev pci 0000:82:00.0`, `network interface 52:54:00:…`.
pub fn label(device: &Element, position: usize) -> String {
    let name = &device.name;
    match name.as_str() {
        "interface" => match mac(device) {
            Some(mac) => format!("network interface {mac}"),
            None => format!("network interface {}", position + 1),
        },
        "input" => format!("input {}", device.attribute("type").unwrap_or("")),
        "disk" if matches!(device.attribute("device"), Some("cdrom" | "floppy")) => {
            format!("{} {}", device.attribute("device").unwrap_or_default(), identity(device).unwrap_or_default())
        }
        "video" | "memballoon" | "emulator" | "tpm" | "watchdog" | "rng" | "sound" | "iommu" | "vsock" | "panic"
        | "smartcard"
            if position == 0 =>
        {
            name.clone()
        }
        "memory" => match device.at(&["target", "size"]).and_then(super::normal::amount) {
            Some(size) => format!("memory module {} of {size}", position + 1),
            None => format!("memory module {}", position + 1),
        },
        _ => match identity(device) {
            Some(identity) => format!("{name} {identity}"),
            None => format!("{name} {}", position + 1),
        },
    }
}

/// Is it one that a person must have added? libvirt adds controllers, a balloon, a card for a display, PS/2 input, consoles
/// for serial ports, audio and hubs by itself.
pub fn is_somebodys(device: &Element) -> bool {
    match device.name.as_str() {
        "disk" | "interface" | "hostdev" | "graphics" | "filesystem" | "serial" | "parallel" | "channel" | "tpm"
        | "rng" | "sound" | "shmem" | "redirdev" | "smartcard" | "vsock" | "lease" | "iommu" | "crypto" => true,
        // A dual in-line module; NVDIMMs too.
        "memory" => device.attribute("model").is_some(),
        // q35's own watchdog comes by itself since libvirt 9.1.
        "watchdog" => device.attribute("model") != Some("itco"),
        "input" => device.attribute("bus") != Some("ps2"),
        _ => false,
    }
}

/// What a guest has whether somebody states it or not: it can't be removed, only changed.
pub fn is_always_there(device: &Element) -> bool {
    device.name == "emulator"
        || (device.name == "input" && device.attribute("bus") == Some("ps2"))
        || (device.name == "controller" && matches!(device.attribute("model"), Some("pci-root" | "pcie-root")))
}

/// Which of the devices that are there another one may take the place of.
#[derive(Clone, Copy, Debug)]
pub enum Takeover<'a> {
    /// Any of its sort.
    Any,
    /// Those that an earlier run stated; what somebody added by hand is theirs.
    Ours(&'a [bool]),
    /// None: only what is surely the same is the same.
    None,
}

/// There is only one of these, or libvirt adds one by itself: whatever is stated takes its place.
fn is_only_one(wanted: &Element) -> bool {
    match wanted.name.as_str() {
        "emulator" | "memballoon" | "video" | "tpm" | "iommu" | "vsock" | "nvram" => true,
        // The console that libvirt adds to the first serial port is whatever that is; one that says what it is is another.
        "console" => wanted.get("target").is_none_or(|target| target.attribute("type").is_none()),
        _ => false,
    }
}

/// Which of the devices there (`current`) each stated one is; all of one sort. First what surely is the same one (a MAC
/// address, a target, a source), then what is as stated, then, for sorts of which another can take the place, in order.
pub fn assign(
    wanted: &[&Element],
    current: &[&Element],
    takeover: Takeover<'_>,
    holds: &dyn Fn(&Element, &Element) -> bool,
) -> Vec<Option<usize>> {
    let mut taken = vec![false; current.len()];
    let mut result: Vec<Option<usize>> = vec![None; wanted.len()];
    let mut pass = |same: &dyn Fn(&Element, usize, &Element) -> bool| {
        for (wanted, slot) in wanted.iter().zip(result.iter_mut()).filter(|(_, slot)| slot.is_none()) {
            let found = current
                .iter()
                .enumerate()
                .find(|(at, current)| !taken.get(*at).copied().unwrap_or(true) && same(wanted, *at, current));
            if let Some((at, _)) = found {
                *slot = Some(at);
                if let Some(taken) = taken.get_mut(at) {
                    *taken = true;
                }
            }
        }
    };
    let same_identity = |wanted: &Element, current: &Element| {
        // Where only the same is the same, two cards with two addresses are two.
        if matches!(takeover, Takeover::None) && mac(wanted).is_some() && mac(current).is_some() {
            return false;
        }
        let identity = identity(wanted);
        identity.is_some() && identity == self::identity(current)
    };
    let is_disk = wanted.iter().chain(current).any(|device| device.name == "disk");
    let is_interface = wanted.iter().chain(current).any(|device| device.name == "interface");
    if is_interface {
        pass(&|wanted, _, current| mac(wanted).is_some() && mac(wanted) == mac(current));
    }
    // Of several with one identity (two cards on one bridge) the one that is as stated comes first.
    if !is_disk {
        pass(&|wanted, _, current| same_identity(wanted, current) && holds(wanted, current));
    }
    pass(&|wanted, _, current| same_identity(wanted, current));
    let can_change = |name: &str| {
        !matches!(
            name,
            "disk" | "hostdev" | "input" | "filesystem" | "channel" | "shmem" | "redirdev" | "lease" | "hub" | "audio"
        )
    };
    pass(&|wanted, _, current| can_change(&wanted.name) && identity(wanted).is_none() && holds(wanted, current));
    pass(&|wanted, at, current| match takeover {
        _ if wanted.name == "controller" => {
            // Another model of the same controller.
            wanted.attribute("type") == current.attribute("type")
                && wanted.attribute("index").unwrap_or("0") == current.attribute("index").unwrap_or("0")
                && !wanted.attribute("model").is_some_and(is_companion)
        }
        Takeover::None => is_only_one(wanted),
        Takeover::Any => can_change(&wanted.name),
        Takeover::Ours(ours) => {
            is_only_one(wanted) || (can_change(&wanted.name) && ours.get(at).copied().unwrap_or(false))
        }
    });
    // These have no name of their own: any of them is as good as another.
    pass(&|wanted, _, current| wanted.name == "redirdev" && holds(wanted, current));
    result
}

/// What a comparison with what was stated last time finds: which of the devices there each stated one is, and which one of
/// last time each of those there is.
pub struct Assigned {
    /// For each stated one.
    pub now: Vec<Option<usize>>,
    /// For each of those there.
    pub then: Vec<Option<usize>>,
}

/// The same as [`assign`], when it is known (or not) what was stated last time.
pub fn assign_since(
    wanted: &[&Element],
    current: &[&Element],
    last: Option<&[&Element]>,
    holds: &dyn Fn(&Element, &Element) -> bool,
) -> Assigned {
    let Some(last) = last else {
        let now = assign(wanted, current, Takeover::Any, holds);
        return Assigned { now, then: vec![None; current.len()] };
    };
    let assigned = assign(last, current, Takeover::Any, holds);
    let find = |at: usize| assigned.iter().position(|slot| *slot == Some(at));
    let then: Vec<Option<usize>> = (0..current.len()).map(find).collect();
    let ours: Vec<bool> = then.iter().map(Option::is_some).collect();
    Assigned { now: assign(wanted, current, Takeover::Ours(&ours), holds), then }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::libvirt::xml::parse;

    #[test]
    fn which_console_is_meant() {
        let parsed = |list: &[&str]| -> Vec<Element> { list.iter().map(|text| parse(text).unwrap()).collect() };
        let assigned = |wanted: &[&str], current: &[&str], takeover: Takeover<'_>| {
            let (wanted, current) = (parsed(wanted), parsed(current));
            assign(&wanted.iter().collect::<Vec<_>>(), &current.iter().collect::<Vec<_>>(), takeover, &|_, _| false)
        };
        let serial = "<console type='pty'><target type='serial' port='0'/></console>";
        let virtio = "<console type='pty'><target type='virtio' port='1'/></console>";
        let sclp = "<console type='pty'><target type='sclp' port='0'/></console>";
        let stated = "<console type='pty'><target type='virtio'/></console>";
        // Beside the one that libvirt adds for a serial port.
        assert_eq!(assigned(&[stated], &[serial, virtio], Takeover::Any), [Some(1)]);
        assert_eq!(assigned(&[stated, stated], &[serial, virtio, virtio], Takeover::Any), [Some(1), Some(2)]);
        assert_eq!(assigned(&[stated], &[serial], Takeover::None), [None]);
        // Who does not say which means the first, whatever libvirt made of it.
        for first in [serial, sclp] {
            assert_eq!(assigned(&["<console type='pty'/>"], &[first], Takeover::None), [Some(0)]);
        }
    }
}
