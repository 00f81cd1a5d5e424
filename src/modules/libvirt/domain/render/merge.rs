//! Putting XML together: one document into another, what is chosen below what is stated, an `xml` block at its place.

use super::super::compare::holds;
use super::super::devices::{self, Takeover};
use crate::host::{Error, Result};
use crate::modules::libvirt::xml::{self, Element, Node};

/// The attribute that notes where an element came from. Nobody else's names begin with `vp:`; taken out by [`strip`].
pub const FROM: &str = "vp:from";

/// On a chosen element: what a guest has there is kept as a whole.
pub const WHOLE: &str = "vp:whole";

/// The namespace of `<qemu:commandline>`.
pub const QEMU: &str = "http://libvirt.org/schemas/domain/qemu/1.0";

/// A device: what is stated of it, and what is chosen where it is new.
#[derive(Clone, Debug, Default)]
pub struct Part {
    /// What the parameters say.
    pub stated: Option<Element>,
    /// What a new device gets besides.
    pub chosen: Option<Element>,
    /// Which entry of `gpus` it belongs to.
    pub card: Option<usize>,
}

impl Part {
    /// Its sort.
    pub fn name(&self) -> &str {
        self.stated.as_ref().or(self.chosen.as_ref()).map_or("", |element| element.name.as_str())
    }

    /// As a new device.
    pub fn full(&self) -> Element {
        match (&self.stated, &self.chosen) {
            (Some(stated), Some(chosen)) => {
                let mut full = stated.clone();
                fill(&mut full, chosen);
                full
            }
            (Some(one), None) | (None, Some(one)) => one.clone(),
            (None, None) => Element::default(),
        }
    }
}

/// Takes all notes out.
pub fn strip(element: &mut Element) {
    element.attributes.retain(|(name, _)| !name.starts_with("vp:"));
    element.elements_mut().for_each(strip);
}

/// How children of one name stand side by side.
enum Side {
    /// There is one.
    Single,
    /// An attribute tells them apart.
    Keyed(&'static str),
    /// They are a list, in order.
    List,
}

fn side(name: &str) -> Side {
    Side::Keyed(match name {
        "feature" | "timer" | "parameter" | "entry" | "qemu:env" | "qemu:property" => "name",
        "vcpupin" => "vcpu",
        "iothreadpin" => "iothread",
        "vcpusched" | "cachetune" | "memorytune" => "vcpus",
        "iothreadsched" => "iothreads",
        "cell" | "sibling" | "iothread" => "id",
        "sysinfo" => "type",
        "memnode" => "cellid",
        "qemu:device" => "alias",
        "seclabel" => "model",
        "qemu:arg" | "boot" | "codec" | "page" | "host" | "tag" | "address" => return Side::List,
        _ => return Side::Single,
    })
}

fn same_child<'a>(list: &'a mut Element, child: &Element) -> Option<&'a mut Element> {
    match side(&child.name) {
        // `<vcpus>` lists them by number; at the top there is one.
        Side::Single if list.name == "vcpus" => {
            let id = child.attribute("id")?.to_string();
            list.elements_mut().find(|other| other.name == child.name && other.attribute("id") == Some(&*id))
        }
        Side::Single => list.get_mut(&child.name),
        Side::Keyed(key) => {
            let value = child.attribute(key)?.to_string();
            list.elements_mut().find(|other| other.name == child.name && other.attribute(key) == Some(&*value))
        }
        // Lists whose entries are one in nearly all places.
        Side::List if matches!(child.name.as_str(), "boot" | "address") && list.name != "os" => {
            list.get_mut(&child.name)
        }
        Side::List => None,
    }
}

fn add_note(element: &mut Element, from: &str) {
    match element.attribute(FROM).map(str::to_string) {
        Some(old) if !old.split(", ").any(|one| one == from) => element.set(FROM, format!("{old}, {from}")),
        Some(_) => {}
        None => element.set(FROM, from),
    }
}

