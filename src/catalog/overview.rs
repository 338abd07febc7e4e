//! The catalog at one glance: sums over all tables, for `status` and `list --recoverable`. Each question is answered out
//! of an index, of few rows, or of the sums that triggers keep (`wal_blocks`, `wal_hours`), however large the catalog is.

use std::collections::BTreeMap;

use rusqlite::{Row, named_params};

use super::restores::RestoreState;
use super::runs::RunOutcome;
use super::values::{count, integer, parsed, time, time_or_null};
use super::{Catalog, CopyState, Severity};
use crate::model::{BackupId, Digest, StoreName, Timestamp, WalName, timestamp_text};

/// 4 GiB of WAL in one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalBlock {
    /// The first 16 digits of its segments' names.
    pub block: String,
    /// The store.
    pub store: StoreName,
    /// Good copies of whole segments.
    pub segments: u64,
    /// Whether a name in it has, or once had, two contents: then each file is to be looked at.
    pub is_clashing: bool,
}

/// A good copy of a WAL segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSegment {
    /// The segment.
    pub file: WalName,
    /// SHA-256 of its plain bytes.
    pub content_sha256: Digest,
    /// The store.
    pub store: StoreName,
    /// When it was stored, if that is known.
    pub stored_at: Option<Timestamp>,
}

/// What a store holds of something, and what it lacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    /// Good copies.
    pub objects: u64,
    /// Their size.
    pub bytes: u64,
    /// Copies that were never made.
    pub owed: u64,
    /// Copies that are gone.
    pub missing: u64,
    /// Copies that are not what was written.
    pub damaged: u64,
    /// When the copy was proven that was proven least lately.
    pub oldest_proof: Option<Timestamp>,
}

/// An hour of WAL in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HourOfWal {
    /// The hour: `2026-11-22T02`, UTC.
    pub hour: String,
    /// The store.
    pub store: StoreName,
    /// Files that were stored in it.
    pub files: u64,
    /// Their size.
    pub bytes: u64,
}

/// A test restore, as far as it matters for what restores take.
#[derive(Debug, Clone, PartialEq)]
pub struct TestRun {
    /// The backup.
    pub backup: BackupId,
    /// How it ended.
    pub state: RestoreState,
    /// When it was begun.
    pub started_at: Timestamp,
    /// How long it took.
    pub seconds: Option<f64>,
}

/// An alert that is not closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenAlert {
    /// Its number.
    pub id: i64,
    /// What sort of alert.
    pub alert_type: String,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub subject: String,
    /// What it says.
    pub message: String,
    /// When it was raised.
    pub created_at: Timestamp,
    /// How often it was found.
    pub times: u64,
    /// When somebody acknowledged it.
    pub acknowledged_at: Option<Timestamp>,
    /// Who.
    pub acknowledged_by: Option<String>,
}

/// A job that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitingJob {
    /// Its number.
    pub id: i64,
    /// The command.
    pub command: String,
    /// When it is due.
    pub scheduled_for: Timestamp,
    /// Its priority.
    pub priority: u8,
    /// Who wants it.
    pub requested_by: String,
}

/// A run that has ended, as far as it matters for whether things work.
#[derive(Debug, Clone, PartialEq)]
pub struct EndedRun {
    /// The command.
    pub command: String,
    /// The whole command line.
    pub arguments: String,
    /// Whether a person at a terminal ran it.
    pub is_at_terminal: bool,
    /// When it began.
    pub started_at: Timestamp,
    /// How long it took.
    pub seconds: Option<f64>,
    /// How it ended.
    pub outcome: RunOutcome,
    /// Its exit code.
    pub exit_code: Option<u8>,
}

/// What can be asked of the catalog as a whole.
#[derive(Debug, Clone, Copy)]
pub struct Overview<'a> {
    catalog: &'a Catalog,
}

impl<'a> Overview<'a> {
    pub(super) fn new(catalog: &'a Catalog) -> Self {
        Self { catalog }
    }

    /// The archive in blocks, by block, then by store. Blocks of which a store has nothing good are left out.
    pub fn wal_blocks(self) -> anyhow::Result<Vec<WalBlock>> {
        self.catalog.read("sum up the archived WAL", |connection| {
            let mut statement =
                connection.prepare("SELECT * FROM wal_blocks WHERE segments > 0 ORDER BY block, store")?;
            let rows = statement.query_map([], |row| {
                Ok(WalBlock {
                    block: row.get("block")?,
                    store: parsed(row, "store")?,
                    segments: count(row, "segments")?,
                    is_clashing: row.get("clashing")?,
                })
            })?;
            rows.collect()
        })
    }

