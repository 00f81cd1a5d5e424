//! Words that libvirt's schema leaves open and QEMU does not.

use super::rules::{LEGACY_ASSIGNMENT, UNKNOWN_CPU_MODEL, UNKNOWN_KEYMAP, UNKNOWN_NIC_MODEL, UNKNOWN_VALUE};
use super::scene::Scene;
use crate::diag::nearest;

/// QEMU's network cards on x86 and arm (`-nic model=help`), and those of libvirt's other hypervisors.
const NICS: &[&str] = &[
    "virtio",
    "virtio-transitional",
    "virtio-non-transitional",
    "virtio-net-pci",
    "virtio-net-ccw",
    "virtio-net-device",
    "e1000",
    "e1000-82544gc",
    "e1000-82545em",
    "e1000e",
    "igb",
    "rtl8139",
    "ne2k_isa",
    "ne2k_pci",
    "pcnet",
    "vmxnet",
    "vmxnet2",
    "vmxnet3",
    "tulip",
    "i82550",
    "i82551",
    "i82557a",
    "i82557b",
    "i82557c",
    "i82558a",
    "i82558b",
    "i82559a",
    "i82559b",
    "i82559c",
    "i82559er",
    "i82562",
    "i82801",
    "usb-net",
    "spapr-vlan",
    "lan9118",
    "scm91c111",
    "sungem",
    "netfront",
    "Am79C970A",
    "Am79C973",
    "82540EM",
    "82543GC",
    "82545EM",
    "vlance",
];

/// QEMU's keyboard layouts (pc-bios/keymaps).
const KEYMAPS: &[&str] = &[
    "ar", "bepo", "cz", "da", "de", "de-ch", "en-gb", "en-us", "es", "et", "fi", "fo", "fr", "fr-be", "fr-ca", "fr-ch",
    "hr", "hu", "is", "it", "ja", "lt", "lv", "mk", "nl", "nl-be", "no", "pl", "pt", "pt-br", "ru", "sl", "sv", "th",
    "tr",
];

/// libvirt's x86 models (its cpu_map up to 11.3), without the versions (`-v2`) that it has of most.
const CPUS: &[&str] = &[
    "486",
    "Broadwell",
    "Broadwell-IBRS",
    "Broadwell-noTSX",
    "Broadwell-noTSX-IBRS",
    "Cascadelake-Server",
    "Cascadelake-Server-noTSX",
    "ClearwaterForest",
    "Conroe",
    "Cooperlake",
    "Denverton",
    "Dhyana",
    "DiamondRapids",
    "EPYC",
    "EPYC-Genoa",
    "EPYC-IBPB",
    "EPYC-Milan",
    "EPYC-Rome",
    "EPYC-Turin",
    "GraniteRapids",
    "Haswell",
    "Haswell-IBRS",
    "Haswell-noTSX",
    "Haswell-noTSX-IBRS",
    "Icelake-Client",
    "Icelake-Client-noTSX",
    "Icelake-Server",
    "Icelake-Server-noTSX",
    "IvyBridge",
    "IvyBridge-IBRS",
    "KnightsMill",
    "Nehalem",
    "Nehalem-IBRS",
    "Opteron_G1",
    "Opteron_G2",
    "Opteron_G3",
    "Opteron_G4",
    "Opteron_G5",
    "Penryn",
    "SandyBridge",
    "SandyBridge-IBRS",
    "SapphireRapids",
    "SierraForest",
    "Skylake-Client",
    "Skylake-Client-IBRS",
    "Skylake-Client-noTSX-IBRS",
    "Skylake-Server",
    "Skylake-Server-IBRS",
    "Skylake-Server-noTSX-IBRS",
    "Snowridge",
    "Westmere",
    "Westmere-IBRS",
    "YongFeng",
    "athlon",
    "core2duo",
    "coreduo",
    "cpu64-rhel5",
    "cpu64-rhel6",
    "kvm32",
    "kvm64",
    "n270",
    "pentium",
    "pentium2",
    "pentium3",
    "pentiumpro",
    "phenom",
    "qemu32",
    "qemu64",
];

/// All rules of this room; QEMU's words count where QEMU is the hypervisor.
pub fn check(scene: &mut Scene) {
    if !scene.is_qemu() {
        return;
    }
    for device in scene.devices.clone() {
        if let Some(model) = device.of("model", "type").filter(|_| device.is("interface"))
            && !NICS.contains(&model)
        {
            let fix = near(model, NICS).unwrap_or_else(|| "virtio, e1000e and rtl8139 are the usual ones".to_string());
            let message = format!("{}: QEMU has no network card `{model}`", device.label);
            scene.say(UNKNOWN_NIC_MODEL, format!("{}/model@type", device.place), message, fix);
        }
        if let Some(keymap) = device.element.attribute("keymap").filter(|_| device.is("graphics"))
            && !KEYMAPS.contains(&keymap)
        {
            let fix = near(keymap, KEYMAPS).unwrap_or_else(|| {
                "leave it out (the viewer's own layout is used), or write one such as `en-us` or `de`".to_string()
            });
            let message = format!("{}: QEMU has no keyboard layout `{keymap}`", device.label);
            scene.say(UNKNOWN_KEYMAP, format!("{}@keymap", device.place), message, fix);
        }
        if let Some(name) = device.of("driver", "name").filter(|name| device.is("disk") && *name != "qemu") {
            let message = format!("{}: QEMU's disks have no driver `{name}`", device.label);
            let place = format!("{}/driver@name", device.place);
            scene.say(UNKNOWN_VALUE, place, message, "write <driver name='qemu' type='raw'/>, or another type");
        }
        if device.is("hostdev") && device.of("driver", "name") == Some("kvm") {
            let message = format!("{}: the driver `kvm` has long been gone", device.label);
            scene.say(
                LEGACY_ASSIGNMENT,
                format!("{}/driver@name", device.place),
                message,
                "write <driver name='vfio'/>",
            );
        }
    }
    cpu(scene);
}

fn cpu(scene: &mut Scene) {
    let Some(cpu) = scene.domain.get("cpu").filter(|_| scene.is_x86()) else { return };
    if !matches!(cpu.attribute("mode"), None | Some("custom")) {
        return;
    }
    let Some(model) = cpu.text_at(&["model"]).filter(|model| !model.is_empty()) else { return };
    let base = match model.rsplit_once("-v") {
        Some((base, version)) if !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit()) => base,
        _ => &model,
    };
    if !CPUS.contains(&base) {
        let fix =
            near(base, CPUS).unwrap_or_else(|| "`cpu: host-passthrough` gives the guest the host's own".to_string());
        scene.say(UNKNOWN_CPU_MODEL, "domain/cpu/model", format!("libvirt knows no CPU model `{model}`"), fix);
    }
}

fn near(word: &str, known: &[&str]) -> Option<String> {
    nearest(word, known.iter().copied()).map(|near| format!("did you mean `{near}`?"))
}
