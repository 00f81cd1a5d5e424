//! What a boot makes of a written-down machine's devices, from the same files that a real boot reads.

use std::collections::BTreeSet;

use super::bind::VFIO;
use super::persist;
use crate::change::{Effect, Op};
use crate::facts::pci::{self, Device, PciAddress, PciId};
use crate::host::model::predict;
use crate::host::{Host, Model, Result};

/// The ids in `options vfio-pci ids=…` lines of a modprobe.d file (modprobe.d(5); `-` and `_` are the same there).
pub fn ids_in_options(text: &str) -> Vec<PciId> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let is_ours =
                words.next() == Some("options") && words.next().is_some_and(|name| name.replace('_', "-") == VFIO);
            is_ours.then(|| words.filter_map(|word| word.strip_prefix("ids=")).flat_map(ids_of).collect::<Vec<_>>())
        })
        .flatten()
        .collect()
}

/// `10de:1430,10de:0fba[:subvendor:subdevice[:class:mask]]`; what narrows an id further is left aside.
fn ids_of(list: &str) -> Vec<PciId> {
    list.split(',')
        .filter_map(|entry| {
            let mut parts = entry.split(':');
            format!("{}:{}", parts.next()?, parts.next()?).parse().ok()
        })
        .collect()
}

/// The devices that vfio-pci takes at the next boot: by a udev rule, by driverctl, by ids in modprobe.d or on the
/// command line, whoever wrote them.
///
/// # Errors
/// When the machine can't be read.
pub fn reserved<H: Host + ?Sized>(host: &H, all: &[Device]) -> Result<BTreeSet<PciAddress>> {
    let mut found = BTreeSet::new();
    for name in host.list("/etc/udev/rules.d")?.iter().filter(|name| name.ends_with(".rules")) {
        let text = host.read_text(&format!("/etc/udev/rules.d/{name}"))?.unwrap_or_default();
        let lines = text
            .lines()
            .filter(|line| !line.trim_start().starts_with('#') && line.contains("driver_override}=\"vfio-pci\""));
        found.extend(
            lines.filter_map(|line| PciAddress::parse_full(line.split_once("KERNEL==\"")?.1.split('"').next()?)),
        );
    }
    for name in host.list(persist::DRIVERCTL)? {
        let text = host.read_text(&format!("{}/{name}", persist::DRIVERCTL))?.unwrap_or_default();
        if text.trim() == VFIO {
            found.extend(name.strip_prefix("pci-").and_then(PciAddress::parse_full));
        }
    }
    let mut ids = Vec::new();
    for name in host.list("/etc/modprobe.d")?.iter().filter(|name| name.ends_with(".conf")) {
        ids.extend(ids_in_options(&host.read_text(&format!("/etc/modprobe.d/{name}"))?.unwrap_or_default()));
    }
    let line = host.read_line("/proc/cmdline")?.unwrap_or_default();
    for word in line.split_whitespace() {
        ids.extend(
            word.strip_prefix("vfio-pci.ids=")
                .or_else(|| word.strip_prefix("vfio_pci.ids="))
                .map(ids_of)
                .unwrap_or_default(),
        );
    }
    found.extend(all.iter().filter(|device| ids.contains(&device.id)).map(|device| device.address));
    Ok(found)
}

/// The driver that such a device has when nobody else asks for it.
fn usual_driver(device: &Device) -> Option<&'static str> {
    match persist::rivals(device).first().copied() {
        Some("xhci_pci") => Some("xhci_hcd"),
        Some("ehci_pci") => Some("ehci-pci"),
        other => other,
    }
}

/// Devices have the drivers that the files of this machine give them; call it when the command line and the IOMMU
/// groups are already those of the new boot. A device without an IOMMU group stays unbound, as with a real vfio-pci.
///
/// # Errors
/// When the machine can't be read.
pub fn predict_boot(model: &dyn Model) -> Result<()> {
    let all = pci::devices(model)?;
    let reserved = reserved(model, &all)?;
    let mut effects = Vec::new();
    for device in &all {
        let folder = device.address.folder();
        let (link, over) = (format!("{folder}/driver"), format!("{folder}/driver_override"));
        let held = device.driver.as_deref() == Some(VFIO);
        let wanted = reserved.contains(&device.address);
        if wanted && device.can_override {
            effects.push(Effect::File { path: over.clone(), content: Some(format!("{VFIO}\n")), mode: None });
        } else if device.driver_override.is_some() {
            effects.push(Effect::File { path: over, content: Some("(null)\n".into()), mode: None });
        }
        match (wanted, device.iommu_group) {
            (true, Some(group)) => {
                if !held {
                    effects.push(Effect::Folder { path: format!("/sys/bus/pci/drivers/{VFIO}") });
                    effects.push(Effect::Link { path: link, target: format!("/sys/bus/pci/drivers/{VFIO}") });
                }
                let path = format!("/dev/vfio/{group}");
                effects.push(Effect::File { path, content: Some(String::new()), mode: None });
            }
            (true, None) => effects.extend(device.driver.is_some().then_some(Effect::Gone { path: link })),
            (false, group) if held => {
                effects.push(match usual_driver(device) {
                    Some(driver) => Effect::Link { path: link, target: format!("/sys/bus/pci/drivers/{driver}") },
                    None => Effect::Gone { path: link },
                });
                if let Some(group) = group
                    && model.exists(&format!("/dev/vfio/{group}"))?
                {
                    effects.push(Effect::Gone { path: format!("/dev/vfio/{group}") });
                }
            }
            (false, _) => {}
        }
    }
    predict(model, &Op::Poke { path: "/sys/bus/pci/drivers_probe".into(), value: String::new(), effects })
}
