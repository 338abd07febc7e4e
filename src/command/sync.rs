//! `pgkeep sync`: the copies that a store missed, lost or damaged, made from a good one.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use chrono::{Duration, Utc};
use serde::Serialize;

use super::archive::owed::{self, WalSync};
use super::context::staging_of;
use super::listing::{self, Listings};
use super::manifests;
use super::stores::{self, Absent, Presence};
use super::volumes::BadCopy;
use super::{Context, Report};
use crate::catalog::{CopyKey, CopyRow, CopyState, Proof};
use crate::format::names;
use crate::model::{BackupId, Fault, FaultContext, Kind, Stage, StoreName};
use crate::pipeline::read_hashed;
use crate::plan::copies::{CopyPlan, Object, Order, plan};
use crate::store::{Placed, Placing, ReadStore, StoreError};
use crate::system::{Step, durable, step};

/// How often it is looked again when copies turned out to be damaged on the way.
const PASSES: usize = 3;
/// An upload that was begun this long ago and not ended was forgotten: hours.
const FORGOTTEN: i64 = 24;

/// What to do.
#[derive(Debug, Clone, Copy)]
pub struct SyncRequest {
    /// Only say what would be done.
    pub dry_run: bool,
    /// How long to wait for the turn at most; without it as `--wait` says.
    pub wait: Option<std::time::Duration>,
}

/// A copy that was made, or would be.
#[derive(Debug, Clone, Serialize)]
pub struct SyncedCopy {
    /// The backup.
    pub backup: BackupId,
    /// The object within the backup.
    pub object: String,
    /// Its size.
    pub size_bytes: u64,
    /// The store that got it.
    pub store: StoreName,
}

