//! What speaks against giving these devices away: refusals with the way out, and warnings.

use std::collections::{BTreeMap, BTreeSet};

use super::select::Selection;
use super::storage;
use crate::facts::iommu::{Iommu, Table};
use crate::facts::pci::{Device, PciAddress};
use crate::host::{Error, Host, Result};
use crate::modules::network::link;

/// What the user takes upon themselves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed {
    /// The display that the machine starts with may go.
    pub boot_gpu: bool,
    /// Interrupts may go unremapped.
    pub unsafe_interrupts: bool,
}

/// What the checks have to say when they do not refuse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// For the person.
    pub warnings: Vec<String>,
    /// Why the machine must boot before this can work.
    pub reboot: Vec<String>,
}

/// Everything the checks look at.
pub struct Scene<'a> {
    /// The machine.
    pub host: &'a dyn Host,
    /// All its PCI devices.
    pub all: &'a [Device],
    /// Its IOMMU.
    pub iommu: &'a Iommu,
    /// What is to be given away.
    pub selection: &'a Selection,
    /// What the user takes upon themselves.
    pub allowed: Allowed,
}

/// Runs all checks, the ones that would cost the machine its disk or its network first.
///
/// # Errors
/// A refusal, with the way out.
pub fn check(scene: &Scene) -> Result<Findings> {
    let mut findings = Findings::default();
    let with_group = with_groups(scene);
    bridges(scene)?;
    iommu(scene, &mut findings)?;
    disks(scene, &with_group)?;
    network(scene, &with_group)?;
    boot_display(scene, &mut findings)?;
    virtual_functions(scene)?;
    chipset(scene)?;
    groups(scene, &mut findings)?;
    interrupts(scene, &mut findings)?;
    advice(scene, &mut findings);
    Ok(findings)
}

fn targets<'a>(scene: &'a Scene) -> impl Iterator<Item = &'a Device> {
    scene.all.iter().filter(|device| scene.selection.targets.contains(&device.address))
}

/// The targets and all non-bridges of their groups: what the host loses.
fn with_groups(scene: &Scene) -> Vec<(PciAddress, Option<PciAddress>)> {
    let mut lost: Vec<(PciAddress, Option<PciAddress>)> = targets(scene).map(|d| (d.address, None)).collect();
    for target in targets(scene) {
        for device in scene.all {
            let same = target.iommu_group.is_some() && device.iommu_group == target.iommu_group;
            if same && !device.is_bridge() && !lost.iter().any(|(address, _)| *address == device.address) {
                lost.push((device.address, Some(target.address)));
            }
        }
    }
    lost
}

fn bridges(scene: &Scene) -> Result<()> {
    match targets(scene).find(|device| device.is_bridge()) {
        Some(bridge) => Err(Error::refused(format!("{} is a bridge: it can't be given to a guest", bridge.describe()))
            .hint("name the device behind it; bridges stay with the host and do not count in a group")),
        None => Ok(()),
    }
}

fn iommu(scene: &Scene, findings: &mut Findings) -> Result<()> {
    if scene.iommu.is_on() {
        let without = targets(scene).find(|device| device.iommu_group.is_none());
        return match without {
            Some(device) => Err(Error::refused(format!(
                "{} has no IOMMU group though the IOMMU is on: it can't be given to a guest",
                device.describe()
            ))
            .hint("devices behind Intel VMD or a firmware RAID mode have none: switch that off in the BIOS")),
            None => Ok(()),
        };
    }
    let vendor = scene.host.read_text("/proc/cpuinfo")?.unwrap_or_default();
    let amd = vendor.contains("AuthenticAMD");
    match scene.iommu.table {
        None => {
            let (name, switch) = if amd {
                ("AMD-Vi", "\"IOMMU\" (and \"SVM\")")
            } else {
                ("VT-d", "\"Intel VT-d\" (and \"Intel Virtualization Technology\")")
            };
            let table = if amd { "IVRS" } else { "DMAR" };
            Err(Error::refused(format!(
                "the firmware offers no IOMMU ({name}): there is no ACPI table {table} and no IOMMU group"
            ))
            .hint(format!("switch on {switch} in the BIOS, then run this again")))
        }
        Some(table) => {
            let argument = if table == Table::Dmar { "intel_iommu=on" } else { "iommu=pt" };
            let reason =
                "the IOMMU is off in the running kernel, so vfio-pci can't take any device before the next boot";
            findings.reboot.push(reason.into());
            findings.warnings.push(format!(
                "the IOMMU groups can't be checked before the machine has booted with the IOMMU on (kernel_cmdline \
                 with {argument}): run this again after the boot"
            ));
            Ok(())
        }
    }
}

