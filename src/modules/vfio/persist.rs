//! The files by which devices stay with vfio-pci over boots, and which of them win against the driver of a display.
//!
//! What decides is the initramfs: a display driver in it takes the card long before the root file system is there. So
//! `driver_override` has to be set in the initramfs and before any driver is loaded:
//!
//! - dracut: the udev rule goes into the image. udev writes `driver_override` while it works through its rules and
//!   loads modules only afterwards, so no driver loaded for the device itself can be first. A driver loaded for an
//!   identical card could be, so where there is one, the first event of any PCI device settles the override. vfio-pci
//!   may be there already by then (`force_drivers`, or built in), so the rule asks the kernel to probe the device
//!   again.
//! - initramfs-tools: its udev takes only a few rules along, so a script in init-top does the same before udev
//!   starts.
//! - mkinitcpio: as with dracut; `MODULES` and `FILES` in a drop-in.
//!
//! `vfio_virqfd` is never listed: where a kernel has it (before 6.2) vfio_pci depends on it, so every tool takes it
//! along by itself, and listing it breaks images for newer kernels.

use std::collections::BTreeSet;

use crate::facts::pci::{Device, PciAddress, PciId};
use crate::host::{Error, Family, Host, Result};
use crate::modules::network::marks;

/// The udev rule.
pub const RULES: &str = "/etc/udev/rules.d/10-vfio-provision.rules";
/// Options and soft dependencies.
pub const MODPROBE: &str = "/etc/modprobe.d/vfio.conf";
/// Modules for the running system.
pub const LOAD: &str = "/etc/modules-load.d/vfio.conf";
/// dracut's part.
pub const DRACUT: &str = "/etc/dracut.conf.d/10-vfio.conf";
/// initramfs-tools' list of modules.
pub const INITRAMFS_MODULES: &str = "/etc/initramfs-tools/modules";
/// initramfs-tools' script.
pub const INITRAMFS_SCRIPT: &str = "/etc/initramfs-tools/scripts/init-top/vfio-provision";
/// mkinitcpio's part.
pub const MKINITCPIO: &str = "/etc/mkinitcpio.conf.d/10-vfio.conf";
/// Where driverctl keeps its overrides.
pub const DRIVERCTL: &str = "/etc/driverctl.d";

const OURS: [&str; 7] = [RULES, MODPROBE, LOAD, DRACUT, INITRAMFS_MODULES, INITRAMFS_SCRIPT, MKINITCPIO];
const HEADER: &str = "# Written by vfio-provision (vfio_bind); changes are overwritten.";

/// How devices are bound at boot, decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// driverctl's folder.
    Driverctl,
    /// A udev rule.
    Udev,
    /// `ids=` of vfio-pci.
    Ids,
}

impl Method {
    /// Its name as the parameter has it.
    pub fn name(self) -> &'static str {
        match self {
            Method::Driverctl => "driverctl",
            Method::Udev => "udev",
            Method::Ids => "ids",
        }
    }
}

/// Which tool makes the initramfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    /// dracut.
    Dracut,
    /// initramfs-tools.
    InitramfsTools,
    /// mkinitcpio.
    Mkinitcpio,
}

/// What the files shall say.
pub struct Wish<'a> {
    /// The devices.
    pub targets: Vec<&'a Device>,
    /// Devices that stay with the host.
    pub others: Vec<&'a Device>,
    /// How.
    pub method: Method,
    /// The tool; `None` when none is found.
    pub tool: Option<Tool>,
    /// Write `allow_unsafe_interrupts=1`.
    pub unsafe_interrupts: bool,
    /// Write `disable_vga=1`.
    pub disable_vga: bool,
}

/// One file as it shall be: `None` means there shall be none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where.
    pub path: String,
    /// What is in it.
    pub content: Option<String>,
    /// Must it be executable?
    pub script: bool,
}

