//! Network interfaces and routes as the kernel shows them, and the one that this machine is reached through.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::host::{Host, Result};

/// Where the kernel lists interfaces.
pub const NET: &str = "/sys/class/net";

/// The interface that the machine is reached through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// Its name.
    pub interface: String,
    /// Our address on it, where it can be told.
    pub address: Option<String>,
    /// The controller's address; `None` for a run on the machine itself, where the default route counts instead.
    pub peer: Option<String>,
}

/// One route.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Route {
    interface: String,
    network: IpAddr,
    prefix: u32,
    gateway: bool,
    metric: u32,
}

fn little_endian(text: &str) -> Option<Ipv4Addr> {
    // The kernel prints the four bytes of the address as one number of this (little-endian) machine.
    u32::from_str_radix(text, 16).ok().map(|n| Ipv4Addr::from(n.swap_bytes()))
}

fn routes4(text: &str) -> Vec<Route> {
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let flags = u32::from_str_radix(words.get(3)?, 16).ok()?;
            // RTF_UP without RTF_REJECT.
            if flags & 1 == 0 || flags & 0x200 != 0 {
                return None;
            }
            Some(Route {
                interface: words.first()?.to_string(),
                network: little_endian(words.get(1)?)?.into(),
                prefix: u32::from(little_endian(words.get(7)?)?).count_ones(),
                gateway: flags & 2 != 0,
                metric: words.get(6)?.parse().ok()?,
            })
        })
        .collect()
}

fn routes6(text: &str) -> Vec<Route> {
    text.lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let flags = u32::from_str_radix(words.get(8)?, 16).ok()?;
            if flags & 1 == 0 || flags & 0x200 != 0 {
                return None;
            }
            Some(Route {
                interface: words.get(9)?.to_string(),
                network: Ipv6Addr::from(u128::from_str_radix(words.first()?, 16).ok()?).into(),
                prefix: u32::from_str_radix(words.get(1)?, 16).ok()?,
                gateway: flags & 2 != 0,
                metric: u32::from_str_radix(words.get(5)?, 16).ok()?,
            })
        })
        .filter(|route| route.interface != "lo")
        .collect()
}

fn covers(route: &Route, address: IpAddr) -> bool {
    match (route.network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(route.prefix)).unwrap_or(0);
            u32::from(network) & mask == u32::from(address) & mask
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(route.prefix)).unwrap_or(0);
            u128::from(network) & mask == u128::from(address) & mask
        }
        _ => false,
    }
}

fn best(routes: &[Route], address: IpAddr) -> Option<&Route> {
    routes
        .iter()
        .filter(|route| covers(route, address))
        .min_by_key(|route| (std::cmp::Reverse(route.prefix), route.metric))
}

fn routes<H: Host + ?Sized>(host: &H) -> Result<Vec<Route>> {
    let mut all = routes4(&host.read_text("/proc/net/route")?.unwrap_or_default());
    all.extend(routes6(&host.read_text("/proc/net/ipv6_route")?.unwrap_or_default()));
    Ok(all)
}

/// The interface of the default route; `None` without one.
///
/// # Errors
/// When the machine can't be read.
pub fn default_interface<H: Host + ?Sized>(host: &H) -> Result<Option<String>> {
    let all = routes(host)?;
    let of = |any: IpAddr| all.iter().filter(|r| r.prefix == 0 && r.network == any).min_by_key(|r| r.metric);
    let route = of(Ipv4Addr::UNSPECIFIED.into()).or_else(|| of(Ipv6Addr::UNSPECIFIED.into()));
    Ok(route.map(|route| route.interface.clone()))
}

fn parse_peer(text: &str) -> Option<IpAddr> {
    let bare = text.trim().trim_start_matches('[').split(['%', ']']).next()?;
    Some(bare.parse::<IpAddr>().ok()?.to_canonical())
}

