//! Short words for what a description says at length: a preset (`os`), a whole card (`gpus`), Looking Glass by QEMU's
//! arguments. Each is only a guess until it is rendered: where anything else comes of it, the long words stay.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Params;
use super::residual::one_line;
use super::shorten::{leaner, leaner_but, ordered};
use super::write::{Comments, yaml};
use crate::modules::libvirt::domain::devices::pci_source;
use crate::modules::libvirt::domain::presets;
use crate::modules::libvirt::domain::render::merge::fragment;
use crate::modules::libvirt::values::{PciAddress, Size, number};
use crate::modules::libvirt::xml::Element;

/// What a shorter description is held against.
pub struct Scene<'a> {
    /// The domain that is described, in canonical form.
    pub goal: &'a Element,
    /// The domain with all its addresses, in canonical form.
    pub definition: &'a Element,
    /// Does the same come of these parameters? Asked often.
    pub same: &'a dyn Fn(&Params) -> bool,
    /// And on every machine, with the guest on it or not? Asked at the end.
    pub everywhere: &'a dyn Fn(&Params) -> bool,
}

/// The shortest description that says the same.
pub fn brief(params: Params, scene: &Scene<'_>) -> Params {
    let mut best = cards(params, scene);
    if let Some(shorter) = kvmfr(&best).filter(|shorter| (scene.same)(shorter) && (scene.everywhere)(shorter)) {
        best = shorter;
    }
    ordered(preset(best, scene))
}

/// A device of the host, and its domain, bus and slot in the guest if its function is the same there.
type Passed = (PciAddress, Option<[u64; 3]>);

/// Functions of one card of the host that are one device in the guest too, by the card.
fn groups(definition: &Element) -> BTreeMap<PciAddress, Vec<u8>> {
    let mut groups: BTreeMap<PciAddress, Vec<Passed>> = BTreeMap::new();
    for device in definition.get("devices").into_iter().flat_map(|devices| devices.named("hostdev")) {
        let Some(source) = pci_source(device) else { continue };
        let place = device.get("address").and_then(|address| {
            let part = |name: &str| address.attribute(name).and_then(number).unwrap_or(0);
            let as_on_the_host = part("function") == u64::from(source.function);
            as_on_the_host.then(|| ["domain", "bus", "slot"].map(part))
        });
        groups.entry(PciAddress { function: 0, ..source }).or_default().push((source, place));
    }
    groups
        .into_iter()
        .filter(|(_, functions)| {
            let place = functions.first().and_then(|(_, place)| *place);
            functions.len() > 1 && place.is_some() && functions.iter().all(|(_, other)| *other == place)
        })
        .map(|(card, functions)| (card, functions.into_iter().map(|(address, _)| address.function).collect()))
        .collect()
}

/// `gpus` in place of the functions of a card, card by card.
fn cards(params: Params, scene: &Scene<'_>) -> Params {
    let mut best = params;
    for (card, functions) in groups(scene.definition) {
        if let Some(with) = card_of(&best, card, &functions)
            && (scene.same)(&with)
            && (scene.everywhere)(&with)
        {
            best = with;
        }
    }
    best
}

/// The parameters with this card in `gpus`, if all of its functions stand in `pci` in a way that a card can say.
fn card_of(params: &Params, card: PciAddress, functions: &[u8]) -> Option<Params> {
    let address = |item: &Value| {
        let text = item.as_str().or_else(|| item.get("address")?.as_str())?;
        PciAddress::parse(text).ok()
    };
    let all = params.get("pci")?.as_array()?;
    let (own, others): (Vec<&Value>, Vec<&Value>) =
        all.iter().partition(|item| address(item).is_some_and(|address| PciAddress { function: 0, ..address } == card));
    if own.len() != functions.len() {
        return None;
    }
    let first = own.iter().min_by_key(|item| address(item))?;
    let mut gpu = match first {
        Value::Object(map) => map.clone(),
        _ => Params::new(),
    };
    let mut numbers = functions.to_vec();
    numbers.sort_unstable();
    gpu.insert("address".into(), json!(address(first)?.to_string()));
    gpu.insert("functions".into(), json!(numbers));
    if let Some(text) = gpu.shift_remove("xml") {
        let block = fragment(text.as_str()?, "xml").ok()?;
        let mut rest = Vec::new();
        for element in block.elements() {
            if element.name == "address" {
                let part = |name: &str| element.attribute(name).and_then(number).unwrap_or(0);
                gpu.insert("guest_slot".into(), json!(format!("{:02x}:{:02x}", part("bus"), part("slot"))));
            } else {
                rest.push(one_line(element));
            }
        }
        if !rest.is_empty() {
            gpu.insert("xml".into(), json!(rest.join("\n")));
        }
    }
    let mut with = params.clone();
    if others.is_empty() {
        with.shift_remove("pci");
    } else {
        with.insert("pci".into(), Value::Array(others.into_iter().cloned().collect()));
    }
    match with.entry("gpus").or_insert_with(|| json!([])) {
        Value::Array(list) => list.push(Value::Object(gpu)),
        _ => return None,
    }
    Some(with)
}

