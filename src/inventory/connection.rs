//! How to reach a host: Ansible's connection variables with types.

use std::fmt;
use std::path::PathBuf;

use serde_json::Value;

use super::THIS_MACHINE;
use crate::diag::{Diagnostic, nearest};

/// The way to a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionKind {
    /// This machine itself.
    Local,
    /// A folder that is treated as a machine.
    Sandbox,
    /// SSH, spoken by this program.
    Ssh,
    /// SSH by the user's own `ssh`.
    OpenSsh,
}

/// A password; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

/// How to reach a host, and as whom to work there. What is `None` was not said.
#[derive(Clone, Debug, PartialEq)]
pub struct Connection {
    /// `ansible_connection`
    pub kind: ConnectionKind,
    /// `ansible_host`; the host's own name if not said.
    pub host: String,
    /// `ansible_port`
    pub port: Option<u16>,
    /// `ansible_user`
    pub user: Option<String>,
    /// `ansible_ssh_private_key_file`, as written.
    pub private_key_file: Option<PathBuf>,
    /// `ansible_password`
    pub password: Option<Secret>,
    /// `ansible_become`
    pub r#become: Option<bool>,
    /// `ansible_become_method`
    pub become_method: Option<String>,
    /// `ansible_become_user`
    pub become_user: Option<String>,
    /// `ansible_become_password`
    pub become_password: Option<Secret>,
    /// `ansible_ssh_args`, `ansible_ssh_common_args` and `ansible_ssh_extra_args`, split as a shell splits them.
    pub ssh_args: Vec<String>,
    /// `ansible_ssh_executable`
    pub ssh_executable: Option<PathBuf>,
    /// `ansible_host_key_checking`
    pub host_key_checking: Option<bool>,
    /// `ansible_timeout`, in seconds.
    pub timeout: Option<u64>,
    /// `sandbox_root`: the folder, as written.
    pub sandbox_root: Option<PathBuf>,
    /// `sandbox_machine`: the recorded machine that the folder begins as.
    pub sandbox_machine: Option<String>,
}

impl Connection {
    /// The variables that are read, for callers that render only what is needed.
    pub const VARIABLES: &'static [&'static str] = &[
        "ansible_connection",
        "ansible_host",
        "ansible_ssh_host",
        "ansible_port",
        "ansible_ssh_port",
        "ansible_user",
        "ansible_ssh_user",
        "ansible_ssh_private_key_file",
        "ansible_private_key_file",
        "ansible_password",
        "ansible_ssh_pass",
        "ansible_ssh_password",
        "ansible_become",
        "ansible_become_method",
        "ansible_become_user",
        "ansible_become_password",
        "ansible_become_pass",
        "ansible_ssh_args",
        "ansible_ssh_common_args",
        "ansible_ssh_extra_args",
        "ansible_ssh_executable",
        "ansible_host_key_checking",
        "ansible_ssh_host_key_checking",
        "ansible_timeout",
        "ansible_ssh_timeout",
        "sandbox_root",
        "sandbox_machine",
    ];

    /// The connection of a host from its rendered variables. `localhost` and `127.0.0.1` are this machine unless something else
    /// is said. The error names the variable and has no place.
    pub fn of(name: &str, get: &dyn Fn(&str) -> Option<Value>) -> Result<Connection, Diagnostic> {
        let vars = Reader { host: name, get };
        let here = THIS_MACHINE.contains(&name);
        let kind = match vars.text(&["ansible_connection"])?.as_deref() {
            None if here => ConnectionKind::Local,
            None | Some("ssh" | "smart" | "paramiko" | "paramiko_ssh" | "ansible.builtin.ssh") => ConnectionKind::Ssh,
            Some("local" | "ansible.builtin.local") => ConnectionKind::Local,
            Some("sandbox") => ConnectionKind::Sandbox,
            Some("openssh") => ConnectionKind::OpenSsh,
            Some(other) => {
                let known = ["local", "sandbox", "ssh", "openssh"];
                let error = Diagnostic::error(format!("`ansible_connection` of `{name}` can't be `{other}`"));
                return Err(match nearest(other, known) {
                    Some(near) => error.help(format!("did you mean `{near}`?")),
                    None => error.help(format!("known are {}", known.join(", "))),
                });
            }
        };
        let mut ssh_args = Vec::new();
        for variable in ["ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args"] {
            let Some(args) = vars.text(&[variable])? else { continue };
            match shlex::split(&args) {
                Some(args) => ssh_args.extend(args),
                None => return Err(vars.wrong(variable, "has a quote that is never closed")),
            }
        }
        let secret = |names: &[&str]| vars.text(names).map(|text| text.map(Secret));
        let connection = Connection {
            kind,
            host: vars.text(&["ansible_host", "ansible_ssh_host"])?.unwrap_or_else(|| name.to_string()),
            port: vars
                .number(&["ansible_port", "ansible_ssh_port"], 1, u64::from(u16::MAX))?
                .and_then(|p| p.try_into().ok()),
            user: vars.text(&["ansible_user", "ansible_ssh_user"])?,
            private_key_file: vars
                .text(&["ansible_ssh_private_key_file", "ansible_private_key_file"])?
                .map(PathBuf::from),
            password: secret(&["ansible_password", "ansible_ssh_pass", "ansible_ssh_password"])?,
            r#become: vars.flag(&["ansible_become"])?,
            become_method: vars.text(&["ansible_become_method"])?,
            become_user: vars.text(&["ansible_become_user"])?,
            become_password: secret(&["ansible_become_password", "ansible_become_pass"])?,
            ssh_args,
            ssh_executable: vars.text(&["ansible_ssh_executable"])?.map(PathBuf::from),
            host_key_checking: vars.flag(&["ansible_ssh_host_key_checking", "ansible_host_key_checking"])?,
            timeout: vars.number(&["ansible_ssh_timeout", "ansible_timeout"], 1, 86_400)?,
            sandbox_root: vars.text(&["sandbox_root"])?.map(PathBuf::from),
            sandbox_machine: vars.text(&["sandbox_machine"])?,
        };
        if kind == ConnectionKind::Sandbox && connection.sandbox_root.is_none() {
            return Err(Diagnostic::error(format!("the sandbox host `{name}` has no `sandbox_root`"))
                .help("say which folder is the machine: `sandbox_root=DIR`"));
        }
        Ok(connection)
    }
}

