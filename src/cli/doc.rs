//! `doc`: what a module does and takes, from its schema.

use std::fmt::Write;

use serde_json::Value;

use super::ExitStatus;
use super::options::DocOptions;
use crate::diag::Diagnostic;
use crate::modules::{self, Entry, Side};

pub(super) fn doc(options: &DocOptions) -> ExitStatus {
    if options.markdown {
        print!("{}", markdown());
        return ExitStatus::Fine;
    }
    let Some(name) = &options.module else {
        for entry in sorted() {
            println!("{:<18} {}", entry.name, entry.summary);
        }
        return ExitStatus::Fine;
    };
    match modules::find(name) {
        Some(entry) => {
            print!("{}", page(entry));
            ExitStatus::Fine
        }
        None => {
            let error = Diagnostic::error(format!("there is no module `{name}`")).nearest(name, modules::names());
            anstream::eprintln!("{}", error.render(true));
            ExitStatus::Wrong
        }
    }
}

fn sorted() -> Vec<&'static Entry> {
    let mut entries: Vec<&Entry> = modules::TABLE.iter().collect();
    entries.sort_by_key(|entry| entry.name);
    entries
}

/// The reference of all modules, as `docs/modules.md` has it.
pub fn markdown() -> String {
    let mut out = String::from(
        "# Modules\n\nMade by `vfio-provision doc --markdown` from the modules' own parameter structs. Do not edit.\n",
    );
    for entry in sorted() {
        out.push('\n');
        out.push_str(&page(entry));
    }
    out
}

fn page(entry: &Entry) -> String {
    let schema = (entry.schema)().to_value();
    let mut out = format!("## {}\n\n{}.\n", entry.name, entry.summary);
    let mut add = |text: &str| out.push_str(text);
    if let Some(text) = schema.get("description").and_then(Value::as_str) {
        add(&format!("\n{text}\n"));
    }
    if !entry.aliases.is_empty() {
        add(&format!("\nAlso called {}.\n", quoted(entry.aliases)));
    }
    if matches!(entry.side, Side::Controller) {
        add("\nRuns on the controller.\n");
    }
    if let Some(free) = entry.free_form {
        add(&format!("\nA bare string stands for `{free}`.\n"));
    }
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if let Some(properties) = schema["properties"].as_object().filter(|properties| !properties.is_empty()) {
        out.push_str("\n| parameter | type | meaning |\n| --- | --- | --- |\n");
        for (name, property) in properties {
            let must = if required.contains(&name.as_str()) { ", required" } else { "" };
            let mut meaning = property["description"].as_str().unwrap_or("").replace('\n', " ").replace('|', "\\|");
            if let Some(default) =
                property.get("default").filter(|default| !default.is_null() && **default != Value::Bool(false))
            {
                let _ = write!(meaning, " Default: `{default}`.");
            }
            let _ = writeln!(out, "| `{name}` | {}{must} | {meaning} |", type_of(property, &schema));
        }
    }
    out
}

fn quoted(names: &[&str]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// A property's type in a few words, references followed.
fn type_of(property: &Value, root: &Value) -> String {
    if let Some(target) = property["$ref"].as_str() {
        let found = target.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        return found.map_or_else(|| "map".into(), |schema| type_of(schema, root));
    }
    if let Some(values) = property["enum"].as_array() {
        return values
            .iter()
            .map(|value| format!("`{}`", value.as_str().unwrap_or("?")))
            .collect::<Vec<_>>()
            .join(" or ");
    }
    if let Some(value) = property["const"].as_str() {
        return format!("`{value}`");
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        if let Some(list) = property[key].as_array() {
            let mut words: Vec<String> = list.iter().map(|one| type_of(one, root)).filter(|w| w != "null").collect();
            words.dedup();
            return words.join(" or ");
        }
    }
    match &property["type"] {
        Value::String(word) if word == "array" => match property.get("items") {
            Some(items) => format!("list of {}", type_of(items, root)),
            None => "list".into(),
        },
        Value::String(word) => word_of(word).into(),
        Value::Array(words) => {
            let words: Vec<&str> =
                words.iter().filter_map(Value::as_str).filter(|word| *word != "null").map(word_of).collect();
            words.join(" or ")
        }
        _ => "anything".into(),
    }
}

fn word_of(word: &str) -> &str {
    match word {
        "object" => "map",
        "array" => "list",
        "boolean" => "true or false",
        other => other,
    }
}
