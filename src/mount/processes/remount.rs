//! The process that mounts again after the connection was lost.
//!
//! *Used by* the subcommand `remount`.

use std::process::ExitCode;

use super::setup::{open_shared_state, start_log, unmounter};
use crate::fuse::{MountRequest, mount_replacement};
use crate::mount::descriptors::take_fd;
use crate::mount::error::ProcessError;
use crate::mount::handoff::Handoff;

/// Mounts again over the mount whose connection was lost.
pub(super) fn run(number: &str) -> Result<ExitCode, ProcessError> {
    let (handoff, _handoff_file) = Handoff::read(number)?;
    start_log(&handoff)?;
    let shared = open_shared_state(&handoff)?;
    let unmounter = unmounter(&handoff, &shared);
    let device = take_fd(handoff.descriptors.device)?;
    let request =
        MountRequest { source: handoff.source.clone(), mountpoint: handoff.mountpoint(), options: handoff.options()? };
    let number = mount_replacement(&unmounter, &request, &device)?;
    shared.set_device(&number);
    tracing::error!(
        "a worker ended and this kernel cannot resend its pending requests: {} was mounted again; open files are lost",
        request.mountpoint.display()
    );
    Ok(ExitCode::SUCCESS)
}
