//! Filters on text, paths and patterns.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use fancy_regex::{Captures, Regex, RegexBuilder};
use serde_json::Value;

use super::{Answer, Args, flag, needed, needed_text, text_or, whole};
use crate::template::error::TemplateError;
use crate::template::value::{Outcome, describe, fail, items, room, spelled, text as as_text, truth};

pub(super) fn call(name: &str, input: Value, args: Args) -> Answer {
    if matches!(name, "path_join" | "regex_search" | "splitext" | "safe" | "split" | "regex_findall") {
        return special(name, input, args);
    }
    let text = match name {
        "basename" | "dirname" | "comment" | "indent" | "truncate" => written(&input, name)?.to_string(),
        _ => spelled(&input),
    };
    let out = match name {
        "upper" => args.none(name).map(|()| text.to_uppercase())?,
        "lower" => args.none(name).map(|()| text.to_lowercase())?,
        "capitalize" => args.none(name).map(|()| capitalize(&text))?,
        "title" => args.none(name).map(|()| title(&text))?,
        "trim" => {
            let [chars] = args.bind(name, ["chars"])?;
            trim(&text, chars.as_ref().map(as_text).as_deref()).to_string()
        }
        "replace" => {
            let [old, new, count] = args.bind(name, ["old", "new", "count"])?;
            let (old, new) = (needed_text(old, name, "old")?, needed_text(new, name, "new")?);
            replace(&text, &old, &new, whole(count, name, "count", -1)?)?
        }
        "center" => {
            let [width] = args.bind(name, ["width"])?;
            let width = usize::try_from(whole(width, name, "width", 80)?).unwrap_or(0);
            room(width)?;
            let missing = width.saturating_sub(text.chars().count());
            // Python puts the odd space to the left when the width is odd, to the right otherwise.
            let left = missing / 2 + (missing & width & 1);
            format!("{}{text}{}", " ".repeat(left), " ".repeat(missing - left))
        }
        "indent" => {
            let [width, first, blank] = args.bind(name, ["width", "first", "blank"])?;
            indent(&text, width, flag(first, false), flag(blank, false))?
        }
        "truncate" => truncate(&text, args)?,
        "wordcount" => {
            args.none(name)?;
            return Ok(Some(
                text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()).count().into(),
            ));
        }
        "quote" => args.none(name).map(|()| quote(&as_text(&input)))?,
        "e" | "escape" => {
            args.none(name)?;
            text.replace('&', "&amp;")
                .replace('>', "&gt;")
                .replace('<', "&lt;")
                .replace('\'', "&#39;")
                .replace('"', "&#34;")
        }
        "urlencode" => args.none(name).and_then(|()| urlencode(&input))?,
        "format" => crate::template::format::percent(&text, &args.rest(name)?)?,
        "comment" => comment(&text, args)?,
        "b64encode" => {
            let [encoding] = args.bind(name, ["encoding"])?;
            utf8_only(encoding, name)?;
            STANDARD.encode(text)
        }
        "b64decode" => {
            let [encoding] = args.bind(name, ["encoding"])?;
            utf8_only(encoding, name)?;
            let clean: String = text.split_whitespace().collect();
            let bytes =
                STANDARD.decode(clean).map_err(|e| TemplateError::failed(format!("this is not base64: {e}")))?;
            String::from_utf8(bytes).map_err(|_| TemplateError::failed("what the base64 holds is not text (UTF-8)"))?
        }
        "basename" => args.none(name).map(|()| basename(&text).to_string())?,
        "dirname" => args.none(name).map(|()| dirname(&text))?,
        "regex_escape" => {
            let [re_type] = args.bind(name, ["re_type"])?;
            if text_or(re_type, "python") != "python" {
                return fail("`regex_escape` knows only the type `python`");
            }
            regex_escape(&text)
        }
        "regex_replace" => regex_replace(&text, args)?,
        other => return fail(format!("there is no filter `{other}`")),
    };
    room(out.len())?;
    Ok(Some(Value::String(out)))
}

