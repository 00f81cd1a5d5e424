//! What goes wrong: nothing is lost, nobody waits for ever, the others go on, and the exit code says so.

use std::time::Duration;

use crate::fleet::{Controller, Far, Host, Running, fleet, wait_until};

/// A file, something that goes on until it is let go, another file.
const SLOW: &str = "- hosts: all
  gather_facts: false
  tasks:
    - copy: {dest: /etc/before, content: x}
    - command: sh -c 'touch /tmp/begun; until [ -e /tmp/go ]; do sleep 0.1; done; touch /tmp/over'
      changed_when: false
    - copy: {dest: /etc/after, content: x}
";

/// Says soon when nobody answers.
fn impatient(controller: &Controller) {
    let words = "-o ConnectTimeout=3 -o ServerAliveInterval=1 -o ServerAliveCountMax=3 -o User";
    controller.edit("inventory", |text| text.replace("-o User", words));
}

fn begun(run: &mut Running, hosts: &[Host]) {
    run.until("the slow task", || hosts.iter().all(|host| host.path("/tmp/begun").exists()));
}

/// Lets the slow task end, when what was done to hosts and runs has had time to arrive.
fn let_go(hosts: &[Host]) {
    std::thread::sleep(Duration::from_secs(2));
    for host in hosts {
        std::fs::write(host.path("/tmp/go"), "").unwrap();
    }
}

/// The others are done, and on the one what was done before is whole and what comes after was not begun.
fn assert_stopped(hosts: &[Host], stopped: usize) {
    for (number, host) in hosts.iter().enumerate() {
        assert_eq!(host.read("/etc/before").as_deref(), Some("x"), "{}", host.name());
        assert_eq!(host.path("/etc/after").exists(), number != stopped, "{}", host.name());
        assert_eq!(host.leftovers("/etc"), Vec::<String>::new());
    }
}

#[test]
fn sshd_killed_in_the_middle() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(3);
    let controller = Controller::of(fleet, &hosts);
    controller.write("slow.yml", SLOW);
    let mut run = controller.start_apply("slow.yml", &[]);
    begun(&mut run, &hosts);
    assert!(hosts[1].kill("sshd") > 1);
    let_go(&hosts);
    let said = run.end(Duration::from_secs(30));
    said.code(4);
    assert_eq!(said.count(&hosts[1].name(), "unreachable"), 1);
    assert_eq!(said.count(&hosts[0].name(), "changed"), 2);
    // The agent notices, finishes what it is at and is gone.
    wait_until("the agent's end", || hosts[1].count("agent-") == 0);
    assert_stopped(&hosts, 1);
    hosts[1].start_sshd();
    controller.apply("slow.yml", &[]).code(0);
    assert_stopped(&hosts, usize::MAX);
}

#[test]
fn agent_killed_in_the_middle() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(3);
    let controller = Controller::of(fleet, &hosts);
    controller.write("slow.yml", SLOW);
    let mut run = controller.start_apply("slow.yml", &[]);
    begun(&mut run, &hosts);
    assert!(hosts[1].kill("agent-") >= 1);
    let_go(&hosts);
    let said = run.end(Duration::from_secs(30));
    said.code(4);
    assert_eq!(said.count(&hosts[1].name(), "unreachable"), 1);
    assert_stopped(&hosts, 1);
    // Its lock is stale, and holds nobody up.
    controller.apply("slow.yml", &[]).code(0);
    assert_stopped(&hosts, usize::MAX);
}

#[test]
fn link_down_for_five_seconds() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(2);
    let controller = Controller::of(fleet, &hosts);
    controller.write("slow.yml", SLOW);
    let mut run = controller.start_apply("slow.yml", &[]);
    begun(&mut run, &hosts);
    hosts[1].unplug();
    let_go(&hosts);
    std::thread::sleep(Duration::from_secs(3));
    hosts[1].replug();
    // TCP sends again at intervals that double.
    let said = run.end(Duration::from_secs(40));
    said.code(0);
    assert_stopped(&hosts, usize::MAX);
}

