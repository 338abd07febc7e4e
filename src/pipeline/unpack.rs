//! The mirror of packing: frames out of the stores, opened in parallel; entries' bytes handed out in order, checked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use anyhow::Context;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::fetch::{Fetching, Opening, RangeReader, Wanted};
use super::{Buffers, in_flight};
use crate::format::manifest::{Entry, Manifest};
use crate::model::{Digest, Fault, Kind, Stage};
use crate::system::Stop;

/// Takes the plain bytes of entries, in ascending order of offset within each entry.
pub trait Sink: Send + 'static {
    /// Takes bytes of the entry with this index in the manifest.
    fn write(&mut self, entry: usize, offset: u64, bytes: &[u8]) -> anyhow::Result<()>;

    /// Learns that an entry is complete and its digest is right. Beside another, not that this has written its part.
    fn complete(&mut self, entry: usize) -> anyhow::Result<()>;

    /// Another one that writes parts of the same entries at the same time; nothing where they must come in their order.
    fn beside(&self) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }
}

/// Throws everything away: for verifying.
#[derive(Debug, Clone, Copy, Default)]
pub struct Discard;

impl Sink for Discard {
    fn write(&mut self, _: usize, _: u64, _: &[u8]) -> anyhow::Result<()> {
        Ok(())
    }

