//! The child processes of a supervisor: which worker serves, drains or is a candidate, and the reaction to their ends.
//!
//! *Not here*: the decisions about restarts and service levels (`policy`); the detection of workers that hang (`watchdog`).
//!
//! *Invariants*: at most one worker serves, except that on a kernel that cannot resend requests an old worker drains beside the
//! new one. Workers can write to the shared pages, so only a process that the kernel calls a child of this one is killed.
//!
//! *Used by* the other files of this folder.

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::exchange::{WorkerProgram, WorkerState};
use super::policy::{self, ExitClass};
use super::{Ended, StartKind, Supervisor, log_line, log_to_console, log_unless};
use crate::fuse::{Death, Service, SharedState, now_ms, resend};
use crate::sys;

/// Delay after a process could not be started, in milliseconds.
const START_RETRY_DELAY_MS: u64 = 1_000;

/// Delay after which a worker is killed again that did not end, in milliseconds.
const KILL_RETRY_DELAY_MS: u64 = 1_000;

/// Interval at which is checked whether there was no crash for long enough to restore full service, in milliseconds.
const CALM_CHECK_INTERVAL_MS: u64 = 30_000;

/// Returns whether a process is a child of this one that was not collected yet.
fn is_child(pid: Pid) -> bool {
    use nix::sys::wait::{Id, waitid};
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    pid.as_raw() > 1 && waitid(Id::Pid(pid), look).is_ok()
}

/// A worker process, started by this supervisor.
#[derive(Debug, Clone, Copy)]
pub(super) struct WorkerProcess {
    pub(crate) pid: Pid,
    pub(crate) number: u8,
    /// Whether it has opened all that it needs.
    pub(crate) is_ready: bool,
    /// When the watchdog killed it, if it did.
    pub(crate) killed_at: Option<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Children {
    /// The worker that serves, or will when it is ready and the previous one has ended.
    current: Option<WorkerProcess>,
    /// Whether the current worker has got the go-ahead.
    is_current_serving: bool,
    /// The previous worker, whose end the current one awaits.
    draining: Option<WorkerProcess>,
    /// A worker that replies to its pending requests and then ends, beside the current one, with the time of its end.
    leaving: Option<(WorkerProcess, u64)>,
    /// A worker that is tried beside the current one: of another program, or while all accesses are refused.
    candidate: Option<WorkerProcess>,
    remounting: Option<Pid>,
    ever_served: bool,
    /// Number of consecutive workers that ended before they were ready.
    failed_starts: u32,
    /// When the next worker is to be started.
    start_due: u64,
    /// While all accesses are refused: when the next probe is to be started; 0 for none.
    probe_due: u64,
    /// Delay between that probe and the next one, in milliseconds.
    probe_delay: u64,
    calm_check_due: u64,
}

impl Children {
    pub(crate) fn new(shared: &SharedState, kind: StartKind) -> Self {
        if kind == StartKind::New {
            return Self::default();
        }
        // The previous program of this process started the worker. If the number in the shared pages is another one, a new
        // worker is started.
        let pid = Pid::from_raw(shared.worker_pid().cast_signed());
        if !is_child(pid) {
            return Self { ever_served: true, ..Self::default() };
        }
        let worker = WorkerProcess { pid, number: shared.worker_number(), is_ready: true, killed_at: None };
        Self { current: Some(worker), is_current_serving: true, ever_served: true, ..Self::default() }
    }

    /// Returns whether a worker is to be started now.
    pub(crate) const fn needs_worker(&self, now: u64) -> bool {
        self.current.is_none() && self.remounting.is_none() && self.start_due <= now
    }

    /// Returns when the next action is due without an event.
    pub(crate) fn next_deadline(&self, now: u64) -> Option<u64> {
        let start = (self.current.is_none() && self.remounting.is_none()).then_some(self.start_due);
        let calm = (self.calm_check_due > now).then_some(self.calm_check_due);
        let probe = (self.probe_due > 0).then_some(self.probe_due.max(now));
        let leaving = self.leaving.map(|(_, end)| end);
        start.into_iter().chain(calm).chain(probe).chain(leaving).min()
    }

    pub(crate) const fn ever_served(&self) -> bool {
        self.ever_served
    }

