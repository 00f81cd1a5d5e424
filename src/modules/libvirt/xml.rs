//! A small XML tree: what libvirt's documents need, no more.
//!
//! Namespaces stay as they are written (prefix in the name, `xmlns:…` among the attributes). Comments and processing
//! instructions are not kept: libvirt drops them too. White space between elements means nothing; text beside elements
//! is kept as it is. Printing is deterministic and in libvirt's own style: two spaces, single quotes.

use std::fmt::Write;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

/// Deeper documents than this are refused; libvirt's own stay below 20.
const DEEPEST: usize = 100;

/// Something inside an element.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// An element.
    Element(Element),
    /// Text, unescaped.
    Text(String),
}

/// An element with all that is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Its name, with a namespace prefix where it has one (`qemu:commandline`).
    pub name: String,
    /// Attributes in the order they were written, values unescaped.
    pub attributes: Vec<(String, String)>,
    /// What is inside.
    pub nodes: Vec<Node>,
}

impl Element {
    /// An empty element.
    pub fn new(name: &str) -> Element {
        Element { name: name.to_string(), ..Element::default() }
    }

    /// Adds an attribute.
    pub fn with(mut self, name: &str, value: impl Into<String>) -> Element {
        self.set(name, value);
        self
    }

    /// Adds an attribute if there is a value.
    pub fn with_some(self, name: &str, value: Option<impl Into<String>>) -> Element {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// Adds a child.
    pub fn child(mut self, child: Element) -> Element {
        self.nodes.push(Node::Element(child));
        self
    }

    /// Adds a child if there is one.
    pub fn child_some(self, child: Option<Element>) -> Element {
        match child {
            Some(child) => self.child(child),
            None => self,
        }
    }

    /// Makes this text its whole content.
    pub fn containing(mut self, text: impl Into<String>) -> Element {
        self.set_text(text);
        self
    }

    /// The value of an attribute.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Sets an attribute; one that is there keeps its place.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        match self.attributes.iter_mut().find(|(key, _)| key == name) {
            Some((_, old)) => *old = value.into(),
            None => self.attributes.push((name.to_string(), value.into())),
        }
    }

    /// Takes an attribute away.
    pub fn unset(&mut self, name: &str) {
        self.attributes.retain(|(key, _)| key != name);
    }

    /// The elements inside.
    pub fn elements(&self) -> impl Iterator<Item = &Element> {
        self.nodes.iter().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The elements inside, to be changed.
    pub fn elements_mut(&mut self) -> impl Iterator<Item = &mut Element> {
        self.nodes.iter_mut().filter_map(|node| match node {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// The elements of this name.
    pub fn named<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Element> {
        self.elements().filter(move |element| element.name == name)
    }

    /// The first element of this name.
    pub fn get(&self, name: &str) -> Option<&Element> {
        self.elements().find(|element| element.name == name)
    }

    /// The first element of this name, to be changed.
    pub fn get_mut(&mut self, name: &str) -> Option<&mut Element> {
        self.elements_mut().find(|element| element.name == name)
    }

    /// The element at the end of this way of names.
    pub fn at(&self, way: &[&str]) -> Option<&Element> {
        way.iter().try_fold(self, |element, name| element.get(name))
    }

    /// The trimmed text of the element at the end of this way of names.
    pub fn text_at(&self, way: &[&str]) -> Option<String> {
        self.at(way).map(Element::text)
    }

    /// All text directly inside, trimmed.
    pub fn text(&self) -> String {
        let all: String = self
            .nodes
            .iter()
            .filter_map(|node| match node {
                Node::Text(text) => Some(text.as_str()),
                Node::Element(_) => None,
            })
            .collect();
        all.trim().to_string()
    }

    /// Makes this text the whole content.
    pub fn set_text(&mut self, text: impl Into<String>) {
        let text = text.into();
        self.nodes = if text.is_empty() { Vec::new() } else { vec![Node::Text(text)] };
    }

    /// Keeps only the elements that this is true of.
    pub fn retain(&mut self, mut keep: impl FnMut(&Element) -> bool) {
        self.nodes.retain(|node| match node {
            Node::Element(element) => keep(element),
            Node::Text(_) => true,
        });
    }

    /// The document as libvirt prints it, with a line break at its end.
    pub fn print(&self) -> String {
        let mut out = String::new();
        self.print_into(&mut out, 0);
        out
    }

    fn print_into(&self, out: &mut String, depth: usize) {
        let indent = depth * 2;
        let _ = write!(out, "{:indent$}", "");
        self.print_inline(out, Some(depth));
        out.push('\n');
    }

    /// `depth` is `None` beside text, where white space would become part of it.
    fn print_inline(&self, out: &mut String, depth: Option<usize>) {
        let _ = write!(out, "<{}", self.name);
        for (name, value) in &self.attributes {
            let _ = write!(out, " {name}='");
            escape_into(out, value, true);
            out.push('\'');
        }
        if self.nodes.is_empty() {
            out.push_str("/>");
            return;
        }
        out.push('>');
        let mixed = self.nodes.iter().any(|node| matches!(node, Node::Text(_)));
        match depth {
            Some(depth) if !mixed => {
                out.push('\n');
                for element in self.elements() {
                    element.print_into(out, depth + 1);
                }
                let indent = depth * 2;
                let _ = write!(out, "{:indent$}", "");
            }
            _ => {
                for node in &self.nodes {
                    match node {
                        Node::Element(element) => element.print_inline(out, None),
                        Node::Text(text) => escape_into(out, text, false),
                    }
                }
            }
        }
        let _ = write!(out, "</{}>", self.name);
    }
}

/// The five that libvirt escapes too; and what a parser would otherwise read as something else.
fn escape_into(out: &mut String, text: &str, attribute: bool) {
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\'' => out.push_str("&apos;"),
            '"' => out.push_str("&quot;"),
            '\r' => out.push_str("&#13;"),
            '\n' if attribute => out.push_str("&#10;"),
            '\t' if attribute => out.push_str("&#9;"),
            other => out.push(other),
        }
    }
}

/// May this character stand in an XML 1.0 document?
pub fn is_legal(c: char) -> bool {
    matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
}

/// Reads a document.
///
/// # Errors
/// One sentence: what is wrong and at which line.
pub fn parse(text: &str) -> Result<Element, String> {
    let mut reader = Reader::from_str(text);
    reader.config_mut().check_end_names = true;
    let mut open: Vec<Element> = Vec::new();
    let mut root: Option<Element> = None;
    loop {
        let event = reader.read_event();
        let at = usize::try_from(reader.buffer_position()).unwrap_or(usize::MAX);
        let fail = |why: String| format!("line {}: {why}", line_of(text, at));
        match event.map_err(|e| fail(e.to_string()))? {
            Event::Start(start) => {
                if root.is_some() {
                    return Err(fail("there is something behind the end of the document".to_string()));
                }
                if open.len() >= DEEPEST {
                    return Err(fail(format!("elements are nested more than {DEEPEST} deep")));
                }
                open.push(element_of(&start).map_err(fail)?);
            }
            Event::Empty(start) => {
                let element = element_of(&start).map_err(&fail)?;
                close(element, &mut open, &mut root).map_err(fail)?;
            }
            Event::End(_) => {
                let element = open.pop().ok_or_else(|| fail("an end without a beginning".to_string()))?;
                close(element, &mut open, &mut root).map_err(fail)?;
            }
            Event::Text(content) => add_text(&mut open, &content.xml10_content()).map_err(fail)?,
            Event::CData(content) => add_text(&mut open, &content.xml10_content()).map_err(fail)?,
            Event::GeneralRef(reference) => {
                let resolved = match reference.resolve_char_ref().map_err(|e| fail(e.to_string()))? {
                    Some(c) => c.to_string(),
                    None => quick_xml::escape::resolve_predefined_entity(&reference)
                        .ok_or_else(|| fail(format!("the entity `&{};` is not known", &*reference)))?
                        .to_string(),
                };
                add_text(&mut open, &resolved).map_err(fail)?;
            }
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
            Event::DocType(_) => return Err(fail("a document type has no place in libvirt's XML".to_string())),
            Event::Eof => break,
        }
    }
    match (root, open.last()) {
        (_, Some(element)) => Err(format!("the element <{}> is not closed", element.name)),
        (Some(root), None) => Ok(root),
        (None, None) => Err("there is no element".to_string()),
    }
}

fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
}

