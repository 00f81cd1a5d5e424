//! Boots that fail, and one that does not: what has changed is booted once only, and the machine returns by itself.

use super::machine::{Hardware, Machine};
use super::program::{Controller, Said};
use super::site::fresh;
use crate::Lab;

/// Applies `boots.yml`, and says what came of it and how often the machine has reset itself meanwhile.
fn boot(machine: &mut Machine, controller: &Controller, variables: &str) -> (Said, u32) {
    let before = machine.resets();
    let said = controller.play("apply", "boots.yml", &["-e", variables]);
    machine.wait_until_up();
    (said, machine.resets() - before)
}

fn line(machine: &Machine) -> String {
    machine.ssh("cat /proc/cmdline").trim().to_string()
}

/// It failed, said so, and the machine runs what it ran before.
fn returned(lab: &mut Lab, machine: &Machine, what: &str, (said, resets): (Said, u32), not: &str) {
    let why = said.failures();
    assert_eq!(said.code, Some(2), "{what}: the run must fail:\n{}", said.in_short());
    assert!(why.contains("trial boot") && why.contains("failed"), "{what}: {why}\n{}", said.text);
    assert_eq!(resets, 2, "{what}: once into the trial, once back");
    let now = line(machine);
    assert!(!now.contains(not) && !now.contains("vfio_provision.trial"), "{what}: {now}");
    lab.report.reboots += resets;
    lab.report.notes.push(format!("{what}: {}", why.lines().next().unwrap_or_default()));
}

/// Panic, a missing driver, a missing kernel, and a change that is fine.
pub fn boots(lab: &mut Lab) {
    let (mut machine, controller) = fresh(lab, &Hardware::default());

    let tried = boot(&mut machine, &controller, r#"{"lab_arguments": ["init=/bin/false"]}"#);
    returned(lab, &machine, "a command line that panics", tried, "init=/bin/false");
    // A boot that nobody asked for is one into what is known to be good, too.
    machine.reboot();
    assert!(!line(&machine).contains("init=/bin/false"), "a later boot must not try it again");
    lab.report.reboots += 1;
    let (said, resets) = boot(&mut machine, &controller, r#"{"lab_without": ["init"]}"#);
    assert_eq!((said.code, resets), (Some(0), 0), "taken back, nothing is left to boot for:\n{}", said.in_short());

    let broken = format!(r#"{{"lab_broken": "{}", "lab_reasons": ["another initramfs"]}}"#, lab.kind.name());
    let tried = boot(&mut machine, &controller, &broken);
    returned(lab, &machine, "an initramfs without the root's driver", tried, "nothing");
    let (said, resets) = boot(&mut machine, &controller, r#"{"lab_reasons": ["the initramfs is good again"]}"#);
    assert_eq!((said.code, resets), (Some(0), 1), "the good initramfs must boot:\n{}", said.in_short());
    lab.report.reboots += 1;

    machine.ssh("for file in /boot/vmlinuz-*; do mv $file /root/; done");
    let (said, resets) = boot(&mut machine, &controller, r#"{"lab_arguments": ["quiet"]}"#);
    assert_eq!((said.code, resets), (Some(2), 0), "a kernel that is not there must be refused:\n{}", said.in_short());
    lab.report
        .notes
        .push(format!("a kernel that is not there: {}", said.failures().lines().next().unwrap_or_default()));
    machine.ssh("mv /root/vmlinuz-* /boot/");

    let (said, resets) = boot(&mut machine, &controller, r#"{"lab_arguments": ["quiet"]}"#);
    assert_eq!((said.code, resets), (Some(0), 1), "a change that is fine boots once:\n{}", said.in_short());
    assert!(line(&machine).split_whitespace().any(|word| word == "quiet"));
    machine.reboot();
    let now = line(&machine);
    assert!(now.split_whitespace().any(|word| word == "quiet") && !now.contains("vfio_provision.trial"), "{now}");
    lab.report.reboots += 2;
    if lab.options.keep {
        machine.keep();
    }
}
