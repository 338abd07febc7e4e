//! Frames on their way from the stores: fetched in groups, opened in parallel, and taken from another store when the
//! copy of one is damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use super::Buffers;
use crate::format::block;
use crate::format::manifest::{Manifest, Volume};
use crate::format::volume::{FRAME_HEADER, FrameHeader, FrameSeal, Method, VolumeHeader};
use crate::model::{Fault, Kind, StoreName};

/// Stored bytes fetched at once: whole frames, at least one.
const FETCH_BYTES: u64 = 4 * 1024 * 1024;
/// The longest header that a volume of a backup has.
const HEADER_BYTES: u64 = 512;
/// How many entries are named in a message.
const NAMED: usize = 8;

/// Reads ranges of a backup's volumes, of which there may be several copies.
#[async_trait]
pub trait RangeReader: Send + Sync {
    /// Exactly `length` bytes of the volume from `offset`, from a copy in none of the stores in `not`.
    ///
    /// The error is what was the matter with each of the other stores, nothing when there is none: of the kind
    /// [`Kind::Damaged`] when its copy is known to be lost, of another when it may be good and could not be had.
    async fn read(
        &self,
        volume: &str,
        offset: u64,
        length: u64,
        not: &[StoreName],
    ) -> Result<Fetched, Vec<Refusal>>;

    /// Learns that the copy of the volume in this store is not what was stored.
    fn reject(&self, volume: &str, from: StoreName, why: &Fault);
}

/// What is wrong with a store's copy, or with the store.
pub type Refusal = (StoreName, Fault);

/// Bytes as they came from a store.
#[derive(Debug)]
pub struct Fetched {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// The store.
    pub from: StoreName,
}

/// How many reads all frames of the volume take: one for its header, and as many as `FETCH_BYTES` fit into the rest.
pub fn requests(volume: &Volume) -> u64 {
    let (mut reads, mut length) = (1, 0);
    for frame in &volume.frames {
        let size = u64::from(*frame) + FRAME_HEADER as u64;
        if length == 0 || length + size > FETCH_BYTES {
            reads += 1;
            length = 0;
        }
        length += size;
    }
    reads
}

/// How many stored bytes these frames of the volume are, and how many reads they take, its header's among both; nothing where
/// none is wanted.
pub fn part(volume: &Volume, frames: &BTreeSet<u32>) -> Option<(u64, u64)> {
    if frames.is_empty() {
        return None;
    }
    let (mut bytes, mut reads, mut length, mut last) = (HEADER_BYTES.min(volume.size), 1, 0, None);
    for number in frames {
        let frame = *volume.frames.get(*number as usize)?;
        let size = u64::from(frame) + FRAME_HEADER as u64;
        if last.is_none_or(|last| last + 1 != *number) || length + size > FETCH_BYTES {
            reads += 1;
            length = 0;
        }
        length += size;
        bytes += size;
        last = Some(*number);
    }
    Some((bytes, reads))
}

/// A wanted run of bytes: where it goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) entry: usize,
    pub(super) entry_offset: u64,
    pub(super) offset: usize,
    pub(super) length: usize,
}

/// A frame that is open.
pub(super) struct OpenFrame {
    pub(super) bytes: Vec<u8>,
    pub(super) wanted: Vec<Wanted>,
}

/// A frame that is being opened.
pub(super) type Opening = JoinHandle<anyhow::Result<OpenFrame>>;

/// A volume of which frames are wanted.
pub(super) struct Fetching {
    pub(super) manifest: Arc<Manifest>,
    pub(super) number: u32,
    pub(super) reader: Arc<dyn RangeReader>,
    pub(super) buffers: Buffers,
}

/// What it takes to open a volume's frames.
struct Opener {
    fetching: Fetching,
    seal: FrameSeal,
    method: Method,
    header_length: u64,
}

/// A frame on its way from the store.
struct StoredFrame {
    number: u32,
    /// Where in the volume it lies, with its header.
    offset: u64,
    /// What was fetched together, and where in it the frame lies.
    fetched: Arc<Fetched>,
    range: Range<usize>,
    wanted: Vec<Wanted>,
}

impl Fetching {
    fn volume(&self) -> &Volume {
        &self.manifest.volumes[self.number as usize]
    }

