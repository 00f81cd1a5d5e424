//! Devices of the host that are given to the guest.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::modules::libvirt::values::{FromShort, PciAddress, number};
use crate::modules::params::{Flag, Text, yes};

/// A graphics card of the host, with all its functions: by `address`, by `id`, or by what else is true of one card only.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// The address of one of its functions, quoted: "0000:82:00.0".
    pub address: Option<Address>,
    /// Vendor and device number, quoted: "10de:1430".
    pub id: Option<Text>,
    /// `nvidia`, `amd`, `intel`, or the number: "10de". Displays are meant, unless `class` says otherwise.
    pub vendor: Option<Text>,
    /// `display`, `audio`, `usb`, `network`, `storage`, or a number such as "0x0302".
    pub class: Option<Text>,
    /// Not the display that the firmware starts with.
    #[serde(default)]
    pub not_boot_display: Flag,
    /// Only a card near this NUMA node.
    pub numa_node: Option<u32>,
    /// Only these functions of the card, by their numbers, such as [0, 1]. All that the machine's card has by default.
    #[serde(default)]
    pub functions: Vec<u8>,
    /// Where the guest sees the card: bus and slot, such as "05:00". A place that is free is chosen for a new card with
    /// several functions; a card that the guest has already stays where it is.
    pub guest_slot: Option<Text>,
    /// libvirt takes the card from its driver at start and gives it back afterwards. Yes by default.
    #[serde(default = "yes")]
    pub managed: Flag,
    /// A file with the card's ROM.
    pub rom_file: Option<String>,
    /// Does the guest see the card's ROM?
    pub rom_bar: Option<Flag>,
    /// Place in the boot order of devices, from 1.
    pub boot: Option<u32>,
    /// More of libvirt's XML: elements as they stand inside the `<hostdev>` of the card's first function.
    pub xml: Option<String>,
}

impl FromShort for Gpu {
    fn from_short(text: &str) -> Result<Gpu, String> {
        let text = text.trim();
        let mut gpu = Gpu { managed: yes(), ..Gpu::default() };
        match PciAddress::parse(text) {
            Ok(address) => gpu.address = Some(Address(address)),
            Err(_) if ["nvidia", "amd", "intel"].contains(&text) => gpu.vendor = Some(Text(text.to_string())),
            Err(_) if text.parse::<crate::facts::pci::PciId>().is_ok() => gpu.id = Some(Text(text.to_string())),
            Err(_) => {
                return Err(format!(
                    "`{text}` names no card: write its address (\"0000:82:00.0\"), its id (\"10de:1430\") or its vendor (nvidia)"
                ));
            }
        }
        Ok(gpu)
    }
}

/// A PCI device of the host.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pci {
    /// Its address, such as "0000:82:00.0".
    pub address: Address,
    /// libvirt takes the device from its driver at start and gives it back afterwards. Yes by default.
    #[serde(default = "yes")]
    pub managed: Flag,
    /// A file with the card's ROM.
    pub rom_file: Option<String>,
    /// Does the guest see the card's ROM?
    pub rom_bar: Option<Flag>,
    /// Place in the boot order of devices, from 1.
    pub boot: Option<u32>,
    /// More of libvirt's XML: elements as they stand inside `<hostdev>`, such as its guest `<address>`.
    pub xml: Option<String>,
}

impl FromShort for Pci {
    fn from_short(text: &str) -> Result<Pci, String> {
        let address = Address(PciAddress::parse(text)?);
        Ok(Pci { address, managed: yes(), rom_file: None, rom_bar: None, boot: None, xml: None })
    }
}

/// A PCI address as a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address(pub PciAddress);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Address, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => PciAddress::parse(&text).map(Address).map_err(serde::de::Error::custom),
            other => Err(serde::de::Error::custom(format!(
                "{other} is not a PCI address: put it in quotes, such as \"0000:82:00.0\""
            ))),
        }
    }
}

impl JsonSchema for Address {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "PciAddress".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^([0-9a-fA-F]{1,8}:)?[0-9a-fA-F]{1,2}:[01]?[0-9a-fA-F]\\.[0-7]$",
            "description": "A PCI address in quotes, such as \"0000:82:00.0\""
        })
    }
}

/// A USB device of the host: `vendor` and `product`, or `bus` and `device`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Usb {
    /// Vendor id, four hexadecimal digits in quotes.
    pub vendor: Option<Text>,
    /// Product id, four hexadecimal digits in quotes.
    pub product: Option<Text>,
    /// Bus number, as lsusb prints it.
    pub bus: Option<u32>,
    /// Device number on that bus; changes whenever it is plugged in.
    pub device: Option<u32>,
    /// `mandatory`, `requisite` or `optional`: may the guest start without it?
    pub startup_policy: Option<String>,
    /// libvirt manages it. Yes by default.
    #[serde(default = "yes")]
    pub managed: Flag,
    /// Place in the boot order of devices, from 1.
    pub boot: Option<u32>,
    /// More of libvirt's XML: elements as they stand inside `<hostdev>`.
    pub xml: Option<String>,
}

/// Reads the id of a USB vendor or product: hexadecimal, with or without `0x`.
///
/// # Errors
/// For people: what is wrong with it.
pub fn usb_id(text: &str) -> Result<u16, String> {
    let wrong = || format!("`{text}` is not a USB id: write four hexadecimal digits in quotes, such as \"046d\"");
    let digits = text.strip_prefix("0x").unwrap_or(text);
    if digits.is_empty() || digits.len() > 4 || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(wrong());
    }
    number(&format!("0x{digits}")).and_then(|n| u16::try_from(n).ok()).ok_or_else(wrong)
}

impl FromShort for Usb {
    fn from_short(text: &str) -> Result<Usb, String> {
        let (vendor, product) = text.split_once(':').ok_or_else(|| {
            format!("`{text}` is not a USB device: write \"vendor:product\" as lsusb prints it, such as \"046d:c52b\"")
        })?;
        usb_id(vendor)?;
        usb_id(product)?;
        Ok(Usb {
            vendor: Some(Text(vendor.to_string())),
            product: Some(Text(product.to_string())),
            managed: yes(),
            ..Usb::default()
        })
    }
}

/// A mediated device: a part of a card that its driver lent out.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mdev {
    /// Its UUID, as below /sys/bus/mdev/devices.
    pub uuid: String,
    /// `vfio-pci` (default), `vfio-ccw` or `vfio-ap`.
    pub model: Option<String>,
    /// Does it serve as the guest's display?
    pub display: Option<Flag>,
    /// And does it show something before its driver is loaded?
    pub ramfb: Option<Flag>,
    /// More of libvirt's XML: elements as they stand inside `<hostdev>`.
    pub xml: Option<String>,
}

impl FromShort for Mdev {
    fn from_short(text: &str) -> Result<Mdev, String> {
        Ok(Mdev { uuid: text.to_string(), ..Mdev::default() })
    }
}