/// Merges one element over another: its attributes and texts win, its children go where they belong.
pub fn element(into: &mut Element, from: &Element) {
    for (name, value) in &from.attributes {
        if name == FROM { add_note(into, value) } else { into.set(name, value.as_str()) }
    }
    if from.elements().next().is_none() {
        if !from.nodes.is_empty() {
            into.nodes = from.nodes.clone();
        }
        return;
    }
    // An order is given as a whole.
    if into.name == "os" && from.get("boot").is_some() {
        into.retain(|child| child.name != "boot");
    }
    for child in from.elements() {
        let mut child = child.clone();
        if let (None, Some(note)) = (child.attribute(FROM), from.attribute(FROM)) {
            child.set(FROM, note);
        }
        match same_child(into, &child) {
            Some(old) => element(old, &child),
            None => into.nodes.push(Node::Element(child)),
        }
    }
}

/// Fills in what is not there.
fn fill(into: &mut Element, chosen: &Element) {
    let note = chosen.attribute(FROM).map(str::to_string);
    for (name, value) in chosen.attributes.iter().filter(|(name, _)| !name.starts_with("vp:")) {
        if into.attribute(name).is_none() {
            into.set(name, value.as_str());
            let own = chosen.attribute(&format!("{FROM}:{name}")).map(str::to_string).or_else(|| note.clone());
            if let Some(note) = own.filter(|note| into.attribute(FROM) != Some(note)) {
                into.set(&format!("{FROM}:{name}"), note);
            }
        }
    }
    if into.nodes.is_empty() && chosen.elements().next().is_none() {
        into.nodes = chosen.nodes.clone();
        return;
    }
    let had: Vec<String> = into.elements().map(|child| child.name.clone()).collect();
    for child in chosen.elements() {
        let mut child = child.clone();
        if let (None, Some(note)) = (child.attribute(FROM), &note) {
            child.set(FROM, note.as_str());
        }
        match same_child(into, &child) {
            Some(old) => fill(old, &child),
            // A list that is stated is the whole list.
            None if matches!(side(&child.name), Side::List) && had.contains(&child.name) => {}
            None => into.nodes.push(Node::Element(child)),
        }
    }
}

/// Of what would be chosen, what the guest has there.
fn kept(chosen: &Element, current: &Element) -> Option<Element> {
    if chosen.attribute(WHOLE).is_some() {
        return Some(current.clone());
    }
    let mut kept = Element::new(&chosen.name);
    for (name, _) in chosen.attributes.iter().filter(|(name, _)| !name.starts_with("vp:")) {
        if let Some(value) = current.attribute(name) {
            kept.set(name, value);
        }
    }
    let mut copy = current.clone();
    for child in chosen.elements() {
        let found = same_child(&mut copy, child).and_then(|there| self::kept(child, there));
        kept.nodes.extend(found.map(Node::Element));
    }
    let text = current.text();
    if chosen.elements().next().is_none() && !chosen.nodes.is_empty() && !text.is_empty() {
        kept.set_text(text);
    }
    let says_something = !kept.attributes.is_empty() || !kept.nodes.is_empty();
    let says_by_being = chosen.nodes.is_empty() && chosen.attributes.iter().all(|(name, _)| name.starts_with("vp:"));
    (says_something || says_by_being).then_some(kept)
}

const KEPT: &str = "kept of the guest";

/// Puts what is chosen below what is stated: as it is for a new guest, as the guest has it for one that exists.
pub fn under(stated: &mut Element, chosen: &Element, current: Option<&Element>) {
    match current {
        None => fill(stated, chosen),
        Some(current) => {
            if let Some(mut kept) = kept(chosen, current) {
                kept.set(FROM, KEPT);
                fill(stated, &kept);
            }
        }
    }
}

