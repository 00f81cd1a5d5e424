//! Whole inventories, from files to variables.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use super::build::Builder;
use super::{Connection, ConnectionKind, Inventory, ini, yaml_file};
use crate::diag::{Diagnostic, Source};

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn try_load(name: &str, text: &str) -> Result<Inventory, Vec<Diagnostic>> {
    let folder = folder(&[(name, text)]);
    Inventory::load(&[folder.path().join(name)])
}

fn load(name: &str, text: &str) -> Inventory {
    try_load(name, text).unwrap_or_else(|errors| panic!("{errors:#?}"))
}

/// The errors of an inventory as people see them.
fn errors(name: &str, text: &str) -> Vec<String> {
    let errors = try_load(name, text).err().unwrap_or_default();
    errors.iter().map(|error| format!("{:?} {error}", error.span)).collect()
}

fn groups(inventory: &Inventory) -> Value {
    inventory.shared_magic()["groups"].clone()
}

fn vars(inventory: &Inventory, host: &str) -> Value {
    serde_json::to_value(inventory.vars_of(host, None).unwrap()).unwrap()
}

fn matching(inventory: &Inventory, pattern: &str) -> String {
    inventory.matching(pattern, None).map_or_else(|error| format!("error: {}", error.message), |hosts| hosts.join(" "))
}

const LAB: &str = "\
# the lab
lone ansible_port=2222

[ws]
ws[01:03].lab  gpu=M2000 cores=12 \"note=two words\" devices=\"['82:00.0']\" # a comment
; another comment
[servers]
db:2200
files

[lab:children]
servers
ws

[lab:vars]
dns = 10.0.0.1
ntp=True
path=0644

[ws:vars]
dns=10.0.0.2
";

const LAB_YAML: &str = "
all:
  hosts:
    lone: {ansible_port: 2222}
  children:
    lab:
      vars: {dns: 10.0.0.1, ntp: yes, path: 0644}
      children:
        servers:
          hosts:
            db:2200:
            files:
        ws:
          hosts:
            ws[01:03].lab: {gpu: M2000, cores: 12, note: two words, devices: ['82:00.0']}
          vars: {dns: 10.0.0.2}
";

#[test]
fn ini_and_yaml_say_the_same() {
    for (name, text) in [("hosts", LAB), ("hosts.yml", LAB_YAML), ("inventory.example", LAB_YAML)] {
        let lab = load(name, text);
        let all = groups(&lab);
        let mut everybody: Vec<&str> = lab.hosts().collect();
        everybody.sort_unstable();
        assert_eq!(everybody, ["db", "files", "lone", "ws01.lab", "ws02.lab", "ws03.lab"], "{name}");
        assert_eq!(all["ungrouped"], json!(["lone"]));
        assert_eq!(all["lab"], json!(["db", "files", "ws01.lab", "ws02.lab", "ws03.lab"]));
        assert_eq!(all["ws"], json!(["ws01.lab", "ws02.lab", "ws03.lab"]));
        assert_eq!(vars(&lab, "lone"), json!({"ansible_port": 2222}));
        assert_eq!(vars(&lab, "db"), json!({"dns": "10.0.0.1", "ntp": true, "path": "0644", "ansible_port": 2200}));
        assert_eq!(
            vars(&lab, "ws02.lab"),
            json!({
                "dns": "10.0.0.2", "ntp": true, "path": "0644", "gpu": "M2000", "cores": 12, "note": "two words",
                "devices": ["82:00.0"],
            })
        );
        let magic = lab.magic_of("ws02.lab");
        assert_eq!(magic["inventory_hostname"], "ws02.lab");
        assert_eq!(magic["inventory_hostname_short"], "ws02");
        assert_eq!(magic["group_names"], json!(["lab", "ws"]));
        assert_eq!(magic["groups"], all);
        assert_eq!(lab.magic_of("lone")["group_names"], json!(["ungrouped"]));
    }
}

