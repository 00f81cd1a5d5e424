//! Putting paths back: from what stands there now to what stood there.

use super::{State, Subject, look};
use crate::change::{Action, Content, Diff, Effect, Op};
use crate::host::{Host, Result};

/// A path and what it shall be.
pub struct Thing<'a> {
    pub path: &'a str,
    /// The run that kept the copy.
    pub run: &'a str,
    pub state: &'a State,
    /// Its content is not shown.
    pub secret: bool,
    /// An attribute of the kernel: written to, never replaced.
    pub attribute: bool,
}

/// What paths shall be; of each only what was asked for last.
#[derive(Default)]
pub struct Restoring {
    things: Vec<Wanted>,
}

/// As [`Thing`], for itself.
pub struct Wanted {
    path: String,
    run: String,
    state: State,
    secret: bool,
    attribute: bool,
}

/// What puts one path back.
#[derive(Default)]
pub struct Steps {
    pub actions: Vec<Action>,
    pub warning: Option<String>,
}

impl Restoring {
    /// A state that is older than all that were asked for.
    pub fn want(&mut self, thing: Thing<'_>) {
        let known = self.things.iter().position(|wanted| wanted.path == thing.path).map(|at| self.things.remove(at));
        self.things.push(Wanted {
            path: thing.path.to_string(),
            run: thing.run.to_string(),
            state: thing.state.clone(),
            secret: thing.secret || known.is_some_and(|wanted| wanted.secret),
            attribute: thing.attribute,
        });
    }

    /// Nothing is asked of this path any more.
    pub fn forget(&mut self, path: &str) {
        self.things.retain(|wanted| wanted.path != path);
    }

    /// In the order in which they are to be put back.
    pub fn in_order(self) -> Vec<Wanted> {
        self.things
    }
}

impl Wanted {
    /// What puts it back on this machine; nothing where it is back already.
    pub fn steps(&self, host: &dyn Host, copy: &dyn Fn(&str, &str) -> Result<Vec<u8>>) -> Result<Steps> {
        let now = look(host, &Subject::Path(self.path.clone()))?;
        if now.same(&self.state) {
            return Ok(Steps::default());
        }
        Back { host, path: &self.path, now, wanted: self, copy, steps: Steps::default() }.go()
    }
}

struct Back<'a> {
    host: &'a dyn Host,
    path: &'a str,
    now: State,
    wanted: &'a Wanted,
    copy: &'a dyn Fn(&str, &str) -> Result<Vec<u8>>,
    steps: Steps,
}

