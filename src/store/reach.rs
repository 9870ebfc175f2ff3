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
    /// The objects of those, whether they are here or not.
    pub objects: HashSet<ObjectId>,
    /// Those of the images that are not here as a whole, since all their commits are here lazily. Their objects are not
    /// among [`Self::objects`].
    pub unread_images: BTreeSet<ImageId>,
    /// Whether any of the commits is here lazily, so that objects may be missing.
    pub has_lazy: bool,
}

impl Reachable {
    /// Adds what other commits need.
    pub fn extend(&mut self, other: Self) {
        self.commits.extend(other.commits);
        self.images.extend(other.images);
        self.objects.extend(other.objects);
        // What the one could not read, the other may not have read either: it is the same file.
        self.unread_images.extend(other.unread_images);
        self.has_lazy |= other.has_lazy;
    }
}

/// Follows `tips` to all they need. History may end where a parent is not here, and the image of a lazy commit may be
/// absent; anything else that is missing or damaged is an error, so that nobody deletes by an incomplete list. `depth`
/// bounds how many ancestors of each tip count.
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
    let (lazy, whole): (Vec<_>, Vec<_>) = found.commits.iter().partition(|(id, _)| store.is_lazy(**id));
    let needed_whole: BTreeSet<ImageId> = whole.into_iter().map(|(_, commit)| commit.image).collect();
    found.has_lazy = !lazy.is_empty();
    for &id in &found.images {
        let damaged = |source: ImageError| ReadError::Image { id, source };
        let image = match store.image(id) {
            Err(ReadError::MissingImage { .. }) if !needed_whole.contains(&id) => {
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

/// The objects of all commits that `tips` and their history lead to and that are here as a whole: those that may not be
/// fetched again.
///
/// # Errors
/// [`ReadError`] for the first thing that cannot be read.
pub(super) fn needed_by_whole(
    store: &Store,
    tips: impl IntoIterator<Item = CommitId>,
) -> Result<HashSet<ObjectId>, ReadError> {
    let mut commits = BTreeMap::new();
    for tip in tips {
        follow_history(store, tip, None, &mut commits)?;
    }
    let whole = commits.iter().filter(|(id, _)| !store.is_lazy(**id));
    let images: BTreeSet<ImageId> = whole.map(|(_, commit)| commit.image).collect();
    let mut objects = HashSet::new();
    for id in images {
        objects.extend(store.image(id)?.objects().map_err(|source| ReadError::Image { id, source })?);
    }
    Ok(objects)
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
