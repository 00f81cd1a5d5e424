//! The parser's events to a tree.

use std::collections::HashMap;
use std::sync::Arc;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, ScanError, StrInput, Tag};

use super::{Key, Node, NodeValue, scalar};
use crate::diag::{Diagnostic, Source, Span};

/// How deep lists and maps may be nested. Far more than anybody writes; few enough for every stack, and for the JSON
/// reader at the far end of a connection, which stops at 128.
const MAX_DEPTH: usize = 96;
/// How many nodes a text may grow to by its aliases. A billion laughs stop here.
const MAX_NODES: usize = 500_000;

/// All documents of a text.
pub(super) fn documents(source: &Arc<Source>) -> Result<Vec<Node>, Diagnostic> {
    let options = granit_parser::options! { emit_comments: false };
    let parser = Parser::new_from_str_with_options(&source.text, options);
    let mut reader = Reader { source, parser, anchors: HashMap::new(), nodes: 0 };
    let mut documents = Vec::new();
    while let Some((event, place)) = reader.next()? {
        match event {
            Event::StreamStart | Event::DocumentEnd => {}
            Event::DocumentStart(..) => reader.anchors.clear(),
            Event::StreamEnd => break,
            first => documents.push(reader.node(first, place, 0, None)?.node),
        }
    }
    Ok(documents)
}

type Place = granit_parser::Span;
type Entries = Vec<(Key, Node)>;

/// A node with what an alias to it would cost.
#[derive(Clone)]
struct Built {
    node: Node,
    depth: usize,
    nodes: usize,
}

