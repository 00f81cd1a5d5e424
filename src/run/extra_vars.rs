//! `--extra-vars`: `k=v k2=v2`, JSON or YAML, or `@FILE`.

use std::path::Path;

use serde_json::{Map, Value};

use super::dispatch::read_vars;
use super::vars::Stored;
use crate::diag::{Diagnostic, Source};
use crate::vault::Vault;
use crate::yaml;

/// All of them, later ones win.
///
/// # Errors
/// When one is none of the three forms.
pub(super) fn parse(given: &[String], vault: &Vault) -> Result<Stored, Diagnostic> {
    let mut vars = Stored::default();
    for text in given {
        vars.extend(one(text, vault)?);
    }
    Ok(vars)
}

fn one(text: &str, vault: &Vault) -> Result<Map<String, Value>, Diagnostic> {
    let trimmed = text.trim();
    if let Some(file) = trimmed.strip_prefix('@') {
        return read_vars(Path::new(file), vault)
            .map_err(|trouble| Diagnostic::error(format!("--extra-vars: {trouble}")));
    }
    if trimmed.starts_with('{') || trimmed.starts_with('[') {
        let source = Source::new("--extra-vars", trimmed);
        let node = yaml::parse_one(&source)?;
        return match node.to_json() {
            Value::Object(map) => Ok(map),
            _ => Err(Diagnostic::error(format!("--extra-vars must be a map, and this is {}", node.kind_name()))
                .at(&node.span)),
        };
    }
    let words = shlex::split(trimmed)
        .ok_or_else(|| Diagnostic::error(format!("--extra-vars: a quote is not closed in `{trimmed}`")))?;
    let mut vars = Map::new();
    for word in words {
        let (key, value) = word.split_once('=').ok_or_else(|| {
            Diagnostic::error(format!("--extra-vars: `{word}` is not of the form name=value"))
                .help("give name=value, JSON in braces, or @FILE")
        })?;
        if !crate::playbook::is_identifier(key) {
            return Err(Diagnostic::error(format!("--extra-vars: `{key}` is not the name of a variable")));
        }
        vars.insert(key.to_string(), value.into());
    }
    Ok(vars)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn three_forms() {
        let given = |text: &str| one(text, &Vault::default()).map(Value::Object);
        assert_eq!(given("a=1 b='x y'").unwrap(), json!({"a": "1", "b": "x y"}));
        assert_eq!(given("{\"a\": [1, true]}").unwrap(), json!({"a": [1, true]}));
        assert_eq!(given("{a: yes}").unwrap(), json!({"a": true}));
        assert!(given("a").is_err());
        assert!(given("a='x").is_err());
        assert!(given("a-b=1").is_err());
        assert!(given("[1]").is_err());
        assert!(given("@/no/such/file").is_err());
    }
}
