//! What rpm left in /boot when the power went, or it was killed, in the middle of a package.
//!
//! rpm writes each file as `NAME;TRANSACTION` and gives it its name afterwards; the transaction is the second it began at, in
//! hexadecimal (rpm's lib/fsm.c and lib/rpmts.c). Nothing ever takes such a file away again, and to `grub2-mkconfig` an empty
//! `vmlinuz-6.9.7;6b03edee` is a kernel, and the newest: the next boot's.

use super::grub_cfg::{self, Item};
use super::loader::Boot;
use super::trial;
use crate::change::{Action, Diff, Op, Plan};
use crate::host::{Error, Host, Result};

/// When the transaction that wrote this file began, in seconds since 1970; `None` for a file that has its name.
pub fn began(path: &str) -> Option<i64> {
    let (_, transaction) = path.rsplit_once(';')?;
    let is_ours = transaction.len() == 8 && transaction.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if is_ours { i64::from_str_radix(transaction, 16).ok() } else { None }
}

/// Takes away from /boot what transactions of earlier boots left: nobody goes on with those.
///
/// # Errors
/// Trouble reading the machine.
pub fn remove(host: &dyn Host) -> Result<Vec<Action>> {
    let (left, _) = in_boot(host)?;
    let remove = |path: String| Action {
        diffs: vec![Diff::removed("file", &path, "left by rpm, which was cut short")],
        op: Op::Remove { path },
    };
    Ok(left.into_iter().map(remove).collect())
}

/// Refuses a new grub.cfg while it would get a kernel of a transaction of this boot, which may still be at work.
///
/// # Errors
/// The refusal, with what to do; trouble reading the machine.
pub fn refuse(host: &dyn Host) -> Result<()> {
    let (_, recent) = in_boot(host)?;
    match recent.into_iter().find(|path| path.starts_with("/boot/vm")) {
        Some(path) => Err(Error::refused(format!(
            "{path} is a kernel that rpm has begun to write: a menu made now would boot it, whole or not"
        ))
        .hint(format!(
            "wait until dnf or rpm has ended; if none runs, it was killed: `rm '{path}'`, then run this again"
        ))),
        None => Ok(()),
    }
}

/// Such files in /boot: of earlier boots, and of this one.
fn in_boot(host: &dyn Host) -> Result<(Vec<String>, Vec<String>)> {
    let mut found = Vec::new();
    for name in host.list("/boot")? {
        if let Some(began) = began(&name) {
            found.push((format!("/boot/{name}"), began));
        }
    }
    if found.is_empty() {
        return Ok(Default::default());
    }
    // A recorded machine may not know; nothing runs there.
    let booted = trial::boot_time(host)?.unwrap_or(i64::MAX);
    let (left, recent): (Vec<_>, Vec<_>) = found.into_iter().partition(|(_, began)| *began < booted);
    let paths = |found: Vec<(String, i64)>| found.into_iter().map(|(path, _)| path).collect();
    Ok((paths(left), paths(recent)))
}

