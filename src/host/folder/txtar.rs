//! A recorded machine as one readable text file.
//!
//! ```text
//! Words before the first section are for people.
//! -- /etc/os-release --
//! ID=centos
//! -- /etc/shadow mode=0000 owner=0:0 --
//! root:*::0:99999:7:::
//! -- /etc/sysconfig/grub -> ../default/grub --
//! -- /var/lib/libvirt/images/ --
//! -- /sys/devices/pci0000:00/0000:00:00.0/* --
//! class 0x060000
//! driver -> ../../../bus/pci/drivers/ahci
//! -- /.vfio-provision/machine.json --
//! {"packages": {"kernel": "3.10.0-514.el7"}, "units": {}}
//! ```
//!
//! A section is a file; `PATH -> TARGET` is a link, `PATH/` a folder, and `PATH/*` many small files in one folder, a line
//! each: its name and the one line that is in it, or its name and where the link points. Folders above a path are made.
//! `no-newline` in a header takes the last newline off the content.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::OWN;
use super::book::{Book, Owned};
use crate::host::model::Attributes;
use crate::host::{Error, Result};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    File(String),
    Folder,
    Link(String),
}

/// What a recorded machine consists of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Recorded {
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) attributes: BTreeMap<String, Attributes>,
}

/// Fills a folder that is empty or not there yet; all of it, or (killed, disk full) nothing.
///
/// # Errors
/// A text that is no recorded machine, by its line; and trouble writing.
pub fn unpack(text: &str, root: &Path) -> Result<()> {
    let recorded = parse(text)?;
    let name = root.file_name().and_then(|name| name.to_str()).ok_or_else(|| {
        Error::parameters(format!("{} can't be filled with a recorded machine: it has no name", root.display()))
    })?;
    let fresh = root.with_file_name(format!(".{name}.unpacking"));
    let io = |path: &Path, e: std::io::Error| Error::io("unpack", &path.display().to_string(), &e);
    if fresh.exists() {
        fs::remove_dir_all(&fresh).map_err(|e| io(&fresh, e))?;
    }
    fs::create_dir_all(&fresh).map_err(|e| io(&fresh, e))?;
    let at = |path: &str| -> PathBuf { fresh.join(path.trim_start_matches('/')) };
    // Links last: whatever the text says, nothing is written through one.
    for (path, entry) in &recorded.entries {
        let place = at(path);
        let folder = if *entry == Entry::Folder { Some(place.as_path()) } else { place.parent() };
        if let Some(folder) = folder {
            fs::create_dir_all(folder).map_err(|e| io(folder, e))?;
        }
        if let Entry::File(content) = entry {
            fs::write(&place, content).map_err(|e| io(&place, e))?;
        }
    }
    for (path, entry) in &recorded.entries {
        if let Entry::Link(target) = entry {
            let place = at(path);
            std::os::unix::fs::symlink(target, &place).map_err(|e| io(&place, e))?;
        }
    }
    let mut book = Book::load(&fresh)?;
    book.attributes
        .extend(recorded.attributes.iter().map(|(path, attributes)| (path.clone(), Owned::new(*attributes))));
    let own = fresh.join(OWN);
    fs::create_dir_all(&own).map_err(|e| io(&own, e))?;
    fs::write(own.join("machine.json"), book.to_text()?).map_err(|e| io(&own, e))?;
    fs::rename(&fresh, root).map_err(|e| io(root, e))
}

/// Reads the text of a recorded machine.
pub(super) fn parse(text: &str) -> Result<Recorded> {
    let mut recorded = Recorded::default();
    let mut place = Place::Nowhere;
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let wrong = |why: &str| Error::failed(format!("recorded machine, line {}: {why}", number + 1));
        let bare = line.trim_end_matches('\n');
        if let Some(header) = bare.strip_prefix("-- ").and_then(|rest| rest.strip_suffix(" --")) {
            recorded.end(&place);
            place = recorded.begin(header.trim()).map_err(|why| wrong(&why))?;
            continue;
        }
        match &place {
            Place::Nowhere => {}
            Place::File { path, .. } => {
                if let Some(Entry::File(content)) = recorded.entries.get_mut(path) {
                    content.push_str(line);
                }
            }
            Place::Many(folder) if !bare.trim().is_empty() => {
                let (path, entry) = match bare.split_once(" -> ") {
                    Some((name, target)) => (format!("{folder}/{}", name.trim()), Entry::Link(target.trim().into())),
                    None => {
                        let (name, value) = bare.split_once(' ').unwrap_or((bare, ""));
                        (format!("{folder}/{name}"), Entry::File(format!("{value}\n")))
                    }
                };
                recorded.add(path, entry).map_err(|why| wrong(&why))?;
            }
            Place::Many(_) => {}
            Place::Closed if bare.trim().is_empty() => {}
            Place::Closed => return Err(wrong("a folder and a link have no text")),
        }
    }
    recorded.end(&place);
    recorded.check_parents()?;
    Ok(recorded)
}

