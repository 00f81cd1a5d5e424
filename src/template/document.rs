//! Texts with tags, rendered by Tera: loops, branches, `set`.
//!
//! A document becomes a Tera template in which each expression is a call (`o(n=3)`) that comes back here. Tera's functions must
//! own what they use, so a rendering takes a snapshot of the variables it can reach (reference-counted, not copied) and leaves it
//! in a stack of this thread for the calls to find.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, LazyLock};

use serde_json::Value;
use tera::{Kwargs, State, Tera};

use super::ast::Expr;
use super::error::TemplateError;
use super::eval::{Context, Shared, Written};
use super::text::{Piece, Tag};
use super::value::{MOST_TEXT, items, object, text, truth};
use super::{Compiled, Lookup, Templar, Var};

const NAME: &str = "document";

/// A text with tags, compiled.
pub(super) struct Document {
    tera: Tera,
    texts: Vec<String>,
    slots: Vec<Slot>,
    /// Names that loops and `set` give values to.
    set: HashSet<String>,
    /// What is written may go into a `set` block instead of the result.
    captures: bool,
}

impl std::fmt::Debug for Document {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Document").field("slots", &self.slots).finish_non_exhaustive()
    }
}

/// One expression of a document.
#[derive(Debug)]
struct Slot {
    expr: Expr,
    /// It is evaluated whenever the document is rendered.
    certain: bool,
    /// Names of its that the document itself may have set.
    locals: Vec<String>,
    /// Of a `for`: the names of its variables, and its filter.
    unpack: Vec<String>,
    filter: Option<Expr>,
    filter_locals: Vec<String>,
    uses_loop: bool,
}

/// A `set`'s or a loop's name as Tera sees it: no name of Tera's own can be in the way.
fn local(name: &str) -> String {
    let mut out = String::from("v_");
    for c in name.chars() {
        if c.is_ascii_alphanumeric() || c == '_' {
            out.push(c);
        } else {
            let _ = write!(out, "_u{:x}_", c as u32);
        }
    }
    out
}

impl Document {
    pub fn new(pieces: Vec<Piece>) -> Result<Document, TemplateError> {
        let mut set = HashSet::new();
        let captures = pieces.iter().any(|piece| matches!(piece, Piece::Tag(Tag::Capture(_), _)));
        for piece in &pieces {
            match piece {
                Piece::Tag(Tag::For { names, .. }, _) => set.extend(names.iter().cloned()),
                Piece::Tag(Tag::Set(name, _) | Tag::Capture(name), _) => {
                    set.insert(name.clone());
                }
                _ => {}
            }
        }
        let mut builder =
            Builder { source: String::new(), texts: Vec::new(), slots: Vec::new(), loops: 0, inside: 0, set };
        for piece in pieces {
            builder.piece(piece);
        }
        let mut tera = ENGINE.clone();
        tera.add_raw_template(NAME, &builder.source).map_err(|error| {
            TemplateError::failed(format!("Tera can't read the template: {}", first_line(&error.to_string())))
        })?;
        Ok(Document { tera, texts: builder.texts, slots: builder.slots, set: builder.set, captures })
    }

    /// The expressions, and whether each is evaluated for certain.
    pub fn expressions(&self) -> impl Iterator<Item = (&Expr, bool)> {
        self.slots.iter().flat_map(|slot| {
            std::iter::once((&slot.expr, slot.certain)).chain(slot.filter.iter().map(|filter| (filter, false)))
        })
    }

    /// Whether the document gives the name a value itself.
    pub fn sets(&self, name: &str) -> bool {
        self.set.contains(name) || name == "loop"
    }
}

/// The line of Tera's message that says what is wrong.
fn first_line(message: &str) -> &str {
    message.lines().next().unwrap_or("").trim_start_matches("error: ")
}

struct Builder {
    source: String,
    texts: Vec<String>,
    slots: Vec<Slot>,
    /// Loops that are open.
    loops: usize,
    /// Loops and branches that are open.
    inside: usize,
    set: HashSet<String>,
}

