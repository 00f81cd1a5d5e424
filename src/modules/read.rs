//! Finished parameters to structs, and where in them a mistake is.
//!
//! There is one deserializer for all of it, a plain type: each struct's code for being read is in the program once. (The same
//! by `serde_json::from_value` inside of serde_path_to_error had it there twice, and each of its fields in wrappers.)

use std::cell::RefCell;
use std::fmt::Write;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value, map};

/// A mistake in parameters.
#[derive(Debug)]
pub struct Wrong {
    /// Where: `devices[0].address`, or `.` for all of it.
    pub path: String,
    /// What.
    pub error: Error,
}

impl std::fmt::Display for Wrong {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.path.as_str() {
            "." => self.error.fmt(f),
            path => write!(f, "{path}: {}", self.error),
        }
    }
}

/// Reads a value.
///
/// # Errors
/// What is wrong with it, and where.
pub fn read<T: DeserializeOwned>(value: Value) -> Result<T, Wrong> {
    let found = RefCell::new(None);
    let result = T::deserialize(Read { value, at: &Step::Root, found: &found });
    result.map_err(|error| Wrong { path: found.into_inner().unwrap_or_else(|| ".".into()), error })
}

/// A step of the way to a value.
enum Step<'a> {
    Root,
    Item(&'a Step<'a>, usize),
    /// Of a map, or of an enum: its variant.
    Key(&'a Step<'a>, &'a str),
}

impl Step<'_> {
    fn way(&self, into: &mut String) {
        match self {
            Step::Root => {}
            Step::Item(before, at) => {
                before.way(into);
                // Writing to a string can't fail.
                let _ = write!(into, "[{at}]");
            }
            Step::Key(before, key) => {
                before.way(into);
                if !into.is_empty() {
                    into.push('.');
                }
                into.push_str(key);
            }
        }
    }

    /// Notes that a mistake was found here, unless it was noted deeper inside.
    fn note(&self, found: &RefCell<Option<String>>) {
        let mut found = found.borrow_mut();
        if found.is_none() {
            let mut way = String::new();
            self.way(&mut way);
            *found = Some(if way.is_empty() { ".".into() } else { way });
        }
    }
}

/// A value on the way.
struct Read<'a> {
    value: Value,
    at: &'a Step<'a>,
    found: &'a RefCell<Option<String>>,
}

impl<'de> Deserializer<'de> for Read<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Read { value, at, found } = self;
        let result = match value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(truth) => visitor.visit_bool(truth),
            Value::Number(number) => match (number.as_u64(), number.as_i64()) {
                (Some(number), _) => visitor.visit_u64(number),
                (None, Some(number)) => visitor.visit_i64(number),
                _ => visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => visitor.visit_string(text),
            Value::Array(items) => {
                let count = items.len();
                let mut items = Items { items: items.into_iter(), index: 0, at, found };
                visitor.visit_seq(&mut items).and_then(|value| match items.items.len() {
                    0 => Ok(value),
                    _ => Err(Error::invalid_length(count, &"fewer elements in array")),
                })
            }
            Value::Object(entries) => {
                visitor.visit_map(Entries { entries: entries.into_iter(), next: None, at, found })
            }
        };
        if result.is_err() {
            at.note(found);
        }
        result
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Read { value, at, found } = self;
        let result = match value {
            Value::String(name) => visitor.visit_enum(Variant { name, value: None, at, found }),
            Value::Object(entries) => {
                let mut entries = entries.into_iter();
                match (entries.next(), entries.next()) {
                    (Some((name, value)), None) => visitor.visit_enum(Variant { name, value: Some(value), at, found }),
                    _ => Err(Error::invalid_value(Unexpected::Map, &"map with a single key")),
                }
            }
            other => Err(Error::invalid_type(unexpected(&other), &"string or map")),
        };
        if result.is_err() {
            at.note(found);
        }
        result
    }

    /// Only of a map: with a list its values would be taken by their places, which nobody means, and each struct would
    /// have code for it.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Read { value, at, found } = self;
        let result = match value {
            Value::Object(entries) => {
                visitor.visit_map(Entries { entries: entries.into_iter(), next: None, at, found })
            }
            other => Err(Error::invalid_type(unexpected(&other), &visitor)),
        };
        if result.is_err() {
            at.note(found);
        }
        result
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map identifier ignored_any
    }
}