    /// The good copies of whole segments in a block, the last segment first.
    pub fn segments_of(self, block: &str) -> anyhow::Result<Vec<StoredSegment>> {
        self.catalog.read("list the WAL of a block", |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT * FROM wal_segments WHERE segment >= :block AND segment < :block || 'G' AND state = 'good' \
                 AND length(segment) = 24 ORDER BY segment DESC, content_sha256, store",
            )?;
            statement.query_map(named_params! { ":block": block }, segment)?.collect()
        })
    }

    /// What each store holds of the archive.
    pub fn held_wal(self) -> anyhow::Result<BTreeMap<StoreName, Held>> {
        self.catalog.read("sum up the archived WAL", |connection| {
            let mut statement = connection.prepare(
                "SELECT store, sum(files) AS objects, sum(bytes) AS bytes, sum(owed) AS owed, \
                 sum(missing) AS missing, sum(damaged) AS damaged FROM wal_blocks GROUP BY store",
            )?;
            let rows = statement.query_map([], |row| {
                Ok((
                    parsed(row, "store")?,
                    Held {
                        objects: count(row, "objects")?,
                        bytes: count(row, "bytes")?,
                        owed: count(row, "owed")?,
                        missing: count(row, "missing")?,
                        damaged: count(row, "damaged")?,
                        oldest_proof: None,
                    },
                ))
            })?;
            rows.collect()
        })
    }

    /// What each store holds of the complete backups.
    pub fn held_backups(self) -> anyhow::Result<BTreeMap<StoreName, Held>> {
        let rows = self.catalog.read("sum up the copies", |connection| {
            let mut statement = connection.prepare(
                "SELECT store, state, count(*) AS objects, sum(size_bytes) AS bytes, min(proven_at) AS proof FROM copies \
                 WHERE backup_id NOT IN (SELECT id FROM backups WHERE status <> 'complete') GROUP BY store, state",
            )?;
            let rows = statement.query_map([], |row| {
                Ok((
                    parsed::<StoreName>(row, "store")?,
                    parsed::<CopyState>(row, "state")?,
                    count(row, "objects")?,
                    count(row, "bytes")?,
                    time_or_null(row, "proof")?,
                ))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let mut stores: BTreeMap<StoreName, Held> = BTreeMap::new();
        for (store, state, objects, bytes, proof) in rows {
            let held = stores.entry(store).or_default();
            match state {
                CopyState::Good => {
                    (held.objects, held.bytes, held.oldest_proof) = (objects, bytes, proof);
                }
                CopyState::Owed => held.owed = objects,
                CopyState::Missing => held.missing = objects,
                CopyState::Damaged => held.damaged = objects,
                CopyState::Deleting => {}
            }
        }
        Ok(stores)
    }

    /// How many good copies of complete backups each store has that were proven in each of these spans: since the first
    /// time, since the second and before the first, and so on; at last all that are older. Times from the newest on.
    pub fn proofs(self, since: &[Timestamp]) -> anyhow::Result<Vec<(StoreName, Vec<u64>)>> {
        let since: Vec<String> = since.iter().map(|time| timestamp_text(*time)).collect();
        let days = self.catalog.read("sum up the proofs", |connection| {
            let mut statement = connection.prepare(
                "SELECT store, coalesce(substr(proven_at, 1, 10), '') AS day, count(*) AS copies FROM copies \
                 WHERE state = 'good' AND backup_id NOT IN (SELECT id FROM backups WHERE status <> 'complete') \
                 GROUP BY store, day",
            )?;
            let rows = statement.query_map([], |row| {
                Ok((parsed::<StoreName>(row, "store")?, row.get::<_, String>("day")?, count(row, "copies")?))
            })?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        })?;
        let mut stores: BTreeMap<StoreName, Vec<u64>> = BTreeMap::new();
        for (store, day, copies) in days {
            let span = since.iter().position(|time| day.as_str() >= &time[..10]).unwrap_or(since.len());
            stores.entry(store).or_insert_with(|| vec![0; since.len() + 1])[span] += copies;
        }
        Ok(stores.into_iter().collect())
    }

    /// The WAL that was stored in each hour since then, by hour, then by store.
    pub fn wal_hours(self, since: Timestamp) -> anyhow::Result<Vec<HourOfWal>> {
        self.catalog.read("sum up the WAL by the hour", |connection| {
            let mut statement = connection.prepare(
                "SELECT * FROM wal_hours WHERE hour >= substr(:since, 1, 13) AND files > 0 ORDER BY hour, store",
            )?;
            let rows = statement.query_map(named_params! { ":since": timestamp_text(since) }, |row| {
                Ok(HourOfWal {
                    hour: row.get("hour")?,
                    store: parsed(row, "store")?,
                    files: count(row, "files")?,
                    bytes: count(row, "bytes")?,
                })
            })?;
            rows.collect()
        })
    }

    /// The last so many test restores that have ended, newest first.
    pub fn tests(self, limit: usize) -> anyhow::Result<Vec<TestRun>> {
        self.catalog.read("list the test restores", |connection| {
            let mut statement = connection.prepare(
                "SELECT * FROM restore_log WHERE purpose = 'test' AND state IN ('done', 'failed', 'died') \
                 ORDER BY started_at DESC, id DESC LIMIT :limit",
            )?;
            let rows = statement.query_map(named_params! { ":limit": integer(limit as u64) }, |row| {
                Ok(TestRun {
                    backup: parsed(row, "backup_id")?,
                    state: parsed(row, "state")?,
                    started_at: time(row, "started_at")?,
                    seconds: row.get("seconds")?,
                })
            })?;
            rows.collect()
        })
    }

    /// The alerts that are not closed, the worst first, then the oldest.
    pub fn open_alerts(self) -> anyhow::Result<Vec<OpenAlert>> {
        self.catalog.read("list the open alerts", |connection| {
            let mut statement = connection.prepare(
                "SELECT * FROM alerts WHERE closed_at IS NULL \
                 ORDER BY CASE severity WHEN 'CRITICAL' THEN 0 WHEN 'WARNING' THEN 1 ELSE 2 END, created_at, id",
            )?;
            let rows = statement.query_map([], |row| {
                Ok(OpenAlert {
                    id: row.get("id")?,
                    alert_type: row.get("alert_type")?,
                    severity: parsed(row, "severity")?,
                    subject: row.get("subject")?,
                    message: row.get("message")?,
                    created_at: time(row, "created_at")?,
                    times: count(row, "times")?,
                    acknowledged_at: time_or_null(row, "acknowledged_at")?,
                    acknowledged_by: row.get("acknowledged_by")?,
                })
            })?;
            rows.collect()
        })
    }

    /// The jobs that wait, the next one first.
    pub fn waiting_jobs(self) -> anyhow::Result<Vec<WaitingJob>> {
        self.catalog.read("list the jobs that wait", |connection| {
            let mut statement = connection.prepare(
                "SELECT * FROM jobs WHERE state IN ('waiting', 'running') AND state = 'waiting' \
                 ORDER BY scheduled_for, priority DESC, id",
            )?;
            let rows = statement.query_map([], |row| {
                Ok(WaitingJob {
                    id: row.get("id")?,
                    command: row.get("command")?,
                    scheduled_for: time(row, "scheduled_for")?,
                    priority: row.get("priority")?,
                    requested_by: row.get("requested_by")?,
                })
            })?;
            rows.collect()
        })
    }

    /// The runs since then that have ended, newest first.
    pub fn ended_runs(self, since: Timestamp) -> anyhow::Result<Vec<EndedRun>> {
        self.catalog.read("list the runs", |connection| {
            let mut statement = connection.prepare(
                "SELECT command, arguments, terminal, started_at, seconds, outcome, exit_code FROM runs \
                 WHERE started_at >= :since AND outcome <> 'running' ORDER BY started_at DESC, id DESC",
            )?;
            let rows = statement.query_map(named_params! { ":since": timestamp_text(since) }, |row| {
                Ok(EndedRun {
                    command: row.get("command")?,
                    arguments: row.get("arguments")?,
                    is_at_terminal: row.get::<_, String>("terminal")? != "none",
                    started_at: time(row, "started_at")?,
                    seconds: row.get("seconds")?,
                    outcome: parsed(row, "outcome")?,
                    exit_code: row.get("exit_code")?,
                })
            })?;
            rows.collect()
        })
    }
}

fn segment(row: &Row<'_>) -> rusqlite::Result<StoredSegment> {
    Ok(StoredSegment {
        file: super::wal::file(row)?,
        content_sha256: parsed(row, "content_sha256")?,
        store: parsed(row, "store")?,
        stored_at: time_or_null(row, "stored_at")?,
    })
}
