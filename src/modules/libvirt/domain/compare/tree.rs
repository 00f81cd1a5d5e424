//! Elements, attributes and what is inside of them, at every depth.

use super::Merger;
use super::lists::{Sort, is_somebodys, is_somebodys_attribute, sort};
use crate::modules::libvirt::domain::intent::is_ours;
use crate::modules::libvirt::domain::normal::{
    amount, cell_memory, is_container, is_default, same_attribute, same_text, says_only_defaults, set_amount,
};
use crate::modules::libvirt::domain::words::{describe, shown, words};
use crate::modules::libvirt::xml::{Element, Node};

impl Merger {
    /// Everything stated in `wanted` must be so in `current`; what `last` stated and `wanted` does not goes away.
    pub(super) fn element(&mut self, way: &[&str], wanted: &Element, current: &mut Element, last: Option<&Element>) {
        if wanted.name == "cpu" && self.cpu_mode(way, wanted, current, last) {
            return;
        }
        if self.another_sort(way, wanted, current) {
            return;
        }
        let sizes = (amount(wanted), amount(current));
        let sized = sizes.0.is_some() && sizes.1.is_some();
        if let (Some(new), Some(old)) = sizes
            && new != old
        {
            self.change(&words(way, None), Some(old.to_string()), Some(new.to_string()));
            set_amount(current, wanted);
        }
        self.attributes(way, wanted, current, last, sized);
        if !sized && wanted.elements().next().is_none() {
            let (new, old) = (wanted.text(), current.text());
            if !new.is_empty() && !same_text(&wanted.name, &new, &old) {
                self.change(&words(way, None), (!old.is_empty()).then_some(old), Some(new.clone()));
                current.set_text(new);
            }
        }
        self.children(way, wanted, current, last);
    }

    fn attributes(
        &mut self,
        way: &[&str],
        wanted: &Element,
        current: &mut Element,
        last: Option<&Element>,
        sized: bool,
    ) {
        let element = wanted.name.as_str();
        let is_amount = |name: &str| sized && (name == "unit" || (element == "page" && name == "size"));
        let dynamic_port = wanted.attribute("autoport") == Some("yes") && current.attribute("autoport") == Some("yes");
        if element == "cell"
            && let (Some(new), Some(old)) = (cell_memory(wanted), cell_memory(current))
        {
            if new != old {
                self.change(&words(way, Some("memory")), Some(old.to_string()), Some(new.to_string()));
            }
            for name in ["memory", "unit"] {
                match wanted.attribute(name).filter(|_| new != old) {
                    Some(value) => current.set(name, value),
                    None if new != old => current.unset(name),
                    None => {}
                }
            }
        }
        for (name, value) in &wanted.attributes {
            if is_amount(name) || (element == "cell" && matches!(name.as_str(), "memory" | "unit")) {
                continue;
            }
            let before = current.attribute(name).map(str::to_string);
            let same = match &before {
                Some(before) => same_attribute(element, name, value, before),
                None => {
                    is_default(element, name, value)
                        || (element == "vcpu" && name == "current" && *value == current.text())
                }
            };
            if same || (name == "port" && dynamic_port) {
                continue;
            }
            self.change(&words(way, Some(name)), before.map(|old| shown(name, &old)), Some(shown(name, value)));
            current.set(name, value.as_str());
            after_attribute(current, name);
        }
        for (name, _) in last.iter().flat_map(|last| &last.attributes) {
            if wanted.attribute(name).is_some()
                || is_kept(element, name)
                || is_amount(name)
                || name.starts_with("xmlns")
            {
                continue;
            }
            if let Some(before) = current.attribute(name).map(str::to_string) {
                self.change(&words(way, Some(name)), Some(shown(name, &before)), None);
                current.unset(name);
                after_attribute(current, name);
            }
        }
        let stated = |name: &str| wanted.attribute(name).is_some();
        for (name, value) in &current.attributes {
            if is_somebodys_attribute(element, name) && !stated(name) && way.len() == 2 {
                self.left_alone.push(format!("{} {value}", words(way, Some(name))));
            }
        }
    }

    /// Where one word decides what all the rest means, nothing of another sort may stay.
    fn another_sort(&mut self, way: &[&str], wanted: &Element, current: &mut Element) -> bool {
        let word = match wanted.name.as_str() {
            "backend" if wanted.attribute("model").is_some() => "model",
            "backend" => "type",
            _ => return false,
        };
        let (Some(new), Some(old)) = (wanted.attribute(word), current.attribute(word)) else { return false };
        if new == old {
            return false;
        }
        self.change(&words(way, None), Some(describe(current)), Some(describe(wanted)));
        *current = wanted.clone();
        true
    }

    /// A CPU of another mode shares nothing with the one before but its arrangement.
    fn cpu_mode(&mut self, way: &[&str], wanted: &Element, current: &mut Element, last: Option<&Element>) -> bool {
        let (Some(new), Some(old)) = (wanted.attribute("mode"), current.attribute("mode")) else { return false };
        if new == old {
            return false;
        }
        let model = |cpu: &Element, mode: &str| match cpu.text_at(&["model"]) {
            Some(model) => format!("{mode} ({model})"),
            None => mode.to_string(),
        };
        self.change(&words(way, Some("mode")), Some(model(current, old)), Some(model(wanted, new)));
        let mut fresh = wanted.clone();
        fresh.retain(|child| !matches!(child.name.as_str(), "topology" | "numa"));
        for name in ["topology", "numa"] {
            if let Some(old) = current.get(name) {
                fresh = fresh.child(old.clone());
            }
        }
        *current = fresh;
        // Whatever of the arrangement differs is compared as always.
        let arrangement = |cpu: &Element| {
            let mut only = cpu.clone();
            only.attributes.clear();
            only.retain(|child| matches!(child.name.as_str(), "topology" | "numa"));
            only
        };
        self.children(way, &arrangement(wanted), current, last.map(arrangement).as_ref());
        true
    }

