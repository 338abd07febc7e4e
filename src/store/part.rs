//! A part of an upload with its sums, and the buffers that parts are read into.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

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
        let [sha256, md5] = sums(&bytes);
        Self { bytes, sha256, md5 }
    }

    /// A part of a file that goes to several stores: whoever comes first sums it up, the others wait for that. Bytes that
    /// have changed between the two do not fit their sums, and the store refuses them.
    pub(super) fn of_file(bytes: Bytes, offset: u64, known: &FileSums) -> Self {
        let key = (offset, bytes.len() as u64);
        let entry =
            Arc::clone(known.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default());
        let [sha256, md5] = entry.get_or_init(|| sums(&bytes)).clone();
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

/// SHA-256 and MD5 in hex.
fn sums(bytes: &[u8]) -> [String; 2] {
    [hex::encode(Sha256::digest(bytes)), hex::encode(Md5::digest(bytes))]
}

/// The sums of a file's parts, by offset and length, for all stores that it is sent to. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct FileSums(Arc<Mutex<BTreeMap<(u64, u64), Made>>>);

/// The sums of a part: made, or being made by somebody.
type Made = Arc<OnceLock<[String; 2]>>;

/// Buffers that go round, as many as were ever in use at once. Made anew for each part, blocks of this size leave the
/// allocator with holes: a backup to two clouds had 40 MB more then. Clones share them.
#[derive(Debug, Clone, Default)]
pub struct PartBuffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl PartBuffers {
    /// A buffer of this length with anything in it.
    pub(super) fn take(&self, length: usize) -> Vec<u8> {
        let mut buffer = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        buffer.resize(length, 0);
        buffer
    }

    /// The filled buffer as bytes; it comes back when nobody holds them any more.
    pub(super) fn lend(&self, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { buffer, home: self.clone() })
    }
}

struct Lent {
    buffer: Vec<u8>,
    home: PartBuffers,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.home.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_the_last_who_holds_its_bytes_is_gone() {
        let buffers = PartBuffers::default();
        let mut buffer = buffers.take(5);
        buffer.copy_from_slice(b"bytes");
        let place = buffer.as_ptr();
        let part = Part::new(buffers.lend(buffer));
        let slice = part.bytes().slice(1..3);
        drop(part);
        let other = buffers.take(5);
        assert_ne!(other.as_ptr(), place, "still held");
        assert_eq!(slice, b"yt"[..]);
        drop(slice);
        let shorter = buffers.take(2);
        assert_eq!((shorter.as_ptr(), shorter.len()), (place, 2));
    }
}
