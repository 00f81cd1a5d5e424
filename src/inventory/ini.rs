//! INI inventories: sections of hosts, `:children` and `:vars`.

use std::sync::Arc;

use serde_json::Map;

use super::build::{Builder, GroupId, Mention};
use super::{UNGROUPED, literal};
use crate::diag::{Diagnostic, Source, Span};

/// What the lines of a section are.
#[derive(Clone, Copy)]
enum Section {
    Hosts(GroupId),
    Children(GroupId),
    Vars(GroupId),
    /// Below a heading that is wrong: one error is enough.
    Skipped,
}

/// Reads an INI inventory.
pub(super) fn read(source: &Arc<Source>, build: &mut Builder) {
    let mut section = Section::Hosts(build.group(UNGROUPED));
    let mut at = 0;
    for line in source.text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let text = line.trim_start_matches('\u{feff}');
        let text = text.trim_start();
        let start = start + (line.len() - text.len());
        let text = text.trim_end();
        if text.is_empty() || text.starts_with(['#', ';']) {
            continue;
        }
        let line = Line { source, start, text };
        if let Some(heading) = line.heading() {
            section = heading_of(&line, heading, build);
            continue;
        }
        match section {
            Section::Hosts(group) => host(&line, group, build),
            Section::Children(group) => child(&line, group, build),
            Section::Vars(group) => variable(&line, group, build),
            Section::Skipped => {}
        }
    }
}

/// One line without the blank space around it.
struct Line<'a> {
    source: &'a Arc<Source>,
    start: usize,
    text: &'a str,
}

impl Line<'_> {
    fn span(&self, from: usize, to: usize) -> Span {
        Span::new(self.source, self.start + from, self.start + to)
    }

    fn whole(&self) -> Span {
        self.span(0, self.text.len())
    }

    /// What stands in the brackets, if this is a heading. `[a:c].lab` and `[::1]:22` are hosts.
    fn heading(&self) -> Option<&str> {
        let rest = self.text.strip_prefix('[')?;
        match rest.split_once(']') {
            None => Some(rest),
            Some((name, behind)) => {
                let behind = behind.trim_start();
                (behind.is_empty() || behind.starts_with(['#', ';'])).then_some(name)
            }
        }
    }
}

fn heading_of(line: &Line, heading: &str, build: &mut Builder) -> Section {
    if !line.text.contains(']') {
        build.errors.push(Diagnostic::error("the bracket of this section is never closed").at(&line.span(0, 1)));
        return Section::Skipped;
    }
    let (name, suffix) = match heading.split_once(':') {
        Some((name, suffix)) => (name, Some(suffix)),
        None => (heading, None),
    };
    let span = line.span(1, 1 + name.len());
    if !build.check_group_name(name, &span) {
        return Section::Skipped;
    }
    match suffix {
        None | Some("hosts") => Section::Hosts(build.group(name)),
        Some("children") => Section::Children(build.group(name)),
        Some("vars") => Section::Vars(build.mention(name, span, Mention::Vars)),
        Some(suffix) => {
            let from = 2 + name.len();
            let error = Diagnostic::error(format!("unknown section `[{heading}]`"))
                .at(&line.span(from, from + suffix.len()))
                .help("a section is `[NAME]`, `[NAME:children]` or `[NAME:vars]`")
                .nearest(suffix, ["children", "vars", "hosts"]);
            build.errors.push(error);
            Section::Skipped
        }
    }
}

fn host(line: &Line, group: GroupId, build: &mut Builder) {
    let words = match words(line.text) {
        Ok(words) => words,
        Err(Broken { at, end, problem, help }) => {
            return build.errors.push(Diagnostic::error(problem).at(&line.span(at, end)).help(help));
        }
    };
    let mut words = words.into_iter();
    let Some(name) = words.next() else { return };
    let mut vars = Map::new();
    // YAML in a file that is taken for INI: what follows the `-` would only be a second error.
    let words = words.take_while(|_| name.text != "-");
    for word in words {
        let span = line.span(word.start, word.end);
        let Some((key, value)) = word.text.split_once('=') else {
            let comment = word.text.starts_with(';');
            let help = if comment {
                "behind a host only `#` begins a comment"
            } else {
                "one host a line, then `name=value` without blanks around the `=`; a value with blanks needs quotes"
            };
            let error = Diagnostic::error(format!("`{}` is not of the form name=value", word.text));
            build.errors.push(error.at(&span).help(help));
            if comment {
                break;
            }
            continue;
        };
        if build.check_variable_name(key, &line.span(word.start, word.start + key.len())) {
            vars.insert(key.to_string(), literal::value(value));
        }
    }
    build.add_hosts(group, &name.text, &line.span(name.start, name.end), vars);
}

