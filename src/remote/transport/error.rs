//! Errors of the transport.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use super::appearance::Appearance;
use super::reason::FailureReason;
use super::retry_class::RetryClass;
use crate::disk::LockError;

/// The reason why a request failed after all attempts.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The URL cannot be used.
    #[error("cannot use {url}: {reason}")]
    Url {
        /// The URL.
        url: String,
        /// The reason.
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
    /// The directory of a `file://` URL does not exist: it is not mounted, or not made yet.
    #[error("there is no directory {}", .directory.display())]
    Gone {
        /// The directory.
        directory: PathBuf,
    },
    /// A file exists that should not exist yet.
    #[error("{path} is there already")]
    Exists {
        /// Relative to the URL.
        path: String,
    },
    /// The file is not the expected version.
    #[error("{path} was changed by another process")]
    Changed {
        /// Relative to the URL.
        path: String,
    },
    /// The file is larger than any correct one.
    #[error("{path} has more than {limit} bytes")]
    TooLarge {
        /// Relative to the URL.
        path: String,
        /// The allowed number of bytes.
        limit: u64,
    },
    /// The file ends before the requested bytes.
    #[error("{path} ends too early")]
    Short {
        /// Relative to the URL.
        path: String,
    },
    /// A certificate, a key or the HTTP client cannot be used.
    #[error("cannot use {what}: {reason}")]
    Tls {
        /// What cannot be used.
        what: String,
        /// The reason.
        reason: String,
    },
    /// A proxy that cannot be used.
    #[error("cannot use the proxy {url}: {reason}")]
    Proxy {
        /// Its URL, without its password.
        url: String,
        /// The reason.
        reason: String,
    },
    /// The received content is wrong.
    #[error("{path} of {url} is not what it should be{appearance}")]
    Wrong {
        /// Relative to the URL.
        path: Box<str>,
        /// The URL or mirror that sent it.
        url: Box<str>,
        /// A description of the answer.
        appearance: Appearance,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
        /// Whether and how the request is repeated.
        class: RetryClass,
    },
    /// The server requires authentication, or does not allow the request.
    #[error("not allowed to {action} {path}")]
    Denied {
        /// The action that was tried.
        action: &'static str,
        /// Relative to the URL.
        path: String,
        /// The server's answer.
        source: FailureReason,
    },
    /// The URL is a plain web server, which takes no uploads.
    #[error("{url} is a web server and takes no uploads: publish to its directory (file://…) or to a bucket (s3://…)")]
    CannotWrite {
        /// The URL.
        url: String,
    },
    /// The URL is a plain web server, which has no listing.
    #[error("{url} cannot be listed")]
    CannotList {
        /// The URL.
        url: String,
    },
    /// A local file cannot be read.
    #[error("cannot read {}", .path.display())]
    Local {
        /// The file.
        path: PathBuf,
        /// The error of the system call.
        source: io::Error,
    },
    /// The destination's directory cannot be locked.
    #[error("cannot lock the directory of {path}")]
    Lock {
        /// Relative to the URL.
        path: String,
        /// The reason.
        source: LockError,
    },
    /// The server failed, or could not be reached.
    #[error("cannot {action} {path}")]
    Failed {
        /// The action that was tried.
        action: &'static str,
        /// Relative to the URL.
        path: String,
        /// The cause.
        source: FailureReason,
    },
}

impl TransportError {
    /// Returns whether and how the request is repeated.
    pub(crate) fn retry_class(&self) -> RetryClass {
        match self {
            Self::Failed { source, .. } => source.retry_class(),
            Self::Wrong { class, .. } => *class,
            Self::Missing { .. } => RetryClass::Absent,
            Self::Short { .. } | Self::TooLarge { .. } => RetryClass::Limited,
            Self::Denied { source: FailureReason::NoCredentials, .. } => RetryClass::Never,
            Self::Denied { .. } | Self::Gone { .. } => RetryClass::OncePerPlace,
            Self::Url { .. }
            | Self::Runtime(_)
            | Self::Exists { .. }
            | Self::Changed { .. }
            | Self::Tls { .. }
            | Self::Proxy { .. }
            | Self::CannotWrite { .. }
            | Self::CannotList { .. }
            | Self::Local { .. }
            | Self::Lock { .. } => RetryClass::Never,
        }
    }

    /// Returns whether wrong bytes were received. The endpoint that sent them is tried last for a while.
    pub(super) fn is_corruption(&self) -> bool {
        match self {
            Self::Wrong { class, .. } => *class == RetryClass::Limited,
            Self::Short { .. } | Self::TooLarge { .. } => true,
            Self::Failed { source, .. } => {
                matches!(source, FailureReason::WrongRange { .. } | FailureReason::Encoded(_))
            }
            _ => false,
        }
    }

    /// Returns whether the server says that it is busy.
    pub(super) fn is_busy(&self) -> bool {
        matches!(self, Self::Failed { source, .. } if source.is_busy())
    }

    /// Returns after which time the server asks for another request, if it says so.
    pub(crate) const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Failed { source: FailureReason::Busy { after, .. }, .. } => Some(*after),
            _ => None,
        }
    }
}
