//! `rollback`.

use std::io::IsTerminal;

use super::ExitStatus;
use super::apply::{agreed, reporter, wrong};
use super::options::RollbackOptions;
use super::runs::machines;
use crate::agent::history::Rollback;
use crate::agent::protocol::Mode;
use crate::diag::Diagnostic;
use crate::report::Recap;
use crate::run::Asked;

pub(super) fn rollback(options: &RollbackOptions) -> ExitStatus {
    match rollback_or_errors(options) {
        Ok(status) => status,
        Err(errors) => wrong(&errors),
    }
}

fn rollback_or_errors(options: &RollbackOptions) -> Result<ExitStatus, Vec<Diagnostic>> {
    if !options.check && !options.yes && !std::io::stdin().is_terminal() {
        return Err(vec![
            Diagnostic::error("rollback asks before it changes anything, and standard input is no terminal")
                .help("look with `--check`, then give `--yes`"),
        ]);
    }
    let asked = Asked::prepare(machines(&options.machines, options.wait_for_lock)?)?;
    // The names of runs are a machine's own.
    if asked.count() > 1 && (options.run.is_some() || options.through.is_some()) {
        let flag = if options.run.is_some() { "--run" } else { "--through" };
        eprintln!("{flag} names the same run on {} hosts", asked.count());
    }
    let wish = Rollback {
        run: options.run.clone().or_else(|| options.through.clone()),
        through: options.through.is_some(),
        force: options.force,
        packages: options.packages,
    };
    let sink = reporter(&options.machines.output, !options.no_diff, options.machines.verbose, None)?;
    if !options.yes || options.check {
        let recap = asked.rollback(&wish, Mode::Plan, &sink).map_err(|error| vec![error])?;
        let status = status(&recap);
        if options.check || status != ExitStatus::Fine || !agreed()? {
            return Ok(status);
        }
    }
    let recap = asked.rollback(&wish, Mode::Apply, &sink).map_err(|error| vec![error])?;
    Ok(status(&recap))
}

fn status(recap: &Recap) -> ExitStatus {
    let any = |count: fn(&crate::report::Counts) -> usize| recap.hosts.values().any(|host| count(&host.counts) > 0);
    ExitStatus::of(any(|counts| counts.failed), any(|counts| counts.unreachable))
}
