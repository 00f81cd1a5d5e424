//! Expressions to values.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::ast::{Arguments, Comparison, Expr, Kind};
use super::error::TemplateError;
use super::filters::list::index;
use super::filters::{self, Args};
use super::text::Piece;
use super::value::{
    Num, Outcome, arithmetic, contains, describe, equal, fail, integer, num, order, room, room_for_items, spelled,
    text, truth,
};
use super::{AWAITED, Compiled, Lookup, Templar, UNSEEN, Var, checks, document, functions, has_template, methods};
use crate::diag::nearest;

/// How many expressions deep a value may be.
const DEEPEST: usize = 220;
/// How many variables may lead to one another.
const LONGEST_TRAIL: usize = 40;
/// How many expressions one text may take; more means that variables multiply each other.
const MOST_STEPS: u64 = 2_000_000;

/// What a whole rendering shares, through all variables that it uses.
#[derive(Default)]
pub(super) struct Shared {
    /// The variables that are being rendered, outermost first.
    pub trail: RefCell<Vec<String>>,
    depth: Cell<usize>,
    steps: Cell<u64>,
}

impl Shared {
    /// The same for a rendering that owns its part, further down.
    pub fn deeper(&self) -> Shared {
        Shared {
            trail: RefCell::new(self.trail.borrow().clone()),
            depth: Cell::new(self.depth.get()),
            steps: Cell::new(self.steps.get()),
        }
    }

    /// Counts what [`Self::deeper`] did.
    pub fn take_work(&self, other: &Shared) {
        self.steps.set(self.steps.get().max(other.steps.get()));
    }

    /// Counts work done.
    pub fn work(&self, steps: usize) -> Result<(), TemplateError> {
        let all = self.steps.get().saturating_add(steps as u64);
        self.steps.set(all);
        if all > MOST_STEPS { fail("this takes too much work; do its variables multiply each other?") } else { Ok(()) }
    }
}

/// A value, or the news that there is none.
pub(super) enum Val {
    Is(Value),
    Missing(Missing),
}

/// Something undefined: no error until it is used.
pub(super) struct Missing {
    pub name: String,
    pub nearest: Option<String>,
    /// Where it was asked for, deeper than the expression that gives it.
    pub place: Option<Range<usize>>,
}

/// One step of `a.b['c']`.
pub(super) enum Key<'a> {
    Name(&'a str),
    Value(Value),
}

impl Key<'_> {
    fn value(&self) -> Cow<'_, Value> {
        match self {
            Key::Name(name) => Cow::Owned(Value::from(*name)),
            Key::Value(value) => Cow::Borrowed(value),
        }
    }

    fn text(&self) -> String {
        match self {
            Key::Name(name) => (*name).to_string(),
            Key::Value(value) => text(value),
        }
    }

    fn shown(&self) -> String {
        match self {
            Key::Name(name) => format!(".{name}"),
            Key::Value(value) => format!("[{}]", super::value::repr(value)),
        }
    }
}

/// What a template gave.
pub(super) enum Written {
    Text(String),
    /// A single value, and the white space around it.
    Single(String, Value, String),
}

/// With as many newlines at the end as the template has: Jinja eats those behind a tag, Ansible puts them back.
fn ended(mut text: String, template: &str) -> Result<String, TemplateError> {
    let newlines = |text: &str| text.len() - text.trim_end_matches('\n').len();
    let missing = newlines(template).saturating_sub(newlines(&text));
    room(text.len() + missing)?;
    text.extend(std::iter::repeat_n('\n', missing));
    Ok(text)
}

/// One text's view of the variables.
pub(super) struct Context<'a> {
    pub templar: &'a Templar,
    pub scope: &'a dyn Lookup,
    pub shared: &'a Shared,
    /// Names that the document sets: loop variables and `set`.
    pub locals: Vec<(String, Value)>,
    /// What stands before a variable's name when it is another host's.
    label: String,
}

