//! Every rule: a guest that it fires on, and a near miss that it does not.

use std::collections::{BTreeMap, BTreeSet};

use super::about::{AboutIommu, HugePages, Node, Other, Reach};
use super::guests::Claim;
use super::*;
use crate::facts::pci;
use crate::modules::libvirt::values::PciAddress;
use crate::modules::libvirt::xml::parse;

/// A guest of these parts; what stands in `{…}` goes into its devices.
fn guest(inside: &str) -> Element {
    let (rest, devices) = match inside.split_once('{') {
        Some((before, rest)) => {
            let (devices, after) = rest.split_once('}').unwrap();
            (format!("{before}{after}"), devices.to_string())
        }
        None => (inside.to_string(), String::new()),
    };
    let name = if rest.contains("<name>") { "" } else { "<name>g</name>" };
    parse(&format!("<domain type='kvm'>{name}{rest}<devices>{devices}</devices></domain>")).unwrap()
}

fn rules_of(inside: &str, about: &About) -> Vec<&'static str> {
    check(&guest(inside), about).into_iter().map(|finding| finding.rule).collect()
}

const GPU: &str = "<hostdev mode='subsystem' type='pci' managed='yes'><source>\
                   <address domain='0x0000' bus='0x82' slot='0x00' function='0x0'/></source></hostdev>";
const AUDIO: &str = "<hostdev mode='subsystem' type='pci' managed='yes'><source>\
                     <address domain='0x0000' bus='0x82' slot='0x00' function='0x1'/></source></hostdev>";

/// `$G` and `$A` stand for a card and its audio function.
fn with_cards(inside: &str) -> String {
    inside.replace("$G", GPU).replace("$A", AUDIO)
}

fn fires(cases: &[(&Rule, &str, &str)], about: &About) {
    for (rule, wrong, near) in cases {
        let found = rules_of(&with_cards(wrong), about);
        assert!(found.contains(&rule.name), "{} does not fire on {wrong}: {found:?}", rule.name);
        let found = rules_of(&with_cards(near), about);
        assert!(!found.contains(&rule.name), "{} fires on {near}", rule.name);
    }
}

