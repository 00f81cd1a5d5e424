//! What the steps of a passthrough host come to on each distribution, as recorded cases: docs/coverage.md names this file.
//!
//! The machines are small: an os-release as the distribution has it, its boot files, its tool for the initramfs. What each
//! step would do there is written down in distributions.txt; `BLESS=1` writes it anew.

use serde_json::json;

use crate::change::{Action, Op};
use crate::host::overlay::testing::{Machine, apply};
use crate::host::{Model, Package, Unit};
use crate::modules::boot::samples;
use crate::modules::vfio::fixture::Box1;

struct Distribution {
    name: &'static str,
    os: &'static str,
    boot: Boot,
    tool: &'static str,
    /// The file that configures the network card, and what is in it.
    network: Option<(&'static str, &'static str)>,
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

const IFCFG: (&str, &str) =
    ("/etc/sysconfig/network-scripts/ifcfg-eno1", "TYPE=Ethernet\nBOOTPROTO=dhcp\nDEVICE=eno1\nONBOOT=yes\n");
const PROFILE: (&str, &str) = (
    "/etc/NetworkManager/system-connections/lan.nmconnection",
    "[connection]\nid=lan\nuuid=1c8d\ntype=ethernet\ninterface-name=eno1\n\n[ipv4]\nmethod=auto\n",
);
const INTERFACES: (&str, &str) =
    ("/etc/network/interfaces", "auto lo eno1\niface lo inet loopback\niface eno1 inet dhcp\n");
const NETPLAN: (&str, &str) =
    ("/etc/netplan/50-cloud-init.yaml", "network:\n  version: 2\n  ethernets:\n    eno1:\n      dhcp4: true\n");
const NETWORK: (&str, &str) = ("/etc/systemd/network/20-wired.network", "[Match]\nName=en*\n\n[Network]\nDHCP=yes\n");

fn all() -> Vec<Distribution> {
    let one = |name, os, boot, tool| {
        let network = match name {
            "CentOS 7" | "Rocky 8" => Some(IFCFG),
            "Debian 12" | "Debian 13" => Some(INTERFACES),
            "Ubuntu 22.04" | "Ubuntu 24.04" => Some(NETPLAN),
            "Arch" => Some(NETWORK),
            // wicked's ifcfg files.
            "openSUSE Leap 15.6" => None,
            _ => Some(PROFILE),
        };
        Distribution { name, os, boot, tool, network }
    };
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
    if let Some((path, text)) = distribution.network {
        put(path, text);
    }
    put("/sys/devices/system/cpu/present", "0-3\n");
    // Those that still boot with control groups of version 1 unless told otherwise.
    if !["CentOS 7", "Rocky 8", "openSUSE Leap 15.6"].contains(&distribution.name) {
        put("/sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n");
    }
    put("/etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    put("/sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/net/eno1/device", "-> ../../../0000:01:00.0");
    put("/sys/devices/system/node/node0/meminfo", "Node 0 MemTotal: 16777216 kB\nNode 0 MemFree: 16000000 kB\n");
    put("/sys/devices/system/node/node1/meminfo", "Node 1 MemTotal: 16777216 kB\nNode 1 MemFree: 16000000 kB\n");
    put("/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages", "0\n");
    let entry = |options: &str| {
        format!(
            "title Linux\nversion {RELEASE}\nlinux /vmlinuz-{RELEASE}\ninitrd /initramfs-{RELEASE}.img\noptions {options}\n"
        )
    };
    match distribution.boot {
        Boot::Cfg(folder) => {
            put("/etc/default/grub", samples::DEBIAN_DEFAULT);
            put(&format!("{folder}/grub.cfg"), samples::DEBIAN_GRUB_CFG);
            put("/boot/vmlinuz-6.1.0-18-amd64", "x");
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
    let mut board = Box1::seed();
    board.drop("/etc/dracut.conf.d/");
    for (path, text) in &files {
        board.put(path, text);
    }
    let host = board.make();
    let active = Unit { exists: true, enabled: "enabled".into(), active: true };
    match distribution.network.map(|(path, _)| path) {
        Some(path) if path == PROFILE.0 => host.put_unit("NetworkManager.service", active).unwrap(),
        Some(path) if path == INTERFACES.0 => {
            let package = Package { name: "bridge-utils".into(), version: Some("1.7".into()) };
            host.put_package("bridge-utils", Some(package)).unwrap();
        }
        Some(path) if path == NETWORK.0 => host.put_unit("systemd-networkd.service", active).unwrap(),
        _ => {}
    }
    host
}

/// What these actions do, a line each: files by their paths, commands as they are.
fn lines(actions: &[Action]) -> Vec<String> {
    actions
        .iter()
        .filter_map(|action| match &action.op {
            Op::WriteFile { path, .. } if !path.starts_with("/var/") && !path.starts_with("/run/") => {
                Some(format!("write {path}"))
            }
            Op::Remove { path } if !path.starts_with("/var/") && !path.starts_with("/run/") => {
                Some(format!("remove {path}"))
            }
            Op::Run(run) => Some(run.argv.join(" ")),
            Op::SetAttributes { path, .. } => Some(format!("attributes of {path}")),
            Op::Poke { path, value, .. } => Some(format!("{value} to {path}")),
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
            ("devices", "vfio_bind", json!({"devices": ["0000:82:00.0"]})),
            ("initramfs", "initramfs", json!({})),
            ("bridge", "bridge", json!({"name": "br0", "port": "eno1", "activate": "boot"})),
            ("libvirt", "libvirt", json!({})),
            (
                "firmware",
                "package",
                json!({"name": super::libvirt::ovmf::package_of(&crate::host::os::detect(&host(&distribution)).unwrap()).0}),
            ),
            ("swtpm", "swtpm", json!({})),
            ("huge pages", "hugepages", json!({"pools": {"count": 512, "near": "0000:82:00.0"}})),
            ("processors", "cpu_isolation", json!({"cpus": "2-3"})),
            ("hooks", "libvirt_hooks", json!({})),
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
