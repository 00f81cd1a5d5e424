//! `lineinfile`: one line of a file.

use regex::bytes::Regex;
use schemars::JsonSchema;
use serde::Deserialize;

use super::common::{Target, Wanted, bare, lines};
use super::pattern::{Replacement, compile};
use crate::change::Plan;
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::params::{Flag, Mode, Text};

/// There or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It shall be there.
    #[default]
    Present,
    /// It shall not.
    Absent,
}

/// Makes sure that a line is in a file, or replaces the line that a pattern finds, or removes lines.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LineInFile {
    /// The file; absolute.
    #[serde(alias = "dest", alias = "destfile", alias = "name")]
    path: String,
    /// The line, without its end. Needed for `state: present`.
    #[serde(alias = "value")]
    line: Option<Text>,
    /// The line that matches is replaced (the last one if there are several); with `state: absent`, all that match go.
    /// Python's syntax, without look-around.
    #[serde(alias = "regex")]
    regexp: Option<String>,
    /// As `regexp`, but the text itself somewhere in the line.
    search_string: Option<String>,
    /// Whether the line shall be there. Default: `present`.
    #[serde(default)]
    state: State,
    /// `line` may contain `\1` or `\g<name>` for groups of `regexp`; where that does not match, nothing is done.
    /// Default: false.
    #[serde(default)]
    backrefs: Flag,
    /// A new line goes behind the last line that this pattern finds, or to the end (`EOF`, the default).
    insertafter: Option<String>,
    /// A new line goes before the last line that this pattern finds, or to the beginning (`BOF`).
    insertbefore: Option<String>,
    /// The first line that matches counts, not the last. Default: false.
    #[serde(default)]
    firstmatch: Flag,
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

/// What a line is looked for by.
enum Finder<'a> {
    Pattern(Regex),
    Text(&'a [u8]),
    Nothing,
}

impl Finder<'_> {
    fn finds(&self, line: &[u8]) -> bool {
        match self {
            Finder::Pattern(pattern) => pattern.is_match(line),
            Finder::Text(text) => line.windows(text.len().max(1)).any(|window| window == *text) || text.is_empty(),
            Finder::Nothing => false,
        }
    }
}

