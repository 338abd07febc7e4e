//! What a restored database is looked at for.

use std::cmp::Reverse;
use std::path::Path;
use std::sync::Arc;

use super::home::Home;
use super::{Test, Tested};
use crate::format::manifest::{Manifest, Table};
use crate::model::{Fault, InDatabase, Kind, parse_queries};
use crate::postgres::Server;
use crate::postgres::proof::{self, Behind, Proven, Sequences};
use crate::target::database as target;

/// How many tables count as the key ones when none are named.
const LARGEST: usize = 10;

impl Test<'_> {
    /// All of it for one database out of its own backup.
    pub(super) async fn check_database(
        &self,
        home: &Home,
        manifest: &Arc<Manifest>,
        tested: &mut Tested,
    ) -> anyhow::Result<()> {
        let Some(database) = &manifest.database else { return Ok(()) };
        let stage = Arc::new(self.context.progress.rows("check", manifest.rows()));
        let checked = target::check(manifest, &home.staging, &home.load, &stage, &self.context.stop).await?;
        drop(stage);
        let rows = Proven { checked: checked.rows, findings: checked.findings, ..Proven::default() };
        tested.check("rows", "row", rows);
        let server = home.connect(self).await?;
        let name = &database.properties.name;
        let wanted = self.key_tables(name);
        let largest = if wanted.is_empty() { largest(manifest) } else { Vec::new() };
        let key: Vec<&str> = wanted.iter().copied().chain(largest.iter().map(String::as_str)).collect();
        tested.check("key tables", "table", proof::present(&server, &key).await?);
        self.check_inside(&server, name, tested).await?;
        let mut settings = database.properties.settings.iter().filter(|setting| setting.role.is_none());
        let path = settings.find_map(|setting| setting.setting.strip_prefix("search_path="));
        let queries = self.queries()?;
        let of_it: Vec<&str> = self.said_of(name, &queries).collect();
        tested.check("your own queries", "query", self.ask(&server, path, &of_it, &queries).await?);
        server.close().await;
        Ok(())
    }

    /// What can be looked at without knowing what should be there.
    async fn check_inside(&self, server: &Server, database: &str, tested: &mut Tested) -> anyhow::Result<()> {
        let corruption = proof::corruption(server).await?;
        tested.check("tables' pages", "relation", corruption.heaps);
        tested.check("indexes", "index", corruption.indexes);
        tested.check("foreign keys", "foreign key", proof::orphans(server, |_, _| true).await?);
        tested.check("sequences", "sequence", self.sequences(server, database).await?);
        Ok(())
    }

    /// Sequences that are behind. One that is so in the database in use as well was so before the backup: numbers were
    /// written there by hand, and that is no fault of the backup's.
    pub(super) async fn sequences(&self, server: &Server, database: &str) -> anyhow::Result<Proven> {
        let Sequences { mut proven, behind } = proof::behind(server, None).await?;
        if behind.is_empty() {
            return Ok(proven);
        }
        let names: Vec<String> = behind.iter().map(|it| it.sequence.clone()).collect();
        let settings = &self.context.settings.postgres;
        let asked = async {
            let live = Server::connect(settings, Some(database), &self.context.stop).await?;
            let now = proof::behind(&live, Some(&names)).await;
            live.close().await;
            now
        };
        let now = match asked.await {
            Ok(now) => now.behind,
            Err(error) => {
                proven.notes.push(format!("how it is in the database in use can't be asked: {error:#}"));
                Vec::new()
            }
        };
        for Behind { sequence, text } in behind {
            if now.iter().any(|other| other.sequence == sequence) {
                proven.notes.push(format!("{text}; so it is in the database in use"));
            } else {
                proven.findings.push(text);
            }
        }
        Ok(proven)
    }

    /// The tables that the operator wants to be there in this database.
    pub(super) fn key_tables(&self, database: &str) -> Vec<&str> {
        self.said_of(database, &self.context.settings.questions.tables).collect()
    }

    /// What is said of this database.
    pub(super) fn said_of<'q>(
        &self,
        database: &str,
        said: &'q [InDatabase],
    ) -> impl Iterator<Item = &'q str> {
        let usual = self.context.settings.postgres.database.as_deref();
        said.iter().filter(move |it| it.is_of(database, usual)).map(|it| it.text.as_str())
    }

    /// The operator's own queries, out of the settings or out of their file.
    pub(super) fn queries(&self) -> anyhow::Result<Vec<InDatabase>> {
        let questions = &self.context.settings.questions;
        let Some(path) = &questions.file else { return Ok(questions.queries.clone()) };
        read(path).map_err(|why| {
            let message = format!("TEST_RESTORE_SQL: read {}: {why}", path.display());
            Fault::new(Kind::Settings, message)
                .hint("Name a file with queries that this user may read.")
                .into()
        })
    }

    /// Asks those that are of the database at hand.
    pub(super) async fn ask(
        &self,
        server: &Server,
        search_path: Option<&str>,
        of_it: &[&str],
        all: &[InDatabase],
    ) -> anyhow::Result<Proven> {
        let mut proven = proof::ask(server, search_path, of_it).await?;
        if of_it.is_empty() && !all.is_empty() {
            proven.notes.push("none of TEST_RESTORE_SQL is of this database".to_owned());
        }
        Ok(proven)
    }
}

fn read(path: &Path) -> Result<Vec<InDatabase>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    parse_queries(&text)
}

/// Those with the most rows, as `schema.table`.
fn largest(manifest: &Manifest) -> Vec<String> {
    let mut tables: Vec<&Table> = manifest.tables().filter(|table| table.raw.is_none()).collect();
    tables.sort_by_key(|table| (Reverse(table.rows), &table.schema, &table.name));
    tables.iter().take(LARGEST).map(|table| format!("{}.{}", table.schema, table.name)).collect()
}
