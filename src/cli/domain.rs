//! `domain`.

use super::ExitStatus;
use super::apply::wrong;
use super::domain_load::{Guest, What, guests, variables};
use super::options::{DomainCommand, DomainLint, DomainRender};
use crate::diag::Diagnostic;
use crate::modules::libvirt::domain::render::{Context, Wanted, render as rendered};
use crate::modules::libvirt::import;
use crate::modules::libvirt::xml::Element;

pub(super) fn domain(command: &DomainCommand) -> ExitStatus {
    let result = match command {
        DomainCommand::Import(options) => super::domain_import::import(options),
        DomainCommand::Render(options) => render(options),
        DomainCommand::Diff(options) => super::domain_diff::diff(options),
        DomainCommand::Lint(options) => return lint(options),
    };
    match result {
        Ok(status) => status,
        Err(errors) => wrong(&errors),
    }
}

/// What must hold, without a machine; `current` is what is there already.
pub(super) fn wanted(guest: &Guest, current: Option<&Element>) -> Result<Wanted, Diagnostic> {
    match &guest.what {
        What::Xml(xml) => {
            let (xml, _) = import::settle(xml);
            Ok(Wanted { intent: xml.clone(), xml, absent: Vec::new() })
        }
        What::Described(described) => {
            let context = Context { current: current.cloned(), ..Context::default() };
            rendered(&described.domain, &context).map_err(|error| guest.error(&error))
        }
    }
}

fn render(options: &DomainRender) -> Result<ExitStatus, Vec<Diagnostic>> {
    let variables = variables(&options.vars)?;
    let mut all = guests(&options.file, &variables)?;
    if let Some(name) = &options.name {
        let names: Vec<String> = all.iter().map(|guest| guest.name.clone()).collect();
        all.retain(|guest| guest.name == *name);
        if all.is_empty() {
            return Err(vec![
                Diagnostic::error(format!("{} has no guest {name}", options.file.display()))
                    .help(format!("it has {}", names.join(", "))),
            ]);
        }
    }
    let mut out = String::new();
    let mut errors = Vec::new();
    for guest in &all {
        match wanted(guest, None) {
            Ok(wanted) => {
                if !out.is_empty() {
                    out.push('\n');
                }
                out.push_str(&wanted.xml.print());
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

fn lint(options: &DomainLint) -> ExitStatus {
    let _ = options;
    ExitStatus::Fine
}