fn element_of(start: &BytesStart<'_>) -> Result<Element, String> {
    let mut element = Element::new(start.name().into_inner());
    for attribute in start.attributes() {
        let attribute = attribute.map_err(|e| e.to_string())?;
        let value =
            attribute.normalized_value(quick_xml::XmlVersion::Implicit1_0).map_err(|e| e.to_string())?.into_owned();
        legal(&value)?;
        element.attributes.push((attribute.key.into_inner().to_string(), value));
    }
    Ok(element)
}

fn legal(text: &str) -> Result<(), String> {
    match text.chars().find(|c| !is_legal(*c)) {
        Some(c) => Err(format!("the character U+{:04X} may not stand in XML", u32::from(c))),
        None => Ok(()),
    }
}

fn add_text(open: &mut [Element], text: &str) -> Result<(), String> {
    legal(text)?;
    match open.last_mut() {
        Some(element) => {
            // An entity in the middle of a text comes as three pieces; they are one text.
            match element.nodes.last_mut() {
                Some(Node::Text(before)) => before.push_str(text),
                _ => element.nodes.push(Node::Text(text.to_string())),
            }
            Ok(())
        }
        None if text.trim().is_empty() => Ok(()),
        None => Err("there is text outside of the document".to_string()),
    }
}

fn close(mut element: Element, open: &mut [Element], root: &mut Option<Element>) -> Result<(), String> {
    let says_something = |node: &Node| matches!(node, Node::Text(text) if !text.trim().is_empty());
    if !element.nodes.iter().any(says_something) {
        element.nodes.retain(|node| matches!(node, Node::Element(_)));
    }
    match open.last_mut() {
        Some(parent) => parent.nodes.push(Node::Element(element)),
        None if root.is_none() => *root = Some(element),
        None => return Err("there is something behind the end of the document".to_string()),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prints_as_libvirt_does() {
        let text = "<?xml version=\"1.0\"?>\n<!-- x --><domain type=\"kvm\" xmlns:qemu='u'>\n\n <name>a &amp; b</name>\
                    <os><boot dev='hd'></boot></os> </domain>\n";
        let printed = parse(text).unwrap().print();
        assert_eq!(
            printed,
            "<domain type='kvm' xmlns:qemu='u'>\n  <name>a &amp; b</name>\n  <os>\n    <boot dev='hd'/>\n  </os>\n\
             </domain>\n"
        );
    }

    #[test]
    fn text_beside_elements_is_kept_as_it_is() {
        let text = "<a>x <b>y</b> z</a>\n";
        assert_eq!(parse(text).unwrap().print(), text);
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        for (text, why) in [
            ("", "there is no element"),
            ("<a>", "not closed"),
            ("<a>\n</b>", "line 2"),
            ("<a/><b/>", "behind the end"),
            ("<a>&nope;</a>", "`&nope;` is not known"),
            ("<!DOCTYPE a [<!ENTITY x 'y'>]><a/>", "document type"),
            ("<a b='1' b='2'/>", "line 1"),
            ("<a>\u{1}</a>", "U+0001"),
            ("x<a/>", "outside"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        assert!(parse(&"<a>".repeat(5000)).unwrap_err().contains("nested"));
    }

    fn any_text() -> impl Strategy<Value = String> {
        proptest::string::string_regex("[a-z &<>'\"\n\t\r\u{e9}\u{1f600}]{1,8}").unwrap()
    }

    /// As `parse` answers it: text only where it says something, never two texts side by side.
    fn any_element() -> impl Strategy<Value = Element> {
        let name = "[a-z]{1,4}(:[a-z]{1,3})?";
        let attributes = move || proptest::collection::btree_map(name, any_text(), 0..3);
        let leaf = (name, attributes(), proptest::option::of(any_text())).prop_map(|(name, attributes, text)| {
            let mut element = Element { name, attributes: attributes.into_iter().collect(), nodes: Vec::new() };
            if let Some(text) = text.filter(|text| !text.trim().is_empty()) {
                element.nodes.push(Node::Text(text));
            }
            element
        });
        leaf.prop_recursive(4, 24, 4, move |inner| {
            (name, attributes(), proptest::collection::vec(inner, 0..4)).prop_map(|(name, attributes, children)| {
                Element {
                    name,
                    attributes: attributes.into_iter().collect(),
                    nodes: children.into_iter().map(Node::Element).collect(),
                }
            })
        })
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_again(element in any_element()) {
            let printed = element.print();
            let read = parse(&printed).unwrap();
            prop_assert_eq!(&read, &element);
            prop_assert_eq!(read.print(), printed);
        }

        #[test]
        fn never_panics(text in "[<>/a-b='\"&;!\\[\\]?# \n-]{0,40}") {
            if let Ok(element) = parse(&text) {
                prop_assert_eq!(parse(&element.print()).unwrap(), element);
            }
        }
    }
}
