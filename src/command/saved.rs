//! The catalog's own copies in the stores: one is made after every run, so that the diary of a machine that is gone
//! (runs, restores, alerts, proofs) can be taken over on another. Nothing but history depends on them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chrono::{TimeDelta, Utc};
use futures_util::future::join_all;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::Context;
use super::context::staging_of;
use crate::catalog::Taken;
use crate::format::keyring::Keyring;
use crate::format::names;
use crate::model::{BackupId, Codec, Fault, Kind, Stage, StoreName};
use crate::pipeline::{SealAlone, open_alone, read_hashed, seal_alone};
use crate::store::{Body, ObjectInfo, ReadStore, Store, StoreError, StoreErrorKind};
use crate::system::{Step, durable, step};

/// How many copies of one catalog a store keeps: one may be being read while the next is written.
const KEPT: usize = 2;
/// With so many nothing seems to be deleted there.
const PILED_UP: usize = 4;
/// How long a run that has done its work waits for a store to take its catalog.
const PATIENCE: Duration = Duration::from_mins(1);
/// Fast, and rows of text shrink to a fifth.
const CODEC: Codec = Codec::Zstd(3);

/// Saves the catalog in every store that is there. What could not be done is done by the next run, and said unless this
/// one has failed and said enough; it never changes how this one ended.
pub(super) async fn save(context: &Context, has_failed: bool) {
    // Without a key nothing can be sealed; who wants the end does not want to wait.
    let has_none = context.settings.keys.is_empty() && context.settings.key_fault.is_none();
    if has_none || context.stop.is_requested() {
        return;
    }
    let staging = staging(context);
    let result = context.stop.or(try_save(context, &staging)).await;
    let tidied = durable::remove_dir_if_there(&staging);
    let mut said = Vec::new();
    match result {
        _ if context.stop.is_requested() => {}
        Ok(failed) => {
            // What needs somebody to do something is said by `pgkeep check`, and not every hour.
            let lasting = |kind| {
                matches!(kind, StoreErrorKind::Denied | StoreErrorKind::ReadOnly | StoreErrorKind::Full)
            };
            said.extend(failed.iter().map(|error| (lasting(error.kind), error.to_string())));
        }
        Err(error) => said.push((false, format!("{error:#}"))),
    }
    said.extend(tidied.err().map(|error| (false, format!("{error:#}"))));
    for (is_lasting, text) in said {
        let text = format!("warning: save the catalog in the stores: {text}");
        if has_failed || is_lasting {
            context.progress.detail(&text);
        } else {
            context.progress.note(&text);
        }
    }
}

/// In the spool, where the next run clears up if this one is killed.
fn staging(context: &Context) -> PathBuf {
    let spool = context.replicas.staging().last();
    staging_of(spool.map_or(Path::new("spool"), PathBuf::as_path), &context.run)
}

async fn try_save(context: &Context, staging: &Path) -> anyhow::Result<Vec<StoreError>> {
    let keyring = context.keyring()?;
    let (now, lineage) = (Utc::now(), context.catalog.lineage()?);
    let owner = names::saved_owner(&lineage, now, &context.run);
    durable::create_private_dir(staging)?;
    let (plain, sealed) = (staging.join("catalog.sqlite"), staging.join("catalog.sealed"));
    context.catalog.copy_to(&plain)?;
    step::reached(Step::RunSaving)?;
    let plan_owner = owner.clone();
    let (size, sealed) = spawn_blocking(move || -> anyhow::Result<(u64, PathBuf)> {
        let source = File::open(&plain)?;
        let mut target = BufWriter::new(durable::create_private_file(&sealed)?);
        let now = u64::try_from(now.timestamp())?;
        let plan = SealAlone { owner: plan_owner, codec: CODEC, keyring: &keyring, now };
        let size = seal_alone(&plan, source, &mut target)?;
        target.flush()?;
        durable::remove_file_if_there(&plain)?;
        Ok((size, sealed))
    })
    .await
    .context("seal the catalog")??;
    let away: BTreeSet<StoreName> = context.reading().away().into_iter().map(|(store, _)| store).collect();
    let stores = context.replicas.each().filter(|store| !away.contains(&store.name()));
    let key = format!("{}/{owner}", context.settings.cluster);
    let saving = Saving { context, lineage: &lineage, key: &key, path: &sealed, size };
    let saved = join_all(stores.map(|store| saving.save_in(store))).await;
    Ok(saved.into_iter().filter_map(Result::err).collect())
}

/// A copy of a catalog in one store.
type Copy = (Arc<dyn ReadStore>, ObjectInfo);

struct Saving<'a> {
    context: &'a Context,
    lineage: &'a str,
    key: &'a str,
    path: &'a Path,
    size: u64,
}

