//! What a rendered element lacks of the one it was made from, as XML that is merged into it.

use crate::modules::libvirt::values::number;
use crate::modules::libvirt::xml::{Element, Node};

/// How a rendered element compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Residual {
    /// It is the same.
    Nothing,
    /// This merged into it makes it the same.
    Add(Element),
    /// It says something that the other does not: nothing that is added can help.
    TooMuch,
}

/// What must be added to `have` to make it `want`; both in canonical form.
pub fn residual(want: &Element, have: Option<&Element>) -> Residual {
    let Some(have) = have else { return Residual::Add(want.clone()) };
    if want == have {
        return Residual::Nothing;
    }
    if have.attributes.iter().any(|(name, _)| want.attribute(name).is_none()) {
        return Residual::TooMuch;
    }
    let mut add = Element::new(&want.name);
    for (name, value) in &want.attributes {
        if have.attribute(name) != Some(value) {
            add.set(name, value.as_str());
        }
    }
    let (leaf, empty) = (want.elements().next().is_none(), have.elements().next().is_none());
    if leaf && empty {
        if want.text() != have.text() {
            if want.text().is_empty() {
                return Residual::TooMuch;
            }
            add.nodes = want.nodes.clone();
        }
        return Residual::Add(add);
    }
    let mut names: Vec<&str> = Vec::new();
    for child in want.elements().chain(have.elements()) {
        if !names.contains(&child.name.as_str()) {
            names.push(&child.name);
        }
    }
    for name in names {
        let stated: Vec<&Element> = want.named(name).collect();
        let there: Vec<&Element> = have.named(name).collect();
        if stated == there {
            continue;
        }
        match (stated.as_slice(), there.as_slice()) {
            (_, []) => add.nodes.extend(stated.into_iter().cloned().map(Node::Element)),
            ([one], [other]) => match residual(one, Some(other)) {
                Residual::Nothing => {}
                Residual::Add(more) => add.nodes.push(Node::Element(more)),
                Residual::TooMuch => return Residual::TooMuch,
            },
            _ => return Residual::TooMuch,
        }
    }
    Residual::Add(add)
}

/// The numbers of addresses as people know them.
pub fn readable(element: &Element) -> Element {
    let mut copy = element.clone();
    let hex = |copy: &mut Element, name: &str, width: usize| {
        if let Some(value) = copy.attribute(name).and_then(number) {
            copy.set(name, format!("{value:#0width$x}", width = width + 2));
        }
    };
    match copy.name.as_str() {
        "address" if copy.attribute("slot").is_some() => {
            for (name, width) in [("domain", 4), ("bus", 2), ("slot", 2), ("function", 1)] {
                hex(&mut copy, name, width);
            }
            // In the order in which libvirt writes them.
            let place = |name: &str| {
                ["type", "domain", "bus", "slot", "function", "multifunction"].iter().position(|known| *known == name)
            };
            copy.attributes.sort_by_key(|(name, _)| place(name).unwrap_or(usize::MAX));
        }
        "target" if copy.attribute("chassis").is_some() => hex(&mut copy, "port", 1),
        "vendor" | "product" if copy.attribute("id").is_some() => hex(&mut copy, "id", 4),
        _ => copy.attributes.sort_by_key(|(name, _)| {
            let first = ["type", "mode", "device", "dev", "name", "index", "model"];
            first.iter().position(|known| known == name).unwrap_or(first.len())
        }),
    }
    for child in copy.elements_mut() {
        *child = readable(child);
    }
    // Where the guest sees a device comes last, as libvirt writes it.
    if copy.nodes.iter().all(|node| matches!(node, Node::Element(_))) {
        copy.nodes.sort_by_key(|node| matches!(node, Node::Element(child) if child.name == "address"));
    }
    copy
}

/// As short as XML gets: what fits stands on one line.
pub fn compact(element: &Element, room: usize) -> String {
    let mut out = String::new();
    write(element, 0, room, &mut out);
    out
}

fn write(element: &Element, depth: usize, room: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    let line = one_line(element);
    let mixed = element.nodes.iter().any(|node| matches!(node, Node::Text(_)));
    if mixed || element.nodes.is_empty() || indent.len() + line.len() <= room {
        out.push_str(&indent);
        out.push_str(&line);
        out.push('\n');
        return;
    }
    let mut shell = element.clone();
    shell.nodes.clear();
    let open = one_line(&shell);
    out.push_str(&indent);
    out.push_str(open.trim_end_matches("/>"));
    out.push_str(">\n");
    for child in element.elements() {
        write(child, depth + 1, room, out);
    }
    out.push_str(&format!("{indent}</{}>\n", element.name));
}

/// On one line; white space in texts stays as it is.
pub fn one_line(element: &Element) -> String {
    let mut shell = element.clone();
    shell.nodes.clear();
    let open = shell.print();
    let open = open.trim_end();
    if element.nodes.is_empty() {
        return open.to_string();
    }
    let mut out = open.strip_suffix("/>").unwrap_or(open).to_string();
    out.push('>');
    for node in &element.nodes {
        match node {
            Node::Element(child) => out.push_str(&one_line(child)),
            Node::Text(text) => {
                // Escaped as the tree prints it.
                let leaf = Element::new("t").containing(text.as_str()).print();
                let inner = leaf.strip_prefix("<t>").and_then(|rest| rest.strip_suffix("</t>\n")).unwrap_or("");
                out.push_str(inner);
            }
        }
    }
    out.push_str(&format!("</{}>", element.name));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::libvirt::xml::parse;

    fn told(want: &str, have: &str) -> String {
        match residual(&parse(want).unwrap(), Some(&parse(have).unwrap())) {
            Residual::Nothing => "nothing".to_string(),
            Residual::Add(add) => one_line(&add),
            Residual::TooMuch => "too much".to_string(),
        }
    }

    #[test]
    fn what_lacks() {
        assert_eq!(told("<a b='1'/>", "<a b='1'/>"), "nothing");
        assert_eq!(told("<a b='1' c='2'><d/></a>", "<a b='1'/>"), "<a c='2'><d/></a>");
        assert_eq!(told("<a><b x='1' y='2'/><c/></a>", "<a><b x='1'/><c/></a>"), "<a><b y='2'/></a>");
        assert_eq!(told("<a/>", "<a b='1'/>"), "too much");
        assert_eq!(told("<a><b/></a>", "<a><c/></a>"), "too much");
        assert_eq!(told("<a><b/><b x='1'/></a>", "<a><b/></a>"), "too much");
        assert_eq!(told("<a>5</a>", "<a>4</a>"), "<a>5</a>");
    }

    #[test]
    fn one_line_is_the_same_document() {
        for text in ["<a b='x &amp; y'>t &lt; u</a>", "<a><b/><c d='1'><e>x  y</e></c></a>", "<a>\n x\n</a>"] {
            let element = parse(text).unwrap();
            assert_eq!(parse(&one_line(&element)).unwrap(), element, "{text}");
            assert_eq!(parse(&compact(&element, 10)).unwrap(), element, "{text}");
        }
        let address = parse("<address type='pci' bus='4' function='1' slot='31'/>").unwrap();
        assert_eq!(one_line(&readable(&address)), "<address type='pci' bus='0x04' slot='0x1f' function='0x1'/>");
    }
}
