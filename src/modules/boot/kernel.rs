//! `kernel`: which kernel is installed, which one boots next, which one runs: three facts.

use std::cmp::Ordering;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::elrepo::{self, Rpm};
use super::loader::{self, Boot, BootEntry, Kind};
use super::{grub_cfg, grub_default, grubenv, room, template, trial, unfinished};
use crate::change::{Action, Content, Diff, Effect, Op, Plan, Run};
use crate::host::version::compare_rpm;
use crate::host::{Error, Family, Host, Result};
use crate::modules::Module;
use crate::modules::packages::{self, Install};
use crate::modules::params::{Flag, Text, yes};

/// Has a kernel of at least some version installed and makes it the one that boots.
///
/// The kernel comes from ELRepo (kernel-ml is the mainline, kernel-lt a long-term one; Enterprise Linux 8 to 10), from a
/// package at a fixed URL (Enterprise Linux 7, whose repository is gone), or is the distribution's own, which is the default
/// and right nearly everywhere. Being installed, being the default of the next boot and running are told apart: a reboot is
/// asked for, never done.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// Which kernel: `distribution` (the default), `kernel-ml` or `kernel-lt`.
    name: Option<Name>,
    /// At least this version, such as "4.9" or "4.9.2-1". A kernel that is already installed and new enough is taken.
    minimum: Option<Text>,
    /// The kernel's RPM at a fixed address, best with `sha256`. Its file name must be the usual
    /// `kernel-ml-6.9.7-1.el7.elrepo.x86_64.rpm`. Without `minimum` exactly this version is meant.
    url: Option<String>,
    /// Hex SHA-256 of the file at `url`. Without it, the first content seen is kept in the lock file, and holds.
    sha256: Option<String>,
    /// Another address of the package that brings ELRepo's repositories, such as a mirror's.
    release_url: Option<String>,
    /// The repository that is switched on for the installation; `elrepo-kernel` unless said otherwise.
    enablerepo: Option<String>,
    /// Make it the default of the next boot; true unless said otherwise.
    #[serde(default = "yes")]
    default: Flag,
}

/// Which kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Name {
    /// The distribution's own.
    Distribution,
    /// ELRepo's mainline kernel.
    KernelMl,
    /// ELRepo's long-term kernel.
    KernelLt,
}

impl Name {
    fn package(self) -> &'static str {
        match self {
            Name::Distribution => "kernel",
            Name::KernelMl => "kernel-ml",
            Name::KernelLt => "kernel-lt",
        }
    }
}

/// Compares releases as `uname -r` prints them by what is before the first `-`, then by the rest where both have one.
pub fn compare_releases(a: &str, b: &str) -> Ordering {
    let split = |text: &str| match text.split_once('-') {
        Some((version, rest)) => (version.to_string(), Some(rest.replace('-', "."))),
        None => (text.to_string(), None),
    };
    let ((version_a, rest_a), (version_b, rest_b)) = (split(a), split(b));
    compare_rpm(&version_a, &version_b).then_with(|| match (rest_a, rest_b) {
        (Some(a), Some(b)) => compare_rpm(&a, &b),
        _ => Ordering::Equal,
    })
}

/// What is asked for, checked.
struct Wish<'a> {
    name: Name,
    minimum: Option<&'a str>,
    pinned: Option<Rpm>,
    /// The release of the installed package, where that is the only thing that tells one ELRepo kernel from another.
    other: Option<String>,
}

impl Wish<'_> {
    /// Is a kernel of this release what is asked for?
    fn is(&self, release: &str) -> bool {
        let kind = match self.name {
            Name::Distribution => !elrepo::is_elrepo(release),
            _ => elrepo::is_elrepo(release) && self.other.as_deref().is_none_or(|other| other != release),
        };
        let enough = self.minimum.is_none_or(|minimum| compare_releases(release, minimum).is_ge());
        let exact = match &self.pinned {
            Some(rpm) if self.minimum.is_none() => rpm.release() == release,
            _ => true,
        };
        (kind || self.pinned.as_ref().is_some_and(|rpm| rpm.release() == release)) && enough && exact
    }
}

