//! What the tables expect was compared with what ansible-core 2.19 makes of the same inventories.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const LAB: &str = "\
ws00 ansible_host=10.0.0.1   # before any section

[workstations]
ws[01:03].lab gpu=nvidia
ws04.lab:2222 note=\"two words\" memory=64 fast=True

[servers]
db-[a:c]
ws01.lab

[lab:children]
workstations
servers

[lab:vars]
ntp = ntp.lab
ports=[22, 80]

[workstations:vars]
kind=workstation
ntp=ntp1.lab
";

fn ini(text: &str) -> Inventory {
    Inventory::of_text("hosts", text).unwrap_or_else(|errors| panic!("{}", shown(&errors)))
}

fn shown(errors: &[Diagnostic]) -> String {
    errors.iter().map(|error| format!("{error}\n")).collect()
}

fn value(inventory: &Inventory, host: &str, name: &str) -> Value {
    let vars = inventory.vars_of(host, None).expect("variables");
    vars.get(name).map_or(Value::Null, |variable| (*variable.value).clone())
}

fn write(folder: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
}

#[test]
fn ini_hosts_groups_and_variables() {
    let lab = ini(LAB);
    let hosts: Vec<&str> = lab.hosts().collect();
    assert_eq!(hosts, ["ws00", "ws01.lab", "ws02.lab", "ws03.lab", "ws04.lab", "db-a", "db-b", "db-c"]);
    assert_eq!(lab.groups_of("ws01.lab").collect::<Vec<_>>(), ["all", "lab", "servers", "workstations"]);
    assert_eq!(lab.groups_of("ws00").collect::<Vec<_>>(), ["all", "ungrouped"]);
    for (host, name, expected) in [
        ("ws00", "ansible_host", json!("10.0.0.1")),
        ("ws02.lab", "gpu", json!("nvidia")),
        ("ws04.lab", "ansible_port", json!(2222)),
        ("ws04.lab", "note", json!("two words")),
        ("ws04.lab", "memory", json!(64)),
        ("ws04.lab", "fast", json!(true)),
        ("ws02.lab", "ntp", json!("ntp1.lab")),
        ("db-a", "ntp", json!("ntp.lab")),
        ("db-a", "ports", json!([22, 80])),
        ("ws00", "ntp", json!(null)),
    ] {
        assert_eq!(value(&lab, host, name), expected, "{host} {name}");
    }
    let groups: Vec<(&str, Vec<&str>)> = lab.groups().collect();
    assert_eq!(groups[1], ("ungrouped", vec!["ws00"]));
    assert_eq!(groups.iter().find(|(name, _)| *name == "servers").map(|(_, hosts)| hosts.len()), Some(4));
    let place = lab.vars_of("ws04.lab", None).expect("variables")["note"].span.place();
    assert_eq!(place, "hosts:5:15");
}

#[test]
fn values_are_read_as_ansible_reads_them() {
    for (text, expected) in [
        ("5", json!(5)),
        ("-5", json!(-5)),
        ("1.5", json!(1.5)),
        ("1e3", json!(1000.0)),
        ("0x1f", json!(31)),
        ("010", json!("010")),
        ("82:00.0", json!("82:00.0")),
        ("1_000", json!(1000)),
        ("True", json!(true)),
        ("true", json!("true")),
        ("None", json!(null)),
        ("yes", json!("yes")),
        ("'5'", json!("5")),
        ("[1, 'a', [True]]", json!([1, "a", [true]])),
        ("(1, 2)", json!([1, 2])),
        ("(1)", json!(1)),
        ("{'a': 1, 'b': {}}", json!({"a": 1, "b": {}})),
        ("[1, 2", json!("[1, 2")),
        ("{a: 1}", json!("{a: 1}")),
        ("5 # five", json!(5)),
        ("a # b", json!("a # b")),
        ("{{ x }}", json!("{{ x }}")),
        ("1 2", json!("1 2")),
        ("1, 2", json!([1, 2])),
        ("'a' 'b'", json!("ab")),
        ("'1','2'", json!(["1", "2"])),
        ("", json!("")),
        ("99999999999999999999", json!("99999999999999999999")),
    ] {
        assert_eq!(literal::value(text), expected, "{text}");
    }
}

