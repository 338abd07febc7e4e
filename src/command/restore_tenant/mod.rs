//! `pgkeep restore --tenant`: one tenant's rows put back among those of others, out of a tenant's backup, out of that of a
//! database, or out of the cluster as it was at a point in time.
//!
//! Tenants with a schema or a database of their own are restored by `own`, `schema` and `database`. For those that share
//! tables there are three rooms: `image` gets at the rows of then, `instance` brings a cluster to life for that (`staging` a
//! database), and here they are laid beside those of now, confirmed, saved as they are, and written.

mod database;
mod image;
mod instance;
mod own;
mod schema;
mod staging;
mod then;

use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::Utc;
use serde::Serialize;

use super::backup::database::database_name;
use super::backup::tenant::{self as backup, BackupTenants, FailedTenant, Wanted};
use super::restore::Phase;
use super::{Context, Report, judge};
use crate::catalog::{BackupRow, NewRestore, Purpose, RestoreEnd, RestoreMode, RestoreState};
use crate::format::tenant::Tenant;
use crate::model::{BackupId, Fault, Kind, Tenancy, Timestamp};
use crate::plan::quote::Quote;
use crate::plan::tenants::TenantGraph;
use crate::postgres::{Server, tenants};
use crate::source::tenant::{graph_of, refuse_undecided};
use crate::target::tenant::{Applied, Mode, Renaming, Restoring, TablePlan};

use image::Image;
pub use own::OwnPlan;

/// What a restore does with rows of now.
pub mod tenant {
    pub use crate::target::tenant::Mode;
}

/// What to restore.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct RestoreTenantRequest {
    /// `latest`, an identifier or the beginning of one.
    pub backup: String,
    /// The tenants.
    pub tenants: Vec<String>,
    /// The key of a new tenant that its rows become, beside the old one. Of one tenant alone.
    pub new_id: Option<String>,
    /// The database; without a name that of the settings.
    pub database: Option<String>,
    /// What becomes of rows of now.
    pub mode: Mode,
    /// The cluster as it was then; nothing: a backup itself.
    pub pitr: Option<Option<Timestamp>>,
    /// How many tables are read at the same time.
    pub jobs: Option<usize>,
    /// Only show what would be done.
    pub dry_run: bool,
    /// How many rows of each table are shown.
    pub show_rows: usize,
    /// Count and sum up everybody else's rows before and after.
    pub prove_others: bool,
    /// End connections that are in the way of replacing a tenant's database.
    pub terminate: bool,
    /// Drop the replaced schema or database when all is done.
    pub drop_old: bool,
    /// What is made belongs to the user who restores.
    pub no_owner: bool,
    /// Privileges are not brought back.
    pub no_privileges: bool,
}

/// What would be done to one tenant.
#[derive(Debug, Clone, Serialize)]
pub struct TenantPlan {
    /// The tenant.
    pub tenant: String,
    /// The tenant of which it is made anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub made_of: Option<String>,
    /// The database.
    pub database: String,
    /// The backup that its rows come from.
    pub backup: BackupId,
    /// The instant that they are of.
    pub consistent_at: String,
    /// `full` or `merge`.
    pub mode: Mode,
    /// What is replaced as a whole, where the tenant has something of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub own: Option<OwnPlan>,
    /// By table.
    pub tables: Vec<TablePlan>,
}

impl TenantPlan {
    /// Rows that would be written or removed.
    pub fn changes(&self) -> u64 {
        self.tables.iter().map(|table| table.insert + table.update + table.delete).sum()
    }
}

/// What was done to one tenant.
#[derive(Debug, Clone, Serialize)]
pub struct TenantRestored {
    /// What was to be done.
    pub plan: TenantPlan,
    /// The backup of what was there before: `restore THAT --mode full` undoes the restore.
    pub undo: Option<BackupId>,
    /// The name under which the replaced schema or database is kept: giving it its name again undoes the restore.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept_as: Option<String>,
    /// The SQL for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub undo_sql: Option<String>,
    /// What was written; nothing in a dry run.
    pub applied: Option<Applied>,
}

/// How it went.
#[derive(Debug, Clone, Serialize)]
pub struct RestoreTenantReport {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// By tenant.
    pub tenants: Vec<TenantRestored>,
    /// Those that could not be restored, after others were.
    pub failed: Vec<FailedTenant>,
    /// What it is going to take; only in a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quote: Option<Quote>,
    /// How long what took.
    pub phases: Vec<Phase>,
    /// Duration in seconds.
    pub seconds: f64,
    /// What is not as it should be.
    pub warnings: Vec<String>,
}

