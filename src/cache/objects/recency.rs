//! Records when objects are read, for the eviction of those that were not read for the longest time.
//!
//! *Used by* `object_cache` and `evictor`.

use std::time::SystemTime;

use crate::model::ObjectId;
use crate::store::{Recency, Store};

/// The record of reads of one repository.
#[derive(Debug)]
pub(in crate::cache) struct RecencyTracker(Recency);

impl RecencyTracker {
    /// Creates the record for the objects of `store`.
    pub(crate) fn new(store: &Store) -> Self {
        Self(Recency::of(store))
    }

    /// Records a read of an object now.
    pub(crate) fn note(&self, id: ObjectId) {
        if self.0.record(id, SystemTime::now()) {
            self.0.write();
        }
    }

    /// Writes the recorded times to the repository.
    pub(crate) fn write(&self) {
        self.0.write();
    }
}