#[test]
fn ranges_and_ports() {
    let names = |name: &str| names::expand(name);
    assert_eq!(names("ws[01:03].lab"), Ok(vec!["ws01.lab".into(), "ws02.lab".into(), "ws03.lab".into()]));
    assert_eq!(names("n[8:11]"), Ok(["n8", "n9", "n10", "n11"].map(String::from).to_vec()));
    assert_eq!(names("n[0:6:3]"), Ok(["n0", "n3", "n6"].map(String::from).to_vec()));
    assert_eq!(names("[a:b][1:2]"), Ok(["a1", "a2", "b1", "b2"].map(String::from).to_vec()));
    for (name, why) in [
        ("ws[3:1]", "`[3:1]` is not a range: the first number must not be larger than the last"),
        ("ws[01:100]", "`[01:100]` is not a range: with leading zeros both ends need the same number of digits"),
        ("ws[a:3]", "`[a:3]` is not a range: it needs two numbers or two letters"),
        ("ws[f:a]", "`[f:a]` is not a range: the first letter must come before the last"),
        ("ws[1]", "`[1]` is not a range: write `[01:40]`, `[a:f]` or `[0:8:2]`"),
        ("ws[1:2", "the range in `ws[1:2` has no `]`"),
        ("ws1:2]", "the `]` in `ws1:2]` closes no range"),
        ("ws[1:2:0]", "`[1:2:0]` is not a range: the step must be a number from 1 on"),
        ("ws[0:999999999]", "`[0:999999999]` is not a range: it means too many hosts"),
        ("[1:999][1:999]", "`[1:999][1:999]` means more than 100000 hosts"),
    ] {
        assert_eq!(names(name), Err(why.to_string()), "{name}");
    }
    assert_eq!(value(&ini("[a]\nh:22\n[b]\nh:23\n"), "h", "ansible_port"), json!(22));
    assert_eq!(names::port("ws01:22"), Ok(("ws01", Some(22))));
    assert_eq!(names::port("ws[01:03]:22"), Ok(("ws[01:03]", Some(22))));
    assert_eq!(names::port("::1"), Ok(("::1", None)));
    assert_eq!(names::port("[fe80::1]:22"), Ok(("fe80::1", Some(22))));
    assert_eq!(names::port("ws01:99999"), Err("`99999` is not a port".into()));
}

#[test]
fn yaml_inventories_mean_the_same() {
    let text = "\
all:
  hosts:
    ws00: {ansible_host: 10.0.0.1}
  children:
    lab:
      vars: {ntp: ntp.lab, ports: [22, 80]}
      children:
        workstations:
          hosts:
            ws[01:03].lab: {gpu: nvidia}
            ws04.lab:
              memory: 64
              address: 82:00.0
          vars:
            ntp: ntp1.lab
        servers:
          hosts: {'db-[a:c]':, ws01.lab: }
";
    let lab = Inventory::of_text("hosts.yml", text).unwrap_or_else(|errors| panic!("{}", shown(&errors)));
    assert_eq!(lab.hosts().count(), 8);
    assert_eq!(lab.groups_of("ws01.lab").collect::<Vec<_>>(), ["all", "lab", "servers", "workstations"]);
    assert_eq!(value(&lab, "ws02.lab", "ntp"), json!("ntp1.lab"));
    assert_eq!(value(&lab, "ws04.lab", "address"), json!("82:00.0"));
    assert_eq!(value(&lab, "db-b", "ports"), json!([22, 80]));
    assert_eq!(lab.groups_of("ws00").collect::<Vec<_>>(), ["all", "ungrouped"]);
    // Without an ending the text decides.
    assert_eq!(Inventory::of_text("inventory.example", text).map(|lab| lab.hosts().count()).ok(), Some(8));
    assert_eq!(Inventory::of_text("inventory.example", LAB).map(|lab| lab.hosts().count()).ok(), Some(8));
    assert_eq!(
        Inventory::of_text("x.json", "{\"all\": {\"hosts\": {\"a\": {}}}}").map(|lab| lab.hosts().count()).ok(),
        Some(1)
    );
}

