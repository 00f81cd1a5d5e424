//! The domain with a comment of where each part came from.

use super::merge::{FROM, strip};
use super::{Context, annotated};
use crate::host::Result;
use crate::modules::libvirt::domain::params::LibvirtDomain;
use crate::modules::libvirt::xml::{Element, Node};

/// The XML that these parameters give, with a comment before each part that says where it came from: a parameter, a preset,
/// the host, the guest as it is, the `xml` block. It is a valid document, which libvirt takes as it is.
///
/// # Errors
/// The same as [`render`](super::render).
pub fn explain(domain: &LibvirtDomain, context: &Context) -> Result<String> {
    let (mut xml, _, absent) = annotated(domain, context)?;
    let mut comments = Vec::new();
    let mut head = own_note(&xml, "");
    if !absent.is_empty() {
        head.push(format!("must not be there: {}", absent.join(", ")));
    }
    let inherited = xml.attribute(FROM).unwrap_or_default().to_string();
    annotate(&mut xml, &inherited, &mut comments);
    strip(&mut xml);
    let mut out = String::new();
    if !head.is_empty() {
        out.push_str(&comment(&head.join("; ")));
        out.push('\n');
    }
    for line in xml.print().lines() {
        let place = line.trim_start().strip_prefix("<comment- n='").and_then(|rest| rest.strip_suffix("'/>"));
        match place.and_then(|number| number.parse::<usize>().ok()).and_then(|number| comments.get(number)) {
            Some(text) => {
                let indent = line.len() - line.trim_start().len();
                out.push_str(&" ".repeat(indent));
                out.push_str(&comment(text));
            }
            None => out.push_str(line),
        }
        out.push('\n');
    }
    Ok(out)
}

/// No two hyphens may stand inside of a comment.
fn comment(text: &str) -> String {
    let mut inner = text.replace("--", "- -");
    if inner.ends_with('-') {
        inner.push(' ');
    }
    format!("<!-- {inner} -->")
}

/// What is noted of an element beyond what is true of all around it.
fn own_note(element: &Element, inherited: &str) -> Vec<String> {
    let own = element.attribute(FROM).filter(|own| *own != inherited).map(str::to_string);
    let single = element.attributes.iter().filter_map(|(name, note)| {
        let name = name.strip_prefix(FROM)?.strip_prefix(':')?;
        Some(format!("{name}: {note}"))
    });
    own.into_iter().chain(single).collect()
}

fn annotate(element: &mut Element, inherited: &str, comments: &mut Vec<String>) {
    let nodes = std::mem::take(&mut element.nodes);
    let mixed = nodes.iter().any(|node| matches!(node, Node::Text(_)));
    let mut last = String::new();
    for node in nodes {
        let Node::Element(mut child) = node else {
            element.nodes.push(node);
            continue;
        };
        let note = own_note(&child, inherited).join("; ");
        // Neighbours that came from the same place need one comment.
        if !mixed && !note.is_empty() && note != last {
            element.nodes.push(Node::Element(Element::new("comment-").with("n", comments.len().to_string())));
            comments.push(note.clone());
        }
        let inner = child.attribute(FROM).unwrap_or(inherited).to_string();
        annotate(&mut child, &inner, comments);
        last = note;
        element.nodes.push(Node::Element(child));
    }
}
