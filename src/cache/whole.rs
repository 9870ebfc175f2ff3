//! A commit of which everything came is a commit like any other: this makes it one.
//!
//! What waits in memory is written; then, under the writer's lock, every object is looked for in the repository, the image
//! becomes a plain one, and only then the marker goes that says that something may be missing.

use std::time::{Duration, Instant};

use super::frames::Frames;
use crate::disk::{LockError, Wait};
use crate::model::CommitId;
use crate::store::{Adoption, StoreWriter, WriteError};

/// How long a repository that another process writes is waited for at a time.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// What became of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wholeness {
    /// It is a plain one now.
    Whole,
    /// Something is not in the repository: it is evicted, or it could not be kept.
    Incomplete,
}

/// Makes the commit a plain one if everything of it is in the repository.
pub(super) fn make_whole(frames: &Frames, commit: CommitId) -> Result<Wholeness, WriteError> {
    frames.shelf.flush();
    let writer = lock(frames)?;
    let image = frames.image.image();
    let is_missing = |index| image.object_by_index(index).map_or(true, |id| !frames.store.has_object(id));
    if frames.image.missing() > 0 || (0..image.object_count()).any(is_missing) {
        return Ok(Wholeness::Incomplete);
    }
    if writer.adopt_partial_image(image.id())? == Adoption::Incomplete {
        return Ok(Wholeness::Incomplete);
    }
    writer.mark_whole(commit)?;
    for path in [frames.store.layout().image_head(image.id()), frames.store.layout().image_locator(image.id())] {
        // Nobody needs it any more, and the next collection would take it.
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!("{}: {error}", path.display());
        }
    }
    Ok(Wholeness::Whole)
}

fn lock(frames: &Frames) -> Result<StoreWriter, WriteError> {
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match frames.store.writer(Wait::No) {
            Err(WriteError::Lock(LockError::Held { .. })) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(50));
            }
            done => return done,
        }
    }
}
