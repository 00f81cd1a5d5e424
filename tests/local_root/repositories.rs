//! Small repositories of real packages, made with the distributions' own tools.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use sha2::{Digest, Sha256};

use super::root::assert_success;

const UNIT: &str =
    "[Unit]\nDescription=Demo\n\n[Service]\nExecStart=/bin/true\n\n[Install]\nWantedBy=multi-user.target\n";

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert_success(&format!("{command:?}"), &output);
    output.stdout
}

pub fn sha256(path: &Path) -> String {
    format!("{:x}", Sha256::digest(fs::read(path).unwrap()))
}

/// Builds a .deb with a unit and a configuration file.
fn deb(folder: &Path, name: &str, version: &str, extra: &str) {
    let tree = tempfile::tempdir().unwrap();
    let put = |path: &str, text: &str| {
        let path = tree.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    put(
        "DEBIAN/control",
        &format!(
            "Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: Test <test@example.org>\n\
             Description: made for a test\n{extra}"
        ),
    );
    put("DEBIAN/conffiles", &format!("/etc/{name}.conf\n"));
    put(&format!("etc/{name}.conf"), &format!("from = {version}\n"));
    put(&format!("lib/systemd/system/{name}.service"), UNIT);
    fs::set_permissions(tree.path(), fs::Permissions::from_mode(0o755)).unwrap();
    run(Command::new("dpkg-deb").args(["--build", "--root-owner-group"]).arg(tree.path()).arg(folder));
}

/// A flat repository for apt in `share/apt`, and two packages beside it in `share/files`.
pub fn apt(share: &Path) {
    let (repository, files) = (share.join("apt"), share.join("files"));
    fs::create_dir(&repository).unwrap();
    fs::create_dir(&files).unwrap();
    deb(&repository, "vp-demo", "1.0-1", "");
    deb(&repository, "vp-demo", "2.0-1", "");
    deb(&repository, "vp-tool", "1:0.9~rc1-1", "Depends: vp-demo\nProvides: vp-virtual\n");
    deb(&repository, "vp-pinned", "1.0-1", "");
    deb(&repository, "vp-pinned", "1.1-1", "");
    deb(&files, "vp-file", "3.0-1", "");
    deb(&files, "vp-url", "4.0-1", "");
    let index = run(Command::new("dpkg-scanpackages").args(["--multiversion", "."]).current_dir(&repository));
    fs::write(repository.join("Packages"), index).unwrap();
    // What the repository holds one day later.
    deb(&repository, "vp-late", "1.0-1", "");
    let index = run(Command::new("dpkg-scanpackages").args(["--multiversion", "."]).current_dir(&repository));
    fs::write(share.join("Packages.later"), index).unwrap();
}

/// A key made for one test: gives its home folder and its fingerprint.
fn key(share: &Path) -> (tempfile::TempDir, String) {
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let gpg = || {
        let mut gpg = Command::new("gpg");
        gpg.arg("--homedir").arg(home.path()).args(["--batch", "--quiet"]);
        gpg
    };
    run(gpg().args(["--passphrase", "", "--quick-gen-key", "test@example.org", "rsa2048", "sign", "never"]));
    fs::write(share.join("KEY"), run(gpg().args(["--armor", "--export", "test@example.org"]))).unwrap();
    let listing = String::from_utf8(run(gpg().args(["--with-colons", "--list-keys"]))).unwrap();
    let line = listing.lines().find(|line| line.starts_with("fpr:")).unwrap();
    (home, line.split(':').nth(9).unwrap().to_string())
}

/// Builds a noarch RPM with a unit and a configuration file.
fn rpm(top: &Path, name: &str, version: &str, release: &str, extra: &str) {
    let spec = format!(
        "Name: {name}\nVersion: {version}\nRelease: {release}\nSummary: made for a test\nLicense: MIT\nBuildArch: noarch\n\
         AutoReqProv: no\n{extra}\n%description\nMade for a test.\n%install\nmkdir -p %{{buildroot}}/usr/lib/systemd/system \
         %{{buildroot}}/etc\necho 'from = {version}' > %{{buildroot}}/etc/{name}-{version}.conf\n\
         cat > %{{buildroot}}/usr/lib/systemd/system/{name}-{version}.service <<'END'\n{UNIT}END\n%files\n\
         %config(noreplace) /etc/{name}-{version}.conf\n/usr/lib/systemd/system/{name}-{version}.service\n"
    );
    let file = top.join(format!("{name}-{version}.spec"));
    fs::write(&file, spec).unwrap();
    run(Command::new("rpmbuild").arg("-bb").arg(format!("--define=_topdir {}", top.display())).arg(&file));
}

/// A signed repository for dnf in `share/rpm`, and two signed packages in `share/files`. Answers the key's fingerprint.
pub fn dnf(share: &Path) -> String {
    let (home, fingerprint) = key(share);
    let top = tempfile::tempdir().unwrap();
    rpm(top.path(), "vp-demo", "1.0", "1.el9", "");
    rpm(top.path(), "vp-demo", "2.0", "1.el9", "");
    rpm(top.path(), "vp-tool", "0.9", "1.el9", "Requires: vp-demo\nProvides: vp-virtual");
    rpm(top.path(), "vp-pinned", "1.0", "1.el9", "");
    rpm(top.path(), "vp-pinned", "1.1", "1.el9", "");
    rpm(top.path(), "kernel-ml", "6.1.1", "1.el9.elrepo", "Provides: installonlypkg(kernel)");
    rpm(top.path(), "kernel-ml", "6.2.2", "1.el9.elrepo", "Provides: installonlypkg(kernel)");
    rpm(top.path(), "vp-file", "3.0", "1.el9", "");
    rpm(top.path(), "vp-url", "4.0", "1.el9", "Requires: vp-file");
    let (repository, files) = (share.join("rpm"), share.join("files"));
    fs::create_dir(&repository).unwrap();
    fs::create_dir(&files).unwrap();
    for built in fs::read_dir(top.path().join("RPMS/noarch")).unwrap() {
        let built = built.unwrap().path();
        run(Command::new("rpmsign")
            .env("GNUPGHOME", home.path())
            .arg(format!("--define=_gpg_name {fingerprint}"))
            // rpm looks for gpg2, a name that not every distribution has.
            .arg("--define=__gpg /usr/bin/gpg")
            .arg("--addsign")
            .arg(&built));
        let name = built.file_name().unwrap().to_str().unwrap();
        let alone = name.starts_with("vp-file") || name.starts_with("vp-url");
        fs::copy(&built, if alone { files.join(name) } else { repository.join(name) }).unwrap();
    }
    run(Command::new("createrepo_c").arg("--quiet").arg(&repository));
    // The agent that gpg started goes with its home.
    let _ = Command::new("gpgconf").env("GNUPGHOME", home.path()).args(["--kill", "all"]).output();
    fingerprint
}
