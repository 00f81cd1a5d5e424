//! A template as text, outputs and tags, with Jinja's rules for white space as Ansible sets them: the newline behind a
//! tag goes (`trim_blocks`), the one at the end of the file stays.

use std::ops::Range;

use super::ast::Expr;
use super::error::TemplateError;
use super::parse::Parser;
use super::token::{Backslash, Tokens, tokens};
use crate::diag::nearest;

/// A part of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    Text(String),
    Output(Expr),
    Tag(Tag, Range<usize>),
}

/// What stands in `{% … %}`.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Tag {
    If(Expr),
    Elif(Expr),
    Else,
    EndIf,
    /// `for a, b in target if filter`
    For {
        names: Vec<String>,
        target: Expr,
        filter: Option<Expr>,
    },
    EndFor,
    Set(String, Expr),
    /// `{% set x %}…{% endset %}`
    Capture(String),
    EndSet,
}

/// Jinja's tags, with those that are known and not supported, so that the message can say so.
const TAGS: [&str; 10] = ["if", "elif", "else", "endif", "for", "endfor", "set", "endset", "raw", "endraw"];
const LEFT_OUT: [&str; 18] = [
    "include",
    "import",
    "from",
    "extends",
    "block",
    "endblock",
    "macro",
    "endmacro",
    "call",
    "endcall",
    "filter",
    "endfilter",
    "do",
    "with",
    "endwith",
    "autoescape",
    "break",
    "continue",
];

/// How white space around tags is treated; a file may say it in its first line: `#jinja2: lstrip_blocks: True`.
#[derive(Clone, Copy)]
struct Space {
    trim_blocks: bool,
    lstrip_blocks: bool,
}

impl Space {
    const ANSIBLE: Space = Space { trim_blocks: true, lstrip_blocks: false };
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    origin: Origin,
    space: Space,
    pieces: Vec<Piece>,
    /// `-%}` was read: the white space that follows goes.
    strip: bool,
    /// A tag ended: one newline goes.
    newline: bool,
}

/// Where a template comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A text in YAML.
    Yaml,
    /// A file of its own.
    File,
}

/// Takes a template apart.
pub(super) fn pieces(text: &str, origin: Origin) -> Result<Vec<Piece>, TemplateError> {
    let (space, start) = if origin == Origin::File { header(text)? } else { (Space::ANSIBLE, 0) };
    let mut reader = Reader { text, at: start, origin, space, pieces: Vec::new(), strip: false, newline: false };
    reader.read()?;
    nesting(&reader.pieces)?;
    Ok(reader.pieces)
}

/// The `#jinja2:` line that may open a file.
fn header(text: &str) -> Result<(Space, usize), TemplateError> {
    let mut space = Space::ANSIBLE;
    let Some(rest) = text.strip_prefix("#jinja2:") else { return Ok((space, 0)) };
    let line = rest.split('\n').next().unwrap_or("");
    for setting in line.trim_end().split(',') {
        let (key, value) = setting.split_once(':').unwrap_or((setting, ""));
        let value = match value.trim() {
            "True" | "true" => Some(true),
            "False" | "false" => Some(false),
            _ => None,
        };
        match (key.trim(), value) {
            ("trim_blocks", Some(value)) => space.trim_blocks = value,
            ("lstrip_blocks", Some(value)) => space.lstrip_blocks = value,
            _ => {
                let message = format!("`{}` is not supported in a `#jinja2:` line", setting.trim());
                return Err(TemplateError::Syntax {
                    message,
                    help: Some("known are `trim_blocks: True|False` and `lstrip_blocks: True|False`".into()),
                    offset: Some(0..8 + line.len()),
                });
            }
        }
    }
    Ok((space, (8 + line.len() + 1).min(text.len())))
}

