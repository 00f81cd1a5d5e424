//! `file`: files, folders and links, and their attributes.

use schemars::JsonSchema;
use serde::Deserialize;

use super::common::{Target, Wanted, join, need_parent, parent_of, removed_file};
use crate::change::{Content, Diff, Op, Plan};
use crate::host::{Error, FileKind, Host, Result, Stat};
use crate::modules::Module;
use crate::modules::params::{Flag, Mode, Text, yes};

/// What shall stand at the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum State {
    /// A file that is there already; only its attributes change.
    File,
    /// A folder; missing folders above it are made too.
    Directory,
    /// A symbolic link to `src`.
    Link,
    /// A file; an empty one is made where there is none. Times are left alone, so that a second run changes nothing.
    Touch,
    /// Nothing: a file or link is removed, a folder with all that is in it.
    Absent,
}

/// Makes folders, links and empty files, sets owner and permission bits, and removes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// The path; absolute.
    #[serde(alias = "dest", alias = "name")]
    path: String,
    /// What shall stand there. Default: `directory` with `recurse`, else whatever is there, which must exist.
    state: Option<State>,
    /// What the link points to, as it is written in it; with `state: link`.
    src: Option<String>,
    /// Make the link although its target does not exist, and in place of a file or an empty folder. Default: false.
    #[serde(default)]
    force: Flag,
    /// Attributes are those of what a link points to. Default: true.
    #[serde(default = "yes")]
    follow: Flag,
    /// Give the attributes to all that is in the folder too; links are left alone. Default: false.
    #[serde(default)]
    recurse: Flag,
    /// Permission bits, quoted: "0755".
    mode: Option<Mode>,
    /// Owner, a name or a number.
    owner: Option<Text>,
    /// Group, a name or a number.
    group: Option<Text>,
}

/// Folders whose removal would end the machine.
const VITAL: [&str; 19] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/opt", "/proc", "/root", "/run", "/sbin", "/srv",
    "/sys", "/tmp", "/usr", "/var", "/var/lib",
];
/// As many names of a removed folder are listed.
const LISTED: usize = 100;

