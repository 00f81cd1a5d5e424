//! Kills, full disks and mounts: in a child process of this very test binary.

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Output as Ended};

use super::*;
use crate::change::failpoint;

const ROOT: &str = "TEST_EXECUTOR_ROOT";
const OPS: &str = "TEST_EXECUTOR_OPS";

/// Not a test by itself: does the operations that the variables name, in a process that may be killed.
#[test]
#[ignore = "the child of the tests below"]
fn child() {
    let (Ok(root), Ok(ops)) = (std::env::var(ROOT), std::env::var(OPS)) else { return };
    let disk = Disk(root.into());
    let ops: Vec<Op> = serde_json::from_str(&ops).unwrap();
    for op in ops {
        if let Err(error) = done(&disk, &op) {
            println!("<<{error}>>");
            std::process::exit(7);
        }
    }
}

fn child_of(mut command: Command, root: &Path, ops: &[Op], failpoint: &str) -> Ended {
    command
        .args(["--ignored", "--exact", "change::executor::tests::interrupted::child", "--nocapture"])
        .env(ROOT, root)
        .env(OPS, serde_json::to_string(ops).unwrap())
        .env(failpoint::VARIABLE, failpoint)
        .output()
        .unwrap()
}

fn killed(root: &Path, ops: &[Op], failpoint: &str) -> bool {
    let ended = child_of(Command::new(std::env::current_exe().unwrap()), root, ops, failpoint);
    assert!(ended.status.signal() == Some(9) || ended.status.success(), "{ended:?}");
    ended.status.signal() == Some(9)
}

#[test]
fn a_kill_at_any_point_leaves_old_or_new_and_a_rerun_converges() {
    let ops = [
        write("/a", "new a"),
        write("/b", "new b"),
        Op::MakeFolder { path: "/d".into(), mode: Some(0o700), owner: None, group: None },
        Op::Link { path: "/l".into(), target: "b".into() },
        Op::Remove { path: "/old".into() },
    ];
    let mut kills = 0;
    for action in 1..=ops.len() {
        for point in ["before", "written", "renamed", "after"] {
            let (_dir, disk) = disk();
            std::fs::write(disk.at("/a"), "old a").unwrap();
            std::fs::create_dir_all(disk.at("/old/x/y")).unwrap();
            kills += usize::from(killed(&disk.0, &ops, &format!("{action}:{point}")));
            let a = std::fs::read_to_string(disk.at("/a")).unwrap();
            let early = action == 1 && (point == "before" || point == "written");
            assert_eq!(a, if early { "old a" } else { "new a" }, "{action}:{point}");
            if let Ok(b) = std::fs::read_to_string(disk.at("/b")) {
                assert_eq!(b, "new b");
            }
            if disk.at("/d").exists() {
                assert_eq!(mode(&disk.at("/d")), 0o700);
            }
            if disk.at("/old").exists() {
                assert!(disk.at("/old/x/y").exists());
            }
            for op in &ops {
                done(&disk, op).unwrap();
            }
            // Leftovers went with the second try; those of a removal that had already happened may stay until then.
            let rest: Vec<String> = names(&disk.0).into_iter().filter(|n| !n.starts_with(".old.")).collect();
            assert_eq!(rest, ["a", "b", "d", "l"], "{action}:{point}");
        }
    }
    // Four points each, but a removal has nothing written.
    assert_eq!(kills, 19);
}

#[test]
fn a_failpoint_that_is_not_reached_does_nothing() {
    let (_dir, disk) = disk();
    assert!(!killed(&disk.0, &[write("/a", "x")], "2"));
    assert_eq!(names(&disk.0), ["a"]);
}

/// Runs the child in a mount namespace of its own after `prepare`; `None`, said so, where that is not allowed.
fn in_own_mounts(root: &Path, ops: &[Op], prepare: &str) -> Option<String> {
    let probe = Command::new("unshare").args(["-m", "true"]).status();
    if !probe.is_ok_and(|status| status.success()) {
        eprintln!("skipped: mounting takes root and unshare(1)");
        return None;
    }
    let exe = std::env::current_exe().unwrap();
    let mut command = Command::new("unshare");
    let script = format!("mount --make-rprivate / && cd \"${ROOT}\" && {prepare} && cd . && exec \"$0\" \"$@\"");
    command.args(["-m", "sh", "-c", &script]).arg(exe);
    let ended = child_of(command, root, ops, "");
    Some(String::from_utf8_lossy(&ended.stdout).into_owned() + &String::from_utf8_lossy(&ended.stderr))
}

#[test]
fn a_full_disk_changes_nothing_and_says_so() {
    let (_dir, disk) = disk();
    std::fs::create_dir(disk.at("/m")).unwrap();
    let check = "test \"$(ls -A m)\" = a && test \"$(cat m/a)\" = old";
    let prepare = "mount -t tmpfs -o size=16k tmpfs m && printf old > m/a";
    let ops = [write("/m/a", &"x".repeat(60_000))];
    // The shell looks at the disk after the child is done, since the mount ends with its namespace.
    let prepare = format!("{prepare} && {{ \"$0\" \"$@\"; {check} && echo '<<all as before>>'; exit; }}");
    let Some(said) = in_own_mounts(&disk.0, &ops, &prepare) else { return };
    assert!(said.contains("<<can't write /m/a: the disk is full; the file is as it was"), "{said}");
    assert!(said.contains("<<all as before>>"), "{said}");
}

#[test]
fn a_mount_below_a_folder_is_never_removed() {
    let (_dir, disk) = disk();
    std::fs::create_dir_all(disk.at("/d/sub dir")).unwrap();
    std::fs::create_dir(disk.at("/precious")).unwrap();
    std::fs::write(disk.at("/precious/x"), "x").unwrap();
    std::fs::write(disk.at("/d/a"), "x").unwrap();
    let ops = [Op::Remove { path: "/d".into() }];
    let Some(said) = in_own_mounts(&disk.0, &ops, "mount --bind precious 'd/sub dir'") else { return };
    assert!(said.contains("<</d is or holds a mount point"), "{said}");
    assert_eq!(names(&disk.at("/d")), ["a", "sub dir"]);
    assert_eq!(names(&disk.at("/precious")), ["x"]);
}
