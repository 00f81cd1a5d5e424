//! Filters on lists.

use serde_json::Value;

use super::{Answer, Args, flag, needed, needed_text, text_or, whole};
use crate::template::ast::Operator;
use crate::template::checks;
use crate::template::error::TemplateError;
use crate::template::value::{
    MOST_ITEMS, Num, arithmetic, describe, equal, fail, integer, items, mapping, num, order, room, room_for_items,
    sort_by_key, spelled, text as as_text, truth,
};

pub(super) fn call(name: &str, input: Value, mut args: Args) -> Answer {
    let value = match name {
        "abs" => {
            args.none(name)?;
            match num(&input) {
                Some(Num::Int(i)) => Num::Int(i.abs()).value()?,
                Some(Num::Float(f)) => Num::Float(f.abs()).value()?,
                None => return fail(format!("`abs` needs a number, not {}", describe(&input))),
            }
        }
        "length" | "count" => args.none(name).and_then(|()| length(&input))?,
        "list" => args.none(name).and_then(|()| items(input)).map(Value::Array)?,
        "first" | "last" => {
            args.none(name)?;
            let mut all = items(input)?;
            return Ok(if name == "last" { all.pop() } else { all.into_iter().next() });
        }
        "min" | "max" => return extreme(name, input, args),
        "sum" => {
            let [attribute, start] = args.bind(name, ["attribute", "start"])?;
            let mut sum = start.unwrap_or_else(|| 0.into());
            for item in items(input)? {
                sum = arithmetic(Operator::Add, &sum, &of(item, attribute.as_ref())?)?;
            }
            sum
        }
        "join" => {
            let [glue, attribute] = args.bind(name, ["d", "attribute"])?;
            let glue = text_or(glue, "");
            let mut out = String::new();
            for (at, item) in items(input)?.into_iter().enumerate() {
                if at > 0 {
                    out.push_str(&glue);
                }
                let item = of(item, attribute.as_ref())?;
                out.push_str(&spelled(&item));
                room(out.len())?;
            }
            Value::String(out)
        }
        "sort" => sort(input, args)?,
        "reverse" => {
            args.none(name)?;
            match input {
                Value::String(s) => Value::String(s.chars().rev().collect()),
                other => Value::Array(items(other)?.into_iter().rev().collect()),
            }
        }
        "unique" => {
            let [sensitive, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
            let sensitive = flag(sensitive, false);
            let mut seen = Seen::default();
            let mut kept = Vec::new();
            for item in items(input)? {
                let key = of(item.clone(), attribute.as_ref())?;
                if seen.add(if sensitive { key } else { folded(key) }) {
                    kept.push(item);
                }
            }
            Value::Array(kept)
        }
        "union" | "intersect" | "difference" | "symmetric_difference" => {
            let [other] = args.bind(name, ["other"])?;
            sets(name, items(input)?, items(needed(other, name, "other")?)?)
        }
        "flatten" => {
            let [levels, skip] = args.bind(name, ["levels", "skip_nulls"])?;
            let levels = match levels {
                None | Some(Value::Null) => i64::MAX,
                some => whole(some, name, "levels", 0)?,
            };
            let mut out = Vec::new();
            flatten(items(input)?, levels, flag(skip, true), &mut out);
            Value::Array(out)
        }
        "zip" | "zip_longest" => zip(name, input, args)?,
        "product" => {
            let mut lists = vec![items(input)?];
            for other in args.rest(name)? {
                lists.push(items(other)?);
            }
            product(&lists)?
        }
        "batch" | "slice" => batches(name, items(input)?, args)?,
        "groupby" => groupby(input, args)?,
        "dictsort" => dictsort(input, args)?,
        "map" => return map(some(input)?, args),
        "select" | "reject" | "selectattr" | "rejectattr" => select(name, some(input)?, args)?,
        "attr" => {
            let [key] = args.bind(name, ["name"])?;
            return Ok(member(&input, &as_text(&needed(key, name, "name")?)).cloned());
        }
        "extract" => {
            let [container, more] = args.bind(name, ["container", "morekeys"])?;
            let container = needed(container, name, "container")?;
            let keys = match more {
                None | Some(Value::Null) => Vec::new(),
                Some(Value::Array(keys)) => keys,
                Some(key) => vec![key],
            };
            let mut at = Some(&container);
            for key in std::iter::once(&input).chain(&keys) {
                at = at.and_then(|value| index(value, key));
            }
            return Ok(at.cloned());
        }
        "random" => random(input, args.take("seed"), args)?,
        "subelements" => subelements(input, args)?,
        other => return fail(format!("there is no filter `{other}`")),
    };
    Ok(Some(value))
}

/// Items to choose from: everything empty has none.
fn some(input: Value) -> Result<Vec<Value>, TemplateError> {
    if truth(&input) { items(input) } else { Ok(Vec::new()) }
}

fn length(input: &Value) -> Result<Value, TemplateError> {
    match input {
        Value::String(s) => Ok(s.chars().count().into()),
        Value::Array(items) => Ok(items.len().into()),
        Value::Object(map) => Ok(map.len().into()),
        other => fail(format!("{} has no length", describe(other))),
    }
}

/// The value under a key or an index, if there is one.
pub(in crate::template) fn index<'a>(value: &'a Value, key: &Value) -> Option<&'a Value> {
    match value {
        Value::Object(map) => match key {
            Value::String(key) => map.get(key),
            other => map.get(&as_text(other)),
        },
        Value::Array(items) => {
            let at = integer(key)?;
            let at = if at < 0 { usize::try_from(at + i64::try_from(items.len()).ok()?) } else { usize::try_from(at) };
            items.get(at.ok()?)
        }
        _ => None,
    }
}