impl Builder {
    fn locals(&self, expr: &Expr) -> (Vec<String>, bool) {
        let mut names = Vec::new();
        names_in(expr, &mut names);
        let uses_loop = self.loops > 0 && names.iter().any(|name| name == "loop");
        names.retain(|name| self.set.contains(name));
        names.sort();
        names.dedup();
        (names, uses_loop)
    }

    /// Keeps an expression and gives the arguments of the call that evaluates it.
    fn slot(&mut self, expr: Expr) -> String {
        let (locals, uses_loop) = self.locals(&expr);
        let certain = self.inside == 0;
        self.slots.push(Slot {
            expr,
            certain,
            locals,
            unpack: Vec::new(),
            filter: None,
            filter_locals: Vec::new(),
            uses_loop,
        });
        let number = self.slots.len() - 1;
        if uses_loop { format!("n={number},i=loop.index0,l=loop.length") } else { format!("n={number}") }
    }

    fn put(&mut self, arguments: std::fmt::Arguments<'_>) {
        let _ = self.source.write_fmt(arguments);
    }

    fn piece(&mut self, piece: Piece) {
        match piece {
            Piece::Text(text) => {
                // What could be read as a mark goes through a call; so does what a loop would write often.
                let marks = text.contains('{') || (self.loops > 0 && text.len() > 64);
                if marks {
                    self.texts.push(text);
                    let number = self.texts.len() - 1;
                    self.put(format_args!("{{{{t(n={number})}}}}"));
                } else {
                    self.source.push_str(&text);
                }
            }
            Piece::Output(expr) => {
                let call = self.slot(expr);
                self.put(format_args!("{{{{o({call})}}}}"));
            }
            Piece::Tag(tag, _) => self.tag(tag),
        }
    }

    fn tag(&mut self, tag: Tag) {
        match tag {
            Tag::If(expr) => {
                let call = self.slot(expr);
                self.inside += 1;
                self.put(format_args!("{{%if c({call})%}}"));
            }
            Tag::Elif(expr) => {
                let call = self.slot(expr);
                self.put(format_args!("{{%elif c({call})%}}"));
            }
            Tag::Else => self.source.push_str("{%else%}"),
            Tag::EndIf => {
                self.inside = self.inside.saturating_sub(1);
                self.source.push_str("{%endif%}");
            }
            Tag::For { names, target, filter } => self.a_loop(names, target, filter),
            Tag::EndFor => {
                self.inside = self.inside.saturating_sub(1);
                self.loops = self.loops.saturating_sub(1);
                self.source.push_str("{%endfor%}");
            }
            Tag::Set(name, expr) => {
                let call = self.slot(expr);
                self.put(format_args!("{{%set {}=e({call})%}}", local(&name)));
            }
            Tag::Capture(name) => self.put(format_args!("{{%set {}%}}", local(&name))),
            Tag::EndSet => self.source.push_str("{%endset%}"),
        }
    }

    fn a_loop(&mut self, names: Vec<String>, target: Expr, filter: Option<Expr>) {
        let call = self.slot(target);
        let filter_locals = filter.as_ref().map(|filter| self.locals(filter).0).unwrap_or_default();
        if let Some(slot) = self.slots.last_mut() {
            slot.unpack.clone_from(&names);
            slot.filter = filter;
            slot.filter_locals = filter_locals;
        }
        self.loops += 1;
        self.inside += 1;
        if let [name] = names.as_slice() {
            self.put(format_args!("{{%for {} in i({call})%}}", local(name)));
            return;
        }
        let number = self.slots.len();
        self.put(format_args!("{{%for u_{number} in i({call})%}}"));
        for (at, name) in names.iter().enumerate() {
            self.put(format_args!("{{%set {}=u_{number}[{at}]%}}", local(name)));
        }
    }
}