#[test]
fn deeper_groups_and_priorities_win() {
    let text = "\
[a]
h
[b]
h
[deep]
h
[mid:children]
deep
[top:children]
mid
[all:vars]
who=all
base=all
[top:vars]
who=top
[mid:vars]
who=mid
[deep:vars]
who=deep
[a:vars]
side=a
[b:vars]
side=b
";
    let inventory = ini(text);
    assert_eq!(value(&inventory, "h", "who"), json!("deep"));
    assert_eq!(value(&inventory, "h", "side"), json!("b"));
    assert_eq!(value(&inventory, "h", "base"), json!("all"));
    let inventory = ini(&format!("{text}[a:vars]\nansible_group_priority=10\n"));
    assert_eq!(value(&inventory, "h", "side"), json!("a"));
    assert_eq!(value(&inventory, "h", "ansible_group_priority"), json!(null));
    // A group's priority is 1 unless it says something else.
    let inventory = ini(&format!("{text}[b:vars]\nansible_group_priority=0\n"));
    assert_eq!(value(&inventory, "h", "side"), json!("a"));
    let host = ini(&text.replace("[a]\nh\n", "[a]\nh who=host\n"));
    assert_eq!(value(&host, "h", "who"), json!("host"));
}

#[test]
fn variables_of_files_in_their_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let (inventory, playbook) = (folder.path().join("inv"), folder.path().join("site"));
    // Each variable is named after the strongest place that sets it.
    let weights =
        ["file_group", "inv_all", "play_all", "inv_group", "play_group", "file_host", "inv_host", "play_host"];
    let body =
        |from: usize| -> String { weights[from..].iter().map(|name| format!("{name}: {}\n", weights[from])).collect() };
    let ini_body = |from: usize, sep: &str| -> String {
        weights[from..].iter().map(|name| format!("{name}={}{sep}", weights[from])).collect()
    };
    write(
        &inventory,
        &[
            ("hosts", &format!("[web]\nws01 {}\n[web:vars]\n{}", ini_body(5, " "), ini_body(0, "\n"))),
            ("group_vars/all.yml", &body(1)),
            ("group_vars/web/10-main.yml", &body(3)),
            ("group_vars/web/20-more.yml", "more: 1\n"),
            ("group_vars/other.yml", "no: 1\n"),
            ("host_vars/ws01.yaml", &body(6)),
        ],
    );
    write(
        &playbook,
        &[
            ("group_vars/all/x.yml", &body(2)),
            ("group_vars/web", &body(4)),
            ("host_vars/ws01.json", "{\"play_host\": \"play_host\"}"),
            ("host_vars/localhost.yml", "here: 1\n"),
        ],
    );
    let loaded = Inventory::load(&[inventory.join("hosts")]).unwrap_or_else(|errors| panic!("{}", shown(&errors)));
    assert_eq!(loaded.prepare(Some(&playbook)), Ok(()));
    let vars = loaded.vars_of("ws01", Some(&playbook)).expect("variables");
    // Every place sets its own name and all stronger ones, so each name keeps its own place only if the order is right.
    for name in weights {
        assert_eq!(vars.get(name).map(|v| (*v.value).clone()), Some(json!(name)), "{name}");
    }
    assert_eq!(vars.get("more").map(|v| (*v.value).clone()), Some(json!(1)));
    assert!(!vars.contains_key("no"));
    assert!(vars["play_group"].span.place().ends_with("site/group_vars/web:1:13"), "{:?}", vars["play_group"].span);
    // This machine is not in the inventory: what is for all counts, and its own file.
    let here = loaded.vars_of("localhost", Some(&playbook)).expect("variables");
    assert_eq!(here.get("ansible_connection").map(|v| (*v.value).clone()), Some(json!("local")));
    assert!(here.contains_key("here") && here.contains_key("play_all") && !here.contains_key("more"));
    let magic = loaded.magic("ws01");
    assert_eq!(*magic["inventory_dir"], json!(inventory.to_string_lossy()));
    assert_eq!(*magic["inventory_file"], json!(inventory.join("hosts").to_string_lossy()));
    // A folder as the inventory.
    let whole = Inventory::load(&[&inventory]).unwrap_or_else(|errors| panic!("{}", shown(&errors)));
    assert_eq!(whole.hosts().collect::<Vec<_>>(), ["ws01"]);
    assert_eq!(value(&whole, "ws01", "inv_host"), json!("inv_host"));
    // Broken files are named.
    write(&inventory, &[("group_vars/web.yml", "a: 1\n"), ("host_vars/ws01.yaml", "- 1\n")]);
    let again = Inventory::load(&[&inventory]).unwrap_or_else(|errors| panic!("{}", shown(&errors)));
    let errors = shown(&again.prepare(None).expect_err("two errors"));
    assert!(errors.contains("group_vars/web.yml exist"), "{errors}");
    assert!(errors.contains("a file of variables is a map of names to values, this is a list"), "{errors}");
}

