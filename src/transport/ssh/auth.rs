//! Logging in, in the order in which OpenSSH does it: keys of the ssh-agent, key files, password, questions.
//!
//! No method is asked about before it is tried: each question is a round trip.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use ssh2::{ErrorCode, KeyboardInteractivePrompt, Prompt};

use super::keys::{self, KeyFile};
use super::session::{Link, Stop};
use super::{Ask, Target};
use crate::host::Error;

/// LIBSSH2_ERROR_AUTHENTICATION_FAILED: the method, or this key, is not taken.
const NOT_TAKEN: ErrorCode = ErrorCode::Session(-18);
/// LIBSSH2_ERROR_PUBLICKEY_UNVERIFIED: the key would be, but the signature did not come about or was wrong.
const NOT_SIGNED: ErrorCode = ErrorCode::Session(-19);
/// LIBSSH2_ERROR_PASSWORD_EXPIRED
const EXPIRED: ErrorCode = ErrorCode::Session(-15);
/// How long the ssh-agent may take to list its keys.
const AGENT_TIME: Duration = Duration::from_secs(5);

/// How one method ended.
enum Answer {
    In,
    No,
}

struct Login<'a> {
    link: &'a mut Link,
    target: &'a Target,
    ask: &'a dyn Ask,
    /// What was tried and what came of it, for the message.
    tried: Vec<String>,
    /// A key was offered at all.
    offered: bool,
}

/// Logs in.
pub(super) fn login(link: &mut Link, target: &Target, ask: &dyn Ask) -> Result<(), Error> {
    let mut login = Login { link, target, ask, tried: Vec::new(), offered: false };
    let answer = login.all()?;
    match answer {
        Answer::In => {
            link.up = true;
            Ok(())
        }
        Answer::No => Err(login.nobody()),
    }
}

