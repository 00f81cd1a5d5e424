//! Templates and expressions: Ansible's language, on Tera.
//!
//! Tera renders documents: text with `{% if %}`, `{% for %}` and `{% set %}`. Expressions are read and judged here, with a tree
//! that knows the place of every part, because Tera's own differ from Jinja's without saying so (`or` between values, `+` between
//! lists, text of booleans, positional arguments, undefined keys), and because only so every error can point.
//!
//! Values that come from machines ([`Var::Final`]) are never read as templates, and neither is what a template gave.

mod ast;
mod checks;
mod document;
mod error;
mod eval;
mod filters;
mod format;
mod functions;
mod methods;
mod parse;
mod text;
mod token;
mod value;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use serde_json::Value;

use ast::{Expr, Kind};
use document::Document;
pub use error::TemplateError;
use eval::{Context, Shared};
use text::{Origin, Piece};

/// The reason of a variable that is unknown only until an earlier task has answered: not even whether it is defined can be
/// said before.
pub const AWAITED: &str = "an earlier task has not answered yet";

/// The reason of what only a machine can say, where there is none: whether it is defined can't be said either.
pub const UNSEEN: &str = "only the machine knows it";

/// A variable as a scope knows it.
#[derive(Clone)]
pub enum Var {
    /// What the user wrote: texts in it may hold `{{ }}`, which are rendered when the variable is used, and only the parts that
    /// are used.
    Template(Arc<Value>),
    /// Facts, registered results, loop items: never read as templates.
    Final(Arc<Value>),
    /// In a dry run: unknown until applied; the reason.
    Unknown(String),
    /// A variable whose members are whole scopes of their own: `hostvars`.
    Scopes(Arc<dyn Scopes>),
}

impl Var {
    /// A value that the user wrote.
    pub fn template(value: impl Into<Value>) -> Var {
        Var::Template(Arc::new(value.into()))
    }

    /// A value that is never read as a template.
    pub fn fixed(value: impl Into<Value>) -> Var {
        Var::Final(Arc::new(value.into()))
    }
}

/// Where variables come from.
pub trait Lookup {
    /// The variable, if there is one of that name.
    fn get(&self, name: &str) -> Option<Var>;

    /// All names, for "did you mean".
    fn names(&self) -> Vec<String>;

    /// Folders in which `lookup('file', …)` looks, in order.
    fn folders(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}

/// What decrypts values that ansible-vault encrypted, when they are used.
pub trait Unlock: Send + Sync {
    /// The plain text; `place` is where the encrypted one stands.
    ///
    /// # Errors
    /// Why it can't be had, with its place, and what to do.
    fn unlock(&self, envelope: &str, place: &str) -> Result<String, String>;
}

/// Scopes by name: the other hosts' variables, which are templates in the other host's scope.
pub trait Scopes: Send + Sync {
    /// The scope of that name.
    fn get(&self, name: &str) -> Option<Arc<dyn Lookup + Send + Sync>>;

    /// All names.
    fn names(&self) -> Vec<String>;
}

/// A variable that a text uses.
#[derive(Clone, Debug, PartialEq)]
pub struct Used {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub range: Range<usize>,
    /// It is read for certain, and nothing asks whether it is there (`is defined`, `default(…)`): undefined, it is an error.
    pub needed: bool,
}

/// Whether a text holds anything to render.
pub fn has_template(text: &str) -> bool {
    text.as_bytes().windows(2).any(|pair| matches!(pair, b"{{" | b"{%" | b"{#"))
}

/// A text, taken apart.
#[derive(Debug)]
enum Compiled {
    /// Text alone.
    Plain(String),
    /// One single `{{ … }}`, which keeps its type; with the white space around it.
    Single { before: String, expr: Expr, after: String },
    /// Text and outputs.
    Pieces(Vec<Piece>),
    /// With tags: Tera's.
    Document(Arc<Document>),
}

/// Something that was compiled, or why it can't be.
type Cached<T> = HashMap<String, Result<Arc<T>, TemplateError>>;

/// The engine. Cheap to clone; clones share the compiled templates, and so may threads.
#[derive(Clone, Default)]
pub struct Templar {
    shelf: Arc<Shelf>,
    vault: Option<Arc<dyn Unlock>>,
}

#[derive(Default)]
struct Shelf {
    texts: RwLock<Cached<Compiled>>,
    files: RwLock<Cached<Compiled>>,
    expressions: RwLock<Cached<Expr>>,
}

/// More compiled texts than this are dropped and compiled again when needed.
const MOST_COMPILED: usize = 20_000;

fn cached<T>(
    shelf: &RwLock<Cached<T>>,
    text: &str,
    compile: impl FnOnce() -> Result<T, TemplateError>,
) -> Result<Arc<T>, TemplateError> {
    if let Some(known) = shelf.read().unwrap_or_else(PoisonError::into_inner).get(text) {
        return known.clone();
    }
    let compiled = compile().map(Arc::new);
    let mut shelf = shelf.write().unwrap_or_else(PoisonError::into_inner);
    if shelf.len() >= MOST_COMPILED {
        shelf.clear();
    }
    shelf.insert(text.to_string(), compiled.clone());
    compiled
}

impl Templar {
    /// An engine with nothing compiled yet.
    pub fn new() -> Templar {
        Templar::default()
    }

