//! `pgkeep restore`, mode full: unpack → new database beside the old one → `pg_restore` → check → swap by renaming.
//!
//! Until the swap is committed the database in use is not touched; the swap is one transaction of the server. What
//! fails before it undoes the whole restore; what fails after it is a warning, because the restore has happened.
//!
//! Three rooms: `plan` looks at everything that could stand in the way, `carry_out` does it, and here it is
//! written down.

mod carry_out;
mod plan;

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use chrono::Utc;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::manifests;
use super::{Context, Report, judge};
use crate::catalog::{
    BackupFilter, BackupRow, CopyState, NewRestore, Purpose, RestoreEnd, RestoreMode, RestoreState,
};
use crate::format::manifest::Manifest;
use crate::model::{BackupId, BackupKind, Fault, Kind};
use crate::plan::recovery::Target;
use crate::system::{Step, step};

use plan::Restore;
pub use plan::RestorePlan;

/// What to restore, where to, and how.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of the command line")]
pub struct RestoreRequest {
    /// `latest`, an identifier or the beginning of one.
    pub backup: String,
    /// With `latest`: of which database.
    pub database: Option<String>,
    /// Restore into a database of this name, which must not exist, and replace nothing.
    pub to_database: Option<String>,
    /// Restore over the database of this name, if it is not that of the backup.
    pub replacing: Option<String>,
    /// How many tables and indexes are made at the same time.
    pub jobs: Option<usize>,
    /// End connections that are in the way.
    pub terminate: bool,
    /// Drop the replaced database when all is done.
    pub drop_old: bool,
    /// Only show the plan.
    pub dry_run: bool,
    /// Everything belongs to the user who restores.
    pub no_owner: bool,
    /// Privileges are not brought back.
    pub no_privileges: bool,
}

/// How a restore went; with `dry_run` only the plan.
#[derive(Debug, Clone, Serialize)]
pub struct RestoreReport {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// The plan.
    pub plan: RestorePlan,
    /// What was done, in order.
    pub phases: Vec<Phase>,
    /// Tables whose rows were counted.
    pub checked_tables: u64,
    /// Rows counted.
    pub checked_rows: u64,
    /// The name under which the replaced database now is; nothing when there was none or it was dropped.
    pub kept_as: Option<String>,
    /// Duration in seconds.
    pub seconds: f64,
    /// What is not as it should be.
    pub warnings: Vec<String>,
}

/// A part of a restore that is done.
#[derive(Debug, Clone, Serialize)]
pub struct Phase {
    /// `unpack`, `load`, `check`.
    pub name: &'static str,
    /// Duration in seconds.
    pub seconds: f64,
}

impl Report for RestoreReport {
    fn shortfall(&self) -> Option<Kind> {
        (!self.dry_run && !self.warnings.is_empty()).then_some(Kind::Incomplete)
    }
}

/// Asks the operator whether the plan is to be carried out; an error is a no.
pub type Confirm<'a> = &'a (dyn Fn(&RestorePlan) -> anyhow::Result<()> + Send + Sync);

/// Restores, or shows what a restore would do.
pub async fn run(
    context: &Context,
    request: &RestoreRequest,
    confirm: Confirm<'_>,
) -> anyhow::Result<RestoreReport> {
    let row = choose(context, request)?;
    let keyring = context.keyring()?;
    let fetched = manifests::fetch(&context.settings, context.reading(), &row.id, &keyring).await;
    let fetched = fetched.map_err(|error| next_best(context, &row.id, error))?;
    let bad = manifests::mark(context, &row.id, &fetched.bad)?;
    let sealed = fetched.object.len() as u64;
    let origin = Origin { manifest: fetched.manifest, sealed, dump: None, tenants: None, pitr: None };
    let mut report = of(context, request, origin, confirm).await?;
    if !report.dry_run {
        report.warnings.extend(bad);
    }
    Ok(report)
}

/// What is restored.
pub(super) struct Origin {
    /// Of the backup.
    pub(super) manifest: Manifest,
    /// How many bytes the sealed manifest has.
    pub(super) sealed: u64,
    /// The dump, where it is at hand and needs not be fetched.
    pub(super) dump: Option<PathBuf>,
    /// The tenants whose database it is.
    pub(super) tenants: Option<Vec<String>>,
    /// The point in time at which it was taken out of a cluster, if it was; without a time the end of the archive.
    pub(super) pitr: Option<Target>,
}

/// Restores this, or shows what a restore would do.
pub(super) async fn of(
    context: &Context,
    request: &RestoreRequest,
    origin: Origin,
    confirm: Confirm<'_>,
) -> anyhow::Result<RestoreReport> {
    let Origin { manifest, sealed, dump, tenants, pitr } = origin;
    let restore = Restore::of(context, request, manifest, sealed, dump)?;
    if request.dry_run {
        let (plan, server) = restore.plan().await?;
        server.close().await;
        return Ok(restore.report(plan));
    }
    let _turn =
        context.turn(&turn_of(&restore.target), &format!("restore database \"{}\"", restore.target)).await?;
    let entry = begin(context, &restore, tenants, pitr)?;
    let result = restore.carry_out(entry, confirm).await;
    let result = write_down(context, entry, result);
    step::reached(Step::RestoreRecorded)?;
    result
}

