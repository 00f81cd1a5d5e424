use super::*;
use crate::change::Run;

fn sh(script: &str) -> Run {
    Run::new(["sh", "-c", script], vec![])
}

fn run(run: Run) -> Result<Output> {
    let (_dir, disk) = disk();
    done(&disk, &Op::Run(run)).map(Option::unwrap)
}

#[test]
fn output_input_environment_and_folder() {
    let mut asked = sh("cat; echo $LC_ALL $X; pwd; echo err >&2; case $PATH in */usr/sbin*) echo sbin;; esac");
    asked.stdin = Some("in\n".into());
    asked.env = vec![("X".into(), "y".into())];
    let output = run(asked).unwrap();
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert_eq!((lines[0], lines[1], lines[3]), ("in", "C.UTF-8 y", "sbin"));
    assert!(lines[2].starts_with('/') && lines[2].len() > 1);
    assert_eq!((output.stderr.as_str(), output.code), ("err\n", 0));
}

#[test]
fn exit_codes_are_judged() {
    let error = run(sh("echo why >&2; exit 3")).unwrap_err();
    assert!(error.message.contains("`sh -c 'echo why >&2; exit 3'` ended with exit code 3"), "{error}");
    assert_eq!(error.output.map(|o| (o.code, o.stderr)), Some((3, "why\n".into())));
    assert_eq!(error.hint, None);
    let error = run(sh("cp /proc/version /dev/full; echo and more >&2; exit 1")).unwrap_err();
    assert!(error.hint.as_deref().is_some_and(|hint| hint.contains("a file system was full")), "{error}");
    assert_eq!(run(Run { ok_codes: vec![0, 3], ..sh("exit 3") }).unwrap().code, 3);
    assert_eq!(run(Run { any_code: true, ..sh("kill -9 $$") }).unwrap().code, 137);
    assert!(run(Run { ok_codes: vec![3], ..sh("exit 0") }).is_err());
    let error = run(Run::new(["no-such-program-here"], vec![])).unwrap_err();
    assert!(error.message.contains("the program `no-such-program-here` is not on this machine"), "{error}");
    let error = run(Run { cwd: Some("/nowhere".into()), ..sh("true") }).unwrap_err();
    assert!(error.message.contains("does not exist"), "{error}");
}

#[test]
fn a_slow_command_is_ended_with_all_its_children() {
    let start = std::time::Instant::now();
    let (dir, disk) = disk();
    let child = dir.path().join("child");
    let script = format!("sleep 300 & echo $! > {}; echo begun; wait", child.display());
    let error = done(&disk, &Op::Run(Run { timeout: Some(1), ..sh(&script) })).unwrap_err();
    assert!(start.elapsed().as_secs() < 20);
    assert!(error.message.contains("was ended after 1 seconds"), "{error}");
    assert_eq!(error.output.map(|o| o.stdout), Some("begun\n".into()));
    let pid = std::fs::read_to_string(child).unwrap();
    // A killed child may stay as a zombie for as long as nobody reaps it.
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    let gone = |state: &str| state.is_empty() || state.contains(") Z") || state.contains(") X");
    for _ in 0..100 {
        if gone(&state()) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("{}", state());
}

#[test]
fn only_the_end_of_a_long_output_is_kept_and_a_daemon_does_not_hold_it_up() {
    let start = std::time::Instant::now();
    let output = run(sh("sleep 60 & head -c 3000000 /dev/zero | tr '\\0' x; echo end")).unwrap();
    assert!(start.elapsed().as_secs() < 30);
    assert!(output.stdout.len() < (1 << 20) + 100);
    assert!(output.stdout.ends_with("xend\n") && output.stdout.starts_with("[the first "));
}
