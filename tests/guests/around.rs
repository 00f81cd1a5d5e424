//! `libvirt_network`, `libvirt_pool` and `libvirt_volume`.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use vfio_provision::change::{Op, executor};
use vfio_provision::host::{Host, Live, VirtKind};
use vfio_provision::modules::libvirt::xml;

use super::{apply, full, plan, shown, virsh, yaml};

/// Networks of every sort: what is stated must hold in what libvirt makes of it, with and without a memory of the last time.
const NETWORKS: &[&str] = &[
    "{name: lab, address: 192.168.150.1/24, dhcp: {start: 192.168.150.10, end: 192.168.150.99}}",
    "{name: lab, address: 'fd00:5::1/64', mode: route, bridge: virbr7, domain: lab.example}",
    "{name: lab, mode: isolated}",
    "{name: lab, mode: isolated, ipv6: true, isolated_ports: true, stp: false, delay: 3}",
    "{name: lab, mode: bridge, bridge: br0}",
    "{name: lab, mode: bridge, bridge: ovs0, virtualport: openvswitch, vlan: {tags: 42}, portgroups: [{name: a, \
      default: true, vlan: {tags: [4, 5], native: 5}}, {name: b, bandwidth: {inbound: {average: 1000, peak: 5000, \
      burst: 1024}, outbound: {average: 128}}, trust_guest_rx_filters: false}]}",
    "{name: lab, mode: open, address: 10.9.0.1/16, mtu: 9000, mac: '52:54:00:AA:00:77', dhcp: {start: 10.9.0.10, \
      end: 10.9.0.99, ranges: [10.9.1.1-10.9.1.9], lease: 12 hours, boot: {file: pxelinux.0, server: 10.9.0.2}, \
      hosts: [{mac: '52:54:00:AA:00:01', ip: 10.9.0.5, name: win8}, {name: other, ip: 10.9.0.6}]}, tftp: /srv/tftp}",
    "{name: lab, address: 10.9.0.1/16, nat: {ports: 2000-3000, addresses: 192.0.2.1-192.0.2.4, ipv6: true}, \
      forward_dev: lo, addresses: ['fd00:7::1/64', {address: 10.10.0.1/24, local_ptr: true}], \
      routes: [{to: 10.20.0.0/16, via: 10.9.0.2, metric: 3}, {to: 'fd01::/16', via: 'fd00:7::2'}]}",
    "{name: lab, address: 10.9.0.1/16, uuid: 9D2E07DC-BC8B-4AFA-9FC2-2587AEA917A0, domain: {name: x.example, \
      local_only: true}, dns: {forward_plain_names: false, forwarders: [192.0.2.53, a.example=192.0.2.54, b.example=], \
      hosts: {10.9.0.7: [one, two], 10.9.0.8: three}, txt: {t.example: a text}, \
      srv: [{service: ldap, protocol: tcp, domain: x.example, target: s, port: 389, priority: 1, weight: 2}]}}",
    "{name: lab, address: 10.9.0.1/16, dns: {enable: false}, dnsmasq_options: [log-queries, 'dhcp-option=3']}",
    "{name: lab, address: 'fd00:7::1/64', dhcp: {start: 'fd00:7::10', end: 'fd00:7::20', hosts: [{id: \
      '00:03:00:01:52:54:00:aa:00:01', name: six, ip: 'fd00:7::15'}]}}",
    "{name: lab, mode: macvtap, cards: [eth0, eth1]}",
    "{name: lab, mode: passthrough, cards: eth0, trust_guest_rx_filters: true}",
    "{name: lab, mode: hostdev, physical_function: eth0}",
    "{name: lab, address: 10.9.0.1/16, zone: libvirt, bandwidth: {inbound: {average: 1000}}}",
];

