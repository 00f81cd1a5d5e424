//! `user`: an account is there as asked, or not.

use schemars::JsonSchema;
use serde::Deserialize;

use super::accounts::{free_id, id_range, is_name, login_flag, replace_line, useradd_default};
use super::group::not_local;
use super::with_line;
use crate::change::{Diff, Effect, Op, Plan, Run};
use crate::host::accounts::{Group, User as Entry};
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::params::{Flag, List, Text, yes};

/// Makes, changes or removes a user's account.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// The login name.
    #[serde(alias = "user")]
    name: String,
    /// `present` or `absent`. Default: present.
    #[serde(default)]
    state: State,
    /// The number. Default: the next free one.
    uid: Option<u32>,
    /// The primary group, by name or number. Default: one of the user's own.
    group: Option<Text>,
    /// Other groups the user belongs to, by name. An empty list takes the user out of all, unless `append`.
    groups: Option<List<Text>>,
    /// Only add to the groups, never take out of one. Default: no.
    #[serde(default)]
    append: Flag,
    /// The comment (full name).
    comment: Option<String>,
    /// The home folder. Default: what useradd takes.
    home: Option<String>,
    /// Make the home folder of a new user. Default: yes.
    #[serde(default = "yes", alias = "createhome")]
    create_home: Flag,
    /// When `home` changes, move the folder's content there. Default: no.
    #[serde(default)]
    move_home: Flag,
    /// The login shell. Default: what useradd takes.
    shell: Option<String>,
    /// An account of the system, with a low number. Default: no.
    #[serde(default)]
    system: Flag,
    /// The password's hash, as `openssl passwd -6` or the filter `password_hash` makes it; `*` or `!` for none.
    password: Option<String>,
    /// `always` sets the password when it differs, `on_create` only with a new account. Default: always.
    #[serde(default)]
    update_password: UpdatePassword,
    /// With `absent`: remove the home folder and the mail too. Default: no.
    #[serde(default)]
    remove: Flag,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// It is there.
    #[default]
    Present,
    /// It is not.
    Absent,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum UpdatePassword {
    /// Whenever it differs.
    #[default]
    Always,
    /// Only with a new account.
    OnCreate,
}

/// The account files, as they are and as they become.
struct Files {
    passwd: String,
    group: String,
}

impl Files {
    fn groups(&self) -> Vec<Group> {
        self.group.lines().filter_map(Group::parse).collect()
    }
    /// The groups that have this user as a member, sorted.
    fn groups_of(&self, name: &str) -> Vec<String> {
        let mut names: Vec<String> =
            self.groups().into_iter().filter(|g| g.members.iter().any(|m| m == name)).map(|g| g.name).collect();
        names.sort();
        names
    }
    /// Makes the user a member of exactly these groups.
    fn set_groups(&mut self, name: &str, wanted: &[String]) {
        for mut group in self.groups() {
            let is = group.members.iter().any(|m| m == name);
            let should = wanted.contains(&group.name);
            if is == should {
                continue;
            }
            if should {
                group.members.push(name.to_string());
            } else {
                group.members.retain(|m| m != name);
            }
            let line = format!("{}:x:{}:{}", group.name, group.gid, group.members.join(","));
            self.group = replace_line(&self.group, &group.name, Some(&line));
        }
    }
    fn effects(self) -> Vec<Effect> {
        [("/etc/passwd", self.passwd), ("/etc/group", self.group)]
            .map(|(path, content)| Effect::File { path: path.into(), content: Some(content), mode: None })
            .to_vec()
    }
}

fn line_of(user: &Entry) -> String {
    format!("{}:x:{}:{}:{}:{}:{}", user.name, user.uid, user.gid, user.comment, user.home, user.shell)
}

/// A hash of crypt(5), or a sign that no password fits.
fn is_hash(text: &str) -> bool {
    let body = text.trim_start_matches('!');
    let plain = |c: char| c.is_ascii_graphic() && c != ':';
    body.is_empty() && !text.is_empty()
        || body == "*"
        || (body.starts_with('$') && body.matches('$').count() >= 3 && body.chars().all(plain))
        || (body.starts_with('_') && body.len() == 20 && body.chars().all(plain))
}

