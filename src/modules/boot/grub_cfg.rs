//! `grub.cfg` as `grub-mkconfig` writes it: its entries, their kernel lines, and which of them is the default.
//!
//! Only the words of the script that matter here are understood (GRUB manual, "Writing full configuration files
//! directly"); a text made from it differs only where an argument or an entry was asked for.

use std::ops::Range;

use super::unfinished;

/// The kernel line of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Linux {
    /// `linux`, `linux16` or `linuxefi`.
    pub command: String,
    /// The kernel, as GRUB sees it: `/vmlinuz-…` or `/boot/vmlinuz-…`.
    pub path: String,
    /// Where its arguments stand, without the white space around them.
    pub args: Range<usize>,
}

/// What stands in the menu: an entry, or a submenu that holds others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// As the menu shows it.
    pub title: String,
    /// `--id`.
    pub id: Option<String>,
    /// Its place in the menu: `[1, 0]` is the first in the second, which is a submenu.
    pub position: Vec<usize>,
    /// The script of /etc/grub.d that wrote it.
    pub section: Option<String>,
    /// From the start of its first line to the end of its last.
    pub block: Range<usize>,
    /// Is it a submenu?
    pub submenu: bool,
    /// Its kernel line; `None` when it boots no Linux.
    pub linux: Option<Linux>,
    /// Its initial RAM disks.
    pub initrd: Vec<String>,
}

/// What a grub.cfg says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GrubCfg {
    /// Entries and submenus, in order; what is in a submenu comes behind it.
    pub items: Vec<Item>,
    /// The default is what the environment block calls `saved_entry`.
    pub saved: bool,
    /// It honours `next_entry`, which counts once.
    pub next: bool,
    /// The default that is written down: an index, a title or an id.
    pub default: Option<String>,
    /// Entries come from /boot/loader/entries.
    pub bls: bool,
    /// `set kernelopts=…`, for entries of /boot/loader/entries that use it.
    pub kernelopts: Option<String>,
}

impl Item {
    /// Is its kernel a file that rpm has not finished?
    pub fn is_unfinished(&self) -> bool {
        self.linux.as_ref().is_some_and(|linux| unfinished::began(&linux.path).is_some())
    }
}

enum Block {
    Item(usize),
    Other,
}

/// Reads a grub.cfg. What it does not know is passed over.
pub fn parse(text: &str) -> GrubCfg {
    let mut cfg = GrubCfg::default();
    let mut open: Vec<Block> = Vec::new();
    let mut section: Option<String> = None;
    let mut counts: Vec<usize> = vec![0];
    let mut path: Vec<usize> = Vec::new();
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let body = line.trim_end_matches(['\n', '\r']);
        if let Some(marker) = body.strip_prefix("### ") {
            if let Some(name) = marker.strip_prefix("BEGIN ") {
                section = Some(name.trim_end_matches('#').trim().to_string());
            } else if marker.starts_with("END ") {
                section = None;
            }
        }
        let words = words(body);
        let word = |n: usize| words.get(n).map(|w: &Word| w.text.as_str());
        match word(0).unwrap_or("") {
            kind @ ("menuentry" | "submenu") if word(words.len().saturating_sub(1)) == Some("{") => {
                let id = words.iter().enumerate().find_map(|(n, w)| match w.text.as_str() {
                    "--id" | "$menuentry_id_option" | "${menuentry_id_option}" => word(n + 1).map(str::to_string),
                    other => other.strip_prefix("--id=").map(str::to_string),
                });
                let here = counts.last().copied().unwrap_or(0);
                if let Some(count) = counts.last_mut() {
                    *count += 1;
                }
                let mut position = path.clone();
                position.push(here);
                let submenu = kind == "submenu";
                if submenu {
                    path.push(here);
                    counts.push(0);
                }
                cfg.items.push(Item {
                    title: word(1).unwrap_or("").to_string(),
                    id,
                    position,
                    section: section.clone(),
                    block: start..at,
                    submenu,
                    linux: None,
                    initrd: Vec::new(),
                });
                open.push(Block::Item(cfg.items.len() - 1));
            }
            "}" => {
                if let Some(Block::Item(n)) = open.pop()
                    && let Some(item) = cfg.items.get_mut(n)
                {
                    item.block.end = at;
                    if item.submenu {
                        path.pop();
                        counts.pop();
                    }
                }
            }
            command @ ("linux" | "linux16" | "linuxefi") => {
                if let (Some(item), Some(kernel)) = (innermost(&mut cfg.items, &open), words.get(1)) {
                    let end = start + body.trim_end().len();
                    let from = words.get(2).map_or(end, |first| start + first.at);
                    item.linux =
                        Some(Linux { command: command.into(), path: kernel.text.clone(), args: from.min(end)..end });
                }
            }
            "initrd" | "initrd16" | "initrdefi" => {
                if let Some(item) = innermost(&mut cfg.items, &open) {
                    item.initrd = words.iter().skip(1).map(|w| w.text.clone()).collect();
                }
            }
            "blscfg" => cfg.bls = true,
            "set" => {
                if let Some(value) = word(1).and_then(|w| w.strip_prefix("default=")) {
                    match value {
                        "${saved_entry}" | "$saved_entry" => cfg.saved = true,
                        "${next_entry}" | "$next_entry" => cfg.next = true,
                        literal => cfg.default = Some(literal.to_string()),
                    }
                }
                if let Some(value) = word(1).and_then(|w| w.strip_prefix("kernelopts=")) {
                    cfg.kernelopts = Some(value.trim().to_string());
                }
            }
            _ if words.last().is_some_and(|w| w.text == "{" && !w.quoted) => open.push(Block::Other),
            _ => {}
        }
    }
    cfg
}