struct Reader<'a> {
    source: &'a Arc<Source>,
    parser: Parser<'a, StrInput<'a>>,
    /// What the anchors stand for; `None` while the anchored node is still being read.
    anchors: HashMap<usize, Option<Built>>,
    nodes: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Place)>, Diagnostic> {
        match self.parser.next() {
            None => Ok(None),
            Some(Ok(event)) => Ok(Some(event)),
            Some(Err(e)) => Err(self.broken(&e)),
        }
    }

    /// The next event inside a list or map, where the text can't end.
    fn inside(&mut self, from: &Span) -> Result<(Event<'a>, Place), Diagnostic> {
        self.next()?.ok_or_else(|| Diagnostic::error("the YAML text ends too early").at(from))
    }

    fn span(&self, place: &Place) -> Span {
        let start = place.start.byte_offset().unwrap_or_default();
        let end = place.end.byte_offset().unwrap_or(start);
        let span = Span::new(self.source, start, end);
        // Block scalars and multi-line ones may end behind blank space that is nobody's.
        let text = self.source.text.get(span.start..span.end).unwrap_or_default();
        let end = span.start + text.trim_end().len();
        Span::new(self.source, span.start, end)
    }

    fn count(&mut self, nodes: usize, depth: usize, span: &Span) -> Result<(), Diagnostic> {
        self.nodes = self.nodes.saturating_add(nodes);
        if self.nodes > MAX_NODES {
            return Err(Diagnostic::error("the aliases of this YAML text make it too large").at(span));
        }
        if depth > MAX_DEPTH {
            return Err(Diagnostic::error(format!("lists and maps are nested deeper than {MAX_DEPTH} levels")).at(span));
        }
        Ok(())
    }

    /// The node that begins with this event. `owner` is the key or dash an empty value belongs to.
    fn node(
        &mut self,
        event: Event<'a>,
        place: Place,
        depth: usize,
        owner: Option<&Span>,
    ) -> Result<Built, Diagnostic> {
        let mut span = self.span(&place);
        self.count(1, depth, &span)?;
        let (value, anchor, inner_depth, nodes) = match event {
            Event::Alias(id) => {
                return match self.anchors.get(&id) {
                    Some(Some(built)) => {
                        let built = built.clone();
                        self.count(built.nodes, depth + built.depth, &span)?;
                        Ok(built)
                    }
                    _ => Err(Diagnostic::error("this alias stands inside of what it stands for").at(&span)),
                };
            }
            Event::Scalar(text, style, anchor, tag) => {
                let value = self.scalar(&text, style, tag.as_deref(), &place, &span)?;
                // The parser writes `~` for a value that is not there.
                if span.start == span.end && style == ScalarStyle::Plain {
                    span = owner.cloned().unwrap_or(span);
                }
                (value, anchor, 0, 1)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.tag_of_collection(tag.as_deref(), "seq", &place)?;
                self.open(anchor);
                let (mut items, mut deepest, mut nodes) = (Vec::new(), 0, 1);
                loop {
                    let (event, place) = self.inside(&span)?;
                    if event == Event::SequenceEnd {
                        span = self.closed(&span, &place, items.last().map(|item: &Node| item.span.end));
                        break;
                    }
                    let item = self.node(event, place, depth + 1, None)?;
                    deepest = deepest.max(item.depth + 1);
                    nodes += item.nodes;
                    items.push(item.node);
                }
                (NodeValue::List(items), anchor, deepest, nodes)
            }
            Event::MappingStart(_, anchor, tag) => {
                self.tag_of_collection(tag.as_deref(), "map", &place)?;
                self.open(anchor);
                let map = self.map(&mut span, depth)?;
                (NodeValue::Map(map.0), anchor, map.1, map.2)
            }
            _ => return Err(Diagnostic::error("the YAML text ends too early").at(&span)),
        };
        let built = Built { node: Node { value, span }, depth: inner_depth, nodes };
        if anchor != 0 {
            self.anchors.insert(anchor, Some(built.clone()));
        }
        Ok(built)
    }

    fn open(&mut self, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, None);
        }
    }

    /// The span of a list or map: to its bracket, or to the end of its last entry where it has none.
    fn closed(&self, open: &Span, place: &Place, last: Option<usize>) -> Span {
        let close = self.span(place);
        let end = if close.end > close.start { close.end } else { last.unwrap_or(open.end) };
        Span::new(self.source, open.start, end.max(open.end))
    }

    /// The entries of a map, with its depth and its number of nodes.
    fn map(&mut self, span: &mut Span, depth: usize) -> Result<(Entries, usize, usize), Diagnostic> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut names: HashMap<String, usize> = HashMap::new();
        let (mut deepest, mut nodes) = (0, 1);
        let mut last = None;
        loop {
            let (event, place) = self.inside(span)?;
            if event == Event::MappingEnd {
                *span = self.closed(span, &place, last);
                break;
            }
            let merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, _, None) if text == "<<");
            let key = self.key(event, &place)?;
            let (event, place) = self.inside(span)?;
            let value = self.node(event, place, depth + 1, Some(&key.span))?;
            deepest = deepest.max(value.depth + 1);
            nodes += value.nodes + 1;
            last = Some(value.node.span.end.max(key.span.end));
            if merge {
                for (key, node) in merged(value.node, &key.span)? {
                    if !names.contains_key(&key.name) {
                        names.insert(key.name.clone(), entries.len());
                        entries.push(Entry { key, node, merged: true });
                    }
                }
                continue;
            }
            match names.get(&key.name).and_then(|at| entries.get_mut(*at)) {
                None => {
                    names.insert(key.name.clone(), entries.len());
                    entries.push(Entry { key, node: value.node, merged: false });
                }
                // What is written here wins over what is merged in.
                Some(entry) if entry.merged => *entry = Entry { key, node: value.node, merged: false },
                Some(entry) => {
                    let (line, _) = entry.key.span.line_column();
                    return Err(Diagnostic::error(format!("the key `{}` stands twice in one map", key.name))
                        .at(&key.span)
                        .help(format!("the first is in line {line}; keep one of them")));
                }
            }
        }
        Ok((entries.into_iter().map(|e| (e.key, e.node)).collect(), deepest, nodes))
    }

    fn key(&mut self, event: Event<'a>, place: &Place) -> Result<Key, Diagnostic> {
        let span = self.span(place);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                if span.start == span.end && style == ScalarStyle::Plain {
                    return Err(Diagnostic::error("a key is missing before this colon").at(&span));
                }
                let value = self.scalar(&text, style, tag.as_deref(), place, &span)?;
                if tag.is_some() && value.is_vaulted() {
                    return Err(Diagnostic::error("a key can't be encrypted").at(&span));
                }
                let key = Key { name: text.into_owned(), span };
                if anchor != 0 {
                    let node = Node::string(key.name.clone(), &key.span);
                    self.anchors.insert(anchor, Some(Built { node, depth: 0, nodes: 1 }));
                }
                Ok(key)
            }
            Event::Alias(id) => match self.anchors.get(&id) {
                Some(Some(Built { node: Node { value: NodeValue::String(name), .. }, .. })) => {
                    Ok(Key { name: name.clone(), span })
                }
                _ => Err(Diagnostic::error("a key must be a string").at(&span)),
            },
            _ => {
                // `name: {{ x }}` reads as a map whose key is a map.
                let before = self.source.text.get(..span.start).unwrap_or_default();
                let here = self.source.text.get(span.start..).unwrap_or_default();
                if here.starts_with('{') && before.ends_with('{') {
                    return Err(unquoted_template(&Span::new(self.source, span.start - 1, span.start + 1)));
                }
                Err(Diagnostic::error("a key must be a string, not a list or map").at(&span))
            }
        }
    }

    fn scalar(
        &self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        place: &Place,
        span: &Span,
    ) -> Result<NodeValue, Diagnostic> {
        let string = || NodeValue::String(text.to_string());
        let Some(tag) = tag else {
            return Ok(if style == ScalarStyle::Plain { scalar::plain(text) } else { string() });
        };
        let not_a = |what: &str| Err(Diagnostic::error(format!("`{text}` is not {what}, but is tagged so")).at(span));
        match tag.core_suffix() {
            Some("str") => Ok(string()),
            Some("null") => Ok(NodeValue::Null),
            Some("bool") => scalar::truth(text).map_or_else(|| not_a("a truth value"), |b| Ok(NodeValue::Bool(b))),
            Some("int") => text.parse().map_or_else(|_| not_a("a whole number"), |n| Ok(NodeValue::Int(n))),
            Some("float") => match text.parse::<f64>() {
                Ok(number) if number.is_finite() => Ok(NodeValue::Float(number)),
                _ => not_a("a number"),
            },
            Some(_) => not_a("a list or map"),
            None if non_specific(tag) => Ok(string()),
            None if tag.handle() == "!" && tag.suffix() == "unsafe" => self.never_templated(text, span),
            None if tag.handle() == "!" && ["vault", "vault-encrypted"].contains(&tag.suffix()) => {
                encrypted(text, span)
            }
            None => Err(self.unknown_tag(tag, place)),
        }
    }

    /// `!unsafe` text goes through the templates as it is.
    fn never_templated(&self, text: &str, span: &Span) -> Result<NodeValue, Diagnostic> {
        if !text.contains('{') {
            return Ok(NodeValue::String(text.to_string()));
        }
        if text.contains("endraw") {
            return Err(Diagnostic::error("an `!unsafe` text can't hold the word `endraw`").at(span));
        }
        Ok(NodeValue::String(format!("{{% raw %}}{text}{{% endraw %}}")))
    }

    fn tag_of_collection(&self, tag: Option<&Tag>, expected: &str, place: &Place) -> Result<(), Diagnostic> {
        match tag {
            Some(tag) if tag.core_suffix() != Some(expected) && !non_specific(tag) => Err(self.unknown_tag(tag, place)),
            _ => Ok(()),
        }
    }

    fn unknown_tag(&self, tag: &Tag, place: &Place) -> Diagnostic {
        let span = place.tag_span().map_or_else(|| self.span(place), |tag| self.span(&tag));
        let name = format!("{}{}", tag.original_handle(), tag.suffix());
        Diagnostic::error(format!("unknown YAML tag `{name}`"))
            .at(&span)
            .help("quote the value if it is meant to begin with `!`")
    }

    /// What the parser did not understand, in words for people who write playbooks.
    fn broken(&self, error: &ScanError) -> Diagnostic {
        let mark = error.marker();
        // Errors at the very end of the text are shown at its last line that says something.
        let at = mark.byte_offset().unwrap_or_default().min(self.source.text.trim_end().len());
        let span = Span::new(self.source, at, at);
        let line = self.source.text.get(..at).unwrap_or_default().rsplit('\n').next().unwrap_or_default();
        let rest = self.source.text.get(at..).unwrap_or_default().split('\n').next().unwrap_or_default();
        let problem = |text: &str, help: &str| Diagnostic::error(text).at(&span).help(help);
        match error.kind() {
            ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation | ErrorKind::TabNotAllowed => {
                problem("a tab can't be used for indentation", "indent with spaces")
            }
            _ if line.contains(": {{") && !line.contains("\"{{") => unquoted_template(&span),
            ErrorKind::UnexpectedCharacter { character: '\t' } => {
                problem("a tab can't be used for indentation", "indent with spaces")
            }
            ErrorKind::UnexpectedCharacter { character: character @ ('%' | '@' | '`') } => {
                problem(&format!("a value can't begin with `{character}`"), "put the value in quotes")
            }
            ErrorKind::MappingValueNotAllowed => problem(
                "a second `key: value` begins in the middle of this line",
                "put a value that holds `: ` in quotes, or check the indentation",
            ),
            ErrorKind::ExpectedBlockMappingKey | ErrorKind::InvalidIndentation | ErrorKind::SimpleKeyExpected => {
                problem(
                    "this line does not fit the lines above it",
                    "check the indentation, and that every key ends with a colon and a space",
                )
            }
            ErrorKind::ExpectedBlockSequenceEntry => problem(
                "this line is neither a further item of the list above it nor outside of it",
                "begin it with `- `, or check the indentation",
            ),
            ErrorKind::BlockSequenceEntryNotAllowed => {
                problem("a list can't begin here", "put it on its own line under the key, or write it in brackets")
            }
            ErrorKind::UnclosedQuotedScalar => problem("this quote is never closed", "add the closing quote"),
            ErrorKind::UnknownQuotedScalarEscape => problem(
                "unknown escape in double quotes",
                "write the backslash twice, or use single quotes, where it is an ordinary character",
            ),
            ErrorKind::InvalidTrailingDoubleQuotedScalar | ErrorKind::InvalidTrailingSingleQuotedScalar => {
                problem("text follows the closing quote", "if a value begins with a quote, all of it must be in quotes")
            }
            ErrorKind::UnclosedFlowCollection { open } => {
                problem(&format!("this `{open}` is never closed"), "add the closing bracket")
            }
            ErrorKind::InvalidColonPlacement => {
                problem("a `:` can't stand here", "close the bracket above, or put a value that holds `:` in quotes")
            }
            ErrorKind::UnexpectedEofFlowSequence | ErrorKind::ExpectedFlowSequenceSeparator => {
                problem("a `,` or the `]` that closes this list is missing", "close the bracket")
            }
            ErrorKind::UnexpectedEofFlowMapping | ErrorKind::ExpectedFlowMappingSeparator => {
                problem("a `,` or the `}` that closes this map is missing", "close the bracket")
            }
            ErrorKind::UnknownAnchor => {
                let name = rest.split(char::is_whitespace).next().unwrap_or_default();
                problem(
                    &format!("nothing above is called `&{}`", name.trim_start_matches('*')),
                    "quote the value if it is meant to begin with `*`",
                )
            }
            ErrorKind::RecursionLimitExceeded => problem("lists and maps are nested too deeply", "flatten them"),
            other => Diagnostic::error(format!("this is not valid YAML: {other}")).at(&span),
        }
    }
}

