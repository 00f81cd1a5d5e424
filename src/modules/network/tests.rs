use proptest::prelude::*;
use serde_json::{Value, json};

use super::backend::{ifcfg, ifupdown, keyfile, netplan, networkd};
use super::predict_boot;
use crate::change::{Effect, Op, Run};
use crate::host::error::ErrorKind;
use crate::host::model::predict;
use crate::host::overlay::Overlay;
use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};
use crate::host::{Host, Output, Package, Result, Stat, Unit, Virt, VirtKind};

const ROUTE: &str = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
    eno1\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
    eno1\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n\
    eno2\t0000000A\t00000000\t0001\t0\t0\t101\t000000FF\t0\t0\t0\n";
const TRIE: &str = "Main:\n     |-- 192.168.1.10\n        /32 host LOCAL\n";
const MAC: &str = "0c:c4:7a:aa:bb:01";
const SSH: &str = "  sl  local_address rem_address   st\n   0: 0A01A8C0:0016 0501A8C0:C001 01 0\n";

/// A machine with two cards, the default route over eno1, and these files.
fn with(os: &str, more: &[(&str, &str)]) -> Machine {
    let mut files = vec![
        ("/etc/os-release", os),
        ("/etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
        ("/proc/net/route", ROUTE),
        ("/proc/net/fib_trie", TRIE),
        ("/sys/class/net/eno1", "-> ../../devices/pci0000:00/0000:01:00.0/net/eno1"),
        ("/sys/devices/pci0000:00/0000:01:00.0/net/eno1/address", "0c:c4:7a:aa:bb:01\n"),
        ("/sys/devices/pci0000:00/0000:01:00.0/net/eno1/device", "-> ../../../0000:01:00.0"),
        ("/sys/class/net/eno2", "-> ../../devices/pci0000:00/0000:01:00.1/net/eno2"),
        ("/sys/devices/pci0000:00/0000:01:00.1/net/eno2/address", "0c:c4:7a:aa:bb:02\n"),
        ("/sys/devices/pci0000:00/0000:01:00.1/net/eno2/device", "-> ../../../0000:01:00.1"),
        ("/sys/class/net/lo/address", "00:00:00:00:00:00\n"),
    ];
    files.extend_from_slice(more);
    machine(&files)
}

const EL7: &str = "ID=\"centos\"\nVERSION_ID=\"7\"\nPRETTY_NAME=\"CentOS Linux 7 (Core)\"\n";
const EL9: &str = "ID=\"rocky\"\nVERSION_ID=\"9.4\"\nID_LIKE=\"rhel centos fedora\"\nPRETTY_NAME=\"Rocky 9\"\n";
const DEBIAN: &str = "ID=debian\nVERSION_ID=\"12\"\n";
const UBUNTU: &str = "ID=ubuntu\nVERSION_ID=\"24.04\"\n";
const ARCH: &str = "ID=arch\n";

const IFCFG: &str = "# by anaconda\nTYPE=\"Ethernet\"\nBOOTPROTO=\"static\"\nDEVICE=\"eno1\"\nONBOOT=\"yes\"\n\
    HWADDR=0C:C4:7A:AA:BB:01\nUUID=1c8d\nIPADDR=192.168.1.10\nPREFIX=24\nGATEWAY=192.168.1.1\nDNS1=192.168.1.1";
const PROFILE: &str = "[connection]\nid=lan\nuuid=1c8d\ntype=ethernet\nautoconnect=true\ninterface-name=eno1\n\n[ethernet]\n\n\
    [ipv4]\naddress1=192.168.1.10/24,192.168.1.1\ndns=192.168.1.1;\nmethod=manual\n\n[ipv6]\nmethod=auto\n";
const NETPLAN: &str = "# cloud\nnetwork:\n    version: 2\n    ethernets:\n        eno1:\n            wakeonlan: \
 true\n            \
    addresses:\n            - 192.168.1.10/24\n            routes:\n            -   to: default\n                via: 192.168.1.1\n            \
    nameservers: {addresses: [192.168.1.1]}\n        eno2:\n            dhcp4: true\n";
const NETWORK: &str = "[Match]\nName=en*\n\n[Link]\nMTUBytes=9000\n\n[Network]\nDHCP=yes\n\n[DHCPv4]\nRouteMetric=50\n";
const INTERFACES: &str = "source /etc/network/interfaces.d/*\n\nauto lo eno1\niface lo inet loopback\n\n# the \
 lan\niface eno1 inet static\n    \
    address 192.168.1.10/24\n    gateway 192.168.1.1\n\niface eno2 inet dhcp\n";

fn text(machine: &dyn Host, path: &str) -> String {
    machine.read_text(path).unwrap().unwrap_or_default()
}

fn unit(machine: &Machine, name: &str) {
    let effect =
        Effect::Unit { name: name.into(), exists: Some(true), enabled: Some("enabled".into()), active: Some(true) };
    predict(machine, &Op::Run(Run::new(["test"], vec![effect]))).unwrap();
}

fn package(machine: &Machine, name: &str) {
    let effect = Effect::Package { name: name.into(), version: None, present: true };
    predict(machine, &Op::Run(Run::new(["test"], vec![effect]))).unwrap();
}

/// Up at once, real, MAC kept, nothing left to do; then away again, every byte as before.
fn round(machine: &Machine, backend: &str, theirs: &[(&str, &str)]) -> String {
    let done = apply(machine, "bridge", json!({})).unwrap();
    let again = plan(machine, "bridge", json!({})).unwrap();
    assert_eq!((again.actions.len(), again.reboot.len()), (0, 0), "{backend}: {:#?}", again.actions);
    assert_eq!(again.result["backend"], json!(backend));
    assert_eq!(again.result["port"], json!("eno1"), "the card is still the one meant when br0 has the route");
    assert_eq!(text(machine, "/sys/class/net/br0/address"), format!("{MAC}\n"));
    assert!(machine.exists("/sys/class/net/br0/brif/eno1").unwrap());
    assert!(text(machine, "/proc/net/route").contains("br0\t00000000"));
    // A boot from these files changes nothing.
    predict_boot(machine).unwrap();
    assert!(plan(machine, "bridge", json!({})).unwrap().actions.is_empty());

    let away = json!({"state": "absent"});
    apply(machine, "bridge", away.clone()).unwrap();
    for (path, before) in theirs {
        assert_eq!(&text(machine, path), before, "{path} byte for byte");
    }
    assert!(!machine.exists("/sys/class/net/br0").unwrap());
    assert_eq!(text(machine, "/proc/net/route"), ROUTE);
    let left = plan(machine, "bridge", away).unwrap();
    assert_eq!((left.actions.len(), left.reboot.len()), (0, 0));
    for folder in [ifcfg::FOLDER, keyfile::FOLDER, netplan::FOLDER, networkd::FOLDER] {
        for name in machine.list(folder).unwrap() {
            assert!(!name.contains("br0"), "{folder}/{name} is left");
        }
    }
    shown(&done)
}

#[test]
fn ifcfg_on_enterprise_linux_7() {
    let path = "/etc/sysconfig/network-scripts/ifcfg-eno1";
    let route = "/etc/sysconfig/network-scripts/route-eno1";
    let machine = with(EL7, &[(path, IFCFG), (route, "10.1.0.0/16 via 192.168.1.2 dev eno1\n")]);
    let diff = round(&machine, "ifcfg", &[(path, IFCFG), (route, "10.1.0.0/16 via 192.168.1.2 dev eno1\n")]);
    for line in [
        "+TYPE=Bridge\n",
        "+MACADDR=0C:C4:7A:AA:BB:01\n",
        "+IPADDR=192.168.1.10\n",
        "+BRIDGE=br0\n",
        "+DELAY=0\n",
        "+BOOTPROTO=\"static\"\n",
        "+10.1.0.0/16 via 192.168.1.2 dev br0\n",
        "-IPADDR=192.168.1.10\n",
    ] {
        assert!(diff.contains(line), "{line}{diff}");
    }
    assert!(!diff.contains("-HWADDR") && !diff.contains("-UUID"), "what belongs to the card stays: {diff}");
    assert!(diff.contains("network br0\n+ up, port eno1\n"), "{diff}");
}

#[test]
fn networkmanager_keyfiles() {
    let path = "/etc/NetworkManager/system-connections/lan.nmconnection";
    let machine = with(EL9, &[(path, PROFILE)]);
    unit(&machine, "NetworkManager.service");
    predict(&machine, &Op::SetAttributes { path: path.into(), mode: Some(0o600), owner: None, group: None }).unwrap();
    let first = plan(&machine, "bridge", json!({})).unwrap();
    assert_eq!(first.notes, ["this machine is reached over eno1 (192.168.1.10); the address moves to br0"]);
    apply(&machine, "bridge", json!({})).unwrap();
    let bridge = "/etc/NetworkManager/system-connections/br0.nmconnection";
    let body = text(&machine, bridge);
    assert!(body.contains("\n[ethernet]\ncloned-mac-address=0C:C4:7A:AA:BB:01\n"), "{body}");
    assert!(
        body.contains("\n[ipv4]\naddress1=192.168.1.10/24,192.168.1.1\ndns=192.168.1.1;\nmethod=manual\n"),
        "{body}"
    );
    assert_eq!(machine.stat(bridge).unwrap().map(|s| s.mode), Some(0o600));
    assert_eq!(machine.stat(path).unwrap().map(|s| s.mode), Some(0o600));
    let port = text(&machine, "/etc/NetworkManager/system-connections/br0-port-eno1.nmconnection");
    assert!(port.contains("master=br0\nslave-type=bridge\n") && port.contains("interface-name=eno1\n"), "{port}");
    let old = text(&machine, path);
    assert!(old.contains("\nautoconnect=false\n") && old.contains("\n#vfio-provision# autoconnect=true\n"), "{old}");
    apply(&machine, "bridge", json!({"state": "absent"})).unwrap();
    round(&machine, "networkmanager", &[(path, PROFILE)]);
}

#[test]
fn networkmanager_without_a_profile_means_dhcp() {
    let machine = with(EL9, &[]);
    unit(&machine, "NetworkManager.service");
    let diff = round(&machine, "networkmanager", &[]);
    assert!(diff.contains("+[ipv4]\n+method=auto\n"), "{diff}");
}

#[test]
fn netplan_moves_only_addresses() {
    let path = "/etc/netplan/50-cloud-init.yaml";
    let machine = with(UBUNTU, &[(path, NETPLAN)]);
    apply(&machine, "bridge", json!({})).unwrap();
    let own = "/etc/netplan/90-vfio-provision-br0.yaml";
    assert_eq!(machine.stat(own).unwrap().map(|s| s.mode), Some(0o600));
    assert_eq!(
        text(&machine, own),
        "# Written by vfio-provision (bridge); changes are overwritten.\n\
         # bridge br0 port eno1 mac 0c:c4:7a:aa:bb:01\n\
         network:\n  version: 2\n  ethernets:\n    eno1:\n      dhcp4: false\n      dhcp6: false\n  bridges:\n    br0:\n      \
         interfaces: [eno1]\n      macaddress: \"0c:c4:7a:aa:bb:01\"\n      parameters:\n        stp: false\n        \
         forward-delay: 0\n      addresses:\n      - 192.168.1.10/24\n      routes:\n      -   to: default\n          via: \
         192.168.1.1\n      nameservers: {addresses: [192.168.1.1]}\n"
    );
    let value: Value = serde_yaml::from_str(&text(&machine, own)).unwrap();
    assert_eq!(value["network"]["bridges"]["br0"]["routes"][0]["via"], json!("192.168.1.1"));
    let value: Value = serde_yaml::from_str(&text(&machine, path)).unwrap();
    assert_eq!(value["network"]["ethernets"], json!({"eno1": {"wakeonlan": true}, "eno2": {"dhcp4": true}}));
    apply(&machine, "bridge", json!({"state": "absent"})).unwrap();
    round(&machine, "netplan", &[(path, NETPLAN)]);
}

#[test]
fn netplan_leaves_no_empty_mapping_and_knows_cards_by_mac() {
    let path = "/etc/netplan/01.yaml";
    let only = "network:\n  version: 2\n  ethernets:\n    eno1:\n      dhcp4: true\n";
    let machine = with(UBUNTU, &[(path, only)]);
    apply(&machine, "bridge", json!({})).unwrap();
    let value: Value = serde_yaml::from_str(&text(&machine, path)).unwrap();
    assert_eq!(value, json!({"network": {"version": 2}}));
    let matched = "network:\n  ethernets:\n    lan:\n      match: # by address\n        macaddress: \
     \"0C:C4:7A:AA:BB:01\"\n      dhcp4: true\n  version: 2\n";
    let machine = with(UBUNTU, &[(path, matched)]);
    apply(&machine, "bridge", json!({})).unwrap();
    assert!(text(&machine, "/etc/netplan/90-vfio-provision-br0.yaml").contains("interfaces: [lan]\n"));
    let flow = "network:\n  ethernets:\n    eno1: {dhcp4: true}\n";
    assert!(refusal(&with(UBUNTU, &[(path, flow)]), json!({})).contains("in braces on one line"));
}

#[test]
fn networkd_wins_by_coming_first() {
    let path = "/etc/systemd/network/20-wired.network";
    let machine = with(ARCH, &[(path, NETWORK)]);
    unit(&machine, "systemd-networkd.service");
    let diff = round(&machine, "networkd", &[(path, NETWORK)]);
    for line in
        ["+MACAddress=0c:c4:7a:aa:bb:01\n", "+DHCP=yes\n", "+RouteMetric=50\n", "+Bridge=br0\n", "+Kind=bridge\n"]
    {
        assert!(diff.contains(line), "{line}{diff}");
    }
    assert!(!diff.contains("MTUBytes"), "{diff}");
    let first = with(ARCH, &[("/etc/systemd/network/00-a.network", NETWORK)]);
    unit(&first, "systemd-networkd.service");
    assert!(refusal(&first, json!({})).contains("comes before any file of ours"));
}

#[test]
fn ifupdown_keeps_what_is_not_the_cards() {
    let machine = with(DEBIAN, &[(ifupdown::MAIN, INTERFACES)]);
    let said = refusal(&machine, json!({}));
    assert!(said.contains("bridge-utils"), "{said}");
    package(&machine, "bridge-utils");
    apply(&machine, "bridge", json!({})).unwrap();
    assert_eq!(
        text(&machine, ifupdown::MAIN),
        "# BEGIN vfio-provision\n# bridge br0 port eno1 mac 0c:c4:7a:aa:bb:01\nauto lo\nauto br0\niface eno1 \
         inet manual\n\
         iface br0 inet static\n    address 192.168.1.10/24\n    gateway 192.168.1.1\n    bridge_ports eno1\n    bridge_stp off\n    \
         bridge_fd 0\n    bridge_hw 0c:c4:7a:aa:bb:01\n# END vfio-provision\n\
         source /etc/network/interfaces.d/*\n\n#vfio-provision# auto lo eno1\niface lo inet loopback\n\n# the lan\n\
         #vfio-provision# iface eno1 inet static\n#vfio-provision#     address 192.168.1.10/24\n#vfio-provision#     gateway \
         192.168.1.1\n\niface eno2 inet dhcp\n"
    );
    apply(&machine, "bridge", json!({"state": "absent"})).unwrap();
    round(&machine, "ifupdown", &[(ifupdown::MAIN, INTERFACES)]);
}

#[test]
fn given_addresses_replace_those_of_the_card_in_every_backend() {
    let wanted = json!({"ipv4": {"method": "static", "addresses": ["10.0.0.5/16"], "gateway": "10.0.0.1", "dns": ["10.0.0.2", "10.0.0.3"]}});
    let ifcfg_path = "/etc/sysconfig/network-scripts/ifcfg-eno1";
    for (os, path, content, expected) in [
        (
            EL7,
            ifcfg_path,
            IFCFG,
            vec!["+IPADDR=10.0.0.5\n+PREFIX=16\n+GATEWAY=10.0.0.1\n+DNS1=10.0.0.2\n+DNS2=10.0.0.3\n"],
        ),
        (
            EL9,
            "/etc/NetworkManager/system-connections/lan.nmconnection",
            PROFILE,
            vec!["+method=manual\n+address1=10.0.0.5/16\n+gateway=10.0.0.1\n+dns=10.0.0.2;10.0.0.3;\n"],
        ),
        (
            UBUNTU,
            "/etc/netplan/1.yaml",
            NETPLAN,
            vec![
                "+        - 10.0.0.5/16\n",
                "+          via: 10.0.0.1\n",
                "+        addresses: [10.0.0.2, 10.0.0.3]\n",
            ],
        ),
        (
            ARCH,
            "/etc/systemd/network/20.network",
            NETWORK,
            vec!["+DHCP=no\n+Address=10.0.0.5/16\n+Gateway=10.0.0.1\n+DNS=10.0.0.2\n+DNS=10.0.0.3\n"],
        ),
        (
            DEBIAN,
            ifupdown::MAIN,
            INTERFACES,
            vec!["+    address 10.0.0.5/16\n+    gateway 10.0.0.1\n+    dns-nameservers 10.0.0.2 10.0.0.3\n"],
        ),
    ] {
        let machine = with(os, &[(path, content)]);
        package(&machine, "bridge-utils");
        let diff = shown(&apply(&machine, "bridge", wanted.clone()).unwrap());
        for line in expected {
            assert!(diff.contains(line), "{path}: {line}{diff}");
        }
        assert!(
            !diff.contains("+IPADDR=192") && !diff.contains("+address1=192") && !diff.contains("+    address 192"),
            "{diff}"
        );
        assert!(!diff.contains("+      - 192") && !diff.contains("+DHCP=yes"), "{diff}");
    }
}

fn refusal(host: &dyn Host, parameters: Value) -> String {
    let error = plan(host, "bridge", parameters).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Refused, "{error}");
    error.to_string()
}

