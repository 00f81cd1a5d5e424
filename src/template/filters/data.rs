//! Filters that change the type or the shape of a value.

use serde_json::{Map, Value};
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use super::text::written;
use super::{Args, flag, needed, needed_text, text_or, whole, yaml};
use crate::template::error::TemplateError;
use crate::template::value::{
    Num, Outcome, describe, equal, fail, float, items, mapping, num, object, room, spelled, text as as_text, truth,
};

pub(super) fn call(name: &str, input: Value, args: Args) -> Outcome {
    match name {
        "default" | "d" => {
            let [value, falsy] = args.bind(name, ["default_value", "boolean"])?;
            let replace = flag(falsy, false) && !truth(&input);
            Ok(if replace { value.unwrap_or_else(|| "".into()) } else { input })
        }
        "mandatory" => args.bind(name, ["msg"]).map(|[_]| input),
        "ternary" => {
            let [yes, no, none] = args.bind(name, ["true_val", "false_val", "none_val"])?;
            match (input.is_null(), none) {
                (true, Some(none)) => Ok(none),
                _ if truth(&input) => needed(yes, name, "true_val"),
                _ => needed(no, name, "false_val"),
            }
        }
        "bool" => args.none(name).map(|()| Value::Bool(boolean(&input))),
        "string" => args.none(name).map(|()| Value::String(spelled(&input))),
        "int" => int(&input, args),
        "float" => {
            let [default] = args.bind(name, ["default"])?;
            let default = default.unwrap_or_else(|| 0.0.into());
            Ok(match &input {
                Value::String(s) => {
                    s.trim().parse::<f64>().ok().and_then(|f| Num::Float(f).value().ok()).unwrap_or(default)
                }
                other => num(other).and_then(|n| Num::Float(n.float()).value().ok()).unwrap_or(default),
            })
        }
        "round" => round(&input, args),
        "pow" => {
            let [power] = args.bind(name, ["power"])?;
            // Ansible's `pow` calculates with decimals.
            let power = decimal(&needed(power, name, "power")?, name)?;
            Num::Float(decimal(&input, name)?.powf(power)).value()
        }
        "root" => {
            let [base] = args.bind(name, ["base"])?;
            let base = base.map_or(Ok(2.0), |base| decimal(&base, name))?;
            let x = decimal(&input, name)?;
            #[allow(clippy::float_cmp)]
            Num::Float(if base == 2.0 { x.sqrt() } else { x.powf(1.0 / base) }).value()
        }
        "log" => {
            let [base] = args.bind(name, ["base"])?;
            let x = decimal(&input, name)?;
            #[allow(clippy::float_cmp)]
            let log = match base {
                None => x.ln(),
                Some(base) => match decimal(&base, name)? {
                    10.0 => x.log10(),
                    base => x.ln() / base.ln(),
                },
            };
            Num::Float(log).value()
        }
        "type_debug" => args.none(name).map(|()| {
            Value::from(match &input {
                Value::Null => "NoneType",
                Value::Bool(_) => "bool",
                Value::Number(n) if n.is_f64() => "float",
                Value::Number(_) => "int",
                Value::String(_) => "str",
                Value::Array(_) => "list",
                Value::Object(_) => "dict",
            })
        }),
        "items" => {
            args.none(name)?;
            Ok(Value::Array(mapping(input)?.into_iter().map(|(k, v)| Value::Array(vec![k.into(), v])).collect()))
        }
        "dict2items" => {
            let [key, value] = args.bind(name, ["key_name", "value_name"])?;
            let (key, value) = (text_or(key, "key"), text_or(value, "value"));
            let pairs = mapping(input)?.into_iter();
            Ok(Value::Array(pairs.map(|(k, v)| object([(key.as_str(), k.into()), (value.as_str(), v)])).collect()))
        }
        "items2dict" => {
            let [key, value] = args.bind(name, ["key_name", "value_name"])?;
            let (key, value) = (text_or(key, "key"), text_or(value, "value"));
            let mut out = Map::new();
            for item in items(input)? {
                let mut item = mapping(item)?;
                let missing = |name: &str| TemplateError::failed(format!("`items2dict` needs `{name}` in every item"));
                let value = item.shift_remove(&value).ok_or_else(|| missing(&value))?;
                out.insert(as_text(&item.shift_remove(&key).ok_or_else(|| missing(&key))?), value);
            }
            Ok(Value::Object(out))
        }
        "combine" => combine(input, args),
        "hash" => {
            let [kind] = args.bind(name, ["hashtype"])?;
            hash(&spelled(&input), &text_or(kind, "sha1"))
        }
        "to_json" | "to_nice_json" => to_json(name, &input, args),
        "from_json" => {
            args.none(name)?;
            serde_json::from_str(written(&input, name)?).or_else(|e| fail(format!("this is not JSON: {e}")))
        }
        "from_yaml" => {
            args.none(name)?;
            let Value::String(text) = input else { return Ok(input) };
            // The same reading as that of playbooks.
            let node = crate::yaml::parse_one(&crate::diag::Source::new("<from_yaml>", text));
            node.map(|node| node.to_json()).or_else(|e| fail(format!("this is not YAML: {}", e.message)))
        }
        "to_yaml" | "to_nice_yaml" => yaml::write(name, &input, args),
        "human_readable" => human_readable(&input, args),
        "human_to_bytes" => human_to_bytes(&input, args),
        other => fail(format!("there is no filter `{other}`")),
    }
}

