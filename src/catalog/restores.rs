//! The table `restore_log`: every restore and test restore, also the failed and the refused ones.

use rusqlite::{Row, ToSql, named_params};
use serde::Serialize;

use super::values::{count_or_null, integer, json_or_null, parsed, parsed_or_null, time, time_or_null};
use super::words::words;
use super::{Catalog, failure};
use crate::model::{BackupId, RunId, StoreName, Timestamp, timestamp_text};

words! {
    /// What a restore does with what is there.
    pub enum RestoreMode {
        /// Puts the backup in its place.
        Full = "full",
        /// Keeps it and adds what is missing.
        Merge = "merge",
        /// Brings the cluster back as it was at a point in time.
        Pitr = "pitr",
    }
}

words! {
    /// How a restore ended.
    pub enum RestoreState {
        /// It has not ended.
        Running = "running",
        /// It is in place and checked.
        Done = "done",
        /// It failed; the message says why.
        Failed = "failed",
        /// A signal asked for the end.
        Interrupted = "interrupted",
        /// It ended without a word, and a later run has found it so.
        Died = "died",
        /// Nothing was begun, because it would have destroyed something or was not confirmed.
        Refused = "refused",
    }
}

words! {
    /// What a restore is for.
    pub enum Purpose {
        /// Somebody wants the data back.
        Restore = "restore",
        /// The backup is to be proven; what was restored is dropped again.
        Test = "test",
    }
}

/// A restore that begins.
#[derive(Debug, Clone)]
pub struct NewRestore {
    /// The run that restores.
    pub run_id: Option<RunId>,
    /// The backup that is restored.
    pub backup_id: BackupId,
    /// What it is for.
    pub purpose: Purpose,
    /// The one store that is read; `None`: as `BACKUP_READ_ORDER` says.
    pub store: Option<StoreName>,
    /// Who wants it.
    pub initiated_by: String,
    /// The tenants; `None`: everything that the backup holds.
    pub tenant_ids: Option<Vec<String>>,
    /// What is done with what is there.
    pub mode: RestoreMode,
    /// The point in time that is wanted.
    pub target_timestamp: Option<Timestamp>,
    /// The database that was backed up.
    pub source_database: Option<String>,
    /// The name that the restored database is to have.
    pub target_database: Option<String>,
    /// The directory into which a cluster is restored.
    pub target_directory: Option<String>,
    /// When it began.
    pub started_at: Timestamp,
}

/// Where a restore works, before it does.
#[derive(Debug, Clone, Copy)]
pub struct RestorePlaces<'a> {
    /// The server's system identifier; `None` where the user may not ask for it.
    pub system_identifier: Option<u64>,
    /// The name of the database that is going to be filled and checked.
    pub staging: &'a str,
    /// The name under which the replaced database will be kept.
    pub previous: Option<&'a str>,
}

/// What a test restore took: by this the next restore is estimated.
#[derive(Debug, Clone)]
pub struct Measured {
    /// A JSON object: the name of a phase to its seconds.
    pub phases: serde_json::Value,
    /// Bytes that were read from the store.
    pub bytes_fetched: u64,
    /// Segments of WAL that were replayed.
    pub wal_segments: u64,
}

/// How a restore ended, with what was found.
#[derive(Debug, Clone)]
pub struct RestoreEnd {
    /// Anything but [`RestoreState::Running`]; after [`RestoreState::Died`] the time of the end stays unknown.
    pub state: RestoreState,
    /// The error, or a word on the result.
    pub message: Option<String>,
    /// Rows that were restored.
    pub rows: Option<u64>,
    /// What was checked, with what result.
    pub checks: Option<serde_json::Value>,
    /// When it ended.
    pub at: Timestamp,
}

