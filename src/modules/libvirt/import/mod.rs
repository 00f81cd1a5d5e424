//! Moving in: a domain's XML as the short description of `libvirt_domain`.
//!
//! Nothing is lost, and this is how: every element is tried in its short form, rendered back and compared as libvirt
//! means it. What the short form can't hold goes into `xml`, first beside the device, then in place of it. At the end the
//! whole description is rendered and compared with the whole domain; where that still differs, the whole domain is kept as
//! it is (`definition`), and what even then would differ is an error that names it.

mod brief;
pub mod canonical;
mod convert;
mod residual;
mod sections;
mod settle;
mod short;
mod shorten;
mod write;

#[cfg(test)]
mod brief_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::host::{Error, Result};
use crate::modules::libvirt::domain::normal::amount;
use crate::modules::libvirt::domain::render::{self, ChosenFirmware, Context, Wanted};
use crate::modules::libvirt::domain::{LibvirtDomain, compare};
use crate::modules::libvirt::xml::{self, Element};
use canonical::{Difference, Machine, canonical, differences};
pub use convert::Params;
use residual::{Residual, compact, one_line, readable, residual};
pub use settle::settle;
pub use write::{Comments, yaml};

/// How wide XML in a description may be.
const ROOM: usize = 110;

/// What is wished.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Leave out what the machine on which the guest is keeps anyhow: UUID, MAC addresses, addresses in the guest,
    /// controllers, QEMU's path, which build of a firmware.
    pub short: bool,
}

/// A domain as parameters.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The guest's name.
    pub name: String,
    /// Parameters of `libvirt_domain`.
    pub params: Params,
    /// What people should know of it.
    pub notes: Vec<String>,
    /// A password stands among the parameters.
    pub secrets: bool,
}

/// A domain's XML, of any libvirt, of a running guest or not.
///
/// # Errors
/// What is no domain; and whatever would be lost.
pub fn import(domain: &Element, options: Options) -> Result<Imported> {
    if domain.name != "domain" {
        return Err(Error::failed(format!("this is no guest but a <{}>", domain.name))
            .hint("give what `virsh dumpxml --inactive --security-info NAME` prints"));
    }
    let (mut definition, mut notes) = settle(domain);
    let name = definition.text_at(&["name"]).filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| Error::failed("the domain has no <name>"))?;
    masked_passwords(&mut definition, &mut notes);
    let params = if options.short {
        let (params, left_out) = short::import(&definition)?;
        notes.extend(left_out);
        params
    } else {
        in_short(&definition, whole(&definition)?)
    };
    if params.contains_key("definition") {
        notes.push("the short form has no words for this guest: it is here as libvirt has it, as a whole".to_string());
    }
    let secrets = has_password(&definition);
    Ok(Imported { name, params, notes, secrets })
}

/// Is what `import` makes of a domain the same domain when it is rendered?
///
/// # Errors
/// What is not, in words.
pub fn lossless(domain: &Element) -> std::result::Result<(), String> {
    let imported = import(domain, Options::default()).map_err(|error| error.to_string())?;
    let (definition, _) = settle(domain);
    let rendered = rendered(&imported.params)?;
    let found = differences(&definition, &rendered.xml);
    if found.is_empty() { Ok(()) } else { Err(told(&found)) }
}

/// The XML that what is imported of this document renders to: what defining the description would define.
///
/// # Errors
/// What can't be imported or rendered.
pub fn through(text: &str) -> std::result::Result<String, String> {
    let imported = import(&read(text)?, Options::default()).map_err(|error| error.to_string())?;
    rendered(&imported.params).map(|wanted| wanted.xml.print())
}

/// The XML of parameters, without a machine.
///
/// # Errors
/// Why they can't be read or rendered.
pub fn rendered(params: &Params) -> std::result::Result<Wanted, String> {
    rendered_for(params, None)
}

fn rendered_for(params: &Params, current: Option<&Element>) -> std::result::Result<Wanted, String> {
    rendered_in(params, &Context { current: current.cloned(), ..Context::default() })
}

fn rendered_in(params: &Params, context: &Context) -> std::result::Result<Wanted, String> {
    let domain: LibvirtDomain =
        crate::modules::read::read(Value::Object(params.clone())).map_err(|wrong| wrong.to_string())?;
    render::render(&domain, context).map_err(|error| error.to_string())
}

/// Differences in words.
pub fn told(found: &[Difference]) -> String {
    let one = |difference: &Difference| {
        let shown = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".to_string());
        format!("{}:\n{}\nbecomes\n{}", difference.what, shown(&difference.first), shown(&difference.second))
    };
    found.iter().map(one).collect::<Vec<_>>().join("\n")
}