fn decimal(value: &Value, what: &str) -> Result<f64, TemplateError> {
    let number = num(value).map(Num::float);
    number.ok_or_else(|| TemplateError::failed(format!("`{what}` needs a number, not {}", describe(value))))
}

/// What Ansible's `bool` filter counts as true; everything else is false.
fn boolean(value: &Value) -> bool {
    match value {
        Value::Bool(b) => *b,
        Value::String(s) => matches!(s.to_lowercase().as_str(), "yes" | "on" | "1" | "true"),
        other => equal(other, &1.into()),
    }
}

fn int(input: &Value, args: Args) -> Outcome {
    let [default, base] = args.bind("int", ["default", "base"])?;
    let default = default.unwrap_or_else(|| 0.into());
    let base = u32::try_from(whole(base, "int", "base", 10)?).ok().filter(|base| matches!(base, 0 | 2..=36));
    let Some(base) = base else { return fail("`base` of `int` is a number from 2 to 36") };
    #[allow(clippy::cast_possible_truncation)]
    let number = match input {
        Value::String(s) => {
            let clean = s.trim().replace('_', "");
            let (sign, digits) = clean.strip_prefix('-').map_or((1, clean.as_str()), |rest| (-1, rest));
            let digits = digits.strip_prefix('+').unwrap_or(digits);
            let prefix = [("0x", 16), ("0o", 8), ("0b", 2)]
                .into_iter()
                .find(|(prefix, of)| (base == *of || base == 0) && digits.to_lowercase().starts_with(prefix));
            let (digits, radix) = match prefix {
                Some((_, radix)) => (digits.get(2..).unwrap_or(""), radix),
                None => (digits, if base == 0 { 10 } else { base }),
            };
            let decimal = || clean.parse::<f64>().ok().filter(|f| f.is_finite()).map(|f| f.trunc() as i128);
            i128::from_str_radix(digits, radix).ok().map(|n| n * sign).or_else(decimal)
        }
        other => match num(other) {
            Some(Num::Int(i)) => Some(i),
            Some(Num::Float(f)) => Some(f.trunc() as i128),
            None => None,
        },
    };
    number.map_or(Ok(default), |n| Num::Int(n).value())
}

fn round(input: &Value, args: Args) -> Outcome {
    let [precision, method] = args.bind("round", ["precision", "method"])?;
    let precision = whole(precision, "round", "precision", 0)?.clamp(-300, 300);
    let x = decimal(input, "round")?;
    let is_whole = matches!(num(input), Some(Num::Int(_)));
    let scale = 10f64.powi(i32::try_from(precision).unwrap_or(0));
    let method = text_or(method, "common");
    let common = method == "common";
    let rounded = match method.as_str() {
        // As Python rounds: the exact value decides, and half goes to the even neighbour.
        "common" if precision >= 0 => format!("{x:.*}", usize::try_from(precision).unwrap_or(0)).parse().unwrap_or(x),
        "common" => (x * scale).round_ties_even() / scale,
        "ceil" => (x * scale).ceil() / scale,
        "floor" => (x * scale).floor() / scale,
        other => return fail(format!("`round` knows the methods common, ceil and floor, not `{other}`")),
    };
    if is_whole && common {
        // A whole number stays one, as in Python.
        #[allow(clippy::cast_possible_truncation)]
        let number = if precision >= 0 { num(input) } else { Some(Num::Int(rounded as i128)) };
        return number.map_or(Ok(Value::Null), Num::value);
    }
    Num::Float(rounded).value()
}