/// `a.b.0` in a value.
fn member<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(value, |value, key| match (value, key.parse::<i64>()) {
        (Value::Array(_), Ok(at)) => index(value, &at.into()),
        (Value::Object(map), _) => map.get(key),
        _ => None,
    })
}

/// The item itself or the attribute of it that was asked for.
fn of(item: Value, attribute: Option<&Value>) -> Result<Value, TemplateError> {
    let path = match attribute {
        None | Some(Value::Null) => return Ok(item),
        Some(path) => as_text(path),
    };
    member(&item, &path).cloned().ok_or_else(|| missing(&item, &path))
}

fn missing(item: &Value, path: &str) -> TemplateError {
    let keys: Vec<&str> = item.as_object().map(|map| map.keys().map(String::as_str).collect()).unwrap_or_default();
    let nearest = crate::diag::nearest(path, keys).map(str::to_string);
    TemplateError::Undefined { name: path.to_string(), nearest, offset: None }
}

/// Text in lower case, for comparisons that don't see case.
fn folded(value: Value) -> Value {
    match value {
        Value::String(s) => Value::String(s.to_lowercase()),
        other => other,
    }
}

/// Values that were seen; texts by hash, since lists of names are long.
#[derive(Default)]
struct Seen {
    texts: std::collections::HashSet<String>,
    others: Vec<Value>,
}

impl Seen {
    fn has(&self, value: &Value) -> bool {
        match value {
            Value::String(s) => self.texts.contains(s),
            other => self.others.iter().any(|known| equal(known, other)),
        }
    }

    fn add(&mut self, value: Value) -> bool {
        if self.has(&value) {
            return false;
        }
        match value {
            Value::String(s) => {
                self.texts.insert(s);
            }
            other => self.others.push(other),
        }
        true
    }

    fn all(values: &[Value]) -> Seen {
        let mut seen = Seen::default();
        for value in values {
            seen.add(value.clone());
        }
        seen
    }
}

