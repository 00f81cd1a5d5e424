//! Devices: what libvirt fills in of each sort.

use super::Machine;
use crate::modules::libvirt::xml::{Element, Node};

/// All devices of a domain.
pub fn canonical(devices: &mut Element, machine: Machine) {
    each(devices, machine);
    let with_disks = |devices: &Element, bus: &str| {
        devices.named("disk").any(|disk| disk.get("target").and_then(|target| target.attribute("bus")) == Some(bus))
    };
    let [ide, floppy] = ["ide", "fdc"].map(|bus| with_disks(devices, bus));
    let spice = devices.named("graphics").any(|display| display.attribute("type") == Some("spice"));
    let in_order = channels_in_order(devices);
    if in_order {
        for channel in devices.elements_mut().filter(|device| device.name == "channel") {
            channel.retain(|child| child.name != "address");
        }
    }
    let mut serials = 0;
    let mut consoles = 0;
    let mut videos = 0;
    let any_serial = devices.named("serial").next().is_some();
    // libvirt adds one where there is none; beside others it is one of them, and sound cards name it by its number.
    let only_audio = devices.named("audio").count() == 1;
    for device in devices.elements_mut() {
        match device.name.as_str() {
            "serial" => {
                if let Some(target) = device.get_mut("target")
                    && target.attribute("port").is_some_and(|port| port == serials.to_string())
                {
                    target.unset("port");
                }
                device.retain(|child| !(child.name == "target" && is_empty(child)));
                serials += 1;
            }
            "video" => {
                if videos == 0
                    && let Some(model) = device.get_mut("model")
                    && model.attribute("primary") == Some("yes")
                {
                    model.unset("primary");
                }
                videos += 1;
            }
            _ => {}
        }
    }
    devices.retain(|device| match device.name.as_str() {
        "controller" => !is_default_controller(device, machine, ide, floppy),
        "input" => {
            let ps2 = device.attribute("bus") == Some("ps2") && device.nodes.is_empty();
            !(machine.x86 && ps2 && matches!(device.attribute("type"), Some("mouse" | "keyboard")))
        }
        "memballoon" => {
            !(device.attribute("model") == Some("virtio") && device.attributes.len() == 1 && device.nodes.is_empty())
        }
        "audio" => {
            let kind = if spice { "spice" } else { "none" };
            !(only_audio
                && device.nodes.is_empty()
                && device.attribute("type") == Some(kind)
                && device.attribute("id").unwrap_or("1") == "1"
                && device.attributes.len() <= 2)
        }
        // The console that every first serial port is, too.
        "console" => {
            consoles += 1;
            !(consoles == 1
                && any_serial
                && device.get("target").is_none_or(|target| {
                    target.attribute("type").unwrap_or("serial") == "serial"
                        && target.attribute("port").unwrap_or("0") == "0"
                }))
        }
        "watchdog" => {
            !(machine.q35
                && device.attribute("model") == Some("itco")
                && device.attribute("action").unwrap_or("reset") == "reset"
                && device.nodes.is_empty())
        }
        _ => true,
    });
    // A serial port or a console that says only what each says.
    sort(devices);
}

/// Each device by itself.
pub fn each(devices: &mut Element, machine: Machine) {
    for device in devices.elements_mut() {
        match device.name.as_str() {
            "disk" => disk(device),
            "interface" => interface(device),
            "controller" => controller(device),
            "input" => input(device, machine),
            "graphics" => graphics(device),
            "video" => video(device),
            "hostdev" => hostdev(device),
            "serial" | "console" | "channel" | "parallel" => character(device, machine),
            "filesystem" => default(device, &[("accessmode", "passthrough"), ("type", "mount")]),
            "tpm" => {
                if let Some(backend) = device.get_mut("backend") {
                    default(backend, &[("persistent_state", "no"), ("debug", "0")]);
                }
            }
            "memory" => default(device, &[("discard", "no")]),
            _ => {}
        }
        // An address that says only which bus it is on says what libvirt knows.
        device.retain(|child| {
            !(child.name == "address" && child.attribute("type") == Some("pci") && child.attributes.len() == 1)
        });
    }
}

fn is_empty(element: &Element) -> bool {
    element.attributes.is_empty() && element.nodes.is_empty()
}