/// The interface that the machine is reached through: towards the controller, or for a run on the machine itself the
/// one of the default route.
///
/// # Errors
/// When the machine can't be read.
pub fn control<H: Host + ?Sized>(host: &H) -> Result<Option<Way>> {
    let peer = host.control_peer();
    let interface = match peer.as_deref().and_then(parse_peer) {
        Some(address) => match best(&routes(host)?, address) {
            Some(route) => Some(route.interface.clone()),
            None => route_get(host, address)?,
        },
        None => default_interface(host)?,
    };
    let Some(interface) = interface.filter(|name| name != "lo") else { return Ok(None) };
    let address = address_of(host, &interface)?;
    Ok(Some(Way { interface, address, peer }))
}

fn route_get<H: Host + ?Sized>(host: &H, address: IpAddr) -> Result<Option<String>> {
    let Some(output) = host.query(&["ip", "route", "get", &address.to_string()])? else { return Ok(None) };
    let mut words = output.stdout.split_whitespace().skip_while(|word| *word != "dev").skip(1);
    Ok(words.next().map(str::to_string))
}

/// The IPv4 address of this machine on an interface, where files tell it.
///
/// # Errors
/// When the machine can't be read.
pub fn address_of<H: Host + ?Sized>(host: &H, interface: &str) -> Result<Option<String>> {
    let all = routes4(&host.read_text("/proc/net/route")?.unwrap_or_default());
    let near: Vec<&Route> = all.iter().filter(|r| r.interface == interface && !r.gateway && r.prefix > 0).collect();
    let trie = host.read_text("/proc/net/fib_trie")?.unwrap_or_default();
    let mut last = None;
    for line in trie.lines() {
        if let Some((_, address)) = line.split_once("|-- ") {
            last = address.trim().parse::<Ipv4Addr>().ok();
        } else if line.contains("/32 host LOCAL")
            && let Some(address) = last
            && near.iter().any(|route| covers(route, address.into()))
        {
            return Ok(Some(address.to_string()));
        }
    }
    Ok(None)
}

/// The interface and all it stands on: ports of a bridge, members of a bond, the parent of a VLAN; itself first.
///
/// # Errors
/// When the machine can't be read.
pub fn with_lowers<H: Host + ?Sized>(host: &H, interface: &str) -> Result<Vec<String>> {
    let mut all = vec![interface.to_string()];
    let mut next = 0;
    while let Some(name) = all.get(next).cloned() {
        next += 1;
        let folder = format!("{NET}/{name}");
        let lower = host.list(&folder)?.into_iter().filter_map(|n| n.strip_prefix("lower_").map(str::to_string));
        let ports = host.list(&format!("{folder}/brif"))?;
        for below in lower.chain(ports).collect::<Vec<_>>() {
            if !all.contains(&below) {
                all.push(below);
            }
        }
    }
    Ok(all)
}

