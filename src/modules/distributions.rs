//! What the steps of a passthrough host come to on each distribution, as recorded cases: docs/coverage.md names this file.
//!
//! The machines are small: an os-release as the distribution has it, its boot files, its tool for the initramfs. What each
//! step would do there is written down in distributions.txt; `BLESS=1` writes it anew.

use serde_json::json;

use crate::change::{Action, Op};
use crate::host::overlay::testing::{Machine, apply, machine};
use crate::modules::boot::samples;

struct Distribution {
    name: &'static str,
    os: &'static str,
    boot: Boot,
    tool: &'static str,
}

#[derive(Clone, Copy)]
enum Boot {
    /// GRUB with its entries in grub.cfg below this folder.
    Cfg(&'static str),
    /// GRUB with entries in /boot/loader/entries that share `kernelopts`.
    Shared,
    /// GRUB with entries in /boot/loader/entries.
    Bls,
    /// systemd-boot.
    Systemd,
}

const DRACUT: &str = "/usr/bin/dracut";
const TOOLS: &str = "/usr/sbin/update-initramfs";
const MKINITCPIO: &str = "/usr/bin/mkinitcpio";

fn all() -> Vec<Distribution> {
    let one = |name, os, boot, tool| Distribution { name, os, boot, tool };
    vec![
        one("CentOS 7", "ID=\"centos\"\nID_LIKE=\"rhel fedora\"\nVERSION_ID=\"7\"\n", Boot::Cfg("/boot/grub2"), DRACUT),
        one("Rocky 8", "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"8.10\"\n", Boot::Shared, DRACUT),
        one("Rocky 9", "ID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.4\"\n", Boot::Bls, DRACUT),
        one(
            "AlmaLinux 10",
            "ID=\"almalinux\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"10.0\"\n",
            Boot::Bls,
            DRACUT,
        ),
        one("Fedora 42", "ID=fedora\nVERSION_ID=42\n", Boot::Bls, DRACUT),
        one("Debian 12", "ID=debian\nVERSION_ID=\"12\"\n", Boot::Cfg("/boot/grub"), TOOLS),
        one("Debian 13", "ID=debian\nVERSION_ID=\"13\"\n", Boot::Cfg("/boot/grub"), TOOLS),
        one("Ubuntu 22.04", "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"22.04\"\n", Boot::Cfg("/boot/grub"), TOOLS),
        one("Ubuntu 24.04", "ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\n", Boot::Cfg("/boot/grub"), TOOLS),
        one("Arch", "ID=arch\nBUILD_ID=rolling\n", Boot::Systemd, MKINITCPIO),
        one(
            "openSUSE Leap 15.6",
            "ID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\nVERSION_ID=\"15.6\"\n",
            Boot::Cfg("/boot/grub2"),
            DRACUT,
        ),
        one(
            "openSUSE Tumbleweed",
            "ID=\"opensuse-tumbleweed\"\nID_LIKE=\"opensuse suse\"\nVERSION_ID=\"20250101\"\n",
            Boot::Cfg("/boot/grub2"),
            DRACUT,
        ),
    ]
}

const RELEASE: &str = "6.1.0-18-amd64";

fn host(distribution: &Distribution) -> Machine {
    let env = crate::modules::boot::grubenv::set("", "kernelopts", Some("root=/dev/sda1 ro quiet")).unwrap();
    let mut files: Vec<(String, String)> = vec![
        ("/etc/os-release".into(), distribution.os.into()),
        (distribution.tool.into(), String::new()),
        (format!("/lib/modules/{RELEASE}/modules.dep"), String::new()),
        ("/proc/cmdline".into(), "root=/dev/sda1 ro quiet\n".into()),
        ("/etc/libvirt/qemu.conf".into(), "#swtpm_user = \"tss\"\n".into()),
        ("/var/lib/".into(), String::new()),
        ("/etc/tuned/".into(), String::new()),
    ];
    let mut put = |path: &str, text: &str| files.push((path.to_string(), text.to_string()));
    let entry = |options: &str| {
        format!(
            "title Linux\nversion {RELEASE}\nlinux /vmlinuz-{RELEASE}\ninitrd /initramfs-{RELEASE}.img\noptions {options}\n"
        )
    };
    match distribution.boot {
        Boot::Cfg(folder) => {
            put("/etc/default/grub", samples::DEBIAN_DEFAULT);
            put(&format!("{folder}/grub.cfg"), samples::DEBIAN_GRUB_CFG);
            put(&format!("/boot/initrd.img-{RELEASE}"), "x");
        }
        Boot::Shared | Boot::Bls => {
            put("/etc/default/grub", samples::EL7_DEFAULT);
            put("/boot/grub2/grub.cfg", samples::BLS_GRUB_CFG);
            put("/boot/grub2/grubenv", &env);
            if matches!(distribution.boot, Boot::Bls) {
                put("/etc/kernel/cmdline", "root=/dev/sda1 ro quiet\n");
            }
            let options =
                if matches!(distribution.boot, Boot::Shared) { "$kernelopts" } else { "root=/dev/sda1 ro quiet" };
            put(&format!("/boot/loader/entries/m-{RELEASE}.conf"), &entry(options));
        }
        Boot::Systemd => {
            put("/boot/loader/loader.conf", "default arch.conf\n");
            put("/boot/loader/entries/arch.conf", &entry("root=/dev/sda1 rw"));
        }
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    machine(&files)
}

/// What these actions do, a line each: files by their paths, commands as they are.
fn lines(actions: &[Action]) -> Vec<String> {
    actions
        .iter()
        .filter_map(|action| match &action.op {
            Op::WriteFile { path, .. } if !path.starts_with("/var/") => Some(format!("write {path}")),
            Op::Remove { path } if !path.starts_with("/var/") => Some(format!("remove {path}")),
            Op::Run(run) => Some(run.argv.join(" ")),
            Op::SetAttributes { path, .. } => Some(format!("attributes of {path}")),
            _ => None,
        })
        .collect()
}

#[test]
fn every_step_on_every_distribution() {
    let mut told = String::from("What each step comes to on each distribution; see distributions.rs.\n");
    for distribution in all() {
        told.push_str(&format!("\n{}\n", distribution.name));
        for (step, module, parameters) in [
            ("a package", "package", json!({"name": "driverctl"})),
            ("kernel command line", "kernel_cmdline", json!({"present": ["iommu=pt"]})),
            ("initramfs", "initramfs", json!({})),
            ("libvirt", "libvirt", json!({})),
            (
                "firmware",
                "package",
                json!({"name": super::libvirt::ovmf::package_of(&crate::host::os::detect(&host(&distribution)).unwrap()).0}),
            ),
            ("swtpm", "swtpm", json!({})),
            ("tuned", "tuned", json!({"profile": "virtual-host"})),
        ] {
            let host = host(&distribution);
            let done = match apply(&host, module, parameters) {
                Ok(done) => lines(&done),
                Err(error) => vec![format!("refused: {}", error.message)],
            };
            for line in done {
                told.push_str(&format!("  {step}: {line}\n"));
            }
        }
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/modules/distributions.txt");
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &told).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(want == told, "{}", similar::TextDiff::from_lines(want.as_str(), told.as_str()).unified_diff());
}
