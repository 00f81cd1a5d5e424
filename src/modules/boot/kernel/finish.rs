//! A kernel whose package was cut short, by a kill or a power cut: its files are there and the package manager calls it
//! installed, but what its scripts do at the end is not done. They are not run again, so this program does their work.

use crate::change::{Diff, Effect, Op, Plan, Run};
use crate::host::{Host, Result};
use crate::modules::boot::loader::{self, Boot, Kind};
use crate::modules::boot::{elrepo, initramfs};
use crate::modules::vfio::persist;

/// What is missing of an installed kernel: its initramfs, its boot entry. `None` where that can't be made here.
///
/// # Errors
/// When the machine can't be read, or there is no room in /boot.
pub fn finish(host: &dyn Host, boot: &Boot, release: &str) -> Result<Option<Plan>> {
    let modules = format!("/lib/modules/{release}");
    if boot.kind == Kind::SystemdBoot || !host.exists(&modules)? {
        return Ok(None);
    }
    let mut plan = Plan::nothing();
    plan.staged = true;
    let has_entry = boot.entries.iter().any(|entry| entry.version.as_deref() == Some(release));
    let entry = elrepo::entry_effect(host, boot, release)?;
    let added = || Diff::added("boot_entry", format!("Linux {release}"), "made, as its package was cut short");
    let image = initramfs::usual_image(boot, release)?;
    if !has_entry && boot.kind == Kind::GrubBls {
        let kernel = format!("{modules}/vmlinuz");
        if !host.exists(&kernel)? || !loader::has_program(host, "kernel-install")? {
            return Ok(None);
        }
        let unknown = |path: String| Effect::File { path, content: None, mode: None };
        let mut effects = vec![unknown(format!("/boot/vmlinuz-{release}")), unknown(image)];
        effects.extend(entry);
        let add = Run::new(["kernel-install", "add", release, kernel.as_str()], effects);
        plan.push(Op::Run(add), vec![added()]);
        return Ok(Some(plan));
    }
    if !host.exists(&format!("/boot/vmlinuz-{release}"))? {
        return Ok(None);
    }
    let list = format!("{modules}/modules.dep");
    if !host.exists(&list)? {
        let effect = Effect::File { path: list.clone(), content: None, mode: None };
        let diff = Diff::added("file", list, "the list of its modules");
        plan.push(Op::Run(Run::new(["depmod", release], vec![effect])), vec![diff]);
    }
    if !host.exists(&image)? {
        if persist::tool(host)?.is_none() {
            return Ok(None);
        }
        initramfs::make(host, release, &image, &mut plan)?;
    }
    if !has_entry {
        let Some(Effect::File { content: Some(text), .. }) = entry else { return Ok(None) };
        plan.actions.extend(boot.regenerate(host, text, vec![added()])?);
    }
    Ok(if plan.actions.is_empty() { None } else { Some(plan) })
}
