//! Debian's ifupdown, which needs no service manager.

use std::sync::OnceLock;
use std::time::Duration;

use crate::HOSTS;
use crate::fleet::{Controller, Fleet, Host, Hosts, find, fleet_of, wait_until};

/// Behind it is the controller, as these hosts see it.
pub const GATEWAY: &str = "10.77.1.1";
const FILE: &str = "/etc/network/interfaces";
const BRIDGE: &str = "- hosts: all
  gather_facts: false
  tasks:
    - bridge: {name: br0, port: eth0, confirm_timeout: 30}
";

fn machines(count: usize) -> Option<(&'static Fleet, Hosts)> {
    let missing: Vec<&str> = ["ifup", "ifdown", "brctl"].into_iter().filter(|tool| find(tool).is_none()).collect();
    if !missing.is_empty() {
        eprintln!("skipped: missing: {}", missing.join(", "));
        return None;
    }
    let fleet = fleet_of(HOSTS)?;
    gateway(fleet);
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

/// The controller answers for it.
pub fn gateway(fleet: &Fleet) {
    static READY: OnceLock<()> = OnceLock::new();
    READY.get_or_init(|| fleet.ip(&format!("address add {GATEWAY}/16 dev br0\n")));
}

fn interfaces(host: &Host) -> String {
    format!(
        "# Ours, by hand.\nauto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet static\n    address {}/24\n    \
         gateway {GATEWAY}\n    # the end\n",
        host.address()
    )
}

/// What the machine is reached through: interface, address, default route.
pub fn network(host: &Host, interface: &str) -> [String; 3] {
    [
        host.sh(&format!("cat /sys/class/net/{interface}/address")),
        host.sh(&format!("ip -4 -o address show dev {interface} | awk '{{print $4}}'")),
        host.sh("ip route show default | awk '{print $3, $5}'"),
    ]
}

pub fn guards(host: &Host) -> usize {
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
pub fn is_bridged(host: &Host, mac: &str, said: &str) {
    let [now, address, route] = network(host, "br0");
    assert_eq!((now.as_str(), address), (mac, format!("{}/24\n", host.address())), "{said}");
    assert_eq!(route, format!("{GATEWAY} br0\n"), "{said}");
    assert_eq!(network(host, "eth0")[1], "", "{said}");
    assert!(host.path("/sys/class/net/br0/brif/eth0").exists(), "{said}");
    assert_eq!(guards(host), 0, "a guard is left\n{said}");
}

/// A script that ifupdown runs for the bridge.
fn hook(host: &Host, when: &str, script: &str) {
    let path = format!("/etc/network/{when}.d/test");
    host.write(&path, &format!("#!/bin/sh\n[ \"$IFACE\" = br0 ] || exit 0\n{script}\n"));
    host.sh(&format!("chmod 755 {path}"));
}

/// How the only run on a machine ended, as its records say.
pub fn ended(host: &Host) -> String {
    host.sh("grep -h '\"ended\"' /var/lib/vfio-provision/runs/*/run.json | tr -d ' ,'").trim().to_string()
}

/// A right bridge is confirmed and stays; a later task of the play is done once, after it; and it can be taken away
/// again. One machine is logged in to as root, the other as somebody who becomes root.
#[test]
fn a_right_bridge_stays_and_goes_again() {
    let Some((fleet, hosts)) = machines(2) else { return };
    let controller = Controller::of(fleet, &hosts);
    let macs: Vec<String> = hosts.iter().map(|host| network(host, "eth0")[0].clone()).collect();
    let name = hosts[1].name();
    controller.edit("inventory", |text| {
        text.replace(&format!("{name} "), &format!("{name} ansible_user=admin ansible_become=true "))
    });
    let after = "    - command: sh -c 'echo x >> /root/later; ls -d /sys/class/net/br0 >> /root/later'\n";
    controller.write("bridge.yml", &format!("{BRIDGE}{after}"));
    let said = controller.run(&["plan", "bridge.yml"]);
    assert!(said.out.contains("guarded: the machine puts its old network back by itself"), "{}", said.all());
    let said = controller.apply("bridge.yml", &[]);
    said.code(0);
    for (host, mac) in hosts.iter().zip(&macs) {
        is_bridged(host, mac, &said.all());
        assert_eq!(host.read("/root/later").as_deref(), Some("x\n/sys/class/net/br0\n"), "once\n{}", said.all());
        // The agents end when the controller has.
        wait_until("the end of the run", || ended(host) == "\"ended\":\"whole\"");
        wait_until("no guard's files", || host.sh("ls -A /var/lib/vfio-provision/guard").is_empty());
        // More than one login: what was confirmed came over another connection.
        assert!(host.read("/var/lib/vfio-provision/lock").unwrap_or_default().is_empty());
    }

    controller.write("bridge.yml", BRIDGE);
    let said = controller.apply("bridge.yml", &[]);
    said.code(0);
    hosts.iter().for_each(|host| assert_eq!(said.count(&host.name(), "changed"), 0, "{}", said.all()));

    controller.write("bridge.yml", &BRIDGE.replace("port: eth0,", "state: absent,"));
    let said = controller.apply("bridge.yml", &[]);
    said.code(0);
    assert!(said.all().contains("guarded: "), "{}", said.all());
    hosts.iter().zip(&macs).for_each(|(host, mac)| is_old(host, mac, &said.all()));
}

/// An address, a gateway or a VLAN that the machine can't be reached over, a bridge that does not come up, and a right one:
/// what is wrong goes back by itself, and holds up no other.
#[test]
fn a_wrong_one_goes_back_by_itself() {
    let Some((fleet, hosts)) = machines(5) else { return };
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
    let line = |host: &Host, address: &str, gateway: &str, more: &str| {
        format!("{} address={address} gateway={gateway} ansible_host={} {more}\n", host.name(), host.address())
    };
    let own = |host: &Host| format!("{}/24", host.address());
    let inventory = [
        line(&hosts[0], &own(&hosts[0]), "10.77.1.250", ""),
        line(&hosts[1], "10.99.0.7/24", "10.99.0.1", "ansible_connection=openssh"),
        // Its address is right, and its frames go where nobody is.
        line(&hosts[2], &own(&hosts[2]), GATEWAY, ""),
        line(&hosts[3], &own(&hosts[3]), GATEWAY, ""),
        line(&hosts[4], &own(&hosts[4]), GATEWAY, ""),
    ];
    hook(
        &hosts[2],
        "if-up",
        // As a switch does with a VLAN that it does not have (kernels without VLAN filtering can do this much).
        "bridge link set dev eth0 state 0 && touch /root/vlan",
    );
    hook(&hosts[3], "if-pre-up", "echo 'no bridge today' >&2; exit 1");
    controller.write("inventory", &format!("[workstations]\n{}{}", inventory.concat(), controller.common("root")));
    let said = controller.apply("bridge.yml", &[]);
    for (host, mac) in hosts.iter().zip(&macs).take(4) {
        is_old(host, mac, &said.all());
        assert!(!host.path("/root/later").exists(), "{}", said.all());
        let lines = said.lines();
        let task = lines.iter().find(|l| l["event"] == "task" && l["host"] == host.name().as_str()).unwrap();
        assert_eq!(task["status"], "failed", "{}", said.all());
        let text = task["result"].to_string();
        assert!(text.contains("the machine has put its old network back by itself"), "{text}\n{}", said.all());
        wait_until("the end of the run", || ended(host) == "\"ended\":\"failed\"");
    }
    assert!(hosts[2].path("/root/vlan").exists(), "the VLAN was not wrong\n{}", said.all());
    said.code(2).within(Duration::from_secs(35));
    is_bridged(&hosts[4], &macs[4], &said.all());
    assert!(hosts[4].path("/root/later").exists(), "{}", said.all());
    // It did not wait for those.
    let lines = said.lines();
    let of =
        |host: &Host| lines.iter().position(|l| l["event"] == "task" && l["host"] == host.name().as_str()).unwrap();
    assert!(of(&hosts[4]) < of(&hosts[0]), "{}", said.all());
}

/// A controller that dies, and an agent that dies, in the middle: nobody confirms, so the machine goes back.
#[test]
fn nobody_comes_back() {
    let Some((fleet, hosts)) = machines(2) else { return };
    let macs: Vec<String> = hosts.iter().map(|host| network(host, "eth0")[0].clone()).collect();
    let play = BRIDGE.replace("confirm_timeout: 30", "confirm_timeout: 8");
    let begin = |host: &Host| {
        hook(host, "if-pre-up", "touch /root/begun; sleep 2; touch /root/over");
        let controller = Controller::of(fleet, std::slice::from_ref(host));
        controller.write("bridge.yml", &play);
        let run = controller.start_apply("bridge.yml", &[]);
        wait_until("the bridge", || host.path("/root/begun").exists());
        (controller, run)
    };
    let (controller, killed) = begin(&hosts[0]);
    let (_other, watched) = begin(&hosts[1]);
    killed.signal("KILL");
    assert!(hosts[1].kill("agent-") >= 1);
    killed.end(Duration::from_secs(5));
    // What was begun is done to its end, and then it is only the guard that still works on the machine.
    wait_until("the agent's end", || hosts[0].path("/root/over").exists() && hosts[0].count("agent-") == 0);
    let refused = controller.apply("bridge.yml", &[]);
    assert!(
        refused.code != Some(0) && refused.all().contains("another run is working on this machine"),
        "{}",
        refused.all()
    );
    wait_until("the old network", || guards(&hosts[0]) == 0);
    is_old(&hosts[0], &macs[0], &refused.all());

    let said = watched.end(Duration::from_secs(40));
    said.code(2);
    is_old(&hosts[1], &macs[1], &said.all());
    assert!(
        said.all().contains("it was not confirmed in time: the machine has put its old network back"),
        "{}",
        said.all()
    );

    let said = controller.apply("bridge.yml", &[]);
    said.code(0);
    is_bridged(&hosts[0], &macs[0], &said.all());
}
