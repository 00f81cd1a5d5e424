use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;

const WIN8_DUMP: &str = include_str!("../../../../tests/cases/seed/win8.dump.xml");
const WIN7_DUMP: &str = include_str!("../../../../tests/cases/seed/win7.dump.xml");

fn domain(text: &str) -> Element {
    xml::parse(text).unwrap()
}

fn text(xml: &str, options: Options) -> String {
    let imported = import(&domain(xml), options).unwrap();
    yaml(&imported.params, 0, &Comments::new())
}

#[test]
fn the_seeds_guests_in_a_dozen_lines() {
    let short = text(WIN8_DUMP, Options { short: true });
    assert_eq!(
        short,
        "name: win8\nmemory: 16 GiB\nvcpus: 4\nmachine: pc\nfirmware: ovmf\nboot: [cdrom, hd]\n\
         features: {pae: true, kvm_hidden: true}\nclock: localtime\ndisks:\n  \
         - {path: /root/img/win8.qcow2, target: vda, format: qcow2}\ncdroms:\n  \
         - {path: /root/img/cn_windows_8_x64_dvd_915407.iso, target: hda}\n  \
         - {path: /root/img/virtio-win-0.1.126.iso, target: hdb}\ninterfaces:\n  - {bridge: br0}\ninputs: [tablet]\n\
         pci: [\"0000:82:00.0\"]\nusb: [\"0101:0007\", \"5c0a:8502\"]\ngraphics:\n  \
         - {type: vnc, listen: \"0.0.0.0\", keymap: en-us}\nvideo: [cirrus]\n"
    );
    for dump in [WIN8_DUMP, WIN7_DUMP] {
        lossless(&domain(dump)).unwrap();
        let long = text(dump, Options::default());
        // What a guest of Windows would take for new hardware stays.
        let uuid = domain(dump).text_at(&["uuid"]).unwrap();
        for part in [uuid.as_str(), "52:54:00:", "slot='0x04'", "slot='0x05'", "slot='0x06'", "/usr/libexec/qemu-kvm"] {
            assert!(long.contains(part), "{part}: {long}");
        }
        // What libvirt adds to every PC does not.
        for part in ["ps2", "piix3", "pci-root", "on_poweroff", "<audio", "qemu64", "readonly"] {
            assert!(!long.contains(part), "{part}: {long}");
        }
    }
}

/// Every domain among the files of the tests, also those that other rooms bring.
fn files() -> Vec<PathBuf> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                below(&path, found);
            } else if path.extension().is_some_and(|ending| ending == "xml") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    below(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests"), &mut found);
    if let Some(more) = std::env::var_os("IMPORT_FILES") {
        below(Path::new(&more), &mut found);
    }
    found.sort();
    found
}

#[test]
fn every_domain_of_the_tests_comes_through() {
    let (mut seen, mut whole, mut wrong) = (0, Vec::new(), Vec::new());
    for path in files() {
        let Ok(content) = std::fs::read_to_string(&path) else { continue };
        let Ok(element) = read(&content) else { continue };
        if element.name != "domain" || element.get("name").is_none() || element.get("memory").is_none() {
            continue;
        }
        seen += 1;
        if let Err(why) = lossless(&element) {
            wrong.push(format!("{}: {why}", path.display()));
        }
        if import(&element, Options::default()).is_ok_and(|imported| imported.params.contains_key("definition")) {
            whole.push(path.display().to_string());
        }
    }
    assert!(seen >= 4, "only {seen} domains were found");
    println!("{seen} domains, {} of them as a whole: {whole:#?}", whole.len());
    assert!(wrong.is_empty(), "{} of {seen}:\n{}", wrong.len(), wrong.join("\n\n"));
}

