//! How much may be kept of what was fetched: a limit that nothing is written beyond.
//!
//! Whoever wants to keep something asks first. When there is no room the thing is used and not kept, and the janitor is
//! called, who evicts what was not used for longest. What is used is an estimate between two looks, on the safe side: what
//! this process wrote counts at once, what others wrote counts at the next look.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

/// Another look is taken when so large a part of the limit was written since the last: others may write, too.
const LOOK_AGAIN: u64 = 16;

/// Room is made when less than one part in so many of the limit is free, so that nobody has to wait for it.
const HIGH_WATER: u64 = 16;

/// So large a part of the limit is made free at once.
const LOW_WATER: u64 = 4;

/// So long after the start of a mount, who has something to keep waits for the first look.
const FIRST_LOOK: Duration = Duration::from_secs(1);

/// The room of one repository, as one process sees it.
#[derive(Debug)]
pub(super) struct Room {
    /// What the user said for this mount alone.
    own_limit: Option<u64>,
    started: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    limit: Option<u64>,
    used: u64,
    /// Written since the last look.
    written: u64,
    /// Whether a look was taken at all.
    is_known: bool,
    is_wanted: bool,
    closed: bool,
}

impl Room {
    /// Bounded by `own_limit`, else by what the repository says, which may change.
    pub fn new(own_limit: Option<u64>, configured: Option<u64>) -> Self {
        let limit = own_limit.or(configured);
        let state = State { limit, is_wanted: limit.is_some(), ..State::default() };
        Self { own_limit, started: Instant::now(), state: Mutex::new(state), changed: Condvar::new() }
    }

    /// How many bytes may be kept, if that is bounded.
    pub fn limit(&self) -> Option<u64> {
        self.state.lock().limit
    }

    /// Takes notice of what the repository says now.
    pub fn configure(&self, configured: Option<u64>) {
        let mut state = self.state.lock();
        let limit = self.own_limit.or(configured);
        if state.limit != limit {
            (state.limit, state.is_wanted) = (limit, true);
        }
    }

    /// Bytes that are kept.
    pub fn used(&self) -> u64 {
        self.state.lock().used
    }

    /// Whether so many bytes more may be written; they count as written then. Waits a moment when the mount has just begun.
    pub fn take(&self, bytes: u64) -> bool {
        self.take_locked(&mut self.state.lock(), bytes)
    }

    fn take_locked(&self, state: &mut MutexGuard<'_, State>, bytes: u64) -> bool {
        let looked = self.started + FIRST_LOOK;
        while state.limit.is_some() && !state.is_known && !state.closed && Instant::now() < looked {
            self.changed.wait_until(state, looked);
        }
        let Some(limit) = state.limit else { return true };
        let fits = state.is_known && state.used.saturating_add(bytes) <= limit;
        if fits {
            state.used += bytes;
            state.written += bytes;
        }
        if !fits || state.is_pressing(limit) {
            state.is_wanted = true;
            self.changed.notify_all();
        }
        fits
    }

    /// The same, waiting a while for room to be made.
    pub fn take_within(&self, bytes: u64, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        // Locked from looking to waiting, so that no room is made in between.
        let mut state = self.state.lock();
        loop {
            if self.take_locked(&mut state, bytes) {
                return true;
            }
            if state.closed || Instant::now() >= end || state.limit.is_some_and(|limit| bytes > limit) {
                return false;
            }
            self.changed.wait_until(&mut state, end);
        }
    }

    /// For the janitor: waits until room is wanted, or for so long; returns limit and target if it is wanted.
    pub fn wait_until_wanted(&self, longest: Duration) -> Option<(u64, u64)> {
        let mut state = self.state.lock();
        if !state.is_wanted && !state.closed {
            self.changed.wait_for(&mut state, longest);
        }
        let limit = state.limit.filter(|_| state.is_wanted)?;
        Some((limit - limit / HIGH_WATER, limit - limit / LOW_WATER))
    }

    /// For the janitor: so many bytes are used now.
    pub fn found(&self, used: u64) {
        let mut state = self.state.lock();
        (state.used, state.written, state.is_known, state.is_wanted) = (used, 0, true, false);
        self.changed.notify_all();
    }

    /// Nobody makes room any more.
    pub fn close(&self) {
        self.state.lock().closed = true;
        self.changed.notify_all();
    }
}

impl State {
    fn is_pressing(&self, limit: u64) -> bool {
        self.used > limit - limit / HIGH_WATER || self.written > limit / LOOK_AGAIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_limit_everything_fits_and_with_one_nothing_beyond_it() {
        let free = Room::new(None, None);
        assert!(free.take(u64::MAX) && free.take(u64::MAX));
        assert_eq!(free.wait_until_wanted(Duration::ZERO), None);
        let room = Room::new(Some(1000), Some(1));
        assert!(!room.take(1), "nobody has looked yet");
        assert!(room.wait_until_wanted(Duration::ZERO).is_some());
        room.found(0);
        assert_eq!(room.wait_until_wanted(Duration::ZERO), None);
        assert!(room.take(50));
        assert_eq!(room.wait_until_wanted(Duration::ZERO), None);
        assert!(room.take(900));
        assert_eq!(room.wait_until_wanted(Duration::ZERO), Some((938, 750)));
        assert!(room.take(50) && !room.take(1));
        assert!(!room.take_within(1001, Duration::from_secs(60)), "more than there can ever be");
        room.configure(Some(1));
        assert_eq!(room.limit(), Some(1000), "what was said for this mount counts");
    }

    #[test]
    fn who_waits_goes_on_when_room_was_made() {
        let room = Room::new(None, Some(100));
        room.found(100);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| room.take_within(60, Duration::from_secs(60)));
            while room.wait_until_wanted(Duration::from_millis(10)).is_none() {}
            room.found(20);
            assert!(waiting.join().expect("no panic"));
        });
        assert_eq!(room.used(), 80);
    }
}
