//! `meta/argument_specs.yml`: what a role takes, and whether it was given that.

use serde_json::{Map, Value};

use super::keys::{self, Errors, Keys};
use crate::diag::{Diagnostic, nearest};
use crate::yaml::{Node, NodeValue};

/// What one entry point of a role takes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ArgumentSpec {
    /// One line.
    pub short_description: Option<String>,
    /// The options, in the order of the file.
    pub options: Vec<(String, ArgumentOption)>,
}

/// One option of a role.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ArgumentOption {
    /// What it is.
    pub kind: Kind,
    /// Must it be given?
    pub required: bool,
    /// What it is if not given; only told, `defaults/main.yml` is what counts.
    pub default: Option<Value>,
    /// The values it may have; empty for all.
    pub choices: Vec<Value>,
    /// What the items of a list are.
    pub elements: Option<Kind>,
    /// The keys of a dict, or of each dict in a list.
    pub options: Vec<(String, ArgumentOption)>,
    /// What it means, for people.
    pub description: Vec<String>,
}

/// The kind of an option's value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A string; a number will do.
    #[default]
    Str,
    /// A whole number, or a string that is one.
    Int,
    /// A number, or a string that is one.
    Float,
    /// A truth value, or a word for one.
    Bool,
    /// A list.
    List,
    /// A map.
    Dict,
    /// A path, as a string.
    Path,
    /// Anything.
    Raw,
}

/// What is wrong with the variables a role was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which option: `vms[0].memory`.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

const KINDS: [(&str, Kind); 8] = [
    ("str", Kind::Str),
    ("int", Kind::Int),
    ("float", Kind::Float),
    ("bool", Kind::Bool),
    ("list", Kind::List),
    ("dict", Kind::Dict),
    ("path", Kind::Path),
    ("raw", Kind::Raw),
];

const ENTRY: Keys = Keys {
    what: "an entry point of argument_specs",
    known: &["short_description", "description", "author", "version_added", "options", "seealso"],
    later: &[
        ("mutually_exclusive", ""),
        ("required_together", ""),
        ("required_one_of", ""),
        ("required_if", ""),
        ("required_by", ""),
    ],
};

const OPTION: Keys = Keys {
    what: "an option of argument_specs",
    known: &["type", "required", "default", "choices", "elements", "options", "description", "version_added", "no_log"],
    later: &[
        ("apply_defaults", "defaults come from defaults/main.yml"),
        ("aliases", ""),
        ("mutually_exclusive", ""),
        ("required_together", ""),
        ("required_one_of", ""),
        ("required_if", ""),
        ("required_by", ""),
    ],
};

impl ArgumentSpec {
    /// The spec of one entry point, out of the map of all of them; all of them are checked.
    pub(super) fn read(specs: &Node, entry_point: &str, errors: &mut Errors) -> Option<ArgumentSpec> {
        if specs.is_null() {
            return None;
        }
        let mut wanted = None;
        for (key, node) in keys::plain_map(specs, "`argument_specs`", errors)? {
            let Some(entries) = keys::map(node, &ENTRY, errors) else { continue };
            let mut spec = ArgumentSpec::default();
            for (field, node) in entries {
                match field.name.as_str() {
                    "short_description" => {
                        spec.short_description = keys::text("`short_description`", node, errors).map(|t| t.value);
                    }
                    "options" => spec.options = options(node, errors),
                    _ => {}
                }
            }
            if key.name == entry_point {
                wanted = Some(spec);
            }
        }
        wanted
    }

    /// Were the right variables given? Variables that the spec does not name are nobody's business.
    pub fn check(&self, vars: &Map<String, Value>) -> Vec<Problem> {
        let mut problems = Vec::new();
        check_options(&self.options, vars, "", &mut problems);
        problems
    }
}

fn options(node: &Node, errors: &mut Errors) -> Vec<(String, ArgumentOption)> {
    if node.is_null() {
        return Vec::new();
    }
    let Some(entries) = keys::plain_map(node, "`options`", errors) else { return Vec::new() };
    entries.iter().filter_map(|(key, node)| Some((key.name.clone(), option(node, errors)?))).collect()
}

