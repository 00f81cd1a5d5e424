//! Values that libvirt and people write in several ways, and types for parameters that have a short form.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, DeserializeOwned, Deserializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::modules::read::read;

/// An amount of memory or storage in bytes, written with its unit: `16 GiB`, `512 MiB`, `16777216 KiB`, `20G`.
///
/// A bare number is refused: libvirt would take it for KiB, most people for MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Size(pub u64);

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// How many bytes a unit has, as libvirt's documentation defines them (`K` and `KiB` are 1024, `KB` is 1000).
pub fn unit(name: &str) -> Option<u64> {
    Some(match name.to_ascii_lowercase().as_str() {
        "b" | "byte" | "bytes" => 1,
        "k" | "kib" => KIB,
        "m" | "mib" => MIB,
        "g" | "gib" => GIB,
        "t" | "tib" => TIB,
        "kb" => 1000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    })
}

impl Size {
    /// Reads a size; the error is for people.
    ///
    /// # Errors
    /// When there is no number, no unit, an unknown unit, or too much of it.
    pub fn parse(text: &str) -> Result<Size, String> {
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, name) = (&text[..end], text[end..].trim());
        if name.is_empty() && !number.is_empty() {
            return Err(format!("`{text}` has no unit: write for example \"{text} MiB\" or \"{text} GiB\""));
        }
        let factor = unit(name).ok_or_else(|| format!("`{text}` is not a size: write for example \"16 GiB\""))?;
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let wrong = || format!("`{text}` is not a size: write for example \"16 GiB\"");
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let mut bytes = whole.checked_mul(factor).ok_or_else(|| format!("`{text}` is more than any machine has"))?;
        if number.contains('.') {
            let digits = u32::try_from(part.len()).map_err(|_| wrong())?;
            let scale = 10u64.checked_pow(digits).ok_or_else(wrong)?;
            let part: u64 = part.parse().map_err(|_| wrong())?;
            let product = u128::from(part) * u128::from(factor);
            if product % u128::from(scale) != 0 {
                return Err(format!("`{text}` is not a whole number of bytes"));
            }
            let part = u64::try_from(product / u128::from(scale)).map_err(|_| wrong())?;
            bytes = bytes.checked_add(part).ok_or_else(wrong)?;
        }
        Ok(Size(bytes))
    }

    /// In KiB, rounded up, as libvirt counts memory.
    pub fn kib(self) -> u64 {
        self.0.div_ceil(KIB)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (factor, name) in [(TIB, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")] {
            if self.0 != 0 && self.0.is_multiple_of(factor) {
                return write!(f, "{} {name}", self.0 / factor);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Size, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Size::parse(&text).map_err(de::Error::custom),
            other => {
                Err(de::Error::custom(format!("{other} has no unit: write for example \"16 GiB\" or \"512 MiB\"")))
            }
        }
    }
}

impl JsonSchema for Size {
    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "description": "A size with its unit: \"16 GiB\", \"512 MiB\""})
    }
}

/// Something that can be written as one string, for the usual case, or as a map.
pub trait FromShort: DeserializeOwned + JsonSchema {
    /// What the string means.
    ///
    /// # Errors
    /// For people: what is wrong with it.
    fn from_short(text: &str) -> Result<Self, String>;

    /// May `true` and `false` stand for it?
    const FLAG: bool = false;

    /// What a truth value means, where one may stand for it.
    fn from_flag(_flag: bool) -> Option<Self> {
        None
    }
}

/// A `T` in its short or long form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Short<T>(pub T);

impl<T> std::ops::Deref for Short<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<'de, T: FromShort> Deserialize<'de> for Short<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Parameters are always JSON values by the time they come here, so going through one loses nothing.
        match Value::deserialize(deserializer)? {
            Value::String(text) if T::FLAG => match text.as_str() {
                // Templates make strings of truth values.
                "true" | "yes" | "on" => T::from_flag(true).map(Short).ok_or_else(|| neither(&text)),
                "false" | "no" | "off" => T::from_flag(false).map(Short).ok_or_else(|| neither(&text)),
                text => T::from_short(text).map(Short).map_err(de::Error::custom),
            },
            Value::String(text) => T::from_short(&text).map(Short).map_err(de::Error::custom),
            Value::Bool(flag) if T::FLAG => T::from_flag(flag).map(Short).ok_or_else(|| neither(&flag)),
            map @ Value::Object(_) => read(map).map(Short).map_err(|wrong| de::Error::custom(wrong.error)),
            other => Err(neither(&other)),
        }
    }
}

