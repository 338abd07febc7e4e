//! Where the rows of then come from: a tenant's backup, or a database that is brought to life for the time of reading.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use chrono::Utc;

use super::{RestoreTenantReport, RestoreTenantRequest, instance, lap, of_another_database};
use crate::catalog::{
    BackupFilter, BackupRow, NewRestore, Purpose, RestoreEnd, RestoreMode, RestorePlaces, RestoreState,
};
use crate::command::volumes::Volumes;
use crate::command::{Context, manifests, quoting, restore_cluster};
use crate::format::manifest::Manifest;
use crate::format::tenant::{Tenant, TenantTable};
use crate::model::{BackupId, BackupKind, ConnectionSettings, Fault, Kind};
use crate::pipeline::{RangeReader, Unpack, unpack};
use crate::plan::quote::{Quote, Work};
use crate::postgres::{Server, facts, swap};
use crate::source::tenant::{Spool, TenantPlan, TenantSource, Wanted};
use crate::system::durable;
use crate::target::database::{self as target, LoadPlan};
use crate::target::directory::DirectoryTarget;
use crate::target::tenant::Lines;

/// What the rows of then are taken from.
#[derive(Debug)]
pub(super) enum Source {
    /// Of each tenant a backup of its own.
    Tenants(Vec<BackupRow>),
    /// A backup of the whole database.
    Database(Box<BackupRow>),
    /// The cluster at a point in time.
    Cluster,
}

/// One tenant's rows of then.
pub(super) struct Image {
    pub(super) backup: BackupId,
    pub(super) consistent_at: String,
    pub(super) tenant: Tenant,
    rows: Rows,
}

enum Rows {
    /// The entries of a tenant's backup as files.
    Files(PathBuf),
    /// What was read out of a database.
    Spool(Arc<Spool>, usize),
}

impl Image {
    /// The lines of one of the tables.
    pub(super) fn lines<'a>(&'a self, table: &TenantTable) -> anyhow::Result<Option<Lines<'a>>> {
        let Some(entry) = &table.entry else { return Ok(None) };
        match &self.rows {
            Rows::Files(directory) => {
                let path = directory.join(entry);
                let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
                Ok(Some(Box::new(file)))
            }
            Rows::Spool(spool, number) => {
                let (_, readers) = spool.of(*number);
                let found =
                    readers.into_iter().find(|(described, _)| described.entry.as_ref() == Some(entry));
                Ok(found.map(|(_, rows)| Box::new(rows) as Lines<'a>))
            }
        }
    }
}

/// Finds what is meant. Without a name: of each tenant the newest backup of its own, else the newest of the database.
pub(super) fn choose(
    context: &Context,
    request: &RestoreTenantRequest,
    database: &str,
) -> anyhow::Result<Source> {
    if request.pitr.is_some() {
        return Ok(Source::Cluster);
    }
    let backups = context.catalog.backups();
    let of_database = |kind| BackupFilter { kind: Some(kind), database: Some(database), limit: None };
    if request.backup != "latest" {
        let row = manifests::find(&context.catalog, &request.backup, None, None)?;
        return match row.kind {
            BackupKind::Database => Ok(Source::Database(Box::new(row))),
            BackupKind::Tenant => match request.tenants.as_slice() {
                [one] if row.tenant_id.as_ref() == Some(one) => {
                    let is_another = row.database.is_some() && row.database.as_deref() != Some(database);
                    // Named, it is meant.
                    if request.database.is_none() && is_another {
                        return Err(of_another_database(&row));
                    }
                    Ok(Source::Tenants(vec![row]))
                }
                _ => {
                    let of = row.tenant_id.as_deref().unwrap_or("nobody");
                    Fault::new(Kind::Usage, format!("{} is a backup of tenant \"{of}\" alone", row.id))
                        .hint("Name that tenant, or leave out the backup: the newest of each is then taken.")
                        .err()
                }
            },
            BackupKind::Cluster => Fault::new(Kind::Usage, format!("{} is a backup of a cluster", row.id))
                .hint("Out of a cluster a tenant is restored with --mode pitr, up to --target-time.")
                .err(),
            BackupKind::Config => Fault::new(Kind::Usage, format!("{} holds no rows", row.id)).err(),
        };
    }
    let mut rows = backups.list(&of_database(BackupKind::Tenant))?;
    // What was saved before a restore is not what somebody wants back who does not name it.
    rows.retain(|row| !row.before_restore);
    let newest = request
        .tenants
        .iter()
        .map(|tenant| rows.iter().find(|row| row.tenant_id.as_ref() == Some(tenant)).cloned());
    if let Some(rows) = newest.collect::<Option<Vec<BackupRow>>>() {
        return Ok(Source::Tenants(rows));
    }
    match backups.newest_complete(Some(BackupKind::Database), Some(database))? {
        Some(row) => {
            context.progress.note(&format!("not every tenant has a backup of its own: out of {}", row.id));
            Ok(Source::Database(Box::new(row)))
        }
        None => Fault::new(
            Kind::NotThere,
            format!("there is no backup of these tenants, and none of database \"{database}\""),
        )
        .hint("`pgkeep list` shows what there is; a point in time is reached with --mode pitr.")
        .err(),
    }
}

