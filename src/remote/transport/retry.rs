//! The rule for repeating reads: which endpoint is asked, how often, and when to give up.
//!
//! A wrong answer of any kind means that this endpoint does not have the content now. The request is repeated bypassing
//! caches, then sent to the next endpoint, then, after growing pauses, to all endpoints bypassing caches until the
//! patience is over. A failure that waiting cannot change ends the request when each endpoint was asked twice. No
//! endpoint is asked more than [`TRIES_MAX`] times without progress.
//!
//! *Not here*: whether an answer is wrong; the caller decides that, see `read`.
//!
//! *Used by* `read`.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::open::{Endpoint, EndpointKind};
use super::retry_class::{Caches, Need, RetryClass, TRIES_MAX};
use super::{Transport, TransportError};

/// The first pause between two rounds in which no endpoint was reached. Each pause is twice as long as the previous
/// one, at most [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(200);

/// The longest pause while no endpoint is reached.
const PAUSE_MAX: Duration = Duration::from_secs(15);

/// The factor by which each pause after wrong answers is longer than the previous one.
const PAUSE_GROWTH: f64 = 2.5;

/// Number of pauses after wrong answers, which together fill the patience: one for each try but the first two, between
/// which there is none.
const PAUSE_COUNT: i32 = TRIES_MAX as i32 - 2;

/// The time after which the absence of a file that probably exists is accepted.
const ABSENCE_PATIENCE: Duration = Duration::from_secs(2);

/// The shortest patience for which a warning is logged while requests are repeated.
const WARN_PATIENCE_MIN: Duration = Duration::from_secs(10);

/// The received bytes that count as progress, after which the patience begins anew. With fewer, a server could make a
/// client wait for ever.
const PROGRESS_MIN: u64 = 64 << 10;

/// The endpoint that is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FirstEndpoint {
    /// The URL itself, bypassing caches: a mirror or a cache may have an outdated copy of a mutable file.
    Url,
    /// The endpoint that answered last.
    Answered,
}

/// One request to one endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct EndpointAttempt<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) caches: Caches,
    /// When its answer must be complete.
    pub(crate) end: Option<Instant>,
}

/// The failures of one round: the number of each endpoint that was asked, and its last failure.
type RoundFailures = Vec<(usize, TransportError)>;

