//! Taking a map of the user's apart: which keys it may have, and of what kind their values are.

use super::is_identifier;
use super::model::Vars;
use crate::diag::{Diagnostic, Span};
use crate::yaml::{Key, Node, NodeValue, Spanned};

/// The keys that something may have.
pub struct Keys {
    /// What it is, with an article: "a task".
    pub what: &'static str,
    /// The keys it may have.
    pub known: &'static [&'static str],
    /// Ansible's keys that are not there yet, with what to do instead ("" for nothing).
    pub later: &'static [(&'static str, &'static str)],
}

impl Keys {
    /// Is this one of the keys, now or later?
    pub fn has(&self, name: &str) -> bool {
        self.known.contains(&name) || self.later.iter().any(|(later, _)| *later == name)
    }

    /// What is wrong with this key, if anything.
    pub fn problem(&self, key: &Key) -> Option<Diagnostic> {
        let name = key.name.as_str();
        if self.known.contains(&name) {
            return None;
        }
        let what = self.what;
        Some(match self.later.iter().find(|(later, _)| *later == name) {
            Some((_, "")) => Diagnostic::error(format!("`{name}` in {what} is not supported yet")).at(&key.span),
            Some((_, help)) => {
                Diagnostic::error(format!("`{name}` in {what} is not supported yet")).at(&key.span).help(*help)
            }
            None => Diagnostic::error(format!("unknown key `{name}` in {what}"))
                .at(&key.span)
                .nearest(name, self.known.iter().copied()),
        })
    }
}

/// A list of mistakes that grows while reading goes on.
pub type Errors = Vec<Diagnostic>;

/// The entries of a map, after a check of its keys; `None` if it is no map.
pub fn map<'a>(node: &'a Node, keys: &Keys, errors: &mut Errors) -> Option<&'a [(Key, Node)]> {
    let entries = plain_map(node, keys.what, errors)?;
    errors.extend(entries.iter().filter_map(|(key, _)| keys.problem(key)));
    Some(entries)
}

/// The entries of a map whose keys are checked elsewhere.
pub fn plain_map<'a>(node: &'a Node, what: &str, errors: &mut Errors) -> Option<&'a [(Key, Node)]> {
    let entries = node.as_map();
    if entries.is_none() {
        errors.push(kind(what, "a map", node));
    }
    entries
}

/// "`tasks` must be a list, but is a string", at the value.
pub fn kind(what: &str, wanted: &str, node: &Node) -> Diagnostic {
    Diagnostic::error(format!("{what} must be {wanted}, but is {}", node.kind_name())).at(&node.span)
}

/// The items of a list; nothing is an empty list.
pub fn list<'a>(what: &str, node: &'a Node, errors: &mut Errors) -> &'a [Node] {
    match &node.value {
        NodeValue::List(items) => items,
        NodeValue::Null => &[],
        _ => {
            errors.push(kind(what, "a list", node));
            &[]
        }
    }
}

/// A scalar as text; numbers and truth values count as they were written.
pub fn text(what: &str, node: &Node, errors: &mut Errors) -> Option<Spanned<String>> {
    let text = match &node.value {
        NodeValue::String(text) => text.clone(),
        NodeValue::Int(number) => number.to_string(),
        NodeValue::Float(number) => format!("{number:?}"),
        // `yes` is true, but it was written as `yes`.
        NodeValue::Bool(_) => written(&node.span),
        _ => {
            errors.push(kind(what, "a string", node));
            return None;
        }
    };
    Some(Spanned::new(text, &node.span))
}

fn written(span: &Span) -> String {
    span.source.text.get(span.start..span.end).unwrap_or_default().to_string()
}

/// A name or title: the node as a string node.
pub fn title(what: &str, node: &Node, errors: &mut Errors) -> Option<Node> {
    if node.is_null() {
        return None;
    }
    text(what, node, errors).map(|text| Node::string(text.value, &text.span))
}

/// One string or a list of them.
pub fn texts(what: &str, node: &Node, errors: &mut Errors) -> Vec<Node> {
    match &node.value {
        NodeValue::Null => Vec::new(),
        NodeValue::List(items) => items.iter().filter_map(|item| title(what, item, errors)).collect(),
        _ => title(what, node, errors).into_iter().collect(),
    }
}

