//! What a name in a package task means: a name, a name with a version, a file, a URL.

use super::manager::Manager;
use crate::host::{Error, Result};

/// One wanted package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The package's name.
    pub name: String,
    /// The version it must have; `None` when any will do. May end in `*`.
    pub version: Option<String>,
    /// Where it comes from.
    pub source: Source,
}

/// Where a package comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A repository.
    Repository,
    /// A package file on the machine.
    File(String),
    /// A package file to download, with its hash.
    Url {
        /// Where it is.
        url: String,
        /// Hex SHA-256; without it, the first content seen is pinned.
        sha256: Option<String>,
    },
}

impl Spec {
    /// Reads one name of a task. `sha256` belongs to a URL that does not carry its own as `#sha256=…`.
    pub fn parse(text: &str, manager: Manager, sha256: Option<&str>) -> Result<Spec> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Error::parameters("a package name is empty"));
        }
        if text.starts_with('-') || text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(Error::parameters(format!("`{text}` is not a package name"))
                .hint("several packages are a list: [one, two]"));
        }
        if text.starts_with('@') {
            return Err(Error::parameters(format!("`{text}` is a group of packages, and groups can't be compared"))
                .hint("list the packages of the group by their names"));
        }
        if text.contains("://") {
            let (url, own) = match text.split_once("#sha256=") {
                Some((url, hash)) => (url, Some(hash)),
                None => (text, None),
            };
            let sha256 = own.or(sha256);
            if let Some(sha256) = sha256.filter(|hash| hash.len() != 64 || !hash.chars().all(|c| c.is_ascii_hexdigit()))
            {
                return Err(Error::parameters(format!("`{sha256}` is not a SHA-256: it has 64 hexadecimal digits")));
            }
            let (name, version) = from_file_name(file_name(url), manager)?;
            let source = Source::Url { url: url.to_string(), sha256: sha256.map(str::to_ascii_lowercase) };
            return Ok(Spec { name, version, source });
        }
        if text.starts_with('/') && (text.ends_with(".rpm") || text.ends_with(".deb")) {
            let (name, version) = from_file_name(file_name(text), manager)?;
            return Ok(Spec { name, version, source: Source::File(text.to_string()) });
        }
        let (name, version) = match text.split_once('=') {
            Some((name, version)) if !name.is_empty() && !version.is_empty() => {
                (name.to_string(), Some(version.trim_start_matches('=').to_string()))
            }
            Some(_) => return Err(Error::parameters(format!("`{text}` is not a package name"))),
            None if manager.is_rpm() => match name_version(text) {
                Some((name, version)) => (name.to_string(), Some(version.to_string())),
                None => (text.to_string(), None),
            },
            None => (text.to_string(), None),
        };
        let version = version.map(|version| without_arch(&version).to_string());
        Ok(Spec { name, version, source: Source::Repository })
    }

    /// Does an installed version satisfy this? Epoch and release count only where they are asked for.
    pub fn is_satisfied_by(&self, installed: &str) -> bool {
        let Some(wanted) = &self.version else { return true };
        if let Some(prefix) = wanted.strip_suffix('*') {
            return installed.starts_with(prefix) || without_epoch(installed).starts_with(prefix);
        }
        let plain = without_epoch(installed);
        wanted == installed
            || wanted == plain
            || without_epoch(wanted) == installed
            || plain.rsplit_once('-').is_some_and(|(version, _)| version == without_epoch(wanted))
    }

    /// The version that will be there afterwards, as far as the name tells it.
    pub fn foreseen(&self) -> Option<String> {
        let version = self.version.as_deref()?.trim_end_matches('*');
        (!version.is_empty()).then(|| version.to_string())
    }
}

/// Without the epoch that is written before a colon.
pub fn without_epoch(version: &str) -> &str {
    match version.split_once(':') {
        Some((epoch, rest)) if epoch.chars().all(|c| c.is_ascii_digit()) => rest,
        _ => version,
    }
}