impl File {
    fn wanted(&self) -> Wanted<'_> {
        Wanted { mode: self.mode, owner: self.owner.as_ref(), group: self.group.as_ref() }
    }

    fn as_it_is(&self, host: &dyn Host, plan: &mut Plan, only_file: bool) -> Result<()> {
        let stat = if self.follow.0 { host.stat(&self.path)? } else { host.lstat(&self.path)? };
        match stat {
            None => Err(Error::failed(format!("{} does not exist", self.path))
                .hint("`state: touch` makes an empty file, `state: directory` a folder, the module `copy` a file with content")),
            Some(stat) if only_file && stat.kind == FileKind::Folder => {
                Err(Error::failed(format!("{} is a folder, and `state: file` is asked for", self.path)))
            }
            Some(stat) if stat.kind == FileKind::Link => Ok(()),
            Some(stat) => self.wanted().settle(host, plan, &self.path, &stat),
        }
    }

    fn folder(&self, host: &dyn Host, plan: &mut Plan) -> Result<()> {
        match host.stat(&self.path)? {
            Some(stat) if stat.kind == FileKind::Folder => {
                self.wanted().settle(host, plan, &self.path, &stat)?;
                if self.recurse.0 { self.below(host, plan, &self.path) } else { Ok(()) }
            }
            Some(_) => Err(Error::failed(format!("{} is there already and is not a folder", self.path))),
            None => make_folders(host, plan, &self.path, self.wanted()),
        }
    }

    fn below(&self, host: &dyn Host, plan: &mut Plan, folder: &str) -> Result<()> {
        for name in host.list(folder)? {
            let path = join(folder, &name);
            let Some(stat) = host.lstat(&path)? else { continue };
            if stat.kind == FileKind::Link {
                continue;
            }
            self.wanted().settle(host, plan, &path, &stat)?;
            if stat.kind == FileKind::Folder {
                self.below(host, plan, &path)?;
            }
        }
        Ok(())
    }

    fn link(&self, host: &dyn Host, plan: &mut Plan) -> Result<()> {
        let Some(src) = self.src.as_deref().filter(|src| !src.is_empty()) else {
            return Err(Error::parameters("`state: link` needs `src`: what the link points to"));
        };
        let target = if src.starts_with('/') { src.to_string() } else { join(parent_of(&self.path), src) };
        if !self.force.0 && !host.exists(&target)? {
            return Err(Error::failed(format!(
                "{target}, which the link {} shall point to, does not exist",
                self.path
            ))
            .hint("set `force: true` to make the link all the same"));
        }
        let path = self.path.trim_end_matches('/');
        let op = Op::Link { path: path.to_string(), target: src.to_string() };
        match host.lstat(path)? {
            None => {
                need_parent(host, &join(parent_of(path), "x"))?;
                plan.push(op, vec![Diff::added("link", path, src)]);
            }
            Some(Stat { kind: FileKind::Link, .. }) => {
                let now = host.read_link(path)?.unwrap_or_default();
                if now != src {
                    plan.push(op, vec![Diff::changed("link", path, now, src)]);
                }
            }
            Some(stat) => {
                let folder = stat.kind == FileKind::Folder;
                if !self.force.0 || stat.kind == FileKind::Other || folder && !host.list(path)?.is_empty() {
                    let what = if folder { "a folder" } else { "a file" };
                    return Err(Error::refused(format!("{path} is {what}, and a link is asked for")).hint(
                        "`force: true` replaces a file or an empty folder; anything else must be removed first",
                    ));
                }
                if folder {
                    plan.push(
                        Op::Remove { path: path.to_string() },
                        vec![Diff::removed("folder", path, "an empty folder")],
                    );
                    plan.push(op, vec![Diff::added("link", path, src)]);
                } else {
                    let gone = removed_file(host, path, &stat)?;
                    plan.push(op, vec![gone, Diff::added("link", path, src)]);
                }
            }
        }
        match host.stat(&target)? {
            Some(stat) if self.follow.0 => self.wanted().settle(host, plan, &target, &stat),
            _ => Ok(()),
        }
    }

    fn touch(&self, host: &dyn Host, plan: &mut Plan) -> Result<()> {
        if host.stat(&self.path)?.is_some() {
            return self.as_it_is(host, plan, false);
        }
        let target = Target { path: &self.path, wanted: self.wanted(), validate: None, backup: false };
        target.write(host, plan, None, Content::Bytes(Vec::new()), Diff::added("file", &self.path, "an empty file"))
    }

    fn absent(&self, host: &dyn Host, plan: &mut Plan) -> Result<()> {
        let path = if self.path == "/" { "/" } else { self.path.trim_end_matches('/') };
        let Some(stat) = host.lstat(path)? else { return Ok(()) };
        let diff = match stat.kind {
            FileKind::Link => Diff::removed("link", path, host.read_link(path)?.unwrap_or_default()),
            FileKind::Folder => {
                let real = host.real_path(path)?;
                if VITAL.contains(&real.as_str()) {
                    return Err(Error::refused(format!("{real} holds the system: it is not removed"))
                        .hint("name what shall go from it"));
                }
                let mut names = Vec::new();
                listing(host, path, "", &mut names)?;
                if names.len() > LISTED {
                    let more = names.len() - LISTED;
                    names.truncate(LISTED);
                    names.push(format!("… and {more} more"));
                }
                names.insert(0, "a folder".to_string());
                Diff::removed("folder", path, names.join("\n"))
            }
            FileKind::File => removed_file(host, path, &stat)?,
            FileKind::Other => Diff::removed("file", path, "a device, socket or pipe"),
        };
        plan.push(Op::Remove { path: path.to_string() }, vec![diff]);
        Ok(())
    }
}

fn listing(host: &dyn Host, folder: &str, prefix: &str, names: &mut Vec<String>) -> Result<()> {
    for name in host.list(folder)? {
        let path = join(folder, &name);
        let shown = format!("{prefix}{name}");
        let is_folder = host.lstat(&path)?.is_some_and(|stat| stat.kind == FileKind::Folder);
        names.push(if is_folder { format!("{shown}/") } else { shown.clone() });
        if is_folder {
            listing(host, &path, &format!("{shown}/"), names)?;
        }
    }
    Ok(())
}

/// Plans a folder and those above it that are missing; all of them get the attributes, as Ansible has it.
pub fn make_folders(host: &dyn Host, plan: &mut Plan, path: &str, wanted: Wanted<'_>) -> Result<()> {
    let real = host.real_path(path)?;
    let mut missing = Vec::new();
    let mut at = real.as_str();
    loop {
        match host.stat(at)? {
            Some(stat) if stat.kind == FileKind::Folder => break,
            Some(_) => return Err(Error::failed(format!("{at} is not a folder, so {path} can't be made"))),
            None => missing.push(at),
        }
        at = parent_of(at);
    }
    for path in missing.into_iter().rev() {
        let mut diffs = vec![Diff::added("folder", path, "a folder")];
        diffs.extend(wanted.diff_of_new(host, path, 0o755)?);
        plan.push(
            Op::MakeFolder {
                path: path.to_string(),
                mode: wanted.mode(),
                owner: wanted.owner(),
                group: wanted.group(),
            },
            diffs,
        );
    }
    Ok(())
}

