//! A machine that is only written down: what an action does to it is what the action says it does.
//!
//! The overlay of a dry run and the folder of a sandbox are such machines; both do actions through [`predict`], so that
//! what a plan foresees and what a sandbox becomes cannot differ.

use sha2::{Digest, Sha256};

use super::{Error, FileKind, Host, Package, Result, Unit, Virt, VirtKind, accounts};
use crate::change::{Content, Effect, Op};

/// What is in a regular file of a written-down machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// These bytes.
    Bytes(Vec<u8>),
    /// It exists; what is in it can't be known before the action named here has really been done.
    Unknown(String),
    /// What this URL gives; nothing was downloaded.
    Fetched {
        /// Where it would come from.
        url: String,
        /// Hex SHA-256 where known.
        sha256: Option<String>,
    },
}

impl Body {
    /// The bytes, where they are known.
    pub fn into_bytes(self, path: &str) -> Result<Vec<u8>> {
        match self {
            Body::Bytes(bytes) => Ok(bytes),
            Body::Unknown(because) => Err(Error::unknown(path, because)),
            Body::Fetched { url, .. } => Err(Error::unknown(path, format!("it is fetched from {url}"))),
        }
    }

    /// Hex SHA-256, where it is known.
    pub fn sha256(&self, path: &str) -> Result<String> {
        match self {
            Body::Bytes(bytes) => Ok(format!("{:x}", Sha256::digest(bytes))),
            Body::Fetched { sha256: Some(sha256), .. } => Ok(sha256.clone()),
            Body::Fetched { url, .. } => {
                Err(Error::unknown(format!("the hash of {path}"), format!("it is fetched from {url}")))
            }
            Body::Unknown(because) => Err(Error::unknown(format!("the hash of {path}"), because)),
        }
    }
}

/// Owner and permission bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// Owner's number.
    pub uid: u32,
    /// Group's number.
    pub gid: u32,
}

/// A written-down machine. Paths are raw: their parents hold no links.
pub trait Model: Host {
    /// Makes or replaces a regular file.
    fn put_file(&self, path: &str, body: Body, attributes: Attributes) -> Result<()>;
    /// Makes a folder whose parent exists.
    fn put_folder(&self, path: &str, attributes: Attributes) -> Result<()>;
    /// Makes or replaces a link.
    fn put_link(&self, path: &str, target: &str) -> Result<()>;
    /// Changes owner and permission bits of what is there.
    fn put_attributes(&self, path: &str, attributes: Attributes) -> Result<()>;
    /// Removes what is there, with all below it.
    fn remove(&self, path: &str) -> Result<()>;
    /// What is in a regular file, as far as it is known.
    fn body(&self, path: &str) -> Result<Body>;
    /// Installs, changes or (`None`) removes a package.
    fn put_package(&self, name: &str, package: Option<Package>) -> Result<()>;
    /// Sets a unit's state.
    fn put_unit(&self, name: &str, unit: Unit) -> Result<()>;
    /// Defines, changes or (`None`) undefines something of libvirt's.
    fn put_virt(&self, kind: VirtKind, name: &str, virt: Option<Virt>) -> Result<()>;
}

const NEW_FILE: Attributes = Attributes { mode: 0o644, uid: 0, gid: 0 };
const NEW_FOLDER: Attributes = Attributes { mode: 0o755, uid: 0, gid: 0 };

