//! Three-way comparing of what libvirt has besides domains: networks and pools.
//!
//! What is asked for now must hold in what is there; what was asked for last time and is not any more goes away; what
//! libvirt filled in and what others added stays. Domains have rules of their own in `domain::compare`; these documents are
//! small and plain, and what a caller must know of them is in its [`Rules`].

use super::values::number;
use super::xml::{Element, Node};
use crate::change::{Content, Op, Plan};
use crate::host::{Host, Result};

/// How elements of one name that stand side by side are told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// There is one at most.
    Single,
    /// By this text.
    Key(String),
    /// One can take the place of another (ranges of addresses).
    Loose,
}

/// What a kind of document says of its elements. A way is the names of the elements from below the root, such as
/// `["ip", "dhcp", "host"]`.
pub trait Rules {
    /// What tells an element from its neighbours of the same name.
    fn identity(&self, way: &[&str], element: &Element) -> Identity;
    /// Does a missing attribute mean this value?
    fn is_default(&self, way: &[&str], attribute: &str, value: &str) -> bool;
    /// Does this attribute, or the element itself, stay although it was stated last time and is not any more? (libvirt
    /// would only fill in another value.)
    fn is_kept(&self, way: &[&str], attribute: Option<&str>) -> bool;
    /// What people call it.
    fn words(&self, way: &[String], attribute: Option<&str>) -> String;
}

/// One thing that is not as stated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What, in words: `ip dhcp range end`.
    pub path: String,
    /// As it is.
    pub before: Option<String>,
    /// As it should be.
    pub after: Option<String>,
}

/// What comparing answers.
#[derive(Clone, Debug)]
pub struct Merged {
    /// The document with everything stated in it.
    pub xml: Element,
    /// What differs; empty when all that is stated holds.
    pub changes: Vec<Change>,
    /// What stands in lists and nobody stated: it stays.
    pub left_alone: Vec<String>,
}

/// Compares and merges. `last` is what was asked for last time, where that is known. Name, UUID and metadata of the document
/// are not looked at.
pub fn merge(rules: &dyn Rules, wanted: &Element, current: &Element, last: Option<&Element>) -> Merged {
    let mut merger = Merger { rules, knows_last: last.is_some(), changes: Vec::new(), left_alone: Vec::new() };
    let bare = |document: &Element| {
        let mut copy = document.clone();
        copy.retain(|child| !matches!(child.name.as_str(), "name" | "uuid" | "metadata"));
        copy
    };
    let mut xml = current.clone();
    merger.element(&Way::default(), &bare(wanted), &mut xml, last.map(bare).as_ref());
    Merged { xml, changes: merger.changes, left_alone: merger.left_alone }
}

/// What is shown of an element: its text when that is all, its XML otherwise.
pub fn describe(element: &Element) -> String {
    if element.attributes.is_empty() && element.elements().next().is_none() {
        return if element.nodes.is_empty() { "yes".to_string() } else { element.text() };
    }
    element.print().trim_end().to_string()
}

/// Names of elements, and the same with what tells them from their neighbours.
#[derive(Clone, Default)]
struct Way {
    names: Vec<String>,
    labels: Vec<String>,
}

impl Way {
    fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).collect()
    }

    fn below(&self, name: &str, label: String) -> Way {
        let mut way = self.clone();
        way.names.push(name.to_string());
        way.labels.push(label);
        way
    }
}

struct Merger<'a> {
    rules: &'a dyn Rules,
    knows_last: bool,
    changes: Vec<Change>,
    left_alone: Vec<String>,
}

