//! Errors of making and applying deltas.

use std::io;

use crate::image::ImageError;
use crate::store::ReadError;

/// The reason why a delta cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// The bytes do not start like a delta.
    #[error("not a delta")]
    Magic,
    /// Written by a newer Sapwood.
    #[error("delta version {0} is newer than this program; upgrade sapwood")]
    TooNew(u32),
    /// A length is impossible, or there are fewer bytes than the lengths require.
    #[error("the delta has a bad length")]
    Length,
    /// A row of the index names no object, or its pieces do not make one.
    #[error("row {0} of the delta's index makes no object")]
    Row(u32),
    /// The compressor or a scratch file failed, or the bytes are no zstd frame.
    #[error("the delta cannot be packed or unpacked")]
    Io(#[from] io::Error),
    /// An object could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An image is damaged.
    #[error(transparent)]
    Image(#[from] ImageError),
}
