//! Errors of fetching objects.

use crate::image::ImageError;
use crate::remote::transport::TransportError;
use crate::store::{ReadError, ReceiveError, WriteError};

/// The reason why a fetch failed. Everything that was verified before the failure is kept.
#[derive(Debug, thiserror::Error)]
pub enum ObjectFetchError {
    /// The remote did not answer, or sent something else.
    #[error("{url}")]
    Transport {
        /// The remote.
        url: Box<str>,
        /// The cause.
        source: TransportError,
    },
    /// The base of a delta's piece cannot be read from the repository.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The repository could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The image does not have the digests of a large object's blocks.
    #[error("the image is damaged")]
    Image(#[from] ImageError),
}

/// The reason why a piece, or the frame or batch that holds it, was not stored.
#[derive(Debug)]
pub(super) enum StorePieceError {
    /// The content is wrong: the remote may have sent wrong bytes.
    Wrong(Box<dyn std::error::Error + Send + Sync>),
    /// Something failed on this machine.
    Local(ObjectFetchError),
}

impl From<ReceiveError> for StorePieceError {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Write(error) => Self::Local(error.into()),
            wrong => Self::Wrong(wrong.into()),
        }
    }
}

impl From<ObjectFetchError> for StorePieceError {
    fn from(error: ObjectFetchError) -> Self {
        Self::Local(error)
    }
}
