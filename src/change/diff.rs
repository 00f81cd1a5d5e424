//! The diff of one action, as people, JSON and the saved plan see it.

use serde::{Deserialize, Serialize};

use super::unified::unified;

/// The kind of a diff that says that the next boot is a trial: who restarts the machine must come back and confirm it.
pub const TRIAL_BOOT: &str = "trial_boot";

/// What one action changes about one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// What sort of thing: `file`, `folder`, `link`, `attributes`, `package`, `unit`, `kernel_module`, `sysctl`, `user`,
    /// `group`, `driver`, `boot_entry`, `initramfs`, `domain`, `network`, `pool`, `volume`, `download`, `command`, …
    pub kind: String,
    /// Which one: a path, or a name such as `win8: disk vda: cache`.
    pub path: String,
    /// As it is; `None` when there is nothing yet.
    pub before: Option<String>,
    /// As it will be; `None` when it goes away.
    pub after: Option<String>,
}

/// Whether something comes, changes or goes: what the last line of a run counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// It was not there.
    Added,
    /// It was there and becomes different.
    Changed,
    /// It goes away.
    Removed,
}

impl Diff {
    /// Something that becomes different.
    pub fn changed(kind: &str, path: impl Into<String>, before: impl Into<String>, after: impl Into<String>) -> Diff {
        Diff { kind: kind.into(), path: path.into(), before: Some(before.into()), after: Some(after.into()) }
    }
    /// Something new.
    pub fn added(kind: &str, path: impl Into<String>, after: impl Into<String>) -> Diff {
        Diff { kind: kind.into(), path: path.into(), before: None, after: Some(after.into()) }
    }
    /// Something that goes away.
    pub fn removed(kind: &str, path: impl Into<String>, before: impl Into<String>) -> Diff {
        Diff { kind: kind.into(), path: path.into(), before: Some(before.into()), after: None }
    }
    /// A file's content; binary content is described by length and hash.
    pub fn file(path: &str, before: Option<&[u8]>, after: Option<&[u8]>) -> Diff {
        Diff { kind: "file".into(), path: path.into(), before: before.map(text_of), after: after.map(text_of) }
    }
    /// Whether it comes, changes or goes.
    pub fn sort(&self) -> Sort {
        match (&self.before, &self.after) {
            (None, _) => Sort::Added,
            (Some(_), None) => Sort::Removed,
            (Some(_), Some(_)) => Sort::Changed,
        }
    }
    /// Is it better shown line by line than as `before → after`?
    pub fn is_text(&self) -> bool {
        let many = |text: &Option<String>| text.as_ref().is_some_and(|text| text.contains('\n'));
        self.kind == "file" || many(&self.before) || many(&self.after)
    }
    /// The unified diff with three lines of context, or for one-line things `before → after`.
    pub fn unified(&self) -> String {
        let before = self.before.as_deref().unwrap_or("");
        let after = self.after.as_deref().unwrap_or("");
        if !self.is_text() {
            return match self.sort() {
                Sort::Added => format!("+ {after}\n"),
                Sort::Removed => format!("- {before}\n"),
                Sort::Changed => format!("{before} → {after}\n"),
            };
        }
        let name = |side: &Option<String>| if side.is_some() { self.path.as_str() } else { "/dev/null" };
        unified(before, after, name(&self.before), name(&self.after))
    }
}

fn text_of(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => text.to_string(),
        _ => {
            use sha2::Digest;
            format!("binary, {} bytes, sha256 {:x}", bytes.len(), sha2::Sha256::digest(bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_unified_and_one_line_things_are_an_arrow() {
        let file = Diff::file("/etc/x", Some(b"a\nb\n"), Some(b"a\nc\n"));
        assert_eq!(file.unified(), "--- /etc/x\n+++ /etc/x\n@@ -1,2 +1,2 @@\n a\n-b\n+c\n");
        assert_eq!(Diff::changed("unit", "libvirtd.service", "stopped", "started").unified(), "stopped → started\n");
        assert_eq!(
            Diff::file("/etc/x", None, Some(b"a\n")).unified(),
            "--- /dev/null\n+++ /etc/x\n@@ -0,0 +1 @@\n+a\n"
        );
    }

    #[test]
    fn binary_content_is_described_not_shown() {
        let diff = Diff::file("/x", None, Some(b"\0\xff"));
        assert!(diff.after.is_some_and(|text| text.starts_with("binary, 2 bytes, sha256 ")));
    }
}
