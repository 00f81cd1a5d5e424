//! Random guests and random single edits: what is edited is reported, alone; what is merged is merged; nothing else moves.

use proptest::prelude::*;

use super::*;

/// A part of a domain that can be stated in two ways.
#[derive(Clone, Debug)]
struct Fact {
    /// How a diff calls it.
    path: String,
    /// The way to the element that holds it: names, with a key where several stand side by side.
    way: Vec<(&'static str, Option<(&'static str, String)>)>,
    /// The attribute, or the text where there is none.
    attribute: Option<&'static str>,
    /// Its value now, and after the edit.
    values: (String, String),
}

fn choice(values: &'static [&'static str]) -> impl Strategy<Value = (String, String)> {
    (0..values.len(), 1..values.len())
        .prop_map(|(first, step)| (values[first].to_string(), values[(first + step) % values.len()].to_string()))
}

fn fact(
    path: impl Into<String>,
    way: Vec<(&'static str, Option<(&'static str, String)>)>,
    attribute: Option<&'static str>,
    values: &'static [&'static str],
) -> BoxedStrategy<Fact> {
    let path = path.into();
    choice(values).prop_map(move |values| Fact { path: path.clone(), way: way.clone(), attribute, values }).boxed()
}

/// What a guest of these devices can state.
fn facts(disks: usize, cards: usize, hostdevs: usize) -> Vec<BoxedStrategy<Fact>> {
    let single = |name: &'static str| (name, None);
    let mut all = vec![
        fact("memory", vec![single("memory")], None, &["1048576", "2097152", "4194304"]),
        fact("vcpus", vec![single("vcpu")], None, &["1", "2", "4", "8"]),
        fact("clock offset", vec![single("clock")], Some("offset"), &["utc", "localtime"]),
        fact("on_crash", vec![single("on_crash")], None, &["destroy", "restart", "preserve"]),
        fact("on_reboot", vec![single("on_reboot")], None, &["destroy", "restart"]),
        fact("features smm", vec![single("features"), single("smm")], Some("state"), &["on", "off"]),
        fact("cpu mode", vec![single("cpu")], Some("mode"), &["host-passthrough", "maximum"]),
        fact("cpu topology cores", vec![single("cpu"), single("topology")], Some("cores"), &["1", "2", "4"]),
        fact("title", vec![single("title")], None, &["a", "b & c"]),
    ];
    for (name, path) in [("relaxed", "features hyperv relaxed"), ("vapic", "features hyperv vapic")] {
        all.push(fact(path, vec![single("features"), single("hyperv"), single(name)], Some("state"), &["on", "off"]));
    }
    for timer in ["rtc", "hpet", "hypervclock"] {
        let way = vec![single("clock"), ("timer", Some(("name", timer.to_string())))];
        all.push(fact(format!("clock timer {timer} present"), way, Some("present"), &["yes", "no"]));
    }
    for cpu in ["0", "1", "2"] {
        let way = vec![single("cputune"), ("vcpupin", Some(("vcpu", cpu.to_string())))];
        all.push(fact(format!("vcpupin {cpu}"), way, Some("cpuset"), &["0", "1-2", "0,3"]));
    }
    for n in 0..disks {
        let device = |inner: &'static str| vec![single("devices"), ("disk", Some(("n", n.to_string()))), (inner, None)];
        let name = format!("disk vd{}", char::from(b'a' + u8::try_from(n).unwrap()));
        let (driver, source) = (device("driver"), device("source"));
        all.push(fact(format!("{name}: cache"), driver.clone(), Some("cache"), &["none", "writeback", "unsafe"]));
        all.push(fact(format!("{name}: discard"), driver, Some("discard"), &["unmap", "ignore"]));
        all.push(fact(format!("{name}: source"), source, Some("file"), &["/a", "/b", "/c"]));
    }
    for n in 0..cards {
        let device =
            |inner: &'static str| vec![single("devices"), ("interface", Some(("n", n.to_string()))), (inner, None)];
        let name = format!("network interface 52:54:00:00:00:{n:02x}");
        all.push(fact(format!("{name}: bridge"), device("source"), Some("bridge"), &["br0", "br1", "br2"]));
        all.push(fact(format!("{name}: model"), device("model"), Some("type"), &["virtio", "e1000e", "rtl8139"]));
    }
    for n in 0..hostdevs {
        let way = vec![single("devices"), ("hostdev", Some(("n", n.to_string()))), ("rom", None)];
        all.push(fact(format!("hostdev pci 0000:{:02x}:00.0: rom bar", n + 1), way, Some("bar"), &["on", "off"]));
    }
    all
}

#[derive(Clone, Debug)]
struct Guest {
    counts: (usize, usize, usize),
    facts: Vec<Fact>,
    /// Does libvirt's document name its parts in another order, and numbers in another way?
    odd: bool,
}

