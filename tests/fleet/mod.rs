//! A fleet in network namespaces: hosts with a root, an address and an sshd each, on one bridge, on this machine.
//!
//! Nothing leaves the bridge, and nothing of the machine is touched: hosts are overlays over its root, in memory. Each host
//! is a process namespace whose process 1 reads a pipe that only this process holds, so all of it is gone when this process
//! is, however it ended. One fleet serves all tests of a process; a test takes as many hosts as it needs and gets them fresh.

#![allow(dead_code, unused_imports, reason = "tests and benchmarks each use their part of it")]

mod controller;
mod host;
mod proxy;

pub use controller::{Controller, Running, Said};
pub use host::Host;
pub use proxy::Far;

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use rustix::fs::XattrFlags;
use sha2::{Digest, Sha256};

/// What must be there.
const TOOLS: [&str; 10] =
    ["unshare", "nsenter", "setpriv", "chroot", "bash", "ip", "sshd", "ssh", "ssh-keygen", "openssl"];
/// How long anything of the fleet itself may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// As many hosts, unless the variable says otherwise.
const HOSTS: usize = 20;
/// How many hosts the fleet has.
pub const VARIABLE: &str = "VFIO_PROVISION_TEST_FLEET";
/// The password of root, admin, asks and plain.
pub const PASSWORD: &str = "correct horse";

/// Why there can be no fleet here, if there can't.
pub fn why_not() -> Option<String> {
    static WHY: OnceLock<Option<String>> = OnceLock::new();
    WHY.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            return Some("not root".into());
        }
        let missing: Vec<&str> = TOOLS.into_iter().filter(|tool| find(tool).is_none()).collect();
        if !missing.is_empty() {
            return Some(format!("missing: {}", missing.join(", ")));
        }
        let overlays = fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("\toverlay"));
        let namespaces = Command::new("unshare").args(["-m", "-n", "-p", "-u", "-i", "-f", "true"]).output();
        match namespaces {
            Ok(output) if output.status.success() && overlays => None,
            Ok(_) if !overlays => Some("the kernel has no overlay file system".into()),
            _ => Some("there are no namespaces".into()),
        }
    })
    .clone()
}

pub(crate) fn find(tool: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(tool))
        .find(|path| path.exists())
}

/// The fleet of this process, or none, with a word about why.
pub fn fleet() -> Option<&'static Fleet> {
    fleet_of(HOSTS)
}

/// The same, of as many hosts unless the variable says otherwise; who asks first has the word.
pub fn fleet_of(size: usize) -> Option<&'static Fleet> {
    static FLEET: OnceLock<Fleet> = OnceLock::new();
    match why_not() {
        Some(why) => {
            eprintln!("skipped: {why}");
            None
        }
        None => Some(FLEET.get_or_init(|| {
            let hosts = std::env::var(VARIABLE).ok().and_then(|text| text.parse().ok()).unwrap_or(size);
            Fleet::start(hosts, &program())
        })),
    }
}

