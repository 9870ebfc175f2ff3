//! Why something did not come.

use std::sync::Arc;
use std::time::Duration;

use crate::image::ImageError;
use crate::remote::format::LocatorError;
use crate::remote::format::wire::WireError;
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
            Self::GivenUp | Self::NoRoom(_) => true,
            Self::TooLate
            | Self::Corrupt { .. }
            | Self::Locator(_)
            | Self::Wire(_)
            | Self::NoPlace { .. }
            | Self::Image(_)
            | Self::NoRemote => false,
        }
    }
}

impl FetchError {
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
