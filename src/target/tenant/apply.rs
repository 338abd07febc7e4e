//! Writing what differs: in every table first what goes, then in every table what comes.

use serde::Serialize;

use super::{Restoring, Side};
use crate::model::{Fault, FaultContext as _, Kind};
use crate::postgres::quote::{identifier, literal, qualified};
use crate::system::{Step, step};

/// What was written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// Rows that were written, those that replace others included.
    pub written: u64,
    /// Rows that were removed, those that were replaced included.
    pub removed: u64,
    /// Foreign keys that were checked for these rows.
    pub foreign_keys: u64,
    /// Tables of which the rows of everybody else were counted and summed up, before and after.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub proven: Vec<Proven>,
}

/// The rows of everybody else in one table, before and after.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proven {
    /// The table.
    pub table: String,
    /// How many there were.
    pub rows: u64,
    /// Whether count and checksum are the same; if not, others have written meanwhile.
    pub same: bool,
}

impl Restoring<'_> {
    /// Writes and checks; nobody sees anything of it yet.
    pub async fn apply(&self, prove_others: bool) -> anyhow::Result<Applied> {
        let mut applied = Applied::default();
        let before = if prove_others { self.others().await? } else { Vec::new() };
        for side in &self.sides {
            let removed = self.remove(side).await?;
            applied.removed += removed;
        }
        step::reached(Step::TenantRemoved)?;
        let mut counts = Vec::with_capacity(self.sides.len());
        for side in &self.sides {
            let written = self.write(side).await?;
            applied.written += written;
            counts.push(written);
        }
        applied.foreign_keys = self.check_references().await?;
        self.refuse_other_writes(&applied).await?;
        self.refuse_difference().await?;
        if prove_others {
            let after = self.others().await?;
            applied.proven = before
                .into_iter()
                .zip(after)
                .map(|((table, rows, sum), after)| Proven {
                    table,
                    rows,
                    same: (rows, sum) == (after.1, after.2),
                })
                .collect();
        }
        for (side, written) in self.sides.iter().zip(counts) {
            if written > 0 {
                self.lift_sequences(side).await?;
            }
        }
        step::reached(Step::TenantWritten)?;
        Ok(applied)
    }

    /// Makes it so. Not to be broken off: nobody would know whether it is.
    pub async fn commit(self) -> anyhow::Result<()> {
        self.server.run("commit the tenant's rows", "COMMIT").await?;
        step::reached(Step::TenantCommitted)
    }

    /// Switches triggers and foreign keys off, for this transaction alone.
    pub(super) async fn suspend(&self) -> anyhow::Result<()> {
        let sql = "SET LOCAL session_replication_role = replica";
        self.server.run("switch triggers off for this transaction", sql).await.or_fault(|| {
            Fault::new(
                Kind::Postgres,
                "a tenant can't be restored by this user: triggers would fire a second time",
            )
            .hint(
                "Restore as a superuser, or (PostgreSQL 15 and newer) GRANT SET ON PARAMETER \
                     session_replication_role TO the role.",
            )
        })
    }

    /// Removes what goes, and keeps of what is replaced the columns that the backup does not know.
    async fn remove(&self, side: &Side) -> anyhow::Result<u64> {
        let action = format!("remove rows of {}", side.name);
        let out = format!("pgkeep_out_{}", side.number);
        let sql = format!(
            "CREATE TEMP TABLE {out} ON COMMIT DROP AS SELECT * FROM {} AS r; ANALYZE pg_temp.{out}",
            self.removed(side)
        );
        self.server.run(&action, &sql).await?;
        // By the key, because that has an index, and by the place: a row that somebody has changed since is another one.
        let by_key = side.key.iter().map(|name| format!("t.{0} = r.{0} AND ", identifier(name)));
        let sql = format!(
            "WITH gone AS (DELETE FROM {} AS t USING pg_temp.{out} AS r \
             WHERE {}t.tableoid = r.pgkeep_relation AND t.ctid = r.pgkeep_place AND {} = r.pgkeep_row RETURNING 1) \
             SELECT (SELECT count(*) FROM gone), (SELECT count(*) FROM pg_temp.{out})",
            side.relation(),
            by_key.collect::<String>(),
            // A place may be somebody else's row by now.
            side.row_of("t")
        );
        let row = self.server.query_one(&action, &sql, &[]).await?;
        let (gone, wanted): (i64, i64) = (row.get(0), row.get(1));
        if gone != wanted {
            return Err(self.written_meanwhile(side).into());
        }
        Ok(gone.cast_unsigned())
    }

    /// Writes what comes.
    async fn write(&self, side: &Side) -> anyhow::Result<u64> {
        let action = format!("write rows of {}", side.name);
        let written = format!("{} AS w", self.written(side));
        let columns =
            |names: &[String]| names.iter().map(|name| identifier(name)).collect::<Vec<_>>().join(", ");
        // Those of identity too, also where it is always generated.
        let into = format!("INSERT INTO {}", qualified(&side.name.schema, &side.name.name));
        let old = format!("pg_temp.pgkeep_out_{}", side.number);
        let fresh = format!(
            "{into} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {written} WHERE {}",
            columns(&side.common),
            side.columns("w"),
            if side.only_now.is_empty() {
                "true".to_owned()
            } else {
                format!("NOT EXISTS (SELECT FROM {old} AS o WHERE o.pgkeep_key = w.pgkeep_key)")
            }
        );
        let mut rows = self.execute(&action, &fresh).await?;
        if !side.only_now.is_empty() {
            let all: Vec<String> = side.common.iter().chain(&side.only_now).cloned().collect();
            let kept = format!(
                "{into} ({}) OVERRIDING SYSTEM VALUE SELECT {}, {} FROM {written} JOIN {old} AS o ON o.pgkeep_key = w.pgkeep_key",
                columns(&all),
                side.columns("w"),
                super::list(&side.only_now, "o")
            );
            rows += self.execute(&action, &kept).await?;
        }
        Ok(rows)
    }

    async fn execute(&self, action: &str, sql: &str) -> anyhow::Result<u64> {
        match self.server.client().execute(sql, &[]).await {
            Ok(rows) => Ok(rows),
            Err(error) => {
                let is_conflict = error.code().is_some_and(|code| code.code().starts_with("23"));
                let failed = self.server.failed(action, &error).await;
                if is_conflict {
                    let fault = Fault::new(
                        Kind::Refused,
                        format!("the tenant's rows can't be put back: {action}"),
                    )
                    .hint("Nothing was changed. See with --dry-run --show-rows 20 what stands in the way.");
                    return Err(failed.context(fault));
                }
                Err(failed)
            }
        }
    }

    pub(super) fn written_meanwhile(&self, side: &Side) -> Fault {
        let message = format!(
            "rows of tenant \"{}\" in {} were written by somebody else meanwhile",
            self.tenant.id, side.name
        );
        Fault::new(Kind::Refused, message)
            .hint("Nothing was changed. Keep this tenant's own users out for the time of the restore, and run it again.")
    }

    /// The tenant must now have what the backup has, also if somebody wrote meanwhile.
    async fn refuse_difference(&self) -> anyhow::Result<()> {
        self.look().await?;
        for (side, plan) in self.sides.iter().zip(self.compare(0).await?) {
            if plan.insert + plan.update + plan.delete > 0 {
                return Err(self.written_meanwhile(side).into());
            }
        }
        Ok(())
    }

    /// What the server itself has counted in this transaction must be what was meant, in every table of the database.
    async fn refuse_other_writes(&self, applied: &Applied) -> anyhow::Result<()> {
        let counted = self.counters().await?;
        let since = |at: usize| counted[at] - self.baseline[at];
        let (inserted, deleted, updated, strange) = (since(0), since(1), since(2), since(3));
        let right = inserted.cast_unsigned() == applied.written && deleted.cast_unsigned() == applied.removed;
        if counted[4] == 1 && !(right && updated == 0 && strange == 0) {
            let message = format!(
                "other rows than those of tenant \"{}\" would have been written: {inserted} inserted and {deleted} deleted \
                 where {} and {} were meant, {updated} updated, {strange} in other tables",
                self.tenant.id, applied.written, applied.removed
            );
            return Fault::new(Kind::Refused, message)
                .hint("Nothing was changed. Is there a trigger that fires ALWAYS, or a rule, on one of the tables?")
                .err();
        }
        Ok(())
    }

    /// Rows inserted into and deleted from the tenants' tables, updated anywhere, and inserted or deleted elsewhere, as the
    /// server counts them; and 1 if it does. What earlier transactions of the session did may still be among them.
    pub(super) async fn counters(&self) -> anyhow::Result<[i64; 5]> {
        let ours: Vec<String> =
            self.sides.iter().map(|side| literal(&qualified(&side.name.schema, &side.name.name))).collect();
        let sql = format!(
            "SELECT coalesce(sum(ins) FILTER (WHERE mine), 0)::int8, coalesce(sum(del) FILTER (WHERE mine), 0)::int8, \
               coalesce(sum(upd), 0)::int8, coalesce(sum(ins + del) FILTER (WHERE NOT mine), 0)::int8, \
               current_setting('track_counts')::bool::int::int8 \
             FROM (SELECT pg_stat_get_xact_tuples_inserted(c.oid) AS ins, pg_stat_get_xact_tuples_deleted(c.oid) AS del, \
                          pg_stat_get_xact_tuples_updated(c.oid) AS upd, \
                          coalesce(pg_partition_root(c.oid), c.oid) = ANY (ARRAY[{}]::regclass[]) AS mine \
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                   WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_') AS counted",
            ours.join(", ")
        );
        let row = self.server.query_one("ask what was written", &sql, &[]).await?;
        Ok(std::array::from_fn(|at| row.get(at)))
    }

    /// Count and checksum of everybody else's rows in each of the tables.
    async fn others(&self) -> anyhow::Result<Vec<(String, u64, String)>> {
        let mut found = Vec::with_capacity(self.sides.len());
        for side in &self.sides {
            let sql = format!(
                "SELECT count(*), coalesce(sum(hashtextextended(t::text, 0)), 0)::text FROM {} \
                 WHERE ({owner}) IS DISTINCT FROM {}",
                side.selection.from,
                self.id(),
                owner = side.selection.owner
            );
            let action = format!("sum up everybody else's rows of {}", side.name);
            let row = self.server.query_one(&action, &sql, &[]).await?;
            found.push((side.name.to_string(), row.get::<_, i64>(0).cast_unsigned(), row.get(1)));
        }
        Ok(found)
    }

    /// Sequences must not give out again what the rows that came back hold.
    async fn lift_sequences(&self, side: &Side) -> anyhow::Result<()> {
        let Some(table) = self.graph.table(&side.name) else { return Ok(()) };
        let name = qualified(&side.name.schema, &side.name.name);
        let numbered = table.facts.columns.iter().filter(|column| column.numbered);
        for column in numbered.filter(|column| side.common.contains(&column.name)) {
            let action = format!("lift the sequence of {}.{}", side.name, column.name);
            let sql = format!("SELECT pg_get_serial_sequence({}, {})", literal(&name), literal(&column.name));
            let Some(sequence) = self.server.query_one(&action, &sql, &[]).await?.get::<_, Option<String>>(0)
            else {
                continue;
            };
            // Upwards or downwards, as it counts; never back. One that was not asked yet gives out `last_value` first.
            let sql = format!(
                "SELECT setval({0}::regclass, l.value) FROM {sequence} AS q, pg_sequence AS s, \
                   LATERAL (SELECT CASE WHEN s.seqincrement > 0 THEN max(x.{1}) ELSE min(x.{1}) END::int8 AS value \
                            FROM {2} AS x) AS l \
                 WHERE s.seqrelid = {0}::regclass AND l.value BETWEEN s.seqmin AND s.seqmax \
                   AND CASE WHEN s.seqincrement > 0 THEN l.value > q.last_value - (NOT q.is_called)::int \
                            ELSE l.value < q.last_value + (NOT q.is_called)::int END",
                literal(&sequence),
                identifier(&column.name),
                side.then()
            );
            self.server.query(&action, &sql, &[]).await?;
        }
        Ok(())
    }
}
