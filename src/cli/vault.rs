//! `vault`: encrypted files and values.

use std::fs::{self, OpenOptions};
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::ExitStatus;
use super::options::{EncryptStringOptions, VaultCommand, VaultFiles, VaultPasswords};
use crate::diag::Diagnostic;
use crate::report::Mask;
use crate::vault::{self, DEFAULT_ID, Locked, Private, Secret, Sources, Vault, is_vaulted};

type Outcome<T> = Result<T, Diagnostic>;

impl VaultPasswords {
    /// Loads all passwords, those of the environment too; what they open is masked.
    ///
    /// # Errors
    /// What can't be read.
    pub fn open(&self, mask: Mask) -> Outcome<Vault> {
        Ok(Vault::new(self.sources().load(&ask)?, mask))
    }

    fn sources(&self) -> Sources {
        let files = self.vault_password_file.clone();
        Sources { files, ids: self.vault_id.clone(), ask: self.ask_vault_pass }.with_environment()
    }
}

pub(super) fn vault(command: &VaultCommand) -> ExitStatus {
    let done = match command {
        VaultCommand::Encrypt(options) => encrypt(options),
        VaultCommand::Decrypt(options) => decrypt(options),
        VaultCommand::View(options) => view(&options.files, &options.passwords),
        VaultCommand::Edit(options) => edit(&options.file, &options.passwords, options.encrypt_vault_id.as_deref()),
        VaultCommand::EncryptString(options) => encrypt_string(options),
        VaultCommand::Rekey(options) => {
            let id = options.new_vault_id.clone();
            let to =
                Sources { files: options.new_vault_password_file.iter().cloned().collect(), ids: vec![], ask: false };
            rekey(&options.files, &options.passwords, id, to)
        }
    };
    match done {
        Ok(()) => ExitStatus::Fine,
        Err(error) => {
            anstream::eprintln!("{}", error.render(true));
            ExitStatus::Wrong
        }
    }
}

fn ask(prompt: &str) -> Result<String, String> {
    rpassword::prompt_password(prompt).map_err(|e| format!("can't ask for the vault password: {e}"))
}

/// A password that is typed twice: with a slip in it nobody could ever open what it closes.
fn ask_twice(prompt: &str) -> Outcome<Secret> {
    let first = ask(&format!("{prompt}: ")).map_err(Diagnostic::error)?;
    let second = ask(&format!("{prompt}, once more: ")).map_err(Diagnostic::error)?;
    if first != second {
        return Err(Diagnostic::error("the two passwords differ; nothing was changed"));
    }
    Secret::new(DEFAULT_ID, first.as_bytes()).map_err(Diagnostic::error)
}

/// The passwords to open with; where none is given, it is asked for.
fn to_open(passwords: &VaultPasswords) -> Outcome<Vault> {
    let mut sources = passwords.sources();
    sources.ask |= sources.is_empty();
    Ok(Vault::new(sources.load(&ask)?, Mask::default()))
}

/// The password to encrypt with.
fn to_close(passwords: &VaultPasswords, id: Option<&str>) -> Outcome<Secret> {
    let sources = passwords.sources();
    if sources.is_empty() || (passwords.ask_vault_pass && sources.ids.is_empty() && sources.files.is_empty()) {
        let secret = ask_twice("new vault password")?;
        return secret.called(id.unwrap_or(DEFAULT_ID)).map_err(Diagnostic::error);
    }
    choose(sources.load(&ask)?, id)
}

fn choose(mut secrets: Vec<Secret>, id: Option<&str>) -> Outcome<Secret> {
    let ids: Vec<String> = secrets.iter().map(|secret| format!("`{}`", secret.id)).collect();
    let at = match id {
        Some(id) => secrets.iter().position(|secret| secret.id == id).ok_or_else(|| {
            Diagnostic::error(format!("no password is given for the vault id `{id}` (there are: {})", ids.join(", ")))
        })?,
        None if secrets.len() == 1 => 0,
        None => {
            return Err(Diagnostic::error(format!("several vault passwords are given: {}", ids.join(", ")))
                .help("say which one to encrypt with: --encrypt-vault-id LABEL"));
        }
    };
    Ok(secrets.swap_remove(at))
}

fn wrong(path: &Path, what: impl std::fmt::Display) -> Diagnostic {
    Diagnostic::error(format!("{}: {what}", path.display()))
}

