//! The errors of starting a mount and of the processes behind it.
//!
//! *Used by* the other files of this folder, and by `cli::error`, which prints them.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitStatus;

use super::handoff::HandoffError;
use super::worker::WorkerError;
use crate::cache::LazyError;
use crate::fuse::{MountError, OptionError, RecordingError};
use crate::image::{EncodeError, ImageError};
use crate::model::PathError;
use crate::remote::format::ProfileTextError;
use crate::remote::transport::TransportError;
use crate::store::{OpenError, ReadError};
use crate::vfs::SubdirError;

/// An error of starting a mount, or of one of its processes.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    /// Something that the system was asked for has failed.
    #[error("cannot {action}")]
    System { action: &'static str, source: io::Error },
    /// An operation on a file has failed.
    #[error("cannot {action} {}", .path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    /// The path of a file that is to be written ends in no name.
    #[error("{} names no file", .0.display())]
    NoFileName(PathBuf),
    /// The address for metrics cannot be used.
    #[error("cannot serve metrics on {address}")]
    MetricsAddress { address: SocketAddr, source: io::Error },
    /// The supervisor was killed before the mount was served.
    #[error("the process behind the mount ended without an error message: {0}")]
    EndedSilently(ExitStatus),
    /// The supervisor has printed why it ended.
    #[error("the reason was printed before")]
    AlreadyReported,
    #[error("{0}")]
    Handoff(#[from] HandoffError),
    /// The log of the process cannot be set up.
    #[error("cannot start the log")]
    Log(#[from] tracing_subscriber::util::TryInitError),
    #[error("{0}")]
    Options(#[from] OptionError),
    #[error("{0}")]
    Path(#[from] PathError),
    #[error("{0}")]
    Repository(#[from] OpenError),
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("{0}")]
    Image(#[from] ImageError),
    #[error("{0}")]
    Encode(#[from] EncodeError),
    #[error("{0}")]
    Subdir(#[from] SubdirError),
    #[error("{0}")]
    Lazy(#[from] LazyError),
    #[error("{0}")]
    Transport(#[from] TransportError),
    #[error("{0}")]
    Mount(#[from] MountError),
    #[error("{0}")]
    Recording(#[from] RecordingError),
    #[error("{0}")]
    Profile(#[from] ProfileTextError),
    #[error("{0}")]
    Worker(#[from] WorkerError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Adds to an error of the system what could not be done.
pub(super) trait OrCannot<T> {
    /// Turns an error into [`ProcessError::System`] with this action.
    fn or_cannot(self, action: &'static str) -> Result<T, ProcessError>;
}

impl<T, E: Into<io::Error>> OrCannot<T> for Result<T, E> {
    fn or_cannot(self, action: &'static str) -> Result<T, ProcessError> {
        self.map_err(|error| ProcessError::System { action, source: error.into() })
    }
}
