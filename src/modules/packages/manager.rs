//! Which tool installs packages on a machine, and how it is spoken to without a person.

use crate::change::Run;
use crate::host::{Error, Family, Host, Result};

/// The tool that installs packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// Enterprise Linux 7.
    Yum,
    /// Enterprise Linux 8 and later, Fedora.
    Dnf,
    /// Debian and Ubuntu.
    Apt,
    /// Arch.
    Pacman,
    /// openSUSE and SLE.
    Zypper,
}

/// How long apt waits for another one that holds the lock, in seconds. dnf and yum wait by themselves.
pub(super) const LOCK_SECONDS: u32 = 300;

impl Manager {
    /// The one this machine has.
    pub fn of(host: &dyn Host) -> Result<Manager> {
        let os = host.os()?;
        Ok(match os.family {
            Family::El if os.major() <= 7 => Manager::Yum,
            Family::El | Family::Fedora => Manager::Dnf,
            Family::Debian | Family::Ubuntu => Manager::Apt,
            Family::Arch => Manager::Pacman,
            Family::Suse => Manager::Zypper,
        })
    }

    /// Does it install RPM packages?
    pub fn is_rpm(self) -> bool {
        matches!(self, Manager::Yum | Manager::Dnf | Manager::Zypper)
    }

    /// Does it know repositories by id, as yum's `--enablerepo`?
    pub fn has_repository_ids(self) -> bool {
        matches!(self, Manager::Yum | Manager::Dnf)
    }

    /// The tool's name.
    pub fn name(self) -> &'static str {
        match self {
            Manager::Yum => "yum",
            Manager::Dnf => "dnf",
            Manager::Apt => "apt",
            Manager::Pacman => "pacman",
            Manager::Zypper => "zypper",
        }
    }

    /// How it is told which package in which version.
    pub fn at_version(self, name: &str, version: &str) -> Result<String> {
        Ok(match self {
            Manager::Yum | Manager::Dnf => format!("{name}-{version}"),
            Manager::Apt | Manager::Zypper => format!("{name}={version}"),
            Manager::Pacman => {
                return Err(Error::parameters(format!(
                    "{name}: pacman can't install a given version from a repository"
                ))
                .hint("give the package file's URL with its sha256, or leave the version out"));
            }
        })
    }

    /// The beginning of a command that changes packages, up to and with the verb.
    pub fn command(self, verb: Verb, options: &Options) -> Vec<String> {
        let mut argv: Vec<String> = Vec::new();
        let mut add = |words: &[&str]| argv.extend(words.iter().map(|word| word.to_string()));
        match self {
            Manager::Yum | Manager::Dnf => {
                add(&[self.name(), "-y"]);
                for id in options.enablerepo {
                    add(&[&format!("--enablerepo={id}")]);
                }
                for id in options.disablerepo {
                    add(&[&format!("--disablerepo={id}")]);
                }
                if options.no_gpg_check {
                    add(&["--nogpgcheck"]);
                }
                if options.allow_erasing && self == Manager::Dnf {
                    add(&["--allowerasing"]);
                }
                if let (Some(weak), Manager::Dnf) = (options.recommends, self) {
                    add(&[if weak { "--setopt=install_weak_deps=True" } else { "--setopt=install_weak_deps=False" }]);
                }
                add(&match verb {
                    Verb::Install if options.refresh && self == Manager::Dnf => vec!["--refresh", "install"],
                    Verb::Install => vec!["install"],
                    Verb::Downgrade => vec!["downgrade"],
                    // Only what was asked for goes, not what was installed for its sake.
                    Verb::Remove => vec!["--setopt=clean_requirements_on_remove=False", "remove"],
                });
            }
            Manager::Apt => {
                add(&["apt-get", "-y", "-q", "-o", &format!("DPkg::Lock::Timeout={LOCK_SECONDS}")]);
                // What the administrator changed in /etc stays; for the rest the package's own default is taken.
                add(&["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"]);
                add(&["-o", "Dpkg::Use-Pty=0"]);
                if let Some(release) = options.default_release {
                    add(&["-t", release]);
                }
                if let Some(recommends) = options.recommends {
                    add(&[if recommends { "--install-recommends" } else { "--no-install-recommends" }]);
                }
                if options.allow_downgrade {
                    add(&["--allow-downgrades"]);
                }
                if options.allow_erasing {
                    add(&["--allow-change-held-packages"]);
                }
                if options.no_gpg_check {
                    add(&["--allow-unauthenticated"]);
                }
                add(&[match verb {
                    Verb::Install | Verb::Downgrade => "install",
                    Verb::Remove => "remove",
                }]);
            }
            Manager::Pacman => add(match verb {
                Verb::Install | Verb::Downgrade if options.refresh => &["pacman", "-Sy", "--noconfirm", "--needed"],
                Verb::Install | Verb::Downgrade => &["pacman", "-S", "--noconfirm", "--needed"],
                Verb::Remove => &["pacman", "-R", "--noconfirm"],
            }),
            Manager::Zypper => {
                add(&["zypper", "--non-interactive"]);
                if options.no_gpg_check {
                    add(&["--no-gpg-checks"]);
                }
                add(match verb {
                    Verb::Install | Verb::Downgrade if options.allow_downgrade => &["install", "--oldpackage"],
                    Verb::Install | Verb::Downgrade => &["install"],
                    Verb::Remove => &["remove"],
                });
            }
        }
        argv
    }

    /// A command of this tool with the environment in which it asks nothing.
    pub fn run(self, argv: Vec<String>) -> Run {
        let mut run = Run::new(argv, Vec::new());
        if self == Manager::Apt {
            run.env = [
                ("DEBIAN_FRONTEND", "noninteractive"),
                ("APT_LISTCHANGES_FRONTEND", "none"),
                ("NEEDRESTART_MODE", "l"),
            ]
            .map(|(key, value)| (key.to_string(), value.to_string()))
            .to_vec();
        }
        run
    }
}

/// What is done with packages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Install or upgrade.
    Install,
    /// Install an older version.
    Downgrade,
    /// Remove.
    Remove,
}

/// How it is done.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    pub enablerepo: &'a [&'a str],
    pub disablerepo: &'a [&'a str],
    pub default_release: Option<&'a str>,
    pub allow_downgrade: bool,
    pub allow_erasing: bool,
    pub no_gpg_check: bool,
    pub recommends: Option<bool>,
    pub refresh: bool,
}
