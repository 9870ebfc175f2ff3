//! Object files kept open for the next read, the least recently used one closed first.

use std::fs::File;
use std::num::NonZeroUsize;
use std::sync::Arc;

use lru::LruCache;
use parking_lot::Mutex;

use super::pack::is_removed;
use crate::model::ObjectId;

/// How many files are kept open. A process has at least 1,024 descriptors.
const CAPACITY: NonZeroUsize = NonZeroUsize::new(256).expect("not zero");

/// The open files, shared between threads. The lock is never held during I/O: files leave it by reference count.
pub(super) struct OpenFiles(Mutex<LruCache<ObjectId, Arc<File>>>);

impl OpenFiles {
    pub(super) fn new() -> Self {
        Self(Mutex::new(LruCache::new(CAPACITY)))
    }

    pub(super) fn get(&self, id: ObjectId) -> Option<Arc<File>> {
        self.0.lock().get(&id).cloned()
    }

    pub(super) fn put(&self, id: ObjectId, file: Arc<File>) {
        self.0.lock().put(id, file);
    }

    /// Closes those that were removed by another process, so that their room becomes free.
    pub(super) fn close_removed(&self) {
        let mut files = self.0.lock();
        let removed: Vec<ObjectId> = files.iter().filter(|(_, file)| is_removed(file)).map(|(id, _)| *id).collect();
        removed.iter().for_each(|id| _ = files.pop(id));
    }

    /// Closes half of them, for a process that may open no more; returns whether there was any.
    pub(super) fn make_room(&self) -> bool {
        let mut files = self.0.lock();
        let half = files.len().div_ceil(2);
        (0..half).for_each(|_| _ = files.pop_lru());
        half > 0
    }

    pub(super) fn forget(&self, id: ObjectId) {
        self.0.lock().pop(&id);
    }

    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }
}
