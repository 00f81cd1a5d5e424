//! The command line: one file per subcommand, wiring only.

mod apply;
mod doc;
mod domain;
mod domain_diff;
mod domain_import;
mod domain_load;
mod lint;
mod merge_reports;
pub mod options;
mod pull;
mod rollback;
mod runs;
mod schema;
mod vault;

use clap::Parser;

pub use options::Cli;
use options::Command;

/// How the program ends, as its exit code says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// All went well (and, for `plan --detailed-exitcode`, nothing is to change).
    Fine,
    /// The playbook, the inventory or the command line is wrong; no machine was touched.
    Wrong,
    /// `plan --detailed-exitcode`: there is something to change.
    Changes,
    /// A task failed.
    Failed,
    /// A host could not be reached.
    Unreachable,
    /// Both: a task failed, and a host could not be reached.
    FailedAndUnreachable,
    /// The user ended the run.
    Interrupted,
}

impl ExitStatus {
    /// The number that the shell sees.
    pub fn code(self) -> u8 {
        match self {
            ExitStatus::Fine => 0,
            ExitStatus::Wrong => 1,
            ExitStatus::Changes | ExitStatus::Failed => 2,
            ExitStatus::Unreachable => 4,
            ExitStatus::FailedAndUnreachable => 6,
            ExitStatus::Interrupted => crate::run::interrupt::EXIT_CODE,
        }
    }

    /// From what a run counted.
    pub fn of(failed: bool, unreachable: bool) -> ExitStatus {
        match (failed, unreachable) {
            (false, false) => ExitStatus::Fine,
            (true, false) => ExitStatus::Failed,
            (false, true) => ExitStatus::Unreachable,
            (true, true) => ExitStatus::FailedAndUnreachable,
        }
    }
}

/// Parses the command line and does what it says.
pub fn main() -> ExitStatus {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // `--help` and `--version` come this way too; they go to stdout and are fine.
            let _ = error.print();
            return if error.use_stderr() { ExitStatus::Wrong } else { ExitStatus::Fine };
        }
    };
    match cli.command {
        Command::Plan(options) => apply::plan(&options),
        Command::Apply(options) => apply::apply(&options),
        Command::Pull(options) => pull::pull(&options),
        Command::Runs(options) => runs::runs(&options),
        Command::Rollback(options) => rollback::rollback(&options),
        Command::MergeReports(options) => merge_reports::merge_reports(&options),
        Command::Doc(options) => doc::doc(&options),
        Command::Schema(options) => schema::schema(&options),
        Command::Agent(options) => {
            match options.watch.as_ref().map_or_else(crate::agent::serve_on_stdio, |folder| crate::agent::watch(folder))
            {
                Ok(()) => ExitStatus::Fine,
                Err(error) => {
                    eprintln!("agent: {error}");
                    ExitStatus::Failed
                }
            }
        }
        Command::Domain(command) => domain::domain(&command),
        Command::Lint(options) => lint::lint(&options),
        Command::Vault(command) => vault::vault(&command),
    }
}
