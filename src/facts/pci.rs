//! PCI devices as sysfs shows them (kernel: Documentation/ABI/testing/sysfs-bus-pci).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Value, json};

use crate::host::{Host, Result};

/// Where sysfs lists every function.
pub const DEVICES: &str = "/sys/bus/pci/devices";

/// Where a PCI function is: domain, bus, slot and function.
///
/// Domains have at least four hex digits; those of Intel's VMD and of some clouds need up to eight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// Domain (segment).
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Slot (device), 0 to 0x1f.
    pub slot: u8,
    /// Function, 0 to 7.
    pub function: u8,
}

impl PciAddress {
    /// Reads the form that sysfs uses and nothing shorter: `0000:82:00.0`.
    pub fn parse_full(text: &str) -> Option<PciAddress> {
        let (domain, rest) = text.split_once(':')?;
        if !(4..=8).contains(&domain.len()) || !is_hex(domain) {
            return None;
        }
        let (bus, slot, function) = bus_slot_function(rest)?;
        if rest.len() != "82:00.0".len() {
            return None;
        }
        Some(PciAddress { domain: u32::from_str_radix(domain, 16).ok()?, bus, slot, function })
    }

    /// Are both functions of one card (same domain, bus and slot)?
    pub fn same_card(&self, other: &PciAddress) -> bool {
        (self.domain, self.bus, self.slot) == (other.domain, other.bus, other.slot)
    }

    /// Its folder in sysfs.
    pub fn folder(&self) -> String {
        format!("{DEVICES}/{self}")
    }
}

fn is_hex(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn bus_slot_function(text: &str) -> Option<(u8, u8, u8)> {
    let (bus, rest) = text.split_once(':')?;
    let (slot, function) = rest.split_once('.')?;
    if !(is_hex(bus) && is_hex(slot) && function.len() == 1) || bus.len() > 2 || slot.len() > 2 {
        return None;
    }
    let bus = u8::from_str_radix(bus, 16).ok()?;
    let slot = u8::from_str_radix(slot, 16).ok().filter(|slot| *slot <= 0x1f)?;
    let function = function.parse().ok().filter(|function| *function <= 7)?;
    Some((bus, slot, function))
}

impl FromStr for PciAddress {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<PciAddress, String> {
        let wrong = || {
            format!(
                "`{text}` is not a PCI address: write domain:bus:slot.function in hex as lspci -D shows it, such as \
                 \"0000:82:00.0\""
            )
        };
        let trimmed = text.trim();
        match trimmed.matches(':').count() {
            1 => {
                let (bus, slot, function) = bus_slot_function(trimmed).ok_or_else(wrong)?;
                Ok(PciAddress { domain: 0, bus, slot, function })
            }
            2 => {
                let (domain, rest) = trimmed.split_once(':').ok_or_else(wrong)?;
                if !is_hex(domain) || domain.len() > 8 {
                    return Err(wrong());
                }
                let domain = u32::from_str_radix(domain, 16).map_err(|_| wrong())?;
                let (bus, slot, function) = bus_slot_function(rest).ok_or_else(wrong)?;
                Ok(PciAddress { domain, bus, slot, function })
            }
            _ => Err(wrong()),
        }
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.slot, self.function)
    }
}

impl Serialize for PciAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PciAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<PciAddress, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Vendor and device number: `10de:1430`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciId {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
}

impl FromStr for PciId {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<PciId, String> {
        let number = |text: &str| {
            let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
            (digits.len() <= 4 && is_hex(digits)).then(|| u16::from_str_radix(digits, 16).ok()).flatten()
        };
        text.trim()
            .split_once(':')
            .and_then(|(vendor, device)| Some(PciId { vendor: number(vendor)?, device: number(device)? }))
            .ok_or_else(|| {
                format!(
                    "`{text}` is not a PCI id: write vendor:device in hex as lspci -n shows it, such as \"10de:1430\""
                )
            })
    }
}

impl fmt::Display for PciId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:04x}", self.vendor, self.device)
    }
}

