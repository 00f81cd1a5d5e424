//! Whole runs over many hosts.

use std::time::{Duration, Instant};

use crate::fleet::{Controller, ENTRY, Host, Running, fleet};

const SITE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fleet/site.yml");
const ROLES: &str = concat!("--roles-path=", env!("CARGO_MANIFEST_DIR"), "/roles");

/// The fleet itself, proven with OpenSSH's own client: all hosts can be logged into, and each is another machine.
#[test]
fn openssh_reaches_all_hosts() {
    let begun = Instant::now();
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(fleet.size());
    let controller = Controller::of(fleet, &hosts);
    let login = |host: &Host| {
        let mut ssh = controller.command("ssh");
        ssh.args(["-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o"])
            .arg(format!("UserKnownHostsFile={}", controller.path("known_hosts").display()))
            .arg("-i")
            .arg(fleet.key())
            .arg(format!("root@{}", host.address()))
            .arg("hostname > /etc/was-here && id -un && cat /proc/1/comm && hostname");
        Running::of(ssh)
    };
    let logins: Vec<Running> = hosts.iter().map(login).collect();
    for (host, login) in hosts.iter().zip(logins) {
        let said = login.end(Duration::from_secs(30));
        said.code(0);
        assert_eq!(said.out, format!("root\nbash\n{}\n", host.name()), "{}", said.all());
        assert_eq!(host.read("/etc/was-here"), Some(format!("{}\n", host.name())));
    }
    assert!(!std::path::Path::new("/etc/was-here").exists(), "a host's file became one of this machine");
    eprintln!("{} hosts, logged into after {:?}", hosts.len(), begun.elapsed());
}

/// Everything the site does with files, on every host; what is there afterwards; and that there is then nothing to do.
#[test]
fn the_sites_file_level_parts() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(fleet.size());
    let controller = Controller::of(fleet, &hosts);
    let more = [ROLES];

    let plan = controller.run(&["plan", SITE, ROLES, "--output", "json", "--forks=10", "--detailed-exitcode"]);
    plan.code(2);
    for host in hosts.iter() {
        assert_eq!(plan.count(&host.name(), "failed"), 0, "{}", plan.all());
        assert_eq!(host.read("/etc/site/host.conf"), None, "a dry run writes nothing");
    }

    let first = controller.apply(SITE, &more);
    first.code(0);
    for host in hosts.iter() {
        let name = host.name();
        assert_eq!(first.count(&name, "changed"), plan.count(&name, "changed"), "as planned\n{}", first.all());
        let entry = host.read(ENTRY).unwrap();
        assert!(entry.contains(" intel_iommu=on iommu=pt rd.driver.pre=vfio-pci\n"), "{entry}");
        assert!(host.read("/etc/default/grub").unwrap().contains("intel_iommu=on"));
        assert!(host.read("/etc/modprobe.d/card.conf").unwrap().ends_with("disable_idle_d3=1\n"));
        let address = host.address();
        let vfio = host.read("/etc/modprobe.d/vfio.conf").unwrap();
        assert!(vfio.contains("# devices: 0000:82:00.0 0000:82:00.1\n"), "{vfio}");
        assert!(host.path("/boot/initramfs-5.14.0-427.13.1.el9_4.x86_64.img").exists());
        let conf = format!("# managed\nhost = {name}\naddress = {address}\nname = {name}\ncard = 0000:82:00.0\n");
        assert_eq!(host.read("/etc/site/link").as_deref(), Some(&*conf));
        assert_eq!(host.read("/etc/site/notes.txt").as_deref(), Some(include_str!("notes.txt")));
        assert_eq!(host.read("/etc/site/list").as_deref(), Some("one\ntwo\nthree\n"));
        assert_eq!(host.read("/etc/site/notified"), Some(format!("{name}\n")));
        assert_eq!(host.sh("stat -c %a /etc/site /etc/site/notes.txt"), "750\n640\n");
        assert_eq!(host.read("/etc/motd"), None);
        assert_eq!(host.leftovers("/etc"), Vec::<String>::new());
        assert_eq!(host.count("agent-"), 0, "nothing is left running");
    }

    let again = controller.apply(SITE, &more);
    again.code(0);
    hosts.iter().for_each(|host| assert_eq!(again.count(&host.name(), "changed"), 0, "{}", again.all()));
    controller.run(&["plan", SITE, ROLES, "--forks=10", "--detailed-exitcode"]).code(0);
}

const ONE_FILE: &str =
    "- hosts: all\n  gather_facts: false\n  tasks:\n    - copy: {dest: /etc/one, content: \"one\\n\"}\n";

/// Where no host was ever provisioned from, the program puts itself there once.
#[test]
fn the_program_copies_itself_once() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(2);
    hosts.iter().for_each(|host| host.forget_agent());
    let controller = Controller::of(fleet, &hosts);
    controller.write("one.yml", ONE_FILE);
    controller.edit("inventory", |text| {
        text.replace(
            &format!("{} ", hosts[1].name()),
            &format!("{} ansible_user=admin ansible_become=true ", hosts[1].name()),
        )
    });
    controller.apply("one.yml", &[]).code(0);
    for (host, home) in [(&hosts[0], "/root"), (&hosts[1], "/home/admin")] {
        assert_eq!(host.read("/etc/one").as_deref(), Some("one\n"));
        let agents = host.sh(&format!("cd {home}/.cache/vfio-provision && sha256sum agent-* && stat -c %a agent-*"));
        let (hash, rest) = agents.split_once("  agent-").unwrap();
        assert!(rest.starts_with(hash), "{agents}");
        assert!(rest.trim().ends_with("700") || rest.trim().ends_with("500"), "{agents}");
    }
    let stamp = "stat -c %Y.%i /root/.cache/vfio-provision/agent-*";
    let before = hosts[0].sh(stamp);
    controller.apply("one.yml", &[]).code(0);
    assert_eq!(hosts[0].sh(stamp), before, "the second time it is there");
    // One that was cut short, or that somebody changed, is not run.
    hosts[0]
        .sh("cd /root/.cache/vfio-provision && f=$(echo agent-*) && head -c 1000000 $f > x && chmod 700 x && mv x $f");
    controller.apply("one.yml", &[]).code(0);
    let agents = hosts[0].sh("cd /root/.cache/vfio-provision && sha256sum agent-*");
    let (hash, name) = agents.trim().split_once("  agent-").unwrap();
    assert_eq!(hash, name);
}

