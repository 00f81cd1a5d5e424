use proptest::prelude::*;
use serde_json::json;

use super::*;

fn one(text: &str) -> Node {
    match parse_one(&Source::new("t.yml", text)) {
        Ok(node) => node,
        Err(diagnostic) => panic!("{diagnostic}"),
    }
}

fn wrong(text: &str) -> String {
    match parse(&Source::new("t.yml", text)) {
        Ok(nodes) => panic!("accepted: {nodes:?}"),
        Err(diagnostic) => diagnostic.to_string(),
    }
}

fn text_of(node: &Node) -> &str {
    &node.span.source.text[node.span.start..node.span.end]
}

#[test]
fn truth_values_are_those_of_yaml_1_1() {
    assert_eq!(one("[yes, No, ON, off, true, False]").to_json(), json!([true, false, true, false, true, false]));
    assert_eq!(one("[y, n, 'yes', \"off\"]").to_json(), json!(["y", "n", "yes", "off"]));
}

#[test]
fn numbers_are_numbers_only_if_nothing_is_lost() {
    assert_eq!(one("[0, 5, -7, 644, 1.5, 2.0, -0.25]").to_json(), json!([0, 5, -7, 644, 1.5, 2.0, -0.25]));
    let kept = [
        "0644",
        "82:00.0",
        "10:20",
        "0x82",
        "6.10",
        "1e5",
        "1_000",
        "+5",
        "12e45678",
        "0o17",
        ".5",
        "5.",
        "-0",
        "99999999999999999999",
        "4.18.0",
        "2024-01-01",
        ".inf",
        ".nan",
        "1.0e+3",
    ];
    for text in kept {
        assert_eq!(one(&format!("v: {text}")).to_json(), json!({ "v": text }));
    }
}

#[test]
fn keys_are_the_text_that_was_written() {
    assert_eq!(one("on: 1\n80: 2\n0x1: 3\n").to_json(), json!({"on": 1, "80": 2, "0x1": 3}));
}

#[test]
fn places_are_bytes_also_behind_umlauts_and_a_byte_order_mark() {
    for prefix in ["", "\u{feff}", "# äöü ☕\n", "---\n"] {
        let node = one(&format!("{prefix}größe: „groß“\nliste: [ä, 'ß', {{k: \"ü\"}}]\nende: x\n"));
        assert_eq!(text_of(node.get("größe").unwrap()), "„groß“");
        let list = node.get("liste").unwrap();
        assert_eq!(text_of(list), "[ä, 'ß', {k: \"ü\"}]");
        assert_eq!(text_of(&list.as_list().unwrap()[1]), "'ß'");
        assert_eq!(text_of(node.at_path("liste[2].k").unwrap()), "\"ü\"");
        assert_eq!(text_of(node.get("ende").unwrap()), "x");
    }
    let node = one("ä: 1\r\nö:\r\n  - x\r\n  - y: ü\r\n");
    assert_eq!(text_of(node.at_path("ö[1].y").unwrap()), "ü");
    assert_eq!(text_of(node.get("ö").unwrap()), "- x\r\n  - y: ü");
}

#[test]
fn an_empty_value_is_shown_at_its_key() {
    let node = one("a: 1\ntasks:\n");
    assert_eq!(text_of(node.get("tasks").unwrap()), "tasks");
}

#[test]
fn block_maps_and_lists_begin_at_their_first_entry() {
    let node = one("- name: x\n  when: y\n- z\n");
    assert_eq!(text_of(&node.as_list().unwrap()[0]), "name: x\n  when: y");
}

#[test]
fn block_scalars_keep_their_text() {
    assert_eq!(one("a: |\n  x\n   y\nb: >-\n  c\n  d\n").to_json(), json!({"a": "x\n y\n", "b": "c d"}));
}

#[test]
fn merge_keys_give_way_to_what_is_written() {
    let text = "base: &b {x: 1, y: 2}\nother: &o {y: 3, z: 4}\nlate: {<<: [*b, *o], x: 9}\nearly:\n  y: 5\n  <<: *b\n";
    let node = one(text);
    assert_eq!(node.get("late").unwrap().to_json(), json!({"x": 9, "y": 2, "z": 4}));
    assert_eq!(node.get("early").unwrap().to_json(), json!({"y": 5, "x": 1}));
    assert!(wrong("a: {<<: 5}").contains("merges a map"));
}

#[test]
fn duplicate_keys_are_errors_that_name_the_first() {
    let shown = wrong("a: 1\nb: 2\na: 3\n");
    assert!(shown.contains("`a` stands twice"), "{shown}");
    assert!(shown.contains("t.yml:3:1") && shown.contains("line 1"), "{shown}");
}