pub fn networks() {
    for (at, network) in NETWORKS.iter().enumerate() {
        let mut parameters = yaml(network);
        parameters["active"] = json!(false);
        parameters["autostart"] = json!(false);
        assert_eq!(apply("libvirt_network", &parameters), ["lab"], "{network}");
        // Without the memory of the last time: a definition that says the same in libvirt's own words.
        let dumped = virsh(&["net-dumpxml", "lab"]);
        let mut document = xml::parse(&dumped).unwrap();
        document.retain(|child| child.name != "metadata");
        std::fs::write("/run/lab.xml", document.print()).unwrap();
        virsh(&["net-define", "/run/lab.xml"]);
        let next = plan("libvirt_network", &parameters).unwrap();
        assert_eq!(shown(&next), Vec::<String>::new(), "{network}\n{dumped}");
        for action in next.actions {
            executor::perform(&Live::new(), &action.op, &mut |_| ()).unwrap();
        }
        assert_eq!(virsh(&["net-dumpxml", "lab"]), dumped, "{network}");
        // From each to the plainest: what was stated goes, and coming back is coming back.
        let plain = json!({"name": "lab", "mode": "isolated", "active": false, "autostart": false});
        if full() || at % 4 == 0 {
            apply("libvirt_network", &plain);
            apply("libvirt_network", &parameters);
        }
        assert_eq!(apply("libvirt_network", &json!({"name": "lab", "state": "absent"})), ["lab"]);
        assert_eq!(Live::new().virt(VirtKind::Network, "lab").unwrap(), None);
    }
    let mut parameters = yaml("{name: lab, address: 192.168.150.1/24, active: false}");
    apply("libvirt_network", &parameters);
    let unique = || {
        let network = xml::parse(&virsh(&["net-dumpxml", "lab"])).unwrap();
        (network.text_at(&["uuid"]), network.get("mac").cloned(), network.get("bridge").cloned())
    };
    let before = unique();
    parameters["address"] = json!("192.168.151.1/24");
    assert_eq!(apply("libvirt_network", &parameters), ["lab: ip address"]);
    assert_eq!(unique(), before);
    apply("libvirt_network", &json!({"name": "lab", "state": "absent"}));
}

fn set(parameters: &mut Value, way: &str, value: Value) {
    *parameters.pointer_mut(way).unwrap_or_else(|| panic!("{way}")) = value;
}

/// Does the running network, as libvirt has it, say this? (What it remembers of us is as old as its start.)
fn running(part: &str) -> bool {
    let mut network = xml::parse(&virsh(&["net-dumpxml", "lab"])).unwrap();
    network.retain(|child| child.name != "metadata");
    network.print().contains(part)
}

