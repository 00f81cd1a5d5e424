//! When two ways of writing mean the same to libvirt.

use crate::modules::libvirt::values::{Size, number, unit};
use crate::modules::libvirt::xml::Element;

/// Do two values of this attribute mean the same?
pub fn same_attribute(element: &str, attribute: &str, wanted: &str, current: &str) -> bool {
    let (wanted, current) = (wanted.trim(), current.trim());
    if wanted == current {
        return true;
    }
    match (element, attribute) {
        ("type", "machine") => same_machine(wanted, current),
        ("mac", "address") => wanted.eq_ignore_ascii_case(current),
        (_, "cpuset" | "nodeset" | "cpus" | "hostNodes") => {
            let (wanted, current) = (cpu_set(wanted), cpu_set(current));
            wanted.is_some() && wanted == current
        }
        _ => {
            let numbers = (number(wanted), number(current));
            matches!(numbers, (Some(a), Some(b)) if a == b)
                || (truth(wanted).is_some() && truth(wanted) == truth(current))
        }
    }
}

fn truth(text: &str) -> Option<bool> {
    match text {
        "yes" | "on" => Some(true),
        "no" | "off" => Some(false),
        _ => None,
    }
}

/// `pc` and `q35` are names for the newest version a QEMU has; libvirt writes the version into the domain when it is
/// defined, and the domain keeps it for ever. So a version of the family is what the alias asked for.
pub fn same_machine(wanted: &str, current: &str) -> bool {
    wanted == current
        || match wanted {
            "pc" => current.starts_with("pc-i440fx-"),
            "q35" => current.starts_with("pc-q35-"),
            "virt" => current.starts_with("virt-"),
            _ => false,
        }
}

/// `0-3,^2,8` as libvirt reads it.
pub fn cpu_set(text: &str) -> Option<std::collections::BTreeSet<u32>> {
    /// More CPUs than this are nobody's; a range beyond it is not worth the memory.
    const MOST: u32 = 65536;
    let mut set = std::collections::BTreeSet::new();
    for part in text.split(',').map(str::trim) {
        if let Some(not) = part.strip_prefix('^') {
            set.remove(&not.parse().ok()?);
            continue;
        }
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        if last > MOST || first > last {
            return None;
        }
        set.extend(first..=last);
    }
    Some(set)
}

/// Is this what libvirt means when the attribute is missing, so that it may leave it out when printing?
pub fn is_default(element: &str, attribute: &str, value: &str) -> bool {
    value == "default"
        || matches!(
            (element, attribute, value),
            ("disk", "device", "disk")
                | ("vcpu", "placement", "static")
                | ("loader", "secure", "no")
                | ("loader" | "nvram", "format", "raw")
                | ("nvram", "templateFormat", "raw")
                | ("address", "multifunction", "off")
                | ("rom", "bar", "on")
                | ("controller", "index", "0")
                | ("timer", "present", "yes")
                | ("cpu", "match", "exact")
                | ("model", "primary", "no")
        )
        || (element == "address" && attribute == "domain" && number(value) == Some(0))
}

/// The amount an element such as `<memory unit='GiB'>16</memory>` or `<page size='1' unit='G'/>` states.
pub fn amount(element: &Element) -> Option<Size> {
    let count = match element.name.as_str() {
        "memory" | "currentMemory" | "maxMemory" => element.text(),
        "page" => element.attribute("size")?.to_string(),
        _ if element.attribute("unit").is_some() => element.text(),
        _ => return None,
    };
    // libvirt's default unit is KiB for all of these.
    let factor = unit(element.attribute("unit").unwrap_or("KiB"))?;
    count.parse::<u64>().ok()?.checked_mul(factor).map(Size)
}

/// Do two texts of an element mean the same?
pub fn same_text(element: &str, wanted: &str, current: &str) -> bool {
    let (wanted, current) = (wanted.trim(), current.trim());
    wanted == current
        || (element == "uuid" && wanted.replace('-', "").eq_ignore_ascii_case(&current.replace('-', "")))
        || (matches!(element, "vcpu" | "iothreads") && number(wanted).is_some() && number(wanted) == number(current))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::libvirt::xml::parse;

    #[test]
    fn the_same_in_other_words() {
        for (element, attribute, wanted, current, same) in [
            ("address", "bus", "0x82", "0x0082", true),
            ("address", "bus", "130", "0x82", true),
            ("address", "bus", "0x82", "82", false),
            ("type", "machine", "pc", "pc-i440fx-7.2", true),
            ("type", "machine", "pc", "pc-i440fx-rhel7.6.0", true),
            ("type", "machine", "pc", "pc-q35-7.2", false),
            ("type", "machine", "pc-i440fx-7.1", "pc-i440fx-7.2", false),
            ("mac", "address", "52:54:00:AB:00:01", "52:54:00:ab:00:01", true),
            ("vcpu", "cpuset", "0-3,8", "0,1,2,3,8", true),
            ("vcpu", "cpuset", "0-3,^2", "0,1,3", true),
            ("vcpu", "cpuset", "0-3", "0-4", false),
            ("smm", "state", "on", "yes", true),
            ("smm", "state", "on", "off", false),
            ("driver", "cache", "none", "writeback", false),
        ] {
            assert_eq!(same_attribute(element, attribute, wanted, current), same, "{attribute} {wanted} {current}");
        }
    }

    #[test]
    fn amounts_are_bytes() {
        let bytes = |text: &str| amount(&parse(text).unwrap()).map(|size| size.0);
        assert_eq!(bytes("<memory>16777216</memory>"), Some(16 << 30));
        assert_eq!(bytes("<memory unit='GiB'>16</memory>"), Some(16 << 30));
        assert_eq!(bytes("<page size='1' unit='G'/>"), Some(1 << 30));
        assert_eq!(bytes("<vcpu>4</vcpu>"), None);
        assert_eq!(bytes("<memory unit='x'>1</memory>"), None);
    }
}
