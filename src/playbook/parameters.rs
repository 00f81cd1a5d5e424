//! A task's parameters: brought into one map, and checked against the module before any host is touched.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::free_form;
use super::keys::{self, Errors};
use crate::diag::{Diagnostic, Span, nearest};
use crate::modules::{Entry, Side};
use crate::yaml::{Key, Node, NodeValue};

/// What may stand as `key=value` inside of a command, as in Ansible; any other `x=y` is the command's own.
const BESIDE_A_COMMAND: [&str; 7] =
    ["creates", "removes", "chdir", "executable", "stdin", "stdin_add_newline", "strip_empty_ends"];

/// The parameters of a task as one map: what stands behind the module's name, and `args:`.
///
/// One template in their place (`libvirt_domain: "{{ vm }}"`) stays as it is: it gives the map when the task runs.
pub fn gather(module: &'static Entry, key: &Key, node: &Node, args: Option<&Node>, errors: &mut Errors) -> Node {
    if let NodeValue::String(text) = &node.value
        && module.free_form.is_none()
        && matches!(module.side, Side::Machine(_))
        && args.is_none_or(Node::is_null)
        && text.trim().strip_prefix("{{").is_some_and(|rest| rest.find("}}").is_some_and(|at| rest.len() == at + 2))
    {
        return node.clone();
    }
    let mut entries = match &node.value {
        NodeValue::Map(entries) => entries.clone(),
        NodeValue::Null => Vec::new(),
        NodeValue::List(_) => {
            errors.push(keys::kind(&format!("the parameters of `{}`", module.name), "a map", node));
            Vec::new()
        }
        NodeValue::String(text) => from_text(module, text, &node.span, errors),
        NodeValue::Bool(_) | NodeValue::Int(_) | NodeValue::Float(_) => match module.free_form {
            Some(_) => {
                let text = keys::text("", node, errors).map(|t| t.value).unwrap_or_default();
                from_text(module, &text, &node.span, errors)
            }
            None => {
                errors.push(keys::kind(&format!("the parameters of `{}`", module.name), "a map", node));
                Vec::new()
            }
        },
    };
    if let Some(args) = args.filter(|args| !args.is_null()) {
        for (key, value) in keys::plain_map(args, "`args`", errors).unwrap_or_default() {
            if entries.iter().any(|(known, _)| known.name == key.name) {
                errors.push(
                    Diagnostic::error(format!("the parameter `{}` is given twice", key.name))
                        .at(&key.span)
                        .help("it stands behind the module's name and in `args` too; keep one of them"),
                );
            } else {
                entries.push((key.clone(), value.clone()));
            }
        }
    }
    let span = if node.is_null() { key.span.clone() } else { node.span.clone() };
    Node { value: NodeValue::Map(entries), span }
}

fn from_text(module: &'static Entry, text: &str, span: &Span, errors: &mut Errors) -> Vec<(Key, Node)> {
    let entry = |(name, value): (String, String)| (Key { name, span: span.clone() }, Node::string(value, span));
    let Some(free_form) = module.free_form else {
        return match free_form::pairs(text) {
            Ok(pairs) => pairs.into_iter().map(entry).collect(),
            Err(why) => {
                errors.push(
                    Diagnostic::error(format!("the parameters of `{}` are not readable: {why}", module.name))
                        .at(span)
                        .help("write them as a map below the module's name, one `key: value` a line"),
                );
                Vec::new()
            }
        };
    };
    let knows = |key: &str| !is_unknown(module, key);
    // `include_role: name=x tasks_from=y`: all of it are parameters.
    if let Ok(pairs) = free_form::pairs(text)
        && !pairs.is_empty()
        && pairs.iter().all(|(key, _)| knows(key))
    {
        return pairs.into_iter().map(entry).collect();
    }
    let (rest, pairs) = free_form::command(text, |key| BESIDE_A_COMMAND.contains(&key) && knows(key));
    std::iter::once((free_form.to_string(), rest)).chain(pairs).map(entry).collect()
}

