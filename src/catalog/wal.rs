//! The table `wal_segments`: every archived WAL file in every store in which it should be.

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension as _, Row, named_params};
use serde::{Deserialize, Serialize};

use super::copies::stronger;
use super::values::{count, integer, parsed, parsed_or_null, time_or_null};
use super::{Catalog, CopyState, Proof};
use crate::model::{Digest, Fault, Kind, StoreName, TimelineHistory, Timestamp, WalName, timestamp_text};

/// A WAL file in a store as the catalog has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalRow {
    /// The file.
    pub file: WalName,
    /// SHA-256 of its plain bytes.
    pub content_sha256: Digest,
    /// The store.
    pub store: StoreName,
    /// Its size as stored, in bytes.
    pub size_bytes: u64,
    /// What is known of the copy.
    pub state: CopyState,
    /// When it was stored, if that is known.
    pub stored_at: Option<Timestamp>,
    /// Why it is not there.
    pub note: Option<String>,
}

/// A copy that is there, with what is known of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalCopy {
    /// The copy.
    pub row: WalRow,
    /// When its bytes were last found right, or written; of a copy that was only ever listed, when that first was so.
    pub proven_at: Option<Timestamp>,
    /// The strongest proof that it ever had.
    pub proven_how: Option<Proof>,
}

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
    pub(super) catalog: &'a Catalog,
}

impl<'a> Wal<'a> {
    pub(super) fn new(catalog: &'a Catalog) -> Self {
        Self { catalog }
    }

    /// Writes down where WAL files are, all at once. May run again; a copy that is good stays so.
    pub fn record(self, rows: &[WalRow]) -> anyhow::Result<()> {
        if rows.is_empty() {
            return Ok(());
        }
        self.catalog.write("write down archived WAL", |transaction| {
            let mut statement = transaction.prepare(
                "INSERT INTO wal_segments (timeline, segment, content_sha256, store, size_bytes, state, stored_at, \
                 proven_at, proven_how, note) VALUES (:timeline, :segment, :content_sha256, :store, :size_bytes, \
                 :state, :stored_at, :proven_at, :proven_how, :note) \
                 ON CONFLICT (segment, content_sha256, store) DO UPDATE SET state = excluded.state, \
                 size_bytes = excluded.size_bytes, stored_at = excluded.stored_at, proven_at = excluded.proven_at, \
                 proven_how = excluded.proven_how, note = excluded.note WHERE wal_segments.state <> 'good'",
            )?;
            for row in rows {
                let good = row.state == CopyState::Good;
                let stored_at = row.stored_at.map(timestamp_text);
                let proven_at = stored_at.as_ref().filter(|_| good);
                statement.execute(named_params! {
                    ":timeline": row.file.timeline(),
                    ":segment": row.file.as_str(),
                    ":content_sha256": row.content_sha256.to_string(),
                    ":store": row.store.as_str(),
                    ":size_bytes": integer(row.size_bytes),
                    ":state": row.state.as_str(),
                    ":stored_at": stored_at,
                    ":proven_at": proven_at,
                    ":proven_how": proven_at.map(|_| "written"),
                    ":note": row.note,
                })?;
            }
            Ok(())
        })
    }

    /// The files of which a store lacks a copy that it should have, oldest first, at most so many.
    pub fn not_good(self, limit: usize) -> anyhow::Result<Vec<WalRow>> {
        self.catalog.read("list the WAL that stores lack", |connection| {
            let mut statement = connection.prepare(
                "SELECT * FROM wal_segments WHERE state IN ('owed', 'missing', 'damaged') \
                 ORDER BY segment, content_sha256, store LIMIT :limit",
            )?;
            statement.query_map(named_params! { ":limit": integer(limit as u64) }, row)?.collect()
        })
    }

    /// What the catalog knows of the file of this name.
    pub fn of(self, file: &WalName) -> anyhow::Result<Vec<WalRow>> {
        self.catalog.read("look for a WAL file", |connection| {
            let mut statement = connection.prepare(
                "SELECT * FROM wal_segments WHERE segment = :segment ORDER BY content_sha256, store",
            )?;
            statement.query_map(named_params! { ":segment": file.as_str() }, row)?.collect()
        })
    }

    /// Everything that is known of WAL files, by name.
    pub fn all(self) -> anyhow::Result<Vec<WalRow>> {
        self.catalog.read("list the archived WAL", |connection| {
            let mut statement =
                connection.prepare("SELECT * FROM wal_segments ORDER BY segment, content_sha256, store")?;
            statement.query_map([], row)?.collect()
        })
    }

