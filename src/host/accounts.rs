//! Users and groups, passwd(5) and group(5).

use serde::{Deserialize, Serialize};

use super::{Error, Host, Result};

/// A line of `/etc/passwd`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Login name.
    pub name: String,
    /// Number.
    pub uid: u32,
    /// Number of the primary group.
    pub gid: u32,
    /// Comment (GECOS).
    pub comment: String,
    /// Home folder.
    pub home: String,
    /// Login shell.
    pub shell: String,
}

/// A line of `/etc/group`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Number.
    pub gid: u32,
    /// Members besides those whose primary group it is.
    pub members: Vec<String>,
}

impl User {
    /// Reads one line; `None` when it is not an account.
    pub fn parse(line: &str) -> Option<User> {
        let mut fields = line.split(':');
        let mut next = || fields.next().map(str::to_string);
        let (name, _password) = (next()?, next()?);
        Some(User {
            name,
            uid: next()?.parse().ok()?,
            gid: next()?.parse().ok()?,
            comment: next()?,
            home: next()?,
            shell: next().unwrap_or_default(),
        })
    }
}

impl Group {
    /// Reads one line; `None` when it is not a group.
    pub fn parse(line: &str) -> Option<Group> {
        let mut fields = line.split(':');
        let name = fields.next()?.to_string();
        let gid = fields.nth(1)?.parse().ok()?;
        let members = fields.next().unwrap_or("").split(',').filter(|m| !m.is_empty()).map(str::to_string).collect();
        Some(Group { name, gid, members })
    }
}

/// A user by name in `/etc/passwd`.
pub fn user_in_file<H: Host + ?Sized>(host: &H, name: &str) -> Result<Option<User>> {
    let text = host.read_text("/etc/passwd")?.unwrap_or_default();
    Ok(text.lines().filter_map(User::parse).find(|user| user.name == name))
}

/// A group by name in `/etc/group`.
pub fn group_in_file<H: Host + ?Sized>(host: &H, name: &str) -> Result<Option<Group>> {
    let text = host.read_text("/etc/group")?.unwrap_or_default();
    Ok(text.lines().filter_map(Group::parse).find(|group| group.name == name))
}

/// The number of an owner given by name or number.
pub fn uid<H: Host + ?Sized>(host: &H, owner: &str) -> Result<u32> {
    if let Ok(uid) = owner.parse() {
        return Ok(uid);
    }
    if owner == "root" {
        return Ok(0);
    }
    host.user(owner)?
        .map(|user| user.uid)
        .ok_or_else(|| Error::failed(format!("there is no user `{owner}` on this machine")))
}

/// The number of a group given by name or number.
pub fn gid<H: Host + ?Sized>(host: &H, group: &str) -> Result<u32> {
    if let Ok(gid) = group.parse() {
        return Ok(gid);
    }
    if group == "root" {
        return Ok(0);
    }
    host.group(group)?
        .map(|group| group.gid)
        .ok_or_else(|| Error::failed(format!("there is no group `{group}` on this machine")))
}
