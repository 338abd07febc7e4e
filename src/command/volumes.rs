//! A backup's volumes as commands read them: from the first store that has a good copy, with a memory of the bad ones.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use super::{Context, stores};
use crate::catalog::CopyState;
use crate::format::names;
use crate::model::{BackupId, ClusterName, Fault, Kind, StoreName};
use crate::pipeline::{Fetched, RangeReader, Refusal};
use crate::store::{ReadReplicas, ReadStore, StoreError, StoreErrorKind};

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
    doubtful: HashMap<(String, StoreName), CopyState>,
    bad: Mutex<Vec<BadCopy>>,
}

impl Volumes {
    /// The volumes in these stores, of which nothing is known beforehand.
    pub(super) fn of(stores: &ReadReplicas, cluster: &ClusterName, id: &BackupId) -> Self {
        Self {
            stores: stores.clone(),
            cluster: cluster.clone(),
            id: id.clone(),
            doubtful: HashMap::new(),
            bad: Mutex::default(),
        }
    }

    /// The volumes in all stores; what the catalog knows to be owed, missing or damaged is left for last.
    pub(super) fn in_all_stores(context: &Context, id: &BackupId) -> anyhow::Result<Self> {
        let copies = context.catalog.copies().of(id)?;
        let doubtful = copies.into_iter().filter(|copy| copy.state != CopyState::Good);
        let doubtful = doubtful.map(|copy| ((copy.object, copy.store), copy.state)).collect();
        Ok(Self { doubtful, ..Self::of(context.reading(), &context.settings.cluster, id) })
    }

    /// The copies that turned out to be bad and that were not known to be.
    pub(super) fn bad(&self) -> Vec<BadCopy> {
        self.bad.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn remember(&self, copy: BadCopy) {
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        let known = |other: &BadCopy| other.store == copy.store && other.object == copy.object;
        if !self.doubtful.contains_key(&(copy.object.clone(), copy.store)) && !bad.iter().any(known) {
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

    /// What is known against a copy, which is therefore asked last.
    fn doubt(&self, volume: &str, store: StoreName) -> Option<CopyState> {
        let bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        let found = bad.iter().find(|copy| copy.store == store && copy.object == volume);
        found.map(|copy| copy.state).or_else(|| self.doubtful.get(&(volume.to_owned(), store)).copied())
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
    ) -> Result<Fetched, Vec<Refusal>> {
        let key = names::object(&self.cluster, &self.id, volume);
        let mut stores = self.stores.by_preference();
        stores.retain(|store| !not.contains(&store.name()));
        stores.sort_by_key(|store| self.doubt(volume, store.name()).is_some());
        let mut wrong = Vec::new();
        for store in stores {
            let name = store.name();
            match store.get(&key, offset, length).await {
                Ok(bytes) => return Ok(Fetched { bytes, from: name }),
                Err(error) => {
                    let mut fault = Fault::from(self.learn(volume, &*store, error).await);
                    // To wait for a store whose copy is not good either would be in vain.
                    if let Some(state) = self.doubt(volume, name).filter(|_| fault.kind != Kind::Damaged) {
                        let message =
                            format!("its copy is known to be {}; {}", state.as_str(), fault.message);
                        fault = Fault::new(Kind::Damaged, message);
                    }
                    wrong.push((name, fault));
                }
            }
        }
        Err(wrong)
    }

    fn reject(&self, volume: &str, from: StoreName, why: &Fault) {
        let (object, why) = (volume.to_owned(), why.message.clone());
        self.remember(BadCopy { store: from, object, state: CopyState::Damaged, why });
    }
}
