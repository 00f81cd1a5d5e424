//! systemd-networkd (systemd.network(5), systemd.netdev(5)).
//!
//! The first file that matches an interface wins, so three files that sort first are all it takes; those of others stay
//! as they are.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::{Ipv4Method, Job, Wanted, glob, is_own, key_value, sections};
use crate::host::{Error, Result};

/// Where our files are.
pub const FOLDER: &str = "/etc/systemd/network";
const FOLDERS: [&str; 3] = ["/usr/lib/systemd/network", "/run/systemd/network", FOLDER];
const PREFIX: &str = "00-vfio-provision";

/// The file that configures the card now.
///
/// # Errors
/// When the machine can't be read.
pub fn file_of(job: &Job) -> Result<Option<(String, String)>> {
    // A file in /etc hides one of the same name in /run and /usr/lib.
    let mut by_name = BTreeMap::new();
    for folder in FOLDERS {
        for name in job.host.list(folder)? {
            if name.ends_with(".network") {
                by_name.insert(name.clone(), format!("{folder}/{name}"));
            }
        }
    }
    for path in by_name.into_values() {
        let Some(text) = super::text_of(job.host, &path)? else { continue };
        if !is_own(&text) && fits(job, &text) {
            return Ok(Some((path, text)));
        }
    }
    Ok(None)
}

fn fits(job: &Job, text: &str) -> bool {
    let all = sections(text);
    let keys: Vec<(&str, &str)> = all
        .iter()
        .filter(|(name, _)| *name == "Match")
        .flat_map(|(_, lines)| lines.iter().filter_map(|line| key_value(line)))
        .collect();
    !keys.is_empty()
        && keys.iter().all(|(key, value)| match *key {
            "Name" | "OriginalName" => match value.strip_prefix('!') {
                Some(not) => !not.split_whitespace().any(|pattern| glob(pattern, job.nic)),
                None => value.split_whitespace().any(|pattern| glob(pattern, job.nic)),
            },
            "MACAddress" | "PermanentMACAddress" => {
                value.to_lowercase().split_whitespace().any(|mac| Some(mac) == job.nic_mac)
            }
            "Type" => value.split_whitespace().any(|kind| kind == "ether"),
            // What can't be judged from files does not count as a match.
            _ => false,
        })
}

/// The bridge, its addresses, and the card as its port.
///
/// # Errors
/// Refusals, and when the machine can't be read.
pub fn files(job: &Job) -> Result<Vec<Wanted>> {
    let path = |what: &str| format!("{FOLDER}/{PREFIX}-{}{what}", job.name);
    let mut netdev = format!("[NetDev]\nName={}\nKind=bridge\n", job.name);
    if let Some(mac) = job.mac {
        let _ = writeln!(netdev, "MACAddress={mac}");
    }
    // With spanning tree the kernel takes no delay below two seconds, so there it keeps its own.
    netdev.push_str(if job.stp { "\n[Bridge]\nSTP=yes\n" } else { "\n[Bridge]\nSTP=no\nForwardDelaySec=0\n" });

    let present = file_of(job)?;
    if let Some((theirs, _)) = &present
        && let Some(name) = theirs.rsplit('/').next()
        && name < PREFIX
    {
        return Err(Error::refused(format!(
            "{theirs} comes before any file of ours and would keep {} for itself",
            job.nic
        ))
        .hint("rename it so that it sorts later, such as 20-wired.network"));
    }
    let mut network = format!("[Match]\nName={}\n", job.name);
    match (job.ipv4, &present) {
        (Some(ipv4), _) => {
            network.push_str("\n[Network]\n");
            network.push_str(if ipv4.method == Ipv4Method::Dhcp { "DHCP=ipv4\n" } else { "DHCP=no\n" });
            for (address, prefix) in ipv4.pairs()? {
                let _ = writeln!(network, "Address={address}/{prefix}");
            }
            if let Some(gateway) = &ipv4.gateway {
                let _ = writeln!(network, "Gateway={}", gateway.0);
            }
            for server in ipv4.dns.iter() {
                let _ = writeln!(network, "DNS={}", server.0);
            }
        }
        (None, Some((_, text))) => {
            for (name, lines) in sections(text) {
                if matches!(name, "Match" | "Link") {
                    continue;
                }
                let _ = writeln!(network, "\n[{name}]");
                for line in lines.iter().filter(|line| !line.trim().is_empty()) {
                    let _ = writeln!(network, "{line}");
                }
            }
        }
        (None, None) => return Err(job.nothing_to_keep(FOLDER)),
    }
    let port = format!("[Match]\nName={}\n\n[Network]\nBridge={}\n", job.nic, job.name);
    Ok(vec![
        Wanted { path: path(".netdev"), content: Some(job.own(&netdev)), mode: None },
        Wanted { path: path(".network"), content: Some(job.own(&network)), mode: None },
        Wanted { path: path("-port.network"), content: Some(job.own(&port)), mode: None },
    ])
}
