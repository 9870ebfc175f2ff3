//! Why lazy data could not be fetched, or was not stored after it had arrived.
//!
//! *Used by* all of `cache`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::image::ImageError;
use crate::model::CommitId;
use crate::remote::format::LocatorError;
use crate::remote::transport::{FailureReason, RetryClass, TransportError};

/// Why something could not be fetched. Cheap to clone, since every waiter of a fetch gets the error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LazyFetchError {
    /// The request failed, at the remote or on the way to it.
    #[error(transparent)]
    Transport(Arc<TransportError>),
    /// The answer was wrong, and the request will be repeated.
    #[error("no valid answer has arrived yet")]
    RetryLater {
        /// The last failure.
        source: Arc<TransportError>,
        /// When the request may be repeated.
        next_attempt: Instant,
        /// Whether the failures have lasted for as long as readers wait.
        is_patience_over: bool,
    },
    /// The answer did not arrive before the deadline.
    #[error("no answer within the time that readers are to wait")]
    TimedOut,
    /// The publisher has moved the contents. The new placement is known, so the same operation can be repeated with it.
    #[error("the contents of commit {} were moved while they were fetched", .commit.short())]
    Moved { commit: CommitId },
    /// The thread that executed the fetch ended it without a result.
    #[error("the fetch ended without a result")]
    Abandoned,
    /// The published file is not what its name or the placement says.
    #[error("what came from {path} is not what it should be")]
    Corrupt {
        /// The published file.
        path: String,
    },
    /// The published locator is invalid, although it has the right digest.
    #[error("cannot use the locator")]
    Locator(#[from] Arc<LocatorError>),
    /// The publisher does not keep the commit any more.
    #[error(
        "commit {} is not published any more, so what of it was not fetched cannot be had; mount or upgrade to a newer one",
        .commit.short()
    )]
    Unpublished { commit: CommitId },
    /// The locator does not contain the object.
    #[error("the remote does not say where object number {index} is")]
    NotLocated {
        /// Its number in the image.
        index: u32,
    },
    /// The image is damaged.
    #[error("the image is damaged")]
    Image(#[from] ImageError),
    /// The fetched data could not be written.
    #[error("cannot store fetched data")]
    WriteFailed(#[source] Arc<std::io::Error>),
    /// The commit was opened without a remote, from local data only.
    #[error("there is no remote to ask")]
    NoRemote,
}

impl LazyFetchError {
    /// Returns whether the same fetch may succeed later.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Transport(error) => is_unreachable(error),
            Self::RetryLater { is_patience_over, .. } => !is_patience_over,
            Self::Abandoned | Self::Moved { .. } | Self::WriteFailed(_) => true,
            Self::TimedOut
            | Self::Corrupt { .. }
            | Self::Locator(_)
            | Self::Unpublished { .. }
            | Self::NotLocated { .. }
            | Self::Image(_)
            | Self::NoRemote => false,
        }
    }
}

impl LazyFetchError {
    /// Returns whether the error suggests that the publisher has moved the contents since the placement was read: the file is
    /// missing, is too short, is refused (as a bucket does that may not be listed), or has other contents.
    pub(crate) fn may_have_moved(&self) -> bool {
        match self {
            Self::Transport(error) | Self::RetryLater { source: error, .. } => match &**error {
                TransportError::Missing { .. }
                | TransportError::Denied { .. }
                | TransportError::Short { .. }
                | TransportError::Wrong { .. }
                | TransportError::TooLarge { .. } => true,
                TransportError::Failed { source: FailureReason::Status { status, .. }, .. } => status.is_client_error(),
                TransportError::Failed { source: FailureReason::WrongRange { .. }, .. } => true,
                _ => false,
            },
            Self::Corrupt { .. } | Self::Locator(_) | Self::NotLocated { .. } => true,
            Self::TimedOut
            | Self::Abandoned
            | Self::Moved { .. }
            | Self::Unpublished { .. }
            | Self::Image(_)
            | Self::WriteFailed(_)
            | Self::NoRemote => false,
        }
    }

    /// Returns how long to wait before the fetch is repeated, if that is known.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::RetryLater { next_attempt, .. } => Some(next_attempt.saturating_duration_since(Instant::now())),
            Self::Transport(error) => error.retry_after(),
            _ => None,
        }
    }
}

/// Returns whether no place of the remote was reached, or a directory is missing, such as one on a share that is not mounted.
pub(in crate::cache) fn is_unreachable(error: &TransportError) -> bool {
    let is_missing =
        matches!(error, TransportError::Gone { .. } | TransportError::Failed { source: FailureReason::System(_), .. });
    is_missing || error.retry_class() == RetryClass::Unreachable
}

/// Returns whether no place of the remote answered. Unlike with [`is_unreachable`], a place may have been reached; then the
/// request is not repeated without end.
pub(in crate::cache) fn is_unanswered(error: &TransportError) -> bool {
    is_unreachable(error) || matches!(error, TransportError::Failed { source: FailureReason::Unanswered(_), .. })
}

/// Why a piece of a response was not stored.
pub(in crate::cache) enum UnpackError {
    /// The data is invalid: the remote may have sent something wrong.
    Invalid(Box<dyn std::error::Error + Send + Sync>),
    /// A local operation failed, or the metadata to verify the data with could not be fetched.
    Local(LazyFetchError),
}

impl From<LazyFetchError> for UnpackError {
    fn from(error: LazyFetchError) -> Self {
        Self::Local(error)
    }
}

impl From<TransportError> for LazyFetchError {
    fn from(error: TransportError) -> Self {
        Self::Transport(Arc::new(error))
    }
}
