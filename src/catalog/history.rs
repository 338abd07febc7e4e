//! The catalog as a file that is kept in the stores, and what is taken over out of such a file: the diary of a machine
//! that is gone.

use std::path::Path;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OptionalExtension as _, Transaction, named_params};
use serde::Serialize;

use super::values::parsed;
use super::{Catalog, failure};
use crate::model::{BackupId, Fault, Kind};
use crate::system::{durable, random_u32};

/// What was taken over and not known before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// Runs.
    pub runs: u64,
    /// Restores.
    pub restores: u64,
    /// Alerts.
    pub alerts: u64,
    /// Backups that had been deleted.
    pub deleted: u64,
    /// Copies of which the last proof was learned.
    pub proofs: u64,
}

impl Taken {
    /// Both together.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            runs: self.runs + other.runs,
            restores: self.restores + other.restores,
            alerts: self.alerts + other.alerts,
            deleted: self.deleted + other.deleted,
            proofs: self.proofs + other.proofs,
        }
    }
}

impl Catalog {
    /// What tells this catalog's copies in the stores from those of others: 8 hexadecimal digits, given at the first
    /// call. The catalog must be somebody's ([`Catalog::take_for`]).
    pub fn lineage(&self) -> anyhow::Result<String> {
        let random = random_u32()?;
        let found = self.write("read the catalog's lineage", |transaction| {
            transaction.execute(
                "UPDATE cluster SET lineage = :lineage WHERE lineage IS NULL",
                named_params! { ":lineage": format!("{random:08x}") },
            )?;
            transaction.query_row("SELECT lineage FROM cluster", [], |row| row.get(0)).optional()
        })?;
        found.ok_or_else(|| Fault::new(Kind::Bug, "the catalog is nobody's").into())
    }

    /// Writes a copy of the catalog, as it is at one instant, into a new file that only its owner may read.
    /// Others may go on writing meanwhile (<https://www.sqlite.org/backup.html>).
    pub fn copy_to(&self, path: &Path) -> anyhow::Result<()> {
        drop(durable::create_private_file(path)?);
        let copy = |connection: &Connection| {
            let mut target = Connection::open(path)?;
            // All at once: in between others could write, and it would begin anew. Nobody waits for who only reads.
            if Backup::new(connection, &mut target)?.step(-1)? != StepResult::Done {
                return Err(rusqlite::Error::SqliteFailure(
                    rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY),
                    None,
                ));
            }
            // One file without a log beside it.
            target.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
            target.close().map_err(|(_, error)| error)
        };
        self.read("copy the catalog", copy)
    }

    /// Takes over what another catalog of this cluster knows and this one does not: runs, restores, alerts, deleted
    /// backups, and when copies were last proven. What is in the stores is for the stores to say. May run again; what
    /// is known already stays as it is.
    ///
    /// A run that had not ended is taken over as one that died: it was another machine's, and nothing of it is cleared
    /// up here. Returned with it: complete backups that the other one knows, newer than all that this one has. The other
    /// catalog is brought to this version's schema first. [`Kind::Refused`] when it is another
    /// cluster's.
    pub fn take_history(&self, other: &Path) -> anyhow::Result<(Taken, Vec<BackupId>)> {
        let doing = "take over the history of another catalog";
        // Brings it up to date, and refuses what is no catalog or a newer one.
        drop(Self::open(other)?);
        let attached = self.connection();
        let name = other.to_string_lossy();
        let fail = |error| failure::describe(&self.path, doing, error);
        attached.execute("ATTACH DATABASE :name AS saved", named_params! { ":name": name }).map_err(fail)?;
        let taken = Transaction::new_unchecked(&attached, rusqlite::TransactionBehavior::Immediate)
            .and_then(|transaction| {
                let taken = take(&transaction)?;
                let missing = missing(&transaction)?;
                transaction.commit()?;
                Ok(taken.map(|taken| (taken, missing)))
            })
            .map_err(fail);
        let detached = attached.execute_batch("DETACH DATABASE saved").map_err(fail);
        match (taken?, detached?) {
            (Some(taken), ()) => Ok(taken),
            (None, ()) => Fault::new(Kind::Refused, "the saved catalog is that of another cluster").err(),
        }
    }
}

