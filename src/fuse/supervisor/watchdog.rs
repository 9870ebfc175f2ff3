//! How it is noticed that a worker answers nothing any more, and that a request will never be answered.
//!
//! Signs of the first: a request has been in a worker's hands for too long, or requests wait and it takes none. They have to be
//! there at two looks, some time apart: after the whole machine stood still everything looks old once. One that does not even
//! come to serve is given up, too: whoever mounts waits for it.
//!
//! The second happens on kernels that cannot send a request again: a worker was killed between taking one and noting it. Then
//! the kernel waits for an answer while nothing is left to be read and nobody has anything in hand, look after look.

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};

use super::children::{Children, Worker};
use super::{Ended, Held, Limits, Supervisor, say};
use crate::fuse::board::{Board, now};
use crate::fuse::connections;
use crate::fuse::counters::Counters;

/// How many looks there are within the time after which a worker is taken to hang.
const LOOKS: u64 = 4;

/// How long after it was killed a worker is waited for; one that hangs in the kernel may never end.
const LAST_WAIT: u64 = 2_000;

/// How often to look for lost requests, while there may be any, and how often in a row they have to be seen.
const LOST_LOOK: u64 = 500;
const LOST_LOOKS: u32 = 4;

/// What can be seen from outside of a worker.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// Requests that the kernel waits for the answers of, if it says.
    unanswered: Option<u64>,
    /// Whether there is something to be read.
    is_readable: bool,
}

impl Seen {
    fn look(held: &Held) -> Self {
        let device = held.device.as_fd();
        let mut descriptors = [PollFd::new(device, PollFlags::POLLIN)];
        let is_readable = poll(&mut descriptors, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        let connections = held.connections.as_ref();
        Self { unanswered: connections.and_then(|all| connections::waiting(all, held.board.minor())), is_readable }
    }

    /// Whether somebody waits for this worker, other than those who wait for what is absent.
    fn is_somebody_waiting(&self, board: &Board, worker: u8) -> bool {
        let patient = board.flights(Some(worker)).filter(|flight| flight.is_waiting).count() as u64;
        self.unanswered.map_or(self.is_readable, |unanswered| unanswered > patient)
    }
}

pub(super) struct Watchdog {
    counters: Counters,
    /// In milliseconds, as all times here.
    hang: Option<u64>,
    patience: u64,
    next: u64,
    /// When the newest worker was started.
    begun: u64,
    messages: u64,
    still_since: u64,
    suspected: bool,
    /// When to look for lost requests next, while there may be any.
    lost_look: Option<u64>,
    lost_looks: u32,
}

impl Watchdog {
    pub fn new(board: &Board, limits: Limits) -> Self {
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 4);
        Self {
            counters: Counters::of(board),
            hang: limits.hang.map(millis).filter(|hang| *hang > 0),
            patience: millis(limits.patience),
            next: 0,
            begun: 0,
            messages: 0,
            still_since: 0,
            suspected: false,
            lost_look: None,
            lost_looks: 0,
        }
    }

    /// When to look next.
    pub fn next(&self, now: u64, children: &Children) -> Option<u64> {
        let hang = match (children.serving(), children.starting()) {
            (Some(Worker { killed: Some(since), .. }), _) => Some(since + LAST_WAIT + 1),
            (Some(_), _) => self.hang.map(|_| self.next.max(now)),
            (None, Some(Worker { killed: None, .. })) => self.start_limit(),
            // Its end, or the time for the next one, is what comes next.
            (None, _) => None,
        };
        hang.into_iter().chain(self.lost_look).min()
    }

    /// When a worker has to serve. It may wait for what is absent before, and for its turn to wait.
    fn start_limit(&self) -> Option<u64> {
        self.hang.map(|hang| self.begun + hang + self.patience * 2)
    }

    /// Whether the worker that was started last takes too long to get ready.
    pub fn is_start_overdue(&self) -> bool {
        self.start_limit().is_some_and(|limit| limit <= now())
    }

    /// A new worker has its own time.
    pub fn begin(&mut self) {
        (self.begun, self.still_since, self.suspected) = (now(), now(), false);
        self.next = self.hang.map_or(0, |hang| now() + hang / LOOKS);
    }

    /// From now on requests may be lost.
    pub fn suspect_loss(&mut self) {
        (self.lost_look, self.lost_looks) = (Some(now() + LOST_LOOK), 0);
    }

    /// Whether the worker of this number hangs.
    fn look(&mut self, held: &Held, worker: u8) -> bool {
        let (Some(hang), now) = (self.hang, now()) else { return false };
        if now < self.next {
            return false;
        }
        self.next = now + hang / LOOKS;
        let (messages, board) = (self.counters.messages(), &held.board);
        if messages != self.messages || !Seen::look(held).is_somebody_waiting(board, worker) {
            (self.messages, self.still_since) = (messages, now);
        }
        let is_deaf = now - self.still_since > hang;
        // Twice the patience: a request may wait for its turn to wait.
        let limit = |is_waiting: bool| if is_waiting { hang + self.patience * 2 } else { hang };
        let is_stuck = board.flights(Some(worker)).any(|flight| flight.age > limit(flight.is_waiting));
        let was_suspected = std::mem::replace(&mut self.suspected, is_deaf || is_stuck);
        was_suspected && self.suspected
    }

    /// Whether requests are lost for good.
    fn is_something_lost(&mut self, held: &Held) -> bool {
        let now = now();
        if self.lost_look.is_none_or(|look| look > now) {
            return false;
        }
        self.lost_look = Some(now + LOST_LOOK);
        let seen = Seen::look(held);
        match seen.unanswered {
            // All is answered, or nobody knows.
            None | Some(0) => self.lost_look = None,
            Some(_) if seen.is_readable || held.board.flights(None).next().is_some() => self.lost_looks = 0,
            Some(_) => self.lost_looks += 1,
        }
        self.lost_looks >= LOST_LOOKS
    }
}

impl Supervisor {
    /// Kills a worker that hangs, does without one that will not die, and ends a connection on which something is lost.
    /// Returns how all of it ended, if it did.
    pub(super) fn watch(&mut self) -> Option<Ended> {
        let Some(worker) = self.children.serving() else {
            self.watch_start();
            return None;
        };
        if let Some(since) = worker.killed {
            if now() - since > LAST_WAIT {
                say("a worker does not end although it was killed; it is replaced all the same");
                self.children.disown();
                self.replace(super::Death::Hung);
            }
            return None;
        }
        if self.watchdog.is_something_lost(&self.held) {
            self.watchdog.lost_look = None;
            self.stop_serving();
            return self.remount();
        }
        if self.watchdog.look(&self.held, worker.number) {
            // It is our child and not yet waited for, so the number is its own.
            let _ = kill(worker.pid, Signal::SIGKILL);
            self.children.note_killed(now());
        }
        None
    }

    /// Kills a worker that does not come to serve.
    fn watch_start(&mut self) {
        let Some(worker) = self.children.starting().filter(|worker| worker.killed.is_none()) else { return };
        if self.watchdog.is_start_overdue() {
            say("a worker does not come to serve, and is killed");
            let _ = kill(worker.pid, Signal::SIGKILL);
            self.children.note_killed(now());
        }
    }
}
