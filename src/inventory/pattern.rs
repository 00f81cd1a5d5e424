//! Host patterns: `all`, `web:db`, `web:&prod:!old`, `ws*`, `~ws\d+`, `web[0:2]`, `@file`.

use std::net::Ipv6Addr;

use indexmap::IndexSet;

use super::build::HostId;
use super::{ALL, Inventory, UNGROUPED, is_loopback};
use crate::diag::{Diagnostic, Source, Span};

/// A host that is meant. Those of the inventory come first, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Pick {
    Host(HostId),
    /// This machine, named without being in the inventory.
    Implicit(&'static str),
}

/// What a part of a pattern does with the hosts it means.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Add,
    Keep,
    Remove,
}

/// The hosts that a pattern means.
///
/// # Errors
/// A part that is wrong, or that means nothing.
pub(super) fn evaluate(inventory: &Inventory, pattern: &str) -> Result<IndexSet<Pick>, Diagnostic> {
    let mut parts = Vec::new();
    for piece in pieces(pattern)? {
        let (step, name) = match piece.strip_prefix(['!', '&']) {
            Some(name) if piece.starts_with('!') => (Step::Remove, name.trim()),
            Some(name) => (Step::Keep, name.trim()),
            None => (Step::Add, piece),
        };
        if name.is_empty() || name.starts_with(['!', '&']) {
            return Err(Diagnostic::error(format!("`{piece}` in the host pattern `{pattern}` names nothing")));
        }
        parts.push((step, name));
    }
    if parts.is_empty() {
        return Err(Diagnostic::error("the host pattern is empty").help("`all` means every host"));
    }
    // As in Ansible: what is added first, then what is kept, then what goes.
    parts.sort_by_key(|(step, _)| *step);
    let mut hosts: IndexSet<Pick> = IndexSet::new();
    if parts.first().is_some_and(|(step, _)| *step != Step::Add) {
        hosts.extend((0..inventory.hosts.len()).map(Pick::Host));
    }
    for (step, name) in parts {
        let meant = term(inventory, name)?;
        match step {
            Step::Add => hosts.extend(meant),
            Step::Keep => hosts.retain(|host| meant.contains(host)),
            Step::Remove => hosts.retain(|host| !meant.contains(host)),
        }
    }
    Ok(hosts)
}

/// The parts between commas and colons. Brackets keep together what is in them, and in a `~regex` all brackets do.
fn pieces(pattern: &str) -> Result<Vec<&str>, Diagnostic> {
    let mut pieces = Vec::new();
    for part in split(pattern, ',')? {
        let address = part.trim_start_matches(['!', '&']);
        if address.parse::<Ipv6Addr>().is_ok() {
            pieces.push(part);
        } else {
            pieces.extend(split(part, ':')?);
        }
    }
    Ok(pieces)
}

fn split(pattern: &str, separator: char) -> Result<Vec<&str>, Diagnostic> {
    let mut pieces = Vec::new();
    let mut rest = pattern;
    while !rest.is_empty() {
        let regex = rest.trim_start().trim_start_matches(['!', '&']).trim_start().starts_with('~');
        let end = piece_end(rest, separator, regex)
            .ok_or_else(|| Diagnostic::error(format!("a bracket in the host pattern `{pattern}` is never closed")))?;
        let (piece, behind) = rest.split_at(end);
        pieces.push(piece.trim());
        rest = behind.strip_prefix(separator).unwrap_or(behind);
    }
    pieces.retain(|piece| !piece.is_empty());
    Ok(pieces)
}

/// Where the first piece ends; `None` if a bracket is left open.
fn piece_end(text: &str, separator: char, regex: bool) -> Option<usize> {
    let (mut depth, mut class) = (0_usize, false);
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' if regex => {
                chars.next();
            }
            '[' => class = true,
            ']' => class = false,
            _ if class => {}
            '(' | '{' if regex => depth += 1,
            ')' | '}' if regex => depth = depth.saturating_sub(1),
            _ if c == separator && depth == 0 => return Some(at),
            _ => {}
        }
    }
    (!class && depth == 0).then_some(text.len())
}

