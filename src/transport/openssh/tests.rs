use std::net::TcpListener;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::super::ask::Nobody;
use super::super::testing::{Server, server, soon};
use super::*;

impl Server {
    fn target(&self) -> Target {
        let known = format!("UserKnownHostsFile={}", self.path("known_hosts").display());
        let arguments = ["-F", "none", "-o", &known, "-o", "GlobalKnownHostsFile=none", "-o", "IdentityAgent=none"];
        Target {
            port: Some(self.port),
            key_file: Some(self.path("key")),
            arguments: arguments.map(String::from).to_vec(),
            connect_timeout: Some(Duration::from_secs(10)),
            ..Target::new("127.0.0.1")
        }
    }

    /// A program that greets, says one reply and listens until its input ends.
    fn program(&self) -> Program {
        let mut reply = Vec::new();
        frame::write(&mut reply, &ready()).unwrap();
        std::fs::write(self.path("reply"), reply).unwrap();
        let text = format!(
            "#!/bin/sh\ncase $1 in --version) exit ;; esac\n\
             echo 'vfio-provision agent'; cat {0}/reply; cat > {0}/received\n{1}",
            self.folder.path().display(),
            "# as long as something real\n".repeat(50_000)
        );
        std::fs::write(self.path("program"), &text).unwrap();
        let sha256 = Sha256::digest(&text).iter().map(|byte| format!("{byte:02x}")).collect();
        Program { path: self.path("program"), sha256, size: text.len() as u64 }
    }

    fn connect(&self, target: &Target) -> Result<Process, Error> {
        connect(target, &self.program(), &Nobody, soon(60))
    }
}

fn ready() -> Reply {
    Reply::Ready { version: "1.2.3".into(), boot: None }
}

fn refused(result: Result<Process, Error>) -> String {
    match result {
        Ok(_) => panic!("it went through"),
        Err(error) => error.to_string(),
    }
}

fn received(path: &Path) -> Vec<u8> {
    std::fs::read(path).unwrap_or_default()
}

#[test]
fn an_agent_is_put_there_once_and_talks_through_the_noise() {
    let Some(server) = server("echo Welcome; printf 'no line end';") else { return };
    let target = server.target();
    for time in 0..2 {
        let mut process = server.connect(&target).unwrap();
        assert!(
            matches!(process.receive(Some(soon(10))).unwrap(), Some(Reply::Ready { version, .. }) if version == "1.2.3")
        );
        assert_eq!(process.receive(Some(soon(0))).unwrap_err().kind(), io::ErrorKind::TimedOut);
        process.send(&Request::End).unwrap();
        assert_eq!(process.last_words(), "");
        assert!(process.receive(Some(soon(10))).unwrap().is_none());
        assert!(process.send(&Request::End).is_err());
        let mut expected = Vec::new();
        frame::write(&mut expected, &Request::End).unwrap();
        assert_eq!(received(&server.path("received")), expected, "{time}");
        let agent = server.path("home/.cache/vfio-provision").join(format!("agent-{}", server.program().sha256));
        let made = std::fs::metadata(agent).unwrap().modified().unwrap();
        static MADE: Mutex<Option<std::time::SystemTime>> = Mutex::new(None);
        // The second time it was there.
        assert_eq!(*MADE.lock().unwrap().get_or_insert(made), made);
    }
}

#[test]
fn troubles_are_told_with_the_way_out() {
    let Some(server) = server("") else { return };
    // A key that nobody knows.
    let other = server.path("other");
    Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&other).status().unwrap();
    let mut target = server.target();
    target.key_file = Some(other.clone());
    let error = refused(server.connect(&target));
    assert!(error.contains("Permission denied") && error.contains("ansible_connection=ssh"), "{error}");
    // A host that is not known, then one whose key has changed.
    std::fs::write(server.path("known_hosts"), "").unwrap();
    let error = refused(server.connect(&server.target()));
    assert!(error.contains("Host key verification failed") && error.contains("log in once"), "{error}");
    let wrong = std::fs::read_to_string(other.with_extension("pub")).unwrap();
    std::fs::write(server.path("known_hosts"), format!("[127.0.0.1]:{} {wrong}", server.port)).unwrap();
    assert!(refused(server.connect(&server.target())).contains("Host key verification failed"));
    // The inventory's word.
    std::fs::write(server.path("known_hosts"), "").unwrap();
    let careless = Target { check_host_key: Some(false), ..server.target() };
    assert!(server.connect(&careless).is_ok());
    // Nobody listens.
    let closed = Target { port: Some(1), ..server.target() };
    assert!(refused(server.connect(&closed)).contains("Connection refused"));
    let missing = Target { program: "/does/not/exist/ssh".into(), ..server.target() };
    assert!(refused(server.connect(&missing)).contains("ansible_connection=ssh does not"));
    let option = Target { address: "-oProxyCommand=touch x".into(), ..server.target() };
    assert!(refused(server.connect(&option)).contains("no name of a host"));
}

#[test]
fn a_host_that_never_answers_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = Target {
        port: Some(listener.local_addr().unwrap().port()),
        arguments: vec!["-F".into(), "none".into()],
        ..Target::new("127.0.0.1")
    };
    let program = Program { path: "/dev/null".into(), sha256: "00".into(), size: 0 };
    let began = Instant::now();
    let error = refused(connect(&target, &program, &Nobody, soon(1)));
    assert!(error.contains("did not answer in time") && began.elapsed() < Duration::from_secs(8), "{error}");
}