impl User {
    fn check(&self) -> Result<()> {
        if !is_name(&self.name) {
            return Err(Error::parameters(format!("`{}` is not the name of a user", self.name)));
        }
        let field = |what: &str, value: &Option<String>, path: bool| match value {
            Some(value)
                if value.contains(|c: char| c == ':' || c.is_control()) || (path && !value.starts_with('/')) =>
            {
                Err(Error::parameters(format!("`{what}: {value}` can't stand in /etc/passwd")))
            }
            _ => Ok(()),
        };
        field("comment", &self.comment, false)?;
        field("home", &self.home, true)?;
        field("shell", &self.shell, true)?;
        if let Some(password) = &self.password
            && !is_hash(password)
        {
            return Err(Error::parameters(format!("the password of {} is not a hash", self.name))
                .hint("make one with `openssl passwd -6`, and keep it in a vault"));
        }
        Ok(())
    }

    fn group_number(&self, host: &dyn Host) -> Result<Option<u32>> {
        let Some(group) = &self.group else { return Ok(None) };
        if let Ok(number) = group.parse() {
            return Ok(Some(number));
        }
        match host.group(group)? {
            Some(group) => Ok(Some(group.gid)),
            None => Err(Error::failed(format!("there is no group {} on this machine", group.0))
                .hint("make it with a `group` task before this one")),
        }
    }