impl Transport {
    /// Asks the endpoints one after the other, in rounds, as long as that may help. `position` returns how far the
    /// request has progressed over all attempts. On failure it returns the first failure of the last round; a missing
    /// file is reported only if the URL itself says so or there is no other failure.
    pub(super) fn try_endpoints<T>(
        &self,
        first: FirstEndpoint,
        position: &dyn Fn() -> u64,
        ask: impl Fn(EndpointAttempt<'_>) -> Result<T, TransportError>,
    ) -> Result<T, TransportError> {
        let mut state = RetryState::new(self.inner.endpoints.len(), self.patience, position());
        if self.is_repeated {
            state.skip_first_round();
        }
        loop {
            let failures = match self.try_round(first, &mut state, &ask) {
                Ok(found) => {
                    self.inner.has_warned_waiting.store(false, Ordering::Relaxed);
                    return Ok(found);
                }
                Err(failures) => failures,
            };
            let class = failures
                .iter()
                .map(|(number, error)| self.retry_class_at(*number, error))
                .max()
                .unwrap_or(RetryClass::Never);
            // The shortest pause that any endpoint asks for, of those that are worth repeating.
            let repeatable = failures
                .iter()
                .filter(|(number, error)| self.retry_class_at(*number, error) > RetryClass::OncePerPlace);
            let requested_pause =
                repeatable.map(|(_, error)| error.retry_after().unwrap_or_default()).min().unwrap_or_default();
            let has_answered =
                failures.iter().any(|(number, error)| self.retry_class_at(*number, error) == RetryClass::Limited);
            let pause = match class {
                RetryClass::Never | RetryClass::OncePerPlace => None,
                RetryClass::Absent => state.pause_for_absence(position()),
                RetryClass::Limited | RetryClass::Unreachable if has_answered => {
                    state.pause(position(), requested_pause)
                }
                RetryClass::Limited | RetryClass::Unreachable => state.pause_unreached(position(), requested_pause),
            };
            let failure = select_failure(failures);
            let Some(pause) =
                pause.filter(|pause| self.deadline.is_none_or(|deadline| Instant::now() + *pause < deadline))
            else {
                return Err(failure);
            };
            if class > RetryClass::Absent {
                self.warn_waiting(&failure);
            }
            self.inner.runtime.block_on(async { tokio::time::sleep(pause).await });
        }
    }

    /// Returns how a failure of the endpoint with this number is repeated, for this caller.
    fn retry_class_at(&self, number: usize, error: &TransportError) -> RetryClass {
        let class = error.retry_class();
        // There is no cache before a directory: it would return the same again.
        let is_directory = self.inner.endpoints.get(number).is_some_and(Endpoint::is_directory);
        match (class, self.need) {
            (RetryClass::Limited | RetryClass::Absent, _) if is_directory => RetryClass::OncePerPlace,
            (RetryClass::Absent, Need::Required) => RetryClass::Limited,
            (RetryClass::Absent, Need::Destination) => RetryClass::Never,
            (RetryClass::Limited | RetryClass::Absent, Need::Optional) => RetryClass::OncePerPlace,
            _ => class,
        }
    }

    /// Logs one warning, so that users know what is waited for. With a short patience the error tells it soon enough.
    fn warn_waiting(&self, failure: &TransportError) {
        if self.patience >= WARN_PATIENCE_MIN && !self.inner.has_warned_waiting.swap(true, Ordering::Relaxed) {
            let reason = std::error::Error::source(failure).map(|reason| format!(": {reason}")).unwrap_or_default();
            tracing::warn!("{}: {failure}{reason}; trying again for up to {} s", self.url(), self.patience.as_secs());
        }
    }

    /// Returns the order in which the endpoints are asked: those that sent wrong content recently are last, but the URL
    /// itself is first for mutable files.
    fn endpoint_order(&self, first: FirstEndpoint) -> Vec<usize> {
        let endpoints = &self.inner.endpoints;
        let begin = match first {
            FirstEndpoint::Url => 0,
            FirstEndpoint::Answered => self.inner.preferred.load(Ordering::Relaxed),
        };
        let mut order: Vec<usize> = (begin..endpoints.len()).chain(0..begin).collect();
        order.sort_by_key(|number| endpoints[*number].is_distrusted() && (first, *number) != (FirstEndpoint::Url, 0));
        order
    }

    /// Asks each endpoint once, and once more, bypassing caches, if its first answer is wrong.
    fn try_round<T>(
        &self,
        first: FirstEndpoint,
        state: &mut RetryState,
        ask: &impl Fn(EndpointAttempt<'_>) -> Result<T, TransportError>,
    ) -> Result<T, RoundFailures> {
        let endpoints = &self.inner.endpoints;
        let order: Vec<usize> =
            self.endpoint_order(first).into_iter().filter(|number| state.tries[*number] < TRIES_MAX).collect();
        let mut failures = RoundFailures::new();
        for (at, number) in order.iter().copied().enumerate() {
            let bypasses_caches = first == FirstEndpoint::Url || state.rounds > 0;
            let mut caches = if bypasses_caches { Caches::Bypassed } else { Caches::Allowed };
            loop {
                let end = self.attempt_deadline(order.len() - at);
                let error = match ask(EndpointAttempt { endpoint: &endpoints[number], caches, end }) {
                    Ok(found) => {
                        self.inner.preferred.store(number, Ordering::Relaxed);
                        let wrong = failures.iter().filter(|(other, error)| *other != number && error.is_corruption());
                        wrong.for_each(|(other, _)| endpoints[*other].distrust());
                        return Ok(found);
                    }
                    Err(error) => error,
                };
                let class = self.retry_class_at(number, &error);
                state.tries[number] += u32::from(class < RetryClass::Unreachable);
                let is_asked_again = state.tries[number] == 1
                    && matches!(class, RetryClass::OncePerPlace | RetryClass::Absent | RetryClass::Limited)
                    && !endpoints[number].is_directory()
                    && !error.is_busy()
                    && self.deadline.is_none_or(|deadline| Instant::now() < deadline);
                failures.retain(|(other, _)| *other != number);
                if endpoints.len() > 1 && !is_asked_again {
                    tracing::info!("{}: {error}; trying the next", endpoints[number].url);
                }
                failures.push((number, error));
                if !is_asked_again {
                    break;
                }
                caches = Caches::Bypassed;
            }
        }
        state.rounds += 1;
        Err(failures)
    }

    /// Returns the deadline of the next attempt, with this many endpoints left to ask: each gets an equal share of the
    /// time.
    fn attempt_deadline(&self, left: usize) -> Option<Instant> {
        let (deadline, now) = (self.deadline?, Instant::now());
        let endpoints = u32::try_from(left).unwrap_or(u32::MAX).max(1);
        Some(now + deadline.saturating_duration_since(now) / endpoints)
    }

    /// Counts a request to a directory. Requests over HTTP are counted where they are sent.
    pub(super) fn count_local(&self, endpoint: &Endpoint) {
        if endpoint.is_directory() {
            self.inner.counters.count_request();
        }
    }
}

impl Endpoint {
    /// Returns whether it is a directory of this machine.
    pub(super) fn is_directory(&self) -> bool {
        matches!(self.kind, EndpointKind::Directory(_))
    }
}

/// Selects the failure that is reported.
fn select_failure(mut failures: RoundFailures) -> TransportError {
    let is_missing = |error: &TransportError| matches!(error, TransportError::Missing { .. });
    let by_url = failures.iter().position(|(number, error)| *number == 0 && is_missing(error));
    let other = failures.iter().position(|(_, error)| !is_missing(error));
    failures.swap_remove(by_url.or(other).unwrap_or(0)).1
}

/// Returns the pause before the try with this number after wrong answers, counted from 0. All pauses together fill
/// `patience`.
pub(crate) fn pause_after_wrong(patience: Duration, number: u32) -> Option<Duration> {
    let number = i32::try_from(number).ok().filter(|number| *number < PAUSE_COUNT)?;
    let all = (PAUSE_GROWTH.powi(PAUSE_COUNT) - 1.0) / (PAUSE_GROWTH - 1.0);
    Some(patience.mul_f64(PAUSE_GROWTH.powi(number) / all))
}

/// Returns a random factor from 0.5 to 1.5, so that clients that failed together do not return together.
pub(crate) fn jitter_factor() -> f64 {
    // Without random numbers there is no jitter, which is not an error.
    0.5 + getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}

/// The state of a repeated request.
struct RetryState {
    limit: Duration,
    /// The time of the last progress.
    last_progress: Instant,
    position: u64,
    /// The next pause while no endpoint is reached.
    next_pause: Duration,
    /// Number of finished rounds.
    rounds: u32,
    /// Number of wrong answers of each endpoint.
    tries: Vec<u32>,
}

impl RetryState {
    fn new(endpoints: usize, limit: Duration, position: u64) -> Self {
        Self {
            limit,
            last_progress: Instant::now(),
            position,
            next_pause: PAUSE_MIN,
            rounds: 0,
            tries: vec![0; endpoints],
        }
    }

    /// Returns how long to wait before the next round after wrong answers, at least as long as a server asked for;
    /// `None` to give up.
    fn pause(&mut self, position: u64, requested: Duration) -> Option<Duration> {
        self.note_progress(position);
        let left = self.limit.checked_sub(self.last_progress.elapsed()).filter(|left| !left.is_zero())?;
        let pause = pause_after_wrong(self.limit, self.rounds.saturating_sub(1))?;
        let pause = pause.mul_f64(jitter_factor()).min(left).max(requested);
        (pause <= left).then_some(pause)
    }

    /// Returns how long to wait before the next round after no endpoint was reached; `None` to give up.
    fn pause_unreached(&mut self, position: u64, requested: Duration) -> Option<Duration> {
        self.note_progress(position);
        let left = self.limit.checked_sub(self.last_progress.elapsed())?;
        let pause = self.next_pause.mul_f64(jitter_factor()).min(left).max(requested);
        self.next_pause = (self.next_pause * 2).min(PAUSE_MAX);
        (pause <= left).then_some(pause)
    }

    /// Returns how long to wait before the next round after each endpoint reported that the file is missing; `None` to
    /// give up.
    fn pause_for_absence(&mut self, position: u64) -> Option<Duration> {
        self.limit = self.limit.min(ABSENCE_PATIENCE);
        self.pause_unreached(position, Duration::ZERO)
    }

    fn note_progress(&mut self, position: u64) {
        if position >= self.position.saturating_add(PROGRESS_MIN) {
            *self = Self::new(self.tries.len(), self.limit, position);
            self.rounds = 1;
        }
    }

    /// Skips the first round, in which each endpoint is asked twice.
    fn skip_first_round(&mut self) {
        self.rounds = 1;
        self.tries.fill(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_unless_there_is_progress() {
        let mut state = RetryState::new(1, Duration::from_secs(3600), 0);
        let pauses: Vec<Duration> = (0..20).map_while(|_| state.pause_unreached(10, Duration::ZERO)).collect();
        assert_eq!(pauses.len(), 20);
        assert!(pauses[0] < Duration::from_millis(301) && pauses[19] >= PAUSE_MAX / 2, "{pauses:?}");
        let pause = state.pause_unreached(PROGRESS_MIN, Duration::ZERO);
        assert!(pause.is_some_and(|pause| pause < Duration::from_millis(301)));
        let asked = Duration::from_secs(3000);
        assert_eq!(state.pause_unreached(PROGRESS_MIN, asked), Some(asked));
        assert_eq!(state.pause_unreached(PROGRESS_MIN, 2 * asked), None);
        state.limit = Duration::ZERO;
        assert_eq!(state.pause_unreached(PROGRESS_MIN + 1, Duration::ZERO), None);
        assert_eq!(state.pause(PROGRESS_MIN + 1, Duration::ZERO), None);
    }

    #[test]
    fn pauses_after_wrong_answers_grow_and_fill_the_patience() {
        let patience = Duration::from_secs(120);
        let pauses: Vec<Duration> = (0..).map_while(|number| pause_after_wrong(patience, number)).collect();
        assert_eq!(pauses.len() as u32 + 2, TRIES_MAX);
        assert!(pauses.is_sorted() && pauses[0] < Duration::from_secs(1), "{pauses:?}");
        let sum: Duration = pauses.iter().sum();
        assert!(sum.abs_diff(patience) < Duration::from_millis(1), "{sum:?}");
        assert!((0..1000).all(|_| (0.5..=1.5).contains(&jitter_factor())));
    }

    #[test]
    fn most_informative_failure_is_reported() {
        let missing = || TransportError::Missing { path: "refs/main".to_owned() };
        let short = || TransportError::Short { path: "refs/main".to_owned() };
        assert!(matches!(select_failure(vec![(0, missing()), (1, short())]), TransportError::Missing { .. }));
        assert!(matches!(select_failure(vec![(1, missing()), (0, short())]), TransportError::Short { .. }));
        assert!(matches!(select_failure(vec![(1, missing()), (2, missing())]), TransportError::Missing { .. }));
    }
}
