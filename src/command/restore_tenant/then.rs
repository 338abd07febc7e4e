//! What tenants had at a point in time: the cluster of then is brought to life, and each tenant's schema or database is
//! dumped out of it.

use std::path::{Path, PathBuf};

use super::instance::{self, Then};
use super::own::{Image, Wanted};
use super::{RestoreTenantReport, RestoreTenantRequest};
use crate::command::{Context, manifests};
use crate::format::manifest::{Database, Entry, EntryKind, Manifest, Table};
use crate::format::tenant::Tenant;
use crate::model::{BackupKind, Digest, Fault, Kind, PlaceKind};
use crate::postgres::tenants::places;
use crate::source::database::{DatabaseSource, DumpPlan};

/// Dumps what is wanted; one image for each, in the same order. Schemas are those of this database.
pub(super) async fn images(
    context: &Context,
    request: &RestoreTenantRequest,
    kind: PlaceKind,
    database: Option<&str>,
    wanted: &[Wanted],
    report: &mut RestoreTenantReport,
) -> anyhow::Result<Vec<Image>> {
    let then = instance::start(context, request, report).await?;
    let dumped = dump(context, request, kind, database, wanted, &then).await;
    then.instance.end(context).await?;
    dumped
}

async fn dump(
    context: &Context,
    request: &RestoreTenantRequest,
    kind: PlaceKind,
    database: Option<&str>,
    wanted: &[Wanted],
    then: &Then,
) -> anyhow::Result<Vec<Image>> {
    let keyring = context.keyring()?;
    let fetched = manifests::fetch(&context.settings, context.reading(), &then.backup, &keyring).await?;
    let cluster = fetched.manifest;
    let mut images = Vec::with_capacity(wanted.len());
    for (number, wanted) in wanted.iter().enumerate() {
        let Some(name) = &wanted.name else {
            let message = format!("which {kind} was that of tenant \"{}\" is not known", wanted.id);
            return Fault::new(Kind::NotThere, message)
                .hint("TENANT_QUERY does not name the tenant any more: let it name what he had then.")
                .err();
        };
        let (database, schema) = match (kind, database) {
            (PlaceKind::Schema, Some(database)) => (database, Some(name.as_str())),
            _ => (name.as_str(), None),
        };
        let plan = DumpPlan {
            connection: then.instance.connection.clone(),
            jobs: request.jobs.unwrap_or(context.settings.jobs),
            scratch: context.scratch()?,
            scratch_limit: context.settings.scratch_limit,
            bindir: context.settings.pg_bindir.clone(),
        };
        let directory = context.scratch()?.join(format!("then-{number}"));
        let (properties, tables) = one(context, plan, database, schema, &directory).await?;
        let tenant = Tenant::with_own(kind, &wanted.id, database, schema);
        let manifest = manifest_of(&cluster, &then.reached, tenant, properties, tables);
        images.push(Image { manifest, sealed: 0, dump: Some(directory) });
    }
    Ok(images)
}

async fn one(
    context: &Context,
    plan: DumpPlan,
    database: &str,
    schema: Option<&str>,
    directory: &Path,
) -> anyhow::Result<(Database, Vec<Table>)> {
    let (scratch, jobs): (PathBuf, usize) = (plan.scratch.clone(), plan.jobs);
    let whole = DatabaseSource::open(database, plan, &*context.progress, &context.stop).await?;
    let source = match schema {
        None => whole,
        Some(schema) => {
            if places::schema_oid(whole.server(), schema).await?.is_none() {
                let message =
                    format!("there was no schema \"{schema}\" in database \"{database}\" at that time");
                return Fault::new(Kind::NotThere, message)
                    .hint("Nothing was changed. The tenant came later, or had another name then.")
                    .err();
            }
            let source = whole.of_schema(schema, scratch, jobs);
            drop(whole);
            source
        }
    };
    let unlogged = source.unlogged();
    if !unlogged.is_empty() {
        let message = format!(
            "{}: unlogged, so there is no WAL to bring its rows back to a point in time",
            unlogged.join(", ")
        );
        return Fault::new(Kind::Refused, message)
            .hint("Nothing was changed. Restore out of a backup of the tenant or of the database.")
            .err();
    }
    source.into_directory(directory, &*context.progress, &context.stop).await
}

/// What the manifest of a backup would say that was made then; it is in no store.
fn manifest_of(
    cluster: &Manifest,
    reached: &str,
    tenant: Tenant,
    database: Database,
    tables: Vec<Table>,
) -> Manifest {
    let entries = tables.into_iter().enumerate().map(|(number, table)| Entry {
        name: number.to_string(),
        kind: EntryKind::File,
        mode: 0o600,
        size: 0,
        sha256: Digest::from_bytes([0; 32]),
        table: Some(Box::new(table)),
        extents: Vec::new(),
    });
    Manifest {
        kind: BackupKind::Tenant,
        consistent_at: reached.to_owned(),
        volumes: Vec::new(),
        entries: entries.collect(),
        original_size: 0,
        compressed_size: 0,
        stored_size: 0,
        database: Some(database),
        tenant: Some(tenant),
        physical: None,
        ..cluster.clone()
    }
}
