//! Compressing and decompressing one buffer as a whole, through async-compression.
//!
//! The encoders are asynchronous by type only here: a buffer in memory never makes them wait, so they are driven
//! to the end on the calling thread. Callers that want several cores call from several threads.

use std::io;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use async_compression::Level;
use async_compression::tokio::bufread::{GzipDecoder, GzipEncoder, ZstdDecoder, ZstdEncoder};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::volume::Method;
use crate::model::Codec;

/// zlib-rs's level for each gzip level: measured so that every level stores no more than `gzip` does at it.
/// Its level 9 stores more than its level 8 on dumps (`cargo bench` prints the table).
const GZIP_LEVELS: [i32; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 8];

/// Appends the compressed bytes to `out`, as one complete zstd frame or gzip member.
pub fn compress_into(codec: Codec, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
    // Most data shrinks below this; what does not makes the buffer grow once.
    out.reserve(plain.len() / 2 + 1024);
    match codec {
        Codec::Zstd(level) => {
            read_to_end(ZstdEncoder::with_quality(plain, Level::Precise(i32::from(level))), out, usize::MAX)
        }
        Codec::Gzip(level) => {
            let level = GZIP_LEVELS[usize::from(level.clamp(1, 9)) - 1];
            read_to_end(GzipEncoder::with_quality(plain, Level::Precise(level)), out, usize::MAX)
        }
    }
}

/// Appends the plain bytes to `out`: exactly `length` of them, else an error.
pub fn decompress_into(method: Method, packed: &[u8], length: usize, out: &mut Vec<u8>) -> io::Result<()> {
    let before = out.len();
    // One byte more than expected, so that too much is noticed without a second allocation.
    out.reserve(length + 1);
    decompress_up_to(method, packed, length, out)?;
    if out.len() - before != length {
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

fn read_to_end(mut reader: impl AsyncRead + Unpin, out: &mut Vec<u8>, limit: usize) -> io::Result<()> {
    let before = out.len();
    loop {
        if out.len() == out.capacity() {
            out.reserve(256 * 1024);
        }
        let read = pin!(reader.read_buf(out)).poll(&mut Context::from_waker(Waker::noop()));
        match read {
            Poll::Ready(Ok(0)) => return Ok(()),
            Poll::Ready(Ok(_)) if out.len() - before > limit => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "more plain bytes than there should be",
                ));
            }
            Poll::Ready(Ok(_)) => {}
            Poll::Ready(Err(error)) => return Err(error),
            Poll::Pending => return Err(io::Error::other("a buffer in memory was not ready")),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

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
