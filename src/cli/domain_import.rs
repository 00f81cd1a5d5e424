//! `domain import`.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::ExitStatus;
use super::domain_load::{domain_xml, text};
use super::options::{DomainImport, ImportForm};
use crate::agent::domains::{DOMAINS, Thing, Things};
use crate::diag::{Diagnostic, Span};
use crate::host::Error;
use crate::modules::libvirt::import::{Comments, Imported, Options, import as imported, read, yaml};
use crate::report::Mask;
use crate::run::{Asked, Machines};

/// What should stand above a password.
const PASSWORD: &str = "A password: keep it in a vault (`vfio-provision vault encrypt-string`).";

pub(super) fn import(options: &DomainImport) -> Result<ExitStatus, Vec<Diagnostic>> {
    let wish = Options { short: options.short };
    let Some(host) = &options.host else {
        let mut guests = Vec::new();
        for file in &options.what {
            let source = text(Path::new(file)).map_err(|error| vec![error])?;
            let element = domain_xml(&source).map_err(|error| vec![error])?;
            let guest = imported(&element, wish).map_err(|error| {
                let start = source.text.find('<').unwrap_or(0);
                vec![pointed(&error).at(&Span::new(&source, start, start))]
            })?;
            guests.push(guest);
        }
        print!("{}", printed(&guests, options.form));
        return Ok(ExitStatus::Fine);
    };
    let asked = Asked::prepare(machines(options, host)?)?;
    if asked.count() != 1 {
        return Err(vec![
            Diagnostic::error(format!("`{host}` means {} hosts: guests are imported from one", asked.count()))
                .help("name one host"),
        ]);
    }
    let names = if options.all { Value::Null } else { json!(options.what) };
    let answer = ask(&asked, vec![(DOMAINS.to_string(), json!({"names": names}))])?;
    let answer = match answer {
        Ok(answer) => answer,
        Err(why) => return unreachable(host, &why),
    };
    let Some(mut outcome) = answer.into_iter().next() else { return unreachable(host, "it did not answer") };
    if let Some(error) = outcome.error {
        eprintln!("{host}: {error}");
        return Ok(ExitStatus::Failed);
    }
    let things: Things = serde_json::from_value(outcome.result.remove("things").unwrap_or_default())
        .map_err(|error| vec![Diagnostic::error(format!("{host}: what it answered can't be read: {error}"))])?;
    let mut guests = Vec::new();
    let mut failed = false;
    for thing in &things.domains {
        match one(thing, wish, options.all) {
            Ok(guest) => guests.push(guest),
            Err(error) => {
                failed = true;
                eprintln!("{host}: {}: {error}", thing.name);
            }
        }
    }
    if options.all {
        print!("{}", host_vars(host, &guests, &things, &asked)?);
    } else {
        print!("{}", printed(&guests, options.form));
    }
    Ok(ExitStatus::of(failed, false))
}

fn unreachable(host: &str, why: &str) -> Result<ExitStatus, Vec<Diagnostic>> {
    eprintln!("{host}: {why}");
    Ok(ExitStatus::of(false, true))
}

fn machines(options: &DomainImport, host: &str) -> Result<Machines, Vec<Diagnostic>> {
    Ok(Machines {
        inventories: options.inventory.clone(),
        patterns: vec![host.to_string()],
        forks: 1,
        become_: options.become_,
        become_password: super::apply::become_password(options.ask_become_pass)?,
        vault: std::sync::Arc::new(options.vault.open(Mask::default()).map_err(|error| vec![error])?),
        wait_for_lock: 0,
    })
}

fn ask(asked: &Asked, questions: Vec<(String, Value)>) -> Result<crate::run::Answers, Vec<Diagnostic>> {
    let mut answers = asked.answers(&questions).map_err(|error| vec![error])?;
    Ok(answers.pop().map_or_else(|| Err("nobody was asked".to_string()), |(_, answers)| answers))
}

fn pointed(error: &Error) -> Diagnostic {
    let diagnostic = Diagnostic::error(error.message.clone());
    match &error.hint {
        Some(hint) => diagnostic.help(hint.clone()),
        None => diagnostic,
    }
}

fn one(thing: &Thing, wish: Options, all: bool) -> Result<Imported, String> {
    let element = read(&thing.xml).map_err(|why| format!("can't read what libvirt has of it: {why}"))?;
    let mut guest = imported(&element, wish).map_err(|error| error.to_string())?;
    if all {
        let mut params = Map::new();
        for (name, value) in std::mem::take(&mut guest.params) {
            let is_name = name == "name";
            params.insert(name, value);
            if is_name {
                params.insert("autostart".into(), json!(thing.autostart));
            }
        }
        guest.params = params;
    }
    Ok(guest)
}

