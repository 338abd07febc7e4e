//! The mirror of packing: read ranges of volumes, open and decompress frames in parallel, hand out entries' bytes
//! in order, checked.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use anyhow::Context;
use async_trait::async_trait;
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use super::{Buffers, in_flight};
use crate::format::block;
use crate::format::manifest::{Entry, Manifest, Volume};
use crate::format::volume::{FRAME_HEADER, FrameHeader, FrameSeal, Method, VolumeHeader};
use crate::model::{Digest, Fault, Kind, Stage};
use crate::system::Stop;

/// Stored bytes fetched at once: whole frames, at least one.
const FETCH_BYTES: u64 = 4 * 1024 * 1024;
/// The longest header that a volume of a backup has.
const HEADER_BYTES: u64 = 512;

/// Reads ranges of a backup's volumes.
#[async_trait]
pub trait RangeReader: Send + Sync {
    /// Exactly `length` bytes of the volume from `offset`.
    async fn read(&self, volume: &str, offset: u64, length: u64) -> anyhow::Result<Vec<u8>>;
}

/// Takes the plain bytes of entries, in ascending order of offset within each entry.
pub trait Sink: Send + 'static {
    /// Takes bytes of the entry with this index in the manifest.
    fn write(&mut self, entry: usize, offset: u64, bytes: &[u8]) -> anyhow::Result<()>;

    /// Learns that an entry is complete and its digest is right.
    fn complete(&mut self, entry: usize) -> anyhow::Result<()>;
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

/// A wanted run of bytes: where it goes.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    entry: usize,
    entry_offset: u64,
    offset: usize,
    length: usize,
}

/// A frame on its way from the store.
struct StoredFrame {
    volume: u32,
    number: u32,
    /// What was fetched together, and where in it the frame lies with its header.
    fetched: Arc<Vec<u8>>,
    range: Range<usize>,
    wanted: Vec<Wanted>,
}

/// A frame that is open.
struct OpenFrame {
    bytes: Vec<u8>,
    wanted: Vec<Wanted>,
}

type Opening = JoinHandle<anyhow::Result<OpenFrame>>;

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
    let write = spawn_blocking({
        let (manifest, buffers, stop) = (Arc::clone(&manifest), buffers.clone(), stop.clone());
        let runtime = tokio::runtime::Handle::current();
        move || hand_out(&runtime, &manifest, &entries, opening, sink, &buffers, &stage, &stop)
    });
    let fetch = async {
        let mut by_frame = by_frame;
        for (number, volume) in manifest.volumes.iter().enumerate() {
            let number = u32::try_from(number)?;
            let wanted = by_frame.remove(&number).unwrap_or_default();
            if wanted.is_empty() {
                continue;
            }
            let fetching =
                Fetching { manifest: &manifest, volume, number, reader: &*reader, buffers: &buffers };
            let whole = fetching.run(wanted, &opening_in).await?;
            if !whole {
                break;
            }
        }
        drop(opening_in);
        Ok(())
    };
    let both = async { tokio::try_join!(fetch, async { write.await.context("hand out entries")? }) };
    let ((), sink) = stop.or(both).await?;
    Ok(sink)
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

struct Fetching<'a> {
    manifest: &'a Arc<Manifest>,
    volume: &'a Volume,
    number: u32,
    reader: &'a dyn RangeReader,
    buffers: &'a Buffers,
}

impl Fetching<'_> {
    /// Fetches the frames of one volume and sends them to be opened; false when nobody takes them any more.
    async fn run(
        &self,
        mut wanted: BTreeMap<u32, Vec<Wanted>>,
        opening: &mpsc::Sender<Opening>,
    ) -> anyhow::Result<bool> {
        let damaged = |what: String| damaged(self.manifest, &self.volume.name, &what);
        let head = self.reader.read(&self.volume.name, 0, HEADER_BYTES.min(self.volume.size)).await?;
        let (header, header_length) = VolumeHeader::decode(&head).map_err(|fault| Fault {
            message: format!("volume {} of {}: {}", self.volume.name, self.manifest.id, fault.message),
            ..fault
        })?;
        if header.owner != self.manifest.id.as_str() {
            return Err(damaged(format!("it is a volume of another backup, {}", header.owner)).into());
        }
        if header.number != self.number {
            return Err(
                damaged(format!("it is volume {} of the backup in this one's place", header.number)).into()
            );
        }
        let seal = Arc::new(FrameSeal::new(self.manifest.key.expose(), &head[..header_length], self.number)?);
        let mut offset = header_length as u64;
        let mut number: u32 = 0;
        let mut frames =
            self.volume.frames.iter().map(|stored| u64::from(*stored) + FRAME_HEADER as u64).peekable();
        while frames.peek().is_some() {
            // As many wanted frames as lie side by side, up to the bound.
            let (mut group, mut length) = (Vec::new(), 0);
            while let Some(size) = frames.peek() {
                let take = wanted.contains_key(&number);
                if (!take && !group.is_empty()) || (length > 0 && length + size > FETCH_BYTES) {
                    break;
                }
                if take {
                    group.push((number, *size as usize));
                    length += size;
                } else {
                    offset += size;
                }
                number += 1;
                frames.next();
            }
            if group.is_empty() {
                break;
            }
            let bytes = self.reader.read(&self.volume.name, offset, length).await?;
            offset += length;
            let fetched = Arc::new(bytes);
            let mut start = 0;
            for (number, size) in group {
                let range = start..start + size;
                start += size;
                let frame = StoredFrame {
                    volume: self.number,
                    number,
                    fetched: Arc::clone(&fetched),
                    range,
                    wanted: wanted.remove(&number).unwrap_or_default(),
                };
                let (manifest, seal, buffers) =
                    (Arc::clone(self.manifest), Arc::clone(&seal), self.buffers.clone());
                let method = header.method;
                let task = spawn_blocking(move || open(&manifest, &seal, method, frame, &buffers));
                if opening.send(task).await.is_err() {
                    return Ok(false);
                }
            }
        }
        if let Some(number) = wanted.keys().next() {
            return Err(
                damaged(format!("the manifest points to frame {number}, which it does not have")).into()
            );
        }
        Ok(true)
    }
}

