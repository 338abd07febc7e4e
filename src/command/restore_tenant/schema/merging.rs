//! `--mode merge` of a schema: looked at in a transaction that is undone, confirmed, saved as it is, and done in another.

use std::time::Instant;

use anyhow::Context as _;

use super::super::{
    Confirm, RestoreTenantReport, TenantPlan, TenantRestored, lap, or_cancel, refuse_conflicts,
};
use super::Schema;
use crate::command::backup::tenant::{self as backup, BackupTenants, Wanted};
use crate::model::BackupId;
use crate::postgres::Server;
use crate::system::{Step, step};
use crate::target::rows::Merged;
use crate::target::schema::{Dump, Replacing, SchemaPlan};
use crate::target::tenant::Applied;

/// Shows what would be done.
pub(super) async fn dry_run(
    schema: &Schema<'_>,
    server: &Server,
    take: bool,
    report: &mut RestoreTenantReport,
) -> anyhow::Result<TenantPlan> {
    let (dump, list) = schema.context.stop.or(schema.unpacked(server, report)).await?;
    let plan = schema.schema_plan(list, None);
    let (_, merged) = merge(schema, server, &dump, &plan, (take, false)).await?;
    server.run("undo what was tried out", "ROLLBACK").await?;
    Ok(tenant_plan(schema, &merged))
}

/// Does it. After an error nothing has happened.
pub(super) async fn carry_out(
    schema: &Schema<'_>,
    server: &Server,
    take: bool,
    confirm: Confirm<'_>,
    report: &mut RestoreTenantReport,
) -> anyhow::Result<TenantRestored> {
    let (context, mut clock) = (schema.context, Instant::now());
    step::reached(Step::SchemaBegun)?;
    let (dump, list) = context.stop.or(schema.unpacked(server, report)).await?;
    step::reached(Step::SchemaUnpacked)?;
    lap(report, "unpack", &mut clock);
    let plan = schema.schema_plan(list, None);
    let (_, merged) = merge(schema, server, &dump, &plan, (take, false)).await?;
    server.run("undo what was tried out", "ROLLBACK").await?;
    lap(report, "compare", &mut clock);
    let planned = tenant_plan(schema, &merged);
    refuse_conflicts(&planned)?;
    confirm(&planned)?;
    context.hold_again().await?;
    clock = Instant::now();
    let undo = save(schema, report).await?;
    lap(report, "save what is there", &mut clock);
    // Somebody may have written while the operator was reading.
    let (replacing, merged) = merge(schema, server, &dump, &plan, (take, true)).await?;
    let planned = tenant_plan(schema, &merged);
    let ready = || {
        refuse_conflicts(&planned)?;
        step::reached(Step::SchemaLoaded)?;
        context.stop.check()
    };
    or_cancel(server, ready()).await?;
    replacing.commit().await?;
    lap(report, "apply", &mut clock);
    if let Err(error) = step::reached(Step::SchemaCommitted) {
        report.warnings.push(format!("the rows are there; {error:#}"));
    }
    let sum =
        |count: fn(&crate::target::tenant::TablePlan) -> u64| merged.tables.iter().map(count).sum::<u64>();
    let applied = Applied {
        written: sum(|table| table.insert + table.update),
        removed: sum(|table| table.update),
        foreign_keys: merged.foreign_keys,
        ..Applied::default()
    };
    Ok(TenantRestored { plan: planned, undo, kept_as: None, undo_sql: None, applied: Some(applied) })
}

/// In a transaction that is left open; `how` is whether rows that differ are taken, and whether it is in earnest.
async fn merge<'a>(
    schema: &'a Schema<'_>,
    server: &'a Server,
    dump: &Dump,
    plan: &'a SchemaPlan,
    how: (bool, bool),
) -> anyhow::Result<(Replacing<'a>, Merged)> {
    let stop = &schema.context.stop;
    let merging = async {
        let replacing = Replacing::begin(server, &schema.load, plan).await?;
        let stage = schema.context.progress.bytes("load", schema.manifest.original_size);
        let merged = replacing.merge(dump, how, &stage, stop).await?;
        anyhow::Ok((replacing, merged))
    };
    or_cancel(server, stop.or(merging).await).await
}

/// Backs the tenant up as it is now.
async fn save(schema: &Schema<'_>, report: &mut RestoreTenantReport) -> anyhow::Result<Option<BackupId>> {
    let request = BackupTenants {
        database: Some(schema.database.to_owned()),
        tenants: Wanted::These(vec![schema.wanted.id.clone()]),
        jobs: schema.request.jobs,
        before_restore: true,
    };
    let made =
        Box::pin(backup::run(schema.context, &request)).await.context("save what the tenant has now")?;
    let made = made.backups.into_iter().next();
    report.warnings.extend(made.iter().flat_map(|made| made.warnings.clone()));
    Ok(made.map(|made| made.id))
}

fn tenant_plan(schema: &Schema<'_>, merged: &Merged) -> TenantPlan {
    TenantPlan {
        tenant: schema.wanted.id.clone(),
        made_of: None,
        database: schema.database.to_owned(),
        backup: schema.manifest.id.clone(),
        consistent_at: schema.manifest.consistent_at.clone(),
        mode: schema.request.mode,
        own: None,
        tables: merged.tables.clone(),
    }
}
