//! `pgkeep restore`, mode full: unpack → new database beside the old one → `pg_restore` → check → swap by renaming.
//!
//! Until the swap is committed the database in use is not touched; the swap is one transaction of the server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::Utc;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::manifests;
use super::{Context, Report, judge};
use crate::catalog::{BackupFilter, BackupRow, NewRestore, RestoreEnd, RestoreMode, RestoreState};
use crate::format::manifest::{Database, Manifest};
use crate::model::{BackupId, Bytes, Elapsed, Fault, Kind};
use crate::pipeline::{Unpack, unpack};
use crate::postgres::{Server, database, facts, swap};
use crate::system::{Step, Stop, durable, space, step};
use crate::target::database::{self as target, Checked, LoadPlan};
use crate::target::directory::DirectoryTarget;

/// How long a statement that was broken off may take to end.
const BREAKING_OFF: Duration = Duration::from_mins(1);

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

/// What a restore is going to do.
#[derive(Debug, Clone, Serialize)]
pub struct RestorePlan {
    /// The backup.
    pub backup: BackupId,
    /// The instant that it holds.
    pub consistent_at: String,
    /// The database that was backed up.
    pub source_database: String,
    /// The name that the restored database gets.
    pub target_database: String,
    /// Whether a database of that name is there now.
    pub replaces: bool,
    /// Its name while it is being made.
    pub staging_database: String,
    /// The name under which the replaced database is kept.
    pub previous_database: Option<String>,
    /// Whether the replaced database is dropped in the end.
    pub drop_old: bool,
    /// Bytes to fetch from a store.
    pub fetch_bytes: u64,
    /// Room needed in the scratch directory.
    pub scratch_bytes: u64,
    /// Where that is.
    pub scratch_directory: String,
    /// Tables.
    pub tables: u64,
    /// Rows.
    pub rows: u64,
    /// Connections to the database that would be replaced.
    pub connections: Vec<String>,
    /// What the operator should know.
    pub warnings: Vec<String>,
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
    let (manifest, _) = manifests::fetch(&context.settings, &context.reading(), &row.id, &keyring).await?;
    let restore = Restore::of(context, request, manifest)?;
    if request.dry_run {
        let (plan, server) = restore.plan().await?;
        server.close().await;
        return Ok(restore.report(plan));
    }
    let _turn =
        context.turn(&turn_of(&restore.target), &format!("restore database \"{}\"", restore.target))?;
    let entry = context.catalog.restores().begin(&NewRestore {
        run_id: Some(context.run.clone()),
        backup_id: row.id.clone(),
        initiated_by: context.caller.user.clone(),
        tenant_ids: None,
        mode: RestoreMode::Full,
        target_timestamp: None,
        source_database: Some(restore.source().properties.name.clone()),
        target_database: Some(restore.target.clone()),
        started_at: Utc::now(),
    })?;
    let result = restore.carry_out(entry, confirm).await;
    restore.write_down(entry, &result)?;
    step::reached(Step::RestoreRecorded)?;
    result
}

/// Finds the backup that is meant. With backups of several databases `latest` alone could mean another one than the
/// operator has in mind, and would replace that.
fn choose(context: &Context, request: &RestoreRequest) -> anyhow::Result<BackupRow> {
    let row = manifests::find(&context.catalog, &request.backup, request.database.as_deref())?;
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
            .list(&BackupFilter::default())?
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

struct Restore<'a> {
    context: &'a Context,
    request: &'a RestoreRequest,
    manifest: Arc<Manifest>,
    load: LoadPlan,
    target: String,
    staging: String,
}

