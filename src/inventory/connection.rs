//! How a host is reached: Ansible's `ansible_*` variables, and ours for the sandbox.

use std::fmt;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::is_loopback;
use crate::diag::Diagnostic;

/// How a host is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionKind {
    /// This machine.
    Local,
    /// A folder that holds a machine's files.
    Sandbox,
    /// SSH, spoken by this program.
    Ssh,
    /// SSH, by the user's own `ssh` program.
    OpenSsh,
}

const KINDS: [(&str, ConnectionKind); 5] = [
    ("local", ConnectionKind::Local),
    ("sandbox", ConnectionKind::Sandbox),
    ("ssh", ConnectionKind::Ssh),
    ("openssh", ConnectionKind::OpenSsh),
    // Ansible's word for "whatever way of SSH is best".
    ("smart", ConnectionKind::Ssh),
];

const BECOME_METHODS: [&str; 3] = ["sudo", "su", "doas"];

/// Everything the inventory says about reaching a host.
#[derive(Clone, PartialEq, Eq)]
pub struct Connection {
    /// `ansible_connection`.
    pub kind: ConnectionKind,
    /// `ansible_host`, or the host's name.
    pub address: String,
    /// `ansible_port`.
    pub port: Option<u16>,
    /// `ansible_user`.
    pub user: Option<String>,
    /// `ansible_ssh_private_key_file`; a leading `~/` is the home folder of who runs this.
    pub private_key_file: Option<PathBuf>,
    /// `ansible_password`.
    pub password: Option<String>,
    /// `ansible_host_key_checking`: false takes any key, true only known ones.
    pub host_key_checking: Option<bool>,
    /// `ansible_timeout`: how long connecting may take, in seconds.
    pub timeout: Option<u32>,
    /// `ansible_ssh_retries`: how often connecting is tried again.
    pub retries: Option<u32>,
    /// `ansible_ssh_common_args` and `ansible_ssh_extra_args`: further arguments for `ssh`, by variable.
    pub ssh_arguments: Vec<(&'static str, String)>,
    /// `ssh_post_quantum`: only a key exchange that a quantum computer does not break will do.
    pub post_quantum: bool,
    /// `sandbox_root`: the folder that holds the machine; where relative, beside the inventory.
    pub sandbox_root: Option<PathBuf>,
    /// `sandbox_machine`: the recorded machine that fills an empty folder.
    pub sandbox_machine: Option<String>,
    /// `ansible_become`.
    pub become_: bool,
    /// `ansible_become_method`: sudo, su or doas.
    pub become_method: Option<String>,
    /// `ansible_become_user`.
    pub become_user: Option<String>,
    /// `ansible_become_password`.
    pub become_password: Option<String>,
}

/// Never shows a password.
impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hidden = |secret: &Option<String>| secret.as_ref().map(|_| "***");
        f.debug_struct("Connection")
            .field("kind", &self.kind)
            .field("address", &self.address)
            .field("port", &self.port)
            .field("user", &self.user)
            .field("private_key_file", &self.private_key_file)
            .field("password", &hidden(&self.password))
            .field("host_key_checking", &self.host_key_checking)
            .field("timeout", &self.timeout)
            .field("retries", &self.retries)
            .field("ssh_arguments", &self.ssh_arguments)
            .field("post_quantum", &self.post_quantum)
            .field("sandbox_root", &self.sandbox_root)
            .field("sandbox_machine", &self.sandbox_machine)
            .field("become_", &self.become_)
            .field("become_method", &self.become_method)
            .field("become_user", &self.become_user)
            .field("become_password", &hidden(&self.become_password))
            .finish()
    }
}

