//! Which devices a task means.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use crate::facts::pci::{self, Device, PciAddress, PciId};
use crate::host::{Error, Result};
use crate::modules::params::{Flag, Text};

/// Devices by what they are; every key given must fit.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// One function by its address, quoted: "0000:82:00.0".
    pub address: Option<Text>,
    /// Vendor and device number, quoted: "10de:1430".
    pub id: Option<Text>,
    /// `nvidia`, `amd`, `intel`, or the number: "10de".
    pub vendor: Option<Text>,
    /// `display`, `audio`, `usb`, `network`, `storage`, or the number of class or class and subclass: "0x0300".
    pub class: Option<Text>,
    /// Leaves out the display that the firmware starts with.
    #[serde(default)]
    pub not_boot_display: Flag,
    /// Only devices near this NUMA node.
    pub numa_node: Option<u32>,
}

/// One entry of `devices`: an address or an id as a string, or a selector.
#[derive(Clone, Debug)]
pub struct Target(pub Selector);

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Target, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Target;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a PCI address such as \"0000:82:00.0\", an id such as \"10de:1430\", or a mapping")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<Target, E> {
                let text = text.trim();
                let selector = if text.len() == "10de:1430".len() && text.parse::<PciId>().is_ok() {
                    Selector { id: Some(Text(text.to_string())), ..Selector::default() }
                } else {
                    text.parse::<PciAddress>().map_err(E::custom)?;
                    Selector { address: Some(Text(text.to_string())), ..Selector::default() }
                };
                Ok(Target(selector))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> std::result::Result<Target, E> {
                Err(number_error(number))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> std::result::Result<Target, E> {
                Err(number_error(number))
            }
            fn visit_f64<E: de::Error>(self, number: f64) -> std::result::Result<Target, E> {
                Err(number_error(number))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> std::result::Result<Target, A::Error> {
                let selector = Selector::deserialize(de::value::MapAccessDeserializer::new(map))?;
                selector.validate().map_err(de::Error::custom)?;
                Ok(Target(selector))
            }
        }
        deserializer.deserialize_any(V)
    }
}

fn number_error<E: de::Error>(number: impl fmt::Display) -> E {
    E::custom(format!(
        "the device is the number {number}: YAML reads an address such as 82:00.0 as a number of base 60, so put it in \
         quotes, \"0000:82:00.0\""
    ))
}

impl JsonSchema for Target {
    fn schema_name() -> Cow<'static, str> {
        "Device".into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let selector = generator.subschema_for::<Selector>();
        json_schema!({"anyOf": [{"type": "string", "description": "A PCI address or a vendor:device id, in \
         quotes"}, selector]})
    }
}

impl Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

fn vendor_number(text: &str) -> std::result::Result<u16, String> {
    match text.to_lowercase().as_str() {
        "nvidia" => Ok(0x10de),
        "amd" | "ati" => Ok(0x1002),
        "intel" => Ok(0x8086),
        other => u16::from_str_radix(other.trim_start_matches("0x"), 16).map_err(|_| {
            format!("`{text}` is not a vendor: write nvidia, amd, intel, or the number in quotes, such as \"10de\"")
        }),
    }
}

/// How a class is written: value and mask over the 24 bits of class, subclass and interface.
fn class_mask(text: &str) -> std::result::Result<(u32, u32), String> {
    let named = match text.to_lowercase().as_str() {
        "display" | "vga" | "gpu" => Some((0x03_0000, 0xff_0000)),
        "audio" | "sound" => Some((0x04_0300, 0xff_ff00)),
        "usb" => Some((0x0c_0300, 0xff_ff00)),
        "network" => Some((0x02_0000, 0xff_0000)),
        "storage" => Some((0x01_0000, 0xff_0000)),
        _ => None,
    };
    if let Some(named) = named {
        return Ok(named);
    }
    let digits = text.trim().trim_start_matches("0x");
    let number = u32::from_str_radix(digits, 16).ok();
    match (digits.len(), number) {
        (2, Some(n)) => Ok((n << 16, 0xff_0000)),
        (4, Some(n)) => Ok((n << 8, 0xff_ff00)),
        (6, Some(n)) => Ok((n, 0xff_ffff)),
        _ => Err(format!(
            "`{text}` is not a class: write display, audio, usb, network, storage, or the number in quotes, such as \
             \"0x0300\""
        )),
    }
}

impl Selector {
    fn validate(&self) -> std::result::Result<(), String> {
        if let Some(text) = &self.address {
            text.parse::<PciAddress>()?;
        }
        if let Some(text) = &self.id {
            text.parse::<PciId>()?;
        }
        if let Some(text) = &self.vendor {
            vendor_number(text)?;
        }
        if let Some(text) = &self.class {
            class_mask(text)?;
        }
        if self.address.is_none() && self.id.is_none() && self.vendor.is_none() && self.class.is_none() {
            return Err("say which devices: give at least one of address, id, vendor, class".into());
        }
        Ok(())
    }

