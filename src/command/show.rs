//! `pgkeep show BACKUP`: everything about one backup.

use serde::Serialize;

use super::backup::WalRange;
use super::context::keyring;
use super::list::{ListedBackup, listed};
use super::recoverable::{self, RecoverableWindow};
use super::restore_config::{self, ConfigFile};
use super::stores::replicas;
use super::{Report, Shelf, manifests};
use crate::catalog::{Proof, WalPlace};
use crate::format::cluster::{DamagedPages, Tablespace};
use crate::format::manifest::Manifest;
use crate::model::{BackupKind, Kind, Lsn, WalName, timestamp_text};

/// One copy of one object.
#[derive(Debug, Clone, Serialize)]
pub struct ShownCopy {
    /// The object within the backup.
    pub object: String,
    /// The store.
    pub store: String,
    /// Stored bytes.
    pub size_bytes: u64,
    /// SHA-256 of the stored bytes.
    pub sha256: String,
    /// `good`, `owed`, `missing`, `damaged`, `deleting`.
    pub state: String,
    /// When its content was last proven.
    pub proven_at: Option<String>,
    /// How: `written`, `listed`, `read`, `decrypted`, `restored`.
    pub proven_how: Option<String>,
    /// What is wrong with it.
    pub note: Option<String>,
}

/// One table of the backup.
#[derive(Debug, Clone, Serialize)]
pub struct ShownTable {
    /// The schema.
    pub schema: String,
    /// The table.
    pub name: String,
    /// Rows.
    pub rows: u64,
    /// Plain bytes.
    pub size_bytes: u64,
}

/// What is in a cluster's backup.
#[derive(Debug, Clone, Serialize)]
pub struct ShownPhysical {
    /// Files.
    pub files: u64,
    /// Whether it was read from a standby.
    pub from_standby: bool,
    /// Whether pages have checksums, which were then verified.
    pub data_checksums: bool,
    /// The tablespaces outside of the data directory.
    pub tablespaces: Vec<ShownTablespace>,
    /// Pages whose checksum was wrong.
    pub damaged_pages: Vec<DamagedPages>,
    /// What lay in the data directory and was left out, and is none of PostgreSQL's own.
    pub left_out: Vec<String>,
}

/// A tablespace.
#[derive(Debug, Clone, Serialize)]
pub struct ShownTablespace {
    /// Its number.
    pub oid: u32,
    /// Where it was.
    pub path: String,
}

/// One backup in full.
#[derive(Debug, Clone, Serialize)]
pub struct ShowReport {
    /// What the list shows.
    #[serde(flatten)]
    pub backup: ListedBackup,
    /// When it was done.
    pub finished_at: String,
    /// The codec.
    pub codec: String,
    /// The server's version.
    pub postgres_version: Option<String>,
    /// The server's system identifier.
    pub system_identifier: Option<String>,
    /// The pgkeep that made it.
    pub pgkeep_version: String,
    /// The run that made it.
    pub run: Option<String>,
    /// Where it lies.
    pub places: Vec<String>,
    /// Its objects.
    pub copies: Vec<ShownCopy>,
    /// The WAL that a backup of a cluster needs.
    pub wal: Option<WalRange>,
    /// How far the archive carries a backup of a cluster; nothing where its WAL is not all there, as far as the catalog
    /// knows.
    pub recoverable: Option<RecoverableWindow>,
    /// The tables of a database, largest first; nothing without a key.
    pub tables: Option<Vec<ShownTable>>,
    /// What is in a cluster's backup; nothing without a key.
    pub physical: Option<ShownPhysical>,
    /// The files of a configuration; nothing without a key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Vec<ConfigFile>>,
}

impl Report for ShowReport {
    fn shortfall(&self) -> Option<Kind> {
        None
    }
}

/// Shows. The tables stand in the sealed manifest: without a key they are left out.
pub async fn run(shelf: &Shelf, backup: &str) -> anyhow::Result<ShowReport> {
    let row = manifests::find(&shelf.catalog, backup, None, None)?;
    let copies = shelf.catalog.copies().of(&row.id)?.into_iter().map(|copy| ShownCopy {
        object: copy.object,
        store: copy.store.to_string(),
        size_bytes: copy.size_bytes,
        sha256: copy.sha256.to_string(),
        state: copy.state.to_string(),
        // Being listed is worth as much as it is recent.
        proven_at: match copy.proven_how {
            Some(Proof::Listed) => copy.seen_at,
            _ => copy.proven_at,
        }
        .map(timestamp_text),
        proven_how: copy.proven_how.map(|how| how.to_string()),
        note: copy.note,
    });
    let manifest = if shelf.settings.keys.is_empty() && shelf.settings.key_fault.is_none() {
        None
    } else {
        let stores = replicas(&shelf.settings)?.reading();
        Some(manifests::fetch(&shelf.settings, &stores, &row.id, &keyring(&shelf.settings)?).await?.manifest)
    };
    let places = [&row.local_path, &row.r2_path, &row.b2_path];
    Ok(ShowReport {
        backup: listed(shelf, &row)?,
        finished_at: timestamp_text(row.finished_at),
        codec: row.codec.to_string(),
        postgres_version: row.postgres_version.clone(),
        system_identifier: row.system_identifier.clone(),
        pgkeep_version: row.pgkeep_version.clone(),
        run: row.run_id.as_ref().map(ToString::to_string),
        places: places.into_iter().flatten().cloned().collect(),
        copies: copies.collect(),
        recoverable: row.wal.map(|_| recoverable::window_of(shelf, &row.id)).transpose()?.flatten(),
        wal: row.wal.map(range),
        tables: manifest.as_ref().filter(|manifest| manifest.database_name().is_some()).map(tables),
        physical: manifest.as_ref().and_then(physical),
        config: manifest
            .as_ref()
            .filter(|manifest| manifest.kind == BackupKind::Config)
            .map(restore_config::files),
    })
}

fn range(place: WalPlace) -> WalRange {
    let segment = |position| WalName::segment(place.timeline, position, place.wal_segment_size).to_string();
    WalRange {
        timeline: place.timeline,
        start_lsn: place.start_lsn,
        stop_lsn: place.stop_lsn,
        first_segment: segment(place.start_lsn),
        // A position is the byte behind what it ends.
        last_segment: segment(Lsn(place.stop_lsn.0.saturating_sub(1))),
    }
}

fn tables(manifest: &Manifest) -> Vec<ShownTable> {
    let entries = manifest.entries.iter().filter_map(|entry| Some((entry.table.as_ref()?, entry.size)));
    let mut tables: Vec<ShownTable> = entries
        .map(|(table, size_bytes)| ShownTable {
            schema: table.schema.clone(),
            name: table.name.clone(),
            rows: table.rows,
            size_bytes,
        })
        .collect();
    tables.sort_by_key(|table| std::cmp::Reverse(table.size_bytes));
    tables
}

fn physical(manifest: &Manifest) -> Option<ShownPhysical> {
    let cluster = manifest.physical.as_ref()?;
    let tablespace = |one: &Tablespace| ShownTablespace { oid: one.oid, path: one.path.clone() };
    Some(ShownPhysical {
        files: manifest.entries.len() as u64,
        from_standby: cluster.from_standby,
        data_checksums: cluster.data_checksums,
        tablespaces: cluster.tablespaces.iter().map(tablespace).collect(),
        damaged_pages: cluster.damaged_pages.clone(),
        left_out: cluster.left_out.clone(),
    })
}
