//! Tenants that have a schema or a database of their own: finds what is meant, and restores one after the other. What is
//! there is replaced as a whole and kept under another name: that is the undo.

use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use super::{
    Confirm, RestoreTenantReport, RestoreTenantRequest, TenantPlan, TenantRestored, database,
    of_another_database, schema, then,
};
use crate::catalog::{BackupFilter, BackupRow};
use crate::command::backup::database::database_name;
use crate::command::backup::tenant::FailedTenant;
use crate::command::restore::next_best;
use crate::command::{Context, judge, manifests};
use crate::format::manifest::{Manifest, Table};
use crate::model::{BackupKind, Fault, Kind, OwnPlaces, PlaceKind, Tenancy, TenantList};
use crate::postgres::quote::identifier;
use crate::postgres::tenants::places::{self, OwnPlace};
use crate::postgres::{Server, swap};
use crate::target::tenant::{Applied, TablePlan};

/// What is replaced by what.
#[derive(Debug, Clone, Serialize)]
pub struct OwnPlan {
    /// `schema` or `database`.
    pub kind: PlaceKind,
    /// The name that it gets.
    pub name: String,
    /// Whether something of this name is there now.
    pub replaces: bool,
    /// The name under which what is replaced is kept.
    pub keep_as: Option<String>,
    /// Whether that is dropped when all is done.
    pub drop_old: bool,
    /// Connections to the database that would be replaced; a schema is replaced under its users' hands.
    pub connections: Vec<String>,
}

/// One tenant that is to be restored.
pub(super) struct Wanted {
    /// The tenant of then.
    pub(super) id: String,
    /// What he has now, or had by the pattern; nothing where only a backup can say.
    pub(super) name: Option<String>,
    /// The tenant that is made, and the name of what he gets, where it is a new one.
    pub(super) anew: Option<(String, String)>,
}

impl Wanted {
    /// The tenant that there is afterwards.
    pub(super) fn becomes(&self) -> &str {
        self.anew.as_ref().map_or(&self.id, |(id, _)| id)
    }
}

/// What the tenant had then.
pub(super) struct Image {
    /// Of the backup.
    pub(super) manifest: Manifest,
    /// How many bytes the sealed manifest has.
    pub(super) sealed: u64,
    /// The dump, where it is at hand and needs not be fetched.
    pub(super) dump: Option<PathBuf>,
}

/// Restores one tenant after the other.
pub(super) async fn run(
    context: &Context,
    request: &RestoreTenantRequest,
    of: &OwnPlaces,
    confirm: Confirm<'_>,
) -> anyhow::Result<RestoreTenantReport> {
    let clock = Instant::now();
    refuse_what_is_of_rows(request, of.kind)?;
    let name = match of.kind {
        PlaceKind::Schema => Some(database_name(context, request.database.as_deref())?),
        PlaceKind::Database => request.database.clone(),
    };
    let server = Server::connect(&context.settings.postgres, name.as_deref(), &context.stop).await?;
    let found = context.stop.or(places::own_places(&server, of)).await?;
    server.close().await;
    let wanted = wanted(&found, of, request)?;
    let mut report = RestoreTenantReport {
        dry_run: request.dry_run,
        tenants: Vec::new(),
        failed: Vec::new(),
        phases: Vec::new(),
        quote: None,
        seconds: 0.0,
        warnings: Vec::new(),
    };
    let mut then = match request.pitr {
        Some(_) => {
            Box::pin(then::images(context, request, of.kind, name.as_deref(), &wanted, &mut report)).await?
        }
        None => Vec::new(),
    }
    .into_iter();
    for wanted in &wanted {
        let image = then.next();
        let restored = match (of.kind, &name) {
            (PlaceKind::Schema, Some(database)) => {
                let schema = schema::restore(context, request, database, wanted, image, confirm, &mut report);
                Box::pin(schema).await
            }
            _ => Box::pin(database::restore(context, request, wanted, image, confirm, &mut report)).await,
        };
        match restored {
            Ok(restored) => report.tenants.push(restored),
            // What was done to those before stands, and how it is undone must be said.
            Err(error)
                if report.tenants.is_empty() || judge(&error).exit_code == Kind::Interrupted.exit_code() =>
            {
                return Err(error);
            }
            Err(error) => {
                let message = format!("{error:#}");
                context.progress.note(&format!("warning: tenant \"{}\": {message}", wanted.id));
                report.failed.push(FailedTenant { tenant: wanted.id.clone(), message });
            }
        }
    }
    report.seconds = clock.elapsed().as_secs_f64();
    Ok(report)
}

