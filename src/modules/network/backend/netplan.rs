//! netplan (netplan-yaml(5)).
//!
//! netplan merges its files, and a later one can't empty a list of an earlier one: static addresses have to leave the
//! card's own entry. So those lines are switched off where they stand, and a file of ours, read last, gives them to the
//! bridge just as they were written.

use std::fmt::Write;

use super::{Ipv4Method, Job, Wanted, is_own, theirs};
use crate::host::{Error, Result};
use crate::modules::network::marks;

/// Where the files are.
pub const FOLDER: &str = "/etc/netplan";

/// Keys that belong to the address rather than to the card.
const MOVES: [&str; 18] = [
    "dhcp4",
    "dhcp6",
    "dhcp-identifier",
    "dhcp4-overrides",
    "dhcp6-overrides",
    "accept-ra",
    "addresses",
    "gateway4",
    "gateway6",
    "nameservers",
    "routes",
    "routing-policy",
    "link-local",
    "ipv6-privacy",
    "ipv6-address-generation",
    "ipv6-address-token",
    "critical",
    "ignore-carrier",
];

/// The card's entry in one file: which lines, and its id.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    id: String,
    /// The line of `id:`.
    at: usize,
    /// The first line behind it.
    end: usize,
    /// How far its keys are indented.
    indent: usize,
}

fn indent_of(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

fn is_blank(line: &str) -> bool {
    let bare = line.trim();
    bare.is_empty() || bare.starts_with('#')
}

/// `key` and what follows the colon, quotes around the key taken off.
fn key_of(line: &str) -> Option<(&str, &str)> {
    let bare = line.trim();
    if bare.starts_with('#') || bare.starts_with("- ") {
        return None;
    }
    let (key, value) = bare.split_once(':')?;
    let value = if value.is_empty() || value.starts_with(' ') { value.trim() } else { return None };
    let value = value.split(" #").next().unwrap_or("").trim();
    Some((key.trim().trim_matches(['"', '\'']), if value.starts_with('#') { "" } else { value }))
}

/// The lines below the one at `at` that belong to it. A list may stand as deep as its key.
fn end_of(lines: &[&str], at: usize) -> usize {
    let depth = lines.get(at).map_or(0, |line| indent_of(line));
    let mut end = at + 1;
    for (n, line) in lines.iter().enumerate().skip(at + 1) {
        if is_blank(line) {
            continue;
        }
        let item = indent_of(line) == depth && line.trim_start().starts_with("- ");
        if indent_of(line) <= depth && !item {
            break;
        }
        end = n + 1;
    }
    end
}

/// The keys right below a line: number, key, value.
fn children<'a>(lines: &[&'a str], at: usize) -> Vec<(usize, &'a str, &'a str)> {
    let end = end_of(lines, at);
    let inside = lines.iter().enumerate().take(end).skip(at + 1).filter(|(_, line)| !is_blank(line));
    let Some(depth) = inside.clone().map(|(_, line)| indent_of(line)).next() else { return Vec::new() };
    inside
        .filter(|(_, line)| indent_of(line) == depth)
        .filter_map(|(n, line)| key_of(line).map(|(key, value)| (n, key, value)))
        .collect()
}

fn find(lines: &[&str], job: &Job) -> Option<Entry> {
    let network =
        lines.iter().position(|line| indent_of(line) == 0 && key_of(line).is_some_and(|(k, _)| k == "network"))?;
    for (group, key, _) in children(lines, network) {
        if !matches!(key, "ethernets" | "bonds" | "vlans") {
            continue;
        }
        for (at, id, _) in children(lines, group) {
            let keys = children(lines, at);
            let set_name = keys.iter().find(|(_, k, _)| *k == "set-name").map(|(_, _, v)| v.trim_matches(['"', '\'']));
            let matching = keys.iter().find(|(_, k, _)| *k == "match").map(|(n, _, _)| children(lines, *n));
            let fits = match (set_name, &matching) {
                (Some(name), _) => name == job.nic,
                (None, Some(rules)) => rules.iter().any(|(_, k, v)| {
                    let v = v.trim_matches(['"', '\'']);
                    match *k {
                        "macaddress" => Some(v.to_lowercase().as_str()) == job.nic_mac,
                        "name" => super::glob(v, job.nic),
                        _ => false,
                    }
                }),
                (None, None) => id == job.nic,
            };
            if fits {
                let indent = keys.first().and_then(|(n, _, _)| lines.get(*n)).map_or(0, |line| indent_of(line));
                return Some(Entry { id: id.to_string(), at, end: end_of(lines, at), indent });
            }
        }
    }
    None
}

/// The file that configures the card, and its text.
///
/// # Errors
/// When the machine can't be read.
pub fn file_of(job: &Job) -> Result<Option<(String, String)>> {
    let mut last = None;
    for name in job.host.list(FOLDER)? {
        let path = format!("{FOLDER}/{name}");
        if !name.ends_with(".yaml") || super::text_of(job.host, &path)?.is_some_and(|text| is_own(&text)) {
            continue;
        }
        let Some(text) = theirs(job, &path)? else { continue };
        let lines: Vec<&str> = text.lines().collect();
        if find(&lines, job).is_some() {
            if let Some((first, _)) = &last {
                return Err(Error::refused(format!("{} is configured in {first} and in {path}", job.nic))
                    .hint("put its configuration into one file first"));
            }
            last = Some((path, text));
        }
    }
    Ok(last)
}

