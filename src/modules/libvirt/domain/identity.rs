//! Names that a machine which is installed anew gives its guests again: UUID and MAC addresses made from the inventory's name
//! of the host and the guest's.

use sha2::{Digest, Sha256};

/// Which name belongs to which part of the hash can't be mistaken.
fn hash(parts: &[&str]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(b"vfio-provision domain\0");
    for part in parts {
        hasher.update(part.as_bytes());
        hasher.update(b"\0");
    }
    hasher.finalize().into()
}

/// A UUID of version 8 (RFC 9562, 5.8 and B.2: name-based, with SHA-256).
pub fn uuid(host: &str, guest: &str) -> String {
    let mut bytes = hash(&["uuid", host, guest]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let part = |from: usize, to: usize| hex.get(from..to).unwrap_or_default();
    format!("{}-{}-{}-{}-{}", part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32))
}

/// The next MAC address below QEMU's 52:54:00 that is not taken.
pub fn mac(host: &str, guest: &str, taken: &[String]) -> String {
    let mut count = 0u32;
    loop {
        let bytes = hash(&["mac", host, guest, &count.to_string()]);
        let mac = format!("52:54:00:{:02x}:{:02x}:{:02x}", bytes[0], bytes[1], bytes[2]);
        // There are 16 million of them, so one is free long before the count runs out.
        if !taken.contains(&mac) || count == u32::MAX {
            return mac;
        }
        count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_and_differ() {
        // These must never change: guests have them.
        assert_eq!(uuid("ws01", "win11"), uuid("ws01", "win11"));
        assert_ne!(uuid("ws01", "win11"), uuid("ws02", "win11"));
        assert_ne!(uuid("ws0", "1win11"), uuid("ws01", "win11"));
        let text = uuid("ws01", "win11");
        assert_eq!((text.len(), text.as_bytes()[14]), (36, b'8'));
        assert!(matches!(text.as_bytes()[19], b'8' | b'9' | b'a' | b'b'), "{text}");
        let first = mac("ws01", "win11", &[]);
        assert!(first.starts_with("52:54:00:"));
        let second = mac("ws01", "win11", std::slice::from_ref(&first));
        assert_ne!(first, second);
        assert_eq!(second, mac("ws01", "win11", &[first]));
    }
}
