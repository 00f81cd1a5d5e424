//! What the package manager knows: installed, available, depending.

use std::collections::HashMap;

use super::manager::{Manager, Options};
use super::spec::{Source, Spec};
use crate::host::version::compare_rpm;
use crate::host::{Error, Host, Package, Result};

/// What is installed of what is wanted.
pub struct Found {
    /// What is there under this name, in whatever version.
    pub package: Option<Package>,
    /// Is it as wanted?
    pub satisfied: bool,
}

/// Looks for a wanted package.
pub fn find(host: &dyn Host, manager: Manager, spec: &Spec) -> Result<Found> {
    let Some(package) = host.package(&spec.name)? else {
        let package = match (&spec.version, &spec.source) {
            (None, Source::Repository) => provider(host, manager, &spec.name)?,
            _ => None,
        };
        return Ok(Found { satisfied: package.is_some(), package });
    };
    let mut satisfied = match (&package.version, &spec.version) {
        (Some(version), _) => spec.is_satisfied_by(version),
        (None, None) => true,
        (None, Some(_)) => {
            return Err(Error::unknown(format!("the version of {}", spec.name), "an earlier task installs it"));
        }
    };
    if !satisfied && manager.is_rpm() {
        // Kernels are there in several versions, of which the host names the newest.
        if let Some(output) = host.query(&["rpm", "-q", "--qf", "%{VERSION}-%{RELEASE}\\n", "--", &spec.name])? {
            let versions: Vec<&str> = output.stdout.lines().collect();
            satisfied = output.code == 0 && versions.len() > 1 && versions.iter().any(|v| spec.is_satisfied_by(v));
        }
    }
    Ok(Found { package: Some(package), satisfied })
}

/// An installed package that stands in for this name: `vim` is vim-enhanced on Enterprise Linux, `qemu-kvm` is
/// qemu-system-x86 on Debian, and `/usr/bin/x` whatever has it.
fn provider(host: &dyn Host, manager: Manager, name: &str) -> Result<Option<Package>> {
    // kernel-ml provides `kernel`, and yet who asks for a kernel does not mean that.
    if name.starts_with("kernel") {
        return Ok(None);
    }
    match manager {
        Manager::Yum | Manager::Dnf | Manager::Zypper => {
            let argv = ["rpm", "-q", "--qf", "%{NAME}\\t%{VERSION}-%{RELEASE}\\n", "--whatprovides", "--", name];
            let Some(output) = host.query(&argv)?.filter(|output| output.code == 0) else { return Ok(None) };
            let first = output.stdout.lines().next().and_then(|line| line.split_once('\t'));
            let still = first.filter(|(name, _)| matches!(host.package(name), Ok(Some(_))));
            Ok(still.map(|(name, version)| Package { name: name.into(), version: Some(version.into()) }))
        }
        Manager::Apt => {
            let argv = ["dpkg-query", "-W", "-f", "${db:Status-Abbrev}\\t${Package}\\t${Provides}\\n"];
            let Some(output) = host.query(&argv)?.filter(|output| output.code == 0) else { return Ok(None) };
            let Some(provider) = output.stdout.lines().find_map(|line| provides(line, name)) else { return Ok(None) };
            // Where a package of this very name exists, apt installs that one.
            let real = host.query(&["apt-cache", "show", "--no-all-versions", "--", name])?;
            if real.is_some_and(|output| output.code == 0 && !output.stdout.trim().is_empty()) {
                return Ok(None);
            }
            host.package(provider)
        }
        Manager::Pacman => Ok(None),
    }
}

/// The package of a `dpkg-query` line, if it is installed and provides this name.
fn provides<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = line.split('\t');
    let (status, package, provides) = (fields.next()?, fields.next()?, fields.next()?);
    let mut names = provides.split(',').map(|one| one.trim().split([' ', ':']).next().unwrap_or(""));
    (status.chars().nth(1) == Some('i') && names.any(|one| one == name)).then_some(package)
}