/// Does to a written-down machine what the operation says it does.
///
/// # Errors
/// Where the real thing would fail too: a parent folder that does not exist, an owner that nobody knows.
pub fn predict(model: &dyn Model, op: &Op) -> Result<()> {
    match op {
        Op::WriteFile { path, content, mode, owner, group, validate: _ } => {
            let path = model.real_path(path)?;
            let attributes = attributes(model, &path, NEW_FILE, *mode, owner.as_deref(), group.as_deref())?;
            let body = match content {
                Content::Bytes(bytes) => Body::Bytes(bytes.clone()),
                Content::CopyOf(source) => model.body(&model.real_path(source)?)?,
            };
            need_parent(model, &path)?;
            need_no_folder(model, &path)?;
            model.put_file(&path, body, attributes)
        }
        Op::SetAttributes { path, mode, owner, group } => {
            let path = model.real_path(path)?;
            if model.raw_lstat(&path)?.is_none() {
                return Err(Error::failed(format!("{path} does not exist")));
            }
            let attributes = attributes(model, &path, NEW_FILE, *mode, owner.as_deref(), group.as_deref())?;
            model.put_attributes(&path, attributes)
        }
        Op::MakeFolder { path, mode, owner, group } => {
            let path = model.real_path(path)?;
            need_parent(model, &path)?;
            if model.raw_lstat(&path)?.is_some_and(|stat| stat.kind != FileKind::Folder) {
                return Err(Error::failed(format!("{path} is there and is not a folder")));
            }
            let attributes = attributes(model, &path, NEW_FOLDER, *mode, owner.as_deref(), group.as_deref())?;
            model.put_folder(&path, attributes)
        }
        Op::Link { path, target } => {
            let path = in_real_parent(model, path)?;
            need_parent(model, &path)?;
            need_no_folder(model, &path)?;
            model.put_link(&path, target)
        }
        Op::Remove { path } => model.remove(&in_real_parent(model, path)?),
        Op::Download { url, path, sha256, mode } => {
            let path = model.real_path(path)?;
            need_parent(model, &path)?;
            need_no_folder(model, &path)?;
            let attributes = attributes(model, &path, NEW_FILE, *mode, None, None)?;
            model.put_file(&path, Body::Fetched { url: url.clone(), sha256: sha256.clone() }, attributes)
        }
        // A written-down machine has none.
        Op::SetXattrs { .. } => Ok(()),
        Op::Poke { effects, .. } => apply_effects(model, effects, "a write to the kernel"),
        Op::Run(run) => apply_effects(model, &run.effects, &run.argv.join(" ")),
        Op::Wait(_) => Ok(()),
    }
}

fn attributes(
    model: &dyn Model,
    path: &str,
    new: Attributes,
    mode: Option<u32>,
    owner: Option<&str>,
    group: Option<&str>,
) -> Result<Attributes> {
    let old = match model.raw_lstat(path)? {
        Some(stat) => Attributes { mode: stat.mode, uid: stat.uid, gid: stat.gid },
        None => new,
    };
    Ok(Attributes {
        mode: mode.unwrap_or(old.mode),
        uid: owner.map(|owner| accounts::uid(model, owner)).transpose()?.unwrap_or(old.uid),
        gid: group.map(|group| accounts::gid(model, group)).transpose()?.unwrap_or(old.gid),
    })
}

/// The path with its parents' links followed, its own last part not.
fn in_real_parent(model: &dyn Model, path: &str) -> Result<String> {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit_once('/') {
        Some((parent, name)) if !name.is_empty() => {
            let parent = model.real_path(if parent.is_empty() { "/" } else { parent })?;
            Ok(format!("{}/{name}", parent.trim_end_matches('/')))
        }
        _ => Err(Error::failed(format!("`{path}` can't be replaced"))),
    }
}

fn parent_of(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((parent, _)) => parent,
    }
}

fn need_parent(model: &dyn Model, path: &str) -> Result<()> {
    let parent = parent_of(path);
    match model.raw_lstat(parent)? {
        Some(stat) if stat.kind == FileKind::Folder => Ok(()),
        Some(_) => Err(Error::failed(format!("{parent} is not a folder"))),
        None => Err(Error::failed(format!("the folder {parent} does not exist"))),
    }
}

/// rename(2) does not put a file or a link where a folder is.
fn need_no_folder(model: &dyn Model, path: &str) -> Result<()> {
    match model.raw_lstat(path)? {
        Some(stat) if stat.kind == FileKind::Folder => Err(Error::failed(format!("{path} is a folder"))),
        _ => Ok(()),
    }
}

fn make_folders(model: &dyn Model, path: &str) -> Result<()> {
    if path == "/" {
        return Ok(());
    }
    match model.raw_lstat(path)? {
        Some(stat) if stat.kind == FileKind::Folder => Ok(()),
        Some(_) => Err(Error::failed(format!("{path} is not a folder"))),
        None => {
            make_folders(model, parent_of(path))?;
            model.put_folder(path, NEW_FOLDER)
        }
    }
}

