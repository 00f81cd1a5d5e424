//! From the parameters of `libvirt_network` to libvirt's XML.

use std::net::IpAddr;

use super::params::{Bandwidth, Dhcp, Dns, Ip, LibvirtNetwork, Mode, Portgroup, Rate, Route, Vlan};
use crate::host::{Error, Result};
use crate::modules::libvirt::xml::{Element, is_legal};
use crate::modules::params::Flag;

/// The namespace of `<dnsmasq:options>`.
const DNSMASQ: &str = "http://libvirt.org/schemas/network/dnsmasq/1.0";

fn yes_no(flag: Flag) -> &'static str {
    if flag.0 { "yes" } else { "no" }
}

fn address(what: &str, text: &str) -> Result<IpAddr> {
    text.trim().parse().map_err(|_| Error::parameters(format!("{what}: `{text}` is not an IP address")))
}

/// An address with its prefix length.
fn with_prefix(what: &str, text: &str) -> Result<(IpAddr, u8)> {
    let wrong = || {
        Error::parameters(format!("{what}: `{text}` is not an address with its prefix, such as \"192.168.150.1/24\""))
    };
    let (host, prefix) = text.split_once('/').ok_or_else(wrong)?;
    let host: IpAddr = host.parse().map_err(|_| wrong())?;
    let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
    let most = if host.is_ipv4() { 32 } else { 128 };
    if prefix <= most { Ok((host, prefix)) } else { Err(wrong()) }
}

/// Two ends of a range, written with a hyphen between them.
fn ends<'a>(what: &str, text: &'a str) -> Result<(&'a str, &'a str)> {
    let parts = text.split_once('-').map(|(start, end)| (start.trim(), end.trim()));
    parts.ok_or_else(|| Error::parameters(format!("{what}: `{text}` is no range, such as \"1024-65535\"")))
}