#[test]
fn patterns_mean_what_they_do_in_ansible() {
    let lab = load("hosts", LAB);
    let ws = "ws01.lab ws02.lab ws03.lab";
    for (pattern, hosts) in [
        ("all", "lone ws01.lab ws02.lab ws03.lab db files"),
        ("*", "lone ws01.lab ws02.lab ws03.lab db files"),
        ("ws", ws),
        ("lone", "lone"),
        ("ungrouped", "lone"),
        ("servers,lone", "lone db files"),
        ("servers:lone", "lone db files"),
        (" servers , ws01.lab:lone ", "lone ws01.lab db files"),
        ("lab:&ws", ws),
        ("lab:!ws", "db files"),
        ("!ws:lab:!db", "files"),
        ("lab:&servers:!db", "files"),
        ("!lab", "lone"),
        ("&ws", ws),
        ("*.lab", ws),
        ("ws0?.lab", ws),
        ("ws0[12].lab", "ws01.lab ws02.lab"),
        ("ws0[!12].lab", "ws03.lab"),
        ("ws0[1-2].lab", "ws01.lab ws02.lab"),
        ("a*,lone", "error: no host or group fits the pattern `a*`"),
        ("serv*", "db files"),
        ("~ws0(1|3)", "ws01.lab ws03.lab"),
        ("~ws0(1,|3),db", "ws03.lab db"),
        ("~(?:db|files)$", "db files"),
        ("~(?!ws|lab).*e", "lone db files"),
        ("ws[0]", "ws01.lab"),
        ("ws[-1]", "ws03.lab"),
        ("ws[0:1]", "ws01.lab ws02.lab"),
        ("ws[0:0]", "ws01.lab"),
        ("ws[1-2]", "ws02.lab ws03.lab"),
        ("ws[1:]", "ws02.lab ws03.lab"),
        ("ws[1:99]", "ws02.lab ws03.lab"),
        ("lab[0]", "db"),
        ("localhost", "localhost"),
        ("localhost,db", "db localhost"),
        ("::1", "::1"),
        ("all:!localhost", "lone ws01.lab ws02.lab ws03.lab db files"),
        ("ws[3]", "error: the host pattern `ws[3]` asks for more than `ws` has: 3 hosts"),
        ("ws[-4]", "error: the host pattern `ws[-4]` asks for more than `ws` has: 3 hosts"),
        ("ws[2:1]", "error: `[2:1]` in the host pattern `ws[2:1]` is not a number or a range"),
        ("ws[0", "error: a bracket in the host pattern `ws[0` is never closed"),
        ("wss", "error: no host or group is called `wss`"),
        ("all:!wss", "error: no host or group is called `wss`"),
        ("web*", "error: no host or group fits the pattern `web*`"),
        ("", "error: the host pattern is empty"),
        (" ,: ", "error: the host pattern is empty"),
        ("ws:!", "error: `!` in the host pattern `ws:!` names nothing"),
        ("ws[z-a]*", "error: the brackets in the host pattern `ws[z-a]*` are wrong"),
    ] {
        assert_eq!(matching(&lab, pattern), hosts, "{pattern}");
    }
    assert!(matching(&lab, "~ws(").contains("never closed"), "{}", matching(&lab, "~ws("));
    assert!(matching(&lab, "~*").contains("is not a regular expression"));
    let error = lab.matching("servrs", None).unwrap_err();
    assert_eq!((error.help.as_deref(), error.span), (Some("did you mean `servers`?"), None));
}