/// Guests in the form that was asked for.
fn printed(guests: &[Imported], form: ImportForm) -> String {
    let mut out = String::new();
    if form == ImportForm::Vms {
        out.push_str("vms:\n");
    }
    for (at, guest) in guests.iter().enumerate() {
        if at > 0 && form == ImportForm::Parameters {
            out.push_str("---\n");
        }
        let (indent, lead) = match form {
            ImportForm::Vms => (4, "  "),
            ImportForm::Task => (4, ""),
            ImportForm::Parameters => (0, ""),
        };
        for line in guest.notes.iter().flat_map(|note| wrapped(note)) {
            out.push_str(&format!("{lead}# {line}\n"));
        }
        let text = yaml(&guest.params, indent, &comments(guest));
        match form {
            ImportForm::Vms => out.push_str(&as_item(&text)),
            ImportForm::Task => {
                let mut title = Map::new();
                title.insert("name".into(), json!(format!("The guest {} is defined", guest.name)));
                let head = yaml(&title, 2, &Comments::new());
                out.push_str(&format!("- {}  libvirt_domain:\n{text}", head.trim_start()));
            }
            ImportForm::Parameters => out.push_str(&text),
        }
    }
    out
}

/// A note in lines.
fn wrapped(text: &str) -> Vec<String> {
    const WIDTH: usize = 110;
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= WIDTH => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_string()),
        }
    }
    lines
}

/// A map that stands four columns in, as an item of a list.
fn as_item(text: &str) -> String {
    match text.strip_prefix("    ") {
        Some(rest) => format!("  - {rest}"),
        None => text.to_string(),
    }
}

fn comments(guest: &Imported) -> Comments {
    let mut comments = Comments::new();
    if !guest.secrets {
        return comments;
    }
    if let Some(Value::Array(displays)) = guest.params.get("graphics") {
        for (at, display) in displays.iter().enumerate() {
            if display.get("passwd").is_some() {
                comments.insert(format!("graphics[{at}]"), PASSWORD.to_string());
            }
        }
    }
    let inside = ["xml", "definition"];
    for name in inside {
        if guest.params.get(name).and_then(Value::as_str).is_some_and(|text| text.contains("passwd=")) {
            comments.insert(name.to_string(), PASSWORD.to_string());
        }
    }
    comments
}

/// A file for `host_vars`.
fn host_vars(host: &str, guests: &[Imported], things: &Things, asked: &Asked) -> Result<String, Vec<Diagnostic>> {
    let mut out = format!("# What libvirt has on {host}, as `vfio-provision domain import --all` found it.\n");
    for (kind, module, list, all) in
        [("network", "libvirt_network", "networks", &things.networks), ("pool", "libvirt_pool", "pools", &things.pools)]
    {
        let (simple, others) = accepted(module, all, asked)?;
        if !simple.is_empty() {
            let mut comments = Comments::new();
            for (at, guess) in simple.iter().enumerate().filter(|(_, guess)| !guess.more.is_empty()) {
                let more = guess.more.iter().map(|name| format!("<{name}>")).collect::<Vec<_>>().join(", ");
                comments.insert(
                    format!("{list}[{at}]"),
                    format!("It also has {more}: that stays on this machine, and is not described here."),
                );
            }
            let mut map = Map::new();
            map.insert(list.into(), simple.into_iter().map(|guess| Value::Object(guess.params)).collect());
            out.push_str(&format!("\n{}", yaml(&map, 0, &comments)));
        }
        for name in others {
            out.push_str(&format!("\n# The {kind} {name} is none that is described easily: it stays as it is.\n"));
        }
    }
    out.push('\n');
    if guests.is_empty() {
        out.push_str("vms: []\n");
    } else {
        out.push_str(&printed(guests, ImportForm::Vms));
    }
    Ok(out)
}

