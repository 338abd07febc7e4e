//! From arguments to commands, and from their reports to text and JSON.

use std::fmt::Display;
use std::sync::Arc;

use anyhow::Context as _;

use super::args::{AlertAction, Arguments, Backup, Catalog, Command, Jobs, Key, Verify};
use super::confirm::Ask;
use super::progress::Console;
use super::{keeping, manual, restoring, text};
use crate::command::backup::cluster::BackupCluster;
use crate::command::backup::database::BackupDatabase;
use crate::command::backup::tenant::{BackupTenants, Wanted};
use crate::command::jobs::Later;
use crate::command::list::ListRequest;
use crate::command::sync::SyncRequest;
use crate::command::verify::VerifyRequest;
use crate::command::wal_fetch::WalFetchRequest;
use crate::command::wal_push::WalPushRequest;
use crate::command::{self, Context, Environment, Report, Shelf};

/// A result, ready to be written.
pub(super) struct Done {
    pub(super) text: String,
    pub(super) json: serde_json::Value,
    pub(super) code: u8,
}

pub(super) fn done<T: Report>(report: &T, text: impl FnOnce(&T) -> String) -> anyhow::Result<Done> {
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

fn verify_request(verify: &Verify) -> VerifyRequest {
    let Verify { backup, deep, store, budget, max_time, repair } = verify.clone();
    VerifyRequest { backup, deep, store, budget, max_time, repair }
}

/// Carries out what was typed.
#[expect(clippy::too_many_lines, reason = "an arm for each command, none of them long")]
pub(super) async fn run(
    environment: &Environment,
    arguments: &Arguments,
    progress: &Arc<Console>,
) -> anyhow::Result<Done> {
    let words = arguments.command.words();
    if let Some(at) = arguments.at {
        let asks = arguments.command.asks();
        let line: Vec<String> =
            std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
        let later = Later { words, line: &line, at, asks };
        return done(&command::jobs::put_off(environment, &later)?, text::put_off);
    }
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
        Command::Backup(Backup::Tenant { tenants, all, database, jobs }) => {
            let context = Context::open(environment, words).await?;
            progress
                .announce(&format!("{words} {}", if *all { "--all".to_owned() } else { tenants.join(" ") }));
            let tenants = if *all { Wanted::All } else { Wanted::These(tenants.clone()) };
            let (database, jobs) = (database.clone(), jobs.map(usize::from));
            let request = BackupTenants { database, tenants, jobs, before_restore: false };
            let result = command::backup::tenant::run(&context, &request).await;
            done(&context.conclude(result).await?, text::backup_tenants)
        }
        Command::Backup(Backup::Cluster { fast, jobs }) => {
            let context = Context::open(environment, words).await?;
            progress.announce(words);
            let request = BackupCluster { jobs: jobs.map(usize::from), fast: *fast };
            let result = command::backup::cluster::run(&context, &request).await;
            done(&context.conclude(result).await?, text::backup)
        }
        Command::Backup(Backup::Config) => {
            let context = Context::open(environment, words).await?;
            progress.announce(words);
            let result = command::backup::config::run(&context).await;
            done(&context.conclude(result).await?, text::backup)
        }
        Command::Restore(restore) => {
            restoring::run(environment, words, restore, &Ask::unless(restore.yes), progress).await
        }
        Command::Verify(verify) => {
            let context = Context::open(environment, words).await?;
            progress.announce(words);
            let request = verify_request(verify);
            let result = command::verify::run(&context, &request).await;
            done(&context.conclude(result).await?, text::verify)
        }
        Command::TestRestore(test) => {
            let request = test.request();
            let context = command::test_restore::open(environment, words, &request).await?;
            progress.announce(words);
            let result = command::test_restore::run(&context, &request).await;
            done(&context.conclude(result).await?, text::test_restore)
        }
        Command::Sync(sync) => {
            let context = Context::open(environment, words).await?;
            progress.announce(words);
            let result =
                command::sync::run(&context, SyncRequest { dry_run: sync.dry_run, wait: None }).await;
            done(&context.conclude(result).await?, text::sync)
        }
        Command::Cleanup(_) | Command::Keep { .. } | Command::Unkeep { .. } => {
            keeping::run(environment, words, &arguments.command, progress).await
        }
        Command::WalPush { path } => {
            let request = WalPushRequest { path: path.clone() };
            done(&command::wal_push::run(environment, &request).await?, text::wal_push)
        }
        Command::WalFetch { name, destination, bounded, contained, store } => {
            let request = WalFetchRequest {
                name: name.clone(),
                destination: destination.clone(),
                store: *store,
                bounded: *bounded,
                contained: *contained,
            };
            done(&command::wal_fetch::run(environment, &request).await?, text::wal_fetch)
        }
        Command::WalPrefetch { first, segment_size, store } => {
            command::wal_fetch::prefetch(environment, first, *segment_size, *store).await?;
            Ok(printed(""))
        }
        Command::Alerts(alerts) => {
            let shelf = Shelf::open(environment)?;
            match &alerts.action {
                None => done(&command::alerts::list(&shelf, alerts.all)?, text::alerts),
                Some(AlertAction::Ack { id, note }) => {
                    done(&command::alerts::acknowledge(&shelf, *id, note.as_deref())?, text::acknowledged)
                }
                Some(AlertAction::Test) => done(&command::alerts::test(&shelf).await?, text::tested),
            }
        }
        Command::Watch => done(&command::watch::run(environment).await?, text::watch),
        Command::RunDue => done(&command::run_due::run(environment).await?, text::run_due),
        Command::Jobs(Jobs::Cancel { id }) => {
            done(&command::jobs::cancel(&Shelf::open(environment)?, *id)?, text::cancelled)
        }
        Command::List(list) if list.jobs => {
            done(&command::jobs::list(&Shelf::open(environment)?)?, text::jobs)
        }
        Command::List(list) if list.recoverable => {
            done(&command::recoverable::run(&Shelf::open(environment)?)?, text::recoverable)
        }
        Command::List(list) if list.tenants => {
            done(&command::tenants::run(environment, list.database.as_deref()).await?, text::tenants)
        }
        Command::List(list) => {
            let request = ListRequest { database: list.database.clone() };
            done(&command::list::run(&Shelf::open(environment)?, &request)?, text::list)
        }
        Command::Show(show) => {
            done(&command::show::run(&Shelf::open(environment)?, &show.backup).await?, text::show)
        }
        Command::Status(status) => {
            done(&command::status::run(environment, &status.request()).await?, text::status)
        }
        Command::Catalog(Catalog::Rebuild) => {
            done(&command::catalog::rebuild(environment).await?, text::rebuild)
        }
        Command::Catalog(Catalog::Check) => {
            done(&command::catalog::check(&Shelf::open(environment)?)?, text::catalog_check)
        }
        Command::Key(Key::New) => done(&command::key::new(), |report| format!("{}\n", report.key)),
        Command::Key(Key::Rotate) => {
            let context = Context::open(environment, words).await?;
            progress.announce(words);
            let result = command::key_rotate::run(&context).await;
            done(&context.conclude(result).await?, text::key_rotate)
        }
        Command::Completions { shell } => Ok(printed(manual::completions(*shell))),
        Command::Man { to_dir: None } => Ok(printed(manual::page()?)),
        Command::Man { to_dir: Some(directory) } => Ok(printed(manual::pages(directory)?)),
    }
}
