//! What the running system stands on: which PCI devices carry its file systems and its swap.

use std::collections::BTreeSet;

use crate::facts::pci::PciAddress;
use crate::host::{Host, Result};

/// Something that the system needs, and the PCI devices (bridges on the way included) that it comes through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Need {
    /// In words: `/`, `/boot`, `swap`.
    pub what: String,
    /// The disk or partition: `sda2`.
    pub disk: String,
    /// Every PCI address in its path.
    pub through: BTreeSet<PciAddress>,
}

/// Everything that is mounted or swapped to, and whether the root file system could be traced to a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// What is needed.
    pub all: Vec<Need>,
    /// Is it known where `/` is?
    pub root_known: bool,
}

impl Needs {
    /// What is lost if this device goes.
    pub fn on(&self, address: &PciAddress) -> Option<&Need> {
        self.all.iter().find(|need| need.through.contains(address))
    }
}

/// Follows every mount and swap area down to the PCI devices below: partitions, device mapper (LVM, LUKS), md, NVMe
/// multipath (proc_pid_mountinfo(5); kernel: Documentation/ABI/stable/sysfs-block).
///
/// # Errors
/// When the machine can't be read.
pub fn needs<H: Host + ?Sized>(host: &H) -> Result<Needs> {
    let mut needs = Needs::default();
    let mut seen = BTreeSet::new();
    for line in host.read_text("/proc/self/mountinfo")?.unwrap_or_default().lines() {
        let Some((numbers, target, source)) = mount(line) else { continue };
        let Some(folder) = block_folder(host, numbers, source)? else { continue };
        let through = pci_below(host, &folder)?;
        let disk = folder.rsplit('/').next().unwrap_or_default().to_string();
        needs.root_known |= target == "/" && !through.is_empty();
        if !through.is_empty() && seen.insert((target.to_string(), disk.clone())) {
            needs.all.push(Need { what: target.to_string(), disk, through });
        }
    }
    for line in host.read_text("/proc/swaps")?.unwrap_or_default().lines().skip(1) {
        let Some(source) = line.split_whitespace().next().filter(|source| source.starts_with("/dev/")) else {
            continue;
        };
        let Some(folder) = block_folder(host, "0:0", source)? else { continue };
        let through = pci_below(host, &folder)?;
        let disk = folder.rsplit('/').next().unwrap_or_default().to_string();
        if !through.is_empty() {
            needs.all.push(Need { what: "swap".into(), disk, through });
        }
    }
    // `/` first: it is what people understand at once.
    needs.all.sort_by_key(|need| need.what != "/");
    Ok(needs)
}

/// `major:minor`, mount point and source of a line of mountinfo.
fn mount(line: &str) -> Option<(&str, &str, &str)> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let (numbers, _root, target) = (left.next()?, left.next()?, left.next()?);
    Some((numbers, target, right.split(' ').nth(1).unwrap_or("")))
}

/// The folder of a block device below `/sys/devices`. File systems such as btrfs have a made-up number (0:N): there the
/// name of the source counts.
fn block_folder<H: Host + ?Sized>(host: &H, numbers: &str, source: &str) -> Result<Option<String>> {
    if !numbers.starts_with("0:") {
        let link = format!("/sys/dev/block/{numbers}");
        if host.exists(&link)? {
            return host.real_path(&link).map(Some);
        }
    }
    if !source.starts_with("/dev/") {
        return Ok(None);
    }
    let device = host.real_path(source)?;
    let name = device.rsplit('/').next().unwrap_or_default();
    let link = format!("/sys/class/block/{name}");
    if !name.is_empty() && host.exists(&link)? { host.real_path(&link).map(Some) } else { Ok(None) }
}

