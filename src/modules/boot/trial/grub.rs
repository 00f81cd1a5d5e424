//! A trial boot with GRUB: what is put into its `custom.cfg`, which every grub.cfg made by grub-mkconfig reads at its end.
//!
//! Nothing of the machine's own menu changes. Two entries are added and a few lines that choose between them: the one on
//! trial once, the one from before ever after. GRUB itself strikes the trial out in a small file of its own before it
//! boots it, reads that file back, and does not dare the trial when it does not find what it wrote.

use super::Marks;
use crate::modules::boot::cmdline;
use crate::modules::boot::grub_cfg::{self, Item};
use crate::modules::boot::loader::{Boot, BootEntry, Kind};

/// What grub.cfg reads at its end, in its own folder (`/etc/grub.d/41_custom`).
pub const CUSTOM: &str = "custom.cfg";
/// Where GRUB strikes the trial out: an environment block of our own, beside it.
pub const ENV: &str = "vfio-provision.env";
/// The variable in it: `armed`, then `tried`.
pub const ONCE: &str = "vfio_provision_trial";

const BEGIN: &str = "### BEGIN vfio-provision: trial boot ###\n";
const END: &str = "### END vfio-provision: trial boot ###\n";
const EXPLAINED: &str = "\
# The machine is about to try a new kernel or command line, or has tried one and come back from it. Until it is confirmed
# it boots what it had before. To be rid of this by hand, delete from BEGIN to END: then what grub.cfg says counts again.
";

/// The text without our lines.
pub fn without(text: &str) -> String {
    match find(text) {
        Some((from, to)) => format!("{}{}", text.get(..from).unwrap_or(""), text.get(to..).unwrap_or("")),
        None => text.to_string(),
    }
}

/// The text with these lines of ours at its end, and no others.
pub fn with(text: &str, block: &str) -> String {
    let rest = without(text);
    let newline = if rest.is_empty() || rest.ends_with('\n') { "" } else { "\n" };
    format!("{rest}{newline}{block}")
}

/// Our lines.
pub fn block(text: &str) -> Option<&str> {
    find(text).and_then(|(from, to)| text.get(from..to))
}

fn find(text: &str) -> Option<(usize, usize)> {
    let from = text.find(BEGIN)?;
    // Where somebody has cut the end off, what follows is ours.
    let to = text.get(from..)?.find(END).map_or(text.len(), |at| from + at + END.len());
    Some((from, to))
}

/// The entry from before, in such a text.
pub fn before(text: &str) -> &str {
    let after = block(text).and_then(|block| block.split_once("--id vfio-provision-before {"));
    after.and_then(|(_, rest)| rest.split_once("\n}")).map_or("", |(body, _)| body)
}

/// Does this grub.cfg read [`CUSTOM`]?
pub fn is_read(text: &str) -> bool {
    text.lines().map(str::trim).any(|line| {
        let path = line.strip_prefix("source ").or_else(|| line.strip_prefix(". ")).unwrap_or("");
        path.trim_end_matches(';').trim().ends_with("/custom.cfg")
    })
}

/// One word for GRUB's script. The kernel's quotes go; GRUB puts its own around a word with white space.
fn word(token: &str) -> String {
    let plain = token.replace('"', "");
    let harmless = |c: char| c.is_ascii_alphanumeric() || "_./:=,@%+-".contains(c);
    if !plain.is_empty() && plain.chars().all(harmless) { plain } else { format!("'{}'", plain.replace('\'', "'\\''")) }
}

/// The arguments of a running kernel as GRUB's script has them.
fn quoted(args: &str) -> String {
    cmdline::words(args).iter().map(|token| word(token)).collect::<Vec<_>>().join(" ")
}

/// How the body of an entry is written.
struct Body<'a> {
    /// The kernel's arguments.
    args: &'a str,
    /// An initial RAM disk that another one stands in for, both as GRUB sees them.
    instead: Option<(&'a str, &'a str)>,
    /// What is done when the kernel or its RAM disk can't be loaded.
    otherwise: Option<&'a str>,
}

