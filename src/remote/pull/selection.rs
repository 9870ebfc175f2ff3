//! Selects the objects of an image that are wanted and missing, and computes the disk space that they take.
//!
//! *Used by* `plan` and `apply`.

use std::collections::HashSet;

use super::PullOptions;
use super::error::PullError;
use crate::image::{Image, ImageError, ObjectUse};
use crate::model::{CommitId, FileKind, ImageId, ObjectId};
use crate::remote::format::Profile;
use crate::store::{ReadError, Store};

/// Returns the objects to fetch, in the order of the image: all missing ones, or only those below the paths and those
/// of the boot profile.
pub(super) fn select_missing(
    store: &Store,
    commit: CommitId,
    image: &Image,
    options: &PullOptions,
    profile: &HashSet<ObjectId>,
    planned: &HashSet<ObjectId>,
) -> Result<Vec<ObjectUse>, PullError> {
    if options.metadata_only {
        return Ok(Vec::new());
    }
    let damaged = |source| ReadError::Image { id: image.id(), source };
    let mut selected = if options.paths.is_empty() { None } else { Some(select_below(commit, image, options)?) };
    if let Some(selected) = &mut selected {
        selected.extend(profile);
    }
    let mut missing = Vec::new();
    for object in image.object_uses() {
        let object = object.map_err(damaged)?;
        let is_wanted = selected.as_ref().is_none_or(|selected| selected.contains(&object.id));
        if is_wanted && !planned.contains(&object.id) && !store.has_object(object.id) {
            missing.push(object);
        }
    }
    Ok(missing)
}

/// Returns the objects that a boot profile lists. Entries without an object in the image are skipped, since a profile
/// is only a hint.
pub(super) fn select_profiled(image: &Image, profile: &Profile) -> HashSet<ObjectId> {
    profile.entries.iter().filter_map(|entry| image.object_by_index(entry.object).ok()).collect()
}

/// Returns whether any object of the image is missing in the repository.
pub(super) fn is_incomplete(store: &Store, image: &Image) -> Result<bool, PullError> {
    let id = image.id();
    let mut objects = image.objects().map_err(|source| ReadError::Image { id, source })?;
    Ok(objects.any(|object| !store.has_object(object)))
}

/// Returns the objects at and below the wanted paths.
fn select_below(commit: CommitId, image: &Image, options: &PullOptions) -> Result<HashSet<ObjectId>, PullError> {
    let id: ImageId = image.id();
    let damaged = |source: ImageError| ReadError::Image { id, source };
    let mut found = HashSet::new();
    for path in &options.paths {
        let top = image.resolve(path).map_err(damaged)?;
        let top = top.ok_or_else(|| PullError::NoPath { path: path.clone(), commit })?;
        let visit = |ino, kind, found: &mut HashSet<ObjectId>| {
            if kind == FileKind::Regular {
                found.extend(image.object(ino)?);
            }
            Ok::<(), ImageError>(())
        };
        let kind = image.kind(top).map_err(damaged)?;
        if kind == FileKind::Directory {
            image.walk(top, &mut |_, ino, kind| visit(ino, kind, &mut found)).map_err(damaged)?;
        } else {
            visit(top, kind, &mut found).map_err(damaged)?;
        }
    }
    Ok(found)
}

/// Returns the bytes that objects take on the disk, as far as the image tells: holes take none.
pub(super) fn disk_bytes(image: &Image, objects: &[ObjectUse]) -> Result<u64, PullError> {
    let mut sum = 0_u64;
    for object in objects {
        let extents = if image.has_holes() {
            image.extents(object.ino).map_err(|source| ReadError::Image { id: image.id(), source })?
        } else {
            None
        };
        let data = extents.map(|extents| extents.iter().map(|extent| extent.length).sum());
        sum = sum.saturating_add(data.unwrap_or(object.size));
    }
    Ok(sum)
}
