//! `pgkeep list`: the backups that the catalog knows.

use serde::Serialize;

use super::{Report, Shelf};
use crate::catalog::{BackupFilter, BackupRow, CopyState, Pin};
use crate::model::{BackupId, BackupKind, Kind, ratio, timestamp_text};

/// Which backups to list.
#[derive(Debug, Clone, Default)]
pub struct ListRequest {
    /// Only those of this database.
    pub database: Option<String>,
}

/// One backup in the list.
#[derive(Debug, Clone, Serialize)]
pub struct ListedBackup {
    /// Its identifier.
    pub id: BackupId,
    /// What it holds.
    pub kind: BackupKind,
    /// The database.
    pub database: Option<String>,
    /// The tenant, where it is of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// When it was begun.
    pub started_at: String,
    /// Duration in seconds.
    pub seconds: f64,
    /// Plain bytes.
    pub original_size_bytes: u64,
    /// Stored bytes of one copy.
    pub size_bytes: u64,
    /// How many times smaller.
    pub ratio: f64,
    /// Plain bytes per second.
    pub bytes_per_second: f64,
    /// Rows of all tables.
    pub rows: Option<u64>,
    /// The stores in which all its copies are good.
    pub stores: Vec<String>,
    /// Copies that are missing, damaged or owed.
    pub copies_not_good: u64,
    /// That somebody wants it kept whatever its age.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<Pin>,
}

/// The list, newest first.
#[derive(Debug, Clone, Serialize)]
pub struct ListReport {
    /// The backups.
    pub backups: Vec<ListedBackup>,
}

impl Report for ListReport {
    fn shortfall(&self) -> Option<Kind> {
        None
    }
}

/// Lists.
pub fn run(shelf: &Shelf, request: &ListRequest) -> anyhow::Result<ListReport> {
    let filter = BackupFilter { database: request.database.as_deref(), ..BackupFilter::default() };
    let rows = shelf.catalog.backups().list(&filter)?;
    let backups = rows.iter().map(|row| listed(shelf, row)).collect::<anyhow::Result<_>>()?;
    Ok(ListReport { backups })
}

/// One backup as the list shows it.
pub(super) fn listed(shelf: &Shelf, row: &BackupRow) -> anyhow::Result<ListedBackup> {
    let copies = shelf.catalog.copies().of(&row.id)?;
    let mut stores: Vec<String> = copies.iter().map(|copy| copy.store.to_string()).collect();
    stores.sort();
    stores.dedup();
    let bad =
        |store: &str| copies.iter().any(|copy| copy.store.as_str() == store && copy.state != CopyState::Good);
    stores.retain(|store| !bad(store));
    Ok(ListedBackup {
        id: row.id.clone(),
        kind: row.kind,
        database: row.database.clone(),
        tenant: row.tenant_id.clone(),
        started_at: timestamp_text(row.started_at),
        seconds: row.seconds,
        original_size_bytes: row.original_size_bytes,
        size_bytes: row.size_bytes,
        ratio: ratio(row.original_size_bytes, row.size_bytes),
        bytes_per_second: if row.seconds > 0.0 { row.original_size_bytes as f64 / row.seconds } else { 0.0 },
        rows: row.rows,
        stores,
        kept: row.pin.clone(),
        copies_not_good: copies.iter().filter(|copy| copy.state != CopyState::Good).count() as u64,
    })
}