/// A copy that was not made, or an object of which there is no good copy.
#[derive(Debug, Clone, Serialize)]
pub struct Unmade {
    /// The backup.
    pub backup: BackupId,
    /// The object within the backup.
    pub object: String,
    /// The stores that lack it.
    pub stores: Vec<StoreName>,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct SyncReport {
    /// Whether nothing was done.
    pub dry_run: bool,
    /// Copies made, or that would be made.
    pub copies: Vec<SyncedCopy>,
    /// Their bytes.
    pub bytes: u64,
    /// Copies that are still owed: a store is away.
    pub waiting: Vec<Unmade>,
    /// Objects of which no store holds a good copy.
    pub lost: Vec<Unmade>,
    /// What became of the WAL.
    pub wal: WalSync,
    /// Uploads that were begun a day ago or more and are now given up.
    pub uploads_aborted: u64,
    /// What is not as it should be.
    pub warnings: Vec<String>,
    /// Duration in seconds.
    pub seconds: f64,
}

impl Report for SyncReport {
    fn shortfall(&self) -> Option<Kind> {
        if !self.lost.is_empty() || !self.wal.lost.is_empty() {
            Some(Kind::Damaged)
        } else if !self.warnings.is_empty()
            || (!self.dry_run && (!self.waiting.is_empty() || self.wal.waiting > 0))
        {
            Some(Kind::Incomplete)
        } else {
            None
        }
    }
}

/// Lists every store once, decides, and copies.
pub async fn run(context: &Context, request: SyncRequest) -> anyhow::Result<SyncReport> {
    // To show what would be done nobody has to wait.
    let _turn = if request.dry_run {
        None
    } else {
        let wait = request.wait.unwrap_or(std::time::Duration::MAX);
        Some(context.turn_within(wait, "sync", "make copies").await?)
    };
    let clock = Instant::now();
    let presence = context.stop.or(stores::presence(context)).await?;
    let mut report = SyncReport {
        dry_run: request.dry_run,
        copies: Vec::new(),
        bytes: 0,
        waiting: Vec::new(),
        lost: Vec::new(),
        wal: WalSync::default(),
        uploads_aborted: 0,
        warnings: Vec::new(),
        seconds: 0.0,
    };
    report
        .warnings
        .extend(presence.absent.iter().map(|Absent { store, why }| format!("store {store} is away: {why}")));
    let mut listings = context.stop.or(async { Ok(listing::take(context, None).await) }).await?;
    // An empty directory in which a disk should be mounted lists nothing, and says nothing about what is on the disk.
    listings.listed.retain(|store, _| presence.names().contains(store));
    let local = presence.present.iter().find(|store| store.name() == StoreName::Local);
    if let Some(local) = local
        && let Err(away) = stores::still_there(&context.settings.cluster, &**local).await
    {
        // Unmounted while it was listed.
        listings.listed.remove(&StoreName::Local);
        report.warnings.push(away.to_string());
    }
    report.warnings.extend(unknown(context, &listings)?);
    for _ in 0..PASSES {
        let rows = listing::reconcile(context, &listings)?;
        let CopyPlan { orders, lost, waiting } = decide(context, &presence, rows);
        report.lost = lost.into_iter().map(unmade).collect();
        report.waiting = waiting.into_iter().map(unmade).collect();
        if request.dry_run || orders.is_empty() {
            report.copies.extend(orders.iter().flat_map(copies_of));
            break;
        }
        let syncing = Syncing { context, presence: &presence };
        let found_damage = syncing.carry_out(&orders, &mut listings, &mut report).await?;
        if !found_damage {
            break;
        }
    }
    let spool = context.replicas.staging().last().context("no staging directory")?;
    let spool = staging_of(spool, &context.run);
    let wal = owed::make_copies(context, &presence, &spool, request.dry_run, &mut report.warnings).await;
    durable::remove_dir_if_there(&spool)?;
    report.wal = wal?;
    listing::note_usage(context, &listings, &report.wal.held)?;
    if !request.dry_run {
        // What could not be done after all is told as well.
        let CopyPlan { orders, lost, waiting } =
            decide(context, &presence, listing::reconcile(context, &listings)?);
        report.lost = lost.into_iter().map(unmade).collect();
        let mut waiting: Vec<Object> =
            waiting.into_iter().chain(orders.into_iter().map(|order| order.object)).collect();
        waiting.sort_by(|left, right| (&left.backup, &left.name).cmp(&(&right.backup, &right.name)));
        waiting.dedup_by(|left, right| left.backup == right.backup && left.name == right.name);
        report.waiting = waiting.into_iter().map(unmade).collect();
        report.uploads_aborted = forgotten_uploads(context, &presence, &mut report.warnings).await;
    }
    report.bytes = report.copies.iter().map(|copy| copy.size_bytes).sum();
    report.seconds = clock.elapsed().as_secs_f64();
    Ok(report)
}

/// Backups that lie in a store and that the catalog does not know can't be copied: nothing is known of them.
fn unknown(context: &Context, listings: &Listings) -> anyhow::Result<Vec<String>> {
    let mut warnings = BTreeSet::new();
    let being_made = listing::being_made(context)?;
    for (store, objects) in &listings.listed {
        for (id, objects) in objects.iter().filter(|(id, _)| !being_made.contains(id.as_str())) {
            if objects.contains_key(names::MANIFEST) && context.catalog.backups().get(id)?.is_none() {
                warnings.insert(format!(
                    "{id} in store {store} is not in the catalog: `pgkeep catalog rebuild` takes it in"
                ));
            }
        }
    }
    Ok(warnings.into_iter().collect())
}

/// A store that the settings no longer name is one that can't be read: what only it has is not lost.
fn decide(context: &Context, presence: &Presence, rows: Vec<CopyRow>) -> CopyPlan {
    let order: Vec<StoreName> = context.reading().each().map(|store| store.name()).collect();
    let mut objects: BTreeMap<(BackupId, String), Object> = BTreeMap::new();
    for row in rows {
        let key = (row.backup_id.clone(), row.object.clone());
        let object = objects.entry(key).or_insert_with(|| Object {
            backup: row.backup_id,
            name: row.object,
            size: row.size_bytes,
            sha256: row.sha256,
            good: Vec::new(),
            lacking: Vec::new(),
        });
        match row.state {
            CopyState::Good => {
                // Manifests that were sealed anew while a store was away differ there: one of the two is copied.
                if object.good.is_empty() {
                    (object.size, object.sha256) = (row.size_bytes, row.sha256);
                }
                if object.sha256 == row.sha256 {
                    object.good.push(row.store);
                }
            }
            CopyState::Owed | CopyState::Missing | CopyState::Damaged if order.contains(&row.store) => {
                object.lacking.push(row.store);
            }
            _ => {}
        }
    }
    let rank = |store: &StoreName| {
        // What lies on this machine costs nothing to read.
        (*store != StoreName::Local, order.iter().position(|other| other == store))
    };
    let mut objects: Vec<Object> = objects.into_values().collect();
    for object in &mut objects {
        object.good.sort_by_key(rank);
    }
    plan(objects, &presence.names(), names::MANIFEST)
}

fn unmade(object: Object) -> Unmade {
    Unmade { backup: object.backup, object: object.name, stores: object.lacking }
}

fn copies_of(order: &Order) -> impl Iterator<Item = SyncedCopy> {
    let Order { object, to } = order;
    to.iter().map(|store| SyncedCopy {
        backup: object.backup.clone(),
        object: object.name.clone(),
        size_bytes: object.size,
        store: *store,
    })
}

/// A forgotten upload is stored, and paid for, and not listed.
async fn forgotten_uploads(context: &Context, presence: &Presence, warnings: &mut Vec<String>) -> u64 {
    let before = Utc::now() - Duration::hours(FORGOTTEN);
    let prefix = format!("{}/", context.settings.cluster);
    let mut aborted = 0;
    for store in &presence.present {
        match store.abort_unfinished(&prefix, before).await {
            Ok(count) => aborted += count,
            Err(error) => warnings.push(format!("look for forgotten uploads: {error}")),
        }
    }
    aborted
}

struct Syncing<'a> {
    context: &'a Context,
    presence: &'a Presence,
}

