//! Whole objects and whole listings out of bounded requests. Every layer and the S3 store itself go through here, so
//! that the outermost one treats each part, range and page on its own: a fault late in a large object costs one part.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{FuturesOrdered, StreamExt};
use tokio::task::spawn_blocking;

use super::{Body, ObjectInfo, PartStore, PartTag, ReadStore, Store, StoreError, StoreErrorKind, Upload};

/// What one request reads at most, in bytes.
pub(super) const RANGE: u64 = 16 * 1024 * 1024;

/// How many ranges are read at once.
const RANGES_AT_ONCE: usize = 3;

/// Pages of a listing after which something must be wrong with the store: 100 million objects.
const PAGES: usize = 100_000;

/// Reads a large range by several requests to the same store.
pub(super) async fn get(
    store: &dyn ReadStore,
    key: &str,
    offset: u64,
    length: u64,
) -> Result<Vec<u8>, StoreError> {
    let mut ranges: VecDeque<(u64, u64)> =
        (0..length.div_ceil(RANGE)).map(|n| (offset + n * RANGE, RANGE.min(length - n * RANGE))).collect();
    let mut bytes = Vec::with_capacity(usize::try_from(length).unwrap_or(0));
    let mut running = FuturesOrdered::new();
    loop {
        while running.len() < RANGES_AT_ONCE
            && let Some((offset, length)) = ranges.pop_front()
        {
            running.push_back(store.get(key, offset, length));
        }
        match running.next().await {
            Some(range) => bytes.extend_from_slice(&range?),
            None => return Ok(bytes),
        }
    }
}

/// Lists page by page; an error rather than a part of the list.
pub(super) async fn list(store: &dyn ReadStore, prefix: &str) -> Result<Vec<ObjectInfo>, StoreError> {
    let mut objects = Vec::new();
    let mut from: Option<String> = None;
    for _ in 0..PAGES {
        let page = store.list_page(prefix, from.as_deref()).await?;
        objects.extend(page.objects);
        match page.next {
            None => {
                objects.sort_by(|left: &ObjectInfo, right| left.key.cmp(&right.key));
                objects.dedup_by(|left, right| left.key == right.key);
                return Ok(objects);
            }
            next => from = next,
        }
    }
    Err(failure(store, "list", prefix, format!("the list does not end after {PAGES} pages")))
}

/// The way to write this body part by part, if it is so large that it must be.
pub(super) fn parts_for<'a>(store: &'a dyn Store, body: &Body) -> Option<&'a dyn PartStore> {
    let parts = store.parts()?;
    (body.size() > parts.part_size(body.size())).then_some(parts)
}

/// Writes a large body part by part, several at once; gives the upload up when one of them fails.
pub(super) async fn put(
    store: &dyn ReadStore,
    parts: &dyn PartStore,
    key: &str,
    body: Body,
) -> Result<(), StoreError> {
    let size = body.size();
    let source = Source::open(body)
        .await
        .map_err(|error| failure(store, "write", key, format!("open the file to be sent: {error}")))?;
    let upload = parts.begin_upload(key).await?;
    let result = async {
        let tags = put_parts(store, parts, &upload, &source, size).await?;
        parts.complete_upload(&upload, &tags, size).await
    }
    .await;
    if result.is_err() {
        // What can't be given up now is found later, by `abort_unfinished`; the error that counts is the first.
        let _ = parts.abort_upload(&upload).await;
    }
    result
}

async fn put_parts(
    store: &dyn ReadStore,
    parts: &dyn PartStore,
    upload: &Upload,
    source: &Source,
    size: u64,
) -> Result<Vec<PartTag>, StoreError> {
    let part_size = parts.part_size(size);
    let count = size.div_ceil(part_size);
    let mut tags = Vec::new();
    let mut running = FuturesOrdered::new();
    let mut next = 0;
    loop {
        while running.len() < parts.parts_at_once() && next < count {
            let (number, offset) = (next as u32 + 1, next * part_size);
            let length = part_size.min(size - offset);
            next += 1;
            running.push_back(async move {
                let bytes = source.read(offset, length).await.map_err(|error| {
                    failure(store, "write", &upload.key, format!("read the file to be sent: {error}"))
                })?;
                parts.put_part(upload, number, bytes).await
            });
        }
        match running.next().await {
            Some(tag) => tags.push(tag?),
            None => return Ok(tags),
        }
    }
}

/// What is sent: read again for each part, never held as a whole unless it already is.
enum Source {
    Bytes(Bytes),
    File(Arc<File>),
}

impl Source {
    async fn open(body: Body) -> io::Result<Self> {
        match body {
            Body::Bytes(bytes) => Ok(Self::Bytes(bytes.into())),
            Body::File { path, .. } => {
                let file = spawn_blocking(move || File::open(path)).await.map_err(io::Error::other)??;
                Ok(Self::File(Arc::new(file)))
            }
        }
    }

    async fn read(&self, offset: u64, length: u64) -> io::Result<Bytes> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.slice(offset as usize..(offset + length) as usize)),
            Self::File(file) => {
                let file = Arc::clone(file);
                let read = spawn_blocking(move || {
                    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
                    file.read_exact_at(&mut bytes, offset)?;
                    Ok(bytes.into())
                });
                read.await.map_err(io::Error::other)?
            }
        }
    }
}

/// The whole of a body that fits into one request.
pub(super) async fn load(store: &dyn ReadStore, key: &str, body: Body) -> Result<Bytes, StoreError> {
    let size = body.size();
    let read = async { Source::open(body).await?.read(0, size).await };
    read.await.map_err(|error| failure(store, "write", key, format!("read the file to be sent: {error}")))
}

fn failure(store: &dyn ReadStore, operation: &'static str, key: &str, cause: String) -> StoreError {
    StoreError {
        store: store.name(),
        operation,
        place: store.locate(key),
        kind: StoreErrorKind::Failed,
        cause,
    }
}

/// The parts of the store inside a layer. A layer offers parts only when its store does, so this fails never.
pub(super) fn parts_of(store: &dyn Store) -> Result<&dyn PartStore, StoreError> {
    store.parts().ok_or_else(|| failure(store, "write", "", "this store takes no parts".to_owned()))
}
