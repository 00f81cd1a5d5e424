//! Debian's ifupdown, which needs no service manager.

use std::sync::OnceLock;
use std::time::Duration;

use crate::fleet::{Controller, Fleet, Host, Hosts, fleet_of, find, wait_until};

/// Behind it is the controller, as these hosts see it.
const GATEWAY: &str = "10.77.1.1";
const FILE: &str = "/etc/network/interfaces";
const BRIDGE: &str = "- hosts: all
  gather_facts: false
  tasks:
    - bridge: {name: br0, port: eth0, confirm_timeout: 30}
";

fn machines(count: usize) -> Option<(&'static Fleet, Hosts)> {
    static READY: OnceLock<()> = OnceLock::new();
    let missing: Vec<&str> = ["ifup", "ifdown", "brctl"].into_iter().filter(|tool| find(tool).is_none()).collect();
    if !missing.is_empty() {
        eprintln!("skipped: missing: {}", missing.join(", "));
        return None;
    }
    let fleet = fleet_of(8)?;
    READY.get_or_init(|| fleet.ip(&format!("address add {GATEWAY}/16 dev br0\n")));
    let hosts = fleet.take(count);
    for host in hosts.iter() {
        // The kernel's own view of the cards, not a recorded one; the controller is behind the gateway.
        host.sh(&format!(
            "mount -t sysfs sysfs /sys && mkdir -p /run/network && rm -f /etc/network/if-*.d/resolved \
             /etc/network/if-*.d/wpasupplicant && printf '%s' '{}' > {FILE} && ip address flush dev eth0 && ifup lo eth0",
            interfaces(host)
        ));
    }
    Some((fleet, hosts))
}

fn interfaces(host: &Host) -> String {
    format!(
        "# Ours, by hand.\nauto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet static\n    address {}/24\n    \
         gateway {GATEWAY}\n    # the end\n",
        host.address()
    )
}

/// What the machine is reached through: interface, address, default route.
fn network(host: &Host, interface: &str) -> [String; 3] {
    [
        host.sh(&format!("cat /sys/class/net/{interface}/address")),
        host.sh(&format!("ip -4 -o address show dev {interface} | awk '{{print $4}}'")),
        host.sh("ip route show default | awk '{print $3, $5}'"),
    ]
}

fn guards(host: &Host) -> usize {
    host.sh("for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2>/dev/null; echo; done | grep -c '[-]-watch' || true")
        .trim()
        .parse()
        .unwrap()
}

/// Everything is as it was before anybody came.
#[track_caller]
fn is_old(host: &Host, mac: &str, said: &str) {
    let name = host.name();
    assert_eq!(host.read(FILE), Some(interfaces(host)), "{name}: the file, byte for byte\n{said}");
    let [now, address, route] = network(host, "eth0");
    assert_eq!(now, mac, "{name}\n{said}");
    assert_eq!(address, format!("{}/24\n", host.address()), "{name}\n{said}");
    assert_eq!(route, format!("{GATEWAY} eth0\n"), "{name}\n{said}");
    assert!(!host.path("/sys/class/net/br0").exists(), "{name}: there is still a bridge\n{said}");
    assert_eq!(guards(host), 0, "{name}: a guard is left\n{said}");
}

#[track_caller]
fn is_bridged(host: &Host, mac: &str, said: &str) {
    let [now, address, route] = network(host, "br0");
    assert_eq!((now.as_str(), address), (mac, format!("{}/24\n", host.address())), "{said}");
    assert_eq!(route, format!("{GATEWAY} br0\n"), "{said}");
    assert_eq!(network(host, "eth0")[1], "", "{said}");
    assert!(host.path("/sys/class/net/br0/brif/eth0").exists(), "{said}");
    assert_eq!(guards(host), 0, "a guard is left\n{said}");
}

/// A right bridge is confirmed and stays; a later task of the play is done once, after it; and it can be taken away again.
#[test]
fn a_right_bridge_stays_and_goes_again() {
    let Some((fleet, hosts)) = machines(1) else { return };
    let host = &hosts[0];
    let controller = Controller::of(fleet, &hosts);
    let mac = network(host, "eth0")[0].clone();
    let after = "    - command: sh -c 'echo x >> /root/later; echo $SSH_CONNECTION >> /root/way'\n";
    controller.write("bridge.yml", &format!("{}{BRIDGE}{after}", ""));
    let said = controller.apply("bridge.yml", &[]);
    said.code(0);
    is_bridged(host, &mac, &said.all());
    assert_eq!(host.read("/root/later").as_deref(), Some("x\n"), "{}", said.all());
    assert!(said.all().contains("guarded: "), "{}", said.all());
    println!("{}", said.all());
    println!("{}", host.sh("find /var/lib/vfio-provision; cat /var/lib/vfio-provision/runs/*/run.json"));

    controller.write("bridge.yml", BRIDGE);
    let said = controller.apply("bridge.yml", &[]);
    said.code(0);
    assert_eq!(said.count(&host.name(), "changed"), 0, "{}", said.all());

    controller.write("bridge.yml", &BRIDGE.replace("port: eth0,", "state: absent,"));
    let said = controller.apply("bridge.yml", &[]);
    said.code(0);
    is_old(host, &mac, &said.all());
}

/// An address or a gateway that nobody can be reached over: the machine goes back by itself, and holds up no other.
#[test]
fn a_wrong_one_goes_back_by_itself() {
    let Some((fleet, hosts)) = machines(3) else { return };
    let controller = Controller::of(fleet, &hosts);
    let macs: Vec<String> = hosts.iter().map(|host| network(host, "eth0")[0].clone()).collect();
    controller.write(
        "bridge.yml",
        "- hosts: all
  gather_facts: false
  tasks:
    - bridge:
        name: br0
        port: eth0
        confirm_timeout: 8
        ipv4: {method: static, addresses: \"{{ address }}\", gateway: \"{{ gateway }}\"}
    - copy: {dest: /root/later, content: x}
",
    );
    let right = format!("{}/24", hosts[2].address());
    let line = |host: &Host, address: &str, gateway: &str| {
        format!("{} address={address} gateway={gateway} ansible_host={}\n", host.name(), host.address())
    };
    let inventory = format!(
        "[workstations]\n{}{}{}",
        line(&hosts[0], &format!("{}/24", hosts[0].address()), "10.77.1.250"),
        line(&hosts[1], "10.99.0.7/24", "10.99.0.1"),
        line(&hosts[2], &right, GATEWAY)
    );
    controller.write("inventory", &(inventory + &controller.common("root")));
    let said = controller.apply("bridge.yml", &[]);
    println!("{}", said.all());
    for (host, mac) in hosts.iter().zip(&macs).take(2) {
        is_old(host, mac, &said.all());
        assert!(!host.path("/root/later").exists(), "{}", said.all());
        let why = said.ended(&host.name(), "failed").join("\n");
        assert!(why.contains("the machine has put its old network back by itself"), "{why}\n{}", said.all());
    }
    said.code(2);
    is_bridged(&hosts[2], &macs[2], &said.all());
    assert!(hosts[2].path("/root/later").exists(), "{}", said.all());
}