/// Complete backups that the saved catalog knows, that are newer than all that this one has, and that it lacks.
fn missing(transaction: &Transaction<'_>) -> rusqlite::Result<Vec<BackupId>> {
    let mut statement = transaction.prepare(
        "SELECT id FROM saved.backups WHERE status = 'complete' \
         AND id > coalesce((SELECT max(id) FROM main.backups WHERE status = 'complete'), '') ORDER BY id",
    )?;
    let ids = statement.query_map([], |row| parsed(row, "id"))?;
    ids.collect()
}

/// Takes over what somebody wants kept; the last word counts.
fn pins(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    transaction.execute_batch(
        "UPDATE backups SET unkept_at = other.unkept_at FROM saved.backups AS other \
         WHERE backups.id = other.id AND other.unkept_at > coalesce(backups.unkept_at, '');
         UPDATE backups SET kept_at = NULL, kept_by = NULL, kept_reason = NULL WHERE kept_at < unkept_at;
         UPDATE backups SET kept_at = other.kept_at, kept_by = other.kept_by, kept_reason = other.kept_reason \
         FROM saved.backups AS other WHERE backups.id = other.id AND backups.kept_at IS NULL \
         AND other.kept_at > coalesce(backups.unkept_at, '')",
    )
}

/// Takes over which backups were deleted. One of which a store that was away still has objects is not brought back: its
/// deletion is to be finished.
fn deleted(transaction: &Transaction<'_>) -> rusqlite::Result<u64> {
    let mut changed = transaction.execute(
        "INSERT INTO backups SELECT * FROM saved.backups WHERE status IN ('deleting', 'deleted') \
         ON CONFLICT (id) DO NOTHING",
        [],
    )?;
    changed += transaction.execute(
        "UPDATE backups SET status = 'deleting', deleted_reason = other.deleted_reason \
         FROM saved.backups AS other WHERE backups.id = other.id AND backups.status = 'complete' \
         AND backups.kept_at IS NULL AND other.status IN ('deleting', 'deleted')",
        [],
    )?;
    transaction.execute_batch(
        "INSERT INTO copies SELECT other.* FROM saved.copies AS other \
         JOIN backups ON backups.id = other.backup_id AND backups.status = 'deleting' WHERE true \
         ON CONFLICT (backup_id, object, store) DO NOTHING;
         UPDATE copies SET state = 'deleting' WHERE state <> 'deleting' \
         AND backup_id IN (SELECT id FROM backups WHERE status = 'deleting');
         INSERT INTO wal_deleted SELECT * FROM saved.wal_deleted WHERE true \
         ON CONFLICT (timeline, first) DO UPDATE SET last = max(last, excluded.last), \
         deleted_at = max(deleted_at, excluded.deleted_at)",
    )?;
    Ok(changed as u64)
}

