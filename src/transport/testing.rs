//! A machine to log in to, for tests.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A real sshd on loopback, with a home folder of its own for who logs in.
pub(super) struct Server {
    pub folder: tempfile::TempDir,
    pub child: Child,
    pub port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `shell`: what is run before each command, in the place of a `.bashrc`.
pub(super) fn server(shell: &str) -> Option<Server> {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["host", "key"] {
        let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at(name)).status();
        if !made.is_ok_and(|status| status.success()) {
            eprintln!("skipped: no ssh-keygen here");
            return None;
        }
    }
    std::fs::copy(at("key.pub"), at("authorized_keys")).unwrap();
    std::fs::create_dir(at("home")).unwrap();
    if rustix::process::getuid().is_root() {
        std::fs::create_dir_all("/run/sshd").unwrap();
    }
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    std::fs::write(
        at("sshd_config"),
        format!(
            "Port {port}\nListenAddress 127.0.0.1\nHostKey {0}/host\nAuthorizedKeysFile {0}/authorized_keys\n\
             StrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nPasswordAuthentication no\nMaxStartups 100\n\
             ForceCommand HOME={0}/home; export HOME; {shell} exec /bin/sh -c \"$SSH_ORIGINAL_COMMAND\"\n",
            folder.path().display()
        ),
    )
    .unwrap();
    let mut child = Command::new("/usr/sbin/sshd");
    child.args(["-D", "-e", "-f"]).arg(at("sshd_config"));
    let log = std::fs::File::create(at("log")).unwrap();
    let Ok(child) = child.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn() else {
        eprintln!("skipped: no sshd here");
        return None;
    };
    let server = Server { child, port, folder };
    let began = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        let log = std::fs::read_to_string(server.path("log")).unwrap();
        assert!(began.elapsed() < Duration::from_secs(20), "sshd does not listen: {log}");
        std::thread::sleep(Duration::from_millis(20));
    }
    let host = std::fs::read_to_string(server.path("host.pub")).unwrap();
    std::fs::write(server.path("known_hosts"), format!("[127.0.0.1]:{port} {host}")).unwrap();
    Some(server)
}

impl Server {
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

pub(super) fn soon(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}
