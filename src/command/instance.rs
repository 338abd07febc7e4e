//! A server brought to life for a while: on a data directory in the scratch directory, reached through a socket that nobody
//! else may open, and removed again. It ends with this run, however that ends.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::task::JoinHandle;

use super::Context;
use super::wal_fetch::{MAKES_TABLESPACE, MAY_MAKE_TABLESPACE};
use crate::model::{ConnectionSettings, Fault, Kind, Lsn, RunId};
use crate::postgres::{Server, tools};
use crate::system::process::{Ended, ProcessGroup, Running};
use crate::system::{Stop, durable};

/// Where all of its tablespaces lie: beside the data directory, and nowhere near those of the original.
pub(super) fn tablespaces_of(root: &Path) -> PathBuf {
    root.with_file_name("tablespaces")
}

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

/// What is started.
pub(super) struct Wanted<'a> {
    /// The data directory.
    pub(super) root: &'a Path,
    /// The version that made it.
    pub(super) major: u32,
    /// Where its `postgresql.conf` was, if not in the data directory.
    pub(super) config_file: Option<&'a str>,
    /// Settings beside those that keep it to itself: `name=value`.
    pub(super) settings: &'a [&'a str],
    /// What it is called in messages.
    pub(super) what: &'static str,
}

/// The running server.
pub(super) struct Instance {
    pub(super) connection: ConnectionSettings,
    root: PathBuf,
    socket: PathBuf,
    group: ProcessGroup,
    running: JoinHandle<anyhow::Result<Ended>>,
    what: &'static str,
}

/// How far replay has come.
pub(super) struct Reached {
    /// When the last transaction that was replayed ended, RFC 3339; without one, now.
    pub(super) time: String,
    /// The last position that was replayed, where there was anything to replay.
    pub(super) lsn: Option<Lsn>,
}

/// In the scratch directory, unless that is so deep that no socket can lie in it.
fn socket_directory(scratch: &Path, run: &RunId) -> PathBuf {
    let inside = scratch.join("socket");
    if inside.as_os_str().len() <= LONGEST { inside } else { far_socket(run) }
}

/// Where the socket of a run lies whose scratch directory is too deep for it.
fn far_socket(run: &RunId) -> PathBuf {
    std::env::temp_dir().join(format!("pgkeep-{run}"))
}

/// Removes that of a run that died, if it is this user's.
pub(super) fn clear_far_socket(run: &RunId) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let directory = far_socket(run);
    match std::fs::symlink_metadata(&directory) {
        Ok(found) if found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() => {
            durable::remove_dir_if_there(&directory)
        }
        _ => Ok(()),
    }
}

impl Instance {
    /// Starts it. It is there when [`Instance::follow`] says so.
    pub(super) async fn start(context: &Context, wanted: &Wanted<'_>) -> anyhow::Result<Self> {
        let socket = socket_directory(&context.scratch()?, &context.run);
        durable::create_private_dir(&socket)?;
        let running = match launch(context, wanted, &socket).await {
            Ok(running) => running,
            Err(error) => {
                durable::remove_dir_if_there(&socket)?;
                return Err(error);
            }
        };
        let group = running.group();
        let running = tokio::spawn(async move { running.wait(&Stop::default()).await });
        let connection = ConnectionSettings {
            host: Some(socket.display().to_string()),
            port: Some(5432),
            options: None,
            password: context.settings.postgres.password.clone(),
            ..context.settings.postgres.clone()
        };
        let root = wanted.root.to_owned();
        Ok(Self { connection, root, socket, group, running, what: wanted.what })
    }

