//! Patterns that choose hosts: `all`, `web:&lab:!ws03`, `ws*`, `~regex`, `group[0:2]`.

use std::collections::BTreeSet;

use fancy_regex::Regex;

use super::{Inventory, THIS_MACHINE};
use crate::diag::{Diagnostic, nearest};

/// Chosen hosts: by place in the inventory, and this machine where no inventory names it.
#[derive(Default)]
struct Chosen {
    hosts: BTreeSet<usize>,
    here: BTreeSet<usize>,
}

pub(super) fn matching<'a>(
    inventory: &'a Inventory,
    pattern: &str,
    limit: Option<&str>,
) -> Result<Vec<&'a str>, Diagnostic> {
    let mut chosen = choose(inventory, pattern)?;
    if let Some(limit) = limit {
        let mut allowed = Chosen::default();
        for part in limits(limit)? {
            let more = choose(inventory, &part)?;
            allowed.hosts.extend(more.hosts);
            allowed.here.extend(more.here);
        }
        chosen.hosts.retain(|host| allowed.hosts.contains(host));
        chosen.here.retain(|host| allowed.here.contains(host));
    }
    let hosts = chosen.hosts.iter().filter_map(|host| inventory.host_name(*host));
    let here = chosen.here.iter().filter_map(|at| THIS_MACHINE.get(*at).copied());
    Ok(hosts.chain(here).collect())
}

/// A limit's patterns; those of a file for `@file`.
fn limits(limit: &str) -> Result<Vec<String>, Diagnostic> {
    let mut all = Vec::new();
    let mut plain = Vec::new();
    for part in split(limit)? {
        let Some(path) = part.strip_prefix('@') else {
            plain.push(part);
            continue;
        };
        let text = std::fs::read_to_string(path)
            .map_err(|error| Diagnostic::error(format!("the file of the limit `{part}` can't be read: {error}")))?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        all.extend(lines.map(str::to_string));
    }
    // What is left is one pattern: `!x` counts for all of it.
    if !plain.is_empty() {
        all.push(plain.join(","));
    }
    if all.is_empty() {
        return Err(Diagnostic::error(format!("the limit `{limit}` names no host")));
    }
    Ok(all)
}

/// The parts of a pattern: between commas, or between colons that are not in brackets or in an address.
fn split(pattern: &str) -> Result<Vec<String>, Diagnostic> {
    let pattern = pattern.trim();
    let bare = pattern.trim_start_matches(['!', '&']);
    let mut parts = Vec::new();
    if bare.parse::<std::net::Ipv6Addr>().is_ok() {
        parts.push(pattern.to_string());
    } else if pattern.contains(',') {
        parts.extend(pattern.split(',').map(|part| part.trim().to_string()));
    } else {
        let mut depth = 0usize;
        let mut part = String::new();
        for c in pattern.chars() {
            match c {
                '[' | '(' => depth += 1,
                ']' | ')' => depth = depth.saturating_sub(1),
                ':' if depth == 0 => {
                    parts.push(std::mem::take(&mut part).trim().to_string());
                    continue;
                }
                _ => {}
            }
            part.push(c);
        }
        parts.push(part.trim().to_string());
    }
    parts.retain(|part| !part.is_empty());
    if parts.is_empty() { Err(Diagnostic::error("the pattern names no host")) } else { Ok(parts) }
}

fn choose(inventory: &Inventory, pattern: &str) -> Result<Chosen, Diagnostic> {
    let parts = split(pattern)?;
    let mut chosen = Chosen::default();
    // As in Ansible the order does not count: first all that adds, then `&`, then `!`.
    let adding: Vec<&String> = parts.iter().filter(|part| !part.starts_with(['!', '&'])).collect();
    if adding.is_empty() {
        chosen.hosts.extend(0..inventory.hosts.len());
    }
    for part in adding {
        let more = one(inventory, part)?;
        chosen.hosts.extend(more.hosts);
        chosen.here.extend(more.here);
    }
    for part in &parts {
        if let Some(part) = part.strip_prefix('&') {
            let both = one(inventory, part.trim())?;
            chosen.hosts.retain(|host| both.hosts.contains(host));
            chosen.here.retain(|host| both.here.contains(host));
        }
    }
    for part in &parts {
        if let Some(part) = part.strip_prefix('!') {
            let out = one(inventory, part.trim())?;
            chosen.hosts.retain(|host| !out.hosts.contains(host));
            chosen.here.retain(|host| !out.here.contains(host));
        }
    }
    Ok(chosen)
}

