//! What people see the guest by.

use super::rules::{LOOKING_GLASS_VIDEO, OPEN_DISPLAY};
use super::scene::Scene;
use crate::modules::libvirt::xml::Element;

/// All rules of this room.
pub fn check(scene: &mut Scene) {
    open(scene);
    looking_glass(scene);
}

fn open(scene: &mut Scene) {
    for device in scene.all("graphics") {
        let name = match device.element.attribute("type") {
            Some("vnc") => "VNC",
            Some("spice") => "SPICE",
            _ => continue,
        };
        let everywhere = |address: Option<&str>| matches!(address, Some("0.0.0.0" | "::" | "*"));
        let listen = device.element.named("listen").any(|listen| everywhere(listen.attribute("address")));
        let all = everywhere(device.element.attribute("listen")) || listen;
        if all && device.element.attribute("passwd").is_none_or(str::is_empty) {
            scene.say(
                OPEN_DISPLAY,
                format!("{}@listen", device.place),
                format!("{name} listens on all addresses without a password"),
                "give `listen: 127.0.0.1` or a `passwd`",
            );
        }
    }
}

/// Looking Glass's host application copies the screen of the real card; an emulated card that Windows has drivers for is a
/// second screen beside it.
fn looking_glass(scene: &mut Scene) {
    let shared = scene.all("shmem").iter().any(|device| {
        device.element.attribute("name").is_some_and(|name| name.contains("looking-glass") || name.contains("kvmfr"))
    });
    let by_hand = scene.domain.elements().filter(|element| element.name == "qemu:commandline");
    let by_hand = by_hand.flat_map(Element::elements).any(|argument| {
        argument.attribute("value").is_some_and(|value| value.contains("kvmfr") || value.contains("looking-glass"))
    });
    if !shared && !by_hand {
        return;
    }
    for device in scene.all("video") {
        if let Some(model @ ("cirrus" | "qxl")) = device.of("model", "type") {
            scene.say(
                LOOKING_GLASS_VIDEO,
                format!("{}/model@type", device.place),
                format!("the guest has a {model} card beside Looking Glass, and Windows a second screen"),
                "give `video: none` (or `vga` while it is being set up)",
            );
        }
    }
}
