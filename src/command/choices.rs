//! What a restore can be made of, for the wizard: backups with their proof, windows of time, databases. Out of the
//! catalog; no store and no server is asked.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::recoverable::{self, RecoverableWindow};
use super::{Context, Environment, Shelf, access};
use crate::catalog::{BackupFilter, BackupRow, CopyRow, CopyState, Proof};
use crate::model::{BackupId, BackupKind, StoreName, Timestamp};
use crate::system::caller::Caller;

/// All that there is to choose from.
#[derive(Debug, Clone)]
pub struct Choices {
    /// The complete backups, newest first.
    pub backups: Vec<Choice>,
    /// Windows of time that can be reached.
    pub windows: Vec<RecoverableWindow>,
    /// The database of the settings.
    pub database: Option<String>,
    /// The data directory of the settings.
    pub data_directory: Option<PathBuf>,
}

/// A backup.
#[derive(Debug, Clone)]
pub struct Choice {
    /// Its identifier.
    pub id: BackupId,
    /// What it holds.
    pub kind: BackupKind,
    /// The database.
    pub database: Option<String>,
    /// The tenant.
    pub tenant: Option<String>,
    /// Whether it was made before a restore, so that this can be undone.
    pub before_restore: bool,
    /// The instant whose data it holds.
    pub consistent_at: Timestamp,
    /// Plain bytes.
    pub original_size_bytes: u64,
    /// The stores that have all of it.
    pub stores: Vec<StoreName>,
    /// How well it is known to be good, and since when.
    pub proof: Option<(Proven, Timestamp)>,
}

/// How well a backup is known to be good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Proven {
    /// It was written, and nobody has looked since.
    Written,
    /// All of it is listed with the right size.
    Listed,
    /// All of it was read and compared.
    Read,
    /// It was restored and checked.
    Restored,
}

/// Refuses somebody who may not restore, before anything is asked; that is written down as every run is.
pub async fn refuse_others(environment: &Environment) -> anyhow::Result<()> {
    // Without a catalog there is nothing yet to write it into, and the restore itself refuses, too.
    let Ok(shelf) = Shelf::open(environment) else { return Ok(()) };
    if access::is_admitted(&shelf.settings, &Caller::find(), "restore") {
        return Ok(());
    }
    Context::open(environment, "restore").await.map(drop)
}

/// Gathers them.
pub fn run(environment: &Environment) -> anyhow::Result<Choices> {
    let shelf = Shelf::open(environment)?;
    let rows = shelf.catalog.backups().list(&BackupFilter::default())?;
    let backups = rows.into_iter().map(|row| choice(&shelf, row)).collect::<anyhow::Result<_>>()?;
    Ok(Choices {
        backups,
        windows: recoverable::run(&shelf)?.windows,
        database: shelf.settings.postgres.database.clone(),
        data_directory: shelf.settings.data_directory.clone(),
    })
}

fn choice(shelf: &Shelf, row: BackupRow) -> anyhow::Result<Choice> {
    let copies = shelf.catalog.copies().of(&row.id)?;
    let mut stores: Vec<StoreName> = copies.iter().map(|copy| copy.store).collect();
    stores.sort();
    stores.dedup();
    stores.retain(|store| !copies.iter().any(|copy| copy.store == *store && copy.state != CopyState::Good));
    Ok(Choice {
        proof: proof(&copies),
        id: row.id,
        kind: row.kind,
        database: row.database,
        tenant: row.tenant_id,
        before_restore: row.before_restore,
        consistent_at: row.consistent_at.unwrap_or(row.started_at),
        original_size_bytes: row.original_size_bytes,
        stores,
    })
}

/// A backup is proven as well as that of its objects which is proven least, each by its best copy.
fn proof(copies: &[CopyRow]) -> Option<(Proven, Timestamp)> {
    let mut best: BTreeMap<&str, Option<(Proven, Timestamp)>> = BTreeMap::new();
    for copy in copies {
        let proof = copy.proven_how.zip(copy.proven_at).filter(|_| copy.state == CopyState::Good);
        let proof = proof.map(|(how, at)| (strength(how), at));
        let known = best.entry(&copy.object).or_default();
        *known = (*known).max(proof);
    }
    best.into_values().min().flatten()
}

fn strength(how: Proof) -> Proven {
    match how {
        Proof::Written => Proven::Written,
        Proof::Listed => Proven::Listed,
        Proof::Read | Proof::Decrypted => Proven::Read,
        Proof::Restored => Proven::Restored,
    }
}
