//! `package`: packages are there, newest, or gone.

use schemars::JsonSchema;
use serde::Deserialize;

use super::install::{Install, OLDER, apt_lists_are_old, apt_update, install, remove};
use super::manager::Manager;
use crate::change::Plan;
use crate::host::{Error, Host, Result};
use crate::modules::Module;
use crate::modules::params::{Flag, List, Text};

/// Installs, upgrades or removes packages with what the machine has: yum, dnf, apt, pacman or zypper.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Package {
    /// One package or a list: a name, `name-version` (RPM) or `name=version`, the absolute path of an .rpm or .deb file
    /// on the machine, or a URL, best together with `sha256` (or with `#sha256=…` at its end): without it, the first
    /// content seen is kept in the lock file, and holds.
    #[serde(default, alias = "pkg")]
    name: List<Text>,
    /// `present` installs what is missing, `latest` upgrades too, `absent` removes. Default: present.
    #[serde(default)]
    state: State,
    /// Hexadecimal SHA-256 of the file at the URL in `name`.
    sha256: Option<String>,
    /// Read the repositories anew before something is installed. Default: where apt's lists are older than the
    /// definitions of the repositories, or do not know a package; dnf and yum decide by themselves. Without `name`, only
    /// that is done.
    update_cache: Option<Flag>,
    /// Repositories switched on for this task only, by id (yum and dnf).
    #[serde(default)]
    enablerepo: List<Text>,
    /// Repositories switched off for this task only, by id (yum and dnf).
    #[serde(default)]
    disablerepo: List<Text>,
    /// The release to prefer for this task, such as `bookworm-backports` (apt).
    default_release: Option<String>,
    /// May a newer version that is installed be replaced by an older one? Default: no.
    #[serde(default)]
    allow_downgrade: Flag,
    /// May other packages go, where they are in the way (dnf), and held ones change (apt)? Default: no.
    #[serde(default, alias = "allowerasing")]
    allow_erasing: Flag,
    /// Don't check signatures. Default: no.
    #[serde(default)]
    disable_gpg_check: Flag,
    /// Install what packages recommend, too. Default: as the machine is configured.
    #[serde(alias = "install_weak_deps")]
    install_recommends: Option<Flag>,
    /// With `absent`, remove configuration files too (apt). Default: no.
    #[serde(default)]
    purge: Flag,
    /// systemd units that come with the packages, so that a plan knows them before they are installed.
    #[serde(default)]
    units: List<Text>,
}

/// What becomes of the packages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Installed.
    #[default]
    #[serde(alias = "installed")]
    Present,
    /// Installed in the newest version.
    Latest,
    /// Not installed.
    #[serde(alias = "removed")]
    Absent,
}

/// The texts of a list.
fn texts(list: &List<Text>) -> Vec<&str> {
    list.iter().map(|text| text.0.as_str()).collect()
}

