//! Which operating system a machine runs, and what follows from it.

use serde::{Deserialize, Serialize};

use super::{Error, Host, Result};

/// Distributions that share package manager, paths and boot tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Family {
    /// RHEL, CentOS, Rocky, Alma, Oracle.
    El,
    /// Fedora.
    Fedora,
    /// Debian and those made from it except Ubuntu.
    Debian,
    /// Ubuntu and those made from it.
    Ubuntu,
    /// Arch and those made from it.
    Arch,
    /// openSUSE and SLE.
    Suse,
}

impl Family {
    /// Does it use RPM packages?
    pub fn is_rpm(self) -> bool {
        matches!(self, Family::El | Family::Fedora | Family::Suse)
    }
    /// Does it use Debian packages?
    pub fn is_deb(self) -> bool {
        matches!(self, Family::Debian | Family::Ubuntu)
    }
}

/// An operating system, from os-release(5).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Os {
    /// `ID`: `centos`, `rocky`, `debian`, …
    pub id: String,
    /// `VERSION_ID`, such as `7`, `9.4`, `12`, `24.04`; empty on rolling distributions.
    pub version: String,
    /// `PRETTY_NAME`.
    pub pretty: String,
    /// Which family.
    pub family: Family,
}

impl Os {
    /// The first number of the version, 0 on rolling distributions.
    pub fn major(&self) -> u32 {
        self.part(0)
    }
    /// The second number of the version, 0 where there is none.
    pub fn minor(&self) -> u32 {
        self.part(1)
    }
    fn part(&self, n: usize) -> u32 {
        self.version.split('.').nth(n).and_then(|part| part.parse().ok()).unwrap_or(0)
    }
    /// Enterprise Linux of exactly this major version?
    pub fn is_el(&self, major: u32) -> bool {
        self.family == Family::El && self.major() == major
    }
}

/// Reads `/etc/os-release`.
///
/// # Errors
/// When there is none or the distribution is of a family this program does not know.
pub fn detect<H: Host + ?Sized>(host: &H) -> Result<Os> {
    let text = match host.read_text("/etc/os-release")? {
        Some(text) => text,
        None => host
            .read_text("/usr/lib/os-release")?
            .ok_or_else(|| Error::failed("there is no /etc/os-release: can't tell which distribution this is"))?,
    };
    let field = |key: &str| {
        text.lines()
            .filter_map(|line| line.trim().split_once('='))
            .find(|(k, _)| *k == key)
            .map(|(_, v)| v.trim_matches(['"', '\'']).to_string())
            .unwrap_or_default()
    };
    let id = field("ID");
    let like = field("ID_LIKE");
    let ids: Vec<&str> = std::iter::once(id.as_str()).chain(like.split_whitespace()).collect();
    let family = ids
        .iter()
        .find_map(|id| match *id {
            "rhel" | "centos" | "rocky" | "almalinux" | "ol" | "scientific" => Some(Family::El),
            "fedora" => Some(Family::Fedora),
            "ubuntu" => Some(Family::Ubuntu),
            "debian" => Some(Family::Debian),
            "arch" => Some(Family::Arch),
            "opensuse" | "suse" | "sles" | "opensuse-leap" | "opensuse-tumbleweed" => Some(Family::Suse),
            _ => None,
        })
        .ok_or_else(|| {
            Error::failed(format!("the distribution `{id}` is not one this program knows"))
                .hint("known: the Enterprise Linux family 7 to 10, Fedora, Debian, Ubuntu, Arch, openSUSE")
        })?;
    Ok(Os { id, version: field("VERSION_ID"), pretty: field("PRETTY_NAME"), family })
}
