//! `pull`: a workstation applies its own part of a git repository. The repositories are local, the machines are sandboxes,
//! and one is this machine itself in a mount namespace of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PROGRAM: &str = env!("CARGO_BIN_EXE_vfio-provision");

struct Site {
    folder: tempfile::TempDir,
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

impl Site {
    /// A repository with one host that is a sandbox beside it.
    fn new() -> Site {
        let site = Site { folder: tempfile::tempdir().unwrap() };
        fs::create_dir_all(site.path("origin")).unwrap();
        fs::create_dir_all(site.path("machine/etc")).unwrap();
        fs::create_dir_all(site.path("home")).unwrap();
        site.git(&["init", "-q", "-b", "main", "."]);
        let machine = site.path("machine");
        site.write("inventory", &format!("ws01 ansible_connection=sandbox sandbox_root={}\nws02\n", machine.display()));
        site.says("one");
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn copy(&self) -> PathBuf {
        self.path("pull/repository")
    }

    fn write(&self, name: &str, content: &str) {
        fs::write(self.path("origin").join(name), content).unwrap();
    }

    fn command(&self, program: &str, folder: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir(folder).env("HOME", self.path("home")).env("GIT_CONFIG_NOSYSTEM", "1");
        for name in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{name}_NAME"), "x").env(format!("GIT_{name}_EMAIL"), "x@example.org");
        }
        command
    }

    fn git_in(&self, folder: &Path, arguments: &[&str]) -> String {
        let output = self.command("git", folder).args(arguments).output().unwrap();
        assert!(output.status.success(), "git {arguments:?}: {}", text(&output));
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    }

    fn git(&self, arguments: &[&str]) -> String {
        self.git_in(&self.path("origin"), arguments)
    }

