//! Becoming another user with real sudo, su and doas, as a user who is not root, on a machine whose /etc is our own.
//!
//! The test starts itself again in a mount namespace with other accounts, as one of them; what is in [`scenes`] runs there.
//! Says `skipped` and why where that can't be done.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use vfio_provision::agent::child::{Become, Child, Method};
use vfio_provision::agent::protocol::{Hello, MachineKind, Mode, Reply, Request, Task};

/// Set in the inner process: the folder that the outer one made.
const INSIDE: &str = "VFIO_PROVISION_BECOME_INSIDE";
/// alice may do all with a password, carol without one, dave nothing, erin one command; frank needs a terminal.
const PASSWD: &str = "root:x:0:0::/root:/bin/sh
alice:x:7001:7001::/home/alice:/bin/sh
bob:x:7002:7002::/nonexistent:/usr/sbin/nologin
carol:x:7003:7003::/nonexistent:/bin/sh
dave:x:7004:7004::/nonexistent:/bin/sh
erin:x:7005:7005::/nonexistent:/bin/sh
frank:x:7006:7006::/nonexistent:/bin/sh
messagebus:x:7100:7100::/nonexistent:/usr/sbin/nologin
";
const GROUP: &str = "root:x:0:\nshadow:x:42:\nusers:x:7000:\nalice:x:7001:\nbob:x:7002:\ncarol:x:7003:\n";
const SUDOERS: &str = "Defaults env_reset, secure_path=/nowhere, lecture=never
Defaults:frank requiretty
alice ALL=(ALL:ALL) ALL
carol ALL=(ALL) NOPASSWD: ALL
erin ALL=(ALL) NOPASSWD: /bin/true
frank ALL=(ALL) ALL
";
const DOAS: &str = "permit alice\npermit nopass carol\n";
/// No slow-downs, no logs: who may do what is sudo's own business.
const PAM: &str = "auth required pam_unix.so nodelay\naccount required pam_unix.so\nsession required pam_permit.so\n";
const PAM_SU: &str = "auth sufficient pam_rootok.so\nauth required pam_unix.so nodelay\naccount required pam_unix.so
session required pam_permit.so\n";
const ENTER: &str = r#"
mount --make-rprivate /
cp -a /etc/. "$1/etc"
cp -a "$1/ours/." "$1/etc"
mount --bind "$1/etc" /etc
export TMPDIR="$1/tmp"
[ -e /run/sudo ] && mount -t tmpfs -o mode=0711 none /run/sudo
shift
exec setpriv --reuid "$1" --regid "$1" --clear-groups --reset-env -- env TMPDIR="$TMPDIR" "$2" "$3" --exact "$4" --nocapture
"#;

fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("not root".into());
    }
    let there = |tool: &str| {
        ["/usr/bin", "/usr/sbin", "/bin", "/sbin"].iter().any(|folder| Path::new(folder).join(tool).exists())
    };
    let missing: Vec<&str> =
        ["sudo", "su", "unshare", "setpriv", "openssl"].into_iter().filter(|tool| !there(tool)).collect();
    (!missing.is_empty()).then(|| format!("missing: {}", missing.join(", ")))
}

