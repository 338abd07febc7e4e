//! The stages behind the source: compress in parallel, then in order seal, hash and write into volumes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use super::frames::Piece;
use super::{Buffers, PlainFrame, in_flight};
use crate::format::block;
use crate::format::manifest::{Extent, Volume};
use crate::format::names;
use crate::format::volume::{FRAME_HEADER, FrameHeader, FrameSeal, TAG, VolumeHeader};
use crate::model::{BackupId, Codec, Digest, Stage};
use crate::system::{Step, Stop, durable, step};

/// What the packer has to know.
#[derive(Debug, Clone)]
pub struct PackPlan {
    /// The backup that the volumes belong to.
    pub owner: BackupId,
    /// Compression.
    pub codec: Codec,
    /// The backup's own key.
    pub key: [u8; 32],
    /// A volume is closed when it has this many bytes or more.
    pub volume_bytes: u64,
    /// Where volumes are written until a store takes them; the next one when there is no room in the one before.
    pub directories: Vec<PathBuf>,
}

/// A volume whose bytes are all written, not yet flushed, not yet in any store.
#[derive(Debug)]
pub struct ClosedVolume {
    /// The object's name within the backup.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// The open file, to be flushed.
    pub file: File,
    /// Bytes.
    pub size: u64,
    /// SHA-256 of the bytes.
    pub sha256: Digest,
}

/// What packing came to.
#[derive(Debug, Default)]
pub struct Packed {
    /// The volumes in their order.
    pub volumes: Vec<Volume>,
    /// Where each entry's bytes lie, by the entry's number.
    pub extents: Vec<Vec<Extent>>,
    /// Bytes of the frames after compression.
    pub compressed_size: u64,
    /// Bytes of the volumes.
    pub stored_size: u64,
}

struct PackedFrame {
    bytes: Vec<u8>,
    plain: u32,
    raw: bool,
    pieces: Vec<Piece>,
}

/// Compresses, seals and packs what comes out of `frames` until it ends; closed volumes go into `closed`.
///
/// That `frames` ended does not say that the source succeeded: the caller asks the source before it writes a
/// manifest.
pub async fn pack(
    plan: PackPlan,
    mut frames: mpsc::Receiver<PlainFrame>,
    closed: mpsc::Sender<ClosedVolume>,
    buffers: Buffers,
    stored: Arc<Stage>,
    stop: Stop,
) -> anyhow::Result<Packed> {
    // The channel's bound is the number of frames that are compressed at the same time.
    let (ordered_in, mut ordered) = mpsc::channel::<JoinHandle<anyhow::Result<PackedFrame>>>(in_flight());
    let codec = plan.codec;
    let pool = buffers.clone();
    let compress = async move {
        while let Some(frame) = frames.recv().await {
            let pool = pool.clone();
            let compressed = spawn_blocking(move || compress(codec, frame, &pool));
            if ordered_in.send(compressed).await.is_err() {
                // The writer has failed and says why itself.
                break;
            }
        }
        Ok(())
    };
    let runtime = Handle::current();
    let write = spawn_blocking(move || -> anyhow::Result<Packed> {
        let mut packer = Packer { plan, packed: Packed::default(), current: None, closed, stored };
        while let Some(frame) = ordered.blocking_recv() {
            stop.check()?;
            let frame = runtime.block_on(frame).context("compress a frame")??;
            let bytes = packer.add(frame)?;
            buffers.give_packed(bytes);
        }
        packer.close_volume()?;
        Ok(packer.packed)
    });
    let ((), packed) = tokio::try_join!(compress, async { write.await.context("write volumes")? })?;
    Ok(packed)
}

fn compress(codec: Codec, frame: PlainFrame, buffers: &Buffers) -> anyhow::Result<PackedFrame> {
    let mut bytes = buffers.take_packed();
    let plain = &frame.bytes[..frame.used];
    block::compress_into(codec, plain, &mut bytes).context("compress a frame")?;
    let raw = bytes.len() >= plain.len();
    if raw {
        bytes.clear();
        bytes.extend_from_slice(plain);
    }
    bytes.reserve(TAG);
    let packed = PackedFrame { bytes, plain: u32::try_from(frame.used)?, raw, pieces: frame.pieces };
    buffers.give_plain(frame.bytes);
    Ok(packed)
}

struct Packer {
    plan: PackPlan,
    packed: Packed,
    current: Option<OpenVolume>,
    closed: mpsc::Sender<ClosedVolume>,
    stored: Arc<Stage>,
}

struct OpenVolume {
    number: u32,
    path: PathBuf,
    file: File,
    /// Where it can go when writing fails.
    elsewhere: VecDeque<PathBuf>,
    hasher: Sha256,
    size: u64,
    frames: Vec<u32>,
    seal: FrameSeal,
}