/// What getting at the rows takes.
pub(super) async fn quote(
    context: &Context,
    request: &RestoreTenantRequest,
    database: &str,
    source: &Source,
) -> anyhow::Result<Quote> {
    let rows: Vec<&BackupRow> = match source {
        Source::Tenants(rows) => rows.iter().collect(),
        Source::Database(row) => vec![row],
        Source::Cluster => {
            let wanted = instance::wanted(context, request)?;
            return Ok(restore_cluster::PlannedRestore::plan(context, &wanted).await?.plan.quote);
        }
    };
    let keyring = context.keyring()?;
    let (mut all, mut instants) = (Work::default(), Vec::new());
    for row in &rows {
        let fetched = manifests::fetch(&context.settings, context.reading(), &row.id, &keyring).await?;
        let mut work = quoting::work(context, &fetched.manifest, fetched.object.len() as u64)?;
        work.scratch_bytes = fetched.manifest.original_size;
        all.add(work);
        instants.push(fetched.manifest.consistent_at);
    }
    instants.sort();
    instants.dedup();
    all.stops_at = match instants.as_slice() {
        [one] => format!("at {one}, the instant of the backup"),
        several => format!("at {}, the instants of the backups", several.join(", ")),
    };
    let kind = rows.first().map_or(BackupKind::Tenant, |row| row.kind);
    quoting::quote(context, kind, Some(database), all)
}

/// Gets at the rows.
pub(super) async fn open(
    context: &Context,
    request: &RestoreTenantRequest,
    database: &str,
    source: Source,
    report: &mut RestoreTenantReport,
) -> anyhow::Result<Vec<Image>> {
    let mut clock = Instant::now();
    match source {
        Source::Tenants(rows) => {
            let mut images = Vec::with_capacity(rows.len());
            for row in rows {
                images.push(context.stop.or(unpacked(context, &row, report)).await?);
            }
            lap(report, "fetch", &mut clock);
            Ok(images)
        }
        Source::Database(row) => {
            let (manifest, directory) = context.stop.or(unpack_all(context, &row, "dump", report)).await?;
            lap(report, "fetch", &mut clock);
            let staging = Staging { context, request, manifest: &manifest };
            let spool = staging.read(&directory).await?;
            lap(report, "load", &mut clock);
            Ok(images(&Arc::new(spool), &manifest.id, &manifest.consistent_at))
        }
        Source::Cluster => {
            let instance::Then { instance, backup, reached } =
                instance::start(context, request, report).await?;
            let mut clock = Instant::now();
            let spool = read(context, request, database, &instance.connection).await;
            instance.end(context).await?;
            let spool = spool?;
            lap(report, "read", &mut clock);
            Ok(images(&Arc::new(spool), &backup, &reached))
        }
    }
}

fn images(spool: &Arc<Spool>, backup: &BackupId, consistent_at: &str) -> Vec<Image> {
    let image = |number| Image {
        backup: backup.clone(),
        consistent_at: consistent_at.to_owned(),
        tenant: spool.of(number).0,
        rows: Rows::Spool(Arc::clone(spool), number),
    };
    (0..spool.ids().len()).map(image).collect()
}

