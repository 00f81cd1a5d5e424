//! Journals are written down by hand here, and taken back on small machines.

use std::collections::BTreeSet;

use super::*;
use crate::change::{Action, Content, Effect, Op, Run};
use crate::host::overlay::testing::machine;
use crate::host::{Empty, Error, Host, Machine, Overlay, Result};

/// Does these actions and answers what a journal would say of them, with the copies that it kept.
fn done(host: &Overlay<Empty>, actions: &[(Op, Option<&[&str]>)]) -> (Vec<Deed>, Vec<Vec<u8>>) {
    let mut copies = Vec::new();
    let mut deeds = Vec::new();
    for (n, (op, undo)) in actions.iter().enumerate() {
        let mut keep = |bytes: &[u8]| {
            copies.push(bytes.to_vec());
            Ok(copies.len().to_string())
        };
        let touched = touched(host, op, &mut keep).unwrap();
        host.perform(op, &mut |_| ()).unwrap();
        let after = touched.iter().map(|one| look(host, &one.subject).unwrap()).collect();
        let (name, argv) = match op {
            Op::Run(run) => ("run", Some(run.argv.clone())),
            Op::Remove { .. } => ("remove", None),
            Op::MakeFolder { .. } => ("make_folder", None),
            _ => ("write_file", None),
        };
        deeds.push(Deed {
            action: n + 1,
            task: "a task".into(),
            op: name.into(),
            subject: argv.as_ref().map(|argv| argv.join(" ")).unwrap_or_default(),
            touched,
            will: None,
            argv,
            undo: undo.map(|undo| undo.iter().map(|word| word.to_string()).collect()),
            quiet: false,
            secret: false,
            reboot: false,
            undoes: None,
            after: Some(after),
        });
    }
    (deeds, copies)
}

fn undo(host: &dyn Host, deeds: &[Deed], copies: &[Vec<u8>], later: Vec<Chosen>) -> Result<Undoing> {
    let copy = |_: &str, name: &str| {
        let at: usize = name.parse().map_err(|_| Error::failed("no number"))?;
        copies.get(at - 1).cloned().ok_or_else(|| Error::failed("no such copy"))
    };
    let chosen = vec![Chosen { run: "r".into(), deeds: deeds.to_vec() }];
    let scene =
        Scene { chosen, later, done: BTreeSet::new(), begun: false, force: false, packages: false, copy: &copy };
    plan(host, &scene)
}

fn words(undoing: &Undoing) -> Vec<String> {
    let word = |action: &Action| match &action.op {
        Op::WriteFile { path, content: Content::Bytes(bytes), .. } => {
            format!("write {path} {}", String::from_utf8_lossy(bytes).trim_end())
        }
        Op::Remove { path } => format!("remove {path}"),
        Op::MakeFolder { path, .. } => format!("folder {path}"),
        Op::Run(run) => run.argv.join(" "),
        other => format!("{other:?}"),
    };
    undoing.plan.actions.iter().map(word).collect()
}

fn write(path: &str, text: &str) -> Op {
    Op::WriteFile {
        path: path.into(),
        content: Content::Bytes(text.into()),
        mode: None,
        owner: None,
        group: None,
        validate: Vec::new(),
    }
}

#[test]
fn of_a_path_only_the_first_state_counts_unless_a_command_lies_between() {
    let host = machine(&[("/etc/a", "0\n")]);
    let (deeds, copies) = done(&host, &[(write("/etc/a", "1\n"), None), (write("/etc/a", "2\n"), None)]);
    assert_eq!(words(&undo(&host, &deeds, &copies, Vec::new()).unwrap()), ["write /etc/a 0"]);

    let host = machine(&[("/etc/a", "0\n")]);
    let effect = Effect::File { path: "/etc/made".into(), content: Some("x\n".into()), mode: None };
    let run = Op::Run(Run::new(["make-it"], vec![effect]));
    let (deeds, copies) =
        done(&host, &[(write("/etc/a", "1\n"), None), (run, Some(&["unmake-it"])), (write("/etc/a", "2\n"), None)]);
    let undoing = undo(&host, &deeds, &copies, Vec::new()).unwrap();
    assert_eq!(words(&undoing), ["write /etc/a 1", "unmake-it", "write /etc/a 0"]);
    for action in &undoing.plan.actions {
        host.perform(&action.op, &mut |_| ()).unwrap();
    }
    assert_eq!(host.read_text("/etc/a").unwrap().unwrap(), "0\n");
    assert!(!host.exists("/etc/made").unwrap());
    assert!(undo(&host, &deeds, &copies, Vec::new()).unwrap().plan.actions.is_empty(), "a second time does something");
}

