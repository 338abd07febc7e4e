//! Clearing up after runs that died: before a run does its own work, what dead ones left half done is finished or
//! removed. Only things that the catalog knows to be a dead run's are touched.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use chrono::Utc;
use futures_util::{StreamExt as _, stream};

use super::Context;
use super::context::{run_lock, scratch_of, staging_of};
use super::instance;
use super::manifests::{self, Fetched, Stored};
use super::stores::{self, Absent};
use crate::catalog::{Purpose, Restore, RestoreEnd, RestoreState, Run};
use crate::format::names;
use crate::model::{BackupId, Fault, Kind, RunId};
use crate::postgres::tenants::places;
use crate::postgres::{Server, facts};
use crate::system::lock::{Attempt, FileLock};
use crate::system::{Stop, durable};
use crate::target::database::connect_beside;
use crate::target::schema::wait_for_others;

/// How often one looks whether the server is still making a database, and how many times.
const PATIENCE: Duration = Duration::from_millis(200);
const LOOKS: u32 = 300;

/// Backups of a run that are looked after at the same time.
const AT_ONCE: usize = 8;

/// Clears up after every run whose lock nobody holds. What can't be cleared up now (a server that is down) is said
/// and tried again by the next run; it never keeps this one from its work.
pub(super) async fn dead_runs(context: &Context) {
    if let Err(error) = try_dead_runs(context).await {
        context.progress.note(&format!("warning: clear up after an earlier run: {error:#}"));
    }
}

async fn try_dead_runs(context: &Context) -> anyhow::Result<()> {
    // One at a time: two would get into each other's way.
    let path = super::context::locks(&context.settings).join("settle.lock");
    let Attempt::Taken(_lock) = FileLock::attempt(&path, context.run.as_str())? else { return Ok(()) };
    for run in context.catalog.runs().unsettled()? {
        let lock = run_lock(&context.settings, &run.id);
        // Locks say nothing of another machine of which this state directory may be a copy.
        let elsewhere = run.host != context.caller.host && Utc::now() - run.started_at < super::verify::GRACE;
        if run.id == context.run || elsewhere || FileLock::is_held(&lock)? {
            continue;
        }
        if let Err(error) = settle(context, &run).await {
            // One that can't be cleared up now must not keep the others waiting.
            context.progress.note(&format!("warning: clear up after run {}: {error:#}", run.id));
            continue;
        }
        // Last: if this is cut off, the next run finds the same run dead again.
        context.catalog.runs().mark_died(&run.id)?;
        durable::remove_file_if_there(&lock)?;
    }
    // A run that was killed between making its lock and writing its row has no row that leads to it.
    let own = run_lock(&context.settings, &context.run);
    FileLock::remove_free(&super::context::locks(&context.settings), "run-", |lock| lock == own)?;
    clear_spool(context)?;
    let restores = context.catalog.restores();
    let mut dead = restores.unsettled()?;
    dead.retain(|restore| {
        restore.run_id.as_ref().is_none_or(|run| {
            *run != context.run && matches!(FileLock::is_held(&run_lock(&context.settings, run)), Ok(false))
        })
    });
    // Read again: one that ended between the reading and the look at its lock has written down how.
    for restore in restores.unsettled()?.into_iter().filter(|it| dead.iter().any(|dead| dead.id == it.id)) {
        if let Err(error) = settle_restore(context, &restore).await {
            let target = restore.target_database.unwrap_or_default();
            context.progress.note(&format!("warning: clear up after a restore of \"{target}\": {error:#}"));
        }
    }
    Ok(())
}

/// What runs that had ended in the catalog, but not yet for good, left in the spool: it is this state directory's own.
fn clear_spool(context: &Context) -> anyhow::Result<()> {
    let Some(spool) = context.replicas.staging().last() else { return Ok(()) };
    let entries = match std::fs::read_dir(spool) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("look into {}", spool.display()))?,
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("look into {}", spool.display()))?;
        let name = entry.file_name().into_string().unwrap_or_default();
        let Some(run) = name.strip_prefix("run-").map(RunId::from_catalog) else { continue };
        if run != context.run && !FileLock::is_held(&run_lock(&context.settings, &run))? {
            durable::remove_dir_if_there(&entry.path())?;
        }
    }
    Ok(())
}

