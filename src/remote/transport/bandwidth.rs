//! A limit on received bytes per second, shared by all requests of a transport.
//!
//! *Used by* `read`.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A limit on bytes per second. It delays reading: unread bytes fill the connection's window, so the server waits too.
#[derive(Debug)]
pub(super) struct BandwidthLimit {
    bytes_per_second: u64,
    /// When all bytes received so far would have arrived at the limit.
    due: Mutex<Option<Instant>>,
}

/// The time for which bytes may arrive at once after a pause.
const BURST_TIME: Duration = Duration::from_millis(100);

impl BandwidthLimit {
    pub(super) const fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, due: Mutex::new(None) }
    }

    /// Adds `bytes` that arrived at `now`, and returns how long reading has to wait.
    pub(super) fn delay_after(&self, bytes: u64, now: Instant) -> Duration {
        let nanoseconds = bytes.saturating_mul(1_000_000_000) / self.bytes_per_second.max(1);
        let mut due = self.due.lock();
        let from = due.map_or(now, |due| due.max(now.checked_sub(BURST_TIME).unwrap_or(now)));
        let next = from + Duration::from_nanos(nanoseconds);
        *due = Some(next);
        next.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_bounded_over_a_longer_time() {
        let limit = BandwidthLimit::new(1000);
        let mut now = Instant::now();
        let start = now;
        for _ in 0..50 {
            now += limit.delay_after(100, now);
        }
        let took = now - start;
        assert!(took >= Duration::from_millis(4800) && took <= Duration::from_millis(5200), "{took:?}");
    }
}