/// Finds the backup that is meant. With backups of several databases `latest` alone could mean another one than the
/// operator has in mind, and would replace that.
fn choose(context: &Context, request: &RestoreRequest) -> anyhow::Result<BackupRow> {
    let (kind, database) = (Some(BackupKind::Database), request.database.as_deref());
    let row = manifests::find(&context.catalog, &request.backup, kind, database)?;
    if row.kind != BackupKind::Database {
        return Fault::new(Kind::Usage, format!("{} is a backup of a {}", row.id, row.kind))
            .hint("A cluster is restored into a directory: give --to-dir DIR.")
            .err();
    }
    if let Some(wanted) = &request.database
        && row.database.as_ref() != Some(wanted)
    {
        let of = row.database.as_deref().unwrap_or("nothing");
        return Fault::new(Kind::Usage, format!("{} is a backup of \"{of}\", not of \"{wanted}\"", row.id))
            .hint("Leave out --database, or name a backup of that database (`pgkeep list`).")
            .err();
    }
    if request.backup == "latest" && request.database.is_none() {
        let mut names: Vec<String> = context
            .catalog
            .backups()
            .list(&BackupFilter { kind, ..BackupFilter::default() })?
            .into_iter()
            .filter_map(|row| row.database)
            .collect();
        names.sort();
        names.dedup();
        if names.len() > 1 {
            return Fault::new(
                Kind::Usage,
                format!("there are backups of several databases: {}", names.join(", ")),
            )
            .hint("Say which one: `pgkeep restore latest --database NAME`.")
            .err();
        }
    }
    Ok(row)
}

/// When the backup is damaged in every store, the hint names the newest other one of the database of which everything
/// has a good copy somewhere, as far as the catalog knows.
pub(super) fn next_best(context: &Context, id: &BackupId, mut error: anyhow::Error) -> anyhow::Error {
    let Some(fault) = error.downcast_mut::<Fault>().filter(|fault| fault.kind == Kind::Damaged) else {
        return error;
    };
    let found = || -> anyhow::Result<Option<BackupId>> {
        let (backups, copies) = (context.catalog.backups(), context.catalog.copies());
        let database = backups.get(id)?.and_then(|row| row.database);
        let filter = BackupFilter {
            kind: Some(BackupKind::Database),
            database: database.as_deref(),
            ..BackupFilter::default()
        };
        for row in backups.list(&filter)?.into_iter().filter(|row| row.id != *id) {
            let mut objects: BTreeMap<String, bool> = BTreeMap::new();
            for copy in copies.of(&row.id)? {
                *objects.entry(copy.object).or_default() |= copy.state == CopyState::Good;
            }
            if objects.values().all(|has_good| *has_good) {
                return Ok(Some(row.id));
            }
        }
        Ok(None)
    };
    // That the catalog can't be asked either must not hide what is lost.
    if let Ok(other) = found() {
        let other = other.map_or_else(
            || "no other backup of the database is known to be whole".to_owned(),
            |other| format!("the newest other backup that is whole, as far as is known, is {other}"),
        );
        fault.hint = Some(format!(
            "Nothing was replaced; {other}. See with `pgkeep verify --deep` what else is damaged."
        ));
    }
    error
}

/// Writes down that the restore begins, whatever becomes of it.
fn begin(
    context: &Context,
    restore: &Restore<'_>,
    tenant_ids: Option<Vec<String>>,
    pitr: Option<Target>,
) -> anyhow::Result<i64> {
    context.catalog.restores().begin(&NewRestore {
        run_id: Some(context.run.clone()),
        backup_id: restore.manifest.id.clone(),
        purpose: Purpose::Restore,
        store: None,
        initiated_by: context.caller.person(),
        tenant_ids,
        mode: if pitr.is_some() { RestoreMode::Pitr } else { RestoreMode::Full },
        target_timestamp: pitr.and_then(|target| match target {
            Target::Time(time) => Some(time),
            _ => None,
        }),
        source_database: Some(restore.source().properties.name.clone()),
        target_database: Some(restore.target.clone()),
        target_directory: None,
        started_at: Utc::now(),
    })
}

/// Writes down how the restore ended. That this cannot be done never hides how it ended: the next run finds a restore
/// without its end and looks at the server.
fn write_down(
    context: &Context,
    entry: i64,
    result: anyhow::Result<RestoreReport>,
) -> anyhow::Result<RestoreReport> {
    let end = match &result {
        Ok(report) => RestoreEnd {
            state: RestoreState::Done,
            message: (!report.warnings.is_empty()).then(|| report.warnings.join("; ")),
            rows: Some(report.checked_rows),
            checks: Some(serde_json::json!({ "tables": report.checked_tables, "phases": report.phases })),
            at: Utc::now(),
        },
        Err(error) => {
            let verdict = judge(error);
            let state = if verdict.exit_code == Kind::Interrupted.exit_code() {
                RestoreState::Interrupted
            } else if verdict.exit_code == Kind::Refused.exit_code() {
                RestoreState::Refused
            } else {
                RestoreState::Failed
            };
            RestoreEnd { state, message: Some(verdict.message), rows: None, checks: None, at: Utc::now() }
        }
    };
    let written = context.catalog.restores().end(entry, &end).context("write down how the restore ended");
    match (result, written) {
        (Ok(mut report), Err(error)) => {
            report.warnings.push(format!("the restored database is in its place; {error:#}"));
            Ok(report)
        }
        (Err(failed), Err(error)) => {
            context.progress.note(&format!("warning: {error:#}"));
            Err(failed)
        }
        (result, Ok(())) => result,
    }
}

/// The lock's name for a target; a database's name may hold anything, a file's may not.
pub(super) fn turn_of(database: &str) -> String {
    format!("restore-{}", &hex::encode(Sha256::digest(database.as_bytes()))[..8])
}
