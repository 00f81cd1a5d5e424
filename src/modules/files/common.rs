//! What the modules of this room share: attributes, backups, checks, and "this content at this path".

use crate::change::{Content, Diff, Op, Plan};
use crate::host::{Error, FileKind, Host, Result, Stat, accounts};
use crate::modules::params::{Mode, Text};

/// Longer files are described by length and hash where they only go away.
const SHOWN: u64 = 1 << 20;

/// Attributes that a task asks for; what is `None` stays.
#[derive(Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// Permission bits.
    pub mode: Option<Mode>,
    /// Owner.
    pub owner: Option<&'a Text>,
    /// Group.
    pub group: Option<&'a Text>,
}

impl Wanted<'_> {
    /// How what is there differs from what is asked for; `None` when it does not.
    pub fn diff(&self, host: &dyn Host, path: &str, stat: &Stat) -> Result<Option<Diff>> {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        if let Some(Mode(mode)) = self.mode
            && mode != stat.mode
        {
            before.push(format!("mode {:04o}", stat.mode));
            after.push(format!("mode {mode:04o}"));
        }
        if let Some(owner) = self.owner
            && accounts::uid(host, owner)? != stat.uid
        {
            before.push(format!("owner {}", user_name(host, stat.uid)?));
            after.push(format!("owner {}", owner.0));
        }
        if let Some(group) = self.group
            && accounts::gid(host, group)? != stat.gid
        {
            before.push(format!("group {}", group_name(host, stat.gid)?));
            after.push(format!("group {}", group.0));
        }
        Ok((!after.is_empty()).then(|| Diff::changed("attributes", path, before.join(", "), after.join(", "))))
    }

    /// What is unusual about something new; `usual` is the mode it gets unless told otherwise.
    pub fn diff_of_new(&self, host: &dyn Host, path: &str, usual: u32) -> Result<Option<Diff>> {
        let new = Stat { kind: FileKind::File, mode: usual, uid: 0, gid: 0, size: 0, mtime: 0 };
        Ok(self.diff(host, path, &new)?.map(|diff| Diff { before: None, ..diff }))
    }

    /// The operation that changes only attributes.
    pub fn set(&self, path: &str) -> Op {
        Op::SetAttributes { path: path.to_string(), mode: self.mode(), owner: self.owner(), group: self.group() }
    }

    /// Adds what must change about something that is there and otherwise as asked.
    pub fn settle(&self, host: &dyn Host, plan: &mut Plan, path: &str, stat: &Stat) -> Result<()> {
        if let Some(diff) = self.diff(host, path, stat)? {
            plan.push(self.set(path), vec![diff]);
        }
        Ok(())
    }

    /// The mode as a number.
    pub fn mode(&self) -> Option<u32> {
        self.mode.map(|mode| mode.0)
    }

    /// The owner as operations take it.
    pub fn owner(&self) -> Option<String> {
        self.owner.map(|owner| owner.0.clone())
    }

    /// The group as operations take it.
    pub fn group(&self) -> Option<String> {
        self.group.map(|group| group.0.clone())
    }
}

/// The name of an account, its number where it has none.
pub fn user_name(host: &dyn Host, uid: u32) -> Result<String> {
    let text = host.read_text("/etc/passwd")?.unwrap_or_default();
    let user = text.lines().filter_map(accounts::User::parse).find(|user| user.uid == uid);
    Ok(user.map_or_else(|| if uid == 0 { "root".into() } else { uid.to_string() }, |user| user.name))
}

/// The name of a group, its number where it has none.
pub fn group_name(host: &dyn Host, gid: u32) -> Result<String> {
    let text = host.read_text("/etc/group")?.unwrap_or_default();
    let group = text.lines().filter_map(accounts::Group::parse).find(|group| group.gid == gid);
    Ok(group.map_or_else(|| if gid == 0 { "root".into() } else { gid.to_string() }, |group| group.name))
}

/// A file that shall have a certain content.
#[derive(Clone, Copy)]
pub struct Target<'a> {
    /// Where.
    pub path: &'a str,
    /// With which attributes.
    pub wanted: Wanted<'a>,
    /// The command line that must succeed on the new content; `%s` stands for its place.
    pub validate: Option<&'a str>,
    /// Keep what was there under another name.
    pub backup: bool,
}

