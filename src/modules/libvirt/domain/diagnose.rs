//! What libvirt's schema does not know in a domain: `virsh define` drops it without a word, `--validate` refuses it
//! without saying what it is. Here it has a name and a way out.

use crate::modules::libvirt::xml::Element;

/// Something in a domain's XML that libvirt would drop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where: `domain/devices/hostdev[1]/driver@multifunction`.
    pub place: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub fix: String,
}

/// Attributes that the schema knows (libvirt 11.3's domain rng), for the elements where people add others by mistake.
const KNOWN: &[(&str, &[&str])] = &[
    ("disk", &["type", "device", "rawio", "sgio", "snapshot", "model"]),
    ("interface", &["type", "managed", "trustGuestRxFilters"]),
    ("hostdev", &["mode", "type", "managed", "sgio", "rawio", "model", "display", "ramfb"]),
    ("hostdev/driver", &["name", "model", "iommufd", "iommu", "ats", "packed", "page_per_vq"]),
    ("hostdev/source", &["startupPolicy", "guestReset", "protocol", "name", "wwpn", "writeFiltering"]),
    ("hostdev/source/address", &["domain", "bus", "slot", "function", "device", "port", "uuid", "target", "unit"]),
    ("video/model", &["type", "vram", "vram64", "vgamem", "ram", "heads", "primary", "blob", "edid"]),
    ("target", &["dev", "bus", "tray", "removable", "rotation_rate"]),
    ("vcpu", &["placement", "cpuset", "current"]),
];

/// Everything in this domain that libvirt would drop.
pub fn diagnose(domain: &Element) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in ["vcpu"] {
        if let Some(element) = domain.get(name) {
            check(&format!("domain/{name}"), name, element, &mut findings);
        }
    }
    let mut counts: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    for device in domain.get("devices").into_iter().flat_map(Element::elements) {
        let count = counts.entry(&device.name).or_default();
        *count += 1;
        let place = format!("domain/devices/{}[{count}]", device.name);
        let name = device.name.as_str();
        check(&place, name, device, &mut findings);
        for child in device.elements() {
            let inner = format!("{place}/{}", child.name);
            match (name, child.name.as_str()) {
                ("hostdev", "driver" | "source") | ("video", "model") => {
                    check(&inner, &format!("{name}/{}", child.name), child, &mut findings);
                }
                ("disk", "target") => check(&inner, "target", child, &mut findings),
                _ => {}
            }
            if (name, child.name.as_str()) == ("hostdev", "source") {
                for address in child.named("address") {
                    check(&format!("{inner}/address"), "hostdev/source/address", address, &mut findings);
                }
            }
        }
    }
    findings
}

fn check(place: &str, key: &str, element: &Element, findings: &mut Vec<Finding>) {
    let Some((_, known)) = KNOWN.iter().find(|(name, _)| *name == key) else { return };
    for (attribute, value) in &element.attributes {
        if known.contains(&attribute.as_str()) || attribute.contains(':') {
            continue;
        }
        let fix = match (key, attribute.as_str()) {
            ("hostdev/driver", "multifunction") => format!(
                "it belongs on the device's guest address: <address type='pci' … multifunction='{value}'/> beside <source>"
            ),
            ("hostdev/source/address", "type") => {
                "leave it out: the address inside <source> is the host's, and its sort is that of the hostdev"
                    .to_string()
            }
            ("disk", "index") => "leave it out: the order of disks is that of <target dev=…>".to_string(),
            _ => match crate::diag::nearest(attribute, known.iter().copied()) {
                Some(name) => format!("did you mean `{name}`?"),
                None => format!("leave it out; <{}> has {}", element.name, known.join(", ")),
            },
        };
        findings.push(Finding {
            place: format!("{place}@{attribute}"),
            message: format!("<{}> has no attribute `{attribute}`: libvirt drops it without a word", element.name),
            fix,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::libvirt::xml::parse;

    fn places(xml: &str) -> Vec<String> {
        diagnose(&parse(xml).unwrap()).into_iter().map(|finding| finding.place).collect()
    }

    #[test]
    fn names_what_libvirt_would_drop() {
        let xml = "<domain><vcpu>4</vcpu><devices>
            <disk type='file' device='disk' index='1'><target dev='vda' bus='virtio'/></disk>
            <hostdev mode='subsystem' type='pci' managed='yes'><driver name='vfio' multifunction='on'/>
              <source><address type='pci' domain='0x0000' bus='0x82' slot='0x00' function='0x0'/></source></hostdev>
            </devices></domain>";
        assert_eq!(
            places(xml),
            [
                "domain/devices/disk[1]@index",
                "domain/devices/hostdev[1]/driver@multifunction",
                "domain/devices/hostdev[1]/source/address@type",
            ]
        );
        let fixes: Vec<String> = diagnose(&parse(xml).unwrap()).into_iter().map(|finding| finding.fix).collect();
        assert!(fixes[1].contains("multifunction='on'"), "{fixes:?}");
    }

    #[test]
    fn what_is_right_is_silent() {
        let xml = "<domain><devices>
            <hostdev mode='subsystem' type='pci' managed='yes'><driver name='vfio'/>
              <source><address domain='0x0000' bus='0x82' slot='0x00' function='0x0'/></source>
              <address type='pci' domain='0' bus='0' slot='5' function='0' multifunction='on'/></hostdev>
            </devices></domain>";
        assert!(places(xml).is_empty());
    }
}
