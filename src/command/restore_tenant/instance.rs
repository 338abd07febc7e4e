//! A cluster brought to life for the time of reading: restored into the scratch directory, replayed up to the point that is
//! wanted, reached through a socket that nobody else may open, and removed again. It ends with this run, however that ends.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::JoinHandle;

use super::{RestoreTenantReport, RestoreTenantRequest, lap};
use crate::command::restore_cluster::{self, RestoreClusterRequest, TargetAction, TimelineWish};
use crate::command::{Context, manifests};
use crate::model::{BackupId, ConnectionSettings, Fault, Kind, timestamp_text};
use crate::plan::recovery::Target;
use crate::postgres::{Server, tools};
use crate::system::process::{Ended, ProcessGroup, Running};
use crate::system::{Stop, durable};

/// Where its log lies below the data directory.
const LOGS: &str = "pgkeep-log";
const LOG: &str = "postgresql.log";
/// What the server says when it stops at a target, and not for another reason (`recoveryStopsBefore` in `xlogrecovery.c`).
const STOPPED: &str = "recovery stopping";
const LOOK: Duration = Duration::from_millis(100);
/// How long it may take to end before it is killed.
const ENDING: Duration = Duration::from_secs(30);
/// The longest path of a socket (`sun_path`), without the socket's own name.
const LONGEST: usize = 107 - ".s.PGSQL.5432".len() - 1;
/// Lines of its log that an error holds.
const LAST_LINES: usize = 6;

/// The running cluster.
pub(super) struct Instance {
    pub(super) connection: ConnectionSettings,
    pub(super) backup: BackupId,
    /// The instant of its data, RFC 3339.
    pub(super) reached: String,
    root: PathBuf,
    socket: PathBuf,
    group: ProcessGroup,
    running: JoinHandle<anyhow::Result<Ended>>,
}

/// Restores and starts it, and waits until it is where it should be.
pub(super) async fn start(
    context: &Context,
    request: &RestoreTenantRequest,
    report: &mut RestoreTenantReport,
) -> anyhow::Result<Instance> {
    let mut clock = Instant::now();
    let scratch = context.scratch()?;
    let root = scratch.join("cluster");
    let wanted = RestoreClusterRequest {
        backup: request.backup.clone(),
        to_dir: root.clone(),
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
    };
    let plan = restore_cluster::run(context, &wanted, &|_| Ok(())).await?.plan;
    refuse_tablespaces(plan.tablespaces.iter().map(|(from, _)| from.as_str()))?;
    let wanted = RestoreClusterRequest { backup: plan.backup.to_string(), dry_run: false, ..wanted };
    let restored = restore_cluster::run(context, &wanted, &|_| Ok(())).await?;
    report.warnings.extend(restored.warnings);
    lap(report, "restore the cluster", &mut clock);
    let socket = socket_directory(&scratch, context.run.as_str());
    durable::create_private_dir(&socket)?;
    let backup = restored.plan.backup;
    let running = launch(context, &backup, &root, &socket).await?;
    let group = running.group();
    let running = tokio::spawn(async move { running.wait(&Stop::default()).await });
    let connection = ConnectionSettings {
        host: Some(socket.display().to_string()),
        port: Some(5432),
        options: None,
        password: context.settings.postgres.password.clone(),
        ..context.settings.postgres.clone()
    };
    let mut instance = Instance { connection, backup, reached: String::new(), root, socket, group, running };
    let reached = context.stop.or(instance.follow(context)).await;
    match reached {
        Ok(reached) => {
            instance.reached = request.pitr.flatten().map_or(reached, timestamp_text);
            lap(report, "replay", &mut clock);
            Ok(instance)
        }
        Err(error) => {
            instance.end(context).await?;
            Err(error)
        }
    }
}

/// Refuses clusters with tablespaces, of now or of then: what is replayed of one that was made after the backup would be
/// written to where it is, into the files of the server in use (`tblspc_redo` in `tablespace.c`).
pub(super) fn refuse_tablespaces<'a>(paths: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
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

/// In the scratch directory, unless that is so deep that no socket can lie in it.
fn socket_directory(scratch: &Path, run: &str) -> PathBuf {
    let inside = scratch.join("socket");
    if inside.as_os_str().len() <= LONGEST {
        inside
    } else {
        std::env::temp_dir().join(format!("pgkeep-{run}"))
    }
}

