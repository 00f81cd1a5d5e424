//! Regular expressions as Ansible's users write them, that is Python's, for the `regex` crate.
//!
//! Differences that only look different are translated; what `regex` can't do (look-around, back-references inside a
//! pattern) is an error that says so.

use regex::bytes::{Captures, Regex, RegexBuilder};

use crate::host::{Error, Result};

/// Compiles a pattern; `parameter` is its name in messages.
pub fn compile(parameter: &str, pattern: &str) -> Result<Regex> {
    build(parameter, pattern, |builder| builder)
}

/// Likewise, with `^` and `$` at every line.
pub fn compile_multi_line(parameter: &str, pattern: &str) -> Result<Regex> {
    build(parameter, pattern, |builder| builder.multi_line(true))
}

/// Likewise, with a dot that matches the end of a line too.
pub fn compile_dot_all(parameter: &str, pattern: &str) -> Result<Regex> {
    build(parameter, pattern, |builder| builder.dot_matches_new_line(true))
}

fn build(parameter: &str, pattern: &str, set: fn(&mut RegexBuilder) -> &mut RegexBuilder) -> Result<Regex> {
    let mut builder = RegexBuilder::new(&translate(pattern));
    set(&mut builder).build().map_err(|error| {
        let text = error.to_string();
        let why = text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_string();
        Error::parameters(format!("`{parameter}`: `{pattern}` is not a regular expression that works here: {why}"))
            .hint("look-around and back-references inside a pattern are not supported; other syntax is as in Python")
    })
}

/// The same pattern as the `regex` crate reads it, `^` and `$` at every line; checked.
pub fn rust(parameter: &str, pattern: &str) -> Result<String> {
    compile_multi_line(parameter, pattern)?;
    Ok(format!("(?m){}", translate(pattern)))
}

/// Python's syntax to that of the `regex` crate.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut chars = pattern.char_indices().peekable();
    // `Some(n)` inside a class, with n characters of it read.
    let mut class: Option<usize> = None;
    while let Some((at, c)) = chars.next() {
        let rest = pattern.get(at + c.len_utf8()..).unwrap_or("");
        if let Some(read) = class.as_mut() {
            let first = *read == 0;
            if !(first && c == '^') {
                *read += 1;
            }
            match c {
                '\\' => escape(&mut out, chars.next().map(|(_, c)| c)),
                ']' if !first => {
                    out.push(']');
                    class = None;
                }
                ']' => out.push_str("\\]"),
                // The crate has classes in classes and set operators, Python does not.
                '[' => out.push_str("\\["),
                '&' | '~' => {
                    out.push('\\');
                    out.push(c);
                }
                // `--` is an operator too: here it is a range that begins or ends with a dash.
                '-' if rest.starts_with('-') && first => out.push_str("\\-"),
                '-' if rest.starts_with('-') => {
                    chars.next();
                    *read += 1;
                    out.push_str("-\\-");
                }
                _ => out.push(c),
            }
            continue;
        }
        match c {
            '\\' => escape(&mut out, chars.next().map(|(_, c)| c)),
            '[' => {
                out.push('[');
                class = Some(0);
            }
            '{' => match quantifier(rest) {
                Some((text, length)) => {
                    out.push_str(&text);
                    for _ in 0..length {
                        chars.next();
                    }
                }
                None => out.push_str("\\{"),
            },
            _ => out.push(c),
        }
    }
    out
}

fn escape(out: &mut String, escaped: Option<char>) {
    match escaped {
        None => out.push('\\'),
        // The end of the text, and two characters that mean something to the crate only when escaped.
        Some('Z') => out.push_str("\\z"),
        Some(c @ ('<' | '>')) => out.push(c),
        Some(c) if !c.is_ascii() => out.push(c),
        Some(c) => {
            out.push('\\');
            out.push(c);
        }
    }
}

/// `{2}`, `{2,}`, `{2,3}`, `{,3}` behind the brace: what to write, and how many characters it took. Any other brace is
/// itself, in Python.
fn quantifier(rest: &str) -> Option<(String, usize)> {
    let (inside, _) = rest.split_once('}')?;
    let (least, most) = inside.split_once(',').map_or((inside, None), |(least, most)| (least, Some(most)));
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let length = inside.len() + 1;
    match most {
        None if !least.is_empty() && number(least) => Some((format!("{{{least}}}"), length)),
        Some(most) if number(least) && number(most) && inside != "," => {
            let least = if least.is_empty() { "0" } else { least };
            Some((format!("{{{least},{most}}}"), length))
        }
        _ => None,
    }
}

/// A replacement with `\1`, `\g<1>` and `\g<name>` in it.
pub struct Replacement(Vec<Part>);

enum Part {
    Literal(Vec<u8>),
    Numbered(usize),
    Named(String),
}

