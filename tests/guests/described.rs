//! What the controller fills in of a guest: whole domains from a file or a template beside the playbook, and the name that
//! UUID and MAC addresses are made from. On a machine that is only a folder.

use std::fs;
use std::process::{Command, Stdio};

use vfio_provision::modules::libvirt::domain::identity;

const WHOLE: &str = "<domain type='kvm'>\n  <name>whole</name>\n  <memory unit='GiB'>2</memory>\n  <vcpu>3</vcpu>\n  \
    <os><type arch='x86_64' machine='pc-q35-7.2'>hvm</type></os>\n  <title>{{ inventory_hostname }}</title>\n  <devices>\n    \
    <interface type='bridge'><source bridge='br0'/></interface>\n    <memballoon model='none'/>\n  </devices>\n</domain>\n";

struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    /// Two machines, and files beside the playbook.
    fn new(files: &[(&str, &str)]) -> Site {
        let site = Site { folder: tempfile::tempdir().unwrap() };
        let line = |name: &str| format!("{name} ansible_connection=sandbox sandbox_root={name}\n");
        site.write("inventory", &format!("{}{}", line("ws01"), line("ws02")));
        for host in ["ws01", "ws02"] {
            site.write(&format!("{host}/etc/os-release"), "ID=debian\nVERSION_ID=12\n");
        }
        for (name, text) in files {
            site.write(name, text);
        }
        site
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// What a plan of one guest says, and whether it worked.
    fn plan(&self, host: &str, guest: &str) -> (String, bool) {
        self.run("plan", host, guest)
    }

    fn run(&self, what: &str, host: &str, guest: &str) -> (String, bool) {
        let play =
            format!("- hosts: all\n  gather_facts: no\n  vars: {{room: 7}}\n  tasks:\n    - libvirt_domain: {guest}\n");
        self.write("site.yml", &play);
        let output = Command::new(env!("CARGO_BIN_EXE_vfio-provision"))
            .args([what, "site.yml", "-i", "inventory", "--limit", host])
            .current_dir(self.folder.path())
            .env("HOME", self.folder.path())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (text, output.status.code() == Some(0))
    }

    fn fine(&self, host: &str, guest: &str) -> String {
        let (text, fine) = self.plan(host, guest);
        assert!(fine, "{guest}: {text}");
        text
    }

    fn wrong(&self, guest: &str) -> String {
        let (text, fine) = self.plan("ws01", guest);
        assert!(!fine, "{guest}: {text}");
        text
    }
}

fn has(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part}: {text}");
    }
}

/// A file is taken as it is; what else is said of the guest goes into it.
pub fn whole_files() {
    let site = Site::new(&[("files/whole.xml", WHOLE), ("broken.xml", "<domain><name>whole</domain>")]);
    let text = site.fine("ws01", "{name: whole, definition_file: whole.xml}");
    has(&text, &["<vcpu>3</vcpu>", "machine='pc-q35-7.2'", "<source bridge='br0'/>", "<memballoon model='none'/>"]);
    has(&text, &["<title>{{ inventory_hostname }}</title>"]);
    let text = site.fine("ws01", "{name: whole, definition_file: whole.xml, memory: 3 GiB, cdroms: [/srv/a.iso]}");
    has(&text, &["3145728", "<source file='/srv/a.iso'/>", "<vcpu>3</vcpu>"]);
    has(&site.wrong("{name: whole, definition_file: nowhere.xml}"), &["nowhere.xml"]);
    has(&site.wrong("{name: whole, definition_file: broken.xml}"), &["definition"]);
    let twice = site.wrong("{name: whole, definition_file: whole.xml, definition: <domain/>}");
    has(&twice, &["definition_file", "given already"]);
    // Applied and asked for again, there is nothing to do.
    let (text, fine) = site.run("apply", "ws01", "{name: whole, definition_file: whole.xml}");
    assert!(fine, "{text}");
    let text = site.fine("ws01", "{name: whole, definition_file: whole.xml}");
    assert!(!text.contains("+ domain") && !text.contains("~ domain"), "{text}");
}

/// A template is filled in with the host's variables first.
pub fn whole_templates() {
    let template = WHOLE.replace("<vcpu>3</vcpu>", "<vcpu>{{ room }}</vcpu>").replace(
        "<memballoon model='none'/>",
        "{% for n in [1, 2] %}<input type='tablet' bus='usb'><alias name='ua-{{ n }}'/></input>{% endfor %}",
    );
    let site =
        Site::new(&[("templates/whole.xml", &template), ("templates/wrong.xml", "<domain>{{ nobody }}</domain>")]);
    for host in ["ws01", "ws02"] {
        let text = site.fine(host, "{name: whole, definition_template: whole.xml}");
        has(&text, &["<vcpu>7</vcpu>", &format!("<title>{host}</title>"), "ua-1", "ua-2"]);
    }
    has(&site.wrong("{name: whole, definition_template: wrong.xml}"), &["nobody"]);
}

/// UUID and MAC addresses come of the host's name in the inventory and the guest's, unless they are given.
pub fn identities() {
    let site = Site::new(&[("files/whole.xml", WHOLE)]);
    let guest = "{name: g, memory: 1 GiB, interfaces: [{bridge: br0}, {bridge: br0}]}";
    let expected = |host: &str, guest: &str| {
        let first = identity::mac(host, guest, &[]);
        let second = identity::mac(host, guest, std::slice::from_ref(&first));
        [identity::uuid(host, guest), first, second]
    };
    for host in ["ws01", "ws02"] {
        let text = site.fine(host, guest);
        for part in expected(host, "g") {
            assert_eq!(text.matches(&part).count(), 1, "{host} {part}: {text}");
        }
    }
    // A machine that takes the place of another gives its guests what they had there.
    let moved = site.fine("ws02", &guest.replacen('{', "{identity: ws01, ", 1));
    has(&moved, &expected("ws01", "g").each_ref().map(String::as_str));
    let given = "{name: g, memory: 1 GiB, uuid: 9d2e07dc-bc8b-4afa-9fc2-2587aea917a0, \
                 interfaces: [{bridge: br0, mac: '52:54:00:00:00:01'}, {bridge: br0}]}";
    let text = site.fine("ws01", given);
    let [uuid, first, second] = expected("ws01", "g");
    has(&text, &["9d2e07dc-bc8b-4afa-9fc2-2587aea917a0", "52:54:00:00:00:01", &first]);
    assert!(!text.contains(&uuid) && !text.contains(&second), "{text}");
    // Whole domains too.
    let text = site.fine("ws01", "{name: whole, definition_file: whole.xml}");
    let [uuid, first, _] = expected("ws01", "whole");
    has(&text, &[&uuid, &first]);
}
