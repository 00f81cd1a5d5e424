//! Can QEMU reach a file? Each folder on the way is looked at with the eyes of the user that QEMU runs as (qemu.conf(5):
//! `user`, `group`), as path_resolution(7) does: its owner, its groups, an access list. libvirt gives QEMU the file itself
//! (`dynamic_ownership`, and a label where SELinux enforces), never the folders above it.

use std::collections::{BTreeMap, BTreeSet};

use super::known;
use crate::host::{Family, FileKind, Host, Result, Stat};
use crate::modules::libvirt::qemu_conf::{self, Value};
use crate::modules::libvirt::xml::Element;

/// What is known of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    /// Is something there?
    pub exists: bool,
    /// The first folder on the way that QEMU's user can't enter, or the file itself where libvirt leaves it as it is; and
    /// why.
    pub blocked: Option<(String, String)>,
    /// The first folder on the way whose SELinux type guests may not enter, where SELinux enforces; and that type.
    pub label: Option<(String, String)>,
}

/// Who QEMU is.
struct Qemu {
    name: String,
    uid: u32,
    gids: BTreeSet<u32>,
    /// Does libvirt give it the files?
    given: bool,
}

/// Types of folders that the policy lets no guest enter: people's homes, and what has no type of its own.
const CLOSED: [&str; 5] = ["admin_home_t", "user_home_dir_t", "user_home_t", "default_t", "unlabeled_t"];

/// Files that a guest names, and whether it also writes them.
pub fn named(domain: &Element) -> Vec<String> {
    let mut paths: Vec<String> = Vec::new();
    let mut add = |path: Option<&str>| {
        if let Some(path) = path.filter(|path| path.starts_with('/'))
            && !paths.iter().any(|known| known == path)
        {
            paths.push(path.to_string());
        }
    };
    for way in [["os", "loader"], ["os", "kernel"], ["os", "initrd"], ["os", "dtb"]] {
        add(domain.text_at(&way).as_deref());
    }
    add(domain.at(&["os", "nvram"]).and_then(|nvram| nvram.attribute("template")));
    for device in domain.get("devices").into_iter().flat_map(Element::elements) {
        let source = device.get("source");
        let of = |name: &str| source.and_then(|source| source.attribute(name));
        match device.name.as_str() {
            "emulator" => add(Some(&device.text())),
            "disk" => {
                add(of("file"));
                add(of("dev"));
            }
            "input" => {
                add(of("dev"));
                add(of("evdev"));
            }
            "hostdev" | "interface" => add(device.get("rom").and_then(|rom| rom.attribute("file"))),
            "filesystem" => add(of("dir")),
            _ => {}
        }
    }
    paths
}

/// Looks at every path that the guest names.
pub fn read(host: &dyn Host, domain: &Element, paths: &mut BTreeMap<String, Reach>) {
    let named = named(domain);
    if named.is_empty() {
        return;
    }
    let qemu = known(qemu(host)).flatten();
    let enforces = known(host.read_line("/sys/fs/selinux/enforce")).flatten().is_some_and(|line| line == "1");
    let mut folders: BTreeMap<String, Option<Stat>> = BTreeMap::new();
    for path in named {
        if let Some(reach) = known(reach(host, &path, qemu.as_ref(), enforces, &mut folders)).flatten() {
            paths.insert(path, reach);
        }
    }
    let emulator = domain.text_at(&["devices", "emulator"]).unwrap_or_default();
    if paths.get(&emulator).is_some_and(|reach| !reach.exists) && known(qemu_is_to_come(host)) == Some(true) {
        paths.remove(&emulator);
    }
}

