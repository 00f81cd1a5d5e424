//! One known_hosts file: its lines, and putting one more behind them.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use hmac::{Hmac, Mac};
use sha1::Sha1;

use super::HostKey;
use crate::diag::{Diagnostic, Source, Span};
use crate::host::Error;
use crate::transport::ssh_config::pattern;

/// No file of host keys is longer.
const LONGEST: u64 = 64 << 20;
/// The length of SHA-1, and of the salt.
const HASH: usize = 20;

/// What stands before a line's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Marker {
    None,
    Authority,
    Revoked,
}

/// Whom a line is about.
#[derive(Clone, Debug)]
enum Names {
    /// A list of patterns.
    Listed(String),
    /// One name, hashed with a salt.
    Hashed { salt: [u8; HASH], hash: [u8; HASH] },
}

impl Names {
    fn mean(&self, name: &str) -> bool {
        match self {
            Names::Listed(list) => pattern::host_in_list(name, list),
            Names::Hashed { salt, hash } => digest(salt, name).is_some_and(|digest| digest == *hash),
        }
    }
}

fn digest(salt: &[u8], name: &str) -> Option<[u8; HASH]> {
    let mut mac = Hmac::<Sha1>::new_from_slice(salt).ok()?;
    mac.update(name.to_lowercase().as_bytes());
    Some(mac.finalize().into_bytes().into())
}

/// A line.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub line: usize,
    pub marker: Marker,
    names: Names,
    pub key: HostKey,
}

/// A file's lines.
#[derive(Debug)]
pub(super) struct KnownFile {
    pub path: PathBuf,
    entries: Vec<Entry>,
}

impl KnownFile {
    /// Reads a file; one that is not there has no lines.
    pub(super) fn read(path: &Path) -> Result<(KnownFile, Vec<Diagnostic>), Error> {
        let trouble = |error: &std::io::Error| Error::io("read", &path.display().to_string(), error);
        match File::open(path) {
            Ok(mut file) => Ok(KnownFile::parse(path, &content(&mut file).map_err(|error| trouble(&error))?)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                Ok((KnownFile { path: path.to_path_buf(), entries: Vec::new() }, Vec::new()))
            }
            Err(error) => Err(trouble(&error)),
        }
    }

    /// The lines of a text. What can't be read is passed over with a warning: it makes no key known.
    pub(super) fn parse(path: &Path, text: &str) -> (KnownFile, Vec<Diagnostic>) {
        let (mut entries, mut broken) = (Vec::new(), Vec::new());
        let mut start = 0;
        for (number, line) in text.split('\n').enumerate() {
            match entry(line, number + 1) {
                Ok(entry) => entries.extend(entry),
                Err(why) => broken.push((start, line.len(), why)),
            }
            start += line.len() + 1;
        }
        let mut warnings = Vec::new();
        if !broken.is_empty() {
            let source = Source::new(path.display().to_string(), text);
            warnings.extend(broken.into_iter().map(|(start, length, why)| {
                Diagnostic::warning(format!("this line of known host keys is passed over: {why}")).at(&Span::new(
                    &source,
                    start,
                    start + length,
                ))
            }));
        }
        (KnownFile { path: path.to_path_buf(), entries }, warnings)
    }

    /// The lines about a host.
    pub(super) fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Entry> {
        self.entries.iter().filter(|entry| entry.names.mean(name))
    }
}

fn content(file: &mut File) -> std::io::Result<String> {
    let mut bytes = Vec::new();
    if file.take(LONGEST + 1).read_to_end(&mut bytes)? as u64 > LONGEST {
        return Err(std::io::Error::new(ErrorKind::InvalidData, "too long for a file of host keys"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn entry(line: &str, number: usize) -> Result<Option<Entry>, String> {
    let blank = |c: char| matches!(c, ' ' | '\t' | '\r');
    let line = line.trim_matches(blank);
    if line.is_empty() || line.starts_with('#') {
        return Ok(None);
    }
    let mut words = line.split(blank).filter(|word| !word.is_empty());
    let mut next = |what: &str| words.next().ok_or_else(|| format!("{what} is missing"));
    let mut names = next("the host")?;
    let marker = match names {
        "@cert-authority" => Marker::Authority,
        "@revoked" => Marker::Revoked,
        other if other.starts_with('@') => return Err(format!("there is no marker `{other}`")),
        _ => Marker::None,
    };
    if marker != Marker::None {
        names = next("the host")?;
        if names.starts_with('@') {
            return Err("it has two markers".into());
        }
    }
    let (algorithm, encoded) = (next("the key's algorithm")?, next("the key")?);
    let key = STANDARD.decode(encoded).or_else(|_| STANDARD_NO_PAD.decode(encoded));
    let key = HostKey(key.map_err(|_| "the key is not base64".to_string())?);
    match key.algorithm() {
        Some(name) if name == algorithm => {}
        Some(name) => return Err(format!("it says `{algorithm}`, and the key is `{name}`")),
        None => return Err("the key is cut or broken".into()),
    }
    let names = match names.strip_prefix("|1|") {
        Some(hashed) => {
            let bytes = |text: &str| STANDARD.decode(text).ok().and_then(|bytes| <[u8; HASH]>::try_from(bytes).ok());
            match hashed.split_once('|').map(|(salt, hash)| (bytes(salt), bytes(hash))) {
                Some((Some(salt), Some(hash))) => Names::Hashed { salt, hash },
                _ => return Err("the hashed name is broken".into()),
            }
        }
        None if names.starts_with('|') => return Err("the name is hashed in a way that is not known".into()),
        None => Names::Listed(names.to_string()),
    };
    Ok(Some(Entry { line: number, marker, names, key }))
}

/// A name as `HashKnownHosts` has it written.
pub(super) fn hash(name: &str) -> Result<String, Error> {
    let mut salt = [0; HASH];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut salt))
        .map_err(|error| Error::io("read", "/dev/urandom", &error))?;
    let digest = digest(&salt, name).ok_or_else(|| Error::failed("can't hash the name of a host"))?;
    Ok(format!("|1|{}|{}", STANDARD.encode(salt), STANDARD.encode(digest)))
}

/// Appends the line that `decide` makes of the file as it is now; nobody else of us writes it meanwhile.
///
/// The lock is on the file itself. OpenSSH's own client takes none, but appends as we do: with one write at the end.
pub(super) fn append(
    path: &Path,
    decide: impl FnOnce(KnownFile) -> Result<Option<String>, Error>,
) -> Result<(), Error> {
    let shown = path.display().to_string();
    let trouble = |error: std::io::Error| Error::io("take down a host key in", &shown, &error);
    if let Some(folder) = path.parent().filter(|folder| !folder.exists()) {
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(trouble)?;
    }
    let open = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
    let mut file = open.map_err(trouble)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).map_err(|error| trouble(error.into()))?;
    let text = content(&mut file).map_err(trouble)?;
    let Some(mut line) = decide(KnownFile::parse(path, &text).0)? else { return Ok(()) };
    if !text.is_empty() && !text.ends_with('\n') {
        line.insert(0, '\n');
    }
    let end = file.seek(SeekFrom::End(0)).map_err(trouble)?;
    let written = file.write(line.as_bytes()).and_then(|count| match count == line.len() {
        true => file.sync_data(),
        // A full disk: half a line helps nobody.
        false => file.set_len(end).and(Err(ErrorKind::StorageFull.into())),
    });
    written.map_err(trouble)
}
