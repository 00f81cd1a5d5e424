//! The ways to hosts: what the inventory and OpenSSH's configuration say, what is known of hosts' keys, and what was
//! asked for once for all of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::agent::protocol::Hello;
use crate::diag::Diagnostic;
use crate::host::Error;
use crate::inventory::{Connection as Reach, ConnectionKind};
use crate::transport::ask::{Ask, Secrets};
use crate::transport::known_hosts::{HostKey, KnownHosts};
use crate::transport::ssh::{self, AgentProgram, Keepalive, Known};
use crate::transport::ssh_config::{self, Config, Files, HostOptions, KeyAgent, Local, Overrides, Policy, Said};
use crate::transport::{Connection, openssh};

/// How long connecting may take where nobody says it (Ansible's number).
const CONNECT: Duration = Duration::from_secs(10);
/// The user's own `ssh` may have to ask a person.
const OPENSSH: Duration = Duration::from_secs(60);

/// Hears what people should know about the ways.
type Warn = Box<dyn Fn(String) + Send + Sync>;

/// The ways to all hosts of a run.
pub struct Ways {
    local: Local,
    configs: Mutex<HashMap<Files, Arc<Config>>>,
    known: Arc<KnownHosts>,
    secrets: Secrets,
    ask: Arc<dyn Ask>,
    program: OnceLock<AgentProgram>,
    said: Said,
    warn: Arc<Warn>,
    /// For hosts of which neither the inventory nor OpenSSH's configuration says it.
    policy: Policy,
}

impl Ways {
    /// Ways on which `ask` is asked and `warn` told.
    pub fn new(ask: Arc<dyn Ask>, accept_new: bool, warn: impl Fn(String) + Send + Sync + 'static) -> Ways {
        Ways {
            local: Local::here(),
            configs: Mutex::default(),
            known: Arc::new(KnownHosts::new()),
            secrets: Secrets::default(),
            ask,
            program: OnceLock::new(),
            said: Said::default(),
            warn: Arc::new(Box::new(warn)),
            policy: if accept_new { Policy::AcceptNew } else { Policy::Strict },
        }
    }

    /// Starts the agent of a host and greets it.
    ///
    /// # Errors
    /// When the host can't be reached, is another one, or lets nobody in.
    pub fn open(&self, name: &str, reach: &Reach, hello: Hello) -> Result<Connection, Error> {
        match reach.kind {
            ConnectionKind::Local | ConnectionKind::Sandbox => Connection::here(hello),
            ConnectionKind::Ssh => {
                let target = self.target(name, reach).map_err(|error| Error::failed(error.to_string()))?;
                let pipe = ssh::start(&target, &Person(self), self.program()?);
                self.known.warnings().iter().for_each(|warning| (self.warn)(warning.to_string()));
                Connection::over(pipe?, hello)
            }
            ConnectionKind::OpenSsh => {
                let AgentProgram { path, size, sha256 } = self.program()?.clone();
                let program = openssh::Program { path, sha256, size };
                let patience = reach.timeout.map_or(OPENSSH, |seconds| Duration::from_secs(seconds.into()) + OPENSSH);
                let target = openssh_target(reach)?;
                Connection::over(openssh::connect(&target, &program, &*self.ask, Instant::now() + patience)?, hello)
            }
        }
    }

    fn program(&self) -> Result<&AgentProgram, Error> {
        match self.program.get() {
            Some(program) => Ok(program),
            None => {
                let found = AgentProgram::current()?;
                Ok(self.program.get_or_init(|| found))
            }
        }
    }

    /// The machine with all that is between.
    fn target(&self, name: &str, reach: &Reach) -> Result<ssh::Target, Diagnostic> {
        let mut over = Overrides {
            user: reach.user.clone(),
            port: reach.port,
            identity_files: reach.private_key_file.iter().cloned().collect(),
            policy: reach.host_key_checking.map(|check| if check { Policy::Strict } else { Policy::No }),
            connect_timeout: reach.timeout.map(|seconds| Duration::from_secs(seconds.into())),
            attempts: reach.retries.map(|retries| retries.saturating_add(1)),
            settings: Vec::new(),
        };
        let mut files = Files::default();
        for (variable, text) in &reach.ssh_arguments {
            if let Some(named) = over.arguments(variable, name, text)? {
                files = named;
            }
        }
        let config = self.config(files)?;
        let mut way = ssh_config::route(&config, &reach.address, &over, &self.local)?;
        for warning in way.iter().flat_map(|options| self.said.new_ones(&options.warnings)) {
            (self.warn)(warning.to_string());
        }
        let last = way.pop().ok_or_else(|| Diagnostic::error(format!("there is no way to `{name}`")))?;
        let hops: Vec<ssh::Target> = way.into_iter().map(|hop| self.one(&hop.alias.clone(), hop, None)).collect();
        let mut target = self.one(name, last, reach.password.clone());
        if !hops.is_empty() {
            target.proxy = ssh::Proxy::Jump(hops);
        }
        Ok(target)
    }

