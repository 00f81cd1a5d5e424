//! Machines that go down and come back: a namespace can't boot, but all that can be seen of a boot over SSH can happen.

use crate::HOSTS;
use crate::fleet::{Controller, Host, fleet_of, wait_until};

/// What the machine does when it is told to boot again; `$*` is nothing else.
fn boots_by(host: &Host, script: &str) {
    host.sh(
        "cat /proc/sys/kernel/random/boot_id > /run/boot && mount --bind /run/boot /proc/sys/kernel/random/boot_id",
    );
    host.write(
        "/root/boot",
        &format!(
            "#!/bin/sh\ndown() {{ for p in /proc/[0-9]*; do case $(cat $p/comm 2>/dev/null) in sshd*|agent-*) \
             kill -9 ${{p#/proc/}};; esac; done; }}\nother() {{ cat /proc/sys/kernel/random/uuid > /run/boot; }}\n{script}\n"
        ),
    );
    // A unit of its own, as far as this goes: what it ends must not be itself.
    host.write(
        "/usr/bin/systemctl",
        "#!/bin/sh\n[ \"$*\" = reboot ] || exit 1\necho x >> /root/boots\nsetsid /root/boot > /dev/null 2>&1 < /dev/null &\n",
    );
    host.sh("chmod 755 /usr/bin/systemctl /root/boot");
}

#[test]
fn a_machine_is_back_when_another_boot_answers() {
    let Some(fleet) = fleet_of(HOSTS) else { return };
    let hosts = fleet.take(3);
    let controller = Controller::of(fleet, &hosts);
    // It is away for two seconds.
    boots_by(&hosts[0], "sleep 0.2; down; sleep 2; other; /usr/sbin/sshd; sleep 1; touch /run/up");
    // Logins still work while it is on its way down.
    boots_by(
        &hosts[1],
        "sleep 0.2; down; /usr/sbin/sshd; sleep 3; down; other; sleep 1; /usr/sbin/sshd; touch /run/up",
    );
    // It stays away.
    boots_by(&hosts[2], "sleep 0.2; down");
    controller.write(
        "boot.yml",
        "- hosts: all
  gather_facts: false
  tasks:
    - copy: {dest: /root/before, content: x}
    - reboot: {reasons: a new kernel, timeout: 12, test_command: test -e /run/up, trial: false}
      register: boot
    - copy: {dest: /root/after, content: \"{{ boot.rebooted }} {{ boot.elapsed }}\"}
",
    );
    let said = controller.apply("boot.yml", &[]);
    said.code(4);
    for host in &hosts[..2] {
        assert_eq!(host.read("/root/boots").as_deref(), Some("x\n"), "once\n{}", said.all());
        let after = host.read("/root/after").unwrap_or_default();
        let seconds = after.to_lowercase().strip_prefix("true ").and_then(|text| text.parse::<u64>().ok());
        assert!(seconds.is_some_and(|seconds| (2..=12).contains(&seconds)), "{after}\n{}", said.all());
        // Two agents wrote down this run, one on either side of the boot.
        let ended = || host.sh("grep -h '\"ended\"' /var/lib/vfio-provision/runs/*/run.json");
        wait_until("the end of the run", || ended().trim() == "\"ended\": \"whole\"");
    }
    assert_eq!(said.count(&hosts[2].name(), "unreachable"), 1, "{}", said.all());
    assert!(said.all().contains("the machine did not come back within 12 s"), "{}", said.all());
    assert!(hosts[2].path("/root/before").exists() && !hosts[2].path("/root/after").exists());
}