fn unexpected(value: &Value) -> Unexpected<'_> {
    match value {
        Value::Null => Unexpected::Unit,
        Value::Bool(truth) => Unexpected::Bool(*truth),
        Value::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => Unexpected::Unsigned(number),
            (None, Some(number)) => Unexpected::Signed(number),
            _ => Unexpected::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => Unexpected::Str(text),
        Value::Array(_) => Unexpected::Seq,
        Value::Object(_) => Unexpected::Map,
    }
}

/// What is left of a list.
struct Items<'a> {
    items: std::vec::IntoIter<Value>,
    index: usize,
    at: &'a Step<'a>,
    found: &'a RefCell<Option<String>>,
}

impl<'de> SeqAccess<'de> for &mut Items<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some(value) = self.items.next() else { return Ok(None) };
        let at = Step::Item(self.at, self.index);
        self.index += 1;
        let result = seed.deserialize(Read { value, at: &at, found: self.found });
        if result.is_err() {
            at.note(self.found);
        }
        result.map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.items.len())
    }
}

/// What is left of a map.
struct Entries<'a> {
    entries: map::IntoIter,
    /// The value of the key that was given last.
    next: Option<(String, Value)>,
    at: &'a Step<'a>,
    found: &'a RefCell<Option<String>>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((key, value)) = self.entries.next() else { return Ok(None) };
        let name: StrDeserializer<'_, Error> = key.as_str().into_deserializer();
        let result = seed.deserialize(name);
        if result.is_err() {
            Step::Key(self.at, &key).note(self.found);
        }
        self.next = Some((key, value));
        result.map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Error> {
        let Some((key, value)) = self.next.take() else { return Err(Error::custom("a value without a key")) };
        let at = Step::Key(self.at, &key);
        let result = seed.deserialize(Read { value, at: &at, found: self.found });
        if result.is_err() {
            at.note(self.found);
        }
        result
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.entries.len())
    }
}

/// One variant of an enum, and what it holds.
struct Variant<'a> {
    name: String,
    value: Option<Value>,
    at: &'a Step<'a>,
    found: &'a RefCell<Option<String>>,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Error;
    type Variant = Variant<'a>;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Variant<'a>), Error> {
        let name: StrDeserializer<'_, Error> = self.name.as_str().into_deserializer();
        let value = seed.deserialize(name)?;
        Ok((value, self))
    }
}