/// All devices that must be there. `last`: what was stated last time, where that is known.
pub fn assemble(parts: &[Part], current: Option<&Element>, last: Option<&Element>) -> Element {
    let mut all = Element::new("devices");
    let Some(current) = current else {
        all.nodes.extend(parts.iter().map(|part| Node::Element(part.full())));
        return all;
    };
    // Sort by sort, as they are compared.
    let mut result: Vec<Option<Element>> = vec![None; parts.len()];
    let mut names: Vec<&str> = parts.iter().map(Part::name).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let own: Vec<(usize, &Part)> = parts.iter().enumerate().filter(|(_, part)| part.name() == name).collect();
        let full: Vec<Element> = own.iter().map(|(_, part)| part.full()).collect();
        let there: Vec<&Element> = current.named(name).collect();
        let all: Vec<&Element> = full.iter().collect();
        let assigned = if name == "interface" {
            // One that goes to another bridge, say, is still that one, and keeps its model.
            let before: Option<Vec<&Element>> =
                last.map(|last| last.get("devices").into_iter().flat_map(|all| all.named(name)).collect());
            devices::assign_since(&all, &there, before.as_deref(), &holds).now
        } else {
            devices::assign(&all, &there, Takeover::None, &holds)
        };
        for (((at, part), full), slot) in own.into_iter().zip(full).zip(assigned) {
            let old = slot.and_then(|slot| there.get(slot).copied());
            let device = match (old, &part.stated, &part.chosen) {
                (Some(old), Some(stated), Some(chosen)) => {
                    let mut device = stated.clone();
                    under(&mut device, chosen, Some(old));
                    Some(device)
                }
                (Some(_), Some(stated), None) => Some(stated.clone()),
                (Some(old), None, Some(chosen)) => kept(chosen, old).map(|kept| kept.with(FROM, KEPT)),
                (None, Some(_), _) => Some(full),
                _ => None,
            };
            if let Some(slot) = result.get_mut(at) {
                *slot = device;
            }
        }
    }
    all.nodes.extend(result.into_iter().flatten().map(Node::Element));
    all
}

/// Reads a piece of XML as it stands inside of `<domain>` or of a device. Somebody may paste a whole `<domain>`.
///
/// # Errors
/// Text that is no XML.
pub fn fragment(text: &str, parameter: &str) -> Result<Element> {
    let wrong = |why: String| Error::parameters(format!("parameter `{parameter}`: {why}"));
    let text = text.trim();
    // An XML declaration can't stand inside of an element.
    let body = match text.strip_prefix("<?xml") {
        Some(rest) => rest.split_once("?>").map_or("", |(_, body)| body),
        None => text,
    };
    let whole = xml::parse(&format!("<domain>{body}</domain>")).map_err(wrong)?;
    let only = match whole.elements().collect::<Vec<_>>().as_slice() {
        [only] if only.name == "domain" => Some((*only).clone()),
        _ => None,
    };
    if whole.nodes.iter().any(|node| matches!(node, Node::Text(text) if !text.trim().is_empty())) {
        return Err(wrong("there is text between the elements".to_string()));
    }
    Ok(only.unwrap_or(whole))
}

/// Merges an element that stands inside of `<domain>` at its place.
pub fn into_domain(root: &mut Element, from: &Element) {
    if from.name.starts_with("qemu:") && root.attribute("xmlns:qemu").is_none() {
        root.set("xmlns:qemu", QEMU);
    }
    match same_child(root, from) {
        Some(old) => element(old, from),
        None => root.nodes.push(Node::Element(from.clone())),
    }
}

/// Merges an `xml` block without its devices.
pub fn extra(root: &mut Element, block: &Element, from: &str) {
    for (name, value) in block.attributes.iter().filter(|(name, _)| *name != "id") {
        root.set(name, value.as_str());
        root.set(&format!("{FROM}:{name}"), from);
    }
    for child in block.elements() {
        let mut child = child.clone();
        child.set(FROM, from);
        into_domain(root, &child);
    }
}

/// Is there one device of this sort at most, or does nothing else make sense to be meant?
fn is_single(name: &str) -> bool {
    matches!(name, "memballoon" | "tpm" | "emulator" | "iommu" | "vsock" | "nvram")
}