#[test]
fn several_inventories_and_lists() {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), &[("one", "[g]\na x=1 y=1\n"), ("two", "[g]\na x=2\nb\n")]);
    let both = Inventory::load(&[folder.path().join("one"), folder.path().join("two")]).expect("two inventories");
    assert_eq!(both.hosts().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((value(&both, "a", "x"), value(&both, "a", "y")), (json!(2), json!(1)));
    let list = Inventory::load(&["ws01,10.0.0.2:2222,"]).expect("a list");
    assert_eq!(list.hosts().collect::<Vec<_>>(), ["ws01", "10.0.0.2"]);
    assert_eq!(value(&list, "10.0.0.2", "ansible_port"), json!(2222));
    assert!(!list.magic("ws01").contains_key("inventory_dir"));
    let none = Inventory::load(&[] as &[&str]).expect("nothing");
    assert_eq!(none.matching("localhost", None).ok(), Some(vec!["localhost"]));
    assert_eq!(none.matching("all", None).ok(), Some(vec![]));
}

#[test]
fn patterns() {
    let lab = ini(LAB);
    let all = ["ws00", "ws01.lab", "ws02.lab", "ws03.lab", "ws04.lab", "db-a", "db-b", "db-c"];
    for (pattern, expected) in [
        ("all", &all[..]),
        ("*", &all[..]),
        ("workstations", &all[1..5]),
        ("servers:ws00", &["ws00", "ws01.lab", "db-a", "db-b", "db-c"]),
        ("ws00,db-a", &["ws00", "db-a"]),
        ("servers:&workstations", &["ws01.lab"]),
        ("lab:!servers", &["ws02.lab", "ws03.lab", "ws04.lab"]),
        ("!lab", &["ws00"]),
        ("!servers:lab", &["ws02.lab", "ws03.lab", "ws04.lab"]),
        ("ws0[23].lab", &["ws02.lab", "ws03.lab"]),
        ("ws0[!1-3]*", &["ws00", "ws04.lab"]),
        ("work*", &all[1..5]),
        ("~ws0(1|2)\\.lab", &["ws01.lab", "ws02.lab"]),
        ("~db-[a:b]", &["db-a", "db-b"]),
        ("workstations[0]", &["ws01.lab"]),
        ("workstations[-1]", &["ws04.lab"]),
        ("workstations[0:1]", &["ws01.lab", "ws02.lab"]),
        ("workstations[2:]", &["ws03.lab", "ws04.lab"]),
        ("servers[3]", &["ws01.lab"]),
        ("workstations[9]", &[]),
        ("nothing*", &[]),
        ("ungrouped", &["ws00"]),
        ("localhost", &["localhost"]),
    ] {
        assert_eq!(lab.matching(pattern, None).ok().as_deref(), Some(expected), "{pattern}");
    }
    assert_eq!(lab.matching("lab", Some("ws0*,!ws02.lab")).ok(), Some(vec!["ws01.lab", "ws03.lab", "ws04.lab"]));
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), &[("retry", "# failed\nws03.lab\ndb-a\n")]);
    let limit = format!("@{}", folder.path().join("retry").display());
    assert_eq!(lab.matching("lab", Some(&limit)).ok(), Some(vec!["ws03.lab", "db-a"]));
    for (pattern, expected) in [
        (
            "workstaions",
            "error: there is no host or group `workstaions` in the inventory\n  |\n  = help: did you mean `workstations`?",
        ),
        (
            "ws00:!sevrers",
            "error: there is no host or group `sevrers` in the inventory\n  |\n  = help: did you mean `servers`?",
        ),
        ("", "error: the pattern names no host"),
        ("all:!", "error: a part of the pattern is empty"),
        ("ws[1:", "error: the `[` in the pattern `ws[1:` is never closed"),
        ("ws[a:b]", "error: `[a:b]` in `ws[a:b]` is not a range of places"),
        ("ws[12", "error: the `[` in the pattern `ws[12` is never closed"),
        ("~(", "error: the pattern `~(` can't be read"),
    ] {
        let error = lab.matching(pattern, None).expect_err(pattern).to_string();
        let same = error.lines().map(str::trim).eq(expected.lines().map(str::trim)) || error.starts_with(expected);
        assert!(same, "{pattern}:\n{error}");
    }
    assert!(lab.matching("all", Some("@/no/such/file")).is_err());
}