impl Module for Package {
    const NAME: &'static str = "package";
    const SUMMARY: &'static str = "Install, upgrade or remove packages";
    const ALIASES: &'static [&'static str] = &["dnf", "yum", "apt"];

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let names = texts(&self.name);
        // `name: "{{ list | join(',') }}"` is an old habit.
        let names: Vec<&str> = names
            .iter()
            .flat_map(|name| if name.contains("://") { vec![*name] } else { name.split(',').map(str::trim).collect() })
            .filter(|name| !name.is_empty())
            .collect();
        if names.is_empty() {
            return match self.update_cache {
                Some(Flag(true)) if Manager::of(host)? != Manager::Apt => Ok(Plan::nothing()),
                Some(Flag(true)) if apt_lists_are_old(host)? => apt_update(host, OLDER),
                Some(_) => Ok(Plan::nothing()),
                None => Err(Error::parameters("`name` is missing: which packages?")),
            };
        }
        if self.state == State::Absent {
            return remove(host, &names, self.purge.0);
        }
        let (enable, disable) = (texts(&self.enablerepo), texts(&self.disablerepo));
        let units: Vec<String> = self.units.iter().map(|unit| crate::host::live::unit_name(unit)).collect();
        install(
            host,
            &Install {
                names: &names,
                sha256: self.sha256.as_deref(),
                latest: self.state == State::Latest,
                enablerepo: &enable,
                disablerepo: &disable,
                default_release: self.default_release.as_deref(),
                allow_downgrade: self.allow_downgrade.0,
                allow_erasing: self.allow_erasing.0,
                no_gpg_check: self.disable_gpg_check.0,
                recommends: self.install_recommends.map(|flag| flag.0),
                update_cache: self.update_cache.map(|flag| flag.0),
                units: &units.iter().map(String::as_str).collect::<Vec<_>>(),
                effects: &[],
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::change::{Action, Effect, Op, Run};
    use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};
    use crate::host::{Host, model::predict};

    const EL7: (&str, &str) = ("/etc/os-release", "ID=centos\nVERSION_ID=7\n");
    const EL9: (&str, &str) = ("/etc/os-release", "ID=rocky\nVERSION_ID=9.4\nID_LIKE=\"rhel centos\"\n");
    const DEBIAN: (&str, &str) = ("/etc/os-release", "ID=debian\nVERSION_ID=12\n");

    fn with(os: (&str, &str), packages: &[(&str, &str)]) -> Machine {
        let machine = machine(&[os]);
        let effects = packages
            .iter()
            .map(|(name, version)| Effect::Package {
                name: name.to_string(),
                version: Some(version.to_string()),
                present: true,
            })
            .collect();
        predict(&machine, &Op::Run(Run::new(["test"], effects))).unwrap();
        machine
    }

    fn argv(actions: &[Action]) -> Vec<String> {
        actions
            .iter()
            .filter_map(|action| match &action.op {
                Op::Run(run) => Some(run.argv.join(" ")),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn each_family_has_its_tool_and_only_what_is_missing_is_installed() {
        for (os, expected) in [
            (EL7, "yum -y install virt-manager"),
            (EL9, "dnf -y install virt-manager"),
            (
                DEBIAN,
                "apt-get -y -q -o DPkg::Lock::Timeout=300 -o Dpkg::Options::=--force-confdef \
                 -o Dpkg::Options::=--force-confold -o Dpkg::Use-Pty=0 install virt-manager",
            ),
        ] {
            let machine = with(os, &[("libvirt", "4.5-1")]);
            let done = apply(&machine, "package", json!({"name": ["libvirt", "virt-manager"]})).unwrap();
            assert_eq!(argv(&done), [expected]);
            assert_eq!(shown(&done), "package virt-manager\n+ installed\n");
            assert!(machine.package("virt-manager").unwrap().is_some());
        }
    }

    #[test]
    fn apt_asks_nothing() {
        let done = apply(&with(DEBIAN, &[]), "apt", json!({"name": "ovmf"})).unwrap();
        let Op::Run(run) = &done[0].op else { panic!("{done:?}") };
        assert!(run.env.contains(&("DEBIAN_FRONTEND".into(), "noninteractive".into())));
    }

    #[test]
    fn a_version_is_kept_raised_and_only_lowered_when_allowed() {
        let machine = with(EL9, &[("foo", "1.2-3.el9")]);
        assert!(plan(&machine, "package", json!({"name": "foo-1.2"})).unwrap().actions.is_empty());
        assert!(plan(&machine, "package", json!({"name": "foo-1.2-3.el9.x86_64"})).unwrap().actions.is_empty());
        let done = apply(&machine, "package", json!({"name": "foo-1.3-1.el9"})).unwrap();
        assert_eq!(argv(&done), ["dnf -y install foo-1.3-1.el9"]);
        assert_eq!(shown(&done), "package foo\n1.2-3.el9 → 1.3-1.el9\n");
        let error = plan(&machine, "package", json!({"name": "foo-1.0"})).unwrap_err();
        assert!(error.to_string().contains("allow_downgrade"), "{error}");
        let done = apply(&machine, "package", json!({"name": "foo-1.0", "allow_downgrade": "yes"})).unwrap();
        assert_eq!(argv(&done), ["dnf -y downgrade foo-1.0"]);
    }

    #[test]
    fn an_older_kernel_goes_beside_the_newer_one() {
        let machine = with(EL7, &[("kernel-ml", "6.9.7-1.el7.elrepo")]);
        let parameters = json!({"name": "kernel-ml-4.9.2-1.el7.elrepo", "enablerepo": "elrepo-kernel"});
        let done = apply(&machine, "yum", parameters).unwrap();
        assert_eq!(argv(&done), ["yum -y --enablerepo=elrepo-kernel install kernel-ml-4.9.2-1.el7.elrepo"]);
    }

    #[test]
    fn a_url_is_downloaded_checked_and_installed_once() {
        let machine = with(EL7, &[]);
        let url = "http://mirrors.example/RPMS/kernel-ml-4.9.2-1.el7.elrepo.x86_64.rpm";
        let parameters = json!({"name": url, "sha256": "A".repeat(64)});
        let done = apply(&machine, "package", parameters.clone()).unwrap();
        let file = "/var/cache/vfio-provision/packages/kernel-ml-4.9.2-1.el7.elrepo.x86_64.rpm";
        assert_eq!(argv(&done), [format!("yum -y install {file}")]);
        let expected =
            Op::Download { url: url.into(), path: file.into(), sha256: Some("a".repeat(64)), mode: Some(0o644) };
        assert!(done.iter().any(|action| action.op == expected), "{done:?}");
        assert!(shown(&done).ends_with("package kernel-ml\n+ 4.9.2-1.el7.elrepo\n"));
        let unpinned = plan(&with(EL7, &[]), "package", json!({"name": url})).unwrap();
        assert_eq!((unpinned.pins[0].path.as_str(), unpinned.warnings.len()), (file, 1));
        assert!(matches!(&unpinned.actions.last().unwrap().op, Op::Run(_)));
        // The file is there, the package was removed again: it is not fetched a second time.
        apply(&machine, "package", json!({"name": "kernel-ml", "state": "absent"})).unwrap();
        assert_eq!(apply(&machine, "package", parameters).unwrap().len(), 1);
    }

    #[test]
    fn absent_removes_what_is_there() {
        let machine = with(EL9, &[("foo", "1-1")]);
        let done = apply(&machine, "dnf", json!({"name": ["foo", "bar"], "state": "absent"})).unwrap();
        assert_eq!(argv(&done), ["dnf -y --setopt=clean_requirements_on_remove=False remove foo"]);
        assert_eq!(shown(&done), "package foo\n- 1-1\n");
    }

    #[test]
    fn apt_lists_are_read_when_they_are_older_than_the_sources() {
        let machine = machine(&[
            DEBIAN,
            ("/etc/apt/sources.list.d/x.sources", "Types: deb\n"),
            ("/var/lib/apt/lists/x_InRelease", ""),
        ]);
        let done = apply(&machine, "package", json!({"name": "ovmf"})).unwrap();
        assert!(argv(&done)[0].ends_with(" update"), "{:?}", argv(&done));
        let done = apply(&machine, "package", json!({"name": "qemu-system-x86"})).unwrap();
        assert_eq!(argv(&done).len(), 1, "once is enough");
        assert!(apply(&machine, "apt", json!({"update_cache": true})).unwrap().is_empty());
    }

    #[test]
    fn units_that_come_are_known_at_once() {
        let machine = with(DEBIAN, &[]);
        apply(&machine, "package", json!({"name": "libvirt-daemon-system", "units": ["libvirtd"]})).unwrap();
        assert!(machine.unit("libvirtd.service").unwrap().exists);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let machine = with(DEBIAN, &[]);
        for parameters in [
            json!({"name": "x", "enablerepo": "elrepo"}),
            json!({"name": "@group"}),
            json!({"state": "present"}),
            json!({"name": ["x=1", "x=2"]}),
            json!({"name": "x", "colour": "red"}),
        ] {
            assert!(plan(&machine, "package", parameters.clone()).is_err(), "{parameters}");
        }
    }
}