impl Saving<'_> {
    async fn save_in(&self, store: &Arc<dyn Store>) -> Result<(), StoreError> {
        let saved = timeout(PATIENCE, self.put(store)).await;
        saved.unwrap_or_else(|_| {
            let why = format!("it took longer than {} seconds", PATIENCE.as_secs());
            Err(self.failure(&**store, StoreErrorKind::Timeout, why))
        })
    }

    fn failure(&self, store: &dyn Store, kind: StoreErrorKind, cause: String) -> StoreError {
        StoreError { store: store.name(), operation: "write", place: store.locate(self.key), kind, cause }
    }

    async fn put(&self, store: &Arc<dyn Store>) -> Result<(), StoreError> {
        let cluster = &self.context.settings.cluster;
        // Nothing is written into the empty directory in which a disk should be mounted.
        if store.get_small(&names::identity(cluster)).await?.is_none() {
            return Ok(());
        }
        let mut older = store.list(&names::saved_of(cluster, self.lineage)).await?;
        // Names begin with the time. What another run saved meanwhile is not this one's to remove.
        older.retain(|object| object.key.as_str() < self.key);
        older.sort_by(|left, right| right.key.cmp(&left.key));
        // Where nothing can be deleted, once a day is enough.
        let is_young =
            |object: &ObjectInfo| object.modified.is_some_and(|it| Utc::now() - it < TimeDelta::days(1));
        if older.len() >= PILED_UP && older.first().is_some_and(is_young) {
            return Ok(());
        }
        store.put(self.key, Body::file(self.path.to_owned(), self.size)).await?;
        for object in older.iter().skip(KEPT - 1) {
            match store.delete(&object.key).await {
                // A key that may only add, so that nobody who steals it can delete, is a good one.
                Err(error) if error.kind == StoreErrorKind::Denied => break,
                deleted => deleted?,
            }
        }
        Ok(())
    }
}

/// What was learned from saved catalogs.
#[derive(Debug, Default)]
pub(super) struct History {
    /// What was taken over.
    pub(super) taken: Taken,
    /// Backups that they know as complete, newer than all that the stores have.
    pub(super) missing: BTreeSet<BackupId>,
    /// What could not be read.
    pub(super) warnings: Vec<String>,
}

/// Takes over the history out of the newest copy that opens of every catalog, this one included: its state directory may
/// have been put back to an earlier day.
pub(super) async fn take_history(context: &Context, keyring: &Keyring) -> anyhow::Result<History> {
    let cluster = &context.settings.cluster;
    // By lineage and owner, newest last: the same copy in several stores.
    let mut saved: BTreeMap<String, BTreeMap<String, Vec<Copy>>> = BTreeMap::new();
    let mut history = History::default();
    let stores = context.reading().by_preference();
    let prefix = names::saved_catalogs(cluster);
    let listed =
        context.stop.or(async { Ok(join_all(stores.iter().map(|store| store.list(&prefix))).await) }).await?;
    for (store, objects) in stores.iter().zip(listed) {
        match objects {
            Err(error) => {
                context.reading().failed(&error);
                history.warnings.push(error.to_string());
            }
            Ok(objects) => {
                for info in objects {
                    let Some((lineage, owner)) = names::parse_saved(cluster, &info.key) else { continue };
                    let copies = saved.entry(lineage.to_owned()).or_default();
                    copies.entry(owner.to_owned()).or_default().push((Arc::clone(store), info));
                }
            }
        }
    }
    let all = async {
        for copies in saved.into_values() {
            // The newest first; an older one only if it does not open.
            for (owner, places) in copies.into_iter().rev() {
                match open(context, keyring, &owner, &places).await {
                    Ok((taken, missing)) => {
                        history.taken = history.taken.and(taken);
                        history.missing.extend(missing);
                        break;
                    }
                    Err(error) if super::judge(&error).exit_code == Kind::Key.exit_code() => {
                        context.progress.detail(&format!("the saved catalog {owner}: {error:#}"));
                        break;
                    }
                    Err(error) => history.warnings.push(format!("the saved catalog {owner}: {error:#}")),
                }
            }
        }
        Ok(())
    };
    // Nobody's restore waits for a diary.
    if timeout(PATIENCE, context.stop.or(all)).await.map_or_else(|_| Ok(true), |done| done.map(|()| false))? {
        let why =
            format!("the history in saved catalogs took longer than {} seconds to read", PATIENCE.as_secs());
        history.warnings.push(why);
    }
    Ok(history)
}

/// Reads one saved catalog from the first place where it is good, and takes its history over.
async fn open(
    context: &Context,
    keyring: &Keyring,
    owner: &str,
    places: &[Copy],
) -> anyhow::Result<(Taken, Vec<BackupId>)> {
    let staging = staging(context);
    let mut failed = None;
    for place in places {
        durable::create_private_dir(&staging)?;
        let result = open_one(context, keyring, owner, place, &staging).await;
        durable::remove_dir_if_there(&staging)?;
        match result {
            Ok(taken) => return Ok(taken),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed.unwrap_or_else(|| Fault::new(Kind::Bug, "it is in no store").into()))
}

async fn open_one(
    context: &Context,
    keyring: &Keyring,
    owner: &str,
    (store, info): &Copy,
    staging: &Path,
) -> anyhow::Result<(Taken, Vec<BackupId>)> {
    let (sealed, plain) = (staging.join("catalog.sealed"), staging.join("catalog.sqlite"));
    let get = async |offset, length| store.get(&info.key, offset, length).await;
    let read = read_hashed(info.size, Some(&sealed), &Stage::new(info.size), get).await?;
    if let Err(error) = read {
        context.reading().failed(&error);
        return Err(Fault::from(error).into());
    }
    // Opening is quick, and a borrowed keyring can't go to another thread.
    let source = BufReader::new(File::open(&sealed)?);
    let mut target = durable::create_private_file(&plain)?;
    open_alone(owner, keyring, source, &mut target)?;
    drop(target);
    context.catalog.take_history(&plain)
}
