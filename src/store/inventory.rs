//! What is here, found by looking once instead of once for each object.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;

use super::gc::object_files;
use super::open::Store;
use crate::model::ObjectId;

/// Bytes in a block of `st_blocks`.
pub(super) const STAT_BLOCK: u64 = 512;

impl Store {
    /// Whether the object is in a pack, as far as the packs are known by now.
    #[must_use]
    pub fn is_packed(&self, id: ObjectId) -> bool {
        self.is_in_pack(id).unwrap_or(false)
    }

    /// The objects that have files of their own. Those that cannot be listed count as not being here.
    #[must_use]
    pub fn objects_with_files(&self) -> HashSet<ObjectId> {
        match object_files(self.layout()) {
            Ok(files) => files.into_iter().map(|(id, _)| id).collect(),
            Err(error) => {
                tracing::debug!("{error}");
                HashSet::new()
            }
        }
    }

    /// How many bytes are here of the objects that are here in part. Images, which are kept in the same place, are counted
    /// under names that no object has.
    #[must_use]
    pub fn partial_sizes(&self) -> HashMap<ObjectId, u64> {
        let Ok(entries) = fs::read_dir(self.layout().partial()) else { return HashMap::new() };
        let size = |entry: std::io::Result<fs::DirEntry>| {
            let entry = entry.ok()?;
            let id = entry.file_name().to_str()?.parse().ok()?;
            Some((id, entry.metadata().ok()?.blocks() * STAT_BLOCK))
        };
        entries.filter_map(size).collect()
    }
}
