//! Which boot loader a machine has, what is in its menu, and which entry it boots next.

use super::grub_cfg::{self, GrubCfg, Item};
use super::{bls, cmdline, grubenv, unfinished};
use crate::change::{Action, Content, Diff, Effect, Op, Run};
use crate::host::{Error, Family, Host, Os, Result};

/// How the menu is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// GRUB, the entries are in grub.cfg: EL7, Debian, Ubuntu, Arch, openSUSE, EL8+ with `GRUB_ENABLE_BLSCFG=false`.
    GrubCfg,
    /// GRUB, the entries are files in /boot/loader/entries: EL8+, Fedora.
    GrubBls,
    /// systemd-boot.
    SystemdBoot,
}

/// One Linux entry of the menu.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootEntry {
    /// As the menu shows it.
    pub title: String,
    /// What `saved_entry` would hold, with the ids of the submenus around it.
    pub id: String,
    /// The kernel as the boot loader sees it.
    pub kernel: String,
    /// The kernel as this machine sees it.
    pub path: String,
    /// The kernel's release, as `uname -r` would print it.
    pub version: Option<String>,
    /// Initial RAM disks as the boot loader sees them.
    pub initrd: Vec<String>,
    /// The initramfs as this machine sees it (not the microcode).
    pub image: Option<String>,
    /// The kernel's arguments, variables put in.
    pub args: String,
    /// The arguments as written.
    pub raw: String,
    /// The file it stands in.
    pub file: String,
    /// It is what boots when nobody chooses.
    pub is_default: bool,
    /// It is what boots the next time: the default, unless another one is set for once.
    pub is_next: bool,
    /// Made for repairs: recovery mode, or the rescue kernel.
    pub recovery: bool,
    /// Its place in grub.cfg's menu.
    pub position: Vec<usize>,
}

impl BootEntry {
    /// The kernel's arguments.
    pub fn tokens(&self) -> Vec<String> {
        cmdline::words(&self.args)
    }
    /// The kernel's arguments as GRUB's script has them: grub.cfg's own text, variables of other files put in.
    pub(super) fn raw_args(&self) -> &str {
        if self.file.ends_with(".cfg") { &self.raw } else { &self.args }
    }
    /// Is its kernel the one that Enterprise Linux keeps for emergencies?
    pub fn is_rescue_kernel(&self) -> bool {
        self.version.as_deref().is_some_and(|version| version.starts_with("0-rescue"))
    }
}

/// A machine's boot loader as it is set up.
#[derive(Clone, Debug)]
pub struct Boot {
    /// Which one.
    pub kind: Kind,
    /// The operating system.
    pub os: Os,
    /// grub.cfg, or loader.conf of systemd-boot.
    pub menu: String,
    /// Its text.
    pub text: String,
    /// What it says (GRUB).
    pub cfg: GrubCfg,
    /// GRUB's environment block.
    pub env_path: String,
    /// Its content, empty when there is none.
    pub env: String,
    /// The folder of the entries' files.
    pub entries_dir: String,
    /// What is in the menu, in its order.
    pub entries: Vec<BootEntry>,
}

/// The Linux entries of the machine's menu.
///
/// # Errors
/// When there is no boot loader that this program knows.
pub fn entries(host: &dyn Host) -> Result<Vec<BootEntry>> {
    Ok(read(host)?.entries)
}

/// The entry that boots when nobody chooses.
///
/// # Errors
/// When there is no boot loader that this program knows, or the default is not a Linux.
pub fn default_entry(host: &dyn Host) -> Result<BootEntry> {
    read(host)?.default_entry().cloned()
}