#[test]
fn magic_variables() {
    let lab = ini(LAB);
    let magic = lab.magic("ws01.lab");
    assert_eq!(*magic["inventory_hostname"], json!("ws01.lab"));
    assert_eq!(*magic["inventory_hostname_short"], json!("ws01"));
    assert_eq!(*magic["group_names"], json!(["lab", "servers", "workstations"]));
    assert_eq!(magic["groups"]["servers"], json!(["db-a", "db-b", "db-c", "ws01.lab"]));
    assert_eq!(magic["groups"]["all"].as_array().map(Vec::len), Some(8));
    assert_eq!(*lab.magic("10.0.0.1")["inventory_hostname_short"], json!("10.0.0.1"));
}

#[test]
fn mistakes_have_a_place_and_the_nearest_name() {
    let rows = [
        (
            "[lab:children]\nwrkstations\n[workstations]\na\n",
            "there is no group `wrkstations`, named here as a child",
            "2:1",
            Some("did you mean `workstations`?"),
        ),
        ("[web:vars]\na=1\n", "there is no group `web`, named here as a group with variables", "1:2", None),
        ("[web:childern]\na\n", "a section can't end with `:childern`", "1:2", Some("did you mean `[web:children]`?")),
        ("[web\na\n", "this section has no `]`", "1:1", None),
        ("a b=\"c\n", "this \" is never closed", "1:5", None),
        ("a b\n", "`b` is not `name=value`", "1:3", None),
        ("ws[5:1]\n", "`[5:1]` is not a range: the first number must not be larger than the last", "1:1", None),
        ("a:x\n", "`x` is not a port", "1:1", None),
        ("[g:vars]\nfoo\n[g]\n", "a line of a `:vars` section is `name=value`", "2:1", None),
        ("[g:children]\na b\n[a]\n[b]\n", "a line of a `:children` section is the name of one group", "2:1", None),
        (
            "[a:children]\nb\n[b:children]\nc\n[c:children]\na\n",
            "the group `a` is its own child: a -> b -> c -> a",
            "6:1",
            None,
        ),
        ("[a:children]\na\n", "the group `a` is its own child: a -> a", "2:1", None),
        (
            "[g]\nh\n[g:vars]\nansible_group_priority=high\n",
            "`ansible_group_priority` must be a whole number",
            "4:1",
            None,
        ),
        (
            "#!/usr/bin/python3\nprint()\n",
            "this inventory is a program, and programs are not run as inventories",
            "1:1",
            None,
        ),
    ];
    for (text, message, place, help) in rows {
        let errors = Inventory::of_text("hosts", text).map(|_| ()).expect_err(text);
        assert_eq!(errors.len(), 1, "{text}: {}", shown(&errors));
        assert_eq!(errors[0].message, message, "{text}");
        assert_eq!(errors[0].span.as_ref().map(Span::place), Some(format!("hosts:{place}")), "{text}");
        if help.is_some() {
            assert_eq!(errors[0].help.as_deref(), help, "{text}");
        }
    }
    let rows = [
        ("all:\n  host:\n    a:\n", "a group has no key `host`", "2:3", Some("did you mean `hosts`?")),
        ("all:\n  hosts: [a, b]\n", "`hosts` is a map whose keys are names, this is a list", "2:10", None),
        ("- a\n", "an inventory is a map of groups, this is a list", "1:1", None),
        ("all:\n  hosts:\n    a: 5\n", "a host's variables are a map, this is a number", "3:8", None),
        ("plugin: aws_ec2\n", "inventory plugins are not supported", "1:1", None),
        ("g:\n  children:\n    g:\n", "the group `g` can't be a child of `g`", "3:5", None),
        ("all:\n  children:\n    a b:\n", "`a b` can't be the name of a group", "3:5", None),
        (
            "a:\n  children:\n    b:\n      children:\n        a:\n",
            "the group `a` is its own child: a -> b -> a",
            "5:9",
            None,
        ),
    ];
    for (text, message, place, help) in rows {
        let errors = Inventory::of_text("hosts.yml", text).map(|_| ()).expect_err(text);
        assert_eq!(errors[0].message, message, "{text}: {}", shown(&errors));
        assert_eq!(errors[0].span.as_ref().map(Span::place), Some(format!("hosts.yml:{place}")), "{text}");
        if help.is_some() {
            assert_eq!(errors[0].help.as_deref(), help, "{text}");
        }
    }
    let missing = Inventory::load(&["/no/such/inventory"]).map(|_| ()).expect_err("no file");
    assert_eq!(missing[0].message, "the inventory /no/such/inventory can't be read: no such file or directory");
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), &[("hosts", "a\n"), ("host_vars/a", "$ANSIBLE_VAULT;1.1;AES256\n6231\n")]);
    let inventory = Inventory::load(&[folder.path().join("hosts")]).expect("an inventory");
    let error = inventory.vars_of("a", None).expect_err("a vault").message;
    assert_eq!(error, "the file of variables is encrypted with ansible-vault, which is not supported");
}

