//! Deleting what is marked, store by store: manifests first, so that what is half deleted is no backup.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{TimeDelta, Utc};
use futures_util::future::join_all;

use super::garbage::Garbage;
use super::{CleanupReport, StillThere};
use crate::catalog::LeavingWal;
use crate::command::Context;
use crate::command::listing::Listings;
use crate::command::stores::{self, Presence};
use crate::format::names;
use crate::model::{BackupId, StoreName};
use crate::store::{Store, StoreResult};
use crate::system::{Step, calendar, step};

/// WAL files that are deleted before the catalog is told.
const WAL_AT_ONCE: u32 = 10_000;

/// What deleting takes.
pub(super) struct Clearing<'a> {
    pub(super) context: &'a Context,
    pub(super) presence: &'a Presence,
    pub(super) listings: &'a Listings,
}

/// What was deleted from one store.
#[derive(Default)]
struct Cleared {
    objects: u64,
    wal_copies: u64,
    uploads: u64,
}

impl Clearing<'_> {
    /// Every store at the same time; one that fails keeps what it has until the next cleanup.
    pub(super) async fn carry_out(
        &self,
        garbage: &[Garbage],
        report: &mut CleanupReport,
    ) -> anyhow::Result<()> {
        let context = self.context;
        let mut leaving: BTreeMap<StoreName, BTreeMap<BackupId, BTreeSet<String>>> = BTreeMap::new();
        for object in context.catalog.cleanup().leaving()? {
            let backups = leaving.entry(object.store).or_default();
            backups.entry(object.backup).or_default().insert(object.object);
        }
        let stores: Vec<&Arc<dyn Store>> = self
            .presence
            .present
            .iter()
            .filter(|store| self.listings.listed.contains_key(&store.name()))
            .collect();
        let clearing = stores
            .iter()
            .map(|store| self.clear(store, leaving.remove(&store.name()).unwrap_or_default(), garbage));
        let cleared = context.stop.or(async { Ok(join_all(clearing).await) }).await?;
        for (store, cleared) in stores.iter().zip(cleared) {
            match cleared {
                Ok(Cleared { objects, wal_copies, uploads }) => {
                    report.objects_deleted += objects;
                    report.wal_copies_deleted += wal_copies;
                    report.uploads_aborted += uploads;
                }
                Err(error) if is_of_a_store(&error) => {
                    report.warnings.push(format!("what goes is still in store {}: {error:#}", store.name()));
                }
                Err(error) => return Err(error),
            }
        }
        step::reached(Step::CleanupCleared)?;
        report.deleted = context.catalog.cleanup().finish(Utc::now())?;
        report.still_there = self.still_there()?;
        Ok(())
    }

    async fn clear(
        &self,
        store: &Arc<dyn Store>,
        leaving: BTreeMap<BackupId, BTreeSet<String>>,
        garbage: &[Garbage],
    ) -> anyhow::Result<Cleared> {
        // Of a disk that was unmounted meanwhile nothing would be deleted, and all of it be forgotten.
        stores::still_there(&self.context.settings.cluster, &**store).await.fault()?;
        let mut cleared = Cleared { objects: self.backups(store, leaving).await?, ..Cleared::default() };
        for garbage in garbage.iter().filter(|garbage| garbage.store == store.name()) {
            let keys: Vec<String> = garbage.objects.iter().map(|object| object.key.clone()).collect();
            store.delete_many(&keys).await.fault()?;
        }
        cleared.wal_copies = self.wal(store).await?;
        let (cluster, forgotten) = (&self.context.settings.cluster, Utc::now() - calendar::day());
        for prefix in [names::backups(cluster), names::wal(cluster), names::wishes(cluster)] {
            store.remove_empty(&prefix, forgotten).await.fault()?;
        }
        let day_ago = Utc::now() - TimeDelta::days(1);
        cleared.uploads = store.abort_unfinished(&format!("{cluster}/"), day_ago).await.fault()?;
        Ok(cleared)
    }

    /// Deletes what the store has of these backups, whether the catalog knows of it or not.
    async fn backups(
        &self,
        store: &Arc<dyn Store>,
        leaving: BTreeMap<BackupId, BTreeSet<String>>,
    ) -> anyhow::Result<u64> {
        if leaving.is_empty() {
            return Ok(0);
        }
        let cluster = &self.context.settings.cluster;
        let key = |id: &BackupId, object: &str| names::object(cluster, id, object);
        let manifests: Vec<String> = leaving.keys().map(|id| key(id, names::MANIFEST)).collect();
        store.delete_many(&manifests).await.fault()?;
        step::reached(Step::CleanupManifestsGone)?;
        let listed = self.listings.listed.get(&store.name());
        let (mut volumes, mut there) = (Vec::new(), 0);
        for (id, known) in &leaving {
            let found = listed.and_then(|listed| listed.get(id));
            there += found.map_or(0, BTreeMap::len) as u64;
            let names: BTreeSet<&String> =
                known.iter().chain(found.into_iter().flat_map(BTreeMap::keys)).collect();
            volumes
                .extend(names.into_iter().filter(|name| *name != names::MANIFEST).map(|name| key(id, name)));
        }
        store.delete_many(&volumes).await.fault()?;
        step::reached(Step::CleanupObjectsGone)?;
        let ids: Vec<BackupId> = leaving.into_keys().collect();
        self.context.catalog.cleanup().gone(store.name(), &ids)?;
        Ok(there)
    }

    async fn wal(&self, store: &Arc<dyn Store>) -> anyhow::Result<u64> {
        let (catalog, cluster) = (self.context.catalog.cleanup(), &self.context.settings.cluster);
        let mut copies = 0;
        loop {
            let files = catalog.leaving_wal(store.name(), WAL_AT_ONCE)?;
            if files.is_empty() {
                return Ok(copies);
            }
            let key = |it: &LeavingWal| names::wal_file(cluster, &it.file, &it.content_sha256);
            let keys: Vec<String> = files.iter().map(key).collect();
            store.delete_many(&keys).await.fault()?;
            step::reached(Step::CleanupWalGone)?;
            catalog.wal_gone(store.name(), &files)?;
            copies += files.len() as u64;
        }
    }

    fn still_there(&self) -> anyhow::Result<Vec<StillThere>> {
        let mut found: BTreeMap<BackupId, BTreeSet<StoreName>> = BTreeMap::new();
        for object in self.context.catalog.cleanup().leaving()? {
            found.entry(object.backup).or_default().insert(object.store);
        }
        let shown = |(backup, stores): (BackupId, BTreeSet<StoreName>)| StillThere {
            backup,
            stores: stores.into_iter().collect(),
        };
        Ok(found.into_iter().map(shown).collect())
    }
}

/// Whether it is a store that has failed, and the others may go on.
fn is_of_a_store(error: &anyhow::Error) -> bool {
    let code = crate::command::judge(error).exit_code;
    [crate::model::Kind::Store, crate::model::Kind::Damaged].iter().any(|kind| kind.exit_code() == code)
}