impl Report for RestoreTenantReport {
    fn shortfall(&self) -> Option<Kind> {
        let conflicts = self.tenants.iter().flat_map(|it| &it.plan.tables).any(|it| !it.conflicts.is_empty());
        if self.dry_run && conflicts {
            return Some(Kind::Refused);
        }
        let is_short = !self.failed.is_empty() || (!self.dry_run && !self.warnings.is_empty());
        is_short.then_some(Kind::Incomplete)
    }
}

/// Asks the operator whether the plan is to be carried out; an error is a no.
pub type Confirm<'a> = &'a (dyn Fn(&TenantPlan) -> anyhow::Result<()> + Send + Sync);

/// Restores one tenant after the other, each in a transaction of its own.
pub async fn run(
    context: &Context,
    request: &RestoreTenantRequest,
    confirm: Confirm<'_>,
) -> anyhow::Result<RestoreTenantReport> {
    if let Tenancy::Own(places) = &context.settings.tenancy {
        return Box::pin(own::run(context, request, places, confirm)).await;
    }
    let clock = Instant::now();
    refuse_what_is_of_places(request)?;
    let database = database_name(context, request.database.as_deref())?;
    // Before anything is fetched: the database must be there, and it must be known whose its rows are.
    let server = Server::connect(&context.settings.postgres, Some(&database), &context.stop).await?;
    let graph = context.stop.or(graph_of(&server, &context.settings.tenants)).await?;
    refuse_undecided(&graph)?;
    let wanted = context.stop.or(tenants::canonical(&server, &graph, &request.tenants)).await?;
    let new_id = match &request.new_id {
        Some(id) => tenants::canonical(&server, &graph, std::slice::from_ref(id)).await?.pop(),
        None => None,
    };
    let request = &RestoreTenantRequest { tenants: wanted, new_id, ..request.clone() };
    if request.pitr.is_some() {
        refuse_unlogged(&server, &graph).await?;
    }
    let sources = image::choose(context, request, &database)?;
    let mut report = RestoreTenantReport {
        dry_run: request.dry_run,
        tenants: Vec::new(),
        failed: Vec::new(),
        quote: if request.dry_run {
            Some(image::quote(context, request, (&database, &server, &graph), &sources).await?)
        } else {
            None
        },
        phases: Vec::new(),
        seconds: 0.0,
        warnings: Vec::new(),
    };
    let images = Box::pin(image::open(context, request, &database, sources, &mut report)).await?;
    let work = Work { context, request, database: &database, server: &server, graph: &graph };
    for image in &images {
        let entry = if request.dry_run { None } else { Some(work.begin(image)?) };
        let result = Box::pin(work.restore(image, confirm, &mut report)).await;
        let result = match entry {
            Some(entry) => write_down(context, entry, result),
            None => result,
        };
        match result {
            Ok(restored) => report.tenants.push(restored),
            // What was done to those before stands, and how it is undone must be said.
            Err(error)
                if report.tenants.is_empty() || judge(&error).exit_code == Kind::Interrupted.exit_code() =>
            {
                return Err(error);
            }
            Err(error) => {
                let message = format!("{error:#}");
                context.progress.note(&format!("warning: tenant \"{}\": {message}", image.tenant.id));
                report.failed.push(FailedTenant { tenant: image.tenant.id.clone(), message });
            }
        }
    }
    server.close().await;
    report.seconds = clock.elapsed().as_secs_f64();
    Ok(report)
}

/// What can be asked of tenants with something of their own, and of these not.
fn refuse_what_is_of_places(request: &RestoreTenantRequest) -> anyhow::Result<()> {
    let flags = [
        (request.terminate, "--terminate"),
        (request.drop_old, "--drop-old"),
        (request.no_owner, "--no-owner"),
        (request.no_privileges, "--no-privileges"),
    ];
    match flags.iter().find(|(given, _)| *given) {
        None => Ok(()),
        Some((_, flag)) => {
            let message =
                format!("{flag} is for tenants with a schema or a database of their own (TENANT_MODE)");
            Fault::new(Kind::Usage, message).hint("Leave it out: only rows are written.").err()
        }
    }
}

/// How long the server may take to break off what it is doing.
const ENDING: Duration = Duration::from_secs(10);

/// At a point in time they are empty: to put that back would remove what is there.
async fn refuse_unlogged(server: &Server, graph: &TenantGraph) -> anyhow::Result<()> {
    let unlogged = tenants::unlogged(server).await?;
    let ours: Vec<String> =
        unlogged.iter().filter(|name| graph.table(name).is_some()).map(ToString::to_string).collect();
    if ours.is_empty() {
        return Ok(());
    }
    let message = format!(
        "{}: unlogged, so there is no WAL to bring its rows back to a point in time",
        ours.join(", ")
    );
    Fault::new(Kind::Refused, message)
        .hint("Say in TENANT_TABLES that it is shared, so that it is left alone, or restore out of a backup.")
        .err()
}

