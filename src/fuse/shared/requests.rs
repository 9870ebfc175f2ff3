//! The pending requests, which the watchdog checks, and the requests that are suspected of crashing workers.
//!
//! A request is identified by what it concerns, not by its number, because a program whose readahead fails reads again under
//! another number.
//!
//! *Not here*: what follows from crashes (`supervisor::policy`).
//!
//! *Invariant*: a worker sets and clears the slots of its own requests; the supervisor clears those of a dead worker.
//!
//! *Used by* `operations`, `wait_pool` and the supervisor.
//!
//! ```text
//! suspects: 10 × inode · opcode and part · time of the last crash and number of crashes
//! requests: 256 × inode · part · start time, worker, opcode, running or waiting
//! ```

use std::sync::atomic::Ordering;

use super::{CRASH_SUSPECTS, READERS, REQUESTS, SharedState, now_ms};

const REQUEST_WORDS: usize = 3;
const REQUESTS_MAX: usize = 256;
const SUSPECT_WORDS: usize = 3;
const SUSPECTS_MAX: usize = 10;
const _: () = assert!(CRASH_SUSPECTS + SUSPECTS_MAX * SUSPECT_WORDS <= REQUESTS);
const _: () = assert!(REQUESTS + REQUESTS_MAX * REQUEST_WORDS <= READERS);

/// Number of crashed workers after which a request is quarantined: the next worker replies to it with an error.
const MAX_CRASHES: u64 = 3;

/// How long a suspect is remembered after its last crash, in milliseconds. The cause may have been a disk that hung.
const SUSPECT_LIFETIME_MS: u64 = 10 * 60_000;

/// State of a request that a thread is running.
const RUNNING: u64 = 1;
/// State of a request that waits, until a deadline, for absent content.
const WAITING: u64 = 2;

/// The identity of a request: what it concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestKey {
    /// The inode.
    pub(crate) node: u64,
    /// The part of the inode: an offset in units of the largest read, a position in a listing, or the hash of a name.
    pub(crate) part: u64,
    /// The kind of message, as its position in `Opcode::ALL`.
    pub(crate) opcode: u8,
}

impl RequestKey {
    /// Creates the key of a request that concerns part of an inode.
    #[must_use]
    pub const fn new(opcode: u8, node: u64, part: u64) -> Self {
        // The highest byte is needed for the opcode.
        Self { node, part: part & (u64::MAX >> 8), opcode }
    }

    const fn packed(self) -> u64 {
        (self.opcode as u64) << 56 | self.part
    }
}

/// A request that has no reply yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingRequest {
    /// The identity of the request.
    pub key: RequestKey,
    /// Milliseconds since the request began.
    pub(crate) age_ms: u64,
    /// Whether it waits for absent content, which may take as long as the mount's fetch timeout.
    pub(crate) is_waiting: bool,
    worker: u8,
}

/// The entry of a pending request in the shared pages, which is cleared when this is dropped.
#[derive(Debug)]
pub(crate) struct RequestSlot {
    shared: SharedState,
    word: Option<usize>,
}

impl SharedState {
    /// Records a request as pending. `hint` is the slot at which to begin the search for a free one; if none is free, the
    /// request is not recorded.
    pub(crate) fn begin_request(&self, worker: u8, key: RequestKey, hint: usize) -> RequestSlot {
        let state = now_ms() << 24 | u64::from(worker) << 16 | u64::from(key.opcode) << 8 | RUNNING;
        let word = (0..REQUESTS_MAX)
            .map(|index| REQUESTS + (hint + index) % REQUESTS_MAX * REQUEST_WORDS)
            .find(|word| self.words[word + 2].compare_exchange(0, state, Ordering::AcqRel, Ordering::Relaxed).is_ok());
        if let Some(word) = word {
            self.set(word + 1, key.part);
            self.set(word, key.node);
        }
        RequestSlot { shared: self.clone(), word }
    }

    /// Returns the pending requests of `worker`, or of all workers.
    pub fn pending_requests(&self, worker: Option<u8>) -> impl Iterator<Item = PendingRequest> {
        self.occupied_slots(worker).map(|(_, request)| request)
    }

    fn occupied_slots(&self, wanted: Option<u8>) -> impl Iterator<Item = (usize, PendingRequest)> {
        let now = now_ms();
        (0..REQUESTS_MAX).filter_map(move |index| {
            let word = REQUESTS + index * REQUEST_WORDS;
            let state = self.get(word + 2);
            let byte = |shift: u32| (state >> shift & 0xff) as u8;
            let request = PendingRequest {
                key: RequestKey::new(byte(8), self.get(word), self.get(word + 1)),
                age_ms: now.saturating_sub(state >> 24),
                is_waiting: u64::from(byte(0)) == WAITING,
                worker: byte(16),
            };
            (state != 0 && wanted.is_none_or(|worker| worker == request.worker)).then_some((word, request))
        })
    }

    /// Clears the pending requests of a dead worker. If it crashed, those that were running become crash suspects.
    /// Returns the number of pending requests.
    pub fn reap_worker(&self, worker: u8, has_crashed: bool) -> usize {
        let mut count = 0;
        for (word, request) in self.occupied_slots(Some(worker)) {
            if has_crashed && request.key.node != 0 && !request.is_waiting {
                self.add_crash_suspect(request.key);
            }
            self.set(word, 0);
            self.set(word + 2, 0);
            count += 1;
        }
        count
    }