impl Serialize for PciId {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A memory or I/O window of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Bar {
    /// Which one: 0 to 5, 6 is the expansion ROM.
    pub index: usize,
    /// First address.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

/// One PCI function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Where it is.
    pub address: PciAddress,
    /// Class, subclass and programming interface: `0x030000`.
    pub class: u32,
    /// Vendor and device.
    pub id: PciId,
    /// Subsystem vendor and device; `None` for bridges.
    pub subsystem: Option<PciId>,
    /// Revision; `None` on kernels before 4.10.
    pub revision: Option<u8>,
    /// The driver that holds it.
    pub driver: Option<String>,
    /// The driver it is reserved for; `None` when it is for none, or the kernel has no `driver_override`.
    pub driver_override: Option<String>,
    /// Does the kernel offer `driver_override` for it (from 3.16, and EL7)?
    pub can_override: bool,
    /// NUMA node; `None` when the firmware names none (-1) or the kernel is too old to say.
    pub numa_node: Option<u32>,
    /// CPUs near it, as the kernel lists them.
    pub local_cpus: Option<String>,
    /// Is it the display that the firmware started with? `None` where it is no display or the kernel is too old to say.
    pub boot_vga: Option<bool>,
    /// Its IOMMU group; `None` when the IOMMU is off.
    pub iommu_group: Option<u32>,
    /// Ways to reset it; `None` when the kernel does not say (before 5.15).
    pub reset_methods: Option<Vec<String>>,
    /// Can it be reset at all?
    pub can_reset: bool,
    /// Its windows that are in use.
    pub bars: Vec<Bar>,
    /// The physical function that this virtual one belongs to.
    pub physical_function: Option<PciAddress>,
    /// How many virtual functions it could have; 0 when it can have none.
    pub vfs_total: u32,
    /// How many virtual functions it has now.
    pub vfs: u32,
    /// Network interfaces it carries.
    pub interfaces: Vec<String>,
    /// Its folder below `/sys/devices`, links resolved.
    #[serde(skip)]
    pub real_path: String,
}

impl Device {
    /// Class and subclass: `0x0300` is a VGA display, `0x0403` an HD audio function.
    pub fn class16(&self) -> u32 {
        self.class >> 8
    }
    /// A display of any sort (VGA, 3D, other)?
    pub fn is_display(&self) -> bool {
        self.class >> 16 == 0x03
    }
    /// A disk controller?
    pub fn is_storage(&self) -> bool {
        self.class >> 16 == 0x01
    }
    /// A network controller?
    pub fn is_network(&self) -> bool {
        self.class >> 16 == 0x02
    }
    /// A host bridge or a PCI bridge?
    pub fn is_bridge(&self) -> bool {
        matches!(self.class16(), 0x0600 | 0x0604)
    }
    /// A few words for people: `0000:82:00.0 (10de:1430, VGA display)`.
    pub fn describe(&self) -> String {
        format!("{} ({}, {})", self.address, self.id, class_name(self.class))
    }
}

/// What a class number means, in words (pci.ids; the classes that matter here).
pub fn class_name(class: u32) -> &'static str {
    match class >> 8 {
        0x0100..=0x01ff => "storage controller",
        0x0200..=0x02ff => "network controller",
        0x0300 => "VGA display",
        0x0302 => "3D controller",
        0x0301 | 0x0303..=0x03ff => "display controller",
        0x0401 | 0x0403 => "audio device",
        0x0400 | 0x0402 | 0x0404..=0x04ff => "multimedia controller",
        0x0600 => "host bridge",
        0x0601 => "ISA bridge",
        0x0604 => "PCI bridge",
        0x0602..=0x0603 | 0x0605..=0x06ff => "bridge",
        0x0c03 => "USB controller",
        0x0c05 => "SMBus",
        0x0c80 => "serial bus controller",
        _ => "device",
    }
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
}

fn last_part(path: &str) -> Option<String> {
    path.trim_end_matches('/').rsplit('/').next().filter(|name| !name.is_empty()).map(str::to_string)
}

