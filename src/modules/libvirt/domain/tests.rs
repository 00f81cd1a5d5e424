//! The module as a whole, on machines that are only written down.

use serde_json::{Value, json};

use super::compare::merge;
use super::render::{Context, render};
use super::*;
use crate::change::Action;
use crate::host::Model;
use crate::host::error::ErrorKind;
use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};

const WIN8: &str = include_str!("../../../../tests/cases/seed/win8.yml");
const WIN7: &str = include_str!("../../../../tests/cases/seed/win7.yml");
/// What a real libvirt 9.0 printed of the seed's own files (`dumpxml --inactive --security-info`).
const WIN8_DUMP: &str = include_str!("../../../../tests/cases/seed/win8.dump.xml");
const WIN7_DUMP: &str = include_str!("../../../../tests/cases/seed/win7.dump.xml");

pub(super) fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap()
}

fn domain(parameters: Value) -> LibvirtDomain {
    serde_json::from_value(parameters).unwrap()
}

/// A machine on which libvirt has these domains.
pub(super) fn with_domains(domains: &[(&str, &str)]) -> Machine {
    let host = machine(&[("/etc/os-release", "ID=centos\nVERSION_ID=7\n"), ("/var/lib/", "")]);
    for (name, xml) in domains {
        let virt = Virt { xml: (*xml).to_string(), ..Virt::default() };
        host.put_virt(VirtKind::Domain, name, Some(virt)).unwrap();
    }
    host
}

pub(super) fn xml_of(host: &Machine, name: &str) -> Element {
    xml::parse(&host.virt(VirtKind::Domain, name).unwrap().unwrap().xml).unwrap()
}

/// The diffs alone, one line each.
pub(super) fn lines(actions: &[Action]) -> Vec<String> {
    actions
        .iter()
        .flat_map(|action| &action.diffs)
        .map(|diff| format!("{} {:?} {:?}", diff.path, diff.before.as_deref(), diff.after.as_deref()))
        .collect()
}

#[test]
fn the_seeds_guests_hold_in_what_libvirt_made_of_the_seeds_own_files() {
    for (wanted, dump) in [(WIN8, WIN8_DUMP), (WIN7, WIN7_DUMP)] {
        let wanted = render(&domain(yaml(wanted)), &Context::default()).unwrap();
        let current = xml::parse(dump).unwrap();
        let merged = merge(&wanted, &current, None);
        assert_eq!(merged.changes, []);
        assert_eq!(merged.left_alone, Vec::<String>::new());
        assert_eq!(merged.xml, current);
    }
}

#[test]
fn a_new_guest_is_shown_whole_and_defined_once() {
    let host = with_domains(&[]);
    let done = apply(&host, "libvirt_domain", yaml(WIN8)).unwrap();
    let shown = shown(&done);
    assert!(shown.starts_with("domain win8\n"), "{shown}");
    assert!(shown.contains("+    <loader readonly='yes' type='pflash'>/usr/share/edk2.git/"), "{shown}");
    assert!(shown.contains("+        <address domain='0x0000' bus='0x82' slot='0x00' function='0x0'/>"), "{shown}");
    assert!(apply(&host, "libvirt_domain", yaml(WIN8)).unwrap().is_empty());
    let run = done.iter().find_map(|action| if let Op::Run(run) = &action.op { Some(run) } else { None }).unwrap();
    assert_eq!(run.argv, ["virsh", "-c", "qemu:///system", "define", "--validate", "/dev/stdin"]);
}

