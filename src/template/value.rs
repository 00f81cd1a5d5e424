//! What values mean: Python's rules for truth, equality, order, arithmetic and text, since those are what people who write
//! playbooks rely on (`True`, `['a', 1]`, `7 // 2`, `'a' * 3`).

use std::cmp::Ordering;
use std::fmt::Write;

use serde_json::{Map, Number, Value};

use super::ast::Operator;
use super::error::TemplateError;

/// Longest text and largest list that an expression may make.
pub(super) const MOST_TEXT: usize = 16 << 20;
pub(super) const MOST_ITEMS: usize = 1 << 20;

pub(super) type Outcome = Result<Value, TemplateError>;

pub(super) fn fail<T>(message: impl Into<String>) -> Result<T, TemplateError> {
    Err(TemplateError::failed(message))
}

/// The kind of a value, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "none",
        Value::Bool(_) => "a boolean",
        Value::Number(n) if n.is_f64() => "a decimal number",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}

/// The kind and, if it is short, the value itself.
pub(super) fn describe(value: &Value) -> String {
    let shown = repr(value);
    if shown.chars().count() <= 40 { format!("{} ({shown})", kind(value)) } else { kind(value).to_string() }
}

pub(super) fn truth(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(b) => *b,
        Value::Number(n) => n.as_f64() != Some(0.0),
        Value::String(s) => !s.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// A number to calculate with.
#[derive(Clone, Copy, Debug)]
pub(super) enum Num {
    Int(i128),
    Float(f64),
}

impl Num {
    pub fn float(self) -> f64 {
        match self {
            #[allow(clippy::cast_precision_loss)]
            Num::Int(i) => i as f64,
            Num::Float(f) => f,
        }
    }

    pub fn value(self) -> Outcome {
        match self {
            Num::Int(i) => i64::try_from(i)
                .map(Number::from)
                .or_else(|_| u64::try_from(i).map(Number::from))
                .map(Value::Number)
                .or_else(|_| fail("the result is too large a number")),
            Num::Float(f) => match Number::from_f64(f) {
                Some(number) => Ok(Value::Number(number)),
                None => fail("the result is not a finite number"),
            },
        }
    }
}

/// Numbers, and booleans, which Python counts as 0 and 1.
pub(super) fn num(value: &Value) -> Option<Num> {
    match value {
        Value::Bool(b) => Some(Num::Int(i128::from(*b))),
        Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Some(Num::Int(i.into())),
            (_, Some(u)) => Some(Num::Int(u.into())),
            _ => n.as_f64().map(Num::Float),
        },
        _ => None,
    }
}

/// A whole number, as an index or a count.
pub(super) fn integer(value: &Value) -> Option<i64> {
    match num(value)? {
        Num::Int(i) => i64::try_from(i).ok(),
        Num::Float(_) => None,
    }
}

pub(super) fn equal(a: &Value, b: &Value) -> bool {
    match (num(a), num(b)) {
        (Some(Num::Int(a)), Some(Num::Int(b))) => a == b,
        #[allow(clippy::float_cmp)]
        (Some(a), Some(b)) => a.float() == b.float(),
        (None, None) => match (a, b) {
            (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| equal(a, b)),
            (Value::Object(a), Value::Object(b)) => {
                a.len() == b.len() && a.iter().all(|(k, v)| b.get(k).is_some_and(|other| equal(v, other)))
            }
            (a, b) => a == b,
        },
        _ => false,
    }
}

/// Order, where Python has one.
pub(super) fn order(a: &Value, b: &Value) -> Result<Ordering, TemplateError> {
    let none = || TemplateError::failed(format!("{} and {} can't be ordered", describe(a), describe(b)));
    match (a, b) {
        (Value::String(a), Value::String(b)) => Ok(a.cmp(b)),
        (Value::Array(a), Value::Array(b)) => {
            for (a, b) in a.iter().zip(b) {
                if !equal(a, b) {
                    return order(a, b);
                }
            }
            Ok(a.len().cmp(&b.len()))
        }
        _ => match (num(a), num(b)) {
            (Some(Num::Int(a)), Some(Num::Int(b))) => Ok(a.cmp(&b)),
            (Some(x), Some(y)) => x.float().partial_cmp(&y.float()).ok_or_else(none),
            _ => Err(none()),
        },
    }
}

/// Sorts, and fails where two items have no order.
pub(super) fn sort_by_key(items: &mut [(Value, Value)], descending: bool) -> Result<(), TemplateError> {
    let mut error = None;
    items.sort_by(|(a, _), (b, _)| {
        let ordering = order(a, b).unwrap_or_else(|e| {
            error.get_or_insert(e);
            Ordering::Equal
        });
        if descending { ordering.reverse() } else { ordering }
    });
    error.map_or(Ok(()), Err)
}

