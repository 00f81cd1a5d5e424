//! What libvirt accepts and people regret.

use super::devices::{pci_source, usb_source};
use super::diagnose::diagnose;
use crate::host::{Error, Host, Result, VirtKind};
use crate::modules::libvirt::qemu_conf;
use crate::modules::libvirt::values::PciAddress;
use crate::modules::libvirt::xml::{self, Element};

/// All functions of a card that the machine has, sorted.
///
/// # Errors
/// Trouble reading sysfs.
pub fn functions_of(host: &dyn Host, card: &PciAddress) -> Result<Vec<PciAddress>> {
    let names = host.list("/sys/bus/pci/devices")?;
    let mut all: Vec<PciAddress> = names.iter().filter_map(|name| PciAddress::parse(name).ok()).collect();
    all.retain(|address| address.same_card(card));
    all.sort();
    Ok(all)
}

/// Warnings about the domain as it will be.
///
/// # Errors
/// A refusal, when two guests that start with the host claim the same device; trouble reading the machine.
pub fn warnings(host: &dyn Host, name: &str, domain: &Element, autostart: bool) -> Result<Vec<String>> {
    let mut warnings: Vec<String> = diagnose(domain)
        .into_iter()
        .map(|finding| format!("{name}: {}: {}; {}", finding.place, finding.message, finding.fix))
        .collect();
    warnings.extend(firmware(host, name, domain)?);
    warnings.extend(cards(host, name, domain)?);
    warnings.extend(cpus(name, domain));
    let devices = || domain.get("devices").into_iter().flat_map(Element::elements);
    for graphics in devices().filter(|device| device.attribute("type") == Some("vnc")) {
        let everywhere = matches!(graphics.attribute("listen"), Some("0.0.0.0" | "::"));
        if everywhere && graphics.attribute("passwd").is_none() {
            warnings.push(format!(
                "{name}: VNC listens on all addresses without a password: give `listen: 127.0.0.1` or a `passwd`"
            ));
        }
    }
    for disk in devices().filter(|device| device.name == "disk") {
        let file = disk.get("source").and_then(|source| source.attribute("file")).unwrap_or_default();
        if file.starts_with("/root/") || file.starts_with("/home/") {
            warnings.push(format!(
                "{name}: {file} is below a folder that QEMU's user can't enter on most systems, and has the wrong SELinux \
                 type: /var/lib/libvirt/images is the place for it"
            ));
        }
    }
    warnings.extend(shared(host, name, domain, autostart)?);
    Ok(warnings)
}

/// libvirt must know which variables file belongs to a code file, or the guest does not start.
fn firmware(host: &dyn Host, name: &str, domain: &Element) -> Result<Option<String>> {
    let Some(os) = domain.get("os") else { return Ok(None) };
    let pflash = os.get("loader").filter(|loader| loader.attribute("type") == Some("pflash"));
    let (Some(loader), Some(nvram)) = (pflash.map(Element::text), os.get("nvram")) else { return Ok(None) };
    if nvram.attribute("template").is_some() || host.exists(&nvram.text())? {
        return Ok(None);
    }
    let conf = host.read_text("/etc/libvirt/qemu.conf")?.unwrap_or_default();
    let known = qemu_conf::get(&conf, "nvram").is_some_and(|value| match value {
        qemu_conf::Value::List(list) => list.iter().any(|pair| pair.split(':').next() == Some(loader.as_str())),
        _ => false,
    });
    let described = crate::modules::libvirt::descriptors::template_of(host, &loader)?.is_some();
    Ok((!known && !described).then(|| {
        format!(
            "{name}: libvirt does not know which variables file belongs to {loader}, so the guest won't start: \
             give `nvram_template`"
        )
    }))
}

fn cards(host: &dyn Host, name: &str, domain: &Element) -> Result<Vec<String>> {
    let hostdevs = domain.get("devices").into_iter().flat_map(|devices| devices.named("hostdev"));
    let given: Vec<PciAddress> = hostdevs.filter_map(pci_source).collect();
    let mut warnings = Vec::new();
    let mut told: Vec<PciAddress> = Vec::new();
    for address in &given {
        if told.iter().any(|other| other.same_card(address)) {
            continue;
        }
        told.push(*address);
        let functions = functions_of(host, address)?;
        let missing: Vec<String> = functions.iter().filter(|f| !given.contains(f)).map(ToString::to_string).collect();
        if !missing.is_empty() {
            warnings.push(format!(
                "{name}: of the card at {address}, {} stays behind: list it under `gpus`, which takes all functions of a card",
                missing.join(" and ")
            ));
        }
    }
    Ok(warnings)
}

fn cpus(name: &str, domain: &Element) -> Option<String> {
    let count: u32 = domain.text_at(&["vcpu"])?.parse().ok()?;
    let arranged = domain.at(&["cpu", "topology"]).is_some();
    (count > 2 && !arranged).then(|| {
        format!(
            "{name}: without a topology its {count} virtual CPUs are {count} sockets, and Windows clients use two at most: \
             give `topology: {{cores: {count}}}`"
        )
    })
}

/// Devices that other guests claim too.
fn shared(host: &dyn Host, name: &str, domain: &Element, autostart: bool) -> Result<Vec<String>> {
    let claims = |domain: &Element| -> Vec<String> {
        let hostdevs = domain.get("devices").into_iter().flat_map(|devices| devices.named("hostdev"));
        hostdevs.filter_map(|device| pci_source(device).map(|a| a.to_string()).or_else(|| usb_source(device))).collect()
    };
    let own = claims(domain);
    if own.is_empty() {
        return Ok(Vec::new());
    }
    let mut warnings = Vec::new();
    for other in host.virt_names(VirtKind::Domain)?.iter().filter(|other| *other != name) {
        let Some(virt) = host.virt(VirtKind::Domain, other)? else { continue };
        let Ok(xml) = xml::parse(&virt.xml) else { continue };
        let both: Vec<String> = claims(&xml).into_iter().filter(|claim| own.contains(claim)).collect();
        if both.is_empty() {
            continue;
        }
        if autostart && virt.autostart {
            return Err(Error::refused(format!(
                "{name} and {other} both claim {} and would both start with the host",
                both.join(", ")
            ))
            .hint("only one of them can have `autostart: true`"));
        }
        warnings.push(format!("{name}: {other} claims {} too, so only one of them can run at a time", both.join(", ")));
    }
    Ok(warnings)
}
