//! Many host names in few words: `ws01…ws12, ws14, lab-a3`.

/// At most this many pieces; the rest is a number.
const MOST: usize = 12;

/// A name taken apart around the number that counts: `ws`, `01`, `.lab`.
struct Name<'a> {
    whole: &'a str,
    before: &'a str,
    number: Option<u64>,
    digits: usize,
    after: &'a str,
}

fn apart(whole: &str) -> Name<'_> {
    let none = Name { whole, before: whole, number: None, digits: 0, after: "" };
    // In a domain name the first label counts, in an address the last number.
    let address = whole.parse::<std::net::IpAddr>().is_ok();
    let counts = if address { whole } else { whole.split('.').next().unwrap_or(whole) };
    let Some(last) = counts.rfind(|c: char| c.is_ascii_digit()) else { return none };
    let first = counts[..last]
        .rfind(|c: char| !c.is_ascii_digit())
        .map_or(0, |at| at + counts[at..].chars().next().map_or(1, char::len_utf8));
    let (Some(before), Some(text), Some(after)) = (whole.get(..first), whole.get(first..=last), whole.get(last + 1..))
    else {
        return none;
    };
    match text.parse() {
        Ok(number) => Name { whole, before, number: Some(number), digits: text.len(), after },
        Err(_) => none,
    }
}

/// Does `next` come right after `name`, written the same way?
fn follows(name: &Name<'_>, next: &Name<'_>) -> bool {
    let (Some(a), Some(b)) = (name.number, next.number) else { return false };
    let same_form = next.digits == name.digits || (next.digits == name.digits + 1 && no_zeros(next) && no_zeros(name));
    name.before == next.before && name.after == next.after && a.checked_add(1) == Some(b) && same_form
}

fn no_zeros(name: &Name<'_>) -> bool {
    name.number.is_some_and(|number| number.to_string().len() == name.digits)
}

/// The names in as few words as possible, and how many they are where that is not seen at once.
pub fn compact<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    shortened(names, MOST)
}

/// The same, and none is left out.
pub fn complete<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    shortened(names, usize::MAX)
}

fn shortened<'a>(names: impl IntoIterator<Item = &'a str>, most: usize) -> String {
    let mut names: Vec<Name<'a>> = names.into_iter().map(apart).collect();
    names.sort_by(|a, b| (a.before, a.after, a.number, a.whole).cmp(&(b.before, b.after, b.number, b.whole)));
    let count = names.len();
    let mut pieces: Vec<(String, usize)> = Vec::new();
    let mut rest = names.as_slice();
    while let Some(first) = rest.first() {
        let mut length = 1;
        while let (Some(this), Some(next)) = (rest.get(length - 1), rest.get(length)) {
            if !follows(this, next) {
                break;
            }
            length += 1;
        }
        // A few names read better than a range.
        if length < 4 {
            pieces.push((first.whole.to_string(), 1));
            rest = &rest[1..];
            continue;
        }
        let last = rest.get(length - 1).map_or(first.whole, |name| name.whole);
        pieces.push((format!("{}…{last}", first.whole), length));
        rest = &rest[length..];
    }
    let mut text = String::new();
    let shown = if pieces.len() > most { most - 1 } else { pieces.len() };
    for (piece, _) in &pieces[..shown] {
        if !text.is_empty() {
            text.push_str(", ");
        }
        text.push_str(piece);
    }
    let more: usize = pieces[shown..].iter().map(|(_, hosts)| hosts).sum();
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    if count > 4 || shown < count {
        text.push_str(&format!(" ({})", hosts(count)));
    }
    text
}

/// `1 host`, `40 hosts`.
pub fn hosts(count: usize) -> String {
    if count == 1 { "1 host".into() } else { format!("{count} hosts") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(names: &[&str]) -> String {
        compact(names.iter().copied())
    }

    #[test]
    fn neighbours_become_ranges() {
        let mut names: Vec<String> = (1..=12).map(|n| format!("ws{n:02}")).collect();
        names.extend(["ws14".into(), "lab-a3".into()]);
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(of(&names), "lab-a3, ws01…ws12, ws14 (14 hosts)");
        assert_eq!(of(&["ws2", "ws1"]), "ws1, ws2");
        assert_eq!(of(&["ws8", "ws9", "ws10", "ws11"]), "ws8…ws11 (4 hosts)");
        assert_eq!(of(&["ws08", "ws9", "ws010"]), "ws08, ws9, ws010");
        assert_eq!(of(&["ws1", "ws2", "ws3"]), "ws1, ws2, ws3");
        assert_eq!(of(&["a1.x", "a2.x", "a3.x", "a4.x", "a5.y"]), "a1.x…a4.x, a5.y (5 hosts)");
        assert_eq!(of(&["10.0.0.8", "10.0.0.9", "10.0.0.10", "10.0.0.11"]), "10.0.0.8…10.0.0.11 (4 hosts)");
        assert_eq!(of(&["localhost"]), "localhost");
        assert_eq!(of(&["ws99999999999999999999999", "ü1é"]), "ws99999999999999999999999, ü1é");
    }

    #[test]
    fn hundreds_of_odd_names_are_cut_short() {
        let names: Vec<String> = (0..300).map(|n| format!("host{}", n * 7)).collect();
        let text = compact(names.iter().map(String::as_str));
        assert!(text.starts_with("host0, host7, "), "{text}");
        assert!(text.ends_with("host70 and 289 more (300 hosts)"), "{text}");
    }

    proptest! {
        #[test]
        fn any_names_do(names in proptest::collection::vec("\\PC{0,8}[0-9]{0,3}", 0..20)) {
            compact(names.iter().map(String::as_str));
        }
    }
}
