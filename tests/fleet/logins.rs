//! Who comes in, and how.

use std::process::Command;
use std::time::Duration;

use crate::fleet::{Controller, Host, PASSWORD, Running, fleet};

const WHO: &str = "- hosts: all
  gather_facts: false
  tasks:
    - command: id -un
      register: me
      changed_when: false
    - copy: {dest: /etc/who, content: '{{ me.stdout }}', mode: '0644'}
";

/// What one host's line in the inventory says besides its address.
fn say(controller: &Controller, host: &Host, words: &str) {
    let name = host.name();
    controller.edit("inventory", |text| text.replace(&format!("{name} "), &format!("{name} {words} ")));
}

/// Without root at the far end, by each way to become it; and what can't work says why, soon.
#[test]
fn users_become_root() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(10);
    let controller = Controller::of(fleet, &hosts);
    controller.write("who.yml", WHO);
    let become_ = "ansible_become=true";
    let lines = [
        format!("ansible_user=admin {become_}"),
        format!("ansible_user=asks {become_} ansible_become_password='{PASSWORD}'"),
        format!("ansible_user=plain {become_} ansible_become_method=su ansible_become_password='{PASSWORD}'"),
        format!("ansible_user=asks {become_}"),
        format!("ansible_user=asks {become_} ansible_become_password=wrong"),
        format!("ansible_user=plain {become_} ansible_become_password='{PASSWORD}'"),
        format!("ansible_user=admin {become_}"),
        "ansible_user=admin".to_string(),
        format!("ansible_user=asks {become_}"),
        format!("ansible_user=asks {become_} ansible_become_method=doas ansible_become_password='{PASSWORD}'"),
    ];
    hosts.iter().zip(&lines).for_each(|(host, words)| say(&controller, host, words));
    // The seventh has no sudo at all.
    hosts[6].sh("rm -f /usr/bin/sudo");
    // The ninth's password is in a vault.
    controller.write("vault-password", "open sesame\n");
    let mut vault = controller.command(fleet.program());
    vault.args(["vault", "encrypt-string", "--vault-password-file=vault-password", "-n", "ansible_become_password"]);
    let vaulted = Running::of({
        vault.arg(PASSWORD);
        vault
    })
    .end(Duration::from_secs(30));
    vaulted.code(0);
    controller.write(&format!("host_vars/{}.yml", hosts[8].name()), &vaulted.out);
    hosts[9].sh("echo 'permit asks' > /etc/doas.conf && chmod 400 /etc/doas.conf");
    let said = controller.apply("who.yml", &["--vault-password-file=vault-password"]);
    assert!(matches!(said.code, Some(2 | 4 | 6)), "{}", said.all());
    said.within(Duration::from_secs(30));
    let doas = usize::from(hosts[9].path("/usr/bin/doas").exists());
    for host in hosts[..3].iter().chain(&hosts[8..9 + doas]) {
        assert_eq!(host.read("/etc/who").as_deref(), Some("root"), "{}\n{}", host.name(), said.all());
    }
    for (number, word) in [(3, "password"), (4, "password"), (5, "sudo"), (6, "sudo")] {
        let name = hosts[number].name();
        let why = [said.ended(&name, "failed"), said.ended(&name, "unreachable")].concat().join("\n");
        assert!(why.to_lowercase().contains(word), "{name}: {why}\n{}", said.all());
        assert!(!hosts[number].path("/etc/who").exists());
    }
    // Without becoming anybody /etc is not admin's.
    assert_eq!(said.count(&hosts[7].name(), "failed"), 1);
    assert!(!format!("{}{}", said.out, said.err).contains(PASSWORD), "a password was shown");
}

/// Tasks of several users, over one connection.
#[test]
fn each_task_has_its_user() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(1);
    let controller = Controller::of(fleet, &hosts);
    say(&controller, &hosts[0], "ansible_user=admin");
    controller.write(
        "users.yml",
        "- hosts: all\n  gather_facts: false\n  tasks:\n    - copy: {dest: /tmp/admin, content: x}\n    - copy: {dest: /tmp/root, content: x}\n      become: true\n\
         \x20   - copy: {dest: /tmp/plain, content: x}\n      become: true\n      become_user: plain\n    - copy: {dest: /tmp/admin2, content: x}\n",
    );
    controller.apply("users.yml", &[]).code(0);
    let owners = hosts[0].sh("cd /tmp && stat -c '%n %U' admin root plain admin2");
    assert_eq!(owners, "admin admin\nroot root\nplain plain\nadmin2 admin\n");
}

/// Passwords, keys of all kinds, and an agent that holds one.
#[test]
fn passwords_keys_and_agents() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(6);
    let controller = Controller::of(fleet, &hosts);
    controller.write("who.yml", WHO);
    say(&controller, &hosts[0], &format!("ansible_ssh_private_key_file= ansible_password='{PASSWORD}'"));
    say(&controller, &hosts[1], "ansible_ssh_private_key_file= ansible_password=wrong");
    for (host, kind) in hosts[2..5].iter().zip(["ecdsa", "rsa", "ed25519"]) {
        let key = controller.path(kind);
        let made = Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-f"]).arg(&key).status().unwrap();
        assert!(made.success());
        let public = std::fs::read_to_string(key.with_extension("pub")).unwrap();
        host.write("/root/.ssh/authorized_keys", &public);
    }
    say(&controller, &hosts[2], &format!("ansible_ssh_private_key_file={}", controller.path("ecdsa").display()));
    say(&controller, &hosts[3], &format!("ansible_ssh_private_key_file={}", controller.path("rsa").display()));
    // Only the agent has the fifth's key, and nobody the sixth's.
    say(&controller, &hosts[4], "ansible_ssh_private_key_file=");
    hosts[5].write("/root/.ssh/authorized_keys", "");
    // The agent ends with what it started.
    let mut command = controller.command("ssh-agent");
    command.args(["sh", "-c", "ssh-add -q ed25519 && rm ed25519 && exec \"$0\" \"$@\""]).arg(fleet.program());
    command.args(["apply", "who.yml", "-i", "inventory", "--output", "json", "--forks=6"]);
    let said = Running::of(command).end(Duration::from_secs(60));
    said.code(4).within(Duration::from_secs(30));
    for number in [0, 2, 3, 4] {
        assert_eq!(hosts[number].read("/etc/who").as_deref(), Some("root"), "{}\n{}", hosts[number].name(), said.all());
    }
    for number in [1, 5] {
        assert_eq!(said.count(&hosts[number].name(), "unreachable"), 1, "{}", said.all());
        assert!(!hosts[number].path("/etc/who").exists());
    }
}

