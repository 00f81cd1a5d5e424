//! Debian's `/etc/network/interfaces` (interfaces(5), bridge-utils-interfaces(5)).

use std::fmt::Write;

use super::{Ipv4Method, Job, Wanted, theirs};
use crate::host::{Error, Result};
use crate::modules::network::marks;

/// The main file.
pub const MAIN: &str = "/etc/network/interfaces";
/// Files that the main one usually sources.
pub const FOLDER: &str = "/etc/network/interfaces.d";

fn keyword(line: &str) -> Option<&str> {
    let word = line.split_whitespace().next()?;
    let starts = matches!(word, "iface" | "auto" | "mapping" | "source" | "source-directory" | "rename" | "template")
        || word.starts_with("allow-")
        || word.starts_with("no-");
    starts.then_some(word)
}

fn defines(text: &str, nic: &str) -> bool {
    text.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some("iface") && words.next() == Some(nic)
    })
}

/// The file in which the card is configured, and its text.
///
/// # Errors
/// When the machine can't be read.
pub fn file_of(job: &Job) -> Result<Option<(String, String)>> {
    let folder = job.host.list(FOLDER)?.into_iter().map(|name| format!("{FOLDER}/{name}"));
    for path in std::iter::once(MAIN.to_string()).chain(folder) {
        if let Some(text) = theirs(job, &path)?
            && defines(&text, job.nic)
        {
            return Ok(Some((path, text)));
        }
    }
    Ok(None)
}

/// What was found in the file of the card.
#[derive(Default)]
struct Found {
    /// The file with the card's lines switched off.
    rest: String,
    /// `inet static` and its options, one entry a stanza.
    stanzas: Vec<(String, Vec<String>)>,
    /// Interfaces that shared an `auto` line with the card: keyword and names.
    shared: Vec<String>,
}

fn take_apart(text: &str, nic: &str) -> Found {
    let mut found = Found::default();
    let mut inside = false;
    for line in text.split_inclusive('\n') {
        let bare = line.trim();
        let words: Vec<&str> = bare.split_whitespace().collect();
        let mut off = false;
        match keyword(bare) {
            Some("iface") => {
                inside = words.get(1) == Some(&nic);
                if inside {
                    off = true;
                    let kind = words.get(2..).unwrap_or_default().join(" ");
                    found.stanzas.push((kind, Vec::new()));
                }
            }
            Some(word) => {
                inside = false;
                let starts = word == "auto" || word == "allow-hotplug" || word == "allow-auto";
                if starts && words.iter().skip(1).any(|name| *name == nic) {
                    off = true;
                    let others: Vec<&str> = words.iter().skip(1).filter(|name| **name != nic).copied().collect();
                    if !others.is_empty() {
                        found.shared.push(format!("{word} {}", others.join(" ")));
                    }
                }
            }
            None if inside && !bare.is_empty() && !bare.starts_with('#') => {
                off = true;
                if let Some((_, options)) = found.stanzas.last_mut() {
                    options.push(bare.to_string());
                }
            }
            None => {}
        }
        if off {
            found.rest.push_str(marks::OFF);
        }
        found.rest.push_str(line);
    }
    found
}

/// The one file that changes: the card's stanza goes off, the bridge's stands on top.
///
/// # Errors
/// Refusals, and when the machine can't be read.
pub fn files(job: &Job) -> Result<Vec<Wanted>> {
    let tools = job.host.package("bridge-utils")?.is_some() || job.host.exists("/etc/network/if-pre-up.d/bridge")?;
    let other = job.host.package("ifupdown2")?.is_some() || job.host.package("ifupdown-ng")?.is_some();
    if !tools && !other {
        return Err(Error::refused(
            "ifupdown makes bridges only with the package bridge-utils, which is not installed",
        )
        .hint("install bridge-utils first"));
    }
    let (path, text) = match file_of(job)? {
        Some((path, text)) => (path, text),
        None if job.ipv4.is_some() => (MAIN.to_string(), theirs(job, MAIN)?.unwrap_or_default()),
        None => return Err(job.nothing_to_keep(MAIN)),
    };
    let found = take_apart(&text, job.nic);
    if found
        .stanzas
        .iter()
        .flat_map(|(_, options)| options)
        .any(|o| o.starts_with("bond-master") || o.starts_with("bond_master"))
    {
        return Err(Error::refused(format!("{path} makes {} a part of a bond: it can't be a port as well", job.nic))
            .hint("use the bond as `port`"));
    }
    let mut stanzas = found.stanzas;
    if let Some(ipv4) = job.ipv4 {
        stanzas.retain(|(kind, _)| kind.starts_with("inet6"));
        stanzas.insert(0, explicit(ipv4)?);
    }
    let mut lines = vec![job.tag()];
    lines.extend(found.shared);
    lines.push(format!("auto {}", job.name));
    lines.push(format!("iface {} inet manual", job.nic));
    for (n, (kind, options)) in stanzas.iter().enumerate() {
        lines.push(format!("iface {} {kind}", job.name));
        lines.extend(options.iter().map(|option| format!("    {option}")));
        if n == 0 {
            lines.push(format!("    bridge_ports {}", job.nic));
            // With spanning tree the kernel takes no delay below two seconds, so there it keeps its own.
            let stp: &[&str] = if job.stp { &["bridge_stp on"] } else { &["bridge_stp off", "bridge_fd 0"] };
            lines.extend(stp.iter().map(|line| format!("    {line}")));
            lines.extend(job.mac.map(|mac| format!("    bridge_hw {mac}")));
        }
    }
    let before = job.host.exists(&path)?.then_some(found.rest.as_str());
    Ok(vec![Wanted { path, content: Some(marks::with_block(before, &lines)), mode: None }])
}

fn explicit(ipv4: &super::Ipv4) -> Result<(String, Vec<String>)> {
    let kind = match ipv4.method {
        Ipv4Method::Dhcp => "inet dhcp",
        Ipv4Method::Static => "inet static",
        Ipv4Method::None => "inet manual",
    };
    let mut options = Vec::new();
    for (n, (address, prefix)) in ipv4.pairs()?.into_iter().enumerate() {
        options.push(if n == 0 {
            format!("address {address}/{prefix}")
        } else {
            format!("up ip address add {address}/{prefix} dev $IFACE")
        });
    }
    options.extend(ipv4.gateway.as_ref().map(|gateway| format!("gateway {}", gateway.0)));
    if !ipv4.dns.is_empty() {
        let mut servers = String::from("dns-nameservers");
        for server in ipv4.dns.iter() {
            let _ = write!(servers, " {}", server.0);
        }
        options.push(servers);
    }
    Ok((kind.to_string(), options))
}
