//! What stands for something else in a value: `%h`, `${HOME}`, `~`; and words that mean a time.

use std::path::PathBuf;
use std::time::Duration;

use sha1::{Digest, Sha1};

use super::Local;

/// What `%` and a letter stand for.
pub(super) struct Tokens {
    pub host: String,
    pub alias: String,
    pub port: String,
    pub user: String,
    pub key_alias: String,
    pub jump: String,
}

impl Tokens {
    fn get(&self, letter: char, local: &Local) -> Option<String> {
        Some(match letter {
            '%' => "%".into(),
            'h' => self.host.clone(),
            'n' => self.alias.clone(),
            'p' => self.port.clone(),
            'r' => self.user.clone(),
            'k' => self.key_alias.clone(),
            'j' => self.jump.clone(),
            'd' => local.home.display().to_string(),
            'u' => local.user.clone(),
            'i' => local.uid.to_string(),
            'l' => local.name.clone(),
            'L' => local.name.split('.').next().unwrap_or_default().to_string(),
            'C' => {
                let all = [&local.name, &self.host, &self.port, &self.user, &self.jump].map(String::as_str).concat();
                Sha1::digest(all).iter().map(|byte| format!("{byte:02x}")).collect()
            }
            _ => return None,
        })
    }

    /// Puts in the tokens whose letters are allowed, and `${VARIABLE}` where `variables` are.
    pub(super) fn expand(&self, text: &str, allowed: &str, variables: bool, local: &Local) -> Result<String, String> {
        let mut out = String::new();
        let mut letters = text.chars();
        while let Some(letter) = letters.next() {
            match letter {
                '%' => {
                    let token = letters.next().filter(|letter| *letter == '%' || allowed.contains(*letter));
                    match token.and_then(|token| self.get(token, local)) {
                        Some(value) => out.push_str(&value),
                        None => return Err(format!("`{text}` has a `%` that means nothing here; `%%` is a `%`")),
                    }
                }
                '$' if variables && letters.as_str().starts_with('{') => {
                    let rest = letters.as_str().get(1..).unwrap_or_default();
                    let Some((name, after)) = rest.split_once('}') else {
                        return Err(format!("`{text}` has a `${{` that is not closed"));
                    };
                    let value = (local.variable)(name);
                    out.push_str(&value.ok_or_else(|| format!("`{text}`: the environment has no `{name}`"))?);
                    letters = after.chars();
                }
                _ => out.push(letter),
            }
        }
        Ok(out)
    }

    /// A file's path: `~` first, then all tokens.
    pub(super) fn path(&self, text: &str, local: &Local) -> Result<PathBuf, String> {
        Ok(PathBuf::from(self.expand(&home(text, local)?, "hnprkjduilLC", true, local)?))
    }
}

/// `~/x` and `~user/x`.
pub(super) fn home(text: &str, local: &Local) -> Result<String, String> {
    let Some(rest) = text.strip_prefix('~') else { return Ok(text.to_string()) };
    let (user, path) = rest.split_once('/').unwrap_or((rest, ""));
    if user.is_empty() || user == local.user {
        return Ok(format!("{}/{path}", local.home.display()));
    }
    match super::local::account(user) {
        Some(account) => Ok(format!("{}/{path}", account.home.display())),
        None => Err(format!("`{text}`: there is no user `{user}` here")),
    }
}

/// `30`, `1m30s`, `2h`: sshd_config(5), "TIME FORMATS".
pub(super) fn time(text: &str) -> Option<Duration> {
    let (mut total, mut number) = (0u64, String::new());
    if text.is_empty() {
        return None;
    }
    for letter in text.chars() {
        let unit = match letter.to_ascii_lowercase() {
            '0'..='9' => {
                number.push(letter);
                continue;
            }
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return None,
        };
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(unit)?)?;
        number.clear();
    }
    if !number.is_empty() {
        total = total.checked_add(number.parse().ok()?)?;
    }
    // As OpenSSH: it counts seconds in an int.
    i32::try_from(total).ok().map(|_| Duration::from_secs(total))
}