const ARCHITECTURES: [&str; 8] = ["x86_64", "noarch", "i686", "i586", "i386", "aarch64", "ppc64le", "s390x"];

fn without_arch(version: &str) -> &str {
    ARCHITECTURES
        .iter()
        .find_map(|arch| version.strip_suffix(arch).and_then(|rest| rest.strip_suffix('.')))
        .unwrap_or(version)
}

fn file_name(path: &str) -> &str {
    let path = path.split(['?', '#']).next().unwrap_or(path);
    path.rsplit('/').next().unwrap_or(path)
}

fn begins_with_digit(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit())
}

/// Splits `name-version` or `name-version-release[.arch]`. A version begins with a digit and, unless a release follows,
/// has a dot: `java-11-openjdk` and `java-1.8.0-openjdk` are names.
fn name_version(text: &str) -> Option<(&str, &str)> {
    let (rest, last) = text.rsplit_once('-')?;
    let version = |text: &str| begins_with_digit(without_epoch(text));
    if !version(last) {
        return None;
    }
    if let Some((name, middle)) = rest.rsplit_once('-')
        && version(middle)
        && !name.is_empty()
    {
        return text.get(name.len() + 1..).map(|version| (name, version));
    }
    (last.contains('.') && !rest.is_empty()).then_some((rest, last))
}

