//! `pgkeep run-due`: runs the jobs whose time has come, each once, the highest priority first. A job is a run of its own
//! in a process of its own.
//!
//! A long job holds up none that is due later, also where nobody calls a second `run-due` while the first one runs, as a
//! timer of systemd's does: as long as a job runs, one looks for others and begins them beside it. What must not run at the
//! same time sees to that itself, by its turn.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use chrono::{TimeDelta, Utc};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustix::process::{Pid, Signal, kill_process};
use serde::Serialize;
use tokio::process::Child;

use super::alerts::{Place, attend};
use super::context::{locks, run_lock, take};
use super::jobs::{enter, has_relative_path};
use super::looking::Looking;
use super::{Environment, Report, Shelf};
use crate::catalog::{Job, JobState, Run, RunOutcome, Severity};
use crate::model::{Elapsed, Fault, Kind};
use crate::plan::conditions::Server;
use crate::system::lock::{Attempt, FileLock};
use crate::system::{Step, Stop, durable, step};

/// How long one waits for another to have looked for jobs.
const TRIES: u32 = 600;
const PAUSE: Duration = Duration::from_millis(100);

/// How many jobs one `run-due` has under way.
const AT_ONCE: usize = 16;
/// How often one looks whether something else is due, while a job runs; and whether the newest one has begun.
const LOOK: Duration = Duration::from_secs(1);
const BEGUN: Duration = Duration::from_millis(20);

/// A job that can't be started is tried again after this, so many times.
const PUT_BACK: TimeDelta = TimeDelta::minutes(1);
const NOT_BEGUN_MOST: usize = 5;
const NOT_BEGUN: &str = "could not be started";

/// The variable that tells a process which job it is.
pub const JOB_VARIABLE: &str = "PGKEEP_JOB";
/// cron looks each minute: what is begun later than this was late.
const LATE: TimeDelta = TimeDelta::minutes(2);

/// What has run.
#[derive(Debug, Clone, Serialize)]
pub struct RunDueReport {
    /// The jobs that were run now.
    pub jobs: Vec<RanJob>,
    /// Jobs of an earlier call whose run ended without a word, or without anybody to write down how.
    pub found: Vec<Job>,
}

/// A job that was run.
#[derive(Debug, Clone, Serialize)]
pub struct RanJob {
    /// As it is now.
    pub job: Job,
    /// Seconds between its time and its beginning.
    pub late_seconds: f64,
    /// What it wrote to stdout.
    pub output: String,
}

impl Report for RunDueReport {
    fn shortfall(&self) -> Option<Kind> {
        let is_bad = |job: &Job| !matches!(job.state, JobState::Done);
        let any = self.jobs.iter().map(|it| &it.job).chain(&self.found).any(is_bad);
        any.then_some(Kind::Incomplete)
    }
}

/// Runs what is due.
pub async fn run(environment: &Environment) -> anyhow::Result<RunDueReport> {
    let shelf = Shelf::open(environment)?;
    let looking = Looking::begin(environment, &shelf, "run-due")?;
    let due = Due { shelf: &shelf, environment, program: program()? };
    let mut result = due.all().await;
    if let Ok(report) = &result
        && let Err(error) = due.attend(report, &looking).await
    {
        result = Err(error);
    }
    looking.end(&result, |report| report.jobs.is_empty() && report.found.is_empty());
    result
}

struct Due<'a> {
    shelf: &'a Shelf,
    environment: &'a Environment,
    /// What is run.
    program: PathBuf,
}

/// Where this program is. Found out once: the kernel says of one that an upgrade has replaced that it was deleted, and what
/// is in its place is as good.
fn program() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe().context("find this program")?;
    Ok(without_deleted(path))
}

fn without_deleted(path: PathBuf) -> PathBuf {
    match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(place) if !path.exists() => PathBuf::from(place),
        _ => path,
    }
}

