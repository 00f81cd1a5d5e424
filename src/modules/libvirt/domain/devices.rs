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
    match device.name.as_str() {
        "disk" => child("target", "dev"),
        "hostdev" => pci_source(device)
            .map(|address| format!("pci {address}"))
            .or_else(|| usb_source(device).map(|usb| format!("usb {usb}")))
            .or_else(|| device.get("source").map(Element::print)),
        "interface" => {
            let source = device.get("source")?;
            let name = ["bridge", "network", "dev"].iter().find_map(|name| source.attribute(name));
            name.map(|name| format!("{} {name}", device.attribute("type").unwrap_or("")))
        }
        "graphics" => device.attribute("type").map(str::to_string),
        "input" => {
            let kind = device.attribute("type")?;
            let default = if kind == "tablet" { "usb" } else { "ps2" };
            let source = child("source", "dev").unwrap_or_default();
            Some(format!("{kind} {} {source}", device.attribute("bus").unwrap_or(default)).trim_end().to_string())
        }
        "controller" => Some(format!("{} {}", device.attribute("type")?, device.attribute("index").unwrap_or("0"))),
        "filesystem" => child("target", "dir"),
        "channel" => child("target", "name").or_else(|| device.attribute("type").map(str::to_string)),
        "shmem" => device.attribute("name").map(str::to_string),
        _ => None,
    }
}

/// How people call it: `disk vda`, `hostdev pci 0000:82:00.0`, `interface 2`.
pub fn label(device: &Element, position: usize) -> String {
    let name = &device.name;
    match name.as_str() {
        "interface" => format!("interface {}", position + 1),
        "input" => format!("input {}", device.attribute("type").unwrap_or("")),
        "video" | "memballoon" | "emulator" | "tpm" | "watchdog" if position == 0 => name.clone(),
        _ => match identity(device) {
            Some(identity) => format!("{name} {identity}"),
            None => format!("{name} {}", position + 1),
        },
    }
}

/// Which of the devices there (`current`) each stated one is; all of one sort. First what surely is the same one (a MAC
/// address, a target, a source), then, for sorts of which another can take the place, in order.
///
/// `ours` tells which of the current ones an earlier run stated; `None` when that is not known.
pub fn assign(wanted: &[&Element], current: &[&Element], ours: Option<&[bool]>) -> Vec<Option<usize>> {
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
    let mac =
        |device: &Element| device.get("mac").and_then(|mac| mac.attribute("address")).map(str::to_ascii_lowercase);
    pass(&|wanted, _, current| wanted.name == "interface" && mac(wanted).is_some() && mac(wanted) == mac(current));
    pass(&|wanted, _, current| identity(wanted).is_some() && identity(wanted) == identity(current));
    // What an earlier run stated may become another one of its sort; what somebody added by hand is theirs. libvirt adds
    // a card and a balloon of its own accord, and there is only one of most others.
    pass(&|wanted, at, _| match wanted.name.as_str() {
        "disk" | "hostdev" | "input" | "controller" | "filesystem" | "channel" | "shmem" => false,
        "interface" | "graphics" => ours.is_none_or(|ours| ours.get(at).copied().unwrap_or(false)),
        _ => true,
    });
    result
}
