//! Machine type, emulator, firmware and what is booted.

use super::rules::{
    BOOT_ORDER_MIXED, EMULATOR_MISSING, IDE_ON_Q35, LOADER_MISSING, MACHINE_UNKNOWN, NVRAM_TEMPLATE,
    SECURE_BOOT_WITHOUT_Q35, SECURE_BOOT_WITHOUT_SMM, UEFI_WITHOUT_ACPI,
};
use super::scene::{Scene, is_on, is_q35};
use crate::diag::nearest;
use crate::modules::libvirt::xml::Element;

/// All rules of this room.
pub fn check(scene: &mut Scene) {
    machine(scene);
    ide(scene);
    uefi(scene);
    boot(scene);
}

fn machine(scene: &mut Scene) {
    if let (Some(machine), Some(known)) = (scene.machine(), &scene.about.machines)
        && !known.contains(machine)
    {
        let fix = match nearest(machine, known.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`? `virsh capabilities` lists them"),
            None => "write `q35` or `pc`, or one of those that `virsh capabilities` lists".to_string(),
        };
        let message = format!("this machine's QEMU has no machine type `{machine}`");
        scene.say(MACHINE_UNKNOWN, "domain/os/type@machine", message, fix);
    }
    if let Some(emulator) = scene.domain.text_at(&["devices", "emulator"])
        && scene.about.paths.get(&emulator).is_some_and(|reach| !reach.exists)
    {
        scene.say(
            EMULATOR_MISSING,
            "domain/devices/emulator",
            format!("there is no {emulator} on this machine"),
            "leave `emulator` out, and the distribution's own is taken",
        );
    }
}

/// QEMU's q35 has a SATA controller where i440fx has IDE; libvirt: "IDE controllers are unsupported for this QEMU binary or
/// machine type".
fn ide(scene: &mut Scene) {
    if !scene.machine().is_some_and(is_q35) {
        return;
    }
    for device in scene.devices.clone() {
        let drive = device.is("disk") && device.of("target", "bus") == Some("ide");
        // Where the bus is not given libvirt takes it from the name.
        let named = device.is("disk")
            && device.of("target", "bus").is_none()
            && device.of("target", "dev").is_some_and(|dev| dev.starts_with("hd"));
        let controller = device.is("controller") && device.element.attribute("type") == Some("ide");
        if drive || named || controller {
            let place = if controller { device.place.clone() } else { format!("{}/target@bus", device.place) };
            let message = format!("{}: machine q35 has no IDE", device.label);
            scene.say(IDE_ON_Q35, place, message, "put it on sata (target sda, sdb, …)");
        }
    }
}

/// Is this guest started by UEFI firmware? An explicit loader in flash memory is one; a ROM is a BIOS.
fn is_uefi(os: &Element) -> bool {
    os.attribute("firmware") == Some("efi")
        || os.get("loader").is_some_and(|loader| loader.attribute("type") == Some("pflash"))
}

fn uefi(scene: &mut Scene) {
    let Some(os) = scene.domain.get("os") else { return };
    let features = scene.domain.get("features");
    let feature = |name: &str| features.and_then(|features| features.get(name));
    if is_uefi(os) && scene.is_x86() && scene.is_qemu() && feature("acpi").is_none() {
        let fix = "add <acpi/> to <features> (`features: {acpi: true}`)";
        scene.say(UEFI_WITHOUT_ACPI, "domain/features", "UEFI firmware needs ACPI", fix);
    }
    let loader = os.get("loader");
    let wanted = os.get("firmware").into_iter().flat_map(|firmware| firmware.named("feature"));
    let by_feature = wanted
        .filter(|feature| feature.attribute("name") == Some("secure-boot"))
        .any(|feature| is_on(feature.attribute("enabled")));
    if scene.is_x86() && (by_feature || is_on(loader.and_then(|loader| loader.attribute("secure")))) {
        let place = if by_feature { "domain/os/firmware" } else { "domain/os/loader@secure" };
        if let Some(machine) = scene.machine()
            && !is_q35(machine)
        {
            let message = format!("Secure Boot needs machine q35, and this is {machine}");
            scene.say(SECURE_BOOT_WITHOUT_Q35, place, message, "give `machine: q35`");
        }
        // libvirt turns SMM on by itself only where it chooses the firmware.
        let off = feature("smm").is_some_and(|smm| smm.attribute("state") == Some("off"));
        let missing = feature("smm").is_none() && !by_feature && os.attribute("firmware") != Some("efi");
        if off || missing {
            let fix = "add <smm state='on'/> to <features> (`features: {smm: true}`)";
            scene.say(SECURE_BOOT_WITHOUT_SMM, place, "Secure Boot needs system management mode", fix);
        }
    }
    let text = loader.map(Element::text).unwrap_or_default();
    if scene.about.paths.get(&text).is_some_and(|reach| !reach.exists) {
        let message = format!("there is no firmware {text} on this machine");
        scene.say(LOADER_MISSING, "domain/os/loader", message, "give `firmware: ovmf`, which finds the machine's own");
    }
    // Without a machine: the folders that libvirt's descriptors and its built-in list speak of.
    let folders = ["/usr/share/OVMF/", "/usr/share/edk2", "/usr/share/ovmf/", "/usr/share/qemu/", "/usr/share/AAVMF/"];
    let nvram = os.get("nvram").filter(|nvram| nvram.attribute("template").is_none());
    let foreign = loader.is_some_and(|loader| loader.attribute("type") == Some("pflash"))
        && nvram.is_some()
        && (text.starts_with("/usr/share/edk2.git/") || !folders.iter().any(|folder| text.starts_with(folder)));
    if scene.about.variables.map_or(foreign, |known| !known) {
        scene.say(
            NVRAM_TEMPLATE,
            "domain/os/nvram@template",
            format!("libvirt does not know which variables file belongs to {text}, so the guest won't start"),
            "give `nvram_template`",
        );
    }
}

fn boot(scene: &mut Scene) {
    let listed = scene.domain.at(&["os", "boot"]).is_some();
    let ordered = scene.devices.iter().find(|device| device.element.get("boot").is_some());
    if let Some(device) = ordered.filter(|_| listed).cloned() {
        scene.say(
            BOOT_ORDER_MIXED,
            format!("{}/boot", device.place),
            format!("{} has a place in the boot order, and <os> has another order", device.label),
            "keep one of them: `boot: [hd, cdrom]` of the guest, or `boot: 1` of devices",
        );
    }
}