/// A failed batch stops the rollout; hosts that were never begun are not touched; unreachable hosts count.
#[test]
fn a_failed_canary_stops_the_rollout() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(4);
    let controller = Controller::of(fleet, &hosts);
    let play = |more: &str| {
        format!(
            "- hosts: all\n  gather_facts: false\n  serial: [1, 100%]\n{more}  tasks:\n\
             \x20   - copy: {{dest: /etc/begun, content: x}}\n    - command: test ! -e /etc/sick\n      changed_when: false\n\
             \x20   - copy: {{dest: /etc/done, content: x}}\n"
        )
    };
    controller.write("canary.yml", &play(""));
    hosts[0].write("/etc/sick", "");
    let said = controller.apply("canary.yml", &[]);
    said.code(2);
    assert_eq!(said.count(&hosts[0].name(), "failed"), 1);
    assert!(hosts[0].path("/etc/begun").exists() && !hosts[0].path("/etc/done").exists());
    hosts[1..].iter().for_each(|host| assert!(!host.path("/etc/begun").exists(), "never begun\n{}", said.all()));

    hosts[0].unplug();
    controller.edit("inventory", |text| text.replace("-o User", "-o ConnectTimeout=2 -o User"));
    let said = controller.apply("canary.yml", &[]);
    said.code(4).within(Duration::from_secs(20));
    assert_eq!(said.count(&hosts[0].name(), "unreachable"), 1);
    hosts[1..].iter().for_each(|host| assert!(!host.path("/etc/begun").exists(), "never begun\n{}", said.all()));

    hosts[0].replug();
    std::fs::remove_file(hosts[0].path("/etc/sick")).unwrap();
    controller.apply("canary.yml", &[]).code(0);
    hosts.iter().for_each(|host| assert!(host.path("/etc/done").exists()));
}

/// `max_fail_percentage` counts hosts that can't be reached as it counts failed ones.
#[test]
fn unreachable_hosts_count_as_failed() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(4);
    let controller = Controller::of(fleet, &hosts);
    let play = |percentage: u8| {
        format!(
            "- hosts: all\n  gather_facts: false\n  max_fail_percentage: {percentage}\n  tasks:\n\
             \x20   - command: test ! -e /etc/sick\n      changed_when: false\n\
             - hosts: all\n  gather_facts: false\n  tasks:\n    - copy: {{dest: /etc/done, content: x}}\n"
        )
    };
    hosts[0].write("/etc/sick", "");
    let second = hosts[1].name();
    controller.edit("inventory", |text| text.replace(&format!("{second} "), &format!("{second} ansible_port=9 ")));
    controller.write("strict.yml", &play(40)).write("easy.yml", &play(60));
    let said = controller.apply("strict.yml", &[]);
    said.code(6);
    hosts.iter().for_each(|host| assert!(!host.path("/etc/done").exists(), "{}\n{}", host.name(), said.all()));
    let said = controller.apply("easy.yml", &[]);
    said.code(6);
    for (number, host) in hosts.iter().enumerate() {
        assert_eq!(host.path("/etc/done").exists(), number > 1, "{}\n{}", host.name(), said.all());
    }
}

/// One host's task can run on another, once for all, and see other hosts' variables and facts.
#[test]
fn hosts_know_of_each_other() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(3);
    let controller = Controller::of(fleet, &hosts);
    let first = hosts[0].name();
    controller.write(
        "others.yml",
        &format!(
            "- hosts: all\n  tasks:\n    - copy: {{dest: '/etc/from-{{{{ inventory_hostname }}}}', content: '{{{{ inventory_hostname }}}}'}}\n      delegate_to: {first}\n\
             \x20   - copy:\n        dest: /etc/others\n        content: \"{{{{ hostvars['{first}'].ansible_facts.hostname }}}} {{{{ groups.all | length }}}}\"\n\
             \x20   - command: hostname\n      run_once: true\n      changed_when: false\n      register: once\n\
             \x20   - copy: {{dest: /etc/once, content: '{{{{ once.stdout }}}}'}}\n"
        ),
    );
    controller.apply("others.yml", &[]).code(0);
    let once: Vec<_> = hosts.iter().map(|host| host.read("/etc/once").unwrap()).collect();
    for host in hosts.iter() {
        let name = host.name();
        assert_eq!(hosts[0].read(&format!("/etc/from-{name}")), Some(name));
        assert_eq!(host.read("/etc/others"), Some(format!("{first} 3")));
    }
    assert!(once.iter().all(|said| *said == once[0] && !said.is_empty()), "{once:?}");
    assert!(!hosts[1].path(&format!("/etc/from-{}", hosts[1].name())).exists());
}
