//! `~/.ssh/config` and `/etc/ssh/ssh_config`, read as OpenSSH reads them (ssh_config(5)): for every keyword the first
//! value counts. Over them stand the inventory's variables.
//!
//! The files are read once for a run ([`Config::load`]); then each host is looked up in them ([`lookup`], [`route`]).
//! What we can't honour becomes a warning with its place; a run says each once ([`Said`]).

mod arguments;
mod collect;
mod keywords;
mod local;
pub mod pattern;
mod read;
mod token;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::diag::{Diagnostic, Source};
use collect::{Collected, Walk};
pub use local::Local;
use read::{Line, Origin};
use token::Tokens;

/// As many machines on the way to another are followed.
const LONGEST_WAY: usize = 16;

/// The configuration files, read.
#[derive(Debug, Default)]
pub struct Config {
    files: Vec<(Origin, Vec<Line>)>,
    /// The file that was named instead of the usual ones: OpenSSH's own client must be told of it, too.
    pub named: Option<PathBuf>,
}

/// Which files are read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Files {
    /// `~/.ssh/config`, then `/etc/ssh/ssh_config`.
    #[default]
    Usual,
    /// Only this one, as by `-F`.
    Only(PathBuf),
    /// None, as by `-F none`.
    Nothing,
}

impl Config {
    /// Reads the files and what they include.
    ///
    /// # Errors
    /// A file that can't be read or that others may write, a line that can't be understood; with its place.
    pub fn load(files: &Files, local: &Local) -> Result<Config, Diagnostic> {
        let mut config = Config::default();
        match files {
            Files::Nothing => config.named = Some(PathBuf::from("none")),
            Files::Only(path) => {
                let lines = read::file(path, Origin::Named, local, 0)?
                    .ok_or_else(|| Diagnostic::error(format!("there is no file {}", path.display())))?;
                config.files.push((Origin::Named, lines));
                config.named = Some(path.clone());
            }
            Files::Usual => {
                let usual = [
                    (local.ssh_folder().join("config"), Origin::User),
                    (local.system.join("ssh_config"), Origin::System),
                ];
                for (path, origin) in usual {
                    if let Some(lines) = read::file(&path, origin, local, 0)? {
                        config.files.push((origin, lines));
                    }
                }
            }
        }
        Ok(config)
    }
}

/// What the inventory says of a host; stronger than the files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// `ansible_user`.
    pub user: Option<String>,
    /// `ansible_port`.
    pub port: Option<u16>,
    /// `ansible_ssh_private_key_file`.
    pub identity_files: Vec<PathBuf>,
    /// `ansible_host_key_checking`: `false` is [`Policy::No`], `true` is [`Policy::Strict`].
    pub policy: Option<Policy>,
    /// `ansible_timeout`.
    pub connect_timeout: Option<Duration>,
    /// `ansible_ssh_retries` and one.
    pub attempts: Option<u32>,
    /// What `ansible_ssh_common_args` and `ansible_ssh_extra_args` say, in the words of the files: keyword, value, and the
    /// variable that says so.
    pub settings: Vec<(String, String, String)>,
}

/// What to do about the key of a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// Only known keys.
    #[default]
    Strict,
    /// A key that is not known yet is shown, and the person decides; without a terminal as `Strict`.
    Ask,
    /// A key of a host that has none yet is taken down; a changed one is refused.
    AcceptNew,
    /// Any key. Whoever stands between can read and change everything.
    No,
}

/// The agent that holds keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum KeyAgent {
    /// The one that `SSH_AUTH_SOCK` names.
    #[default]
    Environment,
    /// None.
    Nothing,
    /// The one at this socket.
    Socket(PathBuf),
}

/// How the host is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Proxy {
    /// At its address.
    #[default]
    Direct,
    /// Over other machines, the first of them first. [`route`] looks them up.
    Jump(Vec<Jump>),
    /// Through a command's standard input and output. For `/bin/sh -c`, as in OpenSSH.
    Command(String),
}

/// A machine on the way to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jump {
    /// The user, where one is named.
    pub user: Option<String>,
    /// The name, which the files may know.
    pub host: String,
    /// The port, where one is named.
    pub port: Option<u16>,
}

/// Which addresses of a name are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addresses {
    /// All.
    #[default]
    Any,
    /// Only IPv4.
    Inet,
    /// Only IPv6.
    Inet6,
}