fn default(element: &mut Element, defaults: &[(&str, &str)]) {
    for (name, value) in defaults {
        if element.attribute(name) == Some(value) {
            element.unset(name);
        }
    }
}

fn set_missing(element: &mut Element, name: &str, value: &str) {
    if element.attribute(name).is_none() {
        element.set(name, value);
    }
}

fn disk(disk: &mut Element) {
    set_missing(disk, "type", "file");
    set_missing(disk, "device", "disk");
    default(disk, &[("snapshot", "default")]);
    let cdrom = disk.attribute("device") == Some("cdrom");
    if let Some(driver) = disk.get_mut("driver") {
        default(driver, &[("name", "qemu"), ("type", "raw"), ("cache", "default")]);
    }
    if let Some(source) = disk.get_mut("source") {
        source.unset("index");
        default(source, &[("startupPolicy", "mandatory")]);
    }
    if let Some(target) = disk.get_mut("target") {
        default(target, &[("tray", "closed")]);
        let bus = target.attribute("dev").and_then(bus_of);
        if let Some(bus) = bus {
            set_missing(target, "bus", bus);
        }
    }
    let place = disk.get("target").and_then(drive_address);
    disk.retain(|child| match child.name.as_str() {
        "readonly" => !cdrom,
        "driver" | "source" => !is_empty(child),
        "address" => {
            let here = |name: &str| child.attribute(name).unwrap_or("0").to_string();
            !(child.attribute("type") == Some("drive")
                && here("target") == "0"
                && place.as_ref().is_some_and(|place| *place == [here("controller"), here("bus"), here("unit")]))
        }
        _ => true,
    });
}

/// virDiskNameToBusIndex and the parser's default by prefix.
fn bus_of(target: &str) -> Option<&'static str> {
    match target.get(..2)? {
        "hd" => Some("ide"),
        "sd" => Some("scsi"),
        "vd" => Some("virtio"),
        "fd" => Some("fdc"),
        "xv" => Some("xen"),
        _ => None,
    }
}

/// `vda` is 0, `vdz` 25, `vdaa` 26.
pub fn target_index(target: &str) -> Option<u32> {
    let letters = target.trim_end_matches(|c: char| c.is_ascii_digit());
    let letters = letters.strip_prefix("xvd").or_else(|| letters.get(2..))?;
    if letters.is_empty() || letters.len() > 4 || !letters.bytes().all(|b| b.is_ascii_lowercase()) {
        return None;
    }
    let count = letters.bytes().fold(0u32, |sum, b| sum * 26 + u32::from(b - b'a') + 1);
    Some(count - 1)
}

/// Where libvirt puts a drive of this name: controller, bus, unit (virDomainDiskDefAssignAddress).
fn drive_address(target: &Element) -> Option<[String; 3]> {
    let index = target_index(target.attribute("dev")?)?;
    let (controller, bus, unit) = match target.attribute("bus")? {
        "ide" => (index / 4, (index % 4) / 2, index % 2),
        "sata" => (index / 6, 0, index % 6),
        "fdc" => (index / 2, 0, index % 2),
        // The seventh place of a wide bus is the controller's own.
        "scsi" => {
            let unit = index % 15;
            (index / 15, 0, if unit >= 7 { unit + 1 } else { unit })
        }
        _ => return None,
    };
    Some([controller, bus, unit].map(|n| n.to_string()))
}

fn interface(card: &mut Element) {
    default(card, &[("managed", "no")]);
    if let Some(link) = card.get_mut("link") {
        default(link, &[("state", "up")]);
    }
    if card.attribute("type") == Some("hostdev") {
        vfio(card);
    }
    card.retain(|child| !(matches!(child.name.as_str(), "link" | "driver") && is_empty(child)));
}

/// There is no other driver for devices of the host.
fn vfio(device: &mut Element) {
    if let Some(driver) = device.get_mut("driver") {
        default(driver, &[("name", "vfio")]);
    }
    if let Some(source) = device.get_mut("source") {
        for address in source.elements_mut().filter(|child| child.name == "address") {
            if address.attribute("type") == Some("pci") {
                address.unset("type");
            }
        }
    }
    device.retain(|child| !(child.name == "driver" && is_empty(child)));
}

