//! `/etc/sysconfig/network-scripts`: Enterprise Linux up to 9, read by initscripts and by NetworkManager alike.

use std::fmt::Write;

use super::{Ipv4, Ipv4Method, Job, Wanted, theirs};
use crate::host::{Error, Result};
use crate::modules::network::marks;

/// Where the files are.
pub const FOLDER: &str = "/etc/sysconfig/network-scripts";

fn assignment(line: &str) -> Option<(&str, &str)> {
    let (key, value) = super::key_value(line)?;
    Some((key, value.trim_matches(['"', '\''])))
}

fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().filter_map(assignment).filter(|(k, _)| *k == key).map(|(_, v)| v).next_back()
}

/// Does this belong to the address rather than to the card? It moves to the bridge.
fn moves(key: &str) -> bool {
    const WORDS: [&str; 12] = [
        "BOOTPROTO",
        "DEFROUTE",
        "PEERDNS",
        "PEERROUTES",
        "PEERNTP",
        "DOMAIN",
        "SEARCH",
        "METRIC",
        "ZONE",
        "ARPCHECK",
        "SRCADDR",
        "BROADCAST",
    ];
    const STARTS: [&str; 7] = ["IPADDR", "NETMASK", "PREFIX", "GATEWAY", "DNS", "IPV", "DHCP"];
    WORDS.contains(&key) || STARTS.iter().any(|start| key.starts_with(start))
}

/// The file of the card, if it has one.
///
/// # Errors
/// When the machine can't be read.
pub fn file_of(job: &Job) -> Result<Option<(String, String)>> {
    let mut by_mac = None;
    for name in job.host.list(FOLDER)? {
        let Some(suffix) = name.strip_prefix("ifcfg-") else { continue };
        // Backups that editors and rpm leave are not read by initscripts either.
        if suffix == job.name
            || suffix == "lo"
            || suffix.ends_with('~')
            || suffix.contains(".rpm")
            || suffix.ends_with(".bak")
        {
            continue;
        }
        let path = format!("{FOLDER}/{name}");
        let Some(text) = theirs(job, &path)? else { continue };
        let mac = value(&text, "HWADDR").map(str::to_lowercase);
        match value(&text, "DEVICE") {
            Some(device) if device == job.nic => return Ok(Some((path, text))),
            None if suffix == job.nic || mac.is_some() && mac.as_deref() == job.nic_mac => by_mac = Some((path, text)),
            _ => {}
        }
    }
    Ok(by_mac)
}

fn explicit(ipv4: &Ipv4, body: &mut String) -> Result<()> {
    let proto = if ipv4.method == Ipv4Method::Dhcp { "dhcp" } else { "none" };
    let _ = writeln!(body, "BOOTPROTO={proto}");
    for (n, (address, prefix)) in ipv4.pairs()?.into_iter().enumerate() {
        let number = if n == 0 { String::new() } else { n.to_string() };
        let _ = writeln!(body, "IPADDR{number}={address}\nPREFIX{number}={prefix}");
    }
    if let Some(gateway) = &ipv4.gateway {
        let _ = writeln!(body, "GATEWAY={}", gateway.0);
    }
    for (n, server) in ipv4.dns.iter().enumerate() {
        let _ = writeln!(body, "DNS{}={}", n + 1, server.0);
    }
    Ok(())
}

/// The bridge's file, the card's file, and the card's static routes under the bridge's name.
///
/// # Errors
/// Refusals, and when the machine can't be read.
pub fn files(job: &Job) -> Result<Vec<Wanted>> {
    let own = format!("{FOLDER}/ifcfg-{}", job.name);
    job.claim(&own)?;
    let (path, text) = match file_of(job)? {
        Some((path, text)) => (path, Some(text)),
        None if job.ipv4.is_some() => (format!("{FOLDER}/ifcfg-{}", job.nic), None),
        None => return Err(job.nothing_to_keep(FOLDER)),
    };
    let card = text.as_deref().unwrap_or("");
    if let Some(other) = value(card, "BRIDGE").filter(|other| *other != job.name) {
        return Err(Error::refused(format!("{path} already puts {} into the bridge {other}", job.nic))
            .hint("use that bridge, or take BRIDGE= out of the file first"));
    }
    if let Some(bond) = value(card, "MASTER") {
        return Err(Error::refused(format!("{path} makes {} a part of {bond}: it can't be a port as well", job.nic))
            .hint(format!("use `port: {bond}`")));
    }

    let mut moved = String::new();
    let mut port = String::new();
    for line in card.split_inclusive('\n') {
        match assignment(line) {
            Some((key, _)) if moves(key) => {
                if job.ipv4.is_none() || key.starts_with("IPV6") || key == "ZONE" {
                    let _ = writeln!(moved, "{}", line.trim_end());
                }
                port.push_str(marks::OFF);
                port.push_str(line);
            }
            Some(("NM_CONTROLLED", _)) => {
                let _ = writeln!(moved, "{}", line.trim_end());
                port.push_str(line);
            }
            // A bridge that we are asked for and that is there already, by hand: ours says the same.
            Some(("BRIDGE", _)) => {
                port.push_str(marks::OFF);
                port.push_str(line);
            }
            _ => port.push_str(line),
        }
    }
    // With spanning tree the kernel takes no delay below two seconds, so there it keeps its own.
    let (stp, delay) = if job.stp { ("yes", "") } else { ("no", "DELAY=0\n") };
    let mut body =
        format!("DEVICE={0}\nNAME={0}\nTYPE=Bridge\nONBOOT=yes\nSTP={stp}\n{delay}AUTOCONNECT_SLAVES=yes\n", job.name);
    if let Some(mac) = job.mac {
        let _ = writeln!(body, "MACADDR={}", mac.to_uppercase());
    }
    if let Some(ipv4) = job.ipv4 {
        explicit(ipv4, &mut body)?;
    }
    body.push_str(&moved);

    let mut block = vec![job.tag(), format!("BRIDGE={}", job.name), "BOOTPROTO=none".into()];
    if text.is_none() {
        block.extend([format!("DEVICE={}", job.nic), "TYPE=Ethernet".into(), "ONBOOT=yes".into()]);
    } else if value(card, "ONBOOT").is_some_and(|on| on.eq_ignore_ascii_case("no")) {
        return Err(Error::refused(format!("{path} has ONBOOT=no: the bridge would have no port after a boot"))
            .hint("set ONBOOT=yes there first"));
    }
    let before = text.is_some().then_some(port.as_str());
    let mut wanted = vec![
        Wanted { path: own, content: Some(job.own(&body)), mode: None },
        Wanted { path, content: Some(marks::with_block(before, &block)), mode: None },
    ];
    for kind in ["route", "route6", "rule", "rule6"] {
        let path = format!("{FOLDER}/{kind}-{}", job.nic);
        let Some(text) = theirs(job, &path)? else { continue };
        let off: String = text.split_inclusive('\n').map(|line| format!("{}{line}", marks::OFF)).collect();
        let routes = text.replace(&format!("dev {}", job.nic), &format!("dev {}", job.name));
        let own = format!("{FOLDER}/{kind}-{}", job.name);
        job.claim(&own)?;
        wanted.push(Wanted { path: own, content: Some(job.own(&routes)), mode: None });
        wanted.push(Wanted { path, content: Some(marks::with_block(Some(&off), &[job.tag()])), mode: None });
    }
    Ok(wanted)
}
