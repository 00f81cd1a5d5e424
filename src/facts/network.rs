//! Network interfaces and addresses, from sysfs and `/proc/net` alone, so that a recorded machine tells the same.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::{Map, Value, json};

use super::line;
use crate::host::{Host, Result};

const NET: &str = "/sys/class/net";
/// From the kernel's `uapi/linux/if_arp.h`.
const TYPES: [(&str, &str); 3] = [("1", "ether"), ("32", "infiniband"), ("772", "loopback")];

/// A line of `/proc/net/route`; numbers are in the byte order of the network.
struct Route {
    interface: String,
    target: u32,
    gateway: u32,
    mask: u32,
    metric: u32,
}

/// `ansible_interfaces`, one fact per interface, `ansible_default_ipv4`, `ansible_all_ipv4_addresses`,
/// `ansible_all_ipv6_addresses`.
///
/// # Errors
/// When the machine can't be read.
pub fn gather(host: &dyn Host) -> Result<Map<String, Value>> {
    let routes = routes(&host.read_text("/proc/net/route")?.unwrap_or_default());
    let local = local_addresses(&host.read_text("/proc/net/fib_trie")?.unwrap_or_default());
    let v6 = v6_addresses(&host.read_text("/proc/net/if_inet6")?.unwrap_or_default());
    let mut facts = Map::new();
    let mut names = Vec::new();
    let (mut all4, mut all6) = (Vec::new(), Vec::new());
    for name in host.list(NET)? {
        let Some(mut fact) = interface(host, &name)? else { continue };
        if let Some((address, route)) = address_on(&routes, &local, &name) {
            fact.insert("ipv4".into(), ipv4(address, route));
            all4.push(Value::from(address.to_string()));
        }
        let own6: Vec<Value> = v6
            .iter()
            .filter(|(interface, ..)| *interface == name)
            .map(|(_, address, prefix)| json!({"address": address.to_string(), "prefix": prefix.to_string()}))
            .collect();
        all6.extend(
            v6.iter()
                .filter(|(interface, address, _)| *interface == name && !address.is_loopback())
                .map(|(_, address, _)| Value::from(address.to_string())),
        );
        if !own6.is_empty() {
            fact.insert("ipv6".into(), own6.into());
        }
        // Ansible's names of facts hold no such characters.
        facts.insert(format!("ansible_{}", name.replace(['-', '.', ':'], "_")), fact.into());
        names.push(name);
    }
    let default =
        match routes.iter().filter(|route| route.target == 0 && route.mask == 0).min_by_key(|route| route.metric) {
            None => json!({}),
            Some(route) => {
                let mut fact = Map::new();
                fact.insert("interface".into(), route.interface.clone().into());
                fact.insert("gateway".into(), Ipv4Addr::from(route.gateway).to_string().into());
                fact.insert("macaddress".into(), line(host, &format!("{NET}/{}/address", route.interface))?.into());
                if let Some((address, route)) = address_on(&routes, &local, &route.interface)
                    && let Value::Object(more) = ipv4(address, route)
                {
                    fact.extend(more);
                }
                fact.into()
            }
        };
    facts.insert("ansible_default_ipv4".into(), default);
    facts.insert("ansible_interfaces".into(), names.into());
    facts.insert("ansible_all_ipv4_addresses".into(), all4.into());
    facts.insert("ansible_all_ipv6_addresses".into(), all6.into());
    Ok(facts)
}

fn interface(host: &dyn Host, name: &str) -> Result<Option<Map<String, Value>>> {
    let folder = format!("{NET}/{name}");
    // `bonding_masters` is a file among the interfaces.
    let Some(kind) = line(host, &format!("{folder}/type"))? else { return Ok(None) };
    let is_bridge = host.exists(&format!("{folder}/bridge"))?;
    let kind = if is_bridge {
        "bridge"
    } else if host.exists(&format!("{folder}/bonding"))? {
        "bonding"
    } else {
        TYPES.iter().find(|(number, _)| *number == kind).map_or("unknown", |(_, name)| *name)
    };
    let mut fact = Map::new();
    fact.insert("device".into(), name.into());
    fact.insert("type".into(), kind.into());
    // IFF_UP is the lowest bit of the flags.
    let flags = line(host, &format!("{folder}/flags"))?;
    let flags = flags.and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()).unwrap_or(0);
    fact.insert("active".into(), (flags & 1 == 1).into());
    fact.insert("macaddress".into(), line(host, &format!("{folder}/address"))?.into());
    fact.insert("mtu".into(), line(host, &format!("{folder}/mtu"))?.and_then(|mtu| mtu.parse::<u64>().ok()).into());
    if let Some(device) = host.read_link(&format!("{folder}/device"))? {
        fact.insert("pciid".into(), device.rsplit('/').next().unwrap_or_default().into());
        if let Some(driver) = host.read_link(&format!("{folder}/device/driver"))? {
            fact.insert("module".into(), driver.rsplit('/').next().unwrap_or_default().into());
        }
    }
    if is_bridge {
        fact.insert("interfaces".into(), host.list(&format!("{folder}/brif"))?.into());
    }
    Ok(Some(fact))
}