/// Reads how the machine boots.
///
/// # Errors
/// When there is no boot loader that this program knows.
pub fn read(host: &dyn Host) -> Result<Boot> {
    let os = host.os()?;
    if let Some(menu) = grub_menu(host, &os)? {
        let text = host.read_text(&menu)?.unwrap_or_default();
        return grub(host, os, menu, text);
    }
    for esp in ["/efi", "/boot", "/boot/efi"] {
        let menu = format!("{esp}/loader/loader.conf");
        let entries_dir = format!("{esp}/loader/entries");
        let unified = host.list(&format!("{esp}/EFI/Linux"))?.iter().any(|name| name.ends_with(".efi"));
        let some = host.list(&entries_dir)?.iter().any(|name| name.ends_with(".conf"));
        if some {
            let text = host.read_text(&menu)?.unwrap_or_default();
            return systemd_boot(host, os, esp, menu, text, entries_dir);
        }
        if unified {
            return Err(Error::refused(format!(
                "{esp}/EFI/Linux holds unified kernel images, whose command line is sealed in"
            ))
            .hint("edit /etc/kernel/cmdline and rebuild them with the distribution's tool, such as `mkinitcpio -P`"));
        }
    }
    Err(Error::failed("no boot loader found that this program knows").hint(
        "looked for grub.cfg below /boot/grub2, /boot/grub and /boot/efi/EFI, and for loader/entries of systemd-boot in \
         /efi, /boot and /boot/efi",
    ))
}

/// The real grub.cfg; a stub that only leads to another one is never it.
fn grub_menu(host: &dyn Host, os: &Os) -> Result<Option<String>> {
    let mut candidates = Vec::new();
    if os.family.is_rpm() {
        if host.exists("/sys/firmware/efi")? {
            for link in ["/etc/grub2-efi.cfg", "/boot/efi/EFI/{id}/grub.cfg"] {
                candidates.push(link.replace("{id}", &os.id));
            }
            for vendor in host.list("/boot/efi/EFI")? {
                if !vendor.eq_ignore_ascii_case("BOOT") {
                    candidates.push(format!("/boot/efi/EFI/{vendor}/grub.cfg"));
                }
            }
        }
        candidates.push("/boot/grub2/grub.cfg".into());
    }
    candidates.push("/boot/grub/grub.cfg".into());
    for path in candidates {
        if !host.exists(&path)? {
            continue;
        }
        let text = String::from_utf8_lossy(&host.read(&path)?.unwrap_or_default()).into_owned();
        if !is_stub(&text) {
            return host.real_path(&path).map(Some);
        }
    }
    Ok(None)
}

/// A grub.cfg that only says where the real one is.
pub fn is_stub(text: &str) -> bool {
    let leads_on = text.lines().any(|line| line.trim_start().starts_with("configfile "));
    leads_on && !text.contains("### BEGIN /etc/grub.d/")
}

fn grub(host: &dyn Host, os: Os, menu: String, text: String) -> Result<Boot> {
    let cfg = grub_cfg::parse(&text);
    let folder = menu.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut env_path = format!("{folder}/grubenv");
    for path in ["/boot/grub2/grubenv", "/boot/grub/grubenv"] {
        if host.exists(path)? {
            env_path = host.real_path(path)?;
            break;
        }
    }
    let env = host.read_text(&env_path)?.unwrap_or_default();
    let entries_dir = "/boot/loader/entries".to_string();
    let kind = if cfg.bls { Kind::GrubBls } else { Kind::GrubCfg };
    let mut boot = Boot { kind, os, menu, text, cfg, env_path, env, entries_dir, entries: Vec::new() };
    boot.entries = match kind {
        Kind::GrubBls => bls_entries(host, &boot)?,
        _ => cfg_entries(host, &boot)?,
    };
    let wanted = if boot.cfg.saved { grubenv::get(&boot.env, "saved_entry") } else { boot.cfg.default.clone() };
    let wanted = wanted.filter(|wanted| !wanted.is_empty()).unwrap_or_else(|| "0".into());
    let default = boot.position_of(&wanted).or_else(|| boot.position_of("0"));
    let once = grubenv::get(&boot.env, "next_entry").filter(|once| boot.cfg.next && !once.is_empty());
    let next = once.and_then(|once| boot.position_of(&once)).or(default);
    for (n, entry) in boot.entries.iter_mut().enumerate() {
        entry.is_default = Some(n) == default;
        entry.is_next = Some(n) == next;
    }
    Ok(boot)
}

/// Entries of other systems, which `grub-mkconfig` finds or the administrator wrote, are not this machine's kernels, nor are
/// files that are not whole.
fn is_own(item: &Item) -> bool {
    !item.is_unfinished()
        && item.section.as_deref().is_none_or(|section| section.contains("_linux") && !section.contains("xen"))
}

