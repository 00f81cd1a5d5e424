//! What useradd and groupadd do, foreseen: numbers, homes, lines of the files.

use crate::host::{Host, Result};

/// What useradd(8) takes for a name, widened to what directory services have.
pub fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 32
        && !name.starts_with(['-', '+', '~'])
        && !name.chars().all(|c| c.is_ascii_digit())
        && !name.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, ':' | ',' | '/' | '"' | '\''))
}

/// The text with the line of this account replaced or taken out.
pub fn replace_line(text: &str, name: &str, line: Option<&str>) -> String {
    text.split_inclusive('\n')
        .filter_map(|old| match (old.split(':').next() == Some(name), line) {
            (true, Some(line)) => Some(format!("{line}\n")),
            (true, None) => None,
            (false, _) => Some(old.to_string()),
        })
        .collect()
}

/// A setting of /etc/login.defs or /etc/default/useradd.
fn setting(host: &dyn Host, path: &str, key: &str) -> Result<Option<String>> {
    let text = host.read(path)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&text).lines().find_map(|line| {
        let (word, value) = line.trim().split_once(['=', ' ', '\t'])?;
        (word == key).then(|| value.trim().trim_matches('"').to_string())
    }))
}

/// A setting of useradd, or what shadow-utils take without one.
pub fn useradd_default(host: &dyn Host, key: &str, otherwise: &str) -> Result<String> {
    let found = setting(host, "/etc/default/useradd", key)?.filter(|value| !value.is_empty());
    Ok(found.unwrap_or_else(|| otherwise.to_string()))
}

/// Is a setting of login.defs(5) `yes`?
pub fn login_flag(host: &dyn Host, key: &str, otherwise: bool) -> Result<bool> {
    Ok(setting(host, "/etc/login.defs", key)?.map_or(otherwise, |value| value.eq_ignore_ascii_case("yes")))
}

/// The numbers that new users (`UID`) or groups (`GID`) get, login.defs(5).
pub fn id_range(host: &dyn Host, what: &str, system: bool) -> Result<(u32, u32)> {
    let (prefix, low, high) = if system { ("SYS_", 101, 999) } else { ("", 1000, 60000) };
    let number = |end: &str, otherwise: u32| -> Result<u32> {
        let key = format!("{prefix}{what}_{end}");
        Ok(setting(host, "/etc/login.defs", &key)?.and_then(|value| value.parse().ok()).unwrap_or(otherwise))
    };
    Ok((number("MIN", low)?, number("MAX", high)?))
}

/// The number that comes next: for people above the highest one in use, for the system below the lowest.
pub fn free_id(used: &[u32], (low, high): (u32, u32), system: bool) -> u32 {
    let within = used.iter().copied().filter(|id| (low..=high).contains(id));
    let next = if system {
        within.min().map_or(high, |id| id.saturating_sub(1))
    } else {
        within.max().map_or(low, |id| id + 1)
    };
    if (low..=high).contains(&next) {
        return next;
    }
    let mut all = low..=high;
    let is_free = |id: &u32| !used.contains(id);
    let found = if system { all.rev().find(is_free) } else { all.find(is_free) };
    found.unwrap_or(low)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::overlay::testing::machine;

    #[test]
    fn numbers_are_taken_as_useradd_takes_them() {
        assert_eq!(free_id(&[0, 1000, 1005, 65534], (1000, 60000), false), 1006);
        assert_eq!(free_id(&[], (1000, 60000), false), 1000);
        assert_eq!(free_id(&[999, 990], (100, 999), true), 989);
        assert_eq!(free_id(&[1000, 1002], (1000, 1002), false), 1001);
        let host = machine(&[("/etc/login.defs", "# x\nUID_MIN\t\t  500\nUID_MAX 600\nUSERGROUPS_ENAB no\n")]);
        assert_eq!(id_range(&host, "UID", false).unwrap(), (500, 600));
        assert_eq!(id_range(&host, "GID", true).unwrap(), (101, 999));
        assert!(!login_flag(&host, "USERGROUPS_ENAB", true).unwrap());
    }

    #[test]
    fn only_the_own_line_is_replaced() {
        let text = "ann:x:1\nanna:x:2\n# ann:\n";
        assert_eq!(replace_line(text, "ann", Some("ann:x:9")), "ann:x:9\nanna:x:2\n# ann:\n");
        assert_eq!(replace_line(text, "ann", None), "anna:x:2\n# ann:\n");
    }
}
