//! `copy`: a file with a given content.

use base64::{Engine, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::common::{Target, Wanted, join, name_of, need_parent};
use crate::change::{Content, Diff, Op, Plan, SENT};
use crate::host::{Error, FileKind, Host, Result, Stat};
use crate::modules::Module;
use crate::modules::params::{Flag, Mode, Text, yes};

/// Puts a file in place: with the content that is given, of a file on the controller, or of another file on the machine.
///
/// The old content is replaced in one step and keeps its owner, mode and labels unless the task says otherwise.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Copy {
    /// Where it goes; absolute. A path that ends in `/` or is a folder means the file of the same name in it.
    dest: String,
    /// The content itself. A list or mapping is written as JSON.
    content: Option<Value>,
    /// The content in base64, for what is not text. It is what `src` becomes on its way to the machine; a task may also
    /// use it directly.
    content_base64: Option<String>,
    /// The SHA-256 of the content, which the controller sends only if the machine does not have it. It is what a large
    /// `src` becomes on its way to the machine.
    content_sha256: Option<String>,
    /// A file on the controller, looked for in the role's `files/` first; with `remote_src`, a file on the machine.
    src: Option<String>,
    /// `src` is a file on the machine. Default: false.
    #[serde(default)]
    remote_src: Flag,
    /// Replace a file with other content. With false, only a file that is missing is made. Default: true.
    #[serde(default = "yes")]
    force: Flag,
    /// Keep the old content beside the file, as `NAME.~1~`, `NAME.~2~`, … Default: false.
    #[serde(default)]
    backup: Flag,
    /// A command that must succeed before the new content counts; `%s` stands for its path. Words and quotes as in a
    /// shell, nothing else of a shell.
    validate: Option<String>,
    /// Permission bits, quoted: "0644". A new file gets 0644 unless told otherwise.
    mode: Option<Mode>,
    /// Permission bits of a folder that is made because `dest` ends in `/`. Default: "0755".
    directory_mode: Option<Mode>,
    /// Owner, a name or a number. A new file belongs to root unless told otherwise.
    owner: Option<Text>,
    /// Group, a name or a number.
    group: Option<Text>,
}

/// Where the content comes from.
enum Source {
    Bytes(Vec<u8>),
    Path(String),
    /// Sent when it is needed; known by its hash.
    Sent(String),
}

impl Copy {
    fn source(&self) -> Result<Source> {
        if let Some(sha256) = &self.content_sha256 {
            let other = self.content.is_some() || self.content_base64.is_some() || self.remote_src.0;
            if other || sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(Error::parameters("`content_sha256` takes 64 hex digits, and no other source"));
            }
            if self.validate.is_some() || self.backup.0 {
                return Err(Error::parameters("`validate` and `backup` can't be used with a file this large"));
            }
            return Ok(Source::Sent(sha256.to_ascii_lowercase()));
        }
        let given = (&self.content, &self.content_base64, &self.src, self.remote_src.0);
        match given {
            (Some(Value::String(text)), None, None, _) => Ok(Source::Bytes(text.clone().into_bytes())),
            (Some(Value::Null), None, None, _) => Ok(Source::Bytes(Vec::new())),
            (Some(other), None, None, _) => Ok(Source::Bytes(other.to_string().into_bytes())),
            // `src` then only says the name.
            (None, Some(text), _, false) => STANDARD
                .decode(text.trim())
                .map(Source::Bytes)
                .map_err(|e| Error::parameters(format!("`content_base64` is not base64: {e}"))),
            (Some(Value::String(text)), None, Some(_), false) => Ok(Source::Bytes(text.clone().into_bytes())),
            (None, None, Some(src), true) => Ok(Source::Path(src.clone())),
            (None, None, Some(src), false) => {
                Err(Error::parameters(format!("the file {src} was not read on the controller"))
                    .hint("if it is a file on the machine, set `remote_src: true`"))
            }
            (None, None, None, _) => Err(Error::parameters("one of `content` and `src` is needed")),
            _ => Err(Error::parameters("only one of `content`, `content_base64` and `src` can be given")),
        }
    }

    /// The file itself, where `dest` is a folder; plans to make that folder where it is missing.
    fn file(&self, host: &dyn Host, plan: &mut Plan) -> Result<String> {
        let folder = host.stat(&self.dest)?.is_some_and(|stat| stat.kind == FileKind::Folder);
        if !folder && !self.dest.ends_with('/') {
            return Ok(self.dest.clone());
        }
        let Some(src) = &self.src else {
            return Err(Error::parameters(format!(
                "{} is a folder, and `content` needs the name of a file",
                self.dest
            )));
        };
        if !folder {
            super::file::make_folders(
                host,
                plan,
                &self.dest,
                Wanted { mode: self.directory_mode, ..Wanted::default() },
            )?;
        }
        Ok(join(&self.dest, name_of(src)))
    }
}

