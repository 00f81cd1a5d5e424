//! YAML as Python's library writes it: keys sorted, lists at the depth of their key.

use serde_json::Value;

use super::{Args, flag, whole};
use crate::template::value::{Outcome, float, room};

struct Writer {
    indent: usize,
    sort: bool,
    /// Lists and mappings that hold only scalars go on one line (`to_yaml`).
    flow: bool,
    unicode: bool,
    out: String,
}

pub(super) fn write(name: &str, value: &Value, args: Args) -> Outcome {
    let nice = name == "to_nice_yaml";
    let [indent, sort, unicode, flow] =
        args.bind(name, ["indent", "sort_keys", "allow_unicode", "default_flow_style"])?;
    let indent = whole(indent, name, "indent", if nice { 4 } else { 2 })?.clamp(2, 9);
    let flow = match flow {
        None | Some(Value::Null) => !nice,
        Some(flow) => flag(Some(flow), false),
    };
    let indent = usize::try_from(indent).unwrap_or(2);
    let mut writer = Writer { indent, sort: flag(sort, true), flow, unicode: flag(unicode, true), out: String::new() };
    writer.block(value, 0, false);
    if !writer.out.ends_with('\n') {
        writer.out.push('\n');
    }
    room(writer.out.len())?;
    Ok(Value::String(writer.out))
}

fn leaf(value: &Value) -> bool {
    !matches!(value, Value::Array(_) | Value::Object(_))
}

impl Writer {
    fn pairs<'a>(&self, map: &'a serde_json::Map<String, Value>) -> Vec<(&'a String, &'a Value)> {
        let mut pairs: Vec<_> = map.iter().collect();
        if self.sort {
            pairs.sort_by_key(|(key, _)| *key);
        }
        pairs
    }

    fn on_one_line(&self, value: &Value) -> bool {
        match value {
            Value::Array(items) => items.is_empty() || (self.flow && items.iter().all(leaf)),
            Value::Object(map) => map.is_empty() || (self.flow && map.values().all(leaf)),
            _ => true,
        }
    }

    /// A value from column `depth` on. `inline`: the cursor stands there already, behind a `- `.
    fn block(&mut self, value: &Value, depth: usize, inline: bool) {
        if self.on_one_line(value) {
            self.line(value, if inline { depth } else { depth + self.indent }, false);
            return;
        }
        let mut first = inline;
        match value {
            Value::Object(map) => {
                for (key, item) in self.pairs(map) {
                    self.start(depth, &mut first);
                    self.key(key, false);
                    self.out.push(':');
                    match item {
                        item if self.on_one_line(item) => {
                            self.out.push(' ');
                            self.line(item, depth + self.indent, false);
                        }
                        Value::Array(_) => {
                            self.out.push('\n');
                            self.block(item, depth, false);
                        }
                        item => {
                            self.out.push('\n');
                            self.block(item, depth + self.indent, false);
                        }
                    }
                    self.end();
                }
            }
            Value::Array(items) => {
                for item in items {
                    self.start(depth, &mut first);
                    self.out.push('-');
                    let nested = !self.on_one_line(item);
                    self.out.push_str(&" ".repeat(if nested { self.indent.saturating_sub(1).max(1) } else { 1 }));
                    let below = depth + self.indent;
                    self.block(item, below, true);
                    self.end();
                }
            }
            _ => {}
        }
    }

    fn start(&mut self, depth: usize, first: &mut bool) {
        if !std::mem::take(first) {
            self.out.push_str(&" ".repeat(depth));
        }
    }

    fn end(&mut self) {
        if !self.out.ends_with('\n') {
            self.out.push('\n');
        }
    }

    fn line(&mut self, value: &Value, depth: usize, flow: bool) {
        match value {
            Value::Null => self.out.push_str("null"),
            Value::Number(n) if n.is_f64() => {
                let shown = float(n.as_f64().unwrap_or(0.0));
                // YAML 1.1 reads an exponent only behind a point.
                self.out.push_str(&if shown.contains('.') { shown } else { shown.replacen('e', ".0e", 1) });
            }
            Value::Bool(_) | Value::Number(_) => self.out.push_str(&value.to_string()),
            Value::String(s) => self.scalar(s, depth, flow),
            Value::Array(items) => {
                self.out.push('[');
                for (at, item) in items.iter().enumerate() {
                    self.out.push_str(if at > 0 { ", " } else { "" });
                    self.line(item, depth, true);
                }
                self.out.push(']');
            }
            Value::Object(map) => {
                self.out.push('{');
                for (at, (key, item)) in self.pairs(map).into_iter().enumerate() {
                    self.out.push_str(if at > 0 { ", " } else { "" });
                    self.key(key, true);
                    self.out.push_str(": ");
                    self.line(item, depth, true);
                }
                self.out.push('}');
            }
        }
    }

    /// A key is always on one line.
    fn key(&mut self, text: &str, flow: bool) {
        if text.contains('\n') { self.double(text) } else { self.scalar(text, 0, flow) }
    }

    fn scalar(&mut self, text: &str, depth: usize, flow: bool) {
        let odd = |c: char| (c.is_control() && c != '\n') || c == '\u{feff}' || (!c.is_ascii() && !self.unicode);
        if text.chars().any(odd) || text.contains(" \n") || text.contains("\n ") {
            self.double(text);
        } else if plain(text, flow) {
            self.out.push_str(text);
        } else {
            // In quotes one line break more stands for those that are meant.
            let mut quoted = String::new();
            let mut breaks = false;
            for c in text.chars() {
                if c == '\n' && !breaks {
                    quoted.push('\n');
                } else if c != '\n' && breaks {
                    quoted.push_str(&" ".repeat(depth));
                }
                breaks = c == '\n';
                quoted.extend(std::iter::repeat_n(c, if c == '\'' { 2 } else { 1 }));
            }
            if breaks {
                quoted.push_str(&" ".repeat(depth));
            }
            self.out.push('\'');
            self.out.push_str(&quoted);
            self.out.push('\'');
        }
    }

    fn double(&mut self, text: &str) {
        self.out.push('"');
        for c in text.chars() {
            match c {
                '"' => self.out.push_str("\\\""),
                '\\' => self.out.push_str("\\\\"),
                '\n' => self.out.push_str("\\n"),
                '\t' => self.out.push_str("\\t"),
                '\r' => self.out.push_str("\\r"),
                c if c.is_control() || c == '\u{feff}' || (!c.is_ascii() && !self.unicode) => {
                    let code = c as u32;
                    self.out.push_str(&match code {
                        0..=0xff => format!("\\x{code:02X}"),
                        0x100..=0xffff => format!("\\u{code:04X}"),
                        _ => format!("\\U{code:08X}"),
                    });
                }
                c => self.out.push(c),
            }
        }
        self.out.push('"');
    }
}

