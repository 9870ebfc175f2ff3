//! Why bytes did not move.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::appearance::Appearance;
use super::hope::Hope;
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
    /// A proxy that cannot be used.
    #[error("cannot use the proxy {url}: {reason}")]
    Proxy {
        /// Its URL, without its password.
        url: String,
        /// Why not.
        reason: String,
    },
    /// What came is not what it should be.
    #[error("{path} of {url} is not what it should be{appearance}")]
    Wrong {
        /// Relative to the URL.
        path: Box<str>,
        /// The URL or mirror that it came from.
        url: Box<str>,
        /// What it looks like.
        appearance: Appearance,
        /// What is wrong with it.
        source: Box<dyn std::error::Error + Send + Sync>,
        /// What waiting may do about it.
        hope: Hope,
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
    /// What waiting may do about it.
    #[must_use]
    pub fn hope(&self) -> Hope {
        match self {
            Self::Failed { source, .. } => source.hope(),
            Self::Wrong { hope, .. } => *hope,
            Self::Missing { .. } => Hope::Absent,
            Self::Short { .. } | Self::TooLarge { .. } => Hope::Again,
            Self::Denied { source: Reason::NoCredentials, .. } => Hope::None,
            Self::Denied { .. } | Self::Gone { .. } => Hope::Twice,
            Self::Url { .. }
            | Self::Runtime(_)
            | Self::Exists { .. }
            | Self::Changed { .. }
            | Self::Tls { .. }
            | Self::Proxy { .. }
            | Self::CannotWrite { .. }
            | Self::CannotList { .. }
            | Self::Local { .. }
            | Self::Lock { .. } => Hope::None,
        }
    }

    /// Whether bytes came that are not what they should be, so that the place that sent them is asked last for a while.
    pub(super) fn is_corruption(&self) -> bool {
        match self {
            Self::Wrong { hope, .. } => *hope == Hope::Again,
            Self::Short { .. } | Self::TooLarge { .. } => true,
            Self::Failed { source, .. } => matches!(source, Reason::WrongRange { .. } | Reason::Encoded(_)),
            _ => false,
        }
    }

    /// Whether the server says that it is busy.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Failed { source, .. } if source.is_busy())
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
