//! What was stated last time: kept in the guest's own `<metadata>`, in a namespace of ours, so that it goes where the guest
//! goes and is never older than the definition that it belongs to.
//!
//! libvirt keeps one element of each namespace there (<https://libvirt.org/formatdomain.html#general-metadata>), and what
//! others keep is theirs. Whoever may list guests may read it, without `--security-info`: so passwords are hidden, and what
//! is left tells that there was one.

use super::words::masked;
use crate::modules::libvirt::xml::{Element, Node};

/// Our namespace.
pub const NAMESPACE: &str = "https://github.com/vfio-provision/vfio-provision/domain/1";
/// Our prefix, and what `virsh metadata` calls the key.
pub const KEY: &str = "vfio-provision";
/// The name of our element.
const NAME: &str = "vfio-provision:intent";

/// What an intent is kept as: without secrets, and without what never changes.
pub fn kept(intent: &Element) -> Element {
    let mut kept = masked(intent);
    kept.retain(|child| !matches!(child.name.as_str(), "name" | "uuid"));
    if let Some(metadata) = kept.get_mut("metadata") {
        metadata.retain(|child| !is_ours(child));
    }
    namespaces_first(&mut kept);
    kept
}

/// libvirt prints declarations of namespaces before attributes.
fn namespaces_first(element: &mut Element) {
    element.attributes.sort_by_key(|(name, _)| !name.starts_with("xmlns"));
    element.elements_mut().for_each(namespaces_first);
}

/// The element that is put into `<metadata>`.
pub fn wrapped(kept: &Element) -> Element {
    Element::new(NAME).with("xmlns:vfio-provision", NAMESPACE).child(in_namespace(kept))
}

/// What `virsh metadata --set` takes, which puts our prefix and namespace to it.
pub fn bare(kept: &Element) -> Element {
    Element::new("intent").child(in_namespace(kept))
}

/// All of it is in our namespace: whoever asks a document for `//disk` means the guest's own.
fn in_namespace(kept: &Element) -> Element {
    let mut inner = kept.clone();
    inner.attributes.insert(0, ("xmlns".to_string(), NAMESPACE.to_string()));
    inner
}

/// What was stated last time, if that is known.
pub fn last(domain: &Element) -> Option<Element> {
    let mut last = domain.get("metadata")?.elements().find(|child| is_ours(child))?.get("domain").cloned()?;
    last.unset("xmlns");
    Some(last)
}

/// Puts it into the domain, in place of an older one.
pub fn put(domain: &mut Element, kept: &Element) {
    if domain.get("metadata").is_none() {
        let after = |node: &Node| matches!(node, Node::Element(e) if matches!(e.name.as_str(), "name" | "uuid" | "genid" | "title" | "description"));
        let place = domain.nodes.iter().rposition(after).map_or(0, |place| place + 1);
        domain.nodes.insert(place, Node::Element(Element::new("metadata")));
    }
    let Some(metadata) = domain.get_mut("metadata") else { return };
    let fresh = wrapped(kept);
    let old = metadata.elements_mut().find(|child| is_ours(child));
    match old {
        Some(old) => *old = fresh,
        None => metadata.nodes.push(Node::Element(fresh)),
    }
}

/// The domain without it: what people care about.
pub fn without(domain: &Element) -> Element {
    let mut copy = domain.clone();
    if let Some(metadata) = copy.get_mut("metadata") {
        metadata.retain(|child| !is_ours(child));
        if metadata.nodes.is_empty() {
            copy.retain(|child| child.name != "metadata");
        }
    }
    copy
}

/// The namespace of an element of `<metadata>`, which libvirt tells it apart by; and its name without the prefix.
pub fn namespace(element: &Element) -> (Option<&str>, &str) {
    let (prefix, name) = element.name.split_once(':').unwrap_or(("", &element.name));
    let declared = element.attributes.iter().find(|(key, _)| match key.strip_prefix("xmlns") {
        Some("") => prefix.is_empty(),
        Some(rest) => rest.strip_prefix(':') == Some(prefix),
        None => false,
    });
    (declared.map(|(_, uri)| uri.as_str()), name)
}

/// Is this element of `<metadata>` ours?
pub fn is_ours(element: &Element) -> bool {
    namespace(element) == (Some(NAMESPACE), "intent")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::libvirt::xml::parse;

    const DOMAIN: &str = "<domain type='kvm'><name>g</name><title>t</title><metadata>\
        <libosinfo:libosinfo xmlns:libosinfo='http://libosinfo.org/xmlns/libvirt/domain/1.0'>\
        <libosinfo:os id='http://microsoft.com/win/10'/></libosinfo:libosinfo></metadata><memory>1</memory></domain>";

    #[test]
    fn it_is_put_beside_what_others_keep_and_found_again() {
        let mut domain = parse(DOMAIN).unwrap();
        let before = domain.clone();
        assert_eq!(last(&domain), None);
        let intent = parse(
            "<domain><name>g</name><memory>1</memory><devices><graphics type='vnc' passwd='x'/></devices></domain>",
        );
        let kept = kept(&intent.unwrap());
        put(&mut domain, &kept);
        put(&mut domain, &kept);
        let text = domain.print();
        assert!(!text.contains("'x'") && text.contains("passwd='********'"), "{text}");
        assert_eq!(text.matches("vfio-provision:intent").count(), 2, "{text}");
        assert!(text.contains("libosinfo:os "), "{text}");
        // As libvirt prints it, in double quotes.
        assert_eq!(last(&parse(&text.replace('\'', "\"")).unwrap()), Some(kept));
        assert_eq!(without(&domain), before);
    }

    #[test]
    fn declarations_stand_where_libvirt_prints_them() {
        let intent = parse("<domain type='qemu' xmlns:qemu='urn:q'><qemu:commandline/></domain>").unwrap();
        let mut domain = parse(DOMAIN).unwrap();
        put(&mut domain, &kept(&intent));
        assert!(domain.print().contains("xmlns:qemu='urn:q' type='qemu'"), "{}", domain.print());
        assert_eq!(last(&domain), Some(kept(&intent)));
    }

    #[test]
    fn where_there_was_none_it_stands_where_libvirt_prints_it() {
        let mut domain = parse("<domain><name>g</name><uuid>u</uuid><memory>1</memory></domain>").unwrap();
        let before = domain.clone();
        put(&mut domain, &Element::new("domain"));
        let names: Vec<&str> = domain.elements().map(|e| e.name.as_str()).collect();
        assert_eq!(names, ["name", "uuid", "metadata", "memory"]);
        assert_eq!(without(&domain), before);
    }

    #[test]
    fn another_prefix_is_still_ours_and_another_namespace_is_not() {
        let text =
            format!("<domain><metadata><x:intent xmlns:x='{NAMESPACE}'><domain/></x:intent></metadata></domain>");
        assert!(last(&parse(&text).unwrap()).is_some());
        assert!(last(&parse(&text.replace(NAMESPACE, "urn:other")).unwrap()).is_none());
    }
}
