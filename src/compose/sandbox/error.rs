//! Errors of entering a sandbox.
//!
//! *Used by* `stages` and `view`.

use std::io;
use std::path::PathBuf;

use super::PROGRAM_NAME;

/// Why a sandbox cannot be entered.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StageError {
    /// The arguments or the request are not those of a `SandboxedCommand`.
    #[error("{PROGRAM_NAME} is started by sapwood itself")]
    Arguments,
    #[error("sandbox: cannot {action}")]
    System { action: &'static str, source: io::Error },
    /// A file or directory cannot be mounted in the sandbox.
    #[error("sandbox: cannot show {}", .path.display())]
    Show { path: PathBuf, source: io::Error },
    /// The filesystem of the workspace has no mounts with mapped ids.
    #[error(
        "sandbox: the filesystem of {} cannot be mounted with mapped ids: give a directory on ext4, XFS or Btrfs (--workdir, TMPDIR)",
        .path.display()
    )]
    IdMap { path: PathBuf },
    /// The program cannot be started.
    #[error("cannot start {program} in the root")]
    Start { program: String, source: io::Error },
}

pub(super) fn system_error<E: Into<io::Error>>(action: &'static str) -> impl FnOnce(E) -> StageError {
    move |source| StageError::System { action, source: source.into() }
}
