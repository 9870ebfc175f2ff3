//! What a lazy mount has done so far and how much of it is here.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Counts since the mount began. Relaxed: the figures need not agree with one another.
#[derive(Debug, Default)]
pub struct LazyCounters {
    /// Reads answered from what was here.
    pub hits: AtomicU64,
    /// Reads that had to wait.
    pub misses: AtomicU64,
    /// Fetches that were wanted while they were under way.
    pub joined: AtomicU64,
    /// Fetches that failed.
    pub failures: AtomicU64,
    /// Bytes of frames that were fetched ahead of reading.
    pub ahead: AtomicU64,
    /// Bytes that came in long requests: profiles and fills.
    pub streamed: AtomicU64,
    /// Objects that were here and were evicted.
    pub gone: AtomicU64,
    /// Their bytes on disk.
    pub evicted: AtomicU64,
    /// Damaged objects and blocks that came again.
    pub mended: AtomicU64,
}

impl LazyCounters {
    pub(super) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}

/// The bounds in milliseconds between which durations are counted: from a hit in the memory of a server next door to the usual patience.
pub const LATENCY_BOUNDS_MS: [u64; 13] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 30_000];

/// How often something took how long.
#[derive(Debug, Default)]
pub(super) struct LatencyCounter {
    counts: [AtomicU64; LATENCY_BOUNDS_MS.len() + 1],
    micros: AtomicU64,
}

impl LatencyCounter {
    pub fn note(&self, time: Duration) {
        let bucket = LATENCY_BOUNDS_MS.partition_point(|bound| Duration::from_millis(*bound) < time);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub fn read(&self) -> Latency {
        let counts = self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        Latency { counts, sum: Duration::from_micros(self.micros.load(Ordering::Relaxed)) }
    }
}

/// The same at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Latency {
    /// Up to each of [`LATENCY_BOUNDS_MS`], and over the last.
    pub counts: Vec<u64>,
    /// All together.
    pub sum: Duration,
}

/// How a lazy mount stands.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct LazyFigures {
    /// Requests sent to the remote.
    pub requests: u64,
    /// Bytes that came from there.
    pub bytes_fetched: u64,
    /// Reads answered from what was here.
    pub hits: u64,
    /// Reads that had to wait for the remote.
    pub misses: u64,
    /// Reads that waited for a fetch which was under way already.
    pub flights_joined: u64,
    /// Fetches that failed.
    pub failures: u64,
    /// Bytes fetched ahead of reading.
    pub bytes_ahead: u64,
    /// Those of them that nobody has read yet.
    pub bytes_ahead_unread: u64,
    /// Blocks of 64 KiB of the image that are not here.
    pub image_blocks_missing: u32,
    /// Objects of the commit.
    pub objects: u64,
    /// Objects that are here whole; absent until that is known.
    pub objects_local: Option<u64>,
    /// Bytes of content of the commit, each object counted once.
    pub bytes: u64,
    /// Bytes of the objects that are here whole.
    pub bytes_local: u64,
    /// Bytes that are here of large objects of which others are missing.
    pub bytes_partial: u64,
    /// Whether everything is here, so that the remote is not needed any more.
    pub offline_safe: bool,
    /// Whether the last request was answered.
    pub online: bool,
    /// Seconds since nobody answers, if nobody does.
    pub offline_seconds: Option<u64>,
    /// Bytes that came because they were to be read first, or in a fill.
    pub bytes_streamed: u64,
    /// Bytes of fetched contents that may be kept, if that is bounded.
    pub cache_limit: Option<u64>,
    /// Bytes of those that are kept; counted only if they are bounded.
    pub cache_used: u64,
    /// Things that this mount evicted.
    pub evictions: u64,
    /// Bytes that became free by that.
    pub bytes_evicted: u64,
    /// Damaged objects and blocks that came again.
    #[serde(default)]
    pub mended: u64,
    /// How long requests to the remote took.
    #[serde(default)]
    pub latency: Latency,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_up_to_its_bound() {
        let counter = LatencyCounter::default();
        for millis in [0, 1, 2, 3, 30_000, 30_001] {
            counter.note(Duration::from_millis(millis));
        }
        let latency = counter.read();
        assert_eq!(latency.counts, [2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(latency.sum, Duration::from_millis(60_007));
    }
}
