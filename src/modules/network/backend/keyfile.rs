//! NetworkManager's keyfiles (nm-settings-keyfile(5)).

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::{Ipv4Method, Job, Wanted, key_value, sections, theirs};
use crate::host::Result;
use crate::modules::network::marks;

/// Where the files are.
pub const FOLDER: &str = "/etc/NetworkManager/system-connections";

fn get<'a>(all: &[(&'a str, Vec<&'a str>)], section: &str, key: &str) -> Option<&'a str> {
    let (_, lines) = all.iter().find(|(name, _)| *name == section)?;
    lines.iter().filter_map(|line| key_value(line)).find(|(k, _)| *k == key).map(|(_, value)| value)
}

/// The profiles of the card.
///
/// # Errors
/// When the machine can't be read.
pub fn profiles(job: &Job) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for name in job.host.list(FOLDER)? {
        let path = format!("{FOLDER}/{name}");
        if super::text_of(job.host, &path)?.is_some_and(|text| super::is_own(&text)) {
            continue;
        }
        let Some(text) = theirs(job, &path)? else { continue };
        let all = sections(&text);
        let wired = matches!(get(&all, "connection", "type"), Some("ethernet" | "802-3-ethernet" | "vlan" | "bond"));
        let port = get(&all, "connection", "master").or(get(&all, "connection", "controller")).is_some();
        let mac =
            ["ethernet", "802-3-ethernet"].iter().find_map(|s| get(&all, s, "mac-address")).map(str::to_lowercase);
        let fits = match get(&all, "connection", "interface-name") {
            Some(name) => name == job.nic,
            None => mac.is_some() && mac.as_deref() == job.nic_mac,
        };
        if wired && fits && !port {
            found.push((path, text));
        }
    }
    Ok(found)
}

/// A UUID that is the same on every run and different on every machine.
fn uuid(job: &Job, what: &str) -> Result<String> {
    let machine = job.host.read_line("/etc/machine-id")?.unwrap_or_default();
    let hash = Sha256::digest(format!("vfio-provision bridge {machine} {} {what}", job.name));
    let mut hex: Vec<char> = format!("{hash:x}").chars().take(32).collect();
    // Version 8 (made by a rule of one's own), RFC 9562.
    for (at, digit) in [(12, '8'), (16, '8')] {
        if let Some(place) = hex.get_mut(at) {
            *place = digit;
        }
    }
    let text: String = hex.into_iter().collect();
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default().to_string();
    Ok([part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-"))
}

fn section(body: &mut String, name: &str, lines: &[&str]) {
    let _ = writeln!(body, "\n[{name}]");
    for line in lines.iter().filter(|line| !line.trim().is_empty()) {
        let _ = writeln!(body, "{line}");
    }
}

/// The bridge, its port, and the card's own profiles, which must not start by themselves any more.
///
/// # Errors
/// Refusals, and when the machine can't be read.
pub fn files(job: &Job) -> Result<Vec<Wanted>> {
    let bridge = format!("{FOLDER}/{}.nmconnection", job.name);
    let port = format!("{FOLDER}/{}-port-{}.nmconnection", job.name, job.nic);
    job.claim(&bridge)?;
    job.claim(&port)?;
    let profiles = profiles(job)?;
    // Of several, the one that would start by itself is what the card has now; a card without any gets DHCP from
    // NetworkManager (its "Wired connection 1"), and so does the bridge then.
    let starts = |text: &str| get(&sections(text), "connection", "autoconnect") != Some("false");
    let present = profiles.iter().find(|(_, text)| starts(text)).or_else(|| profiles.first());
    let all = present.map(|(_, text)| sections(text)).unwrap_or_default();
    let lines = |name: &str| all.iter().find(|(n, _)| *n == name).map(|(_, lines)| lines.clone());

    let mut body =
        format!("[connection]\nid={0}\nuuid={1}\ntype=bridge\ninterface-name={0}\n", job.name, uuid(job, "bridge")?);
    body.push_str("autoconnect=true\nautoconnect-slaves=1\n");
    if let Some(zone) = get(&all, "connection", "zone") {
        let _ = writeln!(body, "zone={zone}");
    }
    if let Some(mac) = job.mac {
        section(&mut body, "ethernet", &[&format!("cloned-mac-address={}", mac.to_uppercase())]);
    }
    section(&mut body, "bridge", &[if job.stp { "stp=true" } else { "stp=false" }]);
    match job.ipv4 {
        Some(ipv4) => {
            let mut own = vec![match ipv4.method {
                Ipv4Method::Dhcp => "method=auto".to_string(),
                Ipv4Method::Static => "method=manual".to_string(),
                Ipv4Method::None => "method=disabled".to_string(),
            }];
            for (n, (address, prefix)) in ipv4.pairs()?.into_iter().enumerate() {
                own.push(format!("address{}={address}/{prefix}", n + 1));
            }
            own.extend(ipv4.gateway.as_ref().map(|gateway| format!("gateway={}", gateway.0)));
            if !ipv4.dns.is_empty() {
                own.push(format!("dns={};", ipv4.dns.iter().map(|d| d.0.as_str()).collect::<Vec<_>>().join(";")));
            }
            section(&mut body, "ipv4", &own.iter().map(String::as_str).collect::<Vec<_>>());
        }
        None => section(&mut body, "ipv4", &lines("ipv4").unwrap_or_else(|| vec!["method=auto"])),
    }
    section(&mut body, "ipv6", &lines("ipv6").unwrap_or_else(|| vec!["method=auto"]));
    if let Some(proxy) = lines("proxy").filter(|lines| lines.iter().any(|line| !line.trim().is_empty())) {
        section(&mut body, "proxy", &proxy);
    }

    let kind = if present.and_then(|_| get(&all, "connection", "type")) == Some("bond") { "bond" } else { "ethernet" };
    let member = format!(
        "[connection]\nid={0}-port-{1}\nuuid={2}\ntype={kind}\ninterface-name={1}\nautoconnect=true\nmaster={0}\n\
         slave-type=bridge\n",
        job.name,
        job.nic,
        uuid(job, job.nic)?
    );
    let secret = Some(0o600);
    let mut wanted = vec![
        Wanted { path: bridge, content: Some(job.own(&body)), mode: secret },
        Wanted { path: port, content: Some(job.own(&member)), mode: secret },
    ];
    for (path, text) in &profiles {
        wanted.push(Wanted { path: path.clone(), content: Some(asleep(job, text)), mode: None });
    }
    Ok(wanted)
}

/// The same profile, but it does not start by itself. The block stands below the heading whose key it sets.
fn asleep(job: &Job, text: &str) -> String {
    let mut out = String::new();
    let mut here = false;
    for line in text.split_inclusive('\n') {
        let bare = line.trim();
        if bare.starts_with('[') {
            here = bare == "[connection]";
            out.push_str(line);
            // A heading at the very end of a file, without a line of its own below, has nothing to put to sleep.
            if here && line.ends_with('\n') {
                out.push_str(&marks::inner_block(&[job.tag(), "autoconnect=false".into()]));
            }
        } else if here && key_value(line).is_some_and(|(key, _)| key == "autoconnect") {
            out.push_str(marks::OFF);
            out.push_str(line);
        } else {
            out.push_str(line);
        }
    }
    out
}
