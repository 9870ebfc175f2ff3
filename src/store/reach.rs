//! What a set of commits leads to.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::open::Store;
use super::source::ReadError;
use crate::image::ImageError;
use crate::model::{Commit, CommitId, ImageId, ObjectId};

/// Everything that some commits need.
#[derive(Debug, Default)]
pub struct Reachable {
    /// The commits and their ancestors, as far as those are here.
    pub commits: BTreeMap<CommitId, Commit>,
    /// Their images.
    pub images: BTreeSet<ImageId>,
    /// The objects of those.
    pub objects: HashSet<ObjectId>,
}

/// Follows `tips` to all they need. History may end where a parent is not here; anything else that is missing or damaged
/// is an error, so that nobody deletes by an incomplete list. `depth` bounds how many ancestors of each tip count.
///
/// # Errors
/// [`ReadError`] for the first thing that cannot be read.
pub fn reachable(
    store: &Store,
    tips: impl IntoIterator<Item = CommitId>,
    depth: Option<u64>,
) -> Result<Reachable, ReadError> {
    let mut found = Reachable::default();
    for tip in tips {
        follow_history(store, tip, depth, &mut found.commits)?;
    }
    found.images = found.commits.values().map(|commit| commit.image).collect();
    for &id in &found.images {
        let damaged = |source: ImageError| ReadError::Image { id, source };
        for object in store.image(id)?.objects().map_err(damaged)? {
            found.objects.insert(object);
        }
    }
    Ok(found)
}

/// Adds `tip` and up to `depth` of its ancestors. With a depth, a commit seen from another tip is followed again, since
/// that one may have reached it with fewer steps left.
fn follow_history(
    store: &Store,
    tip: CommitId,
    depth: Option<u64>,
    commits: &mut BTreeMap<CommitId, Commit>,
) -> Result<(), ReadError> {
    let mut next = Some(tip);
    let mut left = depth;
    let mut seen = HashSet::new();
    while let Some(id) = next {
        let known = commits.contains_key(&id);
        if !seen.insert(id) || (known && depth.is_none()) {
            break;
        }
        let commit = match store.commit(id) {
            Err(ReadError::MissingCommit { .. }) if id != tip => break,
            other => other?,
        };
        next = commit.parent.filter(|_| left != Some(0));
        left = left.map(|left| left.saturating_sub(1));
        commits.insert(id, commit);
    }
    Ok(())
}
