//! `pgkeep catalog rebuild` and `pgkeep catalog check`: the index, made anew out of the stores, or looked over.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chrono::Utc;
use futures_util::future::join_all;
use futures_util::stream::{self, StreamExt as _};
use serde::{Serialize, Serializer};

use super::archive::fetch::Fetcher;
use super::archive::{inventory, unheard};
use super::cleanup::explained;
use super::context::{self, catalog_path};
use super::listing::{self, Listings};
use super::manifests::{self, Fetched, Held, Stored};
use super::saved::History;
use super::{Context, Environment, Report, Shelf, saved, stores, wishes};
use crate::catalog::{BackupStatus, Catalog, ListedWal, Taken};
use crate::config::Settings;
use crate::format::keyring::Keyring;
use crate::format::names;
use crate::model::{BackupId, BackupKind, Fault, FaultContext, Kind, StoreName, WalKind};
use crate::store::{ObjectInfo, StoreError};
use crate::system::lock::{Attempt, FileLock};
use crate::system::{Step, durable, step};

/// How many manifests are fetched at the same time.
const AT_ONCE: usize = 8;

/// What a rebuild took in.
#[derive(Debug, Serialize)]
pub struct RebuildReport {
    /// Backups that the catalog did not know.
    pub added: Vec<BackupId>,
    /// Backups that it knew already.
    pub known: u64,
    /// WAL files that it knows now.
    pub wal_files: u64,
    /// What was learned from saved catalogs.
    pub history: Taken,
    /// Backups that could not be taken in, oldest first; why stands among the warnings too.
    #[serde(serialize_with = "ids")]
    pub unreadable: Vec<(BackupId, anyhow::Error)>,
    /// What could not be taken in, and why.
    pub warnings: Vec<String>,
}

impl Report for RebuildReport {
    fn shortfall(&self) -> Option<Kind> {
        (!self.warnings.is_empty()).then_some(Kind::Incomplete)
    }
}

impl RebuildReport {
    fn leave(&mut self, id: BackupId, why: anyhow::Error) {
        self.warnings.push(format!("{why:#}"));
        self.unreadable.push((id, why));
    }
}