impl Module for File {
    const NAME: &'static str = "file";
    const SUMMARY: &'static str = "Make folders, links and empty files, set owner and permission bits, remove";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan::nothing();
        plan.set("path", self.path.clone());
        let state = match self.state {
            None if self.recurse.0 => Some(State::Directory),
            state => state,
        };
        if self.recurse.0 && state != Some(State::Directory) {
            return Err(Error::parameters("`recurse` goes with `state: directory` only"));
        }
        if self.src.is_some() && state != Some(State::Link) {
            return Err(Error::parameters("`src` goes with `state: link` only").hint("the module `copy` copies files"));
        }
        match state {
            None => self.as_it_is(host, &mut plan, false)?,
            Some(State::File) => self.as_it_is(host, &mut plan, true)?,
            Some(State::Directory) => self.folder(host, &mut plan)?,
            Some(State::Link) => self.link(host, &mut plan)?,
            Some(State::Touch) => self.touch(host, &mut plan)?,
            Some(State::Absent) => self.absent(host, &mut plan)?,
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::host::Host;
    use crate::host::overlay::testing::{apply, machine, plan, shown};

    #[test]
    fn folders_with_their_parents() {
        let m = machine(&[("/etc/", "")]);
        let done = apply(&m, "file", json!({"path": "/etc/a/b/", "state": "directory", "mode": "0700"})).unwrap();
        assert_eq!(shown(&done).matches("a folder").count(), 2);
        assert_eq!(m.stat("/etc/a").unwrap().unwrap().mode, 0o700);
        assert_eq!(m.stat("/etc/a/b").unwrap().unwrap().mode, 0o700);
        m.read("/etc/a").unwrap_err();
    }

    #[test]
    fn recursion_leaves_links_alone() {
        let m = machine(&[("/d/a", "1"), ("/d/e/b", "2"), ("/d/l", "-> /out"), ("/out", "3")]);
        let done = apply(&m, "file", json!({"path": "/d", "recurse": true, "owner": "7"})).unwrap();
        assert_eq!(done.len(), 4);
        assert_eq!(m.stat("/d/e/b").unwrap().unwrap().uid, 7);
        assert_eq!(m.stat("/out").unwrap().unwrap().uid, 0);
    }

    #[test]
    fn links() {
        let m = machine(&[("/etc/a", "1"), ("/etc/f", "content\n"), ("/etc/d/x", "")]);
        let link =
            |path: &str, src: &str, force: bool| json!({"path": path, "src": src, "state": "link", "force": force});
        apply(&m, "file", link("/etc/l", "a", false)).unwrap();
        assert!(plan(&m, "file", link("/etc/l", "gone", false)).unwrap_err().message.contains("does not exist"));
        let done = apply(&m, "file", link("/etc/l", "gone", true)).unwrap();
        assert!(shown(&done).contains("a → gone"));
        assert!(plan(&m, "file", link("/etc/f", "a", false)).unwrap_err().message.contains("is a file"));
        let done = apply(&m, "file", link("/etc/f", "a", true)).unwrap();
        assert!(shown(&done).contains("-content"));
        assert!(plan(&m, "file", link("/etc/d", "a", true)).is_err());
        assert!(plan(&m, "file", link("/no/l", "/etc/a", false)).unwrap_err().message.contains("/no does not exist"));
    }

    #[test]
    fn touch_and_absent() {
        let m = machine(&[("/etc/d/x", "one\n"), ("/etc/d/e/y", "")]);
        assert_eq!(apply(&m, "file", json!({"path": "/etc/t", "state": "touch", "mode": "0600"})).unwrap().len(), 1);
        assert_eq!(m.read("/etc/t").unwrap(), Some(vec![]));
        assert!(shown(&apply(&m, "file", json!({"path": "/etc/d/x", "state": "absent"})).unwrap()).contains("-one"));
        let said = shown(&apply(&m, "file", json!({"path": "/etc/d", "state": "absent"})).unwrap());
        assert!(said.contains("-a folder\n-e/\n-e/y"), "{said}");
        assert!(!m.exists("/etc/d").unwrap());
        assert!(apply(&m, "file", json!({"path": "/etc/d", "state": "absent"})).unwrap().is_empty());
        assert!(
            plan(&m, "file", json!({"path": "/etc/", "state": "absent"}))
                .unwrap_err()
                .message
                .contains("holds the system")
        );
        assert!(plan(&m, "file", json!({"path": "/", "state": "absent"})).is_err());
    }

    #[test]
    fn what_is_not_there_has_no_attributes() {
        let m = machine(&[("/etc/d/", "")]);
        assert!(
            plan(&m, "file", json!({"path": "/etc/x", "mode": "0600"})).unwrap_err().message.contains("does not exist")
        );
        assert!(
            plan(&m, "file", json!({"path": "/etc/d", "state": "file"})).unwrap_err().message.contains("is a folder")
        );
        assert!(plan(&m, "file", json!({"path": "/etc/d", "state": "hard"})).is_err());
        assert!(plan(&m, "file", json!({"path": "/etc/d", "recurse": true, "state": "absent"})).is_err());
    }
}