/// What can be asked of tenants that share tables and of these not.
fn refuse_what_is_of_rows(request: &RestoreTenantRequest, kind: PlaceKind) -> anyhow::Result<()> {
    let of_rows = [(request.prove_others, "--prove-others"), (request.show_rows > 0, "--show-rows")];
    if let Some((_, flag)) = of_rows.iter().find(|(given, _)| *given) {
        return Fault::new(
            Kind::Usage,
            format!("{flag} is for tenants that share tables, and TENANT_MODE is {kind}"),
        )
        .hint(format!("Leave it out: a {kind} is replaced as a whole, and no other is touched."))
        .err();
    }
    Ok(())
}

fn wanted(found: &[OwnPlace], of: &OwnPlaces, request: &RestoreTenantRequest) -> anyhow::Result<Vec<Wanted>> {
    let name_of = |id: &str| match &of.list {
        TenantList::Pattern(pattern) => Some(pattern.name_of(id)),
        TenantList::Query(_) => None,
    };
    let mut wanted: Vec<Wanted> = Vec::new();
    for id in &request.tenants {
        if wanted.iter().any(|wanted| wanted.id == *id) {
            continue;
        }
        let there = found.iter().find(|place| place.id == *id);
        let name = there.map(|place| place.name.clone()).or_else(|| name_of(id));
        let anew = request.new_id.as_ref().map(|new| {
            // A query can't be asked for what is not there yet: it will have to find this.
            let name = name_of(new).unwrap_or_else(|| new.clone());
            (new.clone(), name)
        });
        if let Some((new, name)) = &anew {
            if found.iter().any(|place| place.id == *new && place.exists) {
                return Fault::new(Kind::Refused, format!("there is a tenant \"{new}\" already"))
                    .hint("Nothing was changed. Give a key that nobody has.")
                    .err();
            }
            refuse_name(of.kind, name)?;
        }
        wanted.push(Wanted { id: id.clone(), name, anew });
    }
    Ok(wanted)
}

/// The server would cut it off without a word.
fn refuse_name(kind: PlaceKind, name: &str) -> anyhow::Result<()> {
    let refused = match kind {
        PlaceKind::Schema if name.starts_with("pg_") => "is PostgreSQL's own kind of name".to_owned(),
        _ if name.is_empty() || name.len() > swap::LONGEST_NAME => format!("has {} bytes", name.len()),
        _ => return Ok(()),
    };
    Fault::new(Kind::Usage, format!("\"{name}\" is no name for a {kind}: it {refused}"))
        .hint(format!("Give --as a key with which the name has 1 to {} bytes.", swap::LONGEST_NAME))
        .err()
}

/// Finds the backup that is meant. Without a name: the newest of the tenant alone, else the newest of the database.
fn choose(
    context: &Context,
    request: &RestoreTenantRequest,
    wanted: &Wanted,
    database: Option<&str>,
) -> anyhow::Result<BackupRow> {
    let id = &wanted.id;
    if request.backup != "latest" {
        let row = manifests::find(&context.catalog, &request.backup, None, None)?;
        return match row.kind {
            BackupKind::Tenant if row.tenant_id.as_ref() == Some(id) => {
                let is_another = row.database.is_some() && row.database.as_deref() != database;
                let of_schemas =
                    matches!(&context.settings.tenancy, Tenancy::Own(of) if of.kind == PlaceKind::Schema);
                // Named, it is meant.
                if of_schemas && request.database.is_none() && is_another {
                    return Err(of_another_database(&row));
                }
                Ok(row)
            }
            BackupKind::Tenant => {
                let of = row.tenant_id.as_deref().unwrap_or("nobody");
                Fault::new(Kind::Usage, format!("{} is a backup of tenant \"{of}\" alone", row.id))
                    .hint("Name that tenant, or leave out the backup: the newest of each is then taken.")
                    .err()
            }
            BackupKind::Database if database.is_none() || row.database.as_deref() == database => Ok(row),
            BackupKind::Database => {
                let of = row.database.as_deref().unwrap_or("nothing");
                let message =
                    format!("{} is a backup of database \"{of}\", in which tenant \"{id}\" is not", row.id);
                Fault::new(Kind::Usage, message).hint("`pgkeep list` shows the backups.").err()
            }
            BackupKind::Cluster | BackupKind::Config => {
                Fault::new(Kind::Usage, format!("{} is a backup of a {}", row.id, row.kind))
                    .hint("Name a backup of the tenant or of the database (`pgkeep list`).")
                    .err()
            }
        };
    }
    let backups = context.catalog.backups();
    let filter = BackupFilter { kind: Some(BackupKind::Tenant), database, limit: None };
    let own = backups
        .list(&filter)?
        .into_iter()
        .find(|row| row.tenant_id.as_ref() == Some(id) && !row.before_restore);
    if let Some(row) = own {
        return Ok(row);
    }
    let of_database = match database {
        Some(database) => backups.newest_complete(Some(BackupKind::Database), Some(database))?,
        None => None,
    };
    match of_database {
        Some(row) => {
            context.progress.note(&format!("tenant \"{id}\" has no backup of its own: out of {}", row.id));
            Ok(row)
        }
        None => Fault::new(Kind::NotThere, format!("there is no backup of tenant \"{id}\" to restore from"))
            .hint("`pgkeep list` shows what there is, `pgkeep list --tenants` which tenants have backups.")
            .err(),
    }
}

