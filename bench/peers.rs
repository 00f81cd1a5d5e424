//! Other programs that do the same, from a virtual environment (`bench/fleet` makes it).

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::fleet::{Controller, Fleet, Host};
use crate::launch::Program;

/// The template of the 30 tasks.
pub const TEMPLATE: &str = "# made for {{ inventory_hostname }}\nname = {{ inventory_hostname }}\n";

/// The 30 tasks, as Ansible and this program read them.
pub fn thirty() -> String {
    let mut text = String::from("- hosts: all\n  gather_facts: true\n  tasks:\n");
    for n in 0..5 {
        writeln!(text, "    - file: {{path: /etc/thirty.d/{n}, state: directory, mode: '0755'}}").unwrap();
    }
    for n in 0..10 {
        writeln!(text, "    - copy: {{dest: /etc/thirty.{n}, content: 'number {n}'}}").unwrap();
        writeln!(text, "    - lineinfile: {{path: /etc/thirty.lines, line: 'line {n}', create: true}}").unwrap();
    }
    for n in 0..5 {
        writeln!(text, "    - template: {{src: t.j2, dest: /etc/thirty.d/{n}/t}}").unwrap();
    }
    text
}

/// The same for pyinfra.
const DEPLOY: &str = r#"
from io import StringIO
from pyinfra import host
from pyinfra.facts.server import Hostname, Kernel, LinuxDistribution, Users
from pyinfra.operations import files
for fact in (Hostname, Kernel, LinuxDistribution, Users):
    host.get_fact(fact)
for n in range(5):
    files.directory(path=f"/etc/thirty.d/{n}", mode="755")
files.file(path="/etc/thirty.lines")
for n in range(10):
    files.put(src=StringIO(f"number {n}"), dest=f"/etc/thirty.{n}")
    files.line(path="/etc/thirty.lines", line=f"line {n}")
for n in range(5):
    files.template(src="t.pyinfra.j2", dest=f"/etc/thirty.d/{n}/t")
"#;

/// Another program.
#[derive(Clone, Copy, PartialEq)]
pub enum Peer {
    Ansible,
    Mitogen,
    Pyinfra,
}

fn folder() -> PathBuf {
    std::env::var_os("VFIO_PROVISION_BENCH_PEERS").map_or_else(|| PathBuf::from("/nowhere"), PathBuf::from)
}

impl Peer {
    pub const fn all() -> [Peer; 3] {
        [Peer::Ansible, Peer::Mitogen, Peer::Pyinfra]
    }

    pub fn name(&self) -> &'static str {
        match self {
            Peer::Ansible => "ansible",
            Peer::Mitogen => "mitogen",
            Peer::Pyinfra => "pyinfra",
        }
    }

    pub fn title(&self) -> &'static str {
        match self {
            Peer::Ansible => "ansible-core, pipelining",
            Peer::Mitogen => "with mitogen",
            Peer::Pyinfra => "pyinfra",
        }
    }

    pub fn is_there(&self) -> bool {
        let has = |name: &str| folder().join("bin").join(name).exists();
        match self {
            Peer::Ansible => has("ansible-playbook"),
            Peer::Mitogen => has("ansible-playbook") && strategy().is_some(),
            Peer::Pyinfra => has("pyinfra"),
        }
    }

    /// Writes what it reads.
    pub fn prepare(&self, controller: &Controller, fleet: &Fleet, hosts: &[Host], places: &[(String, u16)]) {
        let known = controller.path("known_hosts");
        let key = fleet.key();
        match self {
            Peer::Ansible | Peer::Mitogen => {
                let mut config = String::from(
                    "[defaults]\nhost_key_checking = True\nretry_files_enabled = False\ninterpreter_python = /usr/bin/python3\n",
                );
                if *self == Peer::Mitogen {
                    let strategy = strategy().expect("asked before");
                    write!(config, "strategy_plugins = {}\nstrategy = mitogen_linear\n", strategy.display()).unwrap();
                }
                config +=
                    "[ssh_connection]\npipelining = True\nssh_args = -C -o ControlMaster=auto -o ControlPersist=20s\n";
                controller.write("ansible.cfg", &config);
            }
            Peer::Pyinfra => {
                let mut inventory = String::from("hosts = [\n");
                for (host, (address, port)) in hosts.iter().zip(places) {
                    writeln!(
                        inventory,
                        "    ('{}', {{'ssh_hostname': '{address}', 'ssh_port': {port}, 'ssh_user': 'root', 'ssh_key': '{}', \
                         'ssh_known_hosts_file': '{}', 'ssh_strict_host_key_checking': 'yes'}}),",
                        host.name(),
                        key.display(),
                        known.display()
                    )
                    .unwrap();
                }
                inventory += "]\n";
                controller.write("inventory.py", &inventory).write("deploy.py", DEPLOY);
                controller.write("t.pyinfra.j2", "# made for {{ host.name }}\nname = {{ host.name }}\n");
            }
        }
    }

    /// What does the 30 tasks.
    pub fn program(&self, controller: &Controller, hosts: usize) -> Program {
        let bin = folder().join("bin");
        let hosts = hosts.to_string();
        let program = |name: &str, arguments: &[&str]| {
            let name = bin.join(name).display().to_string();
            Program::new([name.as_str()].into_iter().chain(arguments.iter().copied()))
        };
        let program = match self {
            Peer::Ansible | Peer::Mitogen => {
                program("ansible-playbook", &["-i", "inventory", "thirty.yml", "--forks", &hosts])
                    .variable("ANSIBLE_CONFIG", controller.path("ansible.cfg").display().to_string())
                    .variable("ANSIBLE_NOCOLOR", "1")
            }
            Peer::Pyinfra => program("pyinfra", &["-y", "--parallel", &hosts, "inventory.py", "deploy.py"]),
        };
        // A short home: sockets stand below it.
        program.variable("HOME", "/root").variable("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bin.display()))
    }
}

/// Where mitogen's strategy for Ansible is.
fn strategy() -> Option<PathBuf> {
    let versions = std::fs::read_dir(folder().join("lib")).ok()?;
    let place = Path::new("site-packages/ansible_mitogen/plugins/strategy");
    versions.flatten().map(|entry| entry.path().join(place)).find(|path| path.exists())
}
