//! `authorized_key`: who may log in over SSH with which key. The format of the file: sshd(8), AUTHORIZED_KEYS FILE FORMAT.

use schemars::JsonSchema;
use serde::Deserialize;

use super::common::{Target, Wanted, join, parent_of};
use super::lineinfile::State;
use crate::change::{Diff, Op, Plan};
use crate::host::{Error, FileKind, Host, Result};
use crate::modules::Module;
use crate::modules::params::{Flag, Mode, Text, yes};

/// Adds or removes SSH keys that may log in as a user.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AuthorizedKey {
    /// The user's login name.
    user: String,
    /// The public key as `ssh-keygen` writes it; several, one a line.
    key: String,
    /// Whether the keys shall be there. Default: `present`.
    #[serde(default)]
    state: State,
    /// No other keys shall be there. Comments stay. Default: false.
    #[serde(default)]
    exclusive: Flag,
    /// Options in front of the key, such as `no-pty,from="10.0.0.0/8"`. Left out: those that are there stay.
    key_options: Option<String>,
    /// The comment behind the key. Left out: that of the key as given; a key that is there keeps its own.
    comment: Option<String>,
    /// The file. Default: `.ssh/authorized_keys` in the user's home.
    path: Option<String>,
    /// Make the folder of the file, for the user alone. Default: true with the default path.
    #[serde(default = "yes")]
    manage_dir: Flag,
}

/// A line with a key.
#[derive(Clone, Debug, PartialEq)]
struct Key {
    options: String,
    kind: String,
    blob: String,
    comment: String,
}

impl Key {
    /// Reads a line; `None` when there is no key on it.
    fn parse(line: &str) -> Option<Key> {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            return None;
        }
        let (first, rest) = word(line);
        let (options, rest) = if is_kind(first) { ("", line) } else { (first, rest) };
        let (kind, rest) = word(rest);
        let (blob, comment) = word(rest);
        let base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
        if !is_kind(kind) || blob.is_empty() || !blob.chars().all(base64) {
            return None;
        }
        Some(Key { options: options.into(), kind: kind.into(), blob: blob.into(), comment: comment.trim().into() })
    }

    fn line(&self) -> String {
        let parts = [&self.options, &self.kind, &self.blob, &self.comment];
        parts.into_iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(" ")
    }

    fn is_same(&self, other: &Key) -> bool {
        self.kind == other.kind && self.blob == other.blob
    }
}

fn is_kind(word: &str) -> bool {
    ["ssh-", "ecdsa-", "sk-ssh-", "sk-ecdsa-"].iter().any(|start| word.starts_with(start))
}

/// The first word and what follows; quotes keep words together, as in an option `command="a b"`.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let (mut quoted, mut escaped) = (false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ' ' | '\t' if !quoted => {
                return (text.get(..at).unwrap_or(text), text.get(at..).unwrap_or("").trim_start());
            }
            _ => {}
        }
    }
    (text, "")
}

impl AuthorizedKey {
    fn keys(&self) -> Result<Vec<Key>> {
        let mut keys: Vec<Key> = Vec::new();
        for line in self.key.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let mut key = Key::parse(line).ok_or_else(|| {
                let start: String = line.chars().take(40).collect();
                Error::parameters(format!("`{start}…` is not a public key"))
                    .hint("a line such as `ssh-ed25519 AAAA… name`, from the file that ends in .pub")
            })?;
            if let Some(options) = &self.key_options {
                key.options.clone_from(options);
            }
            if let Some(comment) = &self.comment {
                key.comment.clone_from(comment);
            }
            if !keys.iter().any(|known| known.is_same(&key)) {
                keys.push(key);
            }
        }
        if keys.is_empty() && !self.exclusive.0 {
            return Err(Error::parameters("`key` holds no key"));
        }
        Ok(keys)
    }

    fn change(&self, content: &str) -> Result<String> {
        let mut missing = self.keys()?;
        let mut out = String::new();
        for line in content.split_inclusive('\n') {
            let Some(mut there) = Key::parse(line) else {
                out.push_str(line);
                continue;
            };
            let asked = missing.iter().position(|key| key.is_same(&there));
            match (self.state, asked) {
                (State::Present, Some(at)) => {
                    let key = missing.remove(at);
                    let before = there.clone();
                    if self.key_options.is_some() || !key.options.is_empty() {
                        there.options = key.options;
                    }
                    if self.comment.is_some() {
                        there.comment = key.comment;
                    }
                    if there == before {
                        out.push_str(line);
                    } else {
                        out.push_str(&there.line());
                        out.push('\n');
                    }
                }
                (State::Present, None) if self.exclusive.0 => {}
                (State::Absent, Some(_)) => {}
                _ => out.push_str(line),
            }
        }
        if self.state == State::Present {
            for key in missing {
                if !out.is_empty() && !out.ends_with('\n') {
                    out.push('\n');
                }
                out.push_str(&key.line());
                out.push('\n');
            }
        }
        Ok(out)
    }
}

