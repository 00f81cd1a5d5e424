use serde_json::json;

use super::*;
use crate::host::Overlay;
use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};
use crate::modules::boot::samples::{self, os};

/// The machine boots again.
fn reboot_of(host: &Machine) -> Result<()> {
    crate::host::model::predict(host, &Op::Run(Run::new(["reboot"], vec![Effect::Reboot])))
}

const NODE1: &str = "/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages";
const NODE1_LARGE: &str = "/sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages";

/// Two nodes of 16 GiB, a card on the second one, a kernel of this release that boots.
fn host(release: &str) -> Machine {
    let cfg = samples::EL7_GRUB_CFG.replace("3.10.0-514.el7.x86_64", release);
    let mut files: Vec<(String, String)> = [
        ("/etc/os-release", os("centos", "7")),
        ("/etc/default/grub", samples::EL7_DEFAULT),
        ("/boot/grub2/grub.cfg", &cfg),
        ("/proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/mapper/cl-root ro\n"),
        ("/proc/cpuinfo", "flags\t\t: fpu pdpe1gb\n"),
        ("/proc/meminfo", "MemTotal: 33554432 kB\nMemFree: 30000000 kB\nMemAvailable: 31000000 kB\n"),
        ("/sys/bus/pci/devices/0000:82:00.0/vendor", "0x10de\n"),
        ("/sys/bus/pci/devices/0000:82:00.0/device", "0x1430\n"),
        ("/sys/bus/pci/devices/0000:82:00.0/class", "0x030000\n"),
        ("/sys/bus/pci/devices/0000:82:00.0/numa_node", "1\n"),
        ("/sys/bus/pci/devices/0000:02:00.0/vendor", "0x1000\n"),
        ("/sys/bus/pci/devices/0000:02:00.0/device", "0x005d\n"),
        ("/sys/bus/pci/devices/0000:02:00.0/numa_node", "-1\n"),
        ("/etc/tmpfiles.d/", ""),
        ("/run/", ""),
        ("/var/lib/", ""),
    ]
    .map(|(path, text)| (path.to_string(), text.to_string()))
    .to_vec();
    files.push((format!("/boot/vmlinuz-{release}"), String::new()));
    for node in 0..2 {
        files.push((
            format!("/sys/devices/system/node/node{node}/meminfo"),
            format!("Node {node} MemTotal:  16777216 kB\nNode {node} MemFree:  8388608 kB\nNode {node} Active(file):  2097152 kB\n"),
        ));
        for size in [2048, 1_048_576] {
            for name in ["nr_hugepages", "free_hugepages"] {
                files.push((
                    format!("/sys/devices/system/node/node{node}/hugepages/hugepages-{size}kB/{name}"),
                    "0\n".into(),
                ));
                files.push((format!("/sys/kernel/mm/hugepages/hugepages-{size}kB/{name}"), "0\n".into()));
            }
        }
    }
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    machine(&files)
}

fn old() -> Machine {
    host("3.10.0-514.el7.x86_64")
}

fn read(host: &dyn Host, path: &str) -> String {
    host.read_line(path).unwrap().unwrap_or_else(|| panic!("no {path}"))
}

fn near_card(count: u64) -> serde_json::Value {
    json!({"pools": {"count": count, "near": "0000:82:00.0"}})
}

