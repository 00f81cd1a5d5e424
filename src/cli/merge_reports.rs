//! `merge-reports`.

use std::io::Write;

use super::ExitStatus;
use super::options::MergeOptions;
use crate::diag::Diagnostic;
use crate::report::merge::{Merged, find};
use crate::report::recap;

pub(super) fn merge_reports(options: &MergeOptions) -> ExitStatus {
    match merged(options) {
        Ok(status) => status,
        Err(errors) => {
            for error in errors {
                anstream::eprintln!("{}\n", error.render(true));
            }
            ExitStatus::Wrong
        }
    }
}

fn merged(options: &MergeOptions) -> Result<ExitStatus, Vec<Diagnostic>> {
    let reports = find(&options.reports).map_err(|error| vec![error])?;
    let merged = Merged::read(reports)?;
    let written = |file: &std::path::Path, result: std::io::Result<()>| {
        result.map_err(|error| vec![Diagnostic::error(format!("can't write {}: {error}", file.display()))])
    };
    if let Some(out) = &options.out {
        written(out, merged.write(out))?;
    }
    if let Some(junit) = &options.junit {
        written(junit, merged.write_junit(junit))?;
    }
    let mut out = anstream::stdout();
    // A reader that went away takes nothing from the exit code.
    let _ = out.write_all(recap::text(&merged.recap, &merged.troubles).as_bytes()).and_then(|()| out.flush());
    for missing in &merged.missing {
        anstream::eprintln!("{}", Diagnostic::error(missing.clone()).render(true));
    }
    let hosts = || merged.recap.hosts.values();
    // What is missing may have failed; it does not look like success.
    let failed = !merged.missing.is_empty() || hosts().any(|host| host.counts.failed > 0);
    let status = ExitStatus::of(failed, hosts().any(|host| host.counts.unreachable > 0));
    let changes = hosts().any(|host| host.counts.changed > 0 || host.unknown > 0);
    Ok(if status == ExitStatus::Fine && options.detailed_exitcode && changes { ExitStatus::Changes } else { status })
}
