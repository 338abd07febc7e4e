//! Where objects live. A store is a flat map from keys (paths with `/`) to objects that are written whole.
//!
//! A command that only reads is handed [`ReadStore`]s, which cannot delete. `list` returns everything or an error,
//! never a part: in a tool that deletes, half a list is an order to delete.

mod failure;
mod local;
mod replicas;

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;

use crate::model::{StoreName, Timestamp};
pub use failure::{StoreError, StoreErrorKind, StoreResult};
pub use local::LocalStore;
pub use replicas::{Copy, ReadReplicas, Replicas};

/// An object as listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// When it was written, by the store's clock.
    pub modified: Option<Timestamp>,
}

/// What is put into a store: something that can be sent again if need be.
#[derive(Debug, Clone)]
pub enum Body {
    /// A small object.
    Bytes(Vec<u8>),
    /// A finished, flushed file; it stays where it is unless the store can take it over by renaming.
    File {
        /// Where it lies.
        path: PathBuf,
        /// Its length.
        size: u64,
    },
}

/// Reading.
#[async_trait]
pub trait ReadStore: fmt::Debug + Send + Sync {
    /// Which store this is.
    fn name(&self) -> StoreName;

    /// Where a key lies, as the operator would look for it: a path, or a URL.
    fn locate(&self, key: &str) -> String;

    /// Exactly `length` bytes from `offset`; an object that ends before is an error.
    async fn get(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>, StoreError>;

    /// The object's size, `None` when it is certain that there is none.
    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError>;

    /// All objects whose key begins with `prefix`, which ends in `/` or is empty; sorted by key.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError>;

    /// The whole of a small object; `None` when it is certain that there is none.
    async fn get_small(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match self.head(key).await? {
            Some(info) => self.get(key, 0, info.size).await.map(Some),
            None => Ok(None),
        }
    }
}

/// Writing.
#[async_trait]
pub trait Store: ReadStore {
    /// Writes the object, durable when this returns. An object of that key is replaced as a whole.
    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError>;

    /// Removes the object; that it is not there is fine.
    async fn delete(&self, key: &str) -> Result<(), StoreError>;
}
