//! Files that hold guests, for the commands of `domain`: XML, parameters, tasks, lists of guests.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value};

use super::options::DomainVars;
use crate::diag::{Diagnostic, Source, Span};
use crate::host::Error;
use crate::modules::libvirt::domain::LibvirtDomain;
use crate::modules::libvirt::import;
use crate::modules::libvirt::xml::Element;
use crate::modules::read::{Wrong, read};
use crate::playbook::check_parameters;
use crate::report::Mask;
use crate::run::Offline;
use crate::yaml::{self, Key, Node, NodeValue};

/// A guest of a file.
pub(super) struct Guest {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub span: Span,
    /// What it is.
    pub what: What,
}

/// A guest, as it was written.
pub(super) enum What {
    /// As libvirt's XML.
    Xml(Element),
    /// As parameters.
    Described(Box<Description>),
}

/// Parameters and their text.
pub(super) struct Description {
    /// Read.
    pub domain: LibvirtDomain,
    /// As they were written, for places.
    pub node: Node,
}

impl Guest {
    /// An error of a module about this guest, where it stands: at the parameter that the message begins with, if it does.
    pub fn error(&self, error: &Error) -> Diagnostic {
        let message = &error.message;
        let place = match &self.what {
            What::Described(described) => parameter_in(message, &described.node).unwrap_or_else(|| self.span.clone()),
            What::Xml(_) => self.span.clone(),
        };
        let diagnostic = Diagnostic::error(format!("{}: {message}", self.name)).at(&place);
        match &error.hint {
            Some(hint) => diagnostic.help(hint.clone()),
            None => diagnostic,
        }
    }
}

impl Guest {
    /// Where what the XML says at this place was written: `domain/devices/disk[vda]/driver@cache` is where `vda` stands.
    pub fn place_of(&self, place: &str) -> String {
        let key = place.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(key, _)| key);
        match (&self.what, key) {
            (What::Described(described), Some(key)) => scalar_in(&described.node, key).unwrap_or(&self.span).place(),
            _ => self.span.place(),
        }
    }
}

/// Where this text stands.
fn scalar_in<'a>(node: &'a Node, text: &str) -> Option<&'a Span> {
    match &node.value {
        NodeValue::String(own) if own == text => Some(&node.span),
        NodeValue::List(items) => items.iter().find_map(|item| scalar_in(item, text)),
        NodeValue::Map(entries) => entries.iter().find_map(|(_, value)| scalar_in(value, text)),
        _ => None,
    }
}

/// The parameter that a message is about: `disks.bus: …`, `memory …`.
fn parameter_in(message: &str, node: &Node) -> Option<Span> {
    let first = message.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next()?;
    node.get(first).map(|value| value.span.clone())
}

/// The variables that the flags bring.
pub(super) fn variables(options: &DomainVars) -> Result<Offline, Vec<Diagnostic>> {
    let vault = Arc::new(options.vault.open(Mask::default()).map_err(|error| vec![error])?);
    Offline::new(&options.inventory, options.host.as_deref(), &options.extra_vars, &vault)
}

/// The text of a file, or of standard input for `-`.
pub(super) fn text(path: &Path) -> Result<Arc<Source>, Diagnostic> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin()
            .read_to_string(&mut text)
            .map_err(|error| Diagnostic::error(format!("can't read standard input: {error}")))?;
        return Ok(Source::new("<stdin>", text));
    }
    let bytes =
        std::fs::read(path).map_err(|error| Diagnostic::error(format!("can't read {}: {error}", path.display())))?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Diagnostic::error(format!("{} is no text: it is not UTF-8", path.display())))?;
    Ok(Source::new(path.display().to_string(), text))
}

/// Is it XML, and not YAML?
fn is_xml(text: &str) -> bool {
    text.trim_start_matches('\u{feff}').trim_start().starts_with('<')
}

