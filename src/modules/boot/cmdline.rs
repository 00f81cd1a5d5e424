//! The kernel's command line, by tokens: what is asked for is added or taken away, every other byte stays.
//!
//! The kernel splits at white space outside of double quotes (`next_arg()` in lib/cmdline.c) and takes `-` and `_` in a
//! name for the same (`parameq()` in kernel/params.c). What follows a lone `--` is for init.

use std::ops::Range;

/// Arguments that mean something each time they are given: another value does not replace them.
/// From kernel-parameters.txt and dracut.cmdline(7).
const REPEATABLE: &[&str] = &[
    "acpi_osi",
    "bond",
    "bridge",
    "console",
    "dyndbg",
    "earlycon",
    "hugepagesz",
    "ifname",
    "initcall_blacklist",
    "initrd",
    "ip",
    "memmap",
    "modprobe.blacklist",
    "module_blacklist",
    "nameserver",
    "nfsroot",
    "pci",
    "rd.break",
    "rd.dm.uuid",
    "rd.driver.blacklist",
    "rd.driver.post",
    "rd.driver.pre",
    "rd.luks.crypttab",
    "rd.luks.key",
    "rd.luks.name",
    "rd.luks.options",
    "rd.luks.uuid",
    "rd.lvm.lv",
    "rd.lvm.vg",
    "rd.md.uuid",
    "rd.modules_load",
    "rd.route",
    "rd.znet",
    "rd.zfcp",
    "rdblacklist",
    "rdloaddriver",
    "systemd.mask",
    "systemd.setenv",
    "systemd.wants",
    "team",
    "video",
    "vlan",
];

/// Where the tokens of a command line stand.
pub fn tokens(text: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut start = None;
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        if c == '"' {
            quoted = !quoted;
        }
        match start {
            None if !c.is_ascii_whitespace() => start = Some(at),
            Some(from) if c.is_ascii_whitespace() && !quoted => {
                found.push(from..at);
                start = None;
            }
            _ => {}
        }
    }
    if let Some(from) = start {
        found.push(from..text.len());
    }
    found
}

/// The tokens themselves.
pub fn words(text: &str) -> Vec<String> {
    tokens(text).into_iter().filter_map(|range| text.get(range)).map(str::to_string).collect()
}

/// The name before `=`, with the kernel's `-` = `_`.
pub fn key(token: &str) -> String {
    let token = token.trim_start_matches('"');
    token.split('=').next().unwrap_or("").trim_end_matches('"').replace('-', "_")
}

/// The value behind the first `=`, quotes taken off; `None` for a bare word.
pub fn value(token: &str) -> Option<String> {
    token.split_once('=').map(|(_, value)| value.replace('"', ""))
}

/// The value of the last token with this name, as the kernel takes it; `Some("")` for a bare word.
pub fn last_value(text: &str, name: &str) -> Option<String> {
    let name = key(name);
    words(text).iter().rev().find(|token| key(token) == name).map(|token| value(token).unwrap_or_default())
}

/// What makes two tokens speak of the same thing.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Identity {
    /// One value counts, the last.
    Key(String),
    /// Each different value counts.
    Token(String),
    /// `hugepages=` counts for the `hugepagesz=` before it.
    Pages(String),
}

/// The identities of the tokens of one command line, in order.
fn identities<'a>(tokens: impl IntoIterator<Item = &'a str>) -> Vec<Identity> {
    let mut size = String::new();
    tokens
        .into_iter()
        .map(|token| {
            let key = key(token);
            if key == "hugepagesz" {
                size = value(token).unwrap_or_default().to_ascii_uppercase();
                return Identity::Token(format!("hugepagesz={size}"));
            }
            if key == "hugepages" {
                return Identity::Pages(size.clone());
            }
            if REPEATABLE.iter().any(|known| known.replace('-', "_") == key) {
                return match token.split_once('=') {
                    Some((_, value)) => Identity::Token(format!("{key}={value}")),
                    None => Identity::Token(key),
                };
            }
            Identity::Key(key)
        })
        .collect()
}

/// Do these tokens say the same?
fn same(a: &str, b: &str) -> bool {
    key(a) == key(b) && value(a) == value(b)
}