    /// Fetches the frames and sends them to be opened; false when nobody takes them any more.
    pub(super) async fn run(
        self,
        mut wanted: BTreeMap<u32, Vec<Wanted>>,
        opening: &mpsc::Sender<Opening>,
    ) -> anyhow::Result<bool> {
        let opener = Arc::new(self.begin(&wanted).await?);
        let Fetching { reader, .. } = &opener.fetching;
        let volume = opener.fetching.volume();
        let mut offset = opener.header_length;
        let mut number: u32 = 0;
        let mut frames =
            volume.frames.iter().map(|stored| u64::from(*stored) + FRAME_HEADER as u64).peekable();
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
            let (Some((first, _)), Some((last, _))) = (group.first(), group.last()) else { break };
            let fetched = reader.read(&volume.name, offset, length, &[]).await.map_err(|wrong| {
                let what = if first == last {
                    format!("frame {first}")
                } else {
                    format!("frames {first} to {last}")
                };
                let entries = wanted.range(first..=last).flat_map(|(_, wanted)| entries_of(wanted));
                opener.fetching.lost(&what, &wrong, &entries.collect())
            })?;
            let fetched = Arc::new(fetched);
            let mut start = 0;
            for (number, size) in group {
                let range = start..start + size;
                start += size;
                let frame = StoredFrame {
                    number,
                    offset,
                    fetched: Arc::clone(&fetched),
                    range,
                    wanted: wanted.remove(&number).unwrap_or_default(),
                };
                offset += size as u64;
                let (opener, runtime) = (Arc::clone(&opener), Handle::current());
                let task = spawn_blocking(move || opener.frame(frame, &runtime));
                if opening.send(task).await.is_err() {
                    return Ok(false);
                }
            }
        }
        if let Some(number) = wanted.keys().next() {
            let what = format!("the manifest points to frame {number}, which it does not have");
            return Err(opener.fetching.damaged(&what).into());
        }
        Ok(true)
    }

    /// Reads the volume's header from the first store that has the right one.
    async fn begin(self, wanted: &BTreeMap<u32, Vec<Wanted>>) -> anyhow::Result<Opener> {
        let length = HEADER_BYTES.min(self.volume().size);
        let mut wrong: Vec<Refusal> = Vec::new();
        loop {
            let fetched = match self.reader.read(&self.volume().name, 0, length, &stores_of(&wrong)).await {
                Ok(fetched) => fetched,
                Err(others) => {
                    wrong.extend(others);
                    // Without its header none of its frames can be opened.
                    let entries = wanted.values().flat_map(|wanted| entries_of(wanted)).collect();
                    return Err(self.lost("its header", &wrong, &entries));
                }
            };
            match self.header(&fetched.bytes) {
                Ok((header, header_length)) => {
                    let key = self.manifest.key.expose();
                    let seal = FrameSeal::new(key, &fetched.bytes[..header_length], self.number)?;
                    let header_length = header_length as u64;
                    return Ok(Opener { seal, method: header.method, header_length, fetching: self });
                }
                Err(fault) => {
                    self.reader.reject(&self.volume().name, fetched.from, &fault);
                    wrong.push((fetched.from, fault));
                }
            }
        }
    }

    fn header(&self, bytes: &[u8]) -> Result<(VolumeHeader, usize), Fault> {
        let (header, length) = VolumeHeader::decode(bytes).map_err(|fault| Fault {
            message: format!("volume {} of {}: {}", self.volume().name, self.manifest.id, fault.message),
            ..fault
        })?;
        // The seals hang on these bytes: one that changed here would condemn the good frames of every store.
        let again = header.encode().map_err(|_| self.damaged("its header is impossible"))?;
        if again != bytes[..length] || header.method != Method::from(self.manifest.codec) {
            return Err(self.damaged("its header is not as it was written: bytes were changed"));
        }
        if header.owner != self.manifest.id.as_str() {
            return Err(self.damaged(&format!("it is a volume of another backup, {}", header.owner)));
        }
        if header.number != self.number {
            let what = format!("it is volume {} of the backup in this one's place", header.number);
            return Err(self.damaged(&what));
        }
        Ok((header, length))
    }

    fn damaged(&self, what: &str) -> Fault {
        Fault::new(Kind::Damaged, format!("volume {} of {}: {what}", self.volume().name, self.manifest.id))
    }

    /// What is said when the bytes can be had from no store: what is the matter with each, whose bytes they are, and what
    /// is not touched. They are lost only when every copy is; a store that can't be reached may still have a good one.
    fn lost(&self, what: &str, wrong: &[Refusal], entries: &BTreeSet<usize>) -> anyhow::Error {
        let unasked = wrong.iter().find(|(_, fault)| fault.kind != Kind::Damaged);
        let mut fault = match (wrong, unasked) {
            ([], _) => return anyhow::anyhow!("there is no store to read from"),
            ([(_, only)], _) => only.clone(),
            (_, unasked) => {
                let fault = self.damaged(&format!("{what} can be had from no store: {}", self.said(wrong)));
                match unasked {
                    None => fault,
                    Some((store, reason)) => Fault { kind: reason.kind, ..fault }.hint(format!(
                        "The copy in {store} may be good: see that it can be reached (`pgkeep check`) and run the \
                         command again, or restore another backup (`pgkeep list`)."
                    )),
                }
            }
        };
        if !entries.is_empty() {
            fault.message = format!("{}; it holds {}", fault.message, self.held(entries));
        }
        fault.into()
    }

    /// Whose bytes these are, and how many tables have nothing to do with it.
    fn held(&self, entries: &BTreeSet<usize>) -> String {
        let mut names: Vec<String> = entries.iter().take(NAMED).map(|index| self.describe(*index)).collect();
        if entries.len() > NAMED {
            names.push(format!("{} more", entries.len() - NAMED));
        }
        let tables = entries.iter().filter(|index| self.manifest.entries[**index].table.is_some()).count();
        let others = self.manifest.tables().count() - tables;
        let other = if tables > 0 { "other " } else { "" };
        match others {
            0 => format!("bytes of {}", names.join(", ")),
            1 => format!("bytes of {}, and none of 1 {other}table", names.join(", ")),
            _ => format!("bytes of {}, and none of {others} {other}tables", names.join(", ")),
        }
    }

    /// What is the matter with each store, the volume named but once.
    fn said(&self, wrong: &[Refusal]) -> String {
        let beginning = self.damaged("").message;
        let each = wrong.iter().map(|(store, fault)| {
            let message = fault.message.strip_prefix(&beginning).unwrap_or(&fault.message);
            let unasked = if fault.kind == Kind::Damaged { "" } else { "could not be reached: " };
            format!("{store}: {unasked}{message}")
        });
        each.collect::<Vec<_>>().join("; ")
    }

    /// An entry as the operator knows it.
    fn describe(&self, index: usize) -> String {
        let entry = &self.manifest.entries[index];
        match &entry.table {
            Some(table) => format!("table {}.{}", table.schema, table.name),
            None => match entry.name.strip_prefix("blob_").and_then(|rest| rest.strip_suffix(".dat")) {
                Some(number) => format!("large object {number}"),
                None => entry.name.clone(),
            },
        }
    }
}

