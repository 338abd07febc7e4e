//! The table `wal_segments`: every archived WAL file in every store in which it should be.

use rusqlite::named_params;

use super::Catalog;
use super::values::integer;
use crate::model::{Digest, StoreName, Timestamp, WalName, timestamp_text};

/// An archived WAL file that a store lists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedWal {
    /// The file.
    pub file: WalName,
    /// SHA-256 of its plain bytes.
    pub content_sha256: Digest,
    /// The store.
    pub store: StoreName,
    /// Its size as stored, in bytes.
    pub size_bytes: u64,
    /// When it was stored, if the store tells.
    pub stored_at: Option<Timestamp>,
}

/// What can be done with the table of WAL files.
#[derive(Debug, Clone, Copy)]
pub struct Wal<'a> {
    catalog: &'a Catalog,
}

impl<'a> Wal<'a> {
    pub(super) fn new(catalog: &'a Catalog) -> Self {
        Self { catalog }
    }

    /// Takes in what the stores list, all at once, and returns how many were not known.
    pub fn record_listed(self, files: &[ListedWal], at: Timestamp) -> anyhow::Result<u64> {
        if files.is_empty() {
            return Ok(0);
        }
        let at = timestamp_text(at);
        self.catalog.write("take in WAL files", |transaction| {
            let mut statement = transaction.prepare(
                "INSERT INTO wal_segments (timeline, segment, content_sha256, store, size_bytes, state, stored_at, \
                 proven_at, proven_how) VALUES (:timeline, :segment, :content_sha256, :store, :size_bytes, 'good', \
                 :stored_at, :at, 'listed') ON CONFLICT (segment, content_sha256, store) DO NOTHING",
            )?;
            let mut added = 0;
            for file in files {
                added += statement.execute(named_params! {
                    ":timeline": file.file.timeline(),
                    ":segment": file.file.as_str(),
                    ":content_sha256": file.content_sha256.to_string(),
                    ":store": file.store.as_str(),
                    ":size_bytes": integer(file.size_bytes),
                    ":stored_at": file.stored_at.map(timestamp_text),
                    ":at": at,
                })? as u64;
            }
            Ok(added)
        })
    }

    /// How many different WAL files the catalog knows.
    pub fn count(self) -> anyhow::Result<u64> {
        self.catalog.read("count WAL files", |connection| {
            let sql = "SELECT count(DISTINCT segment || content_sha256) FROM wal_segments";
            connection.query_row(sql, [], |row| row.get::<_, u32>(0)).map(u64::from)
        })
    }
}
