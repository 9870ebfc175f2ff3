//! Commits that are here lazily: the record is, and the image and the objects come when something reads them.
//!
//! A marker beside the commit says so. It is written before the commit and removed after all that the commit needs was
//! settled, so a commit without one is whole. What is absent is known by looking, never by a list.

use std::fs;
use std::io;

use super::open::Store;
use super::write::{StoreWriter, WriteError, create_directory};
use crate::disk;
use crate::model::CommitId;

impl Store {
    /// Whether parts of any commit may not be here.
    pub(super) fn has_lazy_commits(&self) -> bool {
        fs::read_dir(self.layout().lazy()).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Whether parts of the commit may not be here.
    #[must_use]
    pub fn is_lazy(&self, id: CommitId) -> bool {
        self.layout().lazy_commit(id).exists()
    }
}

impl StoreWriter {
    /// Says durably that parts of the commit may not be here, and by its `placement` where they are. Comes before the commit itself.
    ///
    /// # Errors
    /// [`WriteError::Write`].
    pub fn mark_lazy(&self, id: CommitId, placement: &[u8]) -> Result<(), WriteError> {
        let layout = self.store().layout();
        let (directory, path) = (layout.lazy(), layout.lazy_commit(id));
        if fs::read(&path).is_ok_and(|known| known == placement) {
            return Ok(());
        }
        create_directory(&directory)
            .and_then(|()| disk::replace(&path, placement))
            .map_err(|source| WriteError::Write { action: "write", path, source })
    }

    /// Takes back [`Self::mark_lazy`], durably: image and objects of the commit must have been settled.
    ///
    /// # Errors
    /// [`WriteError::Write`].
    pub fn mark_whole(&self, id: CommitId) -> Result<(), WriteError> {
        let layout = self.store().layout();
        let (directory, path) = (layout.lazy(), layout.lazy_commit(id));
        let removed = match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => Err(error),
            Ok(()) => disk::sync_directory(&directory),
        };
        removed.map_err(|source| WriteError::Write { action: "remove", path, source })
    }
}