/// All that matters about reaching one host.
#[derive(Clone, Debug, PartialEq)]
pub struct HostOptions {
    /// The name that was looked up.
    pub alias: String,
    /// The name or address to connect to.
    pub hostname: String,
    /// The port.
    pub port: u16,
    /// The user there.
    pub user: String,
    /// Files of private keys, in the order in which they are tried. Those that do not exist are left out by who reads them.
    pub identity_files: Vec<PathBuf>,
    /// Did anybody name the key files? Then one that can't be read is worth a word.
    pub identities_named: bool,
    /// Only these keys, also of those in the agent.
    pub identities_only: bool,
    /// Files of certificates for these keys; `KEY-cert.pub` beside a key counts, too.
    pub certificate_files: Vec<PathBuf>,
    /// The agent.
    pub agent: KeyAgent,
    /// How the host is reached.
    pub proxy: Proxy,
    /// How long connecting may take.
    pub connect_timeout: Option<Duration>,
    /// How often connecting is tried.
    pub attempts: u32,
    /// After so much silence the far end is asked for a sign of life.
    pub alive_interval: Option<Duration>,
    /// After so many questions without an answer the connection is lost.
    pub alive_count: u32,
    /// Files of host keys that are the user's; new ones go into the first.
    pub user_known_hosts: Vec<PathBuf>,
    /// Files of host keys for all users of this machine.
    pub global_known_hosts: Vec<PathBuf>,
    /// What to do about keys that are not known; `None` is [`Policy::Strict`], unless the program's own settings say more.
    pub policy: Option<Policy>,
    /// The name under which the key is known.
    pub host_key_alias: Option<String>,
    /// Are names hashed when a key is taken down?
    pub hash_known_hosts: bool,
    /// Which addresses are used.
    pub addresses: Addresses,
    /// May keys log in?
    pub public_key: bool,
    /// May a password log in?
    pub password: bool,
    /// May questions and answers log in?
    pub keyboard_interactive: bool,
    /// `PreferredAuthentications`, in its order; empty is no preference.
    pub preferred: Vec<String>,
    /// What is said in the files and not done here.
    pub warnings: Vec<Diagnostic>,
}

impl HostOptions {
    /// The name under which known_hosts knows it: `host`, `[host]:port`, or its `HostKeyAlias`.
    pub fn known_as(&self) -> String {
        match &self.host_key_alias {
            Some(alias) => alias.clone(),
            None if self.port == 22 => self.hostname.to_lowercase(),
            None => format!("[{}]:{}", self.hostname.to_lowercase(), self.port),
        }
    }
}

/// Looks up one host.
///
/// # Errors
/// A value that can't be understood, with its place.
pub fn lookup(config: &Config, alias: &str, over: &Overrides, local: &Local) -> Result<HostOptions, Diagnostic> {
    finish(collect(config, alias, over, local)?, alias, local)
}

/// The whole way to a host: the machines to jump over, then the host itself. Only the first can have a command as its proxy.
///
/// As in OpenSSH, of the machines to jump over only the first may itself be reached over others.
///
/// # Errors
/// As [`lookup`]; or when the way goes in a circle.
pub fn route(config: &Config, alias: &str, over: &Overrides, local: &Local) -> Result<Vec<HostOptions>, Diagnostic> {
    let mut way = vec![lookup(config, alias, over, local)?];
    while let Some(first) = way.first_mut() {
        let jumps = match &mut first.proxy {
            Proxy::Jump(jumps) => std::mem::take(jumps),
            Proxy::Direct | Proxy::Command(_) => break,
        };
        // From now on the way itself says over what it goes.
        first.proxy = Proxy::Direct;
        let mut ahead = Vec::new();
        for jump in jumps {
            let over = Overrides { user: jump.user, port: jump.port, ..Overrides::default() };
            let mut hop = lookup(config, &jump.host, &over, local)?;
            if !ahead.is_empty() {
                hop.proxy = Proxy::Direct;
            }
            ahead.push(hop);
        }
        let circle = |hop: &HostOptions| way.iter().any(|on| on.known_as() == hop.known_as() && on.user == hop.user);
        if ahead.iter().any(circle) || ahead.len() + way.len() > LONGEST_WAY {
            let names: Vec<&str> = ahead.iter().chain(&way).map(|hop| hop.alias.as_str()).collect();
            return Err(Diagnostic::error(format!("the way to `{alias}` never ends: {}", names.join(" → ")))
                .help("`ProxyJump none` in the part of ~/.ssh/config that is for the first of them ends it"));
        }
        way.splice(0..0, ahead);
    }
    Ok(way)
}

fn collect(config: &Config, alias: &str, over: &Overrides, local: &Local) -> Result<Collected, Diagnostic> {
    let mut walk = Walk::new(alias, local);
    walk.collected.user.clone_from(&over.user);
    walk.collected.port = over.port;
    walk.collected.policy = over.policy;
    walk.collected.connect_timeout = over.connect_timeout.map(Some);
    walk.collected.attempts = over.attempts;
    let files = over.identity_files.iter().map(|path| path.display().to_string());
    walk.collected.identity_files.extend(files);
    for (keyword, value, origin) in &over.settings {
        let source = Source::new(origin.as_str(), format!("{keyword} {value}"));
        let lines = read::lines(&source, Origin::Named, local, 0)?;
        walk.lines(&lines, Origin::Named, &mut true, false)?;
    }
    for (origin, lines) in &config.files {
        walk.lines(lines, *origin, &mut true, false)?;
    }
    if walk.again {
        // `Match final`: everything once more, with the name that was found.
        walk.final_pass = true;
        if let Some(name) = &walk.collected.hostname {
            walk.name = hostname(name, alias, local)?;
        }
        for (origin, lines) in &config.files {
            walk.lines(lines, *origin, &mut true, false)?;
        }
    }
    Ok(walk.collected)
}

