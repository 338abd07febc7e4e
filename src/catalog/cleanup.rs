//! What `pgkeep cleanup` asks of the catalog and writes into it, over the tables of backups, copies and WAL.
//!
//! Of half a million WAL files in three stores not all can be looked at each time: what is asked here are ends and ranges.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension as _, Transaction, named_params};

use super::values::{count, parsed, time_or_null};
use super::{Catalog, Proof};
use crate::model::{BackupId, Digest, Fault, Kind, RunId, StoreName, Timestamp, WalName, timestamp_text};

/// Of how many of the last segments of a timeline the time is asked: they are archived in parallel.
const LAST: u32 = 64;

/// What decides about keeping, as far as others may change it meanwhile: when it is the same, nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instant([i64; 5], [String; 2]);

/// How a complete backup stands by its copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Standing {
    /// Whether there is a good copy of each of its objects.
    pub is_covered: bool,
    /// The best proof of all of it in one store; `None` where no store has all of it.
    pub proof: Option<Proof>,
    /// Whether it was restored, and the result checked.
    pub is_restored: bool,
}

/// Where the archived WAL of a timeline begins and ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalEnds {
    /// The timeline.
    pub timeline: u32,
    /// The first segment.
    pub first: WalName,
    /// The last one.
    pub last: WalName,
    /// When the last ones were archived, if that is known of the last.
    pub archived_at: Option<Timestamp>,
}

/// The WAL files of a range that were archived before some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoomedWal {
    /// How many.
    pub files: u64,
    /// Copies of them.
    pub copies: u64,
    /// Bytes in all stores.
    pub bytes: u64,
    /// The first.
    pub first: String,
    /// The last.
    pub last: String,
}

/// A range of WAL: from a name up to another one, which is not in it, or to the end of the timeline.
#[derive(Debug, Clone, Copy)]
pub struct WalStretch<'a> {
    /// The timeline.
    pub timeline: u32,
    /// The first name.
    pub from: &'a WalName,
    /// The first name behind it.
    pub to: Option<&'a WalName>,
}

/// What was marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Marked {
    /// Backups.
    pub backups: u64,
    /// Copies of WAL files.
    pub wal_copies: u64,
}

/// An object of a backup that is being deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaving {
    /// The backup.
    pub backup: BackupId,
    /// The store.
    pub store: StoreName,
    /// The object's name.
    pub object: String,
}

/// A WAL file that is being deleted from a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeavingWal {
    /// The file.
    pub file: WalName,
    /// SHA-256 of its plain bytes.
    pub content_sha256: Digest,
}

/// What can be done.
#[derive(Debug, Clone, Copy)]
pub struct Cleanup<'a> {
    catalog: &'a Catalog,
}

impl<'a> Cleanup<'a> {
    pub(super) fn new(catalog: &'a Catalog) -> Self {
        Self { catalog }
    }

    /// What others may change while it is being decided.
    pub fn instant(self) -> anyhow::Result<Instant> {
        self.catalog.read("look whether something changes", instant)
    }

    /// How every complete backup stands in these stores.
    pub fn standings(self, stores: &[StoreName]) -> anyhow::Result<BTreeMap<BackupId, Standing>> {
        self.catalog.read("look how backups stand", |connection| standings(connection, stores))
    }

    /// When the newest run but this one began, and of when the newest complete backup is.
    pub fn newest(self, but: &RunId) -> anyhow::Result<(Option<Timestamp>, Option<Timestamp>)> {
        self.catalog.read("look for the newest run and backup", |connection| {
            connection.query_row(
                "SELECT (SELECT max(started_at) FROM runs WHERE id <> :id) AS run, \
                 (SELECT max(started_at) FROM backups WHERE status = 'complete') AS backup",
                named_params! { ":id": but.as_str() },
                |row| Ok((time_or_null(row, "run")?, time_or_null(row, "backup")?)),
            )
        })
    }

    /// Where the WAL of every timeline begins and ends; what is being deleted does not count.
    pub fn wal_ends(self) -> anyhow::Result<Vec<WalEnds>> {
        self.catalog.read("look where the archive ends", |connection| {
            let mut next = connection.prepare(
                "SELECT segment FROM wal_segments WHERE segment >= :from AND state <> 'deleting' \
                 AND length(segment) >= 24 ORDER BY segment LIMIT 1",
            )?;
            let (mut found, mut from) = (Vec::new(), "00000001".to_owned());
            let name = |text: String| whole(&text);
            while let Some(first) =
                next.query_row(named_params! { ":from": from }, |row| row.get(0)).optional()?.map(name)
            {
                let first = first?;
                let timeline = first.timeline();
                from = behind(timeline);
                found.extend(ends(connection, timeline, first, &from)?);
                if timeline == u32::MAX {
                    break;
                }
            }
            Ok(found)
        })
    }

