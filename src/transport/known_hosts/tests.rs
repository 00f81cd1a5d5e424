use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use proptest::prelude::*;

use super::*;
use crate::transport::ssh_config::{Config, Local, Overrides, lookup};

fn options(hostname: &str, port: u16, files: &[&Path]) -> HostOptions {
    let mut options = lookup(&Config::default(), hostname, &Overrides::default(), &Local::here()).unwrap();
    options.port = port;
    options.user_known_hosts = files.iter().map(|path| path.to_path_buf()).collect();
    options.global_known_hosts.clear();
    options
}

/// A key of an algorithm, with some content.
fn key(algorithm: &str, content: &str) -> HostKey {
    let mut bytes = Vec::new();
    for part in [algorithm, content] {
        bytes.extend(u32::try_from(part.len()).unwrap().to_be_bytes());
        bytes.extend(part.as_bytes());
    }
    HostKey(bytes)
}

fn ed(content: &str) -> HostKey {
    key("ssh-ed25519", content)
}

fn line(names: &str, key: &HostKey) -> String {
    format!("{names} {} {}\n", key.algorithm().unwrap(), STANDARD.encode(&key.0))
}

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new(text: &str) -> Files {
        let files = Files { folder: tempfile::tempdir().unwrap() };
        std::fs::write(files.path(), text).unwrap();
        files
    }
    fn path(&self) -> PathBuf {
        self.folder.path().join("known_hosts")
    }
    fn text(&self) -> String {
        std::fs::read_to_string(self.path()).unwrap()
    }
    fn verdict(&self, hostname: &str, port: u16, key: &HostKey) -> Verdict {
        KnownHosts::new().verdict(&options(hostname, port, &[&self.path()]), key).unwrap()
    }
    fn check(&self, policy: Policy, key: &HostKey, answer: Option<bool>) -> Result<Option<String>, Error> {
        KnownHosts::new().check(&options("web1", 22, &[&self.path()]), policy, key, &|_| answer)
    }
}

#[test]
fn a_key_is_known_only_by_exactly_its_line() {
    let (a, b) = (ed("a"), ed("b"));
    let files = Files::new(&format!(
        "# comment\n\n{}{}{}{}{}",
        line("web1,10.0.0.1", &a),
        line("[web2]:2222", &a),
        line("*.lan,!db.lan", &a),
        line("web?0", &b).replace('\n', " a comment with blanks\n"),
        line("plain", &a),
    ));
    let place = |line| Place { file: files.path(), line };
    let changed = |line, old: &HostKey| Verdict::Changed { old: old.clone(), place: place(line) };
    for (host, port, shown, verdict) in [
        ("web1", 22, &a, Verdict::Known),
        ("WEB1", 22, &a, Verdict::Known),
        ("10.0.0.1", 22, &a, Verdict::Known),
        ("web1", 22, &b, changed(3, &a)),
        ("web2", 2222, &a, Verdict::Known),
        ("web2", 22, &a, Verdict::Unknown),
        ("web2", 2222, &b, changed(4, &a)),
        ("x.lan", 22, &a, Verdict::Known),
        ("db.lan", 22, &a, Verdict::Unknown),
        ("web10", 22, &b, Verdict::Known),
        ("web100", 22, &b, Verdict::Unknown),
        // Without its port it may say yes, never no.
        ("plain", 2222, &a, Verdict::Known),
        ("plain", 2222, &b, Verdict::Unknown),
        ("nobody", 22, &a, Verdict::Unknown),
    ] {
        assert_eq!(files.verdict(host, port, shown), verdict, "{host}:{port}");
    }
}

