//! Counters of a lazy mount, and the figures that are made of them for `sapwood mounts` and for metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counters since the start of the mount. All accesses are `Relaxed`: the figures need not agree with one another.
#[derive(Debug, Default)]
pub(crate) struct LazyCounters {
    /// Reads answered from local data.
    pub(crate) hits: AtomicU64,
    /// Reads that had to wait for a fetch.
    pub(crate) misses: AtomicU64,
    /// Requests for a frame whose fetch was already running.
    pub(crate) joined: AtomicU64,
    /// Fetches that failed.
    pub(crate) failures: AtomicU64,
    /// Bytes of frames that were fetched ahead of reads.
    pub(crate) ahead_bytes: AtomicU64,
    /// Bytes received by bulk fetches: profiles and fills.
    pub(crate) streamed_bytes: AtomicU64,
    /// Objects that this mount evicted.
    pub(crate) evicted_objects: AtomicU64,
    /// Bytes on disk that the evictions freed.
    pub(crate) evicted_bytes: AtomicU64,
    /// Damaged objects and blocks that were fetched again.
    pub(crate) repaired: AtomicU64,
}

impl LazyCounters {
    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// The upper bounds of the latency buckets, in milliseconds: from an answer out of the memory of a server nearby to the default
/// patience of readers.
pub(crate) const LATENCY_BOUNDS_MS: [u64; 13] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 30_000];

/// A histogram of durations with the buckets of [`LATENCY_BOUNDS_MS`].
#[derive(Debug, Default)]
pub(super) struct LatencyCounter {
    counts: [AtomicU64; LATENCY_BOUNDS_MS.len() + 1],
    micros: AtomicU64,
}

impl LatencyCounter {
    pub(crate) fn record(&self, time: Duration) {
        let bucket = LATENCY_BOUNDS_MS.partition_point(|bound| Duration::from_millis(*bound) < time);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Latency {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        Latency { counts, sum: Duration::from_micros(self.micros.load(Ordering::Relaxed)) }
    }
}

/// The state of a [`LatencyCounter`] at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Latency {
    /// One count for each bound of [`LATENCY_BOUNDS_MS`], and one for longer durations. They are not cumulative.
    pub(crate) counts: Vec<u64>,
    /// The sum of all durations.
    pub(crate) sum: Duration,
}

/// The state of a lazy mount, as `sapwood mounts --json` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct LazyFigures {
    /// Requests sent to the remote.
    pub(crate) requests: u64,
    /// Bytes received from the remote.
    pub(crate) bytes_fetched: u64,
    /// Reads answered from local data.
    pub(crate) hits: u64,
    /// Reads that had to wait for the remote.
    pub(crate) misses: u64,
    /// Requests for a frame whose fetch was already running.
    #[serde(alias = "flights_joined")]
    pub(crate) fetches_joined: u64,
    /// Fetches that failed.
    pub(crate) failures: u64,
    /// Bytes fetched ahead of reads.
    pub(crate) bytes_ahead: u64,
    /// Bytes fetched ahead and not read yet.
    pub(crate) bytes_ahead_unread: u64,
    /// Blocks of 64 KiB of the image that are missing.
    pub(crate) image_blocks_missing: u32,
    /// Number of objects of the commit.
    pub(crate) objects: u64,
    /// Number of objects that are stored completely; `None` while their ids are not known.
    pub(crate) objects_local: Option<u64>,
    /// Bytes of content of the commit, with each object counted once.
    pub(crate) bytes: u64,
    /// Bytes of the objects that are stored completely.
    pub(crate) bytes_local: u64,
    /// Bytes that are stored of incomplete large objects.
    pub(crate) bytes_partial: u64,
    /// Whether everything is stored, so that the remote is not needed any more.
    pub(crate) offline_safe: bool,
    /// Whether the last request was answered.
    pub(crate) online: bool,
    /// Seconds since the remote stopped answering, during an outage.
    pub(crate) offline_seconds: Option<u64>,
    /// Bytes received by bulk fetches: profiles and fills.
    pub(crate) bytes_streamed: u64,
    /// Limit of the stored bytes of fetched contents, if there is one.
    pub(crate) cache_limit: Option<u64>,
    /// Bytes of fetched contents that are stored; counted only if there is a limit.
    pub(crate) cache_used: u64,
    /// Number of objects that this mount evicted.
    pub(crate) evictions: u64,
    /// Bytes on disk that the evictions freed.
    pub(crate) bytes_evicted: u64,
    /// Damaged objects and blocks that were fetched again.
    #[serde(default)]
    #[serde(alias = "mended")]
    pub(crate) repaired: u64,
    /// Durations of requests to the remote.
    #[serde(default)]
    pub(crate) latency: Latency,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duration_is_counted_in_the_first_bucket_that_holds_it() {
        let counter = LatencyCounter::default();
        for millis in [0, 1, 2, 3, 30_000, 30_001] {
            counter.record(Duration::from_millis(millis));
        }
        let latency = counter.snapshot();
        assert_eq!(latency.counts, [2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(latency.sum, Duration::from_millis(60_007));
    }
}
