//! Cases of the command line: `tests/cases/cli/NAME/` holds `in/` (copied to a temporary folder), `cmd` (one call a line,
//! `$ ` and the arguments) and `expected.txt` (what each printed and its exit code); `out/` holds files as they must be
//! afterwards. `BLESS=1 cargo test --test cli` writes `expected.txt` anew.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn cases() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/cli");
    let mut cases: Vec<PathBuf> = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy(&entry.path(), &target);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path()).unwrap(), target).unwrap();
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Runs one line of a `cmd` file: the program's arguments, or a shell command where it begins with `!`.
fn run(line: &str, folder: &Path) -> String {
    let mut command = match line.strip_prefix('!') {
        Some(shell) => {
            let mut command = Command::new("sh");
            command.args(["-ec", shell.trim()]);
            command
        }
        None => {
            let mut command = Command::new(env!("CARGO_BIN_EXE_vfio-provision"));
            command.args(shlex::split(line).unwrap());
            command
        }
    };
    command.env_remove("CLICOLOR_FORCE").env("NO_COLOR", "1").current_dir(folder).stdin(Stdio::null());
    let output = command.output().unwrap();
    let mut text = String::new();
    text.push_str(&String::from_utf8(output.stdout).unwrap());
    let errors = String::from_utf8(output.stderr).unwrap();
    for line in errors.lines() {
        writeln!(text, "stderr| {line}").unwrap();
    }
    let code = output.status.code().unwrap();
    writeln!(text, "exit {code}").unwrap();
    settle(&text.replace(&folder.display().to_string(), "$DIR"))
}

/// What differs from run to run: when things were, and how long they took.
fn settle(text: &str) -> String {
    let mut text = text.to_string();
    for (pattern, to) in [
        (r#""duration_ms":\d+"#, "\"duration_ms\":0"),
        (r#""time":"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ""#, "\"time\":\"TIME\""),
        (r#""version":"[0-9.]+""#, "\"version\":\"VERSION\""),
        (r#"(?m)^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"#, "TIME"),
        (r#" time="\d+\.\d+""#, " time=\"SECONDS\""),
        (r#"timestamp="\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d""#, "timestamp=\"TIME\""),
        (r#"\(\d+\.\d{3} s\)"#, "(SECONDS)"),
    ] {
        text = regex::Regex::new(pattern).unwrap().replace_all(&text, to).into_owned();
    }
    text
}

#[test]
fn every_case_prints_what_it_should() {
    let bless = std::env::var_os("BLESS").is_some();
    let only = std::env::var("CASE").ok();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for case in cases() {
        let name = case.file_name().unwrap().to_string_lossy().into_owned();
        if only.as_ref().is_some_and(|only| *only != name) {
            continue;
        }
        seen += 1;
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().canonicalize().unwrap();
        if case.join("in").exists() {
            copy(&case.join("in"), &place);
        }
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
                wrong.push(format!("{name}:\n{}", similar::TextDiff::from_lines(&want, &told).unified_diff()));
            }
        }
        let out = case.join("out");
        if out.exists() {
            compare(&out, &place, &name, &mut wrong);
        }
    }
    assert!(seen > 0, "there are no cases");
    assert!(wrong.is_empty(), "{} of {seen} cases differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn compare(want: &Path, have: &Path, case: &str, wrong: &mut Vec<String>) {
    for entry in fs::read_dir(want).unwrap() {
        let entry = entry.unwrap();
        let other = have.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            compare(&entry.path(), &other, case, wrong);
        } else if fs::read(entry.path()).ok() != fs::read(&other).ok() {
            wrong.push(format!("{case}: {} is not as it should be", other.display()));
        }
    }
}
