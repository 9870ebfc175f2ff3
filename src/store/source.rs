//! Where the bytes of objects come from, for whoever does not care.

use std::collections::HashMap;
use std::fs::File;
use std::sync::Arc;

use super::read::ReadError;
use crate::model::ObjectId;

/// Something that has the contents of objects: the local repository, or memory in tests.
pub trait ObjectSource: Send + Sync {
    /// Reads into `buffer` from `offset` of an object; returns how many bytes, short only at the object's end.
    ///
    /// # Errors
    /// [`ReadError`], with the object.
    fn read_at(&self, id: ObjectId, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError>;

    /// The file whose whole content is the object, for the kernel to read by itself; `None` when the object has no
    /// file of its own.
    ///
    /// # Errors
    /// [`ReadError`], with the object.
    fn backing_file(&self, id: ObjectId) -> Result<Option<Arc<File>>, ReadError>;
}

/// Objects held in memory.
#[derive(Debug, Default)]
pub struct MemoryObjects(HashMap<ObjectId, Vec<u8>>);

impl MemoryObjects {
    /// Adds an object and returns its id.
    pub fn insert(&mut self, bytes: Vec<u8>) -> ObjectId {
        let id = ObjectId::of(&bytes);
        self.0.insert(id, bytes);
        id
    }
}

impl ObjectSource for MemoryObjects {
    fn read_at(&self, id: ObjectId, offset: u64, buffer: &mut [u8]) -> Result<usize, ReadError> {
        let bytes = self.0.get(&id).ok_or(ReadError::MissingObject { id })?;
        let rest = usize::try_from(offset).ok().and_then(|offset| bytes.get(offset..)).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn backing_file(&self, _: ObjectId) -> Result<Option<Arc<File>>, ReadError> {
        Ok(None)
    }
}
