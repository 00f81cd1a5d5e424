use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use sha2::{Digest, Sha256};

use super::*;

/// A program that does what the scripts ask of one.
const PROGRAM: &str = "#!/bin/sh\n\
    case $1 in --version) echo 1 ;; agent) echo 'vfio-provision agent' ;; *) exit 1 ;; esac\n";

fn hash(program: &str) -> String {
    Sha256::digest(program).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As a login shell does it.
fn run(shell: &str, home: &Path, command: &str, input: &[u8]) -> Output {
    let mut child = Command::new(shell);
    child.args(["-c", command]).env("HOME", home).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = child.spawn().unwrap();
    // It may have ended before it read all.
    let _ = child.stdin.take().unwrap().write_all(input);
    child.wait_with_output().unwrap()
}

fn offset(output: &Output) -> Option<u64> {
    Noise::default().offset(&output.stdout).unwrap()
}

#[test]
fn the_scripts_are_one_word_for_any_shell() {
    for command in [start("abc"), put("abc", 123, 4)] {
        let script = command.strip_prefix("/bin/sh -c '").unwrap().strip_suffix('\'').unwrap();
        assert!(!script.contains(['\'', '\\', '!', '\n', '@', '`']), "{script}");
    }
}

#[test]
fn what_is_put_there_is_found_and_started() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("with blank");
    std::fs::create_dir(&home).unwrap();
    let (sha, size) = (hash(PROGRAM), PROGRAM.len() as u64);
    for shell in ["sh", "bash"] {
        let missing = run(shell, &home, &start(&sha), b"");
        assert_eq!(missing.status.code(), Some(MISSING), "{missing:?}");
        let done = run(shell, &home, &put(&sha, size, 0), PROGRAM.as_bytes());
        assert_eq!((done.status.code(), offset(&done)), (Some(0), Some(0)), "{done:?}");
        let cache = home.join(".cache/vfio-provision");
        let names: Vec<_> = std::fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [format!("agent-{sha}").as_str()]);
        let started = run(shell, &home, &start(&sha), b"");
        assert_eq!(String::from_utf8_lossy(&started.stdout), GREETING);
        // A file cut to nothing by a power failure is not there.
        std::fs::write(cache.join(format!("agent-{sha}")), "").unwrap();
        assert_eq!(run(shell, &home, &start(&sha), b"").status.code(), Some(MISSING));
        std::fs::remove_dir_all(home.join(".cache")).unwrap();
    }
}

#[test]
fn a_cut_one_goes_on_and_a_damaged_one_begins_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (sha, size) = (hash(PROGRAM), PROGRAM.len() as u64);
    let send = |from: usize, to: usize| run("sh", folder.path(), &put(&sha, size, 0), &PROGRAM.as_bytes()[from..to]);
    let first = send(0, 40);
    assert_eq!((first.status.code(), offset(&first)), (Some(CUT), Some(0)));
    let second = send(40, 60);
    assert_eq!((second.status.code(), offset(&second)), (Some(CUT), Some(40)));
    // The wrong rest.
    let wrong = send(0, PROGRAM.len() - 60);
    assert_eq!((wrong.status.code(), offset(&wrong)), (Some(DAMAGED), Some(60)), "{wrong:?}");
    assert_eq!(after_put(DAMAGED, 0, 1), AfterPut::Again);
    let anew = send(0, PROGRAM.len());
    assert_eq!((anew.status.code(), offset(&anew)), (Some(0), Some(0)), "{anew:?}");
    // More than it should be is no rest to go on behind.
    let long = folder.path().join(format!(".cache/vfio-provision/agent-{sha}.part"));
    std::fs::write(&long, "x".repeat(PROGRAM.len() + 1)).unwrap();
    assert_eq!(offset(&send(0, PROGRAM.len())), Some(0));
}

#[test]
fn a_program_that_does_not_run_there_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let program = "#!/bin/sh\nexit 3\n";
    let (sha, size) = (hash(program), program.len() as u64);
    let done = run("sh", folder.path(), &put(&sha, size, 0), program.as_bytes());
    assert_eq!(done.status.code(), Some(BLOCKED), "{done:?}");
    assert_eq!(run("sh", folder.path(), &start(&sha), b"").status.code(), Some(MISSING));
    assert_eq!(after_put(BLOCKED, 0, 1), AfterPut::Elsewhere);
    assert_eq!(after_put(BLOCKED, PLACES - 1, 1), AfterPut::GiveUp);
    assert_eq!(after_put(CUT, 0, 3), AfterPut::GiveUp);
}

#[test]
fn two_that_send_at_the_same_time_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let program = PROGRAM.to_string() + &"# rest\n".repeat(20_000);
    let (sha, size) = (hash(&program), program.len() as u64);
    std::thread::scope(|scope| {
        let all: Vec<_> =
            (0..4).map(|_| scope.spawn(|| run("sh", folder.path(), &put(&sha, size, 0), program.as_bytes()))).collect();
        for done in all {
            let done = done.join().unwrap();
            // One may begin behind what another was sent; it is told to send less, and this sender does not listen.
            assert!([Some(0), Some(DAMAGED)].contains(&done.status.code()), "{done:?}");
        }
    });
    let started = run("sh", folder.path(), &start(&sha), b"");
    assert_eq!(String::from_utf8_lossy(&started.stdout), GREETING);
}