fn hostdev(device: &mut Element) {
    set_missing(device, "mode", "subsystem");
    default(device, &[("managed", "no"), ("display", "off"), ("ramfb", "off")]);
    if device.attribute("type") == Some("pci") {
        vfio(device);
    }
    if let Some(source) = device.get_mut("source") {
        default(source, &[("startupPolicy", "mandatory")]);
        source.unset("missing");
    }
    if let Some(rom) = device.get_mut("rom") {
        default(rom, &[("bar", "on")]);
    }
    device.retain(|child| !(child.name == "rom" && is_empty(child)));
}

fn controller(controller: &mut Element) {
    if controller.attribute("type") == Some("pci") {
        let model = controller.attribute("model").unwrap_or_default().to_string();
        // What QEMU calls the controllers that libvirt has always had one of.
        controller.retain(|child| {
            !(child.name == "model"
                && matches!(
                    model.as_str(),
                    "pcie-root-port" | "pci-bridge" | "pcie-to-pci-bridge" | "dmi-to-pci-bridge"
                )
                && child.attribute("name") == Some(default_pci_model(&model)))
        });
    }
    set_missing(controller, "index", "0");
}

/// virDomainControllerPCIModelNameToString of what libvirt 9 chooses.
fn default_pci_model(model: &str) -> &str {
    match model {
        "dmi-to-pci-bridge" => "i82801b11-bridge",
        "pcie-to-pci-bridge" => "pcie-pci-bridge",
        other => other,
    }
}

/// Those that come with the machine, and IDE and floppy controllers of drives.
fn is_default_controller(controller: &Element, machine: Machine, ide: bool, floppy: bool) -> bool {
    let index = controller.attribute("index") == Some("0");
    let model = controller.attribute("model");
    let plain = |allowed: usize| controller.attributes.len() <= allowed;
    let at = |bus: &str, slot: &str, function: Option<&str>| {
        let children: Vec<&Element> = controller.elements().collect();
        match children.as_slice() {
            [] => true,
            [address] => {
                address.name == "address"
                    && address.attribute("type") == Some("pci")
                    && address.attribute("bus").unwrap_or("0") == bus
                    && address.attribute("slot") == Some(slot)
                    && address.attribute("function") == function
                    && address.attribute("multifunction").is_none()
            }
            _ => false,
        }
    };
    if !index {
        return false;
    }
    match controller.attribute("type") {
        Some("pci") => {
            matches!(model, Some("pci-root" | "pcie-root")) && plain(3) && controller.elements().next().is_none()
        }
        Some("ide") => machine.i440fx && ide && model.is_none_or(|m| m == "piix3") && at("0", "1", Some("1")),
        Some("usb") => machine.i440fx && model.is_none_or(|m| m == "piix3-uhci") && plain(3) && at("0", "1", Some("2")),
        Some("sata") => machine.q35 && plain(2) && at("0", "31", Some("2")),
        Some("fdc") => floppy && plain(2) && controller.elements().next().is_none(),
        _ => false,
    }
}

fn input(input: &mut Element, machine: Machine) {
    let tablet = input.attribute("type") == Some("tablet");
    let bus = if tablet || !machine.x86 { "usb" } else { "ps2" };
    if matches!(input.attribute("type"), Some("tablet" | "mouse" | "keyboard")) {
        set_missing(input, "bus", bus);
    }
}

fn graphics(display: &mut Element) {
    let kind = display.attribute("type").unwrap_or_default().to_string();
    if kind == "vnc" && display.attribute("port") == Some("-1") {
        display.set("autoport", "yes");
    }
    if display.attribute("autoport") == Some("yes") {
        display.unset("port");
        display.unset("tlsPort");
    }
    let fixed = display.attribute("port").is_some() || display.attribute("tlsPort").is_some();
    if fixed {
        default(display, &[("autoport", "no")]);
    } else if kind == "vnc" && display.attribute("autoport").is_none() && !has_socket(display) {
        display.set("autoport", "yes");
    }
    default(display, &[("tlsPort", "-1")]);
    // libvirt writes the first listening place twice: here and as an element.
    if let Some(address) = display.attribute("listen").map(str::to_string) {
        display.unset("listen");
        let first = display.elements_mut().find(|child| child.name == "listen");
        match first {
            Some(listen) if listen.attribute("type") == Some("address") => {
                set_missing(listen, "address", &address);
            }
            Some(_) => {}
            None => {
                let listen = Element::new("listen").with("type", "address").with("address", address);
                display.nodes.push(Node::Element(listen));
            }
        }
    }
    display.retain(|child| {
        let by_default = match child.name.as_str() {
            "listen" => child.attribute("type") == Some("address"),
            "gl" => child.attribute("enable") == Some("no"),
            _ => false,
        };
        !by_default || child.attributes.len() != 1
    });
}

