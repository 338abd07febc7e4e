//! Where objects live. A store is a flat map from keys (paths with `/`) to objects that are written whole.
//!
//! A command that only reads is handed [`ReadStore`]s, which cannot delete. `list` returns everything or an error,
//! never a part: in a tool that deletes, half a list is an order to delete.
//!
//! A store in the cloud is [`S3Store`] inside three layers, each of which is a store again; [`cloud`] stacks them.

mod bounded;
mod clock;
mod cloud;
mod failure;
mod local;
mod part;
mod placing;
mod reading;
mod replicas;
mod retried;
mod s3;
mod throttled;
mod verified;

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;

use crate::model::{StoreName, Timestamp};
pub use clock::{Clock, MachineClock};
pub use cloud::cloud;
pub use failure::{StoreError, StoreErrorKind, StoreResult};
pub use local::LocalStore;
pub use part::{FileSums, Part, PartBuffers};
pub use placing::{Placed, Placing};
pub use reading::ReadReplicas;
pub use replicas::Replicas;
pub use retried::{Patience, Retried};
pub use s3::{Limits, S3Place, S3Store};
pub use throttled::{Rate, Throttled};
pub use verified::Verified;

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
    /// A finished, flushed file; it stays where it is unless the store can take it over by renaming, and does so also
    /// when the store has failed to.
    File {
        /// Where it lies.
        path: PathBuf,
        /// Its length.
        size: u64,
        /// What is known of its parts: one for all stores that it is sent to.
        sums: FileSums,
    },
}

impl Body {
    /// A file of which nothing is known yet.
    pub fn file(path: PathBuf, size: u64) -> Self {
        Self::File { path, size, sums: FileSums::default() }
    }

    /// Its length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { size, .. } => *size,
        }
    }
}

/// A part of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// The objects, in the order in which the store names them.
    pub objects: Vec<ObjectInfo>,
    /// Where the next page begins; none: this was the last.
    pub next: Option<String>,
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

    /// All objects whose key begins with `prefix`; sorted by key. Cheap when only few do.
    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError>;

    /// One page of that list, from where the page before said. For layers that treat each request on its own; what
    /// needs a listing calls [`ReadStore::list`].
    async fn list_page(&self, prefix: &str, from: Option<&str>) -> Result<Page, StoreError> {
        let _ = from;
        Ok(Page { objects: self.list(prefix).await?, next: None })
    }

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

    /// Removes many objects, with as few requests as the store allows, in no order; that one is not there is fine. After
    /// an error some may be gone.
    async fn delete_many(&self, keys: &[String]) -> Result<(), StoreError> {
        for key in keys {
            self.delete(key).await?;
        }
        Ok(())
    }

    /// Removes empty directories under the prefix that have not changed since that time, where there are directories.
    async fn remove_empty(&self, prefix: &str, unchanged_since: Timestamp) -> Result<(), StoreError> {
        let (_, _) = (prefix, unchanged_since);
        Ok(())
    }

    /// What time it is by the store's clock; `None`: it does not tell.
    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        Ok(None)
    }

    /// How large objects are written to this store part by part, if that is how it takes them.
    fn parts(&self) -> Option<&dyn PartStore> {
        None
    }

    /// Removes what an overwritten object has left in a store that keeps versions; the newest one stays. Nothing to
    /// do elsewhere. To be called for objects that are written again and again under one key.
    async fn delete_old_versions(&self, key: &str) -> Result<(), StoreError> {
        let _ = key;
        Ok(())
    }

    /// Gives up uploads under the prefix that were begun before that time (by the store's clock) and never
    /// completed: the provider charges for their parts. Returns their number.
    async fn abort_unfinished(&self, prefix: &str, begun_before: Timestamp) -> Result<u64, StoreError> {
        let (_, _) = (prefix, begun_before);
        Ok(0)
    }
}

/// An upload of one object that has been begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upload {
    /// The key under which the object will be.
    pub key: String,
    /// The store's name for this upload; any characters.
    pub id: String,
}

/// What the store calls a part that it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartTag {
    /// The part's number, from 1.
    pub number: u32,
    /// The store's word for its content.
    pub tag: String,
}

/// Writing part by part: begin, parts in any order and several at once, then complete or abort. Each call is one
/// bounded request and may be repeated, so that a layer can treat each on its own.
#[async_trait]
pub trait PartStore: Send + Sync {
    /// The size of every part but the last, in bytes, for an object of this size.
    fn part_size(&self, size: u64) -> u64;

    /// How many parts may be under way at once. One more is held in memory, ready to follow.
    fn parts_at_once(&self) -> usize;

    /// What parts are read into.
    fn buffers(&self) -> PartBuffers;

    /// Begins an upload.
    async fn begin_upload(&self, key: &str) -> Result<Upload, StoreError>;

    /// Sends one part; the same number again replaces it.
    async fn put_part(&self, upload: &Upload, number: u32, part: &Part) -> Result<PartTag, StoreError>;

    /// Makes the object out of its parts, `size` bytes in all; durable when this returns.
    async fn complete_upload(&self, upload: &Upload, parts: &[PartTag], size: u64) -> Result<(), StoreError>;

    /// Gives up the upload; that the store does not know it is fine.
    async fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError>;
}
