//! `pgkeep test-restore`: a backup is brought to life in a place of its own, looked at, and dropped again.
//!
//! Everything is read from one store, each month from another, so that every store proves itself. Rooms: `choose` says
//! which backups, `database`, `tenant` and `cluster` bring one of each kind to life, `home` is where that happens,
//! `checks` looks at it, and here it is written down.

mod checks;
mod choose;
mod cluster;
mod database;
mod home;
mod tenant;
mod write_down;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use chrono::{Datelike as _, Utc};
use serde::Serialize;

use super::manifests::{self, Fetched};
use super::restore::Phase;
use super::volumes::Volumes;
use super::{Context, Environment, Interrupted, Report, judge};
use crate::catalog::BackupRow;
use crate::config::Settings;
use crate::format::manifest::Manifest;
use crate::model::{BackupId, BackupKind, Elapsed, Fault, Kind, StoreName, Timestamp, WalName};
use crate::pipeline::{RangeReader, Unpack, unpack};
use crate::plan::proof::store_of_month;
use crate::postgres::proof::Proven;
use crate::system::{Step, gentle, step};
use crate::target::directory::DirectoryTarget;

/// What to test.
#[derive(Debug, Clone, Default)]
pub struct TestRestoreRequest {
    /// `latest`, an identifier or the beginning of one; nothing: the newest of each kind.
    pub backup: Option<String>,
    /// Only backups of this database.
    pub database: Option<String>,
    /// Only backups of this tenant.
    pub tenant: Option<String>,
    /// A cluster as it was at this time; nothing: at the end of the archive.
    pub target_time: Option<Timestamp>,
    /// The store that is read; nothing: that of the month.
    pub store: Option<StoreName>,
    /// On a throwaway server, and not on the one in use.
    pub own_server: bool,
    /// How many tables and indexes are made, and tables counted, at the same time.
    pub jobs: Option<usize>,
}

/// How the tests went.
#[derive(Debug, Clone, Serialize)]
pub struct TestRestoreReport {
    /// The store that was read.
    pub store: StoreName,
    /// Why that one.
    pub chosen: &'static str,
    /// One by one.
    pub tests: Vec<Tested>,
    /// Duration in seconds.
    pub seconds: f64,
    /// What is not as it should be, of no test alone.
    pub warnings: Vec<String>,
}

/// How one test went.
#[derive(Debug, Clone, Serialize)]
pub struct Tested {
    /// The backup.
    pub backup: BackupId,
    /// What it is of.
    pub kind: BackupKind,
    /// The database that was backed up.
    pub database: Option<String>,
    /// The tenant that was backed up.
    pub tenant: Option<String>,
    /// Where it was brought to life.
    pub place: String,
    /// Where replay stopped; of a cluster.
    pub reached: Option<String>,
    /// Whether every check passed.
    pub passed: bool,
    /// Why it did not get as far as that.
    pub failure: Option<String>,
    /// What would mend that.
    pub hint: Option<String>,
    /// What was looked at.
    pub checks: Vec<Check>,
    /// How long what took.
    pub phases: Vec<Phase>,
    /// Bytes that were read from the store.
    pub bytes_fetched: u64,
    /// Segments of WAL that were replayed.
    pub wal_segments: u64,
    /// Duration in seconds.
    pub seconds: f64,
    /// What is not as it should be.
    pub warnings: Vec<String>,
    #[serde(skip)]
    kind_of_failure: Option<Kind>,
    #[serde(skip)]
    replayed: Vec<WalName>,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// What it counts.
    pub unit: &'static str,
    /// What came of it.
    #[serde(flatten)]
    pub proven: Proven,
}

impl Report for TestRestoreReport {
    fn shortfall(&self) -> Option<Kind> {
        let kinds = || self.tests.iter().filter_map(|test| test.kind_of_failure);
        let is_damaged = kinds().any(|kind| kind == Kind::Damaged);
        let warned = !self.warnings.is_empty() || self.tests.iter().any(|test| !test.warnings.is_empty());
        is_damaged
            .then_some(Kind::Damaged)
            .or_else(|| kinds().next())
            .or_else(|| warned.then_some(Kind::Incomplete))
    }
}

impl Tested {
    fn of(row: &BackupRow) -> Self {
        Self {
            backup: row.id.clone(),
            kind: row.kind,
            database: row.database.clone(),
            tenant: row.tenant_id.clone(),
            place: String::new(),
            reached: None,
            passed: false,
            failure: None,
            hint: None,
            checks: Vec::new(),
            phases: Vec::new(),
            bytes_fetched: 0,
            wal_segments: 0,
            seconds: 0.0,
            warnings: Vec::new(),
            kind_of_failure: None,
            replayed: Vec::new(),
        }
    }

    /// What was found, a sentence each.
    pub fn findings(&self) -> impl Iterator<Item = &String> {
        self.checks.iter().flat_map(|check| &check.proven.findings)
    }

    fn check(&mut self, name: &'static str, unit: &'static str, proven: Proven) {
        if let Some(why) = &proven.not_checked {
            self.warnings.push(format!("{name}: not checked: {why}"));
        }
        self.checks.push(Check { name, unit, proven });
    }

    /// The seconds of each part by its name.
    fn phases_by_name(&self) -> BTreeMap<&'static str, f64> {
        let mut sum: BTreeMap<&'static str, f64> = BTreeMap::new();
        for phase in &self.phases {
            *sum.entry(phase.name).or_default() += phase.seconds;
        }
        sum
    }
}

