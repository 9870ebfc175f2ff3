//! Why objects did not arrive.

use crate::image::ImageError;
use crate::model::{DeltaId, PackId};
use crate::remote::format::FrameError;
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
    /// A frame cannot be decoded.
    #[error("pack {pack} of {url} is damaged at byte {offset}")]
    Frame {
        /// The remote.
        url: Box<str>,
        /// The pack.
        pack: PackId,
        /// Where the frame begins.
        offset: u32,
        /// What is wrong.
        source: FrameError,
    },
    /// A frame holds something else than it should.
    #[error("pack {pack} of {url} holds something else at byte {offset}; nothing of it was kept")]
    Object {
        /// The remote.
        url: Box<str>,
        /// The pack.
        pack: PackId,
        /// Where the frame begins.
        offset: u32,
        /// What it holds.
        source: Box<ReceiveError>,
    },
    /// A batch of a delta cannot be unpacked, or its pieces cannot be made.
    #[error("delta {delta} of {url} cannot be used")]
    Patch {
        /// The remote.
        url: Box<str>,
        /// The delta.
        delta: DeltaId,
        /// What is wrong.
        source: std::io::Error,
    },
    /// A patch makes something else.
    #[error("delta {delta} of {url} makes something else than it should; nothing of it was kept")]
    Patched {
        /// The remote.
        url: Box<str>,
        /// The delta.
        delta: DeltaId,
        /// What it makes.
        source: Box<ReceiveError>,
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
