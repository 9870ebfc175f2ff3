//! How far an import is, for whoever wants to show it.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters that an import raises and a display reads.
#[derive(Debug, Default)]
pub struct Progress {
    found_entries: AtomicU64,
    found_bytes: AtomicU64,
    done_bytes: AtomicU64,
    read_bytes: AtomicU64,
}

impl Progress {
    /// One more entry was found, with content of `bytes` bytes.
    pub fn found(&self, bytes: u64) {
        self.found_entries.fetch_add(1, Ordering::Relaxed);
        self.found_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A content of `bytes` bytes is done without being read.
    pub fn reused(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A content of `bytes` bytes was read and stored.
    pub fn read(&self, bytes: u64) {
        self.done_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.read_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Entries found so far.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.found_entries.load(Ordering::Relaxed)
    }

    /// Bytes of content found so far.
    #[must_use]
    pub fn bytes_found(&self) -> u64 {
        self.found_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of content that are done.
    #[must_use]
    pub fn bytes_done(&self) -> u64 {
        self.done_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of content that had to be read.
    #[must_use]
    pub fn bytes_read(&self) -> u64 {
        self.read_bytes.load(Ordering::Relaxed)
    }
}