#[test]
fn what_belongs_to_one_run_of_a_guest_goes() {
    let running = "<domain type='kvm' id='7'><name>a</name><uuid>00000000-0000-0000-0000-000000000001</uuid>\
        <memory unit='KiB'>1048576</memory><currentMemory unit='KiB'>1048576</currentMemory><vcpu placement='static'>2</vcpu>\
        <resource><partition>/machine</partition></resource>\
        <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type><boot dev='hd'/></os><features><acpi/><apic/></features>\
        <cpu mode='custom' match='exact' check='full'><model fallback='forbid'>Haswell</model></cpu><clock offset='utc'/>\
        <devices><emulator>/usr/bin/qemu-system-x86_64</emulator>\
        <disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='/a.qcow2' index='1'/><backingStore/>\
        <target dev='vda' bus='virtio'/><alias name='virtio-disk0'/>\
        <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/></disk>\
        <interface type='network'><mac address='52:54:00:00:00:01'/><source network='default' portid='x' bridge='virbr0'/>\
        <target dev='vnet3'/><model type='virtio'/><alias name='net0'/></interface>\
        <serial type='pty'><source path='/dev/pts/1'/><target type='isa-serial' port='0'><model name='isa-serial'/></target>\
        <alias name='serial0'/></serial>\
        <console type='pty' tty='/dev/pts/1'><source path='/dev/pts/1'/><target type='serial' port='0'/></console>\
        <graphics type='vnc' port='5900' autoport='yes' listen='127.0.0.1'><listen type='address' address='127.0.0.1'/>\
        </graphics><memballoon model='virtio'><alias name='ua-mine'/></memballoon></devices>\
        <seclabel type='dynamic' model='dac' relabel='yes'><label>+64055:+64055</label></seclabel></domain>";
    let imported = import(&domain(running), Options::default()).unwrap();
    let text = yaml(&imported.params, 0, &Comments::new());
    for gone in ["vnet3", "5900", "/dev/pts", "virtio-disk0", "seclabel", "partition", "portid", "virbr0", "backing"] {
        assert!(!text.contains(gone), "{gone}: {text}");
    }
    for stays in ["ua-mine", "bus='0x04'", "52:54:00:00:00:01"] {
        assert!(text.contains(stays), "{stays}: {text}");
    }
    assert!(imported.notes[0].contains("running guest"), "{:?}", imported.notes);
    assert!(imported.notes[1].contains("host-model"), "{:?}", imported.notes);
    lossless(&domain(running)).unwrap();
}

#[test]
fn passwords() {
    let with = |word: &str| {
        format!(
            "<domain type='kvm'><name>a</name><memory>1048576</memory><os><type>hvm</type></os><devices>\
             <graphics type='vnc' port='-1' autoport='yes' passwd='{word}'/></devices></domain>"
        )
    };
    let imported = super::import(&domain(&with("s3cret")), Options::default()).unwrap();
    assert!(imported.secrets);
    assert!(yaml(&imported.params, 0, &Comments::new()).contains("passwd: s3cret"));
    let imported = super::import(&domain(&with("********")), Options::default()).unwrap();
    assert!(!imported.secrets);
    assert!(imported.notes[0].contains("password of its vnc is masked"), "{:?}", imported.notes);
}

#[test]
fn what_is_no_guest() {
    let error = import(&domain("<network><name>a</name></network>"), Options::default()).unwrap_err();
    assert!(error.to_string().contains("no guest but a <network>"), "{error}");
    let error = import(&domain("<domain><memory>1</memory></domain>"), Options::default()).unwrap_err();
    assert!(error.to_string().contains("no <name>"), "{error}");
}

