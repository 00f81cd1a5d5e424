//! `domain`.

use super::ExitStatus;
use super::apply::wrong;
use super::domain_load::{Guest, What, guests, variables};
use super::options::{DomainCommand, DomainLint, DomainRender};
use crate::diag::Diagnostic;
use crate::modules::libvirt::domain::render::explain::explain;
use crate::modules::libvirt::domain::render::{Context, Wanted, render as rendered};
use crate::modules::libvirt::xml::Element;
use crate::modules::libvirt::{import, lint};

pub(super) fn domain(command: &DomainCommand) -> ExitStatus {
    let result = match command {
        DomainCommand::Import(options) => super::domain_import::import(options),
        DomainCommand::Render(options) => render(options),
        DomainCommand::Diff(options) => super::domain_diff::diff(options),
        DomainCommand::Lint(options) => lint(options),
    };
    match result {
        Ok(status) => status,
        Err(errors) => wrong(&errors),
    }
}

/// What is known without a machine: libvirt chooses the firmware.
fn context(current: Option<&Element>) -> Context {
    Context { current: current.cloned(), autoselect: true, ..Context::default() }
}

/// What must hold, without a machine; `current` is what is there already.
pub(super) fn wanted(guest: &Guest, current: Option<&Element>) -> Result<Wanted, Diagnostic> {
    match &guest.what {
        What::Xml(xml) => {
            let (xml, _) = import::settle(xml);
            Ok(Wanted { intent: xml.clone(), xml, absent: Vec::new() })
        }
        What::Described(described) => {
            rendered(&described.domain, &context(current)).map_err(|error| guest.error(&error))
        }
    }
}

fn render(options: &DomainRender) -> Result<ExitStatus, Vec<Diagnostic>> {
    let variables = variables(&options.vars)?;
    let all = guests(&options.file, options.name.as_deref(), &variables)?;
    let mut out = String::new();
    let mut errors = Vec::new();
    for guest in &all {
        let text = match &guest.what {
            What::Described(described) if !options.plain => {
                explain(&described.domain, &context(None)).map_err(|error| guest.error(&error))
            }
            _ => wanted(guest, None).map(|wanted| wanted.xml.print()),
        };
        match text {
            Ok(text) => {
                if !out.is_empty() {
                    out.push('\n');
                }
                out.push_str(&text);
            }
            Err(error) => errors.push(error),
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    print!("{out}");
    Ok(ExitStatus::Fine)
}

fn lint(options: &DomainLint) -> Result<ExitStatus, Vec<Diagnostic>> {
    let variables = variables(&options.vars)?;
    lint::check_silence(&options.silence).map_err(|error| {
        let diagnostic = Diagnostic::error(error.message.clone());
        vec![error.hint.as_ref().map_or(diagnostic.clone(), |hint| diagnostic.help(hint.clone()))]
    })?;
    let mut all = Vec::new();
    let mut errors = Vec::new();
    for file in &options.files {
        match guests(file, None, &variables) {
            Ok(guests) => all.extend(guests),
            Err(more) => errors.extend(more),
        }
    }
    let mut rendered = Vec::new();
    for guest in &all {
        match &guest.what {
            What::Xml(xml) => rendered.push((guest, xml.clone())),
            What::Described(_) => match wanted(guest, None) {
                Ok(wanted) => rendered.push((guest, wanted.xml)),
                Err(error) => errors.push(error),
            },
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let sources: Vec<String> = rendered.iter().map(|(guest, _)| guest.span.place()).collect();
    let scene: Vec<lint::Guest> = rendered
        .iter()
        .zip(&sources)
        .map(|((guest, xml), source)| {
            let described = match &guest.what {
                What::Described(described) => Some(&described.domain),
                What::Xml(_) => None,
            };
            lint::Guest {
                source,
                domain: xml,
                autostart: described.and_then(|domain| domain.autostart).is_some_and(|flag| flag.0),
                os: described.and_then(|domain| domain.os.as_deref()),
            }
        })
        .collect();
    let (mut bad, mut warned) = (0, 0);
    for ((guest, _), (_, found)) in rendered.iter().zip(lint::guests(&scene)) {
        let mut silent = options.silence.clone();
        if let What::Described(described) = &guest.what {
            silent.extend(described.domain.silence.iter().cloned());
        }
        let found = lint::silence(found, &silent).map_err(|error| vec![guest.error(&error)])?;
        for finding in found {
            let word = match finding.severity {
                lint::Severity::Error => {
                    bad += 1;
                    "error"
                }
                lint::Severity::Warning => {
                    warned += 1;
                    "warning"
                }
            };
            println!("{}: {word}: {}: {finding}", guest.place_of(&finding.place), guest.name);
        }
    }
    if bad + warned > 0 {
        let count = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
        eprintln!("{}, {}", count(bad, "error"), count(warned, "warning"));
    }
    Ok(if bad > 0 { ExitStatus::Failed } else { ExitStatus::Fine })
}