enum Place {
    Nowhere,
    File { path: String, newline: bool },
    Many(String),
    Closed,
}

type Why<T> = std::result::Result<T, String>;

impl Recorded {
    fn end(&mut self, place: &Place) {
        if let Place::File { path, newline: false } = place
            && let Some(Entry::File(content)) = self.entries.get_mut(path)
            && content.ends_with('\n')
        {
            content.pop();
        }
    }

    fn begin(&mut self, header: &str) -> Why<Place> {
        if let Some((path, target)) = header.split_once(" -> ") {
            self.add(path.trim().to_string(), Entry::Link(target.trim().to_string()))?;
            return Ok(Place::Closed);
        }
        let mut words = header.split_whitespace();
        let path = words.next().ok_or("a section without a path")?;
        let mut attributes = None;
        let mut newline = true;
        for word in words {
            if word == "no-newline" {
                newline = false;
                continue;
            }
            let folder = path.ends_with('/');
            let found =
                attributes.get_or_insert(Attributes { mode: if folder { 0o755 } else { 0o644 }, uid: 0, gid: 0 });
            match word.split_once('=') {
                Some(("mode", mode)) => {
                    found.mode = u32::from_str_radix(mode, 8)
                        .ok()
                        .filter(|mode| *mode <= 0o7777)
                        .ok_or_else(|| format!("`{mode}` is not a mode in octal"))?;
                }
                Some(("owner", owner)) => {
                    let (uid, gid) = owner.split_once(':').ok_or("an owner is UID:GID")?;
                    found.uid = uid.parse().map_err(|_| format!("`{uid}` is not a number"))?;
                    found.gid = gid.parse().map_err(|_| format!("`{gid}` is not a number"))?;
                }
                _ => return Err(format!("`{word}` is none of mode=, owner= and no-newline")),
            }
        }
        let bare = path.trim_end_matches("/*").trim_end_matches('/').to_string();
        if let Some(attributes) = attributes {
            self.attributes.insert(bare.clone(), attributes);
        }
        if path.ends_with("/*") {
            check_path(&bare)?;
            return Ok(Place::Many(bare));
        }
        if path.ends_with('/') {
            self.add(bare, Entry::Folder)?;
            return Ok(Place::Closed);
        }
        self.add(bare.clone(), Entry::File(String::new()))?;
        Ok(Place::File { path: bare, newline })
    }

    fn add(&mut self, path: String, entry: Entry) -> Why<()> {
        check_path(&path)?;
        match self.entries.insert(path.clone(), entry) {
            Some(_) => Err(format!("{path} is there twice")),
            None => Ok(()),
        }
    }

    fn check_parents(&self) -> Result<()> {
        let solid: BTreeSet<&str> =
            self.entries.iter().filter(|(_, entry)| **entry != Entry::Folder).map(|(path, _)| path.as_str()).collect();
        for path in self.entries.keys() {
            let mut parent = path.as_str();
            while let Some((above, _)) = parent.rsplit_once('/') {
                if solid.contains(above) {
                    return Err(Error::failed(format!(
                        "recorded machine: {path} is below {above}, which is no folder"
                    )));
                }
                parent = above;
            }
        }
        Ok(())
    }
}

fn check_path(path: &str) -> Why<()> {
    let good = path.strip_prefix('/').is_some_and(|rest| {
        rest.split('/').all(|part| !part.is_empty() && part != "." && part != ".." && !part.contains('\0'))
    });
    if good { Ok(()) } else { Err(format!("`{path}` is not a plain absolute path")) }
}
