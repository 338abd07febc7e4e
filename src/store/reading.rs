//! All stores together for reading: asked in the order of the settings, with a change to the next one on any error.

use std::sync::{Arc, Mutex, PoisonError};

use super::failure::StoreResult;
use super::{ReadStore, StoreError, StoreErrorKind};
use crate::model::{Fault, Kind, StoreName};

/// The stores of the settings for reading, in the order in which they are asked. Cannot write or delete.
///
/// A store that could not be reached is asked last from then on, by every clone of the value: the rest of a restore
/// does not wait for it again and again.
#[derive(Debug, Clone)]
pub struct ReadReplicas {
    sources: Vec<Arc<Source>>,
}

#[derive(Debug)]
struct Source {
    store: Arc<dyn ReadStore>,
    /// Why it is asked last.
    away: Mutex<Option<String>>,
}

impl Source {
    fn is_away(&self) -> bool {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Learns from a failure: one that is not about the single object makes the store one to be asked last.
    fn failed(&self, error: &StoreError) {
        if !is_about_the_object(error.kind) {
            let mut away = self.away.lock().unwrap_or_else(PoisonError::into_inner);
            away.get_or_insert_with(|| error.to_string());
        }
    }
}

/// Whether the failure says something about the one object only, and the store itself answers as it should.
const fn is_about_the_object(kind: StoreErrorKind) -> bool {
    matches!(kind, StoreErrorKind::Absent | StoreErrorKind::Short)
}

impl ReadReplicas {
    /// These stores, in the order in which they are asked.
    pub fn new(stores: impl IntoIterator<Item = Arc<dyn ReadStore>>) -> Self {
        let source = |store| Arc::new(Source { store, away: Mutex::new(None) });
        Self { sources: stores.into_iter().map(source).collect() }
    }

    /// Reads from this store alone.
    pub fn only(store: Arc<dyn ReadStore>) -> Self {
        Self::new([store])
    }

    /// The stores one by one, whether they can be reached or not.
    pub fn each(&self) -> impl Iterator<Item = &Arc<dyn ReadStore>> {
        self.sources.iter().map(|source| &source.store)
    }

    /// The stores as they are best asked now: those that could not be reached come last.
    pub fn by_preference(&self) -> Vec<Arc<dyn ReadStore>> {
        let mut sources: Vec<&Arc<Source>> = self.sources.iter().collect();
        sources.sort_by_key(|source| source.is_away());
        sources.into_iter().map(|source| Arc::clone(&source.store)).collect()
    }

    /// Learns that a store failed at something.
    pub fn failed(&self, error: &StoreError) {
        for source in self.sources.iter().filter(|source| source.store.name() == error.store) {
            source.failed(error);
        }
    }

    /// The stores that could not be reached so far, and why.
    pub fn away(&self) -> Vec<(StoreName, String)> {
        let away = |source: &Arc<Source>| {
            let why = source.away.lock().unwrap_or_else(PoisonError::into_inner).clone()?;
            Some((source.store.name(), why))
        };
        self.sources.iter().filter_map(away).collect()
    }

    /// The whole of a small object from the first store that has it; `None` when every store says that it has none.
    pub async fn get_small(&self, key: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let mut failed = None;
        for store in self.by_preference() {
            match store.get_small(key).await {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) => {}
                Err(error) => {
                    self.failed(&error);
                    failed = failed.or(Some(error));
                }
            }
        }
        failed.map_or(Ok(None), |error| Err(error).fault())
    }

    /// Fails when there is no store at all.
    pub fn require_any(&self) -> anyhow::Result<()> {
        if self.sources.is_empty() {
            return Fault::new(Kind::Settings, "no store is configured").err();
        }
        Ok(())
    }
}