/// Finds the tool that makes the initramfs.
///
/// # Errors
/// When the machine can't be read.
pub fn tool(host: &dyn Host) -> Result<Option<Tool>> {
    let has = |names: &[&str], paths: &[&str]| -> Result<bool> {
        for name in names {
            if host.package(name)?.is_some() {
                return Ok(true);
            }
        }
        for path in paths {
            if host.exists(path)? {
                return Ok(true);
            }
        }
        Ok(false)
    };
    let dracut = has(&["dracut"], &["/usr/bin/dracut", "/sbin/dracut", "/etc/dracut.conf.d", "/usr/lib/dracut"])?;
    let tools = has(&["initramfs-tools"], &["/usr/sbin/update-initramfs", "/etc/initramfs-tools"])?;
    let mkinitcpio = has(&["mkinitcpio"], &["/etc/mkinitcpio.conf", "/usr/bin/mkinitcpio"])?;
    let mut found = [(dracut, Tool::Dracut), (tools, Tool::InitramfsTools), (mkinitcpio, Tool::Mkinitcpio)];
    // Leftovers of another tool are common; the family's own counts first.
    let own = match host.os()?.family {
        Family::El | Family::Fedora | Family::Suse => Tool::Dracut,
        Family::Debian | Family::Ubuntu => Tool::InitramfsTools,
        Family::Arch => Tool::Mkinitcpio,
    };
    found.sort_by_key(|(_, tool)| *tool != own);
    Ok(found.into_iter().find(|(there, _)| *there).map(|(_, tool)| tool))
}

/// Is driverctl on this machine?
///
/// # Errors
/// When the machine can't be read.
pub fn has_driverctl(host: &dyn Host) -> Result<bool> {
    Ok(host.package("driverctl")?.is_some() || host.exists("/usr/sbin/driverctl")?)
}

/// The installed kernels that have vfio-pci built in: they ignore modprobe.d's options.
///
/// # Errors
/// When the machine can't be read.
pub fn built_in(host: &dyn Host) -> Result<Vec<String>> {
    let mut kernels = Vec::new();
    for version in host.list("/lib/modules")? {
        let list = host.read_text(&format!("/lib/modules/{version}/modules.builtin"))?.unwrap_or_default();
        if list.lines().any(|line| line.ends_with("/vfio-pci.ko")) {
            kernels.push(version);
        }
    }
    Ok(kernels)
}

/// Refuses `ids=` where it would take more than the targets, or nothing at all.
///
/// # Errors
/// The refusal.
pub fn check_ids(host: &dyn Host, targets: &[&Device], others: &[&Device]) -> Result<()> {
    let ids: BTreeSet<PciId> = targets.iter().map(|device| device.id).collect();
    if let Some(other) = others.iter().find(|device| ids.contains(&device.id)) {
        return Err(Error::refused(format!(
            "`method: ids` would also take {}: it has the same id as a device that shall go",
            other.describe()
        ))
        .hint("bind by address: `method: udev` (or driverctl)"));
    }
    if let Some(kernel) = built_in(host)?.first() {
        return Err(Error::refused(format!(
            "`method: ids` has no effect with kernel {kernel}: vfio-pci is built into it and reads no modprobe.d"
        ))
        .hint(format!(
            "bind by address: `method: udev`, or give vfio-pci.ids={} to kernel_cmdline",
            ids.iter().map(PciId::to_string).collect::<Vec<_>>().join(",")
        )));
    }
    Ok(())
}

/// Drivers that would take such a device before vfio-pci does. From its class and vendor, not from what holds it now:
/// the files must read the same after the boot as before.
pub fn rivals(device: &Device) -> &'static [&'static str] {
    match (device.class16(), device.id.vendor) {
        (0x0300 | 0x0302 | 0x0380, 0x10de) => &["nouveau", "nvidia", "nvidia_drm"],
        (0x0300 | 0x0302 | 0x0380, 0x1002) => &["amdgpu", "radeon"],
        (0x0300 | 0x0302 | 0x0380, 0x8086) => &["i915", "xe"],
        (0x0403, _) => &["snd_hda_intel"],
        (0x0c03, _) if device.class & 0xff == 0x30 => &["xhci_pci"],
        (0x0c03, _) if device.class & 0xff == 0x20 => &["ehci_pci"],
        (0x0c80, 0x10de) => &["i2c_nvidia_gpu"],
        (0x0108, _) => &["nvme"],
        _ => &[],
    }
}

fn strings(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|line| line.to_string()).collect()
}

