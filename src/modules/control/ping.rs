//! `ping`: is the machine there, and does this program run on it?

use schemars::JsonSchema;
use serde::Deserialize;

use crate::change::Plan;
use crate::host::{Host, Result};
use crate::modules::Module;
use crate::modules::params::Text;

/// Answers; `register` sees it as `ping`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ping {
    /// What is answered. Default: `pong`.
    data: Option<Text>,
}

impl Module for Ping {
    const NAME: &'static str = "ping";
    const SUMMARY: &'static str = "Answer";

    fn plan(&self, _: &dyn Host) -> Result<Plan> {
        let mut plan = Plan::nothing();
        plan.set("ping", self.data.as_ref().map_or("pong", |data| &data.0));
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::host::overlay::testing::{machine, plan};

    #[test]
    fn it_answers() {
        assert_eq!(plan(&machine(&[]), "ping", json!({})).unwrap().result["ping"], "pong");
        assert_eq!(plan(&machine(&[]), "ping", json!({"data": "x"})).unwrap().result["ping"], "x");
    }
}
