//! Disposable roots: made once by mmdebstrap, kept under target/, and entered as an overlay that nobody can spoil.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sha2::{Digest, Sha256};

/// What the roots have besides the essential packages: real apt and real dnf, and systemctl to enable units.
const PACKAGES: &str = "ca-certificates,dnf,rpm,systemd";
const TOOLS: [&str; 7] =
    ["mmdebstrap", "unshare", "chroot", "dpkg-deb", "dpkg-scanpackages", "rpmbuild", "createrepo_c"];
/// Debian's own definition of its repositories, as this machine has it (a mirror may stand there).
const SOURCES: [&str; 2] = ["/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list"];

/// Why the tests of this file can't run here, if they can't.
pub fn why_not() -> Option<String> {
    if !rustix_is_root() {
        return Some("not root".into());
    }
    let missing: Vec<&str> = TOOLS.into_iter().filter(|tool| find(tool).is_none()).collect();
    if !missing.is_empty() {
        return Some(format!("missing: {}", missing.join(", ")));
    }
    if sources().is_none() {
        return Some("no Debian mirror is configured".into());
    }
    None
}

fn rustix_is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn find(tool: &str) -> Option<PathBuf> {
    ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
        .iter()
        .map(|folder| Path::new(folder).join(tool))
        .find(|path| path.exists())
}

fn sources() -> Option<(PathBuf, String)> {
    let release = fs::read_to_string("/etc/os-release").ok()?;
    let suite = release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?.trim_matches('"').to_string();
    let path = SOURCES.iter().map(PathBuf::from).find(|path| path.exists())?;
    Some((path, suite))
}

/// The root folder, made if there is none of this recipe yet.
pub fn base() -> PathBuf {
    let (sources, suite) = sources().expect("asked before");
    let recipe = format!("1 {suite} {PACKAGES} {}", fs::read_to_string(&sources).unwrap());
    let hash = format!("{:x}", Sha256::digest(recipe));
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let done = folder.join(format!("local-root-{}", &hash[..16]));
    // Several test programs may want it at once.
    let lock = File::create(folder.join("local-root.lock")).unwrap();
    lock.lock().unwrap();
    if done.exists() {
        return done;
    }
    for old in fs::read_dir(folder).unwrap().flatten() {
        if old.file_name().to_string_lossy().starts_with("local-root-") {
            fs::remove_dir_all(old.path()).unwrap();
        }
    }
    let begun = folder.join("local-root-begun");
    let output = Command::new("mmdebstrap")
        .args(["--mode=root", "--variant=minbase", "--format=directory", "--quiet"])
        .arg(format!("--include={PACKAGES}"))
        .args([suite.as_ref(), begun.as_os_str(), sources.as_os_str()])
        .output()
        .unwrap();
    assert_success("mmdebstrap", &output);
    fs::rename(&begun, &done).unwrap();
    done
}

/// A disposable root, and what it shares with the outside.
pub struct Root {
    base: PathBuf,
    os: &'static str,
    folder: tempfile::TempDir,
}

impl Root {
    /// `os`: `debian` or `el`.
    pub fn new(os: &'static str) -> Root {
        let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        fs::create_dir(folder.path().join("share")).unwrap();
        fs::create_dir(folder.path().join("scratch")).unwrap();
        Root { base: base(), os, folder }
    }

    /// The folder that is /srv/share inside.
    pub fn share(&self) -> PathBuf {
        self.folder.path().join("share")
    }

    /// Runs a shell script inside, as root. /srv/bin is the folder of this test program.
    pub fn run(&self, script: &str) -> Output {
        let program = std::env::current_exe().unwrap();
        Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--uts", "--net", "--ipc", "sh"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/local_root/enter.sh"))
            .args([&self.base, &self.folder.path().join("scratch"), &self.share(), program.parent().unwrap()])
            .args([self.os, "sh", "-euc", script])
            .output()
            .unwrap()
    }
}

/// Fails the test with all that the command said, unless it succeeded.
pub fn assert_success(what: &str, output: &Output) {
    assert!(
        output.status.success(),
        "{what} ended with {}\n--- stdout\n{}\n--- stderr\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
