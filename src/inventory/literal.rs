//! Values of INI inventories: what Python's `ast.literal_eval` takes is that, everything else is a string.
//!
//! As in our YAML, and other than in Python, a number is one only if writing it gives the same text again, so `0x82`,
//! `6.10` and `1e5` stay what was written; and `2,3` stays a string, where Python would see a tuple.

use serde_json::{Map, Value};

use crate::yaml::{self, NodeValue};

/// Deeper lists and maps are taken as strings.
const MAX_DEPTH: usize = 48;

/// The value that a text stands for.
pub(super) fn value(text: &str) -> Value {
    let text = text.trim();
    let mut parser = Parser { rest: text };
    match parser.value(0) {
        Some(value) if parser.at_end() => value,
        _ => Value::String(text.to_string()),
    }
}

struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    fn blank(&mut self) {
        self.rest = self.rest.trim_start();
    }

    fn take(&mut self, token: &str) -> bool {
        self.blank();
        match self.rest.strip_prefix(token) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// Python has comments too.
    fn at_end(&mut self) -> bool {
        self.blank();
        self.rest.is_empty() || self.rest.starts_with('#')
    }

    fn value(&mut self, depth: usize) -> Option<Value> {
        if depth > MAX_DEPTH {
            return None;
        }
        self.blank();
        match self.rest.chars().next()? {
            '[' => self.list('[', ']', depth).map(|(items, _)| Value::Array(items)),
            '(' => {
                let (mut items, comma) = self.list('(', ')', depth)?;
                // Brackets around one thing are only brackets.
                if items.len() == 1 && !comma { items.pop() } else { Some(Value::Array(items)) }
            }
            '{' => self.map(depth),
            '0'..='9' | '-' | '+' | '.' => self.number(),
            _ => self.string().or_else(|| self.word()),
        }
    }

    /// The items, and whether a comma stood between or behind them.
    fn list(&mut self, open: char, close: char, depth: usize) -> Option<(Vec<Value>, bool)> {
        self.rest = self.rest.strip_prefix(open)?;
        let close = close.to_string();
        let (mut items, mut comma) = (Vec::new(), false);
        loop {
            if self.take(&close) {
                return Some((items, comma));
            }
            items.push(self.value(depth + 1)?);
            if self.take(",") {
                comma = true;
            } else {
                return self.take(&close).then_some((items, comma));
            }
        }
    }

    fn map(&mut self, depth: usize) -> Option<Value> {
        self.rest = self.rest.strip_prefix('{')?;
        let mut map = Map::new();
        loop {
            if self.take("}") {
                return Some(Value::Object(map));
            }
            let key = match self.value(depth + 1)? {
                Value::String(key) => key,
                Value::Number(number) => number.to_string(),
                _ => return None,
            };
            if !self.take(":") {
                return None;
            }
            let value = self.value(depth + 1)?;
            map.insert(key, value);
            if !self.take(",") {
                return self.take("}").then_some(Value::Object(map));
            }
        }
    }

    fn token(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let end = self.rest.find(|c| !belongs(c)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        token
    }

    fn word(&mut self) -> Option<Value> {
        match self.token(|c| c.is_alphanumeric() || c == '_') {
            "True" => Some(Value::Bool(true)),
            "False" => Some(Value::Bool(false)),
            "None" => Some(Value::Null),
            _ => None,
        }
    }

    fn number(&mut self) -> Option<Value> {
        let token = self.token(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '+' | '-'));
        if !is_number(token) {
            return None;
        }
        Some(match yaml::plain(token) {
            number @ (NodeValue::Int(_) | NodeValue::Float(_)) => number.to_json(),
            _ => Value::String(token.to_string()),
        })
    }

    /// A quoted string; several beside each other are one, as in Python.
    fn string(&mut self) -> Option<Value> {
        let mut text = String::new();
        let mut any = false;
        loop {
            self.blank();
            let bare = self.rest.trim_start_matches(['r', 'R', 'u', 'U', 'b', 'B']);
            let prefix = self.rest.get(..self.rest.len() - bare.len())?;
            let quote = bare.chars().next().filter(|c| matches!(c, '"' | '\'') && prefix.len() <= 2);
            let Some(quote) = quote else {
                return any.then_some(Value::String(text));
            };
            self.rest = bare.strip_prefix(quote)?;
            self.quoted(quote, prefix.contains(['r', 'R']), &mut text)?;
            any = true;
        }
    }

    fn quoted(&mut self, quote: char, raw: bool, text: &mut String) -> Option<()> {
        loop {
            let next = self.rest.chars().next()?;
            self.rest = self.rest.strip_prefix(next)?;
            match next {
                _ if next == quote => return Some(()),
                '\\' if raw => {
                    let escaped = self.rest.chars().next()?;
                    self.rest = self.rest.strip_prefix(escaped)?;
                    text.push('\\');
                    text.push(escaped);
                }
                '\\' => self.escape(text)?,
                _ => text.push(next),
            }
        }
    }

    fn escape(&mut self, text: &mut String) -> Option<()> {
        let letter = self.rest.chars().next()?;
        self.rest = self.rest.strip_prefix(letter)?;
        let simple = match letter {
            'n' => '\n',
            't' => '\t',
            'r' => '\r',
            'a' => '\u{7}',
            'b' => '\u{8}',
            'f' => '\u{c}',
            'v' => '\u{b}',
            '\\' | '\'' | '"' => letter,
            'x' => self.code(2, 16)?,
            'u' => self.code(4, 16)?,
            'U' => self.code(8, 16)?,
            '0'..='7' => {
                let more = self.rest.bytes().take(2).take_while(|b| (b'0'..=b'7').contains(b)).count();
                let start = letter.to_digit(8)?;
                let (digits, rest) = self.rest.split_at(more);
                self.rest = rest;
                char::from_u32(digits.chars().try_fold(start, |sum, c| Some(sum * 8 + c.to_digit(8)?))?)?
            }
            other => {
                text.push('\\');
                other
            }
        };
        text.push(simple);
        Some(())
    }

    fn code(&mut self, digits: usize, radix: u32) -> Option<char> {
        let code = self.rest.get(..digits)?;
        self.rest = self.rest.get(digits..)?;
        let all = code.chars().all(|c| c.is_digit(radix));
        all.then(|| u32::from_str_radix(code, radix).ok()).flatten().and_then(char::from_u32)
    }
}

