use proptest::prelude::*;

use super::txtar::{Entry, parse};
use super::*;
use crate::change::{Content, Effect, Run};

fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, Folder) {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let place = dir.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        match content.strip_prefix("-> ") {
            Some(target) => std::os::unix::fs::symlink(target, place).unwrap(),
            None => fs::write(place, content).unwrap(),
        }
    }
    let folder = Folder::open(dir.path()).unwrap();
    (dir, folder)
}

fn write(path: &str, content: &str, mode: Option<u32>, owner: Option<&str>) -> Op {
    Op::WriteFile {
        path: path.into(),
        content: Content::Bytes(content.into()),
        mode,
        owner: owner.map(str::to_string),
        group: None,
        validate: vec![vec!["false".into()]],
    }
}

fn run(effects: Vec<Effect>) -> Op {
    Op::Run(Run::new(["tool", "-x"], effects))
}

fn file(path: &str, content: Option<&str>) -> Effect {
    Effect::File { path: path.into(), content: content.map(str::to_string), mode: None }
}

fn perform(folder: &Folder, op: &Op) {
    folder.perform(op, &mut |_| {}).unwrap();
}

/// Everything that a module could ask about a machine of these tests.
fn all_reads(host: &dyn Host) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    let mut todo = vec!["/".to_string()];
    while let Some(path) = todo.pop() {
        assert!(path.len() < 100, "{path}");
        let stat = host.raw_lstat(&path);
        writeln!(out, "{path} {stat:?}").unwrap();
        match stat.unwrap().map(|stat| stat.kind) {
            Some(FileKind::Folder) => {
                for name in host.raw_list(&path).unwrap() {
                    todo.push(format!("{}/{name}", path.trim_end_matches('/')));
                }
            }
            Some(FileKind::Link) => writeln!(out, "  {:?}", host.raw_read_link(&path)).unwrap(),
            Some(FileKind::File) => {
                writeln!(out, "  {:?} {:?}", host.raw_read(&path), host.raw_sha256(&path)).unwrap();
            }
            _ => panic!("{path} is listed and not there"),
        }
        for way in [host.stat(&path), host.lstat(&path)] {
            writeln!(out, "  {way:?}").unwrap();
        }
    }
    for name in NAMES {
        writeln!(out, "{name} {:?} {:?}", host.package(name), host.unit(name)).unwrap();
        for kind in [VirtKind::Domain, VirtKind::Network, VirtKind::Pool] {
            writeln!(out, "{name} {kind:?} {:?} {:?}", host.virt(kind, name), host.virt_names(kind)).unwrap();
        }
    }
    out
}

const NAMES: [&str; 5] = ["a", "b", "libvirt", "libvirtd.service", "b.service"];

fn paths() -> impl Strategy<Value = String> {
    proptest::sample::select(vec![
        "/a",
        "/a/b",
        "/a/b/c",
        "/l",
        "/l/x",
        "/m/y",
        "/n",
        "/etc/passwd",
        "/",
        "/a-b",
        "/../q",
    ])
    .prop_map(str::to_string)
}

fn contents() -> impl Strategy<Value = String> {
    proptest::sample::select(vec![
        "",
        "[Install]\nWantedBy=multi-user.target\n",
        "vfio-provision sandbox: ",
        "vfio-provision sandbox: {\"unknown\":\"x\"}\n",
        "vfio-provision sandbox: \"bytes\"\n",
    ])
    .prop_map(str::to_string)
}

fn effects() -> impl Strategy<Value = Effect> {
    let names = || proptest::sample::select(NAMES.to_vec()).prop_map(str::to_string);
    let kinds = proptest::sample::select(vec![VirtKind::Domain, VirtKind::Network, VirtKind::Pool]);
    let virts = proptest::option::of(any::<(bool, bool)>().prop_map(|(active, autostart)| Virt {
        xml: "<x/>".into(),
        active,
        autostart,
        ..Virt::default()
    }));
    prop_oneof![
        (paths(), proptest::option::of(contents()), modes()).prop_map(|(path, content, mode)| Effect::File {
            path,
            content,
            mode
        }),
        paths().prop_map(|path| Effect::Folder { path }),
        (paths(), paths()).prop_map(|(path, target)| Effect::Link { path, target }),
        paths().prop_map(|path| Effect::Gone { path }),
        (names(), any::<bool>(), proptest::option::of(Just("1".to_string())))
            .prop_map(|(name, present, version)| Effect::Package { name, version, present }),
        (names(), proptest::option::of(any::<bool>()), proptest::option::of(Just("enabled".to_string())))
            .prop_map(|(name, exists, enabled)| Effect::Unit { name, exists, enabled, active: exists }),
        (kinds, names(), virts).prop_map(|(kind, name, state)| Effect::Virt { kind, name, state }),
    ]
}