/// A domain's XML.
pub(super) fn domain_xml(source: &Arc<Source>) -> Result<Element, Diagnostic> {
    let element = import::read(&source.text).map_err(|why| {
        let line = why.strip_prefix("line ").and_then(|rest| rest.split_once(':')?.0.parse::<usize>().ok());
        let message = match why.split_once(": ") {
            Some((_, message)) if line.is_some() => message.to_string(),
            _ => why.clone(),
        };
        let start = match line {
            Some(line) => source.text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum(),
            None => source.text.trim_end().len(),
        };
        let end = source.text.get(start..).and_then(|rest| rest.find('\n')).map_or(source.text.len(), |at| start + at);
        Diagnostic::error(format!("this XML can't be read: {message}")).at(&Span::new(source, start, end))
    })?;
    if element.name != "domain" {
        let start = source.text.find('<').unwrap_or(0);
        return Err(Diagnostic::error(format!("this is no guest but a <{}>", element.name))
            .at(&Span::new(source, start, start + element.name.len() + 1))
            .help("a guest is a <domain>, as `virsh dumpxml` prints it"));
    }
    Ok(element)
}

/// All guests of a file, or those of this name: what is wrong with the others does not matter then.
pub(super) fn guests(path: &Path, name: Option<&str>, variables: &Offline) -> Result<Vec<Guest>, Vec<Diagnostic>> {
    let source = text(path).map_err(|error| vec![error])?;
    if is_xml(&source.text) {
        let element = domain_xml(&source).map_err(|error| vec![error])?;
        let start = source.text.find('<').unwrap_or(0);
        let own = element.text_at(&["name"]).unwrap_or_default();
        return Ok(vec![Guest { name: own, span: Span::new(&source, start, start), what: What::Xml(element) }]);
    }
    let node = yaml::parse_one(&source).map_err(|error| vec![error])?;
    let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
    let mut found = Found { variables, folder, name, others: Vec::new(), guests: Vec::new(), errors: Vec::new() };
    found.collect(&node, &[]);
    if found.guests.is_empty() && found.errors.is_empty() && !found.others.is_empty() {
        let error = Diagnostic::error(format!("{} has no guest {}", path.display(), name.unwrap_or_default()));
        return Err(vec![error.help(format!("it has {}", found.others.join(", ")))]);
    }
    if found.guests.is_empty() && found.errors.is_empty() {
        found.errors.push(
            Diagnostic::error("here is no guest")
                .at(&node.span)
                .help("a file holds parameters of libvirt_domain, tasks with it, or a list of guests under `vms`"),
        );
    }
    if found.errors.is_empty() { Ok(found.guests) } else { Err(found.errors) }
}

/// The one guest of a file, or the one that is called so.
pub(super) fn guest(path: &Path, name: Option<&str>, variables: &Offline) -> Result<Guest, Vec<Diagnostic>> {
    let mut all = guests(path, name, variables)?;
    if let (Some(name), [only]) = (name, all.as_slice())
        && only.name != name
    {
        return Err(vec![
            Diagnostic::error(format!("{} has no guest {name}", path.display())).help(format!("it has {}", only.name)),
        ]);
    }
    if all.len() > 1 {
        let names: Vec<String> = all.iter().map(|guest| guest.name.clone()).collect();
        return Err(vec![
            Diagnostic::error(format!("{} has several guests: {}", path.display(), names.join(", ")))
                .help("choose one with --name"),
        ]);
    }
    all.pop().ok_or_else(|| vec![Diagnostic::error(format!("{} has no guest", path.display()))])
}

struct Found<'a> {
    variables: &'a Offline,
    folder: PathBuf,
    /// Only this one.
    name: Option<&'a str>,
    /// Those that were passed over.
    others: Vec<String>,
    guests: Vec<Guest>,
    errors: Vec<Diagnostic>,
}

/// Lists of guests, by the names that people give them.
const LISTS: [&str; 3] = ["vms", "guests", "domains"];
/// Lists of tasks.
const TASKS: [&str; 8] = ["tasks", "pre_tasks", "post_tasks", "handlers", "block", "rescue", "always", "vars"];

