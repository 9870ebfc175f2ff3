//! The schedule for repeating failed requests: which parts of published files failed, and when they may be requested again.
//!
//! There is one schedule for each part of a file, so that many readers of the same part do not repeat a request more often
//! than one.
//!
//! *Not here*: the requests themselves.
//!
//! *Invariant*: within the patience a part is requested from each place at most
//! [`TRIES_MAX`](crate::remote::transport::TRIES_MAX) times.
//!
//! *Used by* `remote`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::cache::fetch::error::LazyFetchError;
use crate::remote::transport::{TransportError, jitter_factor, pause_after_wrong};

/// When the patience is over, a request is repeated once in this time; in between, reads fail at once.
const EXHAUSTED_RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// The largest number of recorded parts. If it is exceeded all records are dropped, and the server gets more requests than it
/// should.
const PARTS_MAX: usize = 4096;

/// A part of a published file: the path of the file, and the offset of the part.
type PartKey = (String, u64);

#[derive(Debug)]
struct FailedPart {
    first_failure: Instant,
    /// Number of failed rounds of requests.
    rounds: u32,
    /// The time before which the part is not requested again.
    next_attempt: Instant,
    error: Arc<TransportError>,
}

/// The parts whose requests failed, and when to repeat them.
#[derive(Debug)]
pub(in crate::cache) struct RetryHistory {
    patience: Duration,
    parts: Mutex<HashMap<PartKey, FailedPart>>,
}

impl RetryHistory {
    /// Creates an empty history. `patience` is how long readers wait.
    pub(crate) fn new(patience: Duration) -> Self {
        Self { patience, parts: Mutex::default() }
    }

    /// Returns the last failure of a part that may not be requested again yet.
    pub(crate) fn blocking_error(&self, path: &str, offset: u64) -> Option<LazyFetchError> {
        let parts = self.parts.lock();
        if parts.is_empty() {
            return None;
        }
        let failed = parts.get(&(path.to_owned(), offset))?;
        (Instant::now() < failed.next_attempt).then(|| failed.error(self.patience))
    }

    /// Returns whether the last request for a part failed.
    pub(crate) fn has_failed(&self, path: &str, offset: u64) -> bool {
        let parts = self.parts.lock();
        !parts.is_empty() && parts.contains_key(&(path.to_owned(), offset))
    }

    /// Records that the request for a part failed; returns the error that says when to repeat it.
    pub(crate) fn note_failure(&self, path: &str, offset: u64, error: &Arc<TransportError>) -> LazyFetchError {
        let now = Instant::now();
        let mut parts = self.parts.lock();
        if parts.len() >= PARTS_MAX {
            parts.clear();
        }
        let new = || FailedPart { first_failure: now, rounds: 0, next_attempt: now, error: Arc::clone(error) };
        let failed = parts.entry((path.to_owned(), offset)).or_insert_with(new);
        let left = self.patience.saturating_sub(failed.first_failure.elapsed());
        let pause = match pause_after_wrong(self.patience, failed.rounds) {
            // Honours the pause that a busy server asks for, but for no longer than readers wait.
            Some(pause) if !left.is_zero() => {
                pause.mul_f64(jitter_factor()).max(error.retry_after().unwrap_or_default()).min(left)
            }
            _ => EXHAUSTED_RETRY_INTERVAL.mul_f64(jitter_factor()),
        };
        failed.rounds += 1;
        failed.next_attempt = now + pause;
        failed.error = Arc::clone(error);
        failed.error(self.patience)
    }

    /// Records that a part was fetched.
    pub(crate) fn note_success(&self, path: &str, offset: u64) {
        let mut parts = self.parts.lock();
        if !parts.is_empty() {
            parts.remove(&(path.to_owned(), offset));
        }
    }
}

impl FailedPart {
    fn error(&self, patience: Duration) -> LazyFetchError {
        let is_patience_over = self.first_failure.elapsed() >= patience;
        LazyFetchError::RetryLater {
            source: Arc::clone(&self.error),
            next_attempt: self.next_attempt,
            is_patience_over,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::transport::{FailureReason, TRIES_MAX};

    #[test]
    fn part_is_requested_a_bounded_number_of_times_within_patience() {
        let history = RetryHistory::new(Duration::from_millis(100));
        let error = Arc::new(TransportError::Short { path: "packs/a".to_owned() });
        assert!(history.blocking_error("packs/a", 16).is_none() && !history.has_failed("packs/a", 16));
        // The first round sends two requests.
        let mut requests = 2;
        loop {
            let error = history.note_failure("packs/a", 16, &error);
            let LazyFetchError::RetryLater { next_attempt, is_patience_over, .. } = error else { panic!() };
            assert!(history.blocking_error("packs/a", 16).is_some() || Instant::now() >= next_attempt);
            assert!(history.has_failed("packs/a", 16) && !history.has_failed("packs/a", 17));
            if is_patience_over {
                break;
            }
            std::thread::sleep(next_attempt.saturating_duration_since(Instant::now()));
            requests += 1;
        }
        assert!((3..=TRIES_MAX + 1).contains(&requests), "{requests}");
        let busy =
            FailureReason::Busy { status: reqwest::StatusCode::TOO_MANY_REQUESTS, after: Duration::from_secs(100_000) };
        let busy = Arc::new(TransportError::Failed { action: "read", path: "packs/a".to_owned(), source: busy });
        let LazyFetchError::RetryLater { next_attempt, .. } = history.note_failure("packs/b", 0, &busy) else {
            panic!()
        };
        assert!(next_attempt <= Instant::now() + history.patience, "a pause is at most the patience");
        history.note_success("packs/a", 16);
        assert!(history.blocking_error("packs/a", 16).is_none() && !history.has_failed("packs/a", 16));
    }
}
