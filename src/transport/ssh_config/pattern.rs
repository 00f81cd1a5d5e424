//! Patterns of names: `*`, `?`, `!`, lists with commas. known_hosts and ssh_config share them.

/// Does the name fit one pattern? `*` is any text, `?` any one character.
pub fn fits(name: &str, pattern: &str) -> bool {
    let (name, pattern): (Vec<char>, Vec<char>) = (name.chars().collect(), pattern.chars().collect());
    let (mut at, mut place) = (0, 0);
    // Where the last `*` was, and how much of the name it has taken: on a mismatch it takes one more.
    let mut star: Option<(usize, usize)> = None;
    while let Some(letter) = name.get(at) {
        match pattern.get(place) {
            Some('*') => {
                star = Some((place, at));
                place += 1;
            }
            Some(wanted) if *wanted == '?' || wanted == letter => {
                place += 1;
                at += 1;
            }
            _ => match &mut star {
                Some((from, taken)) => {
                    *taken += 1;
                    (place, at) = (*from + 1, *taken);
                }
                None => return false,
            },
        }
    }
    pattern.iter().skip(place).all(|rest| *rest == '*')
}

/// Does the name fit a list, where a `!pattern` that fits excludes whatever else fits?
pub fn in_list<'a>(name: &str, patterns: impl IntoIterator<Item = &'a str>) -> bool {
    let mut found = false;
    for pattern in patterns {
        match pattern.strip_prefix('!') {
            Some(pattern) if fits(name, pattern) => return false,
            Some(_) => {}
            None => found |= fits(name, pattern),
        }
    }
    found
}

/// The same for names of hosts, which are the same in small and large letters, with a list that has commas.
pub fn host_in_list(name: &str, list: &str) -> bool {
    let list = list.to_lowercase();
    in_list(&name.to_lowercase(), list.split(','))
}