#[test]
fn what_the_guest_alone_tells() {
    use rules::*;
    let q35 = "<os><type machine='q35'>hvm</type>";
    let secure = format!("{q35}<loader secure='yes' type='pflash'>/usr/share/OVMF/c</loader></os>");
    let secure_i440 = secure.replace("q35", "pc");
    let smm = "<features><acpi/><smm state='on'/></features>";
    let virtiofs = "<filesystem type='mount'><driver type='virtiofs'/><source dir='/a'/><target dir='t'/></filesystem>";
    let elevens = "<name>win11</name>";
    let cases: Vec<(&Rule, String, String)> = [
        (UNKNOWN_ELEMENT, "<nope/>", "<title/>"),
        (UNKNOWN_ATTRIBUTE, "<memory nope='1'>1</memory>", "<memory unit='KiB'>1</memory>"),
        (UNKNOWN_VALUE, "<on_crash>explode</on_crash>", "<on_crash>restart</on_crash>"),
        (
            UNKNOWN_NIC_MODEL,
            "{<interface type='user'><model type='rtl9999'/></interface>}",
            "{<interface type='user'><model type='rtl8139'/></interface>}",
        ),
        (
            UNKNOWN_VALUE,
            "{<disk><driver name='kvm' type='raw'/><target dev='vda'/></disk>}",
            "{<disk><driver name='qemu' type='raw'/><target dev='vda'/></disk>}",
        ),
        (UNKNOWN_KEYMAP, "{<graphics type='vnc' keymap='xx'/>}", "{<graphics type='vnc' keymap='en-us'/>}"),
        (
            UNKNOWN_CPU_MODEL,
            "<cpu mode='custom'><model>Sky-Client</model></cpu>",
            "<cpu mode='custom'><model>Skylake-Client-v3</model></cpu>",
        ),
        (
            LEGACY_ASSIGNMENT,
            "{<hostdev mode='subsystem' type='pci'><driver name='kvm'/></hostdev>}",
            "{<hostdev mode='subsystem' type='pci'><driver name='vfio'/></hostdev>}",
        ),
        (
            IDE_ON_Q35,
            "<os><type machine='pc-q35-7.2'>hvm</type></os>{<disk><target dev='hda' bus='ide'/></disk>}",
            "<os><type machine='pc-i440fx-7.2'>hvm</type></os>{<disk><target dev='hda' bus='ide'/></disk>}",
        ),
        (
            IDE_ON_Q35,
            "<os><type machine='q35'>hvm</type></os>{<controller type='ide'/>}",
            "<os><type machine='q35'>hvm</type></os>{<disk><target dev='hda' bus='sata'/></disk>}",
        ),
        (SECURE_BOOT_WITHOUT_SMM, secure.as_str(), &format!("{secure}{smm}")),
        (
            SECURE_BOOT_WITHOUT_SMM,
            "<os firmware='efi'><type machine='q35'>hvm</type><loader secure='yes'/></os><features><smm state='off'/></features>",
            "<os firmware='efi'><type machine='q35'>hvm</type><loader secure='yes'/></os>",
        ),
        (SECURE_BOOT_WITHOUT_Q35, secure_i440.as_str(), secure.as_str()),
        (UEFI_WITHOUT_ACPI, "<os firmware='efi'/>", "<os firmware='efi'/><features><acpi/></features>"),
        (UEFI_WITHOUT_ACPI, secure.as_str(), "<os><loader type='rom'>/bios</loader></os>"),
        (
            NVRAM_TEMPLATE,
            "<os><loader type='pflash'>/opt/code.fd</loader><nvram>/v</nvram></os>",
            "<os><loader type='pflash'>/opt/code.fd</loader><nvram template='/t'>/v</nvram></os>",
        ),
        (
            BOOT_ORDER_MIXED,
            "<os><boot dev='hd'/></os>{<disk><boot order='1'/></disk>}",
            "<os><boot dev='hd'/></os>{<disk/>}",
        ),
        (
            WINDOWS_11_TPM,
            elevens,
            "<name>win11</name>{<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>}",
        ),
        (
            WINDOWS_11_TPM,
            "<name>win11</name>{<tpm model='tpm-tis'><backend type='emulator' version='1.2'/></tpm>}",
            "<name>win10</name>",
        ),
        (WINDOWS_11_SECURE_BOOT, "<name>win11</name><os/>", &format!("<name>win11</name>{secure}")),
        (WINDOWS_SOCKETS, "<name>win10</name><vcpu>12</vcpu>", "<name>fedora</name><vcpu>12</vcpu>"),
        (WINDOWS_SOCKETS, "<name>win10</name><vcpu>4</vcpu>", "<name>win2k22</name><vcpu>4</vcpu>"),
        (
            WINDOWS_SOCKETS,
            "<clock offset='localtime'/><vcpu>4</vcpu>",
            "<clock offset='localtime'/><vcpu>4</vcpu><cpu><topology sockets='1' cores='4' threads='1'/></cpu>",
        ),
        (
            WINDOWS_SOCKETS,
            "<name>win10</name><vcpu>4</vcpu><cpu><topology sockets='4' cores='1' threads='1'/></cpu>",
            "<name>win10</name><vcpu>2</vcpu>",
        ),
        (
            VIRTIO_WIN_TOO_NEW,
            "<name>win7</name>{<disk><source file='/a/virtio-win-0.1.189.iso'/></disk>}",
            "<name>win8</name>{<disk><source file='/a/virtio-win-0.1.189.iso'/></disk>}",
        ),
        (
            VIRTIO_WIN_TOO_NEW,
            "<name>win8</name>{<disk><source file='/a/virtio-win-0.1.190.iso'/></disk>}",
            "<name>win7</name>{<disk><source file='/a/virtio-win-0.1.173.iso'/></disk>}",
        ),
        (DEVICE_TWICE, "{$G$G}", "{$G$A}"),
        (BALLOON_WITH_PASSTHROUGH, "{$G}", "{$G<memballoon model='none'/>}"),
        (BALLOON_WITH_PASSTHROUGH, "{$G<memballoon model='virtio'/>}", "{<memballoon model='virtio'/>}"),
        (CPU_DEFAULT_MODEL, "{$G}", "<cpu mode='host-passthrough'/>{$G}"),
        (CPU_DEFAULT_MODEL, "<cpu mode='custom'><model>qemu64</model></cpu>{$G}", "<cpu><model>qemu64</model></cpu>"),
        (
            LOOKING_GLASS_VIDEO,
            "{<shmem name='looking-glass'/><video><model type='qxl'/></video>}",
            "{<shmem name='looking-glass'/><video><model type='none'/></video>}",
        ),
        (
            LOOKING_GLASS_VIDEO,
            "<qemu:commandline xmlns:qemu='u'><qemu:arg value='memory-backend-file,mem-path=/dev/kvmfr0'/></qemu:commandline>\
             {<video><model type='cirrus'/></video>}",
            "{<video><model type='cirrus'/></video>}",
        ),
        (
            SHMEM_SIZE,
            "{<shmem name='a'><size unit='M'>60</size></shmem>}",
            "{<shmem name='a'><size unit='M'>64</size></shmem>}",
        ),
        (
            VCPU_TOPOLOGY,
            "<vcpu>6</vcpu><cpu><topology sockets='1' cores='4' threads='1'/></cpu>",
            "<vcpu>8</vcpu><cpu><topology sockets='1' dies='1' cores='4' threads='2'/></cpu>",
        ),
        (
            VIRTIOFS_MEMORY,
            &format!("{{{virtiofs}}}"),
            &format!("<memoryBacking><access mode='shared'/></memoryBacking>{{{virtiofs}}}"),
        ),
        (
            VIRTIOFS_MEMORY,
            &format!("<memoryBacking><hugepages/></memoryBacking>{{{virtiofs}}}"),
            &format!("<cpu><numa><cell id='0' memAccess='shared'/></numa></cpu>{{{virtiofs}}}"),
        ),
        (
            DUPLICATE_TARGET,
            "{<disk><target dev='vda'/></disk><disk><target dev='vda'/></disk>}",
            "{<disk><target dev='vda'/></disk><disk><target dev='vdb'/></disk>}",
        ),
        (
            DUPLICATE_MAC,
            "{<interface><mac address='52:54:00:00:00:0a'/></interface><interface><mac address='52:54:00:00:00:0A'/></interface>}",
            "{<interface><mac address='52:54:00:00:00:0a'/></interface><interface><mac address='52:54:00:00:00:0b'/></interface>}",
        ),
        (
            OPEN_DISPLAY,
            "{<graphics type='vnc' listen='0.0.0.0'/>}",
            "{<graphics type='vnc' listen='0.0.0.0' passwd='x'/>}",
        ),
        (
            OPEN_DISPLAY,
            "{<graphics type='spice'><listen type='address' address='::'/></graphics>}",
            "{<graphics type='spice'><listen type='address' address='127.0.0.1'/></graphics>}",
        ),
        (
            IMAGE_UNREACHABLE,
            "{<disk><source file='/root/img/a.qcow2'/></disk>}",
            "{<disk><source file='/var/lib/libvirt/images/a.qcow2'/></disk>}",
        ),
    ]
    .into_iter()
    .map(|(rule, wrong, near)| (rule, wrong.to_string(), near.to_string()))
    .collect();
    let cases: Vec<(&Rule, &str, &str)> = cases.iter().map(|(r, w, n)| (*r, w.as_str(), n.as_str())).collect();
    fires(&cases, &About::default());
}

