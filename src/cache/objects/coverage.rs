//! Measures how much of a commit is stored locally.
//!
//! A measurement takes some tens of milliseconds for a whole system. Its result is not reused: other processes add and remove
//! contents.
//!
//! *Used by* `tree`.

use std::collections::HashSet;

use crate::cache::objects::object_cache::ObjectCache;
use crate::model::{LARGE_OBJECT, ObjectId};

/// How much of the contents of one commit is stored locally.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::cache) struct LocalContents {
    /// Number of objects that are stored completely.
    pub(crate) objects: u64,
    /// Bytes of these objects.
    pub(crate) bytes: u64,
    /// Bytes that are stored of incomplete large objects.
    pub(crate) partial_bytes: u64,
}

/// Returns how much is stored of all objects; `None` while not all of their ids are known.
pub(in crate::cache) fn measure(cache: &ObjectCache) -> Option<LocalContents> {
    let image = cache.image.image();
    let sizes = image.object_sizes().ok()?;
    cache.store.reload_packs_if_changed();
    let (whole, partial) = (cache.store.objects_with_files(), cache.store.partial_sizes(cache.remote.commit()));
    let mut local = LocalContents::default();
    for (index, size) in (0_u32..).zip(sizes) {
        let id = image.object_by_index(index).ok()?;
        if is_stored(cache, id, &whole) {
            local.objects += 1;
            local.bytes += size;
        } else if size > LARGE_OBJECT {
            local.partial_bytes += partial.get(&id).copied().unwrap_or(0).min(size);
        }
    }
    Some(local)
}

/// Returns whether an object is stored. What is only in memory does not count: it may be dropped.
fn is_stored(cache: &ObjectCache, id: ObjectId, whole: &HashSet<ObjectId>) -> bool {
    whole.contains(&id) || cache.store.is_packed(id)
}
