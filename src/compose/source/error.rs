//! Why a directory of this machine did not become a tree.

use std::io;
use std::path::PathBuf;

use crate::image::TreeError;
use crate::model::{NameError, XattrError};
use crate::store::WriteError;

/// Why a directory could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The system refused.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file did not keep still.
    #[error("{} kept changing while it was read; stop what writes to it and commit again", .0.display())]
    Changing(PathBuf),
    /// A file could not be stored.
    #[error("cannot store {}", .path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: WriteError,
    },
    /// A name no tree can have.
    #[error("bad name in {}", .path.display())]
    Name {
        /// The directory.
        path: PathBuf,
        /// What is wrong with the name.
        source: NameError,
    },
    /// Extended attributes no tree can have.
    #[error("bad extended attributes of {}", .path.display())]
    Xattrs {
        /// The entry.
        path: PathBuf,
        /// What is wrong with them.
        source: XattrError,
    },
    /// An inode of a kind that is not known.
    #[error("{} is of an unknown kind (mode {mode:o})", .path.display())]
    Kind {
        /// The entry.
        path: PathBuf,
        /// Its mode.
        mode: u16,
    },
    /// The tree took no more entries.
    #[error("cannot add {}", .path.display())]
    Tree {
        /// The entry.
        path: PathBuf,
        /// Why not.
        source: TreeError,
    },
}
