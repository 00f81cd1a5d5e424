//! `slurp`: the content of a file.

use base64::{Engine, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::change::Plan;
use crate::host::{Error, Host, Result};
use crate::modules::Module;

/// Reads a file; `register` sees `content` in base64 (`{{ it.content | b64decode }}`), `encoding` and `source`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Slurp {
    /// The file; absolute.
    #[serde(alias = "path")]
    src: String,
}

/// What a result may hold; it travels in one frame and stays in memory on the controller.
const LARGEST: u64 = 32 << 20;

impl Module for Slurp {
    const NAME: &'static str = "slurp";
    const SUMMARY: &'static str = "Read a file into a variable";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan::nothing();
        if host.stat(&self.src)?.is_some_and(|stat| stat.size > LARGEST) {
            return Err(Error::failed(format!("{} is larger than 32 MiB: too much for a variable", self.src)));
        }
        let content =
            host.read(&self.src)?.ok_or_else(|| Error::failed(format!("the file {} does not exist", self.src)))?;
        plan.set("content", STANDARD.encode(content));
        plan.set("encoding", "base64");
        plan.set("source", self.src.clone());
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::host::overlay::testing::{machine, plan};

    #[test]
    fn content_comes_in_base64() {
        let m = machine(&[("/etc/hostname", "ws1\n")]);
        assert_eq!(plan(&m, "slurp", json!({"src": "/etc/hostname"})).unwrap().result["content"], "d3MxCg==");
        assert!(plan(&m, "slurp", json!({"src": "/etc/none"})).unwrap_err().message.contains("does not exist"));
        assert!(plan(&m, "slurp", json!({"src": "/etc"})).unwrap_err().message.contains("is a folder"));
    }
}
