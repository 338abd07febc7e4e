//! The operator's Fernet keys: the first one seals, each may open.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use fernet::Fernet;
use ring::digest::{SHA256, digest};

use crate::model::{Fault, Kind};

/// One Fernet key (<https://github.com/fernet/spec>): 32 bytes as URL-safe base64.
struct Key {
    fernet: Fernet,
    fingerprint: String,
}

/// The keys of the settings, in their order; never empty.
pub struct Keyring {
    keys: Vec<Key>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.fingerprints()).finish()
    }
}

impl Keyring {
    /// Takes the keys as text; a malformed one, or none at all, is refused without being shown.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, Fault> {
        let mut keys = Vec::new();
        for (index, text) in texts.into_iter().enumerate() {
            let malformed = || {
                Fault::new(Kind::Key, format!("encryption key {} is malformed", index + 1))
                    .hint("A key is 32 bytes in URL-safe base64, 44 characters; `pgkeep key new` makes one.")
            };
            let fernet = Fernet::new(text).ok_or_else(malformed)?;
            let bytes = URL_SAFE.decode(text).map_err(|_| malformed())?;
            let mut labelled = b"pgkeep key fingerprint 1\0".to_vec();
            labelled.extend_from_slice(&bytes);
            let fingerprint = hex::encode(&digest(&SHA256, &labelled).as_ref()[..8]);
            keys.push(Key { fernet, fingerprint });
        }
        if keys.is_empty() {
            return Err(Fault::new(Kind::Key, "no encryption key is set"));
        }
        Ok(Self { keys })
    }

    /// A new key as text.
    pub fn generate() -> String {
        Fernet::generate_key()
    }

    /// The fingerprint of the key that seals: 16 hex digits that tell keys apart and nothing about them.
    pub fn fingerprint(&self) -> &str {
        self.keys.first().map_or("", |key| &key.fingerprint)
    }

    /// The fingerprints of all keys.
    pub fn fingerprints(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| key.fingerprint.as_str())
    }

    /// Seals the bytes into a token with the first key. `now` is the token's public date, in seconds since 1970.
    pub fn seal(&self, bytes: &[u8], now: u64) -> Result<String, Fault> {
        let key = self.keys.first().ok_or_else(|| Fault::new(Kind::Key, "no encryption key is set"))?;
        Ok(key.fernet.encrypt_at_time(bytes, now))
    }

    /// The same with the fingerprint of the key in front: `<fingerprint>:<token>`.
    pub fn seal_named(&self, bytes: &[u8], now: u64) -> Result<String, Fault> {
        Ok(format!("{}:{}", self.fingerprint(), self.seal(bytes, now)?))
    }

    /// The fingerprint of the key that sealed what [`Keyring::seal_named`] made.
    pub fn named(sealed: &[u8]) -> Option<&str> {
        std::str::from_utf8(sealed).ok()?.split_once(':').map(|(fingerprint, _)| fingerprint)
    }

    /// Opens what [`Keyring::seal_named`] made; errors as [`Keyring::open`].
    pub fn open_named(&self, sealed: &[u8]) -> Result<Vec<u8>, Fault> {
        let parts = std::str::from_utf8(sealed).ok().and_then(|text| text.split_once(':'));
        let (fingerprint, token) =
            parts.ok_or_else(|| Fault::new(Kind::Damaged, "the sealed key is not one that pgkeep wrote"))?;
        self.open(token, fingerprint)
    }

    /// Opens a token that the key of this fingerprint sealed.
    ///
    /// No key of that fingerprint: [`Kind::Key`]. The key is there and the token does not fit it:
    /// [`Kind::Damaged`]. The token's date is not looked at: a restore must work on a machine with a wrong clock.
    pub fn open(&self, token: &str, fingerprint: &str) -> Result<Vec<u8>, Fault> {
        let Some(key) = self.keys.iter().find(|key| key.fingerprint == fingerprint) else {
            let ours: Vec<&str> = self.fingerprints().collect();
            return Err(Fault::new(
                Kind::Key,
                format!("sealed with the key {fingerprint}, the settings have {}", ours.join(", ")),
            )
            .hint("Put the key that was in use at that time into BACKUP_ENCRYPTION_KEY, behind the present one and a comma."));
        };
        // Without a time to live, and with "now" at the date of the token itself, no token is too old or too new.
        key.fernet.decrypt_at_time(token, None, token_time(token).unwrap_or(0)).map_err(|_| {
            Fault::new(Kind::Damaged, "the sealed part does not fit its seal: bytes were changed")
        })
    }
}

/// The date inside a token: bytes 1 to 8, big endian (Fernet spec, "Token Format").
fn token_time(token: &str) -> Option<u64> {
    let start = URL_SAFE.decode(token.get(..12)?).ok()?;
    let time = u64::from_be_bytes(start.get(1..9)?.try_into().ok()?);
    // The crate adds a minute: a date at the end of all time is none of ours, and must not overflow there.
    Some(time.min(u64::MAX / 2))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_one_key_seals_the_ring_opens_whatever_the_clock_says() {
        let (old, new) = (Keyring::generate(), Keyring::generate());
        let before = Keyring::parse([old.as_str()]).unwrap();
        let far_future = 40_000_000_000;
        let token = before.seal(b"manifest", far_future).unwrap();
        let after = Keyring::parse([new.as_str(), old.as_str()]).unwrap();
        assert_eq!(after.open(&token, before.fingerprint()).unwrap(), b"manifest");
    }

    #[test]
    fn a_wrong_key_and_a_changed_token_are_told_apart() {
        let ring = Keyring::parse([Keyring::generate().as_str()]).unwrap();
        let other = Keyring::parse([Keyring::generate().as_str()]).unwrap();
        let token = ring.seal(b"manifest", 0).unwrap();
        assert_eq!(other.open(&token, ring.fingerprint()).unwrap_err().kind, Kind::Key);
        let mut changed = token.into_bytes();
        changed[40] = if changed[40] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        assert_eq!(ring.open(&changed, ring.fingerprint()).unwrap_err().kind, Kind::Damaged);
    }

    #[test]
    fn a_token_with_any_date_that_was_put_into_it_is_damaged_and_no_panic() {
        let text = Keyring::generate();
        let ring = Keyring::parse([text.as_str()]).unwrap();
        let mut token = URL_SAFE.decode(ring.seal(b"manifest", 1).unwrap()).unwrap();
        for date in [0, u64::MAX / 2, u64::MAX - 60, u64::MAX] {
            token[1..9].copy_from_slice(&date.to_be_bytes());
            let fault = ring.open(&URL_SAFE.encode(&token), ring.fingerprint()).unwrap_err();
            assert_eq!(fault.kind, Kind::Damaged, "{date}");
        }
    }

    #[test]
    fn malformed_keys_are_refused_without_being_shown() {
        for text in ["", "short", "not base64 at all, not base64 at all, really", &"A".repeat(45)] {
            let fault = Keyring::parse([text]).unwrap_err();
            assert_eq!(fault.kind, Kind::Key);
            assert!(text.is_empty() || !fault.message.contains(text));
        }
    }
}
