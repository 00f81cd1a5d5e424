//! The ways in which distributions keep their network configuration.
//!
//! Each backend answers the files that make the bridge at every boot. A file that is not ours is changed by a block at
//! its top and by switching lines off (see [`marks`]), so that it can be given back byte for byte.

pub mod ifcfg;
pub mod ifupdown;
pub mod keyfile;
pub mod netplan;
pub mod networkd;

use std::net::Ipv4Addr;

use schemars::JsonSchema;
use serde::Deserialize;

use super::marks;
use crate::host::{Error, Host, Result};
use crate::modules::params::{List, Text};

/// First line of files that are wholly ours.
pub const HEADER: &str = "# Written by vfio-provision (bridge); changes are overwritten.";

/// Addresses given by the user instead of the ones the card has.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ipv4 {
    /// `dhcp`, `static`, or `none` for a bridge without an address.
    pub method: Ipv4Method,
    /// Addresses with their prefix: "192.168.1.10/24".
    #[serde(default)]
    pub addresses: List<Text>,
    /// The default gateway.
    pub gateway: Option<Text>,
    /// Name servers.
    #[serde(default)]
    pub dns: List<Text>,
}

/// Where a bridge has its address from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Ipv4Method {
    /// A DHCP server.
    #[default]
    Dhcp,
    /// As written.
    Static,
    /// It has none.
    None,
}

impl Ipv4 {
    /// Do the values make sense, alone and together?
    ///
    /// # Errors
    /// A parameter error that says which does not.
    pub fn check(&self) -> Result<()> {
        self.pairs()?;
        for text in self.gateway.iter().chain(self.dns.iter()) {
            text.parse::<Ipv4Addr>()
                .map_err(|_| Error::parameters(format!("`{}` in `ipv4` is not an IPv4 address", text.0)))?;
        }
        match (self.method, self.addresses.is_empty()) {
            (Ipv4Method::Static, true) => {
                Err(Error::parameters("`ipv4` with `method: static` needs `addresses`")
                    .hint("such as \"192.168.1.10/24\""))
            }
            (Ipv4Method::Dhcp | Ipv4Method::None, false) => {
                Err(Error::parameters("`ipv4` has `addresses`, which only `method: static` uses"))
            }
            _ => Ok(()),
        }
    }

    /// Addresses and prefixes.
    ///
    /// # Errors
    /// A parameter error for what is none.
    pub fn pairs(&self) -> Result<Vec<(Ipv4Addr, u8)>> {
        self.addresses
            .iter()
            .map(|text| {
                let pair = text.split_once('/').and_then(|(address, prefix)| {
                    Some((address.parse().ok()?, prefix.parse().ok().filter(|prefix| *prefix <= 32)?))
                });
                pair.ok_or_else(|| {
                    Error::parameters(format!("`{}` in `ipv4.addresses` is not an address with a prefix", text.0))
                        .hint("write it like \"192.168.1.10/24\"")
                })
            })
            .collect()
    }
}

/// What a backend is asked for.
pub struct Job<'a> {
    /// The machine.
    pub host: &'a dyn Host,
    /// The bridge.
    pub name: &'a str,
    /// Its port.
    pub nic: &'a str,
    /// The card's own hardware address.
    pub nic_mac: Option<&'a str>,
    /// The hardware address of the bridge.
    pub mac: Option<&'a str>,
    /// Spanning tree.
    pub stp: bool,
    /// `None`: what the card has now.
    pub ipv4: Option<&'a Ipv4>,
}

impl Job<'_> {
    /// The line by which a boot (and we ourselves) know what a file is for.
    pub fn tag(&self) -> String {
        let mac = self.mac.map(|mac| format!(" mac {mac}")).unwrap_or_default();
        format!("# bridge {} port {}{mac}", self.name, self.nic)
    }

    /// The text of a file that is wholly ours.
    pub fn own(&self, body: &str) -> String {
        format!("{HEADER}\n{}\n{body}", self.tag())
    }

    /// A file of ours must not overwrite one of someone else.
    ///
    /// # Errors
    /// A refusal.
    pub fn claim(&self, path: &str) -> Result<()> {
        match self.host.read_text(path)? {
            Some(text) if !is_own(&text) => Err(Error::refused(format!(
                "{path} exists and was not written by this program: a bridge {} is configured already",
                self.name
            ))
            .hint("give the bridge another `name`, or take that configuration away first")),
            _ => Ok(()),
        }
    }

    /// The words for a card whose configuration is nowhere to be found.
    pub fn nothing_to_keep(&self, place: &str) -> Error {
        Error::refused(format!(
            "there is no configuration of {} in {place} that {} could take over",
            self.nic, self.name
        ))
        .hint("say what the bridge shall have: `ipv4: {method: dhcp}`, or static with addresses, gateway, dns")
    }
}

/// A file as it shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where.
    pub path: String,
    /// `None`: it shall not be there.
    pub content: Option<String>,
    /// Permission bits for a file that must have some.
    pub mode: Option<u32>,
}

/// Bridge, port and hardware address from a tag line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The bridge.
    pub bridge: String,
    /// Its port.
    pub port: String,
    /// Its hardware address.
    pub mac: Option<String>,
}