/// Does the module not know this parameter? Asked of the struct itself, since the schema does not list other spellings.
fn is_unknown(module: &Entry, name: &str) -> bool {
    let alone = Value::Object(Map::from_iter([(name.to_string(), Value::Null)]));
    matches!((module.check)(alone), Err((_, why)) if unknown_field(&why).is_some_and(|(field, _)| field == name))
}

/// Checks names always, and values as far as no template stands in the way.
pub fn check(module: &'static Entry, params: &Node, key: &Span, errors: &mut Errors) {
    // One template for all of them: what comes of it is checked when it is there.
    let Some(entries) = params.as_map() else { return };
    let before = errors.len();
    for (name, node) in entries {
        let alone = Value::Object(Map::from_iter([(name.name.clone(), node.to_json())]));
        let Err((path, why)) = (module.check)(alone) else { continue };
        if let Some((field, known)) = unknown_field(&why) {
            if field == name.name && (path == "." || path == name.name) {
                errors.push(unknown_parameter(module, name, &known));
                continue;
            }
            if path == "." {
                continue;
            }
            let at = key_span(params, &path, &field);
            errors.push(with_nearest(
                Diagnostic::error(format!("`{}` of `{}` has no `{field}`", up(&path, &field), module.name)).at(&at),
                &field,
                &known,
            ));
            continue;
        }
        // What is about several parameters at once can't be said of one alone.
        if path == "." {
            continue;
        }
        let place = params.near_path(&path);
        if !place.is_templated() {
            errors.push(wrong_value(module, &path, place, &why));
        }
    }
    if errors.len() > before {
        return;
    }
    let templated = params.is_templated();
    let mut values = Map::new();
    for (name, node) in entries {
        let value = if node.is_templated() { stand_in(module, &name.name) } else { node.to_json() };
        values.insert(name.name.clone(), value);
    }
    let Err((path, why)) = (module.check)(Value::Object(values)) else { return };
    if path == "." {
        if let Some(field) = between(&why, "missing field `", "`") {
            errors.push(Diagnostic::error(format!("`{}` needs the parameter `{field}`", module.name)).at(key));
        } else if !templated {
            errors.push(Diagnostic::error(format!("`{}`: {why}", module.name)).at(key));
        }
    } else if !templated {
        errors.push(wrong_value(module, &path, params.near_path(&path), &why));
    }
}

/// A value that a templated parameter may well get, so that the others can be checked.
fn stand_in(module: &'static Entry, name: &str) -> Value {
    // A playbook sets the same few parameters in many tasks, and finding out may take making a schema.
    static FOUND: Mutex<BTreeMap<&str, BTreeMap<String, Value>>> = Mutex::new(BTreeMap::new());
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let known = found.entry(module.name).or_default();
    known.entry(name.to_string()).or_insert_with(|| find_stand_in(module, name)).clone()
}

fn find_stand_in(module: &Entry, name: &str) -> Value {
    let fits = |value: &Value| {
        let alone = Value::Object(Map::from_iter([(name.to_string(), value.clone())]));
        (module.check)(alone).map_or_else(|(path, _)| path == ".", |()| true)
    };
    let usual = [json!("x"), json!("/x"), json!("0644"), json!(true), json!(1), json!([]), json!({})];
    // Making a schema takes longer than trying a few values, and only choices need it.
    usual.into_iter().find(|value| fits(value)).unwrap_or_else(|| {
        let schema = (module.schema)().to_value();
        let mut named = Vec::new();
        if let Some(property) = schema.pointer("/properties").and_then(|all| all.get(name)) {
            choices(property, &schema, &mut named, 0);
        }
        named.into_iter().find(|value| fits(value)).unwrap_or(Value::Null)
    })
}

/// The values that a schema names.
fn choices(schema: &Value, root: &Value, found: &mut Vec<Value>, depth: usize) {
    if depth > 8 {
        return;
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        found.extend(values.iter().cloned());
    }
    found.extend(schema.get("const").cloned());
    if let Some(target) = schema.get("$ref").and_then(Value::as_str).and_then(|r| root.pointer(r.strip_prefix('#')?)) {
        choices(target, root, found, depth + 1);
    }
    for several in ["anyOf", "oneOf", "allOf"] {
        for one in schema.get(several).and_then(Value::as_array).into_iter().flatten() {
            choices(one, root, found, depth + 1);
        }
    }
}

