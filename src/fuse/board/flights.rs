//! The requests under way: what the watchdog looks at, what a dead worker left unanswered, and which request it was that
//! ended one worker after the other.
//!
//! ```text
//! suspects: 16 × request, how many workers it ended
//! flights: 256 × request, inode, and: since when · which worker · kind · in hand or waiting
//! ```

use std::sync::atomic::Ordering;

use super::{Board, FLIGHTS, OPENED, SUSPECTS, now};

const FLIGHT_WORDS: usize = 3;
const FLIGHTS_MAX: usize = 256;
const SUSPECTS_MAX: usize = (FLIGHTS - SUSPECTS) / 2;
const _: () = assert!(FLIGHTS + FLIGHTS_MAX * FLIGHT_WORDS <= OPENED);

/// The kernel sets this bit in the number of a request that it sends again.
const RESENT: u64 = 1 << 63;

/// A request that has ended so many workers is answered with an error by the next.
const STRIKES: u64 = 3;

/// Carried out at this moment by some thread.
const IN_HAND: u64 = 1;
/// Waits, until a deadline, for what is absent.
const WAITING: u64 = 2;

/// A request under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flight {
    /// The kernel's number for it.
    pub request: u64,
    /// The inode it is about.
    pub node: u64,
    /// Its place among the kinds of messages.
    pub opcode: u8,
    /// For how many milliseconds.
    pub age: u64,
    /// Whether it waits for what is absent, which may take as long as the mount's patience.
    pub is_waiting: bool,
    worker: u8,
}

/// Notes that a request is under way, until it is dropped.
#[derive(Debug)]
pub struct Ticket {
    board: Board,
    word: Option<usize>,
}

impl Board {
    /// Notes a request. When more are under way than there is room for, this one is not.
    pub(in crate::fuse) fn begin(&self, worker: u8, request: u64, node: u64, opcode: u8, hint: usize) -> Ticket {
        let state = now() << 24 | u64::from(worker) << 16 | u64::from(opcode) << 8 | IN_HAND;
        let word = (0..FLIGHTS_MAX)
            .map(|index| FLIGHTS + (hint + index) % FLIGHTS_MAX * FLIGHT_WORDS)
            .find(|word| self.words[word + 2].compare_exchange(0, state, Ordering::AcqRel, Ordering::Relaxed).is_ok());
        if let Some(word) = word {
            self.set(word + 1, node);
            self.set(word, request);
        }
        Ticket { board: self.clone(), word }
    }

    /// The requests that `worker` has under way, or anybody has.
    pub fn flights(&self, worker: Option<u8>) -> impl Iterator<Item = Flight> {
        self.places(worker).map(|(_, flight)| flight)
    }

    fn places(&self, wanted: Option<u8>) -> impl Iterator<Item = (usize, Flight)> {
        let now = now();
        (0..FLIGHTS_MAX).filter_map(move |index| {
            let word = FLIGHTS + index * FLIGHT_WORDS;
            let state = self.get(word + 2);
            let byte = |shift: u32| (state >> shift & 0xff) as u8;
            let flight = Flight {
                request: self.get(word),
                node: self.get(word + 1),
                opcode: byte(8),
                age: now.saturating_sub(state >> 24),
                is_waiting: u64::from(byte(0)) == WAITING,
                worker: byte(16),
            };
            (state != 0 && wanted.is_none_or(|worker| worker == flight.worker)).then_some((word, flight))
        })
    }

    /// Takes back what a dead worker had under way. If it was a request that killed it, those in its hands are suspected.
    /// Returns how many there were.
    pub(in crate::fuse) fn bury(&self, worker: u8, of_itself: bool) -> usize {
        let mut count = 0;
        for (word, flight) in self.places(Some(worker)) {
            if of_itself && flight.request != 0 && !flight.is_waiting {
                self.suspect(flight.request & !RESENT);
            }
            self.set(word, 0);
            self.set(word + 2, 0);
            count += 1;
        }
        count
    }

