//! The table `jobs`: commands that wait for their time.

use rusqlite::{Connection, OptionalExtension, Row, named_params};
use serde::Serialize;

use super::values::{integer, parsed, time, time_or_null};
use super::words::words;
use super::{Catalog, failure};
use crate::model::{Timestamp, timestamp_text};

words! {
    /// How it stands with a job.
    pub enum JobState {
        /// Its time has not come, or nobody has looked.
        Waiting = "waiting",
        /// It runs.
        Running = "running",
        /// All of it was done.
        Done = "done",
        /// Done, but something is missing.
        Incomplete = "incomplete",
        /// It failed; the message says why.
        Failed = "failed",
        /// Somebody took it back.
        Cancelled = "cancelled",
        /// It ended without a word.
        Died = "died",
    }
}

/// A job that is to be written down.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// The command's words, as in `runs`.
    pub command: String,
    /// What stands behind `pgkeep`.
    pub arguments: Vec<String>,
    /// The file with the settings, if they are not the default ones.
    pub env_file: Option<String>,
    /// The directory in which it was put off.
    pub directory: String,
    /// Its priority.
    pub priority: u8,
    /// When it is to run.
    pub scheduled_for: Timestamp,
    /// Who wants it.
    pub requested_by: String,
}

/// A job as the catalog has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Job {
    /// Its number.
    pub id: i64,
    /// The command's words.
    pub command: String,
    /// What stands behind `pgkeep`.
    pub arguments: Vec<String>,
    /// The file with the settings.
    pub env_file: Option<String>,
    /// The directory in which it was put off, from where its relative paths are meant; jobs of before have none.
    pub directory: Option<String>,
    /// Its priority.
    pub priority: u8,
    /// When it is to run.
    #[serde(serialize_with = "super::values::time_as_text")]
    pub scheduled_for: Timestamp,
    /// How it stands.
    pub state: JobState,
    /// Who wanted it.
    pub requested_by: String,
    /// When that was.
    #[serde(serialize_with = "super::values::time_as_text")]
    pub created_at: Timestamp,
    /// When it was begun.
    #[serde(serialize_with = "super::values::time_or_null_as_text")]
    pub started_at: Option<Timestamp>,
    /// When it had ended.
    #[serde(serialize_with = "super::values::time_or_null_as_text")]
    pub ended_at: Option<Timestamp>,
    /// Its exit code.
    pub exit_code: Option<u8>,
    /// The run that it became.
    pub run_id: Option<String>,
    /// What there is to say of it.
    pub message: Option<String>,
}

/// What can be done with the table of jobs.
#[derive(Debug, Clone, Copy)]
pub struct Jobs<'a> {
    catalog: &'a Catalog,
}

impl<'a> Jobs<'a> {
    pub(super) fn new(catalog: &'a Catalog) -> Self {
        Self { catalog }
    }

    /// Writes a job down and returns its number.
    pub fn add(self, job: &NewJob, at: Timestamp) -> anyhow::Result<i64> {
        self.catalog.write("write down a job", |transaction| {
            transaction.execute(
                "INSERT INTO jobs (command, arguments, env_file, directory, priority, scheduled_for, requested_by, \
                 created_at) VALUES (:command, :arguments, :env_file, :directory, :priority, :scheduled_for, :requested_by, :at)",
                named_params! {
                    ":command": job.command,
                    ":arguments": serde_json::json!(job.arguments).to_string(),
                    ":env_file": job.env_file,
                    ":directory": job.directory,
                    ":priority": job.priority,
                    ":scheduled_for": timestamp_text(job.scheduled_for),
                    ":requested_by": job.requested_by,
                    ":at": timestamp_text(at),
                },
            )?;
            Ok(transaction.last_insert_rowid())
        })
    }

    /// Whether a job's time has come that nobody has taken.
    pub fn is_any_due(self, now: Timestamp) -> anyhow::Result<bool> {
        self.catalog.read("look for jobs whose time has come", |connection| {
            let sql = "SELECT EXISTS (SELECT 1 FROM jobs WHERE state IN ('waiting', 'running') \
                       AND state = 'waiting' AND scheduled_for <= :now)";
            connection.query_row(sql, named_params! { ":now": timestamp_text(now) }, |row| row.get(0))
        })
    }

    /// Takes the job that comes first of those whose time has come: nobody else gets it after that.
    pub fn take_due(self, now: Timestamp) -> anyhow::Result<Option<Job>> {
        let at = timestamp_text(now);
        self.catalog.write("take a job whose time has come", |transaction| {
            let mut statement = transaction.prepare(
                "UPDATE jobs SET state = 'running', started_at = :at WHERE id = (SELECT id FROM jobs \
                 WHERE state = 'waiting' AND scheduled_for <= :at ORDER BY priority DESC, scheduled_for, id LIMIT 1) \
                 RETURNING *",
            )?;
            statement.query_row(named_params! { ":at": at }, job).optional()
        })
    }

    /// The jobs that run as far as the catalog knows.
    pub fn running(self) -> anyhow::Result<Vec<Job>> {
        self.catalog.read("look for jobs that run", |connection| {
            select(connection, "WHERE state = 'running' ORDER BY id", 10_000)
        })
    }

