//! The dump as a directory, for those who restore it in the same run, and how many rows each of its tables has.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context as _;

use super::DatabaseSource;
use crate::format::manifest::{Database, Table};
use crate::model::Progress;
use crate::postgres::facts;
use crate::system::Stop;
use crate::system::process::Running;

impl DatabaseSource {
    /// Tables without WAL among those that are dumped: in a cluster that was replayed they are empty.
    pub fn unlogged(&self) -> Vec<String> {
        let unlogged = self.tables().filter(|table| table.unlogged);
        unlogged.map(|table| format!("{}.{}", table.schema, table.name)).collect()
    }

    /// Dumps into this directory, which is made. Returns the tables with their rows, counted at the same instant.
    pub async fn into_directory(
        self,
        directory: &Path,
        progress: &dyn Progress,
        stop: &Stop,
    ) -> anyhow::Result<(Database, Vec<Table>)> {
        let stage = progress.bytes("dump", self.estimate());
        let environment = self.environment()?;
        let arguments = self.arguments(directory);
        let running = Running::start(&self.instant.pg_dump.path, &arguments, &environment).await?;
        self.dumped(running, &stage.counter(), progress, stop).await?;
        drop(stage);
        let by_oid: BTreeMap<u32, _> = self.tables().map(|table| (table.oid, table)).collect();
        let mut tables = Vec::new();
        for (_, oid) in self.listing(directory, &environment).await? {
            let facts = by_oid.get(&oid).context("the dump has rows of an unknown table")?;
            let table = Table {
                schema: facts.schema.clone(),
                name: facts.name.clone(),
                raw: facts.raw.clone(),
                rows: 0,
                of_extension: facts.extension_configuration,
            };
            let rows = stop.or(facts::count_rows(self.server(), &table)).await?;
            tables.push(Table { rows, ..table });
        }
        let database = self.database.clone();
        self.close().await?;
        Ok((database, tables))
    }
}