fn innermost<'a>(items: &'a mut [Item], open: &[Block]) -> Option<&'a mut Item> {
    let n = open.iter().rev().find_map(|block| match block {
        Block::Item(n) => Some(*n),
        Block::Other => None,
    })?;
    items.get_mut(n).filter(|item| !item.submenu)
}

struct Word {
    text: String,
    at: usize,
    quoted: bool,
}

/// The words of one line of GRUB's script, quotes taken off; a comment ends it.
fn words(line: &str) -> Vec<Word> {
    let mut found: Vec<Word> = Vec::new();
    let mut current: Option<Word> = None;
    let mut chars = line.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c.is_ascii_whitespace() {
            found.extend(current.take());
            continue;
        }
        if c == '#' && current.is_none() {
            break;
        }
        let word = current.get_or_insert_with(|| Word { text: String::new(), at, quoted: false });
        match c {
            '\'' => {
                word.quoted = true;
                for (_, c) in chars.by_ref() {
                    if c == '\'' {
                        break;
                    }
                    word.text.push(c);
                }
            }
            '"' => {
                word.quoted = true;
                while let Some((_, c)) = chars.next() {
                    match c {
                        '"' => break,
                        '\\' => match chars.peek() {
                            Some((_, n @ ('"' | '\\' | '$'))) => {
                                word.text.push(*n);
                                chars.next();
                            }
                            _ => word.text.push('\\'),
                        },
                        c => word.text.push(c),
                    }
                }
            }
            '\\' => word.text.extend(chars.next().map(|(_, c)| c)),
            c => word.text.push(c),
        }
    }
    found.extend(current);
    found
}

impl GrubCfg {
    /// The entry that a default such as `0`, `1>2`, a title or an id means; `None` when there is no such entry (GRUB then
    /// takes the first).
    pub fn resolve(&self, wanted: &str) -> Option<&Item> {
        let mut prefix: Vec<usize> = Vec::new();
        let mut found = None;
        // A `>` in a title is written twice.
        for part in wanted.replace(">>", "\u{1}").split('>') {
            let part = part.replace('\u{1}', ">");
            let part = part.trim();
            let item = self.items.iter().find(|item| {
                item.position.len() == prefix.len() + 1
                    && item.position.starts_with(&prefix)
                    && (item.title == part
                        || item.id.as_deref() == Some(part)
                        || part.parse().ok() == item.position.last().copied())
            })?;
            prefix.clone_from(&item.position);
            found = Some(item);
        }
        self.first_in(found?)
    }

    /// The entry that GRUB takes when nothing else is said.
    pub fn first(&self) -> Option<&Item> {
        self.items.first().and_then(|item| self.first_in(item))
    }

    fn first_in<'a>(&'a self, item: &'a Item) -> Option<&'a Item> {
        if !item.submenu {
            return Some(item);
        }
        self.items.iter().find(|other| !other.submenu && other.position.starts_with(&item.position))
    }