/// Name and version that a package's file name tells.
fn from_file_name(file: &str, manager: Manager) -> Result<(String, Option<String>)> {
    let strange = || {
        let form = if manager.is_rpm() { "NAME-VERSION-RELEASE.ARCH.rpm" } else { "NAME_VERSION_ARCH.deb" };
        Error::parameters(format!("`{file}` is not named as package files for this machine are: {form}"))
    };
    if manager.is_rpm() {
        let stem = without_arch(file.strip_suffix(".rpm").ok_or_else(strange)?);
        let mut parts = stem.rsplitn(3, '-');
        if let (Some(release), Some(version), Some(name)) = (parts.next(), parts.next(), parts.next())
            && begins_with_digit(version)
            && !release.is_empty()
            && !name.is_empty()
        {
            return Ok((name.to_string(), Some(format!("{version}-{release}"))));
        }
        // `elrepo-release-7.el7.elrepo.noarch.rpm` is a link to the real name: it tells no more than what it is.
        let end = stem
            .match_indices('-')
            .map(|(at, _)| at)
            .find(|at| stem.get(at + 1..).is_some_and(begins_with_digit))
            .unwrap_or(stem.len());
        return match stem.get(..end) {
            Some(name) if !name.is_empty() => Ok((name.to_string(), None)),
            _ => Err(strange()),
        };
    }
    let stem = file.strip_suffix(".deb").ok_or_else(strange)?;
    let mut parts = stem.split('_');
    match (parts.next(), parts.next()) {
        (Some(name), Some(version)) if !name.is_empty() && !version.is_empty() => {
            Ok((name.to_string(), Some(version.replace("%3a", ":").replace("%3A", ":"))))
        }
        _ => Err(strange()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rpm(text: &str) -> (String, Option<String>) {
        let spec = Spec::parse(text, Manager::Dnf, Some(&"a".repeat(64))).unwrap();
        (spec.name, spec.version)
    }

    #[test]
    fn rpm_names_and_versions() {
        let is = |text: &str, name: &str, version: Option<&str>| {
            assert_eq!(rpm(text), (name.to_string(), version.map(str::to_string)), "{text}");
        };
        is("kernel-ml", "kernel-ml", None);
        is("kernel-ml-6.9.7-1.el7.elrepo", "kernel-ml", Some("6.9.7-1.el7.elrepo"));
        is("kernel-ml-6.9.7-1.el7.elrepo.x86_64", "kernel-ml", Some("6.9.7-1.el7.elrepo"));
        is("kernel-ml-6.9.7", "kernel-ml", Some("6.9.7"));
        is("kernel-ml=6.9.7", "kernel-ml", Some("6.9.7"));
        is("java-1.8.0-openjdk", "java-1.8.0-openjdk", None);
        is("java-11-openjdk", "java-11-openjdk", None);
        is("java-1.8.0-openjdk-1.8.0.382", "java-1.8.0-openjdk", Some("1.8.0.382"));
        is("edk2.git-ovmf-x64", "edk2.git-ovmf-x64", None);
        is("389-ds-base", "389-ds-base", None);
    }

    #[test]
    fn file_names_tell_name_and_version() {
        let url = "http://mirrors.example/RPMS/kernel-ml-4.9.2-1.el7.elrepo.x86_64.rpm";
        assert_eq!(rpm(url), ("kernel-ml".into(), Some("4.9.2-1.el7.elrepo".into())));
        assert_eq!(rpm("https://x/elrepo-release-7.el7.elrepo.noarch.rpm"), ("elrepo-release".into(), None));
        assert_eq!(rpm("/srv/a-b-1-2.noarch.rpm"), ("a-b".into(), Some("1-2".into())));
        let deb = Spec::parse("/srv/hello_2%3a1.0-3_amd64.deb", Manager::Apt, None).unwrap();
        assert_eq!((deb.name.as_str(), deb.version.as_deref()), ("hello", Some("2:1.0-3")));
        assert!(Spec::parse("/srv/hello.rpm", Manager::Apt, None).is_err());
    }

    #[test]
    fn a_version_matches_what_it_says_and_no_more() {
        let spec = |version: &str| Spec { name: "x".into(), version: Some(version.into()), source: Source::Repository };
        assert!(spec("6.9.7").is_satisfied_by("6.9.7-1.el7"));
        assert!(spec("6.9.7-1.el7").is_satisfied_by("6.9.7-1.el7"));
        assert!(!spec("6.9.7-2.el7").is_satisfied_by("6.9.7-1.el7"));
        assert!(!spec("6.9").is_satisfied_by("6.9.7-1.el7"));
        assert!(spec("6.9.*").is_satisfied_by("6.9.7-1.el7"));
        assert!(spec("2.1-3").is_satisfied_by("5:2.1-3"));
        assert!(spec("1:2.1-3").is_satisfied_by("2.1-3"), "rpm tells no epoch");
        for wanted in ["6.9.*", "6.9*", "6.9.7", "6.9.7-1"] {
            assert!(spec(wanted).is_satisfied_by(&spec(wanted).foreseen().unwrap()));
        }
    }

    #[test]
    fn nothing_is_taken_for_an_option_or_a_group() {
        for wrong in ["-y", "", "two words", "@Virtualization", "=1.0", "x="] {
            assert!(Spec::parse(wrong, Manager::Dnf, None).is_err(), "{wrong}");
        }
        let error = Spec::parse("https://x/a-1-1.noarch.rpm", Manager::Dnf, Some("abc")).unwrap_err();
        assert!(error.message.contains("is not a SHA-256"), "{error}");
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,24}", deb in any::<bool>()) {
            let manager = if deb { Manager::Apt } else { Manager::Yum };
            let _ = Spec::parse(&text, manager, Some("x"));
            let _ = Spec::parse(&format!("/{text}.rpm"), Manager::Dnf, None);
            let _ = Spec::parse(&format!("/{text}.deb"), Manager::Apt, None);
        }

        #[test]
        fn what_is_foreseen_satisfies(version in "[0-9][0-9a-z.+~]{0,6}(-[0-9][a-z0-9.]{0,4})?[*]?") {
            let spec = Spec { name: "x".into(), version: Some(version), source: Source::Repository };
            prop_assert!(spec.is_satisfied_by(&spec.foreseen().unwrap()));
        }
    }
}
