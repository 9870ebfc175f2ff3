//! A limit on bytes a second, shared by all requests of a transport.

use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Says how long to wait before reading on. What is not read fills the connection's window, and the server waits too.
#[derive(Debug)]
pub(super) struct RateLimit {
    bytes_per_second: u64,
    /// When all that was received so far would have been, at the limit.
    due: Mutex<Option<Instant>>,
}

/// So much may come at once after a pause.
const BURST: Duration = Duration::from_millis(100);

impl RateLimit {
    pub(super) const fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, due: Mutex::new(None) }
    }

    /// Takes notice of `bytes` that arrived at `now`; returns how long nothing more should be read.
    pub(super) fn after(&self, bytes: u64, now: Instant) -> Duration {
        let nanoseconds = bytes.saturating_mul(1_000_000_000) / self.bytes_per_second.max(1);
        let mut due = self.due.lock();
        let from = due.map_or(now, |due| due.max(now.checked_sub(BURST).unwrap_or(now)));
        let next = from + Duration::from_nanos(nanoseconds);
        *due = Some(next);
        next.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time_in_the_long_run() {
        let limit = RateLimit::new(1000);
        let mut now = Instant::now();
        let start = now;
        for _ in 0..50 {
            now += limit.after(100, now);
        }
        let took = now - start;
        assert!(took >= Duration::from_millis(4800) && took <= Duration::from_millis(5200), "{took:?}");
    }
}
