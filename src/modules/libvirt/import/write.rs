//! Parameters as YAML that people go on writing in: one key a line, a device a line where it fits.

use serde_json::{Map, Value};

/// What is written above things, by where they stand: `graphics[0]`.
pub type Comments = std::collections::BTreeMap<String, String>;

/// As wide as lines get.
const WIDTH: usize = 118;

/// A map as YAML, every line `indent` columns in. Templates in texts (a title may hold `{{`) are kept from being read.
pub fn yaml(map: &Map<String, Value>, indent: usize, comments: &Comments) -> String {
    let mut writer = Writer { out: String::new(), comments };
    writer.map(map, indent, "");
    writer.out
}

struct Writer<'a> {
    out: String,
    comments: &'a Comments,
}

impl Writer<'_> {
    fn map(&mut self, map: &Map<String, Value>, indent: usize, way: &str) {
        for (key, value) in map {
            let inner = if way.is_empty() { key.clone() } else { format!("{way}.{key}") };
            self.comment(&inner, indent);
            self.pad(indent);
            self.entry(key, value, indent, &inner);
        }
    }

    fn pad(&mut self, indent: usize) {
        self.out.push_str(&" ".repeat(indent));
    }

    fn comment(&mut self, way: &str, indent: usize) {
        let Some(comment) = self.comments.get(way) else { return };
        for line in comment.lines() {
            self.pad(indent);
            self.out.push_str(&format!("# {line}\n"));
        }
    }

    /// `key: value`; the cursor is where the key begins, `indent` columns in.
    fn entry(&mut self, key: &str, value: &Value, indent: usize, way: &str) {
        self.out.push_str(&scalar(&Value::String(key.to_string()), true));
        self.out.push(':');
        let used = indent + key.len() + 2;
        if let Value::String(text) = value
            && let Some(lines) = block(text)
        {
            self.out.push_str(" |\n");
            for line in lines {
                if !line.is_empty() {
                    self.pad(indent + 2);
                    self.out.push_str(line);
                }
                self.out.push('\n');
            }
            return;
        }
        let commented =
            self.comments.keys().any(|key| key.starts_with(&format!("{way}[")) || key.starts_with(&format!("{way}.")));
        if let Some(line) = flow(value)
            && !commented
            && (used + line.chars().count() <= WIDTH || is_leaf(value))
            && !is_list_of_maps(value)
        {
            self.out.push_str(&format!(" {line}\n"));
            return;
        }
        self.out.push('\n');
        match value {
            Value::Object(map) => self.map(map, indent + 2, way),
            Value::Array(items) => self.list(items, indent + 2, way),
            _ => {}
        }
    }

    fn list(&mut self, items: &[Value], indent: usize, way: &str) {
        for (at, item) in items.iter().enumerate() {
            let inner = format!("{way}[{at}]");
            self.comment(&inner, indent);
            self.pad(indent);
            self.out.push_str("- ");
            match (flow(item), item) {
                (Some(line), item) if indent + 2 + line.chars().count() <= WIDTH || is_leaf(item) => {
                    self.out.push_str(&line);
                    self.out.push('\n');
                }
                (_, Value::Object(map)) => {
                    for (number, (key, value)) in map.iter().enumerate() {
                        if number > 0 {
                            self.pad(indent + 2);
                        }
                        self.entry(key, value, indent + 2, &format!("{inner}.{key}"));
                    }
                }
                (_, Value::Array(items)) => {
                    self.out.push('\n');
                    self.list(items, indent + 2, &inner);
                }
                (_, leaf) => {
                    self.out.push_str(&scalar(leaf, false));
                    self.out.push('\n');
                }
            }
        }
    }
}

fn is_leaf(value: &Value) -> bool {
    !matches!(value, Value::Array(_) | Value::Object(_))
}

fn is_list_of_maps(value: &Value) -> bool {
    matches!(value, Value::Array(items) if items.iter().any(Value::is_object))
}

/// On one line, unless a text in it has several.
fn flow(value: &Value) -> Option<String> {
    match value {
        Value::Object(map) => {
            let parts: Option<Vec<String>> = map
                .iter()
                .map(|(key, value)| {
                    let key = scalar(&Value::String(key.clone()), true);
                    Some(format!("{key}: {}", flow(value)?))
                })
                .collect();
            Some(format!("{{{}}}", parts?.join(", ")))
        }
        Value::Array(items) => {
            let parts: Option<Vec<String>> = items.iter().map(flow).collect();
            Some(format!("[{}]", parts?.join(", ")))
        }
        Value::String(text) if block(text).is_some() => None,
        leaf => Some(scalar(leaf, true)),
    }
}

/// The lines of a text that is best written as a block: `|`.
fn block(text: &str) -> Option<Vec<&str>> {
    let body = text.strip_suffix('\n')?;
    let fine = |c: char| c == '\n' || (!c.is_control() && !is_odd(c));
    let plain =
        !body.is_empty() && !body.ends_with('\n') && !body.starts_with([' ', '\n', '#']) && text.chars().all(fine);
    (plain && !has_template(text)).then(|| body.split('\n').collect())
}

