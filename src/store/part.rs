//! A part of an upload with its sums.

use bytes::Bytes;
use md5::{Digest as _, Md5};
use sha2::Sha256;

/// Bytes that are sent in one request, and the sums that the request needs: made once, however often it is repeated,
/// and made while the parts before it are under way.
#[derive(Debug, Clone)]
pub struct Part {
    bytes: Bytes,
    sha256: String,
    md5: String,
}

impl Part {
    /// Sums the bytes up: some milliseconds per MiB, so not on a thread that others wait for.
    pub fn new(bytes: Bytes) -> Self {
        let (sha256, md5) = (hex::encode(Sha256::digest(&bytes)), hex::encode(Md5::digest(&bytes)));
        Self { bytes, sha256, md5 }
    }

    /// The bytes; a clone of them shares them.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// Their SHA-256 in hex, which is signed: bytes that were changed on the way are refused.
    pub fn sha256(&self) -> &str {
        &self.sha256
    }

    /// Their MD5 in hex, which the store answers as their tag.
    pub fn md5(&self) -> &str {
        &self.md5
    }
}
