//! A database beside the one in use, made out of a backup for the time of reading tenants out of it: with all tables, and the
//! rows of those that are needed. Only these are fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use chrono::Utc;

use super::image::{read, unpack_entries};
use super::{RestoreTenantReport, RestoreTenantRequest, lap};
use crate::catalog::{NewRestore, Purpose, RestoreEnd, RestoreMode, RestorePlaces, RestoreState};
use crate::command::{Context, judge};
use crate::format::manifest::{Database, Manifest};
use crate::model::{Fault, Kind};
use crate::plan::tenants::{Belonging, TableName, TenantGraph};
use crate::postgres::tenants::{self, Needed};
use crate::postgres::{Server, facts, swap};
use crate::source::tenant::{Spool, graph_of, refuse_undecided};
use crate::system::durable;
use crate::target::database::part::{self, Part};
use crate::target::database::{self as target, LoadPlan};

/// A dump's table of contents.
const CONTENTS: &str = "toc.dat";

/// A database beside the one in use, for the time of reading.
pub(super) struct Staging<'a> {
    pub(super) context: &'a Context,
    pub(super) request: &'a RestoreTenantRequest,
    pub(super) manifest: &'a Arc<Manifest>,
}

/// The database that is made, and how.
pub(super) struct Place<'a> {
    server: Server,
    pub(super) name: String,
    database: &'a Database,
    pub(super) load: LoadPlan,
    /// Its row in the log.
    entry: i64,
}

/// The entries of a database's backup that have the rows of what is needed, with its table of contents; nothing where the
/// manifest does not tell.
pub(super) fn entries_of(manifest: &Manifest, needed: &Needed) -> Option<Vec<usize>> {
    let mut entries = Vec::new();
    for (number, entry) in manifest.entries.iter().enumerate() {
        let is_wanted = match &entry.table {
            Some(table) if table.raw.is_some() => return None,
            Some(table) => needed.tables.contains(&TableName::new(&table.schema, &table.name)),
            None => entry.name == CONTENTS,
        };
        entries.extend(is_wanted.then_some(number));
    }
    Some(entries)
}

/// Why rows belong to whom: what must not depend on the rows that are left out.
fn reasons(graph: &TenantGraph) -> BTreeMap<&TableName, &Belonging> {
    graph.tables.iter().map(|table| (&table.facts.name, &table.belonging)).collect()
}