    /// One more strike; when there is no room for another suspect, the one with the fewest makes room.
    fn suspect(&self, request: u64) {
        let places = || (0..SUSPECTS_MAX).map(|index| SUSPECTS + index * 2);
        let known = places().find(|word| self.get(*word) == request && self.get(*word + 1) > 0);
        let Some(word) = known.or_else(|| places().min_by_key(|word| self.get(*word + 1))) else { return };
        let strikes = if known.is_some() { self.get(word + 1) } else { 0 };
        self.set(word, request);
        self.set(word + 1, strikes + 1);
    }

    /// Whether a request has come again so often, and ended a worker each time, that it is not to be carried out.
    #[must_use]
    pub(in crate::fuse) fn is_poisonous(&self, request: u64) -> bool {
        request & RESENT != 0
            && (0..SUSPECTS_MAX)
                .map(|index| SUSPECTS + index * 2)
                .any(|word| self.get(word) == request & !RESENT && self.get(word + 1) >= STRIKES)
    }
}

impl Ticket {
    /// From now on the request waits for what is absent.
    pub(in crate::fuse) fn waits(&self) {
        self.set_state(WAITING);
    }

    /// From now on it is carried out.
    pub(in crate::fuse) fn in_hand(&self) {
        self.set_state(IN_HAND);
    }

    fn set_state(&self, state: u64) {
        if let Some(word) = self.word {
            self.board.set(word + 2, self.board.get(word + 2) & !0xff | state);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(word) = self.word {
            self.board.set(word, 0);
            self.board.set(word + 2, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_noted_while_they_are_under_way() {
        let board = Board::create().expect("memory");
        let one = board.begin(1, 10, 100, 5, 0);
        let two = board.begin(2, 20, 200, 6, 0);
        one.waits();
        let requests = |worker| board.flights(worker).map(|flight| (flight.request, flight.node, flight.opcode));
        assert_eq!(requests(None).collect::<Vec<_>>(), [(10, 100, 5), (20, 200, 6)]);
        assert_eq!(requests(Some(2)).collect::<Vec<_>>(), [(20, 200, 6)]);
        assert!(board.flights(Some(1)).all(|flight| flight.is_waiting));
        drop((one, two));
        assert_eq!(requests(None).count(), 0);
        let many: Vec<Ticket> = (0..FLIGHTS_MAX as u64 + 10).map(|n| board.begin(1, n + 1, 1, 0, 3)).collect();
        assert_eq!(requests(None).count(), FLIGHTS_MAX);
        drop(many);
        assert_eq!(requests(None).count(), 0);
    }

    #[test]
    fn a_request_that_ended_three_workers_is_poisonous_and_no_other() {
        let board = Board::create().expect("memory");
        for worker in 1..=3 {
            assert!(!board.is_poisonous(7 | RESENT));
            std::mem::forget(board.begin(worker, if worker == 1 { 7 } else { 7 | RESENT }, 1, 0, 0));
            let waiting = board.begin(worker, 8 | RESENT, 1, 0, 0);
            waiting.waits();
            std::mem::forget(waiting);
            assert_eq!(board.bury(worker, true), 2);
        }
        assert!(board.is_poisonous(7 | RESENT));
        assert!(!board.is_poisonous(7), "another request that happens to have the number");
        assert!(!board.is_poisonous(8 | RESENT), "what only waits kills nobody");
        for request in 100..200 {
            std::mem::forget(board.begin(9, request, 1, 0, 0));
            assert_eq!(board.bury(9, true), 1);
        }
        assert!(board.is_poisonous(7 | RESENT), "the most suspicious stay");
    }

    #[test]
    fn who_is_killed_from_outside_leaves_no_suspects() {
        let board = Board::create().expect("memory");
        for _ in 0..5 {
            std::mem::forget(board.begin(1, 7, 1, 0, 0));
            board.bury(1, false);
        }
        assert!(!board.is_poisonous(7 | RESENT));
    }
}
