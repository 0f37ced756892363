//! What the store counts beside its books: bytes of open blocks, and who waits for room.
//!
//! Promises: what was counted is taken back when its holder is dropped. Owned by whoever opened the
//! block, or waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Inner;

/// The size of an open block, counted until it is dropped.
pub struct OpenBytes {
    store: Arc<Inner>,
    bytes: u64,
}

impl OpenBytes {
    pub(super) fn none(store: Arc<Inner>) -> Self {
        Self { store, bytes: 0 }
    }

    /// The open block has this size now.
    pub fn set(&mut self, bytes: u64) {
        self.store.open_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.store.open_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = bytes;
    }
}

impl Drop for OpenBytes {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Counts whoever waits for room, until it has it or gives up.
pub(super) struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    pub(super) fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