fn combine(input: Value, mut args: Args) -> Outcome {
    let recursive = flag(args.take("recursive"), false);
    let lists = text_or(args.take("list_merge"), "replace");
    if !["replace", "keep", "append", "prepend", "append_rp", "prepend_rp"].contains(&lists.as_str()) {
        return fail(format!("`list_merge` of `combine` can't be `{lists}`"));
    }
    let mut all = vec![input];
    all.extend(args.rest("combine")?);
    let mut out = Map::new();
    for one in all {
        // A list of mappings counts as the mappings themselves.
        let maps = if let Value::Array(maps) = one { maps } else { vec![one] };
        for map in maps.into_iter().filter(|map| !map.is_null()) {
            merge(&mut out, mapping(map)?, recursive, &lists);
        }
    }
    Ok(Value::Object(out))
}

fn merge(into: &mut Map<String, Value>, from: Map<String, Value>, recursive: bool, lists: &str) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) if recursive => merge(old, new, recursive, lists),
            (Some(Value::Array(old)), Value::Array(new)) => merge_lists(old, new, lists),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

fn merge_lists(old: &mut Vec<Value>, new: Vec<Value>, how: &str) {
    let without = |list: &[Value], other: &[Value]| -> Vec<Value> {
        list.iter().filter(|item| !other.iter().any(|known| equal(known, item))).cloned().collect()
    };
    *old = match how {
        "keep" => return,
        "append" => [old.as_slice(), &new].concat(),
        "prepend" => [&new, old.as_slice()].concat(),
        "append_rp" => [without(old, &new), new].concat(),
        "prepend_rp" => {
            let rest = without(old, &new);
            [new, rest].concat()
        }
        _ => new,
    };
}

