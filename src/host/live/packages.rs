//! Installed packages: the package manager's own database, read by its own tool, once.

use std::collections::HashMap;

use super::Live;
use crate::host::version::{compare_deb, compare_rpm};
use crate::host::{Error, Family, Host, Package, Result};

/// Which database a machine has.
#[derive(Clone, Copy, PartialEq)]
enum Database {
    Rpm,
    Dpkg,
    Pacman,
}

fn database(host: &Live) -> Result<Option<Database>> {
    if let Ok(os) = host.os() {
        return Ok(Some(match os.family {
            Family::El | Family::Fedora | Family::Suse => Database::Rpm,
            Family::Debian | Family::Ubuntu => Database::Dpkg,
            Family::Arch => Database::Pacman,
        }));
    }
    // Even a distribution that this program does not know has one of these.
    for (path, database) in [
        ("/var/lib/dpkg/status", Database::Dpkg),
        ("/var/lib/pacman/local", Database::Pacman),
        ("/usr/lib/sysimage/rpm", Database::Rpm),
        ("/var/lib/rpm", Database::Rpm),
    ] {
        if host.exists(path)? {
            return Ok(Some(database));
        }
    }
    Ok(None)
}

/// All that is installed. Of a package that is there in several versions (kernels) it is the newest.
pub fn installed(host: &Live) -> Result<HashMap<String, Package>> {
    let Some(database) = database(host)? else { return Ok(HashMap::new()) };
    let argv: &[&str] = match database {
        Database::Rpm => &["rpm", "-qa", "--qf", "%{NAME}\\t%{VERSION}-%{RELEASE}\\n"],
        Database::Dpkg => &["dpkg-query", "-W", "-f", "${Package}\\t${Version}\\t${db:Status-Abbrev}\\n"],
        Database::Pacman => &["pacman", "-Q"],
    };
    let Some(output) = host.query(argv)? else { return Ok(HashMap::new()) };
    if output.code != 0 {
        let what = argv.first().copied().unwrap_or_default();
        let mut error = Error::failed(format!("can't list the installed packages: {what} ended with {}", output.code));
        error.output = Some(output);
        return Err(error);
    }
    let mut all = HashMap::new();
    for line in output.stdout.lines() {
        let Some((name, version)) = parse(database, line) else { continue };
        // rpm keeps each imported key as a package of one name, with the key's id as its version.
        let key = version.split('-').next().and_then(|id| id.get(id.len().checked_sub(8)?..)).map(str::to_lowercase);
        let key =
            key.filter(|_| database == Database::Rpm && name == "gpg-pubkey").map(|id| format!("gpg-pubkey-{id}"));
        let name = key.as_deref().unwrap_or(name);
        let newer = |old: &Package| {
            let old = old.version.as_deref().unwrap_or("");
            match database {
                Database::Dpkg => compare_deb(version, old).is_gt(),
                _ => compare_rpm(version, old).is_gt(),
            }
        };
        if all.get(name).is_none_or(newer) {
            all.insert(name.to_string(), Package { name: name.into(), version: Some(version.into()) });
        }
    }
    Ok(all)
}

/// Name and version in one line of the tool; `None` when it is not an installed package.
fn parse(database: Database, line: &str) -> Option<(&str, &str)> {
    match database {
        Database::Rpm => line.split_once('\t'),
        Database::Dpkg => {
            let (name, rest) = line.split_once('\t')?;
            let (version, status) = rest.split_once('\t')?;
            // dpkg-query(1): the second letter is the state; `i` is installed, `c` is only configuration left behind.
            (status.chars().nth(1) == Some('i')).then_some((name, version))
        }
        Database::Pacman => line.split_once(' '),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_installed_counts() {
        assert_eq!(parse(Database::Dpkg, "vim\t2:9.0\tii "), Some(("vim", "2:9.0")));
        assert_eq!(parse(Database::Dpkg, "vim\t2:9.0\thi "), Some(("vim", "2:9.0")));
        assert_eq!(parse(Database::Dpkg, "vim\t2:9.0\trc "), None);
        assert_eq!(parse(Database::Dpkg, "vim\t\tun "), None);
        assert_eq!(parse(Database::Rpm, "bash\t5.1.8-9.el9"), Some(("bash", "5.1.8-9.el9")));
        assert_eq!(parse(Database::Pacman, "linux 6.9.arch1-1"), Some(("linux", "6.9.arch1-1")));
    }
}