struct Entry {
    key: Key,
    node: Node,
    merged: bool,
}

/// What ansible-vault encrypted becomes a template that asks for the plain text, so it stays encrypted until it is used.
/// What stands in that template is letters and digits only, whatever the text holds.
fn encrypted(text: &str, span: &Span) -> Result<NodeValue, Diagnostic> {
    let mut words = text.split_whitespace();
    let (first, body) = (words.next().unwrap_or_default(), words.collect::<String>());
    let harmless = |c: char| c.is_alphanumeric() || "$;._-@+:/,".contains(c);
    if !first.starts_with("$ANSIBLE_VAULT;") || !first.chars().all(harmless) {
        return Err(Diagnostic::error("behind `!vault` stands nothing that ansible-vault encrypted")
            .at(span)
            .help("`vfio-provision vault encrypt-string` writes such a value: `!vault |`, then lines further in"));
    }
    if body.is_empty() || !body.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(Diagnostic::error(
            "this encrypted value is cut or changed: after its first line come digits 0-9, a-f",
        )
        .at(span));
    }
    let place: String = span.place().chars().map(|c| if harmless(c) || c == ' ' { c } else { '_' }).collect();
    Ok(NodeValue::String(format!("{{{{ ansible_vault('{first} {body}', '{place}') }}}}")))
}

/// A lone `!`: "not a number, whatever it looks like".
fn non_specific(tag: &Tag) -> bool {
    tag.original_handle().len() + tag.suffix().len() == 1
}

fn unquoted_template(span: &Span) -> Diagnostic {
    Diagnostic::error("a value that begins with `{{` must be in quotes, or YAML reads a map")
        .at(span)
        .help("write \"{{ … }}\"")
}

/// The entries that `<<: *name` or `<<: [*one, *two]` brings; where two have a key, the earlier wins.
fn merged(node: Node, at: &Span) -> Result<Entries, Diagnostic> {
    let maps = match node.value {
        NodeValue::Map(entries) => return Ok(entries),
        NodeValue::List(items) => items,
        _ => return Err(Diagnostic::error("`<<` merges a map or a list of maps").at(at)),
    };
    let mut all = Vec::new();
    for map in maps {
        match map.value {
            NodeValue::Map(entries) => all.extend(entries),
            _ => return Err(Diagnostic::error("`<<` merges a map or a list of maps").at(&map.span)),
        }
    }
    Ok(all)
}