fn neither<E: de::Error>(value: &dyn fmt::Display) -> E {
    E::custom(format!("{value} is neither a string nor a map (put it in quotes if YAML took it for a number)"))
}

impl<T: FromShort> JsonSchema for Short<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("Short_{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let long = generator.subschema_for::<T>();
        match T::FLAG {
            true => json_schema!({"anyOf": [{"type": "string"}, {"type": "boolean"}, long]}),
            false => json_schema!({"anyOf": [{"type": "string"}, long]}),
        }
    }
}

/// The address of a PCI device on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// Domain (segment); 0 on most machines. VMD makes ones above 0xffff.
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Slot, at most 0x1f.
    pub slot: u8,
    /// Function, at most 7.
    pub function: u8,
}

impl PciAddress {
    /// Reads `0000:82:00.0` or `82:00.0`, hexadecimal as lspci prints it.
    ///
    /// # Errors
    /// For people: what is wrong with it.
    pub fn parse(text: &str) -> Result<PciAddress, String> {
        let wrong =
            || format!("`{text}` is not a PCI address: write it as lspci -D prints it, such as \"0000:82:00.0\"");
        let number = |digits: &str, most: usize| {
            let fine = !digits.is_empty() && digits.len() <= most && digits.bytes().all(|b| b.is_ascii_hexdigit());
            if fine { u32::from_str_radix(digits, 16).map_err(|_| wrong()) } else { Err(wrong()) }
        };
        let (rest, function) = text.trim().rsplit_once('.').ok_or_else(wrong)?;
        let (rest, slot) = rest.rsplit_once(':').ok_or_else(wrong)?;
        let (domain, bus) = rest.rsplit_once(':').unwrap_or(("0", rest));
        let address = PciAddress {
            domain: number(domain, 8)?,
            bus: u8::try_from(number(bus, 2)?).map_err(|_| wrong())?,
            slot: u8::try_from(number(slot, 2)?).map_err(|_| wrong())?,
            function: u8::try_from(number(function, 1)?).map_err(|_| wrong())?,
        };
        if address.slot > 0x1f || address.function > 7 { Err(wrong()) } else { Ok(address) }
    }

    /// Are these functions of one card?
    pub fn same_card(&self, other: &PciAddress) -> bool {
        (self.domain, self.bus, self.slot) == (other.domain, other.bus, other.slot)
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.slot, self.function)
    }
}

/// A number as libvirt reads it in XML: `0x82`, `130`, and octal with a leading zero (strtoul, base 0).
pub fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok();
    }
    match text.strip_prefix('0') {
        Some(octal) if !octal.is_empty() => u64::from_str_radix(octal, 8).ok(),
        _ if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("16 GiB", 16 * GIB),
            ("16GiB", 16 * GIB),
            ("16777216 KiB", 16 * GIB),
            ("16384M", 16 * GIB),
            ("1.5 GiB", 1536 * MIB),
            ("1 MB", 1_000_000),
        ] {
            assert_eq!(Size::parse(text), Ok(Size(bytes)), "{text}");
        }
        assert!(Size::parse("16384").unwrap_err().contains("no unit"));
        for wrong in ["", "GiB", "x GiB", "1.2.3 GiB", "1. GiB", "-1 GiB", "99999999999999 TiB", "16 Gib/s", "0.3 b"] {
            assert!(Size::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Size(16 * GIB).to_string(), "16 GiB");
        assert_eq!(Size(1537 * MIB).to_string(), "1537 MiB");
    }

    #[test]
    fn pci_addresses_are_hexadecimal() {
        let gpu = PciAddress::parse("82:00.0").unwrap();
        assert_eq!(gpu, PciAddress { domain: 0, bus: 0x82, slot: 0, function: 0 });
        assert_eq!(gpu.to_string(), "0000:82:00.0");
        assert_eq!(PciAddress::parse("10000:01:1f.7").map(|a| a.to_string()), Ok("10000:01:1f.7".to_string()));
        for wrong in
            ["", "82", "82:00", "0000:82:20.0", "0000:82:00.8", "0000:182:00.0", "g0:00.0", "10de:1430", "+1:00.0"]
        {
            assert!(PciAddress::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn numbers_as_strtoul_reads_them() {
        assert_eq!(number("0x0082"), Some(130));
        assert_eq!(number("130"), Some(130));
        assert_eq!(number("010"), Some(8));
        assert_eq!(number("0"), Some(0));
        assert_eq!(number("1.2"), None);
        assert_eq!(number(""), None);
    }
}