fn option(node: &Node, errors: &mut Errors) -> Option<ArgumentOption> {
    let mut option = ArgumentOption::default();
    for (key, node) in keys::map(node, &OPTION, errors)? {
        match key.name.as_str() {
            "type" => option.kind = kind(node, errors).unwrap_or(Kind::Raw),
            "elements" => option.elements = kind(node, errors),
            "required" => match node.as_bool() {
                Some(required) => option.required = required,
                None => errors.push(keys::kind("`required`", "true or false", node)),
            },
            "default" => option.default = Some(node.to_json()),
            "choices" => {
                option.choices = keys::list("`choices`", node, errors).iter().map(Node::to_json).collect();
            }
            "options" => option.options = options(node, errors),
            "description" => {
                option.description = keys::texts("`description`", node, errors)
                    .iter()
                    .filter_map(|line| line.as_str().map(str::to_string))
                    .collect();
            }
            _ => {}
        }
    }
    if !option.options.is_empty()
        && option.kind != Kind::Dict
        && !(option.kind == Kind::List && option.elements == Some(Kind::Dict))
    {
        errors.push(
            Diagnostic::error("`options` are the keys of a dict, but this is none")
                .at(&node.span)
                .help("add `type: dict`, or `type: list` with `elements: dict`"),
        );
    }
    Some(option)
}

fn kind(node: &Node, errors: &mut Errors) -> Option<Kind> {
    let name = keys::text("`type`", node, errors)?;
    let found = KINDS.iter().find(|(known, _)| *known == name.value).map(|(_, kind)| *kind);
    if found.is_none() {
        let names = KINDS.map(|(known, _)| known);
        let mut error = Diagnostic::error(format!("`{}` is not a type of an option", name.value))
            .at(&name.span)
            .help(format!("one of {}", names.join(", ")));
        if let Some(near) = nearest(&name.value, names) {
            error = error.help(format!("did you mean `{near}`?"));
        }
        errors.push(error);
    }
    found
}

fn check_options(
    options: &[(String, ArgumentOption)],
    vars: &Map<String, Value>,
    prefix: &str,
    problems: &mut Vec<Problem>,
) {
    for (name, option) in options {
        let path = format!("{prefix}{name}");
        match vars.get(name) {
            None | Some(Value::Null) if option.required => {
                problems.push(Problem { message: format!("`{path}` must be given"), path });
            }
            None | Some(Value::Null) => {}
            Some(value) => check_option(option, value, &path, problems),
        }
    }
}

fn check_option(option: &ArgumentOption, value: &Value, path: &str, problems: &mut Vec<Problem>) {
    let mut problem = |message: String| problems.push(Problem { path: path.to_string(), message });
    if let Some(why) = mismatch(option.kind, value) {
        return problem(format!("`{path}` {why}"));
    }
    let chosen = |value: &Value| option.choices.iter().any(|choice| same(choice, value));
    let of = || option.choices.iter().map(shown).collect::<Vec<_>>().join(", ");
    match value {
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                let path = format!("{path}[{at}]");
                let why = option.elements.and_then(|kind| mismatch(kind, item));
                if let Some(why) = why {
                    problems.push(Problem { message: format!("`{path}` {why}"), path });
                } else if !option.choices.is_empty() && !chosen(item) {
                    let message = format!("`{path}` is {}, but must be one of {}", shown(item), of());
                    problems.push(Problem { path, message });
                } else if let (Value::Object(entries), false) = (item, option.options.is_empty()) {
                    check_dict(option, entries, &path, problems);
                }
            }
        }
        _ if !option.choices.is_empty() && !chosen(value) => {
            problem(format!("`{path}` is {}, but must be one of {}", shown(value), of()));
        }
        Value::Object(entries) if !option.options.is_empty() => check_dict(option, entries, path, problems),
        _ => {}
    }
}

fn check_dict(option: &ArgumentOption, entries: &Map<String, Value>, path: &str, problems: &mut Vec<Problem>) {
    for key in entries.keys() {
        if !option.options.iter().any(|(name, _)| name == key) {
            let known = option.options.iter().map(|(name, _)| name.as_str());
            let meant = nearest(key, known).map(|name| format!(": did you mean `{name}`?")).unwrap_or_default();
            problems.push(Problem {
                path: format!("{path}.{key}"),
                message: format!("`{path}` has no option `{key}`{meant}"),
            });
        }
    }
    check_options(&option.options, entries, &format!("{path}."), problems);
}

