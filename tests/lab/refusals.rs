//! What must be refused, each with its reason, and nothing changed.

use super::machine::{Hardware, Machine, overlay};
use super::program::Controller;
use super::site::{fresh, manifest, probe};
use crate::Lab;

/// Applies `refuse.yml`, which must fail and say this, and leave the machine alone.
fn refused(lab: &mut Lab, machine: &Machine, controller: &Controller, what: &str, variables: &str, reasons: &[&str]) {
    let (files, state) = (manifest(machine), probe(machine));
    for verb in ["plan", "apply"] {
        let said = controller.play(verb, "refuse.yml", &["-e", variables]);
        let why = said.failures();
        assert_eq!(said.code, Some(2), "{what} was not refused by {verb}: {}\n{}", said.in_short(), said.text);
        for reason in reasons {
            assert!(why.contains(reason), "{what}: `{reason}` is not in what {verb} said:\n{why}");
        }
        if verb == "apply" {
            lab.report.notes.push(format!("{what}: {}", why.trim()));
        }
    }
    for (before, after) in [(files, manifest(machine)), (state, probe(machine))] {
        let changed: Vec<_> =
            before.keys().chain(after.keys()).filter(|key| before.get(*key) != after.get(*key)).collect();
        assert!(changed.is_empty(), "{what}: it was refused, and this was changed all the same: {changed:?}");
    }
}

fn devices(list: &str) -> String {
    format!(r#"{{"lab_devices": ["{list}"]}}"#)
}

/// Three machines: one with too much in it, one without VT-d, one without interrupt remapping.
pub fn refusals(lab: &mut Lab) {
    let full = Hardware { twins: true, sriov: true, ..Hardware::default() };
    let (machine, controller) = fresh(lab, &full);
    let cases: [(&str, &str, &[&str]); 6] = [
        ("the boot display", "0000:00:01.0", &["0000:00:01.0", "boot_vga"]),
        ("the root disk", "0000:00:03.0", &["0000:00:03.0", "the file system /"]),
        ("the network card in use", "0000:01:00.0", &["enp1s0", "this run reaches the machine"]),
        ("a stranger in the group", "0000:03:01.0", &["also holds", "0000:03:02.0"]),
        ("SATA, in one group with the chipset", "0000:00:1f.2", &["0000:00:1f.0", "part of the chipset"]),
        ("an unknown address", "0000:99:00.0", &["0000:99:00.0"]),
    ];
    for (what, address, reasons) in cases {
        refused(lab, &machine, &controller, what, &devices(address), reasons);
    }
    let ids = r#"{"lab_devices": ["0000:82:00.0"], "lab_method": "ids"}"#;
    refused(lab, &machine, &controller, "the same card three times, by id", ids, &["method: ids", "same id"]);

    let nvme = machine.ssh("lspci -Dn -d ::0108 | head -n 1 | cut -d ' ' -f 1");
    let nvme = nvme.trim();
    machine.ssh(&format!("echo 1 > /sys/bus/pci/devices/{nvme}/sriov_numvfs"));
    refused(lab, &machine, &controller, "a card with virtual functions in use", &devices(nvme), &["virtual functions"]);
    machine.ssh(&format!("echo 0 > /sys/bus/pci/devices/{nvme}/sriov_numvfs"));

    // Room for a journal, and not for another initramfs like the one that is there.
    machine.ssh(
        "image=$(stat -c %s /boot/initr*-$(uname -r)*) && free=$(df -P -k /boot | awk 'NR==2 {print $4}') && \
         fallocate -l $((free * 1024 - image)) /boot/filler && df -P -k /boot",
    );
    refused(lab, &machine, &controller, "a full /boot", "{}", &["/boot has", "MiB free"]);
    machine.ssh("rm /boot/filler");
    let folder = machine.folder().to_path_buf();
    if lab.options.keep {
        machine.keep();
        return;
    }
    machine.power_off();

    for (what, hardware, reason) in [
        ("no VT-d", Hardware { iommu: false, ..Hardware::default() }, "the firmware offers no IOMMU (VT-d)"),
        ("no interrupt remapping", Hardware { remapping: false, ..Hardware::default() }, "interrupt"),
    ] {
        std::fs::remove_file(folder.join("disk.qcow2")).unwrap();
        overlay(&super::image::disk(lab.kind), &folder.join("disk.qcow2"));
        let mut machine = Machine::on(&folder, &hardware);
        lab.report.boots += 1;
        machine.wait_until_up();
        controller.forget_keys();
        controller.reach(&machine);
        refused(lab, &machine, &controller, what, &devices("0000:82:00.0"), &[reason]);
        machine.power_off();
    }
}
