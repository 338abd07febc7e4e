//! `pgkeep backup database`: one database through `pg_dump`, under one snapshot.

use std::path::PathBuf;

use super::{BackupReport, Contents, Source};
use crate::command::Context;
use crate::model::{BackupKind, Fault, Kind, Stage};
use crate::pipeline::Framer;
use crate::source::database::{DatabaseSource, DumpPlan};

/// What to back up.
#[derive(Debug, Clone)]
pub struct BackupDatabase {
    /// The database; without a name that of the settings.
    pub database: Option<String>,
    /// How many tables are read at the same time; without it that of the settings.
    pub jobs: Option<usize>,
}

/// Makes the backup.
pub async fn run(context: &Context, request: &BackupDatabase) -> anyhow::Result<BackupReport> {
    super::run(context, BackupKind::Database, |_| open(context, request)).await
}

async fn open(context: &Context, request: &BackupDatabase) -> anyhow::Result<DatabaseSource> {
    let name = database_name(context, request.database.as_deref())?;
    let plan = dump_plan(context, request.jobs, context.scratch()?);
    DatabaseSource::open(&name, plan, &*context.progress, &context.stop).await
}

/// A dump as the settings say, by way of this directory.
pub(super) fn dump_plan(context: &Context, jobs: Option<usize>, scratch: PathBuf) -> DumpPlan {
    let settings = &context.settings;
    DumpPlan {
        connection: settings.postgres.clone(),
        jobs: jobs.unwrap_or(settings.jobs),
        scratch,
        scratch_limit: settings.scratch_limit,
        bindir: settings.pg_bindir.clone(),
    }
}

/// Reads the dump into the pipeline.
pub(super) async fn contents(
    source: DatabaseSource,
    framer: Framer,
    stage: Stage,
    context: &Context,
) -> anyhow::Result<Contents> {
    let (consistent_at, database) = (source.consistent_at, Some(source.database.clone()));
    let contents = source.read(framer, stage, &*context.progress, &context.stop).await?;
    Ok(Contents {
        entries: contents.entries,
        consistent_at,
        tool_version: contents.tool_version,
        postgres_version_num: contents.postgres_version_num,
        warnings: contents.warnings,
        database,
        tenant: None,
        cluster: None,
    })
}

impl Source for DatabaseSource {
    fn system_identifier(&self) -> u64 {
        self.system_identifier
    }

    fn details(&self) -> String {
        Self::details(self)
    }

    fn estimate(&self) -> u64 {
        Self::estimate(self)
    }

    async fn read(self, framer: Framer, stage: Stage, context: &Context) -> anyhow::Result<Contents> {
        contents(self, framer, stage, context).await
    }
}

/// The database that is named, or else that of the settings.
pub(in crate::command) fn database_name(context: &Context, named: Option<&str>) -> anyhow::Result<String> {
    if let Some(name) = named {
        return Ok(name.to_owned());
    }
    match &context.settings.postgres.database {
        Some(name) => Ok(name.clone()),
        None => Fault::new(Kind::Usage, "no database is named")
            .hint("Name one (`pgkeep backup database NAME`) or set PGDATABASE.")
            .err(),
    }
}
