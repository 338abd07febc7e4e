//! The layer that asks what is there after each write, and counts what comes back from each read.

use async_trait::async_trait;

use super::{
    Body, ObjectInfo, Page, Part, PartBuffers, PartStore, PartTag, ReadStore, Store, StoreError,
    StoreErrorKind, Upload, bounded,
};
use crate::model::{StoreName, Timestamp};

/// A store whose word is checked: a write is done when the object is there in its full size.
#[derive(Debug)]
pub struct Verified<S>(S);

impl<S: Store> Verified<S> {
    /// Puts the layer around a store.
    pub fn new(inner: S) -> Self {
        Self(inner)
    }

    async fn check(&self, key: &str, size: u64) -> Result<(), StoreError> {
        let cause = match self.0.head(key).await? {
            Some(info) if info.size == size => return Ok(()),
            Some(info) => format!("the store took {size} bytes without complaint, and has {} now", info.size),
            None => format!("the store took {size} bytes without complaint, and has no such object now"),
        };
        Err(self.differs("write", key, cause))
    }

    fn differs(&self, operation: &'static str, key: &str, cause: String) -> StoreError {
        let (store, place) = (self.name(), self.locate(key));
        StoreError { store, operation, place, kind: StoreErrorKind::Differs, cause }
    }
}

#[async_trait]
impl<S: Store> ReadStore for Verified<S> {
    fn name(&self) -> StoreName {
        self.0.name()
    }

    fn locate(&self, key: &str) -> String {
        self.0.locate(key)
    }

    async fn get(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        let bytes = self.0.get(key, offset, length).await?;
        if bytes.len() as u64 == length {
            return Ok(bytes);
        }
        let cause = format!("{length} bytes from {offset} were asked for, {} came", bytes.len());
        Err(self.differs("read", key, cause))
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        self.0.head(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.0.list(prefix).await
    }

    async fn list_page(&self, prefix: &str, from: Option<&str>) -> Result<Page, StoreError> {
        self.0.list_page(prefix, from).await
    }

    async fn get_small(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.get_small(key).await
    }
}

#[async_trait]
impl<S: Store> Store for Verified<S> {
    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError> {
        if let Some(parts) = bounded::parts_for(self, &body) {
            return bounded::put(self, parts, key, body).await;
        }
        let size = body.size();
        self.0.put(key, body).await?;
        self.check(key, size).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.0.delete(key).await
    }

    async fn delete_many(&self, keys: &[String]) -> Result<(), StoreError> {
        self.0.delete_many(keys).await
    }

    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        self.0.clock().await
    }

    fn parts(&self) -> Option<&dyn PartStore> {
        self.0.parts().map(|_| self as &dyn PartStore)
    }

    async fn delete_old_versions(&self, key: &str) -> Result<(), StoreError> {
        self.0.delete_old_versions(key).await
    }

    async fn abort_unfinished(&self, prefix: &str, begun_before: Timestamp) -> Result<u64, StoreError> {
        self.0.abort_unfinished(prefix, begun_before).await
    }
}

#[async_trait]
impl<S: Store> PartStore for Verified<S> {
    fn part_size(&self, size: u64) -> u64 {
        self.0.parts().map_or(u64::MAX, |parts| parts.part_size(size))
    }

    fn parts_at_once(&self) -> usize {
        self.0.parts().map_or(1, PartStore::parts_at_once)
    }

    fn buffers(&self) -> PartBuffers {
        self.0.parts().map(PartStore::buffers).unwrap_or_default()
    }

    async fn begin_upload(&self, key: &str) -> Result<Upload, StoreError> {
        bounded::parts_of(&self.0)?.begin_upload(key).await
    }

    async fn put_part(&self, upload: &Upload, number: u32, part: &Part) -> Result<PartTag, StoreError> {
        // The store inside compares the part's tag: it knows what a tag means.
        bounded::parts_of(&self.0)?.put_part(upload, number, part).await
    }

    async fn complete_upload(&self, upload: &Upload, parts: &[PartTag], size: u64) -> Result<(), StoreError> {
        bounded::parts_of(&self.0)?.complete_upload(upload, parts, size).await?;
        self.check(&upload.key, size).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        bounded::parts_of(&self.0)?.abort_upload(upload).await
    }
}
