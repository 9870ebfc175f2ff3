//! Progress counters of an import.
//!
//! *Used by* `directory` and `tar`, which increment them, and `cli`, which shows them.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that an import increments and a display reads.
#[derive(Debug, Default)]
pub struct ImportProgress {
    found_entries: AtomicU64,
    found_bytes: AtomicU64,
    done_bytes: AtomicU64,
    read_bytes: AtomicU64,
}

impl ImportProgress {
    /// Counts an entry that was found, with `bytes` bytes of content.
    pub(crate) fn add_found(&self, bytes: u64) {
        self.found_entries.fetch_add(1, Ordering::Relaxed);
        self.found_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts `bytes` bytes of content that did not have to be read.
    pub(crate) fn add_reused(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts `bytes` bytes of content that were read and stored.
    pub(crate) fn add_read(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the number of entries found so far.
    pub(crate) fn entries(&self) -> u64 {
        self.found_entries.load(Ordering::Relaxed)
    }

    /// Returns the bytes of content found so far.
    pub(crate) fn bytes_found(&self) -> u64 {
        self.found_bytes.load(Ordering::Relaxed)
    }

    /// Returns the bytes of content that are done, read or reused.
    pub(crate) fn bytes_done(&self) -> u64 {
        self.done_bytes.load(Ordering::Relaxed)
    }

    /// Returns the bytes of content that had to be read.
    pub(crate) fn bytes_read(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }
}
