//! How far publishing is, for whoever shows it.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// What is being done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Reading what is published.
    Looking,
    /// Contents are compressed and sent.
    Packing,
    /// Changed contents are said in terms of older ones.
    Deltas,
    /// Commits and refs are written.
    Naming,
}

/// Counts of one run.
#[derive(Debug, Default)]
pub struct PublishProgress {
    phase: AtomicU8,
    total: AtomicU64,
    done: AtomicU64,
    already_there: AtomicU64,
}

impl PublishProgress {
    /// A phase begins, with so many more bytes of content to work on.
    pub(super) fn enter(&self, phase: Phase, bytes: u64) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many more bytes of content are done.
    pub(super) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A file of so many bytes need not be sent.
    pub(super) fn was_there(&self, bytes: u64) {
        self.already_there.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of files that need not be sent.
    pub(super) fn already_there(&self) -> u64 {
        self.already_there.load(Ordering::Relaxed)
    }

    /// What is being done now.
    #[must_use]
    pub fn phase(&self) -> Phase {
        let phases = [Phase::Looking, Phase::Packing, Phase::Deltas, Phase::Naming];
        phases[usize::from(self.phase.load(Ordering::Relaxed)).min(phases.len() - 1)]
    }

    /// Bytes of content that are done, and of how many that are known of so far.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }
}
