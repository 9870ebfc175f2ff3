//! Why objects did not arrive.

use crate::image::ImageError;
use crate::remote::transport::TransportError;
use crate::store::{ReadError, ReceiveError, WriteError};

/// What went wrong while fetching. Everything verified before it is kept.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No answer, or not what was asked for.
    #[error("{url}")]
    Transport {
        /// The remote.
        url: Box<str>,
        /// What went wrong.
        source: TransportError,
    },
    /// What a patch is made for cannot be read here.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The repository could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The image does not say what a block of a large object is.
    #[error("the image is damaged")]
    Image(#[from] ImageError),
}

/// Why a piece, or what holds it, was not kept.
#[derive(Debug)]
pub(super) enum KeepError {
    /// It is not what it should be: the other side may have sent something wrong.
    Wrong(Box<dyn std::error::Error + Send + Sync>),
    /// Something failed on this side.
    Own(FetchError),
}

impl From<ReceiveError> for KeepError {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::Write(error) => Self::Own(error.into()),
            wrong => Self::Wrong(wrong.into()),
        }
    }
}

impl From<FetchError> for KeepError {
    fn from(error: FetchError) -> Self {
        Self::Own(error)
    }
}
