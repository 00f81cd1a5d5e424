//! What comes after a run: going on where it stopped, and taking it back.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::fleet::{Controller, Host, Said, fleet};

/// A rollout that stopped goes on with exactly the hosts that are not done, and handlers that were notified still run.
#[test]
fn a_rollout_is_resumed() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(4);
    let controller = Controller::of(fleet, &hosts);
    controller.write(
        "rollout.yml",
        "- hosts: all\n  gather_facts: false\n  serial: [1, 2, 100%]\n  max_fail_percentage: 0\n  tasks:\n\
         \x20   - copy: {dest: /etc/conf, content: x}\n      notify: Tell\n\
         \x20   - command: test ! -e /etc/sick\n      changed_when: false\n\
         \x20   - copy: {dest: /etc/done, content: x}\n  handlers:\n\
         \x20   - name: Tell\n      copy: {dest: /etc/told, content: x}\n",
    );
    hosts[1].write("/etc/sick", "");
    let said = controller.apply("rollout.yml", &[]);
    said.code(2);
    let there = |host: &Host, path: &str| host.path(path).exists();
    assert!(there(&hosts[0], "/etc/told") && there(&hosts[0], "/etc/done"), "{}", said.all());
    assert!(there(&hosts[1], "/etc/conf") && !there(&hosts[1], "/etc/told"), "{}", said.all());
    assert!(!there(&hosts[3], "/etc/conf"), "never begun\n{}", said.all());
    assert!(said.err.contains("--resume"), "{}", said.all());

    // Whoever looked at the first again would put this back.
    hosts[0].sh("rm /etc/conf");
    hosts[1].sh("rm /etc/sick");
    let said = controller.apply("rollout.yml", &["--resume"]);
    said.code(0);
    assert!(!there(&hosts[0], "/etc/conf"), "the first was done\n{}", said.all());
    for host in &hosts[1..] {
        assert!(there(host, "/etc/told") && there(host, "/etc/done"), "{}\n{}", host.name(), said.all());
    }
    assert!(!said.err.contains("--resume"), "nothing is left to go on with\n{}", said.all());
    // And there is nothing to resume any more.
    let said = controller.apply("rollout.yml", &["--resume"]);
    assert_ne!(said.code, Some(0), "{}", said.all());
}

/// What a host's /etc and /srv/site are, without times, a line each.
fn state(host: &Host) -> BTreeSet<String> {
    let attributes = host.sh("cd / && find etc srv/site -printf '%p %M %u:%g %l\\n'");
    let contents = host.sh("cd / && find etc srv/site -type f -exec sha256sum {} +");
    attributes.lines().chain(contents.lines()).map(str::to_string).collect()
}

#[track_caller]
fn assert_same(host: &Host, then: &BTreeSet<String>, said: &Said) {
    let now = state(host);
    let differ: Vec<&String> = now.symmetric_difference(then).collect();
    assert!(differ.is_empty(), "{}: {differ:#?}\n{}", host.name(), said.all());
}

/// Runs are listed and taken back over SSH, by root and by one who becomes root: the machine is then as it was.
#[test]
fn a_run_is_taken_back() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(3);
    let controller = Controller::of(fleet, &hosts);
    let third = hosts[2].name();
    controller
        .edit("inventory", |text| text.replace(&format!("{third} "), &format!("{third} ansible_connection=openssh ")));
    let second = hosts[1].name();
    controller.edit("inventory", |text| {
        text.replace(&format!("{second} "), &format!("{second} ansible_user=admin ansible_become=true "))
    });
    controller.write(
        "site.yml",
        "- hosts: all\n  tasks:\n    - copy: {dest: /etc/new, content: x}\n\
         \x20   - lineinfile: {path: /etc/hosts, line: 10.77.0.1 controller}\n\
         \x20   - copy: {dest: /srv/site/old, content: other, mode: '0600'}\n\
         \x20   - file: {path: /srv/site/gone, state: absent}\n\
         \x20   - file: {path: /srv/site/folder/inner, state: directory}\n\
         \x20   - file: {path: /srv/site/link, src: old, state: link}\n",
    );
    hosts.iter().for_each(|host| {
        host.write("/srv/site/old", "old\n");
        host.write("/srv/site/gone", "not for long\n");
    });
    let before: Vec<_> = hosts.iter().map(state).collect();
    controller.apply("site.yml", &[]).code(0);
    let applied: Vec<_> = hosts.iter().map(state).collect();

    let listed = controller.run(&["runs", "all"]);
    listed.code(0);
    for host in hosts.iter() {
        assert!(listed.out.contains(&host.name()) && listed.out.contains("site.yml"), "{}", listed.all());
    }
    let asked = controller.run(&["rollback", "all"]);
    assert_ne!(asked.code, Some(0), "nobody was there to say yes\n{}", asked.all());
    let check = controller.run(&["rollback", "all", "--check"]);
    check.code(0);
    assert!(check.out.contains("-10.77.0.1 controller"), "{}", check.all());
    for (host, applied) in hosts.iter().zip(&applied) {
        assert_same(host, applied, &check);
    }
    let back = controller.run(&["rollback", "all", "--yes"]);
    back.code(0).within(Duration::from_secs(20));
    for (host, before) in hosts.iter().zip(&before) {
        assert_same(host, before, &back);
        assert_eq!(host.count("agent-"), 0);
    }
    let listed = controller.run(&["runs", "all"]);
    assert_eq!(listed.out.matches("rolled back").count(), hosts.len(), "{}", listed.all());
}
