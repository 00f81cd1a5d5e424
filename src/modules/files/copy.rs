//! `copy`: a file with a given content.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::change::{Content, Diff, Op, Plan};
use crate::host::{Host, Result};
use crate::modules::Module;
use crate::modules::params::{Mode, Text};

/// Puts a file with a given content in place.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Copy {
    /// Where it goes; absolute.
    dest: String,
    /// The content.
    content: Option<String>,
    /// Permission bits, quoted: "0644".
    mode: Option<Mode>,
    /// Owner, a name or a number.
    owner: Option<Text>,
    /// Group, a name or a number.
    group: Option<Text>,
}

impl Module for Copy {
    const NAME: &'static str = "copy";
    const SUMMARY: &'static str = "Put a file with a given content in place";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan::nothing();
        let wanted = self.content.clone().unwrap_or_default().into_bytes();
        let before = host.read(&self.dest)?;
        if before.as_deref() != Some(&wanted) {
            let diff = Diff::file(&self.dest, before.as_deref(), Some(&wanted));
            plan.push(
                Op::WriteFile {
                    path: self.dest.clone(),
                    content: Content::Bytes(wanted),
                    mode: self.mode.map(|m| m.0),
                    owner: self.owner.as_ref().map(|o| o.0.clone()),
                    group: self.group.as_ref().map(|g| g.0.clone()),
                    validate: Vec::new(),
                },
                vec![diff],
            );
        }
        Ok(plan)
    }
}
