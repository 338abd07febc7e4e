//! Where the rows of then come from: a tenant's backup, or a database that is brought to life for the time of reading.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;

use super::staging::{self, Staging};
use super::{RestoreTenantReport, RestoreTenantRequest, instance, lap, of_another_database};
use crate::catalog::{BackupFilter, BackupRow};
use crate::command::volumes::Volumes;
use crate::command::{Context, manifests, quoting, restore_cluster};
use crate::format::manifest::Manifest;
use crate::format::tenant::{Tenant, TenantTable};
use crate::model::{BackupId, BackupKind, ConnectionSettings, Fault, Kind};
use crate::pipeline::{RangeReader, Unpack, unpack};
use crate::plan::quote::{Quote, Work};
use crate::plan::tenants::TenantGraph;
use crate::postgres::{Server, tenants};
use crate::source::tenant::{Spool, TenantPlan, TenantSource, Wanted};
use crate::system::durable;
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
    (database, server, graph): (&str, &Server, &TenantGraph),
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
        let (manifest, sealed) = (&fetched.manifest, fetched.object.len() as u64);
        // As far as what is needed of then is what is needed of now.
        let entries = match (row.kind, tenants::needed(server, graph).await?) {
            (BackupKind::Database, Some(needed)) => staging::entries_of(manifest, &needed),
            _ => None,
        };
        let mut work = match &entries {
            Some(entries) => quoting::work_of(context, manifest, sealed, entries)?,
            None => quoting::work(context, manifest, sealed)?,
        };
        work.scratch_bytes = match &entries {
            Some(entries) => entries.iter().map(|entry| manifest.entries[*entry].size).sum(),
            None => manifest.original_size,
        };
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
            let manifest = context.stop.or(manifest_of(context, &row, report)).await?;
            let staging = Staging { context, request, manifest: &manifest };
            let spool = Box::pin(staging.read(report)).await?;
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
pub(super) async fn read(
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

/// Finds the backup's manifest.
async fn manifest_of(
    context: &Context,
    row: &BackupRow,
    report: &mut RestoreTenantReport,
) -> anyhow::Result<Arc<Manifest>> {
    let keyring = context.keyring()?;
    let fetched = manifests::fetch(&context.settings, context.reading(), &row.id, &keyring).await?;
    report.warnings.extend(manifests::mark(context, &row.id, &fetched.bad)?);
    Ok(Arc::new(fetched.manifest))
}

/// Unpacks these entries of a backup into a directory of that name below the scratch directory.
pub(super) async fn unpack_entries(
    context: &Context,
    manifest: &Arc<Manifest>,
    name: &str,
    entries: Vec<usize>,
    report: &mut RestoreTenantReport,
) -> anyhow::Result<PathBuf> {
    let directory = context.scratch()?.join(name);
    durable::remove_dir_if_there(&directory)?;
    let sink = DirectoryTarget::create(directory.clone(), Arc::clone(manifest))?;
    let bytes = entries.iter().map(|entry| manifest.entries[*entry].size).sum();
    let stage = context.progress.bytes("unpack", bytes);
    let request = Unpack { entries, stage, manifest: Arc::clone(manifest) };
    let reader = Arc::new(Volumes::in_all_stores(context, &manifest.id)?);
    let volumes = Arc::clone(&reader) as Arc<dyn RangeReader>;
    let done = unpack(request, volumes, sink, context.stop.clone()).await;
    report.warnings.extend(manifests::mark(context, &manifest.id, &reader.bad())?);
    done?;
    Ok(directory)
}

async fn unpacked(
    context: &Context,
    row: &BackupRow,
    report: &mut RestoreTenantReport,
) -> anyhow::Result<Image> {
    let manifest = manifest_of(context, row, report).await?;
    let all = (0..manifest.entries.len()).collect();
    let directory = unpack_entries(context, &manifest, &format!("then-{}", row.id), all, report).await?;
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
