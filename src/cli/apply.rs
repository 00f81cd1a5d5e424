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
use crate::run::{self, Finish, Interrupt, Lists, Prepared, SavedPlan, Settings, Shard};

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
    let mask = Mask::default();
    let prepared = prepare(&options.run, None, &mask)?;
    if let Some(status) = only_lists(&options.run, &prepared) {
        return Ok(status);
    }
    let sink = sink(&options.run, mask)?;
    sink.event(Event::Run { plan: true, shard: prepared.shard_of() });
    let finish = prepared.execute(Mode::Plan, &sink).map_err(|error| vec![error])?;
    if let Some(out) = &options.out {
        if finish.failed() || finish.unreachable() || finish.interrupted {
            eprintln!("the plan is not saved: it {}", if finish.interrupted { "was interrupted" } else { "failed" });
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
    let mask = Mask::default();
    let prepared = prepare(&options.run, options.resume.clone(), &mask)?;
    if let Some(status) = only_lists(&options.run, &prepared) {
        return Ok(status);
    }
    // Whoever sees the whole plan first is asked about that.
    if !(options.check || options.ask || options.yes) {
        so_many_are_meant(&prepared, options.max_hosts)?;
    }
    let sink = sink(&options.run, mask)?;
    if options.check || options.ask {
        sink.event(Event::Run { plan: true, shard: prepared.shard_of() });
        let finish = prepared.execute(Mode::Plan, &sink).map_err(|error| vec![error])?;
        if options.check || finish.failed() || finish.unreachable() || finish.interrupted {
            return Ok(status(&finish));
        }
        if !finish.changes() || !agreed()? {
            return Ok(ExitStatus::Fine);
        }
    }
    sink.event(Event::Run { plan: false, shard: prepared.shard_of() });
    let finish = prepared.execute(Mode::Apply, &sink).map_err(|error| vec![error])?;
    if finish.left > 0 {
        let hosts = if finish.left == 1 { "1 host is".into() } else { format!("{} hosts are", finish.left) };
        eprintln!("{hosts} not done: the same command with --resume goes on there");
    }
    Ok(status(&finish))
}

/// The guard against the whole fleet by accident.
fn so_many_are_meant(prepared: &Prepared, max: usize) -> Result<(), Vec<Diagnostic>> {
    let Some(crowded) = prepared.crowded(max) else { return Ok(()) };
    let message = crowded.message();
    if !std::io::stdin().is_terminal() {
        return Err(vec![Diagnostic::error(message).help(
            "name the hosts by --limit, or say --yes if all of them are meant (--max-hosts N raises the bound); \
             nothing was touched",
        )]);
    }
    eprintln!("{message}");
    if yes("Go on?")? {
        return Ok(());
    }
    Err(vec![Diagnostic::error("not all of these hosts are meant: nothing was touched").help("name them by --limit")])
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
        ("--shard", run.shard.is_some()),
        ("--resume", options.resume.is_some()),
    ];
    if let Some((flag, _)) = unused.iter().find(|(_, given)| *given) {
        return Err(vec![
            Diagnostic::error(format!("{flag} can't be given with a saved plan: exactly that plan is done"))
                .help("make the plan with it"),
        ]);
    }
    let mask = Mask::default();
    let settings = settings(run, None, &mask)?;
    let sink = sink(run, mask)?;
    sink.event(Event::Run { plan: false, shard: None });
    let finish = run::execute_saved(&plan, &settings, &sink)?;
    Ok(status(&finish))
}

fn prepare(options: &RunOptions, resume: Option<String>, mask: &Mask) -> Result<Prepared, Vec<Diagnostic>> {
    let prepared = run::prepare(settings(options, resume, mask)?)?;
    for warning in &prepared.warnings {
        anstream::eprintln!("{}", warning.render(true));
    }
    for line in [prepared.shard(), prepared.goes_on()].into_iter().flatten() {
        eprintln!("{line}");
    }
    Ok(prepared)
}

fn settings(options: &RunOptions, resume: Option<String>, mask: &Mask) -> Result<Settings, Vec<Diagnostic>> {
    let env = |name: &str| std::env::var(name).ok();
    let shard = options.shard.as_deref().map(|text| Shard::parse(text, &env)).transpose();
    let shard = shard.map_err(|error| vec![error])?;
    let become_password = become_password(options.ask_become_pass)?;
    let vault = Arc::new(options.vault.open(mask.clone()).map_err(|error| vec![error])?);
    // After the password was asked for: at a prompt Ctrl-C simply ends the program.
    let interrupt = Interrupt::default();
    interrupt.listen().map_err(|e| vec![Diagnostic::error(format!("can't listen to signals: {e}"))])?;
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
        become_password,
        vault,
        accept_new: options.accept_new_host_keys,
        verbose: options.verbose,
        roles_path: options.roles_path.clone(),
        shard,
        resume,
        interrupt,
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
        match options.shard {
            Some(_) => eprintln!("this shard has no host of these plays: nothing is to be done here"),
            None => eprintln!("no host is meant: the plays' `hosts`, the inventory and --limit leave none"),
        }
    }
    None
}

fn sink(options: &RunOptions, mask: Mask) -> Result<Arc<Sink>, Vec<Diagnostic>> {
    reporter(&options.output, !options.no_diff, options.verbose, options.report.as_deref(), mask)
}

/// Where events go.
pub(super) fn reporter(
    form: &OutputForm,
    diff: bool,
    verbose: u8,
    folder: Option<&Path>,
    mask: Mask,
) -> Result<Arc<Sink>, Vec<Diagnostic>> {
    let screen = Screen::stderr();
    let reporter: Box<dyn Reporter> = match form {
        OutputForm::Json => Box::new(Json::new(screen.above(std::io::stdout()))),
        OutputForm::Text => Box::new(Text::new(screen.above(anstream::stdout()), Options { diff, verbose })),
    };
    let mut sink = Sink::new(reporter, mask).on(screen);
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
    eprintln!();
    yes("Make these changes?")
}

fn yes(question: &str) -> Result<bool, Vec<Diagnostic>> {
    eprint!("{question} [y/N] ");
    let _ = std::io::stderr().flush();
    let mut answer = String::new();
    std::io::stdin()
        .read_line(&mut answer)
        .map_err(|e| vec![Diagnostic::error(format!("can't read the answer: {e}"))])?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn status(finish: &Finish) -> ExitStatus {
    if finish.interrupted {
        return ExitStatus::Interrupted;
    }
    ExitStatus::of(finish.failed(), finish.unreachable())
}

pub(super) fn wrong(errors: &[Diagnostic]) -> ExitStatus {
    for error in errors {
        anstream::eprintln!("{}\n", error.render(true));
    }
    ExitStatus::Wrong
}