fn special(name: &str, input: Value, args: Args) -> Answer {
    let value = match name {
        "safe" => args.none(name).map(|()| input)?,
        "split" => {
            let [sep, max] = args.bind(name, ["sep", "maxsplit"])?;
            split(written(&input, name)?, sep.as_ref(), whole(max, name, "maxsplit", -1)?)?
        }
        "splitext" => {
            args.none(name)?;
            let path = written(&input, name)?;
            let base = path.len() - basename(path).len();
            let stem_dots = path[base..].len() - path[base..].trim_start_matches('.').len();
            let cut = match path[base..].rfind('.') {
                Some(dot) if dot >= stem_dots && dot > 0 => base + dot,
                _ => path.len(),
            };
            Value::Array(vec![path[..cut].into(), path[cut..].into()])
        }
        "path_join" => {
            args.none(name)?;
            let parts = match input {
                Value::String(one) => vec![Value::String(one)],
                other => items(other)?,
            };
            let mut path = String::new();
            for part in parts {
                let part = written(&part, name)?;
                if part.starts_with('/') {
                    path.clear();
                } else if !path.is_empty() && !path.ends_with('/') {
                    path.push('/');
                }
                path.push_str(part);
            }
            Value::String(path)
        }
        "regex_findall" => {
            let [pattern, multiline, ignorecase] = args.bind(name, ["regex", "multiline", "ignorecase"])?;
            let regex = regex(&needed_text(pattern, name, "regex")?, flag(ignorecase, false), flag(multiline, false))?;
            let text = spelled(&input);
            let mut found = Vec::new();
            let mut matches = Matches::new(&regex, &text);
            while let Some(captures) = matches.next()? {
                found.push(match captures.len() {
                    1 => group(&captures, 0),
                    2 => group(&captures, 1),
                    many => Value::Array((1..many).map(|at| group(&captures, at)).collect()),
                });
            }
            Value::Array(found)
        }
        _ => return regex_search(&spelled(&input), args),
    };
    Ok(Some(value))
}

fn utf8_only(encoding: Option<Value>, what: &str) -> Result<(), TemplateError> {
    match text_or(encoding, "utf-8").to_lowercase().as_str() {
        "utf-8" | "utf8" => Ok(()),
        other => fail(format!("`{what}` knows only the encoding utf-8, not `{other}`")),
    }
}

pub(in crate::template) fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars.as_str().to_lowercase().chars()).collect(),
        None => String::new(),
    }
}

/// Jinja's: a word begins after white space, a dash or an opening bracket.
fn title(text: &str) -> String {
    let mut begin = true;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if begin {
            out.extend(c.to_uppercase());
        } else {
            out.extend(c.to_lowercase());
        }
        begin = c.is_whitespace() || "-({[<".contains(c);
    }
    out
}

pub(in crate::template) fn trim<'a>(text: &'a str, chars: Option<&str>) -> &'a str {
    match chars {
        Some(chars) => text.trim_matches(|c| chars.contains(c)),
        None => text.trim(),
    }
}

pub(in crate::template) fn replace(text: &str, old: &str, new: &str, count: i64) -> Result<String, TemplateError> {
    let times = if count < 0 { usize::MAX } else { usize::try_from(count).unwrap_or(usize::MAX) };
    let most = text.len() / old.len().max(1) + 1;
    room(text.len().saturating_add(most.min(times).saturating_mul(new.len())))?;
    Ok(text.replacen(old, new, times))
}

/// `str.split`: without a separator at any white space, with empty ends left out.
pub(in crate::template) fn split(text: &str, sep: Option<&Value>, most: i64) -> Outcome {
    let times = usize::try_from(most).map_or(usize::MAX, |most| most.saturating_add(1));
    let parts: Vec<Value> = match sep {
        None | Some(Value::Null) => {
            let mut parts = Vec::new();
            let mut rest = text.trim_start();
            while !rest.is_empty() {
                let end = if parts.len() + 1 == times {
                    rest.len()
                } else {
                    rest.find(char::is_whitespace).unwrap_or(rest.len())
                };
                parts.push(rest[..end].into());
                rest = rest[end..].trim_start();
            }
            parts
        }
        Some(Value::String(sep)) if !sep.is_empty() => text.splitn(times, sep.as_str()).map(Value::from).collect(),
        Some(Value::String(_)) => return fail("the separator to split at is empty"),
        Some(other) => return fail(format!("the separator to split at is text, not {}", describe(other))),
    };
    Ok(Value::Array(parts))
}

fn indent(text: &str, width: Option<Value>, first: bool, blank: bool) -> Result<String, TemplateError> {
    let pad = match width {
        Some(Value::String(pad)) => pad,
        width => " ".repeat(usize::try_from(whole(width, "indent", "width", 4)?.clamp(0, 1000)).unwrap_or(0)),
    };
    let lines = text.split('\n').count();
    room(text.len() + lines * pad.len())?;
    let mut out = String::with_capacity(text.len());
    for (at, line) in text.split('\n').enumerate() {
        if at > 0 {
            out.push('\n');
        }
        if (at > 0 || first) && (blank || !line.is_empty() || (at == 0 && first)) {
            out.push_str(&pad);
        }
        out.push_str(line);
    }
    Ok(out)
}

