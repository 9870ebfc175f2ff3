//! Finds everything that a set of commits needs: ancestors, images, objects.
//!
//! *Used by* `store::gc`, `store::evict` and `store::usage`.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::open::Store;
use super::source::ReadError;
use crate::image::ImageError;
use crate::model::{Commit, CommitId, ImageId, ObjectId};

/// The commits, images and objects that some commits need.
#[derive(Debug, Default)]
pub(crate) struct Reachable {
    /// The commits and their ancestors, as far as these are in the repository.
    pub(crate) commits: BTreeMap<CommitId, Commit>,
    /// The images of the commits.
    pub(crate) images: BTreeSet<ImageId>,
    /// The objects of the images, present or not.
    pub(crate) objects: HashSet<ObjectId>,
    /// The images that are not complete in the repository, since all their commits are lazy. Their objects are not in
    /// [`Self::objects`].
    pub(crate) unread_images: BTreeSet<ImageId>,
    /// Whether any of the commits is lazy, so that objects may be missing.
    pub(crate) has_lazy: bool,
}

impl Reachable {
    /// Adds everything that other commits need.
    pub(crate) fn extend(&mut self, other: Self) {
        self.commits.extend(other.commits);
        self.images.extend(other.images);
        self.objects.extend(other.objects);
        // An image that is unread in one set is not read in the other either, since it is the same file.
        self.unread_images.extend(other.unread_images);
        self.has_lazy |= other.has_lazy;
    }
}

/// Finds everything that `tips` need. The history ends at a commit whose parent is not in the repository, and the image of a
/// lazy commit may be absent; anything else that is missing or damaged is an error, so that nothing is removed on the basis of
/// an incomplete list. `depth` bounds how many ancestors of each tip are included.
///
/// # Errors
/// [`ReadError`] for the first thing that cannot be read.
pub(crate) fn reachable(
    store: &Store,
    tips: impl IntoIterator<Item = CommitId>,
    depth: Option<u64>,
) -> Result<Reachable, ReadError> {
    let mut found = Reachable::default();
    for tip in tips {
        follow_history(store, tip, depth, &mut found.commits)?;
    }
    found.images = found.commits.values().map(|commit| commit.image).collect();
    let (lazy, complete): (Vec<_>, Vec<_>) = found.commits.iter().partition(|(id, _)| store.is_lazy(**id));
    let required_images: BTreeSet<ImageId> = complete.into_iter().map(|(_, commit)| commit.image).collect();
    found.has_lazy = !lazy.is_empty();
    for &id in &found.images {
        let damaged = |source: ImageError| ReadError::Image { id, source };
        let image = match store.image(id) {
            Err(ReadError::MissingImage { .. }) if !required_images.contains(&id) => {
                found.unread_images.insert(id);
                continue;
            }
            other => other?,
        };
        for object in image.objects().map_err(damaged)? {
            found.objects.insert(object);
        }
    }
    Ok(found)
}

/// Returns the objects of all complete commits among `tips` and their ancestors. These objects must not be evicted, since they
/// cannot be fetched again.
///
/// # Errors
/// [`ReadError`] for the first thing that cannot be read.
pub(super) fn needed_by_complete(
    store: &Store,
    tips: impl IntoIterator<Item = CommitId>,
) -> Result<HashSet<ObjectId>, ReadError> {
    let mut commits = BTreeMap::new();
    for tip in tips {
        follow_history(store, tip, None, &mut commits)?;
    }
    let complete = commits.iter().filter(|(id, _)| !store.is_lazy(**id));
    let images: BTreeSet<ImageId> = complete.map(|(_, commit)| commit.image).collect();
    let mut objects = HashSet::new();
    for id in images {
        objects.extend(store.image(id)?.objects().map_err(|source| ReadError::Image { id, source })?);
    }
    Ok(objects)
}

/// Adds `tip` and up to `depth` of its ancestors. With a depth, a commit that another tip has reached is followed again, since
/// fewer steps may have been left then.
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
