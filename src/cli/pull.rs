//! `pull`: a workstation applies its own part of a git repository.

use std::path::Path;

use clap::Parser;

use super::options::{Command, OutputForm, PullOptions};
use super::{Cli, ExitStatus, apply};
use crate::diag::Diagnostic;
use crate::pull::{self, Place, Source, Trouble};

pub(super) fn pull(options: &PullOptions) -> ExitStatus {
    match pull_or_errors(options) {
        Ok(status) => status,
        Err(Trouble::Fetch(error)) => {
            let _ = apply::wrong(&[error]);
            ExitStatus::Unreachable
        }
        Err(Trouble::Wrong(errors)) => apply::wrong(&errors),
    }
}

fn pull_or_errors(options: &PullOptions) -> Result<ExitStatus, Trouble> {
    let source = Source {
        url: options.url.clone(),
        reference: options.reference.clone(),
        verify_signatures: options.verify_signatures,
        submodules: options.submodules,
    };
    let place = Place::open(&options.directory)?;
    let fetched = place.fetch(&source)?;
    for warning in &fetched.warnings {
        anstream::eprintln!("{}", Diagnostic::warning(warning).render(true));
    }
    if options.only_if_changed && fetched.is_applied {
        eprintln!("nothing new: {} is applied", fetched.title());
        return Ok(ExitStatus::Fine);
    }
    place.check_out(&source, &fetched)?;
    let work = place.inventories(&options.playbook, &options.inventory, options.limit.as_deref())?;
    eprintln!("{} is applied to {}", fetched.title(), work.host);
    let run = run_of(options, &work)?;
    let status = apply::apply(&run);
    if status == ExitStatus::Fine && !options.check {
        place.applied(&source, &fetched)?;
    }
    Ok(status)
}

/// The same as `apply` on the command line, so that every flag means the same and has the same default.
fn run_of(options: &PullOptions, work: &pull::Work) -> Result<super::options::ApplyOptions, Trouble> {
    let mut line: Vec<&std::ffi::OsStr> =
        ["vfio-provision", "apply", "--limit", &work.host].map(AsRef::as_ref).to_vec();
    for inventory in &work.inventories {
        line.extend(["--inventory".as_ref(), inventory.as_os_str()]);
    }
    if options.check {
        line.push("--check".as_ref());
    }
    if options.output == OutputForm::Json {
        line.extend(["--output".as_ref(), "json".as_ref()] as [&std::ffi::OsStr; 2]);
    }
    if let Some(report) = options.report.as_deref().map(Path::as_os_str) {
        line.extend(["--report".as_ref(), report]);
    }
    line.extend(["--".as_ref(), work.playbook.as_os_str()]);
    match Cli::try_parse_from(line).map(|cli| cli.command) {
        Ok(Command::Apply(run)) => Ok(run),
        Ok(_) => Err(Trouble::wrong("`pull` can't begin a run")),
        Err(error) => Err(Trouble::wrong(error.to_string())),
    }
}
