//! The quota of fetched contents: a limit that no write exceeds.
//!
//! A thread that wants to store something reserves space first. If there is none, the data is used and not stored, and the
//! evictor is woken, which evicts what was not read for the longest time. Between two measurements the used space is an
//! estimate on the safe side: what this process wrote counts at once, what other processes wrote counts from the next
//! measurement on.
//!
//! *Not here*: the eviction (`evictor`).
//!
//! *Used by* `write_back`, `large`, `evictor`, `readahead` and `tree`.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

/// The used space is measured again when 1/16 of the limit was written since the last measurement, since other processes may
/// write, too.
const REMEASURE_DIVISOR: u64 = 16;

/// Eviction starts when less than 1/16 of the limit is free, so that writers seldom wait for it.
const HIGH_WATER_DIVISOR: u64 = 16;

/// An eviction goes on until 1/4 of the limit is free.
const LOW_WATER_DIVISOR: u64 = 4;

/// How long after the start of a mount a writer waits for the first measurement.
const FIRST_MEASUREMENT_WAIT: Duration = Duration::from_secs(1);

/// The quota of one repository, as one process sees it.
#[derive(Debug)]
pub(in crate::cache) struct Quota {
    /// The limit that was given for this mount.
    own_limit: Option<u64>,
    started: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    limit: Option<u64>,
    used: u64,
    /// Bytes that this process wrote since the last measurement.
    written_since_measurement: u64,
    /// Whether the used space was measured at all.
    is_measured: bool,
    eviction_wanted: bool,
    is_closed: bool,
}

impl Quota {
    /// Creates a quota with the limit `own_limit`, else with the configured limit of the repository, which may change.
    pub(crate) fn new(own_limit: Option<u64>, configured: Option<u64>) -> Self {
        let limit = own_limit.or(configured);
        let state = State { limit, eviction_wanted: limit.is_some(), ..State::default() };
        Self { own_limit, started: Instant::now(), state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Returns the limit in bytes, if there is one.
    pub(crate) fn limit(&self) -> Option<u64> {
        self.state.lock().limit
    }

    /// Sets the configured limit of the repository.
    pub(crate) fn configure(&self, configured: Option<u64>) {
        let mut state = self.state.lock();
        let limit = self.own_limit.or(configured);
        if state.limit != limit {
            (state.limit, state.eviction_wanted) = (limit, true);
        }
    }

    /// Returns the bytes in use, which are counted only while there is a limit.
    pub(crate) fn used(&self) -> u64 {
        self.state.lock().used
    }

    /// Reserves so many bytes; returns `false` if they exceed the limit. Waits for the first measurement if the mount has just
    /// started.
    pub(crate) fn reserve(&self, bytes: u64) -> bool {
        self.reserve_locked(&mut self.state.lock(), bytes)
    }

    fn reserve_locked(&self, state: &mut MutexGuard<'_, State>, bytes: u64) -> bool {
        let measured_by = self.started + FIRST_MEASUREMENT_WAIT;
        while state.limit.is_some() && !state.is_measured && !state.is_closed && Instant::now() < measured_by {
            self.changed.wait_until(state, measured_by);
        }
        let Some(limit) = state.limit else { return true };
        let fits = state.is_measured && state.used.saturating_add(bytes) <= limit;
        if fits {
            state.used += bytes;
            state.written_since_measurement += bytes;
        }
        if !fits || state.needs_eviction(limit) {
            state.eviction_wanted = true;
            self.changed.notify_all();
        }
        fits
    }

    /// Reserves like [`Self::reserve`], and waits at most for `patience` until an eviction has made room.
    pub(crate) fn reserve_within(&self, bytes: u64, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        // Locked from the check to the wait, so that no wake-up is missed.
        let mut state = self.state.lock();
        loop {
            if self.reserve_locked(&mut state, bytes) {
                return true;
            }
            if state.is_closed || Instant::now() >= end || state.limit.is_some_and(|limit| bytes > limit) {
                return false;
            }
            self.changed.wait_until(&mut state, end);
        }
    }

    /// Waits at most for `longest` until an eviction or measurement is wanted. Returns the used bytes above which to evict,
    /// and the used bytes to evict down to. Called by the evictor.
    pub(crate) fn wait_for_eviction_request(&self, longest: Duration) -> Option<(u64, u64)> {
        let mut state = self.state.lock();
        if !state.eviction_wanted && !state.is_closed {
            self.changed.wait_for(&mut state, longest);
        }
        let limit = state.limit.filter(|_| state.eviction_wanted)?;
        Some((limit - limit / HIGH_WATER_DIVISOR, limit - limit / LOW_WATER_DIVISOR))
    }

    /// Sets the measured bytes in use. Called by the evictor.
    pub(crate) fn set_used(&self, used: u64) {
        let mut state = self.state.lock();
        (state.used, state.written_since_measurement, state.is_measured, state.eviction_wanted) =
            (used, 0, true, false);
        self.changed.notify_all();
    }

    /// Ends all waits, since no eviction follows any more.
    pub(crate) fn close(&self) {
        self.state.lock().is_closed = true;
        self.changed.notify_all();
    }
}

impl State {
    fn needs_eviction(&self, limit: u64) -> bool {
        self.used > limit - limit / HIGH_WATER_DIVISOR || self.written_since_measurement > limit / REMEASURE_DIVISOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_never_exceed_the_limit_if_there_is_one() {
        let unlimited = Quota::new(None, None);
        assert!(unlimited.reserve(u64::MAX) && unlimited.reserve(u64::MAX));
        assert_eq!(unlimited.wait_for_eviction_request(Duration::ZERO), None);
        let quota = Quota::new(Some(1000), Some(1));
        assert!(!quota.reserve(1), "nothing was measured yet");
        assert!(quota.wait_for_eviction_request(Duration::ZERO).is_some());
        quota.set_used(0);
        assert_eq!(quota.wait_for_eviction_request(Duration::ZERO), None);
        assert!(quota.reserve(50));
        assert_eq!(quota.wait_for_eviction_request(Duration::ZERO), None);
        assert!(quota.reserve(900));
        assert_eq!(quota.wait_for_eviction_request(Duration::ZERO), Some((938, 750)));
        assert!(quota.reserve(50) && !quota.reserve(1));
        assert!(!quota.reserve_within(1001, Duration::from_secs(60)), "more than the limit");
        quota.configure(Some(1));
        assert_eq!(quota.limit(), Some(1000), "the limit of the mount overrides the configured one");
    }

    #[test]
    fn waiting_reservation_succeeds_after_an_eviction() {
        let quota = Quota::new(None, Some(100));
        quota.set_used(100);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| quota.reserve_within(60, Duration::from_secs(60)));
            while quota.wait_for_eviction_request(Duration::from_millis(10)).is_none() {}
            quota.set_used(20);
            assert!(waiting.join().expect("no panic"));
        });
        assert_eq!(quota.used(), 80);
    }
}
