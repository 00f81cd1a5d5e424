//! NetworkManager, with a bus of its own.

use std::time::Duration;

use crate::HOSTS;
use crate::fleet::{Controller, Fleet, Host, Hosts, find, fleet_of, wait_until};
use crate::ifupdown::{GATEWAY, ended, gateway, guards, is_bridged, network};

const BRIDGE: &str = "- hosts: all
  gather_facts: false
  tasks:
    - bridge: {name: br0, port: eth0, confirm_timeout: 30}
";
const FILE: &str = "/etc/NetworkManager/system-connections/wired.nmconnection";

fn machines(count: usize) -> Option<(&'static Fleet, Hosts)> {
    let tools = ["NetworkManager", "nmcli", "dbus-daemon"];
    let missing: Vec<&str> = tools.into_iter().filter(|tool| find(tool).is_none()).collect();
    if !missing.is_empty() {
        eprintln!("skipped: missing: {}", missing.join(", "));
        return None;
    }
    let fleet = fleet_of(HOSTS)?;
    gateway(fleet);
    let hosts = fleet.take(count);
    for host in hosts.iter() {
        host.write("/etc/NetworkManager/NetworkManager.conf", "[main]\nplugins=keyfile\nauth-polkit=false\n");
        host.write(FILE, &profile(host));
        // Where it can't write to /sys it does not wait for udev, which there is none of; later it must write there.
        host.sh(&format!(
            "rm -f /etc/NetworkManager/conf.d/* && chmod 600 {FILE} && mount -t sysfs -o ro sysfs /sys && \
             mkdir -p /run/dbus && dbus-daemon --system --fork --nopidfile && ip address flush dev eth0 && \
             NetworkManager && nm-online -q -t 20; mount -o remount,rw /sys"
        ));
        assert_eq!(network(host, "eth0")[1], format!("{}/24\n", host.address()));
    }
    Some((fleet, hosts))
}

fn profile(host: &Host) -> String {
    format!(
        "[connection]\nid=wired\nuuid=0a5ce3f5-3e5f-4f5c-9d5e-0123456789{:02x}\ntype=ethernet\ninterface-name=eth0\n\n\
         [ipv4]\nmethod=manual\naddress1={}/24,{GATEWAY}\n\n[ipv6]\nmethod=disabled\n",
        host.number(),
        host.address()
    )
}

/// Everything is as it was before anybody came.
#[track_caller]
fn is_old(host: &Host, mac: &str, said: &str) {
    let name = host.name();
    let files = host.sh("ls -A /etc/NetworkManager/system-connections");
    assert_eq!(files, "wired.nmconnection\n", "{name}\n{said}");
    assert_eq!(host.read(FILE), Some(profile(host)), "{name}: the file, byte for byte\n{said}");
    // NetworkManager takes a moment where a profile that it used is gone.
    wait_until("the old network", || {
        network(host, "eth0") == [mac.to_string(), format!("{}/24\n", host.address()), format!("{GATEWAY} eth0\n")]
            && !host.path("/sys/class/net/br0").exists()
    });
    assert_eq!(guards(host), 0, "{name}: a guard is left\n{said}");
}

/// A right bridge stays, changes nothing the second time, and goes again.
#[test]
fn a_right_bridge_stays_and_goes_again() {
    let Some((fleet, hosts)) = machines(1) else { return };
    let host = &hosts[0];
    let mac = network(host, "eth0")[0].clone();
    let controller = Controller::of(fleet, &hosts);
    controller.write("bridge.yml", BRIDGE);
    let said = controller.apply("bridge.yml", &[]);
    said.code(0);
    is_bridged(host, &mac, &said.all());
    wait_until("the end of the run", || ended(host) == "\"ended\":\"whole\"");
    let said = controller.apply("bridge.yml", &[]);
    said.code(0);
    assert_eq!(said.count(&host.name(), "changed"), 0, "{}", said.all());
    controller.write("bridge.yml", &BRIDGE.replace("port: eth0,", "state: absent,"));
    let said = controller.apply("bridge.yml", &[]);
    said.code(0);
    assert!(said.all().contains("guarded: "), "{}", said.all());
    is_old(host, &mac, &said.all());
}

/// A gateway and an address that lead nowhere, and a controller that dies.
#[test]
fn a_wrong_one_goes_back_by_itself() {
    let Some((fleet, hosts)) = machines(3) else { return };
    let macs: Vec<String> = hosts.iter().map(|host| network(host, "eth0")[0].clone()).collect();
    let begin = |host: &Host, address: &str, gateway: &str| {
        let controller = Controller::of(fleet, std::slice::from_ref(host));
        let ipv4 = format!("ipv4: {{method: static, addresses: {address}, gateway: {gateway}}}");
        let play = BRIDGE.replace("confirm_timeout: 30", &format!("confirm_timeout: 8, {ipv4}"));
        controller.write("bridge.yml", &play);
        let run = controller.start_apply("bridge.yml", &[]);
        (controller, run)
    };
    let own = |host: &Host| format!("{}/24", host.address());
    let (_first, gateway) = begin(&hosts[0], &own(&hosts[0]), "10.77.1.250");
    let (_second, address) = begin(&hosts[1], "10.99.0.7/24", "10.99.0.1");
    let (_third, killed) = begin(&hosts[2], &own(&hosts[2]), GATEWAY);
    wait_until("the guard", || guards(&hosts[2]) > 0);
    killed.signal("KILL");
    killed.end(Duration::from_secs(5));
    for (run, (host, mac)) in [gateway, address].into_iter().zip(hosts.iter().zip(&macs)) {
        let said = run.end(Duration::from_secs(40));
        said.code(2);
        let why = said.ended(&host.name(), "failed").join("\n");
        assert!(why.contains("the machine has put its old network back by itself"), "{}", said.all());
        is_old(host, mac, &said.all());
    }
    wait_until("the guard's end", || guards(&hosts[2]) == 0);
    is_old(&hosts[2], &macs[2], "");
}