/// The names in an expression.
fn names_in(expr: &Expr, names: &mut Vec<String>) {
    if let super::Kind::Name(name) = &expr.kind {
        names.push(name.clone());
    }
    expr.children(&mut |child| names_in(child, names));
}

/// The variables that a document can reach, so that Tera's calls can own them.
struct Snapshot {
    vars: HashMap<String, Var>,
    folders: Vec<PathBuf>,
}

impl Lookup for Snapshot {
    fn get(&self, name: &str) -> Option<Var> {
        self.vars.get(name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.vars.keys().cloned().collect()
    }

    fn folders(&self) -> Vec<PathBuf> {
        self.folders.clone()
    }
}

impl Snapshot {
    fn of(document: &Document, templar: &Templar, scope: &dyn Lookup) -> Snapshot {
        let mut snapshot = Snapshot { vars: HashMap::new(), folders: scope.folders() };
        let mut names = Names::default();
        for slot in &document.slots {
            names.add(&slot.expr);
            slot.filter.iter().for_each(|filter| names.add(filter));
        }
        let mut all = false;
        while let Some(name) = names.open.pop() {
            let var = scope.get(&name);
            if let Some(Var::Template(value)) = &var {
                names.add_value(value, templar);
            }
            if let Some(var) = var {
                snapshot.vars.insert(name, var);
            }
            if names.any && !all {
                // A name that is only known when it is looked up: everything may be needed.
                all = true;
                scope.names().into_iter().for_each(|name| names.want(name));
            }
        }
        if names.any && !all {
            for name in scope.names() {
                if let Some(var) = scope.get(&name) {
                    snapshot.vars.entry(name).or_insert(var);
                }
            }
        }
        snapshot
    }
}

/// Names still to be looked at.
#[derive(Default)]
struct Names {
    open: Vec<String>,
    seen: HashSet<String>,
    /// A lookup by a computed name.
    any: bool,
}

impl Names {
    fn want(&mut self, name: String) {
        if self.seen.insert(name.clone()) {
            self.open.push(name);
        }
    }

    fn add(&mut self, expr: &Expr) {
        match &expr.kind {
            super::Kind::Name(name) => {
                self.any |= name == "vars";
                self.want(name.clone());
            }
            super::Kind::Function(name, _) => self.any |= matches!(name.as_str(), "lookup" | "query" | "q"),
            _ => {}
        }
        expr.children(&mut |child| self.add(child));
    }