/// The program that is tested: without its debug symbols, as it has to travel to hosts. A benchmark names its own.
fn program() -> PathBuf {
    if let Some(named) = std::env::var_os("VFIO_PROVISION_BENCH_PROGRAM") {
        return PathBuf::from(named);
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fleet-program");
    fs::create_dir_all(&folder).unwrap();
    let path = folder.join("vfio-provision");
    let own = folder.join(format!("vfio-provision-{}", std::process::id()));
    let built = env!("CARGO_BIN_EXE_vfio-provision");
    let stripped = Command::new("strip").arg("-o").arg(&own).arg(built).status().is_ok_and(|status| status.success());
    if !stripped {
        fs::copy(built, &own).unwrap();
    }
    fs::rename(&own, &path).unwrap();
    path
}

/// Hosts on a bridge.
pub struct Fleet {
    folder: PathBuf,
    program: PathBuf,
    middle: Child,
    free: Mutex<BTreeMap<usize, Option<Host>>>,
    given_back: Condvar,
    size: usize,
}

impl Fleet {
    /// As many hosts, all up. `program` is already where it would copy itself to, for root and for each user.
    pub fn start(size: usize, program: &Path) -> Fleet {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fleet");
        fs::create_dir_all(&folder).unwrap();
        // One fleet a process, but several processes: each mounts its own memory there.
        let mut middle = Command::new("unshare")
            .args(["--mount", "--net", "--uts", "bash", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fleet/middle.sh")])
            .arg(&folder)
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        expect(&mut BufReader::new(middle.stdout.take().unwrap()), "ready", "the fleet's bridge");
        let fleet = Fleet {
            folder,
            program: program.to_path_buf(),
            middle,
            free: Mutex::default(),
            given_back: Condvar::new(),
            size,
        };
        fleet.sow();
        let numbers: Vec<usize> = (1..=size).collect();
        let hosts = fleet.raise(&numbers);
        *fleet.free.lock().unwrap() = numbers.into_iter().zip(hosts.into_iter().map(Some)).collect();
        fleet
    }

    /// How many hosts there are.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The program that is tested.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// A path as controllers see it, seen from here.
    fn inside(&self, path: &Path) -> PathBuf {
        Path::new("/proc").join(self.middle.id().to_string()).join("root").join(path.strip_prefix("/").unwrap())
    }

    /// What a controller may use to log in: root and all users know this key. Seen as controllers see it.
    pub fn key(&self) -> PathBuf {
        self.folder.join("key")
    }

    /// What all hosts have in common, laid over the running system.
    fn sow(&self) {
        let seed = self.inside(&self.folder.join("seed"));
        let put = |path: &str, mode: u32, text: &str| {
            let path = seed.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        // Nothing of the running system shows through here.
        let own =
            ["home", "boot", "srv", "etc/ssh", "etc/default", "etc/modprobe.d", "etc/dracut.conf.d", "etc/sudoers.d"];
        let own = own.map(|path| (path, 0o755)).into_iter();
        for (path, mode) in own.chain([("root", 0o700), ("var/lib/vfio-provision", 0o700)]) {
            let path = seed.join(path);
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            rustix::fs::setxattr(&path, "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
        }
        let key = self.inside(&self.key());
        let made =
            Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "fleet", "-f"]).arg(&key).status();
        assert!(made.unwrap().success());
        let public = fs::read_to_string(key.with_extension("pub")).unwrap();
        let hash = Command::new("openssl").args(["passwd", "-6", "-salt", "fleet", PASSWORD]).output().unwrap();
        let hash = String::from_utf8(hash.stdout).unwrap();
        let hash = hash.trim();
        assert!(hash.starts_with("$6$"), "openssl passwd: {hash}");

        let mut passwd = fs::read_to_string("/etc/passwd").unwrap();
        let mut group = fs::read_to_string("/etc/group").unwrap();
        let mut shadow = fs::read_to_string("/etc/shadow").unwrap();
        let others = |text: &str| -> String {
            let names = ["root:", "admin:", "asks:", "plain:"];
            text.lines()
                .filter(|line| !names.iter().any(|name| line.starts_with(name)))
                .map(|l| format!("{l}\n"))
                .collect()
        };
        (passwd, group, shadow) = (others(&passwd), others(&group), others(&shadow));
        passwd.insert_str(0, "root:x:0:0:root:/root:/bin/bash\n");
        group.insert_str(0, "root:x:0:\n");
        shadow.insert_str(0, &format!("root:{hash}:19000:0:99999:7:::\n"));
        for (name, id) in USERS {
            passwd += &format!("{name}:x:{id}:{id}:{name}:/home/{name}:/bin/sh\n");
            group += &format!("{name}:x:{id}:\n");
            shadow += &format!("{name}:{hash}:19000:0:99999:7:::\n");
        }
        put("etc/passwd", 0o644, &passwd);
        put("etc/group", 0o644, &group);
        put("etc/shadow", 0o600, &shadow);
        put(
            "etc/sudoers",
            0o440,
            "Defaults !lecture\nroot ALL=(ALL:ALL) ALL\nadmin ALL=(ALL:ALL) NOPASSWD: ALL\nasks ALL=(ALL:ALL) ALL\n",
        );
        put("etc/ssh/sshd_config", 0o600, include_str!("sshd_config"));
        put("etc/fstab", 0o644, "");
        put("usr/bin/dracut", 0o755, DRACUT);
        // The cards of the workstation that this project started from.
        let recorded = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let machine = recorded.path().join("machine");
        vfio_provision::host::Folder::open_or_unpack(&machine, Some("centos7-seed")).unwrap();
        let copied = Command::new("cp").arg("-a").arg(machine.join("sys")).arg(seed.join("srv")).status();
        assert!(copied.unwrap().success());
        for (path, text) in LIKENESS {
            put(path, 0o644, text);
        }
        let agent = fs::read(&self.program).unwrap();
        let agent_name = format!("agent-{:x}", Sha256::digest(&agent));
        let homes = USERS.map(|(name, id)| (format!("home/{name}"), id));
        let homes = homes.into_iter().chain([("root".to_string(), 0)]);
        let first = self.inside(&self.folder.join("seed/root/.cache/vfio-provision")).join(&agent_name);
        fs::create_dir_all(first.parent().unwrap()).unwrap();
        fs::write(&first, &agent).unwrap();
        for (home, id) in homes {
            put(&format!("{home}/.ssh/authorized_keys"), 0o600, &public);
            let home = seed.join(home);
            let cache = home.join(".cache/vfio-provision");
            fs::create_dir_all(&cache).unwrap();
            let copy = cache.join(&agent_name);
            if copy != first {
                fs::copy(&first, &copy).unwrap();
            }
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o700)).unwrap();
            for path in [home.clone(), home.join(".ssh"), home.join(".cache"), cache] {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
                std::os::unix::fs::chown(&path, Some(id), Some(id)).unwrap();
            }
            for path in [home.join(".ssh/authorized_keys"), copy] {
                std::os::unix::fs::chown(&path, Some(id), Some(id)).unwrap();
            }
        }
    }

    /// Brings hosts up, side by side.
    fn raise(&self, numbers: &[usize]) -> Vec<Host> {
        if numbers.is_empty() {
            return Vec::new();
        }
        let mut begun: Vec<Host> = numbers.iter().map(|number| Host::begin(self, *number)).collect();
        begun.iter_mut().for_each(Host::settle);
        let mut cards = String::new();
        for host in &begun {
            let link = host.link();
            cards += &format!("link add {link} type veth peer name eth0 netns {}\n", host.process());
            cards += &format!("link set {link} master br0 up\n");
        }
        self.ip(&cards);
        begun.iter_mut().for_each(Host::plug);
        begun.iter_mut().for_each(Host::up);
        // A connection to the host that had this address before may still ask for it, and give up on all who wait.
        let known: String =
            begun.iter().map(|host| format!("neighbour flush to {} dev br0\n", host.address())).collect();
        self.ip(&known);
        begun
    }

    /// Commands for `ip`, on the fleet's side of the cards.
    pub(crate) fn ip(&self, batch: &str) {
        assert!(self.try_ip(batch), "ip failed\n{batch}");
    }

    /// The same, and it may fail.
    fn try_ip(&self, batch: &str) -> bool {
        let child = self.enter("ip").args(["-force", "-batch", "-"]).stdin(Stdio::piped()).spawn();
        let Ok(mut child) = child else { return false };
        let written = child.stdin.take().is_some_and(|mut input| input.write_all(batch.as_bytes()).is_ok());
        written && child.wait().is_ok_and(|status| status.success())
    }

    /// A command in the fleet's own namespaces; it is the very process that is started, and ends with this thread.
    pub fn enter(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        let process = self.middle.id().to_string();
        command.args(["-t", &process, "--mount", "--net", "--uts", "--", "setpriv", "--pdeathsig", "KILL", "--"]);
        command.arg(program).env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", "/root").env("LC_ALL", "C.UTF-8");
        command
    }

    /// Lets the calling thread open sockets on the fleet's bridge.
    pub(crate) fn move_thread_here(&self) {
        use rustix::fd::AsFd;
        let space = fs::File::open(format!("/proc/{}/ns/net", self.middle.id())).unwrap();
        let kind = rustix::thread::LinkNameSpaceType::Network;
        rustix::thread::move_into_link_name_space(space.as_fd(), Some(kind)).unwrap();
    }

    /// As many fresh hosts, as soon as no other test has them.
    pub fn take(&'static self, count: usize) -> Hosts {
        assert!(count <= self.size, "a fleet of {} hosts has no {count}", self.size);
        let deadline = Instant::now() + Duration::from_secs(240);
        let mut free = self.free.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while free.len() < count {
            let left = deadline.checked_duration_since(Instant::now()).expect("other tests keep the hosts");
            free = self.given_back.wait_timeout(free, left).unwrap_or_else(std::sync::PoisonError::into_inner).0;
        }
        // Those that nobody used yet first.
        let mut numbers: Vec<usize> = free.keys().copied().collect();
        numbers.sort_by_key(|number| free[number].is_none());
        numbers.truncate(count);
        numbers.sort_unstable();
        let taken: Vec<(usize, Option<Host>)> =
            numbers.iter().map(|number| (*number, free.remove(number).unwrap())).collect();
        drop(free);
        let anew: Vec<usize> = taken.iter().filter(|(_, host)| host.is_none()).map(|(number, _)| *number).collect();
        let mut anew = self.raise(&anew).into_iter();
        let hosts = taken.into_iter().map(|(_, host)| host.unwrap_or_else(|| anew.next().unwrap())).collect();
        Hosts { fleet: self, hosts }
    }
}

/// Users besides root, with their ids: `admin` has sudo without a password, `asks` with one, `plain` has none.
pub const USERS: [(&str, u32); 3] = [("admin", 7001), ("asks", 7002), ("plain", 7003)];

/// What makes of a host an Enterprise Linux workstation, as far as files go.
const LIKENESS: [(&str, &str); 6] = [
    (
        "etc/os-release",
        "NAME=\"Rocky Linux\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\nVERSION_ID=\"9.4\"\nPRETTY_NAME=\"Rocky Linux 9.4 (a likeness)\"\n",
    ),
    (
        "etc/default/grub",
        "GRUB_TIMEOUT=5\nGRUB_DEFAULT=saved\nGRUB_CMDLINE_LINUX=\"rhgb quiet\"\nGRUB_ENABLE_BLSCFG=true\n",
    ),
    ("etc/kernel/cmdline", "root=/dev/mapper/rl-root ro rhgb quiet\n"),
    (
        "boot/grub2/grub.cfg",
        "### BEGIN /etc/grub.d/10_linux ###\ninsmod part_gpt\ninsmod blscfg\nblscfg\n### END /etc/grub.d/10_linux ###\n",
    ),
    (ENTRY, include_str!("entry.conf")),
    ("boot/vmlinuz-5.14.0-427.13.1.el9_4.x86_64", "not a kernel\n"),
];
/// Makes what it is asked to make; what is in it is not what these tests are about.
const DRACUT: &str =
    "#!/bin/sh\nfor word; do case $word in /var/lib/vfio-provision/*) cat /etc/dracut.conf.d/* > $word;; esac; done\n";
/// The boot entry of every host.
pub const ENTRY: &str = "boot/loader/entries/m9-5.14.0-427.13.1.el9_4.x86_64.conf";

/// Hosts that a test has for itself.
pub struct Hosts {
    fleet: &'static Fleet,
    hosts: Vec<Host>,
}

impl std::ops::Deref for Hosts {
    type Target = [Host];
    fn deref(&self) -> &[Host] {
        &self.hosts
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        let numbers: Vec<usize> = self.hosts.iter().map(Host::number).collect();
        // The kernel takes its time to clear a namespace away, and a card that is still there answers for its address.
        let cards: String = self.hosts.iter().map(|host| format!("link delete {}\n", host.link())).collect();
        self.fleet.try_ip(&cards);
        self.hosts.clear();
        let mut free = self.fleet.free.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        free.extend(numbers.into_iter().map(|number| (number, None)));
        self.fleet.given_back.notify_all();
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.free.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clear();
        drop(self.middle.stdin.take());
        let _ = self.middle.wait();
    }
}

/// Reads one line, which must be this word.
pub(crate) fn expect(lines: &mut impl BufRead, word: &str, what: &str) {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), word, "{what} did not come up");
}

/// Waits until something holds; says what did not.
pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what}: not after {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