    fn complete(&mut self, _: usize) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Keeps one small entry in memory.
#[derive(Debug, Default)]
pub struct Gather(pub Vec<u8>);

impl Sink for Gather {
    fn write(&mut self, _: usize, _: u64, bytes: &[u8]) -> anyhow::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn complete(&mut self, _: usize) -> anyhow::Result<()> {
        Ok(())
    }
}

/// What to unpack.
pub struct Unpack {
    /// The backup.
    pub manifest: Arc<Manifest>,
    /// Indexes of the wanted entries, ascending.
    pub entries: Vec<usize>,
    /// Counts plain bytes.
    pub stage: Stage,
}

/// Frames that are checked and wait for one writer.
const CHECKED: usize = 2;
/// How many write at the same time, where that can be.
const WRITERS: usize = 2;

/// Reads, opens, decompresses, checks and hands out the wanted entries. Returns the sink when all was right.
pub async fn unpack<S: Sink>(
    request: Unpack,
    reader: Arc<dyn RangeReader>,
    sink: S,
    stop: Stop,
) -> anyhow::Result<S> {
    let Unpack { manifest, entries, stage } = request;
    let by_frame = frames_wanted(&manifest, &entries)?;
    let (opening_in, opening) = mpsc::channel::<Opening>(in_flight());
    let buffers = Buffers::default();
    let (mut queues, mut writers) = (Vec::new(), Vec::new());
    let others: Vec<S> = (1..WRITERS).map_while(|_| sink.beside()).collect();
    let stage = Arc::new(stage);
    for sink in std::iter::once(sink).chain(others) {
        let (checked_in, checked) = std::sync::mpsc::sync_channel::<Checked>(CHECKED);
        let (buffers, stage) = (buffers.clone(), Arc::clone(&stage));
        queues.push(checked_in);
        // Beside the checking: summing up and writing each take about as long.
        writers.push(spawn_blocking(move || hand_out(&checked, sink, &buffers, &stage)));
    }
    let check = spawn_blocking({
        let (manifest, stop) = (Arc::clone(&manifest), stop.clone());
        let runtime = tokio::runtime::Handle::current();
        move || check(&runtime, &manifest, &entries, opening, &queues, &stop)
    });
    let fetch = async {
        let mut by_frame = by_frame;
        for number in 0..u32::try_from(manifest.volumes.len())? {
            let wanted = by_frame.remove(&number).unwrap_or_default();
            if wanted.is_empty() {
                continue;
            }
            let fetching = Fetching {
                manifest: Arc::clone(&manifest),
                number,
                reader: Arc::clone(&reader),
                buffers: buffers.clone(),
            };
            let whole = fetching.run(wanted, &opening_in).await?;
            if !whole {
                break;
            }
        }
        drop(opening_in);
        Ok(())
    };
    let writing = async {
        let mut sinks = Vec::with_capacity(writers.len());
        for writer in writers {
            sinks.push(writer.await.context("hand out entries")??);
        }
        Ok(sinks)
    };
    let all = async { tokio::try_join!(fetch, async { check.await.context("check entries")? }, writing) };
    let ((), (), sinks) = stop.or(all).await?;
    sinks.into_iter().next().context("nobody has written")
}

/// By volume and frame, which of its bytes are wanted.
fn frames_wanted(
    manifest: &Manifest,
    entries: &[usize],
) -> anyhow::Result<BTreeMap<u32, BTreeMap<u32, Vec<Wanted>>>> {
    let mut volumes: BTreeMap<u32, BTreeMap<u32, Vec<Wanted>>> = BTreeMap::new();
    for &index in entries {
        let mut entry_offset = 0;
        for extent in &manifest.entries[index].extents {
            if extent.backup != 0 {
                let other = manifest.backups.get(extent.backup as usize).map_or("unknown", |id| id.as_str());
                return Fault::new(
                    Kind::NotInitialised,
                    format!(
                        "{} needs the backup {other}, and this version reads no incremental backups",
                        manifest.id
                    ),
                )
                .hint("Use the version that made it, or a newer one.")
                .err();
            }
            let wanted = Wanted {
                entry: index,
                entry_offset,
                offset: extent.offset as usize,
                length: extent.length as usize,
            };
            volumes.entry(extent.volume).or_default().entry(extent.frame).or_default().push(wanted);
            entry_offset += u64::from(extent.length);
        }
    }
    Ok(volumes)
}

struct Progressing {
    hasher: Sha256,
    size: u64,
}

/// A frame whose pieces are in order.
struct Checked {
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
}

struct Piece {
    wanted: Wanted,
    /// The entry is complete with it, and its digest is right.
    ends: bool,
}

/// Compares every entry's length and digest at its end, and passes its bytes on. Ends early, without an error, when nobody
/// takes them any more: who took them says why.
fn check(
    runtime: &tokio::runtime::Handle,
    manifest: &Manifest,
    entries: &[usize],
    mut opening: mpsc::Receiver<Opening>,
    queues: &[SyncSender<Checked>],
    stop: &Stop,
) -> anyhow::Result<()> {
    let mut under_way: BTreeMap<usize, Progressing> = BTreeMap::new();
    let mut done = 0;
    // Entries without a byte are in no frame.
    let mut empty = Checked { bytes: Vec::new(), pieces: Vec::new() };
    for &index in entries.iter().filter(|index| manifest.entries[**index].size == 0) {
        finish(manifest, index, Progressing { hasher: Sha256::new(), size: 0 })?;
        let wanted = Wanted { entry: index, entry_offset: 0, offset: 0, length: 0 };
        empty.pieces.push(Piece { wanted, ends: true });
        done += 1;
    }
    if queues.first().is_none_or(|queue| queue.send(empty).is_err()) {
        return Ok(());
    }
    let mut turns = queues.iter().cycle();
    while let Some(frame) = opening.blocking_recv() {
        stop.check()?;
        let frame = runtime.block_on(frame).context("open a frame")??;
        let mut pieces = Vec::with_capacity(frame.wanted.len());
        for wanted in frame.wanted {
            let entry = &manifest.entries[wanted.entry];
            let bytes = frame.bytes.get(wanted.offset..wanted.offset + wanted.length).ok_or_else(|| {
                Fault::new(
                    Kind::Damaged,
                    format!("{}: an extent of {} leaves its frame", manifest.id, entry.name),
                )
            })?;
            let state = under_way
                .entry(wanted.entry)
                .or_insert_with(|| Progressing { hasher: Sha256::new(), size: 0 });
            if state.size != wanted.entry_offset {
                return Err(out_of_order(manifest, entry).into());
            }
            state.hasher.update(bytes);
            state.size += wanted.length as u64;
            let ends = state.size == entry.size;
            if ends && let Some(state) = under_way.remove(&wanted.entry) {
                finish(manifest, wanted.entry, state)?;
                done += 1;
            }
            pieces.push(Piece { wanted, ends });
        }
        if turns.next().is_none_or(|queue| queue.send(Checked { bytes: frame.bytes, pieces }).is_err()) {
            return Ok(());
        }
    }
    // The fetching side says itself why it ended early; this is what it forgot.
    if done != entries.len() {
        let missing =
            under_way.keys().next().or(entries.last()).map_or("", |index| &manifest.entries[*index].name);
        return Fault::new(
            Kind::Damaged,
            format!("{}: {missing} is not complete in the volumes", manifest.id),
        )
        .err();
    }
    Ok(())
}

/// Gives the bytes to the sink, in order.
fn hand_out<S: Sink>(
    checked: &Receiver<Checked>,
    mut sink: S,
    buffers: &Buffers,
    stage: &Stage,
) -> anyhow::Result<S> {
    while let Ok(Checked { bytes, pieces }) = checked.recv() {
        for Piece { wanted, ends } in pieces {
            if wanted.length > 0 {
                let piece = &bytes[wanted.offset..wanted.offset + wanted.length];
                sink.write(wanted.entry, wanted.entry_offset, piece)?;
                stage.add(wanted.length as u64);
            }
            if ends {
                sink.complete(wanted.entry)?;
            }
        }
        buffers.give_packed(bytes);
    }
    Ok(sink)
}

fn out_of_order(manifest: &Manifest, entry: &Entry) -> Fault {
    Fault::new(
        Kind::Damaged,
        format!("{}: the extents of {} are not in the order of its bytes", manifest.id, entry.name),
    )
}

fn finish(manifest: &Manifest, index: usize, state: Progressing) -> anyhow::Result<()> {
    let entry = &manifest.entries[index];
    let found = Digest::from_bytes(state.hasher.finalize().into());
    if found != entry.sha256 {
        return Fault::new(
            Kind::Damaged,
            format!(
                "{}: the SHA-256 of {} is {found}, it was read with {}",
                manifest.id, entry.name, entry.sha256
            ),
        )
        .err();
    }
    Ok(())
}
