//! `ini_file`: options in sections.

use schemars::JsonSchema;
use serde::Deserialize;

use super::common::{Target, Wanted, lines};
use super::lineinfile::State;
use crate::change::Plan;
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::params::{Flag, List, Mode, Text, yes};

/// Sets or removes one option in a file of sections, and leaves comments, order and spacing of the rest alone.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IniFile {
    /// The file; absolute.
    #[serde(alias = "dest")]
    path: String,
    /// The section, without brackets. Left out or empty: what comes before the first section.
    section: Option<String>,
    /// The option. Left out with `state: absent`: the whole section goes.
    option: Option<Text>,
    /// Its value.
    value: Option<Text>,
    /// Its values, where an option may be given several times.
    values: Option<List<Text>>,
    /// Whether it shall be there. Default: `present`.
    #[serde(default)]
    state: State,
    /// The option has these values and no others. With false, values are added to those that are there, or only the given
    /// ones removed. Default: true.
    #[serde(default = "yes")]
    exclusive: Flag,
    /// Write `option=value`, not `option = value`. Only lines that change are written anew. Default: false.
    #[serde(default)]
    no_extra_spaces: Flag,
    /// Differences in spaces alone are no change. It is always so here; the parameter is known for Ansible's sake.
    #[serde(default)]
    #[allow(dead_code)]
    ignore_spaces: Flag,
    /// An option may stand without a value. Default: false.
    #[serde(default)]
    allow_no_value: Flag,
    /// An option that is there as a comment is turned into the real one. Default: true.
    #[serde(default = "yes")]
    modify_inactive_option: Flag,
    /// Make the file if it is missing. Default: true.
    #[serde(default = "yes")]
    create: Flag,
    /// Keep the old content beside the file, as `NAME.~1~`, … Default: false.
    #[serde(default)]
    backup: Flag,
    /// Permission bits, quoted: "0644".
    mode: Option<Mode>,
    /// Owner, a name or a number.
    owner: Option<Text>,
    /// Group, a name or a number.
    group: Option<Text>,
}

/// One line, as far as this module cares.
#[derive(Debug, PartialEq)]
enum Line<'a> {
    Section(&'a str),
    Option {
        name: &'a str,
        value: Option<&'a str>,
    },
    /// An option that is commented out.
    Inactive {
        name: &'a str,
    },
    Other,
}

fn parse(line: &str) -> Line<'_> {
    let text = line.trim();
    if let Some(rest) = text.strip_prefix('[') {
        let name = rest.split_once(']').map(|(name, behind)| (name, behind.trim_start()));
        return match name {
            Some((name, behind)) if behind.is_empty() || behind.starts_with(['#', ';']) => Line::Section(name.trim()),
            _ => Line::Other,
        };
    }
    if let Some(rest) = text.strip_prefix(['#', ';']) {
        return match rest.split_once('=') {
            Some((name, _)) if !name.trim().is_empty() => Line::Inactive { name: name.trim() },
            _ => Line::Other,
        };
    }
    match text.split_once('=') {
        _ if text.is_empty() => Line::Other,
        Some((name, value)) => Line::Option { name: name.trim_end(), value: Some(value.trim_start()) },
        None => Line::Option { name: text, value: None },
    }
}

impl IniFile {
    /// The values that are asked for; `None` is an option without one.
    fn wanted(&self) -> Result<Vec<Option<&str>>> {
        let wanted: Vec<Option<&str>> = match (&self.value, &self.values) {
            (Some(_), Some(_)) => return Err(Error::parameters("only one of `value` and `values` can be given")),
            (Some(value), None) => vec![Some(value)],
            (None, Some(values)) => values.iter().map(|value| Some(&**value)).collect(),
            (None, None) => vec![None],
        };
        if wanted.iter().flatten().any(|value| value.contains('\n')) {
            return Err(Error::parameters("a value can't hold several lines"));
        }
        Ok(wanted)
    }

    fn change(&self, content: &str) -> Result<String> {
        let mut all: Vec<String> =
            lines(content.as_bytes()).iter().map(|line| String::from_utf8_lossy(line).into_owned()).collect();
        let end = if all.first().is_some_and(|line| line.ends_with("\r\n")) { "\r\n" } else { "\n" };
        let section = self.section.as_deref().unwrap_or("");
        if section.contains([']', '\n']) {
            return Err(Error::parameters(format!("`section: {section}` can't be the name of a section")));
        }
        match (self.state, &self.option) {
            (State::Present, None) => {
                if section.is_empty() {
                    return Err(Error::parameters("`option` or `section` is needed"));
                }
                if find_section(&all, section).is_none() {
                    add_section(&mut all, section, end);
                }
            }
            (State::Present, Some(option)) => self.set(&mut all, section, option, end)?,
            (State::Absent, None) => {
                if section.is_empty() {
                    return Err(Error::parameters("`option` or `section` is needed"));
                }
                while let Some((from, to)) = find_section(&all, section) {
                    all.drain(from..to);
                }
            }
            (State::Absent, Some(option)) => {
                let given = if self.value.is_none() && self.values.is_none() { None } else { Some(self.wanted()?) };
                let goes = |value: Option<&str>| match &given {
                    Some(values) if !self.exclusive.0 => values.contains(&value),
                    _ => true,
                };
                if let Some((from, to)) = find_section(&all, section) {
                    let mut at = 0;
                    all.retain(|line| {
                        let inside = (from..to).contains(&at);
                        at += 1;
                        !(inside
                            && matches!(parse(line), Line::Option { name, value } if name == &**option && goes(value)))
                    });
                }
            }
        }
        Ok(all.concat())
    }

