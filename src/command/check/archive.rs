//! Whether WAL is archived as it should be, and whether a cluster backup would work: part of `pgkeep check`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use super::CheckReport;
use crate::command::archive::look;
use crate::command::archive::registration::{Registration, resolved};
use crate::command::archive::settings::{is_off, is_pgkeeps, look as look_at_settings};
use crate::command::stores;
use crate::config::Settings;
use crate::model::{Bytes, Elapsed, Fault, Kind, WalName};
use crate::postgres::Server;
use crate::postgres::base_backup::{self, ClusterFacts};
use crate::source::wal::control_identifier;
use crate::store::ReadStore;
use crate::system::{Stop, space};

/// How long the segment that is switched away from may take to arrive in every store.
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(250);

/// Looks at all of it.
pub(super) async fn check(settings: &Settings, server: &Server, stop: &Stop, report: &mut CheckReport) {
    let facts = match base_backup::cluster(server).await {
        Ok(facts) => facts,
        Err(error) => {
            // Databases can be backed up nevertheless.
            let hint = "Needed for cluster backups and point-in-time recovery only.";
            return report.warn("cluster backups", format!("{error:#}"), hint);
        }
    };
    for setting in look_at_settings(&facts, settings.rpo_target) {
        match setting.hint {
            None => report.ok(setting.name, setting.text),
            Some(hint) => report.warn(setting.name, setting.text, hint),
        }
    }
    if is_off(&facts) {
        return;
    }
    registered(&facts, settings, report);
    match base_backup::tablespaces(server).await {
        Ok(tablespaces) => readable(&facts, &tablespaces, settings, report),
        Err(error) => report.fault("tablespaces", &error),
    }
    rights(server, report).await;
    waiting(&facts, settings, report);
    if !facts.in_recovery && is_pgkeeps(&facts.archive_command) {
        arrives(settings, server, stop, report).await;
    }
}

fn registered(facts: &ClusterFacts, settings: &Settings, report: &mut CheckReport) {
    match Registration::load(settings) {
        Err(fault) => report.fault("archiving server", &fault.into()),
        Ok(registration) => {
            let here = resolved(&facts.data_directory);
            let shown = |path: &Option<std::path::PathBuf>| {
                path.as_ref().map_or_else(|| "unknown".to_owned(), |path| path.display().to_string())
            };
            if registration.data_directory.is_some() && registration.data_directory == here {
                report.ok("archiving server", shown(&here));
            } else {
                let text = format!(
                    "{} archives here, and the server's data directory is {}",
                    shown(&registration.data_directory),
                    shown(&here)
                );
                let hint = "If this server is the one that is to archive, run `pgkeep init`.";
                report.warn("archiving server", text, hint);
            }
        }
    }
}

/// Whether the data directory and the tablespaces can be read from here.
fn readable(
    facts: &ClusterFacts,
    tablespaces: &[(u32, PathBuf)],
    settings: &Settings,
    report: &mut CheckReport,
) {
    let directory = settings.data_directory.as_ref().unwrap_or(&facts.data_directory);
    let shown = directory.display();
    match control_identifier(directory) {
        Ok(found) if found == facts.system_identifier => {
            report.ok("data directory", format!("{shown} can be read"));
        }
        Ok(_) => {
            let fault =
                Fault::new(Kind::Refused, format!("{shown} is another cluster's")).hint("Correct PGDATA.");
            report.fault("data directory", &fault.into());
        }
        Err(error) => report.warn(
            "data directory",
            format!("{error:#}"),
            "Cluster backups are made on the server's machine, as a user who may read its data directory.",
        ),
    }
    for (oid, path) in tablespaces {
        if let Err(error) = fs::read_dir(path) {
            let text = format!("tablespace {oid} at {}: {error}", path.display());
            report.warn("tablespaces", text, "Let the user who runs pgkeep read it.");
        }
    }
    if let Ok(space) = space::of(&directory.join("pg_wal")) {
        let (free, total) = (Bytes(space.free), Bytes(space.total));
        let text = format!("{free} of {total} free for WAL that waits to be archived");
        if (space.free as f64) < space.total as f64 * super::LITTLE_SPACE {
            report.warn("pg_wal", text, "Make room: a server whose pg_wal is full stops.");
        } else {
            report.ok("pg_wal", text);
        }
    }
}

