//! What modules plan, done for real: the second plan must be empty, and what is there must be what a dry run foresaw.

use serde_json::{Value, json};

use super::*;
use crate::host::Overlay;
use crate::host::model::predict;
use crate::host::overlay::testing::plan;

fn converge(disk: &Disk, module: &str, parameters: &Value) {
    let planned = plan(disk, module, parameters.clone()).unwrap();
    assert!(!planned.actions.is_empty(), "{module} {parameters}");
    let foreseen = Overlay::new(Disk(disk.0.clone()));
    for action in &planned.actions {
        predict(&foreseen, &action.op).unwrap();
    }
    let foreseen: Vec<_> = everything(&foreseen, "/");
    for action in &planned.actions {
        done(disk, &action.op).unwrap();
    }
    let left = plan(disk, module, parameters.clone()).unwrap();
    assert!(left.actions.is_empty(), "{module} {parameters}: {:#?}", left.actions);
    assert_eq!(foreseen, everything(disk, "/"), "{module} {parameters}");
}

/// Path, kind, mode, and content or target where it is known.
fn everything(host: &dyn Host, folder: &str) -> Vec<(String, FileKind, u32, Option<Vec<u8>>)> {
    let mut all = Vec::new();
    for name in host.list(folder).unwrap() {
        let path = format!("{}/{name}", folder.trim_end_matches('/'));
        let stat = host.lstat(&path).unwrap().unwrap();
        let content = match stat.kind {
            FileKind::File if !name.starts_with("fetched") => Some(host.read(&path).unwrap().unwrap()),
            FileKind::Link => Some(host.read_link(&path).unwrap().unwrap().into_bytes()),
            _ => None,
        };
        all.push((path.clone(), stat.kind, stat.mode, content));
        if stat.kind == FileKind::Folder {
            all.extend(everything(host, &path));
        }
    }
    all
}

#[test]
fn plans_are_kept() {
    let (_dir, disk) = disk();
    for (module, parameters) in [
        ("file", json!({"path": "/etc/a/b", "state": "directory", "mode": "0750"})),
        ("copy", json!({"dest": "/etc/a/x.conf", "content": "one\n", "mode": "0600"})),
        ("copy", json!({"dest": "/etc/a/x.conf", "content": "two\n", "backup": true})),
        ("copy", json!({"dest": "/etc/new/", "content_base64": "AAE=", "src": "logo.bin", "directory_mode": "0700"})),
        ("copy", json!({"dest": "/etc/a/y.conf", "src": "/etc/a/x.conf", "remote_src": true})),
        ("lineinfile", json!({"path": "/etc/a/x.conf", "regexp": "^t", "line": "three"})),
        ("blockinfile", json!({"path": "/etc/a/x.conf", "block": "a\nb", "insertbefore": "BOF"})),
        ("replace", json!({"path": "/etc/a/x.conf", "regexp": "^[ab]$", "replace": "c"})),
        ("ini_file", json!({"path": "/etc/a/i.ini", "section": "s", "option": "o", "value": 1})),
        ("file", json!({"path": "/etc/l", "src": "a/x.conf", "state": "link"})),
        ("lineinfile", json!({"path": "/etc/l", "line": "through the link"})),
        ("get_url", json!({"url": "file:///etc/a/x.conf", "dest": "/etc/fetched", "mode": "0640"})),
        ("file", json!({"path": "/etc/a", "recurse": true, "mode": "0700"})),
        ("file", json!({"path": "/etc/t", "state": "touch", "mode": "0400"})),
        ("file", json!({"path": "/etc/l", "state": "absent"})),
        ("file", json!({"path": "/etc/a", "state": "absent"})),
    ] {
        if module == "file" && parameters["path"] == "/etc/a/b" {
            std::fs::create_dir(disk.at("/etc")).unwrap();
        }
        converge(&disk, module, &parameters);
    }
    assert_eq!(names(&disk.at("/etc")), ["fetched", "new", "t"]);
}
