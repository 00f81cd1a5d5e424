//! Guests that run on the workstation: one with memory and processors on the card's node, one with the card itself.

use std::time::{Duration, Instant};

use super::machine::{Hardware, Machine, tail};
use super::program::Controller;
use super::site::{over, probe, provisioned, read_probe, scratch, script};
use crate::Lab;

/// A guest is emulated inside of an emulated machine: what takes seconds elsewhere takes minutes.
const GUEST: Duration = Duration::from_secs(1800);

/// The provisioned machine, with what a guest boots from.
fn ready(lab: &mut Lab) -> (Machine, Controller) {
    let before = provisioned(lab);
    let folder = scratch(lab);
    let (machine, controller) = over(lab, &before.disk, &folder, &Hardware::default());
    machine.ssh(&script("tiny.sh"));
    (machine, controller)
}

/// What a command on the machine prints, if anything.
fn read(machine: &Machine, script: &str) -> String {
    String::from_utf8_lossy(&machine.try_ssh(script, Duration::from_secs(120)).stdout).into_owned()
}

/// Huge pages on the card's node after a boot, and a guest whose memory and processor are there.
pub fn pages(lab: &mut Lab) {
    let (mut machine, controller) = ready(lab);
    let planned = controller.play("plan", "pages.yml", &[]).well("the plan");
    let done = controller.play("apply", "pages.yml", &[]).well("the apply");
    machine.wait_until_up();
    assert_eq!(machine.resets(), 1, "exactly one reboot");
    lab.report.reboots += machine.resets();
    super::site::compare(lab, &planned, &done);

    let state = read_probe(&machine.ssh(&script("pages.sh")));
    let is = |key: &str, wanted: &str| {
        assert_eq!(state.get(key).map(|value| value.trim()), Some(wanted), "{key} is not what it shall be: {state:#?}");
    };
    is("pages0", "0");
    is("pages1", "112");
    is("state", "running");
    // 192 MiB in pages of 2 MiB, all of them on the card's node.
    is("on0", "0");
    is("on1", "96");
    is("cpus", "1");
    is("vcpupin", "0 1");
    let xml = machine.ssh("virsh --connect qemu:///system dumpxml paged");
    for part in ["<hugepages", "<vcpupin vcpu='0' cpuset='1'/>", "<memory mode='strict' nodeset='1'/>"] {
        assert!(xml.contains(part), "{part} is not in\n{xml}");
    }

    let again = controller.play("apply", "pages.yml", &[]).well("the second apply");
    assert!(again.changes().is_empty(), "a second time there is nothing to change:\n{}", again.in_short());
    assert_eq!(machine.resets(), 1, "the second apply has rebooted the machine");
    if lab.options.keep {
        machine.keep();
    }
}

/// A guest starts with the card, and sees it.
pub fn guest(lab: &mut Lab) {
    let (machine, controller) = ready(lab);
    let functions = ["0000:82:00.0", "0000:82:00.1"];
    let ids = functions.map(|function| {
        let text = machine.ssh(&format!("cd /sys/bus/pci/devices/{function} && cat vendor device"));
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    });
    controller.play("apply", "guest.yml", &[]).well("the apply");

    let begun = Instant::now();
    let text = loop {
        let text = read(&machine, "cat /root/img/tiny.log");
        if text.contains("LAB-PCI-END") {
            break text;
        }
        let state = machine.ssh("virsh --connect qemu:///system domstate --reason tiny");
        assert!(
            state.starts_with("running") && begun.elapsed() < GUEST,
            "the guest has not come up after {} s, and is {}:\n{}\n{}",
            begun.elapsed().as_secs(),
            state.trim(),
            tail(&text, 60),
            read(&machine, "tail -n 40 /var/log/libvirt/qemu/tiny.log")
        );
        std::thread::sleep(Duration::from_secs(10));
    };
    for (function, id) in functions.iter().zip(&ids) {
        let sees = text.lines().any(|line| line.contains("LAB-PCI ") && line.trim_end().ends_with(id.as_str()));
        assert!(sees, "the guest does not see {function} ({id}):\n{}", tail(&text, 60));
    }
    let state = probe(&machine);
    assert_eq!((state["gpu"].as_str(), state["audio"].as_str()), ("vfio-pci", "vfio-pci"), "{state:#?}");
    assert_eq!(machine.resets(), 0, "nothing asks for a boot");
    lab.report.notes.push(format!("the guest saw the card {} s after its start", begun.elapsed().as_secs()));

    let again = controller.play("apply", "guest.yml", &[]).well("the second apply");
    assert!(again.changes().is_empty(), "a second time there is nothing to change:\n{}", again.in_short());
    if lab.options.keep {
        machine.keep();
        return;
    }
    machine.ssh("virsh --connect qemu:///system destroy tiny");
    // The host has the card again, and can give it away once more.
    assert_eq!(probe(&machine)["gpu"], "vfio-pci");
}
