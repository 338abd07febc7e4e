//! What the stores list, against what the catalog says should be there: for `verify` and `sync`.

use std::collections::{BTreeMap, HashMap, HashSet};

use chrono::Utc;
use futures_util::future::join_all;

use super::Context;
use crate::catalog::{BackupFilter, CopyKey, CopyRow, CopyState, Proof, Run};
use crate::format::names;
use crate::model::{BackupId, StoreName, Timestamp};
use crate::store::{ObjectInfo, StoreError};

/// One store's objects of backups, by backup and name.
pub(super) type Objects = BTreeMap<BackupId, BTreeMap<String, ObjectInfo>>;

/// Every store's answer to one listing.
pub(super) struct Listings {
    /// Before the first of them was asked: of what was written later they may know nothing.
    begun: Timestamp,
    pub(super) listed: HashMap<StoreName, Objects>,
    pub(super) failed: Vec<StoreError>,
    /// Bytes and objects of those that answered, also what belongs to no backup.
    pub(super) held: HashMap<StoreName, (u64, u64)>,
}

impl Listings {
    /// Whether the copy was found good, or written, after the listings were begun. What is said to have happened in the
    /// time to come was written with a clock that was wrong, and says nothing.
    pub(super) fn is_older_than(&self, copy: &CopyRow) -> bool {
        let seen = copy.seen_at.max(copy.proven_at);
        copy.state == CopyState::Good && seen >= Some(self.begun) && seen <= Some(Utc::now())
    }

    /// Learns that a store does not have an object although it listed it.
    pub(super) fn gone(&mut self, store: StoreName, backup: &BackupId, object: &str) {
        if let Some(objects) = self.listed.get_mut(&store).and_then(|objects| objects.get_mut(backup)) {
            objects.remove(object);
        }
    }

    /// Learns that a store has an object now.
    pub(super) fn made(&mut self, store: StoreName, backup: BackupId, object: String, size: u64) {
        if let Some(objects) = self.listed.get_mut(&store) {
            let info = ObjectInfo { key: object.clone(), size, modified: None };
            objects.entry(backup).or_default().insert(object, info);
        }
    }
}

/// Lists these stores once each, at the same time.
pub(super) async fn take(context: &Context, only: Option<StoreName>) -> Listings {
    let prefix = names::backups(&context.settings.cluster);
    let stores: Vec<_> =
        context.reading().each().filter(|store| only.is_none_or(|only| only == store.name())).collect();
    let begun = Utc::now();
    let answers = join_all(stores.iter().map(|store| store.list(&prefix))).await;
    let mut listings = Listings { begun, listed: HashMap::new(), failed: Vec::new(), held: HashMap::new() };
    for (store, answer) in stores.into_iter().zip(answers) {
        match answer {
            Ok(objects) => {
                let bytes = objects.iter().map(|info| info.size).sum();
                listings.held.insert(store.name(), (bytes, objects.len() as u64));
                listings.listed.insert(store.name(), by_backup(context, objects));
            }
            Err(error) => {
                context.reading().failed(&error);
                listings.failed.push(error);
            }
        }
    }
    listings
}

fn by_backup(context: &Context, objects: Vec<ObjectInfo>) -> Objects {
    let mut backups = Objects::new();
    for info in objects {
        if let Some((id, object)) = names::parse_object(&context.settings.cluster, &info.key) {
            backups.entry(id).or_default().insert(object, info);
        }
    }
    backups
}

/// What the listing says about a copy that should be there.
pub(super) fn compare(copy: &CopyRow, listed: Option<&ObjectInfo>) -> Result<(), (CopyState, String)> {
    match listed {
        None if copy.state == CopyState::Owed => {
            let why = copy.note.as_ref().map_or_else(String::new, |note| format!(": {note}"));
            Err((CopyState::Owed, format!("it was never copied there{why}")))
        }
        None => Err((CopyState::Missing, "it is not there".to_owned())),
        Some(info) if info.size != copy.size_bytes => {
            Err((CopyState::Damaged, format!("it has {} bytes, {} were stored", info.size, copy.size_bytes)))
        }
        Some(_) => Ok(()),
    }
}

