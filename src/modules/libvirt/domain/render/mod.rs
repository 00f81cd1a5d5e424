//! From parameters to libvirt's XML: what is stated, and what is chosen for a guest that is new.
//!
//! Two documents are built side by side. *Stated* is what the parameters say: it must hold, and is remembered as the intent.
//! *Chosen* is what a new guest or a new device needs besides (a preset's choices, a MAC address, the place of a card, a
//! firmware). A guest that exists keeps what it has of the chosen things, so a later version of this program, which may
//! choose otherwise, changes nothing.

pub mod explain;
pub mod merge;

mod display;
mod host;
mod machine;
mod misc;
mod network;
mod os;
mod storage;
mod tuning;

use super::compare::holds;
use super::devices;
use super::identity;
use super::intent;
use super::params::LibvirtDomain;
use super::pinning::HostCpus;
use super::presets::{self, Preset};
use crate::diag::nearest;
use crate::host::{Error, Result};
use crate::modules::libvirt::values::{PciAddress, Size};
use crate::modules::libvirt::xml::{self, Element, Node};
use crate::modules::params::Flag;
use merge::{FROM, Part};

pub use explain::explain;
pub use os::is_free;

/// A firmware as chosen on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChosenFirmware {
    /// The code file.
    pub loader: String,
    /// The file that new variables are copied from.
    pub nvram_template: Option<String>,
    /// `raw` or `qcow2`.
    pub format: String,
}

/// What one entry of `gpus` is on this machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Card {
    /// All functions that come along, sorted. Never empty when read from a machine.
    pub functions: Vec<PciAddress>,
    /// The NUMA node it is near.
    pub numa_node: Option<u32>,
}

/// What rendering must know of the machine; all of it read before.
#[derive(Clone, Debug, Default)]
pub struct Context {
    /// The guest as it is defined now.
    pub current: Option<Element>,
    /// QEMU's path on this distribution.
    pub emulator: Option<String>,
    /// What `firmware: ovmf` means on this machine.
    pub firmware: Option<ChosenFirmware>,
    /// There is no machine to find a firmware on: libvirt is asked to choose it (`<os firmware='efi'>`).
    pub autoselect: bool,
    /// What `gpus` are on this machine, entry by entry. Empty where there is no machine: then they must be given by address.
    pub gpus: Vec<Card>,
    /// The machine's CPUs, where `pinning: auto` needs them.
    pub cpus: Option<HostCpus>,
    /// A libvirt before 5.0 (EL7), which knows fewer enlightenments.
    pub old_libvirt: bool,
}

/// What must hold.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Everything stated here must be so.
    pub xml: Element,
    /// And these must not be there: ways such as `os/loader` or `os@firmware`.
    pub absent: Vec<&'static str>,
    /// What of `xml` the user said: without what was chosen for a new guest or kept of an old one.
    pub intent: Element,
}

/// Where libvirt itself keeps UEFI variables.
pub fn default_nvram(name: &str) -> String {
    format!("/var/lib/libvirt/qemu/nvram/{name}_VARS.fd")
}

/// Is this machine type of the i440fx sort (with IDE, without PCI Express)?
pub fn is_i440fx(machine: &str) -> bool {
    machine == "pc" || machine.starts_with("pc-i440fx") || machine.starts_with("pc-0.") || machine.starts_with("pc-1.")
}

/// Is this machine type of the q35 sort?
pub fn is_q35(machine: &str) -> bool {
    machine == "q35" || machine.starts_with("pc-q35")
}

/// Does a domain's `<os>` boot by UEFI?
pub fn has_uefi(os: &Element) -> bool {
    os.attribute("firmware") == Some("efi")
        || os.get("loader").is_some_and(|loader| loader.attribute("type") == Some("pflash"))
}

/// The XML that these parameters state.
///
/// # Errors
/// Parameters that libvirt would refuse, or swallow without doing what they say.
pub fn render(domain: &LibvirtDomain, context: &Context) -> Result<Wanted> {
    let (mut xml, mut intent, absent) = annotated(domain, context)?;
    merge::strip(&mut xml);
    merge::strip(&mut intent);
    if xml.at(&["cpu", "numa"]).is_none() {
        for document in [&mut xml, &mut intent] {
            drop_only_node(document);
        }
    }
    Ok(Wanted { xml, absent, intent })
}

/// A guest without nodes of its own has node 0 only, and libvirt does not write it down (virDomainDefPostParseMemtune).
fn drop_only_node(domain: &mut Element) {
    let pages = domain.get_mut("memoryBacking").and_then(|backing| backing.get_mut("hugepages"));
    for page in pages.into_iter().flat_map(Element::elements_mut) {
        if page.attribute("nodeset") == Some("0") {
            page.unset("nodeset");
        }
    }
}