fn entries_of(wanted: &[Wanted]) -> impl Iterator<Item = usize> {
    wanted.iter().map(|wanted| wanted.entry)
}

fn stores_of(wrong: &[Refusal]) -> Vec<StoreName> {
    wrong.iter().map(|(store, _)| *store).collect()
}

impl Opener {
    /// Opens one frame; when its bytes are damaged, with those from the next store, and the next.
    fn frame(&self, frame: StoredFrame, runtime: &Handle) -> anyhow::Result<OpenFrame> {
        let volume = self.fetching.volume();
        let StoredFrame { number, offset, fetched, range, wanted } = frame;
        let length = range.len() as u64;
        let mut wrong: Vec<Refusal> = Vec::new();
        let mut result = self.open(number, &fetched.bytes[range]);
        let mut from = fetched.from;
        drop(fetched);
        loop {
            let fault = match result {
                Ok(bytes) => return Ok(OpenFrame { bytes, wanted }),
                Err(fault) => fault,
            };
            self.fetching.reader.reject(&volume.name, from, &fault);
            wrong.push((from, fault));
            let not = stores_of(&wrong);
            let reading = self.fetching.reader.read(&volume.name, offset, length, &not);
            match runtime.block_on(reading) {
                Ok(fetched) => {
                    result = self.open(number, &fetched.bytes);
                    from = fetched.from;
                }
                Err(others) => {
                    wrong.extend(others);
                    let entries = entries_of(&wanted).collect();
                    return Err(self.fetching.lost(&format!("frame {number}"), &wrong, &entries));
                }
            }
        }
    }

    /// Opens and decompresses one frame; says what is wrong with one that does not open.
    fn open(&self, number: u32, bytes: &[u8]) -> Result<Vec<u8>, Fault> {
        let Fetching { buffers, .. } = &self.fetching;
        let volume = self.fetching.volume();
        let damaged = |what: &str| self.fetching.damaged(what);
        let (head, sealed) = bytes.split_at(FRAME_HEADER);
        let header = FrameHeader::decode(head).ok_or_else(|| {
            damaged(&format!("frame {number} has an impossible header: bytes were changed"))
        })?;
        let expected = volume.frames[number as usize];
        if header.stored != expected {
            return Err(damaged(&format!(
                "frame {number} is {} bytes long, {expected} were stored: frames were swapped or bytes changed",
                header.stored
            )));
        }
        let is_last = number as usize + 1 == volume.frames.len();
        if header.last != is_last {
            return Err(damaged(&format!("frame {number} is not where it belongs: the end is elsewhere")));
        }
        // Opened in a copy: what does not open is looked at again below.
        let mut copy = buffers.take_packed();
        copy.extend_from_slice(sealed);
        let mut out = buffers.take_packed();
        match self.seal.open(number, header, &mut copy) {
            Ok(packed) if header.raw => out.extend_from_slice(packed),
            Ok(packed) => block::decompress_into(self.method, packed, header.plain as usize, &mut out)
                .map_err(|error| damaged(&format!("frame {number} does not decompress: {error:#}")))?,
            Err(_) => {
                // Sealed for another place? Then somebody moved it; else it was changed.
                let count = u32::try_from(volume.frames.len()).unwrap_or(u32::MAX);
                let home =
                    (0..count).find(|other| self.seal.open(*other, header, &mut sealed.to_vec()).is_ok());
                return Err(match home {
                    Some(home) => damaged(&format!(
                        "frame {number} is in the place of frame {home}: frames were swapped"
                    )),
                    None => damaged(&format!("frame {number} does not fit its seal: bytes were changed")),
                });
            }
        }
        if out.len() != header.plain as usize {
            return Err(damaged(&format!("frame {number} has another length than its header says")));
        }
        buffers.give_packed(copy);
        Ok(out)
    }
}
