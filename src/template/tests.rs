//! The tables of values were compared with what ansible-core 2.19 gives for the same expressions.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// A scope out of a map.
#[derive(Default, Clone)]
struct Vars(BTreeMap<String, Var>, Vec<std::path::PathBuf>);

impl Lookup for Vars {
    fn get(&self, name: &str) -> Option<Var> {
        self.0.get(name).cloned()
    }

    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }

    fn folders(&self) -> Vec<std::path::PathBuf> {
        self.1.clone()
    }
}

impl Vars {
    fn with(mut self, name: &str, var: Var) -> Vars {
        self.0.insert(name.to_string(), var);
        self
    }
}

impl Scopes for Vars {
    fn get(&self, _: &str) -> Option<Arc<dyn Lookup + Send + Sync>> {
        None
    }

    fn names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Variables as a user writes them.
fn templates(value: Value) -> Vars {
    let map = value.as_object().cloned().unwrap_or_default();
    Vars(map.into_iter().map(|(name, value)| (name, Var::template(value))).collect(), Vec::new())
}

fn world() -> Vars {
    templates(json!({
        "x": 5, "name": "ws01", "empty": "", "nothing": null, "yes": true, "no": false, "pi": 3.5,
        "list": [3, 1, 2], "words": ["b", "A", "c"],
        "map": {"a": 1, "b": {"c": [10, 20]}},
        "gpus": [{"id": "82:00.0", "vendor": "nvidia", "boot": false}, {"id": "03:00.0", "vendor": "amd", "boot": true}],
        "composed": "{{ name }}.lab", "again": "{{ composed }}:{{ x }}", "number": "{{ x }}",
        "nested": {"path": "/srv/{{ name }}", "broken": "{{ missing_thing }}"},
    }))
    .with("result", Var::fixed(json!({"changed": true, "rc": 0, "stdout": "{{ name }}"})))
    .with("later", Var::Unknown("the package is not installed yet".into()))
}

/// Evaluates each expression and compares; the table shows all that differ.
fn table(rows: &[(&str, Value)]) {
    let templar = Templar::new();
    let mut wrong = Vec::new();
    for (expr, expected) in rows {
        match templar.evaluate(expr, &world()) {
            Ok(value) if value == *expected => {}
            other => wrong.push(format!("{expr}\n  is    {other:?}\n  wants {expected:?}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn error(expr: &str) -> String {
    match Templar::new().evaluate(expr, &world()) {
        Ok(value) => panic!("{expr} gives {value}"),
        Err(error) => format!("{error}{}", error.help().map(|help| format!(" [{help}]")).unwrap_or_default()),
    }
}

#[test]
fn literals_operators_and_precedence() {
    table(&[
        ("5", json!(5)),
        ("5.0", json!(5.0)),
        ("1e3", json!(1000.0)),
        ("0x1f", json!(31)),
        ("1_000", json!(1000)),
        ("'it''s'", json!("its")),
        (r"'\d+\n'", json!("\\d+\n")),
        (r"'\x41\u00e4'", json!("Aä")),
        ("[1, 'a', [2,],]", json!([1, "a", [2]])),
        ("{'a': 1, 'b': {'c': []}}", json!({"a": 1, "b": {"c": []}})),
        ("(1, 2)", json!([1, 2])),
        ("1, 2", json!([1, 2])),
        ("()", json!([])),
        ("True and not False", json!(true)),
        ("none", json!(null)),
        ("1 + 2 * 3", json!(7)),
        ("(1 + 2) * 3", json!(9)),
        ("7 / 2", json!(3.5)),
        ("6 / 2", json!(3.0)),
        ("7 // 2", json!(3)),
        ("-7 // 2", json!(-4)),
        ("7 // -2", json!(-4)),
        ("-7 // -2", json!(3)),
        ("-7 % 3", json!(2)),
        ("7 % -3", json!(-2)),
        ("2 ** 3 ** 2", json!(64)),
        ("2 ** -1", json!(0.5)),
        ("-2 | abs", json!(2)),
        ("- x", json!(-5)),
        ("'a' + 'b'", json!("ab")),
        ("[1] + [2]", json!([1, 2])),
        ("'ab' * 2", json!("abab")),
        ("'a' ~ 1 ~ true ~ none", json!("a1TrueNone")),
        ("'%s has %03d (%.1f%%)' % (name, x, pi)", json!("ws01 has 005 (3.5%)")),
        ("1 < 2 < 3", json!(true)),
        ("1 < 3 < 2", json!(false)),
        ("1 == 1.0 == true", json!(true)),
        ("'a' != 'b'", json!(true)),
        ("'1' == 1", json!(false)),
        ("[1, {'a': 1}] == [1.0, {'a': true}]", json!(true)),
        ("'a' in words", json!(false)),
        ("'b' in words", json!(true)),
        ("3 not in list", json!(false)),
        ("'s0' in name", json!(true)),
        ("'a' in map", json!(true)),
        ("not 'a' in map", json!(false)),
        ("x or 7", json!(5)),
        ("empty or 'fallback'", json!("fallback")),
        ("x and name", json!("ws01")),
        ("no and undefined_thing", json!(false)),
        ("1 if yes else 2", json!(1)),
        ("1 if no else 2 if no else 3", json!(3)),
        ("('a' if no) | default('none of it')", json!("none of it")),
        ("not not yes", json!(true)),
        ("yes is true and x is number", json!(true)),
        ("x + list | length", json!(8)),
    ]);
}

#[test]
fn paths_slices_and_methods() {
    table(&[
        ("map.b.c[1]", json!(20)),
        ("map['b']['c'][-1]", json!(20)),
        ("map.b.c.0", json!(10)),
        ("name[0]", json!("w")),
        ("name[-1]", json!("1")),
        ("name[1:]", json!("s01")),
        ("name[:-2]", json!("ws")),
        ("name[::-1]", json!("10sw")),
        ("list[1:]", json!([1, 2])),
        ("list[::2]", json!([3, 2])),
        ("list[5:]", json!([])),
        ("'a,b'.split(',')", json!(["a", "b"])),
        ("' a  b '.split()", json!(["a", "b"])),
        ("'a:b:c'.split(':', 1)", json!(["a", "b:c"])),
        ("'a:b:c'.rsplit(':', 1)[0]", json!("a:b")),
        ("' a '.strip()", json!("a")),
        ("'xxaxx'.strip('x')", json!("a")),
        ("name.startswith('ws')", json!(true)),
        ("name.endswith(('02', '01'))", json!(true)),
        ("name.upper()", json!("WS01")),
        ("name.replace('ws', 'host')", json!("host01")),
        ("map.items()", json!([["a", 1], ["b", {"c": [10, 20]}]])),
        ("map.keys() | list", json!(["a", "b"])),
        ("map.get('a')", json!(1)),
        ("map.get('z', 9)", json!(9)),
        ("map.get('z')", json!(null)),
        ("','.join(words)", json!("b,A,c")),
        ("'7'.zfill(3)", json!("007")),
        ("nested.path", json!("/srv/ws01")),
        ("nested['path'][:4]", json!("/srv")),
        ("vars['name']", json!("ws01")),
        ("vars['na' ~ 'me']", json!("ws01")),
        ("composed", json!("ws01.lab")),
        ("again", json!("ws01.lab:5")),
        ("number + 1", json!(6)),
        ("range(3)", json!([0, 1, 2])),
        ("range(5, 0, -2) | list", json!([5, 3, 1])),
        ("dict(a=1, b=2)", json!({"a": 1, "b": 2})),
    ]);
}

#[test]
fn filters_of_text() {
    table(&[
        ("'a b' | upper", json!("A B")),
        ("'hello big-world' | title", json!("Hello Big-World")),
        ("'hELLO' | capitalize", json!("Hello")),
        ("'  x ' | trim", json!("x")),
        ("'aXbX' | replace('X', '-')", json!("a-b-")),
        ("'a/b/c.tar.gz' | basename", json!("c.tar.gz")),
        ("'a/b/c' | dirname", json!("a/b")),
        ("'/c' | dirname", json!("/")),
        ("'c' | dirname", json!("")),
        ("'a.b/c.tar.gz' | splitext", json!(["a.b/c.tar", ".gz"])),
        ("'.bashrc' | splitext", json!([".bashrc", ""])),
        ("['/etc', 'a', 'b.conf'] | path_join", json!("/etc/a/b.conf")),
        ("['/etc', '/a'] | path_join", json!("/a")),
        ("'foo=1, bar=22' | regex_search('bar=(\\\\d+)')", json!("bar=22")),
        ("'foo=1, bar=22' | regex_search('bar=(\\d+)', '\\\\1')", json!(["22"])),
        ("'foo=1' | regex_search('(?P<k>\\w+)=', '\\\\g<k>')", json!(["foo"])),
        ("'foo' | regex_search('x')", json!(null)),
        ("'a1b22' | regex_findall('\\d+')", json!(["1", "22"])),
        ("'a1b22' | regex_findall('([a-z])(\\d+)')", json!([["a", "1"], ["b", "22"]])),
        ("'ansible' | regex_replace('^a(.*)le$', 'A\\\\1LE')", json!("AnsibLE")),
        ("'aaa' | regex_replace('a', 'b', count=2)", json!("bba")),
        ("'foobar' | regex_replace('(?<=foo)bar', '!')", json!("foo!")),
        ("'foo' | regex_replace('.*', 'X')", json!("XX")),
        ("'abxd' | regex_replace('x*', '-')", json!("-a-b--d-")),
        ("'Ab' | regex_replace('a', 'x', ignorecase=true)", json!("xb")),
        ("'a.b*c' | regex_escape", json!("a\\.b\\*c")),
        ("'a b' | quote", json!("'a b'")),
        ("\"it's\" | quote", json!("'it'\"'\"'s'")),
        ("'plain-1' | quote", json!("plain-1")),
        ("'' | quote", json!("''")),
        ("'<a href=\"x\">' | e", json!("&lt;a href=&#34;x&#34;&gt;")),
        ("'hi' | b64encode", json!("aGk=")),
        ("'aGk=' | b64decode", json!("hi")),
        ("'test' | hash('sha256')", json!("9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08")),
        ("'a\nb' | indent(2)", json!("a\n  b")),
        ("'a\n\nb' | indent(2, true)", json!("  a\n\n  b")),
        ("'one two  three' | wordcount", json!(3)),
        ("'a,b' | split(',')", json!(["a", "b"])),
        ("'a b' | split", json!(["a", "b"])),
        ("'text' | comment", json!("#\n# text\n#")),
        ("'a\n\nb' | comment('c')", json!("//\n// a\n//\n// b\n//")),
        ("'%s-%d' | format('a', 3)", json!("a-3")),
        ("'foo bar baz' | truncate(9, true, '...', 0)", json!("foo ba...")),
        ("'a b&c' | urlencode", json!("a%20b%26c")),
        ("'ab' | reverse", json!("ba")),
    ]);
}

#[test]
fn filters_of_lists() {
    table(&[
        ("list | sort", json!([1, 2, 3])),
        ("list | sort(reverse=true)", json!([3, 2, 1])),
        ("words | sort", json!(["A", "b", "c"])),
        ("gpus | sort(attribute='id') | map(attribute='id') | join(', ')", json!("03:00.0, 82:00.0")),
        ("gpus | selectattr('vendor', 'equalto', 'nvidia') | map(attribute='id') | list", json!(["82:00.0"])),
        ("gpus | selectattr('boot') | map(attribute='id')", json!(["03:00.0"])),
        ("gpus | rejectattr('boot') | map(attribute='vendor') | first", json!("nvidia")),
        ("gpus | selectattr('driver', 'defined') | list", json!([])),
        ("words | map('upper') | list", json!(["B", "A", "C"])),
        ("words | map('regex_replace', '^', 'x-')", json!(["x-b", "x-A", "x-c"])),
        ("words | select('match', '[a-c]')", json!(["b", "c"])),
        ("list | reject('odd')", json!([2])),
        ("list | select('gt', 1) | list", json!([3, 2])),
        ("list | sum", json!(6)),
        ("list | min", json!(1)),
        ("list | max", json!(3)),
        ("gpus | map(attribute='nope', default='-') | list", json!(["-", "-"])),
        ("[1, 1, 'a', 'A', 1.0] | unique", json!([1, "a"])),
        ("['a', 'A'] | unique(true)", json!(["a", "A"])),
        ("[1, 2] | union([2, 3])", json!([1, 2, 3])),
        ("[1, 2, 2] | intersect([2, 3])", json!([2])),
        ("[1, 2, 3] | difference([2])", json!([1, 3])),
        ("[1, 2] | symmetric_difference([2, 3])", json!([1, 3])),
        ("[1, [2, [3, none]]] | flatten", json!([1, 2, 3])),
        ("[1, [2, [3]]] | flatten(1)", json!([1, 2, [3]])),
        ("[] | first | default('none')", json!("none")),
        ("list | last", json!(2)),
        ("list | length", json!(3)),
        ("'äb' | count", json!(2)),
        ("'abc' | list", json!(["a", "b", "c"])),
        ("map | list", json!(["a", "b"])),
        ("[1, 2] | zip(['a', 'b', 'c']) | list", json!([[1, "a"], [2, "b"]])),
        ("[1] | zip_longest([2, 3], fillvalue='-')", json!([[1, 2], ["-", 3]])),
        ("[1, 2] | product(['a', 'b'])", json!([[1, "a"], [1, "b"], [2, "a"], [2, "b"]])),
        ("[1, 2, 3] | batch(2, 0) | list", json!([[1, 2], [3, 0]])),
        ("[1, 2, 3] | slice(2) | list", json!([[1, 2], [3]])),
        ("gpus | groupby('vendor') | map('first')", json!(["amd", "nvidia"])),
        ("['a', 'b'] | map('extract', {'a': 1, 'b': 2})", json!([1, 2])),
        ("'b' | extract(map, 'c')", json!([10, 20])),
        ("{'b': 1, 'a': 2} | dictsort", json!([["a", 2], ["b", 1]])),
        ("[{'n': 'a', 'k': [1, 2]}] | subelements('k') | map('last')", json!([1, 2])),
        ("(100 | random(seed='ws01')) == (100 | random(seed='ws01'))", json!(true)),
        ("['a', none] | join('-')", json!("a-None")),
    ]);
}

#[test]
fn filters_of_types_and_shapes() {
    table(&[
        ("'42' | int", json!(42)),
        ("'4.9' | int", json!(4)),
        ("'x' | int", json!(0)),
        ("'x' | int(-1)", json!(-1)),
        ("'ff' | int(base=16)", json!(255)),
        ("'0x1f' | int(0, 16)", json!(31)),
        ("'1.5' | float", json!(1.5)),
        ("'2' | float", json!(2.0)),
        ("'yes' | bool", json!(true)),
        ("'off' | bool", json!(false)),
        ("1 | bool", json!(true)),
        ("5 | string", json!("5")),
        ("true | string", json!("True")),
        ("[1, 'a', none, 1.0] | string", json!("[1, 'a', None, 1.0]")),
        ("undefined_thing | default('d')", json!("d")),
        ("undefined_thing.deep['er'] | d('d')", json!("d")),
        ("map.nope | default(map.a)", json!(1)),
        ("empty | default('d')", json!("")),
        ("empty | default('d', true)", json!("d")),
        ("x | default(undefined_thing)", json!(5)),
        ("undefined_thing | default(other_thing) | default(3)", json!(3)),
        ("yes | ternary('a', undefined_thing)", json!("a")),
        ("no | ternary('a', 'b')", json!("b")),
        ("none | ternary('a', 'b', 'c')", json!("c")),
        ("x | mandatory", json!(5)),
        ("{'a': 1} | combine({'b': 2}, {'a': 3})", json!({"a": 3, "b": 2})),
        ("{'a': {'x': 1}} | combine({'a': {'y': 2}}, recursive=true)", json!({"a": {"x": 1, "y": 2}})),
        ("{'a': {'x': 1}} | combine({'a': {'y': 2}})", json!({"a": {"y": 2}})),
        ("{'a': [1, 2]} | combine({'a': [2, 3]}, list_merge='append_rp')", json!({"a": [1, 2, 3]})),
        ("{'a': 1} | dict2items", json!([{"key": "a", "value": 1}])),
        ("[{'key': 'a', 'value': 1}] | items2dict", json!({"a": 1})),
        ("[{'n': 'a', 'v': 1}] | items2dict(key_name='n', value_name='v')", json!({"a": 1})),
        ("{'b': 1, 'a': [true, none]} | to_json", json!("{\"b\": 1, \"a\": [true, null]}")),
        ("'ä' | to_json", json!("\"\\u00e4\"")),
        ("{'b': 1, 'a': []} | to_nice_json", json!("{\n    \"a\": [],\n    \"b\": 1\n}")),
        ("'{\"a\": [1, 2.5]}' | from_json", json!({"a": [1, 2.5]})),
        ("'a: [1, x]' | from_yaml", json!({"a": [1, "x"]})),
        ("{'b': 1, 'a': [1, 'yes']} | to_yaml", json!("a: [1, 'yes']\nb: 1\n")),
        (
            "{'b': {'c': 'x: y'}, 'a': [1, {'d': ''}]} | to_nice_yaml(indent=2)",
            json!("a:\n- 1\n- d: ''\nb:\n  c: 'x: y'\n"),
        ),
        ("2.71999 | round(1)", json!(2.7)),
        ("2.5 | round", json!(2.0)),
        ("5 | round(1)", json!(5)),
        ("none | upper", json!("NONE")),
        ("none | map('upper')", json!([])),
        ("'h: x\n' | to_yaml", json!("'h: x\n\n  '\n")),
        ("['10:20', 'a,b', 'n', 5] | to_yaml", json!("['10:20', 'a,b', n, 5]\n")),
        ("{'a': [1, {'b': [2, [3]]}]} | to_nice_yaml", json!("a:\n- 1\n-   b:\n    - 2\n    -   - 3\n")),
        ("42.1 | round(0, 'ceil') | int", json!(43)),
        ("2 | pow(3)", json!(8.0)),
        ("100 | log(10)", json!(2.0)),
        ("9 | root", json!(3.0)),
        ("-3.5 | abs", json!(3.5)),
        ("1048576 | human_readable", json!("1.00 MB")),
        ("'10M' | human_to_bytes", json!(10_485_760)),
        ("'1.5 GB' | human_to_bytes", json!(1_610_612_736)),
        ("x | type_debug", json!("int")),
        ("x | ansible.builtin.string", json!("5")),
    ]);
}

#[test]
fn tests_of_values() {
    table(&[
        ("x is defined", json!(true)),
        ("undefined_thing is defined", json!(false)),
        ("undefined_thing is not defined", json!(true)),
        ("map.b.nope is undefined", json!(true)),
        ("undefined_thing.deep.er is defined", json!(false)),
        ("later is defined", json!(true)),
        ("nothing is none", json!(true)),
        ("name is string and x is number and map is mapping", json!(true)),
        ("name is iterable and list is sequence", json!(true)),
        ("yes is boolean and x is not boolean", json!(true)),
        ("x is integer and pi is float", json!(true)),
        ("'ws01' is match('ws')", json!(true)),
        ("'xws01' is match('ws')", json!(false)),
        ("'xws01' is search('ws')", json!(true)),
        ("'WS01' is search('ws', ignorecase=true)", json!(true)),
        ("'ws01' is regex('ws\\d+$')", json!(true)),
        ("x is in [5, 6]", json!(true)),
        ("'7.9' is version('7.10', '<')", json!(true)),
        ("'7.2' is version('7.2', '>=')", json!(true)),
        ("'4.18.0-553.el8' is version('5.4', 'lt')", json!(true)),
        ("[1] is subset([1, 2]) and [1, 2] is superset([2])", json!(true)),
        ("4 is even and 3 is odd and 9 is divisibleby 3", json!(true)),
        ("yes is sameas true and 1 is not sameas true", json!(true)),
        ("x is eq 5 and x is gt(4) and x is lt 6", json!(true)),
        ("result is changed and result is succeeded and result is not failed", json!(true)),
        ("result is skipped", json!(false)),
        ("[1, 0] is any and not [1, 0] is all", json!(true)),
        ("list is contains 3", json!(true)),
        ("'off' is falsy(convert_bool=true)", json!(true)),
        ("1 if undefined_thing is defined else 2", json!(2)),
    ]);
}

#[test]
fn a_text_of_one_template_keeps_its_type() {
    let templar = Templar::new();
    let rows = [
        ("{{ 5 }}", json!(5)),
        ("{{ x }}", json!(5)),
        ("{{ pi }}", json!(3.5)),
        ("{{ yes }}", json!(true)),
        ("{{ nothing }}", json!(null)),
        ("{{ list }}", json!([3, 1, 2])),
        ("{{ '5' }}", json!("5")),
        ("{{ '5' | int }}", json!(5)),
        ("{{ {'a': {'b': 1}} }}", json!({"a": {"b": 1}})),
        ("{{ '}}' }}", json!("}}")),
        ("{{ x }}{{ x }}", json!("55")),
        ("v{{ x }}", json!("v5")),
        ("{{ x }}\n", json!("5\n")),
        ("{{ list }}\n", json!([3, 1, 2])),
        ("is {{ yes }}, {{ nothing }}, {{ list }}, {{ words }}", json!("is True, , [3, 1, 2], ['b', 'A', 'c']")),
        ("no template", json!("no template")),
        ("{# note #}{{ x }}", json!(5)),
        ("{% if yes %}{{ x }}{% endif %}", json!(5)),
        ("{% if yes %}\n{{ list }}\n{% endif %}", json!([3, 1, 2])),
        ("{% if yes %}{{ x }}{{ empty }}{% endif %}", json!("5")),
        ("{% if yes %}a{{ x }}{% endif %}", json!("a5")),
        ("{% set y %}{{ x }}{% endset %}5", json!("5")),
        ("{% if yes %}a\n{% endif %}\n", json!("a\n")),
        (r"{{ '\d+\n' }}", json!("\\d+\\n")),
        (r"{{ 'ansible' | regex_replace('^a(.*)le$', 'A\1LE') }}", json!("AnsibLE")),
        (r"{{ 'foo=1' | regex_search('(?P<k>\w+)=', '\g<k>') }}", json!(["foo"])),
        (r"{% set a = 'b\tc' %}{{ a }}", json!("b\tc")),
        ("{% raw %}{{ x }}{% endraw %}", json!("{{ x }}")),
    ];
    for (text, expected) in rows {
        assert_eq!(templar.render(text, &world()), Ok(expected), "{text}");
    }
}

#[test]
fn documents() {
    let rows = [
        ("{% for w in words %}{{ loop.index }}{{ w }}{% if not loop.last %},{% endif %}{% endfor %}", "1b,2A,3c"),
        ("{% for k, v in map.items() %}{{ k }};{% endfor %}", "a;b;"),
        ("{% for k in map %}{{ k }}{% endfor %}", "ab"),
        ("{% for g in gpus if not g.boot %}{{ g.id }} {{ loop.length }}{% endfor %}", "82:00.0 1"),
        ("{% for a in [] %}x{% else %}none{% endfor %}", "none"),
        (
            "{% for a in [1,2] %}{% for b in [3,4] %}{{ a }}{{ b }}{{ loop.first }} {% endfor %}{% endfor %}",
            "13True 14False 23True 24False ",
        ),
        ("{% set y = x + 1 %}{{ y }}{% set y = [y] %}{{ y }}", "6[6]"),
        ("{% set y %}a{{ x }}{% endset %}[{{ y }}]", "[a5]"),
        ("{% if x > 5 %}a{% elif x == 5 %}b{% else %}c{% endif %}", "b"),
        ("a\n{% if yes %}\nb\n{% endif %}\nc\n", "a\nb\nc\n"),
        ("a  {%- if yes -%}  b  {%- endif %}  c", "ab  c"),
        ("  {% if yes %}\nx\n  {% endif %}\n", "  x\n  \n"),
        ("#jinja2: lstrip_blocks: True\n  {% if yes %}\nx\n  {% endif %}\n", "x\n"),
        ("#jinja2: trim_blocks: False\n{% if yes %}\nx{% endif %}\n", "\nx\n"),
        ("{{ x }}\n\n", "5\n\n"),
        ("a {# {{ nope }} #}\nb", "a b"),
        ("{% raw %}\n{% if %} {{ }}\n{% endraw %}\nz", "\n{% if %} {{ }}\nz"),
        ("{ {{ x }} } {{ '{{' }} {%+ if yes +%}\n!{% endif %}", "{ 5 } {{ \n!"),
        ("<b>{{ '<&>' }}</b>{% if yes %}{{ '<' }}{% endif %}", "<b><&></b><"),
        ("{% for true_name in [1] %}{{ true_name }}{% endfor %}{% set loop2 = 2 %}{{ loop2 }}", "12"),
        ("{% for x in [1] %}{{ x }}{{ number }}{% endfor %}{{ x }}", "155"),
        ("{{ again }}{% if again is search('lab') %}!{% endif %}", "ws01.lab:5!"),
        ("{% for n in ['name'] %}{{ vars[n] }}{{ lookup('vars', n) }}{% endfor %}", "ws01ws01"),
    ];
    let templar = Templar::new();
    for (text, expected) in rows {
        let got = templar.render_file(text, &world());
        assert_eq!(got, Ok(expected.to_string()), "{text}");
    }
}

#[test]
fn errors_name_what_is_wrong() {
    let rows = [
        ("nmae", "`nmae` is undefined [did you mean `name`?]"),
        ("map.bb.c", "`map.bb` is undefined [did you mean `map.b`?]"),
        ("gpus[0]['vendr']", "`gpus[0]['vendr']` is undefined [did you mean `gpus[0]['vendor']`?]"),
        ("list[7]", "`list[7]` is undefined"),
        ("nested.broken", "in the variable `nested.broken`: `missing_thing` is undefined"),
        ("x | uper", "there is no filter `uper` [did you mean `upper`?]"),
        ("x is defned", "there is no test `defned` [did you mean `defined`?]"),
        ("rnge(3)", "there is no function `rnge` [did you mean `range`?]"),
        ("name.strp()", "there is no method `strp` [did you mean `strip`?]"),
        ("map | json_query('x')", "there is no filter `json_query`"),
        ("x = 5", "`=` sets nothing in an expression [to compare, write `==`]"),
        ("x ==", "a value was expected, it ends here"),
        ("(x", "this `(` is never closed"),
        ("x)", "this `)` closes nothing"),
        ("'abc", "this string has no closing '"),
        ("x $ y", "`$` has no meaning in an expression"),
        ("name + 1", "text ('ws01') and a number (1) can't be added; to join them as text write `~`"),
        ("1 < 'a'", "a number (1) and text ('a') can't be ordered"),
        ("1 / 0", "division by zero"),
        ("10 ** 100", "the result is too large a number"),
        ("'a' * 99999999", "the text would be longer than 16 MiB"),
        ("range(99999999)", "the list would have more than 1048576 items"),
        ("list | indent", "`indent` needs text, not a list ([3, 1, 2])"),
        ("('9' * 30) | int", "the result is too large a number"),
        ("words | join(',', foo=1)", "`join` has no parameter `foo`"),
        ("words | join(1, 2, 3)", "`join` takes at most 2 values, 3 are given"),
        ("3 | random", "`random` needs `seed=`, so that a plan and the apply after it are the same"),
        ("lookup('pipe', 'ls')", "the lookup `pipe` is not supported"),
        ("'x' | hash('md5')", "the hash `md5` is not supported; known are sha224, sha256, sha384, sha512"),
        ("later", "unknown until applied: the package is not installed yet"),
        ("later.stdout is defined", "unknown until applied: the package is not installed yet"),
        ("zzzz(1)", "there is no function `zzzz`"),
        ("x[0](1)", "only functions and methods can be called"),
        ("", "a value was expected, it ends here"),
        (
            "text {{ x }}",
            "this is an expression, where variables stand without `{{ }}` [leave the braces out: `when: x == 1`, and join texts with `~`]",
        ),
    ];
    for (expr, expected) in rows {
        assert_eq!(error(expr), expected, "{expr}");
    }
}

#[test]
fn broken_documents_name_what_is_wrong() {
    let rows = [
        ("{{ x", "this `{{` has no `}}`"),
        ("{{# #}{ x", "`#` has no meaning in an expression"),
        ("{% if x", "this `{%` has no `%}`"),
        ("{# x", "this `{#` has no `#}`"),
        ("{% raw %}", "this `{% raw %}` has no `{% endraw %}`"),
        ("{% if x %}", "this `if` has no `endif`"),
        ("{% endfor %}", "`endfor` closes nothing"),
        ("{% if x %}{% for a in list %}{% endif %}", "`endif` stands where this `for` is still open"),
        ("{% else %}", "`else` belongs to no `if`"),
        ("{% iff x %}", "there is no tag `iff`"),
        ("{% include 'a' %}", "the tag `include` is not supported"),
        ("{% macro f() %}", "the tag `macro` is not supported"),
        ("{% set a.b = 1 %}", "only a plain name can be set, not a part of a value"),
        ("{% for a, b in list %}{% endfor %}", "the loop has 2 names, an item is a number (3)"),
        ("{% for a in x %}{% endfor %}", "a list is needed here, not a number (5)"),
        ("{% for a in [1] %}{{ loop.cycle }}{% endfor %}", "`loop.cycle` is undefined"),
        ("{% if nmae %}{% endif %}", "`nmae` is undefined"),
        (
            "#jinja2: variable_start_string: '[%'\n",
            "`variable_start_string: '[%'` is not supported in a `#jinja2:` line",
        ),
    ];
    for (text, expected) in rows {
        let error = Templar::new().render_file(text, &world());
        assert_eq!(error.map_err(|e| e.to_string()), Err(expected.to_string()), "{text}");
    }
}

#[test]
fn errors_point_into_the_source() {
    let source = crate::diag::Source::new("site.yml", "- copy:\n    content: \"a {{ nmae }}\"\n");
    let start = source.text.find('"').unwrap_or(0);
    let span = crate::diag::Span::new(&source, start, source.text.len() - 1);
    let text = "a {{ nmae }}";
    let error = Templar::new().render(text, &world()).expect_err("undefined");
    let shown = error.diagnostic(text, &span).to_string();
    assert!(shown.contains("site.yml:2:20"), "{shown}");
    assert!(shown.contains("did you mean `name`?"), "{shown}");
    let text = "{{ nothing | default(nmae, true) }}";
    let error = Templar::new().render(text, &world()).expect_err("undefined");
    assert_eq!(error.offset().and_then(|range| text.get(range)), Some("nmae"));
    let document = "x\n{% if yes %}\n{{ nmae }}{% endif %}";
    let error = Templar::new().render(document, &world()).expect_err("undefined");
    assert_eq!(error.offset().and_then(|range| document.get(range)), Some("nmae"));
    assert_eq!(error.help().as_deref(), Some("did you mean `name`?"));
}

#[test]
fn what_a_machine_says_is_never_a_template() {
    let evil = "{{ lookup('env', 'HOME') }}{% if yes %}x{% endif %}";
    let scope = world()
        .with("out", Var::fixed(json!({"stdout": evil, "lines": [evil], evil: 1})))
        .with("copy", Var::template("{{ out.stdout }}"))
        .with("deep", Var::template(json!({"a": ["{{ out.lines[0] }}"]})));
    let templar = Templar::new();
    let same = |text: &str| templar.render(text, &scope).expect(text);
    assert_eq!(same("{{ out.stdout }}"), json!(evil));
    assert_eq!(same("{{ copy }}"), json!(evil));
    assert_eq!(same("[{{ copy }}]"), json!(format!("[{evil}]")));
    assert_eq!(same("{{ deep.a }}"), json!([evil]));
    assert_eq!(same("{{ [copy] | first }}"), json!(evil));
    assert_eq!(same("{% for l in out.lines %}{{ l }}{% endfor %}"), json!(evil));
    assert_eq!(
        same("{% set l = copy %}{{ l }}{{ l | upper | lower | length }}"),
        json!(format!("{evil}{}", evil.len()))
    );
    assert_eq!(same("{{ lookup('vars', 'copy') }}"), json!(evil));
    assert_eq!(templar.evaluate("out", &scope).expect("out")["stdout"], json!(evil));
    assert_eq!(templar.condition("copy == out.stdout", &scope), Ok(true));
}

#[test]
fn only_what_is_used_is_rendered_and_circles_are_found() {
    let scope = templates(json!({
        "cfg": {"ok": "{{ cfg.base }}/x", "base": "/srv", "bad": "{{ nowhere }}"},
        "a": "{{ b }}", "b": "{{ c.d }}", "c": {"d": "{{ a }}"},
        "safe": "{{ 1 if true else a }}", "self": "{{ self }}",
    }));
    let templar = Templar::new();
    assert_eq!(templar.evaluate("cfg.ok", &scope), Ok(json!("/srv/x")));
    assert_eq!(templar.evaluate("cfg.bad", &scope).expect_err("bad").undefined(), Some("nowhere"));
    assert_eq!(templar.evaluate("safe", &scope), Ok(json!(1)));
    assert_eq!(templar.render("{% if safe %}{{ cfg.ok }}{% endif %}", &scope), Ok(json!("/srv/x")));
    let error = templar.evaluate("a", &scope).expect_err("a circle");
    assert_eq!(error.to_string(), "variables are made of each other: a -> b -> c.d -> a");
    let error = templar.render("{% if true %}{{ self }}{% endif %}", &scope).expect_err("a circle");
    assert_eq!(error.to_string(), "variables are made of each other: self -> self");
}

#[test]
fn variables_that_multiply_do_not_hang() {
    let mut scope = Vars::default().with("v0", Var::template("x{{ 1 }}"));
    for at in 1..40 {
        let before = format!("{{{{ v{} }}}}", at - 1);
        scope = scope.with(&format!("v{at}"), Var::template(before.repeat(10)));
    }
    let error = Templar::new().evaluate("v30", &scope).expect_err("too much");
    assert!(matches!(error.root(), TemplateError::Failed { .. }), "{error}");
    let text = "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}";
    let error = Templar::new().render(text, &scope).expect_err("too much");
    assert!(error.to_string().contains("too much work"), "{error}");
}

#[test]
fn the_other_hosts_variables_are_rendered_in_their_scope() {
    struct Hosts;
    impl Scopes for Hosts {
        fn get(&self, name: &str) -> Option<Arc<dyn Lookup + Send + Sync>> {
            let vars = templates(
                json!({"inventory_hostname": name, "fqdn": "{{ inventory_hostname }}.lab", "bad": "{{ no }}"}),
            );
            ["a", "b"].contains(&name).then(|| Arc::new(vars) as Arc<dyn Lookup + Send + Sync>)
        }
        fn names(&self) -> Vec<String> {
            vec!["a".into(), "b".into()]
        }
    }
    let scope = world().with("inventory_hostname", Var::fixed("me")).with("hostvars", Var::Scopes(Arc::new(Hosts)));
    let templar = Templar::new();
    assert_eq!(templar.evaluate("hostvars['a'].fqdn", &scope), Ok(json!("a.lab")));
    assert_eq!(templar.evaluate("hostvars.b['fqdn'][0]", &scope), Ok(json!("b")));
    assert_eq!(templar.evaluate("hostvars['a'].get('zz', 1)", &scope), Ok(json!(1)));
    assert_eq!(templar.evaluate("hostvars['c'] is defined", &scope), Ok(json!(false)));
    let all = "{% for h in ['a', 'b'] %}{{ hostvars[h].fqdn }} {% endfor %}";
    assert_eq!(templar.render(all, &scope), Ok(json!("a.lab b.lab ")));
    let error = templar.evaluate("hostvars['a'].fqnd", &scope).expect_err("undefined");
    assert_eq!(error.to_string(), "`hostvars['a'].fqnd` is undefined");
    assert_eq!(error.help().as_deref(), Some("did you mean `hostvars['a'].fqdn`?"));
}

#[test]
fn conditions() {
    let templar = Templar::new();
    let scope = world().with("off", Var::fixed("false"));
    for (expr, expected) in [
        ("x == 5", true),
        ("nothing", false),
        ("empty", false),
        ("list", true),
        ("0", false),
        ("name", true),
        ("{{ x == 5 }}", true),
        ("off | bool", false),
        ("'{{' in name", false),
    ] {
        assert_eq!(templar.condition(expr, &scope), Ok(expected), "{expr}");
    }
    let error = templar.condition("off", &scope).expect_err("a trap");
    assert_eq!(error.help().as_deref(), Some("write `… | bool` to read the text as a boolean"));
}

#[test]
fn lookups_on_the_controller() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("key.pub"), "ssh-ed25519 AAAA\n{{ x }}\n").expect("a file");
    let mut scope = world();
    scope.1 = vec![folder.path().to_path_buf()];
    let templar = Templar::new();
    assert_eq!(templar.evaluate("lookup('file', 'key.pub')", &scope), Ok(json!("ssh-ed25519 AAAA\n{{ x }}")));
    assert_eq!(templar.evaluate("lookup('template', 'key.pub')", &scope), Ok(json!("ssh-ed25519 AAAA\n5\n")));
    assert_eq!(templar.evaluate("query('file', 'key.pub') | length", &scope), Ok(json!(1)));
    assert_eq!(templar.evaluate("lookup('env', 'NO_SUCH_VARIABLE_HERE')", &scope), Ok(json!("")));
    assert_eq!(templar.evaluate("lookup('vars', 'nope', default=1)", &scope), Ok(json!(1)));
    let error = templar.evaluate("lookup('file', 'nope')", &scope).expect_err("no file").to_string();
    assert!(error.starts_with("there is no file `nope` (looked for: "), "{error}");
}

#[test]
fn free_variables_are_the_ones_that_must_exist() {
    let templar = Templar::new();
    let needed = |all: Vec<Used>| -> Vec<String> { all.into_iter().filter(|u| u.needed).map(|u| u.name).collect() };
    let rows = [
        ("{{ a.b[c] | default('x') }}", vec!["c"]),
        ("{{ a }} {{ b | upper }}", vec!["a", "b"]),
        ("{{ a is defined and a.b }}", vec![]),
        ("{{ a and b }}", vec!["a"]),
        ("{{ b if a else c }}", vec!["a"]),
        ("{% for i in a %}{{ i }}{{ loop.index }}{{ b }}{% endfor %}", vec!["a"]),
        ("{% set s = a %}{{ s }}", vec!["a"]),
        ("{% if a is defined %}{{ b }}{% endif %}{{ a }}", vec![]),
        ("{{ lookup('file', a) }}", vec!["a"]),
        ("plain", vec![]),
    ];
    for (text, expected) in rows {
        assert_eq!(needed(templar.free_variables(text).expect(text)), expected, "{text}");
    }
    let used = templar.free_variables_of_expression("1 + abc").expect("an expression");
    assert_eq!(used, [Used { name: "abc".into(), range: 4..7, needed: true }]);
}

#[test]
fn threads_share_what_is_compiled() {
    let templar = Templar::new();
    std::thread::scope(|threads| {
        for at in 0..4 {
            let templar = templar.clone();
            threads.spawn(move || {
                let scope = Vars::default().with("n", Var::fixed(at));
                for _ in 0..50 {
                    assert_eq!(templar.render("{{ n + 1 }}", &scope), Ok(json!(at + 1)));
                    let text = "{% for i in range(n) %}-{{ i }}{% endfor %}";
                    let expected: String = (0..at).map(|i| format!("-{i}")).collect();
                    assert_eq!(templar.render(text, &scope), Ok(json!(expected)));
                }
            });
        }
    });
    assert_eq!(templar.shelf.texts.read().map(|shelf| shelf.len()).ok(), Some(2));
}

/// Pieces that templates are made of, so that random ones get far.
fn pieces() -> impl Strategy<Value = String> {
    let words = [
        "{{",
        "}}",
        "{%",
        "%}",
        "{#",
        "#}",
        "-",
        " ",
        "x",
        "list",
        "map",
        "name",
        ".",
        "a",
        "[",
        "]",
        "(",
        ")",
        "'",
        "\"",
        "'s'",
        "|",
        "default",
        "upper",
        "join",
        "map",
        "select",
        "sort",
        "regex_search",
        "is",
        "defined",
        "not",
        "and",
        "or",
        "in",
        "if",
        "else",
        "endif",
        "for",
        "endfor",
        "set",
        "endset",
        "raw",
        "endraw",
        "=",
        "==",
        "<",
        "~",
        "+",
        "*",
        "**",
        "//",
        "%",
        "1",
        "0",
        "-1",
        "2.5",
        "99999999999",
        ",",
        ":",
        "{",
        "}",
        "range",
        "lookup",
        "loop",
        "index",
        "\\",
        "\n",
        "é",
        "true",
        "none",
        "split",
        "format",
        "to_yaml",
        "indent",
        "batch",
        "int",
        "elif",
        "recursive",
        "nested",
        "again",
        "later",
    ];
    proptest::collection::vec(proptest::sample::select(words.to_vec()), 0..30).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in pieces()) {
        let templar = Templar::new();
        let _ = templar.render(&text, &world()).map_err(|e| e.to_string());
        let _ = templar.evaluate(&text, &world()).map_err(|e| e.to_string());
        let _ = templar.free_variables(&text);
        if let Err(error) = templar.render(&text, &world()) && let Some(range) = error.offset() {
            prop_assert!(text.get(range.clone()).is_some(), "{range:?} in {text:?}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic(text in "\\PC{0,60}", expr in "[ -~\n]{0,60}") {
        let templar = Templar::new();
        let _ = templar.render(&text, &world());
        let _ = templar.evaluate(&expr, &world());
        let _ = templar.render(&format!("{{{{ {expr} }}}}"), &world());
        let _ = templar.render_file(&format!("{{% if {expr} %}}{text}{{% endif %}}"), &world());
    }

    #[test]
    fn every_filter_takes_anything(name in proptest::sample::select(filters::NAMES.to_vec()),
                                   input in proptest::sample::select(vec!["x", "name", "list", "map", "gpus", "nothing", "pi", "'1,2'", "-1"]),
                                   args in proptest::sample::select(vec!["", "(1)", "('a')", "('a', 'b')", "(-1, 3)", "(list)", "(map)", "(99999999)", "('(')", "(none)", "('upper')", "(0)"])) {
        let _ = Templar::new().evaluate(&format!("{input} | {name}{args}"), &world());
        let _ = Templar::new().evaluate(&format!("{input}.{name}{args}"), &world());
    }

    #[test]
    fn text_without_marks_stays_as_it_is(text in "[^{]{0,80}") {
        let templar = Templar::new();
        prop_assert_eq!(templar.render(&text, &world()), Ok(Value::String(text.clone())));
        let with = format!("{text}{{{{ x }}}}{text}");
        if !text.trim().is_empty() {
            prop_assert_eq!(templar.render(&with, &world()), Ok(Value::String(format!("{text}5{text}"))));
        }
    }

    #[test]
    fn json_and_yaml_read_what_they_wrote(text in "\\PC{0,20}", number in any::<i64>(), list in proptest::collection::vec("[ -~]{0,12}", 0..4)) {
        let value = json!({"text": text, "number": number, "list": list, "deep": {"a": [[], {}, null, true, 0.5]}});
        let scope = Vars::default().with("v", Var::fixed(value.clone()));
        for filter in ["to_json | from_json", "to_nice_json | from_json", "to_yaml | from_yaml", "to_nice_yaml | from_yaml"] {
            prop_assert_eq!(Templar::new().evaluate(&format!("v | {filter}"), &scope), Ok(value.clone()), "{}", filter);
        }
    }
}

#[test]
fn deep_nesting_is_an_error_not_a_crash() {
    for (open, close) in
        [("(", ")"), ("[", "]"), ("{'a':", "}"), ("-", ""), ("not ", ""), ("x if yes else ", ""), ("a|d(", ")")]
    {
        let text = format!("{}1{}", open.repeat(5000), close.repeat(5000));
        let _ = Templar::new().evaluate(&text, &world());
    }
    let _ = Templar::new().evaluate(&format!("x{}", " + x".repeat(5000)), &world());
    let _ = Templar::new().evaluate(&format!("x{}", " | string".repeat(5000)), &world());
    let _ = Templar::new().evaluate(&format!("map{}", ".a".repeat(5000)), &world());
    let _ = Templar::new().render(&"{% if x %}".repeat(500), &world());
    let many = format!("{}{}", "{% if x %}".repeat(25), "{% endif %}".repeat(25));
    assert_eq!(Templar::new().render(&many, &world()), Ok(json!("")));
}