    /// The same, and it can decrypt.
    pub fn with_vault(self, vault: Arc<dyn Unlock>) -> Templar {
        Templar { vault: Some(vault), ..self }
    }

    fn unlock(&self, envelope: &str, place: &str) -> Result<String, TemplateError> {
        match &self.vault {
            Some(vault) => vault.unlock(envelope, place).map_err(TemplateError::failed),
            None => Err(TemplateError::failed(format!("{place}: a value that is encrypted can't be used here"))),
        }
    }

    /// Renders a text. One that is a single `{{ … }}` keeps the type of its value, and so does one whose tags leave a single one;
    /// if there is white space around it, that is kept with a scalar and dropped around a list or a mapping. Everything else is
    /// text, and ends with as many newlines as the template.
    pub fn render(&self, text: &str, scope: &dyn Lookup) -> Result<Value, TemplateError> {
        if !has_template(text) {
            return Ok(Value::String(text.to_string()));
        }
        let shared = Shared::default();
        Context::new(self, scope, &shared).render(text)
    }

    /// Renders every text in a value, keys too.
    pub fn render_value(&self, value: &Value, scope: &dyn Lookup) -> Result<Value, TemplateError> {
        let shared = Shared::default();
        Context::new(self, scope, &shared).render_deep(value, "")
    }

    /// Judges a condition: a bare expression, or one single `{{ … }}`.
    ///
    /// Booleans count as they are; none, 0 and everything empty is false; other values are true, as in Ansible. A text that reads
    /// like a false boolean (`"false"`, `"no"`, `"0"`) would be true for Ansible and is an error here, because it never is what
    /// was meant: `-e x=false` gives text, and `x | bool` says what to do with it.
    pub fn condition(&self, expr: &str, scope: &dyn Lookup) -> Result<bool, TemplateError> {
        let value = self.evaluate(expr, scope)?;
        if let Value::String(text) = &value
            && matches!(text.to_lowercase().as_str(), "false" | "no" | "off" | "0" | "n" | "f")
        {
            return Err(TemplateError::Syntax {
                message: format!(
                    "the condition gives the text `{text}`, which is not false but a text that is not empty"
                ),
                help: Some("write `… | bool` to read the text as a boolean".into()),
                offset: Some(0..expr.len()),
            });
        }
        Ok(value::truth(&value))
    }

    /// The value of a bare expression, or of one single `{{ … }}`.
    pub fn evaluate(&self, expr: &str, scope: &dyn Lookup) -> Result<Value, TemplateError> {
        let expr = self.bare(expr)?;
        let shared = Shared::default();
        Context::new(self, scope, &shared).value(&expr)
    }

    /// Renders a whole file as text, for the `template` module; nothing is escaped. In its strings `\` begins an escape; in those of
    /// [`Self::render`] it is itself, since YAML has read its escapes already (`regex_replace('a(.)', '\1')`).
    pub fn render_file(&self, text: &str, scope: &dyn Lookup) -> Result<String, TemplateError> {
        let shared = Shared::default();
        Context::new(self, scope, &shared).render_file(text)
    }

    /// Whether a text can be read as a template.
    pub fn check(&self, text: &str) -> Result<(), TemplateError> {
        self.compiled(text).map(|_| ())
    }

    /// Whether a file can be read as a template.
    pub fn check_file(&self, text: &str) -> Result<(), TemplateError> {
        self.compiled_file(text).map(|_| ())
    }

    /// Whether a text can be read as an expression.
    pub fn check_expression(&self, expr: &str) -> Result<(), TemplateError> {
        self.bare(expr).map(|_| ())
    }

    /// The variables that a text with templates in it uses, in order.
    pub fn free_variables(&self, text: &str) -> Result<Vec<Used>, TemplateError> {
        Ok(match &*self.compiled(text)? {
            Compiled::Plain(_) => Vec::new(),
            Compiled::Single { expr, .. } => used([(expr, true)]),
            Compiled::Pieces(pieces) => used(pieces.iter().filter_map(|piece| match piece {
                Piece::Output(expr) => Some((expr, true)),
                _ => None,
            })),
            Compiled::Document(document) => {
                let mut all = used(document.expressions());
                all.retain(|used| !document.sets(&used.name));
                all
            }
        })
    }