fn disks(scene: &Scene, lost: &[(PciAddress, Option<PciAddress>)]) -> Result<()> {
    let needs = storage::needs(scene.host)?;
    for (address, because_of) in lost {
        let why = match because_of {
            Some(target) => format!(" (it shares an IOMMU group with {target})"),
            None => String::new(),
        };
        if let Some(need) = needs.on(address) {
            return Err(Error::refused(format!(
                "{address}{why} carries the disk {} with {} of this machine",
                need.disk,
                if need.what == "swap" { "the swap".into() } else { format!("the file system {}", need.what) }
            ))
            .hint("choose another device; a disk controller can only be given away when nothing on it is mounted"));
        }
        let storage = scene.all.iter().any(|device| device.address == *address && device.is_storage());
        if storage && !needs.root_known {
            return Err(Error::refused(format!(
                "{address}{why} is a disk controller, and which disk holds / of this machine can't be told"
            ))
            .hint("a disk controller is only given away when / is known to be elsewhere (/proc/self/mountinfo)"));
        }
    }
    Ok(())
}

fn network(scene: &Scene, lost: &[(PciAddress, Option<PciAddress>)]) -> Result<()> {
    let Some(way) = link::control(scene.host)? else { return Ok(()) };
    let needed = link::with_lowers(scene.host, &way.interface)?;
    for (address, because_of) in lost {
        let Some(device) = scene.all.iter().find(|device| device.address == *address) else { continue };
        let mut carried = device.interfaces.clone();
        for name in &needed {
            let below = scene.host.real_path(&format!("{}/{name}", link::NET))?;
            if below.starts_with(&format!("{}/", device.real_path)) {
                carried.push(name.clone());
            }
        }
        if let Some(name) = carried.iter().find(|name| needed.contains(name)) {
            let why = match because_of {
                Some(target) => format!(" (it shares an IOMMU group with {target})"),
                None => String::new(),
            };
            let through = match &way.peer {
                Some(peer) => format!("this run reaches the machine from {peer} through it"),
                None => "the default route of this machine goes through it".into(),
            };
            return Err(Error::refused(format!("{address}{why} is the network card {name}: {through}"))
                .hint("reach the machine through another card first, or choose another device"));
        }
    }
    Ok(())
}

/// The memory ranges in which the firmware's frame buffer lies (`/proc/iomem`; all zeros for those who may not know).
fn firmware_framebuffers(host: &dyn Host) -> Vec<u64> {
    // Only root reads addresses here; without them the kernel's boot_vga has to do.
    let text = host.read_text("/proc/iomem").ok().flatten().unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(" : "))
        .filter(|(_, name)| matches!(name.trim(), "BOOTFB" | "efifb" | "vesafb" | "simplefb" | "simple-framebuffer"))
        .filter_map(|(range, _)| u64::from_str_radix(range.trim().split('-').next()?, 16).ok())
        .filter(|start| *start != 0)
        .collect()
}

fn boot_display(scene: &Scene, findings: &mut Findings) -> Result<()> {
    let boot = crate::facts::pci::boot_display(scene.all).map(|device| device.address);
    let framebuffers = firmware_framebuffers(scene.host);
    for device in targets(scene).filter(|device| device.is_display()) {
        let shows = device
            .bars
            .iter()
            .any(|bar| framebuffers.iter().any(|at| (bar.start..bar.start.saturating_add(bar.size)).contains(at)));
        if boot != Some(device.address) && !shows {
            continue;
        }
        if !scene.allowed.boot_gpu {
            let other = scene.all.iter().find(|d| d.is_display() && !scene.selection.targets.contains(&d.address));
            let hint = match other {
                Some(other) => format!(
                    "make {} the first display in the BIOS, or say `allow_boot_gpu: true` and lose the console",
                    other.describe()
                ),
                None => "add a second display for the host, or say `allow_boot_gpu: true` and lose the console".into(),
            };
            return Err(Error::refused(format!(
                "{} is the display that this machine starts with (boot_vga)",
                device.describe()
            ))
            .hint(hint));
        }
        findings.warnings.push(format!(
            "{} is the display that this machine starts with: its console goes dark, the firmware's frame buffer \
             must be \
             off (initcall_blacklist=sysfb_init, or video=efifb:off on old kernels), and the guest needs a ROM file",
            device.address
        ));
    }
    Ok(())
}

