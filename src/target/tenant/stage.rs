//! The rows of then and of now, each in a temporary table that goes with the transaction.

use futures_util::SinkExt as _;

use super::{Lines, Restoring, Side};
use crate::format::tenant::TenantTable;
use crate::model::{Fault, FaultContext as _, Kind};
use crate::postgres::quote::identifier;

/// How much is sent at a time.
const CHUNK: usize = 256 << 10;

impl Restoring<'_> {
    /// Brings the backup's rows to the server. `lines` gives what is stored of a table.
    pub async fn stage<'l>(
        &mut self,
        mut lines: impl FnMut(&TenantTable) -> anyhow::Result<Option<Lines<'l>>>,
    ) -> anyhow::Result<()> {
        let settings = "SET LOCAL datestyle = 'ISO, YMD'; SET LOCAL intervalstyle = 'postgres'; \
                        SET LOCAL extra_float_digits = 3; SET LOCAL bytea_output = 'hex'";
        self.server.run("prepare the transaction", settings).await?;
        for side in &self.sides {
            let Some(then) = self.table_of_backup(side) else { continue };
            let raw = format!("pg_temp.pgkeep_raw_{}", side.number);
            let columns = then.columns.iter().map(|column| {
                let now = self.graph.table(&side.name).and_then(|table| table.facts.column(&column.name));
                // What has no place any more is read over.
                let of = now.filter(|now| !now.generated).map_or("text", |now| now.type_name.as_str());
                format!("{} {of}", identifier(&column.name))
            });
            let columns: Vec<String> = columns.collect();
            let create = format!(
                "CREATE TEMP TABLE pgkeep_raw_{} ({}) ON COMMIT DROP",
                side.number,
                columns.join(", ")
            );
            self.server.run(&format!("stage the rows of {}", side.name), &create).await?;
            if let Some(lines) = lines(then)? {
                let rows = self.copy(side, then, &raw, lines).await?;
                if rows != then.rows {
                    let message = format!(
                        "{} has {rows} rows in the backup, its manifest says {}",
                        side.name, then.rows
                    );
                    return Fault::new(Kind::Damaged, message)
                        .hint("Nothing was changed. Restore another backup, and report this one.")
                        .err();
                }
            } else if then.rows > 0 {
                let message =
                    format!("{} has no rows in the backup, its manifest says {}", side.name, then.rows);
                return Fault::new(Kind::Damaged, message).hint("Nothing was changed.").err();
            }
        }
        if let Some(renaming) = &self.renaming {
            self.rename(renaming).await?;
        }
        for side in &self.sides {
            let raw = format!("pg_temp.pgkeep_raw_{}", side.number);
            let then = format!(
                "CREATE TEMP TABLE pgkeep_then_{} ON COMMIT DROP AS SELECT {} AS pgkeep_key, {} AS pgkeep_row, {} FROM {raw} AS s; \
                 DROP TABLE {raw}; CREATE INDEX ON {} USING hash (pgkeep_key); ANALYZE {}",
                side.number,
                side.key_of("s"),
                side.row_of("s"),
                side.columns("s"),
                side.then(),
                side.then()
            );
            self.server.run(&format!("stage the rows of {}", side.name), &then).await?;
        }
        self.look().await
    }

    /// Takes down what the tenant has now.
    pub(super) async fn look(&self) -> anyhow::Result<()> {
        for side in &self.sides {
            let all: Vec<String> = side.common.iter().chain(&side.only_now).cloned().collect();
            let sql = format!(
                "DROP TABLE IF EXISTS {now}; \
                 CREATE TEMP TABLE pgkeep_now_{} ON COMMIT DROP AS SELECT t.tableoid AS pgkeep_relation, t.ctid AS pgkeep_place, \
                 {} AS pgkeep_key, {} AS pgkeep_row, {} FROM {} WHERE {} = {}; \
                 CREATE INDEX ON {now} USING hash (pgkeep_key); ANALYZE {now}",
                side.number,
                side.key_of("t"),
                side.row_of("t"),
                super::list(&all, "t"),
                side.selection.from,
                side.selection.owner,
                self.id(),
                now = side.now()
            );
            self.server.run(&format!("look at the tenant's rows of {}", side.name), &sql).await?;
        }
        Ok(())
    }

    async fn copy(
        &self,
        side: &Side,
        then: &TenantTable,
        raw: &str,
        mut lines: Lines<'_>,
    ) -> anyhow::Result<u64> {
        let action = format!("bring the rows of {} back", side.name);
        let columns: Vec<String> = then.columns.iter().map(|column| identifier(&column.name)).collect();
        let sql = format!("COPY {raw} ({}) FROM STDIN", columns.join(", "));
        let sink = match self.server.client().copy_in(&sql).await {
            Ok(sink) => sink,
            Err(error) => return Err(self.server.failed(&action, &error).await),
        };
        let mut sink = Box::pin(sink);
        loop {
            let mut chunk = vec![0; CHUNK];
            let read = lines.read(&mut chunk).or_fault(|| Fault::new(Kind::Store, action.clone()))?;
            if read == 0 {
                break;
            }
            chunk.truncate(read);
            if let Err(error) = sink.send(std::io::Cursor::new(chunk)).await {
                return Err(self.server.failed(&action, &error).await);
            }
        }
        match sink.as_mut().finish().await {
            Ok(rows) => Ok(rows),
            Err(error) => {
                let failed = self.server.failed(&action, &error).await;
                Err(failed.context(
                    Fault::new(
                        Kind::Refused,
                        format!("the rows of {} don't fit into the table as it is now", side.name),
                    )
                    .hint("Nothing was changed. See what became of the table's columns since the backup."),
                ))
            }
        }
    }
}
