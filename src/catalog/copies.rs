//! The table `copies`: every object of every backup in every store in which it should be.

use rusqlite::{Row, Transaction, named_params};
use serde::Serialize;

use super::values::{count, integer, parsed, parsed_or_null, time_or_null};
use super::words::words;
use super::{Catalog, failure};
use crate::model::{BackupId, Digest, StoreName, Timestamp, timestamp_text};

words! {
    /// What is known of a copy.
    pub enum CopyState {
        /// It is there.
        Good = "good",
        /// It was never made, and is to be.
        Owed = "owed",
        /// It was there and no longer is.
        Missing = "missing",
        /// It is there and is not what was written.
        Damaged = "damaged",
        /// It is being deleted.
        Deleting = "deleting",
    }
}

words! {
    /// How it was found out that a copy is what it should be.
    pub enum Proof {
        /// It was written, and the store said that it is durable.
        Written = "written",
        /// The store lists it with the right size: it is there, its bytes were not looked at.
        Listed = "listed",
        /// It was read, and its SHA-256 is right.
        Read = "read",
        /// It was decrypted, and the plain bytes' SHA-256 are right.
        Decrypted = "decrypted",
        /// It was restored, and the result was checked.
        Restored = "restored",
    }
}

impl Proof {
    /// Whether the copy's bytes were looked at, or just written: more than that a store lists it.
    pub const fn is_of_its_bytes(self) -> bool {
        !matches!(self, Self::Listed)
    }
}

/// The proofs by weight, as SQL compares them: what stands further behind is stronger.
const BY_WEIGHT: &str = "'listed written read decrypted restored'";

/// The SQL of the column `proven_how` after a copy was read again in the way of `:how`. Its bytes are the same as before,
/// by their SHA-256, so what they were once proven to be good for, they still are: the stronger word stays.
pub(super) fn stronger() -> String {
    format!("iif(instr({BY_WEIGHT}, proven_how) > instr({BY_WEIGHT}, :how), proven_how, :how)")
}

/// A copy as the catalog has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CopyRow {
    /// The backup.
    pub backup_id: BackupId,
    /// The object's name within it: `manifest`, `data.00000`.
    pub object: String,
    /// The store.
    pub store: StoreName,
    /// The object's size.
    pub size_bytes: u64,
    /// SHA-256 of the object as it is stored.
    pub sha256: Digest,
    /// What is known of it.
    pub state: CopyState,
    /// When it was last found present with its size.
    #[serde(serialize_with = "super::values::time_or_null_as_text")]
    pub seen_at: Option<Timestamp>,
    /// When its bytes were last found right, or written; of a copy that was only ever listed, when that first was so.
    #[serde(serialize_with = "super::values::time_or_null_as_text")]
    pub proven_at: Option<Timestamp>,
    /// The strongest proof that this copy ever had; there exactly when `proven_at` is.
    pub proven_how: Option<Proof>,
    /// What was found when it was last found wrong.
    pub note: Option<String>,
}

/// What names a copy.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CopyKey {
    /// The backup.
    pub backup_id: BackupId,
    /// The object's name within it.
    pub object: String,
    /// The store.
    pub store: StoreName,
}

/// What can be done with the table of copies.
#[derive(Debug, Clone, Copy)]
pub struct Copies<'a> {
    catalog: &'a Catalog,
}

impl<'a> Copies<'a> {
    pub(super) fn new(catalog: &'a Catalog) -> Self {
        Self { catalog }
    }

    /// The copies of a backup's objects, by object, then by store.
    pub fn of(self, backup: &BackupId) -> anyhow::Result<Vec<CopyRow>> {
        self.catalog.read("list the copies of a backup", |connection| {
            let mut statement = connection
                .prepare("SELECT * FROM copies WHERE backup_id = :backup_id ORDER BY object, store")?;
            statement.query_map(named_params! { ":backup_id": backup.as_str() }, copy)?.collect()
        })
    }

