//! A tenant's backup: its tables made anew as they are now, filled with its rows alone, looked at.

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;

use super::home::{self, Home};
use super::{Laps, Test, Tested};
use crate::format::manifest::{Database, Manifest};
use crate::format::tenant::{Tenant, TenantTable};
use crate::model::{Fault, Kind, PlaceKind};
use crate::postgres::proof::{self, Proven};
use crate::postgres::quote::{identifier, qualified};
use crate::postgres::{Server, child_environment, database, tools};
use crate::system::process::{Running, pick_lines};
use crate::system::{Step, durable, step};
use crate::target::database as target;
use crate::target::tenant::{Lines, alone};

impl Test<'_> {
    pub(super) async fn tenant(&self, tested: &mut Tested) -> anyhow::Result<()> {
        let context = self.context;
        let mut laps = Laps::begin(context);
        let manifest = context.stop.or(self.manifest(tested)).await?;
        let Some(tenant) = &manifest.tenant else {
            return Fault::new(Kind::Damaged, format!("{} does not say which tenant it is of", manifest.id))
                .err();
        };
        if tenant.schema.is_none() && tenant.mode == PlaceKind::Database.as_str() {
            // Its backup is one of a database, and says so.
            return self.database_of(&manifest, tested, laps).await;
        }
        let bytes = home::estimate(manifest.original_size);
        let (home, directory) = self.enter(&manifest, (&tenant.database, bytes), tested, &mut laps).await?;
        let proven =
            context.stop.or(self.prove_tenant(&home, &manifest, &directory, tested, &mut laps)).await;
        self.leave(home, &directory, proven, tested, &mut laps).await
    }

    async fn prove_tenant(
        &self,
        home: &Home,
        manifest: &Arc<Manifest>,
        directory: &Path,
        tested: &mut Tested,
        laps: &mut Laps<'_>,
    ) -> anyhow::Result<()> {
        let context = self.context;
        let Some(tenant) = &manifest.tenant else { return Ok(()) };
        let (database, schema) = self.schema(&tenant.database, tenant.schema.as_deref()).await?;
        home.create(self, &database).await?;
        target::load(&home.server, &schema, &home.staging, &home.load, &context.stop).await?;
        durable::remove_dir_if_there(&schema)?;
        if tenant.schema.is_some() {
            return self.prove_schema(home, manifest, directory, tested, laps).await;
        }
        let server = home.connect(self).await?;
        let filled = alone::fill(&server, tenant, |table| lines(directory, table)).await?;
        step::reached(Step::TestRestoreLoaded)?;
        laps.lap(tested, "load");
        let mut present = Proven { checked: tenant.tables.len() as u64, ..Proven::default() };
        present
            .findings
            .extend(filled.missing.iter().map(|name| format!("{name} is not in the database any more")));
        present
            .notes
            .extend(filled.left_out.iter().map(|name| format!("{name} is not there any more: left out")));
        tested.check("key tables", "table", present);
        tested.check("rows", "row", count(&server, tenant, &filled.missing).await?);
        let corruption = proof::corruption(&server).await?;
        tested.check("tables' pages", "relation", corruption.heaps);
        tested.check("indexes", "index", corruption.indexes);
        let own = |schema: &str, name: &str| {
            tenant.tables.iter().any(|table| table.schema == schema && table.name == name)
        };
        tested.check("foreign keys", "foreign key", proof::orphans(&server, own).await?);
        server.close().await;
        step::reached(Step::TestRestoreChecked)?;
        laps.lap(tested, "check");
        Ok(())
    }

    /// A schema of the tenant's own: a dump, beside the other schemas as they are now, which have no rows. So foreign keys
    /// are not made: those that leave the schema could not be kept.
    async fn prove_schema(
        &self,
        home: &Home,
        manifest: &Arc<Manifest>,
        directory: &Path,
        tested: &mut Tested,
        laps: &mut Laps<'_>,
    ) -> anyhow::Result<()> {
        let context = self.context;
        let program = target::restorer(&home.server, directory, home.load.bindir.as_deref())?;
        let arguments = ["--list".into(), directory.as_os_str().to_owned()];
        let environment = child_environment(&home.load.connection, None)?;
        let lines = pick_lines(&program.path, &arguments, &environment, |line| Some(line.to_owned())).await?;
        let (keys, kept): (Vec<String>, Vec<String>) =
            lines.into_iter().partition(|line| line.contains(" FK CONSTRAINT "));
        let list = context.scratch()?.join("list");
        durable::remove_file_if_there(&list)?;
        durable::write_file(&list, (kept.join("\n") + "\n").as_bytes())?;
        let (server, staging, load) = (&home.server, &home.staging, &home.load);
        target::load_listed(server, directory, staging, load, Some(&list), &context.stop).await?;
        step::reached(Step::TestRestoreLoaded)?;
        laps.lap(tested, "load");
        let stage = Arc::new(context.progress.rows("check", manifest.rows()));
        let checked = target::check(manifest, staging, load, &stage, &context.stop).await?;
        drop(stage);
        tested.check(
            "rows",
            "row",
            Proven { checked: checked.rows, findings: checked.findings, ..Proven::default() },
        );
        let server = home.connect(self).await?;
        let corruption = proof::corruption(&server).await?;
        tested.check("tables' pages", "relation", corruption.heaps);
        tested.check("indexes", "index", corruption.indexes);
        let mut open = Proven::default();
        if !keys.is_empty() {
            open.notes.push(format!(
                "{} of the schema: not looked at, the rows of other schemas are in other backups",
                keys.len()
            ));
        }
        tested.check("foreign keys", "foreign key", open);
        tested.check("sequences", "sequence", self.sequences(&server, &home_of(manifest)).await?);
        server.close().await;
        step::reached(Step::TestRestoreChecked)?;
        laps.lap(tested, "check");
        Ok(())
    }

    /// The database as it is now, without rows: what it is, and the directory with the dump of its schemas but one.
    async fn schema(&self, name: &str, without: Option<&str>) -> anyhow::Result<(Database, PathBuf)> {
        let context = self.context;
        let live = Server::connect(&context.settings.postgres, Some(name), &context.stop).await?;
        let properties = database::capture(&live, name).await?.properties;
        let pg_dump = tools::find("pg_dump", live.major(), context.settings.pg_bindir.as_deref())?;
        live.close().await;
        let directory = context.scratch()?.join("schema");
        durable::remove_dir_if_there(&directory)?;
        let mut file = OsString::from("--file=");
        file.push(&directory);
        let mut arguments: Vec<OsString> = vec![file];
        for argument in
            ["--schema-only", "--format=directory", "--no-sync", "--no-password", "--lock-wait-timeout=60s"]
        {
            arguments.push(argument.into());
        }
        if let Some(schema) = without {
            // A pattern, in which quotes keep every letter as it is.
            arguments.push(format!("--exclude-schema={}", identifier(schema)).into());
        }
        let environment = child_environment(&context.settings.postgres, Some(name))?;
        let ended =
            Running::start(&pg_dump.path, &arguments, &environment).await?.wait(&context.stop).await?;
        if !ended.status.success() {
            let message =
                format!("dump the tables of database \"{name}\", without rows: {}", ended.account());
            return Fault::new(Kind::Postgres, message)
                .hint("A tenant's backup has rows and no tables: those of the server in use are taken.")
                .err();
        }
        Ok((Database { properties, not_valid: Vec::new() }, directory))
    }
}

