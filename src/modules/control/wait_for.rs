//! `wait_for`: waits for a port or a path.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::change::{Diff, Op, Plan, Wait};
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::files::pattern;
use crate::modules::params::Text;

/// What is waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum State {
    /// The port is open.
    #[default]
    Started,
    /// The path exists, or the port is open.
    Present,
    /// The port is closed.
    Stopped,
    /// The path does not exist, or the port is closed.
    Absent,
}

/// Waits until a port is open or a path exists (or no longer), and fails when that takes too long.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WaitFor {
    /// The host of the port, as seen from the machine. Default: `127.0.0.1`.
    #[serde(default = "host")]
    host: String,
    /// The TCP port.
    port: Option<u16>,
    /// A path; absolute.
    path: Option<String>,
    /// What must be found in the file, or in what the port says first. Python's syntax, without look-around.
    search_regex: Option<String>,
    /// What is waited for. Default: `started`.
    #[serde(default)]
    state: State,
    /// Seconds before it has failed. Default: 300.
    #[serde(default = "timeout")]
    timeout: u64,
    /// Seconds before the first look. Default: 0.
    #[serde(default)]
    delay: u64,
    /// Seconds between two looks. Default: 1.
    #[serde(default = "one")]
    sleep: u64,
    /// Seconds that one connection may take. Default: 5.
    #[serde(default = "five")]
    connect_timeout: u64,
    /// What to say when it has failed.
    msg: Option<Text>,
}

fn host() -> String {
    "127.0.0.1".into()
}

fn timeout() -> u64 {
    300
}

fn one() -> u64 {
    1
}

fn five() -> u64 {
    5
}

impl WaitFor {
    /// Is it so already? `None` when that can't be read off the machine.
    fn is_so(&self, host: &dyn Host, present: bool) -> Result<Option<bool>> {
        if let Some(path) = &self.path {
            let there = match (&self.search_regex, host.exists(path)?) {
                (_, false) => false,
                (None, true) => true,
                (Some(text), true) => {
                    let pattern = pattern::compile_multi_line("search_regex", text)?;
                    host.read(path)?.is_some_and(|content| pattern.is_match(&content))
                }
            };
            return Ok(Some(there == present));
        }
        match self.port {
            Some(port)
                if self.search_regex.is_none() && ["127.0.0.1", "localhost", "::1"].contains(&self.host.as_str()) =>
            {
                Ok(listening(host, port)?.map(|listening| listening == present))
            }
            _ => Ok(None),
        }
    }
}

/// proc(5), /proc/net/tcp: the second field is the local address, the fourth the state, where 0A is LISTEN.
fn listening(host: &dyn Host, port: u16) -> Result<Option<bool>> {
    let Some(mut table) = host.read_text("/proc/net/tcp")? else { return Ok(None) };
    table.push_str(&host.read_text("/proc/net/tcp6")?.unwrap_or_default());
    let wanted = format!(":{port:04X}");
    Ok(Some(table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_port = fields.next().is_some_and(|local| local.ends_with(&wanted));
        is_port && fields.nth(1) == Some("0A")
    })))
}

impl Module for WaitFor {
    const NAME: &'static str = "wait_for";
    const SUMMARY: &'static str = "Wait for a port or a path";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan { act: true, ..Plan::default() };
        if self.path.is_some() == self.port.is_some() {
            return Err(Error::parameters("one of `port` and `path` is needed, and not both"));
        }
        let present = matches!(self.state, State::Started | State::Present);
        if self.delay == 0 && self.is_so(host, present)? == Some(true) {
            return Ok(plan);
        }
        let wait = Wait {
            path: self.path.clone(),
            host: self.host.clone(),
            port: self.port,
            pattern: self.search_regex.as_ref().map(|text| pattern::rust("search_regex", text)).transpose()?,
            present,
            timeout: self.timeout,
            delay: self.delay,
            pause: self.sleep,
            connect_timeout: self.connect_timeout,
            message: self.msg.as_ref().map(|text| text.0.clone()),
        };
        let name = match (&self.path, self.port) {
            (Some(path), _) => path.clone(),
            (None, port) => format!("port {} of {}", port.unwrap_or_default(), self.host),
        };
        let until = if present { "there" } else { "gone" };
        plan.push(
            Op::Wait(wait),
            vec![Diff::added("wait", name, format!("waits up to {} s until it is {until}", self.timeout))],
        );
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::host::overlay::testing::{machine, plan, shown};

    const TCP: &str =
        "  sl  local_address rem_address   st\n   0: 00000000:0016 00000000:0000 0A 0\n   1: 0100007F:1F90 0:0 01 0\n";

    #[test]
    fn what_is_so_is_not_waited_for() {
        let m = machine(&[("/proc/net/tcp", TCP), ("/run/x.pid", "12\n")]);
        let count = |parameters| plan(&m, "wait_for", parameters).unwrap().actions.len();
        assert_eq!(count(json!({"port": 22})), 0);
        assert_eq!(count(json!({"port": 22, "state": "stopped"})), 1);
        assert_eq!(count(json!({"port": 8080})), 1);
        assert_eq!(count(json!({"port": 22, "host": "other"})), 1);
        assert_eq!(count(json!({"path": "/run/x.pid"})), 0);
        assert_eq!(count(json!({"path": "/run/x.pid", "search_regex": "^13$"})), 1);
        assert_eq!(count(json!({"path": "/run/y.pid", "state": "absent"})), 0);
        assert_eq!(count(json!({"path": "/run/x.pid", "delay": 1})), 1);
        let said = shown(&plan(&m, "wait_for", json!({"port": 80, "timeout": 9})).unwrap().actions);
        assert_eq!(said, "wait port 80 of 127.0.0.1\n+ waits up to 9 s until it is there\n");
    }

    #[test]
    fn wrong_parameters() {
        let m = machine(&[]);
        for wrong in [
            json!({}),
            json!({"port": 1, "path": "/x"}),
            json!({"port": 99999}),
            json!({"path": "/x", "state": "drained"}),
        ] {
            assert!(plan(&m, "wait_for", wrong.clone()).is_err(), "{wrong}");
        }
    }
}
