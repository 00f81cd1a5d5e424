//! A domain's parts in the words of people: what a diff says, without the XML.

use super::normal::amount;
use crate::modules::libvirt::xml::{Element, Node};

/// What stands for a secret.
pub const HIDDEN: &str = "********";

/// The element with every secret in it hidden: passwords of displays, cookies of network disks, secrets among QEMU's own
/// arguments.
pub fn masked(element: &Element) -> Element {
    let mut copy = element.clone();
    mask(&mut copy);
    copy
}

fn mask(element: &mut Element) {
    for name in ["passwd", "password"] {
        if element.attribute(name).is_some() {
            element.set(name, HIDDEN);
        }
    }
    match element.name.as_str() {
        "cookie" if !element.nodes.is_empty() => element.set_text(HIDDEN),
        "qemu:arg" => {
            if let Some(hidden) = element.attribute("value").and_then(hidden_argument) {
                element.set("value", hidden);
            }
        }
        "qemu:env" => {
            let name = element.attribute("name").unwrap_or_default().to_ascii_uppercase();
            if ["PASS", "SECRET", "TOKEN"].iter().any(|word| name.contains(word)) {
                element.set("value", HIDDEN);
            }
        }
        _ => {}
    }
    for child in element.elements_mut() {
        mask(child);
    }
}

/// `secret,id=s,data=abc`: what comes after `data=` and `password=` is nobody's business.
fn hidden_argument(value: &str) -> Option<String> {
    let secret = value.starts_with("secret,");
    let mut found = false;
    let parts: Vec<String> = value
        .split(',')
        .map(|part| match part.split_once('=') {
            Some((key, _)) if key == "password" || secret && key == "data" => {
                found = true;
                format!("{key}={HIDDEN}")
            }
            _ => part.to_string(),
        })
        .collect();
    found.then(|| parts.join(","))
}

/// May the value of this attribute be shown?
pub fn shown(attribute: &str, value: &str) -> String {
    if matches!(attribute, "passwd" | "password") { HIDDEN.to_string() } else { value.to_string() }
}

/// What is shown of an element: its text or amount when that is all, otherwise everything in it on one line; secrets never.
pub fn describe(element: &Element) -> String {
    let element = masked(element);
    if element.attributes.is_empty() && element.elements().next().is_none() {
        return if element.nodes.is_empty() { "yes".to_string() } else { element.text() };
    }
    if let Some(size) = amount(&element) {
        return size.to_string();
    }
    if let ([(name, value)], []) = (element.attributes.as_slice(), element.nodes.as_slice())
        && matches!(name.as_str(), "state" | "value")
    {
        return value.clone();
    }
    let mut parts = Vec::new();
    collect(&mut Vec::new(), &element, &mut parts);
    parts.join(", ")
}

fn collect<'a>(way: &mut Vec<&'a str>, element: &'a Element, parts: &mut Vec<String>) {
    let mut say = |words: String, value: &str| {
        parts.push(if words.is_empty() { value.to_string() } else { format!("{words} {value}") });
    };
    let text = if element.elements().next().is_none() { element.text() } else { String::new() };
    let size = amount(element);
    match size {
        Some(size) => say(words(way, None), &size.to_string()),
        None if !text.is_empty() => say(words(way, None), &text),
        None if element.nodes.is_empty() && element.attributes.is_empty() => parts.push(words(way, None)),
        None => {}
    }
    for (name, value) in &element.attributes {
        if name.starts_with("xmlns") || (size.is_some() && matches!(name.as_str(), "unit" | "size")) {
            continue;
        }
        let words = words(way, Some(name));
        parts.push(if words.is_empty() { value.clone() } else { format!("{words} {value}") });
    }
    for node in &element.nodes {
        if let Node::Element(child) = node {
            way.push(&child.name);
            collect(way, child, parts);
            way.pop();
        }
    }
}

/// Where a disk's, an interface's or a file system's content comes from.
pub fn source(device: &Element) -> Option<String> {
    let source = device.get("source")?;
    let kind = device.attribute("type").unwrap_or_default();
    let value = |name: &str| source.attribute(name).map(str::to_string);
    Some(match (device.name.as_str(), kind) {
        ("disk", "file") => value("file")?,
        ("disk", "block") => value("dev")?,
        ("disk", "dir") | ("filesystem", _) if value("dir").is_some() => value("dir")?,
        ("disk", "volume") => format!("{} in pool {}", value("volume")?, value("pool")?),
        ("interface", "bridge") => format!("bridge {}", value("bridge")?),
        ("interface", "network") => format!("network {}", value("network")?),
        ("interface", "direct") => format!("direct {}", value("dev")?),
        _ => describe(source),
    })
}

