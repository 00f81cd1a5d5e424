//! Large texts that are part of the program: kept packed (deflate, done by `build.rs`), and unpacked when they are wanted.

use std::sync::OnceLock;

/// A packed text.
pub struct Packed {
    bytes: &'static [u8],
    text: OnceLock<String>,
}

/// The workstation this project started from, for sandboxes.
pub static CENTOS7_SEED: Packed = Packed::new(include_bytes!(concat!(env!("OUT_DIR"), "/centos7-seed.txt.z")));
/// What libvirt's schema knows.
pub static DOMAIN_SCHEMA: Packed = Packed::new(include_bytes!(concat!(env!("OUT_DIR"), "/domain-schema.txt.z")));

impl Packed {
    const fn new(bytes: &'static [u8]) -> Packed {
        Packed { bytes, text: OnceLock::new() }
    }

    /// The text, unpacked once.
    pub fn text(&'static self) -> &'static str {
        self.text.get_or_init(|| {
            // What was packed with the program is whole; a test reads all of it.
            let bytes = miniz_oxide::inflate::decompress_to_vec(self.bytes).unwrap_or_default();
            String::from_utf8(bytes).unwrap_or_default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_packed_comes_out_as_it_was() {
        assert_eq!(CENTOS7_SEED.text(), include_str!("../machines/centos7-seed.txt"));
        assert_eq!(DOMAIN_SCHEMA.text(), include_str!("modules/libvirt/lint/domain-schema.txt"));
        assert!(CENTOS7_SEED.bytes.len() * 3 < CENTOS7_SEED.text().len());
    }
}
