//! The fingerprints of OpenPGP public keys, so that a key is known before any tool has seen it.

use base64::Engine;
use sha1::{Digest, Sha1};

/// Does this text look like an armoured key?
pub fn is_armoured(text: &str) -> bool {
    text.trim_start().starts_with("-----BEGIN PGP PUBLIC KEY BLOCK-----")
}

/// The fingerprints (upper-case hex) of the primary keys in a file, armoured or binary; empty when it holds none.
pub fn fingerprints(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    if !text.contains("-----BEGIN PGP PUBLIC KEY BLOCK-----") {
        return packets(bytes);
    }
    text.split("-----BEGIN PGP PUBLIC KEY BLOCK-----").skip(1).flat_map(|block| packets(&armour(block))).collect()
}

/// The bytes of one armoured block (RFC 9580, section 6.2): headers, an empty line, base64, a checksum after `=`.
fn armour(block: &str) -> Vec<u8> {
    let body: String = block
        .lines()
        .take_while(|line| !line.starts_with("-----END"))
        .map(str::trim)
        .filter(|line| !line.contains(": ") && !line.starts_with('='))
        .collect();
    base64::engine::general_purpose::STANDARD.decode(body).unwrap_or_default()
}

/// Walks through the packets (RFC 9580, section 4.2) and takes those with tag 6, public keys.
fn packets(mut bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    while let Some((tag, body, rest)) = packet(bytes) {
        // Version 4: SHA-1 over 0x99, the length in two bytes and the packet (section 5.5.4.2).
        if tag == 6
            && body.first() == Some(&4)
            && let Ok(length) = u16::try_from(body.len())
        {
            let mut hasher = Sha1::new();
            hasher.update([0x99]);
            hasher.update(length.to_be_bytes());
            hasher.update(body);
            found.push(hasher.finalize().iter().map(|byte| format!("{byte:02X}")).collect());
        }
        bytes = rest;
    }
    found
}

/// Tag, body and what follows. Lengths that only streams have are not in keys.
fn packet(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    if first & 0x80 == 0 {
        return None;
    }
    let number = |bytes: &[u8]| bytes.iter().fold(0usize, |sum, byte| (sum << 8) | usize::from(*byte));
    let (tag, length, rest) = if first & 0x40 == 0 {
        let width = [1, 2, 4].get(usize::from(first & 3)).copied()?;
        let (length, rest) = rest.split_at_checked(width)?;
        ((first >> 2) & 15, number(length), rest)
    } else {
        let (one, rest) = rest.split_first()?;
        match usize::from(*one) {
            one @ 0..=191 => (first & 63, one, rest),
            one @ 192..=223 => {
                let (two, rest) = rest.split_first()?;
                (first & 63, ((one - 192) << 8) + usize::from(*two) + 192, rest)
            }
            255 => {
                let (length, rest) = rest.split_at_checked(4)?;
                (first & 63, number(length), rest)
            }
            _ => return None,
        }
    };
    let (body, rest) = rest.split_at_checked(length)?;
    Some((tag, body, rest))
}

/// A fingerprint as people write it, without blanks and in capitals; `None` when it is none.
pub fn plain(text: &str) -> Option<String> {
    let hex: String = text.chars().filter(|c| !c.is_whitespace() && *c != ':').collect::<String>().to_uppercase();
    let hex = hex.strip_prefix("0X").unwrap_or(&hex).to_string();
    (matches!(hex.len(), 40 | 64) && hex.chars().all(|c| c.is_ascii_hexdigit())).then_some(hex)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A key made for this test with gpg 2.2.40 (`--quick-gen-key … ed25519`).
    pub const KEY: &str = include_str!("testdata/key.asc");
    /// What `gpg --show-keys` says about it.
    pub const FINGERPRINT: &str = include_str!("testdata/key.fingerprint");

    #[test]
    fn as_gpg_says() {
        assert_eq!(fingerprints(KEY.as_bytes()), [FINGERPRINT.trim()]);
        let twice = format!("{KEY}\n{KEY}");
        assert_eq!(fingerprints(twice.as_bytes()).len(), 2);
        let binary = armour(KEY.split("-----BEGIN PGP PUBLIC KEY BLOCK-----").nth(1).unwrap());
        assert_eq!(fingerprints(&binary), [FINGERPRINT.trim()]);
        assert!(fingerprints(b"<html>404</html>").is_empty());
        assert_eq!(plain("96C0 104F 6315 4731 1E0B B1AE 309B C305 BAAD AE52").map(|f| f.len()), Some(40));
        assert_eq!(plain("BAADAE52"), None);
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = fingerprints(&bytes);
            let _ = fingerprints(format!("-----BEGIN PGP PUBLIC KEY BLOCK-----\n{}", String::from_utf8_lossy(&bytes)).as_bytes());
        }
    }
}
