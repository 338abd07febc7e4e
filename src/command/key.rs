//! `pgkeep key new`: a Fernet key, printed once and kept nowhere.

use serde::Serialize;

use super::Report;
use crate::format::keyring::Keyring;
use crate::model::Kind;

/// A new key.
#[derive(Debug, Clone, Serialize)]
pub struct KeyReport {
    /// The key, for `BACKUP_ENCRYPTION_KEY`.
    pub key: String,
}

impl Report for KeyReport {
    fn shortfall(&self) -> Option<Kind> {
        None
    }
}

/// Makes a key.
pub fn new() -> KeyReport {
    KeyReport { key: Keyring::generate() }
}