/// The hosts that one part means, in the order of the group.
fn term(inventory: &Inventory, text: &str) -> Result<IndexSet<Pick>, Diagnostic> {
    if let Some(regex) = text.strip_prefix('~') {
        let regex = fancy_regex::Regex::new(&format!("^(?:{regex})")).map_err(|problem| {
            Diagnostic::error(format!("the host pattern `{text}` is not a regular expression: {problem}"))
        })?;
        return many(inventory, text, |name| {
            regex.is_match(name).map_err(|problem| Diagnostic::error(format!("the host pattern `{text}`: {problem}")))
        });
    }
    let (name, subscript) = subscript(text)?;
    let hosts = named(inventory, name, text)?;
    let Some((first, last)) = subscript else {
        return Ok(hosts);
    };
    let count = hosts.len();
    let first_at = if first < 0 { count.checked_sub(first.unsigned_abs()) } else { Some(first.unsigned_abs()) };
    let first_at = first_at.filter(|at| *at < count).ok_or_else(|| {
        let hosts = if count == 1 { "1 host".to_string() } else { format!("{count} hosts") };
        Diagnostic::error(format!("the host pattern `{text}` asks for more than `{name}` has: {hosts}"))
            .help("the first host is [0]")
    })?;
    let take = last.map_or(1, |last| last.saturating_add(1).saturating_sub(first_at));
    Ok(hosts.into_iter().skip(first_at).take(take).collect())
}

/// A name, and what stands in brackets behind it: the first host and, for a range, the last. As in Ansible the last is
/// part of it.
#[allow(clippy::type_complexity)]
fn subscript(text: &str) -> Result<(&str, Option<(isize, Option<usize>)>), Diagnostic> {
    let whole = Ok((text, None));
    let Some((name, inner)) = text.strip_suffix(']').and_then(|rest| rest.rsplit_once('[')) else {
        return whole;
    };
    if name.is_empty() || inner.is_empty() || !inner.bytes().all(|b| b.is_ascii_digit() || b == b':' || b == b'-') {
        return whole;
    }
    let bad = || {
        Diagnostic::error(format!("`[{inner}]` in the host pattern `{text}` is not a number or a range"))
            .help("write [0], [-1], [0:2] or [3:]")
    };
    if let Ok(single) = inner.parse::<isize>() {
        return Ok((name, Some((single, None))));
    }
    let (first, last) = inner.split_once([':', '-']).ok_or_else(bad)?;
    let first = first.parse::<isize>().map_err(|_| bad())?;
    let last = if last.is_empty() { usize::MAX } else { last.parse::<usize>().map_err(|_| bad())? };
    if last < first.unsigned_abs() {
        return Err(bad());
    }
    Ok((name, Some((first, Some(last)))))
}

/// The hosts of a group, a host, or all that fit a glob.
fn named(inventory: &Inventory, name: &str, text: &str) -> Result<IndexSet<Pick>, Diagnostic> {
    if name == ALL || name == "*" {
        return Ok((0..inventory.hosts.len()).map(Pick::Host).collect());
    }
    if name.contains(['*', '?', '[']) {
        let glob = glob(name).and_then(|glob| regex::Regex::new(&glob).ok());
        let glob =
            glob.ok_or_else(|| Diagnostic::error(format!("the brackets in the host pattern `{text}` are wrong")))?;
        return many(inventory, text, |name| Ok(glob.is_match(name)));
    }
    let mut found = IndexSet::new();
    let group = inventory.groups.get(name);
    found.extend(group.into_iter().flat_map(|group| &group.hosts).map(|id| Pick::Host(*id)));
    let host = inventory.hosts.get_index_of(name);
    found.extend(host.map(Pick::Host));
    if group.is_some() || host.is_some() {
        return Ok(found);
    }
    if let Some(name) = implicit(name) {
        return Ok(IndexSet::from([Pick::Implicit(name)]));
    }
    let known = inventory.groups.keys().chain(inventory.hosts.keys()).map(String::as_str);
    let error = Diagnostic::error(format!("no host or group is called `{name}`"));
    Err(if inventory.hosts.is_empty() {
        error.help("the inventory has no hosts; give one by `-i`")
    } else {
        error.nearest(name, known.chain(["localhost"]))
    })
}

