//! `ovmf`: UEFI firmware for guests.

use schemars::JsonSchema;
use serde::Deserialize;

use super::descriptors::{self, Firmware, Wish};
use crate::change::action::Pin;
use crate::change::{Content, Diff, Effect, Op, Plan};
use crate::host::{Error, Family, FileKind, Host, Os, Result};
use crate::modules::Module;
use crate::modules::packages::{Install, install};
use crate::modules::params::{Flag, Text};
use crate::modules::system::make_folders;

/// The package of Gerd Hoffmann's repository, which passthrough guides of the EL7 time use, and its files.
const KRAXEL_PREFIX: &str = "edk2.git-ovmf-x64";
const KRAXEL_REPOSITORY: &str = "https://www.kraxel.org/repos/jenkins/";
const KRAXEL_CODE: &str = "/usr/share/edk2.git/ovmf-x64/OVMF_CODE-pure-efi.fd";
const KRAXEL_VARS: &str = "/usr/share/edk2.git/ovmf-x64/OVMF_VARS-pure-efi.fd";

/// Puts UEFI firmware for guests on the machine, from the distribution's package, another one, or a given file; and
/// answers `loader`, `nvram_template` and `format`, as `libvirt_domain` wants them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ovmf {
    /// The package; the distribution's own by default. `edk2.git-ovmf-x64` comes with its repository.
    package: Option<Text>,
    /// Where `package` is a URL: the SHA-256 of what it gives.
    sha256: Option<Text>,
    /// The base URL of the repository of `edk2.git-ovmf-x64`, where it is not the original one (a mirror).
    repository: Option<String>,
    /// Must it enforce Secure Boot? No by default.
    #[serde(default)]
    secure_boot: Flag,
    /// Must Microsoft's keys be enrolled? By default only with `secure_boot`.
    enrolled_keys: Option<Flag>,
    /// The machine type it is for; `q35` by default.
    machine: Option<String>,
    /// A given code file instead of a package.
    loader: Option<String>,
    /// The variables that belong to `loader`.
    nvram_template: Option<String>,
    /// Where `loader` is fetched from when it is not there.
    loader_url: Option<String>,
    /// SHA-256 of `loader`.
    loader_sha256: Option<Text>,
    /// Where `nvram_template` is fetched from when it is not there.
    nvram_template_url: Option<String>,
    /// SHA-256 of `nvram_template`.
    nvram_template_sha256: Option<Text>,
}

/// The distribution's package with UEFI firmware, and a folder that it brings.
pub fn package_of(os: &Os) -> (&'static str, &'static str) {
    match os.family {
        Family::El if os.major() == 7 => ("OVMF", "/usr/share/OVMF"),
        Family::El | Family::Fedora | Family::Arch => ("edk2-ovmf", "/usr/share/edk2"),
        Family::Debian | Family::Ubuntu => ("ovmf", "/usr/share/OVMF"),
        Family::Suse => ("qemu-ovmf-x86_64", "/usr/share/qemu/firmware"),
    }
}

/// The firmware on this machine that can do what is wished.
///
/// # Errors
/// When there is none, or when that can't be known yet.
pub fn find(host: &dyn Host, wish: &Wish) -> Result<Firmware> {
    if let Some(firmware) = descriptors::choose(host, wish)? {
        return Ok(firmware);
    }
    if let Ok(os) = host.os() {
        let (package, folder) = package_of(&os);
        if host.package(package)?.is_some() && !host.exists(folder)? {
            return Err(Error::unknown(
                "which firmware file is the right one",
                format!("the package {package} brings it"),
            ));
        }
    }
    let secure = if wish.secure_boot { "UEFI firmware with Secure Boot" } else { "UEFI firmware" };
    Err(Error::failed(format!("there is no {secure} for machine {} here", wish.machine))
        .hint("an `ovmf` task before this one installs it, or give `loader` and `nvram_template`"))
}

impl Module for Ovmf {
    const NAME: &'static str = "ovmf";
    const SUMMARY: &'static str = "Put UEFI firmware for guests in place";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        if self.loader.is_some() { self.plan_given(host) } else { self.plan_package(host) }
    }
}

