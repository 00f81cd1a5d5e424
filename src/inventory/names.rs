//! Names of hosts in an inventory: ranges and ports.

/// Ranges that name more hosts than this are a slip of the keyboard.
const MOST_HOSTS: usize = 100_000;

/// `name:port`, `[::1]:22`, or a name alone.
pub(super) fn port(name: &str) -> Result<(&str, Option<u16>), String> {
    if name.parse::<std::net::Ipv6Addr>().is_ok() {
        return Ok((name, None));
    }
    if let Some(rest) = name.strip_prefix('[')
        && let Some((address, after)) = rest.split_once(']')
        && address.parse::<std::net::Ipv6Addr>().is_ok()
    {
        return match after.strip_prefix(':') {
            Some(port) => Ok((address, Some(number(port)?))),
            None if after.is_empty() => Ok((address, None)),
            None => Err(format!("`{after}` stands where `:PORT` may stand")),
        };
    }
    // A colon inside of a range is not a port's.
    let outside = name.rfind(']').map_or(0, |at| at + 1);
    match name.get(outside..).and_then(|rest| rest.split_once(':')) {
        Some((before, port)) => Ok((name.get(..outside + before.len()).unwrap_or(name), Some(number(port)?))),
        None => Ok((name, None)),
    }
}

fn number(port: &str) -> Result<u16, String> {
    port.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("`{port}` is not a port"))
}

/// All names that a name with ranges means: `ws[01:40].lab`, `db-[a:f]`, `n[0:8:2]`.
pub(super) fn expand(name: &str) -> Result<Vec<String>, String> {
    let mut names = vec![String::new()];
    let mut rest = name;
    while let Some((before, after)) = rest.split_once('[') {
        let Some((range, behind)) = after.split_once(']') else {
            return Err(format!("the range in `{name}` has no `]`"));
        };
        let values = range_values(range)?;
        if names.len().saturating_mul(values.len()) > MOST_HOSTS {
            return Err(format!("`{name}` means more than {MOST_HOSTS} hosts"));
        }
        names =
            names.iter().flat_map(|name| values.iter().map(move |value| format!("{name}{before}{value}"))).collect();
        rest = behind;
    }
    if rest.contains(']') {
        return Err(format!("the `]` in `{name}` closes no range"));
    }
    for name in &mut names {
        name.push_str(rest);
    }
    Ok(names)
}

fn range_values(range: &str) -> Result<Vec<String>, String> {
    let wrong = |why: &str| Err(format!("`[{range}]` is not a range: {why}"));
    let parts: Vec<&str> = range.split(':').collect();
    let (from, to, step) = match parts.as_slice() {
        [from, to] => (*from, *to, "1"),
        [from, to, step] => (*from, *to, *step),
        _ => return wrong("write `[01:40]`, `[a:f]` or `[0:8:2]`"),
    };
    let from = if from.is_empty() { "0" } else { from };
    let Some(step) = step.parse::<usize>().ok().filter(|step| *step > 0) else {
        return wrong("the step must be a number from 1 on");
    };
    let letter = |text: &str| match text.as_bytes() {
        [one] if one.is_ascii_alphabetic() => Some(*one),
        _ => None,
    };
    if let (Some(from), Some(to)) = (letter(from), letter(to)) {
        if from > to || from.is_ascii_lowercase() != to.is_ascii_lowercase() {
            return wrong("the first letter must come before the last");
        }
        return Ok((from..=to).step_by(step).map(|byte| (byte as char).to_string()).collect());
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(from) || !digits(to) {
        return wrong("it needs two numbers or two letters");
    }
    if from.len() > 1 && from.starts_with('0') && from.len() != to.len() {
        return wrong("with leading zeros both ends need the same number of digits");
    }
    let (Ok(first), Ok(last)) = (from.parse::<usize>(), to.parse::<usize>()) else {
        return wrong("the numbers are too large");
    };
    if first > last {
        return wrong("the first number must not be larger than the last");
    }
    if (last - first) / step >= MOST_HOSTS {
        return wrong("it means too many hosts");
    }
    let width = if from.starts_with('0') { from.len() } else { 0 };
    Ok((first..=last).step_by(step).map(|number| format!("{number:0width$}")).collect())
}
