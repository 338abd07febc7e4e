//! Whole objects and whole listings out of bounded requests. Every layer and the S3 store itself go through here, so
//! that the outermost one treats each part, range and page on its own: a fault late in a large object costs one part.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::thread;

use bytes::Bytes;
use futures_util::stream::{FuturesOrdered, FuturesUnordered, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::{
    Body, FileSums, ObjectInfo, Part, PartBuffers, PartStore, PartTag, ReadStore, Store, StoreError,
    StoreErrorKind, Upload,
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
        let tags = put_parts(store, parts, &upload, source, size).await?;
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
    source: Source,
    size: u64,
) -> Result<Vec<PartTag>, StoreError> {
    let part_size = parts.part_size(size);
    let mut ready = prepare(source, size, part_size, parts.buffers())
        .map_err(|error| failure(store, "write", &upload.key, format!("start a thread: {error}")))?;
    let (mut begun, mut are_more, mut tags) = (0, true, Vec::new());
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            part = ready.recv(), if are_more && running.len() < parts.parts_at_once() => {
                let Some(part) = part else {
                    are_more = false;
                    continue;
                };
                let part = part.map_err(|error| unreadable(store, &upload.key, &error))?;
                begun += 1;
                let number = begun;
                running.push(async move { parts.put_part(upload, number, &part).await });
            }
            Some(tag) = running.next(), if !running.is_empty() => tags.push(tag?),
            else => break,
        }
    }
    if tags.len() as u64 != size.div_ceil(part_size) {
        return Err(failure(store, "write", &upload.key, "not every part was read".to_owned()));
    }
    tags.sort_by_key(|tag| tag.number);
    Ok(tags)
}

/// Reads the parts in their order and sums them up, one ahead of what is under way, so that the line never waits for it.
///
/// A thread of its own does it. Among the threads that compress, which the runtime hands work to by turns, it would
/// make more of them take part, and each keeps memory of its own.
fn prepare(
    source: Source,
    size: u64,
    part_size: u64,
    buffers: PartBuffers,
) -> io::Result<mpsc::Receiver<io::Result<Part>>> {
    let (sender, receiver) = mpsc::channel(1);
    let runtime = Handle::current();
    let work = move || {
        for offset in (0..size.div_ceil(part_size)).map(|n| n * part_size) {
            // Before the part is made: what waits there is one part, not two. Nobody waits for more after a failure.
            let Ok(room) = runtime.block_on(sender.reserve()) else { return };
            room.send(source.part(offset, part_size.min(size - offset), &buffers));
        }
    };
    thread::Builder::new().name("parts".to_owned()).spawn(work)?;
    Ok(receiver)
}

/// What is sent: read again for each part, never held as a whole unless it already is.
enum Source {
    Bytes(Bytes),
    File(File, FileSums),
}

impl Source {
    async fn open(body: Body) -> io::Result<Self> {
        match body {
            Body::Bytes(bytes) => Ok(Self::Bytes(bytes.into())),
            Body::File { path, sums, .. } => {
                let file = spawn_blocking(move || File::open(path)).await.map_err(io::Error::other)??;
                Ok(Self::File(file, sums))
            }
        }
    }

    /// Reads a part and sums it up.
    fn part(&self, offset: u64, length: u64, buffers: &PartBuffers) -> io::Result<Part> {
        match self {
            Self::Bytes(bytes) => Ok(Part::new(bytes.slice(offset as usize..(offset + length) as usize))),
            Self::File(file, sums) => {
                let mut buffer = buffers.take(usize::try_from(length).map_err(io::Error::other)?);
                file.read_exact_at(&mut buffer, offset)?;
                Ok(Part::of_file(buffers.lend(buffer), offset, sums))
            }
        }
    }
}

/// The whole of a body that fits into one request.
pub(super) async fn load(store: &dyn ReadStore, key: &str, body: Body) -> Result<Part, StoreError> {
    let size = body.size();
    let read = async {
        let source = Source::open(body).await?;
        let read = spawn_blocking(move || source.part(0, size, &PartBuffers::default()));
        read.await.map_err(io::Error::other)?
    };
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