    /// Returns the worker that reads the kernel's messages.
    pub(crate) fn serving(&self) -> Option<WorkerProcess> {
        self.current.filter(|_| self.is_current_serving)
    }

    /// Returns the worker that is not ready yet.
    pub(crate) fn starting(&self) -> Option<WorkerProcess> {
        self.current.filter(|worker| !self.is_current_serving && !worker.is_ready)
    }

    pub(crate) const fn worker_state(&self) -> WorkerState {
        let is_stable = self.draining.is_none() && self.leaving.is_none() && self.is_current_serving;
        if is_stable { WorkerState::Stable } else { WorkerState::Changing }
    }

    /// Kills a worker that has not left in time, and again if it does not end.
    pub(crate) fn end_leaving(&mut self, now: u64) {
        if let Some((worker, end)) = &mut self.leaving
            && *end <= now
        {
            let _ = kill(worker.pid, Signal::SIGKILL);
            *end = now + KILL_RETRY_DELAY_MS;
        }
    }

    pub(crate) fn candidate_is_ready(&self) -> Option<bool> {
        self.candidate.map(|candidate| candidate.is_ready)
    }

    pub(crate) fn note_ready(&mut self, shared: &SharedState) {
        let ready = Pid::from_raw(shared.ready_pid().cast_signed());
        for worker in [&mut self.current, &mut self.candidate].into_iter().flatten() {
            worker.is_ready |= worker.pid == ready;
        }
    }

    pub(crate) fn note_killed(&mut self, at: u64) {
        if let Some(worker) = &mut self.current {
            worker.killed_at = Some(at);
        }
    }

    /// Returns the worker that may serve now, and marks it as serving.
    pub(crate) fn begin_serving(&mut self) -> Option<Pid> {
        let worker =
            self.current.filter(|worker| worker.is_ready && !self.is_current_serving && self.draining.is_none())?;
        (self.is_current_serving, self.ever_served, self.failed_starts) = (true, true, 0);
        Some(worker.pid)
    }

    /// Drops the current worker, which was killed and does not end. It is reaped when it ends, as any child.
    pub(crate) const fn abandon_current(&mut self) {
        self.current = None;
        self.is_current_serving = false;
    }
}

impl Supervisor {
    pub(super) fn start_worker(&mut self) {
        match self.spawn(WorkerProgram::Current) {
            Some(worker) => {
                self.children.current = Some(worker);
                self.children.is_current_serving = false;
            }
            None => self.children.start_due = now_ms() + START_RETRY_DELAY_MS,
        }
    }

    fn spawn(&mut self, program: WorkerProgram) -> Option<WorkerProcess> {
        let number = self.fds.shared.count_start();
        let started = match (program, self.exchange.program()) {
            (WorkerProgram::Replacement, Some(replacement)) => self.arguments.worker.start(replacement),
            (WorkerProgram::Probe, _) => self.arguments.probe.start(&self.fds.program),
            _ => self.arguments.worker.start(&self.fds.program),
        };
        log_unless(started.is_ok(), "cannot start a worker");
        self.watchdog.reset();
        Some(WorkerProcess { pid: started.ok()?, number, is_ready: false, killed_at: None })
    }

    /// Starts a worker of another program beside the current one.
    pub(super) fn start_candidate(&mut self) {
        self.children.candidate = self.spawn(WorkerProgram::Replacement);
    }

    pub(super) fn kill_candidate(&mut self) {
        if let Some(candidate) = self.children.candidate.take() {
            let _ = kill(candidate.pid, Signal::SIGKILL);
        }
    }

    /// Makes the candidate, which is ready, the current worker, and ends the previous one.
    pub(super) fn promote_candidate(&mut self) {
        let children = &mut self.children;
        let Some(candidate) = children.candidate.take() else { return };
        children.draining = children.current.replace(candidate);
        children.is_current_serving = false;
        if let Some(previous) = children.draining {
            if self.fds.shared.can_resend() {
                let _ = kill(previous.pid, Signal::SIGKILL);
            } else {
                // Its pending requests would be lost, so it replies to them and then exits. Both serve meanwhile, which is
                // possible because such a kernel has no passthrough either, and so no state of open files. It is killed if it
                // does not exit: whether the kernel can resend requests is known from pages that it can write to.
                let _ = kill(previous.pid, Signal::SIGUSR1);
                children.draining = None;
                children.leaving = Some((previous, now_ms() + self.leave_limit));
            }
        }
        self.let_ready_worker_serve();
    }

