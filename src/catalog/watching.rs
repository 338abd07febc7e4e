//! What the catalog knows of the conditions that somebody should look at; read before every end of a run, so each
//! question goes through an index or a table that stays small.

use rusqlite::{Connection, OptionalExtension, Row, named_params};

use super::values::{count, json_or_null, parsed, parsed_or_null, time, time_or_null};
use super::{Catalog, RestoreState, RunOutcome, keys};
use crate::model::{BackupId, StoreName, Timestamp, timestamp_text};
use crate::plan::conditions::exposure::Seen;
use crate::plan::conditions::{
    Damaged, End, EndedRun, Facts, FailedTest, Made, Owed, Server, Short, ShortWal, Usage,
};

/// How far back runs are looked at: what failed longer ago, and was not tried since, is nobody's concern any more.
const RUNS: chrono::TimeDelta = chrono::TimeDelta::days(7);
/// How many backups of a series are compared: the newest one and seven before it.
const SERIES: u32 = 8;
/// The same for test restores, which are made once a month.
const TESTS: chrono::TimeDelta = chrono::TimeDelta::days(35);
/// How far back looks at the server are kept.
const SEEN: chrono::TimeDelta = chrono::TimeDelta::days(7);

impl Catalog {
    /// The facts that the catalog has; those of the machine and of the server are for others to add.
    pub fn facts(&self, now: Timestamp) -> anyhow::Result<Facts> {
        self.read("look for conditions", |connection| {
            Ok(Facts {
                now,
                has_key: true,
                key_fault: None,
                foreign_keys: keys::used(connection)?,
                begun: one_time(connection, "SELECT min(started_at) AS at FROM runs")?,
                latest: one_time(
                    connection,
                    "SELECT max(at) AS at FROM (SELECT max(started_at) AS at FROM runs \
                     UNION ALL SELECT max(created_at) FROM alerts)",
                )?,
                runs: runs(connection, now)?,
                tests: tests(connection, now)?,
                backups: backups(connection)?,
                short: short(connection)?,
                short_wal: short_wal(connection)?,
                damaged: damaged(connection)?,
                owed: owed(connection)?,
                proofs: proofs(connection)?,
                test_restore: test_restore(connection)?,
                usage: usage(connection)?,
                certificates: Vec::new(),
                exposed: Vec::new(),
                safe: None,
                seen: seen(connection)?,
                holes: None,
                server: Server::NotAsked,
            })
        })
    }
}

impl Catalog {
    /// Writes down how far the server was, and forgets what that makes worthless: what was seen before everything was last
    /// in the archive, and what a clock has seen that was put back since.
    pub fn saw_wal(&self, seen: &Seen) -> anyhow::Result<()> {
        self.write("write down how far the server has written", |transaction| {
            let at = timestamp_text(seen.at);
            transaction.execute("DELETE FROM wal_seen WHERE seen_at >= :at", named_params! { ":at": at })?;
            transaction.execute(
                "INSERT INTO wal_seen (seen_at, timeline, lsn, archived) VALUES (:at, :timeline, :lsn, :archived)",
                named_params! {
                    ":at": at,
                    ":timeline": seen.timeline,
                    ":lsn": seen.lsn.to_string(),
                    ":archived": seen.archived,
                },
            )?;
            transaction.execute(
                "DELETE FROM wal_seen WHERE seen_at < :old \
                 OR seen_at < (SELECT max(seen_at) FROM wal_seen WHERE archived = 1)",
                named_params! { ":old": timestamp_text(seen.at - SEEN) },
            )
        })?;
        Ok(())
    }

    /// How far the server was when somebody last looked.
    pub fn last_seen(&self) -> anyhow::Result<Option<Seen>> {
        self.read("look how far the server was", |connection| Ok(seen(connection)?.pop()))
    }