impl Module for AuthorizedKey {
    const NAME: &'static str = "authorized_key";
    const SUMMARY: &'static str = "Add or remove SSH keys that may log in as a user";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan::nothing();
        if self.exclusive.0 && self.state == State::Absent {
            return Err(Error::parameters("`exclusive` goes with `state: present` only"));
        }
        let user = host.user(&self.user)?.ok_or_else(|| {
            Error::failed(format!("there is no user `{}` on this machine", self.user))
                .hint("the module `user` makes one")
        })?;
        let path = self.path.clone().unwrap_or_else(|| join(&user.home, ".ssh/authorized_keys"));
        let folder = parent_of(&path).to_string();
        plan.set("path", path.clone());
        // What belongs to a user must not lead root to write elsewhere.
        for place in [&folder, &path] {
            if host.lstat(place)?.is_some_and(|stat| stat.kind == FileKind::Link) {
                return Err(Error::refused(format!("{place} is a link: keys are not written through it"))
                    .hint("give the real place as `path`"));
            }
        }
        let (owner, group) = (Text(user.uid.to_string()), Text(user.gid.to_string()));
        let mut new_folder = false;
        if !host.exists(&folder)? && self.state == State::Present && self.manage_dir.0 && self.path.is_none() {
            new_folder = true;
            super::common::need_parent(host, &folder)?;
            plan.push(
                Op::MakeFolder {
                    path: folder.clone(),
                    mode: Some(0o700),
                    owner: Some(owner.0.clone()),
                    group: Some(group.0.clone()),
                },
                vec![
                    Diff::added("folder", &folder, "a folder"),
                    Diff::added("attributes", &folder, format!("mode 0700, owner {}", user.name)),
                ],
            );
        }
        let before = if new_folder { None } else { host.read_text(&path)? };
        let after = self.change(before.as_deref().unwrap_or_default())?;
        if before.as_deref().unwrap_or_default() == after {
            return Ok(plan);
        }
        let diff = Diff::file(&path, before.as_deref().map(str::as_bytes), Some(after.as_bytes()));
        let content = crate::change::Content::Bytes(after.into_bytes());
        if before.is_some() {
            let target = Target { path: &path, wanted: Wanted::default(), validate: None, backup: false };
            let stat = host.stat(&path)?;
            target.write(host, &mut plan, stat.as_ref(), content, diff)?;
            return Ok(plan);
        }
        let wanted = Wanted { mode: Some(Mode(0o600)), owner: Some(&owner), group: Some(&group) };
        if !new_folder {
            super::common::need_parent(host, &path)?;
        }
        plan.push(
            Op::WriteFile {
                path: path.clone(),
                content,
                mode: wanted.mode(),
                owner: wanted.owner(),
                group: wanted.group(),
                validate: Vec::new(),
            },
            vec![diff, Diff::added("attributes", &path, format!("mode 0600, owner {}", user.name))],
        );
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::Key;
    use crate::host::Host;
    use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/home/ann:/bin/sh\n";
    const FILE: &str = "/home/ann/.ssh/authorized_keys";