impl Merger<'_> {
    fn change(&mut self, way: &Way, attribute: Option<&str>, before: Option<String>, after: Option<String>) {
        self.changes.push(Change { path: self.rules.words(&way.labels, attribute), before, after });
    }

    fn element(&mut self, way: &Way, wanted: &Element, current: &mut Element, last: Option<&Element>) {
        let names = way.names();
        for (name, value) in &wanted.attributes {
            let before = current.attribute(name).map(str::to_string);
            let same = match &before {
                Some(before) => same_value(value, before),
                None => self.rules.is_default(&names, name, value),
            };
            if name.starts_with("xmlns") {
                current.set(name, value.as_str());
            } else if !same {
                self.change(way, Some(name), before, Some(value.clone()));
                current.set(name, value.as_str());
            }
        }
        for (name, _) in last.iter().flat_map(|last| &last.attributes) {
            let gone = wanted.attribute(name).is_none() && !self.rules.is_kept(&names, Some(name));
            if let Some(before) = current.attribute(name).map(str::to_string).filter(|_| gone) {
                current.unset(name);
                if !name.starts_with("xmlns") && !self.rules.is_default(&names, name, &before) {
                    self.change(way, Some(name), Some(before), None);
                }
            }
        }
        if wanted.elements().next().is_none() && !wanted.nodes.is_empty() {
            let (new, old) = (wanted.text(), current.text());
            if !same_value(&new, &old) {
                self.change(way, None, Some(old).filter(|old| !old.is_empty()), Some(new.clone()));
                current.set_text(new);
            }
        }
        let mut sorts: Vec<String> = Vec::new();
        for child in wanted.elements().chain(last.into_iter().flat_map(Element::elements)).chain(current.elements()) {
            if !sorts.contains(&child.name) {
                sorts.push(child.name.clone());
            }
        }
        for sort in sorts {
            let stated: Vec<&Element> = wanted.named(&sort).collect();
            let before: Vec<&Element> = last.into_iter().flat_map(|last| last.named(&sort)).collect();
            self.sort(way, &sort, &stated, current, &before);
        }
    }

    /// All elements of one name below one parent.
    fn sort(&mut self, way: &Way, name: &str, stated: &[&Element], current: &mut Element, before: &[&Element]) {
        let there: Vec<Element> = current.named(name).cloned().collect();
        let mut inner = way.names();
        inner.push(name);
        // Which of those there did the last run state?
        let known = assign(self.rules, &inner, before, &there, |_| true);
        let last_of = |at: usize| known.iter().position(|slot| *slot == Some(at)).and_then(|n| before.get(n)).copied();
        let slots = assign(self.rules, &inner, stated, &there, |at| !self.knows_last || last_of(at).is_some());
        let listed = |element: &Element| self.rules.identity(&inner, element) != Identity::Single;
        let label = |at: usize, element: &Element| match self.rules.identity(&inner, element) {
            Identity::Single => name.to_string(),
            Identity::Key(key) => format!("{name} {key}").trim_end().to_string(),
            Identity::Loose if at == 0 => name.to_string(),
            Identity::Loose => format!("{name} {}", at + 1),
        };
        let mut result: Vec<Element> = Vec::new();
        let mut steps = Vec::new();
        for (at, old) in there.iter().enumerate() {
            let step = way.below(name, label(at, old));
            let wanted = slots.iter().position(|slot| *slot == Some(at)).and_then(|n| stated.get(n)).copied();
            steps.push((step, old.clone(), wanted, last_of(at), listed(old)));
        }
        let new: Vec<(Way, Element)> = stated
            .iter()
            .zip(&slots)
            .filter(|(_, slot)| slot.is_none())
            .enumerate()
            .map(|(n, (wanted, _))| (way.below(name, label(there.len() + n, wanted)), (*wanted).clone()))
            .collect();
        for (step, mut old, wanted, last, listed) in steps {
            match (wanted, last) {
                (Some(wanted), last) => {
                    self.element(&step, wanted, &mut old, last);
                    result.push(old);
                }
                (None, Some(last)) => result.extend(self.take_away(&step, old, last)),
                (None, None) => {
                    if listed {
                        self.left_alone.push(self.rules.words(&step.labels, None));
                    }
                    result.push(old);
                }
            }
        }
        for (step, wanted) in new {
            // An empty container says nothing, and libvirt prints none.
            if !wanted.nodes.is_empty() || !wanted.attributes.is_empty() || listed_or_flag(&wanted) {
                self.change(&step, None, None, Some(describe(&wanted)));
                result.push(wanted);
            }
        }
        put_back(current, name, result);
    }

    /// What is stated no more goes; what others put into it stays, and it with that.
    fn take_away(&mut self, way: &Way, old: Element, last: &Element) -> Option<Element> {
        if !self.rules.is_kept(&way.names(), None) && !self.holds_others(&way.names(), &old, last) {
            self.change(way, None, Some(describe(&old)), None);
            return None;
        }
        let mut rest = old;
        let nothing = Element::new(&last.name);
        self.element(way, &nothing, &mut rest, Some(last));
        Some(rest)
    }

    /// Is something in a list in here that the last run did not state?
    fn holds_others(&self, way: &[&str], there: &Element, last: &Element) -> bool {
        there.elements().any(|child| {
            let mut inner = way.to_vec();
            inner.push(&child.name);
            let identity = self.rules.identity(&inner, child);
            let same = |other: &&Element| self.rules.identity(&inner, other) == identity;
            match last.named(&child.name).find(same) {
                Some(last) => self.holds_others(&inner, child, last),
                None => identity != Identity::Single,
            }
        })
    }
}