fn damaged(manifest: &Manifest, volume: &str, what: &str) -> Fault {
    Fault::new(Kind::Damaged, format!("volume {volume} of {}: {what}", manifest.id))
}

/// Opens and decompresses one frame; says what is wrong with one that does not open.
fn open(
    manifest: &Manifest,
    seal: &FrameSeal,
    method: Method,
    frame: StoredFrame,
    buffers: &Buffers,
) -> anyhow::Result<OpenFrame> {
    let volume = &manifest.volumes[frame.volume as usize];
    let damaged = |what: String| damaged(manifest, &volume.name, &what);
    let number = frame.number;
    let (head, sealed) = frame.fetched[frame.range].split_at(FRAME_HEADER);
    let header = FrameHeader::decode(head)
        .ok_or_else(|| damaged(format!("frame {number} has an impossible header: bytes were changed")))?;
    let expected = volume.frames[number as usize];
    if header.stored != expected {
        return Err(damaged(format!(
            "frame {number} is {} bytes long, {expected} were stored: frames were swapped or bytes changed",
            header.stored
        ))
        .into());
    }
    let is_last = number as usize + 1 == volume.frames.len();
    if header.last != is_last {
        return Err(damaged(format!("frame {number} is not where it belongs: the end is elsewhere")).into());
    }
    // Opened in a copy: what does not open is looked at again below.
    let mut copy = buffers.take_packed();
    copy.extend_from_slice(sealed);
    let mut out = buffers.take_packed();
    match seal.open(number, header, &mut copy) {
        Ok(packed) if header.raw => out.extend_from_slice(packed),
        Ok(packed) => block::decompress_into(method, packed, header.plain as usize, &mut out)
            .with_context(|| damaged(format!("frame {number} does not decompress")))?,
        Err(_) => {
            // Sealed for another place? Then somebody moved it; else it was changed.
            let count = u32::try_from(volume.frames.len())?;
            let home = (0..count).find(|other| seal.open(*other, header, &mut sealed.to_vec()).is_ok());
            return Err(match home {
                Some(home) => {
                    damaged(format!("frame {number} is in the place of frame {home}: frames were swapped"))
                }
                None => damaged(format!("frame {number} does not fit its seal: bytes were changed")),
            }
            .into());
        }
    }
    if out.len() != header.plain as usize {
        return Err(damaged(format!("frame {number} has another length than its header says")).into());
    }
    buffers.give_packed(copy);
    Ok(OpenFrame { bytes: out, wanted: frame.wanted })
}

struct Progressing {
    hasher: Sha256,
    size: u64,
}

/// Gives the bytes to the sink in order and compares every entry's length and digest at its end.
#[expect(
    clippy::too_many_arguments,
    reason = "runs on a thread of its own and borrows everything from there"
)]
fn hand_out<S: Sink>(
    runtime: &tokio::runtime::Handle,
    manifest: &Manifest,
    entries: &[usize],
    mut opening: mpsc::Receiver<Opening>,
    mut sink: S,
    buffers: &Buffers,
    stage: &Stage,
    stop: &Stop,
) -> anyhow::Result<S> {
    let mut under_way: BTreeMap<usize, Progressing> = BTreeMap::new();
    let mut done = 0;
    // Entries without a byte are in no frame.
    for &index in entries.iter().filter(|index| manifest.entries[**index].size == 0) {
        finish(manifest, index, Progressing { hasher: Sha256::new(), size: 0 })?;
        sink.complete(index)?;
        done += 1;
    }
    while let Some(frame) = opening.blocking_recv() {
        stop.check()?;
        let frame = runtime.block_on(frame).context("open a frame")??;
        for wanted in &frame.wanted {
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
            sink.write(wanted.entry, wanted.entry_offset, bytes)?;
            stage.add(wanted.length as u64);
            if state.size == entry.size
                && let Some(state) = under_way.remove(&wanted.entry)
            {
                finish(manifest, wanted.entry, state)?;
                sink.complete(wanted.entry)?;
                done += 1;
            }
        }
        buffers.give_packed(frame.bytes);
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