/// `needle in hay`
pub(super) fn contains(hay: &Value, needle: &Value) -> Result<bool, TemplateError> {
    match (hay, needle) {
        (Value::String(hay), Value::String(needle)) => Ok(hay.contains(needle.as_str())),
        (Value::String(_), other) => fail(format!("only text can be looked for in text, not {}", describe(other))),
        (Value::Array(items), needle) => Ok(items.iter().any(|item| equal(item, needle))),
        (Value::Object(map), Value::String(key)) => Ok(map.contains_key(key)),
        (Value::Object(map), key) => Ok(map.contains_key(&text(key))),
        (other, _) => fail(format!("`in` needs a list, a mapping or text to look in, not {}", describe(other))),
    }
}

pub(super) fn arithmetic(operator: Operator, a: &Value, b: &Value) -> Outcome {
    use Operator::{Add, Divide, FloorDivide, Multiply, Power, Remainder, Subtract};
    match (operator, a, b) {
        (Add, Value::String(a), Value::String(b)) => {
            room(a.len() + b.len())?;
            return Ok(Value::String(format!("{a}{b}")));
        }
        (Add, Value::Array(a), Value::Array(b)) => {
            room_for_items(a.len() + b.len())?;
            return Ok(Value::Array(a.iter().chain(b).cloned().collect()));
        }
        (Add, Value::String(_), _) | (Add, _, Value::String(_)) => {
            return fail(format!("{} and {} can't be added; to join them as text write `~`", describe(a), describe(b)));
        }
        (Multiply, Value::String(_) | Value::Array(_), times) => return repeated(a, times),
        (Multiply, times, Value::String(_) | Value::Array(_)) => return repeated(b, times),
        (Remainder, Value::String(format), values) => {
            let values = match values {
                Value::Array(values) => values.clone(),
                one => vec![one.clone()],
            };
            return super::format::percent(format, &values).map(Value::String);
        }
        _ => {}
    }
    let (Some(x), Some(y)) = (num(a), num(b)) else {
        let word = match operator {
            Add => "added",
            Subtract => "subtracted",
            Multiply => "multiplied",
            Divide | FloorDivide | Remainder => "divided",
            Power => "raised to a power",
        };
        return fail(format!("{} and {} can't be {word}", describe(a), describe(b)));
    };
    let zero = || TemplateError::failed("division by zero");
    let large = || TemplateError::failed("the result is too large a number");
    let result = match (operator, x, y) {
        (Divide, _, y) if y.float() == 0.0 => return Err(zero()),
        (Divide, x, y) => Num::Float(x.float() / y.float()),
        (Add, Num::Int(x), Num::Int(y)) => Num::Int(x.checked_add(y).ok_or_else(large)?),
        (Subtract, Num::Int(x), Num::Int(y)) => Num::Int(x.checked_sub(y).ok_or_else(large)?),
        (Multiply, Num::Int(x), Num::Int(y)) => Num::Int(x.checked_mul(y).ok_or_else(large)?),
        // Python rounds down, not towards zero; the remainder has the divisor's sign.
        (FloorDivide, Num::Int(x), Num::Int(y)) => {
            let (quotient, rest) = (x.checked_div(y).ok_or_else(zero)?, x.checked_rem(y).ok_or_else(zero)?);
            Num::Int(quotient - i128::from(rest != 0 && (rest < 0) != (y < 0)))
        }
        (Remainder, Num::Int(x), Num::Int(y)) => {
            let rest = x.checked_rem(y).ok_or_else(zero)?;
            Num::Int(if rest != 0 && (rest < 0) != (y < 0) { rest + y } else { rest })
        }
        (Power, Num::Int(x), Num::Int(y)) if y >= 0 => {
            let exponent = u32::try_from(y).map_err(|_| large())?;
            Num::Int(x.checked_pow(exponent).ok_or_else(large)?)
        }
        (Add, x, y) => Num::Float(x.float() + y.float()),
        (Subtract, x, y) => Num::Float(x.float() - y.float()),
        (Multiply, x, y) => Num::Float(x.float() * y.float()),
        (FloorDivide | Remainder, _, y) if y.float() == 0.0 => return Err(zero()),
        (FloorDivide, x, y) => Num::Float(((x.float() - remainder(x.float(), y.float())) / y.float()).round()),
        (Remainder, x, y) => Num::Float(remainder(x.float(), y.float())),
        (Power, x, y) => Num::Float(x.float().powf(y.float())),
    };
    result.value()
}