    /// What of these files was archived before that time; `None`: nothing.
    pub fn doomed(self, range: &WalStretch<'_>, before: Timestamp) -> anyhow::Result<Option<DoomedWal>> {
        self.catalog.read("count WAL files", |connection| doomed(connection, range, before))
    }

    /// Whether these copies of WAL files are more than half of all that there are.
    pub fn are_most_of_the_wal(self, copies: u64) -> anyhow::Result<bool> {
        self.catalog.read("count WAL files", |connection| {
            let sql =
                "SELECT count(*) FROM (SELECT 1 FROM wal_segments WHERE state <> 'deleting' LIMIT :limit)";
            let limit = super::values::integer(copies.saturating_mul(2));
            let there: i64 =
                connection.query_row(sql, named_params! { ":limit": limit }, |row| row.get(0))?;
            Ok(copies > 0 && there < limit)
        })
    }

    /// Marks backups, with the reason for each, and WAL files that were archived before that time, as being deleted: all
    /// of it or nothing. `None` when something has changed since that instant, so that it must be decided anew.
    pub fn mark(
        self,
        since: &Instant,
        backups: &[(BackupId, String)],
        wal: &[WalStretch<'_>],
        before: Timestamp,
        at: Timestamp,
    ) -> anyhow::Result<Option<Marked>> {
        self.catalog.write("write down what goes", |transaction| {
            if instant(transaction)? != *since {
                return Ok(None);
            }
            let mut marked = Marked::default();
            for (id, reason) in backups {
                marked.backups += mark_backup(transaction, id, reason)?;
            }
            for range in wal {
                marked.wal_copies += mark_wal(transaction, range, before, at)?;
            }
            Ok(Some(marked))
        })
    }

    /// Calls a backup complete again that was to be deleted, of which these stores have everything; `false` when it was not.
    /// What others had is missing there.
    pub fn revive(self, id: &BackupId, whole_in: &[StoreName]) -> anyhow::Result<bool> {
        self.catalog.write("write down what stays after all", |transaction| {
            let id = id.as_str();
            let revived = transaction.execute(
                "UPDATE backups SET status = 'complete', deleted_reason = NULL WHERE id = ?1 AND status = 'deleting'",
                [id],
            )?;
            if revived == 0 {
                return Ok(false);
            }
            transaction.execute("UPDATE copies SET state = 'missing' WHERE backup_id = ?1", [id])?;
            for store in whole_in {
                let sql = "UPDATE copies SET state = 'good' WHERE backup_id = ?1 AND store = ?2";
                transaction.execute(sql, [id, store.as_str()])?;
            }
            Ok(true)
        })
    }

    /// The objects that are being deleted, by backup.
    pub fn leaving(self) -> anyhow::Result<Vec<Leaving>> {
        self.catalog.read("look what is being deleted", |connection| {
            let mut statement = connection.prepare(
                "SELECT backup_id, store, object FROM copies \
                 WHERE backup_id IN (SELECT id FROM backups WHERE status = 'deleting') ORDER BY backup_id, object",
            )?;
            let rows = statement.query_map([], |row| {
                Ok(Leaving {
                    backup: parsed(row, "backup_id")?,
                    store: parsed(row, "store")?,
                    object: row.get("object")?,
                })
            })?;
            rows.collect()
        })
    }

    /// Writes down that a store has nothing of these backups any more.
    pub fn gone(self, store: StoreName, backups: &[BackupId]) -> anyhow::Result<()> {
        self.catalog.write("write down what is deleted", |transaction| {
            let mut statement = transaction.prepare(
                "DELETE FROM copies WHERE store = :store AND backup_id = (SELECT id FROM backups \
                 WHERE id = :id AND status = 'deleting')",
            )?;
            let place = match store {
                StoreName::Local => {
                    "UPDATE backups SET local_path = NULL WHERE id = :id AND status = 'deleting'"
                }
                StoreName::R2 => "UPDATE backups SET r2_path = NULL WHERE id = :id AND status = 'deleting'",
                StoreName::B2 => "UPDATE backups SET b2_path = NULL WHERE id = :id AND status = 'deleting'",
            };
            let mut place = transaction.prepare(place)?;
            for id in backups {
                let named: &[(&str, &dyn rusqlite::ToSql)] =
                    named_params! { ":id": id.as_str(), ":store": store.as_str() };
                statement.execute(named)?;
                place.execute(named_params! { ":id": id.as_str() })?;
            }
            Ok(())
        })
    }

    /// Writes down of which backups no store has anything any more, and returns them.
    pub fn finish(self, at: Timestamp) -> anyhow::Result<Vec<BackupId>> {
        self.catalog.write("write down which backups are deleted", |transaction| {
            let mut statement = transaction.prepare(
                "UPDATE backups SET status = 'deleted', deleted_at = :at WHERE status = 'deleting' \
                 AND NOT EXISTS (SELECT 1 FROM copies WHERE copies.backup_id = backups.id) RETURNING id",
            )?;
            statement
                .query_map(named_params! { ":at": timestamp_text(at) }, |row| parsed(row, "id"))?
                .collect()
        })
    }

    /// WAL files that are being deleted from this store, oldest first, at most so many.
    pub fn leaving_wal(self, store: StoreName, limit: u32) -> anyhow::Result<Vec<LeavingWal>> {
        self.catalog.read("look which WAL is being deleted", |connection| {
            let mut statement = connection.prepare(
                "SELECT segment, content_sha256 FROM wal_segments WHERE state = 'deleting' AND store = :store \
                 ORDER BY segment, content_sha256 LIMIT :limit",
            )?;
            let rows =
                statement.query_map(named_params! { ":store": store.as_str(), ":limit": limit }, |row| {
                    let file = whole(&row.get::<_, String>("segment")?)?;
                    Ok(LeavingWal { file, content_sha256: parsed(row, "content_sha256")? })
                })?;
            rows.collect()
        })
    }

    /// Writes down that a store has these files no more.
    pub fn wal_gone(self, store: StoreName, files: &[LeavingWal]) -> anyhow::Result<()> {
        self.catalog.write("write down which WAL is deleted", |transaction| {
            let mut statement = transaction.prepare(
                "DELETE FROM wal_segments WHERE segment = :segment AND content_sha256 = :sha256 \
                 AND store = :store AND state = 'deleting'",
            )?;
            for file in files {
                statement.execute(named_params! {
                    ":segment": file.file.as_str(),
                    ":sha256": file.content_sha256.to_string(),
                    ":store": store.as_str(),
                })?;
            }
            Ok(())
        })
    }

    /// Writes down that these stretches, each from the first to the last name, are known to be deleted.
    pub fn note_deleted(self, stretches: &[(WalName, WalName)], at: Timestamp) -> anyhow::Result<()> {
        if stretches.is_empty() {
            return Ok(());
        }
        self.catalog.write("write down which WAL was deleted", |transaction| {
            let mut statement = transaction.prepare(
                "INSERT INTO wal_deleted (timeline, first, last, deleted_at) VALUES (:timeline, :first, :last, :at) \
                 ON CONFLICT (timeline, first) DO UPDATE SET last = max(last, excluded.last)",
            )?;
            for (first, last) in stretches {
                statement.execute(named_params! {
                    ":timeline": first.timeline(),
                    ":first": first.as_str(),
                    ":last": last.as_str(),
                    ":at": timestamp_text(at),
                })?;
            }
            Ok(())
        })
    }

    /// The stretches of WAL that were deleted because nothing needed them: the first and the last name of each.
    pub fn wal_deleted(self) -> anyhow::Result<Vec<(String, String)>> {
        self.catalog.read("look which WAL was deleted", |connection| {
            let mut statement =
                connection.prepare("SELECT first, last FROM wal_deleted ORDER BY timeline, first")?;
            statement.query_map([], |row| Ok((row.get("first")?, row.get("last")?)))?.collect()
        })
    }
}

fn instant(connection: &Connection) -> rusqlite::Result<Instant> {
    connection.query_row(
        "SELECT (SELECT count(*) FROM backups WHERE status = 'complete') AS backups, \
         (SELECT count(*) FROM copies WHERE state IN ('missing', 'damaged')) AS bad, \
         (SELECT count(*) FROM backups WHERE kept_at IS NOT NULL) AS pins, \
         (SELECT coalesce(max(id), 0) FROM restore_log) AS restores, \
         (SELECT coalesce(max(rowid), 0) FROM runs WHERE command LIKE '%restore%') AS readers, \
         (SELECT coalesce(max(id), '') FROM backups WHERE status = 'complete') AS newest, \
         (SELECT coalesce(max(kept_at), '') FROM backups WHERE kept_at IS NOT NULL) AS pin",
        [],
        |row| {
            let numbers = [
                row.get("backups")?,
                row.get("bad")?,
                row.get("pins")?,
                row.get("restores")?,
                row.get("readers")?,
            ];
            Ok(Instant(numbers, [row.get("newest")?, row.get("pin")?]))
        },
    )
}

fn standings(
    connection: &Connection,
    stores: &[StoreName],
) -> rusqlite::Result<BTreeMap<BackupId, Standing>> {
    let mut found: BTreeMap<BackupId, Standing> = BTreeMap::new();
    let stores: Vec<String> = stores.iter().map(|store| format!("'{store}'")).collect();
    // What lies in a store that the settings no longer name can't be had.
    let complete = format!(
        "backup_id IN (SELECT id FROM backups WHERE status = 'complete') AND store IN ({})",
        stores.join(", ")
    );
    let mut statement = connection.prepare(&format!(
        "SELECT backup_id, min(state = 'good') AS whole, \
         min(CASE proven_how WHEN 'restored' THEN 4 WHEN 'decrypted' THEN 3 WHEN 'read' THEN 2 ELSE 1 END) AS proof \
         FROM copies WHERE {complete} GROUP BY backup_id, store"
    ))?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let standing = found.entry(parsed(row, "backup_id")?).or_default();
        if row.get::<_, bool>("whole")? {
            standing.is_covered = true;
            let proof = match row.get::<_, u8>("proof")? {
                4 => Proof::Restored,
                3 => Proof::Decrypted,
                2 => Proof::Read,
                _ => Proof::Listed,
            };
            let rank = |proof: Proof| Proof::ALL.iter().position(|other| *other == proof);
            standing.proof = standing.proof.into_iter().chain([proof]).max_by_key(|proof| rank(*proof));
        }
    }
    // What is whole nowhere may be whole in several stores together.
    let mut lost = connection.prepare(&format!(
        "SELECT DISTINCT backup_id FROM (SELECT backup_id FROM copies WHERE {complete} \
         GROUP BY backup_id, object HAVING max(state = 'good') = 0)"
    ))?;
    let lost: BTreeSet<BackupId> =
        lost.query_map([], |row| parsed(row, "backup_id"))?.collect::<rusqlite::Result<_>>()?;
    for (id, standing) in &mut found {
        standing.is_covered |= !lost.contains(id);
    }
    let mut restored = connection.prepare(
        "SELECT DISTINCT backup_id FROM restore_log \
         WHERE state = 'done' AND (purpose = 'test' OR target_database IS NOT NULL) \
         AND (tenant_ids IS NULL OR backup_id IN (SELECT id FROM backups WHERE tenant_id IS NOT NULL))",
    )?;
    for id in restored.query_map([], |row| parsed::<BackupId>(row, "backup_id"))? {
        if let Some(standing) = found.get_mut(&id?) {
            standing.is_restored = true;
        }
    }
    Ok(found)
}

