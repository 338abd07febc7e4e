//! What `wal-push` and `wal-fetch` share: the archive as the settings and the state directory describe it.
//!
//! The archiver waits for nobody, so nothing here takes a lock that others hold for long, and nothing depends on the
//! catalog: what is lost of the small files in `archive/` is learned again.

pub(super) mod acknowledged;
pub(super) mod archiver;
pub(super) mod away;
pub(super) mod checked;
pub(super) mod fetch;
pub(super) mod inventory;
pub(super) mod look;
pub(super) mod owed;
pub(super) mod prefetch;
pub(super) mod reconcile;
pub(super) mod registration;
pub(super) mod settings;
mod staged;
pub(super) mod unheard;
pub(super) mod unrecorded;
pub(super) mod wait;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::config::Settings;
use crate::system::durable;

/// Where the archive's own small files lie.
pub(super) fn directory(settings: &Settings) -> PathBuf {
    settings.state_dir.join("archive")
}

/// Reads a small file of JSON; one that is not there, or is torn, is as good as none.
fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

/// Writes a small file of JSON, whole or not at all; after a crash of the machine it may be torn, which is as good as
/// none.
fn write_lightly<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    let beside = path.with_extension(format!("{}", std::process::id()));
    let written = std::fs::write(&beside, serde_json::to_vec(value)?)
        .and_then(|()| durable::make_private(&beside).map_err(std::io::Error::other))
        .and_then(|()| std::fs::rename(&beside, path));
    if written.is_err() {
        let _ = durable::remove_file_if_there(&beside);
    }
    Ok(written?)
}

/// Writes a small file of JSON, whole or not at all, and survives a crash.
fn write<T: Serialize>(path: &Path, value: &T) -> anyhow::Result<()> {
    if let Some(directory) = path.parent() {
        durable::create_private_dir(directory)?;
    }
    durable::write_file(path, &serde_json::to_vec_pretty(value)?)
}