fn unknown_parameter(module: &Entry, name: &Key, known: &[String]) -> Diagnostic {
    let error = Diagnostic::error(format!("`{}` has no parameter `{}`", module.name, name.name)).at(&name.span);
    with_nearest(error, &name.name, known)
}

/// "Did you mean", or what there is where that is short enough to help.
fn with_nearest(error: Diagnostic, wrong: &str, known: &[String]) -> Diagnostic {
    match nearest(wrong, known.iter().map(String::as_str)) {
        Some(near) => error.help(format!("did you mean `{near}`?")),
        None if known.is_empty() => error,
        None => error.help(format!("it has {}", list(known))),
    }
}

fn list(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// serde's words about a value to ours.
fn wrong_value(module: &Entry, path: &str, node: &Node, why: &str) -> Diagnostic {
    let what = format!("`{path}` of `{}`", module.name);
    let error = |message: String| Diagnostic::error(message).at(&node.span);
    if let Some(variant) = between(why, "unknown variant `", "`") {
        let known = expected(why);
        let error = error(format!("`{variant}` is not a value of {what}"));
        return match nearest(&variant, known.iter().map(String::as_str)) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error.help(format!("one of {}", list(&known))),
        };
    }
    if let Some(field) = between(why, "missing field `", "`") {
        return error(format!("{what} needs `{field}`"));
    }
    if let Some((_, wanted)) = why.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected ")) {
        let text = matches!(wanted, "a string" | "a string or a number");
        let wanted = match wanted {
            "a boolean" => "true or false",
            "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0 up",
            "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
            "f32" | "f64" => "a number",
            "a sequence" => "a list",
            _ if wanted.starts_with("struct ") || wanted.starts_with("internally tagged enum") => "a map",
            other => other,
        };
        let error = error(format!("{what} must be {wanted}, but is {}", node.kind_name()));
        let scalar = matches!(node.value, NodeValue::Bool(_) | NodeValue::Int(_) | NodeValue::Float(_));
        return if text && scalar { error.help("put it in quotes") } else { error };
    }
    error(format!("{what}: {why}"))
}

/// The field that serde does not know, and those it does.
fn unknown_field(why: &str) -> Option<(String, Vec<String>)> {
    if !why.starts_with("unknown field `") {
        return None;
    }
    Some((between(why, "unknown field `", "`")?, expected(why)))
}

/// The names that serde expected: the quoted ones behind "expected".
fn expected(why: &str) -> Vec<String> {
    let names = why.rsplit_once(", expected ").map_or("", |(_, names)| names);
    names.split('`').skip(1).step_by(2).map(str::to_string).collect()
}

fn between(text: &str, open: &str, close: &str) -> Option<String> {
    let (_, rest) = text.split_once(open)?;
    rest.split_once(close).map(|(inner, _)| inner.to_string())
}

/// A path without its last part, if that is this field.
fn up<'a>(path: &'a str, field: &str) -> &'a str {
    path.strip_suffix(field).and_then(|p| p.strip_suffix('.')).unwrap_or(path)
}

/// The place of a key in the map at a path. The path may or may not end in the key itself, and may stop at a list of
/// which any item can be meant.
fn key_span(params: &Node, path: &str, field: &str) -> Span {
    fn below<'a>(node: &'a Node, field: &str) -> Option<&'a Span> {
        match &node.value {
            NodeValue::List(items) => items.iter().find_map(|item| below(item, field)),
            NodeValue::Map(entries) => entries
                .iter()
                .find_map(|(key, node)| if key.name == field { Some(&key.span) } else { below(node, field) }),
            _ => None,
        }
    }
    let parent = params.near_path(up(path, field));
    below(parent, field).unwrap_or(&parent.span).clone()
}
