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
        ("mac", "address") | ("source", "uuid") | ("capability" | "wwn", _) | (_, "wwpn" | "wwnn") => {
            wanted.eq_ignore_ascii_case(current)
        }
        (_, "cpuset" | "nodeset" | "cpus" | "hostNodes" | "vcpus" | "iothreads") => {
            let (wanted, current) = (cpu_set(wanted), cpu_set(current));
            wanted.is_some() && wanted == current
        }
        // libvirt rounds it up to a power of two.
        ("model", "vgamem") => number(wanted).map(u64::next_power_of_two) == number(current),
        // Words that happen to look like numbers: `0x1` and `1` are two names.
        (
            _,
            "name" | "file" | "dev" | "dir" | "path" | "value" | "bridge" | "network" | "pool" | "volume" | "passwd",
        ) => false,
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
///
/// Aliases that only a distribution's QEMU has (`ubuntu`) are resolved before, with what the machine says of itself.
pub fn same_machine(wanted: &str, current: &str) -> bool {
    let is_version = |alias: &str, other: &str| match alias {
        "pc" => other.starts_with("pc-i440fx-"),
        "q35" => other.starts_with("pc-q35-"),
        "virt" => other.starts_with("virt-"),
        "microvm" => other.starts_with("microvm-"),
        "pseries" => other.starts_with("pseries-"),
        "s390-ccw-virtio" => other.starts_with("s390-ccw-virtio-"),
        _ => false,
    };
    wanted == current || is_version(wanted, current)
}

/// Is `current` a version of the family that the canonical name of an alias belongs to? `pc-i440fx-jammy` is one of
/// `pc-i440fx-noble`'s.
pub fn same_family(canonical: &str, current: &str) -> bool {
    let family = |machine: &str| machine.rsplit_once('-').map(|(family, _)| family.to_string());
    canonical == current || (family(canonical).is_some() && family(canonical) == family(current))
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
/// (<https://libvirt.org/formatdomain.html>, and what its formatter leaves out.)
pub fn is_default(element: &str, attribute: &str, value: &str) -> bool {
    value == "default"
        || matches!(
            (element, attribute, value),
            ("disk", "device", "disk")
                | ("disk", "model", "virtio")
                | ("disk" | "hostdev", "rawio" | "sgio", "no" | "filtered")
                | ("hostdev" | "interface", "managed", "no")
                | ("interface", "trustGuestRxFilters", "no")
                | ("vcpu", "placement", "static")
                | ("loader", "secure" | "stateless", "no")
                | ("loader" | "nvram", "format", "raw")
                | ("nvram", "templateFormat", "raw")
                | ("nvram", "type", "file")
                | ("address", "multifunction", "off")
                | ("rom", "bar" | "enabled", "on" | "yes")
                | ("controller", "index", "0")
                | ("timer", "present", "yes")
                | ("clock", "offset", "utc")
                | ("clock", "basis", "utc")
                | ("clock", "adjustment", "0")
                | ("cpu", "match", "exact")
                | ("cpu", "check", "none")
                | ("cpu", "migratable", "on")
                | ("model", "fallback", "allow")
                | ("model", "primary", "no")
                | ("model", "heads", "1")
                | ("acceleration", "accel3d" | "accel2d", "no")
                | ("topology", "dies" | "clusters", "1")
                | ("cell", "discard", "no")
                | ("hyperv", "mode", "custom")
                | ("link", "state", "up")
                | ("filesystem", "accessmode", "passthrough")
                | ("filesystem", "type", "mount")
                | ("backend", "persistent_state", "no")
                | ("watchdog", "action", "reset")
                | ("redirdev" | "input", "bus", "usb")
                | ("memballoon", "autodeflate" | "freePageReporting", "off")
                | ("target", "tray", "closed")
                | ("target", "removable", "off")
                | ("bootmenu" | "bios", "enable" | "useserial", "no")
                | ("source", "mode", "bind")
                | ("graphics", "autoport", "no")
                | ("mouse" | "mode", "mode", "server")
        )
        // libvirt names it itself when the guest starts, and takes such a name for one of its own.
        || (element == "target" && attribute == "dev" && ["vnet", "macvtap", "macvlan"].iter().any(|p| value.starts_with(p)))
        || (element == "address"
            && matches!(attribute, "domain" | "controller" | "bus" | "target" | "unit" | "function")
            && number(value) == Some(0))
}

/// Does this element state nothing but what libvirt means anyhow when it is missing?
pub fn says_only_defaults(element: &Element) -> bool {
    let anyhow = |(name, value): &(String, String)| {
        is_default(&element.name, name, value) || (element.name == "driver" && name == "name" && value == "vfio")
    };
    let nothing = element.text().is_empty() && element.elements().all(says_only_defaults);
    nothing
        && element.attributes.iter().all(anyhow)
        && (is_container(&element.name) || (element.nodes.is_empty() && !element.attributes.is_empty()))
}

/// Elements that say nothing when they are empty, and of which each part is stated by itself.
pub fn is_container(name: &str) -> bool {
    matches!(
        name,
        "features"
            | "hyperv"
            | "kvm"
            | "xen"
            | "tcg"
            | "cputune"
            | "memtune"
            | "blkiotune"
            | "numatune"
            | "memoryBacking"
            | "hugepages"
            | "iothreadids"
            | "vcpus"
            | "numa"
            | "pm"
            | "driver"
            | "devices"
            | "metadata"
            | "sysinfo"
            | "system"
            | "baseBoard"
            | "chassis"
            | "iotune"
            | "tune"
            | "qemu:commandline"
            | "qemu:override"
            | "qemu:device"
            | "qemu:frontend"
            | "qemu:capabilities"
    )
}

/// libvirt's default unit where none is given (<https://libvirt.org/formatdomain.html>).
fn default_unit(element: &str) -> &'static str {
    if matches!(element, "tseg" | "tb-cache") { "MiB" } else { "KiB" }
}

