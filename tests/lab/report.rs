//! The numbers of a scenario, and how they are printed.

use std::fmt::Write;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What is counted.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Machines switched on.
    pub boots: u32,
    /// Resets that machines made themselves.
    pub reboots: u32,
    /// Tasks whose plan said exactly what the apply then did.
    pub predicted: u32,
    /// Tasks that a plan was compared for.
    pub compared: u32,
    /// Times the power was cut and the next run converged.
    pub cuts: u32,
    /// What else is worth knowing.
    pub notes: Vec<String>,
}

impl Report {
    /// Adds the numbers of a part.
    pub fn add(&mut self, part: Report) {
        self.boots += part.boots;
        self.reboots += part.reboots;
        self.predicted += part.predicted;
        self.compared += part.compared;
        self.cuts += part.cuts;
        self.notes.extend(part.notes);
    }
}

/// How a scenario ended.
#[derive(Clone, Serialize, Deserialize)]
pub struct Outcome {
    /// Its name.
    pub name: String,
    /// Well?
    pub passed: bool,
    /// How long it took.
    pub took: Duration,
    /// Its numbers.
    pub report: Report,
}

impl Outcome {
    /// One line.
    pub fn line(&self) -> String {
        let how = if self.passed { "ok" } else { "FAILED" };
        let seconds = self.took.as_secs();
        let r = &self.report;
        let mut line = format!(
            "lab: {} {how}: {}:{:02} min, {} boots, {} reboots",
            self.name,
            seconds / 60,
            seconds % 60,
            r.boots,
            r.reboots
        );
        if r.compared > 0 {
            let _ = write!(line, ", {} of {} tasks as predicted", r.predicted, r.compared);
        }
        if r.cuts > 0 {
            let _ = write!(line, ", {} power cuts survived", r.cuts);
        }
        line
    }
}

/// The table at the end, as docs/lab.md has it.
pub fn summary(outcomes: &[Outcome]) -> String {
    let mut text = String::from(
        "\n| scenario | | min | boots | reboots | as predicted | power cuts |\n|---|---|---|---|---|---|---|\n",
    );
    for one in outcomes {
        let r = &one.report;
        let seconds = one.took.as_secs();
        let predicted = if r.compared > 0 { format!("{} of {}", r.predicted, r.compared) } else { String::new() };
        let cuts = if r.cuts > 0 { r.cuts.to_string() } else { String::new() };
        let _ = writeln!(
            text,
            "| {} | {} | {}:{:02} | {} | {} | {predicted} | {cuts} |",
            one.name,
            if one.passed { "ok" } else { "FAILED" },
            seconds / 60,
            seconds % 60,
            r.boots,
            r.reboots
        );
    }
    for one in outcomes.iter().filter(|one| !one.report.notes.is_empty()) {
        let _ = writeln!(text, "\n{}:", one.name);
        for note in &one.report.notes {
            let _ = writeln!(text, "- {note}");
        }
    }
    let failed = outcomes.iter().filter(|one| !one.passed).count();
    let _ = writeln!(text, "\nlab: {} scenarios, {failed} failed", outcomes.len());
    text
}