    /// The copies that are there as far as is known, by name; with those that were found damaged.
    pub fn provable(self) -> anyhow::Result<Vec<WalCopy>> {
        self.catalog.read("list the copies of WAL", |connection| {
            let mut statement = connection.prepare(
                "SELECT * FROM wal_segments WHERE state IN ('good', 'damaged') \
                 ORDER BY segment, content_sha256, store",
            )?;
            let copy = |found: &Row<'_>| {
                let (proven_at, proven_how) =
                    (time_or_null(found, "proven_at")?, parsed_or_null(found, "proven_how")?);
                Ok(WalCopy { row: row(found)?, proven_at, proven_how })
            };
            statement.query_map([], copy)?.collect()
        })
    }

    /// Writes down that these copies were opened and hold the right bytes, all at once; as with
    /// [`Copies::prove`](super::Copies::prove) the stronger word stays, and what is being deleted stays so.
    pub fn prove(self, copies: &[&WalRow], how: Proof, at: Timestamp) -> anyhow::Result<()> {
        if copies.is_empty() {
            return Ok(());
        }
        let sql = format!(
            "UPDATE wal_segments SET proven_at = :at, proven_how = {}, state = 'good', note = NULL \
             WHERE segment = :segment AND content_sha256 = :content_sha256 AND store = :store AND state <> 'deleting'",
            stronger()
        );
        let at = timestamp_text(at);
        self.catalog.write("write down that WAL is proven", |transaction| {
            let mut statement = transaction.prepare(&sql)?;
            for copy in copies {
                statement.execute(named_params! {
                    ":at": at,
                    ":how": how.as_str(),
                    ":segment": copy.file.as_str(),
                    ":content_sha256": copy.content_sha256.to_string(),
                    ":store": copy.store.as_str(),
                })?;
            }
            Ok(())
        })
    }

    /// Writes down that a copy which was missing, or was never made, is listed: nothing is known of its bytes.
    pub fn found_again(self, file: &WalRow, at: Timestamp) -> anyhow::Result<()> {
        self.catalog.write("write down that a WAL file is there again", |transaction| {
            transaction.execute(
                "UPDATE wal_segments SET state = 'good', note = NULL, proven_at = :at, proven_how = 'listed' \
                 WHERE segment = :segment AND content_sha256 = :content_sha256 AND store = :store \
                 AND state IN ('missing', 'owed')",
                named_params! {
                    ":at": timestamp_text(at),
                    ":segment": file.file.as_str(),
                    ":content_sha256": file.content_sha256.to_string(),
                    ":store": file.store.as_str(),
                },
            )?;
            Ok(())
        })
    }

    /// Writes down what a timeline's history file says; may run again.
    pub fn record_history(self, timeline: u32, history: &str) -> anyhow::Result<()> {
        self.catalog.write("write down a timeline's history", |transaction| {
            transaction.execute(
                "INSERT INTO timelines (timeline, history) VALUES (:timeline, :history) \
                 ON CONFLICT (timeline) DO UPDATE SET history = excluded.history WHERE history <> excluded.history",
                named_params! { ":timeline": timeline, ":history": history },
            )?;
            Ok(())
        })
    }

    /// What the history file of this timeline says, as it was written down.
    pub fn history_text(self, timeline: u32) -> anyhow::Result<Option<String>> {
        self.catalog.read("read a timeline's history", |connection| {
            let sql = "SELECT history FROM timelines WHERE timeline = :timeline";
            connection.query_row(sql, named_params! { ":timeline": timeline }, |row| row.get(0)).optional()
        })
    }

    /// The histories of timelines, by their number.
    pub fn histories(self) -> anyhow::Result<BTreeMap<u32, TimelineHistory>> {
        self.catalog.read("read the timelines' histories", |connection| {
            let mut statement = connection.prepare("SELECT timeline, history FROM timelines")?;
            let rows = statement.query_map([], |row| {
                let (timeline, text): (u32, String) = (row.get(0)?, row.get(1)?);
                Ok(TimelineHistory::parse(text.as_bytes()).map(|history| (timeline, history)))
            })?;
            rows.filter_map(Result::transpose).collect()
        })
    }

    /// Writes down that a store should hold every WAL file that another one has: what the catalog has no row of is owed.
    pub fn expect_in(self, store: StoreName) -> anyhow::Result<usize> {
        self.catalog.write("write down which WAL is owed", |transaction| {
            transaction.execute(
                "INSERT INTO wal_segments (timeline, segment, content_sha256, store, size_bytes, state) \
                 SELECT min(timeline), segment, content_sha256, :store, min(size_bytes), 'owed' FROM wal_segments AS other \
                 WHERE state = 'good' AND NOT EXISTS (SELECT 1 FROM wal_segments AS known \
                 WHERE known.segment = other.segment AND known.content_sha256 = other.content_sha256 \
                 AND known.store = :store) GROUP BY segment, content_sha256 \
                 ON CONFLICT (segment, content_sha256, store) DO NOTHING",
                named_params! { ":store": store.as_str() },
            )
        })
    }

    /// Writes down what was found out about a copy; the note replaces an older one. `false`: it is being deleted, or was,
    /// and what was found of it is of no matter.
    pub fn set_state(self, file: &WalRow, state: CopyState, note: Option<&str>) -> anyhow::Result<bool> {
        let changed = self.catalog.write("write down the state of a WAL file", |transaction| {
            transaction.execute(
                "UPDATE wal_segments SET state = :state, note = :note \
                 WHERE segment = :segment AND content_sha256 = :content_sha256 AND store = :store \
                 AND state <> 'deleting'",
                named_params! {
                    ":state": state.as_str(),
                    ":note": note,
                    ":segment": file.file.as_str(),
                    ":content_sha256": file.content_sha256.to_string(),
                    ":store": file.store.as_str(),
                },
            )
        })?;
        Ok(changed > 0)
    }

    /// Writes down that these files were replayed as this store has them, and that the result was checked.
    pub fn prove_restored(self, files: &[WalName], store: StoreName, at: Timestamp) -> anyhow::Result<()> {
        let at = timestamp_text(at);
        self.catalog.write("write down which WAL is proven", |transaction| {
            let mut statement = transaction.prepare(
                "UPDATE wal_segments SET proven_at = :at, proven_how = 'restored' \
                 WHERE segment = :segment AND store = :store AND state = 'good'",
            )?;
            for file in files {
                statement.execute(named_params! {
                    ":at": at,
                    ":segment": file.as_str(),
                    ":store": store.as_str(),
                })?;
            }
            Ok(())
        })
    }

    /// How many bytes each store holds, in good copies, of the files from one to another of the same timeline.
    pub fn sizes_between(self, first: &WalName, last: &WalName) -> anyhow::Result<BTreeMap<StoreName, u64>> {
        self.catalog.read("sum up archived WAL", |connection| {
            let mut statement = connection.prepare(
                "SELECT store, sum(size_bytes) AS bytes FROM wal_segments \
                 WHERE segment BETWEEN :first AND :last AND state = 'good' GROUP BY store",
            )?;
            let parameters = named_params! { ":first": first.as_str(), ":last": last.as_str() };
            statement
                .query_map(parameters, |row| Ok((parsed(row, "store")?, count(row, "bytes")?)))?
                .collect()
        })
    }

    /// Takes in what the stores list, all at once, and returns how many were not known. A list that was begun a moment
    /// before files were deleted may still hold them: that is no news.
    pub fn record_listed(self, files: &[ListedWal], at: Timestamp) -> anyhow::Result<u64> {
        if files.is_empty() {
            return Ok(0);
        }
        let (lately, at) = (timestamp_text(at - chrono::TimeDelta::days(1)), timestamp_text(at));
        self.catalog.write("take in WAL files", |transaction| {
            let mut statement = transaction.prepare(
                "INSERT INTO wal_segments (timeline, segment, content_sha256, store, size_bytes, state, stored_at, \
                 proven_at, proven_how) SELECT :timeline, :segment, :content_sha256, :store, :size_bytes, 'good', \
                 :stored_at, :at, 'listed' WHERE NOT EXISTS (SELECT 1 FROM wal_deleted WHERE timeline = :timeline \
                 AND :segment BETWEEN first AND last || '~' AND deleted_at > :lately) \
                 ON CONFLICT (segment, content_sha256, store) DO NOTHING",
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
                    ":lately": lately,
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

/// The file's name.
pub(super) fn file(row: &Row<'_>) -> rusqlite::Result<WalName> {
    let name: String = row.get("segment")?;
    name.parse().map_err(|_| {
        let fault = Fault::new(Kind::Damaged, format!("\"{name}\" is not the name of a WAL file"));
        rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(fault))
    })
}

fn row(row: &Row<'_>) -> rusqlite::Result<WalRow> {
    Ok(WalRow {
        file: file(row)?,
        content_sha256: parsed(row, "content_sha256")?,
        store: parsed(row, "store")?,
        size_bytes: count(row, "size_bytes")?,
        state: parsed(row, "state")?,
        stored_at: time_or_null(row, "stored_at")?,
        note: row.get("note")?,
    })
}