impl Reader<'_> {
    fn read(&mut self) -> Result<(), TemplateError> {
        while let Some(rest) = self.text.get(self.at..).filter(|rest| !rest.is_empty()) {
            let mark = find_mark(rest);
            let (length, mark) = mark.map_or((rest.len(), None), |(at, mark)| (at, Some(mark)));
            let text = &rest[..length];
            let start = self.at + length;
            let sign = mark.and_then(|_| self.text.get(start + 2..)).and_then(|after| after.chars().next());
            let strip_end = sign == Some('-');
            let lstrip = self.space.lstrip_blocks && sign != Some('+') && matches!(mark, Some("{%" | "{#"));
            self.push_text(text, strip_end, lstrip);
            let Some(mark) = mark else { return Ok(()) };
            let skip = if matches!(sign, Some('-' | '+')) && (mark != "{{" || sign == Some('-')) { 3 } else { 2 };
            self.at = start + skip;
            match mark {
                "{{" => {
                    let backslash = if self.origin == Origin::Yaml { Backslash::Plain } else { Backslash::Escape };
                    let read = tokens(self.text, self.at, Some("}}"), backslash)?;
                    let mut parser = Parser::new(&read.tokens, read.end - 2);
                    let expr = parser.tuple()?;
                    parser.end()?;
                    self.pieces.push(Piece::Output(expr));
                    self.close(&read, false);
                }
                "{%" => {
                    if let Some(body) = self.raw()? {
                        self.push_raw(body);
                        continue;
                    }
                    let read = tokens(self.text, self.at, Some("%}"), Backslash::Escape)?;
                    let tag = tag(&read, start)?;
                    self.pieces.push(Piece::Tag(tag, start..read.end));
                    self.close(&read, true);
                }
                _ => {
                    let Some(length) = self.text.get(self.at..).and_then(|rest| rest.find("#}")) else {
                        return Err(TemplateError::syntax("this `{#` has no `#}`", start..start + 2));
                    };
                    let before = self.text[self.at..self.at + length].chars().next_back();
                    self.at += length + 2;
                    self.strip = before == Some('-');
                    self.newline = self.space.trim_blocks && before != Some('+');
                }
            }
        }
        Ok(())
    }

    fn close(&mut self, read: &Tokens, tag: bool) {
        self.at = read.end;
        self.strip = read.mark == Some('-');
        self.newline = tag && self.space.trim_blocks && read.mark != Some('+');
    }

    fn push_text(&mut self, mut text: &str, strip_end: bool, lstrip: bool) {
        if self.strip {
            text = text.trim_start();
        } else if self.newline {
            text = text.strip_prefix('\n').or_else(|| text.strip_prefix("\r\n")).unwrap_or(text);
        }
        (self.strip, self.newline) = (false, false);
        if strip_end {
            text = text.trim_end();
        } else if lstrip {
            let bare = text.trim_end_matches([' ', '\t']);
            // Only where the tag is the first thing on its line.
            let first = bare.ends_with('\n') || (bare.is_empty() && self.pieces.is_empty());
            text = if first { bare } else { text };
        }
        self.push_raw(text.to_string());
    }

    fn push_raw(&mut self, text: String) {
        match self.pieces.last_mut() {
            _ if text.is_empty() => {}
            Some(Piece::Text(before)) => before.push_str(&text),
            _ => self.pieces.push(Piece::Text(text)),
        }
    }

    /// `{% raw %}…{% endraw %}`, if that is what stands here.
    fn raw(&mut self) -> Result<Option<String>, TemplateError> {
        let rest = &self.text[self.at..];
        let Some((open, strip_start)) = end_of_tag(rest, "raw") else { return Ok(None) };
        let body_start = self.at + open;
        let mut search = body_start;
        while let Some(found) = self.text[search..].find("{%") {
            let mut inner = search + found + 2;
            let strip_end = self.text[inner..].starts_with('-');
            inner += usize::from(strip_end || self.text[inner..].starts_with('+'));
            if let Some((close, strip_after)) = end_of_tag(&self.text[inner..], "endraw") {
                let mut body = &self.text[body_start..search + found];
                if strip_start == Some('-') {
                    body = body.trim_start();
                }
                if strip_end {
                    body = body.trim_end();
                }
                let body = body.to_string();
                self.at = inner + close;
                self.strip = strip_after == Some('-');
                self.newline = self.space.trim_blocks && strip_after != Some('+');
                return Ok(Some(body));
            }
            search = inner;
        }
        Err(TemplateError::syntax("this `{% raw %}` has no `{% endraw %}`", self.at.saturating_sub(2)..body_start))
    }
}

/// The next `{{`, `{%` or `{#`.
fn find_mark(text: &str) -> Option<(usize, &'static str)> {
    let bytes = text.as_bytes();
    bytes.windows(2).enumerate().find_map(|(at, pair)| match pair {
        b"{{" => Some((at, "{{")),
        b"{%" => Some((at, "{%")),
        b"{#" => Some((at, "{#")),
        _ => None,
    })
}

/// ` name -%}`: its length and the sign before the end.
fn end_of_tag(text: &str, name: &str) -> Option<(usize, Option<char>)> {
    let rest = text.trim_start().strip_prefix(name)?.trim_start();
    let (sign, rest) = match rest.chars().next() {
        Some(sign @ ('-' | '+')) => (Some(sign), &rest[1..]),
        _ => (None, rest),
    };
    let rest = rest.strip_prefix("%}")?;
    Some((text.len() - rest.len(), sign))
}

