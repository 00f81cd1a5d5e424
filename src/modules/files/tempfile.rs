//! `tempfile`: a new, empty file or folder.

use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::common::{join, need_parent};
use crate::change::{Content, Diff, Op, Plan};
use crate::host::{Error, Host, Result};
use crate::modules::Module;

/// What is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum State {
    /// A file.
    #[default]
    File,
    /// A folder.
    Directory,
}

/// Makes a new, empty file or folder that only its owner can read; `register` sees its `path`.
///
/// It is an act: every run makes another one. The name is the first free one of a fixed row, so that a plan can show it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TempFile {
    /// What is made. Default: `file`.
    #[serde(default)]
    state: State,
    /// The folder it is made in. Default: `/tmp`.
    #[serde(default = "folder")]
    path: String,
    /// What its name begins with. Default: `ansible.`.
    #[serde(default = "prefix")]
    prefix: String,
    /// What its name ends with. Default: nothing.
    #[serde(default)]
    suffix: String,
}

fn folder() -> String {
    "/tmp".into()
}

fn prefix() -> String {
    "ansible.".into()
}

impl Module for TempFile {
    const NAME: &'static str = "tempfile";
    const SUMMARY: &'static str = "Make a new, empty file or folder";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan { act: true, ..Plan::default() };
        if self.prefix.contains('/') || self.suffix.contains('/') {
            return Err(Error::parameters("`prefix` and `suffix` can't hold a `/`"));
        }
        let mut number = 0;
        let path = loop {
            let hash =
                format!("{:x}", Sha256::digest(format!("{}\0{}\0{}\0{number}", self.path, self.prefix, self.suffix)));
            let path =
                join(&self.path, &format!("{}{}{}", self.prefix, hash.get(..8).unwrap_or_default(), self.suffix));
            if host.lstat(&path)?.is_none() {
                break path;
            }
            number += 1;
        };
        need_parent(host, &path)?;
        let (op, what, mode) = match self.state {
            State::File => {
                let content = Content::Bytes(Vec::new());
                let (owner, group, validate) = (None, None, Vec::new());
                let op = Op::WriteFile { path: path.clone(), content, mode: Some(0o600), owner, group, validate };
                (op, "file", "0600")
            }
            State::Directory => {
                let op = Op::MakeFolder { path: path.clone(), mode: Some(0o700), owner: None, group: None };
                (op, "folder", "0700")
            }
        };
        plan.push(op, vec![Diff::added(what, &path, format!("an empty {what}, mode {mode}"))]);
        plan.set("path", path);
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::host::Host;
    use crate::host::overlay::testing::{apply, machine, plan};

    #[test]
    fn every_run_makes_another_one() {
        let m = machine(&[("/tmp/", "")]);
        let ask = json!({"state": "directory", "suffix": ".d"});
        let path = plan(&m, "tempfile", ask.clone()).unwrap().result["path"].as_str().unwrap().to_string();
        assert!(path.starts_with("/tmp/ansible.") && path.ends_with(".d"));
        apply(&m, "tempfile", ask.clone()).unwrap();
        assert_eq!(m.stat(&path).unwrap().unwrap().mode, 0o700);
        assert_ne!(plan(&m, "tempfile", ask).unwrap().result["path"], path);
        assert!(plan(&m, "tempfile", json!({"path": "/none"})).is_err());
        assert!(plan(&m, "tempfile", json!({"prefix": "../"})).is_err());
    }
}