/// Whether a text means itself without quotes in YAML 1.1; `flow`: within brackets, where more signs have a meaning.
fn plain(text: &str, flow: bool) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let lower = text.to_lowercase();
    if matches!(lower.as_str(), "~" | "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "=" | "<<") {
        return false;
    }
    if text.starts_with("---") || text.starts_with("...") {
        return false;
    }
    let alone = text.chars().nth(1).is_none_or(char::is_whitespace);
    let leading = match first {
        '?' | ':' => alone || flow,
        '-' => alone,
        c => c.is_whitespace() || "#,[]{}&*!|>'\"%@`".contains(c),
    };
    if leading || text.ends_with([' ', ':']) || text.contains('\n') || text.contains(": ") || text.contains(" #") {
        return false;
    }
    if flow && text.contains([',', '?', '[', ']', '{', '}', ':']) {
        return false;
    }
    !number_like(text)
}

/// Numbers and dates of YAML 1.1, hexadecimal, octal, underscores, base 60 and all.
fn number_like(text: &str) -> bool {
    let body = text.strip_prefix(['-', '+']).unwrap_or(text);
    let digits = |s: &str| !s.is_empty() && s.chars().all(|c| c.is_ascii_digit() || c == '_');
    if matches!(body.to_lowercase().as_str(), ".inf" | ".nan") {
        return true;
    }
    let lower = body.to_lowercase();
    if lower.strip_prefix("0x").is_some_and(|hex| hex.chars().all(|c| c.is_ascii_hexdigit() || c == '_'))
        || lower.strip_prefix("0o").is_some_and(|octal| octal.chars().all(|c| c.is_ascii_digit() || c == '_'))
        || lower.strip_prefix("0b").is_some_and(|bin| bin.chars().all(|c| matches!(c, '0' | '1' | '_')))
    {
        return true;
    }
    if !body.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return false;
    }
    if body.contains(':') && body.split(':').all(|part| digits(&part.replace('.', ""))) {
        return true;
    }
    // A date, or a date and a time.
    let date: Vec<&str> = text.get(..10).unwrap_or(text).split('-').collect();
    if let [year, month, day] = date.as_slice()
        && year.len() == 4
        && [year, month, day].iter().all(|part| digits(part))
    {
        return true;
    }
    let (mantissa, exponent) = lower.split_once('e').unwrap_or((&lower, "0"));
    let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
    let mantissa_ok = mantissa.chars().any(|c| c.is_ascii_digit())
        && mantissa.chars().all(|c| c.is_ascii_digit() || c == '_' || c == '.')
        && mantissa.matches('.').count() <= 1;
    mantissa_ok && digits(exponent)
}
