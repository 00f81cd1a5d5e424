//! Filters: Jinja's and those of Ansible that playbooks use.

mod data;
pub(super) mod list;
pub(super) mod text;
mod yaml;

use serde_json::Value;

use super::error::TemplateError;
use super::value::{describe, fail, integer, text as as_text, truth};

/// A filter's answer: `None` is undefined, as the first item of an empty list is.
pub(super) type Answer = Result<Option<Value>, TemplateError>;

/// Every filter by name.
pub(super) const NAMES: &[&str] = &[
    "abs",
    "attr",
    "b64decode",
    "b64encode",
    "basename",
    "batch",
    "bool",
    "capitalize",
    "center",
    "combine",
    "comment",
    "count",
    "d",
    "default",
    "dict2items",
    "dictsort",
    "difference",
    "dirname",
    "e",
    "escape",
    "extract",
    "first",
    "flatten",
    "float",
    "format",
    "from_json",
    "from_yaml",
    "groupby",
    "hash",
    "human_readable",
    "human_to_bytes",
    "indent",
    "int",
    "intersect",
    "items",
    "items2dict",
    "join",
    "last",
    "length",
    "list",
    "log",
    "lower",
    "mandatory",
    "map",
    "max",
    "min",
    "path_join",
    "pow",
    "product",
    "quote",
    "random",
    "regex_escape",
    "regex_findall",
    "regex_replace",
    "regex_search",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "root",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "split",
    "splitext",
    "string",
    "subelements",
    "sum",
    "symmetric_difference",
    "ternary",
    "title",
    "to_json",
    "to_nice_json",
    "to_nice_yaml",
    "to_yaml",
    "trim",
    "truncate",
    "type_debug",
    "union",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
    "zip",
    "zip_longest",
];

/// The values given to a filter, test, method or function.
#[derive(Clone, Debug, Default)]
pub(super) struct Args {
    pub positional: Vec<Value>,
    pub named: Vec<(String, Value)>,
}

impl Args {
    /// No values.
    pub fn none(&self, what: &str) -> Result<(), TemplateError> {
        self.clone().bind(what, []).map(|[]| ())
    }

    /// Values by place or by name. More than that, or an unknown name, is an error.
    pub fn bind<const N: usize>(self, what: &str, names: [&str; N]) -> Result<[Option<Value>; N], TemplateError> {
        let mut bound: [Option<Value>; N] = std::array::from_fn(|_| None);
        let given = self.positional.len();
        if given > N {
            return fail(format!("`{what}` takes at most {N} values, {given} are given"));
        }
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            let Some(at) = names.iter().position(|known| *known == name) else {
                let near = crate::diag::nearest(&name, names);
                let hint = near.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
                return fail(format!("`{what}` has no parameter `{name}`{hint}"));
            };
            match bound.get_mut(at) {
                Some(slot @ None) => *slot = Some(value),
                _ => return fail(format!("`{what}` is given `{name}` twice")),
            }
        }
        Ok(bound)
    }

    /// Takes a named value out.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        let at = self.named.iter().position(|(known, _)| known == name)?;
        Some(self.named.remove(at).1)
    }

    /// The positional values, when nothing named is left.
    pub fn rest(self, what: &str) -> Result<Vec<Value>, TemplateError> {
        match self.named.first() {
            Some((name, _)) => fail(format!("`{what}` has no parameter `{name}`")),
            None => Ok(self.positional),
        }
    }
}

/// A value that must be given.
pub(super) fn needed(value: Option<Value>, what: &str, name: &str) -> Result<Value, TemplateError> {
    value.ok_or_else(|| TemplateError::failed(format!("`{what}` needs `{name}`")))
}

pub(super) fn needed_text(value: Option<Value>, what: &str, name: &str) -> Result<String, TemplateError> {
    Ok(as_text(&needed(value, what, name)?))
}

pub(super) fn text_or(value: Option<Value>, default: &str) -> String {
    value.map_or_else(|| default.to_string(), |value| as_text(&value))
}

pub(super) fn flag(value: Option<Value>, default: bool) -> bool {
    value.map_or(default, |value| truth(&value))
}

pub(super) fn whole(value: Option<Value>, what: &str, name: &str, default: i64) -> Result<i64, TemplateError> {
    match value {
        None => Ok(default),
        Some(value) => integer(&value).ok_or_else(|| {
            TemplateError::failed(format!("`{name}` of `{what}` is a whole number, not {}", describe(&value)))
        }),
    }
}

/// Applies a filter. `default` and `mandatory` of something undefined are the evaluator's.
pub(super) fn call(name: &str, input: Value, args: Args) -> Answer {
    match name {
        "abs"
        | "attr"
        | "batch"
        | "count"
        | "dictsort"
        | "difference"
        | "extract"
        | "first"
        | "flatten"
        | "groupby"
        | "intersect"
        | "join"
        | "last"
        | "length"
        | "list"
        | "map"
        | "max"
        | "min"
        | "product"
        | "random"
        | "reject"
        | "rejectattr"
        | "reverse"
        | "select"
        | "selectattr"
        | "slice"
        | "sort"
        | "subelements"
        | "sum"
        | "symmetric_difference"
        | "union"
        | "unique"
        | "zip"
        | "zip_longest" => list::call(name, input, args),
        "bool" | "combine" | "d" | "default" | "dict2items" | "float" | "from_json" | "from_yaml" | "hash"
        | "human_readable" | "human_to_bytes" | "int" | "items" | "items2dict" | "log" | "mandatory" | "pow"
        | "root" | "round" | "string" | "ternary" | "to_json" | "to_nice_json" | "to_nice_yaml" | "to_yaml"
        | "type_debug" => data::call(name, input, args).map(Some),
        _ => text::call(name, input, args),
    }
}