/// Everything that the definition says.
fn whole(definition: &Element) -> Result<Params> {
    let goal = canonical(definition);
    let mut blocked = BTreeSet::new();
    let mut found = Vec::new();
    // Every round blocks one more sort of elements at least, and there are not so many.
    for _ in 0..40 {
        let params = compose(&goal, &mut blocked);
        let rendered = match rendered(&params) {
            Ok(rendered) => rendered.xml,
            Err(why) => {
                found =
                    vec![Difference { what: "domain".into(), element: String::new(), first: None, second: Some(why) }];
                break;
            }
        };
        found = differences(definition, &rendered);
        if found.is_empty() {
            return Ok(shorten::shorten(params, &goal));
        }
        let before = blocked.len();
        for difference in &found {
            if difference.element.is_empty() {
                blocked.extend(sorts(&goal));
            } else {
                blocked.insert(difference.element.clone());
            }
        }
        if blocked.len() == before {
            break;
        }
    }
    as_a_whole(definition).ok_or_else(|| {
        Error::failed(format!("this can't be described without a loss: {}", told(&found)))
            .hint("this is a mistake of this program: please report it, with the XML")
    })
}

/// The same with shorter words, where there are any.
fn in_short(definition: &Element, params: Params) -> Params {
    if params.contains_key("definition") {
        return params;
    }
    let goal = canonical(definition);
    let comes = |params: &Params, context: &Context| {
        rendered_in(params, context).is_ok_and(|wanted| differences(&goal, &wanted.xml).is_empty())
    };
    let same = |params: &Params| comes(params, &Context::default());
    // A machine that knows a firmware must not choose one for a guest that has another, or none.
    let elsewhere = Context { firmware: Some(some_firmware()), ..Context::default() };
    let everywhere = |params: &Params| {
        comes(params, &elsewhere) && changes(params, definition).is_ok_and(|changes| changes.is_empty())
    };
    brief::brief(params, &brief::Scene { goal: &goal, definition: &goal, same: &same, everywhere: &everywhere })
}

/// A firmware that no guest has.
fn some_firmware() -> ChosenFirmware {
    ChosenFirmware { loader: "/firmware".into(), nvram_template: Some("/variables".into()), format: "raw".into() }
}

/// Sorts of devices of which there are several.
fn sorts(goal: &Element) -> BTreeSet<String> {
    goal.get("devices").into_iter().flat_map(Element::elements).map(|device| device.name.clone()).collect()
}

/// The XML itself as the description.
fn as_a_whole(definition: &Element) -> Option<Params> {
    let mut params = Params::new();
    params.insert("name".into(), json!(definition.text_at(&["name"])?));
    params.insert("definition".into(), json!(definition.print()));
    let rendered = rendered(&params).ok()?;
    differences(definition, &rendered.xml).is_empty().then_some(params)
}

/// Parameters for a domain in canonical form; what was found out not to work is noted in `blocked`.
fn compose(goal: &Element, blocked: &mut BTreeSet<String>) -> Params {
    let base = base(goal);
    let mut sections = sections::sections(goal);
    let (params, fragments) = loop {
        let mut params = base.clone();
        for section in &sections {
            let stated = section.elements.iter().any(|name| blocked.contains(*name));
            params.extend(if stated { section.least.clone() } else { section.params.clone() });
        }
        let Ok(have) = rendered(&params).map(|wanted| canonical(&wanted.xml)) else {
            if block_what_fails(&base, &sections, blocked) {
                continue;
            }
            break (params, Vec::new());
        };
        let mut again = false;
        let mut fragments = Vec::new();
        for section in &mut sections {
            for name in section.elements {
                let Some(want) = goal.get(name) else {
                    // Rendered although nothing asks for it: only a section that says less can help.
                    again |= have.get(name).is_some() && blocked.insert((*name).to_string());
                    continue;
                };
                match residual(want, have.get(name)) {
                    Residual::Nothing => {}
                    Residual::Add(add) => fragments.push(readable(&add)),
                    Residual::TooMuch => again |= blocked.insert((*name).to_string()),
                }
            }
        }
        if !again {
            break (params, fragments);
        }
    };
    let known = |name: &str| {
        matches!(name, "name" | "devices") || sections.iter().any(|section| section.elements.contains(&name))
    };
    let mut top = fragments;
    for element in goal.elements().filter(|element| !known(&element.name)) {
        // The amount is a parameter already; what else is said of memory (`dumpCore`) is not.
        if element.name != "memory" || !element.attributes.is_empty() {
            top.push(readable(element));
        }
    }
    let mut params = params;
    devices(goal, &base, blocked, &mut params, top)
}

/// What every rendering needs.
fn base(goal: &Element) -> Params {
    let mut base = Params::new();
    let text = |way: &[&str]| goal.text_at(way);
    base.insert("name".into(), json!(text(&["name"]).unwrap_or_default()));
    if let Some(kind) = goal.attribute("type") {
        base.insert("type".into(), json!(kind));
    }
    if let Some(size) = goal.get("memory").and_then(amount) {
        base.insert("memory".into(), json!(size.to_string()));
    }
    let kind = goal.at(&["os", "type"]);
    for name in ["arch", "machine"] {
        if let Some(value) = kind.and_then(|kind| kind.attribute(name)) {
            base.insert(name.into(), json!(value));
        }
    }
    base
}

