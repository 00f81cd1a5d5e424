//! ELRepo's kernels: where they come from on each Enterprise Linux, and what installing one does to a machine.

use super::kernel::{Name, compare_releases};
use super::loader::{Boot, Kind};
use super::{bls, grub_cfg};
use crate::change::{Diff, Effect, Op, Plan, Run};
use crate::host::{Error, Family, Host, Os, Result};
use crate::modules::Module;
use crate::modules::packages::rpm_key::RpmKey;

const SITE: &str = "https://www.elrepo.org";

/// A key of ELRepo: its file on their site, and the fingerprint they publish.
type Key = (&'static str, &'static str);

const V1: Key = ("RPM-GPG-KEY-elrepo.org", "96C0104F631547311E0BB1AE309BC305BAADAE52");
const V2: Key = ("RPM-GPG-KEY-v2-elrepo.org", "B8A755874DA240C9DAC4E71551600989EAA31D4A");

/// Where the package with ELRepo's repositories is, and the keys it is signed with. EL9 and later reject the older (DSA).
fn sources(major: u32) -> Option<(String, &'static [Key])> {
    let keys: &[Key] = match major {
        7 => &[V1],
        8 => &[V1, V2],
        9 | 10 => &[V2],
        _ => return None,
    };
    Some((format!("{SITE}/elrepo-release-{major}.el{major}.elrepo.noarch.rpm"), keys))
}

/// Is this release one of ELRepo's kernels?
pub fn is_elrepo(release: &str) -> bool {
    release.contains(".elrepo")
}

/// A package file by its name: `kernel-ml-6.9.7-1.el7.elrepo.x86_64.rpm`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rpm {
    /// `kernel-ml`
    pub name: String,
    /// `6.9.7-1.el7.elrepo`
    pub version: String,
    /// `x86_64`
    pub architecture: String,
}

impl Rpm {
    /// Reads the file name at the end of a URL.
    ///
    /// # Errors
    /// When it is not NAME-VERSION-RELEASE.ARCHITECTURE.rpm.
    pub fn from_url(url: &str) -> Result<Rpm> {
        let bad = || {
            Error::parameters(format!("`url:` does not end in the name of a kernel package: {url}"))
                .hint("such as https://…/kernel-ml-6.9.7-1.el7.elrepo.x86_64.rpm")
        };
        let file = url.split(['?', '#']).next().and_then(|path| path.rsplit('/').next()).unwrap_or("");
        let stem = file.strip_suffix(".rpm").ok_or_else(bad)?;
        let (nvr, architecture) = stem.rsplit_once('.').ok_or_else(bad)?;
        let mut parts = nvr.rsplitn(3, '-');
        let (Some(release), Some(version), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(bad());
        };
        if name.is_empty() || !version.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(bad());
        }
        Ok(Rpm { name: name.into(), version: format!("{version}-{release}"), architecture: architecture.into() })
    }

    /// As `uname -r` will print it.
    pub fn release(&self) -> String {
        format!("{}.{}", self.version, self.architecture)
    }
}

/// Refuses a kernel that is not for this system.
///
/// # Errors
/// The refusal, with the way out.
pub fn check_system(os: &Os, name: Name, pinned: Option<&Rpm>) -> Result<()> {
    if os.family != Family::El {
        if name != Name::Distribution || pinned.is_some() {
            return Err(Error::refused(format!(
                "ELRepo's kernels are for Enterprise Linux, and this is {}",
                os.pretty
            ))
            .hint("leave `name:` and `url:` out: the distribution's own kernel can do passthrough"));
        }
        return Ok(());
    }
    if let Some(major) = pinned.and_then(|rpm| el_of(&rpm.version))
        && major != os.major()
    {
        return Err(Error::refused(format!(
            "`url:` gives a kernel for Enterprise Linux {major}, and this is {}",
            os.pretty
        ))
        .hint(format!("take the package whose name has .el{}", os.major())));
    }
    if name != Name::Distribution && pinned.is_none() && sources(os.major()).is_none() {
        return Err(Error::refused(format!("no kernels of ELRepo are known for {}", os.pretty))
            .hint("known: Enterprise Linux 7 (by `url:`), 8, 9 and 10"));
    }
    Ok(())
}

