//! Kernel arguments as a playbook gives them: strict where YAML has changed their meaning before.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::cmdline;

/// Arguments whose values are words such as `on`, `off` and `pt`: a truth value in their place comes from YAML.
const ON_OFF: &[&str] = &["amd_iommu", "intel_iommu", "iommu", "iommu.passthrough", "iommu.strict", "mitigations"];

/// What would end the connection between the kernel and its root file system, or is the boot loader's own.
const NOT_OURS: &[&str] = &["BOOT_IMAGE", "initrd", "root", "rootflags", "rootfstype"];

/// One kernel argument, such as `intel_iommu=on`; a text with white space is several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Argument(pub Vec<String>);

fn quote(name: &str, value: &str) -> String {
    format!(
        "a kernel argument is a text, and YAML made something else of it: put it in quotes, such as \"{name}={value}\""
    )
}

impl<'de> Deserialize<'de> for Argument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Argument, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Argument;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a kernel argument in quotes, such as \"intel_iommu=on\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Argument, E> {
                let words = cmdline::words(text);
                if words.is_empty() {
                    return Err(E::custom("an empty kernel argument"));
                }
                for word in &words {
                    check(word).map_err(E::custom)?;
                }
                Ok(Argument(words))
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Argument, E> {
                let word = if value { "on" } else { "off" };
                Err(E::custom(format!("YAML read a truth value ({value}): {}", quote("intel_iommu", word))))
            }
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Argument, E> {
                Err(E::custom(format!("YAML read a number ({number}): {}", quote("hugepages", &number.to_string()))))
            }
            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Argument, E> {
                Err(E::custom(format!("YAML read a number ({number}): {}", quote("hugepages", &number.to_string()))))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Argument, A::Error> {
                let Some((name, value)) = map.next_entry::<String, serde_json::Value>()? else {
                    return Err(de::Error::custom("an empty mapping where a kernel argument is expected"));
                };
                let value = match value {
                    serde_json::Value::Bool(true) => "on".to_string(),
                    serde_json::Value::Bool(false) => "off".to_string(),
                    serde_json::Value::String(text) => text,
                    other => other.to_string(),
                };
                Err(de::Error::custom(format!("`{name}:` is a mapping here: {}", quote(&name, &value))))
            }
        }
        deserializer.deserialize_any(V)
    }
}

impl JsonSchema for Argument {
    fn schema_name() -> Cow<'static, str> {
        "Argument".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "string", "description": "A kernel argument, such as \"intel_iommu=on\""})
    }
}

/// Is this word one that every boot loader takes as it is, and that this program may touch?
fn check(word: &str) -> Result<(), String> {
    if let Some(odd) = word.chars().find(|c| c.is_control() || "\"'`$\\;&|<>(){}#".contains(*c)) {
        return Err(format!(
            "`{word}`: {odd:?} means something else to shells and boot loaders, so this program does not write it"
        ));
    }
    let key = cmdline::key(word);
    if key.is_empty() || word == "--" {
        return Err(format!("`{word}` is not a kernel argument"));
    }
    if NOT_OURS.contains(&key.as_str()) {
        return Err(format!("`{word}`: the machine needs its own `{key}=` to boot, so this program does not touch it"));
    }
    if let Some(value) = cmdline::value(word) {
        let truth = ["true", "false", "yes", "no"].contains(&value.to_ascii_lowercase().as_str());
        if truth && ON_OFF.contains(&key.as_str()) {
            let word = if ["true", "yes"].contains(&value.to_ascii_lowercase().as_str()) { "on" } else { "off" };
            return Err(format!("the kernel does not know `{key}={value}`: {}", quote(&key, word)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(value: serde_json::Value) -> String {
        serde_json::from_value::<Argument>(value).unwrap_err().to_string()
    }

    #[test]
    fn what_yaml_changed_is_said_with_the_right_spelling() {
        assert!(message(json!(true)).contains("\"intel_iommu=on\""));
        assert!(message(json!({"iommu": "pt"})).contains("\"iommu=pt\""));
        assert!(message(json!({"intel_iommu": true})).contains("\"intel_iommu=on\""));
        assert!(message(json!(16)).contains("YAML read a number"));
        assert!(message(json!("intel_iommu=True")).contains("\"intel_iommu=on\""));
    }

    #[test]
    fn what_would_hurt_is_refused() {
        for bad in ["root=/dev/sda", "a;b", "x=$(reboot)", "--", "", "a=\"b", "=x", "initrd=/x"] {
            assert!(serde_json::from_value::<Argument>(json!(bad)).is_err(), "{bad}");
        }
        let two: Argument = serde_json::from_value(json!("intel_iommu=on  iommu=pt")).unwrap();
        assert_eq!(two.0, ["intel_iommu=on", "iommu=pt"]);
    }
}
