//! The watchdog: detects workers that hang, and requests that are lost.
//!
//! A worker hangs if a request has been running for too long, or if requests wait and it reads none. Two successive checks must
//! find this, because after a standstill of the whole machine everything looks old once. A worker that does not become ready
//! in time is killed too, since the mounting process waits for it.
//!
//! A request is lost, on kernels that cannot resend it, if the worker was killed after it had read the request and before it
//! recorded it. Then, check after check, the kernel counts a request without a reply while none can be read and none is
//! pending.
//!
//! *Used by* the supervisor.

use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};

use super::children::{Children, WorkerProcess};
use super::{Ended, Limits, Supervisor, SupervisorFds, log_line};
use crate::fuse::{RequestCounters, SharedState, now_ms};
use crate::mount::connections;

/// Number of checks within the time after which a worker is considered hung.
const CHECKS_PER_TIMEOUT: u64 = 4;

/// How long the end of a killed worker is awaited, in milliseconds. One that hangs in the kernel may never end.
const KILL_TIMEOUT_MS: u64 = 2_000;

/// Interval of the checks for lost requests while there may be any, in milliseconds.
const LOST_CHECK_INTERVAL_MS: u64 = 500;

/// Number of successive checks that must find a lost request.
const LOST_CHECKS_NEEDED: u32 = 4;

/// The state of the connection as seen without the worker.
#[derive(Debug, Clone, Copy)]
struct Observation {
    /// Number of requests without a reply, if the kernel's count can be read.
    unanswered: Option<u64>,
    /// Whether a request can be read.
    is_readable: bool,
}

impl Observation {
    fn take(fds: &SupervisorFds) -> Self {
        let device = fds.device.as_fd();
        let mut descriptors = [PollFd::new(device, PollFlags::POLLIN)];
        let is_readable = poll(&mut descriptors, PollTimeout::ZERO).is_ok_and(|ready| ready > 0);
        let connections = fds.connections.as_ref();
        Self {
            unanswered: connections.and_then(|all| connections::waiting_requests(all, fds.shared.device_minor())),
            is_readable,
        }
    }

    /// Returns whether a request waits for this worker, apart from those that wait for absent content.
    fn has_unserved_request(&self, shared: &SharedState, worker: u8) -> bool {
        let fetching = shared.pending_requests(Some(worker)).filter(|request| request.is_waiting).count() as u64;
        self.unanswered.map_or(self.is_readable, |unanswered| unanswered > fetching)
    }
}

pub(super) struct Watchdog {
    counters: RequestCounters,
    /// In milliseconds, as all times in this file.
    hang_timeout: Option<u64>,
    fetch_timeout: u64,
    next_check: u64,
    /// When the last worker was started.
    started_at: u64,
    messages: u64,
    no_progress_since: u64,
    suspected: bool,
    /// When the next check for lost requests is due, while there may be any.
    lost_check_due: Option<u64>,
    lost_checks_seen: u32,
}