/// Is QEMU's package there, and not one of the programs that it may bring? Then an earlier task installs it, and what it
/// brings is known when it is there.
fn qemu_is_to_come(host: &dyn Host) -> Result<bool> {
    for path in ["/usr/libexec/qemu-kvm", "/usr/bin/qemu-kvm", "/usr/bin/qemu-system-x86_64"] {
        if host.exists(path)? {
            return Ok(false);
        }
    }
    for package in ["qemu-kvm", "qemu-system-x86", "qemu-desktop", "qemu-base", "qemu-full"] {
        if host.package(package)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `None` where the machine knows nothing of that corner: not even the first folder of the way.
fn reach(
    host: &dyn Host,
    path: &str,
    qemu: Option<&Qemu>,
    enforces: bool,
    folders: &mut BTreeMap<String, Option<Stat>>,
) -> Result<Option<Reach>> {
    let path = host.real_path(path)?;
    let mut reach = Reach::default();
    let ends: Vec<usize> = path.char_indices().filter(|(at, c)| *c == '/' && *at > 0).map(|(at, _)| at).collect();
    for (depth, end) in ends.into_iter().enumerate() {
        let folder = path.get(..end).unwrap_or_default();
        let stat = match folders.get(folder) {
            Some(stat) => stat.clone(),
            None => {
                let stat = host.raw_lstat(folder)?;
                folders.insert(folder.to_string(), stat.clone());
                stat
            }
        };
        let Some(stat) = stat else { return Ok((depth > 0).then_some(reach)) };
        if reach.blocked.is_none()
            && let Some(qemu) = qemu
            && !may(host, folder, &stat, qemu, 1)?
        {
            reach.blocked = Some((folder.to_string(), why(&stat, qemu)));
        }
        if enforces && reach.label.is_none() {
            reach.label =
                label(host, folder)?.filter(|kind| CLOSED.contains(&kind.as_str())).map(|k| (folder.to_string(), k));
        }
    }
    let stat = host.raw_lstat(&path)?;
    reach.exists = stat.is_some();
    if let (Some(stat), Some(qemu)) = (&stat, qemu)
        && stat.kind == FileKind::File
        && !qemu.given
        && reach.blocked.is_none()
        && !may(host, &path, stat, qemu, 4)?
    {
        reach.blocked = Some((path, why(stat, qemu)));
    }
    Ok(Some(reach))
}

fn why(stat: &Stat, qemu: &Qemu) -> String {
    format!("QEMU's user {} may not: mode {:04o}, owner {}, group {}", qemu.name, stat.mode, stat.uid, stat.gid)
}

/// May QEMU's user enter (1) or read (4) it? acl(5): the owner first, then named users, then groups, then the others.
fn may(host: &dyn Host, path: &str, stat: &Stat, qemu: &Qemu, right: u32) -> Result<bool> {
    if stat.uid == qemu.uid {
        return Ok(stat.mode >> 6 & right != 0);
    }
    let acl = host.raw_xattrs(path)?.into_iter().find(|(name, _)| name == "system.posix_acl_access");
    if let Some(entries) = acl.and_then(|(_, value)| entries(&value)) {
        let mask = entries.iter().find(|entry| entry.tag == Tag::Mask).map_or(7, |entry| entry.rights);
        let grants = |entry: &Entry| entry.rights & mask & right != 0;
        if let Some(entry) = entries.iter().find(|entry| entry.tag == Tag::User && entry.id == qemu.uid) {
            return Ok(grants(entry));
        }
        let mut groups = entries.iter().filter(|entry| match entry.tag {
            Tag::OwnGroup => qemu.gids.contains(&stat.gid),
            Tag::Group => qemu.gids.contains(&entry.id),
            _ => false,
        });
        let first = groups.next();
        if let Some(first) = first {
            return Ok(grants(first) || groups.any(grants));
        }
        return Ok(stat.mode & right != 0);
    }
    let rights = if qemu.gids.contains(&stat.gid) { stat.mode >> 3 } else { stat.mode };
    Ok(rights & right != 0)
}

/// Whom an entry of an access list is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tag {
    User,
    OwnGroup,
    Group,
    Mask,
    Other,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    tag: Tag,
    rights: u32,
    id: u32,
}

/// The kernel's form of an access list (linux/posix_acl_xattr.h): a version, then tag, rights and number of each entry, all
/// little-endian.
fn entries(value: &[u8]) -> Option<Vec<Entry>> {
    let (version, rest) = value.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != 2 {
        return None;
    }
    let mut entries = Vec::new();
    for entry in rest.chunks_exact(8) {
        let [a, b, c, d, e, f, g, h] = *<&[u8; 8]>::try_from(entry).ok()?;
        let tag = match u16::from_le_bytes([a, b]) {
            0x02 => Tag::User,
            0x04 => Tag::OwnGroup,
            0x08 => Tag::Group,
            0x10 => Tag::Mask,
            _ => Tag::Other,
        };
        entries.push(Entry { tag, rights: u16::from_le_bytes([c, d]).into(), id: u32::from_le_bytes([e, f, g, h]) });
    }
    Some(entries)
}

/// The type in a label such as `system_u:object_r:admin_home_t:s0`.
fn label(host: &dyn Host, path: &str) -> Result<Option<String>> {
    let label = host.raw_xattrs(path)?.into_iter().find(|(name, _)| name == "security.selinux");
    Ok(label.and_then(|(_, value)| {
        let text = String::from_utf8_lossy(&value).trim_end_matches('\0').to_string();
        text.split(':').nth(2).map(str::to_string)
    }))
}

/// The user that qemu.conf names, or the distribution's; `None` where it is not there (yet).
fn qemu(host: &dyn Host) -> Result<Option<Qemu>> {
    let conf = host.read_text("/etc/libvirt/qemu.conf")?.unwrap_or_default();
    let text = |key: &str| match qemu_conf::get(&conf, key) {
        Some(Value::Text(text)) if !text.is_empty() => Some(text),
        Some(Value::Number(number)) => Some(number.to_string()),
        _ => None,
    };
    let default = match host.os()?.family {
        Family::Debian | Family::Ubuntu => "libvirt-qemu",
        Family::Arch if host.user("libvirt-qemu")?.is_some() => "libvirt-qemu",
        Family::Arch => "nobody",
        Family::El | Family::Fedora | Family::Suse => "qemu",
    };
    let name = text("user").unwrap_or_else(|| default.to_string());
    // `+0` is a number, never a name.
    let number = name.strip_prefix('+').unwrap_or(&name).parse::<u32>().ok();
    let account = if number.is_some() { None } else { host.user(&name)? };
    let Some(uid) = number.or(account.as_ref().map(|user| user.uid)) else { return Ok(None) };
    let mut gids: BTreeSet<u32> = account.iter().map(|user| user.gid).collect();
    if let Some(group) = text("group") {
        let number = group.strip_prefix('+').unwrap_or(&group).parse::<u32>().ok();
        gids.extend(match number {
            Some(number) => Some(number),
            None => host.group(&group)?.map(|group| group.gid),
        });
    }
    // libvirt gives QEMU all groups that its user is a member of (initgroups(3)).
    let groups = host.read_text("/etc/group")?.unwrap_or_default();
    gids.extend(
        groups
            .lines()
            .filter_map(crate::host::accounts::Group::parse)
            .filter(|group| group.members.contains(&name))
            .map(|group| group.gid),
    );
    let given = !matches!(qemu_conf::get(&conf, "dynamic_ownership"), Some(Value::Number(0)));
    Ok(Some(Qemu { name, uid, gids, given }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Effect, Op, Run};
    use crate::host::Model;
    use crate::host::model::{Attributes, predict};
    use crate::host::overlay::testing::{Machine, machine};
    use crate::modules::libvirt::xml::parse;

    fn with(mode: u32, uid: u32, conf: &str) -> Machine {
        let host = machine(&[
            ("/etc/os-release", "ID=rocky\nVERSION_ID=9.4\n"),
            ("/etc/passwd", "qemu:x:107:107::/:/sbin/nologin\n"),
            ("/etc/group", "kvm:x:36:qemu\nqemu:x:107:\n"),
            ("/etc/libvirt/qemu.conf", conf),
        ]);
        for folder in ["/srv", "/srv/img"] {
            host.put_folder(folder, Attributes { mode: 0o755, uid: 0, gid: 0 }).unwrap();
        }
        host.put_folder("/srv/img/own", Attributes { mode, uid, gid: 36 }).unwrap();
        let effect = Effect::File { path: "/srv/img/own/a.qcow2".into(), content: Some("x".into()), mode: Some(0o600) };
        predict(&host, &Op::Run(Run::new(["t"], vec![effect]))).unwrap();
        host
    }

    fn reach_of(host: &Machine, path: &str) -> Option<Reach> {
        let domain =
            parse(&format!("<domain><devices><disk><source file='{path}'/></disk></devices></domain>")).unwrap();
        let mut paths = BTreeMap::new();
        read(host, &domain, &mut paths);
        paths.remove(path)
    }

    #[test]
    fn each_folder_is_walked_as_qemus_user() {
        let file = "/srv/img/own/a.qcow2";
        for (mode, uid, conf, blocked) in [
            (0o755, 0, "", None),
            (0o711, 0, "", None),
            (0o700, 0, "", Some("/srv/img/own")),
            (0o700, 107, "", None),
            // Through the group kvm, of which qemu is a member.
            (0o710, 0, "", None),
            (0o707, 0, "", Some("/srv/img/own")),
            (0o700, 0, "user = \"root\"\n", None),
            (0o700, 0, "user = \"+0\"\n", None),
            // The file itself is only looked at where libvirt does not give it to QEMU.
            (0o755, 0, "dynamic_ownership = 0\n", Some(file)),
        ] {
            let found = reach_of(&with(mode, uid, conf), file).unwrap();
            assert!(found.exists);
            assert_eq!(found.blocked.map(|(path, _)| path).as_deref(), blocked, "{mode:o} {uid} {conf:?}");
        }
    }

    #[test]
    fn what_is_not_there_is_told_from_what_is_not_known() {
        let host = with(0o755, 0, "");
        assert_eq!(reach_of(&host, "/srv/img/none.qcow2").map(|reach| reach.exists), Some(false));
        assert_eq!(reach_of(&host, "/home/a/none.qcow2"), None);
    }

    #[test]
    fn an_emulator_that_an_earlier_task_brings_is_not_missing() {
        const EMULATOR: &str = "/usr/libexec/qemu-kvm";
        let text = format!("<domain><devices><emulator>{EMULATOR}</emulator></devices></domain>");
        let domain = parse(&text).unwrap();
        let known = |host: &Machine| {
            let mut paths = BTreeMap::new();
            read(host, &domain, &mut paths);
            paths.get(EMULATOR).map(|reach| reach.exists)
        };
        let host = machine(&[("/etc/os-release", "ID=rocky\nVERSION_ID=9.4\n"), ("/usr/libexec/x", "")]);
        assert_eq!(known(&host), Some(false));
        let effect = Effect::Package { name: "qemu-kvm".into(), version: None, present: true };
        predict(&host, &Op::Run(Run::new(["dnf"], vec![effect]))).unwrap();
        assert_eq!(known(&host), None);
        // QEMU is there, and under another path than the one that is named.
        let other = Effect::File { path: "/usr/bin/qemu-system-x86_64".into(), content: Some("x".into()), mode: None };
        predict(&host, &Op::Run(Run::new(["t"], vec![other]))).unwrap();
        assert_eq!(known(&host), Some(false));
    }

    #[test]
    fn access_lists_as_the_kernel_writes_them() {
        let mut value = vec![2, 0, 0, 0];
        for (tag, rights, id) in
            [(1u16, 7u16, u32::MAX), (2, 1, 107), (4, 0, u32::MAX), (0x10, 1, u32::MAX), (0x20, 0, u32::MAX)]
        {
            value.extend(tag.to_le_bytes());
            value.extend(rights.to_le_bytes());
            value.extend(id.to_le_bytes());
        }
        let read = entries(&value).unwrap();
        assert_eq!(read.len(), 5);
        assert!(read[1].tag == Tag::User && read[1].id == 107 && read[1].rights == 1);
        assert!(entries(&[1, 0, 0, 0]).is_none() && entries(&[2]).is_none());
    }
}