impl Staging<'_> {
    /// Makes it, reads the tenants and drops it again.
    pub(super) async fn read(&self, report: &mut RestoreTenantReport) -> anyhow::Result<Spool> {
        let place = self.begin().await?;
        let filled = self.context.stop.or(Box::pin(self.fill(&place, report))).await;
        self.end(place, filled.is_ok()).await?;
        filled
    }

    /// Says that there is going to be such a database. The log knows of it before it is there: whatever becomes of this run,
    /// the next one removes it.
    pub(super) async fn begin(&self) -> anyhow::Result<Place<'_>> {
        let (context, manifest) = (self.context, self.manifest);
        let Some(database) = &manifest.database else {
            return Fault::new(Kind::Damaged, format!("{} is no backup of a database", manifest.id)).err();
        };
        let name = swap::derived_name(&database.properties.name, &format!("_tenants_{}", context.run));
        let load = LoadPlan {
            connection: context.settings.postgres.clone(),
            jobs: self.request.jobs.unwrap_or(context.settings.jobs),
            bindir: context.settings.pg_bindir.clone(),
            no_owner: true,
            no_privileges: true,
        };
        let server = target::connect_beside(&load.connection, &[&name], &context.stop).await?;
        let entry = self.announce(&server, &name).await?;
        Ok(Place { server, name, database, load, entry })
    }

    /// Drops it. Only what can't be written down is an error.
    pub(super) async fn end(&self, place: Place<'_>, is_good: bool) -> anyhow::Result<()> {
        let Place { server, name, entry, .. } = place;
        let dropped = facts::drop_database(&server, &name, true).await;
        let restores = self.context.catalog.restores();
        let end = RestoreEnd {
            state: if is_good { RestoreState::Done } else { RestoreState::Failed },
            message: Some("a database beside the one in use, for reading tenants out of it".to_owned()),
            rows: None,
            checks: None,
            at: Utc::now(),
        };
        restores.end(entry, &end)?;
        match dropped {
            Ok(()) => restores.clear_staging(entry)?,
            // The next run tries again.
            Err(error) => {
                let text = format!("warning: the database \"{name}\" is still there: {error:#}");
                self.context.progress.note(&text);
            }
        }
        server.close().await;
        Ok(())
    }

    /// With what is needed; with all of it where that can't be told, or turns out not to be enough.
    async fn fill(&self, place: &Place<'_>, report: &mut RestoreTenantReport) -> anyhow::Result<Spool> {
        let mut clock = Instant::now();
        let (context, manifest) = (self.context, self.manifest);
        let looked = match self.look(place, report).await {
            Err(error) if judge(&error).exit_code == Kind::Postgres.exit_code() => {
                context.progress.note(&format!(
                    "which tables' rows are needed can't be seen, so all of them are brought back: {error:#}"
                ));
                facts::drop_database(&place.server, &place.name, true).await?;
                clock = Instant::now();
                None
            }
            looked => looked?,
        };
        if let Some((needed, graph, entries)) = looked {
            lap(report, "look", &mut clock);
            match self.part(place, &needed, &graph, entries, report, &mut clock).await {
                // Such as a constraint that calls a function that reads a table of which nobody could know.
                Err(error) if judge(&error).exit_code == Kind::Postgres.exit_code() => {
                    context.progress.note(&format!(
                        "the rows of the tenants' tables alone can't be brought back, so all of them are: {error:#}"
                    ));
                    facts::drop_database(&place.server, &place.name, true).await?;
                    clock = Instant::now();
                }
                read => return read,
            }
        }
        let all = (0..manifest.entries.len()).collect();
        let directory = unpack_entries(context, manifest, "dump", all, report).await?;
        lap(report, "fetch", &mut clock);
        self.load(place, &directory, None).await?;
        let spool = self.tenants(place).await?;
        lap(report, "load", &mut clock);
        Ok(spool)
    }

    /// Makes all tables without any rows, and sees which are needed; the database is dropped again.
    async fn look(
        &self,
        place: &Place<'_>,
        report: &mut RestoreTenantReport,
    ) -> anyhow::Result<Option<(Needed, TenantGraph, Vec<usize>)>> {
        let (context, manifest) = (self.context, self.manifest);
        let Some(contents) = manifest.entries.iter().position(|entry| entry.name == CONTENTS) else {
            return Ok(None);
        };
        let directory = unpack_entries(context, manifest, "contents", vec![contents], report).await?;
        self.load(place, &directory, Some(&Part::default())).await?;
        let server = Server::connect(&place.load.connection, Some(&place.name), &context.stop).await?;
        let graph = graph_of(&server, &context.settings.tenants).await?;
        refuse_undecided(&graph)?;
        let needed = tenants::needed(&server, &graph).await?;
        server.close().await;
        facts::drop_database(&place.server, &place.name, true).await?;
        let found = needed.and_then(|needed| {
            let entries = entries_of(manifest, &needed)?;
            Some((needed, graph, entries))
        });
        Ok(found)
    }

    /// Makes it anew with the rows of what is needed.
    async fn part(
        &self,
        place: &Place<'_>,
        needed: &Needed,
        graph: &TenantGraph,
        entries: Vec<usize>,
        report: &mut RestoreTenantReport,
        clock: &mut Instant,
    ) -> anyhow::Result<Spool> {
        let (context, manifest) = (self.context, self.manifest);
        let files: BTreeSet<&str> =
            entries.iter().map(|entry| manifest.entries[*entry].name.as_str()).collect();
        let part = Part { files, without: needed.without.clone() };
        let tables = entries.iter().filter_map(|entry| manifest.entries[*entry].table.as_deref());
        let tables: Vec<_> = tables.collect();
        let directory = unpack_entries(context, manifest, "dump", entries.clone(), report).await?;
        lap(report, "fetch", clock);
        self.load(place, &directory, Some(&part)).await?;
        let server = Server::connect(&place.load.connection, Some(&place.name), &context.stop).await?;
        for table in tables {
            let rows = facts::count_rows(&server, table).await?;
            if rows != table.rows && !(table.of_extension && rows > table.rows) {
                let name = format!("{}.{}", table.schema, table.name);
                let message = format!(
                    "table {name} has {rows} rows out of {}, its manifest says {}",
                    manifest.id, table.rows
                );
                return Fault::new(Kind::Damaged, message)
                    .hint("Nothing was changed. Restore another backup, and report this one.")
                    .err();
            }
        }
        // Foreign keys that are missing here must not change whose rows are whose.
        let here = graph_of(&server, &context.settings.tenants).await?;
        server.close().await;
        if reasons(&here) != reasons(graph) {
            return Fault::new(
                Kind::Postgres,
                "whose rows are whose is another matter without the other tables",
            )
            .err();
        }
        let spool = self.tenants(place).await?;
        lap(report, "load", clock);
        Ok(spool)
    }

    /// Makes the database out of the dump, or a part of it, and removes the dump.
    pub(super) async fn load(
        &self,
        place: &Place<'_>,
        directory: &Path,
        part: Option<&Part<'_>>,
    ) -> anyhow::Result<()> {
        let Place { server, name, database, load, .. } = place;
        let stop = &self.context.stop;
        target::create(server, database, name, load).await?;
        match part {
            None => target::load(server, directory, name, load, stop).await?,
            Some(part) => {
                let list: PathBuf = directory.with_extension("list");
                part::list(server, directory, load, part, &list).await?;
                target::load_listed(server, directory, name, load, Some(&list), stop).await?;
            }
        }
        durable::remove_dir_if_there(directory)
    }

    async fn tenants(&self, place: &Place<'_>) -> anyhow::Result<Spool> {
        let spool = read(self.context, self.request, &place.name, &place.load.connection).await?;
        Ok(spool.of_database(&place.database.properties.name))
    }

    async fn announce(&self, server: &Server, name: &str) -> anyhow::Result<i64> {
        let restores = self.context.catalog.restores();
        let entry = restores.begin(&NewRestore {
            run_id: Some(self.context.run.clone()),
            backup_id: self.manifest.id.clone(),
            purpose: Purpose::Restore,
            store: None,
            initiated_by: self.context.caller.person(),
            tenant_ids: Some(self.request.tenants.clone()),
            mode: RestoreMode::Full,
            target_timestamp: None,
            source_database: self.manifest.database_name(),
            target_database: Some(name.to_owned()),
            target_directory: None,
            started_at: Utc::now(),
        })?;
        let system_identifier = facts::system_identifier(server).await.ok();
        restores.set_places(entry, RestorePlaces { system_identifier, staging: name, previous: None })?;
        Ok(entry)
    }
}
