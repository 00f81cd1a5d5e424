//! `plan` and `apply`.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Arc;

use super::ExitStatus;
use super::options::{ApplyOptions, OutputForm, PlanOptions, RunOptions};
use crate::agent::protocol::Mode;
use crate::diag::Diagnostic;
use crate::report::json::Json;
use crate::report::text::{Options, Text};
use crate::report::{Event, Files, Mask, Reporter, Screen, Sink};
use crate::run::{self, Finish, Lists, Prepared, SavedPlan, Settings};

pub(super) fn plan(options: &PlanOptions) -> ExitStatus {
    match plan_or_errors(options) {
        Ok(status) => status,
        Err(errors) => wrong(&errors),
    }
}

pub(super) fn apply(options: &ApplyOptions) -> ExitStatus {
    let result = match options.run.playbooks.as_slice() {
        [file] if SavedPlan::is_one(file) => apply_saved(options, file),
        _ => apply_or_errors(options),
    };
    match result {
        Ok(status) => status,
        Err(errors) => wrong(&errors),
    }
}

fn plan_or_errors(options: &PlanOptions) -> Result<ExitStatus, Vec<Diagnostic>> {
    let prepared = prepare(&options.run)?;
    if let Some(status) = only_lists(&options.run, &prepared) {
        return Ok(status);
    }
    let sink = sink(&options.run)?;
    sink.event(Event::Run { plan: true, shard: None });
    let finish = prepared.execute(Mode::Plan, &sink).map_err(|error| vec![error])?;
    if let Some(out) = &options.out {
        if finish.failed() || finish.unreachable() {
            eprintln!("the plan is not saved: it failed");
        } else if !finish.unsavable.is_empty() {
            let error = Diagnostic::error(
                "the plan is not saved: what these tasks will do depends on results that only an apply has",
            );
            return Err(vec![error.help(finish.unsavable.join("\n"))]);
        } else {
            SavedPlan::new(options.run.inventory.clone(), finish.hosts.clone())
                .write(out)
                .map_err(|error| vec![error])?;
            eprintln!("the plan is saved; `vfio-provision apply {}` does exactly this", out.display());
        }
    }
    let status = status(&finish);
    Ok(if status == ExitStatus::Fine && options.detailed_exitcode && finish.changes() {
        ExitStatus::Changes
    } else {
        status
    })
}

fn apply_or_errors(options: &ApplyOptions) -> Result<ExitStatus, Vec<Diagnostic>> {
    let prepared = prepare(&options.run)?;
    if let Some(status) = only_lists(&options.run, &prepared) {
        return Ok(status);
    }
    let sink = sink(&options.run)?;
    if options.check || options.ask {
        sink.event(Event::Run { plan: true, shard: None });
        let finish = prepared.execute(Mode::Plan, &sink).map_err(|error| vec![error])?;
        if options.check || finish.failed() || finish.unreachable() {
            return Ok(status(&finish));
        }
        if !finish.changes() || !agreed()? {
            return Ok(ExitStatus::Fine);
        }
    }
    sink.event(Event::Run { plan: false, shard: None });
    let finish = prepared.execute(Mode::Apply, &sink).map_err(|error| vec![error])?;
    Ok(status(&finish))
}

fn apply_saved(options: &ApplyOptions, file: &std::path::Path) -> Result<ExitStatus, Vec<Diagnostic>> {
    let plan = SavedPlan::read(file).map_err(|error| vec![error])?;
    let run = &options.run;
    let unused = [
        ("--check", options.check),
        ("--ask", options.ask),
        ("--limit", run.limit.is_some()),
        ("--extra-vars", !run.extra_vars.is_empty()),
        ("--tags", !run.tags.is_empty()),
        ("--skip-tags", !run.skip_tags.is_empty()),
        ("--start-at-task", run.start_at_task.is_some()),
    ];
    if let Some((flag, _)) = unused.iter().find(|(_, given)| *given) {
        return Err(vec![
            Diagnostic::error(format!("{flag} can't be given with a saved plan: exactly that plan is done"))
                .help("make the plan with it"),
        ]);
    }
    let settings = settings(run)?;
    let sink = sink(run)?;
    sink.event(Event::Run { plan: false, shard: None });
    let finish = run::execute_saved(&plan, &settings, &sink)?;
    Ok(status(&finish))
}