    /// Waits until it has paused at the target, or was promoted at the end of the archive; returns of when its data is.
    pub(super) async fn follow(&mut self, context: &Context) -> anyhow::Result<Reached> {
        let stage = context.progress.waiting("replay");
        loop {
            if self.running.is_finished() {
                return Err(self.died().await);
            }
            let lock = std::fs::read_to_string(self.root.join("postmaster.pid")).unwrap_or_default();
            if lock.lines().nth(7).map(str::trim) == Some("ready") {
                let (in_recovery, paused, time, lsn) = match self.how_far(context).await {
                    Ok(answer) => answer,
                    Err(error) => return Err(self.died_instead_of(error, context).await),
                };
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
                    return Ok(Reached { time, lsn: lsn.and_then(|lsn| lsn.parse().ok()) });
                }
                stage.say(format!("at {time}"));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whether it is in recovery, whether that is paused, of when its data is, and how far it has replayed.
    async fn how_far(
        &self,
        context: &Context,
    ) -> anyhow::Result<(bool, Option<bool>, String, Option<String>)> {
        let server = Server::connect(&self.connection, Some("postgres"), &context.stop).await?;
        let sql = "SELECT pg_is_in_recovery(), CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() END, \
                   to_char(coalesce(pg_last_xact_replay_timestamp(), now()) AT TIME ZONE 'UTC', \
                           'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'), pg_last_wal_replay_lsn()::text";
        let row = server.query_one("ask how far it is", sql, &[]).await?;
        server.close().await;
        Ok((row.get(0), row.get(1), row.get(2), row.get(3)))
    }

    /// That it did not answer says less than why it ended, if that is what it is doing.
    async fn died_instead_of(&mut self, error: anyhow::Error, context: &Context) -> anyhow::Error {
        let begun = Instant::now();
        while !self.running.is_finished() && begun.elapsed() < ENDING && context.stop.check().is_ok() {
            tokio::time::sleep(LOOK).await;
        }
        if self.running.is_finished() { self.died().await } else { error }
    }

    fn log(&self) -> String {
        let bytes = std::fs::read(self.root.join(LOGS).join(LOG)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    async fn died(&mut self) -> anyhow::Error {
        match held_back(&self.log()) {
            Some(MAKES_TABLESPACE) => return self.would_make_a_tablespace().into(),
            Some(why) => return self.may_make_a_tablespace(why).into(),
            None => {}
        }
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
            format!("{} has ended before it was where it should be: {account}", self.what),
        )
        .hint("Nothing was changed. `pgkeep list --recoverable` shows which times can be reached.")
        .into()
    }

    /// It would have made it where it is, in the directory of the original.
    fn would_make_a_tablespace(&self) -> Fault {
        let message = format!(
            "{} would have to make a tablespace again that was made between the backup and the target: in the directory that \
             the server in use has",
            self.what
        );
        Fault::new(Kind::Refused, message).hint(
            "Nothing was changed. Take a target before the tablespace was made, or a cluster backup that was made after it; or \
             restore on another machine with --to-dir.",
        )
    }

    fn may_make_a_tablespace(&self, why: &str) -> Fault {
        let message = format!("{} needs a segment of WAL that it was not given: {why}", self.what);
        Fault::new(Kind::Refused, message).hint(
            "Nothing was changed. Take a target before that segment, or a cluster backup that was made after it; or restore on \
             another machine with --to-dir.",
        )
    }

    /// Ends it in good order; false when it does not end.
    pub(super) async fn stop(&self, context: &Context) -> bool {
        let begun = Instant::now();
        while !self.running.is_finished() && begun.elapsed() < ENDING {
            // SIGTERM alone would wait for connections.
            self.group.ask_to_end();
            tokio::time::sleep(LOOK).await;
        }
        if !self.running.is_finished() {
            context
                .progress
                .note(&format!("warning: {} does not end: it is killed with this run", self.what));
        }
        self.running.is_finished()
    }

    /// Ends it and removes what it was made of.
    pub(super) async fn end(&self, context: &Context) -> anyhow::Result<()> {
        self.stop(context).await;
        durable::remove_dir_if_there(&self.socket).context("remove the socket's directory")?;
        durable::remove_dir_if_there(&self.root).with_context(|| format!("remove {}", self.what))?;
        durable::remove_dir_if_there(&tablespaces_of(&self.root)).context("remove its tablespaces")?;
        Ok(())
    }
}

async fn launch(context: &Context, wanted: &Wanted<'_>, socket: &Path) -> anyhow::Result<Running> {
    let Wanted { root, major, .. } = wanted;
    let tool = tools::find("postgres", *major, context.settings.pg_bindir.as_deref())?;
    if tool.version.major != *major {
        let message = format!("the backup is of PostgreSQL {major}, and only {} is here", tool.version);
        return Fault::new(Kind::Postgres, message).hint(format!("Install PostgreSQL {major}.")).err();
    }
    let mut arguments: Vec<OsString> = vec!["-D".into(), root.into()];
    if !root.join("postgresql.conf").exists()
        && let Some(config) = wanted.config_file.filter(|file| Path::new(file).exists())
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
        // Its subscriptions are the original's, and so are their slots: what it took out of them would be lost to the original.
        "max_logical_replication_workers=0".to_owned(),
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
    for setting in wanted.settings {
        arguments.extend(["-c".into(), setting.into()]);
    }
    // restore_command is this program with this run's settings, which may be in the environment alone.
    Running::start_with_ours(&tool.path, &arguments).await
}

/// Why it was not given the segment for the want of which it ended, if that is what it died of: it reads ahead of what it
/// replays, and may have died of something else.
fn held_back(log: &str) -> Option<&'static str> {
    let lines: Vec<&str> = log.lines().collect();
    let why = |line: &str| [MAKES_TABLESPACE, MAY_MAKE_TABLESPACE].into_iter().find(|why| line.contains(why));
    let (at, why) = lines.iter().enumerate().rev().find_map(|(at, line)| Some((at, why(line)?)))?;
    let last_words =
        lines[at..].iter().find(|line| line.contains("FATAL:  ") || line.contains("PANIC:  "))?;
    // An error code above 125 ends it at once; without the segment it may end short of its target.
    let of_this = ["could not restore file", "recovery ended before configured recovery target"];
    of_this.iter().any(|words| last_words.contains(words)).then_some(why)
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_died_of_something_else_did_not_die_of_a_segment_that_it_was_not_given() {
        let not_given = format!("error: 000000010000000000000005 is not given out: {MAKES_TABLESPACE}");
        let died = |words: &str| format!("LOG:  starting\n{not_given}\n{words}\nLOG:  shut down\n");
        let at_once = died(
            "FATAL:  could not restore file \"000000010000000000000005\" from archive: child process exited with exit code 200",
        );
        assert_eq!(held_back(&at_once), Some(MAKES_TABLESPACE));
        let short = died(
            "LOG:  redo done at 0/4\nFATAL:  recovery ended before configured recovery target was reached",
        );
        assert_eq!(held_back(&short), Some(MAKES_TABLESPACE));
        assert_eq!(
            held_back(&died("FATAL:  recovery aborted because of insufficient parameter settings")),
            None
        );
        assert_eq!(held_back(&died("PANIC:  WAL contains references to invalid pages")), None);
        assert_eq!(held_back(&not_given), None, "it was killed");
        assert_eq!(held_back("FATAL:  could not restore file \"5\" from archive"), None);
        let unread = at_once.replace(MAKES_TABLESPACE, MAY_MAKE_TABLESPACE);
        assert_eq!(held_back(&unread), Some(MAY_MAKE_TABLESPACE));
    }
}
