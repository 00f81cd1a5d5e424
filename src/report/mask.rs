//! Secrets are shown to nobody: not in diffs, not in results, not in errors, not in JSON.

use std::collections::BTreeSet;
use std::sync::{Arc, RwLock};

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

use super::Event;
use crate::change::Diff;

/// What stands where a secret was.
pub const MASKED: &str = "********";
/// Shorter values would mask half of every text, and protect nothing.
const SHORTEST: usize = 4;

/// The secrets known so far; clones share them.
#[derive(Clone, Default)]
pub struct Mask {
    secrets: Arc<RwLock<Secrets>>,
}

#[derive(Default)]
struct Secrets {
    all: BTreeSet<String>,
    /// Finds all of them in one pass: a fleet may have a password for each host. Made when it is first needed.
    finder: Option<AhoCorasick>,
}

impl Mask {
    /// Adds one. Very short ones are not masked in running text.
    pub fn add(&self, secret: &str) {
        if secret.chars().count() < SHORTEST {
            return;
        }
        let mut secrets = self.secrets.write().unwrap_or_else(|broken| broken.into_inner());
        if !secrets.all.contains(secret) {
            secrets.all.insert(secret.to_string());
            secrets.finder = None;
        }
    }

    fn is_empty(&self) -> bool {
        self.secrets.read().unwrap_or_else(|broken| broken.into_inner()).all.is_empty()
    }

    /// The text without secrets.
    pub fn text(&self, text: &mut String) {
        let secrets = self.secrets.read().unwrap_or_else(|broken| broken.into_inner());
        if secrets.all.is_empty() {
            return;
        }
        if let Some(finder) = &secrets.finder {
            return replace(finder, text);
        }
        drop(secrets);
        let mut secrets = self.secrets.write().unwrap_or_else(|broken| broken.into_inner());
        // The longest first, so that one secret inside another leaves no rest of it.
        match AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&secrets.all) {
            Ok(finder) => {
                replace(&finder, text);
                secrets.finder = Some(finder);
            }
            // Too large to build: gigabytes of secrets. Nothing is shown rather than one of them.
            Err(_) => *text = MASKED.into(),
        }
    }

    /// The value without secrets, keys included.
    pub fn value(&self, value: &mut Value) {
        match value {
            Value::String(text) => self.text(text),
            Value::Array(list) => list.iter_mut().for_each(|one| self.value(one)),
            Value::Object(map) => {
                let old = std::mem::take(map);
                for (mut key, mut one) in old {
                    self.text(&mut key);
                    self.value(&mut one);
                    map.insert(key, one);
                }
            }
            _ => {}
        }
    }

    fn diffs(&self, diffs: &mut [Diff]) {
        for diff in diffs {
            self.text(&mut diff.path);
            diff.before.as_mut().into_iter().chain(diff.after.as_mut()).for_each(|text| self.text(text));
        }
    }

    /// The event without secrets.
    pub fn event(&self, event: &mut Event) {
        if self.is_empty() {
            return;
        }
        match event {
            Event::Play { name, .. } => self.text(name),
            Event::Shown { id, diffs } => {
                self.text(&mut id.task);
                id.item.iter_mut().for_each(|text| self.text(text));
                self.diffs(diffs);
            }
            Event::Progress { id, text } => {
                self.text(&mut id.task);
                id.item.iter_mut().for_each(|text| self.text(text));
                self.text(text);
            }
            Event::Warning(text) => self.text(text),
            Event::Finished(finished) => {
                self.text(&mut finished.id.task);
                finished.id.item.iter_mut().for_each(|text| self.text(text));
                self.diffs(&mut finished.diffs);
                self.value(&mut finished.result);
                let texts = finished.notes.iter_mut().chain(&mut finished.warnings).chain(finished.error.as_mut());
                texts.for_each(|text| self.text(text));
            }
            Event::Started { id } => {
                self.text(&mut id.task);
                id.item.iter_mut().for_each(|text| self.text(text));
            }
            Event::Run { .. } | Event::Batch { .. } | Event::HostBegun { .. } | Event::HostDone { .. } => {}
        }
    }
}

fn replace(finder: &AhoCorasick, text: &mut String) {
    if finder.is_match(text.as_str()) {
        let mut masked = String::with_capacity(text.len());
        finder.replace_all_with(text, &mut masked, |_, _, into| {
            into.push_str(MASKED);
            true
        });
        *text = masked;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_vanish_everywhere_even_one_inside_another() {
        let mask = Mask::default();
        mask.add("hunter2");
        mask.add("hunter2-long");
        mask.add("abc");
        let mut value = json!({"hunter2": ["x hunter2-long y", 5], "abc": true});
        mask.value(&mut value);
        assert_eq!(value, json!({"********": ["x ******** y", 5], "abc": true}));
    }
}