    fn crash_suspects(&self) -> impl Iterator<Item = usize> + use<> {
        (0..SUSPECTS_MAX).map(|index| CRASH_SUSPECTS + index * SUSPECT_WORDS)
    }

    /// Returns the number of crashes of a suspect, or 0 if the last one was too long ago.
    fn crash_count(&self, word: usize) -> u64 {
        let value = self.get(word + 2);
        if now_ms().saturating_sub(value >> 8) <= SUSPECT_LIFETIME_MS { value & 0xff } else { 0 }
    }

    fn matches_key(&self, word: usize, key: RequestKey) -> bool {
        self.get(word) == key.node && self.get(word + 1) == key.packed()
    }

    /// Counts one more crash of a suspect. If the table is full, a new suspect replaces the one with the fewest crashes.
    fn add_crash_suspect(&self, key: RequestKey) {
        let known = self.crash_suspects().find(|word| self.matches_key(*word, key));
        let Some(word) = known.or_else(|| self.crash_suspects().min_by_key(|word| self.crash_count(*word))) else {
            return;
        };
        let crashes = if known.is_some() { self.crash_count(word) } else { 0 };
        self.set(word + 2, 0);
        self.set(word, key.node);
        self.set(word + 1, key.packed());
        self.set(word + 2, now_ms() << 8 | (crashes + 1).min(0xff));
    }

    /// Returns whether a request has crashed so many workers that it must not be run again.
    #[must_use]
    pub fn is_quarantined(&self, key: RequestKey) -> bool {
        self.crash_suspects().any(|word| {
            // The cheapest test first: the table is nearly always empty.
            self.get(word + 2) != 0 && self.matches_key(word, key) && self.crash_count(word) >= MAX_CRASHES
        })
    }
}

impl RequestSlot {
    /// Marks the request as waiting for absent content.
    pub(crate) fn set_waiting(&self) {
        self.set_state(WAITING);
    }

    /// Marks the request as running.
    pub(crate) fn set_running(&self) {
        self.set_state(RUNNING);
    }

    fn set_state(&self, state: u64) {
        if let Some(word) = self.word {
            self.shared.set(word + 2, self.shared.get(word + 2) & !0xff | state);
        }
    }
}

impl Drop for RequestSlot {
    fn drop(&mut self) {
        if let Some(word) = self.word {
            self.shared.set(word, 0);
            self.shared.set(word + 2, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn request_key(number: u64) -> RequestKey {
        RequestKey::new(5, number, 7)
    }

    #[test]
    fn requests_are_listed_while_they_are_pending() {
        let shared = SharedState::create().expect("enough memory");
        let one = shared.begin_request(1, request_key(10), 0);
        let two = shared.begin_request(2, request_key(20), 0);
        one.set_waiting();
        let keys = |worker| shared.pending_requests(worker).map(|request| request.key);
        assert_eq!(keys(None).collect::<Vec<_>>(), [request_key(10), request_key(20)]);
        assert_eq!(keys(Some(2)).collect::<Vec<_>>(), [request_key(20)]);
        assert!(shared.pending_requests(Some(1)).all(|request| request.is_waiting));
        one.set_running();
        assert!(shared.pending_requests(Some(1)).all(|request| !request.is_waiting));
        drop((one, two));
        assert_eq!(keys(None).count(), 0);
        let many: Vec<RequestSlot> =
            (0..REQUESTS_MAX as u64 + 10).map(|n| shared.begin_request(1, request_key(n + 1), 3)).collect();
        assert_eq!(keys(None).count(), REQUESTS_MAX);
        drop(many);
        assert_eq!(keys(None).count(), 0);
    }

    #[test]
    fn request_is_quarantined_after_three_crashes() {
        let shared = SharedState::create().expect("enough memory");
        for worker in 1..=3 {
            assert!(!shared.is_quarantined(request_key(7)));
            std::mem::forget(shared.begin_request(worker, request_key(7), 0));
            let waiting = shared.begin_request(worker, request_key(8), 0);
            waiting.set_waiting();
            std::mem::forget(waiting);
            assert_eq!(shared.reap_worker(worker, true), 2);
        }
        assert!(shared.is_quarantined(request_key(7)));
        assert!(!shared.is_quarantined(request_key(8)), "a waiting request crashes no worker");
        for other in [RequestKey::new(6, 7, 7), RequestKey::new(5, 7, 8), RequestKey::new(5, 6, 7)] {
            assert!(!shared.is_quarantined(other), "{other:?}");
        }
        for number in 100..200 {
            std::mem::forget(shared.begin_request(9, request_key(number), 1));
            assert_eq!(shared.reap_worker(9, true), 1);
        }
        assert!(shared.is_quarantined(request_key(7)), "suspects with most crashes stay");
    }

    #[test]
    fn worker_killed_from_outside_leaves_no_suspects() {
        let shared = SharedState::create().expect("enough memory");
        for _ in 0..5 {
            std::mem::forget(shared.begin_request(1, request_key(7), 0));
            shared.reap_worker(1, false);
        }
        assert!(!shared.is_quarantined(request_key(7)));
    }
}
