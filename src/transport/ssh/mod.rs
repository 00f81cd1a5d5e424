//! SSH, spoken by this program: one session per host, one channel that carries the whole run.
//!
//! libssh2 never blocks here. Everything waits in `poll()` on the calling thread, with a deadline, and with TCP's delayed
//! acknowledgements switched off around each wait: sshd sends two small messages after a login, and without that the
//! second one is 40 ms late.

mod auth;
mod connect;
mod jump;
mod keys;
mod program;
mod remote;
mod session;
mod upload;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::host::Error;

pub use program::AgentProgram;
pub use remote::Remote;

/// A machine to log in to, with everything that was said about how.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    /// The inventory's name, for messages.
    pub name: String,
    /// Address or host name to connect to.
    pub address: String,
    /// TCP port.
    pub port: u16,
    /// Who logs in.
    pub user: String,
    /// Private keys, in the order in which they are tried. A missing one is passed over.
    pub identities: Vec<PathBuf>,
    /// Certificates for these keys, beside `KEY-cert.pub`, which is always looked for.
    pub certificates: Vec<PathBuf>,
    /// Only these keys are offered, also of those that the ssh-agent has.
    pub identities_only: bool,
    /// The ssh-agent's socket ([`agent_socket`]), where it may be asked.
    pub agent: Option<PathBuf>,
    /// For the methods `password` and `keyboard-interactive`.
    pub password: Option<String>,
    /// From the first packet to the end of the key exchange. Later steps have no less than 30 seconds.
    pub connect_timeout: Duration,
    /// How often a connection that did not come about is tried again. What the far end refused is not tried again.
    pub retries: u32,
    /// When a far end that says nothing counts as gone.
    pub keepalive: Keepalive,
    /// The way there.
    pub proxy: Proxy,
    /// Host keys are looked up under this name (`HostKeyAlias`), else under the address.
    pub host_key_alias: Option<String>,
    /// Knows the hosts' keys, and decides.
    pub host_keys: Known,
}

/// The far end is asked for a sign of life after `interval` of silence, and is gone after `count` of them unanswered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before a question; no less than two seconds. Zero means the default: nobody waits for ever.
    pub interval: Duration,
    /// Unanswered questions; zero means the default.
    pub count: u32,
}

impl Default for Keepalive {
    /// 15 seconds, four times.
    fn default() -> Keepalive {
        Keepalive { interval: Duration::from_secs(15), count: 4 }
    }
}

impl Keepalive {
    fn interval(self) -> Duration {
        // libssh2 does not ask more often than every two seconds.
        const LEAST: Duration = Duration::from_secs(2);
        if self.interval.is_zero() { Keepalive::default().interval } else { self.interval.max(LEAST) }
    }
    fn limit(self) -> Duration {
        let count = if self.count == 0 { Keepalive::default().count } else { self.count };
        self.interval().saturating_mul(count.saturating_add(1))
    }
}

/// The way to a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Proxy {
    /// Straight.
    #[default]
    None,
    /// Through these machines, the first of which is reached by its own `proxy`.
    Jump(Vec<Target>),
    /// Through the standard input and output of a command for `/bin/sh`, whose tokens (`%h` …) are filled in already.
    Command(String),
}

/// The key that a host showed.
#[derive(Clone, Copy, Debug)]
pub struct HostKey<'a> {
    /// The inventory's name, for messages.
    pub name: &'a str,
    /// The name under which keys are looked up.
    pub host: &'a str,
    /// The port.
    pub port: u16,
    /// The address that was connected to, where it is known.
    pub address: Option<IpAddr>,
    /// `ssh-ed25519`, `ecdsa-sha2-nistp256`, `ssh-rsa` …
    pub kind: &'a str,
    /// The key, as it travels.
    pub key: &'a [u8],
}

/// Whom to believe: `known_hosts` and what was said about strictness.
pub trait HostKeys: Send + Sync {
    /// The types of key that are known for a host. These are asked for first, so that a host is not taken for a
    /// stranger for showing another of its keys.
    fn kinds(&self, host: &str, port: u16) -> Vec<String>;
    /// Is it the host? Where a person has to decide, `ask`.
    ///
    /// # Errors
    /// When the host must not be talked to. The message stands for itself.
    fn check(&self, key: &HostKey, ask: &dyn Ask) -> Result<(), Error>;
}

/// [`HostKeys`] that can be kept in a [`Target`].
#[derive(Clone)]
pub struct Known(pub Arc<dyn HostKeys>);

impl PartialEq for Known {
    fn eq(&self, other: &Known) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Known {}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("Known")
    }
}

/// A person, who may be away.
pub trait Ask: Sync {
    /// Something that is typed without echo; `None` when nobody can be asked.
    fn secret(&self, prompt: &str) -> Option<String>;
    /// Yes or no; `None` when nobody can be asked.
    fn yes_no(&self, prompt: &str) -> Option<bool>;
}

/// The ssh-agent that the environment names.
pub fn agent_socket() -> Option<PathBuf> {
    std::env::var_os("SSH_AUTH_SOCK").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// Logs in and starts this program there, which is put in place first if need be.
///
/// # Errors
/// When the machine can't be reached, is another one, lets nobody in or can't run this program.
pub fn start(target: &Target, ask: &dyn Ask, program: &AgentProgram) -> Result<Remote, Error> {
    let mut link = connect::open(target, ask)?;
    auth::login(&mut link, target, ask)?;
    upload::start(link, target, program)
}

impl Target {
    /// As people write it.
    pub fn place(&self) -> String {
        if self.address.contains(':') {
            format!("[{}]:{}", self.address, self.port)
        } else {
            format!("{}:{}", self.address, self.port)
        }
    }
    /// An error about this machine.
    fn failed(&self, what: impl fmt::Display) -> Error {
        Error::failed(format!("{} ({}@{}): {what}", self.name, self.user, self.place()))
    }
    /// How long one step may take once the far end has spoken: PAM and LDAP are slow.
    fn patience(&self) -> Duration {
        self.connect_timeout.max(Duration::from_secs(30))
    }
}

impl fmt::Debug for Target {
    /// Without the password.
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("Target")
            .field("name", &self.name)
            .field("address", &self.address)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("identities", &self.identities)
            .field("proxy", &self.proxy)
            .finish_non_exhaustive()
    }
}
