//! What an action touches, and what that is now.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use super::{State, Subject, Touched};
use crate::change::{Effect, Op};
use crate::host::{Body, FileKind, Host, Result, Stat};

/// Larger files are not copied: they are images and ISOs, which modules never overwrite.
const LARGEST_COPY: u64 = 256 << 20;
/// Of what a command may change only small files are kept: they tell what its inverse leads to, and are not put back.
const LARGEST_OF_COMMANDS: u64 = 1 << 20;
/// Larger files are told apart by length and time.
const LARGEST_HASH: u64 = 1 << 30;

/// Keeps a copy of some bytes and answers its name.
pub type Keep<'a> = dyn FnMut(&[u8]) -> Result<String> + 'a;

/// Everything that an action will touch, with what it is now; a folder that goes is walked through, parents first.
///
/// # Errors
/// When the machine can't be read or a copy can't be kept: the action must not be done then.
pub fn touched(host: &dyn Host, op: &Op, keep: &mut Keep<'_>) -> Result<Vec<Touched>> {
    let mut found = Vec::new();
    match op {
        Op::WriteFile { path, .. }
        | Op::SetAttributes { path, .. }
        | Op::MakeFolder { path, .. }
        | Op::Download { path, .. }
        | Op::SetXattrs { path, .. } => {
            add(host, &mut found, Subject::Path(host.real_path(path)?), LARGEST_COPY, keep)?
        }
        Op::Link { path, .. } => add(host, &mut found, Subject::Path(in_real_parent(host, path)?), LARGEST_COPY, keep)?,
        Op::Remove { path } => add_tree(host, &mut found, in_real_parent(host, path)?, LARGEST_COPY, keep)?,
        Op::Poke { path, effects, .. } => {
            // Of the kernel's attributes only those are put back that can be read and written at any time.
            if path.starts_with("/proc/sys/") {
                add(host, &mut found, Subject::Path(host.real_path(path)?), LARGEST_OF_COMMANDS, keep)?;
            }
            add_effects(host, &mut found, effects, keep)?;
        }
        Op::Run(run) => add_effects(host, &mut found, &run.effects, keep)?,
        Op::Wait(_) => {}
    }
    Ok(found)
}

fn add(host: &dyn Host, found: &mut Vec<Touched>, subject: Subject, largest: u64, keep: &mut Keep<'_>) -> Result<()> {
    if !found.iter().any(|touched| touched.subject == subject) {
        let before = look_and_keep(host, &subject, largest, Some(keep))?;
        found.push(Touched { subject, before });
    }
    Ok(())
}

fn add_tree(host: &dyn Host, found: &mut Vec<Touched>, path: String, largest: u64, keep: &mut Keep<'_>) -> Result<()> {
    let is_folder = matches!(host.raw_lstat(&path)?, Some(Stat { kind: FileKind::Folder, .. }));
    let names = if is_folder { host.raw_list(&path)? } else { Vec::new() };
    add(host, found, Subject::Path(path.clone()), largest, keep)?;
    for name in names {
        add_tree(host, found, format!("{}/{name}", path.trim_end_matches('/')), largest, keep)?;
    }
    Ok(())
}

fn add_effects(host: &dyn Host, found: &mut Vec<Touched>, effects: &[Effect], keep: &mut Keep<'_>) -> Result<()> {
    for effect in effects {
        let subject = match effect {
            Effect::Package { name, .. } => Subject::Package(name.clone()),
            Effect::Unit { name, .. } => Subject::Unit(name.clone()),
            Effect::Virt { kind, name, .. } => Subject::Virt { kind: *kind, name: name.clone() },
            Effect::File { path, .. } | Effect::Folder { path } => Subject::Path(first_missing(host, path)?),
            Effect::Link { path, .. } | Effect::Gone { path } => Subject::Path(in_real_parent(host, path)?),
            Effect::Reboot => continue,
        };
        // A written-down machine becomes what is foreseen, so it needs to know all that goes.
        if let (Effect::Gone { .. }, Subject::Path(path), true) = (effect, &subject, host.is_recorded()) {
            add_tree(host, found, path.clone(), LARGEST_OF_COMMANDS, keep)?;
            continue;
        }
        // What can't be read now (a device that is gone, a libvirt that is not there yet) was not there for us.
        if look(host, &subject).is_ok() {
            add(host, found, subject, LARGEST_OF_COMMANDS, keep)?;
        }
    }
    Ok(())
}