/// The Enterprise Linux that a version is built for: 7 of `4.9.2-1.el7.elrepo`.
fn el_of(version: &str) -> Option<u32> {
    version.split('.').find_map(|part| {
        let digits: String = part.strip_prefix("el")?.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    })
}

/// What is said on EL7, whose kernels are gone from the repository.
pub fn gone(name: Name) -> Error {
    let file = match name {
        Name::KernelLt => "kernel-lt-5.4.278-1.el7.elrepo.x86_64.rpm",
        _ => "kernel-ml-6.9.7-1.el7.elrepo.x86_64.rpm",
    };
    Error::refused("ELRepo no longer has kernels for Enterprise Linux 7: its end of life was in June 2024").hint(
        format!(
            "give a package by `url:` and `sha256:`; the last builds are kept at \
         http://mirrors.coreix.net/elrepo-archive-archive/kernel/el7/x86_64/RPMS/{file}"
        ),
    )
}

/// The machine's architecture, from the kernel that runs.
///
/// # Errors
/// Trouble reading the machine.
pub fn architecture(host: &dyn Host) -> Result<String> {
    let running = host.read_line("/proc/sys/kernel/osrelease")?.unwrap_or_default();
    Ok(match running.rsplit('.').next() {
        Some(last @ ("x86_64" | "aarch64" | "ppc64le")) => last.to_string(),
        _ => "x86_64".to_string(),
    })
}

/// Installs the package with ELRepo's repositories, its signature checked against ELRepo's keys.
///
/// # Errors
/// An Enterprise Linux that ELRepo has nothing for.
pub fn release(host: &dyn Host, os: &Os, url: Option<&str>) -> Result<Plan> {
    let Some((usual, keys)) = sources(os.major()) else {
        return Err(Error::refused(format!("no release package of ELRepo is known for {}", os.pretty)));
    };
    let url = url.unwrap_or(&usual);
    for (file, fingerprint) in keys {
        let key = serde_json::json!({"key": format!("{SITE}/{file}"), "fingerprint": fingerprint});
        let key: RpmKey =
            serde_json::from_value(key).map_err(|e| Error::failed(format!("ELRepo's key {file}: {e}")))?;
        let mut plan = key.plan(host)?;
        if !plan.actions.is_empty() {
            plan.staged = true;
            return Ok(plan);
        }
    }
    let mut plan = Plan::nothing();
    let tool = if os.major() <= 7 { "yum" } else { "dnf" };
    let known = host.available("elrepo-release")?;
    let mut effects = vec![Effect::Package {
        name: "elrepo-release".into(),
        version: known.as_ref().map(|known| known.version.clone()),
        present: true,
    }];
    if !known.is_some_and(|known| known.files.contains_key(REPOSITORY)) {
        effects.push(Effect::File { path: REPOSITORY.into(), content: Some(repository(os.major())), mode: None });
    }
    let mut run = Run::new([tool, "-y", "--setopt=localpkg_gpgcheck=1", "install", url], effects);
    run.undo = Some([tool, "-y", "remove", "elrepo-release"].map(String::from).to_vec());
    plan.push(Op::Run(run), vec![Diff::added("package", "elrepo-release", format!("from {url}"))]);
    plan.staged = true;
    Ok(plan)
}

const REPOSITORY: &str = "/etc/yum.repos.d/elrepo.repo";

/// The repositories that the release package brings: only the first is on.
fn repository(major: u32) -> String {
    [
        ("elrepo", "elrepo", 1),
        ("elrepo-testing", "testing", 0),
        ("elrepo-kernel", "kernel", 0),
        ("elrepo-extras", "extras", 0),
    ]
    .iter()
    .map(|(id, folder, enabled)| {
        let key = if major >= 9 { "RPM-GPG-KEY-v2-elrepo.org" } else { "RPM-GPG-KEY-elrepo.org" };
        format!(
            "[{id}]\nname=ELRepo.org Community Enterprise Linux Repository - el{major} ({folder})\n\
                 baseurl=http://elrepo.org/linux/{folder}/el{major}/$basearch/\nenabled={enabled}\ngpgcheck=1\n\
                 gpgkey=file:///etc/pki/rpm-gpg/{key}\n\n"
        )
    })
    .collect()
}