#[test]
fn limits_narrow_and_say_where_they_are_wrong() {
    let lab = load("hosts", LAB);
    assert_eq!(lab.matching("lab", Some("ws01.lab,db,lone")).unwrap(), ["ws01.lab", "db"]);
    assert_eq!(lab.matching("ws", Some("!ws01.lab")).unwrap(), ["ws02.lab", "ws03.lab"]);
    assert!(lab.matching("ws", Some("db")).unwrap().is_empty());
    assert!(lab.matching("localhost", Some("db")).unwrap().is_empty());
    let error = lab.matching("all", Some("wss")).unwrap_err().to_string();
    assert!(error.contains("--limit:1:1") && error.contains("did you mean `ws`?"), "{error}");
    let files = folder(&[("some", "# those that failed\nws01.lab\n\nservers\n"), ("bad", "ws\n  wss\n")]);
    let at = |name: &str| format!("@{}", files.path().join(name).display());
    assert_eq!(lab.matching("all", Some(&at("some"))).unwrap(), ["ws01.lab", "db", "files"]);
    assert_eq!(lab.matching("all", Some(&format!("{},!db", at("some")))).unwrap(), ["ws01.lab", "files"]);
    let error = lab.matching("all", Some(&at("bad"))).unwrap_err().to_string();
    assert!(error.contains("bad:2:3"), "{error}");
    let error = lab.matching("all", Some(&at("none"))).unwrap_err().to_string();
    assert!(error.contains("can't read the file of hosts"), "{error}");
}

#[test]
fn without_an_inventory_there_is_only_this_machine() {
    let none = Inventory::load(&[]).unwrap();
    assert_eq!(matching(&none, "all"), "");
    assert_eq!(matching(&none, "localhost"), "localhost");
    assert_eq!(vars(&none, "localhost"), json!({"ansible_connection": "local"}));
    assert_eq!(none.folder_of("localhost"), PathBuf::new());
    assert_eq!(none.magic_of("localhost")["group_names"], json!([]));
    let error = none.matching("ws01", None).unwrap_err();
    assert!(error.help.unwrap().contains("`-i`"));
    assert!(none.vars_of("ws01", None).is_err());
}

#[test]
fn a_localhost_of_the_inventory_is_a_host_like_others() {
    let own = load("hosts", "localhost a=1\n");
    assert_eq!(matching(&own, "all"), "localhost");
    assert_eq!(vars(&own, "localhost"), json!({"a": 1}));
}

#[test]
fn variables_win_in_ansibles_order() {
    // The weakest first. Each sets the same variable, so with the first N of them the Nth must win.
    let layers = [
        "all:vars",
        "parent:vars",
        "child:vars",
        "inv/group_vars/all.yml",
        "play/group_vars/all",
        "inv/group_vars/parent.json",
        "inv/group_vars/child/10.yml",
        "inv/group_vars/child/20",
        "play/group_vars/parent.yaml",
        "play/group_vars/child.yml",
        "host",
        "inv/host_vars/h.lab",
        "play/host_vars/h.lab.yml",
    ];
    for count in 1..=layers.len() {
        let used = &layers[..count];
        let host = if used.contains(&"host") { "v=host" } else { "" };
        let mut ini = format!("[child]\nh.lab {host}\n[parent:children]\nchild\n");
        for section in used.iter().filter(|layer| layer.ends_with(":vars")) {
            ini.push_str(&format!("[{section}]\nv={section}\n"));
        }
        let of_file = |layer: &str| match layer {
            json if json.ends_with(".json") => format!("{{\"v\": \"{layer}\"}}"),
            _ => format!("v: {layer}\n"),
        };
        let mut files: Vec<(&str, String)> =
            used.iter().filter(|layer| layer.contains('/')).map(|layer| (*layer, of_file(layer))).collect();
        files.push(("inv/hosts", ini));
        files.push(("inv/group_vars/child/.hidden.yml", "v: hidden\n".into()));
        files.push(("inv/group_vars/child/old.yml~", "v: old\n".into()));
        files.push(("inv/group_vars/child/notes.txt", "no YAML: at: all\n".into()));
        files.push(("inv/group_vars/other.yml", "v: of another group\n".into()));
        let files: Vec<(&str, &str)> = files.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let folder = folder(&files);
        for source in ["inv/hosts", "inv"] {
            let inventory = Inventory::load(&[folder.path().join(source)]).unwrap();
            let vars = inventory.vars_of("h.lab", Some(&folder.path().join("play"))).unwrap();
            assert_eq!(vars["v"], layers[count - 1], "{source}");
        }
    }
}