fn mac_address(what: &str, text: &str) -> Result<String> {
    let fine = text.split(':').count() == 6
        && text.split(':').all(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
    if fine {
        return Ok(text.to_ascii_lowercase());
    }
    Err(Error::parameters(format!("{what}: `{text}` is not a MAC address, such as 52:54:00:12:34:56")))
}

impl LibvirtNetwork {
    /// What must hold, and the elements that must not be there.
    pub(super) fn render(&self) -> Result<(Element, Vec<&'static str>)> {
        self.check()?;
        let mut root = Element::new("network")
            .with_some("ipv6", self.ipv6.map(yes_no))
            .with_some("trustGuestRxFilters", self.trust_guest_rx_filters.map(yes_no));
        if !self.dnsmasq_options.is_empty() {
            root.set("xmlns:dnsmasq", DNSMASQ);
        }
        root = root.child(Element::new("name").containing(self.name.as_str()));
        root = root.child_some(self.uuid.as_ref().map(|uuid| Element::new("uuid").containing(uuid.as_str())));
        let mut absent = Vec::new();
        match self.forward()? {
            Some(forward) => root = root.child(forward),
            None => absent.push("forward"),
        }
        if self.has_no_bridge_of_its_own() {
            absent.extend(["ip", "domain", "dns", "mtu"]);
        }
        let bridge = Element::new("bridge")
            .with_some("name", self.bridge.as_ref())
            .with_some("zone", self.zone.as_ref())
            .with_some("stp", self.stp.map(|stp| if stp.0 { "on" } else { "off" }))
            .with_some("delay", self.delay.map(|delay| delay.to_string()));
        root = root.child_some(Some(bridge).filter(|bridge| !bridge.attributes.is_empty()));
        root = root.child_some(self.mtu.map(|mtu| Element::new("mtu").with("size", mtu.to_string())));
        if let Some(mac) = &self.mac {
            root = root.child(Element::new("mac").with("address", mac_address("mac", mac)?));
        }
        root = root.child_some(self.domain.as_ref().map(|domain| {
            let local = domain.local_only.map(yes_no);
            Element::new("domain").with("name", &domain.name).with_some("localOnly", local)
        }));
        root = root.child_some(self.dns.as_ref().map(dns).transpose()?);
        if let Some(text) = &self.address {
            let ip = Ip { address: text.clone(), dhcp: self.dhcp.clone(), tftp: self.tftp.clone(), local_ptr: None };
            root = root.child(ip_element("address", &ip)?);
        }
        for ip in self.addresses.iter() {
            root = root.child(ip_element("addresses", ip)?);
        }
        for to in self.routes.iter() {
            root = root.child(route(to)?);
        }
        root = root.child_some(self.vlan.as_ref().map(|tags| vlan("vlan", tags)).transpose()?);
        root = root.child_some(self.bandwidth.as_ref().map(bandwidth));
        root = root.child_some(self.virtualport.as_ref().map(|kind| Element::new("virtualport").with("type", kind)));
        root = root
            .child_some(self.isolated_ports.map(|isolated| Element::new("port").with("isolated", yes_no(isolated))));
        for group in self.portgroups.iter() {
            root = root.child(portgroup(group)?);
        }
        if !self.dnsmasq_options.is_empty() {
            let mut options = Element::new("dnsmasq:options");
            for option in self.dnsmasq_options.iter() {
                options = options.child(Element::new("dnsmasq:option").with("value", &**option));
            }
            root = root.child(options);
        }
        check_legal(&root)?;
        Ok((root, absent))
    }

    /// Does libvirt make no bridge for it?
    pub(super) fn has_no_bridge_of_its_own(&self) -> bool {
        !matches!(self.mode, Mode::Nat | Mode::Route | Mode::Open | Mode::Isolated)
    }

    fn check(&self) -> Result<()> {
        let wrong = |message: &str| Err(Error::parameters(message));
        if self.mode == Mode::Bridge && self.bridge.is_none() {
            return wrong("mode bridge needs the name of a bridge: give `bridge`");
        }
        let addresses = self.address.is_some() || !self.addresses.is_empty();
        if self.has_no_bridge_of_its_own() {
            if addresses || self.dhcp.is_some() || self.domain.is_some() || self.dns.is_some() {
                let name = if self.mode == Mode::Bridge { "bridge" } else { "for the host's own cards" };
                return Err(Error::parameters(format!(
                    "mode {name} has no addresses of its own: leave address, dhcp, domain and dns out"
                )));
            }
            if self.mode != Mode::Bridge && self.bridge.is_some() {
                return wrong("this mode has no bridge: leave `bridge` out");
            }
            if self.mtu.is_some() || self.mac.is_some() || self.stp.is_some() || self.delay.is_some() {
                return wrong("libvirt makes no bridge in this mode: leave mtu, mac, stp and delay out");
            }
        } else if self.dhcp.is_some() && self.address.is_none() {
            return wrong("dhcp needs an address of the host: give `address`");
        } else if self.tftp.is_some() && self.address.is_none() {
            return wrong("tftp needs an address of the host: give `address`");
        } else if !addresses && self.mode != Mode::Isolated {
            return wrong("address is missing: give for example address: \"192.168.150.1/24\"");
        }
        if self.nat.is_some() && self.mode != Mode::Nat {
            return wrong("nat says how mode nat works: leave it out");
        }
        if self.forward_dev.is_some() && !matches!(self.mode, Mode::Nat | Mode::Route) {
            return wrong("forward_dev goes with the modes nat and route");
        }
        let shares = matches!(self.mode, Mode::Macvtap | Mode::Private | Mode::Vepa | Mode::Passthrough);
        if self.cards.is_empty() == shares {
            return wrong("cards go with the modes macvtap, private, vepa and passthrough, which need at least one");
        }
        if (self.mode == Mode::Hostdev) != self.physical_function.is_some() {
            return wrong("physical_function goes with mode hostdev, which needs one");
        }
        if self.mtu.is_some_and(|mtu| !(68..=65535).contains(&mtu)) {
            return wrong("mtu must be from 68 to 65535");
        }
        Ok(())
    }

    fn forward(&self) -> Result<Option<Element>> {
        let mode = match self.mode {
            Mode::Isolated => return Ok(None),
            Mode::Nat => "nat",
            Mode::Route => "route",
            Mode::Open => "open",
            Mode::Bridge | Mode::Macvtap => "bridge",
            Mode::Private => "private",
            Mode::Vepa => "vepa",
            Mode::Passthrough => "passthrough",
            Mode::Hostdev => "hostdev",
        };
        let mut forward = Element::new("forward").with_some("dev", self.forward_dev.as_ref()).with("mode", mode);
        if let Some(card) = &self.physical_function {
            forward.set("managed", yes_no(self.managed));
            forward = forward.child(Element::new("pf").with("dev", card));
        }
        for card in self.cards.iter() {
            forward = forward.child(Element::new("interface").with("dev", card));
        }
        if let Some(nat) = &self.nat {
            let mut element = Element::new("nat").with_some("ipv6", nat.ipv6.map(yes_no));
            if let Some(range) = &nat.addresses {
                let (start, end) = ends("nat.addresses", range)?;
                let (start, end) = (address("nat.addresses", start)?, address("nat.addresses", end)?);
                element = element
                    .child(Element::new("address").with("start", start.to_string()).with("end", end.to_string()));
            }
            if let Some(range) = &nat.ports {
                let (start, end) = ends("nat.ports", range)?;
                let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
                let (Some(start), Some(end)) = (port(start), port(end)) else {
                    return Err(Error::parameters(format!("nat.ports: `{}` is no range of ports", &**range)));
                };
                element =
                    element.child(Element::new("port").with("start", start.to_string()).with("end", end.to_string()));
            }
            forward = forward.child(element);
        }
        Ok(Some(forward))
    }
}

fn ip_element(what: &str, ip: &Ip) -> Result<Element> {
    let (host, prefix) = with_prefix(what, &ip.address)?;
    let family = host.is_ipv6().then_some("ipv6");
    // libvirt prints the netmask when it was given one, and the prefix when that: it keeps what it was told.
    let mut element = Element::new("ip")
        .with_some("family", family)
        .with("address", host.to_string())
        .with("prefix", prefix.to_string())
        .with_some("localPtr", ip.local_ptr.map(yes_no))
        .child_some(ip.tftp.as_ref().map(|root| Element::new("tftp").with("root", root)));
    if let Some(stated) = &ip.dhcp {
        element = element.child(dhcp(stated, host)?);
    }
    Ok(element)
}

fn dhcp(dhcp: &Dhcp, host: IpAddr) -> Result<Element> {
    let lease = dhcp.lease.as_ref().map(|text| lease_time(text)).transpose()?;
    let mut list = Element::new("dhcp");
    let mut ranges = Vec::new();
    match (&dhcp.start, &dhcp.end) {
        (Some(start), Some(end)) => ranges.push((address("dhcp.start", start)?, address("dhcp.end", end)?)),
        (None, None) => {}
        _ => return Err(Error::parameters("dhcp: start and end go together")),
    }
    for range in dhcp.ranges.iter() {
        let (start, end) = ends("dhcp.ranges", range)?;
        ranges.push((address("dhcp.ranges", start)?, address("dhcp.ranges", end)?));
    }
    for (start, end) in ranges {
        if start.is_ipv4() != host.is_ipv4() || end.is_ipv4() != host.is_ipv4() || start > end {
            return Err(Error::parameters(format!("dhcp: {start} to {end} is no range of addresses beside {host}")));
        }
        list = list.child(
            Element::new("range")
                .with("start", start.to_string())
                .with("end", end.to_string())
                .child_some(lease.clone()),
        );
    }
    for fixed in dhcp.hosts.iter() {
        if fixed.mac.is_none() && fixed.id.is_none() && fixed.name.is_none() {
            return Err(Error::parameters("dhcp.hosts: give each a mac, an id (IPv6) or a name"));
        }
        if fixed.mac.is_some() && host.is_ipv6() {
            return Err(Error::parameters("dhcp.hosts: IPv6 knows guests by `id` (DUID) or name, not by mac"));
        }
        let mac = fixed.mac.as_ref().map(|mac| mac_address("dhcp.hosts", mac)).transpose()?;
        list = list.child(
            Element::new("host")
                .with_some("mac", mac)
                .with_some("id", fixed.id.as_ref())
                .with_some("name", fixed.name.as_ref())
                .with("ip", address("dhcp.hosts", &fixed.ip)?.to_string())
                .child_some(lease.clone()),
        );
    }
    let boot = dhcp
        .boot
        .as_ref()
        .map(|boot| Element::new("bootp").with("file", &boot.file).with_some("server", boot.server.as_ref()));
    Ok(list.child_some(boot))
}

/// `12 hours`, `90 minutes`, `3600 seconds` or `infinite`.
fn lease_time(text: &str) -> Result<Element> {
    if text.trim() == "infinite" {
        return Ok(Element::new("lease").with("expiry", "0"));
    }
    let wrong = || Error::parameters(format!("dhcp.lease: `{text}` is no time, such as \"12 hours\" or \"infinite\""));
    let end = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = (text.get(..end).unwrap_or_default(), text.get(end..).unwrap_or_default().trim());
    let unit = match unit {
        "s" | "second" | "seconds" => "seconds",
        "m" | "min" | "minute" | "minutes" => "minutes",
        "h" | "hour" | "hours" => "hours",
        _ => return Err(wrong()),
    };
    let number: u32 = number.parse().map_err(|_| wrong())?;
    // dnsmasq refuses less, and libvirt with it.
    if number == 0 || (unit == "seconds" && number < 120) || (unit == "minutes" && number < 2) {
        return Err(Error::parameters(format!("dhcp.lease: `{text}` is less than the two minutes that dnsmasq needs")));
    }
    Ok(Element::new("lease").with("expiry", number.to_string()).with("unit", unit))
}

fn route(route: &Route) -> Result<Element> {
    let (to, prefix) = with_prefix("routes", &route.to)?;
    let via = address("routes", &route.via)?;
    if to.is_ipv4() != via.is_ipv4() {
        return Err(Error::parameters(format!("routes: {to} is not reached through {via}: one is IPv6")));
    }
    Ok(Element::new("route")
        .with_some("family", to.is_ipv6().then_some("ipv6"))
        .with("address", to.to_string())
        .with("prefix", prefix.to_string())
        .with("gateway", via.to_string())
        .with_some("metric", route.metric.map(|metric| metric.to_string())))
}

fn dns(dns: &Dns) -> Result<Element> {
    let mut element = Element::new("dns")
        .with_some("enable", dns.enable.map(yes_no))
        .with_some("forwardPlainNames", dns.forward_plain_names.map(yes_no));
    for text in dns.forwarders.iter() {
        let (domain, server) = match text.split_once('=') {
            Some((domain, server)) => (Some(domain.trim()), server.trim()),
            None => (None, text.trim()),
        };
        let server = if server.is_empty() && domain.is_some() {
            None
        } else {
            Some(address("dns.forwarders", server)?.to_string())
        };
        element = element.child(Element::new("forwarder").with_some("domain", domain).with_some("addr", server));
    }
    for (name, value) in &dns.txt {
        element = element.child(Element::new("txt").with("name", name).with("value", &**value));
    }
    for srv in dns.srv.iter() {
        if !matches!(srv.protocol.as_str(), "tcp" | "udp") {
            return Err(Error::parameters(format!("dns.srv: `{}` is neither tcp nor udp", srv.protocol)));
        }
        let number = |value: Option<u16>| value.map(|value| value.to_string());
        element = element.child(
            Element::new("srv")
                .with("service", &srv.service)
                .with("protocol", &srv.protocol)
                .with_some("domain", srv.domain.as_ref())
                .with_some("target", srv.target.as_ref())
                .with_some("port", number(srv.port))
                .with_some("priority", number(srv.priority))
                .with_some("weight", number(srv.weight)),
        );
    }
    for (ip, names) in &dns.hosts {
        let mut host = Element::new("host").with("ip", address("dns.hosts", ip)?.to_string());
        if names.is_empty() {
            return Err(Error::parameters(format!("dns.hosts: {ip} has no name")));
        }
        for name in names.iter() {
            host = host.child(Element::new("hostname").containing(name.as_str()));
        }
        element = element.child(host);
    }
    Ok(element)
}

fn portgroup(group: &Portgroup) -> Result<Element> {
    Ok(Element::new("portgroup")
        .with("name", &group.name)
        .with_some("default", group.default.map(yes_no))
        .with_some("trustGuestRxFilters", group.trust_guest_rx_filters.map(yes_no))
        .child_some(group.vlan.as_ref().map(|tags| vlan("portgroups", tags)).transpose()?)
        .child_some(group.bandwidth.as_ref().map(bandwidth))
        .child_some(group.virtualport.as_ref().map(|kind| Element::new("virtualport").with("type", kind))))
}

fn vlan(what: &str, vlan: &Vlan) -> Result<Element> {
    let trunk = vlan.trunk.map_or(vlan.tags.len() > 1 || vlan.native.is_some(), |trunk| trunk.0);
    if vlan.tags.is_empty() || (!trunk && vlan.tags.len() > 1) {
        return Err(Error::parameters(format!("{what}: a VLAN has one tag, a trunk one or more")));
    }
    if let Some(tag) = vlan.tags.iter().chain(&vlan.native).find(|tag| **tag > 4095) {
        return Err(Error::parameters(format!("{what}: the VLAN tag {tag} is more than 4095")));
    }
    if let Some(native) = vlan.native.filter(|native| !vlan.tags.contains(native)) {
        return Err(Error::parameters(format!("{what}: the native VLAN {native} is not among the tags")));
    }
    let mut element = Element::new("vlan").with_some("trunk", trunk.then_some("yes"));
    for tag in vlan.tags.iter() {
        let native = (vlan.native == Some(*tag)).then_some("untagged");
        element = element.child(Element::new("tag").with("id", tag.to_string()).with_some("nativeMode", native));
    }
    Ok(element)
}

fn bandwidth(bandwidth: &Bandwidth) -> Element {
    let rate = |name: &str, rate: &Rate| {
        let number = |value: Option<u64>| value.map(|value| value.to_string());
        Element::new(name)
            .with("average", rate.average.to_string())
            .with_some("peak", number(rate.peak))
            .with_some("floor", number(rate.floor))
            .with_some("burst", number(rate.burst))
    };
    Element::new("bandwidth")
        .child_some(bandwidth.inbound.as_ref().map(|inbound| rate("inbound", inbound)))
        .child_some(bandwidth.outbound.as_ref().map(|outbound| rate("outbound", outbound)))
}

fn check_legal(element: &Element) -> Result<()> {
    let texts = element.attributes.iter().map(|(_, value)| value.clone()).chain([element.text()]);
    for text in texts {
        if let Some(c) = text.chars().find(|c| !is_legal(*c)) {
            let code = u32::from(c);
            return Err(Error::parameters(format!(
                "<{}>: the character U+{code:04X} can't stand in XML",
                element.name
            )));
        }
    }
    element.elements().try_for_each(check_legal)
}