/// Does somebody sit on this machine over SSH right now? A run "on the machine itself" may be typed into such a
/// session.
///
/// # Errors
/// When the machine can't be read.
pub fn has_ssh_session<H: Host + ?Sized>(host: &H) -> Result<bool> {
    const ESTABLISHED: &str = "01";
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        for line in host.read_text(file)?.unwrap_or_default().lines().skip(1) {
            let words: Vec<&str> = line.split_whitespace().collect();
            if let [_, local, remote, state, ..] = words.as_slice()
                && *state == ESTABLISHED
                && local.ends_with(":0016")
                && !remote.starts_with("0100007F")
                && !remote.starts_with("00000000000000000000000001000000")
            {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// The hardware address of an interface.
///
/// # Errors
/// When the machine can't be read.
pub fn mac<H: Host + ?Sized>(host: &H, interface: &str) -> Result<Option<String>> {
    Ok(host.read_line(&format!("{NET}/{interface}/address"))?.map(|mac| mac.to_lowercase()).filter(|mac| is_mac(mac)))
}

/// Six pairs of hex digits with colons between?
pub fn is_mac(text: &str) -> bool {
    let pairs: Vec<&str> = text.split(':').collect();
    pairs.len() == 6 && pairs.iter().all(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// `/proc/net/route` after an interface gave its addresses to another.
pub fn routes_moved(text: &str, from: &str, to: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| match line.split_once('\t') {
            Some((name, rest)) if name.trim() == from => format!("{to}\t{rest}"),
            _ => line.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::overlay::testing::machine;

    const ROUTE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
        eno2\t00000000\t0100000A\t0003\t0\t0\t200\t00000000\t0\t0\t0\n\
        eno1\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
        eno1\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n\
        eno2\t0000000A\t00000000\t0001\t0\t0\t200\t000000FF\t0\t0\t0\n";

    #[test]
    fn the_longest_prefix_wins_then_the_lowest_metric() {
        let routes = routes4(ROUTE);
        let name = |ip: &str| best(&routes, ip.parse().unwrap()).map(|r| r.interface.as_str());
        assert_eq!(name("192.168.1.99"), Some("eno1"));
        assert_eq!(name("10.9.9.9"), Some("eno2"));
        assert_eq!(name("8.8.8.8"), Some("eno1"));
        let machine = machine(&[("/proc/net/route", ROUTE)]);
        assert_eq!(default_interface(&machine).unwrap().as_deref(), Some("eno1"));
    }

    #[test]
    fn the_address_on_an_interface_comes_from_the_fib() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.1\n        /32 host LOCAL\n     |-- \
         192.168.1.10\n        /32 host LOCAL\n";
        let machine = machine(&[("/proc/net/route", ROUTE), ("/proc/net/fib_trie", trie)]);
        let way = control(&machine).unwrap().unwrap();
        assert_eq!((way.interface.as_str(), way.address.as_deref()), ("eno1", Some("192.168.1.10")));
    }

    #[test]
    fn a_vlan_over_a_bond_stands_on_both_cards() {
        let machine = machine(&[
            ("/sys/class/net/bond0.5/lower_bond0", "-> ../bond0"),
            ("/sys/class/net/bond0/lower_eno1", "-> ../eno1"),
            ("/sys/class/net/bond0/lower_eno2", "-> ../eno2"),
        ]);
        assert_eq!(with_lowers(&machine, "bond0.5").unwrap(), ["bond0.5", "bond0", "eno1", "eno2"]);
    }

    #[test]
    fn sixth_generation_addresses_and_mapped_ones() {
        let text = "fd000000000000000000000000000000 40 00000000000000000000000000000000 00 \
         00000000000000000000000000000000 00000100 00000001 00000000 00000001     eno1\n\
                    00000000000000000000000000000000 00 00000000000000000000000000000000 00 \
                    fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eno2\n";
        let routes = routes6(text);
        let name = |ip: &str| best(&routes, parse_peer(ip).unwrap()).map(|r| r.interface.as_str());
        assert_eq!((name("fd00::7"), name("2001:db8::1")), (Some("eno1"), Some("eno2")));
        assert_eq!(parse_peer("::ffff:192.168.1.2"), parse_peer("192.168.1.2"));
        assert_eq!(parse_peer("fe80::1%eno1"), parse_peer("fe80::1"));
    }

    #[test]
    fn a_session_over_ssh_is_seen_and_one_to_itself_is_not() {
        let line = |local: &str, remote: &str, state: &str| {
            format!("  sl  local_address rem_address   st\n   0: {local} {remote} {state} 0\n")
        };
        let ask = |text: String| has_ssh_session(&machine(&[("/proc/net/tcp", &text)])).unwrap();
        assert!(ask(line("0A01A8C0:0016", "0501A8C0:C001", "01")));
        assert!(!ask(line("0A01A8C0:0016", "0501A8C0:C001", "06")));
        assert!(!ask(line("0100007F:0016", "0100007F:C001", "01")));
        assert!(!ask(line("0A01A8C0:01BB", "0501A8C0:C001", "01")));
    }
}
