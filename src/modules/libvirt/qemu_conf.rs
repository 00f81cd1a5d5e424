//! The grammar of qemu.conf, libvirtd.conf and their like: `key = value`, where a value is a whole number, a string in
//! single, double or three double quotes, or a list that may run over several lines. Neither INI nor TOML.
//!
//! Edits keep every byte that is not theirs. What is written is on one line: other programs that read these files
//! have stumbled over longer lists.

use std::ops::Range;

/// A value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A whole number; truth values are 0 and 1.
    Number(i64),
    /// A string; there are no escapes.
    Text(String),
    /// A list of strings.
    List(Vec<String>),
}

impl Value {
    /// As it stands in the file.
    ///
    /// # Errors
    /// When the grammar has no way to write it: a line break, or both sorts of quotes.
    pub fn print(&self) -> Result<String, String> {
        match self {
            Value::Number(number) => Ok(number.to_string()),
            Value::Text(text) => quote(text),
            Value::List(list) if list.is_empty() => Ok("[]".to_string()),
            Value::List(list) => {
                let quoted: Result<Vec<String>, String> = list.iter().map(|text| quote(text)).collect();
                Ok(format!("[ {} ]", quoted?.join(", ")))
            }
        }
    }
}

fn quote(text: &str) -> Result<String, String> {
    match (text.contains('"'), text.contains('\'')) {
        _ if text.contains(['\n', '\r', '\0']) => Err(format!("{text:?}: a line break can't be written in this file")),
        (false, _) => Ok(format!("\"{text}\"")),
        (true, false) => Ok(format!("'{text}'")),
        (true, true) => Err(format!("{text:?}: both sorts of quotes can't be written in this file")),
    }
}

/// A setting in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub key: String,
    /// Its value.
    pub value: Value,
    /// Where the value stands, in bytes.
    pub span: Range<usize>,
    /// Where the whole setting begins.
    pub start: usize,
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or("")
    }
    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }
    fn skip(&mut self, what: impl Fn(char) -> bool) -> usize {
        let len = self.rest().find(|c| !what(c)).unwrap_or(self.rest().len());
        self.at += len;
        len
    }
    fn skip_line(&mut self) {
        self.skip(|c| c != '\n');
    }
    /// White space, line breaks and comments.
    fn skip_space(&mut self) {
        loop {
            self.skip(char::is_whitespace);
            if self.peek() != Some('#') {
                return;
            }
            self.skip_line();
        }
    }
    fn fail<T>(&self, why: &str) -> Result<T, String> {
        let line = self.text.bytes().take(self.at).filter(|b| *b == b'\n').count() + 1;
        Err(format!("line {line}: {why}"))
    }

    fn string(&mut self) -> Result<String, String> {
        let quotes = if self.rest().starts_with("\"\"\"") {
            "\"\"\""
        } else if self.rest().starts_with('"') {
            "\""
        } else {
            "'"
        };
        let begin = self.at + quotes.len();
        let inside = self.text.get(begin..).unwrap_or("");
        let Some(len) = inside.find(quotes) else { return self.fail("a string does not end") };
        let content = inside.get(..len).unwrap_or("");
        if quotes.len() == 1 && content.contains('\n') {
            return self.fail("a string does not end on its line");
        }
        let content = content.to_string();
        self.at = begin + len + quotes.len();
        Ok(content)
    }

    fn value(&mut self) -> Result<Value, String> {
        match self.peek() {
            Some('"' | '\'') => self.string().map(Value::Text),
            Some('[') => {
                self.at += 1;
                let mut list = Vec::new();
                loop {
                    self.skip_space();
                    match self.peek() {
                        Some(']') => {
                            self.at += 1;
                            return Ok(Value::List(list));
                        }
                        Some('"' | '\'') => list.push(self.string()?),
                        _ => return self.fail("a string or `]` is expected in a list"),
                    }
                    self.skip_space();
                    match self.peek() {
                        Some(',') => self.at += 1,
                        Some(']') => {}
                        _ => return self.fail("`,` or `]` is expected in a list"),
                    }
                }
            }
            _ => {
                let begin = self.at;
                if matches!(self.peek(), Some('-' | '+')) {
                    self.at += 1;
                }
                self.skip(|c| c.is_ascii_digit());
                match self.text.get(begin..self.at).unwrap_or("").parse() {
                    Ok(number) => Ok(Value::Number(number)),
                    Err(_) => self.fail("a number, a string in quotes or a list is expected"),
                }
            }
        }
    }
}