impl Found<'_> {
    fn collect(&mut self, node: &Node, own: &[(Key, Node)]) {
        match &node.value {
            NodeValue::List(items) => items.iter().for_each(|item| self.collect(item, own)),
            NodeValue::Map(entries) => self.map(node, entries, own),
            _ => {}
        }
    }

    fn map(&mut self, node: &Node, entries: &[(Key, Node)], own: &[(Key, Node)]) {
        let task = entries.iter().find(|(key, _)| {
            let module = crate::modules::find(&key.name);
            module.is_some_and(|module| module.name == "libvirt_domain")
        });
        if let Some((key, parameters)) = task {
            if let Some((with, _)) = entries.iter().find(|(key, _)| key.name == "loop" || key.name.starts_with("with_"))
            {
                self.errors.push(
                    Diagnostic::error("a task in a loop can't be read by itself")
                        .at(&with.span)
                        .help("give the file with the list that it goes through, such as host_vars/HOST.yml"),
                );
                return;
            }
            let own = extended(own, node.get("vars"));
            self.description(parameters, &key.span, &own);
            return;
        }
        if let Some((_, list)) =
            entries.iter().find(|(key, value)| LISTS.contains(&key.name.as_str()) && value.as_list().is_some())
        {
            // The file's other variables are there for templates.
            let own: Vec<(Key, Node)> = own.iter().chain(entries).cloned().collect();
            for item in list.as_list().unwrap_or_default() {
                self.description(item, &item.span, &own);
            }
            return;
        }
        let inner: Vec<&Node> =
            TASKS.iter().filter_map(|name| node.get(name)).filter(|value| !value.is_null()).collect();
        if !inner.is_empty() {
            let own = extended(own, node.get("vars"));
            inner.into_iter().for_each(|node| self.collect(node, &own));
            return;
        }
        // A task of another module has a name too.
        let is_task = entries.iter().any(|(key, _)| crate::modules::find(&key.name).is_some() || key.name == "hosts");
        if node.get("name").is_some() && !is_task {
            self.description(node, &node.span, own);
        }
    }

    fn description(&mut self, node: &Node, at: &Span, own: &[(Key, Node)]) {
        let Some(module) = crate::modules::find("libvirt_domain") else { return };
        if node.as_map().is_none() {
            self.errors
                .push(Diagnostic::error(format!("a guest is a map, but this is {}", node.kind_name())).at(&node.span));
            return;
        }
        if let (Some(wish), Some(own)) = (self.name, node.get("name").filter(|name| !name.is_templated()))
            && own.as_str() != Some(wish)
        {
            self.others.push(own.as_str().unwrap_or_default().to_string());
            return;
        }
        let before = self.errors.len();
        check_parameters(module, node, at, &mut self.errors);
        if self.errors.len() > before {
            return;
        }
        let rendered = match self.variables.render(node, own) {
            Ok(Value::Object(rendered)) => rendered,
            Ok(_) => return,
            Err(error) => return self.errors.push(error),
        };
        let rendered = match self.with_files(rendered, node, own) {
            Ok(rendered) => rendered,
            Err(error) => return self.errors.push(error),
        };
        match read::<LibvirtDomain>(Value::Object(rendered)) {
            Ok(domain) if self.name.is_some_and(|wish| wish != &*domain.name) => {
                self.others.push(domain.name.to_string())
            }
            Ok(domain) => {
                let span = node.get("name").map_or(&node.span, |name| &name.span).clone();
                let name = domain.name.to_string();
                let what = What::Described(Box::new(Description { domain, node: node.clone() }));
                self.guests.push(Guest { name, span, what });
            }
            Err(Wrong { path, error }) => {
                let why = error.to_string();
                let message = if path == "." { why } else { format!("`{path}`: {why}") };
                self.errors.push(Diagnostic::error(message).at(&node.near_path(&path).span));
            }
        }
    }

    /// Whole domains of files beside the description.
    fn with_files(
        &self,
        mut params: Map<String, Value>,
        node: &Node,
        own: &[(Key, Node)],
    ) -> Result<Map<String, Value>, Diagnostic> {
        for (name, folder, template) in
            [("definition_file", "files", false), ("definition_template", "templates", true)]
        {
            let Some(path) = params.get(name).and_then(Value::as_str).map(str::to_string) else { continue };
            let span = node.get(name).map_or(&node.span, |node| &node.span);
            let places = [self.folder.join(&path), self.folder.join(folder).join(&path)];
            let text = places.iter().find_map(|place| std::fs::read_to_string(place).ok()).ok_or_else(|| {
                Diagnostic::error(format!("there is no file {path} beside this one or in its folder {folder}")).at(span)
            })?;
            let text = if template {
                self.variables
                    .render_file(&text, own)
                    .map_err(|why| Diagnostic::error(format!("the template {path}: {why}")).at(span))?
            } else {
                text
            };
            params.shift_remove(name);
            params.insert("definition".into(), Value::String(text));
        }
        Ok(params)
    }
}

fn extended(own: &[(Key, Node)], more: Option<&Node>) -> Vec<(Key, Node)> {
    own.iter().chain(more.and_then(Node::as_map).unwrap_or_default()).cloned().collect()
}