/// A flag is an element with nothing in it that means something by being there.
fn listed_or_flag(element: &Element) -> bool {
    !matches!(element.name.as_str(), "dhcp" | "dns" | "nat" | "source" | "target" | "permissions")
}

/// Do two values mean the same: equal, the same number, or the same address in other letters?
pub fn same_value(wanted: &str, current: &str) -> bool {
    let (wanted, current) = (wanted.trim(), current.trim());
    if wanted == current {
        return true;
    }
    let address = |text: &str| text.parse::<std::net::IpAddr>().ok();
    let mac = |text: &str| text.len() == 17 && text.bytes().filter(|b| *b == b':').count() == 5;
    matches!((number(wanted), number(current)), (Some(a), Some(b)) if a == b)
        || matches!((address(wanted), address(current)), (Some(a), Some(b)) if a == b)
        || (mac(wanted) && wanted.eq_ignore_ascii_case(current))
}

/// Which of those there each one is: by identity, then (where one can be another) the very same, then in order.
fn assign(
    rules: &dyn Rules,
    way: &[&str],
    wanted: &[&Element],
    current: &[Element],
    ours: impl Fn(usize) -> bool,
) -> Vec<Option<usize>> {
    let mut taken = vec![false; current.len()];
    let mut result: Vec<Option<usize>> = vec![None; wanted.len()];
    let mut pass = |same: &dyn Fn(&Element, usize, &Element) -> bool| {
        for (wanted, slot) in wanted.iter().zip(result.iter_mut()).filter(|(_, slot)| slot.is_none()) {
            let free = current.iter().zip(&taken).enumerate().filter(|(_, (_, taken))| !**taken);
            let found = free.map(|(at, (there, _))| (at, there)).find(|(at, there)| same(wanted, *at, there));
            let found = found.map(|(at, _)| at);
            if let Some(taken) = found.and_then(|at| taken.get_mut(at)) {
                *taken = true;
                *slot = found;
            }
        }
    };
    let loose = |element: &Element| rules.identity(way, element) == Identity::Loose;
    let one = |a: &Element, b: &Element| rules.identity(way, a) == rules.identity(way, b);
    pass(&|wanted, _, there| {
        let same = |(name, value): &(String, String)| there.attribute(name).is_some_and(|has| same_value(value, has));
        one(wanted, there) && wanted.attributes.iter().all(same)
    });
    pass(&|wanted, _, there| !loose(wanted) && one(wanted, there));
    pass(&|wanted, at, _| loose(wanted) && ours(at));
    result
}

/// Puts elements of one name where the first of them stood, or at the end.
fn put_back(parent: &mut Element, name: &str, list: Vec<Element>) {
    let is_one = |node: &Node| matches!(node, Node::Element(element) if element.name == name);
    let place = parent.nodes.iter().position(is_one).unwrap_or(parent.nodes.len());
    let rest = parent.nodes.split_off(place);
    parent.nodes.extend(list.into_iter().map(Node::Element));
    parent.nodes.extend(rest.into_iter().filter(|node| !is_one(node)));
}

/// The namespace of what this program keeps in libvirt's `<metadata>`.
pub const NAMESPACE: &str = "https://github.com/vfio-provision/vfio-provision/network/1";

