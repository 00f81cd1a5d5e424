//! `/etc/default/grub` and its drop-ins: shell text of which one variable is edited and every other byte is kept.
//!
//! The file is run by a shell, so only what is certain is touched: one assignment with one value in one sort of quotes.
//! Anything else in the way (command substitution, a continued line, an assignment inside `if`) is said, not guessed.

use std::ops::Range;

/// How a value is quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quote {
    /// `NAME="…"`
    Double,
    /// `NAME='…'`
    Single,
    /// `NAME=word`, also `NAME=`
    Bare,
    /// Several pieces put together, such as `"a"b'c'`.
    Mixed,
}

/// One `NAME=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The variable.
    pub name: String,
    /// The line it starts on, from 1.
    pub line: usize,
    /// `NAME+=value`.
    pub append: bool,
    /// How the value is quoted.
    pub quote: Quote,
    /// Where the value stands, quotes not included.
    pub value: Range<usize>,
    /// Where the value stands, quotes included.
    pub whole: Range<usize>,
    /// Why this program would not dare to edit it.
    pub trouble: Option<String>,
}

/// Reads the assignments of a shell file.
pub fn assignments(text: &str) -> Vec<Assignment> {
    let mut reader = Reader { text, at: 0, line: 1 };
    let mut found = Vec::new();
    let mut depth = 0usize;
    while reader.at < text.len() {
        reader.skip_blank();
        match reader.peek() {
            None => break,
            Some('\n' | ';') => {
                reader.bump();
                continue;
            }
            Some('#') => {
                reader.skip_line();
                continue;
            }
            Some(_) => {}
        }
        if let Some(mut assignment) = reader.assignment() {
            if depth > 0 {
                assignment
                    .trouble
                    .get_or_insert_with(|| "it is set inside of `if`, `case`, a loop or a function".into());
            }
            found.push(assignment);
            continue;
        }
        let start = reader.at;
        reader.word();
        match text.get(start..reader.at).unwrap_or("") {
            "if" | "case" | "for" | "while" | "until" | "{" => depth += 1,
            "fi" | "esac" | "done" | "}" => depth = depth.saturating_sub(1),
            "then" | "else" | "elif" | "do" | "export" | "readonly" | "local" => {}
            _ => reader.rest_of_command(&mut depth),
        }
        if reader.at == start {
            reader.bump();
        }
    }
    found
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    line: usize,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn bump(&mut self) {
        if let Some(c) = self.peek() {
            self.at += c.len_utf8();
            self.line += usize::from(c == '\n');
        }
    }

    fn skip_blank(&mut self) {
        while matches!(self.peek(), Some(' ' | '\t' | '\r')) || self.rest().starts_with("\\\n") {
            self.bump();
        }
    }

    fn skip_line(&mut self) {
        while !matches!(self.peek(), None | Some('\n')) {
            self.bump();
        }
    }

    /// To the end of a command that is not an assignment, minding quotes and blocks.
    fn rest_of_command(&mut self, depth: &mut usize) {
        loop {
            self.skip_blank();
            match self.peek() {
                None | Some('\n' | ';') => return,
                Some('#') => return self.skip_line(),
                Some(_) => {
                    let start = self.at;
                    self.word();
                    match self.text.get(start..self.at) {
                        Some("{") => *depth += 1,
                        Some("}") => *depth = depth.saturating_sub(1),
                        _ => {}
                    }
                    if self.at == start {
                        self.bump();
                    }
                }
            }
        }
    }

    fn assignment(&mut self) -> Option<Assignment> {
        let rest = self.rest();
        let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))?;
        let name = rest.get(..end)?.to_string();
        let append = rest.get(end..)?.starts_with("+=");
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        if !append && !rest.get(end..)?.starts_with('=') {
            return None;
        }
        let line = self.line;
        self.at += end + if append { 2 } else { 1 };
        let start = self.at;
        let (pieces, mut trouble) = self.word();
        let whole = start..self.at;
        let raw = self.text.get(whole.clone())?;
        if raw.contains('\n') && trouble.is_none() {
            trouble = Some("its value goes over several lines".into());
        }
        let quote = match (pieces, raw.chars().next()) {
            (1, Some('"')) => Quote::Double,
            (1, Some('\'')) => Quote::Single,
            (0 | 1, _) => Quote::Bare,
            _ => Quote::Mixed,
        };
        if quote == Quote::Mixed && trouble.is_none() {
            trouble = Some("its value is put together from several quoted pieces".into());
        }
        let value = match quote {
            Quote::Double | Quote::Single if raw.len() >= 2 => start + 1..self.at - 1,
            _ => whole.clone(),
        };
        self.skip_blank();
        if !matches!(self.peek(), None | Some('\n' | ';' | '#')) {
            let next: String = self.rest().chars().take_while(|c| !c.is_whitespace()).collect();
            trouble = Some(format!("the shell would run `{next}` as a command: is the value not quoted?"));
            let mut depth = 0;
            self.rest_of_command(&mut depth);
        }
        Some(Assignment { name, line, append, quote, value, whole, trouble })
    }

    /// One shell word: how many differently quoted pieces it has, and what in it this program does not dare to edit.
    fn word(&mut self) -> (usize, Option<String>) {
        let mut pieces = 0;
        let mut bare = false;
        let mut trouble = None;
        while let Some(c) = self.peek() {
            match c {
                '"' | '\'' => {
                    pieces += 1;
                    bare = false;
                    if let Some(why) = self.quoted(c) {
                        trouble.get_or_insert(why);
                    }
                    continue;
                }
                c if c.is_whitespace() || c == ';' || c == '&' || c == '|' || c == '<' || c == '>' => break,
                '`' => {
                    trouble.get_or_insert("it holds a command substitution".to_string());
                    self.bump();
                    while !matches!(self.peek(), None | Some('`')) {
                        self.bump();
                    }
                }
                '$' if self.rest().starts_with("$(") => {
                    trouble.get_or_insert("it holds a command substitution".to_string());
                    self.parenthesis();
                    pieces += usize::from(!bare);
                    bare = true;
                    continue;
                }
                '\\' => {
                    if self.rest().starts_with("\\\n") {
                        trouble.get_or_insert("its line is continued".to_string());
                    }
                    self.bump();
                }
                _ => {}
            }
            pieces += usize::from(!bare);
            bare = true;
            self.bump();
        }
        (pieces, trouble)
    }

    fn quoted(&mut self, mark: char) -> Option<String> {
        let mut trouble = None;
        self.bump();
        loop {
            match self.peek() {
                None => return Some("its quotes are never closed".into()),
                Some(c) if c == mark => {
                    self.bump();
                    return trouble;
                }
                Some('\\') if mark == '"' => {
                    if self.rest().starts_with("\\\n") {
                        trouble = Some("its line is continued".into());
                    }
                    self.bump();
                    self.bump();
                }
                Some('`') if mark == '"' => {
                    trouble = Some("it holds a command substitution".into());
                    self.bump();
                }
                Some('$') if mark == '"' && self.rest().starts_with("$(") => {
                    trouble = Some("it holds a command substitution".into());
                    self.parenthesis();
                }
                Some(_) => self.bump(),
            }
        }
    }

    /// `$( … )` with what is nested in it.
    fn parenthesis(&mut self) {
        let mut depth = 0usize;
        let mut mark = None;
        while let Some(c) = self.peek() {
            match (mark, c) {
                (Some(m), c) if m == c => mark = None,
                (Some(_), _) => {}
                (None, '"' | '\'') => mark = Some(c),
                (None, '(') => depth += 1,
                (None, ')') => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return self.bump();
                    }
                }
                _ => {}
            }
            self.bump();
        }
    }
}