/// The hosts and groups whose names fit. `all` and `ungrouped` must be named in full, or `a*` would mean every host.
fn many(
    inventory: &Inventory,
    text: &str,
    mut fits: impl FnMut(&str) -> Result<bool, Diagnostic>,
) -> Result<IndexSet<Pick>, Diagnostic> {
    let mut found = IndexSet::new();
    let mut any = false;
    for (name, group) in inventory.groups.iter().filter(|(name, _)| *name != ALL && *name != UNGROUPED) {
        if fits(name)? {
            any = true;
            found.extend(group.hosts.iter().map(|id| Pick::Host(*id)));
        }
    }
    for (id, name) in inventory.hosts.keys().enumerate() {
        if fits(name)? {
            any = true;
            found.insert(Pick::Host(id));
        }
    }
    if any { Ok(found) } else { Err(Diagnostic::error(format!("no host or group fits the pattern `{text}`"))) }
}

/// A glob as a regular expression: `*`, `?`, `[abc]`, `[!abc]`.
fn glob(glob: &str) -> Option<String> {
    let mut regex = String::from("^(?s:");
    let mut rest = glob;
    while let Some(c) = rest.chars().next() {
        rest = rest.strip_prefix(c)?;
        match c {
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            '[' => {
                let negated = rest.starts_with('!');
                let inner = rest.strip_prefix('!').unwrap_or(rest);
                // A `]` right behind the opening bracket is one of the characters.
                let skip = usize::from(inner.starts_with(']'));
                let end = inner.get(skip..)?.find(']')? + skip;
                let (class, behind) = (inner.get(..end)?, inner.get(end + 1..)?);
                regex.push_str(if negated { "[^" } else { "[" });
                for c in class.chars() {
                    if matches!(c, '\\' | '[' | ']' | '^' | '&' | '~') {
                        regex.push('\\');
                    }
                    regex.push(c);
                }
                regex.push(']');
                rest = behind;
            }
            _ => regex.push_str(&regex::escape(c.encode_utf8(&mut [0; 4]))),
        }
    }
    regex.push_str(")$");
    Some(regex)
}

/// The name of this machine that needs no inventory.
pub(super) fn implicit(name: &str) -> Option<&'static str> {
    is_loopback(name).then(|| super::LOOPBACK.into_iter().find(|known| *known == name)).flatten()
}

/// The hosts that `--limit` means; `@FILE` stands for the patterns in that file, one a line.
///
/// # Errors
/// As [`evaluate`], with the place in the limit or in its file.
pub(super) fn limit(inventory: &Inventory, limit: &str) -> Result<IndexSet<Pick>, Diagnostic> {
    if !limit.contains('@') {
        let source = Source::new("--limit", limit);
        let span = Span::new(&source, 0, limit.len());
        return evaluate(inventory, limit).map_err(|error| error.at_if_unknown(&span));
    }
    // What is written beside an `@FILE` and what is in it are one pattern, so that `@FILE,!ws01` works.
    let mut patterns: Vec<String> = Vec::new();
    let mut checks: Vec<(String, Span)> = Vec::new();
    let line = Source::new("--limit", limit);
    let mut at = 0;
    for piece in limit.split(',') {
        let span = Span::new(&line, at, at + piece.len());
        at += piece.len() + 1;
        let Some(file) = piece.trim().strip_prefix('@') else {
            checks.push((piece.trim().to_string(), span));
            continue;
        };
        let text = std::fs::read_to_string(file).map_err(|problem| {
            Diagnostic::error(format!("can't read the file of hosts `{file}`: {problem}")).at(&span)
        })?;
        let source = Source::new(file, text);
        let mut from = 0;
        for line in source.text.split_inclusive('\n') {
            let pattern = line.trim();
            if !pattern.is_empty() && !pattern.starts_with('#') {
                let start = from + (line.len() - line.trim_start().len());
                checks.push((pattern.to_string(), Span::new(&source, start, start + pattern.len())));
            }
            from += line.len();
        }
    }
    for (pattern, span) in checks.into_iter().filter(|(pattern, _)| !pattern.is_empty()) {
        // Each for itself first: only so is a mistake found where it stands.
        evaluate(inventory, &pattern).map_err(|error| error.at_if_unknown(&span))?;
        patterns.push(pattern);
    }
    let span = Span::new(&line, 0, limit.len());
    evaluate(inventory, &patterns.join(",")).map_err(|error| error.at_if_unknown(&span))
}