/// The remainder with the divisor's sign.
pub(super) fn remainder(x: f64, y: f64) -> f64 {
    let rest = x % y;
    if rest != 0.0 && (rest < 0.0) != (y < 0.0) { rest + y } else { rest }
}

fn repeated(what: &Value, times: &Value) -> Outcome {
    let Some(times) = integer(times) else {
        return fail(format!("{} can only be multiplied by a whole number", kind(what)));
    };
    let times = usize::try_from(times).unwrap_or(0);
    match what {
        Value::String(s) => {
            room(s.len().saturating_mul(times))?;
            Ok(Value::String(s.repeat(times)))
        }
        Value::Array(items) => {
            room_for_items(items.len().saturating_mul(times))?;
            Ok(Value::Array(std::iter::repeat_n(items, times).flatten().cloned().collect()))
        }
        other => fail(format!("{} can't be multiplied", describe(other))),
    }
}

/// Refuses a text that would be too long.
pub(super) fn room(length: usize) -> Result<(), TemplateError> {
    if length > MOST_TEXT { fail(format!("the text would be longer than {} MiB", MOST_TEXT >> 20)) } else { Ok(()) }
}

/// Refuses a list that would be too long.
pub(super) fn room_for_items(count: usize) -> Result<(), TemplateError> {
    if count > MOST_ITEMS { fail(format!("the list would have more than {MOST_ITEMS} items")) } else { Ok(()) }
}

/// A value as text, as Python's `str` has it; nothing for none, as Ansible prints it.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => repr(other),
    }
}

/// A value as Python's `str` has it, `None` for none too: what filters work on.
pub(super) fn spelled(value: &Value) -> String {
    if value.is_null() { "None".to_string() } else { text(value) }
}

/// A value as Python's `repr` has it: inside lists and mappings.
pub(super) fn repr(value: &Value) -> String {
    let mut out = String::new();
    write_repr(value, &mut out);
    out
}

fn write_repr(value: &Value, out: &mut String) {
    match value {
        Value::Null => out.push_str("None"),
        Value::Bool(true) => out.push_str("True"),
        Value::Bool(false) => out.push_str("False"),
        Value::Number(n) => match n.as_f64() {
            Some(f) if n.is_f64() => out.push_str(&float(f)),
            _ => out.push_str(&n.to_string()),
        },
        Value::String(s) => write_quoted(s, out),
        Value::Array(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                write_repr(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            out.push('{');
            for (at, (key, item)) in map.iter().enumerate() {
                out.push_str(if at > 0 { ", " } else { "" });
                write_quoted(key, out);
                out.push_str(": ");
                write_repr(item, out);
            }
            out.push('}');
        }
    }
}

fn write_quoted(s: &str, out: &mut String) {
    let quote = if s.contains('\'') && !s.contains('"') { '"' } else { '\'' };
    out.push(quote);
    for c in s.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c == quote => {
                out.push('\\');
                out.push(c);
            }
            c if (c as u32) < 0x20 || c as u32 == 0x7f => {
                let _ = write!(out, "\\x{:02x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push(quote);
}

/// A decimal number as Python prints it: `1.0`, `0.1`, `1e-05`, `1e+16`.
pub(super) fn float(f: f64) -> String {
    if f == 0.0 {
        return if f.is_sign_negative() { "-0.0".into() } else { "0.0".into() };
    }
    let scientific = format!("{f:e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let plain = format!("{f}");
        return if plain.contains('.') { plain } else { format!("{plain}.0") };
    }
    format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

/// The items that a loop or a filter walks over: of a list, the keys of a mapping, the characters of a text.
pub(super) fn items(value: Value) -> Result<Vec<Value>, TemplateError> {
    match value {
        Value::Array(items) => Ok(items),
        Value::Object(map) => Ok(map.into_iter().map(|(key, _)| Value::String(key)).collect()),
        Value::String(s) => {
            room_for_items(s.len())?;
            Ok(s.chars().map(|c| Value::String(c.to_string())).collect())
        }
        other => fail(format!("a list is needed here, not {}", describe(&other))),
    }
}

/// A mapping, or an error that says what it is instead.
pub(super) fn mapping(value: Value) -> Result<Map<String, Value>, TemplateError> {
    match value {
        Value::Object(map) => Ok(map),
        other => fail(format!("a mapping is needed here, not {}", describe(&other))),
    }
}

/// Keeps `Map` in one place for callers that build small mappings.
pub(super) fn object<const N: usize>(pairs: [(&str, Value); N]) -> Value {
    Value::Object(pairs.into_iter().map(|(key, value)| (key.to_string(), value)).collect::<Map<_, _>>())
}