fn rules(wish: &Wish) -> String {
    let mut text =
        format!("{HEADER}\n# Set while udev works through its rules: before it loads any module for the device.\n");
    for device in &wish.targets {
        let twin = wish.others.iter().any(|o| o.id.vendor == device.id.vendor && o.class16() == device.class16());
        let address = device.address;
        if twin {
            text.push_str(&format!(
                "# A driver loaded for another card could take this one too, so any PCI device's event settles it.\n\
                 ACTION==\"add\", SUBSYSTEM==\"pci\", ATTR{{[pci/{address}]driver_override}}=\"vfio-pci\"\n"
            ));
        }
        text.push_str(&format!(
            "ACTION==\"add\", SUBSYSTEM==\"pci\", KERNEL==\"{address}\", ATTR{{driver_override}}=\"vfio-pci\", \
             RUN{{builtin}}+=\"kmod load vfio-pci\", RUN+=\"/bin/sh -c 'echo {address} > \
             /sys/bus/pci/drivers_probe'\"\n"
        ));
    }
    text
}

fn init_top(wish: &Wish) -> String {
    let addresses: Vec<String> = wish.targets.iter().map(|device| device.address.to_string()).collect();
    let list = addresses.join(" ");
    format!(
        "#!/bin/sh\n\
         {HEADER}\n\
         # Runs in the initramfs before udev loads any driver (initramfs-tools(7)).\n\
         case \"$1\" in\n\
         prereqs)\n\
         \texit 0\n\
         \t;;\n\
         esac\n\
         for device in {list}; do\n\
         \tif [ -e \"/sys/bus/pci/devices/$device/driver_override\" ]; then\n\
         \t\techo vfio-pci > \"/sys/bus/pci/devices/$device/driver_override\"\n\
         \tfi\n\
         done\n\
         modprobe vfio-pci\n\
         for device in {list}; do\n\
         \techo \"$device\" > /sys/bus/pci/drivers_probe\n\
         done\n\
         exit 0\n"
    )
}

fn modprobe(wish: &Wish, made_with_driverctl: &BTreeSet<PciAddress>) -> Vec<String> {
    let list = |set: &mut dyn Iterator<Item = PciAddress>| set.map(|a| a.to_string()).collect::<Vec<_>>().join(" ");
    let mut lines = vec![format!("# devices: {}", list(&mut wish.targets.iter().map(|d| d.address)))];
    if !made_with_driverctl.is_empty() {
        lines.push(format!("# driverctl: {}", list(&mut made_with_driverctl.iter().copied())));
    }
    let mut options = Vec::new();
    if wish.method == Method::Ids {
        let ids: BTreeSet<PciId> = wish.targets.iter().map(|device| device.id).collect();
        options.push(format!("ids={}", ids.iter().map(PciId::to_string).collect::<Vec<_>>().join(",")));
    }
    if wish.disable_vga {
        options.push("disable_vga=1".into());
    }
    if !options.is_empty() {
        lines.push(format!("options vfio-pci {}", options.join(" ")));
    }
    if wish.unsafe_interrupts {
        lines.push("options vfio_iommu_type1 allow_unsafe_interrupts=1".into());
    }
    let mut seen = BTreeSet::new();
    for rival in wish.targets.iter().flat_map(|device| rivals(device)) {
        if seen.insert(*rival) {
            lines.push(format!("softdep {rival} pre: vfio-pci"));
        }
    }
    lines
}

fn dracut(host: &dyn Host, wish: &Wish) -> Result<Vec<String>> {
    // The spaces inside the quotes are part of the grammar (dracut.conf(5)).
    let mut lines = strings(&["force_drivers+=\" vfio_pci vfio vfio_iommu_type1 \""]);
    match wish.method {
        Method::Udev => lines.push(format!("install_items+=\" {RULES} {MODPROBE} \"")),
        Method::Driverctl => {
            lines.push(format!("install_items+=\" {MODPROBE} \""));
            let modules = host.list("/usr/lib/dracut/modules.d")?;
            if modules.iter().any(|name| name.trim_start_matches(|c: char| c.is_ascii_digit()) == "driverctl") {
                lines.push("add_dracutmodules+=\" driverctl \"".into());
            }
        }
        Method::Ids => lines.push(format!("install_items+=\" {MODPROBE} \"")),
    }
    Ok(lines)
}

