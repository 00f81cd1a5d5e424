//! What guests of one kind need, so that it need not be said: facts from libosinfo's database (which devices a system has
//! drivers for) and from the documentation of QEMU, KVM and Microsoft.
//!
//! A preset chooses for a guest that is new, and for a device that is new to a guest; what exists is kept. So a preset may
//! be bettered in a later version without changing a guest that was made before.

use super::params::Firmware;
use super::render::one_of;
use crate::host::{Error, Result};

/// What one kind of guest needs.
#[derive(Clone, Debug)]
pub struct Preset {
    /// Its name.
    pub name: &'static str,
    /// How it starts.
    pub firmware: Firmware,
    /// Does it need a TPM?
    pub tpm: bool,
    /// Is it Windows: Hyper-V's clock, no VMware port?
    pub windows: bool,
    /// What its hardware clock is expected to show.
    pub clock: &'static str,
    /// The Hyper-V enlightenments that it knows.
    pub hyperv: &'static [&'static str],
    /// The bus of its disks.
    pub disk_bus: &'static str,
    /// The model of its network cards.
    pub nic: &'static str,
    /// Does it have a driver for USB 3 (else USB 2 is given)?
    pub xhci: bool,
    /// The emulated card where somebody looks at it.
    pub video: &'static str,
    /// Does it take random numbers from the host, and have a serial console?
    pub unix: bool,
    /// Does its agent for the host exist?
    pub agent: bool,
}

/// From Vista on.
const HYPERV_1: &[&str] = &["relaxed", "vapic", "spinlocks"];
/// From Windows 8 and Server 2012 on: synthetic interrupts and timers.
const HYPERV_2: &[&str] = &["relaxed", "vapic", "spinlocks", "vpindex", "runtime", "synic", "stimer"];
/// From Windows 10 and Server 2016 on.
const HYPERV_3: &[&str] =
    &["relaxed", "vapic", "spinlocks", "vpindex", "runtime", "synic", "stimer", "frequencies", "tlbflush", "ipi"];
/// Those that libvirt 4.5 of EL7 does not know (libvirt's documentation of hypervisor features: 4.7.0 and 4.10.0).
pub const NEWER_HYPERV: &[&str] = &["frequencies", "tlbflush", "ipi"];

/// Windows before 10: the virtio-win images of today have no drivers for it, and libosinfo knows of SATA (through q35's
/// AHCI) and e1000e.
const OLD_WINDOWS: Preset = Preset {
    name: "windows-8",
    firmware: Firmware::Ovmf,
    tpm: false,
    windows: true,
    clock: "localtime",
    hyperv: HYPERV_2,
    disk_bus: "sata",
    nic: "e1000e",
    xhci: true,
    video: "vga",
    unix: false,
    agent: true,
};

const WINDOWS: Preset =
    Preset { name: "windows-10", hyperv: HYPERV_3, disk_bus: "virtio", nic: "virtio", ..OLD_WINDOWS };

/// Windows 7 starts by UEFI only with help, and has no driver for USB 3.
const WINDOWS_7: Preset =
    Preset { name: "windows-7", firmware: Firmware::Bios, hyperv: HYPERV_1, xhci: false, ..OLD_WINDOWS };

const LINUX: Preset = Preset {
    name: "linux",
    firmware: Firmware::Ovmf,
    tpm: false,
    windows: false,
    clock: "utc",
    hyperv: &[],
    disk_bus: "virtio",
    nic: "virtio",
    xhci: true,
    video: "virtio",
    unix: true,
    agent: true,
};

/// All of them.
pub static ALL: &[Preset] = &[
    // Microsoft's requirements of Windows 11: UEFI with Secure Boot, TPM 2.0.
    Preset { name: "windows-11", firmware: Firmware::OvmfSecureboot, tpm: true, ..WINDOWS },
    WINDOWS,
    OLD_WINDOWS,
    WINDOWS_7,
    Preset { name: "windows-server-2025", ..WINDOWS },
    Preset { name: "windows-server-2022", ..WINDOWS },
    Preset { name: "windows-server-2019", ..WINDOWS },
    Preset { name: "windows-server-2016", ..WINDOWS },
    Preset { name: "windows-server-2012r2", ..OLD_WINDOWS },
    Preset { name: "windows-server-2012", ..OLD_WINDOWS },
    Preset { name: "windows-server-2008r2", ..WINDOWS_7 },
    LINUX,
    Preset { name: "freebsd", ..LINUX },
    Preset {
        name: "generic",
        firmware: Firmware::Bios,
        disk_bus: "sata",
        nic: "e1000e",
        video: "vga",
        unix: false,
        agent: false,
        ..LINUX
    },
];

/// The preset of this name.
///
/// # Errors
/// A name that no preset has.
pub fn find(name: &str) -> Result<&'static Preset> {
    // As people write it.
    let plain = name.trim().to_ascii_lowercase().replace([' ', '_'], "-");
    let plain = match plain.strip_prefix("win") {
        Some(rest) if rest.starts_with(|c: char| c.is_ascii_digit()) => format!("windows-{rest}"),
        _ => plain,
    };
    let plain = if plain == "windows-8.1" { "windows-8" } else { plain.as_str() };
    let names: Vec<&str> = ALL.iter().map(|preset| preset.name).collect();
    match ALL.iter().find(|preset| preset.name == plain) {
        Some(preset) => Ok(preset),
        None => Err(one_of("os", name, &names).err().unwrap_or_else(|| Error::parameters("os: no such preset"))),
    }
}
