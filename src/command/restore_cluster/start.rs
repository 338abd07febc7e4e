//! Starts the restored server and follows it until it has reached the target.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;
use tokio::process::Command;

use super::plan::Restore;
use super::{RestoreClusterRequest, TargetAction};
use crate::command::Context;
use crate::model::{ConnectionSettings, Fault, Kind, Lsn};
use crate::postgres::{Server, tools};

/// How long a server that is there may refuse to be asked: roles and passwords may be others at the target.
const LOCKED_OUT: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(250);
/// How long a server may take to say that it is there.
const PATIENCE: Duration = Duration::from_mins(2);
/// How long it may take to end.
const ENDING: Duration = Duration::from_secs(30);
/// The first version with `recovery_init_sync_method`.
const SYNCFS_SINCE: u32 = 140_000;
/// Lines of the server's log that an error holds.
const LAST_LINES: usize = 8;

/// Where the server really stopped.
#[derive(Debug, Clone, Serialize)]
pub struct Reached {
    /// `promoted`, `paused`, `shut down` or `standby`.
    pub state: &'static str,
    /// The last position that was replayed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lsn: Option<Lsn>,
    /// When the last transaction that was replayed had ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
    /// The timeline on which it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeline: Option<u32>,
    /// What the server itself says of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub said: Vec<String>,
    /// How to connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<String>,
}

/// Starts and follows.
pub(super) async fn follow(
    context: &Context,
    request: &RestoreClusterRequest,
    restore: &Restore,
) -> anyhow::Result<Reached> {
    let root = &restore.places.root;
    let log = root.join("pgkeep-start.log");
    let program = program(context, restore)?;
    let mut started = start(&program, root, &log, request, restore)?;
    let stage = context.progress.waiting("replay");
    let segment_size =
        restore.manifest.physical.as_ref().map_or(1, |cluster| u64::from(cluster.wal_segment_size));
    let (begun, mut replay) = (Instant::now(), Replay { first: None, segment_size, said: String::new() });
    // Since when it is there and does not let us in.
    let mut locked_out: Option<Instant> = None;
    let mut reached = loop {
        if context.stop.is_requested() {
            // As pg_ctl does in mode fast. Started again it goes on where it was. One that can't be asked may have been
            // promoted, and be in use.
            if let Some(pid) = started.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed()))
                && locked_out.is_none()
            {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
            }
            let _ = tokio::time::timeout(ENDING, started.wait()).await;
            context.stop.check()?;
        }
        if let Some(status) = started.try_wait().context("look for the server")? {
            drop(stage);
            if request.action == TargetAction::Shutdown && status.success() {
                break Reached::at("shut down");
            }
            return Err(ended(&log, root));
        }
        match look(context, root, request, &mut replay).await {
            Ok(Some(reached)) => {
                drop(stage);
                break reached;
            }
            Ok(None) => {
                locked_out = None;
                stage.say(replay.said.clone());
            }
            Err(error) => {
                let since = locked_out.get_or_insert_with(Instant::now);
                if since.elapsed() > LOCKED_OUT {
                    std::mem::forget(started);
                    return Err(cannot_ask(&error, &log, root));
                }
            }
        }
        if begun.elapsed() > PATIENCE && !root.join("postmaster.pid").exists() {
            return Err(ended(&log, root));
        }
        tokio::time::sleep(LOOK).await;
    };
    reached.said = said(&log);
    if reached.state != "shut down" {
        // It is the operator's now, and goes on when pgkeep has ended.
        std::mem::forget(started);
    }
    Ok(reached)
}

impl Reached {
    const fn at(state: &'static str) -> Self {
        Self { state, lsn: None, time: None, timeline: None, said: Vec::new(), connect: None }
    }
}

/// The server's program of the version that made the data directory.
fn program(context: &Context, restore: &Restore) -> anyhow::Result<PathBuf> {
    let major = restore.manifest.postgres_version_num / 10_000;
    let tool = tools::find("postgres", major, context.settings.pg_bindir.as_deref())?;
    if tool.version.major != major {
        let message = format!("the backup is of PostgreSQL {major}, and only {} is here", tool.version);
        return Fault::new(Kind::Postgres, message)
            .hint(format!("Install PostgreSQL {major}: a data directory is of one major version."))
            .err();
    }
    Ok(tool.path)
}

fn start(
    program: &Path,
    root: &Path,
    log: &Path,
    request: &RestoreClusterRequest,
    restore: &Restore,
) -> anyhow::Result<tokio::process::Child> {
    let mut arguments: Vec<OsString> = vec!["-D".into(), root.into()];
    let config = restore.manifest.physical.as_ref().and_then(|cluster| cluster.config_file.as_ref());
    if !root.join("postgresql.conf").exists() {
        let Some(config) = config.filter(|file| Path::new(file).exists()) else {
            return Fault::new(Kind::Postgres, format!("there is no postgresql.conf in {}", root.display()))
                .hint(
                    "It was outside of the data directory and is none of this backup's: put it back, then start the \
                     server by hand; the directory is complete.",
                )
                .err();
        };
        arguments.extend(["-c".into(), format!("config_file={config}").into()]);
    }
    // The file may name those of the server that this directory is a copy of: with its data directory, the original would
    // be started.
    arguments.extend(["-c".into(), format!("data_directory={}", root.display()).into()]);
    let pid_file = root.join("pgkeep-start.pid");
    arguments.extend(["-c".into(), format!("external_pid_file={}", pid_file.display()).into()]);
    if restore.manifest.postgres_version_num >= SYNCFS_SINCE {
        // Otherwise the server flushes file after file before it replays; `ClusterTarget::finish` has flushed them.
        arguments.extend(["-c".into(), "recovery_init_sync_method=syncfs".into()]);
    }
    if let Some(port) = request.port {
        arguments.extend(["-p".into(), port.to_string().into()]);
    }
    let output = fs::File::create(log).with_context(|| format!("write {}", log.display()))?;
    let child = Command::new(program)
        .args(arguments)
        .current_dir(root)
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output)
        // A Ctrl-C at the terminal ends pgkeep; whether the server is to end is asked below.
        .process_group(0)
        .kill_on_drop(false)
        .spawn();
    child.with_context(|| format!("start {}", program.display()))
}

