//! `get_url`: a file from a URL.

use schemars::JsonSchema;
use serde::Deserialize;

use super::common::{Wanted, join, need_parent};
use crate::change::action::Pin;
use crate::change::{Diff, Op, Plan};
use crate::host::{Error, FileKind, Host, Result};
use crate::modules::Module;
use crate::modules::params::{Flag, Mode, Text};

/// Fetches a file: beside its target, resumed if cut, checked, then put in place in one step.
///
/// With a hash the file is what the hash says, whatever is there now. Without one a file that is there already counts; the
/// first content that comes is pinned in the lock file beside the inventory and expected from then on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GetUrl {
    /// `https://`, `http://` or `file://` (on the machine).
    url: String,
    /// Where it goes; absolute. A folder, or a path that ends in `/`, means the URL's file name in it.
    dest: String,
    /// The SHA-256 that the content must have, 64 hexadecimal digits.
    sha256: Option<String>,
    /// The same as Ansible writes it: `sha256:HEX`.
    checksum: Option<String>,
    /// Without a hash: fetch again although a file is there. Every run does it then. Default: false.
    #[serde(default)]
    force: Flag,
    /// Permission bits, quoted: "0644". A new file gets 0644 unless told otherwise.
    mode: Option<Mode>,
    /// Owner, a name or a number. A new file belongs to root unless told otherwise.
    owner: Option<Text>,
    /// Group, a name or a number.
    group: Option<Text>,
}

impl GetUrl {
    fn hash(&self) -> Result<Option<String>> {
        let text = match (&self.sha256, &self.checksum) {
            (Some(_), Some(_)) => return Err(Error::parameters("only one of `sha256` and `checksum` can be given")),
            (Some(hash), None) => hash.as_str(),
            (None, Some(checksum)) => match checksum.split_once(':') {
                Some(("sha256", hash)) => hash,
                _ => {
                    return Err(Error::parameters(format!(
                        "`checksum: {checksum}` is not known: it must be `sha256:HEX`"
                    )));
                }
            },
            (None, None) => return Ok(None),
        };
        let hash = text.trim().to_ascii_lowercase();
        if hash.is_empty() {
            return Ok(None);
        }
        if hash.len() != 64 || !hash.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Error::parameters(format!("`{hash}` is not a SHA-256: 64 hexadecimal digits are expected")));
        }
        Ok(Some(hash))
    }

    fn file(&self, host: &dyn Host) -> Result<String> {
        let folder = host.stat(&self.dest)?.is_some_and(|stat| stat.kind == FileKind::Folder);
        if !folder && !self.dest.ends_with('/') {
            return Ok(self.dest.clone());
        }
        let path = self.url.split(['?', '#']).next().unwrap_or_default();
        let name = path.split_once("://").map_or(path, |(_, rest)| rest).rsplit_once('/').map_or("", |(_, name)| name);
        if name.is_empty() || name == "." || name == ".." {
            return Err(Error::parameters(format!(
                "{} is a folder, and the URL has no file name to use in it",
                self.dest
            )));
        }
        Ok(join(&self.dest, name))
    }
}