impl Module for Kernel {
    const NAME: &'static str = "kernel";
    const SUMMARY: &'static str =
        "Have a kernel of at least some version installed and make it the default of the next boot";

    fn plan(&self, host: &dyn Host) -> Result<Plan> {
        let pinned = self.pinned()?;
        let name = self.name(pinned.as_ref())?;
        let boot = match loader::read(host) {
            Err(error)
                if !error.is_unknown() && name == Name::Distribution && self.minimum.is_none() && pinned.is_none() =>
            {
                let mut plan = Plan::nothing();
                plan.notes.push(format!("the distribution's kernel stays as it is: {}", error.message));
                return Ok(plan);
            }
            boot => boot?,
        };
        elrepo::check_system(&boot.os, name, pinned.as_ref())?;
        let other = match name {
            Name::Distribution => None,
            Name::KernelMl => installed(host, Name::KernelLt)?,
            Name::KernelLt => installed(host, Name::KernelMl)?,
        };
        let wish = Wish { name, minimum: self.minimum.as_deref(), pinned, other };
        let mut plan = self.changes(host, &boot, &wish)?;
        tell(host, &boot, &wish, self.default.0, &mut plan)?;
        Ok(plan)
    }
}

/// The release of the installed kernel of this name.
fn installed(host: &dyn Host, name: Name) -> Result<Option<String>> {
    for package in [name.package().to_string(), format!("{}-core", name.package())] {
        if let Some(found) = host.package(&package)? {
            let Some(version) = found.version else {
                return Err(Error::unknown(format!("the version of {package}"), "an earlier action installs it"));
            };
            return Ok(Some(format!("{version}.{}", elrepo::architecture(host)?)));
        }
    }
    Ok(None)
}

fn tell(host: &dyn Host, boot: &Boot, wish: &Wish, make_default: bool, plan: &mut Plan) -> Result<()> {
    let fitting: Vec<String> = candidates(boot, wish).iter().filter_map(|entry| entry.version.clone()).collect();
    let default = boot.default_entry().ok().and_then(|entry| entry.version.clone());
    let running = host.read_line("/proc/sys/kernel/osrelease")?;
    let is = |release: &Option<String>| release.as_deref().is_some_and(|release| wish.is(release));
    plan.set("installed", fitting);
    plan.set("default", default.clone());
    plan.set("is_default", is(&default));
    plan.set("running", running.clone());
    plan.set("is_running", is(&running));
    if let Some(next) = boot.next().filter(|next| !next.is_default) {
        plan.warnings.push(format!("`{}` is set to boot once, the next time, instead of the default", next.title));
    }
    if let (true, Some(running)) = (make_default, running.filter(|running| !wish.is(running))) {
        let next = match (is(&default), &default) {
            (true, Some(default)) => default.clone(),
            _ => wish.name.package().to_string(),
        };
        plan.reboot.push(format!("the kernel {next} is for the next boot, and {running} is running"));
    }
    if !plan.reboot.is_empty() {
        plan.warnings.extend(trial::told(host, boot)?);
    }
    plan.set("reboot_required", !plan.reboot.is_empty());
    Ok(())
}

/// The entries whose kernel is what is asked for, the newest first.
fn candidates<'a>(boot: &'a Boot, wish: &Wish) -> Vec<&'a BootEntry> {
    let release = |entry: &BootEntry| entry.version.clone().unwrap_or_default();
    let mut found: Vec<&BootEntry> =
        boot.entries.iter().filter(|entry| !entry.recovery && wish.is(&release(entry))).collect();
    found.sort_by(|a, b| compare_releases(&release(b), &release(a)));
    found
}

impl Kernel {
    fn pinned(&self) -> Result<Option<Rpm>> {
        match (&self.url, &self.sha256) {
            (None, None) => Ok(None),
            (Some(url), _) => {
                let rpm = Rpm::from_url(url)?;
                if let Some(minimum) = self.minimum.as_deref()
                    && compare_releases(&rpm.release(), minimum).is_lt()
                {
                    return Err(Error::parameters(format!(
                        "`url:` gives {}, older than `minimum: {minimum}`",
                        rpm.release()
                    )));
                }
                Ok(Some(rpm))
            }
            (None, Some(_)) => Err(Error::parameters("`sha256:` belongs to `url:`, which is missing")),
        }
    }

