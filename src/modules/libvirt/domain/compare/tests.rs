//! Three-way, at every depth: what is stated holds, what was stated goes, what others added stays.

use super::*;
use crate::modules::libvirt::xml::parse;

fn domain(text: &str) -> Element {
    parse(&format!("<domain>{text}</domain>")).unwrap()
}

fn wanted(text: &str) -> Wanted {
    Wanted { xml: domain(text), intent: domain(text), absent: Vec::new() }
}

fn lines(merged: &Merged) -> Vec<String> {
    let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "-".to_string());
    merged.changes.iter().map(|c| format!("{}: {} → {}", c.path, side(&c.before), side(&c.after))).collect()
}

/// now, there, last time → changes, what is there afterwards (without `<devices/>` that is always there), what is mentioned.
type Case = (&'static str, &'static str, &'static str, &'static [&'static str], &'static str, &'static [&'static str]);

const CASES: &[Case] = &[
    // A list of which only one part is ours.
    (
        "<features><hyperv><relaxed state='on'/></hyperv></features>",
        "<features><hyperv mode='custom'><relaxed state='on'/><vapic state='on'/><stimer state='on'/></hyperv></features>",
        "<features><hyperv><relaxed state='on'/><vapic state='on'/></hyperv></features>",
        &["features hyperv vapic: on → -"],
        "<features><hyperv mode='custom'><relaxed state='on'/><stimer state='on'/></hyperv></features>",
        &["features hyperv stimer"],
    ),
    // All of it is given up: what others put inside stays.
    (
        "<features/>",
        "<features><acpi/><hyperv mode='custom'><relaxed state='on'/><stimer state='on'/></hyperv></features>",
        "<features><hyperv><relaxed state='on'/></hyperv></features>",
        &["features hyperv relaxed: on → -"],
        "<features><acpi/><hyperv mode='custom'><stimer state='on'/></hyperv></features>",
        &[],
    ),
    (
        "<features/>",
        "<features><acpi/><hyperv mode='custom'><relaxed state='on'/></hyperv></features>",
        "<features><hyperv><relaxed state='on'/></hyperv></features>",
        &["features hyperv: mode custom, relaxed on → -"],
        "<features><acpi/></features>",
        &[],
    ),
    // Pins: ours change and go, another's stays.
    (
        "<cputune><vcpupin vcpu='0' cpuset='1'/></cputune>",
        "<cputune><vcpupin vcpu='0' cpuset='0'/><vcpupin vcpu='1' cpuset='1'/><vcpupin vcpu='2' cpuset='2'/></cputune>",
        "<cputune><vcpupin vcpu='0' cpuset='0'/><vcpupin vcpu='1' cpuset='1'/></cputune>",
        &["vcpupin 0: 0 → 1", "vcpupin 1: 1 → -"],
        "<cputune><vcpupin vcpu='0' cpuset='1'/><vcpupin vcpu='2' cpuset='2'/></cputune>",
        &["vcpupin 2"],
    ),
    // CPU features by name, in any order.
    (
        "<cpu mode='host-passthrough'><feature policy='require' name='a'/><feature policy='disable' name='b'/></cpu>",
        "<cpu mode='host-passthrough' check='none'><feature policy='require' name='b'/><feature policy='require' name='a'/><feature policy='require' name='c'/></cpu>",
        "<cpu mode='host-passthrough'><feature policy='require' name='c'/></cpu>",
        &["cpu feature b policy: require → disable", "cpu feature c: require → -"],
        "<cpu mode='host-passthrough' check='none'><feature policy='disable' name='b'/><feature policy='require' name='a'/></cpu>",
        &[],
    ),
    // Timers.
    (
        "<clock offset='utc'><timer name='hpet' present='no'/></clock>",
        "<clock offset='utc'><timer name='rtc' tickpolicy='catchup'/><timer name='hpet' present='yes'/><timer name='pit'/></clock>",
        "<clock offset='utc'><timer name='rtc' tickpolicy='catchup'/></clock>",
        &["clock timer hpet present: yes → no", "clock timer rtc: catchup → -"],
        "<clock offset='utc'><timer name='hpet' present='no'/><timer name='pit'/></clock>",
        &["clock timer pit"],
    ),
    // Arguments keep their order; another's stay.
    (
        "<qemu:commandline><qemu:arg value='-b'/><qemu:arg value='2'/></qemu:commandline>",
        "<qemu:commandline><qemu:arg value='-z'/><qemu:arg value='-a'/><qemu:arg value='1'/><qemu:arg value='-y'/></qemu:commandline>",
        "<qemu:commandline><qemu:arg value='-a'/><qemu:arg value='1'/></qemu:commandline>",
        &["QEMU arguments: -z -a 1 -y → -z -b 2 -y"],
        "<qemu:commandline><qemu:arg value='-z'/><qemu:arg value='-b'/><qemu:arg value='2'/><qemu:arg value='-y'/></qemu:commandline>",
        &[],
    ),
    (
        "<qemu:commandline><qemu:arg value='-a'/></qemu:commandline>",
        "<qemu:commandline><qemu:arg value='-z'/><qemu:arg value='-a'/></qemu:commandline>",
        "",
        &[],
        "<qemu:commandline><qemu:arg value='-z'/><qemu:arg value='-a'/></qemu:commandline>",
        &["QEMU arguments -z"],
    ),
    (
        "<qemu:commandline><qemu:arg value='-b'/><qemu:arg value='-a'/></qemu:commandline>",
        "<qemu:commandline><qemu:arg value='-a'/><qemu:arg value='-b'/></qemu:commandline>",
        "<qemu:commandline><qemu:arg value='-a'/><qemu:arg value='-b'/></qemu:commandline>",
        &["QEMU arguments: -a -b → -b -a"],
        "<qemu:commandline><qemu:arg value='-b'/><qemu:arg value='-a'/></qemu:commandline>",
        &[],
    ),
    // A secret is not known any more from last time, and is still seen to go.
    (
        "",
        "<qemu:commandline><qemu:arg value='-object'/><qemu:arg value='secret,id=a,data=hush'/></qemu:commandline>",
        "<qemu:commandline><qemu:arg value='-object'/><qemu:arg value='secret,id=a,data=********'/></qemu:commandline>",
        &["qemu:commandline: qemu:arg -object, qemu:arg secret,id=a,data=******** → -"],
        "",
        &[],
    ),
    // Amounts in any unit, and what stands beside them stays.
    (
        "<memory unit='GiB'>2</memory><memtune><hard_limit unit='G'>4</hard_limit></memtune>",
        "<memory unit='KiB' dumpCore='off'>2097152</memory><currentMemory unit='KiB'>2097152</currentMemory><memtune><hard_limit unit='KiB'>4194304</hard_limit></memtune>",
        "",
        &[],
        "<memory unit='KiB' dumpCore='off'>2097152</memory><currentMemory unit='KiB'>2097152</currentMemory><memtune><hard_limit unit='KiB'>4194304</hard_limit></memtune>",
        &[],
    ),
    // Current memory and CPUs in use follow what they may not exceed.
    (
        "<memory unit='KiB'>1048576</memory><vcpu>2</vcpu>",
        "<memory unit='KiB'>2097152</memory><currentMemory unit='KiB'>2097152</currentMemory><vcpu placement='static' current='3'>4</vcpu>",
        "",
        &["memory: 2 GiB → 1 GiB", "vcpus: 4 → 2", "vcpus in use: 3 → -"],
        "<memory unit='KiB'>1048576</memory><currentMemory unit='KiB'>1048576</currentMemory><vcpu placement='static'>2</vcpu>",
        &[],
    ),
    // Others' metadata stays, ours is compared by namespace.
    (
        "<metadata><a:x xmlns:a='urn:a'><a:v>2</a:v></a:x></metadata>",
        "<metadata><b:y xmlns:b='urn:b'/><a:x xmlns:a='urn:a'><a:v>1</a:v></a:x></metadata>",
        "<metadata><a:x xmlns:a='urn:a'><a:v>1</a:v></a:x></metadata>",
        &["metadata a:x: a:v 1 → a:v 2"],
        "<metadata><b:y xmlns:b='urn:b'/><a:x xmlns:a='urn:a'><a:v>2</a:v></a:x></metadata>",
        &[],
    ),
    // An attribute that was stated goes, one that libvirt wrote stays.
    (
        "<devices><disk type='file'><driver name='qemu' type='raw'/><target dev='vda' bus='virtio'/></disk></devices>",
        "<devices><disk type='file' device='disk'><driver name='qemu' type='raw' cache='none' io='native'/><target dev='vda' bus='virtio'/><address type='pci' slot='0x04'/></disk></devices>",
        "<devices><disk type='file'><driver name='qemu' type='raw' cache='none'/><target dev='vda' bus='virtio'/></disk></devices>",
        &["disk vda: cache: none → -"],
        "<devices><disk type='file' device='disk'><driver name='qemu' type='raw' io='native'/><target dev='vda' bus='virtio'/><address type='pci' slot='0x04'/></disk></devices>",
        &["disk vda: io native"],
    ),
    // A place in the boot order belongs to one device.
    (
        "<devices><disk><target dev='vda'/><boot order='1'/></disk></devices>",
        "<devices><disk><target dev='vda'/></disk><disk><target dev='vdb'/><boot order='1'/></disk></devices>",
        "",
        &["disk vda: boot: - → order 1", "disk vdb: boot order: 1 → -"],
        "<devices><disk><target dev='vda'/><boot order='1'/></disk><disk><target dev='vdb'/></disk></devices>",
        &["disk vdb"],
    ),
    // A card on the same bridge as another's: each keeps its own.
    (
        "<devices><interface type='bridge'><source bridge='br0'/><model type='e1000'/></interface></devices>",
        "<devices><interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/><model type='virtio'/></interface><interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='br0'/><model type='e1000'/></interface></devices>",
        "<devices><interface type='bridge'><source bridge='br0'/><model type='e1000'/></interface></devices>",
        &[],
        "<devices><interface type='bridge'><mac address='52:54:00:00:00:01'/><source bridge='br0'/><model type='virtio'/></interface><interface type='bridge'><mac address='52:54:00:00:00:02'/><source bridge='br0'/><model type='e1000'/></interface></devices>",
        &["network interface 52:54:00:00:00:01"],
    ),
    // The right one of two modules goes, and the other keeps its place.
    (
        "<devices><memory model='dimm'><target><size unit='GiB'>2</size></target></memory></devices>",
        "<devices><memory model='dimm'><target><size unit='KiB'>1048576</size></target></memory><memory model='dimm'><target><size unit='KiB'>2097152</size></target><address type='dimm' slot='1'/></memory></devices>",
        "<devices><memory model='dimm'><target><size unit='GiB'>1</size></target></memory><memory model='dimm'><target><size unit='GiB'>2</size></target></memory></devices>",
        &["memory module 1 of 1 GiB: model dimm, target size 1 GiB → -"],
        "<devices><memory model='dimm'><target><size unit='KiB'>2097152</size></target><address type='dimm' slot='1'/></memory></devices>",
        &[],
    ),
    // Another controller in the place of libvirt's own, with all its companions.
    (
        "<devices><controller type='usb' index='0' model='qemu-xhci'/></devices>",
        "<devices><controller type='usb' index='0' model='ich9-ehci1'/><controller type='usb' index='0' model='ich9-uhci1'><master startport='0'/></controller></devices>",
        "",
        &["controller usb 0: model: ich9-ehci1, ich9-uhci1 → qemu-xhci"],
        "<devices><controller type='usb' index='0' model='qemu-xhci'/></devices>",
        &[],
    ),
    // A backend of another sort keeps nothing of the one before.
    (
        "<devices><rng model='virtio'><backend model='builtin'/></rng></devices>",
        "<devices><rng model='virtio'><backend model='random'>/dev/urandom</backend><address type='pci' slot='9'/></rng></devices>",
        "",
        &["rng: backend: /dev/urandom, model random → model builtin"],
        "<devices><rng model='virtio'><backend model='builtin'/><address type='pci' slot='9'/></rng></devices>",
        &[],
    ),
];