/// Runs both commands where `$HOME` and /var/tmp are what `setup` makes of them; as root, in a namespace of its own.
fn elsewhere(setup: &str, put: &str, start: &str) -> Option<Output> {
    let folder = tempfile::tempdir().unwrap();
    let works = Command::new("unshare").args(["-m", "mount", "-t", "tmpfs", "x", "/var/tmp"]).output();
    if !works.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no namespaces here");
        return None;
    }
    let script = format!(
        "mkdir \"$HOME\"; {setup}\n sh -c \"$1\"; echo \"put: $?\"; ls /var/tmp; sh -c \"$2\"; echo \"start: $?\""
    );
    let home = folder.path().join("home");
    let mut child = Command::new("unshare");
    child.args(["-m", "sh", "-c", &script, "sh", put, start]).env("HOME", &home);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(PROGRAM.as_bytes());
    Some(child.wait_with_output().unwrap())
}

#[test]
fn a_home_that_can_not_hold_it_is_passed_over() {
    let (sha, size) = (hash(PROGRAM), PROGRAM.len() as u64);
    let uid = rustix::process::getuid().as_raw();
    let fresh = "mount -t tmpfs x /var/tmp;";
    for (setup, skip) in [
        ("mount -t tmpfs -o noexec x \"$HOME\";", 0),
        ("mount -t tmpfs -o ro x \"$HOME\";", 0),
        ("mount -t tmpfs -o size=32k x \"$HOME\";", 0),
        ("rmdir \"$HOME\";", 0),
        ("HOME=/; export HOME;", 0),
        ("HOME=; export HOME;", 0),
        // Somebody else may write it.
        ("mkdir -p \"$HOME/.cache/vfio-provision\"; chmod 777 \"$HOME/.cache/vfio-provision\";", 0),
        (":;", 1),
        // One is at home already, and no longer to be executed there.
        (
            "mkdir -p \"$HOME/.cache/vfio-provision\"; echo x > \"$HOME/.cache/vfio-provision/agent-SHA\"; \
             chmod -R 700 \"$HOME/.cache\"; mount --bind \"$HOME\" \"$HOME\"; mount -o remount,bind,noexec \"$HOME\";",
            0,
        ),
    ] {
        let setup = format!("{fresh} {}", setup.replace("SHA", &sha));
        let Some(output) = elsewhere(&setup, &put(&sha, size, skip), &start(&sha)) else { return };
        let said = String::from_utf8_lossy(&output.stdout);
        let there = format!("vfio-provision-{uid}");
        assert!(said.contains("put: 0") && said.contains(&there) && said.contains(GREETING), "{setup}: {output:?}");
    }
}

#[test]
fn a_folder_that_somebody_else_prepared_is_not_used() {
    let (sha, size) = (hash(PROGRAM), PROGRAM.len() as u64);
    let uid = rustix::process::getuid().as_raw();
    let there = format!("/var/tmp/vfio-provision-{uid}");
    for trap in [
        format!("mkdir {there}; chown 12345 {there};"),
        format!("mkdir -m 777 {there};"),
        format!("mkdir /var/tmp/trap; ln -s /var/tmp/trap {there};"),
    ] {
        // The trap holds a program of the right name; no other place is left.
        let setup = format!(
            "HOME=/; export HOME; mount -t tmpfs x /var/tmp; {trap} \
             printf '#!/bin/sh\\necho trapped\\n' > {there}/agent-{sha}; chmod 755 {there}/agent-{sha}; \
             for d in /tmp /dev/shm /run; do mount -t tmpfs -o ro x $d; done;"
        );
        let Some(output) = elsewhere(&setup, &put(&sha, size, 0), &start(&sha)) else { return };
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(said.contains(&format!("put: {NO_PLACE}")), "{output:?}");
        assert!(said.contains(&format!("start: {MISSING}")) && !said.contains("trapped"), "{output:?}");
        assert!(errors.contains("not this user alone to write"), "{output:?}");
    }
}

#[test]
fn a_machine_of_another_kind_is_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let bin = folder.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::write(bin.join("uname"), "#!/bin/sh\n[ $1 = -s ] && echo Linux || echo aarch64\n").unwrap();
    std::fs::set_permissions(bin.join("uname"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let command = format!("PATH={}:$PATH {}", bin.display(), put("abc", 1, 0));
    let output = run("sh", folder.path(), &command, b"");
    assert_eq!(output.status.code(), Some(FOREIGN));
    let (message, hint) = explain(FOREIGN, &String::from_utf8_lossy(&output.stderr));
    assert!(message.contains("Linux on aarch64") && hint.is_some_and(|hint| hint.contains("x86-64")), "{message}");
}

#[test]
fn answers_are_found_behind_noise_however_it_is_cut() {
    let text =
        format!("Welcome to vfio-provision\nvfio-provision wants \nno line end{GREETING}rest\nvfio-provision agent\n");
    for step in 1..text.len() {
        let mut noise = Noise::default();
        let mut pieces = text.as_bytes().chunks(step);
        let mut rest = pieces.by_ref().find_map(|piece| noise.greeting(piece).unwrap()).unwrap();
        rest.extend(pieces.flatten());
        assert_eq!(String::from_utf8(rest).unwrap(), "rest\nvfio-provision agent\n");
    }
    let text = format!("{WANTS}nothing\nMOTD{WANTS}4711\n");
    for step in 1..text.len() {
        let mut noise = Noise::default();
        let mut seen = text.as_bytes().chunks(step).map(|piece| noise.offset(piece).unwrap());
        assert_eq!(seen.find_map(|offset| offset), Some(4711), "{step}");
    }
    let mut noise = Noise::default();
    assert!((0..40).any(|_| noise.greeting(&[b'x'; 1 << 16]).is_err()));
}
