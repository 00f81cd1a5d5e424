//! `setup`: the facts of a machine.

use schemars::JsonSchema;
use serde::Deserialize;

use super::command::matches;
use crate::change::Plan;
use crate::facts;
use crate::host::{Host, Result};
use crate::modules::Module;
use crate::modules::params::{List, Text};

/// Gathers facts: what the machine is. They become variables named `ansible_…`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// Which parts: `all`, `min`, `os`, `hardware`, `network`, `pci`, `iommu`; with `!` in front, without that part.
    /// Default: `all`.
    #[serde(default)]
    gather_subset: List<Text>,
    /// Only facts whose names fit one of these; `*` and `?` stand for anything.
    #[serde(default)]
    filter: List<Text>,
}

impl Module for Setup {
    const NAME: &'static str = "setup";
    const SUMMARY: &'static str = "Gather the facts of a machine";
    const ALIASES: &'static [&'static str] = &["gather_facts"];

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan::nothing();
        let subset: Vec<&str> = self.gather_subset.iter().map(|part| &**part).collect();
        let mut found = facts::gather(host, &subset)?;
        if !self.filter.is_empty() {
            let filters: Vec<Vec<char>> = self.filter.iter().map(|text| text.chars().collect()).collect();
            found.retain(|name, _| {
                let bare: Vec<char> = name.trim_start_matches("ansible_").chars().collect();
                let name: Vec<char> = name.chars().collect();
                filters.iter().any(|filter| matches(filter, &name) || matches(filter, &bare))
            });
        }
        plan.set("ansible_facts", found);
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::host::overlay::testing::{machine, plan};

    #[test]
    fn subsets_and_filters() {
        let m = machine(&[
            ("/etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n"),
            ("/proc/sys/kernel/osrelease", "6.1.0\n"),
        ]);
        let names = |parameters| {
            let plan = plan(&m, "setup", parameters).unwrap();
            plan.result["ansible_facts"].as_object().unwrap().keys().cloned().collect::<Vec<_>>()
        };
        assert_eq!(names(json!({"filter": "ansible_kern*"})), ["ansible_kernel"]);
        assert_eq!(names(json!({"filter": ["distribution", "nothing"]})), ["ansible_distribution"]);
        let some = names(json!({"gather_subset": ["!all", "os"]}));
        assert!(some.contains(&"ansible_os_family".to_string()) && !some.contains(&"ansible_pci".to_string()));
        assert!(plan(&m, "setup", json!({"gather_subset": "everything"})).is_err());
    }
}