/// Reads the tenants out of a database that is there for nothing else.
async fn read(
    context: &Context,
    request: &RestoreTenantRequest,
    database: &str,
    connection: &ConnectionSettings,
) -> anyhow::Result<Spool> {
    let plan = TenantPlan {
        connection: connection.clone(),
        database: database.to_owned(),
        jobs: request.jobs.unwrap_or(context.settings.jobs),
        scratch: context.scratch()?,
        rules: context.settings.tenants.clone(),
    };
    let wanted = Wanted::These(request.tenants.clone());
    let source = TenantSource::open(plan, &wanted, &context.stop).await?;
    let stage = Arc::new(context.progress.bytes("read", source.estimate()));
    let spool = source.spool(&stage, &context.stop).await?;
    spool.remove()?;
    Ok(spool)
}

/// Unpacks a whole backup into the scratch directory.
async fn unpack_all(
    context: &Context,
    row: &BackupRow,
    name: &str,
    report: &mut RestoreTenantReport,
) -> anyhow::Result<(Arc<Manifest>, PathBuf)> {
    let keyring = context.keyring()?;
    let fetched = manifests::fetch(&context.settings, context.reading(), &row.id, &keyring).await?;
    report.warnings.extend(manifests::mark(context, &row.id, &fetched.bad)?);
    let manifest = Arc::new(fetched.manifest);
    let directory = context.scratch()?.join(name);
    let sink = DirectoryTarget::create(directory.clone(), Arc::clone(&manifest))?;
    let request = Unpack {
        entries: (0..manifest.entries.len()).collect(),
        stage: context.progress.bytes("unpack", manifest.original_size),
        manifest: Arc::clone(&manifest),
    };
    let reader = Arc::new(Volumes::in_all_stores(context, &row.id)?);
    let volumes = Arc::clone(&reader) as Arc<dyn RangeReader>;
    let done = unpack(request, volumes, sink, context.stop.clone()).await;
    report.warnings.extend(manifests::mark(context, &row.id, &reader.bad())?);
    done?;
    Ok((manifest, directory))
}

async fn unpacked(
    context: &Context,
    row: &BackupRow,
    report: &mut RestoreTenantReport,
) -> anyhow::Result<Image> {
    let (manifest, directory) = unpack_all(context, row, &format!("then-{}", row.id), report).await?;
    let Some(tenant) = manifest.tenant.clone() else {
        return Fault::new(Kind::Damaged, format!("{} does not say which tenant it is of", row.id)).err();
    };
    if tenant.mode != "row" {
        let message = format!("{} was made with TENANT_MODE={}, which is now row", row.id, tenant.mode);
        return Fault::new(Kind::Refused, message)
            .hint(format!("Set TENANT_MODE={} to restore it.", tenant.mode))
            .err();
    }
    Ok(Image {
        backup: row.id.clone(),
        consistent_at: manifest.consistent_at.clone(),
        tenant,
        rows: Rows::Files(directory),
    })
}

/// A database beside the one in use, for the time of reading.
struct Staging<'a> {
    context: &'a Context,
    request: &'a RestoreTenantRequest,
    manifest: &'a Manifest,
}

impl Staging<'_> {
    async fn read(&self, directory: &Path) -> anyhow::Result<Spool> {
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
        // The log knows of it before it is there: whatever becomes of this run, the next one removes it.
        let entry = self.announce(&server, &name).await?;
        let filled = async {
            target::create(&server, database, &name, &load).await?;
            target::load(&server, directory, &name, &load, &context.stop).await?;
            let spool = read(context, self.request, &name, &load.connection).await?;
            Ok(spool.of_database(&database.properties.name))
        };
        let filled = context.stop.or(filled).await;
        let dropped = facts::drop_database(&server, &name, true).await;
        let restores = context.catalog.restores();
        let end = RestoreEnd {
            state: if filled.is_ok() { RestoreState::Done } else { RestoreState::Failed },
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
                context.progress.note(&format!("warning: the database \"{name}\" is still there: {error:#}"));
            }
        }
        server.close().await;
        durable::remove_dir_if_there(directory)?;
        filled
    }

    async fn announce(&self, server: &Server, name: &str) -> anyhow::Result<i64> {
        let restores = self.context.catalog.restores();
        let entry = restores.begin(&NewRestore {
            run_id: Some(self.context.run.clone()),
            backup_id: self.manifest.id.clone(),
            purpose: Purpose::Restore,
            store: None,
            initiated_by: self.context.caller.user.clone(),
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
