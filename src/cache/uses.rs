//! What was used, noted by whoever reads; whoever makes room lets go of the rest.

use std::time::SystemTime;

use crate::model::ObjectId;
use crate::store::{Recency, Store};

/// Remembers what was used, where that matters.
#[derive(Debug)]
pub(super) struct Uses(Recency);

impl Uses {
    /// Of the objects of `store`.
    pub fn new(store: &Store) -> Self {
        Self(Recency::of(store))
    }

    /// Notes a use.
    pub fn note(&self, id: ObjectId) {
        if self.0.note(id, SystemTime::now()) {
            self.0.write();
        }
    }

    /// Writes down what was noted.
    pub fn write(&self) {
        self.0.write();
    }
}
