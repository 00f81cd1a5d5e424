//! YAML text to a tree in which every key and value knows its place.
//!
//! Built on the parser inside serde-saphyr rather than on its serde side, because a playbook is first of all a tree of
//! unknown shape, and serde has no way to say where an untyped key or list item stood.
//!
//! The reading of plain scalars is Ansible's (YAML 1.1 truth values such as `yes` and `off`), but with one rule of its
//! own: **a plain scalar is a number only if writing that number gives the same text again.** So `0644`, `10:20`,
//! `82:00.0`, `0x82`, `6.10` and `1e5` stay the strings that were written, and nothing is lost.

mod read;
mod scalar;

use std::sync::Arc;

use crate::diag::{Diagnostic, Source, Span};

pub use scalar::{plain, truth};

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What it is.
    pub value: NodeValue,
    /// Where it stands.
    pub span: Span,
}

/// What a [`Node`] is.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeValue {
    /// Nothing, `~` or `null`.
    Null,
    /// `true`, `false`, `yes`, `no`, `on`, `off`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a decimal point.
    Float(f64),
    /// Everything else that is one word or text.
    String(String),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the text.
    Map(Vec<(Key, Node)>),
}

/// A key of a map. Keys are always strings; `80:` is the key "80" and `on:` is the key "on".
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub span: Span,
}

/// Something of the user's with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Spanned<T> {
    /// The thing.
    pub value: T,
    /// Where it stands.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// The thing with its place.
    pub fn new(value: T, span: &Span) -> Spanned<T> {
        Spanned { value, span: span.clone() }
    }
}

impl<T> std::ops::Deref for Spanned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// All documents of a text.
///
/// # Errors
/// The first thing that is not YAML, or not ours: a duplicate key, an unknown tag, an alias bomb.
pub fn parse(source: &Arc<Source>) -> Result<Vec<Node>, Diagnostic> {
    read::documents(source)
}

/// The one document of a text; an empty text is null.
///
/// # Errors
/// As [`parse`], and a second document.
pub fn parse_one(source: &Arc<Source>) -> Result<Node, Diagnostic> {
    let mut documents = parse(source)?.into_iter();
    let first = documents.next().unwrap_or_else(|| Node { value: NodeValue::Null, span: Span::new(source, 0, 0) });
    match documents.next() {
        Some(second) => Err(Diagnostic::error("a second YAML document begins here, but one file is one document")
            .at(&second.span)
            .help("remove the `---` in the middle of the file, or split the file")),
        None => Ok(first),
    }
}

impl NodeValue {
    /// Is it an encrypted value, which templates decrypt when it is used?
    pub fn is_vaulted(&self) -> bool {
        matches!(self, NodeValue::String(text) if text.starts_with("{{ ansible_vault('$ANSIBLE_VAULT;"))
    }

    /// As JSON, keys in the order of the text.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            NodeValue::Null => serde_json::Value::Null,
            NodeValue::Bool(value) => (*value).into(),
            NodeValue::Int(value) => (*value).into(),
            NodeValue::Float(value) => (*value).into(),
            NodeValue::String(value) => value.as_str().into(),
            NodeValue::List(items) => items.iter().map(Node::to_json).collect(),
            NodeValue::Map(entries) => serde_json::Value::Object(
                entries.iter().map(|(key, node)| (key.name.clone(), node.to_json())).collect(),
            ),
        }
    }
}

impl Node {
    /// A string at a place, for values that come from elsewhere than YAML.
    pub fn string(text: impl Into<String>, span: &Span) -> Node {
        Node { value: NodeValue::String(text.into()), span: span.clone() }
    }

    /// As JSON, keys in the order of the text.
    pub fn to_json(&self) -> serde_json::Value {
        self.value.to_json()
    }

    /// The value of a key, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.as_map()?.iter().find(|(k, _)| k.name == key).map(|(_, node)| node)
    }

    /// The string, if it is one.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            NodeValue::String(text) => Some(text),
            _ => None,
        }
    }

    /// The truth value, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self.value {
            NodeValue::Bool(value) => Some(value),
            _ => None,
        }
    }

    /// The items, if it is a list.
    pub fn as_list(&self) -> Option<&[Node]> {
        match &self.value {
            NodeValue::List(items) => Some(items),
            _ => None,
        }
    }

    /// The entries, if it is a map.
    pub fn as_map(&self) -> Option<&[(Key, Node)]> {
        match &self.value {
            NodeValue::Map(entries) => Some(entries),
            _ => None,
        }
    }

    /// Is it null?
    pub fn is_null(&self) -> bool {
        self.value == NodeValue::Null
    }

    /// What it is, in words: "a list".
    pub fn kind_name(&self) -> &'static str {
        match &self.value {
            NodeValue::Null => "nothing",
            NodeValue::Bool(_) => "a truth value",
            NodeValue::Int(_) | NodeValue::Float(_) => "a number",
            NodeValue::String(_) => "a string",
            NodeValue::List(_) => "a list",
            NodeValue::Map(_) => "a map",
        }
    }

    /// Does any string in it hold a template (`{{`, `{%` or `{#`)?
    pub fn is_templated(&self) -> bool {
        match &self.value {
            NodeValue::String(text) => ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark)),
            NodeValue::List(items) => items.iter().any(Node::is_templated),
            NodeValue::Map(entries) => entries.iter().any(|(_, node)| node.is_templated()),
            _ => false,
        }
    }

    /// The node at a path as serde writes it: `devices[0].address`; `.` and the empty path are the node itself.
    pub fn at_path(&self, path: &str) -> Option<&Node> {
        let (node, rest) = self.follow(path);
        rest.is_empty().then_some(node)
    }

    /// As [`Node::at_path`], but where the path leaves the tree (a missing key), the last node that is there.
    pub fn near_path(&self, path: &str) -> &Node {
        self.follow(path).0
    }

    /// The deepest node on the path, and what of the path is left.
    fn follow<'p>(&self, path: &'p str) -> (&Node, &'p str) {
        let mut node = self;
        let mut rest = path.strip_prefix('.').unwrap_or(path);
        loop {
            let step = match &node.value {
                NodeValue::List(items) => rest.strip_prefix('[').and_then(|r| {
                    let (index, after) = r.split_once(']')?;
                    Some((items.get(index.parse::<usize>().ok()?)?, after))
                }),
                // A key may hold dots itself (`net.ipv4.ip_forward`), so the longest key that fits is the one meant.
                NodeValue::Map(entries) => entries
                    .iter()
                    .filter_map(|(key, node)| Some((key.name.len(), node, rest.strip_prefix(key.name.as_str())?)))
                    .filter(|(length, _, after)| {
                        *length > 0 && (after.is_empty() || after.starts_with('.') || after.starts_with('['))
                    })
                    .max_by_key(|(length, _, _)| *length)
                    .map(|(_, node, after)| (node, after)),
                _ => None,
            };
            match step {
                Some((next, after)) => {
                    node = next;
                    rest = after.strip_prefix('.').unwrap_or(after);
                }
                None => return (node, rest),
            }
        }
    }
}

#[cfg(test)]
mod tests;