fn hash(text: &str, kind: &str) -> Outcome {
    let bytes = match kind {
        "sha224" => Sha224::digest(text).to_vec(),
        "sha256" => Sha256::digest(text).to_vec(),
        "sha384" => Sha384::digest(text).to_vec(),
        "sha512" => Sha512::digest(text).to_vec(),
        other => return fail(format!("the hash `{other}` is not supported; known are sha224, sha256, sha384, sha512")),
    };
    Ok(Value::String(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
}

fn to_json(name: &str, input: &Value, args: Args) -> Outcome {
    let nice = name == "to_nice_json";
    let [indent, sort, ascii] = args.bind(name, ["indent", "sort_keys", "ensure_ascii"])?;
    let indent = match indent {
        None => nice.then_some(4),
        Some(Value::Null) => None,
        some => usize::try_from(whole(some, name, "indent", 4)?.clamp(0, 100)).ok(),
    };
    let mut json = Json { indent, sort: flag(sort, nice), ascii: flag(ascii, true), out: String::new() };
    json.write(input, 0);
    room(json.out.len())?;
    Ok(Value::String(json.out))
}

/// JSON as Python writes it: a space behind `,` and `:`, other characters than ASCII escaped.
struct Json {
    indent: Option<usize>,
    sort: bool,
    ascii: bool,
    out: String,
}

impl Json {
    fn line(&mut self, depth: usize, first: bool) {
        match self.indent {
            Some(indent) => {
                self.out.push_str(if first { "\n" } else { ",\n" });
                self.out.push_str(&" ".repeat(indent * depth));
            }
            None => self.out.push_str(if first { "" } else { ", " }),
        }
    }

    fn close(&mut self, depth: usize, bracket: char) {
        if let Some(indent) = self.indent {
            self.out.push('\n');
            self.out.push_str(&" ".repeat(indent * depth));
        }
        self.out.push(bracket);
    }

    fn write(&mut self, value: &Value, depth: usize) {
        match value {
            Value::Number(n) if n.is_f64() => self.out.push_str(&float(n.as_f64().unwrap_or(0.0))),
            Value::Null | Value::Bool(_) | Value::Number(_) => self.out.push_str(&value.to_string()),
            Value::String(s) => self.string(s),
            Value::Array(list) if list.is_empty() => self.out.push_str("[]"),
            Value::Array(list) => {
                self.out.push('[');
                for (at, item) in list.iter().enumerate() {
                    self.line(depth + 1, at == 0);
                    self.write(item, depth + 1);
                }
                self.close(depth, ']');
            }
            Value::Object(map) if map.is_empty() => self.out.push_str("{}"),
            Value::Object(map) => {
                let mut pairs: Vec<(&String, &Value)> = map.iter().collect();
                if self.sort {
                    pairs.sort_by_key(|(key, _)| *key);
                }
                self.out.push('{');
                for (at, (key, item)) in pairs.into_iter().enumerate() {
                    self.line(depth + 1, at == 0);
                    self.string(key);
                    self.out.push_str(": ");
                    self.write(item, depth + 1);
                }
                self.close(depth, '}');
            }
        }
    }

    fn string(&mut self, text: &str) {
        let plain = Value::from(text).to_string();
        if !self.ascii || plain.is_ascii() {
            self.out.push_str(&plain);
            return;
        }
        for c in plain.chars() {
            if c.is_ascii() {
                self.out.push(c);
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    self.out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
}

const UNITS: [(char, u32); 8] =
    [('Y', 80), ('Z', 70), ('E', 60), ('P', 50), ('T', 40), ('G', 30), ('M', 20), ('K', 10)];

fn human_readable(input: &Value, args: Args) -> Outcome {
    let [bits, unit] = args.bind("human_readable", ["isbits", "unit"])?;
    let base = if flag(bits, false) { "bits" } else { "Bytes" };
    let short = if base == "bits" { "b" } else { "B" };
    let size = match input {
        Value::String(s) => s.trim().parse().map_err(|_| TemplateError::failed(format!("`{s}` is not a number")))?,
        other => decimal(other, "human_readable")?,
    };
    let unit = unit.filter(|unit| !unit.is_null()).map(|unit| as_text(&unit).to_uppercase());
    let fits = |(letter, power): &(char, u32)| match &unit {
        Some(unit) => unit.starts_with(*letter),
        None => size >= 2f64.powi(power.cast_signed()),
    };
    Ok(Value::String(match UNITS.iter().find(|unit| fits(unit)) {
        Some((letter, power)) => format!("{:.2} {letter}{short}", size / 2f64.powi(power.cast_signed())),
        None => format!("{size:.2} {base}"),
    }))
}

fn human_to_bytes(input: &Value, args: Args) -> Outcome {
    let [unit, bits] = args.bind("human_to_bytes", ["default_unit", "isbits"])?;
    let bits = flag(bits, false);
    let text = needed_text(Some(input.clone()), "human_to_bytes", "value")?;
    let text = text.trim();
    let cut = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, given) = text.split_at(cut);
    let wrong = || TemplateError::failed(format!("`{text}` is not a size such as `10M` or `1.5 GB`"));
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    let given = if given.trim().is_empty() { text_or(unit, "") } else { given.trim().to_string() };
    let mut rest = given.chars();
    let power = match rest.next().map(|c| c.to_ascii_uppercase()) {
        None | Some('B') => 0,
        Some(letter) => UNITS.iter().find(|(known, _)| *known == letter).map(|(_, power)| *power).ok_or_else(wrong)?,
    };
    let short = if bits { "b" } else { "B" };
    let tail = if power == 0 { given.as_str() } else { rest.as_str() };
    let long = if bits { "bits" } else { "bytes" };
    if !(tail.is_empty()
        || tail == short
        || (power == 0 && tail.to_lowercase().trim_end_matches('s') == long.trim_end_matches('s')))
    {
        return Err(wrong());
    }
    #[allow(clippy::cast_possible_truncation)]
    Num::Int((number * 2f64.powi(power.cast_signed())).round_ties_even() as i128).value()
}