    fn one(&self, name: &str, options: HostOptions, password: Option<String>) -> ssh::Target {
        let alive = Keepalive {
            interval: options.alive_interval.unwrap_or_default(),
            count: if options.alive_interval.is_some() { options.alive_count } else { 0 },
        };
        let checker = Checker {
            known: Arc::clone(&self.known),
            policy: options.policy.unwrap_or(self.policy),
            warn: Arc::clone(&self.warn),
            options: options.clone(),
        };
        ssh::Target {
            name: name.to_string(),
            address: options.hostname,
            port: options.port,
            user: options.user,
            identities: if options.public_key { options.identity_files } else { Vec::new() },
            certificates: options.certificate_files,
            identities_only: options.identities_only,
            agent: match options.agent {
                _ if !options.public_key => None,
                KeyAgent::Environment => ssh::agent_socket(),
                KeyAgent::Nothing => None,
                KeyAgent::Socket(path) => Some(path),
            },
            password: password.filter(|_| options.password || options.keyboard_interactive),
            connect_timeout: options.connect_timeout.unwrap_or(CONNECT),
            retries: options.attempts.saturating_sub(1),
            keepalive: alive,
            proxy: match options.proxy {
                ssh_config::Proxy::Command(command) => ssh::Proxy::Command(command),
                ssh_config::Proxy::Direct | ssh_config::Proxy::Jump(_) => ssh::Proxy::None,
            },
            host_key_alias: options.host_key_alias,
            host_keys: Known(Arc::new(checker)),
        }
    }

    fn config(&self, files: Files) -> Result<Arc<Config>, Diagnostic> {
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(config) = configs.get(&files) {
            return Ok(Arc::clone(config));
        }
        let config = Arc::new(Config::load(&files, &self.local)?);
        configs.insert(files, Arc::clone(&config));
        Ok(config)
    }
}

fn openssh_target(reach: &Reach) -> Result<openssh::Target, Error> {
    let mut target = openssh::Target::new(&reach.address);
    target.port = reach.port;
    target.user = reach.user.clone();
    target.key_file = reach.private_key_file.clone();
    target.check_host_key = reach.host_key_checking;
    target.connect_timeout = reach.timeout.map(|seconds| Duration::from_secs(seconds.into()));
    target.attempts = reach.retries.map(|retries| retries.saturating_add(1));
    target.post_quantum = reach.post_quantum;
    for (variable, text) in &reach.ssh_arguments {
        let words = shlex::split(text)
            .ok_or_else(|| Error::failed(format!("`{variable}` has a quote that is not closed: {text}")))?;
        target.arguments.extend(words);
    }
    Ok(target)
}

/// What was asked once for one host is not asked again for the next.
struct Person<'a>(&'a Ways);

impl ssh::Ask for Person<'_> {
    fn secret(&self, prompt: &str) -> Option<String> {
        self.0.secrets.get(&*self.0.ask, prompt, prompt, 1, &mut |_| true)
    }
    fn yes_no(&self, prompt: &str) -> Option<bool> {
        self.0.ask.confirm(prompt)
    }
}

/// What is known of the keys of one host.
struct Checker {
    known: Arc<KnownHosts>,
    options: HostOptions,
    policy: Policy,
    warn: Arc<Warn>,
}

impl ssh::HostKeys for Checker {
    fn kinds(&self, _: &str, _: u16) -> Vec<String> {
        // A file that can't be read is told when the key is checked.
        self.known.algorithms(&self.options).unwrap_or_default()
    }
    fn check(&self, key: &ssh::HostKey, ask: &dyn ssh::Ask) -> Result<(), Error> {
        let shown = HostKey(key.key.to_vec());
        let warning = self.known.check(&self.options, self.policy, &shown, &|prompt| ask.yes_no(prompt))?;
        warning.into_iter().for_each(|warning| (self.warn)(warning));
        Ok(())
    }
}