/// Tags: a list, or a string with commas.
pub fn tags(node: &Node, errors: &mut Errors) -> Vec<String> {
    let mut tags = Vec::new();
    for tag in texts("`tags`", node, errors) {
        if tag.is_templated() {
            errors.push(
                Diagnostic::error("tags are chosen before any variable is known, so they can't be templates")
                    .at(&tag.span)
                    .help("write the tags out"),
            );
            continue;
        }
        let names = tag.as_str().unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty());
        tags.extend(names.map(str::to_string));
    }
    tags
}

/// A truth value, or a template that makes one.
pub fn truth(what: &str, node: &Node, errors: &mut Errors) -> Option<Node> {
    match &node.value {
        NodeValue::Null => None,
        NodeValue::Bool(_) => Some(node.clone()),
        NodeValue::String(text) if node.is_templated() || crate::yaml::truth(text).is_some() => Some(node.clone()),
        _ => {
            errors.push(kind(what, "true or false", node));
            None
        }
    }
}

/// A number, or a template that makes one.
pub fn number(what: &str, node: &Node, errors: &mut Errors) -> Option<Node> {
    let fits = match &node.value {
        NodeValue::Null => return None,
        NodeValue::Int(number) => *number >= 0,
        NodeValue::Float(number) => *number >= 0.0,
        NodeValue::String(text) => node.is_templated() || text.parse::<u32>().is_ok(),
        _ => false,
    };
    if !fits {
        errors.push(Diagnostic::error(format!("{what} must be a number from 0 up")).at(&node.span));
        return None;
    }
    Some(node.clone())
}

/// A number or a per cent, or a template that makes one.
pub fn share(what: &str, node: &Node, errors: &mut Errors) -> Option<Node> {
    let fits = match &node.value {
        NodeValue::Null => return None,
        NodeValue::Int(number) => *number >= 0,
        NodeValue::Float(number) => *number >= 0.0,
        NodeValue::String(text) => {
            node.is_templated()
                || text.trim().trim_end_matches('%').trim().parse::<f64>().is_ok_and(|n| n.is_finite() && n >= 0.0)
        }
        _ => false,
    };
    if !fits {
        errors.push(
            Diagnostic::error(format!("{what} must be a number or a per cent, such as 5 or \"20%\"")).at(&node.span),
        );
        return None;
    }
    Some(node.clone())
}

/// Conditions: one, or a list that must all hold. Braces around them are odd, but understood.
pub fn conditions(what: &str, node: &Node, errors: &mut Errors, warnings: &mut Errors) -> Vec<Node> {
    let nodes = match &node.value {
        NodeValue::List(items) => items.as_slice(),
        NodeValue::Null => &[],
        _ => std::slice::from_ref(node),
    };
    let mut conditions = Vec::new();
    for node in nodes {
        match &node.value {
            NodeValue::String(text) => {
                if text.contains("{{") || text.contains("{%") {
                    warnings.push(
                        Diagnostic::warning(format!("{what} is an expression already"))
                            .at(&node.span)
                            .help("write it without the braces"),
                    );
                }
                conditions.push(node.clone());
            }
            NodeValue::Bool(_) | NodeValue::Int(_) | NodeValue::Float(_) => conditions.push(node.clone()),
            _ => errors.push(kind(what, "an expression or a list of them", node)),
        }
    }
    conditions
}

/// Variables.
pub fn vars(what: &str, node: &Node, errors: &mut Errors) -> Vars {
    if node.is_null() {
        return Vec::new();
    }
    let Some(entries) = plain_map(node, what, errors) else { return Vec::new() };
    for (key, _) in entries {
        if !is_identifier(&key.name) {
            errors.push(no_variable(&key.name, &key.span));
        }
    }
    entries.to_vec()
}

/// The error for a name that can't be a variable's.
pub fn no_variable(name: &str, span: &Span) -> Diagnostic {
    let fixed = name.replace(['-', '.', ' '], "_");
    let error = Diagnostic::error(format!("`{name}` can't be the name of a variable")).at(span);
    if is_identifier(&fixed) {
        error.help(format!("use letters, digits and `_`, such as `{fixed}`"))
    } else {
        error.help("use letters, digits and `_`, beginning with a letter")
    }
}

/// The name of a variable.
pub fn variable(what: &str, node: &Node, errors: &mut Errors) -> Option<Spanned<String>> {
    let name = text(what, node, errors)?;
    if !is_identifier(&name) {
        errors.push(no_variable(&name, &name.span));
        return None;
    }
    Some(name)
}