#[test]
fn with_somebody_connected_it_waits_for_the_boot() {
    let path = "/etc/sysconfig/network-scripts/ifcfg-eno1";
    let machine = with(EL7, &[(path, IFCFG), ("/proc/net/tcp", SSH)]);
    let first = plan(&machine, "bridge", json!({})).unwrap();
    assert_eq!(first.reboot, ["br0 over eno1 comes with the next boot: the machine is reached through eno1"]);
    let done = apply(&machine, "bridge", json!({})).unwrap();
    assert!(done.iter().all(|action| matches!(action.op, Op::WriteFile { .. })), "nothing is run: {done:#?}");
    assert!(!machine.exists("/sys/class/net/br0").unwrap());
    assert_eq!(plan(&machine, "bridge", json!({})).unwrap().reboot.len(), 1, "said until it is real");
    predict_boot(&machine).unwrap();
    let after = plan(&machine, "bridge", json!({})).unwrap();
    assert_eq!((after.actions.len(), after.reboot.len(), after.notes.len()), (0, 0, 0), "{:?}", after.reboot);
    assert_eq!(text(&machine, "/sys/class/net/br0/address"), format!("{MAC}\n"));
    // And back: away with the files now, with the bridge at the boot.
    let away = json!({"state": "absent"});
    let done = apply(&machine, "bridge", away.clone()).unwrap();
    assert!(!done.iter().any(|action| matches!(action.op, Op::Run(_))), "{done:#?}");
    assert_eq!(plan(&machine, "bridge", away.clone()).unwrap().reboot, ["br0 goes with the next boot"]);
    predict_boot(&machine).unwrap();
    assert_eq!(plan(&machine, "bridge", away).unwrap().reboot, Vec::<String>::new());
    assert_eq!(text(&machine, path), IFCFG);
}

