//! A dpkg that was cut short: by a kill or a power cut in the middle of its work, after which apt refuses everything.

use super::manager::{LOCK_SECONDS, Manager};
use crate::change::{Diff, Effect, Op, Plan};
use crate::host::{Host, Result};

/// dpkg's journal: one file named by digits for each step that is not in its database yet. apt looks there too.
const JOURNAL: &str = "/var/lib/dpkg/updates";

/// Has dpkg finish what it began, where it was cut short.
///
/// # Errors
/// When dpkg's folder can't be read.
pub fn finish(host: &dyn Host, manager: Manager) -> Result<Plan> {
    let mut plan = Plan::nothing();
    if manager != Manager::Apt {
        return Ok(plan);
    }
    let steps = host.list(JOURNAL)?.into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    let effects: Vec<Effect> = steps.map(|name| Effect::Gone { path: format!("{JOURNAL}/{name}") }).collect();
    if effects.is_empty() {
        return Ok(plan);
    }
    // dpkg may also be at work right now, and it does not wait for another one as apt does. apt's check waits, and then
    // fails, because of this very interruption.
    let lock = format!("DPkg::Lock::Timeout={LOCK_SECONDS}");
    let mut wait = manager.run(["apt-get", "-q", "-o", &lock, "check"].map(String::from).to_vec());
    wait.any_code = true;
    plan.push(Op::Run(wait), Vec::new());
    let argv = ["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"];
    let mut run = manager.run(argv.map(String::from).to_vec());
    run.effects = effects;
    plan.push(Op::Run(run), vec![Diff::changed("package_database", "dpkg", "interrupted", "finished")]);
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::host::overlay::testing::{apply, machine, shown};

    #[test]
    fn an_interrupted_dpkg_finishes_before_apt_is_asked() {
        let debian = ("/etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n");
        let wanted = json!({"name": "vim=2:9.0-1"});
        let sound = machine(&[debian, ("/var/lib/dpkg/updates/tmp.i", "")]);
        assert!(!shown(&apply(&sound, "package", wanted.clone()).unwrap()).contains("dpkg"));
        let cut = machine(&[debian, ("/var/lib/dpkg/updates/0003", "Package: x\n")]);
        let text = shown(&apply(&cut, "package", wanted).unwrap());
        let (dpkg, vim) = (text.find("package_database dpkg").unwrap(), text.find("package vim").unwrap());
        assert!(dpkg < vim, "{text}");
    }
}
