//! The layer that keeps within a rate of bytes per second, whatever number of requests is under way.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use super::{
    Body, Clock, ObjectInfo, Page, Part, PartBuffers, PartStore, PartTag, ReadStore, Store, StoreError,
    Upload, bounded,
};
use crate::model::{StoreName, Timestamp};

/// A token bucket: each request takes as many tokens as it has bytes, and waits until the requests before it are
/// paid for. An idle time saves nothing up, so the rate is kept from the second request on. Clones share the bucket.
#[derive(Debug, Clone)]
pub struct Rate {
    bytes_per_second: u64,
    clock: Arc<dyn Clock>,
    /// When everything taken so far is paid for.
    paid: Arc<Mutex<Duration>>,
}

impl Rate {
    /// A bucket that is filled at this rate, which is at least 1.
    pub fn new(bytes_per_second: u64, clock: Arc<dyn Clock>) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), clock, paid: Arc::default() }
    }

    async fn take(&self, bytes: u64) {
        let wait = {
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            let now = self.clock.elapsed();
            let begin = now.max(*paid);
            *paid = begin + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
            begin.saturating_sub(now)
        };
        if !wait.is_zero() {
            self.clock.sleep(wait).await;
        }
    }
}

/// A store to and from which no more bytes go than the rate allows, on average over a few parts.
#[derive(Debug)]
pub struct Throttled<S> {
    inner: S,
    rate: Rate,
}

impl<S: Store> Throttled<S> {
    /// Puts the layer around a store.
    pub fn new(inner: S, rate: Rate) -> Self {
        Self { inner, rate }
    }
}

#[async_trait]
impl<S: Store> ReadStore for Throttled<S> {
    fn name(&self) -> StoreName {
        self.inner.name()
    }

    fn locate(&self, key: &str) -> String {
        self.inner.locate(key)
    }

    async fn get(&self, key: &str, offset: u64, length: u64) -> Result<Vec<u8>, StoreError> {
        if length > bounded::RANGE {
            return bounded::get(self, key, offset, length).await;
        }
        self.rate.take(length).await;
        self.inner.get(key, offset, length).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        self.inner.list(prefix).await
    }

    async fn list_page(&self, prefix: &str, from: Option<&str>) -> Result<Page, StoreError> {
        self.inner.list_page(prefix, from).await
    }

    async fn get_small(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        // Its size is known afterwards: the next request pays.
        self.rate.take(0).await;
        let object = self.inner.get_small(key).await?;
        let size = object.as_ref().map_or(0, Vec::len) as u64;
        *self.rate.paid.lock().unwrap_or_else(PoisonError::into_inner) +=
            Duration::from_secs_f64(size as f64 / self.rate.bytes_per_second as f64);
        Ok(object)
    }
}

#[async_trait]
impl<S: Store> Store for Throttled<S> {
    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError> {
        if let Some(parts) = bounded::parts_for(self, &body) {
            return bounded::put(self, parts, key, body).await;
        }
        self.rate.take(body.size()).await;
        self.inner.put(key, body).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }

    async fn delete_many(&self, keys: &[String]) -> Result<(), StoreError> {
        self.inner.delete_many(keys).await
    }

    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        self.inner.clock().await
    }

    fn parts(&self) -> Option<&dyn PartStore> {
        self.inner.parts().map(|_| self as &dyn PartStore)
    }

    async fn delete_old_versions(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete_old_versions(key).await
    }

    async fn abort_unfinished(&self, prefix: &str, begun_before: Timestamp) -> Result<u64, StoreError> {
        self.inner.abort_unfinished(prefix, begun_before).await
    }
}

#[async_trait]
impl<S: Store> PartStore for Throttled<S> {
    fn part_size(&self, size: u64) -> u64 {
        self.inner.parts().map_or(u64::MAX, |parts| parts.part_size(size))
    }

    fn parts_at_once(&self) -> usize {
        self.inner.parts().map_or(1, PartStore::parts_at_once)
    }

    fn buffers(&self) -> PartBuffers {
        self.inner.parts().map(PartStore::buffers).unwrap_or_default()
    }

    async fn begin_upload(&self, key: &str) -> Result<Upload, StoreError> {
        bounded::parts_of(&self.inner)?.begin_upload(key).await
    }

    async fn put_part(&self, upload: &Upload, number: u32, part: &Part) -> Result<PartTag, StoreError> {
        self.rate.take(part.bytes().len() as u64).await;
        bounded::parts_of(&self.inner)?.put_part(upload, number, part).await
    }

    async fn complete_upload(&self, upload: &Upload, parts: &[PartTag], size: u64) -> Result<(), StoreError> {
        bounded::parts_of(&self.inner)?.complete_upload(upload, parts, size).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        bounded::parts_of(&self.inner)?.abort_upload(upload).await
    }
}
