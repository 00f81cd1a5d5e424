//! The template from which future kernels get their arguments: /etc/default/grub with its drop-ins, /etc/kernel/cmdline.

use super::cmdline::{self, Edit};
use super::grub_default;
use super::loader::{Boot, Kind};
use crate::host::{Error, Family, Host, Result};

/// A file that would change; `None` is no file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which one.
    pub path: String,
    /// As it is.
    pub before: Option<String>,
    /// As asked.
    pub after: Option<String>,
}

/// GRUB's template.
pub const DEFAULT: &str = "/etc/default/grub";
const KERNEL_CMDLINE: &str = "/etc/kernel/cmdline";
const ALWAYS: &str = "GRUB_CMDLINE_LINUX";
const NORMAL: &str = "GRUB_CMDLINE_LINUX_DEFAULT";
/// Debian's `grub-mkconfig` reads drop-ins; others' does not.
const DROP_INS: &str = "/etc/default/grub.d";
const OURS: &str = "/etc/default/grub.d/90-vfio-provision.cfg";
const HEAD: &str = "# Written by vfio-provision: what its kernel_cmdline module adds to the kernel's command line\n";

fn refused(path: &str, why: &str) -> Error {
    Error::refused(format!("{path}: {why}"))
        .hint("write it as one plain assignment, such as GRUB_CMDLINE_LINUX=\"quiet\"")
}

/// What must change for future kernels to get their arguments as asked.
///
/// # Errors
/// Refusals for text that can't be edited with certainty.
pub fn changes(host: &dyn Host, boot: &Boot, edit: &Edit) -> Result<Vec<Change>> {
    let mut found = match boot.kind {
        Kind::SystemdBoot => Vec::new(),
        _ if boot.os.family.is_deb() => with_drop_in(host, edit)?,
        _ => plain(host, boot.os.family, edit)?,
    };
    if boot.kind != Kind::GrubCfg {
        found.extend(kernel_cmdline(host, edit)?);
    }
    found.retain(|change| change.before != change.after);
    Ok(found)
}

fn kernel_cmdline(host: &dyn Host, edit: &Edit) -> Result<Option<Change>> {
    let Some(before) = host.read_text(KERNEL_CMDLINE)? else { return Ok(None) };
    let after = edit.apply(&before);
    Ok(Some(Change { path: KERNEL_CMDLINE.into(), before: Some(before), after: Some(after) }))
}

/// EL, Fedora, openSUSE, Arch: one file.
fn plain(host: &dyn Host, family: Family, edit: &Edit) -> Result<Vec<Change>> {
    let before = host.read_text(DEFAULT)?;
    let text = before.clone().unwrap_or_default();
    let refuse = |why: String| refused(DEFAULT, &why);
    let mut new = text;
    for name in [ALWAYS, NORMAL] {
        new = grub_default::edit(&new, name, |old| edit.correct(old)).map_err(refuse)?;
    }
    let value = |name| Ok(grub_default::value(&new, name).map_err(refuse)?.unwrap_or_default());
    let missing = edit.missing(&format!("{} {}", value(ALWAYS)?, value(NORMAL)?));
    let add = Edit { present: missing, absent: Vec::new() };
    let place = if matches!(family, Family::El | Family::Fedora) { ALWAYS } else { NORMAL };
    new = grub_default::edit(&new, place, |old| add.apply(old)).map_err(refuse)?;
    // A file that only ever held what was added goes with it.
    let after = if before.is_none() && new.is_empty() { None } else { Some(new) };
    Ok(vec![Change { path: DEFAULT.into(), before, after }])
}

/// Debian and Ubuntu: what is added goes into a drop-in of ours; what must go is taken out where it stands.
fn with_drop_in(host: &dyn Host, edit: &Edit) -> Result<Vec<Change>> {
    let mut paths = vec![DEFAULT.to_string()];
    for name in host.list(DROP_INS)? {
        if name.ends_with(".cfg") {
            paths.push(format!("{DROP_INS}/{name}"));
        }
    }
    if !paths.iter().any(|path| path == OURS) {
        paths.push(OURS.into());
        paths.get_mut(1..).unwrap_or_default().sort();
    }
    let mut files = Vec::new();
    for path in paths {
        let before = host.read_text(&path)?;
        files.push(Change { path, after: before.clone(), before });
    }
    for file in files.iter_mut().filter(|file| file.path != OURS) {
        let Some(text) = &file.before else { continue };
        let mut new = text.clone();
        for name in [ALWAYS, NORMAL] {
            // What can't be edited here need not be: whether it matters is checked below.
            if let Ok(edited) = grub_default::edit(&new, name, |old| edit.correct(old)) {
                new = edited;
            }
        }
        file.after = Some(new);
    }
    let effective = |files: &[Change]| {
        let texts = || files.iter().filter_map(|file| file.after.as_deref());
        let always = grub_default::evaluate(texts(), ALWAYS);
        format!("{always} {}", grub_default::evaluate(texts(), NORMAL))
    };
    let Some(ours) = files.iter().position(|file| file.path == OURS) else { return Ok(files) };
    let old = files.get(ours).and_then(|file| file.before.clone());
    let old = grub_default::value(old.as_deref().unwrap_or(""), NORMAL).map_err(|why| refused(OURS, &why))?;
    let mut own: Vec<String> = cmdline::words(&edit.correct(&old.unwrap_or_default()));
    own.retain(|token| !token.starts_with('$'));
    set_own(&mut files, ours, &own);
    // Only what no other file gives is ours to add.
    own.extend(edit.missing(&effective(&files)));
    set_own(&mut files, ours, &own);
    let result = effective(&files);
    if !edit.is_done(&result) {
        let why = format!("what the files make of {ALWAYS} and {NORMAL} together would be `{}`", result.trim());
        return Err(Error::refused(format!(
            "{DROP_INS}: a file sets the kernel's arguments in a way that can't be edited: {why}"
        ))
        .hint(format!("let the files behind {OURS} add to ${NORMAL} instead of setting it anew")));
    }
    Ok(files)
}

fn set_own(files: &mut [Change], ours: usize, own: &[String]) {
    if let Some(file) = files.get_mut(ours) {
        file.after = (!own.is_empty()).then(|| format!("{HEAD}{NORMAL}=\"${NORMAL} {}\"\n", own.join(" ")));
    }
}