/// Differences that canonical forms must not hide, and others that they must.
#[test]
fn the_same_and_not_the_same() {
    let with = |machine: &str, inner: &str, devices: &str| {
        domain(&format!(
            "<domain type='kvm'><name>a</name><memory unit='GiB'>1</memory><os><type arch='x86_64' machine='{machine}'>hvm\
             </type></os>{inner}<devices>{devices}</devices></domain>"
        ))
    };
    let same = |machine: &str, one: (&str, &str), other: (&str, &str)| {
        differences(&with(machine, one.0, one.1), &with(machine, other.0, other.1)).is_empty()
    };
    let pci =
        |bus: u32| format!("<memballoon model='virtio'><address type='pci' bus='{bus}' slot='0x05'/></memballoon>");
    for (machine, one, other, wanted) in [
        ("pc", ("", ""), ("<currentMemory unit='MiB'>1024</currentMemory><vcpu placement='static'>1</vcpu>", ""), true),
        ("pc", ("<vcpu>2</vcpu>", ""), ("", ""), false),
        ("pc", ("<features><acpi/></features>", ""), ("", ""), false),
        ("pc", ("<on_reboot>restart</on_reboot>", ""), ("", ""), true),
        ("pc", ("<on_reboot>destroy</on_reboot>", ""), ("", ""), false),
        ("pc", ("", "<memballoon model='virtio'/>"), ("", ""), true),
        ("pc", ("", "<memballoon model='none'/>"), ("", ""), false),
        ("pc", ("", &pci(0)), ("", ""), false),
        ("pc", ("", &pci(0)), ("", &pci(1)), false),
        ("pc", ("", "<controller type='usb' index='0' model='piix3-uhci'/>"), ("", ""), true),
        ("pc", ("", "<controller type='usb' index='0' model='none'/>"), ("", ""), false),
        ("q35", ("", "<controller type='usb' index='0' model='piix3-uhci'/>"), ("", ""), false),
        ("q35", ("", "<controller type='pci' index='1' model='pcie-root-port'/>"), ("", ""), false),
        ("q35", ("", "<watchdog model='itco' action='reset'/>"), ("", ""), true),
        ("pc", ("", "<watchdog model='itco' action='reset'/>"), ("", ""), false),
        (
            "pc",
            ("", "<disk><source file='/a'/><target dev='hda'/></disk>"),
            (
                "",
                "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='/a'/>\
                 <target dev='hda' bus='ide'/><address type='drive' controller='0' bus='0' target='0' unit='0'/></disk>",
            ),
            true,
        ),
        (
            "pc",
            ("", "<disk><source file='/a'/><target dev='hda'/></disk>"),
            ("", "<disk><source file='/a'/><target dev='hda'/><address type='drive' unit='1'/></disk>"),
            false,
        ),
        (
            "pc",
            ("", "<disk><source file='/a'/><target dev='vda'/></disk>"),
            ("", "<disk><source file='/a'/><target dev='vda'/><readonly/></disk>"),
            false,
        ),
        (
            "pc",
            ("", "<graphics type='vnc' port='-1' listen='::'/>"),
            ("", "<graphics type='vnc' autoport='yes'><listen type='address' address='::'/></graphics>"),
            true,
        ),
        ("pc", ("", "<graphics type='vnc' port='5901'/>"), ("", "<graphics type='vnc' autoport='yes'/>"), false),
        (
            "pc",
            ("", "<interface type='user'/><interface type='bridge'><source bridge='b'/></interface>"),
            ("", "<interface type='bridge'><source bridge='b'/></interface><interface type='user'/>"),
            false,
        ),
        (
            "pc",
            (
                "<metadata><vfio-provision:intent xmlns:vfio-provision='https://github.com/vfio-provision/vfio-provision/domain/1'/></metadata>",
                "",
            ),
            ("", ""),
            true,
        ),
        ("pc", ("<metadata><x xmlns='urn:other'/></metadata>", ""), ("", ""), false),
        (
            "pc",
            ("<cpu><topology sockets='1' dies='1' cores='2' threads='1'/></cpu>", ""),
            ("<cpu><topology sockets='1' cores='2' threads='1'/></cpu>", ""),
            true,
        ),
        (
            "pc",
            ("<cpu mode='host-passthrough' check='none' migratable='on'/>", ""),
            ("<cpu mode='host-passthrough'/>", ""),
            true,
        ),
        ("pc", ("<cpu mode='host-passthrough' migratable='off'/>", ""), ("<cpu mode='host-passthrough'/>", ""), false),
        ("pc", ("<uuid>00000000-0000-0000-0000-000000000001</uuid>", ""), ("", ""), false),
        ("pc", ("", ""), ("<uuid>00000000-0000-0000-0000-000000000001</uuid>", ""), true),
        (
            "pc",
            ("", "<interface type='user'><mac address='52:54:00:00:00:01'/></interface>"),
            ("", "<interface type='user'/>"),
            false,
        ),
    ] {
        assert_eq!(same(machine, one, other), wanted, "{machine} {one:?} {other:?}");
    }
}

#[test]
fn targets_count_as_letters_do() {
    use canonical::target_index;
    for (target, index) in
        [("vda", Some(0)), ("sdz", Some(25)), ("vdaa", Some(26)), ("xvdb", Some(1)), ("vd1", None), ("é", None)]
    {
        assert_eq!(target_index(target), index, "{target}");
    }
}

fn any_disk() -> impl Strategy<Value = String> {
    (0..4usize, any::<bool>(), 0..4usize, any::<bool>(), 1..31u32).prop_map(|(kind, qcow, cache, readonly, slot)| {
        let target = ["vd", "sd", "hd", "sd"][kind];
        let bus = ["virtio", "scsi", "ide", "sata"][kind];
        let format = if qcow { "qcow2" } else { "raw" };
        let cache = ["", " cache='none'", " cache='writeback' io='threads'", " discard='unmap' detect_zeroes='on'"][cache];
        let more = if readonly { "<readonly/><serial>a&lt;b c</serial>" } else { "<iotune><total_iops_sec>7</total_iops_sec></iotune>" };
        let address = if bus == "virtio" { format!("<address type='pci' domain='0x0000' bus='0x00' slot='{slot:#04x}' function='0x0'/>") } else { String::new() };
        format!("<disk type='file' device='disk'><driver name='qemu' type='{format}'{cache}/><source file='/img/NUMBER.{format}'/><target dev='{target}LETTER' bus='{bus}'/>{more}{address}</disk>")
    })
}