impl Connection {
    /// What the variables of a host say; they are rendered already.
    ///
    /// `localhost` (and 127.0.0.1, ::1) is this machine unless its variables say otherwise: a connection, a port, or an
    /// address that is another.
    ///
    /// # Errors
    /// An unknown connection or become method, or a value of the wrong type; the host and the variable are named.
    pub fn of(name: &str, vars: &Map<String, Value>) -> Result<Connection, Diagnostic> {
        let vars = Vars { host: name, vars };
        let address = vars.text(&["ansible_host", "ansible_ssh_host"])?;
        let port = vars.port(&["ansible_port", "ansible_ssh_port"])?;
        let kind = match vars.text(&["ansible_connection"])? {
            Some(word) => vars.kind(&word)?,
            None if is_loopback(name) && port.is_none() && address.as_deref().is_none_or(is_loopback) => {
                ConnectionKind::Local
            }
            None => ConnectionKind::Ssh,
        };
        let post_quantum = vars.truth(&["ssh_post_quantum"])?.unwrap_or(false);
        // libssh2 has no such key exchange, OpenSSH's client does.
        let kind = match kind {
            ConnectionKind::Ssh if post_quantum => ConnectionKind::OpenSsh,
            kind => kind,
        };
        let become_method = vars.text(&["ansible_become_method"])?;
        let become_method = become_method.map(|word| vars.become_method(word)).transpose()?;
        Ok(Connection {
            kind,
            address: address.unwrap_or_else(|| name.to_string()),
            port,
            user: vars.text(&["ansible_user", "ansible_ssh_user"])?,
            private_key_file: vars
                .text(&["ansible_ssh_private_key_file", "ansible_private_key_file"])?
                .map(|path| at_home(&path)),
            password: vars.text(&["ansible_password", "ansible_ssh_password", "ansible_ssh_pass"])?,
            host_key_checking: vars.truth(&["ansible_ssh_host_key_checking", "ansible_host_key_checking"])?,
            timeout: vars.number(&["ansible_ssh_timeout", "ansible_timeout"])?,
            retries: vars.number(&["ansible_ssh_retries"])?,
            ssh_arguments: {
                let mut found = Vec::new();
                for name in ["ansible_ssh_common_args", "ansible_ssh_extra_args"] {
                    found.extend(vars.text(&[name])?.map(|text| (name, text)));
                }
                found
            },
            post_quantum,
            sandbox_root: vars.text(&["sandbox_root"])?.map(|path| at_home(&path)),
            sandbox_machine: vars.text(&["sandbox_machine"])?,
            become_: vars.truth(&["ansible_become"])?.unwrap_or(false),
            become_method,
            become_user: vars.text(&["ansible_become_user"])?,
            become_password: vars.text(&["ansible_become_password", "ansible_become_pass"])?,
        })
    }

    /// What must never be shown.
    pub fn secrets(&self) -> impl Iterator<Item = &str> {
        [self.password.as_deref(), self.become_password.as_deref()].into_iter().flatten()
    }
}

fn at_home(path: &str) -> PathBuf {
    match (path.strip_prefix("~/"), std::env::home_dir()) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

struct Vars<'a> {
    host: &'a str,
    vars: &'a Map<String, Value>,
}