/// Finds the backup that is meant and fetches what it says of itself.
pub(super) async fn fetch(
    context: &Context,
    request: &RestoreTenantRequest,
    wanted: &Wanted,
    database: Option<&str>,
    report: &mut RestoreTenantReport,
) -> anyhow::Result<Image> {
    let row = choose(context, request, wanted, database)?;
    let keyring = context.keyring()?;
    let fetched = manifests::fetch(&context.settings, context.reading(), &row.id, &keyring).await;
    let fetched = fetched.map_err(|error| next_best(context, &row.id, error))?;
    report.warnings.extend(manifests::mark(context, &row.id, &fetched.bad)?);
    let sealed = fetched.object.len() as u64;
    Ok(Image { manifest: fetched.manifest, sealed, dump: None })
}

/// Refuses backups of tenants that were told apart in another way.
pub(super) fn refuse_another_mode(manifest: &Manifest, kind: PlaceKind) -> anyhow::Result<()> {
    match &manifest.tenant {
        Some(tenant) if tenant.mode != kind.as_str() => {
            let message =
                format!("{} was made with TENANT_MODE={}, which is now {kind}", manifest.id, tenant.mode);
            Fault::new(Kind::Refused, message)
                .hint(format!("Set TENANT_MODE={} to restore it.", tenant.mode))
                .err()
        }
        _ => Ok(()),
    }
}

/// The plan for one tenant; of tables it says how many rows come, and of those that `now` counts, how many go.
pub(super) fn plan(
    wanted: &Wanted,
    request: &RestoreTenantRequest,
    manifest: &Manifest,
    database: &str,
    own: OwnPlan,
    (then, now): (&[Table], &[(String, u64)]),
) -> TenantPlan {
    let mut tables: Vec<TablePlan> = then
        .iter()
        .map(|table| {
            let name = format!("{}.{}", table.schema, table.name);
            TablePlan { table: name, insert: table.rows, ..TablePlan::default() }
        })
        .collect();
    for (name, rows) in now {
        match tables.iter_mut().find(|table| table.table == *name) {
            Some(table) => table.delete = *rows,
            None => tables.push(TablePlan { table: name.clone(), delete: *rows, ..TablePlan::default() }),
        }
    }
    TenantPlan {
        tenant: wanted.becomes().to_owned(),
        made_of: wanted.anew.as_ref().map(|_| wanted.id.clone()),
        database: database.to_owned(),
        backup: manifest.id.clone(),
        consistent_at: manifest.consistent_at.clone(),
        mode: request.mode,
        own: Some(own),
        tables,
    }
}

/// What was done to one tenant, as far as it is done; nothing in a dry run.
pub(super) fn restored(
    plan: TenantPlan,
    kept_as: Option<String>,
    applied: Option<Applied>,
) -> TenantRestored {
    let own = plan.own.as_ref();
    let undo_sql = own.zip(kept_as.as_ref()).map(|(own, kept)| undo_sql(own.kind, &own.name, kept));
    TenantRestored { plan, undo: None, kept_as, undo_sql, applied }
}

/// Gives what is kept its name again, and what is in its place another.
fn undo_sql(kind: PlaceKind, name: &str, kept: &str) -> String {
    let what = match kind {
        PlaceKind::Schema => "SCHEMA",
        PlaceKind::Database => "DATABASE",
    };
    let rename =
        |from: &str, to: &str| format!("ALTER {what} {} RENAME TO {};", identifier(from), identifier(to));
    let aside = swap::derived_name(name, "_undone");
    format!("BEGIN; {} {} COMMIT;", rename(name, &aside), rename(kept, name))
}
