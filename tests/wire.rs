//! The wire against a real sshd on loopback, as root. Each test has servers, keys and homes of its own; nothing of this
//! machine's users is read or written. What needs another password file or file system gets it in a mount namespace.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vfio_provision::agent::protocol::{Hello, Reply, Request};
use vfio_provision::host::Error;
use vfio_provision::transport::Pipe;
use vfio_provision::transport::ssh::{
    AgentProgram, Ask, HostKey, HostKeys, Keepalive, Known, Proxy, Remote, Target, start,
};

const SSHD: &str = "/usr/sbin/sshd";

/// The reason not to run, which is said.
fn skipped() -> bool {
    let root = fs::metadata("/proc/self").is_ok_and(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0);
    let skip = if !Path::new(SSHD).exists() {
        Some("there is no sshd: apt-get install openssh-server")
    } else if root {
        None
    } else {
        Some("needs root")
    };
    if let Some(why) = skip {
        eprintln!("skipped: {why}");
    }
    skip.is_some()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn keygen(file: &Path, kind: &str, passphrase: &str) {
    let bits = if kind == "rsa" { "2048" } else { "256" };
    run(Command::new("ssh-keygen")
        .args(["-q", "-t", kind, "-b", bits, "-N", passphrase, "-C", "test", "-f"])
        .arg(file));
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// An sshd with a home of its own for whoever logs in.
struct Server {
    folder: TempDir,
    port: u16,
    child: Child,
}

impl Server {
    fn new() -> Server {
        Server::with("", "")
    }

    /// `config` goes into its configuration, `before` is run in a mount namespace of its own before it starts.
    fn with(config: &str, before: &str) -> Server {
        Server::on(free_port(), config, before)
    }

    fn on(port: u16, config: &str, before: &str) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display().to_string();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(folder.path().join("home")).unwrap();
        keygen(&folder.path().join("host_ed25519"), "ed25519", "");
        keygen(&folder.path().join("user"), "ed25519", "");
        fs::copy(folder.path().join("user.pub"), folder.path().join("authorized")).unwrap();
        fs::write(
            folder.path().join("config"),
            format!(
                "Port {port}\nListenAddress 127.0.0.1\nPidFile none\nUsePAM no\nStrictModes no\nMaxStartups 100\n\
                 PermitRootLogin yes\nAuthorizedKeysFile {at}/authorized\nHostKey {at}/host_ed25519\n\
                 SetEnv HOME={at}/home\nPrintMotd no\n{}\n",
                config.replace("@", &at)
            ),
        )
        .unwrap();
        fs::create_dir_all("/run/sshd").unwrap();
        let script = format!("set -e\n{}\nexec {SSHD} -f {at}/config -D -E {at}/log", before.replace("@", &at));
        let child = Command::new("unshare")
            .args(["-m", "--propagation", "private", "/bin/sh", "-c", &script])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let mut server = Server { folder, port, child };
        let until = Instant::now() + Duration::from_secs(30);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = server.child.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < until, "sshd does not start: {}", server.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        server
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Lets this key in, and no other.
    fn authorize(&self, public: &Path) {
        fs::copy(public, self.path("authorized")).unwrap();
    }

    fn target(&self) -> Target {
        Target {
            name: "ws1".into(),
            address: "127.0.0.1".into(),
            port: self.port,
            user: "root".into(),
            identities: vec![self.path("user")],
            certificates: Vec::new(),
            identities_only: false,
            agent: None,
            password: None,
            connect_timeout: Duration::from_secs(10),
            retries: 0,
            keepalive: Keepalive::default(),
            proxy: Proxy::None,
            host_key_alias: None,
            host_keys: Known(Arc::new(Anybody::default())),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Believes every host, and remembers what it showed.
#[derive(Default)]
struct Anybody {
    kinds: Vec<String>,
    refuse: bool,
    seen: Mutex<Vec<String>>,
}

impl HostKeys for Anybody {
    fn kinds(&self, _host: &str, _port: u16) -> Vec<String> {
        self.kinds.clone()
    }
    fn check(&self, key: &HostKey, _ask: &dyn Ask) -> Result<(), Error> {
        self.seen.lock().unwrap().push(format!("{} {} {}", key.host, key.port, key.kind));
        if self.refuse { Err(Error::refused(format!("{}: another key", key.name))) } else { Ok(()) }
    }
}

/// Answers with the same words, and counts how often it was asked.
struct Person {
    answer: Option<&'static str>,
    asked: AtomicUsize,
}

impl Person {
    fn new(answer: Option<&'static str>) -> Person {
        Person { answer, asked: AtomicUsize::new(0) }
    }
    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl Ask for Person {
    fn secret(&self, _prompt: &str) -> Option<String> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.answer.map(String::from)
    }
    fn yes_no(&self, _prompt: &str) -> Option<bool> {
        None
    }
}

static NOBODY: Person = Person { answer: None, asked: AtomicUsize::new(0) };

/// A far end that greets as the agent does and then says everything back; `size` bytes long.
fn echo(folder: &Path, size: usize) -> AgentProgram {
    let path = folder.join("echo-agent");
    let mut text = String::from(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo vfio-provision 0 && exit 0\nprintf 'vfio-provision agent\\n'\nexec cat\n",
    );
    while text.len() < size {
        text.push_str(&format!("# {:060}\n", text.len()));
    }
    fs::write(&path, text).unwrap();
    AgentProgram::at(&path).unwrap()
}

fn echoes(remote: &mut Remote) {
    remote.send_bytes(b"are you there?").unwrap();
    let until = Instant::now() + Duration::from_secs(10);
    assert_eq!(remote.receive_bytes(14, Some(until)).unwrap().as_deref(), Some(b"are you there?".as_slice()));
}

fn works(server: &Server, target: &Target, ask: &dyn Ask) {
    let program = echo(server.folder.path(), 0);
    match start(target, ask, &program) {
        Ok(mut remote) => echoes(&mut remote),
        Err(error) => panic!("{error}\n{}", server.log()),
    }
}

fn fails(server: &Server, target: &Target, ask: &dyn Ask) -> String {
    let program = echo(server.folder.path(), 0);
    start(target, ask, &program).err().expect("this must not work").to_string()
}

/// A TCP proxy that counts what goes to the server, and can stop passing it on or cut it.
struct Between {
    port: u16,
    sent: Arc<AtomicU64>,
    cut_after: Arc<AtomicU64>,
    stuck: Arc<AtomicBool>,
}

impl Between {
    fn to(port: u16) -> Between {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let between = Between {
            port: listener.local_addr().unwrap().port(),
            sent: Arc::default(),
            cut_after: Arc::new(AtomicU64::new(u64::MAX)),
            stuck: Arc::default(),
        };
        let (sent, cut_after, stuck) =
            (Arc::clone(&between.sent), Arc::clone(&between.cut_after), Arc::clone(&between.stuck));
        // Threads end with their connections, and at the latest with the test program.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { return };
                for (from, to, count) in [
                    (client.try_clone().unwrap(), server.try_clone().unwrap(), Some(Arc::clone(&sent))),
                    (server, client, None),
                ] {
                    let (cut_after, stuck) = (Arc::clone(&cut_after), Arc::clone(&stuck));
                    std::thread::spawn(move || pass(from, to, count.as_deref(), &cut_after, &stuck));
                }
            }
        });
        between
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, count: Option<&AtomicU64>, cut_after: &AtomicU64, stuck: &AtomicBool) {
    let mut bytes = [0; 16384];
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        if stuck.load(Ordering::SeqCst) {
            continue;
        }
        if let Some(count) = count
            && count.fetch_add(n as u64, Ordering::SeqCst) + n as u64 > cut_after.load(Ordering::SeqCst)
        {
            break;
        }
        if to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

fn agents_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

#[test]
fn every_kind_of_key_opens() {
    if skipped() {
        return;
    }
    let server = Server::new();
    for (kind, bits) in [("ed25519", ""), ("ecdsa", "256"), ("ecdsa", "521"), ("rsa", "2048")] {
        let file = server.path(&format!("key-{kind}{bits}"));
        let mut command = Command::new("ssh-keygen");
        command.args(["-q", "-t", kind, "-N", "", "-f"]).arg(&file);
        if !bits.is_empty() {
            command.args(["-b", bits]);
        }
        run(&mut command);
        server.authorize(&file.with_file_name(format!("key-{kind}{bits}.pub")));
        works(&server, &Target { identities: vec!["/nonexistent".into(), file], ..server.target() }, &NOBODY);
    }
    // PEM, as older ssh-keygen wrote it.
    let file = server.path("pem");
    run(Command::new("ssh-keygen").args(["-q", "-t", "rsa", "-b", "2048", "-m", "PEM", "-N", "", "-f"]).arg(&file));
    server.authorize(&server.path("pem.pub"));
    works(&server, &Target { identities: vec![file], ..server.target() }, &NOBODY);
}

#[test]
fn a_passphrase_is_asked_for_once_and_only_if_the_key_is_wanted() {
    if skipped() {
        return;
    }
    let server = Server::new();
    let (wanted, other, pem) = (server.path("wanted"), server.path("other"), server.path("pem"));
    keygen(&wanted, "ed25519", "sesame");
    keygen(&other, "ed25519", "something else");
    run(Command::new("ssh-keygen").args(["-q", "-t", "ecdsa", "-m", "PEM", "-N", "sesame", "-f"]).arg(&pem));
    server.authorize(&server.path("wanted.pub"));
    let person = Person::new(Some("sesame"));
    let target = Target { identities: vec![other, wanted.clone()], ..server.target() };
    works(&server, &target, &person);
    assert_eq!(person.asked(), 1, "{}", server.log());
    works(&server, &target, &person);
    assert_eq!(person.asked(), 1);
    server.authorize(&server.path("pem.pub"));
    works(&server, &Target { identities: vec![pem], ..server.target() }, &person);
    assert_eq!(person.asked(), 2);
    // A wrong one is asked for again, three times in all, and then never again.
    let wrong = Person::new(Some("wrong"));
    let third = server.path("third");
    keygen(&third, "ecdsa", "right");
    server.authorize(&server.path("third.pub"));
    let target = Target { identities: vec![third], ..server.target() };
    let error = fails(&server, &target, &wrong);
    assert!(error.contains("no passphrase that opens it"), "{error}");
    assert_eq!(wrong.asked(), 3);
    fails(&server, &target, &wrong);
    assert_eq!(wrong.asked(), 3);
}

#[test]
fn certificates_open() {
    if skipped() {
        return;
    }
    let server = Server::with("TrustedUserCAKeys @/ca.pub", "");
    fs::write(server.path("authorized"), "").unwrap();
    keygen(&server.path("ca"), "ed25519", "");
    for (kind, passphrase) in [("ed25519", ""), ("ecdsa", ""), ("rsa", ""), ("ed25519", "sesame")] {
        let file = server.path(&format!("cert-{kind}{passphrase}"));
        keygen(&file, kind, passphrase);
        let target = Target { identities: vec![file.clone()], ..server.target() };
        let person = Person::new(Some("sesame"));
        if passphrase.is_empty() {
            assert!(fails(&server, &target, &person).contains("may not log in"));
        }
        let mut sign = Command::new("ssh-keygen");
        sign.args(["-q", "-I", "me", "-n", "root", "-s"]).arg(server.path("ca"));
        run(sign.arg(file.with_file_name(format!("cert-{kind}{passphrase}.pub"))));
        works(&server, &target, &person);
        // One that lies elsewhere is found out for which key it is.
        let elsewhere = server.path(&format!("elsewhere-{kind}{passphrase}"));
        fs::rename(file.with_file_name(format!("cert-{kind}{passphrase}-cert.pub")), &elsewhere).unwrap();
        works(&server, &Target { certificates: vec![elsewhere, server.path("user.pub")], ..target }, &person);
    }
}

#[test]
fn the_ssh_agent_is_asked_first() {
    if skipped() {
        return;
    }
    let server = Server::new();
    let socket = server.path("agent.sock");
    let mut agent = Command::new("ssh-agent").arg("-D").arg("-a").arg(&socket).stdout(Stdio::null()).spawn().unwrap();
    while !socket.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    keygen(&server.path("another"), "ecdsa", "");
    for key in ["another", "user"] {
        run(Command::new("ssh-add").arg("-q").arg(server.path(key)).env("SSH_AUTH_SOCK", &socket));
    }
    let target = Target { identities: Vec::new(), agent: Some(socket.clone()), ..server.target() };
    works(&server, &target, &NOBODY);
    // With IdentitiesOnly only those that are named, and these by their public part alone.
    let error = fails(&server, &Target { identities_only: true, ..target.clone() }, &NOBODY);
    assert!(error.contains("tried: nothing") && error.contains("the server takes: publickey"), "{error}");
    works(&server, &Target { identities_only: true, identities: vec![server.path("user")], ..target.clone() }, &NOBODY);
    let _ = agent.kill();
    let _ = agent.wait();
    // An agent that is gone is no reason not to try the key file.
    works(&server, &Target { identities: vec![server.path("user")], ..target }, &NOBODY);
}

/// A password file with one more user, seen by this sshd only.
const WALTER: &str = "cp /etc/passwd @/passwd; echo 'walter:x:4711:4711::@/home:/bin/sh' >>@/passwd; \
     cp /etc/shadow @/shadow; echo 'walter:$6$wiretest$Mf3qMGgN.dnOOE.8ouE/zkOY.vza7RBbbWyqoRhubfTvrVl6mkzpGTJyaa950uWOrwWRI2uRd4/CFPnseSiXu.:19000:0:99999:7:::' >>@/shadow; \
     chmod 600 @/shadow; chown 4711 @/home; mount --bind @/passwd /etc/passwd; mount --bind @/shadow /etc/shadow";

#[test]
fn passwords_open_and_wrong_ones_are_explained() {
    if skipped() {
        return;
    }
    for (config, method) in [
        ("PasswordAuthentication yes", "password"),
        ("UsePAM yes\nPasswordAuthentication no\nKbdInteractiveAuthentication yes", "keyboard-interactive"),
    ] {
        // The first UsePAM counts, so it has to come before the common one.
        let server = Server::with(
            config,
            &format!(
                "{WALTER}; sed -i '/^UsePAM no/d' @/config; echo 'UsePAM {}' >>@/config",
                if config.contains("UsePAM yes") { "yes" } else { "no" }
            ),
        );
        let target = Target {
            user: "walter".into(),
            identities: Vec::new(),
            password: Some("right horse".into()),
            ..server.target()
        };
        works(&server, &target, &NOBODY);
        let error = fails(&server, &Target { password: Some("wrong".into()), ..target.clone() }, &NOBODY);
        assert!(error.contains("walter may not log in") && error.contains("is the password right"), "{error}");
        assert!(error.contains(&format!("{method}: not taken")), "{error}");
        let offers = error.lines().find(|line| line.starts_with("the server takes:")).unwrap_or_default();
        assert!(offers.contains(method), "{error}");
        assert!(!error.contains("wrong") && !error.contains("horse"), "{error}");
    }
}

#[test]
fn a_key_and_a_password_together() {
    if skipped() {
        return;
    }
    let server = Server::with("PasswordAuthentication yes\nAuthenticationMethods publickey,password", WALTER);
    let target = Target { user: "walter".into(), password: Some("right horse".into()), ..server.target() };
    works(&server, &target, &NOBODY);
}

#[test]
fn who_may_not_log_in_reads_what_was_tried() {
    if skipped() {
        return;
    }
    let server = Server::new();
    let stranger = server.path("stranger");
    keygen(&stranger, "ed25519", "");
    let open = server.path("open-to-all");
    keygen(&open, "ed25519", "");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).unwrap();
    let error = fails(&server, &Target { identities: vec![open, stranger], ..server.target() }, &NOBODY);
    for part in ["ws1 (root@127.0.0.1:", "/stranger: not taken", "open-to-all: others can read it", "hint: "] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn nobody_waits_for_a_server_that_never_answers() {
    if skipped() {
        return;
    }
    let server = Server::new();
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let target =
        Target { port: deaf.local_addr().unwrap().port(), connect_timeout: Duration::from_secs(1), ..server.target() };
    let began = Instant::now();
    let error = fails(&server, &target, &NOBODY);
    assert!(error.contains("no SSH server answered within 1 s"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(3));
    drop(deaf);
    let error = fails(&server, &target, &NOBODY);
    assert!(error.contains("connection refused") && error.contains("hint: nothing listens on port"), "{error}");
    let error = fails(&server, &Target { address: "no-such-host.invalid".into(), ..target }, &NOBODY);
    assert!(error.contains("no-such-host.invalid is not known"), "{error}");
}

#[test]
fn a_server_that_comes_up_late_is_found_by_trying_again() {
    if skipped() {
        return;
    }
    let port = free_port();
    let template = Server::new();
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        Server::on(port, "", "")
    });
    let target = Target { port, retries: 6, ..template.target() };
    // Its key is another one, so what comes back is not about the connection any more.
    let error = fails(&template, &target, &NOBODY);
    assert!(error.contains("may not log in"), "{error}");
    drop(late.join().unwrap());
    let error = fails(&template, &Target { retries: 1, ..target }, &NOBODY);
    assert!(error.contains("(2 tries)"), "{error}");
}

#[test]
fn a_far_end_that_falls_silent_is_gone() {
    if skipped() {
        return;
    }
    let server = Server::new();
    let between = Between::to(server.port);
    let target = Target {
        port: between.port,
        keepalive: Keepalive { interval: Duration::from_secs(2), count: 1 },
        ..server.target()
    };
    let mut remote = start(&target, &NOBODY, &echo(server.folder.path(), 0)).unwrap();
    echoes(&mut remote);
    // Nothing to say is not silence: the far end's sshd answers.
    let error = remote.receive_bytes(1, Some(Instant::now() + Duration::from_millis(5000))).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
    echoes(&mut remote);
    between.stuck.store(true, Ordering::SeqCst);
    let began = Instant::now();
    let error = remote.receive_bytes(1, None).unwrap_err();
    assert!(error.to_string().contains("no sign of life"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(7), "{:?}", began.elapsed());
}

#[test]
fn a_host_with_another_key_is_not_logged_in_to() {
    if skipped() {
        return;
    }
    let server = Server::with(
        "HostKey @/host_rsa\nHostKey @/host_ecdsa",
        "ssh-keygen -q -t rsa -b 2048 -N '' -f @/host_rsa; ssh-keygen -q -t ecdsa -N '' -f @/host_ecdsa",
    );
    let keys = Arc::new(Anybody { refuse: true, ..Anybody::default() });
    let target = Target { host_keys: Known(keys.clone()), ..server.target() };
    assert_eq!(fails(&server, &target, &NOBODY), "ws1: another key");
    assert_eq!(*keys.seen.lock().unwrap(), [format!("127.0.0.1 {} ssh-ed25519", server.port)]);
    assert!(!server.log().contains("Accepted"), "{}", server.log());
    // The kind that is known is asked for first; the alias is what it is looked up under.
    for kind in ["ssh-rsa", "ecdsa-sha2-nistp256", "ssh-ed25519"] {
        let keys = Arc::new(Anybody { kinds: vec![kind.into()], ..Anybody::default() });
        let target = Target { host_keys: Known(keys.clone()), host_key_alias: Some("gpu7".into()), ..server.target() };
        works(&server, &target, &NOBODY);
        assert_eq!(*keys.seen.lock().unwrap(), [format!("gpu7 {} {kind}", server.port)]);
    }
}

#[test]
fn the_program_is_sent_once_and_old_ones_are_cleared_away() {
    if skipped() {
        return;
    }
    let server = Server::new();
    let folder = server.path("home/.cache/vfio-provision");
    fs::create_dir_all(&folder).unwrap();
    for (name, days) in [("agent-old", 40), ("agent-recent", 3), ("something", 40)] {
        let file = fs::File::create(folder.join(name)).unwrap();
        let then = std::time::SystemTime::now() - Duration::from_secs(days * 86400);
        file.set_times(fs::FileTimes::new().set_accessed(then).set_modified(then)).unwrap();
    }
    let between = Between::to(server.port);
    let target = Target { port: between.port, ..server.target() };
    let program = echo(server.folder.path(), 1_500_000);
    let mut remote = start(&target, &NOBODY, &program).unwrap();
    echoes(&mut remote);
    let first = between.sent.swap(0, Ordering::SeqCst);
    assert!(first > 1_500_000, "{first}");
    let name = format!("agent-{}", program.sha256);
    let mut expected = [name.as_str(), "agent-recent", "something"].map(String::from);
    expected.sort();
    assert_eq!(agents_in(&folder), expected);
    assert_eq!(fs::metadata(folder.join(&name)).unwrap().permissions().mode() & 0o7777, 0o700);
    assert_eq!(fs::metadata(&folder).unwrap().permissions().mode() & 0o7777, 0o755, "what was there is left as it is");
    drop(remote);
    echoes(&mut start(&target, &NOBODY, &program).unwrap());
    let second = between.sent.load(Ordering::SeqCst);
    assert!(second < 10_000, "{second}");
    // One that is damaged there is replaced.
    fs::write(folder.join(&name), "").unwrap();
    echoes(&mut start(&target, &NOBODY, &program).unwrap());
    assert_eq!(fs::metadata(folder.join(&name)).unwrap().len(), program.size);
}

#[test]
fn an_upload_that_was_cut_goes_on_where_it_stopped() {
    if skipped() {
        return;
    }
    let server = Server::new();
    let between = Between::to(server.port);
    between.cut_after.store(3_000_000, Ordering::SeqCst);
    let target = Target { port: between.port, ..server.target() };
    let program = echo(server.folder.path(), 4_000_000);
    let error = start(&target, &NOBODY, &program).err().unwrap().to_string();
    assert!(error.contains("was cut off") && error.contains("goes on where it stopped"), "{error}");
    let part = server.path(&format!("home/.cache/vfio-provision/agent-{}.part", program.sha256));
    let until = Instant::now() + Duration::from_secs(5);
    while !part.exists() && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    let have = fs::metadata(&part).unwrap().len();
    assert!(have > 1_000_000, "{have}");
    between.cut_after.store(u64::MAX, Ordering::SeqCst);
    between.sent.store(0, Ordering::SeqCst);
    echoes(&mut start(&target, &NOBODY, &program).unwrap());
    let sent = between.sent.load(Ordering::SeqCst);
    assert!(sent < 4_000_000 - have + 100_000, "{sent} of {have}");
    assert_eq!(agents_in(part.parent().unwrap()), [format!("agent-{}", program.sha256)]);
    // A part that is not the beginning of this program is thrown away, and all is sent.
    let other = echo(server.folder.path(), 500_000);
    fs::write(part.with_file_name(format!("agent-{}.part", other.sha256)), "not its beginning").unwrap();
    echoes(&mut start(&target, &NOBODY, &other).unwrap());
}

#[test]
fn what_shells_say_first_is_skipped() {
    if skipped() {
        return;
    }
    let server = Server::with("Banner @/banner", "");
    fs::write(server.path("banner"), "Welcome to the machine\n").unwrap();
    fs::write(
        server.path("home/.bashrc"),
        "echo 'fortune: vfio-provision agents are near'; printf noise; echo psst >&2\n",
    )
    .unwrap();
    works(&server, &server.target(), &NOBODY);
    works(&server, &server.target(), &NOBODY);
    let program = echo(server.folder.path(), 0);
    fs::write(server.path("home/.bashrc"), "echo too much; exec yes\n").unwrap();
    let error = start(&server.target(), &NOBODY, &program).err().unwrap().to_string();
    assert!(error.contains("64 KiB came before"), "{error}");
}

#[test]
fn where_home_takes_no_program_it_goes_elsewhere_and_is_found_again() {
    if skipped() {
        return;
    }
    // Every fallback is a small file system of this sshd's own; user 0's folder in the first belongs to another user.
    let places = "mount -t tmpfs -o size=8m,mode=1777 t /var/tmp; mkdir -m 700 /var/tmp/vfio-provision-0; \
         chown 4711 /var/tmp/vfio-provision-0; mkdir @/tmp; ";
    // The last one is full without `df` saying so.
    let full = "-o size=64k t @/home; mount --bind /bin/true /usr/bin/df; true";
    for home in ["-o noexec,size=8m", "-o ro", "-o size=64k", full] {
        let server = Server::with(
            "",
            &format!(
                "{places} mount -t tmpfs {home} t @/home; mount -t tmpfs -o size=8m,mode=1777 t /dev/shm; mount -t tmpfs -o noexec t /run; mkdir /run/sshd"
            ),
        );
        // Of the fallbacks only /dev/shm is left: /tmp is the one that tests live in, so it is taken by a file.
        let mut target = server.target();
        let between = Between::to(server.port);
        target.port = between.port;
        let program = echo(server.folder.path(), 600_000);
        let taken = PathBuf::from("/tmp/vfio-provision-0");
        let ours = fs::write(&taken, "a test was here").is_ok();
        let outcome = start(&target, &NOBODY, &program).map(|mut remote| echoes(&mut remote));
        let first = between.sent.swap(0, Ordering::SeqCst);
        let again = start(&target, &NOBODY, &program).map(|mut remote| echoes(&mut remote));
        if ours {
            let _ = fs::remove_file(&taken);
        }
        outcome.unwrap_or_else(|error| panic!("{home}: {error}"));
        again.unwrap_or_else(|error| panic!("{home}: {error}"));
        assert!(first > 600_000, "{home}");
        let second = between.sent.load(Ordering::SeqCst);
        assert!(second < 20_000, "{home}: {second}");
    }
}

#[test]
fn the_agent_itself_greets_back() {
    if skipped() {
        return;
    }
    let server = Server::new();
    let program = AgentProgram::at(Path::new(env!("CARGO_BIN_EXE_vfio-provision"))).unwrap();
    let mut remote = start(&server.target(), &NOBODY, &program).unwrap();
    fs::create_dir(server.path("machine")).unwrap();
    let hello: Hello = serde_json::from_value(serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"), "machine": {"folder": {"root": server.path("machine"), "recorded": null}},
        "mode": "plan", "run": "test", "pins": {}, "remote": true, "from": "tester@here", "what": "a test",
        "wait_for_lock": 0
    }))
    .unwrap();
    remote.send(&Request::Hello(hello)).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    let reply = remote.receive(Some(until)).unwrap().unwrap();
    assert!(matches!(reply, Reply::Ready { .. } | Reply::Refused { .. }), "{reply:?}");
    assert_eq!(
        remote.receive(Some(Instant::now() + Duration::from_millis(50))).is_ok(),
        matches!(reply, Reply::Refused { .. })
    );
    // The end of the connection ends it.
    let folder = server.path("home/.cache/vfio-provision");
    drop(remote);
    let running = || {
        let links =
            fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| fs::read_link(entry.path().join("exe")).ok());
        links.filter(|link| link.starts_with(&folder)).count()
    };
    let until = Instant::now() + Duration::from_secs(10);
    while running() > 0 {
        assert!(Instant::now() < until, "the agent still runs");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn through_two_machines_to_a_third() {
    if skipped() {
        return;
    }
    let servers = [Server::new(), Server::new(), Server::new()];
    let hops = vec![
        Target { name: "first".into(), ..servers[0].target() },
        Target { name: "second".into(), ..servers[1].target() },
    ];
    let target = Target { proxy: Proxy::Jump(hops.clone()), ..servers[2].target() };
    let program = echo(servers[2].folder.path(), 3_000_000);
    let mut remote = start(&target, &NOBODY, &program).unwrap();
    // More than any buffer on the way holds, while nobody reads.
    let much: Vec<u8> = (0..8_000_000u32).map(|n| n.to_le_bytes()[1]).collect();
    remote.send_bytes(&much).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    assert!(remote.receive_bytes(much.len(), Some(until)).unwrap().unwrap() == much);
    drop(remote);
    for server in &servers {
        assert!(server.log().is_empty() || !server.log().contains("error"), "{}", server.log());
    }
    // Who was refused on the way is named.
    let stranger = servers[1].path("stranger");
    keygen(&stranger, "ed25519", "");
    let mut bad = hops;
    bad[1].identities = vec![stranger];
    let error = fails(&servers[2], &Target { proxy: Proxy::Jump(bad), ..target.clone() }, &NOBODY);
    assert!(error.contains("on the way to ws1: second"), "{error}");
    let port = free_port();
    let error = fails(&servers[2], &Target { port, ..target }, &NOBODY);
    assert!(error.contains("second can't connect to 127.0.0.1:"), "{error}");
}

#[test]
fn through_a_command() {
    if skipped() {
        return;
    }
    let server = Server::new();
    let command = "bash -c 'exec 3<>/dev/tcp/127.0.0.1/PORT; cat <&3 & cat >&3; kill $!'"
        .replace("PORT", &server.port.to_string());
    let target = Target { proxy: Proxy::Command(command), ..server.target() };
    works(&server, &target, &NOBODY);
    let error = fails(&server, &Target { proxy: Proxy::Command("false".into()), ..target.clone() }, &NOBODY);
    assert!(error.contains("the proxy's command ended with exit status: 1"), "{error}");
}

#[test]
fn both_sides_may_talk_at_once() {
    if skipped() {
        return;
    }
    let server = Server::new();
    let mut remote = start(&server.target(), &NOBODY, &echo(server.folder.path(), 0)).unwrap();
    let much: Vec<u8> = (0..20_000_000u32).map(|n| n.to_le_bytes()[2]).collect();
    remote.send_bytes(&much).unwrap();
    let until = Instant::now() + Duration::from_secs(20);
    assert!(remote.receive_bytes(much.len(), Some(until)).unwrap().unwrap() == much);
}

#[test]
fn other_machines_are_named() {
    if skipped() {
        return;
    }
    let server = Server::with(
        "",
        "mkdir @/bin; printf '#!/bin/sh\\necho Linux aarch64\\n' >@/bin/uname; chmod 755 @/bin/uname; mount --bind @/bin/uname /usr/bin/uname",
    );
    let error = fails(&server, &server.target(), &NOBODY);
    assert!(error.contains("this is a Linux aarch64 machine") && error.contains("x86-64 Linux"), "{error}");
    let server = Server::with("ForceCommand echo 'this account is for backups'", "");
    let error = fails(&server, &server.target(), &NOBODY);
    assert!(error.contains("no command can be run there") && error.contains("for backups"), "{error}");
}

/// `cargo test --test wire -- --ignored --nocapture`: a login, a command and 15 kB through it, and OpenSSH's `true`.
#[test]
#[ignore = "figures for people"]
fn how_fast() {
    if skipped() {
        return;
    }
    let server = Server::new();
    fs::write(server.path("home/.bashrc"), "").unwrap();
    let program = echo(server.folder.path(), 0);
    let target = server.target();
    drop(start(&target, &NOBODY, &program).unwrap());
    let known = server.path("known");
    let ours = || {
        let began = Instant::now();
        let mut remote = start(&target, &NOBODY, &program).unwrap();
        remote.send_bytes(&[7; 15_000]).unwrap();
        assert_eq!(remote.receive_bytes(15_000, None).unwrap().unwrap().len(), 15_000);
        began.elapsed()
    };
    let theirs = || {
        let began = Instant::now();
        let mut command = Command::new("ssh");
        command.args(["-F", "none", "-o", "StrictHostKeyChecking=accept-new", "-o", "IdentitiesOnly=yes", "-o"]);
        command.arg(format!("UserKnownHostsFile={}", known.display())).arg("-i").arg(server.path("user"));
        run(command.args(["-p", &server.port.to_string(), "root@127.0.0.1", "true"]).env_remove("SSH_AUTH_SOCK"));
        began.elapsed()
    };
    theirs();
    let (mut mine, mut yours): (Vec<Duration>, Vec<Duration>) = (0..15).map(|_| (ours(), theirs())).unzip();
    mine.sort();
    yours.sort();
    let (mine, yours) = (mine[7], yours[7]);
    println!(
        "login + exec + 15 kB: {mine:?}; ssh host true: {yours:?}; ratio {:.2}",
        mine.as_secs_f64() / yours.as_secs_f64()
    );
}
