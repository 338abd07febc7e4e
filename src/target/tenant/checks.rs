//! Foreign keys, which were switched off, for the rows that were written and for those that were removed.

use super::Restoring;
use crate::model::{Fault, Kind};
use crate::plan::tenants::{ForeignKey, TableName};
use crate::postgres::quote::{identifier, qualified};

impl Restoring<'_> {
    /// Checks every foreign key that these rows are part of; returns how many. A reference that is left open is refused.
    ///
    /// Each statement sees what others have committed until then, and keeps the rows that are referred to from being
    /// deleted until the end: as the server's own triggers do (`RI_FKey_check` and `RI_FKey_noaction_del` in
    /// `ri_triggers.c`).
    pub(super) async fn check_references(&self) -> anyhow::Result<u64> {
        let mut checked = 0;
        for key in &self.graph.foreign_keys {
            let child = self.sides.iter().find(|side| side.name == key.child);
            let parent = self.sides.iter().find(|side| side.name == key.parent);
            if let Some(side) = child
                && key.columns.iter().all(|column| side.common.contains(column))
            {
                let open = self.without_parents(&self.written(side), key).await?;
                refuse(open, key, "referring to rows that are not there")?;
                checked += 1;
            }
            if let Some(side) = parent {
                let removed = format!("pg_temp.pgkeep_out_{}", side.number);
                let open = self.still_referred_to(&removed, key).await?;
                refuse(open, key, "referring to rows that would be gone")?;
            }
        }
        Ok(checked)
    }

    /// Written rows whose parent is not there.
    async fn without_parents(&self, written: &str, key: &ForeignKey) -> anyhow::Result<i64> {
        let wanted: Vec<String> = key.columns.iter().map(|name| format!("w.{}", identifier(name))).collect();
        let set: Vec<String> = wanted.iter().map(|column| format!("{column} IS NOT NULL")).collect();
        let named: Vec<String> =
            wanted.iter().enumerate().map(|(at, column)| format!("{column} AS k{at}")).collect();
        let equal = key.parent_columns.iter().enumerate();
        let equal: Vec<String> =
            equal.map(|(at, name)| format!("p.{} = k.k{at}", identifier(name))).collect();
        let count = 0..key.columns.len();
        let same: Vec<String> = count.clone().map(|at| format!("h.k{at} = k.k{at}")).collect();
        let keys: Vec<String> = count.map(|at| format!("k.k{at}")).collect();
        let sql = format!(
            "WITH k AS MATERIALIZED (SELECT DISTINCT {} FROM {written} AS w WHERE {}), \
             held AS MATERIALIZED (SELECT {} FROM {} AS p JOIN k ON {} FOR KEY SHARE OF p) \
             SELECT count(*) FROM k WHERE NOT EXISTS (SELECT FROM held AS h WHERE {})",
            named.join(", "),
            set.join(" AND "),
            keys.join(", "),
            self.table(&key.parent),
            equal.join(" AND "),
            same.join(" AND ")
        );
        let action = format!("check the foreign key {} of {}", key.name, key.child);
        Ok(self.server.query_one(&action, &sql, &[]).await?.get(0))
    }

    /// A table as foreign keys see it: without those that inherit from it.
    fn table(&self, name: &TableName) -> String {
        let facts = self.graph.table(name).map(|table| &table.facts).or_else(|| self.graph.shared(name));
        let qualified = qualified(&name.schema, &name.name);
        if facts.is_some_and(|facts| facts.partitioned) { qualified } else { format!("ONLY {qualified}") }
    }

    /// Rows, anybody's, that refer to a removed row which has not come back.
    async fn still_referred_to(&self, removed: &str, key: &ForeignKey) -> anyhow::Result<i64> {
        let pairs = || key.columns.iter().zip(&key.parent_columns);
        let refer: Vec<String> = pairs()
            .map(|(own, theirs)| format!("c.{} = r.{}", identifier(own), identifier(theirs)))
            .collect();
        let back: Vec<String> =
            key.parent_columns.iter().map(|name| format!("p.{0} = r.{0}", identifier(name))).collect();
        let sql = format!(
            "SELECT count(*) FROM {removed} AS r JOIN {} AS c ON {} WHERE NOT EXISTS (SELECT FROM {} AS p WHERE {})",
            self.table(&key.child),
            refer.join(" AND "),
            self.table(&key.parent),
            back.join(" AND ")
        );
        let action = format!("check the foreign key {} of {}", key.name, key.child);
        Ok(self.server.query_one(&action, &sql, &[]).await?.get(0))
    }
}

fn refuse(count: i64, key: &ForeignKey, what: &str) -> anyhow::Result<()> {
    if count == 0 {
        return Ok(());
    }
    let rows = super::rows(count);
    let message = format!("{rows} of {} {what} in {} (foreign key {})", key.child, key.parent, key.name);
    Fault::new(Kind::Refused, message)
        .hint("Nothing was changed. `--dry-run --show-rows 20` shows what would be written.")
        .err()
}
