//! A running network: what `virsh net-update` can change in it, and what has to wait until it is started again.
//!
//! libvirt's network driver takes additions and removals of fixed addresses, ranges, names, records, port groups and cards
//! while a network runs; of the rest it says that it is not supported (`virNetworkDefUpdateSection`).

use super::rules::Network;
use crate::modules::libvirt::threeway::{self, Identity, Rules};
use crate::modules::libvirt::xml::Element;

/// What must be done so that a running network is as its definition says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// What can be done now, in this order.
    pub updates: Vec<Update>,
    /// What takes a stop and a start, in words.
    pub waits: Vec<String>,
}

/// One `net-update`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    /// `add-last`, `delete` or `modify`.
    pub command: &'static str,
    /// `ip-dhcp-host`, …
    pub section: &'static str,
    /// Which `<ip>` it is in, counted as they run.
    pub parent: Option<usize>,
    /// What is added, removed, or takes the place of what is there.
    pub xml: Element,
    /// The command and the XML that undo it.
    pub undo: (&'static str, Element),
    /// What, in words.
    pub path: String,
}

/// Something in a network that can change while it runs.
#[derive(Clone)]
struct Unit {
    section: &'static str,
    /// The address of the `<ip>` it is in.
    ip: Option<String>,
    key: String,
    element: Element,
    path: String,
}

/// The ways of what can change while a network runs, and the section it is for `net-update`.
const SECTIONS: [(&[&str], &str); 7] = [
    (&["ip", "dhcp", "host"], "ip-dhcp-host"),
    (&["ip", "dhcp", "range"], "ip-dhcp-range"),
    (&["portgroup"], "portgroup"),
    (&["dns", "host"], "dns-host"),
    (&["dns", "txt"], "dns-txt"),
    (&["dns", "srv"], "dns-srv"),
    (&["forward", "interface"], "forward-interface"),
];

/// Takes out everything that can change while the network runs; answers that and the rest.
fn take_apart(network: &Element) -> (Vec<Unit>, Element) {
    let mut units = Vec::new();
    let mut rest = network.clone();
    rest.retain(|child| child.name != "metadata");
    rest.unset("connections");
    if let Some(forward) = rest.get_mut("forward") {
        // What libvirt fills in when it starts a network: the ports of translation, and the first card once more.
        let usual = |port: &Element| port.attribute("start") == Some("1024") && port.attribute("end") == Some("65535");
        if let Some(nat) = forward.get_mut("nat") {
            nat.retain(|child| child.name != "port" || !usual(child));
        }
        forward.retain(|child| child.name != "nat" || !child.nodes.is_empty() || !child.attributes.is_empty());
        if forward.get("interface").is_some() {
            forward.unset("dev");
        }
    }
    take(&mut Vec::new(), &mut rest, None, &mut units);
    (units, rest)
}

fn take(way: &mut Vec<String>, element: &mut Element, ip: Option<&str>, units: &mut Vec<Unit>) {
    for child in element.elements_mut() {
        child.unset("connections");
    }
    let mut emptied = Vec::new();
    element.retain(|child| {
        let mut inner: Vec<&str> = way.iter().map(String::as_str).collect();
        inner.push(&child.name);
        let Some((_, section)) = SECTIONS.iter().find(|(way, _)| *way == inner) else { return true };
        let key = match Network.identity(&inner, child) {
            Identity::Key(key) => key,
            // A range is told from others by its ends.
            _ => ["start", "end"].iter().filter_map(|name| child.attribute(name)).collect::<Vec<_>>().join("-"),
        };
        let mut labels = way.clone();
        labels.push(format!("{} {key}", child.name));
        let path = Network.words(&labels, None);
        units.push(Unit { section, ip: ip.map(str::to_string), key, element: child.clone(), path });
        emptied.push(inner.len());
        false
    });
    for child in element.elements_mut() {
        let address = (child.name == "ip").then(|| child.attribute("address").unwrap_or_default().to_string());
        way.push(child.name.clone());
        take(way, child, address.as_deref().or(ip), units);
        way.pop();
    }
    // With nothing in them these say nothing.
    element.retain(|child| {
        !(matches!(child.name.as_str(), "dhcp" | "dns") && child.nodes.is_empty() && child.attributes.is_empty())
    });
}

fn same(a: &Element, b: &Element) -> bool {
    let wrap = |element: &Element| Element::new("network").child(element.clone());
    let (a, b) = (wrap(a), wrap(b));
    let holds = |a: &Element, b: &Element| threeway::merge(&Plain, a, b, Some(b)).changes.is_empty();
    holds(&a, &b) && holds(&b, &a)
}

/// Single elements are compared as they are, wherever they stand.
struct Plain;

impl Rules for Plain {
    fn identity(&self, way: &[&str], element: &Element) -> Identity {
        match (way.last(), element.text()) {
            (Some(&"hostname"), text) => Identity::Key(text),
            (Some(&"tag"), _) => Identity::Key(element.attribute("id").unwrap_or_default().to_string()),
            _ => Identity::Single,
        }
    }
    fn is_default(&self, way: &[&str], attribute: &str, value: &str) -> bool {
        Network.is_default(way, attribute, value)
    }
    fn is_kept(&self, _: &[&str], _: Option<&str>) -> bool {
        false
    }
    fn words(&self, way: &[String], attribute: Option<&str>) -> String {
        Network.words(way, attribute)
    }
}

