//! `hostname`: what the machine calls itself.

use schemars::JsonSchema;
use serde::Deserialize;

use super::put_text;
use crate::change::{Diff, Effect, Op, Plan};
use crate::host::{Error, Host, Result};
use crate::modules::Module;

/// Sets the machine's name, in /etc/hostname and in the running kernel.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hostname {
    /// The name: letters, digits, hyphens and dots, 64 characters at most.
    name: String,
}

const LIVE: &str = "/proc/sys/kernel/hostname";

impl Module for Hostname {
    const NAME: &'static str = "hostname";
    const SUMMARY: &'static str = "Set the machine's name";
    const FREE_FORM: Option<&'static str> = Some("name");

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let name = self.name.as_str();
        let label = |part: &str| {
            !part.is_empty()
                && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
                && !part.starts_with('-')
                && !part.ends_with('-')
        };
        // hostname(5): at most 64 characters (HOST_NAME_MAX).
        if name.len() > 64 || !name.split('.').all(label) {
            return Err(Error::parameters(format!("`{name}` is not a host name"))
                .hint("letters, digits and hyphens, in parts separated by dots, 64 characters at most"));
        }
        let mut plan = Plan::nothing();
        let before = host.read_text("/etc/hostname")?;
        // hostname(5): the first line that is no comment counts.
        let now =
            before.iter().flat_map(|text| text.lines()).map(str::trim).find(|l| !l.is_empty() && !l.starts_with('#'));
        if now != Some(name) {
            put_text(host, &mut plan, "/etc/hostname", before.as_deref(), Some(&format!("{name}\n")))?;
        }
        if let Some(running) = host.read_line(LIVE)?
            && running != name
        {
            let effect = Effect::File { path: LIVE.into(), content: Some(format!("{name}\n")), mode: None };
            let op = Op::Poke { path: LIVE.into(), value: name.to_string(), effects: vec![effect] };
            plan.push(op, vec![Diff::changed("hostname", "running", running, name)]);
        }
        plan.set("name", name);
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::host::overlay::testing::{apply, machine, plan, shown};

    #[test]
    fn file_and_kernel() {
        let machine = machine(&[("/etc/hostname", "old\n"), ("/proc/sys/kernel/hostname", "old\n")]);
        let done = apply(&machine, "hostname", json!({"name": "ws1.example.org"})).unwrap();
        assert_eq!(
            shown(&done),
            "file /etc/hostname\n--- /etc/hostname\n+++ /etc/hostname\n@@ -1 +1 @@\n-old\n+ws1.example.org\n\
             hostname running\nold → ws1.example.org\n"
        );
    }

    #[test]
    fn a_comment_in_the_file_is_no_difference_and_nonsense_is_refused() {
        let machine = machine(&[("/etc/hostname", "# mine\nws1\n")]);
        assert!(apply(&machine, "hostname", json!({"name": "ws1"})).unwrap().is_empty());
        for wrong in ["", "-a", "a..b", "a_b", "a b", &"a".repeat(65)] {
            assert!(plan(&machine, "hostname", json!({"name": wrong})).is_err(), "{wrong}");
        }
    }
}