/// Edits of the seed's guest by one value each, and what alone is shown.
const EDITS: &[(&str, &str, &[&str])] = &[
    ("memory: 16 GiB", "memory: 8 GiB", &["win8: memory Some(\"16 GiB\") Some(\"8 GiB\")"]),
    ("vcpus: 4", "vcpus: 6", &["win8: vcpus Some(\"4\") Some(\"6\")"]),
    (
        "vcpus: 4",
        "vcpus: 4\ncpu: host-passthrough",
        &["win8: cpu mode Some(\"custom (qemu64)\") Some(\"host-passthrough\")"],
    ),
    (
        "vcpus: 4",
        "vcpus: 4\ntopology: {cores: 4}",
        &["win8: cpu topology None Some(\"sockets 1, cores 4, threads 1\")"],
    ),
    ("machine: pc", "machine: pc-i440fx-7.1", &["win8: machine Some(\"pc-i440fx-7.2\") Some(\"pc-i440fx-7.1\")"]),
    ("boot: [cdrom, hd]", "boot: [hd, cdrom]", &["win8: boot order Some(\"cdrom, hd\") Some(\"hd, cdrom\")"]),
    ("kvm_hidden: true", "kvm_hidden: false", &["win8: features kvm hidden Some(\"on\") Some(\"off\")"]),
    ("pae: true", "pae: false", &["win8: features pae Some(\"yes\") None"]),
    ("clock: localtime", "clock: utc", &["win8: clock offset Some(\"localtime\") Some(\"utc\")"]),
    ("on_crash: destroy", "on_crash: restart", &["win8: on_crash Some(\"destroy\") Some(\"restart\")"]),
    (
        "emulator: /usr/libexec/qemu-kvm",
        "emulator: /usr/bin/qemu-system-x86_64",
        &["win8: emulator Some(\"/usr/libexec/qemu-kvm\") Some(\"/usr/bin/qemu-system-x86_64\")"],
    ),
    ("format: qcow2", "format: qcow2, cache: none", &["win8: disk vda: cache None Some(\"none\")"]),
    (
        "/root/img/win8.qcow2",
        "/var/lib/libvirt/images/win8.qcow2",
        &["win8: disk vda: source Some(\"/root/img/win8.qcow2\") Some(\"/var/lib/libvirt/images/win8.qcow2\")"],
    ),
    (
        "/root/img/win8.qcow2",
        "/dev/vg/win8",
        &["win8: disk vda: source Some(\"/root/img/win8.qcow2\") Some(\"/dev/vg/win8\")"],
    ),
    (
        "model: virtio}",
        "model: e1000}",
        &["win8: network interface 52:54:00:18:fe:c4: model Some(\"virtio\") Some(\"e1000\")"],
    ),
    ("bridge: br0", "bridge: br1", &["win8: network interface 52:54:00:18:fe:c4: bridge Some(\"br0\") Some(\"br1\")"]),
    (
        "bridge: br0",
        "network: default",
        &["win8: network interface 52:54:00:18:fe:c4: source Some(\"bridge br0\") Some(\"network default\")"],
    ),
    ("listen: 0.0.0.0", "listen: 127.0.0.1", &["win8: graphics vnc: listen Some(\"0.0.0.0\") Some(\"127.0.0.1\")"]),
    ("keymap: en-us", "keymap: en-us, passwd: secret", &["win8: graphics vnc: passwd None Some(\"********\")"]),
    ("model: cirrus, vram: 16 MiB", "model: vga, vram: 16 MiB", &["win8: video: model Some(\"cirrus\") Some(\"vga\")"]),
    ("vram: 16 MiB", "vram: 8 MiB", &["win8: video: vram Some(\"16384\") Some(\"8192\")"]),
    (
        "pci: [\"0000:82:00.0\"]",
        "pci: [{address: \"82:00.0\", rom_bar: false}]",
        &["win8: hostdev pci 0000:82:00.0: rom None Some(\"bar off\")"],
    ),
];