/// The name with `%h` put in.
fn hostname(text: &str, alias: &str, local: &Local) -> Result<String, Diagnostic> {
    let tokens = Tokens {
        host: alias.into(),
        alias: alias.into(),
        port: String::new(),
        user: String::new(),
        key_alias: String::new(),
        jump: String::new(),
    };
    tokens.expand(text, "h", false, local).map_err(|why| Diagnostic::error(format!("HostName: {why}")))
}

/// Fills in the usual values and what tokens stand for.
fn finish(found: Collected, alias: &str, local: &Local) -> Result<HostOptions, Diagnostic> {
    let host = hostname(found.hostname.as_deref().unwrap_or(alias), alias, local)?.to_lowercase();
    let port = found.port.unwrap_or(22);
    let user = found.user.unwrap_or_else(|| local.user.clone());
    let jump = match &found.proxy {
        Some(Proxy::Jump(jumps)) => jumps.last().map(|jump| jump.host.clone()),
        _ => None,
    };
    let tokens = Tokens {
        host: host.clone(),
        alias: alias.to_string(),
        port: port.to_string(),
        user: user.clone(),
        key_alias: found.host_key_alias.clone().unwrap_or_else(|| alias.to_string()),
        jump: jump.unwrap_or_default(),
    };
    let wrong = |keyword: &str, why: String| Diagnostic::error(format!("host `{alias}`: {keyword}: {why}"));
    let paths = |keyword: &str, texts: &[String]| {
        let named = texts.iter().filter(|text| !text.eq_ignore_ascii_case("none"));
        named.map(|text| tokens.path(text, local)).collect::<Result<Vec<_>, _>>().map_err(|why| wrong(keyword, why))
    };
    let agent = match found.identity_agent.as_deref() {
        None | Some("SSH_AUTH_SOCK") => KeyAgent::Environment,
        Some(none) if none.eq_ignore_ascii_case("none") => KeyAgent::Nothing,
        Some(text) => match text.strip_prefix('$').filter(|name| !name.starts_with('{')) {
            Some(name) => (local.variable)(name).map_or(KeyAgent::Nothing, |path| KeyAgent::Socket(path.into())),
            None => KeyAgent::Socket(tokens.path(text, local).map_err(|why| wrong("IdentityAgent", why))?),
        },
    };
    let proxy = match found.proxy.unwrap_or_default() {
        Proxy::Command(text) => {
            Proxy::Command(tokens.expand(&text, "hnprk", false, local).map_err(|why| wrong("ProxyCommand", why))?)
        }
        other => other,
    };
    let usual =
        |names: &[&str], folder: &Path| -> Vec<PathBuf> { names.iter().map(|name| folder.join(name)).collect() };
    let ssh = local.ssh_folder();
    Ok(HostOptions {
        alias: alias.to_string(),
        identities_named: !found.identity_files.is_empty(),
        identity_files: match found.identity_files.as_slice() {
            [] => usual(&keywords::USUAL_KEYS, &ssh),
            named => paths("IdentityFile", named)?,
        },
        certificate_files: paths("CertificateFile", &found.certificate_files)?,
        user_known_hosts: match &found.user_known_hosts {
            None => usual(&["known_hosts", "known_hosts2"], &ssh),
            Some(named) => paths("UserKnownHostsFile", named)?,
        },
        global_known_hosts: match &found.global_known_hosts {
            None => usual(&["ssh_known_hosts", "ssh_known_hosts2"], &local.system),
            Some(named) => paths("GlobalKnownHostsFile", named)?,
        },
        identities_only: found.identities_only.unwrap_or(false),
        agent,
        proxy,
        connect_timeout: found.connect_timeout.flatten(),
        attempts: found.attempts.unwrap_or(1).max(1),
        alive_interval: found.alive_interval.filter(|interval| !interval.is_zero()),
        alive_count: found.alive_count.unwrap_or(3),
        policy: found.policy,
        host_key_alias: found.host_key_alias,
        hash_known_hosts: found.hash_known_hosts.unwrap_or(false),
        addresses: found.addresses.unwrap_or_default(),
        public_key: found.public_key.unwrap_or(true),
        password: found.password.unwrap_or(true),
        keyboard_interactive: found.keyboard_interactive.unwrap_or(true),
        preferred: found.preferred.unwrap_or_default(),
        warnings: found.warnings,
        hostname: host,
        port,
        user,
    })
}

/// Which warnings were said already.
#[derive(Debug, Default)]
pub struct Said(Mutex<HashSet<String>>);

impl Said {
    /// Those of the warnings that were not said yet; from now on they were.
    pub fn new_ones(&self, warnings: &[Diagnostic]) -> Vec<Diagnostic> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = |warning: &Diagnostic| {
            format!("{}: {}", warning.span.as_ref().map(crate::diag::Span::place).unwrap_or_default(), warning.message)
        };
        warnings.iter().filter(|warning| said.insert(key(warning))).cloned().collect()
    }
}