impl Vars<'_> {
    /// The first of these names that has a value; empty is none.
    fn first<'n>(&self, names: &[&'n str]) -> Option<(&'n str, &Value)> {
        let found = names.iter().filter_map(|name| Some((*name, self.vars.get(*name)?)));
        found.into_iter().find(|(_, value)| !value.is_null() && value.as_str() != Some(""))
    }

    fn wrong(&self, variable: &str, expected: &str, value: &Value) -> Diagnostic {
        // A value of the wrong kind may still be a secret, so it is never part of the message.
        let kind = match value {
            Value::Null => "nothing",
            Value::Bool(_) => "a truth value",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "a list",
            Value::Object(_) => "a map",
        };
        self.error(format!("`{variable}` must be {expected}, and is {kind}"))
    }

    fn error(&self, message: impl fmt::Display) -> Diagnostic {
        Diagnostic::error(format!("host `{}`: {message}", self.host))
    }

    /// A string; a number is the text it was written as.
    fn text(&self, names: &[&str]) -> Result<Option<String>, Diagnostic> {
        self.first(names)
            .map(|(name, value)| match value {
                Value::String(text) => Ok(text.clone()),
                Value::Number(number) => Ok(number.to_string()),
                _ => Err(self.wrong(name, "a string", value)),
            })
            .transpose()
    }

    fn port(&self, names: &[&str]) -> Result<Option<u16>, Diagnostic> {
        self.first(names)
            .map(|(name, value)| {
                let port = match value {
                    Value::Number(number) => number.as_u64().and_then(|number| u16::try_from(number).ok()),
                    Value::String(text) => text.trim().parse().ok(),
                    _ => None,
                };
                port.filter(|port| *port > 0).ok_or_else(|| self.wrong(name, "a port, 1 to 65535", value))
            })
            .transpose()
    }

    fn number(&self, names: &[&str]) -> Result<Option<u32>, Diagnostic> {
        self.first(names)
            .map(|(name, value)| {
                let number = match value {
                    Value::Number(number) => number.as_u64().and_then(|number| u32::try_from(number).ok()),
                    Value::String(text) => text.trim().parse().ok(),
                    _ => None,
                };
                number.ok_or_else(|| self.wrong(name, "a whole number", value))
            })
            .transpose()
    }

    fn truth(&self, names: &[&str]) -> Result<Option<bool>, Diagnostic> {
        self.first(names)
            .map(|(name, value)| {
                let truth = match value {
                    Value::Bool(truth) => Some(*truth),
                    Value::Number(number) => match number.as_i64() {
                        Some(0) => Some(false),
                        Some(1) => Some(true),
                        _ => None,
                    },
                    Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
                        "true" | "yes" | "on" | "1" | "y" | "t" => Some(true),
                        "false" | "no" | "off" | "0" | "n" | "f" => Some(false),
                        _ => None,
                    },
                    _ => None,
                };
                truth.ok_or_else(|| self.wrong(name, "true or false", value))
            })
            .transpose()
    }

    fn kind(&self, word: &str) -> Result<ConnectionKind, Diagnostic> {
        let short = word.strip_prefix("ansible.builtin.").unwrap_or(word);
        KINDS.iter().find(|(name, _)| *name == short).map(|(_, kind)| *kind).ok_or_else(|| {
            self.error(format!("unknown `ansible_connection` `{word}`"))
                .help("it can be local, sandbox, ssh or openssh")
                .nearest(short, KINDS.map(|(name, _)| name))
        })
    }

    fn become_method(&self, word: String) -> Result<String, Diagnostic> {
        let short = word.rsplit('.').next().unwrap_or(&word);
        if BECOME_METHODS.contains(&short) {
            return Ok(short.to_string());
        }
        Err(self
            .error(format!("unknown `ansible_become_method` `{word}`"))
            .help("it can be sudo, su or doas")
            .nearest(short, BECOME_METHODS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(name: &str, vars: Value) -> Result<Connection, Diagnostic> {
        Connection::of(name, vars.as_object().unwrap())
    }

    #[test]
    fn the_kind_follows_the_name_unless_it_is_said() {
        for (name, vars, kind) in [
            ("ws01", json!({}), ConnectionKind::Ssh),
            ("localhost", json!({}), ConnectionKind::Local),
            ("127.0.0.1", json!({}), ConnectionKind::Local),
            ("localhost", json!({"ansible_host": "10.0.0.1"}), ConnectionKind::Ssh),
            ("localhost", json!({"ansible_port": 2222}), ConnectionKind::Ssh),
            ("localhost", json!({"ansible_connection": "ssh"}), ConnectionKind::Ssh),
            ("ws01", json!({"ansible_host": "127.0.0.1"}), ConnectionKind::Ssh),
            ("ws01", json!({"ansible_connection": "sandbox"}), ConnectionKind::Sandbox),
            ("ws01", json!({"ansible_connection": "ansible.builtin.local"}), ConnectionKind::Local),
            ("ws01", json!({"ansible_connection": "openssh"}), ConnectionKind::OpenSsh),
            ("ws01", json!({"ansible_connection": null}), ConnectionKind::Ssh),
            ("ws01", json!({"ssh_post_quantum": true}), ConnectionKind::OpenSsh),
            ("localhost", json!({"ssh_post_quantum": true}), ConnectionKind::Local),
        ] {
            assert_eq!(of(name, vars.clone()).unwrap().kind, kind, "{name} {vars}");
        }
    }

    #[test]
    fn reads_ansibles_variables() {
        let connection = of(
            "ws01",
            json!({
                "ansible_ssh_host": "10.0.0.1", "ansible_port": "2222", "ansible_ssh_user": "admin",
                "ansible_password": 1234,
                "ansible_ssh_private_key_file": "keys/id", "ansible_become": "yes",
                "ansible_become_method": "ansible.builtin.sudo",
                "ansible_become_user": "root", "ansible_become_pass": "top",
                "sandbox_root": ".sandbox/ws01", "sandbox_machine": "seed",
                "ansible_host_key_checking": "no", "ansible_timeout": "30", "ansible_ssh_retries": 2,
                "ansible_ssh_common_args": "-o X=y", "ansible_ssh_extra_args": "-J a",
            }),
        )
        .unwrap();
        let expected = Connection {
            kind: ConnectionKind::Ssh,
            address: "10.0.0.1".into(),
            port: Some(2222),
            user: Some("admin".into()),
            private_key_file: Some("keys/id".into()),
            password: Some("1234".into()),
            host_key_checking: Some(false),
            timeout: Some(30),
            retries: Some(2),
            ssh_arguments: vec![
                ("ansible_ssh_common_args", "-o X=y".into()),
                ("ansible_ssh_extra_args", "-J a".into()),
            ],
            post_quantum: false,
            sandbox_root: Some(".sandbox/ws01".into()),
            sandbox_machine: Some("seed".into()),
            become_: true,
            become_method: Some("sudo".into()),
            become_user: Some("root".into()),
            become_password: Some("top".into()),
        };
        assert_eq!(connection, expected);
        assert_eq!(connection.secrets().collect::<Vec<_>>(), ["1234", "top"]);
        let shown = format!("{connection:?}");
        assert!(!shown.contains("1234") && !shown.contains("top"), "{shown}");
    }

    #[test]
    fn mistakes_name_host_and_variable_and_show_no_value() {
        for (vars, parts) in [
            (json!({"ansible_connection": "sandbx"}), ["`ansible_connection` `sandbx`", "did you mean `sandbox`?"]),
            (json!({"ansible_connection": "winrm"}), ["`winrm`", "local, sandbox, ssh or openssh"]),
            (json!({"ansible_become_method": "sudoo"}), ["`ansible_become_method`", "did you mean `sudo`?"]),
            (json!({"ansible_port": 0}), ["`ansible_port` must be a port", "a number"]),
            (json!({"ansible_port": "ssh"}), ["`ansible_port` must be a port", "a string"]),
            (json!({"ansible_timeout": "soon"}), ["`ansible_timeout` must be a whole number", "a string"]),
            (json!({"ansible_become": "perhaps"}), ["`ansible_become` must be true or false", "string"]),
            (json!({"ansible_user": ["root"]}), ["`ansible_user` must be a string", "a list"]),
            (json!({"ansible_host": true}), ["`ansible_host` must be a string", "a truth value"]),
        ] {
            let error = of("ws01", vars.clone()).unwrap_err().to_string();
            assert!(error.contains("`ws01`"), "{error}");
            parts.iter().for_each(|part| assert!(error.contains(part), "{vars}: {error}"));
        }
        let error = of("ws01", json!({"ansible_password": {"a": "hush"}})).unwrap_err().to_string();
        assert!(!error.contains("hush"), "{error}");
    }
}