fn address(text: &str) -> PciAddress {
    PciAddress::parse(text).unwrap()
}

fn device(text: &str, class: u32, id: (u16, u16), driver: &str, group: u32) -> pci::Device {
    let full = address(text).to_string();
    pci::Device {
        address: pci::PciAddress::parse_full(&full).unwrap(),
        class,
        id: pci::PciId { vendor: id.0, device: id.1 },
        subsystem: None,
        revision: None,
        driver: Some(driver.to_string()).filter(|driver| !driver.is_empty()),
        driver_override: None,
        can_override: true,
        numa_node: Some(1),
        local_cpus: None,
        boot_vga: None,
        iommu_group: Some(group),
        reset_methods: None,
        can_reset: true,
        bars: Vec::new(),
        physical_function: None,
        vfs_total: 0,
        vfs: 0,
        interfaces: Vec::new(),
        real_path: String::new(),
    }
}

/// The seed's card on a machine of two nodes.
fn machine() -> About {
    let names = |list: &[&str]| Some(list.iter().map(|name| (*name).to_string()).collect::<BTreeSet<String>>());
    let node = |number, cpus: &str| Node { number, memory: Some(16 << 30), cpus: cpus::set(cpus).unwrap() };
    let siblings = |cpu: u32| (cpu, BTreeSet::from([cpu % 4, cpu % 4 + 4]));
    About {
        pci: Some(vec![
            device("82:00.0", 0x03_0000, (0x10de, 0x1430), "nouveau", 38),
            device("82:00.1", 0x04_0300, (0x10de, 0x0fba), "snd_hda_intel", 38),
        ]),
        functions: Some([address("82:00.0"), address("82:00.1"), address("0a:00.0")].into()),
        iommu: Some(AboutIommu { on: true, interrupts: Some(true), reserved: BTreeSet::new() }),
        usb: Some([(0x046d, 0xc52b)].into()),
        memory: Some(32 << 30),
        nodes: Some(vec![node(0, "0,2,4,6"), node(1, "1,3,5,7")]),
        cpus: Some((0..8).map(siblings).collect()),
        hugepages: Some(vec![
            HugePages { node: None, size: 2 << 20, count: 512 },
            HugePages { node: Some(0), size: 2 << 20, count: 512 },
            HugePages { node: Some(1), size: 2 << 20, count: 0 },
        ]),
        machines: names(&["pc", "pc-i440fx-7.2", "q35", "pc-q35-7.2"]),
        bridges: names(&["br0"]),
        networks: names(&["default"]),
        pools: names(&["default"]),
        swtpm: Some(false),
        variables: Some(true),
        ..About::default()
    }
}

