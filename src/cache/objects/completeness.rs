//! Turns a lazy commit into an ordinary one when everything of it is stored.
//!
//! Buffered contents are written first. Then, under the writer's lock, every object is looked up in the repository, the
//! partial image becomes an ordinary one, and last the marker is removed that says that contents may be missing.
//!
//! *Used by* `readahead`.

use std::time::{Duration, Instant};

use crate::cache::objects::object_cache::ObjectCache;
use crate::disk::{LockError, Wait};
use crate::model::CommitId;
use crate::store::{Promotion, StoreWriter, WriteError};

/// How long one attempt waits for the repository while another process writes to it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether a commit became an ordinary one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CommitCompleteness {
    /// The commit is an ordinary one now.
    Complete,
    /// Something is not in the repository: it was evicted, or could not be written.
    Incomplete,
}

/// Makes the commit an ordinary one if everything of it is in the repository.
pub(in crate::cache) fn promote_if_complete(
    cache: &ObjectCache,
    commit: CommitId,
) -> Result<CommitCompleteness, WriteError> {
    cache.write_back.flush();
    let writer = lock_writer(cache)?;
    let image = cache.image.image();
    let is_missing = |index| image.object_by_index(index).map_or(true, |id| !cache.store.has_object(id));
    if cache.image.missing_blocks() > 0 || (0..image.object_count()).any(is_missing) {
        return Ok(CommitCompleteness::Incomplete);
    }
    if writer.promote_partial_image(image.id())? == Promotion::Incomplete {
        return Ok(CommitCompleteness::Incomplete);
    }
    writer.mark_complete(commit)?;
    for path in [cache.store.layout().image_head(image.id()), cache.store.layout().image_locator(image.id())] {
        // Not needed any more; if this fails, the next garbage collection removes the file.
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!("{}: {error}", path.display());
        }
    }
    Ok(CommitCompleteness::Complete)
}

fn lock_writer(cache: &ObjectCache) -> Result<StoreWriter, WriteError> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    loop {
        match cache.store.writer(Wait::No) {
            Err(WriteError::Lock(LockError::Held { .. })) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            done => return done,
        }
    }
}