impl<'a> Restore<'a> {
    fn of(context: &'a Context, request: &'a RestoreRequest, manifest: Manifest) -> anyhow::Result<Self> {
        let Some(database) = &manifest.database else {
            return Fault::new(Kind::Usage, format!("{} is no backup of a database", manifest.id)).err();
        };
        let target = request.to_database.clone().unwrap_or_else(|| database.properties.name.clone());
        if target.is_empty() || target.len() > swap::LONGEST_NAME {
            // The server would cut it off without a word.
            let message = format!("\"{target}\" is no name for a database: it has {} bytes", target.len());
            return Fault::new(Kind::Usage, message)
                .hint(format!("Give --to-database a name of 1 to {} bytes.", swap::LONGEST_NAME))
                .err();
        }
        let staging = swap::derived_name(&target, &format!("_restore_{}", context.run));
        let load = LoadPlan {
            connection: context.settings.postgres.clone(),
            jobs: request.jobs.unwrap_or(context.settings.jobs),
            bindir: context.settings.pg_bindir.clone(),
            no_owner: request.no_owner,
            no_privileges: request.no_privileges,
        };
        Ok(Self { context, request, manifest: Arc::new(manifest), load, target, staging })
    }

    fn source(&self) -> &Database {
        // `of` has looked.
        self.manifest.database.as_ref().unwrap_or_else(|| unreachable!("a backup of a database"))
    }

    /// Looks at everything that could stand in the way, before a byte is written.
    async fn plan(&self) -> anyhow::Result<(RestorePlan, Server)> {
        let server =
            target::connect_beside(&self.load.connection, &[&self.target], &self.context.stop).await?;
        let replaces = facts::database_exists(&server, &self.target).await?;
        if replaces && self.request.to_database.is_some() {
            return Fault::new(Kind::Refused, format!("a database \"{}\" exists already", self.target))
                .hint("Name one that does not exist, or leave out --to-database to replace the original.")
                .err();
        }
        self.refuse_what_cannot_work(&server).await?;
        let held = if replaces { facts::connections(&server, &self.target).await? } else { Vec::new() };
        let connections: Vec<String> = held.iter().map(ToString::to_string).collect();
        let scratch = &self.context.settings.scratch_dir;
        let mut warnings = Vec::new();
        if server.major() < self.manifest.postgres_version_num / 10_000 {
            warnings.push(format!(
                "the backup is of PostgreSQL {}, this server is {}: older servers may not understand all of it",
                self.manifest.postgres_version_num / 10_000,
                server.major()
            ));
        }
        let previous_database = if replaces { Some(self.name_for_the_old(&server).await?) } else { None };
        let plan = RestorePlan {
            backup: self.manifest.id.clone(),
            consistent_at: self.manifest.consistent_at.clone(),
            source_database: self.source().properties.name.clone(),
            target_database: self.target.clone(),
            replaces,
            staging_database: self.staging.clone(),
            previous_database,
            drop_old: replaces && self.request.drop_old,
            fetch_bytes: self.manifest.stored_size,
            scratch_bytes: self.manifest.original_size,
            scratch_directory: scratch.display().to_string(),
            tables: self.manifest.tables().count() as u64,
            rows: self.manifest.rows(),
            connections,
            warnings,
        };
        Ok((plan, server))
    }

    /// The name under which the replaced database is kept: a free one, also after another restore in this second.
    async fn name_for_the_old(&self, server: &Server) -> anyhow::Result<String> {
        let suffix = format!("_old_{}", Utc::now().format("%Y%m%dT%H%M%SZ"));
        let mut name = swap::derived_name(&self.target, &suffix);
        for number in 2..100 {
            if !facts::database_exists(server, &name).await? {
                break;
            }
            name = swap::derived_name(&self.target, &format!("{suffix}_{number}"));
        }
        Ok(name)
    }

