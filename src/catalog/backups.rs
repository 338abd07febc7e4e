//! The table `backups`: every backup that is complete, and what became of those that were deleted.

use rusqlite::{Connection, Row, Transaction, named_params};
use serde::Serialize;

use super::values::{count, count_or_null, integer, parsed, parsed_or_null, time, time_or_null};
use super::words::words;
use super::{Catalog, CopyRow, Pin, copies, failure};
use crate::model::{BackupId, BackupKind, Codec, Digest, Lsn, RunId, StoreName, Timestamp, timestamp_text};

words! {
    /// What a backup's row says of it.
    pub enum BackupStatus {
        /// Its manifest is in at least one store.
        Complete = "complete",
        /// It is being deleted: the manifest goes first, so it can no longer be restored.
        Deleting = "deleting",
        /// It is gone from every store.
        Deleted = "deleted",
    }
}

/// A backup as the catalog has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BackupRow {
    /// Its identifier.
    pub id: BackupId,
    /// What it holds.
    #[serde(rename = "type")]
    pub kind: BackupKind,
    /// The database, where it is of one.
    pub database: Option<String>,
    /// The tenant, where it is of one.
    pub tenant_id: Option<String>,
    /// What all its objects' keys begin with.
    pub filename: String,
    /// Whether it is there.
    pub status: BackupStatus,
    /// Bytes that a store holds of it, manifest included.
    pub size_bytes: u64,
    /// Plain bytes as they were read from the source.
    pub original_size_bytes: u64,
    /// Bytes of the compressed frames, before seals and headers.
    pub compressed_size_bytes: u64,
    /// SHA-256 of the manifest as it is stored, which holds those of everything else.
    pub checksum: Digest,
    /// Where the local store has it.
    pub local_path: Option<String>,
    /// Where R2 has it.
    pub r2_path: Option<String>,
    /// Where B2 has it.
    pub b2_path: Option<String>,
    /// The backup that this one builds upon.
    pub parent: Option<BackupId>,
    /// How its frames are compressed.
    pub codec: Codec,
    /// Rows of all tables.
    pub rows: Option<u64>,
    /// Entries of the manifest.
    pub entries: u64,
    /// The server's version, such as `15.18`.
    pub postgres_version: Option<String>,
    /// The server's system identifier.
    pub system_identifier: Option<String>,
    /// The version of the format in the stores.
    pub format_version: u32,
    /// The pgkeep that made it.
    pub pgkeep_version: String,
    /// The run that made it; `None` in a catalog that was rebuilt.
    #[serde(serialize_with = "super::values::run_as_text")]
    pub run_id: Option<RunId>,
    /// When it was begun.
    #[serde(serialize_with = "super::values::time_as_text")]
    pub started_at: Timestamp,
    /// When its manifest was made.
    #[serde(serialize_with = "super::values::time_as_text")]
    pub finished_at: Timestamp,
    /// How long it took.
    pub seconds: f64,
    /// The instant whose data it holds; of a cluster, from when on it is consistent.
    #[serde(serialize_with = "super::values::time_or_null_as_text")]
    pub consistent_at: Option<Timestamp>,
    /// Whether it was made before a restore, so that this can be undone.
    pub before_restore: bool,
    /// Where a cluster's backup lies in the stream of WAL.
    pub wal: Option<WalPlace>,
    /// That somebody wants it kept whatever its age.
    pub pin: Option<Pin>,
}

/// Where a cluster's backup lies in the stream of WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct WalPlace {
    /// The timeline on which it was made.
    pub timeline: u32,
    /// Where replay begins.
    pub start_lsn: Lsn,
    /// Where it is consistent.
    pub stop_lsn: Lsn,
    /// Bytes of a segment.
    pub wal_segment_size: u32,
    /// Pages whose checksum was wrong.
    pub damaged_pages: u64,
}

/// Which backups to list; what is `None` does not matter.
#[derive(Debug, Clone, Copy, Default)]
pub struct BackupFilter<'a> {
    /// Only those of this kind.
    pub kind: Option<BackupKind>,
    /// Only those of this database.
    pub database: Option<&'a str>,
    /// Only the newest so many.
    pub limit: Option<usize>,
}

/// What can be done with the table of backups.
#[derive(Debug, Clone, Copy)]
pub struct Backups<'a> {
    pub(super) catalog: &'a Catalog,
}

impl<'a> Backups<'a> {
    pub(super) fn new(catalog: &'a Catalog) -> Self {
        Self { catalog }
    }

    /// Writes down a backup with its copies.
    ///
    /// May run again: a backup and a copy that are known stay as they are, copies that are not are added.
    pub fn record(self, backup: &BackupRow, copies: &[CopyRow]) -> anyhow::Result<()> {
        self.catalog.write("write down the backup", |transaction| {
            insert(transaction, backup)?;
            copies.iter().try_for_each(|copy| copies::insert(transaction, copy))
        })
    }

