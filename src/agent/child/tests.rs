//! The rules; real sudo, su and doas are in `tests/become.rs`.

use std::os::unix::fs::PermissionsExt;

use super::words::is_question;
use super::*;
use crate::host::Result;

/// A tool that is a shell script.
fn with_tool(script: &str, password: Option<&str>, patience: u64) -> (tempfile::TempDir, Result<Child>) {
    let folder = tempfile::tempdir().unwrap();
    let tool = folder.path().join("tool");
    std::fs::write(&tool, format!("#!/bin/sh\n{script}")).unwrap();
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755)).unwrap();
    let user =
        Become { password: password.map(str::to_string), exe: Some(tool.display().to_string()), ..Become::sudo("bob") };
    let started = Child::start_program(&user, Path::new("/bin/true"), Duration::from_millis(patience));
    (folder, started)
}

fn refused(started: Result<Child>) -> (String, String) {
    let error = started.err().expect("it did not greet");
    (error.message, error.hint.unwrap_or_default())
}

#[test]
fn noise_before_the_greeting_is_nobodys_and_frames_come_after_it() {
    let ready = r#"printf '\0\0\0\035{"ready":{"version":"1.2.3"}}'"#;
    let noise = "echo Welcome; echo; printf 'no newline '";
    let (_folder, child) = with_tool(&format!("{noise}; echo 'vfio-provision agent'; {ready}"), None, 9000);
    let mut child = child.unwrap();
    assert!(matches!(child.receive().unwrap(), Some(Reply::Ready { version, .. }) if version == "1.2.3"));
    assert!(child.receive().unwrap().is_none() && child.receive().unwrap().is_none());
    let (_folder, child) = with_tool("yes noise", None, 9000);
    assert!(refused(child).0.contains("noise"), "a child that never ends its noise is given up");
}

#[test]
fn a_question_that_nobody_understands_ends_with_its_words() {
    let begun = Instant::now();
    let (_folder, child) = with_tool("echo 'Verification code:' >&2; exec sleep 60", Some("x"), 1000);
    let (message, _) = refused(child);
    assert!(message.contains("after 1 s") && message.contains("Verification code"), "{message}");
    assert!(begun.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_second_question_means_a_wrong_password_whatever_language_the_machine_speaks() {
    let script = format!(
        "printf '%s' \"{PROMPT}\" >&2; read -r a; echo 'Das war nichts.' >&2; printf '%s' \"{PROMPT}\" >&2; read -r b \
         || exit 1; echo 'vfio-provision agent'"
    );
    let (_folder, child) = with_tool(&script, Some("secret"), 9000);
    let (message, hint) = refused(child);
    assert!(message.contains("the password is wrong") && message.contains("Das war nichts."), "{message}");
    assert!(!message.contains("secret") && !message.contains(PROMPT) && hint.contains("not that of bob"), "{hint}");
}

#[test]
fn questions_are_open_lines_behind_a_colon() {
    for question in ["Password: ", "x\nMot de passe : ", "密码：", "\rdoas (a@b) password: "] {
        assert!(is_question(question), "{question}");
    }
    for other in ["", "su: ", "sudo: ", "Last login:\n", "Welcome", ": "] {
        assert!(!is_question(other), "{other}");
    }
}

#[test]
fn a_password_is_never_shown() {
    let user = Become { password: Some("hunter2".into()), ..Become::sudo("bob") };
    assert!(!format!("{user:?}").contains("hunter2"));
    let back: Become = serde_json::from_str(&serde_json::to_string(&user).unwrap()).unwrap();
    assert!(back == user);
    let short: Become = serde_json::from_str(r#"{"user": "bob"}"#).unwrap();
    assert!(short == Become::sudo("bob"));
}

#[test]
fn the_users_flags_go_along_and_those_about_asking_are_ours() {
    let argv = |method, given: Option<&str>, password: Option<&str>, terminal| -> String {
        let user = Become {
            method,
            flags: given.map(str::to_string),
            password: password.map(str::to_string),
            ..Become::sudo("bob")
        };
        let one = Try { user: &user, method, program: Path::new("/it's/agent"), terminal };
        one.argv().iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join("|")
    };
    assert_eq!(argv(Method::Sudo, None, None, false), "sudo|-H|-n|-u|bob|--|/it's/agent|agent");
    let with = format!("sudo|-i|-H|-g|wheel|-S|-k|-p|{PROMPT}|-u|bob|--|/it's/agent|agent");
    assert_eq!(argv(Method::Sudo, Some("-i -H -S -n -g wheel"), Some("x"), false), with);
    assert_eq!(argv(Method::Sudo, Some("-HSn"), None, false), "sudo|-H|-n|-u|bob|--|/it's/agent|agent");
    assert_eq!(argv(Method::Su, Some("-"), None, false), r"su|-|-s|/bin/sh|-c|exec '/it'\''s/agent' agent|bob");
    assert!(argv(Method::Su, None, Some("x"), true).contains("trap '' HUP; exec"));
    assert_eq!(argv(Method::Doas, None, Some("x"), true), "doas|-u|bob|--|/it's/agent|agent");
    assert_eq!(argv(Method::Doas, None, None, false), "doas|-n|-u|bob|--|/it's/agent|agent");
}

#[test]
fn a_missing_tool_and_a_bad_name_are_said() {
    let user = Become { exe: Some("/no/such/sudo".into()), ..Become::sudo("bob") };
    let error = |user: &Become| refused(Child::start_program(user, Path::new("/bin/true"), PATIENCE));
    if !rustix::process::geteuid().is_root() {
        assert!(error(&user).0.contains("there is no `/no/such/sudo`"));
    }
    assert!(error(&Become::sudo("-x")).0.contains("is not the name of a user"));
}