    /// Collects ended children. Returns how the supervisor ends, if it does.
    pub(super) fn reap_children(&mut self) -> Option<Ended> {
        loop {
            let (pid, death) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Death::Exited(code as u8)),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, Death::Killed(signal as u8)),
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => continue,
            };
            if let Some(ended) = self.reap(pid, death) {
                return Some(ended);
            }
        }
        self.restore_full_service();
        None
    }

    fn reap(&mut self, pid: Pid, death: Death) -> Option<Ended> {
        let is = |worker: Option<WorkerProcess>| worker.filter(|worker| worker.pid == pid);
        if let Some(worker) = is(self.children.current) {
            let death = if worker.killed_at.is_some() { Death::Hung } else { death };
            self.fds.shared.count_death(pid.as_raw().cast_unsigned(), death);
            return self.reap_worker(worker, death);
        }
        if let Some(worker) = is(self.children.draining) {
            self.children.draining = None;
            self.fds.shared.reap_worker(worker.number, false);
            self.resend();
            self.let_ready_worker_serve();
        } else if is(self.children.leaving.map(|(worker, _)| worker)).is_some() {
            self.children.leaving = None;
        } else if is(self.children.candidate).is_some() {
            self.children.candidate = None;
        } else if self.children.remounting == Some(pid) {
            self.children.remounting = None;
            if death != Death::Exited(0) {
                return Some(Ended::ConnectionLost);
            }
        }
        None
    }

    fn reap_worker(&mut self, worker: WorkerProcess, death: Death) -> Option<Ended> {
        if !worker.is_ready {
            self.children.failed_starts += 1;
        }
        let class = policy::classify(death, self.children.ever_served, self.children.failed_starts);
        match class {
            ExitClass::Unmounted => return Some(Ended::Unmounted),
            ExitClass::FailedToStart(code) => return Some(Ended::Failed(code)),
            ExitClass::Restart | ExitClass::Crashed => {}
        }
        // A candidate cannot be tested fairly while the current worker fails.
        self.kill_candidate();
        self.children.current = None;
        self.children.is_current_serving = false;
        let lost = self.fds.shared.reap_worker(worker.number, class == ExitClass::Crashed);
        self.children.start_due = now_ms();
        if class == ExitClass::Crashed {
            self.record_crash();
        }
        if self.fds.shared.can_resend() {
            self.resend();
        } else if lost > 0 {
            return self.remount();
        } else {
            self.watchdog.suspect_loss();
        }
        None
    }

    /// Kills the current worker, whose connection is about to be replaced.
    pub(super) fn stop_serving(&mut self) {
        if let Some(worker) = self.children.current.take() {
            let _ = kill(worker.pid, Signal::SIGKILL);
            self.fds.shared.reap_worker(worker.number, false);
        }
        self.children.is_current_serving = false;
        self.children.start_due = now_ms();
    }

    /// Replaces a worker that was killed as hung and does not end.
    pub(super) fn replace_hung_worker(&mut self, death: Death) {
        let shared = &self.fds.shared;
        shared.count_death(shared.worker_pid(), death);
        shared.reap_worker(shared.worker_number(), true);
        self.children.start_due = now_ms();
        self.record_crash();
        self.resend();
    }

    /// While all accesses are refused: periodically starts a worker beside the refusing one, and lets it serve as soon as it is
    /// ready.
    pub(super) fn probe_for_recovery(&mut self) {
        if self.children.probe_due == 0 || self.exchange.is_busy() {
            return;
        }
        if self.fds.shared.service() != Service::Refusing {
            self.children.probe_due = 0;
            return;
        }
        let is_due = self.children.probe_due <= now_ms();
        match self.children.candidate_is_ready() {
            Some(true) => {
                self.children.probe_due = 0;
                self.fds.shared.set_service(Service::Full);
                self.promote_candidate();
                log_to_console("a worker serves the mount again");
            }
            Some(false) if is_due => {
                if self.watchdog.is_start_overdue() {
                    self.kill_candidate();
                }
                self.children.probe_due = now_ms() + policy::PROBE_DELAY_MS;
            }
            Some(false) => {}
            None if is_due && self.children.worker_state() == WorkerState::Stable => {
                let delay = self.children.probe_delay;
                self.children.probe_due = now_ms() + delay;
                self.children.probe_delay = (delay * 2).min(policy::PROBE_DELAY_MAX_MS);
                self.children.candidate = self.spawn(WorkerProgram::Probe);
            }
            None => {}
        }
    }

    /// Counts a crash, and sets the service level and the delay before the next worker.
    fn record_crash(&mut self) {
        let shared = &self.fds.shared;
        shared.count_crash();
        let crashes = shared.crashes_within(policy::CRASH_WINDOW_MS);
        let (before, service) =
            (shared.service(), policy::next_service(crashes, self.children.failed_starts, shared.service()));
        shared.set_service(service);
        if service == Service::Refusing {
            self.children.probe_delay = policy::PROBE_DELAY_MS;
            self.children.probe_due = now_ms() + policy::PROBE_DELAY_MS;
            // A refusing worker needs no resources that could be missing, so it is started without delay.
            self.children.start_due = now_ms();
            if before != Service::Refusing {
                log_to_console("no worker comes to serve a mount: each access is an I/O error until one does");
            }
            return;
        }
        let delay = u64::try_from(policy::restart_delay(crashes).as_millis()).unwrap_or(0);
        self.children.start_due = now_ms() + delay;
        self.children.calm_check_due = now_ms() + CALM_CHECK_INTERVAL_MS;
    }

    /// Restores full service after a period without crashes.
    fn restore_full_service(&mut self) {
        let (shared, now) = (&self.fds.shared, now_ms());
        if shared.service() != Service::CachedOnly || self.children.calm_check_due > now {
            return;
        }
        self.children.calm_check_due = now + CALM_CHECK_INTERVAL_MS;
        if shared.crashes_within(policy::CALM_PERIOD_MS) == 0 && shared.can_resend() {
            shared.set_service(Service::Full);
            if let Some(worker) = self.children.serving() {
                let _ = kill(worker.pid, Signal::SIGKILL);
            }
        }
    }

    fn resend(&self) {
        if self.fds.shared.can_resend() {
            log_unless(resend(&self.fds.device).is_ok(), "the kernel does not send requests again");
        }
    }

    /// Makes the mount again with another connection, after requests were lost whose processes would wait for ever. The end
    /// of the old connection fails those requests.
    pub(super) fn remount(&mut self) -> Option<Ended> {
        let Some(spare) = self.fds.spare_device.take() else {
            log_line("requests were lost and cannot be sent again by this kernel: the mount ends");
            return Some(Ended::ConnectionLost);
        };
        if sys::replace_inheritable_descriptor(&self.fds.device, &spare).is_err() {
            return Some(Ended::ConnectionLost);
        }
        // Another spare connection under the same number, if `/dev/fuse` can be reached.
        let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
        let another = rustix::fs::open(c"/dev/fuse", flags, rustix::fs::Mode::empty());
        self.fds.spare_device =
            another.ok().and_then(|another| sys::replace_inheritable_descriptor(&spare, &another).ok().map(|()| spare));
        self.fds.shared.reset_connection();
        self.fds.shared.count_remount();
        match self.arguments.remount.start(&self.fds.program) {
            Ok(pid) => self.children.remounting = Some(pid),
            Err(_) => return Some(Ended::ConnectionLost),
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_children_of_this_process_are_killed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().expect("every machine has it");
        let pid = Pid::from_raw(child.id().cast_signed());
        assert!(is_child(pid));
        for other in [-1, 0, 1, nix::unistd::getppid().as_raw(), nix::unistd::getpid().as_raw(), i32::MAX] {
            assert!(!is_child(Pid::from_raw(other)), "{other}");
        }
        child.kill().expect("it runs");
        assert!(is_child(pid), "it was not collected");
        child.wait().expect("a child");
        assert!(!is_child(pid));
    }
}