#[test]
fn tags() {
    assert_eq!(one("[!!str 5, !!int '5', !!bool yes, ! x]").to_json(), json!(["5", 5, true, "x"]));
    assert_eq!(one("!unsafe 'a {{ b }}'").to_json(), json!("{% raw %}a {{ b }}{% endraw %}"));
    assert_eq!(one("!unsafe ab").to_json(), json!("ab"));
    assert!(wrong("a: !foo 5").contains("unknown YAML tag `!foo`"));
    assert!(wrong("a: !foo 5").contains("t.yml:1:4"));
    assert!(wrong("a: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n").contains("is cut"));
    assert!(wrong("a: !vault |\n  $ANSIBLE_VAULT;1.1;AES256\n  6') }}\n").contains("changed"));
    assert!(wrong("a: !vault |\n  $ANSIBLE_VAULT;1.2;AES256;a')\n  61\n").contains("nothing that"));
    assert!(wrong("a: !vault hello\n").contains("nothing that"));
    assert!(wrong("!vault a: b\n").contains("nothing that"));
    assert!(wrong("!vault \"$ANSIBLE_VAULT;1.1;AES256 61\": b\n").contains("a key can't be encrypted"));
    assert!(wrong("!!set {a, b}").contains("unknown YAML tag"));
}

#[test]
fn mistakes_get_words_and_a_place() {
    for (text, place, words) in [
        ("a:\n\tb: 1\n", "2:2", "tab"),
        ("a:\n  b: 1\n c: 2\n", "3:2", "does not fit"),
        ("a: b: c\n", "1:5", "second `key: value`"),
        ("a: {{ x }}\n", "1:4", "must be in quotes"),
        ("a: {{ x }}/y\n", "1:4", "must be in quotes"),
        ("a: {{ x }}:y\n", "1:4", "must be in quotes"),
        ("a: \"x\n", "1:4", "never closed"),
        ("a: [1, 2\nb: 3\n", "2:2", "close the bracket above"),
        ("a: @x\n", "1:4", "can't begin with `@`"),
        ("a: 'x' y\n", "1:", "closing quote"),
        ("a: *x\n", "1:4", "nothing above is called `&x`"),
        ("a: \"\\d\"\n", "1:", "escape"),
        ("- a\nb: 1\n", "2:1", "neither a further item"),
        ("a: 1\n- b\n", "2:3", "does not fit"),
    ] {
        let shown = wrong(text);
        assert!(shown.contains(words), "{text:?}: {shown}");
        assert!(shown.contains(&format!("t.yml:{place}")), "{text:?}: {shown}");
    }
}

#[test]
fn one_file_is_one_document() {
    assert!(one("").is_null());
    assert!(one("# only a comment\n---\n").is_null());
    let source = Source::new("t.yml", "a: 1\n---\nb: 2\n");
    assert_eq!(parse(&source).map(|d| d.len()), Ok(2));
    assert!(parse_one(&source).is_err());
}

#[test]
fn bombs_do_not_go_off() {
    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_string();
    for level in 1..10 {
        let last = level - 1;
        laughs.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{last}"); 10].join(", ")));
    }
    assert!(wrong(&laughs).contains("too large"));
    let mut chain = "b0: &b0 [x]\n".to_string();
    for level in 1..5000 {
        chain.push_str(&format!("b{level}: &b{level} [*b{}]\n", level - 1));
    }
    assert!(wrong(&chain).contains("nested deeper"));
    assert!(wrong(&"[".repeat(100_000)).contains("nested"));
    assert!(wrong(&"- ".repeat(100_000)).contains("nested"));
    assert!(wrong("a: &a [*a]").contains("inside of what"));
}

#[test]
fn paths_lead_to_their_node() {
    let node = one("devices:\n  - address: x\nnet.ipv4: {a.b: 1, a: {b: 2}}\n");
    assert_eq!(node.at_path("devices[0].address").map(text_of), Some("x"));
    assert_eq!(node.at_path("net.ipv4.a.b").map(text_of), Some("1"));
    assert_eq!(node.at_path("."), Some(&node));
    assert_eq!(node.at_path("devices[1]"), None);
    assert_eq!(text_of(node.near_path("devices[0].missing")), "address: x");
}

fn json_of_depth() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|b| json!(b)),
        any::<i64>().prop_map(|n| json!(n)),
        any::<f64>().prop_filter("finite", |n| n.is_finite()).prop_map(|n| json!(n.to_string())),
        any::<String>().prop_map(|s| json!(s.replace(|c: char| c.is_control() || c == '\u{feff}', "?"))),
    ];
    leaf.prop_recursive(4, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(|v| json!(v)),
            prop::collection::btree_map("[a-z0-9.:#]{1,8}", inner, 0..5).prop_map(|m| json!(m)),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        if let Err(diagnostic) = parse(&Source::new("t.yml", text)) {
            prop_assert!(!diagnostic.to_string().is_empty());
        }
    }

    #[test]
    fn anything_like_yaml_is_read_or_refused(text in "([a-c]|[ \n]|- |: |\t|[\\[\\]{},&*!|>'\"%@#?~<ä\u{feff}\r]|---\n|<<: |&a|\\*a|\\{\\{){0,60}") {
        let source = Source::new("t.yml", text);
        match parse(&source) {
            Err(diagnostic) => prop_assert!(!diagnostic.to_string().is_empty()),
            Ok(nodes) => nodes.iter().for_each(|n| { n.to_json(); }),
        }
    }

    #[test]
    fn json_is_yaml_and_comes_back(value in json_of_depth()) {
        // JSON text is YAML; keys longer than 1024 characters are not made here.
        let text = value.to_string();
        let parsed = parse_one(&Source::new("t.yml", text));
        prop_assert_eq!(parsed.map(|n| n.to_json()), Ok(value));
    }
}