/// What YAML or an editor may take for something else than a character.
fn is_odd(c: char) -> bool {
    matches!(c, '\u{85}' | '\u{a0}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
}

fn has_template(text: &str) -> bool {
    ["{{", "{%", "{#"].iter().any(|mark| text.contains(mark))
}

/// One word or text; `inside` of brackets or as a key more must be in quotes.
fn scalar(value: &Value, inside: bool) -> String {
    let Value::String(text) = value else { return value.to_string() };
    if has_template(text) {
        // What looks like a template here is none.
        if text.contains("endraw") {
            let broken = ["{{", "{%", "{#"].iter().fold(text.clone(), |text, mark| text.replace(mark, &unread(mark)));
            return quoted(&broken);
        }
        return format!("!unsafe {}", quoted(text));
    }
    if is_plain(text, inside) { text.clone() } else { quoted(text) }
}

/// A mark that a template prints.
fn unread(mark: &str) -> String {
    let mut parts = mark.chars();
    match (parts.next(), parts.next()) {
        // No brace beside another one, so that none of the following marks is found in it.
        (Some(a), Some(b)) => format!("\u{1}\u{1} '{a}' ~ '{b}' \u{2}\u{2}"),
        _ => String::new(),
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{1}' => out.push('{'),
            '\u{2}' => out.push('}'),
            c if c.is_control() || is_odd(c) => {
                let code = u32::from(c);
                out.push_str(&if code <= 0xff { format!("\\x{code:02x}") } else { format!("\\u{code:04x}") });
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// May it stand without quotes, for every reader of YAML, old and new?
fn is_plain(text: &str, inside: bool) -> bool {
    let Some(first) = text.chars().next() else { return false };
    let size = || {
        let (number, unit) = text.split_once(' ').unwrap_or(("", ""));
        !number.is_empty()
            && number.bytes().all(|b| b.is_ascii_digit())
            && matches!(unit, "bytes" | "KiB" | "MiB" | "GiB" | "TiB")
    };
    if !first.is_ascii_alphabetic() && first != '/' && first != '_' {
        return size();
    }
    let fine =
        |c: char| c.is_ascii_alphanumeric() || " /_.-+:@%=,()~".contains(c) || (!c.is_ascii() && c.is_alphanumeric());
    let word = matches!(
        text.to_ascii_lowercase().as_str(),
        "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n"
    );
    text.chars().all(fine)
        && !word
        && !text.contains(": ")
        && !text.ends_with([' ', ':'])
        && (!inside || !text.contains([',', ':']))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::diag::Source;
    use crate::template::Templar;

    fn written(value: &Value) -> String {
        yaml(value.as_object().unwrap(), 0, &Comments::new())
    }

    /// As a playbook reads it.
    fn read(text: &str) -> Value {
        let node = crate::yaml::parse_one(&Source::new("x.yml", text)).unwrap_or_else(|e| panic!("{e}\n{text}"));
        struct Nothing;
        impl crate::template::Lookup for Nothing {
            fn get(&self, _: &str) -> Option<crate::template::Var> {
                None
            }
            fn names(&self) -> Vec<String> {
                Vec::new()
            }
        }
        Templar::new().render_value(&node.to_json(), &Nothing).unwrap_or_else(|e| panic!("{e}\n{text}"))
    }

    #[test]
    fn a_line_each_as_long_as_it_fits() {
        let value = json!({
            "name": "win8", "memory": "16 GiB", "vcpus": 4, "uuid": "6cbf2807-7930-4825-9d10-f5b002cf325b",
            "boot": ["cdrom", "hd"], "features": {"pae": true},
            "disks": [{"path": "/img/win8.qcow2", "target": "vda"}, {"path": "/b", "xml": "<a/>\n<b/>\n"}],
            "pci": ["0000:82:00.0"], "usb": ["0101:0007"], "xml": "<a>\n  <b/>\n</a>\n", "title": "yes", "description": "",
        });
        let text = written(&value);
        assert_eq!(
            text,
            "name: win8\nmemory: 16 GiB\nvcpus: 4\nuuid: \"6cbf2807-7930-4825-9d10-f5b002cf325b\"\nboot: [cdrom, hd]\n\
             features: {pae: true}\ndisks:\n  - {path: /img/win8.qcow2, target: vda}\n  - path: /b\n    xml: |\n      <a/>\n      \
             <b/>\npci: [\"0000:82:00.0\"]\nusb: [\"0101:0007\"]\nxml: |\n  <a>\n    <b/>\n  </a>\ntitle: \"yes\"\n\
             description: \"\"\n"
        );
        assert_eq!(read(&text), value);
    }

    #[test]
    fn comments_stand_above() {
        let comments = Comments::from([("graphics[0]".to_string(), "a\nb".to_string())]);
        let value = json!({"graphics": [{"type": "vnc"}]});
        assert_eq!(
            yaml(value.as_object().unwrap(), 2, &comments),
            "  graphics:\n    # a\n    # b\n    - {type: vnc}\n"
        );
    }

    fn any_text() -> impl Strategy<Value = String> {
        let odd = "[ -~\n\t\r\u{85}\u{a0}\u{e9}\u{2028}\u{1f600}]{0,12}";
        let word = "(yes|No|~|null|0x82|82:00[.]0|10:20|1e5|- a|a: b|a #b|[{]{2} x [}]{2}|[{]% endraw %[}]|[{]#|2024-01-01|endraw[{]{2})";
        prop_oneof![odd.prop_map(|s| s), word.prop_map(|s| s), (odd, word, odd).prop_map(|(a, b, c)| a + &b + &c)]
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            any_text().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            any::<u32>().prop_map(Value::from)
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("[a-z_]{1,8}", inner, 1..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(map in proptest::collection::btree_map("[a-z_]{1,8}", any_value(), 1..5)) {
            let value = Value::Object(map.into_iter().collect());
            let text = written(&value);
            prop_assert_eq!(read(&text), value, "{}", text);
        }
    }
}