/// What is asked of a command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edit {
    /// Tokens that must be there, with exactly this value.
    pub present: Vec<String>,
    /// Tokens that must not be there: `quiet` whatever its value, `iommu=soft` only with this value.
    pub absent: Vec<String>,
}

impl Edit {
    /// The command line as asked.
    pub fn apply(&self, text: &str) -> String {
        let mut text = self.correct(text);
        for token in self.missing(&text) {
            text = self.add(&text, &token);
        }
        text
    }

    /// Is it as asked?
    pub fn is_done(&self, text: &str) -> bool {
        self.apply(text) == text
    }

    /// Takes away what must not be there and gives what is there with another value the one that is asked for; adds nothing.
    pub fn correct(&self, text: &str) -> String {
        let ranges = tokens(text);
        let found: Vec<&str> = ranges.iter().filter_map(|range| text.get(range.clone())).collect();
        let here = identities(found.iter().copied());
        let unwanted = identities(self.absent.iter().map(String::as_str));
        let wanted = identities(self.present.iter().map(String::as_str));
        // Init's arguments are not the kernel's.
        let end = found.iter().position(|token| *token == "--").unwrap_or(found.len());
        let mut fate: Vec<Option<Option<&str>>> = vec![None; found.len()];
        for (i, (token, identity)) in found.iter().zip(&here).enumerate().take(end) {
            let goes = self.absent.iter().zip(&unwanted).any(|(absent, id)| {
                let alike = if absent.contains('=') { same(absent, token) } else { key(absent) == key(token) };
                // `hugepages=16` behind a size is only that size's; without one it is any.
                let context = match (id, identity) {
                    (Identity::Pages(size), Identity::Pages(other)) => size.is_empty() || size == other,
                    _ => true,
                };
                alike && context
            });
            if goes && let Some(slot) = fate.get_mut(i) {
                *slot = Some(None);
            }
        }
        for (token, id) in self.present.iter().zip(&wanted) {
            let others: Vec<usize> = (0..end)
                .filter(|i| here.get(*i) == Some(id) && fate.get(*i) == Some(&None))
                .filter(|_| !matches!(id, Identity::Token(_)))
                .collect();
            // The kernel takes the last one; that one gets the value, other values before it go.
            for (n, i) in others.iter().rev().enumerate() {
                let differs = found.get(*i).is_some_and(|old| !same(old, token));
                if let (true, Some(slot)) = (differs, fate.get_mut(*i)) {
                    *slot = Some(if n == 0 { Some(token) } else { None });
                }
            }
        }
        let mut result = text.to_string();
        for (range, fate) in ranges.iter().zip(&fate).rev() {
            match fate {
                None => {}
                Some(Some(token)) => result.replace_range(range.clone(), token),
                Some(None) => remove(&mut result, range.clone()),
            }
        }
        result
    }

    /// What is asked for and not there, in the order in which it was asked for.
    pub fn missing(&self, text: &str) -> Vec<String> {
        let mut found = words(text);
        if let Some(end) = found.iter().position(|token| token == "--") {
            found.truncate(end);
        }
        let here = identities(found.iter().map(String::as_str));
        let wanted = identities(self.present.iter().map(String::as_str));
        self.present
            .iter()
            .zip(&wanted)
            .filter(|(token, id)| {
                !found
                    .iter()
                    .zip(&here)
                    .any(|(old, here)| here == *id && (matches!(id, Identity::Token(_)) || same(old, token)))
            })
            .map(|(token, _)| token.clone())
            .collect()
    }

    /// Puts a token where it belongs: at the end, before a lone `--`; `hugepages=` behind its `hugepagesz=`.
    fn add(&self, text: &str, token: &str) -> String {
        let ranges = tokens(text);
        let found: Vec<&str> = ranges.iter().filter_map(|range| text.get(range.clone())).collect();
        let here = identities(found.iter().copied());
        let end = found.iter().position(|token| *token == "--").unwrap_or(found.len());
        let wanted = identities(self.present.iter().map(String::as_str));
        let identity = self.present.iter().zip(wanted).find(|(other, _)| *other == token).map(|(_, id)| id);
        // Behind how many tokens?
        let behind = match identity {
            Some(Identity::Pages(size)) if size.is_empty() => {
                found.iter().take(end).position(|token| key(token) == "hugepagesz").unwrap_or(end)
            }
            Some(Identity::Pages(size)) => here
                .iter()
                .take(end)
                .rposition(|id| *id == Identity::Token(format!("hugepagesz={size}")))
                .map_or(end, |i| i + 1),
            _ => end,
        };
        let mut result = text.to_string();
        match behind.checked_sub(1).and_then(|last| ranges.get(last)) {
            Some(last) => result.insert_str(last.end, &format!(" {token}")),
            None => match ranges.first() {
                Some(first) => result.insert_str(first.start, &format!("{token} ")),
                None => result.insert_str(0, token),
            },
        }
        result
    }
}

