//! Where the content of objects comes from, as its readers see it.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use crate::model::ObjectId;

/// Why an object cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not here.
    #[error("no such object")]
    Missing,
}

/// Contents by id.
pub trait ObjectSource: Send + Sync {
    /// Fills `buffer` from `offset` on; returns fewer bytes only at the end.
    ///
    /// # Errors
    /// [`ReadError`].
    fn read_at(&self, id: ObjectId, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError>;

    /// The plain file that holds exactly this content, if there is one.
    ///
    /// # Errors
    /// [`ReadError`].
    fn backing_file(&self, id: ObjectId) -> Result<Option<Arc<File>>, ReadError>;
}

/// Objects in memory, for tests.
#[derive(Default)]
pub struct MemoryObjects(HashMap<ObjectId, Vec<u8>>);

impl MemoryObjects {
    /// Adds a content.
    pub fn insert(&mut self, bytes: Vec<u8>) -> ObjectId {
        let id = ObjectId::of(&bytes);
        self.0.insert(id, bytes);
        id
    }
}

impl ObjectSource for MemoryObjects {
    fn read_at(&self, id: ObjectId, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let bytes = self.0.get(&id).ok_or(ReadError::Missing)?;
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn backing_file(&self, _id: ObjectId) -> Result<Option<Arc<File>>, ReadError> {
        Ok(None)
    }
}
