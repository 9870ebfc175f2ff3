//! Marks commits as lazy: the record is in the repository, and the image and the objects are fetched as they are read.
//!
//! *Not here*: fetching (`cache`). There is no list of absent objects; a look-up finds out whether an object is present.
//!
//! *Invariants*: the marker is written before the commit, and removed after everything that the commit needs was flushed. So a
//! commit without a marker is complete.
//!
//! *Used by* `cache` and `remote`, which set and remove the marker, and by every layer that must know whether a commit is
//! complete.

use std::fs;
use std::io;

use super::open::Store;
use super::promote::Promotion;
use super::source::ReadError;
use super::write::{StoreWriter, WriteError, create_directory};
use crate::disk;
use crate::model::CommitId;

/// Whether a lazy commit became an ordinary one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum CommitCompleteness {
    /// The commit is an ordinary one now.
    Complete,
    /// Something is not in the repository: it was evicted, or could not be written.
    Incomplete,
}

impl Store {
    /// Returns whether there is a lazy commit.
    pub(super) fn has_lazy_commits(&self) -> bool {
        fs::read_dir(self.layout().lazy()).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Returns whether the commit is lazy, so that parts of it may be absent.
    pub(crate) fn is_lazy(&self, id: CommitId) -> bool {
        self.layout().lazy_commit(id).exists()
    }
}

impl StoreWriter {
    /// Marks the commit as lazy, durably. Its `placement` says where its parts are. Must be called before the commit is added.
    pub(crate) fn mark_lazy(&self, id: CommitId, placement: &[u8]) -> Result<(), WriteError> {
        let layout = self.store().layout();
        let (directory, path) = (layout.lazy(), layout.lazy_commit(id));
        if fs::read(&path).is_ok_and(|known| known == placement) {
            return Ok(());
        }
        create_directory(&directory)
            .and_then(|()| disk::replace(&path, placement))
            .map_err(|source| WriteError::Write { action: "write", path, source })
    }

    /// Makes a lazy commit an ordinary one if everything of it is in the repository: its partial image becomes an ordinary one,
    /// every object is looked up, and last the marker is removed. Durable on return.
    pub(crate) fn complete(&self, commit: CommitId) -> Result<CommitCompleteness, WriteError> {
        let store = self.store();
        let failed = |error: ReadError| WriteError::Read(io::Error::other(error));
        let id = store.commit(commit).map_err(failed)?.image;
        if self.promote_partial_image(commit, id)? == Promotion::Incomplete {
            return Ok(CommitCompleteness::Incomplete);
        }
        let image = match store.image(id) {
            Err(ReadError::MissingImage { .. }) => return Ok(CommitCompleteness::Incomplete),
            image => image.map_err(failed)?,
        };
        let is_missing = |index| image.object_by_index(index).map_or(true, |id| !store.has_object(id));
        if (0..image.object_count()).any(is_missing) {
            return Ok(CommitCompleteness::Incomplete);
        }
        self.mark_complete(commit)?;
        store.remove_partial(commit);
        Ok(CommitCompleteness::Complete)
    }

    /// Removes the marker of [`Self::mark_lazy`], durably. The image and the objects of the commit must have been flushed.
    pub(crate) fn mark_complete(&self, id: CommitId) -> Result<(), WriteError> {
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