    /// The variables that an expression uses, in order.
    pub fn free_variables_of_expression(&self, expr: &str) -> Result<Vec<Used>, TemplateError> {
        Ok(used([(&*self.bare(expr)?, true)]))
    }

    /// An expression, with or without `{{ }}` around it.
    fn bare(&self, text: &str) -> Result<Arc<Expr>, TemplateError> {
        if text.trim_start().starts_with("{{")
            && let Compiled::Single { expr, .. } = &*self.compiled(text)?
        {
            return Ok(Arc::new(expr.clone()));
        }
        let read = cached(&self.shelf.expressions, text, || parse::expression(text));
        match read {
            Err(_) if has_template(text) && self.compiled(text).is_ok_and(|c| !matches!(&*c, Compiled::Plain(_))) => {
                Err(TemplateError::Syntax {
                    message: "this is an expression, where variables stand without `{{ }}`".into(),
                    help: Some("leave the braces out: `when: x == 1`, and join texts with `~`".into()),
                    offset: Some(0..text.len()),
                })
            }
            read => read,
        }
    }

    fn compiled(&self, text: &str) -> Result<Arc<Compiled>, TemplateError> {
        cached(&self.shelf.texts, text, || compile(text, Origin::Yaml))
    }

    fn compiled_file(&self, text: &str) -> Result<Arc<Compiled>, TemplateError> {
        cached(&self.shelf.files, text, || compile(text, Origin::File))
    }
}

fn compile(text: &str, origin: Origin) -> Result<Compiled, TemplateError> {
    let pieces = text::pieces(text, origin)?;
    let blank = |piece: &Piece| matches!(piece, Piece::Text(text) if text.trim().is_empty());
    let spoken = || pieces.iter().filter(|piece| !blank(piece));
    if let (Some(Piece::Output(expr)), 1) = (spoken().next(), spoken().count()) {
        let space = |piece: Option<&Piece>| match piece {
            Some(Piece::Text(text)) => text.clone(),
            _ => String::new(),
        };
        let (before, after) = (space(pieces.first()), space(pieces.last()));
        return Ok(Compiled::Single { before, expr: expr.clone(), after });
    }
    if pieces.iter().any(|piece| matches!(piece, Piece::Tag(..))) {
        return Document::new(pieces).map(|document| Compiled::Document(Arc::new(document)));
    }
    match pieces.as_slice() {
        [] => Ok(Compiled::Plain(String::new())),
        [Piece::Text(text)] => Ok(Compiled::Plain(text.clone())),
        _ => Ok(Compiled::Pieces(pieces)),
    }
}

/// The variables in some expressions; the flag of each says whether it is evaluated for certain.
fn used<'a>(expressions: impl IntoIterator<Item = (&'a Expr, bool)>) -> Vec<Used> {
    let mut all = Vec::new();
    let mut guarded: Vec<&str> = Vec::new();
    for (expr, certain) in expressions {
        visit(expr, certain, &mut all, &mut guarded);
    }
    for used in &mut all {
        used.needed &= !guarded.contains(&used.name.as_str());
    }
    all
}

fn visit<'a>(expr: &'a Expr, certain: bool, all: &mut Vec<Used>, guarded: &mut Vec<&'a str>) {
    match &expr.kind {
        Kind::Name(name) => all.push(Used { name: name.clone(), range: expr.range(), needed: certain }),
        Kind::Test(of, name, ..) if matches!(name.as_str(), "defined" | "undefined") => {
            guarded.extend(of.path_root().map(|(name, _)| name));
            visit(of, certain, all, guarded);
        }
        Kind::Filter(of, name, arguments) if matches!(name.as_str(), "default" | "d" | "mandatory" | "ternary") => {
            if name != "ternary" {
                guarded.extend(of.path_root().map(|(name, _)| name));
            }
            visit(of, certain, all, guarded);
            let named = arguments.named.iter().map(|(_, value)| value);
            arguments.positional.iter().chain(named).for_each(|value| visit(value, false, all, guarded));
        }
        // Only the first part is evaluated for certain.
        Kind::And(parts) | Kind::Or(parts) => {
            parts.iter().enumerate().for_each(|(at, part)| visit(part, certain && at == 0, all, guarded));
        }
        Kind::Choice { test, yes, no } => {
            visit(test, certain, all, guarded);
            visit(yes, false, all, guarded);
            no.iter().for_each(|no| visit(no, false, all, guarded));
        }
        _ => expr.children(&mut |child| visit(child, certain, all, guarded)),
    }
}