#[test]
fn what_a_machine_tells() {
    use rules::*;
    let usb = |product: &str, policy: &str| {
        format!(
            "{{<hostdev mode='subsystem' type='usb'><source{policy}><vendor id='0x046d'/><product id='0x{product}'/></source></hostdev>}}"
        )
    };
    let pages = |memory: &str, nodes: &str| {
        format!("<memory unit='GiB'>{memory}</memory><memoryBacking><hugepages/></memoryBacking>{nodes}")
    };
    let on_node_1 = "<numatune><memory mode='strict' nodeset='1'/></numatune>";
    let pin = |pins: &[(u32, &str)], threads: u32| {
        let pins: String = pins.iter().map(|(v, c)| format!("<vcpupin vcpu='{v}' cpuset='{c}'/>")).collect();
        format!("<cputune>{pins}</cputune><cpu mode='maximum'><topology threads='{threads}'/></cpu>")
    };
    let by_hand = GPU.replace("yes", "no");
    let cases = [
        (
            MACHINE_UNKNOWN,
            "<os><type machine='pc-q35-rhel9.4.0'>hvm</type></os>".to_string(),
            "<os><type machine='pc-q35-7.2'>hvm</type></os>".to_string(),
        ),
        (
            DEVICE_MISSING,
            "{<hostdev mode='subsystem' type='pci'><source><address bus='0x83' slot='0'/></source></hostdev>}".into(),
            "{$G}".into(),
        ),
        (DEVICE_MISSING, usb("c52c", ""), usb("c52b", "")),
        (DEVICE_MISSING, usb("c52c", ""), usb("c52c", " startupPolicy='optional'")),
        (CARD_INCOMPLETE, "{$G}".into(), "{$G$A}".into()),
        (DRIVER_NOT_VFIO, format!("{{{by_hand}}}"), "{$G}".into()),
        (GROUP_NOT_VIABLE, "{$G}".into(), "{$G$A}".into()),
        (MEMORY_HOST, "<memory unit='GiB'>33</memory>".into(), "<memory unit='GiB'>32</memory>".into()),
        (
            MEMORY_NODE,
            format!("<memory unit='GiB'>17</memory>{on_node_1}"),
            format!("<memory unit='GiB'>17</memory>{}", on_node_1.replace("'1'", "'0-1'")),
        ),
        (
            MEMORY_NODE,
            format!("<memory unit='GiB'>17</memory>{on_node_1}"),
            format!("<memory unit='GiB'>17</memory>{}", on_node_1.replace("strict", "preferred")),
        ),
        (HUGEPAGES, pages("2", ""), pages("1", "")),
        (HUGEPAGES, pages("1", on_node_1), pages("1", &on_node_1.replace("'1'", "'0'"))),
        (
            HUGEPAGES,
            pages("1", "").replace("<hugepages/>", "<hugepages><page size='1' unit='G'/></hugepages>"),
            pages("1", "").replace("<hugepages/>", "<hugepages><page size='2' unit='M'/></hugepages>"),
        ),
        (CPU_MISSING, pin(&[(0, "9")], 1), pin(&[(0, "7")], 1)),
        (CPU_MISSING, "<vcpu cpuset='0-8'>1</vcpu>".into(), "<vcpu cpuset='0-7'>1</vcpu>".into()),
        (
            CPU_NODE,
            format!("{}{{$G}}", pin(&[(0, "0"), (1, "4")], 1)),
            format!("{}{{$G}}", pin(&[(0, "1"), (1, "5")], 1)),
        ),
        (CPU_SIBLINGS, pin(&[(0, "1")], 1), pin(&[(0, "1"), (1, "5")], 1)),
        (
            CPU_SIBLINGS,
            pin(&[(0, "1")], 1),
            "<cputune><vcpupin vcpu='0' cpuset='1'/><emulatorpin cpuset='5'/></cputune>".into(),
        ),
        (
            CPU_SIBLINGS,
            pin(&[(0, "1"), (1, "2"), (2, "5"), (3, "6")], 2),
            pin(&[(0, "1"), (1, "5"), (2, "2"), (3, "6")], 2),
        ),
        (
            BRIDGE_MISSING,
            "{<interface type='bridge'><source bridge='br1'/></interface>}".into(),
            "{<interface type='bridge'><source bridge='br0'/></interface>}".into(),
        ),
        (
            NETWORK_MISSING,
            "{<interface type='network'><source network='lan'/></interface>}".into(),
            "{<interface type='network'><source network='default'/></interface>}".into(),
        ),
        (
            POOL_MISSING,
            "{<disk type='volume'><source pool='fast' volume='a'/></disk>}".into(),
            "{<disk type='volume'><source pool='default' volume='a'/></disk>}".into(),
        ),
        (
            SWTPM_MISSING,
            "{<tpm model='tpm-crb'><backend type='emulator'/></tpm>}".into(),
            "{<tpm model='tpm-crb'><backend type='passthrough'/></tpm>}".into(),
        ),
    ];
    let cases: Vec<(&Rule, &str, &str)> = cases.iter().map(|(r, w, n)| (*r, w.as_str(), n.as_str())).collect();
    fires(&cases, &machine());
    // And nothing of it without a machine.
    for (rule, wrong, _) in cases {
        let found = rules_of(&with_cards(wrong), &About::default());
        assert!(!found.contains(&rule.name), "{} fires without facts", rule.name);
    }
}