/// How far replay is, and how fast since it was first seen.
struct Replay {
    first: Option<(Instant, Lsn)>,
    segment_size: u64,
    said: String,
}

impl Replay {
    fn say(&mut self, lsn: Option<Lsn>, time: &str) {
        let Some(lsn) = lsn else { return };
        let (since, from) = *self.first.get_or_insert_with(|| (Instant::now(), lsn));
        let segments = lsn.0.saturating_sub(from.0) as f64 / self.segment_size as f64;
        let rate = segments / since.elapsed().as_secs_f64().max(0.001);
        self.said = format!("at {lsn}, {time}, {rate:.1} segments/s");
    }
}

/// `None` as long as it has not got there. An error when it is ready and can't be asked.
async fn look(
    context: &Context,
    root: &Path,
    request: &RestoreClusterRequest,
    replay: &mut Replay,
) -> anyhow::Result<Option<Reached>> {
    let Ok(lock) = fs::read_to_string(root.join("postmaster.pid")) else { return Ok(None) };
    let lines: Vec<&str> = lock.lines().map(str::trim).collect();
    // Asked before it is ready, the server refuses, and writes a FATAL into its log each time.
    match lines.get(7).copied() {
        Some("ready") => {}
        // With `hot_standby = off` nobody can ask it anything.
        Some("standby") if request.standby => return Ok(Some(Reached::at("standby"))),
        _ => return Ok(None),
    }
    let Some(connection) = connection(context, &lines) else { return Ok(None) };
    let server = Server::connect(&connection, Some("postgres"), &context.stop).await?;
    let sql = "SELECT pg_is_in_recovery(), \
                      CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END::text, \
                      to_char(pg_last_xact_replay_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"'), \
                      CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END, \
                      (SELECT timeline_id FROM pg_control_checkpoint())";
    let row = server.query_one("ask how far it is", sql, &[]).await?;
    let (in_recovery, lsn, time, paused): (bool, Option<String>, Option<String>, bool) =
        (row.get(0), row.get(1), row.get(2), row.get(3));
    server.close().await;
    let state = match (in_recovery, paused) {
        (false, _) => "promoted",
        (true, true) => "paused",
        (true, false) if request.standby => "standby",
        (true, false) => {
            replay.say(lsn.and_then(|lsn| lsn.parse().ok()), &time.unwrap_or_default());
            context.progress.detail(&format!("replay: {}", replay.said));
            return Ok(None);
        }
    };
    let (host, port) = (connection.host.clone().unwrap_or_default(), connection.port.unwrap_or_default());
    Ok(Some(Reached {
        state,
        lsn: lsn.and_then(|lsn| lsn.parse().ok()),
        time,
        timeline: u32::try_from(row.get::<_, i32>(4)).ok(),
        said: Vec::new(),
        connect: Some(format!("psql -h {host} -p {port}")),
    }))
}

fn cannot_ask(error: &anyhow::Error, log: &Path, root: &Path) -> anyhow::Error {
    let message = format!(
        "the restored server on {} runs, and can't be asked how far it is: {error:#}",
        root.display()
    );
    Fault::new(Kind::Postgres, message)
        .hint(format!(
            "It goes on by itself: follow it in {} and in its own log. Its roles and passwords are those of the time to \
             which it is restored.",
            log.display()
        ))
        .into()
}

/// The server's own word on where it listens (`postmaster.pid`, lines 4 to 6; `src/include/utils/pidfile.h`).
fn connection(context: &Context, lines: &[&str]) -> Option<ConnectionSettings> {
    let port = lines.get(3)?.parse().ok()?;
    let host = [lines.get(4), lines.get(5)].into_iter().flatten().find(|host| !host.is_empty())?;
    let host = if **host == *"*" { "localhost" } else { host };
    let settings = context.settings.postgres.clone();
    Some(ConnectionSettings { host: Some((*host).to_owned()), port: Some(port), ..settings })
}

/// The lines in which the server says where recovery stopped and what became of it.
fn said(log: &Path) -> Vec<String> {
    const WORDS: [&str; 5] = [
        "recovery stopping",
        "recovery has paused",
        "last completed transaction was",
        "selected new timeline",
        "consistent recovery state reached",
    ];
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let tells = |line: &&str| WORDS.iter().any(|words| line.contains(words));
    text.lines()
        .filter(tells)
        .map(|line| line.split("LOG:").last().unwrap_or(line).trim().to_owned())
        .collect()
}

fn ended(log: &Path, root: &Path) -> anyhow::Error {
    let text = fs::read(log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(LAST_LINES)..].join(" | ");
    let message =
        format!("the restored server on {} has ended before it reached the target: {last}", root.display());
    Fault::new(Kind::Postgres, message)
        .hint(format!(
            "The data directory is complete. See {} and the server's own log, mend the cause, then start the server \
             again; or restore anew with --force.",
            log.display()
        ))
        .into()
}