/// Which of these is the device that somebody means?
fn same_device(parts: &[Part], device: &Element) -> Option<usize> {
    let id = |device: &Element, child: &str, attribute: &str| {
        device.get(child).and_then(|child| child.attribute(attribute)).map(str::to_ascii_lowercase)
    };
    parts.iter().position(|part| {
        if part.name() != device.name {
            return false;
        }
        let other = part.full();
        let same = |child: &str, attribute: &str| {
            let wanted = id(device, child, attribute);
            wanted.is_some() && wanted == id(&other, child, attribute)
        };
        match device.name.as_str() {
            name if is_single(name) => true,
            "interface" => same("mac", "address") || same("target", "dev"),
            "disk" => same("target", "dev"),
            "filesystem" => same("target", "dir"),
            "channel" => same("target", "name"),
            "audio" => device.attribute("id").is_some() && device.attribute("id") == other.attribute("id"),
            "graphics" => device.attribute("type").is_some() && device.attribute("type") == other.attribute("type"),
            "hostdev" | "controller" | "shmem" | "input" => {
                let wanted = devices::identity(device);
                wanted.is_some() && wanted == devices::identity(&other)
            }
            _ => false,
        }
    })
}

/// Puts devices of an `xml` block where they belong.
pub fn add_devices(parts: &mut Vec<Part>, block: &Element, from: &str) {
    for device in block.elements() {
        let device = device.clone().with(FROM, from);
        let found = same_device(parts, &device);
        match found.and_then(|at| parts.get_mut(at)) {
            Some(Part { stated: Some(stated), .. }) => element(stated, &device),
            Some(part) => part.stated = Some(device),
            None => parts.push(Part { stated: Some(device), ..Part::default() }),
        }
    }
}

/// The devices of a whole definition, with what the parameters say put into them.
pub fn onto_devices(said: Vec<Part>, devices: &Element) -> Vec<Part> {
    let mut parts: Vec<Part> =
        devices.elements().map(|device| Part { stated: Some(device.clone()), ..Part::default() }).collect();
    for part in said {
        let found = part.stated.as_ref().and_then(|stated| same_device(&parts, stated));
        match (found.and_then(|at| parts.get_mut(at)), part) {
            (Some(old), Part { stated: Some(stated), chosen, card }) => {
                if let Some(base) = &mut old.stated {
                    element(base, &stated);
                }
                old.chosen = chosen;
                old.card = card;
            }
            (_, part) => parts.push(part),
        }
    }
    parts
}

/// What is stated takes the place of what would have been chosen of the same sort.
pub fn drop_replaced(parts: &mut Vec<Part>) {
    let stated: Vec<Element> = parts.iter().filter_map(|part| part.stated.clone()).collect();
    let name = |device: &Element| device.get("target").and_then(|t| t.attribute("name")).map(str::to_string);
    parts.retain(|part| {
        let (None, Some(chosen)) = (&part.stated, &part.chosen) else { return true };
        !stated.iter().filter(|device| device.name == chosen.name).any(|device| match chosen.name.as_str() {
            "controller" => device.attribute("type") == chosen.attribute("type"),
            "channel" => name(device) == name(chosen),
            _ => true,
        })
    });
}

/// In the order in which libvirt prints the parts of a domain.
pub fn sort(root: &mut Element) {
    const ORDER: [&str; 38] = [
        "name",
        "uuid",
        "genid",
        "title",
        "description",
        "metadata",
        "maxMemory",
        "memory",
        "currentMemory",
        "blkiotune",
        "memtune",
        "memoryBacking",
        "vcpu",
        "vcpus",
        "iothreads",
        "iothreadids",
        "defaultiothread",
        "cputune",
        "numatune",
        "resource",
        "sysinfo",
        "bootloader",
        "os",
        "idmap",
        "features",
        "cpu",
        "clock",
        "on_poweroff",
        "on_reboot",
        "on_crash",
        "on_lockfailure",
        "pm",
        "perf",
        "keywrap",
        "launchSecurity",
        "-",
        "devices",
        "seclabel",
    ];
    let other = ORDER.iter().position(|name| *name == "-").unwrap_or(ORDER.len());
    root.nodes.sort_by_key(|node| match node {
        Node::Element(element) if element.name.starts_with("qemu:") => ORDER.len(),
        Node::Element(element) => ORDER.iter().position(|name| *name == element.name).unwrap_or(other),
        Node::Text(_) => other,
    });
}