#[test]
fn what_another_machine_tells() {
    use rules::*;
    let has = |about: &About, inside: &str, rule: &Rule| rules_of(&with_cards(inside), about).contains(&rule.name);
    let both = "{$G$A}";
    let fine = machine();
    for rule in [IOMMU_OFF, INTERRUPT_REMAPPING, FIRMWARE_REGION, BOOT_DISPLAY, GROUP_NOT_VIABLE, NVIDIA_ERROR_43] {
        assert!(!has(&fine, both, rule), "{}", rule.name);
    }
    let mut off = machine();
    off.iommu = Some(AboutIommu { on: false, ..AboutIommu::default() });
    assert!(has(&off, both, IOMMU_OFF) && !has(&off, "", IOMMU_OFF));
    let mut unmapped = machine();
    unmapped.iommu = Some(AboutIommu { on: true, interrupts: Some(false), reserved: [38].into() });
    assert!(has(&unmapped, both, INTERRUPT_REMAPPING) && has(&unmapped, both, FIRMWARE_REGION));
    let mut first = machine();
    first.pci.as_mut().unwrap()[0].boot_vga = Some(true);
    assert!(has(&first, both, BOOT_DISPLAY));
    // Bridges, devices without a driver and those that wait for vfio-pci do not keep a group.
    for (driver, class, waits, viable) in [
        ("igb", 0x02_0000, false, false),
        ("pcieport", 0x06_0400, false, true),
        ("", 0x02_0000, false, true),
        ("igb", 0x02_0000, true, true),
        ("vfio-pci", 0x02_0000, false, true),
    ] {
        let mut crowded = machine();
        let mut other = device("83:00.0", class, (0x8086, 0x1521), driver, 38);
        other.driver_override = waits.then(|| "vfio-pci".to_string());
        crowded.pci.as_mut().unwrap().push(other);
        assert_eq!(has(&crowded, both, GROUP_NOT_VIABLE), !viable, "{driver} {class:x} {waits}");
    }
    // Only old cards, in Windows, that is not told.
    let mut fermi = machine();
    fermi.pci.as_mut().unwrap()[0].id.device = 0x1201;
    let hidden = "<name>win10</name><features><kvm><hidden state='on'/></kvm></features>{$G$A}";
    assert!(has(&fermi, "<name>win10</name>{$G$A}", NVIDIA_ERROR_43));
    assert!(!has(&fermi, both, NVIDIA_ERROR_43) && !has(&fermi, hidden, NVIDIA_ERROR_43));
    assert!(!has(&fine, "<name>win10</name>{$G$A}", NVIDIA_ERROR_43));
    let half = hidden.replace("<kvm>", "<hyperv><relaxed state='on'/></hyperv><kvm>");
    assert!(has(&fermi, &half, NVIDIA_ERROR_43));
    // Functions of a chipset in groups of their own are no card.
    let mut chipset = machine();
    for (at, device) in chipset.pci.as_mut().unwrap().iter_mut().enumerate() {
        device.class = 0x0c_0330;
        device.iommu_group = Some(at as u32);
    }
    assert!(has(&fine, "{$G}", CARD_INCOMPLETE) && !has(&chipset, "{$G}", CARD_INCOMPLETE));
    // A network card is no reason for a faster CPU, where it is known to be one.
    let mut nic = machine();
    nic.pci.as_mut().unwrap()[0].class = 0x02_0000;
    assert!(!has(&nic, "{$G}", CPU_DEFAULT_MODEL) && has(&fine, "{$G}", CPU_DEFAULT_MODEL));
    let mut unknown = machine();
    unknown.variables = Some(false);
    let loader = "<os><loader type='pflash'>/usr/share/OVMF/c.fd</loader><nvram>/v</nvram></os>";
    assert!(has(&unknown, loader, NVRAM_TEMPLATE) && !has(&fine, loader, NVRAM_TEMPLATE));
}

