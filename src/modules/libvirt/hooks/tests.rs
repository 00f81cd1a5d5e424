use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::json;

use super::*;
use crate::host::overlay::testing::{Machine, apply, machine, plan, shown};
use crate::host::{Model, Unit};

const SCRIPT: &str = "#!/bin/sh\necho hello\n";
const PATH: &str = "/etc/libvirt/hooks/qemu.d/win8/prepare/begin/10-x.sh";

fn host(more: &[(&str, &str)]) -> Machine {
    let mut files = vec![("/etc/libvirt/qemu.conf", ""), ("/var/lib/", "")];
    files.extend(more);
    let host = machine(&files);
    let unit = Unit { exists: true, enabled: "enabled".into(), active: true };
    host.put_unit("libvirtd.service", unit).unwrap();
    host
}

fn one() -> serde_json::Value {
    json!({"guest": "win8", "scripts": [{"event": "prepare/begin", "name": "10-x.sh", "content": SCRIPT}]})
}

#[test]
fn put_checked_restarted_once_and_taken_away() {
    let host = host(&[]);
    let done = apply(&host, "libvirt_hooks", one()).unwrap();
    let text = shown(&done);
    assert!(text.contains("unit libvirtd.service\nrunning → restarted"), "{text}");
    let check = |path: &str| {
        done.iter().find_map(|action| match &action.op {
            Op::WriteFile { path: written, validate, mode, .. } if written == path => Some((validate.clone(), *mode)),
            _ => None,
        })
    };
    for path in [PATH, DISPATCHER] {
        assert_eq!(check(path), Some((vec![vec!["sh".into(), "-n".into(), "%s".into()]], Some(0o755))), "{path}");
    }
    // A second script needs no restart, and one that is not listed any more goes.
    let other = json!({"guest": "win8", "scripts": [{"event": "release/end", "name": "a", "content": SCRIPT}]});
    let text = shown(&apply(&host, "libvirt_hooks", other).unwrap());
    assert!(
        !text.contains("restarted") && text.contains("folder /etc/libvirt/hooks/qemu.d/win8/prepare\n- empty"),
        "{text}"
    );
    apply(&host, "libvirt_hooks", json!({"guest": "win8", "state": "absent"})).unwrap();
    assert!(!host.exists("/etc/libvirt/hooks/qemu.d").unwrap() && host.exists(DISPATCHER).unwrap());
    apply(&host, "libvirt_hooks", json!({"state": "absent"})).unwrap();
    assert!(!host.exists(DISPATCHER).unwrap());
    assert!(apply(&host, "libvirt_hooks", json!({"state": "absent"})).unwrap().is_empty());
}

#[test]
fn scripts_of_others_stay() {
    let host = host(&[("/etc/libvirt/hooks/qemu.d/win8/prepare/begin/mine", SCRIPT)]);
    apply(&host, "libvirt_hooks", one()).unwrap();
    apply(&host, "libvirt_hooks", json!({"guest": "win8", "state": "absent"})).unwrap();
    assert!(host.exists("/etc/libvirt/hooks/qemu.d/win8/prepare/begin/mine").unwrap());
    assert_eq!(plan(&host, "libvirt_hooks", json!({"state": "absent"})).unwrap().notes.len(), 1);
}

#[test]
fn a_dispatcher_of_someone_else() {
    let like = host(&[(DISPATCHER, "#!/bin/bash\nHOOK=\"$(dirname $0)/qemu.d/$1/$2/$3\"\n")]);
    let done = shown(&apply(&like, "libvirt_hooks", one()).unwrap());
    assert!(!done.contains("restarted") && done.contains("10-x.sh"), "{done}");
    let unlike = host(&[(DISPATCHER, "#!/bin/sh\nexit 0\n")]);
    let error = plan(&unlike, "libvirt_hooks", one()).unwrap_err().to_string();
    assert!(error.contains("someone else's"), "{error}");
}

#[test]
fn refusals() {
    let script = |event: &str, name: &str, content: &str| json!({"guest": "win8", "scripts": [{"event": event, "name": name, "content": content}]});
    for (parameters, why) in [
        (json!({"scripts": [{"event": "a", "name": "b", "content": "c"}]}), "`guest` is missing"),
        (json!({"guest": "../x"}), "not the name of a guest"),
        (script("prepare", "x", SCRIPT), "no event `prepare`"),
        (script("prepare/begin", "a/b", SCRIPT), "not the name of a file"),
        (script("prepare/begin", "x", "echo\n"), "does not begin with"),
        (script("prepare/begin", "x", "#!/bin/sh\nsleep 1; virsh list\n"), "calls virsh"),
    ] {
        let error = plan(&host(&[]), "libvirt_hooks", parameters.clone()).unwrap_err().to_string();
        assert!(error.contains(why), "{parameters}: {error}");
    }
    // A word about it is no call.
    assert!(plan(&host(&[]), "libvirt_hooks", script("prepare/begin", "x", "#!/bin/sh\n# never virsh\n")).is_ok());
}

/// The real dispatcher in a folder, with these scripts.
fn real(folder: &Path, scripts: &[(&str, &str)]) {
    let put = |path: &Path, text: &str| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    put(&folder.join("qemu"), TEXT);
    for (path, text) in scripts {
        put(&folder.join("qemu.d").join(path), text);
    }
}

fn call(folder: &Path, arguments: &[&str]) -> Output {
    let script = format!("printf '<domain/>' | sh {} \"$@\"", folder.join("qemu").display());
    Command::new("sh").args(["-c", &script, "sh"]).args(arguments).stdin(Stdio::null()).output().unwrap()
}

#[test]
fn the_dispatcher_runs_what_it_should() {
    let folder = tempfile::tempdir().unwrap();
    let say = "#!/bin/sh\necho \"${0##*/}: $* $(cat)\"\n";
    let fail = "#!/bin/sh\necho failing\nexit 3\n";
    real(
        folder.path(),
        &[
            ("a guest/prepare/begin/20-b", say),
            ("a guest/prepare/begin/10-a", say),
            ("a guest/start/begin/10-a", fail),
            ("a guest/start/begin/20-b", say),
            ("a guest/release/end/10-a", fail),
            ("a guest/release/end/20-b", say),
        ],
    );
    fs::write(folder.path().join("qemu.d/a guest/prepare/begin/30-not-executable"), say).unwrap();
    let out = |output: &Output| String::from_utf8_lossy(&output.stdout).into_owned();
    let begin = call(folder.path(), &["a guest", "prepare", "begin", "-"]);
    assert_eq!(out(&begin), "10-a: a guest prepare begin - <domain/>\n20-b: a guest prepare begin - <domain/>\n");
    assert_eq!(begin.status.code(), Some(0));
    // What begins stops at the first failure, what ends goes on; both say so.
    let start = call(folder.path(), &["a guest", "start", "begin", "-"]);
    assert_eq!((out(&start).as_str(), start.status.code()), ("failing\n", Some(3)));
    let end = call(folder.path(), &["a guest", "release", "end", "-"]);
    assert_eq!(end.status.code(), Some(3));
    assert_eq!(out(&end), "failing\n20-b: a guest release end - <domain/>\n");
    // Guests without scripts, and names that lead elsewhere.
    for guest in ["other", "..", "../a guest", ""] {
        let none = call(folder.path(), &[guest, "prepare", "begin", "-"]);
        assert_eq!((out(&none).as_str(), none.status.code()), ("", Some(0)), "{guest}");
    }
}
