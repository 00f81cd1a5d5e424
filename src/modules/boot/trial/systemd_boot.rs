//! A trial boot with systemd-boot: two more entries, `LoaderEntryOneShot` for the one on trial, and the other one the
//! default meanwhile (<https://systemd.io/BOOT_LOADER_INTERFACE>, loader.conf(5)).

use super::{Change, Marks, Once, Standing, grub, remove, write};
use crate::change::{Action, Diff, Effect, Op, Run};
use crate::host::{Error, Host, Result};
use crate::modules::boot::loader::{self, Boot};

const EFIVARS: &str = "/sys/firmware/efi/efivars";
/// The variable that names what boots once; systemd-boot takes it away before it boots that.
pub const ONE_SHOT: &str = "/sys/firmware/efi/efivars/LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";
const TRIAL: &str = "vfio-provision-trial";

/// The entry from before.
pub fn before(boot: &Boot) -> String {
    format!("{}/{}.conf", boot.entries_dir, loader::BEFORE)
}

fn trial(boot: &Boot) -> String {
    format!("{}/{TRIAL}.conf", boot.entries_dir)
}

/// The files that a trial adds.
pub fn files(boot: &Boot) -> Vec<String> {
    vec![before(boot), trial(boot)]
}

pub(super) fn standing(host: &dyn Host, boot: &Boot) -> Result<Option<Standing>> {
    let Some(marks) = host.read_text(&before(boot))?.as_deref().and_then(Marks::parse) else { return Ok(None) };
    // Half an arming is none: the default is still what it was.
    if loader::configured_default(&boot.text).as_deref() != Some(&format!("{}.conf", loader::BEFORE)) {
        return Ok(None);
    }
    let once = loader::efi_text(host, "LoaderEntryOneShot")?.is_some_and(|id| id.starts_with(TRIAL));
    Ok(Some(Standing { marks, once: if once { Once::Armed } else { Once::Tried } }))
}

/// An entry like another one, with other arguments and RAM disk, and a title of its own.
fn like(text: &str, title: &str, args: &str, instead: Option<(&str, &str)>) -> String {
    let mut found = String::new();
    let mut done = false;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (key, value) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        match key {
            "title" => found.push_str(&format!("title {title}\n")),
            // It is not to come first.
            "sort-key" => {}
            "options" if done => {}
            "options" => {
                done = true;
                found.push_str(&format!("options {args}\n"));
            }
            "initrd" => match instead.filter(|(old, _)| *old == value) {
                Some((_, new)) => found.push_str(&format!("initrd {new}\n")),
                None => found.push_str(&format!("{line}\n")),
            },
            _ if line.starts_with('#') => {}
            _ => found.push_str(&format!("{line}\n")),
        }
    }
    if !done {
        found.push_str(&format!("options {args}\n"));
    }
    found
}

pub(super) fn arm(host: &dyn Host, boot: &Boot, change: &Change) -> Result<Vec<Action>> {
    let unable = |why: &str, hint: &str| {
        Error::refused(format!("the new kernel and command line can't be booted once on trial: {why}"))
            .hint(format!("{hint}; or `trial: false` boots them all the same, at your own risk"))
    };
    let names = host.list(EFIVARS)?;
    if names.iter().any(|name| name.starts_with("LoaderEntryDefault-")) {
        let why = "the firmware's variable LoaderEntryDefault names the default, and goes before loader.conf";
        return Err(unable(why, "run `bootctl set-default \"\"` and set the default in loader.conf"));
    }
    if names.is_empty() || !loader::has_program(host, "bootctl")? {
        let why = "it takes bootctl and the firmware's variables (/sys/firmware/efi/efivars)";
        return Err(unable(why, "boot by UEFI and install systemd's bootctl"));
    }
    let once = loader::efi_text(host, "LoaderEntryOneShot")?.filter(|id| !id.starts_with(TRIAL));
    if let Some(other) = once {
        return Err(unable(&format!("`{other}` is set to boot once already"), "run `bootctl set-oneshot \"\"`"));
    }
    let mut marks = change.marks.clone();
    let old = standing(host, boot)?;
    marks.default = match old {
        Some(old) => old.marks.default,
        None => loader::configured_default(&boot.text).unwrap_or_default(),
    };
    let kept = change.from.image.as_deref().zip(change.from_image.as_deref()).and_then(|(image, kept)| {
        let path = change.from.initrd.iter().find(|path| path.rsplit('/').next() == image.rsplit('/').next())?;
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        Some((path.clone(), format!("{folder}/{}", kept.rsplit('/').next().unwrap_or_default())))
    });
    let instead = kept.as_ref().map(|(old, new)| (old.as_str(), new.as_str()));
    let title = |what: &str, release: &str| format!("{what} (vfio-provision): Linux {release}");
    let read = |path: &str| Ok(host.read_text(path)?.unwrap_or_default());
    let (from, to) = (read(&change.from.file)?, read(&change.to.file)?);
    let once = grub::with_more(&change.to.args, &marks.guard_arguments());
    let entries = [
        (trial(boot), like(&to, &title("On trial", &marks.to_release), &once, None)),
        (
            before(boot),
            format!(
                "{}{}",
                marks.lines(),
                like(&from, &title("As before", &marks.from_release), &marks.from_args, instead)
            ),
        ),
    ];
    let mut actions = Vec::new();
    for (path, text) in &entries {
        let old = host.read(path)?;
        if old.as_deref() != Some(text.as_bytes()) {
            let file = Diff::file(path, old.as_deref(), Some(text.as_bytes()));
            actions.push(write(path, text, None, Vec::new(), vec![file]));
        }
    }
    // Four bytes of attributes, then UTF-16.
    let name = format!("{TRIAL}.conf");
    let variable: String =
        "\u{7}\0\0\0".chars().chain(name.chars().chain(['\0']).flat_map(|letter| [letter, '\0'])).collect();
    let effect = Effect::File { path: ONE_SHOT.into(), content: Some(variable), mode: None };
    let mut set = Run::new(["bootctl", "set-oneshot", name.as_str()], vec![effect]);
    set.undo = Some(["bootctl", "set-oneshot", ""].map(String::from).to_vec());
    actions.push(Action { op: Op::Run(set), diffs: Vec::new() });
    let text = loader::with_default(&boot.text, &format!("{}.conf", loader::BEFORE));
    if text != boot.text {
        let old = host.read(&boot.menu)?;
        let file = Diff::file(&boot.menu, old.as_deref(), Some(text.as_bytes()));
        actions.push(write(&boot.menu, &text, None, Vec::new(), vec![file]));
    }
    Ok(actions)
}

pub(super) fn end(host: &dyn Host, boot: &Boot, marks: &Marks) -> Result<Vec<Action>> {
    let mut actions = Vec::new();
    let text = loader::with_default(&boot.text, &marks.default);
    if text != boot.text {
        let old = host.read(&boot.menu)?;
        let file = Diff::file(&boot.menu, old.as_deref(), Some(text.as_bytes()));
        actions.push(write(&boot.menu, &text, None, Vec::new(), vec![file]));
    }
    actions.push(super::sync());
    for path in files(boot) {
        if let Some(old) = host.read(&path)? {
            actions.push(remove(&path, vec![Diff::file(&path, Some(&old), None)]));
        }
    }
    if host.exists(ONE_SHOT)? {
        let mut unset = Run::new(["bootctl", "set-oneshot", ""], vec![Effect::Gone { path: ONE_SHOT.into() }]);
        unset.any_code = true;
        actions.push(Action { op: Op::Run(unset), diffs: Vec::new() });
    }
    Ok(actions)
}
