//! `ansible_ssh_common_args` and `ansible_ssh_extra_args`: a command line for `ssh`, in the words of its configuration.

use std::path::PathBuf;

use super::collect::jumps;
use super::read::keyword;
use super::{Files, Overrides};
use crate::diag::{Diagnostic, Source, Span};

/// Switches that make no difference for one channel that carries frames.
const WITHOUT_EFFECT: &str = "CTqaknxvN";

impl Overrides {
    /// Takes what a variable says as arguments for `ssh`. What is given back are the files that `-F` names, where it does.
    ///
    /// # Errors
    /// What only OpenSSH's own client can do, with its place.
    pub fn arguments(&mut self, variable: &str, host: &str, text: &str) -> Result<Option<Files>, Diagnostic> {
        let source = Source::new(format!("{variable} of host `{host}`"), text);
        let everything = Span::new(&source, 0, text.trim_end().len());
        let words = shlex::split(text).ok_or_else(|| Diagnostic::error("a quote is not closed").at(&everything))?;
        let mut files = None;
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let at = text.find(&word).map_or(everything.clone(), |start| Span::new(&source, start, start + word.len()));
            let wrong = |why: String| Diagnostic::error(why).at(&at);
            let Some(flags) = word.strip_prefix('-').filter(|flags| !flags.is_empty()) else {
                return Err(wrong(format!("`{word}` is no option of ssh")));
            };
            let mut letters = flags.chars();
            while let Some(letter) = letters.next() {
                let mut set = |key: &str, value: &str| {
                    self.settings.push((key.to_string(), value.to_string(), source.name.clone()));
                };
                match letter {
                    '4' => set("AddressFamily", "inet"),
                    '6' => set("AddressFamily", "inet6"),
                    'A' => set("ForwardAgent", "yes"),
                    _ if WITHOUT_EFFECT.contains(letter) => {}
                    'o' | 'J' | 'i' | 'p' | 'F' | 'l' => {
                        let rest = letters.as_str();
                        let value = if rest.is_empty() { words.next() } else { Some(rest.to_string()) };
                        let value = value.ok_or_else(|| wrong(format!("`-{letter}` has no value")))?;
                        match letter {
                            'o' => {
                                let (key, value) = keyword(value.trim());
                                if value.is_empty() {
                                    return Err(wrong(format!("`-o {key}` has no value: it is -o {key}=VALUE")));
                                }
                                if matches!(key.to_ascii_lowercase().as_str(), "host" | "match" | "include") {
                                    return Err(wrong(format!("`{key}` can't be set by `-o`")));
                                }
                                set(key, value);
                            }
                            'J' if jumps(&value).is_none() => {
                                return Err(wrong(format!(
                                    "`-J {value}` is not [user@]host[:port] with commas between"
                                )));
                            }
                            'J' => set("ProxyJump", &value),
                            'i' => set("IdentityFile", &format!("\"{value}\"")),
                            'p' => set("Port", &value),
                            'l' => set("User", &value),
                            _ if value.eq_ignore_ascii_case("none") => files = Some(Files::Nothing),
                            _ => files = Some(Files::Only(PathBuf::from(value))),
                        }
                        break;
                    }
                    _ => {
                        let error = wrong(format!("ansible_connection=ssh does not know `-{letter}`"));
                        let help = "ansible_connection=openssh hands all options to OpenSSH's own client; \
                                    here -o, -J, -i, -p, -l, -F, -4 and -6 count";
                        return Err(error.help(help));
                    }
                }
            }
        }
        Ok(files)
    }
}
