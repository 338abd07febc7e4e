//! What commands are given: settings, catalog, stores, progress, and the run's own row, lock and scratch place.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::Utc;

use super::alerts::{Place, attend};
use super::outcome::{Report, Verdict, ended, judge};
use super::{access, saved, settle, stores, turn};
use crate::catalog::{BackupStatus, Catalog, NewRun, RunOutcome};
use crate::config::{Inputs, Settings};
use crate::format::keyring::Keyring;
use crate::model::{Fault, FaultContext, Kind, Progress, RunId, StoreName};
use crate::plan::conditions::Server;
use crate::plan::turns;
use crate::store::{ReadReplicas, Replicas};
use crate::system::caller::Caller;
use crate::system::lock::{Attempt, FileLock};
use crate::system::{Step, Stop, durable, random_u32, step};

/// What the command line hands to a command.
#[derive(Clone)]
pub struct Environment {
    /// Where settings come from.
    pub inputs: Inputs,
    /// Who shows progress.
    pub progress: Arc<dyn Progress>,
    /// Whether the end was asked for.
    pub stop: Stop,
    /// The arguments after the subcommand, for the audit; they never hold secrets.
    pub arguments: String,
    /// How long to wait for one's turn.
    pub wait: Duration,
    /// The job that this run is, of those that were put off with `--at`.
    pub job: Option<i64>,
}

/// For commands that only look: settings, catalog, and stores that cannot be written.
#[derive(Debug)]
pub struct Shelf {
    /// The settings.
    pub settings: Settings,
    /// The catalog.
    pub catalog: Catalog,
}

impl Shelf {
    /// Reads the settings and opens the catalog.
    pub fn open(environment: &Environment) -> anyhow::Result<Self> {
        let settings = Settings::load(&environment.inputs)?;
        let catalog = Catalog::open(&catalog_path(&settings))?;
        catalog.refuse_another_cluster(&settings.cluster)?;
        Ok(Self { settings, catalog })
    }
}

/// For commands that do something: everything of [`Shelf`], and a run.
pub struct Context {
    /// The settings.
    pub settings: Settings,
    /// The catalog.
    pub catalog: Catalog,
    /// The stores.
    pub replicas: Replicas,
    reading: ReadReplicas,
    /// Who shows progress.
    pub progress: Arc<dyn Progress>,
    /// Whether the end was asked for.
    pub stop: Stop,
    /// This run.
    pub run: RunId,
    /// Who runs it.
    pub caller: Caller,
    /// The rest of the command line, as it stands in the run's row.
    pub(super) words: String,
    /// Its right to a turn.
    pub(super) priority: Option<u8>,
    /// How long it waits for one.
    pub(super) wait: Duration,
    lock: FileLock,
    /// What it is called with.
    command: String,
    /// Held until the run ends, but while somebody is asked: see [`turn::enter`].
    backups: Mutex<Option<FileLock>>,
}

impl Context {
    /// Opens the catalog and writes down that a run begins; then clears up after runs that died.
    pub async fn open(environment: &Environment, command: &str) -> anyhow::Result<Self> {
        let Shelf { settings, catalog } = Shelf::open(environment)?;
        let context = Self::with(environment, command, settings, catalog)?;
        match turn::enter(&context, command).await {
            Ok(lock) => context.hold(lock),
            // The run has a row by now, which says how it ended.
            Err(error) => return context.conclude(Err::<Never, _>(error)).await.map(|never| match never {}),
        }
        settle::dead_runs(&context).await;
        Ok(context)
    }

