//! The start, replacement and end of a worker: waiting for the go-ahead, draining for the next worker, unmounting.
//!
//! *Not here*: starting the process and preparing what it serves (`processes::worker`); serving (`fuse`).
//!
//! *Used by* `processes::worker` and `supervisor::policy`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use crate::fuse::{Session, SharedState, Unmount, UnmountError, Unmounter};

/// Interval at which a draining worker checks whether it has replied to all requests.
const QUIESCE_POLL_INTERVAL: Duration = Duration::from_millis(5);

/// The exit code of a worker that is to be replaced.
pub(crate) const EXIT_REPLACED: u8 = 4;

/// An error that keeps a worker from serving.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WorkerError {
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] nix::Error),
    /// A thread cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The supervisor ended before it gave the go-ahead.
    #[error("the process that holds the mount is gone")]
    NoSupervisor(#[source] io::Error),
    /// The connection to the kernel broke.
    #[error("the connection to the kernel broke")]
    Serve(#[source] io::Error),
}

/// The blocked signals of a worker: those to which the supervisor reacts, and the one (SIGUSR1) that asks the worker to be
/// replaced.
pub(crate) struct WorkerSignals(SigSet);

impl WorkerSignals {
    /// Blocks the signals for the calling thread and the threads that it starts from now on.
    pub(crate) fn block() -> Result<Self, WorkerError> {
        let all: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1].into_iter().collect();
        all.thread_block().map_err(WorkerError::Signals)?;
        Ok(Self([Signal::SIGUSR1].into_iter().collect()))
    }
}

/// The worker's ends of the two pipes to its supervisor, by which it waits for the go-ahead.
pub(crate) struct StartGate {
    /// The pipe on which the worker reports that it is ready.
    pub(crate) ready: OwnedFd,
    /// The pipe that wakes the worker when it may serve.
    pub(crate) go: OwnedFd,
}

impl StartGate {
    /// Reports that this worker is ready, and waits until the supervisor lets it serve.
    pub(crate) fn wait(self, shared: &SharedState) -> Result<(), WorkerError> {
        let own = std::process::id();
        shared.set_ready_pid(own);
        File::from(self.ready).write_all(b"r").map_err(WorkerError::NoSupervisor)?;
        let mut go = File::from(self.go);
        while shared.go_ahead_pid() != own {
            // A byte for a worker that has ended meanwhile wakes this one too.
            let length = go.read(&mut [0]).map_err(WorkerError::NoSupervisor)?;
            if length == 0 {
                return Err(WorkerError::NoSupervisor(io::Error::from(io::ErrorKind::UnexpectedEof)));
            }
        }
        Ok(())
    }
}

/// Serves `session` until it is unmounted, or until this worker is to be replaced: then it calls `on_drain`, drains if requests
/// cannot be resent, and exits.
pub(crate) fn serve(
    session: Session,
    signals: WorkerSignals,
    shared: &SharedState,
    on_drain: impl FnOnce() + Send + 'static,
) -> Result<(), WorkerError> {
    let (quiesce, shared) = (session.quiesce(), shared.clone());
    let drain = move || {
        if signals.0.wait().is_ok() {
            on_drain();
            // Requests that the kernel can resend need no reply first.
            while !shared.can_resend() && !quiesce.request_and_check() {
                thread::sleep(QUIESCE_POLL_INTERVAL);
            }
            exit_replaced();
        }
    };
    thread::Builder::new().name("drain".to_owned()).spawn(drain).map_err(WorkerError::Thread)?;
    session.run().map_err(WorkerError::Serve)
}

#[expect(clippy::disallowed_methods, reason = "the mount continues, so nothing may be torn down")]
fn exit_replaced() -> ! {
    std::process::exit(i32::from(EXIT_REPLACED))
}

/// Asks for the replacement of this worker by another of the same program.
pub(crate) fn request_replacement() {
    if let Err(errno) = nix::sys::signal::kill(nix::unistd::getpid(), Signal::SIGUSR1) {
        tracing::warn!("this worker cannot be replaced: {errno}");
    }
}

/// Unmounts, or detaches the mount if it is in use.
pub(crate) fn unmount_or_detach(unmounter: &Unmounter) -> Result<(), UnmountError> {
    unmounter.unmount(Unmount::Now).or_else(|error| match error {
        UnmountError::Busy { .. } => unmounter.unmount(Unmount::Lazy),
        other => Err(other),
    })
}