/// An object that was read from a good copy, and where its bytes now lie.
enum Source {
    /// In the local store.
    Local(PathBuf),
    /// In the spool, for this copying only.
    Spooled(PathBuf),
}

impl Syncing<'_> {
    /// Makes the copies; true when a source turned out to be damaged, so that there is more to do than was planned.
    async fn carry_out(
        &self,
        orders: &[Order],
        listings: &mut Listings,
        report: &mut SyncReport,
    ) -> anyhow::Result<bool> {
        let context = self.context;
        let directory = self.staging()?;
        let bytes = |order: &Order| order.object.size * order.to.len() as u64;
        let sent = Arc::new(context.progress.bytes("copy", orders.iter().map(bytes).sum()));
        let mut placing = Placing::begin(&self.presence.present, &sent);
        let mut damage = false;
        // Backups of which an object could not be read: their manifest is not copied in this pass.
        let mut broken: BTreeSet<&BackupId> = BTreeSet::new();
        let mut result = Ok(());
        for Order { object, to } in orders {
            let to: Vec<StoreName> = to.iter().copied().filter(|store| placing.takes(*store)).collect();
            if to.is_empty() || (object.name == names::MANIFEST && broken.contains(&object.backup)) {
                continue;
            }
            let read = context.stop.or(self.read(object, &directory, listings, &mut damage)).await;
            let key = names::object(&context.settings.cluster, &object.backup, &object.name);
            let wanted = to;
            let to = |store| wanted.contains(&store);
            result = match read {
                Ok(Some(Source::Local(path))) => {
                    placing.forward(&key, path, object.size, to);
                    Ok(())
                }
                Ok(Some(Source::Spooled(path))) => {
                    let placed = context.stop.or(placing.place(&key, path, object.size, to)).await;
                    // A store that takes nothing any more is no reason to keep the others waiting.
                    placed.or_else(|error| {
                        if wanted.iter().any(|store| placing.takes(*store)) { Err(error) } else { Ok(()) }
                    })
                }
                Ok(None) => {
                    broken.insert(&object.backup);
                    Ok(())
                }
                Err(error) if context.stop.is_requested() => Err(error),
                // A full disk here must not keep the clouds from what they are owed out of the local store.
                Err(error) => {
                    report.warnings.push(format!("copy {} of {}: {error:#}", object.name, object.backup));
                    broken.insert(&object.backup);
                    Ok(())
                }
            };
            if result.is_err() {
                break;
            }
        }
        let placed = placing.finish(&context.stop).await;
        let overwritten = self.overwritten(&placed, orders, listings);
        let written = self.write_down(&placed, orders, listings, report);
        if written.is_ok() {
            self.delete_old_versions(&overwritten, report).await;
        }
        durable::remove_dir_if_there(&directory)?;
        written?;
        result?;
        context.stop.check()?;
        Ok(damage)
    }

    /// Where objects lie on their way: on the local store's file system when that is there.
    fn staging(&self) -> anyhow::Result<PathBuf> {
        let has_local = self.presence.names().contains(&StoreName::Local);
        let staging = self.context.replicas.staging();
        let directory = if has_local { staging.first() } else { staging.last() };
        let directory = staging_of(directory.context("no staging directory")?, &self.context.run);
        durable::create_private_dir(&directory).or_fault(|| {
            Fault::new(Kind::Store, "make the staging directory").hint(super::check::LOCAL_HINT)
        })?;
        Ok(directory)
    }

    /// Reads the object from the first copy whose SHA-256 is right; `None` when there is none.
    async fn read(
        &self,
        object: &Object,
        directory: &Path,
        listings: &mut Listings,
        damage: &mut bool,
    ) -> anyhow::Result<Option<Source>> {
        let context = self.context;
        let key = names::object(&context.settings.cluster, &object.backup, &object.name);
        for name in &object.good {
            let Some(store) = self.presence.present.iter().find(|store| store.name() == *name) else {
                continue;
            };
            let spooled = (*name != StoreName::Local)
                .then(|| directory.join(format!("{}-{}", object.backup, object.name)));
            let stage = Stage::new(object.size);
            let reading: Arc<dyn ReadStore> = Arc::clone(store) as Arc<dyn ReadStore>;
            // What another copy that was no good has left there.
            if let Some(path) = &spooled {
                durable::remove_file_if_there(path)?;
            }
            let wrong = match self.hash(&*reading, &key, object, spooled.as_deref(), &stage).await? {
                Ok(()) => {
                    let local = || PathBuf::from(store.locate(&key));
                    return Ok(Some(spooled.map_or_else(|| Source::Local(local()), Source::Spooled)));
                }
                Err(wrong) => wrong,
            };
            if let Some(wrong) = wrong {
                *damage = true;
                if wrong.state == CopyState::Missing {
                    listings.gone(wrong.store, &object.backup, &object.name);
                }
                report_damage(context, object, &wrong)?;
            }
        }
        Ok(None)
    }

    /// Compares the SHA-256 and writes what was read into a file, if one is named. The inner error is what is wrong
    /// with the copy; nothing when it is the store that failed.
    async fn hash(
        &self,
        store: &dyn ReadStore,
        key: &str,
        object: &Object,
        into: Option<&Path>,
        stage: &Stage,
    ) -> anyhow::Result<Result<(), Option<BadCopy>>> {
        let found = read_hashed(object.size, into, stage, async |offset, length| {
            store.get(key, offset, length).await
        });
        Ok(match found.await? {
            Ok(sha256) if sha256 == object.sha256 => Ok(()),
            Ok(sha256) => Err(Some(BadCopy {
                store: store.name(),
                object: object.name.clone(),
                state: CopyState::Damaged,
                why: format!("its SHA-256 is {sha256}, it was stored with {}", object.sha256),
            })),
            Err(error) => {
                self.context.reading().failed(&error);
                let bad = BadCopy::of(&object.name, &error);
                let cluster = &self.context.settings.cluster;
                // A disk that was unmounted meanwhile says nothing of its copies.
                if bad.is_some()
                    && let Err(away) = stores::still_there(cluster, store).await
                {
                    self.context.reading().failed(&away);
                    return Ok(Err(None));
                }
                Err(bad)
            }
        })
    }

    /// Writes down which copies there are now, and which stores have a backup whole.
    fn write_down(
        &self,
        placed: &[Placed],
        orders: &[Order],
        listings: &mut Listings,
        report: &mut SyncReport,
    ) -> anyhow::Result<()> {
        let context = self.context;
        step::reached(Step::SyncCopied)?;
        let keys: HashMap<String, &Object> = orders
            .iter()
            .map(|Order { object, .. }| {
                (names::object(&context.settings.cluster, &object.backup, &object.name), object)
            })
            .collect();
        let (mut made, mut became) = (Vec::new(), Vec::new());
        for Placed { store, keys: done, error } in placed {
            for object in done.iter().filter_map(|key| keys.get(key)) {
                made.push(CopyKey {
                    backup_id: object.backup.clone(),
                    object: object.name.clone(),
                    store: *store,
                });
                became.extend(made.last().cloned().map(|key| (key, object.size, object.sha256)));
                listings.made(*store, object.backup.clone(), object.name.clone(), object.size);
                report.copies.push(SyncedCopy {
                    backup: object.backup.clone(),
                    object: object.name.clone(),
                    size_bytes: object.size,
                    store: *store,
                });
            }
            report.warnings.extend(error.as_ref().map(StoreError::to_string));
        }
        context.catalog.copies().became(&became)?;
        context.catalog.copies().prove(&made, Proof::Written, Utc::now())?;
        Ok(())
    }

    /// Of what was placed, that which lay there before.
    fn overwritten(
        &self,
        placed: &[Placed],
        orders: &[Order],
        listings: &Listings,
    ) -> Vec<(StoreName, String)> {
        let mut found = Vec::new();
        for Placed { store, keys, .. } in placed {
            let Some(listed) = listings.listed.get(store) else { continue };
            let placed: HashSet<&String> = keys.iter().collect();
            for Order { object, .. } in orders {
                let key = names::object(&self.context.settings.cluster, &object.backup, &object.name);
                let was_there = listed.get(&object.backup).is_some_and(|it| it.contains_key(&object.name));
                if was_there && placed.contains(&key) {
                    found.push((*store, key));
                }
            }
        }
        found
    }

    /// What was written over stays as an older version where a store keeps such, and is paid for.
    async fn delete_old_versions(&self, replaced: &[(StoreName, String)], report: &mut SyncReport) {
        for (store, key) in replaced {
            let Some(store) = self.context.replicas.get(*store) else { continue };
            if let Err(error) = store.delete_old_versions(key).await {
                report.warnings.push(format!("delete what was damaged: {error}"));
            }
        }
    }
}

fn report_damage(context: &Context, object: &Object, wrong: &BadCopy) -> anyhow::Result<()> {
    for said in manifests::mark(context, &object.backup, std::slice::from_ref(wrong))? {
        context.progress.note(&format!("warning: {}: {said}", object.backup));
    }
    Ok(())
}
