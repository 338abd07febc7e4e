//! What differs between then and now, and what stands in the way of writing it.

use super::{Mode, Restoring, Side, TablePlan, list};
use crate::plan::tenants::ForeignKey;
use crate::postgres::quote::identifier;

impl Restoring<'_> {
    /// The condition on a pair (`s` of then, `n` of now) for rows that are replaced.
    pub(super) fn replaced(&self) -> &'static str {
        match self.mode {
            Mode::Full | Mode::Merge { take: true } => "s.pgkeep_row IS DISTINCT FROM n.pgkeep_row",
            Mode::Merge { take: false } => "false",
        }
    }

    /// The rows that will be written: missing ones and replaced ones, as `w` with the columns of then.
    pub(super) fn written(&self, side: &Side) -> String {
        format!(
            "(SELECT s.pgkeep_key, {} FROM {} AS s LEFT JOIN {} AS n ON n.pgkeep_key = s.pgkeep_key \
             WHERE n.pgkeep_key IS NULL OR {})",
            side.columns("s"),
            side.then(),
            side.now(),
            self.replaced()
        )
    }

    /// The rows that will be removed, with their places: those that are gone from then, and those that are replaced.
    pub(super) fn removed(&self, side: &Side) -> String {
        let gone = if self.mode == Mode::Full { "s.pgkeep_key IS NULL" } else { "false" };
        format!(
            "(SELECT n.* FROM {} AS n LEFT JOIN {} AS s ON s.pgkeep_key = n.pgkeep_key \
             WHERE {gone} OR (s.pgkeep_key IS NOT NULL AND {}))",
            side.now(),
            side.then(),
            self.replaced()
        )
    }

    /// Counts, and looks for what stands in the way.
    pub async fn compare(&self, examples: usize) -> anyhow::Result<Vec<TablePlan>> {
        let counts = self
            .counted(|side| {
                format!(
                    "SELECT count(*) FILTER (WHERE n.pgkeep_key IS NULL), \
                     count(*) FILTER (WHERE s.pgkeep_key IS NOT NULL AND n.pgkeep_key IS NOT NULL AND {}), \
                     count(*) FILTER (WHERE s.pgkeep_key IS NULL), \
                     count(*) FILTER (WHERE n.pgkeep_key IS NOT NULL) \
                     FROM {} AS s FULL JOIN {} AS n ON s.pgkeep_key = n.pgkeep_key",
                    self.replaced(),
                    side.then(),
                    side.now()
                )
            })
            .await?;
        let mut plans = Vec::with_capacity(self.sides.len());
        for side in &self.sides {
            let count = |at: usize| counts.get(&side.number).map_or(0, |it| it[at]).cast_unsigned();
            let delete = if self.mode == Mode::Full { count(2) } else { 0 };
            let mut plan = TablePlan {
                table: side.name.to_string(),
                insert: count(0),
                update: count(1),
                delete,
                left: count(3) - count(1) - delete,
                conflicts: Vec::new(),
                drift: side.drift.clone(),
                examples: Vec::new(),
            };
            if plan.insert + plan.update > 0 {
                plan.conflicts = self.conflicts(side).await?;
            }
            if examples > 0 {
                plan.examples = self.examples(side, examples).await?;
            }
            plans.push(plan);
        }
        Ok(plans)
    }

    /// Keys that rows of somebody else hold now, and shared rows that are gone.
    async fn conflicts(&self, side: &Side) -> anyhow::Result<Vec<String>> {
        let mut found = Vec::new();
        let Some(table) = self.graph.table(&side.name) else { return Ok(found) };
        for key in &table.facts.keys {
            if !key.iter().all(|column| side.common.contains(column)) {
                continue;
            }
            let equal: Vec<String> =
                key.iter().map(|name| format!("t.{0} = w.{0}", identifier(name))).collect();
            let sql = format!(
                "SELECT count(*), min(ROW({})::text) FROM {} AS w JOIN {} AS t ON {} \
                 WHERE NOT EXISTS (SELECT FROM {} AS r WHERE r.pgkeep_relation = t.tableoid AND r.pgkeep_place = t.ctid)",
                list(key, "w"),
                self.written(side),
                side.relation(),
                equal.join(" AND "),
                self.removed(side)
            );
            let row =
                self.server.query_one(&format!("look for conflicts in {}", side.name), &sql, &[]).await?;
            let count: i64 = row.get(0);
            if count > 0 {
                found.push(format!(
                    "{} with a key ({}) that a row of somebody else has now, such as {}",
                    super::rows(count),
                    key.join(", "),
                    row.get::<_, String>(1)
                ));
            }
        }
        for key in self.graph.foreign_keys.iter().filter(|key| key.child == side.name) {
            if self.graph.shared(&key.parent).is_some()
                && let Some(conflict) = self.without_parent(side, key).await?
            {
                found.push(conflict);
            }
        }
        Ok(found)
    }

    async fn without_parent(&self, side: &Side, key: &ForeignKey) -> anyhow::Result<Option<String>> {
        if !key.columns.iter().all(|column| side.common.contains(column)) {
            return Ok(None);
        }
        let equal = key.columns.iter().zip(&key.parent_columns);
        let equal = equal.map(|(own, theirs)| format!("p.{} = w.{}", identifier(theirs), identifier(own)));
        let set: Vec<String> =
            key.columns.iter().map(|name| format!("w.{} IS NOT NULL", identifier(name))).collect();
        let sql = format!(
            "SELECT count(*), min(ROW({})::text) FROM {} AS w WHERE {} AND NOT EXISTS (SELECT FROM {} AS p WHERE {})",
            list(&key.columns, "w"),
            self.written(side),
            set.join(" AND "),
            crate::postgres::quote::qualified(&key.parent.schema, &key.parent.name),
            equal.collect::<Vec<_>>().join(" AND ")
        );
        let row = self.server.query_one(&format!("look for what {} refers to", side.name), &sql, &[]).await?;
        let count: i64 = row.get(0);
        Ok((count > 0).then(|| {
            format!(
                "{} referring to rows of {} that are gone, such as {} ({})",
                super::rows(count),
                key.parent,
                row.get::<_, String>(1),
                key.name
            )
        }))
    }

    async fn examples(&self, side: &Side, count: usize) -> anyhow::Result<Vec<String>> {
        let gone = if self.mode == Mode::Full { "delete" } else { "left" };
        let sql = format!(
            "SELECT CASE WHEN n.pgkeep_key IS NULL THEN 'insert ' || s.pgkeep_row \
                         WHEN s.pgkeep_key IS NULL THEN '{gone} ' || n.pgkeep_row \
                         ELSE 'update ' || n.pgkeep_row || ' to ' || s.pgkeep_row END \
             FROM {} AS s FULL JOIN {} AS n ON s.pgkeep_key = n.pgkeep_key \
             WHERE s.pgkeep_key IS NULL OR n.pgkeep_key IS NULL OR {} ORDER BY 1 LIMIT {count}",
            side.then(),
            side.now(),
            self.replaced()
        );
        let rows = self.server.query(&format!("look at rows of {}", side.name), &sql, &[]).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }
}