/// Takes a token away, and one of the white space before it (behind it, for the first token).
fn remove(text: &mut String, range: Range<usize>) {
    let before = text.get(..range.start).and_then(|head| head.chars().next_back()).filter(char::is_ascii_whitespace);
    let more_behind = text.get(range.end..).is_some_and(|rest| !rest.trim().is_empty());
    let range = match before {
        Some(_) if text.get(..range.start).is_some_and(|head| !head.trim().is_empty()) || !more_behind => {
            range.start - 1..range.end
        }
        _ if more_behind => range.start..range.end + 1,
        _ => range,
    };
    text.replace_range(range, "");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn edit(present: &[&str], absent: &[&str]) -> Edit {
        let own = |list: &[&str]| list.iter().map(|s| s.to_string()).collect();
        Edit { present: own(present), absent: own(absent) }
    }

    const SEED: &str = "root=/dev/mapper/cl-root ro crashkernel=auto rd.lvm.lv=cl/root rd.lvm.lv=cl/swap rhgb quiet";

    #[test]
    fn adds_at_the_end_and_takes_away_without_a_trace() {
        let wanted = ["intel_iommu=on", "iommu=pt", "rd.driver.pre=vfio-pci"];
        let with = edit(&wanted, &[]).apply(SEED);
        assert_eq!(with, format!("{SEED} intel_iommu=on iommu=pt rd.driver.pre=vfio-pci"));
        assert_eq!(edit(&[], &wanted).apply(&with), SEED);
        assert_eq!(edit(&wanted, &[]).apply(&with), with);
    }

    #[test]
    fn another_value_is_replaced_in_place_unless_the_argument_is_repeatable() {
        assert_eq!(edit(&["intel_iommu=on"], &[]).apply("a intel_iommu=off  b"), "a intel_iommu=on  b");
        assert_eq!(edit(&["iommu=pt"], &[]).apply("iommu=soft a iommu=off"), "a iommu=pt");
        assert_eq!(edit(&["console=ttyS0"], &[]).apply("console=tty0 ro"), "console=tty0 ro console=ttyS0");
        assert_eq!(edit(&["rd.lvm.lv=cl/home"], &[]).apply(SEED), format!("{SEED} rd.lvm.lv=cl/home"));
        assert_eq!(edit(&["pci=noats"], &[]).apply("pci=realloc"), "pci=realloc pci=noats");
        assert_eq!(edit(&["vfio_pci.ids=a:b"], &[]).apply("vfio-pci.ids=1:2 x"), "vfio_pci.ids=a:b x");
    }

    #[test]
    fn absent_by_name_or_by_value() {
        assert_eq!(edit(&[], &["rhgb", "quiet"]).apply("ro rhgb quiet x"), "ro x");
        assert_eq!(edit(&[], &["iommu"]).apply("iommu=pt ro"), "ro");
        assert_eq!(edit(&[], &["iommu=soft"]).apply("iommu=pt ro"), "iommu=pt ro");
        assert_eq!(edit(&[], &["console=ttyS0"]).apply("console=tty0 console=ttyS0"), "console=tty0");
        assert_eq!(edit(&[], &["iommu"]).apply("intel_iommu=on"), "intel_iommu=on");
    }

    #[test]
    fn huge_pages_belong_to_the_size_before_them() {
        let wanted = edit(&["default_hugepagesz=1G", "hugepagesz=1G", "hugepages=16"], &[]);
        assert_eq!(wanted.apply("ro"), "ro default_hugepagesz=1G hugepagesz=1G hugepages=16");
        assert_eq!(
            wanted.apply("hugepagesz=1G hugepages=8 hugepagesz=2M hugepages=512 default_hugepagesz=1G"),
            "hugepagesz=1G hugepages=16 hugepagesz=2M hugepages=512 default_hugepagesz=1G"
        );
        assert_eq!(
            wanted.apply("hugepagesz=1G hugepagesz=2M hugepages=512 default_hugepagesz=1G"),
            "hugepagesz=1G hugepages=16 hugepagesz=2M hugepages=512 default_hugepagesz=1G"
        );
        assert_eq!(
            edit(&[], &["hugepagesz=2M", "hugepages=512"])
                .apply("hugepagesz=1G hugepages=512 hugepagesz=2M hugepages=512"),
            "hugepagesz=1G hugepages=512"
        );
        assert_eq!(
            edit(&["hugepages=64"], &[]).apply("ro hugepagesz=1G hugepages=16"),
            "ro hugepages=64 hugepagesz=1G hugepages=16"
        );
    }

    #[test]
    fn quotes_hold_a_token_together_and_init_keeps_its_own() {
        let text = "dyndbg=\"file drivers/usb/* +p\" quiet -- single quiet";
        assert_eq!(words(text), ["dyndbg=\"file drivers/usb/* +p\"", "quiet", "--", "single", "quiet"]);
        assert_eq!(
            edit(&["intel_iommu=on"], &["quiet"]).apply(text),
            "dyndbg=\"file drivers/usb/* +p\" intel_iommu=on -- single quiet"
        );
        assert_eq!(last_value("iommu=off iommu=pt", "iommu").as_deref(), Some("pt"));
    }

    #[test]
    fn white_space_around_stays() {
        assert_eq!(edit(&["x"], &[]).apply("  quiet  "), "  quiet x  ");
        assert_eq!(edit(&[], &["x"]).apply("  quiet x  "), "  quiet  ");
        assert_eq!(edit(&["x"], &[]).apply(""), "x");
        assert_eq!(edit(&[], &["x"]).apply("x"), "");
    }

    fn line() -> impl Strategy<Value = String> {
        prop::collection::vec(
            prop_oneof![
                Just("quiet".to_string()),
                Just("iommu=soft".to_string()),
                Just("hugepagesz=2M".to_string()),
                Just("hugepages=4".to_string()),
                Just("hugepagesz=1G".to_string()),
                Just("--".to_string()),
                "[a-z]{1,3}(=[a-z0-9,:]{0,3})?",
                "[ \\t]{1,2}",
                "\\PC{1,4}",
            ],
            0..9,
        )
        .prop_map(|parts| parts.join(" "))
    }

    proptest! {
        #[test]
        fn once_is_enough_and_others_stay(text in line(), present in prop::collection::vec(
            prop_oneof!["(intel_iommu|iommu|quiet|console|hugepages|hugepagesz)=[a-z0-9]{1,2}", Just("nomodeset".to_string())], 0..4)) {
            let mut seen = Vec::new();
            let present: Vec<String> =
                present.into_iter().filter(|t| !seen.contains(&key(t)) && { seen.push(key(t)); true }).collect();
            // A line that is broken off inside of quotes takes what is added for a part of the quoted value.
            prop_assume!(text.matches('"').count() % 2 == 0);
            let asked = Edit { present: present.clone(), absent: vec![] };
            let once = asked.apply(&text);
            prop_assert_eq!(asked.apply(&once), once.clone());
            prop_assert!(asked.missing(&once).is_empty());
            let keys: Vec<String> = present.iter().map(|t| key(t)).collect();
            let others = |text: &str| words(text).into_iter().filter(|t| !keys.contains(&key(t))).collect::<Vec<_>>();
            prop_assert_eq!(others(&once), others(&text));
        }

        #[test]
        fn what_was_added_goes_without_a_trace(text in line()) {
            prop_assume!(text.matches('"').count() % 2 == 0);
            let added = ["intel_iommu=on".to_string(), "rd.driver.pre=vfio-pci".to_string(), "nomodeset".to_string()];
            let with = Edit { present: added.to_vec(), absent: vec![] }.apply(&text);
            let without = Edit { present: vec![], absent: added.to_vec() }.apply(&with);
            prop_assert_eq!(without, text);
        }

        #[test]
        fn anything_is_read(text in "\\PC*", token in "\\PC{0,6}") {
            let _ = Edit { present: vec![token.clone()], absent: vec![token] }.apply(&text);
        }
    }
}