#[test]
fn depth_then_priority_then_name_decide_between_groups() {
    let text = "\
[b]
h
[a]
h
[c]
h
[deep]
h
[mid:children]
deep
[aa:children]
mid
[a:vars]
x=a
y=a
ansible_group_priority=10
[b:vars]
x=b
[c:vars]
x=c
[deep:vars]
y=deep
z=deep
[mid:vars]
z=mid
y=mid
";
    let inventory = load("hosts", text);
    assert_eq!(vars(&inventory, "h"), json!({"x": "a", "y": "deep", "z": "deep"}));
    let inventory = load("hosts", &text.replace("ansible_group_priority=10\n", ""));
    assert_eq!(vars(&inventory, "h")["x"], "c");
}

#[test]
fn several_inventories_add_up_and_the_later_wins() {
    let folder = folder(&[
        ("one/10-hosts", "[web]\nw1 a=1 b=1\n[web:vars]\ng=1\n"),
        ("one/20.yml", "db:\n  hosts:\n    d1:\n    w1: {b: 2}\n"),
        ("one/more/30.json", "{\n\t\"web\": {\"hosts\": {\"w2\": null}}\n}\n"),
        ("one/README.md", "no inventory\n"),
        ("one/vfio-provision.lock", "no inventory\n"),
        ("one/group_vars/web.yml", "g: one\n"),
        ("two", "w3 c=3\n[site:children]\nweb\n"),
        ("host_vars/w3/x.yml", "c: 4\n"),
    ]);
    let path = |name: &str| folder.path().join(name);
    let inventory = Inventory::load(&[path("one"), path("two"), PathBuf::from("x1,x2:22,")]).unwrap();
    assert_eq!(inventory.hosts().collect::<Vec<_>>(), ["w1", "d1", "w2", "w3", "x1", "x2"]);
    assert_eq!(vars(&inventory, "w1"), json!({"g": "one", "a": 1, "b": 2}));
    assert_eq!(vars(&inventory, "w3"), json!({"c": 4}));
    assert_eq!(vars(&inventory, "x2"), json!({"ansible_port": 22}));
    assert_eq!(groups(&inventory)["site"], json!(["w1", "w2"]));
    assert_eq!(groups(&inventory)["ungrouped"], json!(["w3", "x1", "x2"]));
    assert_eq!(inventory.folder_of("w1"), path("one"));
    assert_eq!(inventory.folder_of("w2"), path("one/more"));
    assert_eq!(inventory.folder_of("x1"), PathBuf::new());
    assert_eq!(inventory.magic_of("w1")["inventory_file"], path("one/10-hosts").to_str().unwrap());
    assert_eq!(inventory.magic_of("w3")["inventory_dir"], folder.path().to_str().unwrap());
}

#[test]
fn a_group_of_groups_lists_its_hosts_child_by_child() {
    let text = "[nodes]\nn1\n[masters]\nm1\n[cluster:children]\nmasters\nnodes\n";
    let inventory = load("hosts", text);
    assert_eq!(groups(&inventory)["cluster"], json!(["m1", "n1"]));
    assert_eq!(matching(&inventory, "cluster[0]"), "m1");
    assert_eq!(matching(&inventory, "cluster"), "n1 m1");
}