/// Our file, and the card's own with its addresses switched off.
///
/// # Errors
/// Refusals, and when the machine can't be read.
pub fn files(job: &Job) -> Result<Vec<Wanted>> {
    let own = format!("{FOLDER}/90-vfio-provision-{}.yaml", job.name);
    job.claim(&own)?;
    let mut wanted = Vec::new();
    let mut id = job.nic.to_string();
    let mut moved = String::new();
    match file_of(job)? {
        Some((path, text)) => {
            let lines: Vec<&str> = text.lines().collect();
            let Some(entry) = find(&lines, job) else { return Err(job.nothing_to_keep(&path)) };
            let flow = lines.get(entry.at).and_then(|line| key_of(line)).is_some_and(|(_, value)| !value.is_empty());
            if flow {
                return Err(Error::refused(format!(
                    "{path} writes {} in braces on one line, which can't be changed safely",
                    job.nic
                ))
                .hint("write its keys on lines of their own"));
            }
            id.clone_from(&entry.id);
            let off = lines_to_move(&lines, &entry);
            for (n, line) in lines.iter().enumerate().filter(|(n, _)| off.contains(n)) {
                let keep = job.ipv4.is_none() || is_ipv6(&lines, &entry, n);
                if keep && !is_blank(line) {
                    let _ = writeln!(moved, "      {}", line.get(entry.indent..).unwrap_or(line.trim_start()));
                }
            }
            let off = with_empty_parents(&lines, off);
            let mut changed = String::new();
            for (n, line) in text.split_inclusive('\n').enumerate() {
                if off.contains(&n) {
                    changed.push_str(marks::OFF);
                }
                changed.push_str(line);
            }
            let content = Some(marks::with_block(Some(&changed), &[job.tag()]));
            wanted.push(Wanted { path, content, mode: None });
        }
        None if job.ipv4.is_some() => {}
        None => return Err(job.nothing_to_keep(FOLDER)),
    }
    let mut body = format!(
        "network:\n  version: 2\n  ethernets:\n    {id}:\n      dhcp4: false\n      dhcp6: \
         false\n  bridges:\n    {}:\n      \
         interfaces: [{id}]\n",
        job.name
    );
    if let Some(mac) = job.mac {
        let _ = writeln!(body, "      macaddress: \"{mac}\"");
    }
    // With spanning tree the kernel takes no delay below two seconds, so there it keeps its own.
    let delay = if job.stp { "" } else { "        forward-delay: 0\n" };
    let _ = write!(body, "      parameters:\n        stp: {}\n{delay}", job.stp);
    if let Some(ipv4) = job.ipv4 {
        let _ = writeln!(body, "      dhcp4: {}", ipv4.method == Ipv4Method::Dhcp);
        let pairs = ipv4.pairs()?;
        if !pairs.is_empty() {
            body.push_str("      addresses:\n");
            for (address, prefix) in pairs {
                let _ = writeln!(body, "        - {address}/{prefix}");
            }
        }
        if let Some(gateway) = &ipv4.gateway {
            let _ = write!(body, "      routes:\n        - to: 0.0.0.0/0\n          via: {}\n", gateway.0);
        }
        if !ipv4.dns.is_empty() {
            let servers: Vec<&str> = ipv4.dns.iter().map(|server| server.0.as_str()).collect();
            let _ = write!(body, "      nameservers:\n        addresses: [{}]\n", servers.join(", "));
        }
    }
    body.push_str(&moved);
    wanted.insert(0, Wanted { path: own, content: Some(job.own(&body)), mode: Some(0o600) });
    Ok(wanted)
}

/// The lines of the entry's address keys, with all that belongs to them.
fn lines_to_move(lines: &[&str], entry: &Entry) -> std::collections::BTreeSet<usize> {
    let mut off = std::collections::BTreeSet::new();
    for (n, key, _) in children(lines, entry.at) {
        if MOVES.contains(&key) {
            off.extend((n..end_of(lines, n)).filter(|n| lines.get(*n).is_some_and(|line| !is_blank(line))));
        }
    }
    off
}

/// Does this line belong to a key that only IPv6 has? Those stay when the user gives IPv4 addresses.
fn is_ipv6(lines: &[&str], entry: &Entry, n: usize) -> bool {
    let above = children(lines, entry.at).into_iter().rfind(|(at, _, _)| *at <= n);
    above.is_some_and(|(_, key, _)| {
        matches!(key, "dhcp6" | "dhcp6-overrides" | "accept-ra" | "gateway6") || key.starts_with("ipv6-")
    })
}

/// A key whose lines are all off would be left with nothing, which netplan refuses: it goes off too.
fn with_empty_parents(lines: &[&str], mut off: std::collections::BTreeSet<usize>) -> std::collections::BTreeSet<usize> {
    loop {
        let empty = (0..lines.len()).find(|at| {
            let below: Vec<usize> =
                (at + 1..end_of(lines, *at)).filter(|n| lines.get(*n).is_some_and(|line| !is_blank(line))).collect();
            !off.contains(at) && !below.is_empty() && below.iter().all(|n| off.contains(n))
        });
        match empty {
            Some(at) => off.insert(at),
            None => return off,
        };
    }
}