fn cfg_entries(host: &dyn Host, boot: &Boot) -> Result<Vec<BootEntry>> {
    let mut found = Vec::new();
    for item in boot.cfg.items.iter().filter(|item| is_own(item)) {
        let Some(linux) = &item.linux else { continue };
        let raw = boot.text.get(linux.args.clone()).unwrap_or("").to_string();
        let recovery =
            item.title.contains("(recovery mode)") || item.id.as_ref().is_some_and(|id| id.contains("-recovery-"));
        let by_id = boot.os.family.is_deb() || boot.os.family == Family::Arch;
        found.push(entry(
            host,
            Seen {
                title: boot.cfg.name(item, false),
                id: boot.cfg.name(item, by_id),
                kernel: linux.path.clone(),
                version: None,
                initrd: item.initrd.clone(),
                args: raw.clone(),
                raw,
                file: boot.menu.clone(),
                recovery,
                position: item.position.clone(),
            },
            "/boot",
        )?);
    }
    Ok(found)
}

fn bls_entries(host: &dyn Host, boot: &Boot) -> Result<Vec<BootEntry>> {
    let variable = |name: &str| {
        grubenv::get(&boot.env, name).or_else(|| if name == "kernelopts" { boot.cfg.kernelopts.clone() } else { None })
    };
    let mut found = Vec::new();
    for (id, file, text) in entry_files(host, &boot.entries_dir)? {
        found.push(bls_entry(host, &id, &file, &text, &variable, "/boot")?);
    }
    found.sort_by(|a, b| bls::compare_ids(&a.id, &b.id));
    Ok(found)
}

fn entry_files(host: &dyn Host, folder: &str) -> Result<Vec<(String, String, String)>> {
    let mut found = Vec::new();
    for name in host.list(folder)? {
        let Some(id) = name.strip_suffix(".conf") else { continue };
        let file = format!("{folder}/{name}");
        if let Some(text) = host.read_text(&file)? {
            found.push((id.to_string(), file, text));
        }
    }
    Ok(found)
}

fn bls_entry(
    host: &dyn Host,
    id: &str,
    file: &str,
    text: &str,
    variable: &dyn Fn(&str) -> Option<String>,
    place: &str,
) -> Result<BootEntry> {
    let raw = bls::options(text);
    entry(
        host,
        Seen {
            title: bls::get(text, "title").unwrap_or_else(|| id.to_string()),
            id: id.to_string(),
            kernel: bls::get(text, "linux").unwrap_or_default(),
            version: bls::get(text, "version"),
            initrd: bls::all(text, "initrd").iter().flat_map(|line| cmdline::words(line)).collect(),
            args: bls::expand(&raw, variable),
            raw,
            file: file.to_string(),
            recovery: false,
            position: Vec::new(),
        },
        place,
    )
}

struct Seen {
    title: String,
    id: String,
    kernel: String,
    version: Option<String>,
    initrd: Vec<String>,
    args: String,
    raw: String,
    file: String,
    recovery: bool,
    position: Vec<usize>,
}

fn entry(host: &dyn Host, seen: Seen, place: &str) -> Result<BootEntry> {
    let path = on_host(host, &seen.kernel, place)?;
    let mut image = None;
    for disk in seen.initrd.iter().filter(|disk| !disk.contains("ucode") && !disk.starts_with('$')) {
        image = Some(on_host(host, disk, place)?);
    }
    let version = match seen.version {
        Some(version) => Some(version),
        None => version_of(host, &seen.kernel)?,
    };
    let rescue = version.as_deref().is_some_and(|version| version.starts_with("0-rescue"));
    Ok(BootEntry {
        title: seen.title,
        id: seen.id,
        kernel: seen.kernel,
        path,
        version,
        initrd: seen.initrd,
        image,
        args: seen.args,
        raw: seen.raw,
        file: seen.file,
        is_default: false,
        is_next: false,
        recovery: seen.recovery || rescue,
        position: seen.position,
    })
}