/// Networks or pools that the module accepts, described as here, with nothing to change: the machine itself is asked.
fn accepted(module: &str, things: &[Thing], asked: &Asked) -> Result<(Vec<Guess>, BTreeSet<String>), Vec<Diagnostic>> {
    let mut others: BTreeSet<String> = things.iter().map(|thing| thing.name.clone()).collect();
    let mut simple = Vec::new();
    let guesses: Vec<Guess> = things.iter().filter_map(|thing| guess(module, thing)).collect();
    if guesses.is_empty() || crate::modules::find(module).is_none() {
        return Ok((simple, others));
    }
    let questions = guesses.iter().map(|guess| (module.to_string(), Value::Object(guess.params.clone()))).collect();
    let Ok(answers) = ask(asked, questions)? else { return Ok((simple, others)) };
    for (guess, answer) in guesses.into_iter().zip(answers) {
        // What has no diff is a record of our own, and changes nothing.
        if answer.error.is_none() && answer.diffs.is_empty() {
            if let Some(name) = guess.params.get("name").and_then(Value::as_str) {
                others.remove(name);
            }
            simple.push(guess);
        }
    }
    Ok((simple, others))
}

/// A network or a pool as parameters.
struct Guess {
    params: Map<String, Value>,
    /// Elements that the parameters don't speak of.
    more: Vec<String>,
}

/// What its parameters would be, if it is simple.
fn guess(module: &str, thing: &Thing) -> Option<Guess> {
    let xml = read(&thing.xml).ok()?;
    let mut params = Map::new();
    params.insert("name".into(), json!(thing.name));
    if let Some(uuid) = xml.text_at(&["uuid"]) {
        params.insert("uuid".into(), json!(uuid));
    }
    let attribute = |way: &[&str], name: &str| xml.at(way).and_then(|e| e.attribute(name)).map(str::to_string);
    if module == "libvirt_network" {
        let mode = match xml.get("forward") {
            None => "isolated".to_string(),
            Some(forward) => forward.attribute("mode").unwrap_or("nat").to_string(),
        };
        params.insert("mode".into(), json!(mode));
        if let Some(bridge) = attribute(&["bridge"], "name") {
            params.insert("bridge".into(), json!(bridge));
        }
        if let Some(mac) = attribute(&["mac"], "address") {
            params.insert("mac".into(), json!(mac));
        }
        if let Some(mtu) = attribute(&["mtu"], "size").and_then(|size| size.parse::<u32>().ok()) {
            params.insert("mtu".into(), json!(mtu));
        }
        if let Some(domain) = attribute(&["domain"], "name") {
            params.insert("domain".into(), json!(domain));
        }
        let mut addresses = xml.named("ip");
        if let Some(ip) = addresses.next() {
            let prefix = match (ip.attribute("prefix"), ip.attribute("netmask")) {
                (Some(prefix), _) => prefix.parse::<u32>().ok()?,
                (None, Some(mask)) => u32::from(mask.parse::<std::net::Ipv4Addr>().ok()?).leading_ones(),
                (None, None) => return None,
            };
            params.insert("address".into(), json!(format!("{}/{prefix}", ip.attribute("address")?)));
            if let Some(dhcp) = ip.get("dhcp") {
                let range = dhcp.get("range")?;
                let mut addresses = Map::new();
                addresses.insert("start".into(), json!(range.attribute("start")?));
                addresses.insert("end".into(), json!(range.attribute("end")?));
                let hosts: Vec<Value> = dhcp
                    .named("host")
                    .map(|host| {
                        let mut lease = Map::new();
                        for name in ["mac", "ip", "name"] {
                            if let Some(value) = host.attribute(name) {
                                lease.insert(name.into(), json!(value));
                            }
                        }
                        Value::Object(lease)
                    })
                    .collect();
                if !hosts.is_empty() {
                    addresses.insert("hosts".into(), json!(hosts));
                }
                params.insert("dhcp".into(), Value::Object(addresses));
            }
        }
        if addresses.next().is_some() {
            return None;
        }
    } else {
        params.insert("type".into(), json!(xml.attribute("type")?));
        if let Some(path) = xml.text_at(&["target", "path"]) {
            params.insert("path".into(), json!(path));
        }
    }
    if !thing.active {
        params.insert("active".into(), json!(false));
    }
    if !thing.autostart {
        params.insert("autostart".into(), json!(false));
    }
    let spoken_of: &[&str] = if module == "libvirt_network" {
        &["name", "uuid", "forward", "bridge", "mac", "mtu", "domain", "ip", "metadata"]
    } else {
        &["name", "uuid", "source", "target", "capacity", "allocation", "available"]
    };
    let mut more: Vec<String> =
        xml.elements().filter(|e| !spoken_of.contains(&e.name.as_str())).map(|e| e.name.clone()).collect();
    let card = xml.get("forward").filter(|forward| forward.get("interface").is_some() || forward.get("pf").is_some());
    more.extend(card.map(|_| "forward".to_string()));
    more.dedup();
    Some(Guess { params, more })
}