impl Login<'_> {
    fn until(&self) -> Instant {
        Instant::now() + self.target.patience()
    }

    fn all(&mut self) -> Result<Answer, Error> {
        if let Answer::In = self.keys()? {
            return Ok(Answer::In);
        }
        if let Some(password) = self.target.password.clone() {
            if let Answer::In = self.password(&password)? {
                return Ok(Answer::In);
            }
            return self.questions(Some(password));
        }
        // Without a password there is nothing to try unasked. What the server wants beside a key shows in that it does
        // not offer keys any more.
        let methods = self.methods();
        let has = |name: &str| methods.iter().any(|method| method == name);
        if self.link.session.authenticated() {
            return Ok(Answer::In);
        }
        if has("publickey") || !has("keyboard-interactive") {
            return Ok(Answer::No);
        }
        self.questions(None)
    }

    fn keys(&mut self) -> Result<Answer, Error> {
        let mut files: Vec<KeyFile> = Vec::new();
        for path in &self.target.identities {
            match keys::read(path, &self.target.certificates) {
                Ok(Some(file)) => files.push(file),
                Ok(None) => {}
                Err(why) => self.tried.push(format!("key {}: {why}", path.display())),
            }
        }
        let held = match &self.target.agent {
            Some(socket) => self.agent_keys(socket, &files),
            None => Vec::new(),
        };
        let mut agent = None;
        for (key, path) in &held {
            // libssh2 has its own connection to the agent; it is made only when the agent has something to offer.
            if agent.is_none() {
                agent = self.agent();
            }
            let Some(agent) = &agent else { break };
            let Ok(identities) = agent.identities() else { break };
            let Some(identity) = identities.iter().find(|identity| identity.blob() == key) else { continue };
            let name = match path {
                Some(path) => path.clone(),
                None => identity.comment().to_string(),
            };
            let (user, until) = (&self.target.user, self.until());
            self.offered = true;
            match self.link.drive(until, |_| agent.userauth(user, identity)) {
                Ok(()) => return Ok(Answer::In),
                Err(stop) => self.note(format!("key {name} of the ssh-agent"), stop)?,
            }
        }
        for file in files {
            let public = file.public.as_deref().and_then(keys::blob);
            for certificate in &file.certificates {
                if let Answer::In = self.file(&file, Some(certificate), "certificate of key")? {
                    return Ok(Answer::In);
                }
            }
            if public.is_some_and(|public| held.iter().any(|(key, _)| *key == public)) {
                continue;
            }
            if let Answer::In = self.file(&file, file.public.as_deref(), "key")? {
                return Ok(Answer::In);
            }
        }
        Ok(Answer::No)
    }

    /// A key file, with its own public part or a certificate.
    fn file(&mut self, file: &KeyFile, public: Option<&str>, what: &str) -> Result<Answer, Error> {
        let name = format!("{what} {}", file.path.display());
        let user = self.target.user.clone();
        let until = self.until();
        self.offered = true;
        // Without a public part libssh2 computes it from the private one, so the passphrase is needed at once. Else the
        // server is asked first, and the person only when it would take the key.
        if !file.encrypted || public.is_some() {
            let step = |session: &mut ssh2::Session| session.userauth_pubkey_memory(&user, public, &file.text, None);
            match self.link.drive(until, step) {
                Ok(()) => return Ok(Answer::In),
                Err(Stop::Ssh(error)) if file.encrypted && error.code() == NOT_SIGNED => {}
                Err(stop) => {
                    self.note(name, stop)?;
                    return Ok(Answer::No);
                }
            }
        }
        let (link, patience) = (&mut *self.link, self.target.patience());
        let done = keys::with_passphrase(&file.path, self.ask, |passphrase| {
            let step = |session: &mut ssh2::Session| {
                session.userauth_pubkey_memory(&user, public, &file.text, Some(passphrase))
            };
            match link.drive(Instant::now() + patience, step) {
                Ok(()) => Ok(Some(Answer::In)),
                // The passphrase was right, the key is not taken.
                Err(Stop::Ssh(error)) if error.code() == NOT_TAKEN => Ok(Some(Answer::No)),
                Err(Stop::Ssh(error)) if !over(&error) => Ok(None),
                Err(stop) => Err(stop),
            }
        });
        let done = match done {
            Ok(done) => done,
            Err(stop) => {
                self.note(name, stop)?;
                return Ok(Answer::No);
            }
        };
        match done {
            Some(Answer::In) => return Ok(Answer::In),
            Some(Answer::No) => self.tried.push(format!("{name}: not taken")),
            None => self.tried.push(format!("{name}: no passphrase that opens it was given")),
        }
        Ok(Answer::No)
    }

    fn password(&mut self, password: &str) -> Result<Answer, Error> {
        let (user, until) = (self.target.user.clone(), self.until());
        match self.link.drive(until, |session| session.userauth_password(&user, password)) {
            Ok(()) => Ok(Answer::In),
            Err(Stop::Ssh(error)) if error.code() == EXPIRED => Err(self
                .target
                .failed(format!("the password of {user} has expired"))
                .hint(format!("log in by hand once and set a new one: ssh {user}@{}", self.target.address))),
            Err(stop) => {
                self.note("password".into(), stop)?;
                Ok(Answer::No)
            }
        }
    }

    /// keyboard-interactive: the first question that is typed without echo gets the password, others a person's answer.
    fn questions(&mut self, password: Option<String>) -> Result<Answer, Error> {
        let (user, until) = (self.target.user.clone(), self.until());
        let who = format!("{}@{}", self.target.user, self.target.name);
        let mut person = Person { password, ask: self.ask, who };
        // A person may take as long as the server waits.
        let until = until + Duration::from_secs(120);
        match self.link.drive(until, |session| session.userauth_keyboard_interactive(&user, &mut person)) {
            Ok(()) => Ok(Answer::In),
            Err(stop) => {
                self.note("keyboard-interactive".into(), stop)?;
                Ok(Answer::No)
            }
        }
    }

    /// Goes on when only this method failed, and ends when the connection did.
    fn note(&mut self, name: String, stop: Stop) -> Result<(), Error> {
        match stop {
            Stop::Ssh(error) if error.code() == NOT_TAKEN => self.tried.push(format!("{name}: not taken")),
            Stop::Ssh(error) if !over(&error) => self.tried.push(format!("{name}: {}", error.message())),
            stop => {
                let mut tried = std::mem::take(&mut self.tried);
                tried.push(name);
                return Err(self
                    .target
                    .failed(format!("the login was cut off: {stop}\ntried: {}", tried.join("; ")))
                    .hint(
                        "servers hang up after some six keys: IdentitiesOnly with IdentityFile offers the right one \
                         only; also look into the machine's sshd log",
                    ));
            }
        }
        Ok(())
    }

    /// What the server would take. A round trip, so only when there is nothing else left to try.
    fn methods(&mut self) -> Vec<String> {
        let (user, until) = (self.target.user.clone(), self.until());
        let methods = self.link.drive(until, |session| session.auth_methods(&user).map(str::to_string));
        methods
            .map(|text| text.split(',').filter(|word| !word.is_empty()).map(String::from).collect())
            .unwrap_or_default()
    }

    fn nobody(mut self) -> Error {
        let methods = self.methods();
        let mut message = format!("{} may not log in", self.target.user);
        if self.tried.is_empty() {
            message.push_str("\ntried: nothing, there is no key and no password");
        } else {
            message.push_str("\ntried: ");
            message.push_str(&self.tried.join("; "));
        }
        if !methods.is_empty() {
            message.push_str("\nthe server takes: ");
            message.push_str(&methods.join(", "));
        }
        let offers = |name: &str| methods.iter().any(|method| method == name);
        let hint = if self.target.password.is_some() && (offers("password") || offers("keyboard-interactive")) {
            "is the password right, and ansible_user?"
        } else if !offers("publickey") && (offers("gssapi-with-mic") || offers("hostbased")) {
            "ansible_connection=openssh logs in as your own ssh does"
        } else if self.target.password.is_none() && !self.offered && offers("password") {
            "give a key (ansible_ssh_private_key_file, an ssh-agent) or a password (-k, ansible_password)"
        } else {
            "does ssh-copy-id reach that user, is ansible_user right, and the key the one that the machine knows?"
        };
        self.target.failed(message).hint(hint)
    }

    /// The agent's keys in the order of the identity files, then its others; each with its file.
    fn agent_keys(&mut self, socket: &Path, files: &[KeyFile]) -> Vec<(Vec<u8>, Option<String>)> {
        let listed = match list_agent(socket) {
            Ok(listed) => listed,
            Err(error) => {
                self.tried.push(format!("ssh-agent {}: {error}", socket.display()));
                return Vec::new();
            }
        };
        let mut keys: Vec<(Vec<u8>, Option<String>)> = Vec::new();
        for file in files {
            let parts = file.certificates.iter().chain(&file.public);
            for blob in parts.filter_map(|text| keys::blob(text)) {
                if listed.contains(&blob) && !keys.iter().any(|(key, _)| *key == blob) {
                    keys.push((blob, Some(file.path.display().to_string())));
                }
            }
        }
        if !self.target.identities_only {
            for blob in listed {
                if !keys.iter().any(|(key, _)| *key == blob) {
                    keys.push((blob, None));
                }
            }
        }
        keys
    }

    fn agent(&mut self) -> Option<ssh2::Agent> {
        let mut agent = self.link.session.agent().ok()?;
        agent.set_identity_path(self.target.agent.as_deref()?).ok()?;
        agent.connect().ok()?;
        agent.list_identities().ok()?;
        Some(agent)
    }
}