    /// The backup of this identifier, whatever its status.
    pub fn get(self, id: &BackupId) -> anyhow::Result<Option<BackupRow>> {
        self.catalog.read("look for a backup", |connection| {
            let mut statement = connection.prepare("SELECT * FROM backups WHERE id = :id")?;
            statement.query_map(named_params! { ":id": id.as_str() }, backup)?.next().transpose()
        })
    }

    /// The backups whose identifiers begin so and that are not deleted, newest first.
    pub fn find_prefix(self, prefix: &str) -> anyhow::Result<Vec<BackupRow>> {
        self.catalog.read("look for a backup", |connection| {
            let mut statement = connection.prepare(
                "SELECT * FROM backups WHERE substr(id, 1, length(:prefix)) = :prefix AND status <> 'deleted' \
                 ORDER BY started_at DESC, id DESC",
            )?;
            statement.query_map(named_params! { ":prefix": prefix }, backup)?.collect()
        })
    }

    /// The complete backups, newest first.
    pub fn list(self, filter: &BackupFilter<'_>) -> anyhow::Result<Vec<BackupRow>> {
        self.catalog.read("list the backups", |connection| select(connection, filter))
    }

    /// The complete backup (of this kind, of this database) that was begun last.
    pub fn newest_complete(
        self,
        kind: Option<BackupKind>,
        database: Option<&str>,
    ) -> anyhow::Result<Option<BackupRow>> {
        let filter = BackupFilter { kind, database, limit: Some(1) };
        Ok(self.list(&filter)?.pop())
    }

    /// Writes down where backups are, all at once: for each the store, and the place there if it is whole there.
    /// Backups that the catalog does not have are passed over.
    pub fn set_places(self, places: &[(BackupId, StoreName, Option<String>)]) -> anyhow::Result<()> {
        if places.is_empty() {
            return Ok(());
        }
        self.catalog.write("write down where backups are", |transaction| {
            for (id, store, place) in places {
                let sql = match store {
                    StoreName::Local => "UPDATE backups SET local_path = :place WHERE id = :id",
                    StoreName::R2 => "UPDATE backups SET r2_path = :place WHERE id = :id",
                    StoreName::B2 => "UPDATE backups SET b2_path = :place WHERE id = :id",
                };
                let mut statement = transaction.prepare_cached(sql)?;
                statement.execute(named_params! { ":id": id.as_str(), ":place": place })?;
            }
            Ok(())
        })
    }

    /// Writes down that the manifest was sealed anew: what is stored is larger or smaller by so much, and has another
    /// SHA-256.
    pub fn resealed(self, id: &BackupId, grown: i64, checksum: Digest) -> anyhow::Result<()> {
        self.catalog.write("write down the manifest's new seal", |transaction| {
            transaction.execute(
                "UPDATE backups SET size_bytes = size_bytes + :grown, checksum = :checksum \
                 WHERE id = :id AND checksum <> :checksum",
                named_params! { ":id": id.as_str(), ":grown": grown, ":checksum": checksum.to_string() },
            )?;
            Ok(())
        })
    }

    /// Changes what the row says of the backup.
    pub fn set_status(self, id: &BackupId, status: BackupStatus) -> anyhow::Result<()> {
        let changed = self.catalog.write("write down what becomes of the backup", |transaction| {
            transaction.execute(
                "UPDATE backups SET status = :status WHERE id = :id",
                named_params! { ":id": id.as_str(), ":status": status.as_str() },
            )
        })?;
        failure::require_one(changed, || format!("no backup {id}"))
    }
}

fn select(connection: &Connection, filter: &BackupFilter<'_>) -> rusqlite::Result<Vec<BackupRow>> {
    let mut statement = connection.prepare(
        "SELECT * FROM backups WHERE status = 'complete' AND (:kind IS NULL OR type = :kind) \
         AND (:database IS NULL OR database = :database) ORDER BY started_at DESC, id DESC LIMIT :limit",
    )?;
    let parameters = named_params! {
        ":kind": filter.kind.map(BackupKind::as_str),
        ":database": filter.database,
        // Less than nothing is everything.
        ":limit": filter.limit.map_or(-1, |limit| integer(limit as u64)),
    };
    statement.query_map(parameters, backup)?.collect()
}

