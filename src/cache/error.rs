//! Why something did not come.

use std::sync::Arc;
use std::time::Duration;

use crate::image::ImageError;
use crate::model::CommitId;
use crate::remote::format::wire::WireError;
use crate::remote::format::{LocatorError, PlacementError};
use crate::remote::transport::{Reason, TransportError};

/// Why something could not be fetched. Cheap to clone: one failure is told to everybody who waited.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// The other side, or the way there.
    #[error(transparent)]
    Transport(Arc<TransportError>),
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
    /// The locator cannot be used.
    #[error("cannot use the locator")]
    Locator(#[from] Arc<LocatorError>),
    /// What says where the parts of the commit are cannot be used.
    #[error("cannot use the placement")]
    Placement(#[from] Arc<PlacementError>),
    /// The publisher keeps the commit no longer.
    #[error(
        "commit {} is not published any more, so what of it was not fetched cannot be had; mount or upgrade to a newer one",
        .commit.short()
    )]
    Unpublished {
        /// The commit.
        commit: CommitId,
    },
    /// The published image cannot be used.
    #[error("cannot use the published image")]
    Wire(#[from] Arc<WireError>),
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
            Self::Transport(error) => error.may_pass() || is_out_of_reach(error),
            Self::GivenUp | Self::Moved { .. } | Self::NoRoom(_) => true,
            Self::TooLate
            | Self::Corrupt { .. }
            | Self::Locator(_)
            | Self::Placement(_)
            | Self::Unpublished { .. }
            | Self::Wire(_)
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
            Self::Transport(error) => match &**error {
                TransportError::Missing { .. }
                | TransportError::Denied { .. }
                | TransportError::Short { .. }
                | TransportError::TooLarge { .. } => true,
                TransportError::Failed { source: Reason::Status { status, .. }, .. } => status.is_client_error(),
                TransportError::Failed { source: Reason::WrongRange { .. }, .. } => true,
                _ => false,
            },
            Self::Corrupt { .. } | Self::Locator(_) | Self::NoPlace { .. } => true,
            Self::TooLate
            | Self::GivenUp
            | Self::Moved { .. }
            | Self::Placement(_)
            | Self::Unpublished { .. }
            | Self::Wire(_)
            | Self::Image(_)
            | Self::NoRoom(_)
            | Self::NoRemote => false,
        }
    }

    /// When the other side wants to be asked again, if it says so.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Transport(error) => error.retry_after(),
            _ => None,
        }
    }
}

/// Whether a directory is away, as one on a share that is not mounted.
fn is_out_of_reach(error: &TransportError) -> bool {
    matches!(error, TransportError::Gone { .. } | TransportError::Failed { source: Reason::System(_), .. })
}

impl From<TransportError> for FetchError {
    fn from(error: TransportError) -> Self {
        Self::Transport(Arc::new(error))
    }
}
