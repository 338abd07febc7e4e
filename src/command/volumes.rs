//! A backup's volumes as commands read them: from the first store that has a good copy, with a memory of the bad ones.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::{Context, stores};
use crate::catalog::CopyState;
use crate::format::names;
use crate::model::{BackupId, ClusterName, Fault, StoreName};
use crate::pipeline::{Fetched, RangeReader};
use crate::store::{ReadReplicas, ReadStore, StoreError, StoreErrorKind, StoreResult};

/// A copy that turned out not to be what was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadCopy {
    pub(super) store: StoreName,
    pub(super) object: String,
    pub(super) state: CopyState,
    pub(super) why: String,
}

impl BadCopy {
    /// What a failed read says about the copy; `None` when it says something about the store only.
    pub(super) fn of(object: &str, error: &StoreError) -> Option<Self> {
        let state = match error.kind {
            StoreErrorKind::Absent => CopyState::Missing,
            StoreErrorKind::Short => CopyState::Damaged,
            _ => return None,
        };
        let (object, why) = (object.to_owned(), error.to_string());
        Some(Self { store: error.store, object, state, why })
    }
}

/// A backup's volumes in the stores.
#[derive(Debug)]
pub(super) struct Volumes {
    stores: ReadReplicas,
    cluster: ClusterName,
    id: BackupId,
    /// Copies that the catalog knows not to be good: read only when there is no other.
    doubtful: HashSet<(String, StoreName)>,
    bad: Mutex<Vec<BadCopy>>,
}

impl Volumes {
    /// The volumes in these stores, of which nothing is known beforehand.
    pub(super) fn of(stores: &ReadReplicas, cluster: &ClusterName, id: &BackupId) -> Self {
        Self {
            stores: stores.clone(),
            cluster: cluster.clone(),
            id: id.clone(),
            doubtful: HashSet::new(),
            bad: Mutex::default(),
        }
    }

    /// The volumes in all stores; what the catalog knows to be owed, missing or damaged is left for last.
    pub(super) fn in_all_stores(context: &Context, id: &BackupId) -> anyhow::Result<Self> {
        let copies = context.catalog.copies().of(id)?;
        let doubtful = copies.into_iter().filter(|copy| copy.state != CopyState::Good);
        let doubtful = doubtful.map(|copy| (copy.object, copy.store)).collect();
        Ok(Self { doubtful, ..Self::of(context.reading(), &context.settings.cluster, id) })
    }

    /// The copies that turned out to be bad and that were not known to be.
    pub(super) fn bad(&self) -> Vec<BadCopy> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, copy: BadCopy) {
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |other: &BadCopy| other.store == copy.store && other.object == copy.object;
        if !self.doubtful.contains(&(copy.object.clone(), copy.store)) && !bad.iter().any(known) {
            bad.push(copy);
        }
    }

    /// Learns from a failed read, and returns what really is the matter: on a disk that was unmounted a moment ago every
    /// copy is missing, and none is lost.
    async fn learn(&self, volume: &str, store: &dyn ReadStore, error: StoreError) -> StoreError {
        let bad = BadCopy::of(volume, &error);
        let error = match bad {
            Some(copy) => match stores::still_there(&self.cluster, store).await {
                Ok(()) => {
                    self.remember(copy);
                    error
                }
                Err(gone) => gone,
            },
            None => error,
        };
        self.stores.failed(&error);
        error
    }

    /// Whether a copy is one to be asked last.
    fn is_doubtful(&self, volume: &str, store: StoreName) -> bool {
        let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        self.doubtful.contains(&(volume.to_owned(), store))
            || bad.iter().any(|copy| copy.store == store && copy.object == volume)
    }
}

#[async_trait]
impl RangeReader for Volumes {
    async fn read(
        &self,
        volume: &str,
        offset: u64,
        length: u64,
        not: &[StoreName],
    ) -> anyhow::Result<Option<Fetched>> {
        let key = names::object(&self.cluster, &self.id, volume);
        let mut stores = self.stores.by_preference();
        stores.retain(|store| !not.contains(&store.name()));
        stores.sort_by_key(|store| self.is_doubtful(volume, store.name()));
        let mut failed: Option<StoreError> = None;
        for store in stores {
            match store.get(&key, offset, length).await {
                Ok(bytes) => return Ok(Some(Fetched { bytes, from: store.name() })),
                Err(error) => {
                    let error = self.learn(volume, &*store, error).await;
                    failed = Some(match failed {
                        None => error,
                        Some(first) => first.and(&error),
                    });
                }
            }
        }
        failed.map_or(Ok(None), |error| Err(error).fault())
    }

    fn reject(&self, volume: &str, from: StoreName, why: &Fault) {
        let (object, why) = (volume.to_owned(), why.message.clone());
        self.remember(BadCopy { store: from, object, state: CopyState::Damaged, why });
    }
}