pub fn running_networks() {
    let mut parameters = yaml(
        "{name: lab, mode: open, address: 10.9.0.1/16, bridge: virbr9, portgroups: [{name: a}], dns: {hosts: {10.9.0.7: \
         [one]}, txt: {t: x}}, dhcp: {start: 10.9.0.10, end: 10.9.0.99, \
         hosts: [{mac: '52:54:00:AA:00:01', ip: 10.9.0.5}, {mac: '52:54:00:AA:00:02', ip: 10.9.0.6}]}}",
    );
    assert_eq!(apply("libvirt_network", &parameters), ["lab", "lab: autostart", "lab: state"]);
    let pid = || std::fs::read_to_string("/run/libvirt/network/lab.pid").unwrap_or_default();
    let edits: &[(&str, Value, &[&str], &str)] = &[
        ("/dhcp/end", json!("10.9.0.120"), &["lab: ip dhcp range end"], "end='10.9.0.120'"),
        ("/dhcp/hosts/0/ip", json!("10.9.0.4"), &["lab: ip dhcp host 52:54:00:aa:00:01 ip"], "ip='10.9.0.4'"),
        (
            "/dhcp/hosts/1",
            json!({"mac": "52:54:00:AA:00:03", "ip": "10.9.0.7"}),
            &["lab: ip dhcp host 52:54:00:aa:00:02", "lab: ip dhcp host 52:54:00:aa:00:03"],
            "52:54:00:aa:00:03",
        ),
        ("/dns/hosts/10.9.0.7", json!(["one", "two"]), &["lab: dns host 10.9.0.7 hostname two"], "<hostname>two<"),
        ("/dns/txt/t", json!("other"), &["lab: dns txt t value"], "value='other'"),
        ("/portgroups/0", json!({"name": "a", "default": true}), &["lab: portgroup a default"], "default='yes'"),
    ];
    for (way, value, expected, there) in edits {
        assert!(!running(there), "{there}");
        set(&mut parameters, way, value.clone());
        let next = plan("libvirt_network", &parameters).unwrap();
        assert_eq!((next.warnings.len(), &next.result["restart_required"]), (0, &json!(false)), "{way}");
        assert_eq!(apply("libvirt_network", &parameters), *expected, "{way}");
        assert!(running(there), "{there}\n{}", virsh(&["net-dumpxml", "lab"]));
    }
    assert!(!pid().is_empty());
    let leases = std::fs::read_to_string("/var/lib/libvirt/dnsmasq/lab.hostsfile").unwrap();
    assert!(leases.contains("52:54:00:aa:00:03,10.9.0.7") && !leases.contains("00:02"), "{leases}");
    // What has to wait is said until it is so, and what can be done at once is done.
    parameters["mtu"] = json!(1400);
    set(&mut parameters, "/dhcp/end", json!("10.9.0.130"));
    assert_eq!(apply("libvirt_network", &parameters), ["lab: mtu", "lab: ip dhcp range end"]);
    assert!(running("end='10.9.0.130'") && !running("mtu"));
    let next = plan("libvirt_network", &parameters).unwrap();
    assert_eq!((next.actions.len(), &next.result["restart_required"]), (0, &json!(true)));
    assert!(next.warnings.iter().any(|warning| warning.contains("mtu takes effect")), "{:?}", next.warnings);
    virsh(&["net-destroy", "lab"]);
    assert_eq!(apply("libvirt_network", &parameters), ["lab: state"]);
    assert_eq!(plan("libvirt_network", &parameters).unwrap().result["restart_required"], false);
    assert!(running("mtu size='1400'"));
    // A run that was cut off between the definition and the running network: the rest is done, and told.
    virsh(&["net-update", "lab", "delete", "ip-dhcp-host", "<host mac='52:54:00:aa:00:03' ip='10.9.0.7'/>", "--live"]);
    assert_eq!(apply("libvirt_network", &parameters), ["lab: running: ip dhcp host 52:54:00:aa:00:03"]);
    // What others added stays, and is mentioned.
    let by_hand = "<host mac='52:54:00:aa:00:09' ip='10.9.0.9'/>";
    virsh(&["net-update", "lab", "add-last", "ip-dhcp-host", by_hand, "--live", "--config"]);
    let next = plan("libvirt_network", &parameters).unwrap();
    assert_eq!(shown(&next), Vec::<String>::new());
    assert!(next.notes.iter().any(|note| note.contains("52:54:00:aa:00:09")), "{:?}", next.notes);
    // Every command undone in turn is the network as it was.
    let before = virsh(&["net-dumpxml", "--inactive", "lab"]);
    let runs = virsh(&["net-dumpxml", "lab"]);
    set(&mut parameters, "/dhcp/hosts", json!([]));
    let next = plan("libvirt_network", &parameters).unwrap();
    assert_eq!(shown(&next).len(), 2, "{next:#?}");
    for action in &next.actions {
        executor::perform(&Live::new(), &action.op, &mut |_| ()).unwrap();
    }
    assert_ne!(virsh(&["net-dumpxml", "lab"]), runs);
    for action in next.actions.iter().rev() {
        if let Op::Run(run) = &action.op {
            let undo = run.undo.as_ref().unwrap();
            assert!(Command::new(&undo[0]).args(&undo[1..]).output().unwrap().status.success(), "{undo:?}");
        }
    }
    assert_eq!(virsh(&["net-dumpxml", "--inactive", "lab"]), before);
    let sorted = |text: &str| -> Vec<String> {
        let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
        lines.sort();
        lines
    };
    // What comes back comes last.
    assert_eq!(sorted(&virsh(&["net-dumpxml", "lab"])), sorted(&runs));
    assert_eq!(apply("libvirt_network", &json!({"name": "lab", "state": "absent"})), ["lab: state", "lab"]);
    // Cards come and go while the network runs.
    let mut cards = yaml("{name: lab, mode: macvtap, cards: [eth0]}");
    apply("libvirt_network", &cards);
    cards["cards"] = json!(["eth1", "eth2"]);
    assert_eq!(
        apply("libvirt_network", &cards),
        ["lab: forward interface eth0", "lab: forward interface eth1", "lab: forward interface eth2"]
    );
    assert!(running("dev='eth2'") && !running("eth0"));
    // Behind the host's address: what libvirt fills in when it starts is nobody's change.
    apply("libvirt_network", &json!({"name": "lab", "state": "absent"}));
    let nat = yaml("{name: lab, address: 10.9.0.1/16}");
    apply("libvirt_network", &nat);
    assert_eq!(plan("libvirt_network", &nat).unwrap().warnings, Vec::<String>::new());
    apply("libvirt_network", &json!({"name": "lab", "state": "absent"}));
}