    /// The copies of every complete backup, by backup, object and store.
    pub fn of_complete(self) -> anyhow::Result<Vec<CopyRow>> {
        self.catalog.read("list the copies of all backups", |connection| {
            let mut statement = connection.prepare(
                "SELECT * FROM copies WHERE backup_id IN (SELECT id FROM backups WHERE status = 'complete') \
                 ORDER BY backup_id, object, store",
            )?;
            statement.query_map([], copy)?.collect()
        })
    }

    /// Writes down that a store should hold every object of every complete backup: what the catalog has no row of is
    /// owed. Returns how many were not known.
    pub fn expect_in(self, store: StoreName) -> anyhow::Result<usize> {
        self.catalog.write("write down which copies are owed", |transaction| {
            transaction.execute(
                "INSERT INTO copies (backup_id, object, store, size_bytes, sha256, state) \
                 SELECT copies.backup_id, object, :store, min(copies.size_bytes), min(sha256), 'owed' \
                 FROM copies JOIN backups ON backups.id = copies.backup_id WHERE backups.status = 'complete' \
                 AND NOT EXISTS (SELECT 1 FROM copies AS known WHERE known.backup_id = copies.backup_id \
                 AND known.object = copies.object AND known.store = :store) \
                 GROUP BY copies.backup_id, object \
                 ON CONFLICT (backup_id, object, store) DO NOTHING",
                named_params! { ":store": store.as_str() },
            )
        })
    }

    /// Writes down what was found out about copies, all at once; the note replaces an older one.
    pub fn set_states(self, found: &[(CopyKey, CopyState, String)]) -> anyhow::Result<()> {
        if found.is_empty() {
            return Ok(());
        }
        let missing = self.catalog.write("write down the states of copies", |transaction| {
            let mut statement = transaction.prepare(
                "UPDATE copies SET state = :state, note = :note \
                 WHERE backup_id = :backup_id AND object = :object AND store = :store AND state <> 'deleting'",
            )?;
            // Of a backup that is deleted meanwhile nothing more is to be found out.
            let mut leaving = transaction.prepare(
                "SELECT 1 FROM backups WHERE id = :id AND status IN ('deleting', 'deleted')",
            )?;
            let mut missing = None;
            for (key, state, note) in found {
                let changed = statement.execute(named_params! {
                    ":backup_id": key.backup_id.as_str(),
                    ":object": key.object,
                    ":store": key.store.as_str(),
                    ":state": state.as_str(),
                    ":note": note,
                })?;
                if changed == 0 && !leaving.exists(named_params! { ":id": key.backup_id.as_str() })? {
                    missing = missing.or(Some(key));
                }
            }
            Ok(missing)
        })?;
        let name =
            |key: &CopyKey| format!("no copy of {} of {} in store {}", key.object, key.backup_id, key.store);
        failure::require_one(usize::from(missing.is_none()), || missing.map_or_else(String::new, name))
    }

    /// Writes down that copies hold other bytes now: their size and SHA-256. To be followed by a proof.
    pub fn became(self, copies: &[(CopyKey, u64, Digest)]) -> anyhow::Result<()> {
        if copies.is_empty() {
            return Ok(());
        }
        self.catalog.write("write down what copies hold now", |transaction| {
            let mut statement = transaction.prepare(
                "UPDATE copies SET size_bytes = :size_bytes, sha256 = :sha256 WHERE backup_id = :backup_id \
                 AND object = :object AND store = :store AND (size_bytes <> :size_bytes OR sha256 <> :sha256)",
            )?;
            for (key, size_bytes, sha256) in copies {
                statement.execute(named_params! {
                    ":backup_id": key.backup_id.as_str(),
                    ":object": key.object,
                    ":store": key.store.as_str(),
                    ":size_bytes": integer(*size_bytes),
                    ":sha256": sha256.to_string(),
                })?;
            }
            Ok(())
        })
    }

