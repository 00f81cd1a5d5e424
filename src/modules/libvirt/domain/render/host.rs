//! Devices of the host: cards, PCI functions, USB, mediated devices.

use std::collections::BTreeSet;

use super::*;
use crate::modules::libvirt::domain::params::{Gpu, Pci, Usb, usb_id};
use crate::modules::libvirt::values::number;

impl Build<'_> {
    /// `gpus`, `pci`, `usb`, `mdevs`.
    pub(super) fn host_devices(&mut self) -> Result<()> {
        let domain = self.domain;
        let gpus: Vec<&Gpu> = domain.gpus.iter().flat_map(|list| list.iter()).map(|gpu| &gpu.0).collect();
        let pci: Vec<&Pci> = domain.pci.iter().flat_map(|list| list.iter()).map(|pci| &pci.0).collect();
        let mut seen = BTreeSet::new();
        // What is given by address is given; other functions of a card come along.
        for address in gpus.iter().filter_map(|gpu| gpu.address).chain(pci.iter().map(|pci| pci.address)) {
            if !seen.insert(address.0) {
                return Err(Error::parameters(format!("the PCI device {} is given twice", address.0)));
            }
        }
        for (at, gpu) in gpus.iter().enumerate() {
            self.card(at, gpu, &mut seen)?;
        }
        for (at, pci) in pci.iter().enumerate() {
            let what = format!("pci[{at}]");
            let element = pci_device(pci.address.0, pci.managed, rom(pci.rom_bar, pci.rom_file.as_ref()), pci.boot)?;
            self.device(&what, with_xml(element, &what, pci.xml.as_ref())?);
        }
        for (at, usb) in domain.usb.iter().flat_map(|list| list.iter()).enumerate() {
            let what = format!("usb[{at}]");
            let element = with_xml(usb_device(usb)?, &what, usb.xml.as_ref())?;
            self.device(&what, element);
        }
        for (at, mdev) in domain.mdevs.iter().flat_map(|list| list.iter()).enumerate() {
            let what = format!("mdevs[{at}]");
            let model = mdev.model.as_deref().unwrap_or("vfio-pci");
            let element = Element::new("hostdev")
                .with("mode", "subsystem")
                .with("type", "mdev")
                .with("model", one_of(&format!("{what}.model"), model, &["vfio-pci", "vfio-ccw", "vfio-ap"])?)
                .with_some("display", mdev.display.map(on_off))
                .with_some("ramfb", mdev.ramfb.map(on_off))
                .child(Element::new("source").child(Element::new("address").with("uuid", uuid(&what, &mdev.uuid)?)));
            self.device(&what, with_xml(element, &what, mdev.xml.as_ref())?);
        }
        Ok(())
    }

    fn card(&mut self, at: usize, gpu: &Gpu, seen: &mut BTreeSet<PciAddress>) -> Result<()> {
        let what = format!("gpus[{at}]");
        let mut functions = match (self.context.gpus.get(at), gpu.address) {
            (Some(card), _) if !card.functions.is_empty() => card.functions.clone(),
            (_, Some(address)) => vec![address.0],
            _ => {
                return Err(Error::parameters(format!(
                    "{what}: only on its machine it can be told which card this is"
                ))
                .hint("give its address, such as \"0000:82:00.0\""));
            }
        };
        if let Some(any) = functions.first().copied().filter(|_| !gpu.functions.is_empty()) {
            if gpu.functions.iter().any(|function| *function > 7) {
                return Err(Error::parameters(format!("{what}.functions: a card has functions 0 to 7")));
            }
            functions = gpu.functions.iter().map(|function| PciAddress { function: *function, ..any }).collect();
            functions.sort();
            functions.dedup();
            if let Some(address) = gpu.address.filter(|address| !functions.contains(&address.0)) {
                return Err(Error::parameters(format!("{what}.functions: {} is not among them", address.0)));
            }
        }
        // The one that is meant comes first, and has what is said of the card.
        let first = gpu.address.map(|address| address.0).or(functions.first().copied());
        functions.sort();
        for address in functions {
            let is_first = Some(address) == first;
            let given_by_address = is_first && gpu.address.is_some();
            if !given_by_address && !seen.insert(address) {
                if is_first {
                    return Err(Error::parameters(format!("the PCI device {address} is given twice")));
                }
                continue;
            }
            let rom = rom(gpu.rom_bar, gpu.rom_file.as_ref()).filter(|_| is_first);
            let mut element = pci_device(address, gpu.managed, rom, gpu.boot.filter(|_| is_first))?;
            let mut from = what.clone();
            if is_first {
                element = with_xml(element, &what, gpu.xml.as_ref())?;
            } else {
                from = format!("{what}, another function of the card");
            }
            if let Some(slot) = &gpu.guest_slot
                && element.get("address").is_none()
            {
                let (bus, slot) = guest_slot(slot)?;
                element = element.child(guest_address(bus, slot, address.function, address.function == 0));
            }
            let stated = Some(noted(element, &format!("parameter {from}")));
            self.parts.push(Part { stated, chosen: None, card: Some(at) });
        }
        Ok(())
    }
}