impl Packer {
    /// Puts the frame into the present volume; gives its buffer back.
    fn add(&mut self, frame: PackedFrame) -> anyhow::Result<Vec<u8>> {
        let mut volume = match self.current.take() {
            Some(volume) => volume,
            None => OpenVolume::create(&self.plan, u32::try_from(self.packed.volumes.len())?)?,
        };
        self.packed.compressed_size += frame.bytes.len() as u64;
        let number = u32::try_from(volume.frames.len())?;
        for piece in &frame.pieces {
            let entry = piece.entry as usize;
            if self.packed.extents.len() <= entry {
                self.packed.extents.resize_with(entry + 1, Vec::new);
            }
            let extents = &mut self.packed.extents[entry];
            if extents.is_empty() {
                // Most entries have one and no more, and there may be hundreds of thousands.
                extents.reserve_exact(1);
            }
            extents.push(Extent {
                backup: 0,
                volume: volume.number,
                frame: number,
                offset: piece.offset,
                length: piece.length,
            });
        }
        let before = volume.size;
        let bytes = volume.append(frame.bytes, frame.plain, frame.raw, false)?;
        self.stored.add(volume.size - before);
        step::reached(Step::BackupFrames)?;
        let full = volume.size >= self.plan.volume_bytes;
        self.current = Some(volume);
        if full {
            self.close_volume()?;
        }
        Ok(bytes)
    }

    /// Ends the present volume with an empty sealed frame that says so, and hands it over.
    fn close_volume(&mut self) -> anyhow::Result<()> {
        let Some(mut volume) = self.current.take() else { return Ok(()) };
        volume.append(Vec::with_capacity(TAG), 0, true, true)?;
        let name = names::volume(volume.number);
        let sha256 = Digest::from_bytes(volume.hasher.finalize().into());
        self.packed.stored_size += volume.size;
        self.packed.volumes.push(Volume {
            name: name.clone(),
            size: volume.size,
            sha256,
            frames: volume.frames,
        });
        let closed = ClosedVolume { name, path: volume.path, file: volume.file, size: volume.size, sha256 };
        self.closed
            .blocking_send(closed)
            .map_err(|_| anyhow::anyhow!("the stage that stores volumes has ended"))
    }
}

impl OpenVolume {
    fn create(plan: &PackPlan, number: u32) -> anyhow::Result<Self> {
        let header = VolumeHeader {
            number,
            method: plan.codec.into(),
            owner: plan.owner.as_str().to_owned(),
            sealed_key: Vec::new(),
        };
        let header = header.encode()?;
        let seal = FrameSeal::new(&plan.key, &header, number)?;
        let mut elsewhere: VecDeque<PathBuf> =
            plan.directories.iter().map(|directory| directory.join(names::volume(number))).collect();
        let (path, file) = loop {
            let path = elsewhere.pop_front().context("no directory to write volumes into")?;
            match durable::create_private_file(&path) {
                Ok(file) => break (path, file),
                Err(error) if elsewhere.is_empty() => return Err(error),
                Err(_) => {}
            }
        };
        let (hasher, frames) = (Sha256::new(), Vec::new());
        let mut volume = Self { number, path, file, elsewhere, hasher, size: 0, frames, seal };
        volume.write(&header)?;
        Ok(volume)
    }

    fn append(&mut self, mut bytes: Vec<u8>, plain: u32, raw: bool, last: bool) -> anyhow::Result<Vec<u8>> {
        let stored = u32::try_from(bytes.len() + TAG)?;
        let header = FrameHeader { stored, plain, raw, last };
        self.seal.seal(u32::try_from(self.frames.len())?, header, &mut bytes)?;
        let encoded: [u8; FRAME_HEADER] = header.encode();
        self.write(&encoded)?;
        self.write(&bytes)?;
        self.frames.push(stored);
        Ok(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        while let Err(error) = self.file.write_all(bytes) {
            let path = self.path.clone();
            let failed = || format!("write volume {}", path.display());
            let Some(next) = self.elsewhere.pop_front() else { return Err(error).with_context(failed) };
            // Most likely the disk is full. What the volume has so far moves to where there is room.
            self.move_to(next).with_context(failed)?;
        }
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Goes on in another file, with the bytes up to the last write that succeeded.
    fn move_to(&mut self, path: PathBuf) -> anyhow::Result<()> {
        let mut file = durable::create_private_file(&path)?;
        let written = File::open(&self.path)?.take(self.size);
        let copied = io::copy(&mut { written }, &mut file)?;
        anyhow::ensure!(copied == self.size, "{} has lost bytes", self.path.display());
        durable::remove_file_if_there(&self.path)?;
        (self.path, self.file) = (path, file);
        Ok(())
    }
}
