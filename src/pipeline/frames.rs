//! The first stage: entries become frames. Full frames hold one entry; the ends of entries share frames.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;

use super::Buffers;
use crate::format::volume::FRAME_BYTES;
use crate::model::Digest;

/// A frame on its way to the compressor.
#[derive(Debug)]
pub struct PlainFrame {
    /// A buffer of [`FRAME_BYTES`] of which the first `used` count.
    pub bytes: Vec<u8>,
    /// How many bytes of it are filled.
    pub used: usize,
    /// Whose bytes they are, in the order in which they lie there.
    pub pieces: Vec<Piece>,
}

/// A run of an entry's bytes inside a frame.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    /// The entry's number.
    pub entry: u32,
    /// Where in the frame.
    pub offset: u32,
    /// How many bytes.
    pub length: u32,
}

/// An entry of which bytes are still to come.
#[derive(Debug)]
pub struct OpenEntry {
    number: u32,
    name: String,
    mode: u32,
    size: u64,
    hasher: Sha256,
}

impl OpenEntry {
    /// Bytes taken so far.
    pub const fn size(&self) -> u64 {
        self.size
    }
}

/// An entry whose bytes have all gone into frames.
#[derive(Debug, Clone)]
pub struct FinishedEntry {
    /// Its number: pieces and extents refer to it.
    pub number: u32,
    /// Its name.
    pub name: String,
    /// Permission bits.
    pub mode: u32,
    /// Plain bytes.
    pub size: u64,
    /// SHA-256 of the plain bytes.
    pub sha256: Digest,
}

/// Cuts entries into frames and sends them on; blocks when the stages behind are busy.
#[derive(Debug)]
pub struct Framer {
    out: mpsc::Sender<PlainFrame>,
    buffers: Buffers,
    shared: Option<PlainFrame>,
    next_entry: Arc<AtomicU32>,
}

impl Framer {
    /// Sends frames into `out`, in buffers of the pool.
    pub fn new(out: mpsc::Sender<PlainFrame>, buffers: Buffers) -> Self {
        Self { out, buffers, shared: None, next_entry: Arc::default() }
    }

    /// Another one for the same stages, which numbers entries together with this one: for a reader that works beside.
    #[must_use]
    pub fn beside(&self) -> Self {
        let (out, buffers) = (self.out.clone(), self.buffers.clone());
        Self { out, buffers, shared: None, next_entry: Arc::clone(&self.next_entry) }
    }

    /// Whether the next [`Framer::read`] goes without waiting. Also when the stages behind have ended: it then fails.
    pub fn is_ready(&self) -> bool {
        self.out.capacity() > 0 || self.is_closed()
    }

    /// Whether the stages behind have ended.
    pub fn is_closed(&self) -> bool {
        self.out.is_closed()
    }

    /// Begins an entry. Several may be open at once.
    pub fn begin(&mut self, name: String, mode: u32) -> OpenEntry {
        let number = self.next_entry.fetch_add(1, Ordering::Relaxed);
        OpenEntry { number, name, mode, size: 0, hasher: Sha256::new() }
    }

    /// Reads exactly `length` bytes (at most [`FRAME_BYTES`]) of the entry out of `reader` and shows them to `look`.
    ///
    /// A full frame's worth goes on its way at once; less is put together with other entries' bytes, so callers
    /// read full frames as long as there is that much and the rest at the end. Must not be called in
    /// asynchronous code: it waits for the stages behind.
    pub fn read(
        &mut self,
        entry: &mut OpenEntry,
        reader: &mut impl Read,
        length: usize,
        look: impl FnOnce(&[u8]),
    ) -> io::Result<()> {
        if self.read_up_to(entry, reader, length, look)? < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// The same for a file that may have become shorter: reads as much of `length` as there is, and says how much.
    pub fn read_up_to(
        &mut self,
        entry: &mut OpenEntry,
        reader: &mut impl Read,
        length: usize,
        look: impl FnOnce(&[u8]),
    ) -> io::Result<usize> {
        debug_assert!(length <= FRAME_BYTES);
        let own = length == FRAME_BYTES;
        if !own && self.shared.as_ref().is_some_and(|frame| frame.used + length > FRAME_BYTES) {
            self.send_shared()?;
        }
        let mut frame = match self.shared.take() {
            Some(frame) if !own => frame,
            shared => {
                self.shared = shared;
                PlainFrame { bytes: self.buffers.take_plain(), used: 0, pieces: Vec::new() }
            }
        };
        let offset = frame.used;
        let length = match fill(reader, &mut frame.bytes[offset..offset + length]) {
            Ok(length) => length,
            Err(error) => {
                // What others have put there is still to be sent.
                if !own {
                    self.shared = Some(frame);
                }
                return Err(error);
            }
        };
        let bytes = &frame.bytes[offset..offset + length];
        entry.hasher.update(bytes);
        entry.size += length as u64;
        look(bytes);
        frame.used += length;
        if length > 0 {
            frame.pieces.push(Piece { entry: entry.number, offset: offset as u32, length: length as u32 });
        }
        if !own {
            self.shared = Some(frame);
        } else if length > 0 {
            self.send(frame)?;
        } else {
            self.buffers.give_plain(frame.bytes);
        }
        Ok(length)
    }

    /// Ends an entry.
    pub fn finish(&mut self, entry: OpenEntry) -> FinishedEntry {
        FinishedEntry {
            number: entry.number,
            name: entry.name,
            mode: entry.mode,
            size: entry.size,
            sha256: Digest::from_bytes(entry.hasher.finalize().into()),
        }
    }

    /// Sends what is left. Frames end when every framer of the channel is closed or dropped; only the source's
    /// own result says whether they are all.
    pub fn close(mut self) -> io::Result<()> {
        self.send_shared()
    }

    fn send_shared(&mut self) -> io::Result<()> {
        match self.shared.take() {
            Some(frame) if frame.used > 0 => self.send(frame),
            _ => Ok(()),
        }
    }

    fn send(&self, frame: PlainFrame) -> io::Result<()> {
        self.out
            .blocking_send(frame)
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the stages behind have ended"))
    }
}

/// Reads until the buffer is full or there is no more; how much there was.
fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