/// One part, without `!` and `&`.
fn one(inventory: &Inventory, part: &str) -> Result<Chosen, Diagnostic> {
    if part.is_empty() {
        return Err(Diagnostic::error("a part of the pattern is empty"));
    }
    if part.starts_with(['!', '&', '@']) {
        return Err(Diagnostic::error(format!("`{part}` can't stand in this place of a pattern")));
    }
    if let Some(regex) = part.strip_prefix('~') {
        let regex = Regex::new(&format!(r"\A(?:{regex})"))
            .map_err(|error| Diagnostic::error(format!("the pattern `{part}` can't be read: {error}")))?;
        return Ok(named(inventory, true, |name| regex.is_match(name).unwrap_or(false)));
    }
    let (name, places) = places(part)?;
    let wild = name.contains(['*', '?', '[']);
    let found = if wild {
        let glob = glob(name)?;
        named(inventory, true, |name| glob.is_match(name).unwrap_or(false))
    } else {
        named(inventory, false, |known| known == name)
    };
    if found.hosts.is_empty() && found.here.is_empty() && !wild && !inventory.groups.contains_key(name) {
        let known = inventory.groups.keys().chain(inventory.hosts.keys()).map(String::as_str);
        let error = Diagnostic::error(format!("there is no host or group `{name}` in the inventory"));
        return Err(match nearest(name, known) {
            Some(near) => error.help(format!("did you mean `{near}`?")),
            None => error,
        });
    }
    let Some((from, to)) = places else { return Ok(found) };
    // The places count in the order in which the group names its hosts.
    let group = inventory.groups.get_index_of(name).filter(|_| !wild);
    let order: Vec<usize> = group.map_or_else(|| found.hosts.iter().copied().collect(), |at| inventory.members(at));
    let length = i64::try_from(order.len()).unwrap_or(i64::MAX);
    let place = |at: i64| if at < 0 { at + length } else { at };
    let (from, to) = (place(from), to.map_or(length - 1, place));
    let picked = order.iter().enumerate().filter(|(at, _)| {
        let at = i64::try_from(*at).unwrap_or(i64::MAX);
        (from..=to).contains(&at)
    });
    Ok(Chosen { hosts: picked.map(|(_, host)| *host).collect(), here: BTreeSet::new() })
}

/// The hosts that match by name or by a group's name.
fn named(inventory: &Inventory, hosts_too: bool, matches: impl Fn(&str) -> bool) -> Chosen {
    let mut chosen = Chosen::default();
    let mut by_group = false;
    for (at, name) in inventory.groups.keys().enumerate() {
        if matches(name) {
            by_group = true;
            chosen.hosts.extend(inventory.members(at));
        }
    }
    if hosts_too || !by_group {
        let hosts = inventory.hosts.keys().enumerate().filter(|(_, name)| matches(name));
        chosen.hosts.extend(hosts.map(|(at, _)| at));
    }
    if !hosts_too && !by_group {
        let here = THIS_MACHINE.iter().enumerate().filter(|(_, name)| matches(name));
        chosen.here.extend(here.filter(|(_, name)| !inventory.hosts.contains_key(**name)).map(|(at, _)| at));
    }
    chosen
}

/// The first and, for a range, the last place that is meant; the end is included.
type Places = Option<(i64, Option<i64>)>;

/// `name[0]`, `name[-1]`, `name[0:2]`, `name[1:]`: the name, and the first and the last place.
fn places(part: &str) -> Result<(&str, Places), Diagnostic> {
    let Some((name, inside)) = part.strip_suffix(']').and_then(|rest| rest.rsplit_once('[')) else {
        return Ok((part, None));
    };
    let number = |text: &str| text.parse::<i64>().ok();
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(at) = number(inside).filter(|_| !name.is_empty()) {
        return Ok((name, Some((at, Some(at)))));
    }
    match inside.split_once(':') {
        Some((from, to)) if !name.is_empty() && digits(from) && digits(to) && !(from.is_empty() && to.is_empty()) => {
            let from = if from.is_empty() { Some(0) } else { number(from) };
            let last = if to.is_empty() { Some(None) } else { number(to).map(Some) };
            match (from, last) {
                (Some(from), Some(last)) => Ok((name, Some((from, last)))),
                _ => Err(Diagnostic::error(format!("the numbers in `{part}` are too large"))),
            }
        }
        Some(_) => Err(Diagnostic::error(format!("`[{inside}]` in `{part}` is not a range of places"))
            .help("write `group[0:2]`: the first three hosts")),
        // A set of characters: `ws[12]`.
        None => Ok((part, None)),
    }
}

/// A glob as a regular expression: `*`, `?`, `[abc]`, `[!abc]`.
fn glob(glob: &str) -> Result<Regex, Diagnostic> {
    let mut regex = String::from(r"\A(?s:");
    let mut chars = glob.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            '[' => {
                let mut set = String::new();
                let mut closed = false;
                for c in chars.by_ref() {
                    if c == ']' && !set.is_empty() {
                        closed = true;
                        break;
                    }
                    set.push(c);
                }
                if !closed {
                    return Err(Diagnostic::error(format!("the `[` in the pattern `{glob}` is never closed")));
                }
                let (not, set) = set.strip_prefix('!').map_or(("", set.as_str()), |set| ("^", set));
                let set = set
                    .replace('\\', r"\\")
                    .replace('[', r"\[")
                    .replace('^', r"\^")
                    .replace('&', r"\&")
                    .replace('~', r"\~");
                regex.push_str(&format!("[{not}{set}]"));
            }
            c => regex.push_str(&fancy_regex::escape(&c.to_string())),
        }
    }
    regex.push_str(r")\z");
    Regex::new(&regex).map_err(|_| Diagnostic::error(format!("the pattern `{glob}` can't be read")))
}