    fn set(&self, all: &mut Vec<String>, section: &str, option: &str, end: &str) -> Result<()> {
        if option.is_empty() || option.contains(['=', '\n']) || option.starts_with(['[', '#', ';']) {
            return Err(Error::parameters(format!("`option: {option}` can't be the name of an option")));
        }
        let mut missing = self.wanted()?;
        if missing.contains(&None) && !self.allow_no_value.0 {
            return Err(Error::parameters(format!("`{option}` has no `value`"))
                .hint("set `allow_no_value: true` if the option stands for itself"));
        }
        if find_section(all, section).is_none() {
            add_section(all, section, end);
        }
        let (from, to) = find_section(all, section).unwrap_or((0, 0));
        let range = from..to;
        let mut surplus = Vec::new();
        for (at, line) in all.iter().enumerate().filter(|(at, _)| range.contains(at)) {
            if let Line::Option { name, value } = parse(line)
                && name == option
            {
                match missing.iter().position(|wanted| *wanted == value) {
                    Some(found) => {
                        missing.remove(found);
                    }
                    None => surplus.push(at),
                }
            }
        }
        if !self.exclusive.0 {
            surplus.clear();
        }
        let mut missing = missing.into_iter();
        // Lines with other values are written over first, then those that are commented out.
        let inactive: Vec<usize> = all
            .iter()
            .enumerate()
            .filter(|(at, line)| {
                range.contains(at)
                    && self.modify_inactive_option.0
                    && matches!(parse(line), Line::Inactive { name } if name == option)
            })
            .map(|(at, _)| at)
            .collect();
        let mut gone = Vec::new();
        for at in surplus {
            match (missing.next(), all.get_mut(at)) {
                (Some(value), Some(line)) => *line = self.like(line, option, value, end),
                _ => gone.push(at),
            }
        }
        for at in inactive {
            let Some(line) = all.get_mut(at) else { continue };
            let Some(value) = missing.next() else { break };
            *line = self.fresh(option, value, end);
        }
        let mut place = to;
        while place > from && all.get(place - 1).is_some_and(|line| line.trim().is_empty()) {
            place -= 1;
        }
        for value in missing {
            if let Some(before) = place.checked_sub(1).and_then(|at| all.get_mut(at))
                && !before.ends_with('\n')
            {
                before.push_str(end);
            }
            all.insert(place, self.fresh(option, value, end));
            place += 1;
        }
        for at in gone.into_iter().rev() {
            all.remove(at);
        }
        Ok(())
    }

    fn fresh(&self, option: &str, value: Option<&str>, end: &str) -> String {
        match value {
            None => format!("{option}{end}"),
            Some(value) if self.no_extra_spaces.0 => format!("{option}={value}{end}"),
            Some(value) => format!("{option} = {value}{end}"),
        }
    }

    /// The new value in the shape of the old line.
    fn like(&self, old: &str, option: &str, value: Option<&str>, end: &str) -> String {
        let line_end = if old.ends_with("\r\n") || old.ends_with('\n') { end } else { "" };
        match (old.split_once('='), value) {
            (Some((name, was)), Some(value)) if !self.no_extra_spaces.0 => {
                let space: String = was.chars().take_while(|c| matches!(c, ' ' | '\t')).collect();
                format!("{name}={space}{value}{line_end}")
            }
            _ => self.fresh(option, value, line_end),
        }
    }
}

/// The lines of a section: its header and what follows, up to the next header. The nameless one has no header.
fn find_section(all: &[String], section: &str) -> Option<(usize, usize)> {
    let from = match section {
        "" => 0,
        name => all.iter().position(|line| parse(line) == Line::Section(name))?,
    };
    let first = if section.is_empty() { from } else { from + 1 };
    let length = all.iter().skip(first).position(|line| matches!(parse(line), Line::Section(_)));
    Some((from, length.map_or(all.len(), |length| first + length)))
}

fn add_section(all: &mut Vec<String>, section: &str, end: &str) {
    if let Some(last) = all.last_mut() {
        let blank = last.trim().is_empty();
        if !last.ends_with('\n') {
            last.push_str(end);
        }
        if !blank {
            all.push(end.to_string());
        }
    }
    all.push(format!("[{section}]{end}"));
}