/// The element with the last intent. Below it everything is as it was asked for.
const STAMP: &str = "vfio-provision:intent";

/// What was asked for last time, from the metadata of what is there.
pub fn stamped(current: &Element) -> Option<Element> {
    current.at(&["metadata", STAMP])?.elements().next().cloned()
}

/// The document with what is asked for now in its metadata; what others keep there stays.
pub fn with_stamp(document: &Element, intent: &Element) -> Element {
    let stamp = Element::new(STAMP).with("xmlns:vfio-provision", NAMESPACE).child(intent.clone());
    let mut document = document.clone();
    match document.get_mut("metadata") {
        Some(metadata) => {
            metadata.retain(|child| child.name != STAMP);
            metadata.nodes.push(Node::Element(stamp));
        }
        None => {
            let place = document
                .nodes
                .iter()
                .rposition(|node| matches!(node, Node::Element(e) if matches!(e.name.as_str(), "name" | "uuid")));
            let place = place.map_or(0, |at| at + 1);
            document.nodes.insert(place, Node::Element(Element::new("metadata").child(stamp)));
        }
    }
    document
}

/// The document without what this program keeps in it.
pub fn without_stamp(document: &Element) -> Element {
    let mut document = document.clone();
    if let Some(metadata) = document.get_mut("metadata") {
        metadata.retain(|child| child.name != STAMP);
    }
    document.retain(|child| child.name != "metadata" || !child.nodes.is_empty());
    document
}

/// This program's own folder on the machine.
const STATE: &str = "/var/lib/vfio-provision";

/// Where something of our own about one object is kept.
pub fn state_file(kind: &str, name: &str, ending: &str) -> String {
    format!("{STATE}/{kind}/{name}.{ending}")
}