/// What installing a kernel does: its files, its initramfs, and an entry with the arguments of the default one.
///
/// # Errors
/// Trouble reading the machine.
pub fn kernel_effects(host: &dyn Host, boot: &Boot, release: &str, package: &str) -> Result<Vec<Effect>> {
    let mut effects = Vec::new();
    let unknown = |path: String, mode| Effect::File { path, content: None, mode: Some(mode) };
    effects.push(unknown(format!("/boot/vmlinuz-{release}"), 0o755));
    effects.push(unknown(format!("/boot/initramfs-{release}.img"), 0o600));
    effects.push(unknown(format!("/boot/System.map-{release}"), 0o600));
    let modules = format!("/lib/modules/{release}");
    // EL7's are not compressed. The parts of VFIO by version: vfio_virqfd is in vfio from 6.2, vfio-pci-core came with 5.15.
    let ending = if boot.os.major() <= 7 { "ko" } else { "ko.xz" };
    let newer = |than: &str| compare_releases(release, than).is_ge();
    let mut parts = vec!["vfio", "vfio_iommu_type1", "pci/vfio-pci"];
    parts.extend((!newer("6.2")).then_some("vfio_virqfd"));
    parts.extend(newer("5.15").then_some("pci/vfio-pci-core"));
    let mut list = String::new();
    for part in parts {
        let path = format!("kernel/drivers/vfio/{part}.{ending}");
        list.push_str(&format!("{path}:\n"));
        effects.push(unknown(format!("{modules}/{path}"), 0o644));
    }
    effects.push(Effect::File { path: format!("{modules}/modules.dep"), content: Some(list), mode: None });
    effects.push(Effect::File { path: format!("{modules}/modules.builtin"), content: Some(String::new()), mode: None });
    effects.extend(entry_effect(host, boot, release)?);
    // What the machine knows of the package is better than what is foreseen here.
    let known = host.available(package)?.map(|known| known.files).unwrap_or_default();
    effects.retain(|effect| !matches!(effect, Effect::File { path, .. } if known.contains_key(path)));
    Ok(effects)
}

/// The boot entry that such a package brings.
pub(super) fn entry_effect(host: &dyn Host, boot: &Boot, release: &str) -> Result<Option<Effect>> {
    let like = boot.default_entry().ok().or_else(|| boot.entries.iter().find(|entry| !entry.recovery));
    let Some((like, old)) = like.and_then(|entry| Some((entry, entry.version.as_deref()?))) else { return Ok(None) };
    if boot.kind == Kind::GrubCfg {
        let item = boot.cfg.items.iter().find(|item| item.position == like.position);
        let text = item.and_then(|item| grub_cfg::add_kernel(&boot.text, &boot.cfg, item, old, release));
        return Ok(text.map(|text| Effect::File { path: boot.menu.clone(), content: Some(text), mode: None }));
    }
    let text = host.read_text(&like.file)?.unwrap_or_default();
    let path = format!("{}/{}.conf", boot.entries_dir, like.id.replace(old, release));
    Ok(Some(Effect::File { path, content: Some(bls::for_kernel(&text, old, release)), mode: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn package_files_by_name() {
        let rpm = Rpm::from_url("http://x/RPMS/kernel-ml-4.9.2-1.el7.elrepo.x86_64.rpm?a=b").unwrap();
        assert_eq!((rpm.name.as_str(), rpm.version.as_str()), ("kernel-ml", "4.9.2-1.el7.elrepo"));
        assert_eq!(rpm.release(), "4.9.2-1.el7.elrepo.x86_64");
        assert_eq!(el_of(&rpm.version), Some(7));
        for bad in ["http://x/", "kernel.rpm", "a-b.rpm", "a-b-c.x.rpm", "", "x.rpm"] {
            assert!(Rpm::from_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn each_enterprise_linux_has_its_keys() {
        let (url, keys) = sources(7).unwrap();
        assert_eq!(url, "https://www.elrepo.org/elrepo-release-7.el7.elrepo.noarch.rpm");
        assert_eq!(keys, [V1]);
        assert_eq!(sources(10).map(|(_, keys)| keys), Some([V2].as_slice()));
        assert!(sources(6).is_none());
    }
}