#[test]
fn mistakes_in_ini_say_where_and_what() {
    for (text, place, parts) in [
        ("[lab:children]\nsrvers\n[servers]\n", "2:1", &["`srvers` is nowhere defined", "`servers`?"][..]),
        ("[lab:children]\nws01\n[x]\nws01\n", "2:1", &["nowhere defined", "`ws01` is a host"]),
        ("[serves:vars]\na=1\n[servers]\n", "1:2", &["nowhere defined", "did you mean `servers`?"]),
        ("[web:vers]\n", "1:6", &["unknown section `[web:vers]`", "did you mean `vars`?"]),
        ("[web\n", "1:1", &["never closed"]),
        ("[we b]\n", "1:2", &["can't hold ' '"]),
        ("[]\n", "1:2", &["needs a name"]),
        ("ws[1-3]\n", "1:1", &["is no range", "[01:40]"]),
        ("a x=1\n  ws[09:100] y=1\n", "2:3", &["equally many digits"]),
        ("ws01 note='two words\n", "1:11", &["quote is never closed"]),
        ("ws01 gpu\n", "1:6", &["`gpu` is not of the form name=value"]),
        ("ws01 ; comment\n", "1:6", &["only `#` begins a comment"]),
        ("ws01 gpu-type=1\n", "1:6", &["`gpu-type` can't be the name of a variable"]),
        ("ws01 pass=ab#cd\n", "1:13", &["a `#` in the middle of a word", "in quotes"]),
        ("ws01 x=\\\n", "1:8", &["nothing follows this backslash"]),
        ("[web]\nansible_user=root\n", "2:1", &["can't hold '='", "`[NAME:vars]`"]),
        ("root@ws01\n", "1:1", &["can't hold '@'", "`ansible_user`"]),
        ("ws01:ssh\n", "1:1", &["port", "`ssh` is none"]),
        ("ws01,ws02\n", "1:1", &["can't hold ','", "one host a line"]),
        ("- ws01\n", "1:1", &["can't begin with `-`", ".yml"]),
        ("[web]\n[web:vars]\nuser\n", "3:1", &["name=value"]),
        ("[web]\n[web:vars]\n2nd=x\n", "3:1", &["`2nd` can't be the name"]),
        ("[web]\n[web:vars]\nansible_group_priority=high\n", "3:1", &["must be a whole number"]),
        ("[lab:children]\nweb x=1\n", "2:1", &["one group's name a line"]),
        ("[a:children]\nb\n[b:children]\na\n", "4:1", &["is its own ancestor", "a > b > a"]),
        ("[a:children]\na\n", "2:1", &["is its own ancestor: a > a"]),
        ("[a:children]\nall\n", "2:1", &["is its own ancestor", "`all` can't be a child"]),
    ] {
        let errors = errors("hosts", text);
        assert_eq!(errors.len(), 1, "{text}: {errors:#?}");
        assert!(errors[0].contains(&format!("hosts:{place}")), "{text}: {}", errors[0]);
        parts.iter().for_each(|part| assert!(errors[0].contains(part), "{text}: {}", errors[0]));
    }
}

#[test]
fn mistakes_in_yaml_say_where_and_what() {
    for (text, place, parts) in [
        ("all:\n  host:\n    ws01:\n", "2:3", &["unknown key `host` in the group `all`", "did you mean `hosts`?"][..]),
        ("all:\n  web:\n    hosts:\n", "2:3", &["unknown key `web`", "stand under `children`"]),
        ("- ws01\n", "1:1", &["must be a map of groups", "a list"]),
        ("all: [ws01]\n", "1:6", &["the group `all` must be a map"]),
        ("all:\n  hosts: [ws01]\n", "2:10", &["`hosts` of the group `all` must be a map", "a list"]),
        ("all:\n  hosts:\n    ws01: gpu\n", "3:11", &["the variables of the host `ws01` must be a map"]),
        ("all:\n  hosts:\n    ws01: {a-b: 1}\n", "3:12", &["`a-b` can't be the name of a variable"]),
        ("all:\n  hosts:\n    ws[1:: \n", "3:5", &["never closed"]),
        ("all:\n  vars: x\n", "2:9", &["`vars` of the group `all` must be a map"]),
        ("a:\n  children:\n    b:\n      children:\n        a:\n", "5:9", &["is its own ancestor"]),
        ("plugin: aws_ec2\n", "1:1", &["plugins are not supported yet"]),
        ("we b:\n", "1:1", &["a group's name can't hold ' '"]),
        ("all: {hosts: {a: }\n", "", &["never closed"]),
    ] {
        let errors = errors("hosts.yml", text);
        assert_eq!(errors.len(), 1, "{text}: {errors:#?}");
        assert!(errors[0].contains(&format!("hosts.yml:{place}")), "{text}: {}", errors[0]);
        parts.iter().for_each(|part| assert!(errors[0].contains(part), "{text}: {}", errors[0]));
    }
}

