//! Jobs: `--at TIME` puts a command off, `pgkeep list --jobs` shows what waits, `pgkeep jobs cancel` takes it back.
//! `run-due` runs them.

use chrono::{TimeDelta, Utc};
use serde::Serialize;

use super::looking::Looking;
use super::{Environment, Report, Shelf, access};
use crate::catalog::{Job, JobState, NewJob};
use crate::model::{Fault, Kind, Timestamp, timestamp_text};
use crate::plan::turns;
use crate::system::caller::Caller;

/// A time that is longer past than this is a slip of the pen.
const PAST: TimeDelta = TimeDelta::minutes(1);
/// How many jobs that have ended are listed.
const ENDED: usize = 50;
/// Options that are the job's own affair, each with a value: when, and with which settings.
const TAKEN_OUT: [&str; 2] = ["--at", "--env-file"];

/// A job.
#[derive(Debug, Clone, Serialize)]
pub struct JobReport {
    /// As the catalog has it.
    pub job: Job,
}

impl Report for JobReport {
    fn shortfall(&self) -> Option<Kind> {
        None
    }
}

/// All jobs.
#[derive(Debug, Clone, Serialize)]
pub struct JobsReport {
    /// Those that wait or run, by their times; then those that have ended, newest first.
    pub jobs: Vec<Job>,
}

impl Report for JobsReport {
    fn shortfall(&self) -> Option<Kind> {
        None
    }
}

/// What is to be put off.
#[derive(Debug, Clone)]
pub struct Later<'a> {
    /// The command's words.
    pub words: &'a str,
    /// The whole command line behind `pgkeep`.
    pub line: &'a [String],
    /// Until when.
    pub at: Timestamp,
    /// Whether it would ask a person who is not there then.
    pub asks: bool,
}

/// Writes a command down to be run later.
pub fn put_off(environment: &Environment, later: &Later<'_>) -> anyhow::Result<JobReport> {
    let Later { words, line, at, asks } = later;
    let Some(priority) = turns::rank(words).priority else {
        return Fault::new(Kind::Usage, format!("--at makes no sense with {words}"))
            .hint("It is for backup, restore, test-restore, verify, sync and cleanup.")
            .err();
    };
    if *asks {
        return Fault::new(Kind::Usage, format!("{words} at a time to come has nobody to confirm it"))
            .hint("Look at it with --dry-run first, then add --yes.")
            .err();
    }
    let now = Utc::now();
    if *at < now - PAST {
        return Fault::new(Kind::Usage, format!("--at: {} is past", timestamp_text(*at)))
            .hint("Leave --at out to do it now.")
            .err();
    }
    let directory = environment.inputs.current_dir.to_str();
    let unreadable = line.iter().any(|word| word.contains(char::REPLACEMENT_CHARACTER));
    let Some(directory) = directory.filter(|_| !unreadable) else {
        return Fault::new(
            Kind::Usage,
            "what is put off is written down as text, and a path here is not UTF-8",
        )
        .hint("Run it from another directory, or name its paths otherwise.")
        .err();
    };
    let directory = match enter(directory) {
        Ok(()) => directory,
        Err(_) if !has_relative_path(line) => "/",
        Err(error) => {
            return Fault::new(
                Kind::Usage,
                format!("this directory could not be entered when the time has come: {error}"),
            )
            .hint("Name paths from / on, or run it from another directory.")
            .err();
        }
    };
    let Shelf { settings, catalog } = Shelf::open(environment)?;
    let env_file = settings.env_file.as_ref().map(std::path::absolute).transpose()?;
    let caller = Caller::find();
    // Cron's user will run it, who may be one of those that may.
    if !access::is_admitted(&settings, &caller, words) {
        let shelf = Shelf { settings, catalog };
        let looking = Looking::begin(environment, &shelf, words)?;
        let refused = Err(access::refusal(&caller, words).into());
        looking.end(&refused, |_: &JobReport| false);
        return refused;
    }
    let job = NewJob {
        command: (*words).to_owned(),
        arguments: without(line, &TAKEN_OUT),
        env_file: env_file.map(|path| path.display().to_string()),
        directory: directory.to_owned(),
        priority,
        scheduled_for: *at,
        requested_by: format!("{}@{}", caller.sudo_user.unwrap_or(caller.user), caller.host),
    };
    let id = catalog.jobs().add(&job, now)?;
    Ok(JobReport { job: known(&catalog, id)? })
}