/// `None` when it is another cluster's.
fn take(transaction: &Transaction<'_>) -> rusqlite::Result<Option<Taken>> {
    let same = "SELECT EXISTS (SELECT 1 FROM cluster JOIN saved.cluster AS other USING (name)) \
                AND (NOT EXISTS (SELECT 1 FROM backups WHERE system_identifier IS NOT NULL) \
                     OR NOT EXISTS (SELECT 1 FROM saved.backups WHERE system_identifier IS NOT NULL) \
                     OR EXISTS (SELECT 1 FROM backups JOIN saved.backups AS other USING (system_identifier)))";
    if !transaction.query_row(same, [], |row| row.get::<_, bool>(0))? {
        return Ok(None);
    }
    let changed = |sql: &str| transaction.execute(sql, []).map(|rows| rows as u64);
    Ok(Some(Taken {
        runs: changed(
            "INSERT INTO runs (id, command, arguments, subject, user, sudo_user, host, terminal, pid, pgkeep_version, \
             started_at, ended_at, seconds, outcome, exit_code, message, scratch_directory, staging_directory) \
             SELECT id, command, arguments, subject, user, sudo_user, host, terminal, pid, pgkeep_version, \
             started_at, ended_at, seconds, iif(outcome = 'running', 'died', outcome), exit_code, \
             iif(outcome = 'running', 'had not ended when its catalog was last saved', message), \
             scratch_directory, staging_directory FROM saved.runs WHERE true \
             ON CONFLICT (id) DO UPDATE SET outcome = excluded.outcome, ended_at = excluded.ended_at, \
             seconds = excluded.seconds, exit_code = excluded.exit_code, message = excluded.message \
             WHERE runs.outcome = 'died' AND excluded.outcome <> 'died'",
        )?,
        restores: changed(
            "INSERT INTO restore_log (run_id, backup_id, initiated_by, tenant_ids, restore_mode, target_timestamp, \
             source_database, target_database, previous_database, state, started_at, ended_at, seconds, rows, checks, \
             message, system_identifier, database_oid, purpose, store, phases, bytes_fetched, wal_segments) \
             SELECT run_id, backup_id, initiated_by, tenant_ids, restore_mode, target_timestamp, source_database, \
             target_database, previous_database, iif(state = 'running', 'died', state), started_at, ended_at, seconds, \
             rows, checks, iif(state = 'running', 'had not ended when its catalog was last saved', message), \
             system_identifier, database_oid, purpose, store, phases, bytes_fetched, wal_segments FROM saved.restore_log AS other \
             WHERE NOT EXISTS (SELECT 1 FROM main.restore_log AS own WHERE own.run_id IS other.run_id \
                               AND own.started_at = other.started_at AND own.backup_id = other.backup_id) \
             ORDER BY id",
        )?,
        alerts: changed(
            // Nobody is told again of what the other catalog had to tell.
            "INSERT INTO alerts (alert_type, severity, message, notification_channels, created_at, acknowledged_at, \
             subject, last_seen_at, times, closed_at, closed_message, acknowledged_by, note, run_id) \
             SELECT alert_type, severity, message, coalesce(notification_channels, '[]'), created_at, acknowledged_at, \
             subject, last_seen_at, times, closed_at, closed_message, acknowledged_by, note, run_id \
             FROM saved.alerts AS other \
             WHERE NOT EXISTS (SELECT 1 FROM main.alerts AS own WHERE own.created_at = other.created_at \
                               AND own.alert_type = other.alert_type AND own.message = other.message) ORDER BY id",
        )?,
        deleted: {
            pins(transaction)?;
            deleted(transaction)?
        },
        proofs: {
            changed(
                "UPDATE backups SET run_id = other.run_id FROM saved.backups AS other \
                 WHERE backups.id = other.id AND backups.run_id IS NULL AND other.run_id IS NOT NULL",
            )?;
            // Seen to be there says nothing of bytes that were once found to be wrong.
            changed(
                "UPDATE copies SET state = 'damaged', note = other.note FROM saved.copies AS other \
                 WHERE copies.backup_id = other.backup_id AND copies.object = other.object \
                 AND copies.store = other.store AND copies.sha256 = other.sha256 AND copies.state = 'good' \
                 AND copies.proven_how = 'listed' AND other.state = 'damaged'",
            )?;
            // That a store listed it is what this catalog has just seen itself.
            changed(
                "UPDATE copies SET proven_at = other.proven_at, proven_how = other.proven_how \
                 FROM saved.copies AS other \
                 WHERE copies.backup_id = other.backup_id AND copies.object = other.object \
                 AND copies.store = other.store AND copies.sha256 = other.sha256 AND copies.state = 'good' \
                 AND other.state = 'good' AND other.proven_how <> 'listed' \
                 AND other.proven_at <= strftime('%Y-%m-%dT%H:%M:%fZ', 'now') \
                 AND (coalesce(copies.proven_how, 'listed') = 'listed' OR other.proven_at > copies.proven_at)",
            )?
        },
    }))
}
