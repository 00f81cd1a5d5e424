//! Taking a provisioned machine back: with the playbook, and with `rollback`.

use std::collections::BTreeMap;

use super::image::Kind;
use super::machine::{ADDRESS, Hardware, MAC, Machine};
use super::site::{manifest, over, probe, provisioned, scratch};
use crate::Lab;

/// Files whose content is no configuration, or that belong to what stays: packages, and images made anew from the same.
fn may_differ(kind: Kind, path: &str) -> bool {
    const ANY: [&str; 21] = [
        // accounts and links of packages that stay
        "/etc/passwd",
        "/etc/group",
        "/etc/shadow",
        "/etc/gshadow",
        "/etc/subuid",
        "/etc/subgid",
        "/etc/ld.so.cache",
        "/etc/alternatives/",
        "/etc/libvirt/",
        "/var/lib/libvirt/",
        "/var/lib/vfio-provision/",
        "/etc/.pwd.lock",
        // what their own scripts write, and no package lists
        "/etc/pam.d/common-",
        "/etc/apparmor.d/local/",
        "/etc/xml/",
        "/etc/inputrc",
        "/etc/networks",
        // an image made anew is never the same, byte for byte
        "/boot/initrd.img-",
        "/boot/initramfs-",
        // counts boots and remembers entries
        "/boot/grub2/grubenv",
        "/boot/grub/grubenv",
    ];
    let own: &[&str] = match kind {
        Kind::Debian => &["/etc/rc", "/etc/resolv.conf"],
        Kind::El => &["/etc/resolv.conf"],
    };
    ANY.iter().chain(own).any(|start| path.starts_with(start) || format!("{path}-") == format!("{start}-"))
        || ANY.iter().any(|name| path == format!("{name}-"))
}

/// The kernel that stays has its entry in the menu, and `grub2-mkconfig` ends the entries with a line about the default that is
/// saved, where it has a name; without them the menu is as it was, byte for byte.
fn is_but_for_elrepo(kind: Kind, machine: &Machine, path: &str, before: &str) -> bool {
    const WITHOUT: &str = r#"awk '
        /^menuentry .*elrepo/ { entry = 1 }
        /^if \[ "x\$default" = / { $0 = "" }
        ! entry { print }
        /^}/ { entry = 0 }
    ' /boot/grub2/grub.cfg | sha256sum | cut -c 1-16"#;
    kind == Kind::El
        && path == "/boot/grub2/grub.cfg"
        && before.split_whitespace().next() == Some(machine.ssh(WITHOUT).trim())
}

/// Compares files with those of before; new ones must belong to a package.
fn assert_as_before(kind: Kind, machine: &Machine, before: &BTreeMap<String, String>) {
    let after = manifest(machine);
    let mut wrong = Vec::new();
    for (path, what) in before {
        if after.get(path) != Some(what) && !may_differ(kind, path) && !is_but_for_elrepo(kind, machine, path, what) {
            wrong.push(format!("{path}: was {what}, is {}", after.get(path).map_or("gone", String::as_str)));
        }
    }
    let new: Vec<&String> =
        after.keys().filter(|path| !before.contains_key(*path) && !may_differ(kind, path)).collect();
    let list: Vec<String> = new.iter().map(|path| format!("'{path}'")).collect();
    let query = match kind {
        Kind::Debian => "dpkg -S \"$path\" > /dev/null 2>&1",
        Kind::El => "rpm -qf \"$path\" > /dev/null 2>&1",
    };
    let unowned =
        machine.ssh(&format!("for path in {}; do [ -L \"$path\" ] || {query} || echo \"$path\"; done", list.join(" ")));
    // What systemd links when a unit is switched on stays with the package; images of guests stay by intent.
    let fine =
        |path: &str| path.starts_with("/root/img/") || path.starts_with("/home/img/") || path.starts_with("/root/.");
    wrong.extend(unowned.lines().filter(|path| !fine(path)).map(|path| format!("{path}: is new, and no package's")));
    assert!(wrong.is_empty(), "not as it was:\n{}", wrong.join("\n"));
}

/// Does the machine run as it did before the site?
fn assert_runs_as_before(machine: &Machine, before: &BTreeMap<String, String>) {
    let now = probe(machine);
    for same in ["kernel", "gpu", "audio", "display", "disk", "route"] {
        assert_eq!(now[same], before[same], "{same} is not as it was: {now:#?}");
    }
    assert_eq!((now["enp1s0.mac"].as_str(), now["enp1s0.address"].as_str()), (MAC, ADDRESS), "{now:#?}");
    assert_eq!((now["br0.mac"].as_str(), now["guests"].as_str()), ("", ""), "{now:#?}");
    for word in ["intel_iommu=on", "iommu=pt", "rd.driver.pre=vfio-pci"] {
        assert!(!now["cmdline"].split_whitespace().any(|w| w == word), "{word} is still in {}", now["cmdline"]);
    }
}

/// `playbooks/undo.yml`.
pub fn undo(lab: &mut Lab) {
    let before = provisioned(lab);
    let folder = scratch(lab);
    let (mut machine, controller) = over(lab, &before.disk, &folder, &Hardware::default());
    let planned = controller.play("plan", "undo.yml", &[]).well("the plan of the undo");
    let done = controller.play("apply", "undo.yml", &[]).well("the undo");
    super::site::compare(lab, &planned, &done);
    machine.wait_until_up();
    assert_eq!(machine.resets(), 1, "exactly one reboot");
    lab.report.reboots += machine.resets();
    assert_runs_as_before(&machine, &before.state);
    assert_as_before(lab.kind, &machine, &before.files);
    let again = controller.play("apply", "undo.yml", &[]).well("the second undo");
    assert!(again.changes().is_empty(), "a second time there is nothing to undo:\n{}", again.in_short());
    if lab.options.keep {
        machine.keep();
    }
}

/// `rollback` of the run that provisioned it.
pub fn rollback(lab: &mut Lab) {
    let before = provisioned(lab);
    let folder = scratch(lab);
    let (mut machine, controller) = over(lab, &before.disk, &folder, &Hardware::default());
    let base = ["rollback", "ws", "-i", "inventory"];
    // The first time, the machine's key is not known yet.
    controller
        .run(&[
            "plan",
            &super::program::Controller::playbook("look.yml").display().to_string(),
            "-i",
            "inventory",
            "--accept-new-host-keys",
            "--output",
            "json",
        ])
        .well("a look");
    let shown = controller.run(&[&base[..], &["--check"]].concat());
    assert_eq!(shown.code, Some(0), "{}", shown.text);
    let done = controller.run(&[&base[..], &["--yes"]].concat());
    assert_eq!(done.code, Some(0), "{}", done.text);
    machine.reboot();
    lab.report.reboots += machine.resets();
    assert_runs_as_before(&machine, &before.state);
    assert_as_before(lab.kind, &machine, &before.files);
    if lab.options.keep {
        machine.keep();
    }
}