/// The value as written between its quotes, of the assignment that counts; `None` when the variable is not set.
///
/// # Errors
/// Why it can't be read or edited safely, with the line.
pub fn value(text: &str, name: &str) -> Result<Option<String>, String> {
    Ok(effective(text, name)?.and_then(|found| text.get(found.value)).map(str::to_string))
}

/// The assignment that counts.
fn effective(text: &str, name: &str) -> Result<Option<Assignment>, String> {
    let mut found: Vec<Assignment> = assignments(text).into_iter().filter(|a| a.name == name).collect();
    let several = found.len() > 1;
    let Some(last) = found.pop() else { return Ok(None) };
    if let Some(trouble) = last.trouble {
        return Err(format!("line {}: {name}: {trouble}", last.line));
    }
    if last.append || several && mentions(text.get(last.value.clone()).unwrap_or(""), name) {
        return Err(format!("line {}: {name} is put together from several assignments", last.line));
    }
    Ok(Some(last))
}

/// Does this text use the variable?
pub fn mentions(text: &str, name: &str) -> bool {
    text.contains(&format!("${{{name}}}"))
        || text
            .match_indices(&format!("${name}"))
            .any(|(at, found)| !text.get(at + found.len()..).is_some_and(|rest| rest.starts_with(is_name)))
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Above an assignment that this program put there, so that it can take it away again.
const OURS: &str = "# added by vfio-provision\n";

/// Edits the value between its quotes. An unset variable counts as empty, and is added at the end when it gets a value.
///
/// # Errors
/// Why it can't be edited safely, with the line.
pub fn edit(text: &str, name: &str, change: impl Fn(&str) -> String) -> Result<String, String> {
    let new = edited(text, name, &change)?;
    // A quote or a block that an earlier line left open would swallow what was written.
    if new != text {
        let wanted = change(&value(text, name)?.unwrap_or_default());
        if value(&new, name)?.unwrap_or_default() != wanted {
            return Err(format!("{name} can't be set: a quote or a block before it is never closed"));
        }
    }
    Ok(new)
}

fn edited(text: &str, name: &str, change: &dyn Fn(&str) -> String) -> Result<String, String> {
    let Some(found) = effective(text, name)? else {
        let wanted = change("");
        if wanted.is_empty() {
            return Ok(text.to_string());
        }
        let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        return Ok(format!("{text}{newline}{OURS}{name}=\"{wanted}\"\n"));
    };
    let old = text.get(found.value.clone()).unwrap_or("");
    let new = change(old);
    if new == old {
        return Ok(text.to_string());
    }
    let mut result = text.to_string();
    let bare_is_enough = !new.is_empty() && new.chars().all(|c| c.is_ascii_alphanumeric() || "_-.,:=/@%+".contains(c));
    match found.quote {
        Quote::Bare if !bare_is_enough => {
            if old.contains('\\') {
                return Err(format!("line {}: {name}: its value has escaped characters outside of quotes", found.line));
            }
            result.replace_range(found.whole, &format!("\"{new}\""));
        }
        _ => result.replace_range(found.value, &new),
    }
    if new.is_empty() {
        result = result.replace(&format!("{OURS}{name}=\"\"\n"), "");
    }
    Ok(result)
}

/// What several files that are read one after the other make of a variable, other variables put in. What can't be known
/// without a shell stays as it is written (`$(…)`).
pub fn evaluate<'a>(files: impl IntoIterator<Item = &'a str>, name: &str) -> String {
    let mut known: std::collections::HashMap<String, String> = std::collections::HashMap::new();
    for text in files {
        for found in assignments(text) {
            let raw = text.get(found.value.clone()).unwrap_or("");
            let new = match found.quote {
                Quote::Single => raw.to_string(),
                _ => expand(raw, &known),
            };
            let old = if found.append { known.get(&found.name).cloned().unwrap_or_default() } else { String::new() };
            known.insert(found.name, old + &new);
        }
    }
    known.remove(name).unwrap_or_default()
}

