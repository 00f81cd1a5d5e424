//! `domain diff`.

use super::ExitStatus;
use super::domain::wanted;
use super::domain_load::{What, guest, guests, variables};
use super::options::DomainDiff;
use crate::change::unified;
use crate::diag::Diagnostic;
use crate::modules::libvirt::domain::compare::{Change, masked, merge};
use crate::modules::libvirt::domain::intent;
use crate::modules::libvirt::import;
use crate::modules::libvirt::xml::Element;

pub(super) fn diff(options: &DomainDiff) -> Result<ExitStatus, Vec<Diagnostic>> {
    let dash = std::path::Path::new("-");
    if options.wanted == dash && options.current == dash {
        return Err(vec![Diagnostic::error("only one of the two can be standard input")]);
    }
    let variables = variables(&options.vars)?;
    let mut new = guests(&options.wanted, options.name.as_deref(), &variables)?;
    let mut name = options.name.clone();
    // Where one file has a single guest, the other one's guest of the same name is meant.
    if let ([only], None) = (new.as_slice(), &name)
        && options.current != dash
    {
        let others = guests(&options.current, None, &variables);
        name = others.ok().filter(|others| others.len() > 1).map(|_| only.name.clone());
    }
    let old = guest(&options.current, name.as_deref(), &variables)?;
    if new.len() > 1 {
        let wish = name.clone().unwrap_or_else(|| old.name.clone());
        new.retain(|guest| guest.name == wish);
    }
    let Some(new) = new.into_iter().next() else {
        return Err(vec![
            Diagnostic::error(format!("{} has no guest {}", options.wanted.display(), name.unwrap_or(old.name)))
                .help("choose one with --name"),
        ]);
    };
    let one = |error| vec![error];
    // What stands in a description or in a whole document was stated, so what is missing on the other side is a difference;
    // what libvirt has beyond a description is not.
    let (current, last) = match &old.what {
        What::Xml(xml) => {
            let (settled, _) = import::settle(xml);
            let stated = match &new.what {
                What::Xml(_) => Some(import::canonical::canonical(&settled)),
                What::Described(_) => intent::last(xml),
            };
            (settled, stated)
        }
        What::Described(_) => {
            let wanted = wanted(&old, None).map_err(one)?;
            (wanted.xml, Some(wanted.intent))
        }
    };
    let mut wanted = wanted(&new, Some(&current)).map_err(one)?;
    let mut there = current.clone();
    if matches!(new.what, What::Xml(_)) {
        if matches!(old.what, What::Xml(_)) && import::canonical::differences(&wanted.xml, &there).is_empty() {
            return Ok(ExitStatus::Fine);
        }
        wanted.xml = import::canonical::canonical(&wanted.xml);
        there = import::canonical::canonical(&there);
    }
    let merged = merge(&wanted, &there, last.as_ref());
    for device in &merged.left_alone {
        eprintln!("{device} is only in {}, and would stay as it is", options.current.display());
    }
    if merged.changes.is_empty() {
        return Ok(ExitStatus::Fine);
    }
    print!("{}", told(&merged.changes));
    if options.verbose {
        println!();
        print!("{}", xml_diff(&there, &merged.xml, options));
    }
    Ok(ExitStatus::Changes)
}

fn told(changes: &[Change]) -> String {
    let mut out = String::new();
    for change in changes {
        let side = |side: &Option<String>| side.clone().unwrap_or_default();
        let several = |text: &str| text.contains('\n');
        match (&change.before, &change.after) {
            (Some(before), Some(after)) if !several(before) && !several(after) => {
                out.push_str(&format!("{}: {before} → {after}\n", change.path));
            }
            (before, after) => {
                out.push_str(&format!("{}\n", change.path));
                for (mark, text) in [('-', side(before)), ('+', side(after))] {
                    for line in text.lines() {
                        out.push_str(&format!("{mark}{line}\n"));
                    }
                }
            }
        }
    }
    out
}

fn xml_diff(before: &Element, after: &Element, options: &DomainDiff) -> String {
    let (before, after) = (masked(before).print(), masked(after).print());
    let names = (options.current.display().to_string(), options.wanted.display().to_string());
    unified(&before, &after, &names.0, &names.1)
}