    fn add_value(&mut self, value: &Value, templar: &Templar) {
        match value {
            Value::String(source) if super::has_template(source) => {
                let Ok(compiled) = templar.compiled(source) else { return };
                match &*compiled {
                    Compiled::Plain(_) => {}
                    Compiled::Single { expr, .. } => self.add(expr),
                    Compiled::Pieces(pieces) => {
                        for piece in pieces {
                            if let Piece::Output(expr) = piece {
                                self.add(expr);
                            }
                        }
                    }
                    Compiled::Document(document) => document.expressions().for_each(|(expr, _)| self.add(expr)),
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.add_value(item, templar)),
            Value::Object(map) => map.iter().for_each(|(key, item)| {
                self.add_value(&Value::from(key.as_str()), templar);
                self.add_value(item, templar);
            }),
            _ => {}
        }
    }
}

/// A rendering that Tera is in the middle of.
struct Frame {
    document: Arc<Document>,
    templar: Templar,
    snapshot: Snapshot,
    shared: Shared,
    error: RefCell<Option<TemplateError>>,
    /// The value that was written, as long as it is the only one.
    single: RefCell<Single>,
}

/// Whether one single value was written.
#[derive(Default)]
enum Single {
    #[default]
    None,
    One(Value),
    Many,
}

thread_local! {
    static FRAMES: RefCell<Vec<Rc<Frame>>> = const { RefCell::new(Vec::new()) };
}

/// Takes the frame off the stack, whatever happens.
struct Pop;

impl Drop for Pop {
    fn drop(&mut self) {
        FRAMES.with_borrow_mut(Vec::pop);
    }
}

/// Collects the output, up to a limit.
struct Output(Vec<u8>);

impl io::Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_TEXT {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Renders a document with the variables of a context.
pub(super) fn render(document: &Arc<Document>, context: &Context<'_>) -> Result<Written, TemplateError> {
    if FRAMES.with_borrow(Vec::len) > 8 {
        return Err(TemplateError::failed("too many templates within one another"));
    }
    let frame = Rc::new(Frame {
        document: Arc::clone(document),
        templar: context.templar.clone(),
        snapshot: Snapshot::of(document, context.templar, context.scope),
        shared: context.shared.deeper(),
        error: RefCell::new(None),
        single: RefCell::default(),
    });
    FRAMES.with_borrow_mut(|frames| frames.push(Rc::clone(&frame)));
    let pop = Pop;
    let mut output = Output(Vec::new());
    let rendered = document.tera.render_to(NAME, &tera::Context::new(), &mut output);
    drop(pop);
    context.shared.take_work(&frame.shared);
    let error = frame.error.borrow_mut().take();
    match (rendered, error) {
        (_, Some(error)) => Err(named_nearest(error, context.scope)),
        (Err(error), None) if output.0.len() + 4096 > MOST_TEXT => {
            let _ = error;
            Err(TemplateError::failed(format!("the text would be longer than {} MiB", MOST_TEXT >> 20)))
        }
        (Err(error), None) => Err(TemplateError::failed(first_line(&error.to_string()).to_string())),
        (Ok(()), None) => {
            let written =
                String::from_utf8(output.0).map_err(|_| TemplateError::failed("the result is not text (UTF-8)"))?;
            let value = if document.captures { Single::Many } else { frame.single.take() };
            Ok(single(value, written))
        }
    }
}

/// Keeps the type of a value that is all that was written, but for white space.
fn single(single: Single, written: String) -> Written {
    let Single::One(value) = single else { return Written::Text(written) };
    let shown = text(&value);
    match written.split_once(&shown) {
        Some((before, after)) if before.trim().is_empty() && after.trim().is_empty() && !value.is_string() => {
            Written::Single(before.to_string(), value, after.to_string())
        }
        _ => Written::Text(written),
    }
}

/// The snapshot holds only what exists, so the nearest name of one that does not is looked for here.
fn named_nearest(error: TemplateError, scope: &dyn Lookup) -> TemplateError {
    match error {
        TemplateError::Undefined { name, nearest: None, offset } => {
            let names = scope.names();
            let nearest = crate::diag::nearest(&name, names.iter().map(String::as_str)).map(str::to_string);
            TemplateError::Undefined { name, nearest, offset }
        }
        other => other,
    }
}

/// Tera with the calls that lead back here.
static ENGINE: LazyLock<Tera> = LazyLock::new(|| {
    let mut tera = Tera::new();
    tera.autoescape_on(Vec::<&'static str>::new());
    tera.register_function("t", |kwargs: Kwargs, _: &State| {
        with_frame(&kwargs, |frame, number| {
            let text = frame.document.texts.get(number).map_or("", String::as_str);
            frame.shared.work(1 + text.len() / 64)?;
            Ok(tera::Value::from(text))
        })
    });
    tera.register_function("o", |kwargs: Kwargs, state: &State| {
        with_slot(&kwargs, state, |context, slot| {
            let value = context.value(&slot.expr)?;
            let out = text(&value);
            context.shared.work(out.len() / 64)?;
            FRAMES.with_borrow(|frames| {
                if let Some(frame) = frames.last() {
                    let before = frame.single.take();
                    *frame.single.borrow_mut() =
                        if matches!(before, Single::None) { Single::One(value) } else { Single::Many };
                }
            });
            Ok(tera::Value::from(out))
        })
    });
    tera.register_function("e", |kwargs: Kwargs, state: &State| {
        with_slot(&kwargs, state, |context, slot| to_tera(&context.value(&slot.expr)?))
    });
    tera.register_function("c", |kwargs: Kwargs, state: &State| {
        with_slot(&kwargs, state, |context, slot| Ok(tera::Value::from(truth(&context.value(&slot.expr)?))))
    });
    tera.register_function("i", |kwargs: Kwargs, state: &State| {
        with_slot(&kwargs, state, |context, slot| {
            let place = slot.expr.range();
            let list = items(context.value(&slot.expr)?).map_err(|error| error.at(&place))?;
            context.shared.work(list.len())?;
            let mut kept = Vec::with_capacity(list.len());
            for item in list {
                let unpacked = unpack(&slot.unpack, &item).map_err(|error| error.at(&place))?;
                if let Some(filter) = &slot.filter {
                    let before = context.locals.len();
                    let own = unpacked.into_iter().map(|(name, value)| (name.to_string(), value.clone()));
                    context.locals.extend(own);
                    let holds = context.value(filter).map(|value| truth(&value));
                    context.locals.truncate(before);
                    if !holds? {
                        continue;
                    }
                }
                kept.push(to_tera(&item)?);
            }
            Ok(tera::Value::from(kept))
        })
    });
    tera
});

/// A loop's item for each of its names.
fn unpack<'a>(names: &'a [String], item: &'a Value) -> Result<Vec<(&'a str, &'a Value)>, TemplateError> {
    if let [name] = names {
        return Ok(vec![(name, item)]);
    }
    match item {
        Value::Array(parts) if parts.len() == names.len() => Ok(names.iter().map(String::as_str).zip(parts).collect()),
        other => Err(TemplateError::failed(format!(
            "the loop has {} names, an item is {}",
            names.len(),
            super::value::describe(other)
        ))),
    }
}

fn to_tera(value: &Value) -> Result<tera::Value, TemplateError> {
    tera::Value::try_from_serializable(value).map_err(|error| TemplateError::failed(error.to_string()))
}

fn with_frame(
    kwargs: &Kwargs,
    work: impl FnOnce(&Frame, usize) -> Result<tera::Value, TemplateError>,
) -> Result<tera::Value, tera::Error> {
    let number: usize = kwargs.must_get("n")?;
    let Some(frame) = FRAMES.with_borrow(|frames| frames.last().cloned()) else {
        return Err(tera::Error::message("a call outside of a document"));
    };
    work(&frame, number).map_err(|error| {
        let message = error.to_string();
        *frame.error.borrow_mut() = Some(error);
        tera::Error::message(message)
    })
}

fn with_slot(
    kwargs: &Kwargs,
    state: &State,
    work: impl FnOnce(&mut Context<'_>, &Slot) -> Result<tera::Value, TemplateError>,
) -> Result<tera::Value, tera::Error> {
    let around: Option<(u64, u64)> = kwargs.get("i")?.zip(kwargs.get("l")?);
    with_frame(kwargs, |frame, number| {
        let Some(slot) = frame.document.slots.get(number) else {
            return Err(TemplateError::failed("a call without an expression"));
        };
        let mut context = Context::new(&frame.templar, &frame.snapshot, &frame.shared);
        for name in slot.locals.iter().chain(&slot.filter_locals) {
            let value = state.get::<tera::Value>(&local(name));
            if let Ok(Some(value)) = value {
                let value = serde_json::to_value(&value).map_err(|error| TemplateError::failed(error.to_string()))?;
                context.locals.push((name.clone(), value));
            }
        }
        if let Some((index, length)) = around.filter(|_| slot.uses_loop) {
            let about = object([
                ("index", (index + 1).into()),
                ("index0", index.into()),
                ("revindex", length.saturating_sub(index).into()),
                ("revindex0", length.saturating_sub(index + 1).into()),
                ("first", (index == 0).into()),
                ("last", (index + 1 == length).into()),
                ("length", length.into()),
            ]);
            context.locals.push(("loop".to_string(), about));
        }
        work(&mut context, slot)
    })
}
