//! The IOMMU: is it there, is it on, which groups does it make.
//!
//! The kernel prints `DMAR: IOMMU enabled` whenever `intel_iommu=on` is given, with or without an IOMMU, so nothing
//! here reads its log: the ACPI table says whether the firmware offers one, the groups say whether the kernel uses
//! it.

use serde::Serialize;
use serde_json::{Value, json};

use super::pci::PciAddress;
use crate::host::{Host, Result};

/// Where the kernel lists the groups.
pub const GROUPS: &str = "/sys/kernel/iommu_groups";

/// A stretch of memory that the kernel keeps for a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Region {
    /// First address, as the kernel writes it.
    pub start: String,
    /// Last address.
    pub end: String,
    /// `msi`, `reserved`, `direct`, `direct-relaxable`, …
    pub kind: String,
}

/// Devices that can only be given away together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Group {
    /// Its number.
    pub number: u32,
    /// Its members, bridges included.
    pub devices: Vec<PciAddress>,
    /// How the kernel maps it (`DMA`, `identity`); `None` before 5.11.
    pub kind: Option<String>,
    /// Memory kept for it.
    pub reserved: Vec<Region>,
}

impl Group {
    /// The region that firmware reserved and the kernel must map one to one (RMRR): such a group can't go to a guest.
    /// `direct-relaxable` ones (USB, graphics) may be given up and do not count.
    pub fn firmware_region(&self) -> Option<&Region> {
        self.reserved.iter().find(|region| region.kind == "direct")
    }
}

/// The ACPI table by which firmware offers an IOMMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Table {
    /// Intel VT-d.
    Dmar,
    /// AMD-Vi.
    Ivrs,
}

/// What is known of the IOMMU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Iommu {
    /// The firmware's table; `None` when it offers no IOMMU.
    pub table: Option<Table>,
    /// The units that the kernel uses: `dmar0`, `ivhd0`.
    pub units: Vec<String>,
    /// The groups; empty when the kernel does not use it.
    pub groups: Vec<Group>,
    /// Can it remap interrupts? `None` when that can't be told (it is off, or it is AMD's, which always can).
    pub interrupt_remapping: Option<bool>,
}

impl Iommu {
    /// Does the kernel use it?
    pub fn is_on(&self) -> bool {
        !self.groups.is_empty()
    }
    /// The group of this number.
    pub fn group(&self, number: u32) -> Option<&Group> {
        self.groups.iter().find(|group| group.number == number)
    }
}

/// Reads all of it.
///
/// # Errors
/// When the machine can't be read.
pub fn read<H: Host + ?Sized>(host: &H) -> Result<Iommu> {
    let table = if host.exists("/sys/firmware/acpi/tables/DMAR")? {
        Some(Table::Dmar)
    } else if host.exists("/sys/firmware/acpi/tables/IVRS")? {
        Some(Table::Ivrs)
    } else {
        None
    };
    let units = host.list("/sys/class/iommu")?;
    let mut groups = Vec::new();
    for name in host.list(GROUPS)? {
        let Ok(number) = name.parse() else { continue };
        let folder = format!("{GROUPS}/{name}");
        let mut devices: Vec<PciAddress> =
            host.list(&format!("{folder}/devices"))?.iter().filter_map(|d| PciAddress::parse_full(d)).collect();
        devices.sort_unstable();
        let reserved = host.read_text(&format!("{folder}/reserved_regions"))?.unwrap_or_default();
        groups.push(Group {
            number,
            devices,
            kind: host.read_line(&format!("{folder}/type"))?,
            reserved: reserved.lines().filter_map(region).collect(),
        });
    }
    groups.sort_by_key(|group| group.number);
    let interrupt_remapping = interrupt_remapping(host, table, &units)?;
    Ok(Iommu { table, units, groups, interrupt_remapping })
}

/// Can it remap interrupts? The same answer as that of [`read`], without all the groups.
///
/// # Errors
/// When the machine can't be read.
pub fn remaps_interrupts<H: Host + ?Sized>(host: &H) -> Result<Option<bool>> {
    let table = host.exists("/sys/firmware/acpi/tables/DMAR")?.then_some(Table::Dmar);
    interrupt_remapping(host, table, &host.list("/sys/class/iommu")?)
}