/// All settings, in order.
///
/// # Errors
/// What is wrong, and at which line.
pub fn parse(text: &str) -> Result<Vec<Entry>, String> {
    let mut parser = Parser { text, at: 0 };
    let mut entries = Vec::new();
    loop {
        parser.skip_space();
        if parser.peek().is_none() {
            return Ok(entries);
        }
        let start = parser.at;
        if parser.skip(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-')) == 0 {
            return parser.fail("the name of a setting is expected");
        }
        let key = text.get(start..parser.at).unwrap_or("").to_string();
        parser.skip(|c| c == ' ' || c == '\t');
        if parser.peek() != Some('=') {
            return parser.fail(&format!("`=` is expected behind {key}"));
        }
        parser.at += 1;
        parser.skip(|c| c == ' ' || c == '\t');
        let begin = parser.at;
        let value = parser.value()?;
        entries.push(Entry { key, value, span: begin..parser.at, start });
        parser.skip(|c| c == ' ' || c == '\t' || c == '\r');
        if !matches!(parser.peek(), None | Some('\n' | '#')) {
            return parser.fail("there is something behind the value");
        }
    }
}

/// One setting's value; libvirt takes the first where there are several. `None` too when the file is not valid.
pub fn get(text: &str, key: &str) -> Option<Value> {
    parse(text).ok()?.into_iter().find(|entry| entry.key == key).map(|entry| entry.value)
}

/// The text with one setting changed or added: in its place, behind its commented default, or at the end.
///
/// # Errors
/// When the text is not valid, or the value can't be written.
pub fn set(text: &str, key: &str, value: &Value) -> Result<String, String> {
    let printed = value.print()?;
    if let Some(entry) = parse(text)?.into_iter().find(|entry| entry.key == key) {
        if &entry.value == value {
            return Ok(text.to_string());
        }
        let (before, after) = (text.get(..entry.span.start), text.get(entry.span.end..));
        return Ok(format!("{}{printed}{}", before.unwrap_or(""), after.unwrap_or("")));
    }
    let line = format!("{key} = {printed}\n");
    let place = behind_default(text, key).unwrap_or(text.len());
    let (before, after) = (text.get(..place).unwrap_or(text), text.get(place..).unwrap_or(""));
    let gap = if before.is_empty() || before.ends_with('\n') { "" } else { "\n" };
    Ok(format!("{before}{gap}{line}{after}"))
}

/// The text without a setting.
///
/// # Errors
/// When the text is not valid.
pub fn unset(text: &str, key: &str) -> Result<String, String> {
    let mut text = text.to_string();
    while let Some(entry) = parse(&text)?.into_iter().find(|entry| entry.key == key) {
        // The whole line goes, with a comment behind the value.
        let line = text.get(..entry.start).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
        let rest = text.get(entry.span.end..).unwrap_or("");
        let end = rest.find('\n').map_or(text.len(), |at| entry.span.end + at + 1);
        text.replace_range(line..end, "");
    }
    Ok(text)
}