    /// When somebody last saw that everything the server had written was in enough stores.
    pub fn seen_archived(&self) -> anyhow::Result<Option<Timestamp>> {
        self.read("look when all WAL was archived", |connection| {
            one_time(connection, "SELECT max(seen_at) AS at FROM wal_seen WHERE archived = 1")
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
        "SELECT id, command, arguments, outcome, exit_code, message, started_at, terminal, job_id FROM runs \
         WHERE started_at > :since AND outcome <> 'running' ORDER BY started_at, id",
    )?;
    let since = timestamp_text(now - RUNS);
    let found = statement.query_map(named_params! { ":since": since }, |row| {
        Ok(EndedRun {
            id: row.get("id")?,
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
            is_told: row.get::<_, String>("terminal")? != "none",
            is_job: row.get::<_, Option<i64>>("job_id")?.is_some(),
        })
    })?;
    found.collect()
}

/// The last one of each series that failed, and no later one has passed out of the same store.
fn tests(connection: &Connection, now: Timestamp) -> rusqlite::Result<Vec<FailedTest>> {
    let mut statement = connection.prepare(
        "SELECT * FROM restore_log WHERE purpose = 'test' AND started_at > :since \
         AND state IN ('done', 'failed', 'refused') ORDER BY started_at DESC, id DESC",
    )?;
    let since = timestamp_text(now - TESTS);
    let found = statement.query_map(named_params! { ":since": since }, |row| {
        let backup: BackupId = parsed(row, "backup_id")?;
        let tenants: Vec<String> = json_or_null(row, "tenant_ids")?.unwrap_or_default();
        let database: Option<String> = row.get("source_database")?;
        let tenants = if tenants.is_empty() { String::new() } else { format!(" {} of", tenants.join(" ")) };
        let database = database.map(|name| format!(" {name}")).unwrap_or_default();
        let state: RestoreState = parsed(row, "state")?;
        let test = FailedTest {
            series: format!("{}{tenants}{database}", backup.kind()),
            backup,
            store: parsed_or_null(row, "store")?,
            refused: state == RestoreState::Refused,
            message: row.get::<_, Option<String>>("message")?.unwrap_or_default(),
            run: row.get("run_id")?,
        };
        Ok((test, state))
    })?;
    let mut passed = std::collections::BTreeSet::new();
    let mut failed: Vec<FailedTest> = Vec::new();
    for test in found {
        let (test, state) = test?;
        if state == RestoreState::Done {
            // What one store has says nothing of another one's copy; earlier schemas did not say which store it was.
            passed.insert((test.series.clone(), test.store));
            passed.insert((test.series, None));
        } else if !passed.contains(&(test.series.clone(), test.store)) {
            match failed.iter_mut().find(|known| known.series == test.series) {
                None => failed.push(test),
                // One that was refused since has shown nothing.
                Some(known) if known.refused && !test.refused => *known = test,
                Some(_) => {}
            }
        }
    }
    Ok(failed)
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

/// WAL of which some copy is not good, by how many are. That a state is not `good` is said twice, for the index. A name of
/// which other bytes are good is somebody's to look at for another reason.
fn short_wal(connection: &Connection) -> rusqlite::Result<Vec<ShortWal>> {
    rows(
        connection,
        "SELECT good, count(*) AS files, min(segment) AS first FROM (SELECT segment, (SELECT count(*) FROM \
         wal_segments AS other WHERE other.segment = lacking.segment AND other.content_sha256 = lacking.content_sha256 \
         AND other.state = 'good') AS good FROM wal_segments AS lacking \
         WHERE state <> 'good' AND state IN ('owed', 'missing', 'damaged') AND NOT EXISTS (SELECT 1 FROM wal_segments \
         AS twin WHERE twin.segment = lacking.segment AND twin.content_sha256 <> lacking.content_sha256 \
         AND twin.state = 'good') GROUP BY segment, content_sha256) GROUP BY good ORDER BY good",
        |row| {
            Ok(ShortWal { good: count(row, "good")?, files: count(row, "files")?, first: row.get("first")? })
        },
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

fn seen(connection: &Connection) -> rusqlite::Result<Vec<Seen>> {
    rows(connection, "SELECT * FROM wal_seen ORDER BY seen_at", |row| {
        Ok(Seen {
            at: time(row, "seen_at")?,
            timeline: row.get("timeline")?,
            lsn: parsed(row, "lsn")?,
            archived: row.get("archived")?,
        })
    })
}