fn bars(resource: &str) -> Vec<Bar> {
    // Flag words differ between kernels, so only start and end count. Seven windows; what follows is of bridges and
    // VFs.
    resource
        .lines()
        .take(7)
        .enumerate()
        .filter_map(|(index, line)| {
            let mut words = line.split_whitespace().map(|w| u64::from_str_radix(w.trim_start_matches("0x"), 16).ok());
            let (start, end) = (words.next()??, words.next()??);
            (end > start).then(|| Bar { index, start, size: (end - start).saturating_add(1) })
        })
        .collect()
}

/// What a function says it is, and never changes.
#[derive(Debug, PartialEq, Eq)]
struct Numbers {
    class: u32,
    id: PciId,
    subsystem: Option<PciId>,
}

impl Numbers {
    /// From `uevent`, one file where there would be five (kernel: pci_uevent, drivers/pci/pci-driver.c); `None` when it
    /// does not say all.
    fn of(uevent: &str) -> Option<Numbers> {
        let value = |key: &str| uevent.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        Some(Numbers {
            class: hex(value("PCI_CLASS")?)?,
            id: value("PCI_ID")?.parse().ok()?,
            subsystem: Some(value("PCI_SUBSYS_ID")?.parse().ok()?),
        })
    }
}

fn short_id(vendor: u32, device: u32) -> PciId {
    PciId { vendor: (vendor & 0xffff) as u16, device: (device & 0xffff) as u16 }
}

/// Reads one function; `None` when there is none at this address.
///
/// # Errors
/// When the machine can't be read.
pub fn device<H: Host + ?Sized>(host: &H, address: PciAddress) -> Result<Option<Device>> {
    // The way there is followed once, and only what is there is asked for: much is not on older kernels.
    let folder = host.real_path(&address.folder())?;
    let names = host.list(&folder)?;
    let has = |name: &str| names.iter().any(|known| known == name);
    let file = |name: &str| if has(name) { host.read_line(&format!("{folder}/{name}")) } else { Ok(None) };
    let number = |name: &str| Ok(file(name)?.as_deref().and_then(hex));
    let link = |name: &str| match has(name) {
        true => Ok(host.read_link(&format!("{folder}/{name}"))?.as_deref().and_then(last_part)),
        false => Ok(None),
    };
    let uevent = if has("uevent") { host.read_text(&format!("{folder}/uevent"))? } else { None };
    let numbers = match Numbers::of(uevent.as_deref().unwrap_or_default()) {
        Some(numbers) => numbers,
        None => {
            let (Some(vendor), Some(id)) = (number("vendor")?, number("device")?) else { return Ok(None) };
            let subsystem = number("subsystem_vendor")?.zip(number("subsystem_device")?);
            Numbers {
                class: number("class")?.unwrap_or(0),
                id: short_id(vendor, id),
                subsystem: subsystem.map(|(vendor, device)| short_id(vendor, device)),
            }
        }
    };
    let decimal = |name: &str| Ok(file(name)?.and_then(|text| text.parse::<u32>().ok()));
    let driver_override = file("driver_override")?;
    let reset_methods =
        file("reset_method")?.map(|text| text.split_whitespace().map(str::to_string).collect::<Vec<String>>());
    let can_reset = match &reset_methods {
        Some(methods) => !methods.is_empty(),
        None => host.exists(&format!("{folder}/reset"))?,
    };
    let physfn: Option<String> = link("physfn")?;
    let group: Option<String> = link("iommu_group")?;
    Ok(Some(Device {
        address,
        class: numbers.class,
        id: numbers.id,
        subsystem: numbers.subsystem.filter(|id| id.vendor != 0),
        revision: number("revision")?.and_then(|n| u8::try_from(n).ok()),
        driver: link("driver")?,
        // An override that was never set reads `(null)`.
        driver_override: driver_override.clone().filter(|name| !name.is_empty() && name != "(null)"),
        can_override: driver_override.is_some(),
        numa_node: decimal("numa_node")?,
        local_cpus: file("local_cpulist")?.filter(|list| !list.is_empty()),
        boot_vga: file("boot_vga")?.map(|text| text == "1"),
        iommu_group: group.and_then(|number| number.parse().ok()),
        reset_methods,
        can_reset,
        bars: host.read_text(&format!("{folder}/resource"))?.as_deref().map(bars).unwrap_or_default(),
        physical_function: physfn.as_deref().and_then(PciAddress::parse_full),
        vfs_total: decimal("sriov_totalvfs")?.unwrap_or(0),
        vfs: decimal("sriov_numvfs")?.unwrap_or(0),
        interfaces: if has("net") { host.list(&format!("{folder}/net"))? } else { Vec::new() },
        real_path: folder,
    }))
}