#[test]
fn what_stands_at_paths() {
    use rules::*;
    let reach = |exists: bool, blocked: bool, label: bool| Reach {
        exists,
        blocked: blocked.then(|| ("/root".to_string(), "why".to_string())),
        label: label.then(|| ("/root".to_string(), "admin_home_t".to_string())),
    };
    let path = "/root/a";
    for (rule, inside) in [
        (IMAGE_MISSING, "{<disk><source file='/root/a'/></disk>}"),
        (IMAGE_MISSING, "{<hostdev mode='subsystem' type='pci'><rom file='/root/a'/></hostdev>}"),
        (IMAGE_MISSING, "<os><kernel>/root/a</kernel></os>"),
        (EMULATOR_MISSING, "{<emulator>/root/a</emulator>}"),
        (LOADER_MISSING, "<os><loader type='pflash'>/root/a</loader></os>"),
        (EVDEV_MISSING, "{<input type='evdev'><source dev='/root/a'/></input>}"),
    ] {
        let about = |reach: Reach| About { paths: BTreeMap::from([(path.to_string(), reach)]), ..About::default() };
        assert!(rules_of(inside, &about(reach(false, false, false))).contains(&rule.name), "{}", rule.name);
        assert!(!rules_of(inside, &about(reach(true, false, false))).contains(&rule.name), "{}", rule.name);
        assert!(!rules_of(inside, &About::default()).contains(&rule.name), "{}", rule.name);
        if rule == IMAGE_MISSING {
            let optional = inside.replace("<source file", "<source startupPolicy='optional' file");
            let found = rules_of(&optional, &about(reach(false, false, false)));
            assert_eq!(found.contains(&rule.name), optional == inside, "{optional}");
            let found = rules_of(inside, &about(reach(true, true, true)));
            assert!(found.contains(&IMAGE_UNREACHABLE.name) && found.contains(&IMAGE_SELINUX.name), "{found:?}");
        }
    }
}

