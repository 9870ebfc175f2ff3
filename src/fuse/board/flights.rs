//! The requests under way: what the watchdog looks at, what a dead worker left unanswered, and which request it was that
//! ended one worker after the other.
//!
//! ```text
//! suspects: 10 × inode, where in it and of which kind, when last and how many workers it ended
//! flights: 256 × inode, where in it, and: since when · which worker · kind · in hand or waiting
//! ```
//!
//! A request is known by what it is about, not by its number: a program that gets an error for a read ahead asks again.

use std::sync::atomic::Ordering;

use super::{Board, FLIGHTS, READERS, SUSPECTS, now};

const FLIGHT_WORDS: usize = 3;
const FLIGHTS_MAX: usize = 256;
const SUSPECT_WORDS: usize = 3;
const SUSPECTS_MAX: usize = 10;
const _: () = assert!(SUSPECTS + SUSPECTS_MAX * SUSPECT_WORDS <= FLIGHTS);
const _: () = assert!(FLIGHTS + FLIGHTS_MAX * FLIGHT_WORDS <= READERS);

/// A request that has ended so many workers is answered with an error by the next.
const STRIKES: u64 = 3;

/// For so many milliseconds after the last of them. What hung may have been a disk.
const REMEMBERED: u64 = 10 * 60_000;

/// Carried out at this moment by some thread.
const IN_HAND: u64 = 1;
/// Waits, until a deadline, for what is absent.
const WAITING: u64 = 2;

/// What a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// The inode.
    pub node: u64,
    /// Which part of it: an offset in units of the largest read, or a number made from a name.
    pub part: u64,
    /// Its place among the kinds of messages.
    pub opcode: u8,
}

impl Subject {
    /// One that is about part of an inode.
    #[must_use]
    pub const fn new(opcode: u8, node: u64, part: u64) -> Self {
        // The highest byte is needed for the kind.
        Self { node, part: part & (u64::MAX >> 8), opcode }
    }

    const fn key(self) -> u64 {
        (self.opcode as u64) << 56 | self.part
    }
}

/// A request under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flight {
    /// What it is about.
    pub subject: Subject,
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
    pub(in crate::fuse) fn begin(&self, worker: u8, subject: Subject, hint: usize) -> Ticket {
        let state = now() << 24 | u64::from(worker) << 16 | u64::from(subject.opcode) << 8 | IN_HAND;
        let word = (0..FLIGHTS_MAX)
            .map(|index| FLIGHTS + (hint + index) % FLIGHTS_MAX * FLIGHT_WORDS)
            .find(|word| self.words[word + 2].compare_exchange(0, state, Ordering::AcqRel, Ordering::Relaxed).is_ok());
        if let Some(word) = word {
            self.set(word + 1, subject.part);
            self.set(word, subject.node);
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
                subject: Subject::new(byte(8), self.get(word), self.get(word + 1)),
                age: now.saturating_sub(state >> 24),
                is_waiting: u64::from(byte(0)) == WAITING,
                worker: byte(16),
            };
            (state != 0 && wanted.is_none_or(|worker| worker == flight.worker)).then_some((word, flight))
        })
    }

    /// Takes back what a dead worker had under way. If it was a request that killed it, those in its hands are suspected.
    /// Returns how many there were.
    pub fn bury(&self, worker: u8, of_itself: bool) -> usize {
        let mut count = 0;
        for (word, flight) in self.places(Some(worker)) {
            if of_itself && flight.subject.node != 0 && !flight.is_waiting {
                self.suspect(flight.subject);
            }
            self.set(word, 0);
            self.set(word + 2, 0);
            count += 1;
        }
        count
    }

    fn suspects(&self) -> impl Iterator<Item = usize> + use<> {
        (0..SUSPECTS_MAX).map(|index| SUSPECTS + index * SUSPECT_WORDS)
    }

    /// How often a place was struck that is not forgotten yet.
    fn strikes(&self, word: usize) -> u64 {
        let value = self.get(word + 2);
        if now().saturating_sub(value >> 8) <= REMEMBERED { value & 0xff } else { 0 }
    }

    fn is_about(&self, word: usize, subject: Subject) -> bool {
        self.get(word) == subject.node && self.get(word + 1) == subject.key()
    }

    /// One more strike; when there is no room for another suspect, the one with the fewest makes room.
    fn suspect(&self, subject: Subject) {
        let known = self.suspects().find(|word| self.is_about(*word, subject));
        let Some(word) = known.or_else(|| self.suspects().min_by_key(|word| self.strikes(*word))) else { return };
        let strikes = if known.is_some() { self.strikes(word) } else { 0 };
        self.set(word + 2, 0);
        self.set(word, subject.node);
        self.set(word + 1, subject.key());
        self.set(word + 2, now() << 8 | (strikes + 1).min(0xff));
    }

    /// Whether carrying this out has ended so many workers that it is not to be done again.
    #[must_use]
    pub fn is_poisonous(&self, subject: Subject) -> bool {
        self.suspects().any(|word| {
            // In this order: hardly ever is anything suspected.
            self.get(word + 2) != 0 && self.is_about(word, subject) && self.strikes(word) >= STRIKES
        })
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

    const fn subject(number: u64) -> Subject {
        Subject::new(5, number, 7)
    }

    #[test]
    fn requests_are_noted_while_they_are_under_way() {
        let board = Board::create().expect("memory");
        let one = board.begin(1, subject(10), 0);
        let two = board.begin(2, subject(20), 0);
        one.waits();
        let subjects = |worker| board.flights(worker).map(|flight| flight.subject);
        assert_eq!(subjects(None).collect::<Vec<_>>(), [subject(10), subject(20)]);
        assert_eq!(subjects(Some(2)).collect::<Vec<_>>(), [subject(20)]);
        assert!(board.flights(Some(1)).all(|flight| flight.is_waiting));
        one.in_hand();
        assert!(board.flights(Some(1)).all(|flight| !flight.is_waiting));
        drop((one, two));
        assert_eq!(subjects(None).count(), 0);
        let many: Vec<Ticket> = (0..FLIGHTS_MAX as u64 + 10).map(|n| board.begin(1, subject(n + 1), 3)).collect();
        assert_eq!(subjects(None).count(), FLIGHTS_MAX);
        drop(many);
        assert_eq!(subjects(None).count(), 0);
    }

    #[test]
    fn a_request_that_ended_three_workers_is_poisonous_and_no_other() {
        let board = Board::create().expect("memory");
        for worker in 1..=3 {
            assert!(!board.is_poisonous(subject(7)));
            std::mem::forget(board.begin(worker, subject(7), 0));
            let waiting = board.begin(worker, subject(8), 0);
            waiting.waits();
            std::mem::forget(waiting);
            assert_eq!(board.bury(worker, true), 2);
        }
        assert!(board.is_poisonous(subject(7)));
        assert!(!board.is_poisonous(subject(8)), "what only waits kills nobody");
        for other in [Subject::new(6, 7, 7), Subject::new(5, 7, 8), Subject::new(5, 6, 7)] {
            assert!(!board.is_poisonous(other), "{other:?}");
        }
        for number in 100..200 {
            std::mem::forget(board.begin(9, subject(number), 1));
            assert_eq!(board.bury(9, true), 1);
        }
        assert!(board.is_poisonous(subject(7)), "the most suspicious stay");
    }

    #[test]
    fn who_is_killed_from_outside_leaves_no_suspects() {
        let board = Board::create().expect("memory");
        for _ in 0..5 {
            std::mem::forget(board.begin(1, subject(7), 0));
            board.bury(1, false);
        }
        assert!(!board.is_poisonous(subject(7)));
    }
}