#[test]
fn the_key_of_the_same_kind_is_named_and_any_other_known_key_refuses() {
    let (rsa, old, new) = (key("ssh-rsa", "r"), ed("old"), ed("new"));
    let files = Files::new(&format!("{}{}", line("web1", &rsa), line("web1", &old)));
    let path = files.path();
    assert_eq!(
        files.verdict("web1", 22, &new),
        Verdict::Changed { old: old.clone(), place: Place { file: path.clone(), line: 2 } }
    );
    let other = key("ecdsa-sha2-nistp256", "e");
    assert!(matches!(files.verdict("web1", 22, &other), Verdict::Changed { .. }));
    let algorithms = KnownHosts::new().algorithms(&options("web1", 22, &[&path])).unwrap();
    assert_eq!(algorithms, ["ssh-rsa", "ssh-ed25519"]);
    assert_eq!(KnownHosts::new().algorithms(&options("web1", 22022, &[&path])).unwrap().len(), 2);
    assert!(KnownHosts::new().algorithms(&options("web2", 22, &[&path])).unwrap().is_empty());
    let before = files.text();
    for policy in [Policy::Strict, Policy::Ask, Policy::AcceptNew] {
        let error = files.check(policy, &new, Some(true)).unwrap_err().to_string();
        for part in [
            old.fingerprint(),
            new.fingerprint(),
            format!("{}:2", path.display()),
            format!("ssh-keygen -R 'web1' -f {}", path.display()),
        ] {
            assert!(error.contains(&part), "{error}");
        }
    }
    assert!(files.check(Policy::No, &new, None).unwrap().unwrap().contains("another one is known"));
    assert_eq!(files.text(), before);
}

#[test]
fn a_revoked_key_is_refused_whatever_else_is_said() {
    let (a, b) = (ed("a"), ed("b"));
    let files = Files::new(&format!("{}@revoked {}", line("web1,plain", &a), line("*", &a)));
    let place = Place { file: files.path(), line: 2 };
    assert_eq!(files.verdict("web1", 22, &a), Verdict::Revoked(place.clone()));
    assert_eq!(files.verdict("plain", 2222, &a), Verdict::Revoked(place));
    assert_eq!(files.verdict("web9", 22, &b), Verdict::Unknown);
    for policy in [Policy::Strict, Policy::Ask, Policy::AcceptNew, Policy::No] {
        assert!(files.check(policy, &a, Some(true)).unwrap_err().to_string().contains("revoked at"));
    }
    let only_port = Files::new(&format!("@revoked {}", line("web1", &a)));
    assert!(matches!(only_port.verdict("web1", 2222, &a), Verdict::Revoked(_)));
}

#[test]
fn the_line_of_an_authority_trusts_no_key() {
    let (authority, own) = (ed("ca"), ed("own"));
    let files = Files::new(&format!("@cert-authority {}", line("web*", &authority)));
    for policy in [Policy::Strict, Policy::Ask, Policy::AcceptNew] {
        for shown in [&authority, &own] {
            let error = files.check(policy, shown, Some(true)).unwrap_err().to_string();
            assert!(error.contains("authority") && error.contains("ansible_connection=openssh"), "{error}");
        }
    }
    let both = Files::new(&format!("@cert-authority {}{}", line("web*", &authority), line("web1", &own)));
    assert_eq!(both.verdict("web1", 22, &own), Verdict::Known);
    assert!(KnownHosts::new().algorithms(&options("web2", 22, &[&both.path()])).unwrap().is_empty());
}

#[test]
fn an_unknown_key_is_shown_with_what_to_do() {
    let files = Files::new("");
    let shown = ed("new");
    for (policy, answer) in [(Policy::Strict, Some(true)), (Policy::Ask, None)] {
        let error = files.check(policy, &shown, answer).unwrap_err().to_string();
        for part in [&*shown.fingerprint(), "ED25519", "ssh-keyscan web1", "accept-new"] {
            assert!(error.contains(part), "{error}");
        }
    }
    assert!(files.check(Policy::Ask, &shown, Some(false)).unwrap_err().to_string().contains("was not accepted"));
    assert_eq!(files.text(), "");
    assert!(files.check(Policy::No, &shown, None).unwrap().unwrap().contains("whoever stands between"));
    assert_eq!(files.text(), "");
    assert_eq!(files.check(Policy::Ask, &shown, Some(true)).unwrap(), None);
    assert_eq!(files.verdict("web1", 22, &shown), Verdict::Known);
    assert_eq!(files.check(Policy::Strict, &shown, None).unwrap(), None);
    let mut aliased = options("web1", 22, &[&files.path()]);
    aliased.host_key_alias = Some("other".into());
    assert_eq!(KnownHosts::new().verdict(&aliased, &shown).unwrap(), Verdict::Unknown);
}

