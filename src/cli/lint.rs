//! `lint`: the guests of a playbook, host by host, from files alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use indexmap::IndexMap;
use serde_json::{Value, json};

use super::ExitStatus;
use super::apply::wrong;
use super::domain_load::{Description, Guest, What};
use super::options::{LintOptions, OutputForm};
use crate::diag::Diagnostic;
use crate::host::Error;
use crate::modules::Module;
use crate::modules::libvirt::domain::pinning::{Core, HostCpus};
use crate::modules::libvirt::domain::render::{Context, render};
use crate::modules::libvirt::domain::{LibvirtDomain, State};
use crate::modules::libvirt::lint::{self, Finding, Severity};
use crate::modules::libvirt::xml::Element;
use crate::modules::read::{Wrong, read};
use crate::report::{Mask, ranges};
use crate::run::scan::{Found, Met, Scanned};
use crate::run::{self, Settings};

/// Where the site's playbook is looked for when none is named.
const PLAYBOOKS: [&str; 2] = ["site.yml", "playbooks/site.yml"];

pub(super) fn lint(options: &LintOptions) -> ExitStatus {
    match lint_or_errors(options) {
        Ok(status) => status,
        Err(errors) => wrong(&errors),
    }
}

fn lint_or_errors(options: &LintOptions) -> Result<ExitStatus, Vec<Diagnostic>> {
    lint::check_silence(&options.silence).map_err(|error| {
        let diagnostic = Diagnostic::error(error.message.clone());
        vec![error.hint.as_ref().map_or(diagnostic.clone(), |hint| diagnostic.help(hint.clone()))]
    })?;
    let mask = Mask::default();
    let prepared = run::prepare(settings(options, &mask)?)?;
    for warning in &prepared.warnings {
        anstream::eprintln!("{}", warning.render(true));
    }
    if prepared.is_empty() {
        eprintln!("no host is meant: the plays' `hosts`, the inventory and --limit leave none");
    }
    let scanned = prepared.scan(LibvirtDomain::NAME, mask.clone()).map_err(|error| vec![error])?;
    for warning in &scanned.warnings {
        eprintln!("warning: {warning}");
    }
    let mut told = Told::default();
    told.look(&scanned, &options.silence);
    told.print(options.output, &mask);
    Ok(told.status())
}

fn settings(options: &LintOptions, mask: &Mask) -> Result<Settings, Vec<Diagnostic>> {
    Ok(Settings {
        playbooks: playbooks(&options.playbooks)?,
        inventories: options.inventory.clone(),
        limit: options.limit.clone(),
        extra_vars: options.extra_vars.clone(),
        tags: options.tags.clone(),
        skip_tags: options.skip_tags.clone(),
        roles_path: options.roles_path.clone(),
        vault: Arc::new(options.vault.open(mask.clone()).map_err(|error| vec![error])?),
        // Nothing is waited for.
        forks: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
        ..Settings::default()
    })
}

fn playbooks(named: &[PathBuf]) -> Result<Vec<PathBuf>, Vec<Diagnostic>> {
    if let Some(xml) = named.iter().find(|path| path.extension().is_some_and(|extension| extension == "xml")) {
        let error = Diagnostic::error(format!("{} is no playbook", xml.display()));
        return Err(vec![error.help("`vfio-provision domain lint FILE` checks files that hold guests")]);
    }
    if !named.is_empty() {
        return Ok(named.to_vec());
    }
    let site = PLAYBOOKS.iter().map(Path::new).find(|path| path.exists());
    site.map(|path| vec![path.to_path_buf()]).ok_or_else(|| {
        let error = Diagnostic::error(format!("there is neither {} here", PLAYBOOKS.join(" nor ")));
        vec![error.help("name the playbook")]
    })
}

/// One thing that is said, without the hosts where it is so.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Line {
    word: &'static str,
    place: String,
    /// The guest, or the task where it is not known which guest.
    guest: String,
    /// Where in the guest's XML.
    at: Option<String>,
    message: String,
    fix: Option<String>,
    rule: Option<&'static str>,
    doubts: Vec<String>,
}

/// A guest that a host would have.
struct Described<'a> {
    met: &'a Met,
    guest: Guest,
    domain: LibvirtDomain,
    xml: Element,
    source: String,
}

/// Everything that is said, in order, with the hosts where it is so.
#[derive(Default)]
struct Told {
    lines: IndexMap<Line, Vec<String>>,
    /// What is wrong with descriptions and with the way to them.
    wrong: IndexMap<String, Vec<String>>,
    guests: usize,
    hosts: usize,
}