#[test]
fn small_pages_on_the_cards_node_now_and_at_every_boot() {
    let host = old();
    let done = apply(&host, "hugepages", near_card(2048)).unwrap();
    assert_eq!(
        shown(&done),
        format!(
            "file {TMPFILES}\n--- /dev/null\n+++ {TMPFILES}\n@@ -0,0 +1,2 @@\n\
             +# Written by vfio-provision (hugepages); changes are overwritten.\n+w {NODE1} - - - - 2048\n\
             hugepages devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages\n0 → 2048\n"
        )
    );
    assert_eq!(read(&host, NODE1), "2048");
    let after = plan(&host, "hugepages", near_card(2048)).unwrap();
    assert!(after.reboot.is_empty() && after.warnings.is_empty(), "{after:#?}");
    assert_eq!(after.result["pools"][0]["node"], 1);
    // Memory says the same as a count, and fewer pages are given back at once.
    assert!(apply(&host, "hugepages", json!({"pools": [{"memory": "4 GiB", "node": 1}]})).unwrap().is_empty());
    apply(&host, "hugepages", near_card(512)).unwrap();
    assert_eq!(read(&host, NODE1), "512");
    let done = apply(&host, "hugepages", json!({"state": "absent"})).unwrap();
    assert!(shown(&done).ends_with("512 → 0\n"), "{}", shown(&done));
    assert!(!host.exists(TMPFILES).unwrap() && !host.exists("/var/lib/vfio-provision/kept/hugepages").unwrap());
    assert!(apply(&host, "hugepages", json!({"state": "absent"})).unwrap().is_empty());
}

#[test]
fn what_does_not_fit_now_waits_for_the_boot_and_what_the_boot_could_not_do_is_said() {
    let host = old();
    // 11 GiB of 16, of which 10 could be freed.
    let asked = near_card(5632);
    let done = apply(&host, "hugepages", asked.clone()).unwrap();
    assert!(!shown(&done).contains("→"), "{}", shown(&done));
    let waits = plan(&host, "hugepages", asked.clone()).unwrap();
    assert_eq!(waits.reboot, ["5632 pages of 2 MiB on node 1 are made at the next boot (now there are 0)"]);
    reboot_of(&host).unwrap();
    assert_eq!(read(&host, NODE1), "5632");
    assert!(plan(&host, "hugepages", asked.clone()).unwrap().reboot.is_empty());
    // A boot that made only some of them.
    crate::host::model::predict(
        &host,
        &Op::Poke {
            path: NODE1.into(),
            value: "100".into(),
            effects: vec![Effect::File { path: NODE1.into(), content: Some("100\n".into()), mode: None }],
        },
    )
    .unwrap();
    let answer = plan(&host, "hugepages", asked).unwrap();
    assert!(answer.reboot.is_empty() && answer.actions.is_empty(), "{answer:#?}");
    assert!(answer.warnings[0].contains("the last boot made 100"), "{answer:#?}");
}

#[test]
fn a_kernel_that_gives_fewer_pages_than_asked_is_not_asked_again_in_this_boot() {
    let host = old();
    let first = plan(&host, "hugepages", near_card(2048)).unwrap();
    for action in first.actions {
        let op = match action.op {
            Op::Poke { path, value, .. } => {
                let effects = vec![Effect::File { path: path.clone(), content: Some("1500\n".into()), mode: None }];
                Op::Poke { path, value, effects }
            }
            other => other,
        };
        crate::host::model::predict(&host, &op).unwrap();
    }
    let again = plan(&host, "hugepages", near_card(2048)).unwrap();
    assert!(again.actions.is_empty(), "{:#?}", again.actions);
    assert_eq!(again.reboot, ["2048 pages of 2 MiB on node 1 are made at the next boot (now there are 1500)"]);
}

