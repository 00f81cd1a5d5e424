//! `runs`.

use serde_json::{Value, json};

use super::ExitStatus;
use super::options::{MachineOptions, OutputForm, RunsOptions};
use crate::agent::journal::time;
use crate::diag::Diagnostic;
use crate::run::{Asked, Machines};

pub(super) fn runs(options: &RunsOptions) -> ExitStatus {
    match list(options) {
        Ok(status) => status,
        Err(errors) => super::apply::wrong(&errors),
    }
}

fn list(options: &RunsOptions) -> Result<ExitStatus, Vec<Diagnostic>> {
    let asked = Asked::prepare(machines(&options.machines, 0)?)?;
    let answers = asked.runs().map_err(|error| vec![error])?;
    let mut unreachable = false;
    for (host, answer) in answers {
        match (answer, options.machines.output) {
            (Ok(runs), OutputForm::Json) => println!("{}", json!({"host": host, "runs": runs})),
            (Ok(runs), OutputForm::Text) => print!("{}", text(&host, &runs)),
            (Err(error), form) => {
                unreachable = true;
                if form == OutputForm::Json {
                    println!("{}", json!({"host": host, "error": error}));
                }
                eprintln!("{host}: {error}");
            }
        }
    }
    Ok(ExitStatus::of(false, unreachable))
}

/// How hosts are found and reached, as the flags say it.
pub(super) fn machines(options: &MachineOptions, wait_for_lock: u64) -> Result<Machines, Vec<Diagnostic>> {
    Ok(Machines {
        inventories: options.inventory.clone(),
        patterns: options.hosts.clone(),
        forks: options.forks,
        become_: options.become_,
        become_password: super::apply::become_password(options.ask_become_pass)?,
        wait_for_lock,
    })
}

fn text(host: &str, runs: &[Value]) -> String {
    if runs.is_empty() {
        return format!("{host}: no runs\n");
    }
    let mut out = format!("{host}\n");
    for run in runs {
        let word = |key: &str| run[key].as_str().unwrap_or("");
        let by = match run["rolled_back_by"].as_str() {
            Some(by) => format!(" (by {by})"),
            None => String::new(),
        };
        out.push_str(&format!(
            "  {}  {}  {:<11}  {:>4} actions  {}: {}{by}\n",
            word("id"),
            time(run["start"].as_u64().unwrap_or(0)),
            word("ended"),
            run["actions"].as_u64().unwrap_or(0),
            word("from"),
            word("what"),
        ));
    }
    out
}
