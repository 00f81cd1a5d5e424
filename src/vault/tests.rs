//! Fixtures in `tests/vault/` were written by ansible-vault of ansible-core 2.19; it has also read what is in `ours/`.

use std::path::PathBuf;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::template::{Lookup, Templar, Var};

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/vault").join(name)).unwrap()
}

fn vault(passwords: &[(&str, &str)]) -> Vault {
    let secrets = passwords.iter().map(|(id, password)| Secret::new(id, password.as_bytes()).unwrap()).collect();
    Vault::new(secrets, Mask::default())
}

const PLAIN: &[u8] = include_bytes!("../../tests/vault/plain.yml");

#[test]
fn what_ansible_vault_wrote_is_read() {
    let right = vault(&[("default", "correct horse"), ("lab", "battery staple")]);
    for (file, id) in [
        ("ansible-1.1.yml", "default"),
        ("ansible-1.2.yml", "lab"),
        ("ours/1.1.yml", "default"),
        ("ours/1.2.yml", "lab"),
    ] {
        let (plain, secret) = right.open(&fixture(file)).unwrap();
        assert_eq!((plain.as_slice(), secret.id.as_str()), (PLAIN, id), "{file}");
    }
    assert_eq!(right.open(&fixture("ansible-empty.bin")).unwrap().0, b"");
    assert_eq!(right.open(&fixture("ansible-binary.bin")).unwrap().0, fixture("binary.bin"));
    // A name is only a name: the right password is found behind any.
    let other = vault(&[("default", "wrong one"), ("prod", "battery staple")]);
    assert_eq!(other.open(&fixture("ansible-1.2.yml")).unwrap().1.id, "prod");
}

#[test]
fn a_wrong_password_says_what_was_tried_and_where() {
    let wrong = vault(&[("default", "one"), ("lab", "two")]);
    let error = wrong.file(Path::new("group_vars/all/vault.yml"), fixture("ansible-1.2.yml")).unwrap_err();
    let text = error.render(false);
    // The id that the file names is tried first.
    assert!(text.contains("tried: `lab`, `default`; it was encrypted for the id `lab`"), "{text}");
    assert!(text.contains("group_vars/all/vault.yml:1:1") && text.contains("--vault-id"), "{text}");
    let none = Vault::default().file(Path::new("v.yml"), fixture("ansible-1.1.yml")).unwrap_err().render(false);
    assert!(none.contains("no vault password was given") && none.contains("--ask-vault-pass"), "{none}");
    assert_eq!(Vault::default().file(Path::new("v"), b"plain".to_vec()).unwrap(), (b"plain".to_vec(), false));
}

struct Vars(serde_json::Map<String, Value>);

impl Lookup for Vars {
    fn get(&self, name: &str) -> Option<Var> {
        self.0.get(name).cloned().map(Var::template)
    }
    fn names(&self) -> Vec<String> {
        self.0.keys().cloned().collect()
    }
}

#[test]
fn a_value_is_decrypted_when_it_is_used_and_hidden_from_then_on() {
    let text = String::from_utf8(fixture("ansible-string.yml")).unwrap();
    let node = crate::yaml::parse_one(&Source::new("vars.yml", text)).unwrap();
    assert!(node.get("vm_password").unwrap().value.is_vaulted());
    let Value::Object(mut vars) = node.to_json() else { panic!("a map") };
    vars.insert("line".into(), "login={{ vm_password }}".into());
    let mask = Mask::default();
    let secrets = vec![Secret::new("default", b"correct horse").unwrap()];
    let templar = Templar::new().with_vault(Arc::new(Vault::new(secrets, mask.clone())));
    assert_eq!(templar.evaluate("line", &Vars(vars.clone())).unwrap(), json!("login=s3cret {{ not a template }}"));
    let mut shown = "a s3cret {{ not a template }} b".to_string();
    mask.text(&mut shown);
    assert_eq!(shown, "a ******** b");
    // Without a password only what uses it fails.
    let templar = Templar::new().with_vault(Arc::new(Vault::default()));
    assert_eq!(templar.evaluate("plain", &Vars(vars.clone())).unwrap(), json!("x"));
    let error = templar.evaluate("line", &Vars(vars)).unwrap_err().to_string();
    assert!(error.contains("vars.yml:3:11: this is encrypted") && error.contains("--vault-password-file"), "{error}");
}

#[test]
fn keys_are_derived_once_for_a_salt() {
    let vault = vault(&[("default", "correct horse")]);
    let file = fixture("ansible-1.1.yml");
    vault.open(&file).unwrap();
    let begun = std::time::Instant::now();
    for _ in 0..200 {
        vault.open(&file).unwrap();
    }
    // 200 derivations take more than a second even on fast machines.
    assert!(begun.elapsed() < std::time::Duration::from_secs(1) && locked(&vault.keys).len() == 1);
}