/// A restore as the log has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Restore {
    /// Its number.
    pub id: i64,
    /// The run that restored.
    #[serde(serialize_with = "super::values::run_as_text")]
    pub run_id: Option<RunId>,
    /// The backup; its row may be gone.
    pub backup_id: BackupId,
    /// What it was for.
    pub purpose: Purpose,
    /// The one store that was read; `None`: as `BACKUP_READ_ORDER` said.
    pub store: Option<StoreName>,
    /// Who wanted it.
    pub initiated_by: String,
    /// The tenants; `None`: everything.
    pub tenant_ids: Option<Vec<String>>,
    /// What was done with what was there.
    #[serde(rename = "restore_mode")]
    pub mode: RestoreMode,
    /// The point in time that was wanted.
    #[serde(serialize_with = "super::values::time_or_null_as_text")]
    pub target_timestamp: Option<Timestamp>,
    /// The database that was backed up.
    pub source_database: Option<String>,
    /// The name that the restored database was to have.
    pub target_database: Option<String>,
    /// The directory into which a cluster was restored.
    pub target_directory: Option<String>,
    /// The database that was filled and checked before it was swapped in.
    pub staging_database: Option<String>,
    /// The name under which the replaced database is kept.
    pub previous_database: Option<String>,
    /// The system identifier of the server on which it worked; `None` if that is not known.
    pub system_identifier: Option<String>,
    /// The number (`pg_database.oid`) of the database that it made, which no renaming changes.
    pub database_oid: Option<u32>,
    /// The schema that it was of, where it was not of a whole database.
    pub target_schema: Option<String>,
    /// The number (`pg_namespace.oid`) of the schema that it made.
    pub schema_oid: Option<u32>,
    /// The name under which the replaced schema is kept.
    pub previous_schema: Option<String>,
    /// How it ended.
    pub state: RestoreState,
    /// When it began.
    #[serde(serialize_with = "super::values::time_as_text")]
    pub started_at: Timestamp,
    /// When it ended; `None` while it runs, and when it died.
    #[serde(serialize_with = "super::values::time_or_null_as_text")]
    pub ended_at: Option<Timestamp>,
    /// How long it took.
    pub seconds: Option<f64>,
    /// Rows that were restored.
    pub rows: Option<u64>,
    /// What was checked, with what result.
    pub checks: Option<serde_json::Value>,
    /// The error, or a word on the result.
    pub message: Option<String>,
    /// How long each part took, in seconds: a JSON object.
    pub phases: Option<serde_json::Value>,
    /// Bytes that were read from the store.
    pub bytes_fetched: Option<u64>,
    /// Segments of WAL that were replayed.
    pub wal_segments: Option<u64>,
}

/// What can be done with the log of restores.
#[derive(Debug, Clone, Copy)]
pub struct Restores<'a> {
    catalog: &'a Catalog,
}

impl<'a> Restores<'a> {
    pub(super) fn new(catalog: &'a Catalog) -> Self {
        Self { catalog }
    }

    /// Writes down that a restore has begun, and returns its number.
    pub fn begin(self, restore: &NewRestore) -> anyhow::Result<i64> {
        let tenants = restore.tenant_ids.as_ref().map(|tenants| serde_json::json!(tenants).to_string());
        self.catalog.write("write down that the restore has begun", |transaction| {
            transaction.execute(
                "INSERT INTO restore_log (run_id, backup_id, purpose, store, initiated_by, tenant_ids, restore_mode, \
                 target_timestamp, source_database, target_database, target_directory, started_at) VALUES (:run_id, \
                 :backup_id, :purpose, :store, :initiated_by, :tenant_ids, :restore_mode, :target_timestamp, :source_database, \
                 :target_database, :target_directory, :started_at)",
                named_params! {
                    ":run_id": restore.run_id.as_ref().map(RunId::as_str),
                    ":backup_id": restore.backup_id.as_str(),
                    ":purpose": restore.purpose.as_str(),
                    ":store": restore.store.map(StoreName::as_str),
                    ":initiated_by": restore.initiated_by,
                    ":tenant_ids": tenants,
                    ":restore_mode": restore.mode.as_str(),
                    ":target_timestamp": restore.target_timestamp.map(timestamp_text),
                    ":source_database": restore.source_database,
                    ":target_database": restore.target_database,
                    ":target_directory": restore.target_directory,
                    ":started_at": timestamp_text(restore.started_at),
                },
            )?;
            Ok(transaction.last_insert_rowid())
        })
    }

