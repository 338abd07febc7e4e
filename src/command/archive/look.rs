//! What a store has of WAL files, from listings that are short however large the archive is.

use crate::format::names;
use crate::model::{ClusterName, Digest, WalName};
use crate::store::{ReadStore, StoreError};

/// A WAL file in a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::command) struct Archived {
    pub(in crate::command) name: WalName,
    /// Of its plain bytes.
    pub(in crate::command) sha256: Digest,
    pub(in crate::command) key: String,
    /// As it is stored.
    pub(in crate::command) size: u64,
}

/// The objects under this file's own name: none, one, or several when two servers have archived different bytes.
pub(in crate::command) async fn at_name(
    store: &dyn ReadStore,
    cluster: &ClusterName,
    name: &WalName,
) -> Result<Vec<Archived>, StoreError> {
    under(store, cluster, &format!("{}{name}-", names::wal_group(cluster, name))).await
}

/// The files around this one: those of its timeline that lie in the same 4 GiB of WAL, sorted by name.
pub(in crate::command) async fn around(
    store: &dyn ReadStore,
    cluster: &ClusterName,
    name: &WalName,
) -> Result<Vec<Archived>, StoreError> {
    under(store, cluster, &names::wal_group(cluster, name)).await
}

/// What lies under a prefix.
pub(in crate::command) async fn under(
    store: &dyn ReadStore,
    cluster: &ClusterName,
    prefix: &str,
) -> Result<Vec<Archived>, StoreError> {
    let objects = store.list(prefix).await?;
    let archived = objects.into_iter().filter_map(|info| {
        let (name, sha256) = names::parse_wal(cluster, &info.key)?;
        Some(Archived { name, sha256, key: info.key, size: info.size })
    });
    Ok(archived.collect())
}
