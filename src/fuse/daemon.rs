//! The ends of a worker that are not FUSE: how it comes to serve after another, makes room for the next, and what unmounts.
//!
//! How the processes come to be is `cli`'s business.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

use super::attach::{Unmount, UnmountError};
use super::board::Board;
use super::session::{Session, Unmounter};

/// How often a worker that makes room looks whether it has answered everything.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The code with which a worker ends that has made room.
pub const MADE_ROOM: u8 = 4;

/// Why a worker cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] nix::Error),
    /// A thread cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The supervisor went away before it said a word.
    #[error("the process that holds the mount is gone")]
    NoSupervisor(#[source] io::Error),
    /// The connection to the kernel broke.
    #[error("the connection to the kernel broke")]
    Serve(#[source] io::Error),
}

/// Signals that are the supervisor's to obey, and the one with which it asks to make room; all kept from ending the
/// process.
pub struct WorkerSignals(SigSet);

impl WorkerSignals {
    /// Blocks them for the calling thread and all it starts from now on.
    ///
    /// # Errors
    /// [`DaemonError::Signals`].
    pub fn block() -> Result<Self, DaemonError> {
        let all: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1].into_iter().collect();
        all.thread_block().map_err(DaemonError::Signals)?;
        Ok(Self([Signal::SIGUSR1].into_iter().collect()))
    }
}

/// The two pipes between a worker and its supervisor.
pub struct Turn {
    /// Where the worker says that it is ready.
    pub ready: OwnedFd,
    /// Where it hears that it may begin.
    pub go: OwnedFd,
}

impl Turn {
    /// Says that this worker is ready, and waits until nobody is in its way.
    ///
    /// # Errors
    /// [`DaemonError::NoSupervisor`].
    pub fn await_it(self, board: &Board) -> Result<(), DaemonError> {
        let own = std::process::id();
        board.set_ready(own);
        File::from(self.ready).write_all(b"r").map_err(DaemonError::NoSupervisor)?;
        let mut go = File::from(self.go);
        while board.go() != own {
            // A byte that was meant for a worker that is no more wakes us too.
            let length = go.read(&mut [0]).map_err(DaemonError::NoSupervisor)?;
            if length == 0 {
                return Err(DaemonError::NoSupervisor(io::Error::from(io::ErrorKind::UnexpectedEof)));
            }
        }
        Ok(())
    }
}

/// Serves `session` until it is unmounted, or until another worker is to have its place: then after `last_words`.
///
/// # Errors
/// [`DaemonError`].
pub fn serve(
    session: Session,
    signals: WorkerSignals,
    board: &Board,
    last_words: impl FnOnce() + Send + 'static,
) -> Result<(), DaemonError> {
    let (rest, board) = (session.rest(), board.clone());
    let leave = move || {
        if signals.0.wait().is_ok() {
            last_words();
            // What the kernel can send again need not be answered first.
            while !board.resends() && !rest.is_complete() {
                thread::sleep(LOOK_AGAIN);
            }
            leave_without_a_trace();
        }
    };
    thread::Builder::new().name("leave".to_owned()).spawn(leave).map_err(DaemonError::Thread)?;
    session.run().map_err(DaemonError::Serve)
}

#[expect(clippy::disallowed_methods, reason = "the mount goes on, so nothing is to be let go of")]
fn leave_without_a_trace() -> ! {
    std::process::exit(i32::from(MADE_ROOM))
}

/// Has this worker make room for another of the same program.
pub fn ask_to_be_replaced() {
    if let Err(errno) = nix::sys::signal::kill(nix::unistd::getpid(), Signal::SIGUSR1) {
        tracing::warn!("this worker cannot be replaced: {errno}");
    }
}

/// Unmounts, out of sight at least if it is in use.
///
/// # Errors
/// [`UnmountError`].
pub fn end(unmounter: &Unmounter) -> Result<(), UnmountError> {
    unmounter.unmount(Unmount::Now).or_else(|error| match error {
        UnmountError::Busy { .. } => unmounter.unmount(Unmount::Lazy),
        other => Err(other),
    })
}
