//! Whether an object is what its name says: opened, and its bytes summed up.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;

use crate::format::keyring::Keyring;
use crate::model::{Digest, Fault, Kind};
use crate::pipeline::open_alone;

/// Opens an object that lies on this machine, and compares the digest of the plain bytes. One that is not as it should be:
/// [`Kind::Damaged`].
pub(super) async fn file(
    path: PathBuf,
    owner: String,
    sha256: Digest,
    keyring: &Arc<Keyring>,
) -> anyhow::Result<()> {
    let keyring = Arc::clone(keyring);
    let checked = spawn_blocking(move || {
        let source = BufReader::new(File::open(&path)?);
        let mut sink = Hashed(Sha256::new());
        open_alone(&owner, &keyring, source, &mut sink)?;
        let found = Digest::from_bytes(sink.0.finalize().into());
        if found != sha256 {
            return Fault::new(Kind::Damaged, format!("the SHA-256 of its bytes is {found}")).err();
        }
        Ok(())
    });
    checked.await.context("check a WAL file")?
}

/// Only sums up.
struct Hashed(Sha256);

impl io::Write for Hashed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