#[test]
fn a_single_edit_is_shown_alone_and_keeps_what_libvirt_gave() {
    for (from, to, expected) in EDITS {
        let host = with_domains(&[("win8", WIN8_DUMP)]);
        // The first run adopts the guest: nothing changes but a file of our own.
        assert_eq!(lines(&apply(&host, "libvirt_domain", yaml(WIN8)).unwrap()), Vec::<String>::new());
        let edited = WIN8.replacen(from, to, 1);
        assert_ne!(edited, WIN8, "{from}");
        let done = apply(&host, "libvirt_domain", yaml(&edited)).unwrap();
        assert_eq!(lines(&done), *expected, "{from} → {to}");
        let now = xml_of(&host, "win8");
        let before = xml::parse(WIN8_DUMP).unwrap();
        assert_eq!(now.text_at(&["uuid"]), before.text_at(&["uuid"]));
        let mac = |domain: &Element| domain.at(&["devices", "interface", "mac"]).cloned();
        assert_eq!(mac(&now), mac(&before));
        let places = |domain: &Element| -> Vec<Element> {
            let devices = domain.get("devices").unwrap();
            devices.elements().filter(|d| d.name != "video").filter_map(|d| d.get("address")).cloned().collect()
        };
        assert_eq!(places(&now), places(&before), "{from} → {to}");
        // And back again: the way there leaves nothing behind that is stated.
        let back = apply(&host, "libvirt_domain", yaml(WIN8)).unwrap();
        // (`pc` stands for any version of it.)
        assert!(!lines(&back).is_empty() || *from == "machine: pc", "{from}");
        let wanted = render(&domain(yaml(WIN8)), &Context::default()).unwrap();
        assert_eq!(merge(&wanted, &xml_of(&host, "win8"), Some(&wanted.intent)).changes, []);
    }
}

#[test]
fn what_was_stated_and_is_not_any_more_goes_and_what_others_added_stays() {
    let host = with_domains(&[]);
    let two = WIN8.replacen("disks:\n", "disks:\n  - {path: /srv/b.qcow2, target: vdb}\n", 1);
    apply(&host, "libvirt_domain", yaml(&two)).unwrap();
    // Somebody adds a disk and a NIC by hand.
    let mut virt = host.virt(VirtKind::Domain, "win8").unwrap().unwrap();
    let end = virt.xml.rfind("  </devices>").unwrap();
    virt.xml.insert_str(
        end,
        "    <disk type='file' device='disk'><source file='/x'/><target dev='vdz' bus='virtio'/></disk>\n    \
         <interface type='network'><source network='n'/></interface>\n",
    );
    host.put_virt(VirtKind::Domain, "win8", Some(virt)).unwrap();
    let next = plan(&host, "libvirt_domain", yaml(&two)).unwrap();
    assert!(next.actions.is_empty());
    assert_eq!(
        next.notes,
        [
            "win8: disk vdz is not described here and stays as it is",
            "win8: network interface 2 is not described here and stays as it is"
        ]
    );
    let without = WIN8.replace("usb: [\"0101:0007\", ", "usb: [").replace("boot: [cdrom, hd]\n", "");
    let done = apply(&host, "libvirt_domain", yaml(&without)).unwrap();
    let shown = lines(&done);
    assert_eq!(shown.len(), 3, "{shown:?}");
    assert_eq!(shown[0], "win8: boot order Some(\"cdrom, hd\") None");
    assert!(
        shown[1].starts_with("win8: disk vdb Some(\"type file, device disk,") && shown[1].ends_with("None"),
        "{shown:?}"
    );
    assert!(shown[2].starts_with("win8: hostdev usb 0101:0007 Some("), "{shown:?}");
    let now = xml_of(&host, "win8").print();
    assert!(now.contains("vdz") && now.contains("network='n'") && !now.contains("vdb"), "{now}");
}

#[test]
fn another_chipset_lays_out_its_devices_anew() {
    let host = with_domains(&[("win7", WIN7_DUMP)]);
    // Its drives on IDE are ours, so that they may go.
    apply(&host, "libvirt_domain", yaml(WIN7)).unwrap();
    let q35 =
        WIN7.replace("machine: pc", "machine: q35").replace("hda, bus: ide", "sda").replace("hdb, bus: ide", "sdb");
    let q35 = q35.replace("target: hda\n    bus: ide", "target: sda");
    apply(&host, "libvirt_domain", yaml(&q35)).unwrap();
    let now = xml_of(&host, "win7");
    let devices = now.get("devices").unwrap();
    assert_eq!(devices.named("controller").count(), 0);
    assert!(devices.elements().all(|device| device.get("address").is_none()));
    assert!(now.print().contains("<mac address='52:54:00"), "{}", now.print());
}