impl Variant<'_> {
    /// What it holds.
    fn inside<T>(self, what: &str, read: impl FnOnce(Read<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let at = Step::Key(self.at, &self.name);
        let result = match self.value {
            Some(value) => read(Read { value, at: &at, found: self.found }),
            None => Err(Error::invalid_type(Unexpected::UnitVariant, &what)),
        };
        if result.is_err() {
            at.note(self.found);
        }
        result
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.value {
            None => Ok(()),
            Some(_) => self.inside("unit variant", |inside| <() as de::Deserialize>::deserialize(inside)),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        self.inside("newtype variant", |inside| seed.deserialize(inside))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.inside("tuple variant", |inside| inside.deserialize_any(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.inside("struct variant", |inside| inside.deserialize_any(visitor))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::json;

    use super::*;
    use crate::modules::params::{Flag, List, Mode, Text};

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        Plain,
        #[serde(alias = "other")]
        Second,
        Wrapped(u8),
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(untagged)]
    enum Loose {
        Number(u64),
        Small(Small),
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct New(i16);

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Small {
        a: u8,
        #[serde(default)]
        b: Option<String>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct All {
        text: Option<Text>,
        flag: Option<Flag>,
        mode: Option<Mode>,
        kind: Option<Kind>,
        loose: Option<Loose>,
        new: Option<New>,
        float: Option<f64>,
        letter: Option<char>,
        unit: Option<()>,
        value: Option<Value>,
        pair: Option<(u8, bool)>,
        #[serde(default)]
        words: List<String>,
        #[serde(default)]
        many: BTreeMap<String, Vec<Small>>,
        small: Option<Small>,
    }

    /// As serde_path_to_error has it, which this takes the place of.
    fn same<T: DeserializeOwned + PartialEq + std::fmt::Debug>(value: &Value) {
        let theirs: Result<T, _> = serde_path_to_error::deserialize(value.clone());
        let theirs = theirs.map_err(|error| (error.path().to_string(), error.inner().to_string()));
        let ours = read::<T>(value.clone()).map_err(|wrong| (wrong.path, wrong.error.to_string()));
        if ours.as_ref().is_err_and(|(_, why)| why.contains("invalid type: sequence, expected struct")) {
            return;
        }
        assert_eq!(ours, theirs, "{value}");
    }

    #[test]
    fn what_is_right_is_read_and_what_is_wrong_is_found() {
        for value in [
            json!({}),
            json!(null),
            json!([]),
            json!({"text": 5, "flag": "no", "mode": "0644", "kind": "plain", "new": -3, "float": 1, "letter": "x"}),
            json!({"kind": "other", "loose": 7, "unit": null, "value": {"x": [1, null, 1.5, "y"]}, "pair": [1, true]}),
            json!({"kind": {"wrapped": 3}, "loose": {"a": 1}, "words": "one", "many": {"k": [{"a": 1, "b": "x"}]}}),
            json!({"kind": {"plain": null}}),
            json!({"kind": {"plain": 1}}),
            json!({"kind": {"plain": null, "wrapped": 1}}),
            json!({"kind": "nothing"}),
            json!({"kind": {"nothing": 1}}),
            json!({"kind": "wrapped"}),
            json!({"kind": {"wrapped": 300}}),
            json!({"kind": 5}),
            json!({"mode": 420}),
            json!({"text": true}),
            json!({"new": 99999}),
            json!({"new": "x"}),
            json!({"pair": [1, true, 3]}),
            json!({"pair": [1, 2]}),
            json!({"words": [1]}),
            json!({"words": {"x": 1}}),
            json!({"many": {"k.l": [{"a": 1}, {"a": "x"}]}}),
            json!({"many": {"k": [{"b": "x"}]}}),
            json!({"small": {"a": -1}}),
            json!({"small": {"a": 1.5}}),
            json!({"smal": 1}),
            json!({"loose": "x"}),
            json!({"letter": "xy"}),
            json!({"unit": 1}),
            json!({"float": "x"}),
        ] {
            same::<All>(&value);
        }
    }

    #[test]
    fn a_list_is_no_struct() {
        for (value, path) in
            [(json!([1]), "."), (json!({"small": [1, "x"]}), "small"), (json!({"many": {"k": [[1]]}}), "many.k[0]")]
        {
            let wrong = read::<All>(value).unwrap_err();
            assert_eq!(wrong.path, path);
            assert!(wrong.error.to_string().starts_with("invalid type: sequence, expected struct"), "{wrong}");
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(json!(null)),
            any::<bool>().prop_map(Value::from),
            (-5_i64..400).prop_map(Value::from),
            prop_oneof![Just(1.5_f64), Just(-0.25)].prop_map(Value::from),
            prop_oneof![Just("plain"), Just("yes"), Just("0644"), Just("x"), Just("wrapped")].prop_map(Value::from),
        ];
        let key = proptest::sample::select(vec![
            "text", "flag", "kind", "loose", "pair", "words", "many", "small", "a", "b", "wrapped", "new", "value",
        ]);
        leaf.prop_recursive(4, 24, 4, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::vec((key.clone(), inner), 0..4)
                    .prop_map(|all| Value::Object(all.into_iter().map(|(k, v)| (k.to_string(), v)).collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_value_is_read_as_it_was_before(value in any_value()) {
            same::<All>(&value);
            same::<BTreeMap<String, Kind>>(&value);
        }
    }
}