    /// The jobs that wait or run, in the order of their times; and the last ones that have ended, newest first.
    pub fn list(self, ended: usize) -> anyhow::Result<Vec<Job>> {
        self.catalog.read("list the jobs", |connection| {
            let mut jobs = select(
                connection,
                "WHERE state IN ('waiting', 'running') ORDER BY scheduled_for, id",
                10_000,
            )?;
            let sql = "WHERE state NOT IN ('waiting', 'running') ORDER BY id DESC";
            jobs.extend(select(connection, sql, ended)?);
            Ok(jobs)
        })
    }

    /// The job of this number.
    pub fn get(self, id: i64) -> anyhow::Result<Option<Job>> {
        self.catalog.read("look for a job", |connection| {
            let mut statement = connection.prepare("SELECT * FROM jobs WHERE id = :id")?;
            statement.query_row(named_params! { ":id": id }, job).optional()
        })
    }

    /// Writes down which run the job has become.
    pub fn set_run(self, id: i64, run: &str) -> anyhow::Result<()> {
        self.catalog.write("write down which run a job is", |transaction| {
            let sql = "UPDATE jobs SET run_id = :run WHERE id = :id AND state = 'running'";
            transaction.execute(sql, named_params! { ":id": id, ":run": run }).map(|_| ())
        })
    }

    /// Writes down how a job that ran has ended; `false` when that was written down already.
    pub fn end(
        self,
        id: i64,
        state: JobState,
        exit_code: Option<u8>,
        message: Option<&str>,
        at: Timestamp,
    ) -> anyhow::Result<bool> {
        let changed = self.catalog.write("write down how a job ended", |transaction| {
            transaction.execute(
                "UPDATE jobs SET state = :state, exit_code = :exit_code, ended_at = :at, \
                 message = CASE WHEN message IS NULL THEN :message WHEN :message IS NULL THEN message \
                 ELSE message || '; ' || :message END WHERE id = :id AND state = 'running'",
                named_params! {
                    ":id": id,
                    ":state": state.as_str(),
                    ":exit_code": exit_code,
                    ":message": message,
                    ":at": timestamp_text(at),
                },
            )
        })?;
        Ok(changed > 0)
    }

    /// Lets a job that was taken and could not be begun wait on until then.
    pub fn put_back(self, id: i64, message: &str, until: Timestamp) -> anyhow::Result<()> {
        let changed = self.catalog.write("let a job wait on", |transaction| {
            transaction.execute(
                "UPDATE jobs SET state = 'waiting', started_at = NULL, scheduled_for = :until, \
                 message = coalesce(message || '; ', '') || :message WHERE id = :id AND state = 'running'",
                named_params! { ":id": id, ":message": message, ":until": timestamp_text(until) },
            )
        })?;
        failure::require_one(changed, || format!("no job {id} that runs"))
    }

    /// Adds a word about a job that runs.
    pub fn remark(self, id: i64, message: &str) -> anyhow::Result<()> {
        let changed = self.catalog.write("write down a word on a job", |transaction| {
            let sql = "UPDATE jobs SET message = coalesce(message || '; ', '') || :message WHERE id = :id";
            transaction.execute(sql, named_params! { ":id": id, ":message": message })
        })?;
        failure::require_one(changed, || format!("no job {id}"))
    }

    /// Takes a job back that waits; `false` when it does not, or not any more.
    pub fn cancel(self, id: i64, by: &str, at: Timestamp) -> anyhow::Result<bool> {
        let changed = self.catalog.write("take a job back", |transaction| {
            transaction.execute(
                "UPDATE jobs SET state = 'cancelled', ended_at = :at, message = :message \
                 WHERE id = :id AND state = 'waiting'",
                named_params! {
                    ":id": id, ":at": timestamp_text(at), ":message": format!("cancelled by {by}"),
                },
            )
        })?;
        Ok(changed > 0)
    }
}

fn select(connection: &Connection, rest: &str, limit: usize) -> rusqlite::Result<Vec<Job>> {
    let mut statement = connection.prepare(&format!("SELECT * FROM jobs {rest} LIMIT :limit"))?;
    statement.query_map(named_params! { ":limit": integer(limit as u64) }, job)?.collect()
}

fn job(row: &Row<'_>) -> rusqlite::Result<Job> {
    Ok(Job {
        id: row.get("id")?,
        command: row.get("command")?,
        arguments: super::values::json_or_null(row, "arguments")?.unwrap_or_default(),
        env_file: row.get("env_file")?,
        directory: row.get("directory")?,
        priority: row.get("priority")?,
        scheduled_for: time(row, "scheduled_for")?,
        state: parsed(row, "state")?,
        requested_by: row.get("requested_by")?,
        created_at: time(row, "created_at")?,
        started_at: time_or_null(row, "started_at")?,
        ended_at: time_or_null(row, "ended_at")?,
        exit_code: row.get("exit_code")?,
        run_id: row.get("run_id")?,
        message: row.get("message")?,
    })
}