impl LineInFile {
    fn finder(&self) -> Result<Finder<'_>> {
        match (&self.regexp, &self.search_string) {
            (Some(_), Some(_)) => Err(Error::parameters("only one of `regexp` and `search_string` can be given")),
            (Some(pattern), None) => Ok(Finder::Pattern(compile("regexp", pattern)?)),
            (None, Some(text)) => Ok(Finder::Text(text.as_bytes())),
            (None, None) => Ok(Finder::Nothing),
        }
    }

    fn line(&self) -> Result<Option<&[u8]>> {
        let Some(line) = &self.line else { return Ok(None) };
        let line = line.trim_end_matches(['\r', '\n']);
        if line.contains('\n') && !self.backrefs.0 {
            return Err(Error::parameters("`line` holds several lines").hint("the module `blockinfile` is for that"));
        }
        Ok(Some(line.as_bytes()))
    }

    fn absent(&self, content: &[u8]) -> Result<Vec<u8>> {
        let finder = self.finder()?;
        let line = self.line()?;
        if matches!(finder, Finder::Nothing) && line.is_none() {
            return Err(Error::parameters("`state: absent` needs one of `line`, `regexp` and `search_string`"));
        }
        let goes = |there: &[u8]| match &finder {
            Finder::Nothing => Some(bare(there)) == line,
            finder => finder.finds(bare(there)),
        };
        Ok(lines(content).into_iter().filter(|there| !goes(there)).flatten().collect())
    }

    fn present(&self, content: &[u8]) -> Result<Vec<u8>> {
        let finder = self.finder()?;
        let Some(line) = self.line()? else {
            return Err(Error::parameters("`state: present` needs `line`"));
        };
        if self.backrefs.0 && !matches!(finder, Finder::Pattern(_)) {
            return Err(Error::parameters("`backrefs` needs `regexp`"));
        }
        if self.insertafter.is_some() && self.insertbefore.is_some() {
            return Err(Error::parameters("only one of `insertafter` and `insertbefore` can be given"));
        }
        let mut all = lines(content);
        let end: &[u8] = if all.first().is_some_and(|line| line.ends_with(b"\r\n")) { b"\r\n" } else { b"\n" };
        let found = if self.firstmatch.0 {
            all.iter().position(|there| finder.finds(bare(there)))
        } else {
            all.iter().rposition(|there| finder.finds(bare(there)))
        };
        let new = [line, end].concat();
        let several = all.iter().filter(|there| finder.finds(bare(there))).count() > 1;
        if let Some(there) = found.and_then(|at| all.get_mut(at)) {
            let text = match &finder {
                Finder::Pattern(pattern) if self.backrefs.0 => {
                    let text = String::from_utf8_lossy(line);
                    let replacement = Replacement::parse("line", &text, pattern)?;
                    pattern.captures(bare(there)).map_or_else(|| line.to_vec(), |found| replacement.expand(&found))
                }
                _ => line.to_vec(),
            };
            if several && !finder.finds(&text) {
                return Err(Error::parameters(format!(
                    "the pattern finds several lines of {} and not the line that it shall become, so every run would replace \
                     another one",
                    self.path
                ))
                .hint("let the pattern match the new line too, or only the one line that is meant"));
            }
            if bare(there) != text {
                *there = [&text, end].concat();
            }
            return Ok(all.concat());
        }
        if self.backrefs.0 || all.iter().any(|there| bare(there) == line) {
            return Ok(content.to_vec());
        }
        let at = self.place(&all)?;
        if let Some(before) = at.checked_sub(1).and_then(|at| all.get_mut(at))
            && !before.ends_with(b"\n")
        {
            before.extend(end);
        }
        all.insert(at.min(all.len()), new);
        Ok(all.concat())
    }

    /// Where a new line goes.
    fn place(&self, all: &[Vec<u8>]) -> Result<usize> {
        let find = |parameter: &str, pattern: &str| -> Result<Option<usize>> {
            let pattern = compile(parameter, pattern)?;
            Ok(if self.firstmatch.0 {
                all.iter().position(|there| pattern.is_match(bare(there)))
            } else {
                all.iter().rposition(|there| pattern.is_match(bare(there)))
            })
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

impl Module for LineInFile {
    const NAME: &'static str = "lineinfile";
    const SUMMARY: &'static str = "Make sure that a line is, or is not, in a file";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan::nothing();
        let target = Target {
            path: &self.path,
            wanted: Wanted { mode: self.mode, owner: self.owner.as_ref(), group: self.group.as_ref() },
            validate: self.validate.as_deref(),
            backup: self.backup.0,
        };
        match self.state {
            State::Present => target.edit(host, &mut plan, self.create.0, |content| self.present(content))?,
            // What is not there holds no line.
            State::Absent if !host.exists(&self.path)? => {}
            State::Absent => target.edit(host, &mut plan, false, |content| self.absent(content))?,
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
        apply(&m, "lineinfile", parameters).unwrap();
        m.read_text("/f").unwrap().unwrap()
    }

    #[test]
    fn a_line_is_added_once() {
        assert_eq!(after("a\n", json!({"line": "b"})), "a\nb\n");
        assert_eq!(after("a", json!({"line": "b"})), "a\nb\n");
        assert_eq!(after("a\r\n", json!({"line": "b"})), "a\r\nb\r\n");
        assert_eq!(after("b\na", json!({"line": "b"})), "b\na");
        assert_eq!(after("", json!({"line": 5})), "5\n");
    }

    #[test]
    fn the_last_or_first_match_is_replaced() {
        let two = "#X=1\nX=2\nY\n";
        assert_eq!(after(two, json!({"regexp": "^#?X=", "line": "X=3"})), "#X=1\nX=3\nY\n");
        assert_eq!(after(two, json!({"regexp": "^#?X=", "line": "X=3", "firstmatch": true})), "X=3\nX=2\nY\n");
        assert_eq!(after(two, json!({"search_string": "X=2", "line": "Z"})), "#X=1\nZ\nY\n");
        assert_eq!(after("Y\n", json!({"regexp": "^X=", "line": "X=3"})), "Y\nX=3\n");
        // A line that does not match its own pattern is not added twice.
        assert_eq!(after("Z\n", json!({"regexp": "^X=", "line": "Z"})), "Z\n");
    }

    #[test]
    fn where_new_lines_go() {
        let text = "a1\nb\na2\nc";
        assert_eq!(after(text, json!({"line": "n", "insertafter": "^a"})), "a1\nb\na2\nn\nc");
        assert_eq!(after(text, json!({"line": "n", "insertafter": "^a", "firstmatch": "yes"})), "a1\nn\nb\na2\nc");
        assert_eq!(after(text, json!({"line": "n", "insertbefore": "^a"})), "a1\nb\nn\na2\nc");
        assert_eq!(after(text, json!({"line": "n", "insertbefore": "BOF"})), "n\na1\nb\na2\nc");
        assert_eq!(after(text, json!({"line": "n", "insertafter": "^c"})), "a1\nb\na2\nc\nn\n");
        assert_eq!(after(text, json!({"line": "n", "insertafter": "^x"})), "a1\nb\na2\nc\nn\n");
    }

    #[test]
    fn back_references_and_their_absence() {
        let grub = "GRUB_CMDLINE_LINUX=\"quiet\"\n";
        let pattern = r#"^(GRUB_CMDLINE_LINUX=)"(.*?)( iommu=pt)?"$"#;
        let asked = json!({"regexp": pattern, "line": r#"\1"\2 iommu=pt""#, "backrefs": true});
        assert_eq!(after(grub, asked.clone()), "GRUB_CMDLINE_LINUX=\"quiet iommu=pt\"\n");
        assert_eq!(after("other\n", asked), "other\n");
    }

    #[test]
    fn absent_removes_all_that_match() {
        assert_eq!(after("a\nb\na", json!({"line": "a", "state": "absent"})), "b\n");
        assert_eq!(after("a1\nb\na2\n", json!({"regexp": "^a", "state": "absent"})), "b\n");
        let m = machine(&[("/etc/", "")]);
        assert!(apply(&m, "lineinfile", json!({"path": "/etc/x", "line": "a", "state": "absent"})).unwrap().is_empty());
    }

    #[test]
    fn a_missing_file_and_wrong_parameters() {
        let m = machine(&[("/etc/two", "a1\na2\n")]);
        let error = plan(&m, "lineinfile", json!({"path": "/etc/x", "line": "a"})).unwrap_err();
        assert!(error.message.contains("/etc/x does not exist"), "{error}");
        apply(&m, "lineinfile", json!({"path": "/etc/x", "line": "a", "create": true, "mode": "0600"})).unwrap();
        assert_eq!(m.stat("/etc/x").unwrap().unwrap().mode, 0o600);
        for wrong in [
            json!({"path": "/etc/x"}),
            json!({"path": "/etc/x", "line": "a\nb"}),
            json!({"path": "/etc/x", "line": "a", "regexp": "("}),
            json!({"path": "/etc/x", "line": "a", "regexp": "a", "search_string": "a"}),
            json!({"path": "/etc/x", "line": "a", "backrefs": true}),
            json!({"path": "/etc/x", "line": "a", "insertafter": "a", "insertbefore": "b"}),
            json!({"path": "/etc/x", "state": "absent"}),
            json!({"path": "/etc/two", "regexp": "^a", "line": "b"}),
        ] {
            assert!(plan(&m, "lineinfile", wrong.clone()).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_second_run_changes_nothing_and_other_lines_stay(
            content in "[ab=\r\n]{0,30}", line in "[ab=]{1,3}", pattern in "[ab=]{1,3}", first in any::<bool>()
        ) {
            let several = content.split('\n').filter(|there| there.contains(&pattern)).count() > 1;
            prop_assume!(!several || line.contains(&pattern));
            let new = after(&content, json!({"line": line, "regexp": pattern, "firstmatch": first}));
            prop_assert!(new.lines().any(|there| there == line));
            let kept = |text: &str| text.split('\n').filter(|l| !l.contains(&pattern) && l.trim_end() != line).count();
            prop_assert!(kept(&new) + 1 >= kept(&content));
        }
    }
}