#[test]
fn broken_lines_are_warned_of_and_trust_nothing() {
    let a = ed("a");
    let encoded = STANDARD.encode(&a.0);
    let files = Files::new(&format!(
        "web1\nweb1 ssh-ed25519\nweb1 ssh-rsa {encoded}\nweb1 ssh-ed25519 ?!\n@nonsense web1 ssh-ed25519 {encoded}\n\
         @revoked @revoked web1 ssh-ed25519 {encoded}\n|1|x|y ssh-ed25519 {encoded}\n|2|x|y ssh-ed25519 {encoded}\n\
         web1 ssh-ed25519 AAAA\n  {}",
        line("web1", &a)
    ));
    let known = KnownHosts::new();
    let host = options("web1", 22, &[&files.path()]);
    assert_eq!(
        known.verdict(&host, &ed("b")).unwrap(),
        Verdict::Changed { old: a.clone(), place: Place { file: files.path(), line: 10 } }
    );
    let warnings = known.warnings();
    assert_eq!(warnings.len(), 9);
    let places: Vec<usize> = warnings.iter().map(|w| w.span.as_ref().unwrap().line_column().0).collect();
    assert_eq!(places, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert!(warnings[2].message.contains("says `ssh-rsa`, and the key is `ssh-ed25519`"));
    known.verdict(&host, &a).unwrap();
    assert!(known.warnings().is_empty());
}

#[test]
fn a_new_key_goes_behind_what_is_there_once_however_many_ask() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/.ssh/known_hosts");
    let known = KnownHosts::new();
    let shown = ed("k");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                // Another process has no cache in common with us; a fresh one stands for it.
                let other = KnownHosts::new();
                for known in [&known, &other] {
                    let host = options("web1", 2222, &[&path]);
                    known.check(&host, Policy::AcceptNew, &shown, &|_| None).unwrap();
                }
            });
        }
    });
    assert_eq!(std::fs::read_to_string(&path).unwrap(), line("[web1]:2222", &shown));
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
    // A line without an end is ended first; a file's mode is its owner's matter; another key is not taken.
    std::fs::write(&path, line("web9", &shown).trim_end()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let known = KnownHosts::new();
    known.check(&options("web1", 22, &[&path]), Policy::AcceptNew, &shown, &|_| None).unwrap();
    assert_eq!(std::fs::read_to_string(&path).unwrap(), line("web9", &shown) + &line("web1", &shown));
    assert_eq!(mode(&path), 0o644);
    // Somebody else took down another key since the file was read.
    std::fs::write(&path, line("web7", &ed("theirs"))).unwrap();
    let stale = known.check(&options("web7", 22, &[&path]), Policy::AcceptNew, &ed("ours"), &|_| None);
    assert!(stale.unwrap_err().to_string().contains("has changed"));
    let nowhere = known.check(&options("web1", 22, &[]), Policy::AcceptNew, &shown, &|_| None);
    assert!(nowhere.unwrap_err().to_string().contains("can't be taken down"));
}