/// The versions that would be installed now, as far as they can be told.
pub fn candidates(
    host: &dyn Host,
    manager: Manager,
    names: &[&str],
    options: &Options,
) -> Result<HashMap<String, String>> {
    let mut known = HashMap::new();
    let mut rest = Vec::new();
    for name in names {
        match host.available(name)? {
            Some(available) => {
                known.insert(name.to_string(), available.version);
            }
            None => rest.push(*name),
        }
    }
    if rest.is_empty() {
        return Ok(known);
    }
    let mut argv: Vec<String> = match manager {
        Manager::Dnf => {
            vec!["dnf", "-q", "repoquery", "--latest-limit=1", "--qf", "%{name}\t%{version}-%{release}\t%{arch}\n"]
        }
        Manager::Yum => vec!["yum", "-q", "--showduplicates", "list"],
        Manager::Apt => vec!["apt-cache", "policy"],
        Manager::Pacman => vec!["pacman", "-Sp", "--print-format", "%n %v"],
        Manager::Zypper => return Ok(known),
    }
    .into_iter()
    .map(String::from)
    .collect();
    if manager.has_repository_ids() {
        argv.extend(options.enablerepo.iter().map(|id| format!("--enablerepo={id}")));
        argv.extend(options.disablerepo.iter().map(|id| format!("--disablerepo={id}")));
    }
    if let (Manager::Apt, Some(release)) = (manager, options.default_release) {
        argv.extend(["-o".to_string(), format!("APT::Default-Release={release}")]);
    }
    argv.extend(rest.iter().map(|name| name.to_string()));
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    // Not to know the version is no reason to fail: a mirror may be slow, or the repository not be there yet.
    let Ok(Some(output)) = host.query(&argv) else { return Ok(known) };
    let found = match manager {
        Manager::Apt => apt_policy(&output.stdout),
        Manager::Yum => yum_list(&output.stdout),
        _ => columns(&output.stdout),
    };
    known.extend(found.into_iter().filter(|(name, _)| rest.contains(&name.as_str())));
    Ok(known)
}

/// Which of these names apt has never heard of: its lists may be from before they were. None where it can't be asked.
///
/// # Errors
/// When the machine can't be asked.
pub fn unknown_to_apt(host: &dyn Host, names: &[&str]) -> Result<Vec<String>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let Some(output) = host.query(&[&["apt-cache", "policy"], names].concat())? else { return Ok(Vec::new()) };
    // A name that other packages provide has a paragraph too.
    let knows = |name: &str| {
        output.stdout.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')))
    };
    Ok(names.iter().filter(|name| !knows(name)).map(|name| name.to_string()).collect())
}

/// Name, version and (with dnf) architecture in columns.
fn columns(text: &str) -> HashMap<String, String> {
    let mut found: HashMap<String, String> = HashMap::new();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let (Some(name), Some(version)) = (fields.next(), fields.next()) else { continue };
        // On a 64-bit machine the 32-bit twin is not what a plain name installs.
        let twin = fields.next().is_some_and(|arch| matches!(arch, "i686" | "src" | "nosrc"));
        if !twin || !found.contains_key(name) {
            found.insert(name.into(), version.into());
        }
    }
    found
}

/// `yum list` breaks long lines, so it is read by threes of words: name.arch, version, repository.
fn yum_list(text: &str) -> HashMap<String, String> {
    let words: Vec<&str> =
        text.lines().filter(|line| !line.trim_end().ends_with(" Packages")).flat_map(str::split_whitespace).collect();
    let mut found: HashMap<String, String> = HashMap::new();
    for three in words.chunks_exact(3) {
        let [name, version, _] = three else { continue };
        let Some((name, arch)) = name.rsplit_once('.') else { continue };
        let newer = found.get(name).is_none_or(|old| compare_rpm(version, old).is_gt());
        if newer && arch != "i686" {
            found.insert(name.into(), version.split_once(':').map_or(*version, |(_, rest)| rest).into());
        }
    }
    found
}

fn apt_policy(text: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut current = None;
    for line in text.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|line| !line.starts_with(' ')) {
            current = Some(name);
        } else if let (Some(name), Some(version)) = (current, line.trim().strip_prefix("Candidate: "))
            && version != "(none)"
        {
            found.insert(name.to_string(), version.to_string());
        }
    }
    found
}