/// Writes down how much each store holds, of those of which both listings were had: backups and WAL.
pub(super) fn note_usage(
    context: &Context,
    listings: &Listings,
    wal: &HashMap<StoreName, (u64, u64)>,
) -> anyhow::Result<()> {
    let held: Vec<(StoreName, u64, u64)> = listings
        .listed
        .keys()
        .filter_map(|store| {
            let ((bytes, objects), (wal_bytes, files)) = (listings.held.get(store)?, wal.get(store)?);
            Some((*store, bytes + wal_bytes, objects + files))
        })
        .collect();
    context.catalog.usage().record(&held, Utc::now())
}

/// Backups that runs of this catalog are making now.
pub(super) fn being_made(context: &Context) -> anyhow::Result<HashSet<String>> {
    let runs = context.catalog.runs().unfinished()?;
    Ok(runs.iter().flat_map(Run::backups).map(|id| id.to_string()).collect())
}

/// Compares every copy of every complete backup with the listings and writes down what changed, also which stores have
/// a backup whole. Of stores that could not be listed the rows stay as they are. What is returned may speak of stores
/// that the settings no longer name.
pub(super) fn reconcile(context: &Context, listings: &Listings) -> anyhow::Result<Vec<CopyRow>> {
    let copies = context.catalog.copies();
    for store in context.reading().each() {
        copies.expect_in(store.name())?;
    }
    let mut rows = copies.of_complete()?;
    let (mut seen, mut changed) = (Vec::new(), Vec::new());
    for row in &mut rows {
        let Some(objects) = listings.listed.get(&row.store) else { continue };
        let listed = objects.get(&row.backup_id).and_then(|objects| objects.get(&row.object));
        if row.state == CopyState::Deleting || listings.is_older_than(row) {
            continue;
        }
        let key = CopyKey { backup_id: row.backup_id.clone(), object: row.object.clone(), store: row.store };
        match compare(row, listed) {
            Ok(()) if row.state == CopyState::Damaged => {}
            Ok(()) => {
                if row.state != CopyState::Good {
                    // As the catalog is told below: it may be another than the one that was proven.
                    (row.proven_at, row.proven_how) = (None, None);
                }
                row.state = CopyState::Good;
                seen.push(key);
            }
            Err((state, why)) => {
                if state != row.state {
                    changed.push((key, state, why));
                }
                row.state = state;
            }
        }
    }
    copies.set_states(&changed)?;
    copies.prove(&seen, Proof::Listed, Utc::now())?;
    note_places(context, &rows)?;
    Ok(rows)
}

/// Writes down which stores have which backups whole, where that is no longer as it was.
fn note_places(context: &Context, rows: &[CopyRow]) -> anyhow::Result<()> {
    let mut whole: HashMap<(&BackupId, StoreName), bool> = HashMap::new();
    for row in rows {
        *whole.entry((&row.backup_id, row.store)).or_insert(true) &= row.state == CopyState::Good;
    }
    // One that was recorded meanwhile is not among the rows.
    let known: HashSet<&BackupId> = rows.iter().map(|row| &row.backup_id).collect();
    let mut changed = Vec::new();
    let mut backups = context.catalog.backups().list(&BackupFilter::default())?;
    backups.retain(|backup| known.contains(&backup.id));
    for backup in backups {
        for store in context.reading().each() {
            let was = match store.name() {
                StoreName::Local => &backup.local_path,
                StoreName::R2 => &backup.r2_path,
                StoreName::B2 => &backup.b2_path,
            };
            let is_whole = whole.get(&(&backup.id, store.name())).copied().unwrap_or(false);
            let place = is_whole.then(|| store.locate(&names::backup(&context.settings.cluster, &backup.id)));
            if *was != place {
                changed.push((backup.id.clone(), store.name(), place));
            }
        }
    }
    context.catalog.backups().set_places(&changed)
}