    /// Writes down that these copies were found to be what they should be, all at once. Keys that the catalog does
    /// not have are passed over: their backup's row is made up later.
    ///
    /// A proof by reading makes a copy good and its proof a new one; the word for it becomes weaker only when the copy is
    /// written anew. [`Proof::Listed`] says less: it makes a missing or owed copy good, but not a damaged one, and renews
    /// no proof; of a copy that was only ever listed, `proven_at` is the first time and `seen_at` the last. One that was
    /// missing and is listed again may be another than the one that was proven, and is proven no more. A copy that is being
    /// deleted stays so.
    pub fn prove(self, copies: &[CopyKey], how: Proof, at: Timestamp) -> anyhow::Result<()> {
        const OF_THE_COPY: &str =
            "WHERE backup_id = :backup_id AND object = :object AND store = :store AND state <> 'deleting'";
        let sql = match how {
            Proof::Listed => format!(
                "UPDATE copies SET seen_at = :at, \
                 proven_at = iif(state IN ('missing', 'owed'), :at, coalesce(proven_at, :at)), \
                 proven_how = iif(state IN ('missing', 'owed'), :how, coalesce(proven_how, :how)), \
                 note = iif(state IN ('missing', 'owed'), NULL, note), \
                 state = iif(state IN ('missing', 'owed'), 'good', state) {OF_THE_COPY}"
            ),
            Proof::Written => format!(
                "UPDATE copies SET seen_at = :at, proven_at = :at, proven_how = :how, state = 'good', note = NULL \
                 {OF_THE_COPY}"
            ),
            Proof::Read | Proof::Decrypted | Proof::Restored => format!(
                "UPDATE copies SET seen_at = :at, proven_at = :at, proven_how = {}, state = 'good', note = NULL \
                 {OF_THE_COPY}",
                stronger()
            ),
        };
        let at = timestamp_text(at);
        self.catalog.write("write down that copies are proven", |transaction| {
            let mut statement = transaction.prepare(&sql)?;
            // What an index holds is written anew even where it stays the same: it is left out where nothing changes but
            // the time, which in a listing of 100,000 objects is so nearly everywhere.
            let mut seen_again = transaction.prepare(
                "UPDATE copies SET seen_at = :at WHERE backup_id = :backup_id AND object = :object \
                 AND store = :store AND state = 'good' AND proven_how IS NOT NULL",
            )?;
            for key in copies {
                let known = named_params! {
                    ":backup_id": key.backup_id.as_str(),
                    ":object": key.object,
                    ":store": key.store.as_str(),
                    ":at": at,
                };
                if how == Proof::Listed && seen_again.execute(known)? > 0 {
                    continue;
                }
                statement.execute(named_params! {
                    ":backup_id": key.backup_id.as_str(),
                    ":object": key.object,
                    ":store": key.store.as_str(),
                    ":how": how.as_str(),
                    ":at": at,
                })?;
            }
            Ok(())
        })
    }
}

/// Adds a copy unless it is known.
pub(super) fn insert(transaction: &Transaction<'_>, copy: &CopyRow) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT INTO copies (backup_id, object, store, size_bytes, sha256, state, seen_at, proven_at, proven_how, \
         note) VALUES (:backup_id, :object, :store, :size_bytes, :sha256, :state, :seen_at, :proven_at, \
         :proven_how, :note) ON CONFLICT (backup_id, object, store) DO NOTHING",
    )?;
    statement.execute(named_params! {
        ":backup_id": copy.backup_id.as_str(),
        ":object": copy.object,
        ":store": copy.store.as_str(),
        ":size_bytes": integer(copy.size_bytes),
        ":sha256": copy.sha256.to_string(),
        ":state": copy.state.as_str(),
        ":seen_at": copy.seen_at.map(timestamp_text),
        ":proven_at": copy.proven_at.map(timestamp_text),
        ":proven_how": copy.proven_how.map(Proof::as_str),
        ":note": copy.note,
    })?;
    Ok(())
}

fn copy(row: &Row<'_>) -> rusqlite::Result<CopyRow> {
    Ok(CopyRow {
        backup_id: parsed(row, "backup_id")?,
        object: row.get("object")?,
        store: parsed(row, "store")?,
        size_bytes: count(row, "size_bytes")?,
        sha256: parsed(row, "sha256")?,
        state: parsed(row, "state")?,
        seen_at: time_or_null(row, "seen_at")?,
        proven_at: time_or_null(row, "proven_at")?,
        proven_how: parsed_or_null(row, "proven_how")?,
        note: row.get("note")?,
    })
}
