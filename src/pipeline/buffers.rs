//! Frame buffers that go round: made once, used again, so that the kernel is not asked for pages all the time.

use std::sync::{Arc, Mutex, PoisonError};

use crate::format::volume::FRAME_BYTES;

/// A pool of buffers. Clones share it. It holds as many as were ever in use at once.
#[derive(Debug, Clone, Default)]
pub struct Buffers {
    /// Of exactly [`FRAME_BYTES`] bytes, all of them initialised.
    plain: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Empty, with capacity.
    packed: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Buffers {
    /// A buffer of [`FRAME_BYTES`] bytes with anything in it.
    pub fn take_plain(&self) -> Vec<u8> {
        pop(&self.plain).unwrap_or_else(|| vec![0; FRAME_BYTES])
    }

    /// Gives back what [`Buffers::take_plain`] gave.
    pub fn give_plain(&self, buffer: Vec<u8>) {
        debug_assert_eq!(buffer.len(), FRAME_BYTES);
        push(&self.plain, buffer);
    }

    /// An empty buffer.
    pub fn take_packed(&self) -> Vec<u8> {
        pop(&self.packed).unwrap_or_default()
    }

    /// Gives back what [`Buffers::take_packed`] gave, whatever is in it now.
    pub fn give_packed(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        push(&self.packed, buffer);
    }
}

fn pop(pool: &Mutex<Vec<Vec<u8>>>) -> Option<Vec<u8>> {
    pool.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

fn push(pool: &Mutex<Vec<Vec<u8>>>, buffer: Vec<u8>) {
    pool.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
}