    async fn refuse_what_cannot_work(&self, server: &Server) -> anyhow::Result<()> {
        let rights = facts::rights(server).await?;
        if !rights.superuser && !rights.create_databases {
            return Fault::new(Kind::Postgres, format!("user \"{}\" may not create databases", rights.user))
                .hint("Restore as a superuser, or as a user with CREATEDB who owns the database.")
                .err();
        }
        let properties = &self.source().properties;
        if !self.request.no_owner || !self.request.no_privileges {
            let missing = database::missing_roles(server, properties).await?;
            if !missing.is_empty() {
                return Fault::new(Kind::Postgres, format!("the server has no role {}", missing.join(", ")))
                    .hint("Create them, or restore with `--no-owner --no-privileges`.")
                    .err();
            }
        }
        if database::lacks_tablespace(server, properties).await? {
            return Fault::new(
                Kind::Postgres,
                format!("the server has no tablespace \"{}\"", properties.tablespace),
            )
            .hint("Create it, then run the restore again.")
            .err();
        }
        let scratch = &self.context.settings.scratch_dir;
        let free = space::of(scratch)?.free;
        if free < self.manifest.original_size {
            let need = Bytes(self.manifest.original_size);
            let message = format!(
                "the scratch directory {} has {} free, unpacking needs {need}",
                scratch.display(),
                Bytes(free)
            );
            return Fault::new(Kind::Store, message)
                .hint("Make room there, or set BACKUP_SCRATCH_DIR to a directory with more.")
                .err();
        }
        Ok(())
    }

    fn refuse_connections(&self, plan: &RestorePlan) -> anyhow::Result<()> {
        if plan.connections.is_empty() || self.request.terminate {
            return Ok(());
        }
        Fault::new(
            Kind::Refused,
            format!("database \"{}\" is in use by {}", self.target, plan.connections.join("; ")),
        )
        .hint("Stop what uses it, or let the restore end these connections with --terminate.")
        .err()
    }

    /// All of the restore; on failure the staging database goes and the one in use is as it was.
    async fn carry_out(&self, entry: i64, confirm: Confirm<'_>) -> anyhow::Result<RestoreReport> {
        let clock = Instant::now();
        let stop = &self.context.stop;
        let (plan, server) = stop.or(self.plan()).await?;
        self.refuse_connections(&plan)?;
        if self.request.to_database.is_none() {
            confirm(&plan)?;
        }
        // Written down before they exist: whoever comes after a crash knows what to drop and what to name.
        let log = self.context.catalog.restores();
        log.set_previous(entry, plan.previous_database.as_deref())?;
        log.set_staging(entry, Some(&self.staging))?;
        step::reached(Step::RestoreBegun)?;
        let mut report = self.report(plan);
        let prepared = stop.or(self.prepare(&server, &mut report)).await;
        let swapped = match prepared {
            Ok(()) => self.swap(&server, &report.plan).await,
            Err(error) => Err(error),
        };
        if let Err(error) = swapped {
            self.drop_staging(&server, entry).await;
            return Err(error);
        }
        step::reached(Step::RestoreSwapped)?;
        self.context.catalog.restores().set_staging(entry, None)?;
        if report.plan.replaces {
            report.kept_as.clone_from(&report.plan.previous_database);
        }
        if report.plan.drop_old
            && let Some(old) = report.kept_as.clone()
        {
            match facts::drop_database(&server, &old, false).await {
                Ok(()) => report.kept_as = None,
                Err(error) => {
                    report.warnings.push(format!("the replaced database is still there: {error:#}"));
                }
            }
        }
        server.close().await;
        report.seconds = clock.elapsed().as_secs_f64();
        Ok(report)
    }

    /// Everything up to a staging database that is filled and checked.
    async fn prepare(&self, server: &Server, report: &mut RestoreReport) -> anyhow::Result<()> {
        let context = self.context;
        let directory = context.scratch()?.join("dump");
        let mut clock = Instant::now();
        let mut lap = |report: &mut RestoreReport, name| {
            context.progress.detail(&format!("{name}: {}", Elapsed(clock.elapsed())));
            report.phases.push(Phase { name, seconds: clock.elapsed().as_secs_f64() });
            clock = Instant::now();
        };

        let sink = DirectoryTarget::create(directory.clone(), Arc::clone(&self.manifest))?;
        let request = Unpack {
            entries: (0..self.manifest.entries.len()).collect(),
            stage: context.progress.bytes("unpack", self.manifest.original_size),
            manifest: Arc::clone(&self.manifest),
        };
        let reader = manifests::Volumes::of(context.reading(), &context.settings.cluster, &self.manifest.id);
        unpack(request, Arc::new(reader), sink, context.stop.clone()).await?;
        step::reached(Step::RestoreUnpacked)?;
        lap(report, "unpack");

        target::create(server, self.source(), &self.staging, &self.load).await?;
        let waiting = context.progress.waiting("load");
        target::load(server, &directory, &self.staging, &self.load, &context.stop).await?;
        drop(waiting);
        durable::remove_dir_if_there(&directory)?;
        lap(report, "load");

        let stage = Arc::new(context.progress.rows("check", self.manifest.rows()));
        let checked = target::check(&self.manifest, &self.staging, &self.load, &stage, &context.stop).await?;
        refuse_findings(&checked, &self.staging)?;
        (report.checked_tables, report.checked_rows) = (checked.tables, checked.rows);
        report.warnings.extend(target::apply(server, self.source(), &self.staging, &self.load).await?);
        step::reached(Step::RestoreChecked)?;
        lap(report, "check");
        Ok(())
    }