/// A way through the document in the words that people use.
pub fn words(way: &[&str], attribute: Option<&str>) -> String {
    let mut way = way.to_vec();
    let device = way.first().copied().filter(|first| is_label(first));
    if device.is_some() {
        way.remove(0);
    }
    let inner = match (way.as_slice(), attribute) {
        (["os", "type"], Some(name @ ("machine" | "arch"))) => name.to_string(),
        (["os", rest @ ..], name) if !rest.is_empty() => join(rest, name),
        (["vcpu"], None) => "vcpus".to_string(),
        (["vcpu"], Some("current")) => "vcpus in use".to_string(),
        (["currentMemory"], None) => "current memory".to_string(),
        (["memory"], None) => "memory".to_string(),
        (["qemu:commandline", "qemu:arg"], None) => "QEMU arguments".to_string(),
        (["qemu:commandline", "qemu:env", rest @ ..], name) => join(&[&["QEMU environment"], rest].concat(), name),
        (["cputune", rest @ ..], Some("cpuset")) if !rest.is_empty() => join(rest, None),
        (["cputune", rest @ ..], name) if !rest.is_empty() => join(rest, name),
        (["driver"], Some("type")) => "format".to_string(),
        (["driver"], Some("name")) => "driver".to_string(),
        (["driver"], Some(name)) => name.to_string(),
        (["source"], Some("file" | "dev" | "dir")) => "source".to_string(),
        (["source"], Some(name @ ("bridge" | "network" | "pool" | "volume"))) => name.to_string(),
        (["target"], Some("bus")) => "bus".to_string(),
        (["target"], Some("dev" | "dir")) => "target".to_string(),
        (["model"], Some("type" | "name")) => "model".to_string(),
        (["model"], Some(name)) => name.to_string(),
        (["mac"], Some("address")) => "mac".to_string(),
        (["boot"], Some("order")) => "boot order".to_string(),
        (["link"], Some("state")) => "link".to_string(),
        (rest, Some("state" | "value")) if !rest.is_empty() => join(rest, None),
        (rest, name) => join(rest, name),
    };
    match device {
        Some(device) if inner.is_empty() => device.to_string(),
        Some(device) => format!("{device}: {inner}"),
        None => inner,
    }
}

/// Labels of devices begin a way; names of elements have no blanks, but for those of which there is only one.
fn is_label(first: &str) -> bool {
    first.contains(' ')
        || matches!(
            first,
            "video"
                | "memballoon"
                | "emulator"
                | "tpm"
                | "watchdog"
                | "rng"
                | "sound"
                | "iommu"
                | "vsock"
                | "panic"
                | "smartcard"
        )
}

fn join(way: &[&str], attribute: Option<&str>) -> String {
    way.iter().copied().chain(attribute).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::libvirt::xml::parse;

    #[test]
    fn what_a_diff_says_of_an_element() {
        for (xml, said) in [
            ("<acpi/>", "yes"),
            ("<on_crash>destroy</on_crash>", "destroy"),
            ("<memory unit='KiB'>1048576</memory>", "1 GiB"),
            ("<topology sockets='1' cores='4' threads='1'/>", "sockets 1, cores 4, threads 1"),
            ("<loader readonly='yes' type='pflash'>/c.fd</loader>", "/c.fd, readonly yes, type pflash"),
            (
                "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='/a'/>\
                 <target dev='vda' bus='virtio'/><readonly/></disk>",
                "type file, device disk, driver qemu, format qcow2, cache none, source /a, target vda, bus virtio, readonly",
            ),
            ("<graphics type='vnc' passwd='secret'/>", "type vnc, passwd ********"),
            (
                "<hyperv><relaxed state='on'/><vendor_id state='on' value='a'/></hyperv>",
                "relaxed on, vendor_id on, vendor_id a",
            ),
            ("<shmem name='l'><size unit='M'>64</size></shmem>", "name l, size 64 MiB"),
        ] {
            assert_eq!(describe(&parse(xml).unwrap()), said);
        }
    }

    #[test]
    fn secrets_are_hidden_wherever_they_stand() {
        let text = "<domain><qemu:commandline><qemu:arg value='secret,id=a,data=hush'/><qemu:arg value='x,password=hush,y=1'/>\
            <qemu:arg value='data=seen'/><qemu:env name='MY_PASSWORD' value='hush'/><qemu:env name='HOME' value='seen'/>\
            </qemu:commandline><devices><disk><source><cookies><cookie name='c'>hush</cookie></cookies></source></disk>\
            <graphics passwd='hush'/></devices></domain>";
        let shown = masked(&parse(text).unwrap()).print();
        assert!(!shown.contains("hush"), "{shown}");
        assert_eq!(shown.matches(HIDDEN).count(), 5, "{shown}");
        assert_eq!(shown.matches("seen").count(), 2, "{shown}");
    }
}
