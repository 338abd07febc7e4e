//! The table `runs`: every execution of pgkeep that did something.

use rusqlite::{Row, named_params};
use serde::Serialize;

use super::values::{count, integer, parsed, time, time_or_null};
use super::words::words;
use super::{Catalog, failure};
use crate::model::{BackupId, RunId, Timestamp, timestamp_text};
use crate::system::caller::Caller;

words! {
    /// How a run ended.
    pub enum RunOutcome {
        /// It has not ended.
        Running = "running",
        /// All of it was done.
        Done = "done",
        /// Done, but something is missing.
        Incomplete = "incomplete",
        /// It failed; the message says why.
        Failed = "failed",
        /// A signal asked for the end.
        Interrupted = "interrupted",
        /// It ended without a word, and a later run has found it so.
        Died = "died",
    }
}

/// A run that begins.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Its identifier.
    pub id: RunId,
    /// The subcommand, such as `backup database`.
    pub command: String,
    /// The rest of the command line, without secrets.
    pub arguments: String,
    /// Who runs it, from where.
    pub caller: Caller,
    /// The process's number.
    pub pid: u32,
    /// The directory in which it makes its scratch directory; `None` if its path is not UTF-8.
    pub scratch_directory: Option<String>,
    /// The directory in which it makes its directory of volumes that no store has taken yet; `None` as before.
    pub staging_directory: Option<String>,
    /// Its right to a turn; `None` for what never waits.
    pub priority: Option<u8>,
    /// The job that it is.
    pub job_id: Option<i64>,
    /// When it began.
    pub started_at: Timestamp,
}

/// A run as the catalog has it.
#[derive(Debug, Clone, Serialize)]
pub struct Run {
    /// Its identifier.
    #[serde(serialize_with = "super::values::as_text")]
    pub id: RunId,
    /// The subcommand.
    pub command: String,
    /// The rest of the command line.
    pub arguments: String,
    /// What it works on: the backups that it makes, with spaces between them.
    pub subject: Option<String>,
    /// The operating system's user.
    pub user: String,
    /// Who called sudo, if it was sudo.
    pub sudo_user: Option<String>,
    /// The machine's name.
    pub host: String,
    /// The terminal, or `none`.
    pub terminal: String,
    /// The process's number.
    pub pid: u32,
    /// The directory in which it made its scratch directory.
    pub scratch_directory: Option<String>,
    /// The directory in which it made its directory of volumes.
    pub staging_directory: Option<String>,
    /// The pgkeep that ran.
    pub pgkeep_version: String,
    /// When it began.
    #[serde(serialize_with = "super::values::time_as_text")]
    pub started_at: Timestamp,
    /// When it ended; `None` while it runs, and when it died.
    #[serde(serialize_with = "super::values::time_or_null_as_text")]
    pub ended_at: Option<Timestamp>,
    /// How long it took.
    pub seconds: Option<f64>,
    /// How it ended.
    pub outcome: RunOutcome,
    /// The process's exit code.
    pub exit_code: Option<u8>,
    /// The error, or a word on the result.
    pub message: Option<String>,
    /// Its right to a turn.
    pub priority: Option<u8>,
    /// How long it waited for others to end.
    pub waited_seconds: Option<f64>,
    /// The job that it was.
    pub job_id: Option<i64>,
}

impl Run {
    /// The backups that it was making when it last wrote that down.
    pub fn backups(&self) -> impl Iterator<Item = BackupId> {
        self.subject.iter().flat_map(|subject| subject.split(' ')).filter_map(|text| text.parse().ok())
    }
}

/// What can be done with the table of runs.
#[derive(Debug, Clone, Copy)]
pub struct Runs<'a> {
    catalog: &'a Catalog,
}

impl<'a> Runs<'a> {
    pub(super) fn new(catalog: &'a Catalog) -> Self {
        Self { catalog }
    }

