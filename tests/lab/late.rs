//! Failures that come late: each is said clearly, and the next run converges.

use std::fs;
use std::time::{Duration, Instant};

use super::machine::{Hardware, Machine, wait_for_exit};
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

/// Fills the disk of /, but for so many bytes, as the shell works them out. What ext4 keeps back for root goes too.
fn fill(machine: &Machine, left: &str) {
    machine.ssh(&format!(
        "tune2fs -r 0 $(findmnt -n -o SOURCE /) && free=$(df -P -k / | awk 'NR==2 {{print $4}}') && \
         fallocate -l $((free * 1024 - ({left}))) /filler && df -P -k /"
    ));
}

/// Another package manager is at work. `hold` has a process hold its lock on the machine and prints that process' number.
/// What is waited for must be said while it is, and once the lock is free the run goes on by itself.
fn locked(lab: &mut Lab, machine: &Machine, controller: &Controller, package: &str, hold: &str, says: &str) {
    let holder = machine.ssh(hold).lines().next().unwrap_or_default().trim().to_string();
    let report = machine.folder().join("locked");
    let playbook = Controller::playbook("lock.yml").display().to_string();
    let (report_text, package) = (report.display().to_string(), format!(r#"{{"lab_package": "{package}"}}"#));
    let arguments = ["apply", playbook.as_str(), "-i", "inventory", "--accept-new-host-keys", "--output", "json"];
    let (mut run, out, err) =
        controller.start(&[&arguments[..], &["--report", report_text.as_str(), "-e", package.as_str()]].concat());
    let begun = Instant::now();
    let told = loop {
        let log = fs::read_to_string(report.join("hosts/ws.log")).unwrap_or_default();
        if let Some(line) = log.lines().find(|line| line.contains(says)) {
            break Some(line.to_string());
        }
        if run.try_wait().unwrap().is_some() || begun.elapsed() > Duration::from_secs(900) {
            break None;
        }
        std::thread::sleep(Duration::from_millis(500));
    };
    machine.ssh(&format!("kill {holder}"));
    if !wait_for_exit(&mut run, Duration::from_secs(1800)) {
        let _ = run.kill();
    }
    let said = Said::read(run.wait().unwrap().code(), &out, &err).well("the run that had to wait for the lock");
    let Some(told) = told else { panic!("that the lock is held was not said (`{says}`):\n{}", said.text) };
    assert_eq!(said.changes().len(), 1, "{}", said.in_short());
    lab.report.notes.push(format!("the lock held: {}", told.trim()));
}

/// perl takes the lock that dpkg and apt take (fcntl(2), struct flock of x86-64), and says so.
const APT_LOCK: &str = r#"
perl -e '$| = 1; open(F, ">>", "/var/lib/dpkg/lock-frontend") or die;
    my $l = pack("s s x4 q q i x4", 1, 0, 0, 0, 0); fcntl(F, 6, $l) or die;
    print "held\n"; sleep 1800' > /tmp/holder 2>&1 < /dev/null &
echo $!
n=0
until grep -q held /tmp/holder; do n=$((n + 1)); [ $n -lt 60 ] || exit 1; sleep 0.5; done"#;
/// dnf's locks are files with the number of a process that lives.
const DNF_LOCK: &str = "sleep 1800 > /dev/null 2>&1 < /dev/null & echo $!; mkdir -p /var/lib/dnf; \
                        printf %s $! > /var/lib/dnf/rpmdb_lock.pid";

/// apt's repository is gone, the disk is full while the initramfs is made.
pub fn debian(lab: &mut Lab) {
    let (mut machine, controller) = fresh(lab, &Hardware::default());
    machine.ssh("mv /srv/repository /srv/gone");
    fails(lab, &mut machine, &controller, "apt's repository gone", &["/srv/repository"]);
    machine.ssh("mv /srv/gone /srv/repository");
    locked(lab, &machine, &controller, "ovmf", APT_LOCK, "/var/lib/dpkg/lock-frontend");
    // Enough for what is looked at beforehand, and too little for the work itself: what goes into an image is a few times
    // as large before it is packed.
    machine.ssh("rm -rf /var/lib/vfio-provision/initramfs");
    fill(&machine, "$(stat -c %s /boot/initrd.img-$(uname -r)) * 3 / 2 + 4194304");
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
    locked(lab, &machine, &controller, "edk2-ovmf", DNF_LOCK, "Waiting for process with pid");
    // The kernel is installed first, as it needs room.
    let said = controller.play("apply", "site.yml", &["--tags", "kernel,iommu"]);
    assert_eq!(said.code, Some(0), "{}", said.in_short());
    fill(&machine, "12 * 1024 * 1024");
    fails(lab, &mut machine, &controller, "the disk full while dracut works", &["o space left on device"]);
    machine.ssh("rm /filler");
    ends_well(lab, &mut machine, &controller);
}