fn guest() -> impl Strategy<Value = Guest> {
    (1usize..4, 0usize..4, 0usize..3, any::<bool>()).prop_flat_map(|(disks, cards, hostdevs, odd)| {
        let all = facts(disks, cards, hostdevs);
        let count = all.len();
        (all, proptest::collection::vec(any::<bool>(), count)).prop_map(move |(facts, said)| {
            let chosen = facts.into_iter().zip(said).filter_map(|(fact, said)| said.then_some(fact)).collect();
            Guest { counts: (disks, cards, hostdevs), facts: chosen, odd }
        })
    })
}

/// The devices as they are stated; `full` as libvirt has them, with addresses and all.
fn skeleton(counts: (usize, usize, usize), full: bool) -> Element {
    let mut slot = 2;
    let mut placed = |device: Element| {
        slot += 1;
        let address =
            Element::new("address").with("type", "pci").with("bus", "0x00").with("slot", format!("0x{slot:02x}"));
        if full { device.child(address) } else { device }
    };
    let mut devices = Element::new("devices");
    for n in 0..counts.0 {
        let target = format!("vd{}", char::from(b'a' + u8::try_from(n).unwrap()));
        let disk = Element::new("disk").with("type", "file").with("device", "disk");
        let driver = Element::new("driver").with("name", "qemu").with("type", "qcow2");
        let disk = disk.child(driver).child(Element::new("source").with("file", "/a"));
        devices = devices.child(placed(disk.child(Element::new("target").with("dev", target).with("bus", "virtio"))));
    }
    for n in 0..counts.1 {
        let mac = Element::new("mac").with("address", format!("52:54:00:00:00:{n:02x}"));
        let card = Element::new("interface").with("type", "bridge").child(mac);
        let card = card.child(Element::new("source").with("bridge", "br0"));
        devices = devices.child(placed(card.child(Element::new("model").with("type", "virtio"))));
    }
    for n in 0..counts.2 {
        let address = Element::new("address").with("domain", "0x0000").with("bus", format!("0x{:02x}", n + 1));
        let address = address.with("slot", "0x00").with("function", "0x0");
        let hostdev = Element::new("hostdev").with("mode", "subsystem").with("type", "pci").with("managed", "yes");
        devices = devices.child(placed(hostdev.child(Element::new("source").child(address))));
    }
    if full {
        devices = devices.child(Element::new("controller").with("type", "pci").with("index", "0"));
        devices = devices.child(Element::new("input").with("type", "mouse").with("bus", "ps2"));
        devices = devices.child(Element::new("memballoon").with("model", "virtio"));
    }
    let mut domain = Element::new("domain").with("type", "kvm").child(Element::new("name").containing("g"));
    if full {
        domain = domain.child(Element::new("uuid").containing("9d2e07dc-bc8b-4afa-9fc2-2587aea917a0"));
    }
    domain.child(devices)
}

fn state(domain: &mut Element, fact: &Fact, value: &str) {
    let mut at = domain;
    for (name, key) in &fact.way {
        let found = at.nodes.iter().enumerate().filter_map(|(place, node)| match node {
            Node::Element(e) if e.name == *name => Some((place, e)),
            _ => None,
        });
        let place = match key {
            Some(("n", number)) => found.map(|(place, _)| place).nth(number.parse().unwrap()),
            Some((attribute, value)) => {
                let mut found = found;
                found.find(|(_, e)| e.attribute(attribute) == Some(value)).map(|(place, _)| place)
            }
            None => { found }.next().map(|(place, _)| place),
        };
        let place = place.unwrap_or_else(|| {
            let mut fresh = Element::new(name);
            if let Some((attribute, value)) = key {
                fresh.set(attribute, value.as_str());
            }
            at.nodes.push(Node::Element(fresh));
            at.nodes.len() - 1
        });
        let Node::Element(next) = &mut at.nodes[place] else { panic!("text at {place}") };
        at = next;
    }
    match fact.attribute {
        Some(name) => at.set(name, value),
        None => at.set_text(value),
    }
}

fn document(guest: &Guest, full: bool, edited: Option<usize>) -> Element {
    let mut domain = skeleton(guest.counts, full);
    for (n, fact) in guest.facts.iter().enumerate() {
        let value = if edited == Some(n) { &fact.values.1 } else { &fact.values.0 };
        state(&mut domain, fact, value);
    }
    domain
}

fn asked(guest: &Guest, edited: Option<usize>) -> Wanted {
    let xml = document(guest, false, edited);
    Wanted { intent: xml.clone(), xml, absent: Vec::new() }
}