#[test]
fn large_pages_are_the_kernels_own_work_where_it_knows_nodes() {
    let host = host("5.16.1-1.el7.elrepo.x86_64");
    let asked = json!({"pools": [{"size": "1 GiB", "memory": "12 GiB", "near": "0000:82:00.0"}]});
    let done = apply(&host, "hugepages", asked.clone()).unwrap();
    let text = shown(&done);
    assert!(text.contains("hugepagesz=1G hugepages=1:12"), "{text}");
    assert!(text.contains("unit dev-hugepages1G.mount\ndisabled → enabled"), "{text}");
    assert!(!host.exists(TMPFILES).unwrap());
    assert_eq!(plan(&host, "hugepages", asked.clone()).unwrap().reboot.len(), 1);
    reboot_of(&host).unwrap();
    assert_eq!(read(&host, NODE1_LARGE), "12");
    let after = plan(&host, "hugepages", asked).unwrap();
    assert!(after.reboot.is_empty() && after.warnings.is_empty() && after.actions.is_empty(), "{after:#?}");
    // Fewer of them: one argument changes.
    let fewer = json!({"pools": [{"size": "1G", "count": 8, "node": 1}]});
    assert!(shown(&apply(&host, "hugepages", fewer).unwrap()).contains("hugepagesz=1G hugepages=1:8"));
    apply(&host, "hugepages", json!({"state": "absent"})).unwrap();
    assert_eq!(host.read_text("/etc/default/grub").unwrap().as_deref(), Some(samples::EL7_DEFAULT));
    assert!(!host.exists(MOUNT_FILE).unwrap());
    reboot_of(&host).unwrap();
    assert_eq!(read(&host, NODE1_LARGE), "0");
}

#[test]
fn large_pages_on_a_node_of_an_older_kernel_are_asked_for_early_in_the_boot() {
    let host = old();
    let asked = json!({"pools": [{"size": "1 GiB", "count": 4, "node": 1}, {"count": 10, "node": 0}]});
    let done = apply(&host, "hugepages", asked.clone()).unwrap();
    assert!(shown(&done).contains(&format!("+w {NODE1_LARGE} - - - - 4\n")), "{}", shown(&done));
    let answer = plan(&host, "hugepages", asked).unwrap();
    assert_eq!(answer.reboot.len(), 1);
    assert!(answer.notes[0].contains("3.10.0-514.el7.x86_64"), "{:?}", answer.notes);
    assert_eq!(host.read_text("/etc/default/grub").unwrap().as_deref(), Some(samples::EL7_DEFAULT));
    reboot_of(&host).unwrap();
    assert_eq!(read(&host, NODE1_LARGE), "4");
    // Spread over both nodes, any kernel can.
    let spread = json!({"pools": [{"size": "1 GiB", "count": 5}], "default_size": true});
    let done = shown(&apply(&host, "hugepages", spread).unwrap());
    assert!(done.contains("default_hugepagesz=1G hugepagesz=1G hugepages=5"), "{done}");
    assert!(done.contains("4 → 0\n") && done.contains("10 → 0\n"), "{done}");
    reboot_of(&host).unwrap();
    assert_eq!(read(&host, NODE1_LARGE), "2");
}

#[test]
fn pages_in_use_stay_until_the_next_boot() {
    let host = old();
    apply(&host, "hugepages", near_card(2048)).unwrap();
    let free = NODE1.replace("nr_", "free_");
    let effects = vec![Effect::File { path: free.clone(), content: Some("48\n".into()), mode: None }];
    crate::host::model::predict(&host, &Op::Run(Run::new(["guest"], effects))).unwrap();
    let fewer = plan(&host, "hugepages", near_card(100)).unwrap();
    assert_eq!(fewer.reboot, ["100 pages of 2 MiB on node 1 are made at the next boot (now there are 2048)"]);
    let gone = apply(&host, "hugepages", json!({"state": "absent"})).unwrap();
    assert!(shown(&gone).ends_with("2048 → 2000\n"), "{}", shown(&gone));
}