impl Module for IniFile {
    const NAME: &'static str = "ini_file";
    const SUMMARY: &'static str = "Set or remove an option in a file of sections";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan::nothing();
        let target = Target {
            path: &self.path,
            wanted: Wanted { mode: self.mode, owner: self.owner.as_ref(), group: self.group.as_ref() },
            validate: None,
            backup: self.backup.0,
        };
        if self.state == State::Absent && !host.exists(&self.path)? {
            return Ok(plan);
        }
        target.edit(host, &mut plan, self.create.0, |content| {
            let text =
                std::str::from_utf8(content).map_err(|_| Error::failed(format!("{} is not UTF-8 text", self.path)))?;
            self.change(text).map(String::into_bytes)
        })?;
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
        apply(&m, "ini_file", parameters).unwrap();
        m.read_text("/f").unwrap().unwrap()
    }

    const REPO: &str = "# top\n[main]\ngpgcheck=1\n\n[elrepo] # kernels\n; note\nenabled = 1\n#priority = 9\n\n";

    #[test]
    fn options_change_in_their_own_shape() {
        let set = |section: &str, option: &str, value: &str| {
            after(REPO, json!({"section": section, "option": option, "value": value}))
        };
        assert_eq!(set("main", "gpgcheck", "0"), REPO.replace("gpgcheck=1", "gpgcheck=0"));
        assert_eq!(set("main", "gpgcheck", "1"), REPO);
        assert_eq!(set("elrepo", "enabled", "0"), REPO.replace("enabled = 1", "enabled = 0"));
        assert_eq!(set("elrepo", "priority", "5"), REPO.replace("#priority = 9", "priority = 5"));
        assert_eq!(set("main", "obsoletes", "1"), REPO.replace("gpgcheck=1\n", "gpgcheck=1\nobsoletes = 1\n"));
        assert_eq!(set("new", "a", "b"), format!("{REPO}[new]\na = b\n"));
        assert_eq!(set("", "global", "1"), format!("# top\nglobal = 1\n{}", &REPO[6..]));
        assert_eq!(
            after("[a]\nx=1", json!({"section": "b", "option": "y", "value": "z", "no_extra_spaces": true})),
            "[a]\nx=1\n\n[b]\ny=z\n"
        );
    }

    #[test]
    fn several_values() {
        let text = "[s]\nip=1\nip=2\nother=x\n";
        let ask = |values: Value, exclusive: bool, state: &str| json!({"section": "s", "option": "ip", "values": values, "exclusive": exclusive, "state": state, "no_extra_spaces": true});
        assert_eq!(after(text, ask(json!([2, 3]), true, "present")), "[s]\nip=3\nip=2\nother=x\n");
        assert_eq!(after(text, ask(json!([2]), true, "present")), "[s]\nip=2\nother=x\n");
        assert_eq!(after(text, ask(json!([2, 3]), false, "present")), "[s]\nip=1\nip=2\nother=x\nip=3\n");
        assert_eq!(after(text, ask(json!([2]), false, "absent")), "[s]\nip=1\nother=x\n");
        assert_eq!(after(text, ask(json!([2]), true, "absent")), "[s]\nother=x\n");
    }

    #[test]
    fn sections_go_and_options_without_value() {
        assert_eq!(
            after(REPO, json!({"section": "main", "state": "absent"})),
            "# top\n[elrepo] # kernels\n; note\nenabled = 1\n#priority = 9\n\n"
        );
        assert_eq!(after(REPO, json!({"section": "main"})), REPO);
        let bare = json!({"section": "m", "option": "skip-x", "allow_no_value": true});
        assert_eq!(after("[m]\n", bare.clone()), "[m]\nskip-x\n");
        assert_eq!(after("[m]\nskip-x\n", bare), "[m]\nskip-x\n");
    }

    #[test]
    fn wrong_parameters() {
        let m = machine(&[("/f", "")]);
        for wrong in [
            json!({"path": "/f"}),
            json!({"path": "/f", "section": "a", "option": "b"}),
            json!({"path": "/f", "section": "a]", "option": "b", "value": "c"}),
            json!({"path": "/f", "section": "a", "option": "b=", "value": "c"}),
            json!({"path": "/f", "section": "a", "option": "b", "value": "c\nd"}),
            json!({"path": "/f", "section": "a", "option": "b", "value": "c", "values": ["d"]}),
            json!({"path": "/g", "section": "a", "option": "b", "value": "c", "create": false}),
        ] {
            assert!(plan(&m, "ini_file", wrong.clone()).is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_second_run_changes_nothing_and_the_value_is_read_back(
            content in "(\\[s\\]\n|\\[t\\]|a ?= ?[12]|#a=3|b|;x|\n| ){0,12}", value in "[1-4]", section in "[st]|"
        ) {
            let new = after(&content, json!({"section": section, "option": "a", "value": value}));
            let mut inside = section.is_empty();
            let mut found = Vec::new();
            for line in new.lines() {
                match super::parse(line) {
                    super::Line::Section(name) => {
                        if inside { break }
                        inside = name == section;
                    }
                    super::Line::Option { name: "a", value } if inside => found.push(value),
                    _ => {}
                }
            }
            prop_assert_eq!(found, vec![Some(value.as_str())]);
        }
    }
}
