//! Bytes in motion: a source fills frames, frames are compressed in parallel and in order, sealed, hashed and
//! packed into volumes; reading is the mirror.
//!
//! Every stage is bounded: a slow one holds up those before it, and memory does not grow with the data.

mod alone;
mod buffers;
mod fetch;
mod frames;
mod hashed;
mod pack;
mod unpack;

pub use alone::{SealAlone, SealFile, open_alone, seal_alone, seal_file, sha256_of};
pub use buffers::Buffers;
pub use fetch::{Fetched, RangeReader, Refusal, part, requests};
pub use frames::{FinishedEntry, Framer, OpenEntry, PlainFrame};
pub use hashed::read_hashed;
pub use pack::{ClosedVolume, PackPlan, Packed, pack};
pub use unpack::{Discard, Gather, Sink, Unpack, unpack};

/// How many frames may be on their way at once: one per core, and one waiting for each two.
pub fn in_flight() -> usize {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
    cores + cores.div_ceil(2)
}