fn expand(raw: &str, known: &std::collections::HashMap<String, String>) -> String {
    let mut result = String::new();
    let mut rest = raw;
    while let Some(c) = rest.chars().next() {
        let tail = rest.get(c.len_utf8()..).unwrap_or("");
        match c {
            '\\' => {
                let next = tail.chars().next();
                match next {
                    Some('\n') | None => {}
                    Some(n @ ('"' | '\\' | '$' | '`')) => result.push(n),
                    Some(n) => {
                        result.push('\\');
                        result.push(n);
                    }
                }
                rest = tail.get(next.map_or(0, char::len_utf8)..).unwrap_or("");
            }
            '$' => {
                let braced = tail.strip_prefix('{').and_then(|inner| inner.split_once('}'));
                let (name, behind) = match braced {
                    Some((name, behind)) => (name, behind),
                    None => tail.split_at(tail.find(|c| !is_name(c)).unwrap_or(tail.len())),
                };
                if name.is_empty() || !name.chars().all(is_name) {
                    result.push('$');
                    rest = tail;
                } else {
                    result.push_str(known.get(name).map_or("", String::as_str));
                    rest = behind;
                }
            }
            c => {
                result.push(c);
                rest = tail;
            }
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::boot::cmdline::Edit;
    use proptest::prelude::*;

    const EL7: &str = r#"GRUB_TIMEOUT=5
GRUB_DISTRIBUTOR="$(sed 's, release .*$,,g' /etc/system-release)"
GRUB_DEFAULT=saved
GRUB_DISABLE_SUBMENU=true
GRUB_TERMINAL_OUTPUT="console"
GRUB_CMDLINE_LINUX="crashkernel=auto rd.lvm.lv=cl/root rd.lvm.lv=cl/swap rhgb quiet"
GRUB_DISABLE_RECOVERY="true"
"#;

    fn with(text: &str, token: &str) -> Result<String, String> {
        let asked = Edit { present: vec![token.into()], absent: vec![] };
        edit(text, "GRUB_CMDLINE_LINUX", |old| asked.apply(old))
    }

    fn without(text: &str, token: &str) -> Result<String, String> {
        let asked = Edit { present: vec![], absent: vec![token.into()] };
        edit(text, "GRUB_CMDLINE_LINUX", |old| asked.apply(old))
    }

    #[test]
    fn one_value_changes_and_goes_back() {
        let new = with(EL7, "intel_iommu=on").unwrap();
        assert_eq!(new, EL7.replace("rhgb quiet\"", "rhgb quiet intel_iommu=on\""));
        assert_eq!(without(&new, "intel_iommu=on").unwrap(), EL7);
    }

    #[test]
    fn quoting_style_is_kept() {
        assert_eq!(with("GRUB_CMDLINE_LINUX='a' # x\n", "b").unwrap(), "GRUB_CMDLINE_LINUX='a b' # x\n");
        assert_eq!(with("GRUB_CMDLINE_LINUX=\n", "b").unwrap(), "GRUB_CMDLINE_LINUX=b\n");
        assert_eq!(with("GRUB_CMDLINE_LINUX=a\n", "b").unwrap(), "GRUB_CMDLINE_LINUX=\"a b\"\n");
        assert_eq!(with("export GRUB_CMDLINE_LINUX=\"a\"\n", "b").unwrap(), "export GRUB_CMDLINE_LINUX=\"a b\"\n");
        assert_eq!(with("GRUB_CMDLINE_LINUX=\"a $X\"\n", "b").unwrap(), "GRUB_CMDLINE_LINUX=\"a $X b\"\n");
    }

    #[test]
    fn a_variable_that_is_not_there_is_added_and_goes_again() {
        for old in ["", "A=1\n", "# GRUB_CMDLINE_LINUX=\"x\"\n"] {
            let new = with(old, "b").unwrap();
            assert!(new.ends_with("# added by vfio-provision\nGRUB_CMDLINE_LINUX=\"b\"\n"), "{new}");
            assert_eq!(without(&new, "b").unwrap(), old);
        }
    }

    #[test]
    fn the_last_assignment_counts_and_other_quotes_hide_nothing() {
        let text = "X='\nGRUB_CMDLINE_LINUX=\"no\"\n'\nGRUB_CMDLINE_LINUX=\"old\"\nGRUB_CMDLINE_LINUX=\"new\"\n";
        assert_eq!(value(text, "GRUB_CMDLINE_LINUX").unwrap().as_deref(), Some("new"));
        assert!(with(text, "b").unwrap().ends_with("\"old\"\nGRUB_CMDLINE_LINUX=\"new b\"\n"));
    }

    #[test]
    fn what_is_not_certain_is_refused_with_its_line() {
        for (text, why) in [
            (
                "A=1\nGRUB_CMDLINE_LINUX=vfio-pci.ids=1 iommu=pt\n",
                "line 2: GRUB_CMDLINE_LINUX: the shell would run `iommu=pt`",
            ),
            ("GRUB_CMDLINE_LINUX=\"$(cat /x)\"\n", "command substitution"),
            ("GRUB_CMDLINE_LINUX=\"`cat /x`\"\n", "command substitution"),
            ("GRUB_CMDLINE_LINUX=\"a \\\nb\"\n", "continued"),
            ("GRUB_CMDLINE_LINUX=\"a\nb\"\n", "several lines"),
            ("GRUB_CMDLINE_LINUX=\"a\"'b'\n", "several quoted pieces"),
            ("GRUB_CMDLINE_LINUX=\"a\n", "never closed"),
            ("if true; then\n  GRUB_CMDLINE_LINUX=\"a\"\nfi\n", "inside of `if`"),
            ("f() {\nGRUB_CMDLINE_LINUX=\"a\"\n}\n", "inside of `if`"),
            ("GRUB_CMDLINE_LINUX=a\nGRUB_CMDLINE_LINUX+=\" b\"\n", "several assignments"),
            ("GRUB_CMDLINE_LINUX=a\nGRUB_CMDLINE_LINUX=\"$GRUB_CMDLINE_LINUX b\"\n", "several assignments"),
        ] {
            let error = with(text, "c").unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
        // The same things elsewhere are nobody's business.
        assert!(with("if a; then\n B=\"$(x)\"\nfi\nGRUB_CMDLINE_LINUX=\"a\"\n", "c").is_ok());
    }

    #[test]
    fn drop_ins_are_evaluated_in_order() {
        let main = "GRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\nGRUB_CMDLINE_LINUX=\"\"\n";
        let cloud = "GRUB_CMDLINE_LINUX_DEFAULT=\"console=tty1\"\n";
        let ours = "GRUB_CMDLINE_LINUX_DEFAULT=\"${GRUB_CMDLINE_LINUX_DEFAULT} iommu=pt\"\n";
        let all = [main, cloud, ours];
        assert_eq!(evaluate(all, "GRUB_CMDLINE_LINUX_DEFAULT"), "console=tty1 iommu=pt");
        assert_eq!(evaluate([main, "A=1\nA+=2\nB='$A'\nC=\"\\$A$A\"\n"], "C"), "$A12");
    }

    proptest! {
        #[test]
        fn any_text_is_read_and_kept(text in "([A-Z_]{1,3}=|GRUB_CMDLINE_LINUX=|[\"'`$(){}\\\\#; \n]|if |fi|[a-z]{1,3}){0,24}") {
            let _ = value(&text, "GRUB_CMDLINE_LINUX");
            let _ = evaluate([text.as_str()], "GRUB_CMDLINE_LINUX");
            if let Ok(same) = edit(&text, "GRUB_CMDLINE_LINUX", str::to_string) {
                prop_assert_eq!(&same, &text);
            }
            if let Ok(new) = with(&text, "intel_iommu=on") {
                prop_assert_eq!(with(&new, "intel_iommu=on"), Ok(new.clone()));
            }
        }

        #[test]
        fn no_text_is_too_strange(text in "\\PC*") {
            let _ = assignments(&text);
            let _ = with(&text, "x");
        }
    }
}