    /// Writes down where the restore is going to work. To be called before it does: after a kill in between, the
    /// next run looks for the staging database and finds nothing, where otherwise it would not know of it.
    pub fn set_places(self, id: i64, places: RestorePlaces<'_>) -> anyhow::Result<()> {
        self.change(
            id,
            "UPDATE restore_log SET system_identifier = :system_identifier, staging_database = :staging, \
             previous_database = :previous WHERE id = :id",
            named_params! {
                ":id": id,
                ":system_identifier": places.system_identifier.map(|number| number.to_string()),
                ":staging": places.staging,
                ":previous": places.previous,
            },
        )
    }

    /// Writes down which schema is going to be made, and under which name the one that is there will be kept. To be called
    /// before it is.
    pub fn set_schema(
        self,
        id: i64,
        system_identifier: Option<u64>,
        schema: &str,
        previous: Option<&str>,
    ) -> anyhow::Result<()> {
        self.change(
            id,
            "UPDATE restore_log SET system_identifier = :system_identifier, target_schema = :schema, \
             previous_schema = :previous WHERE id = :id",
            named_params! {
                ":id": id,
                ":system_identifier": system_identifier.map(|number| number.to_string()),
                ":schema": schema,
                ":previous": previous,
            },
        )
    }

    /// Writes down which schema was made, before it is committed. By this number it is known afterwards.
    pub fn set_schema_oid(self, id: i64, oid: u32) -> anyhow::Result<()> {
        let sql = "UPDATE restore_log SET schema_oid = :oid WHERE id = :id";
        self.change(id, sql, named_params! { ":id": id, ":oid": oid })
    }

    /// Writes down which database was made. By this number it is known again after the swap.
    pub fn set_database(self, id: i64, oid: u32) -> anyhow::Result<()> {
        let sql = "UPDATE restore_log SET database_oid = :oid WHERE id = :id";
        self.change(id, sql, named_params! { ":id": id, ":oid": oid })
    }

    /// Writes down that there is no staging database: nothing is left to be cleared up.
    pub fn clear_staging(self, id: i64) -> anyhow::Result<()> {
        let sql = "UPDATE restore_log SET staging_database = NULL WHERE id = :id";
        self.change(id, sql, named_params! { ":id": id })
    }

    /// Writes down what a test restore took.
    pub fn set_measured(self, id: i64, measured: &Measured) -> anyhow::Result<()> {
        self.change(
            id,
            "UPDATE restore_log SET phases = :phases, bytes_fetched = :bytes_fetched, wal_segments = :wal_segments \
             WHERE id = :id",
            named_params! {
                ":id": id,
                ":phases": measured.phases.to_string(),
                ":bytes_fetched": integer(measured.bytes_fetched),
                ":wal_segments": integer(measured.wal_segments),
            },
        )
    }

    fn change(self, id: i64, sql: &str, values: &[(&str, &dyn ToSql)]) -> anyhow::Result<()> {
        let changed = self
            .catalog
            .write("write down the restore's databases", |transaction| transaction.execute(sql, values))?;
        failure::require_one(changed, || format!("no restore {id}"))
    }

    /// Writes down how the restore ended. After [`RestoreState::Done`] there is no staging database: it has become
    /// the one in use. That of a test restore is there until [`Restores::clear_staging`] says otherwise.
    pub fn end(self, id: i64, end: &RestoreEnd) -> anyhow::Result<()> {
        let known = end.state != RestoreState::Died;
        let changed = self.catalog.write("write down how the restore ended", |transaction| {
            transaction.execute(
                "UPDATE restore_log SET state = :state, message = :message, rows = :rows, checks = :checks, \
                 ended_at = :at, staging_database = iif(:state = 'done' AND purpose = 'restore', NULL, staging_database), \
                 seconds = max(0.0, round(unixepoch(:at, 'subsec') - unixepoch(started_at, 'subsec'), 3)) \
                 WHERE id = :id",
                named_params! {
                    ":id": id,
                    ":state": end.state.as_str(),
                    ":message": end.message,
                    ":rows": end.rows.map(integer),
                    ":checks": end.checks.as_ref().map(ToString::to_string),
                    ":at": known.then(|| timestamp_text(end.at)),
                },
            )
        })?;
        failure::require_one(changed, || format!("no restore {id}"))
    }