/// The options of an entry, and its body.
fn entry(boot: &Boot, entry: &BootEntry, body: &Body) -> (String, String) {
    let item = boot.cfg.items.iter().find(|item| boot.kind == Kind::GrubCfg && item.position == entry.position);
    let (options, lines) = match item {
        Some(item) => of_menu(&boot.text, item, body.args),
        None => of_file(entry, body.args),
    };
    let mut text = String::new();
    if body.otherwise.is_some() {
        text.push_str("\tset vfio_provision_loaded=\n");
    }
    for line in lines {
        let command = line.split_whitespace().next().unwrap_or("").to_string();
        let line = match body.instead {
            Some((old, new)) if command.starts_with("initrd") => {
                let new = |word: &str| if word == old { new.to_string() } else { word.to_string() };
                let words: Vec<String> = line.split_whitespace().map(new).collect();
                format!("\t{}", words.join(" "))
            }
            _ => line,
        };
        match (&body.otherwise, command.as_str()) {
            (Some(_), "linux" | "linux16" | "linuxefi") => {
                text.push_str(&format!("\tif {}; then set vfio_provision_loaded=y; fi\n", line.trim()));
            }
            (Some(_), "initrd" | "initrd16" | "initrdefi") => {
                let fine = "set vfio_provision_initrd=y";
                text.push_str(&format!("\tif {}; then {fine}; else set vfio_provision_loaded=; fi\n", line.trim()));
            }
            _ => text.push_str(&format!("{line}\n")),
        }
    }
    if let Some(otherwise) = body.otherwise {
        text.push_str("\tif [ \"${vfio_provision_loaded}\" != y ]; then\n");
        text.push_str("\techo 'vfio-provision: the entry on trial can not be loaded, so the one from before boots.'\n");
        text.push_str(otherwise);
        text.push_str("\tfi\n");
    }
    text.push_str("\tboot\n");
    (options, text)
}

/// From the menu of a grub.cfg: everything as it stands there, with other arguments.
fn of_menu(text: &str, item: &Item, args: &str) -> (String, Vec<String>) {
    let mut lines = Vec::new();
    let block = text.get(item.block.clone()).unwrap_or("");
    let mut at = item.block.start;
    for line in block.split_inclusive('\n') {
        let (from, to) = (at, at + line.len());
        at = to;
        let plain = line.trim_end_matches(['\n', '\r']);
        match (&item.linux, plain.trim()) {
            // What would make a default of it, or wait for a person the next time.
            (_, "savedefault" | "recordfail") => {}
            (Some(linux), _) if linux.args.start >= from && linux.args.start < to => {
                let head = text.get(from..linux.args.start).unwrap_or("").trim_end();
                lines.push(format!("{head} {args}").trim_end().to_string());
            }
            _ => lines.push(plain.to_string()),
        }
    }
    let header = if lines.is_empty() { String::new() } else { lines.remove(0) };
    lines.pop();
    (grub_cfg::header_options(&header), lines)
}

/// From a file in /boot/loader/entries: as GRUB's `blscfg` makes an entry of it.
fn of_file(entry: &BootEntry, args: &str) -> (String, Vec<String>) {
    let place = |path: &str| if path.starts_with('(') { path.to_string() } else { format!("($root){path}") };
    let mut lines = vec!["\tload_video".to_string(), "\tset gfxpayload=keep".into(), "\tinsmod gzio".into()];
    lines.push(format!("\tlinux {} {args}", place(&entry.kernel)).trim_end().to_string());
    // Variables such as $tuned_initrd are written behind the path.
    let images: Vec<String> = entry
        .initrd
        .iter()
        .flat_map(|value| value.split_whitespace())
        .filter(|path| !path.starts_with('$'))
        .map(place)
        .collect();
    if !images.is_empty() {
        lines.push(format!("\tinitrd {}", images.join(" ")));
    }
    (" --unrestricted".into(), lines)
}

/// Arguments with some more, before those that are for init.
pub fn with_more(args: &str, more: &str) -> String {
    match args.split_once(" -- ") {
        Some((kernel, init)) => format!("{kernel} {more} -- {init}"),
        None => format!("{args} {more}").trim_start().to_string(),
    }
}