fn any_device() -> impl Strategy<Value = String> {
    let fixed = |text: &'static str| Just(text.to_string());
    prop_oneof![
        any_disk(),
        any_disk(),
        (0..3usize, any::<u8>(), any::<bool>()).prop_map(|(kind, last, model)| {
            let source = ["<source bridge='br0'/>", "<source network='a &amp; b'/>", "<source dev='eth0' mode='vepa'/>"][kind];
            let kind = ["bridge", "network", "direct"][kind];
            let model = if model { "<model type='e1000'/>" } else { "<model type='virtio'/>" };
            format!("<interface type='{kind}'><mac address='52:54:00:00:00:{last:02x}'/>{source}{model}</interface>")
        }),
        (any::<u8>(), 0..32u8, 0..8u8, any::<bool>()).prop_map(|(bus, slot, function, managed)| {
            let managed = if managed { "yes" } else { "no" };
            format!(
                "<hostdev mode='subsystem' type='pci' managed='{managed}'><driver name='vfio'/><source><address \
                 domain='0x0000' bus='{bus:#04x}' slot='{slot:#04x}' function='{function:#x}'/></source><rom bar='off'/>\
                 <address type='pci' domain='0x0000' bus='0x05' slot='0x00' function='0x0' multifunction='on'/></hostdev>"
            )
        }),
        any::<u16>().prop_map(|id| format!(
            "<hostdev mode='subsystem' type='usb' managed='yes'><source startupPolicy='optional'><vendor id='{id:#06x}'/>\
             <product id='0x0001'/></source></hostdev>"
        )),
        fixed("<graphics type='spice' autoport='yes'><listen type='address'/><image compression='off'/></graphics>"),
        fixed("<graphics type='vnc' port='5901' autoport='no' listen='0.0.0.0' passwd='{{ x }}'><listen type='address' address='0.0.0.0'/></graphics>"),
        fixed("<video><model type='qxl' ram='65536' vram='65536' vgamem='16384' heads='1' primary='yes'/></video>"),
        fixed("<input type='tablet' bus='usb'><address type='usb' bus='0' port='1'/></input>"),
        fixed("<input type='evdev'><source dev='/dev/input/event1' grab='all' grabToggle='ctrl-ctrl' repeat='on'/></input>"),
        fixed("<controller type='usb' index='1' model='qemu-xhci' ports='15'/>"),
        fixed("<controller type='scsi' index='0' model='virtio-scsi'><driver queues='4'/></controller>"),
        fixed("<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"),
        fixed("<rng model='virtio'><backend model='random'>/dev/urandom</backend><rate bytes='1024'/></rng>"),
        fixed("<filesystem type='mount' accessmode='passthrough'><driver type='virtiofs'/><source dir='/a'/><target dir='t'/></filesystem>"),
        fixed("<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"),
        fixed("<serial type='pty'><target type='isa-serial' port='0'/></serial>"),
        fixed("<sound model='ich9'><codec type='micro'/></sound>"),
        fixed("<shmem name='looking-glass'><model type='ivshmem-plain'/><size unit='M'>32</size></shmem>"),
        fixed("<watchdog model='i6300esb' action='reset'/>"),
        fixed("<vsock model='virtio'><cid auto='no' address='3'/></vsock>"),
        fixed("<panic model='isa'/>"),
        fixed("<redirdev bus='usb' type='spicevmc'/>"),
        fixed("<memballoon model='none'/>"),
        fixed("<hub type='usb'/>"),
    ]
}

