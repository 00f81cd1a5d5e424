//! Types for parameters, lenient where Ansible is and strict where leniency has hurt people.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize};

use super::read::read;

/// Permission bits in octal, as a string: `"0644"` (in a playbook also bare `0644`, which [`crate::yaml`] keeps as text). A
/// number is refused: a template or JSON may have made 420 of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Mode(pub u32);

impl<'de> Deserialize<'de> for Mode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Mode, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Mode;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("permission bits as a quoted string, such as \"0644\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Mode, E> {
                let digits = text.strip_prefix("0o").unwrap_or(text);
                match u32::from_str_radix(digits, 8) {
                    Ok(mode) if mode <= 0o7777 => Ok(Mode(mode)),
                    _ => Err(E::custom(format!(
                        "`{text}` is not a mode: write it as octal digits in quotes, such as \"0644\""
                    ))),
                }
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Mode, E> {
                Err(E::custom(format!(
                    "the mode {number} is a number, and YAML may have read it wrongly: put it in quotes, such as \"0644\""
                )))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Mode, E> {
                Err(E::custom(format!("the mode {number} is a number: put it in quotes, such as \"0644\"")))
            }
        }
        deserializer.deserialize_any(V)
    }
}

impl JsonSchema for Mode {
    fn schema_name() -> Cow<'static, str> {
        "Mode".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "pattern": "^(0o)?[0-7]{3,5}$", "description": "Permission bits in octal, in quotes"})
    }
}

/// A truth value; templates make strings of them, so `"yes"`, `"no"`, `"true"`, `"false"`, `"on"`, `"off"` count too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flag(pub bool);

/// A [`Flag`] that is true unless said otherwise, for `#[serde(default = …)]`.
pub fn yes() -> Flag {
    Flag(true)
}

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Flag, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Flag;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true or false")
            }
            fn visit_bool<E>(self, value: bool) -> Result<Flag, E> {
                Ok(Flag(value))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Flag, E> {
                match text.to_ascii_lowercase().as_str() {
                    "yes" | "true" | "on" | "1" => Ok(Flag(true)),
                    "no" | "false" | "off" | "0" => Ok(Flag(false)),
                    _ => Err(E::custom(format!("`{text}` is neither true nor false"))),
                }
            }
        }
        deserializer.deserialize_any(V)
    }
}

impl JsonSchema for Flag {
    fn schema_name() -> Cow<'static, str> {
        "Flag".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "boolean"})
    }
}

/// A list; one single thing is a list of one, as in Ansible.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct List<T>(pub Vec<T>);

impl<T> Default for List<T> {
    fn default() -> Self {
        List(Vec::new())
    }
}

impl<T> std::ops::Deref for List<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<'de, T: de::DeserializeOwned> Deserialize<'de> for List<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<List<T>, D::Error> {
        // Parameters are always JSON values by the time they come here, so going through one loses nothing.
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::Null => Ok(List(Vec::new())),
            list @ serde_json::Value::Array(_) => read(list).map(List).map_err(|wrong| de::Error::custom(wrong.error)),
            one => read(one).map(|one| List(vec![one])).map_err(|wrong| de::Error::custom(wrong.error)),
        }
    }
}

impl<T: JsonSchema> JsonSchema for List<T> {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        format!("List_of_{}", T::schema_name()).into()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<T>();
        json_schema!({"anyOf": [one, {"type": "array", "items": one}]})
    }
}

/// A text; numbers and truth values are taken as they were written where that is certain.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Text(pub String);

impl std::ops::Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a number")
            }
            fn visit_str<E>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_string()))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Text, E> {
                Ok(Text(number.to_string()))
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Text, E> {
                Err(E::custom(format!("a string is expected and YAML read a truth value ({value}): put it in quotes")))
            }
        }
        deserializer.deserialize_any(V)
    }
}

impl JsonSchema for Text {
    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": ["string", "number"]})
    }
}
