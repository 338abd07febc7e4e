//! The layer that repeats what may pass: the one place where anything is tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::{
    Body, Clock, ObjectInfo, Page, Part, PartBuffers, PartStore, PartTag, ReadStore, Store, StoreError,
    StoreErrorKind, Upload, bounded,
};
use crate::model::{StoreName, Timestamp};
use crate::system::random_u32;

/// Objects that are deleted by one request: as many as S3 takes.
const DELETES_AT_ONCE: usize = 1000;

/// How long one request is repeated: exponential backoff with full jitter, so that many who were refused at once do
/// not come back at once.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// Attempts in all.
    pub attempts: u32,
    /// Attempts in all when not even a connection comes about.
    pub attempts_to_connect: u32,
    /// The longest first wait; doubles with each attempt.
    pub first: Duration,
    /// The longest wait between two attempts, unless the store asks for a longer one.
    pub longest: Duration,
    /// No attempt begins later than this after the first one began.
    pub total: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            attempts: 8,
            attempts_to_connect: 4,
            first: Duration::from_millis(250),
            longest: Duration::from_secs(15),
            total: Duration::from_mins(2),
        }
    }
}

/// A store whose passing failures are waited out.
///
/// A store that stayed away through all attempts gets only one per request from then on, until it answers again:
/// a run that asks it a thousand things must not wait a thousand times.
#[derive(Debug)]
pub struct Retried<S> {
    inner: S,
    patience: Patience,
    clock: Arc<dyn Clock>,
    away: AtomicBool,
}

impl<S: Store> Retried<S> {
    /// Puts the layer around a store.
    pub fn new(inner: S, patience: Patience, clock: Arc<dyn Clock>) -> Self {
        Self { inner, patience, clock, away: AtomicBool::new(false) }
    }

    async fn repeat<T, F>(&self, request: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let begun = self.clock.elapsed();
        let mut attempt = 1;
        loop {
            let mut error = match request().await {
                Ok(value) => {
                    self.away.store(false, Ordering::Relaxed);
                    return Ok(value);
                }
                Err(error) => error,
            };
            let no_answer = matches!(error.kind, StoreErrorKind::Unreachable | StoreErrorKind::Timeout);
            let was_away = if no_answer {
                self.away.load(Ordering::Relaxed)
            } else {
                self.away.swap(false, Ordering::Relaxed)
            };
            if !error.kind.is_passing() {
                return Err(error);
            }
            let spent = self.clock.elapsed().saturating_sub(begun);
            let wait = self.wait(attempt, error.kind);
            let attempts = match error.kind {
                _ if no_answer && was_away => 1,
                StoreErrorKind::Unreachable => self.patience.attempts_to_connect,
                _ => self.patience.attempts,
            };
            if attempt >= attempts || spent + wait > self.patience.total {
                if no_answer {
                    self.away.store(true, Ordering::Relaxed);
                }
                if attempt > 1 {
                    error.cause = format!(
                        "{} (given up after {attempt} attempts in {} s)",
                        error.cause,
                        spent.as_secs()
                    );
                }
                return Err(error);
            }
            self.clock.sleep(wait).await;
            attempt += 1;
        }
    }

    /// How long to wait after this attempt: at random up to a bound that doubles, and at least what the store asked for.
    fn wait(&self, attempt: u32, kind: StoreErrorKind) -> Duration {
        let bound = self.patience.first.saturating_mul(1 << (attempt - 1).min(16)).min(self.patience.longest);
        // Without random numbers, the bound itself is as good a wait as any.
        let jittered =
            random_u32().map_or(bound, |random| bound.mul_f64(f64::from(random) / f64::from(u32::MAX)));
        match kind {
            StoreErrorKind::SlowDown { wait: Some(asked) } => asked + jittered,
            _ => jittered,
        }
    }
}

#[async_trait]
impl<S: Store> ReadStore for Retried<S> {
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
        self.repeat(|| self.inner.get(key, offset, length)).await
    }

    async fn head(&self, key: &str) -> Result<Option<ObjectInfo>, StoreError> {
        self.repeat(|| self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
        bounded::list(self, prefix).await
    }

    async fn list_page(&self, prefix: &str, from: Option<&str>) -> Result<Page, StoreError> {
        self.repeat(|| self.inner.list_page(prefix, from)).await
    }

    async fn get_small(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.repeat(|| self.inner.get_small(key)).await
    }
}

#[async_trait]
impl<S: Store> Store for Retried<S> {
    async fn put(&self, key: &str, body: Body) -> Result<(), StoreError> {
        if let Some(parts) = bounded::parts_for(self, &body) {
            return bounded::put(self, parts, key, body).await;
        }
        self.repeat(|| self.inner.put(key, body.clone())).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.repeat(|| self.inner.delete(key)).await
    }

    async fn delete_many(&self, keys: &[String]) -> Result<(), StoreError> {
        // Each request on its own: a fault late in a long list costs one of them.
        for some in keys.chunks(DELETES_AT_ONCE) {
            self.repeat(|| self.inner.delete_many(some)).await?;
        }
        Ok(())
    }

    async fn clock(&self) -> Result<Option<Timestamp>, StoreError> {
        self.repeat(|| self.inner.clock()).await
    }

    fn parts(&self) -> Option<&dyn PartStore> {
        self.inner.parts().map(|_| self as &dyn PartStore)
    }

    async fn delete_old_versions(&self, key: &str) -> Result<(), StoreError> {
        self.repeat(|| self.inner.delete_old_versions(key)).await
    }

    async fn abort_unfinished(&self, prefix: &str, begun_before: Timestamp) -> Result<u64, StoreError> {
        self.repeat(|| self.inner.abort_unfinished(prefix, begun_before)).await
    }
}

#[async_trait]
impl<S: Store> PartStore for Retried<S> {
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
        let parts = bounded::parts_of(&self.inner)?;
        self.repeat(|| parts.begin_upload(key)).await
    }

    async fn put_part(&self, upload: &Upload, number: u32, part: &Part) -> Result<PartTag, StoreError> {
        let parts = bounded::parts_of(&self.inner)?;
        self.repeat(|| parts.put_part(upload, number, part)).await
    }

    async fn complete_upload(&self, upload: &Upload, tags: &[PartTag], size: u64) -> Result<(), StoreError> {
        let parts = bounded::parts_of(&self.inner)?;
        self.repeat(|| parts.complete_upload(upload, tags, size)).await
    }

    async fn abort_upload(&self, upload: &Upload) -> Result<(), StoreError> {
        let parts = bounded::parts_of(&self.inner)?;
        self.repeat(|| parts.abort_upload(upload)).await
    }
}