    fn with(keys: &str) -> Machine {
        machine(&[("/etc/passwd", PASSWD), (FILE, keys)])
    }

    #[test]
    fn the_first_key_makes_the_folder() {
        let m = machine(&[("/etc/passwd", PASSWD), ("/home/ann/", "")]);
        let done = apply(&m, "authorized_key", json!({"user": "ann", "key": "ssh-ed25519 AAAA ann@x\n"})).unwrap();
        assert_eq!(m.read_text(FILE).unwrap().as_deref(), Some("ssh-ed25519 AAAA ann@x\n"));
        assert_eq!(m.stat("/home/ann/.ssh").unwrap().map(|s| (s.mode, s.uid)), Some((0o700, 1000)));
        assert_eq!(m.stat(FILE).unwrap().map(|s| (s.mode, s.uid)), Some((0o600, 1000)));
        assert!(shown(&done).contains("+ mode 0600, owner ann"));
    }

    #[test]
    fn keys_are_known_by_their_content() {
        let m = with("# mine\nfrom=\"a b\",no-pty ssh-rsa BBBB old name\nssh-ed25519 CCCC c");
        let add = |key: &str| json!({"user": "ann", "key": key});
        assert!(apply(&m, "authorized_key", add("ssh-rsa BBBB new")).unwrap().is_empty());
        apply(&m, "authorized_key", add("ssh-ed25519 DDDD d")).unwrap();
        let text = m.read_text(FILE).unwrap().unwrap();
        assert_eq!(text, "# mine\nfrom=\"a b\",no-pty ssh-rsa BBBB old name\nssh-ed25519 CCCC c\nssh-ed25519 DDDD d\n");
        apply(&m, "authorized_key", json!({"user": "ann", "key": "ssh-rsa BBBB", "key_options": "no-pty"})).unwrap();
        assert!(m.read_text(FILE).unwrap().unwrap().contains("\nno-pty ssh-rsa BBBB old name\n"));
        apply(&m, "authorized_key", json!({"user": "ann", "key": "ssh-rsa BBBB", "state": "absent"})).unwrap();
        assert!(!m.read_text(FILE).unwrap().unwrap().contains("BBBB"));
        apply(&m, "authorized_key", json!({"user": "ann", "key": "ssh-ed25519 DDDD d", "exclusive": true})).unwrap();
        assert_eq!(m.read_text(FILE).unwrap().as_deref(), Some("# mine\nssh-ed25519 DDDD d\n"));
    }

    #[test]
    fn refusals() {
        let m = machine(&[("/etc/passwd", PASSWD), ("/home/ann/.ssh", "-> /etc"), ("/etc/authorized_keys", "")]);
        let key = "ssh-ed25519 AAAA";
        assert!(
            plan(&m, "authorized_key", json!({"user": "ann", "key": key})).unwrap_err().message.contains("is a link")
        );
        assert!(
            plan(&m, "authorized_key", json!({"user": "bob", "key": key}))
                .unwrap_err()
                .message
                .contains("no user `bob`")
        );
        assert!(plan(&with(""), "authorized_key", json!({"user": "ann", "key": "nonsense"})).is_err());
        assert!(plan(&with(""), "authorized_key", json!({"user": "ann", "key": "\n"})).is_err());
    }

    proptest! {
        #[test]
        fn any_line_can_be_read_and_written_back(line in "\\PC{0,40}") {
            if let Some(key) = Key::parse(&line) {
                prop_assert_eq!(Key::parse(&key.line()), Some(key));
            }
        }

        #[test]
        fn real_lines_round_trip(options in "([a-z-]{3,8}|from=\"[a-z ,*\\.]{1,9}\")?", blob in "[A-Za-z0-9+/]{4,20}=?") {
            let text = format!("{options} ssh-rsa {blob} me@there");
            let key = Key::parse(&text).unwrap();
            prop_assert_eq!(&key.blob, &blob);
            prop_assert_eq!(key.options.as_str(), options.as_str());
        }
    }
}
