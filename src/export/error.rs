//! Why something of a commit cannot be written out: what an export to a directory and one to an archive have in common.
//!
//! *Used by* the other files of this folder.

use crate::image::ImageError;
use crate::store::ReadError;

/// Why an entry of the commit cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EntryError {
    /// The content cannot be read.
    #[error("cannot read the content of '{path}'")]
    Content {
        /// The path in the image.
        path: String,
        /// The cause.
        source: ReadError,
    },
    /// The object is shorter than the image says.
    #[error("the object of '{path}' has fewer bytes than the file")]
    ShortObject {
        /// The path in the image.
        path: String,
    },
    /// The image is damaged.
    #[error("the image is damaged at '{path}'")]
    Image {
        /// The path in the image.
        path: String,
        /// The cause.
        source: ImageError,
    },
}
