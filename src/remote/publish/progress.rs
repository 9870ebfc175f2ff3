//! The progress of publishing, for display.
//!
//! *Used by* `publish` and `cli`.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

/// The current step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    /// Reading what is published.
    Surveying,
    /// Compressing and sending contents.
    Packing,
    /// Making deltas of changed contents.
    Deltas,
    /// Writing commits and refs.
    Naming,
}

/// The counters of one run.
#[derive(Debug, Default)]
pub(crate) struct PublishProgress {
    phase: AtomicU8,
    total: AtomicU64,
    done: AtomicU64,
    already_there: AtomicU64,
}

impl PublishProgress {
    /// Begins a phase with this many more bytes of content to process.
    pub(super) fn enter(&self, phase: Phase, bytes: u64) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds processed bytes of content.
    pub(super) fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds the bytes of a file that need not be sent.
    pub(super) fn add_already_there(&self, bytes: u64) {
        self.already_there.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the bytes of files that need not be sent.
    pub(super) fn already_there(&self) -> u64 {
        self.already_there.load(Ordering::Relaxed)
    }

    /// Returns the current phase.
    pub(crate) fn phase(&self) -> Phase {
        let phases = [Phase::Surveying, Phase::Packing, Phase::Deltas, Phase::Naming];
        phases[usize::from(self.phase.load(Ordering::Relaxed)).min(phases.len() - 1)]
    }

    /// Returns the processed bytes of content, and the total that is known so far.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.done.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }
}