    /// Title or id of an entry with those of the submenus around it, as `grub-set-default` takes it.
    pub fn name(&self, item: &Item, by_id: bool) -> String {
        (1..=item.position.len())
            .filter_map(|n| {
                let position = item.position.get(..n)?;
                let part = self.items.iter().find(|other| other.position == position)?;
                let name = if by_id { part.id.as_ref().unwrap_or(&part.title) } else { &part.title };
                Some(name.replace('>', ">>"))
            })
            .collect::<Vec<_>>()
            .join(">")
    }
}

/// What an entry's first line says about how it looks and who may boot it, without its title and id.
pub fn header_options(line: &str) -> String {
    let words = words(line);
    let mut found = String::new();
    for (n, word) in words.iter().enumerate() {
        let next = words.get(n + 1).map_or("", |next: &Word| next.text.as_str());
        match word.text.as_str() {
            "--unrestricted" => found.push_str(" --unrestricted"),
            name @ ("--class" | "--users") if !next.is_empty() => {
                found.push_str(&format!(" {name} '{}'", next.replace('\'', "")));
            }
            _ => {}
        }
    }
    found
}

/// The text with the arguments of some entries changed.
pub fn edit_args(text: &str, cfg: &GrubCfg, change: &dyn Fn(&Item, &str) -> Option<String>) -> String {
    let mut result = text.to_string();
    for item in cfg.items.iter().rev() {
        let Some(linux) = &item.linux else { continue };
        let Some(old) = text.get(linux.args.clone()) else { continue };
        let Some(new) = change(item, old) else { continue };
        let gap = text.get(..linux.args.start).is_some_and(|head| !head.ends_with([' ', '\t']));
        let new = if gap && !new.is_empty() { format!(" {new}") } else { new };
        result.replace_range(linux.args.clone(), &new);
    }
    result
}

/// The text with an entry for a new kernel, made like an entry that is there and put before the first of its section, as
/// the kernel's package does it.
pub fn add_kernel(text: &str, cfg: &GrubCfg, like: &Item, old: &str, new: &str) -> Option<String> {
    let block = text.get(like.block.clone())?.replace(old, new);
    let place =
        cfg.items.iter().find(|item| item.section == like.section && item.position.len() == like.position.len())?;
    let mut result = text.to_string();
    result.insert_str(place.block.start, &block);
    Some(result)
}

/// The text without the entries of kernels that rpm has not finished.
pub fn without_unfinished(text: &str, cfg: &GrubCfg) -> String {
    let (mut result, mut at) = (String::new(), 0);
    for item in cfg.items.iter().filter(|item| item.is_unfinished()) {
        result.push_str(text.get(at..item.block.start).unwrap_or(""));
        at = at.max(item.block.end);
    }
    result.push_str(text.get(at..).unwrap_or(""));
    result
}

