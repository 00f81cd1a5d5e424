//! The inside: AES-256 in counter mode, and an HMAC over what came out of it.
//!
//! 10,000 rounds of PBKDF2 with HMAC-SHA256 make 80 bytes of a password and a salt: 32 for AES, 32 for the HMAC, 16 for the
//! counter's start. What is encrypted is padded to whole blocks, each padding byte saying how many there are (PKCS #7).

use aes::Aes256;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit, StreamCipher};
use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::envelope::Envelope;

const ROUNDS: u32 = 10_000;
const BLOCK: usize = 16;

pub(super) struct Keys {
    cipher: [u8; 32],
    hmac: [u8; 32],
    counter: [u8; 16],
}

impl Keys {
    pub fn derive(password: &[u8], salt: &[u8]) -> Keys {
        let mut bytes = [0; 80];
        pbkdf2::pbkdf2_hmac::<Sha256>(password, salt, ROUNDS, &mut bytes);
        let mut keys = Keys { cipher: [0; 32], hmac: [0; 32], counter: [0; 16] };
        let parts = keys.cipher.iter_mut().chain(&mut keys.hmac).chain(&mut keys.counter);
        parts.zip(bytes).for_each(|(to, from)| *to = from);
        keys
    }

    fn mac(&self, bytes: &[u8]) -> Option<Hmac<Sha256>> {
        // HMAC takes keys of any length, so there always is one.
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(&self.hmac).ok()?;
        mac.update(bytes);
        Some(mac)
    }

    /// Is this the password, and is the content whole? Compared in a time that tells nothing.
    pub fn fits(&self, envelope: &Envelope) -> bool {
        self.mac(&envelope.bytes).is_some_and(|mac| mac.verify_slice(&envelope.hmac).is_ok())
    }

    fn apply(&self, bytes: &mut [u8]) -> Result<(), String> {
        let mut cipher = Ctr128BE::<Aes256>::new(&self.cipher.into(), &self.counter.into());
        cipher.try_apply_keystream(bytes).map_err(|_| "it is too long".to_string())
    }

    /// # Errors
    /// When the padding is wrong: the HMAC fits, so whoever encrypted it did that.
    pub fn decrypt(&self, envelope: &Envelope) -> Result<Vec<u8>, String> {
        let mut bytes = envelope.bytes.clone();
        self.apply(&mut bytes)?;
        let padding = bytes.last().copied().map_or(0, usize::from);
        let rest = bytes.len().checked_sub(padding).filter(|_| (1..=BLOCK).contains(&padding));
        match rest.and_then(|rest| bytes.split_at_checked(rest)) {
            Some((plain, tail)) if tail.iter().all(|byte| usize::from(*byte) == padding) => Ok(plain.to_vec()),
            _ => Err("its padding is wrong".into()),
        }
    }

    pub fn encrypt(&self, plain: &[u8], salt: &[u8], id: Option<String>) -> Envelope {
        let padding = BLOCK - plain.len() % BLOCK;
        let mut bytes = plain.to_vec();
        bytes.extend(std::iter::repeat_n(u8::try_from(padding).unwrap_or_default(), padding));
        // The counter has 128 bits: no text is that long.
        let _ = self.apply(&mut bytes);
        let hmac = self.mac(&bytes).map(|mac| mac.finalize().into_bytes().to_vec()).unwrap_or_default();
        Envelope { id, salt: salt.to_vec(), hmac, bytes }
    }
}
