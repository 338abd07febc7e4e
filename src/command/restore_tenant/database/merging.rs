//! `--mode merge` of a database: the backup's is made beside the one in use, tried out in a transaction that is undone,
//! confirmed, what is there saved, and done in another.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use chrono::Utc;

use super::super::image::unpack_entries;
use super::super::own::Wanted;
use super::super::staging::{Place, Staging};
use super::super::{
    Confirm, RestoreTenantReport, RestoreTenantRequest, TenantPlan, TenantRestored, lap, or_cancel,
    refuse_conflicts, write_down,
};
use crate::catalog::{NewRestore, Purpose, RestoreMode};
use crate::command::Context;
use crate::command::backup::tenant::{self as backup, BackupTenants, Wanted as These};
use crate::command::restore::turn_of;
use crate::format::manifest::Manifest;
use crate::model::{BackupId, Fault, Kind};
use crate::postgres::Server;
use crate::system::{Step, step};
use crate::target::database::{self as target, merge};
use crate::target::rows::Merged;
use crate::target::tenant::Applied;

/// One database of one backup, and that into which it is merged.
pub(super) struct Merging<'a> {
    pub(super) context: &'a Context,
    pub(super) request: &'a RestoreTenantRequest,
    pub(super) wanted: &'a Wanted,
    pub(super) manifest: Arc<Manifest>,
    /// The dump, where it is at hand.
    pub(super) dump: Option<PathBuf>,
    /// The name of the database in use.
    pub(super) now: &'a str,
    /// Whether rows that differ become those of then.
    pub(super) take: bool,
}