fn region(line: &str) -> Option<Region> {
    let mut words = line.split_whitespace().map(str::to_string);
    Some(Region { start: words.next()?, end: words.next()?, kind: words.next()? })
}

/// The kernel remaps interrupts only where the firmware allows it (bit 0 of the flags, byte 37 of the DMAR table) and
/// every unit can (bit 3 of its extended capability register); VT-d specification, sections 8.1 and 11.4.3.
fn interrupt_remapping<H: Host + ?Sized>(host: &H, table: Option<Table>, units: &[String]) -> Result<Option<bool>> {
    let mut answer = None;
    for unit in units {
        if let Some(text) = host.read_line(&format!("/sys/class/iommu/{unit}/intel-iommu/ecap"))?
            && let Ok(ecap) = u64::from_str_radix(text.trim_start_matches("0x"), 16)
        {
            answer = Some(answer.unwrap_or(true) && ecap & (1 << 3) != 0);
        }
    }
    // Only root may read the table; without it the units' own word has to do.
    if table == Some(Table::Dmar)
        && let Ok(Some(bytes)) = host.read("/sys/firmware/acpi/tables/DMAR")
        && bytes.starts_with(b"DMAR")
        && let Some(flags) = bytes.get(37)
    {
        answer = if flags & 1 == 0 { Some(false) } else { answer };
    }
    Ok(answer)
}

/// The `iommu` part of the facts.
///
/// # Errors
/// When the machine can't be read.
pub fn gather<H: Host + ?Sized>(host: &H) -> Result<Value> {
    let iommu = read(host)?;
    let mut groups = serde_json::Map::new();
    for group in &iommu.groups {
        groups.insert(
            group.number.to_string(),
            json!({
                "devices": group.devices,
                "type": group.kind,
                "firmware_reserved": group.firmware_region().is_some(),
            }),
        );
    }
    Ok(json!({
        "table": iommu.table,
        "enabled": iommu.is_on(),
        "units": iommu.units,
        "interrupt_remapping": iommu.interrupt_remapping,
        "groups": groups,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::overlay::testing::machine;

    #[test]
    fn a_group_with_a_firmware_region_is_told_from_a_relaxable_one() {
        let machine = machine(&[
            ("/sys/kernel/iommu_groups/7/devices/0000:00:1d.0", "-> ../../../../devices/pci0000:00/0000:00:1d.0"),
            (
                "/sys/kernel/iommu_groups/7/reserved_regions",
                "0x7b000000 0x7b0fffff direct-relaxable\n0xfee00000 0xfeefffff msi\n",
            ),
            ("/sys/kernel/iommu_groups/38/devices/0000:82:00.0", "-> ../../../../devices/pci0000:80/0000:82:00.0"),
            ("/sys/kernel/iommu_groups/38/reserved_regions", "0x7b000000 0x7b0fffff direct\n"),
        ]);
        let iommu = read(&machine).unwrap();
        let region = |n| iommu.group(n).and_then(Group::firmware_region).is_some();
        assert_eq!((region(7), region(38)), (false, true));
        assert!(iommu.is_on());
        assert_eq!(iommu.table, None);
    }

    #[test]
    fn every_unit_and_the_firmware_must_agree_to_remap_interrupts() {
        let (good, bad) = ("f00f4a\n", "f42\n");
        let ask = |units: &[&str], table: &str| {
            let mut files: Vec<(String, String)> = units
                .iter()
                .enumerate()
                .map(|(n, ecap)| (format!("/sys/class/iommu/dmar{n}/intel-iommu/ecap"), ecap.to_string()))
                .collect();
            files.push(("/sys/firmware/acpi/tables/DMAR".into(), table.into()));
            let files: Vec<(&str, &str)> = files.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            read(&machine(&files)).unwrap().interrupt_remapping
        };
        assert_eq!(ask(&[good, good], ""), Some(true));
        assert_eq!(ask(&[good, bad], ""), Some(false));
        assert_eq!(ask(&[], ""), None);
        let forbidden = format!("DMAR{}\0\0", "\0".repeat(33));
        assert_eq!(ask(&[good], &forbidden), Some(false));
    }

    #[test]
    fn without_groups_it_is_off() {
        let facts = gather(&machine(&[("/sys/firmware/acpi/tables/IVRS", "IVRS")])).unwrap();
        assert_eq!((&facts["enabled"], &facts["table"]), (&json!(false), &json!("IVRS")));
    }
}
