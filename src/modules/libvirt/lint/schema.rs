//! What libvirt's schema knows, as a table: `domain-schema.txt`, made of libvirt's relax-NG files by
//! `domain-schema.py` (how, and of which versions, stands at the table's head), and `domain-schema-newer.txt`, what later
//! versions added, written by hand.
//!
//! A state is what may stand inside an element at its place:
//!
//! ```text
//! 61 domain/devices/hostdev            number, and one of the ways to it
//!  @type=mdev|pci|usb boot:157 *       attributes (with their words, where they are listed), children with their states,
//!                                      * for text (*=a|b where its words are listed)
//!  ?type=pci @managed=no|yes …         more, where the attribute `type` has this value
//! ```
//!
//! `~` stands for a space in a word; a child `*` may be called anything and is not looked into.

use std::collections::HashMap;
use std::sync::OnceLock;

use super::rules::{Rule, UNKNOWN_ATTRIBUTE, UNKNOWN_ELEMENT, UNKNOWN_VALUE};
use super::scene::Scene;
use crate::diag::nearest;
use crate::modules::libvirt::xml::Element;
use crate::packed::DOMAIN_SCHEMA;

const NEWER: &str = include_str!("domain-schema-newer.txt");

/// What may stand somewhere.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// Attributes; `None` for any value.
    attributes: Vec<(&'static str, Option<Vec<&'static str>>)>,
    /// Children and their states.
    children: Vec<(&'static str, usize)>,
    /// Text: not allowed, of these words, or any.
    text: Option<Option<Vec<&'static str>>>,
}

/// An element at its place.
#[derive(Clone, Debug, Default)]
struct State {
    way: &'static str,
    always: Words,
    /// The attribute that more depends on, and what each of its values brings.
    switch: Option<&'static str>,
    cases: Vec<(Vec<&'static str>, Words)>,
}

/// The whole table.
#[derive(Debug)]
pub struct Table {
    states: Vec<State>,
    /// Where elements of a name may stand: the ways to their parents.
    homes: HashMap<&'static str, Vec<&'static str>>,
}

impl Words {
    fn add(&mut self, word: &'static str, number: impl Fn(&str) -> Option<usize>) {
        let list = |text: &'static str| text.split('|').collect::<Vec<_>>();
        if let Some(attribute) = word.strip_prefix('@') {
            match attribute.split_once('=') {
                Some((name, values)) => self.attributes.push((name, Some(list(values)))),
                None => self.attributes.push((attribute, None)),
            }
        } else if let Some(values) = word.strip_prefix("*=") {
            self.text = Some(Some(list(values)));
        } else if word == "*" {
            self.text = Some(None);
        } else if let Some((name, state)) = word.rsplit_once(':')
            && let Some(state) = number(state)
        {
            self.children.push((name, state));
        }
    }
}

impl Table {
    fn read(table: &'static str, newer: &'static str) -> Table {
        let mut states: Vec<State> = Vec::new();
        for line in table.lines().filter(|line| !line.starts_with('#')) {
            let Some(words) = line.strip_prefix(' ') else {
                let way = line.split_once(' ').map_or("", |(_, way)| way);
                states.push(State { way, ..State::default() });
                continue;
            };
            if let Some(state) = states.last_mut() {
                state.add(words, |text| text.parse().ok());
            }
        }
        // `WAY words…`, where a child is `name:WAY`, of a state that is there or of a line before.
        for line in newer.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
            let Some((way, words)) = line.split_once(' ') else { continue };
            let at = match states.iter().position(|state| state.way == way) {
                Some(at) => at,
                None => {
                    states.push(State { way, ..State::default() });
                    states.len() - 1
                }
            };
            let known: Vec<&'static str> = states.iter().map(|state| state.way).collect();
            if let Some(state) = states.get_mut(at) {
                state.add(words, |text| known.iter().position(|way| *way == text));
            }
        }
        let mut homes: HashMap<&'static str, Vec<&'static str>> = HashMap::new();
        for state in &states {
            for (name, _) in state.words().flat_map(|words| &words.children) {
                let ways = homes.entry(name).or_default();
                if !ways.contains(&state.way) {
                    ways.push(state.way);
                }
            }
        }
        Table { states, homes }
    }