    /// Puts the staging database into its place. Not to be interrupted: it takes one transaction.
    async fn swap(&self, server: &Server, plan: &RestorePlan) -> anyhow::Result<()> {
        let order = swap::Swap {
            current: &self.target,
            staging: &self.staging,
            keep_as: plan.previous_database.as_deref(),
            terminate: self.request.terminate,
        };
        let prepared = || step::reached(Step::RestoreSwapPrepared).and_then(|()| self.context.stop.check());
        let Err(error) = swap::swap(server, order, &self.context.stop, prepared).await else {
            return Ok(());
        };
        // Was it the answer to the commit that got lost? The server knows.
        let beside = target::connect_beside(&self.load.connection, &[&self.target], &Stop::default()).await;
        if let Ok(server) = beside
            && let Ok(false) = facts::database_exists(&server, &self.staging).await
            && let Ok(true) = facts::database_exists(&server, &self.target).await
        {
            return Ok(());
        }
        Err(error)
    }

    /// Removes the staging database if it is there; the next run tries again if this fails.
    async fn drop_staging(&self, server: &Server, entry: i64) {
        let stop = Stop::default();
        let dropped = async {
            // What was broken off here goes on in the server: a CREATE DATABASE would be done after nobody found the
            // database. The answer to the next statement comes when that one has ended, well or not.
            let ended = async {
                let _ = server.cancel().await;
                let _ = server.run("wait for what was broken off", "SELECT 1").await;
            };
            let _ = tokio::time::timeout(BREAKING_OFF, ended).await;
            let server = target::connect_beside(&self.load.connection, &[&self.target], &stop).await?;
            if facts::database_exists(&server, &self.staging).await? {
                facts::drop_database(&server, &self.staging, true).await?;
            }
            self.context.catalog.restores().set_staging(entry, None)
        };
        if let Err(error) = dropped.await {
            let name = &self.staging;
            self.context
                .progress
                .note(&format!("warning: the unfinished database \"{name}\" is still there: {error:#}"));
        }
    }

    fn write_down(&self, entry: i64, result: &anyhow::Result<RestoreReport>) -> anyhow::Result<()> {
        let end = match result {
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
        self.context.catalog.restores().end(entry, &end).context("write down how the restore ended")
    }

    fn report(&self, plan: RestorePlan) -> RestoreReport {
        RestoreReport {
            dry_run: self.request.dry_run,
            warnings: plan.warnings.clone(),
            plan,
            phases: Vec::new(),
            checked_tables: 0,
            checked_rows: 0,
            kept_as: None,
            seconds: 0.0,
        }
    }
}

fn refuse_findings(checked: &Checked, staging: &str) -> anyhow::Result<()> {
    if checked.findings.is_empty() {
        return Ok(());
    }
    Fault::new(Kind::Damaged, format!("check database \"{staging}\": {}", checked.findings.join("; ")))
        .hint("Nothing was replaced. Restore another backup (`pgkeep list`), and report this one.")
        .err()
}

/// The lock's name for a target; a database's name may hold anything, a file's may not.
fn turn_of(database: &str) -> String {
    format!("restore-{}", &hex::encode(Sha256::digest(database.as_bytes()))[..8])
}