struct Reader<'a> {
    host: &'a str,
    get: &'a dyn Fn(&str) -> Option<Value>,
}

impl Reader<'_> {
    fn wrong(&self, variable: &str, what: &str) -> Diagnostic {
        Diagnostic::error(format!("`{variable}` of `{}` {what}", self.host))
    }

    /// The first of the variables that says something.
    fn first<'n>(&self, names: &[&'n str]) -> Option<(&'n str, Value)> {
        names.iter().find_map(|name| {
            let value = (self.get)(name)?;
            let empty = value.is_null() || value.as_str().is_some_and(str::is_empty);
            (!empty).then_some((*name, value))
        })
    }

    fn text(&self, names: &[&str]) -> Result<Option<String>, Diagnostic> {
        match self.first(names) {
            None => Ok(None),
            Some((_, Value::String(text))) => Ok(Some(text)),
            Some((_, Value::Number(number))) => Ok(Some(number.to_string())),
            Some((name, _)) => Err(self.wrong(name, "must be text")),
        }
    }

    fn number(&self, names: &[&str], least: u64, most: u64) -> Result<Option<u64>, Diagnostic> {
        let Some((name, value)) = self.first(names) else { return Ok(None) };
        let number = match &value {
            Value::String(text) => text.trim().parse().ok(),
            other => other.as_u64(),
        };
        match number.filter(|number| (least..=most).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(self.wrong(name, &format!("must be a number from {least} to {most}"))),
        }
    }

    fn flag(&self, names: &[&str]) -> Result<Option<bool>, Diagnostic> {
        let Some((name, value)) = self.first(names) else { return Ok(None) };
        let flag = match &value {
            Value::Bool(flag) => Some(*flag),
            Value::Number(number) => number.as_u64().filter(|number| *number < 2).map(|number| number == 1),
            Value::String(text) => match text.trim().to_lowercase().as_str() {
                "yes" | "true" | "on" | "1" => Some(true),
                "no" | "false" | "off" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        };
        flag.map(Some).ok_or_else(|| self.wrong(name, "must be true or false"))
    }
}
