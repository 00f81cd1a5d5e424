//! `vfio-provision domain`: `tests/cases/domain/NAME/` holds `in/` (copied to a temporary folder), `cmd` (one call a line, or
//! a shell command where it begins with `!`) and `expected.txt`. `BLESS=1 cargo test --test domain_cli` writes that anew.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/domain");
    let mut cases: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

fn run(line: &str, folder: &Path) -> String {
    let program = env!("CARGO_BIN_EXE_vfio-provision");
    let mut command = match line.strip_prefix('!') {
        Some(shell) => {
            let mut command = Command::new("sh");
            command.args(["-ec", shell.trim()]).env("PROGRAM", program);
            command
        }
        None => {
            let mut command = Command::new(program);
            command.args(shlex::split(line).unwrap());
            command
        }
    };
    let output = command
        .env_remove("CLICOLOR_FORCE")
        .env("NO_COLOR", "1")
        .env("HOME", folder)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let mut text = String::from_utf8(output.stdout).unwrap();
    for line in String::from_utf8(output.stderr).unwrap().lines() {
        writeln!(text, "stderr| {line}").unwrap();
    }
    writeln!(text, "exit {}", output.status.code().unwrap()).unwrap();
    text.replace(&folder.display().to_string(), "$DIR")
}

#[test]
fn every_case_prints_what_it_should() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    for case in cases() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().canonicalize().unwrap();
        let copied = Command::new("cp").args(["-r", "."]).arg(&place).current_dir(case.join("in")).status().unwrap();
        assert!(copied.success());
        let mut told = String::new();
        for line in fs::read_to_string(case.join("cmd")).unwrap().lines().filter(|line| !line.is_empty()) {
            writeln!(told, "$ {line}").unwrap();
            told.push_str(&run(line, &place));
        }
        let expected = case.join("expected.txt");
        if bless {
            fs::write(&expected, &told).unwrap();
        } else {
            let want = fs::read_to_string(&expected).unwrap_or_default();
            if want != told {
                wrong.push(format!(
                    "{}:\n{}",
                    case.display(),
                    similar::TextDiff::from_lines(&want, &told).unified_diff()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is imported is accepted by the role as it is: a plan on the machine that it came from changes nothing.
#[test]
fn what_a_machine_has_is_what_its_host_vars_say() {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path();
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/domain/host/in");
    assert!(Command::new("cp").args(["-r", "."]).arg(place).current_dir(cases).status().unwrap().success());
    let program = env!("CARGO_BIN_EXE_vfio-provision");
    let call = |arguments: &[&str]| {
        let output = Command::new(program)
            .args(arguments)
            .current_dir(place)
            .env("HOME", place)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    };
    for short in [false, true] {
        let mut arguments = vec!["domain", "import", "--all", "--host", "ws01", "-i", "inventory"];
        arguments.extend(short.then_some("--short"));
        let (code, host_vars, errors) = call(&arguments);
        assert_eq!((code, errors.as_str()), (0, ""), "{host_vars}");
        fs::create_dir_all(place.join("host_vars")).unwrap();
        fs::write(place.join("host_vars/ws01.yml"), &host_vars).unwrap();
        let roles = Path::new(env!("CARGO_MANIFEST_DIR")).join("roles");
        let roles = roles.display().to_string();
        let (code, shown, errors) =
            call(&["plan", "guests.yml", "-i", "inventory", "--roles-path", &roles, "--detailed-exitcode"]);
        // Only our own records are written, which is no change of the machine.
        assert_eq!(code, 0, "{host_vars}\n{shown}\n{errors}");
    }
}
