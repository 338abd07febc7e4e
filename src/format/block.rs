//! Compressing and decompressing in memory: one buffer as a whole, or, for manifests, a little at a time.
//!
//! async-compression does it, which is asynchronous by type only here: a buffer in memory never makes it wait, so it is
//! driven to the end on the calling thread. Whole frames of zstd go through that crate's own zstd directly, with contexts
//! that are used again: made anew for each frame, and fed through a buffer of their own, they cost a third more of the
//! processor. Callers that want several cores call from several threads.

use std::io;
use std::ops::Range;
use std::pin::pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use async_compression::Level;
use async_compression::tokio::bufread::{GzipDecoder, GzipEncoder, ZstdDecoder};
use async_compression::tokio::write;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use zeroize::Zeroizing;
use zstd::bulk::{Compressor, Decompressor};

use super::volume::Method;
use crate::model::Codec;

/// zlib-rs's level for each gzip level: measured so that every level stores no more than `gzip` does at it.
/// Its level 9 stores more than its level 8 on dumps (`cargo bench` prints the table).
const GZIP_LEVELS: [i32; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 8];

/// Puts the compressed bytes into `out`, as one complete zstd frame or gzip member, in place of what is in there.
pub fn compress_into(codec: Codec, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    out.clear();
    match codec {
        Codec::Zstd(level) => {
            // As much as it can be at worst; what is not written to takes no memory.
            out.reserve(zstd::zstd_safe::compress_bound(plain.len()));
            let mut compressor = take_compressor(level)?;
            compressor.compress_to_buffer(plain, out)?;
            give(&COMPRESSORS, (level, compressor));
            Ok(())
        }
        Codec::Gzip(level) => {
            // Most data shrinks below this; what does not makes the buffer grow once.
            out.reserve(plain.len() / 2 + 1024);
            let level = GZIP_LEVELS[usize::from(level.clamp(1, 9)) - 1];
            read_to_end(GzipEncoder::with_quality(plain, Level::Precise(level)), out, usize::MAX)
        }
    }
}

/// Contexts of zstd, as many as were ever in use at once; each is a few MiB.
static COMPRESSORS: Mutex<Vec<(u8, Compressor<'static>)>> = Mutex::new(Vec::new());
static DECOMPRESSORS: Mutex<Vec<Decompressor<'static>>> = Mutex::new(Vec::new());

fn take_compressor(level: u8) -> io::Result<Compressor<'static>> {
    let mut pool = COMPRESSORS.lock().unwrap_or_else(PoisonError::into_inner);
    let place = pool.iter().position(|(other, _)| *other == level);
    match place.map(|place| pool.swap_remove(place)) {
        Some((_, compressor)) => Ok(compressor),
        None => Compressor::new(i32::from(level)),
    }
}

fn give<T>(pool: &Mutex<Vec<T>>, context: T) {
    pool.lock().unwrap_or_else(PoisonError::into_inner).push(context);
}

/// Puts the plain bytes into `out`, in place of what is in there: exactly `length` of them, else an error.
pub fn decompress_into(method: Method, packed: &[u8], length: usize, out: &mut Vec<u8>) -> io::Result<()> {
    out.clear();
    // One byte more than expected, so that too much is noticed without a second allocation.
    out.reserve(length + 1);
    match method {
        Method::Zstd => {
            let pooled = DECOMPRESSORS.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut decompressor = pooled.map_or_else(Decompressor::new, Ok)?;
            decompressor.decompress_to_buffer(packed, out)?;
            give(&DECOMPRESSORS, decompressor);
        }
        Method::Gzip => decompress_up_to(method, packed, length, out)?,
    }
    if out.len() != length {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the plain length is another"));
    }
    Ok(())
}

/// Appends the plain bytes to `out`; more than `limit` is an error.
pub fn decompress_up_to(method: Method, packed: &[u8], limit: usize, out: &mut Vec<u8>) -> io::Result<()> {
    match method {
        Method::Zstd => {
            let mut decoder = ZstdDecoder::new(packed);
            decoder.multiple_members(true);
            read_to_end(decoder, out, limit)
        }
        Method::Gzip => {
            let mut decoder = GzipDecoder::new(packed);
            decoder.multiple_members(true);
            read_to_end(decoder, out, limit)
        }
    }
}

/// How many plain bytes stand in memory between JSON and its compressed form.
const STEP: usize = 64 * 1024;

/// Compresses what is written to it into one zstd frame in memory: for a manifest, whose JSON is many times as large.
/// Its plain bytes are overwritten once they are compressed, because a key is among them.
pub struct StreamCompressor {
    plain: Zeroizing<Vec<u8>>,
    encoder: write::ZstdEncoder<Vec<u8>>,
}