#[test]
fn guests_side_by_side() {
    use rules::*;
    let one = guest("<uuid>0d0d</uuid>{$G<disk type='file'><source file='/a'/></disk>}".replace("$G", GPU).as_str());
    let text = one.print().replace("<name>g</name>", "<name>h</name>").replace("0d0d", "0d0e");
    let two = parse(&text).unwrap();
    let look = |first: &Element, autostart: bool| -> Vec<&'static str> {
        let all = [
            Guest { source: "one.xml", domain: first, autostart, os: None },
            Guest { source: "two.xml", domain: &two, autostart: true, os: None },
        ];
        let answers = guests(&all);
        assert_eq!(answers[0].0, "one.xml");
        answers[0].1.iter().map(|finding| finding.rule).collect()
    };
    let found = look(&one, false);
    for rule in [DEVICE_SHARED, IMAGE_SHARED] {
        assert!(found.contains(&rule.name), "{found:?}");
    }
    for rule in [DEVICE_SHARED_AUTOSTART, DUPLICATE_NAME, DUPLICATE_MAC] {
        assert!(!found.contains(&rule.name), "{found:?}");
    }
    let found = look(&one, true);
    assert!(found.contains(&DEVICE_SHARED_AUTOSTART.name) && !found.contains(&DEVICE_SHARED.name), "{found:?}");
    assert!(look(&two, false).contains(&DUPLICATE_NAME.name));
    let apart = parse(&one.print().replace("0x82", "0x83").replace("'/a'", "'/b'")).unwrap();
    let found = look(&apart, true);
    assert!(!found.contains(&DEVICE_SHARED_AUTOSTART.name) && !found.contains(&IMAGE_SHARED.name), "{found:?}");
    let shareable = parse(&one.print().replace("</disk>", "<shareable/></disk>")).unwrap();
    assert!(!look(&shareable, false).contains(&IMAGE_SHARED.name));
}

#[test]
fn claims_are_read_alike_from_text_and_tree() {
    let text = guest(&with_cards(
        "{$G$A<hostdev mode='subsystem' type='usb'><source><vendor id='0x046d'/><product id='0xc52b'/></source></hostdev>\
         <hostdev mode='subsystem' type='mdev' model='vfio-pci'><source><address uuid='C2177883-F1BB-47F0-914D-32A22E3A8804'/></source></hostdev>\
         <interface type='hostdev'><source><address type='pci' domain='0' bus='1' slot='0x10' function='2'/></source></interface>}",
    ))
    .print();
    let claims = guests::claims(&parse(&text).unwrap());
    let shown: Vec<String> = claims.iter().map(ToString::to_string).collect();
    assert_eq!(
        shown,
        ["0000:82:00.0", "0000:82:00.1", "046d:c52b", "mdev c2177883-f1bb-47f0-914d-32a22e3a8804", "0000:01:10.2"]
    );
    assert_eq!(guests::claims_in(&text), claims);
    assert!(claims.iter().filter(|claim| !matches!(claim, Claim::Mdev(_))).all(|claim| claim.may_be_in(&text)));
    assert!(!Claim::Pci(address("99:00.0")).may_be_in(&text));
}

#[test]
fn silence_is_by_name_and_a_wrong_name_is_told() {
    let found = check(&guest("<nope/>{<graphics type='vnc' listen='0.0.0.0'/>}"), &About::default());
    let silenced = silence(found, &["open-display".to_string()]).unwrap();
    assert_eq!(silenced.iter().map(|finding| finding.rule).collect::<Vec<_>>(), ["unknown-element"]);
    let error = silence(Vec::new(), &["open-dispaly".to_string()]).unwrap_err();
    assert_eq!(error.hint.as_deref(), Some("did you mean `open-display`?"));
}

const WIN8: &str = include_str!("../../../../tests/cases/seed/win8.xml");
const WIN7: &str = include_str!("../../../../tests/cases/seed/win7.xml");
const WIN8_DUMP: &str = include_str!("../../../../tests/cases/seed/win8.dump.xml");
const WIN7_DUMP: &str = include_str!("../../../../tests/cases/seed/win7.dump.xml");