/// Where this machine sees a file that the boot loader sees at `path`: the loader's root may be the machine's, a
/// partition for /boot, an EFI partition, or a btrfs subvolume.
fn on_host(host: &dyn Host, path: &str, place: &str) -> Result<String> {
    let path = match path.strip_prefix('(').and_then(|rest| rest.split_once(')')) {
        Some((_, path)) => path,
        None => path,
    };
    let name = path.rsplit('/').next().unwrap_or(path);
    let below = format!("{place}/{}", path.trim_start_matches('/'));
    let beside = format!("{place}/{name}");
    for candidate in [path, &below, &beside] {
        if candidate.starts_with('/') && host.exists(candidate)? {
            return Ok(candidate.to_string());
        }
    }
    Ok(if path.starts_with("/boot/") { path.to_string() } else { beside })
}

/// The release of a kernel from its file name; Arch names the package instead, which /usr/lib/modules tells.
fn version_of(host: &dyn Host, kernel: &str) -> Result<Option<String>> {
    let name = kernel.rsplit('/').next().unwrap_or(kernel);
    let Some(version) =
        ["vmlinuz-", "vmlinux-", "kernel-", "linux-"].iter().find_map(|prefix| name.strip_prefix(prefix))
    else {
        return Ok(None);
    };
    if version.starts_with(|c: char| c.is_ascii_digit()) {
        return Ok(Some(version.to_string()));
    }
    for release in host.list("/usr/lib/modules")? {
        if host.read_line(&format!("/usr/lib/modules/{release}/pkgbase"))?.as_deref() == Some(version) {
            return Ok(Some(release));
        }
    }
    Ok(None)
}

/// The entry that systemd-boot keeps for the way back from a trial boot.
pub const BEFORE: &str = "vfio-provision-before";

/// What loader.conf(5) calls the default.
pub fn configured_default(text: &str) -> Option<String> {
    let pairs = text.lines().filter_map(|line| line.trim().split_once(char::is_whitespace));
    pairs.filter(|(key, _)| *key == "default").map(|(_, value)| value.trim().to_string()).next_back()
}

/// loader.conf with another default; without one where `default` is empty.
pub fn with_default(text: &str, default: &str) -> String {
    let line = if default.is_empty() { String::new() } else { format!("default {default}\n") };
    let mut done = false;
    let mut new: String = text
        .split_inclusive('\n')
        .filter_map(|old| {
            if old.split_whitespace().next() != Some("default") {
                return Some(old.to_string());
            }
            (!std::mem::replace(&mut done, true)).then(|| line.clone())
        })
        .collect();
    if !done && !line.is_empty() {
        if !(new.is_empty() || new.ends_with('\n')) {
            new.push('\n');
        }
        new.push_str(&line);
    }
    new
}

fn systemd_boot(host: &dyn Host, os: Os, esp: &str, menu: String, text: String, entries_dir: String) -> Result<Boot> {
    let mut keyed = Vec::new();
    // Of those that a trial boot adds this says nothing: they come and go with it.
    let own = |id: &str| id.starts_with("vfio-provision-");
    for (id, file, body) in entry_files(host, &entries_dir)?.into_iter().filter(|(id, ..)| !own(id)) {
        let entry = bls_entry(host, &id, &file, &body, &|_| None, esp)?;
        keyed.push((bls::get(&body, "sort-key"), entry));
    }
    // Boot Loader Specification, "Sorting": entries with a sort key first, by key, then by version, newest first.
    keyed.sort_by(|(key_a, a), (key_b, b)| {
        key_b.is_some().cmp(&key_a.is_some()).then_with(|| key_a.cmp(key_b)).then_with(|| {
            let version = |entry: &BootEntry| entry.version.clone().unwrap_or_default();
            bls::compare_ids(&version(a), &version(b)).then_with(|| bls::compare_ids(&a.id, &b.id))
        })
    });
    let mut entries: Vec<BootEntry> = keyed.into_iter().map(|(_, entry)| entry).collect();
    let position =
        |pattern: &str| entries.iter().position(|entry| bls::matches(pattern, &format!("{}.conf", entry.id)));
    let mut configured = configured_default(&text);
    if configured.as_deref() == Some(&format!("{BEFORE}.conf")) {
        // What it is again when the trial is over.
        let kept = host.read_text(&format!("{entries_dir}/{BEFORE}.conf"))?.unwrap_or_default();
        configured = kept.lines().find_map(|line| line.strip_prefix("# default:")).map(|id| id.trim().to_string());
    }
    let default = efi_text(host, "LoaderEntryDefault")?
        .or(configured)
        .and_then(|wanted| position(&wanted).or_else(|| position(&format!("{wanted}.conf"))))
        .or(if entries.is_empty() { None } else { Some(0) });
    let next = efi_text(host, "LoaderEntryOneShot")?.and_then(|wanted| position(&wanted)).or(default);
    for (n, entry) in entries.iter_mut().enumerate() {
        entry.is_default = Some(n) == default;
        entry.is_next = Some(n) == next;
    }
    Ok(Boot {
        kind: Kind::SystemdBoot,
        os,
        menu,
        text,
        cfg: GrubCfg::default(),
        env_path: String::new(),
        env: String::new(),
        entries_dir,
        entries,
    })
}

