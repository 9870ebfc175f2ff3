//! The process that unmounts, since unmounting may wait for the mount and a supervisor must not.
//!
//! *Used by* the subcommand `end`.

use std::process::ExitCode;

use super::setup::{open_shared_state, start_log, unmounter};
use crate::mount::error::ProcessError;
use crate::mount::handoff::Handoff;
use crate::mount::worker::unmount_or_detach;

/// Unmounts, or detaches the mount if it is in use.
pub(super) fn run(number: &str) -> Result<ExitCode, ProcessError> {
    let (handoff, _handoff_file) = Handoff::read(number)?;
    start_log(&handoff)?;
    let unmounter = unmounter(&handoff, &open_shared_state(&handoff)?);
    match unmount_or_detach(&unmounter) {
        Ok(()) => tracing::info!("{} unmounted after a signal", unmounter.mountpoint().display()),
        Err(error) => tracing::error!("{error}"),
    }
    Ok(ExitCode::SUCCESS)
}