fn truncate(text: &str, args: Args) -> Result<String, TemplateError> {
    let [length, kill, end, leeway] = args.bind("truncate", ["length", "killwords", "end", "leeway"])?;
    let size = |value, name, default| {
        whole(value, "truncate", name, default).map(|n| usize::try_from(n.max(0)).unwrap_or(usize::MAX))
    };
    let (length, leeway) = (size(length, "length", 255)?, size(leeway, "leeway", 5)?);
    let end = text_or(end, "...");
    let count = text.chars().count();
    if count <= length.saturating_add(leeway) {
        return Ok(text.to_string());
    }
    let Some(keep) = length.checked_sub(end.chars().count()) else {
        return fail("`truncate` needs a length that has room for the end");
    };
    let cut: String = text.chars().take(keep).collect();
    let cut =
        if flag(kill, false) { cut.as_str() } else { cut.rsplit_once(' ').map_or(cut.as_str(), |(front, _)| front) };
    Ok(format!("{cut}{end}"))
}

/// One word for a POSIX shell, as Python's `shlex.quote` writes it.
fn quote(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "@%+=:,./-_".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_string();
    }
    format!("'{}'", text.replace('\'', "'\"'\"'"))
}

fn urlencode(input: &Value) -> Result<String, TemplateError> {
    let encode = |text: &str, safe: &str, space: &str| {
        text.bytes().fold(String::new(), |mut out, b| {
            if b.is_ascii_alphanumeric() || b"-_.~".contains(&b) || safe.as_bytes().contains(&b) {
                out.push(b as char);
            } else if b == b' ' {
                out.push_str(space);
            } else {
                out.push_str(&format!("%{b:02X}"));
            }
            out
        })
    };
    Ok(match input {
        Value::Object(map) => {
            let pair = |(key, value): (&String, &Value)| {
                format!("{}={}", encode(key, "", "+"), encode(&spelled(value), "", "+"))
            };
            map.iter().map(pair).collect::<Vec<_>>().join("&")
        }
        Value::Array(_) => return fail(format!("`urlencode` needs text or a mapping, not {}", describe(input))),
        other => encode(&spelled(other), "/", "%20"),
    })
}

/// A comment block: a line of decoration, the lines, a line of decoration.
fn comment(text: &str, mut args: Args) -> Result<String, TemplateError> {
    let named: Vec<Option<Value>> =
        ["decoration", "beginning", "end", "prefix", "prefix_count", "postfix", "postfix_count", "newline"]
            .iter()
            .map(|name| args.take(name))
            .collect();
    let [style] = args.bind("comment", ["style"])?;
    let (beginning, decoration, end) = match text_or(style, "plain").as_str() {
        "plain" => ("", "# ", ""),
        "erlang" => ("", "% ", ""),
        "c" => ("", "// ", ""),
        "cblock" => ("/*", " * ", " */"),
        "xml" => ("<!--", " - ", "-->"),
        other => {
            return fail(format!("there is no comment style `{other}`; known are plain, erlang, c, cblock and xml"));
        }
    };
    let mut named = named.into_iter();
    let mut next = || named.next().flatten();
    let decoration = text_or(next(), decoration);
    let beginning = text_or(next(), beginning);
    let end = text_or(next(), end);
    let edge = decoration.trim_end().to_string();
    let prefix = text_or(next(), &edge);
    let count = |value, name| whole(value, "comment", name, 1).map(|n| usize::try_from(n.clamp(0, 1000)).unwrap_or(0));
    let prefix_count = count(next(), "prefix_count")?;
    let postfix = text_or(next(), &edge);
    let postfix_count = count(next(), "postfix_count")?;
    let newline = text_or(next(), "\n");
    room(text.len().saturating_mul(decoration.len() + 1))?;
    let mut lines: Vec<String> = Vec::new();
    if !beginning.is_empty() {
        lines.push(beginning);
    }
    if !prefix.is_empty() {
        lines.extend(std::iter::repeat_n(prefix, prefix_count));
    }
    let split: Vec<&str> = if newline.is_empty() { vec![text] } else { text.split(newline.as_str()).collect() };
    let last = split.len().saturating_sub(1);
    for (at, line) in split.into_iter().enumerate() {
        let bare = line.is_empty() && at < last;
        lines.push(if bare { edge.clone() } else { format!("{decoration}{line}") });
    }
    lines.extend(std::iter::repeat_n(postfix, postfix_count));
    if !end.is_empty() {
        lines.push(end);
    }
    Ok(lines.join(&newline))
}

