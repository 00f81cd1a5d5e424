//! Boot Loader Specification entries: `/boot/loader/entries/*.conf` of GRUB (EL8 and later, Fedora) and systemd-boot.

use std::cmp::Ordering;

use super::cmdline::{self, Edit};
use crate::host::version::compare_rpm;

/// The values of a key, in order; a line is the key, white space, the value.
pub fn all(text: &str, key: &str) -> Vec<String> {
    text.lines().filter_map(|line| split(line)).filter(|(k, _)| *k == key).map(|(_, v)| v.to_string()).collect()
}

/// The first value of a key.
pub fn get(text: &str, key: &str) -> Option<String> {
    all(text, key).into_iter().next()
}

/// The kernel's arguments: all `options` lines put together.
pub fn options(text: &str) -> String {
    all(text, "options").join(" ")
}

fn split(line: &str) -> Option<(&str, &str)> {
    let line = line.trim();
    if line.starts_with('#') {
        return None;
    }
    line.split_once([' ', '\t']).map(|(key, value)| (key, value.trim_start()))
}

/// The text with its `options` as asked. With several such lines what is missing goes to the last.
pub fn edit_options(text: &str, edit: &Edit) -> String {
    let missing = edit.missing(&edit.correct(&options(text)));
    let is_options = |line: &str| split(line).is_some_and(|(key, _)| key == "options");
    let last = text.lines().enumerate().filter(|(_, line)| is_options(line)).map(|(n, _)| n).last();
    let add = Edit { present: missing.clone(), absent: Vec::new() };
    let Some(last) = last else {
        if missing.is_empty() {
            return text.to_string();
        }
        let newline = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        return format!("{text}{newline}options {}\n", add.apply(""));
    };
    text.split_inclusive('\n')
        .enumerate()
        .map(|(n, line)| {
            let Some(("options", value)) = split(line) else { return line.to_string() };
            let start = line.len() - line.trim_start().len();
            // The value is the end of the trimmed line.
            let from = start + line.trim().len() - value.len();
            let mut new = edit.correct(value);
            if n == last {
                new = add.apply(&new);
            }
            let (head, tail) = (line.get(..from).unwrap_or(line), line.get(from + value.len()..).unwrap_or(""));
            format!("{head}{new}{tail}")
        })
        .collect()
}

/// An entry for a new kernel, made like one that is there.
pub fn for_kernel(text: &str, old: &str, new: &str) -> String {
    text.replace(old, new)
}

/// The order of GRUB's menu (blscfg): by file name, as rpm compares, newest first.
pub fn compare_ids(a: &str, b: &str) -> Ordering {
    let plain = |id: &str| id.replace(['-', ':'], ".");
    compare_rpm(&plain(b), &plain(a)).then_with(|| b.cmp(a))
}

/// Does a pattern of loader.conf(5) (`*`, `?`) match a file name?
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // One row of the table "does the pattern up to here match the name up to there".
    let mut row: Vec<bool> = std::iter::once(true).chain(name.iter().map(|_| false)).collect();
    for p in &pattern {
        let mut next = vec![*p == '*' && row.first() == Some(&true)];
        for (i, c) in name.iter().enumerate() {
            let (diagonal, above) = (row.get(i) == Some(&true), row.get(i + 1) == Some(&true));
            let left = next.last() == Some(&true);
            next.push(match p {
                '*' => above || left,
                '?' => diagonal,
                p => diagonal && p == c,
            });
        }
        row = next;
    }
    row.last() == Some(&true)
}

/// The options with GRUB's variables put in; `$tuned_params` and others that are not set vanish.
pub fn expand(options: &str, variable: &dyn Fn(&str) -> Option<String>) -> String {
    let mut result = options.to_string();
    for token in cmdline::words(options) {
        let name = token.strip_prefix("${").and_then(|t| t.strip_suffix('}')).or_else(|| token.strip_prefix('$'));
        if let Some(name) = name {
            result = result.replacen(&token, variable(name).unwrap_or_default().trim(), 1);
        }
    }
    cmdline::words(&result).join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ENTRY: &str = "title Rocky Linux (5.14.0-427.el9.x86_64) 9.4\nversion 5.14.0-427.el9.x86_64\n\
        linux /vmlinuz-5.14.0-427.el9.x86_64\ninitrd /initramfs-5.14.0-427.el9.x86_64.img $tuned_initrd\n\
        options root=/dev/mapper/rl-root ro rd.lvm.lv=rl/root rhgb quiet $tuned_params\ngrub_users $grub_users\n";

    fn edit(present: &[&str], absent: &[&str]) -> Edit {
        let own = |list: &[&str]| list.iter().map(|s| s.to_string()).collect();
        Edit { present: own(present), absent: own(absent) }
    }

    #[test]
    fn options_change_and_nothing_else() {
        let new = edit_options(ENTRY, &edit(&["intel_iommu=on"], &[]));
        assert_eq!(new, ENTRY.replace("$tuned_params", "$tuned_params intel_iommu=on"));
        assert_eq!(edit_options(&new, &edit(&[], &["intel_iommu=on"])), ENTRY);
        assert_eq!(edit_options(ENTRY, &edit(&[], &["rhgb"])), ENTRY.replace("rhgb ", ""));
    }

    #[test]
    fn several_options_lines_and_none() {
        let two = "linux /x\noptions\troot=a\noptions  iommu=soft\n";
        assert_eq!(options(two), "root=a iommu=soft");
        assert_eq!(
            edit_options(two, &edit(&["iommu=pt", "root=a", "b"], &[])),
            "linux /x\noptions\troot=a\noptions  iommu=pt b\n"
        );
        assert_eq!(edit_options("linux /x", &edit(&["b"], &[])), "linux /x\noptions b\n");
    }

    #[test]
    fn variables_are_put_in() {
        let variable = |name: &str| (name == "kernelopts").then(|| "root=/dev/sda1 ro ".to_string());
        assert_eq!(expand("$kernelopts $tuned_params x", &variable), "root=/dev/sda1 ro x");
    }

    #[test]
    fn newest_first_and_rescue_last() {
        let mut ids = ["m-0-rescue", "m-5.14.0-70.el9", "m-5.14.0-427.el9", "m-6.9.7-1.el9.elrepo"];
        ids.sort_by(|a, b| compare_ids(a, b));
        assert_eq!(ids, ["m-6.9.7-1.el9.elrepo", "m-5.14.0-427.el9", "m-5.14.0-70.el9", "m-0-rescue"]);
    }

    #[test]
    fn patterns() {
        assert!(matches("arch-*.conf", "arch-lts.conf") && matches("*", "") && matches("a?c*", "abcd"));
        assert!(!matches("arch-*.conf", "arch.conf") && !matches("", "a"));
    }

    proptest! {
        #[test]
        fn once_is_enough(text in "(options |linux /x|title|[ \t\n#]|iommu=soft|a){0,20}") {
            let asked = edit(&["iommu=pt", "b=c"], &["a"]);
            let once = edit_options(&text, &asked);
            prop_assert_eq!(edit_options(&once, &asked), once.clone());
            prop_assert!(asked.is_done(&options(&once)));
        }

        #[test]
        fn anything_is_read(text in "\\PC*", pattern in "[a*?]{0,8}") {
            let _ = edit_options(&text, &edit(&["x"], &["y"]));
            let _ = expand(&text, &|_| None);
            let _ = matches(&pattern, &text);
        }
    }
}
