//! Whole objects and whole listings out of bounded requests. Every layer and the S3 store itself go through here, so
//! that the outermost one treats each part, range and page on its own: a fault late in a large object costs one part.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::{FuturesOrdered, FuturesUnordered, StreamExt};
use tokio::task::{JoinHandle, spawn_blocking};

use super::{
    Body, ObjectInfo, Part, PartStore, PartTag, ReadStore, Store, StoreError, StoreErrorKind, Upload,
};

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
    let mut offsets = (0..size.div_ceil(part_size)).map(|n| n * part_size);
    // One part is read and summed up while those before it are under way, so that the line never waits for it.
    let mut prepare = || offsets.next().map(|offset| source.part(offset, part_size.min(size - offset)));
    let mut ready = prepare();
    let (mut begun, mut tags, mut running) = (0, Vec::new(), FuturesUnordered::new());
    loop {
        while running.len() < parts.parts_at_once()
            && let Some(preparing) = ready.take()
        {
            begun += 1;
            let number = begun;
            ready = prepare();
            running.push(async move {
                let part =
                    prepared(preparing).await.map_err(|error| unreadable(store, &upload.key, &error))?;
                parts.put_part(upload, number, &part).await
            });
        }
        match running.next().await {
            Some(tag) => tags.push(tag?),
            None => break,
        }
    }
    tags.sort_by_key(|tag| tag.number);
    Ok(tags)
}

async fn prepared(preparing: JoinHandle<io::Result<Part>>) -> io::Result<Part> {
    preparing.await.map_err(io::Error::other)?
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

    /// Begins to read a part and to sum it up.
    fn part(&self, offset: u64, length: u64) -> JoinHandle<io::Result<Part>> {
        match self {
            Self::Bytes(bytes) => {
                let bytes = bytes.slice(offset as usize..(offset + length) as usize);
                spawn_blocking(move || Ok(Part::new(bytes)))
            }
            Self::File(file) => {
                let file = Arc::clone(file);
                spawn_blocking(move || {
                    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
                    file.read_exact_at(&mut bytes, offset)?;
                    Ok(Part::new(bytes.into()))
                })
            }
        }
    }
}

/// The whole of a body that fits into one request.
pub(super) async fn load(store: &dyn ReadStore, key: &str, body: Body) -> Result<Part, StoreError> {
    let size = body.size();
    let read = async { prepared(Source::open(body).await?.part(0, size)).await };
    read.await.map_err(|error| unreadable(store, key, &error))
}

fn unreadable(store: &dyn ReadStore, key: &str, error: &io::Error) -> StoreError {
    failure(store, "write", key, format!("read the file to be sent: {error}"))
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