impl StreamCompressor {
    /// Begins, zstd at level 3, with room for this many compressed bytes: a buffer that grows is in memory twice.
    pub fn with_room(room: usize) -> Self {
        let encoder = write::ZstdEncoder::with_quality(Vec::with_capacity(room), Level::Precise(3));
        Self { plain: Zeroizing::new(Vec::with_capacity(STEP)), encoder }
    }

    /// Ends the frame and returns it.
    pub fn finish(mut self) -> io::Result<Vec<u8>> {
        self.compress()?;
        at_once(pin!(self.encoder.shutdown()))?;
        Ok(self.encoder.into_inner())
    }

    fn compress(&mut self) -> io::Result<()> {
        at_once(pin!(self.encoder.write_all(&self.plain)))?;
        self.plain.clear();
        Ok(())
    }
}

impl io::Write for StreamCompressor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.plain.len() == STEP {
            self.compress()?;
        }
        // Never more than fits: a buffer that grows leaves its bytes behind in memory.
        let length = bytes.len().min(STEP - self.plain.len());
        self.plain.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The plain bytes of a zstd frame in memory, a little at a time; the mirror of [`StreamCompressor`].
pub struct StreamDecompressor<'a> {
    plain: Zeroizing<Vec<u8>>,
    /// What of `plain` has been read from the decoder and not yet by the caller.
    waiting: Range<usize>,
    left: usize,
    decoder: ZstdDecoder<&'a [u8]>,
}

impl<'a> StreamDecompressor<'a> {
    /// Reads this; more than `limit` plain bytes are an error.
    pub fn new(packed: &'a [u8], limit: usize) -> Self {
        let mut decoder = ZstdDecoder::new(packed);
        decoder.multiple_members(true);
        Self { plain: Zeroizing::new(vec![0; STEP]), waiting: 0..0, left: limit, decoder }
    }
}

impl io::Read for StreamDecompressor<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.waiting.is_empty() {
            let length = at_once(pin!(self.decoder.read(&mut self.plain)))?;
            self.left = self.left.checked_sub(length).ok_or_else(too_much)?;
            self.waiting = 0..length;
        }
        let length = out.len().min(self.waiting.len());
        let begin = self.waiting.start;
        out[..length].copy_from_slice(&self.plain[begin..begin + length]);
        self.waiting.start += length;
        Ok(length)
    }
}

fn too_much() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "more plain bytes than there should be")
}

/// The result of something that never has to wait.
fn at_once<T>(work: std::pin::Pin<&mut impl Future<Output = io::Result<T>>>) -> io::Result<T> {
    match work.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::Error::other("a buffer in memory was not ready")),
    }
}

fn read_to_end(mut reader: impl AsyncRead + Unpin, out: &mut Vec<u8>, limit: usize) -> io::Result<()> {
    let before = out.len();
    loop {
        if out.len() == out.capacity() {
            out.reserve(256 * 1024);
        }
        if at_once(pin!(reader.read_buf(out)))? == 0 {
            return Ok(());
        }
        if out.len() - before > limit {
            return Err(too_much());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_compressed_a_little_at_a_time_comes_back_and_a_cut_or_too_much_is_told() {
        use std::io::{Read, Write};
        for length in [0, 1, STEP - 1, STEP, STEP + 1, 5 * STEP + 7] {
            let plain: Vec<u8> = (0..length).map(|n| (n * n / 1000) as u8).collect();
            let mut compressor = StreamCompressor::with_room(0);
            compressor.write_all(&plain).unwrap();
            let packed = compressor.finish().unwrap();
            let read = |packed: &[u8], limit| {
                let mut out = Vec::new();
                StreamDecompressor::new(packed, limit).read_to_end(&mut out).map(|_| out)
            };
            assert_eq!(read(&packed, length).unwrap(), plain);
            assert!(read(&packed[..packed.len() - 1], length).is_err(), "{length}: cut");
            assert!(length == 0 || read(&packed, length - 1).is_err(), "{length}: too much");
        }
    }

    proptest! {
        #[test]
        fn what_is_compressed_comes_back(plain in proptest::collection::vec(0_u8..16, 0..70_000), zstd: bool) {
            let codec = if zstd { Codec::Zstd(1) } else { Codec::Gzip(9) };
            let mut packed = Vec::new();
            compress_into(codec, &plain, &mut packed).unwrap();
            let mut out = Vec::new();
            decompress_into(codec.into(), &packed, plain.len(), &mut out).unwrap();
            prop_assert_eq!(&out, &plain);
            if !plain.is_empty() {
                prop_assert!(decompress_into(codec.into(), &packed, plain.len() - 1, &mut Vec::new()).is_err());
                prop_assert!(decompress_into(codec.into(), &packed[..packed.len() - 1], plain.len(), &mut Vec::new()).is_err());
            }
        }
    }
}