/// Real keys, and what the real ssh-keygen says of the same files.
#[test]
fn ssh_keygen_agrees() {
    let folder = tempfile::tempdir().unwrap();
    let keygen = |arguments: &[&str]| {
        Command::new("ssh-keygen").current_dir(folder.path()).args(arguments).output().map_err(|_| ())
    };
    let Ok(_) = keygen(&["-q", "-t", "ed25519", "-N", "", "-f", "ed"]) else {
        return eprintln!("skipped: no ssh-keygen");
    };
    keygen(&["-q", "-t", "ecdsa", "-N", "", "-f", "ec"]).unwrap();
    let read = |name: &str| {
        let text = std::fs::read_to_string(folder.path().join(name)).unwrap();
        HostKey(STANDARD.decode(text.split(' ').nth(1).unwrap()).unwrap())
    };
    let (ed, ec) = (read("ed.pub"), read("ec.pub"));
    let theirs = String::from_utf8(keygen(&["-l", "-f", "ec.pub"]).unwrap().stdout).unwrap();
    assert!(theirs.contains(&format!("{} ", ec.fingerprint())), "{theirs}");
    assert!(theirs.contains("(ECDSA)") && ec.kind() == "ECDSA");
    let path = folder.path().join("known_hosts");
    let text =
        [line("web1,10.0.0.1", &ed), line("[web1]:2222", &ec), line("Upper.Example", &ec), line("*.lan,!x.lan", &ed)];
    std::fs::write(&path, text.concat()).unwrap();
    let hosts = ["web1", "10.0.0.1", "[web1]:2222", "upper.example", "a.lan", "x.lan", "web2"];
    let theirs = |host: &str| keygen(&["-F", host, "-f", "known_hosts"]).unwrap().status.success();
    let ours = |host: &str| {
        let mut options = options("x", 22, &[&path]);
        options.host_key_alias = Some(host.into());
        !KnownHosts::new().algorithms(&options).unwrap().is_empty()
    };
    for host in hosts {
        assert_eq!(ours(host), theirs(host), "{host}");
    }
    // The same with hashed names, hashed by ssh-keygen ...
    assert!(keygen(&["-H", "-f", "known_hosts"]).unwrap().status.success());
    assert!(std::fs::read_to_string(&path).unwrap().contains("|1|"));
    for host in hosts {
        assert_eq!(ours(host), theirs(host), "{host}, hashed");
    }
    // ... and by us.
    let mut new = options("Web9", 2022, &[&path]);
    new.hash_known_hosts = true;
    KnownHosts::new().check(&new, Policy::AcceptNew, &ed, &|_| None).unwrap();
    assert!(std::fs::read_to_string(&path).unwrap().lines().last().unwrap().starts_with("|1|"));
    assert!(theirs("[web9]:2022") && !theirs("web9"));
    // What the error says to run takes the line away.
    assert!(keygen(&["-R", "[web9]:2022", "-f", "known_hosts"]).unwrap().status.success());
    assert_eq!(KnownHosts::new().verdict(&new, &ed).unwrap(), Verdict::Unknown);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_file_makes_it_panic(text in "(?s)((@revoked|@cert-authority|\\|1\\||web1|\\*|,|!|ssh-ed25519|AAAA[A-Za-z0-9+/=]{0,20}|\\PC){0,6}[ \n\t]){0,8}", name in "\\PC{0,10}") {
        let (file, _) = KnownFile::parse(Path::new("x"), &text);
        let _ = file.of(&name).count();
    }

    #[test]
    fn no_bytes_are_a_key_that_panics(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let key = HostKey(bytes);
        let _ = (key.algorithm(), key.fingerprint(), key.kind());
    }

    #[test]
    fn a_hashed_name_means_only_its_own(name in "[a-z0-9.\\[\\]:]{1,20}", other in "[a-z0-9.]{1,20}") {
        let text = line(&file::hash(&name).unwrap(), &ed("a"));
        let (file, warnings) = KnownFile::parse(Path::new("x"), &text);
        prop_assert!(warnings.is_empty());
        prop_assert_eq!(file.of(&name).count(), 1);
        prop_assert_eq!(file.of(&other).count(), usize::from(name == other));
    }
}
