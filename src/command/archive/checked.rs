//! Whether an object is what its name says: opened, and its bytes summed up.

use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::task::spawn_blocking;

use super::fetch::Stored;
use crate::catalog::WalRow;
use crate::format::keyring::Keyring;
use crate::format::names;
use crate::model::{ClusterName, Digest, Fault, Kind};
use crate::pipeline::open_alone;
use crate::store::{ReadStore, StoreError};

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

/// Why a copy in a store could not be proven.
pub(in crate::command) enum Unproven {
    /// The store failed.
    Store(StoreError),
    /// It is not what it should be, or needs another key, or another version of pgkeep.
    Copy(Fault),
}

/// The same with an object in a store, of which this many bytes are there.
pub(in crate::command) async fn stored(
    store: &Arc<dyn ReadStore>,
    cluster: &ClusterName,
    row: &WalRow,
    keyring: &Arc<Keyring>,
) -> anyhow::Result<Result<(), Unproven>> {
    let (keyring, expected) = (Arc::clone(keyring), row.content_sha256);
    let owner = names::wal_owner(&row.file, &row.content_sha256);
    let key = names::wal_file(cluster, &row.file, &row.content_sha256);
    let mut source = Stored::of(Arc::clone(store), key, row.size_bytes, Handle::current());
    let checked = spawn_blocking(move || {
        let mut sink = Hashed(Sha256::new());
        let opened = open_alone(&owner, &keyring, &mut source, &mut sink);
        if let Some(error) = source.failed {
            return Ok(Err(Unproven::Store(error)));
        }
        if let Err(error) = opened {
            let text = format!("{error:#}");
            // What is wrong with the copy has a kind; anything else is wrong here.
            let fault = error.downcast::<Fault>()?;
            return Ok(Err(Unproven::Copy(Fault { message: text, ..fault })));
        }
        let found = Digest::from_bytes(sink.0.finalize().into());
        if found != expected {
            let why = format!("the SHA-256 of its bytes is {found}, its name says {expected}");
            return Ok(Err(Unproven::Copy(Fault::new(Kind::Damaged, why))));
        }
        Ok(Ok(()))
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