/// The database that the backup is out of.
fn home_of(manifest: &Manifest) -> String {
    manifest.tenant.as_ref().map(|tenant| tenant.database.clone()).unwrap_or_default()
}

/// What is stored of a table.
fn lines<'l>(directory: &Path, table: &TenantTable) -> anyhow::Result<Option<Lines<'l>>> {
    let Some(entry) = &table.entry else { return Ok(None) };
    let path = directory.join(entry);
    let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
    Ok(Some(Box::new(file)))
}

/// Counts the rows of every table of the tenant's.
async fn count(server: &Server, tenant: &Tenant, missing: &[String]) -> anyhow::Result<Proven> {
    let mut proven = Proven::default();
    for table in &tenant.tables {
        let name = format!("{}.{}", table.schema, table.name);
        if missing.contains(&name) {
            continue;
        }
        let action = format!("count the rows of {name}");
        let kind = "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                    WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = 'p')";
        let partitioned: bool = server.query_one(&action, kind, &[&table.schema, &table.name]).await?.get(0);
        // Without those that inherit from it: they have entries of their own.
        let only = if partitioned { "" } else { "ONLY " };
        let sql = format!("SELECT count(*) FROM {only}{}", qualified(&table.schema, &table.name));
        let rows: i64 = server.query_one(&action, &sql, &[]).await?.get(0);
        let rows = u64::try_from(rows).unwrap_or(0);
        proven.checked += rows;
        if rows != table.rows {
            proven.findings.push(format!("table {name} has {rows} rows, the backup has {}", table.rows));
        }
    }
    Ok(proven)
}