impl Watchdog {
    pub(crate) fn new(shared: &SharedState, limits: Limits) -> Self {
        let millis = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 4);
        Self {
            counters: RequestCounters::of(shared),
            hang_timeout: limits.hang_timeout.map(millis).filter(|hang| *hang > 0),
            fetch_timeout: millis(limits.fetch_timeout),
            next_check: 0,
            started_at: 0,
            messages: 0,
            no_progress_since: 0,
            suspected: false,
            lost_check_due: None,
            lost_checks_seen: 0,
        }
    }

    /// Returns when the next check is due.
    pub(crate) fn next_deadline(&self, now: u64, children: &Children) -> Option<u64> {
        let hang = match (children.serving(), children.starting()) {
            (Some(WorkerProcess { killed_at: Some(since), .. }), _) => Some(since + KILL_TIMEOUT_MS + 1),
            (Some(_), _) => self.hang_timeout.map(|_| self.next_check.max(now)),
            (None, Some(WorkerProcess { killed_at: None, .. })) => self.start_limit(),
            // The end of the worker, or the start of the next one, wakes the supervisor.
            (None, _) => None,
        };
        hang.into_iter().chain(self.lost_check_due).min()
    }

    /// Returns when a worker has to be ready. Before that it may wait for absent content, and for a thread to wait on.
    fn start_limit(&self) -> Option<u64> {
        self.hang_timeout.map(|hang| self.started_at + hang + self.fetch_timeout * 2)
    }

    /// Returns whether the worker that was started last takes too long to become ready.
    pub(crate) fn is_start_overdue(&self) -> bool {
        self.start_limit().is_some_and(|limit| limit <= now_ms())
    }

    /// Restarts all times for a new worker.
    pub(crate) fn reset(&mut self) {
        (self.started_at, self.no_progress_since, self.suspected) = (now_ms(), now_ms(), false);
        self.next_check = self.hang_timeout.map_or(0, |hang| now_ms() + hang / CHECKS_PER_TIMEOUT);
    }

    /// Starts the checks for lost requests.
    pub(crate) fn suspect_loss(&mut self) {
        (self.lost_check_due, self.lost_checks_seen) = (Some(now_ms() + LOST_CHECK_INTERVAL_MS), 0);
    }

    /// Returns whether the worker with this number hangs, if a check is due.
    fn is_hung(&mut self, fds: &SupervisorFds, worker: u8) -> bool {
        let (Some(hang), now) = (self.hang_timeout, now_ms()) else { return false };
        if now < self.next_check {
            return false;
        }
        self.next_check = now + hang / CHECKS_PER_TIMEOUT;
        let (messages, shared) = (self.counters.messages(), &fds.shared);
        if messages != self.messages || !Observation::take(fds).has_unserved_request(shared, worker) {
            (self.messages, self.no_progress_since) = (messages, now);
        }
        let reads_nothing = now - self.no_progress_since > hang;
        // Twice the fetch timeout, since a request may have to wait for a thread of the wait pool first.
        let limit = |is_waiting: bool| if is_waiting { hang + self.fetch_timeout * 2 } else { hang };
        let is_stuck = shared.pending_requests(Some(worker)).any(|request| request.age_ms > limit(request.is_waiting));
        let was_suspected = std::mem::replace(&mut self.suspected, reads_nothing || is_stuck);
        was_suspected && self.suspected
    }

    /// Returns whether requests are lost, if a check is due.
    fn is_request_lost(&mut self, fds: &SupervisorFds) -> bool {
        let now = now_ms();
        if self.lost_check_due.is_none_or(|due| due > now) {
            return false;
        }
        self.lost_check_due = Some(now + LOST_CHECK_INTERVAL_MS);
        let observed = Observation::take(fds);
        match observed.unanswered {
            // All requests have a reply, or the count cannot be read.
            None | Some(0) => self.lost_check_due = None,
            Some(_) if observed.is_readable || fds.shared.pending_requests(None).next().is_some() => {
                self.lost_checks_seen = 0
            }
            Some(_) => self.lost_checks_seen += 1,
        }
        self.lost_checks_seen >= LOST_CHECKS_NEEDED
    }
}

impl Supervisor {
    /// Kills a worker that hangs, replaces one that was killed and does not end, and makes the mount again if a request is
    /// lost. Returns how the supervisor ends, if it does.
    pub(super) fn check_worker(&mut self) -> Option<Ended> {
        let Some(worker) = self.children.serving() else {
            self.check_start();
            return None;
        };
        if let Some(since) = worker.killed_at {
            if now_ms() - since > KILL_TIMEOUT_MS {
                log_line("a worker does not end although it was killed; it is replaced");
                self.children.abandon_current();
                self.replace_hung_worker(super::Death::Hung);
            }
            return None;
        }
        if self.watchdog.is_request_lost(&self.fds) {
            self.watchdog.lost_check_due = None;
            self.stop_serving();
            return self.remount();
        }
        if self.watchdog.is_hung(&self.fds, worker.number) {
            // It is a child that was not reaped yet, so its process number was not reused.
            let _ = kill(worker.pid, Signal::SIGKILL);
            self.children.note_killed(now_ms());
        }
        None
    }

    /// Kills a worker that does not become ready in time.
    fn check_start(&mut self) {
        let Some(worker) = self.children.starting().filter(|worker| worker.killed_at.is_none()) else { return };
        if self.watchdog.is_start_overdue() {
            log_line("a worker does not become ready in time and is killed");
            let _ = kill(worker.pid, Signal::SIGKILL);
            self.children.note_killed(now_ms());
        }
    }
}