#[test]
fn lines_of_a_secret_text_are_hidden_one_by_one() {
    let mask = Mask::default();
    let vault = Vault::new(Vec::new(), mask.clone());
    vault
        .hide_values(&json!({"key": "-----BEGIN-----\nMIIEvQIBADAN\n", "no": "{{ x }} of them", "deep": ["hunter22"]}));
    let mut text = "+MIIEvQIBADAN\n{{ x }} of them hunter22".to_string();
    mask.text(&mut text);
    assert_eq!(text, "+********\n{{ x }} of them ********");
}

#[test]
fn passwords_come_from_files_and_programs() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode: u32| {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        path
    };
    let ask = |prompt: &str| Ok(format!("typed at {prompt}"));
    let client = write("pass-client", "#!/bin/sh\necho \"for $2\"\n", 0o700);
    let sources = Sources {
        files: vec![write("pass", "  correct horse\n", 0o600), write("prog", "#!/bin/sh\necho printed\n", 0o700)],
        ids: vec![format!("lab@{}", client.display()), "prod@prompt".into()],
        ask: true,
    };
    let loaded: Vec<(String, String)> = sources
        .load(&ask)
        .unwrap()
        .iter()
        .map(|secret| (secret.id.clone(), String::from_utf8_lossy(secret.password()).into_owned()))
        .collect();
    let expected = [
        ("lab", "for lab"),
        ("prod", "typed at vault password (prod):"),
        ("default", "correct horse"),
        ("default", "printed"),
        ("default", "typed at vault password:"),
    ];
    assert_eq!(loaded, expected.map(|(id, password)| (id.to_string(), password.to_string())));
    let wrong = |path: PathBuf| {
        let error = Sources { files: vec![path], ..Sources::default() }.load(&ask).unwrap_err();
        error.render(false)
    };
    assert!(wrong(write("empty", " \n", 0o600)).contains("is empty"));
    assert!(wrong(write("bad", "#!/bin/sh\nexit 3\n", 0o700)).contains("exit status: 3"));
    assert!(wrong(write("x", "correct horse", 0o700)).contains("chmod a-x"));
    assert!(wrong(folder.path().join("none")).contains("can't be read"));
    assert!(Secret::new("a;b", b"x").is_err());
}

#[test]
fn nothing_is_left_of_a_private_file_nor_of_what_lies_beside_it() {
    let private = Private::new("vars.yml", b"secret").unwrap();
    let folder = private.path().parent().unwrap().to_path_buf();
    std::fs::write(folder.join("vars.yml~"), "secret").unwrap();
    let kept = tempfile::tempdir().unwrap();
    std::fs::write(kept.path().join("kept"), "kept").unwrap();
    std::os::unix::fs::symlink(kept.path().join("kept"), folder.join("link")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(std::fs::metadata(private.path()).unwrap().mode() & 0o777, 0o600);
    assert_eq!(std::fs::metadata(&folder).unwrap().mode() & 0o777, 0o700);
    drop(private);
    assert!(!folder.exists());
    assert_eq!(std::fs::read(kept.path().join("kept")).unwrap(), b"kept");
}

#[test]
fn what_was_encrypted_is_opened_with_its_own_salt() {
    let secret = Secret::new("lab", b"correct horse").unwrap();
    let (one, two) = (encrypt(b"x", &secret).unwrap(), encrypt(b"x", &secret).unwrap());
    assert!(one.starts_with("$ANSIBLE_VAULT;1.2;AES256;lab\n") && one != two);
    assert_eq!(Vault::new(vec![secret], Mask::default()).open(one.as_bytes()).unwrap().0, b"x");
}

/// Keys cost a second without optimisation, so the many inputs share them.
static KEYS: std::sync::LazyLock<Keys> = std::sync::LazyLock::new(|| Keys::derive(b"correct horse", b"salt"));

proptest! {
    #[test]
    fn what_was_encrypted_is_decrypted(
        plain in proptest::collection::vec(any::<u8>(), 0..200),
        id in proptest::option::of("[a-z]{1,8}"),
    ) {
        let envelope = KEYS.encrypt(&plain, b"salt", id);
        let text = envelope.write();
        prop_assert!(is_vaulted(text.as_bytes()) && text.lines().all(|line| line.len() <= 80));
        let back = Envelope::read(text.as_bytes()).unwrap();
        prop_assert!(back == envelope && KEYS.fits(&back));
        prop_assert_eq!(KEYS.decrypt(&back).unwrap(), plain);
    }

    #[test]
    fn changed_or_cut_it_is_refused(at in 0usize..600, byte in any::<u8>(), cut in any::<bool>()) {
        let original = KEYS.encrypt(PLAIN, b"salt", None);
        let mut text = original.write().into_bytes();
        if cut { text.truncate(at) } else if let Some(here) = text.get_mut(at) { *here = byte }
        // Capital digits and white space are the same to a reader.
        if let Ok(read) = Envelope::read(&text) {
            prop_assert!(read.bytes == original.bytes || !KEYS.fits(&read));
            let _ = KEYS.decrypt(&read);
        }
    }

    #[test]
    fn nothing_panics(text in "(\\$ANSIBLE_VAULT;1\\.[12];AES256(;a)?\n)?[0-9a-f\n]{0,200}.{0,20}") {
        let _ = Envelope::read(text.as_bytes());
    }
}
