//! Elements of which several may stand side by side: told apart by what they say, or by their order.

use super::Merger;
use crate::modules::libvirt::domain::intent::namespace;
use crate::modules::libvirt::domain::words::{describe, masked, words};
use crate::modules::libvirt::values::number;
use crate::modules::libvirt::xml::{Element, Node};

/// How elements of one name stand beside each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// There is only one.
    Single,
    /// These attributes tell them apart; their order means nothing.
    Keyed(&'static [&'static str]),
    /// The namespace tells them apart (inside `<metadata>`).
    Namespaced,
    /// Their order means something, such as that of `<qemu:arg>`.
    Ordered,
}

/// What elements of this name are inside of that one (<https://libvirt.org/formatdomain.html>).
pub fn sort(parent: &str, name: &str) -> Sort {
    Sort::Keyed(match (parent, name) {
        ("metadata", _) => return Sort::Namespaced,
        ("oemStrings", "entry") | ("redirfilter", "usbdev") => return Sort::Ordered,
        (_, "qemu:arg" | "initarg" | "table") => return Sort::Ordered,
        ("cpu" | "firmware", "feature") | ("clock", "timer") => &["name"],
        (_, "entry" | "initenv" | "parameter" | "cookie" | "qemu:env" | "qemu:property") => &["name"],
        ("domain", "sysinfo") => &["type"],
        ("domain", "seclabel") | ("source", "seclabel") => &["model"],
        ("cputune", "vcpupin") => &["vcpu"],
        ("cputune", "iothreadpin") => &["iothread"],
        ("cputune", "vcpusched" | "cachetune" | "memorytune") => &["vcpus"],
        ("cputune", "iothreadsched") => &["iothreads"],
        ("cachetune", "cache") => &["id", "level", "type"],
        ("cachetune", "monitor") => &["level", "vcpus"],
        ("memorytune", "node") => &["id"],
        ("numatune", "memnode") => &["cellid"],
        ("numa", "cell") | ("distances", "sibling") | ("iothreadids", "iothread") | ("vcpus", "vcpu") => &["id"],
        ("interconnects", "latency" | "bandwidth") => &["initiator", "target", "type", "cache"],
        ("hugepages", "page") => &["nodeset"],
        ("graphics", "listen") => &["type"],
        ("graphics", "channel") => &["name"],
        ("interface", "ip") => &["address"],
        ("interface", "route") => &["address", "prefix"],
        ("vlan", "tag") => &["id"],
        ("source", "host") => &["name", "socket"],
        (_, "qemu:device") => &["alias"],
        (_, "qemu:add" | "qemu:del") => &["capability"],
        _ => return Sort::Single,
    })
}

/// Parts of which libvirt never adds one by itself: one that nobody states was put there by a person.
pub fn is_somebodys(parent: &str, name: &str) -> bool {
    match parent {
        "domain" => matches!(
            name,
            "cputune"
                | "numatune"
                | "memtune"
                | "blkiotune"
                | "memoryBacking"
                | "iothreads"
                | "sysinfo"
                | "qemu:commandline"
                | "qemu:override"
        ),
        "features" => matches!(name, "hyperv" | "kvm" | "pmu" | "hap" | "vmcoreinfo"),
        "clock" => name == "timer",
        "hyperv" | "kvm" | "cputune" | "memoryBacking" | "qemu:commandline" | "memtune" | "blkiotune" => true,
        "disk" => matches!(name, "iotune" | "wwn" | "serial" | "encryption" | "geometry" | "blockio"),
        "interface" => matches!(name, "bandwidth" | "vlan" | "mtu" | "link" | "filterref" | "rom" | "tune"),
        _ => false,
    }
}

/// The same of attributes.
pub fn is_somebodys_attribute(element: &str, attribute: &str) -> bool {
    element == "driver"
        && matches!(
            attribute,
            "cache"
                | "io"
                | "discard"
                | "detect_zeroes"
                | "error_policy"
                | "rerror_policy"
                | "iothread"
                | "queues"
                | "copy_on_read"
        )
}

type Key = Vec<Option<String>>;

fn key(attributes: &[&str], element: &Element) -> Key {
    let value = |name: &&str| {
        element.attribute(name).map(|text| number(text).map_or_else(|| text.to_string(), |n| n.to_string()))
    };
    attributes.iter().map(value).collect()
}

fn label(key: &Key) -> String {
    key.iter().flatten().map(String::as_str).collect::<Vec<_>>().join(" ")
}

impl Merger {
    /// Elements that attributes tell apart.
    pub(super) fn keyed(
        &mut self,
        way: &[&str],
        attributes: &[&str],
        stated: &[&Element],
        current: &mut Element,
        last: &[&Element],
    ) {
        let Some(name) = way.last().copied() else { return };
        let find = |list: &[&Element], wanted: &Key| -> Option<Element> {
            list.iter().copied().find(|e| key(attributes, e) == *wanted).cloned()
        };
        for wanted in stated {
            let wanted_key = key(attributes, wanted);
            let label = label(&wanted_key);
            let mut inner = way.to_vec();
            if !label.is_empty() {
                inner.push(&label);
            }
            let child = current.elements_mut().find(|e| e.name == name && key(attributes, e) == wanted_key);
            match child {
                Some(child) => self.element(&inner, wanted, child, find(last, &wanted_key).as_ref()),
                None => {
                    self.change(&words(&inner, None), None, Some(without_key(wanted, attributes)));
                    current.nodes.push(Node::Element((*wanted).clone()));
                }
            }
        }
        let somebodys = is_somebodys(&current.name, name);
        let mut gone: Vec<Key> = Vec::new();
        for there in current.named(name) {
            let there_key = key(attributes, there);
            if find(stated, &there_key).is_some() {
                continue;
            }
            let label = label(&there_key);
            let mut inner = way.to_vec();
            if !label.is_empty() {
                inner.push(&label);
            }
            if find(last, &there_key).is_some() {
                self.change(&words(&inner, None), Some(without_key(there, attributes)), None);
                gone.push(there_key);
            } else if somebodys {
                self.left_alone.push(words(&inner, None));
            }
        }
        if !gone.is_empty() {
            current.retain(|e| e.name != name || !gone.contains(&key(attributes, e)));
        }
    }

