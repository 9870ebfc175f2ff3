//! What came wrong a while ago, and when it is asked for again.
//!
//! Purpose: one schedule for each part of a file, whoever needs it, so that many readers of the same do not ask more often than
//! one. Not here: the requests. Invariant: within the patience a part is asked for at most
//! [`TRIES_MAX`](crate::remote::transport::TRIES_MAX) times of each place. Used by `origin`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::error::FetchError;
use crate::remote::transport::{TransportError, jitter, pause_after_wrong};

/// When the patience is over, readers look this often whether it has passed, and are refused in between.
const REST: Duration = Duration::from_secs(2);

/// Parts that are remembered at most; beyond that a server is asked more often than it should be.
const PARTS_MAX: usize = 4096;

/// A part that came wrong: a file of the other side, and where in it the part begins.
type Part = (String, u64);

#[derive(Debug)]
struct Try {
    since: Instant,
    /// How many rounds of requests failed.
    rounds: u32,
    /// Not before this.
    next: Instant,
    error: Arc<TransportError>,
}

/// The parts that came wrong.
#[derive(Debug)]
pub(super) struct Tries {
    patience: Duration,
    parts: Mutex<HashMap<Part, Try>>,
}

impl Tries {
    /// None yet, for readers who wait so long.
    pub fn new(patience: Duration) -> Self {
        Self { patience, parts: Mutex::default() }
    }

    /// Returns the last failure of a part that is not to be asked for yet.
    pub fn blocked(&self, path: &str, offset: u64) -> Option<FetchError> {
        let parts = self.parts.lock();
        if parts.is_empty() {
            return None;
        }
        let failed = parts.get(&(path.to_owned(), offset))?;
        (Instant::now() < failed.next).then(|| failed.error(self.patience))
    }

    /// Returns whether a part was asked for before, in vain.
    pub fn was_asked(&self, path: &str, offset: u64) -> bool {
        let parts = self.parts.lock();
        !parts.is_empty() && parts.contains_key(&(path.to_owned(), offset))
    }

    /// Notes that a part came wrong; returns the error that says when to ask again.
    pub fn failed(&self, path: &str, offset: u64, error: &Arc<TransportError>) -> FetchError {
        let now = Instant::now();
        let mut parts = self.parts.lock();
        if parts.len() >= PARTS_MAX {
            parts.clear();
        }
        let new = || Try { since: now, rounds: 0, next: now, error: Arc::clone(error) };
        let failed = parts.entry((path.to_owned(), offset)).or_insert_with(new);
        let left = self.patience.saturating_sub(failed.since.elapsed());
        let pause = match pause_after_wrong(self.patience, failed.rounds) {
            // A busy server is left alone for as long as it asks for, but readers are not kept from it longer than they wait.
            Some(pause) if !left.is_zero() => {
                pause.mul_f64(jitter()).max(error.retry_after().unwrap_or_default()).min(left)
            }
            _ => REST.mul_f64(jitter()),
        };
        failed.rounds += 1;
        failed.next = now + pause;
        failed.error = Arc::clone(error);
        failed.error(self.patience)
    }

    /// Notes that a part came.
    pub fn came(&self, path: &str, offset: u64) {
        let mut parts = self.parts.lock();
        if !parts.is_empty() {
            parts.remove(&(path.to_owned(), offset));
        }
    }
}

impl Try {
    fn error(&self, patience: Duration) -> FetchError {
        let is_over = self.since.elapsed() >= patience;
        FetchError::Again { source: Arc::clone(&self.error), next: self.next, is_over }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remote::transport::{Reason, TRIES_MAX};

    #[test]
    fn a_part_is_asked_for_so_often_within_the_patience_and_rests_then() {
        let tries = Tries::new(Duration::from_millis(100));
        let error = Arc::new(TransportError::Short { path: "packs/a".to_owned() });
        assert!(tries.blocked("packs/a", 16).is_none() && !tries.was_asked("packs/a", 16));
        // The first round asks twice.
        let mut asked = 2;
        loop {
            let FetchError::Again { next, is_over, .. } = tries.failed("packs/a", 16, &error) else { panic!() };
            assert!(tries.blocked("packs/a", 16).is_some() || Instant::now() >= next);
            assert!(tries.was_asked("packs/a", 16) && !tries.was_asked("packs/a", 17));
            if is_over {
                break;
            }
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
            asked += 1;
        }
        assert!((3..=TRIES_MAX + 1).contains(&asked), "{asked}");
        let busy = Reason::Busy { status: reqwest::StatusCode::TOO_MANY_REQUESTS, after: Duration::from_secs(100_000) };
        let busy = Arc::new(TransportError::Failed { action: "read", path: "packs/a".to_owned(), source: busy });
        let FetchError::Again { next, .. } = tries.failed("packs/b", 0, &busy) else { panic!() };
        assert!(next <= Instant::now() + tries.patience, "nobody waits longer than the patience");
        tries.came("packs/a", 16);
        assert!(tries.blocked("packs/a", 16).is_none() && !tries.was_asked("packs/a", 16));
    }
}
