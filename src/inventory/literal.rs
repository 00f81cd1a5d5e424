//! Values in INI inventories: what Python would read as a literal is one, everything else is text. So `6.10` is a number and
//! `true` is text, as in Ansible.

use serde_json::{Map, Number, Value};

/// The value of a text.
pub(super) fn value(text: &str) -> Value {
    let mut reader = Reader { text, at: 0, depth: 0 };
    let read = reader.tuple();
    reader.space();
    let rest = text.get(reader.at..).unwrap_or("");
    match read {
        // Python's own comments are no part of a literal.
        Some(value) if rest.is_empty() || rest.starts_with('#') => value,
        _ => Value::String(text.to_string()),
    }
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    depth: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn space(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start().len();
    }

    fn take(&mut self, sign: char) -> bool {
        self.space();
        let found = self.rest().starts_with(sign);
        self.at += if found { sign.len_utf8() } else { 0 };
        found
    }

    /// `1` or `1, 2`, which is a list without its brackets.
    fn tuple(&mut self) -> Option<Value> {
        let first = self.value()?;
        let mut items = vec![first];
        let mut commas = false;
        while self.take(',') {
            commas = true;
            self.space();
            if self.rest().is_empty() || self.rest().starts_with('#') {
                break;
            }
            items.push(self.value()?);
        }
        if commas { Some(Value::Array(items)) } else { items.pop() }
    }

    fn value(&mut self) -> Option<Value> {
        self.depth += 1;
        let value = if self.depth > 50 { None } else { self.one() };
        self.depth -= 1;
        value
    }

    fn one(&mut self) -> Option<Value> {
        self.space();
        match self.rest().chars().next()? {
            '[' => self.list('[', ']'),
            '(' => self.list('(', ')'),
            '{' => self.map(),
            quote @ ('"' | '\'') => {
                let mut text = self.string(quote)?;
                // Strings that stand side by side are one.
                loop {
                    self.space();
                    match self.rest().chars().next() {
                        Some(quote @ ('"' | '\'')) => text.push_str(&self.string(quote)?),
                        _ => return Some(Value::String(text)),
                    }
                }
            }
            '-' | '+' | '.' | '0'..='9' => self.number(),
            _ => self.word(),
        }
    }

    fn word(&mut self) -> Option<Value> {
        let rest = self.rest();
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let value = match &rest[..end] {
            "True" => Value::Bool(true),
            "False" => Value::Bool(false),
            "None" => Value::Null,
            _ => return None,
        };
        self.at += end;
        Some(value)
    }

    fn list(&mut self, open: char, close: char) -> Option<Value> {
        self.take(open);
        let mut items = Vec::new();
        let mut commas = 0;
        loop {
            if self.take(close) {
                break;
            }
            items.push(self.value()?);
            if self.take(',') {
                commas += 1;
            } else if self.take(close) {
                break;
            } else {
                return None;
            }
        }
        // `(1)` is 1; only a comma makes it a list.
        if close == ')' && commas == 0 && items.len() == 1 {
            return items.pop();
        }
        Some(Value::Array(items))
    }

    fn map(&mut self) -> Option<Value> {
        self.take('{');
        let mut map = Map::new();
        loop {
            if self.take('}') {
                return Some(Value::Object(map));
            }
            let key = match self.value()? {
                Value::String(key) => key,
                key @ (Value::Number(_) | Value::Bool(_)) => key.to_string(),
                _ => return None,
            };
            if !self.take(':') {
                return None;
            }
            map.insert(key, self.value()?);
            if !self.take(',') {
                return if self.take('}') { Some(Value::Object(map)) } else { None };
            }
        }
    }

    fn string(&mut self, quote: char) -> Option<String> {
        let mut out = String::new();
        let rest = self.rest().to_string();
        let mut chars = rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                c if c == quote => {
                    self.at += at + 1;
                    return Some(out);
                }
                '\\' => match chars.next()?.1 {
                    'n' => out.push('\n'),
                    't' => out.push('\t'),
                    'r' => out.push('\r'),
                    '\n' => {}
                    c @ ('\\' | '\'' | '"') => out.push(c),
                    c => out.extend(['\\', c]),
                },
                '\n' => return None,
                c => out.push(c),
            }
        }
        None
    }

    fn number(&mut self) -> Option<Value> {
        let rest = self.rest();
        let body = rest.trim_start_matches(['-', '+']);
        let signs = &rest[..rest.len() - body.len()];
        let negative = signs.matches('-').count() % 2 == 1;
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
        let mut end = body.find(|c: char| !word(c)).unwrap_or(body.len());
        // The sign of an exponent.
        if body[..end].ends_with(['e', 'E']) && body[end..].starts_with(['-', '+']) && !body.starts_with("0x") {
            let more = &body[end + 1..];
            end += 1 + more.find(|c: char| !word(c)).unwrap_or(more.len());
        }
        let shown = &body[..end];
        let clean = shown.replace('_', "");
        let lower = clean.to_lowercase();
        let bad_underscore = shown.starts_with('_') || shown.ends_with('_') || shown.contains("__");
        if bad_underscore || shown.is_empty() {
            return None;
        }
        let radix = [("0x", 16), ("0o", 8), ("0b", 2)].into_iter().find(|(prefix, _)| lower.starts_with(prefix));
        let whole = match radix {
            Some((_, radix)) => i128::from_str_radix(lower.get(2..)?, radix).ok(),
            None if clean.bytes().all(|b| b.is_ascii_digit()) => {
                // Python 3 refuses `010`, so it stays text.
                if clean.len() > 1 && clean.starts_with('0') && clean.bytes().any(|b| b != b'0') {
                    return None;
                }
                clean.parse().ok()
            }
            None => None,
        };
        let number = match whole {
            Some(whole) => {
                let whole = if negative { -whole } else { whole };
                i64::try_from(whole).map(Number::from).or_else(|_| u64::try_from(whole).map(Number::from)).ok()?
            }
            None => {
                let float = clean.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b));
                if !float || radix.is_some() || !clean.bytes().any(|b| b.is_ascii_digit()) {
                    return None;
                }
                let number: f64 = clean.parse().ok()?;
                Number::from_f64(if negative { -number } else { number })?
            }
        };
        self.at += signs.len() + end;
        Some(Value::Number(number))
    }
}