fn ids<S: Serializer>(pairs: &[(BackupId, anyhow::Error)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(pairs.iter().map(|(id, _)| id))
}

/// What the check of the catalog found.
#[derive(Debug, Clone, Serialize)]
pub struct CheckReport {
    /// What is wrong; empty is good.
    pub findings: Vec<String>,
}

impl Report for CheckReport {
    fn shortfall(&self) -> Option<Kind> {
        (!self.findings.is_empty()).then_some(Kind::Damaged)
    }
}

/// Makes the catalog if there is none, and takes in every backup of the stores that it does not know.
pub async fn rebuild(environment: &Environment) -> anyhow::Result<RebuildReport> {
    rebuild_if(environment, |_| Ok(())).await
}

/// The same; a new catalog comes to be only if `accept` does not object to what it holds.
///
/// It is made beside its place and renamed: who is cut off leaves none, and the next try begins anew.
async fn rebuild_if(
    environment: &Environment,
    accept: impl FnOnce(&RebuildReport) -> anyhow::Result<()>,
) -> anyhow::Result<RebuildReport> {
    let settings = Settings::load(&environment.inputs)?;
    settings.keys()?;
    let locks = context::locks(&settings);
    durable::create_private_dir(&locks)
        .or_fault(|| Fault::new(Kind::Store, "make the state directory").hint("Set BACKUP_STATE_DIR."))?;
    let path = catalog_path(&settings);
    if !matches!(path.try_exists(), Ok(false)) {
        let catalog = Catalog::create(&path)?;
        let context = Context::with(environment, "catalog rebuild", settings, catalog)?.unlimited()?;
        let result = take_in(&context).await;
        return context.conclude(result).await;
    }
    let _turn = turn(&locks)?;
    let beside = unfinished(&path);
    remove(&beside)?;
    let catalog = Catalog::create(&beside)?;
    let context = Context::with(environment, "catalog rebuild", settings, catalog)?.unlimited()?;
    let result = take_in(&context).await.and_then(|report| accept(&report).map(|()| report));
    let result = context.conclude(result).await.and_then(|report| {
        // The last connection has closed: there is no log beside the file any more. Another process may have made a
        // catalog meanwhile (`pgkeep init`): that one stays.
        step::reached(Step::RebuildFilled)?;
        anyhow::ensure!(!sidecar(&beside, "-wal").exists(), "{} is still in use", beside.display());
        // A file system without links has the same in one step, without that check.
        std::fs::hard_link(&beside, &path)
            .or_else(|error| if path.exists() { Err(error) } else { std::fs::rename(&beside, &path) })
            .with_context(|| format!("make {}", path.display()))?;
        durable::sync_parent(&path)?;
        Ok(report)
    });
    remove(&beside)?;
    result
}

/// Only one may make the catalog at a time.
fn turn(locks: &Path) -> anyhow::Result<FileLock> {
    match FileLock::attempt(&locks.join("catalog.lock"), &format!("process {}", std::process::id()))? {
        Attempt::Taken(lock) => Ok(lock),
        Attempt::HeldBy(other) => {
            Fault::new(Kind::Locked, format!("make the catalog: another run is at it: {other}"))
                .hint("Wait for it to end, then run this again.")
                .err()
        }
    }
}

fn unfinished(path: &Path) -> PathBuf {
    sidecar(path, durable::UNFINISHED)
}

/// A file that lies beside another one, with a longer name.
fn sidecar(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn remove(catalog: &Path) -> anyhow::Result<()> {
    for ending in ["", "-wal", "-shm", "-journal"] {
        durable::remove_file_if_there(&sidecar(catalog, ending))?;
    }
    Ok(())
}

/// The backup as the operator named it.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// `latest`, an identifier or the beginning of one.
    pub backup: &'a str,
    /// What `latest` means.
    pub kind: BackupKind,
}

/// Opens the context of a restore. On a machine without a catalog, such as one that takes the place of another, the
/// catalog is made out of the stores first, if `agree` does not object.
pub async fn context_for_restore(
    environment: &Environment,
    words: &str,
    wanted: Wanted<'_>,
    agree: impl FnOnce(&str) -> anyhow::Result<()>,
) -> anyhow::Result<Context> {
    let settings = Settings::load(&environment.inputs)?;
    let path = catalog_path(&settings);
    // Where no store knows the cluster there is nothing to make it of, and nothing is made.
    let identity = names::identity(&settings.cluster);
    if matches!(path.try_exists(), Ok(false))
        && stores::replicas(&settings)?.reading().get_small(&identity).await?.is_some()
    {
        agree(&format!("there is no catalog at {}", path.display()))?;
        let report = rebuild_if(environment, |report| refuse_older(report, wanted)).await?;
        for warning in &report.warnings {
            environment.progress.note(&format!("warning: {warning}"));
        }
        let found = report.added.len();
        environment.progress.note(&format!("made the catalog out of the stores: {found} backups"));
    }
    Context::open(environment, words).await?.unlimited()
}

/// `latest` must not become an older backup without a word because the newest can't be read.
fn refuse_older(report: &RebuildReport, wanted: Wanted<'_>) -> anyhow::Result<()> {
    let is_of_this_kind = |id: &BackupId| id.kind() == wanted.kind;
    let newest = report.added.iter().rfind(|id| is_of_this_kind(id));
    let is_newer = |id: &BackupId| is_of_this_kind(id) && newest.is_none_or(|newest| id > newest);
    let newer = report.unreadable.iter().rfind(|(id, _)| is_newer(id));
    match newer {
        Some((id, why)) if wanted.backup == "latest" => {
            let kind = why.downcast_ref::<Fault>().map_or(Kind::Damaged, |fault| fault.kind);
            let hint = match newest {
                Some(newest) => format!(
                    "To restore an older one, name it: {newest} is the newest that can be read (`pgkeep catalog \
                     rebuild` and `pgkeep list` show all)."
                ),
                None => "No backup can be read; see that key and stores are the right ones.".to_owned(),
            };
            Fault::new(kind, format!("the newest backup, {id}, can't be read: {why:#}")).hint(hint).err()
        }
        _ => Ok(()),
    }
}

async fn take_in(context: &Context) -> anyhow::Result<RebuildReport> {
    let keyring = context.keyring()?;
    manifests::refuse_absent_stores(context).await?;
    let mut report = RebuildReport {
        added: Vec::new(),
        known: 0,
        wal_files: 0,
        history: Taken::default(),
        unreadable: Vec::new(),
        warnings: Vec::new(),
    };
    let listings = context.stop.or(async { Ok(listing::take(context, None).await) }).await?;
    report.warnings.extend(listings.failed.iter().map(ToString::to_string));
    take_in_backups(context, &keyring, &listings, &mut report).await?;
    take_in_wal(context, &mut report).await?;
    // Before saved catalogs, by which what is to be kept may have been deleted.
    let learned = wishes::take_in(context).await?;
    report.warnings.extend(learned.warnings);
    let is_new = |failed: &&StoreError| listings.listed.contains_key(&failed.store);
    report.warnings.extend(learned.failed.iter().filter(is_new).map(ToString::to_string));
    let History { taken, missing, warnings } = saved::take_history(context, &keyring).await?;
    report.history = taken;
    // What another catalog says was deleted is not taken in: `cleanup` deletes what a store that was away still has.
    let known = context.catalog.backups();
    for id in std::mem::take(&mut report.added) {
        if known.get(&id)?.is_some_and(|row| row.status == BackupStatus::Complete) {
            report.added.push(id);
        }
    }
    if listings.failed.is_empty() && unheard::stores(&context.settings, &context.catalog)?.is_empty() {
        explained::write_down(context)?;
    }
    report.warnings.extend(warnings);
    let unread: BTreeSet<BackupId> = report.unreadable.iter().map(|(id, _)| id.clone()).collect();
    for id in missing.difference(&unread).cloned() {
        let why =
            format!("{id}: a saved catalog knows it as complete, and no place that could be asked has it");
        report.leave(id, Fault::new(Kind::Store, why).into());
    }
    report.unreadable.sort_by(|(left, _), (right, _)| left.cmp(right));
    report.warnings.sort();
    report.warnings.dedup();
    Ok(report)
}

async fn take_in_backups(
    context: &Context,
    keyring: &Keyring,
    listings: &Listings,
    report: &mut RebuildReport,
) -> anyhow::Result<()> {
    let mut unknown: BTreeSet<BackupId> = BTreeSet::new();
    for (id, objects) in listings.listed.values().flatten() {
        if objects.contains_key(names::MANIFEST) {
            unknown.insert(id.clone());
        }
    }
    for id in unknown.clone() {
        if context.catalog.backups().get(&id)?.is_some() {
            report.known += 1;
            unknown.remove(&id);
        }
    }
    // One whose run is alive writes its own rows when the last store has it.
    for run in context.catalog.runs().unfinished()? {
        if FileLock::is_held(&context::run_lock(&context.settings, &run.id))? {
            unknown.retain(|id| !run.backups().any(|own| own == *id));
        }
    }
    let stage = context.progress.rows("manifests", unknown.len() as u64);
    let mut fetching =
        stream::iter(unknown)
            .map(|id| async move {
                (manifests::fetch(&context.settings, context.reading(), &id, keyring).await, id)
            })
            .buffered(AT_ONCE);
    while let Some((fetched, id)) = context.stop.or(async { Ok(fetching.next().await) }).await? {
        stage.add(1);
        match fetched {
            Err(error) => report.leave(id, error),
            Ok(fetched) => match known_of(context, &fetched, listings) {
                // Each volume in one store or another is enough: reading changes over, and `sync` makes it whole.
                held if manifests::is_covered(&fetched.manifest, &held) => {
                    let Fetched { manifest, object, bad } = &fetched;
                    manifests::record(context, &Stored { manifest, object, held: &held }, None)?;
                    report.warnings.extend(manifests::mark(context, &id, bad)?);
                    report.added.push(id);
                }
                _ => {
                    let why = format!("{id}: no store has all of its volumes");
                    report.leave(id, Fault::new(Kind::Damaged, why).into());
                }
            },
        }
    }
    Ok(())
}

/// The names of WAL files say all that the catalog wants to know of them; only the histories of timelines, some lines each,
/// are downloaded.
async fn take_in_wal(context: &Context, report: &mut RebuildReport) -> anyhow::Result<()> {
    let cluster = &context.settings.cluster;
    let prefix = names::wal(cluster);
    let mut histories = BTreeSet::new();
    let (mut heard, mut silent) = (Vec::new(), Vec::new());
    let stores: Vec<_> = context.reading().each().collect();
    let lists = async { Ok(join_all(stores.iter().map(|store| store.list(&prefix))).await) };
    for (store, objects) in stores.iter().zip(context.stop.or(lists).await?) {
        let objects = match objects {
            Ok(objects) => objects,
            Err(error) => {
                context.reading().failed(&error);
                report.warnings.push(error.to_string());
                silent.push((store.name(), error.to_string()));
                continue;
            }
        };
        let file = |info: ObjectInfo| {
            let (file, content_sha256) = names::parse_wal(cluster, &info.key)?;
            let (store, size_bytes, stored_at) = (store.name(), info.size, info.modified);
            Some(ListedWal { file, content_sha256, store, size_bytes, stored_at })
        };
        let files: Vec<ListedWal> = objects.into_iter().filter_map(file).collect();
        let of_timelines = files.iter().filter(|it| it.file.kind() == WalKind::History);
        histories.extend(of_timelines.map(|it| it.file.clone()));
        context.catalog.wal().record_listed(&files, Utc::now())?;
        heard.push(store.name());
    }
    unheard::note(context, &heard, &silent)?;
    report.wal_files = context.catalog.wal().count()?;
    if !histories.is_empty() {
        let fetcher = Fetcher::open(context.settings.clone())?;
        let (_, unread) = context.stop.or(inventory::learn(context, &fetcher, histories)).await?;
        report.warnings.extend(unread);
    }
    Ok(())
}

/// What each store that was listed has of the backup.
fn known_of(context: &Context, fetched: &Fetched, listings: &Listings) -> Vec<Held> {
    let manifest = &fetched.manifest;
    let of = |store: &StoreName| {
        let objects = listings.listed.get(store)?.get(&manifest.id);
        let sizes = objects.into_iter().flatten().map(|(name, info)| (name.as_str(), info.size));
        Some(Held::of(*store, manifest, fetched.object.len() as u64, sizes))
    };
    let stores: Vec<StoreName> = context.reading().each().map(|store| store.name()).collect();
    stores.iter().filter_map(of).collect()
}

/// Checks the catalog's own integrity.
pub fn check(shelf: &Shelf) -> anyhow::Result<CheckReport> {
    Ok(CheckReport { findings: shelf.catalog.check()? })
}