fn is_stdio(path: &Path) -> bool {
    path == Path::new("-")
}

fn read(path: &Path) -> Outcome<Vec<u8>> {
    let mut content = Vec::new();
    let read = match is_stdio(path) {
        true => io::stdin().lock().read_to_end(&mut content),
        false => fs::File::open(path).and_then(|mut file| file.read_to_end(&mut content)),
    };
    read.map(|_| content).map_err(|e| wrong(path, format!("can't be read: {e}")))
}

fn open(vault: &Vault, path: &Path, content: &[u8]) -> Outcome<(Vec<u8>, Secret)> {
    match vault.open(content) {
        Ok((plain, secret)) => Ok((plain, secret.clone())),
        Err(locked @ Locked::Broken(_)) if !is_vaulted(content) => {
            let _ = locked;
            Err(wrong(path, "it is not encrypted"))
        }
        Err(locked) => Err(wrong(path, &locked).help(locked.help())),
    }
}

/// Where the result goes: to the file itself, or where `--output` says.
fn write(options: &VaultFiles, path: &Path, content: &[u8]) -> Outcome<()> {
    let to = options.output.as_deref().unwrap_or(path);
    if is_stdio(to) {
        return io::stdout().lock().write_all(content).map_err(|e| wrong(to, format!("can't be written: {e}")));
    }
    replace(to, content)
}

fn only_one_output(options: &VaultFiles) -> Outcome<()> {
    match (&options.output, options.files.len()) {
        (Some(_), 2..) => Err(Diagnostic::error("--output is for one file, and several are given")),
        _ => Ok(()),
    }
}

fn encrypt(options: &VaultFiles) -> Outcome<()> {
    only_one_output(options)?;
    let mut contents = Vec::new();
    for path in &options.files {
        let content = read(path)?;
        if is_vaulted(&content) {
            return Err(wrong(path, "it is encrypted already"));
        }
        contents.push((path, content));
    }
    let secret = to_close(&options.passwords, options.encrypt_vault_id.as_deref())?;
    for (path, content) in contents {
        write(options, path, closed(&content, &secret)?.as_bytes())?;
        eprintln!("encrypted {}", path.display());
    }
    Ok(())
}

fn closed(plain: &[u8], secret: &Secret) -> Outcome<String> {
    vault::encrypt(plain, secret).map_err(Diagnostic::error)
}

fn decrypt(options: &VaultFiles) -> Outcome<()> {
    only_one_output(options)?;
    let vault = to_open(&options.passwords)?;
    let mut contents = Vec::new();
    for path in &options.files {
        contents.push((path, open(&vault, path, &read(path)?)?.0));
    }
    for (path, plain) in contents {
        write(options, path, &plain)?;
        eprintln!("decrypted {}", path.display());
    }
    Ok(())
}

fn view(files: &[PathBuf], passwords: &VaultPasswords) -> Outcome<()> {
    let vault = to_open(passwords)?;
    for path in files {
        let (plain, _) = open(&vault, path, &read(path)?)?;
        io::stdout().lock().write_all(&plain).map_err(|e| wrong(path, e))?;
    }
    Ok(())
}

/// Encrypts anew with another password; all files are opened before the first is written.
fn rekey(files: &[PathBuf], passwords: &VaultPasswords, id: Option<String>, to: Sources) -> Outcome<()> {
    let vault = to_open(passwords)?;
    let mut contents = Vec::new();
    for path in files {
        contents.push((path, open(&vault, path, &read(path)?)?.0));
    }
    let new = match id.as_deref().and_then(|id| id.split_once('@')) {
        Some(_) => choose(Sources { ids: id.into_iter().collect(), ..Sources::default() }.load(&ask)?, None)?,
        None => {
            let secret = if to.is_empty() { ask_twice("new vault password")? } else { choose(to.load(&ask)?, None)? };
            let id = id.unwrap_or_else(|| secret.id.clone());
            secret.called(&id).map_err(Diagnostic::error)?
        }
    };
    for (path, plain) in contents {
        replace(path, closed(&plain, &new)?.as_bytes())?;
        eprintln!("encrypted anew: {}", path.display());
    }
    Ok(())
}

