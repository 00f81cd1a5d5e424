//! `replace`: every match of a pattern in a file.

use schemars::JsonSchema;
use serde::Deserialize;

use super::common::{Target, Wanted};
use super::pattern::{Replacement, compile_dot_all, compile_multi_line};
use crate::change::Plan;
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::params::{Flag, Mode, Text};

/// Replaces all that a pattern finds in a file.
///
/// A second run must find nothing more to change, so the pattern must not match what it was replaced by, unless it is
/// replaced by the same again.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Replace {
    /// The file; absolute. It must exist.
    #[serde(alias = "dest", alias = "destfile", alias = "name")]
    path: String,
    /// What is looked for. `^` and `$` are the ends of a line; Python's syntax, without look-around.
    regexp: String,
    /// What comes in its place; `\1` and `\g<name>` are groups of `regexp`. Default: nothing.
    #[serde(default)]
    replace: Text,
    /// Only what is behind the first match of this pattern changes.
    after: Option<String>,
    /// Only what is before the first match of this pattern changes (behind `after`, if that is given too).
    before: Option<String>,
    /// Keep the old content beside the file, as `NAME.~1~`, … Default: false.
    #[serde(default)]
    backup: Flag,
    /// A command that must succeed before the new content counts; `%s` stands for its path.
    validate: Option<String>,
    /// Permission bits, quoted: "0644".
    mode: Option<Mode>,
    /// Owner, a name or a number.
    owner: Option<Text>,
    /// Group, a name or a number.
    group: Option<Text>,
}

impl Replace {
    /// The part of the content that may change; `None` where `after` and `before` are not found.
    fn section(&self, content: &[u8]) -> Result<Option<(usize, usize)>> {
        let mut from = 0;
        if let Some(after) = &self.after {
            match compile_dot_all("after", after)?.find(content) {
                Some(found) => from = found.end(),
                None => return Ok(None),
            }
        }
        let mut to = content.len();
        if let Some(before) = &self.before {
            match compile_dot_all("before", before)?.find(content.get(from..).unwrap_or_default()) {
                Some(found) => to = from + found.start(),
                None => return Ok(None),
            }
        }
        Ok(Some((from, to)))
    }

    fn change(&self, content: &[u8]) -> Result<Option<Vec<u8>>> {
        let pattern = compile_multi_line("regexp", &self.regexp)?;
        let replacement = Replacement::parse("replace", &self.replace, &pattern)?;
        let Some((from, to)) = self.section(content)? else { return Ok(None) };
        let part = |from: usize, to: usize| content.get(from..to).unwrap_or_default();
        let changed =
            pattern.replace_all(part(from, to), |found: &regex::bytes::Captures<'_>| replacement.expand(found));
        Ok(Some([part(0, from), &changed, part(to, content.len())].concat()))
    }
}

impl Module for Replace {
    const NAME: &'static str = "replace";
    const SUMMARY: &'static str = "Replace all that a pattern finds in a file";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan::nothing();
        let target = Target {
            path: &self.path,
            wanted: Wanted { mode: self.mode, owner: self.owner.as_ref(), group: self.group.as_ref() },
            validate: self.validate.as_deref(),
            backup: self.backup.0,
        };
        let content =
            host.read(&self.path)?.ok_or_else(|| Error::failed(format!("the file {} does not exist", self.path)))?;
        let changed = match self.change(&content)? {
            Some(changed) => changed,
            None => {
                plan.notes.push(format!("`after` or `before` is not found in {}: nothing is replaced", self.path));
                content.clone()
            }
        };
        target.put(host, &mut plan, Some(&content), changed)?;
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::host::Host;
    use crate::host::overlay::testing::{apply, machine, plan};

    fn after(content: &str, mut parameters: Value) -> String {
        let m = machine(&[("/f", content)]);
        parameters["path"] = json!("/f");
        apply(&m, "replace", parameters).unwrap();
        m.read_text("/f").unwrap().unwrap()
    }

    #[test]
    fn all_matches_with_groups() {
        assert_eq!(after("a=1\nb=2\n", json!({"regexp": r"^(\w)=(\d)$", "replace": r"\1: \2"})), "a: 1\nb: 2\n");
        assert_eq!(after("a b c", json!({"regexp": " "})), "abc");
        assert_eq!(after("x", json!({"regexp": "y", "replace": "z"})), "x");
    }

    #[test]
    fn only_in_the_section() {
        let text = "x\n[a]\nx\n[b]\nx\n";
        let ask = |after: Option<&str>, before: Option<&str>| json!({"regexp": "x", "replace": "y", "after": after, "before": before});
        assert_eq!(after(text, ask(Some(r"\[a\]"), Some(r"\[b\]"))), "x\n[a]\ny\n[b]\nx\n");
        assert_eq!(after(text, ask(Some(r"\[a\]"), None)), "x\n[a]\ny\n[b]\ny\n");
        assert_eq!(after(text, ask(None, Some(r"\[a\]"))), "y\n[a]\nx\n[b]\nx\n");
        assert_eq!(after(text, ask(Some("nowhere"), None)), text);
    }

    #[test]
    fn a_missing_file_and_a_wrong_group() {
        let m = machine(&[("/f", "x")]);
        assert!(
            plan(&m, "replace", json!({"path": "/g", "regexp": "x"})).unwrap_err().message.contains("does not exist")
        );
        assert!(plan(&m, "replace", json!({"path": "/f", "regexp": "x", "replace": r"\1"})).is_err());
    }
}