async fn settle(context: &Context, run: &Run) -> anyhow::Result<()> {
    // Where that run had its files; the settings may have changed since.
    let scratch = run.scratch_directory.as_ref().map(PathBuf::from);
    let scratch = scratch.unwrap_or_else(|| context.settings.scratch_dir.clone());
    durable::remove_dir_if_there(&scratch_of(&scratch, &run.id))?;
    instance::clear_far_socket(&run.id)?;
    let then = run.staging_directory.as_ref().map(PathBuf::from);
    for staging in then.iter().chain(context.replicas.staging()) {
        durable::remove_dir_if_there(&staging_of(staging, &run.id))?;
    }
    // One that can't be settled now must not keep the others waiting.
    let settling = run.backups().map(|id| async move { settle_backup(context, run, &id).await });
    let settled: Vec<_> = stream::iter(settling).buffer_unordered(AT_ONCE).collect().await;
    settled.into_iter().collect()
}

async fn settle_backup(context: &Context, run: &Run, id: &BackupId) -> anyhow::Result<()> {
    if context.catalog.backups().get(id)?.is_some() {
        return Ok(());
    }
    let key = names::object(&context.settings.cluster, id, names::MANIFEST);
    if context.reading().get_small(&key).await?.is_none() {
        return clear_away(context, id).await;
    }
    // It died between the manifest and the catalog: the backup is whole.
    let keyring = context.keyring()?;
    let Fetched { manifest, object, .. } =
        manifests::fetch(&context.settings, context.reading(), id, &keyring).await?;
    let held = manifests::holders(context, &manifest, object.len() as u64).await?;
    if !manifests::is_covered(&manifest, &held) {
        return clear_away(context, id).await;
    }
    manifests::record(context, &Stored { manifest: &manifest, object: &object, held: &held }, Some(&run.id))?;
    context.progress.note(&format!("took in {id}, which was complete when its run died"));
    Ok(())
}

/// Removes what is left of a backup that did not come to be.
async fn clear_away(context: &Context, id: &BackupId) -> anyhow::Result<()> {
    // A store that is not mounted has no manifest either; what is left there would be forgotten.
    let presence = stores::presence(context).await?;
    if let Some(Absent { store, why }) = presence.absent.first() {
        let message = format!("whether {id} is whole or garbage can't be told while store {store} is away");
        return Fault::new(Kind::Store, format!("{message}: {why}")).err();
    }
    let prefix = names::backup(&context.settings.cluster, id);
    let removed = context.replicas.delete_all(&presence.names(), &prefix).await?;
    if removed > 0 {
        let text = format!("removed the {removed} objects of {id}, which died before its end");
        context.progress.note(&text);
    }
    Ok(())
}

/// Drops the staging database of a restore that did not come to its end, or finds that it did.
async fn settle_restore(context: &Context, restore: &Restore) -> anyhow::Result<()> {
    if let (Some(schema), Some(database)) = (&restore.target_schema, &restore.target_database) {
        return settle_schema(context, restore, schema, database).await;
    }
    let (Some(staging), Some(target)) = (&restore.staging_database, &restore.target_database) else {
        // Which never has the name of what it restores to before it is whole: the next restore to it asks for --force.
        let message = match &restore.target_directory {
            Some(_) if restore.purpose == Purpose::Test => {
                "ended without a word; what it had made is removed with its run".to_owned()
            }
            Some(directory) => format!("ended without a word; what it had made is in {directory}"),
            None if restore.tenant_ids.is_some() => {
                "ended without a word; its transaction is done as a whole or not at all, which the same restore with \
                 --dry-run shows"
                    .to_owned()
            }
            None => "ended without a word, before it made anything".to_owned(),
        };
        return end(context, restore, RestoreState::Died, &message);
    };
    let avoid = [target.as_str(), staging.as_str()];
    let server = connect_beside(&context.settings.postgres, &avoid, &Stop::default()).await?;
    let settled = if is_another_server(&server, restore).await? {
        leave(context, restore, staging, target)
    } else {
        settle_databases(context, &server, restore, staging, target).await
    };
    server.close().await;
    settled
}

/// Finds out whether a schema was put into its place: that happened in one transaction, or not at all.
async fn settle_schema(
    context: &Context,
    restore: &Restore,
    schema: &str,
    database: &str,
) -> anyhow::Result<()> {
    let server = Server::connect(&context.settings.postgres, Some(database), &Stop::default()).await?;
    if is_another_server(&server, restore).await? {
        server.close().await;
        context.progress.detail(&format!(
            "a restore of schema \"{schema}\" died on another server than the settings name now"
        ));
        return Ok(());
    }
    wait_for_others(&server, schema).await?;
    let there = places::schema_oid(&server, schema).await?;
    let kept = match &restore.previous_schema {
        Some(name) => places::schema_oid(&server, name).await?.map(|_| name),
        None => None,
    };
    server.close().await;
    if there.is_none() || there != restore.schema_oid {
        let message = format!("ended without a word; the schema \"{schema}\" is as it was before");
        return end(context, restore, RestoreState::Died, &message);
    }
    let kept = kept.map_or_else(String::new, |name| format!("; the replaced schema is kept as \"{name}\""));
    let message = format!("died after the restored schema was in its place{kept}");
    context.progress.note(&format!("a restore of schema \"{schema}\" of \"{database}\" {message}"));
    end(context, restore, RestoreState::Done, &message)
}