/// Runs the test of that name again as a user of the other machine; `None` outside of it.
fn inside(test: &str, uid: u32) -> Option<PathBuf> {
    if let Some(folder) = std::env::var_os(INSIDE) {
        return Some(folder.into());
    }
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return None;
    }
    let folder = tempfile::Builder::new().prefix("become").tempdir_in("/tmp").unwrap();
    let root = folder.path();
    fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
    let hash = |password: &str| {
        let output = Command::new("openssl").args(["passwd", "-5", "-salt", "salt", password]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    };
    let [alice, bob] = [hash("alice's own"), hash("bob's own")];
    let shadow: String = ["root:*", &format!("alice:{alice}"), &format!("bob:{bob}"), "carol:*", "erin:*"]
        .iter()
        .map(|user| format!("{user}:19000::::::\n"))
        .chain(["dave", "frank"].map(|user| format!("{user}:{alice}:19000::::::\n")))
        .collect();
    fs::create_dir(root.join("etc")).unwrap();
    fs::create_dir_all(root.join("ours/pam.d")).unwrap();
    fs::create_dir(root.join("tmp")).unwrap();
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777)).unwrap();
    for (name, text, mode) in [
        ("passwd", PASSWD, 0o644),
        ("group", GROUP, 0o644),
        ("shadow", &shadow, 0o600),
        ("sudoers", SUDOERS, 0o440),
        ("doas.conf", DOAS, 0o400),
        ("pam.d/sudo", PAM, 0o644),
        ("pam.d/doas", PAM, 0o644),
        ("pam.d/su", PAM_SU, 0o644),
        ("pam.d/other", PAM, 0o644),
    ] {
        fs::write(root.join("ours").join(name), text).unwrap();
        fs::set_permissions(root.join("ours").join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    // The agent as it lies in a home: nobody else can go there.
    let home = root.join("home");
    fs::create_dir(&home).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_vfio-provision"), home.join("agent")).unwrap();
    fs::set_permissions(home.join("agent"), fs::Permissions::from_mode(0o700)).unwrap();
    for path in [home.join("agent"), home.clone()] {
        std::os::unix::fs::chown(path, Some(uid), Some(uid)).unwrap();
    }
    fs::set_permissions(&home, fs::Permissions::from_mode(0o700)).unwrap();
    let test_program = root.join("test");
    fs::copy(std::env::current_exe().unwrap(), &test_program).unwrap();
    fs::set_permissions(&test_program, fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-euc", ENTER, "sh"])
        .arg(root)
        .args([uid.to_string(), format!("{INSIDE}={}", root.display())])
        .arg(&test_program)
        .arg(test)
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
    None
}

fn user(name: &str, method: Method, password: Option<&str>) -> Become {
    Become { method, password: password.map(str::to_string), ..Become::sudo(name) }
}

fn start(inside: &Path, user: &Become) -> Result<Child, vfio_provision::host::Error> {
    Child::start_program(user, &inside.join("home/agent"), Duration::from_secs(30))
}

/// Starts, says hello and asks who the agent is, with more bytes than a terminal or a pipe keeps, and all byte values.
fn works(inside: &Path, user: &Become, uid: &str) {
    let begun = Instant::now();
    let mut child = start(inside, user).unwrap_or_else(|error| panic!("{user:?}: {error:?}"));
    child
        .send(&Request::Hello(Hello {
            version: env!("CARGO_PKG_VERSION").into(),
            machine: MachineKind::Live,
            mode: Mode::Plan,
            run: "become".into(),
            pins: Default::default(),
            remote: false,
            from: "tester@here".into(),
            what: "a test".into(),
            wait_for_lock: 0,
        }))
        .unwrap();
    let first = child.receive().unwrap();
    assert!(matches!(first, Some(Reply::Ready { .. })), "{user:?}: {first:?}");
    let text: String = (1..0x300).filter_map(char::from_u32).collect::<String>().repeat(50);
    let task = Task {
        chain: 0,
        user: None,
        id: 7,
        module: "command".into(),
        parameters: serde_json::json!({"argv": ["sh", "-c", "printf %s \"$0\" | wc -c; id -u", text], "reads": true}),
        title: "who".into(),
        no_log: false,
        timeout: None,
        expect: None,
    };
    child.send(&Request::Task(Box::new(task))).unwrap();
    loop {
        match child.receive_until(Instant::now() + Duration::from_secs(20)).unwrap() {
            Some(Reply::Done { outcome, .. }) => {
                assert_eq!(outcome.result["stdout"], format!("{}\n{uid}", text.len()), "{user:?}: {:?}", outcome.error);
                break;
            }
            Some(_) => {}
            None => panic!("{user:?}: gone: {}", child.last_words()),
        }
    }
    child.stopper().stop().unwrap();
    let stopped = child.receive_until(Instant::now() + Duration::from_secs(20)).unwrap();
    assert!(matches!(stopped, Some(Reply::Stopped)), "{stopped:?}");
    drop(child);
    assert!(begun.elapsed() < Duration::from_secs(20), "{user:?}");
    let left: Vec<_> = fs::read_dir(inside.join("tmp")).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.is_empty(), "copies are cleared away: {left:?}");
}

fn refused(inside: &Path, user: &Become, words: &[&str]) {
    let begun = Instant::now();
    let error = start(inside, user).err().unwrap_or_else(|| panic!("{user:?} was let in"));
    let text = format!("{} | {}", error.message, error.hint.unwrap_or_default());
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
    assert!(!text.contains("not this one") && begun.elapsed() < Duration::from_secs(20), "{text}");
}

const ALICE: &str = "alice's own";

/// In a home that only its owner can enter lies what root runs, and what others get a copy of.
#[test]
fn sudo_with_a_password() {
    let Some(here) = inside("sudo_with_a_password", 7001) else { return };
    works(&here, &user("root", Method::Sudo, Some(ALICE)), "0");
    works(&here, &user("bob", Method::Sudo, Some(ALICE)), "7002");
    works(
        &here,
        &Become { flags: Some("-H -S -n -g users".into()), ..user("carol", Method::Sudo, Some(ALICE)) },
        "7003",
    );
    refused(&here, &user("root", Method::Sudo, Some("not this one")), &["password is wrong", "not that of root"]);
    refused(&here, &user("root", Method::Sudo, None), &["password is required", "-K asks"]);
    refused(&here, &user("nobody-there", Method::Sudo, Some(ALICE)), &["unknown user"]);
    let elsewhere = Become { exe: Some("/opt/no/sudo".into()), ..user("root", Method::Sudo, None) };
    refused(&here, &elsewhere, &["there is no `/opt/no/sudo`", "ansible_become_method"]);
}

#[test]
fn sudo_without_a_password() {
    let Some(here) = inside("sudo_without_a_password", 7003) else { return };
    works(&here, &user("root", Method::Sudo, None), "0");
    // A password that nobody asks for is no frame.
    works(&here, &user("bob", Method::Sudo, Some("never asked for")), "7002");
    works(&here, &Become { flags: Some("-i".into()), ..user("alice", Method::Sudo, None) }, "7001");
}

#[test]
fn sudo_that_wants_a_terminal() {
    let Some(here) = inside("sudo_that_wants_a_terminal", 7006) else { return };
    works(&here, &user("root", Method::Sudo, Some(ALICE)), "0");
    refused(&here, &user("root", Method::Sudo, Some("not this one")), &["password is wrong"]);
}

#[test]
fn sudo_for_whom_it_is_not() {
    let Some(here) = inside("sudo_for_whom_it_is_not", 7004) else { return };
    refused(&here, &user("root", Method::Sudo, Some(ALICE)), &["dave is not in the sudoers", "visudo"]);
}

#[test]
fn sudo_for_one_command_only() {
    let Some(here) = inside("sudo_for_one_command_only", 7005) else { return };
    refused(&here, &user("root", Method::Sudo, None), &["sudo"]);
}

#[test]
fn su_asks_on_a_terminal() {
    let Some(here) = inside("su_asks_on_a_terminal", 7001) else { return };
    works(&here, &user("alice", Method::Su, Some(ALICE)), "7001");
    refused(&here, &user("bob", Method::Su, Some("not this one")), &["password is wrong", "of bob"]);
    refused(&here, &user("bob", Method::Su, None), &["wants a password", "-K asks"]);
}

#[test]
fn root_needs_no_password_and_no_sudo() {
    let Some(here) = inside("root_needs_no_password_and_no_sudo", 0) else { return };
    works(&here, &user("bob", Method::Su, None), "7002");
    works(&here, &user("bob", Method::Sudo, None), "7002");
    works(&here, &Become { exe: Some("/opt/no/sudo".into()), ..user("bob", Method::Sudo, None) }, "7002");
}

#[test]
fn doas_asks_on_a_terminal() {
    if !Path::new("/usr/bin/doas").exists() {
        eprintln!("skipped: missing: doas (Debian: opendoas)");
        return;
    }
    let Some(here) = inside("doas_asks_on_a_terminal", 7001) else { return };
    works(&here, &user("root", Method::Doas, Some(ALICE)), "0");
    works(&here, &user("bob", Method::Doas, Some(ALICE)), "7002");
    refused(&here, &user("root", Method::Doas, Some("not this one")), &["password is wrong"]);
    refused(&here, &user("root", Method::Doas, None), &["wants a password"]);
}
