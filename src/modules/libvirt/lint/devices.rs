//! What of the host is given away: cards, their groups, USB devices.

use super::about::of_libvirt;
use super::guests::{Claim, claims};
use super::rules::{
    BALLOON_WITH_PASSTHROUGH, BOOT_DISPLAY, CARD_INCOMPLETE, DEVICE_MISSING, DRIVER_NOT_VFIO, FIRMWARE_REGION,
    GROUP_NOT_VIABLE, INTERRUPT_REMAPPING, IOMMU_OFF, NVIDIA_ERROR_43,
};
use super::scene::{Scene, is_on};
use crate::facts::pci;
use crate::modules::libvirt::domain::devices::pci_source;
use crate::modules::libvirt::values::PciAddress;

/// All rules of this room.
pub fn check(scene: &mut Scene) {
    let claimed = claims(scene.domain);
    let given: Vec<PciAddress> = claimed.iter().filter_map(Claim::pci).collect();
    missing(scene, &claimed);
    cards(scene, &given);
    drivers(scene);
    groups(scene, &given);
    iommu(scene, &given);
    error_43(scene, &given);
    balloon(scene);
}

/// The device at this address, as the machine shows it.
fn fact<'a>(scene: &Scene<'a>, address: &PciAddress) -> Option<&'a pci::Device> {
    scene.about.pci.as_ref()?.iter().find(|device| of_libvirt(device.address) == *address)
}

/// Are cards given away whose speed a slow CPU would waste? Displays, where devices are known; any PCI device otherwise.
pub fn gives_away_cards(scene: &Scene) -> bool {
    let given = claims(scene.domain);
    given.iter().filter_map(Claim::pci).any(|address| match &scene.about.pci {
        None => true,
        Some(_) => fact(scene, &address).is_none_or(pci::Device::is_display),
    })
}

/// The NUMA nodes of the cards that are given away.
pub fn nodes_of_cards(scene: &Scene) -> Vec<(PciAddress, u32)> {
    let given = claims(scene.domain);
    let displays = given.iter().filter_map(Claim::pci).filter_map(|address| fact(scene, &address));
    let displays = displays.filter(|device| device.is_display());
    displays.filter_map(|device| Some((of_libvirt(device.address), device.numa_node?))).collect()
}

fn place(address: &PciAddress) -> String {
    format!("domain/devices/hostdev[{address}]")
}

fn missing(scene: &mut Scene, claimed: &[Claim]) {
    for claim in claimed {
        let gone = match claim {
            Claim::Pci(address) => {
                scene.about.functions.as_ref().is_some_and(|known| !known.is_empty() && !known.contains(address))
            }
            Claim::Usb(vendor, product) => {
                let optional = scene.all("hostdev").iter().any(|device| {
                    device.element.attribute("type") == Some("usb")
                        && device.place == format!("domain/devices/hostdev[{claim}]")
                        && device.of("source", "startupPolicy") == Some("optional")
                });
                !optional && scene.about.usb.as_ref().is_some_and(|known| !known.contains(&(*vendor, *product)))
            }
            Claim::UsbPort(..) | Claim::Mdev(_) => false,
        };
        if gone {
            let (lists, more) = match claim {
                Claim::Pci(_) => ("lspci -D", ""),
                _ => ("lsusb", ", or `startup_policy: optional`"),
            };
            scene.say(
                DEVICE_MISSING,
                format!("domain/devices/hostdev[{claim}]"),
                format!("there is no device {claim} on this machine"),
                format!("`{lists}` lists what there is{more}"),
            );
        }
    }
}

fn cards(scene: &mut Scene, given: &[PciAddress]) {
    let Some(functions) = &scene.about.functions else { return };
    let mut told: Vec<PciAddress> = Vec::new();
    for address in given {
        // Functions of a network card with virtual ones are devices of their own.
        let alone =
            fact(scene, address).is_some_and(|device| device.physical_function.is_some() || device.is_network());
        if alone || told.iter().any(|other| other.same_card(address)) {
            continue;
        }
        told.push(*address);
        // Functions of a chipset (a USB controller beside a sensor) may go their own ways, those of a graphics card and
        // those of one group may not.
        let own = fact(scene, address);
        let graphics = scene
            .about
            .pci
            .iter()
            .flatten()
            .any(|device| device.is_display() && of_libvirt(device.address).same_card(address));
        let belongs = |function: &PciAddress| match (own, fact(scene, function)) {
            (Some(own), Some(other)) => graphics || own.iommu_group.is_none() || own.iommu_group == other.iommu_group,
            _ => true,
        };
        let missing: Vec<String> = functions
            .iter()
            .filter(|function| function.same_card(address) && !given.contains(function) && belongs(function))
            .map(ToString::to_string)
            .collect();
        if !missing.is_empty() {
            scene.say(
                CARD_INCOMPLETE,
                place(address),
                format!("of the card at {address}, {} stays behind", missing.join(" and ")),
                "list it under `gpus`, which takes all functions of a card",
            );
        }
    }
}

fn drivers(scene: &mut Scene) {
    for hostdev in scene.all("hostdev") {
        let Some(address) = pci_source(hostdev.element) else { continue };
        // libvirt manages only what it is told to.
        if is_on(hostdev.element.attribute("managed")) {
            continue;
        }
        let Some(device) = fact(scene, &address) else { continue };
        let waits = device.driver_override.as_deref() == Some("vfio-pci");
        let driver = device.driver.as_deref();
        if driver.is_none_or(|driver| !is_vfio(driver)) && !waits {
            let has = driver.map_or_else(|| "no driver".to_string(), |driver| format!("the driver {driver}"));
            scene.say(
                DRIVER_NOT_VFIO,
                format!("{}@managed", hostdev.place),
                format!("{address} has {has}, and libvirt leaves it so"),
                "bind it with `vfio_bind`, or give `managed: true`",
            );
        }
    }
}