/// The PCI addresses in the paths of a block device and of all that it is made of.
fn pci_below<H: Host + ?Sized>(host: &H, folder: &str) -> Result<BTreeSet<PciAddress>> {
    let mut found = BTreeSet::new();
    let mut seen = BTreeSet::new();
    let mut todo = vec![folder.to_string()];
    while let Some(path) = todo.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        found.extend(path.split('/').filter_map(PciAddress::parse_full));
        for slave in host.list(&format!("{path}/slaves"))? {
            todo.push(host.real_path(&format!("{path}/slaves/{slave}"))?);
        }
        if host.exists(&format!("{path}/partition"))?
            && let Some((disk, _)) = path.rsplit_once('/')
        {
            todo.push(disk.to_string());
        }
        // With native multipath the disk hangs below its subsystem, which links to the controllers.
        if let Some((start, rest)) = path.split_once("/nvme-subsystem/")
            && let Some(subsystem) = rest.split('/').next()
        {
            let subsystem = format!("{start}/nvme-subsystem/{subsystem}");
            for name in host.list(&subsystem)? {
                if name.strip_prefix("nvme").is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())) {
                    todo.push(host.real_path(&format!("{subsystem}/{name}"))?);
                }
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::overlay::testing::machine;

    const DISK: &str = "/sys/devices/pci0000:00/0000:00:02.0/0000:02:00.0/host0/block/sda";

    fn address(text: &str) -> PciAddress {
        text.parse().unwrap()
    }

    #[test]
    fn root_on_lvm_on_luks_on_a_raid_controller() {
        let machine = machine(&[
            (
                "/proc/self/mountinfo",
                "25 1 253:1 / / rw,relatime shared:1 - xfs /dev/mapper/cl-root rw\n26 25 0:20 / /proc rw - proc \
                 proc rw\n",
            ),
            ("/proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n/dev/dm-2 partition 8 0 -2\n"),
            ("/sys/dev/block/253:1", "-> ../../devices/virtual/block/dm-1"),
            ("/sys/devices/virtual/block/dm-1/slaves/dm-0", "-> ../../dm-0"),
            ("/sys/devices/virtual/block/dm-2/slaves/dm-0", "-> ../../dm-0"),
            ("/sys/class/block/dm-2", "-> ../../devices/virtual/block/dm-2"),
            (
                "/sys/devices/virtual/block/dm-0/slaves/sda2",
                "-> ../../../../pci0000:00/0000:00:02.0/0000:02:00.0/host0/block/sda/sda2",
            ),
            (&format!("{DISK}/sda2/partition"), "2\n"),
        ]);
        let needs = needs(&machine).unwrap();
        assert!(needs.root_known);
        let need = needs.on(&address("02:00.0")).unwrap();
        assert_eq!((need.what.as_str(), need.disk.as_str()), ("/", "dm-1"));
        assert!(needs.all.iter().any(|need| need.what == "swap"));
        assert!(needs.on(&address("00:02.0")).is_some(), "the bridge above the controller is needed too");
        assert!(needs.on(&address("82:00.0")).is_none());
    }

    #[test]
    fn btrfs_by_its_source_and_nvme_by_its_controllers() {
        let machine = machine(&[
            ("/proc/self/mountinfo", "25 1 0:33 /@ / rw - btrfs /dev/nvme0n1p2 rw\n"),
            ("/dev/nvme0n1p2", ""),
            ("/sys/class/block/nvme0n1p2", "-> ../../devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1/nvme0n1p2"),
            ("/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0n1/nvme0n1p2/partition", "2\n"),
            (
                "/sys/devices/virtual/nvme-subsystem/nvme-subsys0/nvme0",
                "-> ../../../pci0000:00/0000:04:00.0/nvme/nvme0",
            ),
            ("/sys/devices/pci0000:00/0000:04:00.0/nvme/nvme0/", ""),
        ]);
        let needs = needs(&machine).unwrap();
        assert_eq!(needs.on(&address("04:00.0")).map(|need| need.what.as_str()), Some("/"));
    }

    #[test]
    fn an_unknown_root_is_said_to_be_unknown() {
        let machine = machine(&[("/proc/self/mountinfo", "25 1 0:33 / / rw - zfs rpool/root rw\nbroken\n")]);
        assert_eq!(needs(&machine).unwrap(), Needs::default());
    }
}