/// A host whose key is not the known one is not logged into; an unknown one only where the user said so.
#[test]
fn host_keys_are_checked() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(3);
    let controller = Controller::of(fleet, &hosts);
    controller.write("who.yml", WHO);
    let known = hosts[0].known();
    hosts[0].change_host_key();
    let second = hosts[1].known();
    controller.edit("known_hosts", |text| text.replace(&second, ""));

    let said = controller.apply("who.yml", &[]);
    said.code(4).within(Duration::from_secs(20));
    assert_eq!(hosts[2].read("/etc/who").as_deref(), Some("root"), "{}", said.all());
    let fingerprint = |line: &str| {
        controller.write("line", line);
        let shown = Command::new("ssh-keygen").arg("-lf").arg(controller.path("line")).output().unwrap();
        String::from_utf8(shown.stdout).unwrap().split(' ').nth(1).unwrap().to_string()
    };
    let changed = said.ended(&hosts[0].name(), "unreachable").join("\n");
    for wanted in [fingerprint(&known), fingerprint(&hosts[0].known()), "ssh-keygen".to_string()] {
        assert!(said.all().contains(&wanted), "no {wanted} in: {changed}\n{}", said.all());
    }
    let unknown = said.ended(&hosts[1].name(), "unreachable").join("\n");
    assert!(said.all().contains(&fingerprint(&second)), "{unknown}\n{}", said.all());
    assert!(!hosts[0].path("/etc/who").exists() && !hosts[1].path("/etc/who").exists());

    // accept-new takes the unknown one and writes it down, and still refuses the changed one.
    controller.edit("inventory", |text| text.replace("-o User", "-o StrictHostKeyChecking=accept-new -o User"));
    let said = controller.apply("who.yml", &[]);
    said.code(4);
    assert_eq!(hosts[1].read("/etc/who").as_deref(), Some("root"), "{}", said.all());
    assert!(!hosts[0].path("/etc/who").exists());
    let words: Vec<&str> = second.split_whitespace().collect();
    let written = std::fs::read_to_string(controller.path("known_hosts")).unwrap();
    assert!(written.contains(words[2]), "{written}");
}

/// What far ends are like: they talk before they are asked, their homes run nothing, their /tmp is full.
#[test]
fn odd_far_ends() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(6);
    hosts[0].sh("echo 'Authorised people only' > /etc/banner && echo Banner /etc/banner >> /etc/ssh/sshd_config");
    hosts[0].kill("sshd");
    hosts[0].start_sshd();
    hosts[1].write("/root/.bashrc", "echo Welcome back; echo and mind the gap >&2; printf 'no end of line'\n");
    let noexec = "mount -t tmpfs -o noexec,mode=700 tmpfs /mnt && cp -a /root/. /mnt/ && mount --move /mnt /root";
    hosts[2].sh(noexec);
    hosts[2].forget_agent();
    hosts[3].sh("mount -t tmpfs -o size=64k tmpfs /tmp && (cat /dev/zero > /tmp/ballast || true) 2>/dev/null");
    hosts[3].forget_agent();
    hosts[4].sh("usermod -s /bin/dash root && rm -rf /root/.cache && chmod 500 /root");
    hosts[5].sh(noexec);
    hosts[5].forget_agent();
    hosts[5].sh("mount -o remount,noexec /tmp");
    let controller = Controller::of(fleet, &hosts);
    controller.write("who.yml", WHO);
    let said = controller.apply("who.yml", &[]);
    said.code(0);
    for host in hosts.iter() {
        assert_eq!(host.read("/etc/who").as_deref(), Some("root"), "{}\n{}", host.name(), said.all());
        assert_eq!(host.count("agent-"), 0);
    }
}

/// Over another host; and by the user's own ssh.
#[test]
fn jumps_and_openssh() {
    let Some(fleet) = fleet() else { return };
    let hosts = fleet.take(3);
    let controller = Controller::of(fleet, &hosts);
    controller.write("who.yml", WHO);
    let (jump, key) = (hosts[0].address(), fleet.key());
    let known = controller.path("known_hosts");
    // The second is only reached through the first.
    let config = format!(
        "Host {}\n  ProxyJump root@{jump}\nHost *\n  IdentityFile {}\n  UserKnownHostsFile {}\n",
        hosts[1].address(),
        key.display(),
        known.display()
    );
    controller.write("home/.ssh/config", &config);
    hosts[1].sh(&format!("echo 'AllowUsers root@{jump}' >> /etc/ssh/sshd_config"));
    hosts[1].kill("sshd");
    hosts[1].start_sshd();
    say(&controller, &hosts[2], "ansible_connection=openssh");
    hosts[2].forget_agent();
    let said = controller.apply("who.yml", &[]);
    said.code(0);
    hosts.iter().for_each(|host| assert_eq!(host.read("/etc/who").as_deref(), Some("root"), "{}", said.all()));
}
