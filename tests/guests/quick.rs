//! The machine, with a virsh that stays: what a test asks hundreds of times must not start a process each time.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use vfio_provision::host::{Available, Host, Live, Output, Package, Result, Stat, Unit, Virt, VirtKind};

pub struct Quick {
    live: Live,
    shell: RefCell<Shell>,
}

struct Shell {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    count: usize,
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Shell {
    fn new() -> Shell {
        let mut child = Command::new("virsh")
            .args(["-q", "-c", "qemu:///system"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Shell { child, input, output, count: 0 }
    }

    /// What these commands print; with virsh's own prompts in it.
    fn ask(&mut self, commands: &str) -> String {
        self.count += 1;
        let mark = format!("said-{}", self.count);
        self.input.write_all(format!("{commands}\necho {mark}\n").as_bytes()).unwrap();
        self.input.flush().unwrap();
        let end = format!("\n{mark}");
        let mut said = Vec::new();
        let mut buffer = [0; 65536];
        loop {
            let count = self.output.read(&mut buffer).unwrap();
            assert!(count > 0, "virsh went away");
            said.extend_from_slice(&buffer[..count]);
            let text = String::from_utf8_lossy(&said);
            if let Some(at) = text.find(&end) {
                return text[..at].to_string();
            }
        }
    }
}

impl Quick {
    pub fn new() -> Quick {
        Quick { live: Live::new(), shell: RefCell::new(Shell::new()) }
    }

    /// The definition of a guest.
    pub fn domain(&self, name: &str) -> Option<String> {
        let said = self.shell.borrow_mut().ask(&format!("dumpxml --inactive --security-info {name}"));
        let begin = said.find("\n<domain")? + 1;
        let end = said.rfind("</domain>")? + "</domain>\n".len();
        Some(said[begin..end].to_string())
    }
}

impl Host for Quick {
    fn raw_lstat(&self, path: &str) -> Result<Option<Stat>> {
        self.live.raw_lstat(path)
    }
    fn raw_read_link(&self, path: &str) -> Result<String> {
        self.live.raw_read_link(path)
    }
    fn raw_link(&self, path: &str) -> Result<Option<String>> {
        self.live.raw_link(path)
    }
    fn raw_read(&self, path: &str) -> Result<Vec<u8>> {
        self.live.raw_read(path)
    }
    fn raw_list(&self, path: &str) -> Result<Vec<String>> {
        self.live.raw_list(path)
    }
    fn raw_sha256(&self, path: &str) -> Result<String> {
        self.live.raw_sha256(path)
    }
    fn package(&self, name: &str) -> Result<Option<Package>> {
        self.live.package(name)
    }
    fn available(&self, name: &str) -> Result<Option<Available>> {
        self.live.available(name)
    }
    fn unit(&self, name: &str) -> Result<Unit> {
        self.live.unit(name)
    }
    fn virt(&self, kind: VirtKind, name: &str) -> Result<Option<Virt>> {
        if kind != VirtKind::Domain {
            return self.live.virt(kind, name);
        }
        let Some(xml) = self.domain(name) else { return Ok(None) };
        let info = self.shell.borrow_mut().ask(&format!("dominfo {name}"));
        let field =
            |field: &str| info.lines().find_map(|line| line.strip_prefix(field)).map(|value| value.trim().to_string());
        let active = field("State:").is_some_and(|state| state != "shut off");
        let autostart = field("Autostart:").is_some_and(|autostart| autostart == "enable");
        Ok(Some(Virt { xml, active, autostart, ..Virt::default() }))
    }
    fn virt_names(&self, kind: VirtKind) -> Result<Vec<String>> {
        if kind != VirtKind::Domain {
            return self.live.virt_names(kind);
        }
        let said = self.shell.borrow_mut().ask("list --all --name");
        Ok(said
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.contains("virsh #"))
            .map(str::to_string)
            .collect())
    }
    fn query(&self, argv: &[&str]) -> Result<Option<Output>> {
        self.live.query(argv)
    }
}