fn virtual_functions(scene: &Scene) -> Result<()> {
    match targets(scene).find(|device| device.vfs > 0) {
        Some(device) => {
            let folder = device.address.folder();
            Err(Error::refused(format!(
                "{} has virtual functions in use ({}): binding it would take them away",
                device.describe(),
                device.vfs
            ))
            .hint(format!("give a virtual function to the guest instead, or write 0 to {folder}/sriov_numvfs first")))
        }
        None => Ok(()),
    }
}

/// The chipset's own functions. Taken along with SATA or audio of the same device number, the host would lose its clock,
/// its sensors, or worse: firmware goes on using them behind every driver's back.
fn chipset(scene: &Scene) -> Result<()> {
    let is_chipset = |device: &&Device| matches!(device.class16(), 0x0601 | 0x0c05);
    let Some(device) = targets(scene).find(is_chipset) else { return Ok(()) };
    let what = format!("{} is a part of the chipset, which this machine can't do without", device.describe());
    let named = targets(scene)
        .find(|other| other.address.same_card(&device.address) && !scene.selection.joined.contains(&other.address))
        .filter(|_| scene.selection.joined.contains(&device.address));
    Err(match named {
        Some(named) => Error::refused(format!("{what}, and a function of the same device as {}", named.address)).hint(
            "choose another device; `functions: listed` leaves the others with the host, if the IOMMU group is its own",
        ),
        None => Error::refused(what).hint("choose another device"),
    })
}

/// Does the kernel let a group be used while this member is held by the host? Bridges that pcieport or nothing drives
/// (vfio_dev_driver_allowed in drivers/vfio).
fn harmless(device: &Device) -> bool {
    device.class16() == 0x0600
        || device.class16() == 0x0604 && device.driver.as_deref().is_none_or(|name| name == "pcieport")
}

fn groups(scene: &Scene, findings: &mut Findings) -> Result<()> {
    let mut numbers: BTreeMap<u32, PciAddress> = BTreeMap::new();
    for device in targets(scene) {
        if let Some(number) = device.iommu_group {
            numbers.entry(number).or_insert(device.address);
        }
    }
    for (number, target) in &numbers {
        let Some(group) = scene.iommu.group(*number) else { continue };
        if let Some(region) = group.firmware_region() {
            return Err(Error::refused(format!(
                "IOMMU group {number} of {target} has memory that the firmware reserves for itself (RMRR {}-{}): the \
                 kernel refuses to give such a device to a guest",
                region.start, region.end
            ))
            .hint(
                "switch off the feature that needs it in the BIOS (HP: shared memory of the slot), or use another slot",
            ));
        }
        let members: Vec<&Device> =
            group.devices.iter().filter_map(|address| scene.all.iter().find(|d| d.address == *address)).collect();
        let strangers: Vec<String> = members
            .iter()
            .filter(|device| !scene.selection.targets.contains(&device.address) && !harmless(device))
            .map(|device| device.describe())
            .collect();
        if !strangers.is_empty() {
            let root_port = members.iter().any(|device| device.is_bridge());
            let hint = if root_port {
                "the slot does not isolate its devices: use another slot (of the CPU rather than the chipset), \
                 switch on \
                 ACS in the BIOS, or as a last resort boot a kernel with pcie_acs_override, which weakens isolation"
            } else {
                "list these devices too if no one needs them, or use another slot"
            };
            return Err(Error::refused(format!(
                "IOMMU group {number} of {target} also holds {}: a group goes to a guest whole or not at all",
                strangers.join(", ")
            ))
            .hint(hint));
        }
    }
    if numbers.len() > 1 {
        for target in &scene.selection.joined {
            let group = |address: &PciAddress| scene.all.iter().find(|d| d.address == *address)?.iommu_group;
            let card =
                targets(scene).find(|d| d.address.same_card(target) && !scene.selection.joined.contains(&d.address));
            if let (Some(card), Some(own)) = (card, group(target))
                && card.iommu_group != Some(own)
            {
                findings.warnings.push(format!(
                    "{target} is a function of the same card as {}, but in IOMMU group {own} of its own",
                    card.address
                ));
            }
        }
    }
    // A function that was left out on purpose, and whose group is another one (otherwise it is a stranger above).
    let siblings: BTreeSet<PciAddress> = scene
        .all
        .iter()
        .filter(|d| !scene.selection.targets.contains(&d.address) && d.physical_function.is_none() && !d.is_bridge())
        .filter(|d| targets(scene).any(|t| t.physical_function.is_none() && t.address.same_card(&d.address)))
        .map(|d| d.address)
        .collect();
    for sibling in siblings {
        findings.warnings.push(format!("{sibling} stays with the host though other functions of its card do not"));
    }
    Ok(())
}

