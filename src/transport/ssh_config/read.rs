//! The files as lines of a keyword and its words; what they include is read along.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Local, token};
use crate::diag::{Diagnostic, Source, Span};

/// How deep files may include files, as in OpenSSH.
const DEEPEST: usize = 16;
/// No configuration is longer: what is, is something else.
const LONGEST: u64 = 16 << 20;

/// One line that says something.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Where it stands.
    pub span: Span,
    /// The keyword in small letters.
    pub keyword: String,
    /// The keyword as it was written.
    pub written: String,
    /// All that follows the keyword, as it was written.
    pub rest: String,
    /// The same in words, quotes taken off.
    pub words: Vec<String>,
    /// What an `Include` brought, file by file.
    pub included: Vec<Vec<Line>>,
}

/// Whose file it is: it decides what relative includes are relative to, who may have written it, and what is said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// `~/.ssh/config`, which nobody else may be able to change.
    User,
    /// A file named by `-F`: as the user's own, but nobody asks who may write it.
    Named,
    /// `/etc/ssh/ssh_config`.
    System,
}

/// Reads a file; `None` when it is not there.
pub(super) fn file(path: &Path, origin: Origin, local: &Local, depth: usize) -> Result<Option<Vec<Line>>, Diagnostic> {
    let trouble = |why: String| Diagnostic::error(format!("can't read {}: {why}", path.display()));
    let meta = match std::fs::metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(trouble(error.to_string())),
    };
    // The lines can name commands to run, so a file that others may write is a way to run them as this user.
    let foreign = meta.uid() != 0 && meta.uid() != local.uid;
    if origin == Origin::User && (foreign || meta.mode() & 0o022 != 0) {
        let whose = if foreign { "it belongs to somebody else" } else { "others may write it" };
        return Err(Diagnostic::error(format!("{} is not used: {whose}", path.display())).help(format!(
            "make it yours alone: chmod go-w {0}; chown {1} {0}",
            path.display(),
            local.user
        )));
    }
    if meta.len() > LONGEST {
        return Err(trouble(format!("{} bytes are no configuration", meta.len())));
    }
    let bytes = std::fs::read(path).map_err(|error| trouble(error.to_string()))?;
    let source = Source::new(path.display().to_string(), String::from_utf8_lossy(&bytes));
    lines(&source, origin, local, depth).map(Some)
}

/// The lines of a text.
pub(super) fn lines(
    source: &Arc<Source>,
    origin: Origin,
    local: &Local,
    depth: usize,
) -> Result<Vec<Line>, Diagnostic> {
    let mut found = Vec::new();
    let mut start = 0;
    for text in source.text.split('\n') {
        let place = Span::new(source, start + (text.len() - text.trim_start().len()), start + text.trim_end().len());
        start += text.len() + 1;
        let Some(mut line) = line(text, &place)? else { continue };
        if line.keyword == "include" {
            if depth >= DEEPEST {
                return Err(Diagnostic::error("files include one another without end").at(&line.span));
            }
            for word in &line.words {
                for path in matching(word, origin, local, &line.span)? {
                    // As OpenSSH: what is not there, or went away meanwhile, is no error.
                    if let Some(lines) = file(&path, origin, local, depth + 1)? {
                        line.included.push(lines);
                    }
                }
            }
        }
        found.push(line);
    }
    Ok(found)
}

/// The files that one word of an `Include` means.
fn matching(word: &str, origin: Origin, local: &Local, place: &Span) -> Result<Vec<PathBuf>, Diagnostic> {
    let path = if word.starts_with('~') {
        token::home(word, local).map_err(|why| Diagnostic::error(why).at(place))?
    } else if word.starts_with('/') {
        word.to_string()
    } else if origin == Origin::System {
        format!("{}/{word}", local.system.display())
    } else {
        format!("{}/{word}", local.ssh_folder().display())
    };
    let rules = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::default() };
    let found = glob::glob_with(&path, rules)
        .map_err(|error| Diagnostic::error(format!("`{word}` is no pattern of files: {error}")).at(place))?;
    Ok(found.filter_map(Result::ok).collect())
}

/// A line's keyword and words; `None` for empty lines and comments. ssh_config(5): the keyword may be followed by blanks
/// and one `=`; words may stand in quotes.
pub(super) fn line(text: &str, place: &Span) -> Result<Option<Line>, Diagnostic> {
    let text = text.trim_end_matches([' ', '\t', '\r', '\u{c}']).trim_start_matches([' ', '\t', '\r']);
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let (keyword, rest) = keyword(text);
    if rest.is_empty() {
        return Err(Diagnostic::error(format!("`{keyword}` has no value")).at(place));
    }
    let words = words(rest).ok_or_else(|| Diagnostic::error("a quote is not closed").at(place))?;
    Ok(Some(Line {
        span: place.clone(),
        keyword: keyword.to_ascii_lowercase(),
        written: keyword.to_string(),
        rest: rest.to_string(),
        words,
        included: Vec::new(),
    }))
}

/// Parts a text at its first blanks, with one `=` among them.
pub(super) fn keyword(text: &str) -> (&str, &str) {
    let blank = [' ', '\t', '\r'];
    if let Some((quoted, rest)) = text.strip_prefix('"').and_then(|text| text.split_once('"')) {
        let rest = rest.trim_start_matches(blank);
        return (quoted, rest.strip_prefix('=').unwrap_or(rest).trim_start_matches(blank));
    }
    let end = text.find([' ', '\t', '\r', '=']).unwrap_or(text.len());
    let (keyword, rest) = text.split_at(end);
    let rest = rest.trim_start_matches(blank);
    (keyword, rest.strip_prefix('=').unwrap_or(rest).trim_start_matches(blank))
}

/// Words as OpenSSH parts them: quotes of both kinds, a backslash before a quote, a backslash or a blank; a word that
/// begins with `#` ends the line. `None` when a quote is not closed.
pub(super) fn words(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut letters = text.chars().peekable();
    loop {
        while letters.next_if(|c| matches!(c, ' ' | '\t')).is_some() {}
        match letters.peek() {
            None | Some('#') => return Some(words),
            Some(_) => {}
        }
        let (mut word, mut quote) = (String::new(), None);
        while let Some(letter) = letters.next() {
            match (letter, quote) {
                ('\\', _) => match letters.peek() {
                    Some(next @ ('\'' | '"' | '\\')) => {
                        word.push(*next);
                        letters.next();
                    }
                    Some(' ') if quote.is_none() => {
                        word.push(' ');
                        letters.next();
                    }
                    _ => word.push('\\'),
                },
                (' ' | '\t', None) => break,
                ('\'' | '"', None) => quote = Some(letter),
                (letter, Some(open)) if letter == open => quote = None,
                (letter, _) => word.push(letter),
            }
        }
        if quote.is_some() {
            return None;
        }
        words.push(word);
    }
}