fn modes() -> impl Strategy<Value = Option<u32>> {
    proptest::option::of(proptest::sample::select(vec![0, 0o400, 0o600, 0o644, 0o755, 0o1777, 0o4755]))
}

fn ops() -> impl Strategy<Value = Op> {
    let owners = || proptest::option::of(proptest::sample::select(vec!["root", "107", "qemu", "nobody-here"]));
    prop_oneof![
        (paths(), contents(), modes(), owners())
            .prop_map(|(path, content, mode, owner)| write(&path, &content, mode, owner)),
        (paths(), paths()).prop_map(|(path, source)| Op::WriteFile {
            path,
            content: Content::CopyOf(source),
            mode: None,
            owner: None,
            group: None,
            validate: vec![],
        }),
        (paths(), modes(), owners()).prop_map(|(path, mode, owner)| Op::SetAttributes {
            path,
            mode,
            owner: owner.map(str::to_string),
            group: None
        }),
        (paths(), modes(), owners()).prop_map(|(path, mode, owner)| Op::MakeFolder {
            path,
            mode,
            owner: None,
            group: owner.map(str::to_string)
        }),
        (paths(), paths()).prop_map(|(path, target)| Op::Link { path, target }),
        paths().prop_map(|path| Op::Remove { path }),
        (paths(), any::<bool>()).prop_map(|(path, known)| Op::Download {
            url: "https://x/y".into(),
            path,
            sha256: known.then(|| "ab".repeat(32)),
            mode: None,
        }),
        proptest::collection::vec(effects(), 1..4).prop_map(run),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// What a plan foresees is what the sandbox becomes, whatever is done; reopened, it is the same again.
    #[test]
    fn a_plan_and_a_sandbox_never_differ(ops in proptest::collection::vec(ops(), 1..12)) {
        let start = [
            ("/a/b/c", "1\n"),
            ("/l", "-> /a"),
            ("/m", "-> a/b"),
            ("/n", "-> nowhere"),
            ("/etc/passwd", "qemu:x:107:107::/:/sbin/nologin\n"),
            ("/etc/systemd/system/multi-user.target.wants/b.service", "-> ../b.service"),
            ("/.vfio-provision/machine.json", r#"{"available": {"libvirt": {"version": "4.5", "units": ["libvirtd.service"], "requires": ["a"]}}}"#),
            ("/.vfio-provision/available/libvirt/etc/libvirt/qemu.conf", "#\n"),
        ];
        let (_below, below) = folder(&start);
        let (dir, sandbox) = folder(&start);
        let plan = Overlay::new(&below);
        for op in &ops {
            let foreseen = predict(&plan, op).is_ok();
            let done = sandbox.perform(op, &mut |_| {});
            prop_assert_eq!(foreseen, done.is_ok(), "{:?} {:?}", op, done);
            if !foreseen {
                break;
            }
            prop_assert_eq!(all_reads(&plan), all_reads(&sandbox), "after {:?}", op);
        }
        let reopened = Folder::open(dir.path()).unwrap();
        prop_assert_eq!(all_reads(&reopened), all_reads(&sandbox));
    }

    #[test]
    fn any_text_is_a_recorded_machine_or_an_error(text in "(-- |/| --|->|\\*|[a-c]|mode=|owner=|\\.\\.|\n| |é){0,60}") {
        if let Ok(recorded) = parse(&text) {
            let dir = tempfile::tempdir().unwrap();
            let root = dir.path().join("m");
            // Names that the file system refuses are an error too.
            if unpack(&text, &root).is_ok() {
                let folder = Folder::open(&root).unwrap();
                for (path, entry) in &recorded.entries {
                    if let Entry::File(content) = entry {
                        prop_assert_eq!(folder.raw_read(path).unwrap(), content.as_bytes());
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_written_into_a_file_is_read_back(text in "(vfio-provision sandbox: )?[a-z\"{}:\n]{0,30}") {
        for body in [Body::Bytes(text.clone().into()), Body::Unknown(text.clone()),
                     Body::Fetched { url: text.clone(), sha256: Some(text.clone()) }] {
            prop_assert_eq!(book::decode(book::encode(body.clone()).unwrap()), body);
        }
    }
}

#[test]
fn nothing_leads_out_of_the_folder() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "x").unwrap();
    let target = format!("-> {}", outside.path().display());
    let (_dir, machine) =
        folder(&[("/out", &target), ("/up", "-> ../../../../../../etc"), ("/etc/hostname", "ws01\n")]);
    assert_eq!(machine.read("/out/secret").unwrap(), None);
    assert_eq!(machine.read_text("/up/hostname").unwrap().as_deref(), Some("ws01\n"));
    assert!(machine.perform(&write("/out/new", "x", None, None), &mut |_| {}).is_err());
    assert_eq!(machine.raw_lstat("/../etc").unwrap(), None);
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 1);
}

#[test]
fn its_own_records_are_no_part_of_the_machine() {
    let (dir, machine) = folder(&[("/etc/x", "1\n")]);
    perform(&machine, &write("/etc/x", "1\n", Some(0o600), Some("107")));
    assert!(dir.path().join(".vfio-provision/machine.json").exists());
    assert_eq!(machine.list("/").unwrap(), ["etc"]);
    assert!(!machine.exists("/.vfio-provision/machine.json").unwrap());
    assert!(machine.perform(&run(vec![file("/.vfio-provision/machine.json", Some("{}"))]), &mut |_| {}).is_err());
}

#[test]
fn what_a_folder_cant_hold_is_written_down() {
    let (dir, machine) = folder(&[("/etc/", "")].map(|_| ("/etc/passwd", "qemu:x:107:107::/:/sbin/nologin\n")));
    perform(&machine, &write("/etc/shadow", "x\n", Some(0), Some("qemu")));
    perform(&machine, &run(vec![file("/boot/initramfs.img", None)]));
    let download =
        Op::Download { url: "https://x/y".into(), path: "/y".into(), sha256: Some("ab".repeat(32)), mode: None };
    perform(&machine, &download);
    let again = Folder::open(dir.path()).unwrap();
    let stat = again.stat("/etc/shadow").unwrap().unwrap();
    assert_eq!((stat.mode, stat.uid, stat.gid), (0, 107, 0));
    assert!(again.read("/boot/initramfs.img").unwrap_err().is_unknown());
    assert!(fs::read_to_string(dir.path().join("boot/initramfs.img")).unwrap().contains("tool -x"));
    assert_eq!(again.sha256("/y").unwrap(), Some("ab".repeat(32)));
    assert!(again.read("/y").unwrap_err().is_unknown());
}

#[test]
fn steps_of_a_killed_process_are_finished() {
    let (dir, machine) = folder(&[("/etc/a", "1\n"), ("/srv/x/y", "1\n")]);
    let op = run(vec![
        file("/etc/a", Some("2\n")),
        Effect::Gone { path: "/srv/x".into() },
        Effect::Folder { path: "/srv/x".into() },
        file("/srv/x/z", Some("2\n")),
        Effect::Package { name: "p".into(), version: Some("1".into()), present: true },
    ]);
    let after = {
        let plan = Overlay::new(&machine);
        predict(&plan, &op).unwrap();
        all_reads(&plan)
    };
    for killed_after in 0..7 {
        let copy = tempfile::tempdir().unwrap();
        let root = copy.path().join("m");
        assert!(std::process::Command::new("cp").arg("-a").arg(dir.path()).arg(&root).status().unwrap().success());
        let folder = Folder::open(&root).unwrap();
        let plan = Overlay::new(&folder);
        predict(&plan, &op).unwrap();
        let state = plan.into_state();
        commit::killed_after(&folder, state, killed_after);
        assert_eq!(all_reads(&Folder::open(&root).unwrap()), after, "killed after step {killed_after}");
        assert!(!root.join(".vfio-provision/staged").exists());
    }
}

#[test]
fn trouble_comes_before_anything_is_touched() {
    let (_dir, machine) = folder(&[("/etc/a", "1\n")]);
    let before = all_reads(&machine);
    let op = run(vec![file("/etc/a", Some("2\n")), file("/etc/a/b", Some("2\n"))]);
    assert!(machine.perform(&op, &mut |_| {}).is_err());
    assert_eq!(all_reads(&machine), before);
}

#[test]
fn the_embedded_machine_unpacks_once() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("deep/ws01");
    let machine = Folder::open_or_unpack(&root, Some("centos7-seed")).unwrap();
    assert_eq!(machine.os().unwrap().id, "centos");
    perform(&machine, &write("/etc/new", "x", None, None));
    let again = Folder::open_or_unpack(&root, Some("centos7-seed")).unwrap();
    assert!(again.exists("/etc/new").unwrap());
    let Err(error) = Folder::open_or_unpack(dir.path().join("other"), Some("centos8")) else { panic!() };
    assert!(error.hint.is_some_and(|hint| hint.contains("centos7-seed")));
}

/// The recorded workstation is what the rest of the program takes it for.
#[test]
fn the_seed_is_a_whole_machine() {
    let dir = tempfile::tempdir().unwrap();
    let seed = Folder::open_or_unpack(dir.path().join("ws01"), Some("centos7-seed")).unwrap();
    assert!(seed.os().unwrap().is_el(7));
    assert_eq!(seed.read("/boot/grub2/grubenv").unwrap().unwrap().len(), 1024);
    let gpu = seed.real_path("/sys/bus/pci/devices/0000:82:00.0").unwrap();
    assert_eq!(gpu, "/sys/devices/pci0000:80/0000:80:02.0/0000:82:00.0");
    assert_eq!(seed.read_line(&format!("{gpu}/numa_node")).unwrap().as_deref(), Some("1"));
    assert_eq!(seed.list("/sys/kernel/iommu_groups").unwrap(), Vec::<String>::new());
    let mut in_group_38 = seed.groups_with_iommu();
    for address in in_group_38.keys() {
        assert!(seed.exists(&format!("/sys/bus/pci/devices/{address}")).unwrap(), "{address}");
    }
    assert_eq!(in_group_38.len(), seed.list("/sys/bus/pci/devices").unwrap().len());
    in_group_38.retain(|_, group| *group == 38);
    assert_eq!(in_group_38.keys().collect::<Vec<_>>(), ["0000:82:00.0", "0000:82:00.1"]);
    let mut todo = vec!["/".to_string()];
    while let Some(path) = todo.pop() {
        match seed.raw_lstat(&path).unwrap().unwrap().kind {
            FileKind::Folder => {
                let names = seed.raw_list(&path).unwrap();
                todo.extend(names.iter().map(|name| format!("{}/{name}", path.trim_end_matches('/'))));
            }
            FileKind::Link if path != "/etc/localtime" => {
                assert!(seed.exists(&path).unwrap(), "{path} leads nowhere");
            }
            _ => {}
        }
    }
    let available: Vec<String> = seed.book.borrow().available.keys().cloned().collect();
    for name in &available {
        for required in seed.available(name).unwrap().unwrap().requires {
            assert!(available.contains(&required), "{name} requires {required}");
        }
    }
    assert!(seed.available("libvirt-daemon").unwrap().unwrap().files.contains_key("/var/lib/libvirt/images/"));
}

#[test]
fn the_seed_boots_into_its_iommu_groups() {
    let dir = tempfile::tempdir().unwrap();
    let seed = Folder::open_or_unpack(dir.path().join("ws01"), Some("centos7-seed")).unwrap();
    let env =
        seed.read_text("/boot/grub2/grub.cfg").unwrap().unwrap().replace("rhgb quiet", "rhgb quiet intel_iommu=on");
    perform(&seed, &run(vec![file("/boot/grub2/grub.cfg", Some(&env)), Effect::Reboot]));
    assert!(seed.read_line("/proc/cmdline").unwrap().unwrap().ends_with("intel_iommu=on LANG=en_US.UTF-8"));
    let group = seed.real_path("/sys/bus/pci/devices/0000:82:00.0/iommu_group").unwrap();
    assert_eq!(group, "/sys/kernel/iommu_groups/38");
    assert_eq!(seed.list("/sys/kernel/iommu_groups/38/devices").unwrap(), ["0000:82:00.0", "0000:82:00.1"]);
    assert_eq!(seed.list("/sys/kernel/iommu_groups/23/devices").unwrap().len(), 3);
}

#[test]
fn a_machine_json_with_an_unknown_key_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(OWN)).unwrap();
    fs::write(dir.path().join(OWN).join("machine.json"), r#"{"packges": {}}"#).unwrap();
    let Err(error) = Folder::open(dir.path()) else { panic!() };
    assert!(error.message.contains("packges"), "{error}");
}

#[test]
fn the_root_of_this_machine_is_refused() {
    assert!(Folder::open("/").is_err_and(|e| e.kind == crate::host::error::ErrorKind::Refused));
}

#[test]
fn what_becomes_a_link_is_followed_from_then_on() {
    let (_dir, machine) = folder(&[("/etc/old/name", "old\n"), ("/etc/new/name", "new\n"), ("/etc/file", "plain\n")]);
    assert_eq!(machine.read_line("/etc/now/name").unwrap(), None);
    assert_eq!(machine.read_line("/etc/old/name").unwrap().as_deref(), Some("old"));
    assert_eq!(machine.read_line("/etc/file").unwrap().as_deref(), Some("plain"));
    let link = |path: &str, target: &str| Op::Link { path: path.into(), target: target.into() };
    perform(&machine, &link("/etc/now", "old"));
    assert_eq!(machine.read_line("/etc/now/name").unwrap().as_deref(), Some("old"));
    perform(&machine, &link("/etc/now", "/etc/new"));
    assert_eq!(machine.read_line("/etc/now/name").unwrap().as_deref(), Some("new"));
    perform(&machine, &link("/etc/file", "now/../old/name"));
    assert_eq!(machine.read_line("/etc/file").unwrap().as_deref(), Some("old"));
    perform(&machine, &Op::Remove { path: "/etc/now".into() });
    assert_eq!(machine.read_line("/etc/now/name").unwrap(), None);
}

#[test]
fn what_others_do_is_seen_before_long() {
    let (dir, machine) = folder(&[("/run/a", "one\n"), ("/run/in/b", "b\n")]);
    assert_eq!(machine.read_line("/run/a").unwrap().as_deref(), Some("one"));
    assert_eq!(machine.list("/run").unwrap(), ["a", "in"]);
    assert!(!machine.exists("/run/c").unwrap());
    fs::write(dir.path().join("run/a"), "longer than before\n").unwrap();
    fs::rename(dir.path().join("run/in"), dir.path().join("run/c")).unwrap();
    machine.seen.borrow_mut().grow_old();
    assert_eq!(machine.read_line("/run/a").unwrap().as_deref(), Some("longer than before"));
    assert_eq!(machine.list("/run").unwrap(), ["a", "c"]);
    assert!(machine.exists("/run/c/b").unwrap() && !machine.exists("/run/in/b").unwrap());
    // An operation sees what is there now, however short ago something else was.
    fs::remove_file(dir.path().join("run/c/b")).unwrap();
    perform(&machine, &run(vec![file("/run/c/d", Some("d\n"))]));
    assert_eq!(machine.list("/run/c").unwrap(), ["d"]);
}

#[test]
fn large_files_are_files_too() {
    let (dir, machine) = folder(&[("/iso", &"x".repeat(SMALL as usize + 1)), ("/empty", "")]);
    let size = |path: &str| machine.stat(path).unwrap().unwrap().size;
    assert_eq!((size("/iso"), size("/empty")), (SMALL + 1, 0));
    assert_eq!(machine.read("/iso").unwrap().unwrap().len() as u64, SMALL + 1);
    let marked = Body::Bytes([book::MARK.as_bytes(), &vec![b'y'; SMALL as usize]].concat());
    fs::write(dir.path().join("iso"), book::encode(marked.clone()).unwrap()).unwrap();
    machine.forget();
    assert_eq!(size("/iso"), SMALL + book::MARK.len() as u64);
    assert_eq!(machine.sha256("/iso").unwrap().unwrap(), marked.sha256("/iso").unwrap());
}