fn apply_effects(model: &dyn Model, effects: &[Effect], by: &str) -> Result<()> {
    for effect in effects {
        apply_effect(model, effect, by)?;
    }
    Ok(())
}

fn apply_effect(model: &dyn Model, effect: &Effect, by: &str) -> Result<()> {
    match effect {
        Effect::Package { name, version, present: true } => install(model, name, version.clone(), 0),
        Effect::Package { name, present: false, .. } => model.put_package(name, None),
        Effect::Unit { name, exists, enabled, active } => {
            let old = model.unit(name)?;
            model.put_unit(
                name,
                Unit {
                    exists: exists.unwrap_or(old.exists),
                    enabled: enabled.clone().unwrap_or(old.enabled),
                    active: active.unwrap_or(old.active),
                },
            )
        }
        Effect::File { path, content, mode } => {
            let path = model.real_path(path)?;
            make_folders(model, parent_of(&path))?;
            need_no_folder(model, &path)?;
            let attributes = attributes(model, &path, NEW_FILE, *mode, None, None)?;
            let body = match content {
                Some(content) => Body::Bytes(content.clone().into_bytes()),
                None => Body::Unknown(format!("`{by}` writes it")),
            };
            model.put_file(&path, body, attributes)
        }
        Effect::Folder { path } => make_folders(model, &model.real_path(path)?),
        Effect::Link { path, target } => {
            let parent = model.real_path(parent_of(path.trim_end_matches('/')))?;
            make_folders(model, &parent)?;
            let path = in_real_parent(model, path)?;
            need_no_folder(model, &path)?;
            model.put_link(&path, target)
        }
        Effect::Gone { path } => model.remove(&in_real_parent(model, path)?),
        Effect::Virt { kind, name, state } => model.put_virt(*kind, name, state.clone()),
        Effect::Reboot => super::reboot::predict(model),
    }
}

/// Packages may require each other in circles; nobody nests deeper than this.
const DEEPEST_REQUIREMENT: usize = 8;

fn install(model: &dyn Model, name: &str, version: Option<String>, depth: usize) -> Result<()> {
    let known = model.available(name)?;
    let version = version.or_else(|| known.as_ref().map(|known| known.version.clone()));
    model.put_package(name, Some(Package { name: name.to_string(), version }))?;
    let Some(known) = known else { return Ok(()) };
    for (path, content) in &known.files {
        if path.ends_with('/') {
            make_folders(model, &model.real_path(path)?)?;
            continue;
        }
        let path = model.real_path(path)?;
        // What the administrator changed stays, as `%config(noreplace)` and dpkg's conffiles have it.
        if model.raw_lstat(&path)?.is_none() {
            make_folders(model, parent_of(&path))?;
            model.put_file(&path, Body::Bytes(content.clone().into_bytes()), NEW_FILE)?;
        }
    }
    for unit in &known.units {
        if !model.unit(unit)?.exists {
            model.put_unit(unit, Unit { exists: true, enabled: "disabled".into(), active: false })?;
        }
    }
    for required in &known.requires {
        if depth < DEEPEST_REQUIREMENT && model.package(required)?.is_none() {
            install(model, required, None, depth + 1)?;
        }
    }
    Ok(())
}

/// A machine that can be changed as well as read.
pub trait Machine: Host {
    /// Does one operation. `progress` is told what people like to see while it takes long (bytes of a download).
    ///
    /// # Errors
    /// What was tried, what came back and, where one is known, what to do. Nothing is half-changed then.
    fn perform(&self, op: &Op, progress: &mut dyn FnMut(&str)) -> Result<Option<super::Output>>;
    /// The real folder for this program's own records about the machine (`/var/lib/vfio-provision` there); `None` where
    /// nothing may be written.
    fn state_folder(&self) -> Option<std::path::PathBuf> {
        None
    }
}

impl<H: Host> Machine for super::Overlay<H> {
    fn perform(&self, op: &Op, _: &mut dyn FnMut(&str)) -> Result<Option<super::Output>> {
        predict(self, op).map(|()| None)
    }
}