impl Told {
    fn look(&mut self, scanned: &Scanned, silence: &[String]) {
        let mut hosts: IndexMap<&str, Vec<Described<'_>>> = IndexMap::new();
        for met in &scanned.met {
            match &met.found {
                Found::Unknown(why) => self.not_checked(met, &met.task, why),
                Found::Parameters(parameters) => {
                    let known = hosts.entry(met.host.as_str()).or_default();
                    let mut left_out = Vec::new();
                    let guest = described(met, Value::Object(parameters.clone()), &mut left_out);
                    for (guest, why) in left_out {
                        self.not_checked(met, &guest, &why);
                    }
                    match guest {
                        // The same guest twice, by two plays for instance, is one guest.
                        Ok(Some(new)) if known.iter().any(|old| old.is_as_good_as(&new)) => {}
                        Ok(Some(new)) => known.push(new),
                        Ok(None) => {}
                        Err(error) => self.went_wrong(format!("{error}{}", only_if(&met.doubts)), &met.host),
                    }
                }
            }
        }
        for (host, guests) in hosts.iter().filter(|(_, guests)| !guests.is_empty()) {
            self.hosts += 1;
            self.guests += guests.len();
            self.check(host, guests, silence);
        }
        for failure in &scanned.failures {
            self.went_wrong(format!("{}: {}", failure.task, failure.error), &failure.host);
        }
        for span in &scanned.missed {
            let message = "not checked: no host comes to this task".to_string();
            let line = Line {
                word: "note",
                place: span.place(),
                guest: LibvirtDomain::NAME.into(),
                at: None,
                message,
                fix: None,
                rule: None,
                doubts: Vec::new(),
            };
            self.lines.entry(line).or_default();
        }
    }

    /// The guests of one host. What is certain is checked side by side; what is not, by itself: with another guest of the
    /// same name it may have a condition that the other has not.
    fn check(&mut self, host: &str, guests: &[Described<'_>], silence: &[String]) {
        let certain: Vec<&Described<'_>> = guests.iter().filter(|guest| guest.met.doubts.is_empty()).collect();
        let scene: Vec<lint::Guest<'_>> = certain.iter().map(|guest| guest.of_scene()).collect();
        let mut together = lint::guests(&scene).into_iter();
        for guest in guests {
            let answer = match guest.met.doubts.is_empty() {
                true => together.next(),
                false => lint::guests(&[guest.of_scene()]).pop(),
            };
            let found = answer.map(|(_, found)| found).unwrap_or_default();
            let mut silent = silence.to_vec();
            silent.extend(guest.domain.silence.iter().cloned());
            match lint::silence(found, &silent) {
                Ok(found) => found.into_iter().for_each(|finding| self.found(host, guest, finding)),
                Err(error) => self.went_wrong(guest.guest.error(&error).to_string(), host),
            }
        }
    }

    fn found(&mut self, host: &str, guest: &Described<'_>, finding: Finding) {
        let hidden = guest.met.hidden;
        let what = lint::RULES.iter().find(|rule| rule.name == finding.rule).map_or("", |rule| rule.what);
        let line = Line {
            word: match finding.severity {
                Severity::Error => "error",
                Severity::Warning => "warning",
            },
            place: if hidden { guest.source.clone() } else { guest.guest.place_of(&finding.place) },
            guest: guest.guest.name.clone(),
            at: Some(finding.place).filter(|_| !hidden),
            message: if hidden { format!("{what} (the task has `no_log`)") } else { finding.message },
            fix: Some(finding.fix).filter(|_| !hidden),
            rule: Some(finding.rule),
            doubts: guest.met.doubts.clone(),
        };
        self.lines.entry(line).or_default().push(host.to_string());
    }

    fn not_checked(&mut self, met: &Met, guest: &str, why: &str) {
        let line = Line {
            word: "note",
            place: met.span.place(),
            guest: guest.to_string(),
            at: None,
            message: format!("not checked: {why}"),
            fix: None,
            rule: None,
            doubts: met.doubts.clone(),
        };
        let hosts = self.lines.entry(line).or_default();
        if hosts.last() != Some(&met.host) {
            hosts.push(met.host.clone());
        }
    }

    fn went_wrong(&mut self, text: String, host: &str) {
        let hosts = self.wrong.entry(text).or_default();
        if hosts.last().is_none_or(|last| last != host) {
            hosts.push(host.to_string());
        }
    }

    /// How often a word is said: a finding on three hosts is three.
    fn count(&self, word: &str) -> usize {
        self.lines.iter().filter(|(line, _)| line.word == word).map(|(_, hosts)| hosts.len().max(1)).sum()
    }

    fn status(&self) -> ExitStatus {
        if !self.wrong.is_empty() {
            ExitStatus::Wrong
        } else if self.count("error") > 0 {
            ExitStatus::Failed
        } else {
            ExitStatus::Fine
        }
    }

    fn print(&self, form: OutputForm, mask: &Mask) {
        for (line, hosts) in &self.lines {
            let mut text = match form {
                OutputForm::Text => line.text(hosts),
                OutputForm::Json => line.json(hosts).to_string(),
            };
            mask.text(&mut text);
            println!("{text}");
        }
        for (text, hosts) in &self.wrong {
            let (mut text, hosts) = (text.clone(), ranges::compact(hosts.iter().map(String::as_str)));
            mask.text(&mut text);
            eprintln!("{hosts}: {text}\n");
        }
        let (errors, warnings, notes) = (self.count("error"), self.count("warning"), self.count("note"));
        if form == OutputForm::Json {
            println!(
                "{}",
                json!({
                    "event": "summary", "hosts": self.hosts, "guests": self.guests, "errors": errors,
                    "warnings": warnings, "not_checked": notes, "wrong": self.wrong.len(),
                })
            );
            return;
        }
        let several = |n: usize, what: &str| if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") };
        let (guests, hosts) = (several(self.guests, "guest"), ranges::hosts(self.hosts));
        let rest = if notes > 0 { format!(", {notes} not checked") } else { String::new() };
        eprintln!("{guests} on {hosts}: {}, {}{rest}", several(errors, "error"), several(warnings, "warning"));
    }
}

impl Line {
    fn text(&self, hosts: &[String]) -> String {
        let mut text = format!("{}: {}: ", self.place, self.word);
        if !hosts.is_empty() {
            text.push_str(&ranges::compact(hosts.iter().map(String::as_str)));
            text.push_str(": ");
        }
        text.push_str(&self.guest);
        text.push_str(": ");
        if let Some(at) = &self.at {
            text.push_str(at);
            text.push_str(": ");
        }
        text.push_str(&self.message);
        if let Some(fix) = &self.fix {
            text.push_str("; ");
            text.push_str(fix);
        }
        if let Some(rule) = self.rule {
            text.push_str(&format!(" [{rule}]"));
        }
        text.push_str(&only_if(&self.doubts));
        text
    }

