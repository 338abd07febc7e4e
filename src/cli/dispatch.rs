//! From arguments to commands, and from their reports to text and JSON.

use std::fmt::Display;
use std::sync::Arc;

use anyhow::Context as _;
use clap::CommandFactory;

use super::args::{Action, Arguments, Backup, Catalog, Command, Key, Mode, Restore};
use super::progress::Console;
use super::{confirm, text};
use crate::command::backup::cluster::BackupCluster;
use crate::command::backup::database::BackupDatabase;
use crate::command::list::ListRequest;
use crate::command::catalog::Wanted;
use crate::command::restore::RestoreRequest;
use crate::command::restore_cluster::{RestoreClusterRequest, TargetAction, TimelineWish};
use crate::command::sync::SyncRequest;
use crate::command::verify::VerifyRequest;
use crate::command::wal_fetch::WalFetchRequest;
use crate::command::wal_push::WalPushRequest;
use crate::command::{self, Context, Environment, Report, Shelf, Target};
use crate::model::{BackupKind, Fault, Kind};

/// A result, ready to be written.
pub(super) struct Done {
    pub(super) text: String,
    pub(super) json: serde_json::Value,
    pub(super) code: u8,
}

fn done<T: Report>(report: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<Done> {
    Ok(Done {
        text: text(report),
        json: serde_json::to_value(report).context("write the report as JSON")?,
        code: report.shortfall().map_or(0, crate::model::Kind::exit_code),
    })
}

fn printed(text: impl Display) -> Done {
    let text = text.to_string();
    Done { json: serde_json::json!({ "text": text }), text, code: 0 }
}

/// Carries out what was typed.
pub(super) async fn run(
    environment: &Environment,
    arguments: &Arguments,
    progress: &Arc<Console>,
) -> anyhow::Result<Done> {
    let words = arguments.command.words();
    match &arguments.command {
        Command::Init => done(&command::init::run(environment).await?, text::init),
        Command::Check => done(&command::check::run(environment).await, text::check),
        Command::Backup(Backup::Database { name, jobs }) => {
            let context = Context::open(environment, words).await?;
            progress.announce(&format!("{words} {}", name.as_deref().unwrap_or_default()));
            let request = BackupDatabase { database: name.clone(), jobs: jobs.map(usize::from) };
            let result = command::backup::database::run(&context, &request).await;
            done(&context.conclude(result).await?, text::backup)
        }
        Command::Backup(Backup::Cluster { fast, jobs }) => {
            let context = Context::open(environment, words).await?;
            progress.announce(words);
            let request = BackupCluster { jobs: jobs.map(usize::from), fast: *fast };
            let result = command::backup::cluster::run(&context, &request).await;
            done(&context.conclude(result).await?, text::backup)
        }
        Command::Restore(restore) if restore.cluster.to_dir.is_some() => {
            let agree = |what: &str| confirm::rebuild(what, restore.yes, progress);
            let wanted = Wanted { backup: &restore.backup, kind: BackupKind::Cluster };
            let context = command::catalog::context_for_restore(environment, words, wanted, agree).await?;
            progress.announce(&format!("{words} {}", restore.backup));
            let confirm = |plan: &_| confirm::replace(plan, restore.yes, progress);
            let request = cluster_request(restore)?;
            let result = command::restore_cluster::run(&context, &request, &confirm).await;
            done(&context.conclude(result).await?, text::restore_cluster)
        }
        Command::Restore(restore) => {
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
        Command::Verify(verify) => {
            let context = Context::open(environment, words).await?;
            progress.announce(words);
            let request =
                VerifyRequest { backup: verify.backup.clone(), deep: verify.deep, store: verify.store };
            let result = command::verify::run(&context, &request).await;
            done(&context.conclude(result).await?, text::verify)
        }
        Command::Sync(sync) => {
            let context = Context::open(environment, words).await?;
            progress.announce(words);
            let result = command::sync::run(&context, SyncRequest { dry_run: sync.dry_run }).await;
            done(&context.conclude(result).await?, text::sync)
        }
        Command::WalPush { path } => {
            let request = WalPushRequest { path: path.clone() };
            done(&command::wal_push::run(environment, &request).await?, text::wal_push)
        }
        Command::WalFetch { name, destination } => {
            let request = WalFetchRequest { name: name.clone(), destination: destination.clone() };
            done(&command::wal_fetch::run(environment, &request).await?, text::wal_fetch)
        }
        Command::WalPrefetch { first, segment_size } => {
            command::wal_fetch::prefetch(environment, first, *segment_size).await?;
            Ok(printed(""))
        }
        Command::List(list) if list.recoverable => {
            done(&command::recoverable::run(&Shelf::open(environment)?)?, text::recoverable)
        }
        Command::List(list) => {
            let request = ListRequest { database: list.database.clone() };
            done(&command::list::run(&Shelf::open(environment)?, &request)?, text::list)
        }
        Command::Show(show) => {
            done(&command::show::run(&Shelf::open(environment)?, &show.backup).await?, text::show)
        }
        Command::Catalog(Catalog::Rebuild) => {
            done(&command::catalog::rebuild(environment).await?, text::rebuild)
        }
        Command::Catalog(Catalog::Check) => {
            done(&command::catalog::check(&Shelf::open(environment)?)?, text::catalog_check)
        }
        Command::Key(Key::New) => done(&command::key::new(), |report| format!("{}\n", report.key)),
        Command::Completions { shell } => {
            let mut bytes = Vec::new();
            clap_complete::generate(*shell, &mut Arguments::command(), "pgkeep", &mut bytes);
            Ok(printed(String::from_utf8_lossy(&bytes)))
        }
        Command::Man => {
            let mut bytes = Vec::new();
            clap_mangen::Man::new(Arguments::command())
                .render(&mut bytes)
                .context("write the manual page")?;
            Ok(printed(String::from_utf8_lossy(&bytes)))
        }
    }
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
        return Fault::new(Kind::Usage, "--mode full is the state of the backup itself, and a target was given")
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