#[test]
fn states_and_refusals() {
    let host = with_domains(&[("win8", WIN8_DUMP)]);
    let error = plan(&host, "libvirt_domain", json!({"name": "other", "state": "running"})).unwrap_err();
    assert!(error.to_string().contains("there is no guest other"), "{error}");
    let error = plan(&host, "libvirt_domain", json!({"name": "win8", "vcpus": 2})).unwrap_err();
    assert!(error.to_string().contains("memory is missing"), "{error}");
    let done = apply(&host, "libvirt_domain", json!({"name": "win8", "state": "running", "autostart": true})).unwrap();
    assert_eq!(
        lines(&done),
        ["win8: autostart Some(\"no\") Some(\"yes\")", "win8: state Some(\"shut off\") Some(\"running\")"]
    );
    let error = plan(&host, "libvirt_domain", json!({"name": "win8", "state": "absent"})).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    let edited = plan(&host, "libvirt_domain", yaml(&WIN8.replace("vcpus: 4", "vcpus: 2"))).unwrap();
    assert_eq!(edited.result.get("restart_required"), Some(&json!(true)));
    assert!(edited.warnings.iter().any(|w| w.contains("is running")), "{:?}", edited.warnings);
    let same = plan(&host, "libvirt_domain", yaml(WIN8)).unwrap();
    assert_eq!(same.result.get("restart_required"), Some(&json!(false)));
    apply(&host, "libvirt_domain", json!({"name": "win8", "state": "shutdown"})).unwrap();
    let gone = apply(&host, "libvirt_domain", json!({"name": "win8", "state": "absent"})).unwrap();
    assert!(lines(&gone)[0].starts_with("win8 Some(\"<domain type='kvm'>"), "{:?}", lines(&gone));
    let argv = gone.iter().find_map(|a| if let Op::Run(run) = &a.op { Some(run.argv.join(" ")) } else { None });
    assert_eq!(argv.as_deref(), Some("virsh -c qemu:///system undefine win8 --keep-nvram"));
    let error = plan(
        &with_domains(&[("win8", WIN8_DUMP)]),
        "libvirt_domain",
        yaml(&format!("{WIN8}uuid: 00000000-0000-0000-0000-000000000001\n")),
    );
    assert!(error.unwrap_err().to_string().contains("UUID can't be changed"));
}

