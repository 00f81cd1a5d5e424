//! What a folder can't hold as files: `machine.json`, and files whose content nobody knows.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{OWN, nothing_there};
use crate::host::model::{Attributes, Body};
use crate::host::{Error, Result, Unit, Virt, VirtKind};

/// `machine.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Book {
    /// Owner and permission bits, where they are not root's and what the file really has.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) attributes: BTreeMap<String, Owned>,
    /// Installed packages and their versions.
    pub(super) packages: BTreeMap<String, Option<String>>,
    /// Packages that could be installed; their files are below `.vfio-provision/available/NAME/`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) available: BTreeMap<String, Offer>,
    /// Units.
    pub(super) units: BTreeMap<String, UnitState>,
    /// libvirt's domains.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) domains: BTreeMap<String, VirtState>,
    /// libvirt's networks.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) networks: BTreeMap<String, VirtState>,
    /// libvirt's pools.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) pools: BTreeMap<String, VirtState>,
    /// The IOMMU groups (PCI address to number) that a boot with the IOMMU turned on shows.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) with_iommu: BTreeMap<String, u32>,
}

/// Owner and permission bits of one path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Owned {
    /// Octal digits.
    mode: String,
    #[serde(default)]
    uid: u32,
    #[serde(default)]
    gid: u32,
}

impl Owned {
    pub(super) fn new(attributes: Attributes) -> Owned {
        Owned { mode: format!("{:04o}", attributes.mode), uid: attributes.uid, gid: attributes.gid }
    }
}

/// A package that could be installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Offer {
    pub(super) version: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) units: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) requires: Vec<String>,
}

fn yes() -> bool {
    true
}

fn is_true(value: &bool) -> bool {
    *value
}

/// A unit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct UnitState {
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    exists: bool,
    enabled: String,
    #[serde(default)]
    active: bool,
}

impl From<UnitState> for Unit {
    fn from(UnitState { exists, enabled, active }: UnitState) -> Unit {
        Unit { exists, enabled, active }
    }
}

impl From<Unit> for UnitState {
    fn from(Unit { exists, enabled, active }: Unit) -> UnitState {
        UnitState { exists, enabled, active }
    }
}

/// A domain, network or pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VirtState {
    xml: String,
    #[serde(default)]
    active: bool,
    #[serde(default)]
    autostart: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    live: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    domstate: Option<String>,
}

impl From<VirtState> for Virt {
    fn from(VirtState { xml, active, autostart, live, domstate }: VirtState) -> Virt {
        Virt { xml, active, autostart, live, domstate }
    }
}

impl From<Virt> for VirtState {
    fn from(Virt { xml, active, autostart, live, domstate }: Virt) -> VirtState {
        VirtState { xml, active, autostart, live, domstate }
    }
}

impl Book {
    /// Reads it; a folder without one (a plain copy of a machine's files) has an empty one.
    pub(super) fn load(root: &Path) -> Result<Book> {
        let path = root.join(OWN).join("machine.json");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if nothing_there(&e) => return Ok(Book::default()),
            Err(e) => return Err(Error::io("read", &path.display().to_string(), &e)),
        };
        let book: Book =
            serde_json::from_str(&text).map_err(|e| Error::failed(format!("can't read {}: {e}", path.display())))?;
        for (file, owned) in &book.attributes {
            if !u32::from_str_radix(&owned.mode, 8).is_ok_and(|mode| mode <= 0o7777) {
                return Err(Error::failed(format!(
                    "can't read {}: the mode `{}` of {file} is not octal",
                    path.display(),
                    owned.mode
                )));
            }
        }
        Ok(book)
    }

    pub(super) fn to_text(&self) -> Result<String> {
        let mut text =
            serde_json::to_string_pretty(self).map_err(|e| Error::failed(format!("can't write machine.json: {e}")))?;
        text.push('\n');
        Ok(text)
    }

    pub(super) fn attributes(&self, path: &str) -> Option<Attributes> {
        let owned = self.attributes.get(path)?;
        Some(Attributes { mode: u32::from_str_radix(&owned.mode, 8).ok()?, uid: owned.uid, gid: owned.gid })
    }

    /// Forgets owners of a path and all below it.
    pub(super) fn forget(&mut self, path: &str) {
        let below = format!("{path}/");
        self.attributes.retain(|other, _| other != path && !other.starts_with(&below));
    }

    pub(super) fn virts(&self, kind: VirtKind) -> &BTreeMap<String, VirtState> {
        match kind {
            VirtKind::Domain => &self.domains,
            VirtKind::Network => &self.networks,
            VirtKind::Pool => &self.pools,
        }
    }

    pub(super) fn virts_mut(&mut self, kind: VirtKind) -> &mut BTreeMap<String, VirtState> {
        match kind {
            VirtKind::Domain => &mut self.domains,
            VirtKind::Network => &mut self.networks,
            VirtKind::Pool => &mut self.pools,
        }
    }
}