impl Due<'_> {
    /// Begins one job after the other, in their order: the next one when the run of the one before has its row. What goes
    /// wrong with pgkeep itself ends that, and is said when those that run have ended.
    async fn all(&self) -> anyhow::Result<RunDueReport> {
        let (mut jobs, mut found) = (Vec::new(), Vec::new());
        let mut running = FuturesUnordered::new();
        let mut newest = None;
        let mut is_first = true;
        let mut wrong = None;
        loop {
            if let Some(job) = newest {
                match self.shelf.catalog.runs().of_job(job) {
                    Ok(None) => {}
                    Ok(Some(_)) => newest = None,
                    Err(error) => (newest, wrong) = (None, wrong.or(Some(error))),
                }
            }
            let may_begin = newest.is_none() && wrong.is_none() && running.len() < AT_ONCE;
            if may_begin && !self.environment.stop.is_requested() {
                match self.look(is_first, &mut found) {
                    Ok(Some((job, lock))) => {
                        newest = Some(job.id);
                        running.push(self.carry_out(job, lock));
                    }
                    Ok(None) => {}
                    Err(error) => wrong = Some(error),
                }
                is_first = false;
            }
            let pause = if newest.is_some() { BEGUN } else { LOOK };
            let ended = tokio::select! {
                ended = running.next() => ended,
                () = tokio::time::sleep(pause) => continue,
            };
            match ended {
                None => break,
                Some(Ok(ran)) => {
                    let ran: RanJob = ran;
                    if newest == Some(ran.job.id) {
                        newest = None;
                    }
                    jobs.push(ran);
                }
                Some(Err(error)) => (newest, wrong) = (None, wrong.or(Some(error))),
            }
        }
        match wrong {
            None => Ok(RunDueReport { jobs, found }),
            Some(error) => Err(error),
        }
    }

    /// The next job that is due. Only the first look finds out what became of jobs of others.
    fn look(&self, is_first: bool, found: &mut Vec<Job>) -> anyhow::Result<Option<(Job, FileLock)>> {
        if is_first || self.shelf.catalog.jobs().is_any_due(Utc::now())? {
            self.next(found)
        } else {
            Ok(None)
        }
    }

    /// Whoever has died could not look for itself what is to be alerted; and what was never a run is in no row that anybody
    /// looks at.
    async fn attend(&self, report: &RunDueReport, looking: &Looking<'_>) -> anyhow::Result<()> {
        let all = || report.jobs.iter().map(|it| &it.job).chain(&report.found);
        let mut any_lost = false;
        for job in all().filter(|job| matches!(job.state, JobState::Failed | JobState::Died)) {
            let Job { id, command, message, .. } = job;
            if self.shelf.catalog.runs().of_job(*id)?.is_some() {
                continue;
            }
            any_lost = true;
            let why = message.as_deref().unwrap_or("without a word");
            let message = format!("job {id} ({command}) has not become a run: {why}");
            self.shelf.catalog.alerts().raise("job-lost", Severity::Critical, &message, Utc::now())?;
        }
        let any_died = all().any(|job| job.state == JobState::Died);
        if any_died || any_lost || !report.found.is_empty() {
            let place = Place {
                settings: &self.shelf.settings,
                catalog: &self.shelf.catalog,
                progress: &*self.environment.progress,
                run: Some(&looking.run),
                tells: true,
            };
            attend(place, Server::NotAsked).await?;
        }
        Ok(())
    }

    fn lock_of(&self, job: i64) -> PathBuf {
        locks(&self.shelf.settings).join(format!("job-{job}.lock"))
    }

    /// Finds out what became of jobs that nobody looks after any more, then takes the next one and its lock. Two that
    /// do this at the same time take turns, so that one does not take the other's new job for a dead one.
    fn next(&self, found: &mut Vec<Job>) -> anyhow::Result<Option<(Job, FileLock)>> {
        let holder = format!("process {}", std::process::id());
        let _turn = self.turn(&holder)?;
        self.settle(found)?;
        let Some(job) = self.shelf.catalog.jobs().take_due(Utc::now())? else { return Ok(None) };
        let lock = take(&self.lock_of(job.id), &holder, "run-due")?;
        Ok(Some((job, lock)))
    }

    /// Others hold it for some statements on the catalog, each of which may have to wait for somebody else.
    fn turn(&self, holder: &str) -> anyhow::Result<FileLock> {
        let path = locks(&self.shelf.settings).join("jobs.lock");
        for _ in 0..TRIES {
            match FileLock::attempt(&path, holder)? {
                Attempt::Taken(lock) => return Ok(lock),
                Attempt::HeldBy(_) => std::thread::sleep(PAUSE),
            }
        }
        Fault::new(Kind::Locked, "look for jobs: another run-due is at it")
            .hint("Nothing is lost: the one that comes next looks again.")
            .err()
    }

    fn settle(&self, found: &mut Vec<Job>) -> anyhow::Result<()> {
        let Shelf { settings, catalog } = self.shelf;
        for job in catalog.jobs().running()? {
            if FileLock::is_held(&self.lock_of(job.id))? {
                continue;
            }
            let run = catalog.runs().of_job(job.id)?;
            let is_alive = match &run {
                Some(run) => {
                    run.outcome == RunOutcome::Running && FileLock::is_held(&run_lock(settings, &run.id))?
                }
                None => false,
            };
            if is_alive {
                continue;
            }
            // Read again: it may have ended between the two looks.
            let run = catalog.runs().of_job(job.id)?;
            let (state, code, message) = of_run(run.as_ref());
            if catalog.jobs().end(job.id, state, code, message.as_deref(), Utc::now())? {
                durable::remove_file_if_there(&self.lock_of(job.id))?;
                let job = catalog.jobs().get(job.id)?.unwrap_or(job);
                let why = job.message.clone().unwrap_or_default();
                let text = format!("job {} ({}) {}: {why}", job.id, job.command, ended(job.state));
                self.environment.progress.note(&text);
                found.push(job);
            }
        }
        Ok(())
    }

    /// Runs it to its end; its lock is held as long.
    async fn carry_out(&self, job: Job, _lock: FileLock) -> anyhow::Result<RanJob> {
        let jobs = self.shelf.catalog.jobs();
        let progress = &self.environment.progress;
        step::reached(Step::JobTaken)?;
        let late = Utc::now() - job.scheduled_for;
        if late > LATE {
            let text = format!("begun {} late", Elapsed(late.to_std().unwrap_or_default()));
            progress.note(&format!("job {} ({}): {text}", job.id, job.command));
            // It is taken, and nobody else runs it: that a word on it can't be written down is no reason not to.
            if let Err(error) = jobs.remark(job.id, &text) {
                progress.note(&format!("warning: job {}: {error:#}", job.id));
            }
        }
        let executed = match begin(&self.program, &job) {
            Ok(child) => wait(&job, child, &self.environment.stop).await,
            Err(error) if may_wait_on(&job, &error) => {
                let why = format!("{NOT_BEGUN}: {error:#}");
                jobs.put_back(job.id, &why, Utc::now() + PUT_BACK)?;
                durable::remove_file_if_there(&self.lock_of(job.id))?;
                progress.note(&format!("job {} ({}) waits on: {why}", job.id, job.command));
                let job = jobs.get(job.id)?.unwrap_or(job);
                return Ok(RanJob {
                    job,
                    late_seconds: late.as_seconds_f64().max(0.0),
                    output: String::new(),
                });
            }
            Err(error) => Err(error),
        };
        step::reached(Step::JobEnded)?;
        let run = self.shelf.catalog.runs().of_job(job.id)?;
        let (state, code, message, output, errors) = match &executed {
            Ok(output) => {
                let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                let (state, code, message) = judged(output, run.as_ref(), &errors);
                (state, code, message, String::from_utf8_lossy(&output.stdout).into_owned(), errors)
            }
            Err(error) => (JobState::Failed, None, Some(format!("{error:#}")), String::new(), String::new()),
        };
        jobs.end(job.id, state, code, message.as_deref(), Utc::now())?;
        durable::remove_file_if_there(&self.lock_of(job.id))?;
        if state != JobState::Done {
            for line in errors.lines() {
                progress.note(&format!("job {}: {}", job.id, line.trim_start_matches("pgkeep: ")));
            }
            let why = message.unwrap_or_default();
            progress.note(&format!("job {} ({}) {}: {why}", job.id, job.command, ended(state)));
        }
        let job = jobs.get(job.id)?.unwrap_or(job);
        Ok(RanJob { job, late_seconds: late.as_seconds_f64().max(0.0), output })
    }
}

