//! The cluster as it was at a point in time, for reading: restored into the scratch directory and replayed there.

use std::time::Instant;

use super::{RestoreTenantReport, RestoreTenantRequest, lap};
use crate::command::instance::{Instance, Wanted};
use crate::command::restore_cluster::{self, RestoreClusterRequest, TargetAction, TimelineWish};
use crate::command::{Context, manifests};
use crate::model::{BackupId, Fault, Kind, timestamp_text};
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
    Ok(RestoreClusterRequest {
        backup: request.backup.clone(),
        to_dir: context.scratch()?.join("cluster"),
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
    refuse_tablespaces(plan.tablespaces.iter().map(|(from, _)| from.as_str()))?;
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

/// Refuses clusters with tablespaces, of now or of then: what is replayed of one that was made after the backup would be
/// written to where it is, into the files of the server in use (`tblspc_redo` in `tablespace.c`).
pub(in crate::command) fn refuse_tablespaces<'a>(paths: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
    let paths: Vec<&str> = paths.collect();
    if paths.is_empty() {
        return Ok(());
    }
    let message = format!(
        "a cluster with tablespaces can't be brought to life beside itself, it would write into them: {}",
        paths.join(", ")
    );
    Fault::new(Kind::Refused, message)
        .hint(
            "Nothing was changed. Restore the tenant out of a backup of its own or of the database, or restore the cluster on \
             another machine with --to-dir.",
        )
        .err()
}
