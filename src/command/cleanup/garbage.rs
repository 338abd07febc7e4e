//! What lies in the stores without being a backup: objects of one that never came to be.

use std::collections::BTreeMap;

use chrono::Utc;

use super::Orphan;
use crate::command::Context;
use crate::command::listing::{self, Listings};
use crate::format::names;
use crate::model::{BackupId, BackupKind, StoreName};
use crate::store::ObjectInfo;
use crate::system::calendar;

/// Objects under a backup's name in one store, and no manifest in any.
pub(super) struct Garbage {
    pub(super) backup: BackupId,
    pub(super) store: StoreName,
    pub(super) objects: Vec<ObjectInfo>,
}

impl Garbage {
    pub(super) fn shown(&self) -> Orphan {
        Orphan {
            backup: self.backup.clone(),
            store: self.store,
            objects: self.objects.len() as u64,
            bytes: self.objects.iter().map(|object| object.size).sum(),
        }
    }
}

/// Cluster backups that a store has and the catalog does not know, as sentences: they may need any WAL.
pub(super) fn unknown_clusters(context: &Context, listings: &Listings) -> anyhow::Result<Vec<String>> {
    let mut found = BTreeMap::new();
    let being_made = listing::being_made(context)?;
    for (store, objects) in &listings.listed {
        for (id, objects) in objects {
            let is_whole = objects.contains_key(names::MANIFEST) && !being_made.contains(id.as_str());
            if id.kind() == BackupKind::Cluster && is_whole && context.catalog.backups().get(id)?.is_none() {
                found.insert(
                    id,
                    format!("{id} in store {store} is not in the catalog (`pgkeep catalog rebuild`)"),
                );
            }
        }
    }
    Ok(found.into_values().collect())
}

/// What nobody is making, nobody knows, and nothing was written to for a day. While a store can't be listed, that one
/// may have the manifest.
pub(super) fn find(context: &Context, listings: &Listings) -> anyhow::Result<Vec<Garbage>> {
    if context.reading().each().any(|store| !listings.listed.contains_key(&store.name())) {
        return Ok(Vec::new());
    }
    let being_made = listing::being_made(context)?;
    let before = Utc::now() - calendar::day();
    let has_manifest = |id: &BackupId| {
        listings.listed.values().any(|it| it.get(id).is_some_and(|it| it.contains_key(names::MANIFEST)))
    };
    let mut found = Vec::new();
    for (store, listed) in &listings.listed {
        for (id, objects) in listed {
            let is_old = objects.values().all(|object| object.modified.is_some_and(|at| at < before));
            if is_old
                && !has_manifest(id)
                && !being_made.contains(id.as_str())
                && context.catalog.backups().get(id)?.is_none()
            {
                let objects = objects.values().cloned().collect();
                found.push(Garbage { backup: id.clone(), store: *store, objects });
            }
        }
    }
    found.sort_by(|left, right| (&left.backup, left.store).cmp(&(&right.backup, right.store)));
    Ok(found)
}