/// As libvirt might print it: other units, numbers and orders.
fn printed(guest: &Guest, mut domain: Element) -> Element {
    if let Some(memory) = domain.get_mut("memory") {
        memory.set("unit", "KiB");
    }
    if guest.odd {
        for name in ["features", "clock", "cputune"] {
            if let Some(list) = domain.get_mut(name) {
                list.nodes.reverse();
            }
        }
        if let Some(devices) = domain.get_mut("devices") {
            for hostdev in devices.elements_mut().filter(|device| device.name == "hostdev") {
                if let Some(address) = hostdev.get_mut("source").and_then(|source| source.get_mut("address")) {
                    address.set("function", "0x00");
                    address.set("domain", "0");
                }
            }
        }
    }
    domain
}

/// Everything that nobody stated: ids, addresses, what libvirt added.
fn rest(domain: &Element) -> Vec<String> {
    let devices: Vec<&Element> = domain.get("devices").into_iter().flat_map(Element::elements).collect();
    let addresses = devices.iter().filter_map(|device| device.get("address")).map(Element::print);
    let macs = devices.iter().filter_map(|device| device.get("mac")).map(Element::print);
    let names = devices.iter().map(|device| device.name.clone());
    domain.get("uuid").map(Element::print).into_iter().chain(addresses).chain(macs).chain(names).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn an_edit_is_reported_alone_and_nothing_else_moves(guest in guest(), pick in any::<prop::sample::Index>()) {
        let current = printed(&guest, document(&guest, true, None));
        let before = asked(&guest, None);
        let same = merge(&before, &current, Some(&before.intent));
        prop_assert_eq!(&same.changes, &[]);
        prop_assert_eq!(&same.xml, &current);
        // Without a memory of the last time too.
        prop_assert_eq!(&merge(&before, &current, None).changes, &[]);
        if guest.facts.is_empty() {
            return Ok(());
        }
        let n = pick.index(guest.facts.len());
        let after = asked(&guest, Some(n));
        let merged = merge(&after, &current, Some(&before.intent));
        let paths: Vec<&str> = merged.changes.iter().map(|change| change.path.as_str()).collect();
        prop_assert_eq!(paths, [guest.facts[n].path.as_str()]);
        prop_assert_eq!(rest(&merged.xml), rest(&current));
        let again = merge(&after, &merged.xml, Some(&after.intent));
        prop_assert_eq!(&again.changes, &[]);
        prop_assert_eq!(&again.xml, &merged.xml);
        // And back.
        let back = merge(&before, &merged.xml, Some(&after.intent));
        prop_assert_eq!(back.changes.len(), 1);
        prop_assert_eq!(merge(&before, &back.xml, Some(&before.intent)).changes, &[]);
    }

    #[test]
    fn twenty_edits_in_a_row_keep_what_libvirt_gave(
        guest in guest(),
        picks in proptest::collection::vec(any::<prop::sample::Index>(), 20),
    ) {
        if guest.facts.is_empty() {
            return Ok(());
        }
        let mut guest = guest;
        let mut current = printed(&guest, document(&guest, true, None));
        let kept = rest(&current);
        let mut last = asked(&guest, None);
        for pick in picks {
            let n = pick.index(guest.facts.len());
            let fact = &mut guest.facts[n];
            fact.values = (fact.values.1.clone(), fact.values.0.clone());
            let wanted = asked(&guest, None);
            let merged = merge(&wanted, &current, Some(&last.intent));
            prop_assert_eq!(merged.changes.len(), 1, "{:?}", merged.changes);
            prop_assert_eq!(rest(&merged.xml), kept.clone());
            (current, last) = (merged.xml, wanted);
        }
    }

    #[test]
    fn what_is_given_up_goes_and_comes_back(guest in guest(), pick in any::<prop::sample::Index>()) {
        if guest.facts.is_empty() {
            return Ok(());
        }
        let current = printed(&guest, document(&guest, true, None));
        let before = asked(&guest, None);
        let mut less = guest.clone();
        less.facts.remove(pick.index(guest.facts.len()));
        let wanted = asked(&less, None);
        let gone = merge(&wanted, &current, Some(&before.intent));
        prop_assert_eq!(rest(&gone.xml), rest(&current));
        prop_assert_eq!(&merge(&wanted, &gone.xml, Some(&wanted.intent)).changes, &[]);
        let back = merge(&before, &gone.xml, Some(&wanted.intent));
        prop_assert_eq!(merge(&before, &back.xml, Some(&before.intent)).changes, &[]);
    }

    #[test]
    fn never_panics(now in "[a-z<>/='\" ]{0,60}", there in "[a-z<>/='\" ]{0,60}") {
        let read = |text: &str| crate::modules::libvirt::xml::parse(&format!("<domain>{text}</domain>")).ok();
        if let (Some(now), Some(there)) = (read(&now), read(&there)) {
            let wanted = Wanted { intent: now.clone(), xml: now, absent: vec!["os@firmware", "os/loader"] };
            let merged = merge(&wanted, &there, Some(&there));
            prop_assert_eq!(merge(&wanted, &merged.xml, Some(&wanted.intent)).changes, &[]);
        }
    }
}
