//! Whom to ask, how often, and when to give up.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::open::{Endpoint, Kind};
use super::{Transport, TransportError};

/// The first pause between two rounds; each is twice as long as the one before, at most [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause.
const LAST_PAUSE: Duration = Duration::from_secs(15);

/// From this patience on it is said what is waited for.
const WORTH_TELLING: Duration = Duration::from_secs(10);

/// So many bytes more and there is hope again: patience begins anew. Fewer would let a server hold us for ever.
const PROGRESS: u64 = 64 << 10;

/// Who is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// The URL itself: a mirror may be behind in what changes.
    Url,
    /// Whoever answered last.
    Answered,
}

impl Transport {
    /// Asks the endpoints in turn, and again, as long as that may help. `position` tells how far the request has come over all
    /// attempts. Of the failures of the last round the first is told, and that a file is missing only if the URL itself says
    /// so or nobody says anything else.
    pub(super) fn ask_in_turn<T>(
        &self,
        first: First,
        position: &dyn Fn() -> u64,
        ask: impl Fn(&Endpoint) -> Result<T, TransportError>,
    ) -> Result<T, TransportError> {
        let mut patience = Patience::new(self.patience, position());
        loop {
            let failures = match self.round(first, &ask) {
                Ok(found) => {
                    self.inner.said.store(false, Ordering::Relaxed);
                    return Ok(found);
                }
                Err(failures) => failures,
            };
            // The shortest that anybody asks for, of those with whom there is hope.
            let hopeful = failures.iter().filter(|(_, error)| error.may_pass());
            let asked = hopeful.map(|(_, error)| error.retry_after().unwrap_or_default()).min();
            let pause = asked.and_then(|asked| patience.pause(position(), asked));
            let failure = worst(failures);
            let Some(pause) = pause else { return Err(failure) };
            self.tell(&failure);
            self.inner.runtime.block_on(async { tokio::time::sleep(pause).await });
        }
    }

    /// Once, so that whoever waits knows for what. Who gives up soon hears it from the error.
    fn tell(&self, failure: &TransportError) {
        if self.patience >= WORTH_TELLING && !self.inner.said.swap(true, Ordering::Relaxed) {
            let reason = std::error::Error::source(failure).map(|reason| format!(": {reason}")).unwrap_or_default();
            tracing::warn!("{}: {failure}{reason}; trying again for up to {} s", self.url(), self.patience.as_secs());
        }
    }

    /// Asks everybody once.
    fn round<T>(
        &self,
        first: First,
        ask: &impl Fn(&Endpoint) -> Result<T, TransportError>,
    ) -> Result<T, Vec<(usize, TransportError)>> {
        let endpoints = &self.inner.endpoints;
        let begin = match first {
            First::Url => 0,
            First::Answered => self.inner.preferred.load(Ordering::Relaxed),
        };
        let mut failures = Vec::new();
        for number in (begin..endpoints.len()).chain(0..begin) {
            match ask(&endpoints[number]) {
                Ok(found) => {
                    self.inner.preferred.store(number, Ordering::Relaxed);
                    return Ok(found);
                }
                Err(error) => {
                    if endpoints.len() > 1 {
                        tracing::info!("{}: {error}; trying the next", endpoints[number].url);
                    }
                    failures.push((number, error));
                }
            }
        }
        Err(failures)
    }

    /// Requests over HTTP are counted where they are sent.
    pub(super) fn count_local(&self, endpoint: &Endpoint) {
        if matches!(endpoint.kind, Kind::Directory(_)) {
            self.inner.counters.requested();
        }
    }
}

/// The failure to tell.
fn worst(mut failures: Vec<(usize, TransportError)>) -> TransportError {
    let is_missing = |error: &TransportError| matches!(error, TransportError::Missing { .. });
    let by_url = failures.iter().position(|(number, error)| *number == 0 && is_missing(error));
    let other = failures.iter().position(|(_, error)| !is_missing(error));
    failures.swap_remove(by_url.or(other).unwrap_or(0)).1
}

/// How long to go on.
struct Patience {
    limit: Duration,
    /// When something last moved.
    since: Instant,
    position: u64,
    next: Duration,
}

impl Patience {
    fn new(limit: Duration, position: u64) -> Self {
        Self { limit, since: Instant::now(), position, next: FIRST_PAUSE }
    }

    /// How long to wait before the next round, at least as long as somebody asked for; `None` when it is enough.
    fn pause(&mut self, position: u64, asked: Duration) -> Option<Duration> {
        if position >= self.position.saturating_add(PROGRESS) {
            *self = Self::new(self.limit, position);
        }
        let left = self.limit.checked_sub(self.since.elapsed())?;
        let pause = self.next.mul_f64(jitter()).min(left).max(asked);
        self.next = (self.next * 2).min(LAST_PAUSE);
        (pause <= left).then_some(pause)
    }
}

/// A factor from a half to one and a half, so that clients that failed together do not come back together.
fn jitter() -> f64 {
    // Without randomness there is no jitter, which is no reason to fail.
    0.5 + getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_unless_something_moves() {
        let mut patience = Patience::new(Duration::from_secs(3600), 0);
        let pauses: Vec<Duration> = (0..20).map_while(|_| patience.pause(10, Duration::ZERO)).collect();
        assert_eq!(pauses.len(), 20);
        assert!(pauses[0] < Duration::from_millis(301) && pauses[19] >= LAST_PAUSE / 2, "{pauses:?}");
        assert!(patience.pause(PROGRESS, Duration::ZERO).is_some_and(|pause| pause < Duration::from_millis(301)));
        let asked = Duration::from_secs(3000);
        assert_eq!(patience.pause(PROGRESS, asked), Some(asked));
        assert_eq!(patience.pause(PROGRESS, 2 * asked), None);
        patience.limit = Duration::ZERO;
        assert_eq!(patience.pause(PROGRESS + 1, Duration::ZERO), None);
    }

    #[test]
    fn the_failure_that_tells_most_is_told() {
        let missing = || TransportError::Missing { path: "refs/main".to_owned() };
        let short = || TransportError::Short { path: "refs/main".to_owned() };
        assert!(matches!(worst(vec![(0, missing()), (1, short())]), TransportError::Missing { .. }));
        assert!(matches!(worst(vec![(1, missing()), (0, short())]), TransportError::Short { .. }));
        assert!(matches!(worst(vec![(1, missing()), (2, missing())]), TransportError::Missing { .. }));
    }
}
