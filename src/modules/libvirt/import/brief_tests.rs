//! Short words where they fit, and long ones where they nearly do.

use std::time::{Duration, Instant};

use super::*;

/// A guest as libvirt prints one of Windows, with parts of it left open.
fn guest(cpu: &str, features: &str, clock: &str, devices: &str) -> String {
    format!(
        "<domain type='kvm'><name>w</name><uuid>3375d1f8-c0a6-4cdf-bb57-2cdd9f7ae7a6</uuid>\
         <memory unit='KiB'>8388608</memory><currentMemory unit='KiB'>8388608</currentMemory><vcpu>4</vcpu>\
         <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type>\
         <loader readonly='yes' type='pflash'>/usr/share/OVMF/OVMF_CODE_4M.fd</loader>\
         <nvram template='/usr/share/OVMF/OVMF_VARS_4M.fd'>/var/lib/libvirt/qemu/nvram/w_VARS.fd</nvram></os>\
         <features><acpi/><apic/>{features}</features>\
         <cpu mode='host-passthrough' check='none' migratable='on'>{cpu}</cpu>{clock}\
         <pm><suspend-to-mem enabled='no'/><suspend-to-disk enabled='no'/></pm>\
         <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
         <controller type='usb' index='0' model='qemu-xhci' ports='15'>\
         <address type='pci' domain='0x0000' bus='0x02' slot='0x00' function='0x0'/></controller>{devices}</devices></domain>"
    )
}

const CPU: &str = "<topology sockets='1' dies='1' cores='4' threads='1'/>";
const HYPERV: &str = "<hyperv mode='custom'><relaxed state='on'/><vapic state='on'/><spinlocks state='on' retries='8191'/>\
    <vpindex state='on'/><runtime state='on'/><synic state='on'/><stimer state='on'/><frequencies state='on'/>\
    <tlbflush state='on'/><ipi state='on'/></hyperv><vmport state='off'/>";
const CLOCK: &str = "<clock offset='localtime'><timer name='rtc' tickpolicy='catchup'/>\
    <timer name='pit' tickpolicy='delay'/><timer name='hpet' present='no'/>\
    <timer name='hypervclock' present='yes'/></clock>";

fn imported(xml: &str, short: bool) -> Params {
    let element = read(xml).unwrap();
    lossless(&element).unwrap();
    let imported = import(&element, Options { short }).unwrap();
    assert!(!imported.params.contains_key("definition"), "{:?}", imported.params);
    imported.params
}

fn long(xml: &str) -> Params {
    imported(xml, false)
}

#[test]
fn what_a_preset_chooses_is_said_by_its_name() {
    let params = long(&guest(CPU, HYPERV, CLOCK, "<memballoon model='none'/>"));
    assert_eq!(params["os"], "windows-10");
    for gone in ["features", "clock", "topology", "cpu", "sleep"] {
        assert!(!params.contains_key(gone), "{gone}: {params:#?}");
    }
    // What belongs to this guest stays, and what the preset would give it is kept away.
    for stays in ["uuid", "machine", "loader", "emulator", "graphics", "channels", "memballoon"] {
        assert!(params.contains_key(stays), "{stays}: {params:#?}");
    }
    // What differs can be said beside it.
    let other = long(&guest(CPU, &HYPERV.replace("8191", "4095"), CLOCK, "<memballoon model='none'/>"));
    assert_eq!((&other["os"], &other["features"]), (&json!("windows-10"), &json!({"hyperv": {"spinlocks": 4095}})));
    // On a machine that has UEFI too, it is the firmware that it was.
    let context = Context { firmware: Some(some_firmware()), ..Context::default() };
    let text = rendered_in(&params, &context).unwrap().xml.print();
    assert!(text.contains("OVMF_CODE_4M") && !text.contains("/firmware"), "{text}");
}

#[test]
fn nearly_a_preset_is_none() {
    let without = |part: &str, from: &str| {
        assert!(from.contains(part));
        from.replacen(part, "", 1)
    };
    let with =
        |features: &str, clock: &str, cpu: &str| long(&guest(cpu, features, clock, "<memballoon model='none'/>"));
    for (what, params) in [
        ("an enlightenment less", with(&without("<tlbflush state='on'/>", HYPERV), CLOCK, CPU)),
        ("a clock without timers", with(HYPERV, "<clock offset='localtime'/>", CPU)),
        ("no topology", with(HYPERV, CLOCK, "")),
        (
            "more sockets than Windows has a licence for",
            with(HYPERV, CLOCK, &CPU.replace("sockets='1'", "sockets='4'").replace("cores='4'", "cores='1'")),
        ),
    ] {
        let os = params.get("os").and_then(Value::as_str).unwrap_or_default();
        // What is left out of one may be just what an older one has; it must not be taken for this one.
        assert_ne!(os, "windows-10", "{what}: {params:#?}");
    }
}