impl Module for Copy {
    const NAME: &'static str = "copy";
    const SUMMARY: &'static str = "Put a file with a given content in place";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan::nothing();
        let source = self.source()?;
        let dest = self.file(host, &mut plan)?;
        let target = Target {
            path: &dest,
            wanted: Wanted { mode: self.mode, owner: self.owner.as_ref(), group: self.group.as_ref() },
            validate: self.validate.as_deref(),
            backup: self.backup.0,
        };
        plan.set("dest", dest.clone());
        let stat = host.stat(&dest)?;
        if let (Some(stat), false) = (&stat, self.force.0) {
            target.wanted.settle(host, &mut plan, &dest, stat)?;
            return Ok(plan);
        }
        match source {
            Source::Bytes(after) => {
                plan.set("checksum", format!("{:x}", Sha256::digest(&after)));
                if plan.actions.is_empty() {
                    let before = host.read(&dest)?;
                    target.put(host, &mut plan, before.as_deref(), after)?;
                } else {
                    into_new_folder(
                        &mut plan,
                        &target,
                        Content::Bytes(after.clone()),
                        Diff::file(&dest, None, Some(&after)),
                    )?;
                }
            }
            Source::Path(src) => copy_of(host, &mut plan, &src, &target, stat.as_ref())?,
            Source::Sent(sha256) => sent(host, &mut plan, self.src.as_deref(), sha256, &target, stat.as_ref())?,
        }
        Ok(plan)
    }
}

/// Where the folder is only planned, its being there can't be asked for.
fn into_new_folder(plan: &mut Plan, target: &Target<'_>, content: Content, diff: Diff) -> Result<()> {
    plan.push(
        Op::WriteFile {
            path: target.path.to_string(),
            content,
            mode: target.wanted.mode(),
            owner: target.wanted.owner(),
            group: target.wanted.group(),
            validate: target.validate.map(super::common::check).transpose()?.into_iter().collect(),
        },
        vec![diff],
    );
    Ok(())
}

fn copy_of(host: &dyn Host, plan: &mut Plan, src: &str, target: &Target<'_>, stat: Option<&Stat>) -> Result<()> {
    match host.stat(src)? {
        None => return Err(Error::failed(format!("the file {src} does not exist on this machine"))),
        Some(stat) if stat.kind == FileKind::Folder => {
            return Err(Error::parameters(format!("{src} is a folder: only single files are copied on the machine")));
        }
        Some(_) => {}
    }
    let new = host.sha256(src)?.unwrap_or_default();
    plan.set("checksum", new.clone());
    plan.set("src", src);
    let diff = match stat {
        Some(stat) => {
            let old = host.sha256(target.path)?;
            if old.as_ref() == Some(&new) {
                return target.wanted.settle(host, plan, target.path, stat);
            }
            Diff::changed("file", target.path, described(old.as_deref()), described(Some(&new)))
        }
        None => Diff::added("file", target.path, described(Some(&new))),
    };
    // Text is shown as text.
    let diff = match (host.read(target.path), host.read(src)) {
        (Ok(before), Ok(Some(after))) if after.len() < 1 << 20 => {
            Diff::file(target.path, before.as_deref(), Some(&after))
        }
        _ => diff,
    };
    let content = Content::CopyOf(src.to_string());
    if plan.actions.is_empty() {
        need_parent(host, target.path)?;
        target.write(host, plan, stat, content, diff)
    } else {
        into_new_folder(plan, target, content, diff)
    }
}

