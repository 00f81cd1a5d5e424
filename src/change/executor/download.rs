//! Fetching a URL: beside its target, resumed where it was cut, checked before it counts.

mod http;

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::explain;
use super::folder::{Folder, Staged};
use crate::host::{Error, Result};

/// How long is waited, and how often is tried.
pub struct Patience {
    /// Until a connection stands.
    pub connect: Duration,
    /// Without a single byte.
    pub stalled: Duration,
    /// Before the second try; doubled before each further one.
    pub backoff: Duration,
    /// Tries in a row that bring nothing.
    pub tries: u32,
}

/// What a run uses.
pub const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(20),
    stalled: Duration::from_secs(60),
    backoff: Duration::from_secs(2),
    tries: 3,
};

/// A try that brought at least this much is worth another one.
const WORTH_ANOTHER: u64 = 1 << 20;
const BETWEEN_PROGRESS: Duration = Duration::from_millis(250);
const NAME_MAX: usize = 255;
const SIDECAR: &str = ".json";

/// Why a try did not work.
enum Trouble {
    /// It may work a little later.
    Passing(Error),
    /// It will not.
    Lasting(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::Lasting(error)
    }
}

/// What is known of a part file, kept beside it.
#[derive(Default, Serialize, Deserialize)]
struct Known {
    url: String,
    etag: Option<String>,
    last_modified: Option<String>,
}

impl Known {
    /// What proves to the server that the rest belongs to what is here. RFC 9110, 13.1.5: a weak tag can't.
    fn validator(&self) -> Option<&str> {
        let strong = self.etag.as_deref().filter(|tag| !tag.starts_with("W/"));
        strong.or(self.last_modified.as_deref())
    }
}

/// The part file of one URL.
struct Part<'a> {
    folder: &'a Folder,
    name: String,
    file: File,
    url: &'a str,
    /// The path of the target, for messages.
    target: String,
}

/// Fetches `url` into a part file beside `name` and checks it; the caller renames it. `local` opens a path of the machine
/// (`file://`).
pub fn fetch<'a>(
    folder: &'a Folder,
    name: &str,
    url: &'a str,
    sha256: Option<&str>,
    patience: &Patience,
    local: &dyn Fn(&str) -> Result<File>,
    progress: &mut dyn FnMut(&str),
) -> Result<Staged<'a>> {
    let expected = sha256.map(expected_hash).transpose()?;
    if !["http://", "https://", "file://"].iter().any(|scheme| url.starts_with(scheme)) {
        return Err(Error::parameters(format!("can't fetch {url}: only http://, https:// and file:// are known")));
    }
    // Nothing is fetched that can't be put in place.
    folder.open_old(name)?;
    let part_name = format!("{}{}", prefix(name), key(url));
    forget(folder, name, Some(&part_name))?;
    let mut part =
        Part { folder, file: open_part(folder, &part_name)?, name: part_name, url, target: folder.shown(name) };
    let mut fresh = part.length()? == 0;
    loop {
        if let Err(error) = part.fill(patience, local, progress) {
            if part.length()? == 0 {
                part.forget();
            }
            return Err(error);
        }
        let Some(expected) = &expected else { break };
        let found = part.hash()?;
        if *expected == found {
            break;
        }
        part.discard()?;
        if fresh {
            part.forget();
            return Err(Error::failed(format!(
                "{} from {} has sha256 {found}, and {expected} is expected",
                part.target,
                http::shown(url)
            ))
            .hint(
                "either the file at that address has changed, or the expected hash is wrong; nothing was put in place",
            ));
        }
        // What an earlier run left may have been damaged: one honest try from the start.
        progress("what was there already does not fit, starting again");
        fresh = true;
    }
    Ok(folder.adopt(part.file, &part.name))
}

