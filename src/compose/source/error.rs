//! The errors of importing a directory of this machine.
//!
//! *Used by* `directory` and `walk`.

use std::io;
use std::path::PathBuf;

use crate::image::TreeError;
use crate::model::{NameError, XattrError};
use crate::store::WriteError;

/// Why a directory could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// A system call failed.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// The action that failed, as a verb for the message.
        action: &'static str,
        /// The path it failed on.
        path: PathBuf,
        /// The error of the operating system.
        source: io::Error,
    },
    /// A file changed during every attempt to read it.
    #[error("{} kept changing while it was read; stop what writes to it and commit again", .0.display())]
    Changing(PathBuf),
    /// A file could not be stored.
    #[error("cannot store {}", .path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: WriteError,
    },
    /// A path is longer than programs can use.
    #[error("{} is longer than a path can be", .0.display())]
    Long(PathBuf),
    /// A name is not allowed in a tree.
    #[error("bad name in {}", .path.display())]
    Name {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: NameError,
    },
    /// Extended attributes are not allowed in a tree.
    #[error("bad extended attributes of {}", .path.display())]
    Xattrs {
        /// The entry.
        path: PathBuf,
        /// The cause.
        source: XattrError,
    },
    /// An entry has an unknown file type.
    #[error("{} is of an unknown kind (mode {mode:o})", .path.display())]
    Kind {
        /// The entry.
        path: PathBuf,
        /// Its mode.
        mode: u16,
    },
    /// The tree refused the entry.
    #[error("cannot add {}", .path.display())]
    Tree {
        /// The entry.
        path: PathBuf,
        /// The cause.
        source: TreeError,
    },
}
