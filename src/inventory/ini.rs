//! INI inventories: sections `[group]`, `[group:children]` and `[group:vars]`.

use std::sync::Arc;

use super::{ALL, Builder, UNGROUPED, Variable, literal, names};
use crate::diag::{Diagnostic, Source, Span, nearest};

/// What the lines of a section are.
#[derive(Clone, Copy)]
enum Section {
    Hosts(usize),
    Children(usize),
    Vars(usize),
    /// A section whose head is wrong: its lines are not looked at.
    Unknown,
}

/// A group that a section speaks of before anything else does.
struct Mention {
    name: String,
    span: Span,
    what: &'static str,
}

/// Reads an INI inventory.
pub(super) fn read(builder: &mut Builder, source: &Arc<Source>) {
    let mut section = Section::Hosts(UNGROUPED);
    // Groups that have a section of their own here or were there before; the others must not only be mentioned.
    let mut declared: Vec<bool> = vec![true; builder.groups.len()];
    let mut mentions: Vec<Mention> = Vec::new();
    let mut start = 0;
    for line in source.text.split_inclusive('\n') {
        let here = start;
        start += line.len();
        let text = line.trim();
        let offset = here + (line.len() - line.trim_start().len());
        let span = Span::new(source, offset, offset + text.len());
        if text.is_empty() || text.starts_with(['#', ';']) {
            continue;
        }
        if text.starts_with('[') && is_head(text) {
            section = head(builder, text, &span, &mut declared, &mut mentions);
            continue;
        }
        match section {
            Section::Hosts(group) => host(builder, group, text, source, offset),
            Section::Children(group) => {
                let name = text.split(['#', ' ', '\t']).next().unwrap_or(text);
                let span = Span::new(source, offset, offset + name.len());
                if name.len() < text.len() && !text[name.len()..].trim_start().starts_with('#') {
                    let error = Diagnostic::error("a line of a `:children` section is the name of one group");
                    builder.errors.push(error.at(&Span::new(source, offset, offset + text.len())));
                    continue;
                }
                let child = builder.group(name);
                declared.resize(builder.groups.len(), false);
                mentions.push(Mention { name: name.to_string(), span: span.clone(), what: "a child" });
                builder.child(group, child, &span);
            }
            Section::Vars(group) => match text.split_once('=') {
                Some((name, value)) if !name.trim().is_empty() => {
                    let value = Arc::new(literal::value(value.trim()));
                    builder.group_var(group, name.trim(), Variable { value, span });
                }
                _ => builder.errors.push(
                    Diagnostic::error("a line of a `:vars` section is `name=value`")
                        .at(&span)
                        .help("hosts stand in the section of the group, without `:vars`"),
                ),
            },
            Section::Unknown => {}
        }
    }
    declared.resize(builder.groups.len(), false);
    for mention in mentions {
        let known =
            builder.groups.get_index_of(&mention.name).and_then(|at| declared.get(at)).copied().unwrap_or(false);
        if !known {
            let names = builder.groups.keys().zip(&declared).filter(|(_, declared)| **declared);
            let error =
                Diagnostic::error(format!("there is no group `{}`, named here as {}", mention.name, mention.what));
            let near = nearest(&mention.name, names.map(|(name, _)| name.as_str()));
            let help = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("a group needs a section of its own: `[{}]`", mention.name),
            };
            builder.errors.push(error.at(&mention.span).help(help));
        }
    }
}

/// `[name]`, maybe with a comment behind; but not a host such as `[::1]:22 a=b`.
fn is_head(text: &str) -> bool {
    match text.split_once(']') {
        Some((_, after)) => after.trim().is_empty() || after.trim_start().starts_with(['#', ';']),
        None => true,
    }
}

fn head(
    builder: &mut Builder,
    text: &str,
    span: &Span,
    declared: &mut Vec<bool>,
    mentions: &mut Vec<Mention>,
) -> Section {
    let Some((inner, _)) = text.strip_prefix('[').and_then(|rest| rest.split_once(']')) else {
        builder.errors.push(Diagnostic::error("this section has no `]`").at(span));
        return Section::Unknown;
    };
    let span = Span::new(&span.source, span.start + 1, span.start + 1 + inner.len());
    let (name, suffix) = match inner.split_once(':') {
        Some((name, suffix)) => (name.trim(), Some(suffix.trim())),
        None => (inner.trim(), None),
    };
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || "[,!&=".contains(c)) {
        builder.errors.push(Diagnostic::error(format!("`{name}` can't be the name of a group")).at(&span));
        return Section::Unknown;
    }
    let group = builder.group(name);
    declared.resize(builder.groups.len(), false);
    match suffix {
        Some("vars") => {
            mentions.push(Mention { name: name.to_string(), span, what: "a group with variables" });
            Section::Vars(group)
        }
        None | Some("children" | "hosts") => {
            if let Some(declared) = declared.get_mut(group) {
                *declared = true;
            }
            match suffix {
                Some("children") => Section::Children(group),
                _ if group == ALL => Section::Hosts(UNGROUPED),
                _ => Section::Hosts(group),
            }
        }
        Some(other) => {
            let error = Diagnostic::error(format!("a section can't end with `:{other}`")).at(&span);
            let error = match nearest(other, ["vars", "children", "hosts"]) {
                Some(near) => error.help(format!("did you mean `[{name}:{near}]`?")),
                None => error.help("known are `[group]`, `[group:children]` and `[group:vars]`"),
            };
            builder.errors.push(error);
            Section::Unknown
        }
    }
}

