//! The processes of a supervisor: who serves, who makes room, who is about to begin, and what follows from their ends.

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::orders::{Program, Workers};
use super::policy::{self, Verdict};
use super::{Beginning, Ended, Supervisor, say, say_to_everybody, say_unless};
use crate::fuse::board::{Board, Death, Service, now};
use crate::fuse::device;
use crate::sys;

/// How long to wait after a process could not be started.
const AGAIN: u64 = 1_000;

/// How often to look whether it has been calm for long enough.
const CALM_LOOK: u64 = 30_000;

/// A process that serves, or is going to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Worker {
    pub pid: Pid,
    pub number: u8,
    /// It has opened all it needs.
    pub is_ready: bool,
    /// When it was killed, if it was.
    pub killed: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Children {
    /// The one that serves, or will as soon as it is ready and nobody is in its way.
    current: Option<Worker>,
    /// Whether that one was told to begin.
    has_begun: bool,
    /// Served before, and makes room.
    leaving: Option<Worker>,
    /// Of another program, on probation.
    candidate: Option<Worker>,
    remounting: Option<Pid>,
    ever_served: bool,
    /// Workers in a row that ended before they served.
    unready: u32,
    /// When the next is to be started.
    due: u64,
    /// While every access is refused: when a worker is started again to see whether it comes to serve, and how long after
    /// that the next one.
    probe_due: u64,
    probe_pause: u64,
    calm_look: u64,
}

impl Children {
    pub fn new(board: &Board, beginning: Beginning) -> Self {
        if beginning == Beginning::New {
            return Self::default();
        }
        let pid = Pid::from_raw(board.worker().cast_signed());
        let worker = Worker { pid, number: board.worker_number(), is_ready: true, killed: None };
        Self { current: Some(worker), has_begun: true, ever_served: true, ..Self::default() }
    }

    /// Whether a worker is to be started now.
    pub const fn is_wanting(&self, now: u64) -> bool {
        self.current.is_none() && self.remounting.is_none() && self.due <= now
    }

    /// When to look again although nothing happened.
    pub fn next(&self, now: u64) -> Option<u64> {
        let start = (self.current.is_none() && self.remounting.is_none()).then_some(self.due);
        let calm = (self.calm_look > now).then_some(self.calm_look);
        let probe = (self.probe_due > 0).then_some(self.probe_due.max(now));
        start.into_iter().chain(calm).chain(probe).min()
    }

    pub const fn ever_served(&self) -> bool {
        self.ever_served
    }

    /// The worker that the kernel's messages go to.
    pub fn serving(&self) -> Option<Worker> {
        self.current.filter(|_| self.has_begun)
    }

    /// The worker that has not opened yet what it needs to serve.
    pub fn starting(&self) -> Option<Worker> {
        self.current.filter(|worker| !self.has_begun && !worker.is_ready)
    }

    pub const fn state(&self) -> Workers {
        if self.leaving.is_none() && self.has_begun { Workers::Settled } else { Workers::Changing }
    }

    pub fn candidate_is_ready(&self) -> Option<bool> {
        self.candidate.map(|candidate| candidate.is_ready)
    }

    pub fn note_ready(&mut self, board: &Board) {
        let ready = Pid::from_raw(board.ready().cast_signed());
        for worker in [&mut self.current, &mut self.candidate].into_iter().flatten() {
            worker.is_ready |= worker.pid == ready;
        }
    }

    pub fn note_killed(&mut self, at: u64) {
        if let Some(worker) = &mut self.current {
            worker.killed = Some(at);
        }
    }

    /// The worker that may begin now. It is taken to have begun.
    pub fn may_begin(&mut self) -> Option<Pid> {
        let worker = self.current.filter(|worker| worker.is_ready && !self.has_begun && self.leaving.is_none())?;
        (self.has_begun, self.ever_served, self.unready) = (true, true, 0);
        Some(worker.pid)
    }

    /// Forgets a worker that will not die. It is still waited for some time, as any child.
    pub const fn disown(&mut self) {
        self.current = None;
        self.has_begun = false;
    }
}

