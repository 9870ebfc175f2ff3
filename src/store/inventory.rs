//! Lists which objects are in the repository, with one listing instead of one look-up for each object.
//!
//! *Used by* `cache`, which fetches what is missing.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::gc::{GcError, object_files};
use super::open::Store;
use crate::model::{CommitId, ObjectId};

/// Bytes in a block of `st_blocks`.
pub(super) const STAT_BLOCK: u64 = 512;

impl Store {
    /// Returns whether the object is in a pack of the last listing; `false` if that cannot be determined.
    pub(crate) fn is_packed(&self, id: ObjectId) -> bool {
        self.is_in_pack(id).unwrap_or(false)
    }

    /// Returns the objects that have files of their own. Objects that cannot be listed count as absent.
    pub(crate) fn objects_with_files(&self) -> HashSet<ObjectId> {
        match object_files(self.layout()) {
            Ok(files) => files.into_iter().map(|(id, _)| id).collect(),
            Err(error) => {
                tracing::debug!("{error}");
                HashSet::new()
            }
        }
    }

    /// Returns every object that is stored, with its size.
    pub(super) fn stored_objects(&self) -> Result<Vec<(ObjectId, u64)>, GcError> {
        let failed = |source| GcError::Io { action: "read", path: self.layout().packs(), source };
        let mut objects = object_files(self.layout())?;
        for pack in self.packs().all(&self.inner.files).map_err(failed)? {
            let rows = (0..pack.len()).map(|row| pack.row(row));
            objects.extend(rows.filter_map(|(id, slot)| Some((id, u64::from(slot?.length)))));
        }
        Ok(objects)
    }

    /// Returns the number of stored bytes of each large object that is being fetched in parts for `commit`. The partial image,
    /// which is in the same directory, is included under an id that no object has.
    pub(crate) fn partial_sizes(&self, commit: CommitId) -> HashMap<ObjectId, u64> {
        let Ok(entries) = fs::read_dir(self.layout().partial_of(commit).directory()) else { return HashMap::new() };
        let size = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry.ok()?;
            let id = entry.file_name().to_str()?.parse().ok()?;
            Some((id, entry.metadata().ok()?.blocks() * STAT_BLOCK))
        };
        entries.filter_map(size).collect()
    }
}
