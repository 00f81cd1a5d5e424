//! Every folder under `tests/cases/playbook_errors/` is a bad playbook and exactly what is said about it.
//!
//! `BLESS=1 cargo test --test playbook_errors` writes the expectations and `docs/bad-input.md` anew; look at the diff.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use vfio_provision::diag::Diagnostic;
use vfio_provision::playbook::{LoadOptions, Loader};

const CASES: &str = "tests/cases/playbook_errors";
const TABLE: &str = "docs/bad-input.md";

fn diagnostics(case: &Path) -> Vec<Diagnostic> {
    let mut loader = Loader::new(LoadOptions::default());
    match loader.load(&[case.join("site.yml")]) {
        Ok(site) => site.warnings,
        Err(mut errors) => {
            errors.extend(loader.take_warnings());
            errors
        }
    }
}

fn compare(path: &Path, now: &str, wrong: &mut Vec<String>) {
    if std::env::var_os("BLESS").is_some() {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).expect("a folder for the expectation");
        }
        fs::write(path, now).expect("writing the expectation");
        return;
    }
    let expected = fs::read_to_string(path).unwrap_or_default();
    if expected != now {
        wrong.push(format!("{}\n--- expected\n{expected}\n--- now\n{now}", path.display()));
    }
}

/// One row of the table: what was written, what is said.
fn row(table: &mut String, name: &str, diagnostic: &Diagnostic, folder: &str) {
    let cell = |text: &str| text.replace(folder, "").replace('|', "\\|").replace("{{", "{&#123;").replace('\n', " ");
    let line = diagnostic.span.as_ref().map_or("", |span| {
        let start = span.source.text[..span.start].rfind('\n').map_or(0, |at| at + 1);
        span.source.text[start..].lines().next().unwrap_or_default().trim()
    });
    let line =
        if line.is_empty() { String::new() } else { format!("<code>{}</code>", cell(line).replace('<', "&lt;")) };
    let help = diagnostic.help.as_deref().map(|help| format!(" – {}", cell(help))).unwrap_or_default();
    let _ = writeln!(table, "| {} | {line} | {}{help} |", name.replace('_', " "), cell(&diagnostic.message));
}

#[test]
fn every_mistake_gets_exactly_its_message() {
    let mut cases: Vec<PathBuf> =
        fs::read_dir(CASES).expect("the cases").flatten().map(|entry| entry.path()).filter(|p| p.is_dir()).collect();
    cases.sort();
    assert!(cases.len() > 50, "only {} cases", cases.len());
    let mut table = String::from(
        "# Bad input and what is said about it\n\n\
         Generated from `tests/cases/playbook_errors/` by `BLESS=1 cargo test --test playbook_errors`. Each message also\n\
         shows file, line, column, the line itself and a caret; all mistakes of a site are shown at once, and no machine\n\
         is touched before they are gone.\n\n| Case | Where the caret points | Message – help |\n|---|---|---|\n",
    );
    let mut wrong = Vec::new();
    for case in &cases {
        let folder = format!("{}/", case.display());
        let name = case.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let found = diagnostics(case);
        let mut text = String::new();
        for diagnostic in &found {
            let _ = writeln!(text, "{}\n", diagnostic.render(false).replace(&folder, ""));
            row(&mut table, &name, diagnostic, &folder);
        }
        if found.is_empty() {
            text.push_str("nothing is said\n");
        }
        compare(&case.join("expected.txt"), &text, &mut wrong);
    }
    compare(Path::new(TABLE), &table, &mut wrong);
    assert!(wrong.is_empty(), "{} differ:\n\n{}", wrong.len(), wrong.join("\n\n"));
}
