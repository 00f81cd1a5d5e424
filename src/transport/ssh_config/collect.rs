//! One walk through the lines for one host: which parts are meant, and what they say first.

use std::time::Duration;

use super::keywords::{HONOURED, MISSING, QUIET, QUIET_TOO};
use super::read::{Line, Origin, keyword};
use super::{Addresses, Jump, Local, Policy, Proxy, hostname, pattern, token};
use crate::diag::Diagnostic;

/// As many key files are tried, as in OpenSSH.
const MOST_KEYS: usize = 100;

/// What was said first, as it was written.
#[derive(Debug, Default)]
pub(super) struct Collected {
    pub hostname: Option<String>,
    pub port: Option<u16>,
    pub user: Option<String>,
    pub identity_files: Vec<String>,
    pub identities_only: Option<bool>,
    pub certificate_files: Vec<String>,
    pub identity_agent: Option<String>,
    pub proxy: Option<Proxy>,
    /// `Some(None)`: without an end.
    pub connect_timeout: Option<Option<Duration>>,
    pub attempts: Option<u32>,
    pub alive_interval: Option<Duration>,
    pub alive_count: Option<u32>,
    pub user_known_hosts: Option<Vec<String>>,
    pub global_known_hosts: Option<Vec<String>>,
    pub policy: Option<Policy>,
    pub host_key_alias: Option<String>,
    pub hash_known_hosts: Option<bool>,
    pub addresses: Option<Addresses>,
    pub public_key: Option<bool>,
    pub password: Option<bool>,
    pub keyboard_interactive: Option<bool>,
    pub preferred: Option<Vec<String>>,
    /// Keywords of [`MISSING`] that were said already: there, too, the first value counts.
    unhonoured: Vec<String>,
    ignored: Vec<String>,
    pub warnings: Vec<Diagnostic>,
}

/// The walk.
pub(super) struct Walk<'a> {
    local: &'a Local,
    alias: &'a str,
    /// The name that `Host` compares with; in the final pass the one that was found.
    pub name: String,
    /// Is this the second walk, in which `Match final` counts?
    pub final_pass: bool,
    /// Did anything ask for a second walk?
    pub again: bool,
    pub collected: Collected,
}

/// Sets what was not set yet; the value is looked at in any case, so that mistakes show.
fn first<T>(slot: &mut Option<T>, value: T) {
    slot.get_or_insert(value);
}

