//! The program over SSH against a fleet of namespaced hosts: `docs/fleet.md`. Says `skipped` and why where there is none.

#[path = "fleet/mod.rs"]
mod fleet;

use std::time::Duration;

use fleet::{Controller, Far, Running, fleet};

/// The fleet itself, proven with OpenSSH's own client: all hosts are logged into, and each is another machine.
#[test]
fn all_hosts_answer_openssh() {
    let Some(fleet) = fleet() else { return };
    let begun = std::time::Instant::now();
    let hosts = fleet.take(fleet.size());
    let controller = Controller::of(fleet, &hosts);
    let logins: Vec<Running> = hosts
        .iter()
        .map(|host| {
            let mut ssh = controller.command("ssh");
            ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o"])
                .arg(format!("UserKnownHostsFile={}", controller.path("known_hosts").display()))
                .arg("-i")
                .arg(fleet.key())
                .arg(format!("root@{}", host.address()))
                .arg("hostname > /etc/was-here && id -un && cat /proc/1/comm && hostname");
            Running::of(ssh)
        })
        .collect();
    for (host, login) in hosts.iter().zip(logins) {
        let said = login.end(Duration::from_secs(30));
        said.code(0);
        assert_eq!(said.out, format!("root\nbash\n{}\n", host.name()), "{}", said.all());
        assert_eq!(host.read("/etc/was-here"), Some(format!("{}\n", host.name())));
    }
    assert!(!std::path::Path::new("/etc/was-here").exists(), "a host's file became one of this machine");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?} for {} hosts", begun.elapsed(), hosts.len());
    eprintln!("{} hosts in {:?}", hosts.len(), begun.elapsed());
}