/// Without the double blanks that grub-mkconfig leaves where one of its variables is empty: a dry run does not foresee them.
fn single_spaced(args: &str) -> String {
    if args.contains(['\'', '"', '\\']) {
        return args.to_string();
    }
    args.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Our lines: the entry on trial, the one from before, and the choice between them.
pub fn write(boot: &Boot, marks: &Marks, from: &BootEntry, to: &BootEntry, from_image: Option<&str>) -> String {
    let running = quoted(&marks.from_args);
    let image = from.initrd.iter().flat_map(|value| value.split_whitespace()).find(|path| {
        let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_string();
        from.image.as_deref().is_some_and(|image| name(image) == name(path))
    });
    let image = image.map(|path| {
        let inside = boot.kind == Kind::GrubBls && !path.starts_with('(');
        if inside { format!("($root){path}") } else { path.to_string() }
    });
    let kept = image.as_deref().zip(from_image).map(|(path, kept)| {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        (path, format!("{folder}/{}", kept.rsplit('/').next().unwrap_or_default()))
    });
    let instead = kept.as_ref().map(|(path, kept)| (*path, kept.as_str()));
    let (from_options, before) = entry(boot, from, &Body { args: &running, instead, otherwise: None });
    let once = with_more(&single_spaced(to.raw_args()), &marks.guard_arguments());
    let (to_options, trial) = entry(boot, to, &Body { args: &once, instead: None, otherwise: Some(&before) });
    let name = |what: &str, release: &Option<String>| {
        format!("{what} (vfio-provision): Linux {}", release.as_deref().unwrap_or("?")).replace('\'', "")
    };
    let (title_to, title_from) = (name("On trial", &to.version), name("As before", &from.version));
    let mut text = format!("{BEGIN}{EXPLAINED}{}", marks.lines());
    text.push_str(&format!("menuentry '{title_to}'{to_options} --id vfio-provision-trial {{\n{trial}}}\n"));
    text.push_str(&format!("menuentry '{title_from}'{from_options} --id vfio-provision-before {{\n{before}}}\n"));
    text.push_str(&format!(
        "set default=vfio-provision-before
set vfio_provision_env=\"${{config_directory}}/{ENV}\"
if [ -z \"${{config_directory}}\" ]; then
  set vfio_provision_env=\"${{prefix}}/{ENV}\"
fi
set {ONCE}=
load_env -f \"${{vfio_provision_env}}\"
if [ \"${{{ONCE}}}\" = armed ]; then
  set {ONCE}=tried
  save_env -f \"${{vfio_provision_env}}\" {ONCE}
  set {ONCE}=
  load_env -f \"${{vfio_provision_env}}\"
  if [ \"${{{ONCE}}}\" = tried ]; then
    set default=vfio-provision-trial
  fi
fi
{END}"
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_lines_come_and_go_and_others_stay() {
        let block = format!("{BEGIN}x\n{END}");
        for text in ["", "set color_normal=white/blue\n", "no newline"] {
            let new = with(text, &block);
            assert!(new.ends_with(&block));
            assert_eq!(with(&new, &block), new);
            assert_eq!(without(&new).trim_end_matches('\n'), text.trim_end_matches('\n'));
            assert_eq!(super::block(&new), Some(block.as_str()));
        }
        let around = format!("a\n{block}b\n");
        assert_eq!(without(&around), "a\nb\n");
        assert_eq!(without(&format!("a\n{BEGIN}cut")), "a\n");
    }

    #[test]
    fn what_is_read_at_the_end() {
        assert!(is_read(
            "if [ -f  ${config_directory}/custom.cfg ]; then\n  source ${config_directory}/custom.cfg\nfi\n"
        ));
        assert!(is_read("  source $prefix/custom.cfg;\n"));
        assert!(!is_read("# source ${config_directory}/custom.cfg\nif [ -f /custom.cfg ]; then\n"));
    }

    #[test]
    fn a_running_kernels_arguments_as_grub_takes_them() {
        assert_eq!(
            quoted("root=UUID=ab-1 ro console=ttyS0,115200n8 dyndbg=\"file x +p\" a;b $x it's"),
            "root=UUID=ab-1 ro console=ttyS0,115200n8 'dyndbg=file x +p' 'a;b' '$x' 'it'\\''s'"
        );
        assert_eq!(with_more("a b -- single", "c"), "a b c -- single");
        assert_eq!(with_more("", "c"), "c");
        assert_eq!(single_spaced("ro console=ttyS0  intel_iommu=on"), "ro console=ttyS0 intel_iommu=on");
        assert_eq!(single_spaced("ro 'dyndbg=file  x +p'"), "ro 'dyndbg=file  x +p'");
    }
}