    /// The same around a catalog that is already open.
    pub fn with(
        environment: &Environment,
        command: &str,
        settings: Settings,
        catalog: Catalog,
    ) -> anyhow::Result<Self> {
        catalog.take_for(&settings.cluster)?;
        let replicas = stores::replicas(&settings)?;
        let reading = replicas.reading();
        let caller = Caller::find();
        let run = RunId::new(random_u32()?);
        durable::create_private_dir(&locks(&settings))
            .or_fault(|| Fault::new(Kind::Store, "use the state directory").hint(STATE_HINT))?;
        // The lock before the row: a row without its lock is taken for that of a dead run.
        let lock = take(&run_lock(&settings, &run), command, run.as_str())?;
        let row = NewRun {
            id: run.clone(),
            command: command.to_owned(),
            arguments: environment.arguments.clone(),
            caller: caller.clone(),
            pid: std::process::id(),
            scratch_directory: settings.scratch_dir.to_str().map(ToOwned::to_owned),
            staging_directory: replicas
                .staging()
                .first()
                .and_then(|path| path.to_str())
                .map(ToOwned::to_owned),
            priority: turns::rank(command).priority,
            job_id: environment.job,
            started_at: Utc::now(),
        };
        let begun = step::reached(Step::RunLocked).and_then(|()| catalog.runs().begin(&row));
        if let Err(error) = begun {
            // No row leads to the lock's file: nobody else would ever remove it.
            let _ = durable::remove_file_if_there(&run_lock(&settings, &run));
            return Err(error);
        }
        if let Some(job) = environment.job {
            catalog.jobs().set_run(job, run.as_str())?;
        }
        let (progress, stop) = (Arc::clone(&environment.progress), environment.stop.clone());
        let words = environment.arguments.clone();
        let (priority, wait) = (row.priority, environment.wait);
        let context = Self {
            settings,
            catalog,
            replicas,
            reading,
            progress,
            stop,
            run,
            caller,
            words,
            priority,
            wait,
            lock,
            command: command.to_owned(),
            backups: Mutex::new(None),
        };
        match access::refuse_others(&context, command) {
            Ok(()) => Ok(context),
            Err(error) => {
                let Verdict { exit_code, message, .. } = judge(&error);
                let (runs, now) = (context.catalog.runs(), Utc::now());
                runs.end(&context.run, RunOutcome::Failed, exit_code, Some(&message), now)?;
                durable::remove_file_if_there(&run_lock(&context.settings, &context.run))?;
                Err(error)
            }
        }
    }

    /// The same with stores that are not held to the rate limit: for a recovery, which somebody waits for.
    pub fn unlimited(mut self) -> anyhow::Result<Self> {
        self.settings.rate_limit = None;
        self.replicas = stores::replicas(&self.settings)?;
        self.reading = self.replicas.reading();
        Ok(self)
    }

    /// The same reading from this store alone, and so all that it starts; what is written goes to all.
    pub fn only(mut self, store: StoreName) -> anyhow::Result<Self> {
        if self.replicas.get(store).is_none() {
            let stores: Vec<&str> = self.settings.stores().iter().map(|name| name.as_str()).collect();
            return Fault::new(Kind::Usage, format!("store {store} is not configured"))
                .hint(format!("Those that are: {}.", stores.join(", ")))
                .err();
        }
        self.settings.read_order = vec![store];
        self.replicas = stores::replicas(&self.settings)?;
        self.reading = self.replicas.reading();
        Ok(self)
    }

    /// The stores for reading only.
    pub fn reading(&self) -> &ReadReplicas {
        &self.reading
    }

    /// The keys of the settings.
    pub fn keyring(&self) -> anyhow::Result<Keyring> {
        keyring(&self.settings)
    }

    /// A directory for this run's own files, made if need be. Removed when the run ends, or by the next one.
    pub fn scratch(&self) -> anyhow::Result<PathBuf> {
        let path = scratch_of(&self.settings.scratch_dir, &self.run);
        durable::create_private_dir(&path).or_fault(|| {
            Fault::new(Kind::Store, "make the scratch directory")
                .hint("Set BACKUP_SCRATCH_DIR to a directory that this user may write.")
        })?;
        Ok(path)
    }

    fn hold(&self, backups: Option<FileLock>) {
        *self.backups.lock().unwrap_or_else(PoisonError::into_inner) = backups;
    }

    /// Lets others take backups away, from when on somebody is asked who may have gone home. What the log says that this
    /// run restores stays all the same.
    pub fn let_go(&self) {
        self.hold(None);
    }

    /// Has them again, after [`Self::let_go`] if somebody was asked at all. An error if one that this run restores has
    /// been taken away in between.
    pub(super) async fn hold_again(&self) -> anyhow::Result<()> {
        if self.backups.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        self.hold(turn::enter(self, &self.command).await?);
        for backup in self.catalog.restores().running_of(&self.run)? {
            let row = self.catalog.backups().get(&backup)?;
            if row.is_none_or(|row| row.status != BackupStatus::Complete) {
                return Fault::new(
                    Kind::NotThere,
                    format!("{backup} was deleted while this waited for an answer"),
                )
                .hint("`pgkeep list` shows what is left.")
                .err();
            }
        }
        Ok(())
    }