impl Merging<'_> {
    /// Merges it, or shows what would be done.
    pub(super) async fn restore(
        &self,
        confirm: Confirm<'_>,
        report: &mut RestoreTenantReport,
    ) -> anyhow::Result<TenantRestored> {
        let context = self.context;
        if self.request.dry_run {
            return Box::pin(self.beside(None, report)).await;
        }
        let what = format!("merge into database \"{}\"", self.now);
        let _turn = context.turn(&turn_of(self.now), &what).await?;
        let entry = self.begin()?;
        let result = Box::pin(self.beside(Some(confirm), report)).await;
        write_down(context, entry, result)
    }

    /// Writes down that the restore begins, whatever becomes of it.
    fn begin(&self) -> anyhow::Result<i64> {
        self.context.catalog.restores().begin(&NewRestore {
            run_id: Some(self.context.run.clone()),
            backup_id: self.manifest.id.clone(),
            purpose: Purpose::Restore,
            store: None,
            initiated_by: self.context.caller.person(),
            tenant_ids: Some(vec![self.wanted.id.clone()]),
            mode: RestoreMode::Merge,
            target_timestamp: self.request.pitr.flatten(),
            source_database: self.manifest.database_name(),
            target_database: Some(self.now.to_owned()),
            target_directory: None,
            started_at: Utc::now(),
        })
    }

    /// With the database of then beside that of now, which is dropped again however it ends.
    async fn beside(
        &self,
        confirm: Option<Confirm<'_>>,
        report: &mut RestoreTenantReport,
    ) -> anyhow::Result<TenantRestored> {
        let staging = Staging { context: self.context, request: self.request, manifest: &self.manifest };
        let place = staging.begin().await?;
        // Within, everything up to the commit can be broken off.
        let result = Box::pin(self.carry_out(&staging, &place, confirm, report)).await;
        staging.end(place, result.is_ok()).await?;
        result
    }

    async fn carry_out(
        &self,
        staging: &Staging<'_>,
        place: &Place<'_>,
        confirm: Option<Confirm<'_>>,
        report: &mut RestoreTenantReport,
    ) -> anyhow::Result<TenantRestored> {
        let (context, stop) = (self.context, &self.context.stop);
        stop.or(Box::pin(self.fill(staging, place, report))).await?;
        let mut clock = Instant::now();
        let then = Server::connect(&place.load.connection, Some(&place.name), stop).await?;
        let now = Server::connect(&place.load.connection, Some(self.now), stop).await?;
        let merged = self.merge(&now, &then, false).await?;
        now.run("undo what was tried out", "ROLLBACK").await?;
        lap(report, "compare", &mut clock);
        let planned = self.plan(&merged);
        let Some(confirm) = confirm else {
            return Ok(TenantRestored {
                plan: planned,
                undo: None,
                kept_as: None,
                undo_sql: None,
                applied: None,
            });
        };
        refuse_conflicts(&planned)?;
        confirm(&planned)?;
        clock = Instant::now();
        let undo = self.save(report).await?;
        lap(report, "save what is there", &mut clock);
        // Somebody may have written while the operator was reading.
        let merged = self.merge(&now, &then, true).await?;
        let planned = self.plan(&merged);
        let ready = || {
            refuse_conflicts(&planned)?;
            step::reached(Step::TenantWritten)?;
            stop.check()
        };
        or_cancel(&now, ready()).await?;
        now.run("commit the tenant's rows", "COMMIT").await?;
        lap(report, "apply", &mut clock);
        if let Err(error) = step::reached(Step::TenantCommitted) {
            report.warnings.push(format!("the rows are there; {error:#}"));
        }
        then.close().await;
        now.close().await;
        let sum = |count: fn(&crate::target::tenant::TablePlan) -> u64| {
            merged.tables.iter().map(count).sum::<u64>()
        };
        let applied = Applied {
            written: sum(|table| table.insert + table.update),
            removed: sum(|table| table.update),
            foreign_keys: merged.foreign_keys,
            ..Applied::default()
        };
        context.progress.detail(&format!("merged into database \"{}\"", self.now));
        Ok(TenantRestored { plan: planned, undo, kept_as: None, undo_sql: None, applied: Some(applied) })
    }

    /// Makes the database of then, and counts its rows.
    async fn fill(
        &self,
        staging: &Staging<'_>,
        place: &Place<'_>,
        report: &mut RestoreTenantReport,
    ) -> anyhow::Result<()> {
        let (context, manifest, mut clock) = (self.context, &self.manifest, Instant::now());
        let directory = if let Some(dump) = &self.dump {
            dump.clone()
        } else {
            let all = (0..manifest.entries.len()).collect();
            unpack_entries(context, manifest, &format!("then-{}", manifest.id), all, report).await?
        };
        lap(report, "unpack", &mut clock);
        staging.load(place, &directory, None).await?;
        let stage = Arc::new(context.progress.rows("check", manifest.rows()));
        let checked = target::check(manifest, &place.name, &place.load, &stage, &context.stop).await?;
        lap(report, "load", &mut clock);
        if checked.findings.is_empty() {
            return Ok(());
        }
        Fault::new(Kind::Damaged, format!("check {}: {}", manifest.id, checked.findings.join("; ")))
            .hint("Nothing was changed. Restore another backup (`pgkeep list`), and report this one.")
            .err()
    }

    /// In a transaction that is left open.
    async fn merge(&self, now: &Server, then: &Server, in_earnest: bool) -> anyhow::Result<Merged> {
        let context = self.context;
        let stage = context.progress.bytes("merge", self.manifest.original_size);
        let merging = merge::merge(now, then, (self.take, in_earnest), &stage);
        or_cancel(now, context.stop.or(merging).await).await
    }

    /// Backs the tenant up as it is now.
    async fn save(&self, report: &mut RestoreTenantReport) -> anyhow::Result<Option<BackupId>> {
        let request = BackupTenants {
            database: self.request.database.clone(),
            tenants: These::These(vec![self.wanted.id.clone()]),
            jobs: self.request.jobs,
            before_restore: true,
        };
        let made = Box::pin(backup::run(self.context, &request)).await;
        let made = made.context("save what the tenant has now")?.backups.into_iter().next();
        report.warnings.extend(made.iter().flat_map(|made| made.warnings.clone()));
        Ok(made.map(|made| made.id))
    }

    fn plan(&self, merged: &Merged) -> TenantPlan {
        TenantPlan {
            tenant: self.wanted.id.clone(),
            made_of: None,
            database: self.now.to_owned(),
            backup: self.manifest.id.clone(),
            consistent_at: self.manifest.consistent_at.clone(),
            mode: self.request.mode,
            own: None,
            tables: merged.tables.clone(),
        }
    }
}
