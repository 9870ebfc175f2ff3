//! Why something did not come.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::image::ImageError;
use crate::model::CommitId;
use crate::remote::format::LocatorError;
use crate::remote::transport::{Hope, Reason, TransportError};

/// Why something could not be fetched. Cheap to clone: one failure is told to everybody who waited.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// The other side, or the way there.
    #[error(transparent)]
    Transport(Arc<TransportError>),
    /// It came wrong, and will be asked for again.
    #[error("it has not come right yet")]
    Again {
        /// How it came last.
        source: Arc<TransportError>,
        /// When it is asked for again.
        next: Instant,
        /// Whether that has gone on for as long as readers wait.
        is_over: bool,
    },
    /// It did not come in time.
    #[error("no answer within the time that readers are to wait")]
    TooLate,
    /// It is at another place by now, which is known: the same question is answered from there.
    #[error("the contents of commit {} were moved while they were asked for", .commit.short())]
    Moved {
        /// The commit.
        commit: CommitId,
    },
    /// Whoever fetched it gave up without a result.
    #[error("the fetch was given up")]
    GivenUp,
    /// What came is not what it should be.
    #[error("what came from {path} is not what it should be")]
    Corrupt {
        /// The file on the other side.
        path: String,
    },
    /// The locator is the one that was published, and cannot be used.
    #[error("cannot use the locator")]
    Locator(#[from] Arc<LocatorError>),
    /// The publisher keeps the commit no longer.
    #[error(
        "commit {} is not published any more, so what of it was not fetched cannot be had; mount or upgrade to a newer one",
        .commit.short()
    )]
    Unpublished {
        /// The commit.
        commit: CommitId,
    },
    /// The other side does not say where it is.
    #[error("the remote does not say where object number {index} is")]
    NoPlace {
        /// Its number in the image.
        index: u32,
    },
    /// The image contradicts itself.
    #[error("the image is damaged")]
    Image(#[from] ImageError),
    /// There is no room for it.
    #[error("cannot keep what came")]
    NoRoom(#[source] Arc<std::io::Error>),
    /// Nothing is known of the other side: the commit was mounted from what is here alone.
    #[error("there is no remote to ask")]
    NoRemote,
}

impl FetchError {
    /// Whether the same question may be answered in a while.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Transport(error) => is_out_of_reach(error),
            Self::Again { is_over, .. } => !is_over,
            Self::GivenUp | Self::Moved { .. } | Self::NoRoom(_) => true,
            Self::TooLate
            | Self::Corrupt { .. }
            | Self::Locator(_)
            | Self::Unpublished { .. }
            | Self::NoPlace { .. }
            | Self::Image(_)
            | Self::NoRemote => false,
        }
    }
}

impl FetchError {
    /// Returns whether the answer suggests that the publisher has put the contents elsewhere since the placement was read: the
    /// file is not there, is shorter, is refused (as buckets do that may not be listed), or holds something else.
    #[must_use]
    pub fn may_have_moved(&self) -> bool {
        match self {
            Self::Transport(error) | Self::Again { source: error, .. } => match &**error {
                TransportError::Missing { .. }
                | TransportError::Denied { .. }
                | TransportError::Short { .. }
                | TransportError::Wrong { .. }
                | TransportError::TooLarge { .. } => true,
                TransportError::Failed { source: Reason::Status { status, .. }, .. } => status.is_client_error(),
                TransportError::Failed { source: Reason::WrongRange { .. }, .. } => true,
                _ => false,
            },
            Self::Corrupt { .. } | Self::Locator(_) | Self::NoPlace { .. } => true,
            Self::TooLate
            | Self::GivenUp
            | Self::Moved { .. }
            | Self::Unpublished { .. }
            | Self::Image(_)
            | Self::NoRoom(_)
            | Self::NoRemote => false,
        }
    }

    /// How long to wait before asking again, if that is known.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Again { next, .. } => Some(next.saturating_duration_since(Instant::now())),
            Self::Transport(error) => error.retry_after(),
            _ => None,
        }
    }
}

/// Whether no place was reached, or a directory is away, as one on a share that is not mounted.
pub(super) fn is_out_of_reach(error: &TransportError) -> bool {
    let is_away =
        matches!(error, TransportError::Gone { .. } | TransportError::Failed { source: Reason::System(_), .. });
    is_away || error.hope() == Hope::Reach
}

/// Whether no place answered at all. Unlike what [`is_out_of_reach`] tells, a place may have been reached, and is not asked without
/// end.
pub(super) fn is_unanswered(error: &TransportError) -> bool {
    is_out_of_reach(error) || matches!(error, TransportError::Failed { source: Reason::Unanswered(_), .. })
}

/// Why something that came was not kept.
pub(super) enum Unkept {
    /// It is not what it should be: the other side may have sent something wrong.
    Wrong(Box<dyn std::error::Error + Send + Sync>),
    /// Something failed on this side, or on the way to what it is checked by.
    Own(FetchError),
}

impl From<FetchError> for Unkept {
    fn from(error: FetchError) -> Self {
        Self::Own(error)
    }
}

impl From<TransportError> for FetchError {
    fn from(error: TransportError) -> Self {
        Self::Transport(Arc::new(error))
    }
}