/// Options of what can be put off whose value is a path.
const PATHS: [&str; 1] = ["--to-dir"];

/// Whether a path among the words means something else when one stands in another directory.
pub(super) fn has_relative_path(words: &[String]) -> bool {
    let mut values = Vec::new();
    for (index, word) in words.iter().enumerate() {
        for option in PATHS {
            match word.strip_prefix(option) {
                Some("") => values.extend(words.get(index + 1).map(String::as_str)),
                Some(rest) => values.extend(rest.strip_prefix('=')),
                None => {}
            }
        }
    }
    values.iter().any(|path| !path.starts_with('/'))
}

/// Whether one can go into this directory: to know it is not enough, as after `sudo -u` in somebody's home.
pub(super) fn enter(directory: &str) -> std::io::Result<()> {
    std::fs::metadata(std::path::Path::new(directory).join(".")).map(|_| ())
}

/// The words of a command line without some options and their values.
fn without(line: &[String], options: &[&str]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut words = line.iter();
    while let Some(word) = words.next() {
        if options.contains(&word.as_str()) {
            words.next();
        } else if !options
            .iter()
            .any(|option| word.strip_prefix(option).is_some_and(|it| it.starts_with('=')))
        {
            kept.push(word.clone());
        }
    }
    kept
}

fn known(catalog: &crate::catalog::Catalog, id: i64) -> anyhow::Result<Job> {
    let missing = || {
        Fault::new(Kind::NotThere, format!("there is no job {id}")).hint("`pgkeep list --jobs` lists them.")
    };
    Ok(catalog.jobs().get(id)?.ok_or_else(missing)?)
}

/// Lists them.
pub fn list(shelf: &Shelf) -> anyhow::Result<JobsReport> {
    Ok(JobsReport { jobs: shelf.catalog.jobs().list(ENDED)? })
}

/// Takes one back that waits.
pub fn cancel(shelf: &Shelf, id: i64) -> anyhow::Result<JobReport> {
    let is_cancelled = shelf.catalog.jobs().cancel(id, &Caller::find().person(), Utc::now())?;
    let job = known(&shelf.catalog, id)?;
    if !is_cancelled {
        let fault =
            Fault::new(Kind::Refused, format!("job {id} does not wait any more: it is {}", job.state));
        let hint = match job.state {
            JobState::Running => {
                "End its run's process, if it must not go on; `pgkeep list --jobs` shows the run."
            }
            _ => "There is nothing to take back.",
        };
        return fault.hint(hint).err();
    }
    Ok(JobReport { job })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relative_path_is_told_from_one_that_is_not() {
        let line = |text: &str| text.split(' ').map(ToOwned::to_owned).collect::<Vec<_>>();
        for relative in ["restore x --to-dir copy", "restore --to-dir=./copy x"] {
            assert!(has_relative_path(&line(relative)), "{relative}");
        }
        for other in ["backup database shop", "restore x --to-dir /srv/copy", "restore --to-dir=/srv/copy x"]
        {
            assert!(!has_relative_path(&line(other)), "{other}");
        }
    }

    #[test]
    fn a_job_keeps_its_words_without_the_time_and_the_settings() {
        let line = |text: &str| text.split(' ').map(ToOwned::to_owned).collect::<Vec<_>>();
        let found =
            without(&line("--env-file /e backup --at 2026-11-22T02:00:00Z database shop -j 2"), &TAKEN_OUT);
        assert_eq!(found, line("backup database shop -j 2"));
        assert_eq!(
            without(&line("verify --at=2026-11-22T02:00:00Z --deep"), &TAKEN_OUT),
            line("verify --deep")
        );
    }
}
