//! What an unquoted word means.

use super::NodeValue;

/// An unquoted scalar: null, a truth value, a number that reads back the same, or a string.
///
/// Truth values are YAML 1.1's, as Ansible (PyYAML) reads them; `y` and `n` are strings there too.
pub fn plain(text: &str) -> NodeValue {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return NodeValue::Null,
        _ => {}
    }
    match truth(text) {
        Some(value) => NodeValue::Bool(value),
        None => number(text).unwrap_or_else(|| NodeValue::String(text.to_string())),
    }
}

/// A truth value of YAML 1.1.
pub fn truth(text: &str) -> Option<bool> {
    match text {
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Some(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Some(false),
        _ => None,
    }
}

/// A number, if and only if the number's own text is the text that was written.
fn number(text: &str) -> Option<NodeValue> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit()) || !digits.ends_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if let Ok(number) = text.parse::<i64>() {
        return (number.to_string() == text).then_some(NodeValue::Int(number));
    }
    let number = text.parse::<f64>().ok()?;
    (number.is_finite() && format!("{number:?}") == text && !text.contains('e')).then_some(NodeValue::Float(number))
}