/// The tag in a file that we wrote or changed.
pub fn tag_of(text: &str) -> Option<Tag> {
    let line = if is_own(text) {
        text.lines().nth(1)?
    } else {
        marks::block(text)?.into_iter().find(|line| line.starts_with("# bridge "))?
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["#", "bridge", bridge, "port", port, rest @ ..] => {
            let mac = if let ["mac", mac] = rest { Some(mac.to_string()) } else { None };
            Some(Tag { bridge: bridge.to_string(), port: port.to_string(), mac })
        }
        _ => None,
    }
}

/// Is a file wholly ours?
pub fn is_own(text: &str) -> bool {
    text.lines().next() == Some(HEADER)
}

/// The folders (and one file) in which any backend keeps what it wrote.
const PLACES: [&str; 5] = [ifcfg::FOLDER, keyfile::FOLDER, netplan::FOLDER, networkd::FOLDER, ifupdown::FOLDER];

/// Every file that carries our mark, with its text and its tag.
///
/// # Errors
/// When the machine can't be read.
pub fn marked<H: Host + ?Sized>(host: &H) -> Result<Vec<(String, String, Tag)>> {
    let mut paths = vec![ifupdown::MAIN.to_string()];
    for folder in PLACES {
        paths.extend(host.list(folder)?.into_iter().map(|name| format!("{folder}/{name}")));
    }
    let mut found = Vec::new();
    for path in paths {
        let is_file = matches!(host.stat(&path)?, Some(stat) if stat.kind == crate::host::FileKind::File);
        if !is_file {
            continue;
        }
        let Some(bytes) = host.read(&path)? else { continue };
        if let Ok(text) = String::from_utf8(bytes)
            && let Some(tag) = tag_of(&text)
        {
            found.push((path, text, tag));
        }
    }
    Ok(found)
}

/// The files of one bridge as they were before we came.
///
/// # Errors
/// When the machine can't be read.
pub fn originals(host: &dyn Host, bridge: &str) -> Result<Vec<Wanted>> {
    Ok(marked(host)?
        .into_iter()
        .filter(|(_, _, tag)| tag.bridge == bridge)
        .map(|(path, text, _)| {
            let content = if is_own(&text) { None } else { marks::original(Some(&text)) };
            Wanted { path, content, mode: None }
        })
        .collect())
}

/// The text of a regular file; `None` for what is absent or something else (folders happen in `interfaces.d`).
///
/// # Errors
/// When the machine can't be read.
pub fn text_of(host: &dyn Host, path: &str) -> Result<Option<String>> {
    match host.stat(path)? {
        Some(stat) if stat.kind == crate::host::FileKind::File => host.read_text(path),
        _ => Ok(None),
    }
}

/// The text of someone else's file without what we did to it; refuses one that we changed for another bridge.
///
/// # Errors
/// The refusal, and when the machine can't be read.
pub fn theirs(job: &Job, path: &str) -> Result<Option<String>> {
    let now = text_of(job.host, path)?;
    if let Some(tag) = now.as_deref().and_then(tag_of)
        && tag.bridge != job.name
    {
        return Err(Error::refused(format!("{path} has been changed for the bridge {} already", tag.bridge))
            .hint("two bridges whose cards are configured in the same file are not supported: split that file first"));
    }
    Ok(marks::original(now.as_deref()))
}

/// A simple shell pattern (`*` and `?`), as udev, networkd and ifupdown know them.
pub fn glob(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // The classic two-pointer walk: on a mismatch the last star takes one character more.
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || text.get(t) == Some(c) => {
                p += 1;
                t += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    t = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern.get(p..).unwrap_or_default().iter().all(|c| *c == '*')
}

/// Sections of a file in the manner of systemd and keyfiles: name and lines, the lines as they are written.
pub fn sections(text: &str) -> Vec<(&str, Vec<&str>)> {
    let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in text.lines() {
        let bare = line.trim();
        if let Some(name) = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            all.push((name, Vec::new()));
        } else if let Some((_, lines)) = all.last_mut() {
            lines.push(line);
        }
    }
    all
}

/// Key and value of a line such as `Name = x`; `None` for comments and all else.
pub fn key_value(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    if line.starts_with(['#', ';']) {
        return None;
    }
    line.split_once('=').map(|(key, value)| (key.trim(), value.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns() {
        assert!(glob("en*", "eno1") && glob("e?o*1", "eno1") && glob("*", "") && glob("eno1", "eno1"));
        assert!(!glob("en*", "wlan0") && !glob("eno", "eno1") && !glob("?", ""));
    }

    #[test]
    fn addresses_are_checked() {
        let check =
            |value| serde_json::from_value::<Ipv4>(value).map_err(|e| e.to_string())?.check().map_err(|e| e.message);
        assert!(
            check(serde_json::json!({"method": "static", "addresses": "10.0.0.2/24", "gateway": "10.0.0.1"})).is_ok()
        );
        assert!(check(serde_json::json!({"method": "static"})).is_err_and(|e| e.contains("needs `addresses`")));
        assert!(check(serde_json::json!({"method": "dhcp", "addresses": ["10.0.0.2/24"]})).is_err());
        assert!(
            check(serde_json::json!({"method": "static", "addresses": ["10.0.0.2"]}))
                .is_err_and(|e| e.contains("prefix"))
        );
        assert!(check(serde_json::json!({"method": "dhcp", "dns": ["x"]})).is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(text in "\\PC{0,40}", lines in "([#a-z\\[\\]= ]{0,12}\n){0,5}") {
            let _ = (tag_of(&text), sections(&lines), glob(&text, &lines), key_value(&text));
        }
    }
}