#[test]
fn a_system_that_is_told_is_that_one() {
    let told = |id: &str| {
        let metadata = format!(
            "<metadata><libosinfo:libosinfo xmlns:libosinfo='http://libosinfo.org/xmlns/libvirt/domain/1.0'>\
             <libosinfo:os id='{id}'/></libosinfo:libosinfo></metadata><memory unit"
        );
        let xml = guest(CPU, HYPERV, CLOCK, "<memballoon model='none'/>").replacen("<memory unit", &metadata, 1);
        long(&xml).get("os").cloned().unwrap_or_default()
    };
    assert_eq!(told("http://microsoft.com/win/10"), "windows-10");
    assert_eq!(told("http://microsoft.com/win/2k22"), "windows-server-2022");
    // What Windows XP needs no preset knows, and Debian is no Windows.
    assert_ne!(told("http://microsoft.com/win/xp"), "windows-10");
    assert_ne!(told("http://debian.org/debian/12"), "windows-10");
}

/// Functions of a host's device: number of the host's function, the guest's bus, slot and function, more attributes.
fn functions(list: &[(u8, u8, u8, u8)]) -> String {
    list.iter()
        .map(|(host, bus, slot, function)| {
            let multifunction = if *function == 0 { " multifunction='on'" } else { "" };
            format!(
                "<hostdev mode='subsystem' type='pci' managed='yes'><driver name='vfio'/><source>\
                 <address domain='0x0000' bus='0x82' slot='0x00' function='{host:#x}'/></source>\
                 <address type='pci' domain='0x0000' bus='{bus:#04x}' slot='{slot:#04x}' function='{function:#x}'{multifunction}/>\
                 </hostdev>"
            )
        })
        .collect()
}

fn plain(devices: &str) -> String {
    guest("", "", "<clock offset='utc'/>", &format!("{devices}<memballoon model='none'/>"))
}

#[test]
fn a_whole_card_is_one() {
    let both = plain(&functions(&[(0, 5, 0, 0), (1, 5, 0, 1)]));
    let params = long(&both);
    assert!(!params.contains_key("pci"), "{params:#?}");
    let card = json!([{"address": "0000:82:00.0", "functions": [0, 1], "guest_slot": "05:00"}]);
    assert_eq!(params["gpus"], card);
    // Where the guest is, its place need not be said.
    let params = imported(&both, true);
    assert_eq!(params["gpus"], json!([{"address": "0000:82:00.0", "functions": [0, 1]}]), "{params:#?}");
    // One of whose functions some are not given away: those that are.
    let params = long(&plain(&functions(&[(0, 5, 0, 0), (2, 5, 0, 2)])));
    assert_eq!(params["gpus"][0]["functions"], json!([0, 2]));
    // The machine's card has more functions than the guest has: still those that are said.
    let address = |function| crate::modules::libvirt::values::PciAddress { domain: 0, bus: 0x82, slot: 0, function };
    let card = render::Card { functions: (0..4).map(address).collect(), numa_node: None };
    let context = Context { gpus: vec![card], ..Context::default() };
    let given = rendered_in(&params, &context).unwrap().xml;
    assert_eq!(given.get("devices").unwrap().named("hostdev").count(), 2);
}

#[test]
fn nearly_a_card_is_single_functions() {
    for (what, devices) in [
        ("one function, of which the machine's card may have more", functions(&[(0, 5, 0, 0)])),
        ("two places", functions(&[(0, 5, 0, 0), (1, 6, 0, 0)])),
        ("other numbers in the guest", functions(&[(0, 5, 0, 1), (1, 5, 0, 0)])),
        (
            "one that is not managed",
            functions(&[(0, 5, 0, 0), (1, 5, 0, 1)]).replacen("managed='yes'", "managed='no'", 1),
        ),
        (
            "a ROM of the second",
            functions(&[(0, 5, 0, 0), (1, 5, 0, 1)])
                .replace("function='0x1'/></source>", "function='0x1'/></source><rom bar='off'/>"),
        ),
    ] {
        for short in [false, true] {
            let params = imported(&plain(&devices), short);
            assert!(!params.contains_key("gpus") && params.contains_key("pci"), "{what}: {params:#?}");
        }
    }
}

