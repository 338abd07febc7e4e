//! A tenant's own database: restored as any database is, beside the one in use and swapped in by renaming; or merged, see
//! `merging`.

mod merging;

use std::sync::Arc;

use super::own::{self, Image, OwnPlan, Wanted};
use super::{Confirm, RestoreTenantReport, RestoreTenantRequest, TenantPlan, TenantRestored};
use crate::command::Context;
use crate::command::restore::{self, Origin, RestorePlan, RestoreRequest};
use crate::format::manifest::{Manifest, Table};
use crate::model::{Fault, Kind, PlaceKind};
use crate::plan::recovery::Target;
use crate::postgres::facts;
use crate::target::database as target;
use crate::target::tenant::{Applied, Mode};

use merging::Merging;

/// Restores it, or shows what would be done.
pub(super) async fn restore(
    context: &Context,
    request: &RestoreTenantRequest,
    wanted: &Wanted,
    image: Option<Image>,
    confirm: Confirm<'_>,
    report: &mut RestoreTenantReport,
) -> anyhow::Result<TenantRestored> {
    let Image { manifest, sealed, dump } = match image {
        Some(image) => image,
        None => own::fetch(context, request, wanted, wanted.name.as_deref(), report).await?,
    };
    own::refuse_another_mode(&manifest, PlaceKind::Database)?;
    let Some(source) = manifest.database_name() else {
        return Fault::new(Kind::Damaged, format!("{} does not say of which database it is", manifest.id))
            .err();
    };
    // What the tenant has now may have another name than it had then.
    let now = wanted.anew.as_ref().map(|(_, name)| name).or(wanted.name.as_ref()).unwrap_or(&source);
    // Where there is none, there is nothing to merge with.
    if let Mode::Merge { take } = request.mode
        && wanted.anew.is_none()
        && is_there(context, now).await?
    {
        let manifest = Arc::new(manifest.clone());
        let merging = Merging { context, request, wanted, manifest, dump, now, take };
        return Box::pin(merging.restore(confirm, report)).await;
    }
    let asked = RestoreRequest {
        backup: manifest.id.to_string(),
        database: None,
        to_database: wanted.anew.as_ref().map(|_| now.clone()),
        replacing: wanted.anew.is_none().then(|| now.clone()),
        jobs: request.jobs,
        terminate: request.terminate,
        drop_old: request.drop_old,
        dry_run: request.dry_run,
        no_owner: request.no_owner,
        no_privileges: request.no_privileges,
    };
    let plan = |plan: &RestorePlan| tenant_plan(wanted, request, &manifest, plan);
    let agree = |of: &RestorePlan| confirm(&plan(of));
    let origin = Origin {
        manifest: manifest.clone(),
        sealed,
        dump,
        tenants: Some(vec![wanted.becomes().to_owned()]),
        pitr: request.pitr.map(|time| time.map_or(Target::End, Target::Time)),
    };
    let done = Box::pin(restore::of(context, &asked, origin, &agree)).await?;
    report.phases.extend(done.phases);
    report.warnings.extend(done.warnings);
    let applied = (!done.dry_run).then(|| Applied { written: done.checked_rows, ..Applied::default() });
    Ok(own::restored(plan(&done.plan), done.kept_as, applied))
}

async fn is_there(context: &Context, name: &str) -> anyhow::Result<bool> {
    let server = target::connect_beside(&context.settings.postgres, &[], &context.stop).await?;
    let found = facts::database_oid(&server, name).await?;
    server.close().await;
    Ok(found.is_some())
}

fn tenant_plan(
    wanted: &Wanted,
    request: &RestoreTenantRequest,
    manifest: &Manifest,
    plan: &RestorePlan,
) -> TenantPlan {
    let place = OwnPlan {
        kind: PlaceKind::Database,
        name: plan.target_database.clone(),
        replaces: plan.replaces,
        keep_as: plan.previous_database.clone(),
        drop_old: plan.drop_old,
        connections: plan.connections.clone(),
    };
    let tables: Vec<Table> = manifest.tables().cloned().collect();
    own::plan(wanted, request, manifest, &plan.target_database, place, (&tables, &[]))
}
