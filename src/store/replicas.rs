//! All stores together: written to all, read from the first that has it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::failure::StoreResult;
use super::{Body, LocalStore, ObjectInfo, ReadStore, Store, StoreError};
use crate::model::{Fault, Kind, StoreName};

/// The stores of the settings for reading, in the order in which they are asked. Cannot write or delete.
#[derive(Debug, Clone)]
pub struct ReadReplicas {
    stores: Vec<Arc<dyn ReadStore>>,
}

/// The stores of the settings for reading, writing and deleting.
#[derive(Debug, Clone)]
pub struct Replicas {
    stores: Vec<Arc<dyn Store>>,
    staging: PathBuf,
    min_copies: usize,
}

/// What one store made of an object.
#[derive(Debug)]
pub struct Copy {
    /// Which store.
    pub store: StoreName,
    /// Where the object lies there, as an operator would look for it.
    pub place: String,
    /// Why it has no copy, if it has none.
    pub error: Option<StoreError>,
}

impl ReadReplicas {
    /// Reads from this store alone.
    pub fn only(store: Arc<dyn ReadStore>) -> Self {
        Self { stores: vec![store] }
    }

    /// The stores one by one.
    pub fn each(&self) -> impl Iterator<Item = &Arc<dyn ReadStore>> {
        self.stores.iter()
    }

    /// The whole of a small object from the first store that has it; `None` when every store says that it has none.
    pub async fn get_small(&self, key: &str) -> anyhow::Result<Option<Vec<u8>>> {
        let mut failed = None;
        for store in &self.stores {
            match store.get_small(key).await {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) => {}
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(None), |error| Err(error).fault())
    }

    /// A range of an object from the first store that can give it.
    pub async fn get(&self, key: &str, offset: u64, length: u64) -> anyhow::Result<Vec<u8>> {
        let mut failed = None;
        for store in &self.stores {
            match store.get(key, offset, length).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            Some(error) => Err(error).fault(),
            None => Fault::new(Kind::Bug, format!("no store to read {key} from")).err(),
        }
    }

    /// The keys under the prefix in any of the stores, sorted.
    pub async fn list(&self, prefix: &str) -> anyhow::Result<Vec<ObjectInfo>> {
        let mut objects: Vec<ObjectInfo> = Vec::new();
        for store in &self.stores {
            objects.extend(store.list(prefix).await.fault()?);
        }
        objects.sort_by(|left, right| left.key.cmp(&right.key));
        objects.dedup_by(|left, right| left.key == right.key);
        Ok(objects)
    }
}

impl Replicas {
    /// The local store alone.
    pub fn local(store: LocalStore, min_copies: usize) -> Self {
        Self { staging: store.staging(), stores: vec![Arc::new(store)], min_copies }
    }

    /// Where files to be put are best written.
    pub fn staging(&self) -> &Path {
        &self.staging
    }

    /// The same stores for somebody who only reads.
    pub fn reading(&self) -> ReadReplicas {
        ReadReplicas {
            stores: self.stores.iter().map(|store| Arc::clone(store) as Arc<dyn ReadStore>).collect(),
        }
    }

    /// The stores one by one.
    pub fn each(&self) -> impl Iterator<Item = &Arc<dyn Store>> {
        self.stores.iter()
    }

    /// Writes to every store; an error when fewer than `min_copies` have it in the end.
    pub async fn put(&self, key: &str, body: Body) -> anyhow::Result<Vec<Copy>> {
        let mut copies = Vec::new();
        for store in &self.stores {
            let error = store.put(key, body.clone()).await.err();
            copies.push(Copy { store: store.name(), place: store.locate(key), error });
        }
        let good = copies.iter().filter(|copy| copy.error.is_none()).count();
        if good < self.min_copies {
            let error = copies.into_iter().find_map(|copy| copy.error);
            return match error {
                Some(error) => Err(error).fault(),
                None => Fault::new(Kind::Bug, format!("no store to write {key} to")).err(),
            };
        }
        Ok(copies)
    }

    /// Removes every object under the prefix of a backup from every store: the manifest first, so that what is half
    /// removed is no backup.
    pub async fn delete_all(&self, prefix: &str) -> anyhow::Result<usize> {
        let mut count = 0;
        for store in &self.stores {
            let objects = store.list(prefix).await.fault()?;
            // Listed or not: one that was being written when its run was killed is not listed, and goes too.
            store.delete(&format!("{prefix}{}", crate::format::names::MANIFEST)).await.fault()?;
            for object in &objects {
                store.delete(&object.key).await.fault()?;
            }
            count += objects.len();
        }
        Ok(count)
    }
}
