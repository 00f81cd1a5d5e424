//! libvirt's relax-NG files, read anew and independently of the script that made the table: whatever the installed ones
//! know, the table must know too.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;
use std::rc::Rc;

use super::*;
use crate::modules::libvirt::xml::parse;

const FOLDER: &str = "/usr/share/libvirt/schemas";

/// All definitions of domain.rng and what it includes, by name.
#[derive(Default)]
struct Grammar {
    defines: BTreeMap<String, Vec<Rc<Element>>>,
    start: Option<Rc<Element>>,
}

impl Grammar {
    fn load(&mut self, file: &str) {
        let text = std::fs::read_to_string(Path::new(FOLDER).join(file)).unwrap();
        // The document's own comments and declarations are not the parser's matter.
        let root = parse(&text).unwrap_or_else(|why| panic!("{file}: {why}"));
        self.walk(&root);
    }

    fn walk(&mut self, element: &Element) {
        for child in element.elements() {
            match child.name.as_str() {
                "define" => {
                    let name = child.attribute("name").unwrap().to_string();
                    self.defines.entry(name).or_default().push(Rc::new(child.clone()));
                }
                "include" => {
                    self.load(child.attribute("href").unwrap());
                    self.walk(child);
                }
                "start" => self.start = Some(Rc::new(child.clone())),
                _ => self.walk(child),
            }
        }
    }

    /// What a pattern allows directly inside an element.
    fn collect(&self, pattern: &Element, seen: &mut Vec<String>, into: &mut Inside) {
        match pattern.name.as_str() {
            "attribute" => {
                let mut words = Some(BTreeSet::new());
                self.words(pattern, &mut words, 0);
                if pattern.elements().next().is_none() {
                    words = None;
                }
                if let Some(name) = pattern.attribute("name") {
                    into.attributes.push((name.to_string(), words));
                }
            }
            "element" => {
                if let Some(name) = pattern.attribute("name") {
                    into.children.push((name.to_string(), Rc::new(pattern.clone())));
                }
            }
            "ref" => {
                let name = pattern.attribute("name").unwrap().to_string();
                if !seen.contains(&name) {
                    seen.push(name.clone());
                    for define in &self.defines[&name] {
                        define.elements().for_each(|child| self.collect(child, seen, into));
                    }
                    seen.pop();
                }
            }
            _ => pattern.elements().for_each(|child| self.collect(child, seen, into)),
        }
    }

    /// The words that text may be; `None` when it is no list.
    fn words(&self, pattern: &Element, into: &mut Option<BTreeSet<String>>, depth: usize) {
        for child in pattern.elements() {
            match child.name.as_str() {
                "value" => {
                    if let Some(words) = into {
                        words.insert(child.text());
                    }
                }
                "text" | "data" | "list" => *into = None,
                "ref" if depth < 50 => {
                    for define in &self.defines[child.attribute("name").unwrap()] {
                        self.words(define, into, depth + 1);
                    }
                }
                _ => self.words(child, into, depth + 1),
            }
        }
    }
}

#[derive(Default)]
struct Inside {
    attributes: Vec<(String, Option<BTreeSet<String>>)>,
    children: Vec<(String, Rc<Element>)>,
}

/// Goes through schema and table side by side.
struct Walk<'a> {
    grammar: &'a Grammar,
    table: &'static Table,
    seen: HashSet<(String, Vec<usize>)>,
    looked_at: usize,
    missing: Vec<String>,
}

impl Walk<'_> {
    fn go(&mut self, pattern: &Rc<Element>, states: Vec<usize>, way: &str) {
        // The same pattern at the same states says nothing new.
        if !self.seen.insert((pattern.print(), states.clone())) {
            return;
        }
        self.looked_at += 1;
        let mut inside = Inside::default();
        for child in pattern.elements() {
            self.grammar.collect(child, &mut Vec::new(), &mut inside);
        }
        let words: Vec<&Words> =
            states.iter().filter_map(|at| self.table.states.get(*at)).flat_map(State::words).collect();
        for (name, values) in &inside.attributes {
            let mut known =
                words.iter().flat_map(|words| &words.attributes).filter(|(other, _)| other == name).peekable();
            if known.peek().is_none() {
                self.missing.push(format!("{way}@{name}"));
                continue;
            }
            let lists: Option<Vec<&Vec<&str>>> = known.map(|(_, list)| list.as_ref()).collect();
            let Some(lists) = lists else { continue };
            let all: BTreeSet<String> = lists.into_iter().flatten().map(|word| word.replace('~', " ")).collect();
            match values {
                Some(values) => self.missing.extend(values.difference(&all).map(|v| format!("{way}@{name}={v}"))),
                None => self.missing.push(format!("{way}@{name}: any value")),
            }
        }
        for (name, child) in inside.children {
            let known: Vec<usize> = words
                .iter()
                .flat_map(|words| &words.children)
                .filter(|(other, _)| *other == name || other.split_once(':').is_some_and(|(_, plain)| plain == name))
                .map(|(_, state)| *state)
                .collect();
            if known.is_empty() {
                self.missing.push(format!("{way}/{name}"));
                continue;
            }
            self.go(&child, known, &format!("{way}/{name}"));
        }
    }
}

#[test]
fn the_table_knows_what_the_installed_schema_knows() {
    if !Path::new(FOLDER).join("domain.rng").exists() {
        eprintln!("skipped: libvirt's schemas are not installed");
        return;
    }
    let mut grammar = Grammar::default();
    grammar.load("domain.rng");
    let start = grammar.start.clone().unwrap();
    let mut inside = Inside::default();
    start.elements().for_each(|child| grammar.collect(child, &mut Vec::new(), &mut inside));
    let (_, domain) = inside.children.into_iter().find(|(name, _)| name == "domain").unwrap();
    let mut walk =
        Walk { grammar: &grammar, table: Table::get(), seen: HashSet::new(), looked_at: 0, missing: Vec::new() };
    walk.go(&domain, vec![0], "domain");
    assert!(walk.looked_at > 400, "only {} elements were looked at", walk.looked_at);
    walk.missing.sort();
    walk.missing.dedup();
    assert_eq!(walk.missing, Vec::<String>::new());
}