    fn name(&self, pinned: Option<&Rpm>) -> Result<Name> {
        let by_file = match pinned.map(|rpm| rpm.name.as_str()) {
            None => None,
            Some("kernel-ml" | "kernel-ml-core") => Some(Name::KernelMl),
            Some("kernel-lt" | "kernel-lt-core") => Some(Name::KernelLt),
            Some("kernel" | "kernel-core") => Some(Name::Distribution),
            Some(other) => {
                return Err(Error::parameters(format!("`url:` is not a kernel that this program knows but {other}"))
                    .hint("kernel-ml, kernel-lt or kernel"));
            }
        };
        match (self.name, by_file) {
            (Some(name), Some(file)) if name != file => {
                let (name, file) = (name.package(), file.package());
                Err(Error::parameters(format!("`name:` means {name} and `url:` gives {file}")))
            }
            (name, file) => Ok(name.or(file).unwrap_or(Name::Distribution)),
        }
    }

    fn changes(&self, host: &dyn Host, boot: &Boot, wish: &Wish) -> Result<Plan> {
        if let Some(plan) = unfinished::clear(host, boot)? {
            return Ok(plan);
        }
        let fitting = candidates(boot, wish);
        let default = boot.default_entry().ok();
        if let Some(best) = fitting.first() {
            let is_default = default.and_then(|entry| entry.version.as_deref()).is_some_and(|release| wish.is(release));
            if is_default || !self.default.0 {
                return Ok(Plan::nothing());
            }
            if wish.name != Name::Distribution {
                refuse_secure_boot(host)?;
                if let (Some(image), Some(release)) = (&best.image, &best.version)
                    && !host.exists(image)?
                    && let Some(plan) = finish::finish(host, boot, release)?
                {
                    return Ok(plan);
                }
            }
            return set_default(host, boot, best);
        }
        if wish.name == Name::Distribution && wish.pinned.is_none() {
            return match (wish.minimum, default) {
                (None, _) => Ok(Plan::nothing()),
                (Some(minimum), _) => Err(too_old(boot, minimum)),
            };
        }
        if wish.name != Name::Distribution {
            refuse_secure_boot(host)?;
        }
        refuse_full_boot(host, default)?;
        self.install(host, boot, wish)
    }

    fn install(&self, host: &dyn Host, boot: &Boot, wish: &Wish) -> Result<Plan> {
        let name = wish.name.package();
        let no_entry = |release: &str| {
            Error::failed(format!(
                "{name} {release} is installed, and the boot menu ({}) has no entry for it",
                boot.menu
            ))
            .hint(format!(
                "run `kernel-install add {release} /lib/modules/{release}/vmlinuz`, or reinstall the package"
            ))
        };
        let already = installed(host, wish.name)?.filter(|release| wish.is(release));
        if let Some(release) = already {
            return finish::finish(host, boot, &release)?.ok_or_else(|| no_entry(&release));
        }
        if let (Some(rpm), Some(url)) = (&wish.pinned, &self.url) {
            let effects = elrepo::kernel_effects(host, boot, &rpm.release(), &rpm.name)?;
            let wanted =
                Install { names: &[url], sha256: self.sha256.as_deref(), effects: &effects, ..Install::default() };
            let mut plan = packages::install(host, &wanted)?;
            if plan.actions.is_empty() {
                return Err(no_entry(&rpm.release()));
            }
            plan.actions.splice(0..0, name_default(host, boot)?);
            plan.staged = true;
            return Ok(plan);
        }
        let repository = self.enablerepo.as_deref().unwrap_or("elrepo-kernel");
        let own_way = self.release_url.is_some() || self.enablerepo.is_some();
        if boot.os.major() <= 7 && !own_way {
            return Err(elrepo::gone(wish.name));
        }
        if repository == "elrepo-kernel" && host.package("elrepo-release")?.is_none() {
            return elrepo::release(host, &boot.os, self.release_url.as_deref());
        }
        let newest = packages::candidate(host, name, &[repository])?;
        if let (Some(newest), Some(minimum)) = (&newest, wish.minimum)
            && compare_releases(newest, minimum).is_lt()
        {
            return Err(Error::failed(format!("{repository} gives {name} {newest}, older than `minimum: {minimum}`"))
                .hint("ask for less, or give `url:` with `sha256:`"));
        }
        let effects = match &newest {
            Some(version) => {
                let release = format!("{version}.{}", elrepo::architecture(host)?);
                elrepo::kernel_effects(host, boot, &release, name)?
            }
            None => Vec::new(),
        };
        let wanted = Install {
            names: &[name],
            enablerepo: &[repository],
            latest: true,
            effects: &effects,
            ..Install::default()
        };
        let mut plan = packages::install(host, &wanted)?;
        if plan.actions.is_empty() {
            return Err(Error::failed(format!("{name} is installed, and {repository} has nothing newer")));
        }
        plan.actions.splice(0..0, name_default(host, boot)?);
        plan.staged = true;
        Ok(plan)
    }
}