/// The text with the default taken from the environment block.
pub fn save_default(text: &str) -> String {
    text.split_inclusive('\n')
        .map(|line| {
            let body = line.trim();
            match body.strip_prefix("set default=") {
                Some(value) if !value.contains("next_entry") => line.replace(body, "set default=\"${saved_entry}\""),
                _ => line.to_string(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::modules::boot::cmdline::Edit;
    use crate::modules::boot::samples;
    use proptest::prelude::*;

    #[test]
    fn reads_entries_of_enterprise_linux_7() {
        let cfg = parse(samples::EL7_GRUB_CFG);
        let titles: Vec<&str> = cfg.items.iter().map(|item| item.title.as_str()).collect();
        assert_eq!(
            titles,
            ["CentOS Linux (3.10.0-514.el7.x86_64) 7 (Core)", "CentOS Linux (0-rescue-aa11) 7 (Core)", "Windows"]
        );
        assert!(cfg.saved && cfg.next && !cfg.bls);
        let linux = cfg.items[0].linux.clone().unwrap();
        assert_eq!((linux.command.as_str(), linux.path.as_str()), ("linux16", "/vmlinuz-3.10.0-514.el7.x86_64"));
        assert_eq!(
            &samples::EL7_GRUB_CFG[linux.args],
            "root=/dev/mapper/cl-root ro crashkernel=auto rd.lvm.lv=cl/root rd.lvm.lv=cl/swap rhgb quiet LANG=en_US.UTF-8"
        );
        assert_eq!(cfg.items[0].initrd, ["/initramfs-3.10.0-514.el7.x86_64.img"]);
        assert_eq!(cfg.items[2].section.as_deref(), Some("/etc/grub.d/40_custom"));
        assert!(cfg.items[2].linux.is_none());
    }

    #[test]
    fn a_default_is_an_index_a_title_or_an_id_through_submenus() {
        let cfg = parse(samples::DEBIAN_GRUB_CFG);
        let title = |wanted: &str| cfg.resolve(wanted).map(|item| item.title.clone());
        let new = Some("Debian GNU/Linux, with Linux 6.1.0-18-amd64".to_string());
        assert_eq!(title("0").as_deref(), Some("Debian GNU/Linux"));
        assert_eq!(title("1"), new);
        assert_eq!(title("1>0"), new);
        assert_eq!(title("gnulinux-advanced-u1>gnulinux-6.1.0-18-amd64-advanced-u1"), new);
        assert_eq!(title("Advanced options for Debian GNU/Linux>Debian GNU/Linux, with Linux 6.1.0-18-amd64"), new);
        assert_eq!(title("nothing"), None);
        assert_eq!(
            cfg.name(cfg.resolve("1>1").unwrap(), true),
            "gnulinux-advanced-u1>gnulinux-6.1.0-18-amd64-recovery-u1"
        );
    }

    #[test]
    fn an_entry_keeps_its_looks_and_its_users() {
        let line = "menuentry 'A' --class centos --users \"root\" --unrestricted $menuentry_id_option 'x' {";
        assert_eq!(header_options(line), " --class 'centos' --users 'root' --unrestricted");
        assert_eq!(header_options("menuentry 'A' --hotkey=x {"), "");
    }

    #[test]
    fn arguments_change_and_nothing_else() {
        let cfg = parse(samples::EL7_GRUB_CFG);
        let add = Edit { present: vec!["intel_iommu=on".into()], absent: vec![] };
        let new = edit_args(samples::EL7_GRUB_CFG, &cfg, &|_, old| Some(add.apply(old)));
        let changed: Vec<&str> =
            new.lines().zip(samples::EL7_GRUB_CFG.lines()).filter(|(a, b)| a != b).map(|(a, _)| a).collect();
        assert_eq!(changed.len(), 2);
        assert!(changed.iter().all(|line| line.ends_with(" intel_iommu=on")), "{changed:?}");
        assert_eq!(new.replace(" intel_iommu=on", ""), samples::EL7_GRUB_CFG);
    }

    #[test]
    fn a_new_kernel_is_put_on_top_with_the_same_arguments() {
        let cfg = parse(samples::EL7_GRUB_CFG);
        let old = "3.10.0-514.el7.x86_64";
        let new = add_kernel(samples::EL7_GRUB_CFG, &cfg, &cfg.items[0], old, "4.9.2-1.el7.elrepo.x86_64").unwrap();
        let after = parse(&new);
        assert_eq!(after.items.len(), 4);
        assert_eq!(after.items[0].title, "CentOS Linux (4.9.2-1.el7.elrepo.x86_64) 7 (Core)");
        assert_eq!(after.items[0].initrd, ["/initramfs-4.9.2-1.el7.elrepo.x86_64.img"]);
        assert_eq!(&new[after.items[0].linux.clone().unwrap().args], &new[after.items[1].linux.clone().unwrap().args]);
        assert!(parse(&save_default(samples::DEBIAN_GRUB_CFG)).saved);
    }

    proptest! {
        #[test]
        fn anything_is_read_and_kept(text in "(menuentry|submenu|linux|initrd|set default=|'[a-z]'|\"|\\$\\{|[{} >\t\n\\\\#]|/x|;6b03edee|a=b| 1){0,40}") {
            let cfg = parse(&text);
            prop_assert_eq!(edit_args(&text, &cfg, &|_, old| Some(old.to_string())), text.clone());
            for item in &cfg.items {
                prop_assert!(text.get(item.block.clone()).is_some());
                let _ = add_kernel(&text, &cfg, item, "a", "b");
            }
            let without = without_unfinished(&text, &cfg);
            prop_assert!(cfg.items.iter().any(Item::is_unfinished) || without == text);
            let _ = cfg.resolve(&text);
        }

        #[test]
        fn no_text_is_too_strange(text in "\\PC*") {
            let _ = parse(&text).resolve(&text);
        }
    }
}