#[test]
fn what_was_made_on_the_way_and_taken_away_again_is_not_made_anew() {
    let host = machine(&[("/boot/image", "old\n")]);
    let fresh = Effect::File { path: "/boot/fresh".into(), content: Some("new\n".into()), mode: None };
    let (deeds, copies) = done(
        &host,
        &[
            (Op::Run(Run::new(["dracut"], vec![fresh])), None),
            (write("/boot/image", "new\n"), None),
            (Op::Remove { path: "/boot/fresh".into() }, None),
        ],
    );
    let undoing = undo(&host, &deeds, &copies, Vec::new()).unwrap();
    assert_eq!(words(&undoing), ["write /boot/image old"]);
    assert!(undoing.plan.warnings.is_empty(), "{:?}", undoing.plan.warnings);
}

#[test]
fn what_follows_from_files_is_run_again_at_the_end_and_only_then() {
    let host = machine(&[("/etc/a", "0\n")]);
    let again: &[&str] = &["update-initramfs", "-u"];
    let run = || Op::Run(Run::new(again.iter().copied(), Vec::new()));
    let actions = [(write("/etc/a", "1\n"), None), (run(), Some(again)), (run(), Some(again))];
    let (deeds, copies) = done(&host, &actions);
    let undoing = undo(&host, &deeds, &copies, Vec::new()).unwrap();
    assert_eq!(words(&undoing), ["write /etc/a 0", "update-initramfs -u"]);
    host.perform(&write("/etc/a", "0\n"), &mut |_| ()).unwrap();
    assert!(undo(&host, &deeds, &copies, Vec::new()).unwrap().plan.actions.is_empty());
}

#[test]
fn others_work_is_not_lost() {
    let host = machine(&[("/etc/a", "0\n")]);
    let folder = Op::MakeFolder { path: "/etc/d".into(), mode: None, owner: None, group: None };
    let (deeds, copies) = done(&host, &[(write("/etc/a", "1\n"), None), (folder, None)]);
    host.perform(&write("/etc/d/theirs", "x\n"), &mut |_| ()).unwrap();
    let undoing = undo(&host, &deeds, &copies, Vec::new()).unwrap();
    assert_eq!(words(&undoing), ["write /etc/a 0"]);
    assert!(undoing.plan.warnings.iter().any(|w| w.contains("/etc/d stays as it is")), "{:?}", undoing.plan.warnings);

    let later = vec![Chosen { run: "r2".into(), deeds: deeds.get(..1).unwrap().to_vec() }];
    let Err(error) = undo(&host, &deeds, &copies, later) else { panic!("a later run was lost") };
    assert!(error.message.contains("r2: /etc/a"), "{error}");

    host.perform(&write("/etc/a", "theirs\n"), &mut |_| ()).unwrap();
    let Err(error) = undo(&host, &deeds, &copies, Vec::new()) else { panic!("somebody's change was lost") };
    assert!(error.message.contains("changed by somebody else since: /etc/a"), "{error}");
}

#[test]
fn packages_and_what_only_runs_stay_and_are_named() {
    let host = machine(&[("/sys/module/", "")]);
    let package = Effect::Package { name: "qemu".into(), version: Some("1".into()), present: true };
    let module = Effect::Folder { path: "/sys/module/vfio".into() };
    let (deeds, copies) = done(
        &host,
        &[
            (Op::Run(Run::new(["yum", "install", "qemu"], vec![package])), Some(&["yum", "remove", "qemu"])),
            (Op::Run(Run::new(["modprobe", "vfio"], vec![module])), Some(&["modprobe", "-r", "vfio"])),
            (Op::Run(Run::new(["echo", "hello"], Vec::new())), None),
        ],
    );
    let undoing = undo(&host, &deeds, &copies, Vec::new()).unwrap();
    assert_eq!(words(&undoing), Vec::<String>::new());
    let warnings = undoing.plan.warnings.join("\n");
    assert!(warnings.contains("`yum install qemu`") && warnings.contains("`echo hello`"), "{warnings}");
    assert_eq!(undoing.plan.reboot.len(), 1, "{:?}", undoing.plan.reboot);
}