/// The document and its intent, with notes on where things came from.
fn annotated(domain: &LibvirtDomain, context: &Context) -> Result<(Element, Element, Vec<&'static str>)> {
    let build = Build::new(domain, context)?.all()?;
    let Build { stated, chosen, parts, absent, definition, .. } = build;
    let mut parts = parts;
    // Where the devices of a definition stand: what somebody wrote keeps its order.
    let mut place = None;
    let mut intent = match definition {
        // What the parameters say goes into the definition.
        Some(mut base) => {
            for (name, value) in stated.attributes {
                base.set(&name, value);
            }
            for node in stated.nodes {
                if let Node::Element(element) = node {
                    merge::into_domain(&mut base, &element);
                }
            }
            let is_devices = |node: &Node| matches!(node, Node::Element(element) if element.name == "devices");
            place = Some(base.nodes.iter().position(is_devices).unwrap_or(base.nodes.len()));
            if let Some(devices) = base.get("devices").cloned() {
                base.retain(|child| child.name != "devices");
                parts = merge::onto_devices(parts, &devices);
            }
            base
        }
        None => stated,
    };
    for (from, text) in extras(domain)? {
        let mut extra = text;
        if let Some(devices) = extra.get("devices").cloned() {
            extra.retain(|child| child.name != "devices");
            merge::add_devices(&mut parts, &devices, from);
        }
        merge::extra(&mut intent, &extra, from);
    }
    merge::drop_replaced(&mut parts);
    host::place(&mut parts, context, &machine_of(&intent, &chosen, context))?;
    give_macs(&mut parts, domain, context)?;
    let current = context.current.as_ref();
    let mut xml = intent.clone();
    merge::under(&mut xml, &chosen, current);
    let last = current.and_then(intent::last);
    let all = merge::assemble(&parts, current.and_then(|current| current.get("devices")), last.as_ref());
    let mut devices = Element::new("devices");
    devices.nodes.extend(parts.into_iter().filter_map(|part| part.stated).map(Node::Element));
    for (root, devices) in [(&mut xml, all), (&mut intent, devices)] {
        let at = place.unwrap_or(root.nodes.len()).min(root.nodes.len());
        root.nodes.insert(at, Node::Element(devices));
        if place.is_none() {
            merge::sort(root);
        }
    }
    check_legal(&xml)?;
    Ok((xml, intent, absent))
}

/// The machine type that the guest will have.
fn machine_of(stated: &Element, chosen: &Element, context: &Context) -> String {
    let machine = |domain: &Element| domain.at(&["os", "type"])?.attribute("machine").map(str::to_string);
    machine(stated)
        .or_else(|| context.current.as_ref().and_then(machine))
        .or_else(|| machine(chosen))
        .unwrap_or_else(|| "q35".to_string())
}

/// The `xml` parameter, parsed.
fn extras(domain: &LibvirtDomain) -> Result<Vec<(&'static str, Element)>> {
    let Some(text) = &domain.xml else { return Ok(Vec::new()) };
    Ok(vec![("the xml block", merge::fragment(text, "xml")?)])
}

/// What is put together.
struct Build<'a> {
    domain: &'a LibvirtDomain,
    context: &'a Context,
    preset: Option<&'static Preset>,
    /// The whole domain that was given.
    definition: Option<Element>,
    /// The machine type as far as rendering must know it.
    machine: String,
    /// `kvm` or `qemu`.
    kind: String,
    stated: Element,
    chosen: Element,
    parts: Vec<Part>,
    absent: Vec<&'static str>,
}

