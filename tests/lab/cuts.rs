//! The power is cut at moments of the site: each time the machine boots by itself, and the next run converges.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::image::{self, Kind};
use super::machine::{Hardware, Machine, overlay};
use super::program::Controller;
use super::site::{assert_provisioned, fresh, probe};
use crate::Lab;

/// A small generator (xorshift): the moments shall be the same again for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % below.max(1)
    }
}

/// What goes on when the power goes, and by which command line it is known. The brackets keep the watcher from seeing
/// itself.
fn steps(kind: Kind) -> &'static [(&'static str, &'static str)] {
    match kind {
        Kind::Debian => &[
            // Not those that only ask: dpkg-query, `dnf repoquery`.
            ("dpkg", "[d]pkg .*--(unpack|configure)"),
            ("the initramfs", "[m]kinitramfs"),
            ("grub.cfg", "[g]rub-mkconfig"),
        ],
        Kind::El => &[("dnf", "[d]nf -y .*install"), ("dracut", "[d]racut --force"), ("grub.cfg", "[g]rub2?-mkconfig")],
    }
}

/// As many cuts as asked for: in turn inside of packages, initramfs and grub.cfg, and at any moment.
pub fn cuts(lab: &mut Lab) {
    let mut dice = Dice(lab.options.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let steps = steps(lab.kind);
    let mut longest = 600;
    for number in 0..lab.options.cuts {
        let hardware = Hardware { honest_disk: true, ..Hardware::default() };
        let (machine, controller) = fresh(lab, &hardware);
        let before = probe(&machine);
        let playbook = Controller::playbook("site.yml").display().to_string();
        let arguments = ["apply", playbook.as_str(), "-i", "inventory", "--accept-new-host-keys", "--output", "json"];
        let begun = Instant::now();
        let (mut run, _, _) = controller.start(&arguments);
        let which = (number as usize) % (steps.len() + 1);
        let what = match steps.get(which) {
            Some((what, pattern)) => {
                let seen = wait_for_process(&machine, pattern, &mut run);
                let more = dice.roll(if which == 0 { 60_000 } else { 8_000 });
                std::thread::sleep(Duration::from_millis(more));
                format!("{what}{}, and {more} ms", if seen { "" } else { " (never seen)" })
            }
            None => {
                let after = dice.roll(longest * 1000);
                while begun.elapsed() < Duration::from_millis(after) && run.try_wait().unwrap().is_none() {
                    std::thread::sleep(Duration::from_millis(50));
                }
                format!("after {} s", begun.elapsed().as_secs())
            }
        };
        let folder = machine.folder().to_path_buf();
        machine.cut();
        let _ = run.kill();
        let _ = run.wait();
        println!("lab:   cut {}: {what}", number + 1);

        let mut machine = Machine::on(&folder, &hardware);
        lab.report.boots += 1;
        machine.wait_until_up();
        controller.reach(&machine);
        let begun = Instant::now();
        let mut said = controller.play("apply", "site.yml", &[]);
        // Cut between a trial's boot and its confirmation, it counts as failed: whether it is tried again is for a person.
        if said.code == Some(2) && said.failures().contains("not tried again") {
            lab.report.notes.push(format!("cut {}: the trial boot was cut, and is said to be tried again", number + 1));
            said = controller.play("apply", "site.yml", &["-e", r#"{"boot_trial": "again"}"#]);
        }
        assert_eq!(said.code, Some(0), "after a cut ({what}) the next run did not converge:\n{}", said.in_short());
        longest = longest.max(begun.elapsed().as_secs());
        machine.wait_until_up();
        lab.report.reboots += machine.resets();
        assert_provisioned(lab.kind, &before, &probe(&machine));
        let again = controller.play("apply", "site.yml", &[]).well("the apply after that");
        assert!(again.changes().is_empty(), "({what}) a second time there is nothing to change:\n{}", again.in_short());
        lab.report.cuts += 1;
        lab.report.notes.push(format!("cut {}: {what}", number + 1));
        machine.cut();
    }
    // The overlay of the last one is of no use to anybody.
    let disk = image::folder().join("run").join(lab.name.replace('/', "-")).join("disk.qcow2");
    let _ = std::fs::remove_file(&disk);
    overlay(&image::disk(lab.kind), &disk);
}

/// Waits until such a process runs on the machine, or the run is over; says whether it was seen.
fn wait_for_process(machine: &Machine, pattern: &str, run: &mut std::process::Child) -> bool {
    let script = format!(
        "n=0; while [ $n -lt 6000 ]; do pgrep -f '{pattern}' > /dev/null && exit 0; n=$((n+1)); sleep 0.3; done; exit 1"
    );
    let mut watcher = Command::new("timeout")
        .arg("3000")
        .args(machine.ssh_command())
        .arg(script)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    loop {
        if let Some(status) = watcher.try_wait().unwrap() {
            return status.success();
        }
        if run.try_wait().unwrap().is_some() {
            let _ = watcher.kill();
            let _ = watcher.wait();
            return false;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
