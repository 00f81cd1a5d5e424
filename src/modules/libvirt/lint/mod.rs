//! Checking a guest before libvirt does: what libvirt swallows, what it refuses with a message that helps nobody, and
//! what people regret.
//!
//! [`check`] needs no machine: what it may know of one comes as [`About`], of which every part may be missing; a rule whose
//! facts are missing is silent. [`about`] reads what the rules need of a machine. [`guests`] looks at several guests of one
//! machine side by side.

pub mod about;
mod cpus;
mod devices;
mod display;
mod firmware;
mod guests;
mod os;
pub mod rules;
mod scene;
mod schema;
mod storage;
mod words;

pub use about::{About, about};
pub use guests::{Guest, guests};
pub use rules::{RULES, Rule, page};

use crate::diag::nearest;
use crate::host::{Error, Host, Result};
use crate::modules::libvirt::xml::Element;
use scene::Scene;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It can't work: a plan stops.
    Error,
    /// Somebody will regret it, or it depends on what is not known.
    Warning,
}

/// Something that is wrong with a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The rule, by whose name it is silenced.
    pub rule: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Where: `domain/devices/disk[vda]/driver@cache`.
    pub place: String,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub fix: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {} [{}]", self.place, self.message, self.fix, self.rule)
    }
}

/// Everything that is wrong with a guest, errors first, otherwise in the order of the rules' rooms.
pub fn check(domain: &Element, about: &About) -> Vec<Finding> {
    let mut scene = Scene::new(domain, about);
    schema::check(&mut scene);
    words::check(&mut scene);
    firmware::check(&mut scene);
    cpus::check(&mut scene);
    devices::check(&mut scene);
    guests::check(&mut scene);
    storage::check(&mut scene);
    display::check(&mut scene);
    os::check(&mut scene);
    let mut found = scene.found;
    found.sort_by_key(|finding| finding.severity);
    found
}

/// Are these names of rules?
///
/// # Errors
/// A name that is not, with the nearest one.
pub fn check_silence(names: &[String]) -> Result<()> {
    for name in names {
        if rules::find(name).is_none() {
            let error = Error::parameters(format!("silence: there is no rule `{name}`"));
            return Err(match nearest(name, RULES.iter().map(|rule| rule.name)) {
                Some(near) => error.hint(format!("did you mean `{near}`?")),
                None => error.hint("docs/lint-rules.md has the names"),
            });
        }
    }
    Ok(())
}

/// Takes away what these names silence.
///
/// # Errors
/// A name that is no rule's.
pub fn silence(found: Vec<Finding>, names: &[String]) -> Result<Vec<Finding>> {
    check_silence(names)?;
    Ok(found.into_iter().filter(|finding| names.iter().all(|name| name != finding.rule)).collect())
}

/// What a plan knows of a guest besides its XML.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'a> {
    /// Will it start with the host?
    pub autostart: bool,
    /// Rules that are silenced.
    pub silence: &'a [String],
    /// The `os` that the playbook names, such as `windows-11`.
    pub os: Option<&'a str>,
    /// The guest as it is defined now: words that libvirt itself has printed are none that it does not know.
    pub current: Option<&'a Element>,
}

/// What a plan has to say of the guest as it will be: warnings, one sentence each.
///
/// # Errors
/// A refusal, where a rule whose severity is an error fires; a misspelt name of a rule; trouble reading libvirt's guests.
pub fn plan(host: &dyn Host, name: &str, domain: &Element, wish: &Wish) -> Result<Vec<String>> {
    check_silence(wish.silence)?;
    let known = about(host, name, domain, wish)?;
    let mut found = check(domain, &known);
    if let Some(current) = wish.current
        && found.iter().any(of_schema)
    {
        let old = check(current, &About::default());
        found.retain(|finding| {
            !of_schema(finding) || !old.iter().any(|old| old.rule == finding.rule && old.message == finding.message)
        });
    }
    let found = silence(found, wish.silence)?;
    let (errors, warnings): (Vec<Finding>, Vec<Finding>) =
        found.into_iter().partition(|finding| finding.severity == Severity::Error);
    if let Some(first) = errors.first() {
        let all: Vec<String> = errors.iter().map(|finding| said(name, finding)).collect();
        return Err(Error::refused(all.join("; and "))
            .hint(format!("{} (`silence: [{}]` lets it pass)", first.fix, first.rule)));
    }
    Ok(warnings.iter().map(|finding| format!("{}; {} [{}]", said(name, finding), finding.fix, finding.rule)).collect())
}

fn of_schema(finding: &Finding) -> bool {
    [rules::UNKNOWN_ELEMENT, rules::UNKNOWN_ATTRIBUTE, rules::UNKNOWN_VALUE].iter().any(|r| r.name == finding.rule)
}

/// Where it is only where the message does not say it by itself.
fn said(name: &str, finding: &Finding) -> String {
    if of_schema(finding) {
        format!("{name}: {}: {}", finding.place, finding.message)
    } else {
        format!("{name}: {}", finding.message)
    }
}

#[cfg(test)]
mod tests;