/// Finds sections that can't be rendered even alone.
fn block_what_fails(base: &Params, sections: &[sections::Section], blocked: &mut BTreeSet<String>) -> bool {
    let mut any = false;
    for section in sections.iter().filter(|section| section.params != section.least) {
        let mut alone = base.clone();
        alone.extend(section.params.clone());
        if rendered(&alone).is_err() {
            for name in section.elements {
                any |= blocked.insert((*name).to_string());
            }
        }
    }
    if !any {
        // Only together they fail: then none of them.
        for section in sections {
            for name in section.elements {
                any |= blocked.insert((*name).to_string());
            }
        }
    }
    any
}

/// The devices, and `xml` with all that has no words.
fn devices(
    goal: &Element,
    base: &Params,
    blocked: &BTreeSet<String>,
    params: &mut Params,
    top: Vec<Element>,
) -> Params {
    let machine = Machine::of(goal);
    let mut whole = Vec::new();
    for device in goal.get("devices").into_iter().flat_map(Element::elements) {
        if device.name == "emulator" {
            params.insert("emulator".into(), json!(device.text()));
            continue;
        }
        let placed = if blocked.contains(&device.name) { None } else { place(device, base, machine) };
        match placed {
            Some((list, value)) if convert::is_single(list) && !params.contains_key(list) => {
                params.insert(list.into(), value);
            }
            Some((list, value)) if !convert::is_single(list) => {
                match params.entry(list).or_insert_with(|| Value::Array(Vec::new())) {
                    Value::Array(all) => all.push(value),
                    other => *other = Value::Array(vec![value]),
                }
            }
            _ => whole.push(readable(device)),
        }
    }
    let mut text: String = top.iter().map(|element| compact(element, ROOM)).collect();
    if !whole.is_empty() {
        text.push_str("<devices>\n");
        for device in &whole {
            for line in compact(device, ROOM - 2).lines() {
                text.push_str(&format!("  {line}\n"));
            }
        }
        text.push_str("</devices>\n");
    }
    if !text.is_empty() {
        params.insert("xml".into(), json!(text));
    }
    std::mem::take(params)
}

/// A device in its short form, if it has one.
fn place(device: &Element, base: &Params, machine: Machine) -> Option<(&'static str, Value)> {
    let alone = |list: &'static str, value: &Value| -> Option<Element> {
        let mut params = base.clone();
        let value = if convert::is_single(list) { value.clone() } else { json!([value]) };
        params.insert(list.to_string(), value);
        let wanted = rendered(&params).ok()?;
        let mut found = wanted.xml.get("devices")?.named(&device.name);
        let only = found.next()?;
        if found.next().is_some() { None } else { canonical::device(only, machine) }
    };
    for (list, value) in convert::device(device) {
        let mut value = value;
        match residual(device, alone(list, &value).as_ref()) {
            Residual::Nothing => {}
            Residual::Add(add) if add.attributes.is_empty() && add.elements().next().is_some() => {
                let lines: Vec<String> = readable(&add).elements().map(one_line).collect();
                let Value::Object(map) = &mut value else { continue };
                map.insert("xml".into(), json!(lines.join("\n")));
                if alone(list, &value).as_ref() != Some(device) {
                    continue;
                }
            }
            Residual::Add(_) | Residual::TooMuch => continue,
        }
        let same = |value: &Value| alone(list, value).as_ref() == Some(device);
        return Some((list, shorten::item(list, value, &same)));
    }
    None
}

/// A password that somebody covered is not one.
fn masked_passwords(definition: &mut Element, notes: &mut Vec<String>) {
    let Some(devices) = definition.get_mut("devices") else { return };
    for display in devices.elements_mut().filter(|device| device.name == "graphics") {
        let masked =
            display.attribute("passwd").is_some_and(|word| !word.is_empty() && word.bytes().all(|b| b == b'*'));
        if masked {
            let kind = display.attribute("type").unwrap_or("display").to_string();
            display.unset("passwd");
            notes.push(format!("the password of its {kind} is masked in what was imported: give `passwd` yourself"));
        }
    }
}

fn has_password(definition: &Element) -> bool {
    let displays = definition.get("devices").into_iter().flat_map(|devices| devices.named("graphics"));
    displays.filter_map(|display| display.attribute("passwd")).any(|word| !word.is_empty())
}

/// The definition in a file or in what virsh printed.
///
/// # Errors
/// What is no XML.
pub fn read(text: &str) -> std::result::Result<Element, String> {
    xml::parse(text.trim_start_matches('\u{feff}'))
}

/// Would the module find anything to change on the machine where this domain is?
pub fn changes(params: &Params, current: &Element) -> std::result::Result<Vec<String>, String> {
    let wanted = rendered_for(params, Some(current))?;
    let merged = compare::merge(&wanted, current, None);
    Ok(merged.changes.into_iter().map(|change| change.path).chain(merged.left_alone).collect())
}