/// The end of the comment that holds `#key = …`, where there is one outside of any value.
fn behind_default(text: &str, key: &str) -> Option<usize> {
    let values: Vec<Range<usize>> = parse(text).ok()?.into_iter().map(|entry| entry.start..entry.span.end).collect();
    let mut at = 0;
    let mut found = false;
    for line in text.split_inclusive('\n') {
        let comment = line.trim_start().strip_prefix('#');
        if found && comment.is_none() {
            return Some(at);
        }
        if let Some(comment) = comment
            && !values.iter().any(|span| span.contains(&at))
        {
            let name = comment.trim_start().strip_prefix(key).map(str::trim_start);
            found |= name.is_some_and(|rest| rest.starts_with('='));
        }
        at += line.len();
    }
    found.then_some(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "# The user\n#\n#user = \"qemu\"\n\n#nvram = [\n#   \"a:b\",\n#]\n\ngroup = 'kvm' # mine\n\
                        cgroup_device_acl = [\n  \"/dev/null\", # one\n  \"/dev/kvm\",\n]\nmax_core=3";

    fn text(value: &str) -> Value {
        Value::Text(value.to_string())
    }

    #[test]
    fn reads_libvirts_grammar() {
        assert_eq!(get(FILE, "group"), Some(text("kvm")));
        assert_eq!(
            get(FILE, "cgroup_device_acl"),
            Some(Value::List(vec!["/dev/null".to_string(), "/dev/kvm".to_string()]))
        );
        assert_eq!(get(FILE, "max_core"), Some(Value::Number(3)));
        assert_eq!(get(FILE, "user"), None);
        assert_eq!(get("a = \"\"\"x\ny\"\"\"\n", "a"), Some(text("x\ny")));
    }

    #[test]
    fn edits_keep_the_rest() {
        let changed = set(FILE, "group", &text("libvirt")).unwrap();
        assert_eq!(changed, FILE.replace("'kvm'", "\"libvirt\""));
        let changed = set(FILE, "cgroup_device_acl", &Value::List(vec!["/dev/kvm".to_string()])).unwrap();
        assert!(changed.contains("cgroup_device_acl = [ \"/dev/kvm\" ]\nmax_core=3"), "{changed}");
        let changed = set(FILE, "user", &text("root")).unwrap();
        assert!(changed.contains("#user = \"qemu\"\nuser = \"root\"\n\n#nvram"), "{changed}");
        let changed = set(FILE, "nvram", &Value::List(vec!["c:d".to_string()])).unwrap();
        assert!(changed.contains("#]\nnvram = [ \"c:d\" ]\n\ngroup"), "{changed}");
        let changed = set(FILE, "new", &Value::Number(1)).unwrap();
        assert!(changed.ends_with("max_core=3\nnew = 1\n"), "{changed}");
        assert_eq!(set(&changed, "new", &Value::Number(1)).unwrap(), changed);
        assert_eq!(unset(&changed, "new").unwrap(), format!("{FILE}\n"));
    }

    #[test]
    fn says_what_is_wrong_and_where() {
        for (text, why) in [
            ("a = \"x\n", "line 1: a string does not end"),
            ("\na = [ \"x\" \"y\" ]", "line 2: `,` or `]`"),
            ("a = 1 2", "something behind"),
            ("a", "`=` is expected"),
            ("= 1", "name of a setting"),
            ("a = yes", "a number, a string"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(why), "{text:?}: {error}");
        }
        assert!(text("a\nb").print().is_err());
        assert!(text("a'b\"c").print().is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a-c=\\[\\]\"',# \n0-9é-]{0,40}") {
            let _ = parse(&text);
            let _ = set(&text, "a", &Value::Number(1));
            let _ = unset(&text, "a");
        }

        #[test]
        fn what_is_set_is_read_and_nothing_else_changes(
            before in "((#?(a|b|c) = (1|\"x\"|\\[ \"y\",\n \"z\" \\])( # c)?)?\n){0,6}",
            key in "[abc]",
            list in proptest::collection::vec("[a-z:/]{0,5}", 0..3),
        ) {
            let value = Value::List(list);
            if let Ok(entries) = parse(&before) {
                let after = set(&before, &key, &value).unwrap();
                prop_assert_eq!(get(&after, &key), Some(value.clone()));
                prop_assert_eq!(set(&after, &key, &value).unwrap(), after.clone());
                for entry in entries.iter().filter(|entry| entry.key != key) {
                    prop_assert_eq!(get(&after, &entry.key), get(&before, &entry.key));
                }
                prop_assert_eq!(get(&unset(&after, &key).unwrap(), &key), None);
            }
        }
    }
}