fn child(line: &Line, group: GroupId, build: &mut Builder) {
    let name = line.text.split(['#', ';']).next().unwrap_or_default().trim_end();
    let span = line.span(0, name.len());
    if name.contains(char::is_whitespace) {
        let error = Diagnostic::error("a `:children` section holds one group's name a line").at(&span);
        return build.errors.push(error.help("variables go into a section `[NAME:vars]`"));
    }
    if build.check_group_name(name, &span) {
        let child = build.mention(name, span.clone(), Mention::Child);
        build.child(group, child, span);
    }
}

fn variable(line: &Line, group: GroupId, build: &mut Builder) {
    let Some((name, value)) = line.text.split_once('=') else {
        let error = Diagnostic::error("a line of a `:vars` section must be of the form name=value").at(&line.whole());
        return build.errors.push(error);
    };
    let (name, span) = (name.trim_end(), line.span(0, name.trim_end().len()));
    if !build.check_variable_name(name, &span) {
        return;
    }
    let from = line.text.len() - value.len();
    let whole = value;
    let value = literal::value(whole);
    // Not so in quotes, nor where Python takes a comment off a number.
    if let Some(comment) = whole.find(" #").filter(|_| value.as_str() == Some(whole.trim())) {
        let at = from + comment + 1;
        build.warnings.push(
            Diagnostic::warning("in a `:vars` section `#` begins no comment: this is part of the value")
                .at(&line.span(at, line.text.len()))
                .help("put the comment on a line of its own, or the value in quotes"),
        );
    }
    build.group_var(group, name, value, &span);
}

/// One word of a host's line, without its quotes.
struct Word {
    text: String,
    start: usize,
    end: usize,
}

/// Why a line can't be taken apart.
struct Broken {
    at: usize,
    end: usize,
    problem: &'static str,
    help: &'static str,
}

/// The words of a line as a shell takes them (Python's shlex), with their places.
fn words(line: &str) -> Result<Vec<Word>, Broken> {
    let mut words = Vec::new();
    let mut word: Option<Word> = None;
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        if c.is_whitespace() {
            words.extend(word.take().map(|word| Word { end: at, ..word }));
            continue;
        }
        if c == '#' {
            if word.is_some() {
                // Ansible would cut the value here without a word; a password cut short is nobody's wish.
                let problem = "a `#` in the middle of a word";
                let help = "put the value in quotes if the `#` is part of it, or a blank before it if a comment begins";
                return Err(Broken { at, end: at + 1, problem, help });
            }
            break;
        }
        let text = &mut word.get_or_insert_with(|| Word { text: String::new(), start: at, end: line.len() }).text;
        match c {
            '\'' | '"' => quoted(c, at, &mut chars, text)?,
            '\\' => match chars.next() {
                Some((_, next)) => text.push(next),
                None => {
                    let problem = "nothing follows this backslash";
                    return Err(Broken { at, end: at + 1, problem, help: "lines can't be continued; write it twice" });
                }
            },
            _ => text.push(c),
        }
    }
    words.extend(word);
    Ok(words)
}

fn quoted(quote: char, at: usize, chars: &mut std::str::CharIndices, text: &mut String) -> Result<(), Broken> {
    let open = Broken { at, end: at + 1, problem: "this quote is never closed", help: "add the closing quote" };
    loop {
        match chars.next() {
            None => return Err(open),
            Some((_, c)) if c == quote => return Ok(()),
            // As in a shell: in double quotes a backslash is itself, except before a quote and before a backslash.
            Some((_, '\\')) if quote == '"' => match chars.next() {
                None => return Err(open),
                Some((_, c @ ('"' | '\\'))) => text.push(c),
                Some((_, c)) => text.extend(['\\', c]),
            },
            Some((_, c)) => text.push(c),
        }
    }
}

/// Does this look like a YAML inventory rather than an INI one? Asked only where the file's name does not say.
pub(super) fn is_yaml(text: &str) -> bool {
    let text = text.trim_start_matches('\u{feff}');
    let first = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
    first.is_some_and(|line| {
        let key = line.split(" #").next().unwrap_or_default().trim_end();
        line == "---" || line.starts_with("--- ") || line.starts_with('{') || key.ends_with(':') && !key.contains(' ')
    })
}