/// Every PCI function, ordered by address.
///
/// # Errors
/// When the machine can't be read.
pub fn devices<H: Host + ?Sized>(host: &H) -> Result<Vec<Device>> {
    let mut found = Vec::new();
    for name in host.list(DEVICES)? {
        if let Some(address) = PciAddress::parse_full(&name) {
            found.extend(device(host, address)?);
        }
    }
    found.sort_by_key(|device| device.address);
    Ok(found)
}

/// The display that the firmware started with, where the kernel says so, or where there is only one display at all.
pub fn boot_display(devices: &[Device]) -> Option<&Device> {
    if let Some(marked) = devices.iter().find(|device| device.boot_vga == Some(true)) {
        return Some(marked);
    }
    let mut displays = devices.iter().filter(|device| device.class16() == 0x0300);
    match (displays.next(), displays.next()) {
        (Some(only), None) if only.boot_vga.is_none() => Some(only),
        _ => None,
    }
}

/// The `pci` part of the facts: one mapping a function, keyed by its address.
///
/// # Errors
/// When the machine can't be read.
pub fn gather<H: Host + ?Sized>(host: &H) -> Result<Value> {
    let all = devices(host)?;
    let boot = boot_display(&all).map(|device| device.address.to_string());
    let mut by_address = serde_json::Map::new();
    for device in &all {
        let value = json!({
            "class": format!("0x{:06x}", device.class),
            "class_name": class_name(device.class),
            "id": device.id,
            "vendor": format!("{:04x}", device.id.vendor),
            "device": format!("{:04x}", device.id.device),
            "subsystem": device.subsystem,
            "revision": device.revision.map(|r| format!("{r:02x}")),
            "driver": device.driver,
            "driver_override": device.driver_override,
            "numa_node": device.numa_node,
            "local_cpus": device.local_cpus,
            "boot_vga": device.boot_vga,
            "iommu_group": device.iommu_group,
            "reset_methods": device.reset_methods,
            "bars": device.bars.iter().map(|bar| json!({"index": bar.index, "size": bar.size})).collect::<Vec<_>>(),
            "physical_function": device.physical_function,
            "vfs": device.vfs,
            "vfs_total": device.vfs_total,
            "interfaces": device.interfaces,
        });
        by_address.insert(device.address.to_string(), value);
    }
    let displays: Vec<String> = all.iter().filter(|d| d.is_display()).map(|d| d.address.to_string()).collect();
    Ok(json!({"devices": by_address, "displays": displays, "boot_display": boot}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_file_says_as_much_as_five() {
        let uevent =
            "DRIVER=nouveau\nPCI_CLASS=30000\nPCI_ID=10DE:1430\nPCI_SUBSYS_ID=10DE:1190\nPCI_SLOT_NAME=0000:82:00.0\n";
        let folder = "/sys/bus/pci/devices/0000:82:00.0";
        let files = [("class", "0x030000\n"), ("vendor", "0x10de\n"), ("device", "0x1430\n")];
        let more = [("subsystem_vendor", "0x10de\n"), ("subsystem_device", "0x1190\n")];
        let place = |name: &str| format!("{folder}/{name}");
        let slow: Vec<(String, &str)> = files.iter().chain(&more).map(|(name, text)| (place(name), *text)).collect();
        // A file that contradicts shows that it was not asked.
        let fast = vec![(place("uevent"), uevent), (place("class"), "0x060000\n")];
        let half = vec![(place("uevent"), "PCI_ID=1:2\n")].into_iter().chain(slow.clone()).collect::<Vec<_>>();
        let read = |files: &[(String, &str)]| {
            let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), *text)).collect();
            let found = device(&machine(&files), "82:00.0".parse().unwrap()).unwrap().unwrap();
            (found.class, found.id.to_string(), found.subsystem.map(|id| id.to_string()))
        };
        let all = (0x030000, "10de:1430".to_string(), Some("10de:1190".to_string()));
        assert_eq!(read(&slow), all);
        assert_eq!(read(&fast), all);
        assert_eq!(read(&half), all);
    }
    use crate::host::overlay::testing::machine;
    use proptest::prelude::*;

    #[test]
    fn short_full_and_wide_addresses() {
        let show = |text: &str| text.parse::<PciAddress>().map(|a| a.to_string());
        assert_eq!(show("82:00.0").as_deref(), Ok("0000:82:00.0"));
        assert_eq!(show(" 0000:82:1f.7 ").as_deref(), Ok("0000:82:1f.7"));
        assert_eq!(show("10000:E1:00.0").as_deref(), Ok("10000:e1:00.0"));
        assert_eq!(show("fffffffe:00:00.0").as_deref(), Ok("fffffffe:00:00.0"));
        for wrong in ["", "82:00", "82:20.0", "82:00.8", "0000:82:00.0.0", "123456789:82:00.0", "g2:00.0", "+2:00.0"] {
            assert!(show(wrong).is_err_and(|e| e.contains("is not a PCI address")), "{wrong}");
        }
    }

    #[test]
    fn ids_with_and_without_prefix() {
        assert_eq!("10de:1430".parse::<PciId>().map(|id| id.to_string()).as_deref(), Ok("10de:1430"));
        assert_eq!("0x10DE:0xfba".parse::<PciId>().map(|id| id.to_string()).as_deref(), Ok("10de:0fba"));
        for wrong in ["10de", "10de:1430:1", "10de1:1", ":", "10de:", "+10:1"] {
            assert!(wrong.parse::<PciId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_old_kernel_says_little_and_that_is_no_error() {
        let machine = machine(&[
            ("/sys/bus/pci/devices/0000:82:00.0/vendor", "0x10de\n"),
            ("/sys/bus/pci/devices/0000:82:00.0/device", "0x1430\n"),
            ("/sys/bus/pci/devices/0000:82:00.0/class", "0x030000\n"),
            ("/sys/bus/pci/devices/0000:82:00.0/numa_node", "-1\n"),
        ]);
        let all = devices(&machine).unwrap();
        let card = all.first().unwrap();
        assert_eq!((card.can_override, card.boot_vga, card.numa_node, card.revision), (false, None, None, None));
        assert_eq!(boot_display(&all), Some(card), "the only display is the one the machine starts with");
    }

    #[test]
    fn sizes_come_from_the_addresses() {
        let text = "0x00000000f8000000 0x00000000f8ffffff 0x0000000000040200\n\
                    0x00000000a0000000 0x00000000afffffff 0x000000000014220c\n\
                    0x0000000000000000 0x0000000000000000 0x0000000000000000\nnonsense\n";
        let sizes: Vec<(usize, u64)> = bars(text).iter().map(|bar| (bar.index, bar.size)).collect();
        assert_eq!(sizes, [(0, 16 << 20), (1, 256 << 20)]);
    }

    proptest! {
        #[test]
        fn any_address_survives_a_round_trip(domain: u32, bus: u8, slot in 0u8..32, function in 0u8..8) {
            let address = PciAddress { domain, bus, slot, function };
            prop_assert_eq!(address.to_string().parse::<PciAddress>(), Ok(address));
            prop_assert_eq!(PciAddress::parse_full(&address.to_string()), Some(address));
        }

        #[test]
        fn any_id_survives_a_round_trip(vendor: u16, device: u16) {
            let id = PciId { vendor, device };
            prop_assert_eq!(id.to_string().parse::<PciId>(), Ok(id));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC{0,24}", near in "[0-9a-fx:. ]{0,20}") {
            for text in [text, near] {
                if let Ok(address) = text.parse::<PciAddress>() {
                    prop_assert_eq!(address.to_string().parse::<PciAddress>(), Ok(address));
                }
                let _ = text.parse::<PciId>();
                let _ = PciAddress::parse_full(&text);
                let _ = bars(&text);
            }
        }
    }
}