/// `name a=1 b="two words"  # comment`
fn host(builder: &mut Builder, group: usize, text: &str, source: &Arc<Source>, offset: usize) {
    let place = |from: usize, to: usize| Span::new(source, offset + from, offset + to);
    let words = match words(text) {
        Ok(words) => words,
        Err((message, at)) => {
            builder.errors.push(Diagnostic::error(message).at(&place(at, text.len())));
            return;
        }
    };
    let Some((first, rest)) = words.split_first() else { return };
    let mut vars: Vec<(String, Variable)> = Vec::new();
    for word in rest {
        match word.text.split_once('=') {
            Some((name, value)) if !name.is_empty() => {
                let value = Arc::new(literal::value(value));
                vars.push((name.to_string(), Variable { value, span: place(word.start, word.end) }));
            }
            _ => {
                let error = Diagnostic::error(format!("`{}` is not `name=value`", word.text));
                let error = error.at(&place(word.start, word.end));
                builder.errors.push(error.help("a value with spaces needs quotes: `name=\"a b\"`"));
            }
        }
    }
    let span = place(first.start, first.end);
    add(builder, group, &first.text, &vars, &span);
}

/// Adds the hosts of a name, with its ranges, its port and its variables.
pub(super) fn add(builder: &mut Builder, group: usize, name: &str, vars: &[(String, Variable)], span: &Span) {
    let read = names::port(name).and_then(|(name, port)| Ok((checked(name)?, port)));
    let (hosts, port) = match read {
        Ok(read) => read,
        Err(message) => {
            builder.errors.push(Diagnostic::error(message).at(span));
            return;
        }
    };
    for name in hosts {
        let new = !builder.hosts.contains_key(&name);
        let host = builder.host(&name, group);
        // As in Ansible, the port that stands where a host is named first is the one that counts.
        if let Some(port) = port.filter(|_| new) {
            builder.host_var(host, "ansible_port", Variable { value: Arc::new(port.into()), span: span.clone() });
        }
        for (name, variable) in vars {
            builder.host_var(host, name, variable.clone());
        }
    }
}

fn checked(name: &str) -> Result<Vec<String>, String> {
    // An address of IPv6 holds colons, everything else does not.
    if name.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok(vec![name.to_string()]);
    }
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control() || "{}=,!&'\"".contains(c)) {
        return Err(format!("`{name}` can't be the name of a host"));
    }
    names::expand(name)
}

/// A word of a line, quotes taken off, and its place.
struct Word {
    text: String,
    start: usize,
    end: usize,
}

/// Splits a line as a shell does; `#` outside of quotes begins a comment.
fn words(line: &str) -> Result<Vec<Word>, (String, usize)> {
    let mut words: Vec<Word> = Vec::new();
    let mut word: Option<Word> = None;
    let mut quote: Option<(char, usize)> = None;
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        let end = at + c.len_utf8();
        if quote.is_none() && (c.is_whitespace() || c == '#') {
            words.extend(word.take());
            if c == '#' {
                return Ok(words);
            }
            continue;
        }
        let current = word.get_or_insert_with(|| Word { text: String::new(), start: at, end });
        current.end = end;
        match (quote, c) {
            (Some((open, _)), c) if c == open => quote = None,
            (None, '\'' | '"') => quote = Some((c, at)),
            (None | Some(('"', _)), '\\') => match chars.next() {
                Some((at, next)) => {
                    // In double quotes a backslash means something only before these two.
                    if quote.is_some() && !matches!(next, '"' | '\\') {
                        current.text.push('\\');
                    }
                    current.text.push(next);
                    current.end = at + next.len_utf8();
                }
                None => return Err(("a single backslash at the end of the line".to_string(), at)),
            },
            (_, c) => current.text.push(c),
        }
    }
    if let Some((open, at)) = quote {
        return Err((format!("this {open} is never closed"), at));
    }
    words.extend(word);
    Ok(words)
}