    /// Takes the turn for something that only one run may do at a time; waits for it as long as `--wait` says.
    pub async fn turn(&self, name: &str, what: &str) -> anyhow::Result<FileLock> {
        turn::alone(self, name, what, self.wait).await
    }

    /// The same, and waits no longer than this, whatever `--wait` says.
    pub async fn turn_within(&self, wait: Duration, name: &str, what: &str) -> anyhow::Result<FileLock> {
        turn::alone(self, name, what, wait).await
    }

    /// The same for what is left out, and not waited for, while another run is at it.
    pub fn turn_now(&self, name: &str, what: &str) -> anyhow::Result<FileLock> {
        turn::now(self, name, what)
    }

    /// Writes down how the run ended, saves the catalog in the stores, and clears away what is only this run's. Never
    /// hides the result.
    pub async fn conclude<T: Report>(self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        let (outcome, exit_code, message) = ended(&result);
        let tidied = durable::remove_dir_if_there(&scratch_of(&self.settings.scratch_dir, &self.run));
        let written = self.catalog.runs().end(&self.run, outcome, exit_code, message.as_deref(), Utc::now());
        for error in [tidied, written].into_iter().filter_map(Result::err) {
            self.progress.note(&format!("warning: {error:#}"));
        }
        let is_in_place = self.catalog.path() == catalog_path(&self.settings);
        if is_in_place {
            let is_asked_to_end = exit_code == Kind::Interrupted.exit_code();
            let place = Place {
                settings: &self.settings,
                catalog: &self.catalog,
                progress: &*self.progress,
                run: Some(&self.run),
                tells: !is_asked_to_end,
            };
            if let Err(error) = Box::pin(attend(place, Server::NotAsked)).await {
                self.progress.note(&format!("warning: look for what is to be alerted: {error:#}"));
            }
        }
        // One that is not in its place yet, and never will be, is nobody's history.
        // And what was refused may concern a place that is another's.
        let is_refused = exit_code == Kind::Refused.exit_code();
        if !is_refused && (result.is_ok() || is_in_place) {
            saved::save(&self, result.is_err()).await;
        }
        drop(self.backups);
        drop(self.lock);
        // Nobody else ever locks this file: the run's identifier is its own.
        let _ = durable::remove_file_if_there(&run_lock(&self.settings, &self.run));
        result
    }
}

/// Takes a lock of the run's own. Another run that clears up may hold it for a moment in order to remove it.
pub(super) fn take(path: &Path, holder: &str, run: &str) -> anyhow::Result<FileLock> {
    for _ in 0..LOOKS {
        match FileLock::attempt(path, holder)? {
            Attempt::Taken(lock) => return Ok(lock),
            Attempt::HeldBy(_) => std::thread::sleep(PAUSE),
        }
    }
    Fault::new(Kind::Bug, format!("two runs have the identifier {run}")).err()
}

/// What a run that had no turn has to report: there is no such thing.
#[derive(serde::Serialize)]
enum Never {}

impl Report for Never {
    fn shortfall(&self) -> Option<Kind> {
        match *self {}
    }
}

/// How often, and how long between, one looks whether a lock of one's own is free.
const LOOKS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(2);

const STATE_HINT: &str = "Set BACKUP_STATE_DIR to a directory that this user may write.";

/// Where the catalog lies.
pub(super) fn catalog_path(settings: &Settings) -> PathBuf {
    settings.state_dir.join("catalog.sqlite")
}

/// Where locks lie.
pub(super) fn locks(settings: &Settings) -> PathBuf {
    settings.state_dir.join("locks")
}

/// The lock that a run holds as long as it lives.
pub(super) fn run_lock(settings: &Settings, run: &RunId) -> PathBuf {
    locks(settings).join(format!("run-{run}.lock"))
}

/// A run's directory in the scratch directory.
pub(super) fn scratch_of(scratch: &Path, run: &RunId) -> PathBuf {
    scratch.join(format!("run-{run}"))
}

/// Where a run's volumes are written before a store takes them.
pub(super) fn staging_of(staging: &Path, run: &RunId) -> PathBuf {
    staging.join(format!("run-{run}"))
}

/// The keys of the settings as a ring.
pub(super) fn keyring(settings: &Settings) -> anyhow::Result<Keyring> {
    Ok(Keyring::parse(settings.keys()?.iter().map(crate::system::Secret::expose))?)
}