#[test]
fn connections() {
    let of = |name: &str, vars: Value| Connection::of(name, &|variable| vars.get(variable).cloned());
    let ssh = of("ws01", json!({"ansible_host": "10.0.0.1", "ansible_port": "2222", "ansible_user": "root",
        "ansible_become": "yes", "ansible_ssh_common_args": "-J 'jump host' -o A=b", "ansible_ssh_pass": "s3cret", "ansible_timeout": 5}))
    .expect("a connection");
    assert_eq!((ssh.kind, ssh.host.as_str(), ssh.port), (ConnectionKind::Ssh, "10.0.0.1", Some(2222)));
    assert_eq!((ssh.user.as_deref(), ssh.r#become, ssh.timeout), (Some("root"), Some(true), Some(5)));
    assert_eq!(ssh.ssh_args, ["-J", "jump host", "-o", "A=b"]);
    assert!(!format!("{ssh:?}").contains("s3cret"));
    assert_eq!(of("localhost", json!({})).map(|c| c.kind), Ok(ConnectionKind::Local));
    assert_eq!(of("127.0.0.1", json!({})).map(|c| c.kind), Ok(ConnectionKind::Local));
    assert_eq!(of("localhost", json!({"ansible_connection": "ssh"})).map(|c| c.kind), Ok(ConnectionKind::Ssh));
    assert_eq!(of("a", json!({"ansible_connection": "openssh"})).map(|c| c.kind), Ok(ConnectionKind::OpenSsh));
    let sandbox = of("a", json!({"ansible_connection": "sandbox", "sandbox_root": "x", "sandbox_machine": "m"}));
    assert_eq!(sandbox.map(|c| (c.kind, c.sandbox_root)), Ok((ConnectionKind::Sandbox, Some(PathBuf::from("x")))));
    for (vars, message, help) in [
        (
            json!({"ansible_connection": "sandbx"}),
            "`ansible_connection` of `a` can't be `sandbx`",
            Some("did you mean `sandbox`?"),
        ),
        (
            json!({"ansible_connection": "docker"}),
            "`ansible_connection` of `a` can't be `docker`",
            Some("known are local, sandbox, ssh, openssh"),
        ),
        (json!({"ansible_connection": "sandbox"}), "the sandbox host `a` has no `sandbox_root`", None),
        (json!({"ansible_port": 70000}), "`ansible_port` of `a` must be a number from 1 to 65535", None),
        (json!({"ansible_become": "perhaps"}), "`ansible_become` of `a` must be true or false", None),
        (json!({"ansible_host": ["x"]}), "`ansible_host` of `a` must be text", None),
        (json!({"ansible_ssh_args": "'x"}), "`ansible_ssh_args` of `a` has a quote that is never closed", None),
    ] {
        let error = of("a", vars).expect_err(message);
        assert_eq!(error.message, message);
        assert!(help.is_none_or(|help| error.help.as_deref() == Some(help)), "{:?}", error.help);
    }
}

/// A thousand hosts in a hundred groups, with variables everywhere.
fn large() -> String {
    let mut text = String::from("[all:vars]\nntp=ntp.lab\n");
    for group in 0..100 {
        text += &format!("[g{group}]\nws[{:04}:{:04}].lab gpu=nvidia memory=64\n", group * 10, group * 10 + 9);
        text += &format!("[g{group}:vars]\n");
        for at in 0..20 {
            text += &format!("var_{at}=value {group}\n");
        }
    }
    text += "[lab:children]\n";
    for group in 0..100 {
        text += &format!("g{group}\n");
    }
    text
}

#[test]
fn a_large_inventory_is_read_in_a_moment() {
    let text = large();
    let started = std::time::Instant::now();
    let inventory = ini(&text);
    let count: usize =
        inventory.hosts().filter_map(|host| inventory.vars_of(host, None).ok()).map(|vars| vars.len()).sum();
    let took = started.elapsed();
    assert_eq!((inventory.hosts().count(), count), (1000, 23_000));
    // Unoptimised and beside other tests; optimised it is some milliseconds.
    assert!(took.as_millis() < 3000, "{took:?}");
}

#[test]
fn many_groups_in_a_chain_are_no_trouble() {
    let mut text = String::from("[g0]\nh\n");
    for at in 1..2000 {
        text += &format!("[g{at}:children]\ng{}\n", at - 1);
    }
    let inventory = ini(&text);
    assert_eq!(inventory.groups_of("h").count(), 2001);
    assert_eq!(inventory.matching("g1999", None).ok(), Some(vec!["h"]));
}

fn lines() -> impl Strategy<Value = String> {
    let words = [
        "[",
        "]",
        ":",
        "a",
        "b",
        "all",
        "vars",
        "children",
        "hosts",
        "ungrouped",
        "\n",
        " ",
        "=",
        "'",
        "\"",
        "#",
        "1",
        "3",
        "[1:3]",
        "[a:c]",
        "::1",
        "\\",
        "{",
        "}",
        ",",
        "True",
        "ansible_group_priority",
        "-",
        "é",
        "  ",
        "~",
        "!",
        "&",
        "*",
    ];
    proptest::collection::vec(proptest::sample::select(words.to_vec()), 0..40).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, ..ProptestConfig::default() })]

    #[test]
    fn no_text_makes_it_panic(text in lines(), any in "\\PC{0,80}", pattern in lines()) {
        for text in [&text, &any] {
            for name in ["hosts", "hosts.yml"] {
                match Inventory::of_text(name, text) {
                    Ok(inventory) => {
                        for host in inventory.hosts() {
                            prop_assert!(inventory.vars_of(host, None).is_ok());
                            let found = inventory.matching(host, None);
                            prop_assert!(host.contains([':', ',', '[', '~', '*', '?', '@']) || found.is_ok_and(|hosts| hosts.contains(&host)), "{}", host);
                        }
                        let _ = inventory.matching(&pattern, None);
                        let _ = inventory.matching(&any, Some(&pattern)).map_err(|error| error.to_string());
                    }
                    Err(errors) => prop_assert!(!shown(&errors).is_empty()),
                }
            }
        }
    }

    #[test]
    fn literals_read_any_text(text in "\\PC{0,40}", other in "[-+0-9a-fxeo_.'\"\\[\\]{}(),: #TrueNone\\\\]{0,30}") {
        let _ = literal::value(&text);
        let _ = literal::value(&other);
    }

    #[test]
    fn ranges_give_what_they_say(from in 0usize..200, count in 0usize..50, width in 1usize..5) {
        let to = from + count;
        let name = format!("ws[{from:0width$}:{to:0width$}].lab");
        if let Ok(names) = names::expand(&name) {
            prop_assert_eq!(names.len(), count + 1);
            prop_assert_eq!(&names[0], &format!("ws{from:0width$}.lab"));
            prop_assert_eq!(&names[count], &format!("ws{to:0width$}.lab"));
        } else {
            let digits = |number: usize| format!("{number:0width$}").len();
            prop_assert!(digits(from) != digits(to));
        }
    }
}