    /// What others keep in `<metadata>`: each namespace is one matter, and is compared as a whole.
    pub(super) fn namespaced(&mut self, way: &[&str], stated: &[&Element], current: &mut Element, last: &[&Element]) {
        let Some(name) = way.last().copied() else { return };
        let find = |list: &[&Element], uri: Option<&str>| -> Option<Element> {
            list.iter().copied().find(|e| namespace(e).0 == uri).cloned()
        };
        for wanted in stated {
            let uri = namespace(wanted).0;
            let there = current.elements_mut().find(|e| e.name == name && namespace(e).0 == uri);
            let before = there.as_ref().map(|there| describe(there));
            match there {
                Some(there) if *there == **wanted => continue,
                Some(there) => *there = (*wanted).clone(),
                None => current.nodes.push(Node::Element((*wanted).clone())),
            }
            self.change(&words(way, None), before, Some(describe(wanted)));
        }
        for gone in last.iter().filter(|gone| find(stated, namespace(gone).0).is_none()) {
            let uri = namespace(gone).0;
            let Some(there) = current.elements().find(|e| e.name == name && namespace(e).0 == uri) else { continue };
            self.change(&words(way, None), Some(describe(there)), None);
            current.retain(|e| !(e.name == name && namespace(e).0 == uri));
        }
    }

    /// Elements whose order means something. Those of last time make room for those of now, at their place; what others put
    /// among or behind them stays.
    pub(super) fn ordered(&mut self, way: &[&str], stated: &[&Element], current: &mut Element, last: &[&Element]) {
        let Some(name) = way.last().copied() else { return };
        let there: Vec<Element> = current.named(name).cloned().collect();
        let all: Vec<&Element> = there.iter().collect();
        // Secrets of last time are not known any more.
        let same_as_last = |there: &Element, last: &Element| masked(there) == masked(last);
        let ours_then = in_order(&all, last, &same_as_last);
        let holds_now = in_order(&all, stated, &|there, stated| super::holds(stated, there));
        if holds_now.len() == stated.len() && ours_then.iter().all(|at| holds_now.contains(at)) {
            if is_somebodys(&current.name, name) {
                let others: Vec<&Element> =
                    all.iter().enumerate().filter(|(at, _)| !holds_now.contains(at)).map(|(_, e)| *e).collect();
                if !others.is_empty() {
                    self.left_alone.push(format!("{} {}", words(way, None), spoken(&others)));
                }
            }
            return;
        }
        // What holds already moves to where the rest of what is stated goes.
        let mut known = [ours_then, holds_now].concat();
        known.sort_unstable();
        let place = known.first().copied().unwrap_or(there.len());
        let mut fresh: Vec<Element> = Vec::new();
        for (at, element) in there.iter().enumerate() {
            if at == place {
                fresh.extend(stated.iter().copied().cloned());
            }
            if !known.contains(&at) {
                fresh.push(element.clone());
            }
        }
        if place >= there.len() {
            fresh.extend(stated.iter().copied().cloned());
        }
        let some = |list: &[&Element]| Some(spoken(list)).filter(|text| !text.is_empty());
        self.change(&words(way, None), some(&all), some(&fresh.iter().collect::<Vec<_>>()));
        let first = current.nodes.iter().position(|node| matches!(node, Node::Element(e) if e.name == name));
        let first = first.unwrap_or(current.nodes.len());
        current.retain(|e| e.name != name);
        for (offset, element) in fresh.into_iter().enumerate() {
            current.nodes.insert((first + offset).min(current.nodes.len()), Node::Element(element));
        }
    }
}

/// Where each of these stands in the list, one behind the other; those that are missing are passed over.
fn in_order(list: &[&Element], wanted: &[&Element], same: &dyn Fn(&Element, &Element) -> bool) -> Vec<usize> {
    let mut from = 0;
    let mut places = Vec::new();
    for wanted in wanted {
        let rest = list.get(from..).unwrap_or_default();
        if let Some(offset) = rest.iter().position(|there| same(there, wanted)) {
            places.push(from + offset);
            from += offset + 1;
        }
    }
    places
}

/// `-device foo -cpu host`: a list on one line.
fn spoken(list: &[&Element]) -> String {
    let word = |element: &&Element| match (element.attributes.as_slice(), element.nodes.as_slice()) {
        ([_], []) => masked(element).attributes.into_iter().map(|(_, value)| value).collect(),
        _ => describe(element),
    };
    list.iter().map(word).collect::<Vec<String>>().join(" ")
}

/// What an element says besides what it is found by.
fn without_key(element: &Element, attributes: &[&str]) -> String {
    let mut rest = element.clone();
    for name in attributes {
        rest.unset(name);
    }
    match rest.attributes.as_slice() {
        [(_, value)] if rest.nodes.is_empty() => {
            masked(&rest).attributes.first().map_or(value.clone(), |(_, v)| v.clone())
        }
        _ => describe(&rest),
    }
}
