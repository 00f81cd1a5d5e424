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

const ONE_SHOT: &str = "/sys/firmware/efi/efivars/LoaderEntryOneShot-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

/// A boot loader that this program knows, and a command line that the boots of this test decide about. systemd-boot, as
/// a namespace has no file system that GRUB could write.
fn boots_entries(host: &Host) {
    let release = host.sh("uname -r").trim().to_string();
    host.sh("rm -rf /boot/* /etc/systemd/system && mkdir /etc/systemd/system && mount -t tmpfs none /sys/firmware");
    host.write("/etc/os-release", "ID=debian\nVERSION_ID=\"12\"\nPRETTY_NAME=\"Debian 12\"\n");
    host.write("/boot/loader/loader.conf", "timeout 3\n");
    host.write(
        "/boot/loader/entries/debian.conf",
        &format!("title Debian\nversion {release}\nlinux /vmlinuz-{release}\noptions root=/dev/vda1 ro quiet\n"),
    );
    host.write(&format!("/boot/vmlinuz-{release}"), "kernel");
    host.write("/sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f", "x");
    host.write(
        "/usr/bin/bootctl",
        &format!(
            "#!/bin/sh\n[ \"$2\" ] || exec rm -f {ONE_SHOT}\n\
             {{ printf '\\007\\000\\000\\000'; printf %s \"$2\" | sed 's/./&\\n/g' | tr '\\n' '\\000'; }} > {ONE_SHOT}\n"
        ),
    );
    host.write("/run/cmdline", "initrd=\\initrd.img root=/dev/vda1 ro\n");
    host.write("/run/panic", "0\n");
    host.sh("chmod 755 /usr/bin/bootctl; mount --bind /run/cmdline /proc/cmdline; \
         mount --bind /run/panic /proc/sys/kernel/panic");
}

#[test]
fn a_trial_is_confirmed_over_the_new_connection_or_has_failed() {
    let Some(fleet) = fleet_of(HOSTS) else { return };
    let hosts = fleet.take(2);
    let controller = Controller::of(fleet, &hosts);
    let away = "sleep 0.2; down; sleep 1; other";
    // As the boot loader would: what is on trial, once.
    let on_trial =
        "sed -n 's/^options //p' /boot/loader/entries/vfio-provision-trial.conf > /run/cmdline; echo 9 > /run/panic";
    boots_by(&hosts[0], &format!("{away}; {on_trial}; rm {ONE_SHOT}; /usr/sbin/sshd"));
    // It panics, and comes back with what it had.
    boots_by(&hosts[1], &format!("{away}; rm {ONE_SHOT}; sleep 1; /usr/sbin/sshd"));
    for host in hosts.iter() {
        boots_entries(host);
        // Stops and starts of units are not what this is about.
        host.write(
            "/usr/bin/systemctl",
            "#!/bin/sh\n[ \"$*\" = reboot ] || exit 0\necho x >> /root/boots\n\
             setsid /root/boot > /dev/null 2>&1 < /dev/null &\n",
        );
        host.sh("chmod 755 /usr/bin/systemctl");
    }
    controller.write(
        "boot.yml",
        "- hosts: all
  gather_facts: false
  tasks:
    - reboot: {reasons: another command line, timeout: 60}
    - copy: {dest: /root/after, content: x}
",
    );
    let said = controller.apply("boot.yml", &[]);
    said.code(2);
    let text = said.all();
    for host in hosts.iter() {
        assert_eq!(host.read("/root/boots").as_deref(), Some("x\n"), "once\n{text}");
    }
    let (good, bad) = (&hosts[0], &hosts[1]);
    assert!(good.path("/root/after").exists() && !bad.path("/root/after").exists(), "{text}");
    assert_eq!(good.read("/boot/loader/loader.conf").as_deref(), Some("timeout 3\n"), "{text}");
    assert_eq!(good.sh("ls /boot/loader/entries").trim(), "debian.conf", "{text}");
    assert!(!good.path("/etc/systemd/system/vfio-provision-trial.timer").exists(), "{text}");
    assert_eq!(good.read("/run/panic").as_deref().map(str::trim), Some("0"), "{text}");
    assert!(good.read("/run/cmdline").is_some_and(|line| line.contains("quiet vfio_provision.trial=")), "{text}");
    assert!(text.contains("it has come back, and is the default"), "{text}");
    assert!(text.contains("the machine is back with what it had before"), "{text}");
    // What is on trial stays in the menu until somebody decides, and is not tried again by itself.
    let loader = bad.read("/boot/loader/loader.conf");
    assert_eq!(loader.as_deref(), Some("timeout 3\ndefault vfio-provision-before.conf\n"), "{text}");
    assert!(bad.read("/etc/systemd/system/vfio-provision-trial.timer").is_some_and(|t| t.contains("OnBootSec=60s")));
    let again = controller.apply("boot.yml", &["--limit", &bad.name()]);
    again.code(2);
    assert!(again.all().contains("nothing about it has changed since"), "{}", again.all());
    assert_eq!(bad.read("/root/boots").as_deref(), Some("x\n"));
}