/// A text among the boot loader's EFI variables: four bytes of attributes, then UTF-16
/// (<https://systemd.io/BOOT_LOADER_INTERFACE>).
pub fn efi_text(host: &dyn Host, name: &str) -> Result<Option<String>> {
    let path = format!("/sys/firmware/efi/efivars/{name}-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f");
    let Some(bytes) = host.read(&path)? else { return Ok(None) };
    let units: Vec<u16> = bytes
        .get(4..)
        .unwrap_or(&[])
        .chunks_exact(2)
        .map(|pair| pair.iter().rev().fold(0, |sum, byte| sum << 8 | u16::from(*byte)))
        .take_while(|unit| *unit != 0)
        .collect();
    Ok(Some(String::from_utf16_lossy(&units)).filter(|text| !text.is_empty()))
}

impl Boot {
    /// The entry that boots when nobody chooses.
    ///
    /// # Errors
    /// When that is no Linux of this machine.
    pub fn default_entry(&self) -> Result<&BootEntry> {
        self.entries.iter().find(|entry| entry.is_default).ok_or_else(|| {
            Error::failed(format!("the default boot entry is not a Linux kernel of this machine ({})", self.menu))
                .hint("choose one with `grubby --set-default`, `grub-set-default` or `bootctl set-default`")
        })
    }

    /// The entry that boots the next time.
    pub fn next(&self) -> Option<&BootEntry> {
        self.entries.iter().find(|entry| entry.is_next)
    }

    /// Which entry a default such as an index, a title or an id means.
    fn position_of(&self, wanted: &str) -> Option<usize> {
        if self.kind == Kind::GrubBls {
            let named = self.entries.iter().position(|entry| entry.id == wanted || entry.title == wanted);
            return named.or_else(|| wanted.parse().ok().filter(|n| *n < self.entries.len()));
        }
        let item = if wanted == "0" { self.cfg.first() } else { self.cfg.resolve(wanted) }?;
        self.entries.iter().position(|entry| entry.position == item.position)
    }

    /// What is said of a machine whose boot entries another tool owns, or nothing.
    ///
    /// # Errors
    /// The refusal, with the way out.
    pub fn refuse_other_owners(&self, host: &dyn Host) -> Result<()> {
        for (path, owner, hint) in [
            ("/run/ostree-booted", "rpm-ostree", "use `rpm-ostree kargs --append-if-missing=…`"),
            ("/etc/kernelstub/configuration", "kernelstub", "use `kernelstub -a …`"),
            (
                "/etc/kernel/proxmox-boot-uuids",
                "proxmox-boot-tool",
                "edit /etc/kernel/cmdline, then `proxmox-boot-tool refresh`",
            ),
        ] {
            if host.exists(path)? {
                return Err(Error::refused(format!(
                    "the boot entries of this machine belong to {owner} ({path} exists)"
                ))
                .hint(hint));
            }
        }
        Ok(())
    }

    /// The name of one of GRUB's tools (`mkconfig`, `script-check`, `set-default`) here.
    pub fn tool(&self, host: &dyn Host, what: &str) -> Result<String> {
        let ours = if self.os.family.is_rpm() { ["grub2-", "grub-"] } else { ["grub-", "grub2-"] };
        for prefix in ours {
            if has_program(host, &format!("{prefix}{what}"))? {
                return Ok(format!("{prefix}{what}"));
            }
        }
        Ok(format!("{}{what}", ours.first().copied().unwrap_or("grub-")))
    }

