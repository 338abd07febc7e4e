//! Under which keys things are: a column of `backups` and the table `wal_keys`. Keys are named by their fingerprints.

use std::collections::BTreeMap;

use rusqlite::{Connection, named_params};

use super::values::{count, parsed, time};
use super::{Backups, Wal};
use crate::model::{BackupId, Timestamp, timestamp_text};
use crate::plan::conditions::UsedKey;

impl Backups<'_> {
    /// Writes down under which key a backup's manifest is.
    pub fn sealed_with(self, id: &BackupId, key: &str) -> anyhow::Result<()> {
        self.catalog.write("write down a manifest's key", |transaction| {
            transaction.execute(
                "UPDATE backups SET key = :key WHERE id = :id AND key IS NOT :key",
                named_params! { ":id": id.as_str(), ":key": key },
            )?;
            Ok(())
        })
    }
}

impl Wal<'_> {
    /// Writes down that WAL was sealed with this key at this time.
    pub fn sealed_with(self, key: &str, at: Timestamp) -> anyhow::Result<()> {
        self.catalog.write("write down the key of WAL", |transaction| {
            transaction.execute(
                "INSERT INTO wal_keys (key, sealed_at) VALUES (:key, :at) \
                 ON CONFLICT (key) DO UPDATE SET sealed_at = excluded.sealed_at WHERE sealed_at < excluded.sealed_at",
                named_params! { ":key": key, ":at": timestamp_text(at) },
            )?;
            Ok(())
        })
    }

    /// Writes down under which keys all the WAL is that is there.
    pub fn all_sealed_with(self, keys: &BTreeMap<String, Timestamp>) -> anyhow::Result<()> {
        self.catalog.write("write down the keys of WAL", |transaction| {
            transaction.execute("DELETE FROM wal_keys", [])?;
            let mut statement =
                transaction.prepare("INSERT INTO wal_keys (key, sealed_at) VALUES (:key, :at)")?;
            for (key, at) in keys {
                statement.execute(named_params! { ":key": key, ":at": timestamp_text(*at) })?;
            }
            Ok(())
        })
    }
}

/// The keys that complete backups and WAL that is still there are under.
pub(super) fn used(connection: &Connection) -> rusqlite::Result<Vec<UsedKey>> {
    let mut used: BTreeMap<String, UsedKey> = BTreeMap::new();
    // A column beside max() is of the row that has it (https://www.sqlite.org/lang_select.html, "Bare columns").
    let sql = "SELECT key, count(*) AS backups, id, max(started_at) FROM backups \
               WHERE status = 'complete' AND key IS NOT NULL GROUP BY key";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let entry = of(&mut used, &row.get::<_, String>("key")?);
        entry.backups = count(row, "backups")?;
        entry.newest = Some(parsed(row, "id")?);
    }
    // The oldest of the first segments by name, which goes through the index. Histories stay for ever, and copies that were
    // made later have later times.
    let sql = "SELECT key, sealed_at FROM wal_keys WHERE sealed_at >= (SELECT min(stored_at) FROM (SELECT stored_at \
               FROM wal_segments WHERE state = 'good' AND length(segment) = 24 ORDER BY segment LIMIT 64))";
    let mut statement = connection.prepare(sql)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        of(&mut used, &row.get::<_, String>("key")?).wal_until = Some(time(row, "sealed_at")?);
    }
    Ok(used.into_values().collect())
}

fn of<'a>(used: &'a mut BTreeMap<String, UsedKey>, key: &str) -> &'a mut UsedKey {
    let unused = || UsedKey { key: key.to_owned(), backups: 0, newest: None, wal_until: None };
    used.entry(key.to_owned()).or_insert_with(unused)
}