impl Back<'_> {
    fn go(mut self) -> Result<Steps> {
        let path = self.path.to_string();
        if self.wanted.attribute {
            return self.write_attribute();
        }
        if self.wanted.state == State::Other {
            return Ok(self.left("it was a device, socket or pipe"));
        }
        if matches!(self.wanted.state, State::File { copy: None, .. }) && !self.only_attributes() {
            return Ok(self.left("its earlier content was too large to be kept, or was never known"));
        }
        let full = matches!(self.now, State::Folder { .. })
            && !matches!(self.wanted.state, State::Folder { .. })
            && !self.host.list(&path)?.is_empty();
        if full {
            return Ok(self.left("it holds things that these runs did not put there"));
        }
        if self.wanted.state != State::Nothing && !self.parent_is_there()? {
            return Ok(self.left("its folder is gone"));
        }
        match self.wanted.state.clone() {
            State::Nothing => self.remove()?,
            State::Folder { mode, uid, gid, xattrs } => {
                if matches!(self.now, State::Folder { .. }) {
                    self.attributes(mode, uid, gid);
                } else {
                    self.clear()?;
                    let op = Op::MakeFolder {
                        path: path.clone(),
                        mode: Some(mode),
                        owner: Some(uid.to_string()),
                        group: Some(gid.to_string()),
                    };
                    self.push(op, Diff::added("folder", path, format!("mode {mode:04o}")));
                    self.xattrs(xattrs);
                }
            }
            State::Link { target } => {
                let before = match &self.now {
                    State::Link { target } => Some(target.clone()),
                    State::Nothing => None,
                    State::Folder { .. } => {
                        self.clear()?;
                        None
                    }
                    _ => Some("a file".into()),
                };
                let diff = Diff { kind: "link".into(), path: path.clone(), before, after: Some(target.clone()) };
                self.push(Op::Link { path, target }, diff);
            }
            State::File { mode, uid, gid, copy, xattrs, .. } => self.file(mode, uid, gid, copy.as_deref(), xattrs)?,
            _ => {}
        }
        Ok(self.steps)
    }

    fn only_attributes(&self) -> bool {
        match (&self.now, &self.wanted.state) {
            (State::File { content: now, .. }, State::File { content: then, .. }) => now == then,
            _ => false,
        }
    }

    fn file(&mut self, mode: u32, uid: u32, gid: u32, copy: Option<&str>, xattrs: Vec<(String, String)>) -> Result<()> {
        if self.only_attributes() {
            self.attributes(mode, uid, gid);
            return Ok(());
        }
        let Some(copy) = copy else { return Ok(()) };
        let bytes = (self.copy)(&self.wanted.run, copy)?;
        let is_file = matches!(self.now, State::File { .. });
        let before = if is_file { self.bytes_now()? } else { None };
        // A link would be followed, and a folder or device is not replaced.
        if !is_file {
            self.clear()?;
        }
        let (old_uid, old_gid) = match &self.now {
            State::File { uid, gid, .. } => (Some(*uid), Some(*gid)),
            _ => (None, None),
        };
        let diff = self.file_diff(before, Some(&bytes), is_file);
        let op = Op::WriteFile {
            path: self.path.to_string(),
            content: Content::Bytes(bytes),
            mode: Some(mode),
            owner: Some(uid).filter(|uid| old_uid != Some(*uid)).map(|uid| uid.to_string()),
            group: Some(gid).filter(|gid| old_gid != Some(*gid)).map(|gid| gid.to_string()),
            validate: Vec::new(),
        };
        self.push(op, diff);
        if !is_file {
            self.xattrs(xattrs);
        }
        Ok(())
    }

    /// `None`: what stands there can't be known.
    fn bytes_now(&self) -> Result<Option<Vec<u8>>> {
        const LARGEST_SHOWN: u64 = 64 << 20;
        if self.host.lstat(self.path)?.is_some_and(|stat| stat.size > LARGEST_SHOWN) {
            return Ok(None);
        }
        match self.host.read(self.path) {
            Err(error) if error.is_unknown() => Ok(None),
            other => other,
        }
    }

    fn file_diff(&self, before: Option<Vec<u8>>, after: Option<&[u8]>, was_there: bool) -> Diff {
        let mut diff = Diff::file(self.path, before.as_deref(), after);
        if was_there && diff.before.is_none() {
            diff.before = Some("(too large to be shown, or not known)\n".into());
        }
        if self.wanted.secret {
            for side in [&mut diff.before, &mut diff.after].into_iter().flatten() {
                *side = "(hidden: no_log)\n".into();
            }
            if diff.before == diff.after {
                diff.after = Some("(hidden: no_log; as it was)\n".into());
            }
        }
        diff
    }

    fn remove(&mut self) -> Result<()> {
        let path = self.path.to_string();
        let diff = match &self.now {
            State::File { .. } => {
                let before = self.bytes_now()?;
                self.file_diff(before, None, true)
            }
            State::Link { target } => Diff::removed("link", path.clone(), target.clone()),
            State::Folder { mode, .. } => Diff::removed("folder", path.clone(), format!("mode {mode:04o}")),
            _ => Diff::removed("file", path.clone(), "a device, socket or pipe\n"),
        };
        self.push(Op::Remove { path }, diff);
        Ok(())
    }

    /// Makes the place free for something of another kind.
    fn clear(&mut self) -> Result<()> {
        if self.now != State::Nothing { self.remove() } else { Ok(()) }
    }

    fn attributes(&mut self, mode: u32, uid: u32, gid: u32) {
        let (old_mode, old_uid, old_gid) = match &self.now {
            State::File { mode, uid, gid, .. } | State::Folder { mode, uid, gid, .. } => (*mode, *uid, *gid),
            _ => return,
        };
        let mut before = Vec::new();
        let mut after = Vec::new();
        for (word, old, new) in [
            ("mode", format!("{old_mode:04o}"), format!("{mode:04o}")),
            ("owner", old_uid.to_string(), uid.to_string()),
            ("group", old_gid.to_string(), gid.to_string()),
        ] {
            if old != new {
                before.push(format!("{word} {old}"));
                after.push(format!("{word} {new}"));
            }
        }
        let op = Op::SetAttributes {
            path: self.path.to_string(),
            mode: Some(mode),
            owner: (uid != old_uid).then(|| uid.to_string()),
            group: (gid != old_gid).then(|| gid.to_string()),
        };
        self.push(op, Diff::changed("attributes", self.path, before.join(", "), after.join(", ")));
    }

    /// Labels and ACLs of something that is made anew; what is replaced keeps those that it has.
    fn xattrs(&mut self, xattrs: Vec<(String, String)>) {
        if !xattrs.is_empty() {
            // They belong to the file whose diff has just been shown.
            let op = Op::SetXattrs { path: self.path.to_string(), xattrs };
            self.steps.actions.push(Action { op, diffs: Vec::new() });
        }
    }

    fn write_attribute(mut self) -> Result<Steps> {
        let State::File { copy: Some(copy), .. } = &self.wanted.state else {
            return Ok(self.left("its earlier value is not known"));
        };
        let old = String::from_utf8_lossy(&(self.copy)(&self.wanted.run, copy)?).into_owned();
        let now = self.host.read_text(self.path)?.unwrap_or_default();
        if now == old {
            return Ok(self.steps);
        }
        let diff = Diff::changed("sysctl", self.path, now.trim_end(), old.trim_end());
        let effects = vec![Effect::File { path: self.path.to_string(), content: Some(old.clone()), mode: None }];
        let op = Op::Poke { path: self.path.to_string(), value: old.trim_end().to_string(), effects };
        self.push(op, diff);
        Ok(self.steps)
    }

    fn parent_is_there(&self) -> Result<bool> {
        match self.path.rsplit_once('/') {
            Some(("", _)) | None => Ok(true),
            Some((parent, _)) => self.host.exists(parent),
        }
    }

    fn push(&mut self, op: Op, diff: Diff) {
        self.steps.actions.push(Action { op, diffs: vec![diff] });
    }

    fn left(mut self, why: &str) -> Steps {
        self.steps.warning = Some(format!("{} stays as it is: {why}", self.path));
        self.steps
    }
}