/// The same machine, reached from this address.
struct Remote(Machine, &'static str);

impl Host for Remote {
    fn raw_lstat(&self, path: &str) -> Result<Option<Stat>> {
        self.0.raw_lstat(path)
    }
    fn raw_read_link(&self, path: &str) -> Result<String> {
        self.0.raw_read_link(path)
    }
    fn raw_read(&self, path: &str) -> Result<Vec<u8>> {
        self.0.raw_read(path)
    }
    fn raw_list(&self, path: &str) -> Result<Vec<String>> {
        self.0.raw_list(path)
    }
    fn raw_sha256(&self, path: &str) -> Result<String> {
        self.0.raw_sha256(path)
    }
    fn package(&self, name: &str) -> Result<Option<Package>> {
        self.0.package(name)
    }
    fn available(&self, name: &str) -> Result<Option<crate::host::Available>> {
        self.0.available(name)
    }
    fn unit(&self, name: &str) -> Result<Unit> {
        self.0.unit(name)
    }
    fn virt(&self, kind: VirtKind, name: &str) -> Result<Option<Virt>> {
        self.0.virt(kind, name)
    }
    fn virt_names(&self, kind: VirtKind) -> Result<Vec<String>> {
        self.0.virt_names(kind)
    }
    fn query(&self, _: &[&str]) -> Result<Option<Output>> {
        Ok(None)
    }
    fn control_peer(&self) -> Option<String> {
        Some(self.1.into())
    }
}

#[test]
fn the_connection_of_the_run_is_edited_under_guard_only() {
    let path = "/etc/sysconfig/network-scripts/ifcfg-eno1";
    let through = || Remote(with(EL7, &[(path, IFCFG)]), "192.168.1.5");
    let first = plan(&through(), "bridge", json!({"confirm_timeout": 45})).unwrap();
    assert_eq!(
        first.notes,
        [
            "this machine is reached over eno1 (192.168.1.10) from 192.168.1.5; the address moves to br0",
            "guarded: the machine puts its old network back by itself unless it is reached over a new connection within 45 s"
        ]
    );
    assert!(first.reboot.is_empty());
    let guard = first.guard.unwrap();
    let back: Vec<String> = guard.back.iter().map(|argv| argv.join(" ")).collect();
    assert_eq!(guard.seconds, 45);
    assert_eq!(back, ["ifdown br0", "ifdown eno1", "ip link delete br0 type bridge", "ifup eno1"]);
    let later = plan(&through(), "bridge", json!({"activate": "boot"})).unwrap();
    assert_eq!((later.guard, later.reboot.len()), (None, 1));
    assert!(later.actions.iter().all(|action| matches!(action.op, Op::WriteFile { .. })));
    // Over the other card nothing can be cut.
    let other = plan(&Remote(with(EL7, &[(path, IFCFG)]), "10.9.9.9"), "bridge", json!({})).unwrap();
    assert_eq!((other.reboot.len(), other.notes.len(), other.guard), (0, 0, None));
    assert!(other.actions.iter().any(|action| matches!(action.op, Op::Run(_))));
}

#[test]
fn cards_that_can_not_be_ports() {
    let path = "/etc/sysconfig/network-scripts/ifcfg-eno1";
    let with_more = |more: &[(&str, &str)]| {
        let mut files = vec![(path, IFCFG)];
        files.extend_from_slice(more);
        with(EL7, &files)
    };
    let ask = |more: &[(&str, &str)], parameters: Value| refusal(&with_more(more), parameters);
    assert_eq!(
        ask(&[], json!({"port": "eno9"})),
        "there is no network card `eno9` on this machine\nhint: the cards here are eno1, eno2"
    );
    assert!(ask(&[], json!({"port": "aa:bb:cc:dd:ee:ff"})).starts_with("no network card has the hardware address"));
    assert!(ask(&[("/sys/class/net/eno2/phy80211/", "")], json!({"port": "eno2"})).starts_with("eno2 is wireless"));
    assert!(
        ask(
            &[("/sys/class/net/eno2/master", "-> ../bond0"), ("/sys/class/net/bond0/bonding/", "")],
            json!({"port": "eno2"})
        )
        .starts_with("eno2 is a part of bond0 (bond or team)")
    );
    assert!(
        ask(
            &[("/sys/class/net/eno2/master", "-> ../br7"), ("/sys/class/net/br7/bridge/", "")],
            json!({"port": "eno2"})
        )
        .starts_with("eno2 is a port of the bridge br7 already")
    );
    assert!(ask(&[], json!({"port": "lo"})).starts_with("lo can't be the port"));
    assert!(ask(&[("/proc/net/route", "Iface\n")], json!({})).contains("there is no default route"));
    assert!(
        ask(&[("/etc/sysconfig/network-scripts/ifcfg-br0", "DEVICE=br0\n")], json!({}))
            .contains("was not written by this program")
    );
    assert!(ask(&[], json!({"port": "eno2"})).starts_with("who configures eno2 can't be told"));
}

#[test]
fn a_card_is_found_by_its_mac_before_and_after() {
    let path = "/etc/sysconfig/network-scripts/ifcfg-eno1";
    let machine = with(EL7, &[(path, IFCFG)]);
    let wanted = json!({"port": "0C:C4:7A:AA:BB:01"});
    apply(&machine, "bridge", wanted.clone()).unwrap();
    // br0 has the same address now.
    assert_eq!(plan(&machine, "bridge", wanted).unwrap().result["port"], json!("eno1"));
}

#[test]
fn a_bridge_of_someone_else_is_left_alone() {
    let machine = with(
        EL7,
        &[
            ("/sys/class/net/br0/bridge/", ""),
            ("/sys/class/net/br0/brif/eno1", "-> ../../eno1/brport"),
            ("/sys/class/net/eno1/master", "-> ../br0"),
            ("/etc/sysconfig/network-scripts/ifcfg-br0", "DEVICE=br0\n"),
        ],
    );
    let first = plan(&machine, "bridge", json!({"port": "eno1"})).unwrap();
    assert!(first.actions.is_empty());
    assert!(first.notes[0].contains("made by someone else"), "{:?}", first.notes);
    let away = plan(&machine, "bridge", json!({"state": "absent"})).unwrap();
    assert_eq!((away.actions.len(), away.reboot.len()), (0, 0));
}

#[test]
fn another_port_gives_the_first_one_back() {
    let first = "/etc/sysconfig/network-scripts/ifcfg-eno1";
    let second = "/etc/sysconfig/network-scripts/ifcfg-eno2";
    let machine = with(EL7, &[(first, IFCFG), (second, "DEVICE=eno2\nBOOTPROTO=dhcp\nONBOOT=yes\n")]);
    apply(&machine, "bridge", json!({"activate": "boot"})).unwrap();
    apply(&machine, "bridge", json!({"activate": "boot", "port": "eno2"})).unwrap();
    assert_eq!(text(&machine, first), IFCFG);
    assert!(text(&machine, second).contains("BRIDGE=br0\n"));
}

#[test]
fn qemu_of_a_user_may_use_it_only_when_asked() {
    let path = "/etc/sysconfig/network-scripts/ifcfg-eno1";
    let conf = "/etc/qemu-kvm/bridge.conf";
    let machine = with(EL7, &[(path, IFCFG), (conf, "allow virbr0\n")]);
    apply(&machine, "bridge", json!({"qemu_session": true})).unwrap();
    assert!(text(&machine, conf).contains("\nallow br0\n"));
    apply(&machine, "bridge", json!({"state": "absent"})).unwrap();
    assert_eq!(text(&machine, conf), "allow virbr0\n");
}

#[test]
fn spanning_tree_keeps_the_delay_that_it_needs() {
    for (os, path, content) in [
        (EL7, "/etc/sysconfig/network-scripts/ifcfg-eno1", IFCFG),
        (UBUNTU, "/etc/netplan/1.yaml", NETPLAN),
        (ARCH, "/etc/systemd/network/20.network", NETWORK),
        (DEBIAN, ifupdown::MAIN, INTERFACES),
    ] {
        let machine = with(os, &[(path, content)]);
        package(&machine, "bridge-utils");
        let diff = shown(&apply(&machine, "bridge", json!({"stp": true})).unwrap());
        assert!(["STP=yes", "stp: true", "bridge_stp on"].iter().any(|line| diff.contains(line)), "{diff}");
        assert!(
            !["DELAY=0", "forward-delay: 0", "ForwardDelaySec=0", "bridge_fd"].iter().any(|line| diff.contains(line)),
            "{diff}"
        );
    }
}

#[test]
fn wrong_parameters() {
    let path = "/etc/sysconfig/network-scripts/ifcfg-eno1";
    let machine = with(EL7, &[(path, IFCFG)]);
    for wrong in [
        json!({"name": "a/b"}),
        json!({"name": "sixteen-letters-"}),
        json!({"mac": "x"}),
        json!({"ipv4": {"method": "static"}}),
        json!({"bakend": "ifcfg"}),
    ] {
        assert_eq!(plan(&machine, "bridge", wrong.clone()).unwrap_err().kind, ErrorKind::Parameters, "{wrong}");
    }
    assert!(refusal(&with(EL9, &[]), json!({"backend": "netplan"})).contains("could take over"));
    let _: &Overlay<_> = &machine;
}

/// Lines that such files are made of, in any order, with and without a newline at the end.
fn any_text(lines: &'static [&'static str]) -> impl Strategy<Value = String> {
    (prop::collection::vec(prop::sample::select(lines), 0..14), any::<bool>())
        .prop_map(|(lines, newline)| lines.join("\n") + if newline { "\n" } else { "" })
}