impl<'a> Walk<'a> {
    pub(super) fn new(alias: &'a str, local: &'a Local) -> Walk<'a> {
        let name = alias.to_string();
        Walk { local, alias, name, final_pass: false, again: false, collected: Collected::default() }
    }

    /// Walks through lines. `active`: do they count; a `Host` or `Match` changes it, unless they never do.
    pub(super) fn lines(
        &mut self,
        lines: &[Line],
        origin: Origin,
        active: &mut bool,
        never: bool,
    ) -> Result<(), Diagnostic> {
        for line in lines {
            match line.keyword.as_str() {
                "host" => *active = !never && pattern::in_list(&self.name, line.words.iter().map(String::as_str)),
                "match" => *active = self.criteria(line)? && !never,
                "include" => {
                    for file in &line.included {
                        // What the file says of hosts ends with it.
                        self.lines(file, origin, &mut active.clone(), never || !*active)?;
                    }
                }
                _ if *active => self.set(line, origin)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Does a `Match` line mean this host? All of its criteria must.
    fn criteria(&mut self, line: &Line) -> Result<bool, Diagnostic> {
        let wrong = |why: String| Diagnostic::error(why).at(&line.span);
        let (mut rest, mut matched, mut count) = (line.rest.as_str(), true, 0);
        while !rest.is_empty() && !rest.starts_with('#') {
            let (written, after) = keyword(rest);
            rest = after;
            let (negated, name) = match written.strip_prefix('!') {
                Some(name) => (true, name.to_ascii_lowercase()),
                None => (false, written.to_ascii_lowercase()),
            };
            count += 1;
            let fits = match name.as_str() {
                "all" => {
                    if negated || count > 2 || !(rest.is_empty() || rest.starts_with('#')) {
                        return Err(wrong("`Match all` stands alone, or behind `canonical` or `final`".into()));
                    }
                    true
                }
                // Without CanonicalizeHostname the pass for canonical names never comes, but the final one is it, too.
                "canonical" => self.final_pass,
                "final" => {
                    self.again = true;
                    self.final_pass
                }
                _ => {
                    let (value, after) = value(rest).ok_or_else(|| wrong("a quote is not closed".into()))?;
                    rest = after;
                    if value.is_empty() {
                        return Err(wrong(format!("`Match {name}` has no value")));
                    }
                    match name.as_str() {
                        "host" => match &self.collected.hostname {
                            Some(text) => pattern::host_in_list(&hostname(text, self.alias, self.local)?, &value),
                            None => pattern::host_in_list(&self.name, &value),
                        },
                        "originalhost" => pattern::host_in_list(self.alias, &value),
                        "user" => {
                            let user = self.collected.user.as_ref().unwrap_or(&self.local.user);
                            pattern::in_list(user, value.split(','))
                        }
                        "localuser" => pattern::in_list(&self.local.user, value.split(',')),
                        "exec" | "localnetwork" | "tagged" | "version" | "sessiontype" | "command" => {
                            self.unhonoured_match(line, &name);
                            // Neither the part nor its opposite is taken.
                            matched = false;
                            continue;
                        }
                        _ => {
                            let known =
                                ["host", "originalhost", "user", "localuser", "all", "final", "canonical", "exec"];
                            return Err(wrong(format!("`Match` knows no `{name}`")).nearest(&name, known));
                        }
                    }
                }
            };
            matched &= fits != negated;
        }
        if count == 0 { Err(wrong("`Match` has no criteria".into())) } else { Ok(matched) }
    }

    fn unhonoured_match(&mut self, line: &Line, name: &str) {
        let message = format!("`Match {name}` is not honoured: this part is passed over");
        let said = self.collected.warnings.iter();
        if !said.into_iter().any(|warning| warning.message == message && warning.span.as_ref() == Some(&line.span)) {
            let help = "say it with `Match host`, or let OpenSSH's own client read it: ansible_connection=openssh";
            self.collected.warnings.push(Diagnostic::warning(message).at(&line.span).help(help));
        }
    }

    fn set(&mut self, line: &Line, origin: Origin) -> Result<(), Diagnostic> {
        let wrong = |why: &str| Err(Diagnostic::error(format!("`{}` must be {why}", line.written)).at(&line.span));
        let all = line.words.as_slice();
        let Some(word) = all.first().map(String::as_str) else { return wrong("a value") };
        let found = &mut self.collected;
        let truth = match word.to_ascii_lowercase().as_str() {
            "yes" | "true" => Some(true),
            "no" | "false" => Some(false),
            _ => None,
        };
        let number = word.parse::<i32>().ok().and_then(|number| u32::try_from(number).ok());
        let time = token::time(word);
        match line.keyword.as_str() {
            "hostname" => first(&mut found.hostname, word.into()),
            "user" => first(&mut found.user, word.into()),
            "port" => match word.parse().ok().filter(|port| *port > 0) {
                Some(port) => first(&mut found.port, port),
                None => return wrong("a port, 1 to 65535"),
            },
            "identityfile" => {
                if found.identity_files.len() < MOST_KEYS && !found.identity_files.iter().any(|file| file == word) {
                    found.identity_files.push(word.into());
                }
            }
            "certificatefile" => {
                if found.certificate_files.len() < MOST_KEYS && !found.certificate_files.iter().any(|file| file == word)
                {
                    found.certificate_files.push(word.into());
                }
            }
            "identityagent" => first(&mut found.identity_agent, word.into()),
            "hostkeyalias" => first(&mut found.host_key_alias, word.into()),
            "identitiesonly"
            | "hashknownhosts"
            | "passwordauthentication"
            | "kbdinteractiveauthentication"
            | "challengeresponseauthentication"
            | "skeyauthentication"
            | "tisauthentication" => {
                let slot = match line.keyword.as_str() {
                    "identitiesonly" => &mut found.identities_only,
                    "hashknownhosts" => &mut found.hash_known_hosts,
                    "passwordauthentication" => &mut found.password,
                    _ => &mut found.keyboard_interactive,
                };
                match truth {
                    Some(truth) => first(slot, truth),
                    None => return wrong("yes or no"),
                }
            }
            "pubkeyauthentication" | "dsaauthentication" => match (truth, word.to_ascii_lowercase().as_str()) {
                (Some(truth), _) => first(&mut found.public_key, truth),
                (None, "unbound" | "host-bound") => first(&mut found.public_key, true),
                _ => return wrong("yes, no, unbound or host-bound"),
            },
            "preferredauthentications" => {
                first(&mut found.preferred, word.split(',').map(|method| method.trim().to_string()).collect());
            }
            "proxyjump" => {
                // The value is not parted in words; a comment behind it is none of it.
                let value = line.rest.split('#').next().unwrap_or_default().trim();
                match jumps(value) {
                    Some(jumps) if jumps.is_empty() => first(&mut found.proxy, Proxy::Direct),
                    Some(jumps) => first(&mut found.proxy, Proxy::Jump(jumps)),
                    None => return wrong("`none`, or machines as [user@]host[:port] with commas between them"),
                }
            }
            "proxycommand" => {
                // The rest of the line as it is: the shell parts it.
                let none = line.rest.eq_ignore_ascii_case("none");
                first(&mut found.proxy, if none { Proxy::Direct } else { Proxy::Command(line.rest.clone()) });
            }
            "connecttimeout" => match time {
                _ if word.eq_ignore_ascii_case("none") => first(&mut found.connect_timeout, None),
                Some(time) => first(&mut found.connect_timeout, Some(time).filter(|time| !time.is_zero())),
                None => return wrong("a time, such as 10 or 1m30s, or `none`"),
            },
            "serveraliveinterval" => match time {
                _ if word.eq_ignore_ascii_case("none") => first(&mut found.alive_interval, Duration::ZERO),
                Some(time) => first(&mut found.alive_interval, time),
                None => return wrong("a time, such as 10 or 1m30s"),
            },
            "connectionattempts" | "serveralivecountmax" => match number {
                Some(number) if line.keyword == "connectionattempts" => first(&mut found.attempts, number),
                Some(number) => first(&mut found.alive_count, number),
                None => return wrong("a number"),
            },
            "userknownhostsfile" => first(&mut found.user_known_hosts, all.to_vec()),
            "globalknownhostsfile" => first(&mut found.global_known_hosts, all.to_vec()),
            "stricthostkeychecking" => match (truth, word.to_ascii_lowercase().as_str()) {
                (Some(true), _) => first(&mut found.policy, Policy::Strict),
                (Some(false), _) | (_, "off") => first(&mut found.policy, Policy::No),
                (_, "ask") => first(&mut found.policy, Policy::Ask),
                (_, "accept-new") => first(&mut found.policy, Policy::AcceptNew),
                _ => return wrong("yes, accept-new, ask or no"),
            },
            "addressfamily" => match word.to_ascii_lowercase().as_str() {
                "any" => first(&mut found.addresses, Addresses::Any),
                "inet" => first(&mut found.addresses, Addresses::Inet),
                "inet6" => first(&mut found.addresses, Addresses::Inet6),
                _ => return wrong("any, inet or inet6"),
            },
            "ignoreunknown" => {
                found.ignored.extend(word.split(',').map(str::to_ascii_lowercase));
            }
            _ => self.other(line, origin),
        }
        Ok(())
    }

    /// What is not honoured, or not known.
    fn other(&mut self, line: &Line, origin: Origin) {
        let found = &mut self.collected;
        let name = line.keyword.as_str();
        if let Some(missing) = MISSING.iter().find(|missing| missing.keyword == name) {
            if found.unhonoured.iter().any(|known| known == name) {
                return;
            }
            found.unhonoured.push(name.to_string());
            let value = line.words.join(" ").to_ascii_lowercase();
            let asks = !missing.harmless.contains(&value.as_str());
            if asks && (origin != Origin::System || missing.system) {
                let warning = format!("`{}` is not honoured: {}", line.written, missing.means);
                let help = "OpenSSH's own client honours it: ansible_connection=openssh";
                found.warnings.push(Diagnostic::warning(warning).at(&line.span).help(help));
            }
        } else if !QUIET.contains(&name) && !QUIET_TOO.contains(&name) {
            if found.ignored.iter().any(|pattern| pattern::fits(name, pattern)) {
                return;
            }
            let message = format!("the keyword `{}` is not known, and passed over", line.written);
            if !found.warnings.iter().any(|warning| warning.message == message) {
                let warning = Diagnostic::warning(message).at(&line.span);
                found.warnings.push(warning.nearest(&line.written, HONOURED));
            }
        }
    }
}

/// The first word of a criterion's value, quotes taken off, and what follows.
fn value(text: &str) -> Option<(String, &str)> {
    if let Some(rest) = text.strip_prefix('"') {
        let (value, rest) = rest.split_once('"')?;
        return Some((value.to_string(), rest.trim_start()));
    }
    let (value, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    Some((value.to_string(), rest.trim_start()))
}

/// `[user@]host[:port]` or `ssh://…`, with commas between them; `none` is none.
pub(super) fn jumps(text: &str) -> Option<Vec<Jump>> {
    if text.eq_ignore_ascii_case("none") {
        return Some(Vec::new());
    }
    text.split(',').map(|one| jump(one.trim())).collect()
}

fn jump(text: &str) -> Option<Jump> {
    let text = text.strip_prefix("ssh://").map_or(text, |rest| rest.trim_end_matches('/'));
    let (user, place) = match text.rsplit_once('@') {
        Some((user, place)) if !user.is_empty() => (Some(user.to_string()), place),
        Some(_) => return None,
        None => (None, text),
    };
    let (host, port) = if let Some((host, port)) = place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        (host, if port.is_empty() { None } else { Some(port.strip_prefix(':')?) })
    } else {
        match place.split_once(':') {
            // More than one colon: an address of IPv6 without a port.
            Some((_, port)) if port.contains(':') => (place, None),
            Some((host, port)) => (host, Some(port)),
            None => (place, None),
        }
    };
    let port = match port {
        Some(port) => Some(port.parse().ok().filter(|port| *port > 0)?),
        None => None,
    };
    let wrong = |c: char| c.is_whitespace() || c.is_control() || "'`\"$\\;&<>|(){}".contains(c);
    (!host.is_empty() && !host.starts_with('-') && !host.contains(wrong)).then(|| Jump {
        user,
        host: host.to_string(),
        port,
    })
}