pub(in crate::template) fn basename(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or("")
}

fn dirname(path: &str) -> String {
    match path.rfind('/') {
        Some(at) => {
            let head = &path[..=at];
            let bare = head.trim_end_matches('/');
            if bare.is_empty() { head.to_string() } else { bare.to_string() }
        }
        None => String::new(),
    }
}

fn regex_escape(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        if "()[]{}?*+-|^$\\.&~# \t\n\r\u{b}\u{c}".contains(c) {
            out.push('\\');
        }
        out.push(c);
        out
    })
}

/// Compiled patterns, since the same ones are used for every host.
static PATTERNS: LazyLock<Mutex<HashMap<String, Arc<Regex>>>> = LazyLock::new(Mutex::default);

/// A pattern in Python's syntax, look-around and back-references included.
pub(in crate::template) fn regex(
    pattern: &str,
    ignore_case: bool,
    multiline: bool,
) -> Result<Arc<Regex>, TemplateError> {
    let flags = match (ignore_case, multiline) {
        (false, false) => "",
        (true, false) => "(?i)",
        (false, true) => "(?m)",
        (true, true) => "(?im)",
    };
    // Python's `\Z` is the very end of the text.
    let full = format!("{flags}{}", pattern.replace(r"\Z", r"\z"));
    let mut patterns = PATTERNS.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(known) = patterns.get(&full) {
        return Ok(Arc::clone(known));
    }
    if full.len() > 100_000 {
        return fail("the pattern is too long");
    }
    let compiled = RegexBuilder::new(&full)
        .backtrack_limit(200_000)
        .build()
        .map_err(|e| TemplateError::failed(format!("the pattern `{pattern}` can't be read: {e}")))?;
    if patterns.len() >= 256 {
        patterns.clear();
    }
    let compiled = Arc::new(compiled);
    patterns.insert(full, Arc::clone(&compiled));
    Ok(compiled)
}

pub(in crate::template) fn too_slow(error: &fancy_regex::Error) -> TemplateError {
    TemplateError::failed(format!("the pattern could not be matched: {error}"))
}

/// All matches as Python finds them: an empty one may stand right behind another.
struct Matches<'r, 't> {
    regex: &'r Regex,
    text: &'t str,
    at: usize,
    /// The last match was empty, so that the next must not be empty at the same place.
    empty: bool,
}

impl<'r, 't> Matches<'r, 't> {
    fn new(regex: &'r Regex, text: &'t str) -> Matches<'r, 't> {
        Matches { regex, text, at: 0, empty: false }
    }

    fn next(&mut self) -> Result<Option<Captures<'t, str>>, TemplateError> {
        while self.at <= self.text.len() {
            let found = self.regex.captures_from_pos(self.text, self.at).map_err(|e| too_slow(&e))?;
            let Some(captures) = found else { return Ok(None) };
            let Some(whole) = captures.get(0).map(|whole| whole.range()) else { return Ok(None) };
            if self.empty && whole.is_empty() && whole.start == self.at {
                let next = self.text.get(self.at..).and_then(|rest| rest.chars().next());
                self.at += next.map_or(1, char::len_utf8);
                self.empty = false;
                continue;
            }
            self.at = whole.end;
            self.empty = whole.is_empty();
            return Ok(Some(captures));
        }
        Ok(None)
    }
}

/// The text that a filter needs.
pub(super) fn written<'a>(value: &'a Value, name: &str) -> Result<&'a str, TemplateError> {
    value.as_str().ok_or_else(|| TemplateError::failed(format!("`{name}` needs text, not {}", describe(value))))
}

fn group(captures: &Captures<'_, str>, at: usize) -> Value {
    Value::from(captures.get(at).map_or("", |found| found.as_str()))
}

