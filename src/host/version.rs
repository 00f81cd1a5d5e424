//! Which of two package versions is newer, as rpm and dpkg decide it.

use std::cmp::Ordering;

/// Takes the leading part of `text` whose characters are alike.
fn take(text: &str, alike: impl Fn(char) -> bool) -> (&str, &str) {
    let end = text.find(|c| !alike(c)).unwrap_or(text.len());
    text.split_at(end)
}

fn numbers(a: &str, b: &str) -> Ordering {
    let (a, b) = (a.trim_start_matches('0'), b.trim_start_matches('0'));
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

/// Compares `[EPOCH:]VERSION[-RELEASE]` of RPM packages (rpm-version(7)). A release is only compared where both have one.
pub fn compare_rpm(a: &str, b: &str) -> Ordering {
    let (epoch_a, a) = a.split_once(':').unwrap_or(("0", a));
    let (epoch_b, b) = b.split_once(':').unwrap_or(("0", b));
    let split = |text: &str| match text.rsplit_once('-') {
        Some((version, release)) => (version.to_string(), Some(release.to_string())),
        None => (text.to_string(), None),
    };
    let ((version_a, release_a), (version_b, release_b)) = (split(a), split(b));
    numbers(epoch_a, epoch_b).then_with(|| rpm_part(&version_a, &version_b)).then_with(|| {
        match (release_a, release_b) {
            (Some(a), Some(b)) => rpm_part(&a, &b),
            _ => Ordering::Equal,
        }
    })
}

/// Runs of digits and of letters are compared one by one; a tilde sorts before everything, a caret only before what is
/// not the end, digits after letters; what has more parts is newer.
fn rpm_part(mut a: &str, mut b: &str) -> Ordering {
    let separator = |c: char| !(c.is_ascii_alphanumeric() || c == '~' || c == '^');
    loop {
        a = a.trim_start_matches(separator);
        b = b.trim_start_matches(separator);
        for sign in ['~', '^'] {
            match (a.strip_prefix(sign), b.strip_prefix(sign)) {
                (Some(rest_a), Some(rest_b)) => return rpm_part(rest_a, rest_b),
                (Some(_), None) if sign == '^' && b.is_empty() => return Ordering::Greater,
                (None, Some(_)) if sign == '^' && a.is_empty() => return Ordering::Less,
                (Some(_), None) => return Ordering::Less,
                (None, Some(_)) => return Ordering::Greater,
                (None, None) => {}
            }
        }
        if a.is_empty() || b.is_empty() {
            return a.len().min(1).cmp(&b.len().min(1));
        }
        let digits = a.starts_with(|c: char| c.is_ascii_digit());
        let alike = |c: char| if digits { c.is_ascii_digit() } else { c.is_ascii_alphabetic() };
        let (part_a, rest_a) = take(a, alike);
        let (part_b, rest_b) = take(b, alike);
        if part_b.is_empty() {
            return if digits { Ordering::Greater } else { Ordering::Less };
        }
        let order = if digits { numbers(part_a, part_b) } else { part_a.cmp(part_b) };
        if order.is_ne() {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
}

/// Compares `[EPOCH:]UPSTREAM[-REVISION]` of Debian packages (deb-version(7)).
pub fn compare_deb(a: &str, b: &str) -> Ordering {
    let (epoch_a, a) = a.split_once(':').unwrap_or(("0", a));
    let (epoch_b, b) = b.split_once(':').unwrap_or(("0", b));
    let (upstream_a, revision_a) = a.rsplit_once('-').unwrap_or((a, "0"));
    let (upstream_b, revision_b) = b.rsplit_once('-').unwrap_or((b, "0"));
    numbers(epoch_a, epoch_b)
        .then_with(|| deb_part(upstream_a, upstream_b))
        .then_with(|| deb_part(revision_a, revision_b))
}

fn deb_part(mut a: &str, mut b: &str) -> Ordering {
    // The end sorts before everything but a tilde, letters before all other characters.
    fn weight(c: Option<char>) -> i64 {
        match c {
            Some('~') => -1,
            None => 0,
            Some(c) if c.is_ascii_alphabetic() => i64::from(u32::from(c)),
            Some(c) => i64::from(u32::from(c)) + 0x20_0000,
        }
    }
    while !(a.is_empty() && b.is_empty()) {
        let (text_a, rest_a) = take(a, |c| !c.is_ascii_digit());
        let (text_b, rest_b) = take(b, |c| !c.is_ascii_digit());
        let (mut chars_a, mut chars_b) = (text_a.chars(), text_b.chars());
        loop {
            let (next_a, next_b) = (chars_a.next(), chars_b.next());
            let order = weight(next_a).cmp(&weight(next_b));
            if order.is_ne() {
                return order;
            }
            if next_a.is_none() {
                break;
            }
        }
        let (number_a, after_a) = take(rest_a, |c| c.is_ascii_digit());
        let (number_b, after_b) = take(rest_b, |c| c.is_ascii_digit());
        let order = numbers(number_a, number_b);
        if order.is_ne() {
            return order;
        }
        (a, b) = (after_a, after_b);
    }
    Ordering::Equal
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ascending(compare: fn(&str, &str) -> Ordering, versions: &[&str]) {
        for (i, a) in versions.iter().enumerate() {
            for (j, b) in versions.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} and {b}");
            }
        }
    }

    #[test]
    fn rpm_versions() {
        ascending(
            compare_rpm,
            &["1.0~rc1-1", "1.0-1", "1.0^git1-1", "1.0a-1", "1.0.1-1", "1.9-1", "1.10-1.el7", "1.10-2.el7", "1:0.1-1"],
        );
        ascending(compare_rpm, &["4.9.2-1.el7.elrepo", "5.4.278-1.el7.elrepo", "6.9.7-1.el7.elrepo"]);
        assert_eq!(compare_rpm("1.0", "1.0-5"), Ordering::Equal);
        assert_eq!(compare_rpm("2.01", "2.1"), Ordering::Equal);
        assert_eq!(compare_rpm("fc4", "fc.4"), Ordering::Equal);
    }

    #[test]
    fn debian_versions() {
        ascending(
            compare_deb,
            &["1.0~~", "1.0~rc1-1", "1.0-1", "1.0-1+b1", "1.0-2", "1.0a-1", "1.0+dfsg-1", "1.2-1", "1.10-1", "2:0-1"],
        );
        assert_eq!(compare_deb("1.0", "1.0-0"), Ordering::Equal);
    }

    proptest! {
        #[test]
        fn orders_are_orders(a in "[0-9a-z.~^+:-]{0,8}", b in "[0-9a-z.~^+:-]{0,8}", c in "\\PC{0,6}") {
            for compare in [compare_rpm, compare_deb] {
                prop_assert_eq!(compare(&a, &b), compare(&b, &a).reverse());
                prop_assert_eq!(compare(&a, &a), Ordering::Equal);
                let _ = compare(&a, &c);
            }
        }
    }
}
