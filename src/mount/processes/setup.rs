//! What several of the processes behind a mount set up: their name, their log, their place among other processes.
//!
//! *Used by* the other files of this folder.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::fd::OwnedFd;

use crate::fuse::{SharedState, Unmounter};
use crate::mount::descriptors::{copy_fd, take_fd};
use crate::mount::error::{OrCannot as _, ProcessError};
use crate::mount::handoff::Handoff;
use crate::mount::log;

/// Gives the process the name by which administrators find it.
pub(super) fn name_process() {
    if let Err(errno) = nix::sys::prctl::set_name(c"sapwood-mount") {
        tracing::debug!("set the name of the process: {errno}");
    }
}

/// Sets the OOM score adjustment of this process. Best effort: containers may forbid it.
pub(super) fn set_oom_adjustment(adjustment: i32) {
    let path = "/proc/self/oom_score_adj";
    // In one write: the kernel parses each write as a whole number.
    let text = adjustment.to_string();
    let set = OpenOptions::new().write(true).open(path).and_then(|mut file| file.write_all(text.as_bytes()));
    if let Err(error) = set {
        tracing::debug!("{path}: {error}");
    }
}

/// Closes the pipe and the terminal: from now on standard error is the log.
pub(super) fn detach_terminal(log: &OwnedFd) {
    // There is no place any more to report an error of these. Standard input is the null device already.
    let _ = nix::unistd::dup2_stdout(rustix::stdio::stdin());
    let _ = nix::unistd::dup2_stderr(log);
}

/// Makes this process log to the log of the mount.
pub(super) fn start_log(handoff: &Handoff) -> Result<(), ProcessError> {
    Ok(log::init(copy_fd(handoff.descriptors.log)?, handoff.log)?)
}

/// Opens the pages that the processes of the mount share.
pub(super) fn open_shared_state(handoff: &Handoff) -> Result<SharedState, ProcessError> {
    SharedState::open(take_fd(handoff.descriptors.shared)?).or_cannot("understand the shared pages of the mount")
}

/// Returns what unmounts this mount and no other.
pub(super) fn unmounter(handoff: &Handoff, shared: &SharedState) -> Unmounter {
    Unmounter::new(handoff.mountpoint(), shared.device())
}

/// Makes a panic end the process. Otherwise the other threads would continue to serve without the one that panicked.
pub(super) fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!("{panic}");
        abort();
    }));
}

#[expect(clippy::disallowed_methods, reason = "no code of this process may run on; the next process takes over")]
fn abort() {
    std::process::abort();
}
