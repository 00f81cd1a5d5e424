//! systemd units: asked of the running manager, or read from the unit files where none runs (in a chroot).

use crate::host::{FileKind, Host, Result, Stat, Unit};

/// The unit's name with its suffix.
pub fn full_name(name: &str) -> String {
    const SUFFIXES: [&str; 11] =
        ["service", "socket", "target", "timer", "path", "mount", "automount", "swap", "slice", "scope", "device"];
    match name.rsplit_once('.') {
        Some((_, suffix)) if SUFFIXES.contains(&suffix) => name.to_string(),
        _ => format!("{name}.service"),
    }
}

/// As many units as one command is asked for: a slow machine must answer it in the time that a query has.
const AT_ONCE: usize = 100;

/// The state of one unit.
pub fn unit(host: &dyn Host, name: &str) -> Result<Unit> {
    if let Some(unit) = shown(host, &[name.to_string()])?.and_then(|units| units.into_iter().next()) {
        return Ok(unit);
    }
    from_files(host, name)
}

/// The states of many units, in the order of their names.
pub fn units(host: &dyn Host, names: &[String]) -> Result<Vec<Unit>> {
    let mut all = Vec::with_capacity(names.len());
    for some in names.chunks(AT_ONCE) {
        match shown(host, some)? {
            Some(units) => all.extend(units),
            // A single name that systemd takes for none spoils the answer for all of them.
            None => {
                for name in some {
                    all.push(unit(host, name)?);
                }
            }
        }
    }
    Ok(all)
}

/// What the running manager says of them; `None` where none runs or it did not answer for each.
fn shown(host: &dyn Host, names: &[String]) -> Result<Option<Vec<Unit>>> {
    // sd_booted(3): systemd is the running init where this folder is.
    if names.is_empty() || !host.exists("/run/systemd/system")? {
        return Ok(None);
    }
    let mut argv = vec!["systemctl", "show", "-p", "LoadState,UnitFileState,ActiveState", "--"];
    argv.extend(names.iter().map(String::as_str));
    let Some(output) = host.query(&argv)?.filter(|output| output.code == 0) else { return Ok(None) };
    // systemctl(1), `show`: one block for each unit, in the order asked for, an empty line between two.
    let units: Vec<Unit> = output.stdout.trim().split("\n\n").map(parse).collect();
    Ok((units.len() == names.len()).then_some(units))
}

fn parse(text: &str) -> Unit {
    let field = |key: &str| {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .find(|(k, _)| *k == key)
            .map_or("", |(_, value)| value.trim())
    };
    let load = field("LoadState");
    let file = field("UnitFileState");
    Unit {
        exists: !matches!(load, "not-found" | ""),
        enabled: match (load, file) {
            ("masked", "") => "masked".to_string(),
            _ => file.to_string(),
        },
        active: matches!(field("ActiveState"), "active" | "reloading" | "activating"),
    }
}

/// systemd.unit(5), "Unit File Load Path": the first that has the unit wins.
const PLACES: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// What `systemctl is-enabled` answers without a running manager, from unit files and the links below them.
pub fn from_files(host: &dyn Host, name: &str) -> Result<Unit> {
    // An instance (`getty@tty1.service`) is made from its template.
    let template = match name.split_once('@') {
        Some((prefix, rest)) => rest.rsplit_once('.').map(|(_, suffix)| format!("{prefix}@.{suffix}")),
        None => None,
    };
    let mut file = None;
    'search: for candidate in [Some(name.to_string()), template].into_iter().flatten() {
        for place in PLACES {
            let path = format!("{place}/{candidate}");
            if host.lstat(&path)?.is_some() {
                file = Some(path);
                break 'search;
            }
        }
    }
    let Some(file) = file else { return Ok(Unit::default()) };
    if host.read_link(&file)?.as_deref() == Some("/dev/null") {
        return Ok(Unit { exists: true, enabled: "masked".into(), active: false });
    }
    let text = host.read(&file)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let enabled = if is_linked(host, "/etc/systemd/system", name, &file)? {
        "enabled"
    } else if is_linked(host, "/run/systemd/system", name, &file)? {
        "enabled-runtime"
    } else if text.lines().any(|line| line.trim() == "[Install]") {
        "disabled"
    } else {
        "static"
    };
    Ok(Unit { exists: true, enabled: enabled.into(), active: false })
}

/// Is there a `.wants` or `.requires` link, or an alias, that enables this unit?
fn is_linked(host: &dyn Host, place: &str, name: &str, file: &str) -> Result<bool> {
    let base = |path: &str| path.rsplit('/').next().unwrap_or("").to_string();
    for entry in host.list(place)? {
        let path = format!("{place}/{entry}");
        match host.lstat(&path)? {
            Some(Stat { kind: FileKind::Folder, .. })
                if (entry.ends_with(".wants") || entry.ends_with(".requires"))
                    && host.lstat(&format!("{path}/{name}"))?.is_some() =>
            {
                return Ok(true);
            }
            Some(Stat { kind: FileKind::Link, .. }) if entry != name && path != file => {
                let target = host.read_link(&path)?.unwrap_or_default();
                if base(&target) == name {
                    return Ok(true);
                }
            }
            _ => {}
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::overlay::testing::machine;

    #[test]
    fn reads_what_systemctl_shows() {
        let unit = parse("LoadState=loaded\nUnitFileState=enabled\nActiveState=active\n");
        assert_eq!(unit, Unit { exists: true, enabled: "enabled".into(), active: true });
        assert!(!parse("LoadState=not-found\nUnitFileState=\nActiveState=inactive\n").exists);
        assert_eq!(parse("LoadState=masked\nUnitFileState=masked\nActiveState=inactive\n").enabled, "masked");
    }

    #[test]
    fn unit_files_tell_without_a_manager() {
        let host = machine(&[
            ("/usr/lib/systemd/system/a.service", "[Unit]\n[Install]\nWantedBy=multi-user.target\n"),
            ("/usr/lib/systemd/system/b.service", "[Unit]\n"),
            ("/usr/lib/systemd/system/c.service", "[Install]\n"),
            ("/usr/lib/systemd/system/d.service", "[Install]\nAlias=dbus-d.service\n"),
            ("/usr/lib/systemd/system/getty@.service", "[Install]\n"),
            ("/etc/systemd/system/multi-user.target.wants/a.service", "-> /usr/lib/systemd/system/a.service"),
            ("/etc/systemd/system/getty.target.wants/getty@tty1.service", "-> /usr/lib/systemd/system/getty@.service"),
            ("/etc/systemd/system/m.service", "-> /dev/null"),
            ("/etc/systemd/system/dbus-d.service", "-> /usr/lib/systemd/system/d.service"),
        ]);
        let state = |name: &str| from_files(&host, name).unwrap().enabled;
        assert_eq!(state("a.service"), "enabled");
        assert_eq!(state("b.service"), "static");
        assert_eq!(state("c.service"), "disabled");
        assert_eq!(state("d.service"), "enabled");
        assert_eq!(state("m.service"), "masked");
        assert_eq!(state("getty@tty1.service"), "enabled");
        assert_eq!(state("getty@tty2.service"), "disabled");
        assert!(!from_files(&host, "none.service").unwrap().exists);
    }

    #[test]
    fn a_dot_in_a_name_is_not_always_a_suffix() {
        assert_eq!(full_name("sshd"), "sshd.service");
        assert_eq!(full_name("virtqemud.socket"), "virtqemud.socket");
        assert_eq!(full_name("openvpn@a.b"), "openvpn@a.b.service");
    }
}