impl Replacement {
    /// Reads a replacement for this pattern; `parameter` is its name in messages.
    pub fn parse(parameter: &str, text: &str, pattern: &Regex) -> Result<Replacement> {
        let wrong = |why: String| Error::parameters(format!("`{parameter}`: {why}"));
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find('\\') {
            let (before, behind) = rest.split_at(at);
            literal.extend(before.bytes());
            let behind = behind.get(1..).unwrap_or("");
            let Some(c) = behind.chars().next() else {
                return Err(wrong("it ends with a single backslash".into()));
            };
            let mut used = c.len_utf8();
            let part = match c {
                '1'..='9' => {
                    used = behind.bytes().take(2).take_while(u8::is_ascii_digit).count();
                    Part::Numbered(behind.get(..used).and_then(|digits| digits.parse().ok()).unwrap_or(0))
                }
                'g' => {
                    let inside =
                        behind.get(1..).and_then(|text| text.strip_prefix('<')).and_then(|text| text.split_once('>'));
                    let Some((name, _)) = inside else {
                        return Err(wrong(
                            "`\\g` must be followed by a group in angle brackets, such as `\\g<1>`".into(),
                        ));
                    };
                    used = name.len() + 3;
                    name.parse().map_or_else(|_| Part::Named(name.to_string()), Part::Numbered)
                }
                'n' => Part::Literal(b"\n".to_vec()),
                't' => Part::Literal(b"\t".to_vec()),
                'r' => Part::Literal(b"\r".to_vec()),
                '\\' => Part::Literal(b"\\".to_vec()),
                c if c.is_ascii_alphanumeric() => {
                    return Err(wrong(format!(
                        "`\\{c}` means nothing in a replacement; a backslash itself is written twice"
                    )));
                }
                c => Part::Literal(format!("\\{c}").into_bytes()),
            };
            let known = match &part {
                Part::Literal(_) => true,
                Part::Numbered(number) => *number < pattern.captures_len(),
                Part::Named(name) => pattern.capture_names().flatten().any(|known| known == name),
            };
            if !known {
                let shown = behind.get(..used).unwrap_or(behind);
                return Err(wrong(format!("`\\{shown}` names a group that `{}` does not have", pattern.as_str())));
            }
            if let Part::Literal(bytes) = part {
                literal.extend(bytes);
            } else {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
                parts.push(part);
            }
            rest = behind.get(used..).unwrap_or("");
        }
        literal.extend(rest.bytes());
        parts.push(Part::Literal(literal));
        Ok(Replacement(parts))
    }

    /// What it is for one match; a group that took no part in it is empty.
    pub fn expand(&self, found: &Captures<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        for part in &self.0 {
            match part {
                Part::Literal(bytes) => out.extend(bytes),
                Part::Numbered(number) => out.extend(found.get(*number).map_or(&b""[..], |group| group.as_bytes())),
                Part::Named(name) => out.extend(found.name(name).map_or(&b""[..], |group| group.as_bytes())),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, text: &str) -> bool {
        compile("regexp", pattern).unwrap().is_match(text.as_bytes())
    }

    #[test]
    fn what_python_takes_literally_is_literal() {
        assert!(matches("^a{b$", "a{b"));
        assert!(matches("^{{ x }}$", "{{ x }}"));
        assert!(matches("^a{,2}$", "aa") && !matches("^a{,2}$", "aaa"));
        assert!(matches(r"^\<b\>$", "<b>"));
        assert!(matches("^[[]section[]]$", "[section]"));
        assert!(matches("^[]x]$", "]") && matches("^[^]x]$", "y"));
        assert!(matches("^[a&&b]$", "&") && matches("^[+--]$", ",") && matches("^[--a]$", "A"));
        assert!(matches(r"end\Z", "the end") && !matches(r"end\Z", "end."));
        assert!(matches(r"^\s*#?\s*GRUB_CMDLINE_LINUX=", "# GRUB_CMDLINE_LINUX=\"\""));
        assert!(matches(r#"^a\"b\/c\-d\@"#, "a\"b/c-d@"));
    }

    #[test]
    fn what_is_not_supported_says_so() {
        let error = compile("regexp", "(?!x)a").unwrap_err();
        assert!(
            error.message.contains("`regexp`: `(?!x)a` is not a regular expression that works here: look-around"),
            "{error}"
        );
    }

    #[test]
    fn replacements_expand_groups() {
        let pattern = compile("regexp", r"(\w+)=(?P<value>\w*)(!)?").unwrap();
        let expand = |text: &str| {
            let found = pattern.captures(b"key=val").unwrap();
            Replacement::parse("line", text, &pattern).map(|r| String::from_utf8(r.expand(&found)).unwrap())
        };
        assert_eq!(expand(r"\1:\g<value>\3\g<2>\\\n\.").unwrap(), "key:valval\\\n\\.");
        assert!(expand(r"\4").unwrap_err().message.contains("does not have"));
        assert!(expand(r"\g<other>").is_err() && expand("x\\").is_err() && expand(r"\q").is_err());
    }

    proptest! {
        #[test]
        fn nothing_panics(pattern in ".{0,20}", text in ".{0,20}") {
            if let Ok(regex) = compile("regexp", &pattern) {
                let _ = Replacement::parse("line", &text, &regex);
            }
        }

        #[test]
        fn a_text_without_special_characters_matches_itself(text in "[a-z0-9 {}<>=/,@&~-]{1,20}") {
            prop_assume!(quantifier(text.split_once('{').map_or("", |(_, rest)| rest)).is_none() && !text.contains('{'));
            prop_assert!(matches(&text, &text));
        }
    }
}