/// Removes part files beside `name`, except the one to keep.
pub fn forget(folder: &Folder, name: &str, keep: Option<&str>) -> Result<()> {
    let prefix = prefix(name);
    for other in folder.names()? {
        let stem = other.strip_suffix(SIDECAR).unwrap_or(&other);
        let ours =
            stem.strip_prefix(&prefix).is_some_and(|key| key.len() == 12 && key.bytes().all(|b| b.is_ascii_hexdigit()));
        if ours && Some(stem) != keep {
            remove(folder, &other);
        }
    }
    Ok(())
}

impl Part<'_> {
    fn fill(
        &mut self,
        patience: &Patience,
        local: &dyn Fn(&str) -> Result<File>,
        progress: &mut dyn FnMut(&str),
    ) -> Result<()> {
        if let Some(path) = self.url.strip_prefix("file://") {
            let path = http::percent_decoded(path.strip_prefix("localhost").unwrap_or(path));
            let mut from = local(&path)?;
            let total = from.metadata().map_err(|e| explain("examine", &path, &e))?.len();
            self.discard()?;
            return match self.take(&mut from, Some(total), progress) {
                Ok(()) => Ok(()),
                Err(Trouble::Passing(error) | Trouble::Lasting(error)) => Err(error),
            };
        }
        let agent = http::agent(self.url, patience)?;
        let (mut tries, mut best, mut wait) = (0, self.length()?, patience.backoff);
        loop {
            let error = match http::once(self, &agent, progress) {
                Ok(()) => return Ok(()),
                Err(Trouble::Lasting(error)) => return Err(error),
                Err(Trouble::Passing(error)) => error,
            };
            let length = self.length()?;
            if length >= best + WORTH_ANOTHER {
                (tries, best, wait) = (0, length, patience.backoff);
            }
            tries += 1;
            if tries >= patience.tries {
                return Err(
                    error.hint("what has come so far is kept: another run goes on from there, if the server can")
                );
            }
            progress(&format!("{}; trying again in {} s", error.message, wait.as_secs()));
            std::thread::sleep(wait);
            wait *= 2;
        }
    }

    /// Takes what comes, at the end of the part file. `total` is the length the whole will have.
    fn take(
        &mut self,
        from: &mut dyn Read,
        total: Option<u64>,
        progress: &mut dyn FnMut(&str),
    ) -> std::result::Result<(), Trouble> {
        let mut length = self.length()?;
        if let Some(total) = total {
            self.need_room(total.saturating_sub(length))?;
        }
        self.file.seek(SeekFrom::Start(length)).map_err(|e| self.unwritable(&e))?;
        let mut buffer = vec![0; 128 * 1024];
        let mut told: Option<Instant> = None;
        loop {
            let count = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let shown = http::shown(self.url);
                    return Err(Trouble::Passing(Error::failed(format!(
                        "{shown} broke off after {}: {error}",
                        size(length)
                    ))));
                }
            };
            self.file.write_all(buffer.get(..count).unwrap_or_default()).map_err(|e| self.unwritable(&e))?;
            length += count as u64;
            if told.is_none_or(|told| told.elapsed() >= BETWEEN_PROGRESS) {
                told = Some(Instant::now());
                match total {
                    Some(total) => progress(&format!("{} of {}", size(length), size(total))),
                    None => progress(&size(length)),
                }
            }
        }
        match total {
            Some(total) if length < total => Err(Trouble::Passing(Error::failed(format!(
                "{} ended after {} of {}",
                http::shown(self.url),
                size(length),
                size(total)
            )))),
            _ => Ok(()),
        }
    }

    fn unwritable(&self, error: &std::io::Error) -> Error {
        explain("write", &self.target, error)
    }

    fn need_room(&self, bytes: u64) -> Result<()> {
        let free =
            fs::fstatvfs(self.folder.fd()).map_err(|e| explain("examine the disk of", &self.target, &e.into()))?;
        let free = free.f_bavail.saturating_mul(free.f_frsize);
        if free < bytes {
            return Err(Error::failed(format!(
                "can't fetch {}: it needs {} more, and the disk of {} has {} free",
                http::shown(self.url),
                size(bytes),
                self.target,
                size(free)
            ))
            .hint("make room and run again"));
        }
        Ok(())
    }

    fn length(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(|e| explain("examine", &self.target, &e))?.len())
    }

    /// Begins anew.
    fn discard(&self) -> Result<()> {
        remove(self.folder, &format!("{}{SIDECAR}", self.name));
        self.file.set_len(0).map_err(|e| self.unwritable(&e))
    }

    /// Leaves nothing behind.
    fn forget(&self) {
        remove(self.folder, &self.name);
        remove(self.folder, &format!("{}{SIDECAR}", self.name));
    }

    fn known(&self) -> Known {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let name = format!("{}{SIDECAR}", self.name);
        let mut text = String::new();
        if let Ok(fd) = fs::openat(self.folder.fd(), name, flags, Mode::empty()) {
            let _ = File::from(fd).take(1 << 16).read_to_string(&mut text);
        }
        serde_json::from_str(&text).ok().filter(|known: &Known| known.url == self.url).unwrap_or_default()
    }

    fn remember(&self, known: &Known) -> Result<()> {
        let name = format!("{}{SIDECAR}", self.name);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        remove(self.folder, &name);
        let fd = fs::openat(self.folder.fd(), name, flags, Mode::RUSR | Mode::WUSR)
            .map_err(|e| self.unwritable(&e.into()))?;
        serde_json::to_writer(File::from(fd), known).map_err(|e| self.unwritable(&e.into()))
    }

    fn hash(&mut self) -> Result<String> {
        let failed = |e: std::io::Error| explain("read", &self.target, &e);
        self.file.seek(SeekFrom::Start(0)).map_err(failed)?;
        let mut hasher = Sha256::new();
        std::io::copy(&mut self.file, &mut hasher).map_err(failed)?;
        Ok(format!("{:x}", hasher.finalize()))
    }
}