fn has_socket(display: &Element) -> bool {
    display.attribute("socket").is_some()
        || display.named("listen").any(|listen| matches!(listen.attribute("type"), Some("socket" | "none")))
}

fn video(video: &mut Element) {
    if let Some(model) = video.get_mut("model") {
        default(model, &[("heads", "1"), ("primary", "no")]);
        let defaults: &[(&str, &str)] = match model.attribute("type") {
            Some("cirrus" | "vga" | "bochs" | "vmvga") => &[("vram", "16384")],
            Some("qxl") => &[("ram", "65536"), ("vram", "65536"), ("vgamem", "16384")],
            _ => &[],
        };
        default(model, defaults);
    }
}

fn character(device: &mut Element, machine: Machine) {
    let kind = device.name.clone();
    set_missing(device, "type", "pty");
    device.unset("tty");
    if device.attribute("type") == Some("pty") {
        device.retain(|child| child.name != "source");
    }
    if let Some(target) = device.get_mut("target") {
        match kind.as_str() {
            "serial" if machine.x86 => {
                default(target, &[("type", "isa-serial")]);
                target.retain(|child| !(child.name == "model" && child.attribute("name") == Some("isa-serial")));
            }
            "channel" => target.unset("state"),
            // Its place among the others, whatever was asked for.
            "console" => target.unset("port"),
            _ => {}
        }
    }
    if let Some(source) = device.get_mut("source")
        && kind == "channel"
        && source.attribute("path").is_none()
    {
        default(source, &[("mode", "bind")]);
    }
    if let Some(protocol) = device.get_mut("protocol") {
        default(protocol, &[("type", "raw")]);
    }
    device.retain(|child| !(matches!(child.name.as_str(), "source" | "protocol") && is_empty(child)));
}

/// Are the addresses of all channels what libvirt gives: the first controller's ports from 1?
fn channels_in_order(devices: &Element) -> bool {
    let consoles = devices
        .named("console")
        .any(|console| console.get("target").and_then(|target| target.attribute("type")) == Some("virtio"));
    !consoles
        && devices.named("channel").enumerate().all(|(at, channel)| {
            channel.get("target").and_then(|target| target.attribute("type")) == Some("virtio")
                && channel.get("address").is_none_or(|address| {
                    let here = |name: &str| address.attribute(name).unwrap_or("0").to_string();
                    address.attribute("type") == Some("virtio-serial")
                        && here("controller") == "0"
                        && here("bus") == "0"
                        && here("port") == (at + 1).to_string()
                })
        })
}

/// The order of devices of different sorts means nothing, nor that of controllers, nor that of drives, which libvirt
/// itself orders; the order of others of one sort does.
fn sort(devices: &mut Element) {
    let order = |device: &Element| -> (String, String, u32) {
        let kind = device.attribute("type").unwrap_or_default().to_string();
        match device.name.as_str() {
            "disk" => {
                let target = device.get("target");
                let bus = target.and_then(|target| target.attribute("bus")).unwrap_or_default().to_string();
                let index = target.and_then(|target| target_index(target.attribute("dev")?));
                (bus, target.and_then(|t| t.attribute("dev")).unwrap_or_default().to_string(), index.unwrap_or(0))
            }
            "controller" => {
                let index = device.attribute("index").and_then(|index| index.parse().ok()).unwrap_or(0);
                (kind, String::new(), index)
            }
            "hostdev" => (kind, String::new(), 0),
            _ => (String::new(), String::new(), 0),
        }
    };
    devices.nodes.sort_by_key(|node| match node {
        Node::Element(device) => (device.name.clone(), order(device)),
        Node::Text(_) => (String::new(), (String::new(), String::new(), 0)),
    });
}
