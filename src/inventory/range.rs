//! `ws[01:40].lab`: one line for many hosts; and the port behind a host's name.

use std::net::Ipv6Addr;

/// So many hosts may one line stand for. Far more than anybody has, and few enough for every memory.
const MOST: usize = 100_000;

/// A piece of a host's name.
enum Piece<'a> {
    Text(&'a str),
    Range(Vec<String>),
}

/// All names that a text with ranges stands for, in order; the last range runs fastest.
///
/// # Errors
/// What is wrong with a range.
pub(super) fn expand(text: &str) -> Result<Vec<String>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut count = 1_usize;
    while let Some((before, after)) = rest.split_once('[') {
        let (range, behind) =
            after.split_once(']').ok_or_else(|| format!("the bracket of the range in `{text}` is never closed"))?;
        let steps = steps(range)?;
        count = count.saturating_mul(steps.len());
        if count > MOST {
            return Err(format!("`{text}` stands for more than {MOST} hosts"));
        }
        pieces.push(Piece::Text(before));
        pieces.push(Piece::Range(steps));
        rest = behind;
    }
    if rest.contains(']') {
        return Err(format!("a `]` without a `[` in `{text}`"));
    }
    pieces.push(Piece::Text(rest));
    let mut names = vec![String::new()];
    for piece in &pieces {
        match piece {
            Piece::Text(text) => names.iter_mut().for_each(|name| name.push_str(text)),
            Piece::Range(steps) => {
                names = names.iter().flat_map(|name| steps.iter().map(move |step| format!("{name}{step}"))).collect();
            }
        }
    }
    Ok(names)
}

/// What `BEGIN:END` or `BEGIN:END:STEP` stands for.
fn steps(range: &str) -> Result<Vec<String>, String> {
    let bounds: Vec<&str> = range.split(':').collect();
    let (begin, end, step) = match bounds[..] {
        [begin, end] => (begin, end, "1"),
        [begin, end, step] => (begin, end, step),
        _ => return Err(format!("`[{range}]` is no range: a range is [BEGIN:END] or [BEGIN:END:STEP]")),
    };
    let begin = if begin.is_empty() { "0" } else { begin };
    if end.is_empty() {
        return Err(format!("the range `[{range}]` has no end"));
    }
    let step = match step.parse::<usize>() {
        Ok(step) if step > 0 => step,
        _ => return Err(format!("the step of the range `[{range}]` is not a whole number above 0")),
    };
    let backwards = || format!("the range `[{range}]` begins behind its end");
    if let (Some(first), Some(last)) = (letter(begin), letter(end)) {
        if first > last {
            return Err(backwards());
        }
        return Ok(letters().skip(first).take(last - first + 1).step_by(step).map(String::from).collect());
    }
    let number = |text: &str| {
        let digits = text.bytes().all(|b| b.is_ascii_digit());
        digits
            .then(|| text.parse::<u64>().ok())
            .flatten()
            .ok_or_else(|| format!("the range `[{range}]` needs two numbers or two letters, and `{text}` does not fit"))
    };
    let (first, last) = (number(begin)?, number(end)?);
    if first > last {
        return Err(backwards());
    }
    // A leading zero asks for a fixed width, as in 01 to 40.
    let padded = begin.len() > 1 && begin.starts_with('0');
    if padded && begin.len() != end.len() {
        return Err(format!("begin and end of the range `[{range}]` must have equally many digits"));
    }
    let width = if padded { begin.len() } else { 0 };
    let count = (last - first) / step as u64;
    if count >= MOST as u64 {
        return Err(format!("the range `[{range}]` stands for more than {MOST} hosts"));
    }
    Ok((first..=last).step_by(step).map(|number| format!("{number:0width$}")).collect())
}

/// The letters of ranges in their order: a to z, then A to Z.
fn letters() -> impl Iterator<Item = char> {
    ('a'..='z').chain('A'..='Z')
}

fn letter(text: &str) -> Option<usize> {
    let mut chars = text.chars();
    let (first, more) = (chars.next()?, chars.next());
    more.is_none().then(|| letters().position(|letter| letter == first)).flatten()
}