/// `05:00`: bus and slot.
fn guest_slot(text: &str) -> Result<(u32, u32)> {
    let part = |text: &str| u32::from_str_radix(text, 16).ok();
    let read = text.split_once(':').and_then(|(bus, slot)| Some((part(bus)?, part(slot)?)));
    read.filter(|(bus, slot)| *bus <= 0xff && *slot <= 0x1f).ok_or_else(|| {
        Error::parameters(format!("gpus.guest_slot: `{text}` is not a bus and slot of the guest, such as \"05:00\""))
    })
}

fn guest_address(bus: u32, slot: u32, function: u8, multifunction: bool) -> Element {
    Element::new("address")
        .with("type", "pci")
        .with("domain", "0x0000")
        .with("bus", format!("0x{bus:02x}"))
        .with("slot", format!("0x{slot:02x}"))
        .with("function", format!("0x{function:x}"))
        .with_some("multifunction", multifunction.then_some("on"))
}

/// Where the guest has something already: buses that exist or are used, slots of bus 0.
fn used(devices: &Element) -> (BTreeSet<u64>, BTreeSet<u64>) {
    let (mut buses, mut slots) = (BTreeSet::new(), BTreeSet::new());
    for device in devices.elements() {
        if device.name == "controller" && device.attribute("type") == Some("pci") {
            buses.extend(device.attribute("index").and_then(number));
        }
        let Some(address) = device.get("address").filter(|address| address.attribute("type") == Some("pci")) else {
            continue;
        };
        let part = |name: &str| address.attribute(name).and_then(number);
        let bus = part("bus").unwrap_or(0);
        buses.insert(bus);
        if bus == 0 {
            slots.extend(part("slot"));
        }
    }
    (buses, slots)
}