/// vfio-pci, or one of the drivers made from it for single vendors (`mlx5_vfio_pci`, `nvgrace_gpu_vfio_pci`).
fn is_vfio(driver: &str) -> bool {
    driver == "vfio-pci" || driver.ends_with("_vfio_pci")
}

/// VFIO takes a group when each of its devices has a vfio driver, none, or is a bridge (Documentation/driver-api/vfio.rst).
/// What libvirt manages it takes from its driver itself.
fn groups(scene: &mut Scene, given: &[PciAddress]) {
    let Some(devices) = &scene.about.pci else { return };
    let mut told: Vec<u32> = Vec::new();
    for address in given {
        let Some(group) = fact(scene, address).and_then(|device| device.iommu_group) else { continue };
        if told.contains(&group) {
            continue;
        }
        told.push(group);
        let stays = |device: &&pci::Device| {
            device.iommu_group == Some(group)
                && !device.is_bridge()
                && !given.contains(&of_libvirt(device.address))
                && device.driver.as_deref().is_some_and(|driver| !is_vfio(driver) && driver != "pci-stub")
                && device.driver_override.as_deref() != Some("vfio-pci")
        };
        let others: Vec<String> = devices
            .iter()
            .filter(stays)
            .map(|device| format!("{} ({})", device.address, device.driver.as_deref().unwrap_or("")))
            .collect();
        if !others.is_empty() {
            scene.say(
                GROUP_NOT_VIABLE,
                place(address),
                format!("{address} shares IOMMU group {group} with {}, which the host keeps", others.join(" and ")),
                "bind all of the group with `vfio_bind`, or put the card into another slot",
            );
        }
        if scene.about.iommu.as_ref().is_some_and(|iommu| iommu.reserved.contains(&group)) {
            scene.say(
                FIRMWARE_REGION,
                place(address),
                format!("the firmware keeps memory (RMRR) for {address}, and the kernel gives no such device away"),
                "look for a BIOS setting or update of the machine's vendor; another slot may do",
            );
        }
    }
    for address in given {
        if fact(scene, address).is_some_and(|device| device.boot_vga == Some(true)) {
            scene.say(
                BOOT_DISPLAY,
                place(address),
                format!("{address} is the card that this machine starts with"),
                "choose another as the first display in the BIOS, or give a `rom_file` and keep the console off it",
            );
        }
    }
}

fn iommu(scene: &mut Scene, given: &[PciAddress]) {
    let (Some(first), Some(iommu)) = (given.first(), scene.about.iommu.clone()) else { return };
    if !iommu.on {
        let message = "the IOMMU is off in the running kernel, so no PCI device can be given away";
        let fix = "switch it on in the BIOS and with `kernel_cmdline` (intel_iommu=on); it counts from the next boot";
        scene.say(IOMMU_OFF, place(first), message, fix);
    } else if iommu.interrupts == Some(false) {
        scene.say(
            INTERRUPT_REMAPPING,
            place(first),
            "this machine can't remap interrupts, and VFIO refuses its devices",
            "look for a BIOS setting (x2APIC opt out); or, where guests are trusted, allow_unsafe_interrupts=1",
        );
    }
}

/// Driver 391 is the last for Fermi, 342 for older ones; both stop when they see a hypervisor. From Kepler on there are
/// drivers since 465, which do not. Ids of NVIDIA's chips: pci.ids.
fn error_43(scene: &mut Scene, given: &[PciAddress]) {
    if scene.windows.is_none() {
        return;
    }
    let old = |id: u16| id < 0x0fc0 || matches!(id, 0x1040..=0x109f | 0x1140..=0x117f | 0x1200..=0x127f);
    let card = given
        .iter()
        .filter_map(|address| fact(scene, address))
        .find(|device| device.id.vendor == 0x10de && device.is_display() && old(device.id.device));
    let Some(card) = card else { return };
    let features = scene.domain.get("features");
    let kvm = features.and_then(|features| features.get("kvm")).and_then(|kvm| kvm.get("hidden"));
    let hidden = is_on(kvm.and_then(|hidden| hidden.attribute("state")));
    let hyperv = features.and_then(|features| features.get("hyperv"));
    let named =
        hyperv.is_none_or(|hyperv| hyperv.get("vendor_id").is_some_and(|vendor| is_on(vendor.attribute("state"))));
    if !hidden || !named {
        let address = of_libvirt(card.address);
        scene.say(
            NVIDIA_ERROR_43,
            "domain/features",
            format!("the last drivers of the NVIDIA card at {address} ({}) stop in a guest with error 43", card.id),
            "give `features: {kvm_hidden: true, hyperv: {vendor_id: \"whatever\"}}`",
        );
    }
}

fn balloon(scene: &mut Scene) {
    let pinned = claims(scene.domain).iter().any(|claim| matches!(claim, Claim::Pci(_)));
    let none = scene.all("memballoon").iter().any(|device| device.element.attribute("model") == Some("none"));
    if pinned && !none {
        scene.say(
            BALLOON_WITH_PASSTHROUGH,
            "domain/devices/memballoon@model",
            "its memory is pinned for the PCI device it is given, so a balloon can't give any back",
            "give `memballoon: none`",
        );
    }
}
