//! Words of an expression. Written for Jinja's grammar: Tera's own differs in strings, numbers and operators.

use std::ops::Range;

use serde_json::{Number, Value};

use super::error::TemplateError;

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Word {
    Name(String),
    Literal(Value),
    /// One of the operators and brackets, as written.
    Sign(&'static str),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub word: Word,
    pub range: Range<usize>,
}

/// Longest first, so that `//` is not read as two `/`.
const SIGNS: [&str; 27] = [
    "**", "//", "==", "!=", "<=", ">=", "+", "-", "*", "/", "%", "~", "<", ">", "=", "|", ".", ",", ":", "(", ")", "[",
    "]", "{", "}", ";", "!",
];

/// The tokens of an expression, and where it ended.
pub(super) struct Tokens {
    pub tokens: Vec<Token>,
    /// Behind the closing mark.
    pub end: usize,
    /// `-` or `+` before the closing mark.
    pub mark: Option<char>,
}

/// What a backslash in a string is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Backslash {
    /// The beginning of an escape, as in Python: in conditions, in tags, in template files.
    Escape,
    /// Itself. Between the `{{ }}` of a text in YAML, where YAML has read the escapes already: `'\1'` is a back-reference.
    Plain,
}

/// Reads from `start` up to the closing mark (`}}` or `%}`), or to the end of the text where there is none to come.
pub(super) fn tokens(
    text: &str,
    start: usize,
    close: Option<&str>,
    backslash: Backslash,
) -> Result<Tokens, TemplateError> {
    let mut tokens: Vec<Token> = Vec::new();
    let mut at = start;
    let mut open: Vec<(char, usize)> = Vec::new();
    while let Some(rest) = text.get(at..)
        && let Some(first) = rest.chars().next()
    {
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        if let Some(close) = close
            && open.is_empty()
        {
            if rest.starts_with(close) {
                return Ok(Tokens { tokens, end: at + close.len(), mark: None });
            }
            if let Some(after) = rest.strip_prefix(['-', '+'])
                && after.starts_with(close)
            {
                return Ok(Tokens { tokens, end: at + 1 + close.len(), mark: Some(first) });
            }
        }
        let (word, length) = if first == '"' || first == '\'' {
            string(rest, first, backslash)
                .map_err(|(message, length)| TemplateError::syntax(message, at..at + length))?
        } else if first.is_ascii_digit() {
            number(rest).map_err(|(message, length)| TemplateError::syntax(message, at..at + length))?
        } else if first == '_' || first.is_alphabetic() {
            let length = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
            (Word::Name(rest[..length].to_string()), length)
        } else if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            (Word::Sign(sign), sign.len())
        } else {
            return Err(TemplateError::syntax(
                format!("`{first}` has no meaning in an expression"),
                at..at + first.len_utf8(),
            ));
        };
        if let Word::Sign(sign) = word {
            balance(sign, at, &mut open)?;
        }
        tokens.push(Token { word, range: at..at + length });
        at += length;
    }
    if let Some((bracket, at)) = open.last() {
        return Err(TemplateError::syntax(format!("this `{bracket}` is never closed"), *at..*at + 1));
    }
    match close {
        Some(close) => {
            let opening = if close == "}}" { "{{" } else { "{%" };
            let from = start.saturating_sub(2);
            Err(TemplateError::syntax(format!("this `{opening}` has no `{close}`"), from..start))
        }
        None => Ok(Tokens { tokens, end: at, mark: None }),
    }
}

fn balance(sign: &str, at: usize, open: &mut Vec<(char, usize)>) -> Result<(), TemplateError> {
    let closes = match sign {
        "(" | "[" | "{" => {
            open.extend(sign.chars().map(|c| (c, at)));
            return Ok(());
        }
        ")" => '(',
        "]" => '[',
        "}" => '{',
        _ => return Ok(()),
    };
    match open.pop() {
        Some((bracket, _)) if bracket == closes => Ok(()),
        _ => Err(TemplateError::syntax(format!("this `{sign}` closes nothing"), at..at + 1)),
    }
}

/// A string in Python's way: unknown escapes such as `\d` stay as they are.
fn string(rest: &str, quote: char, backslash: Backslash) -> Result<(Word, usize), (String, usize)> {
    let mut out = String::new();
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Ok((Word::Literal(Value::String(out)), at + 1));
        }
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some((at, c)) = chars.next() else { break };
        if backslash == Backslash::Plain {
            out.extend(['\\', c]);
            continue;
        }
        match c {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(c),
            'n' => out.push('\n'),
            't' => out.push('\t'),
            'r' => out.push('\r'),
            'a' => out.push('\u{7}'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'v' => out.push('\u{b}'),
            'x' | 'u' | 'U' => {
                let length = if c == 'x' {
                    2
                } else if c == 'u' {
                    4
                } else {
                    8
                };
                let digits = rest.get(at + 1..at + 1 + length).filter(|d| d.bytes().all(|b| b.is_ascii_hexdigit()));
                let Some(decoded) = digits.and_then(|d| u32::from_str_radix(d, 16).ok()).and_then(char::from_u32)
                else {
                    return Err((format!("`\\{c}` needs {length} hexadecimal digits"), at + 1));
                };
                out.push(decoded);
                for _ in 0..length {
                    chars.next();
                }
            }
            '0'..='7' => {
                let digits = rest[at..].bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
                let code = u32::from_str_radix(&rest[at..at + digits], 8).unwrap_or(0);
                out.extend(char::from_u32(code));
                for _ in 1..digits {
                    chars.next();
                }
            }
            other => {
                out.push('\\');
                out.push(other);
            }
        }
    }
    Err((format!("this string has no closing {quote}"), 1))
}

fn number(rest: &str) -> Result<(Word, usize), (String, usize)> {
    let bytes = rest.as_bytes();
    let digit_at = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
    for (prefix, radix) in [("0x", 16), ("0X", 16), ("0o", 8), ("0O", 8), ("0b", 2), ("0B", 2)] {
        if let Some(digits) = rest.strip_prefix(prefix) {
            let length = digits.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(digits.len());
            let clean = digits[..length].replace('_', "");
            return match i64::from_str_radix(&clean, radix) {
                Ok(number) => Ok((Word::Literal(number.into()), 2 + length)),
                Err(_) => Err((format!("`{}` is not a number", &rest[..2 + length]), 2 + length)),
            };
        }
    }
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(|b| b.is_ascii_digit() || *b == b'_') {
            at += 1;
        }
        at
    };
    let mut end = digits(0);
    let mut float = false;
    if bytes.get(end) == Some(&b'.') && digit_at(end + 1) {
        float = true;
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        if digit_at(end + 1 + sign) {
            float = true;
            end = digits(end + 1 + sign);
        }
    }
    let clean = rest[..end].replace('_', "");
    let value = if float {
        clean.parse::<f64>().ok().and_then(Number::from_f64)
    } else {
        clean.parse::<i64>().map(Number::from).or_else(|_| clean.parse::<u64>().map(Number::from)).ok()
    };
    match value {
        Some(number) => Ok((Word::Literal(Value::Number(number)), end)),
        None => Err((format!("the number `{clean}` is too large"), end)),
    }
}