async fn rights(server: &Server, report: &mut CheckReport) {
    let (begin, end) = if server.major() >= 15 {
        ("pg_backup_start(text, boolean)", "pg_backup_stop(boolean)")
    } else {
        ("pg_start_backup(text, boolean, boolean)", "pg_stop_backup(boolean, boolean)")
    };
    let sql = "SELECT has_function_privilege($1, 'EXECUTE') AND has_function_privilege($2, 'EXECUTE')";
    match server.query_one("ask for the right to make a base backup", sql, &[&begin, &end]).await {
        Ok(row) if row.get(0) => report.ok("cluster backups", "the user may begin and end them"),
        Ok(_) => report.warn(
            "cluster backups",
            "the user may not begin and end a base backup",
            "GRANT EXECUTE ON FUNCTION pg_backup_start, pg_backup_stop TO it, or use a superuser.",
        ),
        Err(error) => report.fault("cluster backups", &error),
    }
}

/// How long the oldest file has been waiting.
fn waiting(facts: &ClusterFacts, settings: &Settings, report: &mut CheckReport) {
    let directory = settings.data_directory.as_ref().unwrap_or(&facts.data_directory);
    let Some((count, oldest)) = ready(&directory.join("pg_wal/archive_status")) else { return };
    let Some(age) = oldest.and_then(|oldest| oldest.elapsed().ok()) else {
        return report.ok("archive backlog", "nothing is waiting");
    };
    let text = format!("{count} files are waiting, the oldest for {}", Elapsed(age));
    if age > settings.rpo_target {
        let hint = "Look into the server's log for what archive_command says.";
        report.warn("archive backlog", text, hint);
    } else {
        report.ok("archive backlog", text);
    }
}

/// How many files are ready to be archived, and since when the oldest; `None` where that can't be read.
fn ready(directory: &Path) -> Option<(u64, Option<SystemTime>)> {
    let (mut count, mut oldest) = (0, None);
    for entry in fs::read_dir(directory).ok()?.flatten() {
        if entry.path().extension().is_some_and(|extension| extension == "ready") {
            count += 1;
            let modified = entry.metadata().and_then(|metadata| metadata.modified()).ok();
            oldest = match (oldest, modified) {
                (Some(one), Some(other)) => Some(std::cmp::min::<SystemTime>(one, other)),
                (one, other) => one.or(other),
            };
        }
    }
    Some((count, oldest))
}

/// Ends the present segment, and waits until it is in every store.
async fn arrives(settings: &Settings, server: &Server, stop: &Stop, report: &mut CheckReport) {
    let name = match switch(server).await {
        Ok(name) => name,
        Err(error) => {
            let hint = "GRANT EXECUTE ON FUNCTION pg_switch_wal() TO the role, or use a superuser, to have it tried.";
            return report.warn("archiving", format!("{error:#}"), hint);
        }
    };
    let replicas = match stores::replicas(settings) {
        Ok(replicas) => replicas.reading(),
        // Said already.
        Err(_) => return,
    };
    let begun = Instant::now();
    let mut missing: Vec<_> = replicas.each().cloned().collect();
    while !missing.is_empty() && begun.elapsed() < PATIENCE && !stop.is_requested() {
        let mut still = Vec::new();
        for store in missing {
            if is_there(settings, &*store, &name).await {
                let text = format!(
                    "{name} arrived in {} after {:.1} s",
                    store.name(),
                    begun.elapsed().as_secs_f64()
                );
                report.ok("archiving", text);
            } else {
                still.push(store);
            }
        }
        missing = still;
        if !missing.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    }
    for store in missing {
        let account = base_backup::archiver_account(server).await.unwrap_or_default();
        let text = format!(
            "{name} is not in store {} after {}; the server's archiver: {account}",
            store.name(),
            Elapsed(begun.elapsed())
        );
        let hint = "Look into the server's log for what archive_command says; `pgkeep sync` copies what a store missed.";
        report.warn("archiving", text, hint);
    }
}

async fn is_there(settings: &Settings, store: &dyn ReadStore, name: &WalName) -> bool {
    look::at_name(store, &settings.cluster, name).await.is_ok_and(|found| !found.is_empty())
}

/// Ends the present segment; a word in it, because an empty one is not switched away from.
async fn switch(server: &Server) -> anyhow::Result<WalName> {
    let action = "end the present WAL segment";
    let sql = "SELECT pg_walfile_name(pg_logical_emit_message(true, 'pgkeep', 'check'))";
    let name: String = server.query_one(action, sql, &[]).await?.get(0);
    server.query_one(action, "SELECT pg_switch_wal()::text", &[]).await?;
    let name =
        name.parse().map_err(|_| Fault::new(Kind::Postgres, format!("\"{name}\" is no segment's name")))?;
    Ok(name)
}