#[test]
fn what_is_wrong_in_the_seeds_files_is_named() {
    let unknown = |text: &str| -> Vec<(String, String)> {
        let found = check(&parse(text).unwrap(), &About::default());
        // The seed's guests must go on: all of it is warnings.
        assert!(found.iter().all(|finding| finding.severity == Severity::Warning), "{found:#?}");
        found.into_iter().filter(of_schema).map(|finding| (finding.place, finding.fix)).collect()
    };
    let places = |text| unknown(text).into_iter().map(|(place, _)| place).collect::<Vec<String>>();
    assert_eq!(
        places(WIN8),
        [
            "domain/devices/hostdev[0000:82:00.0]/driver@multifunction",
            "domain/devices/hostdev[0000:82:00.0]/source/address@type"
        ]
    );
    assert_eq!(
        places(WIN7),
        [
            "domain/devices/disk[hda]@index",
            "domain/devices/disk[vda]@index",
            "domain/devices/disk[hdb]@index",
            "domain/devices/hostdev[0000:82:00.0]/source/address@type",
        ]
    );
    let fixes: Vec<String> = unknown(WIN8).into_iter().map(|(_, fix)| fix).collect();
    assert!(fixes[0].contains("multifunction='on'") && fixes[1].starts_with("leave it out"), "{fixes:?}");
    assert!(places(WIN8_DUMP).is_empty() && places(WIN7_DUMP).is_empty());
}

#[test]
fn others_of_the_machine_count_by_what_they_claim() {
    let others = vec![Other {
        name: "h".to_string(),
        autostart: true,
        claims: vec![Claim::Pci(address("82:00.0")), Claim::Usb(1, 2)],
    }];
    let about = |autostart| About { others: Some(others.clone()), autostart: Some(autostart), ..About::default() };
    let inside = with_cards("{$G}");
    assert!(rules_of(&inside, &about(false)).contains(&rules::DEVICE_SHARED.name));
    assert!(rules_of(&inside, &about(true)).contains(&rules::DEVICE_SHARED_AUTOSTART.name));
    let inside = with_cards("{$A}");
    assert!(!rules_of(&inside, &about(true)).contains(&rules::DEVICE_SHARED_AUTOSTART.name));
}

/// Every rule has a guest that it fires on somewhere above: this counts them.
#[test]
fn no_rule_is_without_a_case() {
    let text = include_str!("tests.rs");
    let source = include_str!("rules.rs");
    for rule in RULES {
        let constant = source.lines().find(|line| line.contains(&format!("\"{}\"", rule.name))).unwrap();
        let constant = constant.split_whitespace().next().unwrap();
        assert!(text.contains(constant), "{} has no case", rule.name);
    }
}

/// The corpus of guests that a real libvirt takes: no rule that stops may stop them, and the schema knows all of them.
#[test]
fn what_libvirt_takes_is_not_refused() {
    use crate::modules::libvirt::domain::LibvirtDomain;
    use crate::modules::libvirt::domain::render::{ChosenFirmware, Context, render};
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/guests/corpus");
    let mut looked_at = 0;
    let mut wrong = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        // Some are definitions as people have them already.
        let definition = if path.extension().is_some_and(|end| end == "xml") {
            serde_json::json!({"name": "by-hand", "definition": text})
        } else {
            serde_yaml::from_str(&text).unwrap()
        };
        let domain: LibvirtDomain = serde_json::from_value(definition).unwrap();
        let context = Context {
            firmware: Some(ChosenFirmware {
                loader: "/usr/share/OVMF/OVMF_CODE_4M.fd".to_string(),
                nvram_template: Some("/usr/share/OVMF/OVMF_VARS_4M.fd".to_string()),
                format: "raw".to_string(),
            }),
            ..Context::default()
        };
        let Ok(wanted) = render(&domain, &context) else { continue };
        looked_at += 1;
        let about = About { os: domain.os.clone(), ..About::default() };
        let found = check(&wanted.xml, &about);
        wrong.extend(
            found
                .into_iter()
                .filter(|finding| of_schema(finding) || finding.severity == Severity::Error)
                .map(|finding| format!("{}: {finding}", path.display())),
        );
    }
    assert!(looked_at > 35, "only {looked_at} guests were looked at");
    assert_eq!(wrong, Vec::<String>::new());
}
