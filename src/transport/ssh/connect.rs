//! From a name to a session whose host has shown who it is.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use ssh2::MethodType;

use super::session::{Link, Socket, Stop};
use super::{Ask, HostKey, Proxy, Target, jump};
use crate::host::Error;

/// What is offered, best first. All but the last of each also EL7's sshd knows; SHA-1 and CBC are not among them.
const KEY_EXCHANGES: &str = "curve25519-sha256,curve25519-sha256@libssh.org,ecdh-sha2-nistp256,ecdh-sha2-nistp384,\
     ecdh-sha2-nistp521,diffie-hellman-group16-sha512,diffie-hellman-group18-sha512,diffie-hellman-group14-sha256,\
     diffie-hellman-group-exchange-sha256";
const CIPHERS: &str = "aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes128-ctr,\
     aes192-ctr,aes256-ctr";
const MACS: &str = "hmac-sha2-256-etm@openssh.com,hmac-sha2-512-etm@openssh.com,hmac-sha2-256,hmac-sha2-512";
const HOST_KEYS: [&str; 6] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "rsa-sha2-512",
    "rsa-sha2-256",
];
/// The first pause before a connection is tried again; the next ones are twice as long, up to [`LONGEST_PAUSE`].
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Trouble on the way to a session.
enum Trouble {
    /// Another try may help.
    Again(Error),
    /// It will not.
    Final(Error),
}