    /// The other groups the user shall be in, or `None` where nothing is asked.
    fn wanted_groups(&self, host: &dyn Host, now: &[String]) -> Result<Option<Vec<String>>> {
        let Some(asked) = &self.groups else { return Ok(None) };
        let mut wanted: Vec<String> = if self.append.0 { now.to_vec() } else { Vec::new() };
        for name in asked.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|name| !name.is_empty()) {
            if host.group(name)?.is_none() {
                return Err(Error::failed(format!("there is no group {name} on this machine"))
                    .hint("make it with a `group` task, or install the package that brings it, before this one"));
            }
            wanted.push(name.to_string());
        }
        wanted.sort();
        wanted.dedup();
        Ok(Some(wanted))
    }

    fn plan_new(&self, host: &dyn Host, plan: &mut Plan, mut files: Files) -> Result<()> {
        let name = &self.name;
        let system = self.system.0;
        let users: Vec<u32> = files.passwd.lines().filter_map(Entry::parse).map(|user| user.uid).collect();
        let gids: Vec<u32> = files.groups().into_iter().map(|group| group.gid).collect();
        let uid = match self.uid {
            Some(uid) if users.contains(&uid) => {
                return Err(Error::refused(format!("the number {uid} belongs to another user already")));
            }
            Some(uid) => uid,
            None => free_id(&users, id_range(host, "UID", system)?, system),
        };
        let mut argv = vec!["useradd".to_string()];
        let mut diffs = vec![match self.uid {
            Some(uid) => Diff::added("user", name, format!("uid {uid}")),
            None => Diff::added("user", name, "present"),
        }];
        if let Some(uid) = self.uid {
            argv.extend(["-u".into(), uid.to_string()]);
        }
        if system {
            argv.push("-r".into());
        }
        let own_group = host.group(name)?;
        let gid = match (self.group_number(host)?, own_group) {
            (Some(gid), _) => {
                argv.extend(["-g".into(), gid.to_string()]);
                gid
            }
            // useradd refuses to make a group that is there: then it is the user's.
            (None, Some(group)) => {
                argv.extend(["-g".into(), name.clone()]);
                group.gid
            }
            (None, None) if login_flag(host, "USERGROUPS_ENAB", true)? => {
                let gid =
                    if gids.contains(&uid) { free_id(&gids, id_range(host, "GID", system)?, system) } else { uid };
                argv.push("-U".into());
                files.group = with_line(&files.group, &format!("{name}:x:{gid}:"));
                gid
            }
            (None, None) => useradd_default(host, "GROUP", "100")?.parse().unwrap_or(100),
        };
        if let Some(wanted) = self.wanted_groups(host, &[])?.filter(|wanted| !wanted.is_empty()) {
            argv.extend(["-G".into(), wanted.join(",")]);
            files.set_groups(name, &wanted);
            diffs.push(Diff::added("user", format!("{name}: groups"), wanted.join(", ")));
        }
        for (option, value, what) in
            [("-c", &self.comment, "comment"), ("-d", &self.home, "home"), ("-s", &self.shell, "shell")]
        {
            if let Some(value) = value {
                argv.extend([option.into(), value.clone()]);
                diffs.push(Diff::added("user", format!("{name}: {what}"), value));
            }
        }
        argv.push(if self.create_home.0 { "-m".into() } else { "-M".into() });
        argv.extend(["--".into(), name.clone()]);
        let home = match &self.home {
            Some(home) => home.clone(),
            None => format!("{}/{name}", useradd_default(host, "HOME", "/home")?),
        };
        let user = Entry {
            name: name.clone(),
            uid,
            gid,
            comment: self.comment.clone().unwrap_or_default(),
            home: home.clone(),
            shell: match &self.shell {
                Some(shell) => shell.clone(),
                None => useradd_default(host, "SHELL", "/bin/sh")?,
            },
        };
        files.passwd = with_line(&files.passwd, &line_of(&user));
        let mut run = Run::new(argv, files.effects());
        if self.create_home.0 {
            run.effects.push(Effect::Folder { path: home });
        }
        run.undo = Some(["userdel", "--", name].map(String::from).to_vec());
        plan.push(Op::Run(run), diffs);
        Ok(())
    }

    fn plan_change(&self, host: &dyn Host, plan: &mut Plan, mut files: Files, old: &Entry, local: bool) -> Result<()> {
        let name = &self.name;
        let mut new = old.clone();
        let mut argv = vec!["usermod".to_string()];
        let mut undo = argv.clone();
        let mut diffs = Vec::new();
        let mut differs = |what: &str, before: String, after: String| {
            diffs.push(Diff::changed("user", format!("{name}: {what}"), before, after));
        };
        if let Some(uid) = self.uid.filter(|uid| *uid != old.uid) {
            argv.extend(["-u".into(), uid.to_string()]);
            undo.extend(["-u".into(), old.uid.to_string()]);
            differs("uid", old.uid.to_string(), uid.to_string());
            new.uid = uid;
        }
        if let Some(gid) = self.group_number(host)?.filter(|gid| *gid != old.gid) {
            argv.extend(["-g".into(), gid.to_string()]);
            undo.extend(["-g".into(), old.gid.to_string()]);
            differs("gid", old.gid.to_string(), gid.to_string());
            new.gid = gid;
        }
        if let Some(comment) = self.comment.as_ref().filter(|comment| **comment != old.comment) {
            argv.extend(["-c".into(), comment.clone()]);
            undo.extend(["-c".into(), old.comment.clone()]);
            differs("comment", old.comment.clone(), comment.clone());
            new.comment.clone_from(comment);
        }
        if let Some(home) = self.home.as_ref().filter(|home| **home != old.home) {
            argv.extend(["-d".into(), home.clone()]);
            undo.extend(["-d".into(), old.home.clone()]);
            if self.move_home.0 {
                argv.push("-m".into());
                undo.push("-m".into());
            }
            differs("home", old.home.clone(), home.clone());
            new.home.clone_from(home);
        }
        if let Some(shell) = self.shell.as_ref().filter(|shell| **shell != old.shell) {
            argv.extend(["-s".into(), shell.clone()]);
            undo.extend(["-s".into(), old.shell.clone()]);
            differs("shell", old.shell.clone(), shell.clone());
            new.shell.clone_from(shell);
        }
        let now = files.groups_of(name);
        if let Some(wanted) = self.wanted_groups(host, &now)? {
            // The primary group needs no line of its own; whoever lists it among the others means no change.
            let primary = files.groups().into_iter().find(|group| group.gid == new.gid).map(|group| group.name);
            let trim = |list: &[String]| -> Vec<String> {
                list.iter().filter(|group| Some(*group) != primary.as_ref()).cloned().collect()
            };
            if trim(&wanted) != trim(&now) {
                argv.extend(["-G".into(), wanted.join(",")]);
                undo.extend(["-G".into(), now.join(",")]);
                differs("groups", now.join(", "), wanted.join(", "));
                files.set_groups(name, &wanted);
            }
        }
        if diffs.is_empty() {
            return Ok(());
        }
        if !local {
            return Err(not_local(name));
        }
        argv.extend(["--".into(), name.clone()]);
        undo.extend(["--".into(), name.clone()]);
        files.passwd = replace_line(&files.passwd, name, Some(&line_of(&new)));
        let mut run = Run::new(argv, files.effects());
        run.undo = Some(undo);
        if self.move_home.0 && new.home != old.home {
            run.effects.push(Effect::Gone { path: old.home.clone() });
            run.effects.push(Effect::Folder { path: new.home });
        }
        plan.push(Op::Run(run), diffs);
        Ok(())
    }

    /// The hash goes to chpasswd(8) on its standard input: an argument could be seen by everybody on the machine.
    fn plan_password(&self, host: &dyn Host, plan: &mut Plan, is_new: bool) -> Result<()> {
        let Some(hash) = &self.password else { return Ok(()) };
        let text = host.read_text("/etc/shadow")?.unwrap_or_default();
        let now = text.lines().find_map(|line| {
            let mut fields = line.split(':');
            (fields.next() == Some(&self.name)).then(|| fields.next().unwrap_or("").to_string())
        });
        if now.as_ref() == Some(hash) || (!is_new && self.update_password == UpdatePassword::OnCreate) {
            return Ok(());
        }
        let line = match text.lines().find(|line| line.split(':').next() == Some(&self.name)) {
            Some(line) => {
                let rest: Vec<&str> = line.splitn(3, ':').collect();
                format!("{}:{hash}:{}", self.name, rest.get(2).copied().unwrap_or(""))
            }
            None => format!("{}:{hash}::0:99999:7:::", self.name),
        };
        let after = if now.is_some() { replace_line(&text, &self.name, Some(&line)) } else { with_line(&text, &line) };
        let effect = Effect::File { path: "/etc/shadow".into(), content: Some(after), mode: Some(0o600) };
        let mut run = Run::new(["chpasswd", "-e"], vec![effect]);
        run.stdin = Some(format!("{}:{hash}\n", self.name));
        let path = format!("{}: password", self.name);
        let diff = match now {
            Some(now) if !matches!(now.as_str(), "" | "!" | "!!" | "*") => {
                Diff::changed("user", path, "set", "set anew")
            }
            _ => Diff::added("user", path, "set"),
        };
        plan.push(Op::Run(run), vec![diff]);
        Ok(())
    }

    fn plan_removal(&self, host: &dyn Host, plan: &mut Plan, mut files: Files, user: &Entry) -> Result<()> {
        let name = &self.name;
        if user.uid == 0 {
            return Err(Error::refused(format!("{name} is the administrator, without whom nothing works")));
        }
        files.set_groups(name, &[]);
        let own = files.groups().into_iter().find(|group| group.name == *name);
        let others = files.passwd.lines().filter_map(Entry::parse).any(|u| u.gid == user.gid && u.name != *name);
        if own.is_some_and(|group| group.gid == user.gid && group.members.is_empty())
            && !others
            && login_flag(host, "USERGROUPS_ENAB", true)?
        {
            files.group = replace_line(&files.group, name, None);
        }
        files.passwd = replace_line(&files.passwd, name, None);
        let mut argv = vec!["userdel"];
        let mut diffs = vec![Diff::removed("user", name, format!("uid {}", user.uid))];
        if self.remove.0 {
            argv.push("-r");
            if host.exists(&user.home)? {
                diffs.push(Diff::removed("folder", &user.home, "with all that is in it"));
            }
        }
        argv.extend(["--", name]);
        let mut run = Run::new(argv, files.effects());
        // userdel(8): 12 is a home that could not be removed, such as one that was not there.
        run.ok_codes = if self.remove.0 { vec![0, 12] } else { vec![0] };
        if self.remove.0 {
            run.effects.push(Effect::Gone { path: user.home.clone() });
        }
        plan.push(Op::Run(run), diffs);
        Ok(())
    }
}

