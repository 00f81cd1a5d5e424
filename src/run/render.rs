//! Playbook nodes to finished values, with errors that point into the playbook.

use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::template::{Lookup, Templar, TemplateError, Unlock};
use crate::vault::Vault;
use crate::yaml::{Node, NodeValue};

/// Why a value can't be had.
#[derive(Clone, Debug, PartialEq)]
pub enum Trouble {
    /// Not before something is applied; the reason.
    Unknown(String),
    /// It is wrong; the message with its place.
    Failed(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Unknown(message) | Trouble::Failed(message) => f.write_str(message),
        }
    }
}

impl Trouble {
    fn of(error: &TemplateError, text: &str, node: &Node) -> Trouble {
        match error.unknown() {
            Some(reason) => Trouble::Unknown(reason.to_string()),
            None => Trouble::Failed(error.diagnostic(text, &node.span).to_string()),
        }
    }
}

/// Renders nodes.
#[derive(Default)]
pub struct Render {
    /// The templates.
    pub templar: Templar,
}

impl Render {
    /// Renders what this vault opens, too.
    pub fn with(vault: &Arc<Vault>) -> Render {
        Render { templar: Templar::new().with_vault(Arc::clone(vault) as Arc<dyn Unlock>) }
    }

    /// The finished value of a node; strings in it are templates.
    pub fn node(&self, node: &Node, scope: &dyn Lookup) -> Result<Value, Trouble> {
        Ok(match &node.value {
            NodeValue::String(text) => self.text(text, node, scope)?,
            NodeValue::List(list) => {
                Value::Array(list.iter().map(|one| self.node(one, scope)).collect::<Result<_, _>>()?)
            }
            NodeValue::Map(map) => {
                let mut out = Map::new();
                for (key, one) in map {
                    let name = match self.templar.render(&key.name, scope) {
                        Ok(Value::String(name)) => name,
                        Ok(other) => other.to_string(),
                        Err(error) => {
                            let place = Node::string(key.name.clone(), &key.span);
                            return Err(Trouble::of(&error, &key.name, &place));
                        }
                    };
                    out.insert(name, self.node(one, scope)?);
                }
                Value::Object(out)
            }
            other => other.to_json(),
        })
    }

    fn text(&self, text: &str, node: &Node, scope: &dyn Lookup) -> Result<Value, Trouble> {
        self.templar.render(text, scope).map_err(|error| Trouble::of(&error, text, node))
    }

    /// A condition: a bare expression, or a truth value.
    pub fn condition(&self, node: &Node, scope: &dyn Lookup) -> Result<bool, Trouble> {
        match &node.value {
            NodeValue::Bool(truth) => Ok(*truth),
            NodeValue::String(text) => {
                self.templar.condition(text, scope).map_err(|error| Trouble::of(&error, text, node))
            }
            NodeValue::Null => Ok(true),
            _ => Err(Trouble::Failed(format!(
                "a condition must be an expression, not {}: {}",
                node.kind_name(),
                node.span.place()
            ))),
        }
    }

    /// The value of a bare expression.
    pub fn expression(&self, text: &str, node: &Node, scope: &dyn Lookup) -> Result<Value, Trouble> {
        self.templar.evaluate(text, scope).map_err(|error| Trouble::of(&error, text, node))
    }

    /// A setting such as `become`: a truth value, a word for one, or a template that gives one.
    pub fn truth(&self, node: &Node, scope: &dyn Lookup) -> Result<bool, Trouble> {
        let value = self.node(node, scope)?;
        truth(&value).ok_or_else(|| {
            Trouble::Failed(format!("neither true nor false: {} ({})", short(&value), node.span.place()))
        })
    }
}

/// The value of `omit`: a parameter that has it is as if it were not given. No user writes this by accident.
pub const OMIT: &str = "__omit_this_parameter_5d1f7c__";

/// Takes omitted parameters out, also those inside of maps and lists.
pub fn leave_out_omitted(map: &mut Map<String, Value>) {
    fn inside(value: &mut Value) {
        match value {
            Value::Object(map) => leave_out_omitted(map),
            Value::Array(list) => {
                list.retain(|one| one.as_str() != Some(OMIT));
                list.iter_mut().for_each(inside);
            }
            _ => {}
        }
    }
    map.retain(|_, value| value.as_str() != Some(OMIT));
    map.values_mut().for_each(inside);
}

/// What Ansible takes for a truth value.
pub fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(truth) => Some(*truth),
        Value::Number(number) => Some(number.as_f64() != Some(0.0)),
        Value::String(text) => match text.to_ascii_lowercase().as_str() {
            "yes" | "true" | "on" | "1" | "y" | "t" => Some(true),
            "no" | "false" | "off" | "0" | "n" | "f" | "" => Some(false),
            _ => None,
        },
        Value::Null => Some(false),
        _ => None,
    }
}

/// A number, also one that a template made a string of.
pub fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()))
}

/// One string, or a list of them.
pub fn strings(value: &Value) -> Vec<String> {
    match value {
        Value::Null => Vec::new(),
        Value::String(text) => vec![text.clone()],
        Value::Array(list) => list.iter().flat_map(strings).collect(),
        other => vec![other.to_string()],
    }
}

/// "a list", "a map", …
pub fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    }
}

/// A value in one short line, for headings.
pub fn short(value: &Value) -> String {
    const LONGEST: usize = 80;
    let text = match value {
        Value::String(text) => text.clone(),
        // Things that have a name are known by it.
        Value::Object(map) => match map.get("name").and_then(Value::as_str) {
            Some(name) => name.to_string(),
            None => value.to_string(),
        },
        other => other.to_string(),
    };
    let line = text.lines().next().unwrap_or("");
    if line.chars().count() <= LONGEST && line.len() == text.len() {
        return text;
    }
    let cut: String = line.chars().take(LONGEST).collect();
    format!("{cut}…")
}
