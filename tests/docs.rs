//! Pages in `docs/` that the program makes of itself must be what it makes today: `BLESS=1 cargo test --test docs`.

use std::fs;
use std::path::Path;
use std::process::Command;

fn told(arguments: &[&str]) -> String {
    let output =
        Command::new(env!("CARGO_BIN_EXE_vfio-provision")).args(arguments).env("COLUMNS", "100").output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn is_current(file: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs").join(file);
    if std::env::var_os("BLESS").is_some() {
        fs::write(&path, text).unwrap();
    }
    let have = fs::read_to_string(&path).unwrap_or_default();
    let diff = similar::TextDiff::from_lines(have.as_str(), text).unified_diff().to_string();
    assert!(have == text, "docs/{file} is not what the program says of itself (BLESS=1 writes it):\n{diff}");
}

#[test]
fn the_modules_reference_is_current() {
    is_current("modules.md", &told(&["doc", "--markdown"]));
}

#[test]
fn the_rules_of_guests_are_current() {
    is_current("lint-rules.md", &vfio_provision::modules::libvirt::lint::page());
}

#[test]
fn the_events_schema_is_current() {
    is_current("events.schema.json", &told(&["schema", "events"]));
}

#[test]
fn the_command_line_reference_is_current() {
    let mut page = String::from("# The command line\n\nMade from `--help`; a test compares. Do not edit.\n");
    let others = ["domain import", "domain render", "domain diff", "domain lint", "lint"];
    for command in ["", "plan", "apply", "merge-reports", "doc", "schema", "domain"].into_iter().chain(others) {
        let arguments: Vec<&str> = command.split_whitespace().chain(["--help"]).collect();
        let name = format!("vfio-provision {command}");
        page.push_str(&format!("\n## {}\n\n```\n{}```\n", name.trim_end(), told(&arguments)));
    }
    is_current("cli.md", &page);
}

/// Every line that a run prints with `--output json` must fit the schema.
#[test]
fn json_lines_fit_the_schema() {
    let schema: serde_json::Value = serde_json::from_str(&told(&["schema", "events"])).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases/cli");
    let mut lines = 0;
    for case in ["flow", "secrets", "exit_codes", "unknown"] {
        let place = folder.path().join(case);
        let copied = Command::new("cp").arg("-r").arg(cases.join(case).join("in")).arg(&place).status().unwrap();
        assert!(copied.success());
        for inventory in ["inventory", "gone"] {
            if !place.join(inventory).exists() {
                continue;
            }
            let output = Command::new(env!("CARGO_BIN_EXE_vfio-provision"))
                .args(["plan", "site.yml", "--output", "json", "-i", inventory])
                .current_dir(&place)
                .output()
                .unwrap();
            for line in String::from_utf8(output.stdout).unwrap().lines() {
                let value: serde_json::Value = serde_json::from_str(line).unwrap();
                let wrong: Vec<String> = validator.iter_errors(&value).map(|e| e.to_string()).collect();
                assert!(wrong.is_empty(), "{line}\n{wrong:?}");
                lines += 1;
            }
        }
    }
    assert!(lines > 20, "only {lines} lines were checked");
    let wrong = serde_json::json!({"event": "task", "host": 5});
    assert!(!validator.is_valid(&wrong), "the schema takes anything");
}