/// Gives each card that is new to the guest and has several functions a place that is free, so that they are one device
/// there as they are on the host. With PCI Express that is a bus (a root port, which libvirt adds) of its own, on i440fx a
/// slot from 0x10 up, far from those that libvirt gives away.
pub(super) fn place(parts: &mut [Part], context: &Context, machine: &str) -> Result<()> {
    let current = context.current.as_ref().and_then(|current| current.get("devices"));
    let there: BTreeSet<PciAddress> =
        current.into_iter().flat_map(|devices| devices.named("hostdev")).filter_map(devices::pci_source).collect();
    let mut stated = Element::new("devices");
    stated.nodes.extend(parts.iter().map(|part| Node::Element(part.full())));
    let (mut buses, mut slots) = used(&stated);
    if let Some(current) = current {
        let (more_buses, more_slots) = used(current);
        buses.extend(more_buses);
        slots.extend(more_slots);
    }
    let cards: BTreeSet<usize> = parts.iter().filter_map(|part| part.card).collect();
    for card in cards {
        let functions: Vec<PciAddress> = parts
            .iter()
            .filter(|part| part.card == Some(card))
            .filter_map(|part| part.stated.as_ref().and_then(devices::pci_source))
            .collect();
        let placed = |part: &Part| part.stated.as_ref().is_some_and(|stated| stated.get("address").is_some());
        let chosen_already = parts.iter().any(|part| part.card == Some(card) && placed(part));
        if functions.len() < 2 || chosen_already {
            continue;
        }
        let is_there = functions.iter().any(|function| there.contains(function));
        let (bus, slot) = if is_i440fx(machine) {
            let free = (0x10..0x1f).find(|slot| !slots.contains(slot));
            let Some(slot) = free else { continue };
            slots.insert(slot);
            (0, slot)
        } else {
            // For a guest that exists above all there is, so that nothing can meet there.
            let above = if current.is_some() { buses.last().map_or(1, |last| last + 1) } else { 1 };
            let Some(bus) = (above..0xff).find(|bus| !buses.contains(bus)) else { continue };
            buses.insert(bus);
            (bus, 0)
        };
        let has_first = functions.iter().any(|function| function.function == 0);
        for part in parts.iter_mut().filter(|part| part.card == Some(card)) {
            let Some(source) = part.stated.as_ref().and_then(devices::pci_source) else { continue };
            let position = functions.iter().position(|function| *function == source).unwrap_or(0);
            let number = if has_first { source.function } else { u8::try_from(position).unwrap_or(7) };
            let (Ok(bus), Ok(slot)) = (u32::try_from(bus), u32::try_from(slot)) else { continue };
            let address = match is_there {
                // Where libvirt put it, it stays; only what is kept is asked for.
                true => Element::new("address").with("type", "pci").with(merge::WHOLE, ""),
                false => guest_address(bus, slot, number, number == 0),
            };
            let why = "a free place, so that the functions are one device in the guest";
            if is_there && !there.contains(&source) {
                // A function that joins later goes where libvirt puts it.
                continue;
            }
            let chosen = part.chosen.get_or_insert_with(|| Element::new("hostdev"));
            chosen.nodes.push(Node::Element(noted(address, why)));
        }
    }
    Ok(())
}

/// `<address>` of a device on the host.
pub(super) fn source_address(address: PciAddress) -> Element {
    Element::new("address")
        .with("domain", format!("0x{:04x}", address.domain))
        .with("bus", format!("0x{:02x}", address.bus))
        .with("slot", format!("0x{:02x}", address.slot))
        .with("function", format!("0x{:x}", address.function))
}

fn pci_device(address: PciAddress, managed: Flag, rom: Option<Element>, boot: Option<u32>) -> Result<Element> {
    Ok(Element::new("hostdev")
        .with("mode", "subsystem")
        .with("type", "pci")
        .with("managed", yes_no(managed))
        .child(Element::new("driver").with("name", "vfio"))
        .child(Element::new("source").child(source_address(address)))
        .child_some(boot_order(boot)?)
        .child_some(rom))
}

fn usb_device(usb: &Usb) -> Result<Element> {
    let id = |name: &str, text: &str| -> Result<Element> {
        let id = usb_id(text).map_err(|why| Error::parameters(format!("usb: {why}")))?;
        Ok(Element::new(name).with("id", format!("0x{id:04x}")))
    };
    let policies = ["mandatory", "requisite", "optional"];
    let policy = some_of("usb.startup_policy", usb.startup_policy.as_deref(), &policies)?;
    let mut source = Element::new("source").with_some("startupPolicy", policy);
    source = match (&usb.vendor, &usb.product, usb.bus, usb.device) {
        (Some(vendor), Some(product), None, None) => source.child(id("vendor", vendor)?).child(id("product", product)?),
        (None, None, Some(bus), Some(device)) => {
            source.child(Element::new("address").with("bus", bus.to_string()).with("device", device.to_string()))
        }
        _ => return Err(Error::parameters("usb: give each vendor and product, or bus and device")),
    };
    Ok(Element::new("hostdev")
        .with("mode", "subsystem")
        .with("type", "usb")
        .with("managed", yes_no(usb.managed))
        .child(source)
        .child_some(boot_order(usb.boot)?))
}
