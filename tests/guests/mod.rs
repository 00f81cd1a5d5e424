//! A private libvirtd in namespaces of its own, and the round "plan, do, plan again" on it.

pub mod around;
pub mod corpus;
pub mod described;
pub mod firmware;
mod quick;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use vfio_provision::change::{Op, Plan, executor};
use vfio_provision::host::model::predict;
use vfio_provision::host::{Host, Live, Overlay, Result};
use vfio_provision::modules::{Side, find};

const INSIDE: &str = "VFIO_PROVISION_TEST_GUESTS";
/// libvirtd asks each QEMU binary what it can do before it answers, which takes a while.
const LONGEST: Duration = Duration::from_secs(540);

fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("this needs root".to_string());
    }
    for tool in ["unshare", "libvirtd", "virtlogd", "virsh", "qemu-system-x86_64", "qemu-img", "dnsmasq"] {
        let folders = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];
        if !folders.iter().any(|folder| Path::new(folder).join(tool).exists()) {
            return Some(format!("{tool} is not installed"));
        }
    }
    if !Path::new("/dev/kvm").exists() {
        return Some("there is no /dev/kvm, and libvirt refuses guests of type kvm without".to_string());
    }
    let fine = Command::new("unshare").args(["-m", "-n", "-p", "-f", "true"]).status().is_ok_and(|s| s.success());
    (!fine).then(|| "there are no namespaces".to_string())
}

/// Runs `inside` in a process of its own that has a libvirtd of its own; skipped, with one word about why, where that
/// can't be.
pub fn enter(test: &str, inside: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        inside();
        return;
    }
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/libvirt_real/namespace.sh");
    let mut child = Command::new("unshare")
        .args(["-m", "-n", "-p", "-f", "--kill-child", "--mount-proc", "sh", script])
        // A shell as the first process takes in what others leave behind: libvirt waits for a QEMU until it is gone.
        .args(["sh", "-c", "\"$@\"; exit $?", "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .env_remove("LIBVIRT_DEFAULT_URI")
        .spawn()
        .unwrap();
    let begin = Instant::now();
    let longest = if full() { LONGEST * 4 } else { LONGEST };
    let status = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status,
            None if begin.elapsed() > longest => {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("not done after {longest:?}");
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    assert!(status.success(), "inside: {status}");
}

/// Is everything tried that can be, and not only what an everyday run has time for?
pub fn full() -> bool {
    std::env::var_os("VFIO_PROVISION_GUESTS_FULL").is_some()
}

/// What virsh prints; an error of its own ends the test.
pub fn virsh(arguments: &[&str]) -> String {
    try_virsh(arguments).unwrap_or_else(|why| panic!("virsh {arguments:?}: {why}"))
}

/// What virsh prints, or says.
pub fn try_virsh(arguments: &[&str]) -> std::result::Result<String, String> {
    let output = Command::new("virsh").args(["-q", "-c", "qemu:///system"]).args(arguments).output().unwrap();
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

pub fn yaml(text: &str) -> Value {
    serde_yaml::from_str(text).unwrap_or_else(|why| panic!("{text}: {why}"))
}

pub fn plan_on(host: &dyn Host, module: &str, parameters: &Value) -> Result<Plan> {
    match &find(module).unwrap().side {
        Side::Machine(plan) => plan(parameters.clone(), host),
        Side::Controller => unreachable!(),
    }
}

pub fn plan(module: &str, parameters: &Value) -> Result<Plan> {
    plan_on(&Live::new(), module, parameters)
}

/// The names of what a plan changes, without the kind.
pub fn shown(plan: &Plan) -> Vec<String> {
    plan.actions.iter().flat_map(|action| &action.diffs).map(|diff| diff.path.clone()).collect()
}

/// Plans in a dry run, foresees, plans again, which must find nothing to do; then plans and does it, and plans again.
/// Answers what was shown.
pub fn try_apply(module: &str, parameters: &Value) -> std::result::Result<Vec<String>, String> {
    let foreseen = Overlay::new(Live::new());
    let ask = || plan_on(&foreseen, module, parameters);
    let dry = rounds(&ask, &mut |op| predict(&foreseen, op).map_err(|e| e.to_string()))
        .map_err(|why| format!("in a dry run: {why}"))?;
    // A live machine remembers for the time of one question what libvirt has.
    let done = rounds(&|| plan(module, parameters), &mut |op| {
        executor::perform(&Live::new(), op, &mut |_| ()).map(drop).map_err(|e| e.to_string())
    })?;
    if dry == done { Ok(done) } else { Err(format!("a dry run said {dry:?}, and {done:?} was done")) }
}

fn rounds(
    ask: &dyn Fn() -> Result<Plan>,
    perform: &mut dyn FnMut(&Op) -> std::result::Result<(), String>,
) -> std::result::Result<Vec<String>, String> {
    let mut shown = Vec::new();
    for _ in 0..4 {
        let next = ask().map_err(|e| e.to_string())?;
        for action in &next.actions {
            perform(&action.op).map_err(|why| format!("{why}\n{:?}\n{:?}", action.diffs, action.op))?;
            shown.extend(action.diffs.iter().map(|diff| diff.path.clone()));
        }
        if !next.staged {
            break;
        }
    }
    let left = ask().map_err(|e| e.to_string())?;
    let diffs: Vec<_> = left.actions.iter().flat_map(|action| &action.diffs).collect();
    if left.actions.is_empty() { Ok(shown) } else { Err(format!("did not converge: {diffs:#?}\n{:#?}", left.actions)) }
}

pub fn apply(module: &str, parameters: &Value) -> Vec<String> {
    try_apply(module, parameters).unwrap_or_else(|why| panic!("{module} {parameters}: {why}"))
}