#[test]
fn a_far_end_that_is_no_agent_is_told_apart() {
    let Some(server) = server("yes no agent | head -c 3000000; exit 7;") else { return };
    let error = refused(server.connect(&server.target()));
    assert!(error.contains("no agent") && error.contains("much else"), "{error}");
    drop(server);
    let Some(server) = server_that_exits() else { return };
    let error = refused(server.connect(&server.target()));
    assert!(error.contains("exit code 7") && error.contains("This account is not available"), "{error}");
}

fn server_that_exits() -> Option<Server> {
    server("echo This account is not available >&2; exit 7;")
}

#[test]
fn a_post_quantum_key_exchange_can_be_demanded() {
    let Some(server) = server("") else { return };
    let target = Target { post_quantum: true, ..server.target() };
    let line = format!("{:?}", target.command("x", true).unwrap());
    assert!(line.contains("KexAlgorithms=") && line.contains("sntrup761x25519-sha512"), "{line}");
    assert!(server.connect(&target).is_ok());
    let log = std::fs::read_to_string(server.path("sshd_config")).unwrap() + "KexAlgorithms curve25519-sha256\n";
    std::fs::write(server.path("sshd_config"), log).unwrap();
    // sshd reads it anew on this signal.
    let pid = rustix::process::Pid::from_child(&server.child);
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    let began = Instant::now();
    loop {
        match server.connect(&target) {
            Err(error) if error.to_string().contains("knows no post-quantum key exchange") => break,
            _ => assert!(began.elapsed() < Duration::from_secs(20)),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

struct Person(Mutex<u32>);

impl Ask for Person {
    fn secret(&self, _: &str) -> Option<String> {
        None
    }
    fn confirm(&self, _: &str) -> Option<bool> {
        None
    }
    fn lend(&self, work: &mut dyn FnMut()) -> bool {
        *self.0.lock().unwrap() += 1;
        work();
        true
    }
}

#[test]
fn who_could_help_gets_the_terminal_once() {
    let Some(server) = server("") else { return };
    let mut target = server.target();
    target.key_file = Some("/does/not/exist".into());
    target.arguments.extend(["-o".into(), "NumberOfPasswordPrompts=0".into()]);
    let person = Person(Mutex::new(0));
    let error = refused(connect(&target, &server.program(), &person, soon(30)));
    assert!(error.contains("Permission denied"), "{error}");
    assert_eq!(*person.0.lock().unwrap(), 1);
}

/// What known_hosts means to us, it means to OpenSSH's client, too.
#[test]
fn openssh_agrees_on_what_is_known() {
    use super::super::known_hosts::{HostKey, KnownHosts, Verdict};
    use super::super::ssh_config::{Config, Local, Overrides, lookup};
    use base64::Engine as _;
    let Some(server) = server("") else { return };
    for kind in ["rsa", "ecdsa", "ed25519"] {
        let made = Command::new("ssh-keygen").args(["-q", "-t", kind, "-N", "", "-f"]).arg(server.path(kind)).status();
        assert!(made.unwrap().success());
    }
    let public = |name: &str| {
        let text = std::fs::read_to_string(server.path(name).with_extension("pub")).unwrap();
        text.split(' ').take(2).collect::<Vec<_>>().join(" ")
    };
    let (host, known_hosts) = (public("host"), server.path("known_hosts"));
    let encoded = host.split(' ').nth(1).unwrap();
    let shown = HostKey(base64::engine::general_purpose::STANDARD.decode(encoded).unwrap());
    let mut options = lookup(&Config::default(), "127.0.0.1", &Overrides::default(), &Local::here()).unwrap();
    options.port = server.port;
    options.user_known_hosts = vec![known_hosts.clone()];
    options.global_known_hosts.clear();
    let name = options.known_as();
    let mut target = server.target();
    target.check_host_key = Some(true);
    for (lines, known) in [
        (format!("{name} {host}\n"), true),
        (format!("127.0.0.1 {host}\n"), true),
        (format!("[127.0.0.1]:1 {host}\n"), false),
        (format!("[127.*]:* {host}\n"), true),
        (format!("[127.*]:*,!{name} {host}\n"), false),
        (format!("{name} {}\n", public("rsa")), false),
        (format!("{name} {}\n{name} {}\n{name} {host}\n", public("rsa"), public("ed25519")), true),
        (format!("{name} {}\n127.0.0.1 {host}\n", public("ecdsa")), false),
        (format!("@cert-authority {name} {host}\n"), false),
        (format!("@cert-authority {name} {}\n{name} {host}\n", public("rsa")), true),
        (format!("@revoked {name} {}\n{name} {host}\n", public("rsa")), true),
        (format!("{name} {host}\n@revoked * {host}\n"), false),
        (format!("#{name} {host}\n  # x\n\n \t{name}\t{host} comment\n"), true),
        (format!("{name} ssh-rsa {encoded}\n"), false),
        (String::new(), false),
    ] {
        std::fs::write(&known_hosts, &lines).unwrap();
        let ours = KnownHosts::new().verdict(&options, &shown).unwrap();
        assert_eq!(ours == Verdict::Known, known, "{ours:?}:\n{lines}");
        let theirs = server.connect(&target);
        assert_eq!(theirs.is_ok(), known, "OpenSSH:\n{lines}");
    }
}