fn any_section() -> impl Strategy<Value = String> {
    let fixed = |text: &'static str| Just(text.to_string());
    prop_oneof![
        fixed("<title>a {{ b }} \"c\"</title>"),
        fixed("<description> two\n lines </description>"),
        fixed(
            "<cpu mode='host-passthrough' check='none' migratable='off'><topology sockets='1' cores='2' threads='2'/><feature policy='disable' name='hypervisor'/></cpu>"
        ),
        fixed(
            "<cpu mode='custom' match='exact' check='partial'><model fallback='allow'>Haswell</model><numa><cell id='0' cpus='0-3' memory='1' unit='GiB'/></numa></cpu>"
        ),
        fixed(
            "<features><acpi/><hyperv mode='custom'><relaxed state='on'/><spinlocks state='on' retries='8191'/><vendor_id state='on' value='abc'/><stimer state='on'><direct state='on'/></stimer></hyperv><kvm><hidden state='on'/></kvm><smm state='on'><tseg unit='MiB'>48</tseg></smm></features>"
        ),
        fixed("<features><apic eoi='on'/><pae/></features>"),
        fixed(
            "<clock offset='localtime'><timer name='rtc' tickpolicy='catchup'/><timer name='hpet' present='no'/><timer name='tsc' mode='native' frequency='3000000000'/></clock>"
        ),
        fixed("<clock offset='variable' adjustment='120' basis='utc'/>"),
        fixed(
            "<memoryBacking><hugepages><page size='1' unit='GiB'/></hugepages><locked/><nosharepages/></memoryBacking>"
        ),
        fixed(
            "<cputune><shares>2048</shares><vcpupin vcpu='0' cpuset='2,14'/><vcpupin vcpu='1' cpuset='3'/><emulatorpin cpuset='0-1'/></cputune>"
        ),
        fixed("<numatune><memory mode='strict' nodeset='1'/></numatune>"),
        fixed("<pm><suspend-to-mem enabled='no'/><suspend-to-disk enabled='no'/></pm>"),
        fixed("<on_crash>preserve</on_crash><on_reboot>restart</on_reboot>"),
        fixed("<iothreads>2</iothreads>"),
        fixed("<metadata><a:b xmlns:a='urn:a' c='1'>text <d/></a:b></metadata>"),
        fixed("<sysinfo type='smbios'><system><entry name='manufacturer'>ACME</entry></system></sysinfo>"),
        fixed("<blkiotune><weight>500</weight></blkiotune>"),
        fixed("<seclabel type='none' model='dac'/><seclabel type='none' model='apparmor'/>"),
        fixed("<memtune><hard_limit unit='KiB'>9000000</hard_limit></memtune>"),
    ]
}

fn any_domain() -> impl Strategy<Value = String> {
    let machines = prop_oneof![Just("pc-i440fx-7.2"), Just("pc-q35-7.2"), Just("q35"), Just("pc")];
    let boots = prop_oneof![
        Just(""),
        Just("<boot dev='cdrom'/><boot dev='hd'/>"),
        Just(
            "<loader readonly='yes' secure='yes' type='pflash'>/c.fd</loader><nvram template='/v.fd'>/n.fd</nvram><bootmenu enable='yes'/>"
        ),
    ];
    let sections = proptest::collection::vec(any_section(), 0..5);
    let devices = proptest::collection::vec(any_device(), 0..7);
    (machines, boots, sections, devices, 1..9u32).prop_map(|(machine, boot, sections, devices, vcpus)| {
        let mut out = format!(
            "<domain type='kvm'><name>guest</name><uuid>6cbf2807-7930-4825-9d10-f5b002cf325b</uuid><memory unit='KiB'>4194305\
             </memory><vcpu placement='static'>{vcpus}</vcpu><os><type arch='x86_64' machine='{machine}'>hvm</type>{boot}</os>"
        );
        let mut seen = Vec::new();
        for section in sections {
            let name: String = section.chars().skip(1).take_while(|c| c.is_ascii_alphabetic()).collect();
            if !seen.contains(&name) {
                out.push_str(&section);
                seen.push(name);
            }
        }
        out.push_str("<devices>");
        for (number, device) in devices.into_iter().enumerate() {
            let letter = char::from(b'a' + u8::try_from(number).unwrap());
            out.push_str(&device.replace("LETTER", &letter.to_string()).replace("NUMBER", &number.to_string()));
        }
        out.push_str("</devices></domain>");
        out
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost(text in any_domain()) {
        let element = domain(&text);
        if let Err(why) = lossless(&element) {
            return Err(TestCaseError::fail(format!("{why}\n{}", element.print())));
        }
        // The canonical form is a fixpoint, and what is imported again is what was imported.
        let once = canonical(&element);
        prop_assert_eq!(canonical(&once).print(), once.print());
        let first = import(&element, Options::default()).unwrap().params;
        let second = import(&rendered(&first).unwrap().xml, Options::default()).unwrap().params;
        prop_assert_eq!(yaml(&first, 0, &Comments::new()), yaml(&second, 0, &Comments::new()));
    }

    #[test]
    fn short_changes_nothing_on_its_machine(text in any_domain()) {
        let element = domain(&text);
        let short = import(&element, Options { short: true }).unwrap();
        let (definition, _) = settle(&element);
        let found = changes(&short.params, &definition).unwrap();
        // Where the short form says something else than what is there, the long one is printed.
        let long = import(&element, Options::default()).unwrap();
        prop_assert!(found.is_empty() || short.params == long.params, "{:?}\n{}", found, element.print());
    }
}