fn insert(transaction: &Transaction<'_>, backup: &BackupRow) -> rusqlite::Result<()> {
    transaction.execute(
        "INSERT INTO backups (id, type, database, tenant_id, filename, status, size_bytes, original_size_bytes, \
         compressed_size_bytes, checksum, local_path, r2_path, b2_path, parent, codec, rows, entries, \
         postgres_version, system_identifier, format_version, pgkeep_version, run_id, started_at, finished_at, \
         seconds, consistent_at, timeline, start_lsn, stop_lsn, wal_segment_size, damaged_pages, before_restore) VALUES (:id, :type, :database, :tenant_id, :filename, :status, :size_bytes, \
         :original_size_bytes, :compressed_size_bytes, :checksum, :local_path, :r2_path, :b2_path, :parent, \
         :codec, :rows, :entries, :postgres_version, :system_identifier, :format_version, :pgkeep_version, \
         :run_id, :started_at, :finished_at, :seconds, :consistent_at, :timeline, :start_lsn, :stop_lsn, \
         :wal_segment_size, :damaged_pages, :before_restore) ON CONFLICT (id) DO NOTHING",
        named_params! {
            ":id": backup.id.as_str(),
            ":type": backup.kind.as_str(),
            ":database": backup.database,
            ":tenant_id": backup.tenant_id,
            ":filename": backup.filename,
            ":status": backup.status.as_str(),
            ":size_bytes": integer(backup.size_bytes),
            ":original_size_bytes": integer(backup.original_size_bytes),
            ":compressed_size_bytes": integer(backup.compressed_size_bytes),
            ":checksum": backup.checksum.to_string(),
            ":local_path": backup.local_path,
            ":r2_path": backup.r2_path,
            ":b2_path": backup.b2_path,
            ":parent": backup.parent.as_ref().map(BackupId::as_str),
            ":codec": backup.codec.to_string(),
            ":rows": backup.rows.map(integer),
            ":entries": integer(backup.entries),
            ":postgres_version": backup.postgres_version,
            ":system_identifier": backup.system_identifier,
            ":format_version": backup.format_version,
            ":pgkeep_version": backup.pgkeep_version,
            ":run_id": backup.run_id.as_ref().map(RunId::as_str),
            ":started_at": timestamp_text(backup.started_at),
            ":finished_at": timestamp_text(backup.finished_at),
            ":seconds": backup.seconds,
            ":consistent_at": backup.consistent_at.map(timestamp_text),
            ":timeline": backup.wal.map(|wal| wal.timeline),
            ":start_lsn": backup.wal.map(|wal| wal.start_lsn.to_string()),
            ":stop_lsn": backup.wal.map(|wal| wal.stop_lsn.to_string()),
            ":wal_segment_size": backup.wal.map(|wal| wal.wal_segment_size),
            ":damaged_pages": backup.wal.map(|wal| integer(wal.damaged_pages)),
            ":before_restore": backup.before_restore,
        },
    )?;
    Ok(())
}

fn backup(row: &Row<'_>) -> rusqlite::Result<BackupRow> {
    Ok(BackupRow {
        id: parsed(row, "id")?,
        kind: parsed(row, "type")?,
        database: row.get("database")?,
        tenant_id: row.get("tenant_id")?,
        filename: row.get("filename")?,
        status: parsed(row, "status")?,
        size_bytes: count(row, "size_bytes")?,
        original_size_bytes: count(row, "original_size_bytes")?,
        compressed_size_bytes: count(row, "compressed_size_bytes")?,
        checksum: parsed(row, "checksum")?,
        local_path: row.get("local_path")?,
        r2_path: row.get("r2_path")?,
        b2_path: row.get("b2_path")?,
        parent: parsed_or_null(row, "parent")?,
        codec: parsed(row, "codec")?,
        rows: count_or_null(row, "rows")?,
        entries: count(row, "entries")?,
        postgres_version: row.get("postgres_version")?,
        system_identifier: row.get("system_identifier")?,
        format_version: row.get("format_version")?,
        pgkeep_version: row.get("pgkeep_version")?,
        run_id: row.get::<_, Option<String>>("run_id")?.map(RunId::from_catalog),
        started_at: time(row, "started_at")?,
        finished_at: time(row, "finished_at")?,
        seconds: row.get("seconds")?,
        consistent_at: time_or_null(row, "consistent_at")?,
        before_restore: row.get("before_restore")?,
        wal: wal_place(row)?,
        pin: super::pins::pin(row)?,
    })
}

fn wal_place(row: &Row<'_>) -> rusqlite::Result<Option<WalPlace>> {
    let Some(timeline) = row.get("timeline")? else { return Ok(None) };
    Ok(Some(WalPlace {
        timeline,
        start_lsn: parsed(row, "start_lsn")?,
        stop_lsn: parsed(row, "stop_lsn")?,
        wal_segment_size: row.get("wal_segment_size")?,
        damaged_pages: count_or_null(row, "damaged_pages")?.unwrap_or(0),
    }))
}