/// The amount an element such as `<memory unit='GiB'>16</memory>` or `<page size='1' unit='G'/>` states.
pub fn amount(element: &Element) -> Option<Size> {
    let count = match element.name.as_str() {
        "memory" | "currentMemory" | "maxMemory" | "hard_limit" | "soft_limit" | "swap_hard_limit"
        | "min_guarantee" | "pcihole64" | "tseg" | "tb-cache" | "requested" | "block" => element.text(),
        "page" => element.attribute("size")?.to_string(),
        _ if element.attribute("unit").is_some() => element.text(),
        _ => return None,
    };
    // libvirt counts memory in KiB and rounds up.
    let factor = unit(element.attribute("unit").unwrap_or(default_unit(&element.name)))?;
    count.parse::<u64>().ok()?.checked_mul(factor).map(Size)
}

/// Makes this element state the amount that another one states, whatever its unit.
pub fn set_amount(element: &mut Element, from: &Element) {
    match from.attribute("unit") {
        Some(unit) => element.set("unit", unit),
        None => element.unset("unit"),
    }
    match (from.name.as_str(), from.attribute("size")) {
        ("page", Some(size)) => element.set("size", size),
        _ => element.set_text(from.text()),
    }
}

/// The memory of a NUMA cell: `<cell id='0' memory='4' unit='GiB'/>`.
pub fn cell_memory(cell: &Element) -> Option<Size> {
    let factor = unit(cell.attribute("unit").unwrap_or("KiB"))?;
    cell.attribute("memory")?.parse::<u64>().ok()?.checked_mul(factor).map(Size)
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
            ("serial", "value", "0x10", "16", false),
            ("source", "file", "0x1", "1", false),
            ("address", "uuid", "AB", "ab", false),
            ("source", "uuid", "AB", "ab", true),
            ("model", "vgamem", "16000", "16384", true),
            ("model", "vgamem", "16385", "16384", false),
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
        assert_eq!(bytes("<hard_limit>1048576</hard_limit>"), Some(1 << 30));
        assert_eq!(bytes("<tseg>48</tseg>"), Some(48 << 20));
        assert_eq!(bytes("<memory model='dimm'><target><size unit='GiB'>1</size></target></memory>"), None);
        let cell = parse("<cell id='0' memory='4' unit='GiB'/>").unwrap();
        assert_eq!(cell_memory(&cell).map(|size| size.0), Some(4 << 30));
        let mut memory = parse("<memory unit='KiB' dumpCore='off'>4</memory>").unwrap();
        set_amount(&mut memory, &parse("<memory unit='GiB'>2</memory>").unwrap());
        assert_eq!(memory.print(), "<memory unit='GiB' dumpCore='off'>2</memory>\n");
    }

    #[test]
    fn a_distributions_machines_are_of_one_family() {
        assert!(same_family("pc-i440fx-noble", "pc-i440fx-jammy"));
        assert!(same_family("pc-q35-8.2", "pc-q35-8.2"));
        assert!(!same_family("pc-q35-8.2", "pc-i440fx-8.2"));
        assert!(!same_family("ubuntu", "jammy"));
    }

    #[test]
    fn what_libvirt_means_anyhow_need_not_be_there() {
        for (text, so) in [
            ("<link state='up'/>", true),
            ("<link state='down'/>", false),
            ("<driver name='vfio'/>", true),
            ("<driver name='qemu' type='raw'/>", false),
            ("<features><hyperv/><kvm/></features>", true),
            ("<features><acpi/></features>", false),
            ("<readonly/>", false),
            ("<serial>x</serial>", false),
        ] {
            assert_eq!(says_only_defaults(&parse(text).unwrap()), so, "{text}");
        }
    }
}