/// Why a value is not of a kind.
fn mismatch(kind: Kind, value: &Value) -> Option<String> {
    let fits = match (kind, value) {
        (Kind::Raw, _)
        | (Kind::Str | Kind::Path, Value::String(_) | Value::Number(_))
        | (Kind::Bool, Value::Bool(_))
        | (Kind::Float, Value::Number(_))
        | (Kind::List, Value::Array(_))
        | (Kind::Dict, Value::Object(_)) => true,
        (Kind::Str | Kind::Path, Value::Bool(read)) => {
            return Some(format!("must be a string, but YAML read a truth value ({read}): put it in quotes"));
        }
        (Kind::Int, Value::Number(number)) => number.is_i64() || number.is_u64(),
        (Kind::Int, Value::String(text)) => text.parse::<i64>().is_ok(),
        (Kind::Float, Value::String(text)) => text.parse::<f64>().is_ok(),
        (Kind::Bool, Value::String(text)) => crate::yaml::truth(text).is_some() || text == "0" || text == "1",
        (Kind::Bool, Value::Number(number)) => matches!(number.as_u64(), Some(0 | 1)),
        _ => false,
    };
    let wanted = match kind {
        Kind::Str => "a string",
        Kind::Path => "a path",
        Kind::Int => "a whole number",
        Kind::Float => "a number",
        Kind::Bool => "true or false",
        Kind::List => "a list",
        Kind::Dict => "a map",
        Kind::Raw => "anything",
    };
    (!fits).then(|| format!("must be {wanted}, but is {}", shown(value)))
}

/// Equal as people see it: a template makes "1" of 1.
fn same(one: &Value, other: &Value) -> bool {
    one == other || (!one.is_object() && !one.is_array() && shown(one) == shown(other))
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => format!("`{text}`"),
        Value::Array(_) => "a list".to_string(),
        Value::Object(_) => "a map".to_string(),
        Value::Null => "nothing".to_string(),
        other => format!("`{other}`"),
    }
}

/// The map of entry points in a file: under `argument_specs:`, as Ansible has it.
pub(super) fn specs_of(file: &Node) -> Option<&Node> {
    match &file.value {
        NodeValue::Map(_) => file.get("argument_specs"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::diag::Source;
    use crate::yaml::parse_one;

    const SPEC: &str = "\
main:
  short_description: Guests
  options:
    vms:
      type: list
      elements: dict
      required: true
      options:
        name: {type: str, required: true}
        memory: {type: int, default: 1024}
        firmware: {choices: [bios, uefi]}
        autostart: {type: bool}
    ratio: {type: float}
    where: {type: path}
    flags: {type: list, elements: str, choices: [a, b]}
    any: {type: raw}
";

    fn spec(text: &str) -> (Option<ArgumentSpec>, Vec<String>) {
        let node = parse_one(&Source::new("argument_specs.yml", text)).expect("YAML");
        let mut errors = Vec::new();
        let spec = ArgumentSpec::read(&node, "main", &mut errors);
        (spec, errors.into_iter().map(|e| e.message).collect())
    }

    fn problems(vars: Value) -> Vec<String> {
        let (spec, errors) = spec(SPEC);
        assert_eq!(errors, Vec::<String>::new());
        let vars = vars.as_object().cloned().unwrap_or_default();
        spec.expect("main").check(&vars).into_iter().map(|p| format!("{}: {}", p.path, p.message)).collect()
    }

    #[test]
    fn what_fits_is_accepted() {
        let vars = json!({
            "vms": [{"name": "win8", "memory": "2048", "firmware": "uefi", "autostart": "no"}, {"name": 7}],
            "ratio": 2, "where": "/x", "flags": ["a"], "any": {"x": 1}, "unheard_of": 1,
        });
        assert_eq!(problems(vars), Vec::<String>::new());
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_path() {
        assert_eq!(problems(json!({})), ["vms: `vms` must be given"]);
        assert_eq!(problems(json!({"vms": "win8"})), ["vms: `vms` must be a list, but is `win8`"]);
        let vars =
            json!({"vms": [{"memory": "much", "firmware": "efi", "nam": "x"}, 5], "flags": ["c"], "where": true});
        assert_eq!(
            problems(vars),
            [
                "vms[0].nam: `vms[0]` has no option `nam`: did you mean `name`?",
                "vms[0].name: `vms[0].name` must be given",
                "vms[0].memory: `vms[0].memory` must be a whole number, but is `much`",
                "vms[0].firmware: `vms[0].firmware` is `efi`, but must be one of `bios`, `uefi`",
                "vms[1]: `vms[1]` must be a map, but is `5`",
                "where: `where` must be a string, but YAML read a truth value (true): put it in quotes",
                "flags[0]: `flags[0]` is `c`, but must be one of `a`, `b`",
            ]
        );
    }

    #[test]
    fn mistakes_in_the_spec_are_errors() {
        let errors = spec("main: {optoins: {}, options: {a: {type: strin, requird: true}, b: {options: {c: {}}}}}").1;
        assert_eq!(
            errors,
            [
                "unknown key `optoins` in an entry point of argument_specs",
                "unknown key `requird` in an option of argument_specs",
                "`strin` is not a type of an option",
                "`options` are the keys of a dict, but this is none",
            ]
        );
    }
}