impl Supervisor {
    pub(super) fn start_worker(&mut self) {
        match self.start(Program::Held) {
            Some(worker) => {
                self.children.current = Some(worker);
                self.children.has_begun = false;
            }
            None => self.children.due = now() + AGAIN,
        }
    }

    fn start(&mut self, program: Program) -> Option<Worker> {
        let number = self.held.board.count_start();
        let started = match (program, self.orders.program()) {
            (Program::Ordered, Some(ordered)) => self.roles.worker.start(ordered),
            (Program::Probed, _) => self.roles.probe.start(&self.held.program),
            _ => self.roles.worker.start(&self.held.program),
        };
        say_unless(started.is_ok(), "cannot start a worker");
        self.watchdog.begin();
        Some(Worker { pid: started.ok()?, number, is_ready: false, killed: None })
    }

    /// Starts a worker of another program beside the one that serves.
    pub(super) fn start_candidate(&mut self) {
        self.children.candidate = self.start(Program::Ordered);
    }

    pub(super) fn drop_candidate(&mut self) {
        if let Some(candidate) = self.children.candidate.take() {
            let _ = kill(candidate.pid, Signal::SIGKILL);
        }
    }

    /// The candidate has proved that it can serve: the one that does makes room.
    pub(super) fn promote_candidate(&mut self) {
        let children = &mut self.children;
        let Some(candidate) = children.candidate.take() else { return };
        children.leaving = children.current.replace(candidate);
        children.has_begun = false;
        if let Some(leaving) = children.leaving {
            if self.held.board.resends() {
                let _ = kill(leaving.pid, Signal::SIGKILL);
            } else {
                // What it has in hand would be lost, so it ends by itself. Both serve meanwhile; that is possible since
                // such a kernel has no passthrough either, and with it no state.
                let _ = kill(leaving.pid, Signal::SIGUSR1);
                children.leaving = None;
            }
        }
        self.give_way();
    }