    /// Writes down that a run has begun.
    pub fn begin(self, run: &NewRun) -> anyhow::Result<()> {
        self.catalog.write("write down that the run has begun", |transaction| {
            transaction.execute(
                "INSERT INTO runs (id, command, arguments, user, sudo_user, host, terminal, pid, \
                 scratch_directory, staging_directory, pgkeep_version, started_at, priority, job_id) VALUES (:id, \
                 :command, :arguments, :user, :sudo_user, :host, :terminal, :pid, :scratch_directory, \
                 :staging_directory, :pgkeep_version, :started_at, :priority, :job_id)",
                named_params! {
                    ":id": run.id.as_str(),
                    ":command": run.command,
                    ":arguments": run.arguments,
                    ":user": run.caller.user,
                    ":sudo_user": run.caller.sudo_user,
                    ":host": run.caller.host,
                    ":terminal": run.caller.terminal,
                    ":pid": run.pid,
                    ":scratch_directory": run.scratch_directory,
                    ":staging_directory": run.staging_directory,
                    ":pgkeep_version": env!("CARGO_PKG_VERSION"),
                    ":started_at": timestamp_text(run.started_at),
                    ":priority": run.priority,
                    ":job_id": run.job_id,
                },
            )?;
            Ok(())
        })
    }

    /// Writes down the backups that the run is making, so that whoever finds it dead knows where to clear up. Those that it
    /// made before are forgotten, unless something of them may be left.
    pub fn set_subject(self, id: &RunId, backups: &[&BackupId]) -> anyhow::Result<()> {
        let subject = backups.iter().map(|backup| backup.as_str()).collect::<Vec<_>>().join(" ");
        let changed = self.catalog.write("write down what the run works on", |transaction| {
            transaction.execute(
                "UPDATE runs SET subject = CASE WHEN unsettled = 1 THEN coalesce(subject || ' ', '') ELSE '' END || :subject \
                 WHERE id = :id",
                named_params! { ":id": id.as_str(), ":subject": subject },
            )
        })?;
        failure::require_one(changed, || format!("no run {id}"))
    }

    /// Writes down that the run has waited so long for its turn; several waits add up.
    pub fn add_wait(self, id: &RunId, waited: std::time::Duration) -> anyhow::Result<()> {
        let changed = self.catalog.write("write down how long the run waited", |transaction| {
            transaction.execute(
                "UPDATE runs SET waited_seconds = round(coalesce(waited_seconds, 0.0) + :waited, 3) WHERE id = :id",
                named_params! { ":id": id.as_str(), ":waited": waited.as_secs_f64() },
            )
        })?;
        failure::require_one(changed, || format!("no run {id}"))
    }

    /// The run that this job became, the newest if there are several.
    pub fn of_job(self, job: i64) -> anyhow::Result<Option<Run>> {
        self.catalog.read("look for the run of a job", |connection| {
            let mut statement = connection
                .prepare("SELECT * FROM runs WHERE job_id = :job ORDER BY started_at DESC LIMIT 1")?;
            statement.query_map(named_params! { ":job": job }, run)?.next().transpose()
        })
    }

    /// Writes down how the run ended. [`RunOutcome::Running`] and [`RunOutcome::Died`] are no ends of this sort.
    pub fn end(
        self,
        id: &RunId,
        outcome: RunOutcome,
        exit_code: u8,
        message: Option<&str>,
        at: Timestamp,
    ) -> anyhow::Result<()> {
        let changed = self.catalog.write("write down how the run ended", |transaction| {
            transaction.execute(
                "UPDATE runs SET outcome = :outcome, exit_code = :exit_code, message = :message, ended_at = :at, \
                 seconds = max(0.0, round(unixepoch(:at, 'subsec') - unixepoch(started_at, 'subsec'), 3)) \
                 WHERE id = :id",
                named_params! {
                    ":id": id.as_str(),
                    ":outcome": outcome.as_str(),
                    ":exit_code": exit_code,
                    ":message": message,
                    ":at": timestamp_text(at),
                },
            )
        })?;
        failure::require_one(changed, || format!("no run {id}"))
    }

    /// Writes down that a run which is done has found nothing: it takes the place of the last one of its command of
    /// which the same was true.
    pub fn replace_quiet(self, id: &RunId) -> anyhow::Result<()> {
        self.catalog.write("write down that the run has found nothing", |transaction| {
            let named = named_params! { ":id": id.as_str() };
            transaction.execute("UPDATE runs SET quiet = 1 WHERE id = :id", named)?;
            transaction.execute(
                "DELETE FROM runs WHERE quiet = 1 AND id <> :id \
                 AND command = (SELECT command FROM runs WHERE id = :id)",
                named,
            )
        })?;
        Ok(())
    }

