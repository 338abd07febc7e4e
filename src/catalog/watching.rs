//! What the catalog knows of the conditions that somebody should look at; read before every end of a run, so each
//! question goes through an index or a table that stays small.

use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::values::{count, parsed, time, time_or_null};
use super::{Catalog, RunOutcome};
use crate::model::{BackupId, StoreName, Timestamp, timestamp_text};
use crate::plan::conditions::{Damaged, End, EndedRun, Facts, Made, Owed, Server, Short, Usage};

/// How far back runs are looked at: what failed longer ago, and was not tried since, is nobody's concern any more.
const RUNS: chrono::TimeDelta = chrono::TimeDelta::days(7);
/// How many backups of a series are compared: the newest one and seven before it.
const SERIES: u32 = 8;
/// How many of the newest WAL files may have to be passed over until one is safe in enough stores.
const NEWEST_WAL: u32 = 512;

impl Catalog {
    /// The facts that the catalog has; those of the machine and of the server are for others to add.
    pub fn facts(&self, now: Timestamp, min_copies: u64) -> anyhow::Result<Facts> {
        self.read("look for conditions", |connection| {
            Ok(Facts {
                now,
                has_key: true,
                begun: one_time(connection, "SELECT min(started_at) AS at FROM runs")?,
                latest: one_time(
                    connection,
                    "SELECT max(at) AS at FROM (SELECT max(started_at) AS at FROM runs \
                     UNION ALL SELECT max(created_at) FROM alerts)",
                )?,
                runs: runs(connection, now)?,
                backups: backups(connection)?,
                short: short(connection)?,
                damaged: damaged(connection)?,
                owed: owed(connection)?,
                proofs: proofs(connection)?,
                test_restore: test_restore(connection)?,
                usage: usage(connection)?,
                certificates: Vec::new(),
                archived_at: archived_at(connection, min_copies)?,
                holes: None,
                server: Server::NotAsked,
            })
        })
    }
}