/// Plans a file of our own, readable by root alone, unless it says so already.
///
/// # Errors
/// Trouble reading the machine.
pub fn keep(host: &dyn Host, plan: &mut Plan, kind: &str, path: &str, content: &str) -> Result<()> {
    if host.read_text(path)?.as_deref() == Some(content) {
        return Ok(());
    }
    let folder = format!("{STATE}/{kind}");
    for (folder, mode) in [("/var", None), ("/var/lib", None), (STATE, Some(0o700)), (&*folder, Some(0o700))] {
        let planned = |op: &Op| matches!(op, Op::MakeFolder { path, .. } if path == folder);
        if !host.exists(folder)? && !plan.actions.iter().any(|action| planned(&action.op)) {
            let op = Op::MakeFolder { path: folder.to_string(), mode, owner: None, group: None };
            plan.push(op, Vec::new());
        }
    }
    let content = Content::Bytes(content.as_bytes().to_vec());
    let path = path.to_string();
    plan.push(
        Op::WriteFile { path, content, mode: Some(0o600), owner: None, group: None, validate: Vec::new() },
        Vec::new(),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::libvirt::xml::parse;

    struct Plain;

    impl Rules for Plain {
        fn identity(&self, way: &[&str], element: &Element) -> Identity {
            match way.last() {
                Some(&"host") => Identity::Key(element.attribute("mac").unwrap_or_default().to_string()),
                Some(&"range") => Identity::Loose,
                _ => Identity::Single,
            }
        }
        fn is_default(&self, _: &[&str], attribute: &str, value: &str) -> bool {
            attribute == "stp" && value == "on"
        }
        fn is_kept(&self, way: &[&str], attribute: Option<&str>) -> bool {
            way == ["kept"] && matches!(attribute, None | Some("name"))
        }
        fn words(&self, way: &[String], attribute: Option<&str>) -> String {
            way.iter().map(String::as_str).chain(attribute).collect::<Vec<_>>().join(" ")
        }
    }

    fn three(wanted: &str, current: &str, last: Option<&str>) -> (Vec<String>, Vec<String>, String) {
        let read = |text: &str| parse(&format!("<n>{text}</n>")).unwrap();
        let (current, last) = (read(current), last.map(read));
        let merged = merge(&Plain, &read(wanted), &current, last.as_ref());
        let again = merge(&Plain, &read(wanted), &merged.xml, Some(&read(wanted)));
        assert_eq!(again.changes, Vec::new(), "{wanted} against {}", merged.xml.print());
        assert_eq!(again.xml, merged.xml);
        let paths = merged.changes.iter().map(|change| change.path.clone()).collect();
        let text: String = merged.xml.print().split('\n').map(str::trim).collect();
        (paths, merged.left_alone, text)
    }

    #[test]
    fn stated_holds_and_the_rest_stays() {
        let (changes, left, xml) = three("<a x='0x10' stp='on'/>", "<b/><a x='16' y='2'/>", None);
        assert_eq!((changes.len(), left.len()), (0, 0));
        assert_eq!(xml, "<n><b/><a x='16' y='2'/></n>");
        let (changes, _, xml) = three("<a x='1' stp='off'/><t>new</t>", "<a x='2' y='2'/><t>old</t>", None);
        assert_eq!(changes, ["a x", "a stp", "t"]);
        assert_eq!(xml, "<n><a x='1' y='2' stp='off'/><t>new</t></n>");
    }

    #[test]
    fn what_was_stated_goes_and_what_others_added_stays() {
        let (changes, left, xml) = three(
            "<d><host mac='1'/></d>",
            "<d><host mac='1' ip='4'/><host mac='2'/><host mac='3'/></d>",
            Some("<d><host mac='1' ip='4'/><host mac='2'/></d>"),
        );
        assert_eq!(changes, ["d host 1 ip", "d host 2"]);
        assert_eq!(left, ["d host 3"]);
        assert_eq!(xml, "<n><d><host mac='1'/><host mac='3'/></d></n>");
        // A list that is not stated any more keeps what others put into it.
        let last = Some("<d z='1'><host mac='1'/></d>");
        let (changes, left, xml) = three("", "<d z='1'><host mac='1'/><host mac='9'/></d>", last);
        assert_eq!(changes, ["d z", "d host 1"]);
        assert_eq!(left, ["d host 9"]);
        assert_eq!(xml, "<n><d><host mac='9'/></d></n>");
        // And goes as a whole where there is nothing of others, with what libvirt filled in.
        let (changes, _, xml) = three("", "<d z='1'><filled/><host mac='1'/></d>", last);
        assert_eq!((changes, xml.as_str()), (vec!["d".to_string()], "<n/>"));
    }

    #[test]
    fn what_libvirt_would_only_choose_anew_is_kept() {
        let (changes, _, xml) = three("", "<kept name='a' x='1'/>", Some("<kept name='a' x='1'/>"));
        assert_eq!((changes, xml.as_str()), (vec!["kept x".to_string()], "<n><kept name='a'/></n>"));
    }

    #[test]
    fn ranges_take_each_others_place() {
        let (changes, _, _) = three("<range s='1' e='5'/>", "<range s='1' e='3'/>", None);
        assert_eq!(changes, ["range e"]);
        let (changes, _, xml) =
            three("<range s='7'/>", "<range s='1'/><range s='7'/>", Some("<range s='1'/><range s='7'/>"));
        assert_eq!((changes, xml.as_str()), (vec!["range".to_string()], "<n><range s='7'/></n>"));
        // One that others added is not taken for ours.
        let (changes, left, xml) = three("<range s='2'/>", "<range s='1'/>", Some(""));
        assert_eq!((changes, left), (vec!["range 2".to_string()], vec!["range".to_string()]));
        assert_eq!(xml, "<n><range s='1'/><range s='2'/></n>");
    }

    #[test]
    fn a_stamp_stands_in_metadata_beside_others() {
        let intent = parse("<network><mtu size='9000'/></network>").unwrap();
        for text in [
            "<network><name>a</name><uuid>u</uuid><ip/></network>",
            "<network><name>a</name><metadata><x:y xmlns:x='z'/></metadata><ip/></network>",
        ] {
            let document = parse(text).unwrap();
            let marked = with_stamp(&with_stamp(&document, &Element::new("old")), &intent);
            assert_eq!(stamped(&marked).as_ref(), Some(&intent));
            assert_eq!(without_stamp(&marked), document);
            assert_eq!(parse(&marked.print()).unwrap(), marked);
        }
    }
}
