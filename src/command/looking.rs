//! The row of a run that mostly finds nothing, `watch` and `run-due`, from cron each minute: one that found nothing takes
//! the place of the one before it, so that the last look can be seen and the log of runs stays readable. One that found
//! something, failed or died stays.

use chrono::Utc;

use super::context::{locks, run_lock, take};
use super::outcome::ended;
use super::{Environment, Report, Shelf};
use crate::catalog::NewRun;
use crate::model::{Progress, RunId};
use crate::system::caller::Caller;
use crate::system::lock::FileLock;
use crate::system::{durable, random_u32};

/// A run that looks.
pub(super) struct Looking<'a> {
    shelf: &'a Shelf,
    progress: &'a dyn Progress,
    /// Its identifier.
    pub(super) run: RunId,
    _lock: FileLock,
}

impl<'a> Looking<'a> {
    /// Writes down that it begins, and that the ones before it have died that did not say how they ended: nothing else is
    /// left of them.
    pub(super) fn begin(
        environment: &'a Environment,
        shelf: &'a Shelf,
        command: &str,
    ) -> anyhow::Result<Self> {
        let caller = Caller::find();
        for other in shelf.catalog.runs().unfinished()? {
            let lock = run_lock(&shelf.settings, &other.id);
            if other.command == command && other.host == caller.host && !FileLock::is_held(&lock)? {
                shelf.catalog.runs().mark_died(&other.id)?;
                durable::remove_file_if_there(&lock)?;
            }
        }
        let run = RunId::new(random_u32()?);
        durable::create_private_dir(&locks(&shelf.settings))?;
        // The lock before the row: a row without its lock is taken for that of a dead run.
        let lock = take(&run_lock(&shelf.settings, &run), command, run.as_str())?;
        let begun = shelf.catalog.runs().begin(&NewRun {
            id: run.clone(),
            command: command.to_owned(),
            arguments: environment.arguments.clone(),
            caller,
            pid: std::process::id(),
            scratch_directory: None,
            staging_directory: None,
            priority: None,
            job_id: None,
            started_at: Utc::now(),
        });
        if let Err(error) = begun {
            // No row leads to the lock's file: nobody else would ever remove it.
            let _ = durable::remove_file_if_there(&run_lock(&shelf.settings, &run));
            return Err(error);
        }
        Ok(Self { shelf, progress: &*environment.progress, run, _lock: lock })
    }

    /// Writes down how it ended; never hides the result.
    pub(super) fn end<T: Report>(self, result: &anyhow::Result<T>, found_nothing: impl FnOnce(&T) -> bool) {
        let runs = self.shelf.catalog.runs();
        let (outcome, exit_code, message) = ended(result);
        let mut written = runs.end(&self.run, outcome, exit_code, message.as_deref(), Utc::now());
        if exit_code == 0 && result.as_ref().is_ok_and(found_nothing) {
            written = written.and_then(|()| runs.replace_quiet(&self.run));
        }
        if let Err(error) = written {
            self.progress.note(&format!("warning: {error:#}"));
        }
        // Nobody else ever locks this file: the run's identifier is its own.
        let _ = durable::remove_file_if_there(&run_lock(&self.shelf.settings, &self.run));
    }
}
