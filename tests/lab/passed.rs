//! What has passed already. Everything takes hours: `--resume` goes on where an interrupted run has ended.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::image::{self, Kind};
use super::program;
use super::report::Outcome;

/// What tells machines of one image that this very program provisions with this very site from all others.
pub fn stamp(kind: Kind) -> String {
    format!("{}-{}", image::disk(kind).file_stem().unwrap().to_string_lossy(), program::stamp())
}

/// A scenario that has passed.
#[derive(Serialize, Deserialize)]
struct Passed {
    /// With which image, program and site.
    of: String,
    outcome: Outcome,
}

fn file(name: &str) -> PathBuf {
    image::folder().join("passed").join(format!("{}.json", name.replace('/', "-")))
}

/// How this scenario has passed, if it has with what is here now.
pub fn earlier(name: &str, kind: Kind) -> Option<Outcome> {
    let text = fs::read_to_string(file(name)).ok()?;
    let passed: Passed = serde_json::from_str(&text).ok()?;
    (passed.of == stamp(kind)).then_some(passed.outcome)
}

/// It is run again, whatever it was.
pub fn forget(name: &str) {
    let _ = fs::remove_file(file(name));
}

/// It has passed.
pub fn remember(kind: Kind, outcome: &Outcome) {
    let file = file(&outcome.name);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    let passed = Passed { of: stamp(kind), outcome: outcome.clone() };
    fs::write(file, serde_json::to_string_pretty(&passed).unwrap()).unwrap();
}
