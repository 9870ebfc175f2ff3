//! Turns a lazy commit into an ordinary one when everything of it is stored.
//!
//! Buffered contents are written first. What is asked here is only whether the change is worth asking for; the repository looks
//! itself at everything that the commit needs.
//!
//! *Used by* `readahead`.

use crate::cache::objects::change::{ChangeError, ChangeOutcome, ContentChange};
use crate::cache::objects::object_cache::ObjectCache;
use crate::store::CommitCompleteness;

/// Makes the commit an ordinary one if everything of it is in the repository.
pub(in crate::cache) fn promote_if_complete(cache: &ObjectCache) -> Result<CommitCompleteness, ChangeError> {
    cache.write_back.flush();
    let image = cache.image.image();
    let is_missing = |index| image.object_by_index(index).map_or(true, |id| !cache.store.has_object(id));
    if cache.image.missing_blocks() > 0 || (0..image.object_count()).any(is_missing) {
        return Ok(CommitCompleteness::Incomplete);
    }
    match cache.write_back.writer().apply(ContentChange::CompleteCommit)? {
        ChangeOutcome::Completeness(completeness) => Ok(completeness),
        _ => Ok(CommitCompleteness::Incomplete),
    }
}
