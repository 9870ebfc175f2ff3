//! Records when objects are read, for the eviction of those that were not read for the longest time.
//!
//! *Used by* `object_cache` and `evictor`.

use std::time::SystemTime;

use crate::cache::objects::change::{ContentChange, ContentWriter, log_failure};
use crate::model::ObjectId;
use crate::store::Recency;

/// The record of reads of one repository.
#[derive(Debug, Default)]
pub(in crate::cache) struct RecencyTracker(Recency);

impl RecencyTracker {
    /// Records a read of an object now.
    pub(crate) fn note(&self, id: ObjectId, writer: &dyn ContentWriter) {
        if self.0.record(id, SystemTime::now()) {
            self.write(writer);
        }
    }

    /// Writes the recorded times to the repository.
    pub(crate) fn write(&self, writer: &dyn ContentWriter) {
        let uses = self.0.take();
        if !uses.is_empty() {
            log_failure("the times of last use are not recorded", writer.apply(ContentChange::RecordUses(uses)));
        }
    }
}