    /// Commits a playbook that writes this word; answers the commit.
    fn says(&self, word: &str) -> String {
        let play = format!(
            "- hosts: all\n  gather_facts: false\n  tasks:\n    - copy: {{content: \"{word}\\n\", dest: /etc/word}}\n"
        );
        self.write("site.yml", &play);
        self.git(&["add", "-A"]);
        self.git(&["commit", "-q", "-m", &format!("Say {word}")]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn said(&self) -> String {
        fs::read_to_string(self.path("machine/etc/word")).unwrap_or_default()
    }

    fn pull(&self, more: &[&str]) -> (Option<i32>, String) {
        let [origin, directory] = ["origin", "pull"].map(|name| self.path(name));
        let mut command = self.command(PROGRAM, self.folder.path());
        command.arg("pull").args(["--url".as_ref(), origin.as_os_str(), "--directory".as_ref(), directory.as_os_str()]);
        if !more.contains(&"--limit") {
            command.args(["--limit", "ws01"]);
        }
        let output = command.args(more).output().unwrap();
        (output.status.code(), text(&output))
    }

    #[track_caller]
    fn pulls(&self, more: &[&str]) -> String {
        let (code, text) = self.pull(more);
        assert_eq!(code, Some(0), "{text}");
        text
    }

    #[track_caller]
    fn refuses(&self, more: &[&str], code: i32, why: &str) {
        let before = self.said();
        let (ended, text) = self.pull(more);
        assert!(ended == Some(code) && text.contains(why), "{ended:?}: {text}");
        assert_eq!(self.said(), before, "nothing is applied");
    }
}

#[test]
fn what_was_pushed_is_applied_and_nothing_twice() {
    let site = Site::new();
    let first = site.git(&["rev-parse", "HEAD"]);
    let shown = site.pulls(&["--check"]);
    assert!(shown.contains("+one") && site.said().is_empty(), "{shown}");
    assert!(site.pulls(&["--only-if-changed"]).contains(&format!("{} (Say one) is applied to ws01", &first[..12])));
    assert_eq!(site.said(), "one\n");
    assert_eq!(site.git_in(&site.copy(), &["rev-parse", "HEAD"]), first);

    fs::write(site.path("machine/etc/word"), "drifted\n").unwrap();
    assert!(site.pulls(&["--only-if-changed"]).contains("nothing new"));
    assert_eq!(site.said(), "drifted\n");
    site.pulls(&[]);
    assert_eq!(site.said(), "one\n");

    site.says("two");
    let lines = site.pulls(&["--only-if-changed", "--output", "json"]);
    assert!(lines.contains(r#""event":"recap""#), "{lines}");
    assert_eq!(site.said(), "two\n");

    // A branch and a tag of its own, and a history that was written anew.
    site.git(&["tag", "v2"]);
    site.git(&["checkout", "-q", "--orphan", "other"]);
    site.says("three");
    site.pulls(&["--ref", "other"]);
    assert_eq!(site.said(), "three\n");
    site.pulls(&["--ref", "v2"]);
    assert_eq!(site.said(), "two\n");
    site.git(&["branch", "-q", "-f", "main", "other"]);
    site.pulls(&[]);
    site.git(&["branch", "-q", "-f", "main", "v2"]);
    assert!(site.pulls(&[]).contains("the history was rewritten"));
}

#[test]
fn a_run_that_failed_counts_as_not_applied() {
    let site = Site::new();
    site.write("site.yml", "- hosts: all\n  gather_facts: false\n  tasks:\n    - fail: {msg: no}\n");
    site.git(&["commit", "-q", "-a", "-m", "Fail"]);
    for _ in 0..2 {
        assert_eq!(site.pull(&["--only-if-changed"]).0, Some(2));
    }
}

#[test]
fn a_copy_that_somebody_changed_is_refused() {
    let site = Site::new();
    site.pulls(&[]);
    site.says("two");
    let copy = site.copy();
    fs::write(copy.join("new.yml"), "").unwrap();
    site.refuses(&[], 1, "somebody has changed the copy");
    fs::remove_file(copy.join("new.yml")).unwrap();
    fs::write(copy.join("inventory"), "").unwrap();
    site.refuses(&[], 1, "inventory");
    site.git_in(&copy, &["checkout", "-q", "--", "inventory"]);
    site.git_in(&copy, &["commit", "-q", "--allow-empty", "-m", "Mine"]);
    site.refuses(&[], 1, "somebody has moved the copy");
    site.git_in(&copy, &["checkout", "-q", "HEAD^"]);
    // What a run itself leaves there is no change.
    fs::write(copy.join("vfio-provision.lock"), "").unwrap();
    site.pulls(&[]);
    assert_eq!(site.said(), "two\n");
}

#[test]
fn a_pull_that_was_killed_is_finished_by_the_next() {
    let site = Site::new();
    site.pulls(&[]);
    let second = site.says("two");
    let state = site.path("pull/state.json");
    let mut noted: serde_json::Value = serde_json::from_slice(&fs::read(&state).unwrap()).unwrap();
    noted["pending"] = second.into();
    fs::write(&state, noted.to_string()).unwrap();
    fs::write(site.copy().join("site.yml"), "half").unwrap();
    fs::write(site.copy().join(".git/index.lock"), "").unwrap();
    site.pulls(&["--only-if-changed"]);
    assert_eq!(site.said(), "two\n");
}

#[test]
fn what_is_wrong_is_said_and_nothing_applied() {
    let site = Site::new();
    site.refuses(&["--ref", "nowhere"], 4, "nowhere");
    site.refuses(&["--ref", "--upload-pack=x"], 1, "");
    site.refuses(&["--verify-signatures"], 1, "needs a good signature");
    site.refuses(&["--playbook", "other.yml"], 1, "no playbook");
    site.refuses(&["--limit", "all"], 1, "means 2 hosts");
    let lock = fs::OpenOptions::new().write(true).create(true).truncate(false).open(site.path("pull/lock")).unwrap();
    lock.lock().unwrap();
    site.refuses(&[], 1, "another pull");
}

/// The inventory says SSH; `pull` works on this machine itself. Journals go to a `/var/lib` that nobody else sees.
#[test]
fn this_machine_is_reached_without_ssh() {
    let site = Site::new();
    let target = site.path("written");
    site.write("inventory", "ws01 ansible_host=192.0.2.1\n");
    fs::create_dir(site.path("origin/host_vars")).unwrap();
    site.write("host_vars/ws01.yml", "ansible_connection: ssh\nansible_become: false\n");
    let play = format!(
        "- hosts: ws01\n  gather_facts: false\n  tasks:\n    - copy: {{content: here, dest: {}}}\n",
        target.display()
    );
    site.write("site.yml", &play);
    site.git(&["add", "-A"]);
    site.git(&["commit", "-q", "-m", "Here"]);
    let own = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs tmpfs /var/lib && exec \"$@\"", "sh"];
    let as_root = rustix::process::geteuid().is_root();
    let line = own.iter().copied().filter(|_| as_root).chain([PROGRAM, "pull", "--limit", "ws01", "-i", "inventory"]);
    let line: Vec<&str> = line.collect();
    let output = site
        .command(line[0], site.folder.path())
        .env("XDG_STATE_HOME", site.path("home/state"))
        .args(&line[1..])
        .args(["--url".as_ref(), site.path("origin").as_os_str()])
        .args(["--directory".as_ref(), site.path("pull").as_os_str()])
        .output()
        .unwrap();
    // Playbook and inventory share their folder, so its host_vars are beside both.
    let said = text(&output);
    assert!(!output.status.success() && said.contains("is set beside the playbook"), "{said}");
    site.write("host_vars/ws01.yml", "ansible_become: false\n");
    site.git(&["commit", "-q", "-a", "-m", "Not there"]);
    let output = site
        .command(line[0], site.folder.path())
        .env("XDG_STATE_HOME", site.path("home/state"))
        .args(&line[1..])
        .args(["--url".as_ref(), site.path("origin").as_os_str()])
        .args(["--directory".as_ref(), site.path("pull").as_os_str()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(fs::read_to_string(&target).unwrap(), "here");
}