/// The name of the segment around which a WAL file's name is made.
fn whole(text: &str) -> rusqlite::Result<WalName> {
    text.parse().map_err(|_| {
        let fault = Fault::new(Kind::Damaged, format!("\"{text}\" is not the name of a WAL file"));
        rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(fault))
    })
}

/// A text that comes behind the names of all files of the timeline.
fn behind(timeline: u32) -> String {
    timeline.checked_add(1).map_or_else(|| "G".to_owned(), |next| format!("{next:08X}"))
}

fn ends(
    connection: &Connection,
    timeline: u32,
    first: WalName,
    behind: &str,
) -> rusqlite::Result<Option<WalEnds>> {
    let mut statement = connection.prepare_cached(
        "SELECT segment, min(stored_at) AS stored_at FROM wal_segments WHERE segment >= :first \
         AND segment < :behind AND length(segment) = 24 AND state <> 'deleting' \
         GROUP BY segment ORDER BY segment DESC LIMIT :last",
    )?;
    let names = named_params! { ":first": first.as_str(), ":behind": behind, ":last": LAST };
    let rows = statement.query_map(names, |row| {
        Ok((whole(&row.get::<_, String>("segment")?)?, time_or_null(row, "stored_at")?))
    })?;
    let rows: Vec<(WalName, Option<Timestamp>)> = rows.collect::<rusqlite::Result<_>>()?;
    let Some((last, latest)) = rows.first() else { return Ok(None) };
    let archived_at = latest.and_then(|_| rows.iter().filter_map(|(_, at)| *at).max());
    let first = rows.last().map_or(first.clone(), |(oldest, _)| first.min(oldest.clone()));
    Ok(Some(WalEnds { timeline, first, last: last.clone(), archived_at }))
}