#[test]
fn looking_glass_and_what_only_looks_like_it() {
    let with = |shmem: &str| long(&plain(shmem));
    let plain_one = "<shmem name='looking-glass'><model type='ivshmem-plain'/><size unit='M'>64</size></shmem>";
    assert_eq!(with(plain_one)["looking_glass"], "64 MiB");
    let placed = plain_one.replace("</shmem>", "<address type='pci' bus='0x08' slot='0x01'/></shmem>");
    let params = with(&placed);
    assert_eq!(params["looking_glass"]["size"], "64 MiB");
    assert!(params["looking_glass"]["xml"].as_str().unwrap().contains("0x08"), "{params:#?}");
    for other in [
        plain_one.replace("looking-glass", "scream"),
        plain_one.replace("ivshmem-plain", "ivshmem-doorbell"),
        plain_one.replace("name='looking-glass'", "name='looking-glass' role='peer'"),
        plain_one.replace("'M'>64", "'M'>48"),
    ] {
        let params = with(&other);
        assert!(!params.contains_key("looking_glass"), "{other}: {params:#?}");
        assert!(params["xml"].as_str().unwrap().contains("shmem"), "{params:#?}");
    }
    // Two of them: the one is Looking Glass's, the other is not.
    let both = format!("{plain_one}{}", plain_one.replace("looking-glass", "scream"));
    let params = with(&both);
    assert!(params["xml"].as_str().unwrap().contains("scream"), "{params:#?}");
}

#[test]
fn looking_glass_of_the_kernel_module() {
    let described = |glass: Value| {
        let mut params = long(&plain(""));
        params.insert("looking_glass".into(), glass);
        rendered(&params).unwrap().xml.print()
    };
    let xml = described(json!({"backend": "kvmfr", "size": "128 MiB"}));
    let params = long(&xml);
    assert_eq!(params["looking_glass"], json!({"size": "128 MiB", "backend": "kvmfr"}));
    assert!(!params.contains_key("qemu_args"), "{params:#?}");
    // With another id, or with arguments before it, it stays as it is.
    let params = long(&xml.replace("looking-glass", "lg"));
    assert!(params.contains_key("qemu_args") && !params.contains_key("looking_glass"), "{params:#?}");
    let params = long(&xml.replace("<qemu:commandline>", "<qemu:commandline><qemu:arg value='-nodefaults'/>"));
    assert!(params.contains_key("qemu_args") && !params.contains_key("looking_glass"), "{params:#?}");
}

#[test]
fn a_way_out_for_sound_that_others_stand_beside_stays() {
    let spice = "<graphics type='spice' autoport='yes'><listen type='address'/></graphics>\
                 <sound model='ich9'><audio id='1'/></sound><sound model='ac97'><audio id='2'/></sound>\
                 <audio id='1' type='spice'/>";
    let params = long(&plain(&format!("{spice}<audio id='2' type='alsa'/>")));
    assert_eq!(params["audio"].as_array().unwrap().len(), 2, "{params:#?}");
    // Alone it is what libvirt adds.
    let params = long(&plain(&spice.replace("<sound model='ac97'><audio id='2'/></sound>", "")));
    assert!(!params.contains_key("audio"), "{params:#?}");
}

/// What is tried must not make people wait. Without optimisation it takes ten times as long as it should.
#[test]
fn trying_does_not_take_long() {
    let mut devices = functions(&[(0, 5, 0, 0), (1, 5, 0, 1)]);
    for at in 0..8u8 {
        let letter = char::from(b'a' + at);
        devices.push_str(&format!(
            "<disk type='file' device='disk'><driver name='qemu' type='qcow2' cache='none'/><source file='/{letter}'/>\
             <target dev='vd{letter}' bus='virtio'/><address type='pci' bus='0x1{at}' slot='0x00'/></disk>"
        ));
    }
    let xml = read(&guest(CPU, HYPERV, CLOCK, &devices)).unwrap();
    let begun = Instant::now();
    import(&xml, Options::default()).unwrap();
    println!("{:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
}
