//! Tests: what may stand behind `is`, and in `select` and `selectattr`.

use std::cmp::Ordering;

use serde_json::Value;

use super::error::TemplateError;
use super::filters::text::{regex, too_slow};
use super::filters::{Args, flag, needed, needed_text, text_or};
use super::value::{Num, contains, describe, equal, fail, items, num, order, spelled, text, truth};

/// Every test by name.
pub(super) const NAMES: &[&str] = &[
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "all",
    "any",
    "boolean",
    "change",
    "changed",
    "contains",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "even",
    "failed",
    "failure",
    "false",
    "falsy",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "match",
    "ne",
    "none",
    "number",
    "odd",
    "reachable",
    "regex",
    "sameas",
    "search",
    "sequence",
    "skip",
    "skipped",
    "string",
    "subset",
    "issubset",
    "succeeded",
    "success",
    "successful",
    "superset",
    "issuperset",
    "true",
    "truthy",
    "undefined",
    "unreachable",
    "upper",
    "version",
    "version_compare",
];

/// Judges a value that is defined.
pub(super) fn call(name: &str, value: &Value, args: Args) -> Result<bool, TemplateError> {
    match name {
        "equalto" | "eq" | "==" | "ne" | "!=" | "lt" | "<" | "lessthan" | "le" | "<=" | "gt" | ">" | "greaterthan"
        | "ge" | ">=" | "in" | "contains" | "sameas" | "divisibleby" => return two(name, value, args),
        "match" | "search" | "regex" => return pattern(name, value, args),
        "version" | "version_compare" => return version(name, value, args),
        "subset" | "issubset" | "superset" | "issuperset" => {
            let [other] = args.bind(name, ["other"])?;
            let (mine, other) = (items(value.clone())?, items(needed(other, name, "other")?)?);
            let (small, large) = if name.ends_with("subset") { (mine, other) } else { (other, mine) };
            return Ok(small.iter().all(|item| large.iter().any(|known| equal(known, item))));
        }
        "truthy" | "falsy" => {
            let [convert] = args.bind(name, ["convert_bool"])?;
            let value = match value {
                Value::String(s) if flag(convert, false) => match s.to_lowercase().as_str() {
                    "false" | "no" | "off" | "0" | "n" | "f" => false,
                    other => !other.is_empty(),
                },
                other => truth(other),
            };
            return Ok(value == (name == "truthy"));
        }
        _ => {}
    }
    args.none(name)?;
    let letters = |all: fn(char) -> bool| {
        let text = text(value);
        text.chars().any(all) && text.chars().filter(|c| c.is_alphabetic()).all(all)
    };
    Ok(match name {
        "defined" => true,
        "undefined" => false,
        "none" => value.is_null(),
        "true" => *value == Value::Bool(true),
        "false" => *value == Value::Bool(false),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "number" => value.is_number() || value.is_boolean(),
        "integer" => matches!(value, Value::Number(n) if !n.is_f64()),
        "float" => matches!(value, Value::Number(n) if n.is_f64()),
        "mapping" => value.is_object(),
        "sequence" | "iterable" => value.is_array() || value.is_object() || value.is_string(),
        "upper" => letters(char::is_uppercase),
        "lower" => letters(char::is_lowercase),
        "any" => items(value.clone())?.iter().any(truth),
        "all" => items(value.clone())?.iter().all(truth),
        "even" | "odd" => match num(value) {
            Some(Num::Int(number)) => (number.rem_euclid(2) == 0) == (name == "even"),
            #[allow(clippy::float_cmp)]
            Some(Num::Float(number)) => number.rem_euclid(2.0) == if name == "even" { 0.0 } else { 1.0 },
            None => return fail(format!("`is {name}` needs a whole number, not {}", describe(value))),
        },
        "failed" | "failure" => result(value, name, "failed")?,
        "succeeded" | "success" | "successful" => !result(value, name, "failed")?,
        "changed" | "change" => result(value, name, "changed")?,
        "skipped" | "skip" => result(value, name, "skipped")?,
        "unreachable" => result(value, name, "unreachable")?,
        "reachable" => !result(value, name, "unreachable")?,
        other => return fail(format!("there is no test `{other}`")),
    })
}

/// A flag of a registered result; of a loop's result, of any of its items.
fn result(value: &Value, name: &str, key: &str) -> Result<bool, TemplateError> {
    let Value::Object(map) = value else {
        return fail(format!("`is {name}` needs the result of a task, not {}", describe(value)));
    };
    if let Some(flag) = map.get(key) {
        return Ok(truth(flag));
    }
    let items = map.get("results").and_then(Value::as_array);
    Ok(key == "changed" && items.is_some_and(|items| items.iter().any(|item| item.get(key).is_some_and(truth))))
}

