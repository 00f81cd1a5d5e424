//! Errors about the user's own text: where it stands, the line, a caret, and what to do.

use std::fmt;
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// One text the user wrote: a playbook, an inventory, a template, the command line.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    /// The name that messages show: the path as the user gave it, or for example `<command line>`.
    pub name: String,
    /// The whole text.
    pub text: String,
}

impl Source {
    /// A source ready to be shared by the spans that point into it.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Arc<Source> {
        Arc::new(Source { name: name.into(), text: text.into() })
    }
}

/// A stretch of a [`Source`], in bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct Span {
    /// The text it points into.
    pub source: Arc<Source>,
    /// Byte offset of the first byte.
    pub start: usize,
    /// Byte offset behind the last byte; equal to `start` for a point.
    pub end: usize,
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.line_column();
        write!(f, "{}:{line}:{column}", self.source.name)
    }
}

impl Span {
    /// A span; offsets past the end or inside a character are moved back to the nearest valid place.
    pub fn new(source: &Arc<Source>, start: usize, end: usize) -> Span {
        let floor = |mut at: usize| {
            at = at.min(source.text.len());
            while !source.text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let start = floor(start);
        Span { source: Arc::clone(source), start, end: floor(end).max(start) }
    }

    /// Line and column of the first character, both counted from 1; columns count characters.
    pub fn line_column(&self) -> (usize, usize) {
        let before = &self.source.text[..self.start];
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }

    /// `file:line:column`, as compilers and editors write it.
    pub fn place(&self) -> String {
        let (line, column) = self.line_column();
        format!("{}:{line}:{column}", self.source.name)
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// The run can't go on.
    Error,
    /// The run goes on; the user should know.
    Warning,
}

/// A message about the user's text.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    /// Error or warning.
    pub severity: Severity,
    /// What is wrong, one sentence without a full stop.
    pub message: String,
    /// Where; `None` for what has no place, such as a missing file.
    pub span: Option<Span>,
    /// A word under the caret.
    pub label: Option<String>,
    /// What to do; "did you mean `copy`?"
    pub help: Option<String>,
}

impl Diagnostic {
    /// An error without a place yet.
    pub fn error(message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Error, message: message.into(), span: None, label: None, help: None }
    }

    /// A warning without a place yet.
    pub fn warning(message: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(message) }
    }

    /// Says where.
    pub fn at(mut self, span: &Span) -> Diagnostic {
        self.span = Some(span.clone());
        self
    }

    /// Says where, unless that is known already.
    pub fn at_if_unknown(self, span: &Span) -> Diagnostic {
        if self.span.is_some() { self } else { self.at(span) }
    }

    /// A word under the caret.
    pub fn label(mut self, label: impl Into<String>) -> Diagnostic {
        self.label = Some(label.into());
        self
    }

    /// What to do about it.
    pub fn help(mut self, help: impl Into<String>) -> Diagnostic {
        self.help = Some(help.into());
        self
    }

    /// Adds "did you mean …" where one of the known names is near enough.
    pub fn nearest<'a>(self, wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Diagnostic {
        match nearest(wrong, known) {
            Some(name) => self.help(format!("did you mean `{name}`?")),
            None => self,
        }
    }

    /// The message as people read it, with the line and a caret; with or without colour.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = level.primary_title(&self.message);
        let mut group = match &self.span {
            Some(span) => {
                // One line is enough; and an empty span would draw no caret, so the next character is shown instead.
                let rest = span.source.text[span.start..].split('\n').next().unwrap_or("");
                let next = rest.chars().next().map_or(0, char::len_utf8);
                let end = span.end.clamp(span.start + next, span.start + rest.len());
                let mut annotation = AnnotationKind::Primary.span(span.start..end);
                if let Some(label) = &self.label {
                    annotation = annotation.label(label);
                }
                Group::with_title(title)
                    .element(Snippet::source(&span.source.text).path(&span.source.name).annotation(annotation))
            }
            None => Group::with_title(title),
        };
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(help));
        }
        renderer.render(&[group]).to_string()
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Diagnostic {}

/// The known name that a misspelt one most likely means, if any is near enough.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong = wrong.to_lowercase();
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&wrong, &name.to_lowercase()), name))
        .filter(|(distance, name)| *distance <= (name.chars().count().max(wrong.chars().count()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_file_line_column_caret_and_help() {
        let source = Source::new("site.yml", "- hosts: all\n  tsaks: []\n");
        let start = source.text.find("tsaks").unwrap_or(0);
        let shown = Diagnostic::error("unknown key `tsaks` in a play")
            .at(&Span::new(&source, start, start + 5))
            .nearest("tsaks", ["tasks", "roles"])
            .to_string();
        assert!(shown.contains("site.yml:2:3"), "{shown}");
        assert!(shown.contains("^^^^^"), "{shown}");
        assert!(shown.contains("did you mean `tasks`?"), "{shown}");
    }

    #[test]
    fn any_span_can_be_shown() {
        let source = Source::new("x", "ä\nö");
        for start in 0..6 {
            for end in 0..6 {
                assert!(!Diagnostic::error("e").at(&Span::new(&source, start, end)).to_string().is_empty());
            }
        }
    }

    #[test]
    fn far_names_are_not_offered() {
        assert_eq!(nearest("coppy", ["copy", "template"]), Some("copy"));
        assert_eq!(nearest("kernel_cmdlien", ["kernel", "kernel_cmdline"]), Some("kernel_cmdline"));
        assert_eq!(nearest("zzz", ["copy", "template"]), None);
    }
}
