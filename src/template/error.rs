//! What can go wrong with a template, and how to say so where the user wrote it.

use std::fmt;
use std::ops::Range;

use crate::diag::{Diagnostic, Span};

/// Why a template or an expression has no value. Offsets are bytes in the text that was given to the [`super::Templar`].
#[derive(Clone, Debug, PartialEq)]
pub enum TemplateError {
    /// A variable, or a key of one, that does not exist.
    Undefined {
        /// What was asked for, as written: `x`, `ansible_facts.os`.
        name: String,
        /// The nearest name that does exist.
        nearest: Option<String>,
        /// Where it is used.
        offset: Option<Range<usize>>,
    },
    /// The value can't be known before something is applied (dry runs); the reason. Never wrapped in [`Self::Inside`].
    Unknown(String),
    /// The text can't be read as a template.
    Syntax {
        /// What is wrong.
        message: String,
        /// The way out, where one is known.
        help: Option<String>,
        /// Where.
        offset: Option<Range<usize>>,
    },
    /// It was read, and has no sensible value: text where a number is needed, a file that is not there.
    Failed {
        /// What is wrong.
        message: String,
        /// Where.
        offset: Option<Range<usize>>,
    },
    /// Variables that are made of each other; the names in order, the first again at the end.
    Cycle {
        /// For example `["a", "b", "a"]`.
        names: Vec<String>,
        /// Where the first is used.
        offset: Option<Range<usize>>,
    },
    /// The template of a variable that this text uses failed.
    Inside {
        /// The variable.
        variable: String,
        /// What went wrong in it; its offset counts in the variable's own text.
        error: Box<TemplateError>,
        /// Where the variable is used here.
        offset: Option<Range<usize>>,
    },
}

impl TemplateError {
    pub(super) fn failed(message: impl Into<String>) -> TemplateError {
        TemplateError::Failed { message: message.into(), offset: None }
    }

    pub(super) fn syntax(message: impl Into<String>, offset: Range<usize>) -> TemplateError {
        TemplateError::Syntax { message: message.into(), help: None, offset: Some(offset) }
    }

    /// Says where, unless that is known already.
    pub(super) fn at(mut self, range: &Range<usize>) -> TemplateError {
        match &mut self {
            TemplateError::Undefined { offset, .. }
            | TemplateError::Syntax { offset, .. }
            | TemplateError::Failed { offset, .. }
            | TemplateError::Cycle { offset, .. }
            | TemplateError::Inside { offset, .. } => {
                offset.get_or_insert_with(|| range.clone());
            }
            TemplateError::Unknown(_) => {}
        }
        self
    }

    /// The same error seen from a text that uses the variable it happened in.
    pub(super) fn inside(self, variable: &str) -> TemplateError {
        match self {
            TemplateError::Unknown(_) => self,
            // A cycle names every variable on its way already.
            TemplateError::Cycle { names, .. } => TemplateError::Cycle { names, offset: None },
            error => TemplateError::Inside { variable: variable.to_string(), error: Box::new(error), offset: None },
        }
    }

    /// Where in the text that was given.
    pub fn offset(&self) -> Option<Range<usize>> {
        match self {
            TemplateError::Undefined { offset, .. }
            | TemplateError::Syntax { offset, .. }
            | TemplateError::Failed { offset, .. }
            | TemplateError::Cycle { offset, .. }
            | TemplateError::Inside { offset, .. } => offset.clone(),
            TemplateError::Unknown(_) => None,
        }
    }

    /// The innermost error: behind the variables that led to it.
    pub fn root(&self) -> &TemplateError {
        match self {
            TemplateError::Inside { error, .. } => error.root(),
            other => other,
        }
    }

    /// The undefined name, if that is what is wrong here or in a variable that was used.
    pub fn undefined(&self) -> Option<&str> {
        match self.root() {
            TemplateError::Undefined { name, .. } => Some(name),
            _ => None,
        }
    }

    /// The reason why the value is unknown until applied, if that is what it is.
    pub fn unknown(&self) -> Option<&str> {
        match self.root() {
            TemplateError::Unknown(reason) => Some(reason),
            _ => None,
        }
    }

    /// The way out, where one is known.
    pub fn help(&self) -> Option<String> {
        match self.root() {
            TemplateError::Undefined { nearest: Some(nearest), .. } => Some(format!("did you mean `{nearest}`?")),
            TemplateError::Syntax { help, .. } => help.clone(),
            _ => None,
        }
    }

    /// The error for a person, at its place in the source: `text` is the text that was rendered, `span` the node it came from
    /// (quotes, block indicators and escapes included).
    pub fn diagnostic(&self, text: &str, span: &Span) -> Diagnostic {
        let mut diagnostic = Diagnostic::error(self.to_string());
        diagnostic.help = self.help();
        diagnostic.at(&self.place(text, span).unwrap_or_else(|| span.clone()))
    }

    /// The piece of the source that the offset means, if the text stands there as it is.
    fn place(&self, text: &str, span: &Span) -> Option<Span> {
        let offset = self.offset()?;
        let source = span.source.text.get(span.start..span.end)?;
        if let Some(at) = source.find(text) {
            let start = span.start + at;
            return Some(Span::new(&span.source, start + offset.start, start + offset.end));
        }
        // Folded or escaped text: the piece itself can still be shown if it occurs only once.
        let piece = text.get(offset).filter(|piece| !piece.is_empty())?;
        let at = source.find(piece)?;
        (source.rfind(piece) == Some(at))
            .then(|| Span::new(&span.source, span.start + at, span.start + at + piece.len()))
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TemplateError::Undefined { name, .. } => write!(f, "`{name}` is undefined"),
            TemplateError::Unknown(reason) => write!(f, "unknown until applied: {reason}"),
            TemplateError::Syntax { message, .. } | TemplateError::Failed { message, .. } => f.write_str(message),
            TemplateError::Cycle { names, .. } => {
                write!(f, "variables are made of each other: {}", names.join(" -> "))
            }
            TemplateError::Inside { variable, error, .. } => write!(f, "in the variable `{variable}`: {error}"),
        }
    }
}

impl std::error::Error for TemplateError {}
