//! Jinja's expressions: tokens to a tree, with Jinja's own rules of precedence.

use std::ops::Range;

use serde_json::Value;

use super::ast::{Arguments, Comparison, Expr, Kind, Operator};
use super::error::TemplateError;
use super::token::{Backslash, Token, Word, tokens};
use super::{checks, filters, functions, methods};
use crate::diag::nearest;

/// Deeper trees are refused: they would need more stack than a thread has.
const DEEPEST: usize = 100;
/// Brackets within brackets.
const DEEPEST_BRACKETS: usize = 40;

/// Words that can't be the name of a variable.
const RESERVED: [&str; 9] = ["and", "or", "not", "in", "is", "if", "else", "elif", "for"];

type Parsed = Result<Expr, TemplateError>;

/// A whole text as one expression.
pub(super) fn expression(text: &str) -> Parsed {
    let read = tokens(text, 0, None, Backslash::Escape)?;
    let mut parser = Parser::new(&read.tokens, text.len());
    let expr = parser.tuple()?;
    parser.end()?;
    Ok(expr)
}

/// Reads the tokens of one expression or tag.
pub(super) struct Parser<'a> {
    tokens: &'a [Token],
    at: usize,
    end: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    /// `end` is the offset behind the last token, for "something is missing here".
    pub fn new(tokens: &'a [Token], end: usize) -> Parser<'a> {
        Parser { tokens, at: 0, end, depth: 0 }
    }

    fn peek(&self) -> Option<&'a Word> {
        self.tokens.get(self.at).map(|token| &token.word)
    }

    /// The place of the next token, or the end.
    pub fn here(&self) -> Range<usize> {
        self.tokens.get(self.at).map_or(self.end.saturating_sub(1)..self.end, |token| token.range.clone())
    }

    /// Where the last token that was read ended.
    fn behind(&self) -> usize {
        self.at.checked_sub(1).and_then(|at| self.tokens.get(at)).map_or(0, |token| token.range.end)
    }

    fn sign(&self, sign: &str) -> bool {
        matches!(self.peek(), Some(Word::Sign(found)) if *found == sign)
    }

    fn word(&self, word: &str) -> bool {
        matches!(self.peek(), Some(Word::Name(found)) if found == word)
    }

    pub fn take_sign(&mut self, sign: &str) -> bool {
        let found = self.sign(sign);
        self.at += usize::from(found);
        found
    }

    pub fn take_word(&mut self, word: &str) -> bool {
        let found = self.word(word);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, sign: &str) -> Result<(), TemplateError> {
        if self.take_sign(sign) { Ok(()) } else { Err(self.wrong(&format!("`{sign}`"))) }
    }

    /// What was expected, and what stands there instead.
    pub fn wrong(&self, expected: &str) -> TemplateError {
        let found = match self.peek() {
            Some(Word::Name(name)) => format!("found `{name}`"),
            Some(Word::Literal(value)) => format!("found `{value}`"),
            Some(Word::Sign(sign)) => format!("found `{sign}`"),
            None => "it ends here".to_string(),
        };
        TemplateError::syntax(format!("{expected} was expected, {found}"), self.here())
    }

    /// Nothing may follow.
    pub fn end(&self) -> Result<(), TemplateError> {
        match self.peek() {
            None => Ok(()),
            Some(Word::Sign("=")) => Err(TemplateError::Syntax {
                message: "`=` sets nothing in an expression".into(),
                help: Some("to compare, write `==`".into()),
                offset: Some(self.here()),
            }),
            Some(_) => Err(self.wrong("the end of the expression")),
        }
    }

    fn node(&self, kind: Kind, start: usize) -> Parsed {
        let expr = Expr::new(kind, start, self.behind());
        if expr.height > DEEPEST {
            return Err(TemplateError::syntax("the expression is nested too deeply", expr.range()));
        }
        Ok(expr)
    }

    /// A name that the user chooses: of a loop's variable or in `set`.
    pub fn name(&mut self) -> Result<(String, Range<usize>), TemplateError> {
        let range = self.here();
        match self.peek() {
            Some(Word::Name(name)) if !RESERVED.contains(&name.as_str()) => {
                self.at += 1;
                Ok((name.clone(), range))
            }
            _ => Err(self.wrong("a name")),
        }
    }

    /// `a` or `a, b`, which is a list.
    pub fn tuple(&mut self) -> Parsed {
        let start = self.here().start;
        let first = self.expression()?;
        if !self.sign(",") {
            return Ok(first);
        }
        let mut items = vec![first];
        while self.take_sign(",") {
            if self.peek().is_none() || self.sign(")") {
                break;
            }
            items.push(self.expression()?);
        }
        self.node(Kind::List(items), start)
    }

    pub fn expression(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > DEEPEST_BRACKETS {
            return Err(TemplateError::syntax("the expression is nested too deeply", self.here()));
        }
        let expr = self.choice();
        self.depth -= 1;
        expr
    }

    fn choice(&mut self) -> Parsed {
        let start = self.here().start;
        let mut expr = self.or()?;
        while self.take_word("if") {
            let test = Box::new(self.or()?);
            let no = if self.take_word("else") { Some(Box::new(self.expression()?)) } else { None };
            expr = self.node(Kind::Choice { test, yes: Box::new(expr), no }, start)?;
        }
        Ok(expr)
    }

    /// The target of a `for`: everything but a choice, whose `if` is the loop's own filter.
    pub fn or(&mut self) -> Parsed {
        self.joined("or", Kind::Or, Self::and)
    }

    fn and(&mut self) -> Parsed {
        self.joined("and", Kind::And, Self::not)
    }

    fn joined(&mut self, word: &str, kind: fn(Vec<Expr>) -> Kind, part: fn(&mut Self) -> Parsed) -> Parsed {
        let start = self.here().start;
        let first = part(self)?;
        if !self.word(word) {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.take_word(word) {
            parts.push(part(self)?);
        }
        self.node(kind(parts), start)
    }

    fn not(&mut self) -> Parsed {
        // A loop, not a recursion: `not not not …` must not eat the stack.
        let mut starts = Vec::new();
        loop {
            let start = self.here().start;
            if !self.take_word("not") {
                break;
            }
            starts.push(start);
        }
        let mut expr = self.compare()?;
        while let Some(start) = starts.pop() {
            expr = self.node(Kind::Not(Box::new(expr)), start)?;
        }
        Ok(expr)
    }

    fn compare(&mut self) -> Parsed {
        let start = self.here().start;
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let comparison = match self.peek() {
                Some(Word::Sign("==")) => Comparison::Equal,
                Some(Word::Sign("!=")) => Comparison::NotEqual,
                Some(Word::Sign("<")) => Comparison::Less,
                Some(Word::Sign("<=")) => Comparison::LessOrEqual,
                Some(Word::Sign(">")) => Comparison::Greater,
                Some(Word::Sign(">=")) => Comparison::GreaterOrEqual,
                Some(Word::Name(name)) if name == "in" => Comparison::In,
                Some(Word::Name(name)) if name == "not" => {
                    let next = self.tokens.get(self.at + 1).map(|token| &token.word);
                    if !matches!(next, Some(Word::Name(name)) if name == "in") {
                        break;
                    }
                    self.at += 1;
                    Comparison::NotIn
                }
                _ => break,
            };
            self.at += 1;
            rest.push((comparison, self.sum()?));
        }
        if rest.is_empty() { Ok(first) } else { self.node(Kind::Compare(Box::new(first), rest), start) }
    }

    fn sum(&mut self) -> Parsed {
        let start = self.here().start;
        let mut expr = self.concat()?;
        loop {
            let operator = match self.peek() {
                Some(Word::Sign("+")) => Operator::Add,
                Some(Word::Sign("-")) => Operator::Subtract,
                _ => return Ok(expr),
            };
            self.at += 1;
            let right = self.concat()?;
            expr = self.node(Kind::Binary(operator, Box::new(expr), Box::new(right)), start)?;
        }
    }

    fn concat(&mut self) -> Parsed {
        let start = self.here().start;
        let first = self.product()?;
        if !self.sign("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.take_sign("~") {
            parts.push(self.product()?);
        }
        self.node(Kind::Concat(parts), start)
    }

    fn product(&mut self) -> Parsed {
        let start = self.here().start;
        let mut expr = self.power()?;
        loop {
            let operator = match self.peek() {
                Some(Word::Sign("*")) => Operator::Multiply,
                Some(Word::Sign("/")) => Operator::Divide,
                Some(Word::Sign("//")) => Operator::FloorDivide,
                Some(Word::Sign("%")) => Operator::Remainder,
                _ => return Ok(expr),
            };
            self.at += 1;
            let right = self.power()?;
            expr = self.node(Kind::Binary(operator, Box::new(expr), Box::new(right)), start)?;
        }
    }

    fn power(&mut self) -> Parsed {
        let start = self.here().start;
        let mut expr = self.unary()?;
        // Jinja's `**` groups to the left, unlike Python's.
        while self.take_sign("**") {
            let right = self.unary()?;
            expr = self.node(Kind::Binary(Operator::Power, Box::new(expr), Box::new(right)), start)?;
        }
        Ok(expr)
    }

    /// Signs bind tighter than filters: `-1 | abs` is `(-1) | abs`.
    fn unary(&mut self) -> Parsed {
        let mut signs = Vec::new();
        loop {
            let start = self.here().start;
            if self.take_sign("-") {
                signs.push((start, true));
            } else if self.take_sign("+") {
                signs.push((start, false));
            } else {
                break;
            }
        }
        let primary = self.primary()?;
        let mut expr = self.postfix(primary)?;
        while let Some((start, negative)) = signs.pop() {
            let of = Box::new(expr);
            expr = self.node(if negative { Kind::Negative(of) } else { Kind::Positive(of) }, start)?;
        }
        self.filtered(expr)
    }

    fn primary(&mut self) -> Parsed {
        let range = self.here();
        let start = range.start;
        let word = self.peek();
        match word {
            Some(Word::Literal(Value::String(first))) => {
                self.at += 1;
                let mut text = first.clone();
                // Strings that stand side by side are one, as in Python.
                while let Some(Word::Literal(Value::String(more))) = self.peek() {
                    text.push_str(more);
                    self.at += 1;
                }
                self.node(Kind::Literal(Value::String(text)), start)
            }
            Some(Word::Literal(value)) => {
                self.at += 1;
                self.node(Kind::Literal(value.clone()), start)
            }
            Some(Word::Name(name)) => {
                let literal = match name.as_str() {
                    "true" | "True" => Some(Value::Bool(true)),
                    "false" | "False" => Some(Value::Bool(false)),
                    "none" | "None" | "null" => Some(Value::Null),
                    _ => None,
                };
                if literal.is_none() && RESERVED.contains(&name.as_str()) {
                    return Err(self.wrong("a value"));
                }
                self.at += 1;
                if let Some(value) = literal {
                    return self.node(Kind::Literal(value), start);
                }
                if self.sign("(") {
                    known("function", name, functions::NAMES, &range)?;
                    let arguments = self.arguments()?;
                    return self.node(Kind::Function(name.clone(), arguments), start);
                }
                self.node(Kind::Name(name.clone()), start)
            }
            Some(Word::Sign("(")) => {
                self.at += 1;
                if self.take_sign(")") {
                    return self.node(Kind::List(Vec::new()), start);
                }
                let expr = self.tuple()?;
                self.expect(")")?;
                Ok(expr)
            }
            Some(Word::Sign("[")) => {
                self.at += 1;
                let items = self.items("]", Self::expression)?;
                self.node(Kind::List(items), start)
            }
            Some(Word::Sign("{")) => {
                self.at += 1;
                let pairs = self.items("}", |parser| {
                    let key = parser.expression()?;
                    parser.expect(":")?;
                    Ok((key, parser.expression()?))
                })?;
                self.node(Kind::Dict(pairs), start)
            }
            _ => Err(self.wrong("a value")),
        }
    }

    /// Things between commas, up to the closing bracket; a comma may stand at the end.
    fn items<T>(
        &mut self,
        close: &str,
        mut one: impl FnMut(&mut Self) -> Result<T, TemplateError>,
    ) -> Result<Vec<T>, TemplateError> {
        let mut items = Vec::new();
        loop {
            if self.take_sign(close) {
                return Ok(items);
            }
            items.push(one(self)?);
            if !self.take_sign(",") {
                self.expect(close)?;
                return Ok(items);
            }
        }
    }

    fn arguments(&mut self) -> Result<Arguments, TemplateError> {
        self.expect("(")?;
        let mut arguments = Arguments::default();
        let all = self.items(")", |parser| {
            let range = parser.here();
            let next = parser.tokens.get(parser.at + 1).map(|token| &token.word);
            match (parser.peek(), next) {
                (Some(Word::Name(name)), Some(Word::Sign("="))) => {
                    parser.at += 2;
                    Ok((Some(name.clone()), parser.expression()?, range))
                }
                (Some(Word::Sign("*" | "**")), _) => {
                    Err(TemplateError::syntax("unpacking with `*` is not supported", range))
                }
                _ => Ok((None, parser.expression()?, range)),
            }
        })?;
        for (name, value, range) in all {
            match name {
                Some(name) if arguments.named.iter().any(|(known, _)| *known == name) => {
                    return Err(TemplateError::syntax(format!("`{name}` is given twice"), range));
                }
                Some(name) => arguments.named.push((name, value)),
                None if arguments.named.is_empty() => arguments.positional.push(value),
                None => {
                    return Err(TemplateError::syntax("a value without a name can't follow one with a name", range));
                }
            }
        }
        Ok(arguments)
    }

    /// `.name`, `[…]` and method calls.
    fn postfix(&mut self, mut expr: Expr) -> Parsed {
        let start = expr.start;
        loop {
            if self.take_sign(".") {
                let range = self.here();
                match self.peek() {
                    Some(Word::Name(name)) => {
                        self.at += 1;
                        expr = if self.sign("(") {
                            known("method", name, methods::NAMES, &range)?;
                            let arguments = self.arguments()?;
                            self.node(Kind::Method(Box::new(expr), name.clone(), arguments), start)?
                        } else {
                            self.node(Kind::Attribute(Box::new(expr), name.clone()), start)?
                        };
                    }
                    Some(Word::Literal(value @ Value::Number(number))) if number.is_u64() => {
                        self.at += 1;
                        let index = self.node(Kind::Literal(value.clone()), range.start)?;
                        expr = self.node(Kind::Index(Box::new(expr), Box::new(index)), start)?;
                    }
                    _ => return Err(self.wrong("a name after `.`")),
                }
            } else if self.take_sign("[") {
                expr = self.subscript(expr)?;
            } else if self.sign("(") {
                return Err(TemplateError::syntax("only functions and methods can be called", self.here()));
            } else {
                return Ok(expr);
            }
        }
    }

    fn subscript(&mut self, expr: Expr) -> Parsed {
        let start = expr.start;
        let mut parts: [Option<Expr>; 3] = [None, None, None];
        let mut colons = 0;
        loop {
            if self.take_sign("]") {
                break;
            }
            if self.sign(":") {
                if colons == 2 {
                    return Err(self.wrong("`]`"));
                }
                self.at += 1;
                colons += 1;
                continue;
            }
            match parts.get_mut(colons) {
                Some(part @ None) => *part = Some(self.expression()?),
                _ => return Err(self.wrong("`]`")),
            }
        }
        let expr = Box::new(expr);
        match (colons, parts) {
            (0, [Some(index), _, _]) => self.node(Kind::Index(expr, Box::new(index)), start),
            (0, _) => Err(TemplateError::syntax("an index was expected", self.behind() - 1..self.behind())),
            (_, parts) => self.node(Kind::Slice(expr, Box::new(parts)), start),
        }
    }

    /// `| filter` and `is test`.
    fn filtered(&mut self, mut expr: Expr) -> Parsed {
        let start = expr.start;
        loop {
            if self.take_sign("|") {
                let (name, range) = self.dotted()?;
                known("filter", &name, filters::NAMES, &range)?;
                let arguments = if self.sign("(") { self.arguments()? } else { Arguments::default() };
                expr = self.node(Kind::Filter(Box::new(expr), name, arguments), start)?;
            } else if self.take_word("is") {
                let negated = self.take_word("not");
                let (name, range) = self.dotted()?;
                known("test", &name, checks::NAMES, &range)?;
                let arguments = self.test_arguments()?;
                expr = self.node(Kind::Test(Box::new(expr), name, arguments, negated), start)?;
            } else {
                return Ok(expr);
            }
        }
    }

    /// `is divisibleby(3)` or `is divisibleby 3`.
    fn test_arguments(&mut self) -> Result<Arguments, TemplateError> {
        let bare = match self.peek() {
            Some(Word::Sign("(")) => return self.arguments(),
            Some(Word::Literal(_) | Word::Sign("[" | "{")) => true,
            Some(Word::Name(name)) => !RESERVED.contains(&name.as_str()),
            _ => false,
        };
        let mut arguments = Arguments::default();
        if bare {
            let primary = self.primary()?;
            arguments.positional.push(self.postfix(primary)?);
        }
        Ok(arguments)
    }

    /// The name of a filter or test; `ansible.builtin.` in front says nothing new.
    fn dotted(&mut self) -> Result<(String, Range<usize>), TemplateError> {
        let mut range = self.here();
        let mut name = match self.peek() {
            Some(Word::Name(name)) => name.clone(),
            _ => return Err(self.wrong("a name")),
        };
        self.at += 1;
        while self.sign(".")
            && let Some(Word::Name(more)) = self.tokens.get(self.at + 1).map(|token| &token.word)
        {
            self.at += 2;
            name = format!("{name}.{more}");
            range.end = self.behind();
        }
        let short = name.strip_prefix("ansible.builtin.").map(str::to_string);
        Ok((short.unwrap_or(name), range))
    }
}

/// Names that do not exist are errors before anything runs.
fn known(what: &str, name: &str, names: &[&str], range: &Range<usize>) -> Result<(), TemplateError> {
    if names.contains(&name) {
        return Ok(());
    }
    Err(TemplateError::Syntax {
        message: format!("there is no {what} `{name}`"),
        help: nearest(name, names.iter().copied()).map(|near| format!("did you mean `{near}`?")),
        offset: Some(range.clone()),
    })
}
