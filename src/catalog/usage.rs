//! The table `store_usage`: what each store held when it was last listed on a day.

use rusqlite::{Row, named_params};
use serde::Serialize;

use super::Catalog;
use super::values::{count, integer, parsed};
use crate::model::{StoreName, Timestamp};

/// What a store held on a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoreUsage {
    /// The day (UTC): `2026-11-28`.
    pub day: String,
    /// The store.
    pub store: StoreName,
    /// Bytes of backups and WAL.
    pub bytes: u64,
    /// Their objects.
    pub objects: u64,
}

/// What can be done with the table of what stores hold.
#[derive(Debug, Clone, Copy)]
pub struct Usage<'a> {
    catalog: &'a Catalog,
}

impl<'a> Usage<'a> {
    pub(super) fn new(catalog: &'a Catalog) -> Self {
        Self { catalog }
    }

    /// Writes down what stores hold now: bytes and objects. What was written before on the same day is replaced.
    pub fn record(self, held: &[(StoreName, u64, u64)], at: Timestamp) -> anyhow::Result<()> {
        if held.is_empty() {
            return Ok(());
        }
        let day = at.format("%F").to_string();
        self.catalog.write("write down what the stores hold", |transaction| {
            let mut statement = transaction.prepare(
                "INSERT INTO store_usage (day, store, bytes, objects) VALUES (:day, :store, :bytes, :objects) \
                 ON CONFLICT (day, store) DO UPDATE SET bytes = excluded.bytes, objects = excluded.objects",
            )?;
            for (store, bytes, objects) in held {
                statement.execute(named_params! {
                    ":day": day,
                    ":store": store.as_str(),
                    ":bytes": integer(*bytes),
                    ":objects": integer(*objects),
                })?;
            }
            Ok(())
        })
    }

    /// What the stores held on each day since this one, by day and store.
    pub fn since(self, day: &str) -> anyhow::Result<Vec<StoreUsage>> {
        self.catalog.read("list what the stores held", |connection| {
            let mut statement =
                connection.prepare("SELECT * FROM store_usage WHERE day >= :day ORDER BY day, store")?;
            statement.query_map(named_params! { ":day": day }, usage)?.collect()
        })
    }
}

fn usage(row: &Row<'_>) -> rusqlite::Result<StoreUsage> {
    Ok(StoreUsage {
        day: row.get("day")?,
        store: parsed(row, "store")?,
        bytes: count(row, "bytes")?,
        objects: count(row, "objects")?,
    })
}