fn too_old(boot: &Boot, minimum: &str) -> Error {
    let newest = boot.entries.iter().filter_map(|entry| entry.version.as_deref()).max_by(|a, b| compare_releases(a, b));
    let hint = match boot.os.family {
        Family::El => "`name: kernel-ml` takes ELRepo's mainline kernel (on EL7 with `url:` and `sha256:`)",
        Family::Debian => "install linux-image-amd64 from backports with the `package` module first",
        Family::Ubuntu => "install linux-generic-hwe with the `package` module first",
        _ => "update the distribution's kernel with the `package` module first",
    };
    Error::failed(format!("no installed kernel is at least {minimum}; the newest is {}", newest.unwrap_or("unknown")))
        .hint(hint)
}

/// ELRepo's kernels carry no signature that the firmware trusts: with Secure Boot on, they would not start.
fn refuse_secure_boot(host: &dyn Host) -> Result<()> {
    const VARIABLES: &str = "/sys/firmware/efi/efivars";
    for name in host.list(VARIABLES)?.iter().filter(|name| name.starts_with("SecureBoot-")) {
        // Four bytes of attributes, then the value (UEFI specification, "Globally Defined Variables").
        if host.read(&format!("{VARIABLES}/{name}"))?.unwrap_or_default().get(4) == Some(&1) {
            return Err(Error::refused("Secure Boot is on, and ELRepo's kernels are not signed for it: the machine would not boot")
                .hint("switch Secure Boot off in the firmware's settings, or keep the distribution's kernel (`name: distribution`)"));
        }
    }
    Ok(())
}

fn refuse_full_boot(host: &dyn Host, default: Option<&BootEntry>) -> Result<()> {
    let size = |path: Option<&str>| -> Result<u64> {
        Ok(match path {
            Some(path) => host.stat(path)?.map_or(0, |stat| stat.size),
            None => 0,
        })
    };
    let kernel = size(default.map(|entry| entry.path.as_str()))?;
    let initramfs = size(default.and_then(|entry| entry.image.as_deref()))?;
    room::need(host, room::of_kernel(kernel, initramfs), "another kernel")
}