fn mkinitcpio(wish: &Wish) -> Vec<String> {
    let files = if wish.method == Method::Udev { format!("{RULES} {MODPROBE}") } else { MODPROBE.to_string() };
    vec!["MODULES=(vfio_pci vfio vfio_iommu_type1 \"${MODULES[@]}\")".into(), format!("FILES+=({files})")]
}

fn driverctl_path(address: &PciAddress) -> String {
    format!("{DRIVERCTL}/pci-{address}")
}

fn recorded(text: Option<&str>, key: &str) -> BTreeSet<PciAddress> {
    let lines = text.and_then(marks::block).unwrap_or_default();
    lines
        .iter()
        .filter_map(|line| line.strip_prefix(key))
        .flat_map(str::split_whitespace)
        .filter_map(PciAddress::parse_full)
        .collect()
}

/// The devices that our files name, whatever the method.
///
/// # Errors
/// When the machine can't be read.
pub fn devices_on_file(host: &dyn Host) -> Result<BTreeSet<PciAddress>> {
    Ok(recorded(host.read_text(MODPROBE)?.as_deref(), "# devices:"))
}

/// Every file that we have a say in, as it shall be; with no wish, as it was before we came.
///
/// # Errors
/// When the machine can't be read, or driverctl already gives a device to someone else.
pub fn files(host: &dyn Host, wish: Option<&Wish>) -> Result<Vec<Wanted>> {
    let modprobe_now = host.read_text(MODPROBE)?;
    let made_before = recorded(modprobe_now.as_deref(), "# driverctl:");
    let mut made = BTreeSet::new();
    let mut wanted = Vec::new();
    if let Some(wish) = wish.filter(|wish| wish.method == Method::Driverctl) {
        for device in &wish.targets {
            let path = driverctl_path(&device.address);
            match host.read_text(&path)? {
                Some(text) if text.trim() == "vfio-pci" && !made_before.contains(&device.address) => continue,
                Some(text) if text.trim() != "vfio-pci" => {
                    return Err(Error::refused(format!(
                        "driverctl already gives {} to the driver {} ({path})",
                        device.address,
                        text.trim()
                    ))
                    .hint(format!("take that back with `driverctl unset-override {}`", device.address)));
                }
                _ => {}
            }
            made.insert(device.address);
            wanted.push(Wanted { path, content: Some("vfio-pci\n".into()), script: false });
        }
    }
    for gone in made_before.difference(&made) {
        wanted.push(Wanted { path: driverctl_path(gone), content: None, script: false });
    }
    for path in OURS {
        let now = if path == MODPROBE { modprobe_now.clone() } else { host.read_text(path)? };
        let whole = path == RULES || path == INITRAMFS_SCRIPT;
        // Two files are wholly ours by their names; in the others only the block is.
        let before = if whole { None } else { marks::original(now.as_deref()) };
        let content = match wish {
            None => before,
            Some(wish) => {
                let block = |lines: &[String]| Some(marks::with_block(before.as_deref(), lines));
                let dependent = |tool: Tool| wish.tool == Some(tool);
                match path {
                    RULES if wish.method == Method::Udev => Some(rules(wish)),
                    MODPROBE => block(&modprobe(wish, &made)),
                    LOAD => block(&strings(&["vfio", "vfio_iommu_type1", "vfio_pci"])),
                    DRACUT if dependent(Tool::Dracut) => block(&dracut(host, wish)?),
                    INITRAMFS_MODULES if dependent(Tool::InitramfsTools) => {
                        block(&strings(&["vfio_pci", "vfio", "vfio_iommu_type1"]))
                    }
                    INITRAMFS_SCRIPT if dependent(Tool::InitramfsTools) && wish.method != Method::Ids => {
                        Some(init_top(wish))
                    }
                    MKINITCPIO if dependent(Tool::Mkinitcpio) => block(&mkinitcpio(wish)),
                    _ => before,
                }
            }
        };
        wanted.push(Wanted { path: path.to_string(), content, script: path == INITRAMFS_SCRIPT });
    }
    Ok(wanted)
}