impl Target<'_> {
    /// Plans what makes the file so; `before` is what is in it now.
    pub fn put(&self, host: &dyn Host, plan: &mut Plan, before: Option<&[u8]>, after: Vec<u8>) -> Result<()> {
        let stat = host.stat(self.path)?;
        if let (Some(stat), true) = (&stat, before == Some(&after)) {
            return self.wanted.settle(host, plan, self.path, stat);
        }
        let diff = Diff::file(self.path, before, Some(&after));
        self.write(host, plan, stat.as_ref(), Content::Bytes(after), diff)
    }

    /// Plans to write this content in any case, with the backup and the attributes that go with it.
    pub fn write(
        &self,
        host: &dyn Host,
        plan: &mut Plan,
        stat: Option<&Stat>,
        content: Content,
        diff: Diff,
    ) -> Result<()> {
        need_parent(host, self.path)?;
        let mut diffs = vec![diff];
        match stat {
            Some(stat) => {
                diffs.extend(self.wanted.diff(host, self.path, stat)?);
                if self.backup {
                    self.back_up(host, plan, stat)?;
                }
            }
            None => diffs.extend(self.wanted.diff_of_new(host, self.path, 0o644)?),
        }
        plan.push(
            Op::WriteFile {
                path: self.path.to_string(),
                content,
                mode: self.wanted.mode(),
                owner: self.wanted.owner(),
                group: self.wanted.group(),
                validate: self.validate.map(check).transpose()?.into_iter().collect(),
            },
            diffs,
        );
        Ok(())
    }

    /// Reads the file, lets `change` make its new content, and plans what is to be done. A missing file is empty where
    /// `create` allows it.
    pub fn edit(
        &self,
        host: &dyn Host,
        plan: &mut Plan,
        create: bool,
        change: impl FnOnce(&[u8]) -> Result<Vec<u8>>,
    ) -> Result<()> {
        let before = host.read(self.path)?;
        if before.is_none() && !create {
            return Err(Error::failed(format!("the file {} does not exist", self.path))
                .hint("set `create: true` if it shall be made"));
        }
        let after = change(before.as_deref().unwrap_or_default())?;
        if before.is_none() && after.is_empty() {
            return Ok(());
        }
        self.put(host, plan, before.as_deref(), after)
    }

    /// A copy beside the file, numbered as `cp --backup=numbered` does.
    fn back_up(&self, host: &dyn Host, plan: &mut Plan, stat: &Stat) -> Result<()> {
        let mut number = 1;
        while host.lstat(&format!("{}.~{number}~", self.path))?.is_some() {
            number += 1;
        }
        let path = format!("{}.~{number}~", self.path);
        plan.set("backup_file", path.clone());
        plan.push(
            Op::WriteFile {
                path: path.clone(),
                content: Content::CopyOf(self.path.to_string()),
                mode: Some(stat.mode),
                owner: Some(stat.uid.to_string()),
                group: Some(stat.gid.to_string()),
                validate: Vec::new(),
            },
            vec![Diff::added("backup", path, format!("a copy of {}", self.path))],
        );
        Ok(())
    }
}

/// The command line of `validate` as words.
pub fn check(command: &str) -> Result<Vec<String>> {
    let words = words("validate", command)?;
    if words.iter().any(|word| word.contains("%s")) {
        Ok(words)
    } else {
        Err(Error::parameters(format!("`validate: {command}` has no %s, which stands for the file to be checked")))
    }
}

/// A command line as words, quotes as in a shell; nothing else of a shell.
pub fn words(parameter: &str, text: &str) -> Result<Vec<String>> {
    shlex::split(text).filter(|words| !words.is_empty()).ok_or_else(|| {
        Error::parameters(format!("`{parameter}: {text}` is not a command: a quote is not closed, or it is empty"))
    })
}

/// Is there a folder for this file? An apply would fail without, so a plan does.
pub fn need_parent(host: &dyn Host, path: &str) -> Result<()> {
    let real = host.real_path(path)?;
    let parent = parent_of(&real);
    match host.stat(parent)? {
        Some(stat) if stat.kind == FileKind::Folder => Ok(()),
        Some(_) => Err(Error::failed(format!("{parent} is not a folder, so {path} can't be made"))),
        None => Err(Error::failed(format!("the folder {parent} does not exist, so {path} can't be made"))
            .hint(format!("make it first: `file: {{path: {parent}, state: directory}}`"))),
    }
}

/// The folder part of a path.
pub fn parent_of(path: &str) -> &str {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((parent, _)) => parent,
    }
}

/// The last part of a path.
pub fn name_of(path: &str) -> &str {
    path.trim_end_matches('/').rsplit('/').next().unwrap_or(path)
}

/// The path of `name` in `folder`.
pub fn join(folder: &str, name: &str) -> String {
    format!("{}/{name}", folder.trim_end_matches('/'))
}

/// The diff of a file that goes away: its content, or what can be said of it.
pub fn removed_file(host: &dyn Host, path: &str, stat: &Stat) -> Result<Diff> {
    if stat.size > SHOWN {
        let hash = host.sha256(path)?.unwrap_or_default();
        return Ok(Diff::removed("file", path, format!("{} bytes, sha256 {hash}", stat.size)));
    }
    match host.read(path) {
        Ok(content) => Ok(Diff::file(path, Some(content.as_deref().unwrap_or_default()), None)),
        // What an earlier action of this dry run makes can be removed without knowing what is in it.
        Err(error) if error.is_unknown() => Ok(Diff::removed("file", path, error.message)),
        Err(error) => Err(error),
    }
}

/// Lines with their ends.
pub fn lines(content: &[u8]) -> Vec<Vec<u8>> {
    content.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

/// A line without its end.
pub fn bare(line: &[u8]) -> &[u8] {
    match line.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => line,
    }
}
