//! `rpm_key`: a key whose signatures rpm trusts.

use schemars::JsonSchema;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::manager::Manager;
use super::pgp;
use crate::change::{Content, Diff, Effect, Op, Plan, Run};
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::params::List;
use crate::modules::system::make_folders;

/// Imports a public key into rpm's database, or removes it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RpmKey {
    /// The key: an absolute path on the machine, a URL (with `fingerprint`), or the armoured text itself. With
    /// `state: absent` a fingerprint or key id will do.
    key: String,
    /// The full fingerprint the key must have, as its owner publishes it; several where the file holds several keys.
    #[serde(default)]
    fingerprint: List<String>,
    /// `present` or `absent`. Default: present.
    #[serde(default)]
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It is trusted.
    #[default]
    Present,
    /// It is not.
    Absent,
}

/// Where keys are kept until rpm has them.
const CACHE: &str = "/var/cache/vfio-provision/keys";

/// The name of the package as which rpm keeps a key: the last eight digits of its fingerprint.
fn package_of(fingerprint: &str) -> String {
    let start = fingerprint.len().saturating_sub(8);
    format!("gpg-pubkey-{}", fingerprint.get(start..).unwrap_or(fingerprint).to_lowercase())
}

/// Fingerprints with blanks, as they are read aloud.
fn shown(fingerprint: &str) -> String {
    let parts: Vec<&str> =
        (0..fingerprint.len()).step_by(4).filter_map(|at| fingerprint.get(at..fingerprint.len().min(at + 4))).collect();
    parts.join(" ")
}

enum Place {
    File(String),
    Url { url: String, file: String },
    Text { text: String, file: String },
}

impl RpmKey {
    fn place(&self) -> Result<Place> {
        let key = self.key.trim();
        let cached =
            |name: &str| format!("{CACHE}/{}.asc", format!("{:x}", Sha256::digest(name)).get(..16).unwrap_or("key"));
        if pgp::is_armoured(key) {
            Ok(Place::Text { text: format!("{key}\n"), file: cached(key) })
        } else if key.contains("://") {
            Ok(Place::Url { url: key.to_string(), file: cached(key) })
        } else if key.starts_with('/') {
            Ok(Place::File(key.to_string()))
        } else {
            Err(Error::parameters(format!("`{key}` is not a key")).hint("give a path, a URL or the armoured text"))
        }
    }

    fn given(&self) -> Result<Vec<String>> {
        self.fingerprint
            .iter()
            .map(|text| {
                pgp::plain(text).ok_or_else(|| {
                    Error::parameters(format!("`{text}` is not a fingerprint: it has 40 hexadecimal digits"))
                        .hint("a short key id is not enough, anybody can make a key that has it")
                })
            })
            .collect()
    }

    /// The fingerprints in the file at this path, checked against those given; `None` when the file is not there.
    fn read(&self, host: &dyn Host, path: &str, given: &[String]) -> Result<Option<Vec<String>>> {
        let Some(bytes) = host.read(path)? else { return Ok(None) };
        self.check(&bytes, path, given).map(Some)
    }

    fn check(&self, bytes: &[u8], what: &str, given: &[String]) -> Result<Vec<String>> {
        let found = pgp::fingerprints(bytes);
        if found.is_empty() {
            return Err(Error::failed(format!("there is no OpenPGP public key in {what}")));
        }
        if let Some(wrong) = found.iter().find(|one| !given.is_empty() && !given.contains(one)) {
            return Err(Error::refused(format!("the key in {what} has the fingerprint {}", shown(wrong)))
                .hint("this is not the key that was asked for: nothing was imported"));
        }
        Ok(found)
    }

    fn plan_absent(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan::nothing();
        let key = self.key.trim();
        let hex = key.chars().filter(|c| !c.is_whitespace()).collect::<String>();
        let is_id = (8..=40).contains(&hex.len()) && hex.chars().all(|c| c.is_ascii_hexdigit());
        let mut all = self.given()?;
        if is_id {
            all.push(hex.to_uppercase());
        } else if all.is_empty() {
            all = match self.place()? {
                Place::Text { text, .. } => self.check(text.as_bytes(), "`key`", &[])?,
                Place::File(path) => self.read(host, &path, &[])?.ok_or_else(|| {
                    Error::failed(format!("{path} does not exist")).hint("give the `fingerprint` instead")
                })?,
                Place::Url { .. } => return Err(Error::parameters("to remove a key, give its `fingerprint`")),
            };
        }
        for fingerprint in all {
            let name = package_of(&fingerprint);
            if host.package(&name)?.is_some() {
                let effect = Effect::Package { name: name.clone(), version: None, present: false };
                let run = Run::new(["rpm", "-e", "--allmatches", &name], vec![effect]);
                plan.push(Op::Run(run), vec![Diff::removed("rpm_key", name, shown(&fingerprint))]);
            }
        }
        Ok(plan)
    }
}