/// From a network as it runs to one as it is defined.
pub fn live(defined: &Element, running: &Element) -> Live {
    let ((wanted, wanted_rest), (there, there_rest)) = (take_apart(defined), take_apart(running));
    let mut answer = Live::default();
    for change in threeway::merge(&Network, &wanted_rest, &there_rest, Some(&there_rest)).changes {
        answer.waits.push(change.path);
    }
    // The place of an <ip> that runs; what is in one that comes or goes waits with it.
    let place = |unit: &Unit| -> Option<Option<usize>> {
        let Some(address) = &unit.ip else { return Some(None) };
        let is_it = |ip: &Element| ip.attribute("address") == Some(address.as_str());
        let stays = defined.named("ip").any(is_it);
        running.named("ip").position(is_it).filter(|_| stays).map(Some)
    };
    let find = |list: &[Unit], unit: &Unit| -> Option<Element> {
        let one = |other: &&Unit| (other.section, &other.ip, &other.key) == (unit.section, &unit.ip, &unit.key);
        list.iter().find(one).map(|other| other.element.clone())
    };
    let mut later = Vec::new();
    let update = |command, unit: &Unit, parent, xml: &Element, undo: (&'static str, Element)| Update {
        command,
        section: unit.section,
        parent,
        xml: xml.clone(),
        undo,
        path: unit.path.clone(),
    };
    for unit in &there {
        let Some(parent) = place(unit) else { continue };
        match find(&wanted, unit) {
            None => {
                let undo = ("add-last", unit.element.clone());
                answer.updates.push(update("delete", unit, parent, &unit.element, undo));
            }
            Some(wanted) if same(&wanted, &unit.element) => {}
            // libvirt changes these in place; of the others it says that they can only be added or deleted.
            Some(wanted) if matches!(unit.section, "portgroup") || unit.element.attribute("mac").is_some() => {
                later.push(update("modify", unit, parent, &wanted, ("modify", unit.element.clone())));
            }
            Some(wanted) => {
                let undo = ("add-last", unit.element.clone());
                answer.updates.push(update("delete", unit, parent, &unit.element, undo));
                later.push(update("add-last", unit, parent, &wanted, ("delete", wanted.clone())));
            }
        }
    }
    for unit in wanted.iter().filter(|unit| find(&there, unit).is_none()) {
        let Some(parent) = place(unit) else { continue };
        later.push(update("add-last", unit, parent, &unit.element, ("delete", unit.element.clone())));
    }
    answer.updates.extend(later);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::libvirt::xml::parse;

    fn between(defined: &str, running: &str) -> (Vec<String>, Vec<String>) {
        let read = |text: &str| parse(&format!("<network connections='2'>{text}</network>")).unwrap();
        let answer = live(&read(defined), &read(running));
        let parent = |update: &Update| update.parent.map(|n| format!(" in {n}")).unwrap_or_default();
        let shown =
            |update: &Update| format!("{} {}{}: {}", update.command, update.section, parent(update), update.path);
        (answer.updates.iter().map(shown).collect(), answer.waits)
    }

    #[test]
    fn what_can_change_while_it_runs() {
        let (updates, waits) = between(
            "<ip address='10.0.0.1'/><ip address='10.1.0.1'><dhcp><range start='1' end='3'/>\
             <host mac='aa' ip='5'/><host mac='bb' ip='6'/></dhcp></ip><portgroup name='p' default='yes'/>\
             <dns><host ip='9'><hostname>a</hostname><hostname>b</hostname></host></dns>",
            "<ip address='10.0.0.1'/><ip address='10.1.0.1'><dhcp><range start='1' end='2'/>\
             <host mac='aa' ip='4'/><host mac='cc' ip='7'/></dhcp></ip><portgroup name='p'/>\
             <dns><host ip='9'><hostname>a</hostname></host></dns>",
        );
        assert_eq!(
            updates,
            [
                "delete ip-dhcp-range in 1: ip dhcp range 1-2",
                "delete ip-dhcp-host in 1: ip dhcp host cc",
                "delete dns-host: dns host 9",
                "modify portgroup: portgroup p",
                "modify ip-dhcp-host in 1: ip dhcp host aa",
                "add-last dns-host: dns host 9",
                "add-last ip-dhcp-range in 1: ip dhcp range 1-3",
                "add-last ip-dhcp-host in 1: ip dhcp host bb"
            ]
        );
        assert_eq!(waits, Vec::<String>::new());
    }

    #[test]
    fn what_has_to_wait() {
        let (updates, waits) = between(
            "<mtu size='9000'/><ip address='10.0.0.2'><dhcp><range start='1' end='2'/></dhcp></ip>",
            "<domain name='x'/><ip address='10.0.0.1'><dhcp><range start='1' end='2'/></dhcp></ip>",
        );
        assert_eq!(updates, Vec::<String>::new());
        assert_eq!(waits, ["mtu", "ip address", "domain"]);
        let text = "<forward mode='nat'><interface dev='a' connections='1'/></forward><ip address='1'><dhcp/></ip>";
        let filled =
            text.replace("<dhcp/>", "").replace(" connections='1'", "").replace("mode='nat'", "mode='nat' dev='a'");
        let filled = filled.replace("</forward>", "<nat><port start='1024' end='65535'/></nat></forward>");
        let (updates, waits) = between(text, &filled);
        assert_eq!((updates.len(), waits.len()), (0, 0));
    }
}