/// A large file of the controller.
fn sent(
    host: &dyn Host,
    plan: &mut Plan,
    name: Option<&str>,
    sha256: String,
    target: &Target<'_>,
    stat: Option<&Stat>,
) -> Result<()> {
    plan.set("checksum", sha256.clone());
    let before = match stat {
        Some(stat) => {
            let old = host.sha256(target.path)?;
            if old.as_ref() == Some(&sha256) {
                return target.wanted.settle(host, plan, target.path, stat);
            }
            Some(described(old.as_deref()))
        }
        None => None,
    };
    if plan.actions.is_empty() {
        need_parent(host, target.path)?;
    }
    let after = Some(described(Some(&sha256)));
    let diff = Diff { kind: "file".into(), path: target.path.into(), before, after };
    let url = format!("{SENT}{}", name_of(name.unwrap_or(target.path)));
    plan.push(
        Op::Download { url, path: target.path.into(), sha256: Some(sha256), mode: target.wanted.mode() },
        vec![diff],
    );
    // Owner and group are another operation, once the file is there.
    plan.staged = true;
    Ok(())
}

fn described(hash: Option<&str>) -> String {
    format!("sha256 {}", hash.unwrap_or("unknown"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::host::Host;
    use crate::host::overlay::testing::{apply, machine, plan, shown};

    #[test]
    fn content_and_attributes_are_one_action() {
        let m = machine(&[("/etc/passwd", "qemu:x:107:107::/:/sbin/nologin\n"), ("/etc/a", "1\n")]);
        let done =
            apply(&m, "copy", json!({"dest": "/etc/a", "content": "2\n", "mode": "0600", "owner": "qemu"})).unwrap();
        assert_eq!(done.len(), 1);
        let shown = shown(&done);
        assert!(shown.contains("-1\n+2\n"), "{shown}");
        assert!(shown.contains("attributes /etc/a\nmode 0644, owner root → mode 0600, owner qemu"), "{shown}");
        let stat = m.stat("/etc/a").unwrap().unwrap();
        assert_eq!((stat.mode, stat.uid), (0o600, 107));
    }

    #[test]
    fn attributes_alone_do_not_write_the_content() {
        let m = machine(&[("/etc/a", "1\n")]);
        let done = apply(&m, "copy", json!({"dest": "/etc/a", "content": "1\n", "mode": "0600"})).unwrap();
        assert!(matches!(done[0].op, crate::change::Op::SetAttributes { .. }));
    }

    #[test]
    fn a_missing_folder_is_an_error_and_a_slash_makes_it() {
        let m = machine(&[]);
        let error = plan(&m, "copy", json!({"dest": "/etc/x/a", "content": ""})).unwrap_err();
        assert!(error.message.contains("the folder /etc/x does not exist"), "{error}");
        apply(&m, "copy", json!({"dest": "/etc/x/", "content_base64": "AAE=", "src": "files/logo.bin"})).unwrap();
        assert_eq!(m.read("/etc/x/logo.bin").unwrap(), Some(vec![0, 1]));
        let error = plan(&m, "copy", json!({"dest": "/etc/x", "content": "a"})).unwrap_err();
        assert!(error.message.contains("is a folder"), "{error}");
    }

    #[test]
    fn backup_force_and_a_source_on_the_machine() {
        let m = machine(&[("/etc/a", "1\n"), ("/etc/b", "2\n")]);
        assert!(apply(&m, "copy", json!({"dest": "/etc/a", "content": "9", "force": false})).unwrap().is_empty());
        let done =
            apply(&m, "copy", json!({"dest": "/etc/a", "src": "/etc/b", "remote_src": "yes", "backup": true})).unwrap();
        assert_eq!(m.read_text("/etc/a").unwrap().as_deref(), Some("2\n"));
        assert_eq!(m.read_text("/etc/a.~1~").unwrap().as_deref(), Some("1\n"));
        assert!(shown(&done).contains("+2"));
        assert!(plan(&m, "copy", json!({"dest": "/etc/a", "src": "/nope", "remote_src": true})).is_err());
    }

    #[test]
    fn wrong_parameters_are_told() {
        let m = machine(&[("/etc/", "")]);
        for (parameters, said) in [
            (json!({"dest": "/etc/a"}), "one of `content` and `src`"),
            (json!({"dest": "/etc/a", "content": "", "src": "/b", "remote_src": true}), "only one of"),
            (json!({"dest": "/etc/a", "src": "b"}), "was not read on the controller"),
            (json!({"dest": "/etc/a", "content": "x", "validate": "visudo -cf"}), "has no %s"),
            (json!({"dest": "/etc/a", "content": "x", "owner": "nobody-here"}), "no user `nobody-here`"),
            (json!({"dest": "/etc/a", "content": "x", "mode": 420}), "put it in quotes"),
        ] {
            let error = plan(&m, "copy", parameters).unwrap_err();
            assert!(error.message.contains(said), "{error}");
        }
    }
}
