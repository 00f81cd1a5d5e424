//! Python's methods on values: `name.split(',')`, `map.items()`.

use serde_json::Value;

use super::filters::text::{capitalize, replace, split, trim};
use super::filters::{Args, needed, needed_text, whole};
use super::value::{Outcome, describe, equal, fail, items, room, text as as_text};

/// Every method by name.
pub(super) const NAMES: &[&str] = &[
    "capitalize",
    "count",
    "endswith",
    "find",
    "get",
    "index",
    "isalnum",
    "isalpha",
    "isdigit",
    "isspace",
    "items",
    "join",
    "keys",
    "lower",
    "lstrip",
    "replace",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "title",
    "upper",
    "values",
    "zfill",
];

/// Calls a method.
pub(super) fn call(name: &str, value: Value, args: Args) -> Outcome {
    match value {
        Value::Object(map) => match name {
            "items" => args.none(name).map(|()| pairs(map)),
            "keys" => args.none(name).map(|()| Value::Array(map.into_iter().map(|(key, _)| key.into()).collect())),
            "values" => args.none(name).map(|()| Value::Array(map.into_iter().map(|(_, value)| value).collect())),
            "get" => {
                let [key, default] = args.bind(name, ["key", "default"])?;
                let key = needed_text(key, name, "key")?;
                Ok(map.get(&key).cloned().or(default).unwrap_or(Value::Null))
            }
            other => none(other, &Value::Object(map)),
        },
        Value::Array(list) => {
            let [wanted] = args.bind(name, ["value"])?;
            let wanted = needed(wanted, name, "value")?;
            match name {
                "index" => match list.iter().position(|item| equal(item, &wanted)) {
                    Some(at) => Ok(at.into()),
                    None => fail(format!("{} is not in the list", describe(&wanted))),
                },
                "count" => Ok(list.iter().filter(|item| equal(item, &wanted)).count().into()),
                other => none(other, &Value::Array(list)),
            }
        }
        Value::String(text) => on_text(name, &text, args),
        other => none(name, &other),
    }
}

fn none(name: &str, value: &Value) -> Outcome {
    fail(format!("{} has no method `{name}`", describe(value)))
}

fn pairs(map: serde_json::Map<String, Value>) -> Value {
    Value::Array(map.into_iter().map(|(key, value)| Value::Array(vec![key.into(), value])).collect())
}

fn on_text(name: &str, text: &str, args: Args) -> Outcome {
    let all = |test: fn(char) -> bool| Value::Bool(!text.is_empty() && text.chars().all(test));
    match name {
        "upper" => args.none(name).map(|()| text.to_uppercase().into()),
        "lower" => args.none(name).map(|()| text.to_lowercase().into()),
        "capitalize" => args.none(name).map(|()| capitalize(text).into()),
        "title" => args.none(name).map(|()| title(text).into()),
        "isdigit" => args.none(name).map(|()| all(|c| c.is_ascii_digit())),
        "isalpha" => args.none(name).map(|()| all(char::is_alphabetic)),
        "isalnum" => args.none(name).map(|()| all(char::is_alphanumeric)),
        "isspace" => args.none(name).map(|()| all(char::is_whitespace)),
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = args.bind(name, ["chars"])?;
            let chars = chars.filter(|chars| !chars.is_null()).map(|chars| as_text(&chars));
            let whole = trim(text, chars.as_deref());
            let out = match (name, &chars) {
                ("strip", _) => whole,
                ("lstrip", None) => text.trim_start(),
                ("lstrip", Some(chars)) => text.trim_start_matches(|c| chars.contains(c)),
                (_, None) => text.trim_end(),
                (_, Some(chars)) => text.trim_end_matches(|c| chars.contains(c)),
            };
            Ok(out.into())
        }
        "startswith" | "endswith" => {
            let [affix] = args.bind(name, ["value"])?;
            let affixes = match needed(affix, name, "value")? {
                Value::Array(list) => list,
                one => vec![one],
            };
            let holds = |affix: &Value| {
                let affix = as_text(affix);
                if name == "startswith" { text.starts_with(&affix) } else { text.ends_with(&affix) }
            };
            Ok(Value::Bool(affixes.iter().any(holds)))
        }
        "split" => {
            let [sep, most] = args.bind(name, ["sep", "maxsplit"])?;
            split(text, sep.as_ref(), whole(most, name, "maxsplit", -1)?)
        }
        "rsplit" => {
            let [sep, most] = args.bind(name, ["sep", "maxsplit"])?;
            let most = whole(most, name, "maxsplit", -1)?;
            match (&sep, usize::try_from(most)) {
                (_, Err(_)) => split(text, sep.as_ref(), -1),
                (Some(Value::String(sep)), Ok(most)) if !sep.is_empty() => {
                    let mut parts: Vec<Value> =
                        text.rsplitn(most.saturating_add(1), sep.as_str()).map(Value::from).collect();
                    parts.reverse();
                    Ok(Value::Array(parts))
                }
                _ => fail("`rsplit` with a limit needs a separator"),
            }
        }
        "splitlines" => args.none(name).map(|()| Value::Array(text.lines().map(Value::from).collect())),
        "replace" => {
            let [old, new, count] = args.bind(name, ["old", "new", "count"])?;
            let (old, new) = (needed_text(old, name, "old")?, needed_text(new, name, "new")?);
            replace(text, &old, &new, whole(count, name, "count", -1)?).map(Value::String)
        }
        "join" => {
            let [list] = args.bind(name, ["list"])?;
            let mut out = String::new();
            for (at, item) in items(needed(list, name, "list")?)?.iter().enumerate() {
                let Value::String(item) = item else {
                    return fail(format!(
                        "`join` as a method takes only texts, not {}; use the filter",
                        describe(item)
                    ));
                };
                out.push_str(if at > 0 { text } else { "" });
                out.push_str(item);
                room(out.len())?;
            }
            Ok(out.into())
        }
        "find" | "index" | "count" => {
            let [part] = args.bind(name, ["value"])?;
            let part = needed_text(part, name, "value")?;
            if name == "count" {
                return Ok(text.matches(part.as_str()).count().into());
            }
            match text.find(&part) {
                Some(at) => Ok(text[..at].chars().count().into()),
                None if name == "find" => Ok((-1).into()),
                None => fail(format!("`{part}` is not in the text")),
            }
        }
        "zfill" => {
            let [width] = args.bind(name, ["width"])?;
            let width = usize::try_from(whole(width, name, "width", 0)?.clamp(0, 10_000)).unwrap_or(0);
            let (sign, digits) = match text.strip_prefix(['-', '+']) {
                Some(digits) => (&text[..1], digits),
                None => ("", text),
            };
            let missing = width.saturating_sub(text.chars().count());
            Ok(format!("{sign}{}{digits}", "0".repeat(missing)).into())
        }
        other => none(other, &Value::from(text)),
    }
}

/// Python's `str.title`: a letter behind anything that is no letter is upper case.
fn title(text: &str) -> String {
    let mut letter = false;
    text.chars().fold(String::new(), |mut out, c| {
        if letter {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        letter = c.is_alphabetic();
        out
    })
}
