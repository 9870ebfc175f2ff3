//! Whom to ask, how often, and when to give up: the one rule for every answer.
//!
//! An answer that is wrong in any way means "not from here, not now". The same is asked again past caches, then of the next
//! place, then, after pauses that grow, of all places past caches until the patience is over. What no waiting mends ends when
//! each place was asked twice; no place is asked more than [`TRIES_MAX`] times without getting on. Whether an answer is wrong
//! is decided by the caller, see `read`.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::hope::{Caches, Hope, Need, TRIES_MAX};
use super::open::{Endpoint, Kind};
use super::{Transport, TransportError};

/// The first pause between two rounds in which no place was reached; each is twice as long as the one before, at most
/// [`LAST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// The longest pause while no place is reached.
const LAST_PAUSE: Duration = Duration::from_secs(15);

/// Each pause after wrong answers is so many times as long as the one before.
const GROWTH: f64 = 2.5;

/// So many pauses after wrong answers fill the patience: the tries but the first two, between which there is none.
const PAUSES: i32 = TRIES_MAX as i32 - 2;

/// How long it takes to believe that a file which is likely there is not.
const ABSENCE: Duration = Duration::from_secs(2);

/// From this patience on it is said what is waited for.
const WORTH_TELLING: Duration = Duration::from_secs(10);

/// So many bytes more and there is hope again: patience begins anew. Fewer would let a server hold us for ever.
const PROGRESS: u64 = 64 << 10;

/// Who is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum First {
    /// The URL itself, past caches: a mirror or a cache may be behind in what changes.
    Url,
    /// Whoever answered last.
    Answered,
}

/// One request to one place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt<'a> {
    pub endpoint: &'a Endpoint,
    pub caches: Caches,
    /// When its answer is to be complete.
    pub end: Option<Instant>,
}

/// The failures of one round: the number of each place that was asked, and how it failed last.
type Failures = Vec<(usize, TransportError)>;