fn sets(name: &str, a: Vec<Value>, b: Vec<Value>) -> Value {
    let (in_a, in_b) = (Seen::all(&a), Seen::all(&b));
    let mut seen = Seen::default();
    let mut kept = Vec::new();
    let mut keep = |value: Value, wanted: bool| {
        if wanted && seen.add(value.clone()) {
            kept.push(value);
        }
    };
    for value in a {
        let also = in_b.has(&value);
        keep(
            value,
            match name {
                "union" => true,
                "intersect" => also,
                _ => !also,
            },
        );
    }
    for value in b {
        let also = in_a.has(&value);
        keep(
            value,
            match name {
                "union" => true,
                "symmetric_difference" => !also,
                _ => false,
            },
        );
    }
    Value::Array(kept)
}

fn extreme(name: &str, input: Value, args: Args) -> Answer {
    let [sensitive, attribute] = args.bind(name, ["case_sensitive", "attribute"])?;
    let sensitive = flag(sensitive, false);
    let wanted = if name == "min" { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater };
    let mut best: Option<(Value, Value)> = None;
    for item in items(input)? {
        let key = of(item.clone(), attribute.as_ref())?;
        let key = if sensitive { key } else { folded(key) };
        let better = match &best {
            Some((known, _)) => order(&key, known)? == wanted,
            None => true,
        };
        if better {
            best = Some((key, item));
        }
    }
    Ok(best.map(|(_, item)| item))
}

fn sort(input: Value, args: Args) -> Result<Value, TemplateError> {
    let [reverse, sensitive, attribute] = args.bind("sort", ["reverse", "case_sensitive", "attribute"])?;
    let sensitive = flag(sensitive, false);
    let paths: Vec<String> = match attribute {
        None | Some(Value::Null) => Vec::new(),
        Some(paths) => as_text(&paths).split(',').map(|path| path.trim().to_string()).collect(),
    };
    let mut keyed = Vec::new();
    for item in items(input)? {
        let fold = |value| if sensitive { value } else { folded(value) };
        let key = if paths.is_empty() {
            fold(item.clone())
        } else {
            let keys = paths.iter().map(|path| of(item.clone(), Some(&path.clone().into())).map(fold));
            Value::Array(keys.collect::<Result<_, _>>()?)
        };
        keyed.push((key, item));
    }
    sort_by_key(&mut keyed, flag(reverse, false))?;
    Ok(Value::Array(keyed.into_iter().map(|(_, item)| item).collect()))
}

fn dictsort(input: Value, args: Args) -> Result<Value, TemplateError> {
    let [sensitive, by, reverse] = args.bind("dictsort", ["case_sensitive", "by", "reverse"])?;
    let sensitive = flag(sensitive, false);
    let by = text_or(by, "key");
    if !matches!(by.as_str(), "key" | "value") {
        return fail(format!("`dictsort` sorts by `key` or by `value`, not by `{by}`"));
    }
    let mut keyed: Vec<(Value, Value)> = mapping(input)?
        .into_iter()
        .map(|(key, value)| {
            let sorted = if by == "key" { Value::String(key.clone()) } else { value.clone() };
            let sorted = if sensitive { sorted } else { folded(sorted) };
            (sorted, Value::Array(vec![Value::String(key), value]))
        })
        .collect();
    sort_by_key(&mut keyed, flag(reverse, false))?;
    Ok(Value::Array(keyed.into_iter().map(|(_, pair)| pair).collect()))
}

fn flatten(list: Vec<Value>, levels: i64, skip_nulls: bool, out: &mut Vec<Value>) {
    for item in list {
        match item {
            Value::Null if skip_nulls => {}
            Value::String(s) if skip_nulls && matches!(s.as_str(), "None" | "null") => {}
            Value::Array(inner) if levels > 0 => flatten(inner, levels - 1, skip_nulls, out),
            other => out.push(other),
        }
    }
}

fn zip(name: &str, input: Value, mut args: Args) -> Result<Value, TemplateError> {
    let fill = if name == "zip_longest" { args.take("fillvalue").or(Some(Value::Null)) } else { None };
    let mut lists = vec![items(input)?];
    for other in args.rest(name)? {
        lists.push(items(other)?);
    }
    let lengths = lists.iter().map(Vec::len);
    let length = if fill.is_some() { lengths.max() } else { lengths.min() }.unwrap_or(0);
    room_for_items(length.saturating_mul(lists.len()))?;
    let row = |at: usize| {
        lists.iter().map(|list| list.get(at).cloned().or_else(|| fill.clone()).unwrap_or(Value::Null)).collect()
    };
    Ok(Value::Array((0..length).map(|at| Value::Array(row(at))).collect()))
}