#[test]
fn warns_of_what_people_regret() {
    let host = with_domains(&[("win7", WIN7_DUMP)]);
    for name in ["0000:82:00.0", "0000:82:00.1", "0000:83:00.0"] {
        host.put_folder("/sys", crate::host::model::Attributes { mode: 0o755, uid: 0, gid: 0 }).unwrap();
        crate::host::model::predict(
            &host,
            &Op::Run(Run::new(["t"], vec![Effect::Folder { path: format!("/sys/bus/pci/devices/{name}") }])),
        )
        .unwrap();
    }
    let warnings = plan(&host, "libvirt_domain", yaml(WIN8)).unwrap().warnings;
    for part in [
        "give `nvram_template`",
        "of the card at 0000:82:00.0, 0000:82:00.1 stays behind",
        "4 virtual CPUs are 4 sockets",
        "VNC listens on all addresses",
        "/root/img/win8.qcow2 is below a folder",
        "win7 claims 0000:82:00.0, 0101:0007, 5c0a:8502 too",
    ] {
        assert_eq!(warnings.iter().filter(|warning| warning.contains(part)).count(), 1, "{part}: {warnings:#?}");
    }
    // Near misses: a card with all its functions, a template, an arrangement, a loopback address, another folder.
    let fine = WIN8
        .replace(
            "pci: [\"0000:82:00.0\"]",
            "gpus: [\"0000:82:00.0\"]\nnvram_template: /v\ntopology: {cores: 2, threads: 2}",
        )
        .replace("0.0.0.0", "127.0.0.1")
        .replace("/root/img", "/srv/img")
        .replace("vcpus: 4", "vcpus: 4\ncpu: host-passthrough\nmemballoon: none")
        .replace("usb: [\"0101:0007\", \"5c0a:8502\"]\n", "");
    let after = plan(&host, "libvirt_domain", yaml(&fine)).unwrap();
    assert_eq!(after.warnings.len(), 1, "{:#?}", after.warnings);
    assert!(
        after.warnings[0].starts_with("win8: win7 claims 0000:82:00.0 too, so only one of them can run at a time")
            && after.warnings[0].ends_with("[device-shared]"),
        "{:?}",
        after.warnings
    );
    let silenced = format!("{fine}silence: [device-shared]\n");
    assert!(plan(&host, "libvirt_domain", yaml(&silenced)).unwrap().warnings.is_empty());
    let xml =
        after.actions.iter().find_map(|a| if let Op::Run(run) = &a.op { run.stdin.clone() } else { None }).unwrap();
    let xml = intent::without(&xml::parse(&xml).unwrap()).print();
    assert_eq!(xml.matches("<hostdev ").count(), 2, "{xml}");
    // Both at boot can't be.
    let mut win7 = host.virt(VirtKind::Domain, "win7").unwrap().unwrap();
    win7.autostart = true;
    host.put_virt(VirtKind::Domain, "win7", Some(win7)).unwrap();
    let error = plan(&host, "libvirt_domain", yaml(&format!("{WIN8}autostart: true\n"))).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused);
    let silenced = format!("{WIN8}autostart: true\nsilence: device-shared-autostart\n");
    assert!(plan(&host, "libvirt_domain", yaml(&silenced)).is_ok());
}

#[test]
fn bad_descriptions_are_told_before_libvirt_swallows_them() {
    let base = json!({"name": "g", "memory": "1 GiB"});
    for (key, value, why) in [
        ("memory", json!(1024), "has no unit"),
        ("memory", json!("1024"), "has no unit"),
        ("vcpus", json!(0), "at least 1"),
        ("boot", json!(["disk"]), "`disk` is not one of hd, cdrom, network, fd"),
        ("on_crash", json!("destory"), "did you mean `destroy`"),
        ("interfaces", json!([{"bridge": "br0", "model": "rtl9999"}]), "`rtl9999`"),
        ("interfaces", json!([{"model": "virtio"}]), "exactly one of bridge, network, direct"),
        ("interfaces", json!([{"bridge": "br0", "mac": "53:54:00:00:00:01"}]), "multicast"),
        (
            "disks",
            json!([{"path": "/a", "target": "vda"}, {"path": "/b", "target": "vda"}]),
            "two disks have the target",
        ),
        ("disks", json!(["a.qcow2"]), "must begin with a slash"),
        ("cdroms", json!([{"path": "/a.iso", "bus": "ide"}]), "machine q35 has no IDE"),
        ("pci", json!(["82:00"]), "is not a PCI address"),
        ("pci", json!([820000]), "put it in quotes"),
        ("pci", json!(["82:00.0", "0000:82:00.0"]), "given twice"),
        ("usb", json!(["10"]), "vendor:product"),
        ("usb", json!(["046d:xyz"]), "not a USB id"),
        ("features", json!({"hyperv": {"vendor_id": "thirteen char"}}), "one to twelve"),
        ("features", json!({"hyperv": {"relaxd": true}}), "did you mean `relaxed`"),
        ("cpu", json!({"mode": "custom"}), "a model goes with mode custom"),
        ("topology", json!({"cores": 0}), "at least 1"),
        ("firmware", json!("ovmf"), "there is no UEFI firmware"),
        ("nvram", json!("/x"), "only makes sense"),
        ("xml", json!("<a>"), "parameter `xml`"),
        ("title", json!("a\u{1}b"), "U+0001"),
        ("name", json!("a/b"), "can't be the name"),
        ("nme", json!("x"), "unknown field `nme`"),
        ("silence", json!(["open-dispaly"]), "there is no rule `open-dispaly`"),
        ("xml", json!("<devices><input type='tablet' bus='usbb'/></devices>"), "`usbb` is no bus"),
    ] {
        let mut parameters = base.clone();
        parameters[key] = value.clone();
        let error = plan(&with_domains(&[]), "libvirt_domain", parameters).unwrap_err().to_string();
        assert!(error.contains(why), "{key}: {value}: {error}");
    }
}