fn regex_search(text: &str, mut args: Args) -> Answer {
    let ignore = flag(args.take("ignorecase"), false);
    let multiline = flag(args.take("multiline"), false);
    let named = args.take("regex");
    let mut rest = args.rest("regex_search")?.into_iter();
    let pattern = needed_text(named.or_else(|| rest.next()), "regex_search", "regex")?;
    let regex = regex(&pattern, ignore, multiline)?;
    let Some(captures) = regex.captures(text).map_err(|e| too_slow(&e))? else { return Ok(Some(Value::Null)) };
    let groups: Vec<Value> = rest.collect();
    if groups.is_empty() {
        return Ok(Some(group(&captures, 0)));
    }
    let mut found = Vec::new();
    for wanted in groups {
        let wanted = as_text(&wanted);
        let name =
            wanted.strip_prefix("\\g<").and_then(|rest| rest.strip_suffix('>')).or_else(|| wanted.strip_prefix('\\'));
        let Some(name) = name else {
            return fail(format!("`regex_search` takes groups as `\\1` or `\\g<name>`, not `{wanted}`"));
        };
        let capture = match name.parse::<usize>() {
            Ok(at) if at < captures.len() => captures.get(at),
            Err(_) if regex.capture_names().flatten().any(|known| known == name) => captures.name(name),
            _ => return fail(format!("the pattern `{pattern}` has no group `{name}`")),
        };
        found.push(capture.map_or(Value::Null, |found| found.as_str().into()));
    }
    Ok(Some(Value::Array(found)))
}

fn regex_replace(text: &str, args: Args) -> Result<String, TemplateError> {
    let [pattern, replacement, ignore, multiline, count, mandatory] =
        args.bind("regex_replace", ["pattern", "replacement", "ignorecase", "multiline", "count", "mandatory_count"])?;
    let pattern = text_or(pattern, "");
    let replacement = needed(replacement.or(Some("".into())), "regex_replace", "replacement")?;
    let template = Replacement::read(&as_text(&replacement))?;
    let regex = regex(&pattern, ignore.is_some_and(|v| truth(&v)), multiline.is_some_and(|v| truth(&v)))?;
    let most = match whole(count, "regex_replace", "count", 0)? {
        n if n > 0 => usize::try_from(n).unwrap_or(usize::MAX),
        _ => usize::MAX,
    };
    let mandatory = whole(mandatory, "regex_replace", "mandatory_count", 0)?;
    let mut out = String::new();
    let mut from = 0;
    let mut done = 0i64;
    let mut matches = Matches::new(&regex, text);
    for _ in 0..most {
        let Some(captures) = matches.next()? else { break };
        let Some(whole) = captures.get(0) else { continue };
        out.push_str(text.get(from..whole.start()).unwrap_or(""));
        template.write(&captures, &pattern, &mut out)?;
        room(out.len())?;
        from = whole.end();
        done += 1;
    }
    if done < mandatory {
        return fail(format!("`{pattern}` was found {done} times, `mandatory_count` is {mandatory}"));
    }
    out.push_str(text.get(from..).unwrap_or(""));
    Ok(out)
}

/// Python's replacement text: `\1`, `\g<name>`, `\n`.
struct Replacement(Vec<Part>);

enum Part {
    Text(String),
    Group(usize),
    Named(String),
}

impl Replacement {
    fn read(text: &str) -> Result<Replacement, TemplateError> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('\\') {
            plain.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let Some(c) = rest.chars().next() else {
                return fail("the replacement ends with a single backslash");
            };
            if let Some(after) = rest.strip_prefix("g<") {
                let Some((name, after)) = after.split_once('>') else {
                    return fail("a `\\g<` in the replacement has no `>`");
                };
                parts.push(Part::Text(std::mem::take(&mut plain)));
                parts.push(name.parse().map_or_else(|_| Part::Named(name.to_string()), Part::Group));
                rest = after;
                continue;
            }
            if c.is_ascii_digit() && c != '0' {
                let digits = rest.bytes().take(2).take_while(u8::is_ascii_digit).count();
                parts.push(Part::Text(std::mem::take(&mut plain)));
                parts.push(Part::Group(rest[..digits].parse().unwrap_or(0)));
                rest = &rest[digits..];
                continue;
            }
            match c {
                'n' => plain.push('\n'),
                't' => plain.push('\t'),
                'r' => plain.push('\r'),
                '\\' => plain.push('\\'),
                c if c.is_ascii_alphanumeric() => return fail(format!("`\\{c}` has no meaning in a replacement")),
                c => plain.extend(['\\', c]),
            }
            rest = &rest[c.len_utf8()..];
        }
        plain.push_str(rest);
        parts.push(Part::Text(plain));
        Ok(Replacement(parts))
    }

    fn write(&self, captures: &Captures<'_, str>, pattern: &str, out: &mut String) -> Result<(), TemplateError> {
        for part in &self.0 {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Group(at) if *at >= captures.len() => {
                    return fail(format!("the pattern `{pattern}` has no group {at}"));
                }
                Part::Group(at) => out.push_str(captures.get(*at).map_or("", |found| found.as_str())),
                Part::Named(name) => out.push_str(captures.name(name).map_or("", |found| found.as_str())),
            }
        }
        Ok(())
    }
}