/// `name:22`, `[2001:db8::1]:22`, `2001:db8::1`: the name and the port.
///
/// # Errors
/// When a colon is neither part of an IPv6 address nor in front of a port.
pub(super) fn split_port(text: &str) -> Result<(&str, Option<u16>), String> {
    if text.parse::<Ipv6Addr>().is_ok() {
        return Ok((text, None));
    }
    let bracketed = text.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    if let Some((inner, behind)) = bracketed.filter(|(inner, _)| inner.parse::<Ipv6Addr>().is_ok()) {
        return match behind.strip_prefix(':') {
            Some(digits) => Ok((inner, Some(port(digits)?))),
            None if behind.is_empty() => Ok((inner, None)),
            None => Err(format!("`{behind}` behind the address is not a port")),
        };
    }
    let mut depth = 0_usize;
    let colon = text.char_indices().find(|(_, c)| {
        match c {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        *c == ':' && depth == 0
    });
    match colon {
        None => Ok((text, None)),
        Some((at, _)) => Ok((&text[..at], Some(port(&text[at + 1..])?))),
    }
}

fn port(text: &str) -> Result<u16, String> {
    match text.parse::<u16>() {
        Ok(port) if port > 0 && text.bytes().all(|b| b.is_ascii_digit()) => Ok(port),
        _ => Err(format!("a `:` in a host's name stands before a port (1 to 65535), and `{text}` is none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_stand_for_what_they_do_in_ansible() {
        let cases: &[(&str, &[&str])] = &[
            ("ws01.lab", &["ws01.lab"]),
            ("ws[08:11].lab", &["ws08.lab", "ws09.lab", "ws10.lab", "ws11.lab"]),
            ("ws[8:10]", &["ws8", "ws9", "ws10"]),
            ("ws[:2]", &["ws0", "ws1", "ws2"]),
            ("ws[1:10:4]", &["ws1", "ws5", "ws9"]),
            ("db-[a:c]", &["db-a", "db-b", "db-c"]),
            ("[y:B]", &["y", "z", "A", "B"]),
            ("r[1:2]n[a:b]", &["r1na", "r1nb", "r2na", "r2nb"]),
            ("x[3:3]", &["x3"]),
        ];
        for (text, names) in cases {
            assert_eq!(expand(text).unwrap(), *names, "{text}");
        }
    }

    #[test]
    fn bad_ranges_say_what_is_wrong() {
        for (text, part) in [
            ("ws[1:", "never closed"),
            ("ws1]", "without a `[`"),
            ("ws[1]", "is no range"),
            ("ws[1:2:3:4]", "is no range"),
            ("ws[1:]", "has no end"),
            ("ws[5:1]", "begins behind its end"),
            ("ws[c:a]", "begins behind its end"),
            ("ws[01:100]", "equally many digits"),
            ("ws[a:5]", "`a` does not fit"),
            ("ws[1:x y]", "`x y` does not fit"),
            ("ws[1:9:0]", "above 0"),
            ("ws[1:9:-1]", "above 0"),
            ("ws[0:99999999999]", "more than"),
            ("ws[1:1000][1:1000]", "more than"),
            ("ws[0:18446744073709551615]", "more than"),
        ] {
            let error = expand(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn ports_are_told_from_addresses_and_ranges() {
        for (text, expected) in [
            ("ws01.lab", ("ws01.lab", None)),
            ("ws01.lab:2222", ("ws01.lab", Some(2222))),
            ("ws[01:40].lab:22", ("ws[01:40].lab", Some(22))),
            ("ws[01:40].lab", ("ws[01:40].lab", None)),
            ("2001:db8::1", ("2001:db8::1", None)),
            ("[2001:db8::1]", ("2001:db8::1", None)),
            ("[2001:db8::1]:22", ("2001:db8::1", Some(22))),
            ("[a:c].lab", ("[a:c].lab", None)),
        ] {
            assert_eq!(split_port(text).unwrap(), expected, "{text}");
        }
        for text in ["ws:", "ws:0", "ws:70000", "ws:+22", "a:b", "a:1:2", "[::1]x"] {
            assert!(split_port(text).is_err(), "{text}");
        }
    }
}