    pub(super) fn children(&mut self, way: &[&str], wanted: &Element, current: &mut Element, last: Option<&Element>) {
        let mut names: Vec<&str> = Vec::new();
        for child in wanted.elements().chain(last.into_iter().flat_map(Element::elements)) {
            if !names.contains(&child.name.as_str()) {
                names.push(&child.name);
            }
        }
        self.mention(way, &names, current);
        for name in names {
            let stated: Vec<&Element> = wanted.named(name).filter(|e| !is_ours(e)).collect();
            let before: Vec<&Element> =
                last.into_iter().flat_map(|last| last.named(name)).filter(|e| !is_ours(e)).collect();
            let mut inner: Vec<&str> = way.to_vec();
            inner.push(name);
            match sort(&wanted.name, name) {
                Sort::Keyed(keys) => self.keyed(&inner, keys, &stated, current, &before),
                Sort::Namespaced => self.namespaced(&inner, &stated, current, &before),
                Sort::Ordered => self.ordered(&inner, &stated, current, &before),
                Sort::Single if stated.len() > 1 => self.ordered(&inner, &stated, current, &before),
                Sort::Single => match (stated.first(), before.first()) {
                    (Some(only), before) => self.single(&inner, only, current, before.copied()),
                    (None, Some(before)) => self.remove(&inner, before, current),
                    (None, None) => {}
                },
            }
        }
    }

    fn single(&mut self, way: &[&str], wanted: &Element, parent: &mut Element, last: Option<&Element>) {
        match parent.get_mut(&wanted.name) {
            Some(child) => self.element(way, wanted, child, last),
            // libvirt prints no container that nothing is in, and leaves out what it means anyhow.
            None if says_only_defaults(wanted) => {}
            None => {
                self.change(&words(way, None), None, Some(describe(wanted)));
                parent.nodes.push(Node::Element(wanted.clone()));
            }
        }
    }

    /// What was stated last time goes; what others put inside of it stays.
    fn remove(&mut self, way: &[&str], last: &Element, parent: &mut Element) {
        let Some(child) = parent.get_mut(&last.name) else { return };
        if is_container(&last.name) || last.name == "cpu" {
            let mut scratch = Merger::default();
            let mut rest = child.clone();
            if last.name == "cpu" && last.attribute("mode").is_some() {
                // Without its mode the rest of a CPU means nothing.
                rest.attributes.clear();
                rest.retain(|part| !matches!(part.name.as_str(), "model" | "vendor" | "feature" | "maxphysaddr"));
            }
            scratch.element(way, &Element::new(&last.name), &mut rest, Some(last));
            let says = |(name, value): &(String, String)| !is_default(&last.name, name, value);
            if !rest.nodes.is_empty() || rest.attributes.iter().any(says) {
                if last.name == "cpu" && last.attribute("mode").is_some() {
                    self.change(&words(way, Some("mode")), child.attribute("mode").map(str::to_string), None);
                }
                self.changes.extend(scratch.changes);
                *child = rest;
                return;
            }
        }
        self.change(&words(way, None), Some(describe(child)), None);
        parent.retain(|child| child.name != last.name);
    }

    /// Parts that a person must have added, and that neither this description nor the last one knows.
    fn mention(&mut self, way: &[&str], known: &[&str], current: &Element) {
        let mut told: Vec<&str> = Vec::new();
        for child in current.elements() {
            let name = child.name.as_str();
            if known.contains(&name) || told.contains(&name) || !is_somebodys(&current.name, name) {
                continue;
            }
            told.push(name);
            let mut inner = way.to_vec();
            inner.push(name);
            self.left_alone.push(words(&inner, None));
        }
    }
}

/// What an attribute drags along.
fn after_attribute(element: &mut Element, name: &str) {
    match (element.name.as_str(), name) {
        // libvirt prints the address twice and refuses it when the two differ.
        ("graphics", "listen") => element.retain(|child| child.name != "listen"),
        ("clock", "offset") => {
            for stale in ["adjustment", "basis", "timezone", "start"] {
                if !(stale == "timezone" && element.attribute("offset") == Some("timezone")) {
                    element.unset(stale);
                }
            }
        }
        _ => {}
    }
}

/// Attributes that don't go away because they are not stated any more: libvirt would only write its default again.
fn is_kept(element: &str, attribute: &str) -> bool {
    matches!(
        (element, attribute),
        (
            "disk" | "interface" | "hostdev" | "graphics" | "video" | "serial" | "console" | "channel" | "parallel",
            "type" | "device" | "managed" | "mode"
        ) | ("graphics", "port" | "autoport")
            | ("type", _)
            | ("cpu", "mode" | "match" | "check")
            | ("memory" | "currentMemory" | "maxMemory", "unit")
    )
}