impl Ovmf {
    fn plan_given(&self, host: &dyn Host) -> Result<Plan> {
        let mut plan = Plan::nothing();
        if self.package.is_some() {
            return Err(Error::parameters("package and loader are both given: one of them says where the firmware is"));
        }
        let files = [
            ("loader", &self.loader, &self.loader_url, &self.loader_sha256),
            ("nvram_template", &self.nvram_template, &self.nvram_template_url, &self.nvram_template_sha256),
        ];
        for (name, path, url, sha256) in files {
            let Some(path) = path else { continue };
            super::fetch(host, &mut plan, name, path, url.as_deref(), sha256.as_ref().map(|s| s.0.as_str()))?;
            plan.set(name, path.as_str());
        }
        plan.set("format", if self.loader.as_ref().is_some_and(|l| l.ends_with(".qcow2")) { "qcow2" } else { "raw" });
        if self.nvram_template.is_none() {
            plan.warnings
                .push("a loader without nvram_template: libvirt must know its variables from elsewhere".to_string());
        }
        Ok(plan)
    }

    fn plan_package(&self, host: &dyn Host) -> Result<Plan> {
        let os = host.os()?;
        let package = self.package.as_ref().map_or(package_of(&os).0, |package| package.0.as_str());
        let kraxel = package.contains(KRAXEL_PREFIX);
        let mut plan = Plan::nothing();
        if kraxel && !package.contains("://") && !package.starts_with('/') {
            self.plan_repository(host, &os, &mut plan)?;
        }
        // A package that no repository lists any more may be known by its files alone.
        let file = |path: &str| Effect::File { path: path.to_string(), content: None, mode: None };
        let files = [file(KRAXEL_CODE), file(KRAXEL_VARS)];
        let known = host.available(package)?.is_some();
        let installed = install(
            host,
            &Install {
                names: &[package],
                sha256: self.sha256.as_ref().map(|s| s.0.as_str()),
                effects: if kraxel && !known { &files } else { &[] },
                ..Install::default()
            },
        )?;
        let more = !installed.actions.is_empty();
        plan.extend(installed);
        if more {
            plan.staged = true;
            return Ok(plan);
        }
        let firmware = if kraxel && !self.secure_boot.0 {
            Firmware {
                loader: KRAXEL_CODE.to_string(),
                nvram_template: KRAXEL_VARS.to_string(),
                format: "raw".to_string(),
                descriptor: None,
            }
        } else {
            find(host, &self.wish())?
        };
        for path in descriptors::broken(host)? {
            plan.warnings.push(format!("{path} is no valid firmware descriptor and is passed over"));
        }
        plan.set("loader", firmware.loader);
        plan.set("nvram_template", firmware.nvram_template);
        plan.set("format", firmware.format);
        plan.set("descriptor", firmware.descriptor);
        Ok(plan)
    }

    fn wish(&self) -> Wish {
        let keys = self.enrolled_keys.map(|keys| keys.0);
        Wish {
            machine: self.machine.clone().unwrap_or_else(|| "q35".to_string()),
            secure_boot: self.secure_boot.0,
            enrolled_keys: keys.or(self.secure_boot.0.then_some(true)),
        }
    }

    fn plan_repository(&self, host: &dyn Host, os: &Os, plan: &mut Plan) -> Result<()> {
        if !os.family.is_rpm() {
            return Err(Error::parameters(format!("edk2.git-ovmf-x64 is an RPM package, and this is {}", os.pretty))
                .hint("leave `package` out: this distribution has its own"));
        }
        let folder = if os.family == Family::Suse { "/etc/zypp/repos.d" } else { "/etc/yum.repos.d" };
        let path = format!("{folder}/firmware.repo");
        let url = self.repository.as_deref().unwrap_or(KRAXEL_REPOSITORY);
        // The packages there are not signed.
        let text = format!(
            "[qemu-firmware-jenkins]\nname=QEMU firmware, built from git\nbaseurl={url}\nenabled=1\ngpgcheck=0\n"
        );
        let before = host.read(&path)?;
        if before.as_deref() != Some(text.as_bytes()) {
            make_folders(host, plan, folder)?;
            let diff = Diff::file(&path, before.as_deref(), Some(text.as_bytes()));
            let content = Content::Bytes(text.into_bytes());
            plan.push(
                Op::WriteFile { path, content, mode: Some(0o644), owner: None, group: None, validate: Vec::new() },
                vec![diff],
            );
        }
        Ok(())
    }
}