#[test]
fn three_documents_meet() {
    let mut wrong = Vec::new();
    for (now, there, last, changes, after, mentioned) in CASES {
        let last_xml = domain(last);
        let last = (!last.is_empty()).then_some(&last_xml);
        let merged = merge(&wanted(now), &domain(there), last);
        let mut expected = domain(after);
        if expected.get("devices").is_none() {
            expected = expected.child(Element::new("devices"));
        }
        // And that is all.
        let again = merge(&wanted(now), &merged.xml, Some(&domain(now)));
        let fine =
            lines(&merged) == *changes && merged.left_alone == *mentioned && merged.xml.print() == expected.print();
        if !fine || !again.changes.is_empty() || again.xml != merged.xml {
            wrong.push(format!(
                "{now}\nto {there}\n{:#?}\nmentioned {:?}\n{}again {:?}",
                lines(&merged),
                merged.left_alone,
                merged.xml.print(),
                lines(&again)
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn listen_addresses_agree() {
    let there = "<devices><graphics type='vnc' listen='0.0.0.0'><listen type='address' address='0.0.0.0'/></graphics></devices>";
    let by_attribute = "<devices><graphics type='vnc' listen='127.0.0.1'/></devices>";
    let by_child = "<devices><graphics type='vnc'><listen type='address' address='127.0.0.1'/></graphics></devices>";
    for now in [by_attribute, by_child] {
        let merged = merge(&wanted(now), &domain(there), None);
        assert_eq!(merged.changes.len(), 1, "{:?}", lines(&merged));
        let text = merged.xml.print();
        assert!(!text.contains("0.0.0.0'") || !text.contains("127.0.0.1"), "{text}");
        let same = there.replace("0.0.0.0", "127.0.0.1");
        assert_eq!(lines(&merge(&wanted(now), &domain(&same), None)), Vec::<String>::new());
    }
}