/// Connects, exchanges keys and checks the host's. Tried again where the network may be at fault.
pub(super) fn open(target: &Target, ask: &dyn Ask) -> Result<Link, Error> {
    let mut pause = PAUSE;
    for _ in 0..target.retries {
        match attempt(target, ask) {
            Ok(link) => return Ok(link),
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Again(_)) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    let tries =
        if target.retries > 0 { format!(" ({} tries)", target.retries.saturating_add(1)) } else { String::new() };
    match attempt(target, ask) {
        Ok(link) => Ok(link),
        Err(Trouble::Final(error)) => Err(error),
        Err(Trouble::Again(mut error)) => {
            error.message.push_str(&tries);
            Err(error)
        }
    }
}

fn attempt(target: &Target, ask: &dyn Ask) -> Result<Link, Trouble> {
    let until = Instant::now() + target.connect_timeout;
    let socket = match &target.proxy {
        Proxy::None => tcp(target, until)?,
        Proxy::Command(command) => proxy_command(target, command)?,
        // A jump has its own tries and time-outs.
        Proxy::Jump(hops) => jump::through(hops, target, ask).map_err(Trouble::Final)?,
    };
    let until = if matches!(target.proxy, Proxy::Jump(_)) { Instant::now() + target.connect_timeout } else { until };
    let broken = |stop: &Stop| target.failed(format!("no SSH session: {stop}"));
    let mut link = Link::new(socket, target.keepalive).map_err(|stop| Trouble::Final(broken(&stop)))?;
    let name = target.host_key_alias.as_deref().unwrap_or(&target.address);
    prefer(&link, &target.host_keys.0.kinds(name, target.port))
        .map_err(|error| Trouble::Final(broken(&Stop::Ssh(error))))?;
    if let Err(stop) = link.drive(until, |session| session.handshake()) {
        let status = if matches!(stop, Stop::Deadline) { None } else { link.child_status() };
        let error = match (&stop, status) {
            (_, Some(words)) => target.failed(words),
            (Stop::Deadline, None) => target
                .failed(format!("connected, but no SSH server answered within {} s", target.connect_timeout.as_secs()))
                .hint("is it an SSH server, and is the machine not overloaded? ConnectTimeout sets how long is waited"),
            (Stop::Ssh(error), None) if matches!(error.code(), ssh2::ErrorCode::Session(-5 | -8)) => broken(&stop)
                .hint(
                    "this program speaks curve25519, ECDH and Diffie-Hellman with SHA-2 only, and no post-quantum key \
                 exchange: ansible_connection=openssh has what your own ssh has",
                ),
            _ => broken(&stop),
        };
        return Err(Trouble::Again(error));
    }
    check(&link, target, name, ask).map_err(Trouble::Final)?;
    Ok(link)
}

/// Algorithms in our order; kinds of host keys that are known come first.
fn prefer(link: &Link, kinds: &[String]) -> Result<(), ssh2::Error> {
    let mut keys: Vec<&str> = Vec::new();
    for kind in kinds {
        match kind.as_str() {
            "ssh-rsa" => keys.extend(["rsa-sha2-512", "rsa-sha2-256"]),
            other => keys.push(other),
        }
    }
    keys.extend(HOST_KEYS.iter().filter(|key| !kinds.iter().any(|kind| kind == *key)));
    let session = &link.session;
    session.method_pref(MethodType::Kex, KEY_EXCHANGES)?;
    session.method_pref(MethodType::CryptCs, CIPHERS)?;
    session.method_pref(MethodType::CryptSc, CIPHERS)?;
    session.method_pref(MethodType::MacCs, MACS)?;
    session.method_pref(MethodType::MacSc, MACS)?;
    session.method_pref(MethodType::HostKey, &keys.join(","))
}

/// Is it the host that it should be?
fn check(link: &Link, target: &Target, name: &str, ask: &dyn Ask) -> Result<(), Error> {
    let Some((key, _)) = link.session.host_key() else {
        return Err(target.failed("the server showed no host key"));
    };
    let kind = super::keys::kind(key).ok_or_else(|| target.failed("the server's host key can't be read"))?;
    let key = HostKey { name: &target.name, host: name, port: target.port, address: link.address, kind, key };
    target.host_keys.0.check(&key, ask)
}

/// A TCP connection to the first address that takes it.
fn tcp(target: &Target, until: Instant) -> Result<Socket, Trouble> {
    let addresses = resolve(&target.address, until).map_err(|why| {
        let hint = "check the name, or set ansible_host to the machine's address";
        Trouble::Final(target.failed(why).hint(hint))
    })?;
    let mut last = None;
    for (number, address) in addresses.iter().enumerate() {
        // Each address gets its share of the time, the last all that is left.
        let left = until.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - number).unwrap_or(1).max(1);
        let share = share.max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&SocketAddr::new(*address, target.port), share) {
            Ok(stream) => {
                // Only speed is lost without these.
                let _ = stream.set_nodelay(true);
                let _ = sockopt::set_socket_keepalive(&stream, true);
                return Ok(Socket { fd: OwnedFd::from(stream), tcp: true, address: Some(*address), child: None });
            }
            Err(error) => last = Some((*address, error)),
        }
    }
    let Some((address, error)) = last else {
        return Err(Trouble::Final(target.failed("the name has no address")));
    };
    let at = if address.to_string() == target.address { String::new() } else { format!(" at {address}") };
    Err(Trouble::Again(match error.kind() {
        std::io::ErrorKind::TimedOut | std::io::ErrorKind::WouldBlock => target
            .failed(format!("no answer{at} within {} s", target.connect_timeout.as_secs()))
            .hint("is the machine on, the address right, and the port open in its firewall?"),
        std::io::ErrorKind::ConnectionRefused => target
            .failed(format!("connection refused{at}"))
            .hint(format!("nothing listens on port {}: is sshd running, and is it on that port?", target.port)),
        std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable => target
            .failed(format!("no way there{at}: {error}"))
            .hint("is the machine on, the address right, and its network reached from here?"),
        _ => target.failed(format!("can't connect{at}: {error}")),
    }))
}