fn product(lists: &[Vec<Value>]) -> Result<Value, TemplateError> {
    let count = lists.iter().fold(1usize, |count, list| count.saturating_mul(list.len()));
    room_for_items(count.saturating_mul(lists.len()))?;
    let mut rows: Vec<Vec<Value>> = vec![Vec::new()];
    for list in lists {
        rows = rows
            .into_iter()
            .flat_map(|row| list.iter().map(move |item| row.iter().cloned().chain([item.clone()]).collect()))
            .collect();
    }
    Ok(Value::Array(rows.into_iter().map(Value::Array).collect()))
}

fn batches(name: &str, list: Vec<Value>, args: Args) -> Result<Value, TemplateError> {
    let parameter = if name == "batch" { "linecount" } else { "slices" };
    let [count, fill] = args.bind(name, [parameter, "fill_with"])?;
    let count = whole(Some(needed(count, name, parameter)?), name, parameter, 1)?;
    let Some(count) = usize::try_from(count).ok().filter(|count| (1..=MOST_ITEMS).contains(count)) else {
        return fail(format!("`{parameter}` of `{name}` must be at least 1"));
    };
    let mut out: Vec<Value> = Vec::new();
    if name == "batch" {
        for chunk in list.chunks(count) {
            let mut row = chunk.to_vec();
            if let Some(fill) = &fill {
                room_for_items(count)?;
                row.resize(count, fill.clone());
            }
            out.push(Value::Array(row));
        }
    } else {
        let (each, more) = (list.len() / count, list.len() % count);
        let mut rest = list.into_iter();
        for at in 0..count {
            let mut row: Vec<Value> = rest.by_ref().take(each + usize::from(at < more)).collect();
            if let Some(fill) = &fill
                && more > 0
                && at >= more
            {
                row.push(fill.clone());
            }
            out.push(Value::Array(row));
        }
    }
    Ok(Value::Array(out))
}