/// Opens or makes the part file; one that is not certainly our own is put aside.
fn open_part(folder: &Folder, name: &str) -> Result<File> {
    let open = |flags: OFlags| {
        let flags = flags | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        fs::openat(folder.fd(), name, flags, Mode::RUSR | Mode::WUSR)
    };
    if let Ok(fd) = open(OFlags::empty()) {
        let stat = fs::fstat(fd.as_fd()).map_err(|e| explain("examine", &folder.shown(name), &e.into()))?;
        let plain = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_nlink == 1;
        if plain && stat.st_uid == rustix::process::geteuid().as_raw() {
            return Ok(File::from(fd));
        }
    }
    match fs::unlinkat(folder.fd(), name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(explain("remove", &folder.shown(name), &error.into())),
    }
    open(OFlags::CREATE | OFlags::EXCL).map(File::from).map_err(|e| explain("write", &folder.shown(name), &e.into()))
}

fn remove(folder: &Folder, name: &str) {
    // What can't be removed does no harm: it is never taken for the file itself.
    let _ = fs::unlinkat(folder.fd(), name, AtFlags::empty());
}

fn expected_hash(text: &str) -> Result<String> {
    let hash = text.trim().to_ascii_lowercase();
    if hash.len() == 64 && hash.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(hash)
    } else {
        Err(Error::parameters(format!("`{text}` is not a sha256: 64 hexadecimal digits are expected")))
    }
}

fn key(url: &str) -> String {
    format!("{:x}", Sha256::digest(url)).chars().take(12).collect()
}

fn prefix(name: &str) -> String {
    let mut end = name.len().min(NAME_MAX - ".part-".len() - 12 - SIDECAR.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}.part-", name.get(..end).unwrap_or(name))
}

/// A length for people.
#[allow(clippy::cast_precision_loss)]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let (mut value, mut unit) = (bytes as f64 / 1024.0, UNITS[0]);
    for next in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if value < 100.0 { format!("{value:.1} {unit}") } else { format!("{value:.0} {unit}") }
}
