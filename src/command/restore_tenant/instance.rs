//! The cluster as it was at a point in time, for reading: restored into the scratch directory, its tablespaces with it, and
//! replayed there.

use std::time::Instant;

use super::{RestoreTenantReport, RestoreTenantRequest, lap};
use crate::command::instance::{Instance, Wanted, tablespaces_of};
use crate::command::restore_cluster::{self, RestoreClusterRequest, TargetAction, TimelineWish};
use crate::command::{Context, manifests};
use crate::model::{BackupId, timestamp_text};
use crate::plan::recovery::Target;

/// The running cluster.
pub(super) struct Then {
    pub(super) instance: Instance,
    pub(super) backup: BackupId,
    /// The instant of its data, RFC 3339.
    pub(super) reached: String,
}

/// The cluster that is to be restored; as a dry run.
pub(super) fn wanted(
    context: &Context,
    request: &RestoreTenantRequest,
) -> anyhow::Result<RestoreClusterRequest> {
    let root = context.scratch()?.join("cluster");
    Ok(RestoreClusterRequest {
        backup: request.backup.clone(),
        contained: Some(tablespaces_of(&root)),
        to_dir: root,
        target: request.pitr.flatten().map_or(Target::End, Target::Time),
        timeline: TimelineWish::Latest,
        action: TargetAction::Pause,
        tablespaces: Vec::new(),
        force: false,
        standby: false,
        keep_archiving: false,
        start: false,
        port: None,
        dry_run: true,
    })
}

/// Restores and starts it, and waits until it is where it should be.
pub(super) async fn start(
    context: &Context,
    request: &RestoreTenantRequest,
    report: &mut RestoreTenantReport,
) -> anyhow::Result<Then> {
    let mut clock = Instant::now();
    let wanted = wanted(context, request)?;
    let root = wanted.to_dir.clone();
    let plan = restore_cluster::run(context, &wanted, &|_| Ok(())).await?.plan;
    let wanted = RestoreClusterRequest { backup: plan.backup.to_string(), dry_run: false, ..wanted };
    let restored = restore_cluster::run(context, &wanted, &|_| Ok(())).await?;
    report.warnings.extend(restored.warnings);
    lap(report, "restore the cluster", &mut clock);
    let backup = restored.plan.backup;
    let keyring = context.keyring()?;
    let fetched = manifests::fetch(&context.settings, context.reading(), &backup, &keyring).await?;
    let manifest = fetched.manifest;
    let server = Wanted {
        root: &root,
        major: manifest.postgres_version_num / 10_000,
        config_file: manifest.physical.as_ref().and_then(|cluster| cluster.config_file.as_deref()),
        settings: &[],
        what: "the cluster of then",
    };
    let mut instance = Instance::start(context, &server).await?;
    let reached = context.stop.or(instance.follow(context)).await;
    match reached {
        Ok(reached) => {
            let reached = request.pitr.flatten().map_or(reached.time, timestamp_text);
            lap(report, "replay", &mut clock);
            Ok(Then { instance, backup, reached })
        }
        Err(error) => {
            instance.end(context).await?;
            Err(error)
        }
    }
}
