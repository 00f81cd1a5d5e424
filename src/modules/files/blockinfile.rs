//! `blockinfile`: a block of lines between two markers.

use schemars::JsonSchema;
use serde::Deserialize;

use super::common::{Target, Wanted, bare, lines};
use super::lineinfile::State;
use super::pattern::compile;
use crate::change::Plan;
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::params::{Flag, Mode, Text};

/// Keeps a block of lines in a file, between two marker lines; what is outside stays as it is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BlockInFile {
    /// The file; absolute.
    #[serde(alias = "dest", alias = "destfile", alias = "name")]
    path: String,
    /// The lines between the markers. An empty block is removed with its markers.
    #[serde(default, alias = "content")]
    block: Text,
    /// The marker lines; `{mark}` becomes `BEGIN` and `END`. Several blocks in one file need different markers.
    /// Default: `# {mark} ANSIBLE MANAGED BLOCK`.
    #[serde(default = "marker")]
    marker: String,
    /// What `{mark}` becomes in the first marker. Default: `BEGIN`.
    #[serde(default = "begin")]
    marker_begin: String,
    /// What `{mark}` becomes in the second marker. Default: `END`.
    #[serde(default = "end")]
    marker_end: String,
    /// Whether the block shall be there. Default: `present`.
    #[serde(default)]
    state: State,
    /// A new block goes behind the last line that this pattern finds, or to the end (`EOF`, the default).
    insertafter: Option<String>,
    /// A new block goes before the last line that this pattern finds, or to the beginning (`BOF`).
    insertbefore: Option<String>,
    /// Make the file if it is missing. Default: false.
    #[serde(default)]
    create: Flag,
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

fn marker() -> String {
    "# {mark} ANSIBLE MANAGED BLOCK".into()
}

fn begin() -> String {
    "BEGIN".into()
}

fn end() -> String {
    "END".into()
}

impl BlockInFile {
    fn change(&self, content: &[u8]) -> Result<Vec<u8>> {
        let first = self.marker.replace("{mark}", &self.marker_begin);
        let last = self.marker.replace("{mark}", &self.marker_end);
        if first == last || first.contains('\n') || last.contains('\n') {
            return Err(Error::parameters("the two markers must be different lines: `marker` needs `{mark}` in it"));
        }
        if self.insertafter.is_some() && self.insertbefore.is_some() {
            return Err(Error::parameters("only one of `insertafter` and `insertbefore` can be given"));
        }
        let body = lines(self.block.as_bytes());
        if body.iter().any(|line| bare(line) == first.as_bytes() || bare(line) == last.as_bytes()) {
            return Err(Error::parameters("`block` holds one of its own markers"));
        }
        let mut all = lines(content);
        let end: &[u8] = if all.first().is_some_and(|line| line.ends_with(b"\r\n")) { b"\r\n" } else { b"\n" };
        let mut block = Vec::new();
        if self.state == State::Present && !body.is_empty() {
            block.push([first.as_bytes(), end].concat());
            block.extend(body.iter().map(|line| [bare(line), end].concat()));
            block.push([last.as_bytes(), end].concat());
        }
        let find = |marker: &str| all.iter().rposition(|line| bare(line) == marker.as_bytes());
        let at = match (find(&first), find(&last)) {
            (Some(from), Some(to)) if from < to => {
                // A last marker without a line's end is left so: it was as asked before.
                if !all.get(to).is_some_and(|line| line.ends_with(b"\n"))
                    && let Some(line) = block.last_mut()
                {
                    line.truncate(last.len());
                }
                all.drain(from..=to);
                from
            }
            (None, None) => self.place(&all)?,
            _ => {
                return Err(Error::failed(format!(
                    "{} holds only one of the markers `{first}` and `{last}`, or in the wrong order",
                    self.path
                ))
                .hint("put the file right by hand: what belongs to the block can't be told"));
            }
        };
        if !block.is_empty()
            && let Some(before) = at.checked_sub(1).and_then(|at| all.get_mut(at))
            && !before.ends_with(b"\n")
        {
            before.extend(end);
        }
        all.splice(at..at, block);
        Ok(all.concat())
    }