fn tag(read: &Tokens, start: usize) -> Result<Tag, TemplateError> {
    let mut parser = Parser::new(&read.tokens, read.end - 2);
    let place = parser.here();
    let tag = if parser.take_word("if") {
        Tag::If(parser.tuple()?)
    } else if parser.take_word("elif") {
        Tag::Elif(parser.tuple()?)
    } else if parser.take_word("else") {
        Tag::Else
    } else if parser.take_word("endif") {
        Tag::EndIf
    } else if parser.take_word("endfor") {
        Tag::EndFor
    } else if parser.take_word("endset") {
        Tag::EndSet
    } else if parser.take_word("for") {
        return a_loop(parser);
    } else if parser.take_word("set") {
        return set(parser);
    } else {
        let (name, range) = parser.name().map_err(|error| error.at(&(start..read.end)))?;
        let left_out = LEFT_OUT.contains(&name.as_str());
        let message =
            if left_out { format!("the tag `{name}` is not supported") } else { format!("there is no tag `{name}`") };
        let near = if left_out { None } else { nearest(&name, TAGS) };
        return Err(TemplateError::Syntax {
            message,
            help: near.map(|near| format!("did you mean `{near}`?")),
            offset: Some(range),
        });
    };
    parser.end().map_err(|error| error.at(&place))?;
    Ok(tag)
}

fn a_loop(mut parser: Parser<'_>) -> Result<Tag, TemplateError> {
    let mut names = Vec::new();
    let bracket = parser.take_sign("(");
    loop {
        let (name, range) = parser.name()?;
        if name == "loop" {
            return Err(TemplateError::syntax("`loop` can't be the name of a loop's variable", range));
        }
        names.push(name);
        if !parser.take_sign(",") {
            break;
        }
    }
    if bracket && !parser.take_sign(")") {
        return Err(parser.wrong("`)`"));
    }
    if !parser.take_word("in") {
        return Err(parser.wrong("`in`"));
    }
    let target = parser.or()?;
    let filter = if parser.take_word("if") { Some(parser.or()?) } else { None };
    let recursive = parser.here();
    if parser.take_word("recursive") {
        return Err(TemplateError::syntax("recursive loops are not supported", recursive));
    }
    parser.end()?;
    Ok(Tag::For { names, target, filter })
}

fn set(mut parser: Parser<'_>) -> Result<Tag, TemplateError> {
    let (name, range) = parser.name()?;
    let after = parser.here();
    if parser.take_sign(".") {
        return Err(TemplateError::syntax(
            "only a plain name can be set, not a part of a value",
            range.start..after.end,
        ));
    }
    if parser.take_sign(",") {
        return Err(TemplateError::syntax("only one name can be set at a time", range.start..after.end));
    }
    if parser.take_sign("=") {
        let value = parser.tuple()?;
        parser.end()?;
        return Ok(Tag::Set(name, value));
    }
    if parser.take_sign("|") {
        return Err(TemplateError::syntax("filters on a `set` block are not supported", after));
    }
    parser.end()?;
    Ok(Tag::Capture(name))
}

/// Every `if`, `for` and `set` block closed, in order.
fn nesting(pieces: &[Piece]) -> Result<(), TemplateError> {
    let mut open: Vec<(&'static str, &Range<usize>, bool)> = Vec::new();
    for piece in pieces {
        let Piece::Tag(tag, range) = piece else { continue };
        let closes = |open: &mut Vec<(&'static str, &Range<usize>, bool)>, what: &str, with: &str| match open.pop() {
            Some((kind, _, _)) if kind == what => Ok(()),
            Some((kind, place, _)) => Err(TemplateError::syntax(
                format!("`{with}` stands where this `{kind}` is still open"),
                (*place).clone(),
            )),
            None => Err(TemplateError::syntax(format!("`{with}` closes nothing"), range.clone())),
        };
        match tag {
            Tag::If(_) => open.push(("if", range, false)),
            Tag::For { .. } => open.push(("for", range, false)),
            Tag::Capture(_) => open.push(("set", range, false)),
            Tag::EndIf => closes(&mut open, "if", "endif")?,
            Tag::EndFor => closes(&mut open, "for", "endfor")?,
            Tag::EndSet => closes(&mut open, "set", "endset")?,
            Tag::Elif(_) | Tag::Else => match open.last_mut() {
                Some((kind @ ("if" | "for"), _, otherwise))
                    if !*otherwise && (*kind == "if" || matches!(tag, Tag::Else)) =>
                {
                    *otherwise = matches!(tag, Tag::Else);
                }
                _ => {
                    let word = if matches!(tag, Tag::Else) { "else" } else { "elif" };
                    return Err(TemplateError::syntax(format!("`{word}` belongs to no `if`"), range.clone()));
                }
            },
            Tag::Set(..) => {}
        }
        if open.len() > 30 {
            return Err(TemplateError::syntax("the tags are nested too deeply", range.clone()));
        }
    }
    match open.last() {
        Some((kind, place, _)) => {
            Err(TemplateError::syntax(format!("this `{kind}` has no `end{kind}`"), (*place).clone()))
        }
        None => Ok(()),
    }
}