fn ended(state: JobState) -> &'static str {
    match state {
        JobState::Done => "is done",
        JobState::Incomplete => "is done, but something is missing",
        JobState::Died => "died",
        _ => "failed",
    }
}

/// Whether what can't be started now may be later: a program that is being replaced, a machine without memory.
fn may_wait_on(job: &Job, error: &anyhow::Error) -> bool {
    let tried = job.message.as_ref().map_or(0, |message| message.matches(NOT_BEGUN).count());
    error.is::<std::io::Error>() && tried < NOT_BEGUN_MOST
}

/// Starts the job's command.
fn begin(program: &Path, job: &Job) -> anyhow::Result<Child> {
    let mut command = tokio::process::Command::new(program);
    command
        .args(&job.arguments)
        .env(JOB_VARIABLE, job.id.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(env_file) = &job.env_file {
        command.env("PGKEEP_ENV_FILE", env_file);
    }
    if let Some(directory) = &job.directory {
        // Its relative paths mean what they meant when it was put off; without any it does not matter where it runs.
        match enter(directory) {
            Ok(()) => command.current_dir(directory),
            Err(_) if !has_relative_path(&job.arguments) => command.current_dir("/"),
            Err(error) => {
                let action = format!("start job {} in {directory}: {error}", job.id);
                return Fault::new(Kind::NotThere, action)
                    .hint("A path in its command is relative, and is meant from there.")
                    .err();
            }
        };
    }
    command.spawn().with_context(|| format!("start job {}: {}", job.id, program.display()))
}

/// Waits for its end. Asked to end, asks it to end and waits for that.
async fn wait(job: &Job, child: Child, stop: &Stop) -> anyhow::Result<Output> {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let mut ending = std::pin::pin!(child.wait_with_output());
    let output = tokio::select! {
        output = &mut ending => output,
        () = stop.requested() => {
            if let Some(pid) = pid {
                // It may have ended in this moment.
                let _ = kill_process(pid, Signal::TERM);
            }
            ending.await
        }
    };
    output.with_context(|| format!("wait for job {}", job.id))
}

/// What a job came to whose process was watched to its end.
fn judged(output: &Output, run: Option<&Run>, errors: &str) -> (JobState, Option<u8>, Option<String>) {
    if let Some(signal) = output.status.signal() {
        return (JobState::Died, None, Some(format!("ended by signal {signal}")));
    }
    let code = output.status.code().and_then(|code| u8::try_from(code).ok());
    let state = match code {
        Some(0) => JobState::Done,
        Some(code) if code == Kind::Incomplete.exit_code() => JobState::Incomplete,
        _ => JobState::Failed,
    };
    let said = || errors.lines().rev().find_map(|line| line.strip_prefix("pgkeep: ")).map(ToOwned::to_owned);
    let message =
        if state == JobState::Done { None } else { run.and_then(|it| it.message.clone()).or_else(said) };
    (state, code, message)
}

/// What a job came to, by what its run wrote down.
fn of_run(run: Option<&Run>) -> (JobState, Option<u8>, Option<String>) {
    let Some(run) = run else {
        return (JobState::Died, None, Some("it ended without a word, before its run began".to_owned()));
    };
    let state = match run.outcome {
        RunOutcome::Done => JobState::Done,
        RunOutcome::Incomplete => JobState::Incomplete,
        RunOutcome::Failed | RunOutcome::Interrupted => JobState::Failed,
        RunOutcome::Running | RunOutcome::Died => JobState::Died,
    };
    let message = match state {
        JobState::Died => Some("it ended without a word".to_owned()),
        _ => run.message.clone(),
    };
    (state, run.exit_code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_was_replaced_is_looked_for_in_its_place() {
        let path = |text: &str| without_deleted(PathBuf::from(text));
        assert_eq!(path("/nowhere/pgkeep (deleted)"), Path::new("/nowhere/pgkeep"));
        assert_eq!(path("/nowhere/pgkeep"), Path::new("/nowhere/pgkeep"));
    }
}