/// Did the connection end, and not only the method?
fn over(error: &ssh2::Error) -> bool {
    match error.code() {
        ErrorCode::Session(-13 | -43 | -7 | -4 | -12 | -14 | -30) => true,
        // libssh2 says so when the connection ended while it waited for an answer about a key.
        NOT_SIGNED => error.message().starts_with("Waiting for"),
        _ => false,
    }
}

/// The keys that an ssh-agent holds. libssh2 would wait for ever for an agent that does not answer, so it is asked here
/// first, with a time limit (draft-ietf-sshm-ssh-agent: request 11, answer 12).
fn list_agent(socket: &Path) -> std::io::Result<Vec<Vec<u8>>> {
    let damaged = || std::io::Error::new(std::io::ErrorKind::InvalidData, "its answer makes no sense");
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(AGENT_TIME))?;
    stream.set_write_timeout(Some(AGENT_TIME))?;
    stream.write_all(&[0, 0, 0, 1, 11])?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > 1 << 20 {
        return Err(damaged());
    }
    let mut answer = Vec::new();
    stream.take(u64::from(length)).read_to_end(&mut answer)?;
    let rest = answer.strip_prefix(&[12]).ok_or_else(damaged)?;
    let (count, mut rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
    let mut keys = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let (key, after) = keys::string(rest).ok_or_else(damaged)?;
        let (_comment, after) = keys::string(after).ok_or_else(damaged)?;
        keys.push(key.to_vec());
        rest = after;
    }
    Ok(keys)
}

struct Person<'a> {
    password: Option<String>,
    ask: &'a dyn Ask,
    who: String,
}

impl KeyboardInteractivePrompt for Person<'_> {
    fn prompt(&mut self, _user: &str, _instructions: &str, prompts: &[Prompt<'_>]) -> Vec<String> {
        let answer = |prompt: &Prompt<'_>| {
            if !prompt.echo
                && let Some(password) = self.password.take()
            {
                return password;
            }
            // What a far end wants to have shown is shown as text only.
            let text: String = prompt.text.chars().filter(|c| !c.is_control()).take(200).collect();
            self.ask.secret(&format!("{}: {text}", self.who)).unwrap_or_default()
        };
        prompts.iter().map(answer).collect()
    }
}
