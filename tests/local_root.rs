//! The live machine, the executor and the modules of packages and system for real: as root, with real apt and real dnf,
//! inside disposable roots. Says `skipped` and why where that can't be done.

mod local_root {
    pub mod repositories;
    pub mod root;
}

use std::fs;

use local_root::repositories;
use local_root::root::{Root, assert_success, why_not};
use serde_json::Value;
use vfio_provision::change::Plan;
use vfio_provision::host::{Host, Live, Machine, Overlay};
use vfio_provision::modules::{Side, find};

/// A task: its name, its module, its parameters.
type Task = (String, String, Value);

fn tasks(path: &str) -> Vec<Task> {
    let plays: Value = serde_yaml::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let tasks = plays[0]["tasks"].as_array().unwrap();
    let one = |task: &Value| {
        let (module, parameters) = task.as_object().unwrap().iter().find(|(key, _)| *key != "name").unwrap();
        (task["name"].as_str().unwrap().to_string(), module.clone(), parameters.clone())
    };
    tasks.iter().map(one).collect()
}

fn ask(host: &dyn Host, (name, module, parameters): &Task) -> Option<Plan> {
    let Side::Machine(plan) = find(module).unwrap_or_else(|| panic!("no module {module}")).side else {
        panic!("{module} is not for a machine")
    };
    match plan(parameters.clone(), host) {
        Ok(plan) => Some(plan),
        Err(error) if error.is_unknown() => None,
        Err(error) => panic!("{name}: {error}"),
    }
}

/// Does the tasks as an agent does, proves each, and answers what was shown.
fn apply(machine: &dyn Machine, tasks: &[Task]) -> Vec<String> {
    let mut shown = Vec::new();
    for task in tasks {
        let mut goes_on = true;
        for stage in 0.. {
            assert!(stage < 5, "{} goes on for ever", task.0);
            let Some(plan) = ask(machine, task) else {
                shown.push(format!("{}: unknown", task.0));
                break;
            };
            assert!(goes_on || plan.actions.is_empty(), "{} did not converge: {:#?}", task.0, plan.actions);
            goes_on = plan.staged;
            for action in &plan.actions {
                for diff in &action.diffs {
                    shown.push(format!("{}: {} {}", task.0, diff.kind, diff.path));
                }
                machine.perform(&action.op, &mut |_| {}).unwrap_or_else(|error| panic!("{}: {error}", task.0));
            }
            if plan.actions.is_empty() || plan.act {
                break;
            }
        }
    }
    shown
}

/// Not a test of its own: what the tests below run inside a disposable root.
#[test]
#[ignore = "runs inside a disposable root, started by the other tests"]
fn inside() {
    let Ok(play) = std::env::var("VFIO_PROVISION_PLAY") else { return };
    let tasks = tasks(&play);
    let planned = apply(&Overlay::new(Live::new()), &tasks);
    let done = apply(&Live::new(), &tasks);
    println!("{}", done.join("\n"));
    // A dry run shows what an apply does, except where it says that it can't know.
    for task in &tasks {
        let of = |all: &[String]| -> Vec<String> {
            all.iter().filter(|line| line.starts_with(&format!("{}: ", task.0))).cloned().collect()
        };
        let (planned, done) = (of(&planned), of(&done));
        let unknown = planned.iter().any(|line| line.ends_with(": unknown"));
        assert!(unknown || planned == done, "planned {planned:#?}, done {done:#?}");
        assert!(!done.is_empty() && !done.iter().any(|line| line.ends_with(": unknown")), "{done:#?}");
    }
    assert_eq!(apply(&Live::new(), &tasks), Vec::<String>::new(), "a second time there is nothing to change");
}

fn applies(os: &'static str, name: &str, fill_in: &dyn Fn(&Root) -> Vec<(&'static str, String)>) {
    if let Some(why) = why_not() {
        eprintln!("skipped: {why}");
        return;
    }
    let root = Root::new(os);
    let folder = format!("{}/tests/local_root", env!("CARGO_MANIFEST_DIR"));
    let filled = fill_in(&root);
    for part in ["yml", "later.yml"] {
        let mut play = fs::read_to_string(format!("{folder}/{name}.{part}")).unwrap();
        for (key, value) in &filled {
            play = play.replace(&format!("@{key}@"), value);
        }
        fs::write(root.share().join(part), play).unwrap();
    }
    fs::copy(format!("{folder}/{name}.check.sh"), root.share().join("check.sh")).unwrap();
    let program = std::env::current_exe().unwrap();
    let output = root.run(&format!(
        "for play in yml later.yml; do\nVFIO_PROVISION_PLAY=/srv/share/$play /srv/bin/{} --ignored --exact inside --nocapture \
         >> /tmp/shown || {{ cat /tmp/shown; exit 1; }}\ndone\nsh /srv/share/check.sh",
        program.file_name().unwrap().to_str().unwrap()
    ));
    assert_success(name, &output);
}

#[test]
fn debian_with_real_apt() {
    applies("debian", "debian", &|root| {
        repositories::apt(&root.share());
        vec![("SHA256", repositories::sha256(&root.share().join("files/vp-url_4.0-1_all.deb")))]
    });
}

#[test]
fn enterprise_linux_with_real_dnf() {
    applies("el", "el", &|root| {
        let fingerprint = repositories::dnf(&root.share());
        let sha256 = repositories::sha256(&root.share().join("files/vp-url-4.0-1.el9.noarch.rpm"));
        vec![("FINGERPRINT", fingerprint), ("SHA256", sha256)]
    });
}
