//! The WAL of a server that is replaced, where not all of it was archived: its last seconds lie nowhere else.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::cluster::CONTROL;
use crate::model::{Timestamp, WalKind, WalName};
use crate::plan::data_directory::KEPT_WAL;
use crate::system::durable;

/// `DBState` in the control file (`src/include/catalog/pg_control.h`): behind the system identifier and two versions.
const STATE_AT: u64 = 16;
/// `DB_SHUTDOWNED`: a primary has offered all that it wrote to its `archive_command`.
const SHUT_DOWN: u32 = 1;
/// `DB_SHUTDOWNED_IN_RECOVERY`: a standby. What it has streamed may be the last WAL of a primary that has burnt.
const SHUT_DOWN_IN_RECOVERY: u32 = 2;

/// WAL that is put aside instead of being removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptWal {
    /// Where it goes.
    pub directory: PathBuf,
    /// Why.
    pub why: String,
}

/// Looks whether the data directory has WAL that is in no archive, or whether an earlier restore has put it aside.
pub fn find(root: &Path, now: Timestamp) -> anyhow::Result<Option<KeptWal>> {
    if let Some(why) = not_archived(root)? {
        let directory = root.join(format!("{KEPT_WAL}{}", now.format("%Y%m%dT%H%M%SZ")));
        return Ok(Some(KeptWal { directory, why }));
    }
    let earlier = names(root)?.into_iter().filter(|name| name.starts_with(KEPT_WAL)).max();
    Ok(earlier.map(|name| KeptWal {
        directory: root.join(name),
        why: "an earlier restore found WAL that had not been archived".to_owned(),
    }))
}

fn not_archived(root: &Path) -> anyhow::Result<Option<String>> {
    let state = state_of(root);
    let wal = root.join("pg_wal");
    // Without a control file it was put aside before; what is in pg_wal is that of an unfinished restore.
    if state.is_none() || !names(&wal)?.iter().any(|name| is_segment(name)) {
        return Ok(None);
    }
    let waiting = names(&wal.join("archive_status"))?;
    let waiting = waiting.iter().filter_map(|name| name.strip_suffix(".ready")).count();
    if waiting > 0 {
        return Ok(Some(format!("{waiting} WAL files had not been archived")));
    }
    Ok(match state {
        Some(SHUT_DOWN) => None,
        Some(SHUT_DOWN_IN_RECOVERY) => Some("a standby does not archive the WAL that it receives".to_owned()),
        _ => Some("the server had not been shut down, and its last WAL was not archived".to_owned()),
    })
}

/// Whether its server was shut down in good order.
pub(super) fn was_shut_down(root: &Path) -> bool {
    matches!(state_of(root), Some(SHUT_DOWN | SHUT_DOWN_IN_RECOVERY))
}

fn state_of(root: &Path) -> Option<u32> {
    let mut state = [0; 4];
    File::open(root.join(CONTROL)).and_then(|file| file.read_exact_at(&mut state, STATE_AT)).ok()?;
    Some(u32::from_ne_bytes(state))
}

impl KeptWal {
    /// Puts it aside. A link to another disk is moved, not what is there.
    pub fn put_aside(&self, root: &Path) -> anyhow::Result<()> {
        if self.directory.exists() {
            return Ok(());
        }
        let wal = root.join("pg_wal");
        match fs::rename(&wal, &self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            moved => {
                moved.with_context(|| format!("keep {} as {}", wal.display(), self.directory.display()))?;
                durable::sync_dir(root)
            }
        }
    }
}

fn is_segment(name: &str) -> bool {
    name.parse::<WalName>().is_ok_and(|name| name.kind() == WalKind::Segment)
}

fn names(directory: &Path) -> anyhow::Result<Vec<String>> {
    let describe = || format!("look into {}", directory.display());
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(describe)?,
    };
    entries
        .map(|entry| Ok(entry.with_context(describe)?.file_name().to_string_lossy().into_owned()))
        .collect()
}