#[test]
fn refusals() {
    let host = old();
    let none = Overlay::new(machine(&[("/proc/meminfo", "MemTotal: 1000000 kB\n")]));
    for (host, parameters, why) in [
        (&host as &dyn Host, json!({}), "`pools` is empty"),
        (&host, json!({"pools": [{"count": 1, "memory": "2 MiB"}]}), "and not both"),
        (&host, json!({"pools": [{"size": "4 MiB", "count": 1}]}), "a page is 2 MiB or 1 GiB"),
        (&host, json!({"pools": [{"count": 0}]}), "no pages"),
        (&host, json!({"pools": [{"count": 1, "node": 1, "near": "82:00.0"}]}), "not both"),
        (&host, json!({"pools": [{"count": 1, "node": 7}]}), "no NUMA node 7"),
        (&host, json!({"pools": [{"count": 1, "near": "0000:99:00.0"}]}), "no PCI device"),
        (&host, json!({"pools": [{"count": 1, "near": "0000:02:00.0"}]}), "does not say on which NUMA node"),
        (&host, json!({"pools": [{"count": 1, "node": 1}, {"count": 2, "near": "82:00.0"}]}), "same place"),
        (&host, json!({"pools": [{"count": 1, "node": 1}, {"count": 2}]}), "on a node and anywhere"),
        (&host, json!({"pools": [{"count": 1}], "default_size": true}), "they had no place"),
        (&host, json!({"pools": [{"memory": "15.5 GiB", "node": 1}]}), "node 1 has 16384 MiB"),
        (&host, json!({"pools": [{"memory": "32 GiB"}]}), "the machine has 32768 MiB"),
        (&host, json!({"pools": [{"count": 18_446_744_073_709_551_615_u64}]}), "more than any machine"),
        (&none, json!({"pools": [{"count": 1}], "reserve": "1 MiB"}), "has no pages of 2 MiB"),
    ] {
        let error = plan(host, "hugepages", parameters.clone()).unwrap_err().to_string();
        assert!(error.contains(why), "{parameters}: {error}");
    }
    assert!(
        apply(&host, "hugepages", json!({"pools": [{"memory": "15.5 GiB", "node": 1}], "reserve": "512 MiB"})).is_ok()
    );
    let poor = machine(&[("/proc/cpuinfo", "flags : fpu sse\n")]);
    let error = plan(&poor, "hugepages", json!({"pools": [{"size": "1G", "count": 1}]})).unwrap_err();
    assert!(error.to_string().contains("pdpe1gb"), "{error}");
}

#[test]
fn what_sysctl_asks_for_too_is_named() {
    let below = old();
    let effects = vec![Effect::File {
        path: "/etc/sysctl.d/10-x.conf".into(),
        content: Some("vm.nr_hugepages = 100\n".into()),
        mode: None,
    }];
    crate::host::model::predict(&below, &Op::Run(Run::new(["x"], effects))).unwrap();
    let answer = plan(&below, "hugepages", near_card(16)).unwrap();
    assert!(answer.warnings[0].contains("/etc/sysctl.d/10-x.conf"), "{:?}", answer.warnings);
    let parameters = json!({"pools": [{"size": "1G", "count": 1}], "default_size": true});
    assert!(plan(&below, "hugepages", parameters).unwrap_err().to_string().contains("pages of 1 GiB"));
}

#[test]
fn records_are_read_as_they_are_written() {
    let kept = Kept { arguments: vec!["a=1".into(), "b".into()], before: BTreeMap::from([("/sys/x".into(), 7)]) };
    assert_eq!(Kept::parse(&kept.print().unwrap()), kept);
    assert_eq!(Kept::default().print(), None);
}

#[test]
fn systemd_reads_the_mount_and_tmpfiles_reads_the_lines() {
    crate::modules::system::steps::verified(MOUNT, MOUNT_TEXT);
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join(NODE1.trim_start_matches('/'));
    std::fs::create_dir_all(target.parent().unwrap()).unwrap();
    std::fs::write(&target, "0\n").unwrap();
    let file = root.path().join("x.conf");
    let text = tmpfiles(&[Want { size: SMALL, node: Some(1), count: 2048 }]).unwrap();
    std::fs::write(&file, text).unwrap();
    let root = root.path().display().to_string();
    let arguments = ["--create".to_string(), format!("--root={root}"), format!("{root}/x.conf")];
    let Ok(output) = std::process::Command::new("systemd-tmpfiles").args(arguments).output() else { return };
    assert!(output.status.success(), "{output:?}");
    assert!(std::fs::read_to_string(target).unwrap().starts_with("2048"));
}
