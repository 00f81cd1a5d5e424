//! What was looked at in a folder lately. Modules ask for the same few paths again and again (for a plan of the whole site
//! the system's name is read 78 times), and every look costs some calls of the kernel.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::host::model::Body;

/// How long a look counts. An operation through the folder ends it at once; this is for what others do to its files
/// meanwhile, which whoever waits for it must come to see.
const COUNTS: Duration = Duration::from_millis(500);

/// Larger files are read each time.
pub(super) const SMALL: u64 = 64 * 1024;

/// As many bytes of small files are kept at most; a whole recorded machine has a fortieth of it.
const MOST: usize = 4 * 1024 * 1024;

/// What stands at a path, as the file system says it.
#[derive(Clone, Debug)]
pub(super) enum There {
    Nothing,
    Folder { mode: u32 },
    Link { target: String },
    File { mode: u32, len: u64 },
    Other { mode: u32 },
}

/// What was looked at.
#[derive(Default)]
pub(super) struct Seen {
    since: Option<Instant>,
    there: HashMap<String, There>,
    bodies: HashMap<String, Body>,
    lists: HashMap<String, Vec<String>>,
    bytes: usize,
}

impl Seen {
    /// What still counts.
    pub(super) fn fresh(&mut self) -> &mut Seen {
        if self.since.is_some_and(|since| since.elapsed() > COUNTS) {
            *self = Seen::default();
        }
        self
    }

    pub(super) fn there(&self, path: &str) -> Option<&There> {
        self.there.get(path)
    }

    pub(super) fn body(&self, path: &str) -> Option<&Body> {
        self.bodies.get(path)
    }

    pub(super) fn list(&self, path: &str) -> Option<&Vec<String>> {
        self.lists.get(path)
    }

    pub(super) fn keep_there(&mut self, path: &str, there: &There) {
        self.begin();
        self.there.insert(path.to_string(), there.clone());
    }

    pub(super) fn keep_list(&mut self, path: &str, names: &[String]) {
        self.begin();
        self.lists.insert(path.to_string(), names.to_vec());
    }

    /// Keeps a body whose file has this many bytes, if it is a small one.
    pub(super) fn keep_body(&mut self, path: &str, body: Body, len: u64) {
        let Ok(len) = usize::try_from(len) else { return };
        if len as u64 <= SMALL && self.bytes + len <= MOST {
            self.begin();
            self.bytes += len;
            self.bodies.insert(path.to_string(), body);
        }
    }

    fn begin(&mut self) {
        self.since.get_or_insert_with(Instant::now);
    }

    /// All that was looked at is old at once.
    #[cfg(test)]
    pub(super) fn grow_old(&mut self) {
        self.since = Instant::now().checked_sub(COUNTS + COUNTS);
    }
}
