//! How it is noticed that a worker answers nothing any more.
//!
//! Two signs: a request has been in its hands for too long, or messages wait for it and it reads none. Both have to be there
//! at two looks, some time apart: after the whole machine stood still everything looks old once.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use std::os::fd::AsFd;

use super::{Limits, Supervisor, say};
use crate::fuse::board::{Board, now};
use crate::fuse::counters::Counters;

/// How many looks there are within the time after which a worker is taken to hang.
const LOOKS: u64 = 4;

/// How long after it was killed a worker is waited for; one that hangs in the kernel may never end.
const LAST_WAIT: u64 = 2_000;

pub(super) struct Watchdog {
    counters: Counters,
    /// In milliseconds, as all times here.
    hang: Option<u64>,
    patience: u64,
    next: u64,
    messages: u64,
    still_since: u64,
    suspected: bool,
}

impl Watchdog {
    pub fn new(board: &Board, limits: Limits) -> Self {
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 4);
        Self {
            counters: Counters::of(board),
            hang: limits.hang.map(millis).filter(|hang| *hang > 0),
            patience: millis(limits.patience),
            next: 0,
            messages: 0,
            still_since: 0,
            suspected: false,
        }
    }

    /// When to look next.
    pub fn next(&self, now: u64) -> Option<u64> {
        self.hang.map(|_| self.next.max(now))
    }

    /// A new worker has its own time.
    pub fn begin(&mut self) {
        (self.still_since, self.suspected) = (now(), false);
        self.next = self.hang.map_or(0, |hang| now() + hang / LOOKS);
    }

    /// Whether the worker of this number hangs. `has_messages` says whether any wait to be read.
    fn look(&mut self, board: &Board, worker: u8, has_messages: impl Fn() -> bool) -> bool {
        let (Some(hang), now) = (self.hang, now()) else { return false };
        if now < self.next {
            return false;
        }
        self.next = now + hang / LOOKS;
        let messages = self.counters.messages();
        if messages != self.messages || !has_messages() {
            (self.messages, self.still_since) = (messages, now);
        }
        let is_deaf = now - self.still_since > hang;
        // Twice the patience: a request may wait for its turn to wait.
        let limit = |is_waiting: bool| if is_waiting { hang + self.patience * 2 } else { hang };
        let is_stuck = board.flights(Some(worker)).any(|flight| flight.age > limit(flight.is_waiting));
        let was_suspected = std::mem::replace(&mut self.suspected, is_deaf || is_stuck);
        was_suspected && self.suspected
    }
}

impl Supervisor {
    /// Kills a worker that hangs, and does without one that will not die.
    pub(super) fn watch(&mut self) {
        let Some(worker) = self.children.serving() else { return };
        if let Some(since) = worker.killed {
            if now() - since > LAST_WAIT {
                say("a worker does not end although it was killed; it is replaced all the same");
                self.children.disown();
                self.replace(super::Death::Hung);
            }
            return;
        }
        let device = self.held.device.as_fd();
        let has_messages = || {
            let mut descriptors = [PollFd::new(device, PollFlags::POLLIN)];
            poll(&mut descriptors, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
        };
        if self.watchdog.look(&self.held.board, worker.number, has_messages) {
            // It is our child and not yet waited for, so the number is its own.
            let _ = kill(worker.pid, Signal::SIGKILL);
            self.children.note_killed(now());
        }
    }
}