    /// Where a new grub.cfg is made before it counts.
    pub fn fresh(&self) -> String {
        format!("{}.vfio-provision", self.menu)
    }

    /// Has grub.cfg made anew from its template, beside the real one; only when GRUB's own checker accepts it and the
    /// kernel that boots is still in it, it takes the real one's place. `predicted` is what it will say.
    ///
    /// # Errors
    /// Trouble reading the machine, and a refusal where the kernel that boots is not there any more: a menu made anew would
    /// silently boot another one.
    pub fn regenerate(&self, host: &dyn Host, predicted: String, diffs: Vec<Diff>) -> Result<Vec<Action>> {
        unfinished::refuse(host)?;
        let mut actions = unfinished::remove(host)?;
        let fresh = self.fresh();
        let effects = vec![Effect::File { path: fresh.clone(), content: Some(predicted), mode: Some(0o600) }];
        let make = Run::new([self.tool(host, "mkconfig")?.as_str(), "-o", &fresh], effects);
        let mut validate = vec![vec![self.tool(host, "script-check")?, "%s".into()]];
        if let Ok(default) = self.default_entry() {
            if !host.exists(&default.path)? {
                return Err(Error::refused(format!(
                    "{} is missing, which `{}` boots: a menu made anew would not have it, and boot something else",
                    default.path, default.title
                ))
                .hint("install the kernel's package again, or make another kernel the default, then run this again"));
            }
            validate.push(vec!["grep".into(), "-qF".into(), "--".into(), default.kernel.clone(), "%s".into()]);
        }
        let place = Op::WriteFile {
            path: self.menu.clone(),
            content: Content::CopyOf(fresh.clone()),
            mode: None,
            owner: None,
            group: None,
            validate,
        };
        actions.extend([
            Action { op: Op::Run(make), diffs: Vec::new() },
            Action { op: place, diffs },
            Action { op: Op::Remove { path: fresh }, diffs: Vec::new() },
            super::trial::sync(),
        ]);
        Ok(actions)
    }

    /// Takes away what a killed run left beside grub.cfg.
    ///
    /// # Errors
    /// Trouble reading the machine.
    pub fn clean(&self, host: &dyn Host) -> Result<Option<Action>> {
        let fresh = self.fresh();
        Ok(if host.exists(&fresh)? { Some(Action { op: Op::Remove { path: fresh }, diffs: Vec::new() }) } else { None })
    }

    /// The environment block with a variable set.
    ///
    /// # Errors
    /// When it does not fit.
    pub fn env_with(&self, name: &str, value: &str) -> Result<String> {
        grubenv::set(&self.env, name, Some(value)).map_err(|why| Error::failed(format!("{}: {why}", self.env_path)))
    }
}