fn groupby(input: Value, args: Args) -> Result<Value, TemplateError> {
    let [attribute, default] = args.bind("groupby", ["attribute", "default"])?;
    let attribute = needed(attribute, "groupby", "attribute")?;
    let mut keyed = Vec::new();
    for item in items(input)? {
        let key = match (of(item.clone(), Some(&attribute)), &default) {
            (Err(_), Some(default)) => default.clone(),
            (key, _) => key?,
        };
        keyed.push((key, item));
    }
    sort_by_key(&mut keyed, false)?;
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in keyed {
        match groups.last_mut() {
            Some((known, group)) if equal(known, &key) => group.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    Ok(Value::Array(groups.into_iter().map(|(key, group)| Value::Array(vec![key, Value::Array(group)])).collect()))
}

fn map(list: Vec<Value>, mut args: Args) -> Answer {
    let mut out = Vec::with_capacity(list.len());
    if let Some(attribute) = args.take("attribute") {
        let default = args.take("default");
        args.rest("map")?;
        for item in list {
            match (of(item, Some(&attribute)), &default) {
                (Err(_), Some(default)) => out.push(default.clone()),
                (value, _) => out.push(value?),
            }
        }
        return Ok(Some(Value::Array(out)));
    }
    if args.positional.is_empty() {
        return fail("`map` needs the name of a filter or `attribute=`");
    }
    let name = filter_name(&as_text(&args.positional.remove(0)), "filter", super::NAMES)?;
    for item in list {
        match super::call(&name, item, args.clone())? {
            Some(value) => out.push(value),
            None => return fail(format!("`map` with `{name}` gave an item that is undefined")),
        }
        room_for_items(out.len())?;
    }
    Ok(Some(Value::Array(out)))
}

/// A filter or test that was named in a string.
fn filter_name(name: &str, what: &str, names: &[&str]) -> Result<String, TemplateError> {
    let short = name.strip_prefix("ansible.builtin.").unwrap_or(name);
    if names.contains(&short) {
        return Ok(short.to_string());
    }
    let near = crate::diag::nearest(short, names.iter().copied());
    let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    fail(format!("there is no {what} `{name}`{hint}"))
}

fn select(name: &str, list: Vec<Value>, mut args: Args) -> Result<Value, TemplateError> {
    let attribute = if name.ends_with("attr") {
        if args.positional.is_empty() {
            return fail(format!("`{name}` needs the name of an attribute"));
        }
        Some(as_text(&args.positional.remove(0)))
    } else {
        None
    };
    let wanted = name.starts_with("select");
    let test = if args.positional.is_empty() {
        None
    } else {
        Some(filter_name(&as_text(&args.positional.remove(0)), "test", checks::NAMES)?)
    };
    let mut kept = Vec::new();
    for item in list {
        let value = match &attribute {
            Some(path) => member(&item, path),
            None => Some(&item),
        };
        let holds = match (&test, value) {
            (Some(test), Some(value)) => checks::call(test, value, args.clone())?,
            (Some(test), None) if matches!(test.as_str(), "defined" | "undefined") => test == "undefined",
            (None, Some(value)) => truth(value),
            (None, None) => false,
            (Some(_), None) => return Err(missing(&item, attribute.as_deref().unwrap_or_default())),
        };
        if holds == wanted {
            kept.push(item);
        }
    }
    Ok(Value::Array(kept))
}

/// The same seed picks the same item on every run: a plan and the apply after it must agree.
fn random(input: Value, seed: Option<Value>, args: Args) -> Result<Value, TemplateError> {
    use sha2::{Digest, Sha256};
    let Some(seed) = seed else {
        return fail("`random` needs `seed=`, so that a plan and the apply after it are the same");
    };
    let [start, step] = args.bind("random", ["start", "step"])?;
    let digest = Sha256::digest(as_text(&seed).as_bytes());
    let number = digest.iter().take(8).fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    let pick = |count: u64| if count == 0 { 0 } else { number % count };
    if let Some(end) = integer(&input) {
        let (start, step) = (whole(start, "random", "start", 0)?, whole(step, "random", "step", 1)?);
        let span = end.checked_sub(start).filter(|span| *span > 0 && step > 0);
        let Some(span) = span.and_then(|span| u64::try_from(span).ok()) else {
            return fail("`random` has nothing to choose from");
        };
        let steps = span.div_ceil(step.unsigned_abs());
        let offset = i64::try_from(pick(steps)).unwrap_or(0).saturating_mul(step);
        return Ok(start.saturating_add(offset).into());
    }
    let list = items(input)?;
    let at = usize::try_from(pick(list.len() as u64)).unwrap_or(0);
    list.into_iter().nth(at).ok_or_else(|| TemplateError::failed("`random` has nothing to choose from"))
}

fn subelements(input: Value, args: Args) -> Result<Value, TemplateError> {
    let [path, skip] = args.bind("subelements", ["subelements", "skip_missing"])?;
    let path = needed_text(path, "subelements", "subelements")?;
    let skip = flag(skip, false);
    let elements: Vec<Value> = match input {
        Value::Object(map) => map.into_iter().map(|(_, value)| value).collect(),
        other => items(other)?,
    };
    let mut out = Vec::new();
    for element in elements {
        match member(&element, &path) {
            Some(Value::Array(inner)) => {
                out.extend(inner.iter().map(|item| Value::Array(vec![element.clone(), item.clone()])));
                room_for_items(out.len())?;
            }
            None if skip => {}
            None => return Err(missing(&element, &path)),
            Some(other) => return fail(format!("`{path}` is {}, a list is needed", describe(other))),
        }
    }
    Ok(Value::Array(out))
}