/// Plans a file that must be there, fetched when it is not or has another hash; the first content seen is pinned when
/// nobody gave a hash.
pub(super) fn fetch(
    host: &dyn Host,
    plan: &mut Plan,
    what: &str,
    path: &str,
    url: Option<&str>,
    sha256: Option<&str>,
) -> Result<()> {
    if let Some(sha256) = sha256
        && (sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()))
    {
        return Err(Error::parameters(format!("{what}: `{sha256}` is not a SHA-256 (64 hexadecimal digits)")));
    }
    let stat = host.stat(path)?;
    if stat.as_ref().is_some_and(|stat| stat.kind != FileKind::File) {
        return Err(Error::failed(format!("{what}: {path} is not a file")));
    }
    let before = match (&stat, sha256) {
        (None, _) => None,
        (Some(_), None) => return Ok(()),
        (Some(_), Some(wanted)) => {
            let has = host.sha256(path)?;
            match has {
                Some(has) if has.eq_ignore_ascii_case(wanted) => return Ok(()),
                has => has,
            }
        }
    };
    let Some(url) = url else {
        return Err(match before {
            Some(has) => Error::failed(format!("{what}: {path} has the SHA-256 {has}, not the one that is expected")),
            None => Error::failed(format!("{what}: {path} is not there, and no URL says where it comes from")),
        });
    };
    if let Some((folder, _)) = path.rsplit_once('/').filter(|(folder, _)| !folder.is_empty()) {
        make_folders(host, plan, folder)?;
    }
    let after = match sha256 {
        Some(sha256) => format!("{url}, sha256 {sha256}"),
        None => url.to_string(),
    };
    let before = before.map(|has| format!("sha256 {has}"));
    let diff = Diff { kind: "download".to_string(), path: path.to_string(), before, after: Some(after) };
    plan.push(
        Op::Download {
            url: url.to_string(),
            path: path.to_string(),
            sha256: sha256.map(str::to_ascii_lowercase),
            mode: Some(0o644),
        },
        vec![diff],
    );
    if sha256.is_none() {
        plan.pins.push(Pin { url: url.to_string(), path: path.to_string() });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::host::overlay::testing::{apply, machine, plan, shown};

    #[test]
    fn the_seeds_package_comes_with_its_repository() {
        let host = machine(&[("/etc/os-release", "ID=centos\nVERSION_ID=7\n")]);
        let parameters = json!({"package": "edk2.git-ovmf-x64"});
        let done = shown(&apply(&host, "ovmf", parameters.clone()).unwrap());
        assert!(done.contains("+baseurl=https://www.kraxel.org/repos/jenkins/"), "{done}");
        assert!(done.contains("package edk2.git-ovmf-x64"), "{done}");
        let result = plan(&host, "ovmf", parameters).unwrap().result;
        assert_eq!(result["loader"], "/usr/share/edk2.git/ovmf-x64/OVMF_CODE-pure-efi.fd");
        assert_eq!(result["nvram_template"], "/usr/share/edk2.git/ovmf-x64/OVMF_VARS-pure-efi.fd");
        let debian = machine(&[("/etc/os-release", "ID=debian\nVERSION_ID=12\n")]);
        let error = plan(&debian, "ovmf", json!({"package": "edk2.git-ovmf-x64"})).unwrap_err();
        assert!(error.to_string().contains("leave `package` out"), "{error}");
    }

    #[test]
    fn what_a_package_brings_is_unknown_until_it_is_there() {
        let host = machine(&[("/etc/os-release", "ID=rocky\nVERSION_ID=9.4\nID_LIKE=rhel\n")]);
        let error = apply(&host, "ovmf", json!({})).unwrap_err();
        assert!(error.is_unknown(), "{error}");
        let error = plan(
            &machine(&[("/etc/os-release", "ID=arch\n")]),
            "libvirt_domain",
            json!(
                {"name": "g", "memory": "1 GiB", "firmware": "ovmf"}
            ),
        );
        assert!(error.unwrap_err().to_string().contains("there is no UEFI firmware"));
    }

    #[test]
    fn a_given_file_is_fetched_once_and_pinned() {
        let host = machine(&[("/etc/os-release", "ID=rocky\nVERSION_ID=9.4\n")]);
        let parameters = json!({"loader": "/srv/f/code.fd", "loader_url": "https://x/code.fd"});
        let first = plan(&host, "ovmf", parameters.clone()).unwrap();
        assert_eq!(first.pins.len(), 1);
        assert_eq!(first.warnings.len(), 1);
        let done = shown(&apply(&host, "ovmf", parameters).unwrap());
        assert!(done.contains("download /srv/f/code.fd\n+ https://x/code.fd"), "{done}");
        let error = plan(&host, "ovmf", json!({"loader": "/srv/none.fd"})).unwrap_err();
        assert!(error.to_string().contains("is not there"), "{error}");
        let error = plan(&host, "ovmf", json!({"loader": "/srv/none.fd", "loader_sha256": "abc"})).unwrap_err();
        assert!(error.to_string().contains("is not a SHA-256"), "{error}");
    }
}
