//! Something on the disk that an operation could not remove and does not need: it is reported, and stops nothing.
//!
//! *Not here*: removing (`removal`, `boot_menu`), and reporting (`cli`).
//!
//! *Used by* `removal`, `boot_menu`, `status` and `cli`.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::disk;

/// A file or directory that is not needed any more and could not be removed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Leftover {
    pub(crate) path: PathBuf,
    /// Why it could not be removed.
    pub(crate) reason: String,
}

impl Leftover {
    /// Removes a directory that is not needed. Returns what is left if that fails.
    pub(crate) fn after_removing(path: &Path) -> Option<Self> {
        disk::remove_directory(path).err().map(|error| Self::new(path, &error))
    }

    pub(crate) fn new(path: &Path, error: &io::Error) -> Self {
        Self { path: path.to_owned(), reason: error.to_string() }
    }
}

impl fmt::Display for Leftover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is not needed any more and cannot be removed: {}", self.path.display(), self.reason)
    }
}