/// Is this a number in Python? `0644` is not.
fn is_number(token: &str) -> bool {
    let digits = token.strip_prefix(['-', '+']).unwrap_or(token);
    let based = |prefix: [&str; 2], radix: u32| {
        prefix.iter().any(|prefix| {
            digits.strip_prefix(prefix).is_some_and(|rest| {
                rest.chars().any(|c| c != '_') && rest.chars().all(|c| c.is_digit(radix) || c == '_')
            })
        })
    };
    if based(["0x", "0X"], 16) || based(["0o", "0O"], 8) || based(["0b", "0B"], 2) {
        return true;
    }
    let plain = digits.replace('_', "");
    let whole = plain.bytes().all(|b| b.is_ascii_digit());
    if whole && plain.len() > 1 && plain.starts_with('0') {
        return plain.bytes().all(|b| b == b'0');
    }
    plain.starts_with(|c: char| c.is_ascii_digit() || c == '.')
        && plain.bytes().any(|b| b.is_ascii_digit())
        && plain.parse::<f64>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn literals_are_values_and_the_rest_is_strings() {
        for (text, expected) in [
            ("5", json!(5)),
            ("-5", json!(-5)),
            ("1.5", json!(1.5)),
            ("True", json!(true)),
            ("False", json!(false)),
            ("None", json!(null)),
            ("true", json!("true")),
            ("yes", json!("yes")),
            ("null", json!("null")),
            ("", json!("")),
            ("hello world", json!("hello world")),
            ("'5'", json!("5")),
            ("\"a\" 'b'", json!("ab")),
            (r"'a\tb\x41\101\q'", json!("a\tbAA\\q")),
            (r"r'a\tb'", json!("a\\tb")),
            ("[1, 'b', None,]", json!([1, "b", null])),
            ("['0000:82:00.0','0000:82:00.1']", json!(["0000:82:00.0", "0000:82:00.1"])),
            ("{'a': [True], \"b\": {}}", json!({"a": [true], "b": {}})),
            ("(1, 2)", json!([1, 2])),
            ("(1)", json!(1)),
            ("()", json!([])),
            ("5 # a comment of Python's", json!(5)),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
    }

    #[test]
    fn nothing_that_was_written_is_lost() {
        for text in [
            "0644",
            "6.10",
            "0x82",
            "1e5",
            "1_000",
            "+5",
            "82:00.0",
            "10:20",
            "2,3",
            "5.",
            ".5",
            "12345678901234567890",
            "1-2",
            "[a, b]",
            "{\"a\": true}",
            "{1, 2}",
            "{{ x }}",
            "{{ 5 }}",
            "'open",
            "[1",
            "a'b",
            "(",
            "-",
            "05",
            "'a' b",
            "r",
            "b",
            "u'",
            "{'a' 1}",
            "{[1]: 2}",
            "0x",
            "0x_",
            "nan",
            "inf",
            "1j",
        ] {
            assert_eq!(value(text), json!(text), "{text}");
        }
        assert_eq!(value("[6.10, 0x82]"), json!(["6.10", "0x82"]));
    }

    #[test]
    fn deep_nesting_is_a_string() {
        let deep = "[".repeat(100_000);
        assert_eq!(value(&deep), json!(deep));
    }
}