/// Installed packages that can't stay without these, with their versions: they go too, and are shown.
pub fn dependants(host: &dyn Host, manager: Manager, names: &[String]) -> Result<Vec<(String, Option<String>)>> {
    match manager {
        Manager::Apt => {
            let mut argv = vec!["apt-get", "-s", "-q", "remove"];
            argv.extend(names.iter().map(String::as_str));
            let Some(output) = host.query(&argv)? else { return Ok(Vec::new()) };
            Ok(output.stdout.lines().filter_map(apt_removal).collect())
        }
        Manager::Yum | Manager::Dnf | Manager::Zypper => {
            let mut all: Vec<String> = names.to_vec();
            let mut more: Vec<(String, Option<String>)> = Vec::new();
            loop {
                let mut argv = vec!["rpm", "-e", "--test", "--"];
                argv.extend(all.iter().map(String::as_str));
                let Some(output) = host.query(&argv)?.filter(|output| output.code != 0) else { return Ok(more) };
                let found: Vec<(String, Option<String>)> =
                    output.stderr.lines().filter_map(rpm_dependant).filter(|(name, _)| !all.contains(name)).collect();
                if found.is_empty() {
                    return Ok(more);
                }
                for (name, version) in found {
                    if !all.contains(&name) {
                        all.push(name.clone());
                        more.push((name, version));
                    }
                }
            }
        }
        Manager::Pacman => Ok(Vec::new()),
    }
}

/// `Remv NAME [VERSION] …`, or `Purg` with a purge.
fn apt_removal(line: &str) -> Option<(String, Option<String>)> {
    let rest = line.strip_prefix("Remv ").or_else(|| line.strip_prefix("Purg "))?;
    let mut words = rest.split_whitespace();
    let name = words.next()?.split(':').next()?.to_string();
    Some((name, words.next().map(|version| version.trim_matches(['[', ']']).to_string())))
}

/// `<tab>CAPABILITY is needed by (installed) NAME-VERSION-RELEASE.ARCH`
fn rpm_dependant(line: &str) -> Option<(String, Option<String>)> {
    let nevra = line.split_once("is needed by (installed) ")?.1.trim();
    let nevr = nevra.rsplit_once('.').map_or(nevra, |(nevr, _)| nevr);
    let mut parts = nevr.rsplitn(3, '-');
    let (release, version, name) = (parts.next()?, parts.next()?, parts.next()?);
    let version = version.split_once(':').map_or(version, |(_, rest)| rest);
    Some((name.to_string(), Some(format!("{version}-{release}"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_tools_print() {
        let text = "Available Packages\nkernel-ml.x86_64      6.9.6-1.el7.elrepo    elrepo-kernel\n\
                    a-very-long-name-of-a-package-indeed.noarch\n                1:2-3    base\n\
                    kernel-ml.x86_64      6.9.7-1.el7.elrepo    elrepo-kernel\n";
        let found = yum_list(text);
        assert_eq!(found.get("kernel-ml").map(String::as_str), Some("6.9.7-1.el7.elrepo"));
        assert_eq!(found.get("a-very-long-name-of-a-package-indeed").map(String::as_str), Some("2-3"));
        let text = "vim:\n  Installed: (none)\n  Candidate: 2:9.0-1\n  Version table:\n     2:9.0-1 500\nnone:\n  Candidate: (none)\n";
        assert_eq!(apt_policy(text), HashMap::from([("vim".into(), "2:9.0-1".into())]));
        let text = "glibc\t2.34-1\ti686\n\nglibc\t2.34-2\tx86_64\n\nfoo\t1-1\tnoarch\n";
        assert_eq!(columns(text), HashMap::from([("glibc".into(), "2.34-2".into()), ("foo".into(), "1-1".into())]));
    }

    #[test]
    fn what_goes_too_is_named() {
        assert_eq!(apt_removal("Remv libx:amd64 [1.2-3]"), Some(("libx".into(), Some("1.2-3".into()))));
        assert_eq!(apt_removal("Reading package lists..."), None);
        let line = "\tlibx.so.1()(64bit) is needed by (installed) foo-bar-1.2-3.el9.x86_64";
        assert_eq!(rpm_dependant(line), Some(("foo-bar".into(), Some("1.2-3.el9".into()))));
    }

    #[test]
    fn a_provided_name_is_a_whole_name() {
        let line = "ii \tqemu-system-x86\tqemu-kvm, qemu-system-i386 (= 1:7), x";
        assert_eq!(provides(line, "qemu-kvm"), Some("qemu-system-x86"));
        assert_eq!(provides(line, "qemu-system-i386"), Some("qemu-system-x86"));
        assert_eq!(provides(line, "qemu"), None);
        assert_eq!(provides("rc \ta\tb", "b"), None);
    }
}
