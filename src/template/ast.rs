//! Expressions as a tree. Every node knows where it stands, so that every error can.

use std::ops::Range;

use serde_json::Value;

/// A node and its place in the text.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Expr {
    pub kind: Kind,
    pub start: usize,
    pub end: usize,
    /// How deep the tree below is; kept so that no text can make the program run out of stack.
    pub height: usize,
}

impl Expr {
    pub fn new(kind: Kind, start: usize, end: usize) -> Expr {
        let mut expr = Expr { kind, start, end, height: 1 };
        let mut below = 0;
        expr.children(&mut |child| below = below.max(child.height));
        expr.height += below;
        expr
    }

    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Literal(Value),
    Name(String),
    List(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Attribute(Box<Expr>, String),
    Index(Box<Expr>, Box<Expr>),
    /// `x[from:to:step]`
    Slice(Box<Expr>, Box<[Option<Expr>; 3]>),
    /// `range(3)`
    Function(String, Arguments),
    /// `x.split(',')`
    Method(Box<Expr>, String, Arguments),
    Filter(Box<Expr>, String, Arguments),
    /// `x is name`; the flag is `is not`.
    Test(Box<Expr>, String, Arguments, bool),
    Not(Box<Expr>),
    Negative(Box<Expr>),
    Positive(Box<Expr>),
    Binary(Operator, Box<Expr>, Box<Expr>),
    /// `a < b <= c`: a chain, as in Python.
    Compare(Box<Expr>, Vec<(Comparison, Expr)>),
    /// `a ~ b ~ c`
    Concat(Vec<Expr>),
    And(Vec<Expr>),
    Or(Vec<Expr>),
    /// `yes if test else no`
    Choice {
        test: Box<Expr>,
        yes: Box<Expr>,
        no: Option<Box<Expr>>,
    },
}

/// What stands in the parentheses of a call.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Arguments {
    pub positional: Vec<Expr>,
    pub named: Vec<(String, Expr)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    FloorDivide,
    Remainder,
    Power,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
    NotIn,
}

impl Expr {
    /// Calls `see` for the direct children, in the order in which they are evaluated.
    pub fn children<'a>(&'a self, see: &mut dyn FnMut(&'a Expr)) {
        let arguments = |arguments: &'a Arguments, see: &mut dyn FnMut(&'a Expr)| {
            arguments.positional.iter().for_each(&mut *see);
            arguments.named.iter().for_each(|(_, value)| see(value));
        };
        match &self.kind {
            Kind::Literal(_) | Kind::Name(_) => {}
            Kind::List(items) | Kind::Concat(items) | Kind::And(items) | Kind::Or(items) => {
                items.iter().for_each(see);
            }
            Kind::Dict(pairs) => pairs.iter().for_each(|(key, value)| {
                see(key);
                see(value);
            }),
            Kind::Attribute(of, _) | Kind::Not(of) | Kind::Negative(of) | Kind::Positive(of) => see(of),
            Kind::Index(of, by) | Kind::Binary(_, of, by) => {
                see(of);
                see(by);
            }
            Kind::Slice(of, parts) => {
                see(of);
                parts.iter().flatten().for_each(see);
            }
            Kind::Function(_, args) => arguments(args, see),
            Kind::Method(of, _, args) | Kind::Filter(of, _, args) | Kind::Test(of, _, args, _) => {
                see(of);
                arguments(args, see);
            }
            Kind::Compare(first, rest) => {
                see(first);
                rest.iter().for_each(|(_, other)| see(other));
            }
            Kind::Choice { test, yes, no } => {
                see(test);
                see(yes);
                if let Some(no) = no {
                    see(no);
                }
            }
        }
    }

    /// The variable at the root of `x`, `x.y`, `x['y'][0]`, with its place.
    pub fn path_root(&self) -> Option<(&str, Range<usize>)> {
        match &self.kind {
            Kind::Name(name) => Some((name, self.range())),
            Kind::Attribute(of, _) | Kind::Index(of, _) => of.path_root(),
            _ => None,
        }
    }
}