#[test]
fn all_mistakes_are_found_at_once() {
    let folder = folder(&[("a", "x y\n[w:vers]\n[c:children]\nd\n"), ("b.yml", "all: {host: }\n")]);
    let path = |name: &str| folder.path().join(name);
    let errors = Inventory::load(&[path("a"), path("b.yml"), path("aa")]).err().unwrap();
    let shown: Vec<&str> = errors.iter().map(|error| error.message.as_str()).collect();
    assert_eq!(shown.len(), 5, "{shown:#?}");
    assert!(
        errors.iter().any(|e| e.help.as_ref().is_some_and(|h| h.starts_with("did you mean") && h.ends_with("/a`?")))
    );
}

#[test]
fn programs_and_what_can_not_be_read_are_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder =
        folder(&[("dynamic", "#!/bin/sh\necho {}\n"), ("plain", "ws01\n"), ("empty/group_vars/all", "a: 1\n")]);
    let path = |name: &str| folder.path().join(name);
    for name in ["dynamic", "plain"] {
        fs::set_permissions(path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::write(path("bytes"), b"ws01 a=\xff\n").unwrap();
    let message = |name: &str| Inventory::load(&[path(name)]).err().unwrap()[0].message.clone();
    assert!(message("dynamic").contains("dynamic inventories are not supported yet"));
    assert!(Inventory::load(&[path("plain")]).is_ok());
    assert!(message("bytes").contains("not UTF-8"));
    assert!(message("none").contains("can't read the inventory"));
    assert!(message("empty").contains("holds no inventory"));
}

#[test]
fn files_of_variables_are_checked_when_they_are_used() {
    for (file, text, parts) in [
        ("group_vars/all.yml", "- a\n", ["group_vars/all.yml:1:1", "must be a map"]),
        ("group_vars/all.yml", "a-b: 1\n", ["all.yml:1:1", "can't be the name"]),
        ("group_vars/all.yml", "ansible_group_priority: 2\n", ["all.yml:1:1", "does nothing in group_vars"]),
        ("host_vars/h/x.yml", "a: b: c\n", ["host_vars/h/x.yml:1:", "second `key: value`"]),
        ("host_vars/h", "$ANSIBLE_VAULT;1.1;AES256\n00\n", ["host_vars/h", "ansible-vault"]),
        ("host_vars", "", ["host_vars", "can't read the folder"]),
    ] {
        let folder = folder(&[("hosts", "h\ng\n"), (file, text)]);
        let inventory = Inventory::load(&[folder.path().join("hosts")]).unwrap();
        for _ in 0..2 {
            let error = inventory.vars_of("h", None).unwrap_err().to_string();
            parts.iter().for_each(|part| assert!(error.contains(part), "{file}: {error}"));
        }
        assert_eq!(inventory.vars_of("g", None).is_ok(), file.starts_with("host_vars/"), "{file}");
    }
}

#[test]
fn a_file_and_a_folder_of_one_name_both_count() {
    let folder =
        folder(&[("hosts", "h\n"), ("group_vars/all.yml", "a: 1\nb: 1\n"), ("group_vars/all/x.yml", "b: 2\n")]);
    let inventory = Inventory::load(&[folder.path().join("hosts")]).unwrap();
    assert_eq!(vars(&inventory, "h"), json!({"a": 1, "b": 2}));
}

#[test]
fn warnings_tell_of_what_is_allowed_and_unwise() {
    let warned = load("hosts", "[web]\nweb\n[web:vars]\na=b # c\nd='e # f'\ng=5 # h\n");
    let shown: Vec<String> = warned.warnings().iter().map(ToString::to_string).collect();
    assert_eq!(shown.len(), 2, "{shown:#?}");
    assert!(shown[0].contains("hosts:4:5") && shown[0].contains("begins no comment"), "{}", shown[0]);
    assert!(shown[1].contains("is a group and also a host"), "{}", shown[1]);
    assert_eq!(vars(&warned, "web"), json!({"a": "b # c", "d": "e # f", "g": 5}));
}

#[test]
fn addresses_and_ports() {
    let text = "[2001:db8::1]:2222 a=1\n2001:db8::2\n[web]\n[a:c].lab # hosts\nw:22\n";
    let inventory = load("hosts", text);
    assert_eq!(inventory.hosts().collect::<Vec<_>>(), ["2001:db8::1", "2001:db8::2", "a.lab", "b.lab", "c.lab", "w"]);
    assert_eq!(vars(&inventory, "2001:db8::1"), json!({"a": 1, "ansible_port": 2222}));
    assert_eq!(matching(&inventory, "2001:db8::2,w"), "2001:db8::2 w");
    assert_eq!(matching(&inventory, "all:!web"), "2001:db8::1 2001:db8::2");
    assert_eq!(matching(&inventory, "web,!2001:db8::1,2001:db8::1"), "a.lab b.lab c.lab w");
    let vars: Map<String, Value> = inventory.vars_of("w", None).unwrap().into_iter().collect();
    let connection = Connection::of("w", &vars).unwrap();
    assert_eq!((connection.kind, connection.port), (ConnectionKind::Ssh, Some(22)));
}

#[test]
fn windows_and_byte_order_marks_are_read() {
    let inventory = load("hosts", "\u{feff}[web]\r\nw1 a=b\r\n\r\n[web:vars]\r\nc=d\r\n");
    assert_eq!(vars(&inventory, "w1"), json!({"a": "b", "c": "d"}));
}

/// 1,000 hosts in 100 groups of groups, as the benchmark has them.
fn many() -> TempDir {
    let mut text = String::new();
    for group in 0..100 {
        text.push_str(&format!("[g{group:02}]\nh[{:04}:{:04}].lab a=1 b=two c='3'\n", group * 10, group * 10 + 9));
        text.push_str(&format!("[g{group:02}:vars]\nx{group}=1\ny=2\n"));
    }
    text.push_str("[top:children]\n");
    (0..100).for_each(|group| text.push_str(&format!("g{group:02}\n")));
    folder(&[("hosts", &text), ("group_vars/all.yml", "d: 1\n"), ("host_vars/h0007.lab.yml", "e: 1\n")])
}

#[test]
fn a_thousand_hosts_share_what_is_the_same() {
    let folder = many();
    let inventory = Inventory::load(&[folder.path().join("hosts")]).unwrap();
    let total: usize = inventory.hosts().map(|host| inventory.vars_of(host, None).unwrap().len()).sum();
    assert_eq!(total, 1000 * 6 + 1);
    // The variables of two hosts of one group come from one chain.
    let chain = |host: &str| std::sync::Arc::as_ptr(&inventory.hosts[host].groups);
    assert_eq!(chain("h0000.lab"), chain("h0009.lab"));
    assert_ne!(chain("h0000.lab"), chain("h0010.lab"));
    fn sync<T: Sync + Send>(_: &T) {}
    sync(&inventory);
}

/// `cargo test --release --lib a_thousand_hosts_are_fast -- --ignored --nocapture`
#[test]
#[ignore = "a measurement"]
fn a_thousand_hosts_are_fast() {
    let folder = many();
    let start = std::time::Instant::now();
    let inventory = Inventory::load(&[folder.path().join("hosts")]).unwrap();
    let loaded = start.elapsed();
    for host in inventory.hosts() {
        inventory.vars_of(host, Some(Path::new("playbooks"))).unwrap();
        inventory.own_magic_of(host);
    }
    let own = start.elapsed();
    inventory.hosts().for_each(|host| drop(inventory.magic_of(host)));
    println!("load {loaded:?}, with vars and own magic {own:?}, with `groups` copied for each {:?}", start.elapsed());
}

/// Text that is nearly an inventory.
fn nearly_ini() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("[web]\n".to_string()),
        Just("[web:vars]\n".to_string()),
        Just("[db:children]\n".to_string()),
        Just("web\n".to_string()),
        Just("ws[01:03]".to_string()),
        Just("a='[1, {\"b\": (2,)}]' ".to_string()),
        "[\\[\\]:=#;'\"\\\\ \n\t{}(),a-c0-9-]{0,8}",
        "\\PC{0,6}",
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn nearly_yaml() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("all:\n".to_string()),
        Just("  hosts:\n".to_string()),
        Just("  children:\n".to_string()),
        Just("    ws[01:03]:\n".to_string()),
        Just("    web: {hosts: {a: {b: c}}}\n".to_string()),
        Just("  vars: {a: [1]}\n".to_string()),
        "[\\[\\]:&*!|>'\"\\\\ \n\t{},a-c0-9-]{0,8}",
        "\\PC{0,6}",
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn finish(read: impl FnOnce(&mut Builder)) {
    let mut build = Builder::new();
    read(&mut build);
    match build.finish() {
        // Every error can be shown.
        Err(errors) => assert!(!errors.is_empty() && errors.iter().all(|error| !error.to_string().is_empty())),
        // A host's groups hold it, and `all` holds every host.
        Ok((parts, _)) => {
            assert_eq!(parts.groups["all"].hosts.len(), parts.hosts.len());
            for (id, host) in parts.hosts.values().enumerate() {
                assert!(host.groups.iter().all(|group| parts.groups[*group].hosts.contains(&id)));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_ini_text_panics(text in nearly_ini()) {
        finish(|build| ini::read(&Source::new("hosts", text), build));
    }

    #[test]
    fn no_yaml_text_panics(text in nearly_yaml()) {
        finish(|build| yaml_file::read(&Source::new("hosts.yml", text), build));
    }

    #[test]
    fn no_value_panics(text in "([\\[\\]{}(),:'\"\\\\rub0-9a-fxTF._+-]|\\PC){0,24}") {
        let value = super::literal::value(&text);
        if let Value::String(kept) = value {
            prop_assert!(kept.len() <= text.len() * 4);
        }
    }

    #[test]
    fn quoted_strings_come_back(text in "\\PC{0,20}") {
        let quoted = serde_json::to_string(&text).unwrap();
        prop_assume!(!quoted.contains("\\u") && !quoted.contains("\\/"));
        prop_assert_eq!(super::literal::value(&quoted), json!(text));
    }
}

thread_local! {
    static LAB_READ: Inventory = load("hosts", LAB);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn no_pattern_panics(pattern in "([\\[\\]:,!&~*?@(){}|+a-b0-9ws. -]|\\PC){0,16}") {
        LAB_READ.with(|lab| {
            let _ = lab.matching(&pattern, None);
            let _ = lab.matching("all", Some(&pattern));
        });
    }

    #[test]
    fn what_is_excluded_is_gone(name in "(lone|ws|servers|lab|db|ws0[1-3]\\.lab|\\*|ungrouped)") {
        LAB_READ.with(|lab| {
            let taken = lab.matching(&name, None).unwrap();
            let left = lab.matching(&format!("all:!{name}"), None).unwrap();
            prop_assert!(!taken.is_empty() && taken.iter().all(|host| !left.contains(host)));
            prop_assert_eq!(taken.len() + left.len(), 6);
            Ok(())
        })?;
    }
}