    fn json(&self, hosts: &[String]) -> Value {
        let mut parts = self.place.rsplitn(3, ':');
        let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok());
        let (column, line) = (number(), number());
        json!({
            "event": "finding", "severity": self.word, "rule": self.rule, "hosts": hosts, "guest": self.guest,
            "file": parts.next(), "line": line, "column": column, "at": self.at, "message": self.message,
            "fix": self.fix, "if": self.doubts,
        })
    }
}

impl Described<'_> {
    fn of_scene(&self) -> lint::Guest<'_> {
        lint::Guest {
            source: &self.source,
            domain: &self.xml,
            autostart: self.domain.autostart.is_some_and(|flag| flag.0),
            os: self.domain.os.as_deref(),
        }
    }

    /// Is the other the same guest, and no more certain?
    fn is_as_good_as(&self, other: &Described<'_>) -> bool {
        self.xml == other.xml && (self.met.doubts.is_empty() || !other.met.doubts.is_empty())
    }
}

/// What must be so for it to matter.
fn only_if(doubts: &[String]) -> String {
    if doubts.is_empty() { String::new() } else { format!(" (if {})", doubts.join(" and ")) }
}

/// The guest that a task describes; none where it only asks for a state, or wants it gone. What of it needs the machine is
/// left out and said.
fn described<'a>(
    met: &'a Met,
    parameters: Value,
    not_checked: &mut Vec<(String, String)>,
) -> Result<Option<Described<'a>>, Diagnostic> {
    let domain: LibvirtDomain = read(parameters).map_err(|Wrong { path, error }| {
        Diagnostic::error(format!("`{path}`: {error}")).at(&met.node.near_path(&path).span)
    })?;
    if domain.state == State::Absent || !(domain.describes() || domain.describes_in_part()) {
        return Ok(None);
    }
    let name = domain.name.to_string();
    let (seen, left_out) = without_machine(&domain);
    let what = What::Described(Box::new(Description { domain, node: met.node.clone() }));
    let guest = Guest { name, span: met.span.clone(), what };
    if !seen.describes() {
        return Err(guest.error(&Error::parameters(
            "memory is missing: a guest is described as a whole, or only by name and state",
        )));
    }
    not_checked.extend(left_out.into_iter().map(|why| (guest.name.clone(), why)));
    let threads = seen.topology.as_ref().map_or(1, |topology| topology.threads);
    let pinned = seen.pinning.as_ref().is_some_and(|pinning| pinning.auto.0);
    let context = Context { autoselect: true, cpus: pinned.then(|| any_cpus(threads)), ..Context::default() };
    let xml = render(&seen, &context).map_err(|error| guest.error(&error))?.xml;
    Ok(Some(Described { met, guest, domain: seen, xml, source: met.span.place() }))
}

/// The same without what only its machine can say, and what that was.
fn without_machine(domain: &LibvirtDomain) -> (LibvirtDomain, Vec<String>) {
    let mut seen = domain.clone();
    let mut left_out = Vec::new();
    if let Some(gpus) = &mut seen.gpus {
        let mut at = 0;
        gpus.0.retain(|gpu| {
            if gpu.address.is_none() {
                left_out.push(format!("gpus[{at}]: only on its machine it can be told which card this is"));
            }
            at += 1;
            gpu.address.is_some()
        });
    }
    if let Some(pinning) = &mut seen.pinning {
        pinning.0.node = if pinning.auto.0 { None } else { pinning.node };
    }
    (seen, left_out)
}

/// Processors for `pinning: auto`, so that the guest can be rendered; no rule looks at which they are.
fn any_cpus(threads: u32) -> HostCpus {
    const CORES: u32 = 1024;
    let threads = threads.clamp(1, 8);
    let core = |number: u32| Core { node: 0, cpus: (number * threads..(number + 1) * threads).collect() };
    HostCpus { cores: (0..CORES).map(core).collect(), ..HostCpus::default() }
}