/// Is there such a program in the folders of the system?
pub fn has_program(host: &dyn Host, name: &str) -> Result<bool> {
    for folder in ["/usr/sbin", "/sbin", "/usr/bin", "/bin"] {
        if host.exists(&format!("{folder}/{name}"))? {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::overlay::testing::machine;
    use crate::modules::boot::samples::{self, os};

    #[test]
    fn el7_boots_what_the_environment_block_names() {
        let env = grubenv::set("", "saved_entry", Some("CentOS Linux (3.10.0-514.el7.x86_64) 7 (Core)")).unwrap();
        let host = machine(&[
            ("/etc/os-release", os("centos", "7")),
            ("/boot/grub2/grub.cfg", samples::EL7_GRUB_CFG),
            ("/boot/grub2/grubenv", &env),
            ("/boot/vmlinuz-3.10.0-514.el7.x86_64", "k"),
        ]);
        let boot = read(&host).unwrap();
        assert_eq!((boot.kind, boot.entries.len()), (Kind::GrubCfg, 2));
        let default = boot.default_entry().unwrap();
        assert_eq!(default.version.as_deref(), Some("3.10.0-514.el7.x86_64"));
        assert_eq!(default.path, "/boot/vmlinuz-3.10.0-514.el7.x86_64");
        assert_eq!(default.image.as_deref(), Some("/boot/initramfs-3.10.0-514.el7.x86_64.img"));
        assert!(boot.entries[1].recovery && boot.entries[1].is_rescue_kernel());
    }

    #[test]
    fn what_boots_once_is_not_the_default() {
        let env = grubenv::set("", "next_entry", Some("1")).unwrap();
        let host = machine(&[
            ("/etc/os-release", os("centos", "7")),
            ("/boot/grub2/grub.cfg", samples::EL7_GRUB_CFG),
            ("/boot/grub2/grubenv", &env),
        ]);
        let boot = read(&host).unwrap();
        assert!(boot.default_entry().unwrap().title.contains("3.10.0-514"));
        assert!(boot.next().unwrap().title.contains("0-rescue"));
    }

    #[test]
    fn a_stub_on_the_efi_partition_is_never_the_menu() {
        let stub = "search --no-floppy --fs-uuid --set=dev 1234\nset prefix=($dev)/grub2\nexport $prefix\nconfigfile $prefix/grub.cfg\n";
        let files = |efi: &'static str| {
            machine(&[
                ("/etc/os-release", os("rocky", "9.4")),
                ("/sys/firmware/efi/", ""),
                ("/boot/efi/EFI/rocky/grub.cfg", efi),
                ("/boot/grub2/grub.cfg", samples::BLS_GRUB_CFG),
                ("/boot/loader/entries/m9-5.14.0-427.13.1.el9_4.x86_64.conf", samples::EL9_ENTRY),
                ("/boot/loader/entries/m9-0-rescue.conf", samples::EL9_RESCUE),
            ])
        };
        let boot = read(&files(stub)).unwrap();
        assert_eq!((boot.menu.as_str(), boot.kind), ("/boot/grub2/grub.cfg", Kind::GrubBls));
        assert_eq!(boot.default_entry().unwrap().id, "m9-5.14.0-427.13.1.el9_4.x86_64");
        assert!(!boot.default_entry().unwrap().args.contains('$'));
        assert_eq!(read(&files(samples::EL7_GRUB_CFG)).unwrap().menu, "/boot/efi/EFI/rocky/grub.cfg");
    }

    #[test]
    fn debian_boots_the_first_and_other_systems_do_not_count() {
        let host =
            machine(&[("/etc/os-release", os("debian", "12")), ("/boot/grub/grub.cfg", samples::DEBIAN_GRUB_CFG)]);
        let boot = read(&host).unwrap();
        assert_eq!(boot.entries.len(), 3);
        assert_eq!(boot.default_entry().unwrap().title, "Debian GNU/Linux");
        assert_eq!(boot.entries.iter().filter(|entry| entry.recovery).count(), 1);
    }

    #[test]
    fn systemd_boot_chooses_by_pattern_and_arch_names_packages() {
        let host = machine(&[
            ("/etc/os-release", os("arch", "")),
            ("/boot/loader/loader.conf", "timeout 3\ndefault arch-lts*\n"),
            (
                "/boot/loader/entries/arch.conf",
                "title Arch\nlinux /vmlinuz-linux\ninitrd /intel-ucode.img\ninitrd /initramfs-linux.img\noptions root=/dev/sda2 rw\n",
            ),
            (
                "/boot/loader/entries/arch-lts.conf",
                "title Arch LTS\nlinux /vmlinuz-linux-lts\ninitrd /initramfs-linux-lts.img\noptions root=/dev/sda2 rw\n",
            ),
            ("/usr/lib/modules/6.6.9-1-lts/pkgbase", "linux-lts\n"),
            ("/usr/lib/modules/6.7.1-arch1-1/pkgbase", "linux\n"),
        ]);
        let boot = read(&host).unwrap();
        assert_eq!((boot.kind, boot.entries.len()), (Kind::SystemdBoot, 2));
        assert_eq!(boot.default_entry().unwrap().version.as_deref(), Some("6.6.9-1-lts"));
        let arch = boot.entries.iter().find(|entry| entry.id == "arch").unwrap();
        assert_eq!(arch.image.as_deref(), Some("/boot/initramfs-linux.img"));
        assert_eq!(arch.version.as_deref(), Some("6.7.1-arch1-1"));
    }

    #[test]
    fn no_boot_loader_is_said() {
        let host = machine(&[("/etc/os-release", os("debian", "12"))]);
        assert!(read(&host).unwrap_err().message.contains("no boot loader"));
    }
}