pub fn pools() {
    let mut parameters = yaml("{name: img, path: /srv/guests/img, mode: '0751', owner: 0, group: 0}");
    std::fs::create_dir_all("/var/guests").unwrap();
    set(&mut parameters, "/path", json!("/var/guests/img"));
    assert_eq!(apply("libvirt_pool", &parameters), ["img", "/var/guests/img", "img: state", "img: autostart"]);
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(std::fs::metadata("/var/guests/img").unwrap().permissions().mode() & 0o7777, 0o751);
    // Without the memory of the last time.
    std::fs::remove_dir_all("/var/lib/vfio-provision/pools").unwrap();
    assert_eq!(apply("libvirt_pool", &parameters), Vec::<String>::new());
    // A volume of it is known to libvirt at once.
    let volume = json!({"pool": "img", "name": "a.qcow2", "capacity": "1 GiB"});
    assert_eq!(apply("libvirt_volume", &volume), ["/var/guests/img/a.qcow2"]);
    assert!(virsh(&["vol-list", "img"]).contains("a.qcow2"));
    set(&mut parameters, "/path", json!("/var/guests/other"));
    assert_eq!(apply("libvirt_pool", &parameters), ["img: path"]);
    let next = plan("libvirt_pool", &parameters).unwrap();
    assert_eq!((next.actions.len(), &next.result["restart_required"]), (0, &json!(true)));
    parameters["active"] = json!(false);
    assert_eq!(apply("libvirt_pool", &parameters), ["img: state"]);
    parameters["active"] = json!(true);
    assert_eq!(apply("libvirt_pool", &parameters), ["/var/guests/other", "img: state"]);
    assert_eq!(apply("libvirt_pool", &json!({"name": "img", "state": "absent"})), ["img: state", "img"]);
    assert!(Path::new("/var/guests/img/a.qcow2").exists() && Path::new("/var/guests/other").exists());
    for (pool, edit, expected) in [
        (
            "{name: pn, type: netfs, host: nas, export: /e, path: /var/guests/n, format: nfs, protocol_version: '4.2'}",
            ("host", json!("other")),
            "pn: host",
        ),
        (
            "{name: pn, type: fs, devices: /dev/sdx1, path: /var/guests/f, format: ext4}",
            ("format", json!("xfs")),
            "pn: format",
        ),
        (
            "{name: pn, type: logical, group_name: vg0, devices: [/dev/sdy]}",
            ("group_name", json!("vg1")),
            "pn: volume group",
        ),
        ("{name: pn, type: dir, path: /var/guests/d, build: false}", ("path", json!("/var/guests/e")), "pn: path"),
    ] {
        let mut parameters = yaml(pool);
        parameters["active"] = json!(false);
        parameters["autostart"] = json!(false);
        assert!(apply("libvirt_pool", &parameters).contains(&"pn".to_string()), "{pool}");
        std::fs::remove_dir_all("/var/lib/vfio-provision/pools").unwrap();
        assert_eq!(apply("libvirt_pool", &parameters), Vec::<String>::new(), "{pool}");
        let uuid = || xml::parse(&virsh(&["pool-dumpxml", "pn"])).unwrap().text_at(&["uuid"]);
        let before = uuid();
        parameters[edit.0] = edit.1;
        let changed = apply("libvirt_pool", &parameters);
        assert_eq!(changed.first().map(String::as_str), Some(expected), "{pool}");
        assert_eq!(uuid(), before);
        assert_eq!(apply("libvirt_pool", &json!({"name": "pn", "state": "absent"})), ["pn"]);
    }
}