fn two(name: &str, value: &Value, args: Args) -> Result<bool, TemplateError> {
    let [other] = args.bind(name, ["other"])?;
    let other = needed(other, name, "a value")?;
    Ok(match name {
        "equalto" | "eq" | "==" => equal(value, &other),
        "ne" | "!=" => !equal(value, &other),
        "lt" | "<" | "lessthan" => order(value, &other)? == Ordering::Less,
        "le" | "<=" => order(value, &other)? != Ordering::Greater,
        "gt" | ">" | "greaterthan" => order(value, &other)? == Ordering::Greater,
        "ge" | ">=" => order(value, &other)? != Ordering::Less,
        "in" => contains(&other, value)?,
        "contains" => contains(value, &other)?,
        "sameas" => *value == other,
        _ => match (num(value), num(&other)) {
            (_, Some(y)) if y.float() == 0.0 => return fail("division by zero"),
            (Some(Num::Int(x)), Some(Num::Int(y))) => x % y == 0,
            (Some(x), Some(y)) => x.float() % y.float() == 0.0,
            _ => return fail(format!("`is {name}` needs whole numbers, not {}", describe(value))),
        },
    })
}

fn pattern(name: &str, value: &Value, args: Args) -> Result<bool, TemplateError> {
    let [pattern, ignore, multiline, kind] = args.bind(name, ["pattern", "ignorecase", "multiline", "match_type"])?;
    let pattern = needed_text(pattern, name, "pattern")?;
    let kind = if name == "regex" { text_or(kind, "search") } else { name.to_string() };
    let pattern = match kind.as_str() {
        "search" => pattern,
        "match" => format!(r"\A(?:{pattern})"),
        "fullmatch" => format!(r"\A(?:{pattern})\z"),
        other => return fail(format!("`match_type` is search, match or fullmatch, not `{other}`")),
    };
    let regex = regex(&pattern, flag(ignore, false), flag(multiline, false))?;
    regex.is_match(&spelled(value)).map_err(|e| too_slow(&e))
}

/// `is version('7.2', '>=')`: numbers compared as numbers, letters as letters.
fn version(name: &str, value: &Value, args: Args) -> Result<bool, TemplateError> {
    let [other, operator, strict, kind] = args.bind(name, ["version", "operator", "strict", "version_type"])?;
    let other = needed_text(other, name, "version")?;
    if flag(strict, false) || !matches!(text_or(kind.clone(), "loose").as_str(), "loose" | "None") {
        return fail(format!("`{name}` compares only the loose way; `strict` and `version_type` are not supported"));
    }
    let own = text(value);
    if own.trim().is_empty() || other.trim().is_empty() {
        return fail("an empty text is no version");
    }
    let ordering = loose(&own, &other)?;
    Ok(match text_or(operator, "==").as_str() {
        "==" | "=" | "eq" => ordering == Ordering::Equal,
        "!=" | "<>" | "ne" => ordering != Ordering::Equal,
        "<" | "lt" => ordering == Ordering::Less,
        "<=" | "le" => ordering != Ordering::Greater,
        ">" | "gt" => ordering == Ordering::Greater,
        ">=" | "ge" => ordering != Ordering::Less,
        other => return fail(format!("`{other}` does not compare versions; known are ==, !=, <, <=, > and >=")),
    })
}

/// A version's parts: runs of digits, runs of letters, and other signs but dots.
fn parts(version: &str) -> Vec<String> {
    let mut parts: Vec<String> = Vec::new();
    let mut last = ' ';
    for c in version.trim().chars() {
        let class = |c: char| match c {
            c if c.is_ascii_digit() => '0',
            c if c.is_ascii_lowercase() => 'a',
            '.' => '.',
            _ => '-',
        };
        let this = class(c);
        if this != '.' {
            match parts.last_mut() {
                Some(part) if this == last => part.push(c),
                _ => parts.push(c.to_string()),
            }
        }
        last = this;
    }
    parts
}

fn loose(a: &str, b: &str) -> Result<Ordering, TemplateError> {
    let (one, two) = (parts(a), parts(b));
    for (x, y) in one.iter().zip(&two) {
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        let ordering = match (digits(x), digits(y)) {
            (true, true) => {
                let (x, y) = (x.trim_start_matches('0'), y.trim_start_matches('0'));
                x.len().cmp(&y.len()).then_with(|| x.cmp(y))
            }
            (false, false) => x.cmp(y),
            _ => return fail(format!("the versions `{a}` and `{b}` can't be compared: `{x}` against `{y}`")),
        };
        if ordering != Ordering::Equal {
            return Ok(ordering);
        }
    }
    Ok(one.len().cmp(&two.len()))
}