    /// The runs that have not ended as far as the catalog knows, oldest first; the caller's own is among them.
    pub fn unfinished(self) -> anyhow::Result<Vec<Run>> {
        self.catalog.read("look for unfinished runs", |connection| {
            let mut statement =
                connection.prepare("SELECT * FROM runs WHERE outcome = 'running' ORDER BY started_at, id")?;
            statement.query_map([], run)?.collect()
        })
    }

    /// Writes down that a run which is about to end could not clear away what it had stored, or not be sure of it.
    pub fn leave_unsettled(self, id: &RunId) -> anyhow::Result<()> {
        let changed =
            self.catalog.write("write down that something is left to clear away", |transaction| {
                let sql = "UPDATE runs SET unsettled = 1 WHERE id = :id";
                transaction.execute(sql, named_params! { ":id": id.as_str() })
            })?;
        failure::require_one(changed, || format!("no run {id}"))
    }

    /// The runs of which something may be left to clear away, oldest first: those that have not ended, the caller's own
    /// among them, and those that said so themselves.
    pub fn unsettled(self) -> anyhow::Result<Vec<Run>> {
        self.catalog.read("look for runs that left something behind", |connection| {
            let mut statement = connection.prepare(
                "SELECT * FROM runs WHERE outcome = 'running' OR unsettled = 1 ORDER BY started_at, id",
            )?;
            statement.query_map([], run)?.collect()
        })
    }

    /// Writes down that nothing of the run is left to clear away, and that it died if it has not ended; `false` when it had ended.
    pub fn mark_died(self, id: &RunId) -> anyhow::Result<bool> {
        let changed = self.catalog.write("write down that a run has died", |transaction| {
            let settled = "UPDATE runs SET unsettled = 0 WHERE id = :id";
            transaction.execute(settled, named_params! { ":id": id.as_str() })?;
            transaction.execute(
                "UPDATE runs SET outcome = 'died', message = 'ended without a word; found by a later run' \
                 WHERE id = :id AND outcome = 'running'",
                named_params! { ":id": id.as_str() },
            )
        })?;
        Ok(changed > 0)
    }

    /// The run of this identifier.
    pub fn get(self, id: &RunId) -> anyhow::Result<Option<Run>> {
        self.catalog.read("look for a run", |connection| {
            let mut statement = connection.prepare("SELECT * FROM runs WHERE id = :id")?;
            statement.query_map(named_params! { ":id": id.as_str() }, run)?.next().transpose()
        })
    }

    /// How often a command has begun since this time, and when first.
    pub fn begun_since(self, command: &str, since: Timestamp) -> anyhow::Result<(u64, Option<Timestamp>)> {
        self.catalog.read("look how often a command has run", |connection| {
            let sql = "SELECT count(*) AS times, min(started_at) AS first FROM runs \
                       WHERE command = :command AND started_at >= :since";
            let named = named_params! { ":command": command, ":since": timestamp_text(since) };
            connection.query_row(sql, named, |row| Ok((count(row, "times")?, time_or_null(row, "first")?)))
        })
    }

    /// The last runs that found or did something, newest first.
    pub fn recent(self, count: usize) -> anyhow::Result<Vec<Run>> {
        self.catalog.read("list the last runs", |connection| {
            let mut statement = connection.prepare(
                "SELECT * FROM runs WHERE quiet = 0 ORDER BY started_at DESC, id DESC LIMIT :count",
            )?;
            statement.query_map(named_params! { ":count": integer(count as u64) }, run)?.collect()
        })
    }
}

fn run(row: &Row<'_>) -> rusqlite::Result<Run> {
    Ok(Run {
        id: RunId::from_catalog(row.get::<_, String>("id")?),
        command: row.get("command")?,
        arguments: row.get("arguments")?,
        subject: row.get("subject")?,
        user: row.get("user")?,
        sudo_user: row.get("sudo_user")?,
        host: row.get("host")?,
        terminal: row.get("terminal")?,
        pid: row.get("pid")?,
        scratch_directory: row.get("scratch_directory")?,
        staging_directory: row.get("staging_directory")?,
        pgkeep_version: row.get("pgkeep_version")?,
        started_at: time(row, "started_at")?,
        ended_at: time_or_null(row, "ended_at")?,
        seconds: row.get("seconds")?,
        outcome: parsed(row, "outcome")?,
        exit_code: row.get("exit_code")?,
        message: row.get("message")?,
        priority: row.get("priority")?,
        waited_seconds: row.get("waited_seconds")?,
        job_id: row.get("job_id")?,
    })
}