fn interrupts(scene: &Scene, findings: &mut Findings) -> Result<()> {
    if scene.iommu.interrupt_remapping != Some(false) {
        return Ok(());
    }
    if !scene.allowed.unsafe_interrupts {
        return Err(Error::refused(
            "this machine can't remap interrupts: no guest with such a device would start (\"No interrupt remapping \
             support\")",
        )
        .hint(
            "switch on interrupt remapping (x2APIC) in the BIOS, or say `allow_unsafe_interrupts: true`: a guest \
             you do \
             not trust could then attack the host",
        ));
    }
    findings.warnings.push(
        "interrupts are not remapped (allow_unsafe_interrupts): a guest that you do not trust can attack the host"
            .into(),
    );
    Ok(())
}

/// AMD displays that do not come back from a reset: Polaris, Vega, Navi 1x (the list that the vendor-reset module
/// keeps).
const RESET_BUG: [u16; 26] = [
    0x67c0, 0x67c4, 0x67c7, 0x67d0, 0x67df, 0x67e0, 0x67e3, 0x67e8, 0x67ef, 0x67ff, 0x6fdf, 0x6980, 0x699f, 0x6860,
    0x6863, 0x687f, 0x69af, 0x66a0, 0x66af, 0x7310, 0x7312, 0x731f, 0x7340, 0x7341, 0x7347, 0x7360,
];

/// A guest's firmware keeps this much address space for windows above 4 GiB without being told more.
const LARGE_BAR: u64 = 8 << 30;

fn advice(scene: &Scene, findings: &mut Findings) {
    for device in targets(scene) {
        if device.id.vendor == 0x1002 && RESET_BUG.contains(&device.id.device) {
            findings.warnings.push(format!(
                "{} is of a series that does not survive a reset: a guest may start once per boot of the host; the \
                 vendor-reset kernel module helps",
                device.describe()
            ));
        } else if device.address.function == 0
            && device.reset_methods.is_some()
            && !targets(scene).any(|d| d.address.same_card(&device.address) && d.can_reset)
        {
            findings.warnings.push(format!(
                "{} offers no way to reset it: a guest may not start a second time, and all functions of the card must \
                 go to the same guest",
                device.describe()
            ));
        }
        if let Some(bar) = device.bars.iter().find(|bar| bar.index < 6 && bar.size > LARGE_BAR) {
            findings.warnings.push(format!(
                "{} has a window of {} GiB: the guest's firmware needs a larger MMIO window for it \
                 (opt/ovmf/X-PciMmio64Mb), and the BIOS \"Above 4G decoding\"",
                device.address,
                bar.size >> 30
            ));
        }
    }
    let takes_card = targets(scene).any(Device::is_network);
    let shifting: Vec<String> = scene
        .all
        .iter()
        .filter(|device| !scene.selection.targets.contains(&device.address))
        .flat_map(|device| &device.interfaces)
        .filter(|name| name.strip_prefix("eth").is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit())))
        .cloned()
        .collect();
    if takes_card && !shifting.is_empty() {
        findings.warnings.push(format!(
            "{} has a name that depends on the order in which cards are found, and a card goes away: match it by \
             its MAC",
            shifting.join(", ")
        ));
    }
}