/// The addresses of a name. glibc's own resolver loads libraries of the system that a static program must not load, so
/// what is neither an address nor in `/etc/hosts` is asked of `getent`.
fn resolve(name: &str, until: Instant) -> Result<Vec<IpAddr>, String> {
    if let Ok(address) = name.trim_start_matches('[').trim_end_matches(']').parse() {
        return Ok(vec![address]);
    }
    if let Some((address, zone)) = name.split_once('%') {
        return Err(format!("{address}%{zone}: an IPv6 address with a zone can't be used here"));
    }
    let listed = hosts_file(&std::fs::read_to_string("/etc/hosts").unwrap_or_default(), name);
    if !listed.is_empty() {
        return Ok(listed);
    }
    let mut child = Command::new("getent")
        .args(["ahosts", "--", name])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|e| format!("can't look up {name}: getent does not start: {e}"))?;
    let mut text = Vec::new();
    let mut ended = false;
    if let Some(mut output) = child.stdout.take() {
        let mut bytes = [0; 4096];
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mut fds = [rustix::event::PollFd::new(&output, rustix::event::PollFlags::IN)];
            let left = rustix::event::Timespec::try_from(left).ok();
            match rustix::event::poll(&mut fds, left.as_ref()) {
                Ok(0) => break,
                Ok(_) => match output.read(&mut bytes) {
                    Ok(0) | Err(_) => {
                        ended = true;
                        break;
                    }
                    Ok(count) => text.extend_from_slice(bytes.get(..count).unwrap_or_default()),
                },
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
    }
    if !ended {
        let _ = child.kill();
    }
    let _ = child.wait();
    if !ended {
        return Err(format!("the name {name} was not resolved in time"));
    }
    let found = ahosts(&String::from_utf8_lossy(&text));
    if found.is_empty() { Err(format!("the name {name} is not known")) } else { Ok(found) }
}

/// A name's addresses in a file of hosts.
fn hosts_file(text: &str, name: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse().ok()) else { continue };
        if words.any(|word| word.eq_ignore_ascii_case(name)) && !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// What `getent ahosts` answered, each address once.
fn ahosts(text: &str) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for address in text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()) {
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found
}

/// A command whose standard input and output lead to the machine.
fn proxy_command(target: &Target, command: &str) -> Result<Socket, Trouble> {
    let trouble = |e: std::io::Error| Trouble::Final(target.failed(format!("the proxy's command does not start: {e}")));
    let (ours, theirs) = UnixStream::pair().map_err(trouble)?;
    let theirs = OwnedFd::from(theirs);
    let copy = theirs.try_clone().map_err(trouble)?;
    // `exec`: when it is killed it is the command that is.
    let child = Command::new("/bin/sh")
        .arg("-c")
        .arg(format!("exec {command}"))
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::from(copy))
        .spawn()
        .map_err(trouble)?;
    Ok(Socket { fd: OwnedFd::from(ours), tcp: false, address: None, child: Some(child) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_the_file_of_hosts() {
        let text = "127.0.0.1 localhost # ws9\n10.0.0.7\tWS7.site ws7\n::1 localhost\nnonsense ws7\n10.0.0.7 ws7";
        assert_eq!(hosts_file(text, "ws7"), ["10.0.0.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(hosts_file(text, "localhost").len(), 2);
        assert!(hosts_file(text, "ws9").is_empty());
    }

    #[test]
    fn getent_says_each_address_three_times() {
        let text = "10.0.0.7        STREAM ws7\n10.0.0.7        DGRAM\n10.0.0.7        RAW\nfe80::1 STREAM\n";
        assert_eq!(ahosts(text), ["10.0.0.7".parse::<IpAddr>().unwrap(), "fe80::1".parse().unwrap()]);
    }

    #[test]
    fn an_unknown_name_is_an_error_in_time() {
        let until = Instant::now() + Duration::from_secs(20);
        assert!(resolve("no-such-host.invalid", until).unwrap_err().contains("no-such-host.invalid"));
        assert_eq!(resolve("::1", until).unwrap(), ["::1".parse::<IpAddr>().unwrap()]);
    }
}