fn prepare(options: &RunOptions) -> Result<Prepared, Vec<Diagnostic>> {
    let prepared = run::prepare(settings(options)?)?;
    for warning in &prepared.warnings {
        anstream::eprintln!("{}", warning.render(true));
    }
    Ok(prepared)
}

fn settings(options: &RunOptions) -> Result<Settings, Vec<Diagnostic>> {
    Ok(Settings {
        playbooks: options.playbooks.clone(),
        inventories: options.inventory.clone(),
        limit: options.limit.clone(),
        extra_vars: options.extra_vars.clone(),
        tags: options.tags.clone(),
        skip_tags: options.skip_tags.clone(),
        start_at_task: options.start_at_task.clone(),
        forks: options.forks,
        become_: options.become_,
        become_password: become_password(options.ask_become_pass)?,
        accept_new: options.accept_new_host_keys,
        verbose: options.verbose,
        roles_path: options.roles_path.clone(),
        wait_for_lock: options.wait_for_lock,
    })
}

/// What `-K` asks for.
pub(super) fn become_password(ask: bool) -> Result<Option<String>, Vec<Diagnostic>> {
    let password = ask.then(|| rpassword::prompt_password("become password: ")).transpose();
    password.map_err(|e| vec![Diagnostic::error(format!("can't ask for the password: {e}"))])
}

fn only_lists(options: &RunOptions, prepared: &Prepared) -> Option<ExitStatus> {
    let what = Lists { hosts: options.list_hosts, tasks: options.list_tasks, tags: options.list_tags };
    if what.hosts || what.tasks || what.tags {
        print!("{}", prepared.list(what));
        return Some(ExitStatus::Fine);
    }
    if options.syntax_check {
        eprintln!("playbooks and inventory are fine");
        return Some(ExitStatus::Fine);
    }
    if prepared.is_empty() {
        eprintln!("no host is meant: the plays' `hosts`, the inventory and --limit leave none");
    }
    None
}

fn sink(options: &RunOptions) -> Result<Arc<Sink>, Vec<Diagnostic>> {
    reporter(&options.output, !options.no_diff, options.verbose, options.report.as_deref())
}

/// Where events go.
pub(super) fn reporter(
    form: &OutputForm,
    diff: bool,
    verbose: u8,
    folder: Option<&Path>,
) -> Result<Arc<Sink>, Vec<Diagnostic>> {
    let screen = Screen::stderr();
    let reporter: Box<dyn Reporter> = match form {
        OutputForm::Json => Box::new(Json::new(screen.above(std::io::stdout()))),
        OutputForm::Text => Box::new(Text::new(screen.above(anstream::stdout()), Options { diff, verbose })),
    };
    let mut sink = Sink::new(reporter, Mask::default()).on(screen);
    if let Some(folder) = folder {
        sink = sink.and(Box::new(Files::begin(folder).map_err(|error| vec![error])?));
    }
    Ok(Arc::new(sink))
}

pub(super) fn agreed() -> Result<bool, Vec<Diagnostic>> {
    if !std::io::stdin().is_terminal() {
        return Err(vec![
            Diagnostic::error("--ask has nobody to ask: standard input is no terminal")
                .help("save the plan with `plan -o FILE`, look at it, and `apply FILE`"),
        ]);
    }
    eprint!("\nMake these changes? [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|e| vec![Diagnostic::error(format!("can't read the answer: {e}"))])?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn status(finish: &Finish) -> ExitStatus {
    ExitStatus::of(finish.failed(), finish.unreachable())
}

pub(super) fn wrong(errors: &[Diagnostic]) -> ExitStatus {
    for error in errors {
        anstream::eprintln!("{}\n", error.render(true));
    }
    ExitStatus::Wrong
}
