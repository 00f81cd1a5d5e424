//! Failures that come late: each is said clearly, and the next run converges.

use super::machine::{Hardware, Machine};
use super::program::{Controller, Said};
use super::site::{assert_provisioned, fresh, probe};
use crate::Lab;

/// The site, which must fail in a task and say this.
fn fails(lab: &mut Lab, machine: &mut Machine, controller: &Controller, what: &str, reasons: &[&str]) -> Said {
    let said = controller.play("apply", "site.yml", &[]);
    let why = said.failures();
    assert_eq!(said.code, Some(2), "{what} did not fail the run:\n{}", said.in_short());
    for reason in reasons {
        assert!(said.text.contains(reason), "{what}: `{reason}` is not in what was said:\n{}\n{}", why, said.text);
    }
    assert_eq!(machine.resets(), 0, "{what}: a failed run must not reboot");
    lab.report.notes.push(format!("{what}: {}", why.lines().next().unwrap_or_default()));
    said
}

/// Then all at once: a wrong clock, and the connection gone while the machine boots; and it converges.
fn ends_well(lab: &mut Lab, machine: &mut Machine, controller: &Controller) {
    let before = probe(machine);
    machine.ssh("date --set '2001-09-09 01:46:40'");
    let link = machine.cut_the_line_at_the_next_reset();
    let done = controller.play("apply", "site.yml", &[]).well("the apply after all failures");
    assert!(link.join().unwrap(), "the line was not cut, so nothing was shown");
    machine.wait_until_up();
    assert_eq!(machine.resets(), 1, "exactly one reboot: {}", done.in_short());
    assert_provisioned(lab.kind, &before, &probe(machine));
    let again = controller.play("apply", "site.yml", &[]).well("the second apply");
    assert!(again.changes().is_empty(), "a second time there is nothing to change:\n{}", again.in_short());
    lab.report.reboots += machine.resets();
    if lab.options.keep {
        machine.keep();
    }
}

/// Fills the disk of /, but for so many KiB.
fn fill(machine: &Machine, left: u64) {
    machine.ssh(&format!(
        "free=$(df -P -k / | awk 'NR==2 {{print $4}}'); fallocate -l $(((free - {left}) * 1024)) /filler; df -P -k /"
    ));
}

/// apt's repository is gone, the disk is full while the initramfs is made.
pub fn debian(lab: &mut Lab) {
    let (mut machine, controller) = fresh(lab, &Hardware::default());
    machine.ssh("mv /srv/repository /srv/gone");
    fails(lab, &mut machine, &controller, "apt's repository gone", &["qemu-system-x86"]);
    machine.ssh("mv /srv/gone /srv/repository");
    // Enough for what is looked at beforehand, and too little for the work itself.
    machine.ssh("rm -rf /var/lib/vfio-provision/initramfs");
    fill(&machine, 70 * 1024);
    fails(lab, &mut machine, &controller, "the disk full", &["o space left on device"]);
    machine.ssh("rm /filler");
    ends_well(lab, &mut machine, &controller);
}

/// dnf's repository is gone, the disk is full while dracut works.
pub fn el(lab: &mut Lab) {
    let (mut machine, controller) = fresh(lab, &Hardware::default());
    machine.ssh("mv /srv/rpm/elrepo-kernel /srv/rpm/gone");
    fails(lab, &mut machine, &controller, "ELRepo's repository gone", &["elrepo-kernel"]);
    machine.ssh("mv /srv/rpm/gone /srv/rpm/elrepo-kernel");
    // The kernel is installed first, as it needs room.
    let said = controller.play("apply", "site.yml", &["--tags", "kernel,iommu"]);
    assert_eq!(said.code, Some(0), "{}", said.in_short());
    fill(&machine, 12 * 1024);
    fails(lab, &mut machine, &controller, "the disk full while dracut works", &["o space left on device"]);
    machine.ssh("rm /filler");
    ends_well(lab, &mut machine, &controller);
}