#[test]
fn link_down_for_good() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(3);
    let controller = Controller::of(fleet, &hosts);
    impatient(&controller);
    controller.write("slow.yml", SLOW);
    let mut run = controller.start_apply("slow.yml", &[]);
    begun(&mut run, &hosts);
    hosts[1].unplug();
    let_go(&hosts);
    let said = run.end(Duration::from_secs(40));
    said.code(4);
    assert_eq!(said.count(&hosts[1].name(), "unreachable"), 1);
    assert_eq!(said.count(&hosts[0].name(), "changed"), 2);
    assert!(hosts[0].path("/etc/after").exists() && hosts[2].path("/etc/after").exists());
    assert_eq!(hosts[1].leftovers("/etc"), Vec::<String>::new());
}

/// Hosts that are not there, that accept and never answer, and whose cable is out: none holds up the others.
#[test]
fn nobody_waits_for_the_silent() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(3);
    let silent = Far::silent(fleet);
    let controller = Controller::of(fleet, &hosts);
    impatient(&controller);
    controller.edit("inventory", |text| {
        let more = format!(
            "[workstations]\nmute ansible_host={} ansible_port={}\nnobody ansible_host=10.77.9.9\nclosed ansible_host=10.77.0.1 ansible_port=9\n",
            silent.address(),
            silent.port()
        );
        text.replace("[workstations]\n", &more)
    });
    controller
        .write("one.yml", "- hosts: all\n  gather_facts: false\n  tasks:\n    - copy: {dest: /etc/one, content: x}\n");
    hosts[0].unplug();
    let said = controller.apply("one.yml", &["--forks=7"]);
    said.code(4).within(Duration::from_secs(45));
    for name in ["mute", "nobody", "closed", &hosts[0].name()] {
        assert_eq!(said.count(name, "unreachable"), 1, "{name}\n{}", said.all());
    }
    hosts[1..].iter().for_each(|host| assert_eq!(host.read("/etc/one").as_deref(), Some("x"), "{}", said.all()));
}

/// A full disk: the file is as it was, nothing is left, and it counts as a failure; with an unreachable host it is 6.
#[test]
fn disk_full() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(3);
    let controller = Controller::of(fleet, &hosts);
    controller.write("big", &"0123456789abcdef\n".repeat(20_000));
    controller.write(
        "big.yml",
        "- hosts: all\n  gather_facts: false\n  tasks:\n    - copy: {src: big, dest: /srv/small/file}\n    - copy: {dest: /etc/after, content: x}\n",
    );
    hosts.iter().for_each(|host| host.write("/srv/small/nothing", ""));
    hosts[1].fill("/srv/small", 100);
    hosts[1].write("/srv/small/file", "old\n");
    let said = controller.apply("big.yml", &[]);
    said.code(2);
    assert_eq!(said.count(&hosts[1].name(), "failed"), 1);
    let why = said.ended(&hosts[1].name(), "failed").join("\n");
    assert!(why.contains("full") || why.contains("space"), "{why}");
    assert_eq!(hosts[1].read("/srv/small/file").as_deref(), Some("old\n"));
    assert_eq!(hosts[1].sh("ls -A /srv/small"), "ballast\nfile\n");
    assert!(!hosts[1].path("/etc/after").exists());
    assert_eq!(hosts[0].path("/srv/small/file").metadata().unwrap().len(), 340_000);

    controller.edit("inventory", |text| text.replace("-o User", "-o ConnectTimeout=2 -o User"));
    hosts[2].unplug();
    let said = controller.apply("big.yml", &[]);
    said.code(6);
    assert_eq!(said.count(&hosts[2].name(), "unreachable"), 1);
    hosts[2].replug();
    hosts[1].sh("rm /srv/small/ballast");
    controller.apply("big.yml", &[]).code(0);
    assert_eq!(hosts[1].path("/srv/small/file").metadata().unwrap().len(), 340_000);
}

