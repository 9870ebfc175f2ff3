//! Why bytes did not move.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::reason::Reason;
use crate::disk::LockError;

/// What went wrong with a request, after all attempts.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The URL cannot be used.
    #[error("cannot use {url}: {reason}")]
    Url {
        /// The URL.
        url: String,
        /// Why not.
        reason: String,
    },
    /// The runtime that drives requests did not start.
    #[error("cannot start the network's runtime")]
    Runtime(#[source] io::Error),
    /// There is no such file.
    #[error("{path} is not there")]
    Missing {
        /// Relative to the URL.
        path: String,
    },
    /// The directory of a `file://` URL is not there: not mounted, or not made yet.
    #[error("there is no directory {}", .directory.display())]
    Gone {
        /// The directory.
        directory: PathBuf,
    },
    /// There is a file where none should be.
    #[error("{path} is there already")]
    Exists {
        /// Relative to the URL.
        path: String,
    },
    /// The file is not the version that was expected.
    #[error("{path} was changed by somebody else")]
    Changed {
        /// Relative to the URL.
        path: String,
    },
    /// The file has more bytes than can be right.
    #[error("{path} has more than {limit} bytes")]
    TooLarge {
        /// Relative to the URL.
        path: String,
        /// Bytes that were allowed.
        limit: u64,
    },
    /// The file ends before the bytes that were asked for.
    #[error("{path} ends too early")]
    Short {
        /// Relative to the URL.
        path: String,
    },
    /// Certificates, keys or proxies that cannot be used.
    #[error("cannot use {what}: {reason}")]
    Tls {
        /// Which.
        what: String,
        /// Why not.
        reason: String,
    },
    /// The server wants to know who is asking, or does not allow it.
    #[error("not allowed to {action} {path}")]
    Denied {
        /// What was tried.
        action: &'static str,
        /// Relative to the URL.
        path: String,
        /// What it said.
        source: Reason,
    },
    /// A plain web server takes no uploads.
    #[error("{url} is a web server and takes no uploads: publish to its directory (file://…) or to a bucket (s3://…)")]
    CannotWrite {
        /// The URL.
        url: String,
    },
    /// A plain web server has no listing.
    #[error("{url} cannot be listed")]
    CannotList {
        /// The URL.
        url: String,
    },
    /// A local file that was to be sent.
    #[error("cannot read {}", .path.display())]
    Local {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The directory that is written to cannot be locked.
    #[error("cannot lock the directory of {path}")]
    Lock {
        /// Relative to the URL.
        path: String,
        /// Why not.
        source: LockError,
    },
    /// The other side, or the way there.
    #[error("cannot {action} {path}")]
    Failed {
        /// What was tried.
        action: &'static str,
        /// Relative to the URL.
        path: String,
        /// What went wrong.
        source: Reason,
    },
}

impl TransportError {
    /// Whether the same request may succeed in a while.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Failed { source, .. } if source.may_pass())
    }

    /// When the other side wants to be asked again, if it says so.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Failed { source: Reason::Busy { after, .. }, .. } => Some(*after),
            _ => None,
        }
    }
}