/// Whatever stands in the file: no panic, and where the bridge is made, every byte comes back.
fn comes_back(os: &str, path: &str, content: &str) -> std::result::Result<(), TestCaseError> {
    let machine = with(os, &[(path, content)]);
    package(&machine, "bridge-utils");
    if plan(&machine, "bridge", json!({})).is_err() {
        return Ok(());
    }
    apply(&machine, "bridge", json!({})).unwrap();
    apply(&machine, "bridge", json!({"state": "absent"})).unwrap();
    prop_assert_eq!(text(&machine, path), content);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_ifcfg_comes_back(text in any_text(&[
        "DEVICE=eno1", "DEVICE=\"eno1\"", "IPADDR=1.2.3.4", "BOOTPROTO=dhcp", "# x", "", "ONBOOT=yes", "BRIDGE=br0", "=", "IPV6INIT=no",
    ])) {
        comes_back(EL7, "/etc/sysconfig/network-scripts/ifcfg-eno1", &text)?;
    }

    #[test]
    fn any_interfaces_come_back(text in any_text(&[
        "auto eno1", "auto lo eno1", "iface eno1 inet dhcp", "iface eno1", "    address 1.2.3.4/24", "iface lo inet loopback", "", "# x",
        "iface eno1 inet6 auto", "allow-hotplug eno1", "source /x/*",
    ])) {
        comes_back(DEBIAN, ifupdown::MAIN, &text)?;
    }

    #[test]
    fn any_netplan_comes_back(text in any_text(&[
        "network:", "  version: 2", "  ethernets:", "    eno1:", "      dhcp4: true", "      addresses:", "      - 1.2.3.4/24",
        "        - 1.2.3.5/24", "      match: {name: eno1}", "      mtu: 9000", "# x", "", "    eno2: {}", "\u{e4}: \u{fc}", "   odd:",
    ])) {
        comes_back(UBUNTU, "/etc/netplan/1.yaml", &text)?;
    }

    #[test]
    fn any_profile_comes_back(text in any_text(&[
        "[connection]", "type=ethernet", "interface-name=eno1", "autoconnect=true", "autoconnect = false", "[ipv4]", "method=auto", "#x",
        "", "[", "zone=home",
    ])) {
        comes_back(EL9, "/etc/NetworkManager/system-connections/a.nmconnection", &text)?;
    }
}