fn rows<T>(
    connection: &Connection,
    sql: &str,
    read: impl FnMut(&Row<'_>) -> rusqlite::Result<T>,
) -> rusqlite::Result<Vec<T>> {
    connection.prepare(sql)?.query_map([], read)?.collect()
}

fn one_time(connection: &Connection, sql: &str) -> rusqlite::Result<Option<Timestamp>> {
    connection.query_row(sql, [], |row| time_or_null(row, "at"))
}

fn runs(connection: &Connection, now: Timestamp) -> rusqlite::Result<Vec<EndedRun>> {
    let mut statement = connection.prepare(
        "SELECT command, arguments, outcome, exit_code, message, started_at FROM runs \
         WHERE started_at > :since AND outcome <> 'running' ORDER BY started_at, id",
    )?;
    let since = timestamp_text(now - RUNS);
    let found = statement.query_map(named_params! { ":since": since }, |row| {
        Ok(EndedRun {
            command: row.get("command")?,
            arguments: row.get("arguments")?,
            end: match parsed::<RunOutcome>(row, "outcome")? {
                RunOutcome::Failed => End::Failed,
                RunOutcome::Interrupted => End::Interrupted,
                RunOutcome::Died => End::Died,
                RunOutcome::Done | RunOutcome::Incomplete | RunOutcome::Running => End::Done,
            },
            exit_code: row.get("exit_code")?,
            message: row.get("message")?,
            at: time(row, "started_at")?,
        })
    })?;
    found.collect()
}

/// The newest ones of each series. Those that a restore made before itself are nobody's schedule.
fn backups(connection: &Connection) -> rusqlite::Result<Vec<Made>> {
    let sql = format!(
        "SELECT id, series, size_bytes, seconds, finished_at FROM (SELECT *, \
         type || coalesce(' ' || tenant_id || ' of', '') || coalesce(' ' || database, '') AS series, \
         row_number() OVER (PARTITION BY type, database, tenant_id ORDER BY started_at DESC) AS place \
         FROM backups WHERE status = 'complete' AND before_restore = 0) WHERE place <= {SERIES} \
         ORDER BY finished_at DESC, id DESC"
    );
    rows(connection, &sql, |row| {
        Ok(Made {
            id: parsed(row, "id")?,
            series: row.get("series")?,
            bytes: count(row, "size_bytes")?,
            seconds: row.get("seconds")?,
            finished_at: time(row, "finished_at")?,
        })
    })
}

/// Only where something is not good: the rest has as many as it was made with.
fn short(connection: &Connection) -> rusqlite::Result<Vec<Short>> {
    rows(
        connection,
        "SELECT backup_id, min(good) AS good FROM (SELECT backup_id, object, sum(state = 'good') AS good \
         FROM copies WHERE backup_id IN (SELECT backup_id FROM copies WHERE state <> 'good') \
         AND backup_id IN (SELECT id FROM backups WHERE status = 'complete') GROUP BY backup_id, object) \
         GROUP BY backup_id ORDER BY backup_id",
        |row| Ok(Short { id: parsed::<BackupId>(row, "backup_id")?, good: count(row, "good")? }),
    )
}

fn damaged(connection: &Connection) -> rusqlite::Result<Vec<Damaged>> {
    rows(
        connection,
        "SELECT backup_id AS of, store, count(*) AS objects FROM copies \
         WHERE state = 'damaged' GROUP BY backup_id, store UNION ALL \
         SELECT segment, store, count(*) FROM wal_segments WHERE state = 'damaged' \
         GROUP BY segment, store ORDER BY 1, 2",
        |row| {
            Ok(Damaged { of: row.get("of")?, store: parsed(row, "store")?, objects: count(row, "objects")? })
        },
    )
}

fn owed(connection: &Connection) -> rusqlite::Result<Vec<Owed>> {
    let found = rows(
        connection,
        "SELECT store, count(*) AS objects, min(since) AS at FROM (\
         SELECT copies.store, finished_at AS since FROM copies JOIN backups ON backups.id = backup_id \
         WHERE copies.state IN ('owed', 'missing') AND status = 'complete' UNION ALL \
         SELECT lacking.store, (SELECT min(stored_at) FROM wal_segments AS other WHERE other.segment = lacking.segment \
         AND other.content_sha256 = lacking.content_sha256) FROM wal_segments AS lacking \
         WHERE state IN ('owed', 'missing')) GROUP BY store ORDER BY store",
        |row| {
            let Some(since) = time_or_null(row, "at")? else { return Ok(None) };
            Ok(Some(Owed { store: parsed(row, "store")?, objects: count(row, "objects")?, since }))
        },
    )?;
    Ok(found.into_iter().flatten().collect())
}

/// That a copy was listed proves nothing of its bytes; then it is as old as its backup.
fn proofs(connection: &Connection) -> rusqlite::Result<Vec<(StoreName, Timestamp)>> {
    rows(
        connection,
        "SELECT store, min(CASE WHEN proven_how = 'listed' OR proven_at IS NULL THEN finished_at ELSE proven_at END) \
         AS at FROM copies JOIN backups ON backups.id = backup_id WHERE status = 'complete' AND state = 'good' \
         GROUP BY store ORDER BY store",
        |row| Ok((parsed(row, "store")?, time(row, "at")?)),
    )
}

fn test_restore(connection: &Connection) -> rusqlite::Result<Option<std::time::Duration>> {
    let seconds: Option<Option<f64>> = connection
        .query_row(
            "SELECT seconds FROM restore_log WHERE purpose = 'test' AND state = 'done' \
             ORDER BY started_at DESC LIMIT 1",
            [],
            |row| row.get(0),
        )
        .optional()?;
    Ok(seconds.flatten().map(|seconds| std::time::Duration::from_secs_f64(seconds.max(0.0))))
}

/// What each store last held; of how much, the settings say.
fn usage(connection: &Connection) -> rusqlite::Result<Vec<Usage>> {
    rows(connection, "SELECT store, bytes, max(day) FROM store_usage GROUP BY store ORDER BY store", |row| {
        Ok(Usage { place: row.get("store")?, used: count(row, "bytes")?, of: 0 })
    })
}

fn archived_at(connection: &Connection, min_copies: u64) -> rusqlite::Result<Option<Timestamp>> {
    let sql = format!(
        "SELECT max(at) AS at FROM (SELECT max(stored_at) AS at, sum(state = 'good') AS good FROM wal_segments \
         GROUP BY segment, content_sha256 ORDER BY segment DESC LIMIT {NEWEST_WAL}) WHERE good >= {min_copies}"
    );
    one_time(connection, &sql)
}
