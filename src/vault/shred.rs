//! A place for plain text that nobody else can read and that leaves nothing behind.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// A file in a private folder. Both go away with the value, and so does all that an editor has put beside it: overwritten
/// first, though what a disk does with that is its own affair. In memory (`/dev/shm`) where there is such a place.
pub struct Private {
    folder: PathBuf,
    file: PathBuf,
}

impl Private {
    /// A new one of that name with that content.
    ///
    /// # Errors
    /// When it can't be made.
    pub fn new(name: &str, content: &[u8]) -> io::Result<Private> {
        let mut wrong = io::Error::other("there is no folder for temporary files");
        for place in [PathBuf::from("/dev/shm"), std::env::temp_dir()] {
            let mut random = [0; 8];
            getrandom::fill(&mut random).map_err(|e| io::Error::other(e.to_string()))?;
            let folder = place.join(format!(".vfio-provision-{:016x}", u64::from_ne_bytes(random)));
            match DirBuilder::new().mode(0o700).create(&folder) {
                Err(error) => wrong = error,
                Ok(()) => {
                    // From here on it is cleared away, whatever happens.
                    let private = Private { file: folder.join(name), folder };
                    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&private.file)?;
                    file.write_all(content)?;
                    return Ok(private);
                }
            }
        }
        Err(wrong)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.file
    }

    /// What it holds now.
    ///
    /// # Errors
    /// When it can't be read.
    pub fn read(&self) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        fs::File::open(&self.file)?.read_to_end(&mut content)?;
        Ok(content)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        shred_folder(&self.folder, 0);
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Best effort: what can't be overwritten is still removed.
fn shred_folder(folder: &Path, depth: usize) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && depth < 8 => shred_folder(&entry.path(), depth + 1),
            // Never through a link: that would be somebody else's file.
            Ok(kind) if kind.is_file() => {
                let _ = shred(&entry.path());
            }
            _ => {}
        }
    }
}

fn shred(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let about = file.metadata()?;
    // A second name is a file that lives elsewhere.
    if about.nlink() > 1 {
        return Ok(());
    }
    let mut left = about.len();
    let zeros = [0; 4096];
    file.seek(SeekFrom::Start(0))?;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(zeros.len()).min(zeros.len());
        file.write_all(zeros.get(..count).unwrap_or_default())?;
        left -= count as u64;
    }
    file.sync_all()
}