    fn fits(&self, device: &Device, boot: Option<PciAddress>) -> std::result::Result<bool, String> {
        let address = self.address.as_ref().map(|text| text.parse::<PciAddress>()).transpose()?;
        let id = self.id.as_ref().map(|text| text.parse::<PciId>()).transpose()?;
        let vendor = self.vendor.as_ref().map(|text| vendor_number(text)).transpose()?;
        let class = self.class.as_ref().map(|text| class_mask(text)).transpose()?;
        Ok(address.is_none_or(|wanted| wanted == device.address)
            && id.is_none_or(|wanted| wanted == device.id)
            && vendor.is_none_or(|wanted| wanted == device.id.vendor)
            && class.is_none_or(|(value, mask)| device.class & mask == value & mask)
            && self.numa_node.is_none_or(|wanted| device.numa_node == Some(wanted))
            && !(self.not_boot_display.0 && boot == Some(device.address)))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        for (key, value) in
            [("address", &self.address), ("id", &self.id), ("vendor", &self.vendor), ("class", &self.class)]
        {
            if let Some(value) = value {
                parts.push(format!("{key} {}", value.0));
            }
        }
        if self.not_boot_display.0 {
            parts.push("not the boot display".into());
        }
        if let Some(node) = self.numa_node {
            parts.push(format!("NUMA node {node}"));
        }
        f.write_str(&parts.join(", "))
    }
}

/// The functions that a task means, and the ones that join because they sit on the same card.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Everything to be given to vfio-pci.
    pub targets: BTreeSet<PciAddress>,
    /// Those of them that nobody named: other functions of the same card.
    pub joined: BTreeSet<PciAddress>,
}

/// Finds the devices; bridges are never meant by a selector.
///
/// # Errors
/// A refusal where an address does not exist or a selector fits nothing.
pub fn select(wanted: &[Target], all: &[Device], whole_cards: bool) -> Result<Selection> {
    let boot = pci::boot_display(all).map(|device| device.address);
    let mut named = BTreeSet::new();
    for Target(selector) in wanted {
        let exact = selector.address.is_some();
        let mut found = false;
        for device in all.iter().filter(|device| exact || !device.is_bridge()) {
            if selector.fits(device, boot).map_err(Error::parameters)? {
                named.insert(device.address);
                found = true;
            }
        }
        if !found {
            return Err(nothing_fits(selector, all));
        }
    }
    let mut selection = Selection { targets: named.clone(), joined: BTreeSet::new() };
    if whole_cards {
        for device in all.iter().filter(|device| !device.is_bridge() && !named.contains(&device.address)) {
            // Virtual functions share the slot numbers of their card, but each is a device of its own.
            let card = named.iter().any(|target| target.same_card(&device.address));
            let virtual_target = all.iter().any(|d| {
                d.physical_function.is_some() && named.contains(&d.address) && d.address.same_card(&device.address)
            });
            if card && !virtual_target && device.physical_function.is_none() {
                selection.joined.insert(device.address);
            }
        }
        selection.targets.extend(&selection.joined);
    }
    Ok(selection)
}

fn nothing_fits(selector: &Selector, all: &[Device]) -> Error {
    if let Some(address) = selector.address.as_ref().and_then(|text| text.parse::<PciAddress>().ok())
        && !all.iter().any(|device| device.address == address)
    {
        let shown = address.to_string();
        let nearest = all
            .iter()
            .filter(|device| !device.is_bridge())
            .min_by_key(|device| (strsim::levenshtein(&shown, &device.address.to_string()), device.address));
        let hint = match nearest {
            Some(device) => format!("the nearest is {}; `lspci -D` lists all", device.describe()),
            None => "sysfs lists no PCI devices at all on this machine".into(),
        };
        return Error::refused(format!("there is no PCI device {address} on this machine")).hint(hint);
    }
    let displays: Vec<String> = all.iter().filter(|device| device.is_display()).map(Device::describe).collect();
    let hint = if displays.is_empty() {
        "this machine has no display controller; `lspci -Dnn` lists what it has".to_string()
    } else {
        format!("the displays here are {}; `lspci -Dnn` lists all", displays.join(", "))
    };
    Error::refused(format!("no device of this machine fits `{selector}`")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn addresses_ids_and_mappings() {
        let read = |value| serde_json::from_value::<Target>(value).map(|t| t.0.to_string()).map_err(|e| e.to_string());
        assert_eq!(read(json!("82:00.0")).as_deref(), Ok("address 82:00.0"));
        assert_eq!(read(json!("10de:1430")).as_deref(), Ok("id 10de:1430"));
        assert_eq!(read(json!({"vendor": "nvidia", "class": "0x0300"})).as_deref(), Ok("vendor nvidia, class 0x0300"));
        assert!(read(json!(4920.0)).is_err_and(|e| e.contains("base 60")));
        assert!(read(json!({"not_boot_display": true})).is_err_and(|e| e.contains("at least one of")));
        assert!(read(json!({"vendor": "nvidea"})).is_err_and(|e| e.contains("is not a vendor")));
        assert!(read(json!({"class": "3d"})).is_ok(), "two hex digits are a base class");
        assert!(read(json!({"clas": "display"})).is_err_and(|e| e.contains("unknown field `clas`")));
        assert!(read(json!("82:00")).is_err(), "a bus and a slot are not enough");
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,16}", key in "address|id|vendor|class") {
            let _ = serde_json::from_value::<Target>(json!(text));
            let _ = serde_json::from_value::<Target>(json!({key: text}));
        }
    }
}