fn edit(path: &Path, passwords: &VaultPasswords, id: Option<&str>) -> Outcome<()> {
    let (plain, secret) = match path.exists() {
        true => {
            let (plain, opened) = open(&to_open(passwords)?, path, &read(path)?)?;
            let secret = match id {
                Some(_) => choose(passwords.sources().load(&ask)?, id)?,
                None => opened,
            };
            (plain, secret)
        }
        false => (Vec::new(), to_close(passwords, id)?),
    };
    // Ctrl-C is the editor's: this program must be there afterwards to clear away what is in plain text.
    for signal in [
        signal_hook::consts::SIGINT,
        signal_hook::consts::SIGQUIT,
        signal_hook::consts::SIGTERM,
        signal_hook::consts::SIGHUP,
    ] {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))
            .map_err(|e| Diagnostic::error(format!("signals can't be held back: {e}")))?;
    }
    // The editor goes by the name.
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_else(|| "vault.yml".into());
    let private = Private::new(&name, &plain).map_err(|e| wrong(path, format!("no private file can be made: {e}")))?;
    let editor =
        ["VISUAL", "EDITOR"].iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
    let editor = editor.unwrap_or_else(|| "vi".into());
    let words = shlex::split(&editor).filter(|words| !words.is_empty()).unwrap_or_else(|| vec![editor.clone()]);
    let (program, arguments) = words.split_first().map_or((editor.as_str(), &[][..]), |(p, a)| (p.as_str(), a));
    let status = Command::new(program).args(arguments).arg(private.path()).status().map_err(|e| {
        Diagnostic::error(format!("the editor `{editor}` can't be run: {e}")).help("set EDITOR to one that is there")
    })?;
    if !status.success() {
        return Err(wrong(path, format!("the editor ended with {status}; the file is as it was")));
    }
    let edited = private.read().map_err(|e| wrong(path, format!("what was edited can't be read: {e}")))?;
    if edited == plain {
        eprintln!("nothing was changed in {}", path.display());
        return Ok(());
    }
    replace(path, closed(&edited, &secret)?.as_bytes())
}

fn encrypt_string(options: &EncryptStringOptions) -> Outcome<()> {
    let secret = to_close(&options.passwords, options.encrypt_vault_id.as_deref())?;
    let mut values: Vec<(Option<&str>, String)> = Vec::new();
    for (at, text) in options.strings.iter().enumerate() {
        values.push((options.name.get(at).map(String::as_str), text.clone()));
    }
    if values.is_empty() {
        let text = if io::stdin().is_terminal() {
            ask("the value to encrypt (it is not shown): ").map_err(Diagnostic::error)?
        } else {
            String::from_utf8(read(Path::new("-"))?)
                .map_err(|_| Diagnostic::error("what standard input gives is not UTF-8 text"))?
        };
        if text.is_empty() {
            return Err(Diagnostic::error("there is nothing to encrypt"));
        }
        values.push((options.name.first().map(String::as_str), text));
    }
    if options.name.len() > values.len() {
        return Err(Diagnostic::error("there are more names than values"));
    }
    for (name, text) in values {
        println!("{}", as_yaml(name, &closed(text.as_bytes(), &secret)?));
    }
    Ok(())
}

/// As it stands in a YAML file.
fn as_yaml(name: Option<&str>, envelope: &str) -> String {
    let mut out = name.map_or_else(String::new, |name| format!("{name}: "));
    out.push_str("!vault |");
    for line in envelope.lines() {
        out.push_str("\n  ");
        out.push_str(line);
    }
    out
}

/// Old content or new, never half; owner and mode stay.
fn replace(path: &Path, content: &[u8]) -> Outcome<()> {
    // Through a link: the file that it means is replaced, not the link.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
    let folder = match target.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    };
    let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = folder.join(format!(".{name}.vfio-provision-{}", std::process::id()));
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        if let Ok(about) = fs::metadata(&target) {
            // Only root can give files away, and needs to.
            if rustix::process::geteuid().is_root() {
                std::os::unix::fs::fchown(&file, Some(about.uid()), Some(about.gid()))?;
            }
            file.set_permissions(fs::Permissions::from_mode(about.mode() & 0o7777))?;
        }
        file.sync_all()?;
        fs::rename(&temporary, &target)?;
        fs::File::open(&folder)?.sync_all()
    })();
    written.map_err(|e: io::Error| {
        let _ = fs::remove_file(&temporary);
        wrong(path, format!("can't be written: {e}"))
    })
}