impl Transport {
    /// Asks the endpoints in turn, and again, as long as that may help. `position` tells how far the request has come over all
    /// attempts. Of the failures of the last round the first is told, and that a file is missing only if the URL itself says
    /// so or nobody says anything else.
    pub(super) fn ask_in_turn<T>(
        &self,
        first: First,
        position: &dyn Fn() -> u64,
        ask: impl Fn(Attempt<'_>) -> Result<T, TransportError>,
    ) -> Result<T, TransportError> {
        let mut turns = Turns::new(self.inner.endpoints.len(), self.patience, position());
        if self.was_asked {
            turns.count_as_asked();
        }
        loop {
            let failures = match self.round(first, &mut turns, &ask) {
                Ok(found) => {
                    self.inner.said.store(false, Ordering::Relaxed);
                    return Ok(found);
                }
                Err(failures) => failures,
            };
            let hope = failures.iter().map(|(number, error)| self.hope_at(*number, error)).max().unwrap_or(Hope::None);
            // The shortest that anybody asks for, of those with whom there is hope.
            let hopeful = failures.iter().filter(|(number, error)| self.hope_at(*number, error) > Hope::Twice);
            let asked = hopeful.map(|(_, error)| error.retry_after().unwrap_or_default()).min().unwrap_or_default();
            let has_answered = failures.iter().any(|(number, error)| self.hope_at(*number, error) == Hope::Again);
            let pause = match hope {
                Hope::None | Hope::Twice => None,
                Hope::Absent => turns.pause_for_absence(position()),
                Hope::Again | Hope::Reach if has_answered => turns.pause(position(), asked),
                Hope::Again | Hope::Reach => turns.pause_unreached(position(), asked),
            };
            let failure = worst(failures);
            let Some(pause) = pause.filter(|pause| self.until.is_none_or(|until| Instant::now() + *pause < until))
            else {
                return Err(failure);
            };
            if hope > Hope::Absent {
                self.tell(&failure);
            }
            self.inner.runtime.block_on(async { tokio::time::sleep(pause).await });
        }
    }

    /// What waiting may do about a failure of the place with this number, for this caller.
    fn hope_at(&self, number: usize, error: &TransportError) -> Hope {
        let hope = error.hope();
        // Nothing stands between us and a directory: it will say the same again.
        let is_directory = self.inner.endpoints.get(number).is_some_and(Endpoint::is_directory);
        match (hope, self.need) {
            (Hope::Again | Hope::Absent, _) if is_directory => Hope::Twice,
            (Hope::Absent, Need::Must) => Hope::Again,
            (Hope::Absent, Need::Own) => Hope::None,
            (Hope::Again | Hope::Absent, Need::Optional) => Hope::Twice,
            _ => hope,
        }
    }

    /// Once, so that whoever waits knows for what. Who gives up soon hears it from the error.
    fn tell(&self, failure: &TransportError) {
        if self.patience >= WORTH_TELLING && !self.inner.said.swap(true, Ordering::Relaxed) {
            let reason = std::error::Error::source(failure).map(|reason| format!(": {reason}")).unwrap_or_default();
            tracing::warn!("{}: {failure}{reason}; trying again for up to {} s", self.url(), self.patience.as_secs());
        }
    }

    /// The order in which the places are asked: those that sent something wrong a while ago come last, but the URL itself is
    /// first for what changes.
    fn order(&self, first: First) -> Vec<usize> {
        let endpoints = &self.inner.endpoints;
        let begin = match first {
            First::Url => 0,
            First::Answered => self.inner.preferred.load(Ordering::Relaxed),
        };
        let mut order: Vec<usize> = (begin..endpoints.len()).chain(0..begin).collect();
        order.sort_by_key(|number| endpoints[*number].is_distrusted() && (first, *number) != (First::Url, 0));
        order
    }

    /// Asks each place once, and again past caches each that gave a first wrong answer.
    fn round<T>(
        &self,
        first: First,
        turns: &mut Turns,
        ask: &impl Fn(Attempt<'_>) -> Result<T, TransportError>,
    ) -> Result<T, Failures> {
        let endpoints = &self.inner.endpoints;
        let order: Vec<usize> =
            self.order(first).into_iter().filter(|number| turns.tries[*number] < TRIES_MAX).collect();
        let mut failures = Failures::new();
        for (at, number) in order.iter().copied().enumerate() {
            let is_fresh = first == First::Url || turns.rounds > 0;
            let mut caches = if is_fresh { Caches::Bypassed } else { Caches::Allowed };
            loop {
                let end = self.share(order.len() - at);
                let error = match ask(Attempt { endpoint: &endpoints[number], caches, end }) {
                    Ok(found) => {
                        self.inner.preferred.store(number, Ordering::Relaxed);
                        let wrong = failures.iter().filter(|(other, error)| *other != number && error.is_corruption());
                        wrong.for_each(|(other, _)| endpoints[*other].distrust());
                        return Ok(found);
                    }
                    Err(error) => error,
                };
                let hope = self.hope_at(number, &error);
                turns.tries[number] += u32::from(hope < Hope::Reach);
                let is_asked_again = turns.tries[number] == 1
                    && matches!(hope, Hope::Twice | Hope::Absent | Hope::Again)
                    && !endpoints[number].is_directory()
                    && !error.is_busy()
                    && self.until.is_none_or(|until| Instant::now() < until);
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
        turns.rounds += 1;
        Err(failures)
    }

    /// When the place whose turn it is has to have answered, with so many left to ask: each has its share of the time.
    fn share(&self, left: usize) -> Option<Instant> {
        let (until, now) = (self.until?, Instant::now());
        let places = u32::try_from(left).unwrap_or(u32::MAX).max(1);
        Some(now + until.saturating_duration_since(now) / places)
    }

    /// Requests over HTTP are counted where they are sent.
    pub(super) fn count_local(&self, endpoint: &Endpoint) {
        if endpoint.is_directory() {
            self.inner.counters.requested();
        }
    }
}

impl Endpoint {
    /// Whether it is a directory of this machine.
    pub(super) fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory(_))
    }
}

/// The failure to tell.
fn worst(mut failures: Failures) -> TransportError {
    let is_missing = |error: &TransportError| matches!(error, TransportError::Missing { .. });
    let by_url = failures.iter().position(|(number, error)| *number == 0 && is_missing(error));
    let other = failures.iter().position(|(_, error)| !is_missing(error));
    failures.swap_remove(by_url.or(other).unwrap_or(0)).1
}

/// Returns the pause before the try with this number after wrong answers, counted from 0; all of them fill `patience`.
pub fn pause_after_wrong(patience: Duration, number: u32) -> Option<Duration> {
    let number = i32::try_from(number).ok().filter(|number| *number < PAUSES)?;
    let all = (GROWTH.powi(PAUSES) - 1.0) / (GROWTH - 1.0);
    Some(patience.mul_f64(GROWTH.powi(number) / all))
}

/// A factor from a half to one and a half, so that clients that failed together do not come back together.
pub fn jitter() -> f64 {
    // Without randomness there is no jitter, which is no reason to fail.
    0.5 + getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}

/// How long to go on.
struct Turns {
    limit: Duration,
    /// When something last moved.
    since: Instant,
    position: u64,
    /// The next pause while no place is reached.
    next: Duration,
    /// How often all places were asked.
    rounds: u32,
    /// How often each place answered, and wrongly.
    tries: Vec<u32>,
}

impl Turns {
    fn new(places: usize, limit: Duration, position: u64) -> Self {
        Self { limit, since: Instant::now(), position, next: FIRST_PAUSE, rounds: 0, tries: vec![0; places] }
    }

    /// How long to wait before the next round after wrong answers, at least as long as somebody asked for; `None` when it is
    /// enough.
    fn pause(&mut self, position: u64, asked: Duration) -> Option<Duration> {
        self.note(position);
        let left = self.limit.checked_sub(self.since.elapsed()).filter(|left| !left.is_zero())?;
        let pause = pause_after_wrong(self.limit, self.rounds.saturating_sub(1))?;
        let pause = pause.mul_f64(jitter()).min(left).max(asked);
        (pause <= left).then_some(pause)
    }

    /// The same after no place was reached.
    fn pause_unreached(&mut self, position: u64, asked: Duration) -> Option<Duration> {
        self.note(position);
        let left = self.limit.checked_sub(self.since.elapsed())?;
        let pause = self.next.mul_f64(jitter()).min(left).max(asked);
        self.next = (self.next * 2).min(LAST_PAUSE);
        (pause <= left).then_some(pause)
    }

    /// The same after each place said that there is no such file.
    fn pause_for_absence(&mut self, position: u64) -> Option<Duration> {
        self.limit = self.limit.min(ABSENCE);
        self.pause_unreached(position, Duration::ZERO)
    }

    fn note(&mut self, position: u64) {
        if position >= self.position.saturating_add(PROGRESS) {
            *self = Self::new(self.tries.len(), self.limit, position);
            self.rounds = 1;
        }
    }

    /// Skips the first round, in which each place is asked twice.
    fn count_as_asked(&mut self) {
        self.rounds = 1;
        self.tries.fill(2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_unless_something_moves() {
        let mut turns = Turns::new(1, Duration::from_secs(3600), 0);
        let pauses: Vec<Duration> = (0..20).map_while(|_| turns.pause_unreached(10, Duration::ZERO)).collect();
        assert_eq!(pauses.len(), 20);
        assert!(pauses[0] < Duration::from_millis(301) && pauses[19] >= LAST_PAUSE / 2, "{pauses:?}");
        let pause = turns.pause_unreached(PROGRESS, Duration::ZERO);
        assert!(pause.is_some_and(|pause| pause < Duration::from_millis(301)));
        let asked = Duration::from_secs(3000);
        assert_eq!(turns.pause_unreached(PROGRESS, asked), Some(asked));
        assert_eq!(turns.pause_unreached(PROGRESS, 2 * asked), None);
        turns.limit = Duration::ZERO;
        assert_eq!(turns.pause_unreached(PROGRESS + 1, Duration::ZERO), None);
        assert_eq!(turns.pause(PROGRESS + 1, Duration::ZERO), None);
    }

    #[test]
    fn pauses_after_wrong_answers_grow_and_fill_the_patience() {
        let patience = Duration::from_secs(120);
        let pauses: Vec<Duration> = (0..).map_while(|number| pause_after_wrong(patience, number)).collect();
        assert_eq!(pauses.len() as u32 + 2, TRIES_MAX);
        assert!(pauses.is_sorted() && pauses[0] < Duration::from_secs(1), "{pauses:?}");
        let sum: Duration = pauses.iter().sum();
        assert!(sum.abs_diff(patience) < Duration::from_millis(1), "{sum:?}");
        assert!((0..1000).all(|_| (0.5..=1.5).contains(&jitter())));
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
