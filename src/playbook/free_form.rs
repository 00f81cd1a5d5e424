//! Parameters in one string: `src=a dest="b c"`, and `make -j creates=/x` for the modules that take a command.

/// One word of a free form, as it was written.
struct Word {
    /// Everything in front of the first `=` that stands outside of quotes and templates.
    key: Option<String>,
    /// What follows it, quotes taken off; the whole word if there is no key.
    value: String,
    /// Where the word begins and ends in the text.
    range: std::ops::Range<usize>,
}

/// Cuts at blanks outside of quotes and templates.
///
/// # Errors
/// What is never closed.
fn words(text: &str) -> Result<Vec<Word>, String> {
    let mut words = Vec::new();
    let mut chars = text.char_indices().peekable();
    while let Some((start, c)) = chars.peek().copied() {
        if c.is_whitespace() {
            chars.next();
            continue;
        }
        let (mut key, mut value) = (None, String::new());
        let mut end = text.len();
        let mut quote: Option<char> = None;
        let mut braces = 0usize;
        while let Some((at, c)) = chars.peek().copied() {
            if quote.is_none() && braces == 0 && c.is_whitespace() {
                end = at;
                break;
            }
            chars.next();
            let next = chars.peek().map(|(_, next)| *next);
            match (c, quote) {
                ('{', _) if matches!(next, Some('{' | '%')) => {
                    braces += 1;
                    value.push(c);
                    value.extend(next);
                    chars.next();
                    continue;
                }
                ('}', _) if next == Some('}') && braces > 0 => {
                    braces -= 1;
                    value.push(c);
                    chars.next();
                }
                ('%', _) if next == Some('}') && braces > 0 => {
                    braces -= 1;
                    value.push(c);
                    chars.next();
                    value.push('}');
                    continue;
                }
                _ if braces > 0 => {}
                ('\\', _) if matches!(next, Some('"' | '\'' | '\\')) => {
                    value.extend(next);
                    chars.next();
                    continue;
                }
                ('"' | '\'', None) => {
                    quote = Some(c);
                    continue;
                }
                (_, Some(open)) if c == open => {
                    quote = None;
                    continue;
                }
                ('=', None) if key.is_none() && !value.is_empty() => {
                    key = Some(std::mem::take(&mut value));
                    continue;
                }
                _ => {}
            }
            value.push(c);
        }
        if let Some(open) = quote {
            return Err(format!("the quote {open} is never closed"));
        }
        if braces > 0 {
            return Err("a template is never closed".to_string());
        }
        words.push(Word { key, value, range: start..end });
    }
    Ok(words)
}

/// All of it as `key=value`.
///
/// # Errors
/// A word that is none, or something that is never closed.
pub fn pairs(text: &str) -> Result<Vec<(String, String)>, String> {
    words(text)?
        .into_iter()
        .map(|word| match word.key {
            Some(key) => Ok((key, word.value)),
            None => Err(format!("`{}` is not `key=value`", word.value)),
        })
        .collect()
}

/// A command, with those `key=value` words taken out whose keys are known. The rest keeps its bytes.
///
/// A command that is not closed by our rules (a shell has others) is all command.
pub fn command(text: &str, known: impl Fn(&str) -> bool) -> (String, Vec<(String, String)>) {
    let Ok(words) = words(text) else { return (text.to_string(), Vec::new()) };
    let (mut rest, mut pairs, mut at) = (String::new(), Vec::new(), 0);
    for word in words {
        if let Some(key) = word.key
            && known(&key)
        {
            rest.push_str(text.get(at..word.range.start).unwrap_or_default());
            at = word.range.end;
            pairs.push((key, word.value));
        }
    }
    rest.push_str(text.get(at..).unwrap_or_default());
    let rest = if pairs.is_empty() { rest } else { rest.trim().to_string() };
    (rest, pairs)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(text: &str) -> Vec<String> {
        pairs(text).unwrap_or_default().into_iter().map(|(key, value)| format!("{key}|{value}")).collect()
    }

    #[test]
    fn quotes_and_templates_hold_together() {
        assert_eq!(shown("src=a dest=\"b c\""), ["src|a", "dest|b c"]);
        assert_eq!(shown("a='x \"y\"'  b=x'y z'"), ["a|x \"y\"", "b|xy z"]);
        assert_eq!(shown("a={{ b | default('x y') }}/c d=e=f"), ["a|{{ b | default('x y') }}/c", "d|e=f"]);
        assert_eq!(shown("a={% if x %}1{% endif %} b=2"), ["a|{% if x %}1{% endif %}", "b|2"]);
        assert_eq!(shown(r#"a="say \"hi\"" b=\\"#), ["a|say \"hi\"", r"b|\"]);
        assert_eq!(shown("a="), ["a|"]);
    }

    #[test]
    fn what_is_no_pair_is_named() {
        assert_eq!(pairs("src=a dest"), Err("`dest` is not `key=value`".to_string()));
        assert!(pairs("src=\"a").is_err_and(|e| e.contains("never closed")));
        assert!(pairs("src={{ a").is_err_and(|e| e.contains("never closed")));
    }

    #[test]
    fn a_command_keeps_its_bytes() {
        let known = |key: &str| ["creates", "chdir"].contains(&key);
        let (rest, pairs) = command("echo  \"a  b\" x=1 creates=/tmp/x chdir='/a b'", known);
        assert_eq!(rest, "echo  \"a  b\" x=1");
        assert_eq!(pairs, [("creates".to_string(), "/tmp/x".to_string()), ("chdir".to_string(), "/a b".to_string())]);
        assert_eq!(command(" it's ", known), (" it's ".to_string(), Vec::new()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn never_panics(text in "[a=\"'\\\\ {}%ä]{0,30}") {
            let _ = pairs(&text);
            let (rest, taken) = command(&text, |key| key == "a");
            prop_assert!(!taken.is_empty() || rest == text);
        }
    }
}