struct Work<'a> {
    context: &'a Context,
    request: &'a RestoreTenantRequest,
    database: &'a str,
    server: &'a Server,
    graph: &'a TenantGraph,
}

impl Work<'_> {
    /// Writes down that the restore begins, whatever becomes of it.
    fn begin(&self, image: &Image) -> anyhow::Result<i64> {
        let request = self.request;
        let mode = match (request.pitr, request.mode) {
            (Some(_), _) => RestoreMode::Pitr,
            (None, Mode::Full) => RestoreMode::Full,
            (None, Mode::Merge { .. }) => RestoreMode::Merge,
        };
        self.context.catalog.restores().begin(&NewRestore {
            run_id: Some(self.context.run.clone()),
            backup_id: image.backup.clone(),
            purpose: Purpose::Restore,
            store: None,
            initiated_by: self.context.caller.person(),
            tenant_ids: Some(vec![self.becomes(image)]),
            mode,
            target_timestamp: request.pitr.flatten(),
            source_database: Some(image.tenant.database.clone()),
            target_database: Some(self.database.to_owned()),
            target_directory: None,
            started_at: Utc::now(),
        })
    }

    /// The tenant that the rows are of afterwards.
    fn becomes(&self, image: &Image) -> String {
        self.request.new_id.clone().unwrap_or_else(|| image.tenant.id.clone())
    }

    /// Looks, asks, saves what is there, looks again, and writes.
    async fn restore(
        &self,
        image: &Image,
        confirm: Confirm<'_>,
        report: &mut RestoreTenantReport,
    ) -> anyhow::Result<TenantRestored> {
        let mut clock = Instant::now();
        let stop = &self.context.stop;
        let (plan, restoring) =
            or_cancel(self.server, stop.or(self.compare(image, false, report)).await).await?;
        restoring.abandon().await?;
        lap(report, "compare", &mut clock);
        if self.request.dry_run {
            return Ok(TenantRestored { plan, undo: None, kept_as: None, undo_sql: None, applied: None });
        }
        refuse_conflicts(&plan)?;
        confirm(&plan)?;
        self.context.hold_again().await?;
        clock = Instant::now();
        let undo = self.save(image, report).await?;
        let loses = plan.tables.iter().any(|table| table.update + table.delete > 0);
        if undo.is_none() && loses {
            let message = format!(
                "tenant \"{}\" is not in {} any more, and has rows in other tables that would be changed: they can't be saved before",
                plan.tenant, self.graph.root
            );
            return Fault::new(Kind::Refused, message)
                .hint(
                    "Nothing was changed. Put the tenant's own row back first, or restore with --mode merge.",
                )
                .err();
        }
        lap(report, "save what is there", &mut clock);
        // Somebody may have written while the operator was reading.
        let (plan, restoring) =
            or_cancel(self.server, stop.or(self.compare(image, true, report)).await).await?;
        let applying = async {
            refuse_conflicts(&plan)?;
            restoring.apply(self.request.prove_others).await
        };
        let applied = or_cancel(self.server, stop.or(applying).await).await?;
        stop.check()?;
        restoring.commit().await?;
        lap(report, "apply", &mut clock);
        let changed = applied.proven.iter().filter(|proven| !proven.same);
        report.warnings.extend(changed.map(|proven| {
            format!(
                "rows of others in {} were written by others meanwhile: their sum is another one",
                proven.table
            )
        }));
        Ok(TenantRestored { plan, undo, kept_as: None, undo_sql: None, applied: Some(applied) })
    }

    /// Lays the rows of then and of now side by side, in a transaction that is left open.
    async fn compare(
        &self,
        image: &Image,
        in_earnest: bool,
        report: &mut RestoreTenantReport,
    ) -> anyhow::Result<(TenantPlan, Restoring<'_>)> {
        let from = image.tenant.id.clone();
        let renaming = self.request.new_id.as_ref().map(|_| Renaming { from, draws: in_earnest });
        let made_of = renaming.as_ref().map(|renaming| renaming.from.clone());
        let tenant = Tenant { id: self.becomes(image), ..image.tenant.clone() };
        let mut restoring =
            Restoring::begin(self.server, self.graph, tenant, self.request.mode, renaming).await?;
        let compared = async {
            restoring.stage(|table| image.lines(table)).await?;
            restoring.compare(self.request.show_rows).await
        };
        let tables = compared.await?;
        for warning in &restoring.warnings {
            if !report.warnings.contains(warning) {
                report.warnings.push(warning.clone());
            }
        }
        let plan = TenantPlan {
            tenant: self.becomes(image),
            made_of,
            database: self.database.to_owned(),
            backup: image.backup.clone(),
            consistent_at: image.consistent_at.clone(),
            mode: self.request.mode,
            own: None,
            tables,
        };
        refuse_taken(&plan)?;
        Ok((plan, restoring))
    }

    /// Backs the tenant up as it is now. One that is not there has nothing to lose.
    async fn save(
        &self,
        image: &Image,
        report: &mut RestoreTenantReport,
    ) -> anyhow::Result<Option<BackupId>> {
        let id = self.becomes(image);
        match tenants::find_tenants(self.server, self.graph, std::slice::from_ref(&id)).await {
            Err(error) if judge(&error).exit_code == Kind::NotThere.exit_code() => return Ok(None),
            found => found?,
        };
        let request = BackupTenants {
            database: Some(self.database.to_owned()),
            tenants: Wanted::These(vec![id]),
            jobs: self.request.jobs,
            before_restore: true,
        };
        let made = backup::run(self.context, &request).await.context("save what the tenant has now")?;
        let made = made.backups.into_iter().next();
        if let Some(made) = &made {
            report.warnings.extend(made.warnings.clone());
        }
        Ok(made.map(|made| made.id))
    }
}