async fn launch(context: &Context, backup: &BackupId, root: &Path, socket: &Path) -> anyhow::Result<Running> {
    let keyring = context.keyring()?;
    let manifest = manifests::fetch(&context.settings, context.reading(), backup, &keyring).await?.manifest;
    let major = manifest.postgres_version_num / 10_000;
    let tool = tools::find("postgres", major, context.settings.pg_bindir.as_deref())?;
    if tool.version.major != major {
        let message = format!("the backup is of PostgreSQL {major}, and only {} is here", tool.version);
        return Fault::new(Kind::Postgres, message).hint(format!("Install PostgreSQL {major}.")).err();
    }
    let mut arguments: Vec<OsString> = vec!["-D".into(), root.into()];
    let config = manifest.physical.as_ref().and_then(|cluster| cluster.config_file.as_ref());
    if !root.join("postgresql.conf").exists()
        && let Some(config) = config.filter(|file| Path::new(file).exists())
    {
        arguments.extend(["-c".into(), format!("config_file={config}").into()]);
    }
    // Nobody else reaches it, it burdens nobody, and it answers on a socket whatever the original did.
    let hba = root.join("pgkeep_hba.conf");
    durable::write_file(&hba, b"local all all trust\n")?;
    for setting in [
        format!("data_directory={}", root.display()),
        format!("hba_file={}", hba.display()),
        format!("unix_socket_directories={}", socket.display()),
        format!("external_pid_file={}", root.join("pgkeep-start.pid").display()),
        "unix_socket_permissions=0700".to_owned(),
        "listen_addresses=".to_owned(),
        "port=5432".to_owned(),
        "hot_standby=on".to_owned(),
        "archive_mode=off".to_owned(),
        // Its own words say where it stopped: they must be where they are looked for, and in one language.
        "logging_collector=on".to_owned(),
        "log_destination=stderr".to_owned(),
        format!("log_directory={}", root.join(LOGS).display()),
        format!("log_filename={LOG}"),
        "log_min_messages=warning".to_owned(),
        "lc_messages=C".to_owned(),
        "shared_preload_libraries=".to_owned(),
        "ssl=off".to_owned(),
        "fsync=off".to_owned(),
        "shared_buffers=128MB".to_owned(),
        "huge_pages=off".to_owned(),
        "autovacuum=off".to_owned(),
    ] {
        arguments.extend(["-c".into(), setting.into()]);
    }
    // restore_command is this program with this run's settings, which may be in the environment alone.
    Running::start_with_ours(&tool.path, &arguments).await
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join(" | ")
}

impl Instance {
    /// Waits until it has paused at the target, or was promoted at the end of the archive; returns of when its data is.
    async fn follow(&mut self, context: &Context) -> anyhow::Result<String> {
        let stage = context.progress.waiting("replay");
        loop {
            if self.running.is_finished() {
                return Err(self.died().await);
            }
            let lock = std::fs::read_to_string(self.root.join("postmaster.pid")).unwrap_or_default();
            if lock.lines().nth(7).map(str::trim) == Some("ready") {
                let server = Server::connect(&self.connection, Some("postgres"), &context.stop).await?;
                let sql = "SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END, \
                           to_char(coalesce(pg_last_xact_replay_timestamp(), now()) AT TIME ZONE 'UTC', \
                                   'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')";
                let row = server.query_one("ask how far it is", sql, &[]).await?;
                let (in_recovery, paused, time): (bool, Option<bool>, String) =
                    (row.get(0), row.get(1), row.get(2));
                server.close().await;
                if paused == Some(true) && !self.log().contains(STOPPED) {
                    // Such as: "hot standby is not possible because of insufficient parameter settings".
                    let message = format!(
                        "replay has paused before it reached the target: {}",
                        last_lines(&self.log())
                    );
                    return Fault::new(Kind::Postgres, message)
                        .hint(
                            "Nothing was changed. If a setting of the server was raised since the backup, make a new cluster \
                             backup; for this time, restore the cluster with --to-dir and take the tenant from there.",
                        )
                        .err();
                }
                if !in_recovery || paused == Some(true) {
                    return Ok(time);
                }
                stage.say(format!("at {time}"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    fn log(&self) -> String {
        let bytes = std::fs::read(self.root.join(LOGS).join(LOG)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    async fn died(&mut self) -> anyhow::Error {
        let account = match (&mut self.running).await {
            Ok(Ok(ended)) => {
                let log = self.log();
                if log.is_empty() { ended.account() } else { last_lines(&log) }
            }
            Ok(Err(error)) => format!("{error:#}"),
            Err(error) => error.to_string(),
        };
        Fault::new(
            Kind::Postgres,
            format!("the cluster of then has ended before it reached the target: {account}"),
        )
        .hint("Nothing was changed. `pgkeep list --recoverable` shows which times can be reached.")
        .into()
    }

    /// Ends it and removes what it was made of.
    pub(super) async fn end(&self, context: &Context) -> anyhow::Result<()> {
        let begun = Instant::now();
        while !self.running.is_finished() && begun.elapsed() < ENDING {
            // SIGTERM alone would wait for connections.
            self.group.ask_to_end();
            tokio::time::sleep(LOOK).await;
        }
        if !self.running.is_finished() {
            context.progress.note("warning: the cluster of then does not end: it is killed with this run");
        }
        durable::remove_dir_if_there(&self.socket).context("remove the socket's directory")?;
        durable::remove_dir_if_there(&self.root).context("remove the cluster of then")?;
        Ok(())
    }
}
