//! Volumes that are summed up while they are decrypted: each byte is read once.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;

use crate::command::volumes::Volumes;
use crate::model::{Digest, Fault, Kind, StoreName};
use crate::pipeline::{Fetched, RangeReader, Refusal};

/// A volume may end with an empty frame that nobody asks for: it is read with what stands before it.
const TAIL: u64 = 4096;

/// The volumes of a backup in one store, with the SHA-256 of what was read of each from its beginning on.
pub(super) struct Hashing {
    volumes: Volumes,
    /// How large each of them is.
    sizes: HashMap<String, u64>,
    sums: Mutex<HashMap<String, Sum>>,
}

#[derive(Default)]
struct Sum {
    hasher: Sha256,
    /// How many bytes it has seen.
    until: u64,
}

impl Hashing {
    pub(super) fn around(volumes: Volumes, sizes: HashMap<String, u64>) -> Self {
        Self { volumes, sizes, sums: Mutex::default() }
    }

    /// Sums up an object that was read otherwise, as a whole.
    pub(super) fn add(&self, name: &str, bytes: &[u8]) {
        let sum = Sum { hasher: Sha256::new_with_prefix(bytes), until: bytes.len() as u64 };
        self.put(name, sum);
    }

    /// The digest of what was read of each object, and how much that was.
    pub(super) fn digests(&self) -> HashMap<String, (Digest, u64)> {
        let mut sums = self.sums.lock().unwrap_or_else(PoisonError::into_inner);
        let digest = |(name, sum): (String, Sum)| {
            (name, (Digest::from_bytes(sum.hasher.finalize().into()), sum.until))
        };
        sums.drain().map(digest).collect()
    }

    fn take(&self, name: &str) -> Option<Sum> {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner).remove(name)
    }

    fn put(&self, name: &str, sum: Sum) {
        self.sums.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), sum);
    }
}

#[async_trait]
impl RangeReader for Hashing {
    async fn read(
        &self,
        volume: &str,
        offset: u64,
        length: u64,
        not: &[StoreName],
    ) -> Result<Fetched, Vec<Refusal>> {
        let end = offset + length;
        let until =
            self.sizes.get(volume).copied().filter(|size| (end..end + TAIL).contains(size)).unwrap_or(end);
        let fetched = self.volumes.read(volume, offset, until - offset, not).await?;
        let Fetched { mut bytes, from } = fetched;
        // The first read is of the header and more; those of frames begin within that. What lies apart is read again later.
        let mut sum = self.take(volume).unwrap_or_default();
        if offset > sum.until || until <= sum.until {
            self.put(volume, sum);
            bytes.truncate(length as usize);
            return Ok(Fetched { bytes, from });
        }
        let summed = spawn_blocking(move || {
            sum.hasher.update(&bytes[(sum.until - offset) as usize..]);
            sum.until = until;
            bytes.truncate(length as usize);
            (sum, bytes)
        });
        match summed.await {
            Ok((sum, bytes)) => {
                self.put(volume, sum);
                Ok(Fetched { bytes, from })
            }
            Err(error) => Err(vec![(from, Fault::new(Kind::Bug, format!("sum up {volume}: {error}")))]),
        }
    }

    fn reject(&self, volume: &str, from: StoreName, why: &Fault) {
        self.volumes.reject(volume, from, why);
    }
}