    /// The table, read once.
    pub fn get() -> &'static Table {
        static KNOWN: OnceLock<Table> = OnceLock::new();
        KNOWN.get_or_init(|| Table::read(DOMAIN_SCHEMA.text(), NEWER))
    }

    /// What may stand in this element, which is in one of these states.
    fn of(&self, states: &[usize], element: &Element) -> Vec<&Words> {
        states.iter().filter_map(|at| self.states.get(*at)).flat_map(|state| state.of(element)).collect()
    }
}

impl State {
    fn words(&self) -> impl Iterator<Item = &Words> {
        std::iter::once(&self.always).chain(self.cases.iter().map(|(_, words)| words))
    }

    fn add(&mut self, line: &'static str, number: impl Fn(&str) -> Option<usize>) {
        let mut words = line.split(' ').filter(|word| !word.is_empty()).peekable();
        let mut into = &mut self.always;
        if let Some(case) = words.peek().and_then(|word| word.strip_prefix('?'))
            && let Some((switch, values)) = case.split_once('=')
        {
            words.next();
            self.switch = Some(switch);
            self.cases.push((values.split('|').collect(), Words::default()));
            if let Some((_, case)) = self.cases.last_mut() {
                into = case;
            }
        }
        for word in words {
            into.add(word, &number);
        }
    }

    /// What may stand in this element. Without the attribute that it depends on, or with one that is not known, all may.
    fn of(&self, element: &Element) -> Vec<&Words> {
        let value = self.switch.and_then(|name| element.attribute(name));
        let known = |value: &str| self.cases.iter().any(|(values, _)| values.contains(&value));
        match value.filter(|value| known(value)) {
            Some(value) => {
                let cases = self.cases.iter().filter(|(values, _)| values.contains(&value)).map(|(_, words)| words);
                std::iter::once(&self.always).chain(cases).collect()
            }
            None => self.words().collect(),
        }
    }
}

/// Everything in the guest that libvirt's schema does not know.
pub fn check(scene: &mut Scene) {
    let table = Table::get();
    if scene.domain.name != "domain" {
        return;
    }
    let mut found: Vec<(&'static Rule, String, String, String)> = Vec::new();
    let places: HashMap<*const Element, &str> =
        scene.devices.iter().map(|device| (std::ptr::from_ref(device.element), device.place.as_str())).collect();
    let here = Here { states: &[0], element: scene.domain, parent: None };
    walk(table, &here, "domain", &places, &mut found);
    for (rule, place, message, fix) in found {
        scene.say(rule, place, message, fix);
    }
}

/// An element that is looked at.
struct Here<'a> {
    /// What it may be.
    states: &'a [usize],
    element: &'a Element,
    /// What it is in.
    parent: Option<&'a Here<'a>>,
}