impl Module for User {
    const NAME: &'static str = "user";
    const SUMMARY: &'static str = "Make, change or remove a user's account";
    const SECRET: &'static [&'static str] = &["password"];

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        self.check()?;
        let mut plan = Plan::nothing();
        let files = Files {
            passwd: host.read_text("/etc/passwd")?.unwrap_or_default(),
            group: host.read_text("/etc/group")?.unwrap_or_default(),
        };
        let local = files.passwd.lines().filter_map(Entry::parse).find(|user| user.name == self.name);
        let is_local = local.is_some();
        let found = match local {
            Some(user) => Some(user),
            None => host.user(&self.name)?,
        };
        match (self.state, found) {
            (State::Absent, None) => {}
            (State::Absent, Some(_)) if !is_local => return Err(not_local(&self.name)),
            (State::Absent, Some(user)) => self.plan_removal(host, &mut plan, files, &user)?,
            (State::Present, None) => {
                self.plan_new(host, &mut plan, files)?;
                self.plan_password(host, &mut plan, true)?;
            }
            (State::Present, Some(user)) => {
                plan.set("uid", self.uid.unwrap_or(user.uid));
                plan.set("home", self.home.clone().unwrap_or_else(|| user.home.clone()));
                self.plan_change(host, &mut plan, files, &user, is_local)?;
                self.plan_password(host, &mut plan, false)?;
            }
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::change::Op;
    use crate::host::Host;
    use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};

    fn debian() -> Machine {
        machine(&[
            ("/etc/os-release", "ID=debian\nVERSION_ID=12\n"),
            ("/etc/passwd", "root:x:0:0:root:/root:/bin/bash\nann:x:1000:1000:Ann:/home/ann:/bin/bash\n"),
            ("/etc/group", "root:x:0:\nkvm:x:104:\nlibvirt:x:105:ann\nann:x:1000:\n"),
            ("/etc/shadow", "root:*:19000:0:99999:7:::\nann:$6$old$hash:19000:0:99999:7:::\n"),
            ("/home/ann/", ""),
        ])
    }

    #[test]
    fn a_new_user_gets_what_useradd_gives() {
        let machine = debian();
        let parameters = json!({"name": "vm", "groups": ["kvm", "libvirt"], "shell": "/bin/bash", "comment": "Guests"});
        let done = apply(&machine, "user", parameters).unwrap();
        assert_eq!(
            shown(&done),
            "user vm\n+ present\nuser vm: groups\n+ kvm, libvirt\nuser vm: comment\n+ Guests\nuser vm: shell\n+ /bin/bash\n"
        );
        let user = machine.user("vm").unwrap().unwrap();
        assert_eq!((user.uid, user.gid, user.home.as_str()), (1001, 1001, "/home/vm"));
        assert_eq!(machine.group("libvirt").unwrap().unwrap().members, ["ann", "vm"]);
        assert!(machine.exists("/home/vm").unwrap());
    }

    #[test]
    fn only_what_differs_is_changed() {
        let machine = debian();
        assert!(apply(&machine, "user", json!({"name": "ann", "groups": "libvirt", "uid": 1000})).unwrap().is_empty());
        let done = apply(&machine, "user", json!({"name": "ann", "groups": "kvm", "append": true})).unwrap();
        assert_eq!(shown(&done), "user ann: groups\nlibvirt → kvm, libvirt\n");
        let done = apply(&machine, "user", json!({"name": "ann", "groups": [], "home": "/srv/ann"})).unwrap();
        let Op::Run(run) = &done[0].op else { panic!() };
        assert_eq!(run.argv, ["usermod", "-d", "/srv/ann", "-G", "", "--", "ann"]);
        assert_eq!(machine.user("ann").unwrap().unwrap().home, "/srv/ann");
    }

    #[test]
    fn a_password_is_a_hash_and_never_shown() {
        let machine = debian();
        let done = apply(&machine, "user", json!({"name": "ann", "password": "$6$new$secret"})).unwrap();
        assert_eq!(shown(&done), "user ann: password\nset → set anew\n");
        let Op::Run(run) = &done[0].op else { panic!() };
        assert_eq!((run.argv.join(" ").as_str(), run.stdin.as_deref()), ("chpasswd -e", Some("ann:$6$new$secret\n")));
        let parameters = json!({"name": "ann", "password": "$6$other$x", "update_password": "on_create"});
        assert!(apply(&machine, "user", parameters).unwrap().is_empty());
        assert_eq!(apply(&machine, "user", json!({"name": "vm", "password": "!"})).unwrap().len(), 2);
        let error = plan(&machine, "user", json!({"name": "ann", "password": "hunter2"})).unwrap_err();
        assert!(!error.to_string().contains("hunter2") && error.to_string().contains("openssl passwd"), "{error}");
    }

    #[test]
    fn removed_with_the_own_group() {
        let machine = debian();
        let done = apply(&machine, "user", json!({"name": "ann", "state": "absent", "remove": true})).unwrap();
        assert_eq!(shown(&done), "user ann\n- uid 1000\nfolder /home/ann\n- with all that is in it\n");
        assert!(machine.group("ann").unwrap().is_none());
        assert!(machine.group("libvirt").unwrap().unwrap().members.is_empty());
        assert!(!machine.exists("/home/ann").unwrap());
    }

    #[test]
    fn nonsense_and_harm_are_refused() {
        let machine = debian();
        for parameters in [
            json!({"name": "root", "state": "absent"}),
            json!({"name": "a:b"}),
            json!({"name": "-x"}),
            json!({"name": "x", "uid": 1000}),
            json!({"name": "x", "groups": "nobody-has-it"}),
            json!({"name": "x", "group": "nobody-has-it"}),
            json!({"name": "x", "home": "relative"}),
            json!({"name": "x", "comment": "a\nroot2:x:0:0::/:"}),
        ] {
            assert!(plan(&machine, "user", parameters.clone()).is_err(), "{parameters}");
        }
    }
}