/// Whether this is not the server on which the restore worked; that it is, when nobody wrote down which one it was.
async fn is_another_server(server: &Server, restore: &Restore) -> anyhow::Result<bool> {
    let Some(known) = &restore.system_identifier else { return Ok(false) };
    Ok(facts::system_identifier(server).await?.to_string() != *known)
}

/// The settings name another server now: that nothing is there says nothing. It stays in the log as unsettled until
/// they name the right one again, and that is said aloud only the first time.
fn leave(context: &Context, restore: &Restore, staging: &str, target: &str) -> anyhow::Result<()> {
    let text = format!(
        "a restore of \"{target}\" died on another server than the settings name now; if \"{staging}\" is there, the \
         next run with the old settings drops it"
    );
    if restore.state != RestoreState::Running {
        context.progress.detail(&text);
        return Ok(());
    }
    end(context, restore, RestoreState::Died, &text)?;
    context.progress.note(&text);
    Ok(())
}

async fn settle_databases(
    context: &Context,
    server: &Server,
    restore: &Restore,
    staging: &str,
    target: &str,
) -> anyhow::Result<()> {
    wait_until_made(server, staging).await?;
    let in_place = is_in_place(server, restore, target).await?;
    if facts::database_exists(server, staging).await? {
        facts::drop_database(server, staging, true).await?;
        context
            .progress
            .note(&format!("dropped the unfinished database \"{staging}\" of a restore that died"));
        let message = "ended without a word; its unfinished database was dropped";
        end(context, restore, RestoreState::Died, message)?;
    } else if let Some(old) = kept(server, restore).await? {
        swapped(context, restore, target, &format!("; the replaced database is kept as \"{old}\""))?;
    } else if in_place {
        swapped(context, restore, target, "")?;
    } else {
        let message = "ended without a word; no unfinished database is left";
        end(context, restore, RestoreState::Died, message)?;
    }
    // Last: if this is cut off, the next run looks again.
    context.catalog.restores().clear_staging(restore.id)
}

/// The restored database is in use, and its run could not say so.
fn swapped(context: &Context, restore: &Restore, target: &str, more: &str) -> anyhow::Result<()> {
    let message = format!("died after the restored database was in its place{more}");
    context.progress.note(&format!("a restore of \"{target}\" {message}"));
    end(context, restore, RestoreState::Done, &message)
}

/// Writes down how a restore ended that could not do it by itself. What it said itself stands, unless it failed
/// because it did not hear that it had succeeded.
fn end(context: &Context, restore: &Restore, state: RestoreState, message: &str) -> anyhow::Result<()> {
    let said = !matches!(restore.state, RestoreState::Running | RestoreState::Died);
    if restore.state == RestoreState::Done || (said && state != RestoreState::Done) {
        return Ok(());
    }
    let message = Some(message.to_owned());
    let end = RestoreEnd { state, message, rows: None, checks: None, at: Utc::now() };
    context.catalog.restores().end(restore.id, &end)
}

/// Whether the database that the restore made bears its final name: it is known by its number.
async fn is_in_place(server: &Server, restore: &Restore, target: &str) -> anyhow::Result<bool> {
    let there = facts::database_oid(server, target).await?;
    Ok(restore.database_oid.is_some() && there == restore.database_oid)
}

/// The server goes on with a `CREATE DATABASE` whose client was killed; until it is done, nobody sees the database.
async fn wait_until_made(server: &Server, staging: &str) -> anyhow::Result<()> {
    for _ in 0..LOOKS {
        if !facts::is_being_created(server, staging).await? {
            return Ok(());
        }
        tokio::time::sleep(PATIENCE).await;
    }
    let message = format!("the server is still creating the database \"{staging}\" of a restore that died");
    Fault::new(Kind::Postgres, message).err()
}

/// The name under which the replaced database is kept, if it is there.
async fn kept(server: &Server, restore: &Restore) -> anyhow::Result<Option<String>> {
    match &restore.previous_database {
        Some(name) if facts::database_exists(server, name).await? => Ok(Some(name.clone())),
        _ => Ok(None),
    }
}