impl Module for RpmKey {
    const NAME: &'static str = "rpm_key";
    const SUMMARY: &'static str = "Trust a key for RPM packages, or stop trusting it";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let manager = Manager::of(host)?;
        if !manager.is_rpm() {
            return Err(Error::failed(format!("this machine has {}, and rpm_key is for RPM packages", manager.name())));
        }
        if self.state == State::Absent {
            return self.plan_absent(host);
        }
        let given = self.given()?;
        let mut plan = Plan::nothing();
        let missing = |all: &[String]| -> Result<Vec<String>> {
            let mut missing = Vec::new();
            for one in all {
                if host.package(&package_of(one))?.is_none() {
                    missing.push(one.clone());
                }
            }
            Ok(missing)
        };
        let (path, wanted) = match self.place()? {
            Place::File(path) => {
                let found = self.read(host, &path, &given)?;
                let found = found.ok_or_else(|| Error::failed(format!("the key {path} does not exist")))?;
                (path, missing(&found)?)
            }
            Place::Text { text, file } => {
                let wanted = missing(&self.check(text.as_bytes(), "`key`", &given)?)?;
                if !wanted.is_empty() && host.read(&file)?.as_deref() != Some(text.as_bytes()) {
                    make_folders(host, &mut plan, CACHE)?;
                    let content = Content::Bytes(text.into_bytes());
                    let path = file.clone();
                    let op = Op::WriteFile {
                        path,
                        content,
                        mode: Some(0o644),
                        owner: None,
                        group: None,
                        validate: Vec::new(),
                    };
                    plan.push(op, Vec::new());
                }
                (file, wanted)
            }
            Place::Url { url, file } => {
                if given.is_empty() {
                    return Err(Error::parameters(format!("the key {url} has no fingerprint to know it by"))
                        .hint("add `fingerprint:` as the key's owner publishes it"));
                }
                let wanted = missing(&given)?;
                if wanted.is_empty() {
                    return Ok(plan);
                }
                match self.read(host, &file, &given) {
                    // Downloaded in a stage before this one, and the right one.
                    Ok(Some(_)) => {}
                    // In a dry run nothing is downloaded; the fingerprint is checked when it is.
                    Err(error) if error.is_unknown() => {}
                    // What was fetched earlier is not what is wanted now.
                    Err(error) if host.stat(&file)?.is_some_and(|stat| stat.mode & 0o200 == 0) => return Err(error),
                    Ok(None) | Err(_) => {
                        make_folders(host, &mut plan, CACHE)?;
                        let diff = Diff::added("download", &file, &url);
                        // Without a right to write, so that the next stage knows it is fresh.
                        plan.push(Op::Download { url, path: file, sha256: None, mode: Some(0o444) }, vec![diff]);
                        plan.staged = true;
                        return Ok(plan);
                    }
                }
                (file, wanted)
            }
        };
        if wanted.is_empty() {
            return Ok(plan);
        }
        let effects = wanted
            .iter()
            .map(|one| Effect::Package { name: package_of(one), version: Some(one.to_lowercase()), present: true })
            .collect();
        let run = Run::new(["rpm", "--import", &path], effects);
        let diffs = wanted.iter().map(|one| Diff::added("rpm_key", package_of(one), shown(one))).collect();
        plan.push(Op::Run(run), diffs);
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::pgp::tests::{FINGERPRINT, KEY};
    use super::*;
    use crate::host::overlay::testing::{apply, machine, plan};

    const EL9: (&str, &str) = ("/etc/os-release", "ID=rocky\nVERSION_ID=9.4\n");
    const PATH: &str = "/etc/pki/rpm-gpg/RPM-GPG-KEY-test";

    #[test]
    fn a_file_or_text_is_imported_once() {
        for key in [PATH, KEY] {
            let machine = machine(&[EL9, (PATH, KEY)]);
            let done = apply(&machine, "rpm_key", json!({"key": key, "fingerprint": FINGERPRINT})).unwrap();
            let Some(Op::Run(run)) = done.last().map(|action| &action.op) else { panic!("{done:?}") };
            assert_eq!(run.argv.get(..2), Some(&["rpm".to_string(), "--import".to_string()][..]));
            assert!(apply(&machine, "rpm_key", json!({"key": PATH})).unwrap().is_empty());
            let id = FINGERPRINT.trim().get(32..).unwrap();
            assert_eq!(apply(&machine, "rpm_key", json!({"key": id, "state": "absent"})).unwrap().len(), 1);
        }
    }

    #[test]
    fn a_url_needs_a_fingerprint_and_is_fetched_first() {
        let machine = machine(&[EL9]);
        let url = "https://example.org/KEY";
        let error = plan(&machine, "rpm_key", json!({"key": url})).unwrap_err();
        assert!(error.to_string().contains("fingerprint"), "{error}");
        let parameters = json!({"key": url, "fingerprint": [FINGERPRINT.trim()]});
        let done = apply(&machine, "rpm_key", parameters.clone()).unwrap();
        assert!(done.iter().any(|action| matches!(action.op, Op::Download { .. })));
        assert!(matches!(done.last().map(|action| &action.op), Some(Op::Run(_))));
        assert!(apply(&machine, "rpm_key", parameters).unwrap().is_empty());
    }

    #[test]
    fn another_key_is_refused() {
        let machine = machine(&[EL9, (PATH, KEY), ("/etc/page", "<html>")]);
        let other = "96C0 104F 6315 4731 1E0B B1AE 309B C305 BAAD AE52";
        let error = plan(&machine, "rpm_key", json!({"key": PATH, "fingerprint": other})).unwrap_err();
        assert!(error.to_string().contains("nothing was imported"), "{error}");
        for key in ["/etc/page", "/etc/none", "relative", "https://x/y"] {
            assert!(plan(&machine, "rpm_key", json!({"key": key})).is_err(), "{key}");
        }
        assert!(plan(&machine, "rpm_key", json!({"key": PATH, "fingerprint": "BAADAE52"})).is_err());
    }
}