/// Settings, catalog and stores for it, of which one is read.
pub async fn open(
    environment: &Environment,
    words: &str,
    request: &TestRestoreRequest,
) -> anyhow::Result<Context> {
    let settings = Settings::load(&environment.inputs)?;
    settings.require_store()?;
    let now = Utc::now();
    let store = request.store.or_else(|| store_of_month(now.year(), now.month(), settings.stores()));
    let Some(store) = store.filter(|store| settings.stores().contains(store)) else {
        let known: Vec<&str> = settings.stores().iter().map(|name| name.as_str()).collect();
        return Fault::new(Kind::Usage, "a store that is not configured can't be read")
            .hint(format!("Those that are: {}.", known.join(", ")))
            .err();
    };
    Context::open(environment, words).await?.unlimited()?.only(store)
}

/// Tests one backup after the other. What stands in the way of one does not keep the others from being tested.
pub async fn run(context: &Context, request: &TestRestoreRequest) -> anyhow::Result<TestRestoreReport> {
    let clock = Instant::now();
    let _turn = context.turn("test-restore", "test a backup by restoring it").await?;
    let [store] = context.settings.stores() else {
        return Fault::new(Kind::Bug, "a test restore reads one store").err();
    };
    gentle::step_back();
    let (rows, warnings) = choose::backups(context, request, *store)?;
    let alone = rows.len() == 1;
    let mut report = TestRestoreReport {
        store: *store,
        chosen: if request.store.is_some() { "asked for" } else { "its month" },
        tests: Vec::new(),
        seconds: 0.0,
        warnings,
    };
    for row in rows {
        let begun = Instant::now();
        let mut tested = Tested::of(&row);
        context.progress.detail(&format!("test {} out of {store}", row.id));
        let entry = write_down::begin(context, request, *store, &row)?;
        let test = Test { context, request, store: *store, row: &row, entry };
        let result = Box::pin(test.carry_out(&mut tested)).await;
        tested.seconds = begun.elapsed().as_secs_f64();
        let result = write_down::end(&test, &mut tested, result);
        match result {
            Ok(()) => {}
            Err(error) if alone || error.downcast_ref::<Interrupted>().is_some() => return Err(error),
            Err(error) => {
                let verdict = judge(&error);
                context.progress.note(&format!("warning: {}", verdict.message));
                tested.kind_of_failure =
                    Kind::ALL.into_iter().find(|kind| kind.exit_code() == verdict.exit_code);
                (tested.failure, tested.hint) = (Some(verdict.message), verdict.hint);
            }
        }
        report.tests.push(tested);
    }
    report.seconds = clock.elapsed().as_secs_f64();
    Ok(report)
}

/// One backup that is tested.
struct Test<'a> {
    context: &'a Context,
    request: &'a TestRestoreRequest,
    store: StoreName,
    row: &'a BackupRow,
    /// Its row in the log.
    entry: i64,
}

impl Test<'_> {
    async fn carry_out(&self, tested: &mut Tested) -> anyhow::Result<()> {
        step::reached(Step::TestRestoreBegun)?;
        match self.row.kind {
            BackupKind::Database => self.database(tested).await,
            BackupKind::Tenant => self.tenant(tested).await,
            BackupKind::Cluster => self.cluster(tested).await,
            BackupKind::Config => {
                Fault::new(Kind::Usage, format!("{} holds no rows that could be tested", self.row.id)).err()
            }
        }
    }

    fn jobs(&self) -> usize {
        self.request.jobs.unwrap_or(self.context.settings.jobs)
    }

    /// The manifest out of the one store.
    async fn manifest(&self, tested: &mut Tested) -> anyhow::Result<Arc<Manifest>> {
        let keyring = self.context.keyring()?;
        let stores = self.context.reading();
        let Fetched { manifest, object, bad } =
            manifests::fetch(&self.context.settings, stores, &self.row.id, &keyring).await?;
        tested.warnings.extend(manifests::mark(self.context, &self.row.id, &bad)?);
        tested.bytes_fetched += object.len() as u64;
        Ok(Arc::new(manifest))
    }

    /// Unpacks all of it into the scratch directory.
    async fn unpack(
        &self,
        manifest: &Arc<Manifest>,
        tested: &mut Tested,
    ) -> anyhow::Result<std::path::PathBuf> {
        let context = self.context;
        let directory = context.scratch()?.join(format!("test-{}", self.row.id));
        let sink = DirectoryTarget::create(directory.clone(), Arc::clone(manifest))?;
        let request = Unpack {
            entries: (0..manifest.entries.len()).collect(),
            stage: context.progress.bytes("unpack", manifest.original_size),
            manifest: Arc::clone(manifest),
        };
        let reader = Arc::new(Volumes::in_all_stores(context, &self.row.id)?);
        let volumes = Arc::clone(&reader) as Arc<dyn RangeReader>;
        let unpacked = unpack(request, volumes, sink, context.stop.clone()).await;
        // Marked also when the copy was not good enough in the end.
        tested.warnings.extend(manifests::mark(context, &self.row.id, &reader.bad())?);
        unpacked?;
        tested.bytes_fetched += manifest.stored_size;
        step::reached(Step::TestRestoreUnpacked)?;
        Ok(directory)
    }
}

/// Measures one part after the other.
struct Laps<'a> {
    context: &'a Context,
    since: Instant,
}

impl<'a> Laps<'a> {
    fn begin(context: &'a Context) -> Self {
        Self { context, since: Instant::now() }
    }

    fn lap(&mut self, tested: &mut Tested, name: &'static str) {
        let took = self.since.elapsed();
        self.context.progress.detail(&format!("{name}: {}", Elapsed(took)));
        tested.phases.push(Phase { name, seconds: took.as_secs_f64() });
        self.since = Instant::now();
    }
}
