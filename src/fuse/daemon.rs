//! The process behind a mount: serves until the filesystem is gone, unmounts when told to stop.
//!
//! How the process comes to be in the background is `cli`'s business. Order matters in [`serve`]: signals are blocked
//! before the first thread exists, so that all threads inherit it and only the one that waits for signals sees them.

use std::io;
use std::thread;

use nix::sys::signal::{SigSet, Signal};

use super::attach::{Unmount, UnmountError};
use super::registry::Registration;
use super::session::{Session, Unmounter};

/// Why the process behind a mount cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Signals cannot be received.
    #[error("cannot receive signals")]
    Signals(#[source] nix::Error),
    /// A thread cannot be started.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The connection to the kernel broke.
    #[error("the connection to the kernel broke")]
    Serve(#[source] io::Error),
}

/// The signals that end a mount, kept from ending the process.
pub struct StopSignals(SigSet);

impl StopSignals {
    /// Blocks them for the calling thread and all it starts from now on.
    ///
    /// # Errors
    /// [`DaemonError::Signals`].
    pub fn block() -> Result<Self, DaemonError> {
        let signals: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().collect();
        signals.thread_block().map_err(DaemonError::Signals)?;
        Ok(Self(signals))
    }
}

/// Serves `session` until it is unmounted. `registration` is held until then, so that the list of mounts is right.
///
/// # Errors
/// [`DaemonError`].
pub fn serve(
    session: Session,
    stop: StopSignals,
    registration: Option<Registration>,
    ready: impl FnOnce(),
) -> Result<(), DaemonError> {
    let unmounter = session.unmounter().clone();
    thread::Builder::new()
        .name("stop".to_owned())
        .spawn(move || unmount_when_told(&stop, &unmounter))
        .map_err(DaemonError::Thread)?;
    ready();
    let served = session.run().map_err(DaemonError::Serve);
    drop(registration);
    served
}

/// Never returns by itself: the thread ends with the process, which ends when the last user of the mount is gone.
fn unmount_when_told(stop: &StopSignals, unmounter: &Unmounter) {
    while let Ok(signal) = stop.0.wait() {
        let unmounted = unmounter.unmount(Unmount::Now).or_else(|error| match error {
            UnmountError::Busy { .. } => unmounter.unmount(Unmount::Lazy),
            other => Err(other),
        });
        match unmounted {
            Ok(()) => tracing::info!("{signal}: {} unmounted", unmounter.mountpoint().display()),
            Err(error) => tracing::error!("{signal}: {error}"),
        }
    }
}
