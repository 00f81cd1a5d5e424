//! Functions: `range`, `dict`, and lookups on the controller.

use serde_json::{Map, Value};

use super::error::TemplateError;
use super::eval::{Context, Val};
use super::filters::{Args, flag};
use super::value::{Outcome, describe, fail, integer, room, room_for_items, text};
use crate::diag::nearest;

/// Every function by name.
pub(super) const NAMES: &[&str] = &["ansible_vault", "dict", "lookup", "q", "query", "range"];

const LOOKUPS: [&str; 4] = ["env", "file", "template", "vars"];

/// Calls a function.
pub(super) fn call(context: &Context<'_>, name: &str, mut args: Args) -> Outcome {
    match name {
        "range" => range(context, args),
        // What the YAML reader makes of `!vault`.
        "ansible_vault" => {
            let [envelope, place] = args.bind("ansible_vault", ["envelope", "place"])?;
            let [envelope, place] = [envelope, place].map(|argument| argument.as_ref().map(text).unwrap_or_default());
            context.templar.unlock(&envelope, &place).map(Value::String)
        }
        "dict" => {
            let mut map = Map::new();
            for one in std::mem::take(&mut args.positional) {
                map.extend(super::value::mapping(one)?);
            }
            map.extend(args.named);
            Ok(Value::Object(map))
        }
        _ => {
            let list = name != "lookup" || flag(args.take("wantlist"), false);
            let values = lookup(context, args)?;
            if list {
                return Ok(Value::Array(values));
            }
            // One term gives its value; several are joined, as in Ansible.
            match <[Value; 1]>::try_from(values) {
                Ok([one]) => Ok(one),
                Err(values) if values.iter().all(Value::is_string) => {
                    Ok(values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(",").into())
                }
                Err(values) => Ok(Value::Array(values)),
            }
        }
    }
}

fn range(context: &Context<'_>, args: Args) -> Outcome {
    let numbers: Vec<Value> = args.rest("range")?;
    let mut whole = Vec::new();
    for number in &numbers {
        let Some(number) = integer(number) else {
            return fail(format!("`range` needs whole numbers, not {}", describe(number)));
        };
        whole.push(i128::from(number));
    }
    let (start, stop, step) = match whole.as_slice() {
        [stop] => (0, *stop, 1),
        [start, stop] => (*start, *stop, 1),
        [start, stop, step] => (*start, *stop, *step),
        _ => return fail("`range` takes one to three numbers"),
    };
    if step == 0 {
        return fail("the step of `range` can't be 0");
    }
    let span = if step > 0 { stop - start } else { start - stop };
    let count = if span <= 0 { 0 } else { (span + step.abs() - 1) / step.abs() };
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    room_for_items(count)?;
    context.shared.work(count)?;
    let mut out = Vec::with_capacity(count);
    let mut at = start;
    for _ in 0..count {
        out.push(super::value::Num::Int(at).value()?);
        at += step;
    }
    Ok(Value::Array(out))
}

fn lookup(context: &Context<'_>, mut args: Args) -> Result<Vec<Value>, TemplateError> {
    if args.positional.is_empty() {
        return fail("`lookup` needs the name of what to look up in");
    }
    let first = text(&args.positional.remove(0));
    let plugin = first.strip_prefix("ansible.builtin.").unwrap_or(&first).to_string();
    let mut terms = Vec::new();
    for term in std::mem::take(&mut args.positional) {
        match term {
            Value::Array(more) => terms.extend(more),
            one => terms.push(one),
        }
    }
    let errors = args.take("errors").map_or_else(|| "strict".to_string(), |errors| text(&errors));
    let values = terms.iter().map(|term| {
        let term = text(term);
        match plugin.as_str() {
            "env" => environment(&term, &args),
            "file" => file(context, &term, &args),
            "template" => {
                let source = read(context, &term)?;
                args.clone().none("lookup('template')")?;
                context.render_file(&source).map(Value::String).map_err(|error| error.inside(&term))
            }
            "vars" => {
                let [default] = args.clone().bind("lookup('vars')", ["default"])?;
                match context.variable(&term, &[], false)? {
                    Val::Is(value) => Ok(value),
                    Val::Missing(what) => {
                        default.ok_or(TemplateError::Undefined { name: what.name, nearest: what.nearest, offset: None })
                    }
                }
            }
            other => {
                let near = nearest(other, LOOKUPS);
                let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                fail(format!("the lookup `{other}` is not supported{hint}"))
            }
        }
    });
    match values.collect() {
        Err(TemplateError::Failed { .. }) if errors == "ignore" && LOOKUPS.contains(&plugin.as_str()) => Ok(Vec::new()),
        values => values,
    }
}

fn environment(name: &str, args: &Args) -> Outcome {
    let [default] = args.clone().bind("lookup('env')", ["default"])?;
    match std::env::var(name) {
        Ok(value) => Ok(Value::String(value)),
        Err(std::env::VarError::NotPresent) => Ok(default.unwrap_or_else(|| "".into())),
        Err(std::env::VarError::NotUnicode(_)) => {
            fail(format!("the environment variable `{name}` is not text (UTF-8)"))
        }
    }
}

fn file(context: &Context<'_>, name: &str, args: &Args) -> Outcome {
    let [lstrip, rstrip] = args.clone().bind("lookup('file')", ["lstrip", "rstrip"])?;
    let content = read(context, name)?;
    let mut content = content.as_str();
    if flag(rstrip, true) {
        content = content.trim_end();
    }
    if flag(lstrip, false) {
        content = content.trim_start();
    }
    Ok(content.into())
}

/// A file of the controller, from the folders of the scope.
fn read(context: &Context<'_>, name: &str) -> Result<String, TemplateError> {
    let path = std::path::Path::new(name);
    let home =
        name.strip_prefix("~/").and_then(|rest| Some(std::path::PathBuf::from(std::env::var_os("HOME")?).join(rest)));
    let candidates: Vec<std::path::PathBuf> = match home {
        Some(path) => vec![path],
        None if path.is_absolute() => vec![path.to_path_buf()],
        None => context.scope.folders().iter().map(|folder| folder.join(path)).collect(),
    };
    for candidate in &candidates {
        match std::fs::metadata(candidate) {
            Ok(found) if found.is_file() => {
                room(usize::try_from(found.len()).unwrap_or(usize::MAX))?;
                let content = std::fs::read_to_string(candidate).map_err(|e| {
                    TemplateError::failed(format!("the file {} can't be read: {e}", candidate.display()))
                })?;
                return match content.starts_with("$ANSIBLE_VAULT;") {
                    true => context.templar.unlock(&content, &candidate.display().to_string()),
                    false => Ok(content),
                };
            }
            Ok(_) => return fail(format!("{} is not a file", candidate.display())),
            Err(_) => {}
        }
    }
    let searched: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
    let searched = if searched.is_empty() { "no folder to look in".into() } else { searched.join(", ") };
    fail(format!("there is no file `{name}` (looked for: {searched})"))
}
