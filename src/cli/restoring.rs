//! `pgkeep restore`: from what was typed to one of the two restores, that of a database or that of a cluster.

use std::sync::Arc;

use super::args::{Action, Mode, OnConflict, Restore};
use super::confirm::{Ask, Asking};
use super::dispatch::{Done, done};
use super::progress::Console;
use super::{confirm, text};
use crate::command::catalog::Wanted;
use crate::command::restore::RestoreRequest;
use crate::command::restore_cluster::{RestoreClusterRequest, TargetAction, TimelineWish};
use crate::command::restore_config::RestoreConfigRequest;
use crate::command::restore_tenant::{RestoreTenantRequest, tenant};
use crate::command::{self, Context, Environment, Target};
use crate::model::{BackupKind, Fault, Kind};

/// Restores what was asked for.
pub(super) async fn run(
    environment: &Environment,
    words: &str,
    restore: &Restore,
    ask: &Ask<'_>,
    progress: &Arc<Console>,
) -> anyhow::Result<Done> {
    if !restore.tenants.tenant.is_empty() {
        return Box::pin(tenants(environment, words, restore, ask, progress)).await;
    }
    if restore.mode == Some(Mode::Merge) {
        return Fault::new(Kind::Usage, "--mode merge is for tenants").hint("Name them: --tenant ID.").err();
    }
    if restore.cluster.to_dir.is_some() {
        return Box::pin(cluster(environment, words, restore, ask, progress)).await;
    }
    if restore.mode == Some(Mode::Pitr) {
        return Fault::new(Kind::Usage, "--mode pitr needs --to-dir: the directory for the restored cluster")
            .hint("A point in time is reached by replaying WAL onto a cluster backup; see the README.")
            .err();
    }
    let agree = |what: &str| confirm::rebuild(what, ask, progress);
    let wanted = Wanted { backup: &restore.backup, kind: BackupKind::Database };
    let context = command::catalog::context_for_restore(environment, words, wanted, agree).await?;
    progress.announce(&format!("{words} {}", restore.backup));
    let asking = Asking { context: &context, progress };
    let confirm = |plan: &_| confirm::restore(plan, ask, asking);
    let result = command::restore::run(&context, &request(restore), &confirm).await;
    done(&context.conclude(result).await?, text::restore)
}

async fn tenants(
    environment: &Environment,
    words: &str,
    restore: &Restore,
    ask: &Ask<'_>,
    progress: &Arc<Console>,
) -> anyhow::Result<Done> {
    let wanted = &restore.tenants;
    let is_pitr = restore.mode == Some(Mode::Pitr);
    if restore.cluster.target_time.is_some() && !is_pitr {
        return Fault::new(Kind::Usage, "--target-time is of a point in time, and the mode is not pitr")
            .hint("Give --mode pitr.")
            .err();
    }
    let take = wanted.on_conflict == Some(OnConflict::Take);
    let mode = match restore.mode {
        Some(Mode::Merge) => tenant::Mode::Merge { take },
        _ if wanted.on_conflict.is_some() => {
            return Fault::new(Kind::Usage, "--on-conflict is for --mode merge")
                .hint("Give --mode merge.")
                .err();
        }
        _ => tenant::Mode::Full,
    };
    if wanted.new_id.is_some() && (wanted.tenant.len() != 1 || mode != tenant::Mode::Full) {
        return Fault::new(Kind::Usage, "--as makes one tenant anew, and nothing is there to be merged with")
            .hint("Give one --tenant, and no --mode merge.")
            .err();
    }
    let request = RestoreTenantRequest {
        backup: restore.backup.clone(),
        tenants: wanted.tenant.clone(),
        new_id: wanted.new_id.clone(),
        database: restore.database.clone(),
        mode,
        pitr: is_pitr.then_some(restore.cluster.target_time),
        jobs: restore.jobs.map(usize::from),
        dry_run: restore.dry_run,
        show_rows: wanted.show_rows,
        prove_others: wanted.prove_others,
        terminate: restore.terminate,
        drop_old: restore.drop_old,
        no_owner: restore.no_owner,
        no_privileges: restore.no_privileges,
    };
    let context = Context::open(environment, words).await?.unlimited()?;
    progress.announce(&format!("{words} of tenant {}", wanted.tenant.join(", ")));
    let asking = Asking { context: &context, progress };
    let confirm = |plan: &_| confirm::tenant(plan, ask, asking);
    let result = command::restore_tenant::run(&context, &request, &confirm).await;
    done(&context.conclude(result).await?, text::restore_tenant)
}

async fn cluster(
    environment: &Environment,
    words: &str,
    restore: &Restore,
    ask: &Ask<'_>,
    progress: &Arc<Console>,
) -> anyhow::Result<Done> {
    let agree = |what: &str| confirm::rebuild(what, ask, progress);
    let wanted = Wanted { backup: &restore.backup, kind: BackupKind::Cluster };
    let context = command::catalog::context_for_restore(environment, words, wanted, agree).await?;
    progress.announce(&format!("{words} {}", restore.backup));
    match command::restore_config::is_meant(&context, &restore.backup) {
        Ok(false) => {}
        meant => return config(context, restore, meant.map(|_| ())).await,
    }
    let asking = Asking { context: &context, progress };
    let confirm = |plan: &_| confirm::replace(plan, ask, asking);
    let request = cluster_request(restore)?;
    let result = command::restore_cluster::run(&context, &request, &confirm).await;
    done(&context.conclude(result).await?, text::restore_cluster)
}

/// The files of a configuration.
async fn config(context: Context, restore: &Restore, meant: anyhow::Result<()>) -> anyhow::Result<Done> {
    let wanted = &restore.cluster;
    let request = RestoreConfigRequest {
        backup: restore.backup.clone(),
        to_dir: wanted.to_dir.clone().unwrap_or_default(),
        dry_run: restore.dry_run,
    };
    let has_target = wanted.target_time.is_some()
        || wanted.target_lsn.is_some()
        || wanted.target_xid.is_some()
        || wanted.target_name.is_some();
    let is_of_cluster =
        has_target || wanted.force || wanted.standby || wanted.start || !wanted.tablespace.is_empty();
    let result = match meant {
        Err(error) => Err(error),
        Ok(()) if is_of_cluster => Fault::new(
            Kind::Usage,
            format!("{} holds files of a configuration, and no server", request.backup),
        )
        .hint("Give --to-dir alone.")
        .err(),
        Ok(()) => command::restore_config::run(&context, &request).await,
    };
    done(&context.conclude(result).await?, text::restore_config)
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
        contained: None,
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
        replacing: None,
        jobs: restore.jobs.map(usize::from),
        terminate: restore.terminate,
        drop_old: restore.drop_old,
        dry_run: restore.dry_run,
        no_owner: restore.no_owner,
        no_privileges: restore.no_privileges,
    }
}