impl<'a> Context<'a> {
    pub fn new(templar: &'a Templar, scope: &'a dyn Lookup, shared: &'a Shared) -> Context<'a> {
        Context { templar, scope, shared, locals: Vec::new(), label: String::new() }
    }

    /// A text's value; one that is a single `{{ … }}` keeps its type.
    pub fn render(&self, source: &str) -> Outcome {
        match self.write(&*self.templar.compiled(source)?)? {
            Written::Text(text) => ended(text, source).map(Value::String),
            Written::Single(before, value, after) => {
                let bare = before.is_empty() && after.is_empty();
                if bare || value.is_array() || value.is_object() {
                    return Ok(value);
                }
                ended(format!("{before}{}{after}", text(&value)), source).map(Value::String)
            }
        }
    }

    /// A file's text, whatever it is made of.
    pub fn render_file(&self, source: &str) -> Result<String, TemplateError> {
        let written = match self.write(&*self.templar.compiled_file(source)?)? {
            Written::Text(text) => text,
            Written::Single(before, value, after) => format!("{before}{}{after}", text(&value)),
        };
        ended(written, source)
    }

    fn write(&self, compiled: &Compiled) -> Result<Written, TemplateError> {
        match compiled {
            Compiled::Plain(plain) => Ok(Written::Text(plain.clone())),
            Compiled::Single { before, expr, after } => {
                Ok(Written::Single(before.clone(), self.value(expr)?, after.clone()))
            }
            Compiled::Pieces(pieces) => {
                let mut out = String::new();
                for piece in pieces {
                    match piece {
                        Piece::Text(plain) => out.push_str(plain),
                        Piece::Output(expr) => out.push_str(&text(&self.value(expr)?)),
                        Piece::Tag(..) => {}
                    }
                    room(out.len())?;
                }
                Ok(Written::Text(out))
            }
            Compiled::Document(document) => document::render(document, self),
        }
    }

    /// Renders the texts in a value. `label` names it in errors; empty for a value that has no name.
    pub fn render_deep(&self, value: &Value, label: &str) -> Outcome {
        match value {
            Value::String(source) if has_template(source) => {
                if label.is_empty() {
                    self.render(source)
                } else {
                    self.nested(label, source)
                }
            }
            Value::Array(items) => {
                let rendered = items.iter().enumerate().map(|(at, item)| {
                    let label = if label.is_empty() { String::new() } else { format!("{label}[{at}]") };
                    self.render_deep(item, &label)
                });
                rendered.collect::<Result<_, _>>().map(Value::Array)
            }
            Value::Object(map) => {
                let mut out = Map::new();
                for (key, item) in map {
                    let label = if label.is_empty() { String::new() } else { format!("{label}.{key}") };
                    let key = if has_template(key) { text(&self.render(key)?) } else { key.clone() };
                    out.insert(key, self.render_deep(item, &label)?);
                }
                Ok(Value::Object(out))
            }
            other => Ok(other.clone()),
        }
    }

    /// The template of a variable, in the variable's own name.
    fn nested(&self, label: &str, source: &str) -> Outcome {
        let label = format!("{}{label}", self.label);
        {
            let mut trail = self.shared.trail.borrow_mut();
            if let Some(at) = trail.iter().position(|known| *known == label) {
                let mut names = trail.get(at..).unwrap_or_default().to_vec();
                names.push(label);
                return Err(TemplateError::Cycle { names, offset: None });
            }
            if trail.len() >= LONGEST_TRAIL {
                return fail(format!("more than {LONGEST_TRAIL} variables lead to one another"));
            }
            trail.push(label.clone());
        }
        self.shared.work(1)?;
        let own = Context { locals: Vec::new(), label: self.label.clone(), ..*self };
        let rendered = own.render(source);
        self.shared.trail.borrow_mut().pop();
        rendered.map_err(|error| error.inside(&label))
    }

    /// The value of an expression; undefined is an error.
    pub fn value(&self, expr: &Expr) -> Outcome {
        match self.eval(expr, false)? {
            Val::Is(value) => Ok(value),
            Val::Missing(Missing { name, nearest, place }) => {
                Err(TemplateError::Undefined { name, nearest, offset: Some(place.unwrap_or_else(|| expr.range())) })
            }
        }
    }

    /// The value of an expression. `lenient`: the caller copes with undefined, so nothing near needs to be searched for.
    pub fn eval(&self, expr: &Expr, lenient: bool) -> Result<Val, TemplateError> {
        self.shared.work(1)?;
        let depth = self.shared.depth.get();
        if depth > DEEPEST {
            return Err(TemplateError::failed("the value is nested too deeply").at(&expr.range()));
        }
        self.shared.depth.set(depth + 1);
        let result = self.node(expr, lenient);
        self.shared.depth.set(depth);
        match result {
            Ok(Val::Missing(mut what)) => {
                what.place.get_or_insert_with(|| expr.range());
                Ok(Val::Missing(what))
            }
            result => result.map_err(|error| error.at(&expr.range())),
        }
    }

    fn node(&self, expr: &Expr, lenient: bool) -> Result<Val, TemplateError> {
        match &expr.kind {
            Kind::Name(_) | Kind::Attribute(..) | Kind::Index(..) => self.path(expr, &[], lenient),
            Kind::Filter(of, name, arguments) => self.filter(of, name, arguments),
            Kind::Choice { test, yes, no } => {
                let chosen = if truth(&self.value(test)?) { Some(yes) } else { no.as_ref() };
                match chosen {
                    Some(chosen) => self.eval(chosen, lenient),
                    None => Ok(missing("an `if` without `else` that is not met")),
                }
            }
            Kind::And(parts) => self.joined(parts, false),
            Kind::Or(parts) => self.joined(parts, true),
            Kind::Method(of, name, arguments) => self.method(of, name, arguments, lenient),
            Kind::Test(of, name, arguments, negated) => {
                self.test(of, name, arguments).map(|holds| Val::Is(Value::Bool(holds != *negated)))
            }
            _ => self.plain(expr).map(Val::Is),
        }
    }

    fn plain(&self, expr: &Expr) -> Outcome {
        match &expr.kind {
            Kind::Literal(value) => Ok(value.clone()),
            Kind::List(items) => items.iter().map(|item| self.value(item)).collect::<Result<_, _>>().map(Value::Array),
            Kind::Dict(pairs) => {
                let pairs = pairs.iter().map(|(key, value)| {
                    let key = self.value(key)?;
                    Ok((spelled(&key), self.value(value)?))
                });
                pairs.collect::<Result<Map<_, _>, TemplateError>>().map(Value::Object)
            }
            Kind::Slice(of, parts) => self.slice(of, parts),
            Kind::Function(name, arguments) => functions::call(self, name, self.arguments(arguments)?),
            Kind::Not(of) => Ok(Value::Bool(!truth(&self.value(of)?))),
            Kind::Negative(of) => match num(&self.value(of)?) {
                Some(Num::Int(i)) => Num::Int(-i).value(),
                Some(Num::Float(f)) => Num::Float(-f).value(),
                None => fail("only numbers can be negative"),
            },
            Kind::Positive(of) => match num(&self.value(of)?) {
                Some(number) => number.value(),
                None => fail("only numbers can have a `+` in front"),
            },
            Kind::Binary(operator, a, b) => arithmetic(*operator, &self.value(a)?, &self.value(b)?),
            Kind::Compare(first, rest) => self.compare(first, rest).map(Value::Bool),
            Kind::Concat(parts) => {
                let mut out = String::new();
                for part in parts {
                    out.push_str(&spelled(&self.value(part)?));
                    room(out.len())?;
                }
                Ok(Value::String(out))
            }
            _ => fail("this expression has no value"),
        }
    }

    /// `and` and `or` give the operand that decides.
    fn joined(&self, parts: &[Expr], until: bool) -> Result<Val, TemplateError> {
        let Some((last, front)) = parts.split_last() else { return fail("nothing to judge") };
        for part in front {
            let value = self.value(part)?;
            if truth(&value) == until {
                return Ok(Val::Is(value));
            }
        }
        self.value(last).map(Val::Is)
    }

    fn compare(&self, first: &Expr, rest: &[(Comparison, Expr)]) -> Result<bool, TemplateError> {
        let mut left = self.value(first)?;
        for (comparison, other) in rest {
            let right = self.value(other)?;
            let holds = match comparison {
                Comparison::Equal => equal(&left, &right),
                Comparison::NotEqual => !equal(&left, &right),
                Comparison::Less => order(&left, &right)?.is_lt(),
                Comparison::LessOrEqual => order(&left, &right)?.is_le(),
                Comparison::Greater => order(&left, &right)?.is_gt(),
                Comparison::GreaterOrEqual => order(&left, &right)?.is_ge(),
                Comparison::In => contains(&right, &left)?,
                Comparison::NotIn => !contains(&right, &left)?,
            };
            if !holds {
                return Ok(false);
            }
            left = right;
        }
        Ok(true)
    }

    pub fn arguments(&self, arguments: &Arguments) -> Result<Args, TemplateError> {
        let positional = arguments.positional.iter().map(|value| self.value(value)).collect::<Result<_, _>>()?;
        let named = arguments.named.iter().map(|(name, value)| Ok((name.clone(), self.value(value)?)));
        Ok(Args { positional, named: named.collect::<Result<_, TemplateError>>()? })
    }

    fn filter(&self, of: &Expr, name: &str, arguments: &Arguments) -> Result<Val, TemplateError> {
        match name {
            "default" | "d" => {
                let value = self.eval(of, true)?;
                let argument = |at: usize, name: &str| {
                    let named = arguments.named.iter().find(|(known, _)| known == name).map(|(_, value)| value);
                    arguments.positional.get(at).or(named)
                };
                if arguments.positional.len() > 2
                    || arguments.named.iter().any(|(name, _)| !matches!(name.as_str(), "default_value" | "boolean"))
                {
                    // For the message about what is wrong with them.
                    self.arguments(arguments)?.bind(name, ["default_value", "boolean"])?;
                }
                let replaced = match &value {
                    Val::Missing(_) => true,
                    Val::Is(value) if truth(value) => false,
                    Val::Is(_) => match argument(1, "boolean") {
                        Some(flag) => truth(&self.value(flag)?),
                        None => false,
                    },
                };
                match argument(0, "default_value") {
                    Some(default) if replaced => self.eval(default, false),
                    None if replaced => Ok(Val::Is(Value::String(String::new()))),
                    _ => Ok(value),
                }
            }
            "mandatory" => match self.eval(of, false)? {
                Val::Is(value) => filters::call(name, value, self.arguments(arguments)?).map(answer(name)),
                Val::Missing(what) => {
                    let [message] = self.arguments(arguments)?.bind(name, ["msg"])?;
                    match message {
                        Some(message) => fail(text(&message)),
                        None => Ok(Val::Missing(what)),
                    }
                }
            },
            "ternary" if arguments.named.is_empty() && (2..=3).contains(&arguments.positional.len()) => {
                let value = self.value(of)?;
                let at = match (&value, arguments.positional.get(2)) {
                    (Value::Null, Some(_)) => 2,
                    (value, _) => usize::from(!truth(value)),
                };
                arguments.positional.get(at).map_or_else(|| fail("`ternary` needs two values"), |e| self.eval(e, false))
            }
            _ => {
                let input = self.value(of)?;
                let args = self.arguments(arguments)?;
                let value = filters::call(name, input, args)?;
                if let Some(Value::Array(items)) = &value {
                    self.shared.work(items.len())?;
                }
                Ok(answer(name)(value))
            }
        }
    }

    fn test(&self, of: &Expr, name: &str, arguments: &Arguments) -> Result<bool, TemplateError> {
        if matches!(name, "defined" | "undefined") {
            self.arguments(arguments)?.none(name)?;
            let defined = match self.eval(of, true) {
                Ok(value) => matches!(value, Val::Is(_)),
                // A result that is not there yet is defined all the same; what is in it is not known.
                Err(TemplateError::Unknown(reason))
                    if matches!(of.kind, Kind::Name(_)) && reason != AWAITED && reason != UNSEEN =>
                {
                    true
                }
                Err(error) => return Err(error),
            };
            return Ok(defined == (name == "defined"));
        }
        let value = self.value(of)?;
        checks::call(name, &value, self.arguments(arguments)?)
    }

    fn method(&self, of: &Expr, name: &str, arguments: &Arguments, lenient: bool) -> Result<Val, TemplateError> {
        // `hostvars['x'].get('key', default)` reads only that key, not every variable of the host.
        if name == "get"
            && arguments.named.is_empty()
            && let [key, rest @ ..] = arguments.positional.as_slice()
            && rest.len() < 2
            && self.is_scope(of)?
        {
            let key = Key::Value(self.value(key)?);
            return match (self.path(of, &[key], true)?, rest.first()) {
                (Val::Missing(_), Some(default)) => self.eval(default, lenient),
                (Val::Missing(_), None) => Ok(Val::Is(Value::Null)),
                (value, _) => Ok(value),
            };
        }
        let value = self.value(of)?;
        methods::call(name, value, self.arguments(arguments)?).map(Val::Is)
    }

    fn slice(&self, of: &Expr, parts: &[Option<Expr>; 3]) -> Outcome {
        let value = self.value(of)?;
        let mut numbers = [None; 3];
        for (number, part) in numbers.iter_mut().zip(parts) {
            let Some(part) = part else { continue };
            let value = self.value(part)?;
            if value.is_null() {
                continue;
            }
            let Some(whole) = integer(&value) else {
                return fail(format!("a slice needs whole numbers, not {}", describe(&value)));
            };
            *number = Some(whole);
        }
        let [from, to, step] = numbers;
        let step = step.unwrap_or(1);
        if step == 0 {
            return fail("the step of a slice can't be 0");
        }
        let (items, is_text) = match value {
            Value::Array(items) => (items, false),
            Value::String(source) => {
                room_for_items(source.len())?;
                (source.chars().map(|c| Value::String(c.to_string())).collect(), true)
            }
            other => return fail(format!("{} can't be sliced", describe(&other))),
        };
        let length = i64::try_from(items.len()).unwrap_or(i64::MAX);
        let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
        let clamp = |at: Option<i64>, default: i64| match at {
            None => default,
            Some(at) if at < 0 => at.saturating_add(length).clamp(low, high),
            Some(at) => at.clamp(low, high),
        };
        let (mut at, end) =
            if step > 0 { (clamp(from, 0), clamp(to, length)) } else { (clamp(from, length - 1), clamp(to, -1)) };
        let mut out = Vec::new();
        while (step > 0 && at < end) || (step < 0 && at > end) {
            out.extend(usize::try_from(at).ok().and_then(|at| items.get(at)).cloned());
            at = at.saturating_add(step);
        }
        if is_text {
            return Ok(Value::String(out.iter().filter_map(Value::as_str).collect()));
        }
        Ok(Value::Array(out))
    }

    /// Whether an expression is a member of a variable made of scopes, such as `hostvars['x']`.
    fn is_scope(&self, of: &Expr) -> Result<bool, TemplateError> {
        let (root, member) = match &of.kind {
            Kind::Attribute(root, name) => (root, Value::from(name.as_str())),
            Kind::Index(root, by) => match &root.kind {
                Kind::Name(_) => (root, self.value(by)?),
                _ => return Ok(false),
            },
            _ => return Ok(false),
        };
        let Kind::Name(name) = &root.kind else { return Ok(false) };
        let local = self.locals.iter().any(|(known, _)| known == name);
        Ok(match self.scope.get(name) {
            Some(Var::Scopes(scopes)) if !local => scopes.get(&text(&member)).is_some(),
            _ => false,
        })
    }

    /// `a.b['c']`, and further keys behind it: only what is named is rendered and copied.
    fn path(&self, expr: &Expr, more: &[Key<'_>], lenient: bool) -> Result<Val, TemplateError> {
        let mut keys: Vec<Key<'_>> = Vec::new();
        let mut at = expr;
        loop {
            match &at.kind {
                Kind::Attribute(of, name) => {
                    keys.push(Key::Name(name));
                    at = of;
                }
                Kind::Index(of, by) => {
                    keys.push(Key::Value(self.value(by)?));
                    at = of;
                }
                _ => break,
            }
        }
        keys.reverse();
        let keys: Vec<&Key<'_>> = keys.iter().chain(more).collect();
        match &at.kind {
            Kind::Name(name) => {
                if let Some((_, value)) = self.locals.iter().rev().find(|(known, _)| known == name) {
                    return Ok(walk(value, &keys, name, lenient));
                }
                self.variable(name, &keys, lenient)
            }
            _ => match self.eval(at, lenient)? {
                Val::Is(value) => Ok(walk(&value, &keys, "the value", lenient)),
                missing => Ok(missing),
            },
        }
    }

    /// A variable of the scope, or a part of one.
    pub fn variable(&self, name: &str, keys: &[&Key<'_>], lenient: bool) -> Result<Val, TemplateError> {
        match self.scope.get(name) {
            Some(Var::Final(value)) => Ok(walk(&value, keys, name, lenient)),
            Some(Var::Template(value)) => self.lazy(name, &value, keys, lenient),
            Some(Var::Unknown(reason)) => Err(TemplateError::Unknown(reason)),
            Some(Var::Scopes(scopes)) => self.scopes(name, &scopes, keys, lenient),
            None if name == "vars" => match keys.split_first() {
                Some((key, rest)) => self.variable(&key.text(), rest, lenient),
                None => fail("`vars` can't be used as a whole; write `vars['name']`"),
            },
            None => {
                let names = if lenient { Vec::new() } else { self.scope.names() };
                let locals = self.locals.iter().map(|(name, _)| name.as_str());
                let near = nearest(name, names.iter().map(String::as_str).chain(locals)).map(str::to_string);
                Ok(Val::Missing(Missing { name: name.to_string(), nearest: near, place: None }))
            }
        }
    }

    /// A part of a value with templates in it: renders what lies on the way, and the part itself.
    fn lazy(&self, name: &str, value: &Arc<Value>, keys: &[&Key<'_>], lenient: bool) -> Result<Val, TemplateError> {
        let mut label = name.to_string();
        let mut at: &Value = value;
        for (done, key) in keys.iter().enumerate() {
            if let Value::String(source) = at
                && has_template(source)
            {
                let rendered = self.nested(&label, source)?;
                return Ok(walk(&rendered, keys.get(done..).unwrap_or_default(), &label, lenient));
            }
            match index(at, &key.value()) {
                Some(next) => {
                    label.push_str(&key.shown());
                    at = next;
                }
                None => return Ok(walk(at, keys.get(done..).unwrap_or_default(), &label, lenient)),
            }
        }
        self.shared.work(1)?;
        self.render_deep(at, &label).map(Val::Is)
    }

    /// A variable of another host: rendered in that host's own scope.
    fn scopes(
        &self,
        name: &str,
        scopes: &Arc<dyn super::Scopes>,
        keys: &[&Key<'_>],
        lenient: bool,
    ) -> Result<Val, TemplateError> {
        let whole = |scope: &dyn Lookup, label: String| {
            let own = Context { scope, locals: Vec::new(), label, ..*self };
            let mut map = Map::new();
            for name in scope.names() {
                self.shared.work(1)?;
                if let Val::Is(value) = own.variable(&name, &[], true)? {
                    map.insert(name, value);
                }
            }
            Ok(Value::Object(map))
        };
        let Some((first, rest)) = keys.split_first() else {
            let mut all = Map::new();
            for member in scopes.names() {
                if let Some(scope) = scopes.get(&member) {
                    let label = format!("{name}['{member}'].");
                    all.insert(member, whole(&*scope, label)?);
                }
            }
            return Ok(Val::Is(Value::Object(all)));
        };
        let member = first.text();
        let Some(scope) = scopes.get(&member) else {
            let names = if lenient { Vec::new() } else { scopes.names() };
            let near = nearest(&member, names.iter().map(String::as_str));
            let near = near.map(|near| format!("{name}['{near}']"));
            return Ok(Val::Missing(Missing { name: format!("{name}['{member}']"), nearest: near, place: None }));
        };
        let label = format!("{name}['{member}'].");
        let Some((second, rest)) = rest.split_first() else {
            return whole(&*scope, label).map(Val::Is);
        };
        let own = Context { scope: &*scope, locals: Vec::new(), label: label.clone(), ..*self };
        Ok(match own.variable(&second.text(), rest, lenient)? {
            Val::Missing(what) => Val::Missing(Missing {
                name: format!("{label}{}", what.name),
                nearest: what.nearest.map(|near| format!("{label}{near}")),
                place: None,
            }),
            value => value,
        })
    }
}

fn answer(name: &str) -> impl Fn(Option<Value>) -> Val {
    move |value| value.map_or_else(|| missing(&format!("what `{name}` looks for")), Val::Is)
}

fn missing(name: &str) -> Val {
    Val::Missing(Missing { name: name.to_string(), nearest: None, place: None })
}

/// A part of a finished value.
fn walk(value: &Value, keys: &[&Key<'_>], name: &str, lenient: bool) -> Val {
    let mut at = value;
    for (done, key) in keys.iter().enumerate() {
        let wanted = key.value();
        if let (Value::String(source), Some(place)) = (at, integer(&wanted)) {
            // A character of a text.
            let length = i64::try_from(source.chars().count()).unwrap_or(i64::MAX);
            let place = if place < 0 { place + length } else { place };
            let found = usize::try_from(place).ok().and_then(|place| source.chars().nth(place));
            if let Some(found) = found {
                return walk(
                    &Value::String(found.to_string()),
                    keys.get(done + 1..).unwrap_or_default(),
                    name,
                    lenient,
                );
            }
        }
        match index(at, &wanted) {
            Some(next) => at = next,
            None => {
                let path = |upto: usize| {
                    let keys = keys.get(..upto).unwrap_or_default().iter();
                    keys.fold(name.to_string(), |path, key| path + &key.shown())
                };
                let near = match at {
                    Value::Object(map) if !lenient => nearest(&key.text(), map.keys().map(String::as_str)),
                    _ => None,
                };
                let near = near.map(|near| match key {
                    Key::Name(_) => format!("{}.{near}", path(done)),
                    Key::Value(_) => format!("{}['{near}']", path(done)),
                });
                return Val::Missing(Missing { name: path(done + 1), nearest: near, place: None });
            }
        }
    }
    Val::Is(at.clone())
}