/// The second is told who is there, and does nothing; the first ends as if nobody had come.
#[test]
fn two_controllers_at_once() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(2);
    let first = Controller::of(fleet, &hosts);
    let second = Controller::of(fleet, &hosts[..1]);
    first.write("slow.yml", SLOW);
    second.write(
        "late.yml",
        "- hosts: all\n  gather_facts: false\n  tasks:\n    - copy: {dest: /etc/late, content: x}\n",
    );
    let mut run = first.start_apply("slow.yml", &[]);
    begun(&mut run, &hosts);
    let refused = second.apply("late.yml", &[]);
    assert!(matches!(refused.code, Some(2 | 4)), "{}", refused.all());
    refused.within(Duration::from_secs(20));
    assert!(refused.all().contains("controller"), "who is there, and from where: {}", refused.all());
    assert!(!hosts[0].path("/etc/late").exists(), "{}", refused.all());
    let patient = Controller::of(fleet, &hosts[..1]);
    patient.write(
        "late.yml",
        "- hosts: all\n  tasks:\n    - copy: {src: /etc/after, dest: /etc/later, remote_src: true}\n",
    );
    let patient = patient.start_apply("late.yml", &["--wait-for-lock=30"]);
    let_go(&hosts);
    let patient = patient.end(Duration::from_secs(30));
    patient.code(0);
    assert_eq!(hosts[0].read("/etc/later").as_deref(), Some("x"), "it waited for the first\n{}", patient.all());
    run.end(Duration::from_secs(30)).code(0);
    assert_stopped(&hosts, usize::MAX);
    second.apply("late.yml", &[]).code(0);
    assert_eq!(hosts[0].read("/etc/late").as_deref(), Some("x"));
}

/// A controller that is killed leaves nothing running, and nobody is locked out by it.
#[test]
fn controller_killed_in_the_middle() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(2);
    let controller = Controller::of(fleet, &hosts);
    controller.write("slow.yml", SLOW);
    let mut run = controller.start_apply("slow.yml", &[]);
    begun(&mut run, &hosts);
    run.signal("KILL");
    let said = run.end(Duration::from_secs(5));
    assert_eq!(said.code, None);
    let_go(&hosts);
    for host in hosts.iter() {
        wait_until("the agent's end", || host.count("agent-") == 0);
        assert!(!host.path("/etc/after").exists(), "no new action after the end of input");
    }
    controller.apply("slow.yml", &[]).code(0);
    assert_stopped(&hosts, usize::MAX);
}

/// Ctrl-C once: what is under way is finished, nothing new begins, and there is a recap.
#[test]
fn interrupted_once() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(2);
    let controller = Controller::of(fleet, &hosts);
    controller.write("slow.yml", SLOW);
    let mut run = controller.start_apply("slow.yml", &[]);
    begun(&mut run, &hosts);
    run.signal("INT");
    let_go(&hosts);
    let said = run.end(Duration::from_secs(20));
    assert_ne!(said.code, Some(0), "{}", said.all());
    for host in hosts.iter() {
        said.count(&host.name(), "ok");
        assert!(host.path("/tmp/over").exists(), "the action under way is finished\n{}", said.all());
        assert!(!host.path("/etc/after").exists(), "no new one begins\n{}", said.all());
        assert_eq!(host.count("agent-"), 0);
    }
}

/// Ctrl-C twice: the controller is gone at once, and the machines are whole.
#[test]
fn interrupted_twice() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(2);
    let controller = Controller::of(fleet, &hosts);
    controller.write("slow.yml", SLOW);
    let mut run = controller.start_apply("slow.yml", &[]);
    begun(&mut run, &hosts);
    run.signal("INT");
    std::thread::sleep(Duration::from_millis(500));
    run.signal("INT");
    let said = run.end(Duration::from_secs(10));
    assert_ne!(said.code, Some(0), "{}", said.all());
    for host in hosts.iter() {
        assert_eq!(host.read("/etc/before").as_deref(), Some("x"));
        assert!(!host.path("/etc/after").exists());
    }
}