#[test]
fn firmware_is_found_by_descriptor_and_kept_afterwards() {
    let text = r#"{"interface-types": ["uefi"], "mapping": {"device": "flash",
        "executable": {"filename": "/code.fd", "format": "raw"},
        "nvram-template": {"filename": "/vars.fd", "format": "raw"}},
        "targets": [{"architecture": "x86_64", "machines": ["pc-q35-*"]}], "features": []}"#;
    let host = with_domains(&[]);
    let place = "/usr/share/qemu/firmware/50.json";
    let write = |content: &str| {
        let effect = Effect::File { path: place.to_string(), content: Some(content.to_string()), mode: None };
        crate::host::model::predict(&host, &Op::Run(Run::new(["t"], vec![effect]))).unwrap();
    };
    write(text);
    let parameters = json!({"name": "g", "memory": "1 GiB", "firmware": "ovmf"});
    apply(&host, "libvirt_domain", parameters.clone()).unwrap();
    let os = xml_of(&host, "g").get("os").unwrap().print();
    assert!(os.contains("<loader readonly='yes' type='pflash'>/code.fd</loader>"), "{os}");
    assert!(os.contains("<nvram template='/vars.fd'>/var/lib/libvirt/qemu/nvram/g_VARS.fd</nvram>"), "{os}");
    // Another package version prefers another build: the guest keeps the one its variables belong to.
    write(&text.replace("/code.fd", "/code-4m.fd"));
    assert!(apply(&host, "libvirt_domain", parameters).unwrap().is_empty());
    let bios = apply(&host, "libvirt_domain", json!({"name": "g", "memory": "1 GiB", "firmware": "bios"})).unwrap();
    assert_eq!(
        lines(&bios),
        [
            "g: loader Some(\"/code.fd, readonly yes, type pflash\") None",
            "g: nvram Some(\"/var/lib/libvirt/qemu/nvram/g_VARS.fd, template /vars.fd\") None"
        ]
    );
}

#[test]
fn more_xml_is_merged_at_its_place() {
    let host = with_domains(&[]);
    let parameters = json!({"name": "g", "memory": "1 GiB", "features": {"kvm_hidden": true}, "xml":
        "<features><kvm><poll-control state='on'/></kvm></features>\
         <memoryBacking><hugepages/></memoryBacking>\
         <devices><shmem name='looking-glass'><model type='ivshmem-plain'/><size unit='M'>64</size></shmem></devices>\
         <qemu:commandline><qemu:arg value='-a'/><qemu:arg value='b'/></qemu:commandline>"});
    apply(&host, "libvirt_domain", parameters.clone()).unwrap();
    let text = xml_of(&host, "g").print();
    for part in [
        "xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'",
        "      <hidden state='on'/>\n      <poll-control state='on'/>",
        "<hugepages/>",
        "<shmem name='looking-glass'>",
        "<qemu:arg value='b'/>",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let mut other = parameters;
    other["xml"] = json!("<qemu:commandline><qemu:arg value='b'/><qemu:arg value='-a'/></qemu:commandline>");
    let shown = lines(&apply(&host, "libvirt_domain", other).unwrap());
    assert_eq!(shown.len(), 4, "{shown:#?}");
}
