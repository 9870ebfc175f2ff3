//! Counts requests, received and sent bytes.
//!
//! *Used by* `transport`; the counts are reported by `pull`, `publish`, `prune` and the cache.

use std::sync::atomic::{AtomicU64, Ordering};

/// The counters of one [`super::Transport`] and all its clones.
#[derive(Debug, Default)]
pub(crate) struct TrafficCounters {
    requests: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
}

/// The counts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub(crate) struct Traffic {
    /// Number of requests, including repeated ones.
    pub(crate) requests: u64,
    /// Received bytes of content.
    pub(crate) received: u64,
    /// Sent bytes of content.
    pub(crate) sent: u64,
}

impl TrafficCounters {
    pub(super) fn count_request(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn count_received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn count_sent(&self, bytes: u64) {
        self.sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns the current counts.
    pub(crate) fn traffic(&self) -> Traffic {
        Traffic {
            requests: self.requests.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
        }
    }
}