impl<'a> Build<'a> {
    fn new(domain: &'a LibvirtDomain, context: &'a Context) -> Result<Build<'a>> {
        let preset = match &domain.os {
            Some(name) => Some(presets::find(name)?),
            None => None,
        };
        let definition = match &domain.definition {
            Some(text) => Some(definition(text)?),
            None if domain.definition_file.is_some() || domain.definition_template.is_some() => {
                return Err(Error::parameters("definition_file and definition_template are read by a playbook's task")
                    .hint("give the XML itself as `definition`"));
            }
            None => None,
        };
        let base = context.current.as_ref().or(definition.as_ref());
        let machine = match (&domain.machine, base.and_then(|c| c.at(&["os", "type"]))) {
            (Some(machine), _) => machine.clone(),
            (None, Some(old)) => old.attribute("machine").unwrap_or("q35").to_string(),
            (None, None) => "q35".to_string(),
        };
        let kind = match (&domain.kind, base.and_then(|c| c.attribute("type"))) {
            (Some(kind), _) => one_of("type", kind, &["kvm", "qemu", "xen", "hvf", "lxc", "bhyve", "vz", "test"])?,
            (None, old) => old.unwrap_or("kvm").to_string(),
        };
        if let Some(arch) = domain.arch.as_deref()
            && preset.is_some()
            && !matches!(arch, "x86_64" | "i686")
        {
            return Err(Error::parameters(format!("os: presets are for x86_64, and this guest has arch {arch}")));
        }
        Ok(Build {
            domain,
            context,
            preset,
            definition,
            machine,
            kind,
            stated: Element::new("domain"),
            chosen: Element::new("domain"),
            parts: Vec::new(),
            absent: Vec::new(),
        })
    }

    fn all(mut self) -> Result<Build<'a>> {
        self.head()?;
        self.os()?;
        self.machine()?;
        self.tuning()?;
        self.emulator();
        self.drives()?;
        self.controllers()?;
        self.interfaces()?;
        self.inputs()?;
        self.display()?;
        self.sound()?;
        self.characters()?;
        self.host_devices()?;
        self.misc()?;
        Ok(self)
    }

    /// Is the guest made now, and from nothing but parameters?
    fn is_new(&self) -> bool {
        self.context.current.is_none() && self.definition.is_none()
    }

    /// Adds to what is stated.
    fn say(&mut self, from: &str, element: Element) {
        self.stated.nodes.push(Node::Element(noted(element, &format!("parameter {from}"))));
    }

    /// Adds to what is chosen. What a whole definition leaves out is not chosen for it.
    fn choose(&mut self, why: &str, element: Element) {
        if self.definition.is_none() || self.preset.is_some() {
            self.chosen.nodes.push(Node::Element(noted(element, why)));
        }
    }

    /// Adds a device that is stated.
    fn device(&mut self, from: &str, element: Element) {
        self.parts.push(Part { stated: Some(noted(element, &format!("parameter {from}"))), chosen: None, card: None });
    }

    /// Adds a device of which some was left open.
    fn device_with(&mut self, from: &str, element: Element, why: &str, chosen: Element) {
        let stated = Some(noted(element, &format!("parameter {from}")));
        self.parts.push(Part { stated, chosen: Some(noted(chosen, why)), card: None });
    }

    /// Adds a device that nobody stated, for a new guest.
    fn chosen_device(&mut self, why: &str, element: Element) {
        self.parts.push(Part { stated: None, chosen: Some(noted(element, why)), card: None });
    }

    /// What a preset's choices are called.
    fn preset_name(&self) -> String {
        self.preset.map_or_else(|| "default".to_string(), |preset| format!("preset {}", preset.name))
    }

    fn emulator(&mut self) {
        if let Some(path) = &self.domain.emulator {
            self.device("emulator", leaf("emulator", path));
        } else if let Some(path) = &self.context.emulator {
            self.chosen_device("derived from the host's distribution", leaf("emulator", path));
        } else if self.context.current.is_some() {
            // Kept of the guest, if it has one.
            self.chosen_device("kept of the guest", Element::new("emulator"));
        }
    }
}

/// A definition as it was given: one `<domain>`.
fn definition(text: &str) -> Result<Element> {
    let element = xml::parse(text).map_err(|why| Error::parameters(format!("parameter `definition`: {why}")))?;
    if element.name != "domain" {
        return Err(Error::parameters(format!(
            "parameter `definition`: a <domain> is expected, and it begins with <{}>",
            element.name
        )));
    }
    let mut element = element;
    // What belongs to a running domain only.
    element.unset("id");
    Ok(noted(element, "the definition"))
}

/// The element with a note on where it came from.
fn noted(mut element: Element, from: &str) -> Element {
    if element.attribute(FROM).is_none() {
        element.set(FROM, from);
    }
    element
}

/// New interfaces get MAC addresses that don't change when the machine is installed anew.
fn give_macs(parts: &mut [Part], domain: &LibvirtDomain, context: &Context) -> Result<()> {
    let Some(identity) = &domain.identity else { return Ok(()) };
    let current: Vec<&Element> =
        context.current.iter().filter_map(|c| c.get("devices")).flat_map(|d| d.named("interface")).collect();
    let full: Vec<Element> = parts.iter().filter(|part| part.name() == "interface").map(Part::full).collect();
    let refs: Vec<&Element> = full.iter().collect();
    let last = context.current.as_ref().and_then(intent::last);
    let before: Option<Vec<&Element>> =
        last.as_ref().map(|last| last.get("devices").into_iter().flat_map(|all| all.named("interface")).collect());
    // As they are compared: an interface that becomes one that is there (another bridge, say) keeps that one's address.
    let assigned = devices::assign_since(&refs, &current, before.as_deref(), &holds).now;
    let mac = |element: &Element| element.get("mac").and_then(|mac| mac.attribute("address")).map(str::to_lowercase);
    let mut taken: Vec<String> = current.iter().copied().chain(refs.iter().copied()).filter_map(mac).collect();
    for (at, part) in parts.iter_mut().filter(|part| part.name() == "interface").enumerate() {
        let free = assigned.get(at).copied().flatten().is_none();
        if !free || mac(&part.full()).is_some() {
            continue;
        }
        let address = identity::mac(identity, &domain.name, &taken);
        taken.push(address.clone());
        let element = noted(
            Element::new("mac").with("address", address),
            &format!("derived from the inventory name {} and the guest's", identity.0),
        );
        let chosen = part.chosen.get_or_insert_with(|| Element::new("interface"));
        chosen.nodes.push(Node::Element(element));
    }
    Ok(())
}

