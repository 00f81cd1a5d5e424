//! The table of rules: the code, `docs/lint-rules.md` and the check of `silence` are made of it.

use super::Severity::{self, Error, Warning};

/// A rule: what is found, how bad it is, and why.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name, by which it is silenced.
    pub name: &'static str,
    /// Does it stop?
    pub severity: Severity,
    /// What it finds.
    pub what: &'static str,
    /// Why that hurts.
    pub why: &'static str,
}

macro_rules! rules {
    ($($(#[$doc:meta])* $constant:ident $name:literal $severity:ident $what:literal $why:literal;)*) => {
        $(
            #[doc = $what]
            pub const $constant: &Rule = &Rule { name: $name, severity: $severity, what: $what, why: $why };
        )*
        /// All rules, in the order of the reference.
        pub const RULES: &[&Rule] = &[$($constant),*];
    };
}

rules! {
    UNKNOWN_ELEMENT "unknown-element" Warning
        "An element that libvirt's schema does not know there"
        "`virsh define` drops it without a word, and `--validate` refuses it without saying which one it is.";
    UNKNOWN_ATTRIBUTE "unknown-attribute" Warning
        "An attribute that libvirt's schema does not know there"
        "`virsh define` drops it without a word, and `--validate` refuses it without saying which one it is.";
    UNKNOWN_VALUE "unknown-value" Error
        "A word where libvirt's schema has a list of others: models, buses, cache modes, timers, on and yes"
        "libvirt refuses it with a message about the whole element, or takes something else.";
    UNKNOWN_NIC_MODEL "unknown-nic-model" Error
        "A model of a network card that QEMU does not have"
        "libvirt takes any word; the guest does not start.";
    UNKNOWN_KEYMAP "unknown-keymap" Error
        "A keyboard layout of VNC or SPICE that QEMU does not have"
        "libvirt takes any word; the guest does not start.";
    UNKNOWN_CPU_MODEL "unknown-cpu-model" Warning
        "A CPU model that libvirt does not know"
        "The guest does not start.";
    LEGACY_ASSIGNMENT "legacy-assignment" Error
        "A PCI device that is given away with the driver `kvm`"
        "Kernels have had no such driver since 4.12; only VFIO is left.";

    MACHINE_UNKNOWN "machine-unknown" Error
        "A machine type that the QEMU of this machine does not have"
        "libvirt refuses to define the guest. Distributions have types of their own (`pc-q35-rhel9.4.0`).";
    EMULATOR_MISSING "emulator-missing" Warning
        "An emulator that is not on this machine"
        "libvirt refuses to define the guest. The path differs between distributions.";
    IDE_ON_Q35 "ide-on-q35" Error
        "A drive or controller on IDE with machine q35"
        "q35 has no IDE: libvirt refuses the guest. CD-ROM drives go on sata.";
    SECURE_BOOT_WITHOUT_SMM "secure-boot-without-smm" Error
        "Secure Boot without system management mode"
        "Without SMM a guest can write its own keys, so libvirt refuses it.";
    SECURE_BOOT_WITHOUT_Q35 "secure-boot-without-q35" Error
        "Secure Boot with another machine than q35"
        "Only q35 has the system management mode that Secure Boot needs, so libvirt refuses it.";
    UEFI_WITHOUT_ACPI "uefi-without-acpi" Error
        "UEFI firmware without ACPI"
        "libvirt refuses it: UEFI firmware gives its tables by ACPI.";
    LOADER_MISSING "loader-missing" Warning
        "Firmware that is not on this machine"
        "The guest does not start.";
    NVRAM_TEMPLATE "nvram-template" Warning
        "A firmware of one's own whose variables nobody knows"
        "The guest does not start: libvirt can't make its variables.";
    BOOT_ORDER_MIXED "boot-order-mixed" Error
        "Both `<boot dev=…>` in `<os>` and `<boot order=…>` in devices"
        "libvirt refuses it: one of them says what is booted.";

    WINDOWS_11_TPM "windows-11-tpm" Warning
        "Windows 11 without a TPM 2.0"
        "Its installer refuses the machine.";
    WINDOWS_11_SECURE_BOOT "windows-11-secure-boot" Warning
        "Windows 11 without firmware that can do Secure Boot"
        "Its installer refuses the machine.";
    WINDOWS_SOCKETS "windows-sockets" Warning
        "More than two CPU sockets for Windows"
        "Windows clients use two sockets at most, and the other virtual CPUs stay idle. Without a topology every virtual CPU is a socket.";
    VIRTIO_WIN_TOO_NEW "virtio-win-too-new" Warning
        "Drivers for Windows (virtio-win) that no longer have any for this Windows"
        "The last for Windows 7 are 0.1.173, the last for Windows 8 are 0.1.189: setup finds no disk with later ones.";

    DEVICE_SHARED "device-shared" Warning
        "A device of the host that another guest claims too"
        "Only one of them can run at a time.";
    DEVICE_SHARED_AUTOSTART "device-shared-autostart" Error
        "A device that two guests claim which both start with the host"
        "Only one of them will start, and which one is chance.";
    DEVICE_TWICE "device-twice" Error
        "A device of the host that is given to one guest twice"
        "libvirt refuses it.";
    DEVICE_MISSING "device-missing" Warning
        "A PCI or USB device that is not on this machine"
        "The guest does not start, unless a USB device has `startupPolicy='optional'`.";
    CARD_INCOMPLETE "card-incomplete" Warning
        "A card that is given away without its other functions"
        "A graphics card's audio, USB or serial function that stays with the host keeps the card from being reset, or the group from being viable.";
    DRIVER_NOT_VFIO "driver-not-vfio" Warning
        "A PCI device with `managed='no'` that is not bound to vfio-pci"
        "The guest does not start: with `managed='no'` nobody takes the device from its driver.";
    GROUP_NOT_VIABLE "group-not-viable" Warning
        "An IOMMU group of which other devices stay with drivers of the host"
        "The guest does not start: `group … is not viable`.";
    FIRMWARE_REGION "firmware-region" Warning
        "A device for which the firmware reserved memory (RMRR)"
        "The kernel gives no such device away.";
    BOOT_DISPLAY "boot-display" Warning
        "The graphics card that the host itself starts with is given away"
        "The host loses its screen, its console driver may hold the card, and the guest sees a used ROM (give a ROM file).";
    IOMMU_OFF "iommu-off" Warning
        "PCI devices are given away and the host's IOMMU is off"
        "The guest does not start.";
    INTERRUPT_REMAPPING "interrupt-remapping" Warning
        "PCI devices are given away and the host can't remap interrupts"
        "The guest does not start, unless vfio_iommu_type1 has allow_unsafe_interrupts=1.";
    NVIDIA_ERROR_43 "nvidia-error-43" Warning
        "An NVIDIA card whose last Windows driver stops in a virtual machine it recognises"
        "Drivers before 465 end with error 43. Cards since Kepler have later ones and need no hiding.";
    BALLOON_WITH_PASSTHROUGH "balloon-with-passthrough" Warning
        "A memory balloon in a guest with a PCI device of the host"
        "All memory of such a guest is pinned: the balloon can't give any back, and only costs.";
    CPU_DEFAULT_MODEL "cpu-default-model" Warning
        "No CPU model in a guest with a PCI device of the host"
        "libvirt then takes qemu64: no AES, no AVX, slow, and games refuse it.";
    LOOKING_GLASS_VIDEO "looking-glass-video" Warning
        "An emulated cirrus or qxl card beside Looking Glass"
        "Windows takes it for a second screen, and the mouse gets lost there.";
    SHMEM_SIZE "shmem-size" Error
        "Shared memory whose size is no power of two"
        "libvirt refuses it: it is a PCI memory window.";

    MEMORY_HOST "memory-host" Warning
        "More memory than the machine has"
        "The guest does not start, or the host kills it.";
    MEMORY_NODE "memory-node" Warning
        "More memory than the NUMA nodes have that it is bound to"
        "The guest does not start, or the host kills it.";
    HUGEPAGES "hugepages" Warning
        "Huge pages that are not reserved, or not enough of them"
        "The guest does not start.";
    CPU_MISSING "cpu-missing" Warning
        "Pinning to CPUs that the machine does not have"
        "The guest does not start.";
    CPU_NODE "cpu-node" Warning
        "Pinning to CPUs of another NUMA node than the card's"
        "Every access to the card crosses the sockets.";
    CPU_SIBLINGS "cpu-siblings" Warning
        "Pinning that splits the threads of a core"
        "The other thread works for somebody else on the same core, and the guest's own idea of its cores is wrong.";
    VCPU_TOPOLOGY "vcpu-topology" Error
        "A topology that has another number of CPUs than the guest"
        "libvirt refuses it.";
    VIRTIOFS_MEMORY "virtiofs-memory" Error
        "virtiofs (or vhost-user) without shared memory"
        "libvirt refuses it: the daemon must see the guest's memory.";

    DUPLICATE_TARGET "duplicate-target" Error
        "Two disks with one target"
        "libvirt refuses it.";
    DUPLICATE_NAME "duplicate-name" Error
        "Two guests with one name or UUID"
        "The second takes the place of the first.";
    DUPLICATE_MAC "duplicate-mac" Warning
        "Two network interfaces with one MAC address"
        "Neither has a network that works when both run.";
    IMAGE_MISSING "image-missing" Warning
        "A disk image, ISO, ROM or kernel that is not there"
        "The guest does not start.";
    IMAGE_UNREACHABLE "image-unreachable" Warning
        "A file below a folder that QEMU's user can't enter"
        "The guest does not start: libvirt gives QEMU the file, not the folders above it.";
    IMAGE_SELINUX "image-selinux" Warning
        "A file below a folder whose SELinux type guests may not enter"
        "The guest does not start where SELinux enforces: libvirt labels the file, not the folders above it.";
    IMAGE_SHARED "image-shared" Warning
        "A disk image that two guests write"
        "Both running destroys it. (`<shareable/>` on both says that the guests know what they do.)";
    BRIDGE_MISSING "bridge-missing" Warning
        "A bridge that is not on this machine"
        "The guest does not start.";
    NETWORK_MISSING "network-missing" Warning
        "A libvirt network that is not on this machine"
        "The guest does not start.";
    POOL_MISSING "pool-missing" Warning
        "A storage pool that is not on this machine"
        "The guest does not start.";
    EVDEV_MISSING "evdev-missing" Warning
        "An input device of the host that is not there"
        "The guest does not start.";
    SWTPM_MISSING "swtpm-missing" Warning
        "An emulated TPM without swtpm on the machine"
        "The guest does not start.";
    OPEN_DISPLAY "open-display" Warning
        "VNC or SPICE on all addresses without a password"
        "Whoever reaches the host sits at the guest.";
}

/// The rule of this name.
pub fn find(name: &str) -> Option<&'static Rule> {
    RULES.iter().copied().find(|rule| rule.name == name)
}

/// `docs/lint-rules.md`.
pub fn page() -> String {
    let mut page = String::from(
        "# What is checked of a guest\n\nMade from the table in `src/modules/libvirt/lint/rules.rs`; a test compares. \
         Do not edit.\n\n`libvirt_domain` checks a guest before libvirt sees it, and `vfio-provision domain lint FILE` \
         checks a file without any\nmachine. Errors stop, warnings do not. What needs facts of a machine is passed over \
         where they are not known.\n\nA rule is silenced by its name: `silence: [NAME]` in `libvirt_domain`, `--silence \
         NAME` on the command line. A name that\nis no rule's is an error.\n",
    );
    for severity in [Error, Warning] {
        let (title, word) = match severity {
            Error => ("Errors", "stop"),
            Warning => ("Warnings", "do not stop"),
        };
        page.push_str(&format!("\n## {title} ({word})\n\n| rule | what | why |\n| --- | --- | --- |\n"));
        for rule in RULES.iter().filter(|rule| rule.severity == severity) {
            page.push_str(&format!("| `{}` | {} | {} |\n", rule.name, rule.what, rule.why));
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_sentences_complete() {
        for (at, rule) in RULES.iter().enumerate() {
            assert!(RULES.iter().skip(at + 1).all(|other| other.name != rule.name), "{}", rule.name);
            assert!(rule.name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'), "{rule:?}");
            assert!(rule.why.ends_with(['.', ')']) && !rule.what.ends_with('.'), "{rule:?}");
            assert!(!rule.what.contains('|') && !rule.why.contains('|'), "{rule:?} would break its table");
        }
        assert_eq!(find("ide-on-q35"), Some(IDE_ON_Q35));
    }
}