    /// Collects ended children. Returns how all of it ended, if it did.
    pub(super) fn bury_the_dead(&mut self) -> Option<Ended> {
        loop {
            let (pid, death) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Death::Exited(code as u8)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Death::Killed(signal as u8)),
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => continue,
            };
            if let Some(ended) = self.bury(pid, death) {
                return Some(ended);
            }
        }
        self.look_for_calm();
        None
    }

    fn bury(&mut self, pid: Pid, death: Death) -> Option<Ended> {
        let is = |worker: Option<Worker>| worker.filter(|worker| worker.pid == pid);
        if let Some(worker) = is(self.children.current) {
            let death = if worker.killed.is_some() { Death::Hung } else { death };
            self.held.board.count_death(pid.as_raw().cast_unsigned(), death);
            return self.bury_worker(worker, death);
        }
        if let Some(worker) = is(self.children.leaving) {
            self.children.leaving = None;
            self.held.board.bury(worker.number, false);
            self.resend();
            self.give_way();
        } else if is(self.children.candidate).is_some() {
            self.children.candidate = None;
        } else if self.children.remounting == Some(pid) {
            self.children.remounting = None;
            if death != Death::Exited(0) {
                return Some(Ended::Lost);
            }
        }
        None
    }

    fn bury_worker(&mut self, worker: Worker, death: Death) -> Option<Ended> {
        if !worker.is_ready {
            self.children.unready += 1;
        }
        let verdict = policy::judge(death, self.children.ever_served, self.children.unready);
        match verdict {
            Verdict::Over => return Some(Ended::Unmounted),
            Verdict::Stillborn(code) => return Some(Ended::Failed(code)),
            Verdict::Killed | Verdict::Crashed => {}
        }
        // Whoever was on probation is not judged by a mount in trouble.
        self.drop_candidate();
        self.children.current = None;
        self.children.has_begun = false;
        let lost = self.held.board.bury(worker.number, verdict == Verdict::Crashed);
        self.children.due = now();
        if verdict == Verdict::Crashed {
            self.slow_down();
        }
        if self.held.board.resends() {
            self.resend();
        } else if lost > 0 {
            return self.remount();
        } else {
            self.watchdog.suspect_loss();
        }
        None
    }

    /// Ends the worker that serves; its connection is going to be another.
    pub(super) fn stop_serving(&mut self) {
        if let Some(worker) = self.children.current.take() {
            let _ = kill(worker.pid, Signal::SIGKILL);
            self.held.board.bury(worker.number, false);
        }
        self.children.has_begun = false;
        self.children.due = now();
    }

    /// The same for a worker whose end is not waited for.
    pub(super) fn replace(&mut self, death: Death) {
        let board = &self.held.board;
        board.count_death(board.worker(), death);
        board.bury(board.worker_number(), true);
        self.children.due = now();
        self.slow_down();
        self.resend();
    }

    /// While every access is refused: starts a worker now and then, beside the one that refuses, which has its place as soon as
    /// it is ready.
    pub(super) fn probe(&mut self) {
        if self.children.probe_due == 0 || self.orders.is_busy() {
            return;
        }
        if self.held.board.service() != Service::Refusing {
            self.children.probe_due = 0;
            return;
        }
        let is_due = self.children.probe_due <= now();
        match self.children.candidate_is_ready() {
            Some(true) => {
                self.children.probe_due = 0;
                self.held.board.set_service(Service::Full);
                self.promote_candidate();
                say_to_everybody("a worker serves the mount again");
            }
            Some(false) if is_due => {
                if self.watchdog.is_start_overdue() {
                    self.drop_candidate();
                }
                self.children.probe_due = now() + policy::TRY_AGAIN;
            }
            Some(false) => {}
            None if is_due && self.children.state() == Workers::Settled => {
                let pause = self.children.probe_pause;
                self.children.probe_due = now() + pause;
                self.children.probe_pause = (pause * 2).min(policy::TRY_AGAIN_MAX);
                self.children.candidate = self.start(Program::Probed);
            }
            None => {}
        }
    }

    fn slow_down(&mut self) {
        let board = &self.held.board;
        board.count_crash();
        let crashes = board.crashes_within(policy::WINDOW);
        let (before, service) = (board.service(), policy::service(crashes, self.children.unready, board.service()));
        board.set_service(service);
        if service == Service::Refusing {
            self.children.probe_pause = policy::TRY_AGAIN;
            self.children.probe_due = now() + policy::TRY_AGAIN;
            // The one that refuses needs nothing, so there is nothing to wait for.
            self.children.due = now();
            if before != Service::Refusing {
                say_to_everybody("no worker comes to serve a mount: each access is an I/O error until one does");
            }
            return;
        }
        let delay = u64::try_from(policy::delay(crashes).as_millis()).unwrap_or(0);
        self.children.due = now() + delay;
        self.children.calm_look = now() + CALM_LOOK;
    }

    /// After a time without a crash everything is tried again.
    fn look_for_calm(&mut self) {
        let (board, now) = (&self.held.board, now());
        if board.service() != Service::CachedOnly || self.children.calm_look > now {
            return;
        }
        self.children.calm_look = now + CALM_LOOK;
        if board.crashes_within(policy::CALM) == 0 && board.resends() {
            board.set_service(Service::Full);
            if let Some(worker) = self.children.serving() {
                let _ = kill(worker.pid, Signal::SIGKILL);
            }
        }
    }

    fn resend(&self) {
        if self.held.board.resends() {
            say_unless(device::resend(&self.held.device).is_ok(), "the kernel does not send requests again");
        }
    }

    /// Requests are lost, and whoever made them would wait for ever. Ends the connection, which tells them so, and has a
    /// new one made in its place.
    pub(super) fn remount(&mut self) -> Option<Ended> {
        let Some(spare) = self.held.spare.take() else {
            say("requests were lost and cannot be sent again by this kernel: the mount ends");
            return Some(Ended::Lost);
        };
        if sys::renumber(&self.held.device, &spare).is_err() {
            return Some(Ended::Lost);
        }
        // For the next time, under the same number, where there are paths.
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        let another = rustix::fs::open(c"/dev/fuse", flags, rustix::fs::Mode::empty());
        self.held.spare = another.ok().and_then(|another| sys::renumber(&spare, &another).ok().map(|()| spare));
        self.held.board.reset_connection();
        self.held.board.count_remount();
        match self.roles.remount.start(&self.held.program) {
            Ok(pid) => self.children.remounting = Some(pid),
            Err(_) => return Some(Ended::Lost),
        }
        None
    }
}