fn doomed(
    connection: &Connection,
    range: &WalStretch<'_>,
    before: Timestamp,
) -> rusqlite::Result<Option<DoomedWal>> {
    let behind = range.to.map_or_else(|| behind(range.timeline), ToString::to_string);
    let mut statement = connection.prepare_cached(
        "SELECT count(*) AS files, coalesce(sum(copies), 0) AS copies, coalesce(sum(bytes), 0) AS bytes, \
         min(segment) AS first, max(segment) AS last FROM \
         (SELECT segment, count(*) AS copies, sum(size_bytes) AS bytes FROM wal_segments \
          WHERE segment >= :from AND segment < :behind AND state <> 'deleting' \
          GROUP BY segment HAVING min(stored_at) < :before)",
    )?;
    let names = named_params! {
        ":from": range.from.as_str(), ":behind": behind, ":before": timestamp_text(before),
    };
    statement.query_row(names, |row| {
        let (first, last): (Option<String>, Option<String>) = (row.get("first")?, row.get("last")?);
        let (Some(first), Some(last)) = (first, last) else { return Ok(None) };
        let (files, copies, bytes) = (count(row, "files")?, count(row, "copies")?, count(row, "bytes")?);
        Ok(Some(DoomedWal { files, copies, bytes, first, last }))
    })
}