/// The path itself, or the uppermost of its folders that is not there: with it comes and goes what is below.
fn first_missing(host: &dyn Host, path: &str) -> Result<String> {
    let real = host.real_path(path)?;
    for (at, _) in real.match_indices('/').skip(1) {
        let Some(parent) = real.get(..at) else { continue };
        if host.raw_lstat(parent)?.is_none() {
            return Ok(parent.to_string());
        }
    }
    Ok(real)
}

fn in_real_parent(host: &dyn Host, path: &str) -> Result<String> {
    match path.trim_end_matches('/').rsplit_once('/') {
        Some((parent, name)) => {
            let parent = host.real_path(if parent.is_empty() { "/" } else { parent })?;
            Ok(format!("{}/{name}", parent.trim_end_matches('/')))
        }
        None => Ok(path.to_string()),
    }
}

/// What a subject is now.
///
/// # Errors
/// When the machine can't be read.
pub fn look(host: &dyn Host, subject: &Subject) -> Result<State> {
    look_and_keep(host, subject, 0, None)
}

fn look_and_keep(host: &dyn Host, subject: &Subject, largest: u64, keep: Option<&mut Keep<'_>>) -> Result<State> {
    match subject {
        Subject::Path(path) => match host.raw_lstat(path)? {
            None => Ok(State::Nothing),
            Some(stat) => look_at_path(host, path, &stat, largest, keep),
        },
        Subject::Unit(name) => host.unit(name).map(State::Unit),
        Subject::Package(name) => Ok(match host.package(name)? {
            Some(package) => State::Package { version: package.version },
            None => State::Nothing,
        }),
        Subject::Virt { kind, name } => Ok(match host.virt(*kind, name)? {
            None => State::Nothing,
            Some(virt) => State::Virt {
                active: virt.active,
                autostart: virt.autostart,
                content: hash([virt.xml.as_str(), virt.domstate.as_deref().unwrap_or_default()].concat().as_bytes()),
                copy: keep.map(|keep| keep(virt.xml.as_bytes())).transpose()?,
            },
        }),
    }
}

fn look_at_path(host: &dyn Host, path: &str, stat: &Stat, largest: u64, keep: Option<&mut Keep<'_>>) -> Result<State> {
    let (mode, uid, gid) = (stat.mode, stat.uid, stat.gid);
    match stat.kind {
        FileKind::Link => Ok(State::Link { target: host.raw_read_link(path)? }),
        FileKind::Other => Ok(State::Other),
        FileKind::Folder => {
            let xattrs = if keep.is_some() { xattrs(host, path)? } else { Vec::new() };
            Ok(State::Folder { mode, uid, gid, xattrs })
        }
        FileKind::File if stat.size > LARGEST_HASH => {
            let content = format!("{} bytes of {}", stat.size, stat.mtime);
            Ok(State::File { mode, uid, gid, content, copy: None, xattrs: Vec::new() })
        }
        FileKind::File => {
            let Some(keep) = keep.filter(|_| stat.size <= largest) else {
                let content = match host.raw_sha256(path) {
                    Err(error) if error.is_unknown() => unread(host, path)?,
                    other => other?,
                };
                return Ok(State::File { mode, uid, gid, content, copy: None, xattrs: Vec::new() });
            };
            // A recorded machine's unknown contents can't be read, and need not be: nothing real is lost.
            let (content, copy) = match host.raw_read(path) {
                Ok(bytes) => (hash(&bytes), Some(keep(&bytes)?)),
                Err(error) if error.is_unknown() => (unread(host, path)?, None),
                Err(error) => return Err(error),
            };
            Ok(State::File { mode, uid, gid, content, copy, xattrs: xattrs(host, path)? })
        }
    }
}

fn unread(host: &dyn Host, path: &str) -> Result<String> {
    Ok(match host.raw_body(path)? {
        Body::Bytes(bytes) => hash(&bytes),
        Body::Fetched { sha256: Some(sha256), .. } => sha256,
        Body::Fetched { url, sha256: None } => format!("fetched from {url}"),
        Body::Unknown(because) => format!("unknown: {because}"),
    })
}

fn xattrs(host: &dyn Host, path: &str) -> Result<Vec<(String, String)>> {
    Ok(host.raw_xattrs(path)?.into_iter().map(|(name, value)| (name, STANDARD.encode(value))).collect())
}

pub(super) fn hash(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}
