//! All stores together for writing: everything goes to all of them at once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use super::failure::StoreResult;
use super::{LocalStore, ReadReplicas, ReadStore, Store, StoreError};
use crate::model::StoreName;

/// How many objects of a store are deleted at the same time: each is a request or, where versions are kept, several.
const DELETES_AT_ONCE: usize = 8;

/// The stores of the settings for reading, writing and deleting.
#[derive(Debug, Clone)]
pub struct Replicas {
    /// The local one first.
    stores: Vec<Arc<dyn Store>>,
    order: Vec<StoreName>,
    staging: Vec<PathBuf>,
    min_copies: usize,
}

impl Replicas {
    /// The local store and those in clouds; `order` is that in which they are read, `spool` a directory for what is on
    /// its way to the clouds and in no local store.
    pub fn new(
        local: Option<LocalStore>,
        clouds: Vec<Arc<dyn Store>>,
        order: &[StoreName],
        spool: PathBuf,
        min_copies: usize,
    ) -> Self {
        let staging = local.iter().map(LocalStore::staging).chain([spool]).collect();
        let local = local.map(|store| Arc::new(store) as Arc<dyn Store>);
        let stores = local.into_iter().chain(clouds).collect();
        Self { stores, order: order.to_owned(), staging, min_copies }
    }

    /// Where files to be put are best written, and where else when there is no room: on the local store's own file
    /// system it takes but a rename.
    pub fn staging(&self) -> &[PathBuf] {
        &self.staging
    }

    /// How many stores must hold a backup before it counts.
    pub fn min_copies(&self) -> usize {
        self.min_copies
    }

    /// The same stores for somebody who only reads.
    pub fn reading(&self) -> ReadReplicas {
        let named = |name: &StoreName| self.get(*name).map(|store| Arc::clone(store) as Arc<dyn ReadStore>);
        ReadReplicas::new(self.order.iter().filter_map(named))
    }

    /// The stores one by one, the local one first.
    pub fn each(&self) -> impl Iterator<Item = &Arc<dyn Store>> {
        self.stores.iter()
    }

    /// The store of this name, if it is configured.
    pub fn get(&self, name: StoreName) -> Option<&Arc<dyn Store>> {
        self.stores.iter().find(|store| store.name() == name)
    }

    /// Removes every object under the prefix of a backup from these stores: the manifest first, so that what is half
    /// removed is no backup. Every store is tried; the first failure is the result.
    pub async fn delete_all(&self, stores: &[StoreName], prefix: &str) -> anyhow::Result<usize> {
        let each = stores.iter().filter_map(|name| self.get(*name));
        let each = each.map(|store| delete_all(&**store, prefix));
        let counts: Vec<_> = futures_util::future::join_all(each).await;
        counts.into_iter().sum::<Result<usize, StoreError>>().fault()
    }
}

async fn delete_all(store: &dyn Store, prefix: &str) -> Result<usize, StoreError> {
    let objects = store.list(prefix).await?;
    // Listed or not: one that was being written when its run was killed is not listed, and goes too.
    store.delete(&format!("{prefix}{}", crate::format::names::MANIFEST)).await?;
    let deletes = objects.iter().map(|object| store.delete(&object.key));
    stream::iter(deletes).buffer_unordered(DELETES_AT_ONCE).try_collect::<()>().await?;
    Ok(objects.len())
}

/// Where a file lies in the local store's directory.
pub(super) fn local_path(store: &dyn Store, key: &str) -> PathBuf {
    Path::new(&store.locate(key)).to_owned()
}