fn size_of(path: &str) -> u64 {
    let output = Command::new("qemu-img").args(["info", "-U", "--output=json", path]).output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    said["virtual-size"].as_u64().unwrap()
}

pub fn volumes() {
    const MIB: u64 = 1 << 20;
    let path = "/var/lib/libvirt/images/new/v.qcow2";
    let mut parameters = json!({"path": path, "capacity": "64 MiB"});
    assert!(apply("libvirt_volume", &parameters).contains(&path.to_string()));
    parameters["capacity"] = json!("96 MiB");
    assert_eq!(apply("libvirt_volume", &parameters), [format!("{path}: capacity")]);
    assert_eq!(size_of(path), 96 * MIB);
    parameters["capacity"] = json!("64 MiB");
    let refused = plan("libvirt_volume", &parameters).unwrap_err().to_string();
    assert!(refused.contains("would cut off") && refused.contains("capacity: \"96 MiB\""), "{refused}");
    parameters["resize"] = json!(false);
    assert_eq!(apply("libvirt_volume", &parameters), Vec::<String>::new());
    parameters["resize"] = json!(true);
    // A copy of another format, grown at once.
    let vmdk = "/var/lib/libvirt/images/a.vmdk";
    let made = Command::new("qemu-img").args(["create", "-q", "-f", "vmdk", vmdk, "32M"]).status().unwrap();
    assert!(made.success());
    let copy =
        json!({"path": "/var/lib/libvirt/images/copy.raw", "source": vmdk, "format": "raw", "capacity": "40 MiB"});
    apply("libvirt_volume", &copy);
    assert_eq!(size_of("/var/lib/libvirt/images/copy.raw"), 40 * MIB);
    let small = json!({"path": "/var/lib/libvirt/images/small.qcow2", "source": vmdk, "capacity": "16 MiB"});
    assert!(plan("libvirt_volume", &small).unwrap_err().to_string().contains("would cut off"));
    let over = json!({"path": "/var/lib/libvirt/images/over.qcow2", "backing_file": path, "capacity": "128 MiB"});
    apply("libvirt_volume", &over);
    assert_eq!(size_of("/var/lib/libvirt/images/over.qcow2"), 128 * MIB);
    let full = json!({"path": "/var/lib/libvirt/images/full.raw", "format": "raw", "capacity": "8 MiB", "preallocation": "full"});
    apply("libvirt_volume", &full);
    use std::os::unix::fs::MetadataExt as _;
    assert!(std::fs::metadata("/var/lib/libvirt/images/full.raw").unwrap().blocks() * 512 >= 8 * MIB);
    let other = json!({"path": path, "format": "raw"});
    assert!(plan("libvirt_volume", &other).unwrap().warnings.iter().any(|warning| warning.contains("not raw")));
    // A guest that runs has the image open: it is told.
    let guest = yaml(&format!(
        "{{name: user, type: qemu, memory: 64 MiB, state: running, disks: [{path}], memballoon: none, video: [none]}}"
    ));
    apply("libvirt_domain", &guest);
    parameters["capacity"] = json!("160 MiB");
    assert_eq!(apply("libvirt_volume", &parameters), [format!("{path}: capacity")]);
    assert_eq!(size_of(path), 160 * MIB);
    assert!(virsh(&["domblkinfo", "user", path]).contains(&(160 * MIB).to_string()));
    virsh(&["destroy", "user"]);
    virsh(&["undefine", "user"]);
}