fn set_default(host: &dyn Host, boot: &Boot, entry: &BootEntry) -> Result<Plan> {
    for path in std::iter::once(&entry.path).chain(&entry.image) {
        if !host.exists(path)? {
            return Err(Error::refused(format!("`{}` can't become the default: {path} is missing", entry.title))
                .hint("install its package again, or have its initramfs made (`initramfs`)"));
        }
    }
    let mut plan = Plan::nothing();
    let before = boot.default_entry().map_or("not a Linux of this machine".to_string(), |entry| entry.title.clone());
    let diff = Diff::changed("boot_default", "the next boot", before, &entry.title);
    if boot.kind == Kind::SystemdBoot {
        return systemd_default(host, boot, entry, diff);
    }
    if !boot.cfg.saved {
        // The default is written down in grub.cfg; from now on it is what the environment block says.
        let text = host.read_text(template::DEFAULT)?.unwrap_or_default();
        let new = grub_default::edit(&text, "GRUB_DEFAULT", |_| "saved".into())
            .map_err(|why| Error::refused(format!("{}: {why}", template::DEFAULT)))?;
        if new != text {
            let op = Op::WriteFile {
                path: template::DEFAULT.into(),
                content: Content::Bytes(new.clone().into_bytes()),
                mode: None,
                owner: None,
                group: None,
                validate: vec![vec!["sh".into(), "-n".into(), "%s".into()]],
            };
            plan.push(op, vec![Diff::file(template::DEFAULT, Some(text.as_bytes()), Some(new.as_bytes()))]);
        }
        let fixed = boot.cfg.default.clone().unwrap_or_else(|| "0".into());
        let diffs =
            vec![Diff::changed("boot_default", &boot.menu, format!("entry {fixed}"), "the entry that was saved")];
        plan.actions.extend(boot.regenerate(host, grub_cfg::save_default(&boot.text), diffs)?);
        plan.staged = true;
        return Ok(plan);
    }
    let mut run = save_entry(host, boot, entry)?;
    let setter = boot.tool(host, "set-default")?;
    let saved = grubenv::get(&boot.env, "saved_entry").filter(|saved| !saved.is_empty());
    let old = saved.or_else(|| boot.default_entry().ok().map(|entry| entry.id.clone()));
    run.undo = old.map(|old| vec![setter, old]);
    plan.push(Op::Run(run), vec![diff]);
    Ok(plan)
}

/// Writes the entry into GRUB's environment block.
fn save_entry(host: &dyn Host, boot: &Boot, entry: &BootEntry) -> Result<Run> {
    let grubby = matches!(boot.os.family, Family::El | Family::Fedora) && loader::has_program(host, "grubby")?;
    let argv = if grubby {
        vec!["grubby".to_string(), format!("--set-default={}", entry.path)]
    } else {
        vec![boot.tool(host, "set-default")?, entry.id.clone()]
    };
    let content = boot.env_with("saved_entry", &entry.id)?;
    Ok(Run::new(argv, vec![Effect::File { path: boot.env_path.clone(), content: Some(content), mode: None }]))
}

/// Where the saved default is a place in the menu (`grub2-set-default 0`) or nothing, a new kernel would take it by being
/// installed, without a trial and without a way back. So the entry that it means is named before.
fn name_default(host: &dyn Host, boot: &Boot) -> Result<Option<Action>> {
    let Ok(default) = boot.default_entry() else { return Ok(None) };
    let saved = grubenv::get(&boot.env, "saved_entry").unwrap_or_default();
    if boot.kind == Kind::SystemdBoot || !boot.cfg.saved || !(saved.is_empty() || saved.parse::<usize>().is_ok()) {
        return Ok(None);
    }
    let mut run = save_entry(host, boot, default)?;
    // What boots by default is to be the same again, and a place in the menu is another kernel by then.
    run.undo = Some(run.argv.clone());
    let before = if saved.is_empty() { "the first entry".into() } else { format!("entry {saved}") };
    let diff = Diff::changed("boot_default", "until the new kernel is chosen", before, &default.title);
    Ok(Some(Action { op: Op::Run(run), diffs: vec![diff] }))
}

fn systemd_default(host: &dyn Host, boot: &Boot, entry: &BootEntry, diff: Diff) -> Result<Plan> {
    if host.list("/sys/firmware/efi/efivars")?.iter().any(|name| name.starts_with("LoaderEntryDefault-")) {
        return Err(Error::refused(
            "the firmware's variable LoaderEntryDefault names another default, and goes before loader.conf",
        )
        .hint(format!("run `bootctl set-default {}.conf`", entry.id)));
    }
    let new = loader::with_default(&boot.text, &format!("{}.conf", entry.id));
    let before = host.read(&boot.menu)?;
    let file = Diff::file(&boot.menu, before.as_deref(), Some(new.as_bytes()));
    let op = Op::WriteFile {
        path: boot.menu.clone(),
        content: Content::Bytes(new.into_bytes()),
        mode: None,
        owner: None,
        group: None,
        validate: Vec::new(),
    };
    let mut plan = Plan::nothing();
    plan.push(op, vec![diff, file]);
    Ok(plan)
}

mod finish;
#[cfg(test)]
mod tests;