fn walk(
    table: &Table,
    here: &Here,
    place: &str,
    places: &HashMap<*const Element, &str>,
    found: &mut Vec<(&'static Rule, String, String, String)>,
) {
    let Here { states, element, .. } = *here;
    let words = table.of(states, element);
    for (name, value) in &element.attributes {
        if name.contains(':') || name == "xmlns" {
            continue;
        }
        let mut known = words.iter().flat_map(|words| &words.attributes).filter(|(other, _)| other == name).peekable();
        let at = || format!("{place}@{name}");
        if known.peek().is_none() {
            let message = match of_other_case(table, states, element, name) {
                Some(switch) => format!(
                    "<{}> with {switch}='{}' has no attribute `{name}`: libvirt drops it without a word",
                    element.name,
                    element.attribute(switch).unwrap_or("")
                ),
                None => format!("<{}> has no attribute `{name}`: libvirt drops it without a word", element.name),
            };
            found.push((
                UNKNOWN_ATTRIBUTE,
                at(),
                message,
                advice_for_attribute(table, &words, here, place, name, value),
            ));
            continue;
        }
        let lists: Option<Vec<&Vec<&str>>> = known.map(|(_, values)| values.as_ref()).collect();
        if let Some(lists) = lists {
            let values: Vec<&str> = lists.into_iter().flatten().copied().collect();
            wrong_word(&values, value, || format!("<{}>: `{value}` is no {name}", element.name), at, found);
        }
    }
    let text = element.text();
    if !text.is_empty() {
        let allowed: Vec<&Option<Vec<&str>>> = words.iter().filter_map(|words| words.text.as_ref()).collect();
        let lists: Option<Vec<&Vec<&str>>> = allowed.into_iter().map(Option::as_ref).collect();
        if let Some(lists) = lists.filter(|lists| !lists.is_empty()) {
            let values: Vec<&str> = lists.into_iter().flatten().copied().collect();
            let message = || format!("`{text}` is nothing that <{}> can be", element.name);
            wrong_word(&values, &text, message, || place.to_string(), found);
        }
    }
    for child in element.elements() {
        let plain = child.name.split_once(':').map_or(child.name.as_str(), |(_, name)| name);
        let prefixed = child.name.contains(':');
        let inner: Vec<usize> = words
            .iter()
            .flat_map(|words| &words.children)
            // Inside an element of QEMU's namespace its children are in the table without their prefix.
            .filter(|(name, _)| *name == child.name || (element.name.contains(':') && *name == plain))
            .map(|(_, state)| *state)
            .collect();
        let own = places.get(&std::ptr::from_ref(child)).copied();
        let at = own.map_or_else(|| format!("{place}/{}", child.name), str::to_string);
        if inner.is_empty() {
            let anything = words.iter().flat_map(|words| &words.children).any(|(name, _)| *name == "*");
            if !anything && !prefixed {
                let message = format!("<{}> has no <{}>: libvirt drops it without a word", element.name, child.name);
                found.push((UNKNOWN_ELEMENT, at, message, advice_for_element(table, &words, child, place)));
            }
            continue;
        }
        let below = Here { states: &inner, element: child, parent: Some(here) };
        walk(table, &below, &at, places, found);
    }
}

fn wrong_word(
    values: &[&str],
    value: &str,
    message: impl Fn() -> String,
    place: impl Fn() -> String,
    found: &mut Vec<(&'static Rule, String, String, String)>,
) {
    // A few numbers in a pattern of their own, or nothing at all, are no list of words.
    let fits = |known: &&str| *known == value.trim() || known.replace('~', " ") == value.trim();
    if values.iter().any(fits) || values.is_empty() {
        return;
    }
    let fix = match nearest(value, values.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => {
            let mut sorted = values.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            format!("write one of {}", sorted.join(", "))
        }
    };
    found.push((UNKNOWN_VALUE, place(), message(), fix));
}

/// The attribute whose value keeps this attribute from being known here.
fn of_other_case(table: &Table, states: &[usize], element: &Element, attribute: &str) -> Option<&'static str> {
    states.iter().filter_map(|at| table.states.get(*at)).find_map(|state| {
        let switch = state.switch?;
        element.attribute(switch)?;
        let elsewhere = state.words().flat_map(|words| &words.attributes).any(|(name, _)| *name == attribute);
        elsewhere.then_some(switch)
    })
}

/// The well-known mistakes first; then where the attribute is at home; then the nearest name.
fn advice_for_attribute(table: &Table, words: &[&Words], here: &Here, place: &str, name: &str, value: &str) -> String {
    let element = here.element;
    match (element.name.as_str(), name) {
        ("driver", "multifunction") if place.contains("/hostdev") => {
            return format!(
                "it belongs on the device's guest address: <address type='pci' … multifunction='{value}'/> beside <source>"
            );
        }
        ("address", "type") if place.ends_with("/source/address") => {
            return "leave it out: the address inside <source> is the host's, and its sort is that of the hostdev"
                .to_string();
        }
        ("disk", "index") => return "leave it out: the order of disks is that of <target dev=…>".to_string(),
        _ => {}
    }
    if words.iter().flat_map(|words| &words.children).any(|(child, _)| *child == name) {
        return format!("it is an element there: <{name}>");
    }
    let has = |words: &Words| words.attributes.iter().any(|(known, _)| *known == name);
    for (child, state) in words.iter().flat_map(|words| &words.children) {
        if *child != "address" && table.states.get(*state).is_some_and(|state| state.words().any(has)) {
            return format!("it belongs on <{child}>: <{child} {name}='{value}'/>");
        }
    }
    let mut known: Vec<&str> = words.iter().flat_map(|words| &words.attributes).map(|(known, _)| *known).collect();
    known.sort_unstable();
    known.dedup();
    let near = nearest(name, known.iter().copied());
    // With another word in an attribute of what it is in, it would be known.
    if let Some(parent) = here.parent.filter(|_| near.is_none()) {
        let states = parent.states.iter().filter_map(|at| table.states.get(*at));
        let fits = |words: &Words| {
            words.children.iter().any(|(child, state)| {
                *child == element.name && table.states.get(*state).is_some_and(|state| state.words().any(has))
            })
        };
        for state in states {
            if let (Some(switch), Some((values, _))) = (state.switch, state.cases.iter().find(|(_, words)| fits(words)))
            {
                let (parent, word) = (&parent.element.name, values.first().copied().unwrap_or_default());
                let others = known.iter().filter(|known| !matches!(**known, "index" | "startupPolicy" | "fdgroup"));
                let others: Vec<&str> = others.copied().collect();
                let here = if others.is_empty() {
                    String::new()
                } else {
                    format!("; here write one of {}", others.join(", "))
                };
                return format!("it goes with <{parent} {switch}='{word}'>{here}");
            }
        }
    }
    match near {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => format!("leave it out; <{}> has no attributes there", element.name),
        None => format!("leave it out; <{}> has {}", element.name, known.join(", ")),
    }
}

fn advice_for_element(table: &Table, words: &[&Words], child: &Element, place: &str) -> String {
    let attribute = words.iter().flat_map(|words| &words.attributes).any(|(known, _)| *known == child.name);
    if attribute {
        return format!("it is an attribute there: {}='…'", child.name);
    }
    let known: Vec<&str> = words.iter().flat_map(|words| &words.children).map(|(name, _)| *name).collect();
    if let Some(near) = nearest(&child.name, known.iter().copied()) {
        return format!("did you mean <{near}>?");
    }
    let has = |words: &Words| words.attributes.iter().any(|(known, _)| *known == child.name);
    for (other, state) in words.iter().flat_map(|words| &words.children) {
        if *other != "address" && table.states.get(*state).is_some_and(|state| state.words().any(has)) {
            return format!("it is an attribute of <{other}>: <{other} {}='…'/>", child.name);
        }
    }
    // Where such an element is at home: nearest to where it stands now.
    let near = |way: &&&str| way.split('/').zip(plain(place).split('/')).take_while(|(a, b)| a == b).count();
    if let Some(home) = table.homes.get(child.name.as_str()).and_then(|ways| ways.iter().max_by_key(near)) {
        return format!("it belongs into {home}");
    }
    "leave it out".to_string()
}

/// A place without what stands in brackets.
fn plain(place: &str) -> String {
    let mut depth = 0;
    place
        .chars()
        .filter(|c| {
            depth += i32::from(*c == '[');
            let keep = depth == 0;
            depth -= i32::from(*c == ']');
            keep
        })
        .collect()
}

#[cfg(test)]
mod rng;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::libvirt::lint::{About, Finding, check};
    use crate::modules::libvirt::xml::parse;

    fn found(xml: &str) -> Vec<Finding> {
        let names = [UNKNOWN_ELEMENT.name, UNKNOWN_ATTRIBUTE.name, UNKNOWN_VALUE.name];
        let all = check(&parse(xml).unwrap(), &About::default());
        all.into_iter().filter(|finding| names.contains(&finding.rule)).collect()
    }

    /// What stands inside `<domain>`; where it is found, and a part of the way out.
    const WRONG: &[(&str, &str, &str, &str)] = &[
        ("<vpcu>4</vpcu>", "unknown-element", "domain/vpcu", "<vcpu>"),
        (
            "<features><vendor_id state='on' value='x'/></features>",
            "unknown-element",
            "domain/features/vendor_id",
            "domain/features/hyperv",
        ),
        (
            "<devices><tpm model='tpm-crb'><version>2.0</version></tpm></devices>",
            "unknown-element",
            "domain/devices/tpm/version",
            "it is an attribute of <backend>",
        ),
        ("<features><topology cores='2'/></features>", "unknown-element", "domain/features/topology", "domain/cpu"),
        ("<memory units='GiB'>1</memory>", "unknown-attribute", "domain/memory@units", "`unit`"),
        (
            "<devices><disk type='file' cache='none'><target dev='vda'/></disk></devices>",
            "unknown-attribute",
            "domain/devices/disk[vda]@cache",
            "<driver cache='none'/>",
        ),
        (
            "<devices><disk type='block'><source file='/a'/><target dev='vda'/></disk></devices>",
            "unknown-attribute",
            "domain/devices/disk[vda]/source@file",
            "it goes with <disk type='file'>; here write one of dev",
        ),
        (
            "<devices><interface type='bridge' model='virtio'/></devices>",
            "unknown-attribute",
            "domain/devices/interface@model",
            "it is an element there",
        ),
        ("<on_crash>destory</on_crash>", "unknown-value", "domain/on_crash", "`destroy`"),
        (
            "<devices><disk type='file'><driver name='qemu' cache='non'/><target dev='vda'/></disk></devices>",
            "unknown-value",
            "domain/devices/disk[vda]/driver@cache",
            "`none`",
        ),
        (
            "<devices><video><model type='cirus'/></video></devices>",
            "unknown-value",
            "domain/devices/video/model@type",
            "`cirrus`",
        ),
        ("<devices><watchdog model='i6300'/></devices>", "unknown-value", "domain/devices/watchdog@model", "i6300esb"),
        ("<devices><input type='tablet' bus='ubs'/></devices>", "unknown-value", "domain/devices/input@bus", "`usb`"),
        (
            "<devices><controller type='usb' model='xhci'/></devices>",
            "unknown-value",
            "domain/devices/controller[usb.0]@model",
            "`",
        ),
        ("<clock offset='utc'><timer name='hpett'/></clock>", "unknown-value", "domain/clock/timer@name", "`hpet`"),
        (
            "<features><hyperv><relaxed state='yes'/></hyperv></features>",
            "unknown-value",
            "domain/features/hyperv/relaxed@state",
            "one of off, on",
        ),
        (
            "<features><hyperv><relaxd state='on'/></hyperv></features>",
            "unknown-element",
            "domain/features/hyperv/relaxd",
            "<relaxed>",
        ),
        ("<features><smm state='yes'/></features>", "unknown-value", "domain/features/smm@state", "one of off, on"),
    ];

    #[test]
    fn what_is_not_known_is_named_with_its_way_out() {
        for (inside, rule, place, fix) in WRONG {
            let all = found(&format!("<domain type='kvm'>{inside}</domain>"));
            assert_eq!(all.len(), 1, "{inside}: {all:#?}");
            assert_eq!((all[0].rule, all[0].place.as_str()), (*rule, *place), "{inside}");
            assert!(all[0].fix.contains(fix), "{inside}: {}", all[0].fix);
        }
    }

    /// The near misses of the same.
    const RIGHT: &[&str] = &[
        "<vcpu>4</vcpu>",
        "<features><hyperv><vendor_id state='on' value='x'/></hyperv></features>",
        "<devices><tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm></devices>",
        "<memory unit='GiB'>1</memory>",
        "<devices><disk type='file'><driver name='qemu' cache='none'/><target dev='vda'/></disk></devices>",
        "<devices><disk type='block'><source dev='/a'/><target dev='vda'/></disk></devices>",
        "<devices><disk><source file='/a'/><target dev='vda'/></disk></devices>",
        "<devices><interface type='bridge'><source bridge='br0'/><model type='virtio'/></interface></devices>",
        "<on_crash>destroy</on_crash>",
        "<devices><video><model type='cirrus'/></video></devices>",
        "<devices><watchdog model='i6300esb' action='reset'/></devices>",
        "<devices><controller type='usb' model='qemu-xhci' ports='15'/></devices>",
        "<clock offset='utc'><timer name='hpet' present='no'/></clock>",
        "<features><hyperv><relaxed state='on'/></hyperv><smm state='on'/></features>",
        "<metadata><x:y xmlns:x='u' z='1'><x:w/></x:y></metadata>",
        "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><qemu:arg value='-a'/>\
         <qemu:env name='A' value='b'/></qemu:commandline>",
        "<other:thing xmlns:other='u' a='b'/>",
    ];

    #[test]
    fn what_is_right_is_silent() {
        for inside in RIGHT {
            assert_eq!(found(&format!("<domain type='kvm'>{inside}</domain>")), [], "{inside}");
        }
    }

    #[test]
    fn every_child_has_its_state() {
        let table = Table::get();
        assert!(table.states.len() > 200, "{}", table.states.len());
        let children = |line: &str| {
            line.split(' ').filter(|word| !word.starts_with(['@', '?', '*']) && word.contains(':')).count()
        };
        let words = DOMAIN_SCHEMA.text().lines().filter_map(|line| line.strip_prefix(' '));
        let newer = NEWER.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(' '));
        let wanted: usize = words.chain(newer.map(|(_, words)| words)).map(children).sum();
        let have: usize = table.states.iter().flat_map(State::words).map(|words| words.children.len()).sum();
        let wild =
            table.states.iter().flat_map(State::words).flat_map(|w| &w.children).filter(|(n, _)| *n == "*").count();
        assert_eq!(have - wild, wanted);
        for state in &table.states {
            for (name, at) in state.words().flat_map(|words| &words.children) {
                assert!(*at < table.states.len(), "{}/{name}", state.way);
            }
        }
    }
}
