//! An object read from its beginning to its end for the sake of its SHA-256, and perhaps into a file.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use sha2::{Digest as _, Sha256};
use tokio::task::spawn_blocking;

use crate::model::{Digest, Stage};
use crate::system::durable;

/// Stored bytes read at once.
const READ_BYTES: u64 = 4 * 1024 * 1024;

struct Reading {
    hasher: Sha256,
    file: Option<File>,
}

/// Reads an object of this size in ranges and returns its SHA-256; with `into` it is written there too, and flushed.
///
/// The inner error is that of `read`; the outer one is of the file.
pub async fn read_hashed<E>(
    size: u64,
    into: Option<&Path>,
    stage: &Stage,
    read: impl AsyncFn(u64, u64) -> Result<Vec<u8>, E>,
) -> anyhow::Result<Result<Digest, E>> {
    let file = into.map(durable::create_private_file).transpose()?;
    let mut reading = Reading { hasher: Sha256::new(), file };
    let mut offset = 0;
    while offset < size {
        let length = READ_BYTES.min(size - offset);
        let bytes = match read(offset, length).await {
            Ok(bytes) => bytes,
            Err(error) => return Ok(Err(error)),
        };
        let written = spawn_blocking(move || -> std::io::Result<Reading> {
            reading.hasher.update(&bytes);
            if let Some(file) = &mut reading.file {
                file.write_all(&bytes)?;
            }
            Ok(reading)
        });
        let name = || into.map_or_else(String::new, |path| format!("write {}", path.display()));
        reading = written.await.context("hash what was read")?.with_context(name)?;
        offset += length;
        stage.add(length);
    }
    if let Some(file) = reading.file {
        let flushed = spawn_blocking(move || file.sync_all()).await.context("flush a file")?;
        flushed.with_context(|| into.map_or_else(String::new, |path| format!("flush {}", path.display())))?;
    }
    Ok(Ok(Digest::from_bytes(reading.hasher.finalize().into())))
}