impl Module for GetUrl {
    const NAME: &'static str = "get_url";
    const SUMMARY: &'static str = "Fetch a file from a URL";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan::nothing();
        if !["http://", "https://", "file://"].iter().any(|scheme| self.url.starts_with(scheme)) {
            return Err(Error::parameters(format!("`url: {}` must begin with https://, http:// or file://", self.url)));
        }
        let hash = self.hash()?;
        let dest = self.file(host)?;
        let wanted = Wanted { mode: self.mode, owner: self.owner.as_ref(), group: self.group.as_ref() };
        plan.set("dest", dest.clone());
        plan.set("url", self.url.clone());
        let stat = host.stat(&dest)?;
        if let Some(hash) = &hash {
            plan.set("checksum_dest", hash.clone());
        } else {
            plan.pins.push(Pin { url: self.url.clone(), path: dest.clone() });
        }
        let before = match (&stat, &hash) {
            (None, _) => None,
            (Some(stat), None) if !self.force.0 => {
                wanted.settle(host, &mut plan, &dest, stat)?;
                return Ok(plan);
            }
            (Some(_), None) => {
                plan.act = true;
                Some("what is there".to_string())
            }
            (Some(stat), Some(hash)) => {
                let old = host.sha256(&dest)?.unwrap_or_default();
                if old == *hash {
                    wanted.settle(host, &mut plan, &dest, stat)?;
                    return Ok(plan);
                }
                Some(format!("sha256 {old}"))
            }
        };
        need_parent(host, &dest)?;
        let after = match &hash {
            Some(hash) => format!("{}, sha256 {hash}", self.url),
            None => self.url.clone(),
        };
        let mut diffs = vec![Diff { kind: "download".into(), path: dest.clone(), before, after: Some(after) }];
        // A download keeps or sets the mode; the owner is another operation.
        let mode = Wanted { mode: self.mode, ..Wanted::default() };
        let owner = Wanted { mode: None, ..wanted };
        diffs.extend(match &stat {
            Some(stat) => mode.diff(host, &dest, stat)?,
            None => mode.diff_of_new(host, &dest, 0o644)?,
        });
        plan.push(
            Op::Download { url: self.url.clone(), path: dest.clone(), sha256: hash, mode: self.mode.map(|m| m.0) },
            diffs,
        );
        let diff = match &stat {
            Some(stat) => owner.diff(host, &dest, stat)?,
            None => owner.diff_of_new(host, &dest, 0o644)?,
        };
        if let Some(diff) = diff {
            plan.push(owner.set(&dest), vec![diff]);
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::host::Host;
    use crate::host::overlay::testing::{apply, machine, plan, shown};

    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const URL: &str = "https://example.org/virtio-win-0.1.271.iso?mirror=1";

    #[test]
    fn by_hash() {
        let m = machine(&[("/isos/old", "old"), ("/isos/same", "abc")]);
        let ask = |dest: &str| json!({"url": URL, "dest": dest, "checksum": format!("sha256:{}", ABC.to_uppercase())});
        assert!(apply(&m, "get_url", ask("/isos/same")).unwrap().is_empty());
        let done = apply(&m, "get_url", ask("/isos/")).unwrap();
        assert!(
            shown(&done).contains(&format!("download /isos/virtio-win-0.1.271.iso\n+ {URL}, sha256 {ABC}")),
            "{}",
            shown(&done)
        );
        assert!(
            shown(&apply(&m, "get_url", ask("/isos/old")).unwrap())
                .contains("sha256 cba06b5736faf67e54b07b561eae94395e774c517a7d910a54369e1263ccfbd4 → ")
        );
        assert!(plan(&m, "get_url", ask("/isos/same")).unwrap().pins.is_empty());
    }

    #[test]
    fn without_a_hash_what_is_there_counts_and_is_pinned() {
        let m = machine(&[("/isos/", "")]);
        let ask = json!({"url": URL, "dest": "/isos/x", "mode": "0600", "owner": "7"});
        assert_eq!(apply(&m, "get_url", ask.clone()).unwrap().len(), 2);
        assert_eq!(m.stat("/isos/x").unwrap().map(|s| (s.mode, s.uid)), Some((0o600, 7)));
        assert_eq!(plan(&m, "get_url", ask).unwrap().pins[0].path, "/isos/x");
        assert!(plan(&m, "get_url", json!({"url": URL, "dest": "/isos/x", "force": true})).unwrap().act);
        assert!(m.read("/isos/x").unwrap_err().is_unknown());
    }

    #[test]
    fn wrong_parameters() {
        let m = machine(&[("/isos/", "")]);
        for (wrong, said) in [
            (json!({"url": "ftp://x", "dest": "/isos/x"}), "must begin with"),
            (json!({"url": URL, "dest": "/none/x"}), "the folder /none does not exist"),
            (json!({"url": URL, "dest": "/isos/x", "sha256": "12"}), "is not a SHA-256"),
            (json!({"url": URL, "dest": "/isos/x", "checksum": "md5:12"}), "must be `sha256:HEX`"),
            (json!({"url": "https://x/", "dest": "/isos"}), "no file name"),
            (json!({"url": "https://x", "dest": "/isos"}), "no file name"),
        ] {
            let error = plan(&m, "get_url", wrong).unwrap_err();
            assert!(error.message.contains(said), "{error}");
        }
    }
}
