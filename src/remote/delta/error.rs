//! Why a delta cannot be made or used.

use std::io;

use crate::image::ImageError;
use crate::store::ReadError;

/// What is wrong with a delta, or kept one from being made.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// The bytes do not start like a delta.
    #[error("not a delta")]
    Magic,
    /// Written by a newer Sapwood.
    #[error("delta version {0} is newer than this program; upgrade sapwood")]
    TooNew(u32),
    /// Lengths that cannot be, or fewer bytes than they need.
    #[error("the delta has a bad length")]
    Length,
    /// A row that names no object, or pieces that do not make one.
    #[error("row {0} of the delta's index makes no object")]
    Row(u32),
    /// Not what the compressor made, or no room for it.
    #[error("the delta cannot be packed or unpacked")]
    Io(#[from] io::Error),
    /// An object could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// An image is damaged.
    #[error(transparent)]
    Image(#[from] ImageError),
}