fn leaf(name: &str, text: impl Into<String>) -> Element {
    Element::new(name).containing(text)
}

fn memory(name: &str, size: Size) -> Element {
    leaf(name, size.kib().to_string()).with("unit", "KiB")
}

fn on_off(flag: Flag) -> &'static str {
    if flag.0 { "on" } else { "off" }
}

fn yes_no(flag: Flag) -> &'static str {
    if flag.0 { "yes" } else { "no" }
}

/// libvirt takes some wrong words without a sound, so words are checked here.
pub(super) fn one_of(what: &str, value: &str, known: &[&str]) -> Result<String> {
    if known.contains(&value) {
        return Ok(value.to_string());
    }
    let error = Error::parameters(format!("{what}: `{value}` is not one of {}", known.join(", ")));
    Err(match nearest(value, known.iter().copied()) {
        Some(name) => error.hint(format!("did you mean `{name}`?")),
        None => error,
    })
}

/// The same for a value that may be missing.
fn some_of(what: &str, value: Option<&str>, known: &[&str]) -> Result<Option<String>> {
    value.map(|value| one_of(what, value, known)).transpose()
}

/// A path on the host.
fn absolute(what: &str, path: &str) -> Result<String> {
    if path.starts_with('/') {
        return Ok(path.to_string());
    }
    Err(Error::parameters(format!("{what}: the path `{path}` must begin with a slash")))
}

/// A UUID as libvirt reads it: 32 hexadecimal digits, with or without hyphens.
fn uuid(what: &str, text: &str) -> Result<String> {
    let digits: String = text.chars().filter(|c| *c != '-').collect();
    if digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(text.to_string());
    }
    Err(Error::parameters(format!("{what}: `{text}` is not a UUID, such as 9d2e07dc-bc8b-4afa-9fc2-2587aea917a0")))
}

/// A set of CPUs or NUMA nodes as libvirt writes it: `0-3,^2,8`.
fn cpu_set(what: &str, text: &str) -> Result<String> {
    let number = |text: &str| text.parse::<u32>().is_ok();
    let fine = !text.is_empty()
        && text.split(',').map(str::trim).all(|part| match part.strip_prefix('^') {
            Some(not) => number(not),
            None => match part.split_once('-') {
                Some((first, last)) => {
                    matches!((first.parse::<u32>(), last.parse::<u32>()), (Ok(first), Ok(last)) if first <= last)
                }
                None => number(part),
            },
        });
    if fine {
        return Ok(text.replace(' ', ""));
    }
    Err(Error::parameters(format!("{what}: `{text}` is not a set of numbers, such as \"0-3,8\"")))
}

fn boot_order(order: Option<u32>) -> Result<Option<Element>> {
    match order {
        Some(0) => Err(Error::parameters("boot: the order of devices begins with 1")),
        order => Ok(order.map(|order| Element::new("boot").with("order", order.to_string()))),
    }
}

/// The card's ROM.
fn rom(bar: Option<Flag>, file: Option<&String>) -> Option<Element> {
    (bar.is_some() || file.is_some())
        .then(|| Element::new("rom").with_some("bar", bar.map(on_off)).with_some("file", file))
}

/// A device with its own `xml` merged into it.
fn with_xml(mut device: Element, what: &str, text: Option<&String>) -> Result<Element> {
    if let Some(text) = text {
        let extra = merge::fragment(text, &format!("{what}.xml"))?;
        let inner = match extra.elements().collect::<Vec<_>>().as_slice() {
            // The device itself may be written around it.
            [only] if only.name == device.name => (*only).clone(),
            _ => extra,
        };
        merge::element(&mut device, &inner);
    }
    Ok(device)
}

fn check_legal(element: &Element) -> Result<()> {
    let texts =
        element.attributes.iter().map(|(_, value)| value.as_str()).chain(element.nodes.iter().filter_map(|node| {
            match node {
                Node::Text(text) => Some(text.as_str()),
                Node::Element(_) => None,
            }
        }));
    for text in texts {
        if let Some(c) = text.chars().find(|c| !xml::is_legal(*c)) {
            let code = u32::from(c);
            return Err(Error::parameters(format!(
                "<{}>: the character U+{code:04X} can't stand in XML",
                element.name
            )));
        }
    }
    element.elements().try_for_each(check_legal)
}

#[cfg(test)]
mod tests;