/// Takes such files away, and out of the menu; `None` where there are none.
///
/// # Errors
/// Trouble reading the machine.
pub fn clear(host: &dyn Host, boot: &Boot) -> Result<Option<Plan>> {
    let mut plan = Plan::nothing();
    plan.staged = true;
    let gone = |item: &Item| Diff::removed("boot_entry", &item.title, "its kernel was not written to its end");
    let diffs: Vec<Diff> = boot.cfg.items.iter().filter(|item| item.is_unfinished()).map(gone).collect();
    plan.actions = if diffs.is_empty() {
        remove(host)?
    } else {
        boot.regenerate(host, grub_cfg::without_unfinished(&boot.text, &boot.cfg), diffs)?
    };
    Ok(if plan.actions.is_empty() { None } else { Some(plan) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::model::predict;
    use crate::host::overlay::testing::{Machine, apply, machine, plan};
    use crate::modules::boot::samples::{self, os};
    use crate::modules::boot::{grubenv, loader};
    use serde_json::json;

    const LEFT: &str = "/boot/vmlinuz-4.9.2-1.el7.elrepo.x86_64;6b03edee";
    const OLD: &str = "3.10.0-514.el7.x86_64";

    /// rpm was cut short in the boot before this one, or (`booted` earlier) in this one.
    fn cut(booted: i64, menu: &str) -> Machine {
        let title = format!("CentOS Linux ({OLD}) 7 (Core)");
        let env = grubenv::set("", "saved_entry", Some(&title)).unwrap();
        machine(&[
            ("/etc/os-release", os("centos", "7")),
            ("/etc/default/grub", samples::EL7_DEFAULT),
            ("/boot/grub2/grub.cfg", menu),
            ("/boot/grub2/grubenv", &env),
            (&format!("/boot/vmlinuz-{OLD}"), "k"),
            (&format!("/boot/initramfs-{OLD}.img"), "i"),
            (LEFT, ""),
            ("/boot/config-4.9.2-1.el7.elrepo.x86_64;6b03edee", "part"),
            ("/boot/a;b", "somebody's"),
            ("/proc/stat", &format!("cpu 1\nbtime {booted}\n")),
            ("/proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/mapper/cl-root ro\n"),
        ])
    }

    /// As `grub2-mkconfig` makes it with such a file in /boot.
    fn menu_with_it() -> String {
        let clean = samples::EL7_GRUB_CFG;
        let cfg = grub_cfg::parse(clean);
        let new = LEFT.strip_prefix("/boot/vmlinuz-").unwrap();
        grub_cfg::add_kernel(clean, &cfg, &cfg.items[0], OLD, new).unwrap()
    }

    #[test]
    fn transactions_by_their_names() {
        assert_eq!(began(LEFT), Some(0x6b03_edee));
        for name in ["/boot/vmlinuz-4.9", "/boot/a;b", "/boot/vmlinuz-4.9;6B03EDEE", "/boot/x;6b03edee0", ";+b03edee"] {
            assert_eq!(began(name), None, "{name}");
        }
    }

    #[test]
    fn what_an_earlier_boot_left_goes_whatever_kernel_is_asked_for() {
        for parameters in [json!({}), json!({"name": "distribution", "minimum": "3.10"})] {
            let host = cut(0x6b03_ee00, samples::EL7_GRUB_CFG);
            let done = apply(&host, "kernel", parameters).unwrap();
            assert!(done.iter().all(|action| matches!(&action.op, Op::Remove { path } if began(path).is_some())));
            assert_eq!(done.len(), 2);
            assert_eq!(done[1].diffs[0].path, LEFT);
            assert!(host.exists("/boot/a;b").unwrap());
        }
    }

    /// A menu made while it was there: it would have been "the newest kernel of ELRepo", and an empty file.
    #[test]
    fn it_is_no_kernel_even_where_the_menu_has_it() {
        let host = cut(0x6b03_ee00, &menu_with_it());
        assert!(loader::entries(&host).unwrap().iter().all(|entry| !entry.title.contains(';')));
        let parameters =
            json!({"name": "kernel-ml", "minimum": "4.9", "url": "http://x/kernel-ml-4.9.2-1.el7.elrepo.x86_64.rpm"});
        let first = plan(&host, "kernel", parameters).unwrap();
        let told: Vec<_> =
            first.actions.iter().flat_map(|action| &action.diffs).map(|diff| diff.path.as_str()).collect();
        assert!(told.contains(&LEFT) && told.iter().any(|path| path.starts_with("CentOS Linux (4.9.2")), "{told:?}");
        for action in &first.actions {
            predict(&host, &action.op).unwrap();
        }
        assert_eq!(host.read_text("/boot/grub2/grub.cfg").unwrap().as_deref(), Some(samples::EL7_GRUB_CFG));
        assert!(!host.exists(LEFT).unwrap());
    }

    #[test]
    fn a_menu_made_for_another_reason_does_not_get_it() {
        let parameters = json!({"present": ["intel_iommu=on"]});
        let host = cut(0x6b03_ee00, samples::EL7_GRUB_CFG);
        let done = apply(&host, "kernel_cmdline", parameters.clone()).unwrap();
        let at = |wanted: &dyn Fn(&Op) -> bool| done.iter().position(|action| wanted(&action.op)).unwrap();
        let removed = at(&|op| matches!(op, Op::Remove { path } if path == LEFT));
        let made = at(&|op| matches!(op, Op::Run(run) if run.argv[0] == "grub2-mkconfig"));
        assert!(removed < made);
        // Of this boot: rpm may be at work.
        let error = plan(&cut(0x6b03_ed00, samples::EL7_GRUB_CFG), "kernel_cmdline", parameters).unwrap_err();
        assert!(error.message.starts_with(&format!("{LEFT} is a kernel that rpm has begun to write")), "{error}");
        assert!(apply(&cut(0x6b03_ed00, samples::EL7_GRUB_CFG), "kernel", json!({})).unwrap().is_empty());
    }
}