fn mark_backup(transaction: &Transaction<'_>, id: &BackupId, reason: &str) -> rusqlite::Result<u64> {
    let mut statement = transaction.prepare_cached(
        "UPDATE backups SET status = 'deleting', deleted_reason = :reason WHERE id = :id AND status = 'complete'",
    )?;
    let changed = statement.execute(named_params! { ":id": id.as_str(), ":reason": reason })?;
    let mut statement =
        transaction.prepare_cached("UPDATE copies SET state = 'deleting' WHERE backup_id = :id")?;
    statement.execute(named_params! { ":id": id.as_str() })?;
    Ok(changed as u64)
}

fn mark_wal(
    transaction: &Transaction<'_>,
    range: &WalStretch<'_>,
    before: Timestamp,
    at: Timestamp,
) -> rusqlite::Result<u64> {
    let Some(found) = doomed(transaction, range, before)? else { return Ok(0) };
    let mut statement = transaction.prepare_cached(
        "UPDATE wal_segments SET state = 'deleting', note = NULL \
         WHERE segment >= :first AND segment <= :last AND state <> 'deleting' AND segment IN \
         (SELECT segment FROM wal_segments WHERE segment >= :first AND segment <= :last AND state <> 'deleting' \
          GROUP BY segment HAVING min(stored_at) < :before)",
    )?;
    let changed = statement.execute(named_params! {
        ":first": found.first, ":last": found.last, ":before": timestamp_text(before),
    })?;
    let (first, last) = (short(&found.first), short(&found.last));
    let names = named_params! {
        ":timeline": range.timeline, ":first": first, ":last": last, ":at": timestamp_text(at),
    };
    // The stretch of yesterday grows, if nothing is left in between.
    let grown = transaction.execute(
        "UPDATE wal_deleted SET last = max(last, :last), deleted_at = :at WHERE timeline = :timeline \
         AND first = (SELECT max(first) FROM wal_deleted WHERE timeline = :timeline AND first <= :first) \
         AND NOT EXISTS (SELECT 1 FROM wal_segments WHERE segment > wal_deleted.last || '~' AND segment < :first \
                         AND state <> 'deleting')",
        names,
    )?;
    if grown == 0 {
        transaction.execute(
            "INSERT INTO wal_deleted (timeline, first, last, deleted_at) VALUES (:timeline, :first, :last, :at) \
             ON CONFLICT (timeline, first) DO UPDATE SET last = max(last, excluded.last), deleted_at = excluded.deleted_at",
            names,
        )?;
    }
    Ok(changed as u64)
}

/// The segment in a WAL file's name.
fn short(name: &str) -> &str {
    name.get(..24).unwrap_or(name)
}