/// After an error, ends what the server is doing and the transaction.
async fn or_cancel<T>(server: &Server, result: anyhow::Result<T>) -> anyhow::Result<T> {
    if result.is_err() {
        // A connection that is gone has rolled it back.
        let ending = async {
            let _ = server.cancel().await;
            let _ = server.run("end the transaction", "ROLLBACK").await;
        };
        let _ = tokio::time::timeout(ENDING, ending).await;
    }
    result
}

/// Writes down how it ended. That this cannot be done never hides how it ended.
fn write_down(
    context: &Context,
    entry: i64,
    result: anyhow::Result<TenantRestored>,
) -> anyhow::Result<TenantRestored> {
    let end = match &result {
        Ok(restored) => RestoreEnd {
            state: RestoreState::Done,
            message: None,
            rows: restored.applied.as_ref().map(|applied| applied.written + applied.removed),
            checks: Some(serde_json::json!({
                "tables": restored.plan.tables,
                "applied": restored.applied,
                "undo": restored.undo,
                "kept_as": restored.kept_as,
            })),
            at: Utc::now(),
        },
        Err(error) => {
            let verdict = judge(error);
            let state = match verdict.exit_code {
                code if code == Kind::Interrupted.exit_code() => RestoreState::Interrupted,
                code if code == Kind::Refused.exit_code() || code == Kind::Locked.exit_code() => {
                    RestoreState::Refused
                }
                _ => RestoreState::Failed,
            };
            RestoreEnd { state, message: Some(verdict.message), rows: None, checks: None, at: Utc::now() }
        }
    };
    let written = context.catalog.restores().end(entry, &end);
    if let Err(error) = written.context("write down how the restore ended") {
        context.progress.note(&format!("warning: {error:#}"));
    }
    result
}

fn lap(report: &mut RestoreTenantReport, name: &'static str, clock: &mut Instant) {
    report.phases.push(Phase { name, seconds: clock.elapsed().as_secs_f64() });
    *clock = Instant::now();
}

/// Under a new key nothing may be there yet.
fn refuse_taken(plan: &TenantPlan) -> anyhow::Result<()> {
    let taken = plan.tables.iter().find(|table| table.left + table.update + table.delete > 0);
    match taken.filter(|_| plan.made_of.is_some()) {
        None => Ok(()),
        Some(table) => Fault::new(
            Kind::Refused,
            format!("tenant \"{}\" has rows in {} already", plan.tenant, table.table),
        )
        .hint("Nothing was changed. Give a key that nobody has.")
        .err(),
    }
}

fn refuse_conflicts(plan: &TenantPlan) -> anyhow::Result<()> {
    let all = plan
        .tables
        .iter()
        .flat_map(|table| table.conflicts.iter().map(move |conflict| format!("{}: {conflict}", table.table)));
    let all: Vec<String> = all.collect();
    if all.is_empty() {
        return Ok(());
    }
    let (what, hint) = match &plan.made_of {
        Some(old) => (
            format!("tenant \"{old}\" can't be made a second time"),
            "Nothing was changed. Keys that the database neither makes itself nor tells apart by tenant can't be there twice.",
        ),
        None => (
            format!("tenant \"{}\" can't be put back", plan.tenant),
            "Nothing was changed. Clear away what is in the way, or bring the shared rows back first; `--dry-run` shows the plan.",
        ),
    };
    Fault::new(Kind::Refused, format!("{what}: {}", all.join("; "))).hint(hint).err()
}

/// Two databases may each have a tenant of this key.
fn of_another_database(row: &BackupRow) -> anyhow::Error {
    let of = row.database.as_deref().unwrap_or("nothing");
    let message = format!("{} is a backup of a tenant of database \"{of}\"", row.id);
    Fault::new(Kind::Refused, message)
        .hint("Give --database with the name of the database whose tenant is meant.")
        .into()
}