fn routes(text: &str) -> Vec<Route> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let number = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok().map(u32::swap_bytes);
            Some(Route {
                interface: (*fields.first()?).to_string(),
                target: number(1)?,
                gateway: number(2)?,
                metric: fields.get(6)?.parse().ok()?,
                mask: number(7)?,
            })
        })
        .collect()
}

/// Addresses that are the machine's own: in `/proc/net/fib_trie` a leaf followed by `/32 host LOCAL`.
fn local_addresses(text: &str) -> Vec<Ipv4Addr> {
    let mut found: Vec<Ipv4Addr> = Vec::new();
    let mut leaf = None;
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse().ok();
        } else if line.starts_with("/32 host LOCAL")
            && let Some(address) = leaf
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// The machine's address in a network that is directly on this interface.
fn address_on<'a>(routes: &'a [Route], local: &[Ipv4Addr], interface: &str) -> Option<(Ipv4Addr, &'a Route)> {
    routes.iter().filter(|route| route.interface == interface && route.gateway == 0 && route.mask != 0).find_map(
        |route| {
            let inside = |address: &&Ipv4Addr| u32::from(**address) & route.mask == route.target;
            local.iter().find(inside).map(|address| (*address, route))
        },
    )
}

fn ipv4(address: Ipv4Addr, route: &Route) -> Value {
    json!({
        "address": address.to_string(),
        "netmask": Ipv4Addr::from(route.mask).to_string(),
        "network": Ipv4Addr::from(route.target).to_string(),
        "prefix": route.mask.count_ones().to_string(),
    })
}

/// proc(5), /proc/net/if_inet6: address, index, prefix length (both hexadecimal), scope, flags, interface.
fn v6_addresses(text: &str) -> Vec<(String, Ipv6Addr, u32)> {
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let address = u128::from_str_radix(fields.first()?, 16).ok()?;
            let prefix = u32::from_str_radix(fields.get(2)?, 16).ok()?;
            Some(((*fields.get(5)?).to_string(), Ipv6Addr::from(address), prefix))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::overlay::testing::machine;

    #[test]
    fn addresses_come_from_files() {
        let route = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            br0\t00000000\t0101A8C0\t0003\t0\t0\t425\t00000000\t0\t0\t0\n\
            br0\t0001A8C0\t00000000\t0001\t0\t0\t425\t00FFFFFF\t0\t0\t0\n\
            virbr0\t007AA8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 192.168.1.0\n        /24 link UNICAST\n     |-- 192.168.1.10\n        /32 host LOCAL\n     |-- 192.168.1.255\n        /32 link BROADCAST\n     |-- 192.168.122.1\n        /32 host LOCAL\n";
        let m = machine(&[
            ("/proc/net/route", route),
            ("/proc/net/fib_trie", trie),
            (
                "/proc/net/if_inet6",
                "fe800000000000000000000000000001 02 40 20 80 br0\n00000000000000000000000000000001 01 80 10 80 lo\n",
            ),
            ("/sys/class/net/br0/type", "1\n"),
            ("/sys/class/net/br0/flags", "0x1003\n"),
            ("/sys/class/net/br0/address", "aa:bb:cc:00:00:01\n"),
            ("/sys/class/net/br0/mtu", "1500\n"),
            ("/sys/class/net/br0/bridge/", ""),
            ("/sys/class/net/br0/brif/em1", "-> ../../em1"),
            ("/sys/class/net/em1.5/type", "1\n"),
            ("/sys/class/net/em1.5/device", "-> ../../../0000:04:00.0"),
            ("/sys/class/net/lo/type", "772\n"),
            ("/sys/class/net/bonding_masters", "\n"),
        ]);
        let facts = gather(&m).unwrap();
        assert_eq!(
            facts["ansible_default_ipv4"],
            json!({
                "interface": "br0", "gateway": "192.168.1.1", "macaddress": "aa:bb:cc:00:00:01",
                "address": "192.168.1.10", "netmask": "255.255.255.0", "network": "192.168.1.0", "prefix": "24",
            })
        );
        assert_eq!(facts["ansible_interfaces"], json!(["br0", "em1.5", "lo"]));
        assert_eq!(facts["ansible_br0"]["interfaces"], json!(["em1"]));
        assert_eq!((&facts["ansible_br0"]["active"], &facts["ansible_br0"]["type"]), (&json!(true), &json!("bridge")));
        assert_eq!(facts["ansible_em1_5"]["pciid"], "0000:04:00.0");
        assert_eq!(facts["ansible_all_ipv6_addresses"], json!(["fe80::1"]));
        assert_eq!(facts["ansible_all_ipv4_addresses"], json!(["192.168.1.10"]));
    }
}