/// The files that a package would bring, from `.vfio-provision/available/NAME/`.
pub(super) fn files_of(root: &Path, package: &str) -> Result<IndexMap<String, String>> {
    let mut files = IndexMap::new();
    if !package.contains('/') {
        gather(&root.join(OWN).join("available").join(package), "", &mut files)?;
    }
    files.sort_unstable_keys();
    Ok(files)
}

fn gather(folder: &Path, path: &str, files: &mut IndexMap<String, String>) -> Result<()> {
    let io = |e: &std::io::Error| Error::io("read", &folder.display().to_string(), e);
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if nothing_there(&e) => return Ok(()),
        Err(e) => return Err(io(&e)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| io(&e))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = format!("{path}/{name}");
        if entry.file_type().map_err(|e| io(&e))?.is_dir() {
            let before = files.len();
            gather(&entry.path(), &path, files)?;
            if files.len() == before {
                files.insert(format!("{path}/"), String::new());
            }
        } else {
            let text = fs::read_to_string(entry.path()).map_err(|e| io(&e))?;
            files.insert(path, text);
        }
    }
    Ok(())
}

/// How a file begins whose content is not simply its bytes. It is in the file itself, not in `machine.json`, so that a
/// file and what is known of it are replaced by one rename.
pub(super) const MARK: &str = "vfio-provision sandbox: ";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Stored {
    /// Bytes follow that begin with the mark themselves.
    Bytes,
    Unknown(String),
    Fetched {
        url: String,
        sha256: Option<String>,
    },
}

/// What is written into the file for this content.
pub(super) fn encode(body: Body) -> Result<Vec<u8>> {
    let stored = match &body {
        Body::Bytes(bytes) if !bytes.starts_with(MARK.as_bytes()) => None,
        Body::Bytes(_) => Some(Stored::Bytes),
        Body::Unknown(because) => Some(Stored::Unknown(because.clone())),
        Body::Fetched { url, sha256 } => Some(Stored::Fetched { url: url.clone(), sha256: sha256.clone() }),
    };
    let mut out = Vec::new();
    if let Some(stored) = stored {
        let line = serde_json::to_string(&stored).map_err(|e| Error::failed(format!("can't note a file: {e}")))?;
        out = format!("{MARK}{line}\n").into_bytes();
    }
    if let Body::Bytes(bytes) = body {
        out.extend(bytes);
    }
    Ok(out)
}

/// What a file with these bytes holds.
pub(super) fn decode(bytes: Vec<u8>) -> Body {
    let Some(rest) = bytes.strip_prefix(MARK.as_bytes()) else { return Body::Bytes(bytes) };
    let (line, rest) = match rest.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&rest[..end], &rest[end + 1..]),
        None => (rest, &rest[..0]),
    };
    match serde_json::from_slice(line) {
        Ok(Stored::Bytes) => Body::Bytes(rest.to_vec()),
        Ok(Stored::Unknown(because)) => Body::Unknown(because),
        Ok(Stored::Fetched { url, sha256 }) => Body::Fetched { url, sha256 },
        Err(_) => Body::Bytes(bytes),
    }
}