/// Looking Glass whose memory is the kernel module's, which only QEMU's arguments can say.
fn kvmfr(params: &Params) -> Option<Params> {
    let arguments = params.get("qemu_args")?.as_array()?;
    let (four, rest) = arguments.split_at_checked(4)?;
    let memory: Value = serde_json::from_str(four.last()?.as_str()?).ok()?;
    let size = Size(memory.get("size")?.as_u64()?).to_string();
    let device = memory.get("mem-path")?.as_str()?;
    let mut glass = json!({"size": size, "backend": "kvmfr"});
    if device != "/dev/kvmfr0" {
        glass["device"] = json!(device);
    }
    let mut with = params.clone();
    with.insert("looking_glass".into(), glass);
    if rest.is_empty() {
        with.shift_remove("qemu_args");
    } else {
        with.insert("qemu_args".into(), json!(rest));
    }
    Some(with)
}

/// What keeps a preset from choosing things that the guest does not have: the parameter, what it says then, and the device
/// that must not be there.
const WITHOUT: &[(&str, &str, &str)] = &[
    ("tpm", "\"none\"", "tpm"),
    ("rng", "\"none\"", "rng"),
    ("channels", "[]", "channel"),
    ("serials", "[]", "serial"),
    ("inputs", "[]", "input"),
    ("graphics", "[]", "graphics"),
    ("sound", "[]", "sound"),
    ("sleep", "{}", ""),
    ("memballoon", "\"virtio\"", "memballoon"),
];

/// With the preset of which the least remains to be said.
fn preset(params: Params, scene: &Scene<'_>) -> Params {
    let length = |params: &Params| {
        let text = yaml(params, 0, &Comments::new());
        (text.lines().count(), text.len())
    };
    let mut best = params.clone();
    for name in fitting(scene.goal) {
        let Some(with) = with_preset(&params, name, scene) else { continue };
        let shorter = lean(with, scene.same);
        if length(&shorter) < length(&best) && (scene.everywhere)(&shorter) {
            best = shorter;
        }
    }
    best
}

/// The parameters with a preset, and with all that it must be kept from.
fn with_preset(params: &Params, name: &str, scene: &Scene<'_>) -> Option<Params> {
    let there = |device: &str| scene.goal.get("devices").is_some_and(|devices| devices.get(device).is_some());
    let mut with = params.clone();
    with.insert("os".into(), json!(name));
    for (parameter, value, device) in WITHOUT {
        if !with.contains_key(*parameter) && !there(device) {
            with.insert((*parameter).to_string(), serde_json::from_str(value).ok()?);
        }
    }
    let says_firmware = ["firmware", "loader", "kernel"].iter().any(|key| with.contains_key(*key));
    if !says_firmware && scene.goal.get("os").is_none_or(|os| os.attribute("firmware").is_none()) {
        with.insert("firmware".into(), json!("bios"));
    }
    (scene.same)(&with).then_some(with)
}

/// Without what goes without saying.
fn lean(params: Params, same: &dyn Fn(&Params) -> bool) -> Params {
    // Without these it is another guest in any case, or none at all.
    const KEPT: &[&str] = &[
        "name",
        "type",
        "uuid",
        "memory",
        "vcpus",
        "os",
        "definition",
        "emulator",
        "nvram",
        "disks",
        "interfaces",
        "xml",
        "gpus",
        "pci",
    ];
    let mut best = leaner_but(KEPT, params, same);
    let disks = best.get("disks").and_then(Value::as_array).cloned().unwrap_or_default();
    for (at, disk) in disks.into_iter().enumerate() {
        let Value::Object(disk) = disk else { continue };
        let with = |disk: &Params| {
            let mut with = best.clone();
            if let Some(place) = with.get_mut("disks").and_then(|disks| disks.get_mut(at)) {
                *place = Value::Object(disk.clone());
            }
            with
        };
        let less = leaner(disk, &|disk| same(&with(disk)));
        best = with(&less);
    }
    best
}

/// The presets that may be meant. virt-manager and virt-install write down which system they were told; where nothing
/// tells servers of Windows from the others, what licences allow does: two sockets.
fn fitting(goal: &Element) -> Vec<&'static str> {
    let windows = |name: &str| name.starts_with("windows");
    let server = |name: &str| name.starts_with("windows-server");
    let sockets =
        goal.at(&["cpu", "topology"]).and_then(|topology| number(topology.attribute("sockets")?)).unwrap_or(1);
    let told = goal.get("metadata").and_then(told_system);
    presets::ALL
        .iter()
        .map(|preset| preset.name)
        .filter(|name| match told.as_deref() {
            Some(id) => match named(id) {
                Some(known) => known == *name,
                None => !windows(name) && *name != "freebsd",
            },
            // No Windows client takes more than two sockets.
            None => !(server(name) || windows(name) && sockets > 2),
        })
        .collect()
}

/// The system in libosinfo's words: `http://microsoft.com/win/10`.
fn told_system(element: &Element) -> Option<String> {
    if element.name.rsplit(':').next() == Some("os")
        && let Some(id) = element.attribute("id")
    {
        return Some(id.to_ascii_lowercase());
    }
    element.elements().find_map(told_system)
}

/// The preset of libosinfo's name, where there is one for just that.
fn named(id: &str) -> Option<&'static str> {
    if id.contains("freebsd.org/") {
        return Some("freebsd");
    }
    let version = id.split_once("microsoft.com/win/")?.1;
    Some(match version {
        "11" => "windows-11",
        "10" => "windows-10",
        "8" | "8.1" => "windows-8",
        "7" => "windows-7",
        "2k25" => "windows-server-2025",
        "2k22" => "windows-server-2022",
        "2k19" => "windows-server-2019",
        "2k16" => "windows-server-2016",
        "2k12r2" => "windows-server-2012r2",
        "2k12" => "windows-server-2012",
        "2k8r2" => "windows-server-2008r2",
        // Older ones, of which no preset knows what they need.
        _ => "",
    })
}
