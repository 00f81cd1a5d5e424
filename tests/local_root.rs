//! The whole program on a live machine: `ansible_connection=local` as root, with real apt, real dnf and real sudo, inside
//! disposable roots. Says `skipped` and why where that can't be done.

mod local_root {
    pub mod repositories;
    pub mod root;
}

use std::fs;
use std::path::Path;

use local_root::repositories;
use local_root::root::{Root, assert_success, why_not};
use serde_json::Value;

/// The task that edits a file which a package brings: a dry run can't know that it does.
const BROUGHT: &str = "a changed configuration file";

/// What a dry run may leave: apt and dnf keep caches and logs of what they were asked, and Debian's rpm makes its database.
const LEFT: [&str; 3] = ["/var/cache/", "/var/log/", "/root/.rpmdb/"];

/// Plans, applies and applies again, inside a root; each leaves its JSON lines in `PLAY.plan`, `.apply` and `.again`.
const THRICE: &str = r#"
provision() { /srv/bin/vfio-provision "$@" -i /srv/share/inventory --output json; }
thrice() {
    : > /tmp/before
    provision plan "$1" > "$1.plan" || { cat "$1.plan"; exit 1; }
    find / -xdev -newer /tmp/before -not -type d > "$1.touched"
    provision apply "$1" > "$1.apply" || { cat "$1.apply"; exit 1; }
    provision apply "$1" > "$1.again" || { cat "$1.again"; exit 1; }
}
"#;

/// The lines of `--output json`: the tasks, and the recap of the only host.
fn lines(path: &Path) -> (Vec<Value>, Value) {
    let text = fs::read_to_string(path).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let recap = lines.pop().unwrap();
    assert_eq!(recap["event"], "recap");
    lines.retain(|line| line["event"] == "task");
    (lines, recap["hosts"]["ws01"].clone())
}

/// What was shown of a task, in order.
fn shown(task: &Value) -> Vec<[&Value; 3]> {
    task["diffs"].as_array().unwrap().iter().map(|diff| [&diff["kind"], &diff["path"], &diff["unified"]]).collect()
}

/// Which version a repository holds is not known before the repository is there: a dry run can only say `installed` then.
fn same((planned, done): (&[&Value; 3], &[&Value; 3])) -> bool {
    planned == done || (planned[..2] == done[..2] && planned[0] == "package" && planned[2] == "+ installed\n")
}

/// A dry run shows what an apply does, except where it says that it can't know; and afterwards nothing is left to do.
fn assert_alike(play: &Path) {
    let file = |what: &str| play.with_extension(format!("yml.{what}"));
    let ((planned, _), (done, recap)) = (lines(&file("plan")), lines(&file("apply")));
    assert!(recap["changed"].as_u64() > Some(0) && recap["failed"] == 0, "{recap}");
    let names = |tasks: &[Value]| -> Vec<String> { tasks.iter().map(|task| task["task"].to_string()).collect() };
    assert_eq!(names(&planned), names(&done));
    for (planned, done) in planned.iter().zip(&done) {
        let (before, after) = (shown(planned), shown(done));
        match planned["status"].as_str().unwrap() {
            "unknown" => assert!(before.is_empty(), "{planned}"),
            // Its first stage is known, and what follows from that is not: it says so.
            "would_change" if before.len() < after.len() => {
                assert!(after.starts_with(&before) && planned["result"]["notes"].is_array(), "{planned}\n{done}");
            }
            _ if planned["task"] == BROUGHT => assert_eq!(before.len(), after.len(), "{planned}\n{done}"),
            _ => assert!(before.len() == after.len() && before.iter().zip(&after).all(same), "{planned}\n{done}"),
        }
        let status = done["status"].as_str().unwrap();
        assert!(matches!(status, "ok" | "changed"), "{done}");
    }
    let (again, recap) = lines(&file("again"));
    let left: Vec<&Value> = again.iter().filter(|task| task["status"] != "ok" && task["status"] != "skipped").collect();
    assert!(left.is_empty() && recap["changed"] == 0, "a second time there is nothing to change: {left:#?}");
    let touched = fs::read_to_string(file("touched")).unwrap();
    let touched: Vec<&str> = touched.lines().filter(|path| !LEFT.iter().any(|left| path.starts_with(left))).collect();
    assert!(touched.is_empty(), "a dry run touches nothing, and did: {touched:#?}");
}

/// A root with everything of one kind of play in its shared folder, or none where that can't be done.
fn root_with(os: &'static str, files: &[&str], fill_in: &dyn Fn(&Root) -> Vec<(&'static str, String)>) -> Option<Root> {
    if let Some(why) = why_not() {
        eprintln!("skipped: {why}");
        return None;
    }
    let root = Root::new(os);
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/local_root");
    let filled = fill_in(&root);
    for file in files {
        let mut text = fs::read_to_string(folder.join(file)).unwrap();
        for (key, value) in &filled {
            text = text.replace(&format!("@{key}@"), value);
        }
        fs::write(root.share().join(file), text).unwrap();
    }
    fs::write(root.share().join("inventory"), "ws01 ansible_connection=local\n").unwrap();
    Some(root)
}

/// Applies two plays one after the other, and looks at the outcome with the system's own tools.
fn applies(os: &'static str, more: &[&str], fill_in: &dyn Fn(&Root) -> Vec<(&'static str, String)>) {
    let [play, later, check] = ["yml", "later.yml", "check.sh"].map(|end| format!("{os}.{end}"));
    let files: Vec<&str> = [&*play, &*later, &*check].into_iter().chain(more.iter().copied()).collect();
    let Some(root) = root_with(os, &files, fill_in) else { return };
    let script = format!("{THRICE}\ncd /srv/share\nthrice {play}\nthrice {later}\nexec sh {check}");
    let output = root.run(&script);
    assert_success(os, &output);
    assert_alike(&root.share().join(play));
    assert_alike(&root.share().join(later));
}

/// Every file is the old one or the new one wherever the process is killed, and the next run ends where one run would have.
#[test]
fn killed_anywhere_the_next_run_converges() {
    let fill_in = |root: &Root| {
        repositories::apt(&root.share());
        vec![("SHA256", repositories::sha256(&root.share().join("files/vp-url_4.0-1_all.deb")))]
    };
    let Some(root) = root_with("debian", &["kill.yml", "kill.check.sh"], &fill_in) else { return };
    assert_success("kill", &root.run("exec sh /srv/share/kill.check.sh"));
}

#[test]
fn debian_with_real_apt() {
    applies("debian", &["debian.motd.j2", "debian.become.yml"], &|root| {
        repositories::apt(&root.share());
        // More than is sent at once, and not a multiple of it.
        let large: Vec<u8> = (0..9_500_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        fs::write(root.share().join("files/large.bin"), large).unwrap();
        vec![("SHA256", repositories::sha256(&root.share().join("files/vp-url_4.0-1_all.deb")))]
    });
}

#[test]
fn enterprise_linux_with_real_dnf() {
    applies("el", &[], &|root| {
        let fingerprint = repositories::dnf(&root.share());
        let sha256 = repositories::sha256(&root.share().join("files/vp-url-4.0-1.el9.noarch.rpm"));
        vec![("FINGERPRINT", fingerprint), ("SHA256", sha256)]
    });
}
