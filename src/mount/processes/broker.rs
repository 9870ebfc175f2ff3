//! The broker's process: from the hand-over to a broker that serves its worker.
//!
//! *Not here*: its start and the requests (`mount::broker`).
//!
//! *Used by* the subcommand `broker`.

use std::os::fd::OwnedFd;
use std::process::ExitCode;

use super::setup::{abort_on_panic, detach_terminal, name_process, start_log};
use crate::cache::DirectWriter;
use crate::mount::broker;
use crate::mount::confine;
use crate::mount::descriptors::{copy_fd, take_fd};
use crate::mount::error::{OrCannot as _, ProcessError};
use crate::mount::handoff::Handoff;
use crate::mount::worker::WorkerSignals;
use crate::store::Store;

/// Serves the worker at the other end of a socket until that ends. `numbers` are those of the hand-over and of the socket.
pub(super) fn run(numbers: &str) -> Result<ExitCode, ProcessError> {
    let (handoff, socket) = numbers.split_once(',').unwrap_or((numbers, ""));
    let (handoff, _) = Handoff::read(handoff)?;
    let socket = take_fd(socket.parse().map_err(crate::mount::HandoffError::from)?)?;
    // First, while no number can have been used again.
    close_others(&handoff);
    // A program that reads what the mounting process prints waits until no process has the pipe open.
    detach_terminal(&copy_fd(handoff.descriptors.log)?);
    name_process();
    start_log(&handoff)?;
    abort_on_panic();
    // It ends with its worker, which gets these signals, too, or has blocked them.
    let _signals = WorkerSignals::block()?;
    let repository = take_fd(handoff.descriptors.repository)?;
    rustix::process::fchdir(&repository).or_cannot("change to the directory of the repository")?;
    let store = Store::open_working_directory()?;
    let (commit, image) = handoff.commit_and_image()?;
    // The sandbox allows only directories that exist.
    if let Err(error) = store.prepare_partial(commit, image) {
        tracing::debug!("what is fetched in parts is not stored: {error}");
    }
    confine::enter_broker(&repository)?;
    let writer = DirectWriter::new(&store, commit);
    let own_limit = handoff.options()?.cache_size;
    let cache_size = || own_limit.or_else(|| store.configured_cache_size().ok().flatten());
    broker::serve(&socket, &writer, &cache_size).or_cannot("serve a worker")?;
    Ok(ExitCode::SUCCESS)
}

/// Closes the descriptors of the other processes of the mount, as far as they are open here.
fn close_others(handoff: &Handoff) {
    let own = [handoff.descriptors.log, handoff.descriptors.repository];
    let others = handoff.descriptors.numbers().filter(|number| !own.contains(number));
    others.for_each(|number| drop::<Option<OwnedFd>>(take_fd(number).ok()));
}
