//! What a network's document means: which of its elements is which, and what is the same to libvirt.
//! (<https://libvirt.org/formatnetwork.html>)

use crate::modules::libvirt::threeway::{Identity, Rules};
use crate::modules::libvirt::xml::Element;

/// The rules of networks.
pub struct Network;

impl Rules for Network {
    fn identity(&self, way: &[&str], element: &Element) -> Identity {
        let attribute = |name: &str| element.attribute(name).unwrap_or_default();
        let all =
            |names: &[&str]| names.iter().filter_map(|name| element.attribute(name)).collect::<Vec<_>>().join(" ");
        Identity::Key(match way {
            // One address of each family is the usual case; `assign` prefers the very same one where there are more.
            ["ip"] => attribute("family").replace("ipv4", ""),
            ["ip", "dhcp", "range"] => return Identity::Loose,
            ["ip", "dhcp", "host"] => {
                let known = ["mac", "id", "name"].iter().find_map(|name| element.attribute(name));
                known.unwrap_or_default().to_ascii_lowercase()
            }
            ["portgroup"] | ["dns", "txt"] => attribute("name").to_string(),
            ["dns", "host"] => attribute("ip").to_string(),
            ["dns", "host", "hostname"] => element.text(),
            ["dns", "srv"] => all(&["service", "protocol", "domain", "target"]),
            ["dns", "forwarder"] => all(&["domain", "addr"]),
            ["route"] => attribute("address").to_string(),
            ["forward", "interface"] => attribute("dev").to_string(),
            ["forward", "address"] => all(&["domain", "bus", "slot", "function"]),
            [.., "vlan", "tag"] => attribute("id").to_string(),
            [.., "dnsmasq:option"] => attribute("value").to_string(),
            _ => return Identity::Single,
        })
    }

    fn is_default(&self, way: &[&str], attribute: &str, value: &str) -> bool {
        matches!(
            (way, attribute, value),
            ([] | ["forward", "nat"], "ipv6", "no")
                | ([] | ["portgroup"], "trustGuestRxFilters", "no")
                | (["bridge"], "stp", "on")
                | (["bridge"], "delay", "0")
                | (["dns"], "enable" | "forwardPlainNames", "yes")
                | (["domain"], "localOnly", "no")
                | (["ip"], "localPtr", "no")
                | (["ip"], "family", "ipv4")
                | (["portgroup"], "default", "no")
                | (["forward"], "managed", "no")
                | (["port"], "isolated", "no")
        )
    }

    fn is_kept(&self, way: &[&str], attribute: Option<&str>) -> bool {
        matches!((way, attribute), (["bridge"] | ["mac"], None) | (["bridge"], Some("name")) | (["mac"], _))
    }

    fn words(&self, way: &[String], attribute: Option<&str>) -> String {
        let names: Vec<&str> = way.iter().map(String::as_str).collect();
        match (names.as_slice(), attribute) {
            (["forward"], Some("mode")) => "mode".to_string(),
            (["bridge"], Some("name")) => "bridge".to_string(),
            (["bridge"], Some(name)) => name.to_string(),
            (["domain"], Some("name")) => "domain".to_string(),
            (["mtu"], Some("size")) => "mtu".to_string(),
            (["mac"], Some("address")) => "mac".to_string(),
            (["port"], Some("isolated")) => "isolated ports".to_string(),
            (["virtualport"], Some("type")) => "virtualport".to_string(),
            (names, attribute) => names.iter().copied().chain(attribute).collect::<Vec<_>>().join(" "),
        }
    }
}
