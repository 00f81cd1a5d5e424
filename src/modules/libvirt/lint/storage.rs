//! Files, bridges, networks and pools that the guest names.

use super::rules::{
    BRIDGE_MISSING, DUPLICATE_TARGET, EVDEV_MISSING, IMAGE_MISSING, IMAGE_SELINUX, IMAGE_UNREACHABLE, NETWORK_MISSING,
    POOL_MISSING, SWTPM_MISSING,
};
use super::scene::{Device, Scene};

/// All rules of this room.
pub fn check(scene: &mut Scene) {
    targets(scene);
    files(scene);
    sources(scene);
    if scene.about.swtpm == Some(false)
        && scene.all("tpm").iter().any(|device| device.of("backend", "type") == Some("emulator"))
    {
        let message = "its TPM is emulated by swtpm, which is not on this machine";
        scene.say(SWTPM_MISSING, "domain/devices/tpm/backend", message, "install the package swtpm");
    }
}

fn targets(scene: &mut Scene) {
    let disks = scene.all("disk");
    for (at, disk) in disks.iter().enumerate() {
        let Some(target) = disk.of("target", "dev") else { continue };
        if disks.iter().take(at).any(|other| other.of("target", "dev") == Some(target)) {
            let message = format!("two disks have the target `{target}`");
            scene.say(DUPLICATE_TARGET, format!("{}/target@dev", disk.place), message, "give one of them another");
        }
    }
}

/// The files of a device: where each is named, and what it is.
fn files_of(device: &Device) -> Vec<(String, String)> {
    let mut files = Vec::new();
    let mut add = |way: &str, path: Option<&str>| {
        if let Some(path) = path.filter(|path| path.starts_with('/')) {
            files.push((format!("{}/{way}", device.place), path.to_string()));
        }
    };
    match device.element.name.as_str() {
        "disk" => {
            add("source@file", device.of("source", "file"));
            add("source@dev", device.of("source", "dev"));
        }
        "hostdev" | "interface" => add("rom@file", device.of("rom", "file")),
        "filesystem" => add("source@dir", device.of("source", "dir")),
        _ => {}
    }
    files
}

fn files(scene: &mut Scene) {
    let mut all: Vec<(String, String)> = scene.devices.iter().flat_map(files_of).collect();
    for name in ["kernel", "initrd", "dtb"] {
        if let Some(path) = scene.domain.text_at(&["os", name]).filter(|path| path.starts_with('/')) {
            all.push((format!("domain/os/{name}"), path));
        }
    }
    for (place, path) in all {
        let known = scene.about.paths.get(&path).cloned();
        // A drive may be allowed to start empty.
        let optional = scene
            .devices
            .iter()
            .any(|device| place.starts_with(&device.place) && device.of("source", "startupPolicy") == Some("optional"));
        if !optional && known.as_ref().is_some_and(|reach| !reach.exists) {
            let message = format!("there is no {path} on this machine");
            scene.say(IMAGE_MISSING, place.clone(), message, "make it (`libvirt_volume`), or name another");
        }
        let place_for_images = "/var/lib/libvirt/images is the place for it";
        match known {
            Some(reach) => {
                if let Some((folder, why)) = reach.blocked {
                    let what = if folder == path { "can't be read" } else { "can't be entered" };
                    let message = format!("{path}: {folder} {what}: {why}");
                    let fix = format!("{place_for_images}; or `acl` (setfacl -m u:…:x {folder})");
                    scene.say(IMAGE_UNREACHABLE, place.clone(), message, fix);
                }
                if let Some((folder, kind)) = reach.label {
                    let message = format!("{path} is below {folder} with the SELinux type {kind}, which guests may not enter");
                    let fix = format!("{place_for_images}; or `sefcontext` with setype virt_image_t for {folder}");
                    scene.say(IMAGE_SELINUX, place, message, fix);
                }
            }
            // Of a machine that is not known, only what is so on most of them.
            None if path.starts_with("/root/") || path.starts_with("/home/") => scene.say(
                IMAGE_UNREACHABLE,
                place,
                format!("{path} is below a folder that QEMU's user can't enter on most systems, and has the wrong SELinux type"),
                place_for_images,
            ),
            None => {}
        }
    }
    for device in scene.all("input") {
        let dev = device.of("source", "dev").or_else(|| device.of("source", "evdev")).unwrap_or_default().to_string();
        if scene.about.paths.get(&dev).is_some_and(|reach| !reach.exists) {
            let message = format!("there is no input device {dev} on this machine");
            let fix = "`ls /dev/input/by-id` lists them; those that end in -event-kbd and -event-mouse are wanted";
            scene.say(EVDEV_MISSING, format!("{}/source@dev", device.place), message, fix);
        }
    }
}

fn sources(scene: &mut Scene) {
    let about = scene.about;
    for device in scene.devices.clone() {
        let of = |attribute: &str| device.of("source", attribute);
        let missing = |attribute: &str, known: &Option<std::collections::BTreeSet<String>>| {
            of(attribute).filter(|name| known.as_ref().is_some_and(|known| !known.contains(*name))).map(str::to_string)
        };
        let place = |attribute: &str| format!("{}/source@{attribute}", device.place);
        if let Some(name) = missing("bridge", &about.bridges) {
            let message = format!("{}: there is no bridge {name} on this machine", device.label);
            scene.say(BRIDGE_MISSING, place("bridge"), message, "make it with `bridge`");
        }
        if let Some(name) = missing("network", &about.networks) {
            let message = format!("{}: libvirt has no network {name}", device.label);
            scene.say(NETWORK_MISSING, place("network"), message, "make it with `libvirt_network`");
        }
        if let Some(name) = missing("pool", &about.pools) {
            let message = format!("{}: libvirt has no storage pool {name}", device.label);
            scene.say(POOL_MISSING, place("pool"), message, "make it with `libvirt_pool`");
        }
    }
}
