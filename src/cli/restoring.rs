//! `pgkeep restore`: from what was typed to one of the two restores, that of a database or that of a cluster.

use std::sync::Arc;

use super::args::{Action, Mode, Restore};
use super::dispatch::{Done, done};
use super::progress::Console;
use super::{confirm, text};
use crate::command::catalog::Wanted;
use crate::command::restore::RestoreRequest;
use crate::command::restore_cluster::{RestoreClusterRequest, TargetAction, TimelineWish};
use crate::command::{self, Environment, Target};
use crate::model::{BackupKind, Fault, Kind};

/// Restores what was asked for.
pub(super) async fn run(
    environment: &Environment,
    words: &str,
    restore: &Restore,
    progress: &Arc<Console>,
) -> anyhow::Result<Done> {
    if restore.cluster.to_dir.is_some() {
        return cluster(environment, words, restore, progress).await;
    }
    if restore.mode == Some(Mode::Pitr) {
        return Fault::new(Kind::Usage, "--mode pitr needs --to-dir: the directory for the restored cluster")
            .hint("A point in time is reached by replaying WAL onto a cluster backup; see the README.")
            .err();
    }
    let agree = |what: &str| confirm::rebuild(what, restore.yes, progress);
    let wanted = Wanted { backup: &restore.backup, kind: BackupKind::Database };
    let context = command::catalog::context_for_restore(environment, words, wanted, agree).await?;
    progress.announce(&format!("{words} {}", restore.backup));
    let confirm = |plan: &_| confirm::restore(plan, restore.yes, progress);
    let result = command::restore::run(&context, &request(restore), &confirm).await;
    done(&context.conclude(result).await?, text::restore)
}

async fn cluster(
    environment: &Environment,
    words: &str,
    restore: &Restore,
    progress: &Arc<Console>,
) -> anyhow::Result<Done> {
    let agree = |what: &str| confirm::rebuild(what, restore.yes, progress);
    let wanted = Wanted { backup: &restore.backup, kind: BackupKind::Cluster };
    let context = command::catalog::context_for_restore(environment, words, wanted, agree).await?;
    progress.announce(&format!("{words} {}", restore.backup));
    let confirm = |plan: &_| confirm::replace(plan, restore.yes, progress);
    let request = cluster_request(restore)?;
    let result = command::restore_cluster::run(&context, &request, &confirm).await;
    done(&context.conclude(result).await?, text::restore_cluster)
}

fn cluster_request(restore: &Restore) -> anyhow::Result<RestoreClusterRequest> {
    let wanted = &restore.cluster;
    let target = if let Some(time) = wanted.target_time {
        Target::Time(time)
    } else if let Some(lsn) = wanted.target_lsn {
        Target::Lsn(lsn)
    } else if let Some(transaction) = wanted.target_xid {
        Target::Transaction(transaction.to_string())
    } else if let Some(name) = &wanted.target_name {
        Target::Name(name.clone())
    } else if restore.mode == Some(Mode::Full) {
        Target::Consistent
    } else {
        Target::End
    };
    if restore.mode == Some(Mode::Full) && target != Target::Consistent {
        return Fault::new(
            Kind::Usage,
            "--mode full is the state of the backup itself, and a target was given",
        )
        .hint("Leave out --mode, or give --mode pitr.")
        .err();
    }
    Ok(RestoreClusterRequest {
        backup: restore.backup.clone(),
        to_dir: wanted.to_dir.clone().unwrap_or_default(),
        target,
        timeline: wanted.target_timeline.unwrap_or(TimelineWish::Latest),
        action: match wanted.target_action {
            None | Some(Action::Promote) => TargetAction::Promote,
            Some(Action::Pause) => TargetAction::Pause,
            Some(Action::Shutdown) => TargetAction::Shutdown,
        },
        tablespaces: wanted.tablespace.clone(),
        force: wanted.force,
        standby: wanted.standby,
        keep_archiving: wanted.keep_archiving,
        start: wanted.start,
        port: wanted.port,
        dry_run: restore.dry_run,
    })
}

fn request(restore: &Restore) -> RestoreRequest {
    RestoreRequest {
        backup: restore.backup.clone(),
        database: restore.database.clone(),
        to_database: restore.to_database.clone(),
        jobs: restore.jobs.map(usize::from),
        terminate: restore.terminate,
        drop_old: restore.drop_old,
        dry_run: restore.dry_run,
        no_owner: restore.no_owner,
        no_privileges: restore.no_privileges,
    }
}