    /// Where a new block goes.
    fn place(&self, all: &[Vec<u8>]) -> Result<usize> {
        let find = |parameter: &str, pattern: &str| -> Result<Option<usize>> {
            let pattern = compile(parameter, pattern)?;
            Ok(all.iter().rposition(|line| pattern.is_match(bare(line))))
        };
        let place = match (self.insertafter.as_deref(), self.insertbefore.as_deref()) {
            (Some("BOF"), _) | (_, Some("BOF")) => Some(0),
            (Some("EOF"), _) | (None, None | Some("EOF")) => None,
            (Some(pattern), _) => find("insertafter", pattern)?.map(|at| at + 1),
            (None, Some(pattern)) => find("insertbefore", pattern)?,
        };
        Ok(place.unwrap_or(all.len()))
    }
}

impl Module for BlockInFile {
    const NAME: &'static str = "blockinfile";
    const SUMMARY: &'static str = "Keep a block of lines in a file, between two markers";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan::nothing();
        let target = Target {
            path: &self.path,
            wanted: Wanted { mode: self.mode, owner: self.owner.as_ref(), group: self.group.as_ref() },
            validate: self.validate.as_deref(),
            backup: self.backup.0,
        };
        if self.state == State::Present || host.exists(&self.path)? {
            target.edit(host, &mut plan, self.create.0, |content| self.change(content))?;
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use crate::host::Host;
    use crate::host::overlay::testing::{apply, machine, plan};

    fn after(content: &str, mut parameters: Value) -> String {
        let m = machine(&[("/f", content)]);
        parameters["path"] = json!("/f");
        apply(&m, "blockinfile", parameters).unwrap();
        m.read_text("/f").unwrap().unwrap()
    }

    const B: &str = "# BEGIN ANSIBLE MANAGED BLOCK\n";
    const E: &str = "# END ANSIBLE MANAGED BLOCK\n";

    #[test]
    fn a_block_comes_changes_and_goes() {
        let one = after("a", json!({"block": "x\ny"}));
        assert_eq!(one, format!("a\n{B}x\ny\n{E}"));
        let two = after(&format!("{one}z\n"), json!({"block": "w\n"}));
        assert_eq!(two, format!("a\n{B}w\n{E}z\n"));
        assert_eq!(after(&two, json!({"block": ""})), "a\nz\n");
        assert_eq!(after(&two, json!({"state": "absent"})), "a\nz\n");
        assert_eq!(after("a\n", json!({"state": "absent"})), "a\n");
        let unended = format!("{B}x\n{}", E.trim_end());
        assert_eq!(after(&unended, json!({"block": "x"})), unended);
    }

    #[test]
    fn places_and_markers() {
        assert_eq!(after("a\nb\n", json!({"block": "x", "insertafter": "^a"})), format!("a\n{B}x\n{E}b\n"));
        assert_eq!(after("a\nb\n", json!({"block": "x", "insertbefore": "BOF"})), format!("{B}x\n{E}a\nb\n"));
        let other = after("a\n", json!({"block": "x", "marker": "// {mark}", "marker_begin": "(", "marker_end": ")"}));
        assert_eq!(other, "a\n// (\nx\n// )\n");
    }

    #[test]
    fn half_a_block_is_not_touched() {
        let m = machine(&[("/f", B), ("/g", &format!("{E}{B}"))]);
        assert!(plan(&m, "blockinfile", json!({"path": "/f", "block": "x"})).unwrap_err().message.contains("only one"));
        assert!(plan(&m, "blockinfile", json!({"path": "/g", "block": "x"})).is_err());
        assert!(plan(&m, "blockinfile", json!({"path": "/f", "block": "x", "marker": "#"})).is_err());
        assert!(
            plan(&m, "blockinfile", json!({"path": "/f", "block": E})).unwrap_err().message.contains("own markers")
        );
        assert!(plan(&m, "blockinfile", json!({"path": "/none", "block": "x"})).is_err());
    }

    proptest! {
        #[test]
        fn what_is_outside_stays_byte_for_byte(content in "[ab \n]{0,20}\n", block in "[xy\n]{1,10}", again in "[xy\n]{1,10}") {
            let with = after(&content, json!({"block": block}));
            let with = after(&with, json!({"block": again}));
            prop_assert_eq!(after(&with, json!({"state": "absent"})), content);
        }
    }
}