    /// The restores that have not ended as far as the log knows, oldest first.
    pub fn unfinished(self) -> anyhow::Result<Vec<Restore>> {
        self.catalog.read("look for unfinished restores", |connection| {
            let mut statement =
                connection.prepare("SELECT * FROM restore_log WHERE state = 'running' ORDER BY id")?;
            statement.query_map([], restore)?.collect()
        })
    }

    /// The restores that have not ended as far as the log knows, and those that may have left a staging database.
    pub fn unsettled(self) -> anyhow::Result<Vec<Restore>> {
        self.catalog.read("look for unfinished restores", |connection| {
            let mut statement = connection.prepare(
                "SELECT * FROM restore_log WHERE state = 'running' OR staging_database IS NOT NULL ORDER BY id",
            )?;
            statement.query_map([], restore)?.collect()
        })
    }

    /// The newest test restore of each kind and database that succeeded, newest first.
    pub fn last_tests(self) -> anyhow::Result<Vec<Restore>> {
        self.catalog.read("look for the last test restores", |connection| {
            let mut statement = connection.prepare(
                "SELECT * FROM restore_log WHERE id IN (SELECT max(id) FROM restore_log WHERE purpose = 'test' \
                 AND state = 'done' AND phases IS NOT NULL \
                 GROUP BY substr(backup_id, 18, length(backup_id) - 26), source_database) ORDER BY id DESC",
            )?;
            statement.query_map([], restore)?.collect()
        })
    }

    /// The backups that this run restores, of those whose restore has begun and not ended.
    pub fn running_of(self, run: &RunId) -> anyhow::Result<Vec<BackupId>> {
        self.catalog.read("look what a run restores", |connection| {
            let mut statement = connection
                .prepare("SELECT backup_id FROM restore_log WHERE run_id = :run AND state = 'running'")?;
            statement
                .query_map(named_params! { ":run": run.as_str() }, |row| parsed(row, "backup_id"))?
                .collect()
        })
    }

    /// The last restores, newest first.
    pub fn recent(self, count: usize) -> anyhow::Result<Vec<Restore>> {
        self.catalog.read("list the last restores", |connection| {
            let mut statement =
                connection.prepare("SELECT * FROM restore_log ORDER BY id DESC LIMIT :count")?;
            statement.query_map(named_params! { ":count": integer(count as u64) }, restore)?.collect()
        })
    }
}

fn restore(row: &Row<'_>) -> rusqlite::Result<Restore> {
    Ok(Restore {
        id: row.get("id")?,
        run_id: row.get::<_, Option<String>>("run_id")?.map(RunId::from_catalog),
        backup_id: parsed(row, "backup_id")?,
        purpose: parsed(row, "purpose")?,
        store: parsed_or_null(row, "store")?,
        initiated_by: row.get("initiated_by")?,
        tenant_ids: json_or_null(row, "tenant_ids")?,
        mode: parsed(row, "restore_mode")?,
        target_timestamp: time_or_null(row, "target_timestamp")?,
        source_database: row.get("source_database")?,
        target_database: row.get("target_database")?,
        target_directory: row.get("target_directory")?,
        staging_database: row.get("staging_database")?,
        previous_database: row.get("previous_database")?,
        system_identifier: row.get("system_identifier")?,
        database_oid: row.get("database_oid")?,
        target_schema: row.get("target_schema")?,
        schema_oid: row.get("schema_oid")?,
        previous_schema: row.get("previous_schema")?,
        state: parsed(row, "state")?,
        started_at: time(row, "started_at")?,
        ended_at: time_or_null(row, "ended_at")?,
        seconds: row.get("seconds")?,
        rows: count_or_null(row, "rows")?,
        checks: json_or_null(row, "checks")?,
        message: row.get("message")?,
        phases: json_or_null(row, "phases")?,
        bytes_fetched: count_or_null(row, "bytes_fetched")?,
        wal_segments: count_or_null(row, "wal_segments")?,
    })
}
