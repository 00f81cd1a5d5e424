//! The shortest description: what a machine that has the guest keeps by itself is left out.

use serde_json::json;

use super::brief::{Scene, brief};
use super::canonical::canonical;
use super::{Params, changes, rendered_in, some_firmware, whole};
use crate::host::Result;
use crate::modules::libvirt::domain::render::{Context, has_uefi};
use crate::modules::libvirt::xml::Element;

/// The description, and what was left out, in words.
pub fn import(definition: &Element) -> Result<(Params, Vec<String>)> {
    let reduced = reduce(definition);
    let mut params = whole(&reduced)?;
    let uefi = definition.get("os").filter(|os| has_uefi(os));
    if let Some(os) = uefi {
        let secure = os.get("loader").and_then(|loader| loader.attribute("secure")) == Some("yes");
        params.insert("firmware".into(), json!(if secure { "ovmf-secureboot" } else { "ovmf" }));
        params = super::shorten::ordered(params);
    }
    // On its own machine it must be what is there.
    match changes(&params, definition) {
        Ok(found) if found.is_empty() => {
            let params = in_short(params, &reduced, definition);
            let note = "left out is what the machine that has this guest keeps: UUID, MAC and guest addresses, \
                        controllers, QEMU's path, the build of the firmware; elsewhere they would be new";
            Ok((params, vec![note.to_string()]))
        }
        Ok(found) => Ok((
            whole(definition)?,
            vec![format!("nothing was left out, as even here it would change: {}", found.join(", "))],
        )),
        Err(why) => Ok((whole(definition)?, vec![format!("nothing was left out: {why}")])),
    }
}

/// With shorter words that say the same: to this machine, and of a new guest.
fn in_short(params: Params, reduced: &Element, definition: &Element) -> Params {
    if params.contains_key("definition") {
        return params;
    }
    let context = Context { firmware: Some(some_firmware()), ..Context::default() };
    let anew = |params: &Params| rendered_in(params, &context).map(|wanted| wanted.xml).ok();
    let Some(goal) = anew(&params).map(|xml| canonical(&xml)) else { return params };
    // A card has a place of its own in a new guest, single functions do not.
    let placeless = without_places(goal);
    let same = |params: &Params| anew(params).is_some_and(|xml| without_places(canonical(&xml)) == placeless);
    let everywhere = |params: &Params| changes(params, definition).is_ok_and(|changes| changes.is_empty());
    let whole = canonical(definition);
    brief(params, &Scene { goal: reduced, definition: &whole, same: &same, everywhere: &everywhere })
}

fn without_places(mut domain: Element) -> Element {
    for device in domain.get_mut("devices").into_iter().flat_map(Element::elements_mut) {
        if device.name == "hostdev" {
            device.retain(|child| child.name != "address");
        }
    }
    domain
}

fn reduce(definition: &Element) -> Element {
    let mut copy = canonical(definition);
    copy.retain(|child| child.name != "uuid");
    if let Some(os) = copy.get_mut("os") {
        if has_uefi(os) {
            os.retain(|child| !matches!(child.name.as_str(), "loader" | "nvram" | "firmware"));
            os.unset("firmware");
        }
        if let Some(kind) = os.get_mut("type") {
            let machine = kind.attribute("machine").unwrap_or_default().to_string();
            for (family, alias) in [("pc-q35-", "q35"), ("pc-i440fx-", "pc")] {
                if machine.starts_with(family) {
                    kind.set("machine", alias);
                }
            }
        }
    }
    if let Some(devices) = copy.get_mut("devices") {
        let cards = devices.named("interface").count();
        devices.retain(|device| match device.name.as_str() {
            "emulator" | "hub" => false,
            "controller" => {
                matches!(device.attribute("type"), Some("usb" | "scsi")) && device.attribute("model").is_some()
            }
            _ => true,
        });
        for device in devices.elements_mut() {
            // A drive's address says which drive of its bus it is.
            device.retain(|child| !(child.name == "address" && child.attribute("type") != Some("drive")));
            if device.name == "interface" && cards <= 1 {
                device.retain(|child| child.name != "mac");
            }
        }
        devices.retain(|device| {
            !(device.name == "memballoon" && device.attribute("model") == Some("virtio") && device.nodes.is_empty())
        });
    }
    copy
}
